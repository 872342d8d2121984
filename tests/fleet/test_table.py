"""What stands where: widths as a terminal counts them, order, filter, cursor, and keys in any order."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wcwidth import wcswidth

from tests.fleet import world
from tests.fleet.world import CUT, SILENT
from wgrouter.fleet import messages, table
from wgrouter.fleet.model import Fleet
from wgrouter.fleet.table import Line
from wgrouter.fleet.view import DETAIL, HELP, TABLE, View

T = 1_763_708_400.0


def told(count: int = 30) -> Fleet:
    fleet = Fleet("wgrouter")
    fleet.connected(T, False)
    for one in world.fleet(count, wall=T - 2):
        what = {3: CUT, 5: SILENT}.get(one.number, world.CALM)
        for publication in [*one.everything(), *one.events(what), *one.everything(what)]:
            fleet.hear(publication.topic, publication.payload, False, T - 2)
        if one.number in (8, 9):
            gone = world.offline(one)
            fleet.hear(gone.topic, gone.payload, False, T - 1)
    return fleet


FLEET = told()


def text(line: Line) -> str:
    return "".join(piece for piece, _ in line)


def ids(found: list[table.Row]) -> list[str]:
    return [row.router.id for row in found]


@given(st.text(max_size=40).map(messages.clean), st.integers(0, 30))
def test_a_text_takes_exactly_the_columns_it_is_given(shown: str, room: int) -> None:
    assert table.width(table.cut(shown, room)) <= room
    assert table.width(table.fitted(shown, room)) == room


@pytest.mark.parametrize("shown", ["plain", "総社オフィス", "café", "cafe\u0301", "한국", "－", "ﾊﾝｶｸ"])
def test_widths_are_those_of_a_terminal(shown: str) -> None:
    assert table.width(shown) == wcswidth(shown)


def test_the_worst_stands_first() -> None:
    found = table.rows(FLEET, T)
    assert [row.verdict.status for row in found[:5]] == [
        "broker path lost",
        "broker path lost",
        "failed over",
        "tunnel down",
        "online",
    ]
    assert ids(found)[:5] == ["r0008", "r0009", "r0003", "r0005", "r0000"]
    assert ids(table.rows(FLEET, T, reverse=True)) == ids(found)[::-1]


@pytest.mark.parametrize(
    ("sort", "first"), [("router", "r0000"), ("wan", "r0003"), ("tunnels", "r0005"), ("changed", "r0008")]
)
def test_each_order_has_its_first(sort: str, first: str) -> None:
    assert ids(table.rows(FLEET, T, sort))[0] == first


@pytest.mark.parametrize(
    ("sought", "expected"),
    [
        ("failed", ["r0003"]),
        ("FAILED over", ["r0003"]),
        ("office-5", ["r0005"]),
        ("lost !r0008", ["r0009"]),
        ("carrier", ["r0003"]),
        ("nothing of the kind", []),
    ],
)
def test_a_filter_asks_for_every_word(sought: str, expected: list[str]) -> None:
    assert ids(table.rows(FLEET, T, sought=sought)) == expected


def test_for_programs_a_row_is_plain_data() -> None:
    row = next(row for row in table.rows(FLEET, T + 5) if row.router.id == "r0003")
    data = json.loads(json.dumps(table.data(row, T + 5)))
    assert data["status"] == "failed over"
    assert data["failed_over"]["ipv4"] == {"from": "wan", "to": "lte"}
    assert (data["peers_alive"], data["peers"], data["changed_s"]) == (4, 4, 7.0)


# ---- the view --------------------------------------------------------------------------------------------


class Seen:
    """A view whose time stands still unless told otherwise."""

    def __init__(self, fleet: Fleet = FLEET, columns: int = 100, height: int = 12) -> None:
        self.view = View(fleet, "mqtt://b:1883")
        self.columns, self.height = columns, height
        self.ticks = 0.0
        self.draw()

    def draw(self) -> str:
        self.ticks += 1.0
        lines, self.cursor = self.view.lines(T, str, lambda: self.ticks, self.columns, self.height)
        assert len(lines) <= self.height
        self.shown = [text(line) for line in lines]
        return "\n".join(self.shown)

    def press(self, *keys: str) -> str:
        for key in keys:
            assert self.view.press(key)
        return self.draw()

    @property
    def at_cursor(self) -> str:
        return self.shown[self.cursor].split()[0]


def test_the_cursor_moves_and_the_table_with_it() -> None:
    seen = Seen()
    assert seen.at_cursor == "r0008"
    seen.press("down", "down")
    assert seen.at_cursor == "r0003"
    seen.press("end")
    assert seen.at_cursor == "r0029"
    seen.press("pageup")
    assert seen.at_cursor == f"r{29 - seen.view.page:04d}"
    seen.press("home")
    assert seen.at_cursor == "r0008"
    seen.press("up")
    assert seen.at_cursor == "r0008"


def test_the_cursor_stays_with_its_router_in_another_order() -> None:
    seen = Seen()
    seen.press("down", "down", "s")
    assert seen.view.sort == "router"
    assert seen.at_cursor == "r0003"
    seen.press("r")
    assert seen.at_cursor == "r0003"


def test_enter_opens_a_router_and_escape_goes_back() -> None:
    seen = Seen(height=40)
    shown = seen.press("down", "down", "enter")
    assert seen.view.mode == DETAIL
    assert "r0003  failed over  lte ← wan" in shown
    assert "uplink.failover" in shown
    assert "no carrier on eth1" in shown
    assert "GL-MT3000" in shown
    seen.press("escape")
    assert (seen.view.mode, seen.at_cursor) == (TABLE, "r0003")


def test_a_long_time_line_scrolls_and_stops_at_its_end() -> None:
    seen = Seen(height=8)
    seen.press("down", "down", "down", "enter")
    first = seen.draw()
    seen.press("pagedown")
    assert seen.draw() != first
    last = seen.press("end")
    assert seen.press("down") == last
    assert seen.press("home") == first


def test_a_filter_is_typed_kept_and_cleared() -> None:
    seen = Seen()
    shown = seen.press("/", "f", "a", "i", "x", "backspace", "l")
    assert "/fail" in shown
    assert "1 of 30 routers" in shown
    shown = seen.press("enter")
    assert "filter: fail" in shown
    assert "30 routers" in seen.press("escape").splitlines()[0]
    assert "no router fits the filter" in seen.press("/", "q", "q", "q")


def test_q_leaves_the_table_but_is_a_letter_in_a_filter() -> None:
    seen = Seen()
    assert seen.view.press("enter")
    assert seen.view.press("q")  # out of the details
    assert seen.view.press("/")
    assert seen.view.press("q")
    assert seen.view.press("escape")
    assert not seen.view.press("q")


def test_a_router_that_is_not_known_yet_is_waited_for() -> None:
    fleet = Fleet("wgrouter")
    view = View(fleet, "b", mode=DETAIL, selected="r0003")
    lines, _ = view.lines(T, str, lambda: 1.0, 80, 20)
    assert text(lines[0]) == "nothing is heard of r0003 yet"
    assert view.press("escape")
    assert view.mode == TABLE


def test_what_the_broker_does_not_let_us_read_is_said() -> None:
    fleet = told(2)
    fleet.denied("does not let us read all that we ask for: see its access list")
    lines = table.banner(fleet, T, "b", table.rows(fleet, T), 2)
    assert text(lines[1]) == "the broker does not let us read all that we ask for: see its access list"


def test_help_names_every_status_that_needs_explaining() -> None:
    seen = Seen(height=40)
    shown = seen.press("?")
    assert seen.view.mode == HELP
    for word in ("site lost", "broker path lost", "offline", "silent", "stopped", "failed over"):
        assert word in shown


def test_a_storm_of_messages_rebuilds_the_table_now_and_then_only() -> None:
    fleet = told(3)
    view = View(fleet, "b")
    ticks = iter(n * 0.01 for n in range(1000))
    built = set()
    for _ in range(50):
        fleet.revision += 1
        view.lines(T, str, lambda: next(ticks), 80, 20)
        built.add(view._built_at)
    assert 3 <= len(built) <= 10


NAMED = "up down pageup pagedown home end enter escape backspace left KEY_F(1) KEY_RESIZE KEY_MOUSE"
KEYS = st.sampled_from([*NAMED.split(), *"/sSr?qxé"])


@settings(max_examples=60)
@given(st.lists(KEYS, max_size=40), st.integers(1, 200), st.integers(1, 50))
def test_any_keys_in_any_window_draw_something_that_fits(keys: list[str], columns: int, height: int) -> None:
    view = View(FLEET, "mqtt://b:1883")
    ticks = 0.0
    for key in keys:
        view.press(key)
        ticks += 1.0
        lines, cursor = view.lines(T, str, lambda: ticks, columns, height)  # noqa: B023
        assert len(lines) <= height
        assert -1 <= cursor < max(len(lines), 1)
        assert all(piece.isprintable() for line in lines for piece, _ in line)
