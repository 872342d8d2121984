"""Carries between the engine and the broker: what is to be told goes out in order, commands come in.

Pure: the broker, the loop and the clock are given to it. Decides when the connection must be made anew
because its way is gone; what is told is reporter.py's affair, what is obeyed commands.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from wgrouter.core import engine, links, uplink
from wgrouter.core.findings import Finding, Why
from wgrouter.core.link_states import DOWN, OFF
from wgrouter.core.model import Instant
from wgrouter.core.settings import Mqtt
from wgrouter.mqtt import commands, homeassistant, payloads
from wgrouter.mqtt.commands import Desk, Refusal, Request
from wgrouter.mqtt.outbox import Gap, Outbox
from wgrouter.mqtt.payloads import Data, Identity, Moment
from wgrouter.mqtt.reporter import Reporter
from wgrouter.mqtt.topics import OFFLINE, Publication, Topics, encoded

ANSWER_EXPIRY = 60  # seconds that a broker keeps an answer for somebody who is away
# What may have made an entity of Home Assistant, or taken its subject away.
SHAPING = {Why.CONFIG_LOADED, Why.WAN_APPEARED, Why.WAN_GONE}
HOPEFUL = {Why.WAN_UP, Why.WAN_HELD, Why.TUNNEL_ALIVE, Why.TUNNEL_RECOVERED}  # worth another attempt


class Link(Protocol):
    """The broker port."""

    @property
    def connected(self) -> bool: ...

    @property
    def local(self) -> str: ...

    def send(
        self, token: int, topic: str, payload: bytes, qos: int, retain: bool, correlation: bytes, expiry: int
    ) -> None: ...

    def moved(self) -> None: ...

    def hasten(self) -> None: ...


class World(Protocol):
    """What the courier asks of the agent."""

    def state(self) -> engine.State: ...

    def moment(self) -> Moment: ...

    def tell(self, finding: Finding) -> None:
        """Put it into the log."""

    def obey(self, request: Request, answer: Callable[[Data | Refusal], None]) -> None:
        """Carry a command out and answer, now or later. Refusal may be raised too."""


class Courier:
    """One for each agent; `link` is set once there is one, and may be another after a reload."""

    def __init__(
        self, settings: Mqtt, topics: Topics, identity: Identity, secret: bytes | None, world: World
    ) -> None:
        """`secret` is that of signatures: b"" asks for none, None lets no command in."""
        self.settings, self.topics, self.identity = settings, topics, identity
        self._world = world
        self.reporter = Reporter(settings, topics, identity)
        self.outbox = Outbox(settings.queue, self._notice)
        self.verbs = settings.commands if secret is not None else ()
        self.desk = Desk(topics, self.verbs, secret or b"", identity.started)
        self.link: Link | None = None
        self._entities: dict[str, str] = {}  # that Home Assistant was told of: key → platform
        self._discovered = b""

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """What the broker is to send us."""
        wanted = [self.topics.commands] if self.verbs else []
        if self.settings.homeassistant:
            wanted.append(homeassistant.status_topic(self.settings.homeassistant))
        return tuple(wanted)

    @property
    def unwanted(self) -> tuple[str, ...]:
        """What the broker may still know of a session in which commands were enabled."""
        return () if self.verbs else (self.topics.commands,)

    @property
    def will(self) -> tuple[str, bytes]:
        return self.topics.availability, OFFLINE.encode()

    def capabilities(self) -> Data:
        return {
            "commands": list(self.verbs),
            "signed": bool(self.desk.secret),
            "will_delay_s": self.settings.will_delay,
            "heartbeat_s": self.settings.heartbeat,
            "homeassistant": bool(self.settings.homeassistant),
        }

    def counts(self) -> Mapping[str, int]:
        return {"queued": len(self.outbox), "dropped": self.outbox.dropped}

    def _notice(self, gap: Gap) -> Publication:
        return self.reporter.gap(self._world.state(), self._world.moment(), gap)

    # ------------------------------------------------------------ from the engine

    def step(self, before: engine.State, after: engine.State, said: tuple[Finding, ...]) -> None:
        """After each step of the engine, when its effects have been carried out."""
        link = self.link
        if link is not None:
            if link.connected:
                if self._astray(before, after, link.local):
                    link.moved()
            elif uplink.chosen(before.uplink) != uplink.chosen(after.uplink):
                link.moved()
            elif any(finding.why in HOPEFUL for finding in said):
                link.hasten()
        for publication in self.reporter.step(before, after, said, self._world.moment(), self.counts()):
            self.outbox.put(publication)
        if self.reporter.online and any(finding.why in SHAPING for finding in said):
            self._discover(anew=False)
        self.pump()

    def say(self, finding: Finding) -> None:
        """A finding from outside the engine: into the log, and an event like any other."""
        self._world.tell(finding)
        state = self._world.state()
        if self.reporter.worth(finding):
            self.outbox.put(self.reporter.event(state, state, finding, self._world.moment()))
            self.pump()

    def tick(self) -> None:
        """Now and then, for a router where nothing happens: the heartbeat."""
        state = self._world.state()
        self.step(state, state, ())

    def _astray(self, before: engine.State, after: engine.State, local: str) -> bool:
        """Whether the connection's own address is gone, or belongs to a WAN that traffic has left.

        One through a tunnel or from the LAN goes wherever that goes, and survives.
        """
        if before.world.net is after.world.net and before.uplink is after.uplink:
            return False
        net = after.world.net
        device = next((a.device for a in net.addresses if a.address == local), None) if net else ""
        if device is None:
            return True
        family = 6 if ":" in local else 4
        for path in links.view(after.links):
            if path.path.device == device and path.path.family == family:
                chosen = uplink.chosen(after.uplink).get(family)
                if after.settings.routing.balance:
                    return path.state in (DOWN, OFF)
                return chosen is not None and chosen != path.path.wan
        return False

    # ------------------------------------------------------------ from the broker

    def up(self, version: str) -> None:
        """Connected: everything retained is told anew, and then what waited."""
        self.identity = Identity(
            self.identity.boot,
            self.identity.started,
            {**self.identity.versions, "mqtt": version},
            self.identity.machine,
        )
        self.reporter.identity = self.identity
        self.outbox.forget_values()
        self._publish_all()

    def _publish_all(self) -> None:
        state, moment = self._world.state(), self._world.moment()
        for publication in self.reporter.everything(state, moment, self.counts(), self.capabilities()):
            self.outbox.put(publication)
        self._discover()
        self.pump()

    def _discover(self, *, anew: bool = True) -> None:
        """Tell Home Assistant what there is: anew, or if that is something else than before.

        What a reload took away is named without anything but its platform, which removes it.
        """
        prefix, state = self.settings.homeassistant, self._world.state()
        if not prefix:
            return
        data = homeassistant.discovery(self.topics, self.identity, state, self.capabilities())
        entities = {key: component["p"] for key, component in data["cmps"].items()}
        gone = {key: {"p": platform} for key, platform in self._entities.items() if key not in entities}
        data["cmps"] |= gone
        body = encoded(data)
        if anew or body != self._discovered:
            self._entities, self._discovered = entities, body
            self.outbox.put(Publication(homeassistant.discovery_topic(prefix, self.topics), body, 1, True))

    def down(self) -> None:
        self.reporter.online = False
        self.outbox.broken()

    def acknowledged(self, token: int) -> None:
        self.outbox.acknowledged(token)
        self.pump()

    def pump(self) -> None:
        """Hand the broker as much as may be under way."""
        link = self.link
        while link is not None and link.connected:
            found = self.outbox.next()
            if found is None:
                return
            token, one = found
            link.send(token, one.topic, one.payload, one.qos, one.retain, one.correlation, one.expiry)

    def farewell(self) -> None:
        """The last word of an agent that is stopped: the will does not come after a good-bye."""
        self.outbox.put(Publication(self.topics.availability, OFFLINE.encode(), 1, True))
        self.pump()

    # ------------------------------------------------------------ commands

    def received(self, topic: str, payload: bytes, retained: bool, reply_to: str, correlation: bytes) -> None:
        """A message on one of our subscriptions."""
        if self.settings.homeassistant and topic == homeassistant.status_topic(self.settings.homeassistant):
            if payload == b"online":
                self._publish_all()
            return
        verb = self.topics.verb(topic)
        where = commands.reply_topic(reply_to, self.topics, verb)

        def respond(id: str | None, result: Data | Refusal, request: Request | None) -> None:
            body = self._response(verb, id, result)
            if request is not None:
                self.desk.answered(request, body)
            self._reply(where, body, correlation)
            if isinstance(result, Refusal):
                reason = f"{result} ({result.code})"
                self._world.tell(Finding(Why.COMMAND_REFUSED, "", {"verb": verb[:40], "reason": reason}))

        moment, trusted = self._world.moment(), self._world.state().world.clock_trusted
        try:
            judged = self.desk.judge(topic, payload, moment, retained=retained, trusted=trusted)
        except Refusal as refusal:
            respond(refusal.id, refusal, None)
            return
        if isinstance(judged, commands.Answered):
            if judged.response is not None:
                self._reply(where, judged.response, correlation)
        elif judged is not None:
            request = judged
            try:
                self._world.obey(request, lambda result: respond(request.id, result, request))
            except Refusal as refusal:
                respond(request.id, refusal, request)

    def _response(self, verb: str, id: str | None, result: Data | Refusal) -> bytes:
        data: Data = {
            **payloads.head(self.identity, self._world.state(), self._world.moment()),
            "verb": verb[:40],
            "id": id,
        }
        if isinstance(result, Refusal):
            data |= {"ok": False, "error": {"code": result.code, "text": str(result)}}
        else:
            data |= {"ok": True, "result": result}
        return encoded(data)

    def _reply(self, topic: str, body: bytes, correlation: bytes) -> None:
        self.outbox.put(Publication(topic, body, 1, False, None, correlation, ANSWER_EXPIRY))
        self.pump()


def without_keys(data: Any) -> Any:
    """The same without what is called a key: `status` has public ones, a payload has none."""
    if isinstance(data, Mapping):
        return {key: without_keys(value) for key, value in data.items() if key != "public_key"}
    if isinstance(data, (list, tuple)):
        return [without_keys(item) for item in data]
    return data


def boot_name(machine_boot: str, started: Instant) -> str:
    """One life of an agent: the machine's boot and the moment in it, in milliseconds."""
    digits = "".join(c for c in machine_boot.lower() if c in "0123456789abcdef")[:8]
    return f"{digits.rjust(8, '0')}.{max(0, int(started * 1000)):010x}"
