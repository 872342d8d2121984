"""The walk along a tunnel: each fault at its step, and the ones behind it not hidden."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.mqtt_router import PEERS, SETTINGS, Router
from wgrouter.core.care import Detour
from wgrouter.core.engine import Engine, wanted_of
from wgrouter.core.liveness import DEAD, IDLE, SUSPECT
from wgrouter.core.messages import Configured
from wgrouter.core.model import RT_TABLE_MAIN, Endpoint, Hop, Route
from wgrouter.core.name_memory import Entry, Name, Status, WantedName, key_of
from wgrouter.core.settings import HostPort
from wgrouter.mqtt.diagnose import STEPS, diagnose


@pytest.fixture
def router() -> Router:
    router = Router()
    for _ in router.run(6):
        pass
    return router


def walked(router: Router, subject: str = "wg0/warehouse") -> Any:
    (found,) = diagnose(router.state, subject, router.now)
    assert tuple(step["step"] for step in found["steps"]) == STEPS
    return {step["step"]: step for step in found["steps"]} | {"broken": found["broken"]}


def with_world(router: Router, **parts: Any) -> None:
    state = router.engine.state
    router.engine.state = replace(state, world=replace(state.world, **parts))


def test_all_peers_or_those_that_are_named(router: Router) -> None:
    assert len(diagnose(router.state, "", router.now)) == len(PEERS)
    assert len(diagnose(router.state, "wg0", router.now)) == len(PEERS)
    assert len(diagnose(router.state, "warehouse", router.now)) == 1
    assert diagnose(router.state, "nobody", router.now) == []


def test_the_wan_is_said_with_its_evidence(router: Router) -> None:
    step = walked(router)["transport"]
    assert step["ok"]
    assert step["text"].startswith("wan (eth1) is up over IPv4: ")


def test_without_any_wan_it_ends_at_the_transport(router: Router) -> None:
    router.cut("eth1")
    router.cut("wwan0")
    assert walked(router)["broken"] == "transport"


def test_a_clock_that_was_never_set_comes_first(router: Router) -> None:
    with_world(router, clock_trusted=False)
    assert walked(router)["broken"] == "clock"


def test_a_dead_peer_ends_at_the_handshake(router: Router) -> None:
    router.silent.add("warehouse")
    for _ in router.run(40):
        pass
    found = walked(router)
    assert not found["handshake"]["ok"]
    assert walked(router, "wg0/headquarters")["handshake"]["ok"]


def test_a_tunnel_wider_than_its_wan_is_seen(router: Router) -> None:
    net = router.state.world.net
    assert net is not None
    tight = {**net.links, "wg0": replace(net.links["wg0"], mtu=1420)}
    with_world(router, net=replace(net, links=tight))
    assert walked(router)["mtu"]["ok"]
    tight["eth1"] = replace(tight["eth1"], mtu=1452)
    with_world(router, net=replace(net, links=tight))
    found = walked(router)["mtu"]
    assert found["ok"] is False
    assert found["text"] == "wg0 has 1420, wan has room for 1392 (1452 less 60)"


def test_a_tunnel_that_takes_another_wan_is_where_it_should_be(router: Router) -> None:
    """The agent has sent it there: nothing is outstanding once the kernel has it."""
    state = router.engine.state
    detours = {"wg0": Detour("lte", "wan", 4)}
    router.engine.state = state = replace(state, tunnels=replace(state.tunnels, detours=detours))
    wanted = wanted_of(state)
    net, devices = state.world.net, state.world.wireguard
    assert net is not None and devices is not None and wanted.fwmarks["wg0"] != devices["wg0"].fwmark
    assert "outstanding: " in walked(router)["routing"]["text"]
    with_world(
        router,
        net=replace(net, rules=wanted.rules, routes=(*net.routes, *wanted.routes)),
        wireguard={"wg0": replace(devices["wg0"], fwmark=wanted.fwmarks["wg0"])},
    )
    assert "outstanding: " not in walked(router)["routing"]["text"]


def test_routes_into_the_tunnel_are_looked_for(router: Router) -> None:
    net = router.state.world.net
    assert net is not None
    tunnel = router.state.settings.tunnels[0]
    peer = replace(PEERS[1], allowed_ips=("10.1.0.0/16", "10.2.0.0/16"))
    settings = replace(
        router.state.settings,
        tunnels=(replace(tunnel, peers=(peer,)),),
        routing=replace(router.state.settings.routing, enabled=False),
    )
    device = replace((router.state.world.wireguard or {})["wg0"], fwmark=0)
    with_world(router, wireguard={"wg0": device})
    one = Route(4, RT_TABLE_MAIN, "10.0.0.0/15", (Hop("", "wg0"),))
    with_world(router, net=replace(net, routes=(*net.routes, one), rules=()))
    router.engine.state = replace(router.engine.state, settings=settings)
    found = walked(router)["routing"]
    assert found["ok"] is None
    assert found["text"].endswith("for 10.2.0.0/16")
    both = replace(one, dst="10.0.0.0/8")
    with_world(router, net=replace(net, routes=(*net.routes, both), rules=()))
    assert walked(router)["routing"]["ok"]


# ---------------------------------------------------------------- every outcome of every step

HOST = "warehouse.example.net"


def with_net(router: Router, **parts: Any) -> None:
    net = router.state.world.net
    assert net is not None
    with_world(router, net=replace(net, **parts))


def with_peer(router: Router, **parts: Any) -> None:
    state = router.state
    tunnel = state.settings.tunnels[0]
    peers = tuple(replace(p, **parts) if p.label == "warehouse" else p for p in tunnel.peers)
    settings = replace(state.settings, tunnels=(replace(tunnel, peers=peers),))
    router.engine.state = replace(state, settings=settings)


def with_name(router: Router, *known: Name) -> None:
    """The peer has these names, and this is what is known of them ("" addresses and error: nothing)."""
    with_peer(router, endpoints=tuple(HostPort(name.host, 51820) for name in known))
    entries = {key_of(name.host, False): Entry(WantedName(name.host), name) for name in known}
    router.engine.state = replace(router.state, names=replace(router.state.names, entries=entries))


def with_pulse(router: Router, word: str) -> None:
    state = router.state
    (peer,) = (p for p in state.settings.peers() if p.label == "warehouse")
    care = state.tunnels.peers[peer.id]
    peers = {**state.tunnels.peers, peer.id: replace(care, pulse=replace(care.pulse, state=word))}
    router.engine.state = replace(state, tunnels=replace(state.tunnels, peers=peers))


def with_settled_routes(router: Router, *into: str, allowed: tuple[str, ...] = ("10.9.0.0/16",)) -> None:
    """The kernel has all that the agent wants, and these routes into the tunnel."""
    with_peer(router, allowed_ips=allowed)
    wanted = wanted_of(router.state)
    net, devices = router.state.world.net, router.state.world.wireguard
    assert net is not None and devices is not None
    routes = [Route(6 if ":" in dst else 4, RT_TABLE_MAIN, dst, (Hop("", "wg0"),)) for dst in into]
    with_world(
        router,
        net=replace(net, rules=wanted.rules, routes=(*net.routes, *wanted.routes, *routes)),
        wireguard={"wg0": replace(devices["wg0"], fwmark=wanted.fwmarks["wg0"])},
    )


def without_links(router: Router, *names: str) -> None:
    net = router.state.world.net
    assert net is not None
    with_net(router, links={name: link for name, link in net.links.items() if name not in names})


def wide(router: Router, tunnel: int, wan: int, said: int = 0, endpoint: str = "198.51.100.1") -> None:
    """MTU of the tunnel, of the WAN's device, and the one that is configured for the WAN."""
    net, devices = router.state.world.net, router.state.world.wireguard
    assert net is not None and devices is not None
    links = {name: replace(link, mtu=tunnel if name == "wg0" else wan) for name, link in net.links.items()}
    with_net(router, links=links)
    peer = next(p for p in PEERS if p.label == "warehouse")
    seen = devices["wg0"].peers
    moved = {**seen, peer.public_key: replace(seen[peer.public_key], endpoint=Endpoint(endpoint, 51820))}
    with_world(router, wireguard={"wg0": replace(devices["wg0"], peers=moved)})
    wans = tuple(replace(one, mtu=said) for one in router.state.settings.wans)
    router.engine.state = replace(router.state, settings=replace(router.state.settings, wans=wans))


