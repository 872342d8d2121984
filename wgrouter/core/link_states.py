"""The states of a path (a WAN over one family), what moves it between them, and how long it is held down
after a flap.

Pure tables and arithmetic; links.py says what has happened.
"""

from __future__ import annotations

from collections.abc import Mapping

from wgrouter.core.model import LONG_AGO, Instant, Seconds
from wgrouter.core.records import dataclass
from wgrouter.core.settings import Hold

UNPROVEN = "unproven"  # there since the start, not judged yet: used, lest a start interrupts traffic
UP = "up"
SUSPECT = "suspect"  # up, and a burst is deciding
DEGRADED = "degraded"  # answers, but over a limit: used if nothing better is there
HELD = "held"  # answers again, not used before it has been quiet for a while (unless nothing better is there)
RETURNING = "returning"  # carrier and route are back, nothing answered yet
DOWN = "down"  # carrier and route, but no answers
OFF = "off"  # no carrier or no route

CUT, BACK, LATE, MISSED, ANSWER, POOR, GOOD, QUIET = (
    "cut",
    "back",
    "late",
    "missed",
    "answer",
    "poor",
    "good",
    "quiet",
)

# state → what happened → next state. What is not listed changes nothing.
TABLE: Mapping[str, Mapping[str, str]] = {
    UNPROVEN: {CUT: OFF, MISSED: DOWN, ANSWER: UP},
    UP: {CUT: OFF, LATE: SUSPECT, POOR: DEGRADED},
    SUSPECT: {CUT: OFF, MISSED: DOWN, ANSWER: UP},
    DEGRADED: {CUT: OFF, MISSED: DOWN, GOOD: HELD},
    HELD: {CUT: OFF, MISSED: DOWN, POOR: DEGRADED, QUIET: UP},
    RETURNING: {CUT: OFF, MISSED: DOWN, ANSWER: HELD},
    DOWN: {CUT: OFF, ANSWER: HELD},
    OFF: {BACK: RETURNING},
}
USABLE = (UP, SUSPECT)  # without reservation
PENALISED = (UP, SUSPECT, DEGRADED, HELD)  # leaving one of these for a worse state counts as a flap

PENALTY_MAX = 10.0


@dataclass(frozen=True, slots=True)
class Penalty:
    """Flaps, each worth one, halved every `penalty_half_life`."""

    value: float = 0.0
    at: Instant = LONG_AGO

    def now(self, hold: Hold, now: Instant) -> float:
        if self.value == 0.0 or hold.penalty_half_life <= 0.0:
            return 0.0
        return float(self.value * 0.5 ** ((now - self.at) / hold.penalty_half_life))

    def flapped(self, hold: Hold, now: Instant) -> Penalty:
        """One flap more."""
        return Penalty(min(PENALTY_MAX, self.now(hold, now) + 1.0), now)

    def hold_until(self, hold: Hold, now: Instant) -> Instant:
        """The first instant at which the quiet since now is as long as the penalty, which decays meanwhile,
        wants it.
        """
        low, high = min(hold.up_after, hold.up_max), hold_for(self.now(hold, now), hold)
        for _ in range(24):
            middle = (low + high) / 2.0
            if middle >= hold_for(self.now(hold, now + middle), hold):
                high = middle
            else:
                low = middle
        return now + high


def hold_for(penalty: float, hold: Hold) -> Seconds:
    """The quiet time wanted: up_after for a first failure, doubled by each further flap, up_max at most."""
    return float(min(hold.up_max, hold.up_after * 2.0 ** max(0.0, min(penalty, PENALTY_MAX) - 1.0)))
