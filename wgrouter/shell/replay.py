"""Reads what journal.py wrote, and feeds it to a fresh engine: does it decide the same?

Trusts nothing in a file: damage of any kind is a JournalError that names the line. Imports the core's modules
only when asked, so that the running agent does not pay for it.
"""

from __future__ import annotations

import importlib
import json
import math
import pkgutil
import sys
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, Protocol, get_args

from wgrouter.core.codec import Decoder, Unreadable
from wgrouter.core.findings import Finding
from wgrouter.core.messages import Effect, Event, Step
from wgrouter.core.model import Instant
from wgrouter.core.records import dataclass, fields, is_dataclass
from wgrouter.shell.journal import SCHEMA, Checkpoint, Entry, brief


class JournalError(ValueError):
    """A line that cannot be read: which, and what was wrong."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(f"line {line}: {what}")
        self.line = line
        self.what = what


@dataclass(frozen=True, slots=True)
class Recording:
    """A journal read back. `cut` says that the last line was broken off, as a power loss leaves it."""

    version: str
    items: tuple[Checkpoint | Entry, ...]
    cut: bool = False

    @property
    def steps(self) -> int:
        return sum(1 for item in self.items if isinstance(item, Entry))


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a fresh engine decided otherwise. `part` is effects, findings, wake_at, state or exception."""

    step: int
    at: Instant
    event: str
    part: str
    recorded: str
    replayed: str


class Engine(Protocol):
    """What is replayed; core/engine.py has it."""

    @property
    def state(self) -> Any: ...

    def handle(self, event: Event, now: Instant) -> Step: ...


def classes() -> list[type]:
    """Every dataclass and Enum of the core, for the codec. ValueError if two go by the same name."""
    package = importlib.import_module("wgrouter.core")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"wgrouter.core.{module.name}")
    found: dict[str, type] = {}
    for name, loaded in sorted(sys.modules.items()):
        if not name.startswith("wgrouter.core."):
            continue
        for value in vars(loaded).values():
            if not isinstance(value, type) or value.__module__ != name:
                continue
            if not (is_dataclass(value) or issubclass(value, Enum)):
                continue
            other = found.setdefault(value.__name__, value)
            if other is not value:
                raise ValueError(f"{other.__module__} and {name} both have a class {value.__name__}")
    return list(found.values())


def read(lines: Iterable[str | bytes], known: Iterable[type] | None = None) -> Recording:
    """The journal in these lines. JournalError for the first one that is not right.

    A last line without its end that is not JSON is the mark of a crash, not an error.
    """
    reader = _Reader(classes() if known is None else known)
    cut = False
    for number, line in enumerate(lines, 1):
        if cut:
            raise JournalError(number - 1, "not JSON, and more lines follow")
        text = _text(number, line)
        if not text.strip():
            continue
        try:
            data = json.loads(text)
        except RecursionError:
            raise JournalError(number, "nested too deeply") from None
        except ValueError as error:
            if not reader.version or text.endswith("\n"):
                raise JournalError(number, f"not JSON: {error}") from None
            cut = True
            continue
        reader.take(number, data)
    if not reader.version:
        raise JournalError(1, "empty: a journal starts with a header line")
    return Recording(reader.version, tuple(reader.items), cut)


def replay(recording: Recording, fresh: Callable[[Any], Engine], most: int = 20) -> list[Difference]:
    """What a fresh engine, made from the first checkpoint, decides otherwise; at most `most` differences.

    At each later checkpoint the states are compared, and where they differ the recorded one is taken: one
    difference does not drag all that follows along.
    """
    found: list[Difference] = []
    engine: Engine | None = None
    last = Entry(0, 0.0, None, None, Step())  # type: ignore[arg-type]
    for item in recording.items:
        if len(found) >= most:
            break
        last = item if isinstance(item, Entry) else last
        try:
            if isinstance(item, Checkpoint):
                if engine is not None and engine.state != item.state:
                    where = _where(engine.state, item.state)
                    found.append(Difference(last.number, item.at, brief(last.event), "state", *where))
                    engine = None
                engine = engine or fresh(item.state)
            elif engine is not None:
                found.extend(_differences(item, engine.handle(item.event, item.at)))
        except Exception as error:  # noqa: BLE001 — a damaged value may break any expression
            what = f"{type(error).__name__}: {error}"
            found.append(Difference(last.number, item.at, brief(last.event), "exception", "none", what))
            engine = None  # until the next checkpoint
    return found[:most]


