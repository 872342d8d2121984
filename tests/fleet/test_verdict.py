"""What a router's state is called, and why: each way to go missing told apart, from real payloads."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fleet import world
from tests.fleet.world import CALM, CUT, SILENT, Simulated
from wgrouter.fleet import table, verdict
from wgrouter.fleet.model import TIMELINE_MAX, Fleet, Router
from wgrouter.fleet.verdict import Verdict
from wgrouter.mqtt.topics import Publication

T = 1_763_708_400.0


class Told:
    """A fleet of ten in a ring, heard of at T; `now` is ours."""

    def __init__(self, count: int = 10, live: bool = False) -> None:
        self.fleet = Fleet("wgrouter")
        self.now = T
        self.fleet.connected(self.now, False)
        self.routers = world.fleet(count, wall=T)
        for one in self.routers:
            self.hear(one.everything(), retained=not live)

    def hear(self, found: Iterable[Publication], retained: bool = False) -> None:
        for one in found:
            self.fleet.hear(one.topic, one.payload, retained, self.now)

    def json(self, router: Simulated, rest: str, retained: bool = False, **changed: object) -> None:
        """One of its payloads, changed in some fields."""
        found = next(one for one in router.everything() if one.topic == f"{router.topics.base}/{rest}")
        payload = json.dumps({**json.loads(found.payload), **changed}).encode()
        self.fleet.hear(found.topic, payload, retained, self.now)

    def go(self, number: int) -> None:
        self.hear([world.offline(self.routers[number])])

    def say(self, number: int, what: str) -> None:
        """The events on the way to a scene, and the state there."""
        one = self.routers[number]
        one.wall = self.now
        self.hear(one.events(what))
        self.hear(one.everything(what))

    def router(self, number: int) -> Router:
        return self.fleet.routers[self.routers[number].id]

    def verdict(self, number: int) -> Verdict:
        return verdict.judge(self.fleet, self.router(number), self.now, verdict.departed(self.fleet))

    def witness_loses(self, number: int, *others: int) -> None:
        """The neighbours' tunnels to a router are dead."""
        for other in others:
            one = self.routers[other]
            self.json(one, f"tunnel/wg0/{world.name(number)}", state="dead")

    def timeline(self, number: int) -> list[str]:
        return [entry.type for entry in self.router(number).timeline]


def test_all_is_well() -> None:
    told = Told()
    assert {told.verdict(n).status for n in range(10)} == {"online"}
    assert told.verdict(3).because == ""


# ---- gone ------------------------------------------------------------------------------------------------


def test_a_site_whose_tunnels_live_has_only_lost_its_way_to_the_broker() -> None:
    told = Told()
    told.go(3)
    told.now += 600
    for other in (2, 4):
        told.hear([told.routers[other].beat()])
    found = told.verdict(3)
    assert found.status == "broker path lost"
    assert found.because == "r0002 (and 1 more) has a live tunnel to it; for 10m"
    assert found.evidence == (
        "r0002 (wg0/r0003) has a live tunnel to it",
        "r0004 (wg0/r0003) has a live tunnel to it",
    )


def test_just_after_the_loss_a_live_tunnel_is_no_proof_yet() -> None:
    told = Told()
    told.go(3)
    assert "so far" in told.verdict(3).because
    told.now += verdict.CERTAIN + 1
    assert "so far" not in told.verdict(3).because


def test_a_site_that_nobody_reaches_is_lost() -> None:
    told = Told()
    told.go(3)
    told.witness_loses(3, 2, 4)
    found = told.verdict(3)
    assert found.status == "site lost"
    assert found.because == "r0002 (and 1 more) gets no answer from it either; for 0s"


def test_one_live_tunnel_outweighs_a_dead_one() -> None:
    told = Told()
    told.go(3)
    told.witness_loses(3, 2)
    assert told.verdict(3).status == "broker path lost"


