"""The loop: descriptors, timers, signals and other threads' words become events, handled one after another.

Touches the monotonic clock (nothing else may), signals, and a pipe to itself. Knows nothing of what an event
means, except that hints of one source may be merged (their words are never believed) and that SIGTERM and
SIGINT mean Stopping.

A turn: wait; call the descriptors that are ready; call the timers that are due; let go of settled hints; then
handle what is queued *by now*. What handling posts waits for the next turn, so that no port, timer or event
starves another. Woke comes in a turn without other events: what was heard is told before time is.

An exception from a callback or a step is our fault and leaves `run`: daemon.py ends the process through the
crash path. The world's faults (OSError on a descriptor) are for the port to turn into events.
"""

from __future__ import annotations

import heapq
import os
import selectors
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from types import FrameType, TracebackType

from wgrouter.core.messages import Event, Hinted, Stopping, Woke
from wgrouter.core.model import NEVER, Instant, Seconds

Callback = Callable[[], None]

SETTLE: Seconds = 0.010  # hints of one source this soon after the last are merged …
SETTLE_MAX: Seconds = 0.100  # … and the window doubles up to this while they come: 1,000 in a second make 14
WAIT_MAX: Seconds = 3600.0  # epoll takes milliseconds in an int
WOKE_GAP: Seconds = 0.001  # a core that asks for the past costs 1,000 turns a second, not a whole CPU
WOKE_LATE: Seconds = 1.0  # where there always are other events, Woke comes after them, this late
STALE_TIMERS = 64  # cancelled timers kept in the heap before it is built anew
THREAD_QUEUE = 4096  # what other threads may have waiting


class Timer:
    """What `call_at` returns. Cancelling twice, or after the call, is no error."""

    __slots__ = ("_reactor", "callback", "queued")

    def __init__(self, reactor: Reactor, callback: Callback) -> None:
        self._reactor = reactor
        self.callback: Callback | None = callback
        self.queued = True  # in the reactor's heap

    def cancel(self) -> None:
        if self.callback is not None:
            self.callback = None
            if self.queued:
                self._reactor._timer_cancelled()


