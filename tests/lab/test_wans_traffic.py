"""The real agent and whose packets go where: shares, answers, full tunnels, other people's rules."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.lab import Lab, Router, Site, Topology, build, dual, now, stays, until, usual
from tests.lab.uplinks import (
    BALANCE,
    QUICK,
    active,
    calm,
    equals,
    healed,
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


def ports_at(lab: Lab, isp: str, *match: str) -> set[str]:
    """The source ports of the connections that went by an ISP, as its NAT remembers them."""
    listed = lab.isp_box(isp).run("conntrack", "-L", "-s", lab.isp(isp).router4, *match, check=False)
    return set(re.findall(r"^\S+ .*? sport=(\d+)", listed, re.MULTILINE))


@pytest.fixture(scope="module")
def shared() -> Iterator[Lab]:
    with build(dual(FAR, ttl=2)) as lab:
        yield lab


# ---------------------------------------------------------------- shares


def test_new_connections_follow_the_weights_and_stay_where_they_are(shared: Lab) -> None:
    lab = shared
    agent = ready(lab, BALANCE + equals({"wan": 3, "wanb": 1}))
    shares = {key: row["share_percent"] for key, row in wans(agent).items()}
    assert shares == {(A, 4): 75, (A, 6): 75, (B, 4): 25, (B, 6): 25}
    syn = 'iifname "sub" tcp dport 7 tcp flags & (syn | ack) == syn'
    with healed(lab):
        flows = [lab.flow("client", "web", hertz=10, connected=True) for _ in range(12)]
        counts = {name: lab.count(f"isp-{name}", syn) for name in ("a", "b")}
        # A connection keeps the address that it was given on its first WAN, also where it does not belong.
        astray = [
            lab.count(f"isp-{name}", f'iifname "sub" ip saddr {lab.isp(other).router4}')
            for name, other in (("a", "b"), ("b", "a"))
        ]
        with lab.connects("client", "web", hertz=500) as connects:
            until(lambda: sum(count.packets for count in counts.values()) >= 1000, within=15, what="1,000")
        by_a, by_b = counts["a"].packets, counts["b"].packets
        assert abs(100 * by_a / (by_a + by_b) - 75) < 5, (by_a, by_b)
        assert connects.failed == 0
        both = ("-d", lab.address("web"))
        assert [count.packets for count in astray] == [0, 0], "a connection changed its WAN"
        # The death of one WAN is no affair of those on the other.
        until(lambda: all(flow.flowing(0.5) for flow in flows), within=3, what="flows")
        mine = ports_at(lab, "a", "-p", "udp", *both)
        lab.cut_carrier("b")
        until(lambda: all(flow.flowing(0.3) for flow in flows), within=5, what="all flows")
        stays(lambda: all(flow.flowing(0.5) for flow in flows), during=0.5)
        assert mine and sum(flow.stop().lost == 0 for flow in flows) >= len(mine)
        assert mine <= ports_at(lab, "a", "-p", "udp", *both)


def test_a_rule_sends_traffic_by_its_wan_and_refuses_it_without(shared: Lab) -> None:
    lab = shared
    rule = (
        "config rule 'only'\n\toption dest_ip '192.0.2.80'\n\tlist wan 'eth2'\n"
        "\toption last_resort 'unreachable'\n"
    )
    ready(lab, QUICK + rule)
    with healed(lab), lab.connects("client", "web") as connects, lab.connects("client", "192.0.2.3") as other:
        until(connects.flowing, within=5, what="connections")
        clear = lab.count("isp-a", 'iifname "sub" ip daddr 192.0.2.80')
        stays(lambda: clear.packets == 0, during=0.5)
        lab.cut_carrier("b")
        until(lambda: not connects.flowing(0.5), within=5, what="the refusal")
        stays(lambda: clear.packets == 0, during=0.5, what="nothing by the other WAN")
        other.stop()


CONNECT = """
import socket, sys
for last in range(101, 117):
    for _ in range(4):
        socket.create_connection((sys.argv[1], 7), 5, (f"192.168.1.{last}", 0)).close()
