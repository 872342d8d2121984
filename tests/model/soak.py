"""Weeks of random faults in simulated time, and whether what is remembered grows.

The whole engine on a World (world.py) under its rules (world_rules.py). Each day ends with a quarter of an
hour in which nothing is wrong; what is kept then, counted value by value, must be as much on the last days
as on the first.

    make soak ARGS='--days 30 --seed 11 12'
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.model.world import World
from tests.model.world_faults import heal, schedule, script, world_of
from tests.model.world_rules import Rules
from wgrouter.core.codec import encode
from wgrouter.core.messages import Configured
from wgrouter.core.records import fields, is_dataclass, replace

DAY, QUIET = 24 * 3600.0, 900.0
FAULTS_PER_HOUR = 4.0
GROWTH = 1.1  # of the most on the first days


@dataclass(frozen=True)
class Size:
    """What is kept at the end of a day."""

    steps: int  # so far
    values: int  # numbers and texts in the engine's state, without the findings it has for `status`
    bytes: int  # of the state as JSON
    entries: int  # in the journal's ring
    journal: int  # bytes of it, as it weighs them


def values(part: Any) -> int:
    """How many there are in it."""
    if is_dataclass(part) and not isinstance(part, type):
        return sum(values(getattr(part, field.name)) for field in fields(part))
    if isinstance(part, Mapping):
        return sum(values(key) + values(value) for key, value in part.items())
    if isinstance(part, (tuple, list, frozenset)):
        return sum(map(values, part))
    return 1


def days(seed: int, count: int, sparse: bool = True) -> Iterator[tuple[World, Size]]:
    """So many days of a World, each with its size at the end. `sparse`: probes and looks are rarer still."""
    world = world_of(seed, fast=True)
    if sparse:
        probing = replace(world.settings.probing, interval=120.0, window=1440.0)
        world.settings = replace(world.settings, probing=probing, look_interval=60.0)
        world.push(0.0, Configured(world.settings, world.seed))
    Rules(world)
    for day in range(count):
        schedule(world, script(seed * 1000 + day, (DAY - 2 * QUIET) / 3600.0, FAULTS_PER_HOUR))
        world.run(DAY - QUIET)
        heal(world)
        world.run(QUIET)
        state = replace(world.engine.state, recent=())
        ring = world.journal
        yield world, Size(world.steps, values(state), len(json.dumps(encode(state))), len(ring), ring.size)


def grown(sizes: list[Size]) -> list[str]:
    """What is more on the last days than it was on the first (a third each)."""
    third = max(len(sizes) // 3, 1)
    found = []
    for name in ("values", "bytes"):
        first = max(getattr(size, name) for size in sizes[:third])
        last = min(getattr(size, name) for size in sizes[-third:])
        if last > GROWTH * first:
            found.append(f"{name}: {first} at first, {last} in the end")
    return found


def main(arguments: list[str]) -> int:
    """0 if nothing grew."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__.splitlines()[0])
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--seed", type=int, nargs="+", default=[11])
    options = parser.parse_args(arguments)
    bad = False
    for seed in options.seed:
        began, sizes = time.monotonic(), list[Size]()
        for last, size in days(seed, options.days):
            world = last
            sizes.append(size)
            took = time.monotonic() - began
            print(f"seed {seed}, day {len(sizes)}, {took:.0f} s: {size}", flush=True)
        wrong = grown(sizes)
        bad |= bool(wrong)
        faults = round(options.days * (DAY - 2 * QUIET) / 3600.0 * FAULTS_PER_HOUR)
        effects = sum(world.counts.values())
        print(
            f"seed {seed}: about {faults} faults, {world.steps} steps, {effects} effects: {wrong or 'flat'}"
        )
    return bad


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
