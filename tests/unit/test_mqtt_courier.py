"""When a connection is made anew: its way out is gone, or another WAN carries the traffic; what follows."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.mqtt_schemas import check
from tests.unit.mqtt_router import IDENTITY, SETTINGS, Router
from wgrouter.core.findings import Finding, Why
from wgrouter.core.messages import Configured
from wgrouter.core.model import Address
from wgrouter.core.settings import Mqtt, Routing, Settings
from wgrouter.mqtt.courier import Courier
from wgrouter.mqtt.payloads import Moment
from wgrouter.mqtt.topics import Topics

TOPICS = Topics("wgrouter", "router")
WAN4, LTE4, WAN6 = "203.0.113.3", "203.0.113.4", "2001:db8:3::2"


@dataclass
class Link:
    """A broker: notes what it is given, acknowledges nothing by itself."""

    local: str = WAN4
    connected: bool = True
    sent: list[tuple[int, str, bytes]] = field(default_factory=list)
    moves: int = 0
    hastes: int = 0

    def send(
        self, token: int, topic: str, payload: bytes, qos: int, retain: bool, correlation: bytes, expiry: int
    ) -> None:
        if topic.startswith("wgrouter/"):
            check(topic, payload)
        self.sent.append((token, topic, payload))

    def moved(self) -> None:
        self.moves += 1

    def hasten(self) -> None:
        self.hastes += 1


class Agent:
    """A router that reports: every step of its engine is given to the courier."""

    def __init__(self, router: Router, settings: Mqtt | None = None) -> None:
        self.router, self.link, self.said = router, Link(), [Finding(Why.AGENT_STARTED)]
        self.courier = Courier(settings or Mqtt(), TOPICS, IDENTITY, b"", self)
        self.courier.link = self.link

    def state(self) -> Any:
        return self.router.state

    def moment(self) -> Moment:
        return self.router.moment

    def tell(self, finding: Finding) -> None:
        self.said.append(finding)

    def obey(self, request: Any, answer: Any) -> None:
        raise AssertionError("nothing is asked here")

    def run(self, seconds: float) -> None:
        begun = len(self.router.steps)
        for _ in self.router.run(seconds):
            pass
        self.carry(begun)

    def carry(self, begun: int) -> None:
        for before, after, said in self.router.steps[begun:]:
            self.courier.step(before, after, said)

    def cut(self, device: str) -> None:
        begun = len(self.router.steps)
        self.router.cut(device)
        self.carry(begun)

    def events(self) -> list[Any]:
        return [json.loads(payload) for _, topic, payload in self.link.sent if topic.endswith("/event")]


@pytest.fixture
def agent() -> Agent:
    agent = Agent(Router())
    agent.run(6)
    agent.link.moves = agent.link.hastes = 0
    return agent


@pytest.mark.parametrize(
    ("local", "moves"),
    [(WAN4, 1), (WAN6, 1), (LTE4, 0), ("10.77.0.1", 0), ("203.0.113.99", 1)],
    ids=["the WAN that goes", "over IPv6", "the other WAN", "through a tunnel", "an address that is gone"],
)
def test_a_failover_moves_the_connections_of_the_wan_that_is_left(
    agent: Agent, local: str, moves: int
) -> None:
    net = agent.router.state.world.net
    assert net is not None
    tunnel = Address("wg0", "10.77.0.1/24")
    agent.router._net = lambda: replace(  # type: ignore[method-assign]
        type(agent.router)._net(agent.router), addresses=(*net.addresses, tunnel)
    )
    agent.router.look()
    agent.link.local = local
    agent.cut("eth1")
    assert (agent.link.moves > 0) == bool(moves)


def test_at_rest_nothing_moves(agent: Agent) -> None:
    agent.run(60)
    assert (agent.link.moves, agent.link.hastes) == (0, 0)


def test_balanced_traffic_stays_on_a_wan_that_works() -> None:
    balanced = Agent(Router(replace(SETTINGS, routing=Routing(balance=True))))
    balanced.run(6)
    balanced.link.moves = 0
    balanced.link.local = LTE4
    balanced.run(5)
    assert balanced.link.moves == 0
    balanced.cut("wwan0")
    assert balanced.link.moves > 0


def test_without_a_connection_a_change_starts_one_and_better_news_hasten_it(agent: Agent) -> None:
    agent.link.connected = False
    agent.cut("eth1")
    assert agent.link.moves == 1
    agent.router.mend("eth1")
    agent.run(30)
    assert agent.link.hastes > 0


def test_what_was_not_acknowledged_is_told_again_with_its_number(agent: Agent) -> None:
    while agent.link.sent:  # all that was told so far is acknowledged
        token, *_ = agent.link.sent.pop()
        agent.courier.acknowledged(token)
    agent.cut("eth1")
    first = [event["seq"] for event in agent.events()]
    assert first
    agent.link.connected = False
    agent.courier.down()
    agent.run(2)
    agent.link.sent.clear()
    agent.link.connected = True
    agent.courier.up("5")
    again = [event["seq"] for event in agent.events()]
    assert again[: len(first)] == first
    assert again == sorted(again)


def test_connecting_tells_who_is_there_before_anything_else(agent: Agent) -> None:
    agent.link.sent.clear()
    agent.courier.up("3.1.1")
    topics = [topic for _, topic, _ in agent.link.sent]
    assert topics[:2] == [TOPICS.availability, TOPICS.birth]
    birth = json.loads(agent.link.sent[1][2])
    assert birth["versions"]["mqtt"] == "3.1.1"


def test_a_finding_of_the_broker_is_logged_and_an_event(agent: Agent) -> None:
    seq = agent.courier.reporter.seq
    agent.courier.say(Finding(Why.BROKER_LOST, "", {"broker": "mqtts://b", "reason": "closed"}))
    assert agent.said[-1].why is Why.BROKER_LOST
    assert agent.courier.reporter.seq == seq + 1


def test_the_heartbeat_comes_though_nothing_happens(agent: Agent) -> None:
    agent.courier.up("5")
    agent.link.sent.clear()
    agent.router.now += 301
    agent.courier.tick()
    assert [topic for _, topic, _ in agent.link.sent] == [TOPICS.state]


def test_that_events_waited_is_taken_back_when_they_are_through(agent: Agent) -> None:
    agent.link.connected = False
    agent.cut("eth1")
    agent.link.connected = True
    agent.courier.up("5")

    def queued() -> Any:
        return [json.loads(text) for _, topic, text in agent.link.sent if topic == TOPICS.state][-1][
            "events"
        ]["queued"]

    assert queued() > 0
    for token, *_ in list(agent.link.sent):
        agent.courier.acknowledged(token)
    agent.router.now += 1.5
    agent.courier.tick()
    assert queued() == 0


def test_farewell_is_the_last_word(agent: Agent) -> None:
    agent.courier.up("5")
    for token, *_ in agent.link.sent:
        agent.courier.acknowledged(token)
    agent.courier.farewell()
    assert agent.link.sent[-1][1:] == (TOPICS.availability, b"offline")


def test_home_assistant_hears_what_a_reload_brings_and_takes() -> None:
    """A component with nothing but its platform is removed; one that is left out would stay for ever."""
    agent = Agent(Router(), Mqtt(homeassistant="homeassistant"))
    agent.run(6)
    agent.courier.up("5")
    agent.link.sent.clear()

    def told() -> list[Any]:
        found = [json.loads(text)["cmps"] for _, topic, text in agent.link.sent if topic.endswith("/config")]
        agent.link.sent.clear()
        return found

    def reloaded(settings: Settings) -> None:
        begun = len(agent.router.steps)
        agent.router.handle(Configured(settings, "seed"))
        agent.router.look()
        agent.carry(begun)

    reloaded(SETTINGS)
    assert told() == []
    tunnel = SETTINGS.tunnels[0]
    fewer = replace(SETTINGS, tunnels=(replace(tunnel, peers=tunnel.peers[1:]),), wans=SETTINGS.wans[:1])
    reloaded(fewer)
    gone = told()[-1]
    assert gone["peer_wg0_headquarters"] == {"p": "binary_sensor"}
    assert "uniq_id" in gone["peer_wg0_warehouse"]
    reloaded(SETTINGS)
    again = told()[-1]
    assert "uniq_id" in again["peer_wg0_headquarters"]
    agent.cut("eth1")
    agent.router.mend("eth1")
    agent.run(30)
    assert told() == []
