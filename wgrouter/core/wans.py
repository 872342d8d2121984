"""Which uplinks there are: the WANs of the configuration, or the holders of default routes, as one look at
the World shows them.

A pure view, per WAN and family. Decides nothing about whether a WAN works (links.py) or is used (uplink.py).
The kernel's main table is read, never written: a WAN's default route there stays netifd's. netifd adds names
and, where the kernel has lost the route (an `ip link set down; up` from outside drops it and netifd never
restores it), the next hop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from wgrouter.core import ranges
from wgrouter.core.model import IPV4, IPV6, RT_TABLE_MAIN, Hop, Interface, Net, Route, World
from wgrouter.core.records import dataclass
from wgrouter.core.settings import Settings, Wan

# A default route through one of these is a tunnel over a WAN, not a WAN (a configured WAN may be anything).
TUNNEL_KINDS = ("wireguard", "tun")
FAMILIES = (IPV4, IPV6)


@dataclass(frozen=True, slots=True)
class Path:
    """A WAN over one family. Without carrier or next hop it is known but cannot carry anything."""

    wan: str
    family: int
    index: int  # of its table and marks; 0: no room for one, so it is watched but never steered to
    device: str = ""
    gateway: str = ""  # "" on a point-to-point device
    onlink: bool = False
    source: str = ""  # the preferred source of main's route
    sources: tuple[str, ...] = ()  # global addresses of the device and prefixes delegated by this WAN
    metric: int = 0  # of main's default route
    priority: int = 10
    carrier: bool = False  # the device is there, up, and has carrier
    routed: bool = False  # a next hop is known

    @property
    def key(self) -> tuple[str, int]:
        return (self.wan, self.family)

    @property
    def works(self) -> bool:
        """Whether a packet could leave at all."""
        return self.carrier and self.routed


def options(settings: Settings, name: str) -> Wan:
    """The configuration of a WAN; the defaults for one that was discovered."""
    for wan in settings.wans:
        if wan.name == name:
            return wan
    return Wan(name=name)


def discover(
    world: World, settings: Settings, known: Mapping[str, int], called: Mapping[str, str] | None = None
) -> tuple[Path, ...]:
    """Every WAN over every family in which it has (or is configured to have) a way out, best first.

    `called` is the name of each device's WAN until now: it stays where netifd was not heard before, or is not
    heard now. Under another name a WAN would be another one, with other tables, beside the old one.
    `known` is the index of each WAN seen before. A new one takes over the number under which its device is
    found in our own tables (so a restart after a crash renumbers nothing), else its place in the
    configuration, else the first free number.
    """
    if world.net is None:
        return ()
    if settings.wans:
        found = _configured(world, world.net, settings)
    else:
        found = _holders(world, world.net, settings, called or {})
    numbers = _numbers(found, world.net, settings, known)
    return tuple(_path(world.net, candidate, numbers[candidate.wan]) for candidate in found)


def foreign_default(world: World, paths: Iterable[Path], family: int) -> str:
    """The device by which main sends everything although it is none of our WANs (a full tunnel), "" if there
    is none.

    Two halves (0.0.0.0/1 and 128.0.0.0/1, ::/1 and 8000::/1) count as a default route: they are how VPN
    programs write one.
    """
    if world.net is None:
        return ""
    ours = {path.device for path in paths}
    main = [route for route in world.net.routes if route.table == RT_TABLE_MAIN and route.family == family]
    halves = ("0.0.0.0/1", "128.0.0.0/1") if family == IPV4 else ("::/1", "8000::/1")
    for hop in (hop for route in main if route.dst == halves[0] for hop in route.hops):
        if hop.device not in ours and any(r.dst == halves[1] and hop.device in _devices(r) for r in main):
            return hop.device
    defaults = [
        r for r in main if r.is_default and r.kind == "unicast" and not r.src and not r.linkdown and r.hops
    ]
    if not defaults:
        return ""
    best = min(defaults, key=lambda route: route.metric)
    return "" if any(hop.device in ours for hop in best.hops) else best.hops[0].device


# ---------------------------------------------------------------- candidates


@dataclass(frozen=True, slots=True)
class _Candidate:
    wan: str
    family: int
    device: str
    priority: int
    route: Route | None
    gateways: tuple[str, ...]  # of netifd, for want of a route
    place: int  # in the configuration, from 1; 0: discovered


def _configured(world: World, net: Net, settings: Settings) -> list[_Candidate]:
    found: list[_Candidate] = []
    for place, wan in enumerate(settings.wans, start=1):
        if not wan.enabled:
            continue
        interface = (world.interfaces or {}).get(wan.interface)
        device = (
            (interface.device if interface else "")
            or wan.device
            or settings.interfaces.get(wan.interface, "")
        )
        if not device and world.interfaces is None:
            device = wan.interface  # no netifd here, so it can only be a device
        mine: list[_Candidate] = []
        for family in wan.families:
            route = _best_default(net, device, family)
            gateways = _gateways(world.interfaces or {}, device, family)
            if route is not None or gateways:
                mine.append(_Candidate(wan.name, family, device, wan.priority, route, gateways, place))
        if not mine and wan.families:  # something to show, and to tell when it comes
            mine.append(_Candidate(wan.name, wan.families[0], device, wan.priority, None, (), place))
        found.extend(mine)
    return found


def _holders(world: World, net: Net, settings: Settings, called: Mapping[str, str]) -> list[_Candidate]:
    tunnels = {tunnel.device for tunnel in settings.tunnels} | set(world.wireguard or {})
    found: dict[tuple[str, int], _Candidate] = {}
    for route in sorted(_defaults(net), key=lambda route: (route.metric, route.family, _devices(route))):
        for hop in route.hops:
            link = net.links.get(hop.device)
            if (
                hop.device in tunnels
                or hop.device == "lo"
                or (link is not None and link.kind in TUNNEL_KINDS)
            ):
                continue
            name = _interface_name(world.interfaces or {}, hop.device)
            if hop.device in (name, called.get(hop.device)):
                name = called.get(hop.device, name)
            # Asked to balance without a word about weights: all discovered WANs are equals.
            priority = 10 if settings.routing.balance else route.metric
            found.setdefault(
                (name, route.family), _Candidate(name, route.family, hop.device, priority, route, (), 0)
            )
    return list(found.values())


def _path(net: Net, candidate: _Candidate, index: int) -> Path:
    link = net.links.get(candidate.device)
    carrier = link is not None and link.up and link.carrier
    hop = _hop(candidate.route, candidate.device)
    if hop is None and candidate.gateways:
        hop = Hop(candidate.gateways[0], candidate.device)
    return Path(
        wan=candidate.wan,
        family=candidate.family,
        index=index,
        device=candidate.device,
        gateway=hop.gateway if hop else "",
        onlink=hop.onlink if hop else False,
        source=candidate.route.source if candidate.route else "",
        sources=_sources(net, candidate.device, candidate.family),
        metric=candidate.route.metric if candidate.route else 0,
        priority=candidate.priority,
        carrier=carrier,
        routed=hop is not None,
    )


def _numbers(
    found: list[_Candidate], net: Net, settings: Settings, known: Mapping[str, int]
) -> dict[str, int]:
    routing = settings.routing
    places = {candidate.wan: candidate.place for candidate in found if candidate.place}
    names = list(dict.fromkeys(candidate.wan for candidate in found))
    room = ranges.capacity(routing)
    numbers = {name: place if place <= room else 0 for name, place in places.items()}
    if not settings.wans:
        numbers |= {name: known[name] for name in names if name in known}
        taken = set(known.values())
        ours = {
            hop.device: ranges.index_of_table(routing, route.table)
            for route in net.routes
            if ranges.is_our_route(routing, route)
            for hop in route.hops
            if ranges.index_of_table(routing, route.table)
        }
        devices = {candidate.wan: candidate.device for candidate in found}
        fresh = [name for name in names if name not in numbers]
        for name in fresh:
            index = ours.get(devices[name], 0)
            if index and index not in taken:
                numbers[name] = index
                taken.add(index)
        for name in fresh:
            if name not in numbers:
                numbers[name] = next((i for i in range(1, room + 1) if i not in taken), 0)
                taken.add(numbers[name])
    return numbers


# ---------------------------------------------------------------- reading the World


def _devices(route: Route) -> tuple[str, ...]:
    return tuple(hop.device for hop in route.hops)


def _hop(route: Route | None, device: str) -> Hop | None:
    return next((hop for hop in route.hops if hop.device == device), None) if route else None


def _defaults(net: Net) -> list[Route]:
    return [r for r in net.routes if r.table == RT_TABLE_MAIN and r.is_default and r.kind == "unicast"]


def _best_default(net: Net, device: str, family: int) -> Route | None:
    mine = [route for route in _defaults(net) if route.family == family and device in _devices(route)]
    return min(mine, key=lambda route: (bool(route.src), route.metric, route.hops[0].gateway), default=None)


def _gateways(interfaces: Mapping[str, Interface], device: str, family: int) -> tuple[str, ...]:
    return tuple(
        gateway
        for name in sorted(interfaces)
        if device and interfaces[name].device == device and interfaces[name].up
        for gateway in interfaces[name].gateways
        if (":" in gateway) == (family == IPV6)
    )


def _interface_name(interfaces: Mapping[str, Interface], device: str) -> str:
    """netifd's name for the device ("wan" before "wan6"), the device's own without one."""
    return min((name for name, interface in interfaces.items() if interface.device == device), default=device)


def _sources(net: Net, device: str, family: int) -> tuple[str, ...]:
    addresses = {
        address.address
        for address in net.addresses
        if address.device == device
        and address.family == family
        and address.scope == "global"
        and address.usable
    }
    delegated = {
        route.src
        for route in _defaults(net)
        if route.src and route.family == family and device in _devices(route)
    }
    return tuple(sorted(addresses | delegated))
