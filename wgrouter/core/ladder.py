"""The ladder of remedies for a peer that does not answer, as a table.

A rung looks at the Situation and either says what to do (an Action) or why it does not apply.
tunnels.py climbs it and waits for proof after each step. A rung knows nothing of time, proof or cost,
and never invents an address: every endpoint comes from `candidates`, that is from an answer of DNS or
from the configuration.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from functools import lru_cache

from wgrouter.core.answers import is_literal
from wgrouter.core.jitter import unit
from wgrouter.core.messages import (
    Effect,
    ForgetFlows,
    Look,
    Provoke,
    Renew,
    Restart,
    SetEndpoint,
    SetListenPort,
)
from wgrouter.core.model import IPV4, IPV6, NET, WIREGUARD, DeviceSeen, Endpoint, PeerSeen
from wgrouter.core.records import dataclass
from wgrouter.core.settings import HostPort, Ladder, Peer, Tunnel


@dataclass(frozen=True, slots=True)
class Place:
    """A candidate endpoint and which of the peer's configured endpoints (0 is the preferred one) it
    belongs to.
    """

    endpoint: Endpoint
    rank: int


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a rung may look at."""

    peer: Peer
    tunnel: Tunnel
    seen: PeerSeen
    device: DeviceSeen
    places: tuple[Place, ...]
    tried: tuple[Endpoint, ...]  # in this round
    siblings_alive: bool  # another peer of the device is alive: the device is not to be disturbed
    restarts_left: bool
    ways: tuple[str, ...]  # WANs for the outer packets, the usual one first; none: not ours to steer
    ways_tried: tuple[str, ...]  # in this round
    detour: str  # the WAN on which the device is already, instead of the usual one
    moved: bool  # the endpoint was set after the last sign of life, because its name had moved
    seed: str
    round: int

    @property
    def current(self) -> Endpoint | None:
        return self.seen.endpoint

    @property
    def ladder(self) -> Ladder:
        return self.tunnel.ladder


@dataclass(frozen=True, slots=True)
class Action:
    """What a rung does. `expects_answer`: wait for the names instead of the peer. `endpoint`: the one it
    tries.
    """

    text: str
    effects: tuple[Effect, ...] = ()
    hosts: tuple[str, ...] = ()
    endpoint: Endpoint | None = None
    way: str = ""  # the WAN to go by for a while


@dataclass(frozen=True, slots=True)
class Skip:
    """Why a rung does not apply now."""

    reason: str


@dataclass(frozen=True, slots=True)
class Rung:
    name: str
    act: Callable[[Situation], Action | Skip]
    repeats: bool = False  # asked again until it says Skip


def inside(endpoint: Endpoint, prefixes: tuple[str, ...]) -> bool:
    """Whether it lies in a network of the tunnel itself (all of the internet is none): what is sent there
    goes into the tunnel that it is to carry. The kernel's WireGuard refuses that (ELOOP, socket.c), others do
    not.
    """
    address = ipaddress.ip_address(endpoint.address)
    networks = (ipaddress.ip_network(prefix, strict=False) for prefix in prefixes)
    return any(network.prefixlen > 0 and address in network for network in networks)


@lru_cache(maxsize=1024)  # asked of every endpoint at every step
def names_of(peer: Peer) -> tuple[str, ...]:
    """The host names among the peer's endpoints, preferred first."""
    return tuple(dict.fromkeys(place.host for place in peer.endpoints if not is_literal(place.host)))


def families(peer: Peer, reachable: frozenset[int]) -> tuple[int, ...]:
    """The address families to try, in order: the peer's wish, then what has a default route, IPv6 first
    (RFC 6724).

    Where no family has a route the order still stands: a route may be there before the next look.
    """
    order = {
        "ipv4": (IPV4,),
        "ipv6": (IPV6,),
        "prefer_ipv4": (IPV4, IPV6),
        "prefer_ipv6": (IPV6, IPV4),
    }.get(peer.family, (IPV6, IPV4))
    usable = tuple(family for family in order if family in reachable)
    return usable or order


