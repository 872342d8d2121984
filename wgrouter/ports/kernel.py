"""The kernel's links, addresses, routes and policy rules: one look at all of them, and single, exact changes.

Touches rtnetlink in the network namespace of the thread that made the Kernel. Must not know what is ours:
which table, preference, mark or protocol to use is told by whoever calls.

Reading is our own struct code (_rtnl.py) with a cache: a message that is byte for byte the one of the last
look gives the same object, so an unchanged router costs a dictionary look-up per route, and `snapshot` gives
the same Net. Changes are encoded by pyroute2's rtmsg and fibmsg. See _netlink.py for why not more of it.

Measured (x86-64, best of 30, pyroute2 0.7.9 / 0.9.7): a look at 7 links, 13 addresses, 41 routes and 11 rules
0.24 ms, the first one 1.0 ms (IPRoute: 6.3 / 8.8 ms); with 1,000 routes more 1.3 ms, the first one 11 ms
(IPRoute: 43 / 144 ms, routes alone); a look-up 0.08 / 0.19 ms.

What the kernel does with a request is not always what the words say; where it is not, the method says so.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Final, Generic, TypeVar

from wgrouter.core.model import IPV6, Address, Hop, Link, Net, Route, Rule
from wgrouter.ports._netlink import (
    LINK,
    LINKS,
    NETLINK_ROUTE,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    RTM_GETLINK,
    U32,
    Codec,
    Refused,
    Socket,
    attribute,
    attributes,
    codec,
    encoded,
    index_of,
    link_named,
    name_of,
)
from wgrouter.ports._rtnl import (
    ACTION_NUMBERS,
    ADDRESS,
    FAMILIES,
    IFLA_STATS64,
    IP6_RT_PRIO_USER,
    KIND_NUMBERS,
    ROUTE,
    RT_SCOPE_LINK,
    RT_SCOPE_NOWHERE,
    RT_SCOPE_UNIVERSE,
    RTA_TABLE,
    RTM_DELNEIGH,
    RTM_DELROUTE,
    RTM_DELRULE,
    RTM_GETADDR,
    RTM_GETNEIGH,
    RTM_GETROUTE,
    RTM_GETRULE,
    RTM_NEWROUTE,
    RTM_NEWRULE,
    RTNH_F_ONLINK,
    RULE,
    STATS64_RX_BYTES,
    WRITABLE,
    Names,
    describe_route,
    describe_rule,
    identity,
    neighbour,
    parse_address,
    parse_link,
    parse_route,
    parse_rule,
    unresolved,
)

rtmsg_module, fibmsg_module = codec("pyroute2.netlink.rtnl.rtmsg", "pyroute2.netlink.rtnl.fibmsg")

# What a look-up ends in without a way. A route of some kind says so (net/ipv4/fib_semantics.c, fib_props):
# EINVAL is blackhole, EACCES prohibit, EAGAIN throw.
NO_WAY: Final = (
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.EINVAL,
    errno.EACCES,
    errno.EAGAIN,
    errno.ESRCH,
)
T = TypeVar("T")
Attributes = list[list[object]]  # as pyroute2 takes them: [[name, value], …]


class _Stale(Exception):
    """A message names a device that was not there when the links were read."""


class _Believed(dict[int, str]):
    """The second look in a row that finds a nameless device: it is on its way out, or in."""

    def __missing__(self, index: int) -> str:
        return ""


def _parsed(parse: Callable[[bytes], T | None], message: bytes) -> T | None:
    """None for what is not in the form that kernels have had: the rest is worth more than an error."""
    try:
        return parse(message)
    except (ValueError, IndexError, struct.error):
        return None


class _Seen(Generic[T]):
    """The values of the last look by the bytes they came from: what did not change is not parsed again."""

    def __init__(self) -> None:
        self._by_bytes: dict[bytes, T | None] = {}
        self._by_value: dict[T, T] = {}
        self.values: tuple[T, ...] = ()

    def forget(self) -> None:
        self._by_bytes = {}

    def look(self, messages: Iterable[bytes], parse: Callable[[bytes], T | None]) -> tuple[T, ...]:
        old = self._by_bytes
        new: dict[bytes, T | None] = {}
        values = []
        for message in messages:
            try:
                value = old[message]
            except KeyError:
                value = _parsed(parse, message)
                # An IPv6 message counts down its lifetime: other bytes, the same value.
                value = value if value is None else self._by_value.setdefault(value, value)
            new[message] = value
            if value is not None:
                values.append(value)
        self._by_bytes = new
        if len(self._by_value) > 2 * len(values) + 64:
            self._by_value = {value: value for value in values}
        seen = tuple(values)
        if seen != self.values:
            self.values = seen
        return self.values


class Kernel:
    """Use from one thread. Every method is bounded in time, and raises OSError in the kernel's own words."""

    def __init__(self) -> None:
        self._sock = Socket(NETLINK_ROUTE, strict=True)
        self._names: dict[int, str] = {}
        self._links = _Seen[Link]()
        self._addresses = _Seen[Address]()
        self._routes = _Seen[Route]()
        self._rules = _Seen[Rule]()
        self._parts: tuple[object, ...] = (None,) * 4
        self._net = Net()

    @property
    def port_id(self) -> int:
        """What stands as the sender in the notifications of our own changes: see doorbell.py."""
        return self._sock.port_id

    def close(self) -> None:
        self._sock.close()

    # ---------------------------------------------------------------- looking

    def snapshot(self) -> Net:
        """Everything, in the kernel's order. The same object as last time if nothing changed.

        The parts are read one after another: a change between two of them shows in the next look. Left out:
        the local table, cloned (cached) routes, and families other than IPv4 and IPv6.
        """
        try:
            return self._look()
        except _Stale:
            return self._look(believe=True)

    def _look(self, *, believe: bool = False) -> Net:
        links = self._links.look(self._sock.dump(RTM_GETLINK, LINKS), parse_link)
        names = {link.index: link.name for link in links}
        if names != self._names or believe:
            self._addresses.forget()
            self._routes.forget()
            self._names = names
        known: Names = _Believed(names) if believe else names
        try:
            addresses = self._addresses.look(
                self._sock.dump(RTM_GETADDR, bytes(ADDRESS.size)),
                lambda message: parse_address(message, known),
            )
            routes = self._routes.look(
                self._both(RTM_GETROUTE, bytes(ROUTE.size)), lambda message: parse_route(message, known)
            )
        except KeyError as error:
            raise _Stale from error
        rules = self._rules.look(self._both(RTM_GETRULE, bytes(RULE.size)), parse_rule)
        parts = (links, addresses, routes, rules)
        if any(old is not new for old, new in zip(self._parts, parts, strict=True)):
            self._parts = parts
            self._net = Net({link.name: link for link in links}, addresses, routes, rules)
        return self._net

    def _both(self, kind: int, body: bytes) -> list[bytes]:
        return self._dump(kind, 4, body) + self._dump(kind, 6, body)

    def _dump(self, kind: int, version: int, body: bytes) -> list[bytes]:
        """Dump one family. A kernel without it (ipv6.disable=1) answers for all families, or refuses."""
        family = int(FAMILIES[version])
        try:
            messages = self._sock.dump(kind, bytes((family,)) + body[1:])
        except OSError as error:
            # ENOENT: the table asked for does not exist (yet)
            if error.errno in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.ENOENT):
                return []
            raise
        return [message for message in messages if message[:1] == bytes((family,))]

    def lookup(self, family: int, dst: str, mark: int = 0, source: str = "", iif: str = "") -> Hop | None:
        """The next hop of a packet to `dst` (`ip route get`); None if unreachable, blackholed or not routed.

        `iif`: as if the packet had come in there; this needs `source`. Of several hops the one for this flow.
        """
        if iif and not source:
            raise OSError(errno.EINVAL, f"the route of what comes in by {iif!r} depends on its source")
        bits = 32 if family == 4 else 128
        attrs: Attributes = [["RTA_DST", dst]]
        attrs += [["RTA_SRC", source]] if source else []
        attrs += [["RTA_IIF", index_of(self._sock, iif)]] if iif else []
        attrs += [["RTA_MARK", mark]] if mark else []
        message = _message(
            rtmsg_module.rtmsg,
            attrs,
            family=int(FAMILIES[family]),
            dst_len=bits,
            src_len=bits if source else 0,
            table=0,
            proto=0,
            scope=0,
            type=0,
            flags=0,
        )
        try:
            answer = self._sock.request(RTM_GETROUTE, encoded(message))
        except Refused as error:
            if error.errno in NO_WAY and not error.words:  # with words, it is the request that is wrong
                return None
            raise
        names = _Asked(self)
        route = _parsed(lambda message: parse_route(message, names, lookup=True), answer)
        return route.hops[0] if route is not None and route.hops else None

    def link_rx_bytes(self, name: str) -> int:
        """Bytes received by a device since it was made. ENODEV if there is none of that name.

        By netlink, not from /sys: /sys shows the namespace that it was mounted in, which need not be ours.
        """
        stats = attributes(link_named(self._sock, name), LINK.size).get(IFLA_STATS64, b"")
        if len(stats) < STATS64_RX_BYTES.size:
            raise OSError(errno.ENODATA, f"the kernel counts nothing on {name!r}")
        received: int = STATS64_RX_BYTES.unpack_from(stats)[0]
        return received

    # ---------------------------------------------------------------- changing routes

    def add_route(self, route: Route) -> None:
        """From now on this is the route of its table, destination, source prefix and metric. Atomic.

        No error if it is there already. IPv6 has no metric 0: the kernel takes 1024 for it and shows that; it
        replaces a route of several hops one hop after another: never without a hop, but not all at once.
        """
        try:
            self._sock.change(RTM_NEWROUTE, encoded(self._route(route)), NLM_F_CREATE | NLM_F_REPLACE)
        except OSError as error:
            # IPv4 does not replace the first of several routes that differ in hops alone by another of them
            if error.errno == errno.EEXIST and self._present(route):
                return
            raise _said(error, f"add route {describe_route(route)}") from error
        self._drop_waiting(route)  # a userspace WireGuard may have kept to the device for some packets more

    def delete_route(self, route: Route) -> None:
        """Take away exactly this route, and packets that wait for its gateway's address. None is no error.

        The kernel takes zeros in a request for "any" (metric 0 finds a route of any metric), so what is to go
        is looked for first, with the kernel filtering by table and protocol.
        """
        if not self._present(route):
            return
        try:
            self._sock.change(RTM_DELROUTE, encoded(self._route(route, scope=RT_SCOPE_NOWHERE)))
        except OSError as error:
            if error.errno in (errno.ESRCH, errno.ENODEV, errno.ENOENT):
                return
            raise _said(error, f"delete route {describe_route(route)}") from error
        self._drop_waiting(route)

    def _drop_waiting(self, route: Route) -> None:
        """Or a cable that is back within seconds lets out what was sent when it was pulled, and a tunnel's
        peer answers there, though the tunnel goes by another WAN.
        """
        for hop in route.hops:
            with contextlib.suppress(OSError):  # no gateway, nothing waits for it, or a kernel before 5.0
                body = neighbour(hop.gateway, index_of(self._sock, hop.device))
                if unresolved(self._sock.request(RTM_GETNEIGH, body)):
                    self._sock.change(RTM_DELNEIGH, body)

    def _present(self, route: Route) -> bool:
        header = ROUTE.pack(0, 0, 0, 0, _short(route.table), route.protocol, 0, 0, 0)
        body = header + attribute(RTA_TABLE, U32.pack(route.table))
        wanted = identity(route)
        names = _Asked(self)
        messages = self._dump(RTM_GETROUTE, route.family, body)
        seen = (_parsed(lambda message: parse_route(message, names), message) for message in messages)
        return any(found is not None and identity(found) == wanted for found in seen)

    def _route(self, route: Route, scope: int | None = None) -> Codec:
        if route.kind not in WRITABLE:
            accepted = ", ".join(sorted(WRITABLE))
            raise OSError(errno.EINVAL, f"a route of kind {route.kind!r}; accepted: {accepted}")
        dst, _, dst_length = route.dst.partition("/")
        src, _, src_length = route.src.partition("/")
        metric = route.metric or (IP6_RT_PRIO_USER if route.family == IPV6 else 0)
        attrs: Attributes = [["RTA_TABLE", route.table]]
        attrs += [["RTA_DST", dst]] if int(dst_length) else []
        attrs += [["RTA_SRC", src]] if src else []
        attrs += [["RTA_PRIORITY", metric]] if metric else []
        attrs += [["RTA_PREFSRC", route.source]] if route.source else []
        flags = 0
        if len(route.hops) == 1:
            (hop,) = route.hops
            flags = RTNH_F_ONLINK if hop.onlink else 0
            attrs += _gateway(route, hop)
            attrs += [["RTA_OIF", index_of(self._sock, hop.device)]] if hop.device else []
        elif route.hops:
            attrs += [["RTA_MULTIPATH", [self._next_hop(route, hop) for hop in route.hops]]]
        if scope is None:  # as iproute2: an IPv4 route without any gateway is on the link
            on_link = route.family == 4 and route.kind == "unicast" and not any(h.gateway for h in route.hops)
            scope = RT_SCOPE_LINK if on_link else RT_SCOPE_UNIVERSE
        return _message(
            rtmsg_module.rtmsg,
            attrs,
            family=int(FAMILIES[route.family]),
            dst_len=int(dst_length),
            src_len=int(src_length or 0),
            table=_short(route.table),
            proto=route.protocol,
            scope=scope,
            type=KIND_NUMBERS[route.kind],
            flags=flags,
        )

    def _next_hop(self, route: Route, hop: Hop) -> dict[str, object]:
        return {
            "oif": index_of(self._sock, hop.device) if hop.device else 0,
            "hops": hop.weight - 1,
            "flags": RTNH_F_ONLINK if hop.onlink else 0,
            "attrs": _gateway(route, hop),
        }

    # ---------------------------------------------------------------- changing rules

    def add_rule(self, rule: Rule) -> None:
        """Add a rule; its presence is no error.

        "Exists" is the kernel's word also for a rule that only does not contradict this one (from 10.0.0.0/8,
        when "from all" is to be added) or has another protocol number: so it is looked for, and if it is
        not there, added beside that one.
        """
        body = encoded(_rule(rule))
        try:
            try:
                self._sock.change(RTM_NEWRULE, body, NLM_F_CREATE | NLM_F_EXCL)
            except Refused as error:
                if error.errno != errno.EEXIST:
                    raise
                if rule not in self._rules_now(rule.family):
                    self._sock.change(RTM_NEWRULE, body, NLM_F_CREATE)
        except OSError as error:
            raise _said(error, f"add rule {describe_rule(rule)}") from error

    def delete_rule(self, rule: Rule) -> None:
        """Take away exactly this rule; its absence is no error.

        The kernel deletes the first rule that does not contradict the request, and a selector left out
        contradicts nothing: "from all" would take a rule with a source. So the rule is looked for first, and
        where the kernel would take another one in its place, this refuses (EBUSY).
        """
        fitting = [found for found in self._rules_now(rule.family) if _fits(rule, found)]
        if rule not in fitting:
            return
        if fitting[0] != rule:
            other = describe_rule(fitting[0])
            raise OSError(
                errno.EBUSY,
                f"delete rule {describe_rule(rule)}: the kernel would take {other}, which comes first",
            )
        try:
            self._sock.change(RTM_DELRULE, encoded(_rule(rule)))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESRCH):
                return
            raise _said(error, f"delete rule {describe_rule(rule)}") from error

    def _rules_now(self, family: int) -> list[Rule]:
        """In the kernel's order."""
        messages = self._dump(RTM_GETRULE, family, bytes(RULE.size))
        seen = (_parsed(parse_rule, message) for message in messages)
        return [rule for rule in seen if rule is not None]


