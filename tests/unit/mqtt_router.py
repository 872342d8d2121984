"""A router for the tests of what is told: the real engine, with two WANs and four peers of whom all is made
up.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import replace

from wgrouter.core.engine import Engine, State
from wgrouter.core.findings import Finding
from wgrouter.core.messages import Configured, Event, Observed, Probe, Replied, Woke
from wgrouter.core.model import (
    RT_TABLE_MAIN,
    Address,
    DeviceSeen,
    Endpoint,
    Hop,
    Link,
    Net,
    PeerSeen,
    Route,
)
from wgrouter.core.settings import HostPort, Peer, Settings, Tunnel, Wan
from wgrouter.mqtt.payloads import Identity, Moment

WALL = 1_763_708_400.0
IDENTITY = Identity(
    "0a1b2c3d.0000001f40",
    1000.0,
    {"wgrouter": "0.1.0", "python": "3.13.9", "paho": "1.6.1", "mqtt": "5"},
    {"host": "office-router", "model": "GL-MT3000"},
)


def key(text: str) -> str:
    """A key that nobody holds."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


NAMES = ("headquarters", "warehouse", "backup-site", "berlin-office")
PEERS = tuple(
    Peer("wg0", key(name), name, (HostPort("198.51.100.1", 51820),), keepalive=25, probe=f"10.77.1.{number}")
    for number, name in enumerate(NAMES, start=1)
)
SETTINGS = Settings(
    tunnels=(Tunnel("wg0", peers=PEERS),),
    wans=(
        Wan("wan", interface="wan", device="eth1", priority=1),
        Wan("lte", interface="lte", device="wwan0", priority=2),
    ),
)


class Router:
    """`run` lets time pass; `cut` and `mend` pull and plug cables; `silent` are peers, by their labels, that
    are not heard any more, `deaf` silences the targets of all probes.
    """

    def __init__(self, settings: Settings = SETTINGS) -> None:
        self.engine = Engine()
        self.now = 1000.0
        self.cables = {"eth1": True, "wwan0": True}
        self.silent: set[str] = set()
        self.deaf = False
        self.frozen: dict[str, PeerSeen] = {}
        self.received = 1_000_000
        self.next_look = self.now
        self.wake = self.now
        self.steps: list[tuple[State, State, tuple[Finding, ...]]] = []
        self._answers: list[tuple[float, Event]] = []
        self.handle(Configured(settings, "seed"))

    @property
    def state(self) -> State:
        return self.engine.state

    @property
    def moment(self) -> Moment:
        return Moment(self.now, WALL + self.now - 1000.0)

    def handle(self, event: Event) -> None:
        before = self.engine.state
        step = self.engine.handle(event, self.now)
        self.steps.append((before, self.engine.state, step.findings))
        self.wake = step.wake_at
        for effect in step.effects:
            deaf = {peer.probe for peer in PEERS if peer.label in self.silent}
            if (
                isinstance(effect, Probe)
                and self.cables.get(effect.device, True)
                and effect.target not in deaf
                and not self.deaf
            ):
                self._answers.append((self.now + 0.012, Replied(effect.id, 0.012)))

    def look(self) -> None:
        self.handle(Observed(self._net(), self._wireguard(), (), None))

    def run(self, seconds: float) -> Iterator[tuple[State, State, tuple[Finding, ...]]]:
        """The steps that were made meanwhile."""
        end = self.now + seconds
        begun = len(self.steps)
        while self.now < end:
            self._answers.sort(key=lambda item: item[0])
            times = [end, max(self.wake, self.now + 0.001), self.next_look]
            times += [self._answers[0][0]] if self._answers else []
            self.now = max(self.now, min(times))
            if self._answers and self._answers[0][0] <= self.now:
                self.handle(self._answers.pop(0)[1])
            elif self.next_look <= self.now:
                self.next_look = self.now + 1.0
                self.received += 5000
                self.look()
            else:
                self.handle(Woke())
        return iter(self.steps[begun:])

    def cut(self, device: str) -> None:
        self.cables[device] = False
        self.look()

    def mend(self, device: str) -> None:
        self.cables[device] = True
        self.look()

    def _net(self) -> Net:
        links = {"wg0": Link(9, "wg0", kind="wireguard")}
        addresses, routes = [], []
        for number, (device, plugged) in enumerate(self.cables.items(), start=3):
            links[device] = Link(number, device, carrier=plugged)
            for family, host, gateway in (
                (4, f"203.0.113.{number}/24", "203.0.113.1"),
                (6, f"2001:db8:{number}::2/64", f"2001:db8:{number}::1"),
            ):
                addresses.append(Address(device, host))
                hop = Hop(gateway, device)
                dst = "0.0.0.0/0" if family == 4 else "::/0"
                routes.append(Route(family, RT_TABLE_MAIN, dst, (hop,), metric=number, linkdown=not plugged))
        return Net(links, tuple(addresses), tuple(routes))

    def _wireguard(self) -> dict[str, DeviceSeen]:
        seen = {}
        for peer in PEERS:
            token = int(self.now) // 120 + 1
            one = PeerSeen(peer.public_key, Endpoint("198.51.100.1", 51820), (token, 0), self.received, 9_000)
            if peer.label in self.silent:  # nothing comes any more, and what is sent grows
                one = replace(self.frozen.setdefault(peer.label, one), tx_bytes=self.received)
            seen[peer.public_key] = one
        return {"wg0": DeviceSeen("wg0", key("own"), 51820, 0x3F000000, False, seen)}
