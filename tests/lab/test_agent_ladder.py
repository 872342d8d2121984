"""The real agent and tunnels that die of something else than a moved name; and what it says of it."""

import json
import re
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import Lab, Router, Site, Topology, build, dual, now, single, sites, stays, until, usual
from tests.lab.agent import Agent
from tests.lab.scenarios import (
    ALTERNATIVE,
    NO_NEW_PORT,
    TTL,
    Undisturbed,
    at,
    endpoint,
    explained,
    live,
    names,
    outstanding,
    peers,
    quick,
    settle,
)

# The longest wait for half a minute; the limit is for a machine that is busy otherwise.
pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]

SETTINGS = quick("site2", more=ALTERNATIVE)


@pytest.fixture(scope="module")
def endpoints() -> Iterator[Lab]:
    """Two sites, the first with an alternative port; the router may be called, so peers can roam."""
    far = (Site("site1", 1, more_ports=(51821,)), Site("site2", 2, (6,)))
    inbound = Router(listen_port=51820, inbound=True)
    with build(Topology((inbound,), single().isps, far, ttl=TTL)) as lab:
        live(lab, SETTINGS)
        yield lab


def at_home(lab: Lab) -> Agent:
    """The agent, with everybody at the first of its endpoints, whatever the test before did."""
    lab.heal()
    agent = lab.router.agent
    assert agent is not None
    settle(agent, tuple(lab.sites), within=40)
    for name, site in lab.sites.items():
        home = at(site.plan.home_a[0])
        until(lambda name=name, home=home: endpoint(lab, name) == home, within=30, what=f"{name} at home")  # type: ignore[misc]
    return agent


def test_an_alternative_endpoint_is_found_and_left_when_the_preferred_one_returns(endpoints: Lab) -> None:
    lab, agent = endpoints, at_home(endpoints)
    home = lab.site("site1").plan.home_a[0]
    other = Undisturbed(lab, "site2")
    with lab.flow("router", "site1") as flow:
        until(flow.flowing, within=5, what="traffic")
        lab.drop_port("site1", 51820)
        until(lambda: not flow.flowing(), within=5, what="the break")
        until(flow.flowing, within=40, what="traffic by the alternative port")
        assert endpoint(lab, "site1") == at(home, 51821)
        # While the preferred one is dead, trying it costs little: TRIAL, and what is on its way.
        healthy = now()
        until(lambda: "does not answer yet" in agent.output(), within=20, what="a trial in vain")
        until(flow.flowing, within=5, what="traffic as before")
        assert flow.outage(since=healthy) < usual(3)
        lab.open_port("site1", 51820)
        back = now()
        until(lambda: "back on the preferred endpoint" in agent.output(), within=40, what="the way back")
        stays(flow.flowing, during=1)
        assert flow.outage(since=back) < usual(1)
    assert endpoint(lab, "site1") == at(home)
    other.check()


def test_a_peer_that_roams_keeps_its_learnt_endpoint(endpoints: Lab) -> None:
    """It calls from an address that its name does not have, is alive there, and is left alone."""
    lab, agent = endpoints, at_home(endpoints)
    plan = lab.site("site2").plan
    lab.move_site("site2", *plan.home_b)
    until(lambda: lab.pings("site2", "fd77::1", version=6), within=5, what="a call from the new address")
    until(lambda: endpoint(lab, "site2") == at(plan.home_b[0]), within=5, what="roaming")
    until(
        lambda: "which site2.lab.test does not name" in agent.output(), within=10, what="the agent to see it"
    )
    lab.move("site2", *plan.home_a, *plan.home_c)  # a new answer is no reason either
    until(lambda: len(names(agent)["site2"]["addresses"]) == 2, within=10, what="the new answer")
    stays(lambda: endpoint(lab, "site2") == at(plan.home_b[0]), during=TTL + 1)
    assert peers(agent)["site2"]["state"] == "alive"
    # Once it is dead there, its name counts again.
    lab.move_site("site2", *plan.home_a)
    until(lambda: endpoint(lab, "site2") == at(plan.home_a[0]), within=20, what="the named address")
    until(lambda: peers(agent)["site2"]["state"] == "alive", within=10, what="life")


