"""The real agent as a router has it: an empty configuration, and a name with an everyday TTL."""

from __future__ import annotations

import pytest

from tests.lab import build, now, single, sites, until, usual
from tests.lab.scenarios import Undisturbed, outstanding, peers

pytestmark = pytest.mark.lab

TTL = 5


def test_without_any_configuration_traffic_resumes_when_the_name_moves() -> None:
    with build(single(sites(2), ttl=TTL)) as lab:
        agent = lab.router.start_agent("")
        until(
            lambda: all(peer["state"] == "alive" and peer["addresses"] for peer in peers(agent).values()),
            within=20,
            what="live tunnels",
        )
        plan = lab.site("site1").plan
        other = Undisturbed(lab, "site2")
        with lab.flow("router", "site1") as flow:
            until(flow.flowing, within=10, what="traffic")
            begin = now()
            lab.move_site("site1", *plan.home_b)
            lab.move("site1.lab.test", *plan.home_b)
            until(lambda: not flow.flowing(), within=5, what="the break")
            until(flow.flowing, within=30, what="traffic again")
            assert flow.outage(since=begin) < TTL + usual(3)
        assert plan.home_b[0] in agent.output()
        other.check()
        until(lambda: outstanding(agent) == [], within=10, what="a converged system")
        assert agent.stop() == 0
        assert "proto 157" not in lab.router.run("ip", "rule")
