"""Detours in the routing: what the kernel is asked for, where packets go, and what a crash leaves of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.model import fib
from wgrouter.core import detours, ranges, routing
from wgrouter.core.care import Detour, TunnelMemory
from wgrouter.core.link_watch import Uplink, Watch
from wgrouter.core.messages import AddRoute, AddRule
from wgrouter.core.model import RT_TABLE_MAIN, DeviceSeen, Hop, Link, Net, Route, World
from wgrouter.core.plan import plan
from wgrouter.core.settings import HostPort, Ladder, Peer, Routing, Settings, Tunnel, Wan
from wgrouter.core.wans import Path

R = Routing()
PEER = Peer("wg0", "key", "office", (HostPort("198.51.100.1"),))


def path(name: str, state: str = "up", family: int = 4) -> Uplink:
    index = ord(name) - ord("a") + 1
    where = Path(
        name,
        family,
        index,
        f"eth{index}",
        f"10.0.{index}.1",
        sources=(f"10.0.{index}.2",),
        carrier=True,
        routed=True,
    )
    return Uplink(Watch(where, Wan(name), (), state, 0.0, proven=True))


BOTH = (path("a"), path("b"))


def settings(**of_tunnel: object) -> Settings:
    return Settings(tunnels=(replace(Tunnel("wg0", peers=(PEER,)), **of_tunnel),))  # type: ignore[arg-type]


def world(mark: int = 0) -> World:
    links = {name: Link(n, name) for n, name in enumerate(("eth1", "eth2", "wg0"), 2)}
    main = tuple(
        Route(4, RT_TABLE_MAIN, "0.0.0.0/0", (Hop(f"10.0.{n}.1", f"eth{n}"),), metric=n) for n in (1, 2)
    )
    return World(Net(links, routes=main, rules=fib.MAIN_RULES), {"wg0": DeviceSeen("wg0", fwmark=mark)})


def way(wanted: routing.Wanted, of: Settings) -> str:
    """The device by which the tunnel's outer packets leave, once the plan is carried out."""
    before = world()
    assert before.net is not None
    effects = plan(wanted, before, of)
    routes = tuple(effect.route for effect in effects if isinstance(effect, AddRoute))
    rules = tuple(effect.rule for effect in effects if isinstance(effect, AddRule))
    net = replace(before.net, routes=before.net.routes + routes, rules=before.net.rules + rules)
    found = fib.lookup(net, "198.51.100.1", mark=wanted.fwmarks["wg0"])
    assert found is not None
    return found.hops[0].device


@pytest.mark.parametrize("wans", [(), ("a",)])
def test_a_detour_moves_the_outer_packets_and_nothing_else(wans: tuple[str, ...]) -> None:
    of = settings(wans=wans)
    usual = routing.intent(world(), BOTH, {4: "a"}, of)
    detour = routing.intent(world(), BOTH, {4: "a"}, of, None, {"wg0": "b"})
    assert (way(usual, of), way(detour, of)) == ("eth1", "eth2")
    assert detour.courses == {("wg0", 4): "b"}
    assert detour.routes == usual.routes
    lan = {rule for rule in usual.rules if rule.preference - R.rule_base >= ranges.PREF_MAIN}
    assert lan == {rule for rule in detour.rules if rule.preference - R.rule_base >= ranges.PREF_MAIN}


def test_a_family_that_the_other_wan_does_not_have_stays_where_it_is() -> None:
    uplinks = (*BOTH, path("a", family=6))
    detour = routing.intent(world(), uplinks, {4: "a", 6: "a"}, settings(), None, {"wg0": "b"})
    assert detour.courses == {("wg0", 4): "b", ("wg0", 6): "a"}
    mark = detour.fwmarks["wg0"]
    assert [rule.table for rule in detour.rules if rule.family == 6 and rule.mark == mark] == [7400]


def test_where_the_ways_are_ours_to_say() -> None:
    def ways(of: Settings, mark: int = 0, uplinks: tuple[Uplink, ...] = BOTH) -> tuple[str, ...]:
        return routing.ways(world(mark), uplinks, {4: "a"}, of, "wg0", 4)

    assert ways(settings()) == ("a", "b")
    assert ways(settings(wans=("b",))) == ("b", "a")
    assert ways(settings(), uplinks=(path("a"), path("b", "down"))) == ("a",)
    assert ways(settings(), ranges.strict_mark(R, 2)) == ("a", "b")
    assert ways(settings(), 0x51) == ways(settings(fwmark=0x51)) == ()
    assert ways(replace(settings(), routing=Routing(enabled=False))) == ()
    assert ways(replace(settings(), enabled=False)) == ()


def test_a_detour_outlives_the_agent_that_began_it() -> None:
    def ways(device: str, family: int) -> tuple[str, ...]:
        return ("a", "b") if family == 4 else ()

    def adopted(mark: int) -> TunnelMemory:
        tunnels = (Tunnel("wg0", ladder=Ladder(return_after=60.0)),)
        return detours.adopted(
            TunnelMemory(),
            {"wg0": DeviceSeen("wg0", fwmark=mark)},
            tunnels,
            ways,
            lambda wan: routing.mark_of(BOTH, Settings(), wan),
            100.0,
        )

    assert adopted(ranges.strict_mark(R, 2)).detours == {"wg0": Detour("b", "a", 4, 160.0, 60.0)}
    for mark in (0, ranges.tunnel_mark(R), ranges.strict_mark(R, 1), 0x51):
        assert adopted(mark).detours == {}


