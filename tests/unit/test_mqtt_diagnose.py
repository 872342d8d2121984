"""The walk along a tunnel: each fault at its step, and the ones behind it not hidden."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.mqtt_router import PEERS, Router
from wgrouter.core.care import Detour
from wgrouter.core.engine import wanted_of
from wgrouter.core.model import RT_TABLE_MAIN, Hop, Route
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
