"""The difference between what is wanted and what is there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wgrouter.core import balance, plan
from wgrouter.core.messages import (
    AddRoute,
    AddRule,
    ApplyNft,
    DeleteRoute,
    DeleteRule,
    RemoveNft,
    SetEndpoint,
    SetFwmark,
)
from wgrouter.core.model import (
    RT_TABLE_MAIN,
    DeviceSeen,
    Endpoint,
    Hop,
    Link,
    Net,
    PeerSeen,
    Route,
    Rule,
    World,
)
from wgrouter.core.routing import Wanted
from wgrouter.core.settings import Settings, Tunnel

SETTINGS = Settings(tunnels=(Tunnel("wg0"), Tunnel("wg1", fwmark=0x51)))
BY_A = Route(4, 7400, "0.0.0.0/0", (Hop("10.0.0.1", "eth1"),), 10, 157)
BY_B = replace(BY_A, hops=(Hop("10.1.0.1", "eth2"),))
A1 = replace(BY_A, table=7401)
REFUSE = Route(6, 7401, "::/0", (), 9999, 157, "unreachable")
FLOW = Rule(4, 6141, 7401, 0x1000000, 0x3F000000, protocol=157)
SOURCE = Rule(4, 6131, 7401, src="10.0.0.2/32", protocol=157)
MAIN = (
    Route(4, RT_TABLE_MAIN, "0.0.0.0/0", (Hop("10.0.0.1", "eth1"),), 10, 3),
    Rule(4, 32766, RT_TABLE_MAIN),
)


def world(*objects: Route | Rule, nft: str | None = None, up: bool = True, **marks: int) -> World:
    net = Net(
        {name: Link(n, name, up=up) for n, name in enumerate(("eth1", "eth2"), 2)},
        routes=tuple(o for o in (*MAIN, *objects) if isinstance(o, Route)),
        rules=tuple(o for o in (*MAIN, *objects) if isinstance(o, Rule)),
    )
    return World(net=net, wireguard={n: DeviceSeen(n, fwmark=mark) for n, mark in marks.items()}, nft=nft)


def planned(wanted: Wanted, seen: World) -> list[object]:
    return list(plan.plan(wanted, seen, SETTINGS))


def test_nothing_is_planned_blindly() -> None:
    assert planned(Wanted((BY_A,), (FLOW,)), World()) == [] and plan.clean(World(), SETTINGS) == ()


def test_what_is_there_is_not_asked_for_again() -> None:
    assert planned(Wanted((BY_A, REFUSE), (FLOW, SOURCE)), world(BY_A, REFUSE, FLOW, SOURCE)) == []


@pytest.mark.parametrize(
    "there",
    [
        replace(BY_A, linkdown=True),
        replace(BY_A, expires=True),
    ],
)
def test_what_only_the_kernel_says_is_no_difference(there: Route) -> None:
    assert planned(Wanted((BY_A,)), world(there)) == []


def test_ipv6_shows_a_device_on_an_unreachable_route() -> None:
    assert planned(Wanted((REFUSE,)), world(replace(REFUSE, hops=(Hop("", "lo"),)))) == []


def test_the_order_adds_before_deletes_and_the_active_route_first() -> None:
    new = Wanted((A1, BY_B), (FLOW,), {"wg0": 0x3F000000})
    old = world(BY_A, replace(A1, table=7402), SOURCE, wg0=0)
    assert planned(new, old) == [
        AddRoute(BY_B),
        AddRoute(A1),
        AddRule(FLOW),
        SetFwmark("wg0", 0x3F000000),
        DeleteRule(SOURCE),
        DeleteRoute(replace(A1, table=7402)),
    ]


def test_a_switch_is_one_replacement() -> None:
    """The old route of the same table, destination and metric is gone with it."""
    assert planned(Wanted((BY_B,)), world(BY_A)) == [AddRoute(BY_B)]


def test_duplicates_go_and_one_stays() -> None:
    assert planned(Wanted((), (FLOW,)), world(FLOW, FLOW, FLOW)) == [DeleteRule(FLOW), DeleteRule(FLOW)]
    assert planned(Wanted(), world(FLOW, FLOW)) == [DeleteRule(FLOW), DeleteRule(FLOW)]


def test_a_route_by_a_device_that_is_down_is_not_asked_for() -> None:
    assert planned(Wanted((BY_A, REFUSE)), world(up=False)) == [AddRoute(REFUSE)]


@pytest.mark.parametrize(
    "foreign",
    [
        replace(BY_A, protocol=3),
        replace(BY_A, table=7399),
        replace(BY_A, table=RT_TABLE_MAIN),
        replace(FLOW, protocol=0),
        replace(FLOW, preference=5999),
        replace(FLOW, preference=30000),
    ],
)
def test_what_is_not_ours_is_never_touched(foreign: Route | Rule) -> None:
    assert planned(Wanted(), world(foreign)) == [] and plan.clean(world(foreign), SETTINGS) == ()


def test_a_rule_with_words_unknown_to_us_is_not_taken_for_ours() -> None:
    strange = replace(FLOW, other=True)
    assert planned(Wanted((), (FLOW,)), world(strange)) == [AddRule(FLOW), DeleteRule(strange)]


@pytest.mark.parametrize(
    ("wanted", "seen", "effects"),
    [
        ({"wg0": 0x3F000000}, {"wg0": 0x3F000000}, []),
        ({"wg0": 0x3F000000}, {"wg0": 0}, [SetFwmark("wg0", 0x3F000000)]),  # netifd's renew has reset it
        ({"wg0": 0x3F000000}, {}, []),  # not there (yet)
        ({}, {"wg0": 0x3F000000}, [SetFwmark("wg0", 0)]),  # routing is off now
        ({}, {"wg0": 0x51}, []),
        ({}, {"wg1": 0x51}, []),
        ({}, {"wg9": 0x3F000000}, []),  # not under our care
    ],
)
def test_marks(wanted: dict[str, int], seen: dict[str, int], effects: list[object]) -> None:
    assert planned(Wanted(fwmarks=wanted), world(**seen)) == effects


RULESET = 'chain about { return comment "wgrouter 0123abcd" }'


@pytest.mark.parametrize(
    ("wanted", "seen", "effects"),
    [
        (RULESET, None, []),  # never looked, or no nft here
        (RULESET, "", [ApplyNft(RULESET)]),
        (RULESET, "0123abcd", []),
        (RULESET, "ffffffff", [ApplyNft(RULESET)]),
        (None, "", []),
        (None, None, []),
        (None, "0123abcd", [RemoveNft()]),
    ],
)
def test_nft(wanted: str | None, seen: str | None, effects: list[object]) -> None:
    assert planned(Wanted(nft=wanted), world(nft=seen)) == effects
    assert balance.digest(RULESET) == "0123abcd"


def test_what_is_unsettled() -> None:
    effects = (AddRoute(REFUSE), DeleteRule(FLOW), SetFwmark("wg0", 1), ApplyNft(""))
    assert plan.unsettled(effects) == (frozenset({4, 6}), frozenset({"wg0"}))
    assert plan.unsettled((ApplyNft(""), RemoveNft())) == (frozenset(), frozenset())


def test_a_clean_stop_takes_the_catch_alls_first() -> None:
    last = Rule(4, 6180, 7400, protocol=157)
    seen = world(BY_A, FLOW, last, SOURCE, nft="0123abcd", wg0=0x3F000000, wg1=0x51)
    assert plan.clean(seen, SETTINGS) == (
        DeleteRule(last),
        DeleteRule(FLOW),
        DeleteRule(SOURCE),
        DeleteRoute(BY_A),
        SetFwmark("wg0", 0),
        RemoveNft(),
    )


LEAVING = Rule(4, 6000, 0, 0x3F000000, 0x3F000000, "10.0.0.2/32", protocol=157, action="blackhole")
LED = replace(LEAVING, family=6, table=7400, src="2001:db8::2/128", action="to_table")


def test_what_closes_the_old_way_comes_before_the_switch_and_what_leads_to_the_new_one_after_it() -> None:
    assert planned(Wanted((BY_A,), (FLOW, LEAVING, LED)), world()) == [
        AddRule(LEAVING),
        AddRoute(BY_A),
        AddRule(LED),
        AddRule(FLOW),
    ]


def test_sources_are_forgotten_before_and_after_the_old_one_is_led_elsewhere() -> None:
    """Of the device and family that move, and only where a rule leads on: else nothing leaves from there."""
    four, six = Endpoint("192.0.2.1", 51820), Endpoint("2001:db8::1", 51820)
    peers = {"four": PeerSeen("four", four), "six": PeerSeen("six", six), "none": PeerSeen("none")}
    seen = replace(world(), wireguard={name: DeviceSeen(name, peers=peers) for name in ("wg0", "wg1")})
    wanted = Wanted((BY_A,), (LEAVING, LED), leaving=frozenset({("wg0", 4), ("wg0", 6), ("wg1", 4)}))
    again = SetEndpoint("wg0", "six", six)
    assert planned(wanted, seen) == [AddRule(LEAVING), AddRoute(BY_A), again, AddRule(LED), again]
    assert planned(replace(wanted, rules=(LEAVING,)), seen) == [AddRule(LEAVING), AddRoute(BY_A)]
    assert planned(wanted, replace(seen, net=world(BY_A, LEAVING, LED).net)) == [], "once"


def test_equal_routes_are_taken_away_once() -> None:
    """IPv6 shows a device on one unreachable route and none on the other."""
    shown = replace(REFUSE, hops=(Hop("", "lo"),))
    assert planned(Wanted(), world(REFUSE, shown)) == [DeleteRoute(REFUSE)]
    assert planned(Wanted((REFUSE,)), world(REFUSE, shown)) == []


def test_an_unreachable_route_gives_way_to_a_route_in_its_place() -> None:
    refuse = replace(BY_A, kind="unreachable", hops=())
    assert planned(Wanted((BY_A,)), world(refuse)) == [AddRoute(BY_A)]


def test_before_wireguard_was_looked_at_no_mark_is_touched() -> None:
    seen = replace(world(FLOW), wireguard=None)
    assert planned(Wanted(fwmarks={"wg0": 1}), seen) == [DeleteRule(FLOW)]
    assert plan.clean(seen, SETTINGS) == (DeleteRule(FLOW),)


def test_a_mark_of_the_configuration_that_looks_like_ours_stays() -> None:
    configured = Settings(tunnels=(Tunnel("wg0", fwmark=0x3F000000),))
    assert plan.plan(Wanted(), world(wg0=0x3F000000), configured) == ()
    assert plan.clean(world(wg9=0x3F000000), SETTINGS) == (), "of a device that is not under our care"


def test_a_route_by_a_device_that_is_not_there_is_not_asked_for() -> None:
    assert planned(Wanted((replace(BY_A, hops=(Hop("", "eth9"),)),)), world()) == []
