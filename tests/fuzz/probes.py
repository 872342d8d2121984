"""Answers to probes, and small texts of the system. The first byte of an input says which."""

from __future__ import annotations

import errno
import functools
import ipaddress
import os
import socket
import struct
import tempfile
from typing import Any

from tests.fuzz import scene
from tests.fuzz.netlink import unopened
from tests.ports.turning import Turning
from wgrouter.core import balance
from wgrouter.core.messages import Observed, Probe
from wgrouter.ports import _counters, _echo, _neighbour, _probe_loop, _streams, hardware, nft, resolvconf

TOKEN = b"8 octets"
IDENTIFIER = 0x1234
HTTP = Probe(1, "http", "192.0.2.1", "eth1", 1.0, 80, "portal.example/generate_204")

WORDS = {
    "probes": [
        *(TOKEN, struct.pack("!HH", IDENTIFIER, 1), struct.pack("!q", 1), b"\x45" + bytes(19), b"\x81\0",
          b"\0\2"),
        *(b"HTTP/1.1 204", b"HTTP/1.0 302 Found\r\n", b"\r\n", b"\x88\0", b"\x08\x00\x06\x04\x00\x02"),
    ],
    "text": [
        *(b"nameserver ", b"# Interface ", b"192.0.2.1", b"fe80::1%", b"\n", b"eth1:",
          b" 1 2 3 4 5 6 7 8 9 10 11"),
        *(b"table inet wgrouter {", b"# wgrouter ", b"flush ruleset", b"include ", b"table ip other",
          b"\xff"),
    ],
}  # fmt: skip


@functools.cache
def loop() -> Turning:
    return Turning()


def probes(data: bytes) -> None:
    which, rest = (data[:1] or b"\0")[0] % 6, data[1:]
    if which < 2:
        echo(rest, which == 1)
    elif which == 2:
        assert len(_neighbour._replied(rest)) <= 4
        assert len(_neighbour._advertised(rest)) in (0, 16)
    elif which == 3:
        assert _streams.is_answer(rest, IDENTIFIER) in (True, False)
        _probe_loop.received_ns([(socket.SOL_SOCKET, _probe_loop.SO_TIMESTAMPNS, rest)])
    else:
        stream(rest, "http" if which == 4 else "dns-tcp")


def echo(data: bytes, v6: bool) -> None:
    answered: list[tuple[int, float]] = []
    waiting = {1: _echo._Waiting(1, "192.0.2.1", 0, loop().now(), 5.0)}
    channel: Any = unopened(
        _echo._Channel,
        _loop=loop(),
        _answer=lambda id, rtt: answered.append((id, rtt)),
        _identifier=IDENTIFIER,
        _token=TOKEN,
        _waiting=waiting,
        _v6=v6,
    )
    channel._take(data, [])
    assert not answered or (answered[0][0] == 1 and TOKEN in data and answered[0][1] >= 0)


def stream(data: bytes, method: str) -> None:
    """A probe over TCP, whose far end sends this and hangs up."""
    ended: list[tuple[float | None, str]] = []
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    flight: Any = unopened(
        _streams._Flight,
        probe=HTTP,
        _loop=loop(),
        _tls=None,
        _end=lambda _, rtt, reason: ended.append((rtt, reason)),
        _sent=loop().now(),
        _received=b"",
        _query_id=IDENTIFIER,
        _timer=None,
        _udp=False,
        _sock=ours,
    )
    flight._step = flight._read_http if method == "http" else flight._read_dns
    try:
        theirs.sendall(data)
        theirs.close()
        for _ in range(len(data) // _streams.READ + 2):
            if not ended:
                flight._ready()
    finally:
        flight.close()
    ((rtt, reason),) = ended
    assert rtt is not None or reason
    reason.encode()


# ---------------------------------------------------------------- texts


def text(data: bytes) -> None:
    which, rest = (data[:1] or b"\0")[0] % 4, data[1:]
    said = rest.decode("utf-8", "replace")
    if which == 0:
        servers = resolvconf.parse(said)
        for server in servers:
            ipaddress.ip_address(server.address)
        scene.taken(scene.calm(), Observed(nameservers=servers))
    elif which == 1:
        try:
            received, sent = _counters.packets(said, "eth1")
        except OSError as error:
            assert error.errno, error
        else:
            assert isinstance(received, int) and isinstance(sent, int)
    elif which == 2:
        ruleset(said)
    else:
        machine(rest)


def ruleset(said: str) -> None:
    """`nft list` of our table, which anybody may have changed; and a text that claims to be ours."""
    scene.taken(scene.calm(), Observed(nft=balance.digest(said) or nft.UNKNOWN))
    try:
        kept = nft._guarded(said)
    except OSError as error:
        assert error.errno == errno.EINVAL
    else:
        assert kept == said


@functools.cache
def place() -> tempfile.TemporaryDirectory[str]:
    directory = tempfile.TemporaryDirectory(prefix="wgrouter-fuzz-")
    os.makedirs(f"{directory.name}/eth0/device")
    return directory


def machine(data: bytes) -> None:
    """/sys/class/net/eth0/address."""
    with open(f"{place().name}/eth0/address", "wb") as file:
        file.write(data)
    found = hardware.mac(place().name)
    assert found == "" or (len(found) == 12 and int(found, 16))
