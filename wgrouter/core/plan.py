"""Intent − World = the shortest ordered list of effects; an empty one when the kernel is as wanted.

Order: rules against what must not leave by a WAN any more, then routes are added (the active table's first:
that is the switch), then rules (with endpoints, where sources are left), then marks, then the nft table; only
then rules and routes that are no longer wanted go, rules first. So after every step of a plan a packet that
had a way before has one. Nothing without our protocol number in our ranges is ever touched.
"""

from __future__ import annotations

from collections import Counter

from wgrouter.core import balance, ranges
from wgrouter.core.messages import (
    AddRoute,
    AddRule,
    ApplyNft,
    DeleteRoute,
    DeleteRule,
    Effect,
    RemoveNft,
    SetEndpoint,
    SetFwmark,
)
from wgrouter.core.model import Net, Route, Rule, World
from wgrouter.core.records import replace
from wgrouter.core.routing import Wanted
from wgrouter.core.settings import Routing, Settings


def plan(wanted: Wanted, world: World, settings: Settings) -> tuple[Effect, ...]:
    """The minimal difference. Nothing before the first look: what is not known cannot be compared."""
    if world.net is None:
        return ()
    routing = settings.routing
    there = {same(route) for route in our_routes(world.net, routing)}
    rules = Counter(our_rules(world.net, routing))
    missing = [route for route in wanted.routes if same(route) not in there and _possible(route, world.net)]
    missing.sort(
        key=lambda route: (
            route.table != ranges.active_table(routing),
            route.family,
            route.table,
            route.metric,
        )
    )
    # NLM_F_REPLACE has exchanged a route of the same table, destination and metric: it is not there to be
    # deleted.
    replaced = {_slot(route) for route in missing}
    fresh = [rule for rule in wanted.rules if rules[rule] == 0]
    first = [rule for rule in fresh if rule.preference == routing.rule_base + ranges.PREF_LEAVING]
    turned = [rule for rule in first if rule.action != "blackhole"]
    anew = _sources_anew(wanted, world, {rule.family for rule in turned})
    effects: list[Effect] = [AddRule(rule) for rule in first if rule not in turned]
    effects += [AddRoute(route) for route in missing]
    effects += [*anew, *map(AddRule, turned), *anew]
    effects += [AddRule(rule) for rule in fresh if rule not in first]
    effects += _marks(wanted, world, settings)
    effects += _nft(wanted, world)
    wanted_rules = set(wanted.rules)
    for rule, count in rules.items():
        # Deleting one of two equal rules deletes either: the duplicates go, one stays.
        effects += [DeleteRule(rule)] * (count - 1 if rule in wanted_rules else count)
    wanted_routes = {same(route) for route in wanted.routes}
    seen: set[Route] = set()
    for route in our_routes(world.net, routing):
        if same(route) in wanted_routes or same(route) in seen:
            continue
        seen.add(same(route))
        if _slot(route) not in replaced:
            effects.append(DeleteRoute(same(route)))
    return tuple(effects)


def _sources_anew(wanted: Wanted, world: World, families: set[int]) -> list[Effect]:
    """WireGuard forgets its source when an endpoint is set: before a rule leads the old source where it does
    not belong, and after it, for a packet may have come to the old address meanwhile.
    """
    return [
        SetEndpoint(device, key, peer.endpoint)
        for device, seen in (world.wireguard or {}).items()
        for key, peer in seen.peers.items()
        if peer.endpoint is not None
        and peer.endpoint.family in families
        and (device, peer.endpoint.family) in wanted.leaving
    ]


def unsettled(effects: tuple[Effect, ...]) -> tuple[frozenset[int], frozenset[str]]:
    """Families whose routing, and devices whose mark, the World does not show as wanted yet."""
    families: set[int] = set()
    devices: set[str] = set()
    for effect in effects:
        if isinstance(effect, (AddRoute, DeleteRoute)):
            families.add(effect.route.family)
        elif isinstance(effect, (AddRule, DeleteRule)):
            families.add(effect.rule.family)
        elif isinstance(effect, SetFwmark):
            devices.add(effect.device)
    return frozenset(families), frozenset(devices)


def clean(world: World, settings: Settings) -> tuple[Effect, ...]:
    """Everything of ours goes, catch-all rules before the routes they lead to, so that netifd's own routes
    serve at once.
    """
    if world.net is None:
        return ()
    routing = settings.routing
    rules = sorted(our_rules(world.net, routing), key=lambda rule: -rule.preference)
    effects: list[Effect] = [DeleteRule(rule) for rule in rules]
    effects += [DeleteRoute(same(route)) for route in our_routes(world.net, routing)]
    effects += [
        SetFwmark(device, 0)
        for device, seen in (world.wireguard or {}).items()
        if ranges.is_our_mark(routing, seen.fwmark)
        and device in {tunnel.device for tunnel in settings.tunnels}
    ]
    if world.nft:
        effects.append(RemoveNft())
    return tuple(effects)


def our_routes(net: Net, routing: Routing) -> tuple[Route, ...]:
    """Routes with our protocol in one of our tables."""
    return tuple(route for route in net.routes if ranges.is_our_route(routing, route))


def our_rules(net: Net, routing: Routing) -> tuple[Rule, ...]:
    """Rules with our protocol in our range."""
    return tuple(rule for rule in net.rules if ranges.is_our_rule(routing, rule))


def same(route: Route) -> Route:
    """The route without what only the kernel says about it: two equal results are one route."""
    hops = route.hops if route.kind == "unicast" else ()  # IPv6 shows `dev lo` on an unreachable route
    return replace(route, hops=hops, linkdown=False, expires=False)


def _slot(route: Route) -> tuple[int, int, str, str, int]:
    return (route.family, route.table, route.dst, route.src, route.metric)


def _possible(route: Route, net: Net) -> bool:
    """The kernel refuses a route by a device that is missing or administratively down: no use asking."""
    return all(hop.device in net.links and net.links[hop.device].up for hop in route.hops)


def _marks(wanted: Wanted, world: World, settings: Settings) -> list[Effect]:
    seen = world.wireguard or {}
    effects: list[Effect] = [
        SetFwmark(device, mark)
        for device, mark in wanted.fwmarks.items()
        if device in seen and seen[device].fwmark != mark
    ]
    for tunnel in settings.tunnels:  # left over from before routing was switched off or left to somebody
        device = seen.get(tunnel.device)
        ours = device is not None and ranges.is_our_mark(settings.routing, device.fwmark)
        if ours and tunnel.device not in wanted.fwmarks and tunnel.fwmark == 0:
            effects.append(SetFwmark(tunnel.device, 0))
    return effects


def _nft(wanted: Wanted, world: World) -> list[Effect]:
    if world.nft is None:
        return []
    if wanted.nft is None:
        return [RemoveNft()] if world.nft else []
    return [ApplyNft(wanted.nft)] if balance.digest(wanted.nft) != world.nft else []
