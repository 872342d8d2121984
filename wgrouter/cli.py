"""The `wgrouter` command: reads the command line, asks the running agent, prints what it says.

Imports no port, and the daemon only to run it (or to plan without a running agent): a router must answer
`wgrouter status` at once. What the user got wrong is one line on standard error, never a traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping

from wgrouter import __version__, client, render

TYPE_CHECKING = False  # not typing's, whose import takes long
if TYPE_CHECKING:
    from typing import Any, NoReturn

OK = 0
PROBLEMS = 1  # problems found, or differences in a replay
USAGE = 2
NO_AGENT = 3

EPILOG = """exit status: 0 all is well, 1 problems or differences found, or the agent said
no, 2 the command line is wrong, 3 no agent is running or it cannot be reached"""

NOT_UNDERSTOOD = "the agent's answer is not understood: is it of another version?"
FOLLOW_EVERY = 0.5  # seconds between questions of `journal --follow`
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Failure(Exception):
    """Ends the command: what to say, and the exit status."""

    def __init__(self, text: str, status: int = PROBLEMS) -> None:
        super().__init__(text)
        self.status = status


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit status."""
    try:
        options = _parser().parse_args(argv)
    except SystemExit as end:  # argparse has said why
        return int(end.code or 0)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a console that knows ASCII only
    try:
        status: int = options.command(options)
        _print()
        return status
    except Failure as failure:
        return _complain(str(failure), failure.status)
    except client.NoAgent as error:
        return _complain(str(error), NO_AGENT)
    except client.Refused as error:
        return _complain(str(error), PROBLEMS)
    except BrokenPipeError:  # `wgrouter journal | head`: the reader has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        return 130


def _complain(text: str, status: int) -> int:
    print(f"wgrouter: {render.plain(text)}", file=sys.stderr)
    return status


# ---------------------------------------------------------------- the command line


class _Help(argparse.RawDescriptionHelpFormatter):
    """As wide as render.py's text. argparse would ask shutil for the width at every option, and import it."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=render.WIDTH)


class _Parser(argparse.ArgumentParser):
    """argparse, with the nearest known word for one that is wrong."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("argument COMMAND: invalid choice"):
            from difflib import get_close_matches

            word = message.partition("invalid choice: '")[2].partition("'")[0]
            near = get_close_matches(word, COMMANDS, 1)
            message = f"'{word}' is no command; " + (
                f"did you mean '{near[0]}'?" if near else f"there are {', '.join(COMMANDS)}"
            )
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}\n")


def _parser() -> _Parser:
    common = _Parser(add_help=False, argument_default=argparse.SUPPRESS, formatter_class=_Help)
    common.add_argument("--json", action="store_true", help="print JSON")
    common.add_argument("--root", metavar="DIR", type=os.path.abspath, help="another root than /")
    common.add_argument("--confdir", metavar="DIR", help="where wgrouter and network lie (ROOT/etc/config)")
    common.add_argument(
        "--socket", metavar="FILE", help="the agent's socket (ROOT/var/run/wgrouter/control.sock)"
    )

    parser = _Parser(
        prog="wgrouter",
        description="Keeps a router connected: WireGuard tunnels to moving names, several WANs.",
        epilog=EPILOG,
        formatter_class=_Help,
        parents=[common],
    )
    parser.add_argument("--version", action="version", version=f"wgrouter {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    for name, (command, words, describe) in COMMANDS.items():
        sub = commands.add_parser(
            name, help=words, description=words, parents=[common], formatter_class=_Help
        )
        describe(sub)
        sub.set_defaults(command=command)
    return parser


def _no_arguments(parser: argparse.ArgumentParser) -> None:
    """This command has none of its own."""


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--journal", metavar="FILE", help="also write each step to this file, without bound")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"))


def _explain_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "subject", nargs="?", default="", help="tunnel, tunnel/peer, WAN or name; without: all"
    )


def _journal_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-n", dest="count", type=_count, default=50, metavar="N", help="the last N steps (50)"
    )
    parser.add_argument("-a", "--all", dest="every", action="store_true", help="also steps that only looked")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until interrupted")


def _replay_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", metavar="FILE", help="JSON lines, as `journal --json` prints them; - for input"
    )


def _switch_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("wan", metavar="WAN|auto", help="the WAN to use, or auto to let the agent choose")
    parser.add_argument(
        "--for", dest="seconds", type=_seconds, default=0.0, metavar="TIME", help="30s, 10m, 2h"
    )


def _fleet_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "wgrouter fleet watch|send …"
    parser.description = (
        "Watches and commands all routers of an MQTT broker. For an operator's machine,\n"
        "where this repository and paho-mqtt are (apt install python3-paho-mqtt): it is\n"
        "in no package for routers. See `wgrouter fleet watch --help`, `wgrouter fleet\n"
        "send --help` and docs/fleet.md."
    )
    parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:9]) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number from 1 to 1000000")
    return int(text)


