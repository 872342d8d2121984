"""Which records belong to a question, which addresses are believed, which order SRV targets have."""

from __future__ import annotations

import math
from collections import Counter
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wgrouter.core import answers
from wgrouter.core.answers import CHAIN_MAX, BadName, Reading, checked, read, services, sort_out
from wgrouter.core.messages import Record


def a(name: str, data: str, ttl: int = 60) -> Record:
    return Record(name, "A", ttl, data)


def alias(name: str, target: str, ttl: int = 60) -> Record:
    return Record(name, "CNAME", ttl, target)


# ---- host names


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("VPN.Example.NET.", "vpn.example.net"),
        ("router", "router"),
        ("a", "a"),
        ("_x.a-b.example.net", "_x.a-b.example.net"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
        (".".join(["a" * 49] * 5) + ".bcd", ".".join(["a" * 49] * 5) + ".bcd"),
    ],
)
def test_host_names_have_one_spelling(host: str, name: str) -> None:
    assert checked(host) == name


@pytest.mark.parametrize(
    ("host", "complaint"),
    [
        ("", "0 characters"),
        (".", "0 characters"),
        ("a..b", "a part of 0"),
        ("a.b..", "a part of 0"),
        ("a" * 64 + ".example", "a part of 64"),
        (".".join(["a" * 63] * 4), "255 characters"),
        (".".join(["a" * 49] * 5) + ".bcde", "254 characters"),
        ("bücher.example", "xn-- form"),
        ("a b.example", "'a b'"),
        ("-a.example", "'-a'"),
        ("a-.example", "'a-'"),
        ("a;b.example", "letters, digits"),
        ("192.0.2.300", "ends in a number"),
        ("a\0b", "letters, digits"),
    ],
)
def test_what_is_no_host_name_is_told(host: str, complaint: str) -> None:
    with pytest.raises(BadName, match=complaint):
        checked(host)


@given(st.text(max_size=300))
def test_any_text_is_a_name_or_a_bad_name(text: str) -> None:
    try:
        name = checked(text)
    except BadName:
        return
    assert checked(name) == name == name.lower()
    assert 0 < len(name) <= 253


# ---- which records count


@pytest.mark.parametrize(
    ("records", "reading"),
    [
        pytest.param([], Reading((), math.inf, "vpn.example.net"), id="nothing"),
        pytest.param(
            [a("vpn.example.net", "192.0.2.1")], Reading(("192.0.2.1",), 60, "vpn.example.net"), id="one"
        ),
        pytest.param(
            [a("VPN.example.NET.", "192.0.2.1"), a("vpn.EXAMPLE.net", "192.0.2.2", 5)],
            Reading(("192.0.2.1", "192.0.2.2"), 5, "vpn.example.net"),
            id="letters of any size, smallest TTL",
        ),
        pytest.param(
            [a("evil.example.net", "192.0.2.66"), a("vpn.example.net.evil", "192.0.2.66")],
            Reading((), math.inf, "vpn.example.net"),
            id="others' records do not count",
        ),
        pytest.param(
            [
                a("b.example", "192.0.2.2", 30),
                alias("a.example.", "B.example.", 20),
                alias("vpn.example.net", "a.example"),
            ],
            Reading(("192.0.2.2",), 20, "b.example", ("vpn.example.net", "a.example")),
            id="a chain, in any order",
        ),
        pytest.param(
            [alias("vpn.example.net", "a.example", 7), a("b.example", "192.0.2.66")],
            Reading((), 7, "a.example", ("vpn.example.net",)),
            id="a chain that leads elsewhere",
        ),
        pytest.param(
            [alias("vpn.example.net", "a.example"), alias("a.example", "vpn.example.net")],
            Reading(
                (), 60, "vpn.example.net", ("vpn.example.net", "a.example"), "CNAME loop at vpn.example.net"
            ),
            id="a loop",
        ),
        pytest.param(
            [alias("vpn.example.net", "VPN.example.net.")],
            Reading((), 60, "vpn.example.net", ("vpn.example.net",), "CNAME loop at vpn.example.net"),
            id="an alias of itself",
        ),
        pytest.param(
            [Record("vpn.example.net", "AAAA", 60, "2001:db8::1"), Record("vpn.example.net", "TXT", 60, "x")],
            Reading((), math.inf, "vpn.example.net"),
            id="other types do not count",
        ),
        pytest.param(
            [a("vpn.example.net", "192.0.2.1", -1)],
            Reading(("192.0.2.1",), 0, "vpn.example.net"),
            id="TTL < 0",
        ),
        pytest.param(
            [a("vpn.example.net", "192.0.2.1", 2**31)],
            Reading(("192.0.2.1",), 0, "vpn.example.net"),
            id="RFC 2181: top bit",
        ),
    ],
)
def test_reading(records: list[Record], reading: Reading) -> None:
    assert read(records, "vpn.example.net", "A") == reading


