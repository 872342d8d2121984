"""kill -9 at any moment: the next agent adopts what is there and ends where the first would have.

The moment is drawn from a seed that a failure shows; `WGROUTER_SEED=… pytest …` draws the same again.
Several faults are under way at once, each with a site of its own, so that one moment hits all of them.
"""

import os
import random
import re
import time
from collections.abc import Callable

import pytest

from tests.lab import Lab, Router, Site, Topology, build, dual, now, single, sites, until, usual
from tests.lab.agent import Agent
from tests.lab.scenarios import (
    ALTERNATIVE,
    NO_NEW_PORT,
    TTL,
    at,
    endpoint,
    live,
    outstanding,
    peers,
    quick,
    settle,
)

# The longest wait for half a minute; the limit is for a machine that is busy otherwise.
pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]

SEED = os.environ.get("WGROUTER_SEED") or f"{random.SystemRandom().randrange(1 << 32):x}"


def moment(case: str, longest: float) -> float:
    """When to kill, in seconds after the faults; the same for the same seed and case."""
    return random.Random(f"{SEED} {case}").uniform(0.0, longest)


def killed_and_started(agent: Agent, case: str, longest: float) -> None:
    """Wait for the moment drawn, kill, start; what is said goes into the report of a failure."""
    wait = moment(case, longest)
    print(f"WGROUTER_SEED={SEED} {case}: killed after {wait:.3f} s")
    time.sleep(wait)  # the one place where time itself is what is tested
    agent.kill9()
    agent.start()


def same_in_the_end(lab: Lab, agent: Agent, good: Callable[[], bool], within: float) -> None:
    """The faults are overcome, nothing is left to do, and none of ours is there twice or left over."""
    until(good, within=within, what="the end that an agent without a crash reaches")
    until(lambda: outstanding(agent) == [], within=10, what="a converged system")
    rules = [line for line in lab.router.run("ip", "rule").splitlines() if "proto 157" in line]
    assert len(rules) == len(set(rules))
    routes = lab.router.run("ip", "route", "show", "table", "all", "proto", "157")
    assert agent.stop() == 0
    assert "proto 157" not in lab.router.run("ip", "rule"), routes
    assert not lab.router.run("ip", "route", "show", "table", "all", "proto", "157").strip()
    assert lab.router.wg().fwmark == 0


FAR = (
    Site("site1", 1),
    Site("site2", 2, (6,)),
    Site("site3", 3, (4, 6)),
    Site("site4", 4),
    Site("site5", 5, more_ports=(51821,)),
    Site("site6", 6, (6,)),
    Site("site7", 7),
)
SETTINGS = quick(
    *(site.name for site in FAR if site.name != "site5"), more=ALTERNATIVE.replace("site1", "site5")
)


@pytest.mark.parametrize("case", ["early", "late"])
def test_names_endpoints_and_roaming(case: str) -> None:
    """A, AAAA and both move; a first address is dead; a port dies; a peer roams; a name is gone."""
    inbound = Router(listen_port=51820, inbound=True)
    with build(Topology((inbound,), single().isps, FAR, ttl=TTL)) as lab:
        agent = live(lab, SETTINGS)
        homes = {site.name: site for site in FAR}
        index = lab.router.run("cat", "/sys/class/net/wg0/ifindex")
        still = lab.router.peer("site7")
        for name in ("site1", "site2", "site3"):
            lab.move_site(name, *homes[name].home_b)
            lab.move(name, *homes[name].home_b)
        lab.move_site("site4", *homes["site4"].home_c)
        lab.move("site4", *homes["site4"].home_b, *homes["site4"].home_c)
        lab.drop_port("site5", 51820)
        lab.move_site("site6", *homes["site6"].home_b)
        until(lambda: lab.pings("site6", "fd77::1", version=6), within=5, what="a call from the new address")
        lab.nxdomain("site7")
        killed_and_started(agent, case, 3.0 if case == "early" else 12.0)
        wanted = {
            "site1": at(homes["site1"].home_b[0]),
            "site2": at(homes["site2"].home_b[0]),
            "site4": at(homes["site4"].home_c[0]),
            "site5": at(homes["site5"].home_a[0], 51821),
            "site6": at(homes["site6"].home_b[0]),
            "site7": at(homes["site7"].home_a[0]),
        }

        def good() -> bool:
            seen = peers(agent)
            alive = all(seen[name]["state"] == "alive" for name in homes)
            return alive and wanted == {name: endpoint(lab, name) for name in wanted}

        def really() -> bool:
            return good() and all(lab.pings("router", name) for name in homes)

        try:
            same_in_the_end(lab, agent, really, within=60)
        finally:
            print({name: endpoint(lab, name) for name in homes}, "wanted", wanted)
        assert endpoint(lab, "site3") in [*map(at, homes["site3"].home_b)]
        assert lab.router.run("cat", "/sys/class/net/wg0/ifindex") == index
        assert lab.router.peer("site7").handshake >= still.handshake


