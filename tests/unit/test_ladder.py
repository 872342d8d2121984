"""Each rung of the ladder: what it does, in which situation, and why not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wgrouter.core import ladder
from wgrouter.core.ladder import LADDER, Action, Place, Situation, Skip
from wgrouter.core.messages import ForgetFlows, Look, Provoke, Renew, Restart, SetEndpoint, SetListenPort
from wgrouter.core.model import NET, WIREGUARD, DeviceSeen, Endpoint, PeerSeen
from wgrouter.core.settings import HostPort, Ladder, Peer, Tunnel

FIRST, SECOND = Endpoint("192.0.2.1", 51820), Endpoint("192.0.2.2", 51820)
THIRD = Endpoint("2001:db8::3", 51821)
PLACES = (Place(FIRST, 0), Place(SECOND, 0), Place(THIRD, 1))
NAMED = (HostPort("a.example"), HostPort("b.example", 51821), HostPort("a.example", 7))
PEER = Peer("wg0", "key", "office", NAMED, keepalive=25, allowed_ips=("10.0.0.0/24",))
EVERYTHING = Ladder(renew=True, restart=True)


def situation(**other: object) -> Situation:
    """A peer that was set to its first address, which did not help."""
    usual: dict[str, object] = {
        "peer": PEER,
        "tunnel": Tunnel("wg0", ladder=EVERYTHING, peers=(PEER,)),
        "seen": PeerSeen("key", FIRST),
        "device": DeviceSeen("wg0", listen_port=40000),
        "places": PLACES,
        "tried": (FIRST,),
        "siblings_alive": False,
        "restarts_left": True,
        "ways": ("wan", "wanb", "wanc"),
        "ways_tried": (),
        "detour": "",
        "moved": False,
        "seed": "x",
        "round": 0,
    }
    return Situation(**{**usual, **other})  # type: ignore[arg-type]


def with_ladder(limits: Ladder, **tunnel: object) -> Tunnel:
    return Tunnel("wg0", ladder=limits, peers=(PEER,), **tunnel)  # type: ignore[arg-type]


def act(rung: str, **other: object) -> Action | Skip:
    return next(row for row in LADDER if row.name == rung).act(situation(**other))


def taken(rung: str, **other: object) -> Action:
    outcome = act(rung, **other)
    assert isinstance(outcome, Action), outcome
    return outcome


def setting(endpoint: Endpoint, keepalive: int = 25) -> tuple[object, ...]:
    return SetEndpoint("wg0", "key", endpoint), Provoke("wg0", "key", keepalive)


def test_the_order_is_the_design() -> None:
    names = [
        "resolve",
        "endpoint",
        "forget-flows",
        "next-address",
        "new-port",
        "other-wan",
        "renew",
        "restart",
    ]
    assert [rung.name for rung in LADDER] == names
    assert [rung.name for rung in LADDER if rung.repeats] == ["next-address", "other-wan"]
    assert {name: names.index(name) for name in names} == dict(ladder.RUNG_INDEX)


PORT = ladder.new_port("x", "wg0", 0, 40000)
DONE = [
    ("resolve", {}, Action("resolve a.example, b.example again", hosts=("a.example", "b.example"))),
    ("endpoint", {}, Action(f"set the endpoint to {FIRST}", setting(FIRST), endpoint=FIRST)),
    (  # what the name says now is better than what it said
        "endpoint",
        {"seen": PeerSeen("key", Endpoint("198.51.100.9", 1))},
        Action(f"set the endpoint to {FIRST}", setting(FIRST), endpoint=FIRST),
    ),
    (  # … but what it still says is kept
        "endpoint",
        {"seen": PeerSeen("key", SECOND)},
        Action(f"set the endpoint to {SECOND}", setting(SECOND), endpoint=SECOND),
    ),
    (  # the device's keepalive before the configuration's
        "endpoint",
        {"seen": PeerSeen("key", FIRST, keepalive=7)},
        Action(f"set the endpoint to {FIRST}", setting(FIRST, 7), endpoint=FIRST),
    ),
    (
        "forget-flows",
        {},
        Action(
            f"forget the tracked flows to {FIRST} and set it again",
            (ForgetFlows(local_port=40000, remote="192.0.2.1"), *setting(FIRST)),
            endpoint=FIRST,
        ),
    ),
    ("next-address", {}, Action(f"try {SECOND} instead", setting(SECOND), endpoint=SECOND)),
    (
        "next-address",
        {"tried": (FIRST, SECOND)},
        Action(f"try {THIRD} instead", setting(THIRD), endpoint=THIRD),
    ),
    (  # back to the first address of all: that it did not answer may have been the port's fault
        "new-port",
        {"seen": PeerSeen("key", SECOND)},
        Action(
            f"send from port {PORT} instead of 40000, to {FIRST}",
            (SetListenPort("wg0", PORT), *setting(FIRST)),
            endpoint=FIRST,
        ),
    ),
    (
        "other-wan",
        {},
        Action("go by wanb instead of wan", (Look((NET, WIREGUARD)),), endpoint=FIRST, way="wanb"),
    ),
    (
        "other-wan",
        {"ways_tried": ("wanb",)},
        Action("go by wanc instead of wan", (Look((NET, WIREGUARD)),), endpoint=FIRST, way="wanc"),
    ),
    ("renew", {}, Action("let netifd re-apply wg0 (renew)", (Renew("wg0"),))),
    ("restart", {}, Action("take wg0 down and up", (Restart("wg0"),))),
]


@pytest.mark.parametrize(("rung", "other", "action"), DONE)
def test_what_a_rung_does(rung: str, other: dict[str, object], action: Action) -> None:
    assert act(rung, **other) == action


LITERAL = replace(PEER, endpoints=(HostPort("192.0.2.1"),))
NO_PORT = Ladder(new_port="no", renew=True, restart=True)
SKIPPED = [
    ("resolve", {"peer": LITERAL}, "its endpoint is an address"),
    ("endpoint", {"places": ()}, "no address is known"),
    ("endpoint", {"moved": True}, "192.0.2.1:51820 was set when the name moved"),
    ("forget-flows", {"places": ()}, "no address is known"),
    ("forget-flows", {"device": DeviceSeen("wg0")}, "no address is known"),
    ("forget-flows", {"moved": True}, "no flow to 192.0.2.1:51820 is older than the move"),
    ("next-address", {"tried": (FIRST, SECOND, THIRD)}, "every known address was tried"),
    ("next-address", {"places": ()}, "every known address was tried"),
    ("new-port", {"tunnel": with_ladder(NO_PORT)}, "a new source port is switched off (new_port no)"),
    (
        "new-port",
        {"tunnel": with_ladder(Ladder(), listen_port=51820)},
        "listen_port 51820 is configured (new_port auto)",
    ),
    ("new-port", {"siblings_alive": True}, "other peers of wg0 are alive"),
    ("new-port", {"places": ()}, "no address is known"),
    (
        "other-wan",
        {"tunnel": with_ladder(Ladder(other_wan=False))},
        "not allowed by the configuration (other_wan 0)",
    ),
    ("other-wan", {"siblings_alive": True}, "other peers of wg0 are alive"),
    ("other-wan", {"detour": "wanb"}, "wg0 goes by wanb already"),
    ("other-wan", {"places": ()}, "no address is known"),
    ("other-wan", {"ways": ()}, "the way of wg0 is not ours to choose"),
    ("other-wan", {"ways": ("wan",)}, "no other WAN is usable"),
    ("other-wan", {"ways_tried": ("wanb", "wanc")}, "every other WAN was tried"),
    ("renew", {"tunnel": with_ladder(Ladder())}, "not allowed by the configuration (renew 0)"),
    ("renew", {"siblings_alive": True}, "other peers of wg0 are alive"),
    ("renew", {"restarts_left": False}, "done often enough this hour"),
    ("restart", {"tunnel": with_ladder(Ladder())}, "not allowed by the configuration (restart 0)"),
    ("restart", {"siblings_alive": True}, "other peers of wg0 are alive"),
    ("restart", {"restarts_left": False}, "done often enough this hour"),
]


@pytest.mark.parametrize(("rung", "other", "reason"), SKIPPED)
def test_why_a_rung_does_not_apply(rung: str, other: dict[str, object], reason: str) -> None:
    assert act(rung, **other) == Skip(reason)


def test_after_a_move_what_was_not_tried_yet_is_set_like_any_other() -> None:
    assert taken("endpoint", moved=True, tried=()).endpoint == FIRST
    assert taken("forget-flows", moved=True, tried=()).endpoint == FIRST
    only = PLACES[:1]
    assert taken("endpoint", moved=True, places=only).endpoint == FIRST, "there is nothing better to do"


def test_a_wish_for_a_new_port_stands_above_a_configured_one() -> None:
    tunnel = with_ladder(Ladder(new_port="yes"), listen_port=40000)
    assert isinstance(taken("new-port", tunnel=tunnel).effects[0], SetListenPort)


def test_every_rung_is_done_and_skipped_above() -> None:
    names = {rung.name for rung in LADDER}
    assert {rung for rung, _, _ in DONE} == names == {rung for rung, _, _ in SKIPPED}


def test_a_new_port_is_of_the_dynamic_range_and_another_one() -> None:
    ports = {ladder.new_port("seed", "wg0", round_, 0) for round_ in range(200)}
    assert len(ports) > 190 and min(ports) >= 49152 and max(ports) <= 65535
    assert max(ports) - min(ports) > 14000
    for round_ in range(50):
        port = ladder.new_port("seed", "wg0", round_, 0)
        other = ladder.new_port("seed", "wg0", round_, port)
        assert other != port
    assert len({ladder.new_port("x", device, 0, 0) for device in ("wg0", "wg1", "wg2")}) == 3
    assert len({ladder.new_port(seed, "wg0", 0, 0) for seed in "abc"}) == 3


def test_the_last_port_is_followed_by_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "unit", lambda *parts: 0.99999)
    assert ladder.new_port("x", "wg0", 0, 0) == 65535
    assert ladder.new_port("x", "wg0", 0, 65535) == 49152


# ---------------------------------------------------------------- candidates


@pytest.mark.parametrize(
    ("wish", "reachable", "order"),
    [
        ("auto", {4, 6}, (6, 4)),
        ("auto", {4}, (4,)),
        ("auto", {6}, (6,)),
        ("auto", set(), (6, 4)),
        ("ipv4", {4, 6}, (4,)),
        ("ipv4", {6}, (4,)),
        ("ipv6", {4, 6}, (6,)),
        ("ipv6", {4}, (6,)),
        ("prefer_ipv4", {4, 6}, (4, 6)),
        ("prefer_ipv4", {6}, (6,)),
        ("prefer_ipv6", {4, 6}, (6, 4)),
        ("prefer_ipv6", {4}, (4,)),
    ],
)
def test_families(wish: str, reachable: set[int], order: tuple[int, ...]) -> None:
    assert ladder.families(replace(PEER, family=wish), frozenset(reachable)) == order


def test_candidates_go_by_endpoint_then_family_then_answer() -> None:
    peer = replace(
        PEER, endpoints=(HostPort("a.example"), HostPort("192.0.2.77", 9), HostPort("b.example", 7))
    )
    known = {
        "a.example": ("192.0.2.1", "192.0.2.2", "2001:db8::1"),
        "b.example": ("2001:db8::9", "192.0.2.9"),
    }

    def resolved(place: HostPort) -> tuple[Endpoint, ...]:
        return tuple(Endpoint(address, place.port) for address in known[place.host])

    def found(reachable: set[int]) -> list[tuple[str, int]]:
        places = ladder.candidates(peer, resolved, frozenset(reachable))
        return [(str(place.endpoint), place.rank) for place in places]

    four = [("192.0.2.1:51820", 0), ("192.0.2.2:51820", 0)]
    assert found({4, 6}) == [
        ("[2001:db8::1]:51820", 0),
        *four,
        ("192.0.2.77:9", 1),
        ("[2001:db8::9]:7", 2),
        ("192.0.2.9:7", 2),
    ]
    assert found({4}) == [*four, ("192.0.2.77:9", 1), ("192.0.2.9:7", 2)]


def test_an_endpoint_named_twice_has_its_better_rank() -> None:
    peer = replace(PEER, endpoints=(HostPort("192.0.2.1"), HostPort("a.example")))
    places = ladder.candidates(peer, lambda place: (FIRST, SECOND), frozenset({4}))
    assert places == (Place(FIRST, 0), Place(SECOND, 1))


def test_names_are_told_once_and_literals_are_none() -> None:
    peer = replace(PEER, endpoints=(*NAMED, HostPort("192.0.2.1"), HostPort("2001:db8::1")))
    assert ladder.names_of(peer) == ("a.example", "b.example")


@pytest.mark.parametrize(
    ("probe", "allowed", "target"),
    [
        ("10.9.9.9", ("10.0.0.1/32",), "10.9.9.9"),
        ("", ("10.0.0.1/32",), "10.0.0.1"),
        ("", ("10.0.0.0/31",), "10.0.0.0"),  # RFC 3021: both are hosts
        ("", ("10.0.0.0/30",), "10.0.0.1"),
        ("", ("10.0.0.7/24",), "10.0.0.1"),
        ("", ("10.0.0.0/16", "10.1.0.0/24"), "10.1.0.1"),
        ("", ("10.1.0.0/24", "10.2.0.0/24"), "10.1.0.1"),
        ("", ("fd00::/64", "10.1.0.0/24"), "10.1.0.1"),
        ("", ("fd00::5/128",), "fd00::5"),
        ("", ("fd00::4/127",), "fd00::4"),
        ("", ("0.0.0.0/0", "::/0"), ""),
        ("", ("0.0.0.0/1",), "0.0.0.1"),
        ("", (), ""),
    ],
)
def test_what_is_sent_a_packet_behind_the_peer(probe: str, allowed: tuple[str, ...], target: str) -> None:
    assert ladder.nudge_target(replace(PEER, probe=probe, allowed_ips=allowed)) == target


def test_what_is_there_is_a_place_where_its_family_has_a_way() -> None:
    seen = PeerSeen("key", Endpoint("2001:db8::1", 51820))
    assert [place.endpoint for place in ladder.at_present(seen, frozenset({6}))] == [seen.endpoint]
    assert ladder.at_present(seen, frozenset({4})) == ()
    assert ladder.at_present(PeerSeen("key", None), frozenset({4, 6})) == ()


def test_two_peers_that_take_a_new_port_do_not_bring_back_the_old_one() -> None:
    for seed in map(str, range(50)):
        first = ladder.new_port(seed, "wg0", 0, 50000)
        second = ladder.new_port(seed, "wg0", 0, first)
        third = ladder.new_port(seed, "wg0", 0, second)
        assert len({50000, first, second, third}) == 4
