"""Which WAN carries what, per family: state first, then priority, then quality by a margin, then what is used
already.

Decides from the paths as links.py sees them and never probes, routes or looks. Damping is in the states (a
WAN comes back as `held` and becomes `up` after its hold), so this is a choice among candidates that only has
to be lazy: equal ones are not exchanged. As long as any WAN has carrier and a next hop, one is chosen.

After the kernel shows what was decided, `settle` says which flows to forget and counts a new generation for
every tunnel whose path changed: routes first, verified, then conntrack, then the handshake.
"""

from __future__ import annotations

from collections.abc import Mapping

from wgrouter.core import ranges
from wgrouter.core.findings import Finding, Rejected, Why
from wgrouter.core.link_states import DEGRADED, DOWN, HELD, OFF, RETURNING, SUSPECT, UNPROVEN, UP
from wgrouter.core.links import Uplink
from wgrouter.core.machine import Context, Turn
from wgrouter.core.messages import Commanded, Configured, Effect, Event, ForgetFlows, Look, Woke
from wgrouter.core.model import LONG_AGO, NET, NEVER, Instant, Net, Seconds, family_of
from wgrouter.core.plan import unsettled
from wgrouter.core.records import dataclass, field, replace
from wgrouter.core.routing import Wanted
from wgrouter.core.settings import Hold, Settings
from wgrouter.core.window import JUDGED_FROM

FAMILIES = (4, 6)
# How good a state is. A group is left for a better one at once; inside a group what is used stays.
RANK: Mapping[str, tuple[int, int]] = {  # state → (group, place in the group)
    UP: (0, 0),
    SUSPECT: (0, 0),
    HELD: (1, 0),
    DEGRADED: (1, 1),
    UNPROVEN: (1, 2),
    RETURNING: (1, 2),
    DOWN: (2, 0),
    OFF: (3, 0),
}
REVIEW: Seconds = 5.0
DWELL: Seconds = 30.0  # between two moves for quality alone
FORGET_MAX = 64  # addresses waiting for a kernel that does not settle
LOSS_MARGIN = 10.0  # percent points; between degraded links only
# After its move a tunnel stays away from the old WAN this long, twice a satellite's round trip …
RESETS = 8  # … and its endpoint is set again so often …
RESET: Seconds = 0.25  # … after this long each


@dataclass(frozen=True, slots=True)
class Choice:
    """What carries a family. `wan` is "" where nothing can."""

    wan: str
    since: Instant
    reason: str = ""
    last_resort: bool = False
    rejected: tuple[Rejected, ...] = ()


@dataclass(frozen=True, slots=True)
class Manual:
    """A choice by hand; `until` NEVER: until "auto"."""

    wan: str
    until: Instant


@dataclass(frozen=True, slots=True)
class Course:
    """The way of a tunnel's outer packets over one family, and how often it changed (seen in the kernel, not
    merely wanted).
    """

    wan: str
    way: tuple[str, ...]  # device, gateway and source addresses
    generation: int = 0
    resets: int = 0  # still to come: it moves
    reset_at: Instant = NEVER


@dataclass(frozen=True, slots=True)
class UplinkMemory:
    choices: Mapping[int, Choice] = field(default_factory=dict)  # by family
    manual: Manual | None = None
    forget: tuple[str, ...] = ()  # local addresses whose flows go once the kernel shows the new routes
    live: Mapping[tuple[str, int], tuple[str, ...]] = field(
        default_factory=dict
    )  # sources of paths with flows
    courses: Mapping[tuple[str, int], Course] = field(default_factory=dict)  # by (tunnel device, family)
    switches: int = 0
    basis: tuple[object, ...] = ()  # what was decided upon: the paths, their states, the choice by hand
    review_at: Instant = LONG_AGO  # quality alone is looked at again then


Memory = UplinkMemory  # the journal tells values apart by the name of their class


def chosen(memory: Memory) -> Mapping[int, str]:
    """The WAN that carries each family, without the families that have none."""
    return {family: choice.wan for family, choice in memory.choices.items() if choice.wan}


def generation(memory: Memory, device: str, family: int) -> int:
    """Grows whenever the kernel has begun to send this tunnel's outer packets another way: set its endpoints
    again.
    """
    course = memory.courses.get((device, family))
    return course.generation if course else 0


def course_of(memory: Memory, device: str, family: int) -> str:
    """The WAN that a tunnel's outer packets take, "" if none is known."""
    course = memory.courses.get((device, family))
    return course.wan if course else ""


