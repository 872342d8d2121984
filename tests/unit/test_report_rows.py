"""Status, explain and plan to the last field, of a state made by hand: what scripts and dashboards read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.made_up_dns import FIRST, HOST, Resolver, always, zone
from tests.unit.made_up_dns import Reply as DnsReply
from tests.unit.test_uplink import path
from wgrouter.core import report
from wgrouter.core.care import Attempt, Care, Detour, TunnelMemory
from wgrouter.core.engine import State, Told, wanted_names
from wgrouter.core.findings import Finding, Rejected, Why
from wgrouter.core.link_watch import LinkMemory, Uplink
from wgrouter.core.liveness import DEAD, Pulse
from wgrouter.core.model import NEVER, DeviceSeen, Endpoint, Net, PeerSeen, World
from wgrouter.core.settings import HostPort, Peer, Routing, Settings, Tunnel, Wan
from wgrouter.core.uplink import Choice, Course, UplinkMemory
from wgrouter.core.window import Quality, Sample, Target

NOW = 1000.0
HERE = Endpoint("192.0.2.1", 51820)
PEER = Peer("wg0", "KEY", "office", (HostPort(HOST), HostPort("192.0.2.9")), keepalive=25)
CHOICE = Choice("a", 900.0, "best priority", rejected=(Rejected("b", "priority 20"),))


def watched(*uplinks: Uplink) -> LinkMemory:
    return LinkMemory({uplink.path.key: uplink.watch for uplink in uplinks})


def row(*uplinks: Uplink, settings: Settings = Settings(), **memory: Any) -> dict[str, Any]:  # noqa: B008
    state = State(settings=settings, links=watched(*uplinks), uplink=UplinkMemory(**memory))
    [first, *_] = report.status(state, NOW, "1", 0.0, "/")["wans"]
    return dict(first)


# ---------------------------------------------------------------- the router


def test_the_router() -> None:
    told = Told(940.04, Finding(Why.NAME_NO_SERVER, HOST, {"name": HOST}))
    state = State(world=World(clock_trusted=False), recent=(told,))
    assert report.status(state, NOW, "1.2.3", 399.6, "/overlay") == {
        "version": "1.2.3",
        "uptime_s": 600,
        "now_trusted": False,
        "root": "/overlay",
        "wans": [],
        "tunnels": [],
        "names": [],
        "findings": [
            {
                "code": "name.no-server",
                "severity": "warning",
                "subject": HOST,
                "text": f"no DNS server is known to ask for {HOST}",
                "age_s": 60.0,
            }
        ],
    }


# ---------------------------------------------------------------- WANs


def test_a_wan() -> None:
    a = path("a")
    quality = Quality(3.14159, 20.26, 1.25, 30)
    assert row(Uplink(replace(a.watch, quality=quality, since=949.96)), choices={4: CHOICE}) == {
        "name": "a",
        "device": "eth1",
        "family": 4,
        "state": "up",
        "since_s": 50.0,
        "loss_percent": 3.1,
        "latency_ms": 20.3,
        "jitter_ms": 1.2,
        "share_percent": 100,
        "gateway": "10.0.1.1",
        "carrier": True,
        "active": True,
        "why": "best priority",
        "targets": [],
    }


def test_what_was_not_measured_is_not_told() -> None:
    unknown = Uplink(replace(path("a").watch, quality=Quality()))
    told = row(unknown)
    assert [told[word] for word in ("loss_percent", "latency_ms", "jitter_ms")] == [None, None, None]
    assert (told["active"], told["why"], told["share_percent"]) == (False, "", 0)


def test_why_another_wan_carries() -> None:
    assert row(path("b"), path("a"), choices={4: CHOICE})["why"] == "priority 20"
    assert row(path("c"), path("a"), choices={4: CHOICE})["why"] == "because", (
        "what brought it into its state"
    )
    assert row(path("a"), choices={6: CHOICE})["why"] == "", "another family's choice"


def test_a_disabled_wan_is_named() -> None:
    settings = Settings(wans=(Wan("a"), Wan("old", enabled=False, families=(6, 4))))
    told = report.status(State(settings=settings), NOW, "1", 0.0, "/")["wans"]
    assert told == [{"name": "old", "family": 6, "state": "disabled"}]


@pytest.mark.parametrize(
    ("balance", "shares"),
    [
        (False, {"a": 100, "b": 0, "c": 0, "d": 0}),
        (True, {"a": 25, "b": 75, "c": 0, "d": 0}),  # c is worse, d is down
    ],
)
def test_shares(balance: bool, shares: dict[str, int]) -> None:
    b = path("b")
    b = Uplink(replace(b.watch, wan=Wan("b", weight=3)))
    links = watched(path("a"), b, path("c", priority=20), path("d", "down"), path("a", family=6))
    settings = Settings(routing=Routing(balance=balance))
    memory = UplinkMemory(choices={4: CHOICE, 6: Choice("", 0.0)})
    told = report.status(State(settings=settings, links=links, uplink=memory), NOW, "1", 0.0, "/")["wans"]
    assert {wan["name"]: wan["share_percent"] for wan in told if wan["family"] == 4} == shares
    assert [wan["share_percent"] for wan in told if wan["family"] == 6] == [0]


def test_the_last_resort_and_a_wan_that_has_gone_have_shares_too() -> None:
    balanced = Settings(routing=Routing(balance=True))
    down = row(path("a", "down"), path("b", "down"), settings=balanced, choices={4: CHOICE})
    assert down["share_percent"] == 100, "it is all there is"
    assert row(path("b"), settings=balanced, choices={4: CHOICE})["share_percent"] == 0


def test_targets() -> None:
    targets = (Target("icmp", "1.1.1.1"), Target("tcp", "8.8.8.8"), Target("icmp", "9.9.9.9"))
    samples = (
        *(
            Sample(2, 990.0, "1.1.1.1", 0.0203),
            Sample(4, 991.0, "1.1.1.1"),
            Sample(6, 992.0, "1.1.1.1", 0.0301),
        ),
        *(Sample(8, 993.0, "tcp:8.8.8.8", 0.01), Sample(10, 994.0, "tcp:8.8.8.8")),
        Sample(12, 999.99, "9.9.9.9"),  # its answer may still come
    )
    told = row(Uplink(replace(path("a").watch, targets=targets, samples=samples)))["targets"]
    assert told == [
        {"address": "1.1.1.1", "method": "icmp", "state": "up", "latency_ms": 25.2, "loss_percent": 33.3},
        {"address": "8.8.8.8", "method": "tcp", "state": "down", "latency_ms": 10.0, "loss_percent": 50.0},
        {
            "address": "9.9.9.9",
            "method": "icmp",
            "state": "unknown",
            "latency_ms": None,
            "loss_percent": None,
        },
    ]
    poor = tuple(Sample(n, 980.0 + n, "1.1.1.1", 0.5 if n < 3 else None) for n in range(5))
    [told] = row(Uplink(replace(path("a").watch, targets=targets[:1], samples=poor)))["targets"]
    assert (told["latency_ms"], told["loss_percent"]) == (500.0, 40.0)
    lost = Uplink(replace(path("a").watch, targets=targets[:1], samples=samples[1:2]))
    assert row(lost)["targets"] == [
        {"address": "1.1.1.1", "method": "icmp", "state": "down", "latency_ms": None, "loss_percent": 100.0}
    ]


# ---------------------------------------------------------------- tunnels and names


def named(resolver: Resolver, *peers: Peer, **more: Any) -> State:
    """The state of a router that looks up its peers' names by this resolver."""
    settings = Settings(tunnels=(Tunnel("wg0", peers=peers),))
    resolver.want(*wanted_names(peers))
    resolver.settle()
    return State(settings=settings, names=resolver.memory, wanted=wanted_names(peers), **more)


