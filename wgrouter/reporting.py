"""The composition root of what the package wgrouter-mqtt brings: joins the courier, the broker and the agent,
carries commands out, and writes the figures for Prometheus.

daemon.py imports it where a broker (or a metrics file) is configured, and runs without it where the package
is missing.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import wgrouter
from wgrouter.config import edit, load
from wgrouter.config.problems import Problem
from wgrouter.core import engine
from wgrouter.core.findings import Finding, Why
from wgrouter.core.messages import Configured
from wgrouter.core.model import Instant
from wgrouter.core.records import dataclass, replace
from wgrouter.core.settings import Mqtt, Settings
from wgrouter.mqtt import commands, metrics
from wgrouter.mqtt.commands import Refusal, Request
from wgrouter.mqtt.courier import Courier, boot_name, without_keys
from wgrouter.mqtt.payloads import Data, Identity, Moment
from wgrouter.mqtt.topics import Publication, Topics
from wgrouter.ports import broker, hardware

TICK = 5.0  # seconds between looks at what is due though nothing happens
PROVE_AFTER = 1.0  # seconds that a new setting has before the broker is asked for again
LAST_WORDS = 1.5  # seconds that an agent which stops waits for its last words to be sent
KEY_MIN = 16  # characters of the key of signatures
KEPT_MAX = 2 << 20  # bytes of a file of events


class Agent(Protocol):
    """What is used of the daemon's agent."""

    reactor: Any
    engine: engine.Engine
    root: str
    confdir: str | None
    started: Instant

    def answer(self, verb: str, arguments: Mapping[str, Any]) -> Any: ...

    def say(self, finding: Finding) -> None: ...

    def fault(self, error: Exception) -> None: ...


@dataclass(slots=True)
class _Trial:
    """A setting that is being proved."""

    setting: str
    value: str
    before: Settings
    after: Settings
    path: str
    text: bytes
    answer: Callable[[Data | Refusal], None]
    rollback: Any = None
    proving: bool = False


