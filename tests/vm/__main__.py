"""Tests and figures on Debian's kernel in a virtual machine: `make vm`, `make vm-lab`, `make vm-bench`.

Usage: python -m tests.vm [PYTEST-ARGUMENT...]          the tests marked `vm`; for instance: -k handshake
       python -m tests.vm --lab [PYTEST-ARGUMENT...]    the tests of the lab, with the kernel's WireGuard;
                                                        for instance: tests/lab/test_agent.py
       python -m tests.vm --bench [BENCH-ARGUMENT...]   figures of failover and of names, in a steady machine;
                                                        for instance: --runs 1 carrier

The first runs each test on both library sets, the second half of the files on each, both side by side: a set
alone keeps one of the two emulated processors busy. VM_LIMIT_S bounds the seconds that the machine may take.
"""

import os
import shlex
import signal
import subprocess
import sys

from tests.vm import machine

SETS = ("router", "newest")
# Starting the machine takes some 10 s, importing pytest and the libraries as long again.
LIMIT_S = {"vm": 780.0, "lab": 2400.0, "bench": 2400.0}
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
    """The files of the lab, or those that are named, divided among the sets."""
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


def tests(plan: Plan, timeout_s: int) -> str:
    """The script that runs in the machine: all sets at once, one in sight; it fails if any did."""

    def run(which: str) -> str:
        return (
            f"build/venv-{which}/bin/python -m pytest --timeout={timeout_s} --durations=10"
            f" -o junit_family=xunit1 --junitxml=/run/out/{which}.xml {shlex.join(plan[which])}"
        )

    shown, *others = plan
    begin = "".join(f"{run(which)} >/run/out/{which}.log 2>&1 & {which}=$!\n" for which in others)
    end = "".join(
        f"wait ${which} || status=1\necho '##### vm: library set {which}'\ncat /run/out/{which}.log\n"
        for which in others
    )
    first = f"echo '##### vm: library set {shown}'\n{run(shown)} || status=1\n"
    return f"{exports(6)}status=0\n{begin}{first}{end}exit $status\n"


def bench(arguments: list[str]) -> str:
    """The script that measures; its figures are in build/vm/bench.json."""
    words = shlex.join(arguments or FIGURES)
    return (
        f"{exports(3)}exec build/venv-newest/bin/python -m tests.bench --output /run/out/bench.json {words}\n"
    )


def main(arguments: list[str]) -> int:
    """Run them; 0 if all passed on every set, or all figures were taken."""
    kind = arguments.pop(0)[2:] if arguments[:1] in (["--lab"], ["--bench"]) else "vm"
    collected, plan = 0, Plan()
    if kind == "lab":
        plan = halves(arguments)
    elif kind == "vm":
        named = any(argument.startswith("tests/") for argument in arguments)
        collected, files = (0, []) if named else marked()
        if not files and not named:
            print("vm: no test is marked vm", file=sys.stderr)
            return collected or 5
        plan = {which: ["-m", "vm", *files, *arguments] for which in SETS}
    job = bench(arguments) if kind == "bench" else tests(plan, 300 if kind == "vm" else 600)
    reports = [*(f"{which}.xml" for which in plan), *(["bench.json"] if kind == "bench" else [])]
    for name in (*reports, *(f"{which}.log" for which in SETS)):
        (machine.OUT / name).unlink(missing_ok=True)
    # So that the machine goes down with us: an exception stops it, a signal's default action would not.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    limit_s = float(os.environ.get("VM_LIMIT_S", LIMIT_S[kind]))
    try:
        verdict = machine.run(job, limit_s, steady=kind == "bench")
    except machine.VmError as error:
        print(f"vm: {error}", file=sys.stderr)
        for log in machine.OUT.glob("*.log"):
            print(f"vm: see {log.relative_to(machine.ROOT)}", file=sys.stderr)
        return 1
    silent = [name for name in reports if not (machine.OUT / name).exists()]
    for name in silent:
        print(f"vm: {name} was not left", file=sys.stderr)
    print(f"vm: exit status {verdict.status} after {verdict.seconds:.0f} s")
    # A file that cannot be collected may be one of ours: the other tests ran, but this is no success.
    return verdict.status or collected or bool(silent)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
