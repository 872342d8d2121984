"""Files → Settings and Problems: what comes from where, what a mistake costs, what is never said."""

import base64
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.work import calls
from wgrouter.config import uci, uci_text
from wgrouter.config.load import FILES, LARGEST, MAIN_FILE, NETWORK_FILE, Loaded, load, read
from wgrouter.config.problems import MOST, Problem
from wgrouter.config.schema import BY_TYPE, SECTIONS
from wgrouter.core.findings import Severity
from wgrouter.core.settings import HostPort, Peer, Settings, TrafficRule, Tunnel, Wan


def key(number: int) -> str:
    """A public key, each different from its first character on."""
    return base64.b64encode(random.Random(number).randbytes(32)).decode()


SECRET = base64.b64encode(b"private" * 4 + b"bits").decode()
SHARED = base64.b64encode(b"preshared" * 3 + b"bytes").decode()

NETWORK = f"""
config interface 'loopback'
	option device 'lo'
	option proto 'static'
	option ipaddr '127.0.0.1'

config interface 'wan'
	option device 'eth1'
	option proto 'dhcp'

config interface 'wan6'
	option device '@wan'
	option proto 'dhcpv6'

config interface 'lte'
	option proto 'qmi'
	option device '/dev/cdc-wdm0'

config interface 'wg0'
	option proto 'wireguard'
	option private_key '{SECRET}'
	list addresses '10.0.0.1/24'
	list addresses 'FD00::1/64'

config wireguard_wg0
	option description 'office'
	option public_key '{key(1)}'
	option preshared_key '{SHARED}'
	option endpoint_host 'Office.example.net'
	option endpoint_port '1234'
	option persistent_keepalive '25'
	list allowed_ips '10.0.0.2/32'
	list allowed_ips '192.168.7.0/24'

config wireguard_wg0
	option public_key '{key(2)}'
	option endpoint_host '192.0.2.7'
	list allowed_ips 'fd00::/32'
	list allowed_ips 'fd00::3/128'

config wireguard_wg0 'phone'
	option description 'phone'
	option public_key '{key(3)}'
	option allowed_ips '10.0.0.4/32 10.0.0.5/32'
"""


def loaded(main: str = "", network: str = NETWORK) -> Loaded:
    return load({MAIN_FILE: main.encode(), NETWORK_FILE: network.encode()})


def clean(main: str = "", network: str = NETWORK) -> Settings:
    found = loaded(main, network)
    assert found.problems == ()
    return found.settings


def only(main: str, network: str = NETWORK) -> tuple[Problem, Settings]:
    found = loaded(main, network)
    assert len(found.problems) == 1, [str(problem) for problem in found.problems]
    return found.problems[0], found.settings


@pytest.mark.parametrize("name", ["auto", "balanced", "w_" * 17])
def test_a_wan_has_a_name_that_means_nothing_else(name: str) -> None:
    """`switch auto` goes back to the rules, `list wan 'balanced'` is all of them."""
    problem, settings = only(f"config wan '{name}'\n\toption device 'eth1'\n")
    assert settings.wans == ()
    assert problem.message.startswith(f"a WAN cannot be called '{name[:31]}")
    assert problem.accepted == "up to 32 characters, and neither auto nor balanced"
    assert problem.consequence == "section skipped"


def peer(settings: Settings, label: str) -> Peer:
    (found,) = (peer for peer in settings.peers() if peer.label == label)
    return found


# ---- discovery


def test_an_empty_file_cares_for_every_enabled_peer() -> None:
    settings = clean()
    assert settings.tunnels == (
        Tunnel(
            "wg0",
            addresses=("10.0.0.1/24", "fd00::1/64"),
            peers=(
                Peer("wg0", key(1), "office", (HostPort("office.example.net", 1234),), keepalive=25,
                     allowed_ips=("10.0.0.2/32", "192.168.7.0/24"), probe="10.0.0.2"),
                Peer("wg0", key(2), key(2)[:8], (HostPort("192.0.2.7", 51820),),
                     allowed_ips=("fd00::/32", "fd00::3/128"), probe="fd00::3"),
                Peer("wg0", key(3), "phone", (),
                     allowed_ips=("10.0.0.4/32", "10.0.0.5/32"), probe="10.0.0.4"),
            ),
        ),
    )  # fmt: skip
    assert settings.wans == ()
    assert settings.interfaces == {"loopback": "lo", "wan": "eth1", "wan6": "eth1", "wg0": "wg0"}


