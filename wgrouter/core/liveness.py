"""Is the peer alive? Evidence from handshakes, bytes and in-tunnel probes, and the state table over it.

Knows WireGuard's own timing (protocol constants below) and nothing of remedies. What counts as life:
the handshake token changed, a probe was answered, or bytes came in that are not handshake initiations:
but no bytes while handshakes of ours get no answer, since then only the peer's way to us is open.
What counts as asking: bytes went out that are not keepalives, since keepalives are never answered. Any
other authenticated data is answered by a keepalive within KEEPALIVE_TIMEOUT, whatever a firewall behind
the peer does with it: so silence after asking is death, silence alone is not.
"""

from __future__ import annotations

from collections.abc import Mapping

from wgrouter.core.model import LONG_AGO, NEVER, Instant, PeerSeen, Seconds
from wgrouter.core.records import dataclass, replace

# WireGuard's own constants (whitepaper, section 6.1), seconds
REJECT_AFTER_TIME = 180.0
REKEY_TIMEOUT = 5.0
KEEPALIVE_TIMEOUT = 10.0

INITIATION_BYTES = 148  # message type 1; 148 = 4 (mod 16) while data and keepalives are 0 (mod 16)
KEEPALIVE_BYTES = 32  # an empty transport message
UNHEARD = 2  # handshake messages of ours without an answer: one is lost easily, two seldom

# Sent and nothing received for this long: WireGuard itself then starts a new handshake.
SILENCE: Seconds = KEEPALIVE_TIMEOUT + REKEY_TIMEOUT
# Without any session two initiations (REKEY_TIMEOUT apart, plus their jitter) are enough.
SILENCE_WITHOUT_SESSION: Seconds = REKEY_TIMEOUT + 2.0
# Unanswered for this long: look closer, resolve the name, send a probe.
DOUBT: Seconds = 3.0
# The same where nothing is known to answer at once: what goes one way only (a log, a probe that a firewall
# drops) is answered by a keepalive, and not sooner than KEEPALIVE_TIMEOUT.
DOUBT_WITHOUT_PROBE: Seconds = KEEPALIVE_TIMEOUT + 1.0
# One handshake retry and its answer: the least that proof may take after an endpoint was set.
PROOF: Seconds = REKEY_TIMEOUT + 1.5

PROBE_TIMEOUT: Seconds = 1.0
PROBE_BURST: Seconds = 0.5
PROBE_MISSES = 4  # in a row, from a peer that has answered before

# States. "unseen": the device does not have the peer (now). "new": never any evidence. "idle": nothing
# asked, nothing heard.
UNSEEN, NEW, ALIVE, IDLE, SUSPECT, DEAD = "unseen", "new", "alive", "idle", "suspect", "dead"
# Signals, made by `signal`.
GONE, LIFE, QUIET, UNSURE, SILENT = "gone", "life", "quiet", "unsure", "silent"

# (state, signal) → state. A missing pair is an error in this table; tests ask for every pair.
TRANSITIONS: Mapping[tuple[str, str], str] = {
    (UNSEEN, GONE): UNSEEN,
    (UNSEEN, LIFE): ALIVE,
    (UNSEEN, QUIET): NEW,
    (UNSEEN, UNSURE): SUSPECT,
    (UNSEEN, SILENT): DEAD,
    (NEW, GONE): UNSEEN,
    (NEW, LIFE): ALIVE,
    (NEW, QUIET): NEW,
    (NEW, UNSURE): NEW,  # never had a session: two initiations decide
    (NEW, SILENT): DEAD,
    (ALIVE, GONE): UNSEEN,
    (ALIVE, LIFE): ALIVE,
    (ALIVE, QUIET): IDLE,
    (ALIVE, UNSURE): SUSPECT,
    (ALIVE, SILENT): DEAD,
    (IDLE, GONE): UNSEEN,
    (IDLE, LIFE): ALIVE,
    (IDLE, QUIET): IDLE,
    (IDLE, UNSURE): SUSPECT,
    (IDLE, SILENT): DEAD,
    (SUSPECT, GONE): UNSEEN,
    (SUSPECT, LIFE): ALIVE,
    (SUSPECT, QUIET): IDLE,
    (SUSPECT, UNSURE): SUSPECT,
    (SUSPECT, SILENT): DEAD,
    (DEAD, GONE): UNSEEN,
    (DEAD, LIFE): ALIVE,
    (DEAD, QUIET): DEAD,  # only life ends death: to stop asking is no sign of health
    (DEAD, UNSURE): DEAD,
    (DEAD, SILENT): DEAD,
}


@dataclass(frozen=True, slots=True)
class Pulse:
    """What is known of one peer's life. Instants are of looks, so up to one look's interval late."""

    state: str = UNSEEN
    since: Instant = LONG_AGO
    life_at: Instant = LONG_AGO
    life_by: str = ""
    proven: bool = False  # life was seen by this agent, not presumed from a handshake before its start
    session: bool = False  # the device has completed a handshake with the peer at some time
    handshake_at: Instant = LONG_AGO  # when the token was seen to change
    asked_since: Instant = NEVER  # the first sending that wants an answer since the last life
    initiations: int = 0  # of those, handshake initiations
    probe_answered: bool = False  # some probe was, so silence of probes means something
    misses: int = 0  # probes in a row