class _Asked(dict[int, str]):
    """Device names by index: those of the last look, the others asked of the kernel one by one."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel._names)
        self._sock = kernel._sock

    def __missing__(self, index: int) -> str:
        name = self[index] = name_of(self._sock, index)
        return name


def _message(codec_class: Callable[[], Codec], attrs: Attributes, **fields: int) -> Codec:
    message = codec_class()
    message.update(fields, tos=0)
    message["attrs"] = attrs
    return message


def _gateway(route: Route, hop: Hop) -> Attributes:
    if not hop.gateway:
        return []
    if route.family == 4 and ":" in hop.gateway:  # RFC 5549: IPv4 by way of an IPv6 router
        return [["RTA_VIA", {"family": int(socket.AF_INET6), "addr": hop.gateway}]]
    return [["RTA_GATEWAY", hop.gateway]]


def _short(table: int) -> int:
    """A table number for the header's one byte; the attribute has the whole (RT_TABLE_COMPAT)."""
    return table if table < 256 else 252


def _rule(rule: Rule) -> Codec:
    if rule.other or rule.action not in ACTION_NUMBERS:
        raise OSError(errno.EINVAL, f"rule {describe_rule(rule)} has parts that this program has no word for")
    if rule.mark & ~rule.mask:
        raise OSError(errno.EINVAL, f"rule {describe_rule(rule)}: the mask hides bits of the mark")
    attrs: Attributes = [["FRA_PRIORITY", rule.preference]]
    attrs += [["FRA_TABLE", rule.table]] if rule.action == "to_table" else []
    attrs += [["FRA_FWMARK", rule.mark], ["FRA_FWMASK", rule.mask]] if rule.mask else []
    attrs += [["FRA_IIFNAME", rule.iif]] if rule.iif else []
    attrs += [["FRA_OIFNAME", rule.oif]] if rule.oif else []
    attrs += [["FRA_SUPPRESS_PREFIXLEN", rule.suppress]] if rule.suppress >= 0 else []
    attrs += [["FRA_PROTOCOL", rule.protocol]] if rule.protocol else []
    lengths = {"FRA_DST": 0, "FRA_SRC": 0}
    for name, prefix in (("FRA_DST", rule.dst), ("FRA_SRC", rule.src)):
        if prefix:
            given = ipaddress.ip_interface(prefix)
            lengths[name] = given.network.prefixlen
            attrs.append([name, str(given.ip)])
    return _message(
        fibmsg_module.fibmsg,
        attrs,
        family=int(FAMILIES[rule.family]),
        dst_len=lengths["FRA_DST"],
        src_len=lengths["FRA_SRC"],
        table=_short(rule.table) if rule.action == "to_table" else 0,
        action=ACTION_NUMBERS[rule.action],
        flags=0,
    )


def _fits(asked: Rule, found: Rule) -> bool:
    """Would the kernel take `found` when told to delete `asked`? rule_find of net/core/fib_rules.c."""
    return (
        asked.preference == found.preference
        and asked.action == found.action
        and asked.table in (0, found.table)
        and asked.mark in (0, found.mark)
        and asked.mask in (0, found.mask)
        and asked.src in ("", found.src)
        and asked.dst in ("", found.dst)
        and asked.iif in ("", found.iif)
        and asked.oif in ("", found.oif)
        and asked.suppress in (-1, found.suppress)
        and asked.protocol in (0, found.protocol)
    )


def _said(error: OSError, what: str) -> OSError:
    return OSError(error.errno, f"{what}: {error.strerror}")
