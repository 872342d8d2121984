"""The kernel port, in namespaces of its own, held against what `ip` says."""

from __future__ import annotations

import dataclasses
import errno
import ipaddress
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ports.netns import Namespace, namespace, until
from tests.work import calls
from wgrouter.core.model import Hop, Net, Route, Rule
from wgrouter.ports import _netlink, _rtnl
from wgrouter.ports import kernel as kernel_port
from wgrouter.ports.kernel import Kernel

lab = pytest.mark.lab
OURS = 157
TABLE = 7401


@pytest.fixture
def ns() -> Iterator[Namespace]:
    with namespace() as made:
        made.cable("wan", "10.0.0.1/24", "2001:db8::1/64")
        made.cable("lte", "10.1.0.1/24", "2001:db8:1::1/64")
        yield made


@pytest.fixture
def kernel(ns: Namespace) -> Iterator[Kernel]:
    with ns.inside():
        made = Kernel()
    yield made
    made.close()


def table(ns: Namespace, family: int, number: int = TABLE) -> list[dict[str, Any]]:
    """A table as `ip` shows it; [] if it does not exist."""
    shown = ns.ip(f"-{family}", "-d", "-j", "route", "show", "table", str(number), check=False)
    return list(json.loads(shown or "[]"))


# ---------------------------------------------------------------- looking


def rich(ns: Namespace) -> None:
    """Something of everything that a router may have."""
    ns.batch(
        "link add name br0 type bridge",
        "link set lte-far master br0",
        "link set br0 up",
        "address add 10.9.0.1 peer 10.9.0.2/32 dev br0",
        "-6 address add fe80::77/64 dev wan scope link nodad",
        "-6 address add 2001:db8:9::1/64 dev br0 preferred_lft 0 nodad",
        "route add default via 10.0.0.2 dev wan metric 10 proto static",
        "route add default via 10.1.0.2 dev lte metric 20 proto dhcp src 10.1.0.1",
        "route add default via 9.9.9.9 dev wan onlink table 7000",
        "route add 192.0.2.0/24 nexthop via 10.0.0.2 dev wan weight 3 nexthop via 10.1.0.2 dev lte onlink",
        "route add 198.51.100.0/24 via inet6 fe80::1 dev wan",
        "route add unreachable 203.0.113.0/24 metric 4294967295",
        "route add blackhole 203.0.113.1 table 7000 proto 157",
        "route add prohibit 203.0.113.2",
        "route add throw 203.0.113.3 table 7000",
        "-6 route add default via fe80::2 dev wan metric 512 proto static",
        "-6 route add default from 2001:db8:5::/56 via fe80::3 dev wan metric 384 proto static",
        "-6 route add default via fe80::4 dev lte proto ra metric 1024 expires 1800",
        "-6 route add 2001:db8:aa::/48 nexthop via fe80::2 dev wan weight 2 nexthop via fe80::4 dev lte",
        "-6 route add unreachable 2001:db8:bb::/48 table 7000",
        "rule add pref 100 fwmark 0x1000000/0x3f000000 lookup 7000 protocol 157",
        "rule add pref 101 from 10.0.0.1 lookup 7000",
        "rule add pref 102 from 10.0.0.0/8 to 192.0.2.0/24 iif wan oif lte lookup 7000",
        "rule add pref 103 lookup main suppress_prefixlength 0",
        "rule add pref 104 fwmark 0x7 unreachable",
        "-6 rule add pref 105 from 2001:db8::/32 lookup 7000 protocol 157",
    )


def as_ip_has_it(shown: dict[str, Any], family: int) -> tuple[Any, ...]:
    """Destination, source prefix, kind, metric, protocol, hops of a route of `ip -j`."""
    dst = shown["dst"]
    if dst == "default":
        dst = "0.0.0.0/0" if family == 4 else "::/0"
    elif "/" not in dst:
        dst += "/32" if family == 4 else "/128"
    kind = shown.get("type", "unicast")

    def hop(of: dict[str, Any], weight: int) -> tuple[Any, ...]:
        gateway = of.get("gateway") or of.get("via", {}).get("host", "")
        return (gateway, of.get("dev", ""), weight, "onlink" in of.get("flags", []))

    if kind != "unicast":
        hops: tuple[Any, ...] = ()
    elif "nexthops" in shown:
        hops = tuple(hop(one, one["weight"]) for one in shown["nexthops"])
    else:
        hops = (hop(shown, 1),)
    src = shown.get("from", "")
    src = "" if src in ("", "all") else src
    return (dst, src, kind, shown.get("metric", 0), hops, shown.get("prefsrc", ""))


