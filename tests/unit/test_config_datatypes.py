"""Datatypes: what each takes, what it makes of it, and that it raises nothing but Invalid."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wgrouter.config.datatypes import DATATYPES, Invalid, Limits, Value, duration_text
from wgrouter.config.problems import quoted, shown

KEY = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="


def parsed(datatype: str, text: str, limits: Limits | None = None) -> Value:
    return DATATYPES[datatype].parse(text, limits or Limits())


TAKEN: list[tuple[str, str, Value]] = [
    *(("boolean", text, True) for text in ("1", "yes", "on", "true", "enabled")),
    *(("boolean", text, False) for text in ("0", "no", "off", "false", "disabled")),
    ("integer", "042", 42),
    ("number", "0.5", 0.5),
    ("percent", "25", 25.0),
    ("percent", "2.5%", 2.5),
    ("percent", "25 %", 25.0),
    ("share", "33", 0.33),
    ("number32", "0xCA6C", 0xCA6C),
    ("number32", "51820", 51820),
    ("mask", "0x3f000000", 0x3F000000),
    ("mask", "0xffffffff", 0xFFFFFFFF),
    ("mask", "7", 7),
    ("duration", "90", 90.0),
    ("duration", "90s", 90.0),
    ("duration", "1.5s", 1.5),
    ("duration", "200ms", 0.2),
    ("duration", "5 m", 300.0),
    ("duration", "1h", 3600.0),
    ("duration", "1d", 86400.0),
    ("milliseconds", "150", 150.0),
    ("milliseconds", "150ms", 150.0),
    ("milliseconds", "1.5s", 1500.0),
    ("address", "192.0.2.1", "192.0.2.1"),
    ("address", "2001:DB8:0::1", "2001:db8::1"),
    ("network", "192.0.2.7", "192.0.2.7/32"),
    ("network", "192.0.2.7/24", "192.0.2.0/24"),
    ("network", "2001:db8::1/32", "2001:db8::/32"),
    ("network", "0.0.0.0/0", "0.0.0.0/0"),
    ("host", "VPN.Example.Net.", "vpn.example.net"),
    ("host", "router", "router"),
    ("host", "_x.example.net", "_x.example.net"),
    ("host", "xn--bcher-kva.example", "xn--bcher-kva.example"),
    ("host", "4you.example", "4you.example"),
    ("host", "2001:db8::1", "2001:db8::1"),
    ("host", "127.0.0.1", "127.0.0.1"),  # a local relay is a real endpoint
    ("dnsname", ".", "."),
    ("endpoint", "vpn.example.net:1234", ("vpn.example.net", 1234)),
    ("endpoint", "vpn.example.net", ("vpn.example.net", 0)),
    ("endpoint", "192.0.2.1:1", ("192.0.2.1", 1)),
    ("endpoint", "[2001:db8::1]:65535", ("2001:db8::1", 65535)),
    ("endpoint", "[2001:db8::1]", ("2001:db8::1", 0)),
    ("server", "9.9.9.9", "9.9.9.9"),
    ("server", "9.9.9.9#53", "9.9.9.9"),
    ("server", "2620:fe::fe#5353", "2620:fe::fe#5353"),
    ("probe", "auto", "auto"),
    ("probe", "off", "off"),
    ("probe", "10.0.0.1", "10.0.0.1"),
    ("url", "http://example.net/generate_204", "http://example.net/generate_204"),
    ("url", "https://[2001:db8::1]:8443/", "https://[2001:db8::1]:8443/"),
    ("key", KEY, KEY),
    ("name", "wan_6", "wan_6"),
    ("setname", "Vod_1", "Vod_1"),
    ("device", "eth0.2", "eth0.2"),
    ("device", "pppoe-wan", "pppoe-wan"),
    ("text", "Büro Köln", "Büro Köln"),
    ("ports", "443", "443"),
    ("ports", "80, 443,1000-2000", "80,443,1000-2000"),
    ("broker", "mqtt://broker.example.net", "mqtt://broker.example.net:1883"),
    ("broker", "mqtts://Broker.example.net:443/", "mqtts://broker.example.net:443"),
    ("broker", "mqtts://[2001:db8::1]", "mqtts://[2001:db8::1]:8883"),
    ("path", "/etc/wgrouter.password", "/etc/wgrouter.password"),
    ("topic", "fleet/berlin", "fleet/berlin"),
]


@pytest.mark.parametrize(("datatype", "text", "value"), TAKEN)
def test_taken(datatype: str, text: str, value: Value) -> None:
    found = parsed(datatype, text)
    assert found == value
    assert type(found) is type(value)


REFUSED = [
    ("boolean", ["", "2", "Yes", "ja", " 1"]),
    ("integer", ["", "-1", "+1", "1.0", "1_000", "١", "0x10", "1e3", "nan", "9" * 5000]),
    ("number", ["", ".5", "5.", "1,5", "inf", "1.2.3"]),
    ("percent", ["", "%", "25%%"]),
    ("number32", ["", "0x", "0xg", "0x1_0", "abc", "-0x1"]),
    ("mask", ["0", "0x5", "0x3", "0xff00ff", "0x3f0000003f", ""]),
    ("duration", ["", "s", "5 minutes", "5 M", "-5", "1h30m", "5ss", "1 0", "²s"]),
    ("milliseconds", ["", "fast", "-1"]),
    (
        "address",
        ["", "192.0.2", "192.0.2.256", "192.0.2.01", "fe80::1%eth0", "0.0.0.0", "::", "224.0.0.1", "ff02::1"],
    ),
    ("address", ["255.255.255.255", "1", "example.net", " 192.0.2.1", "192.0.2.1/24"]),
    (
        "network",
        ["", "/24", "192.0.2.0/33", "192.0.2.0/", "192.0.2.0/255.255.255.0", "::/129", "x/24", "1::1%lo/64"],
    ),
    (
        "host",
        [
            "",
            ".",
            "a..b",
            "-a.example",
            "a-.example",
            "a b",
            "300.1.1.1",
            "1.2.3",
            "bücher.example",
            "a" * 64,
        ],
    ),
    ("host", ["a." * 127 + "ab", "a:b", "[::1]", "host:51820", "a/b", "0.0.0.0", "*.example.net"]),
    ("dnsname", ["", "192.0.2.1", ".."]),
    (
        "endpoint",
        ["", ":1", "a:", "a:0", "a:65536", "a:x", "2001:db8::1", "2001:db8::1:51820", "[::1", "[::1]x"],
    ),
    ("endpoint", ["[::1]:", "[192.0.2.1]:1", "[name]:1", "a:1:2", "[::]:1", "a:+1", "a: 1"]),
    ("server", ["", "dns.example.net", "9.9.9.9#", "9.9.9.9#0", "9.9.9.9:53", "#53", "9.9.9.9#x"]),
    ("probe", ["", "yes", "example.net"]),
    (
        "url",
        [
            "",
            "example.net",
            "ftp://example.net",
            "http://",
            "http:///x",
            "http://u:p@example.net/",
            "http://a b/",
        ],
    ),
    (
        "url",
        [
            "http://example.net/\x01",
            "http://example.net/ü",
            "http://example.net:0/",
            "http://x/#f",
            "http://?",
        ],
    ),
    (
        "key",
        [
            "",
            "abc",
            KEY[:-1],
            KEY[:-2] + "h=",
            KEY + "\n",
            KEY.replace("=", "A"),
            "A" * 44,
            "=" * 44,
            "é" * 44,
        ],
    ),
    ("name", ["", "a b", "a-b", "ä", "x" * 33]),
    ("setname", ["", "1a", "_a", "a-b", "x" * 26]),
    ("device", ["", "a/b", "x" * 16, "a b", "..", "@wan", "eth0:1", "é"]),
    ("text", ["a\nb", "x" * 129, "\x1b[31m", "\ud800"]),
    ("choice", ["", "x"]),
    ("broker", ["", "broker", "tcp://broker", "mqtt://", "mqtt://a:b@c", "mqtts://x:0", "mqtt://a/b"]),
    ("path", ["", "etc/x", "/", "/etc/", "/a\nb", "/" + "a" * 255]),
    ("topic", ["", "/a", "a/", "a//b", "a+", "#", "$SYS", "a b", "ä", "a" * 65]),
    ("ports", ["", "0", "65536", "2-1", "1-", "-1", "a", "1,,2", ",".join(["1"] * 16)]),
]


@pytest.mark.parametrize(("datatype", "text"), [(name, text) for name, texts in REFUSED for text in texts])
def test_refused(datatype: str, text: str) -> None:
    with pytest.raises(Invalid):
        parsed(datatype, text)


def test_every_datatype_is_tried() -> None:
    assert {name for name, _ in REFUSED} == set(DATATYPES) - {"share"}
    assert {name for name, _, _ in TAKEN} == set(DATATYPES) - {"choice"}


def test_ranges_are_named() -> None:
    limits = Limits(1, 3600)
    with pytest.raises(Invalid, match="'2h' is more than 1h"):
        parsed("duration", "2h", limits)
    with pytest.raises(Invalid, match="'0' is less than 1s"):
        parsed("duration", "0", limits)
    assert DATATYPES["duration"].accepted(limits).startswith("1s to 1h,")
    with pytest.raises(Invalid, match="'70000' is more than 1m"):
        parsed("milliseconds", "70000", Limits(0, 60000))
    with pytest.raises(Invalid, match="'0x1ffffffff' is more than 0xffffffff"):
        parsed("number32", "0x1ffffffff", Limits(0, 0xFFFFFFFF))


def test_a_key_that_is_refused_is_not_quoted() -> None:
    with pytest.raises(Invalid) as caught:
        parsed("key", KEY[:-1])
    assert KEY[:8] not in str(caught.value)


@given(
    st.sampled_from(sorted(DATATYPES)),
    st.text(max_size=60) | st.text("0123456789abcdefx.:/[]%#-sm ", max_size=24),
)
def test_nothing_but_invalid(datatype: str, text: str) -> None:
    limits = Limits(0, 100, ("one", "two"))
    try:
        value = DATATYPES[datatype].parse(text, limits)
    except Invalid as error:
        assert str(error).isprintable()
        assert len(str(error)) < 200
    else:
        if isinstance(value, float):
            assert 0 <= value <= 100
        assert DATATYPES[datatype].accepted(limits)


@given(st.ip_addresses())
def test_addresses_come_back_canonical(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    for datatype, text in (("address", address.exploded), ("host", str(address).upper())):
        try:
            assert parsed(datatype, text) == str(address)
        except Invalid:
            assert address.is_unspecified or address.is_multicast or int(address) == 0xFFFFFFFF


@given(st.integers(1, 10**9).map(lambda milliseconds: milliseconds / 1000))
def test_a_duration_is_read_as_it_is_shown(seconds: float) -> None:
    assert parsed("duration", duration_text(seconds)) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0"), (0.04, "40ms"), (1.5, "1.5s"), (90, "90s"), (300, "5m"), (3600, "1h"), (86400, "1d")],
)
def test_durations_are_shown_as_people_write_them(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


# ---- how values are shown


def test_shown() -> None:
    assert quoted("a'b\n\x1b[31m") == "'a'b\\x0a\\x1b[31m'"
    assert len(shown("xy " * 100)) == 60
    assert shown("\ud800\u202e") == "\\ufffd\\u202e"


@given(st.text(max_size=30), st.text(max_size=30))
def test_shown_is_printable_and_hides_keys(before: str, after: str) -> None:
    text = shown(f"{before}{KEY}{after}")
    assert text.isprintable()
    assert KEY[:20] not in text
    assert KEY[10:40] not in text
