"""The two ways to speak to a WireGuard device, in one shape: generic netlink, and the socket of wireguard-go.

Touches generic netlink and unix sockets. Knows nothing of which device is of which sort: wireguard.py does.

Secret keys come with every answer, whatever was asked. They are skipped where they are met, and no object
that outlives the parsing holds them.

Why pyroute2's WireGuard class is not used: in 0.7.9 its encoder has the peer flags as bit numbers (0, 1, 2)
where the kernel wants values (1, 2, 4), so that each update empties the peer's allowed IPs; in 0.9.x
importing it brings asyncio (+10 MiB); both have the scope of a link-local endpoint in the wrong byte order
and cannot set one; and they take 49-112 ms to decode a dump of 250 peers that takes 2 ms here. Our request
has five attributes. The tests hold it against the encoder of 0.9.x.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
import time
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Iterable, Iterator
from typing import Final

from wgrouter.core.model import DeviceSeen, Endpoint, PeerSeen
from wgrouter.core.records import dataclass
from wgrouter.ports._netlink import (
    NETLINK_GENERIC,
    Socket,
    attribute,
    attributes,
    each_attribute,
    nested,
)

KEY_SIZE: Final = 32
ANSWER_MAX: Final = 1 << 24  # bytes of a userspace answer: some 100,000 allowed IPs

# linux/genetlink.h
GENL_ID_CTRL: Final = 0x10
CTRL_CMD_GETFAMILY: Final = 3
CTRL_ATTR_FAMILY_ID: Final = 1
CTRL_ATTR_FAMILY_NAME: Final = 2

# linux/wireguard.h
WG_CMD_GET_DEVICE: Final = 0
WG_CMD_SET_DEVICE: Final = 1
WGDEVICE_A_IFNAME: Final = 2
WGDEVICE_A_PUBLIC_KEY: Final = 4
WGDEVICE_A_LISTEN_PORT: Final = 6
WGDEVICE_A_FWMARK: Final = 7
WGDEVICE_A_PEERS: Final = 8
WGPEER_A_PUBLIC_KEY: Final = 1
WGPEER_A_FLAGS: Final = 3
WGPEER_A_ENDPOINT: Final = 4
WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL: Final = 5
WGPEER_A_LAST_HANDSHAKE_TIME: Final = 6
WGPEER_A_RX_BYTES: Final = 7
WGPEER_A_TX_BYTES: Final = 8
WGPEER_A_ALLOWEDIPS: Final = 9
WGPEER_F_UPDATE_ONLY: Final = 4  # a peer that is not there is not made
WGALLOWEDIP_A_FAMILY: Final = 1
WGALLOWEDIP_A_IPADDR: Final = 2
WGALLOWEDIP_A_CIDR_MASK: Final = 3

GENERIC_HEADER: Final = struct.Struct("=BBxx")  # genlmsghdr: command, version
U16: Final = struct.Struct("=H")
U32: Final = struct.Struct("=I")
U64: Final = struct.Struct("=Q")
TIMESPEC: Final = struct.Struct("=qq")
SOCKADDR_IN: Final = struct.Struct("=H2s4s8x")  # the port is big-endian, the family is not
SOCKADDR_IN6: Final = struct.Struct(
    "=H2sI16sI"
)  # family, port, flow, address, scope (an index, not big-endian)


Scopes = dict[str, tuple[str, int | str]]


@dataclass(frozen=True, slots=True)
class PeerChange:
    """What to change of a peer; None: nothing. `scope`: index and name of a link-local endpoint's device."""

    public_key: str
    endpoint: Endpoint | None = None
    keepalive: int | None = None
    scope: tuple[int, str] = (0, "")


@dataclass(slots=True)
class Answer:
    """A device as it answered; address and scope (index or name) of link-local endpoints by public key."""

    device: DeviceSeen
    scopes: Scopes


def key_bytes(public_key: str) -> bytes:
    try:
        key = b64decode(public_key, validate=True)
    except (Base64Error, ValueError) as error:
        raise OSError(errno.EINVAL, f"{public_key!r} is not a WireGuard key: {error}") from error
    if len(key) != KEY_SIZE:
        raise OSError(
            errno.EINVAL, f"{public_key!r} is not a WireGuard key: {len(key)} bytes, not {KEY_SIZE}"
        )
    return key


def _key_text(key: bytes) -> str:
    if len(key) != KEY_SIZE:
        raise ValueError(f"a key of {len(key)} bytes")
    return b64encode(key).decode()


