"""What the World means to names and tunnels: which families have an uplink, which devices carry it,
whom to ask for names.

Pure reading of the kernel's tables as they are; which uplink *should* carry traffic is uplink.py's business.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from wgrouter.core.model import RT_TABLE_MAIN, Nameserver, Net, Route, World
from wgrouter.core.records import dataclass
from wgrouter.core.settings import Settings

DNS_PORT = 53


@dataclass(frozen=True, slots=True)
class Exit:
    """A default route that can carry outer packets."""

    family: int
    device: str
    gateway: str
    metric: int


def exits(net: Net | None, tunnels: frozenset[str]) -> tuple[Exit, ...]:
    """The main table's default routes over devices with carrier that are not tunnels of ours, best metric
    first.
    """
    if net is None:
        return ()
    found = []
    for route in net.routes:
        if route.table != RT_TABLE_MAIN or not route.is_default or route.kind != "unicast":
            continue
        for hop in route.hops:
            link = net.links.get(hop.device)
            if (
                link is None
                or not (link.up and link.carrier)
                or hop.device in tunnels
                or link.kind == "wireguard"
            ):
                continue
            found.append(Exit(route.family, hop.device, hop.gateway, route.metric))
    return tuple(sorted(found, key=lambda exit_: (exit_.family, exit_.metric, exit_.device)))


def reachable(found: tuple[Exit, ...]) -> frozenset[int]:
    """The families with any exit."""
    return frozenset(exit_.family for exit_ in found)


def signature(net: Net | None, found: tuple[Exit, ...]) -> tuple[str, ...]:
    """Changes when the network around the tunnels changes: exits and the addresses on their devices."""
    if net is None:
        return ()
    devices = {exit_.device for exit_ in found}
    addresses = [
        f"{a.device} {a.prefix}"
        for a in net.addresses
        if a.device in devices and a.usable and a.scope == "global"
    ]
    return tuple(sorted([f"{e.family} {e.device} {e.gateway}" for e in found] + addresses))


def nameservers(world: World, settings: Settings, found: tuple[Exit, ...]) -> tuple[Nameserver, ...]:
    """Whom to ask, in order: configured servers, else those the uplinks gave (`resolv.conf.auto`,
    netifd), else resolv.conf's.

    A server beyond an uplink is asked through that uplink's device, so that a full tunnel that is down
    cannot swallow the question; one on this router or its LAN is asked as the kernel routes it.
    """
    if settings.dns.servers:
        listed = [_configured(text) for text in settings.dns.servers]
    else:
        listed = [server for server in world.nameservers if server.interface]
        for interface in (world.interfaces or {}).values():
            if interface.up:
                listed += [Nameserver(address, DNS_PORT, "", interface.name) for address in interface.dns]
        listed = listed or list(world.nameservers)
    usable: dict[tuple[str, int, str], Nameserver] = {}
    for server in listed:
        for device in _devices(server, world, settings, found):
            usable.setdefault(
                (server.address, server.port, device),
                Nameserver(server.address, server.port, device, server.interface),
            )
    return tuple(usable.values())


def _configured(text: str) -> Nameserver:
    address, _, port = text.partition("#")
    return Nameserver(address, int(port) if port else DNS_PORT)


def _devices(
    server: Nameserver, world: World, settings: Settings, found: tuple[Exit, ...]
) -> tuple[str, ...]:
    """The devices to ask this server through: its own uplink's, else every exit of its family, best first;
    "" for none.
    """
    if server.device:
        return (server.device,)
    if world.net is not None and is_near(server.address, world.net, found):
        return ("",)
    family = 6 if ":" in server.address else 4
    own = _device_of(server.interface, world, settings)
    if any(exit_.device == own for exit_ in found):
        return (own,)
    if own:
        return ()  # its uplink is down: it would not answer anyone else's question
    devices = tuple(dict.fromkeys(exit_.device for exit_ in found if exit_.family == family))
    return devices or ("",)


def _device_of(interface: str, world: World, settings: Settings) -> str:
    known = (world.interfaces or {}).get(interface)
    return known.device if known and known.device else settings.interfaces.get(interface, "")


def is_near(address: str, net: Net, found: tuple[Exit, ...]) -> bool:
    """Loopback, or inside a prefix that main routes other than by its default."""
    where = ipaddress.ip_address(address)
    if where.is_loopback:
        return True
    if any(a.address == address for a in net.addresses):
        return True
    outside = {exit_.device for exit_ in found}
    return any(
        _covers(route, where) and any(hop.device not in outside for hop in route.hops)
        for route in net.routes
        if route.table == RT_TABLE_MAIN and not route.is_default
    )


def _covers(route: Route, where: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return where in _network(route.dst)


@lru_cache(maxsize=1024)  # as many routes as peers, and parsing one takes 30 µs
def _network(prefix: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(prefix, strict=False)
