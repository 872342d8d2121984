"""The lab itself: each topology stands, each verb does what it says, and nothing is left behind.

If a scenario of the agent fails, and these do not, it is the agent.
"""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import (
    Answer,
    Lab,
    LabError,
    Site,
    Topology,
    build,
    dual,
    fleet,
    now,
    single,
    sites,
    stays,
    triple,
    until,
)
from tests.lab.netns import NETNS, REPOSITORY, labs_present, sweep

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def shared() -> Iterator[Lab]:
    """One lab for all tests that put back what they break."""
    with build(dual(sites(2, more_ports=(51821,)))) as lab:
        yield lab


@pytest.fixture
def lab(shared: Lab) -> Iterator[Lab]:
    yield shared
    shared.heal()
    # What the lab's router has learnt while things were broken, netifd would not have changed.
    for name, site in shared.sites.items():
        endpoint = f"{site.plan.home_a[0]}:{site.plan.port}"
        shared.router.run("wg", "set", "wg0", "peer", shared.router.public_key(name), "endpoint", endpoint)


# ---- it stands


@pytest.mark.parametrize("topology", [single(), dual(), triple()], ids=["single", "dual", "triple"])
def test_everybody_reaches_everybody(topology: Topology) -> None:
    with build(topology) as lab:
        for version in (4, 6):
            assert lab.pings("router", "site1", version=version)
            assert lab.pings("client", "site1", version=version)
            assert lab.pings("client", "web", version=version)
        for isp in topology.isps:
            with lab.flow("router", "web", device=isp.device) as flow:
                until(lambda flow=flow: flow.answers > 3, within=2, what=f"{isp.name} carries")  # type: ignore[misc]
        assert lab.pings("client", "8.8.8.8")
        assert not lab.pings("web", topology.isps[0].public4, seconds=0.2) or topology.isps[0].nat
        assert lab.query("site1") == Answer("NOERROR", ("198.51.100.1",))
        assert lab.router.peer("site1").endpoint == "198.51.100.1:51820"


def test_a_fleet_shares_its_sites() -> None:
    with build(fleet(2, 1)) as lab:
        for router in lab.routers:
            assert lab.pings(router, "site1")
        assert len(lab.site().wg().peers) == 2


def test_fifty_peers_of_which_ten_exist() -> None:
    many = (*sites(10), *(Site(f"ghost{n}", n, alive=False) for n in range(11, 51)))
    with build(single(many)) as lab:
        assert len(lab.router.wg().peers) == 50
        assert lab.query("ghost37") == Answer("NOERROR", ("198.51.100.37",))


def test_uplinks_of_other_kinds() -> None:
    topology = dual()
    a, b = topology.isps
    isps = (dataclasses.replace(a, proto="pppoe", mtu=1492), dataclasses.replace(b, proto="dhcp", nat=False))
    with build(dataclasses.replace(topology, isps=isps)) as lab:
        routes = lab.router.run("ip", "route")
        assert "default dev pppoe-wan" in routes
        assert f"default via {isps[1].gateway4} dev eth2 proto static src {isps[1].router4}" in routes
        assert lab.pings("router", "site1")
        assert lab.pings("web", isps[1].router4), "without NAT the internet reaches the router"


def test_sites_with_ipv6_addresses() -> None:
    with build(single(sites(1, families=(6, 4), more_ports=(51821,)))) as lab:
        assert lab.router.peer("site1").endpoint == "[2001:db8:f0::1]:51820"
        assert lab.pings("router", "site1")
        (seen,) = lab.site().wg().peers.values()
        assert str(seen.endpoint).startswith("[2001:db8:a1::2]:")
        lab.drop_port("site1", 51820)
        with lab.flow("router", "site1") as flow:
            other = ("peer", lab.router.public_key("site1"), "endpoint", "[2001:db8:f0::1]:51821")
            lab.router.run("wg", "set", "wg0", *other)
            until(flow.flowing, within=2, what="the other port")


