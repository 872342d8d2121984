"""Status entries in mwan3's words: which state is online, two families as one WAN, what is no number."""

from __future__ import annotations

from typing import Any

import pytest

from wgrouter.core import mwan3


def entry(state: str = "up", family: int = 4, **more: Any) -> dict[str, Any]:
    return {"name": "wan", "family": family, "state": state, "since_s": 7.6, "carrier": True, **more}


def only(*entries: object) -> dict[str, Any]:
    told = mwan3.renamed(entries)["interfaces"]
    assert list(told) == ["wan"]
    return dict(told["wan"])


@pytest.mark.parametrize(
    ("state", "status", "online", "offline", "tracking"),
    [
        *(("up", "online", 8, 0, "active"), ("suspect", "online", 8, 0, "active")),
        *(("degraded", "online", 8, 0, "active"), ("unproven", "online", 8, 0, "active")),
        *(("down", "offline", 0, 8, "active"), ("off", "offline", 0, 8, "active")),
        *(("held", "offline", 0, 0, "active"), ("returning", "offline", 0, 0, "active")),
        *(("disabled", "disabled", 0, 0, "disabled"), ("odd", "odd", 0, 0, "down")),
    ],
)
def test_a_state_in_mwan3s_words(state: str, status: str, online: int, offline: int, tracking: str) -> None:
    told = only(entry(state))
    assert (told["status"], told["online"], told["offline"]) == (status, online, offline)
    assert told["tracking"] == tracking
    assert told["running"] is (tracking == "active")
    assert told["enabled"] is (state != "disabled")


@pytest.mark.parametrize("states", [("up", "down"), ("down", "up")])
def test_a_wan_is_online_if_it_is_so_over_any_family(states: tuple[str, str]) -> None:
    four = entry(states[0], 4, targets=[{"address": "1.1.1.1", "state": "up"}])
    six = entry(states[1], 6, carrier=False, targets=[{"address": "2606:4700::1111", "state": "down"}])
    lit, unlit = {**six, "carrier": True}, {**four, "carrier": False}
    for entries in ((four, six), (four, lit), (unlit, six), (unlit, lit)):
        told = only(*entries)
        assert told["status"] == "online"
        assert told["up"] is any(one["carrier"] for one in entries)
        assert [target["ip"] for target in told["track_ip"]] == ["1.1.1.1", "2606:4700::1111"]


def test_of_two_families_alike_the_first_is_told() -> None:
    assert only(entry("down", 4), entry("held", 6, since_s=3))["offline"] == 8
    assert only(entry("up", 4), entry("degraded", 6, since_s=3))["online"] == 8


def test_who_carries_traffic_by_family() -> None:
    shares = [entry(share_percent=75), entry(family=6, share_percent=100), entry(family=6, share_percent=0)]
    odd = [entry(family=5, share_percent=50), {**entry(share_percent=25), "name": None}]
    told = mwan3.renamed([*shares, *odd])
    assert told["policies"] == {
        "ipv4": {"active": [{"interface": "wan", "percent": 75}, {"interface": "-", "percent": 25}]},
        "ipv6": {"active": [{"interface": "wan", "percent": 100}]},
    }


@pytest.mark.parametrize(
    ("value", "whole"),
    [
        *((12.5, 12), (13.5, 14), (-3, -3), (True, 0), (None, 0), ("12", 0), (float("nan"), 0)),
        *((float("inf"), 0), (2.0**31, 0), (2**31 - 1, 2**31 - 1)),  # what reads it may have 32 bits
    ],
)
def test_what_is_no_number_is_none(value: object, whole: int) -> None:
    [target] = only(entry(targets=[{"address": "1.1.1.1", "latency_ms": value}]))["track_ip"]
    assert target["latency"] == whole and type(target["latency"]) is int


@pytest.mark.parametrize("wans", [None, "text", {}, [1, "x", None], ()])
def test_nonsense_is_nobody(wans: object) -> None:
    assert mwan3.renamed(wans) == {"interfaces": {}, "policies": {"ipv4": {}, "ipv6": {}}}
    assert only(entry(targets=wans))["track_ip"] == []