def candidates(
    peer: Peer,
    resolved: Callable[[HostPort], tuple[Endpoint, ...]],
    reachable: frozenset[int],
) -> tuple[Place, ...]:
    """Every endpoint the peer may have now, best first: by configured endpoint, then family, then the
    answer's order.
    """
    order = families(peer, reachable)
    places: dict[Endpoint, Place] = {}
    for rank, where in enumerate(peer.endpoints):
        found = (Endpoint(where.host, where.port),) if is_literal(where.host) else resolved(where)
        for family in order:
            for endpoint in found:
                if endpoint.family == family:
                    places.setdefault(endpoint, Place(endpoint, rank))
    return tuple(places.values())


def at_present(seen: PeerSeen, reachable: frozenset[int]) -> tuple[Place, ...]:
    """The endpoint that the kernel has, for want of any that a name or the configuration tells: an agent that
    starts while DNS is dead has nothing else to climb with.
    """
    return (Place(seen.endpoint, 0),) if seen.endpoint and seen.endpoint.family in reachable else ()


@lru_cache(maxsize=1024)
def nudge_target(peer: Peer) -> str:
    """An address behind the peer to send a packet to: any authenticated data is answered by a keepalive
    within 10 s.

    The probe address, else the first host of the narrowest allowed prefix; "" where only everything is
    allowed.
    """
    if peer.probe:
        return peer.probe
    narrowest: tuple[int, str] | None = None
    for text in peer.allowed_ips:
        network = ipaddress.ip_network(text, strict=False)
        if network.prefixlen == 0:
            continue
        spare = network.max_prefixlen - network.prefixlen
        host = network.network_address + (1 if spare > 1 else 0)
        if narrowest is None or spare < narrowest[0]:
            narrowest = (spare, str(host))
    return narrowest[1] if narrowest else ""


def set_endpoint(peer: Peer, seen: PeerSeen, endpoint: Endpoint) -> tuple[Effect, ...]:
    """Set an endpoint and make WireGuard send to it: a changed endpoint alone provokes nothing (FACTS:
    section 2).
    """
    return (
        SetEndpoint(peer.device, peer.public_key, endpoint),
        Provoke(peer.device, peer.public_key, seen.keepalive or peer.keepalive),
    )


def _best(situation: Situation) -> Endpoint | None:
    """The current endpoint while it is still among the candidates, else the first of them."""
    endpoints = [place.endpoint for place in situation.places]
    if situation.current in endpoints:
        return situation.current
    return endpoints[0] if endpoints else None


def _resolve(situation: Situation) -> Action | Skip:
    hosts = names_of(situation.peer)
    if not hosts:
        return Skip("its endpoint is an address")
    return Action(f"resolve {', '.join(hosts)} again", hosts=hosts)


def _others(situation: Situation) -> bool:
    """Whether a better use of the time is at hand than an endpoint that was set a moment ago, in vain."""
    return situation.moved and any(place.endpoint not in situation.tried for place in situation.places)


def _endpoint(situation: Situation) -> Action | Skip:
    best = _best(situation)
    if best is None:
        return Skip("no address is known")
    if _others(situation) and best in situation.tried:
        return Skip(f"{best} was set when the name moved")
    return Action(
        f"set the endpoint to {best}", set_endpoint(situation.peer, situation.seen, best), endpoint=best
    )


def _forget_flows(situation: Situation) -> Action | Skip:
    best = _best(situation)
    if best is None or not situation.device.listen_port:
        return Skip("no address is known")
    if _others(situation) and best in situation.tried:
        return Skip(f"no flow to {best} is older than the move")
    forget = ForgetFlows(local_port=situation.device.listen_port, remote=best.address)
    effects = (forget, *set_endpoint(situation.peer, situation.seen, best))
    return Action(f"forget the tracked flows to {best} and set it again", effects, endpoint=best)


