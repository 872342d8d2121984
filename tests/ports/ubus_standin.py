"""A stand-in for ubusd and for the Python binding `ubus` 0.1.3, with the quirks that the agent meets.

As a module it has the binding's functions, and its state is the module's, as there. As a program it is
- `daemon PATH`: a ubusd, with a protocol of its own, but ubusd's greeting;
- `peer MODULE PATH`: somebody else on the bus, told what to do by lines of JSON (see `peer`); MODULE is
  "ubus" or "standin", so that the same other party meets the real ubusd and this one.

What is imitated, each read in the binding's and libubus' source and seen with the real ones:
- signatures are exact: all arguments, no other, no conversion; `BLOBMSG_TYPE_UNSPEC` takes any type;
- what comes in during `call` and `send` is parked: the descriptor does not tell, `loop(0)` gives it out;
- after the first `call` or `send`, one `loop(0)` reads one message;
- `call` looks the object up first, and that has no time limit; neither has `send`;
- ubusd's death is silent: `loop(0)` returns, `get_connected` stays true, `send` is False, `call` finds
  nothing;
- an exception in a handler is printed, and the caller gets "Unknown error"; a reply after the handler's
  return raises;
- who sends more than 1 MiB is thrown out; a name is given once; integers are cut to 63 bits.
Not imitated: the hang when a second thread calls, and what `loop(ms)` does to signals.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import selectors
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

BLOBMSG_TYPE_UNSPEC, BLOBMSG_TYPE_ARRAY, BLOBMSG_TYPE_TABLE, BLOBMSG_TYPE_STRING = range(4)
BLOBMSG_TYPE_INT64, BLOBMSG_TYPE_INT32, BLOBMSG_TYPE_INT16, BLOBMSG_TYPE_INT8, BLOBMSG_TYPE_DOUBLE = range(
    4, 9
)
BLOBMSG_TYPE_BOOL = BLOBMSG_TYPE_INT8

MESSAGE_MAX = 1024 * 1024
GREETING = struct.pack(">BBHII", 0, 0, 0, 0x1A2B3C4D, 4)  # ubus_msghdr of type UBUS_MSG_HELLO, an empty blob

Message = dict[str, Any]


class _Gone(Exception):
    """The other end of the line is closed."""


def _send(line: socket.socket, message: Message) -> None:
    data = json.dumps(message).encode()
    try:
        line.sendall(struct.pack(">I", len(data)) + data)
    except OSError:
        raise _Gone from None


def _receive(line: socket.socket, *, patience: float | None) -> Message | None:
    """One message; None if none begins within `patience` seconds. A message begun is waited for, as there."""
    if not select.select([line], [], [], patience)[0]:
        return None
    return json.loads(_exactly(line, struct.unpack(">I", _exactly(line, 4))[0]))


def _exactly(line: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        try:
            part = line.recv(size - len(data))
        except OSError:
            raise _Gone from None
        if not part:
            raise _Gone
        data += part
    return data


# ---------------------------------------------------------------- the binding

_line: socket.socket | None = None
_path: str | None = None
_objects: dict[str, dict[str, Any]] = {}
_listeners: list[tuple[str, Callable[[str, Any], object]]] = []
_parked: list[Message] = []
_one_at_a_time = False
_number = 0


def connect(socket_path: str = "/var/run/ubus/ubus.sock") -> bool:
    global _line, _path, _one_at_a_time
    if _line is not None:
        raise RuntimeError("You are already connected to ubus.")
    line = socket.socket(socket.AF_UNIX)
    try:
        line.connect(socket_path)
        _exactly(line, len(GREETING))
    except (OSError, _Gone):
        line.close()
        raise OSError(f"Failed to connect to the ubus socket '{socket_path}'\n") from None
    _line, _path, _one_at_a_time = line, socket_path, False
    return True


def disconnect(deregister: bool = True) -> None:
    global _line, _path
    if type(deregister) is not bool:
        raise TypeError("argument 1 must be bool")
    _connected().close()
    _line = _path = None
    _objects.clear()
    _listeners.clear()
    _parked.clear()


def get_connected() -> bool:
    return _line is not None


def get_socket_path() -> str | None:
    return _path


def add(object_name: str, methods: dict[str, dict[str, Any]]) -> None:
    line = _connected()
    for method in methods.values():
        if set(method) != {"signature", "method"} or not callable(method["method"]):
            raise TypeError("Incorrect method arguments!")
        if not all(type(name) is str and 0 <= kind <= 8 for name, kind in method["signature"].items()):
            raise TypeError("Incorrect method arguments!")
    answer = _ask(line, {"do": "add", "name": object_name})
    if answer is None or answer["status"]:
        raise RuntimeError(f"ubus error occured: {answer['status'] if answer else 'Connection failed'}")
    _objects[object_name] = methods


def listen(*events: tuple[str, Callable[[str, Any], object]]) -> None:
    line = _connected()
    if not events:
        raise TypeError("You need to set at least one event.")
    for event, callback in events:
        if type(event) is not str or not callable(callback):
            raise TypeError("Expected (event, callback) tuple")
        if _ask(line, {"do": "listen", "event": event}) is not None:
            _listeners.append((event, callback))


def loop(timeout: int = -1) -> None:
    line = _connected()
    end = time.monotonic() + timeout / 1000 if timeout > 0 else None
    while True:
        while _parked:
            _handle(line, _parked.pop(0))
        left = None if timeout < 0 else 0.0 if end is None else max(end - time.monotonic(), 0.0)
        try:
            message = _receive(line, patience=left)
        except _Gone:
            return
        if message is None:
            return
        _handle(line, message)
        if timeout == 0 and _one_at_a_time:
            while _parked:
                _handle(line, _parked.pop(0))
            return


def call(object: str, method: str, arguments: Any, timeout: int = 0) -> list[Any]:
    line = _connected()
    if type(timeout) is not int or timeout < 0:
        raise TypeError("timeout can't be lower than 0")
    found = _ask(line, {"do": "lookup", "name": object})
    if found is None or found["status"]:
        raise RuntimeError(f"Object '{object}' was not found.")
    message = {"do": "call", "object": object, "method": method, "arguments": _blob(arguments)}
    answer = _ask(line, message, timeout / 1000 if timeout else None)
    if answer is None:
        raise RuntimeError("ubus error occured: Connection failed")
    if answer["status"]:
        raise RuntimeError(f"ubus error occured: {answer['status']}")
    return list(answer["data"])


def send(event: str, data: Any) -> bool:
    answer = _ask(_connected(), {"do": "send", "event": event, "data": _blob(data)})
    return answer is not None and not answer["status"]


def _connected() -> socket.socket:
    if _line is None:
        raise RuntimeError("You are not connected to ubus.")
    return _line


def _ask(line: socket.socket, message: Message, timeout: float | None = None) -> Message | None:
    """The answer; None if ubusd is gone. What else comes meanwhile is parked."""
    global _number, _one_at_a_time
    _number += 1
    _one_at_a_time = True
    end = None if timeout is None else time.monotonic() + timeout
    try:
        _send(line, message | {"number": _number})
        while True:
            left = None if end is None else max(end - time.monotonic(), 0.0)
            answer = _receive(line, patience=left)
            if answer is None:
                return {"status": "Request timed out"}
            if answer.get("re") == _number:
                return answer
            if "re" not in answer:
                _parked.append(answer)
    except _Gone:
        return None


def _blob(value: Any) -> Any:
    if not isinstance(value, dict):
        json.dumps(value)
        raise TypeError("Failed to create json for ubus.")

    def cut(item: Any) -> Any:
        if type(item) is int:
            return max(-(2**63), min(item, 2**63 - 1))
        if isinstance(item, dict):
            return {str(key): cut(part) for key, part in item.items()}
        if isinstance(item, (list, tuple)):
            return [cut(part) for part in item]
        return item

    return json.loads(json.dumps(cut(value)))


def _kind(value: Any) -> int:
    if type(value) is int:
        return BLOBMSG_TYPE_INT32 if -(2**31) <= value < 2**31 else BLOBMSG_TYPE_INT64
    kinds = {str: BLOBMSG_TYPE_STRING, bool: BLOBMSG_TYPE_BOOL, float: BLOBMSG_TYPE_DOUBLE}
    return kinds.get(type(value)) or {list: BLOBMSG_TYPE_ARRAY, dict: BLOBMSG_TYPE_TABLE}.get(type(value), 0)


class _Request:
    """What a handler gets to answer with."""

    def __init__(self, line: socket.socket, number: int) -> None:
        self._line: socket.socket | None = line
        self._number = number

    def reply(self, data: Any) -> bool:
        if self._line is None:
            raise RuntimeError("Handler is not linked to a call response.")
        try:
            _send(self._line, {"do": "data", "call": self._number, "data": _blob(data)})
        except _Gone:
            return False
        return True


def _handle(line: socket.socket, message: Message) -> None:
    if "event" in message:
        for event, callback in list(_listeners):
            if event == message["event"]:
                try:
                    callback(event, message["data"])
                except Exception:  # noqa: BLE001 - as there
                    traceback.print_exc()
    if "invoke" in message:
        status = _invoke(line, message)
        with contextlib.suppress(_Gone):
            _send(line, {"do": "status", "call": message["invoke"], "status": status})


def _invoke(line: socket.socket, message: Message) -> str:
    method = _objects[message["object"]].get(message["method"])
    if method is None:
        return "Method not found"
    given, wanted = message["arguments"], method["signature"]
    if given.keys() != wanted.keys():
        return "Invalid argument"
    if any(wanted[name] not in (BLOBMSG_TYPE_UNSPEC, _kind(value)) for name, value in given.items()):
        return "Invalid argument"
    request = _Request(line, message["invoke"])
    try:
        method["method"](request, given)
    except Exception:  # noqa: BLE001 - as there
        traceback.print_exc()
        return "Unknown error"
    finally:
        request._line = None
    return ""


# ---------------------------------------------------------------- the daemon


class _Client:
    def __init__(self, line: socket.socket) -> None:
        self.line = line
        self.input = b""
        self.output = bytearray(GREETING)
        self.events: set[str] = set()

    def tell(self, message: Message) -> None:
        data = json.dumps(message).encode()
        self.output += struct.pack(">I", len(data)) + data


class _Daemon:
    def __init__(self, path: str) -> None:
        self.server = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self.server.bind(path)
        self.server.listen(64)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.server, selectors.EVENT_READ)
        self.clients: list[_Client] = []
        self.objects: dict[str, _Client] = {}
        self.calls: dict[int, tuple[_Client, int, list[Any]]] = {}
        self.number = 0

    def run(self) -> None:
        while True:
            for key, events in self.selector.select():
                if key.fileobj is self.server:
                    client = _Client(self.server.accept()[0])
                    client.line.setblocking(False)
                    self.clients.append(client)
                    self.selector.register(client.line, selectors.EVENT_READ, client)
                elif events & selectors.EVENT_READ:
                    self.read(key.data)
            for client in list(self.clients):
                self.write(client)

    def read(self, client: _Client) -> None:
        try:
            data = client.line.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        client.input += data
        while len(client.input) >= 4:
            size = struct.unpack(">I", client.input[:4])[0]
            if size > MESSAGE_MAX:
                data = b""
                break
            if len(client.input) < 4 + size:
                break
            message, client.input = json.loads(client.input[4 : 4 + size]), client.input[4 + size :]
            self.handle(client, message)
        if not data:
            self.leave(client)

    def write(self, client: _Client) -> None:
        with contextlib.suppress(OSError):
            while client.output:
                del client.output[: client.line.send(client.output)]
        if client in self.clients:
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.output else 0)
            self.selector.modify(client.line, wanted, client)

    def leave(self, client: _Client) -> None:
        self.clients.remove(client)
        self.selector.unregister(client.line)
        client.line.close()
        self.objects = {name: owner for name, owner in self.objects.items() if owner is not client}

    def handle(self, client: _Client, message: Message) -> None:
        do, number = message["do"], message.get("number")
        if do == "add":
            taken = message["name"] in self.objects
            if not taken:
                self.objects[message["name"]] = client
            client.tell({"re": number, "status": "Invalid argument" if taken else ""})
            if not taken:
                self.publish("ubus.object.add", {"id": 1, "path": message["name"]})
        elif do == "listen":
            client.events.add(message["event"])
            client.tell({"re": number, "status": ""})
        elif do == "lookup":
            client.tell({"re": number, "status": "" if message["name"] in self.objects else "Not found"})
        elif do == "send":
            self.publish(message["event"], message["data"])
            client.tell({"re": number, "status": ""})
        elif do == "call":
            owner = self.objects.get(message["object"])
            if owner is None:
                client.tell({"re": number, "status": "Not found"})
                return
            self.number += 1
            self.calls[self.number] = (client, number, [])
            owner.tell({"invoke": self.number} | {k: message[k] for k in ("object", "method", "arguments")})
        elif do == "data":
            self.calls[message["call"]][2].append(message["data"])
        elif do == "status":
            caller, number, data = self.calls.pop(message["call"])
            caller.tell({"re": number, "status": message["status"], "data": data})

    def publish(self, event: str, data: Any) -> None:
        for client in self.clients:
            if event in client.events:
                client.tell({"event": event, "data": data})


# ---------------------------------------------------------------- somebody else on the bus


def peer(binding: Any, path: str) -> None:
    """Does what the lines of its standard input say, one JSON value each, and prints one for each.

    {"call": [object, method, arguments]} → {"replies": […]} or {"error": text}
    {"send": [event, data]}               → {"sent": true}
    {"listen": [event, …]}                → {}, and from then on {"event": [event, data]} as they come
    {"serve": {object: {method: how}}}    → {}, and {"called": [object, method, arguments]} as they come
    where how is {"signature": …, "reply": …, "send": [event, data], "block": true, "kill": pid}:
    before the reply "send" sends an event, "block" waits for a line of input, "kill" ends a process.
    """

    def say(value: Any) -> None:
        print(json.dumps(value), flush=True)

    def serve(name: str, method: str, how: dict[str, Any]) -> Callable[[Any, Any], None]:
        def handler(request: Any, arguments: Any) -> None:
            say({"called": [name, method, arguments]})
            if "send" in how:
                binding.send(*how["send"])
            if "kill" in how:
                os.kill(how["kill"], signal.SIGKILL)
            if how.get("block"):
                next_line()
            if "reply" in how:
                request.reply(how["reply"])

        return handler

    def next_line() -> bytes:
        while b"\n" not in waiting:
            data = os.read(0, 65536)
            if not data:
                sys.exit()
            waiting.extend(data)
        line, _, rest = waiting.partition(b"\n")
        waiting[:] = rest
        return bytes(line)

    waiting = bytearray()
    kept: list[Any] = []  # the binding borrows its references
    binding.connect(path)
    say({})
    while True:
        if b"\n" not in waiting and not select.select([0], [], [], 0)[0]:
            binding.loop(10)
            continue
        [(do, what)] = json.loads(next_line()).items()
        if do == "call":
            try:
                say({"replies": binding.call(*what, 20000)})
            except RuntimeError as error:
                say({"error": str(error)})
        elif do == "send":
            say({"sent": binding.send(*what)})
        elif do == "listen":
            handlers = tuple((event, lambda event, data: say({"event": [event, data]})) for event in what)
            kept.append(handlers)
            binding.listen(*handlers)
            say({})
        elif do == "serve":
            for name, methods in what.items():
                table = {
                    method: {"signature": how.get("signature", {}), "method": serve(name, method, how)}
                    for method, how in methods.items()
                }
                kept.append(table)
                binding.add(name, table)
            say({})


if __name__ == "__main__":
    if sys.argv[1] == "daemon":
        _Daemon(sys.argv[2]).run()
    elif sys.argv[2] == "standin":
        peer(sys.modules[__name__], sys.argv[3])
    else:
        peer(importlib.import_module(sys.argv[2]), sys.argv[3])
