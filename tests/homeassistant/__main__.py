"""Lets Home Assistant find a router, show it, command it and lose it: its own core and MQTT integration, of
the release in tests/requirements/homeassistant.txt, with a mosquitto between the two.

Runs in an environment of its own (`make homeassistant`): Home Assistant pins its libraries. Of it there is
what its MQTT integration imports, and no web interface: `http`, which the integration lists for its
dialogues, counts as set up. Exit status 0 if all is as it should be; every warning is a failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import paho.mqtt.client as paho
from homeassistant import config_entries, const, core, loader
from homeassistant.helpers import (
    area_registry,
    category_registry,
    condition,
    device_registry,
    entity,
    entity_registry,
    floor_registry,
    frame,
    issue_registry,
    label_registry,
    restore_state,
    template,
    translation,
    trigger,
)
from homeassistant.setup import async_setup_component

from tests.mqtt_schemas import check
from tests.unit.mqtt_router import IDENTITY, PEERS, SETTINGS, Router, key
from wgrouter.core.settings import Mqtt, Peer, Tunnel
from wgrouter.mqtt import homeassistant
from wgrouter.mqtt.reporter import Reporter
from wgrouter.mqtt.topics import Publication, Topics, encoded

TOPICS = Topics("wgrouter", "router")
ABILITIES = {"commands": ["switch"], "signed": False, "will_delay_s": 45.0, "heartbeat_s": 300.0,
             "homeassistant": True}  # fmt: skip
ODD = "Anna's {{ \\ }} box"  # a peer's description is anything
WITHIN = 30.0  # seconds

SHOWN = {
    "sensor.wgrouter_router_active": "wan",
    "select.wgrouter_router_wan_choice": "auto",
    "sensor.wgrouter_router_switches": "0",
    "binary_sensor.wgrouter_router_wan_wan": "on",
    "binary_sensor.wgrouter_router_wan_lte": "on",
    "sensor.wgrouter_router_wan_wan_latency_ms": "12.0",
    "sensor.wgrouter_router_wan_lte_loss_percent": "0.0",
    "binary_sensor.wgrouter_router_peer_wg0_headquarters": "on",
    "sensor.wgrouter_router_queued": "0",
}
AFTER_A_CUT = {
    "sensor.wgrouter_router_active": "lte",
    "binary_sensor.wgrouter_router_wan_wan": "off",
    "binary_sensor.wgrouter_router_wan_lte": "on",
}


class Complaints(logging.Handler):
    """What Home Assistant does not like."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
        self.found.append(f"{record.name}: {record.getMessage()} {trace}".rstrip())


@contextlib.contextmanager
def mosquitto(place: Path) -> Iterator[int]:
    """Its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = int(server.getsockname()[1])
    (place / "mosquitto.conf").write_text(f"user root\nlistener {port} 127.0.0.1\nallow_anonymous true\n")
    process = subprocess.Popen(["mosquitto", "-c", str(place / "mosquitto.conf")], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + WITHIN
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(10)


@contextlib.asynccontextmanager
async def home_assistant(place: Path, port: int) -> AsyncIterator[core.HomeAssistant]:
    """It runs, and its MQTT integration is connected."""
    (place / "configuration.yaml").write_text("")
    hass = core.HomeAssistant(str(place))
    hass.config.skip_pip = True
    hass.config_entries = config_entries.ConfigEntries(hass, {})
    loader.async_setup(hass)
    for module in (entity, frame, template, translation):
        module.async_setup(hass)
    for registry in (area_registry, category_registry, device_registry, entity_registry, floor_registry,
                     issue_registry, label_registry, restore_state):  # fmt: skip
        await registry.async_load(hass)
    await hass.config_entries.async_initialize()
    await condition.async_setup(hass)
    await trigger.async_setup(hass)
    hass.config.components |= {"http", "file_upload"}
    for platform in ("binary_sensor", "select", "sensor"):  # as bootstrap.py does, before any integration
        assert await async_setup_component(hass, platform, {})
    await hass.async_start()
    entry = config_entries.ConfigEntry(
        data={"broker": "127.0.0.1", "port": port, "protocol": "5"},
        discovery_keys=types.MappingProxyType({}),
        domain="mqtt",
        minor_version=2,
        options={},
        source=config_entries.SOURCE_USER,
        subentries_data=(),
        title="mosquitto",
        unique_id=None,
        version=1,
    )
    await hass.config_entries.async_add(entry)
    await until(lambda: entry.state is config_entries.ConfigEntryState.LOADED, "the MQTT integration")
    try:
        yield hass
    finally:
        logging.getLogger("homeassistant").setLevel(logging.CRITICAL)  # of its end it may complain
        await hass.async_stop(force=True)


async def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WITHIN
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {WITHIN:g} s: {what}")
        await asyncio.sleep(0.05)


class Side:
    """The router's side of the broker."""

    def __init__(self, port: int) -> None:
        self.heard: list[tuple[str, str]] = []
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self.client.on_message = lambda _c, _u, m: self.heard.append((m.topic, m.payload.decode()))
        self.client.on_connect = lambda c, *_: c.subscribe(
            [(TOPICS.commands, 1), ("homeassistant/status", 1)]
        )
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def tell(self, *publications: Publication) -> None:
        for one in publications:
            if one.topic.startswith(TOPICS.base):
                check(one.topic, one.payload)
            self.client.publish(one.topic, one.payload, 1, one.retain).wait_for_publish(WITHIN)


