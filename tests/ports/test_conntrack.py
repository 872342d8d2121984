"""Chosen flows are forgotten, and no other: entries of `conntrack -I` in a namespace of their own."""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports.netns import Namespace, namespace
from tests.work import calls
from wgrouter.core.messages import ForgetFlows
from wgrouter.ports import conntrack as port
from wgrouter.ports._netlink import Refused
from wgrouter.ports.conntrack import Conntrack

pytestmark = pytest.mark.lab

ROUTER, PEER, OTHER_PEER, LAN = "100.64.0.2", "198.51.100.7", "198.51.100.8", "192.168.1.10"
SECOND = "100.65.0.2"  # the address of the other WAN

TRACKING = """table inet t {
    chain c {
        type filter hook output priority 0;
        ct state new
    }
}"""


@pytest.fixture
def ns() -> Iterator[Namespace]:
    with namespace() as made:
        made.batch(*(f"address add {one} dev lo" for one in (ROUTER, SECOND, "192.168.1.1", "2001:db8::2")))
        yield made


@pytest.fixture(params=["filtered", "old kernel"])
def conntrack(ns: Namespace, request: pytest.FixtureRequest) -> Iterator[Conntrack]:
    """With the kernel's filter, and as before Linux 5.8, when it sent everything."""
    with ns.inside():
        made = Conntrack()
    if request.param == "old kernel":
        dump = made._dump
        made._dump = lambda header, chosen: dump(header, b"")  # type: ignore[method-assign]
    yield made
    made.close()


def flow(
    src: str,
    dst: str,
    sport: int = 51820,
    dport: int = 51820,
    *,
    protocol: str = "udp",
    nat: str = "",
    zone: int = 0,
) -> str:
    """A line for `conntrack -R`. `nat`: the address that the source is translated to."""
    words = ["-I", "-p", protocol, "-t", "600", "-s", src, "-d", dst, "-r", dst, "-q", nat or src]
    if protocol == "icmp":
        words += ["--icmp-type", "8", "--icmp-code", "0", "--icmp-id", str(sport)]
    else:
        words += ["--sport", str(sport), "--dport", str(dport)]
        words += ["--reply-port-src", str(dport), "--reply-port-dst", str(sport)]
    if protocol == "tcp":
        words += ["--state", "ESTABLISHED", "-u", "SEEN_REPLY,ASSURED"]
    if zone:
        words += ["-w", str(zone)]
    return " ".join(words)


def insert(ns: Namespace, place: Path, *flows: str) -> None:
    file = place / "flows"
    file.write_text("".join(f"{line}\n" for line in flows))
    ns.run("conntrack", "-R", str(file))


def left(ns: Namespace) -> set[tuple[str, str, str, str]]:
    """Protocol, source, destination and source port of what is left, by `conntrack -L`."""
    listed = ns.run("conntrack", "-L") + ns.run("conntrack", "-L", "-f", "ipv6")
    found = re.findall(r"^(\w+) .*?src=(\S+) dst=(\S+) (?:sport=(\d+)|type=8 code=0 id=(\d+))", listed, re.M)
    return {(protocol, src, dst, sport or id) for protocol, src, dst, sport, id in found}


def test_the_flows_of_one_tunnel_whoever_began(ns: Namespace, conntrack: Conntrack, tmp_path: Path) -> None:
    insert(
        ns,
        tmp_path,
        flow(ROUTER, PEER),
        flow(PEER, ROUTER, 40000, 51820),
        flow(SECOND, PEER, nat=SECOND),
        flow(ROUTER, OTHER_PEER),
        flow(ROUTER, PEER, 51821),
        flow(ROUTER, PEER, protocol="tcp"),
        flow(PEER, ROUTER, 40000, 51821),
        flow(LAN, PEER, 5353, nat=ROUTER),
    )
    assert conntrack.forget(ForgetFlows(local_port=51820, remote=PEER)) == 3
    assert left(ns) == {
        ("udp", ROUTER, OTHER_PEER, "51820"),
        ("udp", ROUTER, PEER, "51821"),
        ("tcp", ROUTER, PEER, "51820"),
        ("udp", PEER, ROUTER, "40000"),
        ("udp", LAN, PEER, "5353"),
    }
    assert conntrack.forget(ForgetFlows(local_port=51820, remote=PEER)) == 0


