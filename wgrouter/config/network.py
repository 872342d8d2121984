"""What /etc/config/network says that concerns the agent: WireGuard interfaces, peers, devices of interfaces.

Reads the options it names and no other: `private_key` and `preshared_key` are never looked at. The file is
netifd's, not ours: what is odd in it is reported only where it keeps the agent from its work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from wgrouter.config import datatypes
from wgrouter.config.datatypes import DATATYPES, Invalid, Limits
from wgrouter.config.problems import Problem, Problems, nearest, quoted, shown
from wgrouter.config.uci import Document, Section
from wgrouter.core.findings import Severity
from wgrouter.core.settings import HostPort

DEFAULT_PORT = 51820
_U16 = Limits(0, 65535)
_PORT = Limits(1, 65535)
_U32 = Limits(0, 0xFFFFFFFF)
_PEERS = "wireguard_"

# Protocols whose layer-3 device is named after the interface (the scripts in /lib/netifd/proto).
_NAMED = {
    "wireguard": "", "amneziawg": "", "pppoe": "pppoe-", "pppoa": "pppoa-", "ppp": "ppp-", "pptp": "pptp-",
    "l2tp": "l2tp-", "3g": "3g-", "openconnect": "vpn-", "vpnc": "vpn-", "6in4": "6in4-", "6to4": "6to4-",
    "6rd": "6rd-", "dslite": "ds-", "map": "map-",
}  # fmt: skip
# Protocols that use their device as it is.
_DIRECT = ("static", "dhcp", "dhcpv6", "none", "")
_IFNAMSIZ = 15


class FoundPeer(NamedTuple):
    device: str
    public_key: str
    description: str
    endpoint: HostPort | None
    port: int  # for endpoints without one
    keepalive: int
    allowed_ips: tuple[str, ...]


class FoundTunnel(NamedTuple):
    device: str
    auto: bool  # brought up at boot
    addresses: tuple[str, ...]
    listen_port: int
    fwmark: int
    peers: tuple[FoundPeer, ...]
    labels: tuple[str, ...]  # of the peers


class Network(NamedTuple):
    tunnels: Mapping[str, FoundTunnel]  # by interface; disabled ones are left out
    devices: Mapping[str, str]  # logical interface → layer-3 device, "" where only netifd can tell
    disabled: frozenset[str]  # WireGuard interfaces that are switched off


class _Reader:
    """Reads options of one section with the datatypes, and says what cannot be used."""

    def __init__(self, file: str, problems: Problems) -> None:
        self._file = file
        self._problems = problems

    def say(
        self,
        section: Section,
        option: str,
        message: str,
        accepted: str = "",
        consequence: str = "",
        severity: Severity = Severity.WARNING,
    ) -> None:
        found = section.options.get(option)
        name = f"{section.type} {quoted(section.name)}"
        # The value is never repeated: the message quotes it where it is harmless.
        line = found.line if found else section.line
        problem = Problem(self._file, line, name, option, "", message, accepted, consequence, severity)
        self._problems.add(problem)

    def nearest(self, name: str, known: Iterable[str]) -> str:
        """problems.nearest, as long as anybody will read the answer."""
        return "" if self._problems.full else nearest(name, known)

    def value(
        self, section: Section, option: str, datatype: str, limits: Limits, default: str
    ) -> datatypes.Value:
        text = section.text(option).strip()
        parse, accepted = DATATYPES[datatype]
        if text:
            try:
                return parse(text, limits)
            except Invalid as error:
                self.say(section, option, str(error), accepted(limits), f"taken as {default!r}")
        return parse(default, limits)

    def flag(self, section: Section, option: str, default: str) -> bool:
        return bool(self.value(section, option, "boolean", Limits(), default))

    def number(self, section: Section, option: str, limits: Limits, default: int) -> int:
        value = self.value(section, option, "number32" if limits is _U32 else "integer", limits, str(default))
        assert isinstance(value, int)
        return value

    def networks(self, section: Section, option: str, make: Callable[[str], str]) -> tuple[str, ...]:
        """Each item as `make` has it, once. An item with spaces is several, as for netifd's scripts."""
        out: dict[str, None] = {}
        for item in " ".join(section.words(option)).split():
            try:
                out[make(item)] = None
            except Invalid as error:
                accepted = DATATYPES["network"].accepted(Limits())
                self.say(section, option, str(error), accepted, "this item is left out")
        return tuple(out)


def discover(document: Document, file: str, problems: Problems) -> Network:
    """The tunnels and devices of a network file. Never raises."""
    reader = _Reader(file, problems)
    interfaces = {section.name: section for section in document.sections if section.type == "interface"}
    disabled: set[str] = set()
    wireguard: dict[str, Section] = {}
    for name, section in interfaces.items():
        if section.text("proto") == "wireguard":
            if reader.flag(section, "disabled", "0"):
                disabled.add(name)
            elif len(name) > _IFNAMSIZ:
                message = f"no device can be called {quoted(name)}: {len(name)} characters"
                reader.say(section, "", message, f"up to {_IFNAMSIZ} characters", "the tunnel is left out")
            else:
                wireguard[name] = section
    peers: dict[str, dict[str, FoundPeer]] = {name: {} for name in wireguard}
    for section in document.sections:
        if not section.type.startswith(_PEERS):
            continue
        name = section.type.removeprefix(_PEERS)
        if name in wireguard:
            peer = _peer(reader, section, name, peers[name])
            if peer is not None:
                peers[name][peer.public_key] = peer
        else:
            _orphan(reader, section, name, interfaces, wireguard)
    tunnels = {
        name: _tunnel(reader, section, tuple(peers[name].values())) for name, section in wireguard.items()
    }
    return Network(tunnels, _devices(interfaces), frozenset(disabled))


