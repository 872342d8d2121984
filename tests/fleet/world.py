"""A fleet of simulated routers: the agent's own payload code over states of the real engine.

One engine is run through each scene (all well, the first WAN cut, a peer silent); every simulated router is
one of these states with names, keys and a life of its own. Routers stand in a ring: each has tunnels to its
neighbours on both sides and to two hubs, so that others can testify for it, as in a real mesh.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace

from tests.unit.mqtt_router import PEERS, SETTINGS, Router, key
from wgrouter.core.engine import State
from wgrouter.core.findings import Finding
from wgrouter.core.settings import Settings
from wgrouter.mqtt.payloads import Identity, Moment
from wgrouter.mqtt.reporter import Reporter
from wgrouter.mqtt.topics import Publication, Topics

CALM, CUT, SILENT = "calm", "cut", "silent"
ABILITIES = {
    "commands": ["refresh", "switch", "explain"],
    "signed": False,
    "will_delay_s": 45.0,
    "heartbeat_s": 300.0,
    "homeassistant": False,
}


@dataclass(frozen=True)
class Scene:
    """Where a router got to, and the steps with something to say on the way."""

    state: State
    now: float
    said: tuple[tuple[State, State, tuple[Finding, ...]], ...]


@functools.cache
def scene(name: str) -> Scene:
    router = Router()
    list(router.run(8))
    begun = len(router.steps)
    if name == CUT:
        router.cut("eth1")
        list(router.run(5))
    elif name == SILENT:
        router.silent.add(PEERS[1].label)
        list(router.run(60))
    told = tuple(step for step in router.steps[begun if name != CALM else 0 :] if step[2])
    return Scene(router.state, router.now, told)


@dataclass
class Simulated:
    """One router. `wall` is its clock, `reboots` how often it was started anew."""

    number: int
    count: int
    prefix: str = "wgrouter"
    wall: float = 1_763_708_400.0
    reboots: int = 0
    trusted: bool = True
    reporter: Reporter = field(init=False)

    def __post_init__(self) -> None:
        self.topics = Topics(self.prefix, name(self.number))
        self.start()

    @property
    def id(self) -> str:
        return self.topics.id

    def start(self) -> None:
        boot = f"{self.number * 97 + self.reboots * 7919:08x}.{1_000_000:010x}"
        identity = Identity(
            boot,
            1000.0,
            {"wgrouter": "0.1.0", "python": "3.13.9", "paho": "1.6.1", "mqtt": "5"},
            {"host": f"office-{self.number}", "model": "GL-MT3000"},
        )
        self.reporter = Reporter(SETTINGS.mqtt, self.topics, identity)

    def moment(self, at: Scene) -> Moment:
        return Moment(at.now, self.wall)

    def neighbours(self) -> tuple[str, ...]:
        before, after = (self.number - 1) % self.count, (self.number + 1) % self.count
        return name(before), name(after), "hub-east", "hub-west"

    def own(self, state: State) -> State:
        """The state with this router's keys and peers, and its opinion of its clock."""
        keys = {peer.public_key: key(other) for peer, other in zip(PEERS, self.neighbours(), strict=True)}
        labels = dict(zip((peer.label for peer in PEERS), self.neighbours(), strict=True))
        settings = _renamed(state.settings, keys, labels)
        seen = {
            device: replace(
                one,
                public_key=key(self.id),
                peers={keys[k]: replace(p, public_key=keys[k]) for k, p in one.peers.items()},
            )
            for device, one in (state.world.wireguard or {}).items()
        }
        cares = {(device, keys[k]): care for (device, k), care in state.tunnels.peers.items()}
        world = replace(state.world, wireguard=seen, clock_trusted=self.trusted)
        return replace(state, settings=settings, world=world, tunnels=replace(state.tunnels, peers=cares))

    # ------------------------------------------------------------ what it publishes

    def everything(self, what: str = CALM) -> list[Publication]:
        """All its retained topics."""
        at = scene(what)
        counts = {"queued": 0, "dropped": 0}
        return self.reporter.everything(self.own(at.state), self.moment(at), counts, ABILITIES)

    def events(self, what: str) -> list[Publication]:
        """What it says on the way to a scene, as numbered events."""
        at = scene(what)
        subjects = {
            peer.subject: f"wg0/{other}" for peer, other in zip(PEERS, self.neighbours(), strict=True)
        }
        found = []
        for before, after, said in at.said:
            for told in said:
                finding = replace(told, subject=subjects.get(told.subject, told.subject))
                if self.reporter.worth(finding):
                    mine = (self.own(before), self.own(after))
                    found.append(self.reporter.event(*mine, finding, self.moment(at)))
        return found

    def beat(self, what: str = CALM) -> Publication:
        """Its heartbeat: the summary of now."""
        return next(one for one in self.everything(what) if one.topic == self.topics.state)


def _renamed(settings: Settings, keys: dict[str, str], labels: dict[str, str]) -> Settings:
    tunnels = tuple(
        replace(
            tunnel,
            peers=tuple(
                replace(peer, public_key=keys[peer.public_key], label=labels[peer.label])
                for peer in tunnel.peers
            ),
        )
        for tunnel in settings.tunnels
    )
    return replace(settings, tunnels=tunnels)


def name(number: int) -> str:
    return f"r{number:04d}"


def fleet(count: int, prefix: str = "wgrouter", wall: float = 1_763_708_400.0) -> list[Simulated]:
    return [Simulated(number, count, prefix, wall) for number in range(count)]


def offline(one: Simulated) -> Publication:
    return Publication(one.topics.availability, b"offline", 1, True)
