"""A lab that stands: its boxes, and the verbs that break and mend it.

build() makes one from a topology and takes it down again, whatever happens in between. Verbs return when what
they say is so.
"""

import contextlib
import dataclasses
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FrameType
from typing import Any, TypeVar

from . import netns, openwrt, wireguard
from .broker import Broker
from .faults import Direction, IspFaults, core_rules, isp_rules, site_rules
from .nameserver import Answer, Nameserver, ask
from .netns import Box, LabError
from .nodes import Counter, LabRouter, LabSite
from .poll import PATIENCE_SECONDS, until, usual
from .topology import WEB, WELL_KNOWN, Isp, Topology, WireGuard, single
from .traffic import Connects, Download, Flow
from .wireguard import Devices
from .wiring import family, wire

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., object])


def verb(method: F) -> F:
    """Mark a method as a command of the prompt (__main__.py)."""
    method.is_verb = True  # type: ignore[attr-defined]
    return method


class Lab:
    """All boxes of a topology. Verbs name an ISP by its letter, a site and a DNS name by "site1"."""

    def __init__(self, topology: Topology, name: str) -> None:
        self.topology = topology
        self.name = name
        self.directory = netns.directory(name)
        self.boxes: dict[str, Box] = {}
        self.routers: dict[str, LabRouter] = {}
        self.sites: dict[str, LabSite] = {}
        self._isp_faults = {isp.name: IspFaults() for isp in topology.isps}
        self._dead_addresses: set[str] = set()
        self._delays: dict[str, subprocess.Popen[bytes]] = {}
        self._delay_rules: set[str] = set()
        self._counters = 0
        self.dns: Nameserver
        self.broker: Broker
        self.keys: openwrt.Keys
        self.wireguard: WireGuard

    # ---- set-up and end

    def open(self) -> None:
        """Make all of it. build() calls this, and close() also when it fails half-way."""
        topology = self.topology
        self.directory.mkdir(mode=0o700)
        logs = self.directory / "log"
        logs.mkdir()
        resolv = self.directory / "resolv.conf"
        resolv.write_text("".join(f"nameserver {isp.resolvers[0]}\n" for isp in topology.isps[:3]) or "\n")
        plan = wire(topology)
        self.boxes = netns.add(self.name, plan.namespaces, plan.links, resolv)
        self.dns = Nameserver(self.boxes["dns"], self.directory / "dns", topology.ttl)
        self._set_first_records()
        self.dns.begin()
        if topology.broker:
            users = [router.name for router in topology.routers]
            self.broker = Broker(self.boxes["broker"], self.directory / "broker", users)
            self.broker.start()
        self.keys = wireguard.make_keys(topology)
        devices = Devices(topology.wireguard, logs)
        self.wireguard = devices.kind
        far = [self.boxes[site.name] for site in topology.sites if site.alive]
        server_log = logs / "server.log"
        served = [str(box.path) for box in (self.boxes["web"], *far)]
        served += [f"portal={self.boxes[isp.namespace].path}" for isp in topology.isps]
        command = (sys.executable, "-m", "tests.lab.server", *served)
        self.boxes["web"].start(*command, log=server_log)
        for site in topology.sites:
            if site.alive:
                conf = wireguard.site_conf(site, topology.routers, self.keys)
                self.sites[site.name] = LabSite(site, self.boxes[site.name], devices, conf, topology.routers)
                self.sites[site.name].begin()
        for router in topology.routers:
            root = self.directory / router.name
            self.routers[router.name] = LabRouter(router, self.boxes[router.name], topology, self.keys, root)
        processes = {
            (router.plan.name, tunnel): devices.begin(router.box, tunnel)
            for router in self.routers.values()
            for tunnel in router.tunnels
        }
        for far_site in self.sites.values():
            far_site.finish()
        for router_up in self.routers.values():
            for index, tunnel in enumerate(router_up.tunnels):
                devices.await_device(router_up.box, tunnel, processes[router_up.plan.name, tunnel])
                router_up.configure(tunnel, index)
        self.dns.await_ready()
        until(
            lambda: "ready" in server_log.read_text(),
            within=PATIENCE_SECONDS,
            what="the servers of the internet",
        )

    def await_tunnels(self, within: float = PATIENCE_SECONDS) -> None:
        """Return when every router has had a handshake with every site that is alive and was resolved at
        set-up.
        """
        for router in self.routers.values():
            if router.plan.resolved:
                keys = {router.public_key(site) for site in self.sites if self.sites[site].plan.keepalive}
                until(
                    lambda router=router, keys=keys: (
                        keys  # type: ignore[misc]
                        <= {
                            p.public_key
                            for t in router.tunnels
                            for p in router.wg(t).peers.values()
                            if p.handshake
                        }
                    ),
                    within=within,
                    what=f"a handshake of {router.plan.name} with every site",
                )

    def close(self) -> None:
        """End every process and delete every namespace of this lab."""
        try:
            for box in self.boxes.values():
                box.ask_to_end()
            for box in self.boxes.values():
                box.end()
        finally:
            netns.remove(self.name)

    # ---- who is there

    @property
    def router(self) -> LabRouter:
        """The router, or the first of several."""
        return next(iter(self.routers.values()))

    @property
    def client(self) -> Box:
        """The box on the (first) router's LAN."""
        return self.boxes[self.router.plan.client]

    def site(self, name: str = "site1") -> LabSite:
        """A far site that is alive."""
        return _named(self.sites, name, "site")

    def isp(self, name: str) -> Isp:
        """The plan of an ISP: its addresses, its interface at the router."""
        return _named({isp.name: isp for isp in self.topology.isps}, name, "ISP")

    def isp_box(self, name: str) -> Box:
        """The box of an ISP."""
        return self.boxes[self.isp(name).namespace]

    def address(self, to: str, version: int = 4) -> str:
        """What "web" or "site1" (inside the tunnel) means as an address; an address is itself."""
        if to == "web":
            return WEB[0 if version == 4 else 1]
        plans = {site.name: site for site in self.topology.sites}
        if to in plans:
            return plans[to].tunnel4 if version == 4 else plans[to].tunnel6
        if "." in to or ":" in to:
            return to
        raise LabError(f"{to!r} is neither an address nor one of web, {', '.join(plans)}")

    # ---- traffic

    def _box(self, name: str) -> Box:
        return _named(self.boxes, name, "box")

    def flow(
        self,
        source: str,
        to: str,
        *,
        version: int = 4,
        hertz: float = 100,
        device: str = "",
        connected: bool = False,
    ) -> Flow:
        """Start a steady echo flow, e.g. flow("router", "site1") through the tunnel, flow("client", "web")
        past it.
        """
        return Flow(
            self._box(source), self.address(to, version), hertz=hertz, device=device, connected=connected
        )

    def connects(self, source: str, to: str, *, version: int = 4, hertz: float = 20) -> Connects:
        """Start making new TCP connections at a steady rate."""
        return Connects(self._box(source), self.address(to, version), hertz=hertz)

    def download(self, source: str, to: str, *, version: int = 4) -> Download:
        """Start a TCP download without end."""
        return Download(self._box(source), self.address(to, version))

    def pings(self, source: str, to: str, *, version: int = 4, seconds: float = 1.0) -> bool:
        """Whether one ICMP echo is answered in time, with `ping` as the witness."""
        argv = ("ping", "-n", "-c1", f"-W{usual(seconds):g}", self.address(to, version))
        return ", 1 received" in self._box(source).run(*argv, check=False)

    def count(self, box: str, match: str) -> Counter:
        """Count packets that arrive at a box and match, e.g. count("isp-b", "ip daddr 192.0.2.80")."""
        self._counters += 1
        return Counter(self._box(box), f"count{self._counters}", match)

    # ---- verbs: the paths

    def _break(self, isp: str, **change: Any) -> None:
        name = self.isp(isp).name
        self._isp_faults[name] = dataclasses.replace(self._isp_faults[name], **change)
        self.isp_box(isp).nft(isp_rules(self._isp_faults[isp]))

    @verb
    def cut_carrier(self, isp: str) -> None:
        """Pull the cable between the router and an ISP, at the ISP's end."""
        self.isp_box(isp).run("ip", "link", "set", "sub", "down")

    @verb
    def restore_carrier(self, isp: str) -> None:
        """Plug it in again."""
        # The kernel keeps the line's addresses over a cut (keep_addr_on_down), except for the link-local one.
        self.isp_box(isp).ip("link set sub up", "addr replace fe80::1/64 dev sub nodad")

    @verb
    def blackhole(self, isp: str, gateway: bool = True, version: int = 0) -> None:
        """Let nothing through an ISP, silently; with a version, 4 or 6, only packets of the other.

        With gateway=False its end of the line does not answer either, not even to ARP.
        """
        self._break(isp, dead_versions=frozenset({version} if version else {4, 6}), gateway=gateway)

    @verb
    def unblackhole(self, isp: str) -> None:
        """Let everything through again."""
        self._break(isp, dead_versions=frozenset(), gateway=True)

    @verb
    def lose(self, isp: str, percent: float, direction: Direction = "down") -> None:
        """Lose so many percent of the packets in a direction ("down": towards the router, so of the answers);
        0 ends it.
        """
        self._break(isp, loss_percent=percent, loss_direction=direction)

    @verb
    def captive(self, isp: str, on: bool = True) -> None:
        """Put up a captive portal: names resolve, HTTP leads to the ISP's own page, the rest is dropped."""
        self._break(isp, captive=on)

    @verb
    def delay(self, isp: str, milliseconds: float, jitter: float = 0.0) -> None:
        """Hold every packet towards the router so long, give or take up to the jitter; 0 ends it."""
        core, device = self.boxes["core"], f"delay-{isp}"
        if isp in self._delays:
            netns.end(self._delays.pop(isp))
        if not milliseconds:
            return
        plan = self.isp(isp)
        log = self.directory / "log" / f"{device}.log"
        log.unlink(missing_ok=True)
        command = (sys.executable, "-m", "tests.lab.delay", device, str(milliseconds), str(jitter))
        self._delays[isp] = core.start(*command, log=log)
        until(lambda: "ready" in log.read_text(), within=PATIENCE_SECONDS, what=f"{device} is up")
        # The rules stay when the device goes: then the table is empty, and main decides.
        table = 1000 + plan.number
        core.ip(*(f"route add {default} dev {device} table {table}" for default in ("0.0.0.0/0", "::/0")))
        if isp not in self._delay_rules:
            self._delay_rules.add(isp)
            for version, pool in (("-4", plan.pool4), ("-6", plan.pool6)):
                core.run("ip", version, "rule", "add", "pref", "100", "iif", device, "lookup", "main")
                core.run("ip", version, "rule", "add", "pref", "200", "to", pool, "lookup", str(table))

    @verb
    def rebind_nat(self, isp: str, stale: bool = True) -> None:
        """Make the ISP's NAT forget every mapping. stale: UDP from the source ports it had is dropped from
        now on.
        """
        box = self.isp_box(isp)
        if stale:
            listed = box.run("conntrack", "-L", "-p", "udp", "-s", self.isp(isp).router4, check=False)
            # The first sport= of a line is the subscriber's, the second the answer's.
            ports = {int(port) for port in re.findall(r"^udp.*? sport=(\d+)", listed, re.MULTILINE)}
            self._break(isp, stale_ports=self._isp_faults[isp].stale_ports | ports)
        box.run("conntrack", "-F")

    @verb
    def heal_nat(self, isp: str) -> None:
        """Let the source ports that rebind_nat made stale work again."""
        self._break(isp, stale_ports=frozenset())

    @verb
    def nat_lifetime(self, isp: str, seconds: int, busy: int = 0) -> None:
        """How many seconds the ISP's NAT keeps a UDP flow's mapping, and a busy one's (at first 30, 120)."""
        place = "/proc/sys/net/netfilter/nf_conntrack_udp_timeout"
        self.isp_box(isp).sh(f"echo {seconds} >{place}; echo {busy or seconds} >{place}_stream")

    @verb
    def silence(self, address: str) -> None:
        """Let the internet forward nothing to an address, as if that one host were dead."""
        self._dead_addresses.add(address)
        self.boxes["core"].nft(core_rules(self._dead_addresses))

    @verb
    def unsilence(self, address: str) -> None:
        """Bring the host of silence() back."""
        self._dead_addresses.discard(address)
        self.boxes["core"].nft(core_rules(self._dead_addresses))

    # ---- verbs: sites

    @verb
    def move_site(self, site: str, *addresses: str) -> None:
        """Move a far site to these addresses; its name stays behind."""
        self.site(site).move_to(*addresses)

    @verb
    def drop_port(self, site: str, port: int) -> None:
        """Let nothing reach a UDP port of a site."""
        self._ports(site, self.site(site).dead_ports | {port})

    @verb
    def open_port(self, site: str, port: int) -> None:
        """Undo drop_port."""
        self._ports(site, self.site(site).dead_ports - {port})

    def _ports(self, site: str, dead: frozenset[int]) -> None:
        self.site(site).box.nft(site_rules(dead))
        self.site(site).dead_ports = dead

    @verb
    def stop_site(self, site: str) -> None:
        """Stop a site's WireGuard."""
        self.site(site).stop()

    @verb
    def start_site(self, site: str) -> None:
        """Start a site's WireGuard again."""
        self.site(site).start()

    # ---- verbs: names

    def _set_addresses(self, name: str, addresses: Iterable[str], ttl: int | None) -> None:
        for kind, version in (("A", 4), ("AAAA", 6)):
            self.dns.set(name, kind, [a for a in addresses if family(a) == version], ttl)

    def _set_first_records(self) -> None:
        self.dns.forget_all()
        for site in self.topology.sites:
            self._set_addresses(site.name, site.home_a, None)
        if self.topology.broker:
            self._set_addresses("broker", Broker.addresses, None)
        for record, kind, data in self.topology.records:
            self.dns.set(record, kind, [data])

    @verb
    def move(self, name: str, *addresses: str, ttl: int | None = None) -> None:
        """Give a name these addresses and no others (A and AAAA): what a DDNS update does.

        It also ends nxdomain and servfail.
        """
        self._set_addresses(name, addresses, ttl)
        self.dns.fail(name, False)
        self.dns.publish()

    @verb
    def publish(self, name: str, kind: str, *data: str, ttl: int | None = None) -> None:
        """Set the records of one type, e.g. publish("_wireguard._udp.site1", "SRV", "0 0 51821 site1")."""
        self.dns.set(name, kind, data, ttl)
        self.dns.publish()

    @verb
    def nxdomain(self, name: str) -> None:
        """Say that a name does not exist. move() ends it."""
        self.dns.forget(name)
        self.dns.publish()

    @verb
    def lie(self, name: str, address: str = "127.0.0.1") -> None:
        """Answer with an address that is not true. move() ends it."""
        self.move(name, address)

    @verb
    def servfail(self, name: str) -> None:
        """Answer SERVFAIL for a name. move() ends it."""
        self.dns.fail(name, True)

    @verb
    def stop_dns(self, isp: str | None = None, refuse: bool = False) -> None:
        """Silence the DNS server, or only the addresses one ISP hands out; refuse: ICMP says that nobody
        listens.
        """
        self.dns.silence(self._resolvers(isp), refuse=refuse)

    @verb
    def start_dns(self, isp: str | None = None) -> None:
        """Undo stop_dns."""
        self.dns.speak(None if isp is None else self._resolvers(isp))

    def _resolvers(self, isp: str | None) -> list[str]:
        isps = self.topology.isps if isp is None else (self.isp(isp),)
        return [a for one in isps for a in one.resolvers] + (list(WELL_KNOWN) if isp is None else [])

    @verb
    def slow_dns(self, seconds: float) -> None:
        """Answer over UDP only after this long; 0 ends it."""
        self.dns.slow(seconds)

    def query(
        self, name: str, kind: str = "A", *, source: str = "router", server: str = "", seconds: float = 1
    ) -> Answer | None:
        """Ask as a box would, with kdig: Answer("NOERROR", ("198.51.100.1",)), or None if nobody answered."""
        return ask(self._box(source), name, kind, server or self.topology.isps[0].resolvers[0], seconds)

    # ---- all at once

    @verb
    def heal(self) -> None:
        """End every fault: paths, NAT, ports, names and sites are as at first.

        The agent and the router are left alone.
        """
        for isp in self.topology.isps:
            self._isp_faults[isp.name] = IspFaults()
            self.isp_box(isp.name).nft(isp_rules(IspFaults()))
            self.restore_carrier(isp.name)
            self.delay(isp.name, 0)
            self.nat_lifetime(isp.name, 30, 120)
        self._dead_addresses.clear()
        self.boxes["core"].nft(core_rules(()))
        for site in self.sites.values():
            self._ports(site.plan.name, frozenset())
            site.move_to(*site.plan.home_a)
        self.dns.speak()
        self.dns.slow(0)
        for name in self.dns.failing:
            self.dns.fail(name, False)
        self._set_first_records()
        self.dns.publish()

    def report(self) -> str:
        """What one wants to see when a test failed: tunnels, routes, and the agent's last words."""
        parts = []
        for router in self.routers.values():
            parts.append(f"---- {router.plan.name} ({router.box.netns})")
            shown = "wg show all endpoints; wg show all latest-handshakes; ip rule; ip route; ip -6 route"
            parts.append(router.box.sh(f"{{ {shown}; }} 2>&1", check=False))
            if router.agent is not None:
                parts.append(f"---- agent, exit status {router.agent.exit_status}\n{router.agent.tail()}")
        return "\n".join(parts)


def _named(things: Mapping[str, T], name: str, what: str) -> T:
    try:
        return things[name]
    except KeyError:
        raise LabError(f"no {what} {name!r}; there are: {', '.join(things)}") from None


# Labs that stand now in this process, for reports on failure.
standing: list[Lab] = []


@contextlib.contextmanager
def _signals_end_us() -> Iterator[None]:
    """SIGTERM and SIGHUP become SystemExit, so that `with` blocks are left in order.

    Handlers of others are left alone.
    """
    mine: list[signal.Signals] = []

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():
        mine = [
            number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL
        ]
    for number in mine:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def build(topology: Topology | None = None, *, wait: bool = True) -> Iterator[Lab]:
    """Build a lab, wait (unless told not to) for its tunnels, and take it down at the end of the `with`
    block.
    """
    netns.sweep()
    lab = Lab(topology or single(), netns.new_name())
    with _signals_end_us():
        try:
            lab.open()
            standing.append(lab)
            if wait:
                lab.await_tunnels()
            yield lab
        except Exception as error:
            error.add_note(lab.report())
            raise
        finally:
            if lab in standing:
                standing.remove(lab)
            lab.close()


def now() -> float:
    """The clock that traffic notes times on, for outage(since=…)."""
    return time.monotonic()
