"""What is the matter with a router: one word, one sentence, and the evidence for both.

Pure. A site that is lost, a site whose way to the broker is lost and a WAN that failed over look alike from a
chair; what tells them apart is the last will, what other routers' tunnels to it say, and what it said itself.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from wgrouter.fleet.model import Fleet, Router
from wgrouter.render import span

# word → rank (the worst first) and style
STATUSES = {
    "site lost": (0, "red"),
    "offline": (1, "red"),
    "broker path lost": (2, "red"),
    "no uplink": (3, "red"),
    "silent": (4, "yellow"),
    "stopped": (5, "yellow"),
    "failed over": (6, "yellow"),
    "tunnel down": (7, "yellow"),
    "WAN down": (8, "yellow"),
    "clock not set": (9, "yellow"),
    "unknown": (10, "dim"),
    "online": (11, "green"),
}
GONE = ("site lost", "offline", "broker path lost", "stopped")

# WireGuard gives a session up after this (REJECT_AFTER_TIME): a tunnel that is alive later is alive now.
CERTAIN = 180.0
SLACK = 30.0  # seconds that a heartbeat may be late
TOGETHER, TOGETHER_MIN = 60.0, 3  # so many others gone within so many seconds: not their own doing
RECENT = 900.0  # seconds that a restart or an outage is worth a remark
WORKING = ("up", "unproven", "degraded")
DEAD = ("dead", "unseen")

Detour = tuple[str, str, str]  # family, WAN that was left, WAN that carries now


@dataclass(frozen=True, slots=True)
class Verdict:
    status: str
    because: str
    evidence: tuple[str, ...] = ()

    @property
    def rank(self) -> int:
        return STATUSES[self.status][0]

    @property
    def style(self) -> str:
        return STATUSES[self.status][1]


def judge(
    fleet: Fleet,
    router: Router,
    now: float,
    departures: Sequence[float] = (),
    found: Sequence[Detour] | None = None,
) -> Verdict:
    """`departures` are the times at which routers were seen to go offline, ascending (see `departed`);
    `found` are its detours, if they are known already.
    """
    if router.online is False:
        return _gone(fleet, router, now, departures)
    if router.online is None:
        return Verdict("unknown", "nothing says whether it is online")
    if quiet := _quiet(fleet, router, now):
        return Verdict("silent", quiet)
    status, because = _present(router, detours(router) if found is None else found)
    remarks = "; ".join(part for part in (because, *_remarks(router, now, status)) if part)
    return Verdict(status, remarks)


def departed(fleet: Fleet) -> list[float]:
    """When routers that are away now were seen to go."""
    return sorted(r.turned for r in fleet.routers.values() if r.online is False and r.turned_seen)


# ---------------------------------------------------------------- away


def _gone(fleet: Fleet, router: Router, now: float, departures: Sequence[float]) -> Verdict:
    length = span(now - router.turned) if router.turned_seen else ""
    since = f"for {length}" if length else "since before this watch began"
    if not length and router.said:
        since = f"last heard of {span(now - router.said)} ago"
    if router.stopped:
        return Verdict("stopped", f"its agent was stopped, {since}")
    alive, dead = [], []
    for other, peer in fleet.seen_by(router):
        if other.online and not _quiet(fleet, other, now):
            name = f"{other.id} ({peer.interface}/{peer.label})"
            if peer.state == "alive":
                alive.append(name)
            elif peer.state in (*DEAD, "suspect"):
                dead.append(name)
    evidence = [f"{name} has a live tunnel to it" for name in alive]
    evidence += [f"{name} gets no answer from it" for name in dead]
    crowd = _crowd(router, departures)
    if crowd:
        evidence.append(f"{crowd} others went within a minute of it: look at the broker's side first")
    if alive:
        lost = max(router.turned if router.turned_seen else 0.0, router.said)
        sure = "" if now - lost > CERTAIN else " so far"
        text = f"{_some(alive)} has a live tunnel to it{sure}; {since}"
        return Verdict("broker path lost", text, tuple(evidence))
    if dead:
        text = f"{_some(dead)} gets no answer from it either; {since}"
        return Verdict("site lost", text, tuple(evidence))
    if crowd:
        return Verdict(
            "offline", f"{since}, with {crowd} others: look at the broker's side first", tuple(evidence)
        )
    text = f"{since}; no router that is here has a tunnel to it, so site or broker path is open"
    return Verdict("offline", text, tuple(evidence))


def _some(names: Sequence[str]) -> str:
    first = names[0].partition(" ")[0]
    return first if len(names) == 1 else f"{first} (and {len(names) - 1} more)"


def _crowd(router: Router, departures: Sequence[float]) -> int:
    """How many others went when it did, if enough."""
    if not router.turned_seen:
        return 0
    begin = bisect_left(departures, router.turned - TOGETHER)
    others = bisect_right(departures, router.turned + TOGETHER) - begin - 1
    return others if others >= TOGETHER_MIN else 0


def _quiet(fleet: Fleet, router: Router, now: float) -> str:
    """Why a router that is online by the broker's account is not believed to be."""
    limit = 2 * router.heartbeat + SLACK
    known = max(router.said, router.heard)
    # Where its clock tells nothing, only what we could have heard ourselves counts.
    last = known if known and router.clock_trusted else max(known, fleet.link_since)
    if not fleet.link_up or now - last <= limit:
        return ""
    when = f"{span(now - known)} ago" if known else f"not in the {span(now - last)} of this watch"
    return f"online by the broker's account, but last heard of {when} (heartbeat {span(router.heartbeat)})"


