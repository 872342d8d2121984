"""What is remembered of each path, and what others see of it: the values of links.py, without its
decisions.
"""

from __future__ import annotations

from collections.abc import Mapping

from wgrouter.core.link_states import DEGRADED, HELD, SUSPECT, UNPROVEN, UP, USABLE, Penalty
from wgrouter.core.model import LONG_AGO, NEVER, Instant
from wgrouter.core.records import dataclass, field
from wgrouter.core.settings import Wan
from wgrouter.core.wans import Path
from wgrouter.core.window import Quality, Sample, Target


@dataclass(frozen=True, slots=True)
class Burst:
    """Probes in quick succession; `decide_at` is set with the last one."""

    left: int
    next_at: Instant
    decide_at: Instant = NEVER
    graced: bool = False


@dataclass(frozen=True, slots=True)
class Watch:
    """What is remembered of one path."""

    path: Path
    wan: Wan  # its settings …
    targets: tuple[Target, ...]  # … and whom to probe, as of the last look
    state: str
    since: Instant
    next_at: Instant = NEVER  # of the next steady probe
    samples: tuple[Sample, ...] = ()
    burst: Burst | None = None
    handled: int = 0  # late answers up to this probe id have been acted on
    turn: int = 0  # probes sent: which target is next
    octets: int = 0  # spent on probing, both directions, about
    proven: bool = False  # something answered, ever
    dead: tuple[str, ...] = ()  # targets said to be dead
    held_until: Instant = NEVER
    penalty: Penalty = field(default_factory=Penalty)
    changes: int = 0
    evidence: str = ""
    gone_at: Instant = NEVER
    quality: Quality = field(default_factory=Quality)
    listen_at: Instant = NEVER  # when a metered link's counters are read next …
    listen_id: int = 0  # … and the id of that reading
    alarm_at: Instant = LONG_AGO  # when counters last started a burst


@dataclass(frozen=True, slots=True)
class LinkMemory:
    watches: Mapping[tuple[str, int], Watch] = field(default_factory=dict)
    wakes: Mapping[tuple[str, int], Instant] = field(default_factory=dict)  # when time alone changes a watch
    indices: Mapping[str, int] = field(default_factory=dict)
    last_id: int = 0
    heard: Instant = LONG_AGO  # what was answered by then has been told: time alone is judged as of then
    started: bool = False  # the first look is behind us


Memory = LinkMemory  # the journal tells values apart by the name of their class


@dataclass(frozen=True, slots=True)
class Uplink:
    """One path as the deciders and `status` see it."""

    watch: Watch

    @property
    def path(self) -> Path:
        return self.watch.path

    @property
    def wan(self) -> Wan:
        return self.watch.wan

    @property
    def state(self) -> str:
        return self.watch.state

    @property
    def evidence(self) -> str:
        """What brought it into this state."""
        return self.watch.evidence

    @property
    def quality(self) -> Quality:
        return self.watch.quality

    @property
    def proven(self) -> bool:
        """Whether a probe was ever answered over it."""
        return self.watch.proven

    @property
    def usable(self) -> bool:
        """Passes its probes, or has not been judged yet."""
        return self.state in USABLE or self.state == UNPROVEN

    @property
    def answers(self) -> bool:
        """Something beyond it answers now, well or badly."""
        return self.state in (UP, SUSPECT, HELD, DEGRADED)
