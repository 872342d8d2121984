"""ubus: netifd's news in, our object out, netifd's verbs. The one module that knows the binding `ubus` 0.1.3.

Touches ubusd's socket, by the binding and once directly (see `knock`). Must not know what a verb of our
object means, nor what a hint is good for.

The binding, read in its source and measured, and what follows here:
- C globals, one connection a process; `call` and `send` from another thread hang the process for ever. So all
  happens in the thread that called `start`, and another one gets a RuntimeError instead of the hang.
- `loop(0)` handles what is there and returns; the binding does not tell the descriptor, so it is found by
  comparing /proc/self/fd before and after `connect()`. Not found: `loop(0)` every POLL seconds.
- What arrives during `call()` or `send()` is parked, and the descriptor does not tell: a `loop(0)` follows.
- ubusd's death raises nothing. But the descriptor is at its end, which a peek shows at once.
- A ubusd that hangs makes `connect`, `add`, `call` and `send` wait for ever (their look-up has no timeout).
  ubusd greets every connection unasked, so one of our own shows within KNOCK seconds that it does its work.
- An exception in a handler is printed and forgotten. So it is caught and handed to `on_fault`.
- Freeing the connection inside a handler would be a use after free: that waits until `loop(0)` has returned.
- Signatures are exact: each argument must be there, none may be more, types are not converted. uhttpd adds
  `ubus_rpc_session` to every call that it carries: for LuCI the object exists twice, once with that argument.
"""

from __future__ import annotations

import errno
import json
import math
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Protocol

from wgrouter.core import mwan3
from wgrouter.core.findings import Finding, Why
from wgrouter.core.messages import Event, Hinted
from wgrouter.core.model import Instant, Interface, Seconds
from wgrouter.ports._netifd import interfaces_of

OBJECT = "wgrouter"
LUCI_OBJECT = "luci.wgrouter"  # the same methods, reached through uhttpd
SOCKETS = ("/var/run/ubus/ubus.sock", "/var/run/ubus.sock")  # since OpenWrt 21.02, before

KNOCK: Seconds = 0.25  # ubusd greets within 1 ms here; a router under load takes longer
HUNG_PAUSE: Seconds = 5.0  # a ubusd that did not greet is left alone this long: each try costs KNOCK
CALL_TIMEOUT: Seconds = 1.0  # netifd answers a dump in 2 to 20 ms
POLL: Seconds = 0.25  # without the descriptor: how often we look, …
CHECK: Seconds = 1.5  # … and how often we ask whether ubusd is still there
ROUNDS = 32  # after a call(), one loop(0) handles one message: look this often before the next POLL
RETRY: Seconds = 0.2  # after ubusd went away: procd restarts it within a second; doubles up to …
RETRY_MAX: Seconds = 2.0
RETRY_STRANGER: Seconds = 30.0  # … where ubusd was never seen: probably this is no router
TEXT_MAX = 256  # characters of one argument
ANSWER_MAX = 512 * 1024  # bytes of JSON; ubusd drops who sends it over 1 MiB (UBUS_MAX_MSGLEN)

TEXT, NUMBER = "STRING", "INT32"
VERBS: Mapping[str, Mapping[str, str]] = {
    "status": {},
    "wans": {},
    "tunnels": {},
    "explain": {},
    "findings": {},
    "plan": {},
    "refresh": {},
    "reload": {},
    "switch": {"wan": TEXT, "seconds": NUMBER},  # 0 seconds: until told otherwise
    "hint": {"action": TEXT, "interface": TEXT, "device": TEXT},
}

Answer = Callable[[str, Mapping[str, str]], Any]


class Cancel(Protocol):
    """What `Loop.call_at` gives back."""

    def cancel(self) -> None: ...


class Loop(Protocol):
    """The part of the reactor that the bus uses."""

    def watch(self, fd: int, callback: Callable[[], None], *, write: bool = False) -> None: ...

    def unwatch(self, fd: int) -> None: ...

    def post(self, event: Event) -> None: ...

    def now(self) -> Instant: ...

    def call_at(self, when: Instant, callback: Callable[[], None]) -> Cancel: ...


class Unavailable(OSError):
    """ubus, or who was called over it, did not do what was asked. errno says which: ENOTCONN no ubusd,
    ETIMEDOUT no answer in time, ENOENT no such object, EREMOTEIO an error of the one that was called."""


