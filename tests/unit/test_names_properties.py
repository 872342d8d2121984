"""What holds for the resolver whatever DNS does: simulated hours with servers that die, lie and heal."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.made_up_dns import SILENT, Reply, Resolver, Server, always, zone
from wgrouter.core.jitter import unit
from wgrouter.core.messages import Ask, Record
from wgrouter.core.model import Nameserver
from wgrouter.core.names import Status, Wanted
from wgrouter.core.settings import Dns

EXAMPLES = settings().max_examples  # of the profile; a story takes its time

PLAIN, DUAL, ALIASED, SERVICE = "plain.example", "dual.example", "aliased.example", "service.example"
WANTED = (
    Wanted(PLAIN),
    Wanted(DUAL, ("A", "AAAA")),
    Wanted(ALIASED, ("A", "AAAA")),
    Wanted(SERVICE, ("A", "AAAA"), srv=True),
    Wanted("missing.example", ("A",)),
)
SERVERS = tuple(Nameserver(f"192.0.2.{n}") for n in range(1, 4))
ALLOWED = ("198.51.100.0/24", "2001:db8::/32")
EVIL = (
    "127.0.0.1",
    "0.0.0.0",
    "203.0.113.66",
    "::1",
    "::ffff:127.0.0.1",
    "fe80::66",
    "224.0.0.1",
    "rubbish",
    "",
)


def truth(version: int) -> dict[str, list[str]]:
    """The records, which move."""
    n = version % 50
    return {
        f"{PLAIN} A": [f"198.51.100.{n + 1}"],
        f"{DUAL} A": [f"198.51.100.{n + 2}", f"198.51.100.{n + 3}"],
        f"{DUAL} AAAA": [f"2001:db8::{n + 1}"],
        f"{ALIASED} CNAME": ["target.example"],
        "target.example A": [f"198.51.100.{n + 100}"],
        f"_wireguard._udp.{SERVICE} SRV": [f"0 0 {51820 + n} target.example", "10 0 51820 dual.example"],
    }


def lossy(server: Server) -> Server:
    return lambda ask: SILENT if unit("loss", ask.id) < 0.4 else server(ask)


def slow(server: Server) -> Server:
    return lambda ask: replace(server(ask), delay=2.5 * unit("delay", ask.id))


def cut(server: Server) -> Server:
    """Truncates everything over UDP."""
    return lambda ask: server(ask) if ask.tcp else Reply(truncated=True)


def lying(server: Server) -> Server:
    def answer(ask: Ask) -> Reply:
        kind = "AAAA" if ask.type == "AAAA" else "A"
        return Reply(records=(Record(ask.name, kind, 5, EVIL[ask.id % len(EVIL)]),))

    return answer


def half_lying(server: Server) -> Server:
    def answer(ask: Ask) -> Reply:
        reply = server(ask)
        evil = Record(ask.name, ask.type, 5, EVIL[ask.id % len(EVIL)])
        stray = Record("other.example", ask.type, 5, "198.51.100.250")
        return replace(reply, records=(evil, stray, *reply.records))

    return answer


FAULTS: dict[str, Callable[[Server], Server]] = {
    "well": lambda server: server,
    "dead": lambda server: always(SILENT),
    "nobody": lambda server: always(Reply(reason="refused")),
    "no route": lambda server: always(Reply(reason="unreachable", delay=0.0)),
    "garbage": lambda server: always(Reply(reason="garbage")),
    "servfail": lambda server: always(Reply("SERVFAIL")),
    "nxdomain": lambda server: always(Reply("NXDOMAIN", negative_ttl=7)),
    "empty": lambda server: always(Reply()),
    "loop": lambda server: always(Reply(records=(Record(PLAIN, "CNAME", 9, PLAIN),))),
    "lossy": lossy,
    "slow": slow,
    "cut": cut,
    "lying": lying,
    "half lying": half_lying,
}


@dataclass(frozen=True)
class Phase:
    """Some time in which every server has one fault."""

    seconds: float
    faults: tuple[str, ...]
    moves: bool
    hurries: int
    network_changes: int
    servers: int  # how many are known


phases = st.builds(
    Phase,
    seconds=st.floats(0.1, 300.0),
    faults=st.tuples(*[st.sampled_from(sorted(FAULTS))] * 3),
    moves=st.booleans(),
    hurries=st.integers(0, 9),
    network_changes=st.integers(0, 3),
    servers=st.sampled_from([0, 1, 2, 3, 3, 3]),
)
dns_settings = st.builds(
    Dns,
    ttl_min=st.sampled_from([1.0, 10.0, 30.0]),
    ttl_max=st.sampled_from([5.0, 60.0, 3600.0]),
    timeout=st.sampled_from([0.3, 1.5, 5.0]),
    retry=st.sampled_from([1.0, 5.0]),
    retry_max=st.sampled_from([5.0, 30.0, 300.0]),
    allow=st.just(ALLOWED),
)


class Story:
    """A resolver that lives through phases."""

    def __init__(self, dns: Dns, ttl: int, seed: str, strict: bool = False) -> None:
        self.ttl = ttl
        self.version = 0
        self.r = Resolver(dict.fromkeys(SERVERS, always(SILENT)), WANTED, dns=dns, seed=seed, strict=strict)

    def serve(self, faults: tuple[str, ...]) -> None:
        well = zone(truth(self.version), ttl=self.ttl, negative_ttl=11)
        for server, fault in zip(SERVERS, faults, strict=True):
            self.r.servers[server] = FAULTS[fault](well)

    def live(self, phase: Phase) -> None:
        self.version += phase.moves
        self.serve(phase.faults)
        self.r.use(*SERVERS[: phase.servers])
        parts = phase.hurries + phase.network_changes + 1
        for part in range(parts):
            if part < phase.hurries:
                self.r.hurry((PLAIN, DUAL, "missing.example")[part % 3])
            elif part < phase.hurries + phase.network_changes:
                self.r.network_changed()
            self.r.run(phase.seconds / parts)


def believable(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    return any(parsed in ipaddress.ip_network(prefix) for prefix in ALLOWED)


@pytest.mark.timeout(1800)
@settings(max_examples=EXAMPLES // 4)
@given(st.lists(phases, min_size=1, max_size=5), dns_settings, st.sampled_from([0, 5, 60]))
def test_whatever_happens(script: list[Phase], dns: Dns, ttl: int) -> None:
    story = Story(dns, ttl, "seed")
    r = story.r
    for phase in script:
        story.live(phase)
        for entry in r.memory.entries.values():
            name = entry.name
            assert all(map(believable, (*name.addresses, *name.former)))
            assert all(believable(endpoint.address) for endpoint in name.endpoints)
            assert "198.51.100.250" not in name.addresses, "a record of another name"
            assert len(entry.lies) <= 16
            assert name.next_at > r.now - 1e-6 or not r.known or name.asking  # the sum of a story's times
    check_bounds(r, script)
    check_findings(r)

    # Everything heals: everything is known again, and right, soon.
    story.version += 1
    story.serve(("well", "well", "well"))
    r.use(*SERVERS)
    r.network_changed()
    r.run(max(dns.ttl_min, min(ttl, dns.ttl_max)) + 40.0)
    expected = truth(story.version)
    for host, keys in {
        PLAIN: [f"{PLAIN} A"],
        DUAL: [f"{DUAL} A", f"{DUAL} AAAA"],
        ALIASED: ["target.example A"],
    }.items():
        assert set(r.look_up(host).addresses) == {item for key in keys for item in expected[key]}
        assert r.look_up(host).status is Status.FRESH
    service = r.look_up(SERVICE, srv=True)
    port = int(expected[f"_wireguard._udp.{SERVICE} SRV"][0].split()[2])
    assert str(service.endpoints[0]) == f"{expected['target.example A'][0]}:{port}"
    assert r.look_up("missing.example").status is Status.MISSING
    assert r.look_up("missing.example").addresses == ()
    assert len(r.memory.health) <= len(SERVERS)


def check_bounds(r: Resolver, script: list[Phase]) -> None:
    """Queries are bounded by time and by what was asked for, whatever the settings."""
    rounds = r.now - 1000.0
    apart = max(0.5, min(r.dns.retry, r.dns.ttl_min))
    nudges = sum(phase.network_changes + 1 for phase in script) + 1
    # 8 asks a question and TCP after each; SRV leads to 5 questions, and one chain may be chased.
    per_name = (rounds / apart + nudges) * 8 * 2 * 6
    for host, count in Counter(ask.name for _, ask in r.asks).items():
        assert count <= per_name, host


def check_findings(r: Resolver) -> None:
    """Transitions are said, states are not: no name has the same trouble twice with nothing in between."""
    last: dict[str, str] = {}
    for _, finding in r.said:
        code = finding.why.code
        if code == "name.no-server":
            last.clear()  # it is about all names
        elif code in ("name.missing", "name.empty", "name.refused", "name.silent"):
            assert last.get(finding.subject) != code
        last[finding.subject] = code


@pytest.mark.timeout(1800)
@settings(max_examples=EXAMPLES // 10)
@given(st.lists(phases, min_size=1, max_size=3), dns_settings)
def test_the_same_again_is_the_same(script: list[Phase], dns: Dns) -> None:
    """Deterministic, and every Memory on the way survives the journal (`strict`)."""

    def tell(strict: bool) -> tuple[list[tuple[float, Ask]], list[str]]:
        story = Story(dns, 5, "seed", strict)
        for phase in script:
            story.live(replace(phase, seconds=phase.seconds / 10))
        return story.r.asks, story.r.texts()

    assert tell(strict=True) == tell(strict=False)


def test_a_day_of_an_outage_is_cheap() -> None:
    """All servers dead for 24 hours: the back-off's ceiling bounds the queries."""
    r = Resolver(dict.fromkeys(SERVERS, always(SILENT)), [Wanted(f"p{n}.example") for n in range(3)])
    r.run(86400)
    # Each 240 to 300 s a round of six queries, and twice as many at the start while the back-off grows.
    assert len(r.asks) <= 3 * 6 * (86400 / 240 + 10)
    assert len(r.said) == 3


def test_settings_of_zero_are_no_storm() -> None:
    """Whatever is configured, a name is looked up twice a second at most."""
    nothing = Dns(ttl_min=0.0, ttl_max=0.0, retry=0.0, retry_max=0.0, timeout=0.01)
    for server in (
        zone(truth(0), ttl=0),
        always(SILENT),
        always(Reply("SERVFAIL")),
        always(Reply("NXDOMAIN")),
    ):
        r = Resolver({SERVERS[0]: server}, [Wanted(PLAIN)], dns=nothing)
        r.run(60)
        assert 60 <= len(r.asks) <= 60 / 0.5 * 2 + 2


def test_a_day_of_health_follows_the_ttl() -> None:
    r = Resolver({SERVERS[0]: zone(truth(0), ttl=60)}, [Wanted(PLAIN)])
    r.run(86400)
    assert 86400 / 61.1 - 1 <= len(r.asks) <= 86400 / 60 + 1
    assert r.codes() == ["name.resolved"]
