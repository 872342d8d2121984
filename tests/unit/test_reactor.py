"""The loop, in virtual time: where it would wait, the clock moves on. Descriptors and signals are real."""

import os
import selectors
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wgrouter.core.messages import Commanded, Event, Hinted, Replied, Stopping, Woke
from wgrouter.core.model import NEVER
from wgrouter.shell.reactor import SETTLE, SETTLE_MAX, STALE_TIMERS, THREAD_QUEUE, Reactor

START = 1000.0


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


class Impatient(selectors.DefaultSelector):
    """Never waits: with nothing ready, the clock moves on by the time-out."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None
        ready = super().select(0)
        if not ready:
            self.clock.now += timeout
        return ready


class Bench:
    """A reactor that notes what it handles, and when."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.reactor = Reactor(self.clock, Impatient(self.clock))
        self.handled: list[tuple[float, Event]] = []
        self.wake_at: Callable[[Event, float], float] = lambda event, now: NEVER

    def handle(self, event: Event, now: float) -> float:
        self.handled.append((round(now - START, 6), event))
        return self.wake_at(event, now)

    def run(self, seconds: float = 1.0) -> list[Event]:
        self.reactor.call_at(self.clock.now + seconds, self.reactor.stop)
        self.reactor.run(self.handle)
        return [event for _, event in self.handled]

    def at(self, seconds: float, *events: Event) -> None:
        self.reactor.call_at(START + seconds, lambda: [self.reactor.post(event) for event in events] and None)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.reactor.close()


def read_and(fd: int, then: Callable[[], None]) -> Callable[[], None]:
    def callback() -> None:
        os.read(fd, 100)
        then()

    return callback


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    for fd in (read, write):
        try:
            os.close(fd)
        except OSError:
            pass


# ---- events ---------------------------------------------------------------------------------------------


def test_events_are_handled_in_the_order_they_came(bench: Bench) -> None:
    events = [Replied(number, 0.1) for number in range(100)]
    for event in events:
        bench.reactor.post(event)
    assert bench.run() == events


def test_an_event_that_begets_itself_starves_neither_descriptor_nor_timer(
    bench: Bench, pipe: tuple[int, int]
) -> None:
    seen: list[str] = []
    bench.reactor.watch(pipe[0], read_and(pipe[0], lambda: seen.append("descriptor")))
    bench.reactor.post(Replied(1, 0))

    def beget(event: Event, now: float) -> float:
        bench.reactor.post(event)
        if len(bench.handled) == 1:
            os.write(pipe[1], b"x")
            bench.reactor.call_at(now, lambda: seen.append("timer"))
        if len(bench.handled) == 10:
            bench.reactor.stop()
        return NEVER

    bench.wake_at = beget
    bench.run()
    assert sorted(seen) == ["descriptor", "timer"]


def test_a_descriptor_that_is_always_ready_starves_neither_timer_nor_wake(
    bench: Bench, pipe: tuple[int, int]
) -> None:
    os.write(pipe[1], b"x")

    def busy() -> None:
        bench.clock.now += 0.01

    bench.reactor.watch(pipe[0], busy)
    bench.reactor.post(Replied(1, 0))
    bench.wake_at = lambda event, now: now + 0.05
    assert bench.run(1.0).count(Woke()) >= 15


def test_what_is_queued_at_stop_is_dropped(bench: Bench) -> None:
    bench.reactor.post(Replied(1, 0))
    bench.reactor.post(Replied(2, 0))

    def stop(event: Event, now: float) -> float:
        bench.reactor.stop()
        return NEVER

    bench.wake_at = stop
    assert bench.run() == [Replied(1, 0)]


# ---- waking ---------------------------------------------------------------------------------------------


def test_it_wakes_when_asked_and_only_then(bench: Bench) -> None:
    bench.reactor.post(Replied(1, 0))
    bench.wake_at = lambda event, now: START + 0.5 if isinstance(event, Replied) else NEVER
    bench.run(5)
    assert bench.handled == [(0.0, Replied(1, 0)), (0.5, Woke())]


