"""Per-peer care: moves endpoints with their names, climbs the ladder when a peer is silent, and waits
for proof.

Decides when to act; liveness.py decides what is true and ladder.py what can be done. Knows nothing of
routing beyond
`Outlook.reachable`, and of DNS only what `Outlook` shows. A failed look-up never gets here: only
answers change candidates.
"""

from __future__ import annotations

from collections.abc import Mapping

from wgrouter.core import concerns, detours, liveness
from wgrouter.core.care import Attempt, Care, Memory, Outlook, TunnelsTurn, afresh, closed, failed, remember
from wgrouter.core.findings import Finding, Rejected, Why
from wgrouter.core.jitter import spread
from wgrouter.core.ladder import (
    LADDER,
    OTHER_WAN,
    RUNG_INDEX,
    Action,
    Place,
    Situation,
    Skip,
    at_present,
    candidates,
    inside,
    names_of,
    set_endpoint,
)
from wgrouter.core.liveness import ALIVE, DEAD, NEW, SUSPECT, UNSEEN
from wgrouter.core.machine import Context
from wgrouter.core.messages import (
    CHANGES,
    Commanded,
    Configured,
    Event,
    Failed,
    Look,
    Observed,
    Renew,
    Replied,
    Restart,
    Unsent,
    Woke,
)
from wgrouter.core.model import (
    LONG_AGO,
    NET,
    NEVER,
    WIREGUARD,
    DeviceSeen,
    Endpoint,
    Instant,
    PeerSeen,
    Seconds,
)
from wgrouter.core.records import replace
from wgrouter.core.settings import Peer, PeerId, Tunnel
from wgrouter.core.tunnel_probes import ATTEMPTS_KEPT, SETTLE, Listening

HOUR: Seconds = 3600.0
RESOLVE_WITHIN: Seconds = 3.0  # the rung "resolve" waits this long for the names
APART: Seconds = 0.1  # between remedies for different peers: when an uplink dies, all are due at once
TICK: Seconds = 0.001
QUICK_LOOK: Seconds = 0.5  # between looks while a step waits for proof
WATCHFUL_LOOK: Seconds = 1.0  # while a peer is new or suspect
RESOLVE = "resolve"
MOVE = "move"  # the step that is no rung: the endpoint follows its name


def places_of(peer: Peer, outlook: Outlook) -> tuple[Place, ...]:
    """The candidates for a peer as things are."""
    return candidates(peer, outlook.resolved, outlook.reachable)


def wake_at(memory: Memory) -> Instant:
    """When `step` wants to be called without any other event."""
    return memory.wake


def step(
    memory: Memory, event: Event, context: Context, outlook: Outlook, before: Mapping[str, DeviceSeen] | None
) -> TunnelsTurn:
    """One event. `before` is the WireGuard part of the World as it was before this event."""
    if isinstance(event, Configured):
        kept = {peer.id: memory.peers.get(peer.id, Care()) for peer in context.settings.peers()}
        if not context.settings.enabled:  # nothing under way is seen through
            kept = {id_: Care(care.pulse, care.given, attempts=care.attempts) for id_, care in kept.items()}
        memory = replace(memory, peers=kept)
    if not concerns.anyone(memory, event, context.now, outlook):
        return TunnelsTurn(memory)
    return _Round(memory, event, context, outlook, before).run()