class Reporting:
    """One for the life of an agent; `take` gives it each new configuration."""

    def __init__(self, agent: Agent, refused: type[Exception]) -> None:
        self._agent, self._refused = agent, refused
        self._settings = Mqtt(enabled=False)
        self._courier: Courier | None = None
        self._broker: broker.Broker | None = None
        self._trial: _Trial | None = None
        self._ticking: Any = None
        self._measured_at = -1e9
        self._identity = Identity(
            boot_name(hardware.line("/proc/sys/kernel/random/boot_id"), agent.started),
            agent.started,
            {"wgrouter": wgrouter.__version__, "python": platform.python_version()},
            _machine(agent.root),
        )

    # ------------------------------------------------------------ configuration

    def take(self, settings: Mqtt) -> None:
        """Settings are in force: connect, connect elsewhere, or part."""
        if settings == self._settings:
            return
        old, self._settings = self._settings, settings
        if self._ticking is None:
            self._tick()
        courier = self._courier
        if courier is not None and replace(settings, heartbeat=old.heartbeat, severity=old.severity) == old:
            courier.settings = courier.reporter.settings = settings  # nothing that the connection is made of
            return
        wanted = bool(settings.enabled and settings.brokers)
        # Its last word must not come after the new connection's first one on the same topic.
        same = wanted and courier is not None and courier.topics == self._topics(settings)
        self._close(farewell=not same)
        if wanted:
            self._open(courier)

    def _open(self, old: Courier | None) -> None:
        settings = self._settings
        try:
            paho = broker.library_version()
        except ImportError as error:
            self._agent.say(
                Finding(Why.BROKER_ABSENT, "", {"reason": f"paho-mqtt is not installed: {error}"})
            )
            return
        identity = replace(self._identity, versions={**self._identity.versions, "paho": paho})
        topics = self._topics(settings)
        courier = Courier(settings, topics, identity, self._command_key(), self)
        waiting = self._kept() if old is None else old.outbox.waiting()
        for publication in waiting:
            courier.outbox.put(replace(publication, topic=topics.event))
        courier.reporter.seq = old.reporter.seq if old else 0
        client = f"wgrouter-{topics.id.replace('/', '-')}"
        link = broker.Broker(
            self._agent.reactor, settings, client, courier.will, courier.subscriptions, courier.unwanted, self
        )
        self._courier, self._broker = courier, link
        courier.link = link
        link.open()

    def _topics(self, settings: Mqtt) -> Topics:
        cards = os.path.join(self._agent.root, "sys/class/net")
        return Topics(settings.prefix, settings.id or hardware.mac(cards) or os.uname().nodename)

    def _command_key(self) -> bytes | None:
        """b"": no signatures are asked for. None: they are, and there is no key, so no command is taken."""
        path = self._settings.command_key_file
        if not path or not self._settings.commands:
            return b""
        try:
            key = broker.secret(path)
            if len(key) < KEY_MIN:
                raise OSError(f"{path}: a key has {KEY_MIN} characters or more")
        except OSError as error:
            reason = f"no command is taken: {error}"
            self._agent.say(Finding(Why.CONFIG_PROBLEM, "", {"reason": reason}))
            return None
        return key.encode("utf-8", "surrogateescape")

    def _close(self, *, farewell: bool = True, patience: float = 0.0) -> None:
        """Part from the broker; wait for what was handed over to be sent, `patience` seconds at most."""
        if self._courier is not None and farewell:
            self._courier.farewell()
        if self._broker is not None:
            self._broker.close(patience)
        self._broker = None
        if self._courier is not None:
            self._courier.link = None
            self._courier.down()

    def close(self) -> None:
        """The agent stops."""
        self._close(patience=LAST_WORDS)
        if self._ticking is not None:
            self._ticking.cancel()
        if self._courier is not None and self._settings.queue_file:
            self._keep(self._courier.outbox.waiting())

    # ------------------------------------------------------------ from the daemon

    def step(self, before: engine.State, after: engine.State, said: tuple[Finding, ...]) -> None:
        """After each step of the engine."""
        if before.settings is not after.settings:
            trial = self._trial
            if trial is not None and after.settings is not trial.after:
                self._trial = None  # a reload has taken over the file as it is
                trial.rollback.cancel()
                trial.answer(Refusal("failed", "the configuration was loaded again meanwhile"))
            self.take(after.settings.mqtt)
        if self._courier is not None and self._broker is not None:
            self._courier.step(before, after, said)

    def status(self) -> Data | None:
        """For `wgrouter status`."""
        link, courier = self._broker, self._courier
        if link is None or courier is None:
            return None
        return {
            "broker": link.url,
            "state": link.state,
            "since_s": round(self._agent.reactor.now() - link.since, 1),
            "reason": link.reason,
            "topics": courier.topics.base,
            **courier.counts(),
        }

    def _tick(self) -> None:
        now = self._agent.reactor.now()
        self._ticking = self._agent.reactor.call_at(now + TICK, self._tick)
        if self._courier is not None and self._broker is not None:
            self._courier.tick()
        if self._settings.metrics_file and now - self._measured_at >= self._settings.metrics_interval:
            self._measured_at = now
            try:
                status = self._agent.answer("status", {})
                _replace_file(
                    self._settings.metrics_file, metrics.render(status, time.time()).encode(), 0o644
                )
            except OSError as error:
                self._agent.fault(error)

    # ------------------------------------------------------------ what the courier asks

    def state(self) -> engine.State:
        return self._agent.engine.state

    def moment(self) -> Moment:
        return Moment(self._agent.reactor.now(), time.time())

    def tell(self, finding: Finding) -> None:
        self._agent.say(finding)

    def obey(self, request: Request, answer: Callable[[Data | Refusal], None]) -> None:
        """Carry a command out. What the agent refuses is refused with its words; its own fault is told."""
        try:
            self._obey(request, answer)
        except Refusal:
            raise
        except Exception as error:  # noqa: BLE001 — as for the control socket: a question ends no agent
            self._agent.fault(error)
            raise Refusal("failed", f"{request.verb}: the agent has failed, its log says where") from None

    def _obey(self, request: Request, answer: Callable[[Data | Refusal], None]) -> None:
        if request.verb == "set":
            self._set(request.arguments, answer)
            return
        verb, arguments = request.verb, dict(request.arguments)
        if verb == "switch" and arguments["wan"] != "auto":
            known = [row["name"] for row in self._agent.answer("wans", {})["wans"]]
            if arguments["wan"] not in known:
                there = ", ".join(dict.fromkeys(known)) or "none"
                raise Refusal("refused", f"no WAN is called {arguments['wan'][:40]!r}; there are: {there}")
        try:
            result = self._agent.answer(
                "status" if verb == "report" else verb, {**arguments, "origin": "mqtt"}
            )
        except self._refused as error:
            raise Refusal("refused", str(error)) from None
        answer(without_keys(result))

    # ------------------------------------------------------------ what the broker tells

    def up(self, version: str) -> None:
        if self._courier is not None:
            self._courier.up(version)
        trial = self._trial
        if trial is not None and trial.proving:
            self._proved(trial)

    def down(self) -> None:
        if self._courier is not None:
            self._courier.down()

    def acknowledged(self, token: int) -> None:
        if self._courier is not None:
            self._courier.acknowledged(token)

    def received(self, topic: str, payload: bytes, retained: bool, reply_to: str, correlation: bytes) -> None:
        if self._courier is None:
            return
        try:
            self._courier.received(topic, payload, retained, reply_to, correlation)
        except Exception as error:  # noqa: BLE001 — the broker would send it again to the next agent, and so on
            self._agent.fault(error)

    def say(self, finding: Finding) -> None:
        if self._courier is not None:
            self._courier.say(finding)

    # ------------------------------------------------------------ set, with commit-confirm

    def _set(self, arguments: Mapping[str, Any], answer: Callable[[Data | Refusal], None]) -> None:
        """Try a setting: in force at once, into the file when the broker was reached with it, else undone."""
        kind, name, option, value = commands.setting_of(arguments)
        if self._trial is not None:
            raise Refusal("busy", f"{self._trial.setting} is being tried")
        files, paths = load.found(self._agent.root, self._agent.confdir)
        data = files[load.MAIN_FILE]
        text = b"" if isinstance(data, FileNotFoundError) else data
        if isinstance(text, Exception):
            raise Refusal("refused", f"{paths[load.MAIN_FILE]}: {text}")
        if kind == "wan" and name not in {wan.name for wan in self.state().settings.wans}:
            raise Refusal("refused", f"no `config wan` is called {name[:40]!r}")
        try:
            new = edit.changed(text, kind, name, option, value)
        except edit.Unchangeable as error:
            raise Refusal("refused", str(error)) from None
        before = set(map(_fault, load.load(files, paths=paths).problems))
        loaded = load.load({**files, load.MAIN_FILE: new}, paths=paths)
        found = [problem for problem in loaded.problems if problem.option == option and problem.message]
        wrong = [problem for problem in found if _fault(problem) not in before]
        if wrong or loaded.unread:
            problem = wrong[0] if wrong else loaded.problems[0]
            raise Refusal("refused", f"{problem.message}; accepted: {problem.accepted}")
        setting = str(arguments["setting"])
        shown = value if isinstance(value, str) else " ".join(value)
        state = self.state()
        trial = _Trial(setting, shown, state.settings, loaded.settings, paths[load.MAIN_FILE], new, answer)
        self._trial = trial
        seconds = self._settings.confirm
        reactor = self._agent.reactor
        said: dict[str, str | int | float] = {"setting": setting, "value": shown, "seconds": round(seconds)}
        self.say(Finding(Why.SETTING_TRIED, "", said))
        trial.rollback = reactor.call_at(reactor.now() + seconds, lambda: self._undo(trial))
        reactor.post(Configured(loaded.settings, state.seed))
        reactor.call_at(reactor.now() + PROVE_AFTER, lambda: self._prove(trial))

    def _prove(self, trial: _Trial) -> None:
        """Connect anew, over whatever the new settings lead to."""
        if self._trial is trial:
            trial.proving = True
            self._connect_anew()

    def _proved(self, trial: _Trial) -> None:
        self._trial = None
        trial.rollback.cancel()
        try:
            _replace_file(trial.path, trial.text, 0o600)
        except OSError as error:
            self._agent.reactor.post(Configured(trial.before, self.state().seed))
            trial.answer(Refusal("failed", f"{trial.path} cannot be written: {error.strerror or error}"))
            return
        self.say(Finding(Why.SETTING_KEPT, "", {"setting": trial.setting, "value": trial.value}))
        trial.answer({"setting": trial.setting, "value": trial.value, "kept": True})

    def _connect_anew(self) -> None:
        if self._broker is not None:
            self._broker.moved()

    def _undo(self, trial: _Trial) -> None:
        """The broker was not reached: as it was before."""
        self._trial = None
        seconds = round(self._settings.confirm)
        reactor = self._agent.reactor
        reactor.post(Configured(trial.before, self.state().seed))
        reactor.call_at(reactor.now() + PROVE_AFTER, self._connect_anew)
        self.say(Finding(Why.SETTING_BACK, "", {"setting": trial.setting, "seconds": seconds}))
        text = f"the broker was not reached within {seconds} s with {trial.setting} {trial.value}"
        trial.answer(Refusal("rolled-back", text))

    # ------------------------------------------------------------ events over a restart

    def _keep(self, waiting: tuple[Publication, ...]) -> None:
        """Written once, when the agent stops: flash is spared."""
        lines = [[*(one.key or ("", 0)), one.payload.decode("utf-8", "replace")] for one in waiting]
        path = self._settings.queue_file
        try:
            if lines:
                _replace_file(path, "".join(json.dumps(line) + "\n" for line in lines).encode(), 0o600)
            elif os.path.exists(path):
                os.unlink(path)
        except OSError as error:
            self._agent.fault(error)

    def _kept(self) -> list[Publication]:
        path = self._settings.queue_file
        found: list[Publication] = []
        try:
            with open(path, "rb") as file:
                lines = file.read(KEPT_MAX).splitlines()
            os.unlink(path)
        except OSError as error:
            if path and not isinstance(error, FileNotFoundError):
                self._agent.fault(error)
            return found
        wrong = 0
        for line in lines:
            try:
                boot, seq, payload = json.loads(line)
                found.append(Publication("", str(payload).encode(), 1, key=(str(boot), int(seq))))
            except (ValueError, TypeError, OverflowError, RecursionError):
                wrong += 1
        if wrong:
            self._agent.fault(ValueError(f"{path}: {wrong} of {len(lines)} lines are no events: left out"))
        return found


def _fault(problem: Problem) -> tuple[str, ...]:
    """A Problem wherever it stands now: a line more above it does not make it a new one."""
    return problem.file, problem.section, problem.option, problem.value, problem.message


def _replace_file(path: str, data: bytes, mode: int) -> None:
    """All of it or nothing: written beside the file, and renamed over it."""
    new = f"{path}.new"
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    os.rename(new, path)


def _machine(root: str) -> dict[str, str]:
    """What the router is called and what it is, where that is known."""
    release = hardware.line(os.path.join(root, "etc/openwrt_version"))
    known = {
        "host": os.uname().nodename,
        "model": hardware.line(os.path.join(root, "tmp/sysinfo/model")),
        "openwrt": release,
    }
    return {key: value for key, value in known.items() if value}


__all__ = ["Reporting"]
