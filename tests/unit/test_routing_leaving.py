"""What closes a tunnel's old way for a moment after its move, and detours of tunnels with their own WANs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wgrouter.core import routing
from wgrouter.core.link_watch import Uplink, Watch
from wgrouter.core.model import RT_TABLE_MAIN, DeviceSeen, Hop, Link, Net, Route, Rule, World
from wgrouter.core.settings import HostPort, Peer, Settings, Tunnel, Wan
from wgrouter.core.wans import Path

PEER = Peer("wg0", "key", "office", (HostPort("198.51.100.1"),))
TUNNEL = Tunnel("wg0", peers=(PEER,))
STEERED = Settings(tunnels=(TUNNEL,))
MARK, MASK = 0x3F000000, 0x3F000000


def path(name: str, family: int = 4, state: str = "up", **more: object) -> Uplink:
    index = ord(name) - ord("a") + 1
    sources = (f"10.0.{index}.2",) if family == 4 else (f"2001:db8:{index}::2", f"2001:db8:{index}::/56")
    where = Path(name, family, index, f"eth{index}", f"gw{index}", sources=sources, carrier=True, routed=True)
    return Uplink(Watch(replace(where, **more), Wan(name), (), state, 0.0, proven=True))  # type: ignore[arg-type]


def world(*rules: Rule, userspace: bool = False, mark: int = 0) -> World:
    links = {name: Link(n, name) for n, name in enumerate(("eth1", "eth2", "wg0"), 2)}
    return World(Net(links, rules=rules), {"wg0": DeviceSeen("wg0", fwmark=mark, userspace=userspace)})


def closing(wanted: routing.Wanted) -> list[Rule]:
    return [rule for rule in wanted.rules if rule.preference == 6000]


@pytest.mark.parametrize(
    ("family", "userspace", "table", "action"),
    [
        (4, False, 0, "blackhole"),
        (6, False, 7400, "to_table"),  # the kernel's send6 does not choose another source
        (4, True, 7400, "to_table"),  # nor does wireguard-go's send4
        (6, True, 0, "blackhole"),
    ],
)
def test_nothing_leaves_by_the_old_wan_while_a_tunnel_moves(
    family: int, userspace: bool, table: int, action: str
) -> None:
    paths, seen, key = (path("a", family), path("b", family)), world(userspace=userspace), ("wg0", family)
    wanted = routing.intent(seen, paths, {family: "b"}, STEERED, {key: "a"})
    source = "10.0.1.2/32" if family == 4 else "2001:db8:1::2/128"  # no prefix: those are clients' addresses
    [rule] = closing(wanted)
    assert rule == Rule(family, 6000, table, MARK, MASK, source, protocol=157, action=action)
    assert wanted.leaving == {key}
    for resting in ({key: "b"}, {}):  # it rests where it should, or was never seen anywhere else
        calm = routing.intent(seen, paths, {family: "b"}, STEERED, resting)
        assert closing(calm) == [] and calm.leaving == frozenset()


def test_a_tunnel_that_goes_by_a_wan_of_its_own_is_led_there() -> None:
    settings = Settings(tunnels=(replace(TUNNEL, wans=("a",)),))
    six = (path("a", 6), path("b", 6))
    [rule] = closing(routing.intent(world(), six, {6: "b"}, settings, {("wg0", 6): ""}))
    assert (rule.src, rule.table, rule.mark) == ("2001:db8:2::2/128", 7401, 0x3E000000)


def test_an_address_that_both_wans_have_is_not_closed() -> None:
    same = (path("a"), path("b", sources=("10.0.1.2", "10.0.2.2")))
    wanted = routing.intent(world(), same, {4: "a"}, STEERED, {("wg0", 4): "b"})
    assert [rule.src for rule in closing(wanted)] == ["10.0.2.2/32"]
    third = (path("a"), path("b"), path("c", sources=("10.0.2.2",)))
    wanted = routing.intent(world(), third, {4: "a"}, STEERED, {("wg0", 4): "b"})
    assert [rule.src for rule in closing(wanted)] == ["10.0.2.2/32"], "once"


def test_a_wan_without_a_number_closes_nothing() -> None:
    paths = (path("a", index=0), path("b"))
    wanted = routing.intent(world(), paths, {4: "a"}, STEERED, {("wg0", 4): "b"})
    assert closing(wanted) == [] and wanted.courses == {("wg0", 4): "a"}
    pinned = Settings(tunnels=(replace(TUNNEL, wans=("a",)),))
    wanted = routing.intent(world(), paths, {4: "a"}, pinned, {("wg0", 4): "b"})
    assert [rule for rule in wanted.rules if rule.mark == wanted.fwmarks["wg0"]] == []


def test_a_device_that_only_others_call_is_not_kept_from_answering_by_the_old_wan() -> None:
    caller = replace(PEER, endpoints=())
    for peers, closed in (((caller,), 0), ((caller, PEER), 1)):
        settings = Settings(tunnels=(replace(TUNNEL, peers=peers),))
        wanted = routing.intent(world(), (path("a"), path("b")), {4: "a"}, settings, {("wg0", 4): "b"})
        assert len(closing(wanted)) == len(wanted.leaving) == closed


LEFT = Rule(4, 6000, 0, MARK, MASK, "10.0.1.2/32", protocol=157, action="blackhole")


@pytest.mark.parametrize(
    ("left", "moving"),
    [
        (LEFT, True),
        (replace(LEFT, family=6), False),
        (replace(LEFT, mark=0x3E000000), False),  # another tunnel's
        (replace(LEFT, preference=6010), False),
        (replace(LEFT, protocol=3), False),
    ],
)
def test_a_move_that_a_killed_agent_began_is_seen_through(left: Rule, moving: bool) -> None:
    wanted = routing.intent(world(left), (path("a"), path("b")), {4: "b"}, STEERED)
    assert wanted.leaving == ({("wg0", 4)} if moving else set())
    assert closing(wanted) == ([LEFT] if moving else [])


# ---------------------------------------------------------------- detours, and what there is none of


def test_a_tunnel_with_wans_of_its_own_keeps_its_mark_on_a_detour() -> None:
    """Its rule leads it elsewhere: a mark that changed would be seen by nobody's conntrack entry."""
    settings = Settings(tunnels=(replace(TUNNEL, wans=("a",)),))
    paths = (path("a"), path("b"))
    usual = routing.intent(world(), paths, {4: "a"}, settings)
    detour = routing.intent(world(), paths, {4: "a"}, settings, None, {"wg0": "b"})
    assert detour.fwmarks == usual.fwmarks == {"wg0": 0x3E000000}
    [rule] = [rule for rule in detour.rules if rule.mark == 0x3E000000]
    assert (rule.table, rule.mask) == (7402, MASK), "other bits of a packet's mark are others'"