@pytest.mark.parametrize("main", [b"", b"# nothing\n", FileNotFoundError(), None])
def test_a_missing_main_file_is_as_good_as_an_empty_one(main: bytes | Exception | None) -> None:
    files: dict[str, bytes | Exception] = {NETWORK_FILE: NETWORK.encode()}
    if main is not None:
        files[MAIN_FILE] = main
    found = load(files)
    assert (found.settings, found.problems, found.unread) == (clean(), (), ())


def test_without_a_network_file_there_are_no_tunnels() -> None:
    found = load({})
    assert found.settings == Settings()
    assert [problem.severity for problem in found.problems] == [Severity.WARNING]
    assert not found.unread


# ---- tunnels and peers


def test_a_tunnel_section() -> None:
    (tunnel,) = clean(
        "config tunnel 'wg0'\n list wan 'lte'\n list wan wan\n"
        " option new_port yes\n option restart 1\n option backoff 1m\n"
    ).tunnels
    assert tunnel.wans == ("lte", "wan")
    assert (tunnel.ladder.new_port, tunnel.ladder.restart, tunnel.ladder.backoff) == ("yes", True, 60.0)


def test_a_tunnel_section_by_option() -> None:
    (tunnel,) = clean("config tunnel\n option interface wg0\n option renew 1\n").tunnels
    assert tunnel.ladder.renew


@pytest.mark.parametrize("text", ["0", "off", "fasle"])
def test_a_tunnel_can_be_left_alone_and_a_bad_word_does_the_same(text: str) -> None:
    found = loaded(f"config tunnel 'wg0'\n option enabled '{text}'\n")
    assert found.settings.tunnels == ()
    assert len(found.problems) == (text == "fasle")


def test_an_interface_that_is_not_brought_up_at_boot() -> None:
    network = NETWORK.replace("'wireguard'", "'wireguard'\n\toption auto '0'")
    assert clean("", network).tunnels == ()
    assert len(clean("config tunnel wg0\n option enabled 1", network).tunnels) == 1


def test_a_disabled_interface_is_left_out_without_a_word() -> None:
    network = NETWORK.replace("'wireguard'", "'wireguard'\n\toption disabled '1'")
    tunnel = "config tunnel wg0\n option enabled 1\n"
    main = f"{tunnel}config peer\n option interface wg0\n option public_key {key(1)}\n"
    assert clean(main, network).tunnels == ()


def test_a_disabled_peer_is_left_out() -> None:
    network = NETWORK.replace("option description 'office'", "option disabled 'true'")
    assert [peer.label for peer in clean("", network).peers()] == [key(2)[:8], "phone"]


def test_a_peer_section_by_key_adds_endpoints_behind_the_preferred_one() -> None:
    main = f"""config peer
        option public_key '{key(1)}'
        list endpoint 'backup.example.net'
        list endpoint '[2001:db8::1]:5'
        list endpoint 'office.example.net:1234'
        option family 'prefer_ipv6'
        option srv 'yes'
        option probe '192.168.7.1'
        option probe_interval '1m'
    """
    found = peer(clean(main), "office")
    assert found.endpoints == (
        HostPort("office.example.net", 1234),
        HostPort("backup.example.net", 1234),
        HostPort("2001:db8::1", 5),
    )
    assert (found.family, found.srv, found.probe, found.probe_interval) == (
        "prefer_ipv6",
        True,
        "192.168.7.1",
        60.0,
    )


def test_a_peer_section_by_description() -> None:
    found = peer(clean("config peer x\n option description office\n option probe off\n"), "office")
    assert found.probe == ""


def test_a_peer_can_be_left_alone() -> None:
    assert [
        peer.label for peer in clean("config peer\n option description office\n option enabled 0\n").peers()
    ] == [
        key(2)[:8],
        "phone",
    ]


def test_a_peer_without_endpoint_can_be_given_one() -> None:
    found = peer(clean("config peer\n option description phone\n list endpoint 192.0.2.9:7\n"), "phone")
    assert found.endpoints == (HostPort("192.0.2.9", 7),)


def test_labels_are_unique_whatever_the_descriptions() -> None:
    first = key(1)
    twin = first[:9] + ("A" if first[9] != "A" else "B") + first[10:]
    peers = [
        (first, "same"),
        (key(2), "same"),
        (twin, key(4)[:8]),
        (key(4), ""),
        (key(5), " two\nlines "),
        (key(6), first[:8]),
    ]
    network = "config interface wg0\n option proto wireguard\n" + "".join(
        f"config wireguard_wg0\n option public_key {public}\n option description '{text}'\n"
        for public, text in peers
    )
    labels = [peer.label for peer in clean("", network).peers()]
    assert labels == [first[:9], key(2)[:8], key(4)[:8], key(4)[:9], "two lines", first[:8]]


