"""Fuzzing: bytes that are led towards new branches go into the agent's doors, until one gives way.

A target takes bytes, gives them to an entry point as the world would (a datagram to a socket, a dump to a
netlink socket, a message to the courier) and raises if anything happens but the documented error or a value.
Where there is a serializer the value goes there and back; what the core is told, a whole engine takes in.

`python -m tests.fuzz` (`make fuzz`) runs targets with atheris. corpus/<target>/ holds the seeds, and every
input that once brought something down, as a file that says so by its name; an ordinary test replays them.
"""

from __future__ import annotations

import hashlib
import importlib
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CORPUS = HERE / "corpus"
CPU_MAX = 1.0  # seconds of this process that one input may take
MEMORY_MAX = 1024  # MiB

Run = Callable[[bytes], None]


@dataclass(frozen=True)
class Target:
    """A door: the function `name` of tests/fuzz/<module>.py. `size` is the longest input in bytes."""

    name: str
    module: str
    size: int
    about: str

    def load(self) -> Run:
        run: Run = getattr(importlib.import_module(f"tests.fuzz.{self.module}"), self.name)
        return run

    def words(self) -> list[bytes]:
        """What the mutator may put in whole."""
        found: list[bytes] = getattr(importlib.import_module(f"tests.fuzz.{self.module}"), "WORDS", {}).get(
            self.name, []
        )
        return found

    def corpus(self) -> list[Path]:
        return sorted(path for path in (CORPUS / self.name).iterdir() if path.is_file())


TARGETS = {
    target.name: target
    for target in (
        Target("uci", "config", 6000, "UCI text → sections → settings → engine; and written back"),
        Target("dns", "dns", 1500, "a datagram or a TCP stream at the socket of a query → engine"),
        Target("ubus", "ubus", 4000, "netifd's dump and events, and calls of our object"),
        Target("mqtt", "mqtt", 4000, "topic, properties and payload → command → the agent's answer"),
        Target("queue", "mqtt", 2000, "the file of events that an agent which stopped left behind"),
        Target("rtnetlink", "netlink", 4000, "dumps of links, addresses, routes, rules → Net → engine"),
        Target("wireguard", "netlink", 4000, "a dump of a WireGuard device, and wireguard-go's text"),
        Target("conntrack", "netlink", 4000, "a dump of tracked connections → what is deleted"),
        Target("journal", "journal", 8000, "a journal → replay; and written back"),
        Target("control", "control", 3000, "what comes over the control socket → the agent's answer"),
        Target("fleet", "fleet", 8000, "a router's messages → the operator's table and details"),
        Target("probes", "probes", 600, "answers to ICMP, ARP, neighbour, DNS and HTTP probes"),
        Target("text", "probes", 2000, "resolv.conf, /proc/net/dev, `nft list`, /sys"),
    )
}


class Slow(AssertionError):
    """An input that takes longer than CPU_MAX."""


def guarded(run: Run, data: bytes) -> None:
    """Run one input. Slow if it takes too long; everything else passes."""
    began = time.process_time()
    run(data)
    taken = time.process_time() - began
    if taken > CPU_MAX:
        raise Slow(f"{taken:.1f} s for {len(data)} bytes")


def place(error: BaseException) -> str:
    """What failed and where, the same for all inputs that fail there: exception, file, function."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/wgrouter/" in frame.filename] or frames
    where = f"{Path(ours[-1].filename).name}:{ours[-1].name}" if ours else "?"
    if isinstance(error, AssertionError) and frames:
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
    return f"{type(error).__name__} in {where}"


def name_of(data: bytes) -> str:
    """A file name for an input."""
    return hashlib.sha256(data).hexdigest()[:12]


def each(names: list[str]) -> Iterator[Target]:
    """The targets of these names, all if there are none. KeyError names one that is unknown."""
    for name in names or TARGETS:
        yield TARGETS[name]
