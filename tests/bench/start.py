"""How long from the start of the agent until it has chosen an uplink."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.bench.agents import Lines, cpu_seconds, python_of, timed
from tests.bench.measures import ROOT, Bench, measure
from tests.lab import Lab, build, dual, now, sites, until

CHOSEN = "[uplink.chosen]"


@measure("start_to_first_decision_s", "start_cpu_s", full_s=40, quick_s=10)
def start(bench: Bench) -> None:
    """exec → the first uplink chosen; the lab has two WANs and four peers."""
    runs = bench.runs(10, 3)

    def add(which: str, against: str = "", note: str = "", env: dict[str, str] | None = None) -> None:
        took = _starts(lab, which, runs, env)
        bench.add("start_to_first_decision_s", *(wall for wall, _ in took), against=against, note=note)
        bench.add("start_cpu_s", *(cpu for _, cpu in took), against=against, note=note)

    with build(dual(sites(4), ttl=60), wait=True) as lab, tempfile.TemporaryDirectory() as place:
        add("router", note="the router's library set")
        add("newest", "newest libraries")
        if bench.quick:
            return
        shutil.copytree(ROOT / "wgrouter", Path(place) / "wgrouter", ignore=shutil.ignore_patterns("*.pyc"))
        fresh = {"PYTHONPATH": place, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONSAFEPATH": "1"}
        add("router", "compiling itself (no .pyc yet)", env=fresh)
    for what, code in (
        ("python3 that does nothing", "pass"),
        ("importing pyroute2 and dns.resolver whole", "import pyroute2, dns.resolver"),
    ):
        command = [python_of("router"), "-c", code]
        took = timed(lambda command=command: subprocess.run(command, check=True), runs)  # type: ignore[misc]
        bench.add("start_to_first_decision_s", *took, against=what)


def _starts(lab: Lab, which: str, runs: int, env: dict[str, str] | None = None) -> list[tuple[float, float]]:
    """Seconds of each start, and of CPU."""
    took = []
    for _ in range(runs + 1):
        with Lines(lab.router.root / "agent.log") as lines:
            began = now()
            agent = lab.router.start_agent("", python=python_of(which), env=env)
            until(lambda lines=lines: lines.count(CHOSEN), within=20, what="a decision")  # type: ignore[misc]
            cpu = cpu_seconds(agent.pid)
            took.append((lines.first(CHOSEN) - began, cpu))
        agent.stop()
    return took[1:]  # the first one compiled, or brought files into the page cache
