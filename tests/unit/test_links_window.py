"""Loss, latency, jitter, lateness and dead targets: views of a window of samples."""

from __future__ import annotations

import pytest

from wgrouter.core import window
from wgrouter.core.settings import Probing, Wan
from wgrouter.core.window import Quality, Sample, Target

NOW = 100.0


def made(pattern: str, targets: str = "abc", rtt: float = 0.02, refused: str = "") -> tuple[Sample, ...]:
    """`.` answered, `x` not, `r` refused; one each second up to a second before NOW, targets in turn."""
    start = NOW - len(pattern)
    return tuple(
        Sample(
            2 * n + 2,
            start + n,
            targets[n % len(targets)],
            rtt if mark == "." else None,
            (refused or "refused") if mark == "r" else "",
        )
        for n, mark in enumerate(pattern)
    )


@pytest.mark.parametrize(
    ("pattern", "loss"),
    [
        ("............", 0.0),
        ("x...........", 100 / 12),
        ("xx..........", 200 / 12),
        ("r...........", 100 / 12),
        ("x..x..x..x..", 0.0),  # one target of three is dead: not counted
        ("............x..x..x..", 0.0),
        ("xxxxxxxxxxxx", 100.0),  # all of them are: it is the link
        (".xx.xx.xx.xx", 0.0),  # one of three still answers: the link works
    ],
)
def test_loss(pattern: str, loss: float) -> None:
    seen = window.quality(made(pattern), NOW, 0.2)
    assert seen.loss == pytest.approx(loss)


def test_what_may_still_come_is_not_lost() -> None:
    samples = (*made("..........")[:-1], Sample(50, NOW - 0.1, "a"))
    assert window.quality(samples, NOW, 0.2).loss == 0.0
    assert window.quality(samples, NOW + 0.2, 0.2).loss == pytest.approx(10.0)
    assert window.quality(window.answered(samples, 50, 0.4), NOW + 0.4, 0.2).loss == 0.0


def test_latency_and_jitter() -> None:
    samples = tuple(Sample(n, NOW - n, "a", rtt) for n, rtt in ((2, 0.01), (4, 0.03)))
    seen = window.quality(samples, NOW, 0.2)
    assert (seen.latency, seen.jitter) == (pytest.approx(20.0), pytest.approx(10.0))


def test_an_empty_window_says_nothing() -> None:
    assert window.quality((), NOW, 0.2) == Quality()
    assert window.verdict(Quality(), Wan("a")) == ""


@pytest.mark.parametrize(
    ("rtts", "late"),
    [
        ((), 0.6),
        ((0.001, 0.001), 0.2),  # never below late_min
        ((0.1, 0.1), 0.3),  # three usual round trips
        ((0.02, 0.02, 0.5), 0.75),  # half as much again as the slow ones
        ((*[0.01] * 9, 0.4), 0.2),  # one in ten proves nothing
        ((*[0.01] * 27, 0.4, 0.4, 0.4), 0.2),
        ((*[0.01] * 26, 0.4, 0.4, 0.4, 0.4), 0.6),
        ((1.9, 1.9), 2.0),  # never beyond the timeout
    ],
)
def test_when_an_answer_is_late(rtts: tuple[float, ...], late: float) -> None:
    samples = tuple(Sample(n, NOW, "a", rtt) for n, rtt in enumerate(rtts))
    assert window.late_after(samples, Probing()) == pytest.approx(late)


@pytest.mark.parametrize(("rtts", "wait"), [((), 0.6), ((0.001,), 0.1), ((0.1,), 0.3), ((0.02, 0.4), 0.63)])
def test_how_long_a_burst_waits(rtts: tuple[float, ...], wait: float) -> None:
    samples = tuple(Sample(n, NOW, "a", rtt) for n, rtt in enumerate(rtts))
    assert window.burst_wait(samples, Probing()) == pytest.approx(wait)


