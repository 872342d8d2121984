"""The prober against real sockets: two namespaces with a cable, the far end answers by kernel and by small
servers.

The near end has two uplinks with the same addresses on the far end, so that it shows which one a probe took.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.ports.turning import Turning
from wgrouter.core.messages import Probe, Replied, Unsent
from wgrouter.core.probes import SENT_ONLY
from wgrouter.ports import _echo, _streams
from wgrouter.ports.ping import Prober

pytestmark = pytest.mark.lab

NEAR, FAR = f"wgrp{os.getpid()}n", f"wgrp{os.getpid()}f"
TARGET4, TARGET6 = "192.0.2.1", "2001:db8::1"
DONE = threading.Event()
_libc = ctypes.CDLL(None, use_errno=True)


def sh(*commands: str) -> None:
    for command in commands:
        subprocess.run(command, shell=True, check=True, capture_output=True)


def enter(name: str) -> None:
    """Move this thread into a namespace."""
    with open(f"/run/netns/{name}") as file:
        assert _libc.setns(file.fileno(), 0x40000000) == 0


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    with open("/proc/thread-self/ns/net") as home:
        enter(name)
        try:
            yield
        finally:
            assert _libc.setns(home.fileno(), 0x40000000) == 0


@pytest.fixture(scope="module")
def cable() -> Iterator[None]:
    sh(f"ip netns add {NEAR}", f"ip netns add {FAR}")
    try:
        for i, device in enumerate(("up0", "up1")):
            sh(
                f"ip link add {device} netns {NEAR} type veth peer name far{i} netns {FAR}",
                f"ip -n {NEAR} addr add 10.0.{i}.2/24 dev {device}",
                f"ip -n {NEAR} addr add 2001:db8:{i}::2/64 dev {device} nodad",
                f"ip -n {FAR} addr add 10.0.{i}.1/24 dev far{i}",
                f"ip -n {FAR} addr add 2001:db8:{i}::1/64 dev far{i} nodad",
                f"ip -n {NEAR} link set {device} up",
                f"ip -n {FAR} link set far{i} up",
                f"ip -n {NEAR} route add default via 10.0.{i}.1 dev {device} metric {10 + i}",
                f"ip -n {NEAR} -6 route add default via 2001:db8:{i}::1 dev {device} metric {10 + i}",
            )
        sh(
            f"ip -n {FAR} link set lo up",
            f"ip -n {FAR} addr add {TARGET4}/32 dev lo",
            f"ip -n {FAR} addr add {TARGET6}/128 dev lo nodad",
            f"ip netns exec {FAR} sysctl -q -w net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0",
        )
        settle()
        yield
    finally:
        sh(f"ip netns del {NEAR}", f"ip netns del {FAR}")


def settle() -> None:
    """Wait until duplicate address detection has let go of the link-local addresses."""
    for name in (NEAR, FAR):
        command = f"until ! ip -n {name} -6 addr show tentative | grep -q fe80; do sleep 0.05; done"
        subprocess.run(command, shell=True, check=True, timeout=10)


@pytest.fixture
def loop(cable: None) -> Iterator[Turning]:
    turning = Turning()
    with inside(NEAR):
        yield turning
    turning.close()


@pytest.fixture
def prober(loop: Turning) -> Iterator[Prober]:
    prober = Prober(loop)
    yield prober
    prober.close()
    assert not loop.watched, "a descriptor is still watched"


def probe(id: int, method: str, target: str, device: str = "up0", **more: object) -> Probe:
    return Probe(id, method, target, device, timeout=2.0, **more)  # type: ignore[arg-type]


@contextlib.contextmanager
def serving(
    kind: socket.SocketKind, port: int, talk: Callable[[socket.socket], None], v6: bool = False
) -> Iterator[None]:
    """A server in the far namespace: `talk` handles one accepted connection, or the datagram socket."""
    family = socket.AF_INET6 if v6 else socket.AF_INET
    with inside(FAR):
        server = socket.socket(family, kind)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((TARGET6 if v6 else TARGET4, port))
    if kind == socket.SOCK_STREAM:
        server.listen()

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                if kind == socket.SOCK_DGRAM:
                    talk(server)
                    continue
                connection, _ = server.accept()
                with connection, contextlib.suppress(OSError):
                    talk(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(2)


# ---------------------------------------------------------------- echo


@pytest.mark.parametrize("target", [TARGET4, TARGET6])
def test_echo_is_answered_with_a_plausible_round_trip(loop: Turning, prober: Prober, target: str) -> None:
    prober.probe(probe(100, "icmp", target))  # neighbour discovery costs the first one some time
    loop.until(lambda: loop.events)
    loop.events.clear()
    for id in range(2, 22, 2):
        prober.probe(probe(id, "icmp", target))
    loop.until(lambda: len(loop.events) == 10)
    assert [event.id for event in loop.events if isinstance(event, Replied)] == list(range(2, 22, 2))
    assert all(isinstance(event, Replied) and 0.0 < event.rtt < 0.1 for event in loop.events)


def test_the_kernel_stamps_arrivals_so_that_a_busy_loop_adds_nothing(loop: Turning, prober: Prober) -> None:
    prober.probe(probe(2, "icmp", TARGET4))
    subprocess.run(["sleep", "0.3"], check=True)  # the loop is busy while the answer lies there
    loop.until(lambda: loop.events)
    reply = loop.events[0]
    assert isinstance(reply, Replied) and reply.rtt < 0.1


def counted(device: str) -> int:
    with inside(NEAR):
        out = subprocess.run(
            ["ip", "-j", "-s", "link", "show", device], capture_output=True, text=True, check=True
        )
    import json

    return int(json.loads(out.stdout)[0]["stats64"]["tx"]["packets"])


def test_a_probe_leaves_by_its_device_whatever_the_routes_say(loop: Turning, prober: Prober) -> None:
    before = counted("up1")
    for id in range(2, 42, 2):
        prober.probe(probe(id, "icmp", TARGET4, "up1"))
    loop.until(lambda: len(loop.events) == 20)
    assert counted("up1") - before >= 20


def test_a_mark_chooses_the_table(loop: Turning, prober: Prober) -> None:
    """By a gateway that is not there. (An unreachable route would not do: for a socket bound to a device IPv4
    then takes any address to be on the link.)
    """
    sh(
        f"ip -n {NEAR} rule add fwmark 0x21000000/0x3f000000 lookup 7401 pref 6071",
        f"ip -n {NEAR} route add default via 10.0.0.77 dev up0 table 7401",
    )
    try:
        prober.probe(probe(2, "icmp", TARGET4, mark=0x21000000))
        prober.probe(probe(4, "icmp", TARGET4))
        loop.until(lambda: loop.events)
        loop.turn(0.1)
    finally:
        sh(f"ip -n {NEAR} rule del pref 6071", f"ip -n {NEAR} route flush table 7401")
    assert [event.id for event in loop.events if isinstance(event, Replied)] == [4]


def test_link_local_targets_get_their_scope(loop: Turning, prober: Prober) -> None:
    with inside(FAR):
        text = Path("/proc/thread-self/net/if_inet6").read_text()
    line = next(line for line in text.splitlines() if line.endswith("far0") and line.startswith("fe80"))
    address = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(line.split()[0]))
    prober.probe(probe(2, "icmp", address))
    loop.until(lambda: loop.events, within=8)
    assert isinstance(loop.events[0], Replied)


def test_silence_is_left_to_the_core_and_a_late_answer_is_not_told(loop: Turning, prober: Prober) -> None:
    prober.probe(replace(probe(2, "icmp", TARGET4), timeout=1e-9))
    loop.turn(0.2)
    loop.turn(0.1)
    assert loop.events == []


@pytest.mark.parametrize("method", ["icmp", "arp"])
def test_an_answer_that_is_read_late_came_when_it_came(loop: Turning, prober: Prober, method: str) -> None:
    """On a busy router the loop may be away for seconds: that is no fault of the WAN's."""
    target = TARGET4 if method == "icmp" else "10.0.0.1"
    prober.probe(probe(2, method, target))
    loop.skip(3.0)  # longer than the timeout; the answer lies there already
    if method == "icmp":
        prober.probe(probe(4, method, target))
    loop.until(lambda: loop.events, within=5)
    first = loop.events[0]
    assert isinstance(first, Replied) and first.id == 2 and first.rtt < 1.0


