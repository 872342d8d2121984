"""The kernel's route lookup, as little of it as routing decisions need, and the effects that change its
tables.

A model for tests: rules in order of preference, longest prefix, lowest metric, suppress_prefixlength, marks
and masks, source prefixes, unreachable routes. A device that is administratively down loses its routes, one
without carrier keeps them.
"""

from __future__ import annotations

import ipaddress
from dataclasses import replace

from wgrouter.core.messages import (
    AddRoute,
    AddRule,
    ApplyNft,
    DeleteRoute,
    DeleteRule,
    Effect,
    RemoveNft,
    SetFwmark,
)
from wgrouter.core.model import RT_TABLE_DEFAULT, RT_TABLE_MAIN, Net, Route, Rule, World

MAIN_RULES = tuple(
    Rule(family, preference, table, protocol=2)
    for family in (4, 6)
    for preference, table in ((32766, RT_TABLE_MAIN), (32767, RT_TABLE_DEFAULT))
)


def lookup(net: Net, dst: str, mark: int = 0, source: str = "", oif: str = "") -> Route | None:
    """The route that a packet takes, an unreachable one included; None where no rule yields any."""
    where = ipaddress.ip_address(dst)
    for rule in sorted((r for r in net.rules if r.family == where.version), key=lambda r: r.preference):
        if (rule.mark ^ mark) & rule.mask or rule.other or rule.iif:
            continue
        if rule.src and (not source or ipaddress.ip_address(source) not in ipaddress.ip_network(rule.src)):
            continue
        if rule.action != "to_table":
            return Route(where.version, 0, "0.0.0.0/0" if where.version == 4 else "::/0", kind=rule.action)
        found = _in_table(net, rule.table, where, oif)
        if found is not None and ipaddress.ip_network(found.dst).prefixlen > rule.suppress:
            return found
    return None


def _in_table(
    net: Net, table: int, where: ipaddress.IPv4Address | ipaddress.IPv6Address, oif: str
) -> Route | None:
    fitting = [
        route
        for route in net.routes
        if route.table == table
        and route.family == where.version
        and where in ipaddress.ip_network(route.dst)
        and not (oif and route.hops and route.hops[0].device != oif)
    ]
    return min(
        fitting, key=lambda route: (-ipaddress.ip_network(route.dst).prefixlen, route.metric), default=None
    )


def apply(world: World, effect: Effect, digest: str = "") -> World:
    """The World after the kernel has carried out the effect. ValueError where it would refuse."""
    net = world.net
    assert net is not None
    match effect:
        case AddRoute(route):
            for hop in route.hops:
                if hop.device not in net.links or not net.links[hop.device].up:
                    raise ValueError(f"no such device, or it is down: {hop.device}")
            slot = (route.family, route.table, route.dst, route.src, route.metric)
            kept = [r for r in net.routes if (r.family, r.table, r.dst, r.src, r.metric) != slot]
            return replace(world, net=replace(net, routes=(*kept, route)))
        case DeleteRoute(route):
            return replace(world, net=replace(net, routes=tuple(r for r in net.routes if r != route)))
        case AddRule(rule):
            if rule in net.rules:
                return world
            return replace(world, net=replace(net, rules=(*net.rules, rule)))
        case DeleteRule(rule):
            rules = list(net.rules)
            if rule in rules:
                rules.remove(rule)
            return replace(world, net=replace(net, rules=tuple(rules)))
        case SetFwmark(device, mark):
            devices = dict(world.wireguard or {})
            if device in devices:
                devices[device] = replace(devices[device], fwmark=mark)
            return replace(world, wireguard=devices)
        case ApplyNft(_):
            return replace(world, nft=digest)
        case RemoveNft():
            return replace(world, nft="")
    return world
