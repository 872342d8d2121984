"""The resolver while settings, servers or the network change under it, and whom it asks and believes then."""

from __future__ import annotations

from dataclasses import replace

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
from wgrouter.core import names
from wgrouter.core.messages import Ask, Event, Record, Woke
from wgrouter.core.model import NEVER, Nameserver
from wgrouter.core.name_rounds import ASKS_MAX, TASKS_MAX
from wgrouter.core.names import Status, Wanted
from wgrouter.core.settings import Dns

ONE = {f"{HOST} A": ["192.0.2.10"]}
BOTH = {f"{HOST} A": ["192.0.2.10"], f"{HOST} AAAA": ["2001:db8::10"]}
SERVICE = {f"_wireguard._udp.{HOST} SRV": ["0 0 4500 a.example"], "a.example A": ["192.0.2.20"]}
DUAL = Wanted(HOST, ("A", "AAAA"))
GOOD = zone(ONE)
DEAD = always(SILENT)
NOBODY = always(Reply(reason="refused"))
NO_ROUTE = always(Reply(reason="unreachable", delay=0.0))


# ---- settings


def test_the_same_again_is_no_reason_to_ask_even_later() -> None:
    r = Resolver({FIRST: zone(ONE, ttl=300)})
    r.settle()
    r.run(5)
    asked, due = len(r.asks), r.look_up().next_at
    r.want(Wanted(HOST))
    assert (len(r.asks), r.look_up().next_at) == (asked, due)


def test_other_types_in_the_middle_of_a_round_end_it_and_begin_another() -> None:
    both = zone(BOTH, delay=0.04)
    r = Resolver({FIRST: both}, [DUAL, Wanted("b.example")])
    r.run(0.01)
    r.want(Wanted(HOST, ("A",)), Wanted("b.example"))
    assert r.look_up("b.example").asking, "another name's round goes on"
    r.run(0.3)
    assert r.look_up().addresses == (), "what the old round asked for is nobody's any more"
    r.run(0.3)
    assert r.look_up().addresses == ("192.0.2.10",)
    assert [(round(at - 1000, 2), ask.type) for at, ask in r.asks if ask.name == HOST] == [
        *((0.0, "A"), (0.0, "AAAA"), (0.5, "A"))
    ]


def test_an_address_found_but_not_told_yet_is_not_told_by_the_next_round() -> None:
    r = Resolver({FIRST: lambda ask: SILENT if ask.type == "AAAA" else GOOD(ask)}, [DUAL])
    r.run(0.02)  # A is there, and waits for AAAA
    r.want(Wanted(HOST, ("AAAA",)))
    r.run(3)
    assert r.look_up().addresses == ()
    assert r.codes() == ["name.silent"]


def test_a_type_given_up_is_not_believed_again_before_it_is_asked_for() -> None:
    r = Resolver({FIRST: zone(BOTH)}, [DUAL])
    r.settle()
    r.want(Wanted(HOST, ("A",)))
    r.want(DUAL)
    assert r.look_up().addresses == ("192.0.2.10",)
    r.run(1)
    assert r.look_up().addresses == ("192.0.2.10", "2001:db8::10")


def test_a_former_address_goes_with_the_prefix_that_allowed_it() -> None:
    r = Resolver({FIRST: GOOD}, [DUAL])
    r.settle()
    r.servers[FIRST] = zone({f"{HOST} AAAA": ["2001:db8::10"]})
    r.next_round()
    assert r.look_up().former == ("192.0.2.10",)
    r.configure(Dns(allow=("2001:db8::/32",)))
    assert r.look_up().former == ()


def test_a_text_that_is_no_name_is_never_asked_for_whatever_the_settings() -> None:
    r = Resolver({FIRST: GOOD}, [Wanted("a..b")])
    r.configure(Dns(ttl_min=3.0))
    r.run(60)
    assert r.asks == []
    assert r.look_up("a..b").status is Status.MISSING


def test_settings_that_flip_all_the_time_are_no_storm() -> None:
    r = Resolver({FIRST: GOOD})
    for n in range(200):
        r.run(0.01)
        r.configure(Dns(ttl_min=5.0 + n % 2))
    assert 3 <= len(r.asks) <= 5


# ---- what others know


def test_before_the_first_answer_nothing_is_known() -> None:
    r = Resolver({})
    name = r.look_up()
    assert (name.status, name.addresses, name.ttl, name.error) == (Status.PENDING, (), 0.0, "")
    assert not r.look_up("192.0.2.5").asking


