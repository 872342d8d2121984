"""A whole router in simulated time: `Engine`, a kernel, WireGuard, DNS, WANs and sites, and what ails them.

The engine gets what the daemon would give it and its effects are carried out on the models (fib.py,
world_wireguard.py); nothing of it is called but `Engine.handle`. Chance is a hash of the seed, so a run
repeats itself. What must always hold is checked after every step by world_rules.py; faults are the verbs of
world_faults.py.
"""

from __future__ import annotations

import heapq
import ipaddress
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tests.model import fib
from tests.model.world_wireguard import Door, Peer, Site, Tunnels
from wgrouter.core import balance, messages, ranges
from wgrouter.core.engine import Engine
from wgrouter.core.findings import Finding, Why
from wgrouter.core.jitter import unit
from wgrouter.core.messages import (
    AddRoute,
    AddRule,
    Answered,
    Ask,
    Configured,
    DeleteRoute,
    DeleteRule,
    Effect,
    Event,
    Failed,
    Hinted,
    Look,
    Observed,
    Probe,
    Record,
    Replied,
    Step,
    Unanswered,
    Unsent,
    Woke,
)
from wgrouter.core.model import (
    INTERFACES,
    NAMESERVERS,
    NET,
    NEVER,
    NFT,
    RT_TABLE_MAIN,
    WIREGUARD,
    Address,
    Endpoint,
    Hop,
    Interface,
    Link,
    Nameserver,
    Net,
    Route,
)
from wgrouter.core.settings import Settings
from wgrouter.shell.journal import Journal

DEFAULT = {4: "0.0.0.0/0", 6: "::/0"}
FAR = {4: "198.51.100.1", 6: "2001:db8:ffff::1"}
LOOK = 0.004


@dataclass
class Wan:
    """One uplink and what ails it."""

    name: str
    number: int
    families: tuple[int, ...] = (4,)
    rtt: float = 0.02
    loss: float = 0.0
    carrier: bool = True
    hole: bool = False  # a silent black hole
    plugged: bool = True
    renumbered: int = 0  # how often its addresses changed
    nat: int = 0  # changes with its mappings
    stale: set[int] = field(default_factory=set)  # source ports whose mapping the NAT has lost

    @property
    def device(self) -> str:
        return f"eth{self.number}"

    @property
    def works(self) -> bool:
        return self.plugged and self.carrier and not self.hole

    def address(self, family: int) -> str:
        host = 2 + self.renumbered % 200
        return f"10.{self.number}.0.{host}" if family == 4 else f"2001:db8:{self.number}::{host:x}"

    def gateway(self, family: int) -> str:
        return f"10.{self.number}.0.1" if family == 4 else f"2001:db8:{self.number}::1"


@dataclass
class Dns:
    """The server of one uplink: how it behaves now."""

    mode: str = "good"  # good | silent | nxdomain | servfail | lie | slow | refused | garbage


LIES = (
    "127.0.0.1",
    "0.0.0.0",
    "224.0.0.9",
    "255.255.255.255",
    "169.254.7.7",
    "::1",
    "::",
    "ff02::1",
    "fe80::9",
)


