"""Everything that can be said about the tree without running it: `make check`.

All checks run, two at a time. One that fails prints its output in one piece; the table at the end has a line
for each.

Usage: python -m tests.tools.check [NAME...]
"""

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHON = sys.executable


@dataclass(frozen=True)
class Check:
    """One command that must exit 0."""

    name: str
    command: list[str]


@dataclass(frozen=True)
class Verdict:
    """What a check said, and how long it took."""

    check: Check
    status: int
    output: str
    seconds: float


def existing(*names: str) -> list[str]:
    """Those of the top-level directories that are there."""
    return [name for name in names if (ROOT / name).is_dir()]


def shell_scripts() -> list[str]:
    """Every shell script: by its first line, or by its place where OpenWrt sources scripts that have none."""
    found = []
    for top in existing("files", "package", "tests", ".ci"):
        for path in sorted((ROOT / top).rglob("*")):
            name = str(path.relative_to(ROOT))
            if not path.is_file() or path.suffix in {".py", ".pyc"}:
                continue
            first = path.read_bytes()[:64].split(b"\n")[0]
            sourced = any(part in name for part in ("/hotplug.d/", "/uci-defaults/"))
            if (
                sourced
                or path.suffix == ".sh"
                or (first.startswith(b"#!") and first.rstrip().endswith(b"sh"))
            ):
                found.append(name)
    return found


def is_bash(name: str) -> bool:
    """Whether a script asks for bash; all others must run under a router's ash."""
    return (ROOT / name).read_bytes().split(b"\n")[0].rstrip().endswith(b"bash")


def checks() -> Iterator[Check]:
    """All checks; the slow ones first, so that they run side by side."""
    code = existing("wgrouter", "tests", "package")
    ours = existing("wgrouter")
    yield Check("mypy", [PYTHON, "-m", "mypy"])
    yield Check("architecture", [PYTHON, "-m", "pytest", "-q", "tests/test_architecture.py"])
    yield Check("ruff", [PYTHON, "-m", "ruff", "check", "--quiet", *code])
    yield Check("format", [PYTHON, "-m", "ruff", "format", "--check", "--quiet", "--diff", *code])
    yield Check(
        "vermin", [str(Path(PYTHON).with_name("vermin")), "-t=3.11-", "--violations", "--quiet", *ours]
    )
    yield Check("language", [PYTHON, "-m", "tests.tools.language_level", *code])
    # Documentation and the default configuration are rendered from the schema: the committed ones must be
    # those.
    if importlib.util.find_spec("wgrouter.config.generate"):
        yield Check("generated", [PYTHON, "-m", "wgrouter.config.generate", "--check"])
    scripts = shell_scripts()
    if posix := [name for name in scripts if not is_bash(name)]:
        # The dash dialect is POSIX and `local`: what a router's ash has too.
        yield Check("shellcheck", ["shellcheck", "--shell=dash", "--severity=style", *posix])
    if bash := [name for name in scripts if is_bash(name)]:
        yield Check("shellcheck-bash", ["shellcheck", "--shell=bash", *bash])


def run(check: Check) -> Verdict:
    """Run one check to its end."""
    began = time.monotonic()
    try:
        done = subprocess.run(
            check.command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            timeout=120,
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        )
        status, output = done.returncode, done.stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        status, output = 1, f"{error}\n"
    return Verdict(check, status, output, time.monotonic() - began)


def main(names: list[str]) -> int:
    """Run the named checks, or all; 0 if every one passed."""
    every = list(checks())
    if unknown := set(names) - {check.name for check in every}:
        names_there = ", ".join(check.name for check in every)
        print(f"unknown check {sorted(unknown)}; there are: {names_there}", file=sys.stderr)
        return 2
    chosen = [check for check in every if not names or check.name in names]
    with ThreadPoolExecutor(max_workers=2) as pool:
        verdicts = list(pool.map(run, chosen))
    for verdict in verdicts:
        if verdict.status:
            print(f"##### {verdict.check.name}: {' '.join(verdict.check.command)}\n{verdict.output}")
    for verdict in verdicts:
        last = verdict.output.strip().splitlines()[-1:] or [""]
        print(
            f"check: {verdict.check.name:16} {'ok    ' if not verdict.status else 'FAILED'}"
            f" {verdict.seconds:5.1f} s  {last[0][:90] if not verdict.status else ''}".rstrip()
        )
    return any(verdict.status for verdict in verdicts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
