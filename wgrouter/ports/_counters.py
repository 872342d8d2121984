"""What a device has received and sent since the last reading: a probe that costs its link nothing.

Touches /proc/thread-self/net/dev (of this network namespace, unlike /sys).
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

from wgrouter.core.messages import Probe
from wgrouter.core.probes import SENT_ONLY

DEVICES = Path("/proc/thread-self/net/dev")
SENT_PACKETS = 5  # fewer may be ours, or need no answer

Answer = Callable[[int, float], None]
Refusal = Callable[[int, str], None]


class Counters:
    """Compares with the reading before, per device and per who asks (`Probe.target`)."""

    def __init__(self, answer: Answer, refuse: Refusal) -> None:
        self._answer = answer
        self._refuse = refuse
        self._seen: dict[tuple[str, str], tuple[int, int]] = {}

    def send(self, probe: Probe) -> None:
        """Read once. OSError: there is no such device."""
        key = (probe.device, probe.target)
        received, sent = packets(DEVICES.read_text(), probe.device)
        before = self._seen.get(key, (received, sent))
        self._seen[key] = (received, sent)
        if received > before[0]:
            self._answer(probe.id, 0.0)
        elif received == before[0] and sent - before[1] >= SENT_PACKETS:
            self._refuse(probe.id, SENT_ONLY)
        else:  # idle, or a new device of this name
            self._refuse(probe.id, "idle")


def packets(text: str, device: str) -> tuple[int, int]:
    """Packets received and sent, from the text of /proc/net/dev. OSError: ENODEV without it, EBADMSG."""
    for line in text.splitlines():
        name, found, numbers = line.partition(":")
        if found and name.strip() == device:
            fields = numbers.split()
            try:
                return int(fields[1]), int(fields[9])
            except (IndexError, ValueError):
                raise OSError(errno.EBADMSG, f"{DEVICES} is not as expected", device) from None
    raise OSError(errno.ENODEV, "No such device", device)