@lab
def test_snapshot_says_what_ip_says(ns: Namespace, kernel: Kernel) -> None:
    rich(ns)
    net = kernel.snapshot()

    assert {
        (one["ifname"], one["ifindex"], one["mtu"], "LOWER_UP" in one["flags"], "UP" in one["flags"])
        for one in ns.json("link")
    } == {(link.name, link.index, link.mtu, link.carrier, link.up) for link in net.links.values()}
    assert net.links["wan"].kind == "veth"
    assert net.links["br0"].kind == "bridge"
    assert net.links["lo"].kind == ""
    assert net.links["lte-far"].master == net.links["br0"].index

    assert {
        (one["ifname"], f"{info['local']}/{info['prefixlen']}", info["scope"], info.get("address", ""))
        for one in ns.json("address")
        for info in one["addr_info"]
    } == {(a.device, a.prefix, a.scope, a.peer) for a in net.addresses}
    usable = {a.prefix: a.usable for a in net.addresses}
    assert usable["2001:db8::1/64"]
    assert not usable["2001:db8:9::1/64"], "it is deprecated"

    for family in (4, 6):
        shown = [
            one
            for one in ns.json(f"-{family}", "route", "show", "table", "all")
            if one.get("table") != "local"
        ]
        ours = [route for route in net.routes if route.family == family]
        wanted = sorted(as_ip_has_it(one, family) for one in shown)
        got = sorted(
            (
                route.dst,
                route.src,
                route.kind,
                route.metric,
                tuple((h.gateway, h.device, h.weight, h.onlink) for h in route.hops),
                route.source,
            )
            for route in ours
        )
        assert got == wanted
    by_dst = {(route.dst, route.table, route.metric): route for route in net.routes}
    assert by_dst["203.0.113.1/32", 7000, 0].protocol == OURS
    assert by_dst["::/0", 254, 1024].expires
    assert not by_dst["::/0", 254, 512].expires
    assert by_dst["::/0", 254, 384].src == "2001:db8:5::/56"

    rules = {rule.preference: rule for rule in net.rules if rule.family == 4}
    assert rules[100] == Rule(4, 100, 7000, 0x1000000, 0x3F000000, protocol=OURS)
    assert rules[101] == Rule(4, 101, 7000, src="10.0.0.1/32", protocol=rules[101].protocol)
    assert (rules[102].src, rules[102].dst, rules[102].iif, rules[102].oif) == (
        "10.0.0.0/8",
        "192.0.2.0/24",
        "wan",
        "lte",
    )
    assert (rules[103].table, rules[103].suppress) == (254, 0)
    assert (rules[104].mark, rules[104].mask, rules[104].action) == (7, 0xFFFFFFFF, "unreachable")
    assert not any(rule.other for rule in net.rules)
    assert Rule(6, 105, 7000, src="2001:db8::/32", protocol=OURS) in net.rules


@lab
def test_unchanged_parts_are_the_same_objects(ns: Namespace, kernel: Kernel) -> None:
    rich(ns)
    first = kernel.snapshot()
    assert kernel.snapshot() is first
    ns.ip("route", "add", "172.31.0.0/16", "via", "10.0.0.2")
    second = kernel.snapshot()
    assert second is not first
    assert (second.addresses, second.rules) == (first.addresses, first.rules)
    assert second.addresses is first.addresses
    assert second.rules is first.rules
    old = {id(route) for route in first.routes}
    assert [route.dst for route in second.routes if id(route) not in old] == ["172.31.0.0/16"]
    ns.ip("route", "del", "172.31.0.0/16")
    assert kernel.snapshot().routes == first.routes


@lab
def test_a_lifetime_that_counts_down_is_no_change(ns: Namespace, kernel: Kernel) -> None:
    ns.ip("-6", "route", "add", "default", "via", "fe80::4", "dev", "wan", "proto", "ra", "expires", "1800")

    def left() -> int:
        (shown,) = ns.json("-6", "route", "show", "default")
        return int(shown["expires"])

    first = kernel.snapshot()
    before = left()
    until(lambda: left() < before)
    assert kernel.snapshot() is first


@lab
@pytest.mark.parametrize(
    "words",
    [
        "not from 10.0.0.0/8",
        "from all ipproto tcp",
        "from all sport 1000",
        "from all dport 1000-2000",
        "from all uidrange 0-100",
        "from all tos 0x10",
        "from all lookup main suppress_ifgroup 7",
    ],
)
def test_a_rule_with_more_than_the_model_is_marked(ns: Namespace, kernel: Kernel, words: str) -> None:
    target = () if "lookup" in words else ("lookup", "7000")
    ns.ip("rule", "add", "pref", "100", *words.split(), *target)
    (rule,) = (rule for rule in kernel.snapshot().rules if rule.preference == 100)
    assert rule.other
    with pytest.raises(OSError, match="no word for"):
        kernel.add_rule(rule)


