"""What the probing ports share: the part of the reactor they use, how a socket is held to one uplink, a
receive time.

Touches socket options only. SO_* numbers that Python's socket module lacks are those of asm-generic/socket.h,
which all architectures of OpenWrt share (mips has its own file with the same numbers here).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Callable
from typing import Protocol

from wgrouter.core.messages import Event, Probe

SO_ATTACH_FILTER = 26
SO_TIMESTAMPNS = 35  # the old one: SCM_TIMESTAMPNS carries a timespec of two longs


class Cancel(Protocol):
    """A timer that can be called off."""

    def cancel(self) -> None: ...


class Loop(Protocol):
    """The part of the reactor that a prober uses. Instants are seconds on its monotonic clock."""

    def watch(self, fd: int, callback: Callable[[], None], *, write: bool = False) -> None: ...

    def unwatch(self, fd: int) -> None: ...

    def post(self, event: Event) -> None: ...

    def now(self) -> float: ...

    def call_at(self, when: float, callback: Callable[[], None]) -> Cancel: ...


def family_of(probe: Probe) -> socket.AddressFamily:
    """AF_INET or AF_INET6, by the look of the target."""
    return socket.AF_INET6 if ":" in probe.target else socket.AF_INET


def hold(sock: socket.socket, probe: Probe) -> None:
    """Bind to the probe's device and source, and set its mark. OSError: no such device or address, no
    right.
    """
    if probe.device:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, os.fsencode(probe.device) + b"\0")
    if probe.mark:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, probe.mark)
    if probe.source:
        sock.bind(place(sock.family, probe.source, 0, probe.device))


def place(family: int, address: str, port: int, device: str) -> tuple[str, int] | tuple[str, int, int, int]:
    """A socket address; a link-local one gets the device's index as its scope."""
    if family == socket.AF_INET:
        return (address, port)
    scope = socket.if_nametoindex(device) if device and address.lower().startswith("fe80:") else 0
    return (address, port, 0, scope)


def attach_filter(sock: socket.socket, program: list[tuple[int, int, int, int]]) -> None:
    """Attach a classic BPF program, so that other packets do not wake us."""
    import ctypes  # only here: a router's Python may have no ctypes, and then we are woken more often

    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code)
    # struct sock_fprog: unsigned short len, then a pointer at the pointer's own alignment.
    sock.setsockopt(
        socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(program), ctypes.addressof(buffer))
    )


def wall_ns() -> int:
    """The wall clock, to compare with a kernel receive time: never kept, never compared over a long span."""
    return time.clock_gettime_ns(time.CLOCK_REALTIME)


def received_ns(ancillary: list[tuple[int, int, bytes]]) -> int:
    """The kernel's receive time of a message on the wall clock, in nanoseconds; 0 without one."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS and len(data) >= 8:
            seconds, nanoseconds = struct.unpack_from("=qq" if len(data) >= 16 else "=ii", data)
            return int(seconds) * 1_000_000_000 + int(nanoseconds)
    return 0


def round_trip(sent_ns: int, got_ns: int, elapsed: float) -> float:
    """Seconds from sending to the kernel's receive time; `elapsed` (our own clock) if the wall clock was set
    meanwhile.
    """
    by_kernel = (got_ns - sent_ns) / 1e9
    return by_kernel if got_ns and 0.0 <= by_kernel <= elapsed else elapsed


def reason_of(error: OSError) -> str:
    """The kernel's words, with the errno's name: it is what one searches for."""
    number = error.errno or 0
    words = error.strerror or str(error)
    return f"{errno.errorcode.get(number, number)}: {words or os.strerror(number)}"
