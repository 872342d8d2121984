"""What reporting costs, and how soon an operator knows: two WANs, four peers, a real mosquitto over TLS."""

from __future__ import annotations

import statistics
import time

from tests.bench.agents import at_rest, memory_mib, pause, python_of
from tests.bench.measures import Bench, measure
from tests.bench.names import _lateness as lateness
from tests.lab import Agent, Lab, build, dual, sites, until
from tests.lab.reporting import Witness, configuration, reporting

PLAIN_PORT = 1883


def _reporting(lab: Lab, witness: Witness, which: str) -> Agent:
    agent = lab.router.start_agent(configuration(lab), python=python_of(which))
    until(lambda: at_rest(agent), within=30, what="an agent at rest")
    until(lambda: (reporting(agent) or {}).get("queued") == 0, within=20, what="everything told")
    return agent


@measure(
    *("failover_event_at_subscriber_ms", "heartbeat_bytes"),
    *("rss_with_mqtt_mib", "rss_with_mqtt_newest_mib", "pss_with_mqtt_mib", "pss_with_mqtt_newest_mib"),
    full_s=170,
    quick_s=40,
)
def telling(bench: Bench) -> None:
    """A cable is cut; when a subscriber has the event, by this machine's one clock. Then memory and size."""
    with build(dual(sites(4), ttl=60, broker=True), wait=True) as lab:
        witness = Witness(lab)
        for which, more in (("router", ""), ("newest", "newest_")):
            for _ in range(bench.runs(8, 1)):
                agent = _reporting(lab, witness, which)
                pause(1)
                begun = time.time()
                lab.cut_carrier("a")
                at, _ = witness.await_event("uplink.failover", after=begun)
                bench.add("failover_event_at_subscriber_ms", 1000 * (at - begun), note="cable cut")
                pause(1)
                lab.restore_carrier("a")
                agent.stop()
            agent = _reporting(lab, witness, which)
            pause(bench.seconds(10, 3))
            taken = memory_mib(agent.pid)
            bench.add(f"rss_with_mqtt_{more}mib", taken["Rss"])
            bench.add(f"pss_with_mqtt_{more}mib", taken["Pss"])
            agent.stop()
        sizes = [len(message.payload.encode()) for message in witness.messages("/state")]
        bench.add("heartbeat_bytes", *sizes)


@measure("probe_late_broker_ms", full_s=130, quick_s=0)
def trouble(bench: Bench) -> None:
    """Probes as they arrive at the first ISP while the broker is frozen, refuses, or is not resolved."""
    with build(dual(sites(4), ttl=60, broker=True), wait=True) as lab:
        for what in ("at rest", "frozen", "refuses", "no name"):
            config = configuration(lab)
            if what == "no name":
                config = config.replace(lab.broker.host, "nowhere.lab.test")
            agent = lab.router.start_agent(config, python=python_of("router"))
            until(lambda agent=agent: at_rest(agent), within=30, what="an agent at rest")  # type: ignore[misc]
            if what == "frozen":
                lab.broker.freeze()
                lab.router.run("ss", "-K", "dport", "=", "8883", check=False)
            elif what == "refuses":
                lab.broker.stop()
            late = [lateness(lab, bench.seconds(12, 5)) for _ in range(bench.runs(2, 1))]
            against = "with a broker that is there" if what == "at rest" else ""
            bench.add("probe_late_broker_ms", *(1000 * one for one in late), against=against, note=what)
            bench.say(f"broker {what}: probes late by {1000 * statistics.fmean(late):.0f} ms")
            agent.stop()
            if what == "frozen":
                lab.broker.thaw()
            elif what == "refuses":
                lab.broker.start()
