"""The intent and the numbers it is made of: which routes, rules and marks there should be in a given
situation.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wgrouter.core import ranges, routing
from wgrouter.core.findings import Why
from wgrouter.core.link_watch import Uplink, Watch
from wgrouter.core.model import RT_TABLE_MAIN, DeviceSeen, Hop, Link, Net, Route, Rule, World
from wgrouter.core.settings import Routing, Settings, Tunnel, Wan
from wgrouter.core.wans import Path

R = Routing()


def path(name: str = "a", state: str = "up", family: int = 4, **more: object) -> Uplink:
    index = ord(name) - ord("a") + 1
    sources = (f"10.0.{index}.2",) if family == 4 else (f"2001:db8:{index}::2",)
    where = Path(
        name, family, index, f"eth{index}", "gw", sources=sources, carrier=state != "off", routed=True
    )
    return Uplink(Watch(replace(where, **more), Wan(name), (), state, 0.0, proven=True))  # type: ignore[arg-type]


def world(*routes: Route, rules: tuple[Rule, ...] = (), **marks: int) -> World:
    links = {name: Link(n, name) for n, name in enumerate(("eth1", "eth2", "wg0"), 2)}
    devices = {name: DeviceSeen(name, fwmark=mark) for name, mark in (marks or {"wg0": 0}).items()}
    return World(net=Net(links, routes=routes, rules=rules), wireguard=devices)


TUNNEL = Settings(tunnels=(Tunnel("wg0"),))
BOTH = (path("a"), path("b"))


def preferences(wanted: routing.Wanted) -> list[int]:
    return sorted({rule.preference - R.rule_base for rule in wanted.rules})


# ---------------------------------------------------------------- the map


@pytest.mark.parametrize(
    ("mask", "room"),
    [(0x3F000000, 30), (0xFF, 30), (0x1F, 14), (0xF0000, 6), (0x7000, 2), (0x3, 0), (0x1, 0), (0, 0)],
)
def test_room_for_wans(mask: int, room: int) -> None:
    assert ranges.capacity(Routing(mark_mask=mask)) == room


@given(st.integers(3, 24), st.integers(0, 8))
def test_all_marks_differ_and_stay_in_the_mask(bits: int, shift: int) -> None:
    routing_ = Routing(mark_mask=((1 << bits) - 1) << shift)
    room = ranges.capacity(routing_)
    marks = [ranges.tunnel_mark(routing_)]
    for index in range(1, room + 1):
        marks += [ranges.flow_mark(routing_, index), ranges.strict_mark(routing_, index)]
    assert len(set(marks)) == len(marks)
    assert all(mark & ~routing_.mark_mask == 0 for mark in marks)
    assert all(
        ranges.is_our_mark(routing_, mark) == bool(mark & ranges.outer_bit(routing_)) for mark in marks
    )


def test_marks_of_neighbours_are_not_ours() -> None:
    for mark in (0, 0x51, 0x100, 0x3F00, 0x20000, 0x80000, 0xFF0000, 0x40000000):
        assert not ranges.is_our_mark(R, mark)


def test_the_preferences_do_not_overlap() -> None:
    most = ranges.INDEX_MAX
    assert ranges.PREF_STRICT + most < ranges.PREF_TUNNEL < ranges.PREF_ADOPTED_SOURCE < ranges.PREF_ADOPTED
    assert ranges.PREF_ADOPTED < ranges.PREF_MAIN < ranges.PREF_SOURCE < ranges.PREF_FLOW
    assert ranges.PREF_FLOW + most < ranges.PREF_ACTIVE < ranges.SPAN


@pytest.mark.parametrize(
    ("route", "mine"),
    [
        (Route(4, 7400, "0.0.0.0/0", protocol=157), True),
        (Route(4, 7430, "0.0.0.0/0", protocol=157), True),
        (Route(4, 7431, "0.0.0.0/0", protocol=157), False),
        (Route(4, 7399, "0.0.0.0/0", protocol=157), False),
        (Route(4, 7400, "0.0.0.0/0", protocol=3), False),
        (Route(4, RT_TABLE_MAIN, "0.0.0.0/0", protocol=157), False),
    ],
)
def test_which_routes_are_ours(route: Route, mine: bool) -> None:
    assert ranges.is_our_route(R, route) is mine


@pytest.mark.parametrize(
    ("rule", "mine"),
    [
        (Rule(4, 6000, 7401, protocol=157), True),
        (Rule(4, 6199, 7401, protocol=157), True),
        (Rule(4, 6200, 7401, protocol=157), False),
        (Rule(4, 5999, 7401, protocol=157), False),
        (Rule(4, 6100, 7401, protocol=3), False),
    ],
)
def test_which_rules_are_ours(rule: Rule, mine: bool) -> None:
    assert ranges.is_our_rule(R, rule) is mine


# ---------------------------------------------------------------- the intent


def test_two_wans_and_a_tunnel_in_full() -> None:
    wanted = routing.intent(world(), BOTH, {4: "a"}, TUNNEL)
    default = Route(4, 7401, "0.0.0.0/0", (Hop("gw", "eth1"),), 10, 157)
    refuse = Route(4, 7401, "0.0.0.0/0", (), 9999, 157, "unreachable")
    other = {"hops": (Hop("gw", "eth2"),), "table": 7402}
    assert set(wanted.routes) == {
        replace(default, table=7400),
        default,
        refuse,
        replace(default, **other),  # type: ignore[arg-type]
        replace(refuse, table=7402),
    }
    ours = {"protocol": 157}
    assert set(wanted.rules) == {
        Rule(4, 6010, 7401, 0x20000000, 0x20000000, "10.0.1.2/32", **ours),
        Rule(4, 6010, 7402, 0x20000000, 0x20000000, "10.0.2.2/32", **ours),
        Rule(4, 6071, 7401, 0x21000000, 0x3F000000, **ours),
        Rule(4, 6072, 7402, 0x22000000, 0x3F000000, **ours),
        Rule(4, 6110, 7400, 0x3F000000, 0x3F000000, **ours),
        Rule(4, 6130, RT_TABLE_MAIN, suppress=0, **ours),
        Rule(4, 6131, 7401, src="10.0.1.2/32", **ours),
        Rule(4, 6131, 7402, src="10.0.2.2/32", **ours),
        Rule(4, 6141, 7401, 0x01000000, 0x3F000000, **ours),
        Rule(4, 6142, 7402, 0x02000000, 0x3F000000, **ours),
        Rule(4, 6180, 7400, **ours),
    }
    assert wanted.fwmarks == {"wg0": 0x3F000000} and wanted.courses == {("wg0", 4): "a"} and wanted.steering


@pytest.mark.parametrize(
    ("what", "seen", "settings"),
    [
        ("never looked", World(), TUNNEL),
        ("switched off", world(), replace(TUNNEL, routing=Routing(enabled=False))),
        ("no room for marks", world(), replace(TUNNEL, routing=Routing(mark_mask=0x3))),
        ("left to mwan3", world(rules=(Rule(4, 2002, 2, 0x200, 0x3F00),)), TUNNEL),
    ],
)
def test_when_nothing_is_wanted(what: str, seen: World, settings: Settings) -> None:
    assert routing.intent(seen, BOTH, {4: "a"}, settings) == routing.Wanted()


def test_with_one_wan_nothing_but_outer_packets() -> None:
    assert preferences(routing.intent(world(), (path("a"),), {4: "a"}, TUNNEL)) == [10, 71, 110]


def test_with_a_full_tunnel_unmarked_packets_are_left_to_main() -> None:
    full = Route(4, RT_TABLE_MAIN, "0.0.0.0/0", (Hop("", "wg0"),), 1)
    wanted = routing.intent(world(full), BOTH, {4: "a"}, TUNNEL)
    assert preferences(wanted) == [10, 71, 72, 110, 130, 131] and wanted.nft is None


def test_without_a_choice_the_active_table_is_not_led_to() -> None:
    wanted = routing.intent(world(), (path("a", "off"), path("b", "off")), {}, TUNNEL)
    assert preferences(wanted) == [71, 72]
    assert {route.kind for route in wanted.routes} == {"unreachable"}


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        ("up", True),
        ("suspect", True),
        ("unproven", True),
        ("held", True),
        ("degraded", True),
        ("returning", False),
        ("down", False),
        ("off", False),
    ],
)
def test_the_source_rule_is_there_only_while_the_wan_works(state: str, kept: bool) -> None:
    wanted = routing.intent(world(), (path("a"), path("b", state)), {4: "a"}, TUNNEL)
    sources = [rule for rule in wanted.rules if rule.src == "10.0.2.2/32"]
    flows = [rule for rule in wanted.rules if rule.preference == 6142]
    assert (len(sources), len(flows)) == ((2, 1) if kept else (0, 0))


def test_the_last_resort_keeps_its_rules() -> None:
    wanted = routing.intent(world(), (path("a", "down"), path("b", "down")), {4: "a"}, TUNNEL)
    assert {rule.src for rule in wanted.rules if rule.src} == {"10.0.1.2/32"}


def test_one_address_on_two_wans_tells_nothing() -> None:
    same = (path("a", sources=("192.168.1.2",)), path("b", sources=("192.168.1.2",)))
    assert not [rule for rule in routing.intent(world(), same, {4: "a"}, TUNNEL).rules if rule.src]


def test_delegated_prefixes_leave_by_their_wan() -> None:
    six = (path("a", family=6, sources=("2001:db8:1::/56",)), path("b", family=6))
    wanted = routing.intent(world(), six, {6: "b"}, TUNNEL)
    assert {rule.src for rule in wanted.rules if rule.preference == 6131} == {
        "2001:db8:1::/56",
        "2001:db8:2::2/128",
    }


@pytest.mark.parametrize(
    ("states", "course"),
    [
        (("up", "up"), "b"),
        (("up", "degraded"), "b"),  # its own, though poor
        (("up", "down"), "a"),
        (("down", "down"), "b"),  # nothing answers: its own
        (("up", "off"), "a"),
    ],
)
def test_a_tunnel_with_wans_of_its_own(states: tuple[str, str], course: str) -> None:
    settings = Settings(tunnels=(Tunnel("wg0", wans=("b",)),))
    paths = (path("a", states[0]), path("b", states[1]))
    wanted = routing.intent(world(), paths, {4: "a"}, settings)
    assert wanted.courses == {("wg0", 4): course}
    mark = wanted.fwmarks["wg0"]
    assert mark == 0x3E000000
    [rule] = [rule for rule in wanted.rules if rule.mark == mark]
    assert rule.table == (7400 if course == "a" else 7402) and rule.preference == 6112


def test_each_tunnel_with_wans_of_its_own_has_its_own_mark() -> None:
    settings = Settings(tunnels=(Tunnel("wg0", wans=("b",)), Tunnel("wg1"), Tunnel("wg2", wans=("a",))))
    wanted = routing.intent(world(wg0=0, wg1=0, wg2=0), BOTH, {4: "a"}, settings)
    assert wanted.fwmarks == {"wg0": 0x3E000000, "wg1": 0x3F000000, "wg2": 0x3D000000}


@pytest.mark.parametrize(
    ("configured", "seen", "adopted"),
    [(0x51, 0x51, 0x51), (0x51, 0, 0x51), (0, 0x51, 0x51), (0, 0, 0), (0, 0x3F000000, 0), (0, 0x22000000, 0)],
)
def test_marks_that_somebody_else_gave_are_adopted(configured: int, seen: int, adopted: int) -> None:
    settings = Settings(tunnels=(Tunnel("wg0", fwmark=configured),))
    wanted = routing.intent(world(wg0=seen), BOTH, {4: "a"}, settings)
    rules = [rule for rule in wanted.rules if rule.mask == 0xFFFFFFFF]
    assert wanted.fwmarks == ({} if adopted else {"wg0": 0x3F000000})
    assert {(rule.mark, rule.table) for rule in rules} == (
        {(adopted, 7400), (adopted, 7401), (adopted, 7402)} if adopted else set()
    )


def test_a_device_that_is_not_there_is_not_marked() -> None:
    assert routing.intent(world(wg9=0), BOTH, {4: "a"}, TUNNEL).fwmarks == {}


def test_other_peoples_wireguard_devices_are_not_marked() -> None:
    assert routing.intent(world(wg0=0, wg9=0), BOTH, {4: "a"}, TUNNEL).fwmarks == {"wg0": 0x3F000000}


def test_a_wan_without_a_number_is_not_steered_to() -> None:
    wanted = routing.intent(world(), (path("a"), path("b", index=0)), {4: "a"}, TUNNEL)
    assert {route.table for route in wanted.routes} == {7400, 7401}


def test_the_mark_that_holds_a_query_to_a_wan() -> None:
    assert routing.mark_of(BOTH, TUNNEL, "b") == 0x22000000 and routing.mark_of(BOTH, TUNNEL, "x") == 0


# ---------------------------------------------------------------- neighbours


@pytest.mark.parametrize(
    ("rule", "who", "why"),
    [
        (Rule(4, 2001, 1, 0x100, 0x3F00), "mwan3", Why.ROUTING_YIELDED),
        (Rule(4, 30000, 256, 0x10000, 0xFF0000), "pbr", Why.NEIGHBOUR_SEEN),
        (Rule(4, 5270, 52), "Tailscale", Why.NEIGHBOUR_SEEN),
        (Rule(4, 5210, RT_TABLE_MAIN, 0x80000, 0xFF0000), "Tailscale", Why.NEIGHBOUR_SEEN),
        (Rule(4, 32766, RT_TABLE_MAIN), "", None),
        (Rule(4, 6110, 7400, 0x3F000000, 0x3F000000, protocol=157), "", None),
        (Rule(4, 100, 7, 0x100, 0xFF), "", None),
    ],
)
def test_neighbours(rule: Rule, who: str, why: Why | None) -> None:
    found = routing.neighbours(world(rules=(rule, rule)))
    assert [(finding.subject, finding.why) for finding in found] == ([(who, why)] if why else [])


def test_before_pbrs_rules_ours_let_its_packets_pass() -> None:
    pbr = Rule(4, 30000, 256, 0x10000, 0xFF0000)
    wanted = routing.intent(world(rules=(pbr,)), BOTH, {4: "a"}, TUNNEL)
    [last] = [rule for rule in wanted.rules if rule.preference == 6180]
    assert (last.mark, last.mask) == (0, 0xFF0000)


# ---------------------------------------------------------------- at the edges of the map


def test_without_bits_there_are_no_marks() -> None:
    none = Routing(mark_mask=0)
    assert ranges.outer_bit(none) == 0 and not any(ranges.is_our_mark(none, mark) for mark in (0, 1, 0x51))


def test_there_are_as_many_pinned_marks_as_wans() -> None:
    narrow = Routing(mark_mask=0x7000)
    assert [ranges.pinned_mark(narrow, place) for place in range(4)] == [0x6000, 0x5000, 0, 0]


@pytest.mark.parametrize(
    ("mark", "mine"), [(0x21000000, True), (0x21000001, False), (0x61000000, False), (0x01000000, False)]
)
def test_a_mark_with_other_bits_is_not_ours(mark: int, mine: bool) -> None:
    assert ranges.is_our_mark(R, mark) == mine


@pytest.mark.parametrize(
    ("table", "index"), [(7399, 0), (7400, 0), (7401, 1), (7430, 30), (7431, 0), (254, 0)]
)
def test_whose_table_it_is(table: int, index: int) -> None:
    assert ranges.index_of_table(R, table) == index
