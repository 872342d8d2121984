"""DNS queries to a real server over real links: bound to a device, marked, refused by the network, swallowed.

A router with two WANs; behind each stands a Knot with the same addresses and another truth, so that an answer
tells which way the question went.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.ports.netns import Namespace, until
from tests.ports.turning import Turning
from wgrouter.core import names
from wgrouter.core.machine import Context
from wgrouter.core.messages import Answered, Ask, Event, Record, Unanswered, Woke
from wgrouter.core.model import Nameserver, World
from wgrouter.core.names import Status, Wanted
from wgrouter.core.settings import Dns, Settings
from wgrouter.ports.nameserver import Nameservers
from wgrouter.shell.reactor import Reactor

pytestmark = pytest.mark.lab

SERVER4, SERVER6, LINK_LOCAL = "192.0.2.53", "2001:db8:53::53", "fe80::53"
OUTSIDE = "198.51.100.1"  # the server's side says that there is no way
SILENT = "192.0.2.99"  # takes everything, says nothing
MANY = 200  # addresses of big.lab.test
NAMES = 50

ZONE = """
$ORIGIN lab.test.
$TTL 60
@ SOA dns hostmaster 1 3600 600 86400 45
@ NS dns
dns A 192.0.2.53
vpn 30 A {address}
vpn AAAA 2001:db8::10
alias CNAME vpn
away CNAME vpn.elsewhere.test.
_wireguard._udp.vpn SRV 10 5 51821 vpn
only6 AAAA 2001:db8::6
"""
DNS = Dns()
KNOTD = shutil.which("knotd", path="/usr/sbin:/sbin:/usr/bin") or "knotd"
TCP = pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
CONF = """
server:
    rundir: {dir}
    listen: [ 0.0.0.0@53, ::@53 ]
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
    async-start: off
control:
    listen: {dir}/knot.sock
database:
    storage: {dir}/db
template:
  - id: default
    storage: {dir}
    zonefile-load: whole
    zonefile-sync: -1
    journal-content: none
zone:
  - domain: lab.test
    file: zone
  - domain: broken.test
    file: none
