"""What is wrong with a configuration, as values; and how a piece of somebody's file may be shown.

Knows nothing of options. A Problem never carries a secret: a value is shown shortened, without control
characters, and without anything that looks like a key.
"""

from __future__ import annotations

from collections.abc import Iterable

from wgrouter.core.findings import Severity
from wgrouter.core.records import dataclass

MOST = 100  # Problems of one load: more help nobody, and a file of garbage has thousands
_BASE64 = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=")
_KEY_LENGTH = 32  # so many characters of base64 in a row may be a key (WireGuard's have 44): not shown
_SHOWN_LENGTH = 60


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault, where it is, what is accepted instead, and what the agent does about it."""

    file: str
    line: int  # 0: the file as a whole
    section: str  # "peer 'office'", "@peer[1]", "" for none
    option: str
    value: str  # as it may be shown
    message: str
    accepted: str = ""
    consequence: str = ""
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        what = ", ".join(part for part in (self.section, self.option and f"option {self.option}") if part)
        text = f"{place}: {what}: {self.message}" if what else f"{place}: {self.message}"
        if self.consequence:
            text += f" ({self.consequence})"
        return f"{text}; accepted: {self.accepted}" if self.accepted else text


def shown(text: str) -> str:
    """Text of a file in one short printable line, without anything that may be a key."""
    out: list[str] = []
    run = 0
    for character in text[:4096]:
        if character in _BASE64:
            run += 1
        else:
            run = 0
        if run >= _KEY_LENGTH:
            if run == _KEY_LENGTH:
                del out[1 - _KEY_LENGTH :]
                out.append("[not shown: may be a key]")
            continue
        if character.isprintable():
            out.append(character)
        elif character < "\x80":
            out.append(f"\\x{ord(character):02x}")
        else:
            out.append("\\ufffd" if "\ud800" <= character <= "\udfff" else f"\\u{ord(character):04x}")
    short = "".join(out)
    return short if len(short) <= _SHOWN_LENGTH else short[: _SHOWN_LENGTH - 1] + "…"


def quoted(text: str) -> str:
    return f"'{shown(text)}'"


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that a wrong one was probably meant to be, or ""."""
    from difflib import get_close_matches  # only where somebody mistyped: it is slow to import

    found = get_close_matches(name[:64].lower().replace("-", "_"), list(known), 1, 0.6)
    return found[0] if found else ""


class Problems:
    """Collects the Problems of one load, up to MOST."""

    def __init__(self) -> None:
        self._found: list[Problem] = []
        self._more = 0

    def add(self, problem: Problem) -> None:
        if len(self._found) < MOST:
            self._found.append(problem)
        else:
            self._more += 1

    @property
    def full(self) -> bool:
        """Whether another one would only be counted: spares the search for a better name."""
        return len(self._found) >= MOST

    def all(self) -> tuple[Problem, ...]:
        if not self._more:
            return tuple(self._found)
        file = self._found[-1].file
        return (*self._found, Problem(file, 0, "", "", "", f"{self._more} more problems are not listed"))
