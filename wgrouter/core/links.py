"""Whether each WAN works, per family: a state table fed by carrier, routes and probes. Down at once, up after
a quiet hold.

Decides what to probe and when, and the state of every path; knows nothing of which WAN is used (uplink.py)
nor of tables and rules (routing.py). One probe per interval and path, targets in turn; the first late answer
starts a fast burst that decides within half a second; any answer ends it. Probe ids are even numbers.

Time from a silent cut to `down` with the defaults: 0 to 1 s to the next probe (half of that on a WAN with
both families: a late answer over one makes the other look too), 0.2 s late, 0.2 s burst, 0.1 s wait. A false
`down` at 5 % random loss takes seven losses in a row: 0.05^7, once in forty years of probes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from wgrouter.core import jitter, wans, window
from wgrouter.core.findings import Finding, Why
from wgrouter.core.machine import Context, Turn
from wgrouter.core.messages import Configured, Effect, Event, Observed, Probe, Replied, Unsent
from wgrouter.core.model import LONG_AGO, NEVER, Instant, Seconds
from wgrouter.core.probes import probe
from wgrouter.core.settings import Hold, Settings, Wan
from wgrouter.core.wans import Path
from wgrouter.core.window import Quality, Sample, Target

# ---------------------------------------------------------------- the table

UNPROVEN = "unproven"  # there since the start, not judged yet: used, lest a start interrupts traffic
UP = "up"
SUSPECT = "suspect"  # up, and a burst is deciding
DEGRADED = "degraded"  # answers, but over a limit: used if nothing better is there
HELD = "held"  # answers again, not used before it has been quiet for a while (unless nothing better is there)
RETURNING = "returning"  # carrier and route are back, nothing answered yet
DOWN = "down"  # carrier and route, but no answers
OFF = "off"  # no carrier or no route

CUT, BACK, LATE, MISSED, ANSWER, POOR, GOOD, QUIET = (
    "cut",
    "back",
    "late",
    "missed",
    "answer",
    "poor",
    "good",
    "quiet",
)

# state → what happened → next state. What is not listed changes nothing.
TABLE: Mapping[str, Mapping[str, str]] = {
    UNPROVEN: {CUT: OFF, MISSED: DOWN, ANSWER: UP},
    UP: {CUT: OFF, LATE: SUSPECT, POOR: DEGRADED},
    SUSPECT: {CUT: OFF, MISSED: DOWN, ANSWER: UP},
    DEGRADED: {CUT: OFF, MISSED: DOWN, GOOD: HELD},
    HELD: {CUT: OFF, MISSED: DOWN, POOR: DEGRADED, QUIET: UP},
    RETURNING: {CUT: OFF, MISSED: DOWN, ANSWER: HELD},
    DOWN: {CUT: OFF, ANSWER: HELD},
    OFF: {BACK: RETURNING},
}
USABLE = (UP, SUSPECT)  # without reservation
PENALISED = (UP, SUSPECT, DEGRADED, HELD)  # leaving one of these for a worse state counts as a flap

STALL: Seconds = 0.25  # woken this much too late, answers may lie unread: wait once more before deciding
REMEMBERED: Seconds = 600.0  # a discovered WAN that went keeps its history this long
DEAD_EVERY = 10  # a dead target is asked once in so many probes
CLEAN_LOSS = 10.0  # percent: below this a late answer is news
FLAPPING_FROM = 3.0  # penalty
PENALTY_MAX = 10.0


@dataclass(frozen=True, slots=True)
class Burst:
    """Probes in quick succession; `decide_at` is set with the last one."""

    left: int
    next_at: Instant
    decide_at: Instant = NEVER
    graced: bool = False


@dataclass(frozen=True, slots=True)
class Watch:
    """What is remembered of one path."""

    path: Path
    state: str
    since: Instant
    next_at: Instant = NEVER  # of the next steady probe
    samples: tuple[Sample, ...] = ()
    burst: Burst | None = None
    handled: int = 0  # late answers up to this probe id have been acted on
    turn: int = 0  # probes sent: which target is next
    octets: int = 0  # spent on probing, both directions, about
    proven: bool = False  # something answered, ever
    dead: tuple[str, ...] = ()  # targets said to be dead
    held_until: Instant = NEVER
    penalty: float = 0.0
    penalty_at: Instant = LONG_AGO
    changes: int = 0
    evidence: str = ""
    gone_at: Instant = NEVER


@dataclass(frozen=True, slots=True)
class Memory:
    watches: Mapping[tuple[str, int], Watch] = field(default_factory=dict)
    indices: Mapping[str, int] = field(default_factory=dict)
    last_id: int = 0
    started: bool = False  # the first look is behind us


@dataclass(frozen=True, slots=True)
class Uplink:
    """One path as the deciders and `status` see it."""

    path: Path
    state: str
    since: Instant
    evidence: str
    wan: Wan
    quality: Quality
    proven: bool
    held_until: Instant = NEVER
    probes: int = 0
    octets: int = 0

    @property
    def usable(self) -> bool:
        """Passes its probes, or has not been judged yet."""
        return self.state in USABLE or self.state == UNPROVEN

    @property
    def answers(self) -> bool:
        """Something beyond it answers now, well or badly."""
        return self.state in (UP, SUSPECT, HELD, DEGRADED)


def view(memory: Memory, context: Context) -> tuple[Uplink, ...]:
    """Every known path, in the order of configuration or metric."""
    return tuple(_seen(watch, context) for watch in memory.watches.values())


def _seen(watch: Watch, context: Context) -> Uplink:
    late = window.late_after(watch.samples, context.settings.probing)
    return Uplink(
        path=watch.path,
        state=watch.state,
        since=watch.since,
        evidence=watch.evidence,
        wan=wans.options(context.settings, watch.path.wan),
        quality=window.quality(watch.samples, context.now, late),
        proven=watch.proven,
        held_until=watch.held_until if watch.state == HELD else NEVER,
        probes=watch.turn,
        octets=watch.octets,
    )


def hopeless(uplinks: tuple[Uplink, ...]) -> bool:
    """No path can carry anything, as far as probes tell. A path that never answered one (ICMP may be
    filtered) is no proof.
    """
    return not any(u.path.works and (u.state != DOWN or not u.proven) for u in uplinks)


# ---------------------------------------------------------------- steps


def step(memory: Memory, event: Event, context: Context) -> Turn[Memory]:
    """Any event: what has become due is done. Observed and Configured bring the paths up to date, Replied and
    Unsent the windows.
    """
    effects: list[Effect] = []
    findings: list[Finding] = []
    if isinstance(event, (Configured, Observed)) and context.world.net is not None:
        memory = _refresh(memory, context, findings)
    watches = dict(memory.watches)
    if isinstance(event, (Replied, Unsent)) and event.id % 2 == 0:
        for key, watch in watches.items():
            if any(sample.id == event.id for sample in watch.samples):
                watches[key] = _heard(watch, event, context, findings)
                break
    last_id = memory.last_id
    alarmed: set[str] = set()
    for key, watch in watches.items():
        sibling_alarm = watch.path.wan in alarmed
        watch, alarm = _decide(watch, context, findings, sibling_alarm)
        if alarm:
            alarmed.add(watch.path.wan)
        watches[key] = watch
    for key, watch in watches.items():
        if watch.path.wan in alarmed and watch.state == UP:  # one that came before its alarmed sibling
            watch, _ = _decide(watch, context, findings, True)
        watches[key], last_id = _send(watch, context, last_id, effects)
    return Turn(replace(memory, watches=watches, last_id=last_id), tuple(effects), tuple(findings))


def wake_at(memory: Memory, context: Context) -> Instant:
    """When the next probe, lateness, burst decision or end of a hold is due; strictly ahead of now after a
    step at now.
    """
    due = NEVER
    for watch in memory.watches.values():
        if watch.state == OFF:
            continue
        due = min(due, watch.next_at)
        if watch.burst is not None:
            due = min(due, watch.burst.next_at if watch.burst.left else watch.burst.decide_at)
        elif watch.state in (UP, HELD, DEGRADED):
            late = window.late_after(watch.samples, context.settings.probing)
            waiting = [
                s.sent for s in watch.samples if s.id > watch.handled and s.rtt is None and not s.refused
            ]
            if waiting:
                due = min(due, waiting[0] + late)
        if watch.state == HELD:
            due = min(due, watch.held_until)
    # The sum sent + late may round to a value that `now - sent >= late` does not reach yet.
    return due if due > context.now else context.now + 0.001


# ---------------------------------------------------------------- the paths


def _refresh(memory: Memory, context: Context, findings: list[Finding]) -> Memory:
    now, settings = context.now, context.settings
    paths = wans.discover(context.world, settings, memory.indices)
    watches: dict[tuple[str, int], Watch] = {}
    for path in paths:
        old = memory.watches.get(path.key)
        if old is None:
            watches[path.key] = _new(path, memory.started, context, findings)
        else:
            watches[path.key] = _changed(old, path, context, findings)
    names = {wan.name for wan in settings.wans if wan.enabled}
    for key, old in memory.watches.items():
        if key in watches:
            continue
        forgotten = key[0] not in names if names else now - min(old.gone_at, now) >= REMEMBERED
        lost = replace(old.path, routed=False)
        if forgotten:
            if old.state != OFF:
                findings.append(
                    Finding(Why.WAN_GONE, key[0], {"reason": "it is not in the configuration any more"})
                )
            continue
        watch = _changed(old, lost, context, findings)
        watches[key] = replace(watch, gone_at=min(old.gone_at, now))
    indices = {path.wan: path.index for path in paths} | {
        key[0]: watch.path.index for key, watch in watches.items() if key not in {path.key for path in paths}
    }
    return replace(memory, watches=watches, indices=indices, started=True)


def _new(path: Path, started: bool, context: Context, findings: list[Finding]) -> Watch:
    now, settings = context.now, context.settings
    interval = _interval(settings, path.wan)
    # Families half an interval apart: a cut is noticed by whichever probes next.
    phase = (jitter.unit(context.seed, "probe", path.wan) + path.family / 4.0) % 1.0
    watch = Watch(path, OFF, now, next_at=now + interval * (0.05 + 0.95 * phase))
    if not path.works:
        return replace(watch, evidence=_lack(path))
    findings.append(_appeared(path))
    state = RETURNING if started else UNPROVEN
    return _burst(replace(watch, state=state, evidence="not probed yet"), context)


def _changed(old: Watch, path: Path, context: Context, findings: list[Finding]) -> Watch:
    watch = replace(old, path=path, gone_at=NEVER)
    if not path.works:
        return _fire(watch, CUT, _lack(path), context, findings)
    moved = (path.device, path.gateway) != (old.path.device, old.path.gateway)
    if moved or not old.path.works:
        findings.append(_appeared(path))
    if watch.state == OFF:
        watch = _fire(watch, BACK, "carrier and route are back", context, findings)
        return _burst(watch, context)
    if moved and watch.burst is None and watch.state != DOWN:
        return _burst(_fire(watch, LATE, "its gateway changed", context, findings), context)
    return watch


def _appeared(path: Path) -> Finding:
    said: dict[str, str | int | float] = {
        "family": path.family,
        "device": path.device,
        "gateway": path.gateway or "a point-to-point link",
    }
    return Finding(Why.WAN_APPEARED, path.wan, said)


def _lack(path: Path) -> str:
    if not path.device:
        return "its interface has no device"
    if not path.carrier:
        return f"no carrier on {path.device}"
    return f"no default route by {path.device}"


# ---------------------------------------------------------------- judging


def _heard(watch: Watch, event: Replied | Unsent, context: Context, findings: list[Finding]) -> Watch:
    if isinstance(event, Unsent):
        return replace(watch, samples=window.refused(watch.samples, event.id, event.reason))
    target = next(sample.target for sample in watch.samples if sample.id == event.id)
    samples = window.answered(watch.samples, event.id, event.rtt)
    evidence = f"{target} answers in {1000 * event.rtt:.0f} ms"
    if watch.state in (DOWN, RETURNING):  # what was lost while it was down says nothing about how it is now
        samples = tuple(sample for sample in samples if sample.rtt is not None)
    watch = replace(
        watch,
        samples=samples,
        burst=None,
        handled=max(watch.handled, samples[-1].id) if watch.burst is not None else watch.handled,
        proven=True,
        dead=tuple(name for name in watch.dead if name != target),
    )
    return _fire(watch, ANSWER, evidence, context, findings)


def _decide(watch: Watch, context: Context, findings: list[Finding], alarm: bool) -> tuple[Watch, bool]:
    """What time alone has decided. The second part: an answer is late on a path that loses little."""
    now, probing = context.now, context.settings.probing
    options = wans.options(context.settings, watch.path.wan)
    if watch.state == OFF:
        return watch, False
    if not _targets(watch.path, context.settings):
        watch = _fire(replace(watch, burst=None), ANSWER, "has carrier; nothing to probe", context, findings)
    oldest = now - probing.window
    if watch.samples and watch.samples[0].sent < oldest:
        watch = replace(watch, samples=tuple(s for s in watch.samples if s.sent >= oldest))
    burst = watch.burst
    if burst is not None and not burst.left and now >= burst.decide_at:
        if now - burst.decide_at > STALL and not burst.graced:
            watch = replace(watch, burst=replace(burst, decide_at=now + window.WAIT_MIN, graced=True))
        else:
            watch = _missed(watch, context, findings)
    late = window.late_after(watch.samples, probing)
    alarmed = False
    if watch.burst is None and watch.state in (UP, HELD, DEGRADED):
        for sample in watch.samples:
            if (
                sample.id > watch.handled
                and sample.target not in watch.dead
                and window.missing(sample, now, late)
            ):
                seen = window.quality(watch.samples, now, late)
                alarmed = watch.state == UP and (seen.loss is None or seen.loss < CLEAN_LOSS)
                how = sample.refused or f"nothing for {1000 * (now - sample.sent):.0f} ms"
                evidence = f"{sample.target}: {how}"
                watch = _burst(_fire(watch, LATE, evidence, context, findings), context)
                break
        else:
            if alarm and watch.state == UP:
                watch = _burst(
                    _fire(watch, LATE, "an answer is late over the other family", context, findings), context
                )
    if watch.state in (UP, HELD, DEGRADED):
        watch = _judge(watch, options, context, findings, late)
    if watch.state == HELD and now >= watch.held_until and watch.burst is None:
        watch = _fire(watch, QUIET, f"quiet for {now - watch.since:.0f} s", context, findings)
    return watch, alarmed


def _judge(watch: Watch, options: Wan, context: Context, findings: list[Finding], late: Seconds) -> Watch:
    now = context.now
    seen = window.quality(watch.samples, now, late)
    if watch.state == DEGRADED:
        if not window.verdict(seen, options, 0.6) and seen.samples >= window.JUDGED_FROM:
            watch = _fire(watch, GOOD, "within its limits again", context, findings)
    elif over := window.verdict(seen, options):
        watch = _fire(watch, POOR, over, context, findings)
    if seen.loss is not None and seen.loss <= CLEAN_LOSS:
        for name in sorted(window.silent(watch.samples, now, late, window.DEAD_AFTER) - set(watch.dead)):
            findings.append(Finding(Why.WAN_TARGET_DEAD, watch.path.wan, {"target": name}))
            watch = replace(watch, dead=(*watch.dead, name))
    return watch


def _missed(watch: Watch, context: Context, findings: list[Finding]) -> Watch:
    unanswered = []
    for sample in reversed(watch.samples):
        if sample.rtt is not None:
            break
        unanswered.append(sample)
    names = ", ".join(sorted({sample.target for sample in unanswered}))
    span = context.now - unanswered[-1].sent if unanswered else 0.0
    evidence = f"{len(unanswered)} probes to {names} missed in {span:.2f} s"
    refusals = sorted({sample.refused for sample in unanswered if sample.refused})
    if refusals:
        evidence += f" ({', '.join(refusals)})"
    handled = watch.samples[-1].id if watch.samples else watch.handled
    return _fire(replace(watch, burst=None, handled=handled), MISSED, evidence, context, findings)


def _burst(watch: Watch, context: Context) -> Watch:
    if not _targets(watch.path, context.settings):
        return watch
    return replace(watch, burst=Burst(max(1, context.settings.probing.burst_count), context.now))


# ---------------------------------------------------------------- transitions


def _fire(watch: Watch, signal: str, evidence: str, context: Context, findings: list[Finding]) -> Watch:
    """The table's next state with everything that goes with it; the same watch if the table has none."""
    state = TABLE[watch.state].get(signal)
    if state is None:
        return watch
    now, old = context.now, watch.state
    glance = {old, state} == {UP, SUSPECT}  # a burst that ends well leaves no trace in "since when"
    watch = replace(watch, state=state, since=watch.since if glance else now, evidence=evidence)
    subject, family = watch.path.wan, watch.path.family
    said: dict[str, str | int | float] = {"family": family, "evidence": evidence}
    if old in PENALISED and state in (DOWN, OFF, DEGRADED):
        penalty = min(PENALTY_MAX, penalty_now(watch, context.settings.hold, now) + 1.0)
        watch = replace(watch, penalty=penalty, penalty_at=now, changes=watch.changes + 1)
    if state == UP and old == SUSPECT:
        return watch
    if state == OFF:
        watch = replace(watch, burst=None, samples=())
        if watch.path.carrier:
            findings.append(Finding(Why.WAN_GONE, subject, {"family": family, "reason": evidence}))
        else:
            findings.append(Finding(Why.WAN_DOWN, subject, said))
    elif state == HELD:
        until = _hold_until(watch, context.settings.hold, now)
        watch = replace(watch, held_until=until)
        said = {"family": family, "seconds": round(until - now, 1), "reason": evidence}
        findings.append(Finding(Why.WAN_HELD, subject, said))
        if penalty_now(watch, context.settings.hold, now) >= FLAPPING_FROM:
            said = {"family": family, "count": watch.changes, "seconds": round(until - now, 1)}
            findings.append(Finding(Why.WAN_FLAPPING, subject, said))
    elif state in _SAID:
        findings.append(Finding(_SAID[state], subject, said))
    return watch


