"""Every seed of the fuzzer, and every input that once brought something down: none does any more."""

from __future__ import annotations

import functools
import json
import os
import random
import sys
from pathlib import Path

import pytest

from tests.fuzz import CORPUS, TARGETS, Run, Slow, Target, guarded, name_of, place
from tests.fuzz.mutate import CHANGES, json_value, netlink

INPUTS = [(target, path) for target in TARGETS.values() for path in target.corpus()]
LARGE = 8192  # bytes: seeds are for people to read


@functools.cache
def warm(target: Target) -> Run:
    """What is made once is no input's time."""
    run = target.load()
    run(target.corpus()[0].read_bytes())
    return run


@pytest.mark.parametrize(
    ("target", "path"), INPUTS, ids=[f"{target.name}-{path.name}" for target, path in INPUTS]
)
def test_an_input_is_refused_in_words_or_taken(target: Target, path: Path) -> None:
    guarded(warm(target), path.read_bytes())


def test_every_target_has_seeds_and_every_seed_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    assert all(target.corpus() for target in TARGETS.values())
    assert not [
        path for _, path in INPUTS if path.stat().st_size > min(LARGE, TARGETS[path.parent.name].size)
    ]


def test_what_takes_too_long_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.CPU_MAX", 0.0)
    with pytest.raises(Slow, match="for 3 bytes"):
        guarded(lambda data: sum(range(10_000)) and None, b"abc")


def test_one_fault_has_one_name() -> None:
    def fails(data: bytes) -> None:
        os.stat(data.decode())

    names = set()
    for data in (b"/nowhere", b"/not here"):
        try:
            fails(data)
        except OSError as error:
            names.add(place(error))
    assert len(names) == 1
    assert name_of(b"a") != name_of(b"b")


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_every_change_leads_to_inputs_that_are_not_there_yet(name: str) -> None:
    seeds = [path.read_bytes() for path in TARGETS[name].corpus()]
    for change in CHANGES[name]:
        chance = random.Random(1)
        made = {change(seed, chance) for seed in seeds for _ in range(20)} - {None, *seeds}
        assert len(made) > len(seeds)
        chance = random.Random(1)
        assert made == {change(seed, chance) for seed in seeds for _ in range(20)} - {None, *seeds}


def test_changes_keep_the_shape() -> None:
    chance = random.Random(7)
    seed = b'before {"a": [1, {"b": "c\xff"}], "d": null} after'
    for _ in range(300):
        made = json_value(seed, chance)
        assert made is not None and made.startswith(b"before ") and made.endswith(b" after")
        json.loads(made[7:-6].decode("latin-1"))
    for path in TARGETS["rtnetlink"].corpus():
        made = netlink(path.read_bytes(), chance)
        at = 0
        while made and at < len(made):
            at += (int.from_bytes(made[at : at + 4], sys.byteorder) + 3) & ~3
        assert made is None or at == len(made)
