"""What a DNS answer says to a question, and whether it may be believed.

Decides which records belong to the question (RFC 4343 case, the CNAME chain from the name asked and nothing
beside it), which addresses are acceptable as a peer's, and in which order SRV targets stand. Knows nothing of
servers, retries or time. Names here are canonical: small letters, no dot at the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from wgrouter.core.jitter import unit
from wgrouter.core.messages import Record
from wgrouter.core.model import Seconds
from wgrouter.core.records import dataclass

CHAIN_MAX = 8  # CNAMEs from the name asked to its address; resolvers allow 8 to 16
ADDRESSES_MAX = 16  # of one name and type that are kept
SERVICES_MAX = 8  # SRV targets that are followed

_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")
_UPPER = {ord(letter): letter.lower() for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052
_COMPATIBLE = IPv6Network("::/96")  # RFC 4291 2.5.5.1, deprecated; holds :: and ::1 too


class BadName(ValueError):
    """Text that is no host name; says what was wrong and what is accepted."""


def canonical(name: str) -> str:
    """The one spelling by which names are compared: ASCII letters small (RFC 4343), no dot at the end."""
    return name.translate(_UPPER).removesuffix(".")


@lru_cache(maxsize=1024)
def checked(host: str) -> str:
    """The canonical form of a host name (RFC 1123, and "_", which DDNS names have). BadName if it is none."""
    name = canonical(host)
    if not name.isascii():
        raise BadName(f"{host!r}: not ASCII: write the name in its xn-- form")
    if not 0 < len(name) <= 253:
        raise BadName(f"{host[:40]!r}: {len(name)} characters; a host name has 1 to 253")
    for label in name.split("."):
        if not 0 < len(label) <= 63:
            raise BadName(f"{host[:80]!r}: a part of {len(label)} characters; each part has 1 to 63")
        if not _LETTERS.issuperset(label) or label[0] == "-" or label[-1] == "-":
            accepted = "letters, digits, '_' and, not at an end, '-' are accepted"
            raise BadName(f"{host[:80]!r}: part {label!r}: {accepted}")
    if label.isdigit():
        raise BadName(f"{host[:80]!r}: ends in a number, and is no address")
    return name


def is_literal(host: str) -> bool:
    """Whether it is an address and needs no look-up."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


# ---------------------------------------------------------------- records


@dataclass(frozen=True, slots=True)
class Reading:
    """The part of an answer that belongs to the question."""

    data: tuple[str, ...] = ()  # of the records of the type asked
    ttl: Seconds = math.inf  # the smallest on the way
    end: str = ""  # the name the CNAME chain leads to; the name asked if there is none
    passed: tuple[str, ...] = ()  # names on the way, the end not among them
    fault: str = ""  # why the chain cannot be followed


def read(records: Iterable[Record], name: str, kind: str, passed: tuple[str, ...] = ()) -> Reading:
    """Follow `name` through the CNAMEs of one answer to its records of type `kind`.

    `passed` are the names an earlier answer led through. RFC 1034 3.6.2, 4.3.2; records stand in any order.
    """
    aliases: dict[str, Record] = {}
    wanted: dict[str, list[Record]] = {}
    for record in records:
        owner = canonical(record.name)
        if record.type == kind:
            wanted.setdefault(owner, []).append(record)
        elif record.type == "CNAME":
            aliases.setdefault(owner, record)
    ttl: Seconds = math.inf
    while name not in wanted:
        alias = aliases.get(name)
        if alias is None:
            return Reading((), ttl, name, passed)
        passed = (*passed, name)
        ttl = min(ttl, _ttl(alias))
        name = canonical(alias.data)
        if name in passed:
            return Reading((), ttl, name, passed, f"CNAME loop at {name}")
        if len(passed) > CHAIN_MAX:
            return Reading((), ttl, name, passed, f"more than {CHAIN_MAX} CNAMEs")
    found = wanted[name]
    data = tuple(dict.fromkeys(record.data for record in found))
    return Reading(data, min(ttl, *map(_ttl, found)), name, passed)