def test_a_full_tunnel_carries_the_lan() -> None:
    with build(dual(sites(1, more_allowed=("0.0.0.0/0",)))) as lab, lab.flow("client", "web") as flow:
        until(flow.flowing, within=2)
        clear = [lab.count(box, "ip daddr 192.0.2.80") for box in ("isp-a", "isp-b", "site1")]
        until(lambda: clear[2].packets > 10, within=2, what="the site sees them come out")
        assert [counter.packets for counter in clear[:2]] == [0, 0]
        lab.drop_port("site1", 51820)
        until(lambda: not flow.flowing(0.3), within=2, what="nothing goes round the tunnel")


def test_a_router_that_had_no_network_at_set_up() -> None:
    topology = single()
    routers = (dataclasses.replace(topology.routers[0], resolved=False),)
    with build(dataclasses.replace(topology, routers=routers)) as lab:
        assert lab.router.peer("site1").endpoint is None


def test_the_router_has_the_files_of_one(lab: Lab) -> None:
    root = lab.router.root
    network = (root / "etc/config/network").read_text()
    assert "config interface 'wanb'" in network
    assert "option endpoint_host 'site2.lab.test'" in network
    assert lab.router.wg().private_key in network
    assert (root / "etc/config/network").stat().st_mode & 0o777 == 0o600
    assert (
        "# Interface wanb\nnameserver 192.0.2.54\n"
        in (root / "tmp/resolv.conf.d/resolv.conf.auto").read_text()
    )


def test_netifd_has_pinned_the_endpoints(lab: Lab) -> None:
    assert "198.51.100.1 via 100.64.1.1 dev eth1 proto static metric 10" in lab.router.run("ip", "route")


# ---- paths


def test_a_cut_cable_is_seen_and_restored(lab: Lab) -> None:
    with lab.flow("client", "web") as flow, lab.flow("client", "web", version=6) as flow6:
        until(lambda: flow.flowing() and flow6.flowing(), within=3)
        cut = now()
        lab.cut_carrier("a")
        until(lambda: "linkdown" in lab.router.run("ip", "route", "show", "default"), within=2)
        until(lambda: not flow.flowing() and not flow6.flowing(), within=2)
        lab.restore_carrier("a")
        until(lambda: flow.flowing() and flow6.flowing(), within=5)
    assert flow.outage(cut) > 0.1


@pytest.mark.parametrize("gateway", [True, False])
def test_a_black_hole_is_silent(lab: Lab, gateway: bool) -> None:
    with lab.flow("router", "site1") as flow:
        until(flow.flowing, within=2)
        lab.blackhole("a", gateway=gateway)
        until(lambda: not flow.flowing(), within=2)
        assert "linkdown" not in lab.router.run("ip", "route")
        assert lab.pings("router", lab.isp("a").gateway4, seconds=0.3) is gateway
        lab.unblackhole("a")
        until(flow.flowing, within=5)


def test_a_black_hole_may_concern_one_ip_version_only(lab: Lab) -> None:
    lab.blackhole("a", version=6)
    assert lab.pings("client", "web")
    assert not lab.pings("client", "web", version=6, seconds=0.3)


def test_the_other_isp_is_not_concerned(lab: Lab) -> None:
    with lab.flow("router", "web", device="eth2") as flow:
        until(flow.flowing, within=2)
        start = now()
        lab.blackhole("a", gateway=False)
        lab.lose("a", 50)
        lab.rebind_nat("a")
        stays(lambda: flow.flowing(0.3), during=0.5, what="b carries")
        assert flow.outage(start) < 0.3


def test_loss_is_as_large_as_said(lab: Lab) -> None:
    lab.lose("a", 30)
    with lab.flow("router", "web", hertz=1000) as flow:
        until(lambda: flow.sent >= 1000, within=5)
    assert 0.22 < flow.lost / flow.sent < 0.38


def test_a_delay_is_as_long_as_said(lab: Lab) -> None:
    lab.delay("a", 80)
    with lab.flow("router", "web") as slow:
        until(lambda: slow.answers >= 20, within=5)
    assert 0.08 <= min(slow.rtt_seconds()) < 0.12
    lab.delay("a", 0)
    with lab.flow("router", "web") as fast:
        until(lambda: fast.answers >= 20, within=5)
    assert min(fast.rtt_seconds()) < 0.02


def _web_status(lab: Lab) -> str:
    script = (
        "import http.client as h; c = h.HTTPConnection('192.0.2.80', timeout=2);"
        "c.request('GET', '/generate_204'); print(c.getresponse().status)"
    )
    return lab.client.run(sys.executable, "-c", script).strip()


