"""`wgrouter fleet watch` and `wgrouter fleet send`: the command line, and what joins the parts.

What the user got wrong is one line on standard error. docs/fleet.md is the text for operators.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from wgrouter import render
from wgrouter.fleet import link, messages, table
from wgrouter.fleet.link import Link, Unusable, Where
from wgrouter.fleet.messages import Birth, Response, Unreadable
from wgrouter.fleet.model import Fleet
from wgrouter.fleet.table import Line
from wgrouter.mqtt.topics import Topics

if TYPE_CHECKING:
    from wgrouter.fleet.command import Command

OK, NO, USAGE, UNREACHABLE = 0, 1, 2, 3
SETTLED = 0.5  # seconds without a message after which all retained ones are here
FIRST_LOOK = 3.0  # seconds that a watch waits for the broker before it shows an empty table
CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36", "head": "4",
         "alarm": "1;31"}  # fmt: skip

EPILOG = """options may stand in a file, one word a line: `wgrouter fleet watch @office`

exit status: 0 all is well, 1 the router said no, 2 the command line is wrong,
3 the broker or the router does not answer. More in docs/fleet.md."""


class Failure(Exception):
    """Ends the command: what to say, and the exit status."""

    def __init__(self, text: str, status: int = NO) -> None:
        super().__init__(text)
        self.status = status


def main(argv: Sequence[str]) -> int:
    """Run one command; the exit status."""
    try:
        options = _parser().parse_args(argv)
    except SystemExit as end:  # argparse has said why
        return int(end.code or 0)
    try:
        status: int = options.command(options)
        return status
    except Failure as failure:
        print(f"wgrouter fleet: {messages.clean(str(failure), 1000)}", file=sys.stderr)
        return failure.status
    except Unusable as error:
        print(f"wgrouter fleet: {messages.clean(str(error), 1000)}", file=sys.stderr)
        return USAGE


# ---------------------------------------------------------------- the command line


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    common = argparse.ArgumentParser(add_help=False, fromfile_prefix_chars="@")
    broker = common.add_argument_group("the broker")
    add = broker.add_argument
    usual = os.environ.get("WGROUTER_BROKER", "")
    add("--broker", metavar="URL", default=usual, help="mqtt(s)://HOST[:PORT] (else $WGROUTER_BROKER)")
    add("--prefix", default="wgrouter", help="of the routers' topics (wgrouter)")
    add("--user", metavar="NAME", default="", help="user name")
    add("--password-file", metavar="FILE", default="", help="its first line is the password; mode 600")
    add("--ca-file", metavar="FILE", default="", help="CA of the broker's certificate (the system's)")
    add("--cert-file", metavar="FILE", default="", help="our certificate")
    add("--key-file", metavar="FILE", default="", help="its key; mode 600")
    add("--server-name", metavar="NAME", default="", help="that the certificate must have (the host's)")
    add("--mqtt", choices=("auto", "5", "3.1.1"), default="auto", help="version (auto)")
    common.add_argument("--json", action="store_true", help="print JSON")

    parser = argparse.ArgumentParser(
        prog="wgrouter fleet",
        description="Watches and commands the routers of an MQTT broker. For an operator's machine: it needs "
        "paho-mqtt (1.6.1 or newer), and a terminal for the live table.",
        epilog=EPILOG,
        formatter_class=form,
        fromfile_prefix_chars="@",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add_command(
        name: str, words: str, run: Callable[[argparse.Namespace], int]
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=words, description=words, epilog=EPILOG, parents=[common],
                                  formatter_class=form, fromfile_prefix_chars="@")  # fmt: skip
        sub.set_defaults(command=run)
        return sub

    watch = add_command("watch", "a live table of all routers", _watch)
    watch.add_argument("id", nargs="?", default="", metavar="ID", help="only this one, with its time line")
    watch.add_argument("--once", action="store_true", help="print what is known, and end")
    watch.add_argument("--sort", choices=table.SORTS, default="status", help="the table's order (status)")
    watch.add_argument("--reverse", action="store_true", help="the other way round")
    watch.add_argument("--filter", metavar="WORDS", default="", help="words to be there; !word: not there")
    watch.add_argument(
        "--wait", type=float, default=10.0, metavar="SECONDS", help="with --once, at most (10)"
    )
    send = add_command("send", "ask one router, and wait for the answer", _send)
    send.add_argument("id", metavar="ID")
    send.add_argument(
        "verb", metavar="VERB", help="refresh reresolve switch explain diagnose report reload set"
    )
    send.add_argument("words", nargs="*", metavar="ARGUMENT", help="by place, or as name=value")
    send.add_argument(
        "--wait", type=float, default=0.0, metavar="SECONDS", help="for the answer (30; set: 120)"
    )
    send.add_argument(
        "--command-key-file", metavar="FILE", default="", help="key of signed commands; mode 600"
    )
    return parser


def _where(options: argparse.Namespace) -> Where:
    if not options.broker:
        raise Failure("which broker? --broker mqtts://HOST, or WGROUTER_BROKER", USAGE)
    return link.where(
        options.broker,
        protocol=options.mqtt,
        username=options.user,
        password_file=options.password_file,
        ca_file=options.ca_file,
        cert_file=options.cert_file,
        key_file=options.key_file,
        server_name=options.server_name,
    )


# ---------------------------------------------------------------- watch


class Ears:
    """Hears the broker for a fleet, on the link's thread; `lock` is held while the fleet changes."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.lock = threading.Lock()
        self.final = ""
        self.is_ready = False
        self.heard_at = time.monotonic()

    def connected(self, resumed: bool) -> None:
        with self.lock:
            self.fleet.connected(time.time(), resumed)

    def disconnected(self, why: str, final: bool) -> None:
        with self.lock:
            first = not self.fleet.routers and not self.is_ready
            self.fleet.disconnected(time.time(), why)
        if final and first:
            self.final = why

    def ready(self) -> None:
        self.is_ready = True
        self.heard_at = time.monotonic()

    def message(self, topic: str, payload: bytes, retained: bool) -> None:
        with self.lock:
            self.fleet.hear(topic, payload, retained, time.time())
        self.heard_at = time.monotonic()

    def published(self, refused: str) -> None:
        """We publish nothing."""

    def denied(self, why: str) -> None:
        with self.lock:
            self.fleet.denied(why)

    @property
    def settled(self) -> bool:
        return self.is_ready and time.monotonic() - self.heard_at > SETTLED


