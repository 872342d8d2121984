"""The resolver, step by step: what is asked of whom and when, what is said, what is kept."""

from __future__ import annotations

from functools import partial

import pytest

from tests.unit.made_up_dns import (
    FIRST,
    HOST,
    SECOND,
    SILENT,
    THIRD,
    Reply,
    Resolver,
    Server,
    always,
    zone,
)
from tests.work import calls
from wgrouter.core import names
from wgrouter.core.findings import Severity
from wgrouter.core.messages import Answered, Ask, Record, Unanswered, Woke
from wgrouter.core.model import LONG_AGO, NEVER, Endpoint, Nameserver
from wgrouter.core.name_rounds import HEDGE, TASKS_MAX
from wgrouter.core.names import Status, Wanted
from wgrouter.core.settings import Dns

ONE = {f"{HOST} A": ["192.0.2.10"]}
BOTH = {f"{HOST} A": ["192.0.2.10"], f"{HOST} AAAA": ["2001:db8::10"]}
DUAL = Wanted(HOST, ("A", "AAAA"))
WITH_SRV = Wanted(HOST, ("A", "AAAA"), srv=True)

GOOD = zone(ONE)
NXDOMAIN = zone({})
NODATA = zone({f"{HOST} TXT": ["x"]})
SERVFAIL = always(Reply("SERVFAIL"))
REFUSED = always(Reply("REFUSED"))
DEAD = always(SILENT)
NOBODY = always(Reply(reason="refused"))
NO_ROUTE = always(Reply(reason="unreachable", delay=0.0))
RUBBISH = always(Reply(reason="garbage"))
SLOW = zone(ONE, delay=0.8)
LYING = zone({f"{HOST} A": ["127.0.0.1"]})
LOOPING = zone({f"{HOST} CNAME": ["a.example"], "a.example CNAME": [HOST]})


# ---- how one look-up ends

ENDINGS: list[tuple[str, list[Server], Status, list[str], float, int]] = [
    # servers in order → status, findings, seconds, queries
    ("the first answers", [GOOD, DEAD], Status.FRESH, ["name.resolved"], 0.01, 1),
    ("the first is dead", [DEAD, GOOD], Status.FRESH, ["name.resolved"], 0.51, 2),
    ("two are dead", [DEAD, DEAD, GOOD], Status.FRESH, ["name.resolved"], 1.01, 3),
    ("the first is slow, the second dead", [SLOW, DEAD], Status.FRESH, ["name.resolved"], 0.8, 2),
    ("nobody listens at the first", [NOBODY, GOOD], Status.FRESH, ["name.resolved"], 0.02, 2),
    ("no way to the first", [NO_ROUTE, GOOD], Status.FRESH, ["name.resolved"], 0.01, 2),
    ("the first fails", [SERVFAIL, GOOD], Status.FRESH, ["name.resolved"], 0.02, 2),
    ("the first refuses", [REFUSED, GOOD], Status.FRESH, ["name.resolved"], 0.02, 2),
    ("the first talks rubbish", [RUBBISH, GOOD], Status.FRESH, ["name.resolved"], 0.51, 2),
    ("the first loops", [LOOPING, GOOD], Status.FRESH, ["name.resolved"], 0.02, 2),
    ("the first lies", [LYING, GOOD], Status.FRESH, ["name.lie", "name.resolved"], 0.02, 2),
    ("the first denies", [NXDOMAIN, GOOD], Status.FRESH, ["name.resolved"], 0.02, 2),
    ("the first has none", [NODATA, GOOD], Status.FRESH, ["name.resolved"], 0.02, 2),
    ("all are dead", [DEAD], Status.SILENT, ["name.silent"], 2.0, 2),
    ("all three are dead", [DEAD, DEAD, DEAD], Status.SILENT, ["name.silent"], 4.0, 6),
    ("no way to anybody", [NO_ROUTE, NO_ROUTE], Status.SILENT, ["name.silent"], 0.0, 2),
    ("all fail", [SERVFAIL, REFUSED], Status.REFUSED, ["name.refused"], 0.02, 2),
    ("all lie", [LYING, LYING], Status.LIE, ["name.lie", "name.lie"], 0.02, 2),
    ("all deny", [NXDOMAIN, NXDOMAIN, GOOD], Status.MISSING, ["name.missing"], 0.02, 2),
    ("all have none", [NODATA, NODATA], Status.EMPTY, ["name.empty"], 0.02, 2),
    ("one denies, one has none", [NXDOMAIN, NODATA], Status.EMPTY, ["name.empty"], 0.02, 2),
    ("one fails, one denies", [SERVFAIL, NXDOMAIN], Status.MISSING, ["name.missing"], 0.02, 2),
    ("one denies, one is dead", [NXDOMAIN, DEAD], Status.MISSING, ["name.missing"], 1.51, 2),
    ("one is dead, one denies", [DEAD, NXDOMAIN], Status.MISSING, ["name.missing"], 1.5, 2),
    ("one lies, one is dead", [LYING, DEAD], Status.LIE, ["name.lie"], 2.01, 3),
    ("it loops", [LOOPING], Status.REFUSED, ["name.refused"], 0.01, 1),
]