def test_the_last_step_says_when_to_wake(bench: Bench) -> None:
    bench.at(0.1, Replied(1, 0))
    bench.at(0.2, Replied(2, 0))
    bench.wake_at = lambda event, now: now + (0.2 if isinstance(event, Replied) else 99)
    bench.run(5)
    assert [at for at, event in bench.handled if event == Woke()] == [0.4]


def test_answers_that_have_come_are_handled_before_the_time_that_has_come(
    bench: Bench, pipe: tuple[int, int]
) -> None:
    bench.reactor.post(Replied(1, 0))

    def wake_at(event: Event, now: float) -> float:
        if event == Replied(1, 0):
            os.write(pipe[1], b"x")
            bench.clock.now += 1.0  # a slow step: answer and time-out have both come meanwhile
        return NEVER if event == Woke() else START + 0.5

    bench.wake_at = wake_at
    bench.reactor.watch(pipe[0], read_and(pipe[0], lambda: bench.reactor.post(Replied(2, 0))))
    assert bench.run(5) == [Replied(1, 0), Replied(2, 0), Woke()]


def test_a_wish_for_the_past_costs_no_more_than_a_thousand_turns_a_second(bench: Bench) -> None:
    bench.reactor.post(Replied(1, 0))
    bench.wake_at = lambda event, now: now - 5
    bench.run(1.0)
    assert 500 < len(bench.handled) <= 1002


def test_a_clock_that_jumps_ahead_wakes_once(bench: Bench) -> None:
    bench.reactor.post(Replied(1, 0))
    bench.wake_at = lambda event, now: now + 10
    bench.reactor.call_at(START + 1, lambda: setattr(bench.clock, "now", bench.clock.now + 86400))
    bench.reactor.call_at(START + 2, lambda: None)
    bench.run(86410)
    assert [event for at, event in bench.handled if at < 86405] == [Replied(1, 0), Woke()]


def test_rest_costs_nothing(bench: Bench) -> None:
    bench.run(6 * 3600)
    assert bench.reactor.turns <= 8


# ---- hints ----------------------------------------------------------------------------------------------


def test_a_lone_hint_passes_at_once(bench: Bench) -> None:
    bench.at(0.3, Hinted("rtnetlink", "wan"))
    bench.run()
    assert bench.handled == [(0.3, Hinted("rtnetlink", "wan"))]


def test_a_thousand_hints_in_a_second_are_a_handful_of_steps(bench: Bench) -> None:
    for number in range(1000):
        bench.at(number / 1000, Hinted("rtnetlink"))
    bench.run(3)
    assert len(bench.handled) <= 15
    assert bench.handled[0][0] == 0.0
    assert bench.handled[1][0] == pytest.approx(SETTLE, abs=0.002)


def test_a_thousand_hints_in_one_turn_are_two_steps(bench: Bench) -> None:
    bench.at(0.1, *[Hinted("hotplug", f"if{number}", "ifup") for number in range(1000)])
    bench.run()
    assert [event for _, event in bench.handled] == [
        Hinted("hotplug", "if0", "ifup"),
        Hinted("hotplug", "", "ifup"),
    ]


def test_after_a_quiet_time_a_hint_passes_at_once_again(bench: Bench) -> None:
    bench.at(0.0, *[Hinted("ubus")] * 50)
    bench.at(0.5, Hinted("ubus"))
    bench.run()
    assert [at for at, _ in bench.handled][-1] == 0.5


def test_a_storm_of_one_source_delays_no_other(bench: Bench) -> None:
    for number in range(500):
        bench.at(number / 1000, Hinted("rtnetlink"))
    bench.at(0.4005, Hinted("hotplug"))
    bench.run()
    assert (0.4005, Hinted("hotplug")) in bench.handled


@given(st.lists(st.tuples(st.floats(0, 2), st.sampled_from(["rtnetlink", "ubus"])), max_size=60))
def test_every_hint_is_followed_by_a_step_of_its_source_soon(hints: list[tuple[float, str]]) -> None:
    bench = Bench()
    for at, source in hints:
        bench.at(at, Hinted(source))
    bench.run(5)
    bench.reactor.close()
    for at, source in hints:
        steps = [step for step, event in bench.handled if event == Hinted(source)]
        assert any(at - 1e-5 <= step <= at + SETTLE_MAX + 1e-3 for step in steps)


