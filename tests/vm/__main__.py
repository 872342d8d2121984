"""Runs every test marked `vm`, on both library sets side by side, in one virtual machine: `make vm`.

A set alone keeps one of the two emulated processors busy, so both together take as long as the slower one.

Usage: python -m tests.vm [PYTEST-ARGUMENT...]      for instance: -k handshake
       python -m tests.vm -m lab tests/lab/test_agent.py        tests of the lab, with the kernel's WireGuard
"""

import os
import shlex
import signal
import subprocess
import sys

from tests.vm import machine

SETS = ("router", "newest")
# Starting the machine takes some 10 s, importing pytest and the libraries as long again.
LIMIT_S = float(os.environ.get("VM_LIMIT_S", "780"))


def test_files() -> tuple[int, list[str]]:
    """Pytest's exit status, and the files with tests marked `vm`: found here, as it is slow in there."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "--quiet", "-m", "vm"]
    done = subprocess.run(command, cwd=machine.ROOT, capture_output=True, text=True, check=False)
    files = dict.fromkeys(line.split("::")[0] for line in done.stdout.splitlines() if "::" in line)
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
    return done.returncode, [name for name in files if (machine.ROOT / name).is_file()]


def job(files: list[str], arguments: list[str]) -> str:
    """The script that runs in the machine: all sets at once, one in sight; it fails if any did."""
    chosen = shlex.join([*files, *arguments])
    environment = {
        "WGROUTER_VM": "1",
        "WGROUTER_STRICT": "1",
        "WGROUTER_SLOWNESS": "6",
        "PYTHONUNBUFFERED": "1",
        "HYPOTHESIS_PROFILE": os.environ.get("HYPOTHESIS_PROFILE", "ci"),
    }
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())

    def run(which: str) -> str:
        return (
            f"build/venv-{which}/bin/python -m pytest -m vm --timeout=300 --durations=5"
            f" -o junit_family=xunit1 --junitxml=/run/out/{which}.xml {chosen}"
        )

    shown, *others = SETS
    begin = "".join(f"{run(which)} >/run/out/{which}.log 2>&1 & {which}=$!\n" for which in others)
    end = "".join(
        f"wait ${which} || status=1\necho '##### vm: library set {which}'\ncat /run/out/{which}.log\n"
        for which in others
    )
    first = f"echo '##### vm: library set {shown}'\n{run(shown)} || status=1\n"
    return f"{exports}status=0\n{begin}{first}{end}exit $status\n"


def main(arguments: list[str]) -> int:
    """Run them; 0 if all passed on every set."""
    named = any(argument.startswith("tests/") for argument in arguments)
    collected, files = (0, []) if named else test_files()
    if not files and not named:
        print("vm: no test is marked vm", file=sys.stderr)
        return collected or 5
    for which in SETS:
        for name in (f"{which}.xml", f"{which}.log"):
            (machine.OUT / name).unlink(missing_ok=True)
    # So that the machine goes down with us: an exception stops it, a signal's default action would not.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        verdict = machine.run(job(files, arguments), LIMIT_S)
    except machine.VmError as error:
        print(f"vm: {error}", file=sys.stderr)
        for log in machine.OUT.glob("*.log"):
            print(f"vm: see {log.relative_to(machine.ROOT)}", file=sys.stderr)
        return 1
    silent = [which for which in SETS if not (machine.OUT / f"{which}.xml").exists()]
    for which in silent:
        print(f"vm: library set {which} left no report", file=sys.stderr)
    print(f"vm: exit status {verdict.status} after {verdict.seconds:.0f} s")
    # A file that cannot be collected may be one of ours: the other tests ran, but this is no success.
    return verdict.status or collected or bool(silent)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