@lab
def test_carrier_loss_shows_on_link_and_routes(ns: Namespace, kernel: Kernel) -> None:
    ns.ip("route", "add", "default", "via", "10.0.0.2", "dev", "wan")
    ns.ip("route", "add", "192.0.2.0/24", "nexthop", "via", "10.0.0.2", "nexthop", "via", "10.1.0.2")
    ns.ip("link", "set", "wan-far", "down")

    def seen() -> bool:
        net = kernel.snapshot()
        routes = {route.dst: route for route in net.routes}
        return (
            not net.links["wan"].carrier and routes["0.0.0.0/0"].linkdown and routes["192.0.2.0/24"].linkdown
        )

    until(seen)
    assert kernel.snapshot().links["wan"].up
    ns.ip("link", "set", "wan-far", "up")
    until(lambda: not any(route.linkdown for route in kernel.snapshot().routes))
    ns.ip("link", "set", "wan", "down")
    net = kernel.snapshot()
    assert not net.links["wan"].up
    assert "0.0.0.0/0" not in [route.dst for route in net.routes], "the kernel takes them away itself"


@lab
def test_a_device_that_comes_and_goes(ns: Namespace, kernel: Kernel) -> None:
    kernel.snapshot()
    ns.cable("usb", "10.5.0.1/24")
    ns.ip("route", "add", "192.0.2.0/24", "via", "10.5.0.2")
    route = next(route for route in kernel.snapshot().routes if route.dst == "192.0.2.0/24")
    assert route.hops == (Hop("10.5.0.2", "usb"),)
    ns.ip("link", "set", "usb", "down")
    ns.ip("link", "set", "usb", "name", "modem")
    ns.ip("link", "set", "modem", "up")
    net = kernel.snapshot()
    assert "usb" not in net.links
    assert next(a for a in net.addresses if a.prefix == "10.5.0.1/24").device == "modem", (
        "the index is the same"
    )
    ns.ip("link", "del", "modem")
    assert "10.5.0.1/24" not in [a.prefix for a in kernel.snapshot().addresses]


