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

from wgrouter.core import jitter, wans, window
from wgrouter.core.findings import Finding, Why
from wgrouter.core.link_states import (
    ANSWER,
    BACK,
    CUT,
    DEGRADED,
    DOWN,
    GOOD,
    HELD,
    LATE,
    MISSED,
    OFF,
    PENALISED,
    POOR,
    QUIET,
    RETURNING,
    SUSPECT,
    TABLE,
    UNPROVEN,
    UP,
)
from wgrouter.core.link_watch import Burst, Memory, Uplink, Watch
from wgrouter.core.machine import Context, Turn
from wgrouter.core.messages import Configured, Effect, Event, Observed, Replied, Unsent, Woke
from wgrouter.core.model import LONG_AGO, NEVER, Instant, Seconds
from wgrouter.core.probes import SENT_ONLY, listen, probe
from wgrouter.core.records import replace
from wgrouter.core.settings import Probing, Wan
from wgrouter.core.wans import Path
from wgrouter.core.window import Sample, Target

__all__ = ["Memory", "Uplink", "Watch", "hopeless", "step", "view", "wake_at"]

TICK: Seconds = 0.001
STALL: Seconds = 0.25  # woken this much too late, answers may lie unread: wait once more before deciding
REMEMBERED: Seconds = 600.0  # a discovered WAN that went keeps its history this long
DEAD_EVERY = 10  # a dead target is asked once in so many probes
CLEAN_LOSS = 10.0  # percent: below this a late answer is news
TRUSTED = 6  # metered intervals: received bytes stand in for a probe no longer than this
FLAPPING_FROM = 2.5  # penalty: the third change within a minute or so


def view(memory: Memory) -> tuple[Uplink, ...]:
    """Every known path, in the order of configuration or metric."""
    return tuple(Uplink(watch) for watch in memory.watches.values())


def hopeless(uplinks: tuple[Uplink, ...]) -> bool:
    """No path can carry anything, as far as probes tell. A path that never answered one (ICMP may be
    filtered) is no proof.
    """
    return not any(u.path.works and (u.state != DOWN or not u.proven) for u in uplinks)


# ---------------------------------------------------------------- steps


def step(memory: Memory, event: Event, context: Context) -> Turn[Memory]:
    """Any event: what has become due is done. Observed and Configured bring the paths up to date, Replied and
    Unsent the windows.

    Silence is judged as of the last Woke. It comes when everything read has been told, whereas behind any
    other event answers may wait; and on a slow router each takes long.
    """
    effects: list[Effect] = []
    findings: list[Finding] = []
    if isinstance(event, (Configured, Observed)) and context.world.net is not None:
        memory = _refresh(memory, context, findings)
    heard = context.now if isinstance(event, Woke) else memory.heard
    watches, wakes = dict(memory.watches), dict(memory.wakes)
    if isinstance(event, (Replied, Unsent)) and event.id % 2 == 0:
        for key, watch in watches.items():
            if event.id == watch.listen_id != 0:
                watches[key], wakes[key] = _listened(watch, event, context, findings), LONG_AGO
                break
            if any(sample.id == event.id for sample in reversed(watch.samples)):
                watches[key], wakes[key] = _heard(watch, event, context, findings), LONG_AGO
                break
    due = [key for key in watches if context.now >= wakes.get(key, LONG_AGO)]
    alarmed: list[str] = []
    for key in due:
        watches[key], alarm = _decide(watches[key], heard, context, findings)
        if alarm:
            alarmed.append(key[0])
    for key, watch in watches.items() if alarmed else ():
        if key[0] in alarmed and watch.state == UP and watch.burst is None:
            watches[key] = _late(watch, "an answer is late over the other family", context, findings)
            due.append(key)
    last_id = memory.last_id
    for key in due:
        watches[key], last_id = _send(watches[key], context, last_id, effects)
        wakes[key] = _wake(watches[key], heard, context)
    memory = replace(memory, watches=watches, wakes=wakes, last_id=last_id, heard=heard)
    return Turn(memory, tuple(effects), tuple(findings))


