"""A relay that makes the DNS server of its namespace slow: `python -m tests.lab.slow_dns PORT SECONDS`

Each UDP query that arrives on PORT is passed on, unread, to port 53 of this host SECONDS later; the answer
goes straight back. Queries wait side by side: it is late, not busy.
"""

import contextlib
import heapq
import itertools
import selectors
import socket
import sys
import time
from typing import Any

from .server import receive, udp_socket


def main(port: int, delay_seconds: float) -> None:
    selector = selectors.DefaultSelector()
    front = udp_socket(port)
    selector.register(front, selectors.EVENT_READ)
    order = itertools.count()
    waiting: list[tuple[float, int, bytes, list[tuple[int, int, bytes]], tuple[Any, ...]]] = []
    print("ready", flush=True)
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, query, control, client = heapq.heappop(waiting)
            behind = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            behind.connect(("127.0.0.1", 53))
            behind.send(query)
            selector.register(behind, selectors.EVENT_READ, (control, client))
        for key, _ in selector.select(waiting[0][0] - now if waiting else None):
            # A client that went away, or a server that is not there, costs its own answer only.
            with contextlib.suppress(OSError):
                if key.fileobj is front:
                    query, control, client = receive(front)
                    heapq.heappush(
                        waiting, (time.monotonic() + delay_seconds, next(order), query, control, client)
                    )
                else:
                    assert isinstance(key.fileobj, socket.socket)
                    selector.unregister(key.fileobj)
                    with key.fileobj as answered:
                        front.sendmsg([answered.recv(65535)], key.data[0], 0, key.data[1])


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
