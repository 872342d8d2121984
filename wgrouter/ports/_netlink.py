"""What the netlink ports share: a bounded socket, attributes, and a lean way to pyroute2's message codecs.

Touches AF_NETLINK sockets only. Knows no policy and no message of its own but device names (`devices`).

What we read on every look is parsed with struct, what we change is encoded by pyroute2. Measured on x86-64
with Python 3.11 (a router is 10-30 times slower):

| pyroute2                                            | 0.7.9             | 0.9.7                      |
|-----------------------------------------------------|-------------------|----------------------------|
| `from pyroute2 import IPRoute`: memory, time        | +20.8 MiB, 132 ms | +19.3 MiB, 163 ms          |
| its WireGuard module, the package emptied as below  | +2.1 MiB, 23 ms   | +10.1 MiB (asyncio), 77 ms |
| its route and rule codecs, as below: what is used   | +0.5 MiB, 4 ms    | +0.9 MiB, 7 ms             |
| to decode a dump of 1,000 routes (struct: 1.4 ms)   | 63 ms             | 68 ms                      |
| all five ports that use this: memory                | +1.3 MiB          | +1.3 MiB                   |
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import importlib.util
import os
import socket
import struct
import sys
import types
from collections.abc import Iterator
from typing import Any, Final

# linux/netlink.h
NLM_F_REQUEST: Final = 0x1
NLM_F_ACK: Final = 0x4
NLM_F_DUMP_INTR: Final = 0x10
NLM_F_CAPPED: Final = 0x100
NLM_F_ACK_TLVS: Final = 0x200
NLM_F_REPLACE: Final = 0x100
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400
NLM_F_DUMP: Final = 0x300
NLMSG_NOOP: Final = 1
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
NLMSGERR_ATTR_MSG: Final = 1
NLA_F_NESTED: Final = 0x8000
NLA_TYPE_MASK: Final = 0x3FFF
SOL_NETLINK: Final = 270
NETLINK_ROUTE: Final = 0
NETLINK_NETFILTER: Final = 12
NETLINK_GENERIC: Final = 16
NETLINK_CAP_ACK: Final = 10
NETLINK_EXT_ACK: Final = 11
NETLINK_GET_STRICT_CHK: Final = 12

HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
HEADER_SIZE: Final = HEADER.size
ATTRIBUTE: Final = struct.Struct("=HH")  # nlattr: length, type
U32: Final = struct.Struct("=I")
ERROR: Final = struct.Struct("=i")

RECEIVE_SIZE: Final = 1 << 16  # the kernel fills at most 32 KiB per read of a dump
ERRNO_MAX: Final = 4095  # MAX_ERRNO of linux/err.h
DUMP_TRIES: Final = 5  # of a dump that a change interrupted
TIMEOUT_S: Final = 1.0  # one wait for the kernel: it answers in microseconds, unless the rtnl lock is held


def codec(*modules: str) -> tuple[types.ModuleType, ...]:
    """Import modules of pyroute2 without running the eager pyroute2/__init__, which costs 20 MiB and 130 ms.

    An empty package stands in for it while they load, and is taken away again: whoever imports pyroute2 later
    gets the real one. If a version minds, the real one is imported instead. ImportError without pyroute2.
    """
    if "pyroute2" in sys.modules:
        return tuple(map(importlib.import_module, modules))
    spec = importlib.util.find_spec("pyroute2")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("pyroute2 is not installed (package python3-pyroute2)")
    before = set(sys.modules)
    empty = types.ModuleType("pyroute2")
    empty.__path__ = list(spec.submodule_search_locations)
    sys.modules["pyroute2"] = empty
    try:
        return tuple(map(importlib.import_module, modules))
    except (ImportError, AttributeError):
        for name in set(sys.modules) - before:
            if name.startswith("pyroute2."):
                del sys.modules[name]
        del sys.modules["pyroute2"]
        return tuple(map(importlib.import_module, modules))
    finally:
        if sys.modules.get("pyroute2") is empty:
            del sys.modules["pyroute2"]


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return ATTRIBUTE.pack(4 + len(data), kind) + data + bytes(-len(data) & 3)


def nested(kind: int, *attributes: bytes) -> bytes:
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def attributes(data: bytes, start: int = 0, end: int | None = None) -> dict[int, bytes]:
    """Attributes by type (the last of a type wins). A length that makes no sense ends the list."""
    found = {}
    end = len(data) if end is None else end
    while start + 4 <= end:
        length, kind = ATTRIBUTE.unpack_from(data, start)
        if length < 4 or start + length > end:
            break
        found[kind & NLA_TYPE_MASK] = data[start + 4 : start + length]
        start += (length + 3) & ~3
    return found


def each_attribute(data: bytes, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """The same in order, for lists."""
    end = len(data)
    while start + 4 <= end:
        length, kind = ATTRIBUTE.unpack_from(data, start)
        if length < 4 or start + length > end:
            break
        yield kind & NLA_TYPE_MASK, data[start + 4 : start + length]
        start += (length + 3) & ~3


def text(data: bytes) -> str:
    """A NUL-terminated name. Device names may hold any byte: surrogates keep them apart."""
    return data.partition(b"\0")[0].decode("utf-8", "surrogateescape")


class Refused(OSError):
    """The kernel's no. `words`: what it says beyond errno; of a malformed request it always says some."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(code, f"{os.strerror(code)} ({words})" if words else os.strerror(code))
        self.words = words


