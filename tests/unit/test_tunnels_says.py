"""One step of one peer at a time: what is said and done without an address, an uplink, a peer or a budget."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wgrouter.core import tunnels
from wgrouter.core.care import Attempt, Care, Memory, Outlook
from wgrouter.core.findings import Why
from wgrouter.core.liveness import ALIVE, DEAD, IDLE, NEW, SUSPECT, UNSEEN, Pulse
from wgrouter.core.machine import Context
from wgrouter.core.messages import Commanded, Event, Observed, SetEndpoint, Woke
from wgrouter.core.model import LONG_AGO, NEVER, DeviceSeen, Endpoint, PeerSeen, World
from wgrouter.core.settings import HostPort, Ladder, Peer, Settings, Tunnel

NOW = 10_000.0
HERE, THERE, ROAMED = Endpoint("192.0.2.1", 51820), Endpoint("192.0.2.2", 51820), Endpoint("198.51.100.7", 9)
PEER = Peer("wg0", "key", "office", (HostPort("a.example"),), keepalive=25)
LIVING = Care(pulse=Pulse(ALIVE, 9000.0, life_at=NOW - 5.0, proven=True, session=True), given=(HERE,))
SILENT = Pulse(DEAD, NOW - 100.0, life_at=9000.0, proven=True, session=True, asked_since=NOW - 115.0)
GONE = Care(pulse=SILENT, given=(HERE,), dead_at=NOW - 100.0)
SEEN = PeerSeen("key", HERE, (1, 0), 1000, 1000, 25)


def step(
    care: Care,
    seen: PeerSeen | None = SEEN,
    event: Event | None = None,
    addresses: tuple[Endpoint, ...] = (HERE,),
    reachable: frozenset[int] = frozenset({4}),
    trouble: str = "",
    ladder: Ladder = Ladder(),  # noqa: B008 — a frozen value
    changed: bool = False,
    settled: bool = True,
    before: PeerSeen | None = None,
    peer: Peer = PEER,
) -> tuple[Care, list[tuple[Why, str]], list[Endpoint], tuple[str, ...]]:
    """The care after one step, what was said, endpoints set, and the names that were hurried."""
    devices = {"wg0": DeviceSeen("wg0", listen_port=4000, peers={"key": seen} if seen else {})}
    context = Context(
        NOW, Settings(tunnels=(Tunnel("wg0", ladder=ladder, peers=(peer,)),)), World(wireguard=devices)
    )
    outlook = Outlook(
        lambda place: addresses, lambda host, since: settled, lambda host: trouble, reachable, changed
    )
    memory = Memory({peer.id: care}, NOW, wake=LONG_AGO, families=tuple(sorted(reachable)))
    earlier = {"wg0": DeviceSeen("wg0", peers={"key": before or seen} if before or seen else {})}
    turn = tunnels.step(memory, event or Observed(wireguard=devices), context, outlook, earlier)  # type: ignore[arg-type]
    said = [(finding.why, finding.text) for finding in turn.findings]
    done = [effect.endpoint for effect in turn.effects if isinstance(effect, SetEndpoint)]
    return turn.memory.peers[peer.id], said, done, turn.hurry


def test_a_peer_that_roamed_alive_is_told_once_and_left_alone() -> None:
    there = replace(SEEN, endpoint=ROAMED)
    care, said, done, _ = step(LIVING, there)
    assert said == [
        (Why.TUNNEL_ROAMED, "peer is alive at 198.51.100.7:9, which a.example does not name: left alone")
    ]
    assert done == [] and care.roamed == ROAMED
    care, said, done, _ = step(care, there)
    assert said == [] and done == [] and care.roamed == ROAMED
    care, said, _, _ = step(care, SEEN)
    assert care.roamed is None and said == []


def test_a_peer_that_roamed_and_was_not_heard_of_for_long_follows_its_name() -> None:
    old = replace(LIVING, pulse=replace(LIVING.pulse, life_at=NOW - 181.0))
    _, said, done, _ = step(old, replace(SEEN, endpoint=ROAMED))
    assert done == [HERE] and said[-1][0] is Why.TUNNEL_MOVED


def test_an_endpoint_that_a_name_gave_before_is_no_roaming() -> None:
    _, said, done, _ = step(LIVING, addresses=(THERE,))
    assert done == [THERE]
    assert (Why.TUNNEL_MOVED, f"endpoint {HERE} → {THERE}: the name moved") in said


def test_the_first_address_is_set() -> None:
    new = Care(pulse=Pulse(NEW, NOW - 1.0))
    care, said, done, _ = step(new, PeerSeen("key"))
    assert done == [HERE] and said == [(Why.TUNNEL_MOVED, f"endpoint none → {HERE}: the first address known")]
    assert care.step is not None and care.spent == (NOW,) and care.tried == (HERE,)


@pytest.mark.parametrize(
    ("trouble", "reason"), [("", "its name is not resolved yet"), ("NXDOMAIN, says x", "NXDOMAIN, says x")]
)
def test_without_any_address_that_is_told_once_for_each_reason(trouble: str, reason: str) -> None:
    new = Care(pulse=Pulse(NEW, NOW - 1.0))
    care, said, done, _ = step(new, PeerSeen("key"), addresses=(), trouble=trouble)
    assert said == [(Why.TUNNEL_NO_ENDPOINT, f"no address is known: {reason}")] and done == []
    care, said, _, _ = step(care, PeerSeen("key"), addresses=(), trouble=trouble)
    assert said == [] and care.homeless == reason
    _, said, _, _ = step(care, PeerSeen("key"), addresses=(), trouble="other")
    assert said == [(Why.TUNNEL_NO_ENDPOINT, "no address is known: other")]
    care, _, done, _ = step(care, PeerSeen("key"))
    assert care.homeless == "" and done == [HERE]


def test_an_answer_that_is_gone_takes_no_endpoint_away() -> None:
    care, said, done, _ = step(LIVING, addresses=(), trouble="SERVFAIL")
    assert (said, done) == ([], []) and care.homeless == ""


def test_without_an_uplink_the_ladder_stands_still_and_says_so_once() -> None:
    waiting = replace(
        GONE, step=Attempt(NOW - 1.0, "endpoint", "x"), deadline=NOW + 5.0, rung=3, tried=(HERE,)
    )
    waiting = replace(waiting, attempts=(Attempt(NOW - 1.0, "endpoint", "x"),))
    care, said, done, _ = step(waiting, reachable=frozenset())
    assert said == [(Why.TUNNEL_FROZEN, "steps held back: no uplink has a default route")] and done == []
    assert care.frozen and care.step is None and care.deadline == NEVER and (care.rung, care.tried) == (0, ())
    assert care.attempts[-1].result == "the uplink went away"
    again, said, done, _ = step(care, reachable=frozenset())
    assert (again, said, done) == (care, [], [])
    thawed, said, _, _ = step(care)
    assert not thawed.frozen and said[0][0] is Why.TUNNEL_STEP
    healthy, said, _, _ = step(LIVING, reachable=frozenset())
    assert healthy.frozen and said == [], "nothing was held back"


def test_a_peer_that_the_device_has_no_more_is_told_and_forgotten() -> None:
    care, said, done, _ = step(replace(GONE, rung=4, round=2), None)
    assert said == [(Why.TUNNEL_UNSEEN, "the device does not have this peer")] and done == []
    assert care == Care(pulse=care.pulse, given=(HERE,)) and care.pulse.state == UNSEEN
    assert step(care, None)[1] == []


def test_a_budget_is_of_an_hour() -> None:
    ladder = Ladder(steps_per_hour=3)
    spent = (NOW - 3600.0, NOW - 3000.0, NOW - 2000.0)
    care, said, _, _ = step(replace(GONE, spent=spent, rung=1), ladder=ladder)
    assert said[0][0] is Why.TUNNEL_STEP and care.spent == (*spent[1:], NOW)
    full = (NOW - 3599.0, *spent[1:])
    care, said, done, _ = step(replace(GONE, spent=full, rung=1), ladder=ladder)
    assert (said, done) == ([], []) and care.resume_at == NOW - 3599.0 + 3600.0


def test_the_rung_resolve_hurries_the_names_and_waits_for_them() -> None:
    care, said, done, hurried = step(GONE)
    assert said == [(Why.TUNNEL_STEP, "step resolve: resolve a.example again")] and hurried == ("a.example",)
    assert care.step is not None and care.deadline == NOW + 3.0 and done == []
    before = replace(care, step=replace(care.step, at=NOW - 1.0), deadline=NOW + 2.0)
    assert step(before, settled=False)[0] == before
    after, said, done, _ = step(before)
    assert after.attempts[-2].result == "answered" and done == [HERE]
    late, _, done, _ = step(replace(before, deadline=NOW), settled=False)
    assert late.attempts[-2].result == "no answer yet" and done == [HERE]
    told, _, _, _ = step(before, trouble="NXDOMAIN, says x")
    assert told.attempts[-2].result == "NXDOMAIN, says x"


def test_a_command_hurries_the_names() -> None:
    assert step(LIVING, event=Commanded("reresolve"))[3] == ("a.example",)
    assert step(LIVING, event=Commanded("refresh"))[3] == ()


def test_doubt_hurries_the_names_and_death_is_told() -> None:
    asked = replace(LIVING, pulse=replace(LIVING.pulse, asked_since=NOW - 11.0, life_at=NOW - 20.0))
    care, said, _, hurried = step(asked)
    assert care.pulse.state == SUSPECT and hurried == ("a.example",) and said[0][0] is Why.TUNNEL_SUSPECT
    dead = replace(LIVING, pulse=replace(LIVING.pulse, asked_since=NOW - 15.0, life_at=NOW - 20.0))
    care, said, _, _ = step(dead)
    assert care.pulse.state == DEAD and care.dead_at == NOW and said[0][0] is Why.TUNNEL_DEAD


def test_life_after_death_is_a_recovery_by_itself() -> None:
    alive = replace(SEEN, handshake=(2, 0), rx_bytes=1092)
    care, said, _, _ = step(replace(GONE, rung=4, round=3, tried=(HERE,)), alive, before=SEEN)
    assert said[0] == (
        Why.TUNNEL_RECOVERED,
        "alive again by itself after 100.0 s: last handshake 0 s ago; handshake 0 s ago",
    )
    assert (care.dead_at, care.rung, care.round, care.tried, care.resume_at) == (NEVER, 0, 0, (), LONG_AGO)


def test_a_quiet_peer_is_idle_and_nothing_is_done() -> None:
    quiet = replace(LIVING, pulse=replace(LIVING.pulse, life_at=NOW - 180.0))
    care, said, done, _ = step(quiet)
    assert care.pulse.state == IDLE and (said, done) == ([], [])


def test_in_another_network_a_wanted_peer_is_told_where_we_are() -> None:
    assert step(LIVING, changed=True)[2] == [HERE]
    assert (
        step(replace(LIVING, step=Attempt(NOW, "endpoint", "x"), deadline=NOW + 9.0), changed=True)[2] == []
    )


def test_a_step_without_proof_leads_on() -> None:
    waiting = replace(
        GONE,
        step=Attempt(NOW - 6.5, "endpoint", "x"),
        deadline=NOW,
        rung=2,
        attempts=(Attempt(NOW - 6.5, "endpoint", "x"),),
    )
    early, said, done, _ = step(replace(waiting, deadline=NOW + 0.1), event=Woke())
    assert (said, done) == ([], []) and early.step == waiting.step
    care, said, _, _ = step(waiting)
    assert said[0] == (Why.TUNNEL_STEP_FAILED, "step endpoint proved nothing within 6.5 s")
    assert said[1][1].startswith("step forget-flows") and care.rung == 3
    assert care.attempts[0].result == "no sign of life within 6.5 s"


def test_after_the_last_rung_the_next_round_waits_longer_each_time() -> None:
    ladder = Ladder(new_port="no", other_wan=False, backoff=16.0, backoff_max=100.0)
    waits = []
    for round_ in range(5):
        care, said, _, _ = step(replace(GONE, rung=4, round=round_, tried=(HERE,)), ladder=ladder)
        assert said[-1][0] is Why.TUNNEL_WAITING and care.round == round_ + 1
        assert (care.rung, care.tried, care.skipped) == (0, (), ())
        waits.append(care.resume_at - NOW)
    for wait, base in zip(waits, (16.0, 32.0, 64.0, 100.0, 100.0), strict=True):
        assert 0.75 * base <= wait <= 1.25 * base


# ---------------------------------------------------------------- back to the preferred endpoint

BOTH = replace(PEER, endpoints=(HostPort("192.0.2.1"), HostPort("192.0.2.2")))
ELSEWHERE = replace(SEEN, endpoint=THERE)
AWAY = replace(LIVING, given=(HERE, THERE))
LIMITS = Ladder(return_after=300.0, backoff_max=100.0)


def test_on_an_alternative_the_return_is_set_for_later() -> None:
    care, said, done, _ = step(AWAY, ELSEWHERE, peer=BOTH, ladder=LIMITS)
    assert (said, done) == ([], []) and care.return_wait == 300.0
    assert 270.0 <= care.return_at - NOW <= 330.0
    assert step(care, ELSEWHERE, peer=BOTH, ladder=LIMITS)[0] == care
    back = step(care, SEEN, peer=BOTH, ladder=LIMITS)[0]
    assert (back.return_at, back.return_wait) == (NEVER, 0.0)


def test_what_is_not_well_there_tries_no_return() -> None:
    due = replace(AWAY, return_at=NOW, return_wait=300.0)
    for care in (
        replace(due, step=Attempt(NOW - 1.0, "endpoint", "x"), deadline=NOW + 5.0),
        replace(due, pulse=replace(AWAY.pulse, state=IDLE, life_at=NOW - 200.0)),
        replace(due, return_at=NOW + 0.1),
    ):
        assert step(care, ELSEWHERE, peer=BOTH, ladder=LIMITS)[2] == []


def test_a_return_is_tried_for_two_seconds_and_the_next_one_waits_twice_as_long() -> None:
    due = replace(AWAY, return_at=NOW, return_wait=150.0)
    care, said, done, _ = step(due, ELSEWHERE, peer=BOTH, ladder=LIMITS)
    assert done == [HERE] and said == []
    assert (care.trial_until, care.kept, care.return_wait) == (NOW + 2.0, THERE, 300.0)
    assert care.return_at == NOW + 2.0 + 300.0
    assert care.attempts[-1] == Attempt(NOW, "return", f"try the preferred {HERE}")
    longest = step(replace(due, return_wait=300.0), ELSEWHERE, peer=BOTH, ladder=LIMITS)[0]
    assert longest.return_wait == 400.0, "four times the longest pause"


TRYING = replace(
    AWAY,
    trial_until=NOW + 1.0,
    kept=THERE,
    return_at=NOW + 300.0,
    attempts=(Attempt(NOW - 1.0, "return", f"try the preferred {HERE}"),),
)


def lives(by: str, ago: float) -> Pulse:
    return replace(LIVING.pulse, life_by=by, life_at=NOW - ago)


@pytest.mark.parametrize(
    ("pulse", "seen", "proven"),
    [
        (lives("bytes received", 0.0), SEEN, True),
        (lives("bytes received", 0.8), SEEN, True),
        (lives("bytes received", 0.9), SEEN, False),  # on their way when the endpoint was set
        (lives("in-tunnel probe", 0.9), SEEN, True),
        (lives("handshake", 0.9), SEEN, False),
        (lives("bytes received", 1.0), SEEN, False),
        (lives("bytes received", 0.0), ELSEWHERE, False),  # it answered by the old path
        (replace(lives("bytes received", 0.0), proven=False), SEEN, False),
    ],
)
def test_what_proves_the_preferred_endpoint(pulse: Pulse, seen: PeerSeen, proven: bool) -> None:
    care, said, _, _ = step(replace(TRYING, pulse=pulse), seen, peer=BOTH)
    if proven:
        assert said == [(Why.TUNNEL_RETURNED, f"back on the preferred endpoint {HERE}")]
        assert care.trial_until == NEVER and care.kept is None
        assert care.attempts[-1].result == f"proven by {pulse.life_by}"
    else:
        assert said == [] and care.trial_until == TRYING.trial_until and care.kept == THERE


@pytest.mark.parametrize(("seen", "done"), [(SEEN, [THERE]), (ELSEWHERE, [])])
def test_a_return_that_fails_goes_back_and_says_so(seen: PeerSeen, done: list[Endpoint]) -> None:
    pulse = replace(LIVING.pulse, life_at=NOW - 2.0, asked_since=NOW - 1.5, misses=3)
    trying = replace(TRYING, pulse=pulse, trial_until=NOW, probe_id=7, probe_at=NOW - 0.1)
    care, said, effects, _ = step(trying, seen, peer=BOTH)
    assert effects == done
    assert said[-1] == (
        Why.TUNNEL_RETURN_FAILED,
        f"the preferred endpoint {HERE} does not answer yet; stays on {THERE}",
    )
    assert (care.trial_until, care.kept, care.probe_id) == (NEVER, None, 0)
    assert (care.pulse.asked_since, care.pulse.misses) == (NEVER, 0), "the silence was of our making"
    assert care.attempts[-1].result == "no sign of life" and care.return_at == NOW + 300.0
