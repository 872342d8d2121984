"""Which WANs a World shows: configured or discovered, with or without netifd, and who else owns the default
route.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from wgrouter.core import wans
from wgrouter.core.engine import Engine
from wgrouter.core.messages import Configured, Observed
from wgrouter.core.model import RT_TABLE_MAIN, Address, DeviceSeen, Hop, Interface, Link, Net, Route, World
from wgrouter.core.settings import Routing, Settings, Tunnel, Wan


def default(
    device: str, gateway: str = "10.0.0.1", metric: int = 10, family: int = 4, **more: object
) -> Route:
    dst = "0.0.0.0/0" if family == 4 else "::/0"
    return Route(family, RT_TABLE_MAIN, dst, (Hop(gateway, device),), metric, **more)  # type: ignore[arg-type]


def world(*routes: Route, links: tuple[Link, ...] = (), **more: object) -> World:
    known = {hop.device: Link(n, hop.device) for n, route in enumerate(routes, 2) for hop in route.hops}
    known |= {link.name: link for link in links}
    addresses = more.pop("addresses", ())
    return World(net=Net(known, addresses, routes), **more)  # type: ignore[arg-type]


def names(found: tuple[wans.Path, ...]) -> list[str]:
    return [f"{path.wan}/{path.family}" for path in found]


def test_nothing_is_known_before_the_first_look() -> None:
    assert wans.discover(World(), Settings(), {}) == ()


def test_holders_of_default_routes_by_metric() -> None:
    seen = world(default("eth2", metric=20), default("eth1", metric=10), default("eth1", "fe80::1", 512, 6))
    found = wans.discover(seen, Settings(), {})
    assert names(found) == ["eth1/4", "eth2/4", "eth1/6"]
    assert [path.index for path in found] == [1, 2, 1]
    assert [path.priority for path in found] == [10, 20, 512]
    assert all(path.works for path in found)


def test_tunnels_are_no_wans() -> None:
    seen = world(
        default("wg0", "", 1),
        default("tun0", "", 2),
        default("wg9", "", 3),
        default("lo", "", 4),
        default("eth1"),
        links=(Link(90, "tun0", kind="tun"), Link(91, "wg9", kind="wireguard")),
        wireguard={"utun": DeviceSeen("utun")},
    )
    assert names(wans.discover(seen, Settings(tunnels=(Tunnel("wg0"),)), {})) == ["eth1/4"]


def test_netifd_names_a_device_by_its_first_interface() -> None:
    interfaces = {name: Interface(name, "eth1", True, gateways=("10.0.0.1",)) for name in ("wan6", "wan")}
    seen = world(default("eth1"), default("eth1", "fe80::1", 512, 6), interfaces=interfaces)
    assert names(wans.discover(seen, Settings(), {})) == ["wan/4", "wan/6"]


def test_a_wan_keeps_its_name_when_netifd_is_heard_later_or_no_more() -> None:
    """An agent may start before ubusd: renamed, each WAN was there twice, and had no rule for its address."""
    bare = world(default("eth1"))
    heard = world(default("eth1"), interfaces={"wan": Interface("wan", "eth1", True)})
    other = world(default("eth1"), interfaces={"fibre": Interface("fibre", "eth1", True)})
    for seen, called, name in (
        (bare, {}, "eth1/4"),
        (heard, {}, "wan/4"),
        (heard, {"eth1": "eth1"}, "eth1/4"),
        (bare, {"eth1": "wan"}, "wan/4"),
        (other, {"eth1": "wan"}, "fibre/4"),
        (heard, {"eth2": "eth2"}, "wan/4"),
    ):
        assert names(wans.discover(seen, Settings(), {}, called)) == [name]


def test_the_links_of_a_wan_that_netifd_names_later_are_the_same() -> None:
    engine = Engine()
    engine.handle(Configured(Settings(), "seed"), 1.0)
    for at, interfaces in enumerate((None, {"wan": Interface("wan", "eth1", True)}, None, {}), 2):
        seen = world(default("eth1"), interfaces=interfaces)
        engine.handle(Observed(seen.net, {}, interfaces=interfaces), float(at))
        assert list(engine.state.links.watches) == [("eth1", 4)]
        assert engine.state.links.indices == {"eth1": 1}


def test_configured_wans_in_their_order_by_netifds_device_the_files_or_their_own() -> None:
    configured = Settings(
        wans=(
            Wan("lte", interface="wwan"),
            Wan("dsl", interface="wan"),
            Wan("off", device="eth5", enabled=False),
            Wan("dev", device="eth3", families=(4,)),
        ),
        interfaces={"wan": "eth1"},
    )
    interfaces = {"wwan": Interface("wwan", "wwan0", True)}
    seen = world(
        default("eth1"), default("wwan0", ""), default("eth3"), default("eth5"), interfaces=interfaces
    )
    found = wans.discover(seen, configured, {})
    assert [(path.wan, path.device, path.index) for path in found] == [
        ("lte", "wwan0", 1),
        ("dsl", "eth1", 2),
        ("dev", "eth3", 4),
    ]
    assert found[0].gateway == "" and found[0].routed


def test_without_netifd_the_interface_is_a_device() -> None:
    assert wans.discover(world(default("eth1")), Settings(wans=(Wan("a", interface="eth1"),)), {})[0].works


def test_a_configured_wan_that_is_nowhere_is_shown_and_cannot_carry() -> None:
    [path] = wans.discover(world(), Settings(wans=(Wan("a", device="eth1"),)), {})
    assert (path.family, path.carrier, path.routed, path.works) == (4, False, False, False)


def test_a_route_that_the_kernel_lost_is_known_from_netifd() -> None:
    """`ip link set eth1 down; ip link set eth1 up` from outside drops it, and netifd never restores it."""
    interfaces = {"wan": Interface("wan", "eth1", True, gateways=("10.0.0.1", "fe80::1"))}
    seen = world(links=(Link(2, "eth1"),), interfaces=interfaces)
    found = wans.discover(seen, Settings(wans=(Wan("wan", interface="wan"),)), {})
    assert [(path.family, path.gateway, path.works) for path in found] == [
        (4, "10.0.0.1", True),
        (6, "fe80::1", True),
    ]


def test_a_source_specific_route_of_ipv6_yields_to_a_plain_one_and_gives_its_prefix() -> None:
    prefix = "2001:db8:a::/56"
    seen = world(
        default("eth1", "fe80::1", 512, 6, src=prefix),
        addresses=(Address("eth1", "2001:db8:a::2/64"), Address("eth1", "fe80::2/64", scope="link")),
    )
    [path] = wans.discover(seen, Settings(wans=(Wan("a", device="eth1"),)), {})
    assert path.gateway == "fe80::1" and path.sources == (prefix, "2001:db8:a::2")


def test_addresses_that_cannot_be_used_are_no_sources() -> None:
    seen = world(
        default("eth1"),
        addresses=(
            Address("eth1", "10.0.0.2/24"),
            Address("eth1", "10.0.0.3/24", usable=False),
            Address("eth1", "127.0.0.9/8", scope="host"),
            Address("eth9", "10.0.0.4/24"),
        ),
    )
    assert wans.discover(seen, Settings(), {})[0].sources == ("10.0.0.2",)


@pytest.mark.parametrize(
    ("link", "works"),
    [
        (Link(2, "eth1"), True),
        (Link(2, "eth1", carrier=False), False),
        (Link(2, "eth1", up=False), False),
    ],
)
def test_carrier(link: Link, works: bool) -> None:
    assert wans.discover(world(default("eth1"), links=(link,)), Settings(), {})[0].works is works


# ---------------------------------------------------------------- numbers


def ours(device: str, table: int) -> Route:
    return Route(4, table, "0.0.0.0/0", (Hop("10.0.0.1", device),), 10, 157)


def test_a_known_wan_keeps_its_number_whoever_comes() -> None:
    seen = world(default("eth0", metric=1), default("eth1", metric=2))
    assert [path.index for path in wans.discover(seen, Settings(), {"eth1": 1})] == [2, 1]


def test_after_a_restart_the_numbers_are_those_of_our_tables() -> None:
    seen = world(default("eth0", metric=1), default("eth1", metric=2), ours("eth0", 7402), ours("eth1", 7401))
    assert [path.index for path in wans.discover(seen, Settings(), {})] == [2, 1]


def test_the_active_table_and_foreign_tables_number_nobody() -> None:
    foreign = Route(4, 7403, "0.0.0.0/0", (Hop("10.0.0.1", "eth1"),), 10, 4)
    seen = world(default("eth1"), ours("eth1", 7400), foreign)
    assert wans.discover(seen, Settings(), {})[0].index == 1


def test_no_room_for_a_number_is_no_reason_to_fail() -> None:
    seen = world(*(default(f"eth{n}", metric=n) for n in range(5)))
    narrow = Settings(routing=Routing(mark_mask=0xF0000))
    assert [path.index for path in wans.discover(seen, narrow, {})] == [1, 2, 3, 4, 5]
    narrower = Settings(routing=Routing(mark_mask=0x30000))
    assert [path.index for path in wans.discover(seen, narrower, {})] == [0] * 5


# ---------------------------------------------------------------- whose default route it is


def half(dst: str, device: str) -> Route:
    return Route(6 if ":" in dst else 4, RT_TABLE_MAIN, dst, (Hop("", device),))


@pytest.mark.parametrize(
    ("routes", "owner"),
    [
        ((default("eth1"),), ""),
        ((default("eth1"), default("wg0", "", 5)), "wg0"),
        ((default("eth1"), default("wg0", "", 50)), ""),
        ((default("eth1"), half("0.0.0.0/1", "wg0"), half("128.0.0.0/1", "wg0")), "wg0"),
        ((default("eth1"), half("0.0.0.0/1", "wg0")), ""),
        ((default("eth1"), half("0.0.0.0/1", "wg0"), half("128.0.0.0/1", "wg1")), ""),
        ((default("eth1"), half("0.0.0.0/1", "eth1"), half("128.0.0.0/1", "eth1")), ""),
        ((default("eth1"), default("eth7", metric=1, linkdown=True)), ""),
        ((), ""),
    ],
)
def test_a_full_tunnel_is_seen(routes: tuple[Route, ...], owner: str) -> None:
    paths = (wans.Path("a", 4, 1, "eth1"),)
    assert wans.foreign_default(world(*routes), paths, 4) == owner


def test_full_tunnels_are_a_matter_of_one_family() -> None:
    seen = world(default("eth1"), half("::/1", "wg0"), half("8000::/1", "wg0"))
    paths = (wans.Path("a", 4, 1, "eth1"),)
    assert wans.foreign_default(seen, paths, 4) == "" and wans.foreign_default(seen, paths, 6) == "wg0"


@pytest.mark.parametrize(
    ("other", "owner"),
    [
        (default("wg0", "", 5, kind="blackhole"), ""),
        (default("wg0", "", 5, src="2001:db8::/56"), ""),  # of one prefix only
        (replace(default("wg0", "", 5), hops=()), ""),
        (replace(default("wg0", "", 5), table=7), ""),
        (replace(default("wg0", "", 5), hops=(Hop("", "wg0"), Hop("10.0.0.1", "eth1"))), ""),
        (replace(half("0.0.0.0/1", "wg0"), kind="unicast"), ""),
        (replace(default("wg0", "", 5), hops=(Hop("", "wg0"), Hop("", "wg1"))), "wg0"),
    ],
)
def test_what_is_no_full_tunnel(other: Route, owner: str) -> None:
    paths = (wans.Path("a", 4, 1, "eth1"),)
    assert wans.foreign_default(world(default("eth1"), other), paths, 4) == owner
    assert wans.foreign_default(world(default("eth1"), default("wg0", "", 5, 6)), paths, 4) == ""
    assert wans.foreign_default(World(), paths, 4) == ""


# ---------------------------------------------------------------- one path


def test_a_path_in_full() -> None:
    route = default("eth1", metric=7, source="10.0.0.9")
    route = replace(route, hops=(Hop("10.9.9.9", "eth9"), Hop("10.0.0.1", "eth1", onlink=True)))
    seen = world(
        route, default("eth1", "10.0.0.3", 20), addresses=(
            Address("eth1", "10.0.0.2/24"), Address("eth1", "2001:db8::2/64"), Address("eth9", "10.9.9.2/24"),
            Address("eth1", "169.254.0.1/16", "link"), Address("eth1", "10.0.0.7/24", usable=False),
        ),
    )  # fmt: skip
    settings = Settings(wans=(Wan("cable", device="eth1", priority=3, families=(4,)),))
    assert wans.discover(seen, settings, {"cable": 5}) == (
        wans.Path("cable", 4, 1, "eth1", "10.0.0.1", True, "10.0.0.9", ("10.0.0.2",), 7, 3, True, True),
    )
    nothing = wans.discover(world(), settings, {})
    assert nothing == (wans.Path("cable", 4, 1, "eth1", priority=3),) and not nothing[0].works


def test_carrier_without_a_next_hop_carries_nothing() -> None:
    seen = world(links=(Link(3, "eth1"),))
    [path] = wans.discover(seen, Settings(wans=(Wan("a", device="eth1", families=(4,)),)), {})
    assert path.carrier and not path.routed and not path.works


def test_the_kernels_route_comes_before_netifds_word_and_of_netifd_only_what_is_up_there() -> None:
    def gateway(*interfaces: Interface, routes: tuple[Route, ...] = ()) -> str:
        known = {interface.name: interface for interface in interfaces}
        seen = world(*routes, links=(Link(3, "eth1"),), interfaces=known)
        settings = Settings(wans=(Wan("a", device="eth1", families=(4,)),))
        [path] = wans.discover(seen, settings, {})
        assert path.metric == (10 if path.gateway == "10.0.0.1" else 0)
        return path.gateway

    up = Interface("wan", "eth1", True, gateways=("fe80::1", "10.0.0.8", "10.0.0.9"))
    assert gateway(up) == "10.0.0.8"
    assert gateway(up, routes=(default("eth1"),)) == "10.0.0.1"
    assert gateway(up, routes=(default("eth2"),)) == "10.0.0.8", "another device's route"
    assert gateway(up, routes=(replace(default("eth1"), table=7),)) == "10.0.0.8"
    assert gateway(up, routes=(default("eth1", kind="prohibit"),)) == "10.0.0.8"
    assert gateway(up, routes=(replace(default("eth1"), dst="10.0.0.0/8"),)) == "10.0.0.8"
    assert gateway(Interface("wan", "eth1", False, gateways=("10.0.0.8",))) == ""
    assert gateway(Interface("lan", "eth2", True, gateways=("10.0.0.8",))) == ""


def test_a_wan_without_a_device_has_nobodys_gateway() -> None:
    nowhere = Interface("idle", "", True, gateways=("10.0.0.8",))
    seen = world(interfaces={"idle": nowhere})
    [path] = wans.discover(seen, Settings(wans=(Wan("a", interface="wana", families=(4,)),)), {})
    assert (path.device, path.gateway, path.routed) == ("", "", False)


def test_a_wan_without_families_is_none() -> None:
    assert wans.discover(world(), Settings(wans=(Wan("a", device="eth1", families=()),)), {}) == ()


def test_delegated_prefixes_are_of_one_device_and_family() -> None:
    seen = world(
        default("eth1"), default("eth1", "fe80::1", 512, 6, src="2001:db8:1::/56"),
        default("eth2", "fe80::1", 512, 6, src="2001:db8:2::/56"),
    )  # fmt: skip
    found = {path.key: path.sources for path in wans.discover(seen, Settings(), {})}
    assert found == {("eth1", 4): (), ("eth1", 6): ("2001:db8:1::/56",), ("eth2", 6): ("2001:db8:2::/56",)}


def test_a_device_of_wireguard_is_no_wan_whatever_its_kind() -> None:
    seen = world(default("utun"), default("eth1"), wireguard={"utun": DeviceSeen("utun")})
    assert names(wans.discover(seen, Settings(), {})) == ["eth1/4"]
    unseen = replace(seen, net=Net(routes=(default("eth1"),)))
    assert names(wans.discover(unseen, Settings(), {})) == ["eth1/4"], "its link was missed by this look"


def test_discovered_wans_that_balance_are_equals() -> None:
    seen = world(default("eth1", metric=1), default("eth2", metric=2))
    found = wans.discover(seen, Settings(routing=Routing(balance=True)), {})
    assert [path.priority for path in found] == [Wan("x").priority] * 2


def test_a_configured_wan_has_the_number_of_its_place_while_there_is_room() -> None:
    three = tuple(Wan(name, device=f"eth{n}", families=(4,)) for n, name in enumerate("abc"))
    narrow = Settings(wans=three, routing=Routing(mark_mask=0x7000))
    assert [path.index for path in wans.discover(world(), narrow, {"a": 2})] == [1, 2, 0]


def test_no_two_wans_share_a_number() -> None:
    """Our tables say so of two after somebody edited them, or one was known before."""
    both = replace(ours("eth0", 7401), hops=(Hop("10.0.0.1", "eth0"), Hop("10.0.0.1", "eth1")))
    seen = world(default("eth0", metric=1), default("eth1", metric=2), both)
    assert [path.index for path in wans.discover(seen, Settings(), {})] == [1, 2]
    taken = world(default("eth0", metric=1), ours("eth0", 7403))
    assert [path.index for path in wans.discover(taken, Settings(), {"gone": 3})] == [1]


def test_the_options_of_a_wan() -> None:
    lte = Wan("lte", metered=True)
    settings = Settings(wans=(Wan("a"), lte))
    assert wans.options(settings, "lte") is lte and wans.options(settings, "eth7") == Wan("eth7")
