"""What is left unsaid is part of the journal's format: a field at its default is not written.

A default that changed would change what an old journal says.
"""

from __future__ import annotations

import math

import pytest

from wgrouter.core import care, machine, messages, model, name_memory, settings
from wgrouter.core.engine import State

EP = model.Endpoint("192.0.2.1", 51820)
DNS = model.Nameserver("192.0.2.53")
OLD, NEVER = -math.inf, math.inf

ROWS: list[tuple[object, dict[str, object]]] = [
    (messages.Hinted("ubus"), {"interface": "", "action": ""}),
    (
        messages.Observed(),
        {"net": None, "wireguard": None, "nameservers": None, "interfaces": None, "clock_trusted": True}
        | {"nft": None},
    ),
    (messages.Answered(1, "NOERROR"), {"truncated": False, "records": (), "negative_ttl": 0}),
    (messages.Failed(messages.RemoveNft(), "no"), {"errno": 0}),
    (messages.Commanded("refresh"), {"arguments": {}, "origin": "cli"}),
    (messages.Ask(1, "a", "A", DNS, 1.5), {"tcp": False, "mark": 0}),
    (
        messages.Probe(1, "icmp", "1.1.1.1", "eth1", 2.0),
        {"port": 0, "detail": "", "mark": 0, "source": ""},
    ),
    (messages.ForgetFlows(), {"local_port": 0, "remote": "", "local_address": "", "protocol": 17}),
    (messages.Step(), {"effects": (), "findings": (), "wake_at": NEVER}),
    (
        model.Link(1, "eth1"),
        {"up": True, "carrier": True, "kind": "", "mtu": 1500, "flags": 0, "master": 0},
    ),
    (model.Address("eth1", "192.0.2.2/24"), {"scope": "global", "usable": True, "peer": ""}),
    (model.Hop("", "eth1"), {"weight": 1, "onlink": False}),
    (
        model.Route(4, 254, "0.0.0.0/0"),
        {"hops": (), "metric": 0, "protocol": 0, "kind": "unicast", "source": "", "src": ""}
        | {"linkdown": False, "expires": False},
    ),
    (
        model.Rule(4, 100, 254),
        {"mark": 0, "mask": 0, "src": "", "dst": "", "iif": "", "oif": "", "suppress": -1, "protocol": 0}
        | {"action": "to_table", "other": False},
    ),
    (
        model.PeerSeen("KEY"),
        {"endpoint": None, "handshake": (0, 0), "rx_bytes": 0, "tx_bytes": 0, "keepalive": 0}
        | {"allowed_ips": ()},
    ),
    (
        model.DeviceSeen("wg0"),
        {"public_key": "", "listen_port": 0, "fwmark": 0, "userspace": False, "peers": {}},
    ),
    (DNS, {"port": 53, "device": "", "interface": ""}),
    (
        model.Interface("wan"),
        {"device": "", "up": False, "proto": "", "metric": 0, "dns": (), "gateways": ()},
    ),
    (
        model.World(),
        {"net": None, "wireguard": None, "nameservers": (), "interfaces": None, "clock_trusted": True}
        | {"nft": None},
    ),
    (
        name_memory.Name("a"),
        {"status": name_memory.Status.PENDING, "addresses": (), "endpoints": (), "former": (), "ttl": 0.0}
        | {"since": OLD, "answered": OLD, "expires": OLD, "server": "", "error": "", "asking": False}
        | {"asked": OLD, "ended": OLD, "next_at": NEVER},
    ),
    (
        name_memory.Verdict(),
        {"status": name_memory.Status.SILENT, "server": "", "error": "", "detail": "", "ttl": 0.0, "at": OLD},
    ),
    (
        name_memory.Task("a", "A", "a", 0.0),
        {"passed": (), "ttl": NEVER, "asked": (), "spent": (), "out": (), "refusals": 0, "tried": ()}
        | {"verdict": name_memory.Verdict(), "done": False},
    ),
    (
        name_memory.Entry(name_memory.Wanted("a"), name_memory.Name("a")),
        {"good": {}, "services": (), "failures": 0, "said": (), "lies": (), "tasks": (), "coming": None}
        | {"said_before": (), "publish_at": NEVER, "until": NEVER, "hasten": False},
    ),
    (name_memory.Wanted("a"), {"types": ("A",), "srv": False}),
    (name_memory.Flight("a", DNS, 0.0, 1.0), {"tcp": False}),
    (name_memory.Health(), {"answered": OLD, "failures": 0, "until": OLD}),
    (
        name_memory.Memory(),
        {"entries": {}, "due": (), "active": (), "flights": {}, "health": {}, "servers": (), "next_id": 1}
        | {"wake": OLD, "changed": OLD, "serverless": NEVER},
    ),
    (care.Attempt(0.0, "resolve", "ask"), {"result": ""}),
    (
        care.Care(),
        {"given": (), "roamed": None, "followed": (), "homeless": "", "frozen": False, "rung": 0, "round": 0}
        | {"dead_at": NEVER, "step": None, "deadline": NEVER, "tried": (), "ways": (), "resume_at": OLD}
        | {"spent": (), "attempts": (), "skipped": (), "probe_id": 0, "probe_at": OLD, "return_at": NEVER}
        | {"return_wait": 0.0, "trial_until": NEVER, "kept": None},
    ),
    (care.Detour("b", "a", 4), {"until": NEVER, "wait": 0.0}),
    (
        care.Memory(),
        {"peers": {}, "look_at": OLD, "restarts": {}, "probe_ids": 1, "wake": OLD, "detours": {}}
        | {"wakes": {}, "families": ()},
    ),
    (settings.HostPort("a"), {"port": 51820}),
    (
        settings.Peer("wg0", "KEY", "office"),
        {"endpoints": (), "srv": False, "family": "auto", "keepalive": 0, "allowed_ips": (), "probe": ""}
        | {"probe_interval": 10.0},
    ),
    (
        settings.Tunnel("wg0"),
        {"addresses": (), "listen_port": 0, "fwmark": 0, "wans": (), "peers": ()},
    ),
    (
        settings.Mqtt(),
        {"enabled": True, "brokers": (), "heartbeat": 300.0, "keepalive": 60.0, "will_delay": 45.0}
        | {"confirm": 60.0, "queue": 1000, "metrics_interval": 15.0},
    ),
    (machine.Context(0.0, settings.Settings(), model.World()), {"seed": ""}),
    (
        State(),
        {"seed": "", "configured": False, "stopped": False, "exits": (), "servers": (), "wanted": ()}
        | {"signature": (), "generations": {}, "neighbours": (), "failing": {}, "asked": (), "recent": ()}
        | {"net_look_at": 0.0},
    ),
]


@pytest.mark.parametrize(("value", "unsaid"), ROWS, ids=[type(value).__name__ for value, _ in ROWS])
def test_what_is_left_unsaid(value: object, unsaid: dict[str, object]) -> None:
    assert {name: getattr(value, name) for name in unsaid} == unsaid
    assert all(type(getattr(value, name)) is type(item) for name, item in unsaid.items())


def test_without_a_word_of_it_no_other_wan_is_known() -> None:
    view = care.Outlook(lambda place: (EP,), lambda host, since: True, lambda host: "", frozenset({4}))
    assert view.ways("wg0", 4) == ()
    assert (view.network_changed, view.rerouted, view.enabled, view.news) == (
        *(False, frozenset(), True, frozenset()),
    )
