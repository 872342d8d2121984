"""When a name is looked up again: TTLs, negative answers and failures, within what the settings allow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wgrouter.core.name_memory import Verdict
from wgrouter.core.name_times import AGAIN, after_failures, after_negative, after_ttl, clamped, ends_first
from wgrouter.core.settings import Dns

DNS = Dns(ttl_min=5.0, ttl_max=3600.0, retry=5.0, retry_max=300.0)
JITTERS = st.floats(0.0, 1.0, exclude_max=True)


@pytest.mark.parametrize(("ttl", "kept"), [(0.0, 5.0), (5.0, 5.0), (60.0, 60.0), (1e9, 3600.0)])
def test_a_ttl_has_floor_and_ceiling(ttl: float, kept: float) -> None:
    assert clamped(DNS, ttl) == kept


def test_the_answer_that_ends_first_counts_and_not_the_one_that_came_first() -> None:
    long, short = Verdict(ttl=600.0, at=10.0), Verdict(ttl=20.0, at=11.0)
    old, new = Verdict(ttl=60.0, at=10.0), Verdict(ttl=60.0, at=40.0)
    assert ends_first(DNS, [long, short]) is ends_first(DNS, [short, long]) is short
    assert ends_first(DNS, [new, old]) is old
    assert ends_first(DNS, [Verdict(ttl=9000.0, at=10.0), Verdict(ttl=3600.0, at=9.0)]).at == 9.0


@pytest.mark.parametrize(
    ("ttl", "jitter", "wait"),
    [
        *((60.0, 0.0, 60.0), (60.0, 0.5, 60.5), (3600.0, 0.5, 3600.5)),  # a second at most
        *((6.0, 0.5, 6.3), (5.0, 0.5, 5.25)),  # or a tenth
    ],
)
def test_after_the_ttl_or_a_little_later(ttl: float, jitter: float, wait: float) -> None:
    assert after_ttl(DNS, Verdict(ttl=ttl, at=100.0), jitter, 100.0) == pytest.approx(100.0 + wait)


def test_a_round_longer_than_the_ttl_does_not_follow_on_itself() -> None:
    assert after_ttl(DNS, Verdict(ttl=5.0, at=100.0), 0.9, 115.0) == 115.0 + AGAIN


def test_after_failures_the_wait_doubles_to_the_ceiling() -> None:
    waits = [after_failures(DNS, failures, 0.0) for failures in range(1, 9)]
    assert waits == [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0]
    assert after_failures(DNS, 10**6, 0.0) == 300.0


def test_jitter_makes_the_wait_a_fifth_shorter_at_most_and_never_shorter_than_the_first() -> None:
    assert after_failures(DNS, 3, 0.5) == pytest.approx(18.0)
    assert after_failures(DNS, 1, 0.5) == 5.0


@given(st.integers(0, 10**6), JITTERS, st.floats(0.0, 1e6), st.floats(0.0, 1e6), st.floats(0.0, 1e6))
def test_no_setting_makes_a_storm(failures: int, jitter: float, retry: float, top: float, ttl: float) -> None:
    dns = Dns(ttl_min=0.0, ttl_max=top, retry=retry, retry_max=top)
    assert AGAIN <= after_failures(dns, failures, jitter) <= max(top, retry, AGAIN)
    assert AGAIN <= after_negative(dns, ttl) <= max(top, retry, AGAIN)
    assert after_ttl(dns, Verdict(ttl=ttl, at=50.0), jitter, 50.0) >= 50.0 + AGAIN