@pytest.mark.parametrize(
    ("servers", "status", "said", "seconds", "queries"),
    [pytest.param(*row[1:], id=row[0].replace(" ", "-")) for row in ENDINGS],
)
def test_a_look_up_ends(
    servers: list[Server], status: Status, said: list[str], seconds: float, queries: int
) -> None:
    r = Resolver(dict(zip((FIRST, SECOND, THIRD), servers, strict=False)), strict=True)
    took = r.settle()
    name = r.look_up()
    assert name.status is status
    assert r.codes() == said
    assert len(r.asks) == queries
    assert took == pytest.approx(seconds, abs=0.001)
    assert name.addresses == (("192.0.2.10",) if status is Status.FRESH else ())
    assert bool(name.error) == (status is not Status.FRESH)
    assert name.settled(1000.0) and not name.settled(1000.1)


def test_what_is_said() -> None:
    r = Resolver({FIRST: DEAD, SECOND: NOBODY})
    r.settle()
    assert r.texts() == [
        f"{HOST}: no DNS server answers for {HOST}: 192.0.2.2 (refused), 192.0.2.1 (timeout)",
    ]
    assert r.look_up().error == "no DNS server answers: 192.0.2.2 (refused), 192.0.2.1 (timeout)"
    r.servers = {FIRST: LYING, SECOND: LYING}
    r.next_round()
    lie = f"gives 127.0.0.1 for {HOST}, which is not accepted: loopback"
    assert r.texts()[1:] == [f"{HOST}: 192.0.2.1 {lie}", f"{HOST}: 192.0.2.2 {lie}"]
    r.servers = {FIRST: SERVFAIL, SECOND: SERVFAIL}
    r.next_round()
    assert r.texts()[3] == f"{HOST}: 192.0.2.2 cannot answer for {HOST} (SERVFAIL)"
    r.servers = {FIRST: NXDOMAIN, SECOND: NXDOMAIN}
    r.next_round()
    assert r.texts()[4] == f"{HOST}: {HOST} does not exist, says 192.0.2.2 (NXDOMAIN)"
    r.servers = {FIRST: NODATA, SECOND: NODATA}
    r.next_round()
    assert r.texts()[5] == f"{HOST}: {HOST} has no address of the wanted family, says 192.0.2.2"
    r.servers = {FIRST: GOOD}
    r.next_round()
    assert r.texts()[6:] == [f"{HOST}: {HOST} is 192.0.2.10 (TTL 60 s, by 192.0.2.1)"]
    assert {finding.why.severity for _, finding in r.said} == {Severity.INFO, Severity.WARNING}


# ---- failures take nothing away, and are said once

FAILING = {
    "nxdomain": (NXDOMAIN, Status.MISSING),
    "nodata": (NODATA, Status.EMPTY),
    "servfail": (SERVFAIL, Status.REFUSED),
    "dead": (DEAD, Status.SILENT),
    "nobody": (NOBODY, Status.SILENT),
    "lying": (LYING, Status.LIE),
    "loop": (LOOPING, Status.REFUSED),
    "other names": (always(Reply(records=(Record("x.example", "A", 60, "192.0.2.66"),))), Status.EMPTY),
    "no address": (always(Reply(records=(Record(HOST, "A", 60, "evil"),))), Status.LIE),
}


@pytest.mark.parametrize(("server", "status"), FAILING.values(), ids=FAILING.keys())
def test_a_failure_keeps_the_addresses_and_is_said_once(server: Server, status: Status) -> None:
    r = Resolver({FIRST: GOOD, SECOND: GOOD})
    r.settle()
    before = r.look_up()
    r.servers = {FIRST: server, SECOND: server}
    r.run(3600)
    r.settle()
    name = r.look_up()
    assert name.addresses == before.addresses == ("192.0.2.10",)
    assert name.status is status
    assert (name.since, name.answered, name.ttl) == (before.since, before.answered, before.ttl)
    expected = 3 if status is Status.LIE else 2  # each server's lie is said
    assert len(r.said) == expected
    r.servers = {FIRST: GOOD, SECOND: GOOD}
    r.run(400)
    assert r.look_up().status is Status.FRESH
    assert r.look_up().error == ""
    assert r.codes()[expected:] == ["name.resolved"]
    assert r.look_up().since == before.since


def test_after_failures_it_backs_off_to_the_ceiling_and_no_further() -> None:
    r = Resolver({FIRST: DEAD}, dns=Dns(retry=5.0, retry_max=300.0))
    r.settle()
    waits = [r.next_round() for _ in range(12)]
    assert waits[:6] == sorted(waits[:6])
    assert 5.0 <= waits[0] <= 8.1
    assert all(240.0 <= wait <= 302.1 for wait in waits[8:])
    assert len({round(wait, 3) for wait in waits[8:]}) > 1, "jitter"


