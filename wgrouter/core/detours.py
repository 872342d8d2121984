"""Detours: a tunnel's outer packets go by another WAN than they would, for a while, because that reaches
a peer.

The remedy for a path that is broken beyond the uplink: the uplink's probes are answered, so nothing else
moves. ladder.py proposes a detour, tunnels.py waits for its proof, routing.py makes its way; here is how long
it lasts. It ends when the usual WAN changes (that was its reason), when its own WAN is not usable, and after
its time: then the usual one is tried again, and if the peer falls silent the detour is the first remedy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from wgrouter.core.care import Detour, TunnelMemory
from wgrouter.core.findings import Finding, Why
from wgrouter.core.jitter import spread
from wgrouter.core.model import NEVER, DeviceSeen, Instant
from wgrouter.core.records import replace
from wgrouter.core.settings import Ladder, Peer, Tunnel

Detours = dict[str, Detour]  # by device
Ways = Callable[[str, int], tuple[str, ...]]  # see care.Outlook


def courses(memory: TunnelMemory) -> Mapping[str, str]:
    """The WAN of each device that is on a detour, proven or not: for routing.intent."""
    return {device: detour.wan for device, detour in memory.detours.items() if detour.wan}


def adopted(
    memory: TunnelMemory,
    devices: Mapping[str, DeviceSeen],
    tunnels: tuple[Tunnel, ...],
    ways: Ways,
    mark_of: Callable[[str], int],
    now: Instant,
) -> TunnelMemory:
    """What an agent that was killed has left: a device whose mark is that of a WAN other than its usual one.

    A tunnel with WANs of its own has one mark for all of them: that is not seen, and found anew.
    """
    found: Detours = {}
    for tunnel in tunnels:
        seen = devices.get(tunnel.device)
        for family in (6, 4):
            usual, *others = ways(tunnel.device, family) or ("",)
            for wan in others:
                if seen is not None and seen.fwmark and seen.fwmark == mark_of(wan):
                    wait = tunnel.ladder.return_after
                    found[tunnel.device] = Detour(wan, usual, family, now + wait, wait)
    return replace(memory, detours=found) if found else memory


def begun(detours: Detours, device: str, way: str, usual: str, family: int) -> None:
    """Go by `way` from now on, until it is proven or not."""
    old = detours.get(device)
    detours[device] = Detour(way, usual, family, wait=old.wait if old else 0.0)


def proven(detours: Detours, peer: Peer, ladder: Ladder, now: Instant, seed: str) -> list[Finding]:
    """It reaches this peer: it is the way of the whole device for a while, each in a row twice as long."""
    detour = detours.get(peer.device)
    if detour is None or not detour.wan:
        return []
    wait = min(detour.wait * 2, ladder.backoff_max * 4) if detour.wait else ladder.return_after
    detours[peer.device] = replace(detour, until=now + spread(wait, 0.1, seed, peer.device), wait=wait)
    said: dict[str, str | int | float] = {"wan": detour.wan, "usual": detour.usual, "seconds": round(wait)}
    return [Finding(Why.TUNNEL_DETOUR, peer.device, {**said, "peer": peer.label})]


def silent(detours: Detours, peer: Peer, now: Instant) -> tuple[bool, list[Finding]]:
    """This peer died: on a detour, which then ends, since the usual way may be as good; or soon after one,
    and then that is the first remedy (True).
    """
    detour = detours.get(peer.device)
    if detour is None or detour.until == NEVER:
        return False, []
    if not detour.wan:
        return True, []
    return False, [ended(detours, peer.device, f"{peer.label} is not reached by it any more", now)]


def ended(detours: Detours, device: str, reason: str, now: Instant) -> Finding:
    """Back to the usual way. That there was a detour is remembered as long as it would have lasted."""
    detour = detours[device]
    detours[device] = replace(detour, wan="", until=now + detour.wait)
    said: dict[str, str | int | float] = {"usual": detour.usual, "wan": detour.wan, "reason": reason}
    return Finding(Why.TUNNEL_DETOUR_ENDED, device, said)


def due(detours: Detours, ways: Ways, now: Instant) -> list[Finding]:
    """End those whose reason or time is over, forget those that ended long ago."""
    findings = []
    for device, detour in list(detours.items()):
        if detour.wan:
            usual, *others = ways(device, detour.family) or ("",)
            if usual != detour.usual:
                findings.append(ended(detours, device, f"{usual or 'no WAN'} is the usual one now", now))
                del detours[device]
            elif detour.wan not in others:
                findings.append(ended(detours, device, f"{detour.wan} is not usable", now))
                del detours[device]
            elif now >= detour.until:
                findings.append(ended(detours, device, f"{detour.wait:.0f} s are over", now))
        elif now >= detour.until:
            del detours[device]
    return findings


def given_up(detours: Detours, device: str) -> None:
    """Who tried it heard nothing. It may be over already (its WAN went), or proven by another peer."""
    detour = detours.get(device)
    if detour is not None and detour.until == NEVER:
        del detours[device]


def unproven(detours: Detours, tried: frozenset[str]) -> None:
    """Drop those that are not proven and that nobody tries any more."""
    for device in list(detours):
        if device not in tried:
            given_up(detours, device)
