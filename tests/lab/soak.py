"""Forty minutes of the agent in the lab, at rest and under faults: does anything grow? `make soak`.

Both library sets, side by side, each on a lab of its own: two WANs, four peers, a broker, traffic. Resident
and private memory, descriptors and threads are read each few seconds; after a warm-up the first and the last
minutes of a phase are compared. At rest that is until the journal's ring is full; under faults until there
has been about as much at once as there ever is, since a heap keeps the room it once needed: half of the
phase. What grew in the warm-up is told, too. Exit status 1 if private memory or RSS grew by more than
GROWTH_MIB, or the descriptors by any. Faults are those of chaos, but for those that would end the agent's
life.

    python -m tests.lab.soak                     10 minutes at rest, 30 under faults
    python -m tests.lab.soak --rest 3 --faults 6 --warm 1
    python -m tests.lab.soak --days 30 --seed 11  the core alone, in simulated time: tests/model/soak.py
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .chaos import LAUNCHER, configuration
from .chaos_bus import Ubus
from .chaos_faults import Trouble, mount_tmp
from .chaos_script import WEIGHTS, Story, draw
from .lab import Lab, build
from .netns import REPOSITORY
from .poll import until
from .topology import dual, sites

GROWTH_MIB = 0.5
EVERY = 2.0  # seconds between looks
EDGE = 90.0  # seconds at each end of a phase that are compared
BETWEEN = 3.0  # seconds between faults
SEED = 6
PLACE = REPOSITORY / "build/soak"
MORTAL = ("kill", "restart", "suspend")
SETS = ("router", "newest")
# As with the router's libc (musl): one heap. glibc gives one more to each thread while others are at work,
# and keeps them, which is 1.5 MiB for threads that wait for a name.
HEAP = {"MALLOC_ARENA_MAX": "1"}


@dataclass(frozen=True)
class Sample:
    """A look at the process. Memory in MiB."""

    at: float
    rss: float
    private: float
    fds: int
    threads: int


def look(pid: int) -> Sample:
    """What the kernel says of it."""
    place = Path(f"/proc/{pid}")
    lines = (place / "smaps_rollup").read_text().splitlines()[1:]
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith("kB")}
    fds, threads = len(os.listdir(place / "fd")), len(os.listdir(place / "task"))
    return Sample(time.monotonic(), kib["Rss"] / 1024, kib["Private_Dirty"] / 1024, fds, threads)


def watch(pid: int, seconds: float, act: Callable[[], None]) -> list[Sample]:
    """Look again and again; between looks `act` may do something."""
    samples, end = [look(pid)], time.monotonic() + seconds
    while time.monotonic() < end:
        act()
        if time.monotonic() - samples[-1].at >= EVERY:
            samples.append(look(pid))
        time.sleep(0.1)
    return samples


def compare(samples: Sequence[Sample], warm: float) -> dict[str, Any]:
    """The first and the last of the warm samples. Of descriptors the least: some belong to what is under way,
    but what is lost never comes back.
    """
    start, end = samples[0].at + warm, samples[-1].at
    edge = min(EDGE, (end - start) / 3)
    first = [sample for sample in samples if start <= sample.at <= start + edge]
    last = [sample for sample in samples if sample.at >= end - edge]
    found: dict[str, Any] = {"minutes": round((end - samples[0].at) / 60, 1), "samples": len(samples)}
    for name in ("rss", "private"):
        before, after = (_median([getattr(sample, name) for sample in part]) for part in (first, last))
        found |= {f"{name}_mib": round(before, 2), f"{name}_growth_mib": round(after - before, 2)}
        found[f"{name}_warm_up_mib"] = round(before - getattr(samples[0], name), 2)
    for name in ("fds", "threads"):
        before, after = (min(getattr(sample, name) for sample in part) for part in (first, last))
        found |= {name: before, f"{name}_growth": after - before}
        found[f"{name}_most"] = max(getattr(sample, name) for sample in samples)
    return found


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def grew(found: dict[str, Any]) -> list[str]:
    """What is more at the end than it may be."""
    limits = {"rss_growth_mib": GROWTH_MIB, "private_growth_mib": GROWTH_MIB}
    limits |= {"fds_growth": 0, "threads_growth": 0}
    return [f"{name} {found[name]}" for name, limit in limits.items() if found[name] > limit]


class Faults:
    """A fault every BETWEEN seconds, for ever; after each few storms all is mended."""

    def __init__(self, trouble: Trouble) -> None:
        self.trouble, self.count = trouble, 0
        self._next = time.monotonic()
        self._steps = self._forever()

    def __call__(self) -> None:
        if time.monotonic() >= self._next:
            next(self._steps)()
            self._next = time.monotonic() + BETWEEN

    def _forever(self) -> Iterator[Callable[[], object]]:
        only = tuple(verb for verb in WEIGHTS if verb not in MORTAL)
        for number in range(1, 1 << 30):
            for storm in draw(SEED * 1000 + number, 200, only).storms:
                for fault in storm.faults:
                    self.count += 1
                    yield partial(self.trouble.do, fault.verb, fault.a, fault.b)
                if storm.mended:
                    yield self.trouble.mend


def soak(which: str, rest: float, faults: float, warm: float) -> int:
    """One library set; minutes. Figures as JSON on standard output."""
    python = str(REPOSITORY / f"build/venv-{which}/bin/python")
    with build(dual(sites(4), ttl=5, broker=True)) as lab:
        mount_tmp(lab)
        ubus = Ubus(lab)
        clock = lab.directory / "clock"
        clock.write_text("0")
        config = configuration(lab, Story(0, False, ()))
        command = [python, str(LAUNCHER), "run", "--root", str(lab.router.root)]
        agent = lab.router.start_agent(config, command=command, env=HEAP | {"CHAOS_CLOCK": str(clock)})
        trouble = Trouble(lab, agent, ubus, clock, config)
        flows = [lab.flow("router", site, hertz=5) for site in lab.sites]
        flows_lan = lab.connects("client", "web", hertz=5)
        until(lambda: all(flow.flowing(1.0) for flow in flows), within=30, what="traffic")
        found: dict[str, Any] = {"set": which}
        act = Faults(trouble)
        at_rest = watch(agent.pid, rest * 60, lambda: None)
        in_trouble = watch(agent.pid, faults * 60, act)
        PLACE.mkdir(parents=True, exist_ok=True)
        series = [astuple(sample) for sample in (*at_rest, *in_trouble)]
        (PLACE / f"{which}.series.json").write_text(json.dumps(series))
        found["rest"], found["faults"] = compare(at_rest, warm * 60), compare(in_trouble, faults * 30)
        found["faults"]["count"] = act.count
        trouble.mend()
        until(lambda: all(flow.flowing(1.0) for flow in flows), within=75, what="traffic in the end")
        until(lambda: flows_lan.flowing(1.0), within=30, what="the LAN's traffic in the end")
        found["lines"] = agent.output().count("\n")
        _check(lab, found)
        print(json.dumps(found), flush=True)
    return bool(found["bad"])


def _check(lab: Lab, found: dict[str, Any]) -> None:
    assert lab.router.agent is not None
    status = lab.router.agent.stop(within=20)
    bad = [f"{phase}: {text}" for phase in ("rest", "faults") for text in grew(found[phase])]
    if status:
        bad.append(f"exit status {status} at the end")
    if "Traceback" in lab.router.agent.output():
        bad.append("a traceback in the log")
    found["bad"] = bad


def main(arguments: Sequence[str]) -> int:
    """0 if nothing grew."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__.splitlines()[0])
    parser.add_argument("--rest", type=float, default=10, help="minutes")
    parser.add_argument("--faults", type=float, default=30, help="minutes")
    parser.add_argument("--warm", type=float, default=4, help="minutes at rest that do not count")
    parser.add_argument("--set", choices=SETS, help="one library set, in this process")
    if "--days" in arguments:
        return subprocess.run([sys.executable, "-m", "tests.model.soak", *arguments], check=False).returncode
    options = parser.parse_args(arguments)
    if options.set:
        return soak(options.set, options.rest, options.faults, options.warm)
    PLACE.mkdir(parents=True, exist_ok=True)
    given = ["--rest", options.rest, "--faults", options.faults, "--warm", options.warm]
    running = []
    for which in SETS:
        command = [sys.executable, "-m", "tests.lab.soak", "--set", which, *map(str, given)]
        with (PLACE / f"{which}.log").open("wb") as out:
            running.append(subprocess.Popen(command, cwd=REPOSITORY, stdout=out, stderr=subprocess.STDOUT))
    statuses = [child.wait() for child in running]
    for which in SETS:
        print((PLACE / f"{which}.log").read_text(errors="replace"))
    return max(statuses)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