class World:
    """The simulation. `run` lets time pass; faults are applied between steps."""

    def __init__(
        self,
        settings: Settings,
        wans: list[Wan],
        sites: list[Site],
        seed: str = "x",
        netifd: bool = True,
        ttl: int = 60,
        journal: int = 512,
        now: float = 1000.0,
    ) -> None:
        self.settings, self.wans, self.sites, self.seed = settings, wans, sites, seed
        self.netifd, self.ttl, self.now = netifd, ttl, now
        self.clock_right = True
        self.dns = {wan.name: Dns() for wan in wans}
        self.published: dict[str, dict[int, tuple[str, ...]]] = {}
        for site in sites:
            for door in site.doors:
                self.publish(door)
        self.answered: set[str] = set()  # addresses that some answer contained
        self.failing: dict[str, str] = {}  # effects that the kernel refuses, and how
        self.deaf = False  # the kernel's hints do not come
        self.looking: dict[str, None] = {}  # parts of the next look
        self.ours: tuple[Route, ...] = ()
        self.rules = fib.MAIN_RULES
        self.nft = ""
        self._net: Net | None = None
        self._paths: dict[tuple[int, int, str], str] = {}
        self.queue: list[tuple[float, int, int, Event | Callable[[], None]]] = []
        self.number = 0
        self.life = 0
        self.rng = 0
        self.steps = 0
        self.counts: Counter[str] = Counter()
        self.findings: deque[tuple[float, Finding]] = deque(maxlen=4000)
        self.changes: deque[tuple[float, Effect]] = deque(maxlen=4000)
        self.after: list[Callable[[World, Event, Step], None]] = []  # rules, called after every step
        self.before: list[Callable[[World, Effect], None]] = []  # called before an effect is carried out
        self.journal_size = journal
        self.tunnels = Tunnels(self)
        for tunnel in settings.tunnels:
            for peer in tunnel.peers:
                site = next(site for site in sites if site.key == peer.public_key)
                self.tunnels.add(
                    Peer(peer.device, site, peer.keepalive, peer.allowed_ips), tunnel.listen_port or 40000
                )
        self.engine = Engine()
        self.start()

    # ------------------------------------------------------------ time

    def push(self, after: float, what: Event | Callable[[], None]) -> None:
        """Events belong to the process that asked for them; other happenings to the world."""
        self.number += 1
        life = -1 if callable(what) else self.life
        heapq.heappush(self.queue, (self.now + after, self.number, life, what))

    def chance(self, what: str) -> float:
        self.rng += 1
        return unit(self.seed, what, self.rng)

    def start(self) -> None:
        """The agent starts, or starts again after kill -9: it remembers nothing."""
        self.life += 1
        self.engine = Engine()
        self.looking = {}
        self.wake = NEVER
        self.journal = Journal(self.engine.state, self.now, entries=self.journal_size, wall=lambda: None)
        self.push(0.0, Configured(self.settings, self.seed))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            first = self.queue[0][0] if self.queue else NEVER
            if min(first, self.wake) > end:
                break
            if first <= self.wake:
                self.now, _, life, what = heapq.heappop(self.queue)
                if callable(what):
                    what()
                elif life == self.life:
                    self.step(what)
            else:
                self.now, self.wake = self.wake, NEVER
                self.step(Woke())
        self.now = end

    def until(self, condition: Callable[[], bool], within: float, every: float = 1.0) -> float:
        """Let time pass until this holds; the seconds it took."""
        start = self.now
        while not condition():
            assert self.now - start < within, f"not within {within} s"
            self.run(every)
        return self.now - start

    def step(self, event: Event) -> None:
        self.steps += 1
        step = self.engine.handle(event, self.now)
        self.wake = step.wake_at
        self.journal.record(event, self.now, step, self.engine.state)
        self.findings.extend((self.now, finding) for finding in step.findings)
        looks: dict[str, None] = {}
        for effect in step.effects:
            self.counts[type(effect).__name__] += 1
            for rule in self.before:
                rule(self, effect)
            if isinstance(effect, messages.CHANGES):
                self.changes.append((self.now, effect))
            if isinstance(effect, Look):
                looks.update(dict.fromkeys(effect.parts))
            elif type(effect).__name__ in self.failing:
                self.push(0.0, Failed(effect, self.failing[type(effect).__name__], 5))
            else:
                self.carry_out(effect)
        if looks:
            self.look(tuple(looks))
        for check in self.after:
            check(self, event, step)

    # ------------------------------------------------------------ the kernel

    def changed(self) -> None:
        """The kernel's tables are other ones: it tells, unless nobody hears it."""
        self._net = None
        self._paths = {}
        if not self.deaf:
            self.push(0.001 + 0.03 * self.chance("hint"), Hinted("rtnetlink"))

    def net(self) -> Net:
        if self._net is None:
            links = {"br-lan": Link(2, "br-lan")}
            addresses = [Address("br-lan", "192.168.1.1/24")]
            routes = [Route(4, RT_TABLE_MAIN, "192.168.1.0/24", (Hop("", "br-lan"),), protocol=2)]
            for device in self.tunnels.ports:
                links[device] = Link(50 + len(links), device, kind="wireguard", mtu=1420)
            for wan in self.wans:
                if not wan.plugged:
                    continue
                links[wan.device] = Link(10 + wan.number, wan.device, carrier=wan.carrier)
                for family in wan.families:
                    prefix = f"{wan.address(family)}/{24 if family == 4 else 64}"
                    addresses.append(Address(wan.device, prefix))
                    network = str(ipaddress.ip_interface(prefix).network)
                    routes.append(Route(family, RT_TABLE_MAIN, network, (Hop("", wan.device),), protocol=2))
                    hop, metric = Hop(wan.gateway(family), wan.device), 10 * wan.number
                    route = Route(family, RT_TABLE_MAIN, DEFAULT[family], (hop,), metric, 3)
                    routes.append(replace(route, linkdown=not wan.carrier))
            # A device that goes takes its routes along, ours too.
            self.ours = tuple(r for r in self.ours if all(hop.device in links for hop in r.hops))
            self._net = Net(links, tuple(addresses), (*routes, *self.ours), self.rules)
        return self._net

    def exit(self, family: int, mark: int = 0, source: str = "") -> str:
        """The device by which a packet leaves, "unreachable", or "" where there is no route."""
        key = (family, mark, source)
        net = self.net()
        if key not in self._paths:
            found = fib.lookup(net, FAR[family], mark=mark, source=source)
            self._paths[key] = "" if found is None else found.hops[0].device if found.hops else found.kind
        return self._paths[key]

    def way_out(self, device: str, port: int, endpoint: Endpoint, source: str) -> tuple[str, float] | None:
        """See world_wireguard.Network: the cached source first, as drivers/net/wireguard/socket.c has it."""
        mark, family = self.tunnels.marks[device], endpoint.family
        by_name = {wan.name: wan for wan in self.wans}
        name = ""
        if source in by_name and by_name[source].plugged and family in by_name[source].families:
            name = self.exit(family, mark, by_name[source].address(family))
        if name in ("", "unreachable"):
            name = self.exit(family, mark)
        wan = next((wan for wan in self.wans if wan.device == name), None)
        if wan is None or not wan.works or port in wan.stale or self.chance("out") < wan.loss:
            return None
        return (wan.name, wan.rtt / 2)

    def way_in(self, known: tuple[str, int, int, int], port: int) -> float | None:
        name, nat, to_port, family = known
        wan = next(wan for wan in self.wans if wan.name == name)
        lost = not wan.works or nat != wan.nat or to_port != port or family not in wan.families
        return None if lost or self.chance("in") < wan.loss else wan.rtt / 2

    def nat(self, name: str) -> int:
        return next(wan.nat for wan in self.wans if wan.name == name)

    def look(self, parts: tuple[str, ...]) -> None:
        """One at a time, as shell/actor.py has it: what is asked for before it comes is part of it."""
        if self.looking:
            self.looking |= dict.fromkeys(parts)
            return
        self.looking = dict.fromkeys(parts)

        def looked() -> None:
            parts, self.looking = tuple(self.looking), {}
            seen: dict[str, Any] = {}
            if NET in parts:
                seen["net"] = self.net()
            if WIREGUARD in parts:
                seen["wireguard"] = self.tunnels.look()
            if NAMESERVERS in parts:
                seen["nameservers"] = self.servers()
            if INTERFACES in parts and self.netifd:
                seen["interfaces"] = self.interfaces()
            if NFT in parts:
                seen["nft"] = self.nft
            if "Look" in self.failing:
                self.step(Failed(Look(parts), self.failing["Look"], 5))
                seen = {}
            self.step(Observed(**seen, clock_trusted=self.clock_right))

        life = self.life
        self.push(LOOK, lambda: looked() if life == self.life else None)

    def servers(self) -> tuple[Nameserver, ...]:
        return tuple(
            Nameserver(self.server_of(wan), interface=wan.name if self.netifd else "")
            for wan in self.wans
            if wan.plugged
        )

    @staticmethod
    def server_of(wan: Wan) -> str:
        return f"192.0.2.{wan.number}" if 4 in wan.families else f"2001:db8:53::{wan.number}"

    def interfaces(self) -> Mapping[str, Interface]:
        return {
            wan.name: Interface(wan.name, wan.device, wan.plugged, dns=(self.server_of(wan),))
            for wan in self.wans
        }

    # ------------------------------------------------------------ effects

    def carry_out(self, effect: Effect) -> None:
        tunnels, routing = self.tunnels, self.settings.routing
        match effect:
            case AddRoute() | DeleteRoute() | AddRule() | DeleteRule():
                try:
                    net = fib.apply(self.engine.state.world.__class__(net=self.net()), effect).net
                except ValueError as error:
                    self.push(0.0, Failed(effect, str(error), 19))
                    return
                assert net is not None
                self.ours = tuple(r for r in net.routes if ranges.is_our_route(routing, r))
                self.rules = net.rules
                self.changed()
            case Ask():
                self.ask(effect)
            case Probe():
                self.probe(effect)
            case messages.SetEndpoint(device, key, endpoint):
                tunnels.set_endpoint(tunnels.peers[device, key], endpoint)
            case messages.Provoke(device, key):
                tunnels.provoke(tunnels.peers[device, key])
            case messages.SetListenPort(device, port):
                tunnels.ports[device] = port
            case messages.SetFwmark(device, mark):
                tunnels.marks[device] = mark
                self._paths = {}
            case messages.ApplyNft(ruleset):
                self.nft = balance.digest(ruleset)
            case messages.RemoveNft():
                self.nft = ""
            case messages.Renew(device):
                tunnels.marks[device] = 0
                self.push(0.5, Hinted("ubus", device, "ifupdate"))
            case messages.Restart(device):
                tunnels.restart(device, 40000 + int(20000 * self.chance("port")))
                tunnels.marks[device] = 0
                self.push(2.0, Hinted("ubus", device, "ifup"))

    def probe(self, probe: Probe) -> None:
        wan = next((wan for wan in self.wans if wan.device == probe.device), None)
        if wan is not None:
            if not wan.plugged:
                self.push(0.0, Unsent(probe.id, "no such device"))
            elif wan.works and self.chance("probe") >= wan.loss:
                self.push(wan.rtt, Replied(probe.id, wan.rtt))
            return
        target = ipaddress.ip_address(probe.target)
        for peer in self.tunnels.peers.values():
            inside = any(target in ipaddress.ip_network(prefix) for prefix in peer.allowed)
            if peer.device == probe.device and inside:
                self.tunnels.send(peer, self.echo(probe))
                return
        self.push(0.0, Unsent(probe.id, "no such device"))

    def echo(self, probe: Probe) -> Callable[[], None]:
        """What an answer to this probe does, if it comes in time and to the process that asked."""
        sent, life = self.now, self.life

        def answered() -> None:
            if self.now - sent <= probe.timeout and life == self.life:
                self.step(Replied(probe.id, self.now - sent))

        return answered

    # ------------------------------------------------------------ names

    def publish(self, door: Door) -> None:
        self.published[door.host] = {family: (address,) for family, address in door.addresses.items()}

    def ask(self, ask: Ask) -> None:
        wan = next((wan for wan in self.wans if self.server_of(wan) == ask.server.address), None)
        out = next((wan for wan in self.wans if wan.device == ask.server.device), wan)
        mode = self.dns[wan.name].mode if wan is not None else "silent"
        if wan is None or out is None or not out.works or not wan.works or self.chance("dns") < out.loss:
            mode = "silent"
        failed = {"silent": "timeout", "refused": "refused", "garbage": "garbage"}.get(mode)
        if failed:
            self.push(ask.timeout if failed != "refused" else 0.02, Unanswered(ask.id, failed))
        elif mode in ("nxdomain", "servfail"):
            self.push(0.02, Answered(ask.id, mode.upper(), negative_ttl=30 if mode == "nxdomain" else 0))
        elif mode == "lie":
            lies = [lie for lie in LIES if (":" in lie) == (ask.type == "AAAA")] or list(LIES)
            lie = lies[int(self.chance("lie") * len(lies))]
            data = f"0 0 51820 {lie}" if ask.type == "SRV" else lie
            self.push(0.02, Answered(ask.id, "NOERROR", False, (Record(ask.name, ask.type, 5, data),)))
        else:
            delay = 0.02 if mode == "good" else 0.1 + 2.0 * self.chance("slow")
            answer = self.answer(ask)
            late = delay >= ask.timeout
            self.push(min(delay, ask.timeout), Unanswered(ask.id, "timeout") if late else answer)

    def answer(self, ask: Ask) -> Answered:
        host = ask.name.removeprefix("_wireguard._udp.")
        if host not in self.published:
            return Answered(ask.id, "NXDOMAIN", negative_ttl=30)
        if ask.type == "SRV":
            door = next(door for site in self.sites for door in site.doors if door.host == host)
            found: tuple[str, ...] = (f"0 0 {door.port} {host}",) if ask.name != host else ()
        else:
            found = self.published[host].get(4 if ask.type == "A" else 6, ())
            self.answered.update(found)
        records = tuple(Record(ask.name, ask.type, self.ttl, data) for data in found)
        return Answered(ask.id, "NOERROR", False, records, 0 if records else 30)

    # ------------------------------------------------------------ questions

    def said(self, why: Why, since: float = 0.0) -> list[tuple[float, Finding]]:
        return [(at, finding) for at, finding in self.findings if finding.why is why and at >= since]

    def care(self, index: int = 0) -> Any:
        """What the engine remembers of a site's peer."""
        return self.engine.state.tunnels.peers[self.peer(index).device, self.sites[index].key]

    def peer(self, index: int = 0) -> Peer:
        return next(peer for peer in self.tunnels.peers.values() if peer.site is self.sites[index])

    def reachable(self, peer: Peer) -> bool:
        """Whether anything could reach the site now, by a family that peer, site and a WAN share."""
        wanted = next(p for p in self.settings.peers() if p.public_key == peer.site.key)
        families = {"ipv4": {4}, "ipv6": {6}}.get(wanted.family, {4, 6})
        routed = {family for wan in self.wans if wan.works for family in wan.families}
        doors = {family for door in peer.site.doors if door.open for family in door.addresses}
        return peer.site.up and bool(families & routed & doors)
