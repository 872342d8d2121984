"""What the engine makes of failures and of being switched off, with the least of a router."""

from __future__ import annotations

import errno

import pytest

from wgrouter.core.engine import NET_LOOK, Engine
from wgrouter.core.findings import Finding, Why
from wgrouter.core.messages import (
    CHANGES,
    AddRule,
    Configured,
    DeleteRoute,
    DeleteRule,
    Failed,
    ForgetFlows,
    Look,
    Observed,
    Probe,
    RemoveNft,
    Replied,
    SetFwmark,
    Step,
    Woke,
)
from wgrouter.core.model import (
    NFT,
    RT_TABLE_MAIN,
    WIREGUARD,
    Address,
    DeviceSeen,
    Endpoint,
    Hop,
    Link,
    Net,
    PeerSeen,
    Route,
)
from wgrouter.core.settings import HostPort, Peer, Settings, Tunnel

KEY = "k"
NET = Net(
    {"eth1": Link(2, "eth1"), "wg0": Link(3, "wg0", kind="wireguard")},
    (Address("eth1", "192.0.2.2/24"),),
    (Route(4, RT_TABLE_MAIN, "0.0.0.0/0", (Hop("192.0.2.1", "eth1"),)),),
)
PEER = Peer("wg0", KEY, "office", (HostPort("198.51.100.1"),), keepalive=25, allowed_ips=("10.0.0.1/32",))
SEEN = {"wg0": DeviceSeen("wg0", peers={KEY: PeerSeen(KEY, Endpoint("198.51.100.1", 51820), (1, 0))})}


def settings(enabled: bool = True) -> Settings:
    return Settings(enabled=enabled, tunnels=(Tunnel("wg0", peers=(PEER,)),))


def changes(step: Step) -> list[object]:
    return [effect for effect in step.effects if isinstance(effect, CHANGES)]


def whys(step: Step) -> list[Why]:
    return [finding.why for finding in step.findings]


@pytest.fixture
def engine() -> Engine:
    engine = Engine()
    engine.handle(Configured(settings(), "seed"), 1.0)
    return engine


def test_a_failure_is_told_once_and_what_was_not_tried_after_it_never(engine: Engine) -> None:
    lost = Failed(ForgetFlows(), "not tried: AddRoute failed before it", errno.ECANCELED)
    assert whys(engine.handle(lost, 2.0)) == []
    real = Failed(ForgetFlows(), "Operation not permitted", errno.EPERM)
    assert engine.handle(real, 2.0).findings == (
        Finding(Why.EFFECT_FAILED, "", {"effect": "ForgetFlows", "reason": "Operation not permitted"}),
    )
    assert whys(engine.handle(real, 3.0)) == []


def parts(step: Step) -> set[str]:
    return {part for effect in step.effects if isinstance(effect, Look) for part in effect.parts}


def test_the_nft_table_is_read_after_it_was_written_and_now_and_then(engine: Engine) -> None:
    """To read it costs a process: four times the rest of a look."""
    step = engine.handle(Observed(NET, SEEN, (), nft="left by a crash"), 2.0)
    assert RemoveNft() in step.effects and NFT in parts(step)
    step = engine.handle(Observed(NET, SEEN, (), nft=""), 2.1)
    assert RemoveNft() not in step.effects
    assert changes(step) and WIREGUARD in parts(step) and NFT not in parts(step)
    assert NFT in parts(engine.handle(Woke(), 2.1 + NET_LOOK))


def test_what_was_asked_is_not_asked_again_before_the_kernel_is_seen(engine: Engine) -> None:
    """Every decision plans; the World that it plans for cannot show yet what the last one did."""
    step = engine.handle(Observed(NET, SEEN, (), nft=""), 2.0)
    rules = [effect for effect in step.effects if isinstance(effect, AddRule)]
    probe = next(effect for effect in step.effects if isinstance(effect, Probe) and effect.device == "eth1")
    step = engine.handle(Replied(probe.id, 0.01), 2.01)
    assert Why.WAN_UP in whys(step)
    assert not [effect for effect in step.effects if effect in rules]
    step = engine.handle(Observed(wireguard=SEEN), 2.015)
    assert not [effect for effect in step.effects if effect in rules], "the routing was not looked at"
    step = engine.handle(Observed(NET, SEEN), 2.02)
    assert [effect for effect in step.effects if effect in rules], "the kernel has not taken them"


def test_switched_off_what_is_ours_goes_and_nothing_comes(engine: Engine) -> None:
    step = engine.handle(Observed(NET, SEEN, (), nft=""), 2.0)
    added = changes(step)
    assert [type(effect).__name__ for effect in added].count("SetFwmark") == 1
    assert any(isinstance(effect, AddRule) for effect in added)
    step = engine.handle(Configured(settings(enabled=False), "seed"), 3.0)
    assert Why.AGENT_DISABLED in whys(step)
    rules = tuple(effect.rule for effect in added if isinstance(effect, AddRule))
    ours = tuple(effect.route for effect in added if type(effect).__name__ == "AddRoute")  # type: ignore[attr-defined]
    (mark,) = (effect.mark for effect in added if isinstance(effect, SetFwmark))
    there = Net(NET.links, NET.addresses, (*NET.routes, *ours), rules)
    marked = {"wg0": DeviceSeen("wg0", fwmark=mark, peers=SEEN["wg0"].peers)}
    step = engine.handle(Observed(there, marked), 4.0)
    assert set(changes(step)) == {
        *(DeleteRule(rule) for rule in rules),
        *(DeleteRoute(route) for route in ours),
        SetFwmark("wg0", 0),
    }
    silent = {"wg0": DeviceSeen("wg0", peers={KEY: PeerSeen(KEY, None, (1, 0), tx_bytes=148)})}
    for now in range(5, 600, 5):
        assert changes(engine.handle(Observed(NET, silent), float(now))) == []
