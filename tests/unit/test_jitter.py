"""Jitter is a hash: the same for the same, spread evenly, and within its bounds."""

from __future__ import annotations

from itertools import pairwise, product

from hypothesis import example, given
from hypothesis import strategies as st

from wgrouter.core import jitter

ANY = st.text(st.characters())  # lone surrogates too: bytes of a file that are no UTF-8


@example("x", ["wg0/caf\udce9"])
@given(ANY, st.lists(st.one_of(ANY, st.integers(), st.floats(allow_nan=False)), max_size=4))
def test_a_number_from_0_to_1_and_always_the_same(seed: str, parts: list[object]) -> None:
    value = jitter.unit(seed, *parts)
    assert 0.0 <= value < 1.0 and value == jitter.unit(seed, *parts)


def test_neighbours_are_not_alike() -> None:
    values = [jitter.unit("router", "port", n) for n in range(2000)]
    counts = [sum(n / 10 <= value < (n + 1) / 10 for value in values) for n in range(10)]
    assert min(counts) > 120 and max(counts) < 300, counts
    assert sum(abs(a - b) for a, b in pairwise(values)) / 1999 > 0.25


def test_parts_do_not_run_together() -> None:
    assert jitter.unit("x", "ab", "c") != jitter.unit("x", "a", "bc")
    assert len({jitter.unit(seed, part) for seed, part in product("abc", "def")}) == 9


def test_the_numbers_stay_the_same_from_version_to_version() -> None:
    """Else a journal that one version wrote could not be replayed by the next."""
    assert jitter.unit("router") == 0.8408189166802913
    assert jitter.unit("router", "wg0/office", 7) == 0.8065285123884678
    assert jitter.spread(100.0, 0.2, "router", "wg0/office", 7) == 112.2611404955387


def test_spread_is_as_wide_as_said() -> None:
    values = [jitter.spread(100.0, 0.25, "x", n) for n in range(1000)]
    assert 75.0 <= min(values) < 78.0 and 122.0 < max(values) <= 125.0
    assert 98.0 < sum(values) / 1000 < 102.0
    assert jitter.spread(100.0, 0.0, "x") == 100.0
    assert jitter.spread(0.0, 0.5, "x") == 0.0