@pytest.mark.parametrize("before", [0, 3, CHAIN_MAX])
def test_chains_are_bounded_over_all_answers(before: int) -> None:
    passed = tuple(f"p{n}" for n in range(before))
    allowed = CHAIN_MAX - before
    records = [alias(f"n{n}", f"n{n + 1}") for n in range(allowed)]
    assert read([*records, a(f"n{allowed}", "192.0.2.1")], "n0", "A", passed).data == ("192.0.2.1",)
    records.append(alias(f"n{allowed}", f"n{allowed + 1}"))
    assert "more than" in read([*records, a(f"n{allowed + 1}", "192.0.2.1")], "n0", "A", passed).fault


def test_a_loop_over_two_answers_is_seen() -> None:
    assert "loop" in read([alias("b", "a")], "b", "A", ("a",)).fault


# ---- which addresses are believed

NEVER_A_PEER = [
    *("0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.255.254", "169.254.1.1", "224.0.0.1", "239.1.2.3"),
    *("240.0.0.1", "254.1.2.3", "255.255.255.255"),
    *("::", "::1", "fe80::1", "febf::1", "ff02::1", "::127.0.0.1", "::192.0.2.1"),
    *("::ffff:127.0.0.1", "::ffff:0.0.0.0", "::ffff:224.0.0.1", "::ffff:192.0.2.1", "::ffff:169.254.0.1"),
    *("64:ff9b::127.0.0.1", "64:ff9b::e000:1", "2002:7f00:1::1", "2002:0:1::", "2002:ffff:ffff::"),
    *("", "localhost", "1.2.3", "192.0.2.1 ", "1.2.3.4.5", "2001:db8::1::", "192.0.2.256", "x" * 500),
]
MAY_BE_A_PEER = [
    *("192.0.2.1", "10.1.2.3", "192.168.1.1", "172.16.0.1", "100.64.1.1", "1.1.1.1", "223.255.255.255"),
    *("2001:db8::1", "fd00::1", "2606:4700::1", "64:ff9b::c000:201", "2002:c000:201::1"),
]


def kind(address: str) -> str:
    return "AAAA" if ":" in address else "A"


@pytest.mark.parametrize("address", NEVER_A_PEER)
def test_never_believed(address: str) -> None:
    found = sort_out([address], kind(address), ())
    assert found.accepted == ()
    assert found.refused[0][1]
    assert len(found.refused[0][0]) <= 60


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        *(("0.0.0.0", "unspecified"), ("::", "unspecified"), ("0.1.2.3", "this network (0.0.0.0/8)")),
        *(("127.0.0.1", "loopback"), ("::1", "loopback"), ("224.0.0.1", "multicast")),
        *(("169.254.1.1", "link-local"), ("255.255.255.255", "broadcast")),
        *(("255.255.255.254", "reserved (240.0.0.0/4)"), ("240.0.0.1", "reserved (240.0.0.0/4)")),
        *(("::ffff:192.0.2.1", "an IPv4 address in IPv6 clothes"), ("::5", "IPv4-compatible (::/96)")),
        *(("64:ff9b::7f00:1", "leads to 127.0.0.1: loopback"), ("192.0.2.1", ""), ("2001:db8::1", "")),
    ],
)
def test_why_it_is_not_believed(address: str, reason: str) -> None:
    assert answers.refusal(ip_address(address), ()) == reason


@pytest.mark.parametrize("address", MAY_BE_A_PEER)
def test_believed(address: str) -> None:
    assert sort_out([address], kind(address), ()).accepted == (address,)


