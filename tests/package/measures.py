"""Two figures of the OpenWrt parts for `make bench`: how long a hint takes, how large the package is.

`hint_to_look_ms`: from the start of the program `ubus send network.interface …`, or of a shell that sources
the hotplug script, until the agent's bus, reactor and engine have taken the hint and the kernel has been
looked at. With the real ubusd, binding and `ubus` where they are found (the start of that program is half of
it); else from the moment in which another process says the same on the stand-in's bus. Nothing else of the
agent runs meanwhile. `ipk_kib`: of the package that every router needs, as `make ipk` writes it.
`python -m tests.package.measures` shows both.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from tests.package.test_files import HOTPLUG
from tests.package.test_ipk import RECIPES, WHEN, ipk
from tests.ports.test_bus import MISSING, World
from wgrouter.core.engine import Engine
from wgrouter.core.messages import Configured, Event, Hinted, Look
from wgrouter.core.settings import Settings
from wgrouter.ports.kernel import Kernel
from wgrouter.shell.reactor import Reactor


def ipk_kib() -> list[float]:
    """KiB of the package that every router needs."""
    return [len(ipk.build(RECIPES["wgrouter"], WHEN)[0]) / 1024]


def hint_to_look_ms(runs: int = 20, *, hotplug: bool = False) -> tuple[list[float], str]:
    """Milliseconds of each run, and how measured. With `hotplug`: from the start of the hotplug script."""
    kind = "standin" if MISSING or not shutil.which("ubus") else "real"
    kernel = Kernel()
    children: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory() as directory, Reactor() as reactor:
        world = World(kind, Path(directory))
        world.boot()
        bus = world.agent(reactor)
        bus.start()
        peer = world.peer() if kind == "standin" else None
        ubus = Path(directory) / "ubus"
        ubus.write_text(f'#!/bin/sh\nexec {shutil.which("ubus")} -s {world.path} "$@"\n')
        ubus.chmod(0o755)
        news = {"action": "ifup", "interface": "wan"}
        command = [str(ubus), "send", "network.interface", json.dumps(news)]
        if hotplug:
            command = ["sh", "-c", f". {HOTPLUG}"]
        environment = {"PATH": f"{directory}:{os.environ['PATH']}", "ACTION": "ifup", "INTERFACE": "wan"}
        took: list[float] = []
        began = 0.0
        engine = Engine()
        engine.handle(Configured(Settings()), reactor.now())

        def go() -> None:
            nonlocal began
            began = time.perf_counter()
            if peer is not None and hotplug:
                peer.tell(call=["wgrouter", "hint", news | {"device": "eth1"}])
            elif peer is not None:
                peer.tell(send=["network.interface", news])
            else:
                children.append(subprocess.Popen(command, env=environment))

        def handle(event: Event, now: float) -> float:
            if isinstance(event, Hinted) and event.action == "ifup":
                assert any(isinstance(effect, Look) for effect in engine.handle(event, now).effects)
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
        for child in children:
            child.wait()
        bus.close()
        world.close()
    kernel.close()
    return took, "real ubusd" if kind == "real" else "stand-in for ubusd"


if __name__ == "__main__":
    for what in (False, True):
        figures, how = hint_to_look_ms(hotplug=what)
        start = "hotplug script" if what else "ubus send"
        middle = statistics.median(figures)
        print(f"hint_to_look_ms from {start}: median {middle:.1f}, max {max(figures):.1f} ({how})")
    print(f"ipk_kib: {ipk_kib()[0]:.1f}")
