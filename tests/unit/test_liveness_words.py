"""The table of liveness row by row, what two looks tell byte by byte, and the words for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wgrouter.core import liveness
from wgrouter.core.liveness import (
    ALIVE,
    DEAD,
    GONE,
    IDLE,
    LIFE,
    NEW,
    QUIET,
    SILENT,
    SUSPECT,
    UNSEEN,
    UNSURE,
    Pulse,
)
from wgrouter.core.model import LONG_AGO, NEVER, PeerSeen

NOW = 1000.0
SEEN = PeerSeen("key", handshake=(1, 0), rx_bytes=10_000, tx_bytes=10_000)


def in_state(state: str, signal: str) -> tuple[Pulse, bool]:
    """A pulse in this state whose evidence says this now, and whether the device has the peer."""
    pulse = Pulse(state, NOW - 500.0, session=True)
    if signal == LIFE:
        return replace(pulse, life_at=NOW - 1.0), True
    if signal == UNSURE:
        return replace(pulse, life_at=NOW - 10.0, asked_since=NOW - 11.0), True
    if signal == SILENT:
        return replace(pulse, asked_since=NOW - 15.0), True
    return replace(pulse, life_at=NOW - 600.0), signal == QUIET


@pytest.mark.parametrize(("state", "signal"), liveness.TRANSITIONS)
def test_each_row_of_the_table_is_reached(state: str, signal: str) -> None:
    pulse, present = in_state(state, signal)
    assert liveness.signal(pulse, present, NOW) == signal
    after = liveness.turn(pulse, present, NOW)
    expected = liveness.TRANSITIONS[state, signal]
    assert after == (pulse if state == expected else replace(pulse, state=expected, since=NOW))


def asked(**other: object) -> Pulse:
    return replace(Pulse(ALIVE, 0.0, life_at=100.0, asked_since=100.0, session=True), **other)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pulse", "now", "says"),
    [
        (Pulse(ALIVE, 0.0, life_at=100.0), 279.9, LIFE),
        (Pulse(ALIVE, 0.0, life_at=100.0), 280.0, QUIET),
        (Pulse(DEAD, 100.0, life_at=100.0), 101.0, QUIET),  # not life after death
        (Pulse(DEAD, 100.0, life_at=100.1), 101.0, LIFE),
        # Doubt comes later where nothing is known to answer at once.
        (asked(probe_answered=True), 102.9, LIFE),
        (asked(probe_answered=True), 103.0, UNSURE),
        (asked(), 110.9, LIFE),
        (asked(), 111.0, UNSURE),
        (asked(misses=1, probe_answered=True), 101.0, UNSURE),
        (asked(misses=9), 101.0, LIFE),
        (asked(misses=3, probe_answered=True), 103.0, UNSURE),
        (asked(misses=4, probe_answered=True), 103.0, SILENT),
        (asked(), 114.9, UNSURE),
        (asked(), 115.0, SILENT),
        (asked(session=False), 106.9, LIFE),
        (asked(session=False), 107.0, SILENT),
    ],
)
def test_when_evidence_becomes_a_signal(pulse: Pulse, now: float, says: str) -> None:
    assert liveness.signal(pulse, True, now) == says


def test_a_peer_met_for_the_first_time() -> None:
    assert liveness.first_look(PeerSeen("key"), NOW) == Pulse(NEW, NOW)
    told = Pulse(ALIVE, NOW, life_at=NOW, life_by="a handshake before the agent's start", session=True)
    assert liveness.first_look(SEEN, NOW) == told


def look(received: int = 0, sent: int = 0, token: tuple[int, int] = (1, 0), **before: object) -> Pulse:
    pulse = replace(Pulse(ALIVE, 1.0, life_at=900.0, life_by="x", session=True), **before)  # type: ignore[arg-type]
    seen = replace(SEEN, rx_bytes=10_000 + received, tx_bytes=10_000 + sent, handshake=token)
    return liveness.observe(pulse, SEEN, seen, NOW)


def test_a_handshake_is_life_and_a_session() -> None:
    pulse = look(92, 148, (2, 0), session=False, asked_since=950.0, initiations=3, misses=2)
    assert (pulse.life_at, pulse.life_by, pulse.handshake_at) == (NOW, "handshake", NOW)
    assert pulse.session and pulse.proven
    assert (pulse.asked_since, pulse.initiations, pulse.misses) == (NEVER, 0, 0)


def test_a_token_that_is_gone_is_no_handshake() -> None:
    """The peer was made anew: its counters too, and what it had asked."""
    pulse = look(-10_000, -10_000, (0, 0), asked_since=950.0, initiations=2)
    assert (pulse.life_at, pulse.handshake_at, pulse.asked_since, pulse.initiations) == (
        900.0,
        LONG_AGO,
        NEVER,
        0,
    )
    assert look(0, -1, asked_since=950.0).asked_since == NEVER
    assert look(-1, 0, asked_since=950.0).asked_since == NEVER


@pytest.mark.parametrize(
    ("sent", "initiations"),
    [(148, 1), (296, 2), (444, 3), (148 + 128, 1), (148 + 32, 1), (128, 0), (96, 0), (1312, 0)],
)
def test_what_was_sent_is_asked_and_initiations_are_counted(sent: int, initiations: int) -> None:
    pulse = look(0, sent)
    assert (pulse.asked_since, pulse.initiations) == (NOW, initiations)
    again = look(0, sent, asked_since=950.0, initiations=2)
    assert (again.asked_since, again.initiations) == (950.0, 2 + initiations)


@pytest.mark.parametrize("sent", [0, 32, 64])
def test_keepalives_ask_nothing(sent: int) -> None:
    assert look(0, sent) == look(0, 0)


def test_what_was_answered_in_the_same_look_asks_nothing() -> None:
    pulse = look(128, 1280)
    assert (pulse.asked_since, pulse.life_at, pulse.life_by) == (NEVER, NOW, "bytes received")


@pytest.mark.parametrize(("misses", "kept"), [(3, True), (4, False)])
def test_probes_that_were_not_answered_by_one_who_lives_tell_nothing(misses: int, kept: bool) -> None:
    pulse = liveness.alive(asked(misses=misses, probe_answered=True), "bytes received", NOW)
    assert (pulse.probe_answered, pulse.misses) == (kept, 0)
    assert not liveness.alive(asked(), "bytes received", NOW).probe_answered


def test_a_missed_probe_has_asked_when_it_was_sent() -> None:
    pulse = liveness.missed(Pulse(ALIVE, asked_since=NEVER), 990.0)
    assert (pulse.misses, pulse.asked_since) == (1, 990.0)
    assert liveness.missed(replace(pulse, asked_since=980.0), 995.0) == replace(
        pulse, misses=2, asked_since=980.0
    )


@pytest.mark.parametrize(
    ("pulse", "now", "next_at"),
    [
        (Pulse(ALIVE, life_at=100.0), 150.0, 280.0),
        (Pulse(SUSPECT, life_at=100.0), 150.0, 280.0),
        (Pulse(ALIVE, life_at=100.0), 280.0, NEVER),
        (Pulse(IDLE, life_at=100.0), 150.0, NEVER),
        (Pulse(NEW), 150.0, NEVER),
        (Pulse(DEAD, life_at=100.0), 150.0, NEVER),
        (asked(probe_answered=True), 101.0, 103.0),
        (asked(probe_answered=True), 103.0, 115.0),
        (asked(), 103.0, 111.0),
        (asked(), 115.0, NEVER),
        (asked(session=False), 101.0, 107.0),
    ],
)
def test_when_the_signal_changes_next(pulse: Pulse, now: float, next_at: float) -> None:
    assert liveness.next_change(pulse, now) == next_at


WORDS: list[tuple[Pulse, PeerSeen | None, tuple[str, ...]]] = [
    (Pulse(UNSEEN), None, ("the device does not have this peer",)),
    (Pulse(NEW), SEEN, ("no handshake has ever completed",)),
    (Pulse(ALIVE, session=True, life_at=990.0), SEEN, ("last handshake before the agent's start",)),
    (
        Pulse(ALIVE, session=True, life_at=990.0, life_by="bytes received", proven=True, handshake_at=950.0),
        SEEN,
        ("last handshake 50 s ago", "bytes received 10 s ago"),
    ),
    (
        Pulse(SUSPECT, session=True, life_at=990.0, proven=True, handshake_at=950.0, asked_since=995.0),
        SEEN,
        ("last handshake 50 s ago", "sent data for 5 s, nothing came back"),
    ),
    (
        Pulse(
            DEAD, session=True, proven=True, handshake_at=950.0, asked_since=980.0, initiations=2, misses=4
        ),
        SEEN,
        (
            "last handshake 50 s ago",
            "sent 2 handshake initiations for 20 s, nothing came back",
            "4 in-tunnel probes unanswered",
        ),
    ),
]


@pytest.mark.parametrize(("pulse", "seen", "told"), WORDS)
def test_the_evidence_in_words(pulse: Pulse, seen: PeerSeen | None, told: tuple[str, ...]) -> None:
    assert liveness.evidence(pulse, seen, NOW) == told
    assert liveness.signal(pulse, False, NOW) == GONE


def test_a_look_at_which_nothing_happened_changes_nothing() -> None:
    before = replace(
        Pulse(ALIVE, 1.0, life_at=900.0, life_by="x", session=True), asked_since=950.0, initiations=2
    )
    assert look(asked_since=950.0, initiations=2) == before


@pytest.mark.parametrize(("received", "sent"), [(-1, 0), (0, -1), (-500, -500), (-1, 148)])
def test_counters_that_went_back_are_a_peer_made_anew(received: int, sent: int) -> None:
    """Whoever made it anew has asked nothing yet, but for what it sent since."""
    pulse = look(received, sent, asked_since=950.0, initiations=2)
    if sent <= 0:
        assert (pulse.asked_since, pulse.initiations, pulse.life_at) == (NEVER, 0, 900.0)
    else:
        assert pulse.asked_since == 950.0 and pulse.life_at == 900.0


def test_a_small_packet_asks_and_is_no_initiation() -> None:
    pulse = look(sent=48)
    assert (pulse.asked_since, pulse.initiations) == (NOW, 0)


def test_probes_that_were_missed_before_it_was_made_anew_say_nothing() -> None:
    pulse = Pulse(ALIVE, 0.0, life_at=NOW - 1.0, misses=9, probe_answered=True)
    assert liveness.signal(pulse, True, NOW) == LIFE
