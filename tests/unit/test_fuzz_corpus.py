"""Every seed of the fuzzer, and every input that once brought something down: none does any more."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fuzz import CORPUS, TARGETS, Slow, guarded, name_of, place

INPUTS = [(target, path) for target in TARGETS.values() for path in target.corpus()]
LARGE = 8192  # bytes: seeds are for people to read


@pytest.mark.parametrize(
    ("target", "path"), INPUTS, ids=[f"{target.name}-{path.name}" for target, path in INPUTS]
)
def test_an_input_is_refused_in_words_or_taken(target: object, path: Path) -> None:
    guarded(TARGETS[path.parent.name].load(), path.read_bytes())


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