# ---- WANs


def test_wans() -> None:
    main = """
config wan 'fibre'
	option interface 'wan'
	option priority '1'
	list target '9.9.9.9'
	list target '2620:fe::fe'
	list method 'icmp'
	list method 'dns-udp'
	option loss_max '10%'
	option latency_max '0.3s'
config wan 'lte'
	option metered '1'
	option family 'ipv4'
config wan 'sat'
	option device 'eth7'
	option enabled '0'
"""
    assert clean(main).wans == (
        Wan("fibre", "wan", "eth1", priority=1, targets4=("9.9.9.9",), targets6=("2620:fe::fe",),
            methods=("icmp", "dns-udp"), loss_max=10.0, latency_max=300.0),
        Wan("lte", "lte", "", metered=True, families=(4,)),
        Wan("sat", "", "eth7", enabled=False),
    )  # fmt: skip


def test_traffic_rules_keep_their_order() -> None:
    main = """
config wan 'wan'
config wan 'lte'
config rule 'voip'
	option proto 'udp'
	option src_ip '192.168.1.7'
	option dest_port '5060,10000-20000'
	list wan 'lte'
	list wan 'wan'
	option last_resort 'unreachable'
config rule 'off'
	option enabled '0'
	list wan 'wan'
config rule
	option dest_ip '2001:db8::/32'
	option wan 'balanced'
	option sticky '1'
"""
    first, second = clean(main).rules
    assert first == TrafficRule(
        "voip", "192.168.1.7/32", "", "udp", "", "5060,10000-20000", "", ("lte", "wan"), "unreachable"
    )
    assert (second.dst, second.wans, second.sticky) == ("2001:db8::/32", ("balanced",), True)


def test_sections_that_are_there_once() -> None:
    main = """
config wgrouter 'main'
	option enabled '0'
	option log_level 'debug'
config dns
	option server '9.9.9.9 2620:fe::fe#5353'
	option ttl_min '1m'
config probing 'probing'
	list target '192.0.2.1'
	option burst_interval '20ms'
config hold
	option margin_percent '50%'
config routing
	option mark_mask '0xf0000000'
	option failback 'never'
	option switch_for '1h'
"""
    settings = clean(main)
    assert (settings.enabled, settings.log_level) == (False, "debug")
    assert (settings.dns.servers, settings.dns.ttl_min) == (("9.9.9.9", "2620:fe::fe#5353"), 60.0)
    assert (settings.probing.targets4, settings.probing.targets6) == (
        ("192.0.2.1",),
        Settings().probing.targets6,
    )
    assert (settings.probing.burst_interval, settings.hold.margin_ratio) == (0.02, 0.5)
    assert (settings.routing.mark_mask, settings.routing.failback) == (0xF0000000, "never")
    assert settings.routing.switch_seconds == 3600.0


# ---- faults of the main file: text, line, option; parts of message, accepted, consequence