@pytest.mark.parametrize(("negative_ttl", "wait"), [(1, 5.0), (30, 30.0), (86400, 300.0)])
def test_a_negative_answer_says_how_long_it_holds(negative_ttl: int, wait: float) -> None:
    r = Resolver({FIRST: zone({}, negative_ttl=negative_ttl)})
    r.settle()
    assert [r.next_round() for _ in range(3)] == pytest.approx([wait - 0.0, wait, wait], abs=0.02)


def test_a_failure_is_tried_again_sooner_than_a_denial_beside_it_holds() -> None:
    def server(ask: Ask) -> Reply:
        return Reply("SERVFAIL") if ask.type == "A" else Reply(negative_ttl=300)

    r = Resolver({FIRST: server}, [DUAL])
    r.settle()
    assert r.look_up().status is Status.REFUSED
    assert r.next_round() == pytest.approx(5.0, abs=0.02)


# ---- TTL


@pytest.mark.parametrize(("ttl", "wait"), [(0, 10.0), (9, 10.0), (10, 10.0), (60, 60.0), (7200, 3600.0)])
def test_the_next_look_up_follows_the_ttl(ttl: int, wait: float) -> None:
    dues = set()
    for seed in "abcdefgh":
        r = Resolver({FIRST: zone(ONE, ttl=ttl)}, seed=seed)
        r.settle()
        due = r.look_up().next_at - r.look_up().answered
        assert wait <= due <= wait + min(1.0, wait / 10)
        assert r.look_up().expires == r.look_up().answered + wait
        assert r.look_up().ttl == ttl
        dues.add(due)
    assert len(dues) > 4, "jitter"


@pytest.mark.parametrize(
    "first", [GOOD, DEAD, NXDOMAIN, SERVFAIL], ids=["all", "dead", "nxdomain", "servfail"]
)
def test_a_move_is_known_within_ttl_and_two_seconds(first: Server) -> None:
    r = Resolver({FIRST: first, SECOND: zone(ONE, ttl=20)})
    r.settle()
    r.run(7)
    ttl = r.look_up().ttl
    r.servers[SECOND] = zone({f"{HOST} A": ["192.0.2.99"]}, ttl=20)
    if first is GOOD:
        r.servers[FIRST] = r.servers[SECOND]
    moved = r.now
    r.run(ttl + 2.0)
    at, finding = r.said[-1]
    assert finding.why.code == "name.moved"
    assert at - moved <= ttl + 1.6
    assert finding.arguments["old"] == "192.0.2.10"
    assert r.look_up().addresses == ("192.0.2.99",)
    assert r.look_up().since == at


def test_stale_is_told_only_with_a_clock() -> None:
    r = Resolver({FIRST: GOOD})
    r.settle()
    r.use()  # no servers: nobody to ask anew
    assert names.look_up(r.memory, HOST, now=r.now + 61) == r.look_up()
    stale = names.look_up(r.memory, HOST, now=r.now + 63)
    assert stale is not None and stale.status is Status.STALE and stale.addresses == ("192.0.2.10",)


# ---- addresses


def test_rotation_is_no_move() -> None:
    pool = ["192.0.2.10", "192.0.2.11", "192.0.2.12"]
    r = Resolver({FIRST: zone({f"{HOST} A": pool})})
    r.settle()
    for turn in range(1, 4):
        r.servers[FIRST] = zone({f"{HOST} A": pool[turn % 3 :] + pool[: turn % 3]})
        r.next_round()
    assert r.look_up().addresses == tuple(pool)
    assert r.codes() == ["name.resolved"]
    r.servers[FIRST] = zone({f"{HOST} A": [*pool[:2], "192.0.2.1"]})
    r.next_round()
    assert r.look_up().addresses == ("192.0.2.10", "192.0.2.11", "192.0.2.1")
    assert r.texts()[1].endswith(
        "moved from 192.0.2.10, 192.0.2.11, 192.0.2.12 to 192.0.2.10, 192.0.2.11, 192.0.2.1"
        " (TTL 60 s, by 192.0.2.1)"
    )


def test_a_half_lie_leaves_the_other_half() -> None:
    r = Resolver({FIRST: zone({f"{HOST} A": ["127.0.0.1", "192.0.2.10"]}), SECOND: GOOD})
    r.run(200)
    assert r.look_up().addresses == ("192.0.2.10",)
    assert r.codes() == ["name.lie", "name.resolved"]
    assert r.asked(SECOND) == 0


def test_only_allowed_prefixes_and_a_change_of_them() -> None:
    r = Resolver({FIRST: zone({f"{HOST} A": ["192.0.2.10", "198.51.100.1"]})})
    r.settle()
    assert len(r.look_up().addresses) == 2
    r.run(10)
    narrow = Dns(allow=("192.0.2.0/24",))
    r.configure(narrow)
    assert r.look_up().addresses == ("192.0.2.10",), "not believed any more"
    r.settle()
    assert r.look_up().addresses == ("192.0.2.10",)
    reason = "which is not accepted: outside the prefixes allowed"
    assert r.texts()[1] == f"{HOST}: 192.0.2.1 gives 198.51.100.1 for {HOST}, {reason}"
    r.servers[FIRST] = zone({f"{HOST} A": ["198.51.100.1"]})
    r.next_round()
    assert r.look_up().status is Status.LIE
    assert r.look_up().addresses == ("192.0.2.10",)


