"""The real agent with the kernel's own WireGuard, which is what routers run.

One lab and one agent serve all tests, since the emulated machine takes long to start either; a test begins
where the one before has left the far site. The machine is slow and irregular, so the times here are wide; the
proof is in who carried the packets.
"""

import contextlib
import dataclasses
import json
import re
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.lab import Agent, Flow, Lab, build, dual, now, sites, stays, sticky, until, usual
from tests.lab.wiring import core_device

pytestmark = pytest.mark.vm

TTL = 5
NAME = "site1.lab.test"
PATIENCE = 20.0  # times WGROUTER_SLOWNESS
Note = Callable[[str, object], None]  # a figure for the report, build/vm/vm/<library set>.xml


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
    wide(standing)
    for isp in ("a", "b"):
        standing.isp_box(isp).run("tc", "qdisc", "del", "dev", "sub", "root", check=False)


@pytest.fixture
def flow(lab: Lab) -> Iterator[Flow]:
    with lab.flow("router", "site1") as made:
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
    sticky.flows_again(flow)
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


class CarrierNews:
    """When the kernel tells a box that a device of it has no carrier any more (rtnetlink(7))."""

    HEAD = struct.Struct("=IHHII BxHiII")  # nlmsghdr, ifinfomsg
    RTMGRP_LINK, RTM_NEWLINK, IFF_LOWER_UP = 1, 16, 1 << 16

    def __init__(self, lab: Lab, device: str) -> None:
        self._index = int(lab.router.run("cat", f"/sys/class/net/{device}/ifindex"))
        self._socket = lab.router.box.socket(socket.AF_NETLINK, socket.SOCK_RAW)
        self._socket.bind((0, self.RTMGRP_LINK))
        self._socket.settimeout(0.1)
        self.lost: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                data = self._socket.recv(1 << 16)
                _, kind, _, _, _, _, _, index, flags, _ = self.HEAD.unpack_from(data)
                if kind == self.RTM_NEWLINK and index == self._index and not flags & self.IFF_LOWER_UP:
                    self.lost.append(now())

    def __enter__(self) -> "CarrierNews":
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._socket.close()


@contextlib.contextmanager
def batching(lab: Lab) -> Iterator[Callable[[], None]]:
    """Yields what makes the kernel hold back the next carrier event: after one of an ordinary device it tells
    no other for a second, in any namespace (net/core/link_watch.c, linkwatch_nextevent).
    """
    core = lab.boxes["core"]
    core.ip("link add noise type dummy", "link set noise up")
    try:
        yield lambda: core.ip("link set noise carrier on", "link set noise carrier off")
    finally:
        core.ip("link del noise")


def test_a_carrier_whose_loss_the_kernel_tells_late(lab: Lab, agent: Agent, flow: Flow, note: Note) -> None:
    """The device of WAN a is treated like an ordinary NIC, and another one has just lost its carrier."""
    by_a, by_b = sticky.outer(lab, "a"), sticky.outer(lab, "b")
    with batching(lab) as noise, CarrierNews(lab, "eth1") as news:
        noise()
        begin = now()
        lab.cut_carrier("a")
        until(lambda: by_b.packets, within=PATIENCE, what="the tunnel by the other WAN")
        sticky.flows_again(flow)
        away = flow.outage(since=begin)
        until(lambda: news.lost, within=PATIENCE, what="word of the kernel")
    note("kernel_s", news.lost[0] - begin)
    assert away < sticky.HEALS_ITSELF_SECONDS
    sent, begin = by_a.packets, now()
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
    stays(lambda: flow.flowing(1), during=10, what="traffic")
    note("silent_s", follows_the_name(lab, flow))
    assert flow.lost
    assert not by_b.packets, agent.tail()


# ---- MTU

ROOM = re.compile(r"wg0 has (\d+), \S+ has room for (-?\d+) \((\d+) less 60\)")
NARROW = """
config wan 'a'
	option interface 'wan'
	option priority '1'
	option mtu '1300'

config wan 'b'
	option interface 'wanb'
	option priority '2'
"""


def wide(lab: Lab) -> None:
    """Every line of the first ISP takes 1,500 bytes."""
    line(lab, 1500)
    beyond(lab, 1500)


def line(lab: Lab, mtu: int) -> None:
    """The line between the router and its first ISP."""
    lab.router.box.ip(f"link set {lab.isp('a').device} mtu {mtu}")
    lab.isp_box("a").ip(f"link set sub mtu {mtu}")


def beyond(lab: Lab, mtu: int) -> None:
    """The line between that ISP and the internet."""
    lab.isp_box("a").ip(f"link set net mtu {mtu}")
    lab.boxes["core"].ip(f"link set {core_device('isp-a')} mtu {mtu}")


def room(agent: Agent) -> tuple[bool, str]:
    """What `wgrouter diagnose` says of the MTU: is it well, and how many bytes there are inside the WAN."""
    (found,) = json.loads(agent.cli("diagnose", "wg0/site1", "--json", check=False))
    step = {step["step"]: step for step in found["steps"]}["mtu"]
    told = ROOM.search(step["text"])
    assert told and told[1] == "1420", step
    assert (found["broken"] == "mtu") == (step["ok"] is False), found
    return step["ok"], told[2]


def fragments(lab: Lab, box: str) -> int:
    """How many a box has made of packets that were too large."""
    lines = lab.boxes[box].run("cat", "/proc/net/snmp").splitlines()
    names, values = (row.split() for row in lines if row.startswith("Ip:"))
    return int(dict(zip(names, values, strict=True))["FragCreates"])


def full_packet(lab: Lab) -> bool:
    """Whether one of 1,420 bytes passes the tunnel in one piece."""
    size = 1420 - 28
    command = ("ping", "-n", "-c1", "-M", "do", "-s", str(size), f"-W{usual(1):g}", lab.address("site1"))
    return ", 1 received" in lab.router.run(*command, check=False)


def test_a_narrow_line_is_named_and_does_not_stop_the_tunnel(lab: Lab, agent: Agent) -> None:
    """The agent sees the line at the router, and is told of one beyond (`option mtu`). Traffic goes on either
    way: the kernel's WireGuard lets its packets be cut (drivers/net/wireguard/socket.c, send4: no DF).
    """
    assert room(agent) == (True, "1440") and full_packet(lab)
    before = fragments(lab, "router")
    line(lab, 1400)
    until(lambda: room(agent) == (False, "1340"), within=PATIENCE, what="the narrow line")
    until(lambda: full_packet(lab), within=PATIENCE, what="a full packet, in fragments")
    assert fragments(lab, "router") > before
    line(lab, 1500)
    until(lambda: room(agent) == (True, "1440"), within=PATIENCE, what="the wide line")
    before = fragments(lab, "isp-a")
    beyond(lab, 1300)
    until(lambda: full_packet(lab), within=PATIENCE, what="a full packet, in fragments")
    assert fragments(lab, "isp-a") > before
    assert room(agent) == (True, "1440"), "what is cut beyond the line is not seen from here"
    try:
        lab.router.write("etc/config/wgrouter", NARROW)
        agent.signal(signal.SIGHUP)
        until(lambda: room(agent) == (False, "1240"), within=PATIENCE, what="the MTU that it is told")
    finally:
        lab.router.write("etc/config/wgrouter", "")
        agent.signal(signal.SIGHUP)
    until(lambda: room(agent) == (True, "1440"), within=PATIENCE, what="the MTU of the device")
