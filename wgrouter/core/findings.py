"""Why: every reason the agent can give, and the Finding that carries one with its arguments.

The expression that decides returns the Finding. Log line, journal, `explain`, MQTT and ubus render the same
values. A Finding never carries a key that is secret; public keys appear as the peer's label.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from wgrouter.core.records import dataclass, field


class Severity(Enum):
    """Syslog's levels, the four that we need."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Why(Enum):
    """code, severity, template. A code is `area.condition` and is never renamed: dashboards match on it."""

    # configuration
    CONFIG_LOADED = (
        "config.loaded",
        Severity.INFO,
        "settings in force: {tunnels} tunnels, {peers} peers, {wans} WANs",
    )
    CONFIG_REJECTED = (
        "config.rejected",
        Severity.ERROR,
        "new settings not taken, the old ones stay: {reason}",
    )
    CONFIG_PROBLEM = ("config.problem", Severity.WARNING, "{reason}")

    # names
    NAME_RESOLVED = ("name.resolved", Severity.INFO, "{name} is {addresses} (TTL {ttl} s, by {server})")
    NAME_MOVED = (
        "name.moved",
        Severity.INFO,
        "{name} moved from {old} to {addresses} (TTL {ttl} s, by {server})",
    )
    NAME_MISSING = ("name.missing", Severity.WARNING, "{name} does not exist, says {server} ({rcode})")
    NAME_EMPTY = ("name.empty", Severity.WARNING, "{name} has no address of the wanted family, says {server}")
    NAME_REFUSED = ("name.refused", Severity.WARNING, "{server} cannot answer for {name} ({rcode})")
    NAME_SILENT = ("name.silent", Severity.WARNING, "no DNS server answers for {name}: {tried}")
    NAME_LIE = (
        "name.lie",
        Severity.WARNING,
        "{server} gives {address} for {name}, which is not accepted: {reason}",
    )
    NAME_NO_SERVER = ("name.no-server", Severity.WARNING, "no DNS server is known to ask for {name}")

    # tunnels
    TUNNEL_ALIVE = ("tunnel.alive", Severity.INFO, "{evidence}")
    TUNNEL_SUSPECT = ("tunnel.suspect", Severity.INFO, "{evidence}")
    TUNNEL_DEAD = ("tunnel.dead", Severity.WARNING, "{evidence}")
    TUNNEL_RECOVERED = (
        "tunnel.recovered",
        Severity.INFO,
        "alive again by {rung} after {seconds} s: {evidence}",
    )
    TUNNEL_STEP = ("tunnel.step", Severity.INFO, "step {rung}: {action}")
    TUNNEL_STEP_FAILED = (
        "tunnel.step-failed",
        Severity.INFO,
        "step {rung} proved nothing within {seconds} s",
    )
    TUNNEL_WAITING = ("tunnel.waiting", Severity.INFO, "every step tried; next round in {seconds} s")
    TUNNEL_FROZEN = ("tunnel.frozen", Severity.INFO, "steps held back: {reason}")
    TUNNEL_MOVED = ("tunnel.moved", Severity.INFO, "endpoint {old} → {new}: {reason}")
    TUNNEL_ROAMED = (
        "tunnel.roamed",
        Severity.INFO,
        "peer is alive at {endpoint}, which {name} does not name: left alone",
    )
    TUNNEL_RETURNED = ("tunnel.returned", Severity.INFO, "back on the preferred endpoint {endpoint}")
    TUNNEL_RETURN_FAILED = (
        "tunnel.return-failed",
        Severity.INFO,
        "the preferred endpoint {endpoint} does not answer yet; stays on {kept}",
    )
    TUNNEL_NO_ENDPOINT = ("tunnel.no-endpoint", Severity.WARNING, "no address is known: {reason}")
    TUNNEL_DETOUR = (
        "tunnel.detour",
        Severity.INFO,
        "goes by {wan} for {seconds} s, since {usual} does not reach {peer}",
    )
    TUNNEL_DETOUR_ENDED = (
        "tunnel.detour-ended",
        Severity.INFO,
        "goes by {usual} again, not by {wan}: {reason}",
    )
    TUNNEL_UNSEEN = ("tunnel.unseen", Severity.WARNING, "{reason}")

    # the one cause of a peer's state, for `explain`
    CAUSE_NONE = ("cause.none", Severity.INFO, "nothing is wrong")
    CAUSE_IDLE = (
        "cause.idle",
        Severity.INFO,
        "nothing is sent, so nothing is known; no keepalive and no probe is configured",
    )
    CAUSE_DISABLED = ("cause.disabled", Severity.INFO, "the agent is switched off and changes nothing")
    CAUSE_DEVICE = ("cause.device", Severity.ERROR, "the interface {device} does not exist")
    CAUSE_PEER = (
        "cause.peer",
        Severity.ERROR,
        "{device} does not have this peer: the running interface differs from the configuration",
    )
    CAUSE_UPLINK = ("cause.uplink", Severity.ERROR, "no uplink: {reason}")
    CAUSE_CLOCK = (
        "cause.clock",
        Severity.ERROR,
        "the clock is wrong: the peer drops handshakes with a past time",
    )
    CAUSE_NAME = ("cause.name", Severity.ERROR, "the name gives no address: {reason}")
    CAUSE_STALE_NAME = (
        "cause.stale-name",
        Severity.WARNING,
        "no answer from {endpoint}, and the name cannot be checked: {reason}",
    )
    CAUSE_FAMILY = ("cause.family", Severity.ERROR, "{endpoint} is IPv{family}, and no uplink routes that")
    CAUSE_SILENT = ("cause.silent", Severity.ERROR, "{endpoint} does not answer")
    CAUSE_ALL_SILENT = (
        "cause.all-silent",
        Severity.ERROR,
        "none of {count} known endpoints answers: the peer is down, or its port is blocked",
    )
    CAUSE_PROVING = ("cause.proving", Severity.INFO, "a step is waiting for proof")
    CAUSE_NEW = ("cause.new", Severity.INFO, "no handshake yet")

    # WANs and routing
    WAN_UP = ("wan.up", Severity.INFO, "usable over IPv{family}: {evidence}")
    WAN_DOWN = ("wan.down", Severity.WARNING, "not usable over IPv{family}: {evidence}")
    WAN_DEGRADED = ("wan.degraded", Severity.WARNING, "poor over IPv{family}: {evidence}")
    WAN_SUSPECT = ("wan.suspect", Severity.DEBUG, "an answer is late over IPv{family}: {evidence}")
    WAN_HELD = (
        "wan.held",
        Severity.INFO,
        "answers again over IPv{family}, held down for {seconds} s more: {reason}",
    )
    WAN_FLAPPING = ("wan.flapping", Severity.WARNING, "{count} changes; hold-down is now {seconds} s")
    WAN_APPEARED = ("wan.appeared", Severity.INFO, "{device} via {gateway} over IPv{family}")
    WAN_GONE = ("wan.gone", Severity.WARNING, "{reason}")
    WAN_TARGET_DEAD = ("wan.target-dead", Severity.INFO, "target {target} does not answer, others do")
    UPLINK_CHOSEN = ("uplink.chosen", Severity.INFO, "IPv{family} traffic by {chosen}: {reason}")
    UPLINK_FAILOVER = (
        "uplink.failover",
        Severity.WARNING,
        "IPv{family} moved from {old} to {chosen}: {reason}",
    )
    UPLINK_FAILBACK = (
        "uplink.failback",
        Severity.INFO,
        "IPv{family} moved back from {old} to {chosen}: {reason}",
    )
    UPLINK_LAST_RESORT = (
        "uplink.last-resort",
        Severity.ERROR,
        "no WAN passes its probes over IPv{family}; {chosen} is kept",
    )
    UPLINK_NONE = ("uplink.none", Severity.ERROR, "no WAN has carrier over IPv{family}")
    UPLINK_MANUAL = ("uplink.manual", Severity.INFO, "{chosen} is chosen by hand{until}")
    UPLINK_UNKNOWN = ("uplink.unknown", Severity.WARNING, "no WAN is called {wan!r}; there are: {known}")
    ROUTING_RESTORED = ("routing.restored", Severity.WARNING, "put back what somebody took away: {what}")
    ROUTING_UNVERIFIED = (
        "routing.unverified",
        Severity.WARNING,
        "the kernel routes {what} by {seen}, not by {wanted}",
    )
    ROUTING_YIELDED = ("routing.yielded", Severity.WARNING, "{reason}")
    NEIGHBOUR_SEEN = ("routing.neighbour", Severity.INFO, "{who} is here too: {evidence}")

    # the agent itself
    AGENT_STARTED = ("agent.started", Severity.INFO, "wgrouter {version} started")
    AGENT_STOPPED = ("agent.stopped", Severity.INFO, "stopped; what was ours is taken away")
    AGENT_HINT = ("agent.hint", Severity.DEBUG, "{source} says look again")
    AGENT_DISABLED = (
        "agent.disabled",
        Severity.INFO,
        "switched off (option enabled '0'): looks and reports, changes nothing",
    )
    EFFECT_FAILED = ("agent.effect-failed", Severity.WARNING, "{effect} failed: {reason}")
    EFFECT_SLOW = (
        "agent.effect-slow",
        Severity.WARNING,
        "{effect} took {seconds} s; everything waits meanwhile",
    )
    IO_FAILED = ("agent.io-failed", Severity.WARNING, "{reason}")
    CLOCK_WRONG = (
        "clock.wrong",
        Severity.ERROR,
        "the clock says {now}: handshakes with a past time are dropped by the peer",
    )
    CLOCK_RIGHT = ("clock.right", Severity.INFO, "the clock is set")
    COMMANDED = ("agent.commanded", Severity.INFO, "{verb} asked by {origin}")
    BUS_ABSENT = ("ubus.absent", Severity.INFO, "no ubus here: {reason}")
    BUS_PRESENT = ("ubus.present", Severity.INFO, "on ubus as {object}")
    BUS_LOST = ("ubus.lost", Severity.WARNING, "ubus is gone, all else goes on: {reason}")
    HOOK_FAILED = ("hook.failed", Severity.WARNING, "{script} for {action}: {reason}")
    HOOK_DROPPED = ("hook.dropped", Severity.WARNING, "{action} is not told to the scripts: {reason}")

    # the fleet
    BROKER_CONNECTED = ("broker.connected", Severity.INFO, "{broker} ({address}) over MQTT {version}")
    BROKER_LOST = ("broker.lost", Severity.WARNING, "{broker} {reason}")
    BROKER_UNREACHABLE = ("broker.unreachable", Severity.WARNING, "{broker}: {reason}")
    BROKER_DENIED = ("broker.denied", Severity.WARNING, "{broker} {reason}")
    BROKER_ABSENT = ("broker.absent", Severity.ERROR, "a broker is configured, but {reason}")
    COMMAND_REFUSED = ("command.refused", Severity.WARNING, "{verb} is not carried out: {reason}")
    SETTING_TRIED = (
        "setting.tried",
        Severity.INFO,
        "{setting} is {value}; taken back unless the broker is reached again within {seconds} s",
    )
    SETTING_KEPT = ("setting.kept", Severity.INFO, "{setting} stays {value}: the broker was reached with it")
    SETTING_BACK = (
        "setting.back",
        Severity.WARNING,
        "{setting} is taken back: the broker was not reached within {seconds} s",
    )

    @property
    def code(self) -> str:
        return self.value[0]

    @property
    def severity(self) -> Severity:
        return self.value[1]

    @property
    def template(self) -> str:
        return self.value[2]


@dataclass(frozen=True, slots=True)
class Rejected:
    """An alternative that was not taken, and why."""

    what: str
    reason: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason, about one subject ("wg0/office", "wan", "vpn.example.net"), with what the decision saw."""

    why: Why
    subject: str = ""
    arguments: Mapping[str, str | int | float] = field(default_factory=dict)
    rejected: tuple[Rejected, ...] = ()

    @property
    def text(self) -> str:
        """The sentence for people, without the subject."""
        return self.why.template.format_map(_Shown(self.arguments))

    def __str__(self) -> str:
        return f"{self.subject}: {self.text}" if self.subject else self.text


class _Shown(dict[str, str | int | float]):
    """A missing argument must not cost a log line."""

    def __missing__(self, key: str) -> str:
        return "?"