def test_both_types_come_out_together_and_one_line_says_it() -> None:
    slower = zone(BOTH, delay=0.04)
    r = Resolver({FIRST: lambda ask: (slower if ask.type == "AAAA" else zone(BOTH))(ask)}, [DUAL])
    r.run(0.02)
    assert r.look_up().addresses == ()
    r.settle()
    assert r.look_up().addresses == ("192.0.2.10", "2001:db8::10")
    assert r.codes() == ["name.resolved"]


def test_one_type_does_not_wait_for_the_other_for_long() -> None:
    r = Resolver({FIRST: lambda ask: SILENT if ask.type == "AAAA" else GOOD(ask)}, [DUAL])
    r.run(0.061)
    name = r.look_up()
    assert name.addresses == ("192.0.2.10",) and name.status is Status.FRESH and name.asking
    r.settle()
    assert r.codes() == ["name.resolved"], "one type is enough"
    assert r.look_up().status is Status.FRESH
    assert r.look_up().next_at < r.now + 10, "the silent one is tried again sooner than the TTL"


def test_a_name_that_changes_its_type_keeps_the_old_address_as_former() -> None:
    r = Resolver({FIRST: GOOD, SECOND: GOOD}, [DUAL])
    r.settle()
    six = zone({f"{HOST} AAAA": ["2001:db8::10"]})
    r.servers = {FIRST: six, SECOND: six}
    r.next_round()
    assert (r.look_up().addresses, r.look_up().former) == (("2001:db8::10",), ("192.0.2.10",))
    assert r.codes() == ["name.resolved", "name.moved"] or r.codes()[-1] == "name.moved"
    r.servers = {FIRST: NXDOMAIN, SECOND: NXDOMAIN}
    r.next_round()
    assert (r.look_up().addresses, r.look_up().former) == (("2001:db8::10",), ("192.0.2.10",))
    r.servers = {FIRST: GOOD, SECOND: GOOD}
    r.next_round()
    assert (r.look_up().addresses, r.look_up().former) == (("192.0.2.10",), ("2001:db8::10",))


def test_that_there_is_no_aaaa_is_believed_at_once_while_nothing_is_lost() -> None:
    r = Resolver({FIRST: GOOD, SECOND: GOOD}, [DUAL])
    r.run(3600)
    assert r.asked(SECOND) <= 1, "at most the very first time, before A was known"


def test_a_type_that_fails_keeps_its_addresses_beside_the_other() -> None:
    both = zone(BOTH)
    r = Resolver({FIRST: both}, [DUAL])
    r.settle()
    r.servers[FIRST] = lambda ask: Reply("SERVFAIL") if ask.type == "AAAA" else both(ask)
    r.next_round()
    assert r.look_up().addresses == ("192.0.2.10", "2001:db8::10")
    assert r.look_up().status is Status.FRESH
    assert r.codes() == ["name.resolved"]


# ---- chains


def test_a_chain_within_the_answer() -> None:
    r = Resolver(
        {
            FIRST: zone(
                {f"{HOST} CNAME": ["A.Example."], "A.Example. A": ["192.0.2.10"], "A.Example. CNAME": []}
            )
        }
    )
    r.settle()
    assert r.look_up().addresses == ("192.0.2.10",)


def test_a_chain_over_several_zones_is_chased() -> None:
    def authoritative(ask: Ask) -> Reply:
        """Knows its own zone alone, as without recursion: an alias, and nothing of its target."""
        links = {HOST: "b.example", "b.example": "c.example"}
        if ask.name in links:
            return Reply(records=(Record(ask.name, "CNAME", 300, links[ask.name]),))
        return Reply(records=(Record("c.example", "A", 900, "192.0.2.10"),))

    r = Resolver({FIRST: authoritative}, strict=True)
    r.settle()
    assert [ask.name for _, ask in r.asks] == [HOST, "b.example", "c.example"]
    assert r.look_up().addresses == ("192.0.2.10",)
    assert r.look_up().ttl == 300


def test_an_endless_chain_ends() -> None:
    def endless(ask: Ask) -> Reply:
        label = ask.name.split(".")[0]
        number = int(label[1:]) + 1 if label[0] == "n" else 0
        return Reply(records=(Record(ask.name, "CNAME", 60, f"n{number}.example"),))

    r = Resolver({FIRST: endless})
    r.settle()
    assert r.look_up().status is Status.REFUSED
    assert r.look_up().error == "more than 8 CNAMEs, says 192.0.2.1"
    assert len(r.asks) == 9


def test_an_alias_without_data_is_no_data_if_the_server_says_so() -> None:
    r = Resolver({FIRST: zone({f"{HOST} CNAME": ["a.example"], "a.example TXT": ["x"]}, negative_ttl=30)})
    r.settle()
    assert r.look_up().status is Status.EMPTY
    assert [ask.name for _, ask in r.asks] == [HOST]


# ---- truncation


