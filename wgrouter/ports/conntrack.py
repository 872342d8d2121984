"""Connection tracking: forgets chosen flows, so that their next packet is routed and translated anew.

Touches ctnetlink in the network namespace of the thread that made the object. Never flushes: every entry is
deleted by its exact tuple, zone and id, so that one which took its place meanwhile is left.

Not by pyroute2, which needs 1.5-6 s to dump 10,000 entries. The kernel does the choosing where it can
(CTA_FILTER, Linux 5.8), and what comes back is checked here all the same, as an older kernel sends
everything. Measured with 10,000 entries and 262,144 buckets: none of them matching 25 ms, of which 22 ms are
the kernel's walks over the buckets; 1,000 deleted 45 ms.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from wgrouter.core.messages import ForgetFlows
from wgrouter.ports._netlink import (
    NETLINK_NETFILTER,
    NETLINK_ROUTE,
    NLA_F_NESTED,
    U32,
    Socket,
    attribute,
    attributes,
    nested,
)

# linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h
CT_GET: Final = 1 << 8 | 1  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
CT_DELETE: Final = 1 << 8 | 2
CTA_TUPLE_ORIG: Final = 1
CTA_TUPLE_REPLY: Final = 2
CTA_ID: Final = 12
CTA_ZONE: Final = 18
CTA_FILTER: Final = 25
CTA_TUPLE_IP: Final = 1
CTA_TUPLE_PROTO: Final = 2
CTA_IP_SRC: Final = {4: 1, 6: 3}
CTA_IP_DST: Final = {4: 2, 6: 4}
CTA_PROTO_NUM: Final = 1
CTA_PROTO_SRC_PORT: Final = 2
# CTA_FILTER: an attribute for each direction's tuple (1 and 2), with bits for the parts of it that count
FILTER_IP_DST: Final = 1 << 1
FILTER_PROTO_NUM: Final = 1 << 3
FILTER_SRC_PORT: Final = 1 << 4

# linux/rtnetlink.h, if_addr.h
RTM_GETADDR: Final = 22
IFA_ADDRESS: Final = 1
IFA_LOCAL: Final = 2

NFGENMSG: Final = struct.Struct(">BBH")  # family, version, resource id
U16: Final = struct.Struct(">H")
FAMILIES: Final = {4: int(socket.AF_INET), 6: int(socket.AF_INET6)}
DELETES_AT_ONCE: Final = 128  # were all refused, the answers would have to fit into the receive buffer


class Conntrack:
    """Use from one thread. OSError; where the kernel has no ctnetlink, EPROTONOSUPPORT."""

    def __init__(self) -> None:
        self._sock = Socket(NETLINK_NETFILTER)
        self._addresses = Socket(NETLINK_ROUTE)

    def close(self) -> None:
        self._sock.close()
        self._addresses.close()

    def forget(self, flows: ForgetFlows) -> int:
        """Delete what matches all that is given; how many were deleted. None matching is no error.

        `local_port`, `remote`: one end of the flow is this port, the other that address, whoever began;
        without a remote, one end is this port at an address of this router. `local_address`: flows whose
        answers come to this address, because their source is translated to it, or is it. Nothing given is
        EINVAL: that would be a flush.
        """
        if not (flows.local_port or flows.remote or flows.local_address):
            raise OSError(errno.EINVAL, "which flows to forget is not said; all of them is not for us to do")
        here = self._local_addresses() if flows.local_port and not flows.remote else frozenset()
        deleted = 0
        for version in _versions(flows):
            doomed = list(dict.fromkeys(self._find(_Wanted(version, flows, here))))
            for start in range(0, len(doomed), DELETES_AT_ONCE):
                some = doomed[start : start + DELETES_AT_ONCE]
                refused = self._sock.changes(CT_DELETE, some)
                deleted += len(some) - len(refused)
                for code in refused.values():
                    if code != errno.ENOENT:  # else it ended by itself
                        raise OSError(code, f"a tracked flow cannot be deleted: {os.strerror(code)}")
        return deleted

    def _find(self, wanted: _Wanted) -> Iterator[bytes]:
        """Bodies of requests that delete what matches."""
        header = NFGENMSG.pack(FAMILIES[wanted.version], 0, 0)
        for chosen in wanted.requests():
            for message in self._dump(header, chosen):
                if wanted.needle not in message:
                    continue
                seen = attributes(message, NFGENMSG.size)
                if wanted.matches(seen):
                    request = header + attribute(CTA_TUPLE_ORIG | NLA_F_NESTED, seen[CTA_TUPLE_ORIG])
                    for kind in (CTA_ZONE, CTA_ID):
                        if kind in seen:
                            request += attribute(kind, seen[kind])
                    yield request

    def _local_addresses(self) -> frozenset[bytes]:
        seen = (attributes(message, 8) for message in self._addresses.dump(RTM_GETADDR, bytes(8)))
        return frozenset(address for one in seen if (address := one.get(IFA_LOCAL) or one.get(IFA_ADDRESS)))

    def _dump(self, header: bytes, chosen: bytes) -> list[bytes]:
        try:
            return self._sock.dump(CT_GET, header + chosen)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
        try:
            return self._sock.dump(CT_GET, header)  # it knows filters, but not such
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                words = "the kernel cannot be asked about connections (package kmod-nf-conntrack-netlink)"
                raise OSError(errno.EPROTONOSUPPORT, words) from error
            raise


class _Wanted:
    """What is looked for in one address family, in words of the kernel's filter and of our own."""

    def __init__(self, version: int, flows: ForgetFlows, here: frozenset[bytes]) -> None:
        self.version = version
        self._here = here  # local addresses, where no remote tells the two ends apart
        self._protocol = flows.protocol
        self._port = U16.pack(flows.local_port) if flows.local_port else b""
        self._remote = _packed(version, flows.remote)
        self._local = _packed(version, flows.local_address)
        self.needle = self._local or self._remote or self._port  # bytes that every match contains

    def requests(self) -> Iterator[bytes]:
        """Attributes that have the kernel choose, for one dump each: together they find every match."""
        if self._local:
            yield self._filter(CTA_TUPLE_REPLY, self._local, b"")
        else:  # in one of its two directions a flow goes from our port to the remote, whoever began
            yield self._filter(CTA_TUPLE_ORIG, self._remote, self._port)
            yield self._filter(CTA_TUPLE_REPLY, self._remote, self._port)

    def _filter(self, direction: int, dst: bytes, src_port: bytes) -> bytes:
        flags = 0
        parts = []
        # Not for IPv6: Linux (seen on 6.18) then sends exactly those whose address is another.
        if dst and self.version == 4:
            flags |= FILTER_IP_DST
            parts.append(nested(CTA_TUPLE_IP, attribute(CTA_IP_DST[self.version], dst)))
        if self._protocol:  # ports mean something beside a protocol only
            flags |= FILTER_PROTO_NUM
            proto = [attribute(CTA_PROTO_NUM, bytes((self._protocol,)))]
            if src_port:
                flags |= FILTER_SRC_PORT
                proto.append(attribute(CTA_PROTO_SRC_PORT, src_port))
            parts.append(nested(CTA_TUPLE_PROTO, *proto))
        if not flags:
            return b""
        return nested(direction, *parts) + nested(CTA_FILTER, attribute(direction, U32.pack(flags)))

    def matches(self, seen: Mapping[int, bytes]) -> bool:
        """Does an entry match all that was given?"""
        if CTA_TUPLE_ORIG not in seen or CTA_TUPLE_REPLY not in seen:
            return False
        directions = [_direction(seen[kind], self.version) for kind in (CTA_TUPLE_ORIG, CTA_TUPLE_REPLY)]
        if self._protocol and directions[0].protocol != self._protocol:
            return False
        if self._local and directions[1].dst != self._local:
            return False
        return any(
            self._port in (b"", one.src_port)
            and self._remote in (b"", one.dst)
            and (not self._here or one.src in self._here)
            for one in directions
        )


def _versions(flows: ForgetFlows) -> tuple[int, ...]:
    """The address families that can match."""
    given = {6 if ":" in address else 4 for address in (flows.local_address, flows.remote) if address}
    return (4, 6) if not given else tuple(given) if len(given) == 1 else ()


def _packed(version: int, address: str) -> bytes:
    return socket.inet_pton(FAMILIES[version], address) if address else b""


class _Direction(NamedTuple):
    """What a tuple says."""

    protocol: int
    src: bytes
    src_port: bytes
    dst: bytes


def _direction(data: bytes, version: int) -> _Direction:
    parts = attributes(data)
    ip = attributes(parts.get(CTA_TUPLE_IP, b""))
    proto = attributes(parts.get(CTA_TUPLE_PROTO, b""))
    return _Direction(
        protocol=(proto.get(CTA_PROTO_NUM) or b"\0")[0],
        src=ip.get(CTA_IP_SRC[version], b""),
        src_port=proto.get(CTA_PROTO_SRC_PORT, b""),
        dst=ip.get(CTA_IP_DST[version], b""),
    )