def fresh(router: Router) -> None:
    """As the agent starts: nothing was seen yet."""
    router.engine = Engine()
    router.engine.handle(Configured(SETTINGS, "seed"), router.now)


def nothing(router: Router) -> None:
    pass


def no_cable(router: Router) -> None:
    router.cut("eth1")
    router.cut("wwan0")


def dead_wan(router: Router) -> None:
    """All providers are silent: the best one is kept, and is no way out."""
    router.deaf = True
    for _ in router.run(20):
        pass


OUTCOMES: dict[tuple[str, bool | None, str], Callable[[Router], None]] = {
    ("clock", True, "set"): nothing,
    ("clock", False, "drops handshakes"): lambda r: with_world(r, clock_trusted=False),
    ("transport", True, "wan (eth1) is up over IPv4"): nothing,
    ("transport", False, "no WAN carries IPv4"): no_cable,
    ("transport", False, "is down over IPv4"): dead_wan,
    ("transport", None, "no WAN carries IPv4"): fresh,
    ("names", None, "the peer has no name"): nothing,
    ("names", None, "the peer has no endpoint: it calls"): lambda r: with_peer(r, endpoints=()),
    ("names", None, "is not resolved yet"): lambda r: with_name(r, Name(HOST)),
    ("names", False, "NXDOMAIN"): lambda r: with_name(r, Name(HOST, Status.MISSING, error="NXDOMAIN")),
    ("names", True, f"{HOST} is 192.0.2.7"): lambda r: with_name(r, Name(HOST, Status.FRESH, ("192.0.2.7",))),
    ("names", True, "SERVFAIL; b.example.net is 192.0.2.8"): lambda r: with_name(
        r, Name(HOST, Status.MISSING, error="SERVFAIL"), Name("b.example.net", Status.FRESH, ("192.0.2.8",))
    ),
    ("handshake", True, "alive at 198.51.100.1:51820"): nothing,
    ("handshake", None, "suspect at"): lambda r: with_pulse(r, SUSPECT),
    ("handshake", None, "idle at"): lambda r: with_pulse(r, IDLE),
    ("handshake", False, "dead at"): lambda r: with_pulse(r, DEAD),
    ("handshake", False, "wg0 does not have this peer"): fresh,
    ("routing", None, "routes were not seen"): fresh,
    ("routing", False, "outstanding"): nothing,
    ("routing", None, "no allowed IPs"): lambda r: with_settled_routes(r, allowed=()),
    ("routing", None, "leads into wg0 for 10.9.0.0/16"): lambda r: with_settled_routes(r, "10.8.0.0/16"),
    ("routing", True, "1 allowed IPs lead into wg0"): lambda r: with_settled_routes(r, "10.9.0.0/16"),
    ("routing", True, "2 allowed IPs lead into wg0"): lambda r: with_settled_routes(
        r, "10.0.0.0/8", "2001:db8:9::/48", allowed=("10.9.0.0/16", "2001:db8:9:1::/64")
    ),
    ("mtu", None, "the devices are not seen"): lambda r: without_links(r, "wg0"),
    ("mtu", True, "room for 1440 (1500 less 60)"): lambda r: wide(r, 1440, 1500),
    ("mtu", False, "room for 1440 (1500 less 60)"): lambda r: wide(r, 1441, 1500),
    ("mtu", True, "room for 1420 (1500 less 80)"): lambda r: wide(r, 1420, 1500, endpoint="2001:db8::1"),
    ("mtu", False, "room for 1420 (1500 less 80)"): lambda r: wide(r, 1440, 1500, endpoint="2001:db8::1"),
    ("mtu", False, "room for 1340 (1400 less 60)"): lambda r: wide(r, 1420, 1500, said=1400),
}


