"""The real agent on a router with two providers that are not quite dead, not quite well, or both silent."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.lab import Lab, build, dual, now, sites, stays, until, usual
from tests.lab.uplinks import DENSE, QUICK, active, carrying, healed, ready, switches, wans

pytestmark = pytest.mark.lab

A, B = "eth1", "eth2"


@pytest.fixture(scope="module")
def shared() -> Iterator[Lab]:
    """Two WANs, and a far site."""
    with build(dual(sites(1), ttl=2)) as lab:
        yield lab


def test_one_dead_target_of_three_is_no_event(shared: Lab) -> None:
    lab = shared
    agent = ready(lab, DENSE)
    try:
        lab.silence("8.8.8.8")
        agent.says("8.8.8.8 does not answer, others do", within=20)
        stays(lambda: wans(agent)[A, 4]["state"] in ("up", "suspect"), during=3)
    finally:
        lab.unsilence("8.8.8.8")
    assert switches(agent) == 0 and "not usable" not in agent.output() and "poor" not in agent.output()


def test_five_percent_loss_stays_and_thirty_leaves(shared: Lab) -> None:
    lab = shared
    agent = ready(lab, DENSE)
    with healed(lab):
        lab.lose("a", 5)
        stays(lambda: active(agent) == A, during=5)
        assert switches(agent) == 0
        lab.lose("a", 30)
        until(lambda: active(agent) == B, within=20, what="the lossy link left")
        assert "poor over IPv4" in agent.output() or "not usable over IPv4" in agent.output()


def test_with_every_target_dead_on_every_wan_the_best_carrier_is_kept(shared: Lab) -> None:
    lab = shared
    agent = ready(lab, QUICK)
    with healed(lab):
        lab.blackhole("b")
        until(lambda: wans(agent)[B, 4]["state"] == "down", within=10, what="B down")
        lab.blackhole("a")
        agent.says("no WAN passes its probes over IPv4; eth1 is kept", within=10)
        stays(lambda: carrying(lab) == carrying(lab, 6) == A, during=3, what="a way")
        assert switches(agent) == 0
        lab.unblackhole("b")
        with lab.connects("client", "web") as connects:
            until(connects.flowing, within=5, what="connections by what answers again")
        assert carrying(lab) == B


@pytest.mark.timeout(150)
def test_a_flapping_link_switches_twice(shared: Lab) -> None:
    """Away with the first cut, and back when it has been quiet."""
    lab = shared
    agent = ready(lab, "")
    with healed(lab), lab.connects("client", "web", hertz=10) as connects:
        until(connects.flowing, within=5, what="connections")
        begin = now()
        while (elapsed := now() - begin) < 60:
            if int(elapsed / 3) % 2 == 0:
                lab.cut_carrier("a")
            else:
                lab.restore_carrier("a")
            time.sleep(3 - (now() - begin) % 3)  # this fault is made of time
        assert switches(agent) == 1
        assert connects.outage(since=begin) < usual(1.5) + 2 * connects.stall
        lab.heal()
        # The hold has grown with the flapping, to five minutes at most: what it is, the agent says.
        until(lambda: wans(agent)[A, 4]["state"] == "held", within=10, what="the hold")
        assert "changes; hold-down is now" in agent.output()
        agent.kill9()
        agent.start()  # forgets the flapping, else the tests would take as long
    assert switches(agent) <= 1
