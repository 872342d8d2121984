"""What the user wants, as frozen values. Made by config/load.py; the defaults stand in config/schema.py
and are repeated
here only so that a value can be built in a test without a file. No secret is ever part of a setting but
MQTT's file names.
"""

from __future__ import annotations

from collections.abc import Mapping

from wgrouter.core.model import Seconds
from wgrouter.core.records import dataclass, field


@dataclass(frozen=True, slots=True, order=True)
class HostPort:
    """Where a peer may be: a host name or an address literal, and a UDP port."""

    host: str
    port: int = 51820


@dataclass(frozen=True, slots=True)
class Peer:
    """A WireGuard peer under the agent's care."""

    device: str
    public_key: str
    label: str  # unique within the device: the description, else the first characters of the key
    endpoints: tuple[HostPort, ...] = ()  # the preferred one (endpoint_host of the network file) first
    srv: bool = False  # ask _wireguard._udp.<host> for host and port first
    family: str = "auto"  # auto | ipv4 | ipv6 | prefer_ipv4 | prefer_ipv6
    keepalive: int = 0  # persistent_keepalive, seconds
    allowed_ips: tuple[str, ...] = ()
    probe: str = ""  # in-tunnel address that answers ICMP echo; "" for none
    probe_interval: Seconds = 10.0  # while nothing else shows life

    @property
    def id(self) -> PeerId:
        return (self.device, self.public_key)

    @property
    def subject(self) -> str:
        return f"{self.device}/{self.label}"


PeerId = tuple[str, str]  # (device, public key)