def test_a_detour_is_not_for_a_mark_that_somebody_gave_nor_by_a_wan_that_does_not_work() -> None:
    adopted = Settings(tunnels=(replace(TUNNEL, fwmark=0x51),))
    paths = (path("a"), path("b"))
    wanted = routing.intent(world(), paths, {4: "a"}, adopted, None, {"wg0": "b"})
    assert wanted.courses == {("wg0", 4): "a"} and wanted.fwmarks == {}
    wanted = routing.intent(world(), paths, {4: "a"}, STEERED, None, {"wg0": "b"})
    assert [rule for rule in wanted.rules if rule.preference == 6112] == [], "the WAN's own rule does"
    broken = (path("a"), path("b", routed=False))
    wanted = routing.intent(world(), broken, {4: "a"}, STEERED, None, {"wg0": "b"})
    assert wanted.courses == {("wg0", 4): "a"}


def test_before_wireguard_was_looked_at_there_is_no_way_of_a_tunnel() -> None:
    paths, blind = (path("a"), path("b")), World(net=world().net)
    assert routing.ways(blind, paths, {4: "a"}, STEERED, "wg0", 4) == ()
    assert routing.ways(world(), paths, {4: "a"}, STEERED, "wg9", 4) == ()
    assert routing.ways(world(), paths, {4: "a"}, Settings(), "wg0", 4) == (), "somebody else's device"
    assert routing.ways(world(), paths, {}, STEERED, "wg0", 4) == ()
    mwan3 = Rule(4, 2001, 1, 0x100, 0x3F00)
    assert routing.ways(world(mwan3), paths, {4: "a"}, STEERED, "wg0", 4) == ()
    wanted = routing.intent(blind, paths, {4: "a"}, STEERED)
    assert wanted.courses == {} and wanted.fwmarks == {} and wanted.steering


