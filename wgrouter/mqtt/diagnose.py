"""Walks a tunnel from the outside in (clock, transport, names, handshake, routing, MTU) to where it ends.

Pure, over the state: it sends nothing. Each step has a verdict of its own (True, False, None where nothing is
known), so that a fault that hides another one does not hide it here. `explain` names the one cause.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

from wgrouter.core import engine, links, names, plan, uplink
from wgrouter.core.care import Care
from wgrouter.core.ladder import names_of
from wgrouter.core.link_states import DEGRADED, DOWN, OFF
from wgrouter.core.liveness import ALIVE, DEAD, evidence
from wgrouter.core.model import RT_TABLE_MAIN, Instant, PeerSeen
from wgrouter.core.settings import Peer

Data = dict[str, Any]
OVERHEAD = {4: 60, 6: 80}  # of WireGuard in UDP in IP: 32 + 8 + 20 or 40 (wireguard.com/protocol)

# In the order in which a fault hides the ones below it.
STEPS = ("clock", "transport", "names", "handshake", "routing", "mtu")


def diagnose(state: engine.State, subject: str, now: Instant) -> list[Data]:
    """One for each peer that the subject ("wg0", "wg0/label", a label, "" for all) names."""
    found = []
    for peer in state.settings.peers():
        if subject in ("", peer.device, peer.subject, peer.label):
            steps = [{"step": name, "ok": ok, "text": text} for name, ok, text in _walk(state, peer, now)]
            broken = next((step["step"] for step in steps if step["ok"] is False), None)
            found.append({"subject": peer.subject, "broken": broken, "steps": steps})
    return found


def _walk(state: engine.State, peer: Peer, now: Instant) -> Iterator[tuple[str, bool | None, str]]:
    device = (state.world.wireguard or {}).get(peer.device)
    seen = device.peers.get(peer.public_key) if device else None
    trusted = state.world.clock_trusted
    yield "clock", trusted, "set" if trusted else "never set: the peer drops handshakes with a past time"
    yield "transport", *_transport(state, peer, seen)
    yield "names", *_names(state, peer, now)
    yield "handshake", *_handshake(state, peer, seen, now)
    yield "routing", *_routing(state, peer)
    yield "mtu", *_mtu(state, peer, seen)


def _family(seen: PeerSeen | None) -> int:
    return seen.endpoint.family if seen and seen.endpoint else 4


def _transport(state: engine.State, peer: Peer, seen: PeerSeen | None) -> tuple[bool | None, str]:
    """The WAN that the encrypted packets take."""
    family = _family(seen)
    wan = uplink.course_of(state.uplink, peer.device, family) or uplink.chosen(state.uplink).get(family, "")
    path = next((l for l in links.view(state.links) if l.path.key == (wan, family)), None)  # noqa: E741
    if path is None:
        return (False if wan or state.uplink.choices else None), f"no WAN carries IPv{family}"
    text = f"{wan} ({path.path.device}) is {path.state} over IPv{family}: {path.evidence}"
    return path.state not in (DOWN, OFF, DEGRADED), text


def _names(state: engine.State, peer: Peer, now: Instant) -> tuple[bool | None, str]:
    hosts = names_of(peer)
    if not hosts:
        return None, "the peer has no name" if peer.endpoints else "the peer has no endpoint: it calls"
    told, good, failed = [], False, False
    for host in hosts:
        name = names.look_up(state.names, host, srv=peer.srv, now=now)
        if name is None or not (name.addresses or name.error):
            told.append(f"{host} is not resolved yet")
        elif name.error:
            failed = True
            told.append(f"{host}: {name.error}")
        else:
            good = True
            told.append(f"{host} is {', '.join(name.addresses)}")
    return good or (False if failed else None), "; ".join(told)


def _handshake(
    state: engine.State, peer: Peer, seen: PeerSeen | None, now: Instant
) -> tuple[bool | None, str]:
    if seen is None:
        return False, f"{peer.device} does not have this peer"
    pulse = state.tunnels.peers.get(peer.id, Care()).pulse
    words = "; ".join(evidence(pulse, seen, now))
    text = f"{pulse.state} at {seen.endpoint or 'no endpoint'}: {words}"
    return {ALIVE: True, DEAD: False}.get(pulse.state), text


def _routing(state: engine.State, peer: Peer) -> tuple[bool | None, str]:
    """Routes into the tunnel, and whether the kernel has what the agent wants around it."""
    net = state.world.net
    if net is None:
        return None, "the kernel's routes were not seen"
    missing = plan.plan(engine.wanted_of(state), state.world, state.settings)
    if missing:
        return False, f"{len(missing)} changes of routes and rules are outstanding: `wgrouter plan` has them"
    into = [
        ipaddress.ip_network(route.dst)
        for route in net.routes
        if route.table == RT_TABLE_MAIN and any(hop.device == peer.device for hop in route.hops)
    ]
    lost = [
        allowed
        for allowed in peer.allowed_ips
        if not any(
            one.version == net_.version and net_.subnet_of(one)  # type: ignore[arg-type]
            for net_ in (ipaddress.ip_network(allowed, strict=False),)
            for one in into
        )
    ]
    if not peer.allowed_ips:
        return None, "the peer has no allowed IPs, so nothing is sent to it"
    if lost:
        return None, f"no route of the main table leads into {peer.device} for {', '.join(lost[:5])}"
    return True, f"{len(peer.allowed_ips)} allowed IPs lead into {peer.device}; nothing is outstanding"


def _mtu(state: engine.State, peer: Peer, seen: PeerSeen | None) -> tuple[bool | None, str]:
    """Whether a full packet of the tunnel fits through the WAN."""
    net, family = state.world.net, _family(seen)
    wan = uplink.course_of(state.uplink, peer.device, family) or uplink.chosen(state.uplink).get(family, "")
    path = next((l.path for l in links.view(state.links) if l.path.key == (wan, family)), None)  # noqa: E741
    inner = net.links.get(peer.device) if net else None
    outer = net.links.get(path.device) if net and path else None
    if inner is None or outer is None:
        return None, "the devices are not seen"
    said = next((one.mtu for one in state.settings.wans if one.name == wan and one.mtu), 0)
    outside = said or outer.mtu
    room = outside - OVERHEAD[family]
    text = f"{peer.device} has {inner.mtu}, {wan} has room for {room} ({outside} less {OVERHEAD[family]})"
    return inner.mtu <= room, text
