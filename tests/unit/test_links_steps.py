"""One step of one path at a time: what is probed, when it wakes, what a look changes and what is said."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wgrouter.core import links
from wgrouter.core.findings import Why
from wgrouter.core.link_states import (
    DEGRADED,
    DOWN,
    HELD,
    OFF,
    RETURNING,
    SUSPECT,
    UNPROVEN,
    UP,
    Penalty,
    hold_for,
)
from wgrouter.core.link_watch import Burst, Memory, Watch
from wgrouter.core.machine import Context, Turn
from wgrouter.core.messages import Configured, Event, Hinted, Observed, Probe, Replied, Unsent, Woke
from wgrouter.core.model import NEVER, RT_TABLE_MAIN, Hop, Link, Net, Route, World
from wgrouter.core.settings import Hold, Probing, Settings, Wan
from wgrouter.core.wans import Path
from wgrouter.core.window import Quality, Sample, Target

NOW = 1000.0
WOKE = Woke()
THREE = tuple(Target("icmp", address) for address in ("1.1.1.1", "8.8.8.8", "9.9.9.9"))
ONE, TWO, NINE = map(str, THREE)
PLAIN = Settings()


def net(
    *families: int, carrier: bool = True, gateway: str = "10.0.0.1", devices: tuple[str, ...] = ("eth1",)
) -> Net:
    routes = tuple(
        Route(f, RT_TABLE_MAIN, "0.0.0.0/0" if f == 4 else "::/0", (Hop(gateway, name),), 10 + n)
        for n, name in enumerate(devices)
        for f in families
    )
    return Net({name: Link(n, name, carrier=carrier) for n, name in enumerate(devices, 3)}, (), routes)


def watch(state: str = UP, family: int = 4, wan: Wan = Wan("eth1"), **other: object) -> Watch:  # noqa: B008
    """As `step` leaves one that was probed lately; the next probe is due in half a second."""
    path = Path(wan.name, family, 1, "eth1", "10.0.0.1", metric=10, carrier=True, routed=True)
    basis = Watch(path, wan, THREE, state, NOW - 60.0, NOW + 0.5, proven=True)
    return replace(basis, **other)  # type: ignore[arg-type]


def sent(*ago: float, rtt: float | None = None, target: str = ONE, first: int = 10) -> tuple[Sample, ...]:
    return tuple(Sample(first + 2 * n, NOW - each, target, rtt) for n, each in enumerate(ago))


def step(
    *watches: Watch,
    event: Event = WOKE,
    settings: Settings = PLAIN,
    seen: Net | None = None,
    heard: float = NOW,
    now: float = NOW,
) -> Turn[Memory]:
    memory = Memory({one.path.key: one for one in watches}, {}, {"eth1": 1}, 100, heard, True)
    return links.step(memory, event, Context(now, settings, World(net=seen), "seed"))


def after(turn: Turn[Memory], family: int = 4, wan: str = "eth1") -> Watch:
    return turn.memory.watches[wan, family]


def wake(turn: Turn[Memory], family: int = 4) -> float:
    return turn.memory.wakes["eth1", family]


def probes(turn: Turn[Memory]) -> list[Probe]:
    return [effect for effect in turn.effects if isinstance(effect, Probe)]


def said(turn: Turn[Memory]) -> list[Why]:
    return [finding.why for finding in turn.findings]


# ---------------------------------------------------------------- wake-ups

LATE_AT = 0.6  # nothing was answered yet: window.LATE_UNKNOWN


@pytest.mark.parametrize(
    ("one", "at"),
    [
        (watch(), NOW + 0.5),
        (watch(samples=sent(0.3)), NOW + 0.3),  # late then
        (watch(HELD, samples=sent(0.3), held_until=NOW + 9.0), NOW + 0.3),
        (watch(DEGRADED, samples=sent(0.3)), NOW + 0.3),
        (watch(DOWN, samples=sent(0.3)), NOW + 0.5),  # it is decided
        (watch(RETURNING, samples=sent(0.3)), NOW + 0.5),
        (watch(HELD, held_until=NOW + 0.2), NOW + 0.2),
        (watch(UP, held_until=NOW + 0.2), NOW + 0.5),
        (watch(SUSPECT, burst=Burst(3, NOW + 0.03)), NOW + 0.03),
        (watch(SUSPECT, burst=Burst(0, NOW + 0.03, NOW + 0.1)), NOW + 0.1),
        (
            watch(HELD, burst=Burst(0, NOW + 0.03, NOW + 0.4), samples=sent(0.3)),
            NOW + 0.4,
        ),  # the burst decides
        (watch(OFF, next_at=NOW - 9.0), NEVER),
        (watch(listen_at=NOW + 0.1), NOW + 0.1),
    ],
)
def test_when_a_path_has_something_to_do(one: Watch, at: float) -> None:
    assert wake(step(one)) == pytest.approx(at)


def test_with_nothing_to_do_it_wakes_never_and_after_a_step_always_ahead() -> None:
    context = Context(NOW, PLAIN, World())
    assert links.wake_at(Memory(), context) == NEVER
    past = Memory({}, {("eth1", 4): NOW - 5.0})
    assert links.wake_at(past, context) == NOW + links.TICK
    soon = Memory({}, {("eth1", 4): NOW + 5.0, ("eth1", 6): NOW + 2.0})
    assert links.wake_at(soon, context) == NOW + 2.0


def test_an_answer_is_one_paths_business() -> None:
    one, six = watch(samples=sent(0.1)), watch(family=6, samples=sent(0.1, first=20))
    memory = Memory(
        {w.path.key: w for w in (one, six)}, {w.path.key: NOW + 0.4 for w in (one, six)}, {}, 100, NOW, True
    )
    turn = links.step(memory, Replied(20, 0.05), Context(NOW, PLAIN, World(net=net(4, 6)), "seed"))
    assert after(turn) is one and after(turn, 6).samples[0].rtt == 0.05
    for event in (Replied(21, 0.05), Replied(98, 0.05), Hinted("ubus")):  # a tunnel's, an old one, nothing
        assert (
            links.step(memory, event, Context(NOW, PLAIN, World(), "seed")).memory.watches == memory.watches
        )


# ---------------------------------------------------------------- a look


def discovered(seen: Net, started: bool, seed: str = "seed", settings: Settings = PLAIN) -> Turn[Memory]:
    return links.step(
        Memory(started=started), Observed(net=seen), Context(NOW, settings, World(net=seen), seed)
    )


def test_a_new_path_is_asked_at_once_and_used_at_the_start_only() -> None:
    for started, state in ((False, UNPROVEN), (True, RETURNING)):
        turn = discovered(net(4), started)
        one = after(turn)
        assert (one.state, one.evidence, one.since) == (state, "not probed yet", NOW)
        assert said(turn) == [Why.WAN_APPEARED] and one.burst is not None and one.burst.left == 5
        assert len(probes(turn)) == 1 and turn.memory.started
    dark = discovered(net(4, carrier=False), True)
    assert after(dark).state == OFF and said(dark) == [] and dark.effects == ()
    assert after(dark).evidence == "no carrier on eth1"


def test_the_first_steady_probes_are_spread_over_an_interval_and_families_lie_apart() -> None:
    shares = []
    for n in range(40):
        turn = discovered(net(4, 6), True, f"seed{n}")
        four, six = (after(turn, family).next_at - NOW for family in (4, 6))
        shares += [four, six]
        assert abs(four - six) == pytest.approx(0.475), "half an interval, nearly"
    assert 0.05 <= min(shares) < 0.15 and 0.9 < max(shares) <= 1.0


@pytest.mark.parametrize(
    ("seen", "wan", "evidence"),
    [
        (net(4, carrier=False), Wan("a", device="eth1"), "no carrier on eth1"),
        (net(6), Wan("a", device="eth1", families=(4,)), "no default route by eth1"),
        (net(4), Wan("a", interface="lte"), "its interface has no device"),
    ],
)
def test_what_a_path_lacks(seen: Net, wan: Wan, evidence: str) -> None:
    settings = Settings(wans=(wan,))
    world = World(net=seen, interfaces={})
    turn = links.step(Memory(), Observed(net=seen), Context(NOW, settings, world, "seed"))
    assert after(turn, wan="a").evidence == evidence


def test_what_appears_is_told_with_its_gateway() -> None:
    told = {
        gateway: discovered(net(4, gateway=gateway), True).findings[0].arguments["gateway"]
        for gateway in ("gw", "")
    }
    assert told == {"gw": "gw", "": "a point-to-point link"}
    calm = step(watch(), event=Observed(), seen=net(4))
    assert said(calm) == []
    other = step(watch(), event=Observed(), seen=net(4, gateway="10.0.0.9"))
    assert said(other) == [Why.WAN_APPEARED, Why.WAN_SUSPECT]
    back = step(watch(OFF, path=replace(watch().path, routed=False)), event=Observed(), seen=net(4))
    assert said(back) == [Why.WAN_APPEARED] and after(back).state == RETURNING
    assert after(back).burst is not None and after(back).evidence == "carrier and route are back"


def test_a_changed_gateway_of_a_dead_path_or_in_a_burst_is_no_news() -> None:
    moved = net(4, gateway="10.0.0.9")
    assert after(step(watch(DOWN), event=Observed(), seen=moved)).burst is None
    under_way = Burst(2, NOW + 0.03)
    assert after(step(watch(SUSPECT, burst=under_way), event=Observed(), seen=moved)).burst == under_way


def test_other_settings_are_probed_for_at_once() -> None:
    loaded = Configured(PLAIN)
    assert probes(step(watch(), event=loaded, seen=net(4))) == []
    others = Settings(probing=Probing(targets4=("192.0.2.1",)))
    [probe] = probes(step(watch(), event=loaded, settings=others, seen=net(4)))
    assert probe.target == "192.0.2.1"
    limited = Settings(wans=(Wan("eth1", device="eth1", loss_max=5.0, families=(4,)),))
    assert len(probes(step(watch(), event=loaded, settings=limited, seen=net(4)))) == 1
    metered = Settings(wans=(Wan("eth1", device="eth1", metered=True, families=(4,)),))
    turn = step(watch(), event=loaded, settings=metered, seen=net(4))
    assert [probe.method for probe in probes(turn)] == ["counters", "icmp"]
    calm = step(after(turn), event=loaded, settings=metered, seen=net(4))
    assert probes(calm) == []


def test_a_discovered_wan_that_went_is_remembered_for_ten_minutes_and_a_configured_one_for_ever() -> None:
    gone = step(watch(), event=Observed(), seen=net())
    assert after(gone).gone_at == NOW and after(gone).state == OFF and said(gone) == [Why.WAN_GONE]
    assert gone.memory.indices == {"eth1": 1}
    for later, kept in ((599.9, True), (600.0, False)):
        turn = step(after(gone), event=Observed(), seen=net(), now=NOW + later)
        assert (("eth1", 4) in turn.memory.watches) == kept and said(turn) == []
        assert turn.memory.indices == ({"eth1": 1} if kept else {})
        if kept:
            assert after(turn).gone_at == NOW
    back = step(after(gone), event=Observed(), seen=net(4), now=NOW + 60.0)
    assert after(back).gone_at == NEVER
    ours = Settings(wans=(Wan("eth1", device="eth1", families=(6,)),))
    kept_ = step(after(gone), event=Observed(), seen=net(6), settings=ours, now=NOW + 9000.0)
    assert ("eth1", 4) in kept_.memory.watches
    other = Settings(wans=(Wan("b", device="eth1", families=(4,)),))
    turn = step(watch(), event=Configured(other), seen=net(4), settings=other)
    assert [str(f) for f in turn.findings if f.why is Why.WAN_GONE] == [
        "eth1: it is not in the configuration any more"
    ]
    off = step(watch(OFF), event=Configured(other), seen=net(4), settings=other)
    assert Why.WAN_GONE not in said(off)


# ---------------------------------------------------------------- answers


def test_an_answer_ends_what_doubted_it() -> None:
    losses = sent(9.0, 8.0, 0.1)
    back = after(step(watch(DOWN, samples=losses, dead=(ONE, TWO)), event=Replied(14, 0.05)))
    assert back.state == HELD and [s.id for s in back.samples] == [14], (
        "what was lost before says nothing now"
    )
    assert back.dead == (TWO,) and back.evidence == f"{ONE} answers in 50 ms"
    up = after(step(watch(samples=losses, handled=12, proven=False), event=Replied(14, 0.05)))
    assert len(up.samples) == 3 and up.handled == 12 and up.proven
    burst = Burst(2, NOW + 0.03)
    calm = step(watch(SUSPECT, samples=losses, burst=burst, handled=10), event=Replied(12, 0.05))
    assert after(calm).burst is None and after(calm).state == UP and after(calm).handled == 14
    assert said(calm) == [], "a burst that ends well is no news"
    assert after(calm).since == NOW - 60.0


def test_a_refused_probe_is_missed_at_once() -> None:
    heard = sent(5.0, rtt=0.02)
    turn = step(watch(samples=(*heard, *sent(0.0, first=14))), event=Unsent(14, "Network is unreachable"))
    assert after(turn).state == SUSPECT and after(turn).evidence == f"{ONE}: Network is unreachable"


# ---------------------------------------------------------------- what time decides


def test_a_late_answer_alarms_the_other_family_of_its_wan_alone() -> None:
    good = sent(*(12.0 - n for n in range(10)), rtt=0.02)
    late = watch(samples=(*good, *sent(0.5, first=60)), handled=40)
    six, other = watch(family=6), watch(wan=Wan("eth2"))
    turn = step(late, six, other)
    assert after(turn).state == after(turn, 6).state == SUSPECT
    assert after(turn, 6).evidence == "an answer is late over the other family"
    assert after(turn).evidence == f"{ONE}: nothing for 500 ms"
    assert turn.memory.watches["eth2", 4].state == UP
    assert len(probes(turn)) == 2, "both ask at once"
    for calm in (watch(HELD, 6, held_until=NOW + 9.0), watch(family=6, burst=Burst(2, NOW + 0.03))):
        assert after(step(late, calm), 6).burst == calm.burst
    poor = (*good[1:], *sent(1.5, 0.5, first=60))
    lossy = step(watch(samples=poor, handled=60), watch(family=6))
    assert after(lossy).state == SUSPECT and after(lossy, 6).state == UP, "nothing new on a link that loses"
    held = step(watch(HELD, samples=late.samples, handled=40, held_until=NOW + 9.0), watch(family=6))
    assert after(held).burst is not None and after(held, 6).state == UP
    assert after(step(watch(OFF), watch(family=6)), 6).state == UP


def test_what_was_acted_on_and_dead_targets_make_no_burst() -> None:
    late = (*sent(9.0, rtt=0.02), *sent(0.9, first=20))
    for one in (
        watch(samples=late, handled=20),
        watch(samples=late, dead=(ONE,)),
        watch(samples=(*sent(9.0, rtt=0.02), *sent(0.1, first=20))),
    ):
        assert after(step(one)).state == UP and after(step(one)).burst is None
    assert after(step(watch(samples=late, handled=18))).state == SUSPECT


def test_a_burst_without_any_answer_is_death_in_words() -> None:
    burst = Burst(0, NOW - 0.3, NOW)
    lost = (*sent(9.0, rtt=0.02), *sent(0.5, 0.4, first=20), *sent(0.3, target=TWO, first=24))
    turn = step(watch(SUSPECT, samples=lost, burst=burst))
    assert after(turn).state == DOWN and after(turn).burst is None and after(turn).handled == 24
    assert after(turn).evidence == f"3 probes to {ONE}, {TWO} missed in 0.50 s"
    refused = (*lost[:-1], replace(lost[-1], refused="no route"), replace(lost[-1], id=26, refused="busy"))
    told = after(step(watch(SUSPECT, samples=refused, burst=burst)))
    assert told.evidence == f"4 probes to {ONE}, {TWO} missed in 0.50 s (busy, no route)"
    early = step(watch(SUSPECT, samples=lost, burst=replace(burst, decide_at=NOW + 0.1)))
    assert after(early).state == SUSPECT
    asking = step(watch(SUSPECT, samples=lost, burst=Burst(1, NOW + 0.1, NEVER)))
    assert after(asking).state == SUSPECT


@pytest.mark.parametrize(
    ("late", "graced", "state"), [(0.2, False, DOWN), (0.3, False, SUSPECT), (0.3, True, DOWN)]
)
def test_who_was_away_waits_once_more(late: float, graced: bool, state: str) -> None:
    burst = Burst(0, NOW - 1.0, NOW - late, graced)
    turn = step(watch(SUSPECT, samples=sent(1.0), burst=burst))
    assert after(turn).state == state
    if state == SUSPECT:
        assert after(turn).burst == replace(burst, decide_at=NOW + 0.1, graced=True)


def test_the_window_ends_with_its_time_or_after_a_dozen_probes() -> None:
    old = sent(31.0, 30.0, 1.0, rtt=0.02)
    assert [s.id for s in after(step(watch(samples=old))).samples] == [12, 14]
    metered = Wan("eth1", metered=True)
    old = sent(121.0, 120.0, 1.0, rtt=0.02)
    assert [s.id for s in after(step(watch(samples=old, wan=metered))).samples] == [12, 14]


def test_a_hold_ends_in_quiet() -> None:
    assert after(step(watch(HELD, held_until=NOW))).state == UP
    assert after(step(watch(HELD, held_until=NOW))).evidence == "quiet for 60 s"
    assert after(step(watch(HELD, held_until=NOW + 0.1))).state == HELD
    assert after(step(watch(HELD, held_until=NOW, burst=Burst(1, NOW + 0.1)))).state == HELD


def mixed(lost: int, count: int = 20) -> tuple[Sample, ...]:
    return tuple(
        Sample(2 * n, NOW - 25.0 + n, (ONE, TWO, NINE)[n % 3], None if n < lost else 0.02)
        for n in range(count)
    )


def test_poor_and_good_again() -> None:
    poor = after(step(watch(samples=mixed(6), handled=100)))
    assert poor.state == DEGRADED and poor.evidence == "30 % loss, the limit is 25 %" and poor.changes == 1
    assert after(step(watch(samples=mixed(5), handled=100))).state == UP
    for lost, state in ((4, DEGRADED), (3, HELD)):  # six tenths of the limit
        assert after(step(watch(DEGRADED, samples=mixed(lost), handled=100))).state == state
    few = after(step(watch(DEGRADED, samples=mixed(0, 9), handled=100)))
    assert few.state == DEGRADED, "too little is known"
    held = after(step(watch(HELD, samples=mixed(6), handled=100, held_until=NOW + 9.0)))
    assert held.state == DEGRADED
    assert after(step(watch(SUSPECT, samples=mixed(6), burst=Burst(1, NOW + 0.1)))).state == SUSPECT


def test_a_dead_target_is_told_while_others_answer() -> None:
    dead = tuple(
        Sample(2 * n, NOW - 13.0 + n, (ONE, TWO, NINE)[n % 3], None if n % 3 == 0 else 0.02)
        for n in range(12)
    )
    turn = step(watch(samples=dead, handled=100))
    assert after(turn).dead == (ONE,) and [str(f) for f in turn.findings] == [
        f"eth1: target {ONE} does not answer, others do"
    ]
    assert step(after(turn)).findings == (), "once"
    assert after(step(watch(samples=dead[:9], handled=100))).dead == ()
    lossy = tuple(replace(s, rtt=None) if s.id in (2, 4) else s for s in dead)
    assert after(step(watch(samples=lossy, handled=100, wan=Wan("eth1", loss_max=90.0)))).dead == ()


# ---------------------------------------------------------------- transitions


@pytest.mark.parametrize(
    ("state", "flaps"),
    [(UP, 1), (SUSPECT, 1), (DEGRADED, 1), (HELD, 1), (UNPROVEN, 0), (RETURNING, 0), (DOWN, 0)],
)
def test_what_counts_as_a_flap(state: str, flaps: int) -> None:
    one = watch(state, samples=sent(1.0), burst=Burst(2, NOW + 1.0), held_until=NOW + 9.0)
    cut = after(step(one, event=Observed(), seen=net(4, carrier=False)))
    assert (
        cut.state == OFF
        and cut.changes == flaps
        and cut.penalty == (Penalty(1.0, NOW) if flaps else Penalty())
    )
    assert cut.samples == () and cut.burst is None and cut.since == NOW
    begin = after(step(watch(UNPROVEN), event=Replied(10, 0.02))) if state == UNPROVEN else None
    assert begin is None or begin.changes == 0


def test_down_is_told_with_carrier_gone_or_route_gone() -> None:
    dark = step(watch(), event=Observed(), seen=net(4, carrier=False))
    assert [str(f) for f in dark.findings] == ["eth1: not usable over IPv4: no carrier on eth1"]
    lost = step(watch(), event=Observed(), seen=net())
    assert [str(f) for f in lost.findings] == ["eth1: no default route by eth1"]


def test_a_return_is_held_and_flapping_is_told() -> None:
    def back(penalty: float) -> Turn[Memory]:
        one = watch(DOWN, samples=sent(0.1), penalty=Penalty(penalty, NOW), changes=7)
        return step(one, event=Replied(10, 0.02))

    assert after(back(1.0)).held_until == pytest.approx(NOW + 4.86, abs=0.2)
    assert str(back(1.0).findings[0]).startswith("eth1: answers again over IPv4, held down for ")
    assert said(back(2.4)) == [Why.WAN_HELD] and said(back(2.5)) == [Why.WAN_HELD, Why.WAN_FLAPPING]
    assert back(2.5).findings[1].arguments["count"] == 7


def test_each_state_is_told_by_its_name() -> None:
    for turn, why in (
        (step(watch(UNPROVEN, samples=sent(0.1)), event=Replied(10, 0.02)), Why.WAN_UP),
        (step(watch(HELD, held_until=NOW)), Why.WAN_UP),
        (step(watch(samples=sent(0.7))), Why.WAN_SUSPECT),
        (step(watch(SUSPECT, samples=sent(0.7), burst=Burst(0, NOW, NOW))), Why.WAN_DOWN),
    ):
        assert said(turn) == [why] and turn.findings[0].arguments["family"] == 4


# ---------------------------------------------------------------- probes


def test_targets_take_turns_and_so_do_bursts() -> None:
    one, asked = watch(next_at=NOW), []
    for n in range(4):
        turn = step(replace(one, next_at=NOW + n), now=NOW + n, heard=NOW + n)
        [probe] = probes(turn)
        asked.append(probe.target)
        one = replace(after(turn), samples=(), burst=None)
    assert asked == [ONE, TWO, NINE, ONE] and one.turn == 4 and one.octets == 4 * 88


def test_a_burst_is_sent_in_its_rhythm_and_stands_for_the_steady_probe() -> None:
    started = step(watch(SUSPECT, burst=Burst(2, NOW), next_at=NOW))
    assert len(probes(started)) == 1 and after(started).next_at == NOW
    assert after(started).burst == Burst(1, NOW + 0.04, NEVER)
    last = after(step(watch(SUSPECT, burst=Burst(1, NOW))))
    assert last.burst == Burst(0, NOW + 0.04, NOW + LATE_AT)
    between = step(watch(SUSPECT, burst=Burst(2, NOW + 0.01), next_at=NOW))
    assert probes(between) == [] and after(between).next_at == NOW + 1.0
    late = after(step(watch(SUSPECT, burst=Burst(3, NOW - 0.5))))
    assert late.burst == Burst(2, NOW + 0.04, NEVER), "what was missed is not made up for"
    exact = after(step(watch(next_at=NOW - 0.3)))
    assert exact.next_at == NOW + 0.7 and after(step(watch(next_at=NOW - 1.5))).next_at == NOW + 1.0


def test_a_path_that_is_off_or_has_no_targets_is_not_probed() -> None:
    assert step(watch(OFF, next_at=NOW, listen_at=NOW)).effects == ()
    silent = Settings(probing=Probing(targets4=()))
    turn = step(watch(RETURNING, targets=(), next_at=NOW, burst=Burst(2, NOW)), settings=silent)
    assert turn.effects == () and after(turn).state == HELD and after(turn).next_at == NEVER
    assert after(turn).evidence == "has carrier; nothing to probe" and after(turn).burst is None
    fresh = discovered(net(4), True, settings=silent)
    assert after(fresh).burst is None and fresh.effects == ()


def test_dead_targets_are_asked_seldom_or_where_just_one_other_lives() -> None:
    def asked(turn: int, dead: tuple[str, ...], burst: Burst | None = None) -> str:
        state = SUSPECT if burst else UP
        [probe] = probes(step(watch(state, dead=dead, turn=turn, next_at=NOW, burst=burst)))
        return probe.target

    assert [asked(n, (ONE,)) for n in range(9, 21)] == [ONE, TWO, NINE] + [TWO, NINE] * 3 + [TWO, ONE, TWO]
    assert [asked(n, (ONE, TWO)) for n in (8, 9, 18, 19, 29)] == [NINE, ONE, NINE, TWO, ONE]
    burst = Burst(3, NOW)
    assert [asked(n, (ONE,), burst) for n in range(9, 12)] == [NINE, TWO, NINE]
    assert [asked(n, (ONE, TWO), burst) for n in range(3)] == [ONE, TWO, NINE], "one alone may be gone, too"
    assert [asked(n, ("192.0.2.9",)) for n in (9, 10, 11)] == [ONE, TWO, NINE], "one that is asked no more"


def test_a_burst_asks_the_one_target_that_lives() -> None:
    """Else one late answer of it is taken for the death of the path."""
    one, asked = watch(SUSPECT, dead=(ONE, TWO), burst=Burst(6, NOW)), []
    while one.burst is not None and one.burst.left:
        now = one.burst.next_at
        turn = step(one, now=now, heard=now)
        asked += [probe.target for probe in probes(turn)]
        one = after(turn)
    assert sorted(asked) == [ONE, ONE, TWO, TWO, NINE, NINE]


METERED = Wan("eth1", metered=True)


def test_counters_of_a_metered_link_are_read_each_second_and_cost_nothing() -> None:
    one = watch(wan=METERED, next_at=NOW + 5.0, listen_at=NOW)
    turn = step(one)
    assert probes(turn) == [Probe(102, "counters", "IPv4", "eth1", timeout=0.0)]
    assert (after(turn).listen_at, after(turn).listen_id, after(turn).octets) == (NOW + 1.0, 102, 0)
    assert turn.memory.last_id == 102


def test_what_is_received_puts_a_paid_probe_off_but_not_for_ever() -> None:
    def heard(last: float | None, state: str = UP, next_at: float = NOW + 1.0) -> float:
        samples = sent(last, rtt=0.02) if last is not None else ()
        one = watch(state, wan=METERED, samples=samples, next_at=next_at, listen_id=50, listen_at=NOW + 1.0)
        one = replace(one, burst=Burst(2, NOW + 0.5)) if state == SUSPECT else one
        return after(step(one, event=Replied(50, 0.0))).next_at

    assert heard(5.0) == NOW + 10.0 and heard(None) == NOW + 10.0
    assert (
        heard(55.0) == NOW + 5.0 and heard(61.0) == NOW + 1.0 and heard(5.0, next_at=NOW + 12.0) == NOW + 12.0
    )
    assert heard(5.0, SUSPECT) == NOW + 1.0


@pytest.mark.parametrize(
    ("reason", "state", "alarm_at", "suspect"),
    [
        ("sent, nothing received", UP, NOW - 10.0, True),
        ("sent, nothing received", UP, NOW - 9.9, False),
        ("sent, nothing received", HELD, NOW - 90.0, False),
        ("nothing sent", UP, NOW - 90.0, False),
    ],
)
def test_to_send_and_receive_nothing_is_suspicious(
    reason: str, state: str, alarm_at: float, suspect: bool
) -> None:
    one = watch(
        state, wan=METERED, listen_id=50, listen_at=NOW + 1.0, alarm_at=alarm_at, held_until=NOW + 9.0
    )
    done = after(step(one, event=Unsent(50, reason)))
    assert (done.burst is not None) == suspect
    if suspect:
        assert (
            done.state == SUSPECT and done.alarm_at == NOW and done.evidence == "sends and receives nothing"
        )


# ---------------------------------------------------------------- the arithmetic of holds


def test_a_hold_after_flaps_is_no_longer_than_its_penalty_wants() -> None:
    hold = Hold()
    assert Penalty().hold_until(hold, NOW) == pytest.approx(NOW + 5.0)
    assert Penalty(1.0, NOW).hold_until(hold, NOW) == pytest.approx(NOW + 5.0, abs=0.01)
    for value in (1.5, 3.0, 6.0, 10.0):
        penalty = Penalty(value, NOW)
        until = penalty.hold_until(hold, NOW)
        wanted = hold_for(penalty.now(hold, until), hold)
        assert until - NOW == pytest.approx(wanted, abs=0.001), "as long as the penalty wants by then"
    assert Penalty(20.0, NOW).flapped(hold, NOW).value == 10.0
    assert Penalty(1.0, NOW - 120.0).flapped(hold, NOW).value == pytest.approx(1.5)
    assert Penalty(3.0, NOW).now(Hold(penalty_half_life=0.0), NOW) == 0.0


def test_hopeless_is_only_what_answered_before() -> None:
    from wgrouter.core.link_watch import Uplink

    dead, dark = watch(DOWN), watch(OFF, path=replace(watch().path, carrier=False))
    assert links.hopeless((Uplink(dead), Uplink(dark))) and links.hopeless(())
    assert not links.hopeless((Uplink(dead), Uplink(watch(DOWN, proven=False))))
    assert not links.hopeless((Uplink(dead), Uplink(watch(RETURNING))))
    assert links.hopeless((Uplink(watch(OFF, path=replace(watch().path, routed=False), proven=False)),))
    seen = Uplink(watch(quality=Quality(1.0), evidence="because"))
    assert (seen.wan, seen.evidence, seen.quality, seen.proven) == (
        Wan("eth1"),
        "because",
        Quality(1.0),
        True,
    )
    assert Uplink(watch(UNPROVEN)).usable and not Uplink(watch(UNPROVEN)).answers
    assert Uplink(watch(HELD)).answers and not Uplink(watch(HELD)).usable


def test_a_probe_carries_the_mark_of_its_wan_and_the_web_page_without_a_scheme() -> None:
    one = watch(next_at=NOW)
    assert [probe.mark for probe in probes(step(one))] == [0x21000000]
    without = replace(one, path=replace(one.path, index=0))
    assert [probe.mark for probe in probes(step(without))] == [0], "its device alone holds it"
    page = Settings(probing=Probing(methods=("http",), http_url="example.net/204"))
    asked = replace(one, targets=(Target("http", "192.0.2.1"),))
    [probe] = probes(step(asked, settings=page))
    assert (probe.detail, probe.target, probe.timeout) == ("example.net/204", "192.0.2.1", 2.0)


def test_silence_is_judged_as_of_the_last_woke() -> None:
    """Behind any other event answers may wait."""
    late = watch(samples=sent(0.7))
    busy = step(late, event=Hinted("ubus"), heard=NOW - 1.0)
    assert after(busy).state == UP and busy.memory.heard == NOW - 1.0
    assert wake(busy) == NOW + links.TICK, "then it is judged"
    woken = step(late, heard=NOW - 1.0)
    assert after(woken).state == SUSPECT and woken.memory.heard == NOW


def test_other_settings_wait_for_no_wake_up() -> None:
    memory = Memory({("eth1", 4): watch()}, {("eth1", 4): NOW + 0.5}, {"eth1": 1}, 100, NOW, True)
    others = Settings(probing=Probing(targets4=("192.0.2.1",)))
    turn = links.step(memory, Configured(others), Context(NOW, others, World(net=net(4)), "seed"))
    assert [probe.target for probe in probes(turn)] == ["192.0.2.1"]


def test_a_burst_under_way_and_a_dead_path_begin_no_other() -> None:
    burst = Burst(2, NOW + 0.03)
    held = after(step(watch(HELD, samples=sent(0.7), burst=burst, held_until=NOW + 9.0)))
    assert held.burst == burst
    assert after(step(watch(DOWN, samples=sent(0.7)))).burst is None


def test_a_burst_that_slept_longer_than_the_window_is_missed_too() -> None:
    asleep = watch(SUSPECT, samples=sent(90.0), burst=Burst(0, NOW - 90.0, NOW - 89.0, graced=True))
    assert after(step(asleep)).state == DOWN and after(step(asleep)).handled == 0


def test_doubt_and_health_are_no_flaps() -> None:
    for turn in (step(watch(samples=sent(0.7))), step(watch(HELD, held_until=NOW))):
        assert (
            after(turn).state in (SUSPECT, UP)
            and after(turn).changes == 0
            and after(turn).penalty == Penalty()
        )


def test_each_probe_has_its_own_number_and_its_place_in_the_window() -> None:
    turn = step(watch(next_at=NOW), watch(family=6, next_at=NOW), watch(wan=Wan("b"), burst=Burst(2, NOW)))
    assert [probe.id for probe in probes(turn)] == [102, 104, 106] and turn.memory.last_id == 106
    assert after(turn).samples == (Sample(102, NOW, ONE),)


def test_the_other_family_asks_at_once_though_it_was_not_due() -> None:
    good = sent(*(12.0 - n for n in range(10)), rtt=0.02)
    late, six = watch(samples=(*good, *sent(0.5, first=60)), handled=40), watch(family=6)
    memory = Memory({w.path.key: w for w in (late, six)}, {six.path.key: NOW + 0.5}, {}, 100, NOW, True)
    turn = links.step(memory, WOKE, Context(NOW, PLAIN, World(), "seed"))
    assert len(probes(turn)) == 2


def test_the_latest_of_several_late_answers_is_told() -> None:
    good = sent(9.0, rtt=0.02)
    late = (*good, *sent(0.8, first=20), *sent(0.7, target=TWO, first=22))
    assert after(step(watch(samples=late, handled=10))).evidence == f"{TWO}: nothing for 700 ms"


def test_ten_samples_are_enough_to_be_good_again() -> None:
    assert after(step(watch(DEGRADED, samples=mixed(0, 10), handled=100))).state == HELD


def test_a_new_metered_path_is_listened_to_and_the_gateway_is_no_target_without_one() -> None:
    metered = Settings(wans=(Wan("eth1", device="eth1", metered=True, families=(4,)),))
    assert "counters" in {probe.method for probe in probes(discovered(net(4), True, settings=metered))}
    both = Settings(probing=Probing(targets4=("gateway", "192.0.2.1")))
    assert [t.address for t in after(discovered(net(4), True, settings=both)).targets] == [
        "gateway",
        "192.0.2.1",
    ]
    direct = after(discovered(net(4, gateway=""), True, settings=both))
    assert [t.address for t in direct.targets] == ["192.0.2.1"]


def test_settings_before_the_first_look_begin_nothing() -> None:
    turn = links.step(Memory(), Configured(PLAIN), Context(NOW, PLAIN, World(), "seed"))
    assert turn.memory == Memory(heard=turn.memory.heard) and turn.effects == ()


def test_it_wakes_for_the_first_answer_that_may_still_come() -> None:
    answered = sent(0.15, rtt=0.02)
    assert wake(step(watch(samples=(*answered, *sent(0.1, first=20))))) == pytest.approx(NOW + 0.1)
    lost = (*answered, *sent(0.9, first=18), *sent(0.1, first=20))
    assert wake(step(watch(samples=lost, handled=18))) == pytest.approx(NOW + 0.1)


def test_a_hold_is_told_in_seconds_from_now() -> None:
    one = watch(DOWN, samples=sent(0.1), penalty=Penalty(3.0, NOW))
    turn = step(one, event=Replied(10, 0.02))
    assert turn.findings[0].arguments["seconds"] == turn.findings[1].arguments["seconds"]
    assert turn.findings[0].arguments["seconds"] == pytest.approx(after(turn).held_until - NOW, abs=0.051)


def test_a_burst_is_one_probe_at_least() -> None:
    none = Settings(probing=Probing(burst_count=0))
    turn = discovered(net(4), True, settings=none)
    assert len(probes(turn)) == 1 and after(turn).burst == Burst(0, NOW + 0.04, NOW + LATE_AT)


def test_all_paths_are_seen_in_their_order() -> None:
    first, second = watch(family=6), watch()
    assert [u.path.key for u in links.view(step(first, second).memory)] == [("eth1", 6), ("eth1", 4)]


def test_what_a_path_begins_with() -> None:
    """The defaults of what is remembered: nothing proven, nothing counted, and the agent has just started."""
    turn = links.step(Memory(), Observed(net=net(4)), Context(NOW, PLAIN, World(net=net(4)), "seed"))
    one = after(turn)
    assert (one.state, one.proven, one.changes, one.octets) == (UNPROVEN, False, 0, 88)
    assert [probe.id for probe in probes(turn)] == [2]
    assert one.burst == Burst(5, NOW + 0.04, NEVER, False)
