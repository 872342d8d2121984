"""The state table of a path and the steps that drive it, as tables of what happens when."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wgrouter.core import codec, link_states, link_watch, links, machine, messages, model, wans, window
from wgrouter.core.findings import Finding, Why
from wgrouter.core.link_states import (
    ANSWER,
    BACK,
    CUT,
    DEGRADED,
    DOWN,
    GOOD,
    HELD,
    LATE,
    MISSED,
    OFF,
    POOR,
    QUIET,
    RETURNING,
    SUSPECT,
    TABLE,
    UNPROVEN,
    UP,
    Penalty,
    hold_for,
)
from wgrouter.core.machine import Context, Turn
from wgrouter.core.messages import Configured, Event, Observed, Probe, Replied, Unsent, Woke
from wgrouter.core.model import RT_TABLE_MAIN, Address, Hop, Link, Net, Route, World
from wgrouter.core.settings import Hold, Probing, Settings, Wan

SIGNALS = (CUT, BACK, LATE, MISSED, ANSWER, POOR, GOOD, QUIET)

# ---------------------------------------------------------------- the table


def test_every_state_is_reachable_and_left_when_the_cable_is_cut() -> None:
    reached = {UNPROVEN, RETURNING, OFF} | {state for row in TABLE.values() for state in row.values()}
    assert reached == set(TABLE)
    assert all(row[CUT] == OFF for state, row in TABLE.items() if state != OFF)
    assert all(signal in SIGNALS for row in TABLE.values() for signal in row)


def test_up_comes_only_after_a_hold_or_at_the_very_start() -> None:
    """Down at once, up after a quiet hold: nothing leads from down or off to up directly."""
    ways_up = {(state, signal) for state, row in TABLE.items() for signal, next in row.items() if next == UP}
    assert ways_up == {(UNPROVEN, ANSWER), (SUSPECT, ANSWER), (HELD, QUIET)}
    assert OFF not in {state for state, _ in ways_up} and DOWN not in {state for state, _ in ways_up}


def test_every_state_that_carries_traffic_ends_with_a_missed_burst() -> None:
    for state in (UNPROVEN, SUSPECT, DEGRADED, HELD, RETURNING):
        assert TABLE[state][MISSED] == DOWN


# ---------------------------------------------------------------- a path, step by step


def net(carrier: bool = True, route: bool = True, gateway: str = "10.0.0.1") -> Net:
    routes = (Route(4, RT_TABLE_MAIN, "0.0.0.0/0", (Hop(gateway, "eth1"),), metric=10),) if route else ()
    return Net({"eth1": Link(3, "eth1", carrier=carrier)}, (Address("eth1", "10.0.0.2/24"),), routes)


class Path:
    """One WAN over IPv4, probed by hand: `at` gives it an event at a time and keeps what came of it."""

    def __init__(self, settings: Settings | None = None, world: Net | None = None) -> None:
        self.settings = settings or Settings()
        self.memory = links.Memory()
        self.world = World(net=world or net())
        self.sent: list[tuple[float, Probe]] = []
        self.findings: list[Finding] = []
        self.at(0.0, Configured(self.settings))
        self.at(0.0, Observed(net=self.world.net))

    def at(self, now: float, event: Event) -> Turn[links.Memory]:
        context = Context(now, self.settings, self.world, "seed")
        turn = links.step(self.memory, event, context)
        self.memory = turn.memory
        self.sent += [(now, effect) for effect in turn.effects if isinstance(effect, Probe)]
        self.findings += turn.findings
        assert links.wake_at(self.memory, context) > now
        self.wake = links.wake_at(self.memory, context)
        return turn

    def see(self, now: float, seen: Net) -> None:
        self.world = World(net=seen)
        self.at(now, Observed(net=seen))

    def answer(self, now: float, rtt: float = 0.02) -> None:
        """The latest probe is answered."""
        self.at(now, Replied(self.sent[-1][1].id, rtt))

    def run(self, until: float, rtt: float | None = 0.02) -> None:
        """Let time pass, every probe answered after `rtt` (None: never)."""
        while True:
            open_ = [
                (when + rtt, probe.id)
                for when, probe in self.sent
                if rtt is not None and when + rtt > self._done and probe.id not in self._answered
            ]
            due = min([*open_, (self.wake, 0)])
            if due[0] > until:
                return
            if due[1]:
                self._answered.add(due[1])
                self.at(due[0], Replied(due[1], rtt or 0.0))
            else:
                self.at(due[0], Woke())

    _done = -1.0

    @property
    def _answered(self) -> set[int]:
        return self.__dict__.setdefault("answered", set())

    def cut(self) -> None:
        """What is under way is lost."""
        self._answered.update(probe.id for _, probe in self.sent)

    @property
    def watch(self) -> links.Watch:
        return self.memory.watches[("eth1", 4)]

    @property
    def state(self) -> str:
        return self.watch.state

    def said(self, why: Why) -> list[Finding]:
        return [finding for finding in self.findings if finding.why is why]


def test_at_the_start_it_is_unproven_and_a_burst_asks_at_once() -> None:
    path = Path()
    assert path.state == UNPROVEN and len(path.sent) == 1
    path.at(path.wake, Woke())
    assert len(path.sent) == 2 and path.sent[1][0] == pytest.approx(0.04)
    assert {probe.target for _, probe in path.sent} == {"1.1.1.1", "8.8.8.8"}
    path.answer(0.06)
    assert path.state == UP and path.watch.burst is None
    assert links.view(path.memory)[0].usable and path.watch.proven


def test_at_the_start_silence_is_decided_within_a_second() -> None:
    path = Path()
    path.run(1.0, rtt=None)
    assert path.state == DOWN and not path.watch.proven
    assert path.watch.evidence == "6 probes to 1.1.1.1, 8.8.8.8, 9.9.9.9 missed in 0.80 s"
    assert not links.hopeless(links.view(path.memory)), "it never answered: perhaps it never will"


def test_a_silent_cut_takes_one_late_answer_and_one_burst() -> None:
    path = Path()
    path.run(10.0)
    last = path.sent[-1][0]
    path.cut()
    path.run(last + 1.0 + 0.199, rtt=None)
    assert path.state == UP
    path.run(last + 1.0 + 0.201, rtt=None)
    assert path.state == SUSPECT and links.view(path.memory)[0].usable
    path.run(last + 1.0 + 0.2 + 5 * 0.04 + 0.099, rtt=None)
    assert path.state == SUSPECT
    path.run(last + 1.0 + 0.2 + 5 * 0.04 + 0.102, rtt=None)
    assert path.state == DOWN and links.hopeless(links.view(path.memory))


def test_one_answer_ends_a_burst() -> None:
    path = Path()
    path.run(10.0)
    since = path.watch.since
    path.cut()
    path.run(path.sent[-1][0] + 1.25, rtt=None)
    assert path.state == SUSPECT
    sent = len(path.sent)
    path.answer(path.wake - 0.001)
    assert path.state == UP and path.watch.since == since, "a good end leaves no trace in since-when"
    assert len(path.sent) == sent


def test_a_late_answer_takes_its_loss_back() -> None:
    path = Path()
    path.run(20.0)
    assert path.watch.quality.loss == 0.0
    when, probe = path.sent[-1]
    path.cut()
    path.run(when + 0.9, rtt=None)
    steady = next(sample for sample in path.watch.samples if sample.id == probe.id)
    if steady.rtt is None:
        path.at(when + 0.95, Replied(probe.id, 0.95))
    assert next(sample for sample in path.watch.samples if sample.id == probe.id).rtt is not None
    assert not path.said(Why.WAN_DOWN)


def test_refused_probes_need_no_waiting_to_be_late() -> None:
    path = Path()
    path.run(10.0)
    path.cut()
    sent = len(path.sent)
    while len(path.sent) == sent:
        path.at(path.wake, Woke())
    now = path.sent[-1][0]
    path.at(now + 0.001, Unsent(path.sent[-1][1].id, "ENETUNREACH: Network is unreachable"))
    assert path.state == SUSPECT
    path.run(now + 0.4, rtt=None)
    assert path.state == DOWN and "ENETUNREACH" in path.watch.evidence


def test_carrier_loss_is_down_at_once_and_a_return_must_prove_itself() -> None:
    path = Path()
    path.run(10.0)
    path.see(10.0, net(carrier=False))
    assert path.state == OFF and path.watch.evidence == "no carrier on eth1"
    assert path.watch.quality == window.Quality()  # 0 % lost in 0.1 ms on a cut cable is nobody's measurement
    assert path.wake == model.NEVER
    path.see(12.0, net())
    assert path.state == RETURNING and len([w for w, _ in path.sent if w == 12.0]) == 1
    path.answer(12.02)
    assert path.state == HELD
    path.run(17.0)
    assert path.state == HELD
    path.run(17.1)
    assert path.state == UP


def test_a_route_that_goes_is_told_as_gone() -> None:
    path = Path()
    path.run(10.0)
    path.see(10.0, net(route=False))
    assert path.state == OFF and path.said(Why.WAN_GONE)[-1].arguments["reason"] == "no default route by eth1"


def test_a_missed_burst_while_held_begins_the_hold_anew_and_longer() -> None:
    path = Path()
    path.run(10.0)
    path.see(10.0, net(carrier=False))
    path.see(11.0, net())
    path.answer(11.02)
    first = path.watch.held_until - 11.02
    path.run(13.0)
    path.cut()
    path.run(15.0, rtt=None)
    assert path.state == DOWN
    path.run(16.5)
    assert path.state == HELD
    assert path.watch.held_until - path.watch.since > 1.7 * first


def test_a_changed_gateway_is_looked_at_quickly_but_still_used() -> None:
    path = Path()
    path.run(10.0)
    sent = len(path.sent)
    path.see(10.0, net(gateway="10.0.0.254"))
    assert path.state == SUSPECT and len(path.sent) == sent + 1
    path.answer(10.02)
    assert path.state == UP and path.watch.path.gateway == "10.0.0.254"


def test_a_stalled_process_asks_the_sockets_before_it_decides() -> None:
    """Woken 3 s late: the answers may lie unread in the socket."""
    path = Path()
    path.run(10.0)
    path.cut()
    while path.watch.burst is None or path.watch.burst.left:
        path.at(path.wake, Woke())
    late = path.wake + 3.0
    path.at(late, Woke())
    assert path.state == SUSPECT
    path.at(path.wake, Woke())
    assert path.state == DOWN, "once"


def test_silence_is_judged_as_of_the_last_woke_alone() -> None:
    """Behind a look that took a second the answers wait, read but not told yet."""
    path = Path()
    path.run(10.0)
    path.cut()
    while path.watch.burst is None or path.watch.burst.left:
        path.at(path.wake, Woke())
    late = path.wake + 1.0
    answered = path.sent[-1][1].id
    path.see(late, net())
    assert path.state == SUSPECT and path.wake == late + links.TICK
    path.at(late + 0.01, Replied(answered, 0.02))
    assert path.state == UP and not path.said(Why.WAN_DOWN)


def test_a_steady_probe_is_late_as_of_the_last_woke_alone() -> None:
    path = Path()
    path.run(10.0)
    path.cut()
    sent = len(path.sent)
    while len(path.sent) == sent:
        path.at(path.wake, Woke())
    path.see(path.sent[-1][0] + 0.7, net())
    assert path.state == UP
    path.at(path.wake, Woke())
    assert path.state == SUSPECT


def test_time_that_was_missed_is_not_made_up_for() -> None:
    path = Path()
    path.run(10.0)
    sent = len(path.sent)
    path.at(60.0, Woke())
    assert len(path.sent) == sent + 1
    path.at(path.wake, Woke())
    assert path.sent[-1][0] > 60.0


def test_a_wan_that_takes_600_ms_is_not_late() -> None:
    path = Path()
    path.run(120.0, rtt=0.6)
    assert path.state == UP and not path.said(Why.WAN_SUSPECT) and not path.said(Why.WAN_DOWN)


def test_a_link_whose_delay_grows_under_load_is_not_dead() -> None:
    """Bufferbloat: the window learns the worst round trip, and lateness follows it."""
    path = Path()
    path.run(30.0)
    for second in range(30, 60):
        path.run(float(second + 1), rtt=0.02 + 0.03 * (second - 29))
    assert not path.said(Why.WAN_DOWN)


def test_too_slow_is_degraded_and_within_the_limits_again_is_held() -> None:
    slow = Settings(wans=(Wan("eth1", device="eth1", latency_max=100.0),))
    path = Path(slow)
    path.run(30.0)
    path.run(90.0, rtt=0.15)
    assert path.state == DEGRADED and path.watch.evidence.startswith("latency 1")
    path.run(200.0)
    assert [path.state, len(path.said(Why.WAN_HELD))] == [UP, 1]


def test_a_dead_target_is_told_once_and_asked_seldom() -> None:
    path = Path()
    path.run(10.0)
    for _ in range(400):
        path.at(path.wake, Woke())
        when, probe = path.sent[-1]
        if probe.target != "8.8.8.8" and probe.id not in path._answered:
            path._answered.add(probe.id)
            path.at(when + 0.01, Replied(probe.id, 0.01))
    assert [finding.arguments["target"] for finding in path.said(Why.WAN_TARGET_DEAD)] == ["8.8.8.8"]
    assert path.watch.dead == ("8.8.8.8",) and path.state == UP
    asked = [probe.target for _, probe in path.sent[-100:]]
    assert 5 <= asked.count("8.8.8.8") <= 15
    path.at(path.sent[-1][0] + 0.01, Replied(path.sent[-1][1].id, 0.01))
    later = next((p.id for _, p in reversed(path.sent) if p.target == "8.8.8.8"), 0)
    path.at(path.wake - 0.0001, Replied(later, 0.02))
    assert path.watch.dead == (), "it answers again"


def test_without_targets_carrier_is_all_there_is() -> None:
    path = Path(Settings(probing=Probing(targets4=())))
    assert path.state == UP and path.sent == []
    path.see(1.0, net(carrier=False))
    path.see(2.0, net())
    assert path.state == HELD and path.sent == []
    path.run(8.0)
    assert path.state == UP


def test_the_gateway_can_be_a_target_and_is_none_on_a_point_to_point_link() -> None:
    wanted = Settings(probing=Probing(targets4=("gateway",)))
    assert Path(wanted).sent[0][1].target == "10.0.0.1"
    assert Path(wanted, net(gateway="")).sent == []


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        ("icmp", "1.1.1.1", (0, "")),
        ("dns-udp", "1.1.1.1", (53, ".")),
        ("dns-tcp", "1.1.1.1", (53, ".")),
        ("dns-tcp", "1.1.1.1#5353", (5353, ".")),
        ("tcp", "1.1.1.1", (443, "")),
        ("http", "1.1.1.1", (80, "connectivitycheck.gstatic.com/generate_204")),
        ("https", "1.1.1.1", (443, "connectivitycheck.gstatic.com/generate_204")),
        ("https", "1.1.1.1#8443", (8443, "connectivitycheck.gstatic.com/generate_204")),
    ],
)
def test_what_a_probe_of_each_method_carries(method: str, target: str, expected: tuple[int, str]) -> None:
    _, probe = Path(Settings(probing=Probing(methods=(method,), targets4=(target,)))).sent[0]
    assert (probe.method, probe.target, probe.port, probe.detail) == (method, "1.1.1.1", *expected)


def test_arp_asks_the_gateway_whatever_the_targets_are() -> None:
    _, probe = Path(Settings(probing=Probing(methods=("arp",)))).sent[0]
    assert (probe.method, probe.target) == ("arp", "10.0.0.1")


def test_what_probing_costs_is_counted() -> None:
    path = Path()
    path.run(100.0)
    assert path.watch.turn == len(path.sent)
    assert path.watch.octets == len(path.sent) * 88


def test_one_family_in_trouble_makes_the_other_look() -> None:
    six = Route(6, RT_TABLE_MAIN, "::/0", (Hop("fe80::1", "eth1"),), metric=512)
    both = replace(net(), routes=(*net().routes, six))
    path = Path(world=both)
    path.run(10.0)
    path.cut()
    path.run(11.5, rtt=None)
    states = {watch.path.family: watch.state for watch in path.memory.watches.values()}
    assert states == {4: DOWN, 6: DOWN}
    spread = [finding for finding in path.said(Why.WAN_SUSPECT) if "other family" in str(finding)]
    assert len(spread) == 1


def test_memory_survives_the_journal() -> None:
    path = Path()
    path.run(10.3)
    classes = [
        value
        for module in (link_states, link_watch, links, machine, messages, model, wans, window)
        for value in vars(module).values()
        if isinstance(value, type)
    ]
    from wgrouter.core import settings

    classes += [value for value in vars(settings).values() if isinstance(value, type)]
    assert codec.Decoder(classes).decode(codec.encode(path.memory)) == path.memory


# ---------------------------------------------------------------- the hold


@pytest.mark.parametrize(
    ("penalty", "seconds"), [(0.0, 5.0), (1.0, 5.0), (2.0, 10.0), (3.0, 20.0), (4.0, 40.0), (10.0, 300.0)]
)
def test_each_flap_doubles_the_hold(penalty: float, seconds: float) -> None:
    assert hold_for(penalty, Hold()) == seconds


def test_penalties_decay_by_half() -> None:
    penalty = Penalty().flapped(Hold(), 0.0)
    assert penalty.now(Hold(), 120.0) == pytest.approx(0.5)
    assert penalty.flapped(Hold(), 120.0).value == pytest.approx(1.5)


@given(
    st.floats(0.0, 20.0),
    st.floats(0.0, 60.0),
    st.floats(0.0, 600.0),
    st.floats(0.0, 1e4),
    st.floats(0.0, 1e6),
)
def test_a_hold_is_as_long_as_it_should_be_when_it_ends(
    value: float, up_after: float, up_max: float, half_life: float, now: float
) -> None:
    hold = Hold(up_after=up_after, up_max=up_max, penalty_half_life=half_life)
    penalty = Penalty(min(value, link_states.PENALTY_MAX), now)
    until = penalty.hold_until(hold, now)
    assert min(up_after, up_max) - 1e-3 <= until - now <= up_max + 1e-3
    assert until - now >= hold_for(penalty.now(hold, until), hold) - 1e-3


# ---------------------------------------------------------------- whatever is answered, whenever

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["wake", "answer", "refuse", "late", "cut", "back", "gone", "wait", "odd"]),
        st.floats(0.0, 3.0),
    ),
    max_size=80,
)


@given(STEPS)
def test_whatever_happens_it_wakes_ahead_and_asks_no_more_than_it_may(steps: list[tuple[str, float]]) -> None:
    path, now = Path(), 0.0
    for what, number in steps:
        if what == "wake":
            now = max(now, path.wake) if path.wake < model.NEVER else now
            path.at(now, Woke())
        elif what == "answer" and path.sent:
            path.at(now, Replied(path.sent[-1][1].id, min(number, 1.9)))
        elif what == "refuse" and path.sent:
            path.at(now, Unsent(path.sent[-1][1].id, "refused"))
        elif what == "late" and len(path.sent) > 2:
            path.at(now, Replied(path.sent[-3][1].id, min(number, 1.9)))
        elif what in ("cut", "back", "gone"):
            path.see(now, net(carrier=what != "cut", route=what != "gone"))
        elif what == "wait":
            now += number
            path.at(now, Woke())
        elif what == "odd":
            path.at(now, Replied(7, 0.1))
    assert [probe.id for _, probe in path.sent] == list(range(2, 2 * len(path.sent) + 1, 2))
    times = [when for when, _ in path.sent]
    for start in times:
        burst = sum(1 for when in times if start <= when < start + 0.9)
        assert burst <= 40
    assert len(path.watch.samples) <= 80
    assert path.watch.quality.loss is None or 0.0 <= path.watch.quality.loss <= 100.0
