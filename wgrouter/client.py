"""Asks a running agent at its unix socket: what every command of the command line but `run` and `check` does.

Imports as little as a question needs, for a router's CPU. The agent's half, with the protocol, is
ports/control.py. What the command line asks, and what it draws of the answer (--json prints all of it):

    status                       → the object of core/report.py
    explain {subject}            → a list of explanations; without a subject of everything
    plan                         → {effects: [text], findings: […], problems: […]}
    journal {count, after, every} → {entries: Journal.tail(…), last: number of the last step}
    dump                         → {lines: Journal.lines()}
    switch {wan, seconds}        → {text} or anything; wan "auto" lets the agent choose, seconds 0 is for good
    refresh                      → {text} or anything
    reload                       → {taken: bool, problems: [text or the fields of a Problem]}
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Mapping

TYPE_CHECKING = False  # not typing's: importing it would cost more than this module
if TYPE_CHECKING:
    from typing import Any

PLACE = "var/run/wgrouter/control.sock"  # below the root
REPLY_MAX = 64 << 20  # bytes: a whole journal
RETRY = 0.05  # seconds between attempts to connect to a busy agent
SUN_PATH = 107  # bytes of a socket's path that connect takes (unix(7))


class NoAgent(Exception):
    """No agent could be asked: none runs, it is silent, or we may not talk to it. The text says which."""


class Refused(Exception):
    """The agent understood and said no; the text is its own."""


def path_below(root: str) -> str:
    """Where the agent of this root listens."""
    return os.path.join(root, PLACE)


def ask(path: str, verb: str, arguments: Mapping[str, Any] | None = None, timeout: float = 5.0) -> Any:
    """The agent's result. NoAgent if there is none to ask, Refused with its words if it says no.

    `timeout` is the longest silence in seconds, not the sum.
    """
    request = json.dumps({"verb": verb, "arguments": dict(arguments or {})}).encode() + b"\n"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            _connect(connection, path, timeout)
            try:
                connection.sendall(request)
            except BrokenPipeError:
                pass  # refused before it was read: the reason has been sent all the same
            line = _receive_line(connection)
    except (FileNotFoundError, NotADirectoryError):
        raise NoAgent(f"no agent is running ({path} is not there)") from None
    except ConnectionRefusedError:
        raise NoAgent(f"no agent is running (nobody listens at {path})") from None
    except PermissionError:
        raise NoAgent(f"{path} is for root only") from None
    except TimeoutError:
        raise NoAgent(f"the agent at {path} did not answer within {timeout:g} s") from None
    except OSError as error:
        raise NoAgent(f"the agent at {path} cannot be asked: {error.strerror or error}") from None
    try:
        reply = json.loads(line)
        if reply["ok"] is True:
            return reply["result"]
        reason = str(reply["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise NoAgent(f"what answers at {path} is no agent of this version") from None
    raise Refused(reason)


def _connect(connection: socket.socket, path: str, timeout: float) -> None:
    """Connect. A busy agent with a full queue is EAGAIN at once, whatever the time-out: try again."""
    for _ in range(max(int(timeout / RETRY), 1)):
        try:
            return _by_short_path(path, connection.connect)
        except BlockingIOError:
            time.sleep(RETRY)
    raise TimeoutError


def _receive_line(connection: socket.socket) -> bytes:
    parts: list[bytes] = []
    size = 0
    while size <= REPLY_MAX:
        part = connection.recv(1 << 16)
        parts.append(part)
        size += len(part)
        if not part or part.endswith(b"\n"):
            return b"".join(parts)
    raise OSError(f"its answer is larger than {REPLY_MAX} bytes")


def _by_short_path(path: str, use: Callable[[str], object]) -> None:
    """Call `use` with the path, or with a short name of it where a socket address has no room for it."""
    if len(os.fsencode(path)) <= SUN_PATH:
        use(path)
        return
    folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        use(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
    finally:
        os.close(folder)