_SAID: Mapping[str, Why] = {
    UP: Why.WAN_UP,
    SUSPECT: Why.WAN_SUSPECT,
    DEGRADED: Why.WAN_DEGRADED,
    DOWN: Why.WAN_DOWN,
}


def penalty_now(watch: Watch, hold: Hold, now: Instant) -> float:
    """Flaps, decayed."""
    if watch.penalty == 0.0 or hold.penalty_half_life <= 0.0:
        return 0.0
    return float(watch.penalty * 0.5 ** ((now - watch.penalty_at) / hold.penalty_half_life))


def hold_for(penalty: float, hold: Hold) -> Seconds:
    """The quiet time wanted: up_after for a first failure, doubled by each further flap, up_max at most."""
    return float(min(hold.up_max, hold.up_after * 2.0 ** max(0.0, min(penalty, PENALTY_MAX) - 1.0)))


def _hold_until(watch: Watch, hold: Hold, now: Instant) -> Instant:
    """The first instant at which the quiet since now is as long as the penalty, which decays meanwhile, wants
    it.
    """
    low, high = min(hold.up_after, hold.up_max), hold_for(penalty_now(watch, hold, now), hold)
    for _ in range(24):
        middle = (low + high) / 2.0
        if middle >= hold_for(penalty_now(watch, hold, now + middle), hold):
            high = middle
        else:
            low = middle
    return now + high