def test_a_truncated_answer_is_asked_for_over_tcp() -> None:
    many = zone({f"{HOST} A": [f"198.51.100.{n}" for n in range(40)]})

    def server(ask: Ask) -> Reply:
        return many(ask) if ask.tcp else Reply(truncated=True)

    r = Resolver({FIRST: server, SECOND: GOOD}, strict=True)
    r.settle()
    assert [ask.tcp for _, ask in r.asks] == [False, True]
    assert len(r.look_up().addresses) == 16


def test_without_tcp_the_next_server_is_asked_and_the_first_is_not_called_dead() -> None:
    def server(ask: Ask) -> Reply:
        return Reply(reason="refused") if ask.tcp else Reply(truncated=True)

    r = Resolver({FIRST: server, SECOND: GOOD})
    r.settle()
    assert r.look_up().addresses == ("192.0.2.10",)
    assert r.memory.health[FIRST].failures == 0


# ---- SRV

SRV = f"_wireguard._udp.{HOST} SRV"
TARGETS = {
    SRV: ["20 0 51821 b.example", "10 0 51820 a.example"],
    "a.example A": ["192.0.2.20"],
    "a.example AAAA": ["2001:db8::20"],
    "b.example A": ["192.0.2.30"],
}


def test_srv_gives_host_and_port_in_order_of_priority() -> None:
    r = Resolver({FIRST: zone(TARGETS)}, [WITH_SRV], strict=True)
    r.settle()
    name = r.look_up(srv=True)
    assert name.endpoints == (
        Endpoint("192.0.2.20", 51820),
        Endpoint("2001:db8::20", 51820),
        Endpoint("192.0.2.30", 51821),
    )
    assert name.at(1) == name.endpoints
    assert name.addresses == ("192.0.2.20", "2001:db8::20", "192.0.2.30")
    assert [ask.type for _, ask in r.asks] == ["SRV", "A", "AAAA", "A", "AAAA"]
    assert r.texts() == [
        f"{HOST}: {HOST} is 192.0.2.20:51820, [2001:db8::20]:51820, 192.0.2.30:51821 (TTL 60 s, by 192.0.2.1)"
    ]


@pytest.mark.parametrize(
    "server",
    [
        zone({**BOTH}),
        zone({**BOTH, SRV: ["0 0 0 ."]}),
        zone({**BOTH, SRV: ["nonsense"]}),
        zone({**BOTH, f"_wireguard._udp.{HOST} TXT": ["x"]}),
        lambda ask: Reply("SERVFAIL") if ask.type == "SRV" else zone(BOTH)(ask),
        lambda ask: SILENT if ask.type == "SRV" else zone(BOTH)(ask),
    ],
    ids=["nxdomain", "no service", "nonsense", "nodata", "servfail", "silent"],
)
def test_without_srv_records_the_host_itself_counts(server: Server) -> None:
    r = Resolver({FIRST: server}, [WITH_SRV])
    r.settle()
    name = r.look_up(srv=True)
    assert name.endpoints == ()
    assert name.at(7) == (Endpoint("192.0.2.10", 7), Endpoint("2001:db8::10", 7))
    assert name.status is Status.FRESH


def test_another_port_is_a_move() -> None:
    r = Resolver({FIRST: zone(TARGETS)}, [WITH_SRV])
    r.settle()
    r.servers[FIRST] = zone({**TARGETS, SRV: ["10 0 4500 a.example"]})
    r.next_round(srv=True)
    assert r.look_up(srv=True).endpoints == (Endpoint("192.0.2.20", 4500), Endpoint("2001:db8::20", 4500))
    assert r.codes() == ["name.resolved", "name.moved"]


def test_another_order_is_no_move() -> None:
    r = Resolver({FIRST: zone(TARGETS)}, [WITH_SRV])
    r.settle()
    r.servers[FIRST] = zone({**TARGETS, SRV: ["20 0 51820 a.example", "10 0 51821 b.example"]})
    r.next_round(srv=True)
    assert str(r.look_up(srv=True).endpoints[0]) == "192.0.2.30:51821"
    assert r.codes() == ["name.resolved"]


@pytest.mark.parametrize("broken", ["SRV", "A"])
def test_srv_that_fails_later_takes_nothing_away(broken: str) -> None:
    whole = zone({**TARGETS, **BOTH})
    r = Resolver({FIRST: whole, SECOND: whole}, [WITH_SRV])
    r.settle()
    before = r.look_up(srv=True).endpoints
    for reply in (SILENT, Reply("SERVFAIL"), Reply("NXDOMAIN")):
        if broken == "SRV" and reply.rcode == "NXDOMAIN":
            continue  # then the host itself counts: see below
        failing: Server = lambda ask, reply=reply: reply if ask.type in (broken, "AAAA") else whole(ask)  # noqa: E731
        r.servers = {FIRST: failing, SECOND: failing}
        r.next_round(srv=True)
        assert set(r.look_up(srv=True).endpoints) == set(before)


