"""What takes figures: a register of generators, and what each may ask for.

A measure adds samples to the Bench that it is given. It is registered under a name with the keys that it must
have taken when it ends.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.figures import KEYS, Results

ROOT = Path(__file__).resolve().parents[2]
SETS = {"router": "build/venv-router/bin/python", "newest": "build/venv-newest/bin/python"}


class Bench:
    """What a measure is given: where samples go, how many are wanted, and how to tell what goes on."""

    def __init__(self, *, quick: bool = False, runs: int = 0) -> None:
        self.results = Results()
        self.quick = quick
        self._runs = runs

    def runs(self, full: int, quick: int) -> int:
        """How often: what the command line says, else by the kind of run."""
        return self._runs or (quick if self.quick else full)

    def seconds(self, full: float, quick: float) -> float:
        """How long to watch something."""
        return quick if self.quick else full

    def add(
        self, key: str, *values: float, note: str = "", against: str = "", at_least: bool = False
    ) -> None:
        """Samples of a figure, or of an alternative to it."""
        self.results.add(key, *values, note=note, against=against, at_least=at_least)

    def say(self, text: str) -> None:
        print(f"    {text}", file=sys.stderr, flush=True)


Take = Callable[[Bench], None]


@dataclass(frozen=True, slots=True)
class Measure:
    """One function, the figures it takes, and about how long it runs."""

    name: str
    keys: tuple[str, ...]
    take: Take
    full_s: float
    quick_s: float


MEASURES: dict[str, Measure] = {}


def measure(*keys: str, full_s: float, quick_s: float) -> Callable[[Take], Take]:
    """Register. ValueError for a key that figures.py does not have, or that another measure takes."""

    def register(take: Take) -> Take:
        name = take.__name__
        others = {key for one in MEASURES.values() if one.name != name for key in one.keys}
        if wrong := [key for key in keys if key not in KEYS or key in others] or (name in MEASURES):
            raise ValueError(f"measure {name!r}: {wrong} unknown, or taken by another")
        MEASURES[name] = Measure(name, keys, take, full_s, quick_s)
        return take

    return register


def chosen(words: Sequence[str], *, quick: bool = False) -> list[Measure]:
    """The measures that take what is named: keys, groups or measures. KeyError: nothing is called so.

    Without words all of them. A quick run has those that can be quick, and others if they are named exactly.
    """
    groups = {key.group for key in KEYS.values()}
    wanted: set[str] = set()
    for word in words or groups:
        some = {
            one.name
            for one in MEASURES.values()
            if word in (one.name, *one.keys)
            or (any(word == KEYS[key].group for key in one.keys) and (one.quick_s or not quick))
        }
        if not some and word not in groups:
            raise KeyError(word)
        wanted |= some
    return [one for one in MEASURES.values() if one.name in wanted]


def run(bench: Bench, measures: Sequence[Measure]) -> list[str]:
    """Take them one after another; what could not be taken, and why."""
    failures = []
    for number, one in enumerate(measures, 1):
        about = one.quick_s if bench.quick else one.full_s
        print(f"[{number}/{len(measures)}] {one.name} (about {about:g} s)", file=sys.stderr, flush=True)
        began = time.monotonic()
        try:
            one.take(bench)
        except Exception as error:  # noqa: BLE001 — the other figures are wanted all the same
            notes = "\n".join(getattr(error, "__notes__", ()))
            failures.append(f"{one.name}: {type(error).__name__}: {error}\n{notes}".strip())
            continue
        missing = [key for key in one.keys if not bench.results.taken(key)]
        if missing:
            failures.append(f"{one.name}: took no sample of {', '.join(missing)}")
        bench.say(f"{time.monotonic() - began:.0f} s")
    return failures
