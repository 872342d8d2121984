"""The doorbell rings for what a look would show, and for nothing else."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator

import pytest

from tests.ports.netns import Namespace, namespace
from wgrouter.core.model import Hop, Route, Rule
from wgrouter.ports.doorbell import Doorbell, TableBell
from wgrouter.ports.kernel import Kernel

pytestmark = pytest.mark.lab


@pytest.fixture
def ns() -> Iterator[Namespace]:
    with namespace() as made:
        made.cable("wan", "10.0.0.1/24", "2001:db8::1/64")
        yield made


@pytest.fixture
def bell(ns: Namespace) -> Iterator[Doorbell]:
    with ns.inside():
        made = Doorbell()
    yield made
    made.close()


def settled(bell: Doorbell) -> None:
    """Read until nothing has come for a while: a new link has late news (carrier, its link-local address)."""
    while select.select([bell], [], [], 0.3)[0]:
        bell.drain()


def rings(bell: Doorbell, within: float = 5.0) -> bool:
    return bool(select.select([bell], [], [], within)[0]) and bell.drain()


@pytest.mark.parametrize(
    "command",
    [
        "link set wan mtu 1400",
        "link set wan-far down",
        "link add name other type veth peer name other-far",
        "address add 10.0.0.7/24 dev wan",
        "address del 10.0.0.1/24 dev wan",
        "-6 address add 2001:db8::7/64 dev wan",
        "route add default via 10.0.0.2",
        "route add default via 10.0.0.2 table 7000",
        "route add default via 10.0.0.2 table 199",
        "-6 route add default via fe80::2 dev wan",
        "rule add pref 100 lookup 7000",
        "-6 rule add pref 100 lookup 7000",
        "link del wan",
    ],
)
def test_it_rings(ns: Namespace, bell: Doorbell, command: str) -> None:
    settled(bell)
    assert not bell.drain()
    ns.batch(command)
    assert rings(bell)
    settled(bell)
    assert not bell.drain()


@pytest.mark.parametrize(
    "command",
    [
        "neigh add 10.0.0.{n} lladdr 02:00:00:00:00:01 dev wan",
        "route add local 10.7.0.{n} dev lo table local",
        "-6 route add local 2001:db8:7::{n} dev lo table local",
    ],
)
def test_it_does_not_ring_for_noise(ns: Namespace, bell: Doorbell, command: str) -> None:
    settled(bell)
    ns.batch(*(command.format(n=n) for n in range(2, 200)))
    assert not rings(bell, 0.2)


@pytest.fixture
def table(ns: Namespace) -> Iterator[TableBell]:
    ns.run("nft", "add", "table", "inet", "ours")
    ns.run("nft", "add", "chain", "inet", "ours", "c")
    ns.run("nft", "add", "rule", "inet", "ours", "c", "accept")
    ns.run("nft", "add", "set", "inet", "ours", "s", "{ type ipv4_addr; }")
    ns.run("nft", "add", "table", "inet", "others")
    with ns.inside():
        made = TableBell("ours")
    yield made
    made.close()


@pytest.mark.parametrize(
    ("command", "rung"),
    [
        ("delete table inet ours", True),
        ("flush ruleset", True),
        ("flush chain inet ours c", True),
        ("delete table inet others", False),
        ("add element inet ours s { 10.0.0.1 }", False),
        ("add rule inet ours c drop", False),
    ],
)
def test_what_is_taken_out_of_our_table_rings(
    ns: Namespace, table: TableBell, command: str, rung: bool
) -> None:
    assert not table.drain()
    ns.run("nft", *command.split())
    assert table.drain() is rung
    assert not table.drain()


def test_a_lost_notice_rings(ns: Namespace, bell: Doorbell) -> None:
    settled(bell)
    bell._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    noise = [f"route add local 10.7.{n // 250}.{n % 250} dev lo table local" for n in range(1000)]
    ns.batch(*noise)
    assert bell.drain(), "the noise that was lost may have been news"
    assert not bell.drain()


def test_one_call_does_not_read_for_ever(
    ns: Namespace, bell: Doorbell, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled(bell)
    monkeypatch.setattr("wgrouter.ports.doorbell.READS_MAX", 10)
    ns.batch(*(f"route add 10.7.0.{n} via 10.0.0.2" for n in range(100)))
    assert bell.drain()
    assert select.select([bell], [], [], 0)[0]
    assert bell.drain()


@pytest.fixture
def kernel(ns: Namespace) -> Iterator[Kernel]:
    with ns.inside():
        made = Kernel()
    yield made
    made.close()


ROUTE4 = Route(4, 7401, "0.0.0.0/0", (Hop("10.0.0.2", "wan"),), protocol=157)
ROUTE6 = Route(6, 7401, "::/0", (Hop("fe80::2", "wan"),), metric=5, protocol=157)
MANY = Route(6, 7401, "::/0", (Hop("fe80::2", "wan"), Hop("fe80::3", "wan")), metric=5, protocol=157)
RULE = Rule(4, 6000, 7401, protocol=157)
RULE6 = Rule(6, 6000, 7401, protocol=157)
CHANGES: list[Callable[[Kernel], None]] = [
    lambda kernel: kernel.add_route(ROUTE4),
    lambda kernel: kernel.add_route(ROUTE6),
    lambda kernel: kernel.add_route(MANY),
    lambda kernel: kernel.delete_route(ROUTE4),
    lambda kernel: kernel.delete_route(MANY),
    lambda kernel: kernel.add_rule(RULE),
    lambda kernel: kernel.add_rule(RULE6),
    lambda kernel: kernel.delete_rule(RULE),
    lambda kernel: kernel.delete_rule(RULE6),
]


def test_our_own_changes_ring_unless_told_otherwise(ns: Namespace, bell: Doorbell, kernel: Kernel) -> None:
    with ns.inside():
        deaf = Doorbell(own=[kernel.port_id])
    settled(bell)
    deaf.drain()
    for change in CHANGES:
        change(kernel)
        assert rings(bell)
        assert not deaf.drain()
    ns.batch("route add default via 10.0.0.2 table 7401 proto 157")
    assert rings(deaf), "the same change by another's hand"
    deaf.close()