"""


def test_sticky_sources_keep_their_wan_and_share_all_wans(shared: Lab) -> None:
    lab, client = shared, shared.boxes["client"]
    ready(lab, BALANCE + "\toption sticky '1'\n" + equals({"wan": 1, "wanb": 1}))
    sources = [f"192.168.1.{last}" for last in range(101, 117)]
    try:
        for source in sources:
            client.run("ip", "address", "add", f"{source}/24", "dev", "eth0")
        client.run(sys.executable, "-c", CONNECT, lab.address("web"))
        used = {}
        for source in sources:
            listed = lab.router.run("conntrack", "-L", "-p", "tcp", "-s", source, check=False)
            used[source] = re.findall(r"^tcp .*? dst=192.0.2.80 .*? dst=(\S+)", listed, re.MULTILINE)
        assert all(len(ways) >= 4 and len(set(ways)) == 1 for ways in used.values()), used
        both = {lab.isp(name).router4 for name in ("a", "b")}
        assert {ways[0] for ways in used.values()} == both
    finally:
        for source in sources:
            client.run("ip", "address", "del", f"{source}/24", "dev", "eth0", check=False)


# ---------------------------------------------------------------- full tunnel


def test_a_full_tunnel_loses_no_lan_packet_into_the_clear() -> None:
    far = (Site("site1", 1, (4, 6), more_allowed=("0.0.0.0/0", "::/0")),)
    with build(dual(far, ttl=2)) as lab:
        # Over IPv6 the kernel gives a route without a metric 1024: behind the WANs' own default routes.
        lab.router.run("ip", "-6", "route", "add", "default", "dev", "wg0", "metric", "1")
        agent = ready(lab, QUICK)
        web = 'iifname "sub" ip daddr 192.0.2.80', 'iifname "sub" ip6 daddr 2001:db8::80'
        clear = [lab.count(f"isp-{isp}", match) for isp in ("a", "b") for match in web]
        flows = [lab.flow("client", "web"), lab.flow("client", "web", version=6)]
        until(lambda: all(flow.flowing() for flow in flows), within=5, what="traffic in the tunnel")
        for fault in (lab.cut_carrier, lab.blackhole):
            fault("a")
            until(lambda: seen_at(lab) == B, within=6, what="the tunnel by B")
            until(lambda: all(flow.flowing() for flow in flows), within=5, what="traffic again")
            lab.heal()
            since = steady(agent, *flows)
            until(lambda: active(agent) == A and seen_at(lab) == A, within=20, what="the failback")
            calm(lab)
            assert lost_since(since, *flows) == [0, 0]
        agent.kill9()
        lab.cut_carrier("a")
        agent.start()
        until(lambda: active(agent) == B and seen_at(lab) == B, within=5, what="the next life")
        until(lambda: all(flow.flowing() for flow in flows), within=5, what="traffic by the next life")
        assert agent.stop() == 0
        assert [count.packets for count in clear] == [0, 0, 0, 0]


# ---------------------------------------------------------------- answers and other people's rules


def test_a_handshake_that_arrives_by_the_second_wan_is_answered_from_its_address() -> None:
    plan = dual(tuple(replace(site, keepalive=0) for site in FAR), ttl=2)
    isps = tuple(replace(isp, nat=False) for isp in plan.isps)
    called = Router(listen_port=51820, inbound=True)
    with build(Topology((called,), isps, plan.sites, ttl=2)) as lab:
        agent = ready(lab, QUICK)
        answers = {name: lab.count(f"isp-{name}", 'iifname "sub" udp sport 51820') for name in ("a", "b")}
        key = lab.keys.routers["router"].public
        for name, address, inner in (
            ("site1", lab.isp("b").router4, called.tunnel4),
            ("site2", f"[{lab.isp('b').router6}]", called.tunnel6),
        ):
            lab.stop_site(name)  # it forgets its session, so a handshake must come first
            lab.start_site(name)
            box = lab.site(name).box
            box.run("wg", "set", "wg0", "peer", key, "endpoint", f"{address}:51820")
            assert ", 1 received" in box.run("ping", "-n", "-c1", "-W3", inner, check=False)
            assert seen_at(lab, name) == B
        assert answers["b"].packets >= 4 and answers["a"].packets == 0
        # An answer to a stranger on the second WAN goes back there too, whatever protocol it is.
        stranger = lab.boxes["web"].run("ping", "-n", "-c1", "-W2", lab.isp("b").router4, check=False)
        assert ", 1 received" in stranger
        assert active(agent) == A


@pytest.mark.parametrize("preference", [500, 20000])
def test_rules_of_others_for_a_source_do_not_hold_the_tunnel(shared: Lab, preference: int) -> None:
    """FACTS: WireGuard's sticky source and `from` rules, before ours and after."""
    lab, router = shared, shared.router
    for number, name in ((100, "a"), (101, "b")):
        isp = lab.isp(name)
        for version, source, way in (("-4", isp.router4, isp.via(4)), ("-6", isp.router6, isp.via(6))):
            place = ("pref", str(preference + number), "from", source, "lookup", str(number))
            router.run("ip", version, "rule", "add", *place)
            router.run("ip", version, "route", "add", "default", *way.split(), "table", str(number))
    foreign = [line for line in router.run("ip", "rule").splitlines() if "lookup 10" in line]
    agent = ready(lab, QUICK)
    try:
        with healed(lab), lab.flow("router", "site1") as flow, lab.flow("router", "site2") as flow6:
            until(lambda: flow.flowing() and flow6.flowing(), within=5, what="traffic")
            begin = now()
            lab.blackhole("a")
            until(lambda: seen_at(lab) == seen_at(lab, "site2") == B, within=5, what="the tunnels by B")
            until(lambda: flow.flowing() and flow6.flowing(), within=5, what="traffic again")
            assert max(flow.outage(since=begin), flow6.outage(since=begin)) < usual(2.5) + 2 * flow.stall
            lab.unblackhole("a")
            until(lambda: active(agent) == A, within=20, what="the failback")
            until(lambda: seen_at(lab) == seen_at(lab, "site2") == A, within=5, what="the tunnels by A")
        listed = router.run("ip", "rule").splitlines()
        assert [line for line in listed if "lookup 10" in line] == foreign
    finally:
        for number in (100, 101):
            for version in ("-4", "-6"):
                router.run("ip", version, "rule", "del", "pref", str(preference + number))
                router.run("ip", version, "route", "flush", "table", str(number))


