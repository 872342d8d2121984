"""A far site moves and its name follows: how long until traffic flows again, and by the usual rule."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

from tests.bench import rivals
from tests.bench.agents import pause, started
from tests.bench.measures import Bench, measure
from tests.lab import Flow, Lab, NotInTime, build, now, single, sites, until
from tests.lab.netns import end

TTL = 5  # seconds, of the name
RULE_S = 135.0  # seconds without a handshake, after which reresolve-dns.sh resolves
CRON_S = 60.0  # seconds between its runs
REKEY_S = 120.0  # seconds after which WireGuard makes a new handshake: a peer that lives is at most so old


@measure("ddns_move_to_traffic_s", full_s=110, quick_s=16)
def ddns(bench: Bench) -> None:
    """Moves at random moments of the TTL, there and back."""
    chance = random.Random(1)
    with build(single(sites(1), ttl=TTL), wait=True) as lab:
        agent = started(lab)
        with lab.flow("router", "site1") as flow:
            for _ in range(bench.runs(10, 2)):
                pause(1 + chance.random() * TTL)
                begin = _move(lab, "site1")
                pause(0.3)  # by now nothing of the old place is under way
                until(lambda: flow.flowing(), within=40, what="traffic again")
                bench.add("ddns_move_to_traffic_s", flow.outage(since=begin))
        agent.stop()


@measure("ddns_move_to_traffic_135s_rule_s", full_s=215, quick_s=1)
def rule(bench: Bench) -> None:
    """In a full run six sites are moved at handshake ages spread over 0 to 120 s, and the rule runs for each
    at another second of the minute; and the same is computed, which is all that a quick run does.
    """
    key = "ddns_move_to_traffic_135s_rule_s"
    if bench.quick:
        bench.add(
            key, *computed(1000), note="computed, not run: age of the handshake and second of cron's minute"
        )
        return
    count = 6
    with build(single(sites(count), ttl=TTL), wait=True) as lab, contextlib.ExitStack() as stack:
        made = now()  # all handshakes are some tenths of a second old
        flows: dict[str, Flow] = {}
        for number, name in enumerate(lab.sites):
            place = f"{name}.lab.test:51820"
            flows[name] = stack.enter_context(lab.flow("router", name, hertz=10))
            child = rivals.reresolve(lab, {lab.router.public_key(name): place}, phase=10.0 * (number * 5 % 6))
            stack.callback(end, child)
        moved: dict[str, float] = {}
        for number, name in enumerate(lab.sites):
            pause(max(0.0, made + 5 + 20 * number - now()))
            moved[name] = _move(lab, name)
        for name, flow in flows.items():
            with contextlib.suppress(NotInTime):
                until(lambda flow=flow: flow.flowing(0.5), within=220, what="traffic again")  # type: ignore[misc]
            bench.add(key, flow.outage(since=moved[name]), at_least=not flow.flowing(0.5))
    bench.add(key, *computed(1000), against="the same, computed", note="uniform over age and minute")


def computed(count: int) -> Iterator[float]:
    """Outages by the rule: the handshake was 0 to 120 s old at the move, and cron comes once a minute."""
    chance = random.Random(1)
    for _ in range(count):
        age, wait = chance.uniform(0, REKEY_S), chance.uniform(0, CRON_S)
        yield RULE_S - age + wait


def _move(lab: Lab, name: str) -> float:
    """The site is at its other home, and its name says so; when that began."""
    site = lab.site(name)
    home = site.plan.home_b if site.addresses == site.plan.home_a else site.plan.home_a
    begin = now()
    lab.move_site(name, *home)
    lab.move(f"{name}.lab.test", *home)
    return begin
