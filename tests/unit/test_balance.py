"""The nft ruleset: when there is one, what is in it, and that nft takes whatever the settings are."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.test_routing import path
from wgrouter.core import balance
from wgrouter.core.link_watch import Uplink
from wgrouter.core.settings import Routing, Settings, TrafficRule, Wan

BOTH = (path("a"), path("b"))


def weighed(name: str, weight: int, state: str = "up", family: int = 4) -> Uplink:
    one = path(name, state, family)
    return Uplink(replace(one.watch, wan=Wan(name, weight=weight)))


def text(
    uplinks: tuple[Uplink, ...] = BOTH,
    choices: dict[int, str] | None = None,
    closed: frozenset[int] = frozenset(),
    rules: tuple[TrafficRule, ...] = (),
    **routing: object,
) -> str:
    wanted = Settings(rules=rules, routing=Routing(**routing))  # type: ignore[arg-type]
    return balance.ruleset(uplinks, {4: "a", 6: "a"} if choices is None else choices, closed, wanted) or ""


def chain(ruleset: str, name: str) -> list[str]:
    found = re.search(rf"\tchain {name} {{\n(.*?)\t}}\n", ruleset, re.DOTALL)
    return [line.strip() for line in found.group(1).splitlines()] if found else []


@pytest.mark.parametrize(
    ("what", "uplinks", "choices", "closed"),
    [
        ("one WAN", (path("a"),), {4: "a"}, ()),
        ("no choice", BOTH, {}, ()),
        ("a choice that does not work", (path("a", "off"), path("b")), {4: "a"}, ()),
        ("a full tunnel", BOTH, {4: "a"}, (4,)),
        ("one WAN per family", (path("a"), path("b", family=6)), {4: "a", 6: "b"}, ()),
        ("a device with a strange name", (path("a"), path("b", device='x"y')), {4: "a"}, ()),
        ("a device whose name is no text", (path("a"), path("b", device="eth\udc80")), {4: "a"}, ()),
        ("no number for one", (path("a"), path("b", index=0)), {4: "a"}, ()),
    ],
)
def test_when_there_is_none(
    what: str, uplinks: tuple[Uplink, ...], choices: dict[int, str], closed: tuple[int, ...]
) -> None:
    assert balance.ruleset(uplinks, choices, frozenset(closed), Settings()) is None


def test_over_ipv6_in_full() -> None:
    """Literally what nft is given, for one family, one rule and one set."""
    guests = TrafficRule(
        "guests", wans=("b",), src="192.168.0.0/24,fd00::/64", ipset="video", last_resort="blackhole"
    )
    whole = text((path("a", family=6), path("b", "down", 6)), {6: "a"}, rules=(guests,), balance=True)
    match = "meta nfproto ipv6 ip6 saddr { fd00::/64 } ip6 daddr @video_6"
    start, _, rest = whole.partition('comment "wgrouter ')
    assert (
        start + rest.partition('"')[2]
        == f"""\