def resting(memory: Memory) -> Mapping[tuple[str, int], str]:
    """(tunnel device, family) → the WAN on which it has come to rest, "" while it moves. Without those not
    seen yet.
    """
    return {key: "" if course.resets else course.wan for key, course in memory.courses.items()}


def step(memory: Memory, event: Event, context: Context, uplinks: tuple[Uplink, ...]) -> Turn[Memory]:
    """Decide again. Commanded "switch" takes {"wan": name or "auto", "seconds": "600"}."""
    findings: list[Finding] = []
    if isinstance(event, Commanded) and event.verb == "switch":
        memory = _by_hand(memory, event, context, uplinks, findings)
    if memory.manual is not None and context.now >= memory.manual.until:
        memory = replace(memory, manual=None)
    if context.world.net is None:
        return Turn(memory, (), tuple(findings))
    due = isinstance(event, Woke) and any(c.reset_at <= context.now for c in memory.courses.values())
    looks: tuple[Effect, ...] = (Look((NET,)),) if due else ()  # settle does it
    basis = (*((u.path, u.state) for u in uplinks), memory.manual)
    calm = basis == memory.basis and context.now < memory.review_at and not isinstance(event, Configured)
    if calm:  # nine steps of ten only count a probe
        return Turn(memory, looks, tuple(findings))
    choices: dict[int, Choice] = {}
    forget = list(memory.forget)
    switches = memory.switches
    for family in FAMILIES:
        candidates = tuple(uplink for uplink in uplinks if uplink.path.family == family)
        old = memory.choices.get(family)
        if not candidates:
            if old is not None and old.wan:
                findings.append(Finding(Why.UPLINK_NONE, "", {"family": family}))
                choices[family] = Choice("", context.now)
            elif old is not None:
                choices[family] = old
            continue
        current = old.wan if old else adopted(context.world.net, context.settings, candidates, family)
        new = decide(candidates, current, old.since if old else context.now, memory.manual, context)
        choices[family] = new
        if old is None or new.wan != old.wan or (new.last_resort and not old.last_resort):
            findings.append(_finding(family, old, new, candidates))
        if old is not None and new.wan != old.wan and old.wan and new.wan:
            switches += 1
            if context.settings.routing.failback == "all":
                forget.extend(_addresses(memory.live.get((old.wan, family), ())))
        elif old is not None and new.wan == old.wan:
            # Since when and why it is used; what was rejected is as of now.
            told = old.reason if new.last_resort == old.last_resort else new.reason
            choices[family] = replace(new, since=old.since, reason=told)
    live = {u.path.key: u.path.sources for u in uplinks if u.usable or u.answers}
    carrying = {family: choice.wan for family, choice in choices.items()}
    for (wan, family), sources in memory.live.items():
        if (wan, family) in live:
            continue
        if carrying.get(family) == wan:  # it is used for want of a better: still its flows
            live[wan, family] = sources
        elif carrying.get(family):
            # Its flows (new connections, balanced ones, those left on it by a failback) can but go elsewhere.
            forget.extend(_addresses(sources))
    forget = list(dict.fromkeys(forget))[:FORGET_MAX]
    memory = replace(
        memory,
        choices=choices,
        forget=tuple(forget),
        live=live,
        switches=switches,
        basis=basis,
        review_at=context.now + REVIEW,
    )
    return Turn(memory, looks, tuple(findings))


def wake_at(memory: Memory, context: Context) -> Instant:
    """The end of a choice by hand or of a tunnel's move; all else is decided when a state changes."""
    moments = [course.reset_at for course in memory.courses.values()]
    moments += [memory.manual.until] if memory.manual is not None else []
    return min((moment for moment in moments if moment > context.now), default=NEVER)