@dataclass(frozen=True, slots=True)
class Ladder:
    """Limits of the remedies for one tunnel's peers."""

    new_port: str = "auto"  # auto (only where no listen_port is configured) | yes | no
    other_wan: bool = True  # send the outer packets by another usable WAN for a while
    renew: bool = False  # `ubus call network.interface.X renew`
    restart: bool = False  # interface down and up
    backoff: Seconds = 15.0  # pause after the first whole round
    backoff_max: Seconds = 900.0
    steps_per_hour: int = 120  # of one peer
    restarts_per_hour: int = 2  # of one device: renew and restart together
    # on an alternative: try the preferred endpoint again after this, doubling up to backoff_max × 4
    return_after: Seconds = 300.0


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A WireGuard interface (`proto wireguard` in the network file)."""

    device: str
    addresses: tuple[str, ...] = ()
    listen_port: int = 0  # as configured, 0: any
    fwmark: int = 0  # as configured, 0: ours to set
    wans: tuple[str, ...] = ()  # preference of WANs for the outer packets; empty: the active one
    ladder: Ladder = Ladder()
    peers: tuple[Peer, ...] = ()


@dataclass(frozen=True, slots=True)
class Dns:
    """How names are resolved."""

    servers: tuple[str, ...] = ()  # addresses, "address#port"; empty: those the WANs gave
    ttl_min: Seconds = 5.0
    ttl_max: Seconds = 3600.0
    timeout: Seconds = 1.5  # of one query to one server
    retry: Seconds = 5.0  # after a failure, doubling up to retry_max
    retry_max: Seconds = 300.0
    allow: tuple[
        str, ...
    ] = ()  # prefixes that answers may lie in; empty: any global or private unicast address


@dataclass(frozen=True, slots=True)
class Wan:
    """An uplink. Empty `interface` and `device` cannot both be: load.py says so."""

    name: str
    interface: str = ""  # of the network file
    device: str = ""  # where known: an L3 device
    enabled: bool = True
    priority: int = 10  # lower is better; equal ones share by weight
    weight: int = 1
    metered: bool = False
    families: tuple[int, ...] = (4, 6)
    targets4: tuple[str, ...] = ()  # empty: probing.targets4
    targets6: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()  # empty: probing.methods
    loss_max: float = 25.0  # percent over the window: more is poor
    latency_max: float = 0.0  # milliseconds, 0: no limit
    jitter_max: float = 0.0  # milliseconds, 0: no limit
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class Probing:
    """How uplinks are watched."""

    methods: tuple[str, ...] = ("icmp",)
    targets4: tuple[str, ...] = ("1.1.1.1", "8.8.8.8", "9.9.9.9")
    targets6: tuple[str, ...] = ("2606:4700:4700::1111", "2001:4860:4860::8888", "2620:fe::fe")
    interval: Seconds = 1.0  # one probe per WAN and family each interval, targets in turn
    metered_interval: Seconds = 10.0
    timeout: Seconds = 2.0  # an answer later than this is lost
    late_min: Seconds = 0.2  # never suspect an answer younger than this
    burst_interval: Seconds = 0.04
    burst_count: int = 6
    window: Seconds = 30.0
    dns_name: str = "."  # the name asked by dns-udp and dns-tcp
    http_url: str = "http://connectivitycheck.gstatic.com/generate_204"


@dataclass(frozen=True, slots=True)
class Hold:
    """Damping of decisions."""

    up_after: Seconds = 5.0  # a WAN must be good this long before it is used again
    up_max: Seconds = 300.0  # the longest that flapping makes it
    penalty_half_life: Seconds = 120.0
    margin_ms: float = 10.0  # a better link must be better by this …
    margin_ratio: float = 0.33  # … and by this share


@dataclass(frozen=True, slots=True)
class TrafficRule:
    """LAN traffic that goes by a chosen WAN or group. Empty selectors match all."""

    name: str
    src: str = ""
    dst: str = ""
    protocol: str = ""  # tcp | udp | icmp | ""
    src_port: str = ""
    dst_port: str = ""  # "443", "80,443", "1000-2000"
    # destinations in the sets <ipset>_4 and <ipset>_6 of `inet wgrouter`, for dnsmasq's nftset to fill
    ipset: str = ""
    wans: tuple[str, ...] = ()  # in order of preference; "balanced" is all by weight
    last_resort: str = "default"  # default | unreachable | blackhole
    sticky: bool = False  # by source address


@dataclass(frozen=True, slots=True)
class Routing:
    """Where our objects live. All base numbers; see docs/architecture.md for the map."""

    enabled: bool = True
    balance: bool = False
    failback: str = "new"  # new | all | never
    table_base: int = 7400
    rule_base: int = 6000
    protocol: int = 157  # of our routes and rules, registered in rt_protos.d
    mark_mask: int = 0x3F000000
    switch_seconds: Seconds = 0.0
    sticky: bool = False


@dataclass(frozen=True, slots=True)
class Mqtt:
    """What the fleet is told and may ask. Secrets stay in their files."""

    enabled: bool = True
    brokers: tuple[str, ...] = ()  # mqtt(s)://host[:port], in order of preference; empty: nothing is told
    prefix: str = "wgrouter"
    id: str = ""  # empty: of the hardware
    username: str = ""
    password_file: str = ""
    ca_file: str = ""  # empty: the system's
    cert_file: str = ""
    key_file: str = ""
    server_name: str = ""  # that the certificate must have; empty: the broker's host name
    protocol: str = "auto"  # auto | 5 | 3.1.1
    keepalive: Seconds = 60.0
    will_delay: Seconds = 45.0
    heartbeat: Seconds = 300.0
    severity: str = "info"  # the least severe event told
    queue: int = 1000  # events that wait while there is no broker
    queue_file: str = ""
    commands: tuple[str, ...] = ()
    command_key_file: str = ""  # of HMAC signatures; empty: none is asked for
    confirm: Seconds = 60.0  # `set` is rolled back if no broker is seen within this
    homeassistant: str = ""  # its discovery prefix; empty: off
    metrics_file: str = ""  # for Prometheus' textfile collector
    metrics_interval: Seconds = 15.0


@dataclass(frozen=True, slots=True)
class Settings:
    """All of it."""

    enabled: bool = True
    tunnels: tuple[Tunnel, ...] = ()
    wans: tuple[Wan, ...] = ()  # empty: the holders of default routes
    dns: Dns = Dns()
    probing: Probing = Probing()
    hold: Hold = Hold()
    routing: Routing = Routing()
    rules: tuple[TrafficRule, ...] = ()
    mqtt: Mqtt = Mqtt()
    look_interval: Seconds = 5.0  # between looks at WireGuard while all is well
    journal_entries: int = 512
    log_level: str = "info"
    mwan3_hotplug: bool = False  # scripts that know mwan3 are told too
    interfaces: Mapping[str, str] = field(
        default_factory=dict
    )  # logical interface → device, as the network file has it

    def peers(self) -> tuple[Peer, ...]:
        return tuple(peer for tunnel in self.tunnels for peer in tunnel.peers)
