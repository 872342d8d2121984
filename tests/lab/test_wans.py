"""The real agent on a router with two providers: one dies, in each of the ways they die, and comes back."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest

from tests.lab import Lab, Site, build, dual, now, stays, until, usual
from tests.lab.uplinks import (
    QUICK,
    active,
    calm,
    carrying,
    healed,
    healthy,
    lost_since,
    ours,
    ready,
    seen_at,
    steady,
    wans,
)

pytestmark = pytest.mark.lab

A, B = "eth1", "eth2"
FAR = (Site("site1", 1, (4,)), Site("site2", 2, (6,)))


@pytest.fixture(scope="module")
def shared() -> Iterator[Lab]:
    """Two WANs, a site that is reached over IPv4 and one over IPv6."""
    with build(dual(FAR, ttl=2)) as lab:
        yield lab


@pytest.fixture(scope="module")
def default(shared: Lab) -> Lab:
    """With an agent without any configuration."""
    ready(shared, "")
    return shared


@pytest.fixture(scope="module")
def quick(shared: Lab) -> Lab:
    """With an agent that uses a healed WAN again after a second."""
    ready(shared, QUICK)
    return shared


LOADED = 4.0  # seconds for what takes less than one on a machine that is not taken by others
# What is cut, and how long all may be silent on a loaded machine; `make bench` measures.
CUTS = {"cut_carrier": 1.0, "blackhole": 2.5}


@pytest.mark.parametrize("cut", CUTS)
def test_traffic_moves_and_comes_back_without_loss(default: Lab, cut: str) -> None:
    lab = default
    with healed(lab) as agent:
        home = FAR[0].home_a[0]
        frozen = f"{home} via {lab.isp('a').gateway4} dev {A}"
        assert frozen in lab.router.run("ip", "route"), (
            "netifd's host route leads through the WAN that will die"
        )
        flows = [lab.flow("router", site.name) for site in FAR]
        others = [lab.connects("client", "web"), lab.connects("client", "web", version=6)]
        others.append(lab.connects("router", "web"))
        until(lambda: all(t.flowing(0.3) for t in (*flows, *others)), within=5, what="traffic")
        begin = now()
        getattr(lab, cut)("a")
        until(lambda: active(agent, 4) == active(agent, 6) == B, within=5, what="the switch")
        until(lambda: all(t.flowing(0.3) for t in (*flows, *others)), within=5, what="traffic again")
        for traffic in (*flows, *others):
            assert traffic.outage(since=begin) < usual(CUTS[cut]) + 2 * traffic.stall
        assert carrying(lab, 4) == carrying(lab, 6) == B
        assert frozen in lab.router.run("ip", "route")
        until(lambda: seen_at(lab, "site1") == seen_at(lab, "site2") == B, within=2, what="tunnels by B")
        downloads = [lab.download("client", "web"), lab.download("client", "web", version=6)]
        until(lambda: all(d.flowing() for d in downloads), within=5, what="downloads")
        lab.heal()
        since = steady(agent, *flows)
        until(lambda: active(agent, 4) == active(agent, 6) == A, within=20, what="the failback")
        until(lambda: seen_at(lab, "site1") == seen_at(lab, "site2") == A, within=3, what="tunnels by A")
        calm(lab)
        assert lost_since(since, *flows) == [0, 0]
        for download in downloads:
            assert download.broken is None and download.flowing(1.0)
            download.stop()
        for traffic in others:
            traffic.stop()


def test_what_waited_for_a_cable_is_not_sent_when_it_is_back(default: Lab) -> None:
    """The kernel keeps some packets of the moments between a cut and the switch, and asks for the gateway for
    three seconds. Sent then, a site would take them for a move to that WAN, and answer there.
    """
    lab = default
    with healed(lab) as agent:
        flows = [lab.flow("router", site.name) for site in FAR]
        until(lambda: all(flow.flowing() for flow in flows), within=5, what="traffic")
        lab.cut_carrier("a")
        until(lambda: active(agent, 4) == active(agent, 6) == B, within=5, what="the switch")
        until(lambda: seen_at(lab, "site1") == seen_at(lab, "site2") == B, within=2, what="tunnels by B")
        old = lab.count(lab.isp("a").namespace, 'iifname "sub" udp dport 51820')
        lab.restore_carrier("a")
        until(
            lambda: {wans(agent)[A, v]["state"] for v in (4, 6)} == {"held"}, within=15, what="answers by A"
        )
        assert old.packets == 0
        assert active(agent, 4) == active(agent, 6) == B
        for flow in flows:
            flow.stop()


def test_the_router_looks_healthy_to_its_owner(default: Lab) -> None:
    agent = healthy(default)
    rows = wans(agent)
    assert {key: row["share_percent"] for key, row in rows.items()} == {
        (A, 4): 100,
        (A, 6): 100,
        (B, 4): 0,
        (B, 6): 0,
    }
    for row in rows.values():
        assert row["loss_percent"] == 0 and row["latency_ms"] < usual(100)
        assert row["since_s"] >= 0 and row["why"]
    told = agent.cli("status")
    assert A in told and B in told and "100 %" in told
    shown = agent.cli("explain", A)
    assert "eth2" in shown or "priority" in shown, shown


@pytest.mark.parametrize("family", [4, 6])
def test_a_busy_tunnel_leaves_the_backup_although_packets_still_come_there(shared: Lab, family: int) -> None:
    lab, site = shared, FAR[0 if family == 4 else 1].name
    ready(lab, QUICK)
    with healed(lab) as agent:
        for isp in ("a", "b"):
            lab.delay(isp, 20)
        with lab.flow("router", site, hertz=50) as flow:
            until(flow.flowing, within=5, what="traffic")
            lab.cut_carrier("a")
            until(lambda: seen_at(lab, site) == B, within=5, what="the tunnel by B")
            until(flow.flowing, within=5, what="traffic by B")
            lab.restore_carrier("a")
            since = steady(agent, flow)
            until(lambda: active(agent, family) == A, within=20, what="the failback")
            until(lambda: seen_at(lab, site) == A, within=4, what="the tunnel by A")
            calm(lab)
            assert seen_at(lab, site) == A and lost_since(since, flow) == [0]


@pytest.mark.timeout(120)
def test_killed_in_the_middle_of_a_switch_it_is_right_within_a_second(shared: Lab) -> None:
    lab = shared
    agent = ready(lab, QUICK)
    lab.cut_carrier("a")
    until(lambda: active(agent, 4) == active(agent, 6) == B, within=5, what="the switch")
    calm(lab)
    wanted = ours(lab.router)
    lab.heal()
    healthy(lab)
    normal = ours(lab.router)
    chance = random.Random(3)
    with healed(lab):
        for number in range(4):
            with lab.flow("router", "site1") as flow, lab.flow("router", "site2") as flow6:
                until(lambda: flow.flowing() and flow6.flowing(), within=5, what="traffic")
                lab.cut_carrier("a")
                time.sleep(chance.uniform(0.0, 0.05))  # the instant that is tested
                agent.kill9()
                agent.start().says("agent.started", within=5)
                # In less than a second, on a machine that is not taken by others.
                again = f"traffic, kill {number}"
                until(lambda: flow.flowing(0.05) and flow6.flowing(0.05), within=3, what=again)
            assert carrying(lab, 4) == carrying(lab, 6) == B
            calm(lab)
            assert ours(lab.router) == wanted, f"kill {number}"
            lab.restore_carrier("a")
            until(lambda: active(agent, 4) == active(agent, 6) == A, within=10, what="failback")
            calm(lab)
            assert ours(lab.router) == normal, f"kill {number}"


def test_what_somebody_deletes_is_back_within_a_second_and_a_stop_takes_all_away(shared: Lab) -> None:
    lab, router = shared, shared.router
    agent = ready(lab, QUICK)
    before = ours(router)
    assert len(before) > 20 and any("table inet wgrouter" in line for line in before)
    for number in (6010, 6071, 6110, 6130, 6131, 6142, 6180):
        for family in ("-4", "-6"):
            router.run("ip", family, "rule", "del", "pref", str(number))
            until(lambda: ours(router) == before, within=LOADED, what=f"rule {number} again")
    for family in ("-4", "-6"):
        for table in (7400, 7401, 7402):
            router.run("ip", family, "route", "flush", "table", str(table))
            until(lambda: ours(router) == before, within=LOADED, what=f"table {table} again")
    router.run("nft", "delete", "table", "inet", "wgrouter")
    until(lambda: ours(router) == before, within=LOADED, what="the nft table again")
    router.run("nft", "flush", "chain", "inet", "fw4", "forward")  # a reload of the firewall
    stays(lambda: ours(router) == before, during=0.3)
    main = router.run("ip", "route"), router.run("ip", "-6", "route")
    assert agent.stop() == 0
    assert ours(router) == []
    assert (router.run("ip", "route"), router.run("ip", "-6", "route")) == main
    with lab.connects("router", "web") as connects, lab.flow("router", "site1") as flow:
        until(lambda: connects.flowing() and flow.flowing(), within=3, what="traffic by netifd's routes")
