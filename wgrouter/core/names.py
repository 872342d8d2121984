"""Host names → addresses: a DNS resolver without I/O. Decides whom to ask what and when, and what to believe.

The last good addresses of a name are kept for ever: no failure and no negative answer takes them away. Names
are due by their TTL and asked for side by side. The rules of one look-up are in name_rounds.py, those of one
answer in answers.py. Knows no sockets, no tunnels, and not what the addresses are for.

`configure`, `network_changed` and `hurry` only note what is due: the `step` after them, in the same handling,
asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from wgrouter.core.answers import BadName, checked, is_literal, sort_out
from wgrouter.core.machine import Context, Turn
from wgrouter.core.messages import Answered, Event, Unanswered
from wgrouter.core.model import LONG_AGO, NEVER, Instant, Nameserver, Seconds
from wgrouter.core.name_memory import CLASSES, Entry, Memory, Name, Status, Wanted, key_of, view
from wgrouter.core.name_rounds import Draft
from wgrouter.core.name_times import AGAIN
from wgrouter.core.records import replace

__all__ = [
    "CLASSES",
    "Memory",
    "Name",
    "Status",
    "Wanted",
    "configure",
    "hurry",
    "look_up",
    "network_changed",
    "step",
    "wake_at",
]

HURRY_APART: Seconds = 2.0  # between look-ups of one name that somebody asks for
MOMENT: Seconds = 0.001  # what is due now is due a moment later, so that wake_at lies ahead


def configure(memory: Memory, wanted: Iterable[Wanted], context: Context) -> Memory:
    """Keep exactly these names resolved; what is known of those that stay is kept.

    Literals need no care and are left out; a host that is no name (config/ reports it) stands as MISSING and
    is never asked for. Other DNS settings are a reason to look everything up anew; a narrower `allow` takes
    addresses away.
    """
    dns = context.settings.dns
    changed = dns != memory.dns
    draft = Draft(memory, context)
    merged = _merged(wanted)
    for key in set(draft.entries).difference(merged):
        draft.unschedule(key)
        del draft.entries[key]
    draft.active = [key for key in draft.active if key in draft.entries]
    for key, want in merged.items():
        entry = draft.entries.get(key)
        if entry is None:
            draft.entries[key] = Entry(want, Name(want.host))
            try:
                checked(want.host)
            except BadName as error:
                name = Name(want.host, Status.MISSING, error=str(error))
                draft.entries[key] = Entry(want, name, told=Status.MISSING)
            else:
                draft.schedule(key, context.now)
        elif changed or want != entry.wanted:
            # A round under way asks for the old types: it ends here.
            draft.active = [other for other in draft.active if other != key]
            idle = replace(entry, wanted=want, tasks=(), publish_at=NEVER)
            draft.entries[key] = _filtered(idle, dns.allow)
            if entry.name.next_at < NEVER or entry.tasks:
                draft.schedule(key, max(context.now, entry.name.asked + AGAIN))
    return replace(draft.memory(), dns=dns, wake=LONG_AGO)


def _merged(wanted: Iterable[Wanted]) -> dict[str, Wanted]:
    """By key; the types of equal hosts united, A before AAAA."""
    merged: dict[str, Wanted] = {}
    for want in sorted(wanted):
        if is_literal(want.host):
            continue
        host = _canonical(want.host)
        key = key_of(host, want.srv)
        types = {*want.types, *(merged[key].types if key in merged else ())}
        merged[key] = Wanted(host, tuple(sorted(types)), want.srv)
    return merged


def _canonical(host: str) -> str:
    try:
        return checked(host)
    except BadName:
        return host


def _filtered(entry: Entry, allow: tuple[str, ...]) -> Entry:
    """Without addresses that would not be accepted today, and of types no longer wanted."""
    good = {}
    for key, addresses in entry.good.items():
        kind = key.rpartition(" ")[2]
        if kind in entry.wanted.types and (accepted := sort_out(addresses, kind, allow, addresses).accepted):
            good[key] = accepted
    entry = replace(entry, good=good)
    return replace(entry, name=replace(view(entry), former=()))


def step(memory: Memory, event: Event, context: Context, servers: tuple[Nameserver, ...]) -> Turn[Memory]:
    """Mind an event: begin what is due, ask the next server, take answers. Almost free if nothing is due."""
    servers = tuple(dict.fromkeys(servers))
    mine = event if isinstance(event, (Answered, Unanswered)) and event.id in memory.flights else None
    if mine is None and context.now < memory.wake and servers == memory.servers:
        return Turn(memory)
    draft = Draft(memory, context)
    draft.meet(servers)
    if mine is not None:
        draft.hear(mine)
    draft.advance()
    return Turn(draft.memory(), tuple(draft.effects), tuple(draft.findings))


def wake_at(memory: Memory, context: Context) -> Instant:
    """When `step` has something to do though nothing happens: ahead of now; NEVER if there is nothing."""
    return max(memory.wake, context.now + MOMENT)


def look_up(memory: Memory, host: str, *, srv: bool = False, now: Instant | None = None) -> Name | None:
    """What is known of a name; None if it is not under care. With `now`, addresses past their TTL are STALE.

    A literal is its own address.
    """
    entry = memory.entries.get(key_of(_canonical(host), srv))
    if entry is None:
        return Name(host, Status.FRESH, (str(ip_address(host)),)) if is_literal(host) else None
    name = entry.name
    # A look-up begins up to 1 s after the TTL's end and takes a moment: that is not stale yet.
    if now is not None and name.status is Status.FRESH and now > name.expires + HURRY_APART:
        return replace(name, status=Status.STALE)
    return name


def news(before: Memory, after: Memory, wanted: Iterable[Wanted]) -> frozenset[str]:
    """The hosts, as they are written in `wanted`, of which something else is known than before."""
    if before is after:
        return frozenset()
    old = before.entries
    changed = {
        key for key, entry in after.entries.items() if key not in old or old[key].name is not entry.name
    }
    if not changed:
        return frozenset()
    return frozenset(want.host for want in wanted if key_of(_canonical(want.host), want.srv) in changed)


def hurry(memory: Memory, host: str, now: Instant) -> Memory:
    """Look a name up again as soon as is decent: while it resolves once in ttl_min, else once in 2 s."""
    for srv in (False, True):
        key = key_of(_canonical(host), srv)
        entry = memory.entries.get(key)
        if entry is not None:
            apart = HURRY_APART
            if entry.name.status is Status.FRESH:
                apart = max(apart, memory.dns.ttl_min)
            memory = _sooner(memory, ((key, max(now, entry.name.asked + apart)),))
    return memory


def network_changed(memory: Memory, now: Instant) -> Memory:
    """Another network: forget what servers did, end back-offs, ask for unresolved names at once."""
    calm = now >= memory.changed + AGAIN  # a link that flaps must not become a storm of queries
    entries = {}
    for key, entry in memory.entries.items():
        tasks = entry.tasks
        if calm:
            tasks = tuple(replace(task, asked=(), spent=(), next_ask=now) for task in tasks)
        entries[key] = replace(entry, tasks=tasks, failures=0, hasten=True)
    changed = now if calm else memory.changed
    memory = replace(memory, entries=entries, health={}, changed=changed, wake=now)
    unresolved = [
        (key, max(now, entry.name.asked + AGAIN))
        for key, entry in memory.entries.items()
        if entry.name.status is not Status.FRESH
    ]
    return _sooner(memory, unresolved)


def _sooner(memory: Memory, times: Iterable[tuple[str, Instant]]) -> Memory:
    """Look these up at these times, unless that is later than planned or is being done."""
    times = [(key, at) for key, at in times if at < memory.entries[key].name.next_at < NEVER]
    if not times:
        return memory
    entries = dict(memory.entries)
    due = set(memory.due)
    for key, at in times:
        entry = entries[key]
        due.discard((entry.name.next_at, key))
        due.add((at, key))
        entries[key] = replace(entry, name=replace(entry.name, next_at=at))
    return replace(
        memory, entries=entries, due=tuple(sorted(due)), wake=min(memory.wake, *(at for _, at in times))
    )
