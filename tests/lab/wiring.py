"""From a topology to what the kernel is told: namespaces, links, `ip` lines and nft rulesets, all still data.

Decides who is cabled to whom, every address and route, and how each box filters and translates. Must not know
how a namespace is made (netns.py) nor which faults exist (faults.py): the tables here are what a healthy
internet has.

Nobody on the internet side needs a subnet of his own: links carry fe80::1 and fe80::2 only, IPv4 is routed
`via inet6` (RFC 5549), and each host's addresses are /32 and /128 routes in the core. So a host may have any
address, and may move.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from .topology import BROKER, TARGETS, WEB, WELL_KNOWN, WG_PORT, Isp, Router, Site, Topology


@dataclass(frozen=True)
class Link:
    """A cable (a veth pair) between two namespaces."""

    a: str
    device_a: str
    b: str
    device_b: str
    mtu: int = 1500
    slow_carrier: bool = False


@dataclass(frozen=True)
class Namespace:
    """One box: lines for `ip -batch`, a ruleset for `nft -f`, and whether it forwards."""

    name: str
    ip: tuple[str, ...]
    nft: str = ""
    forwards: bool = False


@dataclass(frozen=True)
class Wiring:
    namespaces: tuple[Namespace, ...]
    links: tuple[Link, ...]


def family(address: str) -> int:
    return 6 if ":" in address else 4


def host(address: str) -> str:
    """The address with the prefix length of a single host."""
    return f"{address}/{128 if family(address) == 6 else 32}"


def add_host(address: str, device: str) -> str:
    """The `ip` line that gives a device one more address. Duplicate address detection would cost a second."""
    return f"addr add {host(address)} dev {device}" + (" nodad" if family(address) == 6 else "")


def _up(device: str, *addresses: str) -> list[str]:
    """No link-local addresses of the kernel's choosing: ours are known, and usable at once."""
    return [
        f"link set {device} addrgenmode none up",
        *(f"addr add {a} dev {device}" + (" nodad" if ":" in a else "") for a in addresses),
    ]


_TO_CORE = (
    *_up("net", "fe80::2/64"),
    # When a device loses its last IPv4 address the kernel drops its routes too; a site may move at any time.
    "addr add 169.254.0.2/32 dev net scope link",
    "route add 0.0.0.0/0 via inet6 fe80::1 dev net",
    "route add ::/0 via fe80::1 dev net",
)


def core_device(namespace: str) -> str:
    return f"to-{namespace}"


def _stub(name: str, addresses: Iterable[str], nft: str = "", forwards: bool = False) -> Namespace:
    """A box on the internet with these addresses."""
    lines = ("link set lo up", *_TO_CORE, *(add_host(a, "net") for a in addresses))
    return Namespace(name, lines, nft, forwards)


def _core(behind: dict[str, tuple[str, ...]]) -> Namespace:
    lines = ["link set lo up", "addr add 192.0.2.254/32 dev lo", "addr add 2001:db8::fe/128 dev lo nodad"]
    for name, prefixes in behind.items():
        device = core_device(name)
        lines += _up(device, "fe80::1/64")
        for prefix in prefixes:
            lines.append(
                f"route add {prefix} via {'inet6 ' if family(prefix) == 4 else ''}fe80::2 dev {device}"
            )
    # Nobody out there carries packets from private addresses (RFC 2827): a site that has just lost its own
    # would call from inside its tunnel.
    private = """
        table inet ingress {
            chain forward {
                type filter hook forward priority filter;
                ip saddr { 10.0.0.0/8, 169.254.0.0/16, 192.168.0.0/16 } drop
                ip6 saddr fc00::/7 drop
            }
        }"""
    return Namespace("core", tuple(lines), private, forwards=True)


def _line(device: str, isp: Isp, own: str, peer: str, *addresses6: str) -> list[str]:
    """One end of a subscriber's line."""
    if isp.proto != "pppoe":
        return _up(device, f"{own}/{isp.length4}", *addresses6)
    # A cable plays a point-to-point link: without ARP the kernel sends to its own hardware address, so both
    # ends have the same one.
    return [
        f"link set {device} address 02:00:00:00:00:{isp.number:02x} arp off",
        *_up(device, f"{own} peer {peer}/32", *addresses6),
    ]


def _isp(isp: Isp) -> Namespace:
    lines = ["link set lo up", *_TO_CORE]
    lines += _line("sub", isp, isp.gateway4, isp.router4, f"{isp.gateway6}/64", "fe80::1/64")
    if isp.nat:
        lines.append(add_host(isp.public4, "net"))
    # What nobody has must not bounce between here and the core.
    lines += [f"route add blackhole {pool} metric 9999" for pool in (isp.pool4, isp.pool6)]
    # fully-random: a NAT of an ISP does not keep the source port. Strangers find nobody behind it, and hear
    # nothing.
    nat = f"""
        table ip nat {{
            chain postrouting {{
                type nat hook postrouting priority srcnat;
                oifname "net" ip saddr {isp.prefix4}.0/{isp.length4} snat to {isp.public4} fully-random
            }}
            chain input {{
                type filter hook input priority filter;
                iifname "net" meta l4proto {{ tcp, udp }} drop
            }}
        }}"""
    return Namespace(isp.namespace, tuple(lines), nat if isp.nat else "", forwards=True)