def _seconds(text: str) -> float:
    """A span like 90, 30s, 10m, 1h30m, 2d in seconds."""
    total, digits = 0.0, ""
    for character in text + ("" if text[-1:] in UNITS else "s"):
        if character.isascii() and character.isdigit() and len(digits) < 9:
            digits += character
        elif digits and character in UNITS:
            total, digits = total + int(digits) * UNITS[character], ""
        else:
            total = 0.0
            break
    if not total:
        raise argparse.ArgumentTypeError(f"'{text}' is no time; accepted: 90s, 10m, 1h30m, 2d")
    return total


# ---------------------------------------------------------------- output


def _root(options: argparse.Namespace) -> str:
    return str(getattr(options, "root", "/"))


def _confdir(options: argparse.Namespace) -> str | None:
    """The directory asked for; None: the loader looks where libuci does."""
    return getattr(options, "confdir", None)


def _place(options: argparse.Namespace) -> str:
    """What to call the configuration. Failure where there is none at all."""
    asked = _confdir(options)
    place = asked or os.path.join(_root(options), "etc/config")
    if not os.path.isdir(place) and (asked or not os.path.isdir(os.path.join(_root(options), "var/run/uci"))):
        raise Failure(f"{place} is no directory")
    return place


def _socket(options: argparse.Namespace) -> str:
    return str(getattr(options, "socket", None) or client.path_below(_root(options)))


def _ask(options: argparse.Namespace, verb: str, **arguments: Any) -> Any:
    return client.ask(_socket(options), verb, arguments)


def _paper() -> render.Paper:
    """As wide as the terminal; colours on a terminal only, and not with NO_COLOR (no-color.org)."""
    terminal = sys.stdout.isatty()
    width = render.WIDTH
    if terminal:
        try:
            width = os.get_terminal_size(sys.stdout.fileno()).columns or width
        except OSError:
            pass
    colour = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
    return render.Paper(min(width, 120), colour)


def _show(options: argparse.Namespace, data: Any, draw: Callable[[Any, render.Paper], None]) -> None:
    """Print data as JSON where asked, else drawn for people."""
    if getattr(options, "json", False):
        _print(json.dumps(data, indent=2, ensure_ascii=False))
        return
    paper = _paper()
    draw(data, paper)
    _print(*paper.lines)


def _print(*lines: str) -> None:
    """Write lines and be sure that they are written."""
    try:
        for line in lines:
            print(line)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Failure(f"standard output: {error.strerror or error}") from None


def _clock(wall: float) -> str:
    return time.strftime("%m-%d %H:%M:%S", time.localtime(wall))


# ---------------------------------------------------------------- the commands


def _run(options: argparse.Namespace) -> int:
    import wgrouter.daemon as daemon

    status: int = daemon.run(
        _root(options),
        _confdir(options),
        socket=_socket(options),
        journal=options.journal,
        log_level=options.log_level,
    )
    return status


def _check(options: argparse.Namespace) -> int:
    from wgrouter.config import load

    place = _place(options)
    loaded = load.read(_root(options), _confdir(options))
    found = [_as_data(problem) for problem in loaded.problems]

    def draw(data: Any, paper: render.Paper) -> None:
        if found:
            render.problems(found, paper, f"{len(found)} problem{'s' * (len(found) > 1)} in {place}")
        else:
            paper.wrapped(f"{place}: no problems", style="green")

    _show(options, {"confdir": place, "problems": found}, draw)
    # A router without a network file has no tunnels, which is said; but no file says what it does not mean.
    return PROBLEMS if any(one["line"] or one["severity"] != "warning" for one in found) else OK


def _plan(options: argparse.Namespace) -> int:
    try:
        data = _ask(options, "plan")
    except client.NoAgent:
        try:
            _place(options)
        except Failure as failure:
            raise Failure(f"no agent is running, and there is nothing to plan from: {failure}") from None
        import wgrouter.daemon as daemon

        data = daemon.plan_once(_root(options), _confdir(options))
    _show(options, _object(data), render.plan)
    return OK


def _status(options: argparse.Namespace) -> int:
    _show(options, _object(_ask(options, "status")), render.status)
    return OK


def _explain(options: argparse.Namespace) -> int:
    data = _ask(options, "explain", subject=options.subject)
    if not data:
        raise Failure(f"nothing is known of '{options.subject}'" if options.subject else "nothing to explain")
    if not isinstance(data, list):
        raise Failure(NOT_UNDERSTOOD)
    _show(options, data, render.explain)
    return OK


def _journal(options: argparse.Namespace) -> int:
    if getattr(options, "json", False):
        _print(*map(str, _part(_ask(options, "dump"), "lines", list)))
        return OK
    last = _journal_once(options, options.count, 0)
    while options.follow:
        try:
            time.sleep(FOLLOW_EVERY)
        except KeyboardInterrupt:
            return OK
        last = _journal_once(options, 1_000_000, last)
    return OK