@lab
def test_a_device_that_appears_between_two_dumps(
    ns: Namespace, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = kernel._sock.dump
    looks = 0

    def late(kind: int, body: bytes) -> list[bytes]:
        nonlocal looks
        messages = dump(kind, body)
        if kind == _netlink.RTM_GETLINK:
            looks += 1
            if looks == 1:
                ns.cable("usb", "10.5.0.1/24")
        return messages

    monkeypatch.setattr(kernel._sock, "dump", late)
    net = kernel.snapshot()
    assert looks == 2
    assert "usb" in net.links
    assert "10.5.0.1/24" in [a.prefix for a in net.addresses if a.device == "usb"]


@lab
def test_a_device_whose_name_is_not_text(ns: Namespace, kernel: Kernel) -> None:
    name = b"w\xffn".decode("utf-8", "surrogateescape")
    ns.ip("link", "add", "plain", "type", "veth", "peer", "name", "plain-far")
    ns.ip("link", "set", "plain", "name", name)
    assert name in kernel.snapshot().links
    assert kernel.link_rx_bytes(name) == 0


@lab
def test_a_thousand_routes_cost_little_once_known(ns: Namespace, kernel: Kernel) -> None:
    ns.batch(*(f"route add 172.16.{n // 250}.{n % 250}/32 via 10.0.0.2" for n in range(1000)))
    first = kernel.snapshot()
    assert len(first.routes) > 1000

    # 2 ms on an idle machine (80 ms by IPRoute)
    again: list[Net] = []
    assert calls(lambda: again.append(kernel.snapshot())) < 6 * len(first.routes)
    assert again[0] is first


# ---------------------------------------------------------------- routes

ROUTES4 = [
    Route(4, TABLE, "0.0.0.0/0", (Hop("10.0.0.2", "wan"),), protocol=OURS),
    Route(4, TABLE, "0.0.0.0/0", (Hop("10.0.0.2", "wan"),), metric=5, protocol=OURS),
    Route(4, TABLE, "0.0.0.0/0", (Hop("", "wan"),), protocol=OURS),
    Route(4, TABLE, "0.0.0.0/0", (Hop("100.64.0.1", "wan", onlink=True),), protocol=OURS),
    Route(4, TABLE, "0.0.0.0/0", (Hop("10.0.0.2", "wan"),), protocol=OURS, source="10.1.0.1"),
    Route(4, TABLE, "0.0.0.0/0", (Hop("10.0.0.2", "wan", 3), Hop("10.1.0.2", "lte", 1)), protocol=OURS),
    Route(4, TABLE, "0.0.0.0/0", (Hop("100.64.0.1", "wan", 1, True), Hop("", "lte", 2)), protocol=OURS),
    Route(4, TABLE, "192.0.2.0/24", (Hop("fe80::1", "wan"),), protocol=OURS),
    Route(4, TABLE, "192.0.2.7/32", (Hop("", "lte"),), protocol=OURS),
    *(Route(4, TABLE, "0.0.0.0/0", kind=kind, metric=9, protocol=OURS) for kind in sorted(_rtnl.HOPLESS)),
    Route(4, 200, "0.0.0.0/0", (Hop("10.0.0.2", "wan"),), protocol=OURS),
    Route(4, 2**32 - 1, "0.0.0.0/0", (Hop("10.0.0.2", "wan"),), metric=2**32 - 1, protocol=OURS),
]
ROUTES6 = [
    Route(6, TABLE, "::/0", (Hop("fe80::2", "wan"),), metric=1024, protocol=OURS),
    Route(6, TABLE, "::/0", (Hop("2001:db8::2", "wan"),), metric=5, protocol=OURS),
    Route(6, TABLE, "::/0", (Hop("", "wan"),), metric=5, protocol=OURS),
    Route(6, TABLE, "::/0", (Hop("2001:db8:77::1", "wan", onlink=True),), metric=5, protocol=OURS),
    Route(6, TABLE, "::/0", (Hop("fe80::2", "wan"),), metric=5, protocol=OURS, src="2001:db8:5::/56"),
    Route(6, TABLE, "::/0", (Hop("fe80::2", "wan"),), metric=5, protocol=OURS, source="2001:db8:1::1"),
    Route(6, TABLE, "::/0", (Hop("fe80::2", "wan", 3), Hop("fe80::4", "lte", 1)), metric=5, protocol=OURS),
    Route(6, TABLE, "2001:db8:7::/48", (Hop("fe80::2", "wan"),), metric=5, protocol=OURS),
    *(Route(6, TABLE, "::/0", kind=kind, metric=9, protocol=OURS) for kind in sorted(_rtnl.HOPLESS)),
    Route(6, 2**32 - 1, "::/0", (Hop("fe80::2", "wan"),), metric=2**32 - 1, protocol=OURS),
]


def in_table(net: Net, number: int) -> list[Route]:
    return [route for route in net.routes if route.table == number]


@lab
@pytest.mark.parametrize("route", [*ROUTES4, *ROUTES6], ids=_rtnl.describe_route)
def test_a_route_reads_back_as_it_was_written(ns: Namespace, kernel: Kernel, route: Route) -> None:
    kernel.add_route(route)
    kernel.add_route(route)
    assert in_table(kernel.snapshot(), route.table) == [route]
    assert len(table(ns, route.family, route.table)) == 1
    kernel.delete_route(route)
    kernel.delete_route(route)
    assert in_table(kernel.snapshot(), route.table) == []
    assert table(ns, route.family, route.table) == []


@lab
@pytest.mark.parametrize("family", [4, 6])
def test_a_replacement_leaves_one_route_whatever_it_replaces(kernel: Kernel, family: int) -> None:
    """IPv6 keeps routes of one metric side by side unless told with care. Each kind follows each other."""
    shapes = [
        dataclasses.replace(route, metric=5, table=TABLE)
        for route in (ROUTES4 if family == 4 else ROUTES6)
        if route.is_default and not route.src
    ]
    for before in shapes:
        for after in shapes:
            kernel.add_route(before)
            kernel.add_route(after)
            assert in_table(kernel.snapshot(), TABLE) == [after], (before, after)


@lab
@pytest.mark.parametrize("family", [4, 6])
def test_there_is_no_moment_without_a_route(ns: Namespace, kernel: Kernel, family: int) -> None:
    gateways = ("10.0.0.2", "10.1.0.2") if family == 4 else ("fe80::2", "fe80::4")
    target = "192.0.2.1" if family == 4 else "2001:db8:ff::1"
    first, second = (
        Route(family, 254, _rtnl.ANYWHERE[family], (Hop(gateway, device),), 5, OURS)
        for gateway, device in zip(gateways, ("wan", "lte"), strict=True)
    )
    kernel.add_route(first)
    with ns.inside():
        witness = Kernel()
    seen: set[Hop | None] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.add(witness.lookup(family, target))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        for _ in range(100):
            kernel.add_route(second)
            kernel.add_route(first)
    finally:
        done.set()
        thread.join()
        witness.close()
    assert None not in seen
    assert seen <= {first.hops[0], second.hops[0]}


@lab
def test_ipv6_has_no_metric_0(kernel: Kernel) -> None:
    written = Route(6, TABLE, "::/0", (Hop("fe80::2", "wan"),), protocol=OURS)
    kernel.add_route(written)
    assert in_table(kernel.snapshot(), TABLE) == [dataclasses.replace(written, metric=1024)]
    kernel.delete_route(written)
    assert in_table(kernel.snapshot(), TABLE) == []


@lab
@pytest.mark.parametrize(
    "neighbour",
    [
        "default via 10.0.0.2 dev wan table 7401 metric 10 proto 157",  # the kernel takes "0" for any metric
        "default via 10.0.0.3 dev wan table 7401 proto 157",
        "default via 10.0.0.2 dev wan table 7401 proto static",
        "default via 10.1.0.2 dev lte table 7401 proto 157",
        "default via 10.0.0.2 dev wan table 7401 proto 157 src 10.1.0.1",
        "default via 10.0.0.2 dev wan table 7402 proto 157",
        "default via 10.0.0.2 dev wan proto 157",
        "0.0.0.0/1 via 10.0.0.2 dev wan table 7401 proto 157",
        "unreachable default table 7401 proto 157",
        "default table 7401 proto 157 nexthop via 10.0.0.2 dev wan nexthop via 10.1.0.2 dev lte",
    ],
)
def test_only_exactly_that_route_is_deleted(ns: Namespace, kernel: Kernel, neighbour: str) -> None:
    ns.ip("route", "add", *neighbour.split())
    before = kernel.snapshot()
    kernel.delete_route(ROUTES4[0])
    assert kernel.snapshot() is before


@lab
def test_deleting_leaves_the_route_beside_it(ns: Namespace, kernel: Kernel) -> None:
    for family, one in ((4, ROUTES4[0]), (6, ROUTES6[0])):
        other = dataclasses.replace(one, metric=one.metric + 10)
        kernel.add_route(one)
        kernel.add_route(other)
        kernel.delete_route(one)
        assert in_table(kernel.snapshot(), TABLE) == [other], family
        kernel.delete_route(other)


@lab
@pytest.mark.parametrize(("family", "gateway"), [(4, "10.0.0.2"), (6, "2001:db8::2")])
def test_what_waits_for_the_gateway_goes_with_the_route(
    ns: Namespace, kernel: Kernel, family: int, gateway: str
) -> None:
    """The kernel keeps packets while it asks for a link-layer address: the cable may be back by then."""
    route = Route(family, TABLE, _rtnl.ANYWHERE[family], (Hop(gateway, "wan"),), metric=10, protocol=OURS)
    ns.ip("link", "set", "wan-far", "down")

    def states() -> list[str]:
        shown = ns.json(f"-{family}", "neigh", "show", gateway, "dev", "wan", "nud", "all")
        return [state for entry in shown for state in entry["state"]]

    def send() -> None:
        with ns.inside(), socket.socket(_rtnl.FAMILIES[family], socket.SOCK_DGRAM) as sock:
            sock.sendto(b"late", (gateway, 9))

    kernel.add_route(route)
    send()
    assert states() == ["INCOMPLETE"]
    kernel.delete_route(route)
    assert states() in ([], ["FAILED"])
    send()
    assert states() == ["INCOMPLETE"]
    kernel.add_route(route)
    assert states() in ([], ["FAILED"])
    ns.ip("neigh", "replace", gateway, "lladdr", "02:00:00:00:00:09", "dev", "wan", "nud", "permanent")
    kernel.add_route(route)
    kernel.delete_route(route)
    assert states() == ["PERMANENT"], "what an administrator wrote stays"


@lab
def test_a_route_that_ip_appended_twice_is_no_error(ns: Namespace, kernel: Kernel) -> None:
    ns.ip("route", "add", "default", "via", "10.0.0.3", "dev", "wan", "table", str(TABLE), "proto", str(OURS))
    ns.ip(
        "route", "append", "default", "via", "10.0.0.2", "dev", "wan", "table", str(TABLE), "proto", str(OURS)
    )
    kernel.add_route(ROUTES4[0])
    assert ROUTES4[0] in in_table(kernel.snapshot(), TABLE)


@lab
def test_a_route_by_a_device_that_is_gone(kernel: Kernel) -> None:
    route = Route(4, TABLE, "0.0.0.0/0", (Hop("10.0.0.2", "gone"),), protocol=OURS)
    kernel.delete_route(route)
    with pytest.raises(
        OSError, match=r"add route default via 10.0.0.2 dev gone .*there is no device 'gone'"
    ) as failed:
        kernel.add_route(route)
    assert failed.value.errno == errno.ENODEV


@lab
def test_the_kernel_says_what_is_wrong(kernel: Kernel) -> None:
    route = Route(4, TABLE, "0.0.0.0/0", (Hop("10.77.0.2", "wan"),), protocol=OURS)
    with pytest.raises(OSError, match=r"add route default via 10.77.0.2 .*invalid gateway") as failed:
        kernel.add_route(route)
    assert failed.value.errno == errno.ENETUNREACH
    with pytest.raises(OSError, match="kind 'local'; accepted: blackhole"):
        kernel.add_route(dataclasses.replace(route, kind="local"))


# ---------------------------------------------------------------- rules

RULES = [
    Rule(4, 6000, TABLE, 0x1000000, 0x3F000000, protocol=OURS),
    Rule(4, 6000, TABLE, 0, 0x3F000000, protocol=OURS),
    Rule(4, 6001, TABLE, src="10.0.0.1/32", protocol=OURS),
    Rule(4, 6002, TABLE, src="10.0.0.0/8", dst="192.0.2.0/24", iif="wan", oif="lte", protocol=OURS),
    Rule(4, 6003, 254, suppress=0, protocol=OURS),
    Rule(4, 6004, 7000, protocol=OURS),
    Rule(4, 6005, 0, action="unreachable", protocol=OURS),
    Rule(4, 6005, 0, action="blackhole", protocol=OURS),
    Rule(4, 6005, 0, action="prohibit", iif="not-there-yet", protocol=OURS),
    Rule(6, 6000, TABLE, 0x1000000, 0x3F000000, protocol=OURS),
    Rule(6, 6001, TABLE, src="2001:db8::1/128", protocol=OURS),
    Rule(6, 6002, TABLE, src="2001:db8::/32", dst="2001:db8:1::/48", iif="wan", protocol=OURS),
    Rule(6, 6003, 254, suppress=0, protocol=OURS),
    Rule(6, 0, 200, protocol=OURS),
]


@lab
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.family}-{_rtnl.describe_rule(rule)}")
def test_a_rule_reads_back_as_it_was_written(ns: Namespace, kernel: Kernel, rule: Rule) -> None:
    before = ns.ip(f"-{rule.family}", "rule")
    kernel.add_rule(rule)
    kernel.add_rule(rule)
    assert [found for found in kernel.snapshot().rules if found.protocol == OURS] == [rule]
    kernel.delete_rule(rule)
    kernel.delete_rule(rule)
    assert ns.ip(f"-{rule.family}", "rule") == before


