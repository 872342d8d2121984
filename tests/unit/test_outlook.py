"""What the kernel's tables mean to names and tunnels: exits, families, the signature, DNS servers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wgrouter.core import outlook
from wgrouter.core.model import (
    RT_TABLE_MAIN,
    Address,
    Hop,
    Interface,
    Link,
    Nameserver,
    Net,
    Route,
    World,
)
from wgrouter.core.outlook import Exit
from wgrouter.core.settings import Dns, Settings

NONE = frozenset[str]()
PLAIN = Settings()


def default(device: str, family: int = 4, metric: int = 10, **other: object) -> Route:
    dst, gateway = ("0.0.0.0/0", "10.0.0.1") if family == 4 else ("::/0", "fe80::1")
    route = Route(family, RT_TABLE_MAIN, dst, (Hop(gateway, device),), metric)
    return replace(route, **other)  # type: ignore[arg-type]


LINKS = {
    "eth1": Link(1, "eth1"),
    "eth2": Link(2, "eth2"),
    "wg0": Link(3, "wg0"),
    "wg9": Link(4, "wg9", kind="wireguard"),
    "br-lan": Link(5, "br-lan"),
}
LAN = Route(4, RT_TABLE_MAIN, "192.168.1.0/24", (Hop("", "br-lan"),))
ADDRESSES = (
    Address("eth1", "10.0.0.2/24"),
    Address("eth2", "10.2.0.2/24"),
    Address("br-lan", "192.168.1.1/24"),
    Address("eth1", "fe80::2/64", scope="link"),
    Address("eth1", "10.0.0.3/24", usable=False),
)


def net(*routes: Route, links: dict[str, Link] | None = None) -> Net:
    return Net(links or LINKS, ADDRESSES, routes, ())


@pytest.mark.parametrize(
    ("routes", "devices"),
    [
        ((default("eth1"),), ["eth1"]),
        ((default("eth2", metric=5), default("eth1")), ["eth2", "eth1"]),
        ((default("eth1"), default("eth2", metric=5)), ["eth2", "eth1"]),
        ((default("eth2", 6), default("eth1")), ["eth1", "eth2"]),  # IPv4 first
        ((default("eth1", kind="unreachable"),), []),
        ((default("eth1", table=7400),), []),
        ((default("eth1", dst="192.0.2.0/24"),), []),
        ((default("wg0"),), []),  # ours
        ((default("wg9"),), []),  # somebody's tunnel
        ((default("gone"),), []),
        ((default("eth1", hops=(Hop("10.0.0.1", "eth1"), Hop("10.2.0.1", "eth2"))),), ["eth1", "eth2"]),
    ],
)
def test_exits(routes: tuple[Route, ...], devices: list[str]) -> None:
    assert [exit_.device for exit_ in outlook.exits(net(*routes), frozenset({"wg0"}))] == devices


@pytest.mark.parametrize("state", [{"up": False}, {"carrier": False}])
def test_a_device_that_is_down_is_no_exit(state: dict[str, bool]) -> None:
    links = {**LINKS, "eth1": replace(LINKS["eth1"], **state)}
    assert outlook.exits(net(default("eth1"), links=links), NONE) == ()


def test_without_a_look_there_is_nothing() -> None:
    assert outlook.exits(None, NONE) == () and outlook.signature(None, ()) == ()


def test_families() -> None:
    both = outlook.exits(net(default("eth1"), default("eth2", 6)), NONE)
    assert outlook.reachable(both) == {4, 6} and outlook.reachable(both[:1]) == {4}
    assert outlook.reachable(()) == frozenset()


def signature(*routes: Route, addresses: tuple[Address, ...] = ADDRESSES) -> tuple[str, ...]:
    seen = replace(net(*routes), addresses=addresses)
    return outlook.signature(seen, outlook.exits(seen, NONE))


def test_the_signature_is_of_exits_and_their_addresses() -> None:
    assert signature(default("eth1")) == ("4 eth1 10.0.0.1", "eth1 10.0.0.2/24")
    assert signature(default("eth1"), LAN) == signature(default("eth1")), "the LAN is no matter"
    assert signature(default("eth1"), default("eth2", metric=99)) != signature(default("eth1"))
    assert signature(default("eth1", metric=99)) == signature(default("eth1")), "nor is a metric"
    moved = (Address("eth1", "10.0.0.9/24"), *ADDRESSES[1:])
    assert signature(default("eth1"), addresses=moved) != signature(default("eth1"))
    other = (*ADDRESSES, Address("br-lan", "192.168.2.1/24"))
    assert signature(default("eth1"), addresses=other) == signature(default("eth1"))


# ---------------------------------------------------------------- DNS servers


def servers(world: World, settings: Settings = PLAIN) -> list[tuple[str, int, str]]:
    found = outlook.nameservers(world, settings, outlook.exits(world.net, NONE))
    return [(server.address, server.port, server.device) for server in found]


TWO = net(default("eth1"), default("eth2", metric=20), LAN)
FAR, NEAR, OWN = Nameserver("192.0.2.53"), Nameserver("192.168.1.9"), Nameserver("127.0.0.1")


def test_a_far_server_is_asked_by_each_exit_the_best_first() -> None:
    assert servers(World(net=TWO, nameservers=(FAR,))) == [
        ("192.0.2.53", 53, "eth1"),
        ("192.0.2.53", 53, "eth2"),
    ]


def test_a_near_server_is_asked_as_the_kernel_routes() -> None:
    for server in (NEAR, OWN, Nameserver("192.168.1.1"), Nameserver("10.0.0.2")):
        assert servers(World(net=TWO, nameservers=(server,))) == [(server.address, 53, "")], server


def test_without_an_exit_of_its_family_a_server_is_asked_all_the_same() -> None:
    six = Nameserver("2001:db8::53")
    assert servers(World(net=TWO, nameservers=(six,))) == [("2001:db8::53", 53, "")]
    both = net(default("eth1"), default("eth2", 6))
    assert servers(World(net=both, nameservers=(six,))) == [("2001:db8::53", 53, "eth2")]


def test_before_the_first_look_a_server_is_asked_as_the_kernel_routes() -> None:
    assert servers(World(nameservers=(FAR,))) == [("192.0.2.53", 53, "")]


def test_a_full_tunnel_does_not_draw_the_questions_into_itself() -> None:
    """Else it could never come up again: the name of its own endpoint would be asked for inside it."""
    full = net(default("wg9", metric=0), default("eth1"), LAN)
    assert servers(World(net=full, nameservers=(FAR,))) == [("192.0.2.53", 53, "eth1")]


def test_a_server_bound_to_a_device_stays_there() -> None:
    bound = replace(FAR, device="eth2", port=5353)
    assert servers(World(net=TWO, nameservers=(bound,))) == [("192.0.2.53", 5353, "eth2")]


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("eth2", [("192.0.2.53", 53, "eth2")]),
        ("eth7", []),  # its uplink is down: it would not answer anyone else
        ("", [("192.0.2.53", 53, "eth1"), ("192.0.2.53", 53, "eth2")]),
    ],
)
def test_a_server_of_an_uplink_is_asked_by_it(device: str, expected: list[tuple[str, int, str]]) -> None:
    listed = replace(FAR, interface="wanb")
    assert servers(World(net=TWO, nameservers=(listed,)), Settings(interfaces={"wanb": device})) == expected


def interface(**other: object) -> Interface:
    return replace(Interface("wanb", "eth2", True, dns=("192.0.2.7",)), **other)  # type: ignore[arg-type]


def test_netifds_servers_stand_before_resolv_confs() -> None:
    world = World(net=TWO, nameservers=(OWN,), interfaces={"wanb": interface()})
    assert servers(world) == [("192.0.2.7", 53, "eth2")]
    down = replace(world, interfaces={"wanb": interface(up=False)})
    assert servers(down) == [("127.0.0.1", 53, "")], "for want of others"
    given = replace(world, nameservers=(OWN, replace(FAR, interface="wanb")))
    assert servers(given) == [("192.0.2.53", 53, "eth2"), ("192.0.2.7", 53, "eth2")]
    twice = replace(world, nameservers=(Nameserver("192.0.2.7", interface="wanb"),))
    assert servers(twice) == [("192.0.2.7", 53, "eth2")]


def test_configured_servers_stand_alone() -> None:
    settings = Settings(dns=Dns(servers=("192.0.2.99#5300", "192.168.1.9")))
    world = World(net=TWO, nameservers=(FAR,), interfaces={"wanb": interface()})
    expected = [("192.0.2.99", 5300, "eth1"), ("192.0.2.99", 5300, "eth2"), ("192.168.1.9", 53, "")]
    assert servers(world, settings) == expected


def test_the_device_of_an_interface_is_netifds_word_before_the_configurations() -> None:
    listed = replace(FAR, interface="wanb")
    settings = Settings(interfaces={"wanb": "eth1"})
    known = World(net=TWO, nameservers=(listed,), interfaces={"wanb": interface(dns=())})
    assert servers(known, settings) == [("192.0.2.53", 53, "eth2")]
    nameless = replace(known, interfaces={"wanb": interface(dns=(), device="")})
    assert servers(nameless, settings) == [("192.0.2.53", 53, "eth1")]


@pytest.mark.parametrize(
    ("address", "near"),
    [
        ("127.0.0.53", True),
        ("::1", True),
        ("10.2.0.2", True),  # our own, on an uplink
        ("10.2.0.9", False),  # a neighbour on an uplink: by the uplink
        ("192.168.1.77", True),
        ("192.168.2.77", False),
        ("192.168.3.77", True),  # some of it by the LAN
        ("2001:db8::1", False),
    ],
)
def test_what_is_near(address: str, near: bool) -> None:
    connected = Route(4, RT_TABLE_MAIN, "10.2.0.0/24", (Hop("", "eth2"),))
    elsewhere = Route(4, 7400, "192.168.2.0/24", (Hop("", "br-lan"),))
    shared = Route(4, RT_TABLE_MAIN, "192.168.3.0/24", (Hop("10.0.0.9", "eth1"), Hop("", "br-lan")))
    found = net(default("eth1"), default("eth2"), LAN, connected, elsewhere, shared)
    exits = (Exit(4, "eth1", "", 0), Exit(4, "eth2", "", 0))
    assert outlook.is_near(address, found, exits) is near