def test_a_captive_portal_answers_in_place_of_the_web(lab: Lab) -> None:
    assert _web_status(lab) == "204"
    lab.captive("a")
    assert _web_status(lab) == "302"
    assert lab.query("site1") is not None
    assert not lab.pings("router", "web", seconds=0.3)


def test_one_host_of_the_internet_is_dead(lab: Lab) -> None:
    lab.silence("192.0.2.1")
    assert not lab.pings("router", "192.0.2.1", seconds=0.3)
    assert lab.pings("router", "192.0.2.2")
    lab.unsilence("192.0.2.1")
    assert lab.pings("router", "192.0.2.1")


# ---- NAT


def _seen_port(lab: Lab) -> str:
    (peer,) = lab.site().wg().peers.values()
    return str(peer.endpoint)


def test_a_nat_hides_the_port_and_forgets(lab: Lab) -> None:
    with lab.flow("router", "site1") as flow:
        until(flow.flowing, within=2)
        before = _seen_port(lab)
        assert before.startswith("203.0.113.17:")
        lab.rebind_nat("a", stale=False)
        until(lambda: _seen_port(lab) != before, within=2, what="a new mapping")
        until(flow.flowing, within=2)


def test_a_stale_mapping_needs_a_new_source_port(lab: Lab) -> None:
    with lab.flow("router", "site1") as flow:
        until(flow.flowing, within=2)
        lab.rebind_nat("a")
        until(lambda: not flow.flowing(), within=2)
        stays(lambda: not flow.flowing(), during=0.5, what="the old port is dead")
        assert lab.pings("router", "web"), "everything else works"
        lab.router.run("wg", "set", "wg0", "listen-port", "40404")
        until(flow.flowing, within=2, what="a new port works")


def test_the_life_of_a_mapping_can_be_set(lab: Lab) -> None:
    lab.nat_lifetime("a", 7)
    assert lab.isp_box("a").sh("cat /proc/sys/net/netfilter/nf_conntrack_udp_timeout").strip() == "7"


# ---- sites and names


def test_a_site_moves_and_its_old_address_is_silent(lab: Lab) -> None:
    site = lab.site()
    with lab.flow("router", "site1") as flow, lab.flow("router", "site2") as other:
        until(lambda: flow.flowing() and other.flowing(), within=2)
        site.move_to(*site.plan.home_b)
        until(lambda: not flow.flowing(0.3), within=2)
        assert lab.query("site1") == Answer("NOERROR", site.plan.home_a)
        lab.move("site1", *site.plan.home_b)
        assert lab.query("site1") == Answer("NOERROR", site.plan.home_b)
        endpoint = f"{site.plan.home_b[0]}:51820"
        lab.router.run("wg", "set", "wg0", "peer", lab.router.public_key("site1"), "endpoint", endpoint)
        until(flow.flowing, within=2)
        assert other.outage() < 0.3
    with pytest.raises(LabError, match=r"site1 can live at 198\.51\.100\.1"):
        site.move_to("192.0.2.99")


def test_a_port_dies_while_another_leads_to_the_same_site(lab: Lab) -> None:
    with lab.flow("router", "site1") as flow:
        until(flow.flowing, within=2)
        lab.drop_port("site1", 51820)
        until(lambda: not flow.flowing(0.3), within=2)
        address = lab.site().addresses[0]
        lab.router.run(
            "wg", "set", "wg0", "peer", lab.router.public_key("site1"), "endpoint", f"{address}:51821"
        )
        until(flow.flowing, within=2)
        lab.open_port("site1", 51820)


def test_a_site_dies_and_comes_back() -> None:
    with build(single()) as lab, lab.flow("router", "site1") as flow:
        until(flow.flowing, within=2)
        lab.stop_site("site1")
        until(lambda: not flow.flowing(0.3), within=2)
        lab.start_site("site1")
        # The router has a session that the site knows nothing of: any packet from it makes a new one.
        lab.router.run(
            "wg", "set", "wg0", "peer", lab.router.public_key("site1"), "persistent-keepalive", "0"
        )
        assert lab.site().wg().listen_port == 51820


