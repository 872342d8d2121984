"""`wgrouter fleet` at a broker with TLS, passwords and an access list: who is let in, what arrives."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.lab import Lab, build, dual, headquarters
from tests.lab.agent import Agent
from tests.lab.headquarters import Operator

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with build(dual(broker=True), wait=True) as built:
        yield built


@pytest.fixture(scope="module")
def agent(lab: Lab) -> Agent:
    return headquarters.branch(lab)


@pytest.fixture(scope="module")
def operator(lab: Lab, agent: Agent) -> Operator:
    operator = Operator(lab)
    operator.until_well("router")
    return operator


def test_commands_are_given_and_answered(lab: Lab, agent: Agent, operator: Operator) -> None:
    status, out, err = operator.run("send", "router", "switch", "lte")
    assert (status, err) == (0, "")
    assert "lte" in out
    operator.until(lambda rows: rows["router"]["active"]["ipv4"] == "lte", "the switch")
    assert operator.rows()["router"]["because"] == "lte is chosen by hand"
    status, out, _ = operator.run("send", "router", "switch", "auto", "--json")
    assert json.loads(out)["ok"] is True
    operator.until(lambda rows: rows["router"]["active"]["ipv4"] == "fibre", "its own choice")
    status, out, _ = operator.run("send", "router", "explain")
    assert (status, "wg0/site1: alive" in out) == (0, True)
    status, out, _ = operator.run("send", "router", "report")
    assert "fibre" in out
    status, out, err = operator.run("send", "router", "set", "mqtt.heartbeat", "200", "--json")
    assert json.loads(out)["result"]["kept"] is True
    assert "option heartbeat '200'" in (agent.root / "etc/config/wgrouter").read_text()


def test_what_is_not_to_be_done_is_said(operator: Operator) -> None:
    status, _, err = operator.run("send", "router", "switch", "dsl")
    assert (status, err.count("\n")) == (1, 1)
    assert "router says no: no WAN is called 'dsl'; there are: fibre, lte (refused)" in err
    status, _, err = operator.run("send", "router", "reload")
    assert (status, "'reload' is not enabled there (it takes refresh, switch," in err) == (1, True)
    status, _, err = operator.run("send", "router4", "refresh")
    assert (status, "no router is called 'router4'; did you mean 'router" in err) == (1, True)


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
        options += operator.user
    if port != 1883:
        options += operator.ca
    status, out, err = operator.run("watch", "--once", options=options)
    assert (status, err) == (0, "")
    assert "1 router " in out
    status, out, err = operator.run("send", "router", "refresh", options=options)
    assert (status, err) == (0, "")


def test_a_broker_that_is_not_the_right_one_is_refused(lab: Lab, operator: Operator) -> None:
    place = f"mqtts://{lab.broker.host}:8883"
    status, _, err = operator.run("watch", "--once", options=["--broker", place, *operator.user])
    assert status == 3
    assert "its certificate is not accepted: " in err
    address = lab.broker.addresses[0]
    elsewhere = ["--broker", f"mqtts://{address}:8883", *operator.options[2:]]
    status, _, err = operator.run("watch", "--once", "--server-name", "nobody.lab.test", options=elsewhere)
    assert (status, "its certificate is not accepted: " in err) == (3, True)
    status, _, err = operator.run("watch", "--once", "--server-name", lab.broker.host, options=elsewhere)
    assert (status, err) == (0, "")


def test_a_wrong_password_is_told_at_once(operator: Operator) -> None:
    wrong = operator.secret("nobody", "password-of-nobody")
    options = [*operator.options, "--password-file", str(wrong)]
    status, _, err = operator.run("watch", "--once", options=options)
    assert status == 3
    assert "refuses us: " in err
    assert "password-of-nobody" not in err


def test_who_may_read_nothing_is_told_nothing(lab: Lab, operator: Operator) -> None:
    """A router's own user may not read states: the table is empty, and that is no error of ours."""
    password = operator.secret("router", lab.broker.password("router"))
    user = ["--user", "router", "--password-file", str(password)]
    options = [*operator.options[:2], *user, *operator.ca]
    status, out, _ = operator.run("watch", "--once", "--json", options=options)
    assert (status, json.loads(out)["routers"]) == (0, [])


def test_signed_commands_are_taken_and_others_are_not(lab: Lab, agent: Agent, operator: Operator) -> None:
    key = operator.secret("commands", "correct horse battery staple")
    other = operator.secret("others", "wrong horse battery staple")
    agent.stop()
    config = (agent.root / "etc/config/wgrouter").read_text()
    place = lab.router.write("etc/command-key", key.read_text(), mode=0o600)
    signed = config.replace(
        "config mqtt 'mqtt'\n", f"config mqtt 'mqtt'\n\toption command_key_file '{place}'\n"
    )
    lab.router.start_agent(signed)
    operator.until_well("router")
    status, _, err = operator.run("send", "router", "refresh")
    assert (status, "takes signed commands only: --command-key-file FILE" in err) == (1, True)
    status, _, err = operator.run("send", "router", "refresh", "--command-key-file", str(other))
    assert (status, "(bad-signature)" in err) == (1, True)
    status, _, err = operator.run("send", "router", "refresh", "--command-key-file", str(key))
    assert (status, err) == (0, "")