@pytest.mark.parametrize(
    ("step", "ok", "text"), OUTCOMES, ids=[f"{step} {ok}: {text}" for step, ok, text in OUTCOMES]
)
def test_every_outcome(router: Router, step: str, ok: bool | None, text: str) -> None:
    OUTCOMES[step, ok, text](router)
    found = walked(router)
    assert (found[step]["ok"], text in found[step]["text"]) == (ok, True), found[step]
    failing = [name for name in STEPS if found[name]["ok"] is False]
    assert found["broken"] == (failing[0] if failing else None)


def test_the_outcomes_are_all_that_there_are() -> None:
    assert {step for step, ok, _ in OUTCOMES if ok is True} == set(STEPS)
    assert {step for step, ok, _ in OUTCOMES if ok is False} == set(STEPS)
    assert {step for step, ok, _ in OUTCOMES if ok is None} == set(STEPS) - {"clock"}


def test_a_fault_hides_none_behind_it(router: Router) -> None:
    """Clock, name and MTU at once: each is said, and the first in the order is what is broken."""
    with_name(router, Name(HOST, Status.MISSING, error="NXDOMAIN"))
    wide(router, 1500, 1500)
    with_world(router, clock_trusted=False)
    found = walked(router)
    assert [name for name in STEPS if found[name]["ok"] is False and name != "routing"] == [
        "clock",
        "names",
        "mtu",
    ]
    assert found["broken"] == "clock"
