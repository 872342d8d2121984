"""What is known of every router, from the messages of all of them.

Pure: `Fleet.hear` gets a message and the time (seconds since 1970 by this machine's clock), and never raises
for what is in it. Judging what it means is verdict.py's affair.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from wgrouter.fleet import messages
from wgrouter.fleet.ledger import Ledger
from wgrouter.fleet.messages import Birth, Event, Head, Peer, State, Unreadable, Wan
from wgrouter.render import span

ROUTERS_MAX = 20_000
TIMELINE_MAX = 50  # entries of one router
TOPICS_MAX = 1024  # of WANs and peers of one router
LEDGERS_MAX = 4  # lives of one router that are told apart: a late event may be of an earlier one
GRACE = 10.0  # seconds that an event may come after the summary which counts it
HEARTBEAT = 300.0  # seconds, of a router whose birth is not known

OFFLINE, BACK, RESTARTED, REBOOTED, GAP = (
    f"watch.{word}" for word in ("offline", "back", "restarted", "rebooted", "gap")
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a router's time line: what it said, or (`boot` is "") what was seen of it from here."""

    at: float
    exact: bool  # False: `at` is when it came, since the router's clock is not set
    told: float  # when it came
    severity: str
    type: str
    subject: str
    text: str
    cause: str
    boot: str
    seq: int


@dataclass(slots=True)
class Router:
    """All that is known of one router. Times are of this machine's clock."""

    id: str
    revision: int = 0  # grows with every change
    online: bool | None = None
    turned: float = 0.0  # when `online` became so, or was first heard of
    turned_seen: bool = False  # False: it was so before we looked
    boot: str = ""
    clock_trusted: bool | None = None
    birth: Birth | None = None
    state: State | None = None
    wans: dict[str, Wan] = field(default_factory=dict)  # by the rest of the topic
    peers: dict[str, Peer] = field(default_factory=dict)
    heard: float = 0.0  # the last message that was not retained
    said: float = 0.0  # when it is known to have spoken last; 0: not known
    changed: float = 0.0  # 0: not known
    changed_boot: float = 0.0  # a restart that was seen
    ledgers: dict[str, Ledger] = field(default_factory=dict)
    due: tuple[float, str, int] | None = None  # since when, of which life, up to which number
    timeline: deque[Entry] = field(default_factory=lambda: deque(maxlen=TIMELINE_MAX))
    moved: dict[str, tuple[str, str, str]] = field(default_factory=dict)  # family → WANs, cause of a failover
    unreadable: int = 0
    unreadable_why: str = ""
    away: tuple[float, str] | None = None  # gone since, in which life, until it says that it is back
    outage: tuple[float, float] | None = None  # the last one that was seen: from, to

    @property
    def heartbeat(self) -> float:
        return self.birth.heartbeat if self.birth and self.birth.heartbeat > 0 else HEARTBEAT

    @property
    def missing(self) -> int:
        return sum(ledger.missing for ledger in self.ledgers.values())

    @property
    def dropped(self) -> int:
        return sum(ledger.dropped for ledger in self.ledgers.values())

    @property
    def stopped(self) -> bool:
        """Its last word was that it stops."""
        last = next((entry for entry in reversed(self.timeline) if entry.boot), None)
        return last is not None and last.type == "agent.stopped" and last.boot == self.boot

    @property
    def empty(self) -> bool:
        return (
            self.online is None
            and not self.birth
            and not self.state
            and not self.wans
            and not self.peers
            and not self.timeline
            and not self.unreadable
        )


