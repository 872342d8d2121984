"""Measures `wgrouter fleet watch`: `python -m tests.fleet.measure [ROUTERS]`. docs/fleet.md has the figures.

A real mosquitto, many simulated routers, the real command behind a pseudo-terminal. From a key, or from the
publishing of a message, to the last byte that the terminal got for it; memory and CPU time of the process, at
rest and while a hundred routers a second fail over or back.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.fleet import world
from tests.fleet.machine import PATIENCE, Mosquitto, Publisher, Terminal, until
from tests.fleet.world import CUT
from wgrouter.mqtt.topics import Publication

KEYS = 40
NEWS = 40
STORM = 10.0  # seconds
RATE = 1000  # messages a second


def shown(terminal: Terminal, act: Callable[[], object], condition: Callable[[], bool], what: str) -> float:
    """Milliseconds from an act to the bytes that made a condition true."""
    begun = time.monotonic()
    act()
    deadline = begun + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what}\n{terminal.text}"
        time.sleep(0.001)
    return (terminal.updated - begun) * 1000


def told(times: list[float]) -> str:
    ordered = sorted(times)
    high = ordered[int(len(ordered) * 0.95)]
    return f"median {statistics.median(ordered):.0f} ms, 95 % {high:.0f} ms, worst {ordered[-1]:.0f} ms"


def pressed(terminal: Terminal) -> list[float]:
    """Each key turns the order round, so that the whole screen is another one."""
    times = []
    for number in range(KEYS):
        before, word = terminal.text, "reversed" if number % 2 == 0 else ""

        def turned(before: str = before, word: str = word) -> bool:
            text = terminal.text
            return text != before and (not word or word in text) and (bool(word) or "reversed" not in text)

        times.append(shown(terminal, lambda: terminal.press("r"), turned, "the order turned round"))
    return times


def storm(port: int, fleet: list[world.Simulated], go: Any, over: Any, sent: Any) -> None:
    """In a process of its own: routers fail over, and back, RATE messages a second."""
    batches = [[*one.events(CUT), *one.everything(CUT)] for one in fleet] + [
        one.everything() for one in fleet
    ]
    publisher = Publisher(port)
    sent.value = 0
    go.wait()
    began = time.monotonic()
    for number in itertools.count():
        if over.is_set():
            break
        batch = batches[number % len(batches)]
        publisher.tell(batch)
        sent.value += len(batch)
        time.sleep(max(0.0, sent.value / RATE - (time.monotonic() - began)))
    publisher.close()


def news(fleet: list[world.Simulated], terminal: Terminal, publisher: Publisher) -> Iterator[float]:
    """Routers go offline and come back, one at a time."""
    count = len(fleet)
    for number in range(NEWS):
        one = fleet[number // 2 * 7 % count]
        gone = number % 2 == 0
        message = world.offline(one) if gone else Publication(one.topics.availability, b"online", 1, True)
        text = f"{count - gone} online"

        def seen(text: str = text) -> bool:
            return text in terminal.text

        yield shown(terminal, lambda m=message: publisher.tell([m]), seen, "news")  # type: ignore[misc]


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure `wgrouter fleet watch`.")
    parser.add_argument("routers", nargs="?", type=int, default=1000)
    count = parser.parse_args().routers
    fleet = world.fleet(count, wall=time.time())
    here = multiprocessing.get_context("fork")
    go, over, sent = here.Event(), here.Event(), here.Value("i", -1)
    with Mosquitto() as broker:
        stormer = here.Process(target=storm, args=(broker.port, world.fleet(count), go, over, sent))
        stormer.start()
        publisher = Publisher(broker.port)
        publisher.tell(message for router in fleet for message in router.everything())
        until(lambda: sent.value == 0, "the storm is prepared", within=120)
        began = time.monotonic()
        with Terminal("watch", "--broker", broker.url, columns=140, lines=50) as terminal:
            terminal.shows(f"{count} routers   {count} online", within=60)
            print(f"{count} routers on the screen after {time.monotonic() - began:.1f} s")
            print(f"memory: {terminal.rss_mib:.1f} MiB")
            print(f"from a key to the new screen, at rest: {told(pressed(terminal))}")
            print(f"from publishing to the screen: {told(list(news(fleet, terminal, publisher)))}")
            cpu = terminal.cpu_seconds
            time.sleep(STORM)
            print(f"CPU at rest: {(terminal.cpu_seconds - cpu) / STORM * 100:.1f} %")
            go.set()
            until(lambda: sent.value > RATE, "the storm has begun")
            cpu, begun, before = terminal.cpu_seconds, time.monotonic(), sent.value
            times: list[float] = []
            while time.monotonic() - begun < STORM:
                times += pressed(terminal)
            spent = time.monotonic() - begun
            share = (terminal.cpu_seconds - cpu) / spent * 100
            rate = (sent.value - before) / spent
            print(f"from a key, with {rate:.0f} messages a second (CPU {share:.0f} %): {told(times)}")
            until(lambda: sent.value > 15 * count, "every router has failed over once", within=120)
            over.set()
            stormer.join()
            print(f"memory after {sent.value} messages: {terminal.rss_mib:.1f} MiB")
            terminal.press("q")
            terminal.wait()
        publisher.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
