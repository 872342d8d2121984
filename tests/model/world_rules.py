"""What must hold after every step of a World, whatever befalls it. A broken rule is an AssertionError that
says which, when and by what.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, defaultdict, deque

from tests.model.world import World
from wgrouter.core import liveness, ranges, routing
from wgrouter.core.answers import is_literal
from wgrouter.core.care import GIVEN_KEPT
from wgrouter.core.engine import Engine, wanted_of
from wgrouter.core.findings import Why
from wgrouter.core.messages import (
    AddRoute,
    AddRule,
    Ask,
    DeleteRoute,
    DeleteRule,
    Effect,
    Event,
    Observed,
    Probe,
    Renew,
    Restart,
    SetEndpoint,
    SetFwmark,
    SetListenPort,
    Step,
)
from wgrouter.core.model import NEVER, RT_TABLE_LOCAL
from wgrouter.core.tunnel_probes import ATTEMPTS_KEPT

HOUR = 3600.0
# A step of the ladder sends a probe each half second for at most PROOF + SILENCE.
PROBES_PER_STEP = 2 * (liveness.PROOF + liveness.SILENCE) + 2
PURE_EVERY = 50


class Rules:
    """Watches a World. `costs` are what was spent in the hour before now, by kind and subject."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.spent: dict[tuple[str, str], deque[float]] = defaultdict(deque)
        self.most: Counter[tuple[str, str]] = Counter()
        self.at_once = (0.0, 0)
        self.life = world.life
        self.moved: deque[float] = deque(maxlen=1000)
        world.before.append(self.allowed)
        world.after.append(self.check)

    # ------------------------------------------------------------ each effect

    def allowed(self, world: World, effect: Effect) -> None:
        """Nothing without our mark is touched, and no endpoint comes from nowhere."""
        own = world.settings.routing
        match effect:
            case AddRoute(route) | DeleteRoute(route):
                assert ranges.is_our_route(own, route), f"{effect} is not ours"
            case AddRule(rule) | DeleteRule(rule):
                assert ranges.is_our_rule(own, rule), f"{effect} is not ours"
            case SetFwmark(device, mark):
                tunnel = next(t for t in world.settings.tunnels if t.device == device)
                assert not tunnel.fwmark, f"{device} has a mark of its own, and {effect}"
                assert mark == 0 or ranges.is_our_mark(own, mark)
            case SetEndpoint():
                self.endpoint_allowed(effect)
            case SetListenPort(device, port):
                tunnel = next(t for t in world.settings.tunnels if t.device == device)
                wish = tunnel.ladder.new_port
                assert wish == "yes" or (wish == "auto" and not tunnel.listen_port)
                assert 0 < port < 65536
            case Renew(device) | Restart(device):
                ladder = next(t.ladder for t in world.settings.tunnels if t.device == device)
                assert ladder.renew if isinstance(effect, Renew) else ladder.restart
                self.spend("restart", device, ladder.restarts_per_hour)
            case Ask(_, name):
                # One look-up asks a server at most twice and by TCP once more; a name is looked up at most
                # once in 2 s while somebody needs it (names.HURRY_APART), and by both types.
                self.spend("ask", name, HOUR / 2.0 * 4 * len(world.wans))
            case Probe() if effect.device in world.tunnels.ports:
                ladder = next(t.ladder for t in world.settings.tunnels if t.device == effect.device)
                resting = HOUR / 5.0 + HOUR / liveness.PROBE_BURST * 0.25
                self.spend("probe", effect.target, ladder.steps_per_hour * PROBES_PER_STEP + resting)
            case Probe():
                watched = HOUR / world.settings.probing.interval
                self.spend("path", effect.device, 2 * watched + 4 * HOUR / 5.0)

    def spend(self, kind: str, subject: str, limit: float) -> None:
        spent = self.spent[kind, subject]
        spent.append(self.world.now)
        while spent[0] <= self.world.now - HOUR:
            spent.popleft()
        self.most[kind, subject] = max(self.most[kind, subject], len(spent))
        assert len(spent) <= limit, f"{len(spent)} times {kind} of {subject} within an hour; {limit} allowed"

    def endpoint_allowed(self, effect: SetEndpoint) -> None:
        """From an answer or the configuration, or the one that is there already (to clear its source)."""
        world = self.world
        peer = world.tunnels.peers[effect.device, effect.public_key]
        wanted = next(p for p in world.settings.peers() if p.public_key == effect.public_key)
        address = ipaddress.ip_address(effect.endpoint.address)
        bad = address.is_loopback or address.is_unspecified or address.is_multicast or address.is_link_local
        assert not bad, f"{effect}: never an endpoint"
        if effect.endpoint in (peer.endpoint, peer.shown and peer.shown.endpoint):
            return
        literal = {place.host for place in wanted.endpoints if is_literal(place.host)}
        known = effect.endpoint.address in world.answered | literal
        assert known, f"{effect.endpoint} is in no answer and not in the configuration"
        assert effect.endpoint.port in {place.port for place in wanted.endpoints}
        if peer.shown is None or peer.shown.endpoint != peer.endpoint:
            return  # it roamed after the last look: nobody could know
        # A peer from which something came this very moment is left where it is, unless its name moved on.
        care = world.engine.state.tunnels.peers[peer.device, peer.site.key]
        trial = care.trial_until != NEVER or (care.attempts and care.attempts[-1].rung == "return")
        if world.now - peer.heard_at <= 1.0 and world.tunnels.fresh(peer) and not trial:
            assert peer.endpoint in care.given, (
                f"{effect} overrides {peer.endpoint}, to which it roamed alive"
            )

    # ------------------------------------------------------------ each step

    def check(self, world: World, event: Event, step: Step) -> None:
        assert world.wake > world.now, f"wake_at {world.wake} is not ahead of {world.now} after {event}"
        if world.life != self.life:  # the budgets are the process's, which was killed
            self.life = world.life
            self.spent.clear()
        now, count = self.at_once
        self.at_once = (world.now, count + 1 if world.now == now else 1)
        assert count < 300, f"{count} steps at {world.now}: the engine goes round in circles"
        for finding in step.findings:
            if finding.why in (Why.NAME_MOVED, Why.NAME_RESOLVED):
                self.moved.append(world.now)
            if finding.why is Why.TUNNEL_STEP:
                device = finding.subject.partition("/")[0]
                ladder = next(t.ladder for t in world.settings.tunnels if t.device == device)
                # A name that moves is followed at once, whatever was spent.
                moved = sum(at > world.now - HOUR for at in self.moved)
                self.spend("step", finding.subject, ladder.steps_per_hour + moved)
            if finding.why is Why.TUNNEL_MOVED:
                self.spend("move", finding.subject, HOUR / 15.0)
            assert "?" not in finding.text, f"{finding.why} lacks an argument: {finding.text}"
        if isinstance(event, Observed) or any(isinstance(e, (AddRoute, DeleteRoute)) for e in step.effects):
            self.routed()
        if world.steps % PURE_EVERY == 0:
            self.bounded()

    def routed(self) -> None:
        """While a WAN has carrier and a route, every packet has a way, and none by a device that is gone."""
        world = self.world
        plugged = [wan for wan in world.wans if wan.plugged]
        for family in (4, 6):
            if not any(family in wan.families for wan in plugged):
                continue
            # The mark of a detour whose WAN has just died goes with the next look: what has it is lost now.
            wanted = wanted_of(world.engine.state).fwmarks
            marks = {mark for device, mark in world.tunnels.marks.items() if wanted.get(device, mark) == mark}
            for mark in {0, *marks}:
                found = world.exit(family, mark)
                assert found not in ("", "unreachable"), f"IPv{family}, mark {mark:#x}: no way at {world.now}"
        assert all(rule.table != RT_TABLE_LOCAL for rule in world.rules)

    def bounded(self) -> None:
        """What is remembered does not grow."""
        state = self.world.engine.state
        for tunnel in state.settings.tunnels:
            for peer in tunnel.peers:
                care = state.tunnels.peers[peer.id]
                assert len(care.given) <= GIVEN_KEPT and len(care.attempts) <= ATTEMPTS_KEPT
                assert len(care.spent) <= tunnel.ladder.steps_per_hour + 240, len(care.spent)
                assert len(care.skipped) <= 20
        for watch in state.links.watches.values():
            assert len(watch.samples) < 200
        assert len(state.recent) <= 64 and len(state.names.flights) <= 64
        assert len(state.uplink.forget) <= 64 and len(state.names.health) <= 16


def pure(world: World, event: Event, step: Step) -> None:
    """The same event in the same state at the same time decides the same: costs a second step each time."""
    state, now = world.engine.state, world.now + 1.0
    one, two = Engine(state), Engine(state)
    assert one.handle(event, now) == two.handle(event, now)
    assert one.state == two.state and state is world.engine.state


def outstanding(world: World) -> tuple[Effect, ...]:
    """What the engine would still do to the routing."""
    from wgrouter.core import links, plan, uplink

    state = world.engine.state
    wanted = routing.intent(state.world, links.view(state.links), uplink.chosen(state.uplink), state.settings)
    return plan.plan(wanted, state.world, state.settings)


def recovery_bound(world: World) -> float:
    """Seconds from the end of all faults to the last tunnel's return: the longest pause of a ladder with its
    jitter and one round of steps, or the longest that a name may wait, whichever is later, and a look.
    """
    pause = max((t.ladder.backoff_max * 1.25 for t in world.settings.tunnels), default=0.0)
    dns = world.settings.dns
    names = max(dns.retry_max, min(max(world.ttl, dns.ttl_min), dns.ttl_max)) + 5.0
    round_ = 8 * (liveness.PROOF + liveness.SILENCE)
    return pause + names + round_ + 60.0
