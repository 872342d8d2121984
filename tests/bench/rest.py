"""The agent at rest, with two WANs and four peers: memory, CPU, probes; and whether it grows."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.bench import rivals
from tests.bench.agents import (
    ONE_FAMILY,
    cpu_percent,
    cpu_seconds,
    memory_mib,
    pause,
    python_of,
    started,
)
from tests.bench.measures import Bench, measure
from tests.lab import Lab, build, dual, now, sites, until
from tests.lab.agent import Agent

TTL = 60  # seconds: what DDNS providers give
NAIVE = "import pyroute2, dns.resolver, json, logging, selectors, socket"


@measure(
    *("rss_mib", "rss_newest_mib", "pss_mib", "pss_newest_mib"),
    *("cpu_at_rest_percent", "cpu_at_rest_both_families_percent", "probes_per_second_steady"),
    full_s=150,
    quick_s=26,
)
def rest(bench: Bench) -> None:
    """Memory after some seconds, CPU over some more, on both library sets; then what others would take."""
    seconds = bench.seconds(20, 5)
    with build(dual(sites(4), ttl=TTL), wait=True) as lab:
        for which, more in (("router", ""), ("newest", "newest_")):
            agent = started(lab, which=which)
            if which == "router":
                _count_probes(bench, lab, seconds)
            cpu = cpu_percent(agent.pid, seconds)
            taken = memory_mib(agent.pid)
            bench.add(f"rss_{more}mib", taken["Rss"])
            bench.add(f"pss_{more}mib", taken["Pss"])
            bench.add("cpu_at_rest_both_families_percent", cpu, note="one run on each library set")
            agent.stop()
            if which == "router" or not bench.quick:
                agent = started(lab, ONE_FAMILY, which)
                bench.add("cpu_at_rest_percent", cpu_percent(agent.pid, seconds))
                agent.stop()
            for what, code in (("python3 that does nothing", ""), ("pyroute2 and dns.resolver whole", NAIVE)):
                bench.add(f"rss_{more}mib", _rss_of(code, which), against=what)
        for interval, what in ((1, f"{rivals.TRACKER}, each second"), (10, rivals.TRACKER)):
            if interval == 10 and bench.quick:
                continue  # a ping in ten seconds: it takes long to see what that costs
            with rivals.trackers(lab, interval=interval) as running:
                cpu = _cpu_of_all([child.pid for child in running], max(seconds, 4.0 * interval))
                bench.add("cpu_at_rest_percent", cpu, against=what)
                if interval == 1:
                    memory = [memory_mib(child.pid) for child in running]
                    bench.add(
                        "rss_mib", sum(one["Rss"] for one in memory), against=f"two of {rivals.TRACKER}"
                    )
                    bench.add(
                        "pss_mib", sum(one["Pss"] for one in memory), against=f"two of {rivals.TRACKER}"
                    )


def _cpu_of_all(pids: list[int], seconds: float) -> float:
    before, began = sum(cpu_seconds(pid, True) for pid in pids), now()
    pause(seconds)
    return 100 * (sum(cpu_seconds(pid, True) for pid in pids) - before) / (now() - began)


def _count_probes(bench: Bench, lab: Lab, seconds: float) -> None:
    """Echo requests that reach each ISP from the router's own address, by family."""
    counters = [
        lab.count(isp.namespace, f'iifname "sub" {match}')
        for isp in lab.topology.isps
        for match in (
            f"ip saddr {isp.router4} icmp type echo-request",
            f"ip6 saddr {isp.router6} icmpv6 type echo-request",
        )
    ]
    before, began = [counter.packets for counter in counters], now()
    pause(seconds)
    passed = now() - began
    rates = [(counter.packets - was) / passed for counter, was in zip(counters, before, strict=True)]
    bench.add("probes_per_second_steady", *rates, note="each WAN, each family; twice that per WAN")


def _rss_of(code: str, which: str) -> float:
    """Resident memory of an interpreter that has run this and waits."""
    command = [python_of(which), "-c", f"{code}\nprint(flush=True)\ninput()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found = memory_mib(child.pid)["Rss"]
        child.communicate(b"\n")
    return found


@measure("rss_growth_mib", full_s=170, quick_s=0)
def growth(bench: Bench) -> None:
    """Private memory after a first series of faults (the journal is full then) and after a second."""
    with build(dual(sites(4), ttl=5), wait=True) as lab:
        agent = started(lab)
        faults = _faults(lab)
        levels = []
        for _ in range(3):
            end = now() + 50
            while now() < end:
                next(faults)
                pause(2)
            levels.append(_level(agent))
        said = Path(agent.log).stat().st_size
    bench.add(
        "rss_growth_mib",
        levels[2] - levels[1],
        note=f"over 50 s of faults (each 4 s one), after 100 s of them; {levels[0]:.2f}, {levels[1]:.2f}, "
        f"{levels[2]:.2f} MiB private; {said / 1024:.0f} KiB said",
    )


def _level(agent: Agent) -> float:
    return memory_mib(agent.pid)["Private_Dirty"]


def _faults(lab: Lab) -> Iterator[None]:
    """A fault and its end, in turn, for ever: names that move, cables, black holes, a dead DNS server."""
    site = lab.site("site1")
    for number in itertools.count():
        kind = number % 4
        if kind == 0:
            home = site.plan.home_b if site.addresses == site.plan.home_a else site.plan.home_a
            lab.move_site("site1", *home)
            lab.move("site1", *home)
        elif kind == 1:
            lab.cut_carrier("a")
        elif kind == 2:
            lab.blackhole("a")
        else:
            lab.stop_dns()
        yield
        lab.restore_carrier("a")
        lab.unblackhole("a")
        lab.start_dns()
        until(lambda: lab.pings("router", "web"), within=20, what="the internet")
        yield
