"""ubus: netifd's dump and its events, and calls of our object by anybody on the bus.

An input is JSON: what blobmsg carries comes as such from the binding. {"dump": …} is what a call of netifd
returned, {"event": …, "data": …} what was broadcast, {"verb": …, "message": …} a call of our object.
"""

from __future__ import annotations

import functools
import ipaddress
import json
from typing import Any

from tests.fuzz import scene
from tests.fuzz.agent import Agent
from wgrouter.core.messages import Hinted, Observed
from wgrouter.ports import bus, control
from wgrouter.ports._netifd import interfaces_of

WORDS = {
    "ubus": [
        *(f'"{name}"'.encode() for name in bus.VERBS),
        *(f'"{name}":'.encode() for name in (
            "dump", "event", "data", "verb", "message", "interface", "l3_device", "up", "proto", "metric",
            "route", "dns-server", "target", "mask", "nexthop", "action", "path", "wan", "seconds",
        )),
        *(b'"192.0.2.1"', b'"fe80::1%wan"', b'"0.0.0.0"', b'"::"', b"true", b"null", b"-1", b"1e400",
          b'"\\ud800"'),
        *(b'"network.interface"', b'"ubus.object.add"', b'"network.interface.wan"', b"[", b"{}", b"NaN"),
    ]
}  # fmt: skip


class Request:
    """Who asked."""

    def __init__(self) -> None:
        self.replies: list[Any] = []

    def reply(self, reply: dict[str, Any]) -> None:
        self.replies.append(reply)


@functools.cache
def made() -> tuple[Agent, bus.Bus]:
    agent = Agent()

    def fault(error: Exception) -> None:
        raise error

    return agent, bus.Bus(agent.reactor, agent.answer, agent.say, refusals=(control.Refused,), on_fault=fault)


def ubus(data: bytes) -> None:
    try:
        told = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(told, dict):
        return
    agent, one = made()
    found = interfaces_of(told.get("dump"))
    for name, interface in found.items():
        assert interface.name == name and name
        for address in (*interface.dns, *interface.gateways):
            ipaddress.ip_address(address)
    if "dump" in told:
        scene.taken(scene.calm(), Observed(interfaces=found))
    one._heard(str(told.get("event")), told.get("data"))
    one._appeared("ubus.object.add", told.get("data"))
    for event in agent.reactor.events:
        assert isinstance(event, Hinted) and len(event.interface) <= bus.TEXT_MAX
    verb = told.get("verb")
    if isinstance(verb, str) and verb in bus.VERBS:
        request = Request()
        one._called(verb, request, told.get("message"))
        (reply,) = request.replies
        assert isinstance(reply, dict)
        json.dumps(reply, allow_nan=False)
    agent.heard()