"""


def far(router: Namespace, n: int, directory: Path) -> Namespace:
    """What is behind WAN n: a running Knot."""
    box = Namespace()
    (directory / "db").mkdir(parents=True)
    lines = [ZONE.format(address=f"192.0.2.{10 + n}")]
    lines += [f"big A 198.51.{i // 250}.{i % 250 + 1}" for i in range(MANY)]
    lines += [f"p{i} A 203.0.113.{i + 1}\np{i} AAAA 2001:db8:77::{i + 1:x}" for i in range(NAMES)]
    (directory / "zone").write_text("\n".join(lines) + "\n")
    (directory / "knot.conf").write_text(CONF.format(dir=directory))
    router.cable(f"wan{n}", "fe80::1/64", other=box)
    device = f"wan{n}-far"
    box.batch(
        *(f"address add {address}/32 dev {device}" for address in (SERVER4, SILENT)),
        f"address add {SERVER6}/128 dev {device} nodad",
        f"address add {LINK_LOCAL}/64 dev {device} nodad",
        f"route add 10.0.0.1 dev {device}",
        f"-6 route add 2001:db8:1::1 via fe80::1 dev {device}",
        "route add unreachable 198.51.100.0/24",
    )
    box.sysctl("net.ipv4.ip_forward", 1)
    box.sysctl("net.ipv4.icmp_ratelimit", 0)  # else only the first questions are refused
    box.sysctl("net.ipv6.icmp.ratelimit", 0)
    rules = f"table inet t {{ chain c {{ type filter hook input priority 0; ip daddr {SILENT} drop; }}; }}"
    box.run("nft", "-f", "-", given=rules)
    box.start(KNOTD, "-c", str(directory / "knot.conf"))
    return box


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Namespace]:
    router = Namespace()
    boxes = [router]
    try:
        boxes += [far(router, n, tmp_path_factory.mktemp("knot") / str(n)) for n in (0, 1)]
        # The worse route serves only who is bound to its device.
        router.batch(
            "address add 10.0.0.1/32 dev lo",
            "address add 2001:db8:1::1/128 dev lo nodad",
            *(
                f"route add 0.0.0.0/0 via inet6 {LINK_LOCAL} dev wan{n} src 10.0.0.1 metric {10 + n}"
                for n in (0, 1)
            ),
            *(
                f"-6 route add default via {LINK_LOCAL} dev wan{n} src 2001:db8:1::1 metric {10 + n}"
                for n in (0, 1)
            ),
            f"route add 0.0.0.0/0 via inet6 {LINK_LOCAL} dev wan1 src 10.0.0.1 table 77",
            "rule add fwmark 0x77 lookup 77",
        )
        for n in (0, 1):
            until(lambda n=n: isinstance(ask(router, "vpn.lab.test", device=f"wan{n}"), Answered))  # type: ignore[misc]
        yield router
    finally:
        for box in boxes:
            box.close()


def ask(
    router: Namespace,
    name: str,
    kind: str = "A",
    server: str = SERVER4,
    device: str = "",
    port: int = 53,
    timeout: float = 3.0,
    tcp: bool = False,
    mark: int = 0,
) -> Event:
    """The event that comes of one query, asked by the router."""
    loop = Turning()
    ports = Nameservers(loop)
    with router.inside():
        ports.ask(Ask(1, name, kind, Nameserver(server, port, device), timeout, tcp, mark))
        loop.until(lambda: loop.events)
    loop.close()
    return loop.events[0]


def addresses(event: Event) -> tuple[str, ...]:
    assert isinstance(event, Answered), event
    return tuple(record.data for record in event.records if record.type in ("A", "AAAA"))


@TCP
@pytest.mark.parametrize(
    ("server", "device"),
    [
        (SERVER4, ""),
        (SERVER4, "wan0"),
        (SERVER6, ""),
        (SERVER6, "wan0"),
        (LINK_LOCAL, "wan0"),
        (f"{LINK_LOCAL}%wan0", ""),
    ],
)
def test_addresses(router: Namespace, server: str, device: str, tcp: bool) -> None:
    assert ask(router, "vpn.lab.test", "A", server, device, tcp=tcp) == Answered(
        1, "NOERROR", False, (Record("vpn.lab.test", "A", 30, "192.0.2.10"),)
    )
    assert ask(router, "VPN.lab.TEST", "AAAA", server, device, tcp=tcp) == Answered(
        1, "NOERROR", False, (Record("VPN.lab.TEST", "AAAA", 60, "2001:db8::10"),)
    )


def test_other_records(router: Namespace) -> None:
    alias = ask(router, "alias.lab.test")
    assert isinstance(alias, Answered)
    assert [(r.name, r.type, r.data) for r in alias.records] == [
        ("alias.lab.test", "CNAME", "vpn.lab.test"),
        ("vpn.lab.test", "A", "192.0.2.10"),
    ]
    service = ask(router, "_wireguard._udp.vpn.lab.test", "SRV")
    assert isinstance(service, Answered)
    assert [r.data for r in service.records] == ["10 5 51821 vpn.lab.test"]


def test_denials_and_refusals(router: Namespace) -> None:
    assert ask(router, "no.lab.test") == Answered(1, "NXDOMAIN", negative_ttl=45)
    assert ask(router, "only6.lab.test") == Answered(1, "NOERROR", negative_ttl=45)
    assert ask(router, "vpn.elsewhere.test") == Answered(1, "REFUSED")
    assert ask(router, "vpn.broken.test") == Answered(1, "SERVFAIL")


def test_a_big_answer_is_truncated_and_whole_over_tcp(router: Namespace) -> None:
    assert ask(router, "big.lab.test") == Answered(1, "NOERROR", truncated=True)
    assert len(addresses(ask(router, "big.lab.test", tcp=True))) == MANY


@TCP
@pytest.mark.parametrize("server", [SERVER4, SERVER6, LINK_LOCAL])
def test_a_device_is_the_way(router: Namespace, server: str, tcp: bool) -> None:
    assert addresses(ask(router, "vpn.lab.test", server=server, device="wan0", tcp=tcp)) == ("192.0.2.10",)
    assert addresses(ask(router, "vpn.lab.test", server=server, device="wan1", tcp=tcp)) == ("192.0.2.11",)


@TCP
def test_a_mark_chooses_the_table(router: Namespace, tcp: bool) -> None:
    assert addresses(ask(router, "vpn.lab.test", tcp=tcp)) == ("192.0.2.10",)
    assert addresses(ask(router, "vpn.lab.test", tcp=tcp, mark=0x77)) == ("192.0.2.11",)


@TCP
def test_the_networks_refusals_end_a_query_at_once(router: Namespace, tcp: bool) -> None:
    assert ask(router, "vpn.lab.test", server=OUTSIDE, tcp=tcp) == Unanswered(1, "unreachable")
    for server in (SERVER4, SERVER6):
        assert ask(router, "vpn.lab.test", server=server, port=5399, tcp=tcp) == Unanswered(1, "refused")


@TCP
def test_silence_lasts_as_long_as_was_asked_for(router: Namespace, tcp: bool) -> None:
    assert ask(router, "vpn.lab.test", server=SILENT, tcp=tcp, timeout=0.2) == Unanswered(1, "timeout")


# ---- core and port together


class Agent:
    """core/names.py with the port in its hands, in the reactor."""

    def __init__(self, router: Namespace, wanted: list[Wanted], *servers: str, dns: Dns = DNS) -> None:
        self.router = router
        self.servers = tuple(Nameserver(server, device="wan0") for server in servers)
        self.settings = Settings(dns=dns)
        self.reactor = Reactor()
        self.port = Nameservers(self.reactor)
        self.began = self.reactor.now()
        self.memory = names.configure(names.Memory(), frozenset(wanted), self.context(self.began))
        self.said: list[str] = []
        self.asks: list[Ask] = []
        self.deadline = self.reactor.call_at(self.began + 20.0, self.reactor.stop)

    def context(self, now: float) -> Context:
        return Context(now, self.settings, World(), "seed")

    def handle(self, event: Event, now: float) -> float:
        turn = names.step(self.memory, event, self.context(now), self.servers)
        self.memory = turn.memory
        self.said += [str(finding) for finding in turn.findings]
        for effect in turn.effects:
            assert isinstance(effect, Ask)
            self.asks.append(effect)
            self.port.ask(effect)
        if not any(entry.name.asking for entry in self.memory.entries.values()):
            self.reactor.stop()
        return names.wake_at(self.memory, self.context(now))

    def settle(self) -> float:
        """Run until every name is looked up; the seconds it took."""
        with self.router.inside(), self.reactor:
            self.reactor.post(Woke())
            self.reactor.run(self.handle)
            took = self.reactor.now() - self.began
            self.port.close()
        return took

    def look_up(self, host: str, srv: bool = False) -> names.Name:
        name = names.look_up(self.memory, host, srv=srv)
        assert name is not None
        return name


@pytest.mark.parametrize("servers", [(SERVER4,), (SILENT, SERVER4), (SILENT, OUTSIDE, SERVER4)], ids=len)
def test_fifty_names(router: Namespace, servers: tuple[str, ...]) -> None:
    """Side by side; each dead server before the good one costs its silence once, not once per name."""
    agent = Agent(router, [Wanted(f"p{n}.lab.test", ("A", "AAAA")) for n in range(NAMES)], *servers)
    took = agent.settle()
    for n in range(NAMES):
        name = agent.look_up(f"p{n}.lab.test")
        assert name.addresses == (f"203.0.113.{n + 1}", f"2001:db8:77::{n + 1:x}")
        assert name.server == f"{SERVER4} on wan0"
    assert took < 3.0, f"{took:.2f} s"
    assert NAMES <= len(agent.said) <= 2 * NAMES, "twice if the two types came far apart"
    print(f"{NAMES} names, {len(servers) - 1} dead servers before the good one: {took * 1000:.0f} ms")


def test_every_kind_of_name(router: Namespace) -> None:
    hosts = ("vpn", "alias", "away", "only6", "big", "no")
    wanted = [Wanted(f"{host}.lab.test", ("A", "AAAA")) for host in hosts]
    agent = Agent(router, [*wanted, Wanted("vpn.lab.test", ("A", "AAAA"), srv=True)], SERVER4, SERVER6)
    agent.settle()
    found = {host: agent.look_up(f"{host}.lab.test") for host in hosts}
    assert found["vpn"].addresses == found["alias"].addresses == ("192.0.2.10", "2001:db8::10")
    assert found["vpn"].ttl == 30
    assert found["only6"].addresses == ("2001:db8::6",)
    assert len(found["big"].addresses) == 16
    assert found["no"].status is Status.MISSING
    assert found["away"].status is Status.REFUSED, "the alias leads out of the zone, and nobody here recurses"
    assert [str(e) for e in agent.look_up("vpn.lab.test", srv=True).endpoints] == [
        "192.0.2.10:51821",
        "[2001:db8::10]:51821",
    ]
    assert any(asked.tcp for asked in agent.asks)


def test_all_dead(router: Namespace) -> None:
    agent = Agent(router, [Wanted("vpn.lab.test")], SILENT, OUTSIDE, dns=replace(DNS, timeout=0.3))
    agent.settle()
    name = agent.look_up("vpn.lab.test")
    assert name.status is Status.SILENT
    # The kernel may still be short of ICMP errors: it sends so many a second to all.
    assert f"{SILENT} on wan0 (timeout)" in name.error and f"{OUTSIDE} on wan0 (" in name.error