def _journal_once(options: argparse.Namespace, count: int, after: int) -> int:
    """Print what is newer than step `after`; the number of the last step there is."""
    data = _ask(options, "journal", count=count, after=after, every=options.every)
    last: int = _part(data, "last", int)
    if last < after:  # the agent has been started anew, and counts from 1 again
        return 0
    paper = _paper()
    render.entries(_part(data, "entries", list), paper, _clock, options.every)
    _print(*paper.lines)
    return last


def _part(data: Any, name: str, kind: type) -> Any:
    """A part of an answer, if it is what this version expects."""
    if not isinstance(data, Mapping) or not isinstance(data.get(name), kind):
        raise Failure(NOT_UNDERSTOOD)
    return data[name]


def _object(data: Any) -> Any:
    if not isinstance(data, Mapping):
        raise Failure(NOT_UNDERSTOOD)
    return data


def _replay(options: argparse.Namespace) -> int:
    try:
        from wgrouter import replaying
    except ImportError:  # not in the package: flash is scarce, and another machine has the source at hand
        reason = "take the journal (`wgrouter journal --json`) to a machine that has the source"
        raise Failure(f"nothing is replayed on a router: {reason}") from None
    try:
        data = replaying.replayed(options.file, _as_data)
    except (OSError, ValueError) as error:
        raise Failure(f"{options.file}: {getattr(error, 'strerror', None) or error}") from None
    _show(options, data, replaying.draw)
    return PROBLEMS if data["differences"] else OK


def _switch(options: argparse.Namespace) -> int:
    _show(options, _ask(options, "switch", wan=options.wan, seconds=options.seconds), render.anything)
    return OK


def _refresh(options: argparse.Namespace) -> int:
    _show(options, _ask(options, "refresh"), render.anything)
    return OK


def _reload(options: argparse.Namespace) -> int:
    data = _object(_ask(options, "reload"))

    def draw(_: Any, paper: render.Paper) -> None:
        items = data.get("problems")
        paper.put("The new settings are in force." if data.get("taken", True) else "The old settings stay.")
        render.problems(items if isinstance(items, list) else [], paper)

    _show(options, data, draw)
    return OK if data.get("taken", True) else PROBLEMS


def _diagnose(options: argparse.Namespace) -> int:
    data = _ask(options, "diagnose", subject=options.subject)
    if not isinstance(data, list):
        raise Failure(NOT_UNDERSTOOD)

    def draw(_: Any, paper: render.Paper) -> None:
        for one in data:
            paper.heading(str(one["subject"]))
            for step in one["steps"]:
                mark = {True: "ok", False: "FAILS"}.get(step["ok"], "-")
                style = {True: "green", False: "red"}.get(step["ok"], "dim")
                paper.wrapped(f"{mark} {step['step']}: {step['text']}", 2, style)

    _show(options, data, draw)
    return PROBLEMS if any(one["broken"] for one in data) else OK


def _metrics(options: argparse.Namespace) -> int:
    try:
        from wgrouter.mqtt import metrics
    except ModuleNotFoundError:
        raise Failure("metrics is part of the package wgrouter-mqtt, which is not installed") from None
    status = _object(_ask(options, "status"))
    _print(json.dumps(status) if getattr(options, "json", False) else metrics.render(status, time.time()))
    return OK


def _fleet(options: argparse.Namespace) -> int:
    try:
        from wgrouter.fleet.main import main as fleet
    except ModuleNotFoundError:
        raise Failure("fleet is for an operator's machine: it is in no package for routers") from None
    asked = ["--json"] if getattr(options, "json", False) else []
    return fleet([*options.words, *asked])


def _as_data(value: Any) -> dict[str, Any]:
    """The fields of a small record as JSON-ready data."""
    from enum import Enum

    from wgrouter.core.records import fields

    return {
        field.name: item
        if isinstance(item, (int, float, str, type(None)))
        else item.value
        if isinstance(item, Enum)
        else str(item)
        for field in fields(value)
        for item in [getattr(value, field.name)]
    }


Describe = Callable[[argparse.ArgumentParser], None]
COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], int], str, Describe]] = {
    "run": (_run, "run the agent in the foreground (procd does)", _run_arguments),
    "check": (_check, "look for problems in the configuration; exit status 1 if any", _no_arguments),
    "plan": (_plan, "show what would be done now; nothing is touched", _no_arguments),
    "status": (_status, "show WANs, tunnels and names", _no_arguments),
    "explain": (_explain, "say why something is as it is, and what comes next", _explain_arguments),
    "journal": (
        _journal,
        "show what happened; with --json, in the form that replay reads",
        _journal_arguments,
    ),
    "replay": (_replay, "feed a journal to a fresh engine: does it decide the same?", _replay_arguments),
    "switch": (_switch, "choose a WAN by hand", _switch_arguments),
    "refresh": (_refresh, "look at everything and resolve every name now", _no_arguments),
    "reload": (_reload, "read the configuration again", _no_arguments),
    "diagnose": (_diagnose, "walk a tunnel from the WAN to the MTU", _explain_arguments),
    "metrics": (_metrics, "print the figures for Prometheus", _no_arguments),
    "fleet": (_fleet, "watch and command many routers, from an operator's machine", _fleet_arguments),
}
