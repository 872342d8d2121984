"""What a step of a peer's care remembers: what evidence is worth, where death leads, what a recovery ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from tests.unit.test_tunnels_steps import (
    AWAY,
    GONE,
    HERE,
    LIVING,
    LOOK,
    NARROW,
    NOW,
    PEER,
    PROBED,
    ROAMER,
    SEEN,
    THERE,
    THIRD,
    TRYING,
    care_of,
    endpoints,
    on_detour,
    probes,
    pulse,
    rungs,
    turn,
    waiting,
)
from wgrouter.core import tunnels
from wgrouter.core.care import Attempt, Care, Detour, Memory, Outlook, TunnelsTurn
from wgrouter.core.findings import Rejected, Why
from wgrouter.core.ladder import OTHER_WAN, RUNG_INDEX
from wgrouter.core.liveness import ALIVE, DEAD, IDLE, NEW, SUSPECT, UNSEEN, Pulse
from wgrouter.core.machine import Context
from wgrouter.core.messages import (
    Configured,
    Failed,
    Hinted,
    Look,
    Observed,
    Replied,
    SetEndpoint,
    Unsent,
    Woke,
)
from wgrouter.core.model import NET, NEVER, WIREGUARD, Endpoint, PeerSeen, World
from wgrouter.core.settings import HostPort, Ladder, Settings, Tunnel

SIX = Endpoint("2001:db8::1", 51820)


def whys(done: TunnelsTurn) -> list[Why]:
    return [finding.why for finding in done.findings]


# ---------------------------------------------------------------- when there is nothing to do


def test_what_concerns_nobody_changes_nothing() -> None:
    memory = Memory({PEER.id: LIVING}, NOW + 9.0, wake=NOW + 1.0, families=(4,), wakes={PEER.id: NOW + 1.0})
    for event in (Replied(2, 0.1), Unsent(4, "no"), Observed()):  # a WAN's probes, another look
        assert turn(LIVING, event, memory=memory) == TunnelsTurn(memory)


def test_before_the_first_look_there_is_nobody_to_care_for() -> None:
    settings = Settings(tunnels=(Tunnel("wg0", peers=(PEER,)),))
    nothing = Outlook(lambda place: (), lambda host, since: True, lambda host: "", frozenset({4}))
    done = tunnels.step(Memory(), Configured(settings), Context(NOW, settings, World()), nothing, None)
    assert done.memory.peers == {PEER.id: Care()} and done.effects == (LOOK,)
    nobody = tunnels.step(
        done.memory, Configured(Settings()), Context(NOW, Settings(), World()), nothing, None
    )
    assert nobody.memory.peers == {} and nobody.memory.look_at == nobody.memory.wake == NEVER
    assert nobody.effects == ()


def test_a_look_that_came_is_not_asked_for_again() -> None:
    due = Memory(look_at=NOW, families=(4,))
    assert turn(LIVING, memory=due).effects == ()
    assert turn(LIVING, Observed(), memory=due).effects == (LOOK,), "it was of something else"


def test_one_peer_in_need_is_enough_for_looks_in_haste() -> None:
    other = replace(PEER, public_key="b", label="b")
    done = turn(LIVING, others=((other, replace(waiting(GONE, 1.0), pulse=GONE.pulse)),))
    assert done.memory.look_at == NOW + 0.5
    asked = replace(LIVING, pulse=pulse(asked_since=NOW - 1.0))
    assert turn(LIVING, others=((other, asked),)).memory.look_at == NOW + 1.0


def test_a_peer_that_is_configured_no_more_wakes_nobody() -> None:
    gone = ("wg0", "gone")
    memory = Memory(look_at=NOW + 9.0, families=(4,), wakes={gone: NOW + 0.1})
    done = turn(LIVING, Configured(Settings()), memory=memory)
    assert set(done.memory.wakes) == {PEER.id} and done.memory.wake > NOW + 0.1


def test_an_answer_is_heard_between_the_peers_own_times() -> None:
    later = Memory(look_at=NOW + 9.0, families=(4,), wake=NOW + 5.0, wakes={PEER.id: NOW + 5.0})
    asked = replace(LIVING, probe_id=3, probe_at=NOW - 0.1)
    care = care_of(turn(asked, Replied(3, 0.1), peer=PROBED, memory=later))
    assert care.probe_id == 0 and care.pulse.probe_answered and care.pulse.life_by == "in-tunnel probe"
    assert care.pulse.life_at == NOW
    moved = turn(
        LIVING, Hinted("dns"), memory=later, names={"a.example": (THERE,)}, news=frozenset({"a.example"})
    )
    assert endpoints(moved) == [THERE]
    assert endpoints(turn(LIVING, Hinted("dns"), memory=later, names={"a.example": (THERE,)})) == []


# ---------------------------------------------------------------- evidence


def test_a_probe_that_could_not_be_sent_is_no_sign_of_anything() -> None:
    asked = replace(LIVING, probe_id=3, probe_at=NOW - 0.1)
    care = care_of(turn(asked, Unsent(3, "Network is unreachable"), peer=PROBED))
    assert care.probe_id == 0 and care.pulse == asked.pulse
    assert care_of(turn(LIVING, Replied(0, 0.1))).pulse == LIVING.pulse, "nothing was asked"


@pytest.mark.parametrize(("ago", "misses"), [(1.1, 1), (1.0, 1), (0.9, 0)])
def test_a_probe_is_missed_after_a_second_and_when_time_itself_says_so(ago: float, misses: int) -> None:
    asked = replace(LIVING, probe_id=3, probe_at=NOW - ago)
    care = care_of(turn(asked, Woke(), peer=PROBED))
    assert (care.pulse.misses, care.probe_id) == ((1, 0) if misses else (0, 3))
    if misses:
        assert care.pulse.asked_since == NOW - ago
    assert care_of(turn(asked, Hinted("ubus"), peer=PROBED)).pulse.misses == 0


def test_a_peer_is_met_for_the_first_time_by_a_look_and_by_a_reload() -> None:
    for event in (None, Configured(Settings())):
        assert care_of(turn(Care(), event)).pulse.state == ALIVE
        assert care_of(turn(Care(), event, seen=replace(SEEN, handshake=(0, 0)))).pulse.state == NEW
    idle = replace(LIVING, pulse=pulse(state=IDLE, life_at=NOW - 900.0))
    blind: tuple[dict[str, PeerSeen] | None, ...] = (None, {})
    for before in blind:  # the look before did not show it, or its device
        met = care_of(turn(idle, before=before)).pulse
        assert (met.state, met.proven) == (ALIVE, False)
    assert care_of(turn(idle)).pulse.state == IDLE


def test_the_first_handshake_is_told_and_no_other() -> None:
    new = Care(pulse=Pulse(NEW, NOW - 9.0))
    before = {"wg0": replace(SEEN, handshake=(0, 0))}
    [told] = turn(new, before=before).findings
    assert told.why is Why.TUNNEL_ALIVE and "handshake 0 s ago" in told.text
    asked = Care(pulse=Pulse(NEW, NOW - 9.0, asked_since=NOW - 7.0))
    assert whys(turn(asked))[0] is Why.TUNNEL_DEAD and Why.TUNNEL_ALIVE not in whys(turn(asked))
    idle = replace(LIVING, pulse=pulse(state=IDLE, life_at=NOW - 900.0))
    assert turn(idle, before=before).findings == ()
    assert care_of(turn(idle, before=before)).pulse.state == ALIVE


def test_a_peer_that_goes_while_a_step_waits_is_told_as_gone() -> None:
    answered = replace(waiting(GONE, 1.0), pulse=replace(GONE.pulse, life_at=NOW, life_by="handshake"))
    done = turn(answered, seen=None)
    assert whys(done) == [Why.TUNNEL_UNSEEN] and care_of(done) == Care(
        pulse=replace(answered.pulse, state=UNSEEN, since=NOW), given=(HERE,)
    )
    assert whys(turn(LIVING, there=False)) == [Why.TUNNEL_UNSEEN], "and so is one with its interface"


# ---------------------------------------------------------------- death


def dying(**other: object) -> Care:
    """Silence has lasted long enough."""
    care = replace(LIVING, pulse=pulse(life_at=NOW - 30.0, asked_since=NOW - 15.0))
    return replace(care, **other)  # type: ignore[arg-type]


def three(device: str, family: int) -> tuple[str, ...]:
    return ("a", "b", "c")


BEEN = Memory(look_at=NOW + 9.0, families=(4,), detours={"wg0": Detour("", "a", 4, NOW + 60.0, 60.0)})


def test_after_a_detour_it_is_the_first_remedy_but_not_beside_a_living_peer() -> None:
    assert rungs(turn(dying(), ways=three)) == ["resolve"]
    assert LOOK in turn(dying()).effects, "it may have spoken meanwhile, and from elsewhere"
    done = turn(dying(), memory=BEEN, ways=three)
    assert rungs(done) == ["other-wan"] and done.memory.detours == {"wg0": Detour("b", "a", 4, NEVER, 60.0)}
    sibling = replace(PEER, public_key="b", label="b")
    assert rungs(turn(dying(), memory=BEEN, others=((sibling, LIVING),), ways=three)) == ["resolve"]


def test_a_death_on_a_detour_ends_it() -> None:
    done = turn(dying(), memory=on_detour(NOW + 60.0), ways=three)
    assert whys(done)[:2] == [Why.TUNNEL_DEAD, Why.TUNNEL_DETOUR_ENDED]
    assert done.memory.detours["wg0"].wan == "" and Look((NET, WIREGUARD)) in done.effects
    assert rungs(done) == ["resolve"]


def test_a_death_while_a_new_endpoint_is_waited_for_ends_the_wait() -> None:
    step = replace(waiting(dying(), 6.0, tunnels.MOVE), pulse=dying().pulse, deadline=NOW + 15.0)
    done = turn(step)
    assert whys(done)[:2] == [Why.TUNNEL_DEAD, Why.TUNNEL_STEP_FAILED] and care_of(done).dead_at == NOW
    over = turn(replace(step, deadline=NOW - 1.0))
    assert whys(over)[:2] == [Why.TUNNEL_DEAD, Why.TUNNEL_STEP_FAILED]


def test_a_peer_that_is_only_ever_called_by_the_other_side_has_no_ladder() -> None:
    done = turn(GONE, peer=replace(PEER, endpoints=()))
    assert done.findings == () and done.effects == () and care_of(done) == GONE


# ---------------------------------------------------------------- proof and recovery


EARLIER = Attempt(NOW - 60.0, "endpoint", "x", "no sign of life within 6.5 s")


def test_a_recovery_ends_all_that_was_under_way() -> None:
    care = replace(
        waiting(GONE, 1.0), round=3, ways=("b",), skipped=(Rejected("renew", "x"),), resume_at=NOW + 60.0
    )
    care = replace(care, attempts=(EARLIER, *care.attempts), dead_at=NOW - 12.34)
    done = turn(replace(care, pulse=pulse(life_at=NOW, life_by="handshake", state=DEAD, since=NOW - 9.0)))
    after = care_of(done)
    assert after == Care(
        pulse=after.pulse,
        given=(HERE,),
        attempts=(EARLIER, replace(care.attempts[1], result="proven by handshake")),
    )
    [finding] = done.findings
    assert finding.arguments["rung"] == "endpoint" and finding.arguments["seconds"] == 12.3


def test_a_proof_without_a_death_before_is_not_told() -> None:
    answered = replace(waiting(LIVING, 1.0), pulse=pulse(life_at=NOW, life_by="handshake"))
    assert turn(answered).findings == ()


@pytest.mark.parametrize(
    ("rung", "told"),
    [(OTHER_WAN, [Why.TUNNEL_DETOUR, Why.TUNNEL_RECOVERED]), ("endpoint", [Why.TUNNEL_RECOVERED])],
)
def test_a_detour_is_proven_by_the_step_that_took_it(rung: str, told: list[Why]) -> None:
    care = replace(waiting(GONE, 1.0, rung), pulse=pulse(state=DEAD, life_at=NOW, life_by="handshake"))
    sibling = replace(PEER, public_key="b", label="b")  # which tries it too
    other = replace(waiting(GONE, 1.0, OTHER_WAN), pulse=GONE.pulse)
    done = turn(care, memory=on_detour(), others=((sibling, other),), ways=three)
    assert whys(done) == told
    assert (done.memory.detours["wg0"].until < NEVER) == (rung == OTHER_WAN)


def test_a_detour_wakes_when_it_ends() -> None:
    calm = replace(LIVING, pulse=pulse(life_at=NOW))
    assert turn(calm, memory=on_detour(NOW + 0.2), ways=three).memory.wake == NOW + 0.2


def test_a_detour_without_proof_makes_way_for_the_next_and_one_that_nobody_tries_goes() -> None:
    over = replace(waiting(GONE, 6.5, OTHER_WAN), rung=RUNG_INDEX[OTHER_WAN], ways=("b",))
    done = turn(over, memory=on_detour(), ways=three)
    assert done.memory.detours == {"wg0": Detour("c", "a", 4)} and care_of(done).ways == ("b", "c")
    left = turn(LIVING, memory=on_detour(), ways=three)
    assert left.memory.detours == {} and left.effects == (Look((NET, WIREGUARD)),)
    sibling = replace(PEER, public_key="b", label="b")
    under_way = replace(waiting(GONE, 1.0, OTHER_WAN), pulse=GONE.pulse)
    for care in (LIVING, waiting(GONE, 6.5), waiting(GONE, 1.0)):
        kept = turn(care, memory=on_detour(), others=((sibling, under_way),), ways=three)
        assert kept.memory.detours == {"wg0": Detour("b", "a", 4, NEVER, 60.0)}, "it is another's"
    alone = turn(waiting(GONE, 1.0), memory=on_detour(), ways=three)
    assert alone.memory.detours == {}


def test_on_a_detour_no_other_is_begun() -> None:
    high = replace(GONE, rung=RUNG_INDEX[OTHER_WAN])
    [finding] = turn(high, memory=on_detour(NOW + 60.0), ways=three).findings
    assert Rejected("other-wan", "wg0 goes by b already") in finding.rejected
    first = turn(high, ways=three)
    assert first.memory.detours == {"wg0": Detour("b", "a", 4)} and care_of(first).ways == ("b",)


@pytest.mark.parametrize(
    ("seen", "names", "family"),
    [
        (replace(SEEN, endpoint=SIX), {"a.example": (HERE, SIX)}, 6),
        (SEEN, {"a.example": (HERE, SIX)}, 4),
        (replace(SEEN, endpoint=None), {"a.example": (SIX,)}, 6),
    ],
)
def test_the_ways_are_asked_for_the_endpoints_family(
    seen: PeerSeen, names: Mapping[str, tuple[Endpoint, ...]], family: int
) -> None:
    asked: list[tuple[str, int]] = []

    def ways(device: str, of: int) -> tuple[str, ...]:
        asked.append((device, of))
        return ("a", "b")

    done = turn(
        replace(GONE, rung=RUNG_INDEX[OTHER_WAN]),
        seen=seen,
        names=names,
        ways=ways,
        reachable=frozenset({4, 6}),
    )
    assert set(asked) == {("wg0", family)} and done.memory.detours["wg0"].family == family


# ---------------------------------------------------------------- the name moved


def test_a_peer_that_roams_alive_is_told_by_what_should_name_it() -> None:
    literal = replace(PEER, endpoints=(HostPort("192.0.2.1"),))
    [finding] = turn(LIVING, peer=literal, seen=ROAMER).findings
    assert (
        finding.text == "peer is alive at 198.51.100.7:9, which the configuration does not name: left alone"
    )


def test_only_a_living_peer_has_roamed() -> None:
    for care in (
        replace(GONE, pulse=replace(GONE.pulse, life_at=NOW - 100.0)),
        replace(LIVING, pulse=pulse(state=SUSPECT, life_at=NOW - 200.0, asked_since=NOW - 12.0)),
    ):
        assert Why.TUNNEL_ROAMED not in whys(turn(care, seen=ROAMER))
    doubted = replace(LIVING, pulse=pulse(state=SUSPECT, life_at=NOW - 20.0, asked_since=NOW - 12.0))
    assert whys(turn(doubted, seen=ROAMER)) == [Why.TUNNEL_ROAMED]


def test_a_move_waits_for_the_step_before_and_for_what_was_refused() -> None:
    moved = {"a.example": (THERE,)}
    for care in (waiting(LIVING, 1.0), replace(LIVING, resume_at=NOW + 0.1)):
        done = turn(replace(care, pulse=pulse(life_at=NOW - 9.0)), names=moved)
        assert endpoints(done) == [] and done.findings == ()
    assert endpoints(turn(replace(LIVING, resume_at=NOW), names=moved)) == [THERE]


def test_a_remedy_for_an_address_that_is_still_named_is_seen_through() -> None:
    """The kernel has yet another endpoint: the device was made anew meanwhile."""
    named = {"a.example": (THERE, HERE)}
    done = turn(replace(waiting(GONE, 1.0), given=(HERE, THIRD)), seen=AWAY, names=named)
    assert endpoints(done) == [] and care_of(done).step is not None
    last = replace(waiting(GONE, 1.0), given=(HERE, THIRD), tried=(HERE, THIRD))
    assert endpoints(turn(last, seen=AWAY, names={"a.example": (HERE,)})) == [HERE], (
        "the last one tried counts"
    )
    paused = replace(waiting(GONE, 1.0), given=(HERE, THIRD), resume_at=NOW + 9.0)
    assert care_of(turn(paused, seen=AWAY, names=named)).rung == paused.rung


def test_a_round_for_new_addresses_begins_with_none_tried() -> None:
    paused = replace(GONE, resume_at=NOW + 60.0, tried=(HERE, THIRD), rung=5)
    care = care_of(turn(paused, names={"a.example": (THERE,)}))
    assert care.tried == (THERE,) and care.rung == RUNG_INDEX["endpoint"] + 1


# ---------------------------------------------------------------- the ladder's book-keeping


def test_a_name_step_takes_the_names_time_and_an_endpoint_the_proofs() -> None:
    care = care_of(turn(replace(GONE, skipped=(Rejected("x", "y"),))))
    assert care.deadline == NOW + 3.0 and care.tried == () and care.skipped == () and care.probe_id == 0
    done = turn(replace(GONE, rung=1, skipped=(Rejected("x", "y"),)), peer=NARROW)
    care = care_of(done, NARROW)
    assert care.deadline == NOW + 6.5 and care.tried == (HERE,) and care.skipped == ()
    assert len(probes(done)) == 1 and done.memory.restarts.get("wg0", ()) == ()
    assert done.findings[0].rejected == (Rejected("x", "y"),)
    again = care_of(turn(replace(GONE, rung=1, tried=(HERE,))))
    assert again.tried == (HERE,), "once"
    assert turn(GONE).memory.restarts.get("wg0", ()) == ()


@pytest.mark.parametrize(
    ("attempts", "life_at", "deadline"),
    [
        ((), NOW - 200.0, 6.5),
        ((Attempt(NOW - 9.0, "move", "x"),), NOW - 200.0, 19.5),
        ((Attempt(NOW - 9.0, "move", "x"), EARLIER), NOW - 200.0, 19.5),
        ((EARLIER,), NOW - 200.0, 6.5),
        ((Attempt(NOW - 9.0, "move", "x"),), NOW - 8.9, 19.5),  # on its way before the move
        ((Attempt(NOW - 9.0, "move", "x"),), NOW - 8.5, 6.5),
    ],
)
def test_where_a_peer_moved_lately_its_last_address_has_the_time_of_a_new_session(
    attempts: tuple[Attempt, ...], life_at: float, deadline: float
) -> None:
    dead = replace(GONE.pulse, life_at=life_at, asked_since=NOW - 2.0, since=NOW - 1.0)
    care = care_of(turn(replace(GONE, pulse=dead, rung=RUNG_INDEX["forget-flows"], attempts=attempts)))
    assert care.deadline == pytest.approx(NOW + deadline)
    resolving = care_of(turn(replace(GONE, pulse=dead, attempts=attempts)))
    assert resolving.deadline == NOW + 3.0


def test_a_step_waits_until_all_its_names_are_settled() -> None:
    two = replace(PEER, endpoints=(HostPort("a.example"), HostPort("b.example")))
    asked = replace(waiting(GONE, 1.0, tunnels.RESOLVE, 3.0), tried=())
    care = care_of(turn(asked, peer=two, settled=lambda host, since: host == "a.example"))
    assert care.step == asked.step


def test_a_restart_is_proven_in_the_usual_time_wherever_the_peer_moved() -> None:
    dead = replace(GONE.pulse, life_at=NOW - 200.0, asked_since=NOW - 2.0, since=NOW - 1.0)
    moved = replace(GONE, pulse=dead, attempts=(Attempt(NOW - 9.0, "move", "x"),), tried=(HERE,))
    high = replace(moved, rung=RUNG_INDEX["renew"])
    assert care_of(turn(high, ladder=Ladder(renew=True))).deadline == NOW + 6.5


def test_what_a_step_without_proof_leaves() -> None:
    asked = replace(GONE, attempts=(EARLIER,))
    step = Attempt(NOW - 6.54, "endpoint", "x")
    care = replace(asked, step=step, deadline=NOW, rung=2, attempts=(EARLIER, step))
    done = turn(care)
    assert care_of(done).attempts[:2] == (EARLIER, replace(step, result="no sign of life within 6.5 s"))
    made_anew = replace(care, pulse=replace(GONE.pulse, asked_since=NEVER))
    assert care_of(turn(made_anew)).attempts[1].result == "no sign of life within 6.5 s"
    frozen = care_of(turn(care, reachable=frozenset()))
    assert frozen.attempts == (EARLIER, replace(step, result="the uplink went away"))


def test_a_refusal_of_the_kernel_ends_the_step() -> None:
    done = turn(waiting(GONE, 1.0), Failed(SetEndpoint("wg0", "key", HERE), "Operation not permitted", 1))
    assert care_of(done).attempts[0].result == "Operation not permitted" and rungs(done) == ["forget-flows"]


def test_in_another_network_the_ladder_begins_at_once() -> None:
    paused = replace(GONE, resume_at=NOW + 60.0, rung=5, round=4)
    assert rungs(turn(paused)) == [] and rungs(turn(paused, network_changed=True)) == ["resolve"]


def test_steps_of_more_than_an_hour_ago_and_ways_of_the_last_round_are_forgotten() -> None:
    spent = (NOW - 3600.0, NOW - 60.0)
    tight = Ladder(steps_per_hour=1)
    assert care_of(turn(replace(GONE, spent=spent), ladder=tight)).spent == (NOW - 60.0,)
    other = replace(NARROW, public_key="b", label="b")
    later = turn(replace(GONE, rung=1), peer=NARROW, others=((other, replace(GONE, rung=1, spent=spent)),))
    assert care_of(later, other).spent == (NOW - 60.0,)
    over = turn(replace(GONE, rung=8, ways=("b",)))
    assert whys(over) == [Why.TUNNEL_WAITING] and care_of(over).ways == ()


def test_a_reload_sees_through_what_is_under_way() -> None:
    step = waiting(GONE, 1.0)
    assert care_of(turn(step, Configured(Settings()))) == step


def test_without_an_endpoint_nothing_is_probed() -> None:
    nowhere = replace(LIVING, pulse=pulse(life_at=NOW - 60.0, probe_answered=True), probe_at=NOW - 60.0)
    done = turn(nowhere, peer=PROBED, seen=replace(SEEN, endpoint=None), names={})
    assert probes(done) == [] and whys(done) == [Why.TUNNEL_NO_ENDPOINT]
    assert len(probes(turn(nowhere, peer=PROBED, names={}))) == 1


def test_a_keepalive_of_a_second_is_one() -> None:
    hasty = replace(PEER, keepalive=1)
    assert endpoints(turn(LIVING, peer=hasty, network_changed=True)) == [HERE]


def test_a_trial_is_not_begun_twice() -> None:
    assert endpoints(turn(TRYING)) == []
