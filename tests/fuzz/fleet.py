"""The operator's side: messages of many routers, or of whoever writes below the prefix.

An input is messages, each a line with its topic, one with letters (r: retained, and how many seconds later it
comes) and its payload, between lines of ===.
"""

from __future__ import annotations

import json
import re

from wgrouter.fleet import messages, table
from wgrouter.fleet.model import Fleet
from wgrouter.fleet.view import View

CUT = b"\n===\n"
NOW = 1_763_712_400.0
FIELDS = ("v", "time", "clock_trusted", "boot", "uptime_s", "versions", "machine", "capabilities", "commands",
          "signed", "will_delay_s", "heartbeat_s", "wans", "tunnels", "fingerprint", "worst", "last",
          "events",
          "seq", "queued", "dropped", "active", "manual", "switches", "peers_alive", "peers", "paths",
          "state",
          "since_s", "gateway", "why", "latency_ms", "loss_percent", "cause", "code", "text", "type",
          "severity",
          "subject", "family", "before", "after", "first", "count", "handshake_age_s", "rx_bytes", "tx_bytes",
          "interface", "peer", "wan", "endpoint", "step", "device", "ipv4", "ipv6")  # fmt: skip
WORDS = {
    "fleet": [
        CUT,
        *(f'"{name}":'.encode() for name in FIELDS),
        *(f"wgrouter/r1/{tail}\n".encode() for tail in ("availability", "birth", "state", "event", "wan/wan",
                                                        "tunnel/wg0/a")),
        *(b"online", b"offline", b"uplink.failover", b"events.dropped", b"agent.stopped", b'"v":1', b"null"),
        *(b"\xe2\x80\xae", b"\xcc\x81\xcc\x81\xcc\x81", b"\x1b[2J", b"\xef\xb8\x8f", b"1e14", b"-1", b"true"),
    ]
}  # fmt: skip
UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def fleet(data: bytes) -> None:
    one, now = Fleet("wgrouter"), NOW
    one.connected(now, False)
    for message in data.split(CUT)[:40]:
        topic, letters, payload = [*message.split(b"\n", 2), b"", b""][:3]
        try:
            where = topic.decode()
        except UnicodeDecodeError:
            continue  # fleet/link.py ends the connection
        now += sum(letters) % 400 / 10
        one.hear(where, payload, b"r" in letters, now)
        one.tick(now)
    for row in table.rows(one, now):
        json.dumps(table.data(row, now), allow_nan=False)
    view = View(one, "mqtt://b.example")
    for key in ("s", "end", "enter", "down"):
        shown(view, now)
        view.press(key)
    shown(view, now)
    answer(data)


def shown(view: View, now: float) -> None:
    for width in (80, 133):
        lines, cursor = view.lines(now, lambda seconds: f"{seconds % 86400:.0f}", lambda: 0.0, width, 24)
        assert -1 <= cursor < len(lines) <= 24
        for line in lines:
            said = "".join(text for text, _ in line)
            assert not UNSAFE.search(said), said
            said.encode()


def answer(data: bytes) -> None:
    """A command's answer."""
    try:
        messages.response(data)
    except messages.Unreadable as error:
        assert not UNSAFE.search(str(error)), str(error)