# ---- timers ---------------------------------------------------------------------------------------------


def test_timers_come_in_order_and_once(bench: Bench) -> None:
    called: list[int] = []
    for delay in (3, 1, 2, 1):
        bench.reactor.call_at(START + delay, lambda delay=delay: called.append(delay))  # type: ignore[misc]
    bench.run(10)
    assert called == [1, 1, 2, 3]


def test_a_cancelled_timer_is_not_called_even_by_one_of_the_same_turn(bench: Bench) -> None:
    called: list[str] = []

    def cancel_the_second() -> None:
        called.append("first")
        second.cancel()

    first = bench.reactor.call_at(START + 1, cancel_the_second)
    second = bench.reactor.call_at(START + 1, lambda: called.append("second"))
    bench.reactor.call_at(START + 0.5, lambda: None).cancel()
    bench.run(2)
    assert called == ["first"]
    first.cancel()
    second.cancel()


def test_cancelled_timers_do_not_pile_up(bench: Bench) -> None:
    for number in range(10_000):
        bench.reactor.call_at(START + 1000 + number, lambda: None).cancel()
    assert len(bench.reactor._timers) <= 2 * STALE_TIMERS + 2
    kept = [bench.reactor.call_at(START + 0.5, lambda: None) for _ in range(1000)]
    for timer in kept:
        timer.cancel()
    bench.run(1)
    assert bench.reactor._stale == len(bench.reactor._timers)


def test_a_timer_set_by_a_timer_for_now_waits_for_the_next_turn(bench: Bench) -> None:
    calls = 0

    def again() -> None:
        nonlocal calls
        calls += 1
        if calls < 100:
            bench.reactor.call_at(bench.clock.now, again)

    bench.reactor.call_at(START, again)
    bench.run()
    assert calls == 100
    assert bench.reactor.turns >= 100


# ---- descriptors ----------------------------------------------------------------------------------------


def test_watching_again_replaces_callback_and_direction(bench: Bench) -> None:
    ours, theirs = socket.socketpair()
    seen = []
    with ours, theirs:
        theirs.send(b"x")
        bench.reactor.watch(ours.fileno(), lambda: seen.append("read"))

        def writable() -> None:
            seen.append("write")
            bench.reactor.unwatch(ours.fileno())

        bench.reactor.watch(ours.fileno(), writable, write=True)
        bench.run()
    assert seen == ["write"]


def test_unwatched_in_the_same_turn_means_not_called(bench: Bench) -> None:
    pairs = [os.pipe() for _ in range(2)]
    called = []

    def callback(number: int) -> Callable[[], None]:
        def call() -> None:
            called.append(number)
            for read, _ in pairs:
                bench.reactor.unwatch(read)

        return call

    for number, (read, write) in enumerate(pairs):
        os.write(write, b"x")
        bench.reactor.watch(read, callback(number))
    bench.run()
    assert len(called) == 1
    for pair in pairs:
        for fd in pair:
            os.close(fd)


def test_a_descriptor_closed_unwatched_and_used_again_is_heard(bench: Bench) -> None:
    read, write = os.pipe()
    bench.reactor.watch(read, lambda: None)
    os.close(read)
    os.close(write)
    new_read, new_write = os.pipe()
    assert read in (new_read, new_write)  # the same number, another file
    heard = []
    os.write(new_write, b"x")
    bench.reactor.watch(new_read, read_and(new_read, lambda: heard.append(1)))
    bench.run()
    assert heard == [1]
    os.close(new_read)
    os.close(new_write)


def test_unwatching_the_unknown_and_the_closed_is_no_error(bench: Bench, pipe: tuple[int, int]) -> None:
    bench.reactor.unwatch(pipe[0])
    bench.reactor.unwatch(-1)
    bench.reactor.watch(pipe[0], lambda: None)
    os.close(pipe[0])
    bench.reactor.unwatch(pipe[0])