table inet wgrouter
flush table inet wgrouter
table inet wgrouter {{
\tchain about {{
\t\treturn \n\t}}
\tset video_4 {{ type ipv4_addr; flags interval; auto-merge; }}
\tset video_6 {{ type ipv6_addr; flags interval; auto-merge; }}
\tchain prerouting {{
\t\ttype filter hook prerouting priority mangle; policy accept;
\t\tmeta nfproto ipv6 iifname "eth1" ct state new ct mark set ct mark and 0xc0ffffff or 0x01000000
\t\tmeta nfproto ipv6 iifname "eth2" ct state new ct mark set ct mark and 0xc0ffffff or 0x02000000
\t\tiifname {{ "eth1", "eth2" }} return
\t\tmeta mark and 0x3fff3f00 != 0 return
\t\tct mark and 0x3f000000 vmap {{ 0x01000000 : goto to_1, 0x02000000 : goto to_2 }}
\t\tct state new goto choose
\t}}
\tchain forward {{
\t\ttype filter hook forward priority mangle; policy accept;
\t\toifname {{ "eth1", "eth2" }} {match} drop
\t}}
\tchain postrouting {{
\t\ttype filter hook postrouting priority mangle; policy accept;
\t\tmeta mark and 0x20000000 != 0 return
\t\tmeta nfproto ipv6 oifname "eth1" ct direction original ct mark and 0x3f000000 != 0x01000000 \
ct mark set ct mark and 0xc0ffffff or 0x01000000
\t\tmeta nfproto ipv6 oifname "eth2" ct direction original ct mark and 0x3f000000 != 0x02000000 \
ct mark set ct mark and 0xc0ffffff or 0x02000000
\t}}
\tchain choose {{
\t\tmeta nfproto ipv6 goto to_1
\t}}
\tchain to_1 {{
\t\tmeta mark set meta mark and 0xc0ffffff or 0x01000000
\t\taccept
\t}}
\tchain to_2 {{
\t\tmeta mark set meta mark and 0xc0ffffff or 0x02000000
\t\taccept
\t}}
}}
"""
    )


def test_sticky_sources_by_the_rule_or_by_the_setting() -> None:
    def spread(family: int = 4, sticky: bool = False, everywhere: bool = False) -> str:
        uplinks = (weighed("a", 1, family=family), weighed("b", 1, family=family))
        one = TrafficRule("r", wans=("balanced",), sticky=sticky)
        return chain(text(uplinks, {family: "a"}, rules=(one,), sticky=everywhere), "choose")[0]

    assert "numgen random mod 2" in spread()
    assert "jhash ip saddr mod 24 seed 0x77677274 vmap { 0-11 : goto to_1, 12-23 : goto to_2 }" in spread(
        sticky=True
    )
    assert "jhash ip saddr" in spread(everywhere=True) and "jhash ip6 saddr" in spread(6, True)


def test_a_priority_without_a_usable_wan_keeps_to_the_chosen_one() -> None:
    """It is used for want of a better, and is the only one that new connections go by."""
    uplinks = (weighed("a", 1, "held"), weighed("b", 1, "down"))
    assert chain(text(uplinks, balance=True), "choose") == ["meta nfproto ipv4 goto to_1"]
    last = TrafficRule("r", wans=("b", "c"))
    three = (path("a"), path("b", "down"), path("c", "held"))
    assert chain(text(three, rules=(last,)), "choose") == ["meta nfproto ipv4 goto to_3"]
    fresh = (path("a"), path("b", "unproven"), path("c", "up"))
    assert chain(text(fresh, rules=(last,)), "choose") == ["meta nfproto ipv4 goto to_2"], "not judged yet"
    both = (path("a"), path("b", "held"), path("c", "up"))
    assert chain(text(both, rules=(last,)), "choose") == ["meta nfproto ipv4 goto to_2"], (
        "its first, if it answers"
    )


@pytest.mark.parametrize(
    ("ports", "words"),
    [
        ("80-80", "80"),
        ("0", "0"),
        ("80-81,82", "80-82"),
        ("80-81,83", "80-81, 83"),
        ("1-100,50-60", "1-100"),
        ("65535,443", "443, 65535"),
    ],
)
def test_ports_in_the_words_of_nft(ports: str, words: str) -> None:
    for name in ("src_port", "dst_port"):
        one = replace(TrafficRule("r", wans=("b",), protocol="udp"), **{name: ports})
        [line] = chain(text(rules=(one,)), "choose")
        assert line == f"meta nfproto ipv4 meta l4proto udp th {name[0]}port {{ {words} }} goto to_2"
        assert chain(text(rules=(replace(one, protocol="icmp"),)), "choose") == []


def test_without_balancing_flows_only_stay_where_they_are() -> None:
    ruleset = text()
    assert chain(ruleset, "choose") == [] and chain(ruleset, "forward")[1:] == []
    assert [line for line in chain(ruleset, "postrouting") if 'oifname "eth2"' in line] == [
        'meta nfproto ipv4 oifname "eth2" ct direction original ct mark and 0x3f000000 != 0x02000000 '
        "ct mark set ct mark and 0xc0ffffff or 0x02000000"
    ]


def test_a_failover_changes_nothing_in_it_without_balancing() -> None:
    assert text() == text((path("a", "down"), path("b")), {4: "b"})


def test_what_carries_an_outer_mark_is_never_saved() -> None:
    assert chain(text(), "postrouting")[1] == "meta mark and 0x20000000 != 0 return"


def test_what_somebody_marked_is_left_to_him() -> None:
    lines = chain(text(balance=True), "prerouting")
    guard = lines.index("meta mark and 0x3fff3f00 != 0 return")
    assert guard < lines.index("ct state new goto choose")
    assert lines[guard - 1] == 'iifname { "eth1", "eth2" } return'


def test_failback_all_lets_connections_follow_the_active_wan() -> None:
    assert chain(text(failback="all"), "postrouting")[1:] == []
    assert any(
        "iifname" in line and "ct mark set" in line for line in chain(text(failback="all"), "prerouting")
    )
    assert len(chain(text(failback="all", balance=True), "postrouting")) > 1


@pytest.mark.parametrize(
    ("uplinks", "line"),
    [
        ((weighed("a", 3), weighed("b", 1)), "numgen random mod 4 vmap { 0-2 : goto to_1, 3 : goto to_2 }"),
        ((weighed("a", 1), weighed("b", 1)), "numgen random mod 2 vmap { 0 : goto to_1, 1 : goto to_2 }"),
        ((weighed("a", 2), weighed("b", 1)), "numgen random mod 3 vmap { 0-1 : goto to_1, 2 : goto to_2 }"),
        ((weighed("a", 3), weighed("b", 1, "down")), "goto to_1"),
        ((weighed("a", 3), weighed("b", 1, "held")), "goto to_1"),
        ((weighed("a", 3), weighed("b", 1, "degraded")), "goto to_1"),
        (
            (weighed("a", 3), weighed("b", 1, "suspect")),
            "numgen random mod 4 vmap { 0-2 : goto to_1, 3 : goto to_2 }",
        ),
        ((weighed("a", 0), weighed("b", -2)), "numgen random mod 2 vmap { 0 : goto to_1, 1 : goto to_2 }"),
    ],
)
def test_weights(uplinks: tuple[Uplink, ...], line: str) -> None:
    assert chain(text(uplinks, balance=True), "choose") == [f"meta nfproto ipv4 {line}"]


def test_only_the_priority_in_use_shares() -> None:
    backup = path("b", priority=20)
    assert chain(text((path("a"), backup), balance=True), "choose") == ["meta nfproto ipv4 goto to_1"]
    three = (path("a", "down"), path("b", priority=20), path("c", priority=20))
    assert chain(text(three, {4: "b"}, balance=True), "choose") == [
        "meta nfproto ipv4 numgen random mod 2 vmap { 0 : goto to_2, 1 : goto to_3 }"
    ]


def slots(line: str) -> dict[int, int]:
    """Slot → index, from a vmap."""
    found = {}
    for first, last, index in re.findall(r"(\d+)(?:-(\d+))? : goto to_(\d+)", line):
        found |= {slot: int(index) for slot in range(int(first), int(last or first) + 1)}
    return found


def test_a_sticky_source_keeps_its_wan_when_another_dies() -> None:
    def hashed(state: str) -> dict[int, int]:
        wans = (weighed("a", 2), weighed("b", 1), weighed("c", 1, state))
        [line] = chain(text(wans, balance=True, sticky=True), "choose")
        assert "jhash ip saddr mod 48 seed 0x77677274 vmap" in line
        return slots(line)

    before, after = hashed("up"), hashed("down")
    assert Counter(before.values()) == {1: 24, 2: 12, 3: 12}
    assert all(after[slot] == index for slot, index in before.items() if index != 3)
    assert Counter(after.values()) == {1: 30, 2: 18}


def rule(**more: object) -> TrafficRule:
    return TrafficRule("r", **({"wans": ("b",)} | more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (rule(), "meta nfproto ipv4 goto to_2"),
        (rule(src="192.168.1.0/24"), "meta nfproto ipv4 ip saddr { 192.168.1.0/24 } goto to_2"),
        (rule(dst="192.0.2.1"), "meta nfproto ipv4 ip daddr { 192.0.2.1/32 } goto to_2"),
        (
            rule(src="10.0.0.0/8, 192.168.0.0/16"),
            "meta nfproto ipv4 ip saddr { 10.0.0.0/8, 192.168.0.0/16 } goto to_2",
        ),
        (rule(src="fd00::/8"), None),
        (rule(src="fd00::/8,10.0.0.0/8"), "meta nfproto ipv4 ip saddr { 10.0.0.0/8 } goto to_2"),
        (rule(protocol="udp"), "meta nfproto ipv4 meta l4proto udp goto to_2"),
        (rule(protocol="icmp"), "meta nfproto ipv4 meta l4proto { icmp, ipv6-icmp } goto to_2"),
        (
            rule(protocol="tcp", dst_port="80,443"),
            "meta nfproto ipv4 meta l4proto tcp th dport { 80, 443 } goto to_2",
        ),
        (
            rule(src_port="1000-2000"),
            "meta nfproto ipv4 meta l4proto { tcp, udp } th sport { 1000-2000 } goto to_2",
        ),
        # what overlaps, nft would refuse
        (rule(src="10.1.0.0/16,10.0.0.0/8"), "meta nfproto ipv4 ip saddr { 10.0.0.0/8 } goto to_2"),
        (rule(src="192.168.1.7/24"), "meta nfproto ipv4 ip saddr { 192.168.1.0/24 } goto to_2"),
        (
            rule(dst_port="443, 80-90,85-100,101"),
            "meta nfproto ipv4 meta l4proto { tcp, udp } th dport { 80-101, 443 } goto to_2",
        ),
        (rule(ipset="tv"), "meta nfproto ipv4 ip daddr @tv_4 goto to_2"),
        (rule(wans=("x", "b")), "meta nfproto ipv4 goto to_2"),
        (
            rule(wans=("balanced",)),
            "meta nfproto ipv4 numgen random mod 2 vmap { 0 : goto to_1, 1 : goto to_2 }",
        ),
        (rule(wans=("x",)), None),
        (rule(wans=()), "meta nfproto ipv4 goto to_1"),
        # words that nft would stumble over, or worse
        (rule(src="nonsense"), None),
        (rule(src="10.0.0.0/8 } accept; }"), None),
        (rule(dst_port="80; drop"), None),
        (rule(dst_port="80-"), None),
        (rule(dst_port="65536"), None),
        (rule(dst_port="90-80"), None),
        (rule(dst_port="٣"), None),
        (rule(protocol="gre"), None),
        (rule(protocol="icmp", dst_port="80"), None),
        (rule(ipset="a b"), None),
        (rule(ipset='x"'), None),
    ],
)
def test_traffic_rules(given: TrafficRule, line: str | None) -> None:
    assert chain(text(rules=(given,)), "choose") == ([line] if line else [])


def test_the_first_rule_that_fits_decides_before_the_weights() -> None:
    lines = chain(text(rules=(rule(protocol="tcp"), rule(wans=("a",))), balance=True), "choose")
    assert [line.rpartition(" goto ")[2] for line in lines[:2]] == ["to_2", "to_1"] and "numgen" in lines[2]


@pytest.mark.parametrize(
    ("state", "resort", "forward", "choose"),
    [
        ("up", "unreachable", 0, 1),
        ("held", "unreachable", 0, 1),  # it answers: better than refusing
        ("down", "unreachable", 1, 0),
        ("down", "blackhole", 1, 0),
        ("down", "default", 0, 0),
        ("off", "unreachable", 1, 0),
    ],
)
def test_the_last_resort(state: str, resort: str, forward: int, choose: int) -> None:
    ruleset = text((path("a"), path("b", state)), rules=(rule(last_resort=resort),))
    refusals = chain(ruleset, "forward")[1:]
    assert (len(refusals), len(chain(ruleset, "choose"))) == (forward, choose)
    verdict = {"unreachable": "reject with icmpx no-route", "blackhole": "drop"}.get(resort, "")
    # Only what leaves by a WAN: the LAN and the router itself are not meant.
    assert all(line == f'oifname {{ "eth1", "eth2" }} meta nfproto ipv4 {verdict}' for line in refusals)


def test_other_bits_of_a_mark_are_kept() -> None:
    for line in text(balance=True, mark_mask=0xF0000).splitlines():
        for keep in re.findall(r"mark set \w+ mark and (0x\w+) or", line):
            assert keep == "0xfff0ffff"


def test_the_digest_is_of_the_content() -> None:
    one, same, other = text(), text(), text(balance=True)
    assert balance.digest(one) == balance.digest(same) != balance.digest(other)
    assert balance.digest("table inet wgrouter { }") == ""


# ---------------------------------------------------------------- nft itself

needs_nft = pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed")
STATES = st.sampled_from(["up", "down", "off", "held", "degraded", "unproven"])
WORDS = st.text(st.sampled_from('abc019.,:/-{}"; @\n'), max_size=12)
SPAN = st.tuples(st.integers(0, 70000), st.integers(0, 70000)).map(lambda p: f"{p[0]}-{p[1]}")
PORTS = st.lists(SPAN | st.integers(0, 66000).map(str), max_size=4).map(",".join)
PREFIX = st.tuples(st.integers(0, 3), st.integers(0, 32)).map(lambda p: f"10.{p[0]}.0.0/{p[1]}")
PREFIXES = st.lists(PREFIX | PREFIX.map(lambda text: f"::ffff:{text.partition('/')[0]}"), max_size=4).map(
    ",".join
)
RULES = st.builds(
    TrafficRule,
    name=st.just("r"),
    src=st.sampled_from(["", "10.0.0.0/8", "fd00::/8", "10.0.0.0/8,fd00::/8"]) | PREFIXES | WORDS,
    dst=st.sampled_from(["", "192.0.2.1", "2001:db8::/32"]) | PREFIXES | WORDS,
    protocol=st.sampled_from(["", "tcp", "udp", "icmp", "esp"]),
    src_port=st.sampled_from(["", "53", "1-65535"]) | PORTS | WORDS,
    dst_port=st.sampled_from(["", "80,443", "1000-2000"]) | PORTS | WORDS,
    ipset=st.sampled_from(["", "tv", "Work_2"]) | WORDS,
    wans=st.lists(st.sampled_from(["a", "b", "c", "balanced", "nosuch"]), max_size=3).map(tuple),
    last_resort=st.sampled_from(["default", "unreachable", "blackhole"]),
    sticky=st.booleans(),
)


@pytest.mark.lab
@needs_nft
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(STATES, st.integers(1, 9), st.sampled_from([4, 6])), min_size=2, max_size=5),
    st.lists(RULES, max_size=4).map(tuple),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["new", "all", "never"]),
)
def test_nft_takes_it_whatever_the_settings_are(
    drawn: list[tuple[str, int, int]],
    rules: tuple[TrafficRule, ...],
    balanced: bool,
    sticky: bool,
    failback: str,
) -> None:
    uplinks = tuple(
        weighed("abcde"[n], weight, state, family) for n, (state, weight, family) in enumerate(drawn)
    )
    choices = {
        family: u.path.wan for family in (4, 6) for u in uplinks if u.path.family == family and u.path.works
    }
    ruleset = text(uplinks, choices, rules=rules, balance=balanced, sticky=sticky, failback=failback)
    done = subprocess.run(
        ["unshare", "--net", "nft", "-c", "-f", "-"],
        input=ruleset,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + ruleset
