"""What a user would have otherwise: written by us from the documented behaviour of what each stands for.

- `reresolve.sh`: the rule of wireguard-tools' contrib/reresolve-dns.sh and of OpenWrt's wireguard_watchdog,
  from cron each minute: a peer without a handshake for 135 s is given its endpoint's name again by `wg set`.
- `tracker.sh`: mwan3track with mwan3's default constants: a `ping` as a child each 10 s, 4 s for an answer,
  one target; five lost in a row take the uplink out, five answered bring it back. Then conntrack is flushed.
- `wg`, `ip`, `conntrack`, `ping` are the real programs.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.lab import Isp, Lab
from tests.lab.netns import end

HERE = Path(__file__).resolve().parent
TRACKER = "ping-score tracker (mwan3's constants)"
RULE = "rule of reresolve-dns.sh"


def shell() -> list[str]:
    """A router's shell where it is found, else this machine's."""
    return ["busybox", "ash"] if shutil.which("busybox") else ["sh"]


@contextlib.contextmanager
def trackers(lab: Lab, *, interval: int = 10) -> Iterator[list[subprocess.Popen[bytes]]]:
    """One tracker for each uplink of the router, as mwan3 has it."""
    running = [_tracker(lab, isp, interval) for isp in lab.router.uplinks]
    try:
        yield running
    finally:
        end(*running)


def _tracker(lab: Lab, isp: Isp, interval: int) -> subprocess.Popen[bytes]:
    log = lab.directory / f"tracker-{isp.name}.log"
    words = (isp.device, isp.gateway4, str(isp.metric), "8.8.8.8", str(interval))
    return lab.router.box.start(*shell(), str(HERE / "tracker.sh"), *words, log=log)


def reresolve(lab: Lab, peers: dict[str, str], *, phase: float) -> subprocess.Popen[bytes]:
    """The rule for these peers (public key → host:port), each minute, first after `phase` seconds."""
    words = [word for key, place in peers.items() for word in (key, place)]
    script = str(HERE / "reresolve.sh")
    log = lab.directory / "reresolve.log"
    return lab.router.box.start(*shell(), script, "wg0", f"{phase:.2f}", *words, log=log)