class KernelDevices:
    """WireGuard in the kernel. OSError: ENODEV without the device, EPROTONOSUPPORT without the module."""

    def __init__(self) -> None:
        self._sock = Socket(NETLINK_GENERIC)
        self._family = 0
        self._allowed: dict[
            bytes, tuple[str, ...]
        ] = {}  # parsed allowed IPs by their bytes, which hold no secret
        self._allowed_now: dict[bytes, tuple[str, ...]] = {}

    def close(self) -> None:
        self._sock.close()

    def forget_unused(self) -> None:
        """After each round of `get` over all devices: keep what this round used."""
        self._allowed, self._allowed_now = self._allowed_now, {}

    def get(self, name: str) -> Answer:
        request = GENERIC_HEADER.pack(WG_CMD_GET_DEVICE, 1) + _name(name)
        messages = self._sock.dump(self._family_id(), request)
        try:
            return self._read(name, messages)
        except (KeyError, ValueError, struct.error) as error:
            raise OSError(errno.EBADMSG, f"the kernel says of {name} what cannot be read: {error}") from error

    def _read(self, name: str, messages: list[bytes]) -> Answer:
        about: dict[int, bytes] = {}
        peers: dict[bytes, dict[int, bytes]] = {}
        allowed: dict[bytes, list[bytes]] = {}
        for message in messages:
            # A peer with many allowed IPs goes on in the next message, which repeats its key alone.
            for kind, value in each_attribute(message, GENERIC_HEADER.size):
                if kind == WGDEVICE_A_PEERS:
                    for _, peer in each_attribute(value):
                        seen = attributes(peer)
                        key = seen[WGPEER_A_PUBLIC_KEY]
                        ips = seen.get(WGPEER_A_ALLOWEDIPS)
                        if ips:
                            allowed.setdefault(key, []).append(ips)
                        peers.setdefault(key, seen)
                elif kind in (WGDEVICE_A_PUBLIC_KEY, WGDEVICE_A_LISTEN_PORT, WGDEVICE_A_FWMARK):
                    about[kind] = value
        scopes: Scopes = {}
        found = {}
        for key, seen in peers.items():
            public_key = _key_text(key)
            endpoint, scope = _endpoint(seen.get(WGPEER_A_ENDPOINT))
            if endpoint is not None and scope:
                scopes[public_key] = (endpoint.address, scope)
            found[public_key] = PeerSeen(
                public_key=public_key,
                endpoint=endpoint,
                handshake=TIMESPEC.unpack_from(seen.get(WGPEER_A_LAST_HANDSHAKE_TIME, bytes(16))),
                rx_bytes=U64.unpack_from(seen.get(WGPEER_A_RX_BYTES, bytes(8)))[0],
                tx_bytes=U64.unpack_from(seen.get(WGPEER_A_TX_BYTES, bytes(8)))[0],
                keepalive=U16.unpack_from(seen.get(WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL, bytes(2)))[0],
                allowed_ips=self._ips(allowed.get(key, [])),
            )
        device = DeviceSeen(
            name=name,
            public_key=b64encode(about.get(WGDEVICE_A_PUBLIC_KEY, b"")).decode(),
            listen_port=U16.unpack_from(about.get(WGDEVICE_A_LISTEN_PORT, bytes(2)))[0],
            fwmark=U32.unpack_from(about.get(WGDEVICE_A_FWMARK, bytes(4)))[0],
            peers=found,
        )
        return Answer(device, scopes)

    def set(
        self,
        name: str,
        peers: Iterable[PeerChange] = (),
        *,
        listen_port: int | None = None,
        fwmark: int | None = None,
    ) -> None:
        """Change a device and its peers, in this order and at once: one message, under the device's lock."""
        body = GENERIC_HEADER.pack(WG_CMD_SET_DEVICE, 1) + _name(name)
        if listen_port is not None:
            body += attribute(WGDEVICE_A_LISTEN_PORT, U16.pack(listen_port))
        if fwmark is not None:
            body += attribute(WGDEVICE_A_FWMARK, U32.pack(fwmark))
        encoded = [nested(0, *_peer(change)) for change in peers]
        if encoded:
            body += nested(WGDEVICE_A_PEERS, *encoded)
        self._sock.change(self._family_id(), body)

    def _family_id(self) -> int:
        """The number that generic netlink gave the wireguard module, which it keeps while loaded."""
        if not self._family:
            request = GENERIC_HEADER.pack(CTRL_CMD_GETFAMILY, 1)
            request += attribute(CTRL_ATTR_FAMILY_NAME, b"wireguard\0")
            try:
                answer = self._sock.request(GENL_ID_CTRL, request)
            except OSError as error:
                if error.errno == errno.ENOENT:
                    words = "the kernel has no WireGuard (package kmod-wireguard)"
                    raise OSError(errno.EPROTONOSUPPORT, words) from error
                raise
            number = attributes(answer, GENERIC_HEADER.size).get(CTRL_ATTR_FAMILY_ID, b"")
            if len(number) != U16.size:
                raise OSError(errno.EBADMSG, "the kernel does not number the family wireguard")
            self._family = U16.unpack(number)[0]
        return self._family

    def _ips(self, pieces: list[bytes]) -> tuple[str, ...]:
        found: tuple[str, ...] = ()
        for piece in pieces:
            ips = self._allowed.get(piece)
            if ips is None:
                ips = tuple(_allowed_ips(piece))
            self._allowed_now[piece] = ips
            found = found + ips if found else ips
        return found


