"""What counts as life, what counts as asking, and the state table over both."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wgrouter.core import liveness
from wgrouter.core.liveness import ALIVE, DEAD, IDLE, NEW, SUSPECT, UNSEEN
from wgrouter.core.model import NEVER, PeerSeen

FRESH = PeerSeen("key", handshake=(1, 0))
NONE = PeerSeen("key")


def test_every_state_knows_every_signal() -> None:
    states = (UNSEEN, NEW, ALIVE, IDLE, SUSPECT, DEAD)
    signals = (liveness.GONE, liveness.LIFE, liveness.QUIET, liveness.UNSURE, liveness.SILENT)
    assert set(liveness.TRANSITIONS) == set(product(states, signals))
    assert {after for (state, _), after in liveness.TRANSITIONS.items() if state == DEAD} == {
        DEAD,
        ALIVE,
        UNSEEN,
    }


@pytest.mark.parametrize(
    ("received", "sent", "lives", "asks"),
    [
        (0, 0, False, False),
        (32, 0, True, False),
        (148, 0, False, False),  # the peer asks for a handshake, and does not hear us
        (296, 0, False, False),
        (92, 148, True, False),
        (0, 32, False, False),  # a keepalive is never answered
        (0, 64, False, False),
        (0, 148, False, True),
        (0, 128, False, True),
        (32, 128, True, False),
    ],
)
def test_bytes(received: int, sent: int, lives: bool, asks: bool) -> None:
    seen = PeerSeen("key", handshake=(1, 0), rx_bytes=received, tx_bytes=sent)
    pulse = liveness.observe(liveness.first_look(FRESH, 100.0), FRESH, seen, 105.0)
    assert (pulse.life_at == 105.0, pulse.asked_since != NEVER) == (lives, asks)


def test_silence_after_asking_is_death_and_only_life_ends_it() -> None:
    asked = liveness.observe(
        liveness.first_look(FRESH, 0.0), FRESH, PeerSeen("key", handshake=(1, 0), tx_bytes=128), 5.0
    )
    assert liveness.turn(asked, True, 15.9).state == ALIVE  # a keepalive may answer yet
    assert liveness.turn(asked, True, 16.0).state == SUSPECT
    known = replace(asked, probe_answered=True)
    assert liveness.turn(known, True, 7.9).state == ALIVE
    assert liveness.turn(known, True, 8.0).state == SUSPECT
    assert liveness.turn(known, True, 19.9).state == SUSPECT
    dead = liveness.turn(asked, True, 20.0)
    assert dead.state == DEAD
    assert liveness.turn(liveness.alive(dead, "handshake", 21.0), True, 21.0).state == ALIVE


def test_life_in_spite_of_silent_probes_takes_their_meaning_away() -> None:
    known = replace(liveness.first_look(FRESH, 0.0), probe_answered=True)
    silent = known
    for second in range(4):
        silent = liveness.missed(silent, float(second))
    assert liveness.turn(silent, True, 4.0).state == DEAD
    assert liveness.turn(liveness.missed(known, 0.0), True, 1.0).state == SUSPECT
    alive = liveness.alive(silent, "bytes received", 5.0)
    assert not alive.probe_answered
    for second in range(5, 9):
        alive = liveness.missed(alive, float(second))
    assert liveness.turn(replace(alive, state=ALIVE), True, 9.0).state == ALIVE
    assert liveness.alive(liveness.missed(known, 0.0), "bytes received", 1.0).probe_answered


def test_without_a_session_two_initiations_decide() -> None:
    asked = liveness.observe(liveness.first_look(NONE, 0.0), NONE, PeerSeen("key", tx_bytes=148), 1.0)
    assert liveness.turn(asked, True, 7.9).state == NEW
    assert liveness.turn(asked, True, 8.0).state == DEAD


def one_way(handshakes: int) -> liveness.Pulse:
    """A minute in which the peer's keepalives come and so many handshake messages of ours get no answer."""
    before, pulse = FRESH, liveness.first_look(FRESH, 0.0)
    for second in range(1, 61):
        sent = 148 if second % 5 == 0 and second <= 5 * handshakes else 0
        received = 32 if second % 14 == 0 else 0
        seen = PeerSeen("key", None, (1, 0), before.rx_bytes + received, before.tx_bytes + sent)
        pulse = liveness.turn(liveness.observe(pulse, before, seen, float(second)), True, float(second))
        before = seen
    return pulse


def test_what_comes_while_our_handshakes_get_no_answer_is_no_life() -> None:
    """The peer's way to us alone is open; each of its keepalives would begin the ladder anew."""
    assert one_way(handshakes=1).state == ALIVE  # it was lost, as one in a hundred is
    dead = one_way(handshakes=12)
    assert (dead.state, dead.since) == (DEAD, 20.0)  # 15 s after the first one
    answered = PeerSeen("key", None, (2, 0), 92, 148 * 13)
    alive = liveness.observe(dead, PeerSeen("key", None, (1, 0), 0, 148 * 12), answered, 61.0)
    assert liveness.turn(alive, True, 61.0).state == ALIVE
    assert alive.initiations == 0


@given(st.lists(st.tuples(st.floats(0.1, 60), st.integers(0, 999), st.integers(0, 999)), max_size=30))
def test_the_next_change_lies_ahead(looks: list[tuple[float, int, int]]) -> None:
    now, before = 0.0, FRESH
    pulse = liveness.first_look(before, now)
    for wait, received, sent in looks:
        now += wait
        seen = PeerSeen("key", None, (1, 0), before.rx_bytes + received, before.tx_bytes + sent)
        pulse = liveness.turn(liveness.observe(pulse, before, seen, now), True, now)
        before = seen
        assert liveness.next_change(pulse, now) > now
