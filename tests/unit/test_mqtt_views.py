"""How others see a router: Home Assistant's discovery with its templates, and Prometheus' page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import jinja2
import pytest

from tests.mqtt_schemas import check
from tests.unit.mqtt_router import IDENTITY, PEERS, SETTINGS, Router, key
from wgrouter.core import report
from wgrouter.core.settings import Mqtt, Peer, Tunnel
from wgrouter.mqtt import homeassistant, metrics
from wgrouter.mqtt.reporter import Reporter
from wgrouter.mqtt.topics import Topics, encoded

TOPICS = Topics("wgrouter", "router")
ABILITIES = {"commands": ["switch"], "signed": False, "will_delay_s": 45.0, "heartbeat_s": 300.0,
             "homeassistant": True}  # fmt: skip

# home-assistant.io/integrations/mqtt: device discovery payload, and what its components of these platforms
# take (2024.12 and later). Abbreviations as in homeassistant/components/mqtt/abbreviations.py.
ROOT = {"dev", "o", "cmps", "stat_t", "avty_t"}
DEVICE = {"ids", "name", "mf", "mdl", "sw"}
ORIGIN = {"name", "sw"}
COMMON = {"p", "uniq_id", "default_entity_id", "name", "val_tpl", "ic", "ent_cat"}
PLATFORMS = {
    "sensor": COMMON | {"unit_of_meas", "stat_cla", "dev_cla"},
    "binary_sensor": COMMON | {"dev_cla"},
    "select": COMMON | {"ops", "cmd_t", "cmd_tpl", "qos"},
}
CLASSES = {"connectivity", "duration"}


@pytest.fixture
def router() -> Router:
    odd = Peer("wg0", key("odd"), "Anna's {{ \\ }} box", ())
    router = Router(replace(SETTINGS, tunnels=(Tunnel("wg0", peers=(*PEERS, odd)),)))
    for _ in router.run(6):
        pass
    return router


def discovered(router: Router, **abilities: Any) -> Any:
    data = homeassistant.discovery(TOPICS, IDENTITY, router.state, ABILITIES | abilities)
    return json.loads(encoded(data))


def state_of(router: Router) -> Any:
    told = Reporter(Mqtt(), TOPICS, IDENTITY)
    found = told.everything(router.state, router.moment, {"queued": 0, "dropped": 0}, ABILITIES)
    return next(json.loads(one.payload) for one in found if one.topic == TOPICS.state)


def rendered(template: str, **values: Any) -> str:
    """As Home Assistant does it: Jinja, and what it adds that we use."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)

    class Time:
        def timestamp(self) -> float:
            return 1763708400.25

    return environment.from_string(template).render(now=Time, **values)


def test_every_key_is_a_documented_one(router: Router) -> None:
    data = discovered(router)
    assert set(data) <= ROOT
    assert set(data["dev"]) <= DEVICE and data["dev"]["ids"]
    assert set(data["o"]) <= ORIGIN and data["o"]["name"]
    for component in data["cmps"].values():
        assert set(component) <= PLATFORMS[component["p"]]
        assert component.get("dev_cla", "duration") in CLASSES
        assert component.get("ent_cat", "diagnostic") == "diagnostic"
        assert component.get("stat_cla", "measurement") in ("measurement", "total_increasing")
        platform, _, name = component["default_entity_id"].partition(".")
        assert platform == component["p"]
        assert re.fullmatch(r"[a-z0-9_]+", name)
    ids = [component["uniq_id"] for component in data["cmps"].values()]
    assert len(ids) == len(set(ids))
    # discovery.py: TOPIC_MATCHER
    topic = homeassistant.discovery_topic("homeassistant", Topics("fleet/eu", "a/b c"))
    assert re.fullmatch(r"homeassistant/device/[a-zA-Z0-9_-]+/config", topic)