def first_look(seen: PeerSeen, now: Instant) -> Pulse:
    """A peer met for the first time. A past handshake is presumed fresh: acting on a peer that works is
    the worse error.
    """
    if seen.handshake == (0, 0):
        return Pulse(NEW, now)
    return Pulse(ALIVE, now, life_at=now, life_by="a handshake before the agent's start", session=True)


def observe(pulse: Pulse, before: PeerSeen, seen: PeerSeen, now: Instant) -> Pulse:
    """What two looks after one another tell."""
    received = seen.rx_bytes - before.rx_bytes
    sent = seen.tx_bytes - before.tx_bytes
    if seen.handshake != before.handshake and seen.handshake != (0, 0):
        pulse = replace(alive(pulse, "handshake", now), handshake_at=now, session=True)
    elif received > 0 and received % INITIATION_BYTES and pulse.initiations < UNHEARD:
        return alive(pulse, "bytes received", now)
    if sent > 0 and pulse.life_at != now and not _only_keepalives(sent):
        initiations = pulse.initiations + (
            sent // INITIATION_BYTES if sent % INITIATION_BYTES == 0 else sent % 16 != 0
        )
        return replace(pulse, asked_since=min(pulse.asked_since, now), initiations=initiations)
    if received < 0 or sent < 0:  # the peer was made anew
        return replace(pulse, asked_since=NEVER, initiations=0)
    return pulse


def _only_keepalives(sent: int) -> bool:
    # Between two looks there are at most a few keepalives; three of them are already as large as a small
    # data packet.
    return sent % KEEPALIVE_BYTES == 0 and sent <= 2 * KEEPALIVE_BYTES


def alive(pulse: Pulse, by: str, now: Instant) -> Pulse:
    """Positive evidence: whatever was asked is answered. If many probes were not, they tell nothing."""
    answered = pulse.probe_answered and pulse.misses < PROBE_MISSES
    return replace(
        pulse, life_at=now, life_by=by, proven=True, asked_since=NEVER, initiations=0, misses=0,
        probe_answered=answered,
    )  # fmt: skip


def missed(pulse: Pulse, sent_at: Instant) -> Pulse:
    """A probe that was sent at `sent_at` was not answered in time. The probe itself asked."""
    return replace(pulse, misses=pulse.misses + 1, asked_since=min(pulse.asked_since, sent_at))


def doubt(pulse: Pulse) -> Seconds:
    """How long silence after asking is no reason to look closer."""
    return DOUBT if pulse.probe_answered else DOUBT_WITHOUT_PROBE


def patience(pulse: Pulse) -> Seconds:
    """How long silence after asking is borne."""
    return SILENCE if pulse.session else SILENCE_WITHOUT_SESSION


def signal(pulse: Pulse, present: bool, now: Instant) -> str:
    """What the evidence says at this moment."""
    if not present:
        return GONE
    if pulse.asked_since != NEVER:
        if now - pulse.asked_since >= patience(pulse):
            return SILENT
        misses = pulse.misses if pulse.probe_answered else 0
        if misses >= PROBE_MISSES:
            return SILENT
        return UNSURE if now - pulse.asked_since >= doubt(pulse) or misses else _calm(pulse, now)
    return _calm(pulse, now)


def _calm(pulse: Pulse, now: Instant) -> str:
    if pulse.state == DEAD:
        return LIFE if pulse.life_at > pulse.since else QUIET
    return LIFE if now - pulse.life_at < REJECT_AFTER_TIME else QUIET


def turn(pulse: Pulse, present: bool, now: Instant) -> Pulse:
    """The state that follows, `since` moving only with it."""
    state = TRANSITIONS[pulse.state, signal(pulse, present, now)]
    return pulse if state == pulse.state else replace(pulse, state=state, since=now)


def next_change(pulse: Pulse, now: Instant) -> Instant:
    """When, with no further evidence, the signal changes next (strictly ahead, NEVER for not at all)."""
    moments = []
    if pulse.asked_since != NEVER:
        moments += [pulse.asked_since + doubt(pulse), pulse.asked_since + patience(pulse)]
    elif pulse.state in (ALIVE, SUSPECT):
        moments.append(pulse.life_at + REJECT_AFTER_TIME)
    return min((moment for moment in moments if moment > now), default=NEVER)


def evidence(pulse: Pulse, seen: PeerSeen | None, now: Instant) -> tuple[str, ...]:
    """What speaks for the state, in sentences without a stop."""
    if seen is None:
        return ("the device does not have this peer",)
    lines = []
    if pulse.handshake_at > LONG_AGO:
        lines.append(f"last handshake {now - pulse.handshake_at:.0f} s ago")
    elif pulse.session:
        lines.append("last handshake before the agent's start")
    else:
        lines.append("no handshake has ever completed")
    if pulse.asked_since != NEVER:
        what = f"{pulse.initiations} handshake initiations" if pulse.initiations else "data"
        lines.append(f"sent {what} for {now - pulse.asked_since:.0f} s, nothing came back")
    if pulse.misses:
        lines.append(f"{pulse.misses} in-tunnel probes unanswered")
    if pulse.proven and pulse.asked_since == NEVER:
        lines.append(f"{pulse.life_by} {now - pulse.life_at:.0f} s ago")
    return tuple(lines)
