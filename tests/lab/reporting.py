"""What the tests of reporting share: an agent that reports to the lab's broker, and a witness whose every
message is checked against docs/mqtt, and for keys.
"""

import json
import os
import time
from collections.abc import Callable
from typing import Any

from tests import mqtt_schemas

from .agent import Agent
from .broker import Message, Subscriber
from .lab import Lab
from .poll import until

PLAIN, TLS, CERTIFICATE = 1883, 8883, 8884

# Tests that name no version have both sides find one, which is 5; WGROUTER_MQTT=3.1.1 runs them over that.
PROTOCOL = os.environ.get("WGROUTER_MQTT", "auto")

WANS = """
config wan 'fibre'
	option device 'eth1'
	option priority '1'
config wan 'lte'
	option device 'eth2'
	option priority '2'
config hold
	option up_after '1s'
"""


def configuration(
    lab: Lab, port: int = TLS, more: str = "", *, router: str = "router", **options: object
) -> str:
    """/etc/config/wgrouter of a router that reports, with `more` lines of the mqtt section and `options`."""
    plan = lab.routers[router]
    password = plan.write("etc/password", lab.broker.password(router) + "\n", mode=0o600)
    said: dict[str, object] = {
        "id": router,
        "username": router,
        "password_file": password,
        "ca_file": lab.broker.ca,
        "will_delay": 8,
        "protocol": PROTOCOL,
        **options,
    }
    if port == CERTIFICATE:
        certificate, key = lab.broker.client_certificate(router)
        key.chmod(0o600)
        said |= {"cert_file": certificate, "key_file": key}
    scheme = "mqtt" if port == PLAIN else "mqtts"
    lines = [f"\tlist broker '{scheme}://{lab.broker.host}:{port}'"]
    lines += [f"\toption {name} '{value}'" for name, value in said.items()]
    return "config mqtt 'mqtt'\n" + "\n".join(lines) + f"\n{more}\n"


# All that routers say, and none of what they are told (which tests fill with rubbish).
TOLD = (
    *(
        f"wgrouter/+/{end}"
        for end in ("availability", "birth", "state", "event", "wan/#", "tunnel/#", "reply/#")
    ),
    "wgrouter/+/cmd/+/response",
    "homeassistant/#",
)


class Witness:
    """A subscriber. `messages` and the rest give only what has been checked."""

    def __init__(self, lab: Lab, *topics: str) -> None:
        self._subscriber: Subscriber = lab.broker.subscribe(*(topics or TOLD))
        self._checked = 0
        keys = lab.keys
        self._keys = keys.secrets() | {key.public for key in (*keys.routers.values(), *keys.sites.values())}
        self._keys.add(lab.broker.password("router"))

    def messages(self, end: str = "") -> list[Message]:
        found = self._subscriber.messages()
        for message in found[self._checked :]:
            if message.topic.startswith("wgrouter/"):
                mqtt_schemas.check(message.topic, message.payload)
            assert not any(key in message.payload for key in self._keys), f"{message.topic} tells a key"
        self._checked = len(found)
        return [message for message in found if message.topic.endswith(end)]

    def payloads(self, end: str) -> list[Any]:
        return [json.loads(message.payload) for message in self.messages(end) if message.payload]

    def events(self, kind: str = "") -> list[tuple[float, Any]]:
        """(when it came, event); `kind` as in "uplink.failover"."""
        found = [(message.at, json.loads(message.payload)) for message in self.messages("/event")]
        return [(at, event) for at, event in found if event["type"].startswith(kind)]

    def story(self, kind: str = "") -> list[str]:
        """The types of events, each event once: a second copy has the number of the first."""
        return list({(event["boot"], event["seq"]): event["type"] for _, event in self.events(kind)}.values())

    def availability(self) -> list[tuple[float, str]]:
        return [(message.at, message.payload) for message in self.messages("/availability")]

    def await_event(self, kind: str, *, after: float = 0.0, within: float = 20.0) -> tuple[float, Any]:
        """The first event of a kind that came after a time (time.time())."""

        def found() -> list[tuple[float, Any]]:
            return [(at, event) for at, event in self.events(kind) if at >= after]

        until(lambda: bool(found()), within=within, what=f"an event {kind}")
        return found()[0]

    def settled(self, agent: Agent) -> None:
        """Wait until the router is there, all that waited has come, and its WANs are judged."""
        until(lambda: bool(self.messages("/state")), within=20, what="the first state")
        until(lambda: reporting(agent)["queued"] == 0, within=20, what="an empty queue")


def reporting(agent: Agent) -> Any:
    """What `wgrouter status` says of the broker."""
    return agent.status()["mqtt"]


def timed(act: Callable[[], object]) -> float:
    """Do it, and say when it began (time.time())."""
    begun = time.time()
    act()
    return begun