@lab
@pytest.mark.parametrize(
    "neighbour",
    [
        "pref 6004 from 10.0.0.0/8 lookup 7000 protocol 157",
        "pref 6004 to 10.0.0.0/8 lookup 7000 protocol 157",
        "pref 6004 iif wan lookup 7000 protocol 157",
        "pref 6004 fwmark 1 lookup 7000 protocol 157",
        "pref 6004 ipproto tcp lookup 7000 protocol 157",
        "pref 6004 lookup 7000 suppress_prefixlength 0 protocol 157",
        "pref 6004 lookup 7001 protocol 157",
        "pref 6004 lookup 7000 protocol static",
        "pref 6005 lookup 7000 protocol 157",
    ],
)
def test_only_exactly_that_rule_is_deleted(ns: Namespace, kernel: Kernel, neighbour: str) -> None:
    """Told to delete `6004: from all lookup 7000 protocol 157`, the kernel would take most of these."""
    ns.ip("rule", "add", *neighbour.split())
    before = kernel.snapshot()
    kernel.delete_rule(RULES[5])
    assert kernel.snapshot() is before


@lab
def test_a_rule_that_cannot_be_told_from_another_is_not_deleted(ns: Namespace, kernel: Kernel) -> None:
    ns.batch("rule add pref 6004 from 10.0.0.0/8 lookup 7000 protocol 157")
    kernel.add_rule(RULES[5])
    before = kernel.snapshot()
    with pytest.raises(OSError, match=r"the kernel would take 6004: from 10.0.0.0/8 lookup 7000") as failed:
        kernel.delete_rule(RULES[5])
    assert failed.value.errno == errno.EBUSY
    assert kernel.snapshot() is before
    kernel.delete_rule(Rule(4, 6004, 7000, src="10.0.0.0/8", protocol=OURS))
    kernel.delete_rule(RULES[5])
    assert not [rule for rule in kernel.snapshot().rules if rule.preference == 6004]


