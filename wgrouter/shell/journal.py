"""The memory of what happened: a ring of steps that can be read by people and replayed by a fresh engine.

Recording keeps references and renders nothing. The ring is made of segments, each of which begins with a
Checkpoint (all that the engine knew then): the oldest segment can go, and what is left still replays from
its first checkpoint. Bounded by entries and by an estimate of bytes. Knows no engine and no port.

Written as JSON lines: a header, then checkpoints and steps in order (`replay.py` reads them back).
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any

from wgrouter import __version__
from wgrouter.core.codec import encode
from wgrouter.core.findings import Finding, Severity
from wgrouter.core.messages import CHANGES, Answered, Event, Observed, Step
from wgrouter.core.model import DeviceSeen, Instant, Net
from wgrouter.core.records import dataclass, fields, is_dataclass

SCHEMA = 1
SEGMENTS = 4  # the ring holds between three quarters of its bounds and all of them
ENTRIES = 512
SIZE = 1 << 20  # bytes, as `_weigh` estimates them
NOTABLE = 256  # findings remembered for people when their step has left the ring
BUILT = 1_735_689_600  # 2025-01-01: a wall clock before this has never been set


@dataclass(frozen=True, slots=True)
class Entry:
    """One step: what came in, what the engine made of it. `wall` is seconds since 1970, None if unknown."""

    number: int
    at: Instant
    wall: float | None
    event: Event
    step: Step


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The engine's whole state (settings, seed and memory) between two steps."""

    at: Instant
    state: Any


@dataclass(frozen=True, slots=True)
class Note:
    """Findings that outlive their step in the ring."""

    number: int
    at: Instant
    wall: float | None
    findings: tuple[Finding, ...]


class _Segment:
    __slots__ = ("checkpoint", "entries", "size")

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.entries: list[Entry] = []
        self.size = 0


class Journal:
    """`record` each step; `lines`, `tail` and `notes` tell what is remembered."""

    def __init__(
        self,
        state: Any,
        now: Instant,
        *,
        entries: int = ENTRIES,
        size: int = SIZE,
        wall: Callable[[], float | None] | None = None,
    ) -> None:
        self._wall = wall or wall_time
        self._limit = max(entries, SEGMENTS)
        self._size_limit = size
        self._segments = deque([_Segment(Checkpoint(now, state))])
        self._notes: deque[Note] = deque(maxlen=NOTABLE)
        self._last_seen: dict[str, object] = {}  # parts of the last Observed: shared ones weigh nothing
        self._tee: Callable[[str], None] | None = None
        self._on_tee_failure: Callable[[OSError], None] | None = None
        self.number = 0  # of the last entry

    def record(self, event: Event, now: Instant, step: Step, state: Any) -> None:
        """A step has been decided. `state` is the engine's state after it; it must be immutable."""
        self.number += 1
        entry = Entry(self.number, now, self._wall(), event, step)
        segment = self._segments[-1]
        segment.entries.append(entry)
        segment.size += self._weigh(event, step)
        told = tuple(filter(_is_told, step.findings))
        if told:
            self._notes.append(Note(entry.number, now, entry.wall, told))
        if self._tee is not None:
            self._write(entry_line(entry))
        if len(segment.entries) * SEGMENTS >= self._limit or segment.size * SEGMENTS >= self._size_limit:
            checkpoint = Checkpoint(now, state)
            self._segments.append(_Segment(checkpoint))
            if self._tee is not None:
                self._write(checkpoint_line(checkpoint))
        while len(self._segments) > 1 and (len(self) > self._limit or self.size > self._size_limit):
            self._segments.popleft()

    def entries(self) -> Iterator[Entry]:
        """Oldest first."""
        for segment in self._segments:
            yield from segment.entries

    def notes(self) -> Iterator[Note]:
        """Findings above DEBUG, oldest first; they reach further back than the entries."""
        return iter(self._notes)

    def __len__(self) -> int:
        return sum(len(segment.entries) for segment in self._segments)

    @property
    def size(self) -> int:
        """Bytes held, estimated."""
        return sum(segment.size for segment in self._segments)

    def lines(self) -> Iterator[str]:
        """The whole ring as JSON lines (without line ends), ready for `replay`."""
        yield header_line(self._wall())
        for segment in self._segments:
            yield checkpoint_line(segment.checkpoint)
            for entry in segment.entries:
                yield entry_line(entry)

    def tail(self, count: int, after: int = 0, every: bool = False) -> list[dict[str, Any]]:
        """The last `count` steps numbered above `after`, in plain words, for `wgrouter journal`.

        Without `every` only those in which something was said or changed, and they reach further back.
        """
        first = self._segments[0].entries[0].number if self._segments[0].entries else self.number + 1
        told = [note for note in self._notes if after < note.number < first and not every]
        entries = [
            entry for entry in self.entries() if entry.number > after and (every or _is_notable(entry))
        ]
        rows: list[Note | Entry] = [*told, *entries]
        return [in_words(row, every) for row in rows[max(len(rows) - count, 0) :]]

    def tee(self, write: Callable[[str], None], on_failure: Callable[[OSError], None]) -> None:
        """Write what is held, and every step from now on, as lines with their ends, until that fails once.

        Unlike the ring this has no bound: for the lab, and for `wgrouter run --journal FILE`.
        """
        self._tee, self._on_tee_failure = write, on_failure
        for line in self.lines():
            if self._tee is not None:
                self._write(line)

    def _write(self, line: str) -> None:
        try:
            if self._tee is not None:
                self._tee(line + "\n")
        except OSError as error:
            self._tee = None
            if self._on_tee_failure is not None:
                self._on_tee_failure(error)

    def _weigh(self, event: Event, step: Step) -> int:
        """Roughly what keeping this costs, in bytes: 300 for a small dataclass with its fields."""
        size = 600 + 300 * (len(step.effects) + len(step.findings))
        if isinstance(event, Answered):
            return size + 300 * len(event.records)
        if isinstance(event, Observed):
            if event.net is not None:
                size += self._weigh_part("net", event.net)
            for name, device in (event.wireguard or {}).items():
                size += self._weigh_part("wireguard " + name, device)
            size += 300 * (len(event.nameservers or ()) + len(event.interfaces or ()))
        return size

    def _weigh_part(self, name: str, part: Net | DeviceSeen) -> int:
        if self._last_seen.get(name) is part:
            return 0
        if len(self._last_seen) > 1000:  # device names come and go; this is not what may grow for ever
            self._last_seen.clear()
        self._last_seen[name] = part
        if isinstance(part, Net):
            return 300 * (len(part.links) + len(part.addresses) + 2 * len(part.routes) + len(part.rules))
        return 300 + sum(500 + 60 * len(peer.allowed_ips) for peer in part.peers.values())