FAULTS = [
    ("config wgrouter\n option log_level loud", 2, "log_level", "'loud' is none of", "debug, info",
     "default 'info' holds"),
    ("config wgrouter\n option log_levl info", 2, "log_levl", "no option 'log_levl'", "mean 'log_level'?",
     "ignored"),
    ("config wgrouter\n option zzz 1", 2, "zzz", "no option 'zzz'", "enabled, log_level", "ignored"),
    ("config wgrouter\n option enabled ''", 2, "enabled", "empty value", "", ""),
    ("config wgrouter\n option enabled 1; option log_level debug", 2, "", "what follows ';'", "", ""),
    ("config wgruter main", 1, "", "no section type 'wgruter'", "mean 'wgrouter'?", "section skipped"),
    ("config globals", 1, "", "no section type 'globals'", "wgrouter, dns, tunnel", "section skipped"),
    ("config dns\nconfig dns\n option retry 9s", 2, "", "second section of type dns", "one such",
     "section skipped"),
    ("config dns\n option ttl_min 0.5", 2, "ttl_min", "'0.5' is less than 1s", "1s to 1h",
     "default '5s' holds"),
    ("config dns\n option ttl_min 30m\n option ttl_max 10m", 2, "ttl_min",
     "ttl_min (30m) is more than ttl_max", "", "30m too"),
    ("config dns\n option retry_max 2s", 2, "retry_max", "retry (5s) is more than retry_max (2s)", "",
     "as 5s too"),
    ("config dns\n list server 9.9.9.9\n list server dns9", 2, "server", "'dns9' is not an IP",
     "address#port", "left out"),
    ("config dns\n list timeout 1s\n list timeout 2s", 2, "timeout", "there are 2 values", "100ms to 30s",
     "'1.5s' holds"),
    ("config dns\n list allow foo", 2, "allow", "'foo' is not an IP", "192.0.2.0/24", "left out"),
    ("config mqtt\n list broker tcp://broker", 2, "broker", "'tcp://broker' is not an mqtt:// or", "mqtts://",
     "left out"),
    ("config mqtt\n option prefix a//b", 2, "prefix", "'a//b' is not", "white space", "'wgrouter' holds"),
    ("config mqtt\n option password_file secret", 2, "password_file", "'secret' is not the", "", ""),
    ("config mqtt\n list command reboot", 2, "command", "'reboot' is none", "refresh, reresolve", "left out"),
    ("config tunnel wg1", 1, "", "no WireGuard interface 'wg1'", "mean 'wg0'?", "section skipped"),
    ("config tunnel zzzzz", 1, "", "no WireGuard interface 'zzzzz'", "wg0", "section skipped"),
    ("config tunnel", 1, "", "needs a name", "config tunnel", "section skipped"),
    ("config tunnel wg0\nconfig tunnel a\n option interface wg0", 2, "", "second section for",
     "one section", "skipped"),
    ("config tunnel wg0\n option interface w-g", 2, "interface", "'w-g' is not a name", "32 letters",
     "section skipped"),
    ("config tunnel wg0\n list wan lan", 2, "wan", "no WAN 'lan'", "mean 'wan'?", "left out"),
    ("config peer\n option family ipv4", 1, "", "neither public_key nor description", "option public_key",
     "skipped"),
    ("config peer\n option public_key abc", 2, "public_key", "3 characters is not a", "44 characters",
     "section skipped"),
    ("config peer\n option description offce", 2, "description", "no enabled peer", "mean 'office'?",
     "section skipped"),
    (f"config peer\n option public_key {key(9)}", 2, "public_key", "no enabled peer", "of the network",
     "section skipped"),
    ("config peer\n option description office\n list endpoint 1.2.3:4", 3, "endpoint", "'1.2.3' is neither",
     "host:port", "out"),
    ("config peer\n option description office\n option probe 8.8.8.8", 3, "probe", "not among the",
     "10.0.0.2/32, 192", ""),
    ("config peer\n option description office\nconfig peer\n option description office", 3, "", "in line 1",
     "one", "skipped"),
    ("config peer\n option description office\n option interface wg-0", 3, "interface", "not a name", "32",
     "skipped"),
    ("config wan", 1, "", "needs a name", "config wan '<name>'", "section skipped"),
    ("config wan fibre\n option interface wn", 2, "interface", "no interface 'wn'", "mean 'wan'?",
     "waits for"),
    ("config wan fibre", 1, "interface", "no interface 'fibre'", "name of an interface", "waits for"),
    ("config wan a\n option interface wan\nconfig wan wan", 3, "interface", "is the WAN 'a' already",
     "one WAN", "skipped"),
    ("config wan wan\n option weight 0", 2, "weight", "'0' is less than 1", "1 to 100",
     "default '1' holds"),
    ("config wan wan\n option metered often", 2, "metered", "neither yes nor no", "1, yes", "taken as 1"),
    ("config wan wan\n option enabled maybe", 2, "enabled", "neither yes nor no", "1, yes", "taken as 0"),
    ("config wan wan\n option device eth/0", 2, "device", "'eth/0' is not a device", "15 characters",
     "section skipped"),
    ("config wan wan\n list target example.net", 2, "target", "not an IP address", "IPv4 or IPv6",
     "left out"),
    ("config wan wan\n list method ping", 2, "method", "'ping' is none of", "icmp, dns-udp", "left out"),
    ("config routing\n option mark_mask 0xff00", 2, "mark_mask",
     "0xff00 overlaps 0x3f00, the marks of mwan3", "bits", ""),
    ("config routing\n option mark_mask 0x1c00000", 2, "mark_mask", "the marks of pbr and Tailscale",
     "bits", ""),
    ("config routing\n option mark_mask 0x5000000", 2, "mark_mask", "adjacent bits", "0x3f000000",
     "default '0x3f000000'"),
    (
     "config routing\n option mark_mask 0x7000000\nconfig wan wan\nconfig wan lte\nconfig wan wan6",
     2, "mark_mask", "room for 2 WANs, there are 3", "wider", ""),
    ("config routing\n option rule_base 900", 2, "rule_base", "overlap those of mwan3", "6000", ""),
    ("config routing\n option rule_base 29900", 2, "rule_base", "overlap those of pbr", "6000", ""),
    ("config routing\n option rule_base 32767", 2, "rule_base", "is more than 32500", "1 to 32500",
     "'6000' holds"),
    ("config rule\n option wan nope", 2, "wan", "no WAN 'nope'", "balanced, eth1, lo, ", "left out"),
    ("config rule\n option proto tcp", 1, "wan", "names no WAN", "balanced", "section skipped"),
    ("config rule\n option wan wan\n option proto sctp", 3, "proto", "'sctp' is none", "all, tcp",
     "section skipped"),
    ("config rule\n option wan wan\n option src_ip x", 3, "src_ip", "not an IP", "192.0.2.0/24",
     "section skipped"),
    ("config rule\n option wan wan\n option proto icmp\n option dest_port 1", 3, "proto", "no ports", "tcp",
     "skipped"),
    ("config rule\n option wan wan\n option src_ip 1.1.1.1\n option dest_ip ::1", 4, "dest_ip",
     "two address", "", "skipped"),
]  # fmt: skip


