"""Netlink: what a kernel of today or tomorrow sends, damaged or not, at the sockets of the ports.

An input is messages with their headers, as a socket delivers them. The one thing made right is the sequence
number, which no other process could guess; and every dump ends, as otherwise each would last until its
time-out.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import socket
import struct
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

from tests.fuzz import scene
from wgrouter.core.messages import ForgetFlows, Observed
from wgrouter.core.model import Hop, Route
from wgrouter.ports import _netlink, _rtnl, _wireguard, doorbell
from wgrouter.ports import conntrack as conntrack_port
from wgrouter.ports._netlink import HEADER, HEADER_SIZE, NLMSG_DONE, NLMSG_ERROR
from wgrouter.ports.kernel import Kernel

NEW = {18: (16,), 22: (20,), 26: (24,), 34: (32,)}  # rtnetlink's answers by what was asked


def message(kind: int, body: bytes, flags: int = 2) -> bytes:
    length = HEADER_SIZE + len(body)
    return HEADER.pack(length, kind, flags, 0, 0) + body + bytes(-length & 3)


def attributes(*kinds: int) -> list[bytes]:
    return [struct.pack("=HH", 8, kind) + bytes(4) for kind in kinds]


WORDS = {
    "rtnetlink": [
        *(message(kind, bytes((2, 24)) + bytes(10)) for kind in (16, 20, 24, 32, NLMSG_DONE)),
        *attributes(1, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 18, 23),
        *(b"\x0a", b"\x02", bytes(16), b"\xff\xff\xff\xff", b"eth1\0", b"\x04\0", b"\0\0"),
    ],
    "wireguard": [
        *attributes(*range(1, 10)),
        *(b"\x08\x80", b"\x09\x80", b"\x24\0\x01\0", b"\x02\0\xca\x6c\xc0\0\x02\x01", b"wg0\0"),
        *(b"public_key=", b"endpoint=", b"allowed_ip=", b"errno=0\n\n", b"[fe80::1%5]:7", b"rx_bytes=",
          b"00"),
        *(b"last_handshake_time_sec=", b"persistent_keepalive_interval=", b"listen_port="),
    ],
    "conntrack": [
        *(message(0x100, b"\2\0\0\0"), *attributes(1, 2, 3, 12, 18), b"\x01\x80", b"\x02\x80", b"\x11",
          b"\xca\x6c"),
    ],
}  # fmt: skip


class Wire:
    """The socket below a netlink Socket: each request is answered with the messages that fit it."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._queue: list[bytes] = []
        self.sent: list[bytes] = []

    def settimeout(self, seconds: float) -> None: ...

    def close(self) -> None: ...

    def recv(self, size: int) -> bytes:
        raise BlockingIOError

    def send(self, request: bytes) -> None:
        self.sent.append(request)
        at = 0
        while at + HEADER_SIZE <= len(request):  # several, of which the last is acknowledged
            length, asked, flags, sequence, _ = HEADER.unpack_from(request, at)
            at += length
        self._queue = []
        if flags & _netlink.NLM_F_DUMP or not flags & _netlink.NLM_F_ACK:
            self._queue = [given(self._data, NEW.get(asked, ()), sequence)]
            self._queue.append(HEADER.pack(HEADER_SIZE + 4, NLMSG_DONE, 2, sequence, 0) + bytes(4))
        else:
            self._queue.append(HEADER.pack(HEADER_SIZE + 4, NLMSG_ERROR, 0, sequence, 0) + bytes(4))

    def recvmsg(self, size: int) -> tuple[bytes, list[Any], int, tuple[int, int]]:
        if not self._queue:
            raise TimeoutError
        return self._queue.pop(0)[:size], [], 0, (0, 0)


def given(data: bytes, kinds: tuple[int, ...], sequence: int) -> bytes:
    """The messages that answer, with their sequence number; damage stays where it is."""
    out = bytearray()
    at = 0
    while at + HEADER_SIZE <= len(data):
        length, kind, flags, _, port = HEADER.unpack_from(data, at)
        end = at + ((max(length, HEADER_SIZE) + 3) & ~3)
        if not kinds or kind in kinds or kind <= NLMSG_DONE:
            out += HEADER.pack(length, kind, flags, sequence, port) + data[at + HEADER_SIZE : end]
        at = end
    return bytes(out) + data[at:]


def on(sock: Any, data: bytes) -> Wire:
    """Put the wire below a Socket of a port."""
    wire = Wire(data)
    sock._sock = wire
    return wire


def unopened(cls: type, **parts: Any) -> Any:
    """An object whose constructor would open a socket of this machine."""
    made = cls.__new__(cls)
    for name, value in parts.items():
        setattr(made, name, value)
    return made


def line() -> Any:
    return unopened(_netlink.Socket, _sequence=0, port_id=7, _sock=None)


# ---------------------------------------------------------------- routes


@functools.cache
def kernel() -> Kernel:
    made = Kernel()
    made._sock.close()
    made._sock = line()
    return made


def rtnetlink(data: bytes) -> None:
    one = kernel()
    wire = on(one._sock, data)
    try:
        net = one.snapshot()
    except OSError as error:
        assert error.errno, error
        net = None
    if net is not None:
        for route in net.routes:
            ipaddress.ip_network(route.dst, strict=False)
            _rtnl.describe_route(route)
        for rule in net.rules:
            _rtnl.describe_rule(rule)
        scene.taken(scene.calm(), Observed(net=net))
        assert one.snapshot() is net  # the same bytes again
        for route in net.routes[:3]:
            change(one, wire, route)
    asked(one, data)
    ring(data)


