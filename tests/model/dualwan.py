"""A router with several WANs in simulated time: the deciding modules strung together, a kernel, faults, an
Internet.

The kernel is fib.py; a look takes 5 ms and sees the tables as they are. Probes come back after the WAN's
round trip unless a fault eats them (chance is a hash, so a run repeats itself). Invariants are checked after
every step.
"""

from __future__ import annotations

import heapq
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tests.model import fib
from wgrouter.core import balance, jitter, links, plan, ranges, routing, uplink
from wgrouter.core.findings import Finding, Why
from wgrouter.core.machine import Context
from wgrouter.core.messages import (
    AddRoute,
    AddRule,
    ApplyNft,
    Commanded,
    Configured,
    DeleteRoute,
    DeleteRule,
    Effect,
    Event,
    ForgetFlows,
    Look,
    Observed,
    Probe,
    RemoveNft,
    Replied,
    SetFwmark,
    Unsent,
    Woke,
)
from wgrouter.core.model import RT_TABLE_MAIN, Address, DeviceSeen, Hop, Link, Net, Route, World
from wgrouter.core.probes import SENT_ONLY
from wgrouter.core.settings import HostPort, Peer, Settings, Tunnel

INTERNET = {4: "198.51.100.1", 6: "2001:db8:ffff::1"}
LOOK = 0.005
TUNNEL = Tunnel("wg0", peers=(Peer("wg0", "key", "site", endpoints=(HostPort("site.example.net", 51820),)),))
DEFAULT = {4: "0.0.0.0/0", 6: "::/0"}


@dataclass
class Isp:
    """One uplink and what ails it."""

    name: str
    families: tuple[int, ...] = (4,)
    metric: int = 10
    rtt: float = 0.015
    loss: float = 0.0
    carrier: bool = True
    hole: bool = False  # a silent black hole
    plugged: bool = True  # the device and its routes exist
    dead_targets: frozenset[str] = frozenset()
    busy: bool = False  # traffic flows both ways, as far as the link lets it

    def gateway(self, family: int) -> str:
        return f"10.{self.metric}.0.1" if family == 4 else f"2001:db8:{self.metric}::1"

    def address(self, family: int) -> str:
        return f"10.{self.metric}.0.2" if family == 4 else f"2001:db8:{self.metric}::2"


