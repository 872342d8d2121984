"""The daemon's protocol on one page: every Event that can enter the core and every Effect that can leave it.

Events are in the past tense, effects imperative. A value here says what and why, never how.
`Engine.handle(event, now) -> Step(effects, findings, wake_at)` is the only door.
"""

from __future__ import annotations

from collections.abc import Mapping

from wgrouter.core.findings import Finding
from wgrouter.core.model import (
    NEVER,
    DeviceSeen,
    Endpoint,
    Instant,
    Interface,
    Nameserver,
    Net,
    Route,
    Rule,
    Seconds,
)
from wgrouter.core.records import dataclass, field
from wgrouter.core.settings import Settings

# ---------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class Configured:
    """Settings are in force: at the start and after each good reload. `seed` feeds every jitter (and
    nothing else).
    """

    settings: Settings
    seed: str = ""


@dataclass(frozen=True, slots=True)
class Woke:
    """The time named by wake_at has come."""


@dataclass(frozen=True, slots=True)
class Hinted:
    """Something may have changed: hotplug, ubus, rtnetlink or a signal says "look again". Its words are
    never believed.
    """

    source: str  # "rtnetlink" | "nftables" | "hotplug" | "ubus" | "signal" | "command"
    interface: str = ""
    action: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """What a Look saw. A part that was not looked at, or could not be, is None."""

    net: Net | None = None
    wireguard: Mapping[str, DeviceSeen] | None = None
    nameservers: tuple[Nameserver, ...] | None = None
    interfaces: Mapping[str, Interface] | None = None
    clock_trusted: bool = True
    nft: str | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """One resource record of an answer: `data` is an address (A, AAAA), a name (CNAME) or "priority weight
    port target" (SRV).
    """

    name: str
    type: str
    ttl: int  # seconds
    data: str


@dataclass(frozen=True, slots=True)
class Answered:
    """A DNS server answered query `id`. rcode is its mnemonic (NOERROR, NXDOMAIN, SERVFAIL, REFUSED, …)."""

    id: int
    rcode: str
    truncated: bool = False
    records: tuple[Record, ...] = ()
    negative_ttl: int = 0  # of the SOA in the authority section (RFC 2308), seconds; 0: none given


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A DNS query ended without an answer: "timeout", "unreachable", "refused" (nobody listens),
    "garbage".
    """

    id: int
    reason: str


@dataclass(frozen=True, slots=True)
class Replied:
    """Probe `id` was answered; `rtt` in seconds by the kernel's receive time where there is one."""

    id: int
    rtt: Seconds


@dataclass(frozen=True, slots=True)
class Unsent:
    """Probe `id` could not be sent or was refused (ENETUNREACH, ECONNREFUSED, wrong HTTP status …)."""

    id: int
    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """An effect could not be carried out. `reason` is for people; `errno` 0 where there is none."""

    effect: Effect
    reason: str
    errno: int = 0


@dataclass(frozen=True, slots=True)
class Commanded:
    """A person or the fleet asks: refresh | reresolve | switch | … with arguments. `origin` is "cli",
    "ubus" or "mqtt".
    """

    verb: str
    arguments: Mapping[str, str] = field(default_factory=dict)
    origin: str = "cli"


@dataclass(frozen=True, slots=True)
class Stopping:
    """SIGTERM: take away what is ours, so that netifd's own routes serve."""


Event = (
    Configured
    | Woke
    | Hinted
    | Observed
    | Answered
    | Unanswered
    | Replied
    | Unsent
    | Failed
    | Commanded
    | Stopping
)

# ---------------------------------------------------------------- effects
# Those that change the router read as the command that a person would type for the same.


@dataclass(frozen=True, slots=True)
class Look:
    """Look at these parts of the World (model.NET, …) and tell with Observed."""

    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """Send one DNS query; Answered or Unanswered with the same id comes within `timeout` seconds."""

    id: int
    name: str
    type: str  # A | AAAA | SRV
    server: Nameserver
    timeout: Seconds
    tcp: bool = False
    mark: int = 0  # SO_MARK, 0 for none


@dataclass(frozen=True, slots=True)
class Probe:
    """Send one probe from `device`; Replied with the same id comes if it is answered within `timeout`
    seconds.
    """

    id: int
    method: str  # icmp | dns-udp | dns-tcp | tcp | http | https | arp | counters (sends nothing)
    target: (
        str  # an address literal; for http(s) a URL whose host is looked up nowhere: `target` is the address
    )
    device: str
    timeout: Seconds
    port: int = 0
    detail: str = ""  # http: "host/path"; dns: the name asked
    mark: int = 0
    source: str = ""  # bind to this address, "" lets the kernel choose


@dataclass(frozen=True, slots=True)
class SetEndpoint:
    """Give a peer its outer address: UPDATE_ONLY, allowed IPs untouched. The same value again clears
    WireGuard's cached source.
    """

    device: str
    public_key: str
    endpoint: Endpoint

    def __str__(self) -> str:
        return f"wg set {self.device} peer {self.public_key} endpoint {self.endpoint}"