# ---------------------------------------------------------------- here


def _present(router: Router, found: Sequence[Detour]) -> tuple[str, str]:
    state = router.state
    if state is None:
        return "online", "no state yet"
    worst = f"{state.worst.subject}: {state.worst.text}" if state.worst else ""
    if state.active and not any(state.active.values()):
        return "no uplink", worst or "no WAN carries anything"
    if found:
        family, old, new = found[0]
        told = router.moved.get(family, ("", "", ""))
        why = told[2] if told[:2] == (old, new) else _state_of(router, old)
        return "failed over", "; ".join(part for part in (f"{old}: {why}", worst) if part)
    down = [name for name, peer in state.tunnels.items() if peer.state in DEAD]
    if down or state.worst:
        return "tunnel down", worst or f"{_some(down)} is down"
    idle = [name for name in state.wans if _is_down(router, name)]
    if idle:
        return "WAN down", f"{', '.join(idle)}: {_state_of(router, idle[0])}"
    if router.clock_trusted is False:
        return "clock not set", "handshakes with a past time are dropped by its peers"
    return "online", f"{state.manual} is chosen by hand" if state.manual else ""


def detours(router: Router) -> list[Detour]:
    """Of each family that is not on its usual WAN.

    Known from the event; of a failover before we looked from the WANs that come first and do not work.
    """
    state = router.state
    if state is None or state.manual:
        return []
    order = list(router.birth.wans if router.birth else state.wans)
    found = []
    for family, new in state.active.items():
        if not new:
            continue
        told = router.moved.get(family)
        if told is not None and told[0] and told[1] == new:
            found.append((family, told[0], new))
            continue
        for old in order[: order.index(new)] if new in order else ():
            path = state.wans.get(old, {}).get(family)
            if path is not None and path.state not in WORKING:
                found.append((family, old, new))
                break
    return found


def _state_of(router: Router, wan: str) -> str:
    """What became of a WAN, in its own words where they are known."""
    seen = next((one for one in router.wans.values() if one.name == wan), None)
    for path in seen.paths.values() if seen else ():
        if path.state not in WORKING:
            return f"{path.state}, {path.why}" if path.why else path.state
    states = {path.state for path in router.state.wans.get(wan, {}).values()} if router.state else set()
    return ", ".join(sorted(states)) or "gone"


def _is_down(router: Router, wan: str) -> bool:
    paths = router.state.wans[wan] if router.state else {}
    return bool(paths) and all(path.state in ("down", "off") for path in paths.values())


def _remarks(router: Router, now: float, status: str) -> list[str]:
    """What else is worth knowing of a router that is here."""
    found = []
    if router.changed_boot and now - router.changed_boot < RECENT:
        found.append(f"started anew {span(now - router.changed_boot)} ago")
    elif router.outage and now - router.outage[1] < RECENT:
        begin, end = router.outage
        found.append(f"was offline for {span(end - begin)} until {span(now - end)} ago")
    if router.missing:
        found.append(f"{router.missing} event{'s' * (router.missing > 1)} missing")
    if router.dropped:
        found.append(f"{router.dropped} event{'s' * (router.dropped > 1)} dropped by its full queue")
    if router.clock_trusted is False and status != "clock not set":
        found.append("its clock is not set")
    if router.unreadable:
        found.append(f"{router.unreadable} not understood ({router.unreadable_why})")
    return found
