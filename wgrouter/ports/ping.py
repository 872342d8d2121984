"""Probes: sends one by its method and tells the loop what came of it. No forks, nothing blocks.

Touches sockets bound to the probe's device and mark. Posts Replied or Unsent; silence it leaves to the core,
which knows how long is too long. Must not know what a probe is for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from wgrouter.core.messages import Probe, Replied, Unsent
from wgrouter.ports._counters import Counters
from wgrouter.ports._echo import Echo
from wgrouter.ports._neighbour import Neighbours
from wgrouter.ports._probe_loop import Loop, reason_of
from wgrouter.ports._streams import Streams


class Prober:
    """One per process, used from the loop's thread."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._echo = Echo(loop, self._replied)
        self._neighbours = Neighbours(loop, self._replied)
        self._streams = Streams(loop, self._replied, self._unsent)
        self._counters = Counters(self._replied, self._unsent)
        self._methods: Mapping[str, Callable[[Probe], None]] = {
            "icmp": self._echo.send,
            "arp": self._neighbours.send,
            "dns-udp": self._streams.send,
            "dns-tcp": self._streams.send,
            "tcp": self._streams.send,
            "http": self._streams.send,
            "https": self._streams.send,
            "counters": self._counters.send,
        }

    def probe(self, effect: Probe) -> None:
        """Send it. What goes wrong is an Unsent event with the kernel's words, never an exception."""
        method = self._methods.get(effect.method)
        if method is None:
            return self._unsent(
                effect.id, f"no probe is called {effect.method!r}; there are {', '.join(self._methods)}"
            )
        try:
            method(effect)
        except OSError as error:
            self._unsent(effect.id, reason_of(error))

    def close(self) -> None:
        """Give all sockets back; what is under way is forgotten."""
        self._echo.close()
        self._neighbours.close()
        self._streams.close()

    def _replied(self, id: int, rtt: float) -> None:
        self._loop.post(Replied(id, rtt))

    def _unsent(self, id: int, reason: str) -> None:
        self._loop.post(Unsent(id, reason))
