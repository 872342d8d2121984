"""Judges commands: what is asked, by whom, whether it still counts, and whether it was answered already.

Pure. Carries nothing out: `Desk.judge` gives a Request that may be carried out, an answer that was given
before, or raises Refusal with the reason that the sender is told. docs/mqtt.md has the rules for senders.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

from wgrouter.core.model import Instant, Seconds
from wgrouter.core.records import dataclass, field
from wgrouter.mqtt.payloads import Moment
from wgrouter.mqtt.topics import Topics

SIZE_MAX = 16 << 10  # bytes of a command
LIFE_MAX: Seconds = 600.0  # `expires` lies no further ahead: so long an answer is remembered
REMEMBERED_MAX = 256
KEPT_MAX = 256 << 10  # bytes of answers; a status of 250 peers has 200 KiB, and anybody may ask for many
ID_MAX = 64
RATE, RATE_OVER = 30, 10.0  # commands looked at in so many seconds; more get no answer
TOPIC_MAX = 256
GONE = b""  # in place of an answer

# verb → argument → types, and whether it must be there.
VERBS: Mapping[str, Mapping[str, tuple[tuple[type, ...], bool]]] = {
    "refresh": {},
    "reresolve": {},
    "switch": {"wan": ((str,), True), "seconds": ((int, float), False)},
    "explain": {"subject": ((str,), False)},
    "diagnose": {"subject": ((str,), False)},
    "report": {},
    "reload": {},
    "set": {"setting": ((str,), True), "value": ((str, int, float, bool, list), True)},
}
READING = ("explain", "diagnose", "report")  # change nothing, so a clock that was never set is no obstacle

# What `set` may change: section (of a WAN: "wan") → options. Nothing that leads to the broker or to keys.
SETTABLE: Mapping[str, tuple[str, ...]] = {
    "wgrouter": ("log_level", "look_interval"),
    "wan": ("enabled", "priority", "weight", "metered", "loss_max", "latency_max", "jitter_max"),
    "probing": (
        "interval",
        "metered_interval",
        "timeout",
        "burst_interval",
        "burst_count",
        "window",
        "target",
    ),
    "hold": ("up_after", "up_max", "penalty_half_life", "margin_ms", "margin_percent"),
    "routing": ("balance", "sticky", "failback", "switch_for"),
    "mqtt": ("heartbeat", "severity"),
}


class Refusal(Exception):
    """No, and why: a code for programs, a text for people."""

    def __init__(self, code: str, text: str, id: str | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.id = id


@dataclass(frozen=True, slots=True)
class Request:
    """A command that may be carried out."""

    verb: str
    id: str
    arguments: Mapping[str, Any]
    digest: bytes


@dataclass(frozen=True, slots=True)
class Answered:
    """The same command came before: what it was answered, None while that is still under way."""

    request: Request
    response: bytes | None


@dataclass(slots=True)
class _Known:
    digest: bytes
    until: float  # by the wall clock
    response: bytes | None = None


@dataclass(slots=True)
class Desk:
    """`enabled` are the verbs that the configuration allows, `secret` that of the signatures ("": none)."""

    topics: Topics
    enabled: tuple[str, ...]
    secret: bytes
    started: Instant
    _known: dict[str, _Known] = field(default_factory=dict)
    _recent: list[Instant] = field(default_factory=list)

    def judge(
        self, topic: str, payload: bytes, moment: Moment, *, retained: bool = False, trusted: bool = True
    ) -> Request | Answered | None:
        """None: too many came at once, and this one gets no answer. Refusal otherwise says why not."""
        self._recent = [at for at in self._recent if moment.now - at < RATE_OVER]
        if len(self._recent) >= RATE:
            return None
        self._recent.append(moment.now)
        if retained:
            raise Refusal("retained", "a retained command would come again with every connection")
        if len(payload) > SIZE_MAX:
            raise Refusal("too-large", f"{len(payload)} bytes; a command has at most {SIZE_MAX}")
        verb = self.topics.verb(topic)
        text = self._verified(topic, payload)
        data = _object(text)
        id = data.get("id")
        if not isinstance(id, str) or not 0 < len(id) <= ID_MAX or not id.isascii() or not id.isprintable():
            raise Refusal("wrong-type", f"id must be 1 to {ID_MAX} printable ASCII characters")
        if verb not in VERBS:
            raise Refusal("unknown-verb", f"{verb[:40]!r} is no verb; there are: {', '.join(VERBS)}", id)
        if verb not in self.enabled:
            raise Refusal("disabled", f"{verb!r} is not enabled: `list command '{verb}'` does that", id)
        digest = hashlib.sha256(topic.encode() + b"\n" + text).digest()
        request = Request(verb, id, _arguments(verb, data, id), digest)
        expires = self._check_time(data, request, moment, trusted)
        self._known = {key: known for key, known in self._known.items() if known.until >= moment.wall}
        known = self._known.get(id)
        if known is not None:
            if known.digest != digest:
                raise Refusal("replayed", "this id was used for another command", id)
            if known.response == GONE:
                raise Refusal("replayed", "this was answered before, and the answer is no longer kept", id)
            return Answered(request, known.response)
        if len(self._known) >= REMEMBERED_MAX:
            raise Refusal("busy", f"{REMEMBERED_MAX} commands are remembered, and none has expired", id)
        self._known[id] = _Known(digest, expires)
        return request

    def answered(self, request: Request, response: bytes) -> None:
        """Keep the answer for a second copy of the command, and earlier ones as far as there is room."""
        if request.id in self._known:
            self._known[request.id].response = response
        kept = 0
        for known in reversed(self._known.values()):
            kept += len(known.response or GONE)
            if kept > KEPT_MAX and known.response is not None:
                known.response = GONE

    def _verified(self, topic: str, payload: bytes) -> bytes:
        """The text of the command. Where signatures are asked for it comes in an envelope."""
        if not self.secret:
            return payload
        envelope = _object(payload)
        text, given = envelope.get("command"), envelope.get("hmac")
        if not isinstance(text, str) or not isinstance(given, str):
            raise Refusal("unsigned", "this router takes signed commands only: command and hmac are missing")
        command = _bytes(text)
        if not hmac.compare_digest(signature(self.secret, topic, command).encode(), _bytes(given.lower())):
            raise Refusal("bad-signature", "the signature does not fit this command, topic and key")
        return command

    def _check_time(self, data: Mapping[str, Any], request: Request, moment: Moment, trusted: bool) -> float:
        until, issued = _time(data.get("expires")), _time(data.get("issued"))
        if until is None:
            raise Refusal("wrong-type", "expires must be a time in seconds since 1970", request.id)
        if issued is None and (self.secret or data.get("issued") is not None):
            raise Refusal("wrong-type", "issued must be a time in seconds since 1970", request.id)
        if not trusted:
            if request.verb not in READING:
                raise Refusal("clock", "the clock is not set, so nobody knows what has expired", request.id)
            return moment.wall + LIFE_MAX
        if until <= moment.wall:
            late = moment.wall - until
            raise Refusal("expired", f"expired {late:.0f} s ago by this router's clock", request.id)
        if until > moment.wall + LIFE_MAX:
            raise Refusal("expires-late", f"expires lies more than {LIFE_MAX:.0f} s ahead", request.id)
        if self.secret and issued is not None and issued < moment.wall - (moment.now - self.started):
            text = "issued before this agent started: whether it was carried out then is not known"
            raise Refusal("replayed", text, request.id)
        return until


def signature(secret: bytes, topic: str, command: bytes) -> str:
    """HMAC-SHA256 over topic, a newline and the command's text, in hexadecimal."""
    return hmac.new(secret, topic.encode() + b"\n" + command, hashlib.sha256).hexdigest()


