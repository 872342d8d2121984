"""What a choice says, when it is made again, and what follows for flows and tunnels."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wgrouter.core import uplink
from wgrouter.core.findings import Rejected, Why
from wgrouter.core.link_watch import Uplink, Watch
from wgrouter.core.machine import Context
from wgrouter.core.messages import (
    AddRoute,
    Commanded,
    Configured,
    Event,
    ForgetFlows,
    Hinted,
    Look,
    SetFwmark,
    Woke,
)
from wgrouter.core.model import NET, NEVER, Hop, Net, Route, World
from wgrouter.core.routing import Wanted
from wgrouter.core.settings import Routing, Settings, Wan
from wgrouter.core.uplink import Choice, Course, Manual, Memory
from wgrouter.core.wans import Path
from wgrouter.core.window import Quality

NOW = 1000.0
WOKE = Woke()


def path(
    name: str,
    state: str = "up",
    priority: int = 10,
    family: int = 4,
    latency: float | None = 20.0,
    loss: float | None = 0.0,
    samples: int = 30,
    proven: bool = True,
    sources: tuple[str, ...] = (),
) -> Uplink:
    index = ord(name[0]) - ord("a") + 1
    own = (f"10.0.{index}.2",) if family == 4 else (f"2001:db8:{index}::2", f"2001:db8:{index}::/56")
    where = Path(
        name, family, index, f"eth{index}", f"gw{index}", sources=sources or own, priority=priority,
        carrier=state != "off", routed=True,
    )  # fmt: skip
    quality = Quality(loss, latency, 1.0, samples)
    return Uplink(Watch(where, Wan(name), (), state, 0.0, quality=quality, proven=proven, evidence="because"))


def context(now: float = NOW, routes: tuple[Route, ...] = (), **routing: object) -> Context:
    return Context(now, Settings(routing=Routing(**routing)), World(net=Net(routes=routes)))  # type: ignore[arg-type]


def step(
    memory: Memory, paths: tuple[Uplink, ...], now: float = NOW, event: Event = WOKE, **routing: object
) -> Memory:
    return uplink.step(memory, event, context(now, **routing), paths).memory  # type: ignore[arg-type]


def decide(*paths: Uplink, current: str = "a", since: float = 0.0, **routing: object) -> Choice:
    return uplink.decide(paths, current, since, None, context(**routing))  # type: ignore[arg-type]


# ---------------------------------------------------------------- which

ORDER = (("up", "suspect"), ("held",), ("degraded",), ("returning", "unproven"), ("down",), ("off",))
RANKED = [(state, place) for place, states in enumerate(ORDER) for state in states]


@pytest.mark.parametrize(("first", "place"), RANKED)
@pytest.mark.parametrize(("second", "other"), RANKED)
def test_the_better_state_wins_and_the_better_priority_among_equals(
    first: str, place: int, second: str, other: int
) -> None:
    """What was used is gone; a start would count what is unproven as up."""
    choice = decide(path("a", first, 20), path("b", second, 10), current="z")
    if first == second == "off":
        assert choice.wan == "" and choice.reason == "no WAN has carrier"
    else:
        assert choice.wan == ("a" if place < other else "b")


@pytest.mark.parametrize(
    ("paths", "current", "reason"),
    [
        ((path("a"),), "", "it is the only one"),
        ((path("a"), path("b")), "", "first by priority"),
        ((path("a", "unproven"), path("b", "off")), "", "first by priority"),
        ((path("a", "held"),), "", "it is the best that has carrier"),
        ((path("a"), path("b", "off")), "b", "b: because"),
        ((path("a"),), "b", "b is gone"),
        ((path("a"), path("b", "down")), "b", "b is down: because"),
        ((path("a"), path("b", priority=20)), "b", "a is preferred and has been good for its hold-down"),
        ((path("a", "held"), path("b", "returning")), "b", "b does not answer yet"),
        ((path("a", "returning"), path("b", "returning", 20)), "b", "nothing is better by the margin"),
        ((path("a", latency=9.6), path("b", latency=40.4)), "b", "a takes 10 ms, b 40 ms"),
        ((path("a", "degraded", loss=9.6), path("b", "degraded", loss=40.4)), "b", "a loses 10 %, b 40 %"),
        ((path("a"), path("b")), "b", "nothing is better by the margin"),
    ],
)
def test_why(paths: tuple[Uplink, ...], current: str, reason: str) -> None:
    assert decide(*paths, current=current).reason == reason


def test_why_not_the_others() -> None:
    choice = decide(
        path("a"), path("b", "down"), path("c", priority=20), path("d"), path("e", priority=5),
        path("f", "unproven", 5), failback="never",
    )  # fmt: skip
    assert choice.wan == "a" and choice.rejected == (
        Rejected("b", "down: because"),
        Rejected("c", "priority 20 comes after 10"),
        Rejected("d", "not better by the margin"),
        Rejected("e", "failback is never"),
        Rejected("f", "not proven yet"),
    )
    assert decide(path("a", "off"), path("b", "off")).rejected == (
        Rejected("a", "off: because"), Rejected("b", "off: because"),
    )  # fmt: skip


@pytest.mark.parametrize(("since", "moved"), [(NOW - 29.9, False), (NOW - 30.0, True)])
def test_for_quality_alone_it_moves_every_half_minute_at_most(since: float, moved: bool) -> None:
    for paths in (
        (path("a", latency=40.0), path("b", latency=20.0)),
        (path("a", "degraded", loss=50.0), path("b", "degraded", loss=20.0)),
    ):
        assert decide(*paths, since=since).wan == ("b" if moved else "a")


@pytest.mark.parametrize(
    ("kept", "other", "wan"),
    [
        (path("a", "degraded", loss=20.0), path("b", "degraded", loss=10.0), "a"),
        (path("a", "degraded", loss=20.1), path("b", "degraded", loss=10.0), "b"),
        (path("a", "degraded", loss=10.5), path("b", "degraded", loss=None), "b"),
        (path("a", "degraded", loss=None), path("b", "degraded", loss=None), "a"),
        (path("a", "degraded", loss=50.0), path("b", "held", loss=0.0), "a"),  # it waits
        (path("a", latency=30.0), path("b", latency=20.0), "a"),  # 10 ms are not enough
        (path("a", latency=30.0), path("b", latency=19.9), "b"),
        (path("a", latency=100.0), path("b", latency=67.0), "a"),  # nor is a third
        (path("a", latency=100.0), path("b", latency=66.9), "b"),
        (path("a", latency=100.0), path("b", latency=None), "a"),
        (path("a", latency=None), path("b", latency=1.0), "a"),
        (path("a", latency=None), path("b", latency=None), "a"),
        (path("a", latency=100.0), path("b", latency=1.0, samples=9), "a"),
        (path("a", latency=100.0, samples=9), path("b", latency=1.0), "a"),
        (path("a", latency=100.0, samples=10), path("b", latency=1.0, samples=10), "b"),
        (path("a", latency=100.0), path("b", "suspect", latency=1.0), "a"),
        (path("a", latency=100.0), path("b", latency=1.0, priority=20), "a"),
    ],
)
def test_the_margins(kept: Uplink, other: Uplink, wan: str) -> None:
    assert decide(kept, other).wan == wan
    if wan == "b" and kept.state == "up":
        assert decide(kept, other, balance=True).wan == "a"


def test_the_fastest_and_the_least_lossy_of_several() -> None:
    for order in ((10.0, 5.0, 30.0), (5.0, 10.0, 30.0)):
        fast = [path(name, latency=ms) for name, ms in zip("bcd", order, strict=True)]
        assert decide(path("a", latency=100.0), *fast).wan == "bcd"[order.index(5.0)]
        poor = [path(name, "degraded", loss=loss) for name, loss in zip("bcd", order, strict=True)]
        assert decide(path("a", "degraded", loss=90.0), *poor).wan == "bcd"[order.index(5.0)]


def test_only_what_has_answered_before_is_a_last_resort() -> None:
    assert decide(path("a", "down")).last_resort
    assert not decide(path("a", "down", proven=False)).last_resort, "probes may be filtered"
    assert not decide(path("a", "held")).last_resort


# ---------------------------------------------------------------- what is used already

ACTIVE = Route(4, 7400, "0.0.0.0/0", (Hop("gw2", "eth2"),), 10, 157)


@pytest.mark.parametrize(
    ("route", "wan"),
    [
        (ACTIVE, "b"),
        (replace(ACTIVE, hops=(Hop("gw9", "eth9"), Hop("gw2", "eth2"))), "b"),
        (replace(ACTIVE, protocol=3), "a"),
        (replace(ACTIVE, table=7401), "a"),
        (replace(ACTIVE, family=6), "a"),
        (replace(ACTIVE, dst="10.0.0.0/8"), "a"),
        (replace(ACTIVE, kind="unreachable", hops=()), "a"),
    ],
)
def test_at_the_start_the_kernel_says_what_is_used(route: Route, wan: str) -> None:
    paths = (path("a", "unproven"), path("b", "up", 20))
    assert uplink.chosen(step(Memory(), paths, routes=(replace(ACTIVE, table=254), route))) == {4: wan}


# ---------------------------------------------------------------- when it is decided again


def test_before_the_first_look_nothing_is_chosen() -> None:
    blind = Context(NOW, Settings(), World())
    turn = uplink.step(Memory(), Commanded("switch", {"wan": "x"}), blind, ())
    assert turn.memory == Memory() and str(turn.findings[0]) == "x: no WAN is called 'x'; there are: none"


def test_quality_is_looked_at_every_five_seconds_and_states_at_once() -> None:
    calm, fast = (
        (path("a", latency=100.0), path("b", latency=90.0)),
        (path("a", latency=100.0), path("b", latency=9.0)),
    )
    memory = step(step(Memory(), calm, NOW - 60.0), calm)
    assert step(memory, fast, NOW + 4.9) == memory
    assert uplink.chosen(step(memory, fast, NOW + 5.0)) == {4: "b"}
    assert uplink.chosen(step(memory, fast, NOW + 4.9, Configured(Settings()))) == {4: "b"}
    assert uplink.chosen(step(memory, (path("a", "down"), path("b")), NOW + 0.1)) == {4: "b"}
    other = replace(path("a").watch.path, gateway="gw9")
    moved = (Uplink(replace(path("a").watch, path=other)), path("b"))
    assert step(memory, moved, NOW + 0.1) != memory


def test_a_choice_keeps_its_time_and_reason_but_not_what_was_rejected() -> None:
    memory = step(Memory(), (path("a"), path("b")))
    later = step(memory, (path("a"), path("b", "down")), NOW + 1.0)
    assert later.choices[4] == replace(memory.choices[4], rejected=(Rejected("b", "down: because"),))
    assert memory.choices[4].reason == "first by priority"
    resort = step(later, (path("a", "down"), path("b", "down")), NOW + 2.0)
    assert resort.choices[4].reason == "nothing is better by the margin" and resort.choices[4].since == NOW


def test_only_switch_switches() -> None:
    paths = (path("a"), path("b", priority=20))
    assert step(Memory(), paths, event=Commanded("refresh", {"wan": "b"})).manual is None
    turn = uplink.step(Memory(), Commanded("switch", {"wan": "b", "seconds": "90"}), context(), paths)
    assert turn.memory.manual == Manual("b", NOW + 90.0)
    assert turn.findings[0].text == "b is chosen by hand for 90 s"
    assert uplink.wake_at(turn.memory, context()) == NOW + 90.0
    ever = uplink.step(Memory(), Commanded("switch", {"wan": "b"}), context(switch_seconds=0.0), paths)
    assert ever.findings[0].text == "b is chosen by hand"
    usual = step(Memory(), paths, event=Commanded("switch", {"wan": "b"}), switch_seconds=60.0)
    assert usual.manual == Manual("b", NOW + 60.0)
    bad = step(Memory(), paths, event=Commanded("switch", {"wan": "b", "seconds": "x"}), switch_seconds=60.0)
    assert bad.manual == Manual("b", NEVER)
    short = step(Memory(), paths, event=Commanded("switch", {"wan": "b", "seconds": "0.5"}))
    assert short.manual == Manual("b", NOW + 0.5)
    assert step(turn.memory, paths, NOW + 89.9).manual == Manual("b", NOW + 90.0)


def told(memory: Memory, *paths: Uplink, now: float = NOW) -> list[Why]:
    return [finding.why for finding in uplink.step(memory, WOKE, context(now), paths).findings]


def test_what_is_told_of_a_choice() -> None:
    used = Memory({4: Choice("b", 0.0)})
    assert told(Memory(), path("a")) == [Why.UPLINK_CHOSEN]
    assert told(Memory({4: Choice("", 0.0)}), path("a")) == [Why.UPLINK_CHOSEN], "there was none"
    assert told(used, path("a"), path("b", priority=20)) == [Why.UPLINK_FAILBACK]
    assert told(used, path("a"), path("b", "down", 20)) == [Why.UPLINK_FAILOVER], (
        "it was left because it died"
    )
    assert told(used, path("a")) == [Why.UPLINK_FAILOVER], "it is not there any more"
    assert told(used, path("a", "off"), path("b")) == []
    resort = Memory({4: Choice("b", 0.0, last_resort=True)})
    assert told(used, path("b", "down")) == [Why.UPLINK_LAST_RESORT] and told(resort, path("b", "down")) == []
    assert told(resort, path("b")) == []


def test_a_family_whose_wans_are_all_gone_is_told_once() -> None:
    six = path("a", family=6)
    memory = step(Memory(), (path("a"), six))
    assert uplink.chosen(memory) == {4: "a", 6: "a"}
    turn = uplink.step(memory, WOKE, context(NOW + 1.0), (path("a"),))
    assert [(f.why, f.arguments["family"]) for f in turn.findings] == [(Why.UPLINK_NONE, 6)]
    assert turn.memory.choices[6] == Choice("", NOW + 1.0)
    again = uplink.step(turn.memory, WOKE, context(NOW + 10.0), (path("a"),))
    assert again.findings == () and again.memory.choices[6] == Choice("", NOW + 1.0)
    never = step(Memory(), (path("a"),))
    assert set(never.choices) == {4}


def test_switches_are_counted_from_one_wan_to_another() -> None:
    both = (path("a"), path("b", priority=20))
    memory = step(Memory(), both)
    assert memory.switches == 0
    memory = step(memory, (path("a", "down"), path("b", priority=20)), NOW + 1.0)
    assert memory.switches == 1
    memory = step(memory, (path("a", "off"), path("b", "off", 20)), NOW + 2.0)
    memory = step(memory, (path("a", "off"), path("b", priority=20)), NOW + 3.0)
    assert memory.switches == 1, "nowhere is no WAN"
    assert memory.choices[4].since == NOW + 3.0
    assert step(memory, (path("a", "off"), path("b", priority=20)), NOW + 9.0).switches == 1


# ---------------------------------------------------------------- flows


def forgotten(*states: str, failback: str = "new") -> tuple[str, ...]:
    """Of a, preferred, and b, whatever came after one another."""
    memory = Memory()
    for n, (a, b) in enumerate(zip(states[::2], states[1::2], strict=True)):
        memory = step(memory, (path("a", a), path("b", b, 20)), NOW + n, failback=failback)
    return memory.forget


def test_whose_flows_are_forgotten() -> None:
    assert forgotten("up", "up", "down", "up") == ("10.0.1.2",)
    assert forgotten("up", "up", "up", "down") == ("10.0.2.2",), (
        "balanced ones, and those that a failback left"
    )
    assert forgotten("up", "up", "held", "up") == forgotten("up", "up", "degraded", "up") == ()
    assert forgotten("up", "up", "suspect", "up") == ()
    assert forgotten("unproven", "up", "down", "up") == ("10.0.1.2",), "it was used from the start"
    assert forgotten("down", "up", "up", "up") == (), "those of the backup stay"
    assert forgotten("down", "up", "up", "up", failback="all") == ("10.0.2.2",)
    assert forgotten("up", "up", "down", "down") == ("10.0.2.2",), "a is kept for want of a better"
    assert forgotten("up", "down", "down", "down") == ()
    assert forgotten("up", "down", "down", "down", "down", "up") == ("10.0.1.2",), "still its flows"
    assert forgotten("up", "up", "off", "off") == (), "there is nowhere else"
    assert forgotten("up", "down", "down", "down", "down", "up", "down", "up") == ("10.0.1.2",), "once"


def test_of_another_family_nothing_is_forgotten_and_prefixes_are_no_addresses() -> None:
    both = (path("a"), path("b", priority=20), path("a", family=6), path("b", "up", 20, 6))
    memory = step(step(Memory(), both), (*both[:2], path("a", "down", family=6), both[3]), NOW + 1.0)
    assert memory.forget == ("2001:db8:1::2",)


def test_what_waits_to_be_forgotten_is_bounded() -> None:
    many = tuple(f"10.1.{n}.1" for n in range(200))
    memory = step(Memory(), (path("a", sources=many), path("b", priority=20)))
    assert len(step(memory, (path("a", "down"), path("b", priority=20)), NOW + 1.0).forget) == 64


# ---------------------------------------------------------------- courses of tunnels

KEY = ("wg0", 4)
STEERED = Wanted(courses={KEY: "b"}, steering=True)
MOVING = replace(STEERED, leaving=frozenset({KEY}))
PATHS = (path("a"), path("b"))
WAY = ("eth2", "gw2", "10.0.2.2")


def settle(memory: Memory, wanted: Wanted = STEERED, *outstanding: object, now: float = NOW) -> Memory:
    return uplink.settle(memory, outstanding, wanted, PATHS, now).memory  # type: ignore[arg-type]


def test_a_tunnel_met_for_the_first_time_has_not_moved() -> None:
    assert settle(Memory()).courses == {KEY: Course("b", WAY)}
    assert settle(Memory(), MOVING).courses == {KEY: Course("b", WAY, 1, 8, NOW + 0.25)}, (
        "a killed agent's move"
    )
    assert uplink.generation(Memory(), *KEY) == 0 and uplink.course_of(Memory(), *KEY) == ""


def test_a_move_sets_the_endpoint_again_eight_times() -> None:
    memory = settle(Memory(courses={KEY: Course("a", ("eth1", "gw1", "10.0.1.2"), 3)}), MOVING)
    assert memory.courses == {KEY: Course("b", WAY, 4, 8, NOW + 0.25)}
    assert uplink.resting(memory) == {KEY: ""} and uplink.wake_at(memory, context()) == NOW + 0.25
    assert settle(memory, MOVING, now=NOW + 0.2) == memory
    now, generations = NOW, []
    while uplink.wake_at(memory, context(now)) < NEVER:
        now = uplink.wake_at(memory, context(now))
        memory = settle(memory, MOVING, now=now)
        generations.append(uplink.generation(memory, *KEY))
    assert generations == [5, 6, 7, 8, 9, 10, 11, 12] and now == NOW + 2.0
    assert memory.courses == {KEY: Course("b", WAY, 12)} and uplink.resting(memory) == {KEY: "b"}


def test_another_address_or_gateway_is_another_course_without_a_move() -> None:
    memory = Memory(courses={KEY: Course("b", ("eth2", "gw9", "10.0.2.2"), 3)})
    assert settle(memory).courses == {KEY: Course("b", WAY, 4)}
    lost = Wanted(courses={KEY: "z"}, steering=True)
    assert settle(memory, lost).courses == {KEY: Course("z", (), 4)}


def test_a_course_is_known_when_the_kernel_shows_its_routes_and_its_mark() -> None:
    route, other = AddRoute(Route(4, 7400, "0.0.0.0/0")), AddRoute(Route(6, 7400, "::/0"))
    for outstanding in (route, SetFwmark("wg0", 1)):
        assert settle(Memory(), STEERED, outstanding) == Memory()
    for outstanding in (other, SetFwmark("wg1", 1)):
        assert settle(Memory(), STEERED, outstanding).courses == {KEY: Course("b", WAY)}


def test_flows_are_forgotten_family_by_family() -> None:
    memory = Memory(forget=("10.0.1.2", "2001:db8::2"))
    nothing = Wanted(steering=True)
    turn = uplink.settle(memory, (AddRoute(Route(6, 7400, "::/0")),), nothing, PATHS, NOW)
    assert turn.effects == (ForgetFlows(local_address="10.0.1.2", protocol=0),)
    assert turn.memory.forget == ("2001:db8::2",)
    assert uplink.settle(Memory(), (), nothing, PATHS, NOW).memory == Memory()
    assert uplink.settle(memory, (), Wanted(), PATHS, NOW).memory == Memory()


def test_a_move_that_is_due_is_seen_by_a_look() -> None:
    moving = {KEY: Course("b", WAY, 1, 8, NOW), ("wg1", 4): Course("b", WAY, 1, 8, NOW + 9.0)}
    for courses, now, event, looks in (
        (moving, NOW, WOKE, True),
        (moving, NOW, Hinted("ubus"), False),
        (moving, NOW - 0.1, WOKE, False),
        ({KEY: Course("b", WAY)}, NOW, WOKE, False),
        ({}, NOW, WOKE, False),
    ):
        memory = step(Memory(courses=courses), PATHS, now, Hinted("ubus"))
        for known in (memory, Memory(courses=courses)):  # nothing is to be decided, or all
            turn = uplink.step(known, event, context(now), PATHS)
            assert turn.effects == ((Look((NET,)),) if looks else ())
    assert uplink.wake_at(Memory(courses=moving), context()) == NOW + 9.0
    assert uplink.wake_at(Memory(courses=moving, manual=Manual("b", NOW + 1.0)), context()) == NOW + 1.0