def _orphan(
    reader: _Reader,
    section: Section,
    name: str,
    interfaces: Mapping[str, Section],
    wireguard: Mapping[str, Section],
) -> None:
    if name in interfaces:
        return  # a tunnel that is switched off, or another protocol's
    close = reader.nearest(name, wireguard)
    accepted = f"wireguard_{close}" if close else "wireguard_ and the name of an interface of proto wireguard"
    message = f"there is no interface {quoted(name)} that this peer could belong to"
    reader.say(section, "", message, accepted, "the peer is left out")


def _tunnel(reader: _Reader, section: Section, peers: tuple[FoundPeer, ...]) -> FoundTunnel:
    return FoundTunnel(
        section.name,
        reader.flag(section, "auto", "1"),
        reader.networks(section, "addresses", _interface_address),
        reader.number(section, "listen_port", _U16, 0),
        reader.number(section, "fwmark", _U32, 0),
        peers,
        _labels(peers),
    )


def _interface_address(text: str) -> str:
    """address/length of an interface: the host part is kept, a missing length is a whole address."""
    prefix = datatypes.network(text, Limits())
    base = datatypes.ip(text.partition("/")[0])
    return f"{base}/{prefix.partition('/')[2]}"


def _peer(
    reader: _Reader, section: Section, device: str, others: Mapping[str, FoundPeer]
) -> FoundPeer | None:
    if reader.flag(section, "disabled", "0"):
        return None
    text = section.text("public_key").strip()
    accepted = DATATYPES["key"].accepted(Limits())
    if not text:
        reader.say(
            section, "", "the peer has no public_key", accepted, "the peer is left out", Severity.ERROR
        )
        return None
    try:
        key = datatypes.key(text, Limits())
    except Invalid as error:
        reader.say(section, "public_key", str(error), accepted, "the peer is left out", Severity.ERROR)
        return None
    if key in others:
        message = f"the peer {key[:8]}… is there twice on {device}"
        accepted = "one section for each peer"
        reader.say(section, "public_key", message, accepted, "the first one counts", Severity.ERROR)
        return None
    port = reader.number(section, "endpoint_port", _PORT, DEFAULT_PORT)
    keepalive = 0 if section.text("persistent_keepalive") == "off" else _keepalive(reader, section)
    allowed = reader.networks(section, "allowed_ips", lambda item: datatypes.network(item, Limits()))
    endpoint = _endpoint(reader, section, port)
    return FoundPeer(device, key, section.text("description"), endpoint, port, keepalive, allowed)


def _keepalive(reader: _Reader, section: Section) -> int:
    return reader.number(section, "persistent_keepalive", _U16, 0)


def _endpoint(reader: _Reader, section: Section, port: int) -> HostPort | None:
    text = section.text("endpoint_host").strip()
    if not text:
        return None
    bare = text
    if text.startswith("[") and text.endswith("]"):
        bare = text[1:-1]
        message = f"{quoted(text)} has brackets, which netifd adds itself"
        reader.say(section, "endpoint_host", message, "the bare address", "taken without them")
    try:
        return HostPort(datatypes.host(bare, Limits()), port)
    except Invalid as error:
        accepted = DATATYPES["host"].accepted(Limits())
        reader.say(section, "endpoint_host", str(error), accepted, "the peer has no endpoint", Severity.ERROR)
        return None


def _labels(peers: tuple[FoundPeer, ...]) -> tuple[str, ...]:
    """For each peer a label of its own: its description if no other has it, else enough of its key."""
    wished = [shown(" ".join(peer.description.split())) for peer in peers]
    counts: dict[str, int] = {}
    for wish in wished:
        counts[wish] = counts.get(wish, 0) + 1
    taken = {wish for wish in wished if wish and counts[wish] == 1}
    labels = []
    for peer, wish in zip(peers, wished, strict=True):
        label = wish
        if wish not in taken:
            length = 8
            while length < len(peer.public_key) and peer.public_key[:length] in taken:
                length += 1
            label = peer.public_key[:length]
            taken.add(label)
        labels.append(label)
    return tuple(labels)


def _devices(interfaces: Mapping[str, Section]) -> dict[str, str]:
    return {name: _device(interfaces, name, 8) for name in interfaces}


def _device(interfaces: Mapping[str, Section], name: str, depth: int) -> str:
    """The layer-3 device of a logical interface, "" if only netifd can tell (modems, wireless alone)."""
    section = interfaces.get(name)
    if section is None or not depth:
        return ""
    proto = section.text("proto")
    if proto in _NAMED:
        made = _NAMED[proto] + name
        return made if len(made) <= _IFNAMSIZ else ""
    if proto not in _DIRECT:
        return ""
    if section.text("type") == "bridge":  # before 21.02
        return f"br-{name}" if len(name) <= _IFNAMSIZ - 3 else ""
    words = section.words("device") or section.words("ifname")
    if len(words) != 1:
        return ""
    if words[0].startswith("@"):
        return _device(interfaces, words[0][1:], depth - 1)
    try:
        return datatypes.device(words[0], Limits())
    except Invalid:
        return ""
