"""The control socket: bytes of whoever may connect, in one piece or in many, and every question there is."""

from __future__ import annotations

import functools
import json
import socket

from tests.fuzz.agent import Agent
from tests.ports.turning import Turning
from wgrouter.ports import control as port

VERBS = ("status", "wans", "tunnels", "findings", "explain", "diagnose", "plan", "journal", "dump", "hint",
         "refresh", "reresolve", "switch", "reload")  # fmt: skip
WORDS = {
    "control": [
        *(f'"{verb}"'.encode() for verb in VERBS),
        *(b'{"verb":', b'"arguments":{', b'"subject":', b'"count":', b'"after":', b'"every":', b'"seconds":'),
        *(b'"origin":', b'"wan":', b'"interface":', b'"action":', b"}}\n", b"NaN", b"1e400", b"Infinity",
          b"-1"),
        *(b'"\\ud800"', b"[[[[[[", b"\n", b"\r\n", b"\xff", b'"auto"', b'"wg0"', b'"lte"', b"true", b"null"),
    ]
}  # fmt: skip
TURNS = 200


@functools.cache
def made() -> tuple[Turning, Agent, port.Control]:
    loop, agent = Turning(), Agent()
    return loop, agent, port.Control(loop, "", agent.answer, on_fault=agent.fault)


def control(data: bytes) -> None:
    """The first byte says in how many pieces the rest comes."""
    loop, agent, one = made()
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
    client = port._Client(one, ours)
    one._clients.add(client)
    client.begin()
    count, rest = (data[:1] or b"\0")[0] % 4 + 1, data[1:]
    size = len(rest) // count + 1
    received = bytearray()
    try:
        for start in range(0, len(rest), size):
            theirs.sendall(rest[start : start + size])
            loop.turn()
        theirs.shutdown(socket.SHUT_WR)
        for _ in range(TURNS + 4 * rest.count(b"\n")):  # one line a turn
            loop.turn()
            try:
                piece = theirs.recv(1 << 20)
            except BlockingIOError:
                continue
            received += piece
            if not piece:
                break
        else:
            raise AssertionError("never hangs up")
    finally:
        client.close()
        theirs.close()
        assert not loop.watched
        loop.timers.clear()
    replies = bytes(received).splitlines()
    wanted = rest.count(b"\n") + (not rest.endswith(b"\n") and bool(rest))
    assert len(replies) == wanted, (len(replies), wanted)
    for reply in replies:
        told = json.loads(reply)
        assert told["ok"] is True or told["error"]
    agent.heard()