def settle(
    memory: Memory,
    outstanding: tuple[Effect, ...],
    wanted: Wanted,
    uplinks: tuple[Uplink, ...],
    now: Instant,
) -> Turn[Memory]:
    """Call after each look, with what plan.plan still wants done: for the families (and devices) where the
    kernel shows what was wanted, now conntrack, and then (by the generation) handshakes.
    """
    if not wanted.steering:
        return Turn(replace(memory, forget=()) if memory.forget else memory)
    families, devices = unsettled(outstanding)
    if not memory.forget and not wanted.courses:
        return Turn(memory)
    paths = {uplink.path.key: uplink.path for uplink in uplinks}
    due = [source for source in memory.forget if family_of(source) not in families]
    effects: list[Effect] = [ForgetFlows(local_address=address, protocol=0) for address in due]
    courses = dict(memory.courses)
    for key, wan in wanted.courses.items():
        device, family = key
        if family in families or device in devices:
            continue
        path = paths.get((wan, family))
        way = (path.device, path.gateway, *path.sources) if path else ()
        old = courses.get(key)
        moving = key in wanted.leaving
        if old is None and not moving:
            courses[key] = Course(wan, way)
        elif old is None or (old.wan, old.way) != (wan, way):
            courses[key] = _turned(wan, way, old, RESETS if moving else 0, now)
        elif old.reset_at <= now:
            courses[key] = _turned(wan, way, old, old.resets - 1, now)
    forget = tuple(source for source in memory.forget if source not in due)
    return Turn(replace(memory, forget=forget, courses=courses), tuple(effects))


def _turned(wan: str, way: tuple[str, ...], old: Course | None, resets: int, now: Instant) -> Course:
    """One generation later."""
    generation = old.generation + 1 if old else 1
    return Course(wan, way, generation, resets, now + RESET if resets else NEVER)


def _addresses(sources: tuple[str, ...]) -> tuple[str, ...]:
    """Those that flows are NATed to: addresses, not delegated prefixes."""
    return tuple(source for source in sources if "/" not in source)


def adopted(net: Net, settings: Settings, candidates: tuple[Uplink, ...], family: int) -> str:
    """The WAN that our active table uses already: after a crash nothing is moved without a reason."""
    routing = settings.routing
    for route in net.routes:
        ours = route.table == ranges.active_table(routing) and ranges.is_our_route(routing, route)
        if ours and route.family == family and route.is_default:
            for uplink in candidates:
                if any(hop.device == uplink.path.device for hop in route.hops):
                    return uplink.path.wan
    return ""


# ---------------------------------------------------------------- the decision


def decide(
    candidates: tuple[Uplink, ...], current: str, since: Instant, manual: Manual | None, context: Context
) -> Choice:
    """The one that carries from now on, why, and why not the others."""
    now, settings = context.now, context.settings
    able = [uplink for uplink in candidates if uplink.path.works]
    if not able:
        return Choice("", now, "no WAN has carrier", rejected=_rejected(candidates, None, settings))
    if manual is not None:
        for uplink in able:
            if uplink.path.wan == manual.wan and uplink.state != DOWN:
                return Choice(
                    manual.wan, now, "chosen by hand", rejected=_rejected(candidates, uplink, settings)
                )
    order = {uplink.path.key: place for place, uplink in enumerate(candidates)}
    best = min(able, key=lambda u: (*_rank(u, current), u.path.priority, order[u.path.key]))
    kept = next((uplink for uplink in able if uplink.path.wan == current), None)
    winner, reason = best, "it is the best that has carrier"
    if kept is None:
        if current:
            lost = next((u for u in candidates if u.path.wan == current), None)
            reason = f"{current}: {lost.evidence}" if lost else f"{current} is gone"
        elif best.usable:
            reason = "first by priority" if len(candidates) > 1 else "it is the only one"
    else:
        winner, reason = _move(kept, best, able, since, context)
    resort = winner.state == DOWN and winner.proven
    return Choice(winner.path.wan, now, reason, resort, _rejected(candidates, winner, settings))


def _rank(uplink: Uplink, current: str) -> tuple[int, int]:
    """An unproven path is as good as an up one where it is used already, or nothing is used yet: a start
    interrupts nothing.
    """
    if uplink.state == UNPROVEN and current in ("", uplink.path.wan):
        return RANK[UP]
    return RANK[uplink.state]


def _move(
    kept: Uplink, best: Uplink, able: list[Uplink], since: Instant, context: Context
) -> tuple[Uplink, str]:
    """Whether what is used is left for the best, or for a faster one of equal rank."""
    settings, now = context.settings, context.now
    group, best_group = _rank(kept, kept.path.wan)[0], _rank(best, kept.path.wan)[0]
    if best_group < group:
        return best, f"{kept.path.wan} is {kept.state}: {kept.evidence}"
    if group == 0 and best.path.priority < kept.path.priority and settings.routing.failback != "never":
        return best, f"{best.path.wan} is preferred and has been good for its hold-down"
    if kept.state == RETURNING and best.answers:
        return best, f"{kept.path.wan} does not answer yet"
    if now - since >= DWELL:
        if kept.state == DEGRADED:
            best = min((u for u in able if u.state == DEGRADED), key=lambda u: u.quality.loss or 0.0)
            loss, other = kept.quality.loss or 0.0, best.quality.loss or 0.0
            if loss - other > LOSS_MARGIN:
                return best, f"{best.path.wan} loses {other:.0f} %, {kept.path.wan} {loss:.0f} %"
        faster = None if settings.routing.balance else _faster(kept, able, settings.hold)
        if faster is not None:
            mine, its = _latency(kept), _latency(faster)
            return faster, f"{faster.path.wan} takes {its:.0f} ms, {kept.path.wan} {mine:.0f} ms"
    return kept, "nothing is better by the margin"


