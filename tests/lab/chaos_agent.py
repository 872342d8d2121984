"""Runs wgrouter as it is, with two things that this machine cannot give it: a clock of its own, and ubus.

The wall clock of all of Linux is one, so the agent's alone is set by an offset: CHAOS_CLOCK names a file with
one number, the seconds to add. Everything that the agent asks for the time of day is given that, and the
kernel's receive times of packets are moved along, as a real change of the clock would move them; a packet on
its way at that moment sees the leap. (OpenSSL's own look at the clock, for certificates, is not moved.)
Where the Python binding of ubus is not installed, the stand-in of tests/ports takes its name.

Not a module of the package: started by its path, so that it costs the agent no more than it needs.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path


class Clock:
    """The offset now; the file is read again when it was written, so that a look costs a system call."""

    def __init__(self, file: str) -> None:
        self._file, self._written, self._offset = file, -1, 0.0

    def offset(self) -> float:
        written = os.stat(self._file).st_mtime_ns
        if written != self._written:
            self._written = written
            self._offset = float(Path(self._file).read_text() or 0)
        return self._offset


def shift(clock: Clock) -> None:
    """Put the offset where the agent asks for the time of day. The monotonic clock is left alone."""
    real_time, real_ns = time.time, time.clock_gettime_ns

    def shifted_ns(which: int) -> int:
        moved = int(clock.offset() * 1e9) if which == time.CLOCK_REALTIME else 0
        return real_ns(which) + moved

    time.time = lambda: real_time() + clock.offset()
    time.clock_gettime_ns = shifted_ns
    from wgrouter.ports import _probe_loop

    received: Callable[[list[tuple[int, int, bytes]]], int] = _probe_loop.received_ns

    def received_ns(ancillary: list[tuple[int, int, bytes]]) -> int:
        stamped = received(ancillary)
        return stamped + int(clock.offset() * 1e9) if stamped else 0

    _probe_loop.received_ns = received_ns


def main() -> int:
    # sys.path begins with this file's directory, whose modules are nobody's business.
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    if file := os.environ.get("CHAOS_CLOCK"):
        shift(Clock(file))
    if importlib.util.find_spec("ubus") is None:
        sys.modules["ubus"] = importlib.import_module("tests.ports.ubus_standin")
    from wgrouter.cli import main as wgrouter

    return wgrouter(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
