"""The verbs of chaos, done to a lab, and what is true afterwards: which ways exist, what names say.

Each verb takes the two numbers that the script drew for it; most toggle. Truth is kept here and not asked of
the agent: it says which traffic must flow, and that is all that the watch (chaos_watch.py) takes from it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from wgrouter import client

from . import wiring
from .agent import Agent
from .chaos_bus import Ubus
from .lab import Lab
from .poll import until
from .topology import Isp
from .wireguard import Seen

YEAR = 365 * 86400
TARGETS = ("1.1.1.1", "8.8.8.8", "2620:fe::fe")
UNREADABLE = "config wan 'wan\n\toption 'interface\n"
ODD = "config probing 'probing'\n\toption interval 'often'\nconfig nonsense 'x'\n\toption what 'ever'\n"
MANY = 20


@dataclass
class Line:
    """One uplink as it is."""

    carrier: bool = True
    plugged: bool = True
    dead: frozenset[int] = frozenset()  # IP versions of which nothing passes
    captive: bool = False
    loss: float = 0.0
    routed: set[int] = field(default_factory=lambda: {4, 6})  # versions with a default route in main
    resolvers: bool = True
    number: int = 2  # of the router's address in the subnet

    def works(self, version: int) -> bool:
        """Whether a packet that goes by it arrives, as good as always."""
        there = self.plugged and self.carrier and version in self.routed
        return there and version not in self.dead and not self.captive and self.loss < 5


@dataclass
class Name:
    """What DNS says of a site's name."""

    mode: str = "good"  # good | nxdomain | servfail | bogon | lie
    addresses: tuple[str, ...] = ()
    said: set[str] = field(default_factory=set)  # addresses that it ever said


