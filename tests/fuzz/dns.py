"""DNS: what a server, or whoever pretends to be one, sends to the socket of a query.

The first two bytes are where a message has its id. They choose here what is asked, and how, and the query's
own id is put in their place: nobody would get further without guessing it.
"""

from __future__ import annotations

import functools
import ipaddress
import socket
import struct

from tests.fuzz import scene
from tests.ports.turning import Turning
from wgrouter.core.messages import Answered, Ask, Event, Unanswered
from wgrouter.ports import nameserver
from wgrouter.ports.nameserver import Question

TYPES = ("A", "AAAA", "SRV")
EDNS, TCP, FOREIGN, CHOPPED, TWICE = 1, 2, 4, 8, 16  # bits of the second byte

QUESTIONS = {kind: Question(scene.HOST if kind != "SRV" else scene.SERVICE, kind).wire for kind in TYPES}
WORDS = {
    "dns": [
        *(struct.pack("!HHIH", kind, 1, 60, size) for kind, size in ((1, 4), (28, 16), (5, 2), (33, 8), (6,
          22))),
        *(b"\xc0\x0c", b"\xc0\x00", b"\x03vpn\x07example\x03net\x00",
          b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00"),
        *(wire[12:-11] for wire in QUESTIONS.values()),
        *(b"\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00", b"\x83\x80", b"\x81\x83", b"\x81\x81",
          b"\x7f\xff\xff\xff"),
    ]
}  # fmt: skip


class Datagram(nameserver._Datagram):
    """A query over a pair of sockets: all of it real but the network."""

    pair = socket.SOCK_DGRAM

    def _connected(self) -> socket.socket:
        ours, self.theirs = socket.socketpair(socket.AF_UNIX, self.pair)
        for one in (ours, self.theirs):
            one.setblocking(False)
        return ours


class Stream(nameserver._Stream):
    pair = socket.SOCK_STREAM
    _connected = Datagram._connected


@functools.cache
def loop() -> Turning:
    return Turning()


def dns(data: bytes) -> None:
    if len(data) < 2:
        return
    state, asks = scene.asking()
    first, bits = data[0], data[1]
    ask = asks[TYPES[first % 3]]
    turning, events = loop(), []
    kind = Stream if bits & TCP else Datagram
    query = kind(turning, Ask(ask.id, ask.name, ask.type, ask.server, 5.0, bool(bits & TCP)),
                 lambda _, event: events.append(event))  # fmt: skip
    query.begin()
    assert query._question is not None and not events
    if not bits & EDNS:
        query._question = Question(ask.name, ask.type, edns=False)
    question = query._question
    number = question._query.id ^ (1 if bits & FOREIGN else 0)
    wire = number.to_bytes(2, "big") + data[2:]
    try:
        turning.turn()
        for piece in pieces(wire, bits):
            if not events:
                query.theirs.send(piece)
                turning.turn()
        if not events and kind is Stream:
            query.theirs.shutdown(socket.SHUT_WR)
            turning.turn()
            turning.turn()
        if not events:
            query._expired()
    finally:
        query.close()
        query.theirs.close()
        assert not turning.watched
        turning.events.clear()
        turning.timers.clear()
    (event,) = events
    judged(event, ask, state, bits)


def pieces(wire: bytes, bits: int) -> list[bytes]:
    if not bits & TCP:
        return [wire, wire] if bits & TWICE else [wire]
    framed = len(wire).to_bytes(2, "big") + wire
    framed = framed * 2 if bits & TWICE else framed
    return [framed[:1], framed[1:9], framed[9:]] if bits & CHOPPED else [framed]


def judged(event: Event, ask: Ask, state: object, bits: int) -> None:
    assert isinstance(event, Answered | Unanswered) and event.id == ask.id
    assert not (bits & FOREIGN and isinstance(event, Answered)), event
    if isinstance(event, Answered):
        assert 0 <= event.negative_ttl < 1 << 32
        for record in event.records:
            assert record.type in nameserver.TYPES and 0 <= record.ttl < 1 << 32
            if record.type in ("A", "AAAA"):
                ipaddress.ip_address(record.data)
    scene.taken(state, event)  # type: ignore[arg-type]
