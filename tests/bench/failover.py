"""An uplink dies while traffic flows: how long nothing came back, in the tunnel and for new connections.

Each run is an agent of its own, started afresh: after several failures in a row the default configuration
holds an uplink back for longer and longer, which is not what is measured here.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator

from tests.bench import rivals
from tests.bench.agents import at_rest, carries, pause, python_of
from tests.bench.measures import Bench, measure
from tests.lab import Connects, Flow, Lab, NotInTime, build, dual, now, sites, until

LAN_HERTZ = 50  # new connections a second
BOUND_S = 10.0  # how long a cut is watched where nothing heals it
TRACKED_S = 90.0  # how long where the tracker may
SURELY_S = 0.7  # traffic that goes on for so long is not the last of what was under way


@measure("outage_carrier_tunnel_ms", "outage_carrier_lan_ms", "failback_lost_packets", full_s=330, quick_s=15)
def carrier(bench: Bench) -> None:
    """The cable is pulled at the ISP's end, and plugged in again."""
    with build(dual(sites(1), ttl=60), wait=True) as lab:
        _series(bench, lab, "carrier", lambda: lab.cut_carrier("a"))


@measure("outage_blackhole_tunnel_ms", "outage_blackhole_lan_ms", full_s=440, quick_s=15)
def blackhole(bench: Bench) -> None:
    """The ISP forwards nothing any more; its end of the line has carrier, and is silent."""
    with build(dual(sites(1), ttl=60), wait=True) as lab:
        _series(bench, lab, "blackhole", lambda: lab.blackhole("a"))
        if not bench.quick:
            with rivals.trackers(lab):
                pause(1)
                _watch(bench, lab, "blackhole", lambda: lab.blackhole("a"), rivals.TRACKER, TRACKED_S)


def _series(bench: Bench, lab: Lab, kind: str, fault: Callable[[], None]) -> None:
    for number in range(bench.runs(20, 1)):
        which = ("router", "newest")[number % 2]
        try:
            _run(bench, lab, kind, fault, which)
        except NotInTime as error:
            assert lab.router.agent is not None
            error.add_note(lab.router.agent.output())
            raise
    _watch(bench, lab, kind, fault, "without an agent", bench.seconds(BOUND_S, BOUND_S / 3))


def _run(bench: Bench, lab: Lab, kind: str, fault: Callable[[], None], which: str) -> None:
    agent = lab.router.start_agent("", python=python_of(which))
    until(lambda: at_rest(agent) and carries(agent, "eth1"), within=30, what="the first uplink in use")
    with _traffic(lab) as (flow, lan):
        pause(random.uniform(0.5, 1.5))  # the cut comes at any moment between two probes
        begin = now()
        fault()
        until(lambda: carries(agent, "eth2"), within=15, what="the switch to the second uplink")
        _settled(flow, lan, 15)
        bench.add(f"outage_{kind}_tunnel_ms", 1000 * flow.outage(since=begin))
        bench.add(f"outage_{kind}_lan_ms", 1000 * lan.outage(since=begin))
        healed = now()
        lab.restore_carrier("a")
        lab.unblackhole("a")
        until(lambda: carries(agent, "eth1"), within=40, what="failback")
        pause(1.0)
        flow.stop()
        bench.add("failback_lost_packets", flow.lost_since(healed), note=f"after {kind}")
        stalled = max(flow.stall, lan.stall)
    agent.stop()
    last = (f"outage_{kind}_tunnel_ms", f"outage_{kind}_lan_ms", "failback_lost_packets")
    tunnel, connects, packets = (bench.results.figures[key].own.samples[-1] for key in last)
    bench.say(
        f"{kind}, {which} libraries: tunnel {tunnel:.0f} ms, LAN {connects:.0f} ms, "
        f"failback lost {packets:.0f}; senders late by {1000 * stalled:.0f} ms at most"
    )


def _watch(bench: Bench, lab: Lab, kind: str, fault: Callable[[], None], what: str, within: float) -> None:
    """The same cut with nothing, or something else, on the router; for so long at most."""
    with _traffic(lab) as (flow, lan):
        until(lambda: flow.flowing() and lan.flowing(), within=30, what="traffic")
        begin = now()
        fault()
        pause(SURELY_S)
        with contextlib.suppress(NotInTime):
            _settled(flow, lan, within)
        for where, traffic in (("tunnel", flow), ("lan", lan)):
            back = traffic.flowing(0.3)
            note = "" if back else f"watched for {within + SURELY_S:.1f} s"
            series = 1000 * traffic.outage(since=begin)
            bench.add(f"outage_{kind}_{where}_ms", series, against=what, at_least=not back, note=note)
        lab.restore_carrier("a")
        lab.unblackhole("a")
    lab.router.box.ip(f"route replace default {lab.isp('a').via(4)} metric {lab.isp('a').metric}")
    until(lambda: lab.pings("router", "site1"), within=30, what="the tunnel")


@contextlib.contextmanager
def _traffic(lab: Lab) -> Iterator[tuple[Flow, Connects]]:
    with lab.flow("router", "site1") as flow, lab.connects("client", "web", hertz=LAN_HERTZ) as lan:
        until(lambda: flow.flowing() and lan.flowing(), within=20, what="traffic")
        yield flow, lan


def _settled(flow: Flow, lan: Connects, within: float) -> None:
    """Both flow, and still do after some time. NotInTime."""
    until(lambda: flow.flowing() and lan.flowing(), within=within, what="traffic by the second uplink")
    pause(SURELY_S)
    until(lambda: flow.flowing() and lan.flowing(), within=within, what="traffic by the second uplink")