class Interrupted(OSError):
    """The table changed while it was read."""


class Socket:
    """A netlink socket of one protocol, for requests and their answers. Not for multicast.

    Lives in the network namespace of the thread that made it. OSError from every method: the kernel's refusal
    with its own words where it gives some (NETLINK_EXT_ACK), ETIMEDOUT after TIMEOUT_S without an answer.
    """

    def __init__(self, protocol: int, *, strict: bool = False) -> None:
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._sock.settimeout(TIMEOUT_S)
        self._sock.bind((0, 0))
        self.port_id: int = self._sock.getsockname()[0]  # the sender's address in what others are notified of
        self._sequence = 0
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK, *((NETLINK_GET_STRICT_CHK,) if strict else ())):
            with contextlib.suppress(OSError):  # older kernels: fewer words, dumps that filter nothing
                self._sock.setsockopt(SOL_NETLINK, option, 1)

    def close(self) -> None:
        self._sock.close()

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """Every message of a dump, without its header. Read again if a change came between."""
        for _ in range(DUMP_TRIES):
            try:
                return self._exchange(kind, NLM_F_REQUEST | NLM_F_DUMP, body)
            except Interrupted:
                continue
            except (
                Refused
            ) as error:  # EBUSY: a dump before this one ended in an error, and was not read to its end
                if error.errno != errno.EBUSY:
                    raise
                self._drain()
        raise OSError(errno.EAGAIN, f"the table changed during each of {DUMP_TRIES} reads")

    def request(self, kind: int, body: bytes) -> bytes:
        """The one message that answers; it is the acknowledgement, too."""
        answers = self._exchange(kind, NLM_F_REQUEST, body, single=True)
        if not answers:
            raise OSError(errno.EBADMSG, "the kernel acknowledges a question, and does not answer it")
        return answers[0]

    def change(self, kind: int, body: bytes, flags: int = 0) -> None:
        """Ask for a change and wait until the kernel says it is made."""
        self._exchange(kind, NLM_F_REQUEST | NLM_F_ACK | flags, body)

    def changes(self, kind: int, bodies: list[bytes]) -> dict[int, int]:
        """Many changes in one system call: errno by index, of those that were refused.

        Only the last one is acknowledged: the kernel works in order, so what it refuses is told before that.
        """
        first = self._sequence + 1
        last = self._sequence = self._sequence + len(bodies)
        requests = []
        for sequence, body in enumerate(bodies, first):
            flags = NLM_F_REQUEST | (NLM_F_ACK if sequence == last else 0)
            requests.append(HEADER.pack(HEADER_SIZE + len(body), kind, flags, sequence, 0) + body)
        self._sock.send(b"".join(requests))
        refused: dict[int, int] = {}
        while True:
            for reply, _, sequence, payload in self._receive():
                if reply != NLMSG_ERROR or not first <= sequence <= last:
                    continue
                code = -_code(payload)
                if code:
                    refused[sequence - first] = code
                if sequence == last:
                    return refused

    def _drain(self) -> None:
        """Read what an earlier request left, however much: reading makes the kernel go on with its dump."""
        self._sock.settimeout(0)
        try:
            while self._sock.recv(RECEIVE_SIZE):
                pass
        except BlockingIOError:
            pass
        finally:
            self._sock.settimeout(TIMEOUT_S)

    def _exchange(self, kind: int, flags: int, body: bytes, *, single: bool = False) -> list[bytes]:
        self._sequence += 1
        self._sock.send(HEADER.pack(HEADER_SIZE + len(body), kind, flags, self._sequence, 0) + body)
        answers: list[bytes] = []
        interrupted = False
        while True:
            for reply, reply_flags, sequence, payload in self._receive():
                if sequence != self._sequence:  # what a request that timed out left behind
                    continue
                if reply_flags & NLM_F_DUMP_INTR and flags & NLM_F_DUMP == NLM_F_DUMP:
                    interrupted = True
                if reply in (NLMSG_ERROR, NLMSG_DONE):
                    code = _code(payload)
                    if code < 0:
                        raise Refused(-code, _words(reply, reply_flags, payload))
                    if interrupted:
                        raise Interrupted(errno.EAGAIN, "interrupted")
                    return answers
                if reply > NLMSG_DONE:
                    answers.append(payload)
                    if single:
                        return answers

    def _receive(self) -> list[tuple[int, int, int, bytes]]:
        """(type, flags, sequence, payload) of the messages of one read."""
        try:
            data, _, read_flags, sender = self._sock.recvmsg(RECEIVE_SIZE)
        except TimeoutError as error:
            raise TimeoutError(errno.ETIMEDOUT, f"no answer from the kernel in {TIMEOUT_S:g} s") from error
        if sender[0] != 0:  # another process may send to us; only the kernel is believed
            return []
        if read_flags & socket.MSG_TRUNC:
            raise OSError(errno.EMSGSIZE, f"a netlink message is larger than {RECEIVE_SIZE} bytes")
        messages = []
        start, end = 0, len(data)
        while start + HEADER_SIZE <= end:
            length, kind, flags, sequence, _ = HEADER.unpack_from(data, start)
            if length < HEADER_SIZE or start + length > end:
                raise OSError(errno.EBADMSG, f"a netlink message claims {length} bytes")
            messages.append((kind, flags, sequence, data[start + HEADER_SIZE : start + length]))
            start += (length + 3) & ~3
        return messages


