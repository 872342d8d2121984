"""What the operator looks at: which table, where the cursor is, and what each key does.

Pure: keys come as names ("up", "enter", "x"), lines go out; screen.py has the terminal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from wgrouter.fleet import messages, table
from wgrouter.fleet.model import Fleet
from wgrouter.fleet.table import Line, Row

TABLE, DETAIL, FILTER, HELP = "table", "detail", "filter", "help"
REBUILD = 0.05  # seconds between two looks at all routers, or twice what a look takes
SOUGHT_MAX = 80
HELP_LINES = (
    ("↑ ↓ PgUp PgDn Home End", "move"),
    ("Enter", "one router, with its time line; Esc goes back"),
    ("/", "filter: words that must be there, !word that must not (id, status, WAN, cause, model)"),
    ("Esc", "take the filter away"),
    ("s, S", "sort by the next, the previous column"),
    ("r", "turn the order round"),
    ("q", "quit"),
    ("", ""),
    ("site lost", "gone, and no other router's tunnel reaches it either"),
    ("broker path lost", "gone, but another router's tunnel to it lives: the site is there"),
    ("offline", "gone, and nobody here has a tunnel to it, so it is not known which"),
    ("stopped", "gone after the agent's own good-bye"),
    ("silent", "online by the broker's account, but its heartbeat is overdue"),
    ("failed over", "its traffic is not on its usual WAN: `lte ← wan`"),
)


@dataclass
class View:
    """The state of the screen. Mutable: one belongs to one terminal."""

    fleet: Fleet
    broker: str
    mode: str = TABLE
    sort: str = "status"
    reverse: bool = False
    sought: str = ""
    selected: str = ""  # a router's id; "": whatever is first
    top: int = 0  # first row or line shown
    page: int = 10  # rows that fit
    _judged: list[Row] = field(default_factory=list)
    _rows: list[Row] = field(default_factory=list)  # of those what is shown, in order
    _built: tuple[int, int] = (-1, -1)
    _built_at: float = -1.0
    _order: tuple[str, bool, str] = ("", False, "")
    _cost: float = 0.0

    # ------------------------------------------------------------ keys

    def press(self, key: str) -> bool:
        """Whether to go on."""
        if self.mode == FILTER:
            self._edit(key)
        elif key in ("q", "quit"):
            if self.mode == TABLE or key == "quit":
                return False
            self._to(TABLE)
        elif self.mode == DETAIL:
            self._in_detail(key)
        elif self.mode == HELP:
            self._to(TABLE)
        else:
            self._in_table(key)
        return True

    def _to(self, mode: str) -> None:
        self.mode, self.top = mode, 0

    def _in_table(self, key: str) -> None:
        moves = {
            "up": -1,
            "k": -1,
            "down": 1,
            "j": 1,
            "pageup": -self.page,
            "pagedown": self.page,
            "home": -len(self._rows),
            "end": len(self._rows),
        }
        if key in moves and self._rows:
            at = min(max(self._cursor() + moves[key], 0), len(self._rows) - 1)
            self.selected = self._rows[at].router.id if at else ""
        elif key == "enter" and self._rows:
            self.selected = self._rows[self._cursor()].router.id
            self._to(DETAIL)
        elif key == "/":
            self.mode = FILTER
        elif key == "escape":
            self.sought = ""
        elif key in ("s", "S"):
            step = 1 if key == "s" else -1
            self.sort = table.SORTS[(table.SORTS.index(self.sort) + step) % len(table.SORTS)]
        elif key == "r":
            self.reverse = not self.reverse
        elif key in ("?", "h"):
            self._to(HELP)

    def _in_detail(self, key: str) -> None:
        if key in ("escape", "backspace", "left", "enter"):
            self._to(TABLE)
        else:
            page = max(self.page - 1, 1)
            steps = {
                "up": -1,
                "k": -1,
                "down": 1,
                "j": 1,
                "pageup": -page,
                "pagedown": page,
                "home": -100_000,
            }
            self.top = max(self.top + (100_000 if key == "end" else steps.get(key, 0)), 0)

    def _edit(self, key: str) -> None:
        if key in ("enter", "quit"):
            self.mode = TABLE
        elif key == "escape":
            self.mode, self.sought = TABLE, ""
        elif key == "backspace":
            self.sought = self.sought[:-1]
        elif len(key) == 1 and key.isprintable() and len(self.sought) < SOUGHT_MAX:
            self.sought += key

    def _cursor(self) -> int:
        for number, row in enumerate(self._rows):
            if row.router.id == self.selected:
                return number
        return 0

    # ------------------------------------------------------------ lines

    def stale(self, now: float) -> bool:
        """Whether the lines would be others than those drawn last."""
        return self._built != (self.fleet.revision, int(now)) or self._order != self._asked()

    def _asked(self) -> tuple[str, bool, str]:
        return self.sort, self.reverse, self.sought

    def _rebuild(self, now: float, tick: Callable[[], float]) -> None:
        """Judge the routers anew if there is news, and put them in order if that or the order changed."""
        begun = tick()
        current = (self.fleet.revision, int(now))
        # A storm of messages must not take the time that keys need.
        if current != self._built and begun - self._built_at >= max(REBUILD, 2 * self._cost):
            self._judged = table.judged(self.fleet, now, self._judged)
            self._built, self._built_at = current, tick()
            self._cost = self._built_at - begun
        elif self._order == self._asked():
            return
        self._order = self._asked()
        self._rows = table.ordered(self._judged, *self._order)

    def lines(
        self, now: float, clock: Callable[[float], str], tick: Callable[[], float], total: int, height: int
    ) -> tuple[list[Line], int]:
        """At most `height` lines, and which of them has the cursor (-1: none). `tick` measures time spent."""
        self._rebuild(now, tick)
        router = self.fleet.routers.get(self.selected)
        if self.mode == DETAIL:
            nothing: Line = ((f"nothing is heard of {messages.clean(self.selected)} yet", "dim"),)
            everything = [nothing] if router is None else table.detail(self.fleet, router, now, clock, total)
            self.page = max(height - 1, 1)
            self.top = max(0, min(self.top, len(everything) - self.page))
            shown = everything[self.top : self.top + self.page]
            return [*shown, self._foot("Esc back  ↑↓ scroll  q back")][:height], -1
        if self.mode == HELP:
            texts: list[Line] = [((f"  {keys:<24}", "bold"), (words, "")) for keys, words in HELP_LINES]
            return texts[:height], -1
        return self._table(now, total, height)

    def _table(self, now: float, total: int, height: int) -> tuple[list[Line], int]:
        found = self._rows
        lines = table.banner(self.fleet, now, self.broker, found, len(self.fleet.routers))
        columns = table.widths(found, total)
        lines.append(table.head(columns, self.sort))
        self.page = max(height - len(lines) - 1, 1)
        cursor = self._cursor()
        self.top = max(min(self.top, cursor, len(found) - self.page), cursor - self.page + 1, 0)
        at = len(lines) + cursor - self.top if found else -1
        lines += [table.line(row, columns, now) for row in found[self.top : self.top + self.page]]
        if not found:
            lines.append((("no router fits the filter" if self.sought else "no router heard yet", "dim"),))
        lines += [()] * (height - len(lines) - 1)
        if self.mode == FILTER:
            foot: Line = (("/", "bold"), (f"{self.sought}▏", ""), ("  Enter keep  Esc clear", "dim"))
        else:
            order = f"{self.sort}{' reversed' if self.reverse else ''}"
            sought = f"  filter: {self.sought}" if self.sought else ""
            foot = self._foot(f"? help  / filter  s sort ({order})  Enter details  q quit{sought}")
        return [*lines[: height - 1], foot], at if at < height - 1 else -1

    def _foot(self, text: str) -> Line:
        return ((text, "dim"),)