@pytest.mark.parametrize(
    ("pattern", "dead"),
    [
        ("............", ""),
        ("x..x..x.....", ""),  # it answered since
        ("...x..x.....", ""),
        ("x..x..x..x..", "a"),
        (".xx.xx.xx.xx", "bc"),
        ("xxxxxxxxxxxx", ""),  # nobody answers: says nothing about a target
        (".........xxxxxxxxx", ""),  # nobody has answered since: it is the link
    ],
)
def test_silent_targets(pattern: str, dead: str) -> None:
    assert window.silent(made(pattern), NOW, 0.2) == frozenset(dead)


@pytest.mark.parametrize(
    ("seen", "over"),
    [
        (Quality(25.0, 10.0, 1.0, 30), ""),
        (Quality(25.1, 10.0, 1.0, 30), "25 % loss, the limit is 25 %"),
        (Quality(100.0, None, None, 9), ""),  # too few to judge
        (Quality(0.0, 101.0, 1.0, 30), "latency 101 ms, the limit is 100 ms"),
        (Quality(0.0, 10.0, 51.0, 30), "jitter 51 ms, the limit is 50 ms"),
    ],
)
def test_limits(seen: Quality, over: str) -> None:
    assert window.verdict(seen, Wan("a", latency_max=100.0, jitter_max=50.0)) == over


def test_targets_go_round_before_methods_do() -> None:
    wan = Wan("a", methods=("icmp", "arp"), targets4=("1.1.1.1", "8.8.8.8"))
    assert window.targets(wan, Probing(), 4) == (
        Target("icmp", "1.1.1.1"),
        Target("icmp", "8.8.8.8"),
        Target("arp", "gateway"),
    )
    assert window.targets(Wan("a"), Probing(), 6)[0].address == "2606:4700:4700::1111"
    assert str(Target("tcp", "1.1.1.1")) == "tcp:1.1.1.1"


def test_targets_of_each_family() -> None:
    wan = Wan("a", targets4=("192.0.2.1",), targets6=("2001:db8::1",))
    assert [t.address for t in window.targets(wan, Probing(), 4)] == ["192.0.2.1"]
    assert [t.address for t in window.targets(wan, Probing(), 6)] == ["2001:db8::1"]
    assert [t.address for t in window.targets(Wan("a"), Probing(), 4)] == ["1.1.1.1", "8.8.8.8", "9.9.9.9"]
    assert str(Target("icmp", "1.1.1.1")) == "1.1.1.1"


def test_when_an_answer_is_missing() -> None:
    sent = Sample(2, NOW - 0.25, "a")
    assert window.missing(sent, NOW, 0.25) and not window.missing(sent, NOW, 0.26)
    assert not window.missing(Sample(2, NOW - 9.0, "a", 0.02), NOW, 0.25)
    assert window.missing(Sample(2, NOW, "a", refused="Network is unreachable"), NOW, 0.25), "at once"


def test_a_probe_that_was_refused_may_still_be_answered() -> None:
    samples = (Sample(2, NOW - 2.0, "a"), Sample(4, NOW - 1.0, "b"))
    told = window.refused(samples, 4, "Network is unreachable")
    assert told == (samples[0], Sample(4, NOW - 1.0, "b", None, "Network is unreachable"))
    assert window.refused(samples, 4, "")[1].refused == "refused", "without a word of why"
    assert window.answered(told, 4, 0.02) == (samples[0], Sample(4, NOW - 1.0, "b", 0.02))


@pytest.mark.parametrize(
    ("pattern", "targets", "limit", "dead"),
    [
        ("xbxbxb", "ab", 3, "a"),
        ("xbxbxb", "ab", 4, ""),
        ("xbxb", "ab", 2, "a"),
        ("bxx", "aab", 2, ""),  # nobody has answered since
        ("xxb", "aab", 2, "a"),
        ("xxxb", "aaab", 4, ""),
        ("axxxb", "aaaab", 3, "a"),
    ],
)
def test_how_many_answers_a_silent_target_misses(pattern: str, targets: str, limit: int, dead: str) -> None:
    """A letter is an answer of that target."""
    samples = tuple(
        Sample(2 * n + 2, NOW - len(pattern) + n, targets[n % len(targets)], None if mark == "x" else 0.02)
        for n, mark in enumerate(pattern)
    )
    assert window.silent(samples, NOW, 0.2, limit) == frozenset(dead)