@pytest.mark.parametrize(("main", "line", "option", "message", "accepted", "consequence"), FAULTS)
def test_a_fault_is_told_with_place_and_cure(
    main: str, line: int, option: str, message: str, accepted: str, consequence: str
) -> None:
    found = loaded(main + "\n")
    problem = next(each for each in found.problems if message in each.message)
    assert (problem.file, problem.line, problem.option) == ("/etc/config/wgrouter", line, option)
    assert accepted in problem.accepted
    assert consequence in problem.consequence
    text = str(problem)
    assert text.startswith(f"/etc/config/wgrouter:{line}: ")
    assert text.isprintable()
    follows = {"wan": "the rule names no WAN"}
    assert all(each is problem or each.message == follows.get(option) for each in found.problems)


def test_every_section_type_has_a_fault_tried() -> None:
    tried = {word for main, *_ in FAULTS for word in main.split() if word in BY_TYPE}
    assert tried >= set(BY_TYPE) - {"hold", "probing"}


def test_a_fault_costs_no_more_than_it_must() -> None:
    main = """
config dns
	option ttl_min 'soon'
	option retry '9s'
config peer
	option public_key 'abc'
	option enabled '0'
config wan 'wan'
	option weight 'heavy'
	option priority '3'
config wan 'lte'
	option family 'ipv5'
"""
    found = loaded(main)
    assert len(found.problems) == 4
    assert (found.settings.dns.ttl_min, found.settings.dns.retry) == (5.0, 9.0)
    assert len(found.settings.peers()) == 3
    assert found.settings.wans == (Wan("wan", "wan", "eth1", priority=3),)


def test_a_list_of_allowed_prefixes_that_cannot_be_read_allows_nothing() -> None:
    _, settings = only("config dns\n list allow 'everything'\n")
    assert settings.dns.allow == ("255.255.255.255/32",)
    found = loaded("config dns\n list allow 'everything'\n list allow 192.0.2.0/24\n")
    assert found.settings.dns.allow == ("192.0.2.0/24",)


def test_a_rule_that_cannot_be_read_catches_no_other_traffic() -> None:
    problem, settings = only("config wan wan\nconfig rule a\n list wan wan\n option dest_ip '192.0.2.O'\n")
    assert settings.rules == ()
    assert (problem.section, problem.value) == ("rule 'a'", "192.0.2.O")


def test_a_rule_whose_options_say_too_much_is_skipped() -> None:
    problem, settings = only(
        "config rule a\n list wan wan\n list dest_ip 192.0.2.1\n list dest_ip 192.0.2.2\n"
    )
    assert (settings.rules, problem.consequence) == ((), "section skipped")


def test_a_rule_without_a_readable_wan_is_told_of_by_its_wans_alone() -> None:
    found = loaded("config rule a\n list wan w-an\n list wan l-te\n")
    assert found.settings.rules == ()
    assert [problem.message for problem in found.problems] == ["'w-an' is not a name", "'l-te' is not a name"]


