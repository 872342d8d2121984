"""What the kernel's routing should be: routes, rules and device marks, computed afresh from the World and the
choice made.

Decides nothing about which WAN is good or used, and nothing about how to get there (plan.py). Never wants
anything in main. The map of tables, preferences and marks is in ranges.py. What is steered:
- probes and tunnels' outer packets by their marks, before main, as soon as there is one WAN;
- all else only with two or more WANs, after main's specific routes, and not at all while main's best
  default belongs to somebody else (a full tunnel): no LAN packet may leave a tunnel because a WAN failed;
- nothing while mwan3 is at work: one router, one policy router.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from wgrouter.core import balance, ranges
from wgrouter.core.findings import Finding, Why
from wgrouter.core.links import Uplink
from wgrouter.core.model import IPV4, RT_TABLE_MAIN, DeviceSeen, Hop, Net, Route, Rule, World
from wgrouter.core.records import dataclass, field
from wgrouter.core.settings import Routing, Settings, Tunnel
from wgrouter.core.wans import foreign_default

T = TypeVar("T")

FAMILIES = (4, 6)
FULL = 0xFFFFFFFF

# Neighbours, by what they leave in the rule list.
MWAN3_MASK = 0x3F00
MWAN3_PREFERENCES = range(1000, 4000)
FOREIGN_MASK = 0x00FF0000  # of pbr and of Tailscale
PBR_PREFERENCES = range(29000, 30100)
TAILSCALE_PREFERENCES = range(5200, 5300)
TAILSCALE_TABLE = 52


@dataclass(frozen=True, slots=True)
class Wanted:
    """What should be true of everything that is ours. `fwmarks` names only devices whose mark is ours to
    set.
    """

    routes: tuple[Route, ...] = ()
    rules: tuple[Rule, ...] = ()
    fwmarks: Mapping[str, int] = field(default_factory=dict)
    courses: Mapping[tuple[str, int], str] = field(default_factory=dict)  # (tunnel device, family) → WAN
    leaving: frozenset[tuple[str, int]] = frozenset()  # of the courses, those that change or just did
    steering: bool = False  # routing is ours to do: switched on, and not left to mwan3
    nft: str | None = None  # the ruleset of `table inet wgrouter`; None: that table should not be


def intent(
    world: World,
    uplinks: tuple[Uplink, ...],
    choices: Mapping[int, str],
    settings: Settings,
    resting: Mapping[tuple[str, int], str] | None = None,
    detours: Mapping[str, str] | None = None,
) -> Wanted:
    """The whole of it. Empty while routing is off or left to mwan3. `resting`: see uplink.resting; `detours`:
    by device, the WAN to go by instead (detours.py).
    """
    routing = settings.routing
    off = not (settings.enabled and routing.enabled and ranges.capacity(routing))
    if world.net is None or off or yielded(world):
        return Wanted()
    routes: list[Route] = []
    rules: list[Rule] = []
    fwmarks: dict[str, int] = {}
    courses: dict[tuple[str, int], str] = {}
    leaving: set[tuple[str, int]] = set()
    closed: set[int] = set()
    for family in FAMILIES:
        here = tuple(u for u in uplinks if u.path.family == family and u.path.index)
        wan = choices.get(family, "")
        chosen = next((u for u in here if u.path.wan == wan and u.path.works), None)
        routes += _routes(here, chosen, routing)
        rules += _outer_rules(here, chosen, family, routing)
        full_tunnel = bool(foreign_default(world, (u.path for u in here), family))
        if full_tunnel:
            closed.add(family)
        if chosen is not None and len(here) > 1:
            rules += _open_rules(here, chosen, full_tunnel, _pbr(world.net), routing)
        place = 0
        for tunnel in settings.tunnels:
            seen = (world.wireguard or {}).get(tunnel.device)
            pinned = ranges.pinned_mark(routing, place) if tunnel.wans else 0
            place += 1 if tunnel.wans else 0
            if seen is None:
                continue
            own = _own_mark(tunnel, seen, routing)
            detour = "" if own else (detours or {}).get(tunnel.device, "")
            there = any(u.path.wan == detour and u.path.works for u in here)
            course = detour if there else preferred(tunnel, here, wan)
            if course:
                courses[(tunnel.device, family)] = course
            bound = 0 if pinned else next((u.path.index for u in uplinks if u.path.wan == detour), 0)
            ours = ranges.strict_mark(routing, bound) if bound else pinned or ranges.tunnel_mark(routing)
            mark, mask = (own, FULL) if own else (ours, routing.mark_mask)
            rest = (resting or {}).get((tunnel.device, family))
            moving = rest != course if rest is not None else _was_leaving(world.net, family, mark, routing)
            if course and moving and any(peer.endpoints for peer in tunnel.peers):
                leaving.add((tunnel.device, family))
                rules += _leaving_rules(here, course, wan, family, mark, mask, seen.userspace, routing)
            if own or pinned or (bound and not there):
                rules += _marked_rules(here, course, wan, family, mark, bool(own), routing)
            if not own and any(u.path.index for u in uplinks):
                fwmarks[tunnel.device] = ours
    table = balance.ruleset(uplinks, choices, frozenset(closed), settings)
    return Wanted(_once(routes), _once(rules), fwmarks, courses, frozenset(leaving), True, table)


def basis(uplinks: tuple[Uplink, ...]) -> tuple[tuple[object, ...], ...]:
    """What of the paths `intent` looks at: while this, the choices, the World and the settings stay, so does
    it.
    """
    return tuple((uplink.path, uplink.state) for uplink in uplinks)


def mark_of(uplinks: Iterable[Uplink], settings: Settings, wan: str) -> int:
    """The mark that holds a packet of ours (a DNS query, a probe) to a WAN, 0 if there is none."""
    index = next((uplink.path.index for uplink in uplinks if uplink.path.wan == wan), 0)
    return ranges.strict_mark(settings.routing, index) if index else 0


# ---------------------------------------------------------------- routes


def _routes(here: tuple[Uplink, ...], chosen: Uplink | None, routing: Routing) -> list[Route]:
    routes: list[Route] = []
    if chosen is not None:
        routes.append(_default(chosen, ranges.active_table(routing), routing))
    for uplink in here:
        table = ranges.table_of(routing, uplink.path.index)
        if uplink.path.works:
            routes.append(_default(uplink, table, routing))
        # A probe of this WAN must fail rather than leave by another one and prove nothing.
        dst = "0.0.0.0/0" if uplink.path.family == IPV4 else "::/0"
        routes.append(
            Route(
                uplink.path.family,
                table,
                dst,
                metric=ranges.METRIC_UNREACHABLE,
                protocol=routing.protocol,
                kind="unreachable",
            )
        )
    return routes


def _default(uplink: Uplink, table: int, routing: Routing) -> Route:
    path = uplink.path
    return Route(
        path.family,
        table,
        "0.0.0.0/0" if path.family == IPV4 else "::/0",
        (Hop(path.gateway, path.device, onlink=path.onlink),),
        metric=ranges.METRIC,
        protocol=routing.protocol,
        source=path.source,
    )


# ---------------------------------------------------------------- rules


def _rule(
    family: int,
    preference: int,
    table: int,
    routing: Routing,
    mark: int = 0,
    mask: int = 0,
    src: str = "",
    suppress: int = -1,
    action: str = "to_table",
) -> Rule:
    return Rule(
        family,
        routing.rule_base + preference,
        table,
        mark=mark,
        mask=mask,
        src=src,
        suppress=suppress,
        protocol=routing.protocol,
        action=action,
    )


def _sources(here: Iterable[Uplink], chosen: str) -> list[tuple[str, int]]:
    """(prefix, WAN index) of every address that packets should leave by its own WAN with: none of a WAN that
    does not work.

    WireGuard caches the source of its last packet; with a rule for that source it would stay on the dead WAN
    (measured: 15.7 s with traffic in the tunnel, for ever without). An address on two WANs tells nothing.
    """
    owners: dict[str, list[Uplink]] = {}
    for uplink in here:
        for source in uplink.path.sources:
            owners.setdefault(source, []).append(uplink)
    found = []
    for source, uplinks in owners.items():
        uplink = uplinks[0]
        live = uplink.answers or uplink.usable or uplink.path.wan == chosen
        if len(uplinks) == 1 and uplink.path.works and live:
            whole = "/32" if uplink.path.family == IPV4 else "/128"
            found.append((source if "/" in source else source + whole, uplink.path.index))
    return found


def _outer_rules(
    here: tuple[Uplink, ...], chosen: Uplink | None, family: int, routing: Routing
) -> list[Rule]:
    """Rules for packets that carry one of our outer marks: probes and tunnels."""
    outer = ranges.outer_bit(routing)
    mask = routing.mark_mask
    rules = [
        _rule(
            family, ranges.PREF_OUTER_SOURCE, ranges.table_of(routing, index), routing, outer, outer, source
        )
        for source, index in _sources(here, chosen.path.wan if chosen else "")
    ]
    for uplink in here:
        index = uplink.path.index
        mark = ranges.strict_mark(routing, index)
        table = ranges.table_of(routing, index)
        rules.append(_rule(family, ranges.PREF_STRICT + index, table, routing, mark, mask))
    if chosen is not None:
        table, mark = ranges.active_table(routing), ranges.tunnel_mark(routing)
        rules.append(_rule(family, ranges.PREF_TUNNEL, table, routing, mark, mask))
    return rules


def _leaving_rules(
    here: tuple[Uplink, ...],
    course: str,
    chosen: str,
    family: int,
    mark: int,
    mask: int,
    userspace: bool,
    routing: Routing,
) -> list[Rule]:
    """For a moment after a tunnel's move nothing of it leaves by a WAN that it has left.

    WireGuard answers from the address that the last packet came to. So what is still on its way to the old
    WAN takes the tunnel back there, and a busy one never leaves (seen at 40 ms round trip and 100 packets a
    second). "blackhole" gives EINVAL, at which WireGuard chooses a source anew for the same packet
    (drivers/net/wireguard/socket.c, send4; wireguard-go's send6). The kernel's send6 does not, and
    wireguard-go's send4 names the device too, at which ip_route_output_key takes the target for a neighbour
    instead: there the old source may have the new way, and the endpoint is set again and again.
    """
    kept = {source for u in here if u.path.wan == course for source in u.path.sources}
    left = [s for u in here for s in u.path.sources if s not in kept and "/" not in s]
    index = next((u.path.index for u in here if u.path.wan == course), 0)
    if not index:
        return []
    lost = (family == IPV4) != userspace
    whole, action = ("/32" if family == IPV4 else "/128"), ("blackhole" if lost else "to_table")
    way = ranges.active_table(routing) if course == chosen else ranges.table_of(routing, index)
    table = 0 if lost else way
    return [
        _rule(family, ranges.PREF_LEAVING, table, routing, mark, mask, source + whole, action=action)
        for source in dict.fromkeys(left)
    ]


def _was_leaving(net: Net, family: int, mark: int, routing: Routing) -> bool:
    """Whether an agent that was killed has left such rules: it did not see the move through."""
    preference = routing.rule_base + ranges.PREF_LEAVING
    return any(
        r.family == family
        and r.preference == preference
        and r.mark == mark
        and ranges.is_our_rule(routing, r)
        for r in net.rules
    )


def _marked_rules(
    here: tuple[Uplink, ...], wan: str, chosen: str, family: int, mark: int, own: bool, routing: Routing
) -> list[Rule]:
    """Rules for one tunnel's mark: a pinned one of ours, or one that the configuration gave (`own`: its
    sources come first).
    """
    index = next((u.path.index for u in here if u.path.wan == wan), 0)
    if not index:
        return []
    mask = FULL if own else routing.mark_mask
    table = ranges.active_table(routing) if wan == chosen else ranges.table_of(routing, index)
    rules = [_rule(family, ranges.PREF_ADOPTED, table, routing, mark, mask)]
    if own:
        rules += [
            _rule(
                family, ranges.PREF_ADOPTED_SOURCE, ranges.table_of(routing, i), routing, mark, mask, source
            )
            for source, i in _sources(here, chosen)
        ]
    return rules


def _open_rules(
    here: tuple[Uplink, ...], chosen: Uplink, full_tunnel: bool, foreign_marks: bool, routing: Routing
) -> list[Rule]:
    """Rules for all other traffic, after main's specific routes. A full tunnel in main keeps what has no WAN
    of its own.
    """
    family = chosen.path.family
    rules = [_rule(family, ranges.PREF_MAIN, RT_TABLE_MAIN, routing, suppress=0)]
    rules += [
        _rule(family, ranges.PREF_SOURCE, ranges.table_of(routing, index), routing, src=source)
        for source, index in _sources(here, chosen.path.wan)
    ]
    if full_tunnel:
        return rules
    for uplink in here:
        if uplink.answers or uplink.usable or uplink is chosen:
            index = uplink.path.index
            mark, table = ranges.flow_mark(routing, index), ranges.table_of(routing, index)
            rules.append(_rule(family, ranges.PREF_FLOW + index, table, routing, mark, routing.mark_mask))
    # pbr's own rules come after ours: what it marked is left to them.
    mask = FOREIGN_MASK if foreign_marks else 0
    rules.append(_rule(family, ranges.PREF_ACTIVE, ranges.active_table(routing), routing, 0, mask))
    return rules


def _once(items: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(items))


# ---------------------------------------------------------------- tunnels


def _own_mark(tunnel: Tunnel, seen: DeviceSeen, routing: Routing) -> int:
    """A mark that somebody else gave the device, by configuration or by hand: adopted, not replaced."""
    if tunnel.fwmark:
        return tunnel.fwmark
    return 0 if ranges.is_our_mark(routing, seen.fwmark) else seen.fwmark


def preferred(tunnel: Tunnel, here: tuple[Uplink, ...], chosen: str) -> str:
    """The WAN for a tunnel's outer packets: the first of its own that works, else the one chosen for all,
    else the first with carrier.
    """
    mine = [u for name in tunnel.wans for u in here if u.path.wan == name and u.path.works]
    good = [u for u in mine if u.usable] or [u for u in mine if u.answers]
    if good:
        return good[0].path.wan
    best = next((u for u in here if u.path.wan == chosen), None)
    if mine and (best is None or not (best.usable or best.answers)):
        return mine[0].path.wan
    return chosen


def ways(
    world: World,
    uplinks: tuple[Uplink, ...],
    choices: Mapping[int, str],
    settings: Settings,
    device: str,
    family: int,
) -> tuple[str, ...]:
    """The WANs by which a tunnel's outer packets can be sent: the one that `preferred` says, then other
    usable ones. None where its mark is not ours to set.
    """
    tunnel = next((tunnel for tunnel in settings.tunnels if tunnel.device == device), None)
    seen = (world.wireguard or {}).get(device)
    routing = settings.routing
    if tunnel is None or seen is None or not (settings.enabled and routing.enabled) or yielded(world):
        return ()
    here = tuple(u for u in uplinks if u.path.family == family and u.path.index)
    usual = preferred(tunnel, here, choices.get(family, ""))
    if not usual or _own_mark(tunnel, seen, routing):
        return ()
    return (usual, *(u.path.wan for u in here if u.usable and u.path.wan != usual))


# ---------------------------------------------------------------- neighbours


def yielded(world: World) -> bool:
    """Whether mwan3 routes here: its rules match marks under its mask."""
    rules = world.net.rules if world.net else ()
    return any(rule.mask == MWAN3_MASK and rule.preference in MWAN3_PREFERENCES for rule in rules)


def neighbours(world: World) -> tuple[Finding, ...]:
    """Who else steers traffic here, for telling once per change."""
    if world.net is None:
        return ()
    found: list[Finding] = []
    seen: dict[str, str] = {}
    for rule in world.net.rules:
        if rule.mask == MWAN3_MASK and rule.preference in MWAN3_PREFERENCES:
            who = "mwan3"
        elif rule.preference in TAILSCALE_PREFERENCES and (
            rule.mask == FOREIGN_MASK or rule.table == TAILSCALE_TABLE
        ):
            who = "Tailscale"
        elif rule.mask == FOREIGN_MASK and rule.preference in PBR_PREFERENCES:
            who = "pbr"
        else:
            continue
        seen.setdefault(who, f"rule {rule.preference}, mask 0x{rule.mask:x}, table {rule.table}")
    for who, evidence in seen.items():
        if who == "mwan3":
            reason = f"mwan3 is active ({evidence}): routing is left to it, tunnels are still cared for"
            found.append(Finding(Why.ROUTING_YIELDED, "mwan3", {"reason": reason}))
        else:
            found.append(Finding(Why.NEIGHBOUR_SEEN, who, {"who": who, "evidence": evidence}))
    return tuple(found)


def _pbr(net: Net) -> bool:
    return any(rule.mask == FOREIGN_MASK and rule.preference in PBR_PREFERENCES for rule in net.rules)