def test_srv_records_that_vanish_leave_what_was_known_unless_the_host_has_addresses() -> None:
    r = Resolver({FIRST: zone(TARGETS)}, [WITH_SRV])
    r.settle()
    before = r.look_up(srv=True).endpoints
    r.servers[FIRST] = zone({})
    r.next_round(srv=True)
    assert r.look_up(srv=True).endpoints == before
    assert r.look_up(srv=True).status is Status.MISSING
    r.servers[FIRST] = zone(BOTH)
    r.next_round(srv=True)
    assert r.look_up(srv=True).endpoints == ()
    assert r.look_up(srv=True).addresses == ("192.0.2.10", "2001:db8::10")


def test_a_missing_srv_record_needs_a_second_opinion_only_if_there_was_one() -> None:
    plain = zone(BOTH)
    r = Resolver({FIRST: plain, SECOND: plain}, [WITH_SRV])
    r.settle()
    assert [ask.type for _, ask in r.asks] == ["SRV", "A", "AAAA"]
    whole = zone({**TARGETS, **BOTH})
    r = Resolver({FIRST: whole, SECOND: whole}, [WITH_SRV])
    r.settle()
    before = r.look_up(srv=True).endpoints
    r.servers[FIRST] = zone({**BOTH, f"_wireguard._udp.{HOST} TXT": ["x"]})
    r.next_round(srv=True)
    assert r.look_up(srv=True).endpoints == before
    assert r.codes() == ["name.resolved"]


def test_one_host_with_and_without_srv_is_two_names() -> None:
    r = Resolver({FIRST: zone({**TARGETS, **ONE})}, [WITH_SRV, Wanted(HOST)])
    r.settle()
    assert r.look_up(srv=True).at(1)[0].port == 51820
    assert r.look_up().at(1) == (Endpoint("192.0.2.10", 1),)


# ---- servers


def many(count: int) -> list[Wanted]:
    return [Wanted(f"p{n}.example.net", ("A", "AAAA")) for n in range(count)]


def everybody(ask: Ask) -> Reply:
    return Reply(
        records=(Record(ask.name, ask.type, 60, "192.0.2.10" if ask.type == "A" else "2001:db8::10"),)
    )


@pytest.mark.parametrize("count", [50, 250])
@pytest.mark.parametrize("dead", [1, 2])
def test_a_dead_server_costs_its_silence_once_not_once_per_name(count: int, dead: int) -> None:
    servers = (FIRST, SECOND, THIRD)
    r = Resolver({server: DEAD if n < dead else everybody for n, server in enumerate(servers)}, many(count))
    assert r.settle() <= dead * 1.5 + count * 0.002
    assert all(r.look_up(f"p{n}.example.net").addresses for n in range(count))
    assert r.asked(FIRST) <= TASKS_MAX * 2
    assert r.memory.health[FIRST].failures <= 2, "that all tell it at once is one failure"
    if count == 250:
        return
    settled = r.now
    r.run(300)
    # Five rounds of every name later: a query now and then tried whether it is back.
    assert r.asked(FIRST, since=settled) <= 6
    r.servers[FIRST] = everybody
    r.run(300)
    back = r.now
    r.run(65)
    assert r.asked(FIRST, since=back) >= 2 * count, "it is the first again"


def test_no_name_waits_for_a_server_on_parole() -> None:
    r = Resolver({FIRST: DEAD, SECOND: zone(ONE, ttl=10)}, dns=Dns(ttl_min=1.0))
    r.settle()
    waits = []
    for _ in range(30):
        r.next_round()
        waits.append(r.now - r.look_up().asked)
    assert max(waits) < 0.02
    assert 2 <= r.asked(FIRST) <= 8


def test_a_slow_server_is_not_asked_first_while_there_is_a_fast_one() -> None:
    r = Resolver({FIRST: zone(ONE, delay=0.8), SECOND: GOOD})
    r.settle()
    r.next_round()
    assert r.now - r.look_up().asked < 0.02


def test_one_lost_packet_costs_half_a_second() -> None:
    lost = iter([True])
    r = Resolver({FIRST: lambda ask: SILENT if next(lost, False) else GOOD(ask)})
    assert r.settle() == pytest.approx(HEDGE + 0.01)
    assert r.look_up().status is Status.FRESH


def test_names_are_asked_side_by_side_within_bounds_and_in_turn() -> None:
    r = Resolver({FIRST: lambda ask: everybody(ask)}, many(250))
    at_once = [at for at, _ in r.asks]
    assert len(at_once) == TASKS_MAX
    assert r.settle() < 0.5


def test_a_query_that_the_port_forgot_is_given_up() -> None:
    r = Resolver({FIRST: GOOD})
    r.memory = names.Memory()
    r._queue.clear()
    r.asks.clear()
    r.want(Wanted(HOST))
    r._queue.clear()  # the port says nothing at all
    r.run(3.0)
    assert r.look_up().status is Status.FRESH, "asked again"
    r.run(10.0)
    assert r.memory.flights == {}


def test_a_look_up_ends_however_patient_the_settings_are() -> None:
    r = Resolver({FIRST: DEAD, SECOND: DEAD}, dns=Dns(timeout=60.0))
    assert r.settle() == pytest.approx(15.0)
    assert r.look_up().status is Status.SILENT
    assert r.look_up().error == "no DNS server answers: no answer in time"


