"""One cause for a peer's state, its evidence, what was tried, and what comes next and when: word for word."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wgrouter.core import explain
from wgrouter.core.care import Attempt, Care, Detour, Outlook
from wgrouter.core.findings import Rejected, Why
from wgrouter.core.ladder import Place
from wgrouter.core.liveness import ALIVE, DEAD, IDLE, NEW, SUSPECT, UNSEEN, Pulse
from wgrouter.core.model import NEVER, DeviceSeen, Endpoint, PeerSeen, World
from wgrouter.core.settings import HostPort, Peer

HERE, THERE = Endpoint("192.0.2.1", 51820), Endpoint("2001:db8::2", 51820)
PEER = Peer("wg0", "key", "office", (HostPort("vpn.example.net"),), keepalive=25)
SILENT = Pulse(
    DEAD, 100.0, life_at=60.0, proven=True, session=True, handshake_at=50.0, asked_since=85.0, initiations=3
)
BOTH = frozenset({4, 6})


def world(endpoint: Endpoint | None = HERE, clock: bool = True, here: bool = True) -> World:
    peers = {"key": PeerSeen("key", endpoint)} if here else {}
    return World(wireguard={"wg0": DeviceSeen("wg0", peers=peers)}, clock_trusted=clock)


def outlook(trouble: str = "", reachable: frozenset[int] = BOTH, enabled: bool = True) -> Outlook:
    return Outlook(
        resolved=lambda place: (HERE,),
        settled=lambda host, since: True,
        trouble=lambda host: trouble,
        reachable=reachable,
        enabled=enabled,
    )


def test_a_dead_peer_is_told_in_full() -> None:
    care = Care(
        pulse=SILENT,
        rung=2,
        tried=(HERE,),
        dead_at=100.0,
        resume_at=130.0,
        attempts=(
            Attempt(101.0, "resolve", "resolve vpn.example.net again", "answered"),
            Attempt(104.0, "endpoint", f"set the endpoint to {HERE}"),
        ),
        skipped=(Rejected("renew", "not allowed"),),
    )
    told = explain.explain(
        PEER, care, world(), outlook("SERVFAIL, says 192.0.2.53"), (Place(HERE, 0),), 110.0
    )
    assert told.subject == "wg0/office" and told.state == "dead"
    assert told.cause.text == (
        "no answer from 192.0.2.1:51820, and the name cannot be checked: SERVFAIL, says 192.0.2.53"
    )
    assert told.evidence == (
        "last handshake 60 s ago",
        "sent 3 handshake initiations for 25 s, nothing came back",
        "endpoint now 192.0.2.1:51820",
        "known addresses: 192.0.2.1:51820",
        "name: SERVFAIL, says 192.0.2.53",
        "uplink: default route for IPv4/IPv6",
    )
    assert told.tried == (
        (101.0, "resolve vpn.example.net again", "answered"),
        (104.0, "set the endpoint to 192.0.2.1:51820", "waiting for proof"),
    )
    assert told.next == explain.Next("step forget-flows", 130.0)
    assert told.rejected == (Rejected("renew", "not allowed"),)


def pulse(state: str, **other: object) -> Care:
    return Care(pulse=replace(SILENT, state=state), **other)  # type: ignore[arg-type]


QUIET = {"asked_since": NEVER, "initiations": 0}
BARE = replace(PEER, keepalive=0)
CAUSES = [
    (
        Why.CAUSE_DEVICE,
        "the interface wg0 does not exist",
        pulse(UNSEEN),
        World(wireguard={}),
        outlook(),
        PEER,
    ),
    (Why.CAUSE_DEVICE, "the interface wg0 does not exist", pulse(UNSEEN), World(), outlook(), PEER),
    (
        Why.CAUSE_PEER,
        "wg0 does not have this peer: the running interface differs from the configuration",
        pulse(UNSEEN),
        world(here=False),
        outlook(),
        PEER,
    ),
    (Why.CAUSE_NONE, "nothing is wrong", pulse(ALIVE), world(), outlook(reachable=frozenset()), PEER),
    (Why.CAUSE_DISABLED, None, pulse(DEAD), world(), outlook(enabled=False), PEER),
    (
        Why.CAUSE_UPLINK,
        "no uplink: no usable default route",
        pulse(DEAD),
        world(clock=False),
        outlook(reachable=frozenset()),
        PEER,
    ),
    (
        Why.CAUSE_CLOCK,
        "the clock is wrong: the peer drops handshakes with a past time",
        pulse(DEAD),
        world(clock=False),
        outlook("SERVFAIL"),
        PEER,
    ),
    (Why.CAUSE_CLOCK, None, pulse(NEW), world(clock=False), outlook(), PEER),
    (Why.CAUSE_SILENT, None, pulse(SUSPECT), world(clock=False), outlook(), PEER),
    (
        Why.CAUSE_NAME,
        "the name gives no address: its name is not resolved yet",
        pulse(NEW),
        world(None),
        outlook(),
        PEER,
    ),
    (
        Why.CAUSE_NAME,
        "the name gives no address: NXDOMAIN",
        pulse(DEAD),
        world(None),
        outlook("NXDOMAIN"),
        PEER,
    ),
    (Why.CAUSE_NEW, "no handshake yet", Care(pulse=Pulse(NEW, 1.0)), world(), outlook(), PEER),
    (
        Why.CAUSE_IDLE,
        "nothing is sent, so nothing is known; no keepalive and no probe is configured",
        Care(pulse=Pulse(NEW, 1.0)),
        world(),
        outlook(),
        BARE,
    ),
    (Why.CAUSE_IDLE, None, Care(pulse=Pulse(IDLE, 1.0)), world(), outlook(), BARE),
    (
        Why.CAUSE_NEW,
        None,
        Care(pulse=Pulse(IDLE, 1.0)),
        world(),
        outlook(),
        replace(BARE, probe="10.0.0.1"),
    ),
    (Why.CAUSE_IDLE, None, Care(pulse=Pulse(NEW, 1.0)), world(None), outlook(), replace(PEER, endpoints=())),
    (Why.CAUSE_SILENT, None, Care(pulse=Pulse(NEW, 1.0, asked_since=2.0)), world(), outlook(), PEER),
    (
        Why.CAUSE_SILENT,
        None,
        Care(pulse=Pulse(NEW, 1.0), step=Attempt(1.0, "endpoint", "")),
        world(),
        outlook(),
        PEER,
    ),
    (  # not asked just now, but it was there before: not new
        Why.CAUSE_SILENT,
        None,
        Care(pulse=replace(SILENT, asked_since=NEVER)),
        world(),
        outlook(),
        PEER,
    ),
    (
        Why.CAUSE_FAMILY,
        "[2001:db8::2]:51820 is IPv6, and no uplink routes that",
        pulse(DEAD),
        world(THERE),
        outlook("SERVFAIL", frozenset({4})),
        PEER,
    ),
    (Why.CAUSE_SILENT, "192.0.2.1:51820 does not answer", pulse(DEAD), world(), outlook(), PEER),
    (
        Why.CAUSE_SILENT,
        None,
        pulse(DEAD, tried=(HERE, Endpoint("192.0.2.9", 1))),  # another one that is known no more
        world(),
        outlook(),
        PEER,
    ),
]


@pytest.mark.parametrize(("why", "text", "care", "seen", "view", "peer"), CAUSES)
def test_one_cause(why: Why, text: str | None, care: Care, seen: World, view: Outlook, peer: Peer) -> None:
    known = (Place(HERE, 0),) if not (seen.wireguard or {}).get("wg0") or _endpoint(seen) else ()
    told = explain.explain(peer, care, seen, view, known, 110.0)
    assert told.cause.why is why and told.cause.subject == "wg0/office"
    assert "?" not in told.cause.text
    if text is not None:
        assert told.cause.text == text


def _endpoint(seen: World) -> Endpoint | None:
    found = (seen.wireguard or {})["wg0"].peers.get("key")
    return found.endpoint if found else HERE


PLACES = (Place(HERE, 0), Place(THERE, 0))


@pytest.mark.parametrize(
    ("care", "places", "why"),
    [
        (pulse(DEAD, tried=(HERE, THERE)), PLACES, Why.CAUSE_ALL_SILENT),
        (pulse(DEAD, round=1), PLACES, Why.CAUSE_ALL_SILENT),
        (pulse(DEAD, tried=(HERE,)), PLACES, Why.CAUSE_SILENT),
        (pulse(DEAD, round=1), PLACES[:1], Why.CAUSE_SILENT),
    ],
)
def test_all_addresses_silent(care: Care, places: tuple[Place, ...], why: Why) -> None:
    told = explain.explain(PEER, care, world(), outlook(), places, 110.0)
    assert told.cause.why is why
    if why is Why.CAUSE_ALL_SILENT:
        assert told.cause.text.startswith("none of 2 known endpoints answers")


STEP = Attempt(100.0, "endpoint", "set")


def test_an_endpoint_from_before_whose_name_gives_nothing_now() -> None:
    told = explain.explain(PEER, pulse(DEAD), world(), outlook("NXDOMAIN"), (), 110.0)
    assert told.cause.why is Why.CAUSE_STALE_NAME


@pytest.mark.parametrize("trouble", ["", "SERVFAIL"])
def test_a_device_that_was_given_no_endpoint_yet_is_not_said_to_be_silent(trouble: str) -> None:
    """Once it was: "None does not answer"."""
    for care, why in (
        (pulse(NEW, step=STEP), Why.CAUSE_PROVING),
        (pulse(DEAD, step=STEP), Why.CAUSE_PROVING),
        (pulse(DEAD), Why.CAUSE_NEW),
    ):
        told = explain.explain(PEER, care, world(None), outlook(trouble), PLACES, 110.0)
        assert told.cause.why is why
        assert "None" not in told.cause.text


NEXT = [
    (pulse(DEAD, resume_at=50.0), PEER, ("step resolve", 110.0)),  # due already
    (pulse(DEAD, resume_at=150.0, rung=99), PEER, ("step restart", 150.0)),
    (pulse(DEAD, step=STEP, deadline=120.0), PEER, ("proof of step endpoint, or the next step", 120.0)),
    (pulse(DEAD, frozen=True), PEER, ("the ladder, as soon as there is an uplink", NEVER)),
    (
        pulse(ALIVE, trial_until=112.0, step=STEP, return_at=900.0),
        PEER,
        ("proof of the preferred endpoint, or back", 112.0),
    ),
    (pulse(ALIVE, return_at=400.0), PEER, ("try the preferred endpoint", 400.0)),
    (pulse(ALIVE), PEER, None),
    (pulse(DEAD), replace(PEER, endpoints=()), None),
]


@pytest.mark.parametrize(("care", "peer", "expected"), NEXT)
def test_what_comes_next(care: Care, peer: Peer, expected: tuple[str, float] | None) -> None:
    told = explain.explain(peer, care, world(), outlook(), PLACES, 110.0).next
    assert (told and (told.what, told.at)) == expected


def test_switched_off_nothing_comes_next() -> None:
    assert explain.explain(PEER, pulse(DEAD), world(), outlook(enabled=False), PLACES, 110.0).next is None


def test_surroundings_without_anything() -> None:
    told = explain.explain(PEER, Care(), world(None), outlook(reachable=frozenset()), (), 110.0)
    assert told.evidence[-2:] == ("endpoint now none", "uplink: none")
    told = explain.explain(PEER, Care(), world(here=False), outlook(), (), 110.0)
    assert told.evidence == ("the device does not have this peer", "uplink: default route for IPv4/IPv6")


def test_a_detour_is_evidence_and_its_end_comes_next() -> None:
    care = pulse(ALIVE, return_at=500.0)

    def told(detour: Detour | None) -> explain.Explanation:
        return explain.explain(PEER, care, world(), outlook(), (Place(HERE, 0),), 110.0, detour)

    way = Detour("wanb", "wan", 4, until=400.0, wait=300.0)
    assert told(way).evidence[-1] == "outer packets go by wanb instead of wan"
    assert told(way).next == explain.Next("go by wan again", 400.0)
    assert told(replace(way, until=600.0)).next == explain.Next("try the preferred endpoint", 500.0)
    care = pulse(ALIVE)
    assert told(way).next == explain.Next("go by wan again", 400.0)
    assert told(replace(way, until=NEVER)).next is None, "while it is not proven nobody knows"
    care = pulse(ALIVE, return_at=500.0)
    for none in (None, replace(way, wan="")):
        assert told(none).next == explain.Next("try the preferred endpoint", 500.0)
        assert told(none).evidence[-1] == "uplink: default route for IPv4/IPv6"