def test_a_router_that_does_not_know_its_key_is_known_by_its_name() -> None:
    told = Told()
    one = told.routers[3]
    birth = json.loads(next(p.payload for p in one.everything() if p.topic == one.topics.birth))
    for interfaces in ({"wg0": {"fingerprint": None, "peers": []}}, {}):
        told.json(one, "birth", tunnels=interfaces)
        assert [other.id for other, _ in told.fleet.seen_by(told.router(3))] == ["r0002", "r0004"]
    # One that does know it is not taken for another of the same name.
    told.json(one, "birth", tunnels={"wg0": {**birth["tunnels"]["wg0"], "fingerprint": "00000000"}})
    assert list(told.fleet.seen_by(told.router(3))) == []


def test_a_witness_that_is_gone_itself_is_none() -> None:
    told = Told()
    for number in (2, 3, 4):
        told.go(number)
    found = told.verdict(3)
    assert found.status == "offline"
    assert "site or broker path is open" in found.because


def test_a_witness_that_is_silent_is_none() -> None:
    told = Told()
    told.go(3)
    told.now += 3600
    for number in (0, 1, 5, 6):
        told.hear([told.routers[number].beat()])
    assert told.verdict(2).status == "silent"
    assert told.verdict(3).status == "offline"


def test_many_that_go_at_once_point_to_the_broker() -> None:
    told = Told()
    for number in range(10):
        told.go(number)
        told.now += 1
    found = told.verdict(3)
    assert found.status == "offline"
    assert "with 9 others: look at the broker's side first" in found.because
    lines = table.banner(told.fleet, told.now, "b", table.rows(told.fleet, told.now), 10)
    assert "10 routers went offline within a minute" in lines[1][0][0]


def test_two_that_go_at_once_are_a_coincidence() -> None:
    told = Told()
    told.go(1)
    told.go(7)
    assert "others" not in told.verdict(1).because


def test_a_stopped_agent_says_good_bye() -> None:
    told = Told()
    event = json.loads(told.routers[3].events(CUT)[0].payload)
    stopped = {**event, "type": "agent.stopped", "subject": "", "before": None, "after": None}
    told.fleet.hear("wgrouter/r0003/event", json.dumps(stopped).encode(), False, told.now)
    told.go(3)
    assert told.verdict(3).status == "stopped"
    assert told.router(3).timeline[-1].text == "offline: it was stopped"


def test_gone_before_we_looked() -> None:
    told = Told()
    one = told.routers[3]
    told.fleet.hear(f"{one.topics.base}/availability", b"", True, told.now)
    told.now += 7200
    told.hear([world.offline(one)], retained=True)
    assert told.verdict(3).because.startswith("last heard of 2h ago")


# ---- back ------------------------------------------------------------------------------------------------


def test_back_in_the_same_life_it_had_run_on() -> None:
    told = Told()
    told.go(3)
    told.now += 600
    told.hear(told.routers[3].everything())
    assert told.router(3).timeline[-1].text.startswith("back after 10m offline, in the same life")
    assert "was offline for 10m until 0s ago" in told.verdict(3).because
    told.now += verdict.RECENT
    told.hear([told.routers[3].beat()])
    assert told.verdict(3).because == ""


@pytest.mark.parametrize(
    ("boot", "kind", "says"),
    [
        ("00000123.00001e8480", "watch.restarted", "the agent was started anew after 30s offline"),
        ("0000abcd.00000f4240", "watch.rebooted", "the router was rebooted after 30s offline"),
    ],
)
def test_back_in_another_life(boot: str, kind: str, says: str) -> None:
    told = Told()
    assert told.router(3).boot.startswith("00000123.")
    told.go(3)
    told.now += 30
    told.hear([Publication("wgrouter/r0003/availability", b"online")])
    told.json(told.routers[3], "birth", boot=boot)
    entry = told.router(3).timeline[-1]
    assert (entry.type, entry.text) == (kind, says)
    assert "started anew" in told.verdict(3).because


def test_a_restart_without_a_gap_is_seen_too() -> None:
    told = Told(live=True)
    told.routers[3].reboots = 1
    told.routers[3].start()
    told.hear(told.routers[3].everything())
    assert told.timeline(3) == ["watch.rebooted"]


