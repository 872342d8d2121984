"""Bytes and data of any kind from outside: read, left out, or refused with the port's own error."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from wgrouter.core.model import Route
from wgrouter.ports import _netlink, _rtnl, _wireguard, conntrack, kernel, resolvconf
from wgrouter.ports._netifd import interfaces_of
from wgrouter.ports._netlink import attribute

KINDS = st.integers(0, 40)
VALUES = st.binary(max_size=40) | st.sampled_from(
    (
        b"\x02\x00",
        b"\x0a\x00",
        b"\xc0\x00\x02\x01",
        bytes(16),
        bytes(28),
        b"wan\0",
        b"\x20",
        b"\x02\x00\xca\x6c",
    )
)
PLAIN = st.lists(st.builds(attribute, KINDS, VALUES), max_size=8).map(b"".join)
DEEP = st.recursive(
    PLAIN, lambda inner: st.lists(st.builds(attribute, KINDS, inner), max_size=4).map(b"".join), max_leaves=6
)
ANY = st.binary(max_size=120) | PLAIN | DEEP
NAMES = {1: "lo", 7: "wan"}


@given(st.binary(min_size=16, max_size=16), ANY)
def test_rtnetlink(header: bytes, rest: bytes) -> None:
    """A dump's messages have their fixed headers; what follows may be of a kernel of tomorrow."""
    for size, parse in (
        (_netlink.LINK.size, _rtnl.parse_link),
        (8, lambda message: _rtnl.parse_address(message, NAMES)),
        (12, lambda message: _rtnl.parse_route(message, NAMES)),
        (12, _rtnl.parse_rule),
    ):
        try:
            seen = kernel._Seen[object]().look([header[:size] + rest], parse)
        except KeyError:  # a device that is not among the names: the kernel is asked anew
            continue
        for route in seen:
            if isinstance(route, Route):
                ipaddress.ip_network(route.dst, strict=False)


@given(ANY)
def test_wireguards_attributes(data: bytes) -> None:
    for prefix in _wireguard._allowed_ips(data):
        ipaddress.ip_interface(prefix)
    endpoint, _ = _wireguard._endpoint(data)
    if endpoint is not None:
        ipaddress.ip_address(endpoint.address)
        assert 0 <= endpoint.port < 65536


@example(attribute(2, attribute(1, b"")), 4)
@given(ANY, st.sampled_from((4, 6)))
def test_conntracks_tuples(data: bytes, version: int) -> None:
    assert 0 <= conntrack._direction(data, version).protocol < 256


@given(
    st.text(max_size=200)
    | st.lists(st.sampled_from(("nameserver", "#", "Interface", "192.0.2.1", "\n", "%", "x"))).map(" ".join)
)
def test_resolv_conf(text: str) -> None:
    for server in resolvconf.parse(text):
        ipaddress.ip_address(server.address)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from(("wan", "192.0.2.1", "fe80::1%wan", "0.0.0.0", "::", "192.0.2.1:53")),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(
            ["interface", "l3_device", "up", "route", "dns-server", "target", "mask", "nexthop", "metric"]
        ),
        inner,
        max_size=6,
    ),
    max_leaves=20,
)  # fmt: skip


@given(JSON)
def test_netifds_dump(dump: object) -> None:
    for found in (
        interfaces_of(dump),
        interfaces_of({"interface": [dump, {"interface": "wan", "dns-server": dump}]}),
    ):
        for name, interface in found.items():
            assert interface.name == name and name
            for address in (*interface.dns, *interface.gateways):
                ipaddress.ip_address(address)


def test_an_address_is_spelled_as_the_core_spells_it() -> None:
    dump = {
        "interface": [
            {"interface": "wan", "dns-server": ["2001:DB8::0:1", "fe80::1%wan", "192.0.2.1:53", "x"]}
        ]
    }
    assert interfaces_of(dump)["wan"].dns == ("2001:db8::1", "fe80::1")


# ---------------------------------------------------------------- the process of wireguard-go


@pytest.fixture(scope="module")
def process(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[_wireguard.ProcessDevices, list[bytes]]]:
    """A socket as wireguard-go has it, which answers with what is put into the list."""
    directory = Path(tmp_path_factory.mktemp("wireguard"))
    answers: list[bytes] = [b""]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "wg0.sock"))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client:
                    client.recv(4096)
                    client.sendall(answers[0])

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield _wireguard.ProcessDevices(str(directory)), answers
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


LINES = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "public_key",
                "endpoint",
                "rx_bytes",
                "tx_bytes",
                "listen_port",
                "fwmark",
                "allowed_ip",
                "errno",
                "last_handshake_time_sec",
                "persistent_keepalive_interval",
                "private_key",
                "rubbish",
            ]
        ),
        st.sampled_from(
            ("", "0", "-1", "7", "x", "00" * 32, "192.0.2.1:7", "[fe80::1%5]:7", "[::1]", "10.0.0.1/32")
        )
        | st.text(st.characters(codec="ascii", exclude_characters="\n"), max_size=9),
    ),
    max_size=9,
).map(lambda rows: "".join(f"{key}={value}\n" for key, value in rows).encode() + b"\n")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LINES | st.binary(max_size=60))
def test_the_answer_of_a_process(
    process: tuple[_wireguard.ProcessDevices, list[bytes]], answer: bytes
) -> None:
    devices, answers = process
    answers[0] = answer.replace(b"\n\n", b"\n") + b"\n\n"
    try:
        found = devices.get("wg0", 5.0)
    except OSError:
        return
    for peer in found.device.peers.values():
        assert len(_wireguard.key_bytes(peer.public_key)) == 32
        if peer.endpoint is not None:
            ipaddress.ip_address(peer.endpoint.address)