@lab
def test_a_rule_that_the_kernel_takes_for_another_is_added_all_the_same(
    ns: Namespace, kernel: Kernel
) -> None:
    """`from all` beside `from 10.0.0.0/8`: the kernel says that it exists."""
    ns.batch("rule add pref 6004 from 10.0.0.0/8 lookup 7000 protocol 157")
    ns.batch("rule add pref 6000 fwmark 0x1000000/0x3f000000 lookup 7401 protocol static")
    for rule in (RULES[5], RULES[0]):
        kernel.add_rule(rule)
        kernel.add_rule(rule)
        assert kernel.snapshot().rules.count(rule) == 1
    assert len([rule for rule in kernel.snapshot().rules if rule.preference in (6000, 6004)]) == 4


@lab
def test_a_mark_outside_its_mask_is_refused(kernel: Kernel) -> None:
    with pytest.raises(OSError, match="the mask hides bits of the mark"):
        kernel.add_rule(Rule(4, 6000, TABLE, mark=1, mask=0))


# ---------------------------------------------------------------- looking up


@lab
def test_lookup_is_ip_route_get(ns: Namespace, kernel: Kernel) -> None:
    ns.sysctl("net.ipv4.ip_forward", 1)
    ns.sysctl("net.ipv6.conf.all.forwarding", 1)
    ns.batch(
        "route add default via 10.0.0.2 dev wan",
        "route add default via 10.1.0.2 dev lte table 7000",
        "route add unreachable 203.0.113.1",
        "route add blackhole 203.0.113.2",
        "route add prohibit 203.0.113.3",
        "route add throw 203.0.113.4 table 7000",
        "rule add pref 100 fwmark 0x1000000/0x3f000000 lookup 7000",
        "rule add pref 101 from 10.1.0.1 lookup 7000",
        "rule add pref 102 iif lte to 198.51.100.0/24 lookup 7000",
        "-6 route add default via fe80::2 dev wan metric 5",
        "-6 route add default via fe80::4 dev lte table 7000",
        *(
            f"-6 route add {kind} 2001:db8:f{n}::/48"
            for n, kind in enumerate(("unreachable", "blackhole", "prohibit"))
        ),
        "-6 rule add pref 100 fwmark 0x1000000/0x3f000000 lookup 7000",
        "-6 rule add pref 101 from 2001:db8:1::1 lookup 7000",
    )
    wan, lte = Hop("10.0.0.2", "wan"), Hop("10.1.0.2", "lte")
    assert kernel.lookup(4, "192.0.2.1") == wan
    assert kernel.lookup(4, "192.0.2.1", mark=0x1000000) == lte
    assert kernel.lookup(4, "192.0.2.1", mark=0x2000000) == wan
    assert kernel.lookup(4, "192.0.2.1", source="10.1.0.1") == lte
    assert kernel.lookup(4, "198.51.100.1", source="10.1.0.77", iif="lte") == lte
    assert kernel.lookup(4, "198.51.100.1", source="10.0.0.77", iif="wan") == wan
    assert kernel.lookup(4, "10.0.0.77") == Hop("", "wan")
    for target in ("203.0.113.1", "203.0.113.2", "203.0.113.3"):
        assert kernel.lookup(4, target) is None
    assert kernel.lookup(4, "203.0.113.4", mark=0x1000000) == wan, "throw: on to the next table"
    wan, lte = Hop("fe80::2", "wan"), Hop("fe80::4", "lte")
    assert kernel.lookup(6, "2001:db8:ff::1") == wan
    assert kernel.lookup(6, "2001:db8:ff::1", mark=0x1000000) == lte
    assert kernel.lookup(6, "2001:db8:ff::1", source="2001:db8:1::1") == lte
    assert [kernel.lookup(6, f"2001:db8:f{n}::1") for n in range(3)] == [None] * 3
    ns.ip("route", "del", "default")
    ns.ip("-6", "route", "del", "default")
    assert kernel.lookup(4, "192.0.2.1") is None
    assert kernel.lookup(6, "2001:db8:ff::1") is None
    with pytest.raises(OSError, match="depends on its source"):
        kernel.lookup(4, "192.0.2.1", iif="lte")


