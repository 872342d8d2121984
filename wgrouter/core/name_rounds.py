"""One step of the resolver: which questions begin, whom to ask next, what an answer changes, when it is due.

A *round* looks one name up: a *task* for each question (A, AAAA, SRV and what that leads to), each asking one
server after the other until one answer counts. A server that has not answered after HEDGE is joined by the
next one; a negative answer is taken when no other healthy server contradicts it. `Draft` is Memory taken
apart for the length of one step and never outlives it. Knows no sockets and no clock.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from math import nextafter

from wgrouter.core import answers, name_times
from wgrouter.core.findings import Finding, Why
from wgrouter.core.jitter import unit
from wgrouter.core.machine import Context
from wgrouter.core.messages import Answered, Ask, Unanswered
from wgrouter.core.model import NEVER, Instant, Nameserver, Seconds
from wgrouter.core.name_memory import (
    NEGATIVE,
    SRV,
    SRV_PREFIX,
    Entry,
    Flight,
    Memory,
    Status,
    Task,
    Verdict,
    label,
    view,
)
from wgrouter.core.name_servers import Servers
from wgrouter.core.name_times import AGAIN
from wgrouter.core.records import replace

FLIGHTS_MAX = 64  # queries under way
TASKS_MAX = 32  # questions under way: half of it, so that each can be hedged
ASKS_MAX = 8  # of one question: the servers in turn, the silent ones twice (a lost packet is no dead server)
HEDGE: Seconds = 0.5  # most resolvers answer a name they must look up within this
GRACE: Seconds = 1.0  # a port that says nothing this long after the time-out has lost the query
ROUND_MAX: Seconds = 15.0  # whatever chains and servers there are
TOGETHER: Seconds = 0.05  # the first address waits this long for the other type's (RFC 8305 section 3)
SERVERLESS: Seconds = 5.0  # without a server this long is worth saying: at the start nobody has looked yet

# Which status stands for a name none of whose questions found an address: the one that most asks for action.
_WORST_FIRST = (Status.LIE, Status.REFUSED, Status.SILENT, Status.MISSING, Status.EMPTY)
# Which answer stands for a question that several servers answered: the one that says most.
_WEIGHT = {Status.EMPTY: 5, Status.MISSING: 4, Status.LIE: 3, Status.REFUSED: 2, Status.SILENT: 1}

_FINDING = {
    Status.MISSING: Why.NAME_MISSING,
    Status.EMPTY: Why.NAME_EMPTY,
    Status.REFUSED: Why.NAME_REFUSED,
    Status.SILENT: Why.NAME_SILENT,
    Status.LIE: Why.NAME_LIE,
}


class Draft:
    """A Memory being changed."""

    def __init__(self, memory: Memory, context: Context) -> None:
        self.old = memory
        self.now = context.now
        self.seed = context.seed
        self.dns = context.settings.dns
        self.hedge = min(HEDGE, self.dns.timeout / 3)
        self.entries = dict(memory.entries)
        self.due = list(memory.due)
        self.active = list(memory.active)
        self.flights = dict(memory.flights)
        self.servers = Servers(memory.servers, dict(memory.health), self.now)
        self.serverless = memory.serverless
        self.next_id = memory.next_id
        self.effects: list[Ask] = []
        self.findings: list[Finding] = []

    def memory(self) -> Memory:
        return replace(
            self.old,
            entries=self.entries,
            due=tuple(self.due),
            active=tuple(self.active),
            flights=self.flights,
            health=self.servers.health,
            servers=self.servers.known,
            serverless=self.serverless,
            next_id=self.next_id,
            wake=self._wake(),
        )

    # ------------------------------------------------------------ what a step is made of

    def meet(self, servers: tuple[Nameserver, ...]) -> None:
        """The servers there are now. A new one is a reason to ask at once for what is not resolved."""
        if self.servers.meet(servers):
            for key, entry in self.entries.items():
                if entry.tasks:
                    tasks = (replace(task, next_ask=min(task.next_ask, self.now)) for task in entry.tasks)
                    self.entries[key] = replace(entry, tasks=tuple(tasks))
                elif entry.name.status is not Status.FRESH and entry.name.next_at < NEVER:
                    self.schedule(key, min(entry.name.next_at, max(self.now, entry.name.asked + AGAIN)))
        if servers:
            self.serverless = NEVER
        elif self.due and self.due[0][0] <= self.now:
            self.serverless = min(self.serverless, self.now)
            self._no_server()

    def hear(self, event: Answered | Unanswered) -> None:
        """A query ended. Late answers of questions already settled still speak for the server."""
        flight = self.flights.pop(event.id)
        if isinstance(event, Answered):
            self.servers.praise(flight, slow=not flight.tcp and self.now - flight.sent > self.hedge)
        elif not flight.tcp and (event.reason != "timeout" or self.servers.silent_since(flight)):
            self.servers.blame(flight.server)
        entry = self.entries.get(flight.key)
        for index, task in enumerate(entry.tasks if entry else ()):
            if event.id in task.out:
                task = replace(task, out=tuple(id_ for id_ in task.out if id_ != event.id))
                if isinstance(event, Answered):
                    self._answered(flight.key, index, task, flight, event)
                else:
                    self._unanswered(flight.key, index, task, flight, event.reason)
                return

    def advance(self) -> None:
        """All that time brings: lost queries, rounds that last too long, names that are due, next servers."""
        for id_ in [id_ for id_, flight in self.flights.items() if flight.deadline <= self.now]:
            self.hear(Unanswered(id_, "timeout"))
        for key in list(self.active):
            if self.entries[key].until <= self.now:
                self._conclude(key)
            elif self.entries[key].publish_at <= self.now:
                self.entries[key] = self._published(self.entries[key])
        self._begin_due()
        self._ask_due()

    def schedule(self, key: str, at: Instant) -> None:
        """The next look-up of an entry that is not active."""
        self.unschedule(key)
        insort(self.due, (at, key))
        entry = self.entries[key]
        self.entries[key] = replace(entry, name=replace(entry.name, next_at=at, asking=False))

    def unschedule(self, key: str) -> None:
        place = (self.entries[key].name.next_at, key)
        index = bisect_left(self.due, place)
        if index < len(self.due) and self.due[index] == place:
            del self.due[index]

    # ------------------------------------------------------------ time

    def _wake(self) -> Instant:
        wake = min((flight.deadline for flight in self.flights.values()), default=NEVER)
        for key in self.active:
            entry = self.entries[key]
            # What is overdue waits for a free place: the end of a flight brings it.
            later = [task.next_ask for task in entry.tasks if not task.done and task.next_ask > self.now]
            wake = min(wake, entry.until, entry.publish_at, *later)
        ahead = bisect_left(self.due, (nextafter(self.now, NEVER), ""))
        if ahead < len(self.due):
            wake = min(wake, self.due[ahead][0])
        if self.serverless + SERVERLESS > self.now:
            wake = min(wake, self.serverless + SERVERLESS)
        return wake

    def _begin_due(self) -> None:
        """Begin a round for the names that are due, while there is room and somebody to ask."""
        if not self.servers.known:
            return
        room = TASKS_MAX - sum(not task.done for key in self.active for task in self.entries[key].tasks)
        while room > 0 and self.due and self.due[0][0] <= self.now:
            key = self.due.pop(0)[1]
            entry = self.entries[key]
            wanted = entry.wanted
            tasks = self._tasks((wanted.host,), (SRV,) if wanted.srv else wanted.types)
            self.entries[key] = replace(
                entry,
                name=replace(entry.name, asking=True, asked=self.now, next_at=NEVER),
                tasks=tasks,
                coming=None if wanted.srv else (),
                said_before=entry.said,
                spoke=Status.PENDING,
                until=self.now + ROUND_MAX,
                hasten=False,
            )
            self.active.append(key)
            room -= len(tasks)

    def _tasks(self, targets: tuple[str, ...], types: tuple[str, ...]) -> tuple[Task, ...]:
        return tuple(
            Task(target, type_, SRV_PREFIX + target if type_ == SRV else target, self.now)
            for target in dict.fromkeys(targets)
            for type_ in types
        )

    def _ask_due(self) -> None:
        """Ask the next server for each question that waits for one, oldest name first."""
        for key in list(self.active):
            for index in range(len(self.entries[key].tasks)):
                task = self.entries[key].tasks[index] if self.entries[key].tasks else None
                if task is not None and not task.done and task.next_ask <= self.now:
                    if len(self.flights) >= FLIGHTS_MAX:
                        return
                    self._ask_next(key, index, task)

    # ------------------------------------------------------------ asking

    def _ask_next(self, key: str, index: int, task: Task) -> None:
        for flight in (self.flights[id_] for id_ in task.out):
            if self.now >= flight.sent + self.hedge and self.servers.silent_since(flight):
                self.servers.blame(flight.server)
        server = self._next_server(task)
        if server is None:
            self._put(key, index, replace(task, next_ask=NEVER, done=not task.out))
            return
        first = not task.asked
        task = self._send(key, task, server)
        if first and (dead := self.servers.parole(server, self.dns.timeout)):
            task = self._send(key, task, dead)
        self._put(key, index, replace(task, next_ask=self.now + self.hedge))

    def _next_server(self, task: Task) -> Nameserver | None:
        """The best that was not asked; then those whose query or answer may have been lost, once more."""
        if len(task.asked) >= ASKS_MAX:
            return None
        ranked = self.servers.ranked()
        negative = task.refusals > 0  # a second opinion is worth no waiting for the dead
        for server in ranked:
            if server not in task.asked and not (negative and self.servers.is_dead(server)):
                return server
        for server in ranked:
            if not negative and server not in task.spent and task.asked.count(server) == 1:
                return server
        return None

    def _send(self, key: str, task: Task, server: Nameserver, tcp: bool = False) -> Task:
        id_ = self.next_id
        self.next_id += 1
        self.effects.append(Ask(id_, task.name, task.type, server, self.dns.timeout, tcp))
        self.flights[id_] = Flight(key, server, self.now, self.now + self.dns.timeout + GRACE, tcp)
        return replace(task, out=(*task.out, id_), asked=task.asked if tcp else (*task.asked, server))

    # ------------------------------------------------------------ answers

    def _unanswered(self, key: str, index: int, task: Task, flight: Flight, reason: str) -> None:
        server = label(flight.server)
        tried = tuple(dict.fromkeys((*task.tried, f"{server} ({reason})")))
        spent = task.spent if reason == "timeout" else (*task.spent, flight.server)
        verdict = Verdict(Status.SILENT, server, reason, at=self.now)
        self._heard(key, index, replace(task, tried=tried, spent=spent), verdict)

    def _answered(self, key: str, index: int, task: Task, flight: Flight, event: Answered) -> None:
        if event.truncated and not flight.tcp:
            self._put(key, index, self._send(key, task, flight.server, tcp=True))
            return
        task = replace(task, spent=(*task.spent, flight.server))
        reading = answers.read(event.records, task.name, task.type, task.passed)
        server, soa = label(flight.server), float(event.negative_ttl)
        if event.rcode not in ("NOERROR", "NXDOMAIN"):
            self._heard(key, index, task, Verdict(Status.REFUSED, server, event.rcode, at=self.now))
        elif reading.fault:
            self._heard(key, index, task, Verdict(Status.REFUSED, server, reading.fault, at=self.now))
        elif event.rcode == "NXDOMAIN":
            self._heard(key, index, task, Verdict(Status.MISSING, server, "NXDOMAIN", "", soa, self.now))
        elif reading.data:
            found = self._services_found if task.type == SRV else self._addresses_found
            verdict = Verdict(Status.FRESH, server, ttl=min(task.ttl, reading.ttl), at=self.now)
            found(key, index, task, reading.data, verdict)
        elif reading.end != task.name and not soa:
            # It knows the alias's zone alone: the target is elsewhere. A SOA would mean "no such record".
            ttl = min(task.ttl, reading.ttl)
            onward = Task(task.target, task.type, reading.end, self.now, reading.passed, ttl)
            self._put(key, index, replace(onward, tried=task.tried))
        else:
            verdict = Verdict(Status.EMPTY, server, "no such record", "", soa, self.now)
            self._heard(key, index, task, verdict)

    def _services_found(
        self, key: str, index: int, task: Task, data: tuple[str, ...], verdict: Verdict
    ) -> None:
        services = answers.services(data, self.seed, task.target)
        if services:
            self.entries[key] = replace(self.entries[key], coming=services)
            self._put(key, index, replace(task, verdict=verdict, done=True))
        else:
            no = replace(verdict, status=Status.EMPTY, error="no usable SRV record", ttl=0.0)
            self._heard(key, index, task, no)

    def _addresses_found(
        self, key: str, index: int, task: Task, data: tuple[str, ...], verdict: Verdict
    ) -> None:
        entry = self.entries[key]
        found = answers.sort_out(data, task.type, self.dns.allow, entry.good.get(task.key, ()))
        mark = (verdict.server, task.type)
        if found.refused:
            address, reason = found.refused[0]
            verdict = replace(verdict, error=address, detail=reason)
            if mark not in entry.lies:
                self._say(Why.NAME_LIE, entry, server=verdict.server, address=address, reason=reason)
                entry = replace(entry, lies=(*entry.lies, mark)[-16:], spoke=Status.LIE)
        else:
            entry = replace(entry, lies=tuple(lie for lie in entry.lies if lie != mark))
        if found.accepted:
            self.entries[key] = replace(
                entry,
                good={**entry.good, task.key: found.accepted},
                services=entry.services if entry.coming is None else entry.coming,
                publish_at=min(entry.publish_at, self.now + TOGETHER),
            )
            self._put(key, index, replace(task, verdict=verdict, done=True))
        else:
            self.entries[key] = entry
            self._heard(key, index, task, replace(verdict, status=Status.LIE))

    def _heard(self, key: str, index: int, task: Task, verdict: Verdict) -> None:
        """Not what was wanted: keep the answer that says most, ask the next server if that is worth it."""
        if _WEIGHT[verdict.status] >= _WEIGHT[task.verdict.status]:
            task = replace(task, verdict=verdict)
        if verdict.status in NEGATIVE:
            task = replace(task, refusals=task.refusals + 1)
        enough = task.refusals > 0 and not self._doubtful(key, task)
        if not enough and self._next_server(task) is not None:
            task = replace(task, next_ask=self.now)
        elif enough or not task.out:
            task = replace(task, done=True)
        self._put(key, index, task)

    def _doubtful(self, key: str, task: Task) -> bool:
        """Whether a negative answer needs another's word: if it takes something away or is all there is.

        That a name has no AAAA is what servers say of most names: no doubt while there is nothing to lose.
        """
        entry = self.entries[key]
        if task.type == SRV:
            return task.refusals < 2 and bool(entry.services)
        lost = task.verdict.status is Status.MISSING or not entry.good or task.key in entry.good
        return task.refusals < 2 and lost

    # ------------------------------------------------------------ the round

    def _put(self, key: str, index: int, task: Task) -> None:
        """Task `index` is this from now on; if it is done the round may go on or be over."""
        entry = self.entries[key]
        if task.done:
            task = replace(task, out=(), next_ask=NEVER)
        tasks = (*entry.tasks[:index], task, *entry.tasks[index + 1 :])
        if task.done and task.type == SRV:
            coming = entry.coming
            if coming is None:  # no SRV records: the host itself; no word of them: as before
                coming = () if task.verdict.status in NEGATIVE else entry.services
            targets = tuple(service.target for service in coming) or (entry.wanted.host,)
            tasks += self._tasks(targets, entry.wanted.types)
            entry = replace(entry, coming=coming)
        self.entries[key] = replace(entry, tasks=tasks)
        if all(task.done for task in tasks):
            self._conclude(key)

    def _conclude(self, key: str) -> None:
        """The round is over (or has lasted too long): what it means, and when to look up again."""
        entry = self.entries[key]
        leaves = [task for task in entry.tasks if task.type != SRV] or list(entry.tasks)
        good = [task for task in entry.tasks if task.verdict.status is Status.FRESH]
        failed = [task for task in entry.tasks if task.verdict.status not in (Status.FRESH, *NEGATIVE)]
        found = any(task.type != SRV for task in good)
        entry = replace(entry, failures=entry.failures + 1 if failed or not found else 0)
        jitter = unit(self.seed, entry.wanted.host, entry.name.asked)
        pause = name_times.after_failures(self.dns, entry.failures, jitter)
        if found:
            entry = self._published(self._pruned(entry, leaves))
            if entry.told not in (Status.FRESH, Status.PENDING) and entry.spoke is not Status.FRESH:
                entry = self._told_resolved(entry)
            first = name_times.ends_first(self.dns, [task.verdict for task in good])
            at = name_times.after_ttl(self.dns, first, jitter, self.now)
            at = min(at, self.now + pause) if failed else at
        else:
            worst = min(leaves, key=lambda task: _WORST_FIRST.index(task.verdict.status))
            entry = self._told_failed(entry, worst)
            soa = [task.verdict.ttl for task in leaves if task.verdict.ttl]
            at = self.now + (name_times.after_negative(self.dns, min(soa)) if soa and not failed else pause)
        if entry.hasten and (failed or not found):
            entry = replace(entry, failures=0)
            at = self.now + AGAIN
        name = replace(entry.name, ended=entry.name.asked, next_at=at, asking=False)
        self.entries[key] = replace(entry, name=name, tasks=())
        self.active.remove(key)
        insort(self.due, (at, key))

    def _pruned(self, entry: Entry, leaves: list[Task]) -> Entry:
        """Without targets no longer named, and types that the name has no more (they are `former`)."""
        gone = {task.key for task in leaves if task.verdict.status in NEGATIVE}
        kept = {task.key for task in leaves} - gone
        lost = tuple(sorted(address for key in gone for address in entry.good.get(key, ())))
        good = {key: addresses for key, addresses in entry.good.items() if key in kept}
        present = {address for addresses in good.values() for address in addresses}
        former = tuple(address for address in entry.name.former if address not in present)
        return replace(entry, good=good, name=replace(entry.name, former=lost or former))

    # ------------------------------------------------------------ what to say

    def _published(self, entry: Entry) -> Entry:
        """The entry with the name that its good answers make; said if it is another set of endpoints."""
        good = [
            task.verdict for task in entry.tasks if task.type != SRV and task.verdict.status is Status.FRESH
        ]
        first = name_times.ends_first(self.dns, good)
        name = replace(
            view(entry),
            status=Status.FRESH,
            ttl=first.ttl,
            answered=first.at,
            expires=first.at + name_times.clamped(self.dns, first.ttl),
            server=first.server,
            error="",
        )
        entry = replace(entry, publish_at=NEVER)
        shown = tuple(map(str, name.endpoints)) or name.addresses
        if set(shown) == set(entry.said):
            return replace(entry, name=name)
        return self._told_resolved(replace(entry, name=replace(name, since=self.now), said=shown))

    def _told_resolved(self, entry: Entry) -> Entry:
        name, old, new = entry.name, entry.said_before, entry.said
        moved = bool(old) and set(old) != set(new)
        self._say(
            Why.NAME_MOVED if moved else Why.NAME_RESOLVED,
            entry,
            old=", ".join(old),
            addresses=", ".join(new),
            ttl=int(name.ttl),
            server=name.server,
        )
        return replace(entry, told=Status.FRESH, spoke=Status.FRESH)

    def _told_failed(self, entry: Entry, worst: Task) -> Entry:
        """A look-up that found nothing: status and error change, the addresses never."""
        verdict = worst.verdict
        tried = ", ".join(worst.tried) or "no answer in time"
        error = f"{verdict.error}, says {verdict.server}"
        if verdict.status is Status.SILENT:
            error = f"no DNS server answers: {tried}"
        elif verdict.status is Status.LIE:
            error = f"{verdict.server} gives {verdict.error}, which is not accepted: {verdict.detail}"
        if verdict.status not in (entry.told, entry.spoke):
            self._say(
                _FINDING[verdict.status],
                entry,
                server=verdict.server,
                rcode=verdict.error,
                tried=tried,
                address=verdict.error,
                reason=verdict.detail,
            )
        name = replace(entry.name, status=verdict.status, error=error)
        return replace(entry, name=name, told=verdict.status)

    def _no_server(self) -> None:
        """Nobody to ask. One finding for all names, when it has lasted."""
        waiting = [key for at, key in self.due if at <= self.now]
        waiting = [key for key in waiting if self.entries[key].name.error != _NO_SERVER]
        if not waiting or self.now < self.serverless + SERVERLESS:
            return
        for key in waiting:
            entry = self.entries[key]
            name = replace(entry.name, status=Status.SILENT, error=_NO_SERVER)
            self.entries[key] = replace(entry, name=name, told=Status.SILENT)
        hosts = list(dict.fromkeys(self.entries[key].wanted.host for key in waiting))
        more = f" and {len(hosts) - 1} more" if len(hosts) > 1 else ""
        self.findings.append(Finding(Why.NAME_NO_SERVER, hosts[0], {"name": hosts[0] + more}))

    def _say(self, why: Why, entry: Entry, **arguments: str | int | float) -> None:
        """A finding with those of the arguments that its sentence needs."""
        host = entry.wanted.host
        needed = {word: value for word, value in arguments.items() if f"{{{word}}}" in why.template}
        self.findings.append(Finding(why, host, {"name": host, **needed}))


_NO_SERVER = "no DNS server is known"