def wake_at(memory: Memory, context: Context) -> Instant:
    """When the next probe, lateness, burst decision or end of a hold is due; strictly ahead of now after a
    step at now.
    """
    due = min(memory.wakes.values(), default=NEVER)
    return due if due > context.now else context.now + TICK


def _wake(watch: Watch, heard: Instant, context: Context) -> Instant:
    if watch.state == OFF:
        return NEVER
    due = min(watch.next_at, watch.listen_at)
    if watch.burst is not None:
        due = min(due, watch.burst.next_at if watch.burst.left else watch.burst.decide_at)
    if watch.state in (UP, HELD, DEGRADED):
        late = window.late_after(watch.samples, context.settings.probing)
        waiting = [s.sent for s in watch.samples if s.rtt is None and heard - s.sent < late]
        if waiting and watch.burst is None:
            due = min(due, waiting[0] + late)
    if watch.state == HELD:
        due = min(due, watch.held_until)
    # The sum sent + late may round to a value at which `now - sent >= late` does not hold yet.
    return due if due > context.now else context.now + TICK


# ---------------------------------------------------------------- the paths


def _refresh(memory: Memory, context: Context, findings: list[Finding]) -> Memory:
    now, settings = context.now, context.settings
    called = {watch.path.device: key[0] for key, watch in reversed([*memory.watches.items()])}
    paths = wans.discover(context.world, settings, memory.indices, called)
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
    return replace(memory, watches=watches, wakes={}, indices=indices, started=True)


def _new(path: Path, started: bool, context: Context, findings: list[Finding]) -> Watch:
    now, settings = context.now, context.settings
    wan = wans.options(settings, path.wan)
    # Families half an interval apart: a cut is noticed by whichever probes next.
    phase = (jitter.unit(context.seed, "probe", path.wan) + path.family / 4.0) % 1.0
    next_at = now + _interval(wan, settings.probing) * (0.05 + 0.95 * phase)
    targets = _targets(path, wan, settings.probing)
    watch = Watch(path, wan, targets, OFF, now, next_at, listen_at=now if wan.metered else NEVER)
    if not path.works:
        return replace(watch, evidence=_lack(path))
    findings.append(_appeared(path))
    state = RETURNING if started else UNPROVEN
    return _burst(replace(watch, state=state, evidence="not probed yet"), context)


def _changed(old: Watch, path: Path, context: Context, findings: list[Finding]) -> Watch:
    wan = wans.options(context.settings, path.wan)
    targets = _targets(path, wan, context.settings.probing)
    watch = replace(old, path=path, wan=wan, targets=targets, gone_at=NEVER)
    if targets != old.targets or wan != old.wan:  # other settings
        watch = replace(watch, next_at=context.now, listen_at=context.now if wan.metered else NEVER)
    if not path.works:
        return _fire(watch, CUT, _lack(path), context, findings)
    moved = (path.device, path.gateway) != (old.path.device, old.path.gateway)
    if moved or not old.path.works:
        findings.append(_appeared(path))
    if watch.state == OFF:
        watch = _fire(watch, BACK, "carrier and route are back", context, findings)
        return _burst(watch, context)
    if moved and watch.burst is None and watch.state != DOWN:
        return _late(watch, "its gateway changed", context, findings)
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


def _listened(watch: Watch, event: Replied | Unsent, context: Context, findings: list[Finding]) -> Watch:
    """The counters of a metered link, which cost nothing: what is received proves it, and a paid probe can
    wait (not for ever: broadcasts of a dead provider count too). Sending and receiving nothing is suspicious.
    """
    now, probing = context.now, context.settings.probing
    if isinstance(event, Replied):
        last = watch.samples[-1].sent if watch.samples else now
        until = min(now + probing.metered_interval, last + TRUSTED * probing.metered_interval)
        return replace(watch, next_at=max(watch.next_at, until)) if watch.state == UP else watch
    if event.reason == SENT_ONLY and watch.state == UP and now - watch.alarm_at >= probing.metered_interval:
        return _late(replace(watch, alarm_at=now), "sends and receives nothing", context, findings)
    return watch


