"""One cause for a peer's state, with its evidence, what was tried, and what comes next and when.

Reads memory and World, decides nothing. The order of the questions is the order in which a fault hides
the ones below it:
interface → peer → uplink → clock → name → family → endpoint.
"""

from __future__ import annotations

from wgrouter.core import liveness
from wgrouter.core.care import Care, Detour, Outlook
from wgrouter.core.findings import Finding, Rejected, Why
from wgrouter.core.ladder import LADDER, Place, names_of
from wgrouter.core.model import NEVER, DeviceSeen, Instant, PeerSeen, World
from wgrouter.core.records import dataclass
from wgrouter.core.settings import Peer


@dataclass(frozen=True, slots=True)
class Next:
    """What will be done without anybody's doing, and when."""

    what: str
    at: Instant


@dataclass(frozen=True, slots=True)
class Explanation:
    """All that `wgrouter explain` shows of one peer."""

    subject: str
    state: str
    cause: Finding
    evidence: tuple[str, ...]
    tried: tuple[tuple[Instant, str, str], ...]  # when, what, result
    next: Next | None
    rejected: tuple[Rejected, ...]


def explain(
    peer: Peer,
    care: Care,
    world: World,
    outlook: Outlook,
    places: tuple[Place, ...],
    now: Instant,
    detour: Detour | None = None,
) -> Explanation:
    """Why this peer is as it is. `detour`: that of its device."""
    device = (world.wireguard or {}).get(peer.device)
    seen = device.peers.get(peer.public_key) if device else None
    cause = _cause(peer, care, world, outlook, places, device, seen)
    evidence = (*liveness.evidence(care.pulse, seen, now), *_surroundings(peer, outlook, places, seen))
    if detour is not None and detour.wan:
        evidence += (f"outer packets go by {detour.wan} instead of {detour.usual}",)
    tried = tuple(
        (attempt.at, attempt.action, attempt.result or "waiting for proof") for attempt in care.attempts
    )
    return Explanation(
        peer.subject,
        care.pulse.state,
        cause,
        evidence,
        tried,
        _next(peer, care, now, detour) if outlook.enabled else None,
        care.skipped,
    )


def _cause(
    peer: Peer,
    care: Care,
    world: World,
    outlook: Outlook,
    places: tuple[Place, ...],
    device: DeviceSeen | None,
    seen: PeerSeen | None,
) -> Finding:
    def because(why: Why, **arguments: str | int | float) -> Finding:
        return Finding(why, peer.subject, arguments)

    state = care.pulse.state
    if device is None:
        return because(Why.CAUSE_DEVICE, device=peer.device)
    if seen is None:
        return because(Why.CAUSE_PEER, device=peer.device)
    if state == liveness.ALIVE:
        return because(Why.CAUSE_NONE)
    if not outlook.enabled:
        return because(Why.CAUSE_DISABLED)
    if not outlook.reachable:
        return because(Why.CAUSE_UPLINK, reason="no usable default route")
    if not world.clock_trusted and state in (liveness.DEAD, liveness.NEW):
        return because(Why.CAUSE_CLOCK)
    trouble = "; ".join(filter(None, map(outlook.trouble, names_of(peer))))
    if seen.endpoint is None and not places and peer.endpoints:
        return because(Why.CAUSE_NAME, reason=trouble or "its name is not resolved yet")
    if state in (liveness.IDLE, liveness.NEW) and care.pulse.asked_since == NEVER and care.step is None:
        return because(
            Why.CAUSE_IDLE if not (peer.keepalive or peer.probe) or not peer.endpoints else Why.CAUSE_NEW
        )
    if seen.endpoint is None:  # an address is known, and not given to the device yet
        return because(Why.CAUSE_PROVING if care.step is not None else Why.CAUSE_NEW)
    if seen.endpoint.family not in outlook.reachable:
        return because(Why.CAUSE_FAMILY, endpoint=str(seen.endpoint), family=seen.endpoint.family)
    if trouble:
        return because(Why.CAUSE_STALE_NAME, endpoint=str(seen.endpoint), reason=trouble)
    tried = {place.endpoint for place in places} & set(care.tried)
    if (care.round > 0 and len(places) > 1) or len(tried) > 1:
        return because(Why.CAUSE_ALL_SILENT, count=len(places))
    return because(Why.CAUSE_SILENT, endpoint=str(seen.endpoint))


def _surroundings(
    peer: Peer, outlook: Outlook, places: tuple[Place, ...], seen: PeerSeen | None
) -> tuple[str, ...]:
    lines = []
    if seen is not None:
        lines.append(f"endpoint now {seen.endpoint or 'none'}")
    if places:
        lines.append("known addresses: " + ", ".join(str(place.endpoint) for place in places))
    lines += [f"name: {trouble}" for trouble in map(outlook.trouble, names_of(peer)) if trouble]
    families = "/".join(f"IPv{family}" for family in sorted(outlook.reachable))
    lines.append(f"uplink: default route for {families}" if families else "uplink: none")
    return tuple(lines)


def _next(peer: Peer, care: Care, now: Instant, detour: Detour | None) -> Next | None:
    if care.trial_until != NEVER:
        return Next("proof of the preferred endpoint, or back", care.trial_until)
    if care.step is not None:
        return Next(f"proof of step {care.step.rung}, or the next step", care.deadline)
    if care.frozen:
        return Next("the ladder, as soon as there is an uplink", NEVER)
    if care.pulse.state == liveness.DEAD and peer.endpoints:
        return Next(f"step {LADDER[min(care.rung, len(LADDER) - 1)].name}", max(care.resume_at, now))
    ahead = []
    if care.return_at != NEVER:
        ahead.append(Next("try the preferred endpoint", care.return_at))
    if detour is not None and detour.wan and detour.until != NEVER:
        ahead.append(Next(f"go by {detour.usual} again", detour.until))
    return min(ahead, key=lambda next_: next_.at, default=None)
