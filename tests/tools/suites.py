"""Runs the whole test suite in stages, on both library sets, and sums up: `make test`.

Every stage runs, whatever became of the one before, so that one run tells everything. A stage fails if pytest
says so, and also if it collected no test at all (exit 5): an empty stage is a mistake in a marker or a path,
not a success.

The lab mostly waits. What mostly computes (the models, the virtual machine) runs beside it, with what the lab
leaves of the processor, and its output comes when it is done.

Usage: python -m tests.tools.suites [STAGE...]    without arguments: all, in order
"""

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parents[2]
SETS = ("router", "newest")
# Lab tests mostly wait, for a seventh of a core each, and their limits are wide. Those of a module share a
# lab and stay together. The model tests of the unit stage are long and stand together: the idle take some.
WORKERS = {
    "unit": os.environ.get("UNIT_WORKERS", "2"),
    "lab": os.environ.get("LAB_WORKERS", "4"),
    "once": os.environ.get("ONCE_WORKERS", "2"),
}
# Modules with few and long tests would come last, and be waited for: as they stand, the long ones come first.
SHARING = {
    "unit": ["--dist", "worksteal"],
    "lab": ["--dist", "loadscope", "--no-loadscope-reorder"],
    "once": ["--dist", "worksteal"],
}
COUNT = re.compile(r"(\d+) (passed|failed|skipped|errors?|xfailed|xpassed|warnings?)\b")
CLOSING = re.compile(r"^=+ .*\b(\d+ \w+|no tests ran).* in [\d.]+s.*=+$")


# At the lowest priority. Where sessions are scheduled as groups, nice counts only within one (sched(7)).
LEAST = ["sh", "-c", '(echo 19 >/proc/self/autogroup) 2>/dev/null; exec nice -n 19 "$@"', "beside"]


@dataclass(frozen=True)
class Stage:
    """One command, and the longest it may take."""

    name: str
    command: list[str]
    limit_s: int
    beside: bool = False  # the lab


@dataclass
class Outcome:
    """What became of a stage."""

    status: int
    seconds: float
    closing: list[str] = field(default_factory=list)


# These touch no library that differs between the sets, or only as others do: the newest set alone runs them,
COMPUTING = (  # beside the lab,
    "tests/model/test_engine.py",
    "tests/model/test_routing.py",
    "tests/model/test_scale.py",
    "tests/model/test_sticky.py",
    "tests/package/test_ipk.py",
    "tests/unit/test_mutants.py",
)
WAITING = (  # or as part of it.
    "tests/lab/test_chaos.py",
    "tests/lab/test_lab_plan.py",
    "tests/lab/test_lab_selftest.py",
    "tests/lab/test_wans_damping.py",
)


def pytest_stage(kind: str, which: str, marks: str, limit_s: int) -> Stage:
    """A stage that runs the tests chosen by `marks` on one library set."""
    command = [f"build/venv-{which}/bin/python", "-m", "pytest", "-m", marks]
    command += ["--durations=10", "--durations-min=2"]
    if kind == "once":
        command += ["--timeout", "600", *COMPUTING]
    else:
        left_out = (*COMPUTING, *WAITING) if which != SETS[-1] else COMPUTING
        command += [f"--ignore={path}" for path in left_out]
    if WORKERS[kind] != "0":
        # Never with "-n 0", which then waits for workers that nobody starts.
        command += ["-n", WORKERS[kind], *SHARING[kind]]
    return Stage(f"{kind}-{which}", command, limit_s, beside=kind == "once")


def stages() -> list[Stage]:
    """All stages, in order: the fast ones first."""
    return [
        *(pytest_stage("unit", which, "not lab and not vm", 480) for which in SETS),
        *(pytest_stage("lab", which, "lab and not vm", 720) for which in SETS),
        pytest_stage("once", SETS[-1], "not lab and not vm", 900),
        Stage("vm", ["make", "--no-print-directory", "vm"], 1200, beside=True),
    ]