def _decide(watch: Watch, heard: Instant, context: Context, findings: list[Finding]) -> tuple[Watch, bool]:
    """What time alone has decided. The second part: an answer is late on a path that loses little."""
    now, probing = context.now, context.settings.probing
    if watch.state == OFF:
        return watch, False
    if not watch.targets:
        watch = _fire(replace(watch, burst=None), ANSWER, "has carrier; nothing to probe", context, findings)
    # On a metered link ten samples take longer than the window.
    samples, oldest = watch.samples, now - max(probing.window, 12.0 * _interval(watch.wan, probing))
    if samples and samples[0].sent < oldest:
        samples = tuple(sample for sample in samples if sample.sent >= oldest)
    late = window.late_after(samples, probing)
    watch = replace(watch, samples=samples, quality=window.quality(samples, heard, late))
    burst = watch.burst
    if burst is not None and heard >= burst.decide_at:
        if now - burst.decide_at > STALL and not burst.graced:
            watch = replace(watch, burst=replace(burst, decide_at=now + window.WAIT_MIN, graced=True))
        else:
            watch = _missed(watch, context, findings)
    alarmed = False
    if watch.burst is None and watch.state in (UP, HELD, DEGRADED):
        for sample in reversed(samples):
            if sample.id <= watch.handled:
                break
            if sample.target not in watch.dead and window.missing(sample, heard, late):
                alarmed = watch.state == UP and (watch.quality.loss or 0.0) < CLEAN_LOSS
                how = sample.refused or f"nothing for {1000 * (now - sample.sent):.0f} ms"
                watch = _late(watch, f"{sample.target}: {how}", context, findings)
                break
    if watch.state in (UP, HELD, DEGRADED):
        watch = _judge(watch, heard, context, findings, late)
    if watch.state == HELD and now >= watch.held_until and watch.burst is None:
        watch = _fire(watch, QUIET, f"quiet for {now - watch.since:.0f} s", context, findings)
    return watch, alarmed


def _judge(watch: Watch, heard: Instant, context: Context, findings: list[Finding], late: Seconds) -> Watch:
    seen = watch.quality
    if watch.state == DEGRADED:
        if not window.verdict(seen, watch.wan, 0.6) and seen.samples >= window.JUDGED_FROM:
            watch = _fire(watch, GOOD, "within its limits again", context, findings)
    elif over := window.verdict(seen, watch.wan):
        watch = _fire(watch, POOR, over, context, findings)
    if seen.loss is not None and seen.loss <= CLEAN_LOSS:
        for name in sorted(window.silent(watch.samples, heard, late, window.DEAD_AFTER) - set(watch.dead)):
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


def _late(watch: Watch, evidence: str, context: Context, findings: list[Finding]) -> Watch:
    return _burst(_fire(watch, LATE, evidence, context, findings), context)


def _burst(watch: Watch, context: Context) -> Watch:
    if not watch.targets:
        return watch
    return replace(watch, burst=Burst(max(1, context.settings.probing.burst_count), context.now))


# ---------------------------------------------------------------- transitions


