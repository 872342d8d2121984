"""How cost grows with live peers: 1, 10, 50 and 250, each with a name and a WireGuard of its own."""

from __future__ import annotations

from pathlib import Path

from tests.bench.agents import cpu_percent, memory_mib, started, timed
from tests.bench.core import recorded, steps_us
from tests.bench.kernel import inside
from tests.bench.measures import Bench, measure
from tests.lab import Lab, build, dual, sites
from wgrouter.ports.wireguard import WireGuard

PATIENCE = 300  # seconds: 250 wireguard-go shake hands on the same two cores
WHAT = ("rss_mib", "cpu_percent", "step_us", "snapshot_ms")


def take(bench: Bench, count: int) -> None:
    """One lab of so many sites."""
    _make_room(count)
    with build(dual(sites(count), ttl=60), wait=True) as lab:
        items = recorded(lab, 20, PATIENCE)
        bench.add(f"peers_{count}_step_us", *(mean for mean, _ in steps_us(items, 5)))
        agent = started(lab, within=PATIENCE)
        inside(lab.router.box.in_thread, lambda: _look(bench, lab, count))
        bench.add(f"peers_{count}_cpu_percent", cpu_percent(agent.pid, 20))
        bench.add(f"peers_{count}_rss_mib", memory_mib(agent.pid)["Rss"])
        agent.stop()


def _make_room(count: int) -> None:
    """wireguard-go watches its socket by inotify, and ends where none of the usual 128 instances is left."""
    limit = Path("/proc/sys/fs/inotify/max_user_instances")
    limit.write_text(str(max(int(limit.read_text()), 2 * count + 128)))


def _look(bench: Bench, lab: Lab, count: int) -> None:
    """In the router's namespace: elsewhere there is no such device, and nothing is seen, fast."""
    port = WireGuard(f"/proc/{lab.router.box.pid}/root/run/wireguard")
    if (seen := len(port.snapshot(["wg0"])["wg0"].peers)) != count:
        raise RuntimeError(f"{seen} peers instead of {count}")
    looks = timed(lambda: port.snapshot(["wg0"]), 10)
    bench.add(f"peers_{count}_snapshot_ms", *(1000 * took for took in looks))
    port.close()


def _keys(count: int) -> list[str]:
    return [f"peers_{count}_{what}" for what in WHAT]


@measure(*_keys(1), full_s=60, quick_s=0)
def peers_1(bench: Bench) -> None:
    take(bench, 1)


@measure(*_keys(10), full_s=60, quick_s=0)
def peers_10(bench: Bench) -> None:
    take(bench, 10)


@measure(*_keys(50), full_s=75, quick_s=0)
def peers_50(bench: Bench) -> None:
    take(bench, 50)


@measure(*_keys(250), full_s=150, quick_s=0)
def peers_250(bench: Bench) -> None:
    take(bench, 250)