@dataclass
class Router:
    """The simulation. `at` schedules faults; `run` lets time pass."""

    isps: list[Isp]
    settings: Settings = field(default_factory=lambda: Settings(tunnels=(TUNNEL,)))
    seed: str = "x"
    now: float = 1000.0

    def __post_init__(self) -> None:
        self.net_extra: tuple[Route, ...] = (
            Route(4, RT_TABLE_MAIN, "192.168.1.0/24", (Hop("", "br-lan"),), protocol=2),
        )
        self.ours: Net = Net(rules=fib.MAIN_RULES)  # what effects have put there
        self.wireguard = {tunnel.device: DeviceSeen(tunnel.device) for tunnel in self.settings.tunnels}
        self.nft = ""
        self.links = links.Memory()
        self.uplink = uplink.Memory()
        self.seen = World()
        self.queue: list[tuple[float, int, Event | Callable[[], None]]] = []
        self.number = 0
        self.looking = False
        self.life = 0
        self.fuse: int | None = None  # so many effects more are carried out before it is killed
        self.findings: list[tuple[float, Finding]] = []
        self.effects: list[tuple[float, Effect]] = []
        self.steps = 0
        self.wake = float("inf")
        self.emitted: tuple[Effect, ...] = ()
        self.basis: tuple[object, ...] = ()
        self.wanted = routing.Wanted()
        self.wants: tuple[Effect, ...] = ()
        self.start()

    # -------------------------------------------------------- the world

    def world(self) -> World:
        """What a look would see now."""
        found = {"br-lan": Link(2, "br-lan")}
        addresses = [Address("br-lan", "192.168.1.1/24")]
        routes = list(self.net_extra)
        for number, isp in enumerate(self.isps, start=3):
            if not isp.plugged:
                continue
            found[isp.name] = Link(number, isp.name, carrier=isp.carrier)
            for family in isp.families:
                length = 24 if family == 4 else 64
                addresses.append(Address(isp.name, f"{isp.address(family)}/{length}"))
                network = str(ipaddress.ip_interface(f"{isp.address(family)}/{length}").network)
                routes.append(Route(family, RT_TABLE_MAIN, network, (Hop("", isp.name),), protocol=2))
                hop = Hop(isp.gateway(family), isp.name)
                routes.append(
                    Route(family, RT_TABLE_MAIN, DEFAULT[family], (hop,), metric=isp.metric, protocol=3)
                )
        # A device that goes takes its routes along, ours too.
        mine = [route for route in self.ours.routes if all(hop.device in found for hop in route.hops)]
        self.ours = replace(self.ours, routes=tuple(mine))
        net = Net(found, tuple(addresses), (*routes, *mine), self.ours.rules)
        return World(net=net, wireguard=dict(self.wireguard), nft=self.nft)

    def carry_out(self, effect: Effect) -> None:
        if isinstance(effect, (AddRoute, DeleteRoute, AddRule, DeleteRule)):
            world = self.world()
            base = len([r for r in world.net.routes if not ranges.is_our_route(self.settings.routing, r)])  # type: ignore[union-attr]
            try:
                net = fib.apply(world, effect).net
            except ValueError:
                return
            assert net is not None
            mine = tuple(r for r in net.routes if ranges.is_our_route(self.settings.routing, r))
            assert len(net.routes) - len(mine) == base, f"{effect} touched somebody else's route"
            self.ours = replace(self.ours, routes=mine, rules=net.rules)
        elif isinstance(effect, SetFwmark):
            self.wireguard[effect.device] = replace(self.wireguard[effect.device], fwmark=effect.mark)
        elif isinstance(effect, ApplyNft):
            self.nft = balance.digest(effect.ruleset)
        elif isinstance(effect, RemoveNft):
            self.nft = ""

    def answer(self, probe: Probe) -> None:
        isp = next((isp for isp in self.isps if isp.name == probe.device), None)
        if probe.method == "counters":
            if isp is None or not isp.busy:
                self.push(0.0, Unsent(probe.id, "idle"))
            elif isp.hole or not isp.carrier:
                self.push(0.0, Unsent(probe.id, SENT_ONLY))
            else:
                self.push(0.0, Replied(probe.id, 0.0))
            return
        if isp is None or not (isp.plugged and isp.carrier) or isp.hole or probe.target in isp.dead_targets:
            return
        if jitter.unit(self.seed, "loss", probe.id) < isp.loss:
            return
        self.push(isp.rtt, Replied(probe.id, isp.rtt))

    # -------------------------------------------------------- time

    def push(self, after: float, what: Event | Callable[[], None]) -> None:
        self.number += 1
        heapq.heappush(self.queue, (self.now + after, self.number, what))

    def at(self, when: float, fault: Callable[[], None]) -> None:
        """Carry out a fault `when` seconds from now; the kernel tells of it as rtnetlink does."""
        self.push(when, lambda: (fault(), self.look())[0])

    def quietly(self, when: float, fault: Callable[[], None]) -> None:
        """A fault that nobody is told of."""
        self.push(when, fault)

    def look(self) -> None:
        if not self.looking:
            self.looking = True
            life = self.life
            self.push(LOOK, lambda: self._looked(life))

    def _looked(self, life: int) -> None:
        if life != self.life:
            return  # asked for by a process that was killed
        self.looking = False
        world = self.world()
        self.seen = world
        self.step(Observed(net=world.net, wireguard=world.wireguard, nft=world.nft))

    def start(self) -> None:
        """As the daemon starts, or starts again after kill -9: nothing is remembered."""
        self.links, self.uplink, self.seen = links.Memory(), uplink.Memory(), World()
        self.wake = float("inf")
        self.queue = [item for item in self.queue if not isinstance(item[2], Replied)]
        heapq.heapify(self.queue)
        self.push(0.0, Configured(self.settings, self.seed))
        self.looking = False
        self.life += 1
        self.look()

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            first = self.queue[0][0] if self.queue else float("inf")
            if min(first, self.wake) > end:
                break
            if first <= self.wake:
                self.now, _, what = heapq.heappop(self.queue)
                if callable(what):
                    what()
                else:
                    self.step(what)
            else:
                self.now = self.wake
                self.step(Woke())
        self.now = end

    def step(self, event: Event) -> None:
        self.steps += 1
        context = Context(self.now, self.settings, self.seen, self.seed)
        one = links.step(self.links, event, context)
        uplinks = links.view(one.memory)
        two = uplink.step(self.uplink, event, context, uplinks)
        choices = uplink.chosen(two.memory)
        resting = uplink.resting(two.memory)
        basis = (routing.basis(uplinks), choices, resting, id(self.seen))
        if basis != self.basis:  # nothing else is looked at by these two
            self.basis = basis
            self.wanted = routing.intent(self.seen, uplinks, choices, self.settings, resting)
            self.wants = plan.plan(self.wanted, self.seen, self.settings) if one.memory.started else ()
        wanted, wants = self.wanted, self.wants
        memory = two.memory
        flows: tuple[Effect, ...] = ()
        if one.memory.started:
            three = uplink.settle(memory, wants, wanted, uplinks, self.now)
            memory, flows = three.memory, three.effects
        self.links, self.uplink = one.memory, memory
        for finding in (*one.findings, *two.findings):
            self.findings.append((self.now, finding))
        if isinstance(event, Observed):
            self.emitted = ()
        effects = [*one.effects, *two.effects, *(wants if wants != self.emitted else ()), *flows]
        if wants and wants != self.emitted:
            self.look()
        self.emitted = wants
        for effect in effects:
            self.effects.append((self.now, effect))
            if isinstance(effect, Probe):
                self.answer(effect)
            elif isinstance(effect, Look):
                self.look()
            else:
                if self.fuse == 0:
                    self.fuse = None
                    self.start()
                    return
                self.fuse = None if self.fuse is None else self.fuse - 1
                self.carry_out(effect)
                self.check_reachable(effect)
        later = replace(context, world=self.seen)
        self.wake = min(links.wake_at(self.links, later), uplink.wake_at(self.uplink, later))
        assert self.wake > self.now, f"wake_at {self.wake} is not ahead of {self.now}"
        self.check(uplinks)

    # -------------------------------------------------------- what must always be so

    def check_reachable(self, effect: Effect) -> None:
        """While any WAN has carrier and a route there is a way, for the LAN, the router and the tunnels."""
        net = self.world().net
        assert net is not None
        marks = {device.fwmark for device in self.wireguard.values()} | {0}
        for family, target in INTERNET.items():
            able = [isp for isp in self.isps if family in isp.families and isp.plugged]
            for mark in marks if able else ():
                found = fib.lookup(net, target, mark=mark)
                assert found is not None and found.kind == "unicast", (
                    f"no way for mark {mark:#x} after {effect}"
                )

    def check(self, uplinks: tuple[links.Uplink, ...]) -> None:
        for family in (4, 6):
            mine = [u for u in uplinks if u.path.family == family]
            if any(u.path.works for u in mine):
                chosen = uplink.chosen(self.uplink).get(family)
                assert chosen, (
                    f"IPv{family} is route-less although {[u.path.wan for u in mine if u.path.works]} work"
                )
                assert next(u for u in mine if u.path.wan == chosen).path.works

    # -------------------------------------------------------- questions

    def state(self, name: str, family: int = 4) -> str:
        return self.links.watches[(name, family)].state

    def chosen(self, family: int = 4) -> str:
        return uplink.chosen(self.uplink).get(family, "")

    def said(self, why: Why, since: float = 0.0) -> list[tuple[float, Finding]]:
        return [(when, finding) for when, finding in self.findings if finding.why is why and when >= since]

    def exit(self, mark: int = 0, source: str = "", family: int = 4, target: str = "") -> str:
        """The device by which a packet leaves, "unreachable", or "" for no route."""
        net = self.world().net
        assert net is not None
        found = fib.lookup(net, target or INTERNET[family], mark=mark, source=source)
        if found is None:
            return ""
        return found.hops[0].device if found.hops else found.kind

    def probes(self, since: float, name: str) -> int:
        """How many were sent that cost anything."""
        sent = [effect for when, effect in self.effects if when >= since and isinstance(effect, Probe)]
        return sum(1 for probe in sent if probe.device == name and probe.method != "counters")

    def forgotten(self, since: float = 0.0) -> list[tuple[float, str]]:
        return [(w, e.local_address) for w, e in self.effects if isinstance(e, ForgetFlows) and w >= since]

    def changes(self, since: float = 0.0) -> list[Effect]:
        return [e for when, e in self.effects if when >= since and not isinstance(e, Probe)]

    def command(self, **arguments: str) -> None:
        self.step(Commanded("switch", arguments))
