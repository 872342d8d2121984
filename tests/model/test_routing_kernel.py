"""The intent against the real kernel: what is planned is accepted, read back equal, and routes as fib.py
says.

A namespace with two dual-stack WANs (one of them point-to-point) whose far ends do not matter: nothing is
sent.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.model import fib
from wgrouter.core import balance, links, plan, ranges, routing, uplink
from wgrouter.core.machine import Context
from wgrouter.core.messages import (
    AddRoute,
    AddRule,
    ApplyNft,
    Configured,
    DeleteRoute,
    DeleteRule,
    Effect,
    Observed,
    Probe,
    RemoveNft,
    Replied,
    SetFwmark,
    Woke,
)
from wgrouter.core.model import DeviceSeen, World
from wgrouter.core.settings import Routing, Settings, TrafficRule, Tunnel, Wan
from wgrouter.ports.kernel import Kernel
from wgrouter.ports.nft import Nft

pytestmark = pytest.mark.lab

NAME = f"wgrr{os.getpid()}"
FOREIGN_RULES = (
    "rule add pref 5230 fwmark 0x80000/0xff0000 lookup 52",
    "rule add pref 29999 fwmark 0x20000/0xff0000 lookup 777",
    "-6 rule add pref 6050 from 2001:db8:77::/48 lookup 888",  # in our range, without our protocol
)
SETTINGS = Settings(
    tunnels=(Tunnel("wg0"), Tunnel("wg1", wans=("b",)), Tunnel("wg2", fwmark=0x51)),
    wans=(Wan("a", device="up0", priority=1), Wan("b", device="up1", priority=2)),
    routing=Routing(balance=True),
    rules=(TrafficRule("tv", src="192.168.1.0/24", protocol="tcp", dst_port="443,8000-8010", wans=("b",)),),
)
_libc = ctypes.CDLL(None, use_errno=True)


def sh(*commands: str) -> None:
    for command in commands:
        subprocess.run(command, shell=True, check=True, capture_output=True)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    sh(f"ip netns add {NAME}")
    with open("/proc/thread-self/ns/net") as home:
        try:
            with open(f"/run/netns/{NAME}") as there:
                assert _libc.setns(there.fileno(), 0x40000000) == 0
            sh(
                "ip link set lo up",
                "ip link add up0 type veth peer name far0",
                "ip link add up1 type veth peer name far1",
                "ip link add lan type veth peer name far2",
                *(f"ip link set {device} up" for device in ("up0", "up1", "lan", "far0", "far1", "far2")),
                "ip addr add 10.0.0.2/24 dev up0",
                "ip addr add 10.9.9.2 peer 10.9.9.1/32 dev up1",
                "ip addr add 192.168.1.1/24 dev lan",
                "ip -6 addr add 2001:db8:a::2/64 dev up0 nodad",
                "ip -6 addr add 2001:db8:b::2/64 dev up1 nodad",
                "ip route add default via 10.0.0.1 dev up0 metric 10 src 10.0.0.2",
                "ip route add default dev up1 metric 20",
                "ip -6 route add default via fe80::1 dev up0 metric 512",
                "ip -6 route add default from 2001:db8:b::/56 via 2001:db8:b::1 dev up1 metric 1024",
                *(f"ip {rule}" for rule in FOREIGN_RULES),
            )
            opened = Kernel()
            yield opened
            opened.close()
        finally:
            assert _libc.setns(home.fileno(), 0x40000000) == 0
            sh(f"ip netns del {NAME}")


class Agent:
    """Look, decide, carry out; every probe is answered but those of a WAN in `dead`."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.nft = Nft()
        self.wireguard = {name: DeviceSeen(name) for name in ("wg0", "wg1")}
        self.wireguard["wg2"] = DeviceSeen("wg2", fwmark=0x51)
        self.dead: set[str] = set()
        self.now = 100.0
        self.links = links.Memory()
        self.uplink = uplink.Memory()
        self.world = World()
        self.turn(Configured(SETTINGS))

    def look(self) -> tuple[Effect, ...]:
        self.world = World(self.kernel.snapshot(), dict(self.wireguard), nft=self.nft.digest())
        return self.turn(Observed(self.world.net, self.world.wireguard))

    def turn(self, event: object) -> tuple[Effect, ...]:
        """One step; what it wants done to the routing is returned, not done."""
        context = Context(self.now, SETTINGS, self.world)
        turn = links.step(self.links, event, context)  # type: ignore[arg-type]
        self.links = turn.memory
        uplinks = links.view(self.links)
        self.uplink = uplink.step(self.uplink, event, context, uplinks).memory  # type: ignore[arg-type]
        for effect in turn.effects:
            if isinstance(effect, Probe) and effect.device not in self.dead:
                self.turn(Replied(effect.id, 0.01))
        resting = uplink.resting(self.uplink)
        uplinks, choices = links.view(self.links), uplink.chosen(self.uplink)
        wanted = routing.intent(self.world, uplinks, choices, SETTINGS, resting)
        wants = plan.plan(wanted, self.world, SETTINGS)
        self.uplink = uplink.settle(self.uplink, wants, wanted, uplinks, self.now).memory
        return wants

    def carry_out(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            match effect:
                case AddRoute(route):
                    self.kernel.add_route(route)
                case DeleteRoute(route):
                    self.kernel.delete_route(route)
                case AddRule(rule):
                    self.kernel.add_rule(rule)
                case DeleteRule(rule):
                    self.kernel.delete_rule(rule)
                case SetFwmark(device, mark):
                    self.wireguard[device] = replace(self.wireguard[device], fwmark=mark)
                case ApplyNft(text):
                    self.nft.apply(text)
                case RemoveNft():
                    self.nft.remove()

    def converge(self) -> None:
        for _ in range(3):
            effects = self.look()
            if not effects:
                return
            self.carry_out(effects)
        assert self.look() == (), "the kernel never shows what was asked for"

    def until(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, links.wake_at(self.links, Context(self.now, SETTINGS, self.world)))
            self.turn(Woke())


def exits(agent: Agent) -> dict[str, str]:
    """The device that the kernel says each kind of packet leaves by; fib.py must say the same."""
    net = agent.kernel.snapshot()
    found = {}
    for family, target in ((4, "198.51.100.1"), (6, "2001:db8:ffff::1")):
        for name, mark in marks(agent).items():
            # A forwarded packet (iif lan): a local one with a mark may take another source.
            hop = agent.kernel.lookup(family, target, mark=mark)
            route = fib.lookup(net, target, mark=mark)
            simulated = route.hops[0].device if route is not None and route.kind == "unicast" else ""
            found[f"{name}{family}"] = hop.device if hop else ""
            assert found[f"{name}{family}"] == simulated, f"fib.py is wrong about {name}{family}"
    return found


def marks(agent: Agent) -> dict[str, int]:
    settings = SETTINGS.routing
    return {
        "plain": 0,
        "strict a": ranges.strict_mark(settings, 1),
        "strict b": ranges.strict_mark(settings, 2),
        "flow a": ranges.flow_mark(settings, 1),
        "flow b": ranges.flow_mark(settings, 2),
        "wg0": agent.wireguard["wg0"].fwmark,
        "wg1": agent.wireguard["wg1"].fwmark,
        "wg2": 0x51,
    }


BY_A = {"plain": "up0", "strict a": "up0", "strict b": "up1", "flow a": "up0", "flow b": "up1"}
BY_B = BY_A | {"plain": "up1", "flow a": "up1"}


def both(expected: dict[str, str]) -> dict[str, str]:
    return {f"{name}{family}": device for family in (4, 6) for name, device in expected.items()}


def test_planned_accepted_read_back_and_taken_away(kernel: Kernel) -> None:
    before = kernel.snapshot()
    agent = Agent(kernel)
    agent.converge()
    assert exits(agent) == both(BY_A | {"wg0": "up0", "wg1": "up1", "wg2": "up0"})

    agent.dead = {"up0"}
    agent.until(3.0)
    agent.converge()
    assert exits(agent) == both(BY_B | {"wg0": "up1", "wg1": "up1", "wg2": "up1"})

    agent.dead = {"up1"}
    agent.until(20.0)
    agent.converge()
    assert exits(agent) == both(BY_A | {"flow b": "up0", "wg0": "up0", "wg1": "up0", "wg2": "up0"})

    agent.carry_out(plan.clean(agent.world, SETTINGS))
    after = kernel.snapshot()
    assert set(after.routes) == set(before.routes) and set(after.rules) == set(before.rules)
    assert agent.nft.digest() == ""


def test_a_source_on_a_wan_leaves_by_it(kernel: Kernel) -> None:
    agent = Agent(kernel)
    agent.converge()
    for family, target, sources in (
        (4, "198.51.100.1", {"10.0.0.2": "up0", "10.9.9.2": "up1"}),
        (6, "2001:db8:ffff::1", {"2001:db8:a::2": "up0", "2001:db8:b::2": "up1"}),
    ):
        for source, device in sources.items():
            for mark in (0, agent.wireguard["wg0"].fwmark, 0x51):
                hop = kernel.lookup(family, target, mark=mark, source=source)
                assert hop is not None and hop.device == device, (source, mark)


def test_a_started_again_agent_changes_nothing(kernel: Kernel) -> None:
    first = Agent(kernel)
    first.converge()
    second = Agent(kernel)
    second.wireguard = first.wireguard
    assert second.look() == ()


def test_a_lost_device_takes_its_routes_and_the_plan_brings_them_back(kernel: Kernel) -> None:
    agent = Agent(kernel)
    agent.converge()
    sh("ip link set up0 down")
    agent.converge()
    assert exits(agent)["plain4"] == "up1" and exits(agent)["plain6"] == "up1"
    sh("ip link set up0 up", "ip route add default via 10.0.0.1 dev up0 metric 10 src 10.0.0.2")
    agent.converge()
    agent.until(10.0)
    agent.converge()
    assert exits(agent)["plain4"] == "up0"


def test_rules_in_our_range_without_our_protocol_are_left_alone(kernel: Kernel) -> None:
    agent = Agent(kernel)
    agent.converge()
    agent.carry_out(plan.clean(agent.world, SETTINGS))
    listed = subprocess.run(["ip", "-6", "rule"], capture_output=True, text=True, check=True).stdout
    assert "6050" in listed


def test_nft_takes_every_ruleset_and_shows_its_digest(kernel: Kernel) -> None:
    agent = Agent(kernel)
    agent.converge()
    wanted = routing.intent(agent.world, links.view(agent.links), uplink.chosen(agent.uplink), SETTINGS)
    assert wanted.nft is not None and agent.nft.digest() == balance.digest(wanted.nft) != ""