class _Round(Listening):
    """The work of one step: collects effects and findings; nothing of it outlives the step."""

    def __init__(
        self,
        memory: Memory,
        event: Event,
        context: Context,
        outlook: Outlook,
        before: Mapping[str, DeviceSeen] | None,
    ) -> None:
        super().__init__(event, context, memory.probe_ids)
        self.memory, self.outlook = memory, outlook
        self.before = before or {}
        self.devices = context.world.wireguard
        self.hurry: list[str] = []
        self.followed: set[PeerId] = set()  # whose name moved while their ladder paused
        self.restarts = dict(memory.restarts)
        self.cares = dict(memory.peers)
        self.detours = dict(memory.detours)
        self.turns = 0  # remedies that this step takes, and postpones

    # ------------------------------------------------------------ the whole

    def run(self) -> TunnelsTurn:
        self.findings += detours.due(self.detours, self.outlook.ways, self.now)
        everyone = concerns.everyone(self.memory, self.event, self.outlook)
        wakes: dict[PeerId, Instant] = {} if everyone else dict(self.memory.wakes)
        for tunnel in self.context.settings.tunnels if self.devices is not None else ():
            for peer in tunnel.peers:
                care, wake = self.cares[peer.id], wakes.get(peer.id, LONG_AGO)
                if wake <= self.now or concerns.one(peer, care, self.event, self.outlook):
                    self.cares[peer.id] = self._peer(tunnel, peer, care)
                    wakes[peer.id] = self._wake(peer)
        trying = (id_ for id_, care in self.cares.items() if care.step and care.step.rung == OTHER_WAN)
        detours.unproven(self.detours, frozenset(device for device, _ in trying))
        if self.detours != self.memory.detours:  # the way is made of what a look shows
            self.effects.append(Look((NET, WIREGUARD)))
        look_at = self._look()
        ends = (detour.until for detour in self.detours.values() if detour.until > self.now)
        wake = min((look_at, *ends, *wakes.values()))
        families = tuple(sorted(self.outlook.reachable))
        memory = Memory(
            self.cares, look_at, self.restarts, self.probe_ids, wake, self.detours, wakes, families
        )
        return TunnelsTurn(
            memory, tuple(self.effects), tuple(self.findings), tuple(dict.fromkeys(self.hurry))
        )

    def _look(self) -> Instant:
        """When to look at WireGuard next; a look at once where this step changed something or it is time."""
        event = self.event
        if not self.context.settings.tunnels:
            return NEVER
        if any(isinstance(effect, CHANGES) for effect in self.effects):
            self.effects.append(Look((WIREGUARD,)))
            return self.now + QUICK_LOOK
        if isinstance(event, Observed) and event.wireguard is not None:
            return self.now + self._look_interval()
        if self.now >= self.memory.look_at or isinstance(event, Configured):
            self.effects.append(Look((WIREGUARD,)))
            # The answer sets the next time; a look that fails must not be the last.
            return self.now + self._look_interval()
        return min(self.memory.look_at, self.now + self._look_interval())

    def _look_interval(self) -> Seconds:
        cares = self.cares.values()
        if any(care.step is not None or care.trial_until != NEVER for care in cares):
            return QUICK_LOOK
        if any(care.pulse.state != DEAD and care.pulse.asked_since != NEVER for care in cares):
            return WATCHFUL_LOOK  # before doubt, which would else be of our not having looked
        return self.context.settings.look_interval

    def _wake(self, peer: Peer) -> Instant:
        care = self.cares[peer.id]
        moments = [
            liveness.next_change(care.pulse, self.now),
            care.deadline,
            care.resume_at,
            care.return_at,
            care.trial_until,
        ]
        if care.probe_id:
            moments.append(max(care.probe_at + liveness.PROBE_TIMEOUT, self.now + TICK))
        if self._probes(peer, care):
            moments.append(self._probe_due(peer, care))
        return min((moment for moment in moments if moment > self.now), default=NEVER)

    # ------------------------------------------------------------ one peer

    def _peer(self, tunnel: Tunnel, peer: Peer, care: Care) -> Care:
        assert self.devices is not None
        device = self.devices.get(peer.device)
        seen = device.peers.get(peer.public_key) if device else None
        care = self._evidence(peer, care, seen)
        care = self._state(peer, care, seen)
        if device is None or seen is None or not self.context.settings.enabled:
            return care
        if not peer.endpoints:
            return care  # a peer that only ever comes to us: there is nothing to set
        if self.outlook.network_changed:
            care = afresh(care, self.now)
        if isinstance(self.event, Commanded) and self.event.verb == "reresolve":
            self.hurry += names_of(peer)
        if isinstance(self.event, Failed):
            care = failed(care, peer, self.event, self.now)
        places = places_of(peer, self.outlook)
        care = remember(care, tuple(place.endpoint for place in places))
        if not self.outlook.reachable:
            return self._freeze(peer, care)
        care = replace(care, frozen=False) if care.frozen else care
        if care.trial_until != NEVER:
            return self._trial(peer, care, seen, places)
        moved = peer.device in self.outlook.rerouted or (self.outlook.network_changed and self._wanted(peer))
        if moved and seen.endpoint is not None and (care.step is None or care.step.rung == OTHER_WAN):
            # Clears the source address that WireGuard cached, and tells the peer where we are now.
            self.effects += set_endpoint(peer, seen, seen.endpoint)
            care = self._nudge(peer, care)
        care = self._reconcile(peer, care, seen, places)
        known = places or at_present(seen, self.outlook.reachable)
        care = self._climb(tunnel, peer, care, seen, device, known)
        care = self._prefer(tunnel, peer, care, seen, places)
        return self._probe(peer, care) if seen.endpoint is not None else care

    def _evidence(self, peer: Peer, care: Care, seen: PeerSeen | None) -> Care:
        event, pulse = self.event, care.pulse
        if seen is not None and pulse.state == UNSEEN:  # also by a reload, which brings no look of its own
            pulse = liveness.first_look(seen, self.now)
        elif isinstance(event, Observed) and event.wireguard is not None and seen is not None:
            earlier = self.before.get(peer.device)
            previous = earlier.peers.get(peer.public_key) if earlier else None
            if previous is None:
                pulse = liveness.first_look(seen, self.now)
            elif previous is not seen:
                pulse = liveness.observe(pulse, previous, seen, self.now)
        if isinstance(event, (Replied, Unsent)) and event.id == care.probe_id != 0:
            care = replace(care, probe_id=0)
            if isinstance(event, Replied):
                pulse = replace(liveness.alive(pulse, "in-tunnel probe", self.now), probe_answered=True)
        elif care.probe_id and isinstance(event, Woke) and self.now >= care.probe_at + liveness.PROBE_TIMEOUT:
            pulse = liveness.missed(pulse, care.probe_at)  # behind other events it may lie unread: links.step
            care = replace(care, probe_id=0)
        return care if pulse is care.pulse else replace(care, pulse=pulse)

    def _state(self, peer: Peer, care: Care, seen: PeerSeen | None) -> Care:
        before, pulse = care.pulse, liveness.turn(care.pulse, seen is not None, self.now)
        if seen is not None and care.step is not None and self._proves(care, pulse, care.step.at):
            care = self._proved(peer, care, seen)
        elif pulse.state == before.state:
            return care
        care = replace(care, pulse=pulse)
        told = "; ".join(liveness.evidence(pulse, seen, self.now))
        if pulse.state == ALIVE and care.dead_at != NEVER:
            care = self._recovered(peer, care, "itself", told)
        elif pulse.state == ALIVE and before.state == NEW:
            self._say(Why.TUNNEL_ALIVE, peer, evidence=told)
        elif pulse.state == SUSPECT != before.state:
            self._say(Why.TUNNEL_SUSPECT, peer, evidence=told)
            self.hurry += names_of(peer)
        elif pulse.state == DEAD != before.state:
            self._say(Why.TUNNEL_DEAD, peer, evidence=told)
            care = replace(care, dead_at=self.now)
            self.effects.append(Look((WIREGUARD,)))  # it may have spoken since the last, and from elsewhere
            if not self._siblings_alive(self._tunnel(peer), peer):  # else it is not the way that is broken
                first, ended = detours.silent(self.detours, peer, self.now)
                self.findings += ended
                care = replace(care, rung=RUNG_INDEX[OTHER_WAN]) if first else care
            if care.step is not None:  # an endpoint set in good health: what speaks now speaks against it
                care = replace(care, deadline=min(care.deadline, self.now))
        elif pulse.state == UNSEEN != before.state:
            self._say(Why.TUNNEL_UNSEEN, peer, reason=told)
            care = Care(pulse=pulse, given=care.given)
        return care

    def _proved(self, peer: Peer, care: Care, seen: PeerSeen) -> Care:
        assert care.step is not None
        if care.step.rung == OTHER_WAN:
            ladder, seed = self._tunnel(peer).ladder, self.context.seed
            self.findings += detours.proven(self.detours, peer, ladder, self.now, seed)
        done = replace(care.step, result=f"proven by {care.pulse.life_by}")
        care = replace(care, step=None, deadline=NEVER, attempts=(*care.attempts[:-1], done))
        if care.dead_at == NEVER:
            return replace(care, rung=0, tried=())
        return self._recovered(
            peer, care, done.rung, "; ".join(liveness.evidence(care.pulse, seen, self.now))
        )

    def _recovered(self, peer: Peer, care: Care, rung: str, told: str) -> Care:
        seconds = round(self.now - care.dead_at, 1)
        self._say(Why.TUNNEL_RECOVERED, peer, rung=rung, seconds=seconds, evidence=told)
        return replace(
            care,
            dead_at=NEVER,
            rung=0,
            round=0,
            tried=(),
            ways=(),
            skipped=(),
            step=None,
            deadline=NEVER,
            resume_at=LONG_AGO,
        )

    def _freeze(self, peer: Peer, care: Care) -> Care:
        if care.frozen:
            return care
        if care.pulse.state == DEAD:
            self._say(Why.TUNNEL_FROZEN, peer, reason="no uplink has a default route")
        step_, attempts = care.step, care.attempts
        if step_ is not None:
            attempts = (*attempts[:-1], replace(step_, result="the uplink went away"))
        return replace(care, frozen=True, step=None, deadline=NEVER, attempts=attempts, rung=0, tried=())

    # ------------------------------------------------------------ the name moved

    def _reconcile(self, peer: Peer, care: Care, seen: PeerSeen, places: tuple[Place, ...]) -> Care:
        """The current endpoint stays while it is a candidate, and while a peer that roamed there is alive."""
        if not places:
            return self._homeless(peer, care) if seen.endpoint is None else care
        if care.homeless:
            care = replace(care, homeless="")
        current = seen.endpoint
        if any(place.endpoint == current for place in places):
            return replace(care, roamed=None) if care.roamed else care
        lost = current is not None and inside(current, peer.allowed_ips)
        if current is not None and current not in care.given and self._live(care) and not lost:
            if care.roamed != current:
                self._say(
                    Why.TUNNEL_ROAMED,
                    peer,
                    endpoint=str(current),
                    name=", ".join(names_of(peer)) or "the configuration",
                )
            return replace(care, roamed=current)
        if care.pulse.state == DEAD:
            # A new address is worth more than the back-off, and than waiting for one that is named no more.
            waits = care.step is not None and care.step.rung != RESOLVE
            if waits and not any(place.endpoint in care.tried[-1:] for place in places):
                care = closed(care, "the name moved meanwhile")
            elif care.step is not None or care.resume_at <= self.now:
                return care
            named = tuple(place.endpoint for place in places)
            if named == care.followed:  # once for each set of addresses, even if the kernel takes none
                return care
            self.followed.add(peer.id)
            return replace(care, resume_at=self.now, rung=RUNG_INDEX["endpoint"], tried=(), followed=named)
        again = lost and bool(care.attempts) and self.now - care.attempts[-1].at < liveness.SILENCE
        if care.step is not None or self.now < care.resume_at or again:
            return care
        target = places[0].endpoint
        why = "it lies in the tunnel" if lost else "the name moved" if current else "the first address known"
        self._say(Why.TUNNEL_MOVED, peer, old=str(current or "none"), new=str(target), reason=why)
        self.effects += set_endpoint(peer, seen, target)
        care = self._begin(care, MOVE, f"set the endpoint to {target}", target, places)
        return self._nudge(peer, care)

    def _live(self, care: Care) -> bool:
        return (
            care.pulse.state in (ALIVE, SUSPECT)
            and self.now - care.pulse.life_at < liveness.REJECT_AFTER_TIME
        )

    def _wanted(self, peer: Peer) -> bool:
        return peer.keepalive > 0 or bool(peer.probe)

    def _homeless(self, peer: Peer, care: Care) -> Care:
        reason = (
            "; ".join(filter(None, map(self.outlook.trouble, names_of(peer))))
            or "its name is not resolved yet"
        )
        if reason != care.homeless:
            self._say(Why.TUNNEL_NO_ENDPOINT, peer, reason=reason)
        return replace(care, homeless=reason)

    # ------------------------------------------------------------ the ladder

    def _climb(
        self,
        tunnel: Tunnel,
        peer: Peer,
        care: Care,
        seen: PeerSeen,
        device: DeviceSeen,
        places: tuple[Place, ...],
    ) -> Care:
        if (step_ := care.step) is not None:
            care = self._waited(peer, care)
            if care.step is None and step_.rung == OTHER_WAN:
                detours.given_up(self.detours, peer.device)
        if care.pulse.state != DEAD or care.step is not None or self.now < care.resume_at:
            return care
        care = replace(care, spent=tuple(at for at in care.spent if self.now - at < HOUR))
        # What is spent does not keep the endpoint from addresses that the name has just moved to.
        if len(care.spent) >= tunnel.ladder.steps_per_hour and peer.id not in self.followed:
            return replace(care, resume_at=care.spent[0] + HOUR)
        if self.turns:
            # A step may take the kernel 25 ms (it walks all tracked flows), in which no probe is sent.
            self.turns += 1
            return replace(care, resume_at=self.now + (self.turns - 1) * APART)
        family = seen.endpoint.family if seen.endpoint else places[0].endpoint.family if places else 0
        detour = self.detours.get(peer.device)
        situation = Situation(
            peer, tunnel, seen, device, places, care.tried, self._siblings_alive(tunnel, peer),
            self._restarts_left(tunnel), self.outlook.ways(peer.device, family), care.ways,
            detour.wan if detour else "", self._moved(care), self.context.seed, care.round,
        )  # fmt: skip
        for index in range(care.rung, len(LADDER)):
            rung = LADDER[index]
            outcome = rung.act(situation)
            if isinstance(outcome, Skip):
                care = replace(care, skipped=(*care.skipped, Rejected(rung.name, outcome.reason)))
                continue
            if outcome.way:
                detours.begun(self.detours, peer.device, outcome.way, situation.ways[0], family)
                care = replace(care, ways=(*care.ways, outcome.way))
            care = replace(care, rung=index + (not rung.repeats))
            return self._take(peer, care, rung.name, outcome, places)
        return self._round_over(tunnel, peer, care)

    def _take(self, peer: Peer, care: Care, rung: str, action: Action, places: tuple[Place, ...]) -> Care:
        rejected = care.skipped
        self.findings.append(
            Finding(Why.TUNNEL_STEP, peer.subject, {"rung": rung, "action": action.text}, rejected)
        )
        self.effects += action.effects
        self.turns += bool(action.effects)
        if any(isinstance(effect, (Renew, Restart)) for effect in action.effects):
            self.restarts[peer.device] = (*self.restarts.get(peer.device, ()), self.now)
        self.hurry += action.hosts
        care = self._begin(care, rung, action.text, action.endpoint, places)
        if action.hosts:
            return replace(care, deadline=self.now + RESOLVE_WITHIN, skipped=())
        return self._nudge(peer, replace(care, skipped=()))

    def _moved(self, care: Care) -> bool:
        """Whether the name moved after the last sign of life; what the look at the move shows came before."""
        return any(a.rung == MOVE and a.at + SETTLE >= care.pulse.life_at for a in care.attempts)

    def _begin(
        self, care: Care, rung: str, text: str, endpoint: Endpoint | None, places: tuple[Place, ...]
    ) -> Care:
        attempt = Attempt(self.now, rung, text)
        tried = care.tried if endpoint is None or endpoint in care.tried else (*care.tried, endpoint)
        deadline = self.now + liveness.PROOF
        fresh = care.pulse.state != DEAD or (endpoint is not None and self._moved(care))
        if fresh and care.pulse.session and all(place.endpoint in tried for place in places):
            # A peer that moved may have lost the session, and WireGuard holds on to its own until it has
            # asked in vain for SILENCE. That is waited for with the last address, not with each.
            asked = min(care.pulse.asked_since, self.now)
            deadline = max(deadline, asked + liveness.SILENCE + liveness.PROOF)
        return replace(
            care, step=attempt, deadline=deadline, tried=tried, spent=(*care.spent, self.now),
            attempts=(*care.attempts, attempt)[-ATTEMPTS_KEPT:],
        )  # fmt: skip

    def _waited(self, peer: Peer, care: Care) -> Care:
        """A step is under way: over when its time is, or when the names have settled that it waited for."""
        step_ = care.step
        assert step_ is not None
        if step_.rung == RESOLVE:
            settled = all(self.outlook.settled(host, step_.at) for host in names_of(peer))
            if not settled and self.now < care.deadline:
                return care
            trouble = "; ".join(filter(None, map(self.outlook.trouble, names_of(peer))))
            return closed(care, trouble or ("answered" if settled else "no answer yet"))
        if self.now < care.deadline:
            return care
        seconds = round(self.now - step_.at, 1)
        if care.pulse.state != DEAD and care.pulse.asked_since == NEVER:
            return closed(care, "nothing was sent that would have proved it")
        care = closed(care, f"no sign of life within {seconds:g} s")
        self._say(Why.TUNNEL_STEP_FAILED, peer, rung=step_.rung, seconds=seconds)
        if care.pulse.state != DEAD:
            care = replace(
                care, pulse=replace(care.pulse, state=DEAD, since=self.now), dead_at=self.now, rung=0
            )
            self._say(Why.TUNNEL_DEAD, peer, evidence="the new endpoint gave no sign of life")
        return care

    def _round_over(self, tunnel: Tunnel, peer: Peer, care: Care) -> Care:
        ladder = tunnel.ladder
        base = min(ladder.backoff * 2.0 ** min(care.round, 16), ladder.backoff_max)
        wait = spread(base, 0.25, self.context.seed, peer.subject, care.round)
        self.findings.append(
            Finding(Why.TUNNEL_WAITING, peer.subject, {"seconds": round(wait)}, care.skipped)
        )
        care = replace(care, rung=0, round=care.round + 1, tried=(), ways=(), skipped=())
        return replace(care, resume_at=self.now + wait)

    def _tunnel(self, peer: Peer) -> Tunnel:
        return next(tunnel for tunnel in self.context.settings.tunnels if tunnel.device == peer.device)

    def _siblings_alive(self, tunnel: Tunnel, peer: Peer) -> bool:
        return any(
            self.cares[other.id].pulse.state in (ALIVE, SUSPECT)
            for other in tunnel.peers
            if other.id != peer.id
        )

    def _restarts_left(self, tunnel: Tunnel) -> bool:
        recent = tuple(at for at in self.restarts.get(tunnel.device, ()) if self.now - at < HOUR)
        self.restarts[tunnel.device] = recent
        return len(recent) < tunnel.ladder.restarts_per_hour