def test_no_network_at_the_start() -> None:
    far = (Site("site1", 1), Site("site2", 2, alive=False))
    with build(Topology((Router(resolved=False),), single().isps, far, ttl=TTL), wait=False) as lab:
        lab.cut_carrier("a")
        agent = lab.router.start_agent(quick("site1", "site2"))
        until(lambda: peers(agent), within=10, what="the agent")
        lab.restore_carrier("a")
        killed_and_started(agent, "start", 2.0)

        def good() -> bool:
            return peers(agent)["site1"]["state"] == "alive" and lab.pings("router", "site1")

        same_in_the_end(lab, agent, good, within=30)


def test_a_stale_mapping() -> None:
    with build(single(sites(1), ttl=TTL)) as lab:
        agent = live(lab)
        lab.rebind_nat("a")
        killed_and_started(agent, "stale", 12.0)
        same_in_the_end(lab, agent, lambda: lab.pings("router", "site1"), within=60)


@pytest.mark.parametrize("case", ["carrier", "failback", "wan"])
def test_a_move_between_uplinks(case: str) -> None:
    """Cut, healed, or alive and not reaching the peer: killed in the middle of the move, or after it."""
    with build(dual(sites(2), ttl=TTL)) as lab:
        hold = "config hold 'hold'\n\toption up_after '2s'\n"
        agent = live(lab, quick("site1", "site2", tunnel=NO_NEW_PORT, more=hold))
        until(lambda: all(wan["state"] == "up" for wan in agent.status()["wans"]), within=20, what="WANs")
        if case == "wan":
            lab.rebind_nat("a")
        else:
            lab.cut_carrier("a")
        if case == "failback":
            until(lambda: "uplink.failover" in agent.output(), within=10, what="the failover")
            lab.restore_carrier("a")
        killed_and_started(agent, case, 12.0 if case == "wan" else 4.0)

        def good() -> bool:
            status = agent.status()
            used = {wan["device"] for wan in status["wans"] if wan["active"] and wan["family"] == 4}
            wanted = {"eth2"} if case == "carrier" else {"eth1"}
            alive = all(peer["state"] == "alive" for peer in peers(agent).values())
            return used == wanted and alive and all(lab.pings("router", name) for name in ("site1", "site2"))

        same_in_the_end(lab, agent, good, within=60)


def test_nothing_is_touched_where_nothing_is_wrong() -> None:
    """Killed at rest: the next agent touches no route and no rule, and no packet is lost."""
    with build(dual(sites(2), ttl=TTL)) as lab:
        agent = live(lab)
        until(lambda: all(wan["state"] == "up" for wan in agent.status()["wans"]), within=20, what="WANs")
        before = (lab.router.run("ip", "rule"), lab.router.run("ip", "route", "show", "table", "all"))
        with lab.flow("router", "site1") as flow, lab.connects("client", "web") as lan:
            until(flow.flowing, within=5, what="traffic")
            begin = now()
            killed_and_started(agent, "rest", 2.0)
            settle(agent, ("site1", "site2"))
            after = (lab.router.run("ip", "rule"), lab.router.run("ip", "route", "show", "table", "all"))
            assert flow.outage(since=begin) < usual(0.5) + flow.stall
            assert lan.outage(since=begin) < usual(0.5) + lan.stall
        assert after == before
        journal = agent.cli("journal", "-a", "-n", "1000")
        assert "Observed" in journal
        assert not re.search(r"→ (ip|nft) |wg0 fwmark", journal)
