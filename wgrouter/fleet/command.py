"""A command to one router: its message, and how to know its answer. wgrouter/mqtt/commands.py has the format.

Pure: the id and the time are given to it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wgrouter.fleet import messages
from wgrouter.fleet.messages import Birth, Response, Unreadable
from wgrouter.mqtt.commands import LIFE_MAX, VERBS, signature
from wgrouter.mqtt.topics import Topics

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Wrong(Exception):
    """What was asked is no command: what is accepted."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command on its way."""

    topics: Topics
    verb: str
    arguments: dict[str, Any]
    id: str
    issued: float  # seconds since 1970
    life: float  # seconds

    @property
    def topic(self) -> str:
        return self.topics.command(self.verb)

    @property
    def reply_topic(self) -> str:
        """Below the router's own topics: its access-control list lets it write there."""
        return f"{self.topics.base}/reply/{self.id}"

    @property
    def answer_topics(self) -> tuple[str, str]:
        """Where to listen; the second one is for routers that speak MQTT 3.1.1."""
        return self.reply_topic, self.topics.response(self.verb)

    def payload(self, secret: bytes = b"") -> bytes:
        """What is published; with a secret the signed envelope."""
        data = {
            "id": self.id,
            "issued": round(self.issued, 3),
            "expires": round(self.issued + min(self.life, LIFE_MAX - 1.0), 3),
            "arguments": self.arguments,
        }
        text = json.dumps(data, separators=(",", ":"))
        if not secret:
            return text.encode()
        signed = {"command": text, "hmac": signature(secret, self.topic, text.encode())}
        return json.dumps(signed, separators=(",", ":")).encode()

    def answer(self, topic: str, payload: bytes) -> Response | None:
        """The answer to this command, None for any other message."""
        if topic not in self.answer_topics:
            return None
        try:
            response = messages.response(payload)
        except Unreadable:
            return None
        if response.id == self.id:
            return response
        # A refusal of what could not be read has no id; on a topic of our own it can only be ours.
        return response if topic == self.reply_topic and not response.id else None


def obstacle(birth: Birth | None, verb: str, signed: bool) -> str:
    """Why the router will not take it, by what it said of itself; "" if nothing speaks against it."""
    if birth is None:
        return ""
    if verb not in birth.commands:
        able = f"it takes {', '.join(birth.commands)}" if birth.commands else "it takes no commands"
        return (
            f"{verb!r} is not enabled there ({able}): `list command '{verb}'` in its configuration does that"
        )
    if birth.signed and not signed:
        return "it takes signed commands only: --command-key-file FILE"
    return ""


def arguments(verb: str, words: Sequence[str]) -> dict[str, Any]:
    """The words after the verb, by place or as name=value. Wrong says what is accepted."""
    if verb not in VERBS:
        raise Wrong(f"{verb!r} is no verb; there are: {', '.join(VERBS)}")
    wanted = VERBS[verb]
    usage = " ".join(
        [verb, *(name.upper() if needed else f"[{name.upper()}]" for name, (_, needed) in wanted.items())]
    )
    found: dict[str, Any] = {}
    free = list(wanted)
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in wanted or name in found:
            if not free:
                if verb == "set" and "value" in found:  # a list, as UCI has it
                    before = found["value"]
                    found["value"] = [*(before if isinstance(before, list) else [before]), word]
                    continue
                raise Wrong(f"{word!r} is too much; accepted: {usage}")
            name, value = free[0], word
        free.remove(name)
        types = wanted[name][0]
        found[name] = value if str in types else _seconds(value, name)
    missing = [name for name, (_, needed) in wanted.items() if needed and name not in found]
    if missing:
        raise Wrong(f"{missing[0].upper()} is missing; accepted: {usage}")
    return found


def _seconds(text: str, name: str) -> float:
    number, unit = (text[:-1], _UNITS[text[-1]]) if text[-1:] in _UNITS else (text, 1.0)
    if not number.isascii() or not number.isdigit() or not 0 < int(number[:9]) < 10**8:
        raise Wrong(f"{name} is {text!r}; accepted: 90, 90s, 10m, 2h")
    return int(number) * unit