# ---- silent, clock ---------------------------------------------------------------------------------------


def test_an_overdue_heartbeat_is_seen_although_the_broker_says_online() -> None:
    told = Told()
    told.now += 629
    assert told.verdict(3).status == "online"
    told.now += 2
    found = told.verdict(3)
    assert found.status == "silent"
    assert "last heard of 10m ago (heartbeat 5m)" in found.because
    told.hear([told.routers[3].beat()])
    assert told.verdict(3).status == "online"


def test_without_a_connection_of_our_own_nobody_is_called_silent() -> None:
    told = Told()
    told.fleet.disconnected(told.now, "closes the connection")
    told.now += 3600
    assert told.verdict(3).status == "online"
    banner = table.banner(told.fleet, told.now, "mqtt://b:1883", [], 10)
    assert banner[1][0] == (
        "NO CONNECTION TO THE BROKER for 1h: closes the connection. Below is what was last known.",
        "alarm",
    )


def test_a_clock_that_is_not_set_dates_nothing() -> None:
    told = Told(count=0)
    one = Simulated(3, 10, wall=5.0, trusted=False)
    told.hear(one.everything(), retained=True)
    told.routers = [one]
    found = told.verdict(0)
    assert found.status == "clock not set"
    assert told.router(0).said == 0.0
    told.now += 700  # nothing came meanwhile, and what was retained tells no time
    assert "not in the 11m of this watch" in told.verdict(0).because
    told.hear(one.events(CUT))
    entry = told.router(0).timeline[-1]
    assert not entry.exact
    assert entry.at == told.now


# ---- failed over -----------------------------------------------------------------------------------------


def test_a_failover_is_told_with_both_wans_and_the_cause() -> None:
    told = Told()
    told.say(3, CUT)
    found = told.verdict(3)
    assert found.status == "failed over"
    assert found.because == "wan: not usable over IPv4: no carrier on eth1"
    row = next(row for row in table.rows(told.fleet, told.now) if row.router.id == "r0003")
    assert row.wan == "lte ← wan"


def test_a_failover_before_we_looked_is_seen_in_the_states() -> None:
    told = Told()
    told.hear(told.routers[3].everything(CUT), retained=True)
    found = told.verdict(3)
    assert (found.status, found.because) == ("failed over", "wan: off, no carrier on eth1")


def test_after_the_failback_all_is_well() -> None:
    told = Told()
    told.say(3, CUT)
    for one in told.routers[3].events(CUT):
        event = json.loads(one.payload)
        if event["type"] == "uplink.failover":
            back = {**event, "type": "uplink.failback", "before": {"wan": "lte"}, "after": {"wan": "wan"}}
            told.fleet.hear(
                one.topic, json.dumps({**back, "seq": event["seq"] + 10}).encode(), False, told.now
            )
    told.hear(told.routers[3].everything(CALM))
    assert told.verdict(3).status == "online"


def test_the_spare_wan_that_is_down_is_another_matter() -> None:
    told = Told()
    state = json.loads(told.routers[3].beat().payload)
    for path in state["wans"]["lte"].values():
        path["state"] = "down"
    told.fleet.hear("wgrouter/r0003/state", json.dumps(state).encode(), False, told.now)
    found = told.verdict(3)
    assert (found.status, found.because) == ("WAN down", "lte: down")


def test_no_wan_at_all_and_one_chosen_by_hand() -> None:
    told = Told()
    told.json(told.routers[3], "state", active={"ipv4": None, "ipv6": None})
    assert told.verdict(3).status == "no uplink"
    told.json(told.routers[4], "state", active={"ipv4": "lte", "ipv6": "lte"}, manual="lte")
    assert (told.verdict(4).status, told.verdict(4).because) == ("online", "lte is chosen by hand")


def test_a_dead_peer_is_named_with_its_cause() -> None:
    told = Told()
    told.say(3, SILENT)
    found = told.verdict(3)
    assert found.status == "tunnel down"
    assert found.because.startswith("wg0/r0004: 198.51.100.1:51820 does not answer")


