"""What one step of a peer's care asks for: looks, probes in the tunnel, the next wake-up, who is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from wgrouter.core import liveness, tunnels
from wgrouter.core.care import Attempt, Care, Detour, Memory, Outlook, TunnelsTurn
from wgrouter.core.findings import Why
from wgrouter.core.ladder import OTHER_WAN, RUNG_INDEX
from wgrouter.core.liveness import ALIVE, DEAD, IDLE, NEW, SUSPECT, Pulse
from wgrouter.core.machine import Context
from wgrouter.core.messages import (
    Configured,
    Event,
    Hinted,
    Look,
    Observed,
    Probe,
    Provoke,
    Renew,
    Replied,
    Restart,
    SetEndpoint,
    Unsent,
    Woke,
)
from wgrouter.core.model import LONG_AGO, NET, NEVER, WIREGUARD, DeviceSeen, Endpoint, PeerSeen, World
from wgrouter.core.settings import HostPort, Ladder, Peer, Settings, Tunnel

NOW = 10_000.0
HERE, THERE, THIRD = (Endpoint(f"192.0.2.{last}", 51820) for last in (1, 2, 3))
PEER = Peer("wg0", "key", "office", (HostPort("a.example"),), keepalive=25)
PROBED = replace(PEER, probe="10.0.0.1")
NARROW = replace(PEER, allowed_ips=("10.0.0.1/32",))
LIVING = Care(
    pulse=Pulse(ALIVE, 9000.0, life_at=NOW - 5.0, proven=True, session=True, handshake_at=NOW - 90.0),
    given=(HERE,),
)
DYING = Pulse(DEAD, NOW - 100.0, life_at=9000.0, proven=True, session=True, asked_since=NOW - 115.0)
GONE = Care(pulse=DYING, given=(HERE,), dead_at=NOW - 100.0)
SEEN = PeerSeen("key", HERE, (1, 0), 1000, 1000, 25)
LOOK = Look((WIREGUARD,))


def turn(
    care: Care,
    event: Event | None = None,
    peer: Peer = PEER,
    seen: PeerSeen | None = SEEN,
    names: Mapping[str, tuple[Endpoint, ...]] = {"a.example": (HERE,)},
    ladder: Ladder = Ladder(),  # noqa: B008 — a frozen value
    memory: Memory | None = None,
    enabled: bool = True,
    others: tuple[tuple[Peer, Care], ...] = (),
    there: bool = True,
    before: Mapping[str, PeerSeen] | None = {"wg0": SEEN},
    **outlook: object,
) -> TunnelsTurn:
    """One step for a peer of wg0, and others beside it, that nothing has happened to."""
    peers = {"key": seen} if seen else {}
    peers |= {other.public_key: PeerSeen(other.public_key, THERE, (1, 0)) for other, _ in others}
    world = World(wireguard={"wg0": DeviceSeen("wg0", listen_port=4000, peers=peers)} if there else {})
    tunnel = Tunnel("wg0", ladder=ladder, peers=(peer, *(other for other, _ in others)))
    context = Context(NOW, Settings(enabled=enabled, tunnels=(tunnel,)), world, "seed")
    seems = Outlook(
        lambda place: names.get(place.host, ()), lambda host, since: True, lambda host: "", frozenset({4})
    )
    cares = {peer.id: care} | {other.id: its for other, its in others}
    memory = replace(memory or Memory(look_at=NOW + 9.0, families=(4,)), peers=cares)
    event = event or Observed(wireguard=world.wireguard)
    earlier = {name: DeviceSeen(name, peers={**peers, "key": its}) for name, its in (before or {}).items()}
    if before and before["wg0"] is SEEN:  # nothing has happened
        earlier = dict(world.wireguard or {})
    seems = replace(seems, **outlook)  # type: ignore[arg-type]
    return tunnels.step(memory, event, context, seems, earlier if before is not None else None)


def care_of(done: TunnelsTurn, peer: Peer = PEER) -> Care:
    return done.memory.peers[peer.id]


def endpoints(done: TunnelsTurn) -> list[Endpoint]:
    return [effect.endpoint for effect in done.effects if isinstance(effect, SetEndpoint)]


def probes(done: TunnelsTurn) -> list[Probe]:
    return [effect for effect in done.effects if isinstance(effect, Probe)]


def waiting(care: Care, ago: float, rung: str = "endpoint", wait: float = 6.5) -> Care:
    attempt = Attempt(NOW - ago, rung, "x")
    return replace(care, step=attempt, attempts=(attempt,), deadline=NOW - ago + wait, rung=2, tried=(HERE,))


def pulse(**other: object) -> Pulse:
    return replace(LIVING.pulse, **other)  # type: ignore[arg-type]


TRYING = replace(
    LIVING,
    trial_until=NOW + 1.0,
    kept=THERE,
    attempts=(Attempt(NOW - 1.0, "return", f"try the preferred {HERE}"),),
    given=(HERE, THERE),
)

# ---------------------------------------------------------------- looks


@pytest.mark.parametrize(
    ("care", "interval"),
    [
        (LIVING, 5.0),
        (replace(LIVING, pulse=pulse(asked_since=NOW - 1.0)), 1.0),  # before doubt there was a look
        (waiting(LIVING, 1.0), 0.5),  # proof is seen soon
        (TRYING, 0.5),
        (replace(GONE, resume_at=NOW + 60.0), 5.0),  # it goes on asking: no reason for haste
    ],
)
def test_how_soon_the_next_look_comes(care: Care, interval: float) -> None:
    assert turn(care).memory.look_at == NOW + interval
    sooner = Memory(look_at=NOW + 0.1, families=(4,))
    assert turn(care, Hinted("ubus"), memory=sooner).memory.look_at == NOW + 0.1
    later = Memory(look_at=NOW + 60.0, families=(4,))
    assert turn(care, Hinted("ubus"), memory=later).memory.look_at == NOW + interval


def test_what_a_step_changes_is_looked_at_and_so_is_what_is_due() -> None:
    moved = turn(LIVING, names={"a.example": (THERE,)})
    assert moved.effects[-1] == LOOK and moved.memory.look_at == NOW + 0.5
    due = turn(LIVING, Woke(), memory=Memory(look_at=NOW, families=(4,)))
    assert due.effects == (LOOK,) and due.memory.look_at == NOW + 5.0, "a look that fails is not the last"
    assert turn(LIVING, Configured(Settings())).effects == (LOOK,)
    assert turn(LIVING).effects == turn(LIVING, Hinted("ubus")).effects == ()


def test_a_detour_that_ends_is_made_visible_to_routing() -> None:
    over = Memory(look_at=NOW + 9.0, families=(4,), detours={"wg0": Detour("b", "a", 4, NOW, 60.0)})
    done = turn(LIVING, memory=over, ways=lambda device, family: ("a", "b"))
    assert done.effects == (Look((NET, WIREGUARD)),)
    assert [finding.why for finding in done.findings] == [Why.TUNNEL_DETOUR_ENDED]


# ---------------------------------------------------------------- wake-ups


@pytest.mark.parametrize(
    ("care", "peer", "at"),
    [
        (replace(LIVING, pulse=pulse(life_at=NOW - 178.0)), PEER, NOW + 2.0),  # then it is idle
        (replace(LIVING, pulse=pulse(asked_since=NOW - 10.0)), PEER, NOW + 1.0),
        (waiting(replace(LIVING, pulse=pulse(life_at=NOW - 20.0)), 6.0), PEER, NOW + 0.5),
        (replace(GONE, resume_at=NOW + 0.7), PEER, NOW + 0.7),
        (replace(TRYING, trial_until=NOW + 0.3), PEER, NOW + 0.3),
        (replace(LIVING, probe_id=3, probe_at=NOW - 0.2), PROBED, NOW + 0.8),
        (replace(LIVING, probe_id=3, probe_at=NOW - 1.2), PROBED, NOW + 0.001),  # its answer may lie unread
        (replace(LIVING, pulse=pulse(state=SUSPECT, asked_since=NOW - 4.0, probe_answered=True),
                 probe_at=NOW - 0.3), PROBED, NOW + 0.2),
        (replace(LIVING, pulse=pulse(state=SUSPECT, asked_since=NOW - 4.0, probe_answered=True), probe_id=3,
                 probe_at=NOW - 0.3), PROBED, NOW + 0.7),  # no other before that one is lost
        (replace(waiting(GONE, 1.0), probe_at=NOW - 0.3), PEER, NOW + 5.5),  # nothing to send to
        (replace(waiting(GONE, 1.0), probe_at=NOW - 0.3), PROBED, NOW + 0.2),
    ],
)  # fmt: skip
def test_when_a_peer_has_something_to_do(care: Care, peer: Peer, at: float) -> None:
    done = turn(care, peer=peer)
    assert done.memory.wakes[peer.id] == pytest.approx(at, abs=1e-9)
    assert done.memory.wake == min(done.memory.wakes[peer.id], done.memory.look_at)
    assert tunnels.wake_at(done.memory) == done.memory.wake


def test_where_no_probe_may_be_sent_nobody_wakes_for_one() -> None:
    due = replace(LIVING, pulse=pulse(life_at=NOW - 5.0, probe_answered=True), probe_at=NOW - 5.0)
    assert NOW + 4.0 <= turn(due, peer=PROBED).memory.wake <= NOW + 6.0
    idle = NOW - 5.0 + liveness.REJECT_AFTER_TIME
    assert turn(due, peer=PROBED, enabled=False).memory.wakes[PEER.id] == idle
    assert turn(due, peer=PROBED, reachable=frozenset()).memory.wakes[PEER.id] == idle


def test_only_those_that_a_step_is_about_are_worked_on() -> None:
    idle = replace(PEER, public_key="other", label="other")
    care = replace(LIVING, pulse=pulse(asked_since=NOW - 11.0))  # would be suspect now
    memory = Memory(look_at=NOW + 9.0, families=(4,), wakes={PEER.id: NOW + 1.0, idle.id: NOW})
    done = turn(care, Woke(), others=((idle, care),), memory=replace(memory, wake=NOW))
    assert care_of(done).pulse.state == ALIVE and care_of(done, idle).pulse.state == SUSPECT
    other = turn(care, Woke(), others=((idle, care),), memory=replace(memory, wake=NOW, families=(4, 6)))
    assert care_of(other).pulse.state == SUSPECT, "other families are reachable now: everyone's business"


# ---------------------------------------------------------------- what proves a step


@pytest.mark.parametrize(
    ("care", "life", "proven"),
    [
        (
            waiting(LIVING, 1.0),
            {"life_by": "bytes received", "life_at": NOW - 0.85},
            False,
        ),  # under way already
        (waiting(LIVING, 1.0), {"life_by": "bytes received", "life_at": NOW - 0.8}, True),
        (waiting(LIVING, 1.0), {"life_by": "handshake", "life_at": NOW - 0.9}, True),
        (waiting(LIVING, 1.0), {"life_by": "in-tunnel probe", "life_at": NOW - 0.9}, True),
        (waiting(LIVING, 1.0), {"life_by": "in-tunnel probe", "life_at": NOW - 1.0}, False),
        (waiting(LIVING, 1.0), {"life_by": "in-tunnel probe", "life_at": NOW, "proven": False}, False),
        (waiting(GONE, 1.0), {"state": DEAD, "life_by": "bytes received", "life_at": NOW - 0.9}, True),
    ],
)
def test_what_proves_a_step(care: Care, life: dict[str, object], proven: bool) -> None:
    done = care_of(turn(replace(care, pulse=replace(pulse(), **life))))  # type: ignore[arg-type]
    assert (done.step is None) == proven
    if proven:
        assert done.attempts[0].result == f"proven by {life['life_by']}"
        assert (done.deadline, done.rung, done.tried) == (NEVER, 0, ())


def test_one_more_time_the_preferred_endpoint_when_an_old_answer_led_back() -> None:
    back = replace(SEEN, endpoint=THERE)
    done = turn(TRYING, seen=back)
    assert endpoints(done) == [HERE] and care_of(done).attempts[-1].at == NOW
    soon = replace(TRYING, attempts=(replace(TRYING.attempts[0], at=NOW - 0.1),))
    assert endpoints(turn(soon, seen=back)) == [], "what was on its way may still come"
    just = replace(TRYING, attempts=(replace(TRYING.attempts[0], at=NOW - 0.25),))
    assert endpoints(turn(just, seen=back)) == [HERE]
    assert endpoints(turn(TRYING, Woke(), seen=back)) == [], "not by what an old look saw"
    assert endpoints(turn(TRYING, seen=back, names={})) == []
    assert endpoints(turn(TRYING)) == [], "it is there"


def test_a_trial_is_proven_by_what_a_look_at_wireguard_shows() -> None:
    earlier = Attempt(NOW - 500.0, "endpoint", "x", "no sign of life")
    answered = replace(TRYING, pulse=pulse(life_at=NOW), attempts=(earlier, *TRYING.attempts))
    assert care_of(turn(answered, Observed())).trial_until == TRYING.trial_until
    done = care_of(turn(answered))
    assert done.trial_until == NEVER and done.attempts[0] == earlier and len(done.attempts) == 2
    over = care_of(turn(replace(answered, pulse=LIVING.pulse, trial_until=NOW)))
    assert over.attempts == (earlier, replace(TRYING.attempts[0], result="no sign of life"))
    again = care_of(turn(replace(answered, pulse=LIVING.pulse), seen=replace(SEEN, endpoint=THERE)))
    assert again.attempts == (earlier, replace(TRYING.attempts[0], at=NOW))


def test_an_answer_in_a_trial_asks_for_a_look_that_shows_where_it_came_from() -> None:
    asked = replace(TRYING, probe_id=3, probe_at=NOW - 0.1)
    assert turn(asked, Replied(3, 0.1), peer=PROBED).effects[-1] == LOOK
    for event in (Replied(5, 0.1), Unsent(3, "no"), Hinted("ubus")):
        assert LOOK not in turn(asked, event, peer=PROBED).effects
    assert LOOK not in turn(replace(TRYING, pulse=pulse(life_at=NOW)), Hinted("ubus")).effects


def test_a_trial_that_failed_names_what_was_tried() -> None:
    over = replace(TRYING, trial_until=NOW)
    for seen in (SEEN, replace(SEEN, endpoint=THERE)):
        [finding] = turn(over, seen=seen).findings
        assert finding.arguments == {"endpoint": str(HERE), "kept": str(THERE)}


BOTH = replace(PEER, endpoints=(HostPort("a.example"), HostPort("b.example")))
AWAY = replace(SEEN, endpoint=THIRD)
ROAMER = replace(SEEN, endpoint=Endpoint("198.51.100.7", 9))


@pytest.mark.parametrize(
    ("names", "sets"),
    [
        ({"a.example": (HERE,), "b.example": (THERE, THIRD)}, [HERE]),
        ({"b.example": (THERE, THIRD)}, []),  # one alternative is as good as another
        ({"a.example": (HERE,), "b.example": (THERE,)}, []),  # it roamed
    ],
)
def test_only_a_preferred_endpoint_is_returned_to(
    names: dict[str, tuple[Endpoint, ...]], sets: list[Endpoint]
) -> None:
    due = replace(LIVING, return_at=NOW, return_wait=60.0, given=(HERE, THERE), roamed=THIRD)
    assert endpoints(turn(due, peer=BOTH, seen=AWAY, names=names)) == sets


# ---------------------------------------------------------------- probes in the tunnel


def asks(state: str = ALIVE, ago: float = 60.0, **other: object) -> Care:
    care = replace(LIVING, pulse=pulse(state=state, life_at=NOW - ago, probe_answered=True))
    return replace(care, probe_at=NOW - ago, **other)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("care", "peer", "sent"),
    [
        (asks(), PROBED, True),
        (asks(), PEER, False),  # nothing to probe is configured
        (asks(), replace(PROBED, probe_interval=0.0), False),
        (asks(), replace(PROBED, probe_interval=0.5), True),
        (asks(), NARROW, False),  # somebody is there, unasked
        (asks(probe_id=3), PROBED, False),  # one at a time
        (asks(ago=8.9), PROBED, False),  # it was heard of less than the interval ago (±10 %)
        (asks(ago=11.1), PROBED, True),
        (asks(IDLE, 200.0), PROBED, True),
        (replace(asks(), pulse=replace(GONE.pulse), resume_at=NOW + 9.0), PROBED, False),
        (replace(asks(NEW, 200.0), pulse=Pulse(NEW, NOW - 200.0)), PROBED, False),
    ],
)
def test_when_a_peer_is_probed(care: Care, peer: Peer, sent: bool) -> None:
    done = turn(care, peer=peer)
    assert bool(probes(done)) == sent
    if sent:
        assert probes(done) == [Probe(3, "icmp", "10.0.0.1", "wg0", 1.0)]
        assert (care_of(done).probe_id, care_of(done).probe_at, done.memory.probe_ids) == (3, NOW, 3)


def test_a_step_and_a_trial_are_probed_every_half_second_where_anything_can_be_sent() -> None:
    narrow = replace(PEER, allowed_ips=("10.0.0.0/24",))
    for care in (waiting(LIVING, 1.0), TRYING, waiting(GONE, 1.0)):
        for ago, sent in ((0.4, 0), (0.5, 1)):
            assert len(probes(turn(replace(care, probe_at=NOW - ago), peer=narrow))) == sent
        assert probes(turn(replace(care, probe_at=NOW - 9.0), peer=PEER)) == []
        assert probes(turn(replace(care, probe_at=NOW - 0.6, probe_id=3), peer=narrow)) == []


def test_doubt_is_probed_fast_and_silence_of_what_never_answered_is_not() -> None:
    for care in (
        asks(SUSPECT, 0.6, pulse=pulse(state=SUSPECT, asked_since=NOW - 4.0, probe_answered=True)),
        asks(ALIVE, 0.6, pulse=pulse(misses=1, asked_since=NOW - 1.6, probe_answered=True)),
    ):
        assert len(probes(turn(care, peer=PROBED))) == 1
        assert probes(turn(replace(care, probe_at=NOW - 0.4), peer=PROBED)) == []
    never = asks(ALIVE, 0.6, pulse=pulse(misses=1, asked_since=NOW - 1.6))
    assert probes(turn(never, peer=PROBED)) == []


def test_once_for_each_session_it_is_learnt_whether_a_busy_peer_answers_probes() -> None:
    busy = replace(LIVING, pulse=pulse(life_at=NOW, since=NOW - 60.0, handshake_at=NOW - 11.0))
    assert len(probes(turn(replace(busy, probe_at=NOW - 20.0), peer=PROBED))) == 1
    assert probes(turn(replace(busy, probe_at=NOW - 10.9), peer=PROBED)) == [], "this session was asked"
    known = replace(busy, pulse=replace(busy.pulse, probe_answered=True))
    assert probes(turn(replace(known, probe_at=NOW - 20.0), peer=PROBED)) == []
    since = replace(busy, pulse=replace(busy.pulse, since=NOW - 0.001, handshake_at=LONG_AGO))
    assert probes(turn(replace(since, probe_at=NOW - 20.0), peer=PROBED)) == [], "somewhen in the interval"


def test_an_endpoint_that_is_set_is_probed_at_once_where_that_can_be() -> None:
    moved = {"a.example": (THERE,)}
    assert [probe.target for probe in probes(turn(LIVING, peer=NARROW, names=moved))] == ["10.0.0.1"]
    assert probes(turn(LIVING, names=moved)) == []
    asked = replace(LIVING, probe_id=3, probe_at=NOW - 0.1)
    assert probes(turn(asked, peer=NARROW, names=moved)) == [], "one is under way"


def test_without_an_uplink_or_switched_off_nothing_is_sent() -> None:
    assert turn(asks(), peer=PROBED, reachable=frozenset()).effects == ()
    assert turn(asks(), peer=PROBED, enabled=False).effects == ()
    off = turn(waiting(GONE, 1.0), Configured(Settings()), enabled=False)
    assert care_of(off).step is None and care_of(off).attempts == waiting(GONE, 1.0).attempts
    assert care_of(off).given == (HERE,)


# ---------------------------------------------------------------- the ladder


def rungs(done: TunnelsTurn) -> list[str]:
    return [str(f.arguments["rung"]) for f in done.findings if f.why is Why.TUNNEL_STEP]


def test_two_dead_peers_are_helped_one_after_the_other() -> None:
    others = tuple((replace(NARROW, public_key=name, label=name), replace(GONE, rung=1)) for name in "bcd")
    done = turn(replace(GONE, rung=1), peer=NARROW, others=others, names={"a.example": (HERE,)})
    assert rungs(done) == ["endpoint"]
    waits = [care_of(done, other).resume_at - NOW for other, _ in others]
    assert waits == pytest.approx([0.1, 0.2, 0.3]), "the kernel takes its time for each"
    asking = tuple((other, GONE) for other, _ in others)  # to resolve a name costs the kernel nothing
    assert rungs(turn(GONE, others=asking)) == ["resolve"] * 4


def test_restarts_are_counted_for_the_whole_device_and_for_an_hour() -> None:
    allowed = Ladder(new_port="no", other_wan=False, renew=True, restart=True, restarts_per_hour=2)
    high = replace(GONE, rung=RUNG_INDEX["renew"])
    base = Memory(look_at=NOW + 9.0, families=(4,))
    done = turn(high, ladder=allowed, memory=replace(base, restarts={"wg0": (NOW - 3600.0, NOW - 60.0)}))
    assert Renew("wg0") in done.effects and done.memory.restarts == {"wg0": (NOW - 60.0, NOW)}
    full = turn(high, ladder=allowed, memory=replace(base, restarts={"wg0": (NOW - 3599.0, NOW - 60.0)}))
    assert not [effect for effect in full.effects if isinstance(effect, (Renew, Restart))]
    [over] = full.findings
    assert [(r.what, r.reason) for r in over.rejected] == [
        ("renew", "done often enough this hour"), ("restart", "done often enough this hour"),
    ]  # fmt: skip
    sets = turn(replace(GONE, rung=1), ladder=allowed, memory=base)
    assert sets.memory.restarts.get("wg0", ()) == (), "an endpoint that is set restarts nothing"


@pytest.mark.parametrize(
    ("state", "renewed"), [(ALIVE, False), (SUSPECT, False), (IDLE, True), (DEAD, True), (NEW, True)]
)
def test_a_device_is_not_restarted_under_a_living_sibling(state: str, renewed: bool) -> None:
    sibling = replace(PEER, public_key="sib", label="sib", endpoints=())
    asked = NOW - 12.0 if state == SUSPECT else NOW - 15.0 if state == DEAD else NEVER
    life = LONG_AGO if state == NEW else NOW - (200.0 if state == IDLE else 20.0)
    its = Care(Pulse(state, NOW - 300.0, life_at=life, session=state != NEW, asked_since=asked))
    allowed = Ladder(new_port="no", other_wan=False, renew=True)
    high = replace(GONE, rung=RUNG_INDEX["renew"])
    done = turn(high, Woke(), ladder=allowed, others=((sibling, its),), memory=Memory(families=(4,)))
    assert (Renew("wg0") in done.effects) == renewed


def test_a_step_that_waits_for_a_peer_that_is_not_dead_makes_it_so_when_nothing_comes() -> None:
    silent = replace(LIVING, pulse=pulse(life_at=NOW - 20.0, asked_since=NOW - 6.0))
    done = turn(waiting(silent, 6.5, tunnels.MOVE))
    care = care_of(done)
    assert (care.pulse.state, care.pulse.since, care.dead_at) == (DEAD, NOW, NOW)
    assert [finding.why for finding in done.findings][:2] == [Why.TUNNEL_STEP_FAILED, Why.TUNNEL_DEAD]
    assert rungs(done) == ["resolve"], "and the ladder begins at its foot"
    quiet = turn(waiting(replace(LIVING, pulse=pulse(life_at=NOW - 20.0)), 6.5, tunnels.MOVE))
    assert care_of(quiet).attempts[-1].result == "nothing was sent that would have proved it"
    assert care_of(quiet).pulse.state == ALIVE and quiet.findings == ()


def test_what_is_spent_does_not_keep_a_peer_from_the_addresses_its_name_has_now() -> None:
    spent = tuple(NOW - 60.0 + n for n in range(3))
    full = replace(GONE, spent=spent, resume_at=NOW + 60.0)
    tight = Ladder(steps_per_hour=3)
    assert endpoints(turn(full, ladder=tight)) == []
    moved = turn(full, ladder=tight, names={"a.example": (THERE,)})
    assert endpoints(moved) == [THERE] and care_of(moved).followed == (THERE,)
    again = replace(care_of(moved), step=None, deadline=NEVER, resume_at=NOW + 60.0)
    assert endpoints(turn(again, ladder=tight, names={"a.example": (THERE,)})) == [], "once"


def test_a_new_address_ends_the_wait_for_one_that_is_named_no_more() -> None:
    moved = turn(waiting(GONE, 1.0), names={"a.example": (THERE,)})
    assert endpoints(moved) == [THERE]
    assert care_of(moved).attempts[0].result == "the name moved meanwhile"
    both = turn(waiting(GONE, 1.0), names={"a.example": (THERE, HERE)})
    assert endpoints(both) == [] and care_of(both).step is not None
    resolving = replace(waiting(GONE, 1.0, tunnels.RESOLVE), deadline=NOW + 2.0)
    assert endpoints(turn(resolving, names={"a.example": (THERE,)}, settled=lambda host, since: False)) == []


def test_in_another_network_a_tunnel_that_is_wanted_is_set_again() -> None:
    silent = replace(PEER, keepalive=0)
    for peer, told in ((PEER, True), (replace(silent, probe="10.0.0.1"), True), (silent, False)):
        assert bool(endpoints(turn(LIVING, peer=peer, network_changed=True))) == told
    moved = turn(LIVING, peer=silent, rerouted=frozenset({"wg0"}))
    assert endpoints(moved) == [HERE], "its source address is cached, wanted or not"
    assert Provoke("wg0", "key", 25) in moved.effects
    assert endpoints(turn(LIVING, peer=silent, rerouted=frozenset({"wg1"}))) == []
    assert endpoints(turn(LIVING, seen=replace(SEEN, endpoint=None), rerouted=frozenset({"wg0"}))) == [HERE]
    under_way = waiting(LIVING, 1.0)
    assert endpoints(turn(under_way, rerouted=frozenset({"wg0"}))) == []
    assert endpoints(turn(waiting(GONE, 1.0, OTHER_WAN), rerouted=frozenset({"wg0"}),
                          memory=on_detour())) == [HERE]  # fmt: skip


def on_detour(until: float = NEVER) -> Memory:
    return Memory(look_at=NOW + 9.0, families=(4,), detours={"wg0": Detour("b", "a", 4, until, 60.0)})


def test_the_wait_for_a_new_session_counts_from_when_it_was_asked_in_vain() -> None:
    moved = turn(replace(LIVING, pulse=pulse(asked_since=NOW - 2.0)), names={"a.example": (THERE,)})
    assert care_of(moved).deadline == NOW - 2.0 + liveness.SILENCE + liveness.PROOF
    assert care_of(turn(LIVING, names={"a.example": (THERE,)})).deadline == NOW + 21.5
    several = turn(LIVING, names={"a.example": (THERE, THIRD)})
    assert care_of(several).deadline == NOW + 6.5, "there is another to try"
    new = replace(LIVING, pulse=pulse(session=False))
    assert care_of(turn(new, names={"a.example": (THERE,)})).deadline == NOW + 6.5, "nothing is held on to"


def test_old_attempts_and_steps_are_not_kept_for_ever() -> None:
    old = tuple(Attempt(NOW - 900.0 + n, "endpoint", "x", "no") for n in range(12))
    care = care_of(turn(replace(GONE, rung=1, attempts=old), peer=NARROW))
    assert len(care.attempts) == 12 and care.attempts[-1].at == NOW and care.attempts[:-1] == old[1:]