def test_before_the_first_look_nobody_else_routes_here() -> None:
    assert not routing.yielded(World()) and routing.neighbours(World()) == ()
    paths = (path("a"), path("b"))
    blind = World(wireguard={"wg0": DeviceSeen("wg0")})
    assert routing.ways(blind, paths, {4: "a"}, STEERED, "wg0", 4) == ("a", "b")


@pytest.mark.parametrize(
    "rule", [Rule(4, 999, 1, 1, 0x3F00), Rule(4, 4000, 1, 1, 0x3F00), Rule(4, 2000, 1, 1, 1)]
)
def test_a_rule_that_is_only_like_mwan3s_stops_nothing(rule: Rule) -> None:
    assert not routing.yielded(world(rule)) and routing.neighbours(world(rule)) == ()


@pytest.mark.parametrize("preference", [1000, 3999])
def test_routing_is_left_to_mwan3_by_any_of_its_rules(preference: int) -> None:
    assert routing.yielded(world(Rule(4, 2, 7), Rule(4, preference, 1, 0x100, 0x3F00)))


def test_ipv6_in_full() -> None:
    wanted = routing.intent(world(), (path("a", 6), path("b", 6, onlink=True)), {6: "a"}, STEERED)
    default = Route(6, 7401, "::/0", (Hop("gw1", "eth1"),), 10, 157)
    refuse = Route(6, 7401, "::/0", (), 9999, 157, "unreachable")
    by_b = (Hop("gw2", "eth2", onlink=True),)
    assert set(wanted.routes) == {
        default, replace(default, table=7400), refuse,
        replace(default, table=7402, hops=by_b), replace(refuse, table=7402),
    }  # fmt: skip
    assert {rule.src for rule in wanted.rules if rule.src} == {
        "2001:db8:1::2/128", "2001:db8:1::/56", "2001:db8:2::2/128", "2001:db8:2::/56",
    }  # fmt: skip


def test_the_preferred_source_of_mains_route_is_kept() -> None:
    wanted = routing.intent(world(), (path("a", source="10.0.1.9"),), {4: "a"}, STEERED)
    assert {route.source for route in wanted.routes if route.hops} == {"10.0.1.9"}


def test_two_neighbours_are_both_told_with_their_first_rule() -> None:
    rules = (
        Rule(4, 5270, 52, 0x80000, 0xFF0000), Rule(4, 5290, 52),
        Rule(4, 29000, 256, 0x10000, 0xFF0000), Rule(4, 30100, 7, 0x10000, 0xFF0000), Rule(4, 5210, 7),
    )  # fmt: skip
    assert [str(finding) for finding in routing.neighbours(world(*rules))] == [
        "Tailscale: Tailscale is here too: rule 5270, mask 0xff0000, table 52",
        "pbr: pbr is here too: rule 29000, mask 0xff0000, table 256",
    ]


# ---------------------------------------------------------------- WANs that are half there


def test_switched_off_nothing_is_wanted() -> None:
    paths = (path("a"), path("b"))
    assert routing.intent(world(), paths, {4: "a"}, replace(STEERED, enabled=False)) == routing.Wanted()


def test_a_full_tunnel_over_one_family_leaves_the_others_connections_to_us() -> None:
    paths = (path("a"), path("b"), path("a", 6), path("b", 6))
    both = routing.intent(world(), paths, {4: "a", 6: "a"}, STEERED).nft
    assert both is not None and "nfproto ipv4" in both and "nfproto ipv6" in both
    full = Route(4, RT_TABLE_MAIN, "0.0.0.0/0", (Hop("", "wg0"),), 1)
    seen = world()
    assert seen.net is not None
    seen = replace(seen, net=replace(seen.net, routes=(full,)))
    six = routing.intent(seen, paths, {4: "a", 6: "a"}, STEERED).nft
    assert six is not None and "nfproto ipv4" not in six and "nfproto ipv6" in six


