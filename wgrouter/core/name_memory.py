"""What is known of host names and DNS servers: the values that names.py keeps and name_rounds.py works on.

Decides nothing. Everything is frozen and goes through core/codec (CLASSES).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from itertools import chain

from wgrouter.core.answers import Service
from wgrouter.core.model import LONG_AGO, NEVER, Endpoint, Instant, Nameserver, Seconds
from wgrouter.core.records import dataclass, field, replace
from wgrouter.core.settings import Dns

SRV = "SRV"
SRV_PREFIX = "_wireguard._udp."


@dataclass(frozen=True, slots=True, order=True)
class WantedName:
    """A name to keep resolved, by these types; with `srv`, SRV records may give host and port."""

    host: str
    types: tuple[str, ...] = ("A",)  # of A and AAAA
    srv: bool = False


Wanted = WantedName  # the journal tells values apart by the name of their class


class Status(Enum):
    """How the last look-up of a name ended. Whatever it was: the last good addresses stay."""

    PENDING = "pending"  # none has ended yet
    FRESH = "fresh"  # addresses, within their TTL
    STALE = "stale"  # addresses whose TTL is over while nobody answered anew (only look_up with `now` tells)
    MISSING = "missing"  # NXDOMAIN
    EMPTY = "empty"  # the name exists, without an address of the types wanted
    REFUSED = "refused"  # SERVFAIL, REFUSED or another error of the server, or a chain that leads nowhere
    SILENT = "silent"  # no server answered, or none is known
    LIE = "lie"  # only addresses that cannot be a peer's


NEGATIVE = (Status.MISSING, Status.EMPTY)


@dataclass(frozen=True, slots=True)
class Name:
    """What others may know of a name. The same object until something about it changes."""

    host: str
    status: Status = Status.PENDING
    addresses: tuple[str, ...] = ()  # of the last good answers, by type as wanted; never emptied by a failure
    endpoints: tuple[Endpoint, ...] = ()  # with SRV records: in the order to try
    former: tuple[str, ...] = ()  # of a type the name has no more while it has the other: a last resort
    ttl: Seconds = 0.0  # of the last good answer, before floor and ceiling
    since: Instant = LONG_AGO  # this set of addresses (and ports) is in force since then
    answered: Instant = LONG_AGO  # last good answer
    expires: Instant = LONG_AGO  # `answered` + TTL with floor and ceiling
    server: str = ""  # who gave it
    error: str = ""  # of the last look-up, for people; "" for none
    asking: bool = False  # a look-up is under way
    asked: Instant = LONG_AGO  # when the newest look-up began …
    ended: Instant = LONG_AGO  # … and when the last one *that has ended* began
    next_at: Instant = NEVER  # of the next look-up; NEVER while asking

    def at(self, port: int) -> tuple[Endpoint, ...]:
        """Where the peer may be: what SRV says, else every address with this port."""
        return self.endpoints or tuple(Endpoint(address, port) for address in self.addresses)

    def settled(self, since: Instant) -> bool:
        """Whether a look-up that began at `since` or later has ended."""
        return self.ended >= since


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the question of one task was answered, by the best answer so far."""

    status: Status = Status.SILENT
    server: str = ""
    error: str = ""  # rcode or other reason; the address for LIE
    detail: str = ""  # the reason for LIE
    ttl: Seconds = 0.0  # of the data; for a negative answer what its SOA says, 0 for nothing
    at: Instant = LONG_AGO


@dataclass(frozen=True, slots=True)
class Task:
    """One question of a round: the addresses of one type of one host, or the SRV records."""

    target: str  # whose addresses these are to be
    type: str
    name: str  # what is asked: the end of the CNAME chain so far
    next_ask: Instant  # when to ask the next server; NEVER: all have been
    passed: tuple[str, ...] = ()  # names of the chain
    ttl: Seconds = NEVER  # the smallest of the chain
    asked: tuple[Nameserver, ...] = ()
    spent: tuple[Nameserver, ...] = ()  # said something, so that asking them again is no use
    out: tuple[int, ...] = ()  # queries whose answer would be taken
    refusals: int = 0  # negative answers heard
    tried: tuple[str, ...] = ()  # "server (reason)" of those that were silent
    verdict: Verdict = Verdict()
    done: bool = False

    @property
    def key(self) -> str:
        return f"{self.target} {self.type}"