def _name(name: str) -> bytes:
    return attribute(WGDEVICE_A_IFNAME, os.fsencode(name) + b"\0")


def _peer(change: PeerChange) -> Iterator[bytes]:
    yield attribute(WGPEER_A_PUBLIC_KEY, key_bytes(change.public_key))
    yield attribute(WGPEER_A_FLAGS, U32.pack(WGPEER_F_UPDATE_ONLY))
    if change.endpoint is not None:
        yield attribute(WGPEER_A_ENDPOINT, _sockaddr(change.endpoint, change.scope[0]))
    if change.keepalive is not None:
        yield attribute(WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL, U16.pack(change.keepalive))


def _sockaddr(endpoint: Endpoint, scope: int) -> bytes:
    port = endpoint.port.to_bytes(2, "big")
    if endpoint.family == 4:
        return SOCKADDR_IN.pack(socket.AF_INET, port, socket.inet_pton(socket.AF_INET, endpoint.address))
    return SOCKADDR_IN6.pack(
        socket.AF_INET6, port, 0, socket.inet_pton(socket.AF_INET6, endpoint.address), scope
    )


def _endpoint(data: bytes | None) -> tuple[Endpoint | None, int]:
    """An endpoint and, of a link-local one, its scope."""
    if data is None or len(data) < SOCKADDR_IN.size:
        return None, 0
    (family,) = U16.unpack_from(data)
    port = int.from_bytes(data[2:4], "big")
    if family == socket.AF_INET:
        return Endpoint(socket.inet_ntop(socket.AF_INET, data[4:8]), port), 0
    if family == socket.AF_INET6 and len(data) >= SOCKADDR_IN6.size:
        _, _, _, address, scope = SOCKADDR_IN6.unpack_from(data)
        return Endpoint(socket.inet_ntop(socket.AF_INET6, address), port), scope
    return None, 0


def _allowed_ips(data: bytes) -> Iterator[str]:
    for _, entry in each_attribute(data):
        seen = attributes(entry)
        try:
            family = U16.unpack(seen[WGALLOWEDIP_A_FAMILY])[0]
            address = socket.inet_ntop(family, seen[WGALLOWEDIP_A_IPADDR])
            length = seen[WGALLOWEDIP_A_CIDR_MASK][0]
        except (KeyError, IndexError, ValueError, OSError, struct.error):
            continue  # a family of tomorrow
        yield f"{address}/{length}"


