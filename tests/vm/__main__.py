"""Tests and figures on Debian's kernel in a virtual machine: `make vm`, `make vm-lab`, `make vm-bench`.

Usage: python -m tests.vm [PYTEST-ARGUMENT...]          the tests marked `vm`; for instance: -k handshake
       python -m tests.vm --lab [PYTEST-ARGUMENT...]    the tests of the lab, with the kernel's WireGuard;
                                                        for instance: tests/lab/test_agent.py
       python -m tests.vm --lab --short                 those of them that CI runs there
       python -m tests.vm --bench [BENCH-ARGUMENT...]   figures of failover and of names, in a steady machine;
                                                        for instance: --runs 1 carrier

The first runs each test on both library sets, side by side in one machine of two processors, whose limits are
wide: it is as slow as the host is busy. The others run in steady machines, whose time does not depend on that
(only how long they take does): the lab in two side by side, half of its files on each library set; the
figures in one. VM_LIMIT_S bounds the seconds that a machine may take.
"""

import os
import shlex
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass

from tests.vm import machine

SETS = ("router", "newest")
LIMIT_S = {"vm": 780.0, "lab": 2400.0, "bench": 2400.0}
# How many times as long as on a usual machine something may take: with two processors, in a steady machine.
SLOWNESS, SLOWNESS_STEADY = 6.0, 4.0
# Of no use in there: the lab's own parts are tested where everybody's tests run.
NOT_THERE = ("tests/lab/test_lab_plan.py", "tests/lab/test_lab_selftest.py")
# Files that take about as long as the others together, so that both sets end at about the same time.
FIRST_HALF = (
    "tests/lab/test_agent.py",
    "tests/lab/test_agent_crash.py",
    "tests/lab/test_agent_news.py",
    "tests/lab/test_fleet_access.py",
    "tests/lab/test_mqtt_commands.py",
    "tests/lab/test_sticky.py",
    "tests/lab/test_wans.py",
    "tests/lab/test_wans_damping.py",
)
# By turns for one set and the other: what depends most on whose WireGuard it is, in a quarter of an hour.
SHORT = (
    "tests/lab/test_wans.py",
    "tests/lab/test_agent_ladder.py",
    "tests/lab/test_sticky.py",
    "tests/lab/test_agent_names.py",
    "tests/lab/test_agent_news.py",
    "tests/lab/test_wans_changes.py",
    "tests/lab/test_agent.py",
)
FIGURES = ("failover", "ddns", "--runs", "5")
Plan = dict[str, list[str]]  # by library set: what pytest is given


def marked() -> tuple[int, list[str]]:
    """Pytest's exit status, and the files with tests marked `vm`: found here, as it is slow in there."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "--quiet", "-m", "vm"]
    done = subprocess.run(command, cwd=machine.ROOT, capture_output=True, text=True, check=False)
    files = dict.fromkeys(line.split("::")[0] for line in done.stdout.splitlines() if "::" in line)
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
    return done.returncode, [name for name in files if (machine.ROOT / name).is_file()]


def halves(arguments: list[str]) -> Plan:
    """The files of the lab, the short choice of them, or those that are named, divided among the sets."""
    if "--short" in arguments:
        arguments = [*SHORT, *(word for word in arguments if word != "--short")]
    found = sorted(str(path.relative_to(machine.ROOT)) for path in machine.ROOT.glob("tests/lab/test_*.py"))
    named = [word for word in arguments if word.startswith("tests/")]
    more = ["-m", "lab", *(word for word in arguments if word not in named)]
    if named:
        return {"router": [*named[::2], *more]} | ({"newest": [*named[1::2], *more]} if named[1:] else {})
    assert {*NOT_THERE, *FIRST_HALF} <= {*found}, "a file of the lab was renamed"
    there = [name for name in found if name not in NOT_THERE]
    return {
        "router": [*(name for name in there if name in FIRST_HALF), *more],
        "newest": [*(name for name in there if name not in FIRST_HALF), *more],
    }


def exports(slowness: float) -> str:
    """The environment of whatever runs in there."""
    environment = {
        "WGROUTER_VM": "1",
        "WGROUTER_STRICT": "1",
        "WGROUTER_SLOWNESS": f"{slowness:g}",
        "PYTHONUNBUFFERED": "1",
        "HYPOTHESIS_PROFILE": os.environ.get("HYPOTHESIS_PROFILE", "ci"),
    }
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())


def pytest(which: str, words: list[str], timeout_s: int) -> str:
    """A command that runs tests with a library set; its report is <set>.xml in the machine's directory."""
    command = f"build/venv-{which}/bin/python -m pytest --timeout={timeout_s} --durations=10"
    report = f"-o junit_family=xunit1 --junitxml=/run/out/{which}.xml"
    return f"{command} {report} {shlex.join(words)}"