def _faster(kept: Uplink, able: list[Uplink], hold: Hold) -> Uplink | None:
    """The fastest of the same priority, if it is faster by the absolute and the relative margin (Tailscale's
    rule).
    """
    mine = _latency(kept)
    limit = min(mine - hold.margin_ms, mine * (1.0 - hold.margin_ratio))
    rivals = (u for u in able if u.state == UP and u.path.priority == kept.path.priority)
    fastest = min(rivals, key=_latency, default=kept)
    return fastest if _latency(fastest) < limit < NEVER else None


def _latency(uplink: Uplink) -> float:
    """In milliseconds; NEVER while too little is known."""
    known = uplink.quality.latency if uplink.quality.samples >= JUDGED_FROM else None
    return NEVER if known is None else known


def _rejected(
    candidates: tuple[Uplink, ...], winner: Uplink | None, settings: Settings
) -> tuple[Rejected, ...]:
    out = []
    for uplink in candidates:
        if uplink is winner:
            continue
        if winner is None or not uplink.usable:
            reason = f"{uplink.state}: {uplink.evidence}"
        elif uplink.path.priority > winner.path.priority:
            reason = f"priority {uplink.path.priority} comes after {winner.path.priority}"
        elif uplink.path.priority < winner.path.priority:
            reason = (
                f"failback is {settings.routing.failback}" if uplink.state != UNPROVEN else "not proven yet"
            )
        else:
            reason = "not better by the margin"
        out.append(Rejected(uplink.path.wan, reason))
    return tuple(out)


def _finding(family: int, old: Choice | None, new: Choice, candidates: tuple[Uplink, ...]) -> Finding:
    if not new.wan:
        return Finding(Why.UPLINK_NONE, "", {"family": family}, new.rejected)
    said: dict[str, str | int | float] = {"family": family, "chosen": new.wan, "reason": new.reason}
    if new.last_resort:
        return Finding(Why.UPLINK_LAST_RESORT, new.wan, said, new.rejected)
    if old is None or not old.wan:
        return Finding(Why.UPLINK_CHOSEN, new.wan, said, new.rejected)
    said["old"] = old.wan
    left = next((u for u in candidates if u.path.wan == old.wan), None)
    order = [u.path.wan for u in sorted(candidates, key=lambda u: u.path.priority)]
    # A move by hand, or for speed, from a WAN that is preferred to it is no way back.
    if left is not None and left.usable and order.index(new.wan) < order.index(old.wan):
        return Finding(Why.UPLINK_FAILBACK, new.wan, said, new.rejected)
    return Finding(Why.UPLINK_FAILOVER, new.wan, said, new.rejected)


def _by_hand(
    memory: Memory, event: Commanded, context: Context, uplinks: tuple[Uplink, ...], findings: list[Finding]
) -> Memory:
    name = event.arguments.get("wan", "auto")
    if name == "auto":
        findings.append(
            Finding(Why.UPLINK_MANUAL, "", {"chosen": "the best WAN", "until": " no more, but by rule"})
        )
        return replace(memory, manual=None)
    known = list(dict.fromkeys(uplink.path.wan for uplink in uplinks))
    if name not in known:
        said: dict[str, str | int | float] = {"wan": name, "known": ", ".join(known) or "none"}
        findings.append(Finding(Why.UPLINK_UNKNOWN, name, said))
        return memory
    try:
        seconds = float(event.arguments.get("seconds") or context.settings.routing.switch_seconds)
    except ValueError:
        seconds = 0.0
    limited = 0.0 < seconds < NEVER
    said = {"chosen": name, "until": f" for {seconds:.0f} s" if limited else ""}
    findings.append(Finding(Why.UPLINK_MANUAL, name, said))
    return replace(memory, manual=Manual(name, context.now + seconds if limited else NEVER))