class ProcessDevices:
    """WireGuard in a process, by its socket `<directory>/<name>.sock`.

    The protocol is that of https://www.wireguard.com/xplatform/: `get=1` or `set=1`, lines, and an empty
    line. An answer does not name the device's own public key, only the private one: it stays "".
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def names(self) -> set[str]:
        """Names for which there is a socket, which may be one that a killed process left behind."""
        try:
            return {name[:-5] for name in os.listdir(self._directory) if name.endswith(".sock")}
        except FileNotFoundError:
            return set()

    def get(self, name: str, timeout: float) -> Answer:
        lines = self._exchange(name, "get=1\n\n", timeout)
        try:
            return self._read(name, lines)
        except (KeyError, ValueError) as error:
            words = f"the process of {name} says what cannot be read: {error}"
            raise OSError(errno.EBADMSG, words) from error

    def _read(self, name: str, lines: list[tuple[str, str]]) -> Answer:
        found: dict[str, PeerSeen] = {}
        scopes: Scopes = {}
        about: dict[str, int] = {}
        peer: dict[str, str] = {}
        ips: list[str] = []
        for key, value in lines:
            if key == "public_key":
                _finish(peer, ips, found, scopes)
                peer, ips = {key: value}, []
            elif key == "allowed_ip":
                ips.append(value)
            elif peer:
                peer[key] = value
            elif key in ("listen_port", "fwmark"):
                about[key] = _number(value, 16 if key == "listen_port" else 32)
        _finish(peer, ips, found, scopes)
        device = DeviceSeen(
            name=name,
            listen_port=about.get("listen_port", 0),
            fwmark=about.get("fwmark", 0),
            userspace=True,
            peers=found,
        )
        return Answer(device, scopes)

    def set(
        self,
        name: str,
        peers: Iterable[PeerChange] = (),
        *,
        timeout: float,
        listen_port: int | None = None,
        fwmark: int | None = None,
    ) -> None:
        """Change a device and its peers, in this order and in one request."""
        lines = ["set=1"]
        if listen_port is not None:
            lines.append(f"listen_port={listen_port}")
        if fwmark is not None:
            lines.append(f"fwmark={fwmark}")
        for change in peers:
            lines += [f"public_key={key_bytes(change.public_key).hex()}", "update_only=true"]
            if change.endpoint is not None:
                lines.append(f"endpoint={_zoned(change.endpoint, change.scope[1])}")
            if change.keepalive is not None:
                lines.append(f"persistent_keepalive_interval={change.keepalive}")
        self._exchange(name, "\n".join(lines) + "\n\n", timeout)

    def _exchange(self, name: str, request: str, timeout: float) -> list[tuple[str, str]]:
        """Ask, and give the answer's lines without secrets. All of it may take `timeout` seconds."""
        deadline = time.monotonic() + timeout
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
            try:
                sock.settimeout(timeout)
                sock.connect(os.path.join(self._directory, f"{name}.sock"))
                sock.sendall(request.encode())
                answer = bytearray()
                while not answer.endswith(b"\n\n"):
                    sock.settimeout(max(0.001, deadline - time.monotonic()))
                    piece = sock.recv(1 << 16)
                    if not piece:
                        raise OSError(errno.ECONNRESET, f"the process of {name} hung up")
                    answer += piece
                    if len(answer) > ANSWER_MAX:
                        raise OSError(errno.EMSGSIZE, f"the process of {name} does not stop talking")
            except TimeoutError as error:
                words = f"no answer from the process of {name} in {timeout:g} s"
                raise TimeoutError(errno.ETIMEDOUT, words) from error
            except (ConnectionRefusedError, FileNotFoundError) as error:
                raise OSError(errno.ENODEV, f"no process serves {name}") from error
        lines = []
        for line in answer.decode("ascii", "replace").split("\n"):
            key, _, value = line.partition("=")
            if key == "errno":
                if value != "0":
                    digits = value.removeprefix("-")
                    plain = len(digits) <= 4 and digits.isdecimal()
                    code = (int(digits) if plain else 0) or errno.EBADMSG
                    raise OSError(code, f"the process of {name} refuses: {os.strerror(code)}")
            elif key and key not in ("private_key", "preshared_key"):
                lines.append((key, value))
        return lines


def _number(text: str, bits: int) -> int:
    """ValueError for what is no number of so many bits: what is read may have to be written."""
    number = int(text)
    if number >> bits:
        raise ValueError(f"{text[:40]!r} is no number of {bits} bits")
    return number


def _zoned(endpoint: Endpoint, zone: str) -> str:
    return f"[{endpoint.address}%{zone}]:{endpoint.port}" if zone else str(endpoint)


def _finish(peer: dict[str, str], ips: list[str], found: dict[str, PeerSeen], scopes: Scopes) -> None:
    """Put the peer whose lines have all been read among the others."""
    if not peer:
        return
    public_key = _key_text(bytes.fromhex(peer["public_key"]))
    endpoint = None
    if "endpoint" in peer:
        host, _, port = peer["endpoint"].rpartition(":")
        address, _, zone = host.strip("[]").partition("%")
        endpoint = Endpoint(str(ipaddress.ip_address(address)), _number(port, 16))
        if zone:
            scopes[public_key] = (endpoint.address, zone)
    found[public_key] = PeerSeen(
        public_key=public_key,
        endpoint=endpoint,
        handshake=(
            _number(peer.get("last_handshake_time_sec", "0"), 63),
            _number(peer.get("last_handshake_time_nsec", "0"), 63),
        ),
        rx_bytes=_number(peer.get("rx_bytes", "0"), 64),
        tx_bytes=_number(peer.get("tx_bytes", "0"), 64),
        keepalive=_number(peer.get("persistent_keepalive_interval", "0"), 16),
        allowed_ips=tuple(ips),
    )
