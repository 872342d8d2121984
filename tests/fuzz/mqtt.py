"""MQTT: messages on the topics that the agent reads, and the file that it leaves for itself.

Four lines stand before a command's payload: topic, response topic, correlation data, and letters: r retained,
u the clock is not set, s signed by somebody who has the key, k signatures are asked for and this is not one.
"""

from __future__ import annotations

import functools
import json
from typing import Any

from tests.fuzz.agent import Agent, directory
from tests.mqtt_schemas import check
from tests.unit.mqtt_router import IDENTITY
from wgrouter.core.settings import Mqtt
from wgrouter.mqtt import commands
from wgrouter.mqtt.commands import SETTABLE, VERBS
from wgrouter.mqtt.courier import Courier
from wgrouter.mqtt.payloads import Moment
from wgrouter.mqtt.topics import Topics
from wgrouter.ports.control import Refused
from wgrouter.reporting import Reporting

TOPICS = Topics("wgrouter", "router")
MOMENT = Moment(5000.0, 1_763_712_400.0)
KEY = b"correct horse battery staple"
SETTINGS = Mqtt(commands=tuple(VERBS), homeassistant="homeassistant")
PAYLOAD_MAX = 1 << 20

WORDS = {
    "mqtt": [
        *(f"wgrouter/router/cmd/{verb}\n".encode() for verb in VERBS),
        *(f'"{name}"'.encode() for arguments in VERBS.values() for name in arguments),
        *(f"{kind}.{name}".encode() for kind, names in SETTABLE.items() for name in names),
        *(b'"id":"one"', b'"expires":1763712460', b'"issued":1763712390', b'"arguments":{', b'"command":"'),
        *(b"NaN", b"Infinity", b"-1", b"1e999", b"true", b"null", b'"\\ud800"', b"[[[[[[[[", b"auto", b"wan"),
        b"homeassistant/status",
    ]
}  # fmt: skip


class Link:
    """A broker that takes everything."""

    connected = True
    local = "203.0.113.3"

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes, bytes]] = []
        self.tokens: list[int] = []

    def send(
        self, token: int, topic: str, payload: bytes, qos: int, retain: bool, correlation: bytes, expiry: int
    ) -> None:
        self.sent.append((topic, payload, correlation))
        self.tokens.append(token)

    def moved(self) -> None: ...

    def hasten(self) -> None: ...


class Steady(Reporting):
    """The agent's side of MQTT at one moment, for inputs with times in them."""

    def moment(self) -> Moment:
        return MOMENT


@functools.cache
def reporting() -> Steady:
    return Steady(Agent(), Refused)


def mqtt(data: bytes) -> None:
    topic, reply_to, correlation, letters, payload = (data.split(b"\n", 4) + [b""] * 4)[:5]
    try:
        where, answer_to = topic.decode(), reply_to.decode()
    except UnicodeDecodeError:
        return  # ports/_broker_session.py ends the connection
    one, link = reporting(), Link()
    agent: Any = one._agent
    secret = KEY if set(letters) & set(b"sk") else b""
    if b"s" in letters:
        text = payload.decode("utf-8", "replace")
        given = commands.signature(KEY, where, text.encode())
        payload = json.dumps({"command": text, "hmac": given}).encode()
    state = agent.engine.state
    if b"u" in letters:
        agent.engine.state = untrusted()
    one._settings, one._trial = SETTINGS, None
    courier = one._courier = Courier(SETTINGS, TOPICS, IDENTITY, secret, one)
    courier.link = link
    try:
        one.received(where, payload, b"r" in letters, answer_to, correlation)
        one.received(where, payload, b"r" in letters, answer_to, correlation)
        while link.tokens:
            courier.acknowledged(link.tokens.pop())
        agent.heard()
        if one._trial is not None:
            one._undo(one._trial)
        while link.tokens:
            courier.acknowledged(link.tokens.pop())
    finally:
        agent.engine.state = state
    for target, body, carried in link.sent:
        assert target.startswith(("wgrouter/", "homeassistant/")) and not set(target) & set("+#\0"), target
        assert len(body) < PAYLOAD_MAX
        if carried or "/cmd/" in target:
            answered(body)


_checked: set[tuple[object, ...]] = set()


def answered(body: bytes) -> None:
    """An answer is what docs/mqtt says; the schema sees each sort of it once, as that takes the most time."""
    told = json.loads(body)
    code = told["error"]["code"] if not told["ok"] else ""
    sort = (told["verb"], code, told["id"] is None, type(told.get("result")))
    if sort not in _checked:
        check(TOPICS.response("refresh"), body)
        _checked.add(sort)


@functools.cache
def untrusted() -> Any:
    from dataclasses import replace

    state = reporting()._agent.engine.state
    return replace(state, world=replace(state.world, clock_trusted=False))


def queue(data: bytes) -> None:
    """What cannot be read is told, and the events that can are sent."""
    one = reporting()
    path = directory() / "events"
    path.write_bytes(data)
    told: list[Exception] = []
    one._settings = Mqtt(queue_file=str(path))
    agent: Any = one._agent
    agent.fault = told.append
    try:
        found = one._kept()
    finally:
        del agent.fault
    for publication in found:
        assert publication.key is not None and isinstance(publication.payload, bytes)
    one._keep(tuple(found))
    if found:
        again = one._kept()
        assert [(each.key, each.payload) for each in again] == [(each.key, each.payload) for each in found]