def test_what_a_name_can_say(lab: Lab) -> None:
    lab.move("site1", "198.18.1.1", "198.18.2.1", "2001:db8:f1::1", ttl=77)
    both = lab.query("site1")
    assert both is not None and set(both.data) == {"198.18.1.1", "198.18.2.1"}
    assert lab.query("site1", "AAAA") == Answer("NOERROR", ("2001:db8:f1::1",))
    lab.publish("_wireguard._udp.site1", "SRV", "0 0 51821 site1")
    assert lab.query("_wireguard._udp.site1", "SRV") == Answer("NOERROR", ("0 0 51821 site1.lab.test.",))
    lab.lie("site1")
    assert lab.query("site1") == Answer("NOERROR", ("127.0.0.1",))
    lab.nxdomain("site1")
    assert lab.query("site1") == Answer("NXDOMAIN")
    lab.servfail("site2")
    assert lab.query("site2") == Answer("SERVFAIL")
    lab.move("site2", "198.51.100.2")
    assert lab.query("site2") == Answer("NOERROR", ("198.51.100.2",))
    with pytest.raises(LabError, match=r"below lab\.test"):
        lab.move("lab.test", "192.0.2.1")


def test_a_resolver_falls_silent_or_refuses(lab: Lab) -> None:
    lab.stop_dns("a")
    assert lab.query("site1") is None
    assert lab.query("site1", server="192.0.2.54") is not None
    lab.start_dns("a")
    assert lab.query("site1") is not None
    lab.stop_dns(refuse=True)
    start = now()
    probe = (
        "import socket as s; c = s.socket(s.AF_INET, s.SOCK_DGRAM);"
        "c.connect(('192.0.2.54', 53)); c.send(b'?'); c.recv(9)"
    )
    assert "refused" in lab.router.run("sh", "-c", f'{sys.executable} -c "{probe}" 2>&1', check=False)
    assert now() - start < 2


def test_a_resolver_is_slow(lab: Lab) -> None:
    lab.slow_dns(0.4)
    for server in ("192.0.2.53", "192.0.2.54", "2001:db8::53", "1.1.1.1"):
        start = now()
        assert lab.query("site1", server=server) == Answer("NOERROR", ("198.51.100.1",))
        assert 0.4 <= now() - start < 0.9


# ---- traffic


def test_connections_and_a_download(lab: Lab) -> None:
    with lab.connects("client", "web") as connects, lab.download("client", "web") as download:
        until(lambda: connects.answers > 5 and download.received > 100_000, within=5)
        assert download.broken is None
        start = now()
        lab.blackhole("a")
        until(lambda: not connects.flowing(0.3) and not download.flowing(0.3), within=3)
        lab.unblackhole("a")
        until(lambda: connects.flowing() and download.flowing(), within=5)
        assert connects.outage(start) > 0.2
        assert download.broken is None, "TCP outlives a short silence"


# ---- the agent


def test_any_command_can_be_the_agent(lab: Lab) -> None:
    script = (
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(3));"
        "print('up', flush=True); time.sleep(99)"
    )
    agent = lab.router.start_agent("config globals 'globals'\n", command=[sys.executable, "-c", script])
    agent.says("up", within=5)
    assert (lab.router.root / "etc/config/wgrouter").read_text() == "config globals 'globals'\n"
    assert agent.running
    assert Path(f"/proc/{agent.pid}/ns/net").stat().st_ino == lab.router.box.path.stat().st_ino
    with pytest.raises(LabError, match="runs already"):
        agent.start()
    assert agent.stop() == agent.exit_status == 3
    assert agent.start().exit_status is None
    assert agent.kill9() == agent.exit_status == -signal.SIGKILL
    assert "up" in agent.log.read_text()


def test_an_agent_that_does_not_end_is_an_error(lab: Lab) -> None:
    script = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(99)"
    agent = lab.router.start_agent(command=[sys.executable, "-c", script])
    agent.says("up", within=5)
    with pytest.raises(LabError, match=r"did not end within 0\.1 s"):
        agent.stop(within=0.1)
    assert agent.exit_status == -signal.SIGKILL


# ---- the broker


