"""A loop for tests of ports: the reactor's words, turned until something is so. It never sleeps."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable

from wgrouter.core.messages import Event


class Timer:
    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


POLL = 0.05  # seconds


class Turning:
    """What is posted is kept in `events`."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.timers: list[Timer] = []
        self.watched: dict[int, Callable[[], None]] = {}
        self.ahead = 0.0  # seconds that the test has skipped
        self._selector = selectors.DefaultSelector()

    def watch(self, fd: int, callback: Callable[[], None], *, write: bool = False) -> None:
        self.unwatch(fd)
        self.watched[fd] = callback
        self._selector.register(fd, selectors.EVENT_WRITE if write else selectors.EVENT_READ)

    def unwatch(self, fd: int) -> None:
        if self.watched.pop(fd, None):
            self._selector.unregister(fd)

    def post(self, event: Event) -> None:
        self.events.append(event)

    def now(self) -> float:
        return time.monotonic() + self.ahead

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(when, callback)
        self.timers.append(timer)
        return timer

    def skip(self, seconds: float) -> None:
        """Let time pass in no time."""
        self.ahead += seconds

    def turn(self, patience: float = 0.0) -> None:
        """Call what is ready or due; wait for it up to `patience` seconds."""
        self.timers = [timer for timer in self.timers if not timer.cancelled]
        first = min((timer.when for timer in self.timers), default=self.now() + patience)
        for key, _ in self._selector.select(max(0.0, min(patience, first - self.now()))):
            callback = self.watched.get(key.fd)
            if callback is not None:
                callback()
        now = self.now()
        due = [timer for timer in self.timers if timer.when <= now]
        self.timers = [timer for timer in self.timers if timer.when > now]
        for timer in due:
            if not timer.cancelled:
                timer.callback()

    def until(self, condition: Callable[[], object], within: float = 20.0) -> float:
        """Turn until the condition holds; the seconds it took. AssertionError after `within` seconds."""
        start = time.monotonic()
        while not condition():
            left = start + within - time.monotonic()
            assert left > 0, f"not so within {within} s; events: {self.events}"
            self.turn(min(left, POLL))  # what another process does may make no descriptor ready
        return time.monotonic() - start

    def close(self) -> None:
        self._selector.close()