GOOD = zone({f"{HOST} A": ["192.0.2.1", "192.0.2.2"]})
FAILING = always(DnsReply("SERVFAIL"))


def test_a_tunnel() -> None:
    r = Resolver({FIRST: GOOD}, [])
    step = Attempt(990.0, "endpoint", "set it")
    pulse = Pulse(DEAD, r.now - 30.3, handshake_at=r.now - 200.0, proven=True, session=True)
    seen = DeviceSeen("wg0", "PUB", 51820, 0x21, peers={"KEY": PeerSeen("KEY", HERE, (1, 0), 11, 22)})
    state = named(
        r,
        PEER,
        world=World(wireguard={"wg0": seen}),
        tunnels=TunnelMemory(peers={PEER.id: Care(pulse, step=step)}),
        uplink=UplinkMemory(courses={("wg0", 6): Course("b", ())}),
    )
    [told] = report.status(state, r.now, "1", 0.0, "/")["tunnels"]
    [peer] = told.pop("peers")
    assert told == {"interface": "wg0", "listen_port": 51820, "fwmark": 0x21, "wan": "b"}
    assert "last handshake" in peer.pop("why")
    assert peer == {
        "peer": "office",
        "public_key": "KEY",
        "state": "dead",
        "endpoint": "192.0.2.1:51820",
        "name": HOST,
        "addresses": ["192.0.2.1", "192.0.2.2"],
        "since_s": 30.3,
        "last_handshake_age_s": 200.0,
        "rx_bytes": 11,
        "tx_bytes": 22,
        "rung": "endpoint",
    }
    both = replace(
        state, uplink=UplinkMemory(courses={("wg0", 6): Course("b", ()), ("wg0", 4): Course("a", ())})
    )
    assert report.status(both, r.now, "1", 0.0, "/")["tunnels"][0]["wan"] == "a"