def test_explain_names_one_cause(endpoints: Lab) -> None:
    lab, agent = endpoints, at_home(endpoints)
    assert explained(agent, "wg0/site1")["cause"]["code"] == "cause.none"
    lab.stop_site("site1")
    try:

        def given_up() -> dict[str, Any] | None:
            found = explained(agent, "wg0/site1")
            return found if found["state"] == "dead" and len(found["tried"]) > 3 else None

        told = until(given_up, within=40, what="a dead peer, and remedies tried")
        assert told is not None
        assert told["cause"]["code"] in ("cause.silent", "cause.all-silent")
        assert any("nothing came back" in line or "unanswered" in line for line in told["evidence"])
        assert {"what", "result", "age_s"} <= told["tried"][-1].keys()
        assert told["next"]["what"] and told["next"]["in_s"] is not None
        text = agent.cli("explain", "wg0/site1")
        assert told["cause"]["text"] in " ".join(text.split())
        assert max(map(len, text.splitlines())) <= 80
        lab.nxdomain("site1")
        until(
            lambda: explained(agent, "wg0/site1")["cause"]["code"] == "cause.stale-name",
            within=15,
            what="the name to be the cause",
        )
    finally:
        lab.start_site("site1")


def test_a_bad_file_keeps_the_old_settings_and_says_why(endpoints: Lab) -> None:
    lab, agent = endpoints, at_home(endpoints)
    before = [endpoint(lab, site) for site in ("site1", "site2")]
    lab.router.write("etc/config/wgrouter", "config tunnel 'wg0\n\toption\n")
    agent.signal(signal.SIGHUP)
    agent.says("the old ones stay", within=5)
    assert "etc/config/wgrouter" in agent.output().split("the old ones stay")[1].splitlines()[0]
    known = next(line for line in explained(agent, "wg0/site1")["evidence"] if line.startswith("known"))
    assert at(lab.site("site1").plan.home_a[0], 51821) in known  # the alternative of the old settings
    # A bad value is another matter: its section is skipped, and the rest counts.
    lab.router.write("etc/config/wgrouter", SETTINGS + "config wan\n\toption priority 'high'\n")
    agent.signal(signal.SIGHUP)
    agent.says("a wan section needs a name", within=5)
    assert [endpoint(lab, site) for site in ("site1", "site2")] == before
    assert agent.cli("check", check=False) and outstanding(agent) == []


def test_switched_off_it_looks_and_reports_and_changes_nothing(endpoints: Lab) -> None:
    lab, agent = endpoints, at_home(endpoints)
    plan = lab.site("site1").plan
    rules, mark = lab.router.run("ip", "rule"), lab.router.wg().fwmark
    assert "proto 157" in rules and mark
    lab.router.write("etc/config/wgrouter", SETTINGS + "config wgrouter 'main'\n\toption enabled '0'\n")
    agent.signal(signal.SIGHUP)
    agent.says("changes nothing", within=5)
    until(lambda: "proto 157" not in lab.router.run("ip", "rule"), within=5, what="what was ours to go")
    until(lambda: lab.router.wg().fwmark == 0, within=5, what="the mark to go")
    lab.move_site("site1", *plan.home_b)
    lab.move("site1", *plan.home_b)
    until(lambda: names(agent)["site1"]["addresses"] == [*plan.home_b], within=10, what="a look")
    stays(lambda: endpoint(lab, "site1") == at(plan.home_a[0]), during=TTL + 1)
    lab.router.write("etc/config/wgrouter", SETTINGS)
    agent.signal(signal.SIGHUP)
    until(lambda: endpoint(lab, "site1") == at(plan.home_b[0]), within=20, what="care")
    until(lambda: lab.router.wg().fwmark == mark, within=5, what="the mark")


def test_no_secret_in_any_output(endpoints: Lab) -> None:
    agent = at_home(endpoints)
    said = agent.log.read_text() + "".join(
        agent.cli(*command, *form)
        for command in (["status"], ["explain"], ["plan"], ["journal"], ["check"])
        for form in ([], ["--json"])
    )
    assert "site1" in said
    assert not [secret for secret in endpoints.keys.secrets() if secret in said]


def test_no_network_at_the_start_and_a_peer_that_is_dead_for_ever() -> None:
    """The living one connects as soon as there is a network; the dead one costs it nothing."""
    far = (Site("site1", 1), Site("site2", 2, alive=False))
    topology = Topology((Router(resolved=False),), single().isps, far, ttl=TTL)
    with build(topology, wait=False) as lab:
        lab.cut_carrier("a")
        agent = lab.router.start_agent(quick("site1", "site2"))
        until(lambda: set(peers(agent)) == {"site1", "site2"}, within=10, what="the agent")
        told = until(
            lambda: (found := explained(agent, "wg0/site1"))["cause"]["code"] == "cause.uplink" and found,
            within=5,
            what="the cause",
        )
        assert told["tried"] == []
        begin = now()
        lab.restore_carrier("a")
        until(lambda: endpoint(lab, "site1"), within=5, what="an endpoint")
        assert now() - begin < usual(2)
        # WireGuard has asked in vain meanwhile, and asks again REKEY_TIMEOUT after the last time, not before.
        until(lambda: lab.router.peer("site1").handshake, within=10, what="a handshake")
        assert now() - begin < usual(7)
        settle(agent, ("site1",))
        until(lambda: peers(agent)["site2"]["state"] == "dead", within=30, what="the other one to be dead")
        others = Undisturbed(lab, "site1")
        until(
            lambda: len(explained(agent, "wg0/site2")["tried"]) > 4, within=40, what="remedies for the dead"
        )
        others.check()