def test_sections_without_a_name_are_named_as_uci_does() -> None:
    problem, _ = only("config rule\n list wan wan\nconfig rule\n option proto x\n list wan wan\n")
    assert problem.section == "@rule[1]"


def test_an_ambiguous_description() -> None:
    network = NETWORK.replace("'phone'", "'office'")
    problem, _ = only("config peer\n option description office\n", network)
    assert "2 peers fit" in problem.message
    main = f"config peer\n option description office\n option public_key {key(3)}\n option enabled 0\n"
    assert len(clean(main, network).peers()) == 2


# ---- faults of the network file


@pytest.mark.parametrize(
    ("old", "new", "message", "peers"),
    [
        (
            f"option public_key '{key(1)}'",
            "option public_key 'short'",
            "a text of 5 characters is not a WireGuard key",
            2,
        ),
        (f"option public_key '{key(1)}'", "", "the peer has no public_key", 2),
        (key(2), key(1), f"the peer {key(1)[:8]}… is there twice on wg0", 2),
        ("'1234'", "'0'", "'0' is less than 1", 3),
        ("'1234'", "'https'", "'https' is not a whole number", 3),
        ("'25'", "'often'", "'often' is not a whole number", 3),
        ("'Office.example.net'", "'of fice'", "'of fice' is not a host name", 3),
        ("'Office.example.net'", "'[::1]'", "'[::1]' has brackets", 3),
        ("'10.0.0.2/32'", "'10.0.0.2/64'", "'10.0.0.2/64' has no prefix length", 3),
        ("'FD00::1/64'", "'gone'", "'gone' is not an IP address or prefix", 3),
        ("config wireguard_wg0 'phone'", "config wireguard_wg1 'phone'", "no interface 'wg1'", 2),
        (
            "option proto 'wireguard'",
            "option proto 'wireguard'\n option listen_port 'x'",
            "'x' is not a whole number",
            3,
        ),
        (
            "option proto 'wireguard'",
            "option proto 'wireguard'\n option fwmark 'x'",
            "'x' is not a number like 0x",
            3,
        ),
        ("option description 'office'", "option disabled 'x'", "'x' is neither yes nor no", 3),
    ],
)
def test_a_fault_in_the_network_file(old: str, new: str, message: str, peers: int) -> None:
    assert old in NETWORK
    problem, settings = only("", NETWORK.replace(old, new, 1))
    assert message in problem.message
    assert problem.file == "/etc/config/network"
    assert problem.line > 0
    assert problem.accepted
    assert len(settings.peers()) == peers


def test_odd_but_working_values_of_the_network_file() -> None:
    network = NETWORK.replace("'25'", "'off'").replace("'Office.example.net'", "'2001:DB8::1'")
    assert peer(clean("", network), "office").endpoints == (HostPort("2001:db8::1", 1234),)
    assert peer(clean("", network), "office").keepalive == 0
    settings = clean(
        "",
        NETWORK.replace("'wireguard'", "'wireguard'\n option fwmark '0xCA6C'\n option listen_port '51821'"),
    )
    assert (settings.tunnels[0].fwmark, settings.tunnels[0].listen_port) == (0xCA6C, 51821)


# ---- files that cannot be used


@pytest.mark.parametrize(
    ("data", "line", "message"),
    [
        (PermissionError(13, "Permission denied"), 0, "cannot be read: Permission denied"),
        (IsADirectoryError(21, "Is a directory"), 0, "cannot be read: Is a directory"),
        (RuntimeError("anything"), 0, "cannot be read: RuntimeError"),
        (b"config wgrouter\n option x 'open\n", 2, "single quote"),
        (b"\x7fELF\x01\x00\x00", 1, "NUL byte"),
        (bytes(range(1, 256)) * 40, 1, "unknown command"),
    ],
)
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_gives_nothing(name: str, data: bytes | Exception, line: int, message: str) -> None:
    files: dict[str, bytes | Exception] = {MAIN_FILE: b"", NETWORK_FILE: NETWORK.encode(), name: data}
    found = load(files, "/tmp/c")
    (problem,) = found.problems
    assert (problem.file, problem.severity) == (f"/tmp/c/{name}", Severity.ERROR)
    assert (problem.line, found.unread, found.fatal) == (line, (name,), name == MAIN_FILE) or line == 1
    assert message in problem.message
    assert found.settings == (clean() if name == MAIN_FILE else Settings())


