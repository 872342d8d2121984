"""DNS queries over UDP and TCP: an Ask goes out on a socket of its own, Answered or Unanswered comes back.

Touches sockets and nothing else; dnspython turns packets into records and back, and is imported with the
first query. Whom to ask, when to ask again and what to believe is decided by core/names.py. What it must see
to itself is that an answer belongs to its query: a random id and a source port of the kernel's choice (RFC
5452), a connected socket, and the question repeated in the answer. Whatever else arrives is ignored until the
deadline.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol

from wgrouter.core.messages import Answered, Ask, Event, Record, Unanswered
from wgrouter.ports._unused import unused

SOCKETS_MAX = 128  # twice what core/names.py has under way
PAYLOAD = 1232  # EDNS buffer size that passes every path unfragmented (DNS flag day 2020)
PACKETS_AT_ONCE = 16  # read from one socket in one turn: whoever sends rubbish must not hold up the loop
TYPES = ("A", "AAAA", "CNAME", "SRV")

_HEADER = struct.Struct("!HHHHHH")  # id, flags, and the number of records in each section (RFC 1035 4.1.1)
_QR, _OPCODE, _TC = 0x8000, 0x7800, 0x0200
_NO_EDNS = ("FORMERR", "NOTIMP", "BADVERS")  # how a server says that it does not know EDNS (RFC 6891 7)

# linux/in.h, linux/in6.h: errors that the network reports (host unreachable, …) come back with the next call.
_RECVERR = {
    socket.AF_INET: (socket.IPPROTO_IP, getattr(socket, "IP_RECVERR", 11)),
    socket.AF_INET6: (socket.IPPROTO_IPV6, getattr(socket, "IPV6_RECVERR", 25)),
}


class Cancel(Protocol):
    """A timer that can be taken back."""

    def cancel(self) -> None: ...


class Loop(Protocol):
    """What this port needs of the reactor."""

    def watch(self, fd: int, callback: Callable[[], None], *, write: bool = False) -> None: ...
    def unwatch(self, fd: int) -> None: ...
    def post(self, event: Event) -> None: ...
    def now(self) -> float: ...
    def call_at(self, when: float, callback: Callable[[], None]) -> Cancel: ...


class Nameservers:
    """Every query under way. `ask` never blocks and never raises for what the network does."""

    def __init__(self, loop: Loop, sockets_max: int = SOCKETS_MAX) -> None:
        self._loop = loop
        self._sockets_max = sockets_max
        self._open: dict[int, _Query] = {}  # by Ask.id
        self._waiting: deque[_Query] = deque()  # for a socket; their time runs already
        self._refilling = False

    def ask(self, ask: Ask) -> None:
        """Send a query. Answered or Unanswered with its id is posted within `ask.timeout` seconds."""
        kind = _Stream if ask.tcp else _Datagram
        query = kind(self._loop, ask, self._ended)
        if len(self._open) >= self._sockets_max:
            self._waiting.append(query)
        else:
            self._begin(query)

    def close(self) -> None:
        """Forget all queries; nothing is posted for them."""
        for query in (*self._open.values(), *self._waiting):
            query.close()
        self._open.clear()
        self._waiting.clear()

    def _begin(self, query: _Query) -> None:
        self._open[query.ask.id] = query
        query.begin()

    def _ended(self, query: _Query, event: Event) -> None:
        if self._open.pop(query.ask.id, None) is None:
            self._waiting.remove(query)
        self._loop.post(event)
        if self._waiting and not self._refilling:
            self._refilling = True  # a query that ends at once comes here again
            while self._waiting and len(self._open) < self._sockets_max:
                self._begin(self._waiting.popleft())
            self._refilling = False


class _Query(ABC):
    """One query, one socket. Ends once: with an answer, an error or its deadline."""

    def __init__(self, loop: Loop, ask: Ask, ended: Callable[[_Query, Event], None]) -> None:
        self.ask = ask
        self._loop = loop
        self._ended = ended
        self._timer = loop.call_at(loop.now() + ask.timeout, self._expired)
        self._socket: socket.socket | None = None
        self._question: Question | None = None
        self._rubbish = False  # something came that is no DNS message

    def begin(self) -> None:
        """Open the socket and send, as far as that goes without waiting."""
        try:
            self._question = Question(self.ask.name, self.ask.type)
            self._socket = self._connected()
            self._start(self._socket, self._question)
        except OSError as error:
            self._failed(error)
        except ValueError:  # a name, server or device that no packet and no system call can hold
            self._end(Unanswered(self.ask.id, "unreachable"))

    def close(self) -> None:
        self._timer.cancel()
        if self._socket is not None:
            self._loop.unwatch(self._socket.fileno())
            self._socket.close()
            self._socket = None

    @abstractmethod
    def _start(self, sock: socket.socket, question: Question) -> None:
        """Have it sent as soon as the socket is ready for that."""

    @abstractmethod
    def _send(self, sock: socket.socket, question: Question) -> None:
        """Send it, now."""

    def _connected(self) -> socket.socket:
        """A socket that knows its server: packets of others do not reach it, and the network's errors do."""
        server, device = self.ask.server, self.ask.server.device
        host, _, scope = server.address.partition("%")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.inet_pton(family, host)  # a name here would be looked up, and block the loop
        if not 0 < server.port < 65536:
            raise ValueError(f"port {server.port}")
        kind = socket.SOCK_STREAM if self.ask.tcp else socket.SOCK_DGRAM
        sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            if device:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, os.fsencode(device))
            if self.ask.mark:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self.ask.mark)
            sock.setsockopt(*_RECVERR[family], 1)
            address: tuple[str, int] | tuple[str, int, int, int] = (host, server.port)
            if family == socket.AF_INET6:
                linked = (scope or device) if host.lower().startswith("fe80:") else ""
                address = (host, server.port, 0, socket.if_nametoindex(linked) if linked else 0)
            error = sock.connect_ex(address)
            if error not in (0, errno.EINPROGRESS):
                raise OSError(error, os.strerror(error))
        except BaseException:
            sock.close()
            raise
        return sock

    def _heard(self, sock: socket.socket, wire: bytes) -> bool:
        """Take what may be the answer. Whether the query ended with it."""
        assert self._question is not None
        try:
            answer = self._question.answer(wire, self.ask.id, whole=self.ask.tcp)
        except Unreadable:
            self._rubbish = True
            return False
        if answer is None:
            return False
        if answer.rcode in _NO_EDNS and self._question.edns:
            self._question = Question(self.ask.name, self.ask.type, edns=False)
            self._send(sock, self._question)
            return False
        self._end(answer)
        return True

    def _expired(self) -> None:
        self._end(Unanswered(self.ask.id, "garbage" if self._rubbish else "timeout"))

    def _failed(self, error: OSError) -> None:
        refused = error.errno in (errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE)
        self._end(Unanswered(self.ask.id, "refused" if refused else "unreachable"))

    def _end(self, event: Event) -> None:
        self.close()
        self._ended(self, event)


