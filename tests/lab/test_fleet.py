"""`wgrouter fleet` against real agents: who is told apart, who is let in, and commands that arrive."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.fleet.machine import Terminal
from tests.lab import Lab, build, fleet, headquarters, until
from tests.lab.agent import Agent

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]


class Operator:
    """An operator's machine beside the broker."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.options = headquarters.operator(lab)

    def run(self, *arguments: str, options: list[str] | None = None) -> tuple[int, str, str]:
        """Exit status, output, complaints."""
        log = self.lab.directory / "fleet.err"
        log.unlink(missing_ok=True)
        words = " ".join(
            f"'{word}'" for word in (*arguments, *(self.options if options is None else options))
        )
        script = f"{sys.executable} -m wgrouter fleet {words} 2>{log}; echo; echo $?"
        lines = self.lab.broker.box.sh(script, timeout=60).splitlines()
        return int(lines[-1]), "\n".join(lines[:-1]).strip(), log.read_text()

    def rows(self) -> dict[str, Any]:
        status, out, err = self.run("watch", "--once", "--json")
        assert status == 0, err
        return {row["id"]: row for row in json.loads(out)["routers"]}

    def until(self, condition: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        rows: dict[str, Any] = {}

        def so() -> bool:
            nonlocal rows
            rows = self.rows()
            return condition(rows)

        until(so, within=90, what=what)
        return rows


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with build(fleet(3, broker=True), wait=True) as built:
        yield built


@pytest.fixture(scope="module")
def agents(lab: Lab) -> dict[str, Agent]:
    return headquarters.start(lab)


@pytest.fixture(scope="module")
def operator(lab: Lab, agents: dict[str, Agent]) -> Operator:
    operator = Operator(lab)
    all_well = {"router", "router2", "router3", headquarters.ID}

    def well(rows: dict[str, Any]) -> bool:
        tunnels = all(row["peers_alive"] == row["peers"] for row in rows.values())
        return tunnels and {row["id"] for row in rows.values() if row["status"] == "online"} == all_well

    operator.until(well, "a fleet that is well")
    return operator


def test_three_ways_to_go_missing_are_told_apart(lab: Lab, operator: Operator) -> None:
    lab.cut_carrier("a")
    headquarters.part_from_broker(lab, "router2")
    headquarters.cut_off(lab, "router3")
    wanted = {"router": "failed over", "router2": "broker path lost", "router3": "site lost"}

    def told(rows: dict[str, Any]) -> bool:
        return {name: rows[name]["status"] for name in wanted} == wanted

    rows = operator.until(told, "what is the matter with each of them")
    assert rows["router"]["failed_over"]["ipv4"] == {"from": "fibre", "to": "lte"}
    assert rows["router"]["because"].startswith("fibre: off, no carrier")
    assert rows["router2"]["evidence"][0] == "headquarters (wg0/router2) has a live tunnel to it"
    assert rows["router3"]["evidence"] == ["headquarters (wg0/router3) gets no answer from it"]
    lab.restore_carrier("a")
    headquarters.let_to_broker(lab, "router2")
    headquarters.rejoin(lab, "router3")

    def well(rows: dict[str, Any]) -> bool:
        return all(row["status"] == "online" for row in rows.values())

    operator.until(well, "a fleet that is well again")


def test_a_failover_is_on_the_screen_with_its_time_line(lab: Lab, operator: Operator) -> None:
    enter = lab.broker.box._enter([])
    with Terminal("watch", *operator.options, columns=140, prefix=enter) as terminal:
        terminal.shows("4 routers   4 online", within=30)
        lab.blackhole("c")
        terminal.shows("1 failed over", "lte ← fibre", within=30)
        terminal.press("\r")
        terminal.shows("router2  failed over", "uplink.failover", "moved from fibre to lte", "wan.down")
        lab.heal()
        terminal.shows("uplink.failback", within=30)
        terminal.press("q")
        terminal.shows("4 routers   4 online", within=30)
        terminal.press("q")
        assert terminal.wait() == 0


def test_commands_are_given_and_answered(lab: Lab, agents: dict[str, Agent], operator: Operator) -> None:
    status, out, err = operator.run("send", "router", "switch", "lte")
    assert (status, err) == (0, "")
    assert "lte" in out
    operator.until(lambda rows: rows["router"]["active"]["ipv4"] == "lte", "the switch")
    assert operator.rows()["router"]["because"] == "lte is chosen by hand"
    status, out, _ = operator.run("send", "router", "switch", "auto", "--json")
    assert json.loads(out)["ok"] is True
    operator.until(lambda rows: rows["router"]["active"]["ipv4"] == "fibre", "its own choice")
    status, out, _ = operator.run("send", "router2", "explain")
    assert (status, "wg0/site1: alive" in out) == (0, True)
    status, out, _ = operator.run("send", "router2", "report")
    assert "fibre" in out
    status, out, err = operator.run("send", "router", "set", "mqtt.heartbeat", "200", "--json")
    assert json.loads(out)["result"]["kept"] is True
    assert "option heartbeat '200'" in (agents["router"].root / "etc/config/wgrouter").read_text()


def test_what_is_not_to_be_done_is_said(operator: Operator) -> None:
    status, _, err = operator.run("send", "router", "switch", "dsl")
    assert (status, err.count("\n")) == (1, 1)
    assert "router says no: no WAN is called 'dsl'; there are: fibre, lte (refused)" in err
    status, _, err = operator.run("send", "router", "reload")
    assert (status, "'reload' is not enabled there (it takes refresh, switch," in err) == (1, True)
    status, _, err = operator.run("send", "router4", "refresh")
    assert (status, "no router is called 'router4'; did you mean 'router" in err) == (1, True)


def test_a_stopped_agent_is_no_lost_site(lab: Lab, agents: dict[str, Agent], operator: Operator) -> None:
    enter = lab.broker.box._enter([])
    with Terminal("watch", *operator.options, columns=140, prefix=enter) as terminal:
        terminal.shows("4 routers   4 online", within=30)
        agents["router3"].stop()
        terminal.shows("1 stopped", "its agent was stopped")
        _, _, err = operator.run("send", "router3", "refresh", "--wait", "2")
        assert err.startswith("router3 is offline; the broker may keep the command while it counts\n")
        agents["router3"].start()
        terminal.shows("4 routers   4 online", "started anew", within=30)


@pytest.mark.parametrize("port", [1883, 8883, 8884])
@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_every_door_of_the_broker_lets_us_in(lab: Lab, operator: Operator, port: int, version: str) -> None:
    scheme = "mqtt" if port == 1883 else "mqtts"
    options = ["--broker", f"{scheme}://{lab.broker.host}:{port}", "--mqtt", version]
    if port == 8884:
        certificate, key = lab.broker.client_certificate("operator")
        key.chmod(0o600)
        options += ["--cert-file", str(certificate), "--key-file", str(key)]
    else:
        options += operator.options[2:6]
    if port != 1883:
        options += ["--ca-file", str(lab.broker.ca)]
    status, out, err = operator.run("watch", "--once", options=options)
    assert (status, err) == (0, "")
    assert "4 routers" in out
    status, out, err = operator.run("send", "router", "refresh", options=options)
    assert (status, err) == (0, "")


def test_a_broker_that_is_not_the_right_one_is_refused(lab: Lab, operator: Operator) -> None:
    place = f"mqtts://{lab.broker.host}:8883"
    status, _, err = operator.run("watch", "--once", options=["--broker", place, *operator.options[2:6]])
    assert status == 3
    assert "its certificate is not accepted: " in err
    address = lab.broker.addresses[0]
    elsewhere = ["--broker", f"mqtts://{address}:8883", *operator.options[2:]]
    status, _, err = operator.run("watch", "--once", "--server-name", "nobody.lab.test", options=elsewhere)
    assert (status, "its certificate is not accepted: " in err) == (3, True)
    status, _, err = operator.run("watch", "--once", "--server-name", lab.broker.host, options=elsewhere)
    assert (status, err) == (0, "")


def test_a_wrong_password_is_told_at_once(lab: Lab, operator: Operator) -> None:
    wrong = lab.directory / "wrong"
    wrong.write_text("password-of-nobody\n")
    wrong.chmod(0o600)
    options = [*operator.options, "--password-file", str(wrong)]
    status, _, err = operator.run("watch", "--once", options=options)
    assert status == 3
    assert "refuses us: " in err
    assert "password-of-nobody" not in err


def test_who_may_read_nothing_is_told_nothing(lab: Lab, operator: Operator) -> None:
    """A router's own user may not read the others: the table is empty, and that is no error of ours."""
    password = lab.directory / "router-password"
    password.write_text(lab.broker.password("router") + "\n")
    password.chmod(0o600)
    options = [
        *operator.options[:2],
        "--user",
        "router",
        "--password-file",
        str(password),
        *operator.options[6:],
    ]
    status, out, _ = operator.run("watch", "--once", "--json", options=options)
    assert (status, json.loads(out)["routers"]) == (0, [])