def wall_time() -> float | None:
    """Seconds since 1970, None while the clock is plainly wrong (a router without one boots in the past)."""
    seconds = time.time()
    return seconds if seconds >= BUILT else None


# ---------------------------------------------------------------- lines


def header_line(wall: float | None) -> str:
    """The first line: which program wrote it, in which form, when."""
    return _json({"journal": SCHEMA, "wgrouter": __version__, "written": wall})


def checkpoint_line(checkpoint: Checkpoint) -> str:
    """Everything the engine knew: settings, seed, memory."""
    return _json({"checkpoint": checkpoint.at, "state": encode(checkpoint.state)})


def entry_line(entry: Entry) -> str:
    """One step. `says` repeats the findings in words, for people; `replay` does not read it."""
    return _json(
        {
            "step": entry.number,
            "at": entry.at,
            "wall": entry.wall,
            "says": [str(finding) for finding in entry.step.findings],
            "event": encode(entry.event),
            "effects": encode(entry.step.effects),
            "findings": encode(entry.step.findings),
            "wake_at": encode(entry.step.wake_at),
        }
    )


def _json(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, allow_nan=False)


def in_words(row: Entry | Note, every: bool = True) -> dict[str, Any]:
    """Plain data in few words; without `every` no effect that only looks, no finding for debugging."""
    findings = row.findings if isinstance(row, Note) else row.step.findings
    effects = () if isinstance(row, Note) else row.step.effects
    return {
        "number": row.number,
        "at": row.at,
        "wall": row.wall,
        "event": "" if isinstance(row, Note) else brief(row.event),
        "effects": [brief(effect) for effect in effects if every or isinstance(effect, CHANGES)],
        "findings": [finding_in_words(finding) for finding in findings if every or _is_told(finding)],
    }


def _is_told(finding: Finding) -> bool:
    return finding.why.severity is not Severity.DEBUG


def _is_notable(entry: Entry) -> bool:
    return any(map(_is_told, entry.step.findings)) or any(
        isinstance(effect, CHANGES) for effect in entry.step.effects
    )


def finding_in_words(finding: Finding) -> dict[str, str]:
    """A finding as every rendering names its parts."""
    return {
        "code": finding.why.code,
        "severity": finding.why.severity.value,
        "subject": finding.subject,
        "text": finding.text,
    }


def brief(value: Any, depth: int = 0) -> str:
    """A value in a few words: its class and what is not at its default, with long parts counted, not told.

    Never raises: values read back from a damaged journal may hold anything.
    """
    try:
        return _brief(value, depth)
    except Exception:  # noqa: BLE001 — a value's own __str__ or __eq__, on parts of the wrong type
        return type(value).__name__


def _brief(value: Any, depth: int) -> str:
    if isinstance(value, str):
        return value if len(value) <= 60 else value[:57] + "..."
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Mapping):
        return f"{len(value)} of {brief(next(iter(value)), 2)}…" if value else "none"
    if isinstance(value, tuple):
        if len(value) > 4:
            return f"{len(value)} parts"
        return ",".join(brief(part, depth + 1) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        name = type(value).__name__
        if type(value).__str__ is not object.__str__:
            return str(value)
        told = [
            f"{field.name}={brief(getattr(value, field.name), depth + 1)}"
            for field in fields(value)
            if getattr(value, field.name) != field.default and getattr(value, field.name) not in ((), {})
        ]
        if depth > 1 or not told:
            return name
        return f"{name} {' '.join(told)}" if depth == 0 else f"{name}({' '.join(told)})"
    return str(value)


def save(journal: Journal, path: str) -> None:
    """Write the whole ring to a file for root alone, all of it or none. OSError if that cannot be."""
    half_done = f"{path}.new"
    descriptor = os.open(half_done, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    # Half a surrogate pair, as a file of the user may hold, is written as JSON's own escape for it.
    with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
        for line in journal.lines():
            file.write(line + "\n")
    os.replace(half_done, path)


def last_words(error: BaseException, journal: Journal | None, count: int = 10) -> list[str]:
    """For the log when our own fault ends the process: the traceback, and the last steps before it."""
    import traceback  # half a MiB that a healthy agent does not need

    lines = [line for part in traceback.format_exception(error) for line in part.rstrip().splitlines()]
    if journal is not None:
        for entry in journal.tail(count, every=True):
            says = "; ".join(finding["text"] for finding in entry["findings"])
            lines.append(
                f"step {entry['number']} at {entry['at']:.3f}: {entry['event']}: {says or 'nothing to say'}"
            )
    return lines
