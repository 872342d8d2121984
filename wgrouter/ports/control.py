"""The agent's own door: a unix socket where `wgrouter status` and the others ask (client.py is who asks).

One JSON object a line in, one a line out: {"verb": "status", "arguments": {}} → {"ok": true, "result": …} or
{"ok": false, "error": "…"}. Root only: a directory of mode 0700, a socket of 0600, and the peer's user id is
checked. Knows no verb.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import stat
import struct
from collections.abc import Callable, Mapping
from typing import Any, Protocol

Callback = Callable[[], None]
Handler = Callable[[str, Mapping[str, Any]], Any]

REQUEST_MAX = 64 << 10  # bytes of one request
CLIENTS = 16
QUEUE = 64  # connections that wait to be accepted while a step is under way
IDLE = 10.0  # seconds a client may take to send a whole request, or to take in some of its reply
ACCEPT_PAUSE = 1.0  # seconds without accepting after the system had no descriptor left
SUN_PATH = 107  # bytes of a socket's path that bind and connect take (unix(7))
_UCRED = struct.Struct("iII")  # pid, uid, gid


class Loop(Protocol):
    """The part of the reactor that this port uses."""

    def now(self) -> float: ...

    def watch(self, fd: int, callback: Callback, *, write: bool = False) -> None: ...

    def unwatch(self, fd: int) -> None: ...

    def call_at(self, when: float, callback: Callback) -> Cancel: ...


class Cancel(Protocol):
    def cancel(self) -> None: ...


class Refused(Exception):
    """A handler raises it to say no; the text is for people."""


class Occupied(OSError):
    """The place of the socket cannot be ours: another agent has it, or something else lies there."""


class Control:
    """Listens at `path` between `open` and `close`.

    `handler(verb, arguments)` returns the result or raises Refused. Any other exception is told to the client
    and to `on_fault`: a question ends no agent.
    """

    def __init__(
        self,
        loop: Loop,
        path: str,
        handler: Handler,
        *,
        on_fault: Callable[[Exception], None] | None = None,
        allowed: Callable[[int], bool] | None = None,
    ) -> None:
        self._loop = loop
        self._path = path
        self._handler = handler
        self._on_fault = on_fault
        self._allowed = allowed or (lambda uid: uid in (0, os.geteuid()))
        self._listener: socket.socket | None = None
        self._lock = -1
        self._identity = (0, 0)
        self._clients: set[_Client] = set()

    def open(self) -> None:
        """Listen. Occupied if another agent does, other OSErrors as the system gives them."""
        folder = os.path.dirname(self._path)
        os.makedirs(os.path.dirname(folder) or ".", exist_ok=True)
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            os.chmod(folder, 0o700)
        self._lock = _lock(os.path.join(folder, "lock"))
        try:
            self._listener = self._bind()
        except BaseException:
            os.close(self._lock)
            self._lock = -1
            raise
        self._listen()

    def close(self) -> None:
        """Stop listening, drop the clients, and take the socket away if it is still ours."""
        listener, self._listener = self._listener, None
        for client in list(self._clients):
            client.close()
        if listener is not None:
            self._loop.unwatch(listener.fileno())
            listener.close()
            if _identity(self._path) == self._identity:
                os.unlink(self._path)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _bind(self) -> socket.socket:
        self._clear()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            _by_short_path(self._path, listener.bind)
            os.chmod(self._path, 0o600)
            self._identity = _identity(self._path)
            listener.listen(QUEUE)
        except BaseException:
            listener.close()
            raise
        return listener

    def _clear(self) -> None:
        """Make room at our path: a socket that nobody listens on is what a killed agent leaves."""
        try:
            if not stat.S_ISSOCK(os.lstat(self._path).st_mode):
                raise Occupied(f"{self._path} is there and is no socket: not touched")
        except FileNotFoundError:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            try:
                _by_short_path(self._path, probe.connect)
            except ConnectionRefusedError:
                os.unlink(self._path)
                return
            except OSError as error:  # BlockingIOError: it listens, and is busy
                raise Occupied(f"{self._path} is in use: {error.strerror or error}") from error
        raise Occupied(f"another agent answers at {self._path}")

    def _accept(self) -> None:
        while self._listener is not None and len(self._clients) < CLIENTS:
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:  # EMFILE, ENFILE, ENOMEM: the listener stays readable, so look away for a while
                self._loop.unwatch(self._listener.fileno())
                self._loop.call_at(self._loop.now() + ACCEPT_PAUSE, self._listen)
                return
            connection.setblocking(False)
            client = _Client(self, connection)
            self._clients.add(client)
            uid = _peer_uid(connection)
            if self._allowed(uid):
                client.begin()
            else:
                client.refuse(f"user id {uid} may not ask; root may")
        if self._listener is not None:  # as many as may be: the others wait until one of them goes
            self._loop.unwatch(self._listener.fileno())

    def _listen(self) -> None:
        if self._listener is not None:
            self._loop.watch(self._listener.fileno(), self._accept)

    def _gone(self, client: _Client) -> None:
        self._clients.discard(client)
        if len(self._clients) == CLIENTS - 1:
            self._listen()

    def _reply(self, line: bytes) -> bytes:
        """What is answered to one line, whatever it holds."""
        try:
            verb, arguments = parse(line)
            return _encoded({"ok": True, "result": self._handler(verb, arguments)})
        except Refused as error:
            return _encoded({"ok": False, "error": str(error)})
        except Exception as error:  # noqa: BLE001 — see the class: a question ends no agent
            if self._on_fault is not None:
                self._on_fault(error)
            return _encoded({"ok": False, "error": f"the agent's own fault: {type(error).__name__}: {error}"})


class _Client:
    """One connection: collects a line, answers it, and sends the answer before it reads on.

    One line a turn of the loop, however many came at once. It waits for more of a request or for room to
    send, never for both, so a client that does not read is not read from either.
    """

    def __init__(self, control: Control, connection: socket.socket) -> None:
        self._control = control
        self._loop = control._loop
        self._connection = connection
        self._fd = connection.fileno()
        self._received = b""
        self._to_send = memoryview(b"")
        self._ended = False  # nothing more will be read
        self._patience: Cancel | None = None

    def begin(self) -> None:
        """Wait for a request. The time is for all of it: a byte now and then does not prolong it."""
        self._limit_time()
        self._loop.watch(self._fd, self._readable)

    def refuse(self, reason: str) -> None:
        """Say why and hang up."""
        self._ended = True
        self._received = b""
        self._answer(_encoded({"ok": False, "error": reason}))

    def close(self) -> None:
        if self._fd < 0:
            return
        self._loop.unwatch(self._fd)
        self._fd = -1
        if self._patience is not None:
            self._patience.cancel()
        self._connection.close()
        self._control._gone(self)

    def _readable(self) -> None:
        try:
            data = self._connection.recv(REQUEST_MAX)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not data:
            self._ended = True
            if not self._received:
                self.close()
                return
            data = b"\n"  # a last line without its end
        self._received += data
        self._take_line()

    def _take_line(self) -> None:
        line, end, rest = self._received.partition(b"\n")
        if len(line) > REQUEST_MAX:
            self.refuse(f"a request of more than {REQUEST_MAX} bytes")
        elif end:
            self._received = rest
            self._answer(self._control._reply(line))

    def _answer(self, reply: bytes) -> None:
        self._to_send = memoryview(reply)
        self._limit_time()
        self._loop.watch(self._fd, self._sendable, write=True)
        self._sendable()

    def _sendable(self) -> None:
        if not self._to_send:  # a turn later: the next of several lines
            self.begin()
            self._take_line()
            return
        try:
            self._to_send = self._to_send[self._connection.send(self._to_send) :]
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if self._to_send:
            self._limit_time()
        elif self._received:
            pass  # still watched for writing: called again in the next turn
        elif self._ended:
            self.close()
        else:
            self.begin()

    def _limit_time(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._patience = self._loop.call_at(self._loop.now() + IDLE, self.close)


def parse(line: bytes) -> tuple[str, Mapping[str, Any]]:
    """Verb and arguments of one request. Refused for anything else."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Refused(f"a request is one JSON object on a line: {error}") from None
    if not isinstance(request, dict):
        raise Refused(f"a request is a JSON object, not {type(request).__name__}")
    unknown = sorted(key for key in request if key not in ("verb", "arguments"))
    if unknown:
        raise Refused(f"{unknown[0][:40]!r} is unknown; a request has verb and arguments")
    verb, arguments = request.get("verb"), request.get("arguments", {})
    if not isinstance(verb, str) or not verb:
        raise Refused("verb must be a word")
    if not isinstance(arguments, dict):
        raise Refused(f"arguments must be an object, not {type(arguments).__name__}")
    return verb, arguments


def _encoded(reply: Mapping[str, Any]) -> bytes:
    return json.dumps(reply, allow_nan=False).encode() + b"\n"


def _lock(path: str) -> int:
    """Take the lock that a living agent holds; the kernel gives it back however the agent ends."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 20, 0).decode("ascii", "replace").strip()
        os.close(lock)
        raise Occupied(f"another agent{f' (process {holder})' if holder else ''} holds {path}") from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, b"%d\n" % os.getpid(), 0)
    return lock


def _identity(path: str) -> tuple[int, int]:
    try:
        status = os.lstat(path)
    except OSError:
        return (0, 0)
    return (status.st_dev, status.st_ino)


def _peer_uid(connection: socket.socket) -> int:
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    uid: int = _UCRED.unpack(data)[1]
    return uid


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
