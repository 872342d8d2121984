"""The topics of one router, and the one value that goes to them: a Publication.

<prefix>/<id>/availability               retained: online | offline (the last will)
<prefix>/<id>/birth                      retained: who this is and what it can do
<prefix>/<id>/state                      retained: the whole router in brief; the heartbeat
<prefix>/<id>/wan/<name>                 retained: one uplink
<prefix>/<id>/tunnel/<interface>/<peer>  retained: one peer
<prefix>/<id>/event                      what happened, numbered
<prefix>/<id>/cmd/<verb>                 read: a command; its answer goes to …/response if nowhere else
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from wgrouter.core.records import dataclass

ONLINE, OFFLINE = "online", "offline"


@dataclass(frozen=True, slots=True)
class Publication:
    """One message. `key` is (boot, seq) of an event; `correlation` and `expiry` (seconds, 0: none) are MQTT
    5's.
    """

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    key: tuple[str, int] | None = None
    correlation: bytes = b""
    expiry: int = 0


@dataclass(frozen=True, slots=True)
class Topics:
    """Where everything of one router goes."""

    prefix: str
    id: str

    @property
    def base(self) -> str:
        return f"{self.prefix}/{self.id}"

    @property
    def availability(self) -> str:
        return f"{self.base}/availability"

    @property
    def birth(self) -> str:
        return f"{self.base}/birth"

    @property
    def state(self) -> str:
        return f"{self.base}/state"

    @property
    def event(self) -> str:
        return f"{self.base}/event"

    @property
    def commands(self) -> str:
        """The filter that all commands fit."""
        return f"{self.base}/cmd/+"

    def wan(self, name: str) -> str:
        return f"{self.base}/wan/{level(name)}"

    def tunnel(self, interface: str, peer: str) -> str:
        return f"{self.base}/tunnel/{level(interface)}/{level(peer)}"

    def command(self, verb: str) -> str:
        return f"{self.base}/cmd/{verb}"

    def response(self, verb: str) -> str:
        return f"{self.base}/cmd/{level(verb)}/response"

    def verb(self, topic: str) -> str:
        """The verb of a command's topic, "" for any other topic."""
        start = f"{self.base}/cmd/"
        verb = topic.removeprefix(start) if topic.startswith(start) else ""
        return "" if "/" in verb else verb


def level(text: str) -> str:
    """Text as one level of a topic. Where characters must be replaced a digest keeps two names apart."""
    if text and text.isprintable() and not set(text) & set("/+#$ "):
        return text
    clean = "".join(c if c.isprintable() and c not in "/+#$ " else "_" for c in text)
    return f"{clean}-{fingerprint(text, 4)}"


def fingerprint(text: str, digits: int = 8) -> str:
    """Enough of a digest to recognise something by, without saying it."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:digits]


def encoded(data: Mapping[str, Any]) -> bytes:
    """JSON without spaces: each byte is paid for on a metered link."""
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode(
        "utf-8", "backslashreplace"
    )