class Fleet:
    """All routers below one prefix, and our own connection to the broker."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.routers: dict[str, Router] = {}
        self.revision = 0  # grows with every change
        self.strays = 0  # messages on topics that no router would use
        self.stray_why = ""
        self.overflow = 0  # messages of routers beyond ROUTERS_MAX
        self.link_up = False
        self.link_since = 0.0
        self.link_why = "not connected yet"
        self.link_denied = ""  # what the broker does not let us read
        # Fingerprint, or / and label → routers' peers that have it.
        self._keys: dict[str, set[tuple[str, str]]] = {}

    # ------------------------------------------------------------ our own connection

    def connected(self, now: float, resumed: bool) -> None:
        """`resumed`: the broker kept our session, so nothing was missed."""
        if not resumed:
            for router in self.routers.values():
                router.due = None
                for ledger in router.ledgers.values():
                    ledger.unsure()
        self.link_up, self.link_since, self.link_why = True, now, ""
        self.revision += 1

    def disconnected(self, now: float, why: str) -> None:
        if self.link_up or not self.link_since:
            self.link_since = now
        self.link_up, self.link_why = False, messages.clean(why)
        self.revision += 1

    def denied(self, why: str) -> None:
        self.link_denied = messages.clean(why)
        self.revision += 1

    # ------------------------------------------------------------ messages

    def hear(self, topic: str, payload: bytes, retained: bool, now: float) -> None:
        """Take in one message, whatever it is."""
        name, _, tail = topic.removeprefix(f"{self.prefix}/").partition("/")
        kind, _, rest = tail.partition("/")
        levels = {"availability": 0, "birth": 0, "state": 0, "event": 0, "wan": 1, "tunnel": 2}.get(kind)
        if not topic.startswith(f"{self.prefix}/") or levels is None:
            return  # commands, answers and what others keep below the prefix
        if len(rest.split("/")) != max(1, levels) or bool(rest) != bool(levels) or not _is_id(name):
            self.strays += 1
            self.stray_why = f"topic {messages.clean(topic, 100)!r}"
            self.revision += 1
            return
        router = self.routers.get(name)
        if router is None:
            if not payload:
                return
            if len(self.routers) >= ROUTERS_MAX:
                self.overflow += 1
                return
            router = self.routers[name] = Router(name)
        self.revision += 1
        router.revision += 1
        try:
            self._take(router, kind, rest, payload, retained, now)
        except Unreadable as error:
            router.unreadable += 1
            router.unreadable_why = f"{kind}: {error}"
        if router.empty:
            del self.routers[name]

    def _take(self, router: Router, kind: str, rest: str, payload: bytes, retained: bool, now: float) -> None:
        if kind == "availability":
            self._availability(router, messages.online(payload) if payload else None, retained, now)
        elif kind == "birth":
            router.birth = messages.birth(payload) if payload else None
            if router.birth:
                self._head(router, router.birth.head, retained, now)
                self._life(router, router.birth.head, now, retained)
        elif kind == "state":
            router.state = messages.state(payload) if payload else None
            if router.state:
                self._state(router, router.state, retained, now)
        elif kind == "wan":
            self._part(router.wans, rest, messages.wan(payload) if payload else None)
        elif kind == "tunnel":
            peer = messages.peer(payload) if payload else None
            self._index(router, rest, False)
            self._part(router.peers, rest, peer)
            self._index(router, rest, True)
        elif payload:
            event = messages.event(payload)
            if not retained:  # somebody else's doing: an event is not
                self._event(router, event, now)
        if not retained and kind not in ("availability", "event"):
            router.heard = router.said = now

    def _part(self, parts: dict[str, Any], rest: str, part: Wan | Peer | None) -> None:
        if part is None:
            parts.pop(rest, None)
        elif rest in parts or len(parts) < TOPICS_MAX:
            parts[rest] = part

    def _index(self, router: Router, rest: str, there: bool) -> None:
        peer = router.peers.get(rest)
        for key in (peer.fingerprint, f"/{peer.label}") if peer else ():
            who = self._keys.setdefault(key, set())
            if there:
                who.add((router.id, rest))
            else:
                who.discard((router.id, rest))
            if not who:
                del self._keys[key]

    def seen_by(self, router: Router) -> Iterator[tuple[Router, Peer]]:
        """Other routers that have this one as a peer, and what they say of it.

        Where it does not know its own key (a WireGuard in userspace does not tell) a peer called like it is
        it.
        """
        known = [key for key in router.birth.interfaces.values() if key] if router.birth else []
        for key in dict.fromkeys(known or [f"/{router.id}"]):
            for name, rest in sorted(self._keys.get(key, ())):
                other = self.routers.get(name)
                if other is not None and other is not router and rest in other.peers:
                    yield other, other.peers[rest]

    # ------------------------------------------------------------ what they mean for one router

    def _availability(self, router: Router, online: bool | None, retained: bool, now: float) -> None:
        before, router.online = router.online, online
        if online == before:
            return
        router.turned, router.turned_seen = now, before is not None
        if before is None:
            return
        router.changed = now
        if online is False:
            router.away = now, router.boot
            how = "it was stopped" if router.stopped else "the broker published its last will"
            self._note(router, now, "warning", OFFLINE, f"offline: {how}")
        elif online and router.away and not router.birth:
            self._note(router, now, "info", BACK, f"back after {span(now - router.away[0])}")
            router.outage, router.away = (router.away[0], now), None

    def _head(self, router: Router, head: Head, retained: bool, now: float) -> None:
        router.clock_trusted = head.clock_trusted
        if retained and head.clock_trusted:
            router.said = max(router.said, min(head.time, now))

    def _life(self, router: Router, head: Head, now: float, retained: bool) -> None:
        """Which life it is in. A new one means that the agent, or the whole machine, was started anew."""
        before, router.boot = router.boot, head.boot
        away = router.away
        gone = f" after {span(now - away[0])} offline" if away else ""
        if before and before != head.boot:
            router.moved.clear()
            router.due = None
            router.changed = router.changed_boot = now
            same = before.partition(".")[0] == head.machine_boot
            if same:
                self._note(router, now, "warning", RESTARTED, f"the agent was started anew{gone}")
            else:
                self._note(router, now, "warning", REBOOTED, f"the router was rebooted{gone}")
        elif away and before and router.online:
            text = f"back{gone}, in the same life: it ran on, and only its way to the broker was gone"
            self._note(router, now, "info", BACK, text)
        if away and router.online:
            router.outage, router.away = (away[0], now), None

    def _state(self, router: Router, state: State, retained: bool, now: float) -> None:
        head = state.head
        self._head(router, head, retained, now)
        if not router.birth or (not retained and router.birth.head.boot != head.boot):
            self._life(router, head, now, retained)
        if state.last and head.clock_trusted:
            router.changed = max(router.changed, min(state.last.time, now))
        if retained:
            return  # its numbers are of another time: what was queued then may long have been told to others
        ledger = self._ledger(router, head.boot)
        sent = state.seq - state.queued
        if ledger.last is None:
            ledger.due(sent)
            return
        if router.due is not None and router.due[1] == head.boot and router.due[0] <= now - GRACE:
            self._due(router, router.due[2], ledger, now)
            router.due = None
        if sent > (ledger.last or 0) and router.due is None:
            router.due = now, head.boot, sent

    def tick(self, now: float) -> None:
        """Now and then: what should have come by now did not."""
        for router in self.routers.values() if self.link_up else ():
            due = router.due
            if due is not None and due[0] <= now - GRACE:
                router.due = None
                self._due(router, due[2], self._ledger(router, due[1]), now)

    def _due(self, router: Router, number: int, ledger: Ledger, now: float) -> None:
        before = ledger.last
        ledger.due(number)
        if before is not None and number > before:
            self._missed(router, before + 1, number, now)

    def _missed(self, router: Router, first: int, last: int, now: float) -> None:
        which = f"event {first} is" if first == last else f"events {first} to {last} are"
        self._note(router, now, "warning", GAP, f"{which} missing: sent, and never heard here")
        router.revision += 1
        self.revision += 1

    def _ledger(self, router: Router, boot: str) -> Ledger:
        ledger = router.ledgers.get(boot)
        if ledger is None:
            # Of a life that began before our eyes every event is heard, from the first one on.
            from_birth = self.link_up and boot == router.boot and bool(router.ledgers)
            ledger = router.ledgers[boot] = Ledger(0 if from_birth else None)
            while len(router.ledgers) > LEDGERS_MAX:
                oldest = next(key for key in router.ledgers if key not in (boot, router.boot))
                del router.ledgers[oldest]
        return ledger

    def _event(self, router: Router, event: Event, now: float) -> None:
        head = event.head
        if not router.boot:
            router.boot = head.boot
        ledger = self._ledger(router, head.boot)
        if self._again(router, event, ledger):
            return
        before = ledger.last
        if event.missing:
            ledger.declared(*event.missing)
        else:
            ledger.heard(event.seq)
        expected = event.missing[0] if event.missing else event.seq
        if before is not None and expected > before + 1:
            self._missed(router, before + 1, expected - 1, now)
        at = min(head.time, now) if head.clock_trusted else now
        router.timeline.append(
            Entry(
                at,
                head.clock_trusted,
                now,
                event.severity,
                event.type,
                event.subject,
                event.text,
                event.cause_text if event.cause_text != event.text else "",
                head.boot,
                event.seq,
            )
        )
        router.heard = router.said = now
        router.changed = max(router.changed, at)
        if head.boot == router.boot:
            router.clock_trusted = head.clock_trusted
            if event.type == "uplink.failover":
                router.moved[event.family] = event.before, event.after, event.cause_text
            elif event.type.startswith("uplink."):
                router.moved.pop(event.family, None)

    def _again(self, router: Router, event: Event, ledger: Ledger) -> bool:
        """Whether this is the second copy of an event: QoS 1 says at least once."""
        if ledger.last is None or event.seq > ledger.last:
            return False
        if any(first <= event.seq <= last for first, last in ledger.gaps):
            return False
        same = [entry.seq for entry in router.timeline if entry.boot == event.head.boot]
        return event.seq in same or bool(same and event.seq < min(same))

    def _note(self, router: Router, now: float, severity: str, kind: str, text: str) -> None:
        router.timeline.append(Entry(now, True, now, severity, kind, "", text, "", "", 0))


def _is_id(name: str) -> bool:
    """What the configuration of a router accepts as (one level of) an id."""
    return 0 < len(name) <= 64 and name.isascii() and name.isprintable() and not set(name) & set("+#$ ")