def test_only_addresses_in_force_grow_stale_and_only_two_seconds_after_their_end() -> None:
    r = Resolver({FIRST: GOOD})
    r.settle()
    r.use()
    end = r.look_up().expires + names.HURRY_APART
    at_the_end, later = (names.look_up(r.memory, HOST, now=now) for now in (end, end + 0.01))
    assert at_the_end is not None and at_the_end.status is Status.FRESH
    assert later is not None and later.status is Status.STALE
    r.servers = {FIRST: zone({})}
    r.use(FIRST)
    r.next_round()
    assert r.look_up().status is Status.MISSING
    gone = names.look_up(r.memory, HOST, now=r.now + 3600)
    assert gone is not None and gone.status is Status.MISSING, "the name is gone: more than stale"


def test_what_is_new_is_told_by_the_host_as_it_was_written() -> None:
    r = Resolver({FIRST: zone({**ONE, "other.example A": ["192.0.2.11"]})}, [])
    empty = r.memory
    wanted = (Wanted("VPN.example.net."), Wanted("other.example"), Wanted(HOST, srv=True))
    assert names.news(empty, r.memory, wanted) == frozenset()
    r.want(*wanted)
    begun = r.memory
    assert names.news(empty, begun, wanted) == {"VPN.example.net.", "other.example", HOST}
    assert names.news(begun, begun, wanted) == frozenset()
    assert names.news(begun, replace(begun), wanted) == frozenset(), "another memory, the same names"
    r.settle()
    ended = r.memory
    r.run(10)
    r.hurry()
    r.settle()
    assert "VPN.example.net." in names.news(ended, r.memory, wanted)
    assert "other.example" not in names.news(ended, r.memory, wanted)


# ---- haste


def test_a_name_with_srv_records_can_be_hurried_too() -> None:
    r = Resolver({FIRST: zone(SERVICE, ttl=300)}, [Wanted(HOST, ("A",), srv=True)])
    r.settle()
    r.run(20)
    r.hurry()
    assert r.look_up(srv=True).asking


# ---- another network


def test_another_network_ends_the_back_off() -> None:
    r = Resolver({FIRST: NOBODY})
    r.run(3000)
    assert r.look_up().next_at - r.look_up().asked > 200
    r.network_changed()
    r.settle()
    assert r.look_up().next_at - r.look_up().asked < 6, "its failures were those of another network"


def test_what_was_asked_twice_and_lost_is_asked_at_once_in_another_network() -> None:
    r = Resolver({FIRST: DEAD})
    r.run(0.7)
    assert r.asked(FIRST) == 2
    r.servers[FIRST] = GOOD
    r.network_changed()
    assert r.settle() < 0.1
    assert r.look_up().status is Status.FRESH


def test_a_server_that_failed_counts_as_not_heard_in_another_network() -> None:
    answers = iter([Reply("SERVFAIL"), SILENT])

    def first(ask: Ask) -> Reply:
        return next(answers, None) or GOOD(ask)

    r = Resolver({FIRST: first, SECOND: DEAD})
    r.run(0.2)
    r.network_changed()  # its next answer is lost, the one after that is not
    assert r.settle() < 1.2
    assert r.look_up().status is Status.FRESH


@pytest.mark.parametrize("server", [NO_ROUTE, DEAD], ids=["no route", "dead"])
def test_a_flapping_network_is_asked_in_again_and_again(server: Server) -> None:
    r = Resolver({FIRST: server})
    for _ in range(1000):
        r.run(0.01)
        r.network_changed()
    assert len(r.asks) >= 10 / 0.5 - 2


# ---- what is asked of whom


def test_a_question_is_asked_eight_times_at_most_however_many_servers_there_are() -> None:
    r = Resolver({Nameserver(f"192.0.2.{n}"): NOBODY for n in range(1, 13)})
    r.settle()
    assert len(r.asks) == ASKS_MAX == 8


def test_impatient_settings_hedge_sooner() -> None:
    r = Resolver({FIRST: DEAD, SECOND: GOOD}, dns=Dns(timeout=0.6))
    assert r.settle() == pytest.approx(0.21)