@pytest.mark.parametrize(
    ("allow", "accepted"),
    [
        (("192.0.2.0/24",), {"192.0.2.1"}),
        (("2001:db8::/32", "10.0.0.0/8"), {"2001:db8::1", "10.1.2.3"}),
        (("192.0.2.1",), {"192.0.2.1"}),
        (("192.0.2.77/24",), {"192.0.2.1"}),
        (
            ("127.0.0.0/8", "::/0"),
            {"2001:db8::1", "fd00::1", "2606:4700::1", "64:ff9b::c000:201", "2002:c000:201::1"},
        ),
        (("nonsense",), set()),
    ],
)
def test_only_what_is_allowed(allow: tuple[str, ...], accepted: set[str]) -> None:
    everything = [*MAY_BE_A_PEER, *NEVER_A_PEER]
    found = [*sort_out(everything, "A", allow).accepted, *sort_out(everything, "AAAA", allow).accepted]
    assert set(found) == accepted


def test_an_address_of_the_other_family_is_no_answer() -> None:
    assert sort_out(["2001:db8::1"], "A", ()).accepted == ()
    assert sort_out(["192.0.2.1"], "AAAA", ()).accepted == ()


def test_one_spelling_and_no_doubles() -> None:
    assert sort_out(["2001:DB8:0::1", "2001:db8::1"], "AAAA", ()).accepted == ("2001:db8::1",)


def test_rotation_changes_nothing_and_new_ones_come_last() -> None:
    before = ("192.0.2.1", "192.0.2.2", "192.0.2.3")
    rotated = ["192.0.2.3", "192.0.2.1", "192.0.2.2"]
    assert sort_out(rotated, "A", (), before).accepted == before
    changed = ["192.0.2.9", "192.0.2.3", "192.0.2.8", "192.0.2.1"]
    assert sort_out(changed, "A", (), before).accepted == ("192.0.2.1", "192.0.2.3", "192.0.2.9", "192.0.2.8")


@given(
    st.lists(st.ip_addresses().map(str) | st.text(max_size=40), max_size=40), st.sampled_from(["A", "AAAA"])
)
def test_any_data_is_sorted_out(data: list[str], type_: str) -> None:
    found = sort_out(data, type_, ())
    assert len(found.accepted) <= answers.ADDRESSES_MAX
    assert sort_out(found.accepted, type_, ()).accepted == found.accepted
    assert sort_out(data, type_, (), found.accepted).accepted == found.accepted


# ---- SRV


def test_services_by_priority_then_by_weight() -> None:
    data = ["20 0 51820 c.example.", "10 1 51821 B.example", "5 0 51822 a.example"]
    assert [s.target for s in services(data, "seed", "vpn")] == ["a.example", "b.example", "c.example"]


@pytest.mark.parametrize(
    "data",
    [
        *("", "1 2 3", "1 2 3 4 5", "x 0 51820 a.example", "0 0 0 a.example", "0 0 65536 a.example"),
        *("0 0 51820 .", "0 0 51820 a..b", "0 0 51820 bücher.example", "0 0 -1 a.example"),
    ],
)
def test_unusable_services_are_left_out(data: str) -> None:
    assert services([data, "0 0 51820 good.example"], "seed", "vpn")[0].target == "good.example"
    assert len(services([data, "0 0 51820 good.example"], "seed", "vpn")) == 1


def test_many_routers_spread_as_the_weights_say_and_each_stays_with_its_choice() -> None:
    data = ["0 3 1 big.example", "0 1 1 small.example", "0 0 1 last.example"]
    firsts = Counter(services(data, f"router {n}", "vpn")[0].target for n in range(4000))
    assert 0.70 < firsts["big.example"] / 4000 < 0.80
    assert firsts["last.example"] < 4000 * 0.02
    assert services(data, "router 7", "vpn") == services(reversed(data), "router 7", "vpn")


def test_services_are_bounded_and_not_doubled() -> None:
    data = [f"0 0 51820 s{n}.example" for n in range(20)] * 2
    assert sorted(s.target for s in services(data[18:22], "seed", "vpn")) == [
        *("s0.example", "s1.example", "s18.example", "s19.example")
    ]
    assert len(services(["0 0 51820 a.example"] * 2, "seed", "vpn")) == 1
    assert len(services(data, "seed", "vpn")) == answers.SERVICES_MAX
