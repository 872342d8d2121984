"""Values of the core as JSON and back: what is left out, what is tagged, and what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from enum import Enum

import pytest

from wgrouter.core.codec import Decoder, Unreadable, encode


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True)
class Part:
    number: int
    name: str = "x"
    wait: float = 0.0
    parts: tuple[int, ...] = ()
    table: dict[str, int] = field(default_factory=dict)


DECODER = Decoder((Part, Colour))

VALUES = [
    (None, None),
    (True, True),
    (0, 0),
    (1.5, 1.5),
    ("text", "text"),
    ((1, "two", (3.0,)), [1, "two", [3.0]]),
    ((), []),
    (math.inf, {"_": "float", "text": "inf"}),
    (-math.inf, {"_": "float", "text": "-inf"}),
    (Colour.RED, {"_": "Colour", "name": "RED"}),
    ({"a": 1, "b": ()}, {"a": 1, "b": []}),
    ({}, {}),
    ({1: "a"}, {"_": "map", "items": [[1, "a"]]}),
    ({"_": 1}, {"_": "map", "items": [["_", 1]]}),
    ({("wg0", 4): Part(1)}, {"_": "map", "items": [[["wg0", 4], {"_": "Part", "number": 1, "table": {}}]]}),
    (Part(7), {"_": "Part", "number": 7, "table": {}}),
    (
        Part(7, "y", 2.0, (1,), {"k": 2}),
        {"_": "Part", "number": 7, "name": "y", "wait": 2.0, "parts": [1], "table": {"k": 2}},
    ),
    # Equal is not the same: an integer where the default is a float stays one.
    (Part(7, wait=0), {"_": "Part", "number": 7, "wait": 0, "table": {}}),
]


@pytest.mark.parametrize(("value", "data"), VALUES)
def test_there_and_back(value: object, data: object) -> None:
    assert encode(value) == data
    back = DECODER.decode(json.loads(json.dumps(encode(value), allow_nan=False)))
    assert back == value and type(back) is type(value)


def test_not_a_number_comes_back() -> None:
    assert encode(math.nan) == {"_": "float", "text": "nan"}
    assert math.isnan(DECODER.decode(encode(math.nan)))


def test_an_integer_at_a_floats_default_stays_an_integer() -> None:
    assert type(DECODER.decode(encode(Part(7, wait=0))).wait) is int


@pytest.mark.parametrize("value", [[1], {1}, object(), Part, b"bytes", 1j])
def test_what_the_core_does_not_hold_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="is not a value of the core"):
        encode(value)


@pytest.mark.parametrize(
    "data",
    [
        {"_": "Nobody"},
        {"_": "Part"},
        {"_": "Part", "number": 1, "colour": 2},
        {"_": "Colour", "name": "GREEN"},
        {"_": "Colour"},
        {"_": "float"},
        {"_": "float", "text": "x"},
        {"_": "map"},
        {"_": "map", "items": [[1]]},
        {"_": "map", "items": [[[{"a": 1}], 1]]},
        {"_": 7},
        [[{"_": "Nobody"}]],
    ],
)
def test_what_cannot_be_read_is_said(data: object) -> None:
    with pytest.raises(Unreadable, match="is not readable by this version"):
        DECODER.decode(data)


def test_what_is_unreadable_is_said_once_and_shortly() -> None:
    """Each level around it said it again: a damaged file gave a line of 12,000 characters."""
    data: object = {"_": "x" * 500, "y" * 500: 1}
    for _ in range(200):
        data = {"_": "Part", "number": data}
    with pytest.raises(Unreadable, match=r"^'x{60}' is not readable by this version: 'x+$") as caught:
        DECODER.decode(data)
    assert len(str(caught.value)) < 400
