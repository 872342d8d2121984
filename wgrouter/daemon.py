"""The composition root: the one module that knows every other. Wires ports, core and shell, and decides
nothing.

Every effect has its port method in one table below; every question of the control socket and of ubus
its answer in `_Agent.answer`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import wgrouter
from wgrouter.config import load
from wgrouter.core import links, messages, plan, report
from wgrouter.core.balance import TABLE
from wgrouter.core.engine import Engine
from wgrouter.core.findings import Finding, Why
from wgrouter.core.messages import Commanded, Configured, Event, Failed, Hinted, Look, Observed, Stopping
from wgrouter.core.model import INTERFACES, NAMESERVERS, NET, NFT, WIREGUARD, Instant, Seconds, World
from wgrouter.core.settings import Mqtt, Settings
from wgrouter.ports import bus, control, hardware, resolvconf
from wgrouter.ports.conntrack import Conntrack
from wgrouter.ports.doorbell import Doorbell, TableBell
from wgrouter.ports.hooks import Hooks
from wgrouter.ports.kernel import Kernel
from wgrouter.ports.nameserver import Nameservers
from wgrouter.ports.nft import Nft
from wgrouter.ports.ping import Prober
from wgrouter.ports.wireguard import WireGuard
from wgrouter.shell.actor import Actor, reason_of
from wgrouter.shell.journal import Journal, last_words, save
from wgrouter.shell.log import Log
from wgrouter.shell.reactor import Reactor

BUILT = 1_760_000_000  # a clock that says less than this (October 2025) was never set: routers boot in 1970
FLUSH = 60.0  # seconds between counts of repeated log lines


def run(root: str, confdir: str | None, *, socket: str, journal: str | None, log_level: str | None) -> int:
    """Run until SIGTERM. 0 after a clean stop, 1 where the agent cannot start or must end."""
    loaded = load.read(root, confdir)
    if loaded.fatal:
        for problem in loaded.problems:
            print(f"wgrouter: {problem}", file=sys.stderr)
        return 1
    with Reactor() as reactor:
        try:
            agent = _Agent(reactor, root, confdir, socket, loaded.settings, log_level)
        except control.Occupied as error:
            print(f"wgrouter: {error}", file=sys.stderr)
            return 1
        return agent.run(loaded, journal)


def plan_once(root: str, confdir: str | None) -> dict[str, Any]:
    """What an agent would do to the routing at its first look; nothing is touched."""
    loaded = load.read(root, confdir)
    kernel, wireguard, engine = Kernel(), WireGuard(), Engine()
    engine.handle(Configured(loaded.settings, "plan"), 1.0)
    seen = Observed(
        kernel.snapshot(), wireguard.snapshot(), resolvconf.nameservers(root), None, True, _digest(Nft())
    )
    engine.handle(seen, 1.0)
    return report.planned(engine.state, {"problems": [str(problem) for problem in loaded.problems]})


def _digest(nft: Nft) -> str:
    try:
        return nft.digest()
    except OSError:
        return ""  # no nft program, or none of our tables


class _Agent:
    """One running agent."""

    def __init__(
        self,
        reactor: Reactor,
        root: str,
        confdir: str | None,
        socket: str,
        settings: Settings,
        level: str | None,
    ) -> None:
        self.reactor, self.root, self.confdir = reactor, root, confdir
        self.engine = Engine()
        self.started = reactor.now()
        self.log = Log(level or settings.log_level)
        self.fixed_level = level is not None
        self.kernel, self.wireguard, self.conntrack, self.nft = Kernel(), WireGuard(), Conntrack(), Nft()
        self.nameservers, self.prober = Nameservers(reactor), Prober(reactor)
        self.hooks = Hooks(reactor, self.say, root=root)
        self.bus = bus.Bus(reactor, self.answer, self.say, refusals=(control.Refused,), on_fault=self.fault)
        self.control = control.Control(reactor, socket, self.answer, on_fault=self.fault)
        self.doorbell, self.table_bell = Doorbell(), TableBell(TABLE.split()[1])
        self.actor = Actor(reactor, self.table(), on_slow=self.slow)
        self.journal = Journal(self.engine.state, self.started, entries=settings.journal_entries)
        self.problems: list[str] = []
        self.slowest: dict[str, Seconds] = {}  # told of, by effect
        self.reporting: Any = None  # of the package wgrouter-mqtt, where that is wanted
        self.control.open()

    def table(self) -> Mapping[type[Any], Callable[[Any], None]]:
        """Effect → port method."""
        m, wireguard, kernel = messages, self.wireguard, self.kernel
        return {
            m.Look: self.look,
            m.Ask: self.nameservers.ask,
            m.Probe: self.prober.probe,
            m.SetEndpoint: lambda e: wireguard.set_endpoint(e.device, e.public_key, e.endpoint),
            m.Provoke: lambda e: wireguard.provoke(e.device, e.public_key, e.keepalive),
            m.SetListenPort: lambda e: wireguard.set_listen_port(e.device, e.port),
            m.SetFwmark: lambda e: wireguard.set_fwmark(e.device, e.mark),
            m.ForgetFlows: self.forget,
            m.AddRoute: lambda e: kernel.add_route(e.route),
            m.DeleteRoute: lambda e: kernel.delete_route(e.route),
            m.AddRule: lambda e: kernel.add_rule(e.rule),
            m.DeleteRule: lambda e: kernel.delete_rule(e.rule),
            m.ApplyNft: lambda e: self.nft.apply(e.ruleset),
            m.RemoveNft: lambda e: self.nft.remove(),
            m.Renew: lambda e: self.bus.renew(e.interface),
            m.Restart: lambda e: self.bus.restart(e.interface),
            m.RunHook: self.tell,
        }

    # ------------------------------------------------------------ running

    def run(self, loaded: load.Loaded, journal: str | None) -> int:
        reactor = self.reactor
        try:
            if journal:
                file = open(journal, "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115 — until the end
                self.journal.tee(lambda line: _line(file, line), lambda error: self.fault(error))
            reactor.watch(self.doorbell.fileno(), self.ring)
            reactor.watch(self.table_bell.fileno(), self.ring_nft)
            reactor.on_signal(signal.SIGHUP, self.reload)
            reactor.on_signal(signal.SIGUSR1, self.dump)
            if os.environ.get("WGROUTER_JAILED"):
                self.stay_with(os.getppid())
            self.say(Finding(Why.AGENT_STARTED, "", {"version": wgrouter.__version__}))
            self.take(loaded)
            self.bus.start()
            self.flush()
            reactor.run(self.handle)
        except Exception as error:  # noqa: BLE001 — our fault: tell what led here, and let procd start anew
            for line in last_words(error, self.journal):
                print(f"wgrouter: {line}", flush=True)
            return 1
        finally:
            if self.reporting is not None:
                self.reporting.close()
            self.control.close()
            self.bus.close()
            self.hooks.close()
        return 0

    def handle(self, event: Event, now: Instant) -> Instant:
        before = self.engine.state
        step = self.engine.handle(event, now)
        self.journal.record(event, now, step, self.engine.state)
        for finding in step.findings:
            self.log.say(finding, now)
        self.actor.perform(step.effects)
        if self.reporting is not None:
            self.reporting.step(before, self.engine.state, step.findings)
        if isinstance(event, Stopping):
            self.sweep()
            self.reactor.stop()
        return step.wake_at

    def sweep(self) -> None:
        """What was added after the last look is ours too, and the engine has not seen it."""
        try:
            net, devices = self.kernel.snapshot(), self.wireguard.snapshot(self.tunnel_devices())
        except OSError as error:
            self.fault(error)
        else:
            left = World(net, devices, nft=_digest(self.nft))
            self.actor.perform(plan.clean(left, self.engine.state.settings))

    def flush(self) -> None:
        self.log.flush(self.reactor.now())
        self.reactor.call_at(self.reactor.now() + FLUSH, self.flush)

    def say(self, finding: Finding) -> None:
        """A finding of a port, outside any step."""
        self.log.say(finding, self.reactor.now())

    def fault(self, error: Exception) -> None:
        """What went wrong beside the steps ends nothing. The world's fault (a full disk) is a line like any
        other, counted where it comes again; ours is told with its traceback.
        """
        if isinstance(error, OSError):
            self.say(Finding(Why.IO_FAILED, "", {"reason": reason_of(error)}))
            return
        for line in last_words(error, None):
            print(f"wgrouter: {line}", flush=True)

    def slow(self, effect: messages.Effect, seconds: Seconds) -> None:
        """Told once, and again when it is twice as slow: a slow router is slow each time."""
        name = type(effect).__name__
        if seconds >= 2 * self.slowest.get(name, 0.0):
            self.slowest[name] = seconds
            self.say(Finding(Why.EFFECT_SLOW, "", {"effect": name, "seconds": round(seconds, 1)}))

    def stay_with(self, parent: int) -> None:
        """In procd's jail our parent is ujail. If that dies alone, procd starts another agent and ends no old
        one.
        """
        reactor = self.reactor
        try:
            fd = os.pidfd_open(parent)
        except OSError:  # gone already
            reactor.post(Stopping())
            return

        def ended() -> None:
            reactor.unwatch(fd)
            os.close(fd)
            reactor.post(Stopping())

        reactor.watch(fd, ended)
        if os.getppid() != parent:
            ended()

    def ring_nft(self) -> None:
        if self.table_bell.drain():
            self.reactor.post(Hinted("nftables"))

    def ring(self) -> None:
        if self.doorbell.drain():
            self.reactor.post(Hinted("rtnetlink"))

    def dump(self) -> None:
        directory = os.path.join(self.root, "tmp")
        try:
            save(self.journal, os.path.join(directory, "wgrouter.journal"))
        except OSError as error:
            self.fault(error)

    # ------------------------------------------------------------ settings

    def take(self, loaded: load.Loaded) -> None:
        self.problems = [str(problem) for problem in loaded.problems]
        for problem in self.problems:
            self.say(Finding(Why.CONFIG_PROBLEM, "", {"reason": problem}))
        if not self.fixed_level:
            self.log.level = loaded.settings.log_level
        self.report_over(loaded.settings.mqtt)
        self.reactor.post(Configured(loaded.settings, hardware.seed()))

    def report_over(self, mqtt: Mqtt) -> None:
        """Imported where it is configured only: it costs memory, and its package may be missing."""
        if self.reporting is not None or not (mqtt.metrics_file or (mqtt.enabled and mqtt.brokers)):
            return
        try:
            from wgrouter import reporting

            self.reporting = reporting.Reporting(self, control.Refused)
        except ImportError as error:
            reason = f"the package wgrouter-mqtt is not installed: {error}"
            self.say(Finding(Why.BROKER_ABSENT, "", {"reason": reason}))

    def reload(self) -> None:
        self.reloaded()

    def reloaded(self) -> dict[str, Any]:
        """A file that cannot be read keeps the old settings: nothing is lost by a slip of the pen."""
        loaded = load.read(self.root, self.confdir)
        problems = [str(problem) for problem in loaded.problems]
        if loaded.unread:
            self.say(Finding(Why.CONFIG_REJECTED, "", {"reason": "; ".join(problems)}))
            return {"taken": False, "problems": problems}
        self.take(loaded)
        return {"taken": True, "problems": problems}

    # ------------------------------------------------------------ looks and other effects

    def look(self, effect: Look) -> None:
        """Each part by itself: one that cannot be seen is told, and hides no other."""
        seen: dict[str, Any] = {}
        parts: Mapping[str, tuple[str, Callable[[], Any]]] = {
            NET: ("net", self.kernel.snapshot),
            WIREGUARD: ("wireguard", lambda: self.wireguard.snapshot(self.tunnel_devices())),
            NAMESERVERS: ("nameservers", lambda: resolvconf.nameservers(self.root)),
            INTERFACES: ("interfaces", lambda: self.bus.interfaces() if self.bus.connected else None),
            NFT: ("nft", lambda: _digest(self.nft)),
        }
        for part in effect.parts:
            name, look = parts[part]
            try:
                seen[name] = look()
            except OSError as error:
                self.reactor.post(Failed(Look((part,)), str(error), error.errno or 0))
        self.reactor.post(Observed(**seen, clock_trusted=time.time() > BUILT))

    def tell(self, news: messages.RunHook) -> None:
        """The user's scripts, and who listens on ubus. Nobody is waited for."""
        self.hooks.run(news)
        event = "wgrouter.tunnel" if "TUNNEL" in news.environment else "wgrouter.wan"
        self.bus.send(event, {name.lower(): word for name, word in news.environment.items()})

    def tunnel_devices(self) -> tuple[str, ...]:
        return tuple(tunnel.device for tunnel in self.engine.state.settings.tunnels)

    def forget(self, effect: messages.ForgetFlows) -> None:
        self.conntrack.forget(effect)

    # ------------------------------------------------------------ questions

    def answer(self, verb: str, arguments: Mapping[str, Any]) -> Any:
        """What the command line, ubus and later the fleet ask. control.Refused says no."""
        state, now = self.engine.state, self.reactor.now()
        if verb in ("status", "wans", "tunnels", "findings"):
            whole = report.status(state, now, wgrouter.__version__, self.started, self.root)
            whole["problems"] = self.problems
            whole["switches"] = state.uplink.switches
            whole["mqtt"] = self.reporting.status() if self.reporting is not None else None
            return whole if verb == "status" else {verb: whole[verb]}
        if verb == "explain":
            subject = str(arguments.get("subject") or "")
            found = report.explanations(state, subject, now)
            if subject and not found:
                raise control.Refused(f"{subject[:60]!r} is no tunnel, peer, WAN, name; `status` lists them")
            return found
        if verb == "diagnose":
            try:
                from wgrouter.mqtt.diagnose import diagnose
            except ImportError:
                raise control.Refused("that is part of the package wgrouter-mqtt") from None
            subject = str(arguments.get("subject") or "")
            walked = diagnose(state, subject, now)
            if subject and not walked:
                raise control.Refused(f"{subject[:60]!r} is no tunnel and no peer; `status` lists them")
            return walked
        if verb == "plan":
            return report.planned(state, {"problems": self.problems})
        if verb == "journal":
            count, after = _whole(arguments, "count", 50), _whole(arguments, "after", 0)
            entries = self.journal.tail(count, after, bool(arguments.get("every")))
            return {"entries": entries, "last": self.journal.number}
        if verb == "dump":
            return {"lines": list(self.journal.lines())}
        if verb == "hint":
            self.reactor.post(
                Hinted("hotplug", str(arguments.get("interface", "")), str(arguments.get("action", "")))
            )
            return {"text": "looking"}
        if verb in ("refresh", "reresolve", "switch"):
            words = {str(key): str(value) for key, value in arguments.items()}
            known = ["auto", *dict.fromkeys(link.path.wan for link in links.view(state.links))]
            wan = words.get("wan", "auto")
            if verb == "switch" and wan not in known:
                raise control.Refused(f"no WAN is called {wan[:60]!r}; there are: {', '.join(known)}")
            if verb == "switch" and not _is_time(words.get("seconds", "")):
                said = words["seconds"][:40]
                raise control.Refused(f"seconds is {said!r}; accepted: 0 (until told otherwise) or more")
            self.reactor.post(Commanded(verb, words, words.pop("origin", "cli")))
            return {"text": "done" if verb != "switch" else f"switching to {wan}"}
        if verb == "reload":
            return self.reloaded()
        raise control.Refused(f"{verb[:60]!r} is not a question that this agent answers")


def _whole(arguments: Mapping[str, Any], name: str, default: int) -> int:
    value = arguments.get(name)
    if value is not None and type(value) is not int:
        raise control.Refused(f"{name} is {str(value)[:40]!r}; accepted: a whole number")
    return value or default


def _is_time(text: str) -> bool:
    """Seconds, 0 or more; nothing is said by ""."""
    try:
        return not text or 0.0 <= float(text) < float("inf")
    except ValueError:
        return False


def _line(file: Any, line: str) -> None:
    file.write(line if line.endswith("\n") else line + "\n")
    file.flush()


__all__ = ["plan_once", "run"]
