"""Probes with a socket of their own: DNS over UDP and TCP, a TCP connection, HTTP and HTTPS.

Touches sockets, never blocks, resolves nothing. `ssl` (several MiB) is imported when the first https probe is
sent. A certificate is not checked: a router may boot in 1970 and has no roots; the status tells a captive
portal.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from wgrouter.core.messages import Probe
from wgrouter.ports._probe_loop import (
    SO_TIMESTAMPNS,
    Cancel,
    Loop,
    family_of,
    hold,
    place,
    reason_of,
    received_ns,
    round_trip,
    wall_ns,
)

if TYPE_CHECKING:
    import ssl

Answer = Callable[[int, float], None]  # probe id, round trip in seconds
Refusal = Callable[[int, str], None]  # probe id, why
FLIGHTS_MAX = 128  # sockets open at once
READ = 2048


class Streams:
    """Starts such probes and keeps them until they are answered, refused or out of time."""

    def __init__(self, loop: Loop, answer: Answer, refuse: Refusal) -> None:
        self._loop = loop
        self._answer = answer
        self._refuse = refuse
        self._flights: dict[int, _Flight] = {}
        self._tls: ssl.SSLContext | None = None

    def send(self, probe: Probe) -> None:
        """Begin one. OSError: it could not be sent."""
        if len(self._flights) >= FLIGHTS_MAX:
            raise OSError(errno.EMFILE, f"{FLIGHTS_MAX} probes are under way already")
        if probe.method == "https" and self._tls is None:
            self._tls = _context()
        flight = _Flight(self._loop, probe, self._tls if probe.method == "https" else None, self._end)
        self._flights[probe.id] = flight
        flight.start()

    def _end(self, flight: _Flight, rtt: float | None, reason: str) -> None:
        self._flights.pop(flight.probe.id, None)
        flight.close()
        if rtt is not None:
            self._answer(flight.probe.id, rtt)
        elif reason:
            self._refuse(flight.probe.id, reason)

    def close(self) -> None:
        for flight in list(self._flights.values()):
            flight.close()
        self._flights.clear()


def _context() -> ssl.SSLContext:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


End = Callable[["_Flight", "float | None", str], None]


class _Flight:
    """One probe: connecting → (handshake) → sending → reading."""

    def __init__(self, loop: Loop, probe: Probe, tls: ssl.SSLContext | None, end: End) -> None:
        self.probe = probe
        self._loop = loop
        self._tls = tls
        self._end = end
        self._sent = loop.now()
        self._sent_ns = wall_ns()
        self._received = b""
        self._query_id = int.from_bytes(os.urandom(2), "big")
        self._step: Callable[[], None] = self._connected
        self._timer: Cancel | None = None
        self._udp = probe.method == "dns-udp"
        kind = socket.SOCK_DGRAM if self._udp else socket.SOCK_STREAM
        self._sock: socket.socket = socket.socket(family_of(probe), kind | socket.SOCK_NONBLOCK)
        try:
            hold(self._sock, probe)
            if self._udp:
                self._sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            else:
                self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            self._sock.close()
            raise

    def start(self) -> None:
        probe = self.probe
        try:
            self._sock.connect(place(self._sock.family, probe.target, probe.port, probe.device))
        except BlockingIOError:
            pass
        except OSError as error:
            return self._end(self, None, reason_of(error))
        self._timer = self._loop.call_at(self._sent + probe.timeout, self._too_late)
        if self._udp:
            return self._guarded(self._ask_udp)
        self._watch(write=True)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._sock.fileno() >= 0:
            self._loop.unwatch(self._sock.fileno())
            self._sock.close()

    def _too_late(self) -> None:
        self._end(self, None, "")  # silence is for the core to judge

    def _watch(self, *, write: bool) -> None:
        self._loop.watch(self._sock.fileno(), self._ready, write=write)

    def _ready(self) -> None:
        self._guarded(self._step)

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except BlockingIOError:
            pass
        except OSError as error:
            if not self._wants(error):
                self._end(self, None, reason_of(error))

    def _wants(self, error: OSError) -> bool:
        """Whether TLS only wants the socket readable or writable."""
        if self._tls is None:
            return False
        import ssl

        if isinstance(error, (ssl.SSLWantReadError, ssl.SSLWantWriteError)):
            self._watch(write=isinstance(error, ssl.SSLWantWriteError))
            return True
        return False

    def _connected(self) -> None:
        number = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise OSError(number, os.strerror(number))
        if self.probe.method == "tcp":
            return self._end(self, self._elapsed(), "")
        if self._tls is not None:
            host = self.probe.detail.partition("/")[0] or self.probe.target
            self._loop.unwatch(self._sock.fileno())
            self._sock = self._tls.wrap_socket(
                self._sock, server_hostname=host, do_handshake_on_connect=False
            )
            self._step = self._handshake
            return self._handshake()
        self._ask()

    def _handshake(self) -> None:
        import ssl

        assert isinstance(self._sock, ssl.SSLSocket)
        self._sock.do_handshake()
        self._ask()

    def _ask(self) -> None:
        """Some hundred octets into an empty socket buffer are never written in part."""
        probe = self.probe
        if probe.method == "dns-tcp":
            query = dns_query(self._query_id, probe.detail)
            self._sock.send(struct.pack("!H", len(query)) + query)
            self._step = self._read_dns
        else:
            self._sock.send(http_request(probe))
            self._step = self._read_http
        self._watch(write=False)

    def _ask_udp(self) -> None:
        self._sock.send(dns_query(self._query_id, self.probe.detail))
        self._step = self._read_udp
        self._watch(write=False)

    def _read_udp(self) -> None:
        data, ancillary, _, _ = self._sock.recvmsg(READ, 64)
        if is_answer(data, self._query_id):
            self._end(self, round_trip(self._sent_ns, received_ns(ancillary), self._elapsed()), "")

    def _read_dns(self) -> None:
        data = self._sock.recv(READ)
        if not data:
            return self._end(self, None, "closed without an answer")
        self._received += data
        if len(self._received) >= 14:
            good = is_answer(self._received[2:], self._query_id)
            self._end(self, self._elapsed() if good else None, "not a DNS answer")

    def _read_http(self) -> None:
        data = self._sock.recv(READ)
        self._received += data
        line, found, _ = self._received.partition(b"\r\n")
        if found or not data or len(self._received) > READ:
            reason = http_verdict(line, self.probe)
            self._end(self, None if reason else self._elapsed(), reason)

    def _elapsed(self) -> float:
        return self._loop.now() - self._sent


def dns_query(id: int, name: str) -> bytes:
    """A query for an address of `name`, recursion desired (RFC 1035). "." needs no cache and yields a short
    answer.
    """
    labels = b"".join(
        bytes([len(label)]) + label
        for label in name.strip(".").encode("ascii", "ignore").split(b".")
        if 0 < len(label) < 64
    )
    return struct.pack("!HHHHHH", id, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", 1, 1)


def is_answer(data: bytes, id: int) -> bool:
    """Whether this answers the query; with what, does not matter here."""
    return len(data) >= 12 and struct.unpack_from("!H", data)[0] == id and bool(data[2] & 0x80)


def http_request(probe: Probe) -> bytes:
    host, _, path = probe.detail.partition("/")
    literal = f"[{probe.target}]" if ":" in probe.target else probe.target
    lines = (f"GET /{path} HTTP/1.1", f"Host: {host or literal}", "User-Agent: wgrouter", "Connection: close")
    return "\r\n".join((*lines, "", "")).encode("latin-1", "replace")


def http_verdict(line: bytes, probe: Probe) -> str:
    """What is wrong with a status line, "" for nothing. A page that should be empty and is not: a captive
    portal.
    """
    parts = line.split()
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/") or not parts[1].isdigit():
        return "not an HTTP answer"
    status = int(parts[1])
    if probe.detail.endswith("204"):
        return "" if status == 204 else f"HTTP {status}, not 204: a captive portal?"
    return "" if 200 <= status < 300 else f"HTTP {status}"