def filters(prefix: str) -> list[tuple[str, int]]:
    """What a watch subscribes to. Only events are worth QoS 1: retained ones are told again."""
    below = ("availability", "birth", "state", "wan/+", "tunnel/+/+")
    return [(f"{prefix}/+/event", 1), *((f"{prefix}/+/{rest}", 0) for rest in below)]


def _watch(options: argparse.Namespace) -> int:
    place = _where(options)
    if options.json and not options.once:
        raise Failure("--json goes with --once", USAGE)
    if not options.once:
        from wgrouter.fleet import screen

        try:
            screen.check()
        except screen.NoTerminal as error:
            raise Failure(str(error), USAGE) from None
    ears = Ears(Fleet(options.prefix))
    connection = Link(place, filters(options.prefix), ears, keep=not options.once)
    connection.start()
    try:
        limit = options.wait if options.once else FIRST_LOOK
        _until(lambda: ears.settled or bool(ears.final), limit)
        if ears.final:
            raise Failure(f"{place.url} {ears.final}", UNREACHABLE)
        if options.once:
            return _once(options, ears, place)
        return _live(options, ears, place)
    finally:
        connection.stop()


def _until(condition: Callable[[], bool], within: float) -> bool:
    deadline = time.monotonic() + within
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def _live(options: argparse.Namespace, ears: Ears, place: Where) -> int:
    from wgrouter.fleet import screen
    from wgrouter.fleet.view import DETAIL, View

    view = View(ears.fleet, place.url, sort=options.sort, reverse=options.reverse, sought=options.filter)
    if options.id:
        view.selected, view.mode = options.id, DETAIL

    ticked = time.monotonic()

    def ended() -> str:
        nonlocal ticked
        if time.monotonic() - ticked >= 1.0:
            ticked = time.monotonic()
            with ears.lock:
                ears.fleet.tick(time.time())
        return ears.final

    why = screen.run(view, ears.lock, ended)
    if why:
        raise Failure(f"{place.url} {why}", UNREACHABLE)
    return OK


