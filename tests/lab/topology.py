"""What a lab looks like, as data: who is there, what they are called and which addresses they have.

Decides names and addresses, all from the test and documentation ranges, all computed from a number, so that a
reader of a packet capture can tell from an address whose it is. Touches nothing: wiring.py turns this into
links and routes.

    ISP number k     subscriber side   100.64.k.0/24    2001:db8:a<k>::/64   .1 is the gateway, .2 the router
                     public            203.0.113.<16k>/28   (.1 is its NAT; without one, .1 and .2 as above)
    router number r  LAN               192.168.<r>.0/24 fd00:<r>::/64
                     in the tunnels    10.77.0.<r>      fd77::<r>
    site number s    in the tunnels    10.77.1.<s>      fd77::1:<s>
                     home A, B, C      198.51.100.<s>, 198.18.1.<s>, 198.18.2.<s>
                                       2001:db8:f0::<s>, 2001:db8:f1::<s>, 2001:db8:f2::<s>
    internet         192.0.2.1 … .3 answer pings; .80 is a web server; .53, .54 … resolvers; .88 the broker
                     the same with 2001:db8:: before the last number
"""

from dataclasses import dataclass, field
from typing import Literal

WireGuard = Literal["auto", "go", "kernel"]
# How the uplink is configured. "dhcp" is what netifd's DHCP client leaves behind: a default route with `src`.
# "pppoe" is a point-to-point device without gateway or neighbours, called pppoe-<interface>.
Proto = Literal["static", "dhcp", "pppoe"]

ZONE = "lab.test"
WG_PORT = 51820

WEB = ("192.0.2.80", "2001:db8::80")
BROKER = ("192.0.2.88", "2001:db8::88")
# Three hosts that answer pings, for whoever wants targets of the lab's own.
TARGETS = ("192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::2", "2001:db8::3")
# Resolvers of the real internet, which a default configuration may probe. In here the lab's DNS server has
# their addresses too.
WELL_KNOWN = (
    *("1.1.1.1", "1.0.0.1", "8.8.8.8", "8.8.4.4", "9.9.9.9", "149.112.112.112"),
    *("2606:4700:4700::1111", "2606:4700:4700::1001", "2001:4860:4860::8888", "2001:4860:4860::8844"),
    *("2620:fe::fe", "2620:fe::9"),
)


@dataclass(frozen=True)
class Isp:
    """One uplink of one router. Verbs call it by `name`, the router's configuration by `interface`."""

    name: str
    number: int
    interface: str = "wan"
    port: str = "eth1"
    router: str = "router"
    metric: int = 0
    proto: Proto = "static"
    # False: the router has a public IPv4 address, so that the internet can reach it without being asked
    # first.
    nat: bool = True
    mtu: int = 1500
    # A veth whose two ends share an interface index is treated by the kernel like an ordinary NIC: carrier
    # events come batched, up to a second late. Otherwise (the default) they come at once.
    # net/core/link_watch.c, linkwatch_urgent_event.
    slow_carrier: bool = False

    @property
    def namespace(self) -> str:
        return f"isp-{self.name}"

    @property
    def device(self) -> str:
        """The device that has the addresses and the routes."""
        return f"pppoe-{self.interface}" if self.proto == "pppoe" else self.port

    def via(self, version: int) -> str:
        """The way out, as `ip route` has it."""
        gateway = self.gateway4 if version == 4 else self.gateway6
        return f"dev {self.device}" if self.proto == "pppoe" else f"via {gateway} dev {self.device}"

    @property
    def prefix4(self) -> str:
        return f"100.64.{self.number}" if self.nat else self.public4.rpartition(".")[0]

    @property
    def length4(self) -> int:
        return 24 if self.nat else 28

    @property
    def public4(self) -> str:
        """The address the internet sees when the ISP translates; else the gateway's."""
        return f"203.0.113.{16 * self.number + 1}"

    @property
    def pool4(self) -> str:
        return f"203.0.113.{16 * self.number}/28"

    @property
    def gateway4(self) -> str:
        return f"100.64.{self.number}.1" if self.nat else self.public4

    @property
    def router4(self) -> str:
        return f"100.64.{self.number}.2" if self.nat else f"203.0.113.{16 * self.number + 2}"

    @property
    def pool6(self) -> str:
        return f"2001:db8:a{self.number}::/48"

    @property
    def gateway6(self) -> str:
        return f"2001:db8:a{self.number}::1"

    @property
    def router6(self) -> str:
        return f"2001:db8:a{self.number}::2"

    @property
    def resolvers(self) -> tuple[str, str]:
        """The resolvers this ISP hands out: addresses of the lab's one DNS server."""
        return f"192.0.2.{52 + self.number}", f"2001:db8::{52 + self.number}"


