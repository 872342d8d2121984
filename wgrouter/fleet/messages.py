"""What a router said, from bytes that anybody may have written: typed, bounded and safe to show.

Pure. `read` gives a value or raises Unreadable with the reason, never anything else; unknown fields are
ignored, as docs/mqtt/schemas/common.json asks of a reader. No text that leaves here holds a character that a
terminal would obey.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

SCHEMA = 1  # the version of the payloads that is understood
PAYLOAD_MAX = 64 << 10  # bytes; a router with 100 peers needs 12 KiB
RESPONSE_MAX = 1 << 20  # a whole status of many peers
TEXT_MAX = 300
NAME_MAX = 64
WANS_MAX, PEERS_MAX = 32, 512  # of one router; more are not shown
COMBINING_MAX = 2  # marks on one character
FIGURE_MAX = 1e15


class Unreadable(Exception):
    """This message is not one of ours, or not of this version: why, safe to show."""


@dataclass(frozen=True, slots=True)
class Head:
    """What begins every payload."""

    time: float  # seconds since 1970 by the router's clock
    clock_trusted: bool
    boot: str

    @property
    def machine_boot(self) -> str:
        """The part that stays the same while the machine itself runs on."""
        return self.boot.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Birth:
    head: Head
    uptime: float  # seconds, of the agent
    versions: Mapping[str, str]
    machine: Mapping[str, str]
    commands: tuple[str, ...]
    signed: bool
    will_delay: float  # seconds
    heartbeat: float  # seconds
    wans: tuple[str, ...]  # in the router's order
    interfaces: Mapping[str, str]  # interface → fingerprint of its own key, "" where it is not known


@dataclass(frozen=True, slots=True)
class PathBrief:
    state: str
    latency: float | None  # milliseconds
    loss: float | None  # percent


@dataclass(frozen=True, slots=True)
class PeerBrief:
    state: str
    cause: str
    handshake_age: float | None  # seconds before the message's time
    rx: int
    tx: int


@dataclass(frozen=True, slots=True)
class Worst:
    subject: str
    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Last:
    """The latest event, as the summary repeats it."""

    time: float
    type: str
    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class State:
    head: Head
    uptime: float
    active: Mapping[str, str]  # family → WAN, "" where none carries it
    manual: str
    switches: int
    alive: int
    peers: int
    worst: Worst | None
    last: Last | None
    seq: int
    queued: int
    dropped: int
    wans: Mapping[str, Mapping[str, PathBrief]]  # WAN → family →
    tunnels: Mapping[str, PeerBrief]  # "interface/peer" →


@dataclass(frozen=True, slots=True)
class PathSeen:
    state: str
    since: float | None  # seconds before the message's time
    gateway: str
    active: bool
    why: str
    latency: float | None
    loss: float | None


@dataclass(frozen=True, slots=True)
class Wan:
    head: Head
    name: str
    device: str
    paths: Mapping[str, PathSeen]  # family →


@dataclass(frozen=True, slots=True)
class Peer:
    head: Head
    interface: str
    label: str
    fingerprint: str
    state: str
    since: float | None
    endpoint: str
    wan: str
    step: str
    cause: str
    text: str


@dataclass(frozen=True, slots=True)
class Event:
    head: Head
    seq: int
    type: str
    severity: str
    subject: str
    text: str
    cause: str  # its code
    cause_text: str
    family: str
    before: str  # the WAN of uplink.*, "" elsewhere
    after: str
    missing: tuple[int, int] | None  # first and last number of events.dropped


@dataclass(frozen=True, slots=True)
class Response:
    head: Head
    verb: str
    id: str
    ok: bool
    result: Any  # as it came: whoever shows it cleans it
    code: str
    text: str


# ---------------------------------------------------------------- text


def clean(text: str, most: int = TEXT_MAX) -> str:
    """The text without what could move a cursor, turn the direction of writing or pile up on one place."""
    text = text[:most]
    if text.isascii():
        return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)
    out: list[str] = []
    marks = 0
    for character in unicodedata.normalize("NFC", text):
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks <= COMBINING_MAX:
            out.append(character if character.isprintable() else "?")
    return "".join(out)


# ---------------------------------------------------------------- fields


class _Fields:
    """A JSON object whose fields are asked for by type. Unreadable names the one that is wrong."""

    __slots__ = ("_data", "_where")

    def __init__(self, data: object, where: str) -> None:
        if not isinstance(data, dict):
            raise Unreadable(f"{where} is {_kind(data)}, not an object")
        self._data: dict[str, Any] = data
        self._where = where

    def _wrong(self, name: str, wanted: str) -> Unreadable:
        where = f"{self._where}.{name}" if self._where != "it" else name
        if name not in self._data:
            return Unreadable(f"{clean(where, 80)} is missing")
        return Unreadable(f"{clean(where, 80)} is {_kind(self._data[name])}, not {wanted}")

    def text(self, name: str, most: int = TEXT_MAX) -> str:
        value = self._data.get(name)
        if not isinstance(value, str):
            raise self._wrong(name, "a text")
        return clean(value, most)

    def maybe_text(self, name: str, most: int = NAME_MAX) -> str:
        """ "" for null and for what is not there."""
        return "" if self._data.get(name) is None else self.text(name, most)

    def number(self, name: str) -> float:
        value = self._data.get(name)
        right = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not right or not abs(value) < FIGURE_MAX:  # type: ignore[arg-type]
            raise self._wrong(name, "a number")
        return float(value)  # type: ignore[arg-type]

    def age(self, name: str) -> float | None:
        return None if self._data.get(name) is None else max(0.0, self.number(name))

    def figure(self, name: str) -> float | None:
        return None if self._data.get(name) is None else self.number(name)

    def count(self, name: str) -> int:
        value = self._data.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < FIGURE_MAX:
            raise self._wrong(name, "a whole number")
        return value

    def flag(self, name: str) -> bool:
        value = self._data.get(name)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def part(self, name: str) -> _Fields:
        if not isinstance(self._data.get(name), dict):
            raise self._wrong(name, "an object")
        return _Fields(self._data[name], f"{self._where}.{name}" if self._where != "it" else name)

    def maybe_part(self, name: str) -> _Fields | None:
        return None if self._data.get(name) is None else self.part(name)

    def parts(self, name: str, most: int) -> Iterator[tuple[str, _Fields]]:
        """The objects in an object, by their cleaned names."""
        inner = self.part(name)
        for key in list(inner._data)[:most]:
            yield clean(key, NAME_MAX), inner.part(key)

    def texts(self, name: str, most: int) -> Mapping[str, str]:
        """An object of texts; null becomes ""."""
        inner = self.part(name)
        return {clean(key, NAME_MAX): inner.maybe_text(key, NAME_MAX) for key in list(inner._data)[:most]}

    def names(self, name: str, most: int) -> tuple[str, ...]:
        value = self._data.get(name)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong(name, "a list of texts")
        return tuple(clean(item, NAME_MAX) for item in value[:most])

    def raw(self, name: str) -> Any:
        return self._data.get(name)


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "true or false"
    words = {"dict": "an object", "list": "a list", "str": "a text", "int": "a number", "NoneType": "null"}
    return words.get(type(value).__name__, "a number")


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)  # one for all: making it costs as much as its work


def decoded(payload: bytes, most: int = PAYLOAD_MAX) -> Any:
    """JSON of at most so many bytes. Unreadable if it is something else."""
    if len(payload) > most:
        raise Unreadable(f"{len(payload)} bytes; a message has at most {most}")
    try:
        return _DECODER.decode(payload.decode())
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"not JSON: {clean(str(error), 80)}") from None


# ---------------------------------------------------------------- payloads


def online(payload: bytes) -> bool:
    """…/availability."""
    if payload not in (b"online", b"offline"):
        shown = clean(payload[:20].decode("utf-8", "replace"))
        raise Unreadable(f"availability is '{shown}', not online or offline")
    return payload == b"online"


def _opened(payload: bytes, most: int = PAYLOAD_MAX) -> tuple[_Fields, Head]:
    fields = _Fields(decoded(payload, most), "it")
    version = fields.count("v")
    if version != SCHEMA:
        raise Unreadable(f"schema {version}; this program reads {SCHEMA}: is it older than the router?")
    head = Head(fields.number("time"), fields.flag("clock_trusted"), fields.text("boot", NAME_MAX))
    return fields, head


def birth(payload: bytes) -> Birth:
    fields, head = _opened(payload)
    able = fields.part("capabilities")
    return Birth(
        head,
        fields.number("uptime_s"),
        fields.texts("versions", WANS_MAX),
        fields.texts("machine", WANS_MAX),
        able.names("commands", WANS_MAX),
        able.flag("signed"),
        able.number("will_delay_s"),
        able.number("heartbeat_s"),
        fields.names("wans", WANS_MAX),
        {name: one.maybe_text("fingerprint") for name, one in fields.parts("tunnels", PEERS_MAX)},
    )


def state(payload: bytes) -> State:
    fields, head = _opened(payload)
    worst, last, events = fields.maybe_part("worst"), fields.maybe_part("last"), fields.part("events")
    tunnels: dict[str, PeerBrief] = {}
    for device, tunnel in fields.parts("tunnels", PEERS_MAX):
        for label, peer in tunnel.parts("peers", PEERS_MAX - len(tunnels)):
            tunnels[f"{device}/{label}"] = PeerBrief(
                peer.text("state", NAME_MAX),
                peer.text("cause", NAME_MAX),
                peer.age("handshake_age_s"),
                peer.count("rx_bytes"),
                peer.count("tx_bytes"),
            )
    return State(
        head,
        fields.number("uptime_s"),
        fields.texts("active", 4),
        fields.maybe_text("manual"),
        fields.count("switches"),
        fields.count("peers_alive"),
        fields.count("peers"),
        Worst(worst.text("subject", 2 * NAME_MAX), worst.text("code", NAME_MAX), worst.text("text"))
        if worst
        else None,
        Last(
            last.number("time"),
            last.text("type", NAME_MAX),
            last.text("subject", 2 * NAME_MAX),
            last.text("text"),
        )
        if last
        else None,
        events.count("seq"),
        events.count("queued"),
        events.count("dropped"),
        {
            name: {
                family: PathBrief(
                    path.text("state", NAME_MAX), path.figure("latency_ms"), path.figure("loss_percent")
                )
                for family, path in _families(one)
            }
            for name, one in fields.parts("wans", WANS_MAX)
        },
        tunnels,
    )


def _families(one: _Fields) -> Iterator[tuple[str, _Fields]]:
    for family in ("ipv4", "ipv6"):
        if one.raw(family) is not None:
            yield family, one.part(family)


def wan(payload: bytes) -> Wan:
    fields, head = _opened(payload)
    return Wan(
        head,
        fields.text("wan", NAME_MAX),
        fields.maybe_text("device"),
        {
            family: PathSeen(
                path.text("state", NAME_MAX),
                path.age("since_s"),
                path.maybe_text("gateway"),
                path.flag("active"),
                path.text("why"),
                path.figure("latency_ms"),
                path.figure("loss_percent"),
            )
            for family, path in _families(fields.part("paths"))
        },
    )


def peer(payload: bytes) -> Peer:
    fields, head = _opened(payload)
    cause = fields.part("cause")
    return Peer(
        head,
        fields.text("interface", NAME_MAX),
        fields.text("peer", NAME_MAX),
        fields.text("fingerprint", NAME_MAX),
        fields.text("state", NAME_MAX),
        fields.age("since_s"),
        fields.maybe_text("endpoint", 2 * NAME_MAX),
        fields.maybe_text("wan"),
        fields.maybe_text("step"),
        cause.text("code", NAME_MAX),
        cause.text("text"),
    )


def event(payload: bytes) -> Event:
    fields, head = _opened(payload)
    cause, kind = fields.part("cause"), fields.text("type", NAME_MAX)
    before, after = fields.maybe_part("before"), fields.maybe_part("after")
    moved = kind.startswith("uplink.")
    missing = None
    if kind == "events.dropped" and before:
        first = before.count("first")
        missing = first, first + before.count("count") - 1
    return Event(
        head,
        fields.count("seq"),
        kind,
        fields.text("severity", NAME_MAX),
        fields.text("subject", 2 * NAME_MAX),
        fields.text("text"),
        cause.text("code", NAME_MAX),
        cause.text("text"),
        fields.maybe_text("family"),
        before.maybe_text("wan") if moved and before else "",
        after.maybe_text("wan") if moved and after else "",
        missing,
    )


def response(payload: bytes) -> Response:
    """The answer to a command."""
    fields, head = _opened(payload, RESPONSE_MAX)
    ok = fields.flag("ok")
    error = None if ok else fields.part("error")
    return Response(
        head,
        fields.text("verb", NAME_MAX),
        fields.maybe_text("id"),
        ok,
        fields.raw("result"),
        error.text("code", NAME_MAX) if error else "",
        error.text("text", 1000) if error else "",
    )
