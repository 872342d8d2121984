"""Whether a neighbour (the gateway) answers on the link itself: ARP over IPv4, neighbour solicitation over
IPv6.

Touches packet and raw sockets, one per device and family. It proves the last cable, not the Internet.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable

from wgrouter.core.messages import Probe
from wgrouter.ports._probe_loop import (
    SO_TIMESTAMPNS,
    Loop,
    attach_filter,
    hold,
    place,
    received_ns,
    round_trip,
    wall_ns,
)

ETH_P_ARP = 0x0806
ARP_REQUEST, ARP_REPLY = 1, 2
SOLICITATION, ADVERTISEMENT = 135, 136  # RFC 4861
ICMP6_FILTER = 1
SIOCGIFADDR = 0x8915
SIOCGIFHWADDR = 0x8927
ARPHRD_ETHER = 1
BATCH = 64
UNREAD = 10.0  # seconds that an answer may lie in the socket before this process comes to read it

Answer = Callable[[int, float], None]  # probe id, round trip in seconds


class Neighbours:
    """Asks neighbours for their link-layer address and tells who answered."""

    def __init__(self, loop: Loop, answer: Answer) -> None:
        self._loop = loop
        self._answer = answer
        self._sockets: dict[tuple[bool, str], socket.socket] = {}
        self._waiting: dict[tuple[str, bytes], list[tuple[int, int, float, float]]] = {}

    def send(self, probe: Probe) -> None:
        """Ask once. OSError: it could not be sent."""
        v6 = ":" in probe.target
        wanted = socket.inet_pton(socket.AF_INET6 if v6 else socket.AF_INET, probe.target)
        key = (v6, probe.device)
        for attempt in (1, 2):
            try:
                sock = self._sockets.get(key) or self._open(key, probe)
                now = self._loop.now()
                sent_ns = wall_ns()
                if v6:
                    _solicit(sock, probe, wanted)
                else:
                    _request(sock, probe, wanted)
                break
            except OSError:
                self._close(key)  # the device may be a new one of the same name
                if attempt == 2:
                    raise
        waiting = self._waiting.setdefault((probe.device, wanted), [])
        waiting[:] = [entry for entry in waiting if entry[2] + entry[3] + UNREAD >= now]
        waiting.append((probe.id, sent_ns, now, probe.timeout))

    def close(self) -> None:
        for key in list(self._sockets):
            self._close(key)

    def _open(self, key: tuple[bool, str], probe: Probe) -> socket.socket:
        sock = _socket6(probe) if key[0] else _socket4(probe)
        self._sockets[key] = sock
        self._loop.watch(sock.fileno(), lambda: self._ready(sock, key))
        return sock

    def _close(self, key: tuple[bool, str]) -> None:
        sock = self._sockets.pop(key, None)
        if sock is not None:
            self._loop.unwatch(sock.fileno())
            sock.close()

    def _ready(self, sock: socket.socket, key: tuple[bool, str]) -> None:
        for _ in range(BATCH):
            try:
                data, ancillary, _, _ = sock.recvmsg(256, 64)
            except OSError:  # nothing left, or the device went down: reading has cleared it
                return
            sender = _advertised(data) if key[0] else _replied(data)
            now = self._loop.now()
            for id, sent_ns, sent, timeout in self._waiting.pop((key[1], sender), []):
                rtt = round_trip(sent_ns, received_ns(ancillary), now - sent)
                if rtt <= timeout:  # however late this process comes to read it
                    self._answer(id, rtt)


def _socket4(probe: Probe) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, socket.htons(ETH_P_ARP))
    try:
        # ldh [6]: the operation; replies only
        attach_filter(sock, [(0x28, 0, 0, 6), (0x15, 0, 1, ARP_REPLY), (0x06, 0, 0, 0xFFFF), (0x06, 0, 0, 0)])
    except ImportError:
        pass
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        sock.bind((probe.device, ETH_P_ARP))
    except OSError:
        sock.close()
        raise
    return sock


def _request(sock: socket.socket, probe: Probe, wanted: bytes) -> None:
    hardware = sock.getsockname()[4]
    source = socket.inet_aton(probe.source) if probe.source else _own_address(sock, probe.device)
    packet = struct.pack("!HHBBH", 1, 0x0800, len(hardware), 4, ARP_REQUEST)
    packet += hardware + source + bytes(len(hardware)) + wanted
    sock.sendto(packet, (probe.device, ETH_P_ARP, 0, 0, b"\xff" * len(hardware)))


def _own_address(sock: socket.socket, device: str) -> bytes:
    """The device's first IPv4 address; 0.0.0.0 (an ARP probe, RFC 5227) without one."""
    import fcntl

    request = struct.pack("16sH14x8x", os.fsencode(device)[:15], socket.AF_INET)
    try:
        return bytes(fcntl.ioctl(sock.fileno(), SIOCGIFADDR, request)[20:24])
    except OSError:
        return bytes(4)


def _replied(data: bytes) -> bytes:
    """The sender's IPv4 address of an ARP reply, empty for anything else."""
    if len(data) < 8 or struct.unpack_from("!H", data, 6)[0] != ARP_REPLY:
        return b""
    start = 8 + data[4]
    return data[start : start + 4]


def _socket6(probe: Probe) -> socket.socket:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMPV6)
    try:
        words = [0xFFFFFFFF] * 8
        words[ADVERTISEMENT >> 5] &= ~(1 << (ADVERTISEMENT & 31))
        sock.setsockopt(socket.IPPROTO_ICMPV6, ICMP6_FILTER, struct.pack("=8I", *words))
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)  # or it is ignored (RFC 4861)
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        hold(sock, probe)
    except OSError:
        sock.close()
        raise
    return sock


def _solicit(sock: socket.socket, probe: Probe, wanted: bytes) -> None:
    group = socket.inet_ntop(socket.AF_INET6, bytes.fromhex("ff0200000000000000000001ff") + wanted[13:])
    packet = struct.pack("!BBHI", SOLICITATION, 0, 0, 0) + wanted
    hardware = _hardware(sock, probe.device)
    if hardware:
        packet += (
            b"\x01\x01" + hardware
        )  # the source link-layer address, so that the answer is unicast at once
    scope = socket.if_nametoindex(probe.device)
    address = place(socket.AF_INET6, group, 0, "")
    sock.sendto(packet, (address[0], 0, 0, scope))


def _hardware(sock: socket.socket, device: str) -> bytes:
    """The device's Ethernet address, empty if it has none. (Not from /sys, which may be another
    namespace's.)
    """
    import fcntl

    try:
        answer = fcntl.ioctl(sock.fileno(), SIOCGIFHWADDR, struct.pack("16s24x", os.fsencode(device)[:15]))
    except OSError:
        return b""
    kind = struct.unpack_from("=H", answer, 16)[0]
    return bytes(answer[18:24]) if kind == ARPHRD_ETHER else b""


def _advertised(data: bytes) -> bytes:
    """The target of a neighbour advertisement, empty for anything else."""
    return data[8:24] if len(data) >= 24 and data[0] == ADVERTISEMENT else b""