def _once(options: argparse.Namespace, ears: Ears, place: Where) -> int:
    now = time.time()
    with ears.lock:
        fleet = ears.fleet
        if not ears.is_ready:
            raise Failure(f"{place.url} {fleet.link_why}", UNREACHABLE)
        found = table.rows(fleet, now, options.sort, options.reverse, options.filter)
        if options.id:
            found = [row for row in found if row.router.id == options.id]
        if options.json:
            rows = [table.data(row, now) for row in found]
            out = {"broker": place.url, "prefix": fleet.prefix, "time": round(now, 3), "routers": rows}
            print(json.dumps(out, indent=2, ensure_ascii=False))
        else:
            total = min(shutil.get_terminal_size((120, 25)).columns, 200)
            lines = _printed(options, fleet, found, now, place, total)
            colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
            for line in lines:
                print(_text(line, total, colour))
    if options.id and not found:
        raise Failure(f"no router is called {options.id!r}{_near(options.id, fleet.routers)}")
    return OK


def _printed(
    options: argparse.Namespace, fleet: Fleet, found: list[table.Row], now: float, place: Where, total: int
) -> list[Line]:
    def clock(at: float) -> str:
        return time.strftime("%m-%d %H:%M:%S", time.localtime(at))

    if options.id:
        return [line for row in found for line in table.detail(fleet, row.router, now, clock, total)]
    columns = table.widths(found, total)
    above = table.banner(fleet, now, place.url, found, len(fleet.routers))
    lines = [*above, table.head(columns, options.sort), *(table.line(row, columns, now) for row in found)]
    if not found:
        nobody = f"nothing below {fleet.prefix}/: another --prefix, or no right to read it?"
        lines.append((("no router fits the filter" if fleet.routers else nobody, "dim"),))
    return lines


def _text(line: Line, total: int, colour: bool) -> str:
    room, out = total, ""
    for text, style in line:
        text = table.cut(text, room)
        room -= table.width(text)
        out += f"\033[{CODES[style]}m{text}\033[0m" if colour and style and text else text
    return out.rstrip()


def _near(name: str, known: Sequence[str] | dict[str, Any]) -> str:
    near = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else f"; {len(known)} others are known"


# ---------------------------------------------------------------- send


class Asking:
    """Hears what one command needs: who there is, what the router can do, and its answer."""

    def __init__(self, prefix: str, order: Command) -> None:
        self.order = order
        self.known: dict[str, bool] = {}
        self.birth: Birth | None = None
        self.response: Response | None = None
        self.is_ready = False
        self.up = False
        self.why = "does not answer"
        self.final = False
        self.refused: str | None = None
        self.why_not = ""
        self.heard_at = 0.0
        self._prefix = prefix

    @property
    def settled(self) -> bool:
        return self.is_ready and time.monotonic() - self.heard_at > SETTLED

    def connected(self, resumed: bool) -> None:
        self.up = True

    def disconnected(self, why: str, final: bool) -> None:
        self.up, self.why, self.final = False, why, final

    def ready(self) -> None:
        self.is_ready, self.heard_at = True, time.monotonic()

    def published(self, refused: str) -> None:
        self.refused = refused

    def denied(self, why: str) -> None:
        self.why_not = why

    def message(self, topic: str, payload: bytes, retained: bool) -> None:
        self.heard_at = time.monotonic()
        name = topic.removeprefix(f"{self._prefix}/").rpartition("/")
        try:
            if name[2] == "availability" and "/" not in name[0]:
                self.known[name[0]] = messages.online(payload)
            elif topic == self.order.topics.birth:
                self.birth = messages.birth(payload)
        except Unreadable:
            return
        if not retained:
            self.response = self.order.answer(topic, payload) or self.response