def test_no_such_device_and_no_route_are_told_at_once(loop: Turning, prober: Prober) -> None:
    prober.probe(probe(2, "icmp", TARGET4, "nosuch0"))
    prober.probe(probe(4, "tcp", TARGET4, "nosuch0", port=80))
    prober.probe(probe(6, "arp", "10.0.0.1", "nosuch0"))
    prober.probe(probe(8, "carrier-pigeon", TARGET4))
    reasons = {event.id: event.reason for event in loop.events if isinstance(event, Unsent)}
    assert "ENODEV" in reasons[2] and "ENODEV" in reasons[4] and "ENODEV" in reasons[6]
    assert "no probe is called 'carrier-pigeon'" in reasons[8]


def test_a_device_that_comes_back_under_its_name_is_found(loop: Turning, prober: Prober) -> None:
    def plug() -> None:
        sh(
            f"ip link add up9 netns {NEAR} type veth peer name far9 netns {FAR}",
            f"ip -n {NEAR} addr add 10.0.9.2/24 dev up9",
            f"ip -n {FAR} addr add 10.0.9.1/24 dev far9",
            f"ip -n {NEAR} link set up9 up",
            f"ip -n {FAR} link set far9 up",
        )

    plug()
    prober.probe(probe(2, "icmp", "10.0.9.1", "up9"))
    loop.until(lambda: len(loop.events) == 1)
    sh(f"ip -n {NEAR} link del up9")
    prober.probe(probe(4, "icmp", "10.0.9.1", "up9"))
    plug()
    prober.probe(probe(6, "icmp", "10.0.9.1", "up9"))
    loop.until(lambda: len(loop.events) == 3)
    sh(f"ip -n {NEAR} link del up9")
    assert [type(event) for event in loop.events] == [Replied, Unsent, Replied]