def test_a_stale_mapping_is_healed_by_a_new_source_port() -> None:
    with build(single(sites(1), ttl=TTL)) as lab:
        agent = live(lab)
        port = lab.router.wg().listen_port
        with lab.flow("router", "site1") as flow:
            until(flow.flowing, within=5, what="traffic")
            lab.rebind_nat("a")
            until(lambda: not flow.flowing(), within=5, what="the break")
            until(flow.flowing, within=60, what="traffic again")
        assert lab.router.wg().listen_port != port
        until(lambda: "alive again by new-port" in agent.output(), within=5, what="the proof")


def test_another_wan_is_taken_where_the_usual_one_does_not_reach_the_peer() -> None:
    """The usual one answers its probes, so nothing but the tunnel moves; and the tunnel comes back."""
    with build(dual(sites(1), ttl=TTL)) as lab:
        agent = live(lab, quick("site1", tunnel=NO_NEW_PORT))
        until(lambda: all(wan["state"] == "up" for wan in agent.status()["wans"]), within=20, what="WANs")
        with lab.flow("router", "site1") as flow, lab.connects("client", "web") as lan:
            until(flow.flowing, within=5, what="traffic")
            begin = now()
            lab.rebind_nat("a")
            until(lambda: not flow.flowing(), within=5, what="the break")
            until(flow.flowing, within=60, what="traffic by the other WAN")
            until(lambda: "alive again by other-wan" in agent.output(), within=5, what="the proof")
            assert agent.status()["tunnels"][0]["wan"] == "eth2"
            told = explained(agent, "wg0/site1")
            assert "outer packets go by eth2 instead of eth1" in told["evidence"]
            assert told["next"]["what"] == "go by eth1 again" and told["next"]["in_s"] <= 11
            lab.heal_nat("a")
            until(lambda: "goes by eth1 again" in agent.output(), within=20, what="the way back")
            until(lambda: agent.status()["tunnels"][0]["wan"] == "eth1", within=5, what="the usual WAN")
            until(flow.flowing, within=5, what="traffic by the usual WAN")
            until(lambda: outstanding(agent) == [], within=10, what="a converged system")
            assert lan.outage(since=begin) < usual(1) + lan.stall


def test_a_journal_decides_the_same_again(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """With a name that moved and a failover in it, recorded by the running agent, both ways it can be had."""
    whole = tmp_path / "whole.jsonl"
    with build(dual(sites(1), ttl=TTL)) as lab:
        agent = live(lab, arguments=("--journal", str(whole)))
        plan = lab.site("site1").plan
        with lab.flow("router", "site1") as flow:
            until(flow.flowing, within=5, what="traffic")
            lab.move_site("site1", *plan.home_b)
            lab.move("site1", *plan.home_b)
            until(lambda: endpoint(lab, "site1") == at(plan.home_b[0]), within=10, what="the move")
            lab.cut_carrier("a")
            until(
                lambda: flow.flowing() and "uplink.failover" in agent.output(), within=20, what="the failover"
            )
        part = tmp_path / "part.jsonl"
        part.write_text(agent.cli("journal", "--json"))
        dumped = lab.router.root / "tmp" / "wgrouter.journal"
        agent.signal(signal.SIGUSR1)
        until(dumped.exists, within=5, what="the journal on SIGUSR1")
        for file in (whole, part, dumped):
            told = json.loads(agent.cli("replay", str(file), "--json"))
            assert told["differences"] == [] and told["steps"] > 20
        text = whole.read_text()
        assert "TUNNEL_MOVED" in text and "UPLINK_FAILOVER" in text
        assert not [secret for secret in lab.keys.secrets() if secret in text]
        # A journal that was tampered with does differ: the comparison compares.
        forged = tmp_path / "forged.jsonl"
        forged.write_text(re.sub(re.escape(plan.home_b[0]), "198.18.9.9", text, count=1))
        assert agent.cli("replay", str(forged), check=False) != agent.cli("replay", str(whole))
