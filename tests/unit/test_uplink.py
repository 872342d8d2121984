"""Which WAN is chosen: one line per situation."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wgrouter.core import uplink
from wgrouter.core.findings import Why
from wgrouter.core.link_states import TABLE
from wgrouter.core.link_watch import Uplink, Watch
from wgrouter.core.machine import Context
from wgrouter.core.messages import AddRoute, Commanded, ForgetFlows, SetFwmark, Woke
from wgrouter.core.model import Net, Route, World
from wgrouter.core.routing import Wanted
from wgrouter.core.settings import Routing, Settings, Wan
from wgrouter.core.wans import Path
from wgrouter.core.window import Quality

LONG = uplink.DWELL + 1.0


def path(
    name: str,
    state: str = "up",
    priority: int = 10,
    latency: float | None = 20.0,
    loss: float = 0.0,
    family: int = 4,
    proven: bool = True,
) -> Uplink:
    index = ord(name[0]) - ord("a") + 1
    where = Path(name, family, index, f"eth{index}", f"10.0.{index}.1", sources=(f"10.0.{index}.2",))
    where = Path(
        name,
        family,
        index,
        where.device,
        where.gateway,
        sources=where.sources if family == 4 else (f"2001:db8:{index}::2",),
        priority=priority,
        carrier=state != "off",
        routed=True,
    )
    quality = Quality(loss, latency, 1.0, 30)
    return Uplink(Watch(where, Wan(name), (), state, 0.0, quality=quality, proven=proven, evidence="because"))


def context(now: float = 1000.0, **routing: object) -> Context:
    return Context(now, Settings(routing=Routing(**routing)), World(net=Net()))  # type: ignore[arg-type]


@dataclass
class Case:
    what: str
    current: str
    paths: tuple[Uplink, ...]
    chosen: str
    since: float = LONG
    failback: str = "new"
    balance: bool = False
    manual: str = ""


CASES = [
    Case("first by priority", "", (path("a", priority=2), path("b", priority=1)), "b"),
    Case("first by order among equals", "", (path("a"), path("b")), "a"),
    Case("unproven counts at the start", "", (path("a", "unproven"), path("b", "up", 20)), "a"),
    Case("an unproven one in use stays", "a", (path("a", "unproven"), path("b", "up", 20)), "a"),
    Case("an unproven one is not moved to", "b", (path("a", "unproven"), path("b", "up", 20)), "b"),
    Case("a dead one is left", "a", (path("a", "down"), path("b", "up", 20)), "b"),
    Case("a suspect one is not", "a", (path("a", "suspect"), path("b", "up", 20)), "a"),
    Case("no carrier", "a", (path("a", "off"), path("b", "up", 20)), "b"),
    Case("a held one waits", "b", (path("a", "held"), path("b", "up", 20)), "b"),
    Case("a held one serves if nothing better does", "b", (path("a", "held"), path("b", "down", 20)), "a"),
    Case("failback", "b", (path("a"), path("b", "up", 20)), "a"),
    Case(
        "failback at once: the hold was in the state", "b", (path("a"), path("b", "up", 20)), "a", since=0.0
    ),
    Case("failback never", "b", (path("a"), path("b", "up", 20)), "b", failback="never"),
    Case("failback never, but it died", "b", (path("a"), path("b", "down", 20)), "a", failback="never"),
    Case("a poor one is left for a good one", "a", (path("a", "degraded"), path("b", "up", 20)), "b"),
    Case("a poor one is better than a dead one", "a", (path("a", "degraded"), path("b", "down", 20)), "a"),
    Case("all dead: stay", "b", (path("a", "down"), path("b", "down", 20)), "b"),
    Case("all dead at the start", "", (path("a", "down"), path("b", "down", 20)), "a"),
    Case("a returning one beats a dead one", "b", (path("a", "returning"), path("b", "down", 20)), "a"),
    Case("an answering one beats a returning one", "a", (path("a", "returning"), path("b", "held", 20)), "b"),
    Case("poor and held: stay", "a", (path("a", "degraded", 20), path("b", "held", 10)), "a"),
    Case(
        "less lossy by the margin", "a", (path("a", "degraded", loss=60), path("b", "degraded", loss=30)), "b"
    ),
    Case(
        "less lossy, not by the margin",
        "a",
        (path("a", "degraded", loss=39), path("b", "degraded", loss=30)),
        "a",
    ),
    Case(
        "less lossy, but just chosen",
        "a",
        (path("a", "degraded", loss=60), path("b", "degraded")),
        "a",
        since=1.0,
    ),
    Case("faster by both margins", "a", (path("a", latency=40), path("b", latency=20)), "b"),
    Case("faster by 9 ms only", "a", (path("a", latency=20), path("b", latency=11)), "a"),
    Case("faster by a quarter only", "a", (path("a", latency=100), path("b", latency=75)), "a"),
    Case("faster, but just chosen", "a", (path("a", latency=40), path("b", latency=20)), "a", since=1.0),
    Case("faster, but less preferred", "a", (path("a", latency=40), path("b", latency=20, priority=11)), "a"),
    Case(
        "faster, but weights decide", "a", (path("a", latency=40), path("b", latency=20)), "a", balance=True
    ),
    Case("latency not known", "a", (path("a", latency=None), path("b", latency=2)), "a"),
    Case("by hand", "a", (path("a"), path("b", "up", 20)), "b", manual="b"),
    Case("by hand, though poor", "a", (path("a"), path("b", "degraded", 20)), "b", manual="b"),
    Case("by hand, but dead", "a", (path("a"), path("b", "down", 20)), "a", manual="b"),
    Case("by hand, but unplugged", "a", (path("a"), path("b", "off", 20)), "a", manual="b"),
    Case("nothing has carrier", "a", (path("a", "off"), path("b", "off")), ""),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_decision(case: Case) -> None:
    about = context(failback=case.failback, balance=case.balance)
    manual = uplink.Manual(case.manual, uplink.NEVER) if case.manual else None
    choice = uplink.decide(case.paths, case.current, about.now - case.since, manual, about)
    assert choice.wan == case.chosen
    assert {one.what for one in choice.rejected} == {u.path.wan for u in case.paths} - {case.chosen}
    assert all(one.reason for one in choice.rejected) and choice.reason


STATES = st.sampled_from(sorted(TABLE))
PATHS = st.lists(
    st.tuples(STATES, st.integers(1, 3), st.floats(1, 500), st.floats(0, 100)), min_size=1, max_size=5
)


@given(PATHS, st.sampled_from(["", "a", "b", "z"]), st.sampled_from(["new", "all", "never"]), st.booleans())
def test_something_is_chosen_while_anything_has_carrier(
    drawn: list[tuple[str, int, float, float]], current: str, failback: str, balance: bool
) -> None:
    paths = tuple(
        path("abcde"[n], state, priority, latency, loss)
        for n, (state, priority, latency, loss) in enumerate(drawn)
    )
    about = context(failback=failback, balance=balance)
    choice = uplink.decide(paths, current, 0.0, None, about)
    chosen = next((u for u in paths if u.path.wan == choice.wan), None)
    if chosen is None:
        assert all(u.state == "off" for u in paths)
        return
    assert chosen.path.works
    # Never a worse group than the best there is (unproven in use, or at the start, counts as up).
    assert uplink._rank(chosen, current)[0] == min(uplink._rank(u, current)[0] for u in paths)
    # And deciding again changes nothing.
    assert uplink.decide(paths, choice.wan, about.now, None, about).wan == choice.wan


# ---------------------------------------------------------------- steps


def test_first_choice_failover_and_failback_are_told_as_such() -> None:
    good, bad = (path("a"), path("b", priority=20)), (path("a", "down"), path("b", priority=20))
    memory, told = uplink.Memory(), []
    for now, paths in enumerate((good, good, bad, bad, good)):
        turn = uplink.step(memory, Woke(), context(float(now)), paths)
        memory = turn.memory
        told.append([finding.why for finding in turn.findings])
    assert told == [[Why.UPLINK_CHOSEN], [], [Why.UPLINK_FAILOVER], [], [Why.UPLINK_FAILBACK]]
    assert memory.switches == 2 and memory.choices[4].since == 4.0


def test_last_resort_is_told_once_and_nothing_left_is_told() -> None:
    memory, told = uplink.Memory(), []
    for now, state in enumerate(("up", "down", "down", "off", "off")):
        turn = uplink.step(memory, Woke(), context(float(now)), (path("a", state),))
        memory = turn.memory
        told += [finding.why for finding in turn.findings]
    assert told == [Why.UPLINK_CHOSEN, Why.UPLINK_LAST_RESORT, Why.UPLINK_NONE]
    assert uplink.chosen(memory) == {}


def test_after_a_crash_the_active_table_says_what_is_used() -> None:
    from wgrouter.core.model import Hop

    active = Route(4, 7400, "0.0.0.0/0", (Hop("10.0.2.1", "eth2"),), 10, 157)
    seen = Context(0.0, Settings(), World(net=Net(routes=(active,))))
    memory = uplink.step(
        uplink.Memory(), Woke(), seen, (path("a", "unproven"), path("b", "unproven", 20))
    ).memory
    assert uplink.chosen(memory) == {4: "b"}


@pytest.mark.parametrize("seconds", ["", "0", "rubbish", "inf", "nan", "-5"])
def test_by_hand_without_a_sensible_end_lasts_until_auto(seconds: str) -> None:
    paths = (path("a"), path("b", priority=20))
    event = Commanded("switch", {"wan": "b", "seconds": seconds})
    turn = uplink.step(uplink.Memory(), event, context(), paths)
    assert uplink.chosen(turn.memory) == {4: "b"} and uplink.wake_at(turn.memory, context()) == uplink.NEVER
    turn = uplink.step(turn.memory, Commanded("switch", {"wan": "auto"}), context(), paths)
    assert uplink.chosen(turn.memory) == {4: "a"}


def test_by_hand_for_a_while_ends_by_itself() -> None:
    paths = (path("a"), path("b", priority=20))
    turn = uplink.step(
        uplink.Memory(), Commanded("switch", {"wan": "b", "seconds": "60"}), context(100.0), paths
    )
    assert uplink.wake_at(turn.memory, context(100.0)) == 160.0
    turn = uplink.step(turn.memory, Woke(), context(160.0), paths)
    assert uplink.chosen(turn.memory) == {4: "a"}


def test_only_a_move_to_a_preferred_wan_is_a_way_back() -> None:
    paths = (path("a"), path("b", priority=20))
    turn = uplink.step(uplink.Memory(), Woke(), context(100.0), paths)
    turn = uplink.step(turn.memory, Commanded("switch", {"wan": "b"}), context(200.0), paths)
    assert [finding.why for finding in turn.findings] == [Why.UPLINK_MANUAL, Why.UPLINK_FAILOVER]
    turn = uplink.step(turn.memory, Commanded("switch", {"wan": "auto"}), context(300.0), paths)
    assert [finding.why for finding in turn.findings] == [Why.UPLINK_MANUAL, Why.UPLINK_FAILBACK]


def test_an_unknown_wan_is_refused_in_words() -> None:
    turn = uplink.step(uplink.Memory(), Commanded("switch", {"wan": "x"}), context(), (path("a"), path("b")))
    assert str(turn.findings[0]) == "x: no WAN is called 'x'; there are: a, b"


# ---------------------------------------------------------------- what follows once the kernel shows it

ROUTE = Route(4, 7400, "0.0.0.0/0")


def failed_over() -> tuple[uplink.Memory, tuple[Uplink, ...]]:
    before, after = (path("a"), path("b", priority=20)), (path("a", "down"), path("b", priority=20))
    memory = uplink.step(uplink.Memory(), Woke(), context(0.0), before).memory
    wanted = Wanted(courses={("wg0", 4): "a"}, steering=True)
    memory = uplink.settle(memory, (), wanted, before, 1.0).memory
    return uplink.step(memory, Woke(), context(1.0), after).memory, after


def test_flows_and_generations_wait_for_the_kernel() -> None:
    memory, paths = failed_over()
    wanted = Wanted(courses={("wg0", 4): "b"}, steering=True)
    for outstanding in ((AddRoute(ROUTE),), (AddRoute(ROUTE), SetFwmark("wg0", 1))):
        turn = uplink.settle(memory, outstanding, wanted, paths, 1.0)
        assert turn.effects == () and uplink.generation(turn.memory, "wg0", 4) == 0
        memory = turn.memory
    turn = uplink.settle(memory, (), wanted, paths, 1.0)
    assert turn.effects == (ForgetFlows(local_address="10.0.1.2", protocol=0),)
    assert uplink.generation(turn.memory, "wg0", 4) == 1 and uplink.course_of(turn.memory, "wg0", 4) == "b"
    again = uplink.settle(turn.memory, (), wanted, paths, 1.0)
    assert again.effects == () and again.memory == turn.memory


def test_another_family_that_does_not_settle_holds_up_nothing() -> None:
    memory, paths = failed_over()
    other = AddRoute(Route(6, 7400, "::/0"))
    turn = uplink.settle(memory, (other,), Wanted(courses={("wg0", 4): "b"}, steering=True), paths, 1.0)
    assert turn.effects and uplink.generation(turn.memory, "wg0", 4) == 1


def test_where_routing_is_not_ours_no_flow_is_forgotten() -> None:
    memory, paths = failed_over()
    turn = uplink.settle(memory, (), Wanted(), paths, 1.0)
    assert turn.effects == () and turn.memory.forget == ()


def test_a_changed_address_is_a_changed_course() -> None:
    memory, paths = failed_over()
    wanted = Wanted(courses={("wg0", 4): "b"}, steering=True)
    memory = uplink.settle(memory, (), wanted, paths, 1.0).memory
    moved = path("b", priority=20)
    from dataclasses import replace

    moved = Uplink(replace(moved.watch, path=replace(moved.path, sources=("10.9.9.9",))))
    memory = uplink.settle(memory, (), wanted, (paths[0], moved), 1.0).memory
    assert uplink.generation(memory, "wg0", 4) == 2