def end(child: subprocess.Popen[str]) -> None:
    """End a stage's process group: interrupted, so that pytest reports what it has, asked, made to."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        try:
            if child.poll() is None:
                os.killpg(child.pid, number)
            child.wait(20)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
        return


def run(stage: Stage, out: TextIO, children: list[subprocess.Popen[str]]) -> Outcome:
    """Run one stage with its output passed through, and keep pytest's closing lines."""
    print(f"\n##### {stage.name}: {' '.join(stage.command)}", file=out, flush=True)
    env = os.environ | {"WGROUTER_STRICT": "1", "PYTHONUNBUFFERED": "1"}
    began = time.monotonic()
    child = subprocess.Popen(
        [*LEAST, *stage.command] if stage.beside else stage.command,
        cwd=ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # A process group of its own, to end with all it started.
        start_new_session=True,
    )
    children.append(child)
    expired = threading.Event()

    def stop() -> None:
        expired.set()
        end(child)

    watchdog = threading.Timer(stage.limit_s, stop)
    watchdog.start()
    closing = []
    assert child.stdout
    try:
        for line in child.stdout:
            print(line, end="", file=out, flush=True)
            if CLOSING.match(line.rstrip()):
                closing.append(line.rstrip().strip("= "))
        status = child.wait()
    finally:
        watchdog.cancel()
        end(child)
    if expired.is_set():
        print(f"##### {stage.name}: stopped after {stage.limit_s} s", file=out, flush=True)
    return Outcome(status, time.monotonic() - began, closing)


def run_all(chosen: list[Stage]) -> list[Outcome]:
    """One after another, but for those beside the lab: they begin with it."""
    outcomes: dict[str, Outcome] = {}
    children: list[subprocess.Popen[str]] = []
    beside = [stage for stage in chosen if stage.beside]
    before = [stage for stage in chosen if not stage.beside]

    def accompany() -> None:
        for stage in beside:
            said = io.StringIO()
            outcomes[stage.name] = run(stage, said, children)
            print(said.getvalue(), end="", flush=True)

    company = threading.Thread(target=accompany, daemon=True)
    try:
        for stage in before:
            if stage.name.startswith("lab") and not company.ident:
                company.start()
            outcomes[stage.name] = run(stage, sys.stdout, children)
        if not company.ident:
            company.start()
        company.join()
    finally:
        for child in children:
            end(child)
    return [outcomes[stage.name] for stage in chosen]


def total(outcomes: list[Outcome]) -> str:
    """The counts of all stages, in the words and the order of pytest's own closing line."""
    counts: Counter[str] = Counter()
    for outcome in outcomes:
        for line in outcome.closing:
            for number, what in COUNT.findall(line):
                counts["error" if what == "errors" else what.replace("warnings", "warning")] += int(number)
    order = ("failed", "passed", "skipped", "xfailed", "xpassed", "warning", "error")
    return ", ".join(f"{counts[what]} {what}" for what in order if counts[what]) or "no tests ran"


def main(names: list[str]) -> int:
    """Run the named stages, or all; print a summary whose last line reads like pytest's; 0 if all passed."""
    every = stages()
    if unknown := set(names) - {stage.name for stage in every}:
        names_there = ", ".join(stage.name for stage in every)
        print(f"unknown stage {sorted(unknown)}; there are: {names_there}", file=sys.stderr)
        return 2
    chosen = [stage for stage in every if not names or stage.name in names]
    # As an exception, so that a stage is not left running when make is told to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # In the background of a shell SIGINT is ignored, and so in every stage; `end` begins with it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    began = time.monotonic()
    outcomes = run_all(chosen)
    failed = [stage.name for stage, outcome in zip(chosen, outcomes, strict=True) if outcome.status]
    print("\n##### summary")
    for stage, outcome in zip(chosen, outcomes, strict=True):
        verdict = "ok    " if not outcome.status else f"FAILED (exit {outcome.status})"
        closing = " | ".join(outcome.closing) or "no closing line"
        print(f"{stage.name:12} {verdict} {outcome.seconds:6.1f} s   {closing}")
    if failed:
        print(f"failed stages: {', '.join(failed)}; again with: make test STAGES='{' '.join(failed)}'")
    elapsed = time.monotonic() - began
    print(f"{f' {total(outcomes)} in {elapsed:.2f}s ':=^80}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