def test_a_server_is_not_blamed_for_a_question_that_is_young() -> None:
    slow = Reply("SERVFAIL", delay=0.8)
    r = Resolver({FIRST: always(slow), SECOND: zone(ONE, delay=0.6), THIRD: DEAD})
    r.run(0.85)  # the first has failed, and the third is asked; the second was asked 0.35 s ago
    assert [ask.server for _, ask in r.asks] == [FIRST, SECOND, THIRD]
    assert SECOND not in r.memory.health
    r.settle()
    assert r.look_up().server == "192.0.2.2"


def test_queries_that_the_port_forgot_are_given_up_one_by_one() -> None:
    class Lost(Reply):
        def event(self, ask: Ask) -> tuple[float, Event]:
            return NEVER, Woke()

    r = Resolver({FIRST: always(Lost())})
    r.run(1.0)
    r.want(Wanted(HOST), Wanted("late.example"))
    r.run(2.1)
    assert not r.look_up().asking, "sent at 0 and 0.5 s, each given up 2.5 s later"
    assert r.look_up("late.example").asking


def test_an_answer_truncated_over_tcp_too_ends_it() -> None:
    r = Resolver({FIRST: always(Reply(truncated=True))})
    r.settle()
    assert [ask.tcp for _, ask in r.asks] == [False, True]
    assert r.look_up().status is Status.EMPTY


def test_a_silence_in_the_middle_of_a_service_record_ends_too() -> None:
    r = Resolver({FIRST: DEAD}, [Wanted(HOST, ("A",), srv=True)], dns=Dns(timeout=60.0))
    r.settle()
    assert r.look_up(srv=True).status is Status.SILENT
    assert r.codes() == ["name.silent"]


# ---- whom to believe


def test_service_records_that_make_no_sense_take_none_away() -> None:
    whole = zone(SERVICE)
    r = Resolver({FIRST: whole, SECOND: whole}, [Wanted(HOST, ("A",), srv=True)])
    r.settle()
    r.servers[FIRST] = zone({**SERVICE, **ONE, f"_wireguard._udp.{HOST} SRV": ["x"]})
    r.next_round(srv=True)
    assert [str(end) for end in r.look_up(srv=True).endpoints] == ["192.0.2.20:4500"]


@pytest.mark.parametrize("rcode", ["NXDOMAIN", "SERVFAIL"])
def test_an_error_about_one_type_beside_an_address_of_the_other_is_no_answer(rcode: str) -> None:
    """Broken load balancers say it of every type but A (RFC 4074 4.2)."""
    r = Resolver({FIRST: GOOD}, [DUAL])
    r.settle()
    r.servers = {
        FIRST: lambda ask: Reply(rcode) if ask.type == "AAAA" else GOOD(ask),
        SECOND: zone(BOTH),
    }
    r.use(FIRST, SECOND)
    r.next_round()
    assert r.look_up().addresses == ("192.0.2.10", "2001:db8::10")


def test_that_a_type_is_gone_needs_a_second_opinion() -> None:
    both = zone(BOTH)
    r = Resolver({FIRST: both, SECOND: both}, [DUAL])
    r.settle()
    r.servers[FIRST] = zone({f"{HOST} AAAA": ["2001:db8::10"]})
    r.next_round()
    assert r.look_up().addresses == ("192.0.2.10", "2001:db8::10")
    assert r.look_up().former == ()


def test_a_lie_after_an_honest_answer_is_said_again() -> None:
    lying = zone({f"{HOST} A": ["127.0.0.1"]})
    r = Resolver({FIRST: lying})
    for server in (lying, GOOD, lying):
        r.servers[FIRST] = server
        r.next_round()
    assert r.codes().count("name.lie") == 2


def test_two_opinions_are_enough_to_give_up_a_service_record() -> None:
    whole = zone({**SERVICE, **ONE})
    r = Resolver(dict.fromkeys((FIRST, SECOND, THIRD), whole), [Wanted(HOST, ("A",), srv=True)])
    r.settle()
    r.servers |= {FIRST: GOOD, SECOND: GOOD}
    r.next_round(srv=True)
    assert (r.look_up(srv=True).endpoints, r.look_up(srv=True).addresses) == ((), ("192.0.2.10",))
    assert r.asked(THIRD) == 0


# ---- when


def test_a_new_server_is_asked_at_once_in_the_middle_of_a_round() -> None:
    r = Resolver({FIRST: DEAD})
    r.run(0.2)
    r.servers[SECOND] = GOOD
    r.use(FIRST, SECOND)
    assert r.settle() < 0.1
    assert r.look_up().server == "192.0.2.2"