def _next_address(situation: Situation) -> Action | Skip:
    for place in situation.places:
        if place.endpoint not in situation.tried:
            effects = set_endpoint(situation.peer, situation.seen, place.endpoint)
            return Action(f"try {place.endpoint} instead", effects, endpoint=place.endpoint)
    return Skip("every known address was tried")


def new_port(seed: str, device: str, round_: int, current: int) -> int:
    """Another port of the dynamic range (RFC 6335), never the current one. It depends on that: two peers of a
    device that climb at once would else change it to and fro, to the one that was given up.
    """
    port = 49152 + int(unit(seed, "port", device, round_, current) * 16384)
    return port if port != current else 49152 + (port - 49152 + 1) % 16384


def _new_port(situation: Situation) -> Action | Skip:
    wish = situation.ladder.new_port
    if wish == "no":
        return Skip("a new source port is switched off (new_port no)")
    if wish == "auto" and situation.tunnel.listen_port:
        return Skip(f"listen_port {situation.tunnel.listen_port} is configured (new_port auto)")
    if situation.siblings_alive:
        return Skip(f"other peers of {situation.peer.device} are alive")
    best = _best(situation)
    if best is None:
        return Skip("no address is known")
    first = situation.places[0].endpoint
    port = new_port(situation.seed, situation.peer.device, situation.round, situation.device.listen_port)
    effects = (
        SetListenPort(situation.peer.device, port),
        *set_endpoint(situation.peer, situation.seen, first),
    )
    old = situation.device.listen_port
    return Action(f"send from port {port} instead of {old}, to {first}", effects, endpoint=first)


def _other_wan(situation: Situation) -> Action | Skip:
    """The path to the peer may be broken beyond the uplink, where probes of the uplink see nothing."""
    device = situation.peer.device
    if not situation.ladder.other_wan:
        return Skip("not allowed by the configuration (other_wan 0)")
    if situation.siblings_alive:
        return Skip(f"other peers of {device} are alive")
    if situation.detour:
        return Skip(f"{device} goes by {situation.detour} already")
    best = _best(situation)
    if best is None:
        return Skip("no address is known")
    if not situation.ways:
        return Skip(f"the way of {device} is not ours to choose")
    for way in situation.ways[1:]:
        if way not in situation.ways_tried:
            # No effect but a look: with it routing makes the way, and then the endpoint is set again.
            look = Look((NET, WIREGUARD))
            return Action(f"go by {way} instead of {situation.ways[0]}", (look,), endpoint=best, way=way)
    return Skip("every other WAN was tried" if situation.ways_tried else "no other WAN is usable")


def _device_step(
    situation: Situation, allowed: bool, option: str, effect: Effect, text: str
) -> Action | Skip:
    if not allowed:
        return Skip(f"not allowed by the configuration ({option} 0)")
    if situation.siblings_alive:
        return Skip(f"other peers of {situation.peer.device} are alive")
    if not situation.restarts_left:
        return Skip("done often enough this hour")
    return Action(text, (effect,))


def _renew(situation: Situation) -> Action | Skip:
    device = situation.peer.device
    return _device_step(
        situation, situation.ladder.renew, "renew", Renew(device), f"let netifd re-apply {device} (renew)"
    )


def _restart(situation: Situation) -> Action | Skip:
    device = situation.peer.device
    return _device_step(
        situation, situation.ladder.restart, "restart", Restart(device), f"take {device} down and up"
    )


OTHER_WAN = "other-wan"  # waited for by its name
# The order is the design: cheap and harmless first; what disturbs other peers last, and only where allowed.
LADDER: tuple[Rung, ...] = (
    Rung("resolve", _resolve),
    Rung("endpoint", _endpoint),
    Rung("forget-flows", _forget_flows),
    Rung("next-address", _next_address, repeats=True),
    Rung("new-port", _new_port),
    Rung(OTHER_WAN, _other_wan, repeats=True),
    Rung("renew", _renew),
    Rung("restart", _restart),
)

RUNG_INDEX: Mapping[str, int] = {rung.name: index for index, rung in enumerate(LADDER)}
