"""What is: the World as the kernel, WireGuard and netifd tell it, as frozen values.

Decides nothing and knows nothing of how a value was obtained. Values are compared for change and shared
between snapshots, so a port should hand out the same object again where nothing changed.
Units: an Instant is in seconds on the monotonic clock, a Seconds is a span; byte counters are totals.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from wgrouter.core.records import dataclass, field

Instant = float  # seconds on the monotonic clock of the reactor
Seconds = float  # a span
NEVER: Instant = float("inf")
LONG_AGO: Instant = float("-inf")

IPV4 = 4
IPV6 = 6

# linux/rtnetlink.h
RT_TABLE_DEFAULT = 253
RT_TABLE_MAIN = 254
RT_TABLE_LOCAL = 255


def family_of(address: str) -> int:
    """4 or 6 for an address or prefix literal. ValueError for anything else (ipaddress says what was
    wrong).
    """
    return ipaddress.ip_interface(address).version


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """The outer address of a WireGuard peer: a literal (canonical text of ipaddress, no scope) and a UDP
    port.
    """

    address: str
    port: int

    @property
    def family(self) -> int:
        return IPV6 if ":" in self.address else IPV4

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class Link:
    """A network device. `carrier` is IFF_LOWER_UP, `up` is IFF_UP (what an administrator wants)."""

    index: int
    name: str
    up: bool = True
    carrier: bool = True
    kind: str = ""  # IFLA_INFO_KIND: "wireguard", "veth", "bridge", "" for hardware
    mtu: int = 1500
    flags: int = 0  # IFF_*; POINTOPOINT is 0x10, NOARP 0x80
    master: int = 0


@dataclass(frozen=True, slots=True)
class Address:
    """An address on a device; `prefix` is "address/length". Tentative, deprecated and link-local ones are
    marked.
    """

    device: str
    prefix: str
    scope: str = "global"  # global | link | host
    usable: bool = True  # not tentative, not dadfailed, not deprecated
    peer: str = ""  # the other end on a point-to-point link

    @property
    def address(self) -> str:
        return self.prefix.partition("/")[0]

    @property
    def family(self) -> int:
        return IPV6 if ":" in self.prefix else IPV4


@dataclass(frozen=True, slots=True)
class Hop:
    """One next hop: gateway address ("" on a point-to-point device), device name, weight (1 or more)."""

    gateway: str
    device: str
    weight: int = 1
    onlink: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """A route as rtnetlink has it. `dst` is a prefix, the default being 0.0.0.0/0 or ::/0. `kind` is RTN_*
    in small letters.
    """

    family: int
    table: int
    dst: str
    hops: tuple[Hop, ...] = ()
    metric: int = 0  # 0 does not exist in IPv6: the kernel makes it 1024
    protocol: int = 0
    kind: str = "unicast"  # unicast | unreachable | blackhole | prohibit | throw | local | ...
    source: str = ""  # RTA_PREFSRC
    src: str = (
        ""  # a source-specific IPv6 route (`default from 2001:db8::/56`), as netifd makes them by default
    )
    linkdown: bool = False  # any next hop is RTNH_F_LINKDOWN or RTNH_F_DEAD
    expires: bool = False  # learnt from a router advertisement

    @property
    def is_default(self) -> bool:
        return self.dst in ("0.0.0.0/0", "::/0")

    def __str__(self) -> str:
        """As `ip route` takes it, the family left out."""
        kind = "" if self.kind == "unicast" else f"{self.kind} "
        hops = [
            (f" via {hop.gateway}" if hop.gateway else "")
            + f" dev {hop.device}"
            + " onlink" * hop.onlink
            + (f" weight {hop.weight}" if len(self.hops) > 1 else "")
            for hop in self.hops
        ]
        words = {
            "from": self.src,
            "table": self.table,
            "metric": self.metric,
            "proto": self.protocol,
            "src": self.source,
        }
        rest = "".join(f" {word} {value}" for word, value in words.items() if value)
        way = "".join(f" nexthop{hop}" for hop in hops) if len(hops) > 1 else "".join(hops)
        return f"{kind}{'default' if self.is_default else self.dst}{way}{rest}"


@dataclass(frozen=True, slots=True)
class Rule:
    """A policy rule (`ip rule`). mark/mask 0/0: not looked at. `suppress` is suppress_prefixlength, -1 for
    none.
    """

    family: int
    preference: int
    table: int
    mark: int = 0
    mask: int = 0
    src: str = ""
    dst: str = ""
    iif: str = ""
    oif: str = ""
    suppress: int = -1
    protocol: int = 0
    action: str = "to_table"  # to_table | blackhole | unreachable | prohibit | goto | nop
    other: bool = False  # carries selectors that this model has no word for: never equal to one of ours

    def __str__(self) -> str:
        """As `ip rule` takes it, the family left out."""
        mark = f"{self.mark:#x}/{self.mask:#x}" if self.mask else ""
        words = {"from": self.src, "to": self.dst, "fwmark": mark, "iif": self.iif, "oif": self.oif}
        told = "".join(f" {word} {value}" for word, value in words.items() if value)
        target = f"lookup {self.table}" if self.action == "to_table" else self.action
        suppress = f" suppress_prefixlength {self.suppress}" if self.suppress >= 0 else ""
        proto = f" protocol {self.protocol}" if self.protocol else ""
        return f"pref {self.preference}{told} {target}{suppress}{proto}"


@dataclass(frozen=True, slots=True)
class PeerSeen:
    """A WireGuard peer as the device tells it. `handshake` is a token, compared for change only: (seconds,
    nanoseconds), (0, 0) for never.
    """

    public_key: str  # base64
    endpoint: Endpoint | None = None
    handshake: tuple[int, int] = (0, 0)
    rx_bytes: int = 0
    tx_bytes: int = 0
    keepalive: int = 0  # seconds, 0 is off
    allowed_ips: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceSeen:
    """A WireGuard device. It never carries a private or preshared key."""

    name: str
    public_key: str = ""
    listen_port: int = 0
    fwmark: int = 0
    userspace: bool = False  # spoken to over its UAPI socket (wireguard-go)
    peers: Mapping[str, PeerSeen] = field(default_factory=dict)  # by public key


@dataclass(frozen=True, slots=True)
class Nameserver:
    """A DNS server; `device` is what its sockets are bound to, "" for none (a server on this router or its
    LAN).
    """

    address: str
    port: int = 53
    device: str = ""
    interface: str = ""  # the logical interface that gave it, "" if configured


@dataclass(frozen=True, slots=True)
class Interface:
    """A logical interface of netifd (`network.interface dump`). Hints beside the kernel's tables, never
    above them.
    """

    name: str
    device: str = ""  # l3_device
    up: bool = False
    proto: str = ""
    metric: int = 0
    dns: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()  # next hops of its default routes


@dataclass(frozen=True, slots=True)
class Net:
    """Links, addresses, routes and rules of one look at the kernel."""

    links: Mapping[str, Link] = field(default_factory=dict)  # by name
    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True)
class World:
    """Everything last seen. A part never looked at yet is None; a part whose look failed keeps its last
    value.
    """

    net: Net | None = None
    wireguard: Mapping[str, DeviceSeen] | None = None  # by device name
    nameservers: tuple[Nameserver, ...] = ()
    interfaces: Mapping[str, Interface] | None = None  # None: no netifd here
    clock_trusted: bool = True  # wall clock is later than this program's own build
    nft: str | None = None  # the digest in `table inet wgrouter`, "" without that table


# The parts of the World that a Look can name.
NET = "net"
WIREGUARD = "wireguard"
NAMESERVERS = "nameservers"
INTERFACES = "interfaces"
EVERYTHING = (NET, WIREGUARD, NAMESERVERS, INTERFACES)
NFT = "nft"  # costs a fork: looked at only at the start and while a ruleset is wanted
