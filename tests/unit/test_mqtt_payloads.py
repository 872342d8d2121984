"""What is told: every payload against its schema, what is an event, what is not, and how much it weighs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests import mqtt_schemas
from tests.mqtt_schemas import check
from tests.unit.mqtt_router import IDENTITY, PEERS, SETTINGS, Router, key
from wgrouter.core.findings import Finding, Why
from wgrouter.core.messages import Configured
from wgrouter.core.settings import Mqtt
from wgrouter.mqtt.outbox import Gap
from wgrouter.mqtt.reporter import Reporter
from wgrouter.mqtt.topics import Publication, Topics, level

TOPICS = Topics("wgrouter", "router")
ABILITIES = {
    "commands": ["refresh", "switch"],
    "signed": False,
    "will_delay_s": 45.0,
    "heartbeat_s": 300.0,
    "homeassistant": False,
}
COUNTS = {"queued": 0, "dropped": 0}


class Told:
    """A reporter beside a router, and all it published."""

    def __init__(self, router: Router, settings: Mqtt | None = None) -> None:
        self.router = router
        self.reporter = Reporter(settings or Mqtt(), TOPICS, IDENTITY)
        self.all: list[Publication] = []

    def connect(self) -> list[Publication]:
        found = self.reporter.everything(self.router.state, self.router.moment, COUNTS, ABILITIES)
        return self._take(found)

    def run(self, seconds: float) -> list[Publication]:
        begun = len(self.all)
        end = self.router.now + seconds
        while self.router.now < end:
            for before, after, said in self.router.run(min(0.05, end - self.router.now)):
                self._take(self.reporter.step(before, after, said, self.router.moment, COUNTS))
        return self.all[begun:]

    def _take(self, found: list[Publication]) -> list[Publication]:
        for publication in found:
            check(publication.topic, publication.payload)
        self.all += found
        return found


@pytest.fixture
def told() -> Told:
    told = Told(Router())
    told.run(8)
    told.connect()
    return told


def events(found: list[Publication]) -> list[dict[str, object]]:
    return [json.loads(one.payload) for one in found if one.topic.endswith("/event")]


def last(told: Told, topic: str) -> dict[str, object]:
    return next(json.loads(one.payload) for one in reversed(told.all) if one.topic == topic)


def test_the_document_names_every_schema_and_they_hold_together() -> None:
    api = mqtt_schemas.document()
    text = mqtt_schemas.ASYNCAPI.read_text()
    for path in (mqtt_schemas.DOCS / "schemas").glob("*.json"):
        mqtt_schemas.validator(path.stem).check_schema(json.loads(path.read_text()))
        assert path.stem == "common" or f"schemas/{path.name}" in text
    for operation in api["operations"].values():
        assert operation["channel"]["$ref"].removeprefix("#/channels/") in api["channels"]
    for channel in api["channels"].values():
        for name in channel["messages"]:
            reference = api["components"]["messages"][name]["payload"]["schema"]["$ref"]
            assert (mqtt_schemas.DOCS / reference).is_file()
        assert set(channel["parameters"]) == {
            part.strip("{}") for part in channel["address"].split("/") if part.startswith("{")
        }


def test_the_schemas_refuse_what_is_wrong(told: Told) -> None:
    good = last(told, TOPICS.state)
    for broken in (
        {**good, "uptime_s": "long"},
        {**good, "surprise": 1},
        {k: v for k, v in good.items() if k != "wans"},
    ):
        with pytest.raises(AssertionError):
            check(TOPICS.state, json.dumps(broken))
    with pytest.raises(LookupError):
        check("wgrouter/router/weather", "{}")


def test_on_connecting_everything_is_told(told: Told) -> None:
    topics = {one.topic for one in told.all if one.retain}
    assert topics == {
        "wgrouter/router/availability",
        "wgrouter/router/birth",
        "wgrouter/router/state",
        "wgrouter/router/wan/wan",
        "wgrouter/router/wan/lte",
        *(f"wgrouter/router/tunnel/wg0/{peer.label}" for peer in PEERS),
    }
    assert last(told, TOPICS.state)["peers_alive"] == 4
    assert last(told, TOPICS.state)["active"] == {"ipv4": "wan", "ipv6": "wan"}


def test_a_heartbeat_is_small(told: Told) -> None:
    sizes = [len(one.payload) for one in told.all if one.topic == TOPICS.state]
    assert max(sizes) <= 1536


def test_at_rest_there_is_the_heartbeat_and_nothing_else(told: Told) -> None:
    told.run(10)
    found = told.run(310)
    assert [one.topic for one in found] == [TOPICS.state]
    # A day of heartbeats; docs/mqtt.md tells this figure (with MQTT's and TCP's own bytes on top).
    assert max(len(one.payload) for one in found) * 86400 / 300 < 450_000


def test_a_cut_is_one_event_for_each_family_with_cause_and_both_wans(told: Told) -> None:
    told.router.cut("eth1")
    steps = [step for step in told.router.steps if any(f.why is Why.UPLINK_FAILOVER for f in step[2])]
    before, after, said = steps[-1]
    data = [
        check(TOPICS.event, told.reporter.event(before, after, finding, told.router.moment).payload)
        for finding in said
        if finding.why is Why.UPLINK_FAILOVER
    ]
    assert {event["family"] for event in data} == {"ipv4", "ipv6"}
    for event in data:
        assert event["before"] == {"wan": "wan"}
        assert event["after"] == {"wan": "lte"}
        assert event["cause"]["code"].startswith("wan.")
        assert event["severity"] == "warning"


def test_events_count_from_one_without_holes(told: Told) -> None:
    told.router.cut("eth1")
    told.run(3)
    told.router.mend("eth1")
    told.run(20)
    numbers = [event["seq"] for event in events(told.all)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > 3


def test_a_dead_peer_is_the_worst_thing_until_it_lives_again(told: Told) -> None:
    told.router.silent.add("warehouse")
    told.run(60)
    state = last(told, TOPICS.state)
    assert state["peers_alive"] == 3
    worst = state["worst"]
    assert isinstance(worst, dict)
    assert worst["subject"] == "wg0/warehouse"
    peer = last(told, "wgrouter/router/tunnel/wg0/warehouse")
    assert peer["state"] == "dead"


def test_offline_only_events_are_made(told: Told) -> None:
    told.reporter.online = False
    told.router.cut("eth1")
    assert {one.topic for one in told.run(5)} <= {TOPICS.event}


def test_what_is_configured_no_more_is_taken_away(told: Told) -> None:
    tunnel = replace(SETTINGS.tunnels[0], peers=PEERS[:3])
    router = told.router
    router.handle(Configured(replace(SETTINGS, tunnels=(tunnel,)), "seed"))
    found = told.run(3)
    gone = [one for one in found if one.topic == "wgrouter/router/tunnel/wg0/berlin-office"]
    assert [one.payload for one in gone] == [b""]
    assert gone[0].retain


def test_no_payload_has_a_key(told: Told) -> None:
    told.router.silent.add("warehouse")
    told.router.cut("eth1")
    told.run(60)
    text = b"".join(one.payload for one in told.all)
    assert len(text) > 5000
    for secret in (key("own"), *(peer.public_key for peer in PEERS)):
        assert secret.encode() not in text


def test_the_least_severity_is_configured() -> None:
    told = Told(Router(), Mqtt(severity="warning"))
    told.run(5)
    told.router.cut("eth1")
    told.run(5)
    assert {event["severity"] for event in events(told.all)} <= {"warning", "error"}


def test_a_gap_says_which_numbers_are_missing(told: Told) -> None:
    one = told.reporter.gap(told.router.state, told.router.moment, Gap(IDENTITY.boot, 3, 90))
    data = check(one.topic, one.payload)
    assert (data["seq"], data["before"]) == (90, {"first": 3, "count": 88})


def test_texts_are_bounded(told: Told) -> None:
    said = Finding(Why.CONFIG_PROBLEM, "", {"reason": "x" * 5000})
    state = told.router.state
    one = told.reporter.event(state, state, said, told.router.moment)
    check(one.topic, one.payload)
    assert len(one.payload) < 1500


@pytest.mark.parametrize("label", ["a/b", "a+b", "#", "$SYS", "white space", "new\nline", ""])
def test_any_label_makes_one_safe_level(label: str) -> None:
    made = level(label)
    assert made
    assert not set(made) & set("/+# \n$")
    assert made != level(label + "x")