def test_of_its_own_wans_a_tunnel_takes_the_first_that_is_well() -> None:
    settings = Settings(tunnels=(replace(TUNNEL, wans=("b", "c")),))
    paths = (path("a"), path("b", state="degraded"), path("c"))
    assert routing.intent(world(), paths, {4: "a"}, settings).courses == {("wg0", 4): "c"}
    silent = (path("b", state="down"), path("c", state="down"))
    assert routing.intent(world(), silent, {}, settings).courses == {("wg0", 4): "b"}
    assert routing.intent(world(), silent, {4: "gone"}, settings).courses == {("wg0", 4): "b"}


def test_answers_do_not_leave_by_a_wan_without_carrier() -> None:
    """It is still the one chosen: nothing else works either."""
    adopted = Settings(tunnels=(replace(TUNNEL, fwmark=0x51),))
    paths = (path("a", state="off", carrier=False), path("b", state="down"))
    wanted = routing.intent(world(), paths, {4: "a"}, adopted)
    assert [rule for rule in wanted.rules if rule.src] == []


def test_the_last_resort_keeps_the_connections_it_has() -> None:
    paths = (path("a", state="down"), path("b", state="down"))
    wanted = routing.intent(world(), paths, {4: "a"}, STEERED)
    assert [rule.table for rule in wanted.rules if 6140 < rule.preference < 6180] == [7401]
    assert [rule.preference for rule in wanted.rules if rule.src] == [6010, 6131]


def test_the_active_table_has_the_chosen_wan_while_that_works() -> None:
    def active(*paths: Uplink) -> list[str]:
        routes = routing.intent(world(), paths, {4: "b"}, STEERED).routes
        return [hop.device for route in routes if route.table == 7400 for hop in route.hops]

    assert active(path("a"), path("b")) == ["eth2"]
    assert active(path("a"), path("b", routed=False)) == []


def test_a_wan_without_a_number_is_as_if_it_were_not_there() -> None:
    without, there = path("a", index=0), path("b")
    wanted = routing.intent(world(), (without, there), {4: "b"}, STEERED)
    assert wanted == routing.intent(world(), (there,), {4: "b"}, STEERED)
    assert routing.intent(world(), (without,), {4: "a"}, STEERED).fwmarks == {}, "no table to lead it to"
    assert routing.ways(world(), (there, without), {4: "b"}, STEERED, "wg0", 4) == ("b",)


def test_the_ways_are_of_one_family() -> None:
    paths = (path("a"), path("b", 6))
    assert routing.ways(world(), paths, {4: "a", 6: "b"}, STEERED, "wg0", 4) == ("a",)


@pytest.mark.parametrize(
    ("own", "chosen", "course"),
    [("down", "held", "a"), ("down", "unproven", "a"), ("down", "down", "b"), ("off", "down", "a")],
)
def test_a_tunnel_leaves_its_silent_wan_for_a_chosen_one_that_is_better(
    own: str, chosen: str, course: str
) -> None:
    settings = Settings(tunnels=(replace(TUNNEL, wans=("b",)),))
    paths = (path("a", state=chosen), path("b", state=own, carrier=own != "off"))
    assert routing.intent(world(), paths, {4: "a"}, settings).courses == {("wg0", 4): course}


@pytest.mark.parametrize(
    "rule",
    [Rule(4, 5210, 7), Rule(4, 30000, 7), Rule(4, 100, 7, 0x10000, 0xFF0000), Rule(4, 30100, 7, 1, 0xFF0000)],
)
def test_a_rule_that_is_only_like_a_neighbours_is_nobodys(rule: Rule) -> None:
    assert routing.neighbours(world(rule)) == ()
    wanted = routing.intent(world(rule), (path("a"), path("b")), {4: "a"}, STEERED)
    assert [rule.mask for rule in wanted.rules if rule.preference == 6180] == [0]


def test_while_paths_and_their_states_stay_the_intent_does() -> None:
    """Nine steps of ten only count a probe: nothing is computed anew for them."""
    one = path("a")
    measured = Uplink(replace(one.watch, turn=7, octets=900, since=5.0))
    assert routing.basis((one,)) == routing.basis((measured,))
    for other in (path("a", state="down"), path("a", gateway="gw9"), path("b")):
        assert routing.basis((one,)) != routing.basis((other,))