@dataclass(frozen=True, slots=True)
class Provoke:
    """Make WireGuard send at once: keepalive to 0 and back to `keepalive` seconds (0: one packet, then off
    again).
    """

    device: str
    public_key: str
    keepalive: int

    def __str__(self) -> str:
        keepalive = f"0, then {self.keepalive}" if self.keepalive else "1, then 0"
        return f"wg set {self.device} peer {self.public_key} persistent-keepalive {keepalive}"


@dataclass(frozen=True, slots=True)
class SetListenPort:
    """Give the device another UDP source port."""

    device: str
    port: int

    def __str__(self) -> str:
        return f"wg set {self.device} listen-port {self.port}"


@dataclass(frozen=True, slots=True)
class SetFwmark:
    """Mark the device's outer packets."""

    device: str
    mark: int

    def __str__(self) -> str:
        return f"wg set {self.device} fwmark {self.mark:#x}"


@dataclass(frozen=True, slots=True)
class ForgetFlows:
    """Delete conntrack entries: UDP flows of `local_port` (0: any) with `remote` ("" any), or all NATed to
    `local_address`.
    """

    local_port: int = 0
    remote: str = ""
    local_address: str = ""
    protocol: int = 17  # IPPROTO_UDP; 0 is any

    def __str__(self) -> str:
        words = {
            "-p": self.protocol,
            "--sport": self.local_port,
            "-d": self.remote,
            "-q": self.local_address,
        }
        return "conntrack -D" + "".join(f" {word} {value}" for word, value in words.items() if value)


@dataclass(frozen=True, slots=True)
class AddRoute:
    """NLM_F_CREATE | NLM_F_REPLACE: the route of this table, destination and metric is this one from now
    on.
    """

    route: Route

    def __str__(self) -> str:
        return f"ip -{self.route.family} route replace {self.route}"


@dataclass(frozen=True, slots=True)
class DeleteRoute:
    """Take away exactly this route; its absence is no error."""

    route: Route

    def __str__(self) -> str:
        return f"ip -{self.route.family} route del {self.route}"


@dataclass(frozen=True, slots=True)
class AddRule:
    """Add a policy rule; its presence is no error."""

    rule: Rule

    def __str__(self) -> str:
        return f"ip -{self.rule.family} rule add {self.rule}"


@dataclass(frozen=True, slots=True)
class DeleteRule:
    """Take away exactly this rule; its absence is no error."""

    rule: Rule

    def __str__(self) -> str:
        return f"ip -{self.rule.family} rule del {self.rule}"


@dataclass(frozen=True, slots=True)
class ApplyNft:
    """Replace `table inet wgrouter` by this ruleset in one transaction (`nft -f -`); no other table is
    touched.
    """

    ruleset: str

    def __str__(self) -> str:
        return f"nft -f - (table inet wgrouter, {self.ruleset.count(chr(10))} lines)"


@dataclass(frozen=True, slots=True)
class RemoveNft:
    """Take away `table inet wgrouter`; its absence is no error."""

    def __str__(self) -> str:
        return "nft delete table inet wgrouter"


@dataclass(frozen=True, slots=True)
class Renew:
    """`ubus call network.interface.<interface> renew`: re-apply the configuration without tearing down."""

    interface: str

    def __str__(self) -> str:
        return f"ubus call network.interface.{self.interface} renew"


@dataclass(frozen=True, slots=True)
class Restart:
    """Take the logical interface down and up again. The last rung."""

    interface: str

    def __str__(self) -> str:
        return f"ifdown {self.interface} && ifup {self.interface}"


@dataclass(frozen=True, slots=True)
class RunHook:
    """Run the scripts in /etc/hotplug.d/<directory> with this environment: ACTION, and what
    docs/openwrt.md names for it.

    No answer comes, and nothing waits for them: what a script does with the news is its own affair.
    """

    environment: Mapping[str, str]
    directory: str = "wgrouter"  # or "iface", for scripts that know mwan3's connected and disconnected


Effect = (
    Look
    | Ask
    | Probe
    | SetEndpoint
    | Provoke
    | SetListenPort
    | SetFwmark
    | ForgetFlows
    | AddRoute
    | DeleteRoute
    | AddRule
    | DeleteRule
    | ApplyNft
    | RemoveNft
    | Renew
    | Restart
    | RunHook
)

# Effects that change the router; the others only look or ask.
CHANGES = (
    SetEndpoint,
    Provoke,
    SetListenPort,
    SetFwmark,
    ForgetFlows,
    AddRoute,
    DeleteRoute,
    AddRule,
    DeleteRule,
    ApplyNft,
    RemoveNft,
    Renew,
    Restart,
)


@dataclass(frozen=True, slots=True)
class Step:
    """What the core wants done (in this order), what it has to say, and when it wants to be woken (NEVER:
    not).
    """

    effects: tuple[Effect, ...] = ()
    findings: tuple[Finding, ...] = ()
    wake_at: Instant = NEVER