def test_late_answers_and_unknown_ids_are_harmless() -> None:
    r = Resolver({FIRST: DEAD, SECOND: GOOD})
    first = r.asks[0][1].id
    r.settle()
    before = r.look_up()
    for event in (
        Answered(first, "NXDOMAIN"),
        Answered(first, "NOERROR", records=(Record(HOST, "A", 1, "192.0.2.66"),)),
        Answered(99999, "NOERROR", records=(Record(HOST, "A", 1, "192.0.2.66"),)),
        Unanswered(first, "timeout"),
        Unanswered(-1, "timeout"),
    ):
        r.step(event)
    assert r.look_up() == before


def test_the_first_answer_counts_and_a_late_one_of_the_hedge_does_not() -> None:
    other = zone({f"{HOST} A": ["192.0.2.66"]}, delay=0.4)
    r = Resolver({FIRST: zone(ONE, delay=0.7), SECOND: other})
    r.run(2)
    assert r.look_up().addresses == ("192.0.2.10",)
    assert r.codes() == ["name.resolved"]


# ---- no server, other servers, another network


def test_without_a_server_nothing_is_asked_and_it_is_said_once_for_all() -> None:
    r = Resolver({}, many(3))
    r.run(4.9)
    assert r.said == []
    r.run(3600)
    assert r.texts() == ["p0.example.net: no DNS server is known to ask for p0.example.net and 2 more"]
    assert r.look_up("p1.example.net").status is Status.SILENT
    assert r.look_up("p1.example.net").error == "no DNS server is known"
    r.servers[FIRST] = everybody
    r.use(FIRST)
    assert len(r.asks) == 6
    r.settle()
    assert r.codes()[1:] == ["name.resolved"] * 3


def test_servers_that_come_a_moment_after_the_start_are_used_at_once() -> None:
    r = Resolver({})
    r.run(1.0)
    r.servers[FIRST] = GOOD
    r.use(FIRST)
    assert r.settle() < 0.1
    assert r.codes() == ["name.resolved"]


def test_a_new_server_is_asked_at_once_for_what_is_not_resolved() -> None:
    r = Resolver({FIRST: NO_ROUTE})
    r.run(200)
    r.servers[SECOND] = GOOD
    r.use(SECOND, FIRST)
    assert r.settle() < 0.1
    assert r.look_up().status is Status.FRESH


def test_servers_that_go_while_they_are_asked() -> None:
    r = Resolver({FIRST: DEAD, SECOND: DEAD})
    r.run(0.6)
    r.use()
    r.run(30)
    assert not r.look_up().asking
    assert set(r.memory.health) == set()


def test_no_network_at_the_start_then_one() -> None:
    r = Resolver({FIRST: NO_ROUTE}, many(50))
    r.run(1000)
    asked = len(r.asks)
    assert asked < 50 * 2 * 12
    r.servers[FIRST] = everybody
    r.network_changed()
    assert r.settle() < 1.0
    assert all(r.look_up(f"p{n}.example.net").status is Status.FRESH for n in range(50))


def test_a_network_that_comes_while_the_question_is_lost() -> None:
    r = Resolver({FIRST: DEAD})
    r.run(0.2)
    r.servers[FIRST] = GOOD
    r.network_changed()
    assert r.settle() < 0.1
    assert r.look_up().status is Status.FRESH


def test_a_network_change_ends_back_off_and_penalties_but_leaves_fresh_names_alone() -> None:
    r = Resolver({FIRST: DEAD, SECOND: GOOD}, [Wanted(HOST), Wanted("gone.example.net")])
    r.settle()
    r.run(2000)
    r.settle()
    due = r.look_up().next_at
    assert r.memory.health[FIRST].failures > 2
    r.network_changed()
    assert r.memory.health.get(FIRST) is None
    assert r.look_up("gone.example.net").asking
    assert r.look_up().next_at == due


def test_a_failure_while_the_network_changes_means_nothing() -> None:
    r = Resolver({FIRST: DEAD})
    r.run(0.2)
    r.network_changed()
    r.settle()
    assert r.next_round() == pytest.approx(0.5)
    r.settle()
    assert r.next_round() > 4.0


@pytest.mark.parametrize("server", [NO_ROUTE, DEAD], ids=["no route", "dead"])
def test_a_flapping_network_is_no_storm(server: Server) -> None:
    r = Resolver({FIRST: server})
    for _ in range(1000):
        r.run(0.01)
        r.network_changed()
    assert len(r.asks) <= 10 / 0.5 * 2 + 4


# ---- hurry


def test_hurry_while_it_resolves_waits_for_the_floor() -> None:
    r = Resolver({FIRST: zone(ONE, ttl=300)})
    r.settle()
    asked = r.look_up().asked
    r.run(3)
    r.hurry()
    assert r.look_up().next_at == asked + 10
    r.hurry()
    assert r.next_round() == pytest.approx(asked + 10 - 1003.01, abs=0.05)
    r.run(20)
    r.hurry(HOST.upper() + ".")
    assert r.look_up().asking


