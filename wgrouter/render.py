"""What the agent says, as text for people: tables that fit 80 columns, colours on a terminal only.

Pure: plain data (as the control socket carries it) in, lines out. Knows neither the agent nor the terminal.
What it shows came from outside (names, descriptions), so nothing unprintable passes. Missing data is "-".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

TYPE_CHECKING = False  # not typing's: importing it would cost more than this module
if TYPE_CHECKING:
    from typing import Any

    Data = Mapping[str, Any]

WIDTH = 80
GAP = "  "

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_STYLES = {
    "green": ("up", "alive", "usable", "ok", "resolved", "good", "info"),
    "cyan": ("idle", "manual"),
    "yellow": ("suspect", "degraded", "held", "poor", "stale", "waiting", "warning"),
    "red": ("down", "dead", "gone", "failed", "missing", "silent", "error"),
    "dim": ("unseen", "unmanaged", "unknown", "debug", "disabled"),
}
_STYLE_OF = {word: style for style, words in _STYLES.items() for word in words}


class Paper:
    """Where lines are put: how wide it is, and whether it has colours."""

    def __init__(self, width: int = WIDTH, colour: bool = False) -> None:
        self.width = max(width, 40)
        self.colour = colour
        self.lines: list[str] = []

    def styled(self, text: str, style: str) -> str:
        """The text in a style, on paper with colours."""
        return f"\033[{_CODES[style]}m{text}\033[0m" if self.colour and style and text else text

    def put(self, text: str = "", style: str = "") -> None:
        """One line, cut to the width."""
        self.lines.append(self.styled(cut(plain(text), self.width), style).rstrip())

    def heading(self, text: str) -> None:
        """A text in bold, set off from what stands above."""
        if self.lines:
            self.put()
        self.wrapped(text, style="bold")

    def wrapped(self, text: str, indent: int = 0, style: str = "", first: str = "") -> None:
        """A text on as many lines as it takes; `first` stands in the indentation of the first one."""
        indent = min(indent, self.width // 2)
        lead = cut(plain(first), indent).ljust(indent)
        for line in wrap(plain(text), self.width - indent):
            self.lines.append((self.styled(lead, "bold") + self.styled(line, style)).rstrip())
            lead = " " * indent

    def table(
        self,
        columns: str,
        rows: Iterable[Sequence[str]],
        *,
        indent: int = 0,
        give: Sequence[int] = (),
        under: Callable[[int], None] | None = None,
    ) -> None:
        """A table. `columns` names them, ">" before a name aligns right, "_" stands for a space.

        Where the width does not suffice the columns `give` are cut, the first of them first. A cell that is a
        state is coloured. `under(n)` may put lines below row n.
        """
        names = columns.split()
        right = [name.startswith(">") for name in names]
        head = [name.lstrip(">").replace("_", " ").strip() for name in names]
        body = [[plain(cell) for cell in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
        excess = indent + sum(widths) + len(GAP) * (len(widths) - 1) - self.width
        for column in give:
            if excess > 0:
                narrower = max(widths[column] - excess, min(widths[column], 8))
                excess -= widths[column] - narrower
                widths[column] = narrower
        while excess > 0 and max(widths) > 1:  # nobody counted on such data
            widest = widths.index(max(widths))
            narrower = max(widths[widest] - excess, widths[widest] // 2)
            excess -= widths[widest] - narrower
            widths[widest] = narrower

        def line(cells: Sequence[str], style: Callable[[str], str]) -> str:
            parts = []
            for cell, width, to_right in zip(cells, widths, right, strict=True):
                text = cut(cell, width)
                padding = " " * (width - len(text))
                shown = self.styled(text, style(cell))
                parts.append(padding + shown if to_right else shown + padding)
            return " " * indent + GAP.join(parts).rstrip()

        self.lines.append(line(head, lambda _: "dim"))
        for number, cells in enumerate(body):
            self.lines.append(line(cells, lambda cell: _STYLE_OF.get(cell, "")))
            if under is not None:
                under(number)


# ---------------------------------------------------------------- words


def plain(value: object) -> str:
    """Text without anything that could move a terminal's cursor."""
    text = "-" if value is None else str(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def cut(text: str, width: int) -> str:
    """The text, or as much of it as fits, with a sign that something is missing."""
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


def wrap(text: str, width: int) -> list[str]:
    """The text in lines of at most `width` (1 or more); a word that is longer is broken."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = ""
        line = f"{line} {word}" if line else word
        while len(line) > width:
            lines.append(line[:width])
            line = line[width:]
    return [*lines, line] if line or not lines else lines


def span(seconds: object) -> str:
    """A span of time in at most two units: 0.4s, 34s, 12m, 2h14m, 3d4h."""
    value = _figure(seconds)
    if value is None:
        return "-"
    if value < 0:
        return "-" + span(-value)
    if value > 1e9:
        return "never"
    if value < 9.95:
        return f"{value:.1f}s".replace(".0s", "s")
    whole = round(value)
    for unit, length, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60)):
        if whole >= length:
            rest = whole % length // part
            return f"{whole // length}{unit}" + (f"{rest}{smaller}" if rest else "")
    if whole < 60:
        return f"{whole}s"
    return f"{whole // 60}m" + (f"{whole % 60}s" if whole < 600 and whole % 60 else "")


def amount(count: object) -> str:
    """Bytes in the unit that suits them: 912 B, 1.4 MiB."""
    value = _figure(count)
    if value is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or abs(value) >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def number(value: object, unit: str, digits: int = 0) -> str:
    """A figure with its unit, "-" if there is none."""
    figure = _figure(value)
    return "-" if figure is None else f"{figure:.{digits}f}{unit}"


def _figure(value: object) -> float | None:
    """A number that can be shown, None for everything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        return None
    return None if abs(value) > 1e300 and value != float("inf") else float(value)


def _list(value: object) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []


def _dicts(data: Data, key: str) -> list[Data]:
    return [item for item in _list(data.get(key)) if isinstance(item, Mapping)]


def _joined(value: object, empty: str = "-") -> str:
    return ", ".join(map(str, _list(value))) or empty


# ---------------------------------------------------------------- status


def status(data: Data, paper: Paper) -> None:
    """`wgrouter status`: WANs, tunnels, names, what was said of late, what is wrong with the settings."""
    root = data.get("root") or "/"
    paper.put(
        f"wgrouter {plain(data.get('version'))}, up {span(data.get('uptime_s'))}"
        + ("" if root == "/" else f", root {root}"),
        "bold",
    )
    if data.get("now_trusted") is False:
        paper.put("The clock is not set: peers drop handshakes from the past.", "red")
    _wans(_dicts(data, "wans"), paper)
    for tunnel in _dicts(data, "tunnels"):
        _tunnel(tunnel, paper)
    _names(_dicts(data, "names"), paper)
    _mqtt(data.get("mqtt"), paper)
    findings(_dicts(data, "findings"), paper)
    problems(_list(data.get("problems")), paper)


def _mqtt(mqtt: object, paper: Paper) -> None:
    if isinstance(mqtt, Mapping):
        paper.heading("MQTT")
        told = f"{mqtt.get('broker')}: {mqtt.get('state')} for {span(mqtt.get('since_s'))}"
        waiting = f"{mqtt['queued']} events wait" if mqtt.get("queued") else ""
        paper.wrapped("; ".join(filter(None, [told, str(mqtt.get("reason") or ""), waiting])), 2)


def _wans(wans: list[Data], paper: Paper) -> None:
    if not wans:
        return
    paper.heading("WANs")

    def under(row: int) -> None:
        wan = wans[row]
        gateway = wan.get("gateway")
        text = "; ".join(filter(None, [f"via {gateway}" if gateway else "", str(wan.get("why") or "")]))
        if text:
            paper.wrapped(text, 4, "dim")

    rows = [
        (
            "*" if wan.get("active") else "",
            str(wan.get("name", "-")),
            str(wan.get("device") or "-"),
            f"IPv{wan.get('family', '?')}",
            str(wan.get("state", "-")),
            span(wan.get("since_s")),
            number(wan.get("loss_percent"), " %"),
            number(wan.get("latency_ms"), " ms", 1),
            number(wan.get("jitter_ms"), " ms", 1),
            number(wan.get("share_percent"), " %"),
        )
        for wan in wans
    ]
    paper.table("_ NAME DEVICE _ STATE SINCE >LOSS >LATENCY >JITTER >SHARE", rows, give=(1, 2), under=under)


def _tunnel(tunnel: Data, paper: Paper) -> None:
    facts = [f"port {tunnel['listen_port']}" if tunnel.get("listen_port") else ""]
    facts.append(f"by {tunnel['wan']}" if tunnel.get("wan") else "")
    mark = tunnel.get("fwmark")
    facts.append(f"mark 0x{mark:x}" if isinstance(mark, int) and mark else "")
    about = ", ".join(filter(None, facts))
    paper.heading(f"Tunnel {tunnel.get('interface', '-')}" + (f" ({about})" if about else ""))
    peers = _dicts(tunnel, "peers")
    if not peers:
        paper.put("  no peers", "dim")
        return

    def under(row: int) -> None:
        peer = peers[row]
        addresses = _joined(peer.get("addresses"), "")
        name = str(peer.get("name") or "")
        resolved = f"{name} is {addresses}" if name and addresses and name != addresses else name
        at = f"at {peer['endpoint']}" if peer.get("endpoint") else "no endpoint"
        rung = f"step {peer['rung']}" if peer.get("rung") else ""
        paper.wrapped("; ".join(filter(None, [at, resolved, rung, str(peer.get("why") or "")])), 4, "dim")

    rows = [
        (
            str(peer.get("peer", "-")),
            str(peer.get("state", "-")),
            span(peer.get("since_s")),
            span(peer.get("last_handshake_age_s")),
            amount(peer.get("rx_bytes")),
            amount(peer.get("tx_bytes")),
        )
        for peer in peers
    ]
    paper.table("PEER STATE SINCE >HANDSHAKE >RECEIVED >SENT", rows, indent=2, give=(0,), under=under)


def _names(names: list[Data], paper: Paper) -> None:
    if not names:
        return
    paper.heading("Names")

    def under(row: int) -> None:
        for text in (_joined(names[row].get("addresses"), "no address"), names[row].get("error")):
            if text:
                paper.wrapped(str(text), 4, "dim")

    rows = [
        (
            str(name.get("name", "-")),
            str(name.get("status", "-")),
            span(name.get("ttl_s")),
            span(name.get("next_in_s")),
            str(name.get("server") or "-"),
        )
        for name in names
    ]
    paper.table("NAME STATUS >TTL >NEXT_IN SERVER", rows, indent=2, give=(0, 4), under=under)


def findings(items: list[Data], paper: Paper) -> None:
    """What was said, one line or more each."""
    if not items:
        return
    paper.heading("Said of late")
    for item in items:
        said(item, paper, f"{span(item.get('age_s')):>7} ago")


def said(item: Data, paper: Paper, when: str) -> None:
    """One finding, with the time before it and its code behind it."""
    severity = str(item.get("severity", ""))
    subject = str(item.get("subject") or "")
    text = f"{subject}: {item.get('text', '')}" if subject else str(item.get("text", ""))
    style = _STYLE_OF.get(severity, "") if severity in ("warning", "error") else ""
    paper.wrapped(f"{text} [{item.get('code', '?')}]", len(when) + 2, style, when)


def problems(items: list[Any], paper: Paper, heading: str = "Configuration problems") -> None:
    """Problems of the configuration: where, what was wrong, what is accepted, what was done about it."""
    if items:
        paper.heading(heading)
    for item in items:
        if not isinstance(item, Mapping):
            paper.wrapped(str(item), 4, "", "  -")
            continue
        severity = str(item.get("severity") or "error")
        place = f"{item.get('file') or '-'}" + (f":{item['line']}" if item.get("line") else "")
        option = f"option {item['option']}" if item.get("option") else ""
        where = ", ".join(filter(None, [str(item.get("section") or ""), option]))
        paper.wrapped(f"{place}: {where}" if where else place, 11, "bold", f"  {severity}")
        paper.wrapped(str(item.get("message") or "-"), 11, _STYLE_OF.get(severity, ""))
        accepted = str(item.get("accepted") or "")
        if accepted:
            paper.wrapped(accepted if accepted.startswith("did you mean") else f"accepted: {accepted}", 11)
        if item.get("consequence"):
            paper.wrapped(str(item["consequence"]), 11, "dim")


# ---------------------------------------------------------------- explain, plan, journal, replay


def explain(items: Sequence[Any], paper: Paper) -> None:
    """`wgrouter explain`: for each subject one cause, the evidence, what was tried, what comes next."""
    for item in items:
        if not isinstance(item, Mapping):
            continue
        paper.heading(f"{item.get('subject', '-')}: {item.get('state', '-')}")
        cause = item.get("cause")
        if isinstance(cause, Mapping):
            paper.wrapped(f"{cause.get('text', '-')} [{cause.get('code', '?')}]", 12, "", "  Cause")
        elif cause:
            paper.wrapped(str(cause), 12, "", "  Cause")
        _under("Evidence", _list(item.get("evidence")), paper)
        _under("Tried", [_tried(tried) for tried in _dicts(item, "tried")], paper)
        following = item.get("next")
        if isinstance(following, Mapping):
            when = following.get("in_s")
            soon = f", in {span(when)}" if isinstance(when, (int, float)) and when > 0 else ""
            paper.wrapped(f"{following.get('what', '-')}{soon}", 12, "cyan", "  Next")
        rejected = [f"{one.get('what', '-')}: {one.get('reason', '-')}" for one in _dicts(item, "rejected")]
        _under("Rejected", rejected, paper)


def _tried(tried: Data) -> str:
    result = tried.get("result")
    return f"{span(tried.get('age_s'))} ago: {tried.get('what', '-')}" + (f" → {result}" if result else "")


def _under(title: str, texts: list[Any], paper: Paper) -> None:
    for number, text in enumerate(texts):
        paper.wrapped(str(text), 12, "", f"  {title}" if number == 0 else "")


def plan(data: Data, paper: Paper) -> None:
    """`wgrouter plan`: what would be done now, in this order, and why."""
    effects = _list(data.get("effects"))
    if not effects:
        paper.put("Nothing to do: everything is as it should be.", "green")
    else:
        paper.put(f"{len(effects)} thing{'s' if len(effects) > 1 else ''} to do, in this order:", "bold")
    for count, effect in enumerate(effects, 1):
        paper.wrapped(str(effect), 6, "", f"{count:>4}. ")
    findings(_dicts(data, "findings"), paper)
    problems(_list(data.get("problems")), paper)


def entries(items: Iterable[Any], paper: Paper, clock: Callable[[float], str], every: bool = False) -> None:
    """`wgrouter journal`: the steps, each with what came, what was said and what was done."""
    for item in items:
        if not isinstance(item, Mapping):
            continue
        wall = _figure(item.get("wall"))
        when = (
            clock(wall)
            if wall is not None and 0 < wall < 1e11
            else f"{number(item.get('at'), '', 3):>11}s boot"
        )
        lead = f"{when} "
        for finding in _dicts(item, "findings"):
            said(finding, paper, lead.rstrip())
            lead = " " * len(lead)
        if every or not item.get("findings"):
            paper.wrapped(str(item.get("event") or "-"), len(lead) + 1, "dim", lead)
            lead = " " * len(lead)
        for effect in _list(item.get("effects")):
            paper.wrapped(f"→ {effect}", len(lead) + 1, "cyan", lead)


def anything(data: Any, paper: Paper, indent: int = 0) -> None:
    """Plain data of no particular shape, as indented lines."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            if isinstance(value, (Mapping, list)) and value:
                paper.put(" " * indent + f"{key}:")
                anything(value, paper, indent + 2)
            else:
                shown = "-" if value in (None, "", [], {}) else str(value)
                paper.wrapped(shown, indent + len(str(key)) + 2, "", " " * indent + f"{plain(key)}:")
    elif isinstance(data, list):
        for value in data:
            if isinstance(value, (Mapping, list)):
                anything(value, paper, indent)
            else:
                paper.wrapped(str(value), indent + 2, "", " " * indent + "-")
    else:
        paper.wrapped(str(data), indent)