# ---- events ----------------------------------------------------------------------------------------------


def test_a_gap_in_the_numbers_is_told_and_taken_back() -> None:
    told = Told(live=True)
    events = told.routers[3].events(CUT)
    told.hear([events[0], events[3]])
    assert told.verdict(3).because == "2 events missing"
    assert told.timeline(3)[-2:] == ["watch.gap", "uplink.failover"]
    told.hear(events)
    assert told.router(3).missing == 0
    assert told.timeline(3).count("wan.down") == 2  # each once, although two came twice


def test_what_waited_when_a_retained_summary_was_made_is_no_gap() -> None:
    """It is published before the queue, which is told to those who are there then."""
    told = Told()
    one = told.routers[3]
    events = one.events(CUT)
    told.json(one, "state", retained=True, events={"seq": 3, "queued": 3, "dropped": 0})
    told.hear(events[3:])
    assert told.router(3).missing == 0
    assert "watch.gap" not in told.timeline(3)


def test_events_that_the_router_dropped_are_its_own_loss() -> None:
    told = Told(live=True)
    events = told.routers[3].events(CUT)
    told.hear(events[:1])
    gap = {**json.loads(events[2].payload), "type": "events.dropped", "after": None}
    gap["before"] = {"first": 2, "count": 2}
    told.fleet.hear("wgrouter/r0003/event", json.dumps(gap).encode(), False, told.now)
    assert told.router(3).missing == 0
    assert told.verdict(3).because == "2 events dropped by its full queue"


def test_events_that_the_summary_counts_and_nobody_heard_are_missing_after_a_moment() -> None:
    told = Told(live=True)
    told.routers[3].events(CUT)
    told.hear(told.routers[3].everything(CUT))
    assert told.router(3).missing == 0
    told.now += 11
    told.fleet.tick(told.now)
    assert told.router(3).missing == 4
    assert told.router(3).timeline[-1].text == "events 1 to 4 are missing: sent, and never heard here"


def test_while_we_were_away_no_gap_is_the_routers() -> None:
    told = Told(live=True)
    events = told.routers[3].events(CUT)
    told.hear(events[:1])
    told.fleet.disconnected(told.now, "gone")
    told.fleet.connected(told.now, False)
    told.hear(events[3:])
    assert told.router(3).missing == 0


def test_with_our_session_kept_a_gap_is_a_gap() -> None:
    told = Told(live=True)
    events = told.routers[3].events(CUT)
    told.hear(events[:1])
    told.fleet.disconnected(told.now, "gone")
    told.fleet.connected(told.now, True)
    told.hear(events[3:])
    assert told.router(3).missing == 2


def test_late_events_of_an_earlier_life_stay_with_it() -> None:
    told = Told(live=True)
    late = told.routers[3].events(CUT)
    told.routers[3].reboots = 1
    told.routers[3].start()
    told.hear(told.routers[3].everything())
    told.hear(late)
    assert told.router(3).boot == json.loads(told.routers[3].beat().payload)["boot"]
    assert told.router(3).missing == 0
    assert told.verdict(3).status == "online"


def test_a_time_line_is_bounded() -> None:
    told = Told(live=True)
    for _ in range(30):
        told.hear(told.routers[3].events(CUT))
    assert len(told.router(3).timeline) == TIMELINE_MAX


# ---- garbage ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topic", "payload", "says"),
    [
        ("state", b"{", "1 not understood (state: not JSON"),
        ("state", b"x" * (10 << 20), "1 not understood (state: 10485760 bytes; a message has at most 65536)"),
        ("birth", b'{"v":2}', "1 not understood (birth: schema 2; this program reads 1"),
        ("event", b"[]", "1 not understood (event: it is a list, not an object)"),
        ("availability", b"maybe", "1 not understood (availability: availability is 'maybe'"),
    ],
)
def test_garbage_is_counted_and_what_was_known_stays(topic: str, payload: bytes, says: str) -> None:
    told = Told()
    told.fleet.hear(f"wgrouter/r0003/{topic}", payload, False, told.now)
    found = told.verdict(3)
    assert found.status == "online"
    assert says in found.because


