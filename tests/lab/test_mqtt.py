"""Reporting in the lab, by a real mosquitto: what an operator sees when a WAN, a site or the broker goes."""

from __future__ import annotations

import json
import shutil
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Lab, LabError, stays, until
from tests.lab.reporting import CERTIFICATE, PLAIN, TLS, WANS, Witness, configuration, reporting, timed
from wgrouter import client

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180), pytest.mark.usefixtures("as_it_was")]


@pytest.mark.parametrize("version", ["5", "3.1.1"])
@pytest.mark.parametrize("port", [PLAIN, TLS, CERTIFICATE])
def test_it_reports_over_every_kind_of_connection(lab: Lab, port: int, version: str) -> None:
    witness = Witness(lab)
    agent = lab.router.start_agent(configuration(lab, port, protocol=version))
    witness.settled(agent)
    birth = witness.payloads("/birth")[-1]
    assert birth["versions"]["mqtt"] == version
    assert witness.availability()[-1][1] == "online"
    agent.stop()
    until(lambda: witness.availability()[-1][1] == "offline", within=5, what="the agent's last word")
    _, last = witness.events()[-1]
    assert last["type"] == "agent.stopped"


@pytest.mark.parametrize(("fault", "version"), [("carrier", "5"), ("hole", "5"), ("carrier", "3.1.1")])
def test_a_failover_is_told_within_two_seconds_and_is_not_offline(lab: Lab, fault: str, version: str) -> None:
    witness = Witness(lab)
    agent = lab.router.start_agent(configuration(lab, more=WANS, protocol=version))
    witness.settled(agent)
    took = []
    for _ in range(3):
        until(lambda: status_of(lab)["fibre"] == "up", within=20, what="a usable fibre")
        begun = timed(lambda: lab.cut_carrier("a") if fault == "carrier" else lab.blackhole("a"))
        at, event = witness.await_event("uplink.failover", after=begun)
        took.append(at - begun)
        assert event["before"] == {"wan": "fibre"}
        assert event["after"] == {"wan": "lte"}
        assert event["cause"]["code"] == "wan.down"
        until(lambda: witness.payloads("/state")[-1]["active"]["ipv4"] == "lte", within=5, what="the state")
        lab.restore_carrier("a")
        lab.unblackhole("a")
        witness.await_event("uplink.failback", after=begun)
        until(lambda: reporting(agent)["state"] == "up", within=10, what="the broker again")
    print(
        f"switch event at the subscriber, {fault}, MQTT {version}: {sorted(round(t * 1000) for t in took)} ms"
    )
    assert statistics.median(took) <= 2.0
    stays(lambda: all(word == "online" for _, word in witness.availability()), during=10)


def status_of(lab: Lab) -> dict[str, str]:
    """WAN → state, over IPv4."""
    assert lab.router.agent is not None
    return {wan["name"]: wan["state"] for wan in lab.router.agent.status()["wans"] if wan["family"] == 4}


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_site_that_is_cut_off_is_offline_after_the_delay_and_not_before(lab: Lab, version: str) -> None:
    witness = Witness(lab)
    agent = lab.router.start_agent(configuration(lab, protocol=version, will_delay=6, keepalive=5))
    witness.settled(agent)
    begun = timed(lambda: (lab.blackhole("a"), lab.blackhole("b")))
    until(lambda: witness.availability()[-1][1] == "offline", within=60, what="offline")
    took = witness.availability()[-1][0] - begun
    # The broker misses us after 1.5 keep-alives (MQTT 5 3.1.2.10); MQTT 5 waits for the will's delay then.
    print(f"offline after {took:.1f} s over MQTT {version}")
    assert took >= 5 * 1.5 - 5 + (6 if version == "5" else 0)
    lab.unblackhole("a")
    lab.unblackhole("b")
    until(lambda: witness.availability()[-1][1] == "online", within=60, what="online again")


def test_home_assistant_is_told_again_when_it_starts(lab: Lab) -> None:
    witness = Witness(lab)
    agent = lab.router.start_agent(configuration(lab, homeassistant="homeassistant"))
    witness.settled(agent)
    topic = "/wgrouter_router/config"
    until(lambda: len(witness.messages(topic)) == 1, within=5, what="discovery")
    assert not witness.messages(topic)[0].retained  # as it was published; retained for who comes later:
    lab.broker.publish("homeassistant/status", "online")
    until(lambda: len(witness.messages(topic)) == 2, within=5, what="discovery again")
    assert len({message.payload for message in witness.messages(topic)}) == 1
    assert [message.retained for message in Witness(lab, f"homeassistant/device{topic}").messages()] in (
        [],
        [True],
    )


def test_without_the_package_the_agent_runs_and_says_what_is_missing(lab: Lab) -> None:
    """The main package alone, as it is laid out on a router."""
    tree = lab.directory / "tree"
    builder = Path(__file__).resolve().parents[2] / "package/build_ipk.py"
    subprocess.run([sys.executable, str(builder), "--package", "wgrouter", "--tree", str(tree)], check=True)
    command = [sys.executable, "-P", "-m", "wgrouter", "run", "--root", str(lab.router.root)]
    env = {"PYTHONPATH": str(tree / "usr/lib/wgrouter")}
    agent = lab.router.start_agent(configuration(lab), command=command, env=env)
    agent.says("the package wgrouter-mqtt is not installed", within=10)
    until(lambda: all(wan["state"] == "up" for wan in agent.status()["wans"]), within=15, what="usable WANs")
    assert agent.output().count("[broker.absent]") == 1
    assert agent.status()["mqtt"] is None
    assert agent.stop() == 0


