"""A journal that somebody sends us, or that a power loss has cut."""

from __future__ import annotations

import functools
import io

from wgrouter.core.engine import Engine
from wgrouter.shell import replay
from wgrouter.shell.journal import Checkpoint, Entry, checkpoint_line, entry_line, header_line

WORDS = {
    "journal": [
        *(f'{{"_": "{cls.__name__}"'.encode() for cls in replay.classes()),
        *(b'"checkpoint": ', b'"step": ', b'"at": ', b'"event": ', b'"effects": []', b'"findings": []',
          b'"wake_at": '),
        *(b'{"_": "map", "items": [[', b'{"_": "float", "text": "nan"}', b"\n", b"1e400", b"[[[[[[",
          b"null", b"-1"),
    ]
}  # fmt: skip


@functools.cache
def known() -> list[type]:
    return replay.classes()


def journal(data: bytes) -> None:
    try:
        recording = replay.read(io.BytesIO(data), known())
    except replay.JournalError as error:
        assert 1 <= error.line <= data.count(b"\n") + 1
        assert len(str(error)) < 4000, str(error)
        return
    for difference in replay.replay(recording, Engine):
        str(difference).encode("utf-8", "backslashreplace")
    if not all(map(has_words, recording.items)):
        return
    lines = [header_line(None)]
    for item in recording.items:
        lines.append(checkpoint_line(item) if isinstance(item, Checkpoint) else entry_line(item))
    again = replay.read([line + "\n" for line in lines], known())
    assert repr(again.items) == repr(recording.items)


def has_words(item: Checkpoint | Entry) -> bool:
    """The writer says each finding in words beside its data; a damaged one need not have any."""
    try:
        return isinstance(item, Checkpoint) or all(map(str, item.step.findings))
    except (TypeError, ValueError, AttributeError, LookupError):
        return False
