"""The terminal of `wgrouter fleet watch`, by curses: paints lines, names keys, and leaves it as it was.

Decides nothing about routers. What is painted was cleaned in messages.py; curses itself sends only what
changed since the last picture.
"""

from __future__ import annotations

import curses
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any

from wgrouter.fleet import table
from wgrouter.fleet.table import Line
from wgrouter.fleet.view import View

TICK = 0.05  # seconds between looks for news
ESCAPE = 27
_COLOURS = {"red": 1, "green": 2, "yellow": 3, "cyan": 4}
_KEYS = {
    "KEY_UP": "up",
    "KEY_DOWN": "down",
    "KEY_LEFT": "left",
    "KEY_PPAGE": "pageup",
    "KEY_NPAGE": "pagedown",
    "KEY_HOME": "home",
    "KEY_END": "end",
    "KEY_ENTER": "enter",
    "KEY_BACKSPACE": "backspace",
    "\n": "enter",
    "\r": "enter",
    "\x7f": "backspace",
    "\b": "backspace",
    "\x1b": "escape",
    "\x03": "quit",
}


class NoTerminal(Exception):
    """There is none, or none that curses knows: what to do instead."""


def check() -> None:
    """NoTerminal where the screen cannot be used."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise NoTerminal("standard input and output are no terminal: `fleet watch --once` prints the table")
    term = os.environ.get("TERM", "")
    try:
        curses.setupterm(fd=sys.stdout.fileno())
        usable = curses.tigetstr("cup") is not None
    except curses.error:
        usable = False
    if not usable:
        raise NoTerminal(f"the terminal {term!r} is not known here: try TERM=xterm-256color, or --once")


def run(view: View, lock: AbstractContextManager[Any], ended: Callable[[], str]) -> str:
    """Show it until the user has seen enough; what to say afterwards. `ended` tells why it must end."""

    def stop(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    os.environ.setdefault("ESCDELAY", "25")
    try:
        return curses.wrapper(_loop, view, lock, ended)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _loop(
    window: curses.window, view: View, lock: AbstractContextManager[Any], ended: Callable[[], str]
) -> str:
    window.nodelay(True)
    window.keypad(True)
    try:
        curses.curs_set(0)
    except curses.error:
        pass  # a terminal whose cursor cannot be hidden
    styles = _styles()
    painted, dirty = 0.0, True
    while True:
        why = ended()
        if why:
            return why
        now = time.time()
        if dirty or (view.stale(now) and time.monotonic() - painted >= TICK):
            _paint(window, view, lock, styles)
            painted, dirty = time.monotonic(), False
        readable, _, _ = select.select([sys.stdin], [], [], TICK)
        while True:
            try:
                key = window.get_wch()
            except curses.error:
                if readable and not dirty:
                    return ""  # readable and nothing to read: the terminal is gone
                break
            dirty = True
            if not view.press(_name(key)):
                return ""


def _name(key: int | str) -> str:
    if isinstance(key, int):
        name = curses.keyname(key).decode("ascii", "replace")
        return _KEYS.get(name, name if len(name) > 1 else "?")
    return _KEYS.get(key, key)


def _styles() -> dict[str, int]:
    styles = {
        "bold": curses.A_BOLD,
        "dim": curses.A_DIM,
        "head": curses.A_UNDERLINE,
        "alarm": curses.A_REVERSE | curses.A_BOLD,
    }
    if curses.has_colors() and not os.environ.get("NO_COLOR"):
        curses.start_color()
        curses.use_default_colors()
        for style, number in _COLOURS.items():
            curses.init_pair(number, getattr(curses, f"COLOR_{style.upper()}"), -1)
            styles[style] = curses.color_pair(number)
        styles["alarm"] |= styles["red"]
    return styles


def _clock(at: float) -> str:
    return time.strftime("%m-%d %H:%M:%S", time.localtime(at))


def _paint(
    window: curses.window, view: View, lock: AbstractContextManager[Any], styles: dict[str, int]
) -> None:
    height, width = window.getmaxyx()
    with lock:
        lines, cursor = view.lines(time.time(), _clock, time.monotonic, width, height)
    window.erase()
    for y, pieces in enumerate(lines[:height]):
        _put(window, y, width, pieces, styles, curses.A_REVERSE if y == cursor else 0)
    window.refresh()


def _put(window: curses.window, y: int, width: int, pieces: Line, styles: dict[str, int], more: int) -> None:
    x = 0
    for text, style in pieces:
        text = table.cut(text, width - x)
        if text:
            try:
                window.addstr(y, x, text, styles.get(style, 0) | more)
            except curses.error:
                pass  # the last place of the last line: written, and the cursor has nowhere to go
            x += table.width(text)
    if more and x < width:
        try:
            window.addstr(y, x, " " * (width - x), more)
        except curses.error:
            pass
