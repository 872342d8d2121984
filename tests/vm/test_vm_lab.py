"""The real agent with the kernel's own WireGuard, which is what routers run.

One lab and one agent serve all tests, since the emulated machine takes long to start either; a test begins
where the one before has left the far site. The machine is slow and irregular, so the times here are wide; the
proof is in who carried the packets.
"""

import dataclasses
from collections.abc import Callable, Iterator

import pytest

from tests.lab import Agent, Flow, Lab, build, dual, now, sites, stays, sticky, until

pytestmark = pytest.mark.vm

TTL = 5
NAME = "site1.lab.test"
PATIENCE = 20.0  # times WGROUTER_SLOWNESS
HERTZ = 20
Note = Callable[[str, object], None]  # a figure for the report, build/vm/<library set>.xml


@pytest.fixture(scope="module")
def standing() -> Iterator[Lab]:
    plan = dual(sites(1), ttl=TTL, wireguard="kernel")
    # Carrier events of the first WAN come batched, as those of ordinary NICs do.
    first, second = plan.isps
    isps = (dataclasses.replace(first, slow_carrier=True), second)
    with build(dataclasses.replace(plan, isps=isps)) as built:
        yield built


@pytest.fixture(scope="module")
def started(standing: Lab) -> Iterator[Agent]:
    agent = standing.router.start_agent("")
    yield agent
    assert agent.stop(within=60) == 0
    assert "proto 157" not in standing.router.run("ip", "rule"), "a clean stop leaves nothing of ours"


@pytest.fixture
def lab(standing: Lab) -> Iterator[Lab]:
    yield standing
    standing.unblackhole("a")
    standing.restore_carrier("a")
    for isp in ("a", "b"):
        standing.isp_box(isp).run("tc", "qdisc", "del", "dev", "sub", "root", check=False)


@pytest.fixture
def flow(lab: Lab) -> Iterator[Flow]:
    with lab.flow("router", "site1", hertz=HERTZ) as made:
        until(made.flowing, within=PATIENCE, what="traffic in the tunnel")
        yield made


@pytest.fixture
def agent(lab: Lab, started: Agent) -> Agent:
    """It runs, all is well, and the first WAN is in use."""
    started.await_live(within=PATIENCE)
    by_a = sticky.outer(lab, "a")
    until(lambda: lab.pings("router", "site1") and by_a.packets, within=PATIENCE, what="the first WAN in use")
    return started


@pytest.fixture
def note(record_property: Note) -> Note:
    return record_property


def follows_the_name(lab: Lab, flow: Flow) -> float:
    """The far site moves, and its name with it: seconds of silence until traffic is back."""
    plan = lab.site().plan
    home = plan.home_b if lab.site().addresses == plan.home_a else plan.home_a
    begin = now()
    lab.move_site("site1", *home)
    lab.move(NAME, *home)
    until(lambda: lab.router.peer("site1").endpoint == f"{home[0]}:51820", within=PATIENCE, what="the move")
    until(flow.flowing, within=PATIENCE, what="traffic again")
    return flow.outage(since=begin)


def test_the_lab_has_the_wireguard_of_the_kernel(lab: Lab) -> None:
    for box in (lab.router.box, lab.site().box):
        assert "wireguard" in box.run("ip", "-d", "link", "show", "wg0")
    lab.stop_site("site1")
    lab.start_site("site1")


def test_the_sticky_source_hangs_without_an_agent(lab: Lab, flow: Flow) -> None:
    with sticky.foreign_rules(lab):
        sticky.stuck_without_agent(lab, flow)


def test_a_name_moves_and_traffic_follows(lab: Lab, agent: Agent, flow: Flow, note: Note) -> None:
    before = lab.router.peer("site1")
    index = lab.router.run("cat", "/sys/class/net/wg0/ifindex")
    silent = follows_the_name(lab, flow)
    note("silent_s", silent)
    assert silent < TTL + 3 + 22  # the rest is for a slow machine; the plain rule takes 135 s
    after = lab.router.peer("site1")
    assert after.endpoint != before.endpoint
    assert dataclasses.replace(
        after, endpoint=before.endpoint, handshake=0, received=0, sent=0
    ) == dataclasses.replace(before, handshake=0, received=0, sent=0), "key, allowed IPs and keepalive stay"
    assert lab.router.run("cat", "/sys/class/net/wg0/ifindex") == index, "the interface was never made anew"


def test_the_agent_moves_a_tunnel_with_a_sticky_source(
    lab: Lab, agent: Agent, flow: Flow, note: Note
) -> None:
    with sticky.foreign_rules(lab):
        away, back = sticky.moved_by_agent(lab, flow)
    note("away_s", away)
    note("back_s", back)
    note("stall_s", flow.stall)


def test_a_carrier_whose_loss_the_kernel_tells_late(lab: Lab, agent: Agent, flow: Flow, note: Note) -> None:
    by_a, by_b = sticky.outer(lab, "a"), sticky.outer(lab, "b")
    begin = now()
    lab.cut_carrier("a")
    until(lambda: by_b.packets and flow.flowing(), within=PATIENCE, what="traffic by the other WAN")
    away, sent, begin = flow.outage(since=begin), by_a.packets, now()
    assert away < sticky.HEALS_ITSELF_SECONDS
    lab.restore_carrier("a")
    until(
        lambda: by_a.packets > sent + 2 and flow.flowing(), within=PATIENCE, what="traffic by the first again"
    )
    note("away_s", away)
    note("back_s", flow.outage(since=begin))
    note("stall_s", flow.stall)


def test_a_bad_line_is_no_dead_line(lab: Lab, agent: Agent, flow: Flow, note: Note) -> None:
    """Delay, jitter, reordering, 8 % loss: no WAN is left for it, and a name is still followed."""
    for isp in ("a", "b"):
        netem = "delay 80ms 30ms reorder 10% loss 8%"
        lab.isp_box(isp).run("tc", "qdisc", "replace", "dev", "sub", "root", "netem", *netem.split())
    by_b = sticky.outer(lab, "b")
    stays(lambda: flow.flowing(5), during=10, what="traffic")
    note("silent_s", follows_the_name(lab, flow))
    assert flow.lost
    assert not by_b.packets, agent.tail()
