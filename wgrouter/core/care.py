"""What the tunnels machine remembers, and what it needs of the rest of the core: values only.

Split from tunnels.py, which decides; `explain` and `status` read these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from wgrouter.core.findings import Finding, Rejected
from wgrouter.core.liveness import Pulse
from wgrouter.core.messages import Effect
from wgrouter.core.model import LONG_AGO, NEVER, Endpoint, Instant, Seconds
from wgrouter.core.settings import HostPort, PeerId


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


@dataclass(frozen=True, slots=True)
class TunnelMemory:
    """All peers, and the devices' shared budget."""

    peers: Mapping[PeerId, Care] = field(default_factory=dict)
    look_at: Instant = LONG_AGO
    restarts: Mapping[str, tuple[Instant, ...]] = field(default_factory=dict)  # renew and restart, by device
    probe_ids: int = 1  # odd numbers are ours
    wake: Instant = LONG_AGO


Memory = TunnelMemory  # the journal tells values apart by the name of their class


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


@dataclass(frozen=True, slots=True)
class TunnelsTurn:
    """As machine.Turn, and the hosts whose names are wanted anew."""

    memory: Memory
    effects: tuple[Effect, ...] = ()
    findings: tuple[Finding, ...] = ()
    hurry: tuple[str, ...] = ()
