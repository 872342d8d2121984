"""The log: one line for each finding on standard output, which procd hands to syslog.

Decides only what is worth a line: the level, no line twice in a row, and no more than a trickle on a bad day.
What is held back is counted and said. The journal has it all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from wgrouter.core.findings import Finding, Severity
from wgrouter.core.model import Instant, Seconds

ORDER = (Severity.DEBUG, Severity.INFO, Severity.WARNING, Severity.ERROR)
REPEAT_AFTER: Seconds = 60.0  # the same sentence about the same subject within this time is only counted
REMEMBERED = 64  # sentences that are compared
BURST = 100.0  # lines at once …
RATE = 1.0  # … and lines a second from then on
WIDTH = 900  # characters; logd cuts at 1024 bytes with its own prefix


class Log:
    """`say` findings; `flush` when nothing has been said for a while, so that counts do not wait for ever."""

    def __init__(self, level: str = "info", write: Callable[[str], None] | None = None) -> None:
        self._write = write or _to_stdout
        self.level = level
        self._said: dict[str, _Said] = {}  # oldest first
        self._tokens = BURST
        self._filled_at: Instant | None = None
        self._held_back = 0

    @property
    def level(self) -> str:
        return ORDER[self._least].value

    @level.setter
    def level(self, name: str) -> None:
        """ "debug", "info", "warning" or "error"; ValueError for anything else."""
        self._least = ORDER.index(Severity(name))

    def say(self, finding: Finding, now: Instant) -> None:
        """Write the finding's line, unless its level, its twin or the rate is against it."""
        if ORDER.index(finding.why.severity) < self._least:
            return
        text = line(finding)
        said = self._said.get(text)
        if said is not None and now - said.at < REPEAT_AFTER:
            said.repeated += 1
            return
        self.flush(now)
        if len(self._said) >= REMEMBERED:
            self._forget(next(iter(self._said)))
        self._said[text] = _Said(now)
        self._put(text, now)

    def flush(self, now: Instant) -> None:
        """Say how often the lines older than REPEAT_AFTER came again."""
        for text, said in list(self._said.items()):
            if now - said.at < REPEAT_AFTER:
                break
            self._forget(text, now)

    def _forget(self, text: str, now: Instant | None = None) -> None:
        said = self._said.pop(text)
        if said.repeated:
            times = "once more" if said.repeated == 1 else f"{said.repeated} times more"
            self._put(f"{text} ({times} within {REPEAT_AFTER:.0f} s)", said.at if now is None else now)

    def _put(self, text: str, now: Instant) -> None:
        if self._filled_at is not None:
            self._tokens = min(self._tokens + max(now - self._filled_at, 0.0) * RATE, BURST)
        self._filled_at = now
        if self._tokens < 1.0:
            self._held_back += 1
            return
        self._tokens -= 1.0
        if self._held_back:
            self._write(
                f"wgrouter: warning: {self._held_back} lines held back, see wgrouter journal [log.held-back]"
            )
            self._held_back = 0
        self._write(text)


class _Said:
    __slots__ = ("at", "repeated")

    def __init__(self, at: Instant) -> None:
        self.at = at
        self.repeated = 0


def line(finding: Finding) -> str:
    """`wgrouter: <severity>: <subject>: <text> [code]`, on one line whatever a name server put into it."""
    code = f" [{finding.why.code}]"
    text = "".join(
        character if character.isprintable() else character.encode("unicode_escape", "replace").decode()
        for character in f"wgrouter: {finding.why.severity.value}: {finding}"
    )
    return (text if len(text) <= WIDTH else text[: WIDTH - 1] + "…") + code


def _to_stdout(text: str) -> None:
    try:
        sys.stdout.write(text.encode("utf-8", "replace").decode() + "\n")
        sys.stdout.flush()
    except OSError:  # nobody reads the log any more; that must not end the agent
        pass
