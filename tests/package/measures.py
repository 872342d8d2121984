"""Two figures of the OpenWrt parts for `make bench`: how long a hint takes, how large the package is.

`hint_to_look_ms`: from the start of `ubus send network.interface …` (without that program: from an event on
the stand-in) until the agent's reactor has handled the hint and looked at the kernel.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from tests.package.test_ipk import RECIPES, WHEN, ipk
from tests.ports.test_bus import MISSING, World
from wgrouter.core.messages import Event, Hinted
from wgrouter.ports.kernel import Kernel
from wgrouter.shell.reactor import Reactor


def ipk_kib() -> list[float]:
    """KiB of the package that every router needs."""
    return [len(ipk.build(RECIPES["wgrouter"], WHEN)[0]) / 1024]


def hint_to_look_ms(runs: int = 20) -> tuple[list[float], str]:
    """Milliseconds of each run, and what bus they were measured on."""
    kind = "standin" if MISSING or not shutil.which("ubus") else "real"
    kernel = Kernel()
    with tempfile.TemporaryDirectory() as directory, Reactor() as reactor:
        world = World(kind, Path(directory))
        world.boot()
        bus = world.agent(reactor)
        bus.start()
        peer = world.peer() if kind == "standin" else None
        took: list[float] = []
        began = 0.0

        def go() -> None:
            nonlocal began
            began = time.perf_counter()
            news = {"action": "ifup", "interface": "wan"}
            if peer is not None:
                peer.tell(send=["network.interface", news])
            else:
                command = ["ubus", "-s", world.path, "send", "network.interface", json.dumps(news)]
                subprocess.run(command, check=True)

        def handle(event: Event, now: float) -> float:
            if isinstance(event, Hinted) and event.action == "ifup":
                kernel.snapshot()
                took.append((time.perf_counter() - began) * 1000)
                if len(took) >= runs:
                    reactor.stop()
                else:
                    reactor.call_at(reactor.now() + 0.25, go)  # past the window in which hints are merged
            return float("inf")

        reactor.call_at(reactor.now(), go)
        reactor.call_at(reactor.now() + 60, reactor.stop)
        reactor.run(handle)
        bus.close()
        world.close()
    kernel.close()
    return took, "real ubusd" if kind == "real" else "stand-in for ubusd"


if __name__ == "__main__":
    figures, how = hint_to_look_ms()
    middle = statistics.median(figures)
    print(f"hint_to_look_ms: median {middle:.1f}, max {max(figures):.1f} of {len(figures)} ({how})")
    print(f"ipk_kib: {ipk_kib()[0]:.1f}")