class Reactor:
    """One per process, used from the thread that made it, but for `call_threadsafe` and `post_threadsafe`."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        selector: selectors.BaseSelector | None = None,
    ) -> None:
        self._clock = clock
        self._selector = selector or selectors.DefaultSelector()
        self._events: deque[Event] = deque()
        self._hints = _Hints()
        self._timers: list[tuple[Instant, int, Timer]] = []
        self._timer_number = count()
        self._stale = 0
        self._from_threads: deque[Callback] = deque()
        self._poked = False
        self._signals: dict[int, bool] = {}  # which have come; the handler sets, and never adds a key
        self._on_signal: dict[int, Callback] = {signal.SIGTERM: self._stopping, signal.SIGINT: self._stopping}
        self._told_to_stop = False
        self._stopped = False
        self.turns = 0
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.watch(self._wake_read, self._woken)

    # ------------------------------------------------------------ what ports use

    def now(self) -> Instant:
        """Seconds on the monotonic clock (it stands still while the machine is suspended)."""
        return self._clock()

    def watch(self, fd: int, callback: Callback, *, write: bool = False) -> None:
        """Call `callback` whenever `fd` is readable, or with `write` writable *instead*.

        Errors and hang-ups count as either. One callback for each descriptor: watching it again replaces
        callback and direction. `unwatch` before closing it.
        """
        # Never modify(): it spares the system call when only the callback differs, and so would leave a
        # descriptor deaf that was closed without unwatch and whose number is in use again (the kernel forgot
        # it, the selector did not).
        self.unwatch(fd)
        direction = selectors.EVENT_WRITE if write else selectors.EVENT_READ
        self._selector.register(fd, direction, _Watch(callback))

    def unwatch(self, fd: int) -> None:
        """No more calls for `fd`, not even in this turn. Unknown or closed descriptors are no error."""
        try:
            self._selector.unregister(fd)
        except (KeyError, ValueError):
            pass

    def call_at(self, when: Instant, callback: Callback) -> Timer:
        """Call once at `when` or a little later; NEVER makes a timer that only waits to be cancelled."""
        timer = Timer(self, callback)
        heapq.heappush(self._timers, (when, next(self._timer_number), timer))
        return timer

    def post(self, event: Event) -> None:
        """Queue an event. A Hinted may be merged with others of its source; the first is never held back."""
        if isinstance(event, Hinted) and self._hints.absorb(event, self._clock()):
            return
        self._events.append(event)

    def call_threadsafe(self, callback: Callback) -> bool:
        """Have the loop call `callback`; from any thread. False: too much waits already, it was dropped."""
        if len(self._from_threads) >= THREAD_QUEUE:
            return False
        self._from_threads.append(callback)
        self._poke()
        return True

    def post_threadsafe(self, event: Event) -> bool:
        """`post` from any thread. False: too much waits already, it was dropped."""
        return self.call_threadsafe(lambda: self.post(event))

    # ------------------------------------------------------------ what the daemon uses

    def on_signal(self, number: int, callback: Callback) -> None:
        """Call `callback` in the loop (not in signal context) after this signal. Several at once are one.

        To be said before `run`. SIGTERM and SIGINT post Stopping unless told otherwise; a second one stops.
        """
        self._on_signal[number] = callback

    def stop(self) -> None:
        """Leave `run` when the step under way is done. What is still queued is dropped."""
        self._stopped = True

    def run(self, handle: Callable[[Event, Instant], Instant]) -> None:
        """Turn until `stop`. `handle(event, now)` carries out a step and returns when it wants Woke."""
        wake_at = owed = NEVER
        woke_allowed = self._clock()
        restore = self._take_signals()
        try:
            while not self._stopped:
                self.turns += 1
                self._call_watchers(self._patience(max(wake_at, woke_allowed)))
                now = self._clock()
                self._call_timers(now)
                self._events.extend(self._hints.settled(now))
                if (due := max(wake_at, woke_allowed)) <= now:
                    owed = min(owed, due)
                    # Handling takes time, on a slow router much. Told the time after that, the core would
                    # take an answer that lies unread for one that never came.
                    if not self._events or now - owed > WOKE_LATE:
                        self._events.append(Woke())
                        wake_at = owed = NEVER
                        woke_allowed = now + WOKE_GAP
                for event in self._queued():
                    wake_at = handle(event, self._clock())
        finally:
            restore()

    def close(self) -> None:
        """Give the descriptors back. The reactor is of no use afterwards."""
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def __enter__(self) -> Reactor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ------------------------------------------------------------ the turn

    def _patience(self, wake_at: Instant) -> Seconds:
        if self._events or self._stopped:
            return 0.0
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
            self._stale -= 1
        first = min(wake_at, self._hints.next_at, self._timers[0][0] if self._timers else NEVER)
        return min(max(first - self._clock(), 0.0), WAIT_MAX)

    def _call_watchers(self, patience: Seconds) -> None:
        watched = self._selector.get_map()
        for key, _ in self._selector.select(patience):
            # An earlier callback of this turn may have unwatched it, or watched it for something else.
            if watched.get(key.fd) is key:
                key.data.callback()

    def _queued(self) -> Iterator[Event]:
        """The events that are queued now; not those that handling them adds, and none after `stop`."""
        for _ in range(len(self._events)):
            if self._stopped:
                return
            yield self._events.popleft()

    def _call_timers(self, now: Instant) -> None:
        due: list[Timer] = []
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            timer.queued = False
            if timer.callback is None:
                self._stale -= 1
            else:
                due.append(timer)
        for timer in due:
            callback, timer.callback = timer.callback, None
            if callback is not None:  # else cancelled by an earlier one of this turn
                callback()

    def _timer_cancelled(self) -> None:
        self._stale += 1
        if self._stale > STALE_TIMERS and self._stale * 2 > len(self._timers):
            self._timers = [entry for entry in self._timers if entry[2].callback is not None]
            heapq.heapify(self._timers)
            self._stale = 0

    # ------------------------------------------------------------ signals and other threads

    def _poke(self) -> None:
        if not self._poked:
            self._poked = True
            try:
                os.write(self._wake_write, b"\0")
            except BlockingIOError:
                pass  # full: the loop will wake anyway

    def _woken(self) -> None:
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            pass
        # Before looking at the queue: who adds after the look pokes again.
        self._poked = False
        for _ in range(len(self._from_threads)):
            self._from_threads.popleft()()
        for number in [number for number, has_come in self._signals.items() if has_come]:
            self._signals[number] = False
            self._on_signal[number]()

    def _stopping(self) -> None:
        if self._told_to_stop:  # asked twice: whoever asks does not want to wait for a clean end
            self.stop()
        self._told_to_stop = True
        self.post(Stopping())

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self._signals[number] = True
        self._poke()  # the wake-up byte may have been read already

    def _take_signals(self) -> Callback:
        """Install the handlers; returns what puts the old ones back. Signals reach the main thread only."""
        if threading.current_thread() is not threading.main_thread():
            return lambda: None
        self._signals = dict.fromkeys(self._on_signal, False)
        handlers = {number: signal.signal(number, self._signalled) for number in self._on_signal}
        wakeup = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)

        def restore() -> None:
            signal.set_wakeup_fd(wakeup)
            for number, handler in handlers.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

        return restore


class _Watch:
    """A callback in an object of its own, so that each `watch` has an identity."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callback) -> None:
        self.callback = callback


class _Hints:
    """Merges hints by source. The first passes; those that follow within a window come as one when it closes.

    A window that closes with something in it is followed by one twice as long, up to SETTLE_MAX; one that
    closes empty ends the matter. A storm of one source neither delays another's hints nor anybody's timers.
    """

    def __init__(self) -> None:
        self._windows: dict[str, _Window] = {}
        self.next_at: Instant = NEVER  # when the first window closes

    def absorb(self, hint: Hinted, now: Instant) -> bool:
        """True: kept for later. False: the caller passes it on."""
        window = self._windows.get(hint.source)
        if window is None:
            window = self._windows[hint.source] = _Window(now + SETTLE, SETTLE)
            self.next_at = min(self.next_at, window.closes)
            return False
        if window.hint is None:
            window.hint = hint
        elif window.hint != hint:  # merged: whatever they agree on
            window.hint = Hinted(
                hint.source,
                hint.interface if hint.interface == window.hint.interface else "",
                hint.action if hint.action == window.hint.action else "",
            )
        return True

    def settled(self, now: Instant) -> list[Hinted]:
        """The merged hints whose window has closed."""
        if now < self.next_at:
            return []
        hints = []
        for source, window in list(self._windows.items()):
            if window.closes > now:
                continue
            if window.hint is None:
                del self._windows[source]
                continue
            hints.append(window.hint)
            window.hint = None
            window.length = min(window.length * 2, SETTLE_MAX)
            window.closes = now + window.length
        self.next_at = min((window.closes for window in self._windows.values()), default=NEVER)
        return hints


class _Window:
    __slots__ = ("closes", "hint", "length")

    def __init__(self, closes: Instant, length: Seconds) -> None:
        self.closes = closes
        self.length = length
        self.hint: Hinted | None = None