def _fire(watch: Watch, signal: str, evidence: str, context: Context, findings: list[Finding]) -> Watch:
    """The table's next state with everything that goes with it; the same watch if the table has none."""
    state = TABLE[watch.state].get(signal)
    if state is None:
        return watch
    now, old, hold = context.now, watch.state, context.settings.hold
    glance = {old, state} == {UP, SUSPECT}  # a burst that ends well leaves no trace in "since when"
    watch = replace(watch, state=state, since=watch.since if glance else now, evidence=evidence)
    subject, family = watch.path.wan, watch.path.family
    said: dict[str, str | int | float] = {"family": family, "evidence": evidence}
    if old in PENALISED and state in (DOWN, OFF, DEGRADED):
        watch = replace(watch, penalty=watch.penalty.flapped(hold, now), changes=watch.changes + 1)
    if state == UP and old == SUSPECT:
        return watch
    if state == OFF:
        watch = replace(watch, burst=None, samples=(), quality=window.Quality())  # of a line that is no more
        if watch.path.carrier:
            findings.append(Finding(Why.WAN_GONE, subject, {"family": family, "reason": evidence}))
        else:
            findings.append(Finding(Why.WAN_DOWN, subject, said))
    elif state == HELD:
        until = watch.penalty.hold_until(hold, now)
        watch = replace(watch, held_until=until)
        said = {"family": family, "seconds": round(until - now, 1), "reason": evidence}
        findings.append(Finding(Why.WAN_HELD, subject, said))
        if watch.penalty.now(hold, now) >= FLAPPING_FROM:
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


# ---------------------------------------------------------------- probes


def _interval(wan: Wan, probing: Probing) -> Seconds:
    return max(0.05, probing.metered_interval if wan.metered else probing.interval)


def _targets(path: Path, wan: Wan, probing: Probing) -> tuple[Target, ...]:
    everything = window.targets(wan, probing, path.family)
    return everything if path.gateway else tuple(t for t in everything if t.address != "gateway")


def _send(watch: Watch, context: Context, last_id: int, effects: list[Effect]) -> tuple[Watch, int]:
    now, probing, burst = context.now, context.settings.probing, watch.burst
    if now >= watch.listen_at and watch.state != OFF:
        last_id += 2
        effects.append(listen(last_id, watch.path))
        next_at = _next(watch.listen_at, max(0.05, probing.interval), now)
        watch = replace(watch, listen_at=next_at, listen_id=last_id)
    if watch.state == OFF or not watch.targets:
        return (watch if watch.state == OFF else replace(watch, next_at=NEVER)), last_id
    if burst is not None and burst.left and now >= burst.next_at:
        last_id += 2
        left = burst.left - 1
        decide_at = NEVER if left else now + window.burst_wait(watch.samples, probing)
        burst = Burst(left, _next(burst.next_at, probing.burst_interval, now), decide_at)
        return _one(watch, last_id, context, effects, watch.next_at, burst), last_id
    if now >= watch.next_at:
        next_at = _next(watch.next_at, _interval(watch.wan, probing), now)
        if burst is not None:  # it asks enough
            return replace(watch, next_at=next_at), last_id
        last_id += 2
        return _one(watch, last_id, context, effects, next_at, None), last_id
    return watch, last_id


def _next(due: Instant, interval: Seconds, now: Instant) -> Instant:
    """One interval later; counted from now if that has passed too, for what was missed is not made up."""
    return due + interval if due + interval > now else now + interval


def _one(
    watch: Watch, id: int, context: Context, effects: list[Effect], next_at: Instant, burst: Burst | None
) -> Watch:
    """Send the next probe. Targets take turns; a dead one is asked seldom, or in a burst if just one other
    lives.
    """
    choice, turn = watch.targets, watch.turn
    if watch.dead:
        alive = tuple(target for target in choice if str(target) not in watch.dead)
        dead = tuple(target for target in choice if target not in alive)
        if dead and burst is None and turn % DEAD_EVERY == DEAD_EVERY - 1:
            choice, turn = dead, turn // DEAD_EVERY
        elif alive and (burst is None or len(alive) > 1):
            choice = alive
    target = choice[turn % len(choice)]
    effects.append(probe(id, target, watch.path, context.settings))
    return replace(
        watch,
        next_at=next_at,
        burst=burst,
        turn=watch.turn + 1,
        octets=watch.octets + window.cost(target.method, watch.path.family),
        samples=(*watch.samples, Sample(id, context.now, str(target))),
    )