class Trouble:
    """A lab in which things go wrong. `agent` is the one that runs now."""

    def __init__(self, lab: Lab, agent: Agent, ubus: Ubus, clock: Path, config: str) -> None:
        self.lab, self.agent, self.ubus, self.config = lab, agent, ubus, config
        self.lines = {isp.name: Line() for isp in lab.topology.isps}
        self.names = {
            plan.name: Name(addresses=plan.home_a, said=set(plan.home_a)) for plan in lab.topology.sites
        }
        self.sites_up = set(lab.sites)
        self.dns_up, self.dns_delay = True, 0.0
        self.broker_up = self.broker_thawed = True
        self.ubus_up = self.ubus_thawed = True
        self.full_tmp = False
        self.dead_targets: set[str] = set()
        self.on_stop: Callable[[], None] = lambda: None  # called where a clean stop has just ended
        self.on_start: Callable[[], None] = lambda: None
        self.lives = 1
        self.rules_deleted = 0  # times
        self._clock = clock

    # ------------------------------------------------------------ what is true

    def some(self, version: int) -> bool:
        """Whether any uplink carries this IP version."""
        return any(line.works(version) for line in self.lines.values())

    def found(self, site: str, seen: Seen) -> bool:
        """Whether a site can be reached by who knows what the router's WireGuard or a name server tells."""
        plan, name = self.lab.site(site).plan, self.names[site]
        if site not in self.sites_up or name.mode == "lie":
            return False  # the name leads elsewhere, and who follows it does what it should
        there = self.lab.site(site).addresses
        ways = {address for address in there if self.some(wiring.family(address))}
        now = seen.peers[self.lab.router.public_key(site)].endpoint or ""
        if any(now in (f"{way}:{plan.port}", f"[{way}]:{plan.port}") for way in ways):
            return True
        asks = self.dns_up and self.dns_delay < 1
        told = any(line.works(4) and line.resolvers for line in self.lines.values())
        return name.mode == "good" and asks and told and bool(ways & set(name.addresses))

    # ------------------------------------------------------------ doing it

    def do(self, verb: str, a: int, b: int) -> str:
        """Carry out a verb; what it came to."""
        self.awake()
        said = getattr(self, verb)(a, b)
        return str(said or "done")

    def _isp(self, a: int) -> tuple[Isp, Line]:
        isp = self.lab.topology.isps[a % len(self.lab.topology.isps)]
        return isp, self.lines[isp.name]

    def _there(self, a: int) -> tuple[Isp, Line]:
        """An uplink whose interface is there; put back if it was not."""
        isp, line = self._isp(a)
        if not line.plugged:
            self._plug(isp, line)
        return isp, line

    def _site(self, a: int) -> str:
        return sorted(self.lab.sites)[a % len(self.lab.sites)]

    # ---- paths

    def cut(self, a: int, b: int) -> str:
        isp, line = self._there(a)
        (self.lab.cut_carrier if line.carrier else self.lab.restore_carrier)(isp.name)
        line.carrier = not line.carrier
        return f"{isp.name} carrier {'on' if line.carrier else 'off'}"

    def flap(self, a: int, b: int) -> str:
        isp, line = self._there(a)
        for _ in range(1 + b % 3):
            self.lab.cut_carrier(isp.name)
            self.lab.restore_carrier(isp.name)
        line.carrier = True
        return f"{isp.name} flaps"

    def hole(self, a: int, b: int) -> str:
        isp, line = self._there(a)
        if line.dead:
            self.lab.unblackhole(isp.name)
            line.dead = frozenset()
            return f"{isp.name} passes"
        version = (0, 0, 4, 6)[b % 4]
        gateway = bool(version) or b % 8 < 4
        self.lab.blackhole(isp.name, gateway=gateway, version=version)
        line.dead = frozenset({version} if version else {4, 6})
        return f"{isp.name} swallows {sorted(line.dead)}{'' if gateway else ', its gateway too'}"

    def lose(self, a: int, b: int) -> str:
        isp, line = self._there(a)
        line.loss = (0.0, 0.0, 3.0, 12.0, 40.0)[b % 5]
        direction = ("down", "up", "both")[b % 3]
        self.lab.lose(isp.name, line.loss, direction)  # type: ignore[arg-type]
        return f"{isp.name} loses {line.loss:g} % {direction}"

    def captive(self, a: int, b: int) -> str:
        isp, line = self._there(a)
        line.captive = not line.captive
        self.lab.captive(isp.name, line.captive)
        return f"{isp.name} captive {line.captive}"

    def rebind(self, a: int, b: int) -> str:
        isp, _ = self._there(a)
        self.lab.rebind_nat(isp.name, stale=b % 2 == 0)
        return f"{isp.name} NAT forgets{', for good' if b % 2 == 0 else ''}"

    def silence(self, a: int, b: int) -> str:
        target = TARGETS[a % len(TARGETS)]
        if target in self.dead_targets:
            self.dead_targets.discard(target)
            self.lab.unsilence(target)
        elif not self.dead_targets:  # of three one may be dead, or the agent would be right to doubt the WAN
            self.dead_targets.add(target)
            self.lab.silence(target)
        return f"dead targets {self.dead_targets or 'none'}"

    # ---- the router's own interfaces and routes

    def _default(self, isp: Isp, version: int, verb: str) -> None:
        metric = ("metric", str(isp.metric)) if isp.metric else ()
        command = (
            "ip",
            f"-{version}",
            "route",
            verb,
            "default",
            *isp.via(version).split(),
            "proto",
            "static",
        )
        self.lab.router.run(*command, *metric, check=verb != "del")

    def unroute(self, a: int, b: int) -> str:
        """Somebody takes the default route away, or netifd brings it again."""
        isp, line = self._there(a)
        version = 4 if b % 2 else 6
        self._default(isp, version, "del" if version in line.routed else "replace")
        line.routed ^= {version}
        return f"{isp.name} default routes {sorted(line.routed)}"

    def renumber(self, a: int, b: int) -> str:
        """The provider gives another address; netifd sets it, and its routes again."""
        isp, line = self._there(a)
        # The old one first: with the first address of a subnet the kernel takes the others of it away.
        self._address(isp, line.number, "del")
        line.number = 3 + (line.number - 2) % 40
        self._address(isp, line.number, "replace")
        for version in sorted(line.routed):
            self._default(isp, version, "replace")
        return f"{isp.name} has address .{line.number}"

    def _address(self, isp: Isp, number: int, verb: str) -> None:
        four = f"{isp.prefix4}.{number}/{isp.length4}"
        six = f"{isp.gateway6.removesuffix('1')}{number:x}/64"
        self.lab.router.box.ip(
            f"addr {verb} {four} dev {isp.device}",
            f"addr {verb} {six} dev {isp.device}" + (" nodad" if verb != "del" else ""),
        )

    def unplug(self, a: int, b: int) -> str:
        """The interface is removed, as a USB stick is, or made anew with all that netifd gives it."""
        isp, line = self._isp(a)
        if not line.plugged:
            self._plug(isp, line)
            return f"{isp.device} is made anew"
        self.lab.router.run("ip", "link", "del", isp.device)
        line.plugged = False
        self.ubus.say("ifdown", isp.interface)
        return f"{isp.device} is gone"

    def _plug(self, isp: Isp, line: Line) -> None:
        router, far = self.lab.router.box, self.lab.isp_box(isp.name)
        router.ip(f"link add {isp.device} type veth peer name sub netns {far.netns}")
        far.ip(*wiring._line("sub", isp, isp.gateway4, isp.router4, f"{isp.gateway6}/64", "fe80::1/64"))
        mine = f"{isp.gateway6.removesuffix('1')}{line.number:x}/64"
        own = f"{isp.prefix4}.{line.number}"
        router.ip(*wiring._line(isp.device, isp, own, isp.gateway4, mine, "fe80::2/64"))
        line.plugged = line.carrier = True
        line.routed = {4, 6}
        for version in (4, 6):
            self._default(isp, version, "replace")
        self.lab._break(isp.name)  # a chain that was bound to the device went with it
        self.ubus.say("ifup", isp.interface)

    def links(self, a: int, b: int) -> str:
        """Interfaces that are nobody's come and go: a storm of news from the kernel."""
        lines = [line for n in range(MANY) for line in (f"link add storm{n} type veth", f"link del storm{n}")]
        self.lab.router.box.ip(*lines)
        return f"{MANY} interfaces came and went"

    # ---- names and sites

    def dns_dead(self, a: int, b: int) -> str:
        isp, line = self._isp(a)
        line.resolvers = not line.resolvers
        if line.resolvers:
            self.lab.start_dns(isp.name)
        else:
            self.lab.stop_dns(isp.name, refuse=b % 2 == 0)
        return f"resolvers of {isp.name} {'answer' if line.resolvers else 'are dead'}"

    def dns_all(self, a: int, b: int) -> str:
        self.dns_up = not self.dns_up
        if self.dns_up:
            self.lab.start_dns()
            for line in self.lines.values():
                line.resolvers = True
        else:
            self.lab.stop_dns(refuse=b % 2 == 0)
        return f"DNS {'answers' if self.dns_up else 'is dead'}"

    def dns_slow(self, a: int, b: int) -> str:
        self.dns_delay = 0.0 if self.dns_delay else (0.3, 3.0)[b % 2]
        self.lab.slow_dns(self.dns_delay)
        return f"DNS takes {self.dns_delay:g} s"

    def name(self, a: int, b: int) -> str:
        site = self._site(a)
        name = self.names[site]
        name.mode = ("good", "nxdomain", "servfail", "bogon", "lie")[b % 5] if name.mode == "good" else "good"
        if name.mode == "good":
            self._publish(site, name.addresses)
        elif name.mode == "nxdomain":
            self.lab.nxdomain(site)
        elif name.mode == "servfail":
            self.lab.servfail(site)
        else:
            lie = "127.0.0.1" if name.mode == "bogon" else self.lab.site(site).plan._home("198.18.2.", "")[0]
            self.lab.lie(site, lie)
            name.said |= {lie} - {"127.0.0.1"}
        return f"{site} is {name.mode}"

    def _publish(self, site: str, addresses: tuple[str, ...]) -> None:
        name = self.names[site]
        name.mode, name.addresses = "good", addresses
        name.said |= set(addresses)
        self.lab.move(site, *addresses)

    def move(self, a: int, b: int) -> str:
        """A site moves and its name follows."""
        site = self._elsewhere(a, b)
        self._publish(site, self.lab.site(site).addresses)
        return f"{site} moves to {', '.join(self.lab.site(site).addresses)}, its name follows"

    def roam(self, a: int, b: int) -> str:
        """A site moves, and its name says something else until the next move or the mending."""
        site = self._elsewhere(a, b)
        return f"{site} moves to {', '.join(self.lab.site(site).addresses)}, its name does not"

    def _elsewhere(self, a: int, b: int) -> str:
        site = self._site(a)
        plan = self.lab.site(site).plan
        self.lab.move_site(site, *(plan.home_a if b % 2 else plan.home_b))
        return site

    def site(self, a: int, b: int) -> str:
        site = self._site(a)
        if site in self.sites_up:
            self.lab.stop_site(site)
        else:
            self.lab.start_site(site)
        self.sites_up ^= {site}
        return f"{site} {'runs' if site in self.sites_up else 'is down'}"

    def reboot(self, a: int, b: int) -> str:
        site = self._site(a)
        if site in self.sites_up:
            self.lab.stop_site(site)
        self.lab.start_site(site)
        self.sites_up.add(site)
        return f"{site} forgets its sessions"

    # ---- the broker and ubus

    def broker(self, a: int, b: int) -> str:
        self._thaw_broker()
        (self.lab.broker.stop if self.broker_up else self.lab.broker.start)()
        self.broker_up = not self.broker_up
        return f"broker {'runs' if self.broker_up else 'is dead'}"

    def broker_hangs(self, a: int, b: int) -> str:
        if not self.broker_up:
            return "the broker is dead"
        (self.lab.broker.freeze if self.broker_thawed else self.lab.broker.thaw)()
        self.broker_thawed = not self.broker_thawed
        return f"broker {'answers' if self.broker_thawed else 'hangs'}"

    def _thaw_broker(self) -> None:
        if not self.broker_thawed:
            self.lab.broker.thaw()
            self.broker_thawed = True

    def ubusd(self, a: int, b: int) -> str:
        if self.ubus_up:
            self.ubus.kill()
        else:
            self.ubus.start()
        self.ubus_up, self.ubus_thawed = not self.ubus_up, True
        return f"ubusd {'runs' if self.ubus_up else 'is dead'}"

    def ubusd_hangs(self, a: int, b: int) -> str:
        if not self.ubus_up:
            return "ubusd is dead"
        self.ubus.hang(self.ubus_thawed)
        self.ubus_thawed = not self.ubus_thawed
        return f"ubusd {'answers' if self.ubus_thawed else 'hangs'}"

    def ubus_storm(self, a: int, b: int) -> str:
        if not self.ubus_up or not self.ubus_thawed:
            return "no ubus"
        for number in range(MANY):
            self.ubus.say(("ifup", "ifdown")[number % 2], ("wan", "wanb", "wg0", "lan")[(a + number) % 4])
        return f"{MANY} events"

    # ---- by hand, with root's rights

    def rules(self, a: int, b: int) -> str:
        """Some of our rules, or all, of one version."""
        version = f"-{4 if a % 2 else 6}"
        listed = self.lab.router.run("ip", version, "rule").splitlines()
        numbers = [line.partition(":")[0] for line in listed if 6000 <= int(line.partition(":")[0]) < 6200]
        gone = numbers if b % 4 == 0 else numbers[b % max(len(numbers), 1) :][: 1 + b % 3]
        self.rules_deleted += bool(gone)
        for number in gone:
            self.lab.router.run("ip", version, "rule", "del", "pref", number, check=False)
        return f"rules {' '.join(gone) or 'none'} of IPv{version[1:]} deleted"

    def routes(self, a: int, b: int) -> str:
        version = f"-{4 if a % 2 else 6}"
        table = ("all", "7400", "7401", "7402")[b % 4]
        command = ("ip", version, "route", "flush", "table", table, "proto", "157")
        self.lab.router.run(*command, check=False)
        return f"our routes of IPv{version[1:]} in table {table} deleted"

    def table(self, a: int, b: int) -> str:
        self.lab.router.run("nft", "delete", "table", "inet", "wgrouter", check=False)
        return "nft table deleted"

    def mark(self, a: int, b: int) -> str:
        """As `wg syncconf` does at netifd's renew."""
        self.lab.router.run("wg", "set", "wg0", "fwmark", "0")
        return "wg0 has no mark"

    def flows(self, a: int, b: int) -> str:
        self.lab.router.run("conntrack", "-F", check=False)
        return "all flows forgotten"

    # ---- the agent itself

    def clock(self, a: int, b: int) -> str:
        offset = (0, YEAR, -YEAR, 0)[b % 4]
        self._set_clock(offset)
        return f"the clock is {offset} s off"

    def _set_clock(self, offset: float) -> None:
        new = self._clock.with_suffix(".new")
        new.write_text(str(offset))
        new.replace(self._clock)

    def kill(self, a: int, b: int) -> str:
        """procd starts another one; an agent does not start with a file that says nothing."""
        self._write(self.config)
        self.agent.kill9()
        self._start()
        return "killed, and started again"

    def _start(self) -> None:
        """Until it answers: a signal that comes before Python handles it ends any process."""
        self.agent.start()
        self.lives += 1
        self.on_start()
        until(lambda: client.ask(str(self.control), "status"), within=20, what="an agent that answers")

    def restart(self, a: int, b: int) -> str:
        self._write(self.config)
        status = self.agent.stop(within=20)
        assert status == 0, f"exit status {status} after SIGTERM"
        self.on_stop()
        self._start()
        return "stopped cleanly, and started again"

    def suspend(self, a: int, b: int) -> str:
        """SIGSTOP until the next fault: see `awake`."""
        self.agent.signal(signal.SIGSTOP)
        return "suspended"

    def awake(self) -> None:
        self.agent.signal(signal.SIGCONT)

    def _write(self, text: str) -> None:
        self.lab.router.write("etc/config/wgrouter", text)

    def bad_file(self, a: int, b: int) -> str:
        self._write(UNREADABLE if b % 2 else self.config + ODD)
        self.agent.signal(signal.SIGHUP)
        return f"SIGHUP with {'an unreadable file' if b % 2 else 'odd words in the file'}"

    def good_file(self, a: int, b: int) -> str:
        self._write(self.config)
        self.agent.signal(signal.SIGHUP)
        return "SIGHUP with the right file"

    def full(self, a: int, b: int) -> str:
        self.full_tmp = not self.full_tmp
        place = self.lab.router.root / "tmp"
        if self.full_tmp:
            self.lab.router.box.sh(f"cat /dev/zero >{place}/ballast 2>&-", check=False)
        else:
            self.lab.router.box.sh(f"rm -f {place}/ballast")
        return f"/tmp is {'full' if self.full_tmp else 'empty'}"

    def dump(self, a: int, b: int) -> str:
        self.agent.signal(signal.SIGUSR1)
        return "SIGUSR1"

    def junk(self, a: int, b: int) -> str:
        """Rubbish at the control socket, and somebody who connects and says nothing."""
        path = str(self.control)
        for text in (b"\0\xff\n", b"{" * 3000, b'{"verb": "rm -rf"}\n', b""):
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(0.2)
                sock.connect(path)
                sock.sendall(text)
        return "rubbish at the control socket"

    def by_hand(self, a: int, b: int) -> str:
        """Somebody types."""
        verbs: tuple[tuple[str, dict[str, str]], ...] = (
            ("refresh", {}),
            ("reresolve", {}),
            ("switch", {"wan": ("wan", "wanb")[a % 2], "seconds": "2"}),
            ("explain", {}),
        )
        verb, arguments = verbs[b % len(verbs)]
        with contextlib.suppress(client.NoAgent, client.Refused):
            client.ask(str(self.control), verb, arguments, timeout=1.0)
        return f"{verb} {' '.join(arguments.values())}"

    @property
    def control(self) -> Path:
        """The agent's socket as it is reached from outside of its box."""
        return Path(client.path_below(f"/proc/{self.lab.router.box.pid}/root{self.lab.router.root}"))

    # ------------------------------------------------------------ all is mended

    def mend(self) -> None:
        """Everything is as at first; the agent is left alone but for its file and its clock."""
        self.awake()
        for a, isp in enumerate(self.lab.topology.isps):
            _, line = self._there(a)
            if line.number != 2:
                self._address(isp, line.number, "del")
                line.number = 2
                self._address(isp, 2, "replace")
            for version in (4, 6):
                self._default(isp, version, "replace")
        for site in set(self.lab.sites) - self.sites_up:
            self.lab.start_site(site)
        self.lab.heal()
        self.lines = {isp.name: Line() for isp in self.lab.topology.isps}
        for plan in self.lab.topology.sites:
            self.names[plan.name].mode, self.names[plan.name].addresses = "good", plan.home_a
        self.sites_up, self.dns_up, self.dns_delay = set(self.lab.sites), True, 0.0
        self.dead_targets.clear()
        self._thaw_broker()
        if not self.broker_up:
            self.broker(0, 0)
        if not self.ubus_up:
            self.ubusd(0, 0)
        elif not self.ubus_thawed:
            self.ubusd_hangs(0, 0)
        if self.full_tmp:
            self.full(0, 0)
        self._set_clock(0)
        self.good_file(0, 0)


def mount_tmp(lab: Lab) -> None:
    """A small /tmp for the agent, in its box alone, with its /var in it as on a router."""
    root = lab.router.root
    auto = (root / "tmp/resolv.conf.d/resolv.conf.auto").read_text()
    lab.router.box.sh(
        f"mount -t tmpfs -o size=256k tmpfs {root}/tmp; mkdir -p {root}/tmp/resolv.conf.d {root}/tmp/run\n"
        f"mount --bind {root}/tmp/run {root}/var/run\n"
        f"cat >{root}/tmp/resolv.conf.d/resolv.conf.auto <<'E'\n{auto}E"
    )
    assert os.path.ismount(f"/proc/{lab.router.box.pid}/root{root}/tmp")
