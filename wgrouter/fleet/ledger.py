"""Which numbered events of one life of a router were heard, which are missing and which it dropped itself.

Pure. Numbers count from 1 and come in order, now and then twice; before the first one nothing is expected.
"""

from __future__ import annotations

GAPS_MAX = 32  # of one life; the oldest are only counted then


class Ledger:
    """`last` is the highest number accounted for, None while nothing is expected."""

    __slots__ = ("_forgotten", "_highest", "_sure", "dropped", "gaps")

    def __init__(self, last: int | None = None) -> None:
        self._highest = last or 0
        self._sure = last is not None
        self.gaps: list[tuple[int, int]] = []  # first and last number, ascending
        self.dropped = 0  # by the router, which said so
        self._forgotten = 0

    @property
    def last(self) -> int | None:
        return self._highest if self._sure else None

    @property
    def missing(self) -> int:
        """Events that were sent and not heard."""
        return self._forgotten + sum(last - first + 1 for first, last in self.gaps)

    def heard(self, number: int) -> None:
        """An event came, for the first time or again."""
        self._cover(number, number)

    def declared(self, first: int, last: int) -> None:
        """The router says that it dropped these; the declaration itself has the number `last`."""
        if first <= last:
            self.dropped += last - first + 1
            self._cover(first, last)

    def due(self, number: int) -> None:
        """All events up to this number should have come by now."""
        self._reach(number + 1, number)

    def unsure(self) -> None:
        """We were away: whatever comes next, the step to it is no gap."""
        self._sure = False

    def _cover(self, first: int, last: int) -> None:
        self._reach(first, last)
        if self.gaps:
            self.gaps = [piece for gap in self.gaps for piece in _without(gap, first, last)]

    def _reach(self, first: int, last: int) -> None:
        """Numbers up to `last` exist; those from `first` on are accounted for."""
        if self._sure and first > self._highest + 1:
            self._gap(self._highest + 1, first - 1)
        self._highest, self._sure = max(self._highest, last), True

    def _gap(self, first: int, last: int) -> None:
        self.gaps.append((first, last))
        if len(self.gaps) > GAPS_MAX:
            oldest = self.gaps.pop(0)
            self._forgotten += oldest[1] - oldest[0] + 1


def _without(gap: tuple[int, int], first: int, last: int) -> list[tuple[int, int]]:
    pieces = [(gap[0], min(gap[1], first - 1)), (max(gap[0], last + 1), gap[1])]
    return [piece for piece in pieces if piece[0] <= piece[1]]
