"""The part of a step that listens: probes in the tunnel, what proves a step, and trials of the
preferred endpoint.

Split from tunnels.py, whose `_Round` builds on it. A trial costs at most TRIAL seconds of the tunnel.
"""

from __future__ import annotations

from wgrouter.core import liveness
from wgrouter.core.care import Attempt, Care
from wgrouter.core.findings import Finding, Why
from wgrouter.core.jitter import spread, unit
from wgrouter.core.ladder import Place, nudge_target, set_endpoint
from wgrouter.core.liveness import ALIVE, DEAD, IDLE, SUSPECT, Pulse
from wgrouter.core.machine import Context
from wgrouter.core.messages import Effect, Event, Look, Observed, Probe, Replied
from wgrouter.core.model import NEVER, WIREGUARD, Instant, PeerSeen, Seconds
from wgrouter.core.records import replace
from wgrouter.core.settings import Peer, Tunnel

SETTLE: Seconds = 0.2  # bytes seen this soon after a step may have come before it
TRIAL: Seconds = 2.0  # an alternative endpoint is given up for at most this long to try the preferred one
ATTEMPTS_KEPT = 12
PREFERRED = "try the preferred "


class Listening:
    """Collects effects and findings of one step."""

    def __init__(self, event: Event, context: Context, probe_ids: int) -> None:
        self.event, self.context, self.now = event, context, context.now
        self.probe_ids = probe_ids
        self.effects: list[Effect] = []
        self.findings: list[Finding] = []

    def _proves(self, care: Care, pulse: Pulse, since: Instant) -> bool:
        """Life after `since`, and not by bytes that were on their way already."""
        if not pulse.proven or pulse.life_at <= since:
            return False
        late = pulse.life_at - since >= SETTLE or care.pulse.state == DEAD
        return (
            late
            or pulse.life_by == "in-tunnel probe"
            or (pulse.life_by == "handshake" and care.trial_until == NEVER)
        )

    # ------------------------------------------------------------ back to the preferred endpoint

    def _prefer(
        self, tunnel: Tunnel, peer: Peer, care: Care, seen: PeerSeen, places: tuple[Place, ...]
    ) -> Care:
        """On an alternative that works: try the preferred endpoint now and then, briefly."""
        rank = next((place.rank for place in places if place.endpoint == seen.endpoint), 0)
        if rank == 0:
            return care if care.return_at == NEVER else replace(care, return_at=NEVER, return_wait=0.0)
        if care.pulse.state != ALIVE or care.step is not None:
            return care
        if care.return_at == NEVER:
            wait = tunnel.ladder.return_after
            return replace(
                care,
                return_wait=wait,
                return_at=self.now + spread(wait, 0.1, self.context.seed, peer.subject),
            )
        preferred = places[0].endpoint
        if self.now < care.return_at or places[0].rank >= rank:
            return care
        wait = min(care.return_wait * 2, tunnel.ladder.backoff_max * 4)
        self.effects += set_endpoint(peer, seen, preferred)
        attempt = Attempt(self.now, "return", f"{PREFERRED}{preferred}")
        care = replace(
            care,
            trial_until=self.now + TRIAL,
            kept=seen.endpoint,
            return_wait=wait,
            return_at=self.now + TRIAL + wait,
            attempts=(*care.attempts, attempt)[-ATTEMPTS_KEPT:],
        )
        return self._nudge(peer, care)

    def _trial(self, peer: Peer, care: Care, seen: PeerSeen, places: tuple[Place, ...]) -> Care:
        """Proof is life after the endpoint was set while it is still set: an answer by the old path makes
        the peer roam back.
        """
        attempt, kept = care.attempts[-1], care.kept
        assert kept is not None
        looked = isinstance(self.event, Observed) and self.event.wireguard is not None
        if looked and self._proves(care, care.pulse, attempt.at) and seen.endpoint != kept:
            self._say(Why.TUNNEL_RETURNED, peer, endpoint=str(seen.endpoint))
            done = replace(attempt, result=f"proven by {care.pulse.life_by}")
            return replace(care, trial_until=NEVER, kept=None, attempts=(*care.attempts[:-1], done))
        if isinstance(self.event, Replied) and care.pulse.life_at == self.now:
            self.effects.append(Look((WIREGUARD,)))
        if self.now < care.trial_until:
            if looked and seen.endpoint == kept and self.now - attempt.at >= SETTLE and places:
                # An answer that was still on its way by the old path has taken the endpoint back there.
                self.effects += set_endpoint(peer, seen, places[0].endpoint)
                care = replace(care, attempts=(*care.attempts[:-1], replace(attempt, at=self.now)))
            return self._probe(peer, care)
        if seen.endpoint != kept:
            self.effects += set_endpoint(peer, seen, kept)
        tried = attempt.action.removeprefix(PREFERRED)
        self._say(Why.TUNNEL_RETURN_FAILED, peer, endpoint=tried, kept=str(kept))
        done = replace(attempt, result="no sign of life")
        pulse = replace(care.pulse, asked_since=NEVER, misses=0)  # the silence was of our making
        return replace(
            care, trial_until=NEVER, kept=None, attempts=(*care.attempts[:-1], done), pulse=pulse, probe_id=0
        )

    # ------------------------------------------------------------ probes in the tunnel

    def _probes(self, peer: Peer, care: Care) -> bool:
        if not nudge_target(peer) or care.probe_id or care.frozen or not self.context.settings.enabled:
            return False
        if care.step is not None or care.trial_until != NEVER:
            return True
        return bool(peer.probe) and care.pulse.state in (ALIVE, SUSPECT, IDLE) and peer.probe_interval > 0

    def _probe_due(self, peer: Peer, care: Care) -> Instant:
        if care.step is not None or care.trial_until != NEVER or care.pulse.state == SUSPECT:
            return care.probe_at + liveness.PROBE_BURST
        seed, pulse = self.context.seed, care.pulse
        due = max(care.probe_at, pulse.life_at) + spread(peer.probe_interval, 0.1, seed, peer.subject)
        known = max(pulse.since, pulse.handshake_at)
        if not pulse.probe_answered and care.probe_at <= known:
            # Once for each session, though traffic shows that it lives: silence of a peer that never answered
            # would tell nothing when it matters.
            due = min(due, known + peer.probe_interval * unit(seed, "probe", peer.subject))
        return due

    def _probe(self, peer: Peer, care: Care) -> Care:
        if self._probes(peer, care) and self.now >= self._probe_due(peer, care):
            return self._nudge(peer, care)
        return care

    def _nudge(self, peer: Peer, care: Care) -> Care:
        """Send a packet into the tunnel: WireGuard must hear from the peer now, or start a handshake."""
        target = nudge_target(peer)
        if not target or care.probe_id:
            return care
        self.probe_ids += 2
        self.effects.append(Probe(self.probe_ids, "icmp", target, peer.device, liveness.PROBE_TIMEOUT))
        return replace(care, probe_id=self.probe_ids, probe_at=self.now)

    def _say(self, why: Why, peer: Peer, **arguments: str | int | float) -> None:
        self.findings.append(Finding(why, peer.subject, arguments))