def test_what_cannot_be_checked_is_not_complained_about() -> None:
    """With an unreadable network file every name in the main file would look wrong."""
    main = b"config tunnel wg0\nconfig peer\n option description x\nconfig wan fibre\n option interface wan\n"
    found = load({MAIN_FILE: main, NETWORK_FILE: PermissionError(13, "Permission denied")})
    assert [problem.file for problem in found.problems] == ["/etc/config/network"]
    assert found.settings.wans == (Wan("fibre", "wan"),)
    rule = load({MAIN_FILE: b"config rule a\n list wan anything\n", NETWORK_FILE: OSError()}).settings.rules
    assert rule == (TrafficRule("a", wans=("anything",)),)


def test_read_from_a_root(tmp_path: Path) -> None:
    folder = tmp_path / "etc" / "config"
    folder.mkdir(parents=True)
    (folder / "network").write_text(NETWORK)
    assert read(tmp_path).settings == clean()
    (folder / "wgrouter").write_text("config wgrouter\n option log_level debug\n")
    assert read(root=str(tmp_path)).settings.log_level == "debug"
    assert read(confdir=folder).settings == read(tmp_path).settings
    assert read(confdir=tmp_path / "none").settings == Settings()


def test_an_override_of_libuci_comes_first(tmp_path: Path) -> None:
    config, override = tmp_path / "etc" / "config", tmp_path / "var" / "run" / "uci"
    config.mkdir(parents=True)
    override.mkdir(parents=True)
    (config / "network").write_text(NETWORK)
    (config / "wgrouter").write_text("config wgrouter\n option log_level debug\n")
    (override / "wgrouter").write_text("config wgrouter\n option log_level warning\n option x 1\n")
    found = read(tmp_path)
    assert found.settings.log_level == "warning"
    assert [problem.file for problem in found.problems] == [str(override / "wgrouter")]
    assert len(found.settings.peers()) == 3
    assert read(confdir=config).settings.log_level == "debug"


def test_read_survives_what_may_lie_in_a_files_place(tmp_path: Path) -> None:
    (tmp_path / "network").mkdir()
    os.mkfifo(tmp_path / "wgrouter")
    found = read(confdir=tmp_path)
    assert found.unread == ("wgrouter", "network")
    (tmp_path / "wgrouter").unlink()
    (tmp_path / "wgrouter").write_bytes(b"# " + b"x" * LARGEST)
    assert "larger than 4 MiB" in read(confdir=tmp_path).problems[0].message
    (tmp_path / "wgrouter").unlink()
    (tmp_path / "wgrouter").symlink_to("wgrouter")
    assert read(confdir=tmp_path).fatal
    assert read(confdir="bad\0path").fatal


# ---- whatever the input

TEXT = st.text(max_size=12) | st.sampled_from(
    [
        "1",
        "0",
        "wg0",
        "wan",
        "auto",
        "10.0.0.1",
        "::1/64",
        "a.example:1",
        key(1),
        "office",
        "5m",
        "0x3f000000",
        "icmp",
        "wireguard",
    ]
)
NAMES = st.sampled_from(
    sorted({option.name for section in SECTIONS for option in section.options} | {"proto", "disabled"})
)
NETWORK_NAMES = st.sampled_from(
    ["proto", "device", "ifname", "type", "disabled", "auto", "public_key", "endpoint_host", "endpoint_port",
     "allowed_ips", "persistent_keepalive", "description", "addresses", "listen_port", "fwmark"]
)  # fmt: skip
VALUE = TEXT.filter(lambda text: bool(text) and "\0" not in text)
SECTION_TYPES = st.sampled_from([*BY_TYPE, "interface", "wireguard_wg0", "wireguard_wan", "other"])


def sections(names: st.SearchStrategy[str]) -> st.SearchStrategy[bytes]:
    content = st.dictionaries(names, VALUE | st.lists(VALUE, min_size=1, max_size=3).map(tuple), max_size=6)
    section = st.builds(
        lambda kind, name, options: uci.Section(
            kind, name or "", name is None, {key: uci.Option(key, value) for key, value in options.items()}
        ),
        SECTION_TYPES,
        st.sampled_from([None, "wg0", "wan", "lan", "a", "b", "c"]),
        content,
    )
    unique = st.lists(section, max_size=8, unique_by=lambda each: each.name or object())
    return unique.map(lambda found: uci_text.write(found).encode())