def test_another_network_asks_again_only_what_is_not_answered() -> None:
    r = Resolver({FIRST: lambda ask: SILENT if ask.type == "AAAA" else GOOD(ask)}, [DUAL])
    r.run(0.2)
    r.network_changed()
    assert [ask.type for _, ask in r.asks] == ["A", "AAAA", "AAAA"]


def test_so_many_questions_at_once_and_no_more() -> None:
    wanted = [Wanted(f"p{n}.example.net") for n in range(100)]
    slow = Reply(delay=0.2)
    r = Resolver(
        {FIRST: lambda ask: replace(slow, records=(Record(ask.name, "A", 60, "192.0.2.10"),))}, wanted
    )
    most = 0
    for _ in range(20):
        r.run(0.05)
        tasks = [task for entry in r.memory.entries.values() for task in entry.tasks if not task.done]
        most = max(most, len(tasks))
    assert most == TASKS_MAX


def test_an_address_told_before_the_other_type_wakes_nobody_again() -> None:
    r = Resolver({FIRST: lambda ask: SILENT if ask.type == "AAAA" else GOOD(ask)}, [DUAL])
    r.run(0.061)
    assert r.look_up().addresses == ("192.0.2.10",)
    assert names.wake_at(r.memory, r.context) == pytest.approx(1000.5), "when the next server is due"


def test_a_success_while_the_network_changes_lasts_as_long_as_any() -> None:
    r = Resolver({FIRST: zone(ONE, delay=0.3)})
    r.run(0.1)
    r.network_changed()
    r.settle()
    assert r.look_up().next_at >= r.now + 59


def test_servers_that_vanish_are_missed_when_a_name_is_due() -> None:
    r = Resolver({FIRST: GOOD})
    r.settle()
    r.use()
    r.step()
    due = r.look_up().next_at
    r.run(due - r.now + 4.9)
    assert r.said[1:] == []
    r.run(0.2)
    assert r.codes()[1:] == ["name.no-server"]


def test_the_shorter_of_two_negative_answers_counts() -> None:
    r = Resolver({FIRST: lambda ask: Reply(negative_ttl=30 if ask.type == "A" else 120)}, [DUAL])
    r.settle()
    assert r.next_round() == pytest.approx(30.0, abs=0.02)


def test_a_former_address_that_is_back_is_not_former() -> None:
    r = Resolver({FIRST: GOOD}, [DUAL])
    r.settle()
    for records, former in (({f"{HOST} AAAA": ["2001:db8::10"]}, ("192.0.2.10",)), (BOTH, ())):
        r.servers[FIRST] = zone(records)
        r.next_round()
        assert r.look_up().former == former
    assert r.look_up().addresses == ("192.0.2.10", "2001:db8::10")


LYING = zone({f"{HOST} A": ["127.0.0.1"]})
SERVFAIL = always(Reply("SERVFAIL"))


@pytest.mark.parametrize(
    ("servers", "status"),
    [
        ((zone({}), LYING), Status.MISSING),
        ((LYING, SERVFAIL), Status.LIE),
        ((SERVFAIL, NOBODY), Status.REFUSED),
    ],
)
@pytest.mark.parametrize("turn", [1, -1])
def test_of_several_answers_the_one_that_says_most_counts(
    servers: tuple[Server, ...], status: Status, turn: int
) -> None:
    r = Resolver(dict(zip((FIRST, SECOND), servers[::turn], strict=True)))
    r.settle()
    assert r.look_up().status is status


def test_the_ttl_of_a_service_is_that_of_its_addresses_and_the_next_look_up_minds_both() -> None:
    srv, rest = zone(SERVICE, ttl=20), zone(SERVICE, ttl=300)
    r = Resolver({FIRST: lambda ask: (srv if ask.type == "SRV" else rest)(ask)}, [Wanted(HOST, srv=True)])
    r.settle()
    assert r.look_up(srv=True).ttl == 300.0
    assert 20 <= r.look_up(srv=True).next_at - 1000.0 < 21.1


def test_two_names_without_a_server_are_counted() -> None:
    r = Resolver({}, [Wanted("a.example"), Wanted("b.example")])
    r.run(6)
    assert r.texts() == ["a.example: no DNS server is known to ask for a.example and 1 more"]