def reply_topic(wanted: str, topics: Topics, verb: str) -> str:
    """Where to answer: the topic asked for if it lies below the prefix (a sender must not make the router
    write elsewhere), else the usual one.
    """
    fits = wanted.startswith(f"{topics.prefix}/") and not set(wanted) & set("+#\0")
    own = wanted.startswith(f"{topics.base}/") and not wanted.startswith(f"{topics.base}/reply/")
    return wanted if fits and not own and len(wanted) <= TOPIC_MAX else topics.response(verb)


def setting_of(arguments: Mapping[str, Any]) -> tuple[str, str, str, str | tuple[str, ...]]:
    """(section type, section name, option, value as UCI text) of a `set`. Refusal if it is not allowed."""
    name = str(arguments["setting"])
    words = name.split(".")
    kind, section, option = (words[0], "", words[1]) if len(words) == 2 else ([*words, "", "", ""])[:3]
    if len(words) not in (2, 3) or option not in SETTABLE.get(kind, ()) or (kind == "wan") != bool(section):
        can = [f"{k}{'.NAME' if k == 'wan' else ''}.{o}" for k, options in SETTABLE.items() for o in options]
        raise Refusal("not-settable", f"{name[:60]!r} cannot be set; there are: {', '.join(can)}")
    value = arguments["value"]
    if isinstance(value, list):
        if not value or not all(isinstance(item, str) and item for item in value):
            raise Refusal("wrong-type", "a list has one text or more")
        return kind, section, option, tuple(value)
    text = ("1" if value else "0") if isinstance(value, bool) else str(value)
    if not text.strip() or not text.isprintable():
        raise Refusal("wrong-type", "value is empty or not printable")
    return kind, section, option, text


def _time(value: object) -> float | None:
    """Seconds; None for what is no number, or one that no float can hold."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _bytes(text: str) -> bytes:
    """JSON may hold half a surrogate pair, which UTF-8 has no bytes for."""
    return text.encode("utf-8", "replace")


def _object(text: bytes) -> Mapping[str, Any]:
    try:
        data = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Refusal("not-json", f"a command is one JSON object: {str(error)[:100]}") from None
    if not isinstance(data, dict):
        raise Refusal("wrong-type", f"a command is one JSON object, not {type(data).__name__}")
    return data


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _arguments(verb: str, data: Mapping[str, Any], id: str) -> Mapping[str, Any]:
    unknown = sorted(str(key)[:40] for key in data if key not in ("id", "expires", "issued", "arguments"))
    if unknown:
        text = f"{unknown[0]!r} is unknown; a command has id, issued, expires and arguments"
        raise Refusal("wrong-type", text, id)
    arguments = data.get("arguments", {})
    if not isinstance(arguments, dict):
        raise Refusal("wrong-type", f"arguments must be an object, not {type(arguments).__name__}", id)
    known = VERBS[verb]
    for name, value in arguments.items():
        types, _ = known.get(name, ((), False))
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            wanted = f"it takes {', '.join(known) or 'no arguments'}"
            what = "is unknown" if not types else f"must not be {type(value).__name__}"
            raise Refusal("wrong-type", f"argument {name[:40]!r} of {verb} {what}; {wanted}", id)
    for name, (_, needed) in known.items():
        if needed and name not in arguments:
            raise Refusal("wrong-type", f"{verb} needs the argument {name!r}", id)
    return arguments