@given(sections(NAMES), sections(NETWORK_NAMES))
def test_sections_of_any_kind_never_raise(main: bytes, network: bytes) -> None:
    found = load({MAIN_FILE: main, NETWORK_FILE: network})
    assert found.unread == ()
    labels = [(peer.device, peer.label) for peer in found.settings.peers()]
    assert len(set(labels)) == len(labels)
    assert all(label and label.isprintable() for _, label in labels)
    for problem in found.problems:
        assert str(problem).isprintable()
        assert problem.line > 0


@given(st.binary(max_size=120), st.binary(max_size=120))
def test_bytes_of_any_kind_never_raise(main: bytes, network: bytes) -> None:
    found = load({MAIN_FILE: b"config wgrouter\n" + main, NETWORK_FILE: b"config interface wg0\n" + network})
    assert all(str(problem).isprintable() for problem in found.problems)


def test_problems_have_an_end() -> None:
    def many(number: int) -> Loaded:
        return loaded("config wgrouter\n" + "".join(f"\toption enabledd{n} 1\n" for n in range(number)))

    found = many(20_000)
    assert len(found.problems) == MOST + 1
    assert f"{20_000 - MOST} more" in found.problems[-1].message
    assert calls(lambda: many(20_000)) < 5.1 * calls(lambda: many(4_000))


# ---- secrets


def everything_said(found: Loaded) -> str:
    return "\n".join([repr(found), *(str(problem) for problem in found.problems)])


def test_no_secret_is_ever_said() -> None:
    text = everything_said(loaded())
    assert key(1) in text
    assert SECRET not in text and SHARED not in text


@given(
    st.integers(0, len(NETWORK)),
    st.sampled_from(["'", '"', "\n", "", " ", ";", "#", "\\", "\0", "config x\n", "option a "]),
)
def test_no_secret_is_said_of_a_broken_file(at: int, what: str) -> None:
    broken = NETWORK[:at] + what + NETWORK[at + (not what) :]
    text = everything_said(load({MAIN_FILE: broken.encode(), NETWORK_FILE: broken.encode()}))
    for secret in (SECRET, SHARED):
        assert not any(secret[start : start + 16] in text for start in range(44 - 16))


def test_no_secret_is_said_where_it_does_not_belong() -> None:
    for place in ("public_key", "description", "endpoint", "probe", "interface", "private_key", "psk"):
        found = loaded(
            f"config peer\n\toption {place} '{SECRET}'\n\toption enabled '{SECRET}'\nconfig {SECRET}\n"
        )
        assert SECRET[:20] not in everything_said(found)
    for place in (
        "endpoint_host",
        "endpoint_port",
        "allowed_ips",
        "persistent_keepalive",
        "disabled",
        "description",
    ):
        network = "config interface wg0\n option proto wireguard\nconfig wireguard_wg0\n"
        found = loaded("", f"{network} option public_key {key(1)}\n option {place} '{SECRET}'\n")
        assert SECRET[:20] not in everything_said(found)


# ---- cost


def test_many_peers_cost_no_more_each_than_few() -> None:
    def network(peers: int) -> str:
        return "config interface wg0\n option proto wireguard\n" + "".join(
            f"config wireguard_wg0\n\toption description 'p{n}'\n\toption public_key '{key(n)}'\n"
            f"\toption preshared_key '{SHARED}'\n\toption endpoint_host 'p{n}.example.net'\n"
            f"\toption persistent_keepalive '25'\n\tlist allowed_ips '10.1.{n}.1/32'\n"
            for n in range(peers)
        )

    assert len(loaded("", network(250)).settings.peers()) == 250
    many, few = calls(lambda: loaded("", network(250))), calls(lambda: loaded("", network(50)))
    assert many < 5.1 * few, "some 30 ms on a quiet machine"


def test_the_import_is_light() -> None:
    """No module that costs a router's CPU, and nothing that is only needed when somebody made a mistake."""
    code = "import sys; import wgrouter.config.load; print(' '.join(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert not set(done.stdout.split()) & {
        "difflib",
        "json",
        "socket",
        "textwrap",
        "pathlib",
        "asyncio",
        "subprocess",
        "logging",
    }


def test_a_password_in_a_brokers_address_is_not_repeated() -> None:
    """People write mqtt://user:password@host, and a Problem goes into the log."""
    problem, settings = only(
        "config mqtt\n\toption enabled 1\n\tlist broker 'mqtt://office:hunter2@broker.example'\n"
    )
    assert settings.mqtt.brokers == ()
    assert "hunter2" not in repr(problem)
    assert "a user name, which has an option of its own, as the password has" in problem.message
