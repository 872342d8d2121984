"""The real agent in the lab: what the README promises of moving names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab import Lab, build, now, single, sites, stays, until
from tests.lab.agent import Agent

pytestmark = pytest.mark.lab

TTL = 5
NAME = "site1.lab.test"


@pytest.fixture
def lab() -> Iterator[Lab]:
    with build(single(sites(1), ttl=TTL), wait=True) as built:
        yield built


def live(lab: Lab) -> Agent:
    """The agent, once it has seen the tunnel alive and the name resolved."""
    agent = lab.router.start_agent("")
    until(
        lambda: peer(agent)["state"] == "alive" and peer(agent)["addresses"], within=20, what="a live tunnel"
    )
    return agent


def peer(agent: Agent) -> dict[str, object]:
    found = agent.status()["tunnels"][0]["peers"][0]
    assert isinstance(found, dict)
    return found


def test_traffic_resumes_when_the_name_moves(lab: Lab) -> None:
    agent = live(lab)
    plan = lab.site("site1").plan
    index = lab.router.run("cat", "/sys/class/net/wg0/ifindex")
    with lab.flow("router", "site1") as flow:
        until(lambda: flow.flowing(), within=10, what="traffic")
        begin = now()
        lab.move_site("site1", *plan.home_b)
        lab.move(NAME, *plan.home_b)
        until(lambda: not flow.flowing(), within=5, what="the break")
        until(lambda: flow.flowing(), within=30, what="traffic again")
        assert flow.outage(since=begin) < TTL + 3 + 2  # 2 s for a loaded machine
    assert plan.home_b[0] in agent.output()
    assert lab.router.run("cat", "/sys/class/net/wg0/ifindex") == index  # the interface was never made anew


@pytest.mark.parametrize("lie", ["nxdomain", "loopback", "servfail", "silence"])
def test_a_failed_look_up_never_touches_a_working_endpoint(lab: Lab, lie: str) -> None:
    agent = live(lab)
    before = lab.router.peer("site1").endpoint
    if lie == "nxdomain":
        lab.nxdomain(NAME)
    elif lie == "loopback":
        lab.lie(NAME, "127.0.0.1")
    elif lie == "servfail":
        lab.servfail(NAME)
    else:
        lab.stop_dns()
    until(
        lambda: "[name." in agent.output().split("[name.resolved]")[-1], within=40, what="the agent to notice"
    )
    stays(lambda: lab.router.peer("site1").endpoint == before, during=1)


def test_a_killed_agent_is_followed_by_one_that_adopts(lab: Lab) -> None:
    agent = live(lab)
    rules = lab.router.run("ip", "rule")
    agent.kill9()
    agent.start()
    until(lambda: peer(agent)["state"] == "alive", within=20, what="a live tunnel")
    until(lambda: agent.cli("plan", "--json"), within=5, what="an answer")
    assert lab.router.run("ip", "rule") == rules
    assert agent.stop() == 0
    assert "0x3f" not in lab.router.run("ip", "rule")


def test_no_secret_in_any_output(lab: Lab) -> None:
    agent = live(lab)
    said = (
        agent.output()
        + str(agent.cli("status"))
        + str(agent.cli("explain"))
        + str(agent.cli("status", "--json"))
    )
    assert not [secret for secret in lab.keys.secrets() if secret in said]
