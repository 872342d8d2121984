"""The servers of the lab's internet, for all of its boxes in one process.

    python -m tests.lab.server /run/netns/A /run/netns/B portal=/run/netns/C …

In each namespace: UDP and TCP echo on port 7; on port 80 a web server with /generate_204 (what captive portal
checks ask for) and /stream (bytes without end, some MB/s). In a portal's: a web server that redirects. Says
"ready" when it listens everywhere. Answers come from the address that was asked.
"""

import contextlib
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

from .netns import setns_net

ECHO_PORT = 7
HTTP_PORT = 80
STREAM_BYTES = 32 * 1024
STREAM_EVERY_SECONDS = 0.01

_selector = selectors.DefaultSelector()
_streams: set[socket.socket] = set()


def udp_socket(port: int) -> socket.socket:
    """A UDP socket for both families that tells to which of our addresses a packet came."""
    made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    made.bind(("::", port))
    return made


def receive(sock: socket.socket) -> tuple[bytes, list[tuple[int, int, bytes]], tuple[Any, ...]]:
    """A packet, the control message that makes an answer come from where it went, and who sent it."""
    data, control, _, sender = sock.recvmsg(2048, 256)
    reply = []
    for level, kind, value in control:
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            address, _ = struct.unpack("=16si", value)
            # Interface 0: the address is kept, the route is looked up.
            reply.append((socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, struct.pack("=16si", address, 0)))
    return data, reply, sender


def _echo_udp(sock: socket.socket) -> None:
    # The link may be cut at this moment: then there is no answer, as it should be.
    with contextlib.suppress(OSError):
        data, reply, sender = receive(sock)
        sock.sendmsg([data], reply, 0, sender)


def _echo_tcp(sock: socket.socket) -> None:
    data = sock.recv(4096)
    if data:
        sock.send(data)
    else:
        _close(sock)


def _http(sock: socket.socket) -> None:
    request = sock.recv(4096)
    if not request:
        _close(sock)
    if not request or sock in _streams:
        return
    path = request.split(b" ", 2)[1:2]
    if path == [b"/stream"]:
        sock.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nConnection: close\r\n\r\n")
        _streams.add(sock)
    elif path == [b"/generate_204"]:
        _reply(sock, b"204 No Content", b"")
    else:
        _reply(sock, b"200 OK", b"the lab\n")


def _portal(sock: socket.socket) -> None:
    if sock.recv(4096):
        _reply(sock, b"302 Found\r\nLocation: http://portal.invalid/", b"")
    else:
        _close(sock)


def _reply(sock: socket.socket, head: bytes, body: bytes) -> None:
    length = str(len(body)).encode()
    sock.send(
        b"HTTP/1.1 " + head + b"\r\nContent-Length: " + length + b"\r\nConnection: close\r\n\r\n" + body
    )
    _close(sock)


def _close(sock: socket.socket) -> None:
    _streams.discard(sock)
    _selector.unregister(sock)
    sock.close()


def _guarded(work: Callable[[socket.socket], None]) -> Callable[[socket.socket], None]:
    """A connection that fails is closed, and is nobody else's concern."""

    def guarded(sock: socket.socket) -> None:
        try:
            work(sock)
        except BlockingIOError:
            pass
        except OSError:
            _close(sock)

    return guarded


def _accept(work: Callable[[socket.socket], None]) -> Callable[[socket.socket], None]:
    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            connection.setblocking(False)
            _selector.register(connection, selectors.EVENT_READ, _guarded(work))

    return accept


def _listen(services: dict[int, Callable[[socket.socket], None]]) -> None:
    for port, work in services.items():
        listener = socket.create_server(
            ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512
        )
        listener.setblocking(False)
        _selector.register(listener, selectors.EVENT_READ, _accept(work))


def main(namespaces: list[str]) -> None:
    for word in namespaces:
        path = word.removeprefix("portal=")
        setns_net(path)
        if path == word:
            _selector.register(udp_socket(ECHO_PORT), selectors.EVENT_READ, _echo_udp)
            _listen({ECHO_PORT: _echo_tcp, HTTP_PORT: _http})
        else:
            _listen({HTTP_PORT: _portal})
    print("ready", flush=True)
    chunk = bytes(STREAM_BYTES)
    due = time.monotonic()
    while True:
        for key, _ in _selector.select(max(0.0, due - time.monotonic()) if _streams else None):
            key.data(key.fileobj)
        if _streams and time.monotonic() >= due:
            due = time.monotonic() + STREAM_EVERY_SECONDS
            for sock in list(_streams):
                _guarded(lambda s: (s.send(chunk), None)[1])(sock)


if __name__ == "__main__":
    main(sys.argv[1:])
