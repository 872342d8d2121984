"""A DNS that never was, with a clock of its own, for tests of core/names.py: servers are functions.

`Resolver` turns the core: every query is given to the server it names, every answer comes back when that
server says, and after each step what must always hold is checked.
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from wgrouter.core import names
from wgrouter.core.codec import Decoder, encode
from wgrouter.core.findings import Finding
from wgrouter.core.machine import Context
from wgrouter.core.messages import Answered, Ask, Event, Record, Unanswered, Woke
from wgrouter.core.model import LONG_AGO, NEVER, Nameserver, World
from wgrouter.core.name_rounds import FLIGHTS_MAX
from wgrouter.core.names import Name, Wanted
from wgrouter.core.settings import Dns, Settings

HOST = "vpn.example.net"
DNS = Dns(ttl_min=10.0)
WOKE = Woke()
FIRST, SECOND, THIRD = (Nameserver(f"192.0.2.{n}") for n in (1, 2, 3))


@dataclass(frozen=True)
class Reply:
    """What a server says to a query after `delay` seconds. With a `reason` it fails by that."""

    rcode: str = "NOERROR"
    records: tuple[Record, ...] = ()
    delay: float = 0.01
    truncated: bool = False
    negative_ttl: int = 0
    reason: str = ""

    def event(self, ask: Ask) -> tuple[float, Event]:
        if self.reason:
            delay = ask.timeout if self.reason in ("timeout", "garbage") else self.delay
            return delay, Unanswered(ask.id, self.reason)
        if self.delay >= ask.timeout:
            return ask.timeout, Unanswered(ask.id, "timeout")
        return self.delay, Answered(ask.id, self.rcode, self.truncated, self.records, self.negative_ttl)


Server = Callable[[Ask], Reply]
Zone = Mapping[str, Iterable[str]]  # "name TYPE" → data

SILENT = Reply(reason="timeout")


def always(reply: Reply) -> Server:
    return lambda ask: reply


def zone(records: Zone, ttl: int = 60, delay: float = 0.01, negative_ttl: int = 0) -> Server:
    """A resolver that knows these records, follows their CNAMEs, and says NXDOMAIN of every other name."""
    known = {key: tuple(data) for key, data in records.items()}
    existing = {key.split()[0] for key in known}

    def answer(ask: Ask) -> Reply:
        found: list[Record] = []
        name, rcode = ask.name, "NOERROR"
        for _ in range(12):
            if name not in existing:
                rcode = "NXDOMAIN"
            data = known.get(f"{name} {ask.type}")
            if data:
                found += [Record(name, ask.type, ttl, item) for item in data]
            alias = known.get(f"{name} CNAME")
            if data or not alias:
                break
            found.append(Record(name, "CNAME", ttl, alias[0]))
            name = alias[0]
        # Only an answer without data carries a SOA.
        negative = 0 if any(record.type == ask.type for record in found) else negative_ttl
        return Reply(rcode, tuple(found), delay, negative_ttl=negative)

    return answer


class Resolver:
    """The core, these servers, and a clock."""

    def __init__(
        self,
        servers: Mapping[Nameserver, Server],
        wanted: Iterable[Wanted] = (Wanted(HOST),),
        dns: Dns = DNS,
        seed: str = "seed",
        strict: bool = False,
    ) -> None:
        self.servers = dict(servers)
        self.known = tuple(servers)
        self.dns = dns
        self.seed = seed
        self.now = 1000.0
        self.memory = names.Memory()
        self.asks: list[tuple[float, Ask]] = []
        self.said: list[tuple[float, Finding]] = []
        self.strict = strict
        self._queue: list[tuple[float, int, Event]] = []
        self._number = itertools.count()
        self._wanted = tuple(wanted)
        self.want(*self._wanted)

    # ---- what tests do

    def want(self, *wanted: Wanted) -> None:
        self._wanted = wanted
        self.memory = names.configure(self.memory, frozenset(wanted), self.context)
        self.step()

    def configure(self, dns: Dns) -> None:
        self.dns = dns
        self.want(*self._wanted)

    def hurry(self, host: str = HOST) -> None:
        self.memory = names.hurry(self.memory, host, self.now)
        self.step()

    def network_changed(self) -> None:
        self.memory = names.network_changed(self.memory, self.now)
        self.step()

    def use(self, *servers: Nameserver) -> None:
        self.known = servers
        self.step()

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while (at := self._next_at()) <= end:
            self._turn(at)
        self.now = end

    def settle(self, within: float = 60.0) -> float:
        """Let time pass until nothing is being looked up; the seconds it took."""
        start = self.now
        while self.asking():
            at = self._next_at()
            assert at <= start + within, f"still asking after {within} s"
            self._turn(at)
        return self.now - start

    def next_round(self, host: str = HOST, srv: bool = False) -> float:
        """Let time pass until the next look-up of the host has ended; the seconds until it began."""
        start = self.now
        before = self.look_up(host, srv).asked
        while self.look_up(host, srv).ended <= before:
            at = self._next_at()
            assert at < NEVER, "nothing is going to happen"
            self._turn(at)
        return self.look_up(host, srv).asked - start

    def look_up(self, host: str = HOST, srv: bool = False) -> Name:
        name = names.look_up(self.memory, host, srv=srv)
        assert name is not None
        return name

    def asking(self) -> bool:
        return any(
            entry.name.asking or entry.name.next_at <= self.now for entry in self.memory.entries.values()
        )

    def codes(self) -> list[str]:
        return [finding.why.code for _, finding in self.said]

    def texts(self) -> list[str]:
        return [str(finding) for _, finding in self.said]

    def asked(self, server: Nameserver, since: float = LONG_AGO) -> int:
        return sum(ask.server == server for at, ask in self.asks if at >= since)

    # ---- what happens

    @property
    def context(self) -> Context:
        return Context(self.now, Settings(dns=self.dns), World(), self.seed)

    def _next_at(self) -> float:
        answer = self._queue[0][0] if self._queue else NEVER
        return min(answer, names.wake_at(self.memory, self.context))

    def _turn(self, at: float) -> None:
        self.now = max(at, self.now)
        if self._queue and self._queue[0][0] <= self.now:
            self.step(heapq.heappop(self._queue)[2])
        else:
            self.step(Woke())

    def step(self, event: Event = WOKE) -> None:
        before = {key: entry.name for key, entry in self.memory.entries.items()}
        turn = names.step(self.memory, event, self.context, self.known)
        if self.strict:
            assert names.step(self.memory, event, self.context, self.known) == turn
            decoder = Decoder(names.CLASSES)
            assert decoder.decode(json.loads(json.dumps(encode(turn.memory)))) == turn.memory
        self.memory = turn.memory
        self.said += [(self.now, finding) for finding in turn.findings]
        for effect in turn.effects:
            assert isinstance(effect, Ask)
            self.asks.append((self.now, effect))
            # One that was forgotten answers nobody, like a packet to nowhere.
            delay, answer = self.servers.get(effect.server, always(SILENT))(effect).event(effect)
            heapq.heappush(self._queue, (self.now + delay, next(self._number), answer))
        self._check(before)

    def _check(self, before: Mapping[str, Name]) -> None:
        assert names.wake_at(self.memory, self.context) > self.now
        assert len(self.memory.flights) <= FLIGHTS_MAX
        if len(before) > 60 and next(self._number) % 20:
            return  # what follows takes its time with many names
        assert list(self.memory.due) == sorted(self.memory.due)
        idle = {key for key, entry in self.memory.entries.items() if not entry.tasks}
        assert {key for _, key in self.memory.due} <= idle
        assert set(self.memory.active) == set(self.memory.entries) - idle
        for at, key in self.memory.due:
            assert self.memory.entries[key].name.next_at == at
        for key, name in before.items():
            if key in self.memory.entries and name.addresses:
                assert self.memory.entries[key].name.addresses, "a failure took the last good addresses away"
