"""The fleet as rows and lines: what stands where, in which order, and what a filter leaves.

Pure: knows no terminal. A Line is pieces of text with a style; the width of a text is what a terminal makes
of it, so that a name in Chinese does not push its row out of the column.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wgrouter import render
from wgrouter.fleet import verdict
from wgrouter.fleet.model import Entry, Fleet, Router
from wgrouter.fleet.verdict import Verdict
from wgrouter.render import span

Line = tuple[tuple[str, str], ...]  # pieces: text and style ("", bold, dim, red, green, yellow, cyan, head)
GAP = 2
KEPT = 2.0  # seconds
COLUMNS = ("ROUTER", "STATUS", "WAN", "TUNNELS", "CHANGED", "CAUSE")
SORTS = ("status", "router", "wan", "tunnels", "changed")
_SEVERITY = {"error": "red", "warning": "yellow", "info": "", "debug": "dim"}
_STATE = {
    **dict.fromkeys(("up", "alive"), "green"),
    **dict.fromkeys(("degraded", "suspect", "held", "returning"), "yellow"),
    **dict.fromkeys(("down", "off", "dead"), "red"),
    **dict.fromkeys(("idle", "new", "unproven", "unseen"), "dim"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One router in the table."""

    router: Router
    verdict: Verdict
    wan: str
    detour: bool
    alive: int
    peers: int
    changed: float  # seconds since 1970, 0: not known
    made: tuple[float, int, bool, float]  # when, of which revision of the router; our connection, since when

    @property
    def tunnels(self) -> str:
        return f"{self.alive}/{self.peers}" if self.router.state else "-"

    @property
    def down(self) -> int:
        state = self.router.state
        return sum(peer.state in verdict.DEAD for peer in state.tunnels.values()) if state else 0

    def fits(self, words: Sequence[str]) -> bool:
        """Whether it has every word somewhere, and none that begins with "!"."""
        if not words:
            return True
        machine = " ".join(self.router.birth.machine.values()) if self.router.birth else ""
        text = f"{self.router.id} {self.verdict.status} {self.wan} {self.verdict.because} {machine}".lower()
        return all((word[1:] not in text) if word[:1] == "!" else word in text for word in words)


def rows(
    fleet: Fleet, now: float, sort: str = "status", reverse: bool = False, sought: str = ""
) -> list[Row]:
    """What the table shows, in its order. `sought` are the words of a filter."""
    return ordered(judged(fleet, now), sort, reverse, sought)


def judged(fleet: Fleet, now: float, known: Sequence[Row] = ()) -> list[Row]:
    """Every router, by its id. Of `known` rows those are kept of which nothing new was heard: time alone
    changes them little. Who is away is judged by what others say, each time.
    """
    departures = verdict.departed(fleet)
    before = {row.router.id: row for row in known}
    found = []
    for number, name in enumerate(sorted(fleet.routers)):
        router, row = fleet.routers[name], before.get(name)
        # Not all at once, but some each second.
        until = row.made[0] + KEPT + number % 16 / 8 if row is not None else 0.0
        basis = (router.revision, fleet.link_up, fleet.link_since)
        same = row is not None and row.router is router and row.made[1:] == basis
        if row is None or not same or not router.online or not row.made[0] <= now < until:
            row = _row(fleet, router, now, departures)
        found.append(row)
    return found


def ordered(found: Sequence[Row], sort: str, reverse: bool, sought: str) -> list[Row]:
    """Those that fit a filter, in an order; equals by their ids."""
    words = [word for word in sought.lower().split() if word != "!"]
    kept = [row for row in found if row.fits(words)]
    if sort != "router":
        kept.sort(key=_ORDER[sort])
    return kept[::-1] if reverse else kept


_ORDER: Mapping[str, Callable[[Row], Any]] = {
    "status": lambda row: row.verdict.rank,
    "wan": lambda row: (row.wan, row.verdict.rank),
    "tunnels": lambda row: (-row.down, row.alive - row.peers),
    "changed": lambda row: -row.changed,
}