def test_other_peoples_pings_do_not_wake_us(loop: Turning, prober: Prober) -> None:
    prober.probe(probe(2, "icmp", TARGET4))
    loop.until(lambda: loop.events)
    subprocess.run(["ping", "-c", "3", "-i", "0.01", TARGET4], check=True, capture_output=True)
    channel = next(iter(prober._echo._channels.values()))
    with pytest.raises(BlockingIOError):
        channel.sock.recv(256)


def test_forged_replies_are_not_believed(loop: Turning, prober: Prober) -> None:
    prober.probe(probe(2, "icmp", "192.0.2.99"))  # nobody
    identifier = prober._echo._identifier
    packet = struct.pack("!BBHHH", 0, 0, 0, identifier, 1) + b"guessed!" + struct.pack("!q", 2)
    packet = packet[:2] + struct.pack("!H", _echo.checksum(packet)) + packet[4:]
    with inside(FAR), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as forger:
        forger.sendto(packet, ("10.0.0.2", 0))
    loop.turn(0.2)
    assert loop.events == []


# ---------------------------------------------------------------- neighbours


@pytest.mark.parametrize("target", ["10.0.0.1", "2001:db8:0::1"])
def test_the_gateway_answers_on_the_link(loop: Turning, prober: Prober, target: str) -> None:
    prober.probe(probe(2, "arp", target))
    loop.until(lambda: loop.events)
    assert isinstance(loop.events[0], Replied) and 0.0 < loop.events[0].rtt < 0.1


def test_a_neighbour_that_is_not_there_stays_silent(loop: Turning, prober: Prober) -> None:
    prober.probe(probe(2, "arp", "10.0.0.77"))
    prober.probe(probe(4, "arp", "10.0.0.1"))
    loop.until(lambda: loop.events)
    loop.turn(0.1)
    assert [event.id for event in loop.events if isinstance(event, Replied)] == [4]


# ---------------------------------------------------------------- streams


def answer_dns(server: socket.socket) -> None:
    data, sender = server.recvfrom(512)
    if not data:
        raise OSError("shut down")
    server.sendto(data[:2] + b"\x81\x80" + data[4:], sender)


def answer_dns_tcp(connection: socket.socket) -> None:
    data = connection.recv(512)
    connection.sendall(data[:4] + b"\x81\x80" + data[6:])


def answer_http(status: str) -> Callable[[socket.socket], None]:
    def talk(connection: socket.socket) -> None:
        request = connection.recv(2048)
        assert request.startswith(b"GET /generate_204 HTTP/1.1\r\nHost: check.example\r\n"), request
        connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())

    return talk


def test_dns_over_udp(loop: Turning, prober: Prober) -> None:
    with serving(socket.SOCK_DGRAM, 53, answer_dns):
        prober.probe(probe(2, "dns-udp", TARGET4, port=53, detail="."))
        prober.probe(probe(4, "dns-udp", TARGET4, "up1", port=53, detail="www.example.net"))
        loop.until(lambda: len(loop.events) == 2)
    assert all(isinstance(event, Replied) for event in loop.events)


def test_dns_over_tcp(loop: Turning, prober: Prober) -> None:
    with serving(socket.SOCK_STREAM, 53, answer_dns_tcp, v6=True):
        prober.probe(probe(2, "dns-tcp", TARGET6, port=53, detail="."))
        loop.until(lambda: loop.events)
    assert isinstance(loop.events[0], Replied)


