"""What the user's scripts are told: one line per situation, and the whole engine on a WAN that dies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.test_uplink import path
from wgrouter.core import news
from wgrouter.core.care import Care
from wgrouter.core.findings import Finding, Why
from wgrouter.core.link_watch import Uplink
from wgrouter.core.liveness import Pulse
from wgrouter.core.machine import Context
from wgrouter.core.messages import RunHook
from wgrouter.core.model import DeviceSeen, Endpoint, PeerSeen, World
from wgrouter.core.news import NewsMemory
from wgrouter.core.settings import Peer, Settings, Tunnel, Wan
from wgrouter.core.uplink import Choice

OFFICE = Peer("wg0", "KEY1", "office")
SETTINGS = Settings(tunnels=(Tunnel("wg0", peers=(OFFICE,)),))
A, B = path("a"), path("b")
FRESH = NewsMemory()


def told(memory: NewsMemory = FRESH, **given: Any) -> tuple[NewsMemory, list[RunHook]]:
    """One step of the news; what is not given is as it was, or empty."""
    settings = given.pop("settings", SETTINGS)
    now = given.pop("now", {})
    before = given.pop("before", now)
    options: dict[str, Any] = {"uplinks": (A, B), "choices": {}, "findings": (), "cares": {}} | given
    options.setdefault("recent", lambda: options["findings"])
    turn = news.step(memory, Context(1.0, settings, World(wireguard=now)), devices=before, **options)
    assert all(isinstance(effect, RunHook) for effect in turn.effects)
    return turn.memory, list(turn.effects)  # type: ignore[arg-type]


def choice(wan: str, reason: str = "because") -> Choice:
    return Choice(wan, 0.0, reason)


def back(family: int) -> Finding:
    return Finding(Why.UPLINK_FAILBACK, "a", {"family": family})


# ---------------------------------------------------------------- WANs


def test_a_start_is_no_news() -> None:
    memory, effects = told(choices={4: choice("a"), 6: choice("")})
    assert effects == []
    assert told(memory, choices={4: choice("a"), 6: choice("")}) == (memory, [])
    assert told(memory, choices={4: choice("a"), 6: choice("a")})[1] == []  # the first for IPv6


def test_failover_and_failback() -> None:
    memory, _ = told(choices={4: choice("a"), 6: choice("a")})
    lte = Uplink(replace(B.watch, wan=Wan("b", interface="wwan")))
    memory, effects = told(memory, choices={4: choice("b", "a: 6 missing"), 6: choice("a")}, uplinks=(A, lte))
    assert effects == [
        RunHook(
            {
                "ACTION": "failover",
                "WAN": "b",
                "FAMILY": "ipv4",
                "INTERFACE": "wwan",
                "DEVICE": "eth2",
                "REASON": "a: 6 missing",
            }
        )
    ]
    memory, effects = told(memory, choices={4: choice("a"), 6: choice("a")}, findings=(back(6), back(4)))
    assert [effect.environment["ACTION"] for effect in effects] == ["failback"]
    assert effects[0].environment["INTERFACE"] == "a"  # nobody knows a better name
    other = Finding(Why.UPLINK_FAILOVER, "b", {"family": 4})
    assert told(memory, choices={4: choice("b")}, findings=(other,))[1][0].environment["ACTION"] == "failover"
    _, effects = told(memory, choices={4: choice("b"), 6: choice("b")}, findings=(back(4),))
    assert [(e.environment["ACTION"], e.environment["FAMILY"]) for e in effects] == [
        ("failback", "ipv4"),
        ("failover", "ipv6"),
    ]


def test_a_gap_without_any_wan_is_told_by_what_follows_it() -> None:
    memory, _ = told(choices={4: choice("a")})
    memory, effects = told(memory, choices={4: choice("")})
    assert effects == []
    assert told(memory, choices={4: choice("a")})[1] == []  # where it was
    _, [effect] = told(memory, choices={4: choice("b")})
    assert effect.environment["ACTION"] == "failover"


def test_the_device_is_that_of_the_family() -> None:
    six = path("b", family=6)
    six = Uplink(replace(six.watch, path=replace(six.path, device="6in4-b")))
    memory, _ = told(choices={4: choice("a"), 6: choice("a")})
    _, effects = told(memory, choices={4: choice("b"), 6: choice("b")}, uplinks=(A, B, six))
    assert [effect.environment["DEVICE"] for effect in effects] == ["eth2", "6in4-b"]


def test_a_wan_of_which_nothing_is_seen_is_told_by_its_name() -> None:
    memory, _ = told(choices={4: choice("a")})
    _, [effect] = told(memory, choices={4: choice("c", "why")})
    words = {"ACTION": "failover", "WAN": "c", "FAMILY": "ipv4", "INTERFACE": "c", "REASON": "why"}
    assert effect.environment == words
    nowhere = Uplink(replace(B.watch, path=replace(B.path, device="")))
    _, [effect] = told(memory, choices={4: choice("b", "why")}, uplinks=(A, nowhere))
    assert effect.environment == {**words, "WAN": "b", "INTERFACE": "b"}, "no empty word"


@pytest.mark.parametrize(
    ("states", "word"),
    [
        (["up"], "connected"),
        (["suspect"], "connected"),
        (["degraded"], "connected"),
        (["unproven"], ""),
        (["up", "down"], "connected"),
        (["unproven", "down"], ""),
        (["down", "off"], "disconnected"),
        (["held"], "disconnected"),
        (["returning"], "disconnected"),
        (["off"], "disconnected"),
    ],
)
def test_mwan3s_word_for_a_wan(states: list[str], word: str) -> None:
    paths = tuple(path("a", state, family=family) for state, family in zip(states, (4, 6), strict=False))
    mwan3 = replace(SETTINGS, mwan3_hotplug=True)
    memory, effects = told(settings=mwan3, uplinks=paths)
    place = {"INTERFACE": "a", "DEVICE": "eth1"}
    assert effects == ([RunHook({"ACTION": word, **place}, "iface")] if word else [])
    assert told(memory, settings=mwan3, uplinks=paths) == (memory, [])
    assert told(uplinks=paths)[1] == []  # unless it is wanted


def test_connected_and_disconnected_take_turns() -> None:
    mwan3 = replace(SETTINGS, mwan3_hotplug=True)
    memory, words = NewsMemory(), []
    for state in (
        "unproven",
        "up",
        "suspect",
        "up",
        "suspect",
        "down",
        "held",
        "off",
        "returning",
        "held",
        "up",
    ):
        memory, effects = told(memory, settings=mwan3, uplinks=(path("a", state), path("b", "up")))
        words += [e.environment["ACTION"] for e in effects if e.environment["INTERFACE"] == "a"]
    assert words == ["connected", "disconnected", "connected"]
    memory, effects = told(memory, settings=mwan3, uplinks=())
    assert (effects, memory.tracked) == ([], {})  # not a WAN any more


# ---------------------------------------------------------------- peers


def cares(state: str) -> dict[tuple[str, str], Care]:
    return {OFFICE.id: Care(Pulse(state))}


@pytest.mark.parametrize(
    ("why", "before", "action"),
    [
        (Why.TUNNEL_ALIVE, "new", "tunnel-up"),
        (Why.TUNNEL_RECOVERED, "dead", "tunnel-up"),
        (Why.TUNNEL_DEAD, "suspect", "tunnel-down"),
        (Why.TUNNEL_DEAD, "new", "tunnel-down"),
        (Why.TUNNEL_UNSEEN, "alive", "tunnel-down"),
        (Why.TUNNEL_UNSEEN, "suspect", "tunnel-down"),
        (Why.TUNNEL_UNSEEN, "idle", "tunnel-down"),
        (Why.TUNNEL_UNSEEN, "dead", ""),  # it was told to be down
        (Why.TUNNEL_UNSEEN, "new", ""),  # it never was up
        (Why.TUNNEL_SUSPECT, "alive", ""),
        (Why.TUNNEL_STEP, "dead", ""),
    ],
)
def test_a_peer_comes_and_goes(why: Why, before: str, action: str) -> None:
    finding = Finding(why, "wg0/office", {"evidence": "seen", "reason": "seen", "rung": "x", "seconds": 1})
    _, effects = told(findings=(finding,), cares=cares(before))
    place = {"TUNNEL": "wg0", "PEER": "office", "INTERFACE": "wg0", "DEVICE": "wg0"}
    wanted = [RunHook({"ACTION": action, **place, "REASON": finding.text})] if action else []
    assert effects == wanted


def test_what_was_never_seen_does_not_go_and_others_say_nothing_of_it() -> None:
    other = Peer("wg0", "KEY2", "home")
    settings = replace(SETTINGS, tunnels=(Tunnel("wg0", peers=(OFFICE, other)),))
    unseen = (Finding(Why.TUNNEL_UNSEEN, "wg0/office", {"reason": "gone"}),)
    assert told(settings=settings, findings=unseen)[1] == []
    alive = {other.id: Care(Pulse("alive")), ("wg0", "OLD"): Care(Pulse("alive"))}
    assert told(settings=settings, findings=unseen, cares=alive)[1] == []
    assert told(settings=settings, findings=unseen, cares={**alive, **cares("new")})[1] == []
    assert len(told(settings=settings, findings=unseen, cares={**alive, **cares("alive")})[1]) == 1


def device(endpoint: Endpoint | None) -> dict[str, DeviceSeen]:
    return {"wg0": DeviceSeen("wg0", peers={"KEY1": PeerSeen("KEY1", endpoint), "KEY2": PeerSeen("KEY2")})}


ONE, TWO = Endpoint("192.0.2.1", 51820), Endpoint("2001:db8::2", 51820)


@pytest.mark.parametrize(
    ("before", "now", "told_of"),
    [
        (device(ONE), device(TWO), "[2001:db8::2]:51820"),
        (device(None), device(ONE), "192.0.2.1:51820"),
        (device(ONE), device(ONE), ""),
        (device(ONE), device(None), ""),
        (None, device(ONE), ""),  # the first look
        ({}, device(ONE), ""),  # the interface has just been made, with the address it is configured with
        (device(ONE), {}, ""),
        (device(ONE), None, ""),
    ],
)
def test_an_endpoint_counts_when_the_device_shows_it(before: Any, now: Any, told_of: str) -> None:
    _, effects = told(before=before, now=now)
    assert [effect.environment["ENDPOINT"] for effect in effects] == ([told_of] if told_of else [])
    for effect in effects:
        assert effect.environment["ACTION"] == "endpoint"
        assert effect.environment["REASON"] == f"the peer came from {told_of} itself"


def test_the_reason_of_an_endpoint_is_the_last_word_that_names_it() -> None:
    said = [
        Finding(
            Why.TUNNEL_MOVED,
            "wg0/other",
            {"old": str(ONE), "new": str(TWO), "reason": "another's name moved"},
        ),
        Finding(Why.TUNNEL_ALIVE, "wg0/office", {"evidence": "last handshake 1 s ago"}),
        Finding(
            Why.TUNNEL_MOVED, "wg0/office", {"old": str(ONE), "new": str(TWO), "reason": "the name moved"}
        ),
        Finding(Why.TUNNEL_STEP, "wg0/office", {"rung": "endpoint", "action": f"set the endpoint to {TWO}"}),
    ]
    _, [effect] = told(before=device(ONE), now=device(TWO), recent=lambda: said)
    assert effect.environment["REASON"] == said[2].text
