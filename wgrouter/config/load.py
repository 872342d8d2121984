"""Files → Settings and Problems. Nothing is fatal: what cannot be used is skipped and said, the rest kept.

`read` is the only function that touches files. What is done about a bad value, see sections.py.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import stat
from collections.abc import Mapping
from typing import Any, NamedTuple

from wgrouter.config.datatypes import ip
from wgrouter.config.network import FoundPeer, FoundTunnel, Network, discover
from wgrouter.config.problems import Problem, Problems, quoted, shown
from wgrouter.config.schema import BY_TYPE
from wgrouter.config.sections import Sections, Values
from wgrouter.config.uci import Document, Section, UciError, parse
from wgrouter.core import ranges
from wgrouter.core.findings import Severity
from wgrouter.core.records import fields
from wgrouter.core.settings import (
    Dns,
    Hold,
    HostPort,
    Ladder,
    Mqtt,
    Peer,
    Probing,
    Routing,
    Settings,
    TrafficRule,
    Tunnel,
    Wan,
)

MAIN_FILE = "wgrouter"
NETWORK_FILE = "network"
FILES = (MAIN_FILE, NETWORK_FILE)
_CONFIG = ("etc", "config")
_OVERRIDES = ("var", "run", "uci")
LARGEST = 4 << 20  # bytes of a file; a thousand peers take half a megabyte

# Section types that are there once, their class, and where Settings keeps it ("": as its fields).
ONCE: Mapping[str, tuple[type, str]] = {
    "wgrouter": (Settings, ""),
    "dns": (Dns, "dns"),
    "probing": (Probing, "probing"),
    "hold": (Hold, "hold"),
    "routing": (Routing, "routing"),
    "mqtt": (Mqtt, "mqtt"),
}
RESERVED = ("auto", "balanced")  # a switch back to the rules, a rule for all WANs
WAN_NAME_MAX = 32  # as for a logical interface (datatypes.word)
FAMILIES = {"both": (4, 6), "ipv4": (4,), "ipv6": (6,)}
NEIGHBOURS = ((0x3F00, "mwan3"), (0x00FF0000, "pbr and Tailscale"))


class Loaded(NamedTuple):
    """Settings that can be used in any case, and what is wrong. `unread`: files that exist and gave nothing.

    After a reload with anything in `unread` the old settings are the better ones.
    """

    settings: Settings
    problems: tuple[Problem, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def fatal(self) -> bool:
        """The main file is there and cannot be read or parsed."""
        return MAIN_FILE in self.unread


def read(root: str | os.PathLike[str] = "/", confdir: str | os.PathLike[str] | None = None) -> Loaded:
    """Load the files in `confdir`, or else those in <root>/etc/config as libuci finds them. Never raises."""
    files, paths = found(root, confdir)
    return load(files, paths=paths)


def found(
    root: str | os.PathLike[str] = "/", confdir: str | os.PathLike[str] | None = None
) -> tuple[dict[str, bytes | Exception], dict[str, str]]:
    """By file: its contents, or what reading it raised; and its path."""
    if confdir is None:
        # Since 2025 (OpenWrt 25.12) libuci takes a file in /var/run/uci first.
        places = [os.path.join(os.fspath(root), *parts) for parts in (_OVERRIDES, _CONFIG)]
    else:
        places = [os.fspath(confdir)]
    paths: dict[str, str] = {}
    files: dict[str, bytes | Exception] = {}
    for name in FILES:
        for place in places:
            paths[name] = os.path.join(place, name)
            files[name] = _bytes_of(paths[name])
            if not isinstance(files[name], FileNotFoundError):
                break
    return files, paths


def _bytes_of(path: str) -> bytes | Exception:
    try:
        # A fifo or device in the file's place must not block the agent.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return OSError(errno.EINVAL, "not a regular file")
            data = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        return error
    if len(data) > LARGEST:
        return OSError(errno.EFBIG, f"larger than {LARGEST >> 20} MiB")
    return data


def load(
    files: Mapping[str, bytes | Exception], where: str = "/etc/config", paths: Mapping[str, str] | None = None
) -> Loaded:
    """Settings from the contents of `wgrouter` and `network`, or what reading them raised. Never raises.

    `where` or `paths` only say how Problems name the files.
    """
    names = {name: f"{where}/{name}" for name in FILES} | dict(paths or {})
    problems = Problems()
    unread: list[str] = []
    documents = {name: _document(name, files.get(name), names[name], problems, unread) for name in FILES}
    network = discover(documents[NETWORK_FILE], names[NETWORK_FILE], problems)
    known = NETWORK_FILE not in unread and not isinstance(files.get(NETWORK_FILE), Exception | None)
    sections = Sections(documents[MAIN_FILE], names[MAIN_FILE], problems)
    settings = _Loader(sections, network, known).settings()
    return Loaded(settings, problems.all(), tuple(unread))


def _document(
    name: str, data: bytes | Exception | None, path: str, problems: Problems, unread: list[str]
) -> Document:
    if data is None or isinstance(data, FileNotFoundError):
        if name == NETWORK_FILE:
            message = "there is no such file, so no tunnel is known"
            problems.add(Problem(path, 0, "", "", "", message, severity=Severity.WARNING))
        return Document()
    try:
        if isinstance(data, Exception):
            reason = (data.strerror if isinstance(data, OSError) else None) or type(data).__name__
            raise UciError(0, 0, f"cannot be read: {shown(reason)}", "a readable file")
        return parse(data)
    except UciError as error:
        unread.append(name)
        place = f"column {error.column}: " if error.line else ""
        consequence = "nothing in this file counts"
        problems.add(
            Problem(path, error.line, "", "", "", place + error.problem, error.accepted, consequence)
        )
        return Document()


def _is_host(prefix: str) -> bool:
    return prefix.endswith("/128") or (prefix.endswith("/32") and ":" not in prefix)


class _Override(NamedTuple):
    """A peer section: what it says, and where."""

    section: Section
    values: Values


class _Loader:
    """Works on the main file, with the network file's tunnels at hand."""

    def __init__(self, sections: Sections, network: Network, network_known: bool) -> None:
        self._sections = sections
        self._say = sections.say
        self._network = network
        self._network_known = network_known

    def settings(self) -> Settings:
        of = self._sections.of
        parts: dict[str, Any] = {}
        for kind, (cls, field) in ONCE.items():
            values = self._sections.single(BY_TYPE[kind], of(kind))
            if field:
                parts[field] = cls(**values)
            else:
                parts.update(values)
        routing: Routing = parts["routing"]
        wans = self._wans(of("wan"))
        names = self._wan_names(of("wan"))
        self._check_routing(of("routing"), routing, len(wans))
        parts["wans"] = wans
        parts["rules"] = self._rules(of("rule"), names)
        parts["tunnels"] = self._tunnels(of("tunnel"), of("peer"), names)
        parts["interfaces"] = {name: device for name, device in self._network.devices.items() if device}
        return Settings(**parts)

    # ---- WANs, routing, rules

    def _wan_names(self, sections: list[Section]) -> frozenset[str]:
        """What `list wan` may name: the WANs configured, even if switched off; else whatever may become one.

        Empty: anything, because nothing is known.
        """
        names = {section.name for section in sections if not section.anonymous}
        if names:
            return frozenset(names)
        return frozenset({*self._network.devices, *self._network.devices.values()} - {""})

    def _wans(self, sections: list[Section]) -> tuple[Wan, ...]:
        wans: list[Wan] = []
        for section in sections:
            if section.anonymous:
                self._say(section, "", "a wan section needs a name", "config wan '<name>'", "section skipped")
                continue
            if section.name in RESERVED or len(section.name) > WAN_NAME_MAX:
                message = f"a WAN cannot be called {quoted(section.name)}"
                accepted = f"up to {WAN_NAME_MAX} characters, and neither {' nor '.join(RESERVED)}"
                self._say(section, "", message, accepted, "section skipped")
                continue
            values = self._sections.values(section, BY_TYPE["wan"])
            wan = (
                None if values is None else self._wan(section, self._sections.fields(BY_TYPE["wan"], values))
            )
            if wan is None:
                continue
            twin = next(
                (other for other in wans if other.interface and other.interface == wan.interface), None
            )
            if twin is not None:
                message = f"the interface '{wan.interface}' is the WAN '{twin.name}' already"
                self._say(section, "interface", message, "one WAN for each interface", "section skipped")
                continue
            wans.append(wan)
        return tuple(wans)

    def _wan(self, section: Section, values: Values) -> Wan | None:
        targets = self._sections.targets(values.pop("target", ()))
        values["families"] = FAMILIES[values.get("families", "both")]
        if "interface" not in values and "device" not in values:
            values["interface"] = section.name
        interface = values.get("interface", "")
        if interface and "device" not in values:
            values["device"] = self._network.devices.get(interface, "")
            if self._network_known and interface not in self._network.devices:
                close = self._sections.nearest(interface, self._network.devices)
                accepted = f"did you mean '{close}'?" if close else "the name of an interface"
                message = f"there is no interface '{interface}' in the network file"
                consequence = "waits for netifd to make one of that name"
                self._say(section, "interface", message, accepted, consequence, Severity.WARNING)
        return Wan(section.name, **values, **targets)

    def _check_routing(self, sections: list[Section], routing: Routing, wans: int) -> None:
        section = sections[0] if sections else None

        def warn(option: str, message: str, accepted: str) -> None:
            self._say(section, option, message, accepted, severity=Severity.WARNING)

        mask = routing.mark_mask
        for bits, who in NEIGHBOURS:
            if mask & bits:
                warn(
                    "mark_mask", f"{mask:#x} overlaps {bits:#x}, the marks of {who}", "bits nobody else uses"
                )
        if ranges.capacity(routing) < wans:
            room = ranges.capacity(routing)
            warn("mark_mask", f"{mask:#x} has room for {room} WANs, there are {wans}", "a wider mask")
        last = routing.rule_base + ranges.SPAN - 1
        for low, high, who in (
            (1000, 3999, "mwan3"),
            (29000, 30000, "pbr"),
            (32766, 32767, "the main table"),
        ):
            if routing.rule_base <= high and last >= low:
                message = (
                    f"preferences {routing.rule_base} to {last} overlap those of {who} ({low} to {high})"
                )
                warn("rule_base", message, "a range nobody else uses: 6000")

    def _rules(self, sections: list[Section], names: frozenset[str]) -> tuple[TrafficRule, ...]:
        rules: list[TrafficRule] = []
        for section in sections:
            values = self._sections.values(section, BY_TYPE["rule"])
            if values is None or not values.pop("enabled", True):
                continue
            fields_ = self._sections.fields(BY_TYPE["rule"], values)
            if fields_.get("protocol") == "all":
                del fields_["protocol"]
            wans = self._known_wans(section, fields_.pop("wans", ()), names and names | {"balanced"})
            problem, option, accepted = "", "", ""
            if not wans:
                problem, option, accepted = "the rule names no WAN", "wan", "the name of a WAN, or balanced"
            elif fields_.keys() & {"src_port", "dst_port"} and fields_.get("protocol") == "icmp":
                problem, option, accepted = "icmp has no ports", "proto", "all, tcp or udp, or no ports"
            elif {":" in fields_[end] for end in ("src", "dst") if end in fields_} == {True, False}:
                problem, option = "source and destination are of two address families", "dest_ip"
                accepted = "both IPv4 or both IPv6"
            if problem:
                self._say(section, option, problem, accepted, "section skipped")
            else:
                rules.append(TrafficRule(section.name, **fields_, wans=wans))
        return tuple(rules)

    def _known_wans(
        self, section: Section, wanted: tuple[str, ...], names: frozenset[str]
    ) -> tuple[str, ...]:
        if not names:
            return wanted
        for name in wanted:
            if name not in names:
                close = self._sections.nearest(name, names)
                accepted = (
                    f"did you mean '{close}'?" if close else ", ".join(sorted(names)) or "the name of a WAN"
                )
                self._say(
                    section, "wan", f"there is no WAN {quoted(name)}", accepted, "this item is left out"
                )
        return tuple(name for name in wanted if name in names)

    # ---- tunnels and peers

    def _tunnels(
        self, sections: list[Section], peer_sections: list[Section], names: frozenset[str]
    ) -> tuple[Tunnel, ...]:
        overrides = self._overrides(peer_sections)
        said: dict[str, Values] = {}
        for section in sections:
            values = self._sections.values(section, BY_TYPE["tunnel"])
            if values is None:
                continue
            name = values.pop("interface", "" if section.anonymous else section.name)
            if name not in self._network.tunnels:
                self._no_tunnel(section, name)
                continue
            if name in said:
                message = f"a second section for the interface '{name}'"
                self._say(section, "", message, "one section for each interface", "section skipped")
                continue
            if "wan" in values:
                values["wan"] = self._known_wans(section, values["wan"], names)
            out = self._sections.fields(BY_TYPE["tunnel"], values)
            self._sections.order(section, BY_TYPE["tunnel"], out)
            said[name] = out
        return tuple(
            self._tunnel(found, said.get(name, {}), overrides)
            for name, found in self._network.tunnels.items()
            if said.get(name, {}).get("enabled", found.auto)
        )

    def _no_tunnel(self, section: Section, name: str) -> None:
        if not self._network_known or name in self._network.disabled:
            return
        if not name:
            message, accepted = "a tunnel section needs a name", "config tunnel '<WireGuard interface>'"
        else:
            message = f"there is no WireGuard interface '{name}' in the network file"
            close = self._sections.nearest(name, self._network.tunnels)
            known = ", ".join(sorted(self._network.tunnels)) or "the name of an interface of proto wireguard"
            accepted = f"did you mean '{close}'?" if close else known
        self._say(section, "", message, accepted, "section skipped")

    def _overrides(self, sections: list[Section]) -> dict[tuple[str, str], _Override]:
        """Peer sections by the peer that each fits."""
        peers = [peer for tunnel in self._network.tunnels.values() for peer in tunnel.peers]
        out: dict[tuple[str, str], _Override] = {}
        for section in sections:
            values = self._sections.values(section, BY_TYPE["peer"])
            if values is None:
                continue
            found = self._match(section, values, peers)
            if found is None:
                continue
            identity = (found.device, found.public_key)
            if identity in out:
                message = f"a second section for this peer; the first is in line {out[identity].section.line}"
                self._say(section, "", message, "one section for each peer", "section skipped")
                continue
            out[identity] = _Override(section, values)
        return out

    def _match(self, section: Section, values: Values, peers: list[FoundPeer]) -> FoundPeer | None:
        key, description = values.get("public_key"), values.get("description")
        interface = values.get("interface")
        if key is None and description is None:
            message = "it says neither public_key nor description, so no peer can be found"
            self._say(section, "", message, "option public_key or option description", "section skipped")
            return None
        found = [
            peer
            for peer in peers
            if (key is None or peer.public_key == key)
            and (description is None or peer.description == description)
            and (interface is None or peer.device == interface)
        ]
        if len(found) == 1:
            return found[0]
        if not self._network_known or interface in self._network.disabled:
            return None
        option = "description" if key is None else "public_key"
        if found:
            message = f"{len(found)} peers fit"
            accepted = "public_key and interface, which name one peer"
        else:
            message = "no enabled peer in the network file fits"
            known = [peer.description for peer in peers if peer.description]
            close = self._sections.nearest(description, known) if description else ""
            accepted = f"did you mean {quoted(close)}?" if close else "a peer of the network file"
        self._say(section, option, message, accepted, "section skipped")
        return None

    def _tunnel(
        self, found: FoundTunnel, said: Values, overrides: dict[tuple[str, str], _Override]
    ) -> Tunnel:
        ladder = {field.name: said[field.name] for field in fields(Ladder) if field.name in said}
        peers = []
        for peer, label in zip(found.peers, found.labels, strict=True):
            override = overrides.get((peer.device, peer.public_key))
            if override is None or override.values.get("enabled", True):
                peers.append(self._peer(peer, label, override))
        return Tunnel(
            found.device,
            found.addresses,
            found.listen_port,
            found.fwmark,
            said.get("wans", ()),
            Ladder(**ladder),
            tuple(peers),
        )

    def _peer(self, found: FoundPeer, label: str, override: _Override | None) -> Peer:
        endpoints = {found.endpoint: None} if found.endpoint else {}
        probe = next((net.partition("/")[0] for net in found.allowed_ips if _is_host(net)), "")
        others: Values = {}
        if override is not None:
            values = override.values
            for host, port in values.get("endpoint", ()):
                endpoints[HostPort(host, port or found.port)] = None
            wish = values.get("probe", "auto")
            if wish == "off":
                probe = ""
            elif wish != "auto":
                probe = wish
                self._check_probe(override.section, wish, found.allowed_ips)
            others = {name: values[name] for name in ("family", "srv", "probe_interval") if name in values}
        return Peer(
            found.device,
            found.public_key,
            label,
            tuple(endpoints),
            keepalive=found.keepalive,
            allowed_ips=found.allowed_ips,
            probe=probe,
            **others,
        )

    def _check_probe(self, section: Section, probe: str, allowed: tuple[str, ...]) -> None:
        address = ip(probe)
        if address is not None and not any(address in ipaddress.ip_network(net) for net in allowed):
            message = f"'{probe}' is not among the peer's allowed IPs, so it is not behind the tunnel"
            self._say(section, "probe", message, ", ".join(allowed[:5]), "", Severity.WARNING)
