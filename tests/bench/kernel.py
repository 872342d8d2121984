"""What single acts on the kernel cost, beside the programs that scripts use for them."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

from tests.bench.agents import timed
from tests.bench.measures import Bench, measure
from tests.lab import build, dual, sites
from tests.ports.netns import Namespace, namespace
from wgrouter.core.messages import ForgetFlows
from wgrouter.core.model import Hop, Route
from wgrouter.ports.conntrack import Conntrack
from wgrouter.ports.kernel import Kernel

ENTRIES, DOOMED = 10_000, 100
ROUTER, WEB = "100.64.0.2", "192.0.2.80"


def _run(command: str) -> None:
    subprocess.run(command, shell=True, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@measure("snapshot_ms", "route_replace_ms", full_s=4, quick_s=2)
def kernel(bench: Bench) -> None:
    """In the router's namespace of a lab with two uplinks and a tunnel to four peers."""
    runs = bench.runs(30, 20)

    def work() -> None:
        port = Kernel()
        looks = [1000 * took for took in timed(port.snapshot, runs)]
        bench.add("snapshot_ms", *looks, note="nothing changed since the last one")
        first = [1000 * took for took in timed(lambda: Kernel().snapshot(), runs)]
        bench.add("snapshot_ms", *first, against="the first look of a new process")
        _beside(
            bench,
            "snapshot_ms",
            "ip -j link, address, route, rule (6 programs)",
            "ip -j -s link; ip -j address;"
            " for f in -4 -6; do ip -j $f route show table all; ip -j $f rule; done",
            runs // 2,
        )
        route = Route(4, 7999, "0.0.0.0/0", (Hop("100.64.1.1", "eth1"),), 5, 157)
        took = [1000 * one for one in timed(lambda: port.add_route(route), runs)]
        bench.add("route_replace_ms", *took)
        words = "default via 100.64.1.1 dev eth1 table 7999 metric 5 proto 157"
        _beside(bench, "route_replace_ms", "ip route replace", f"ip route replace {words}", runs // 2)
        port.delete_route(route)
        port.close()

    with build(dual(sites(4)), wait=False) as lab:
        inside(lab.router.box.in_thread, work)


def _beside(bench: Bench, key: str, what: str, command: str, runs: int) -> None:
    bench.add(key, *(1000 * took for took in timed(lambda: _run(command), runs)), against=what)


def inside(start: Callable[[Callable[[], None], str], object], work: Callable[[], None]) -> None:
    """Run to the end in a thread of a box; an error there is one here."""
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 — raised again below
            errors.append(error)

    start(guarded, "bench").join()  # type: ignore[attr-defined]
    if errors:
        raise errors[0]


@measure("conntrack_delete_10k_ms", full_s=6, quick_s=3)
def conntrack(bench: Bench) -> None:
    """Of 10,000 tracked flows the 100 of one address are forgotten."""
    with namespace() as ns, tempfile.TemporaryDirectory() as place:
        ns.batch(f"address add {ROUTER} dev lo", "address add 192.168.1.1 dev lo")
        # Without a rule that wants it, nothing is tracked.
        rule = "table inet t {\nchain c {\ntype filter hook output priority 0\nct state new\n}\n}\n"
        ns.run("nft", "-f", "-", given=rule)
        _fill(ns, Path(place), range(ENTRIES))
        count = int(ns.run("conntrack", "-C"))
        if count < ENTRIES:
            raise RuntimeError(f"{count} entries instead of {ENTRIES}")
        with ns.inside():
            port = Conntrack()
        runs = bench.runs(10, 5)
        for run in range(runs + 1):
            took, gone = _once(lambda: port.forget(ForgetFlows(remote="198.51.100.7")))
            if gone != DOOMED:
                raise RuntimeError(f"{gone} flows forgotten instead of {DOOMED}")
            if run:
                bench.add("conntrack_delete_10k_ms", took)
            _fill(ns, Path(place), range(DOOMED))
        port.close()
        for run in range(runs + 1):
            with ns.inside():
                took, _ = _once(lambda: _run("conntrack -D -d 198.51.100.7"))
            if run:
                bench.add("conntrack_delete_10k_ms", took, against="conntrack -D -d ADDRESS")
            _fill(ns, Path(place), range(DOOMED))
        with ns.inside():
            flushed, _ = _once(lambda: _run("conntrack -F"))
        bench.add(
            "conntrack_delete_10k_ms",
            flushed,
            against="conntrack -F (all 10,000)",
            note="flows of others too",
        )


def _once(work: Callable[[], object]) -> tuple[float, object]:
    """Milliseconds, and what it returned."""
    began = perf_counter()
    found = work()
    return 1000 * (perf_counter() - began), found


def _fill(ns: Namespace, place: Path, numbers: range) -> None:
    """The first DOOMED entries lead to one address."""
    file = place / "flows"
    lines = []
    for number in numbers:
        remote = "198.51.100.7" if number < DOOMED else f"203.0.{number >> 8}.{number & 255}"
        port = 10_000 + number
        lines.append(
            f"-I -p udp -t 600 -s {ROUTER} -d {remote} -r {remote} -q {ROUTER} --sport {port} --dport 53 "
            f"--reply-port-src 53 --reply-port-dst {port}\n"
        )
    file.write_text("".join(lines))
    ns.run("conntrack", "-R", str(file))