@lab
def test_received_bytes(ns: Namespace, kernel: Kernel) -> None:
    before = kernel.link_rx_bytes("wan")
    with ns.inside(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind(("wan-far", 0x0800))
        sock.send(bytes(12) + b"\x08\x00" + bytes(86))
    until(lambda: kernel.link_rx_bytes("wan") >= before + 100 - 14)
    (shown,) = ns.json("-s", "link", "show", "dev", "wan")
    assert kernel.link_rx_bytes("wan") >= shown["stats64"]["rx"]["bytes"]
    with pytest.raises(OSError, match="there is no device 'nope'") as failed:
        kernel.link_rx_bytes("nope")
    assert failed.value.errno == errno.ENODEV
    with pytest.raises(OSError, match="there is no device"):
        kernel.link_rx_bytes("a-name-that-no-device-can-have")


# ---------------------------------------------------------------- parsing what is not as it should be


@given(st.binary(max_size=200), st.integers(0, 8))
def test_attributes_take_any_bytes(data: bytes, start: int) -> None:
    assert all(len(value) <= len(data) for value in _netlink.attributes(data, start).values())
    list(_netlink.each_attribute(data, start))


@given(st.dictionaries(st.integers(0, 0x3FFF), st.binary(max_size=40), max_size=8))
def test_attributes_come_back(wanted: dict[int, bytes]) -> None:
    data = b"".join(_netlink.attribute(kind, value) for kind, value in wanted.items())
    assert _netlink.attributes(data) == wanted
    assert dict(_netlink.each_attribute(data)) == wanted
    (outer,) = _netlink.each_attribute(_netlink.nested(9, data))
    assert outer == (9, data)


def test_prefixes_of_routes_are_canonical() -> None:
    for route in (*ROUTES4, *ROUTES6):
        assert str(ipaddress.ip_network(route.dst)) == route.dst


# ---------------------------------------------------------------- what pyroute2 encodes, we read as meant

NAMES = {1: "lo", 7: "wan", 8: "lte"}


@pytest.fixture(scope="module")
def encoder() -> Kernel:
    """A Kernel that knows three devices and no kernel."""
    made = Kernel.__new__(Kernel)
    made._sock = _Devices()  # type: ignore[assignment]
    return made


class _Devices:
    def request(self, kind: int, body: bytes) -> bytes:
        name = _netlink.text(_netlink.attributes(body, _netlink.LINK.size)[_netlink.IFLA_IFNAME])
        (index,) = (index for index, known in NAMES.items() if known == name)
        return _netlink.LINK.pack(0, 0, 0, index, 0, 0)


def addresses(family: int) -> st.SearchStrategy[str]:
    # not "::ffff:0:0/96" and "::/96": inet_ntop and ipaddress write these in different ways
    above = st.ip_addresses(v=family).filter(lambda one: family == 4 or int(one) >> 96)  # type: ignore[arg-type]
    return above.map(str)


def prefixes(family: int) -> st.SearchStrategy[str]:
    lengths = st.integers(1, 32 if family == 4 else 128)
    return st.builds(
        lambda address, length: str(ipaddress.ip_network(f"{address}/{length}", strict=False)),
        addresses(family),
        lengths,
    ).filter(lambda prefix: family == 4 or not prefix.startswith("::"))


U32S = st.integers(1, 2**32 - 1)


@st.composite
def routes(draw: st.DrawFn) -> Route:
    family = draw(st.sampled_from((4, 6)))
    via = addresses(draw(st.sampled_from((4, 6)) if family == 4 else st.just(6)))
    hop = st.builds(
        Hop, st.just("") | via, st.sampled_from(("wan", "lte")), st.integers(1, 256), st.booleans()
    )
    kind = draw(st.sampled_from(sorted(_rtnl.WRITABLE)))
    hops = tuple(draw(st.lists(hop, min_size=1, max_size=4))) if kind == "unicast" else ()
    if len(hops) == 1:
        hops = (dataclasses.replace(hops[0], weight=1),)
    return Route(
        family,
        draw(U32S),
        draw(st.just(_rtnl.ANYWHERE[family]) | prefixes(family)),
        hops,
        draw(U32S),
        draw(st.integers(0, 255)),
        kind,
        draw(st.just("") | addresses(family)),
        draw(st.just("") | prefixes(6)) if family == 6 else "",
    )


@given(route=routes())
def test_any_route_reads_back(encoder: Kernel, route: Route) -> None:
    body = _netlink.encoded(encoder._route(route))
    found = _rtnl.parse_route(body, NAMES)
    if route.table == 255:
        assert found is None
    else:
        assert found is not None
        assert _rtnl.identity(found) == route
        assert found.expires == (route.protocol == 9)


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    family = draw(st.sampled_from((4, 6)))
    mask = draw(st.integers(0, 2**32 - 1))
    action = draw(st.sampled_from(("to_table", "blackhole", "unreachable", "prohibit")))
    return Rule(
        family,
        draw(st.integers(0, 2**32 - 1)),
        draw(U32S) if action == "to_table" else 0,
        draw(st.integers(0, 2**32 - 1)) & mask,
        mask,
        draw(st.just("") | prefixes(family)),
        draw(st.just("") | prefixes(family)),
        draw(st.sampled_from(("", "wan", "br-lan"))),
        draw(st.sampled_from(("", "wan", "br-lan"))),
        draw(st.integers(-1, 128)),
        draw(st.integers(0, 255)),
        action,
    )


@given(rule=rules())
def test_any_rule_reads_back(rule: Rule) -> None:
    assert _rtnl.parse_rule(_netlink.encoded(kernel_port._rule(rule))) == rule