def _code(payload: bytes) -> int:
    """Of NLMSG_ERROR or NLMSG_DONE: 0, or errno below it. EBADMSG for what is neither."""
    code: int = ERROR.unpack_from(payload)[0] if len(payload) >= ERROR.size else 0
    if code < -ERRNO_MAX:
        raise OSError(errno.EBADMSG, f"a netlink message claims error {-code}")
    return code


def _words(reply: int, flags: int, payload: bytes) -> str:
    """What the kernel says of a refusal (NLMSGERR_ATTR_MSG), "" if nothing."""
    if not flags & NLM_F_ACK_TLVS:
        return ""
    start = 4
    if reply == NLMSG_ERROR:  # the request's header follows the code, with its payload unless capped
        length = U32.unpack_from(payload, 4)[0] if len(payload) >= 8 else 0
        start += HEADER_SIZE if flags & NLM_F_CAPPED else (length + 3) & ~3
    return text(attributes(payload, start).get(NLMSGERR_ATTR_MSG, b""))


Codec = Any  # a message class of pyroute2, which has no types


def encoded(message: Codec) -> bytes:
    """The bytes of a pyroute2 message after its netlink header: the header is ours to write."""
    try:
        message.encode()
    except struct.error as error:
        raise OSError(errno.EINVAL, f"a number that netlink has no room for: {error}") from error
    return bytes(message.data[HEADER_SIZE:])


# ---------------------------------------------------------------- devices: for kernel.py and wireguard.py

RTM_GETLINK: Final = 18
IFLA_IFNAME: Final = 3
IFLA_LINKINFO: Final = 18
IFLA_EXT_MASK: Final = 29
IFLA_INFO_KIND: Final = 1
RTEXT_FILTER_SKIP_STATS: Final = 1 << 3  # counters are most of the message, and change all the time

LINK: Final = struct.Struct("=BBHiII")  # ifinfomsg: family, -, type, index, flags, change
LINKS: Final = bytes(LINK.size) + attribute(IFLA_EXT_MASK, U32.pack(RTEXT_FILTER_SKIP_STATS))


def link_kind(info: bytes | None) -> str:
    """IFLA_INFO_KIND: "wireguard", "veth", …; "" for hardware."""
    return text(attributes(info).get(IFLA_INFO_KIND, b"")) if info else ""


def device_kinds(sock: Socket) -> dict[str, str]:
    """Kind by name, of all links."""
    found = {}
    for message in sock.dump(RTM_GETLINK, LINKS):
        seen = attributes(message, LINK.size)
        found[text(seen.get(IFLA_IFNAME, b""))] = link_kind(seen.get(IFLA_LINKINFO))
    return found


def link_named(sock: Socket, name: str) -> bytes:
    """The RTM_NEWLINK of a device, with its counters. ENODEV if there is none of that name."""
    asked = bytes(LINK.size) + attribute(IFLA_IFNAME, name.encode("utf-8", "surrogateescape") + b"\0")
    try:
        return sock.request(RTM_GETLINK, asked)
    except OSError as error:
        # EINVAL, ERANGE: no device can have such a name
        if error.errno in (errno.ENODEV, errno.EINVAL, errno.ERANGE):
            raise OSError(errno.ENODEV, f"there is no device {name!r}") from error
        raise


def index_of(sock: Socket, name: str) -> int:
    """The index of a device. ENODEV as above."""
    index: int = LINK.unpack_from(link_named(sock, name))[3]
    return index


def name_of(sock: Socket, index: int) -> str:
    """The name of a device; "" if there is none (any more), or can be none."""
    try:
        link = sock.request(RTM_GETLINK, LINK.pack(0, 0, 0, index, 0, 0))
    except (OSError, struct.error):
        return ""
    return text(attributes(link, LINK.size).get(IFLA_IFNAME, b""))
