"""Fuzzes the agent's doors, one after another: `make fuzz`.

Inputs that lead somewhere new are kept in build/fuzz/<target>/corpus, and the next run goes on from there;
what fails is in build/fuzz/<target>/found, with its traceback. Every run adds a line to
build/fuzz/runs.jsonl. Exit status 1 if anything was found.

Usage: python -m tests.fuzz [--minutes M] [--target NAME ...] [--seed S] [--total] [INPUT ...]
       with files as INPUT: give those to the one target, and show the traceback
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from tests.fuzz import ROOT, TARGETS, Target, each, guarded

BUILD = ROOT / "build" / "fuzz"
RUNS = BUILD / "runs.jsonl"
COLUMNS = "{:<11}{:>12}{:>9}{:>10}{:>8}{:>7}"


def fuzz(target: Target, seconds: float, seed: int) -> dict[str, Any]:
    """Run one target for so long; begun again where an input ended its process."""
    directory = BUILD / target.name
    for part in ("corpus", "found"):
        (directory / part).mkdir(parents=True, exist_ok=True)
    before = set((directory / "found").iterdir())
    total: dict[str, Any] = {"executions": 0, "cpu_s": 0.0, "rss_mib": 0, "found": {}}
    end = time.monotonic() + seconds
    attempt = 0
    while (left := int(end - time.monotonic())) > 0:
        report, log = directory / "report.json", directory / "log"
        report.unlink(missing_ok=True)
        command = [sys.executable, "-m", "tests.fuzz.one", target.name, str(directory)]
        with log.open("wb") as file:
            child = subprocess.run(
                [*command, str(seed + attempt), str(left)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                check=False,
                env=os.environ | {"PYTHONHASHSEED": "0"},
            )
        attempt += 1
        if not report.exists():
            total["found"]["it did not start"] = "../log"
            break
        told = json.loads(report.read_text())
        total["executions"] += told["executions"]
        total["cpu_s"] += told["cpu_s"]
        total["rss_mib"] = max(total["rss_mib"], told["rss_mib"])
        total["found"] |= told["found"]
        if child.returncode == 0:
            break
        for path in set((directory / "found").iterdir()) - before:
            kind = path.name.partition("-")[0]
            if kind in ("timeout", "oom", "crash", "slow"):
                total["found"][f"{kind} of the process"] = path.name
    return total


def replay(target: Target, paths: list[str]) -> int:
    """Give files to a target: the traceback of the first that fails."""
    run = target.load()
    for path in paths:
        print(path)
        guarded(run, Path(path).read_bytes())
    return 0


def table(rows: list[dict[str, Any]]) -> None:
    """Executions, CPU time, and what was found, by target."""
    sums: dict[str, dict[str, Any]] = defaultdict(
        lambda: {"executions": 0, "cpu_s": 0.0, "rss": 0, "found": {}}
    )
    for row in rows:
        one = sums[row["target"]]
        one["executions"] += row["executions"]
        one["cpu_s"] += row["cpu_s"]
        one["rss"] = max(one["rss"], row["rss_mib"])
        one["found"] |= row["found"]
    print(COLUMNS.format("target", "executions", "CPU h", "a second", "MiB", "found"))
    for name, one in sums.items():
        rate = round(one["executions"] / max(one["cpu_s"], 0.01))
        hours = f"{one['cpu_s'] / 3600:.2f}"
        print(COLUMNS.format(name, f"{one['executions']:,}", hours, rate, one["rss"], len(one["found"])))
        for where, what in one["found"].items():
            print(f"    {where}: build/fuzz/{name}/found/{what}")
    runs, cpu = (sum(one[key] for one in sums.values()) for key in ("executions", "cpu_s"))
    print(COLUMNS.format("all", f"{runs:,}", f"{cpu / 3600:.2f}", "", "", ""))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="for each target (%(default)s)")
    parser.add_argument("--target", action="append", default=[], choices=TARGETS, help="this one (all)")
    parser.add_argument("--seed", type=int, default=random.randrange(1, 1 << 30), help="of the mutator")
    parser.add_argument("--total", action="store_true", help="sum up all runs so far, and run nothing")
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="files to give to the target")
    options = parser.parse_args(arguments)
    if options.inputs:
        if len(options.target) != 1:
            parser.error("name the one --target that takes them")
        return replay(TARGETS[options.target[0]], options.inputs)
    if options.total:
        table([json.loads(line) for line in RUNS.read_text().splitlines()])
        return 0
    rows = []
    for target in each(options.target):
        print(f"{target.name}: {target.about} ({options.minutes:g} min, seed {options.seed})", flush=True)
        row = {
            "target": target.name,
            "seed": options.seed,
            **fuzz(target, options.minutes * 60, options.seed),
        }
        rows.append(row)
        with RUNS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        for where, what in row["found"].items():
            print(f"  {where}: build/fuzz/{target.name}/found/{what}", flush=True)
    table(rows)
    return any(row["found"] for row in rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
