"""Chaos itself: a story is the same each time, the watch sees what is wrong, and a short story ends well.

The long ones are `make chaos`.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.lab import chaos, chaos_watch, soak
from tests.lab.chaos_faults import Line, Trouble
from tests.lab.chaos_script import WEIGHTS, draw
from tests.lab.chaos_watch import Watch


def test_a_seed_tells_the_same_story_each_time() -> None:
    one, two, other = draw(7, 200), draw(7, 200), draw(8, 200)
    assert one == two and one.storms != other.storms
    assert one.faults == other.faults == 200
    assert one.full_tunnel and not other.full_tunnel
    assert one.storms[-1].mended and sum(storm.mended for storm in one.storms) >= 5


def test_every_kind_of_fault_is_a_verb_and_comes() -> None:
    assert all(callable(getattr(Trouble, verb)) for verb in WEIGHTS)
    told = {fault.verb for seed in chaos.SEEDS for storm in draw(seed, 200).storms for fault in storm.faults}
    assert told == set(WEIGHTS)
    assert {fault.verb for storm in draw(7, 50, ("cut",)).storms for fault in storm.faults} == {"cut"}


def test_what_is_no_way() -> None:
    assert Line().works(4) and Line().works(6) and Line(loss=3).works(4)
    for line in (Line(carrier=False), Line(plugged=False), Line(captive=True), Line(loss=12)):
        assert not line.works(4) and not line.works(6)
    assert Line(dead=frozenset({6})).works(4) and not Line(dead=frozenset({6})).works(6)
    assert Line(routed={6}).works(6) and not Line(routed={6}).works(4)


def samples(*memory: float, fds: int = 20) -> list[soak.Sample]:
    return [soak.Sample(10.0 * n, mib, mib, fds + (n == 40), 2) for n, mib in enumerate(memory)]


def test_the_soak_sees_what_grows_and_not_what_varies() -> None:
    warming = [20.0 + min(n, 20) * 0.2 for n in range(100)]
    assert soak.grew(soak.compare(samples(*warming), warm=200.0)) == []
    growing = [mib + n * 0.008 for n, mib in enumerate(warming)]
    found = soak.compare(samples(*growing), warm=200.0)
    assert soak.grew(found) == [
        f"rss_growth_mib {found['rss_growth_mib']}",
        f"private_growth_mib {found['private_growth_mib']}",
    ]
    leaking = [soak.Sample(one.at, 20.0, 20.0, 20 + n // 30, 2) for n, one in enumerate(samples(*warming))]
    assert soak.grew(soak.compare(leaking, warm=200.0)) == ["fds_growth 3"]


# ---------------------------------------------------------------- in the lab


@pytest.mark.lab
@pytest.mark.timeout(300)
def test_a_short_story_ends_well() -> None:
    figures = chaos.play(draw(5, 8, ("cut", "hole", "rules", "routes", "kill", "full")), lambda line: None)
    assert figures["faults"] == 8 and figures["fds"] > 5 and figures["messages"] > 5


@pytest.mark.lab
@pytest.mark.timeout(300)
def test_an_agent_that_does_nothing_is_found_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Frozen, it moves no traffic: the story fails, and tells its seed and what happened until then."""
    monkeypatch.setattr(chaos_watch, "LAN_BOUND", 3.0)
    monkeypatch.setattr(chaos, "PLACE", tmp_path)

    def freeze(watch: Watch) -> None:
        watch.trouble.agent.signal(signal.SIGSTOP)
        watch.trouble.lab.blackhole("a")
        watch.trouble.lines["a"].dead = frozenset({4, 6})

    def storms(story: Any, trouble: Trouble, watch: Watch, tell: Any, began: float) -> None:
        freeze(watch)
        tell("frozen")
        monkeypatch.setattr(trouble, "awake", lambda: None)
        watch.calm()

    monkeypatch.setattr(chaos, "_storms", storms)
    with pytest.raises(chaos.Failure) as failure:
        chaos.play(draw(2, 5), lambda line: None)
    told = str(failure.value)
    assert told.startswith("frozen")
    assert "silent" in told and "although there is a way" in told
    assert "FAILED seed 2" in told and "again: make chaos ARGS='--seed 2 --faults 5'" in told