def test_a_port_alone_and_a_remote_alone(ns: Namespace, conntrack: Conntrack, tmp_path: Path) -> None:
    insert(
        ns,
        tmp_path,
        flow(ROUTER, PEER, 1000),
        flow(ROUTER, OTHER_PEER, 1000),
        flow("2001:db8::2", "2001:db8:9::7", 1000),
        flow(ROUTER, PEER, 2000),
        flow(ROUTER, OTHER_PEER, 2000),
        flow("2001:db8::2", "2001:db8:9::7", 2000),
        flow(ROUTER, PEER, 3000, 1000),
        flow(LAN, OTHER_PEER, 1000, nat=SECOND),
    )
    assert conntrack.forget(ForgetFlows(local_port=1000)) == 3
    assert conntrack.forget(ForgetFlows(remote="2001:db8:9::7")) == 1
    assert conntrack.forget(ForgetFlows(remote=PEER)) == 2
    assert left(ns) == {("udp", ROUTER, OTHER_PEER, "2000"), ("udp", LAN, OTHER_PEER, "1000")}


def test_all_that_is_translated_to_an_address(ns: Namespace, conntrack: Conntrack, tmp_path: Path) -> None:
    insert(
        ns,
        tmp_path,
        flow(LAN, PEER, 1000, 443, protocol="tcp", nat=ROUTER),
        flow(LAN, PEER, 1001, 443, nat=ROUTER),
        flow(LAN, PEER, 7, protocol="icmp", nat=ROUTER),
        flow(ROUTER, PEER, 51820),
        flow(LAN, PEER, 1002, 443, protocol="tcp", nat=SECOND),
        flow(LAN, ROUTER, 1003, 22, protocol="tcp"),
        flow(LAN, "192.168.1.1", 1004, 53),
    )
    kept = {("tcp", LAN, PEER, "1002"), ("tcp", LAN, ROUTER, "1003"), ("udp", LAN, "192.168.1.1", "1004")}
    tcp = ("tcp", LAN, PEER, "1000")
    icmp = ("icmp", LAN, PEER, "7")
    assert conntrack.forget(ForgetFlows(local_address=ROUTER, protocol=17)) == 2
    assert left(ns) == kept | {tcp, icmp}
    assert conntrack.forget(ForgetFlows(local_address=ROUTER, protocol=0)) == 2
    assert left(ns) == kept


def test_ipv6_of_an_address(ns: Namespace, conntrack: Conntrack, tmp_path: Path) -> None:
    insert(
        ns,
        tmp_path,
        flow("fd00::10", "2001:db8:9::7", 1000, 443, protocol="tcp", nat="2001:db8::2"),
        flow("fd00::10", "2001:db8:9::7", 1001, 443, protocol="tcp", nat="2001:db8:1::2"),
    )
    assert conntrack.forget(ForgetFlows(local_address="2001:db8::2", protocol=0)) == 1
    assert left(ns) == {("tcp", "fd00::10", "2001:db8:9::7", "1001")}


def test_a_port_given_with_an_address_narrows_it(ns: Namespace, conntrack: Conntrack, tmp_path: Path) -> None:
    insert(ns, tmp_path, flow(ROUTER, PEER, 51820), flow(ROUTER, PEER, 51821), flow(SECOND, PEER, 51820))
    assert conntrack.forget(ForgetFlows(local_port=51820, local_address=ROUTER)) == 1
    assert conntrack.forget(ForgetFlows(remote="2001:db8::1", local_address=ROUTER)) == 0
    assert len(left(ns)) == 2