def _row(fleet: Fleet, router: Router, now: float, departures: Sequence[float]) -> Row:
    state = router.state
    made = (now, router.revision, fleet.link_up, fleet.link_since)
    detours = verdict.detours(router)
    judged = verdict.judge(fleet, router, now, departures, detours)
    if state is None:
        return Row(router, judged, "-", False, 0, 0, router.changed, made)
    left = {family: old for family, old, _ in detours}
    shown = {
        family: f"{wan or 'none'} ← {left[family]}" if family in left else wan or "none"
        for family, wan in state.active.items()
    }
    texts = list(dict.fromkeys(shown.values()))
    if len(texts) > 1:
        texts = [f"{family.removeprefix('ip')} {text}" for family, text in shown.items()]
    return Row(
        router, judged, ", ".join(texts) or "-", bool(left), state.alive, state.peers, router.changed, made
    )


def summary(found: Iterable[Row]) -> list[tuple[str, int]]:
    """How many of each status, the worst first."""
    counts: dict[str, int] = {}
    for row in found:
        counts[row.verdict.status] = counts.get(row.verdict.status, 0) + 1
    return sorted(counts.items(), key=lambda item: verdict.STATUSES[item[0]][0])


# ---------------------------------------------------------------- widths


def width(text: str) -> int:
    """Columns that a terminal gives to a cleaned text."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def cut(text: str, room: int) -> str:
    """The text, or as much of it as fits with a sign that something is missing."""
    if width(text) <= room:
        return text
    if room < 1:
        return ""
    used, out = 0, []
    for character in text:
        used += width(character)
        if used > room - 1:
            break
        out.append(character)
    return "".join(out) + "…"


def fitted(text: str, room: int, right: bool = False) -> str:
    """The text in exactly so many columns."""
    text = cut(text, room)
    padding = " " * (room - width(text))
    return padding + text if right else text + padding


# ---------------------------------------------------------------- the table


def widths(found: Sequence[Row], total: int) -> list[int]:
    """Of the columns; the last takes what is left."""
    names = max((len(row.router.id) for row in found), default=0)
    wans = max((width(row.wan) for row in found), default=0)
    first = [min(max(names, 6), 24), 16, min(max(wans, 3), 20), 7, 7]
    used = sum(first) + GAP * len(first)
    if used > total - 20:  # a narrow terminal: what can be cut is
        first[0], first[2] = min(first[0], 14), min(first[2], 12)
        used = sum(first) + GAP * len(first)
    return [*first, max(total - used, 0)]


def head(columns: Sequence[int], sort: str = "") -> Line:
    texts = [
        fitted(name + ("▾" if name.lower() == sort else ""), columns[n], name in ("TUNNELS", "CHANGED"))
        for n, name in enumerate(COLUMNS)
    ]
    return (((" " * GAP).join(texts), "head"),)


def line(row: Row, columns: Sequence[int], now: float) -> Line:
    judged, gap = row.verdict, (" " * GAP, "")
    gone = judged.status in verdict.GONE
    tunnels = "dim" if gone or not row.peers else "red" if row.down else "green"
    age = span(now - row.changed) if row.changed else "-"
    return (
        (fitted(row.router.id, columns[0]), ""),
        gap,
        (fitted(judged.status, columns[1]), judged.style),
        gap,
        (fitted(row.wan, columns[2]), "dim" if gone else "yellow" if row.detour else ""),
        gap,
        (fitted(row.tunnels, columns[3], True), tunnels),
        gap,
        (fitted(age, columns[4], True), ""),
        gap,
        (cut(judged.because, columns[5]), ""),
    )


def banner(fleet: Fleet, now: float, broker: str, found: Sequence[Row], all_rows: int) -> list[Line]:
    """What stands above the table: who is asked, how the fleet fares, and what to mistrust."""
    shown = f"{all_rows} router{'s' * (all_rows != 1)}"
    shown = f"{len(found)} of {shown}" if len(found) != all_rows else shown
    pieces: list[tuple[str, str]] = [(f"{fleet.prefix} on {broker}", "bold"), (f"   {shown}", "")]
    for status, count in summary(found):
        pieces += [("   ", ""), (f"{count} {status}", verdict.STATUSES[status][1])]
    lines: list[Line] = [tuple(pieces)]
    if not fleet.link_up:
        since = f" for {span(now - fleet.link_since)}" if fleet.link_since else ""
        text = f"NO CONNECTION TO THE BROKER{since}: {fleet.link_why}. Below is what was last known."
        lines.append(((text, "alarm"),))
    elif fleet.link_denied:
        lines.append(((f"the broker {fleet.link_denied}", "red"),))
    crowd = _crowd(fleet)
    if crowd:
        text = f"{crowd} routers went offline within a minute: look at the broker's side first"
        lines.append(((text, "red"),))
    if fleet.strays:
        lines.append(((f"{fleet.strays} messages on topics of no router ({fleet.stray_why})", "dim"),))
    if fleet.overflow:
        lines.append(((f"{fleet.overflow} messages of more routers than can be kept", "red"),))
    return lines


def _crowd(fleet: Fleet) -> int:
    """The largest number of routers away that went within a minute of each other, if it is a crowd."""
    times = verdict.departed(fleet)
    best = first = 0
    for last, at in enumerate(times):
        while at - times[first] > verdict.TOGETHER:
            first += 1
        best = max(best, last - first + 1)
    return best if best > verdict.TOGETHER_MIN else 0


# ---------------------------------------------------------------- one router


def detail(fleet: Fleet, router: Router, now: float, clock: Callable[[float], str], total: int) -> list[Line]:
    """All that is known of one router. `clock` shows a time as people read it."""
    row = _row(fleet, router, now, verdict.departed(fleet))
    judged = row.verdict
    lines: list[Line] = [
        ((router.id, "bold"), ("  ", ""), (judged.status, judged.style), (f"  {row.wan}", ""))
    ]
    lines += [((f"  {text}", ""),) for text in wrapped(judged.because, total - 2)]
    lines += [((cut(f"  · {text}", total), ""),) for text in judged.evidence]
    lines += [((cut(f"  {text}", total), "dim"),) for text in _identity(router, now)]
    if router.state:
        lines += _wans(router, total)
        lines += _peers(router, now, total)
    lines += [(), (("EVENTS", "head"),)]
    entries = [line for entry in reversed(router.timeline) for line in _entry(entry, clock, total)]
    return lines + (entries or [(("  none heard since this watch began", "dim"),)])


def _identity(router: Router, now: float) -> list[str]:
    found = []
    birth = router.birth
    if birth:
        machine = ", ".join(birth.machine.values())
        versions = ", ".join(f"{name} {value}" for name, value in birth.versions.items())
        found.append("; ".join(part for part in (machine, versions) if part))
        able = ", ".join(birth.commands) or "none"
        found.append(f"commands: {able}{' (signed)' if birth.signed and birth.commands else ''}")
    head = router.state.head if router.state else birth.head if birth else None
    if head is not None:
        up = router.state.uptime if router.state else birth.uptime if birth else 0.0
        up += max(0.0, now - router.said) if router.said and router.online else 0.0
        clock = "clock set" if head.clock_trusted else "CLOCK NOT SET"
        heard = f"last heard of {span(now - router.said)} ago" if router.said else "not heard live yet"
        numbers = ""
        if router.state:
            counted = router.state
            numbers = f"; {counted.switches} switches; event {counted.seq}, {counted.queued} queued"
        found.append(f"life {head.boot}, {span(up)} old; {clock}; {heard}{numbers}")
    return found


def _grid(names: Sequence[str], body: Sequence[Sequence[tuple[str, str]]], total: int) -> list[Line]:
    """A table below a heading; the last column takes what is left."""
    sizes = [max([width(name), *(width(cells[n][0]) for cells in body)]) for n, name in enumerate(names)]
    sizes = [min(size, 30) for size in sizes]
    sizes[-1] = max(total - sum(sizes[:-1]) - GAP * len(sizes), 0)
    gap = (" " * GAP, "")
    lines: list[Line] = [(), ((cut(" ".join(_padded(names, sizes)), total), "head"),)]
    for cells in body:
        pieces: list[tuple[str, str]] = []
        for (text, style), size in zip(cells[:-1], sizes, strict=False):
            pieces += [(fitted(text, size), style), gap]
        lines.append((*pieces, (cut(cells[-1][0], sizes[-1]), cells[-1][1])))
    return lines


def _padded(names: Sequence[str], sizes: Sequence[int]) -> list[str]:
    return [fitted(name, size) + " " for name, size in zip(names, sizes, strict=True)]


def _wans(router: Router, total: int) -> list[Line]:
    state = router.state
    assert state is not None
    seen = {one.name: one for one in router.wans.values()}
    body = []
    for name, families in state.wans.items():
        for family, path in families.items():
            more = seen[name].paths.get(family) if name in seen else None
            active = state.active.get(family) == name
            body.append(
                (
                    (name, "bold" if active else ""),
                    (family.removeprefix("ip"), ""),
                    (path.state, _STATE.get(path.state, "")),
                    ("active" if active else "", "bold"),
                    (render.number(path.latency, " ms", 1), ""),
                    (render.number(path.loss, " %", 0), ""),
                    (seen[name].device if name in seen else "", ""),
                    (more.why if more else "", "dim"),
                )
            )
    return _grid(("WAN", "IP", "STATE", "", "LATENCY", "LOSS", "DEVICE", "WHY"), body, total) if body else []


def _peers(router: Router, now: float, total: int) -> list[Line]:
    state = router.state
    assert state is not None
    seen = {f"{one.interface}/{one.label}": one for one in router.peers.values()}
    body = []
    for name, brief in state.tunnels.items():
        more = seen.get(name)
        shown = more.state if more and more.head.time > state.head.time else brief.state
        age = None if brief.handshake_age is None else brief.handshake_age + max(0.0, now - router.said)
        trouble = more is not None and more.cause != "cause.none"
        body.append(
            (
                (name, ""),
                (shown, _STATE.get(shown, "")),
                (more.wan if more else "", ""),
                (more.endpoint if more else "", ""),
                ("-" if age is None else span(age), ""),
                (f"{render.amount(brief.rx)} / {render.amount(brief.tx)}", "dim"),
                (more.text if more and trouble else brief.cause if brief.cause != "cause.none" else "", ""),
            )
        )
    names = ("TUNNEL", "STATE", "BY", "ENDPOINT", "HANDSHAKE", "RX / TX", "CAUSE")
    return _grid(names, body, total) if body else []


def _entry(entry: Entry, clock: Callable[[float], str], total: int) -> list[Line]:
    late = entry.told - entry.at
    number = f"#{entry.seq}" if entry.boot else "seen"
    when = clock(entry.at) + (" " if entry.exact else "~")
    lead = f"  {when} {number:>6}  "
    subject = f"{entry.subject}: " if entry.subject else ""
    text = f"{subject}{entry.text}" + (f" ← {entry.cause}" if _tells(entry) else "")
    text += f" (told {span(late)} later)" if late > 30 else ""
    indent = len(lead) + 20
    texts = wrapped(text, total - indent)
    style = _SEVERITY.get(entry.severity, "") if entry.boot else "cyan"
    first: Line = ((lead, "dim"), (f"{cut(entry.type, 19):<20}", style), (texts[0], style))
    return [first, *(((" " * indent, ""), (more, style)) for more in texts[1:])]


def _tells(entry: Entry) -> bool:
    """Whether the cause says more than the text: a move of traffic quotes it."""
    return bool(entry.cause) and entry.cause.rpartition(": ")[2] not in entry.text


def wrapped(text: str, room: int) -> list[str]:
    return render.wrap(text, max(room, 20))


# ---------------------------------------------------------------- for programs


def data(row: Row, now: float) -> dict[str, Any]:
    """A row as plain data; docs/fleet.md has the fields."""
    router, state = row.router, row.router.state
    return {
        "id": router.id,
        "status": row.verdict.status,
        "because": row.verdict.because,
        "evidence": list(row.verdict.evidence),
        "online": router.online,
        "active": {family: wan or None for family, wan in state.active.items()} if state else {},
        "failed_over": {family: {"from": old, "to": new} for family, old, new in verdict.detours(router)},
        "peers_alive": state.alive if state else None,
        "peers": state.peers if state else None,
        "worst": {"subject": state.worst.subject, "code": state.worst.code, "text": state.worst.text}
        if state and state.worst
        else None,
        "changed_s": round(max(0.0, now - row.changed), 1) if row.changed else None,
        "heard_s": round(max(0.0, now - router.said), 1) if router.said else None,
        "boot": router.boot or None,
        "clock_trusted": router.clock_trusted,
        "events_missing": router.missing,
        "events_dropped": router.dropped,
        "unreadable": router.unreadable,
    }
