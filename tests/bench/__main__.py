"""The command line: choose, measure, print, write build/bench.json."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from tests.bench import figures, measures
from tests.bench.all import everything
from tests.bench.figures import KEYS, table

PLACE = measures.ROOT / "build" / "bench.json"


def main(arguments: list[str] | None = None) -> int:
    """0 if every figure was taken, 1 if one was not, 2 for words that name nothing."""
    everything()
    options = _parser().parse_args(arguments)
    if options.list:
        for key in KEYS.values():
            print(f"{key.key:40} {key.group:9} {key.unit:8} {key.what}")
        return 0
    try:
        wanted = measures.chosen(options.words, quick=options.quick)
    except KeyError as error:
        groups = ", ".join(dict.fromkeys(key.group for key in KEYS.values()))
        print(f"{error.args[0]!r} is no key, measure or group; groups: {groups}; --list", file=sys.stderr)
        return 2
    compiled()
    began = time.monotonic()
    bench = measures.Bench(quick=options.quick, runs=options.runs)
    try:
        failures = measures.run(bench, wanted)
    except (KeyboardInterrupt, SystemExit):  # told to end: what was taken is written
        failures = ["interrupted"]
    data = bench.results.as_data(commit=commit(), taken=f"{datetime.now(UTC):%Y-%m-%dT%H:%MZ}")
    print("\n".join(table(data)))
    kept = "and nothing else"
    if options.merge or options.append:
        kept = "with the samples of earlier runs" if options.append else "beside the others of earlier runs"
        data = figures.joined(_read(options.output), data, append=options.append)
    figures.write(options.output, data)
    print(
        f"\n{len(bench.results.figures)} figures in {time.monotonic() - began:.0f} s, written {kept}: ",
        end="",
    )
    print(options.output)
    for failure in failures:
        print(f"could not be taken: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    full = sum(one.full_s for one in measures.MEASURES.values()) / 60
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=f"Measures wgrouter (about {full:.0f} minutes for all; --quick: 3 minutes). As root.",
    )
    parser.add_argument("words", nargs="*", metavar="KEY|GROUP|MEASURE", help="what to measure (everything)")
    parser.add_argument("--quick", action="store_true", help="few runs: all of it in three minutes")
    parser.add_argument("--runs", type=int, default=0, metavar="N", help="runs of each series")
    parser.add_argument("--merge", action="store_true", help="keep the figures of FILE that are not measured")
    parser.add_argument(
        "--append", action="store_true", help="keep them all, and add samples to those that are"
    )
    parser.add_argument("--list", action="store_true", help="say what there is, and measure nothing")
    parser.add_argument("--output", type=Path, default=PLACE, metavar="FILE", help="build/bench.json")
    return parser


def _read(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    return found if isinstance(found, dict) else {}


def compiled() -> None:
    """As on a router after the first start: /usr/bin/wgrouter has Python keep what it compiles, in RAM."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for python in measures.SETS.values():
        subprocess.run([python, "-m", "compileall", "-q", "wgrouter"], cwd=measures.ROOT, check=True)


def commit() -> str:
    """Of what was measured; with a plus if the program in the tree differs."""
    told = [
        subprocess.run(["git", *words], cwd=measures.ROOT, capture_output=True, text=True, check=False).stdout
        for words in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--", "wgrouter"))
    ]
    return (told[0].strip() or "unknown") + ("+" if told[1].strip() else "")


if __name__ == "__main__":
    sys.exit(main())