def test_hurry_after_a_failure_waits_two_seconds_from_the_last_question() -> None:
    r = Resolver({FIRST: NOBODY})
    r.run(100)
    asked = r.look_up().asked
    r.run(max(0.0, asked + 2.5 - r.now))
    r.hurry()
    assert r.look_up().asking or r.look_up().asked > asked
    r.settle()
    again = r.look_up().asked
    r.hurry()
    assert r.look_up().next_at == pytest.approx(again + 2)


def test_hurry_never_postpones_and_minds_only_its_name() -> None:
    r = Resolver({FIRST: zone(ONE, ttl=12)})
    r.settle()
    r.run(9)
    due = r.look_up().next_at
    r.hurry()
    assert r.look_up().next_at <= due
    memory = names.hurry(r.memory, "other.example.net", r.now)
    assert memory is r.memory
    assert names.hurry(r.memory, "192.0.2.1", r.now) is r.memory


def test_hurry_all_the_time_is_bounded() -> None:
    r = Resolver({FIRST: DEAD})
    for _ in range(3600):
        r.run(0.1)
        r.hurry()
    assert len(r.asks) <= 360 / 2 * 2 + 4


# ---- what is wanted


def test_names_come_and_go() -> None:
    r = Resolver({FIRST: everybody}, many(3))
    r.settle()
    r.want(*many(2), Wanted(HOST))
    assert names.look_up(r.memory, "p2.example.net") is None
    assert r.look_up("p0.example.net").addresses
    r.settle()
    assert r.look_up().addresses == ("192.0.2.10",)
    asked = len(r.asks)
    r.want(*many(2), Wanted(HOST))
    assert len(r.asks) == asked, "the same again is no reason to ask"


def test_a_name_that_goes_while_it_is_asked_for() -> None:
    r = Resolver({FIRST: GOOD, SECOND: GOOD})
    r.want()
    r.run(5)
    assert r.memory.entries == {} and r.memory.due == () and r.memory.flights == {}
    r.want(Wanted(HOST))
    r.settle()
    assert r.look_up().addresses


def test_other_types_are_asked_for_at_once_and_the_wrong_ones_go() -> None:
    r = Resolver({FIRST: zone(BOTH)}, [DUAL])
    r.settle()
    r.run(1)
    r.want(Wanted(HOST, ("AAAA",)))
    assert r.look_up().asking
    assert r.look_up().addresses == ("2001:db8::10",)
    r.settle()
    assert r.look_up().addresses == ("2001:db8::10",)


def test_equal_hosts_are_one_name() -> None:
    r = Resolver({FIRST: zone(BOTH)}, [Wanted(HOST), Wanted("VPN.Example.net.", ("AAAA",))])
    r.settle()
    assert list(r.memory.entries) == [HOST]
    assert r.look_up("vpn.EXAMPLE.NET.").addresses == ("192.0.2.10", "2001:db8::10")


def test_literals_and_nonsense() -> None:
    r = Resolver(
        {FIRST: everybody}, [Wanted("192.0.2.5"), Wanted("2001:DB8::5"), Wanted("a..b"), Wanted("bücher")]
    )
    r.run(100)
    assert r.asks == []
    assert r.look_up("192.0.2.5").addresses == ("192.0.2.5",)
    assert r.look_up("2001:DB8::5").at(9) == (Endpoint("2001:db8::5", 9),)
    assert r.look_up("a..b").status is Status.MISSING and "a part of 0" in r.look_up("a..b").error
    assert r.look_up("bücher").status is Status.MISSING and "xn--" in r.look_up("bücher").error
    r.network_changed()
    r.hurry("a..b")
    r.run(100)
    assert r.asks == []


# ---- what it costs


def test_an_idle_step_is_cheap() -> None:
    """Whatever the number of names."""
    for number in (1, 250):
        r = Resolver({FIRST: everybody}, many(number))
        r.settle()
        context, memory = r.context, r.memory
        assert names.step(memory, Woke(), context, r.known).memory is memory
        assert calls(partial(names.step, memory, Woke(), context, r.known)) < 20, number


def test_a_server_named_twice_is_one() -> None:
    r = Resolver({FIRST: NXDOMAIN})
    r.settle()
    r.use(FIRST, FIRST)
    memory = r.memory
    assert names.step(memory, Woke(), r.context, (FIRST, FIRST)).memory is memory
    r.next_round()
    assert len(r.asks) == 2


def test_what_is_due_before_a_step_still_wakes_ahead() -> None:
    r = Resolver({FIRST: zone(ONE, ttl=300)})
    r.run(30)
    memory = names.hurry(r.memory, HOST, r.now)
    assert r.now < names.wake_at(memory, r.context) < r.now + 0.01


def test_nothing_wanted_wakes_nobody() -> None:
    r = Resolver({FIRST: GOOD}, [])
    assert names.wake_at(r.memory, r.context) == NEVER
    assert names.Memory().wake == LONG_AGO, "the first step always works"


def test_a_server_on_a_device_is_named_with_it() -> None:
    server = Nameserver("2001:db8::53", 5353, "wan0")
    r = Resolver({server: GOOD})
    r.settle()
    assert r.look_up().server == "2001:db8::53#5353 on wan0"
    assert r.asks[0][1].server is server
