"""What becomes of a peer's care when the network changes or an effect fails; whom a step concerns."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wgrouter.core import care as cares
from wgrouter.core import concerns
from wgrouter.core.care import Attempt, Care, Memory, Outlook
from wgrouter.core.liveness import ALIVE, DEAD, Pulse
from wgrouter.core.messages import (
    Answered,
    Commanded,
    Configured,
    Event,
    Failed,
    ForgetFlows,
    Hinted,
    Observed,
    Probe,
    Provoke,
    Renew,
    Replied,
    SetEndpoint,
    SetListenPort,
    Unanswered,
    Unsent,
    Woke,
)
from wgrouter.core.model import LONG_AGO, NEVER, Endpoint, Net
from wgrouter.core.settings import HostPort, Peer, Settings

HERE = Endpoint("192.0.2.1", 51820)
PEER = Peer("wg0", "key", "office", (HostPort("vpn.example.net"),))
STEP = Attempt(90.0, "endpoint", "set it")
FIRST = Attempt(80.0, "resolve", "ask", "answered")
CLIMBING = Care(
    pulse=Pulse(DEAD),
    step=STEP,
    deadline=99.0,
    rung=3,
    round=2,
    tried=(HERE,),
    ways=("wanb",),
    resume_at=50.0,
    attempts=(FIRST, STEP),
)
PAUSED = replace(CLIMBING, step=None, deadline=NEVER, resume_at=500.0)


def test_another_network_ends_a_pause_and_begins_the_ladder_anew() -> None:
    assert cares.afresh(PAUSED, 100.0) == replace(PAUSED, rung=0, round=0, tried=(), ways=(), resume_at=100.0)


def test_a_step_under_way_is_seen_through_in_another_network_too() -> None:
    assert cares.afresh(CLIMBING, 100.0) == replace(CLIMBING, resume_at=100.0)


def test_a_closed_step_is_told_with_its_result() -> None:
    done = cares.closed(CLIMBING, "nothing")
    attempts = (FIRST, replace(STEP, result="nothing"))
    assert done == replace(CLIMBING, step=None, deadline=NEVER, attempts=attempts)


PROBE = Probe(1, "icmp", "10.0.0.1", "wg0", 1.0)
CONCERNED = [
    (SetEndpoint("wg0", "key", HERE), True),
    (SetEndpoint("wg0", "other", HERE), False),
    (SetEndpoint("wg1", "key", HERE), False),
    (Provoke("wg0", "key", 25), True),
    (SetListenPort("wg0", 4000), True),
    (SetListenPort("wg1", 4000), False),
    (Renew("wg0"), True),
    (Renew("wg1"), False),
    (PROBE, False),  # a probe that cannot be sent is no failed step
    (ForgetFlows(), False),
]


@pytest.mark.parametrize(("effect", "ends"), CONCERNED)
def test_a_failure_ends_the_step_of_the_peer_it_is_about(effect: object, ends: bool) -> None:
    event = Failed(effect, "No such device", 19)  # type: ignore[arg-type]
    expected = cares.closed(CLIMBING, "No such device") if ends else CLIMBING
    assert cares.failed(CLIMBING, PEER, event, 100.0) == expected
    assert cares.failed(PAUSED, PEER, event, 100.0) == PAUSED


def test_what_the_kernel_refuses_a_living_peer_waits() -> None:
    alive = replace(CLIMBING, pulse=Pulse(ALIVE))
    event = Failed(SetEndpoint("wg0", "key", HERE), "busy", 16)
    assert cares.failed(alive, PEER, event, 100.0).resume_at == 115.0


def test_endpoints_once_given_are_remembered_up_to_a_bound() -> None:
    care = cares.remember(Care(), (HERE,))
    assert care.given == (HERE,) and cares.remember(care, (HERE,)) is care
    many = tuple(Endpoint("192.0.2.1", port) for port in range(1, 41))
    care = cares.remember(care, many)
    assert len(care.given) == 32 and care.given[-1] == many[-1] and HERE not in care.given


# ---------------------------------------------------------------- whom a step concerns

MEMORY = Memory(wake=200.0, families=(4,))
PLAIN = Outlook(lambda place: (), lambda host, since: True, lambda host: "", frozenset({4}))
LOOK = Observed(wireguard={})

ANYONE: list[tuple[Event, float, Outlook, bool]] = [
    (Replied(7, 0.1), 100.0, PLAIN, True),
    (Replied(8, 0.1), 100.0, PLAIN, False),  # of a WAN's probe
    (Replied(11, 0.1), 100.0, PLAIN, True),
    (Unsent(7, ""), 100.0, PLAIN, True),
    (Unsent(8, ""), 100.0, PLAIN, False),
    (Replied(8, 0.1), 200.0, PLAIN, True),  # it is time
    (LOOK, 100.0, PLAIN, True),
    (Observed(net=Net()), 100.0, PLAIN, False),
    (Observed(net=Net()), 100.0, replace(PLAIN, network_changed=True), True),
    (Observed(net=Net()), 100.0, replace(PLAIN, rerouted=frozenset({"wg0"})), True),
    (Observed(net=Net()), 200.0, PLAIN, True),
    (Woke(), 100.0, PLAIN, True),
    (Hinted("ubus"), 100.0, PLAIN, True),
]


@pytest.mark.parametrize(("event", "now", "outlook", "concerned"), ANYONE)
def test_whether_there_is_anything_to_do(event: Event, now: float, outlook: Outlook, concerned: bool) -> None:
    assert concerns.anyone(MEMORY, event, now, outlook) is concerned


EVERYONE: list[tuple[Event, Outlook, bool]] = [
    (LOOK, PLAIN, True),
    (Configured(Settings()), PLAIN, True),
    (Commanded("reresolve"), PLAIN, True),
    (Failed(PROBE, ""), PLAIN, True),
    (Woke(), PLAIN, False),
    (Hinted("ubus"), PLAIN, False),
    (Replied(7, 0.1), PLAIN, False),
    (Unsent(7, ""), PLAIN, False),
    (Answered(1, "NOERROR"), PLAIN, False),
    (Unanswered(1, "timeout"), PLAIN, False),
    (Woke(), replace(PLAIN, network_changed=True), True),
    (Woke(), replace(PLAIN, rerouted=frozenset({"wg0"})), True),
    (Woke(), replace(PLAIN, reachable=frozenset({4, 6})), True),
    (Woke(), replace(PLAIN, reachable=frozenset()), True),
]


@pytest.mark.parametrize(("event", "outlook", "all_of_them"), EVERYONE)
def test_whether_it_is_about_all_peers(event: Event, outlook: Outlook, all_of_them: bool) -> None:
    assert concerns.everyone(MEMORY, event, outlook) is all_of_them


ONE: list[tuple[Event, frozenset[str], bool]] = [
    (Replied(7, 0.1), frozenset(), True),
    (Unsent(7, ""), frozenset(), True),
    (Replied(9, 0.1), frozenset(), False),
    (Woke(), frozenset(), False),
    (Woke(), frozenset({"vpn.example.net"}), True),
    (Woke(), frozenset({"other.example.net"}), False),
]


@pytest.mark.parametrize(("event", "news", "concerned"), ONE)
def test_whether_it_is_about_one(event: Event, news: frozenset[str], concerned: bool) -> None:
    care = Care(probe_id=7, probe_at=LONG_AGO)
    assert concerns.one(PEER, care, event, replace(PLAIN, news=news)) is concerned