class Bus:
    """Our end of ubus. `answer(verb, arguments)` is the control socket's handler, with text as arguments.

    One of `refusals` that it raises is told to who asked. So is any other exception, without its words, and
    goes to `on_fault`: a question ends no agent.
    """

    def __init__(
        self,
        loop: Loop,
        answer: Answer,
        say: Callable[[Finding], None],
        *,
        refusals: tuple[type[Exception], ...] = (ValueError,),
        on_fault: Callable[[Exception], None] | None = None,
        paths: Iterable[str] = SOCKETS,
        binding: Any = None,
    ) -> None:
        self._loop = loop
        self._answer = answer
        self._say = say
        self._refusals = refusals
        self._on_fault = on_fault
        self._paths = tuple(paths)
        self._ubus = binding
        self._thread = 0
        # A duplicate of the binding's descriptor: ours to watch and to close.
        self._line: socket.socket | None = None
        self._timer: Cancel | None = None  # of the next attempt, or of the next poll
        self._retry = RETRY_STRANGER
        self._told_absent = False
        self._pumping = False
        self._pump_again: Cancel | None = None
        self._broken = ""  # why the connection is to be given up once loop(0) has returned
        self._hung_until: Instant = 0.0
        self._next_check: Instant = 0.0
        self._interfaces: Mapping[str, Interface] = {}
        self.connected = False

    def start(self) -> None:
        """Connect now or, if that cannot be, later. No other thread may use this object from then on."""
        self._thread = threading.get_ident()
        if self._ubus is None:
            try:
                import ubus
            except ImportError as error:
                self._absent(f"the Python module of python3-ubus cannot be loaded ({error})")
                return
            self._ubus = ubus
        self._attempt()

    def close(self) -> None:
        """Leave the bus; ubusd takes our objects away."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._drop()

    # ------------------------------------------------------------ what is asked of others

    def interfaces(self) -> Mapping[str, Interface]:
        """`network.interface dump` by name; the same object where nothing changed. Raises Unavailable."""
        results = self.call("network.interface", "dump")
        seen = interfaces_of(results[0] if results else None)
        if seen != self._interfaces:
            self._interfaces = seen
        return self._interfaces

    def renew(self, interface: str) -> None:
        """Re-apply the interface's configuration without tearing it down. Raises Unavailable."""
        self.call(f"network.interface.{interface}", "renew")

    def restart(self, interface: str) -> None:
        """Take the interface down and up again. Raises Unavailable; then `up` was asked for all the same."""
        path = f"network.interface.{interface}"
        try:
            self.call(path, "down")
        finally:
            self.call(path, "up")

    def call(self, path: str, method: str, timeout: Seconds = CALL_TIMEOUT) -> list[Any]:
        """An object's replies to a method; takes at most KNOCK + `timeout` seconds. Raises Unavailable."""
        self._may_speak(path, method)
        try:
            results: list[Any] = self._ubus.call(path, method, {}, max(1, int(timeout * 1000)))
        except (RuntimeError, ValueError, TypeError, SystemError) as error:
            raise self._failed(f"{path} {method}", str(error)) from None
        finally:
            self._pump_soon()
        return results

    def send(self, event: str, data: Mapping[str, Any]) -> bool:
        """Tell who listens, "wgrouter.wan" for example. False: it went nowhere; nobody tries again."""
        try:
            self._may_speak(event, "send")
            sent = bool(self._ubus.send(event, plain(data)))
        except (Unavailable, RuntimeError, TypeError):
            return False
        self._pump_soon()
        if not sent and self._hung_up():
            self._lost("it does not take an event")
        return sent

    def _may_speak(self, path: str, method: str) -> None:
        """Raise Unavailable unless ubusd is there and works: what follows has no time limit of its own."""
        if threading.get_ident() != self._thread:
            raise RuntimeError("ubus was used from a thread other than its own")
        what = f"{path} {method}"
        if not self.connected or self._broken:
            raise Unavailable(errno.ENOTCONN, f"{what}: not connected to ubus")
        if self._loop.now() < self._hung_until:
            raise Unavailable(errno.ETIMEDOUT, f"{what}: ubusd did not answer a moment ago")
        reason = knock(self._path(), KNOCK)
        if reason == SILENT:
            self._hung_until = self._loop.now() + HUNG_PAUSE
            raise Unavailable(errno.ETIMEDOUT, f"{what}: {reason}")
        if reason:  # gone; that its line has ended will be noticed in the next turn
            raise Unavailable(errno.ENOTCONN, f"{what}: {reason}")

    def _failed(self, what: str, said: str) -> Unavailable:
        if self._hung_up():
            self._lost("it closed the connection")
            return Unavailable(errno.ENOTCONN, f"{what}: ubusd went away")
        if "was not found" in said:
            return Unavailable(errno.ENOENT, f"{what}: no such object on ubus")
        if "timed out" in said:
            return Unavailable(errno.ETIMEDOUT, f"{what}: no answer in time")
        return Unavailable(errno.EREMOTEIO, f"{what}: {said.removeprefix('ubus error occured: ')}")

    # ------------------------------------------------------------ coming and going

    def _path(self) -> str:
        """The first socket that exists; where none does, the first."""
        return next((path for path in self._paths if os.path.exists(path)), self._paths[0])

    def _attempt(self) -> None:
        self._timer = None
        reason = knock(self._path(), KNOCK) or self._connect()
        if reason:
            self._absent(reason)
            self._timer = self._loop.call_at(self._loop.now() + self._retry, self._attempt)
            self._retry = min(self._retry * 2, RETRY_STRANGER if self._retry > RETRY_MAX else RETRY_MAX)
            return
        self._retry = RETRY
        self._hung_until = 0.0
        self.connected = True
        if self._line is not None:
            self._loop.watch(self._line.fileno(), self._ready)
        else:
            self._next_check = self._loop.now() + CHECK
            self._timer = self._loop.call_at(self._loop.now() + POLL, self._poll)
        self._say(Finding(Why.BUS_PRESENT, "ubus", {"object": OBJECT}))
        self._loop.post(Hinted("ubus", action="connected"))  # what netifd said meanwhile, we have not heard
        self._pump_soon()

    def _connect(self) -> str:
        """Why it did not work; "" if it did."""
        try:
            before = _lines()
            self._ubus.connect(self._path())
            new = [fd for fd in _lines() if fd not in before]
            if len(new) == 1:
                self._line = socket.socket(fileno=os.dup(new[0]))
            self._ubus.add(OBJECT, self._methods({}))
            self._ubus.add(LUCI_OBJECT, self._methods({"ubus_rpc_session": TEXT}))
            self._ubus.listen(("network.interface", self._heard), ("ubus.object.add", self._appeared))
        except (OSError, RuntimeError, TypeError) as error:
            self._drop()
            return str(error).strip()
        return ""

    def _absent(self, reason: str) -> None:
        """Said once, until it was there again."""
        if not self._told_absent:
            self._told_absent = True
            self._say(Finding(Why.BUS_ABSENT, "ubus", {"reason": reason}))

    def _lost(self, reason: str) -> None:
        if not self.connected:
            return
        if self._pumping:
            self._broken = reason
            return
        self._drop()
        self._told_absent = True  # this is the better word for it
        self._say(Finding(Why.BUS_LOST, "ubus", {"reason": reason}))
        self._timer = self._loop.call_at(self._loop.now() + self._retry, self._attempt)

    def _drop(self) -> None:
        """Give the connection back. Never with deregister: that would wait for a ubusd that may be gone."""
        self.connected = False
        self._broken = ""
        for timer in (self._timer, self._pump_again):
            if timer is not None:
                timer.cancel()
        self._timer = self._pump_again = None
        if self._line is not None:
            self._loop.unwatch(self._line.fileno())
            self._line.close()
            self._line = None
        if self._ubus is not None and self._ubus.get_connected():
            self._ubus.disconnect(False)

    # ------------------------------------------------------------ what comes in

    def _ready(self) -> None:
        if self._hung_up():
            self._lost("it closed the connection")
        else:
            self._pump()

    def _hung_up(self) -> bool:
        """Whether only the end of the line is left. Takes nothing; without a descriptor always False."""
        if self._line is None:
            return False
        try:
            return self._line.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _poll(self) -> None:
        """In place of the descriptor."""
        self._timer = self._loop.call_at(self._loop.now() + POLL, self._poll)
        for _ in range(ROUNDS):
            self._pump()
        if self.connected and self._loop.now() >= self._next_check:
            self._next_check = self._loop.now() + CHECK
            reason = knock(self._path(), KNOCK)
            if reason == SILENT:
                self._next_check += HUNG_PAUSE
            elif reason or not self._ubus.send("wgrouter.pulse", {}):
                self._lost(reason or "it does not take an event")

    def _pump_soon(self) -> None:
        """A loop(0) in the next turn: what call() parked, the descriptor does not tell."""
        if self._pump_again is None and self.connected:
            self._pump_again = self._loop.call_at(self._loop.now(), self._pump_parked)

    def _pump_parked(self) -> None:
        self._pump_again = None
        self._pump()

    def _pump(self) -> None:
        if not self.connected or self._pumping:
            return
        self._pumping = True
        try:
            self._ubus.loop(0)
        finally:
            self._pumping = False
        if self._broken:
            self._lost(self._broken)

    def _heard(self, event: str, data: object) -> None:
        """netifd: {"action": "ifup" | "ifdown" | …, "interface": name}."""
        fields = data if isinstance(data, dict) else {}
        self._loop.post(Hinted("ubus", _text(fields.get("interface")), _text(fields.get("action"))))

    def _appeared(self, event: str, data: object) -> None:
        """ubusd: {"id": number, "path": name}. netifd is back, or one of its interfaces is new."""
        path = _text(data.get("path")) if isinstance(data, dict) else ""
        if path == "network.interface" or path.startswith("network.interface."):
            name = path.removeprefix("network.interface").removeprefix(".")
            self._loop.post(Hinted("ubus", name, "appeared"))

    # ------------------------------------------------------------ our object

    def _methods(self, more: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        def types(arguments: Mapping[str, str]) -> dict[str, int]:
            return {name: getattr(self._ubus, f"BLOBMSG_TYPE_{kind}") for name, kind in arguments.items()}

        return {
            verb: {"signature": types({**arguments, **more}), "method": partial(self._called, verb)}
            for verb, arguments in VERBS.items()
        }

    def _called(self, verb: str, request: Any, message: object) -> None:
        try:
            reply = self._reply(verb, message)
        except Exception as error:  # noqa: BLE001 - the C code would forget it
            if self._on_fault is not None:
                self._on_fault(error)
            reply = {"error": f"{verb}: the agent has failed, its log says where"}
        try:
            request.reply(reply)
        except (RuntimeError, TypeError):
            pass  # who asked is gone

    def _reply(self, verb: str, message: object) -> dict[str, Any]:
        given = message if isinstance(message, dict) else {}
        arguments = {name: str(given.get(name, "")) for name in VERBS[verb]}
        for name, text in arguments.items():
            if len(text) > TEXT_MAX:
                return {"error": f"{verb}: {name} has {len(text)} characters; up to {TEXT_MAX} are accepted"}
        if verb == "hint":
            self._loop.post(Hinted("hotplug", arguments["interface"], arguments["action"]))
            return {}
        try:
            reply = plain(self._answer(verb, arguments))
        except self._refusals as error:
            return {"error": str(error)}
        if not isinstance(reply, dict):
            reply = {verb: reply}
        if verb in ("status", "wans"):
            reply |= mwan3.renamed(reply.get("wans"))
        size = len(json.dumps(reply))
        if size > ANSWER_MAX:
            return {"error": f"{verb}: {size} bytes, ubus takes {ANSWER_MAX}: ask `wgrouter {verb} --json`"}
        return reply


# ---------------------------------------------------------------- without a connection

SILENT = "ubusd does not answer"


def knock(path: str, patience: Seconds) -> str:
    """Whether the ubusd behind a socket does its work: it greets who connects. "" if so, else why not."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(patience)
            line.connect(path)
            greeting = line.recv(12)
    except TimeoutError:
        return SILENT
    except BlockingIOError:  # its queue of connections is full
        return SILENT
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    # struct ubus_msghdr: version 0, type UBUS_MSG_HELLO 0 (ubusmsg.h)
    return "" if greeting[:2] == b"\0\0" else f"{path}: no ubusd listens there"


def plain(value: object) -> Any:
    """What blobmsg and its JSON can carry: no infinity, no integer over 63 bits, keys of text, none empty
    (that leaves JSON which nobody can read).
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return max(-(2**63), min(value, 2**63 - 1))
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key) or "-": plain(item) for key, item in value.items()}
    if isinstance(value, Iterable):
        return [plain(item) for item in value]
    return str(value)


def _text(value: object) -> str:
    return value[:TEXT_MAX] if isinstance(value, str) else ""


def _lines() -> set[int]:
    """Our descriptors that are connected to a named unix socket. Empty where /proc cannot tell."""
    found: set[int] = set()
    try:
        numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        return found
    for fd in numbers:
        try:
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                continue
            with socket.socket(fileno=os.dup(fd)) as line:
                if line.family == socket.AF_UNIX and line.getpeername():
                    found.add(fd)
        except OSError:
            continue  # closed meanwhile, or connected to nobody
    return found