@pytest.mark.parametrize("world", [World(), World(wireguard={}), World(wireguard={"wg0": DeviceSeen("wg0")})])
def test_a_tunnel_that_is_not_there(world: World) -> None:
    state = State(settings=Settings(tunnels=(Tunnel("wg0", peers=(PEER,)),)), world=world)
    [told] = report.status(state, NOW, "1", 0.0, "/")["tunnels"]
    [peer] = told["peers"]
    known = bool(world.wireguard)
    assert (told["listen_port"], told["fwmark"]) == ((0, 0) if known else (None, None))
    assert (peer["endpoint"], peer["rx_bytes"], peer["tx_bytes"], peer["rung"]) == (None, 0, 0, "")
    assert (peer["last_handshake_age_s"], peer["addresses"]) == (None, [])


def test_a_peer_without_an_endpoint_has_none() -> None:
    seen = DeviceSeen("wg0", peers={"KEY": PeerSeen("KEY")})
    state = State(
        settings=Settings(tunnels=(Tunnel("wg0", peers=(PEER,)),)), world=World(wireguard={"wg0": seen})
    )
    assert report.status(state, NOW, "1", 0.0, "/")["tunnels"][0]["peers"][0]["endpoint"] is None


def told_next(resolver: Resolver) -> float:
    return resolver.look_up().next_at


def test_names() -> None:
    r = Resolver({FIRST: GOOD}, [])
    twice = replace(PEER, public_key="KEY2", label="again")
    state = named(r, PEER, twice, replace(PEER, public_key="KEY3", endpoints=(HostPort("gone.example"),)))
    told, gone = report.status(state, r.now, "1", 0.0, "/")["names"]
    assert told == {
        "name": HOST,
        "status": "fresh",
        "addresses": ["192.0.2.1", "192.0.2.2"],
        "ttl_s": 60.0,
        "next_in_s": round(r.look_up().next_at - r.now, 1),
        "server": "192.0.2.1",
        "error": "",
    }
    assert 60 <= told["next_in_s"] <= 61
    assert (gone["name"], gone["status"], gone["addresses"]) == ("gone.example", "missing", [])
    soon = report.status(state, told_next(r) - 3.14159, "1", 0.0, "/")["names"][0]
    assert soon["next_in_s"] == 3.1
    late = report.status(state, r.now + 90, "1", 0.0, "/")["names"][0]
    assert (late["status"], late["next_in_s"]) == ("stale", 0.0)
    unknown = replace(state, names=Resolver({}, []).memory)
    assert report.status(unknown, r.now, "1", 0.0, "/")["names"] == []


def test_a_name_that_is_being_asked_for_has_no_next_time() -> None:
    r = Resolver({FIRST: always(DnsReply(reason="timeout"))}, wanted_names((PEER,)))
    state = State(settings=Settings(tunnels=(Tunnel("wg0", peers=(PEER,)),)), names=r.memory)
    assert report.status(state, r.now, "1", 0.0, "/")["names"][0]["next_in_s"] is None
    [told] = report.explanations(state, HOST, r.now)
    assert told["next"] is None
    assert told["cause"] == {"code": "name.pending", "text": "pending"}


def test_why_a_name_is_as_it_is() -> None:
    r = Resolver({FIRST: GOOD}, [])
    state = named(r, PEER)
    assert report.explanations(state, HOST, r.now) == [
        {
            "subject": HOST,
            "state": "fresh",
            "cause": {"code": "name.resolved", "text": "192.0.2.1, 192.0.2.2 (TTL 60 s, by 192.0.2.1)"},
            "evidence": [],
            "tried": [],
            "next": {"what": "look up again", "in_s": round(r.look_up().next_at - r.now, 1)},
            "rejected": [],
        }
    ]
    r.servers[FIRST] = FAILING
    r.next_round()
    [told] = report.explanations(replace(state, names=r.memory), HOST, r.now)
    assert told["cause"] == {"code": "name.refused", "text": "SERVFAIL, says 192.0.2.1"}
    assert told["evidence"] == ["last good answer: 192.0.2.1, 192.0.2.2"]


