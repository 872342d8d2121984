"""Effects in words: the command that a person would type for the same."""

from __future__ import annotations

import pytest

from wgrouter.core.messages import (
    CHANGES,
    AddRoute,
    AddRule,
    ApplyNft,
    DeleteRoute,
    DeleteRule,
    Effect,
    ForgetFlows,
    Provoke,
    RemoveNft,
    Renew,
    Restart,
    SetEndpoint,
    SetFwmark,
    SetListenPort,
)
from wgrouter.core.model import Endpoint, Hop, Route, Rule

V6 = Route(6, 7400, "::/0", (Hop("fe80::1", "eth1"),), 5, 157, source="2001:db8::2", src="2001:db8::/56")
SHARED = Route(4, 7400, "0.0.0.0/0", (Hop("192.0.2.1", "eth1", 3), Hop("", "ppp")))
NONE = Route(4, 7401, "0.0.0.0/0", metric=9999, kind="unreachable")
MARKED = Rule(4, 6071, 7401, mark=0x21000000, mask=0x3F000000, protocol=157)
MAIN = Rule(6, 6900, 254, src="2001:db8::2", iif="lo", suppress=0)

ROWS: tuple[tuple[Effect, str], ...] = (
    (
        AddRoute(V6),
        "ip -6 route replace default via fe80::1 dev eth1 from 2001:db8::/56 table 7400 metric 5 proto 157"
        " src 2001:db8::2",
    ),
    (
        DeleteRoute(SHARED),
        "ip -4 route del default nexthop via 192.0.2.1 dev eth1 weight 3 nexthop dev ppp weight 1 table 7400",
    ),
    (AddRoute(NONE), "ip -4 route replace unreachable default table 7401 metric 9999"),
    (AddRule(MARKED), "ip -4 rule add pref 6071 fwmark 0x21000000/0x3f000000 lookup 7401 protocol 157"),
    (DeleteRule(MAIN), "ip -6 rule del pref 6900 from 2001:db8::2 iif lo lookup 254 suppress_prefixlength 0"),
    (
        SetEndpoint("wg0", "KEY", Endpoint("2001:db8::9", 51820)),
        "wg set wg0 peer KEY endpoint [2001:db8::9]:51820",
    ),
    (Provoke("wg0", "KEY", 25), "wg set wg0 peer KEY persistent-keepalive 0, then 25"),
    (Provoke("wg0", "KEY", 0), "wg set wg0 peer KEY persistent-keepalive 1, then 0"),
    (SetListenPort("wg0", 40000), "wg set wg0 listen-port 40000"),
    (SetFwmark("wg0", 0x3F000000), "wg set wg0 fwmark 0x3f000000"),
    (ForgetFlows(51820, "192.0.2.1"), "conntrack -D -p 17 --sport 51820 -d 192.0.2.1"),
    (ForgetFlows(local_address="100.64.1.2", protocol=0), "conntrack -D -q 100.64.1.2"),
    (ApplyNft("table inet wgrouter {\n}\n"), "nft -f - (table inet wgrouter, 2 lines)"),
    (RemoveNft(), "nft delete table inet wgrouter"),
    (Renew("wg0"), "ubus call network.interface.wg0 renew"),
    (Restart("wg0"), "ifdown wg0 && ifup wg0"),
)


@pytest.mark.parametrize(("effect", "words"), ROWS, ids=[words[:40] for _, words in ROWS])
def test_a_change_reads_as_the_command_for_it(effect: Effect, words: str) -> None:
    assert str(effect) == words


def test_every_change_has_words() -> None:
    assert {type(effect) for effect, _ in ROWS} == set(CHANGES)
