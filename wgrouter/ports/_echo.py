"""ICMP and ICMPv6 echo by one raw socket per device, family, mark and source; thousands of probes share it.

Touches raw sockets. The kernel drops what is not an echo reply to our identifier before it wakes us, and
stamps arrivals, so a busy loop does not lengthen a round trip. Raw and not SOCK_DGRAM:
net.ipv4.ping_group_range refuses the latter even to root by default.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from itertools import islice

from wgrouter.core.messages import Probe
from wgrouter.core.records import dataclass
from wgrouter.ports._probe_loop import (
    SO_TIMESTAMPNS,
    Loop,
    attach_filter,
    family_of,
    hold,
    place,
    received_ns,
    round_trip,
    wall_ns,
)

ECHO_REQUEST, ECHO_REPLY = 8, 0
ECHO_REQUEST6, ECHO_REPLY6 = 128, 129
ICMP_FILTER = 1  # of SOL_RAW and of IPPROTO_ICMPV6 alike
SOL_RAW = 255
BATCH = 64  # replies read in one turn
UNREAD = 10.0  # seconds that an answer may lie in the socket before this process comes to read it
IDLE = 300.0  # seconds: a socket of a device that is not asked any more is closed
CHANNELS_MAX = 64

Key = tuple[int, str, int, str]  # family, device, mark, source
Answer = Callable[[int, float], None]  # probe id, round trip in seconds


@dataclass(slots=True)
class _Waiting:
    id: int
    target: str
    sent_ns: int  # wall clock
    sent: float  # the loop's clock
    timeout: float


class Echo:
    """Sends echo requests and matches replies. `answer` is called for each one that is in time."""

    def __init__(self, loop: Loop, answer: Answer) -> None:
        self._loop = loop
        self._answer = answer
        self._channels: dict[Key, _Channel] = {}
        self._identifier = int.from_bytes(os.urandom(2), "big")
        self._token = os.urandom(8)  # replies to somebody else with our identifier are not ours

    def send(self, probe: Probe) -> None:
        """Send one. OSError: it could not be sent."""
        key = (int(family_of(probe)), probe.device, probe.mark, probe.source)
        channel = self._channels.get(key)
        if channel is not None:
            try:
                return channel.send(probe)
            except OSError:
                # The device may have gone and come back with another index: a new socket finds it.
                self._close(key)
        channel = self._open(key, probe)
        channel.send(probe)

    def _open(self, key: Key, probe: Probe) -> _Channel:
        self._sweep()
        channel = _Channel(self._loop, probe, self._identifier, self._token, self._answer)
        self._channels[key] = channel
        self._loop.watch(channel.sock.fileno(), channel.ready)
        return channel

    def _close(self, key: Key) -> None:
        channel = self._channels.pop(key)
        self._loop.unwatch(channel.sock.fileno())
        channel.sock.close()

    def _sweep(self) -> None:
        now = self._loop.now()
        old = sorted(self._channels, key=lambda key: self._channels[key].used)
        excess = len(old) - CHANNELS_MAX + 1
        for place_, key in enumerate(old):
            if place_ < excess or now - self._channels[key].used > IDLE:
                self._close(key)

    def close(self) -> None:
        for key in list(self._channels):
            self._close(key)


class _Channel:
    def __init__(self, loop: Loop, probe: Probe, identifier: int, token: bytes, answer: Answer) -> None:
        self._loop = loop
        self._answer = answer
        self._identifier = identifier
        self._token = token
        self._sequence = 0
        self._waiting: dict[int, _Waiting] = {}  # by sequence, oldest first
        self._v6 = family_of(probe) == socket.AF_INET6
        self.used = loop.now()
        protocol = socket.IPPROTO_ICMPV6 if self._v6 else socket.IPPROTO_ICMP
        self.sock = socket.socket(family_of(probe), socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
        try:
            self._narrow()
            self.sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            hold(self.sock, probe)
        except OSError:
            self.sock.close()
            raise

    def _narrow(self) -> None:
        """Let through echo replies with our identifier only."""
        if self._v6:
            words = [0xFFFFFFFF] * 8
            words[ECHO_REPLY6 >> 5] &= ~(1 << (ECHO_REPLY6 & 31))  # a set bit blocks
            self.sock.setsockopt(socket.IPPROTO_ICMPV6, ICMP_FILTER, struct.pack("=8I", *words))
            load = [(0x28, 0, 0, 4)]  # ldh [4]: the filter of a raw IPv6 socket sees the ICMPv6 header first
        else:
            self.sock.setsockopt(SOL_RAW, ICMP_FILTER, struct.pack("=I", 0xFFFFFFFF & ~(1 << ECHO_REPLY)))
            load = [(0xB1, 0, 0, 0), (0x48, 0, 0, 4)]  # ldx 4*([0]&0xf); ldh [x+4]: IPv4 sees the IP header
        keep = [(0x15, 0, 1, self._identifier), (0x06, 0, 0, 0xFFFF), (0x06, 0, 0, 0)]
        try:
            attach_filter(self.sock, load + keep)
        except ImportError:
            pass  # without ctypes each reply is looked at here instead

    def send(self, probe: Probe) -> None:
        now = self._loop.now()
        self.used = now
        self._expire(now)
        self._sequence = (self._sequence + 1) & 0xFFFF
        kind = ECHO_REQUEST6 if self._v6 else ECHO_REQUEST
        body = self._token + struct.pack("!q", probe.id)
        packet = struct.pack("!BBHHH", kind, 0, 0, self._identifier, self._sequence) + body
        if not self._v6:  # the kernel fills in the checksum of ICMPv6 only
            packet = packet[:2] + struct.pack("!H", checksum(packet)) + packet[4:]
        self._waiting[self._sequence] = _Waiting(probe.id, probe.target, wall_ns(), now, probe.timeout)
        try:
            self.sock.sendto(packet, place(self.sock.family, probe.target, 0, probe.device))
        except OSError:
            del self._waiting[self._sequence]
            raise

    def ready(self) -> None:
        for _ in range(BATCH):
            try:
                data, ancillary, _, _ = self.sock.recvmsg(256, 64)
            except BlockingIOError:
                return
            except OSError:
                return  # ENETDOWN and the like: reading has cleared it, the probes will be missed
            self._take(data, ancillary)

    def _take(self, data: bytes, ancillary: list[tuple[int, int, bytes]]) -> None:
        if not self._v6:
            data = data[(data[0] & 0x0F) * 4 :] if data else b""
        if (
            len(data) < 24
            or data[0] != (ECHO_REPLY6 if self._v6 else ECHO_REPLY)
            or data[8:16] != self._token
        ):
            return
        identifier, sequence = struct.unpack_from("!HH", data, 4)
        waiting = self._waiting.get(sequence) if identifier == self._identifier else None
        if waiting is None or struct.unpack_from("!q", data, 16)[0] != waiting.id:
            return
        del self._waiting[sequence]
        rtt = round_trip(waiting.sent_ns, received_ns(ancillary), self._loop.now() - waiting.sent)
        if rtt <= waiting.timeout:  # however late this process comes to read it
            self._answer(waiting.id, rtt)

    def _expire(self, now: float) -> None:
        """The oldest first, as far as they have: not all of them are looked at with each probe sent."""
        for sequence, waiting in list(islice(self._waiting.items(), BATCH)):
            if waiting.sent + waiting.timeout + UNREAD >= now:
                break
            del self._waiting[sequence]


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return int(~(total + (total >> 16)) & 0xFFFF)
