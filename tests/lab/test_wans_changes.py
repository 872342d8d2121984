"""The real agent and uplinks that are of another kind, come, change and go, or are chosen by hand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.lab import Lab, LabError, Site, build, dual, now, stays, until, usual
from tests.lab.topology import Proto
from tests.lab.uplinks import QUICK, active, calm, carrying, healed, healthy, ready, seen_at, wans

pytestmark = pytest.mark.lab

A, B = "eth1", "eth2"
FAR = (Site("site1", 1, (4,)), Site("site2", 2, (6,)))


@pytest.fixture(scope="module")
def shared() -> Iterator[Lab]:
    with build(dual(FAR, ttl=2)) as lab:
        yield lab


@pytest.mark.parametrize("protos", [("dhcp", "pppoe"), ("pppoe", "dhcp")])
def test_uplinks_of_every_kind(protos: tuple[Proto, Proto]) -> None:
    plan = dual(FAR, ttl=2)
    isps = tuple(replace(isp, proto=proto) for isp, proto in zip(plan.isps, protos, strict=True))
    first, second = (isp.device for isp in isps)
    with build(replace(plan, isps=isps)) as lab:
        agent = ready(lab, QUICK)
        with (
            lab.flow("router", "site1") as flow,
            lab.flow("router", "site2") as flow6,
            lab.connects("client", "web") as connects,
        ):
            all_flow = lambda: flow.flowing() and flow6.flowing() and connects.flowing(0.3)  # noqa: E731
            until(all_flow, within=5, what="traffic")
            for cut in (lab.cut_carrier, lab.blackhole):
                cut("a")
                until(lambda: active(agent, 4) == active(agent, 6) == second, within=5, what="the switch")
                until(all_flow, within=5, what="traffic again")
                assert carrying(lab, 4) == carrying(lab, 6) == second
                lab.heal()
                healthy(lab)
                until(all_flow, within=5, what="traffic as before")
                assert carrying(lab, 4) == carrying(lab, 6) == first
        agent.stop()


def test_a_device_whose_name_is_no_text_is_a_wan_like_any_other() -> None:
    """The kernel takes any bytes, and the agent is there for the other WAN, too."""
    odd = os.fsdecode(b"lte\xff")
    with build(dual(FAR, ttl=2)) as lab:
        gateway = lab.isp("b").gateway4
        for words in (
            ("link", "set", B, "down"),
            ("link", "set", B, "name", odd),
            ("link", "set", odd, "up"),
            ("route", "add", "default", "via", gateway, "dev", odd, "metric", "20"),
        ):
            lab.router.run("ip", *words)
        agent = lab.router.start_agent(QUICK)
        until(lambda: {wans(agent)[name, 4]["state"] for name in (A, odd)} == {"up"}, within=10, what="both")
        lab.cut_carrier("a")
        until(lambda: active(agent) == odd, within=5, what="the switch")
        with lab.connects("router", "web") as connects:  # the firewall does not know the device
            until(lambda: connects.flowing(0.3), within=5, what="traffic by it")
        assert "lte" in agent.cli("status")
        agent.stop()


def test_a_wan_appears_changes_its_gateway_and_its_address_and_goes(shared: Lab) -> None:
    lab, router, isp = shared, shared.router, shared.isp("b")
    for version in (4, 6):
        router.run("ip", f"-{version}", "route", "del", "default", *isp.via(version).split())
    agent = ready(lab, QUICK, expected=2)
    with healed(lab):
        assert {device for device, _ in wans(agent)} == {A}
        for version in (4, 6):
            way = (*isp.via(version).split(), "metric", "20")
            router.run("ip", f"-{version}", "route", "add", "default", *way)
        healthy(lab, 4)
        lab.cut_carrier("a")
        with lab.flow("router", "site1") as flow, lab.connects("client", "web") as connects:
            until(lambda: flow.flowing() and connects.flowing(0.3), within=5, what="traffic by B")
            # The provider moves its gateway, then gives the router another address.
            lab.isp_box("b").run("ip", "addr", "add", "100.64.2.9/24", "dev", "sub")
            router.run("ip", "route", "replace", "default", "via", "100.64.2.9", "dev", B, "metric", "20")
            agent.says("eth2 via 100.64.2.9", within=2)
            until(lambda: "100.64.2.9" in router.run("ip", "route", "show", "table", "7400"), within=2)
            begin = now()
            router.run("ip", "addr", "add", "100.64.2.7/24", "dev", B)
            router.run("ip", "addr", "del", "100.64.2.2/24", "dev", B)
            router.run("ip", "addr", "add", "100.64.2.7/24", "dev", B, check=False)  # it was a secondary one
            router.run("ip", "route", "replace", "default", "via", "100.64.2.9", "dev", B, "metric", "20")
            until(
                lambda: flow.flowing() and connects.flowing(0.3),
                within=10,
                what="traffic from the new address",
            )
            assert flow.outage(since=begin) < usual(5)
            lab.restore_carrier("a")
            until(lambda: active(agent) == A, within=10, what="failback")
            until(lambda: seen_at(lab) == A, within=5, what="the tunnel by A")
        router.run("ip", "addr", "del", "100.64.2.7/24", "dev", B)
        router.run("ip", "addr", "add", "100.64.2.2/24", "dev", B)
        router.run("ip", "route", "replace", "default", *isp.via(4).split(), "metric", "20")
        # It goes: its routes first, as when netifd takes an interface down.
        for version in (4, 6):
            router.run("ip", f"-{version}", "route", "del", "default", "dev", B)
        agent.says("no default route by eth2", within=2)
        calm(lab)
        assert carrying(lab, 4) == carrying(lab, 6) == A
        for version in (4, 6):
            way = (*isp.via(version).split(), "metric", "20")
            router.run("ip", f"-{version}", "route", "add", "default", *way)


def test_a_person_chooses(shared: Lab) -> None:
    lab = shared
    agent = ready(lab, QUICK)
    with healed(lab):
        agent.cli("switch", B, "--for", "4s")
        until(lambda: active(agent, 4) == active(agent, 6) == B, within=2, what="the switch")
        assert carrying(lab, 4) == carrying(lab, 6) == B
        assert wans(agent)[B, 4]["why"] == "chosen by hand"
        assert B in agent.cli("explain", B)
        until(lambda: active(agent, 4) == A, within=6, what="its end")
        agent.cli("switch", B, "--for", "10m")
        until(lambda: active(agent, 4) == B, within=2, what="the switch")
        stays(lambda: active(agent, 4) == B, during=1)
        lab.cut_carrier("b")
        until(lambda: active(agent, 4) == A, within=3, what="not a dead one, by hand either")
        lab.restore_carrier("b")
        until(lambda: active(agent, 4) == B, within=10, what="the choice, when it works again")
        agent.cli("switch", "auto")
        until(lambda: active(agent, 4) == A, within=3, what="the choice by rule")
    with pytest.raises(LabError, match="no WAN is called 'nosuch'; there are: auto, eth1, eth2"):
        agent.cli("switch", "nosuch")