# ---------------------------------------------------------------- probes


def _interval(settings: Settings, name: str) -> Seconds:
    metered = wans.options(settings, name).metered
    return max(0.05, settings.probing.metered_interval if metered else settings.probing.interval)


def _targets(path: Path, settings: Settings) -> tuple[Target, ...]:
    everything = window.targets(wans.options(settings, path.wan), settings.probing, path.family)
    return everything if path.gateway else tuple(t for t in everything if t.address != "gateway")


def _send(watch: Watch, context: Context, last_id: int, effects: list[Effect]) -> tuple[Watch, int]:
    now, settings = context.now, context.settings
    if watch.state == OFF:
        return watch, last_id
    burst = watch.burst
    if burst is not None and burst.left and now >= burst.next_at:
        last_id += 2
        watch = _one(watch, last_id, context, effects, in_burst=True)
        step_ = settings.probing.burst_interval
        left = burst.left - 1
        next_at = burst.next_at + step_ if burst.next_at + step_ > now else now + step_
        decide_at = NEVER if left else now + window.burst_wait(watch.samples, settings.probing)
        watch = replace(watch, burst=Burst(left, next_at, decide_at))
    if now >= watch.next_at:
        interval = _interval(settings, watch.path.wan)
        next_at = watch.next_at + interval if watch.next_at + interval > now else now + interval
        watch = replace(watch, next_at=next_at)
        if watch.burst is None and _targets(watch.path, settings):
            last_id += 2
            watch = _one(watch, last_id, context, effects, in_burst=False)
    return watch, last_id


def _one(watch: Watch, id: int, context: Context, effects: list[Effect], in_burst: bool) -> Watch:
    everything = _targets(watch.path, context.settings)
    alive = [target for target in everything if str(target) not in watch.dead] or list(everything)
    if in_burst and len(alive) < 2:
        alive = list(everything)
    elif not in_burst and watch.dead and watch.turn % DEAD_EVERY == DEAD_EVERY - 1:
        alive = [target for target in everything if str(target) in watch.dead] or alive
        target = alive[watch.turn // DEAD_EVERY % len(alive)]
        return _sent(watch, id, target, context, effects)
    return _sent(watch, id, alive[watch.turn % len(alive)], context, effects)


def _sent(watch: Watch, id: int, target: Target, context: Context, effects: list[Effect]) -> Watch:
    effect: Probe = probe(id, target, watch.path, context.settings)
    effects.append(effect)
    return replace(
        watch,
        turn=watch.turn + 1,
        octets=watch.octets + window.cost(target.method, watch.path.family),
        samples=(*watch.samples, Sample(id, context.now, str(target))),
    )