@dataclass(frozen=True, slots=True)
class Entry:
    """A name under our care: what others see, and the round of look-ups if one is under way."""

    wanted: Wanted
    name: Name
    good: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # last good addresses by Task.key
    services: tuple[Service, ...] = ()  # last good SRV records, in order
    failures: int = 0  # rounds with a failure, in a row
    told: Status = Status.PENDING  # the last finding's
    said: tuple[str, ...] = ()  # addresses or endpoints of the last finding
    lies: tuple[tuple[str, str], ...] = ()  # (server, type) that lies, and that was said
    # the round
    tasks: tuple[Task, ...] = ()
    coming: tuple[Service, ...] | None = None  # SRV records of this round, in force with their first address
    said_before: tuple[str, ...] = ()
    spoke: Status = Status.PENDING  # the last finding of this round
    publish_at: Instant = NEVER  # of addresses found; a moment later than found, for the other type's
    until: Instant = NEVER
    hasten: bool = False  # the network changed meanwhile: a failure means nothing


@dataclass(frozen=True, slots=True)
class Flight:
    """A query under way."""

    key: str  # of the entry
    server: Nameserver
    sent: Instant
    deadline: Instant  # after which the port has lost it
    tcp: bool = False


@dataclass(frozen=True, slots=True)
class Health:
    """What we remember of a server. With failures it is asked last; after `until` one query tries it."""

    answered: Instant = LONG_AGO
    failures: int = 0
    until: Instant = LONG_AGO


@dataclass(frozen=True, slots=True)
class NameMemory:
    """All names, by key_of; `due` is sorted and holds every entry that is not active."""

    entries: Mapping[str, Entry] = field(default_factory=dict)
    due: tuple[tuple[Instant, str], ...] = ()
    active: tuple[str, ...] = ()  # entries with a round under way, oldest first
    flights: Mapping[int, Flight] = field(default_factory=dict)
    health: Mapping[Nameserver, Health] = field(default_factory=dict)
    servers: tuple[Nameserver, ...] = ()  # as last seen
    dns: Dns = field(default_factory=Dns)  # settings that the names were looked up by
    next_id: int = 1
    wake: Instant = LONG_AGO
    changed: Instant = LONG_AGO  # the network, last time
    serverless: Instant = NEVER  # since when nobody can be asked though a name is due


Memory = NameMemory  # the journal tells values apart by the name of their class


# What core/codec must know to read a Memory back.
CLASSES: tuple[type, ...] = (
    *(Memory, Entry, Name, Task, Verdict, Wanted, Status, Flight, Health),
    *(Service, Nameserver, Endpoint, Dns),
)


def key_of(host: str, srv: bool) -> str:
    """Plain and SRV look-ups of one host are two entries. A blank is in no host name."""
    return f"{host} srv" if srv else host


def label(server: Nameserver) -> str:
    """A server for people: "192.0.2.1", "192.0.2.1#5353 on wan0"."""
    port = f"#{server.port}" if server.port != 53 else ""
    device = f" on {server.device}" if server.device else ""
    return f"{server.address}{port}{device}"


def view(entry: Entry) -> Name:
    """The name with the addresses and endpoints that the last good answers make."""
    types = entry.wanted.types
    if not entry.services:
        found = (entry.good.get(f"{entry.wanted.host} {type_}", ()) for type_ in types)
        return replace(entry.name, addresses=_once(found), endpoints=())
    endpoints = tuple(
        dict.fromkeys(
            Endpoint(address, service.port)
            for service in entry.services
            for type_ in types
            for address in entry.good.get(f"{service.target} {type_}", ())
        )
    )
    addresses = _once([[endpoint.address for endpoint in endpoints]])
    return replace(entry.name, addresses=addresses, endpoints=endpoints)


def _once(groups: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(chain.from_iterable(groups)))
