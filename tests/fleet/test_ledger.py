"""Event numbers: what is missing is told, what came late is not; against a model that knows every number."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wgrouter.fleet.ledger import GAPS_MAX, Ledger

NUMBERS = st.integers(1, 40)
STEPS = st.lists(
    st.tuples(st.just("heard"), NUMBERS, NUMBERS)
    | st.tuples(st.just("declared"), NUMBERS, NUMBERS)
    | st.tuples(st.just("due"), NUMBERS, NUMBERS)
    | st.tuples(st.just("unsure"), NUMBERS, NUMBERS),
    max_size=30,
)


@given(STEPS)
def test_it_is_what_a_list_of_all_numbers_would_tell(steps: list[tuple[str, int, int]]) -> None:
    ledger = Ledger()
    missing: set[int] = set()
    highest, sure, dropped = 0, False, 0
    for what, one, two in steps:
        first, last = min(one, two), max(one, two)
        if what == "unsure":
            ledger.unsure()
            sure = False
            continue
        if what == "heard":
            first = last = one
            ledger.heard(one)
        elif what == "due":
            first, last = one + 1, one  # covers nothing
            ledger.due(one)
        else:
            ledger.declared(first, last)
            dropped += last - first + 1
        if sure:
            missing |= set(range(highest + 1, first))
        missing -= set(range(first, last + 1))
        highest, sure = max(highest, last), True
        assert ledger.last == highest
        assert ledger.missing == len(missing)
        assert {n for a, b in ledger.gaps for n in range(a, b + 1)} == missing
        assert ledger.dropped == dropped


def test_the_first_number_is_no_gap() -> None:
    ledger = Ledger()
    ledger.heard(57)
    assert ledger.missing == 0


def test_gaps_are_bounded_and_none_is_lost_from_the_count() -> None:
    ledger = Ledger()
    for number in range(1, 1001, 2):
        ledger.heard(number)
    assert len(ledger.gaps) == GAPS_MAX
    assert ledger.missing == 499


def test_a_huge_number_costs_nothing() -> None:
    ledger = Ledger()
    ledger.heard(1)
    ledger.heard(10**14)
    assert ledger.missing == 10**14 - 2