def test_nobody_listens_is_told(loop: Turning, prober: Prober) -> None:
    prober.probe(probe(2, "dns-udp", TARGET4, port=54, detail="."))
    prober.probe(probe(4, "tcp", TARGET4, port=54))
    loop.until(lambda: len(loop.events) == 2)
    assert all(isinstance(event, Unsent) and "ECONNREFUSED" in event.reason for event in loop.events)


def test_tcp_connection(loop: Turning, prober: Prober) -> None:
    with serving(socket.SOCK_STREAM, 443, lambda connection: None):
        prober.probe(probe(2, "tcp", TARGET4, port=443))
        loop.until(lambda: loop.events)
    assert isinstance(loop.events[0], Replied)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("204 No Content", ""),
        ("200 OK", "HTTP 200, not 204: a captive portal?"),
        ("302 Found", "HTTP 302, not 204: a captive portal?"),
        ("not a status", "not an HTTP answer"),
    ],
)
def test_http_status(loop: Turning, prober: Prober, status: str, reason: str) -> None:
    with serving(socket.SOCK_STREAM, 80, answer_http(status)):
        prober.probe(probe(2, "http", TARGET4, port=80, detail="check.example/generate_204"))
        loop.until(lambda: loop.events)
    event = loop.events[0]
    assert event.reason == reason if isinstance(event, Unsent) else not reason


def test_https_status(loop: Turning, prober: Prober, tmp_path: Path) -> None:
    import ssl

    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    sh(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=x"
        f" -keyout {key} -out {certificate}"
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def talk(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            answer_http("204 No Content")(secure)

    with serving(socket.SOCK_STREAM, 443, talk):
        prober.probe(probe(2, "https", TARGET4, port=443, detail="check.example/generate_204"))
        loop.until(lambda: loop.events)
    assert isinstance(loop.events[0], Replied)


def test_a_peer_that_says_nothing_costs_no_descriptor_for_ever(loop: Turning, prober: Prober) -> None:
    with serving(socket.SOCK_STREAM, 80, lambda connection: DONE.wait(5) and None):
        prober.probe(probe(2, "http", TARGET4, port=80, detail="check.example/"))
        loop.turn(0.1)
        loop.skip(3.0)
        loop.turn()
        assert loop.events == [] and not loop.watched and not prober._streams._flights
        DONE.set()


def test_too_many_at_once_are_refused(loop: Turning, prober: Prober) -> None:
    for id in range(2, 2 * _streams.FLIGHTS_MAX + 4, 2):
        prober.probe(probe(id, "tcp", "10.0.0.77", port=80))
    assert [type(event) for event in loop.events] == [Unsent]


# ---------------------------------------------------------------- counters


def test_counters_tell_received_from_sent_only_from_idle(loop: Turning, prober: Prober) -> None:
    def read(id: int) -> object:
        loop.events.clear()
        prober.probe(probe(id, "counters", "IPv4", "up1"))
        event = loop.events[0]
        return event.reason if isinstance(event, Unsent) else "received"

    read(2)
    prober.probe(probe(4, "icmp", TARGET4, "up1"))
    loop.until(lambda: [event for event in loop.events if isinstance(event, Replied)])
    assert read(6) == "received"
    deaf = "table ip deaf { chain c { type filter hook prerouting priority 0; policy drop; }; }"
    sh(
        f"ip netns exec {FAR} nft '{deaf}'",
        f"ip -n {NEAR} neigh replace 10.0.1.1 lladdr 02:00:00:00:00:01 dev up1",
    )
    try:
        read(8)
        for id in range(10, 30, 2):
            prober.probe(probe(id, "icmp", TARGET4, "up1"))
        assert read(30) == SENT_ONLY
        assert read(32) == "idle"
    finally:
        sh(f"ip netns exec {FAR} nft delete table ip deaf", f"ip -n {NEAR} neigh flush dev up1")
    prober.probe(probe(34, "counters", "IPv4", "nosuch0"))
    assert isinstance(loop.events[-1], Unsent) and "ENODEV" in loop.events[-1].reason


# ---------------------------------------------------------------- words


def test_dns_query_is_what_rfc_1035_says() -> None:
    assert _streams.dns_query(0x1234, ".") == bytes.fromhex("1234010000010000000000000000010001")
    assert _streams.dns_query(1, "a.bc.")[12:] == b"\x01a\x02bc\x00\x00\x01\x00\x01"


def test_checksum_is_the_internet_checksum() -> None:
    packet = bytes.fromhex("0800000012340001") + b"abc"
    summed = packet[:2] + struct.pack("!H", _echo.checksum(packet)) + packet[4:]
    assert _echo.checksum(summed) == 0
