"""Dials a host that has several addresses: a TCP connection to whichever answers first.

Touches sockets; whoever waits here is woken by a descriptor. Knows no MQTT.
"""

from __future__ import annotations

import os
import select
import socket
from collections import deque
from collections.abc import Iterable

STAGGER = 0.25  # seconds before the next address is tried as well (RFC 8305 5)
USER_TIMEOUT = 20_000  # milliseconds that sent data may stay unacknowledged before the kernel gives up


def race(addresses: Iterable[str], port: int, wake: int) -> socket.socket:
    """Try one after another, each a little after the one before: the first that connects (RFC 8305).

    OSError with the last reason, or "ended" when the descriptor `wake` becomes readable.
    """
    waiting = deque(addresses)
    trying: dict[int, socket.socket] = {}
    error = OSError("it has no address")
    try:
        while waiting or trying:
            if waiting:
                sock, begun = _begin(waiting.popleft(), port)
                if begun is None:
                    trying[sock.fileno()] = sock
                else:
                    sock.close()
                    error = begun
            poll = select.poll()
            poll.register(wake, select.POLLIN)
            for fd in trying:
                poll.register(fd, select.POLLOUT)
            for fd, _ in poll.poll(STAGGER * 1000 if waiting else None) if trying else ():
                if fd == wake:
                    raise OSError("ended")
                sock = trying.pop(fd)
                number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if not number:
                    return sock
                sock.close()
                error = OSError(number, os.strerror(number))
    finally:
        for sock in trying.values():
            sock.close()
    raise error


def _begin(address: str, port: int) -> tuple[socket.socket, OSError | None]:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, "TCP_USER_TIMEOUT", 18), USER_TIMEOUT)
        sock.connect((address, port))
    except BlockingIOError:
        return sock, None
    except OSError as error:
        return sock, error
    return sock, None


def alternating(addresses: list[str]) -> list[str]:
    """The families by turns, so that a dead one costs no more than one step (RFC 8305 4)."""
    six = [address for address in addresses if ":" in address]
    four = [address for address in addresses if ":" not in address]
    both = [address for pair in zip(six, four, strict=False) for address in pair]
    return both + six[len(four) :] + four[len(six) :]
