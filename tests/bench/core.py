"""What a step of the core costs: the events of a real agent, from its journal, through a fresh engine."""

from __future__ import annotations

from collections.abc import Iterable
from time import process_time

from tests.bench.agents import pause, started
from tests.bench.measures import Bench, measure
from tests.lab import Lab, build, dual, sites
from wgrouter.core.engine import Engine
from wgrouter.shell import replay
from wgrouter.shell.journal import Checkpoint, Entry


@measure("engine_step_us", full_s=45, quick_s=11)
def core(bench: Bench) -> None:
    """Two WANs, four peers, at rest."""
    with build(dual(sites(4), ttl=60), wait=True) as lab:
        items = recorded(lab, bench.seconds(30, 8))
    for mean, worst in steps_us(items, 20):
        bench.add("engine_step_us", mean, note="mean over the steps of a pass")
        bench.add("engine_step_us", worst, against="the longest step of a pass")


def recorded(lab: Lab, seconds: float, within: float = 90) -> list[Checkpoint | Entry]:
    """The journal of an agent that was at rest for so long."""
    file = lab.directory / "journal.jsonl"
    agent = started(lab, arguments=("--journal", str(file)), within=within)
    pause(seconds)
    agent.stop()
    return _quiet(replay.read(file.open("rb")).items, seconds)


def _quiet(items: Iterable[Checkpoint | Entry], seconds: float) -> list[Checkpoint | Entry]:
    """From the last checkpoint that leaves at least half of the quiet time."""
    found = list(items)
    end = max(item.at for item in found)
    begin = max(
        number
        for number, item in enumerate(found)
        if isinstance(item, Checkpoint) and (item.at <= end - seconds / 2 or number == 0)
    )
    # The last one or two are the stop.
    return [item for item in found[begin:] if item.at < end - 0.2]


def steps_us(items: list[Checkpoint | Entry], passes: int) -> list[tuple[float, float]]:
    """Mean and longest step of each pass, in time on the CPU: the machine has other things to do."""
    first = items[0]
    assert isinstance(first, Checkpoint)
    found = []
    for _ in range(passes):
        engine = Engine(first.state)
        took = []
        for item in items[1:]:
            if isinstance(item, Entry):
                began = process_time()
                engine.handle(item.event, item.at)
                took.append(1e6 * (process_time() - began))
        if len(took) < 20:
            raise RuntimeError(f"a journal of {len(took)} steps")
        found.append((sum(took) / len(took), max(took)))
    return found