def test_an_exception_of_a_callback_or_a_step_leaves_run_and_the_handlers_are_put_back(
    bench: Bench, pipe: tuple[int, int]
) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def broken() -> None:
        raise ZeroDivisionError

    os.write(pipe[1], b"x")
    bench.reactor.watch(pipe[0], broken)
    with pytest.raises(ZeroDivisionError):
        bench.run()
    bench.reactor.unwatch(pipe[0])
    bench.reactor.post(Woke())

    def also_broken(event: Event, now: float) -> float:
        raise KeyError

    with pytest.raises(KeyError):
        bench.reactor.run(also_broken)
    assert signal.getsignal(signal.SIGTERM) is before


# ---- signals --------------------------------------------------------------------------------------------


def kill(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_end_is_an_event_and_a_second_one_ends(bench: Bench, number: int) -> None:
    bench.reactor.call_at(START + 0.1, kill(number))
    bench.reactor.call_at(START + 0.5, kill(number))
    bench.reactor.call_at(START + 0.8, lambda: pytest.fail("goes on after the second"))
    assert bench.run() == [Stopping()]


def test_other_signals_call_back_in_the_loop_and_twins_are_one(bench: Bench) -> None:
    reloads: list[float] = []
    bench.reactor.on_signal(signal.SIGHUP, lambda: reloads.append(bench.clock.now))
    bench.reactor.on_signal(signal.SIGUSR1, lambda: reloads.append(-1))
    for _ in range(20):
        bench.reactor.call_at(START + 0.1, kill(signal.SIGHUP))
    bench.reactor.call_at(START + 0.1, kill(signal.SIGUSR1))
    bench.reactor.call_at(START + 0.5, lambda: bench.reactor.post_threadsafe(Woke()))
    bench.run()
    assert len(reloads) == 2


def test_a_storm_of_signals_does_not_hide_the_one_that_ends(bench: Bench) -> None:
    bench.reactor.on_signal(signal.SIGHUP, lambda: None)

    def storm() -> None:
        for _ in range(3000):
            os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)

    bench.reactor.call_at(START, storm)
    assert bench.run() == [Stopping()]


def test_in_another_thread_it_runs_without_signals(bench: Bench) -> None:
    bench.reactor.post(Replied(1, 0))
    thread = threading.Thread(target=bench.run)
    thread.start()
    thread.join(10)
    assert [event for _, event in bench.handled] == [Replied(1, 0)]


# ---- other threads --------------------------------------------------------------------------------------


def test_what_threads_post_arrives_and_in_each_threads_order() -> None:
    with Reactor() as reactor:
        got: list[Event] = []

        def handle(event: Event, now: float) -> float:
            got.append(event)
            if len(got) == 400:
                reactor.stop()
            return NEVER

        def speak(name: str) -> None:
            for number in range(100):
                assert reactor.post_threadsafe(Commanded(f"{name}{number}"))

        threads = [threading.Thread(target=speak, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        reactor.call_at(reactor.now() + 10, reactor.stop)
        reactor.run(handle)
        for thread in threads:
            thread.join()
    for name in "abcd":
        mine = [event.verb for event in got if isinstance(event, Commanded) and event.verb[0] == name]
        assert mine == [f"{name}{number}" for number in range(100)]


def test_what_threads_post_later_arrives_too(bench: Bench) -> None:
    for number in range(3):
        event = Replied(number, 0)
        bench.reactor.call_at(START + number / 10, lambda event=event: bench.reactor.post_threadsafe(event))  # type: ignore[misc]
    assert len(bench.run()) == 3


def test_a_flood_from_a_thread_is_bounded_and_said(bench: Bench) -> None:
    taken = [bench.reactor.post_threadsafe(Replied(number, 0)) for number in range(THREAD_QUEUE + 10)]
    assert taken.count(False) == 10
    assert len(bench.run()) == THREAD_QUEUE


def test_nothing_leaks() -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    for _ in range(20):
        with Reactor() as reactor:
            reactor.call_at(reactor.now(), reactor.stop)
            reactor.run(lambda event, now: NEVER)
    assert descriptors() == before
