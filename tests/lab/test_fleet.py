"""`wgrouter fleet watch` with real agents: who is gone and why, without a phone call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.fleet.machine import Terminal
from tests.lab import Lab, build, fleet, headquarters
from tests.lab.agent import Agent
from tests.lab.headquarters import Operator

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

ALL = ("router", "router2", "router3", headquarters.ID)


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
    operator.until_well(*ALL)
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
    operator.until_well(*ALL)


def test_a_failover_is_on_the_screen_with_its_time_line(lab: Lab, operator: Operator) -> None:
    with Terminal("watch", *operator.options, columns=140, prefix=operator.enter) as terminal:
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


def test_a_stopped_agent_is_no_lost_site(lab: Lab, agents: dict[str, Agent], operator: Operator) -> None:
    with Terminal("watch", *operator.options, columns=140, prefix=operator.enter) as terminal:
        terminal.shows("4 routers   4 online", within=30)
        agents["router3"].stop()
        terminal.shows("1 stopped", "its agent was stopped")
        _, _, err = operator.run("send", "router3", "refresh", "--wait", "2")
        assert err.startswith("router3 is offline; the broker may keep the command while it counts\n")
        agents["router3"].start()
        terminal.shows("4 routers   4 online", "started anew", within=30)
