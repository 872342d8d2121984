"""Records against the standard library's dataclasses: the same, one by one."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

from wgrouter.core import records

BOTH = pytest.mark.parametrize("library", (records, dataclasses), ids=("ours", "theirs"))
NAN = math.nan


def made(library: Any) -> Any:
    """The same classes by either library."""

    @library.dataclass(frozen=True, slots=True)
    class Point:
        """What it is."""

        x: int
        y: float = 1.0
        note: str = library.field(default="-", compare=False)
        more: dict[str, int] = library.field(default_factory=dict)

        def sum(self) -> float:
            return self.x + self.y

        @property
        def twice(self) -> int:
            return 2 * self.x

    @library.dataclass(frozen=True, slots=True)
    class One:
        value: Any

    @library.dataclass(frozen=True, slots=True)
    class Empty:
        pass

    @library.dataclass(frozen=True, slots=True, order=True)
    class Rank:
        first: int
        second: str = ""

    @library.dataclass(slots=True)
    class Loose:
        items: list[int] = library.field(default_factory=list)
        count: int = 0

    @library.dataclass(frozen=True, slots=True)
    class Spelled:
        word: str

        def __repr__(self) -> str:
            return self.word

        def __eq__(self, other: object) -> bool:
            return isinstance(other, type(self)) and self.word.lower() == other.word.lower()

        def __hash__(self) -> int:
            return hash(self.word.lower())

    module = ModuleType("made")
    for one in (Point, One, Empty, Rank, Loose, Spelled):
        setattr(module, one.__name__, one)
    return module


@BOTH
def test_arguments(library: Any) -> None:
    point = made(library).Point
    one = point(1)
    assert (one.x, one.y, one.note, one.more) == (1, 1.0, "-", {})
    assert point(1).more is not one.more, "each gets its own"
    assert point(1, 2.0, "a", {"b": 3}) == point(x=1, y=2.0, note="a", more={"b": 3})
    assert (one.sum(), one.twice) == (2.0, 2)
    for wrong in ((), (1, 2, 3, 4, 5)):
        with pytest.raises(TypeError, match=r"Point.__init__\(\)"):
            point(*wrong)
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        point(1, z=2)


@BOTH
def test_equality(library: Any) -> None:
    m, others = made(library), made(library)
    assert m.Point(1, note="a") == m.Point(1, note="b"), "the note is not compared"
    assert m.Point(1) != m.Point(2)
    assert m.Point(1) != m.Point(1, more={"a": 1})
    assert m.One(1) != m.One(2)
    assert m.One(1) != others.One(1), "of another class"
    assert m.One(1) != 1
    assert m.Empty() == m.Empty()
    assert m.Empty() != others.Empty()
    assert m.One(NAN) == m.One(NAN), "the same object, as in a tuple"
    assert m.One(float("nan")) != m.One(float("nan"))
    assert m.Spelled("A") == m.Spelled("a"), "its own equality"
    assert m.Loose([1]) == m.Loose([1])


@BOTH
def test_hashes(library: Any) -> None:
    m = made(library)
    assert len({m.One(1), m.One(1), m.One(2), m.Empty(), m.Empty(), m.Rank(1)}) == 4
    assert hash(m.Spelled("A")) == hash(m.Spelled("a"))
    for unhashable in (m.Point(1), m.Loose()):
        with pytest.raises(TypeError, match="unhashable"):
            hash(unhashable)


@BOTH
def test_order(library: Any) -> None:
    m = made(library)
    low, high = m.Rank(1, "b"), m.Rank(2, "a")
    assert low < high and low <= high and high > low and high >= low
    assert low <= m.Rank(1, "b") and low >= m.Rank(1, "b") and not low < m.Rank(1, "b")
    assert not low > m.Rank(1, "b") and max(low, high) is high
    for pair in ((low, 1), (m.One(1), m.One(2))):
        with pytest.raises(TypeError, match="not supported"):
            assert pair[0] < pair[1]


@BOTH
def test_text(library: Any) -> None:
    m = made(library)
    assert repr(m.Point(1)).endswith("Point(x=1, y=1.0, note='-', more={})")
    assert repr(m.Empty()).endswith("Empty()")
    assert repr(m.Spelled("as it is")) == "as it is"
    assert m.Point.__doc__ == "What it is."


@BOTH
def test_frozen(library: Any) -> None:
    m = made(library)
    point = m.Point(1)
    with pytest.raises(AttributeError, match="x"):
        point.x = 2
    with pytest.raises(AttributeError, match="x"):
        del point.x
    with pytest.raises((AttributeError, TypeError)):
        point.unknown = 2
    assert point == m.Point(1)
    loose = m.Loose()
    loose.count = 3
    assert loose.count == 3
    with pytest.raises(AttributeError):
        loose.unknown = 2
    assert not hasattr(point, "__dict__") and not hasattr(loose, "__dict__")


@BOTH
def test_match(library: Any) -> None:
    m = made(library)
    point = m.Point
    match m.Point(1, 2.0):
        case point(x, y):
            assert (x, y) == (1, 2.0)
        case _:
            pytest.fail("it is a Point")


@BOTH
def test_replace(library: Any) -> None:
    m = made(library)
    point = m.Point(1, more={"a": 1})
    for replace in (library.replace, dataclasses.replace):
        other = replace(point, y=3.0)
        assert (other.x, other.y, other.more) == (1, 3.0, {"a": 1})
        assert other.more is point.more and point.y == 1.0
        with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
            replace(point, z=3)


@pytest.mark.parametrize("maker", (records, dataclasses))
def test_fields(maker: Any) -> None:
    """Ours read the library's, too: not all that is asked for its fields is a record."""
    m = made(maker)
    found = records.fields(m.Point(1))
    assert found == records.fields(m.Point)
    assert [one.name for one in found] == ["x", "y", "note", "more"]
    assert [one.default for one in found[1:3]] == [1.0, "-"]
    assert found[3].default_factory is dict
    assert [one.compare for one in found] == [True, True, False, True]
    assert records.is_dataclass(m.Point) and records.is_dataclass(m.Empty())
    assert not records.is_dataclass(3)


def test_no_default_is_told_apart() -> None:
    point = made(records).Point
    assert [one.default is records.MISSING for one in records.fields(point)] == [True, False, False, True]


def test_a_record_costs_no_import() -> None:
    """Of what the standard library needs: inspect alone takes a tenth of the time to start."""
    code = "import sys, wgrouter.core.records; print({'dataclasses', 'inspect'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
