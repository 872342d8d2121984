"""What the tunnels machine remembers, and what it needs of the rest of the core: values only.

Split from tunnels.py, which decides; `explain` and `status` read these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from wgrouter.core.findings import Finding, Rejected
from wgrouter.core.liveness import DEAD, Pulse
from wgrouter.core.messages import Effect, Failed, Probe
from wgrouter.core.model import LONG_AGO, NEVER, Endpoint, Instant, Seconds
from wgrouter.core.records import dataclass, field, replace
from wgrouter.core.settings import HostPort, Peer, PeerId

GIVEN_KEPT = 32
REFUSED_AGAIN: Seconds = 15.0  # an endpoint that the kernel refused, while the peer is not dead


@dataclass(frozen=True, slots=True)
class Attempt:
    """A step of the ladder, for `explain`: result is "" while it waits for proof."""

    at: Instant
    rung: str
    action: str
    result: str = ""


@dataclass(frozen=True, slots=True)
class Care:
    """What only we know of a peer."""

    pulse: Pulse = Pulse()
    given: tuple[Endpoint, ...] = ()  # endpoints that an answer or the configuration contained at some time
    roamed: Endpoint | None = None  # told of
    followed: tuple[Endpoint, ...] = ()  # addresses of a name for which the back-off was cut short
    homeless: str = ""  # told that no address is known, and why
    frozen: bool = False
    # the ladder
    rung: int = 0  # the next to try
    round: int = 0
    dead_at: Instant = NEVER
    step: Attempt | None = None
    deadline: Instant = NEVER  # of the step
    tried: tuple[Endpoint, ...] = ()  # in this round
    ways: tuple[str, ...] = ()  # other WANs tried in this round
    resume_at: Instant = LONG_AGO  # not before
    spent: tuple[Instant, ...] = ()  # steps of the last hour
    attempts: tuple[Attempt, ...] = ()
    skipped: tuple[Rejected, ...] = ()  # rungs of this round that did not apply, and why
    # in-tunnel probes
    probe_id: int = 0
    probe_at: Instant = LONG_AGO
    # back to the preferred endpoint
    return_at: Instant = NEVER
    return_wait: Seconds = 0.0
    trial_until: Instant = NEVER
    kept: Endpoint | None = None  # where a failed trial goes back to


def afresh(care: Care, now: Instant) -> Care:
    """The network changed: what failed before may work now."""
    if care.step is not None:
        return replace(care, resume_at=now)
    return replace(care, rung=0, round=0, tried=(), ways=(), resume_at=now)


def closed(care: Care, result: str) -> Care:
    """The step that is under way is over, without proof."""
    assert care.step is not None
    done = replace(care.step, result=result)
    return replace(care, step=None, deadline=NEVER, attempts=(*care.attempts[:-1], done))


def failed(care: Care, peer: Peer, event: Failed, now: Instant) -> Care:
    """A change that this peer's step asked for could not be made: no proof will come, the next rung may."""
    effect = event.effect
    device = getattr(effect, "device", getattr(effect, "interface", ""))
    if care.step is None or device != peer.device or isinstance(effect, Probe):
        return care
    if getattr(effect, "public_key", peer.public_key) != peer.public_key:
        return care
    if care.pulse.state != DEAD:  # there is no next rung: the same again, but not at once
        care = replace(care, resume_at=now + REFUSED_AGAIN)
    return closed(care, event.reason)


def remember(care: Care, endpoints: tuple[Endpoint, ...]) -> Care:
    """These were in an answer or the configuration: an endpoint that never was is one learnt by roaming."""
    fresh = tuple(endpoint for endpoint in endpoints if endpoint not in care.given)
    return replace(care, given=(care.given + fresh)[-GIVEN_KEPT:]) if fresh else care


@dataclass(frozen=True, slots=True)
class Detour:
    """A tunnel's outer packets go by another WAN than they would. Without `wan`: they did until lately."""

    wan: str
    usual: str  # by which they would go
    family: int  # of the endpoint for which it was chosen
    until: Instant = NEVER  # NEVER: not proven yet
    wait: Seconds = 0.0  # how long it lasts, doubling with each in a row


@dataclass(frozen=True, slots=True)
class TunnelMemory:
    """All peers, and the devices' shared budget."""

    peers: Mapping[PeerId, Care] = field(default_factory=dict)
    look_at: Instant = LONG_AGO
    restarts: Mapping[str, tuple[Instant, ...]] = field(default_factory=dict)  # renew and restart, by device
    probe_ids: int = 1  # odd numbers are ours
    wake: Instant = LONG_AGO
    detours: Mapping[str, Detour] = field(default_factory=dict)  # by device
    wakes: Mapping[PeerId, Instant] = field(default_factory=dict)  # when each peer has something to do
    families: tuple[int, ...] = ()  # that were reachable


Memory = TunnelMemory  # the journal tells values apart by the name of their class


def _nowhere(device: str, family: int) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the tunnels need of the rest of the core."""

    resolved: Callable[[HostPort], tuple[Endpoint, ...]]
    settled: Callable[[str, Instant], bool]  # has a look-up of this host that began since then ended?
    trouble: Callable[[str], str]  # what is wrong with the name, "" for nothing
    reachable: frozenset[int]  # families with a usable default route; empty: no network
    network_changed: bool = False  # since the last step: back-offs end
    rerouted: frozenset[str] = frozenset()  # devices whose outer path changed: set endpoints again
    enabled: bool = True  # else nothing is done, and nothing will be
    news: frozenset[str] = frozenset()  # hosts of which this step brought something new
    # WANs by which a device's outer packets of a family can go, the usual one first; none: not ours to say
    ways: Callable[[str, int], tuple[str, ...]] = _nowhere


@dataclass(frozen=True, slots=True)
class TunnelsTurn:
    """As machine.Turn, and the hosts whose names are wanted anew."""

    memory: Memory
    effects: tuple[Effect, ...] = ()
    findings: tuple[Finding, ...] = ()
    hurry: tuple[str, ...] = ()
