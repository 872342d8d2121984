"""Traffic that measures: an echo flow, connections made anew each tick, a download. Each runs in a thread
inside its box.

All of them note on the monotonic clock when an answer came, and their `outage()` is the longest time without
one. A figure is worth no more than the sender's regularity: `stall` is the longest time by which this machine
sent too late.
"""

import contextlib
import itertools
import selectors
import socket
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from .netns import Box
from .poll import SLOWNESS, usual
from .server import ECHO_PORT, HTTP_PORT

_HEADER = struct.Struct("!QQ")
_LATE_SECONDS = usual(0.3)
_numbers = itertools.count(1)


def longest_gap(times: Sequence[float], end: float, since: float = 0.0) -> float:
    """The longest time between answers, or from the last one to `end`; gaps that were over before `since` do
    not count.
    """
    if not times:
        return float("inf")
    edges = [*times, max(end, times[-1])]
    return max((b - a for a, b in itertools.pairwise(edges) if b >= since), default=0.0)


class _Traffic(ABC):
    """A thread in a box, and when it heard something."""

    def __init__(self, box: Box, what: str) -> None:
        self._heard: list[float] = []
        self._stop = threading.Event()
        self._ended_at: float | None = None
        self.stall = 0.0
        self._patience_seconds = _LATE_SECONDS
        self._thread = box.in_thread(self._work, what)
        box.at_end.append(self._abandon)

    @abstractmethod
    def _work(self) -> None:
        """Send and listen until `_stop` is set."""

    def stop(self) -> Self:
        """Send no more, wait a moment for late answers, and end."""
        if self._thread.is_alive():
            self._ended_at = time.monotonic()
            self._stop.set()
            self._thread.join()
        return self

    def _abandon(self) -> None:
        """End without waiting for anything: the lab is being taken down."""
        self._patience_seconds = 0.0
        self.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def answers(self) -> int:
        return len(self._heard)

    @property
    def last(self) -> float:
        """When the last answer came; minus infinity if none did."""
        return self._heard[-1] if self._heard else float("-inf")

    def flowing(self, within: float = 0.1) -> bool:
        """Whether an answer came in the last `within` seconds of a usual machine."""
        return time.monotonic() - self.last <= usual(within)

    def outage(self, since: float = 0.0) -> float:
        """Seconds of the longest silence that was not over before `since` (a time.monotonic()); infinite if
        all is silence.
        """
        return longest_gap(self._heard, self._ended_at or time.monotonic(), since)


class Flow(_Traffic):
    """UDP packets at a steady rate to an echo server, numbered."""

    def __init__(
        self,
        box: Box,
        address: str,
        *,
        port: int = ECHO_PORT,
        hertz: float = 100,
        device: str = "",
        connected: bool = False,
    ) -> None:
        """`device` binds the socket to it.

        `connected` keeps the source address of the first packet, as most programs do.
        """
        self._to = (address, port)
        self._family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._period = SLOWNESS / hertz
        self._device = device
        self._connected = connected
        self._sent: list[float] = []
        self._answered: dict[int, float] = {}
        self._name = next(_numbers)
        super().__init__(box, f"flow to {address}")

    def _work(self) -> None:
        with socket.socket(self._family, socket.SOCK_DGRAM) as sock:
            if self._device:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self._device.encode())
            due = time.monotonic()
            while not self._stop.is_set():
                now = time.monotonic()
                if now >= due:
                    self.stall = max(self.stall, now - due)
                    self._send(sock, now)
                    due = max(due + self._period, now)
                self._receive(sock, due)
            self._receive(sock, time.monotonic() + self._patience_seconds, until_all=True)

    def _send(self, sock: socket.socket, now: float) -> None:
        packet = _HEADER.pack(self._name, len(self._sent))
        self._sent.append(now)
        # No route, no buffer: a packet lost here is lost like any other.
        with contextlib.suppress(OSError):
            if self._connected and len(self._sent) == 1:
                sock.connect(self._to)
            if self._connected:
                sock.send(packet)
            else:
                sock.sendto(packet, self._to)

    def _receive(self, sock: socket.socket, end: float, until_all: bool = False) -> None:
        while (left := end - time.monotonic()) > 0 and not (
            until_all and len(self._answered) == len(self._sent)
        ):
            sock.settimeout(left)
            # The timeout is an OSError too; so is a refused packet's echo on a connected socket.
            with contextlib.suppress(OSError):
                name, number = _HEADER.unpack(sock.recv(64)[: _HEADER.size])
                if name == self._name and number not in self._answered:
                    self._answered[number] = time.monotonic()
                    self._heard.append(self._answered[number])

    @property
    def sent(self) -> int:
        return len(self._sent)

    @property
    def lost(self) -> int:
        """Packets without an answer, not counting those that may still get one."""
        return self.lost_since(0.0)

    def lost_since(self, since: float) -> int:
        """Of those sent since then (a time.monotonic())."""
        horizon = float("inf") if not self._thread.is_alive() else time.monotonic() - _LATE_SECONDS
        sent = ((number, at) for number, at in enumerate(self._sent) if since <= at < horizon)
        return sum(1 for number, _ in sent if number not in self._answered)

    def rtt_seconds(self) -> list[float]:
        """Round-trip times of the answered packets, in the order they were sent."""
        return [heard - self._sent[number] for number, heard in sorted(self._answered.items())]