def change(one: Kernel, wire: Wire, route: Route) -> None:
    """What was read can be written, or is refused in words."""
    try:
        request = _netlink.encoded(one._route(route))
    except OSError:  # pyroute2's own has no errno
        return
    names = {link.index: link.name for link in one._links.values}
    try:
        again = _rtnl.parse_route(request, names)
    except KeyError:
        return
    if again is not None and not route.linkdown and route.table:
        kept = (again.family, again.table, again.metric, again.kind)
        assert kept == (route.family, route.table, _rtnl.identity(route).metric, route.kind), (again, route)


def asked(one: Kernel, data: bytes) -> None:
    """A look-up, and a device's counters."""
    for ask in (lambda: one.lookup(4, "192.0.2.1"), lambda: one.link_rx_bytes("eth1")):
        on(one._sock, data)
        try:
            found = ask()
        except OSError as error:
            assert error.errno, error
            continue
        assert found is None or isinstance(found, Hop | int)


def ring(data: bytes) -> None:
    bell = unopened(doorbell.Doorbell, _own=frozenset({7}), _buffer=bytearray(doorbell.READ_SIZE))
    size = min(len(data), doorbell.READ_SIZE)
    bell._buffer[:size] = data[:size]
    assert bell._matters(size) in (True, False)
    assert unopened(doorbell.TableBell, _needle=b"wgrouter\0")._matters(data) in (True, False)


# ---------------------------------------------------------------- WireGuard


@functools.cache
def device() -> _wireguard.KernelDevices:
    return unopened(_wireguard.KernelDevices, _sock=line(), _family=30, _allowed={}, _allowed_now={})


def wireguard(data: bytes) -> None:
    for answer in (from_kernel(data), from_process(data)):
        if answer is None:
            continue
        assert 0 <= answer.device.listen_port < 1 << 16 and 0 <= answer.device.fwmark < 1 << 32
        for peer in answer.device.peers.values():
            assert 0 <= peer.keepalive < 1 << 16 and peer.rx_bytes >= 0 <= peer.tx_bytes
            assert len(_wireguard.key_bytes(peer.public_key)) == _wireguard.KEY_SIZE
            if peer.endpoint is not None:
                scope = answer.scopes.get(peer.public_key, ("", 0))[1]
                there(peer.endpoint, scope)
        scene.taken(scene.calm(), Observed(wireguard={"wg0": answer.device}))


def there(endpoint: Any, scope: int | str) -> None:
    """An endpoint that was read can be set."""
    if isinstance(scope, int):
        back, again = _wireguard._endpoint(_wireguard._sockaddr(endpoint, scope))
        assert back == endpoint and (again == scope or endpoint.family == 4), (endpoint, back)
    assert _wireguard._zoned(endpoint, str(scope or ""))


def from_kernel(data: bytes) -> _wireguard.Answer | None:
    one = device()
    on(one._sock, data)
    try:
        return one.get("wg0")
    except OSError as error:
        assert error.errno, error
        return None
    finally:
        one.forget_unused()


class Process:
    """A socket as wireguard-go has it; says `answer` to whoever asks."""

    def __init__(self) -> None:
        self.answer = b""
        self._directory = tempfile.TemporaryDirectory(prefix="wgrouter-fuzz-")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{self._directory.name}/wg0.sock")
        self._listener.listen()
        self.devices = _wireguard.ProcessDevices(self._directory.name)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            client, _ = self._listener.accept()
            with client, contextlib.suppress(OSError):
                client.recv(64)
                client.sendall(self.answer)


@functools.cache
def process() -> Process:
    return Process()


def from_process(data: bytes) -> _wireguard.Answer | None:
    """All after the first empty line, as wireguard-go would send it."""
    there = process()
    there.answer = data.partition(b"\n\n")[2].replace(b"\n\n", b"\n") + b"\n\n"
    try:
        return there.devices.get("wg0", 5.0)
    except OSError as error:
        assert error.errno, error
        return None


# ---------------------------------------------------------------- connections

FLOWS = (
    ForgetFlows(local_port=51820),
    ForgetFlows(local_port=51820, remote="192.0.2.1"),
    ForgetFlows(remote="2001:db8::1", protocol=0),
    ForgetFlows(local_address="203.0.113.3"),
)


@functools.cache
def tracker() -> Any:
    return unopened(conntrack_port.Conntrack, _sock=line(), _addresses=line())


def conntrack(data: bytes) -> None:
    """What is deleted is what was dumped, by its whole tuple, and never everything."""
    one = tracker()
    for flows in FLOWS:
        wire = on(one._sock, data)
        on(one._addresses, data)
        try:
            deleted = one.forget(flows)
        except OSError as error:
            assert error.errno, error
            continue
        assert 0 <= deleted <= data.count(b"\x01") * 4
        for request in wire.sent:
            for body in deletions(request):
                seen = _netlink.attributes(body, conntrack_port.NFGENMSG.size)
                tuple_ = seen[conntrack_port.CTA_TUPLE_ORIG]
                assert tuple_ in data and conntrack_port._direction(tuple_, 4 if body[0] == 2 else 6)


def deletions(request: bytes) -> Iterator[bytes]:
    at = 0
    while at + HEADER_SIZE <= len(request):
        length, kind, _, _, _ = HEADER.unpack_from(request, at)
        if kind == conntrack_port.CT_DELETE:
            yield request[at + HEADER_SIZE : at + length]
        at += length