def _send(options: argparse.Namespace) -> int:
    from wgrouter.fleet import command  # with it comes half of the agent

    place = _where(options)
    try:
        given = command.arguments(options.verb, options.words)
    except command.Wrong as error:
        raise Failure(str(error), USAGE) from None
    if not options.id or set(options.id) & set("+#\0 ") or not options.id.isprintable():
        raise Failure(f"{options.id!r} is no router's id", USAGE)
    key = link.secret(options.command_key_file).encode("utf-8", "surrogateescape") if (
        options.command_key_file) else b""  # fmt: skip
    wait = options.wait if options.wait > 0 else 120.0 if options.verb == "set" else 30.0
    topics = Topics(options.prefix, options.id)
    order = command.Command(topics, options.verb, given, secrets.token_hex(8), time.time(), min(wait, 60.0))
    asking = Asking(options.prefix, order)
    wanted = [(topic, 1) for topic in order.answer_topics]
    wanted += [(topics.birth, 0), (f"{options.prefix}/+/availability", 0)]
    connection = Link(place, wanted, asking, keep=False)
    connection.start()
    try:
        _until(lambda: asking.settled or asking.final, 10.0)
        if not asking.is_ready:
            raise Failure(f"{place.url} {asking.why}", UNREACHABLE)
        reason = command.obstacle(asking.birth, options.verb, bool(key))
        if reason:
            raise Failure(f"{options.id}: {reason}")
        if asking.known and asking.birth is None and options.id not in asking.known:
            raise Failure(f"no router is called {options.id!r}{_near(options.id, asking.known)}")
        if asking.known.get(options.id) is False:
            print(
                f"{options.id} is offline; the broker may keep the command while it counts", file=sys.stderr
            )
        connection.ask(
            link.Request(
                order.topic, order.payload(key), order.reply_topic, order.id.encode(), int(order.life) or 1
            )
        )
        _until(lambda: asking.response is not None or bool(asking.refused), wait)
        return _answered(options, asking, wait, place)
    finally:
        connection.stop()


def _answered(options: argparse.Namespace, asking: Asking, wait: float, place: Where) -> int:
    response = asking.response
    if response is None:
        if asking.refused:
            raise Failure(f"{options.id} did not get it: the broker says {asking.refused}", UNREACHABLE)
        if not asking.up:
            raise Failure(f"{place.url} {asking.why}: whether {options.id} got it is not known", UNREACHABLE)
        text = f"{options.id} does not answer within {wait:g} s; it may still have carried it out"
        text += f" (the broker {asking.why_not})" if asking.why_not else ""
        raise Failure(text, UNREACHABLE)
    if options.json:
        out: dict[str, Any] = {"id": options.id, "verb": options.verb, "ok": response.ok}
        out |= {"result": response.result} if response.ok else {
            "error": {"code": response.code, "text": response.text}}  # fmt: skip
        print(json.dumps(out, indent=2))
        return OK if response.ok else NO
    if not response.ok:
        raise Failure(f"{options.id} says no: {response.text} ({response.code})")
    paper = render.Paper(min(shutil.get_terminal_size((render.WIDTH, 25)).columns, 120))
    draws: dict[str, Callable[[Any, render.Paper], None]]
    draws = {"explain": render.explain, "report": render.status}
    try:
        draws.get(options.verb, render.anything)(response.result, paper)
    except (TypeError, ValueError, AttributeError, LookupError):  # of another version, or not from a router
        paper = render.Paper()
        render.anything(response.result, paper)
    for line in paper.lines:
        print(line)
    return OK
