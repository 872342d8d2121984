"""The doorbell: the kernel's notices that a link, address, route, rule or our nft table changed, without what
they tell.

Touches multicast sockets of the network namespace it was made in. A notice says "look again" and nothing
else: what it tells may be out of date when it is read, and notices get lost when many come at once
(ENOBUFS), which says the same. So only their headers are read, and only to leave out what a look would not
show anyway. Neighbours are not subscribed to: hundreds of them may change in a second.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable
from typing import Final

# linux/rtnetlink.h
GROUPS: Final = (
    0x1  # RTMGRP_LINK
    | 0x10  # RTMGRP_IPV4_IFADDR
    | 0x40  # RTMGRP_IPV4_ROUTE
    | 0x80  # RTMGRP_IPV4_RULE
    | 0x100  # RTMGRP_IPV6_IFADDR
    | 0x400  # RTMGRP_IPV6_ROUTE
    | 1 << (19 - 1)  # RTNLGRP_IPV6_RULE
)
RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTM_F_CLONED: Final = 0x200
RT_TABLE_LOCAL: Final = 255
AF_BRIDGE: Final = 7
SO_RCVBUFFORCE: Final = 33  # asm-generic/socket.h; mips has the same

# linux/netfilter/nfnetlink.h, nf_tables.h
NETLINK_NETFILTER: Final = 12  # linux/netlink.h; Python has no name for it
NFNLGRP_NFTABLES: Final = 7
NFNL_SUBSYS_NFTABLES: Final = 10
NFT_TAKEN: Final = (2, 5, 8)  # a table, a chain, a rule was deleted

HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
ROUTE: Final = struct.Struct("=4xB3xI")  # rtmsg: table, flags
RECEIVE_BUFFER: Final = 1 << 20  # some 1,000 notices
READ_SIZE: Final = 512  # headers are at the front, one notice a datagram
READS_MAX: Final = 1000  # in one go: others want to be served too, and the descriptor stays readable


class TableBell:
    """Rings when something is taken out of the nft table called `name`, by whomever.

    What is added to it is no news (dnsmasq fills its sets all day), nor is any other table. Watch `fileno()`,
    call `drain()` when it is readable.
    """

    def __init__(self, name: str) -> None:
        self._needle = name.encode() + b"\0"
        self._sock = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            NETLINK_NETFILTER,
        )
        self._sock.bind((0, 1 << (NFNLGRP_NFTABLES - 1)))

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def drain(self) -> bool:
        """Read what is there. True: look again. OSError only if the socket itself is broken."""
        rang = False
        for _ in range(READS_MAX):
            try:
                rang = self._matters(self._sock.recv(1 << 16)) or rang
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno not in (errno.ENOBUFS, errno.EINTR):
                    raise
                rang = True
        return rang

    def _matters(self, notices: bytes) -> bool:
        at = 0
        while at + HEADER.size <= len(notices):
            length, kind, _, _, _ = HEADER.unpack_from(notices, at)
            taken = kind >> 8 == NFNL_SUBSYS_NFTABLES and kind & 0xFF in NFT_TAKEN
            if taken and self._needle in notices[at : at + length]:
                return True
            at += max(HEADER.size, (length + 3) & ~3)
        return False


class Doorbell:
    """Watch `fileno()`, call `drain()` when it is readable.

    `own`: port ids of sockets whose own changes do not ring (Kernel.port_id). This is safe because whoever
    makes a change with the port looks after it, and a notice with that port id tells of nothing but that
    change: what others do carries their port ids, and a loss (ENOBUFS) always rings.
    """

    def __init__(self, own: Iterable[int] = ()) -> None:
        self._own = frozenset(own)
        self._sock = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            socket.NETLINK_ROUTE,
        )
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        except OSError:  # beyond net.core.rmem_max only root may go
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self._sock.bind((0, GROUPS))
        self._buffer = bytearray(READ_SIZE)

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def drain(self) -> bool:
        """Read what is there. True: look again. OSError only if the socket itself is broken."""
        rang = False
        for _ in range(READS_MAX):
            try:
                size = self._sock.recv_into(self._buffer)
            except BlockingIOError:
                break
            except InterruptedError:
                continue
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                rang = True
                continue
            rang = rang or self._matters(size)
        return rang

    def _matters(self, size: int) -> bool:
        """Could a look show anything of this notice?"""
        buffer = self._buffer
        if size < HEADER.size + 12:
            return True
        length, kind, _, _, port = HEADER.unpack_from(buffer)
        if length < size < READ_SIZE:  # more than one: the first does not speak for the others
            return True
        if port in self._own:
            return False
        if kind in (RTM_NEWROUTE, RTM_DELROUTE):
            table, flags = ROUTE.unpack_from(buffer, HEADER.size)
            return table != RT_TABLE_LOCAL and not flags & RTM_F_CLONED
        if kind in (RTM_NEWLINK, RTM_DELLINK):
            return buffer[HEADER.size] != AF_BRIDGE  # a bridge's view of its port
        return True