# ---------------------------------------------------------------- explain


def explained(*uplinks: Uplink, subject: str = "a", **memory: Any) -> dict[str, Any]:
    state = State(links=watched(*uplinks), uplink=UplinkMemory(**memory))
    [told] = report.explanations(state, subject, NOW)
    return told


def test_why_a_wan_carries() -> None:
    a = path("a")
    assert explained(Uplink(replace(a.watch, quality=Quality(3.6, 20.26, 1.0, 30))), choices={4: CHOICE}) == {
        "subject": "a",
        "state": "up",
        "cause": {"code": "wan.up", "text": "usable over IPv4: because"},
        "evidence": [
            "4 % of 30 probes lost",
            "20.3 ms round trip",
            "carries IPv4 traffic: best priority",
        ],
        "tried": [],
        "next": None,
        "rejected": [{"what": "b", "reason": "priority 20"}],
    }


def test_why_a_wan_does_not_carry() -> None:
    told = explained(path("b", latency=None), subject="b", choices={4: CHOICE})
    assert told["evidence"] == ["0 % of 30 probes lost"]
    assert told["rejected"] == [{"what": "b", "reason": "priority 20"}]
    told = explained(Uplink(replace(path("c").watch, quality=Quality())), subject="c", choices={4: CHOICE})
    assert (told["evidence"], told["rejected"]) == ([], [])
    assert explained(path("a"), choices={6: CHOICE})["rejected"] == []


def test_how_long_a_wan_is_held() -> None:
    held = replace(path("a", "held").watch, held_until=NOW + 12.34)
    told = explained(Uplink(held))
    assert told["next"] == {"what": "usable again if nothing is lost", "in_s": 12.3}
    assert "held down for 12 s more" in told["cause"]["text"]
    over = explained(Uplink(replace(held, held_until=NOW - 5)))
    assert over["next"] is None
    assert "for 0 s more" in over["cause"]["text"]
    assert explained(Uplink(replace(held, state="up")))["next"] is None
    assert explained(path("a", "odd"))["cause"]["code"] == "wan.down"


@pytest.mark.parametrize("subject", ["", "wg0", "wg0/office", "office"])
def test_a_peer(subject: str) -> None:
    step = Attempt(NOW - 3.04, "endpoint", "set it")
    care = Care(Pulse(DEAD, 900.0), step=step, deadline=NOW + 4.56, attempts=(step,))
    care = replace(care, skipped=(Rejected("renew", "not allowed"),))
    state = State(
        settings=Settings(tunnels=(Tunnel("wg0", peers=(replace(PEER, endpoints=()),)),)),
        world=World(wireguard={"wg0": DeviceSeen("wg0", peers={"KEY": PeerSeen("KEY", HERE)})}),
        tunnels=TunnelMemory(peers={PEER.id: care}),
    )
    [told] = report.explanations(state, subject, NOW)
    assert told.pop("evidence")
    assert told == {
        "subject": "wg0/office",
        "state": "dead",
        "cause": {"code": "cause.uplink", "text": "no uplink: no usable default route"},
        "tried": [{"age_s": 3.0, "what": "set it", "result": "waiting for proof"}],
        "next": {"what": "proof of step endpoint, or the next step", "in_s": 4.6},
        "rejected": [{"what": "renew", "reason": "not allowed"}],
    }
    late = report.explanations(state, subject, NOW + 60)[0]["next"]
    assert late["in_s"] == 0.0
    frozen = replace(care, step=None, frozen=True)
    [told] = report.explanations(replace(state, tunnels=TunnelMemory(peers={PEER.id: frozen})), subject, NOW)
    assert told["next"] == {"what": "the ladder, as soon as there is an uplink", "in_s": None}
    idle = State(settings=state.settings, world=state.world)
    assert report.explanations(idle, subject, NOW)[0]["next"] is None


def test_the_detour_of_its_device_is_told() -> None:
    state = State(
        settings=Settings(tunnels=(Tunnel("wg0", peers=(PEER,)),)),
        tunnels=TunnelMemory(detours={"wg0": Detour("b", "a", 4, NEVER)}),
    )
    [told] = report.explanations(state, "office", NOW)
    assert "outer packets go by b instead of a" in told["evidence"]


# ---------------------------------------------------------------- plan


def test_a_plan() -> None:
    state = State(world=World(net=Net()))
    assert report.planned(state) == {"effects": [], "findings": [], "problems": []}
    words = {"problems": ["line 3"], "more": 1}
    assert report.planned(state, words) == {"effects": [], "findings": [], **words}