def both(words: list[str]) -> str:
    """A script that runs tests with all sets at once, one in sight; it fails if any did."""
    shown, *others = SETS
    begin = "".join(f"{pytest(one, words, 300)} >/run/out/{one}.log 2>&1 & {one}=$!\n" for one in others)
    end = "".join(
        f"wait ${one} || status=1\necho '##### vm: library set {one}'\ncat /run/out/{one}.log\n"
        for one in others
    )
    first = f"echo '##### vm: library set {shown}'\n{pytest(shown, words, 300)} || status=1\n"
    return f"{exports(SLOWNESS)}status=0\n{begin}{first}{end}exit $status\n"


def bench(words: list[str]) -> str:
    """The script that measures; its figures are in build/vm/bench/bench.json."""
    command = "build/venv-newest/bin/python -m tests.bench --output /run/out/bench.json"
    return f"{exports(SLOWNESS_STEADY)}exec {command} {shlex.join(words or FIGURES)}\n"


@dataclass(frozen=True)
class Task:
    """A machine: its name, what runs in it, and the files in its directory that it must leave."""

    name: str
    job: str
    reports: tuple[str, ...]
    steady: bool = True


def run(tasks: list[Task], limit_s: float) -> int:
    """Run machines side by side, the first in sight; 1 if any failed, 0 if none did."""
    ended: dict[str, machine.Verdict | machine.VmError] = {}

    def go(task: Task) -> None:
        out = machine.OUT / task.name
        for name in task.reports:
            (out / name).unlink(missing_ok=True)
        try:
            shown = task is tasks[0]
            ended[task.name] = machine.run(task.job, limit_s, out, steady=task.steady, shown=shown)
        except machine.VmError as error:
            ended[task.name] = error

    threads = [threading.Thread(target=go, args=(task,), daemon=True) for task in tasks]
    try:
        for thread in threads:
            thread.start()
        status = 0
        for thread, task in zip(threads, tasks, strict=True):
            print(f"##### vm: {task.name}", flush=True)
            thread.join()
            out = machine.OUT / task.name
            if task is not tasks[0]:
                print((out / "console.log").read_text(errors="replace").replace("\r", ""))
            what = ended[task.name]
            if isinstance(what, machine.VmError):
                told, failed = f"{what}; see {out.relative_to(machine.ROOT)}", True
            else:
                told = (
                    f"exit status {what.status} after {what.seconds:.0f} s, {what.cpu_seconds:.0f} s of CPU"
                )
                failed = what.status != 0
            for name in task.reports:
                if not (out / name).exists():
                    told, failed = f"{told}, but no {name}", True
            print(f"vm: {task.name}: {told}", flush=True)
            status = status or failed
        return int(status)
    finally:
        machine.stop_all()


def main(arguments: list[str]) -> int:
    """Run them; 0 if all passed on every set, or all figures were taken."""
    kind = arguments.pop(0)[2:] if arguments[:1] in (["--lab"], ["--bench"]) else "vm"
    collected = 0
    if kind == "bench":
        tasks = [Task("bench", bench(arguments), ("bench.json",))]
    elif kind == "lab":
        tasks = [
            Task(f"lab-{one}", f"{exports(SLOWNESS_STEADY)}exec {pytest(one, words, 900)}\n", (f"{one}.xml",))
            for one, words in halves(arguments).items()
        ]
    else:
        named = any(argument.startswith("tests/") for argument in arguments)
        collected, files = (0, []) if named else marked()
        if not files and not named:
            print("vm: no test is marked vm", file=sys.stderr)
            return collected or 5
        reports = tuple(f"{one}.xml" for one in SETS)
        tasks = [Task("vm", both(["-m", "vm", *files, *arguments]), reports, steady=False)]
    # So that the machines go down with us: an exception stops them, a signal's default action would not.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with machine.turn():
        status = run(tasks, float(os.environ.get("VM_LIMIT_S", LIMIT_S[kind])))
    # A file that cannot be collected may be one of ours: the other tests ran, but this is no success.
    return status or collected


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