def test_garbage_about_a_tunnel_does_not_silence_the_witness() -> None:
    told = Told()
    for garbage in (b"{", b"x" * (10 << 20)):
        told.fleet.hear("wgrouter/r0002/tunnel/wg0/r0003", garbage, False, told.now)
    told.go(3)
    assert told.verdict(3).evidence[0] == "r0002 (wg0/r0003) has a live tunnel to it"


@pytest.mark.parametrize("name", ["", "a b", "\x1b[2J", "é", "x" * 65, "$SYS"])
def test_what_no_router_is_called_is_a_stray(name: str) -> None:
    told = Told(count=0)
    told.fleet.hear(f"wgrouter/{name}/availability", b"online", False, told.now)
    assert not told.fleet.routers
    assert told.fleet.strays == 1
    assert told.fleet.stray_why.isprintable()


def test_topics_of_others_are_none_of_ours() -> None:
    told = Told(count=0)
    for topic in ("wgrouter", "wgrouter/x", "wgrouter/x/cmd/refresh", "wgrouter/x/reply/1", "other/x/state"):
        told.fleet.hear(topic, b"{}", False, told.now)
    assert (told.fleet.routers, told.fleet.strays) == ({}, 0)


def test_a_router_whose_topics_are_taken_away_leaves_the_table() -> None:
    told = Told()
    for one in told.routers[3].everything():
        told.fleet.hear(one.topic, b"", False, told.now)
    assert "r0003" not in told.fleet.routers
    assert not any(other.id == "r0003" for other, _ in told.fleet.seen_by(told.router(2)))


PIECES = st.sampled_from(
    ["wgrouter", "r0001", "r0002", "state", "event", "birth", "wan", "tunnel", "wg0", "", "é", "+"]
)
REAL = [one for n in (1, 2) for what in (CALM, CUT, SILENT) for r in [Simulated(n, 4)]
        for one in r.everything(what) + r.events(what) + [world.offline(r)]]  # fmt: skip


@example(
    [
        (REAL[0].topic.rsplit("/", 1)[0] + "/availability", b"online"),
        ("connected", None),
        ("later", None),
        ("connected", None),
    ],
    False,
)
@settings(max_examples=150)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(REAL).map(lambda one: (one.topic, one.payload)),
            st.tuples(st.lists(PIECES, max_size=6).map("/".join), st.binary(max_size=40)),
            st.tuples(
                st.sampled_from(REAL).map(lambda one: one.topic),
                st.sampled_from(REAL).map(lambda one: one.payload),
            ),
            st.sampled_from(["connected", "disconnected", "later"]).map(lambda word: (word, None)),
        ),
        max_size=40,
    ),
    st.booleans(),
)
def test_whatever_comes_in_whatever_order_the_table_can_be_drawn(
    steps: list[tuple[str, bytes | None]], retained: bool
) -> None:
    fleet, now = Fleet("wgrouter"), T
    rows: list[table.Row] = []
    for topic, payload in steps:
        rows = table.judged(fleet, now, rows)
        if payload is not None:
            fleet.hear(topic, payload, retained, now)
        elif topic == "connected":
            fleet.connected(now, retained)
        elif topic == "disconnected":
            fleet.disconnected(now, "why")
        else:
            now += 1000.0
            fleet.tick(now)
    assert table.judged(fleet, now, rows) == table.judged(fleet, now)  # what is kept is what it would be
    found = table.rows(fleet, now)
    ranks = [row.verdict.rank for row in found]
    assert ranks == sorted(ranks)
    assert {row.router.id for row in found} == set(fleet.routers)
    keys = {(router.id, rest) for router in fleet.routers.values() for rest in router.peers}
    assert {pair for who in fleet._keys.values() for pair in who} == keys
    for row in found:
        json.dumps(table.data(row, now))
        lines = table.detail(fleet, row.router, now, str, 80)
        assert all(piece.isprintable() for line in lines for piece, _ in line)