def test_other_policy_routers_are_told_and_left_alone(shared: Lab) -> None:
    lab, router = shared, shared.router
    agent = ready(lab, QUICK)
    tailscale = ("pref", "5210", "fwmark", "0x80000/0xff0000", "lookup", "main")
    pbr = ("pref", "29999", "fwmark", "0x20000/0xff0000", "lookup", "777")
    mwan3 = ("pref", "2001", "fwmark", "0x100/0x3f00", "lookup", "1")
    router.run("ip", "route", "add", "default", *lab.isp("b").via(4).split(), "table", "777")
    try:
        with healed(lab):
            for rule in (tailscale, pbr):
                router.run("ip", "rule", "add", *rule)
            agent.says("Tailscale is here too", within=2)
            agent.says("pbr is here too", within=2)
            calm(lab)
            shown = router.run("ip", "route", "get", lab.address("web"), "mark", "0x20000")
            assert "dev eth2" in shown, "what pbr marked is pbr's"
            before = router.run("ip", "rule")
            foreign = [line for line in before.splitlines() if "0xff0000" in line and "proto 157" not in line]
            router.run("ip", "rule", "add", *mwan3)
            agent.says("routing is left to it", within=2)
            until(lambda: ours(router) == [], within=3, what="nothing of ours")
            lab.cut_carrier("a")
            agent.says("not usable over IPv4", within=3)
            stays(lambda: ours(router) == [], during=0.5)
            assert "2001:" in router.run("ip", "rule")
            router.run("ip", "rule", "del", *mwan3)
            with lab.flow("router", "site1") as flow:
                until(flow.flowing, within=5, what="the tunnel, as soon as mwan3 is gone")
            assert agent.stop() == 0
            assert [line for line in router.run("ip", "rule").splitlines() if "0xff0000" in line] == foreign
            agent.start()
    finally:
        for rule in (tailscale, pbr, mwan3):
            router.run("ip", "rule", "del", *rule, check=False)
        router.run("ip", "route", "flush", "table", "777")


def test_questions_for_a_wans_own_servers_leave_by_that_wan(shared: Lab) -> None:
    lab = shared
    seen = {
        (isp, server): lab.count(
            f"isp-{isp}", f'iifname "sub" ip daddr {lab.isp(server).resolvers[0]} udp dport 53'
        )
        for isp in ("a", "b")
        for server in ("a", "b")
    }
    agent = ready(lab, QUICK)
    with healed(lab):
        until(lambda: seen["a", "a"].packets > 0, within=10, what="a question by A")
        lab.blackhole("a")
        until(lambda: active(agent) == B, within=5, what="the switch")
        agent.cli("reresolve", check=False)
        until(lambda: seen["b", "b"].packets > 0, within=10, what="a question by B")
    assert seen["a", "b"].packets == seen["b", "a"].packets == 0