def test_a_broker_with_passwords_and_certificates() -> None:
    with build(single(broker=True)) as lab:
        broker = lab.broker
        witness = broker.subscribe("wgrouter/#")
        login = ("-h", broker.host, "-u", "router", "-P", broker.password("router"), "-V", "5", "-q", "1")
        lab.router.run("mosquitto_pub", *login, "-t", "wgrouter/router/state", "-m", "1", "-r")
        lab.router.run("mosquitto_pub", *login, "-t", "wgrouter/other/state", "-m", "2", check=False)
        tls = (*login, "-p", "8883", "--cafile", str(broker.ca), "-t", "wgrouter/router/tls", "-m", "3")
        lab.router.run("mosquitto_pub", *tls)
        messages = until(lambda: m if len(m := witness.messages()) >= 2 else [], within=3)
        assert [(m.topic, m.payload) for m in messages] == [
            ("wgrouter/router/state", "1"),
            ("wgrouter/router/tls", "3"),
        ]
        broker.use_certificate("expired")
        with pytest.raises(LabError, match="TLS error"):
            lab.router.run("mosquitto_pub", *tls)


# ---- nothing is left behind


def _traces(name: str) -> list[str]:
    """Namespaces, files and processes of a lab."""
    found = [entry for entry in os.listdir(NETNS) if entry.startswith(name)]
    found += [entry for entry in os.listdir(tempfile.gettempdir()) if entry.startswith(name)]
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return found + [line for line in listed.splitlines() if name in line]


def test_nothing_is_left_after_an_error_and_the_error_says_more() -> None:
    with pytest.raises(ZeroDivisionError) as caught, build(dual()) as lab:
        flow = lab.flow("router", "site1")
        lab.router.start_agent(command=["sh", "-c", "trap '' TERM; echo stubborn; sleep 77 & wait; sleep 77"])
        until(flow.flowing, within=2)
        raise ZeroDivisionError
    assert _traces(lab.name) == []
    (note,) = caught.value.__notes__
    assert "198.51.100.1:51820" in note and "stubborn" in note


def test_labs_side_by_side_do_not_meet() -> None:
    with build(single()) as one, build(single()) as two:
        assert one.name != two.name
        one.blackhole("a")
        one.move("site1", "198.18.1.1")
        assert two.pings("router", "site1")
        assert two.query("site1") == Answer("NOERROR", ("198.51.100.1",))
        assert one.query("site1") is None
    assert _traces(one.name) + _traces(two.name) == []


_SCRIPT = """
from tests.lab import build, single, until
with build(single()) as lab:
    print(lab.name, flush=True)
    until(lambda: False, within=60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_nothing_is_left_after_a_signal(number: signal.Signals) -> None:
    def as_in_a_terminal() -> None:
        """What a shell ignores for a job in the background stays ignored in all its children."""
        for ignored in (signal.SIGINT, signal.SIGHUP):
            signal.signal(ignored, signal.SIG_DFL)

    with subprocess.Popen(
        [sys.executable, "-c", _SCRIPT],
        preexec_fn=as_in_a_terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=REPOSITORY,
    ) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        assert re.fullmatch(rf"wgr{process.pid}x\d+", name)
        assert name in labs_present()
        process.send_signal(number)
        process.wait(timeout=10)
    if number is signal.SIGKILL:
        # Nobody could tidy up; whoever comes next does.
        assert name in sweep()
    assert _traces(name) == []


@pytest.mark.parametrize("stdin", ["<&-", "</dev/null"])
def test_a_prompt_without_input_ends_by_itself(stdin: str) -> None:
    command = f"exec {sys.executable} -m tests.lab single --no-agent {stdin}"
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, cwd=REPOSITORY, check=False, timeout=30
    )
    assert done.returncode == 0, done.stderr
    name = re.search(r"wgr\d+x\d+", done.stdout)
    assert name and _traces(name[0]) == []


def test_the_prompt_breaks_and_mends() -> None:
    lines = [
        "blackhole a",
        "ping client web",
        "heal",
        "ping client web",
        "blackhole nobody",
        "nonsense",
        "lose a",
        "quit",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "tests.lab", "dual", "--no-agent"],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.partition("Ctrl-D.\n")[2].splitlines()
    assert said[:2] == ["no answer", "answered"]
    assert said[2] == "LabError: no ISP 'nobody'; there are: a, b"
    assert said[3] == "'nonsense' is no verb; `help` lists them"
    assert said[4] == "TypeError: missing a required argument: 'percent'"