class _Datagram(_Query):
    """Over UDP."""

    def _start(self, sock: socket.socket, question: Question) -> None:
        self._send(sock, question)
        self._loop.watch(sock.fileno(), self._readable)

    def _send(self, sock: socket.socket, question: Question) -> None:
        try:
            sock.send(question.wire)
        except BlockingIOError:
            pass  # a full queue is a lost packet: core asks again

    def _readable(self) -> None:
        sock = self._socket
        try:
            for _ in range(PACKETS_AT_ONCE if sock is not None else 0):
                assert sock is not None
                if self._heard(sock, sock.recv(65535)):
                    return
        except BlockingIOError:
            pass
        except OSError as error:
            self._failed(error)


class _Stream(_Query):
    """Over TCP: two bytes of length before each message (RFC 1035 4.2.2)."""

    def _start(self, sock: socket.socket, question: Question) -> None:
        self._received = b""
        self._to_send = b""
        self._send(sock, question)

    def _send(self, sock: socket.socket, question: Question) -> None:
        self._to_send += struct.pack("!H", len(question.wire)) + question.wire
        self._loop.watch(sock.fileno(), self._writable, write=True)

    def _writable(self) -> None:
        sock = self._socket
        if sock is None:
            return
        try:
            if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error, os.strerror(error))
            self._to_send = self._to_send[sock.send(self._to_send) :]
        except BlockingIOError:
            return
        except OSError as error:
            self._failed(error)
            return
        if not self._to_send:
            self._loop.watch(sock.fileno(), self._readable)

    def _readable(self) -> None:
        sock = self._socket
        if sock is None:
            return
        try:
            piece = sock.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            self._failed(error)
            return
        self._received += piece
        while len(self._received) >= 2:
            end = 2 + int.from_bytes(self._received[:2], "big")
            if len(self._received) < end:
                break
            wire, self._received = self._received[2:end], self._received[end:]
            if self._heard(sock, wire):
                return
        if not piece:
            # The server hung up: at once it is a refusal, within a message rubbish.
            self._end(Unanswered(self.ask.id, "garbage" if self._rubbish or self._received else "refused"))