def test_who_gives_up_takes_no_detour_from_others() -> None:
    unproven = Detour("b", "a", 4)
    others = {"wg1": Detour("b", "a", 4, 160.0, 60.0), "wg2": Detour("", "a", 4, 160.0, 60.0)}
    known = {"wg0": unproven, **others}
    for device in ("wg0", "wg1", "wg2", "gone already"):
        detours.given_up(known, device)
    assert known == others


# ---------------------------------------------------------------- how long one lasts

PROVEN = Detour("b", "a", 4, until=160.0, wait=60.0)
OVER = replace(PROVEN, wan="")
UNPROVEN = Detour("b", "a", 4)


def test_each_detour_in_a_row_lasts_twice_as_long_within_the_limit() -> None:
    ladder = Ladder(return_after=60.0, backoff_max=50.0)
    for wait, next_ in ((0.0, 60.0), (60.0, 120.0), (120.0, 200.0), (200.0, 200.0)):
        found = {"wg0": replace(UNPROVEN, wait=wait)}
        [told] = detours.proven(found, PEER, ladder, 100.0, "seed")
        assert told.arguments == {"wan": "b", "usual": "a", "seconds": next_, "peer": "office"}
        assert found["wg0"].wait == next_ and 0.9 * next_ <= found["wg0"].until - 100.0 <= 1.1 * next_
    for found in ({}, {"wg0": OVER}, {"wg1": UNPROVEN}):
        kept = dict(found)
        assert detours.proven(found, PEER, ladder, 100.0, "seed") == [] and found == kept


def test_a_new_one_remembers_how_long_the_last_one_was() -> None:
    found: detours.Detours = {}
    detours.begun(found, "wg0", "b", "a", 4)
    assert found == {"wg0": UNPROVEN}
    found = {"wg0": OVER}
    detours.begun(found, "wg0", "c", "a", 6)
    assert found == {"wg0": Detour("c", "a", 6, wait=60.0)}


def test_what_a_death_says_of_a_detour() -> None:
    for found, first in (({}, False), ({"wg0": UNPROVEN}, False), ({"wg0": OVER}, True)):
        kept = dict(found)
        assert detours.silent(found, PEER, 130.0) == (first, []) and found == kept
    found = {"wg0": PROVEN}
    first, [told] = detours.silent(found, PEER, 130.0)
    assert not first and str(told) == "wg0: goes by a again, not by b: office is not reached by it any more"
    assert found == {"wg0": replace(OVER, until=190.0)}, "remembered for as long as it would have lasted"


@pytest.mark.parametrize(
    ("detour", "ways", "now", "left", "reason"),
    [
        (PROVEN, ("a", "b"), 159.9, PROVEN, ""),
        (PROVEN, ("a", "b"), 160.0, replace(OVER, until=220.0), "60 s are over"),
        (PROVEN, ("c", "a", "b"), 100.0, None, "c is the usual one now"),
        (PROVEN, (), 100.0, None, "no WAN is the usual one now"),
        (PROVEN, ("a", "c"), 100.0, None, "b is not usable"),
        (UNPROVEN, ("a", "b"), 1e9, UNPROVEN, ""),
        (OVER, ("a", "b"), 159.9, OVER, ""),
        (OVER, ("a", "b"), 160.0, None, ""),
        (OVER, (), 100.0, OVER, ""),
    ],
)
def test_when_one_ends(
    detour: Detour, ways: tuple[str, ...], now: float, left: Detour | None, reason: str
) -> None:
    asked: list[tuple[str, int]] = []

    def known(device: str, family: int) -> tuple[str, ...]:
        asked.append((device, family))
        return ways

    found = {"wg0": detour}
    told = detours.due(found, known, now)
    assert [finding.arguments["reason"] for finding in told] == ([reason] if reason else [])
    assert found == ({"wg0": left} if left else {})
    assert all(family == 4 for _, family in asked)


def test_who_gives_up_takes_no_proven_one_away() -> None:
    for detour, kept in ((UNPROVEN, False), (PROVEN, True), (OVER, True)):
        left = {"wg0": detour} if kept else {}
        found = {"wg0": detour}
        detours.given_up(found, "wg0")
        assert found == left
        found = {"wg0": detour}
        detours.unproven(found, frozenset({"wg0"}))
        assert found == {"wg0": detour}
        detours.unproven(found, frozenset({"wg1"}))
        assert found == left
    detours.given_up({}, "wg0")


def test_which_are_under_way() -> None:
    memory = TunnelMemory(detours={"wg0": PROVEN, "wg1": OVER, "wg2": UNPROVEN})
    assert detours.courses(memory) == {"wg0": "b", "wg2": "b"}


def test_after_a_kill_a_device_that_is_not_there_or_unmarked_is_on_no_detour() -> None:
    tunnels = (Tunnel("wg0"), Tunnel("wg1"))
    known = TunnelMemory(detours={"wg9": PROVEN})
    seen = {"wg1": DeviceSeen("wg1", fwmark=0)}
    ways = {"wg0": ("a", "b"), "wg1": ("a", "b")}
    adopted = detours.adopted(known, seen, tunnels, lambda device, family: ways[device], lambda wan: 0, 100.0)
    assert adopted is known
    six = {"wg1": DeviceSeen("wg1", fwmark=7)}
    adopted = detours.adopted(
        known, six, tunnels, lambda device, family: ("a", "b") if family == 6 else (), lambda wan: 7, 100.0
    )
    assert adopted.detours == {"wg1": Detour("b", "a", 6, 400.0, 300.0)}