def test_the_metrics_file_is_written_without_a_broker(lab: Lab) -> None:
    file = lab.router.root / "wgrouter.prom"
    config = f"config mqtt\n\toption metrics_file '{file}'\n\toption metrics_interval '5'\n"
    agent = lab.router.start_agent(config)
    until(lambda: file.exists() and "wgrouter_wan_up" in file.read_text(), within=20, what="the figures")
    assert "wireguard_received_bytes_total" in agent.cli("metrics")
    assert "wgrouter_mqtt_connected" not in file.read_text()


def test_the_id_is_that_of_the_hardware_whatever_else_is_lost(lab: Lab) -> None:
    """A flash keeps the configuration and nothing else; a modem plugged in is no reason for another name."""
    root, cards = lab.router.root, lab.router.root / "sys/class/net"

    def card(name: str, address: str, bus: str) -> None:
        where = root / f"sys/devices/{bus}/{name}"
        where.mkdir(parents=True)
        lab.router.write(f"sys/class/net/{name}/address", address + "\n")
        (cards / name / "device").symlink_to(where)

    password = lab.router.write("etc/operator", lab.broker.password("operator") + "\n", mode=0o600)
    said = configuration(lab, username="operator", password_file=password)
    config = "".join(line + "\n" for line in said.splitlines() if "option id " not in line)
    witness = Witness(lab)
    try:
        card("eth0", "94:83:c4:00:11:22", "soc/gmac0")
        card("lan1", "96:83:c4:00:11:22", "soc/gmac1")  # made up: locally administered
        agent = lab.router.start_agent(config)
        witness.settled(agent)
        agent.stop()
        for left in ("var/run/wgrouter", "tmp/run", "etc/wgrouter.events"):
            shutil.rmtree(root / left, ignore_errors=True)
        card("usb0", "00:1e:10:1f:00:00", "soc/usb1/1-1")
        begun = time.time()
        agent = lab.router.start_agent(config)
        until(lambda: any(m.at > begun for m in witness.messages("/birth")), within=20, what="a birth")
        assert reporting(agent)["topics"] == "wgrouter/9483c4001122"
    finally:
        shutil.rmtree(root / "sys")
    assert {message.topic.split("/")[1] for message in witness.messages()} == {"9483c4001122"}
    assert len({message["boot"] for message in witness.payloads("/birth")}) == 2
    agent.stop()
    begun = time.time()
    agent = lab.router.start_agent(config)  # no card at all: its name
    until(lambda: any(m.at > begun for m in witness.messages("/birth")), within=20, what="a birth")
    assert reporting(agent)["topics"] == f"wgrouter/{socket.gethostname()}"


def test_diagnose_says_at_which_step_a_tunnel_ends(lab: Lab) -> None:
    agent = lab.router.start_agent("")
    agent.await_live(within=30)

    def walked() -> dict[str, Any]:
        (found,) = json.loads(agent.cli("diagnose", "wg0/site1", "--json", check=False))
        return {step["step"]: step["ok"] for step in found["steps"]} | {"broken": found["broken"]}

    until(lambda: walked()["broken"] is None, within=10, what="a tunnel without a fault")
    assert {step for step, ok in walked().items() if ok} >= {
        "clock",
        "transport",
        "names",
        "handshake",
        "mtu",
    }
    assert agent.cli("diagnose").count("  ok ") == 6 - list(walked().values())[:-1].count(None)
    lab.stop_site("site1")
    until(lambda: walked()["broken"] == "handshake", within=60, what="a handshake that is missed")
    with pytest.raises(LabError, match="exit 1"):
        agent.cli("diagnose", "wg0/site1")
    lab.start_site("site1")
    until(lambda: walked()["broken"] is None, within=60, what="a tunnel without a fault again")
    lab.nxdomain("site1.lab.test")
    client.ask(client.path_below(str(agent.root)), "reresolve")
    until(lambda: walked()["broken"] == "names", within=20, what="a name that is gone")
    assert walked()["handshake"]  # which WireGuard does not need for what it knows
    lab.cut_carrier("a")
    lab.cut_carrier("b")
    until(lambda: walked()["broken"] == "transport", within=20, what="no way out")
    assert walked()["names"] is False  # it is said all the same


def test_a_reload_takes_over_what_changed_and_no_more(lab: Lab) -> None:
    witness = Witness(lab)
    agent = lab.router.start_agent(configuration(lab))
    witness.settled(agent)
    begun = time.time()
    lab.router.write("etc/config/wgrouter", configuration(lab, heartbeat=5))
    agent.cli("reload")
    until(
        lambda: len([m for m in witness.messages("/state") if m.at > begun]) >= 2,
        within=15,
        what="heartbeats",
    )
    assert len(witness.messages("/birth")) == 1  # over the connection that was there
    lab.router.write("etc/config/wgrouter", configuration(lab, will_delay=9))
    agent.cli("reload")
    until(lambda: len(witness.messages("/birth")) == 2, within=10, what="a new connection")
    assert witness.payloads("/birth")[-1]["capabilities"]["will_delay_s"] == 9
    stays(lambda: {word for _, word in witness.availability()} == {"online"}, during=1)
    seen = [event["seq"] for _, event in witness.events()]
    assert sorted(set(seen)) == list(range(1, max(seen) + 1))
    lab.router.write("etc/config/wgrouter", configuration(lab, enabled=0))
    agent.cli("reload")
    until(lambda: witness.availability()[-1][1] == "offline", within=5, what="its last word")
    assert agent.status()["mqtt"] is None
