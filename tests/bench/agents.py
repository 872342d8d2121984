"""What measures ask of a running agent: is it at rest, how much memory and CPU it has, what it said when."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.bench.measures import ROOT, SETS
from tests.lab import Agent, Lab, until
from wgrouter import client

TICK = os.sysconf("SC_CLK_TCK")

# One probe a second and WAN, as the target has it: by default both families are probed.
ONE_FAMILY = """
config wan 'a'
	option interface 'wan'
	option priority '1'
	option family 'ipv4'

config wan 'b'
	option interface 'wanb'
	option priority '2'
	option family 'ipv4'
"""


def python_of(which: str) -> str:
    """The interpreter of a library set, which `make setup` made."""
    return str(ROOT / SETS[which])


def status(agent: Agent) -> dict[str, Any]:
    """As `wgrouter status --json`, without starting an interpreter, which would be a load on the machine."""
    found = client.ask(client.path_below(str(agent.root)), "status")
    assert isinstance(found, dict)
    return found


def carries(agent: Agent, device: str) -> bool:
    """Whether traffic of every family that has an uplink goes by this device."""
    active = {(wan["family"], wan["device"]) for wan in status(agent)["wans"] if wan["active"]}
    return bool(active) and all(there == device for _, there in active)


def at_rest(agent: Agent) -> bool:
    """Every uplink works, every peer lives, every name is resolved."""
    now = status(agent)
    peers = [peer for tunnel in now["tunnels"] for peer in tunnel["peers"]]
    return (
        bool(now["wans"] and peers)
        and all(wan["state"] == "up" for wan in now["wans"])
        and all(peer["state"] == "alive" and peer["addresses"] for peer in peers)
    )


def started(lab: Lab, config: str = "", which: str = "newest", within: float = 30.0, **more: Any) -> Agent:
    """An agent that has come to rest."""
    agent = lab.router.start_agent(config, python=python_of(which), **more)
    until(lambda: at_rest(agent), within=within, what="an agent at rest")
    return agent


def memory_mib(pid: int) -> dict[str, float]:
    """Rss, Pss, Private_Dirty … of a process, from smaps_rollup."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.endswith("kB")}


def cpu_seconds(pid: int, children: bool = False) -> float:
    """Time on a CPU so far, to the nanosecond; with that of children that have ended in steps of 1/100 s."""
    if not children:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICK


def cpu_percent(pid: int, seconds: float, children: bool = False) -> float:
    """Of one core, over so long from now."""
    before, began = cpu_seconds(pid, children), time.monotonic()
    pause(seconds)
    return 100 * (cpu_seconds(pid, children) - before) / (time.monotonic() - began)


def pause(seconds: float) -> None:
    """Let time pass: what is measured here is what happens meanwhile."""
    time.sleep(seconds)


class Lines:
    """When an agent wrote what, on the monotonic clock, to the millisecond. Made before the agent starts."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._offset = log.stat().st_size if log.exists() else 0
        self.lines: list[tuple[float, str]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        rest = b""
        while not self._ended.wait(0.001):
            try:
                size = self._log.stat().st_size
            except FileNotFoundError:
                continue
            if size <= self._offset:
                continue
            now = time.monotonic()
            with self._log.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
            self._offset += len(data)
            *whole, rest = (rest + data).split(b"\n")
            self.lines += [(now, line.decode(errors="replace")) for line in whole]

    def first(self, word: str) -> float:
        """When a line with this word came; ValueError if none did."""
        return min(self._times(word))

    def last(self, word: str) -> float:
        return max(self._times(word))

    def count(self, word: str) -> int:
        return sum(1 for _ in self._times(word))

    def _times(self, word: str) -> list[float]:
        return [at for at, line in self.lines if word in line]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()


def timed(work: Callable[[], object], runs: int) -> list[float]:
    """Seconds of each run, after one that does not count."""
    work()
    took = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return took
