"""Many names: how long until all are resolved, and whether probes are late meanwhile."""

from __future__ import annotations

import itertools
import socket
import struct
import threading
import time

from tests.bench.agents import Lines, pause, status
from tests.bench.measures import Bench, measure
from tests.lab import Agent, Lab, build, dual, now, sites, until

LOADED = "[config.loaded]"
ETH_P_IP = 0x0800


@measure("resolve_50_names_s", "resolve_50_names_one_dead_server_s", full_s=60, quick_s=12)
def names(bench: Bench) -> None:
    """From the settings in force to the last of 50 names; beside it `wg set` with each name in turn."""
    count = 50
    with build(dual(sites(count, alive=False), ttl=60), wait=False) as lab:
        for dead, key in ((False, "resolve_50_names_s"), (True, "resolve_50_names_one_dead_server_s")):
            if dead:
                lab.stop_dns("a")
            for _ in range(bench.runs(5, 2)):
                bench.add(key, _resolve(lab, count))
            some = count if not dead else 1 if bench.quick else 2
            took = _wg_set(lab, some) * count / some
            note = f"{some} measured, times {count // some}" if dead else ""
            bench.add(key, took, against="`wg set` with a name, one after another", note=note)


def _resolve(lab: Lab, count: int) -> float:
    with Lines(lab.router.root / "agent.log") as lines:
        agent = lab.router.start_agent("")
        until(lambda: resolved(agent) >= count, within=30, what=f"{count} names")
        took = now() - lines.first(LOADED)
    agent.stop()
    return took


def resolved(agent: Agent) -> int:
    """How many names it knows addresses of."""
    return sum(1 for name in status(agent)["names"] if name["addresses"])


def _wg_set(lab: Lab, count: int) -> float:
    """Seconds of `wg set … endpoint NAME` for so many peers: it resolves by the system's resolver."""
    began = now()
    for site in lab.topology.sites[:count]:
        place = f"{site.name}.lab.test:51820"
        lab.router.run("wg", "set", "wg0", "peer", lab.router.public_key(site.name), "endpoint", place)
    return now() - began


@measure("stall_with_250_names_ms", full_s=90, quick_s=20)
def stall(bench: Bench) -> None:
    """Probes as they arrive at the first ISP, one a second: the longest that one came too late.

    All names have a TTL of 5 s, so they are asked for together again and again; all peers but one are dead,
    so that the ladder has work too.
    """
    for count, against in ((250, ""), *(() if bench.quick else ((1, "with one name"),))):
        living = sites(1)
        dead = tuple(site for site in sites(count, alive=False) if site.number > 1)
        with build(dual((*living, *dead), ttl=5), wait=False) as lab:
            agent = lab.router.start_agent("")
            until(lambda: resolved(agent) >= count, within=60, what=f"{count} names")  # noqa: B023
            late = _lateness(lab, bench.seconds(30, 8))
            bench.add("stall_with_250_names_ms", 1000 * late, against=against)
            agent.stop()


def _lateness(lab: Lab, seconds: float) -> float:
    """Seconds by which the latest of the IPv4 probes of the first uplink came after its second was over."""
    isp = lab.topology.isps[0]
    box = lab.isp_box(isp.name)
    sock = box.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP))
    source = socket.inet_aton(isp.router4)
    heard: list[float] = []
    ended = threading.Event()

    def listen() -> None:
        while not ended.is_set():
            try:
                frame = sock.recv(128)
            except TimeoutError:
                continue
            now_ = time.monotonic()
            protocol, sender = struct.unpack_from("!9xB2x4s", frame, 14)
            if protocol == socket.IPPROTO_ICMP and sender == source and frame[34] == 8:
                heard.append(now_)

    with sock:
        sock.bind(("sub", 0))
        sock.settimeout(0.2)
        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        pause(seconds)
        ended.set()
        thread.join()
    if len(heard) < seconds / 2:
        raise RuntimeError(f"only {len(heard)} probes in {seconds:g} s")
    return max(0.0, max(b - a for a, b in itertools.pairwise(heard)) - 1.0)
