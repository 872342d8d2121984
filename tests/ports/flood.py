"""An agent's reporting half in a process of its own, so that its memory can be seen: the real engine with a
made-up router, the courier, the broker port.

Usage: python -m tests.ports.flood PORT PROTOCOL EVENTS. It connects, says "up", and at each line of its
input does the next thing: tells the events (while the broker is away), then waits until they have arrived.
Each answer is a line of JSON: {"rss_mib", "seq", "queued", "dropped"}.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from tests.unit.mqtt_router import IDENTITY, Router
from wgrouter.core import engine
from wgrouter.core.findings import Finding
from wgrouter.core.settings import Mqtt
from wgrouter.mqtt.courier import Courier
from wgrouter.mqtt.payloads import Moment
from wgrouter.mqtt.topics import Topics
from wgrouter.ports import broker
from wgrouter.shell.reactor import Reactor

CHUNK = 100  # events between two looks at the broker


def resident_mib() -> float:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS:")) / 1024


class Flood:
    """The world of a courier, in which the same cable is cut again and again."""

    def __init__(self, reactor: Reactor, settings: Mqtt, events: int) -> None:
        self.reactor, self.events = reactor, events
        self.router = Router()
        for _ in self.router.run(6):
            pass
        begun = len(self.router.steps)
        self.router.cut("eth1")
        self.cut = next(step for step in self.router.steps[begun:] if len(step[2]) > 1)
        self.courier = Courier(settings, Topics("wgrouter", "router"), IDENTITY, b"", self)
        self.link = broker.Broker(
            reactor, settings, "wgrouter-router", self.courier.will, self.courier.subscriptions, (), self
        )
        self.courier.link = self.link
        self.link.open()
        self.full_mib = 0.0  # as soon as the queue is

    def state(self) -> engine.State:
        return self.router.state

    def moment(self) -> Moment:
        return self.router.moment

    def tell(self, finding: Finding) -> None:
        pass

    def obey(self, request: Any, answer: Any) -> None:
        raise AssertionError("nothing is asked here")

    def up(self, version: str) -> None:
        self.courier.up(version)
        self.answer()

    def down(self) -> None:
        self.courier.down()

    def acknowledged(self, token: int) -> None:
        self.courier.acknowledged(token)

    def received(self, topic: str, payload: bytes, retained: bool, reply_to: str, correlation: bytes) -> None:
        pass

    def say(self, finding: Finding) -> None:
        self.courier.say(finding)

    def answer(self, **more: object) -> None:
        told: Mapping[str, object] = {"rss_mib": resident_mib(), "seq": self.courier.reporter.seq}
        print(json.dumps({**told, **self.courier.counts(), **more}), flush=True)

    def flood(self) -> None:
        """Some, then the loop's turn: the broker is sought meanwhile."""
        if self.link.connected:
            self.reactor.call_at(self.reactor.now() + 0.01, self.flood)
            return
        reporter, outbox = self.courier.reporter, self.courier.outbox
        for _ in range(CHUNK // len(self.cut[2])):
            self.courier.step(*self.cut)
        if outbox.dropped and not self.full_mib:
            self.full_mib = resident_mib()
        if reporter.seq < self.events:
            self.reactor.call_at(self.reactor.now(), self.flood)
        else:
            self.answer(full_mib=self.full_mib)

    def arrived(self) -> None:
        self.link.hasten()
        if self.link.connected and not len(self.courier.outbox):
            self.answer()
        else:
            self.reactor.call_at(self.reactor.now() + 0.1, self.arrived)

    def end(self) -> None:
        self.courier.farewell()
        self.link.close(5.0)
        self.reactor.stop()


def main(port: str, protocol: str, events: str) -> None:
    with Reactor() as reactor:
        settings = Mqtt(brokers=(f"mqtt://127.0.0.1:{port}",), protocol=protocol, will_delay=60.0)
        flood = Flood(reactor, settings, int(events))
        steps: tuple[Callable[[], None], ...] = (flood.flood, flood.arrived, flood.end)

        def listen() -> None:
            for step in steps:
                sys.stdin.readline()
                reactor.call_threadsafe(step)

        threading.Thread(target=listen, daemon=True).start()
        reactor.run(lambda event, now: float("inf"))


if __name__ == "__main__":
    main(*sys.argv[1:])