def _differences(entry: Entry, step: Step) -> list[Difference]:
    return [
        Difference(entry.number, entry.at, brief(entry.event), part, _in_words(recorded), _in_words(replayed))
        for part in ("effects", "findings", "wake_at")
        if (recorded := getattr(entry.step, part)) != (replayed := getattr(step, part))
    ]


def _in_words(value: Any) -> str:
    if isinstance(value, tuple):
        return "; ".join(brief(item) for item in value) or "nothing"
    return brief(value)


def _where(replayed: Any, recorded: Any, path: str = "") -> tuple[str, str]:
    """The first part in which two states differ, as (recorded, replayed) in words."""
    if is_dataclass(recorded) and type(recorded) is type(replayed):
        for field in fields(recorded):
            ours, theirs = getattr(replayed, field.name), getattr(recorded, field.name)
            if ours != theirs:
                return _where(ours, theirs, f"{path}.{field.name}" if path else field.name)
    name = path + " " if path else ""
    return f"{name}{brief(recorded)}", f"{name}{brief(replayed)}"


def _text(number: int, line: str | bytes) -> str:
    if isinstance(line, str):
        return line
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise JournalError(number, f"not UTF-8 at byte {error.start + 1}") from None


class _Reader:
    """One line after another into items."""

    def __init__(self, known: Iterable[type]) -> None:
        self._decoder = Decoder(known)
        self._events = get_args(Event)
        self._effects = get_args(Effect)
        self.version = ""
        self.items: list[Checkpoint | Entry] = []

    def take(self, number: int, data: Any) -> None:
        if not isinstance(data, dict):
            raise JournalError(number, f"an object is expected, not {type(data).__name__}")
        if not self.version:
            self._header(number, data)
        elif "checkpoint" in data:
            at = _instant(number, data, "checkpoint")
            self.items.append(Checkpoint(at, self._value(number, data, "state")))
        elif "step" in data:
            if not self.items:
                raise JournalError(number, "a step before the first checkpoint")
            self.items.append(self._entry(number, data))
        else:
            raise JournalError(number, "neither a checkpoint nor a step")

    def _header(self, number: int, data: dict[str, Any]) -> None:
        if "journal" not in data:
            raise JournalError(number, 'not a journal of wgrouter: the first line has no "journal"')
        if data["journal"] != SCHEMA:
            raise JournalError(number, f"written in form {data['journal']!r}, this version reads {SCHEMA}")
        version = data.get("wgrouter")
        if not isinstance(version, str) or not version:
            raise JournalError(number, f'"wgrouter" must be a version, not {version!r}')
        self.version = version

    def _entry(self, number: int, data: dict[str, Any]) -> Entry:
        if not isinstance(data["step"], int) or isinstance(data["step"], bool):
            raise JournalError(number, f'"step" must be a number, not {data["step"]!r}')
        event = self._value(number, data, "event")
        if not isinstance(event, self._events):
            raise JournalError(number, f'"event" holds {brief(event)}, which is no event')
        wake_at = self._value(number, data, "wake_at")
        if isinstance(wake_at, bool) or not isinstance(wake_at, (int, float)):
            raise JournalError(number, f'"wake_at" must be a number, not {brief(wake_at)}')
        wall = data.get("wall")
        if isinstance(wall, bool) or not (wall is None or isinstance(wall, (int, float))):
            raise JournalError(number, f'"wall" must be a number, not {brief(wall)}')
        step = Step(
            self._values(number, data, "effects", self._effects),
            self._values(number, data, "findings", (Finding,)),
            wake_at,
        )
        return Entry(data["step"], _instant(number, data, "at"), wall, event, step)

    def _values(
        self, number: int, data: dict[str, Any], name: str, kinds: tuple[type, ...]
    ) -> tuple[Any, ...]:
        values = self._value(number, data, name)
        if not isinstance(values, tuple):
            raise JournalError(number, f'"{name}" must be a list')
        for value in values:
            if not isinstance(value, kinds):
                raise JournalError(number, f'"{name}" holds {brief(value)}, which does not belong there')
        return values

    def _value(self, number: int, data: dict[str, Any], name: str) -> Any:
        if name not in data:
            raise JournalError(number, f'"{name}" is missing')
        try:
            return self._decoder.decode(data[name])
        except Unreadable as error:
            raise JournalError(number, str(error)) from None
        except RecursionError:
            raise JournalError(number, "nested too deeply") from None


def _instant(number: int, data: dict[str, Any], name: str) -> Instant:
    value = data.get(name)
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53:
        return float(value)
    raise JournalError(number, f'"{name}" must be a number of seconds, not {brief(value)}')