def test_there_is_an_entity_for_everything(router: Router) -> None:
    components = discovered(router)["cmps"]
    assert components["wan_choice"]["ops"] == ["auto", "wan", "lte"]
    for name in (
        "active",
        "switches",
        "wan_wan",
        "wan_lte",
        "wan_wan_latency_ms",
        "wan_lte_loss_percent",
        "worst",
    ):
        assert name in components
    assert sum(name.startswith("peer_wg0_") for name in components) == len(PEERS) + 1


def test_templates_read_the_state_as_it_is_told(router: Router) -> None:
    state = state_of(router)
    shown = {
        name: rendered(component["val_tpl"], value_json=state)
        for name, component in discovered(router)["cmps"].items()
    }
    assert shown["active"] == "wan"
    assert shown["wan_choice"] == "auto"
    assert shown["wan_wan"] == shown["wan_lte"] == "ON"
    assert shown["wan_wan_latency_ms"] == "12.0"
    assert shown["switches"] == "0"
    assert shown["worst"].startswith("wg0 does not have this peer")
    assert [shown[name] for name in shown if name.startswith("peer_")] == ["ON"] * 4 + ["OFF"]
    router.cut("eth1")
    after = state_of(router)
    components = discovered(router)["cmps"]
    assert rendered(components["active"]["val_tpl"], value_json=after) == "lte"
    assert rendered(components["wan_wan"]["val_tpl"], value_json=after) == "OFF"


def test_the_select_gives_a_command_that_is_one(router: Router) -> None:
    select = discovered(router)["cmps"]["wan_choice"]
    assert select["cmd_t"] == TOPICS.command("switch")
    data = check(TOPICS.command("switch"), rendered(select["cmd_tpl"], value="lte"))
    assert data["arguments"] == {"wan": "lte"}
    assert data["expires"] - 1763708400 < 61


def test_no_select_where_its_command_would_be_refused(router: Router) -> None:
    assert "wan_choice" not in discovered(router, commands=[])["cmps"]
    assert "wan_choice" not in discovered(router, signed=True)["cmps"]


# ---------------------------------------------------------------- Prometheus

SAMPLE = re.compile(r'([a-z_]+)(\{[a-z_]+="(?:[^"\\\n]|\\.)*"(?:,[a-z_]+="(?:[^"\\\n]|\\.)*")*\})? (\S+)')


def page(router: Router) -> str:
    status = report.status(router.state, router.now, "0.1.0", 1000.0, "/")
    status |= {"switches": 3, "mqtt": {"state": "up", "queued": 1, "dropped": 2}}
    return metrics.render(json.loads(json.dumps(status)), router.moment.wall)


def test_the_page_is_prometheus_text(router: Router) -> None:
    for _ in router.run(125):
        pass  # a handshake, since the first one was before the agent's start
    described: set[str] = set()
    for line in page(router).splitlines():
        if line.startswith("# "):
            word, name = line.split()[1:3]
            assert word in ("HELP", "TYPE")
            if word == "TYPE":
                assert name not in described
                described.add(name)
                assert (line.split()[3] == "counter") == name.endswith("_total")
            continue
        found = SAMPLE.fullmatch(line)
        assert found, line
        assert found[1] in described
        float(found[3])
    assert described == set(metrics.METRICS)


def test_figures_are_those_of_the_status(router: Router) -> None:
    text = page(router)
    assert 'wgrouter_wan_latency_seconds{wan="wan",device="eth1",family="ipv4"} 0.012\n' in text
    assert 'wgrouter_wan_active{wan="lte",device="wwan0",family="ipv6"} 0\n' in text
    assert 'wireguard_received_bytes_total{interface="wg0",friendly_name="headquarters"}' in text
    assert 'wgrouter_peer_alive{interface="wg0",peer="Anna\'s {{ \\\\ }} box"} 0\n' in text
    assert "wgrouter_mqtt_connected 1\n" in text
    assert "public_key" not in text
    for peer in PEERS:
        assert peer.public_key not in text