def test_what_is_still_awaited_is_no_silence() -> None:
    gone = tuple(Sample(n, NOW - 9.0 + n, "a") for n in (1, 2))
    heard, waits = Sample(5, NOW - 1.0, "b", 0.02), Sample(6, NOW - 0.1, "a")
    assert window.silent((*gone, heard, waits), NOW, 0.2) == frozenset()
    assert window.silent((*gone, heard, waits), NOW + 0.2, 0.2) == {"a"}
    assert (
        window.silent((*gone, Sample(3, NOW - 6.5, "a", 0.02), heard, waits), NOW + 0.2, 0.2) == frozenset()
    )
    same = (Sample(1, NOW - 9.0, "a"), Sample(2, NOW - 9.0, "b", 0.02))
    assert window.silent(same, NOW, 0.2, 1) == frozenset(), "sent in the same moment: nothing is known since"


LIMITED = Wan("a", loss_max=20.0, latency_max=100.0, jitter_max=50.0)


@pytest.mark.parametrize(
    ("seen", "over"),
    [
        (Quality(12.0, 60.0, 30.0, 10), ""),
        (Quality(12.1, 60.0, 30.0, 10), "12 % loss, the limit is 12 %"),
        (Quality(12.1, 60.0, 30.0, 9), ""),
        (Quality(0.0, 61.0, 1.0, 10), "latency 61 ms, the limit is 60 ms"),
        (Quality(0.0, 1.0, 31.0, 10), "jitter 31 ms, the limit is 30 ms"),
        (Quality(0.0, None, None, 10), ""),
    ],
)
def test_good_again_is_well_below_the_limits(seen: Quality, over: str) -> None:
    assert window.verdict(seen, LIMITED, 0.6) == over


def test_without_a_limit_nothing_is_over_it() -> None:
    slow = Quality(0.0, 2000.0, 900.0, 30)
    assert window.verdict(slow, Wan("a")) == ""
    assert window.verdict(slow, Wan("a", latency_max=0.5)).startswith("latency 2000 ms")


def test_an_answer_that_has_waited_for_the_neighbour_does_not_count() -> None:
    """One in ten of the slowest is left out, and of five or fewer none."""
    for count in (5, 6, 15, 16):
        rtts = [*[0.01] * (count - 1), 0.8]
        samples = tuple(Sample(n, NOW, "a", rtt) for n, rtt in enumerate(rtts))
        expected = max(0.2, 3 * sum(rtts) / count, 1.5 * 0.8 if count == 5 else 0.0)
        assert window.late_after(samples, Probing()) == pytest.approx(expected), count


@pytest.mark.parametrize(
    ("method", "four", "six"),
    [("icmp", 88, 128), ("dns-udp", 120, 160), ("tcp", 240, 280), ("https", 6000, 6040), ("arp", 92, 92)],
)
def test_what_a_probe_costs(method: str, four: int, six: int) -> None:
    assert (window.cost(method, 4), window.cost(method, 6)) == (four, six)


def test_each_target_is_judged_by_its_own_misses() -> None:
    later = tuple(Sample(2 * n, NOW - 9.0 + n, "aaabbbb"[n], 0.02 if n == 3 else None) for n in range(7))
    assert window.silent(later, NOW, 0.2) == {"a"}, (
        "b answered since; what it missed after that is the link's"
    )
    awaited = (*later[:4], *(Sample(20 + n, NOW - 0.1, "a") for n in range(3)))
    assert window.silent(awaited, NOW, 0.2) == {"a"}
