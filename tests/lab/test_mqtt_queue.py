"""What waits while the broker is away: it comes later, in order and once, or its absence is told.

The tests of the suite are short. `WGROUTER_LITERAL=1 python -m pytest tests/lab/test_mqtt_queue.py` is the
literal thing, about a quarter of an hour: ten minutes without the broker, and 50,000 events on a queue of
1000.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from tests.lab import Agent, Lab, until
from tests.lab.reporting import Witness, configuration, reporting
from wgrouter import client

LITERAL = os.environ.get("WGROUTER_LITERAL") == "1"
OUTAGE = 600.0 if LITERAL else 0.0  # seconds
WAITING = 500  # events
QUEUE, FLOOD = (1000, 50_000) if LITERAL else (50, 100)
PER_ROUND = 8  # events of a switch there and back
GROWTH_MAX = 3.0  # MiB: 1 MiB is what events may take as they wait, the rest is the journal's ring

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(180 + 2 * OUTAGE),
    pytest.mark.usefixtures("as_it_was"),
]


def cut_off(lab: Lab) -> None:
    """Let nothing reach the broker; the witness, which sits beside it, stays connected."""
    for address in lab.broker.addresses:
        lab.silence(address)


def reconnect(lab: Lab) -> None:
    for address in lab.broker.addresses:
        lab.unsilence(address)


def troubled(agent: Agent) -> Iterator[int]:
    """One switch there and back after the other; how many events wait or were dropped."""
    place = client.path_below(str(agent.root))
    while True:
        for wan in ("eth2", "eth1"):
            client.ask(place, "switch", {"wan": wan, "seconds": 0})
        told = reporting_of(place)
        yield told["queued"] + told["dropped"]


def reporting_of(place: str) -> dict[str, int]:
    told: dict[str, int] = client.ask(place, "status")["mqtt"]
    return told


def resident(agent: Agent) -> float:
    """MiB."""
    with open(f"/proc/{agent.pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS:")) / 1024


@pytest.mark.parametrize("version", ["5"] if LITERAL else ["5", "3.1.1"])
def test_what_happened_while_the_broker_was_away_is_told_in_order_and_once(lab: Lab, version: str) -> None:
    """Ten minutes of a troubled line; in the suite as many events in some seconds."""
    witness = Witness(lab)
    agent = lab.router.start_agent(configuration(lab, protocol=version))
    witness.settled(agent)
    cut_off(lab)
    begun, before, most = time.monotonic(), resident(agent), 0.0
    for waiting in troubled(agent):
        most = max(most, resident(agent))
        if waiting >= WAITING and time.monotonic() - begun >= OUTAGE:
            break
        time.sleep(OUTAGE * PER_ROUND / WAITING)
    away = time.monotonic() - begun
    waiting = reporting(agent)["queued"]
    reconnect(lab)
    until(lambda: reporting(agent)["queued"] == 0, within=150, what="an empty queue")
    order = [event["seq"] for _, event in witness.events()]
    seen = sorted(set(order))
    print(
        f"{waiting} events waited for {away:.0f} s; {len(order)} came, {len(order) - len(seen)} of them "
        f"twice; RSS {before:.1f} MiB, {most:.1f} at most"
    )
    assert seen == list(range(1, max(seen) + 1))
    first = [order.index(seq) for seq in seen]
    assert first == sorted(first)
    assert {word for _, word in witness.availability()} <= {"online", "offline"}
    assert reporting(agent)["dropped"] == 0
    assert most - before <= GROWTH_MAX


@pytest.mark.parametrize("version", ["5", "3.1.1"] if LITERAL else ["5"])
def test_more_than_fits_is_dropped_from_the_front_and_told(lab: Lab, version: str) -> None:
    witness = Witness(lab)
    agent = lab.router.start_agent(configuration(lab, queue=QUEUE, protocol=version))
    witness.settled(agent)
    cut_off(lab)
    full, most = 0.0, 0.0
    for total in troubled(agent):
        if total > QUEUE:  # what waits now is as much as ever will
            full = full or resident(agent)
            most = max(most, resident(agent))
        if total >= FLOOD:
            break
    assert reporting(agent)["queued"] <= QUEUE + 20
    reconnect(lab)
    until(lambda: reporting(agent)["queued"] == 0, within=150, what="an empty queue")
    seen = [event["seq"] for _, event in witness.events()]
    (_, gap), *others = witness.events("events.dropped")
    missing = set(range(1, max(seen) + 1)) - set(seen)
    first, last = gap["before"]["first"], gap["seq"]
    print(
        f"{max(seen)} events, {len(missing)} missing, told as {first} to {last}; RSS {full:.1f} MiB with the "
        f"queue full, {most:.1f} at most, {resident(agent):.1f} when all is told; MQTT {version}"
    )
    assert missing == set(range(first, last))
    assert not [event for _, event in others if event["seq"] != last]
    assert most - full <= GROWTH_MAX


def test_a_broker_that_was_started_anew_is_found_again(lab: Lab) -> None:
    witness = Witness(lab)
    agent = lab.router.start_agent(configuration(lab))
    witness.settled(agent)
    lab.broker.stop()
    agent.says("closed the connection [broker.lost]", within=10)
    agent.says("nobody listens on port 8883 [broker.unreachable]", within=20)
    lab.broker.start()
    until(lambda: reporting(agent)["state"] == "up", within=60, what="the broker again")
    witness.await_event("broker.lost")


def test_retained_state_is_there_for_who_comes_later(lab: Lab) -> None:
    agent = lab.router.start_agent(configuration(lab))
    first = Witness(lab)
    first.settled(agent)
    time.sleep(0.2)
    late = Witness(lab)
    until(lambda: len(late.messages()) >= 6, within=5, what="what is retained")
    topics = {message.topic for message in late.messages() if message.retained}
    assert topics >= {
        "wgrouter/router/availability",
        "wgrouter/router/birth",
        "wgrouter/router/state",
        "wgrouter/router/wan/eth1",
        "wgrouter/router/wan/eth2",
        "wgrouter/router/tunnel/wg0/site1",
    }
    assert not [message for message in late.messages("/event") if message.retained]


def test_events_outlive_a_restart_where_a_file_is_given(lab: Lab) -> None:
    witness = Witness(lab)
    file = lab.router.root / "etc/wgrouter.events"
    config = configuration(lab, queue_file=file)
    agent = lab.router.start_agent(config)
    witness.settled(agent)
    cut_off(lab)
    agent.cli("switch", "eth2")
    until(lambda: reporting(agent)["queued"] > 3, within=5, what="events that wait")
    agent.stop()
    assert file.stat().st_mode & 0o777 == 0o600
    reconnect(lab)
    agent.start()
    witness.settled(agent)
    assert not file.exists()
    boots = [event["boot"] for _, event in witness.events()]
    first, second = dict.fromkeys(boots)
    told = {event["seq"]: event["type"] for _, event in witness.events() if event["boot"] == first}
    assert sorted(told) == list(range(1, max(told) + 1))
    assert "uplink.failover" in told.values() and told[max(told)] == "agent.stopped"
    assert second > first
