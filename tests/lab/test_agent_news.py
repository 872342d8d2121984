"""The user's own scripts and mwan3's, called by the real agent: a WAN and a far site go and come back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab import Lab, build, dual, sites, until
from tests.lab.agent import Agent
from tests.lab.uplinks import QUICK

pytestmark = pytest.mark.lab

NAME = "site1.lab.test"
WANTED = "config wgrouter 'main'\n\toption mwan3_hotplug '1'\n\n"
OURS = 'echo "$ACTION|$WAN$TUNNEL/$PEER|$INTERFACE|$DEVICE|$FAMILY$ENDPOINT|$REASON" >>{log}\n'
MWAN3 = 'case "$ACTION" in connected | disconnected) echo "$ACTION|$INTERFACE|$DEVICE" >>{log} ;; esac\n'


@pytest.fixture
def lab() -> Iterator[Lab]:
    with build(dual(sites(1), ttl=2), wait=True) as built:
        yield built


def scripts(lab: Lab) -> Agent:
    """An agent with scripts, when all that a start brings has been said."""
    for directory, text in (("wgrouter", OURS), ("iface", MWAN3)):
        log = lab.router.root / directory
        lab.router.write(f"etc/hotplug.d/{directory}/50-test", text.format(log=log))
    agent = lab.router.start_agent(WANTED + QUICK)
    until(lambda: len(told(lab, "iface")) == 2, within=30, what="both WANs connected")
    until(
        lambda: agent.status()["tunnels"][0]["peers"][0]["state"] == "alive", within=20, what="a live tunnel"
    )
    return agent


def told(lab: Lab, directory: str = "wgrouter") -> list[list[str]]:
    """What the scripts in a directory were called with."""
    log = lab.router.root / directory
    return [line.split("|") for line in log.read_text().splitlines()] if log.is_file() else []


def last(lab: Lab, action: str, count: int = 1) -> list[str]:
    """The news of that kind, once there was so much of it."""
    until(
        lambda: len([one for one in told(lab) if one[0] == action]) >= count,
        within=60,
        what=f"{action} told to the scripts",
    )
    return [one for one in told(lab) if one[0] == action][-1]


def test_a_wan_that_goes_and_comes_back(lab: Lab) -> None:
    scripts(lab)
    assert sorted(told(lab, "iface")) == [["connected", "eth1", "eth1"], ["connected", "eth2", "eth2"]]
    assert [one for one in told(lab) if one[0].startswith("fail")] == []  # a start is no failover
    lab.cut_carrier("a")
    assert last(lab, "failover")[1:5] in (
        ["eth2/", "eth2", "eth2", "ipv4"],
        ["eth2/", "eth2", "eth2", "ipv6"],
    )
    until(
        lambda: ["disconnected", "eth1", "eth1"] in told(lab, "iface"), within=10, what="mwan3's word for it"
    )
    lab.restore_carrier("a")
    assert last(lab, "failback")[1:4] == ["eth1/", "eth1", "eth1"]
    until(lambda: told(lab, "iface")[-1] == ["connected", "eth1", "eth1"], within=10, what="and for its end")


def test_a_tunnel_that_goes_moves_and_comes_back(lab: Lab) -> None:
    scripts(lab)
    plan = lab.site("site1").plan
    lab.stop_site("site1")
    with lab.flow("router", "site1"):  # it has to ask to notice
        assert last(lab, "tunnel-down")[1:4] == ["wg0/site1", "wg0", "wg0"]
        lab.start_site("site1")
        lab.move_site("site1", *plan.home_b)
        lab.move(NAME, *plan.home_b)
        assert last(lab, "tunnel-up")[1:4] == ["wg0/site1", "wg0", "wg0"]
    moved = last(lab, "endpoint")
    assert any(address in moved[4] for address in plan.home_b)
    assert moved[4] in moved[5]  # the reason names it