def test_zones_are_kept_apart(ns: Namespace, conntrack: Conntrack, tmp_path: Path) -> None:
    """The same tuple in two zones is two flows, and each of them is deleted as itself."""
    insert(ns, tmp_path, flow(ROUTER, PEER), flow(ROUTER, PEER, zone=7), flow(ROUTER, OTHER_PEER, zone=7))
    assert conntrack.forget(ForgetFlows(local_port=51820, remote=PEER)) == 2
    assert left(ns) == {("udp", ROUTER, OTHER_PEER, "51820")}


def test_nothing_said_is_no_flush(ns: Namespace, conntrack: Conntrack, tmp_path: Path) -> None:
    insert(ns, tmp_path, flow(ROUTER, PEER))
    for flows in (ForgetFlows(), ForgetFlows(protocol=0)):
        with pytest.raises(OSError, match="which flows to forget is not said") as failed:
            conntrack.forget(flows)
        assert failed.value.errno == errno.EINVAL
    assert len(left(ns)) == 1


def test_an_entry_with_another_id_stays(ns: Namespace, conntrack: Conntrack, tmp_path: Path) -> None:
    """As if between the look and the deletion the flow had ended, and the same tuple been begun anew."""
    insert(ns, tmp_path, flow(ROUTER, PEER), flow(ROUTER, OTHER_PEER))
    find = conntrack._find
    peer = socket.inet_aton(PEER)

    def late(wanted: port._Wanted) -> Iterator[bytes]:
        for request in find(wanted):
            yield request[:-1] + bytes((request[-1] ^ 1,)) if peer in request else request

    conntrack._find = late  # type: ignore[method-assign]
    assert conntrack.forget(ForgetFlows(local_port=51820)) == 1
    assert left(ns) == {("udp", ROUTER, PEER, "51820")}


def test_real_flows_of_a_socket(ns: Namespace, conntrack: Conntrack) -> None:
    ns.cable("wan", "10.0.0.1/24", "2001:db8::1/64")
    ns.run("nft", "-f", "-", given=TRACKING)
    with ns.inside():
        four = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    with four, six:
        four.bind(("", 5001))
        six.bind(("::", 5002))
        four.sendto(b"x", ("10.0.0.9", 7))
        four.sendto(b"x", ("10.0.0.8", 7))
        six.sendto(b"x", ("2001:db8::9", 7))
        assert len(left(ns)) >= 3
        assert conntrack.forget(ForgetFlows(local_port=5001, remote="10.0.0.9")) == 1
        assert conntrack.forget(ForgetFlows(local_port=5002, remote="2001:db8::9")) == 1
        assert ("udp", "10.0.0.1", "10.0.0.8", "5001") in left(ns)


def test_ten_thousand(ns: Namespace, conntrack: Conntrack, tmp_path: Path) -> None:
    insert(
        ns,
        tmp_path,
        *(
            flow(f"10.1.{n // 250}.{n % 250}", PEER, 1024 + n, nat=ROUTER if n % 10 else SECOND)
            for n in range(10000)
        ),
    )
    # 40 ms measured on an idle machine with 262,144 buckets to walk; pyroute2 needs 1.5 s for the look alone
    forgotten: list[int] = []
    flows = ForgetFlows(local_address=SECOND, protocol=0)
    assert calls(lambda: forgotten.append(conntrack.forget(flows))) < 15 * 10000
    assert forgotten == [1000]
    assert conntrack.forget(ForgetFlows(local_address=ROUTER, protocol=0)) == 9000


def test_without_ctnetlink_the_package_is_named(
    ns: Namespace, conntrack: Conntrack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(kind: int, body: bytes) -> list[bytes]:
        raise Refused(errno.EINVAL, "")

    monkeypatch.setattr(conntrack._sock, "dump", refuse)
    with pytest.raises(OSError, match="kmod-nf-conntrack-netlink") as failed:
        conntrack.forget(ForgetFlows(local_port=51820))
    assert failed.value.errno == errno.EPROTONOSUPPORT