def _ttl(record: Record) -> Seconds:
    """RFC 2181 8: a TTL with the top bit set is 0."""
    return float(record.ttl) if 0 <= record.ttl < 2**31 else 0.0


# ---------------------------------------------------------------- addresses


@dataclass(frozen=True, slots=True)
class Sorted:
    """Addresses of an answer, in canonical text: those accepted, and (address, reason) of the others."""

    accepted: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()


def sort_out(data: Iterable[str], kind: str, allow: tuple[str, ...], before: tuple[str, ...] = ()) -> Sorted:
    """Which addresses of an A or AAAA answer may be a peer's.

    Those known `before` keep their place, new ones follow as the server gave them: a server that rotates its
    answers (RFC 1794) changes nothing.
    """
    accepted: list[str] = []
    refused: list[tuple[str, str]] = []
    for text in data:
        try:
            address = ip_address(text)
        except ValueError:
            refused.append((text[:60], "no address"))
            continue
        reason = refusal(address, allow)
        if (address.version == 4) != (kind == "A"):
            reason = f"no {kind} record's"
        if reason:
            refused.append((str(address), reason))
        elif str(address) not in accepted:
            accepted.append(str(address))
    ordered = [text for text in before if text in accepted]
    ordered += [text for text in accepted if text not in ordered]
    return Sorted(tuple(ordered[:ADDRESSES_MAX]), tuple(refused))


def refusal(address: IPv4Address | IPv6Address, allow: tuple[str, ...]) -> str:
    """Why an address can never be that of a peer elsewhere; "" if it can."""
    if address.is_unspecified:
        return "unspecified"
    if address.is_loopback:
        return "loopback"
    if address.is_multicast:
        return "multicast"
    if address.is_link_local:
        return "link-local"
    if isinstance(address, IPv4Address):
        if address.packed[0] == 0:
            return "this network (0.0.0.0/8)"
        if address.packed[0] >= 240:
            return "broadcast" if address.packed == b"\xff\xff\xff\xff" else "reserved (240.0.0.0/4)"
    else:
        if address.ipv4_mapped is not None:
            return "an IPv4 address in IPv6 clothes"  # no route leads there; it may hide any of the above
        if address in _COMPATIBLE:
            return "IPv4-compatible (::/96)"
        inner = address.sixtofour or (IPv4Address(address.packed[12:]) if address in _NAT64 else None)
        if inner is not None and (reason := refusal(inner, ())):
            return f"leads to {inner}: {reason}"
    if allow and not any(address in network for network in _networks(allow)):
        return "outside the prefixes allowed"
    return ""


@lru_cache(maxsize=4)
def _networks(prefixes: tuple[str, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
    """Prefixes that are none are config's to report: here they allow nothing."""
    networks = []
    for prefix in prefixes:
        try:
            networks.append(ip_network(prefix, strict=False))
        except ValueError:
            continue
    return tuple(networks)


# ---------------------------------------------------------------- services


@dataclass(frozen=True, slots=True)
class Service:
    """One SRV record (RFC 2782)."""

    priority: int
    weight: int
    port: int
    target: str


def services(data: Iterable[str], seed: str, host: str) -> tuple[Service, ...]:
    """SRV records in the order to try them, without unreadable ones and the target "." (no such service).

    Within a priority the order is drawn by weight, as RFC 2782 wants it, but by `seed` instead of chance: one
    router always draws the same, and many routers spread as the weights say.
    """
    found: list[Service] = []
    for text in data:
        try:
            priority, weight, port, target = text.split()
            service = Service(int(priority), int(weight), int(port), checked(target))
        except ValueError:
            continue
        if 0 < service.port < 65536 and service not in found:
            found.append(service)

    def draw(service: Service) -> tuple[int, float, str, int]:
        # Exponential races: the smallest of -ln(u)/weight is an entry drawn by weight, the next one the next.
        # A weight of 0 has "a very small chance" (RFC 2782).
        chance = 1.0 - unit(seed, host, service.target, service.port)
        return (service.priority, -math.log(chance) / max(service.weight, 0.01), service.target, service.port)

    return tuple(sorted(found, key=draw)[:SERVICES_MAX])