def _router(router: Router, uplinks: tuple[Isp, ...]) -> Namespace:
    lines = ["link set lo up", *_up("br-lan", f"{router.lan4}.1/24", f"{router.lan6}:1/64", "fe80::1/64")]
    for isp in uplinks:
        metric = f" metric {isp.metric}" if isp.metric else ""
        source = f" src {isp.router4}" if isp.proto == "dhcp" else ""
        lines += _line(isp.device, isp, isp.router4, isp.gateway4, f"{isp.router6}/64", "fe80::2/64")
        lines.append(f"route add 0.0.0.0/0 {isp.via(4)} proto static{source}{metric}")
        lines.append(f"route add ::/0 {isp.via(6)} proto static{metric}")
    wan = ", ".join(f'"{isp.device}"' for isp in uplinks)
    inbound = f"udp dport {router.listen_port} accept" if router.inbound else ""
    # fw4 in small: zones lan (and the tunnels with it) and wan; wan is masqueraded, IPv6 too, drops what
    # nobody asked for, and lets ICMP in. `option masq6 1` is how a LAN with two IPv6 providers is usually
    # run. eloop: no outer packet goes into the tunnel, which the kernel's WireGuard sees to (send4 in its
    # socket.c), and wireguard-go does not.
    fw4 = f"""
        table inet fw4 {{
            chain input {{
                type filter hook input priority filter; policy drop;
                iifname {{ "lo", "br-lan", "wg*" }} accept
                ct state established,related accept
                icmp type echo-request accept
                meta l4proto ipv6-icmp accept
                {inbound}
            }}
            chain forward {{
                type filter hook forward priority filter; policy drop;
                ct state established,related accept
                iifname {{ "br-lan", "wg*" }} accept
            }}
            chain srcnat {{
                type nat hook postrouting priority srcnat;
                oifname {{ {wan} }} masquerade
            }}
            chain eloop {{
                type filter hook output priority filter;
                oifname "wg*" udp dport {WG_PORT} drop
            }}
        }}"""
    return Namespace(router.name, tuple(lines), fw4 if uplinks else "", forwards=True)


def _client(router: Router) -> Namespace:
    lines = (
        "link set lo up",
        *_up("eth0", f"{router.lan4}.100/24", f"{router.lan6}:100/64", "fe80::2/64"),
        f"route add 0.0.0.0/0 via {router.lan4}.1 dev eth0",
        f"route add ::/0 via {router.lan6}:1 dev eth0",
    )
    return Namespace(router.client, lines)


def _site(site: Site) -> Namespace:
    # What comes out of the tunnel may go on, in the site's name. What comes for an address that the site has
    # left must vanish in silence, as it would out there, not be forwarded.
    more = "\n".join(f"udp dport {port} dnat to :{site.port}" for port in site.more_ports)
    rules = f"""
        table inet site {{
            chain prerouting {{ type nat hook prerouting priority dstnat; {more}
            }}
            chain forward {{
                type filter hook forward priority filter; policy drop;
                ct state established,related accept
                iifname "wg*" accept
            }}
            chain postrouting {{
                type nat hook postrouting priority srcnat;
                iifname "wg*" oifname "net" masquerade
            }}
            chain eloop {{
                type filter hook output priority filter;
                oifname "wg*" udp sport {site.port} drop
            }}
        }}"""
    return _stub(site.name, site.home_a, rules, forwards=True)


def wire(topology: Topology) -> Wiring:
    """Lay out every box and cable of a topology."""
    dns = (*(address for isp in topology.isps for address in isp.resolvers), *WELL_KNOWN)
    stubs = {"dns": dns, "web": (*WEB, *TARGETS)}
    if topology.broker:
        stubs["broker"] = BROKER
    alive = tuple(site for site in topology.sites if site.alive)
    behind = {name: tuple(map(host, addresses)) for name, addresses in stubs.items()}
    behind |= {isp.namespace: (isp.pool4, isp.pool6) for isp in topology.isps}
    behind |= {site.name: tuple(map(host, site.all_homes)) for site in alive}

    boxes = [_core(behind), *(_stub(name, addresses) for name, addresses in stubs.items())]
    boxes += [_isp(isp) for isp in topology.isps] + [_site(site) for site in alive]
    links = [Link("core", core_device(name), name, "net") for name in behind]
    for router in topology.routers:
        uplinks = topology.uplinks(router.name)
        boxes += [_router(router, uplinks), _client(router)]
        links.append(Link(router.name, "br-lan", router.client, "eth0"))
        links += [
            Link(router.name, isp.device, isp.namespace, "sub", isp.mtu, isp.slow_carrier) for isp in uplinks
        ]
    return Wiring(tuple(boxes), tuple(links))