async def check_all(place: Path) -> int:
    router = Router(
        replace(SETTINGS, tunnels=(Tunnel("wg0", peers=(*PEERS, Peer("wg0", key("odd"), ODD, ()))),))
    )
    for _ in router.run(6):
        pass
    reporter = Reporter(Mqtt(), TOPICS, IDENTITY)
    data = homeassistant.discovery(TOPICS, IDENTITY, router.state, ABILITIES)
    topic = homeassistant.discovery_topic("homeassistant", TOPICS)

    def everything() -> list[Publication]:
        return reporter.everything(router.state, router.moment, {"queued": 0, "dropped": 0}, ABILITIES)

    with mosquitto(place) as port:
        side = Side(port)
        async with home_assistant(place, port) as hass:

            def states() -> dict[str, str]:
                return {state.entity_id: state.state for state in hass.states.async_all()}

            def are(wanted: dict[str, str]) -> bool:
                return wanted.items() <= states().items()

            await until(lambda: ("homeassistant/status", "online") in side.heard, "that it has started")
            side.tell(Publication(topic, encoded(data), 1, True), *everything())
            wanted = {component["default_entity_id"] for component in data["cmps"].values()}
            await until(lambda: set(states()) >= wanted, f"{wanted} of {states()}")
            said(f"{len(wanted)} entities, under the ids that were asked for")
            try:
                await until(lambda: are(SHOWN), "what they show")
            except AssertionError:
                print(json.dumps(states(), indent=1))
                raise
            unknown = [name for name in wanted if states()[name] in ("unknown", "unavailable")]
            assert not unknown, unknown
            said("all show what the router told")
            (device,) = device_registry.async_get(hass).devices.values()
            assert (device.manufacturer, device.name) == ("wgrouter", "office-router"), device
            of_it = entity_registry.async_entries_for_device(
                entity_registry.async_get(hass), device.id, include_disabled_entities=True
            )
            assert {one.entity_id for one in of_it} == wanted
            said(f"they belong to one device, {device.name}, {device.model}, {device.sw_version}")

            choice = hass.states.get("select.wgrouter_router_wan_choice")
            assert choice is not None and choice.attributes["options"] == ["auto", "wan", "lte"]
            await hass.services.async_call(
                "select",
                "select_option",
                {"entity_id": choice.entity_id, "option": "lte"},
                blocking=True,
            )
            await until(lambda: [t for t, _ in side.heard if t == TOPICS.command("switch")], "the command")
            command = check(*next(pair for pair in side.heard if pair[0] == TOPICS.command("switch")))
            assert command["arguments"] == {"wan": "lte"} and 0 < command["expires"] - time.time() < 61
            said("the select commands")

            router.cut("eth1")
            side.tell(*everything())
            assert router.state.uplink.switches
            told = AFTER_A_CUT | {"sensor.wgrouter_router_switches": str(router.state.uplink.switches)}
            await until(lambda: are(told), "a failover")
            said("a failover is shown")
            side.tell(Publication(TOPICS.availability, b"offline", 1, True))
            await until(lambda: {states()[name] for name in wanted} == {const.STATE_UNAVAILABLE}, "offline")
            side.tell(Publication(TOPICS.availability, b"online", 1, True))
            await until(lambda: const.STATE_UNAVAILABLE not in {states()[name] for name in wanted}, "online")
            said("offline is not available, and online is")

            taken = homeassistant.discovery(TOPICS, IDENTITY, router.state, {**ABILITIES, "commands": []})
            taken["cmps"]["wan_choice"] = {"p": "select"}  # as courier.py tells of what is there no more
            side.tell(Publication(topic, encoded(taken), 1, True))
            await until(lambda: set(states()) == wanted - {choice.entity_id}, "an entity that is taken away")
            said("what is taken away is gone, and the rest is there")
        side.client.disconnect()
        side.client.loop_stop()
    return 0


def said(text: str) -> None:
    print(f"homeassistant {const.__version__}: {text}", flush=True)


def main() -> int:
    complaints = Complaints()
    logging.getLogger("homeassistant").addHandler(complaints)
    with tempfile.TemporaryDirectory(prefix="wgrouter-homeassistant-") as place:
        try:
            asyncio.run(check_all(Path(place)))
        finally:
            for complaint in complaints.found:
                print(f"complaint: {complaint}", file=sys.stderr)
    return bool(complaints.found)


if __name__ == "__main__":
    sys.exit(main())