class Connects(_Traffic):
    """A new TCP connection each tick, with a few bytes there and back: what a user's next click meets."""

    def __init__(
        self, box: Box, address: str, *, port: int = ECHO_PORT, hertz: float = 20, timeout: float = 1.0
    ) -> None:
        self._to = (address, port)
        self._family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._period = SLOWNESS / hertz
        self._timeout = usual(timeout)
        self.failed = 0
        super().__init__(box, f"connects to {address}")

    def _work(self) -> None:
        open_since: dict[socket.socket, float] = {}
        due = time.monotonic()
        with selectors.DefaultSelector() as selector:

            def close(sock: socket.socket, *, good: bool) -> None:
                selector.unregister(sock)
                sock.close()
                del open_since[sock]
                if good:
                    self._heard.append(time.monotonic())
                else:
                    self.failed += 1

            while not self._stop.is_set() or open_since:
                now = time.monotonic()
                if now >= due and not self._stop.is_set():
                    self.stall = max(self.stall, now - due)
                    due = max(due + self._period, now)
                    sock = self._connect()
                    if sock is None:
                        self.failed += 1
                    else:
                        open_since[sock] = now
                        selector.register(sock, selectors.EVENT_WRITE)
                allowed = (
                    self._timeout if not self._stop.is_set() else min(self._timeout, self._patience_seconds)
                )
                for sock in [sock for sock, since in open_since.items() if now - since > allowed]:
                    close(sock, good=False)
                for key, events in selector.select(max(0.0, min(due - time.monotonic(), 0.05))):
                    assert isinstance(key.fileobj, socket.socket)
                    try:
                        if events & selectors.EVENT_WRITE:
                            key.fileobj.send(b"hello")
                            selector.modify(key.fileobj, selectors.EVENT_READ)
                        else:
                            close(key.fileobj, good=key.fileobj.recv(16) == b"hello")
                    except OSError:
                        close(key.fileobj, good=False)

    def _connect(self) -> socket.socket | None:
        sock = socket.socket(self._family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        # Closed by a reset: nothing lingers in TIME_WAIT.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        try:
            sock.connect(self._to)
        except BlockingIOError:
            pass
        except OSError:
            sock.close()
            return None
        return sock


class Download(_Traffic):
    """A TCP download without end. `broken` says how it ended, if it did: then it does not begin again."""

    def __init__(self, box: Box, address: str, *, port: int = HTTP_PORT) -> None:
        self._to = (address, port)
        self.received = 0
        self.broken: str | None = None
        super().__init__(box, f"download from {address}")

    def _work(self) -> None:
        try:
            with socket.create_connection(self._to, timeout=usual(5)) as sock:
                sock.settimeout(0.05)
                sock.sendall(b"GET /stream HTTP/1.1\r\nHost: lab\r\n\r\n")
                while not self._stop.is_set():
                    with contextlib.suppress(TimeoutError):
                        data = sock.recv(65536)
                        if not data:
                            self.broken = "closed by the server"
                            return
                        self.received += len(data)
                        self._heard.append(time.monotonic())
        except OSError as error:
            self.broken = f"{type(error).__name__}: {error}"