# ---------------------------------------------------------------- packets


class Unreadable(ValueError):
    """A packet that is no DNS message."""


class Question:
    """A query as a packet, and the reading of what comes back. ValueError for a name that is none."""

    def __init__(self, name: str, kind: str, edns: bool = True) -> None:
        dns = codec()
        self.edns = edns
        if not name.isascii():
            raise ValueError(f"{name!r}: not ASCII")
        try:
            self._query = dns.message.make_query(
                name,
                kind,
                use_edns=0 if edns else False,
                payload=PAYLOAD,
                id=int.from_bytes(os.urandom(2), "big"),
            )
            self.wire: bytes = self._query.to_wire()
        except (dns.exception.DNSException, struct.error) as error:
            raise ValueError(f"{name!r} {kind!r}: {error}") from None

    def answer(self, wire: bytes, id_: int, whole: bool = True) -> Answered | None:
        """The event for a packet; None for one that does not answer this query. Unreadable for rubbish.

        A truncated packet that is not the `whole` story is not read further than its question.
        """
        dns = codec()
        if len(wire) < _HEADER.size:
            raise Unreadable(f"{len(wire)} bytes")
        number, flags, questions, *_ = _HEADER.unpack_from(wire)
        if number != self._query.id or flags & (_QR | _OPCODE) != _QR:
            return None
        truncated = bool(flags & _TC) and not whole
        try:
            message = dns.message.from_wire(wire, question_only=truncated, ignore_trailing=True)
            # A server that cannot read the question repeats none.
            if message.question != self._query.question and (questions or not message.rcode()):
                return None
            if truncated:
                return Answered(id_, "NOERROR", truncated=True)
            rcode = dns.rcode.to_text(message.rcode())
            return Answered(id_, rcode, False, _records(message), _negative_ttl(message))
        except (dns.exception.DNSException, ValueError, struct.error) as error:
            raise Unreadable(str(error)) from None


def _records(message: Any) -> tuple[Record, ...]:
    """The answer section, as far as it can matter, in the server's order."""
    records = []
    for rrset in message.answer:
        kind = _kind(rrset)
        if kind not in TYPES:
            continue
        name = rrset.name.to_text(omit_final_dot=True)
        for rdata in rrset:
            if kind == "CNAME":
                data = rdata.target.to_text(omit_final_dot=True)
            elif kind == "SRV":
                target = rdata.target.to_text(omit_final_dot=True)
                data = f"{rdata.priority} {rdata.weight} {rdata.port} {target}"
            else:
                data = rdata.address
            records.append(Record(name, kind, rrset.ttl, data))
    return tuple(records)


def _negative_ttl(message: Any) -> int:
    """RFC 2308 5: the smaller of the SOA's own TTL and its last field; at least 1, as 0 says "no SOA"."""
    for rrset in message.authority:
        if _kind(rrset) == "SOA":
            return max(1, int(min(rrset.ttl, rrset[0].minimum)))
    return 0


def _kind(rrset: Any) -> str:
    dns = codec()
    return str(dns.rdatatype.to_text(rrset.rdtype)) if rrset.rdclass == dns.rdataclass.IN else ""


_dns: ModuleType | None = None


def codec() -> Any:
    """dnspython's package with dns.message loaded: 6 MiB; dns.resolver would be 2 more.

    Newer versions ask importlib.metadata, at import, whether an IDNA library is there. That module brings
    zipfile, email and pathlib along (3 MiB and 30 ms here, most of a second on a small router); without it
    the answer is "no", which is right: names are in their ASCII form by now.
    """
    global _dns
    if _dns is None:
        with unused("importlib.metadata"):
            import dns.message
            import dns.rcode
        _dns = dns
    return _dns