@dataclass(frozen=True)
class Site:
    """A far end: a WireGuard peer with a name, at one of its homes, which a test may move to another."""

    name: str
    number: int
    # Families its name has addresses of at first; its homes contain addresses of these.
    families: tuple[Literal[4, 6], ...] = (4,)
    tunnel: str = "wg0"
    port: int = WG_PORT
    # More ports that lead to the same WireGuard.
    more_ports: tuple[int, ...] = ()
    # False: a name and a key with nobody behind them, which costs no namespace.
    alive: bool = True
    keepalive: int = 25
    psk: bool = True
    # What the router sends to it beyond its own addresses: ("0.0.0.0/0", "::/0") makes a full tunnel.
    more_allowed: tuple[str, ...] = ()

    @property
    def host(self) -> str:
        return f"{self.name}.{ZONE}"

    @property
    def tunnel4(self) -> str:
        return f"10.77.1.{self.number}"

    @property
    def tunnel6(self) -> str:
        return f"fd77::1:{self.number}"

    def _home(self, prefix4: str, prefix6: str) -> tuple[str, ...]:
        return tuple(f"{prefix4 if family == 4 else prefix6}{self.number}" for family in self.families)

    @property
    def home_a(self) -> tuple[str, ...]:
        return self._home("198.51.100.", "2001:db8:f0::")

    @property
    def home_b(self) -> tuple[str, ...]:
        return self._home("198.18.1.", "2001:db8:f1::")

    @property
    def home_c(self) -> tuple[str, ...]:
        return self._home("198.18.2.", "2001:db8:f2::")

    @property
    def all_homes(self) -> tuple[str, ...]:
        """Every address that the internet routes to this site, of both families."""
        n = self.number
        return (
            *(f"198.51.100.{n}", f"198.18.1.{n}", f"198.18.2.{n}"),
            *(f"2001:db8:f0::{n}", f"2001:db8:f1::{n}", f"2001:db8:f2::{n}"),
        )

    @property
    def allowed_ips(self) -> tuple[str, ...]:
        return (f"{self.tunnel4}/32", f"{self.tunnel6}/128", *self.more_allowed)


@dataclass(frozen=True)
class Router:
    """A router with its LAN of one client. Which uplinks it has is said by each Isp."""

    name: str = "router"
    number: int = 1
    # A port for WireGuard to listen on (0: WireGuard chooses), and whether the firewall lets strangers in
    # there.
    listen_port: int = 0
    inbound: bool = False
    # What netifd does unless told `nohostroute`: pin each endpoint to the WAN that was best at set-up.
    host_routes: bool = True
    # Whether names were resolved at set-up, as `wg set` does, or there was no network then: peers have no
    # endpoint.
    resolved: bool = True

    @property
    def client(self) -> str:
        return "client" if self.name == "router" else f"{self.name}-client"

    @property
    def tunnel4(self) -> str:
        return f"10.77.0.{self.number}"

    @property
    def tunnel6(self) -> str:
        return f"fd77::{self.number}"

    @property
    def lan4(self) -> str:
        return f"192.168.{self.number}"

    @property
    def lan6(self) -> str:
        return f"fd00:{self.number}:"


@dataclass(frozen=True)
class Topology:
    """Everything build() needs to know."""

    routers: tuple[Router, ...] = (Router(),)
    isps: tuple[Isp, ...] = (Isp("a", 1),)
    sites: tuple[Site, ...] = (Site("site1", 1),)
    # Seconds that answers may be kept.
    ttl: int = 2
    wireguard: WireGuard = "auto"
    broker: bool = False
    # More records of the zone, as in a zone file: ("_wireguard._udp.site1", "SRV", "0 0 51820 site1").
    records: tuple[tuple[str, str, str], ...] = field(default=())

    def uplinks(self, router: str) -> tuple[Isp, ...]:
        """The router's ISPs, the best first."""
        return tuple(sorted((isp for isp in self.isps if isp.router == router), key=lambda isp: isp.metric))


def sites(count: int = 1, **options: object) -> tuple[Site, ...]:
    """`count` sites called site1, site2 …; options go to each (see Site)."""
    return tuple(Site(f"site{n}", n, **options) for n in range(1, count + 1))  # type: ignore[arg-type]


def _uplinks(count: int, router: str = "router", first: int = 1) -> tuple[Isp, ...]:
    """ISPs a, b, c … as OpenWrt's interfaces wan, wanb, wanc …, told apart by metric 10, 20, 30 as mwan3's
    manual has it.
    """
    # 15 is as many /28 as are left in 203.0.113.0/24.
    letters = "abcdefghijklmno"
    return tuple(
        Isp(
            letters[first - 1 + n],
            first + n,
            interface="wan" if n == 0 else f"wan{letters[n]}",
            port=f"eth{n + 1}",
            router=router,
            metric=0 if count == 1 else 10 * (n + 1),
        )
        for n in range(count)
    )


def single(far: tuple[Site, ...] = sites(1), **options: object) -> Topology:
    """One uplink. Options go to Topology."""
    return Topology(isps=_uplinks(1), sites=far, **options)  # type: ignore[arg-type]


def dual(far: tuple[Site, ...] = sites(1), **options: object) -> Topology:
    """Two uplinks, `a` (wan, metric 10) and `b` (wanb, metric 20)."""
    return Topology(isps=_uplinks(2), sites=far, **options)  # type: ignore[arg-type]


def triple(far: tuple[Site, ...] = sites(1), **options: object) -> Topology:
    """Three uplinks, `a`, `b` and `c`."""
    return Topology(isps=_uplinks(3), sites=far, **options)  # type: ignore[arg-type]


def fleet(
    routers: int = 3, uplinks: int = 2, far: tuple[Site, ...] = sites(1), **options: object
) -> Topology:
    """Several routers (router, router2, router3 …), each with uplinks of its own, all with tunnels to the
    same sites.
    """
    names = ["router", *(f"router{n}" for n in range(2, routers + 1))]
    return Topology(
        routers=tuple(Router(name, n) for n, name in enumerate(names, 1)),
        isps=tuple(isp for n, name in enumerate(names) for isp in _uplinks(uplinks, name, 1 + n * uplinks)),
        sites=far,
        **options,  # type: ignore[arg-type]
    )
