"""The engine step by step: what it takes in, what it looks at, and when it wakes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wgrouter.core import engine as module
from wgrouter.core.engine import HINTED, NET_LOOK, RECENT, Engine
from wgrouter.core.findings import Why
from wgrouter.core.messages import (
    Answered,
    Ask,
    Commanded,
    Configured,
    Failed,
    Hinted,
    Look,
    Observed,
    Record,
    SetEndpoint,
    Step,
    Stopping,
    Unsent,
    Woke,
)
from wgrouter.core.model import (
    EVERYTHING,
    INTERFACES,
    NAMESERVERS,
    NET,
    NEVER,
    NFT,
    RT_TABLE_MAIN,
    Address,
    DeviceSeen,
    Endpoint,
    Hop,
    Interface,
    Link,
    Nameserver,
    Net,
    PeerSeen,
    Route,
    Rule,
)
from wgrouter.core.names import Wanted
from wgrouter.core.settings import Dns, HostPort, Peer, Settings, Tunnel, Wan
from wgrouter.core.uplink import Course

NAMED = Peer("wg0", "k", "office", (HostPort("a.example"), HostPort("192.0.2.1"), HostPort("b.example")))
SETTINGS = Settings(tunnels=(Tunnel("wg0", peers=(NAMED,)),))
SEEN = Net(
    {"eth1": Link(2, "eth1"), "wg0": Link(3, "wg0", kind="wireguard")},
    (Address("eth1", "10.0.0.2/24"),),
    (Route(4, RT_TABLE_MAIN, "0.0.0.0/0", (Hop("10.0.0.1", "eth1"),)),),
)
DEVICES = {"wg0": DeviceSeen("wg0", peers={"k": PeerSeen("k", Endpoint("192.0.2.1", 51820), (1, 0))})}
SERVERS = (Nameserver("192.0.2.53"),)
AGAIN = SetEndpoint("wg0", "k", Endpoint("192.0.2.1", 51820))
OTHERS = (Why.NEIGHBOUR_SEEN, Why.ROUTING_YIELDED)
WHOLE = Observed(SEEN, DEVICES, SERVERS, None, True, "")


def looks(step: Step) -> list[tuple[str, ...]]:
    return [effect.parts for effect in step.effects if isinstance(effect, Look)]


def whys(step: Step) -> list[Why]:
    return [finding.why for finding in step.findings]


def asked(step: Step) -> set[tuple[str, str]]:
    return {(effect.name, effect.type) for effect in step.effects if isinstance(effect, Ask)}


@pytest.fixture
def engine() -> Engine:
    made = Engine()
    made.handle(Configured(SETTINGS, "seed"), 100.0)
    return made


def test_before_settings_nothing_is_heard() -> None:
    engine = Engine()
    before = engine.state
    assert engine.handle(WHOLE, 1.0) == Step() and engine.handle(Stopping(), 2.0) == Step()
    assert engine.state is before


def test_settings_are_told_and_everything_is_looked_at() -> None:
    step = Engine().handle(Configured(SETTINGS, "seed"), 100.0)
    assert looks(step)[0] == (*EVERYTHING, NFT)
    assert [str(finding) for finding in step.findings] == [
        "settings in force: 1 tunnels, 1 peers, discovered WANs"
    ]
    two = replace(SETTINGS, wans=(Wan("wan"), Wan("wanb")))
    told = Engine().handle(Configured(two, "seed"), 100.0).findings[0].text
    assert told == "settings in force: 1 tunnels, 1 peers, 2 WANs"


def test_the_seed_stays_where_a_reload_has_none(engine: Engine) -> None:
    engine.handle(Configured(SETTINGS), 101.0)
    assert engine.state.seed == "seed"
    engine.handle(Configured(SETTINGS, "other"), 102.0)
    assert engine.state.seed == "other"


def test_a_part_that_was_not_looked_at_keeps_its_last_value(engine: Engine) -> None:
    interfaces = {"wan": Interface("wan", "eth1", True)}
    engine.handle(replace(WHOLE, interfaces=interfaces, nft="digest"), 101.0)
    before = engine.state.world
    engine.handle(Observed(), 102.0)
    assert engine.state.world == before
    assert before.net is SEEN and before.wireguard is DEVICES and before.nameservers == SERVERS
    assert before.interfaces == interfaces and before.nft == "digest"
    for part, value in (
        ("net", replace(SEEN, rules=())),
        ("wireguard", {}),
        ("nameservers", ()),
        ("interfaces", {}),
        ("nft", ""),
    ):
        engine.handle(Observed(**{part: value}), 103.0)
        assert getattr(engine.state.world, part) == value, part


def test_the_clock_is_told_when_it_changes(engine: Engine) -> None:
    wrong, right = Observed(clock_trusted=False), Observed(clock_trusted=True)
    told = [whys(engine.handle(event, 101.0)) for event in (right, wrong, wrong, right)]
    assert told == [[], [Why.CLOCK_WRONG], [], [Why.CLOCK_RIGHT]]


@pytest.mark.parametrize("source", ["rtnetlink", "nftables", "ubus", "hotplug", "signal"])
def test_a_hint_is_a_look(engine: Engine, source: str) -> None:
    expected = {"rtnetlink": (NET, NAMESERVERS), "nftables": (NFT,)}.get(source, EVERYTHING)
    engine.handle(WHOLE, 100.5)
    assert looks(engine.handle(Hinted(source), 101.0))[0] == expected
    assert set(HINTED) == {"rtnetlink", "nftables"}


def test_the_network_is_looked_at_now_and_then_though_no_hint_comes(engine: Engine) -> None:
    parts = (NET, NAMESERVERS, INTERFACES, NFT)
    assert parts not in looks(engine.handle(Woke(), 100.0 + NET_LOOK - 0.1))
    assert parts in looks(engine.handle(Woke(), 100.0 + NET_LOOK))
    assert parts not in looks(engine.handle(Woke(), 100.1 + NET_LOOK))
    assert engine.state.net_look_at == 100.0 + 2 * NET_LOOK
    assert engine.handle(Woke(), 100.2 + NET_LOOK).wake_at <= 100.0 + 2 * NET_LOOK


def test_a_command_is_told_and_looks(engine: Engine) -> None:
    step = engine.handle(Commanded("refresh", {}, "ubus"), 101.0)
    assert whys(step) == [Why.COMMANDED] and step.findings[0].text == "refresh asked by ubus"
    assert looks(step)[0] == EVERYTHING and not asked(step)


def test_names_are_asked_for_as_soon_as_there_is_a_server(engine: Engine) -> None:
    step = engine.handle(WHOLE, 101.0)
    assert asked(step) == {(name, kind) for name in ("a.example", "b.example") for kind in ("A", "AAAA")}
    assert {effect.server.device for effect in step.effects if isinstance(effect, Ask)} == {"eth1"}


def test_reresolve_asks_for_every_name() -> None:
    fresh = Engine()
    fresh.handle(Configured(SETTINGS, "seed"), 100.0)
    fresh.handle(WHOLE, 101.0)
    for _ in range(40):  # nobody answers: the round of both names ends
        wake = fresh.handle(Woke(), fresh.state.net_look_at).wake_at
        assert wake < NEVER
    entries = fresh.state.names.entries
    idle = {key: entry.name for key, entry in entries.items()}
    assert all(not name.asking for name in idle.values())
    at = max(name.asked for name in idle.values()) + 2.5
    assert {name for name, _ in asked(fresh.handle(Commanded("reresolve"), at + 0.1))} == {
        "a.example",
        "b.example",
    }


@pytest.mark.parametrize(
    ("family", "types"),
    [
        ("auto", ("AAAA", "A")),
        ("prefer_ipv4", ("AAAA", "A")),
        ("prefer_ipv6", ("AAAA", "A")),
        ("ipv4", ("A",)),
        ("ipv6", ("AAAA",)),
    ],
)
def test_which_names_are_wanted(family: str, types: tuple[str, ...]) -> None:
    for srv in (False, True):
        peer = replace(NAMED, family=family, srv=srv)
        assert module.wanted_names((peer,)) == (
            Wanted("a.example", types, srv),
            Wanted("b.example", types, srv),
        )


def test_what_was_said_lately_is_kept_up_to_a_bound(engine: Engine) -> None:
    for number in range(RECENT + 10):
        engine.handle(Commanded(f"verb{number}"), 101.0 + number / 1000)
    recent = engine.state.recent
    assert len(recent) == RECENT and recent[-1].finding.text == f"verb{RECENT + 9} asked by cli"
    assert recent[-1].at == 101.0 + (RECENT + 9) / 1000


def test_a_failure_with_another_reason_is_told_again(engine: Engine) -> None:
    effect = SetEndpoint("wg0", "k", Endpoint("192.0.2.1", 1))
    told = [whys(engine.handle(Failed(effect, reason), 101.0)) for reason in ("one", "one", "other", "one")]
    assert told == [[Why.EFFECT_FAILED], [], [Why.EFFECT_FAILED], [Why.EFFECT_FAILED]]
    other = Failed(Look(EVERYTHING), "one")
    assert whys(engine.handle(other, 102.0)) == [Why.EFFECT_FAILED], "each kind by itself"


def test_wake_at_is_the_first_moment_ahead(engine: Engine) -> None:
    now = 101.0
    wake = engine.handle(WHOLE, now).wake_at
    for _ in range(300):
        assert now < wake < now + NET_LOOK + 0.001
        now, wake = wake, engine.handle(Woke(), wake).wake_at


def test_a_stop_is_the_last_word(engine: Engine) -> None:
    engine.handle(WHOLE, 101.0)
    assert whys(engine.handle(Stopping(), 102.0)) == [Why.AGENT_STOPPED]
    assert engine.state.stopped
    assert engine.handle(WHOLE, 103.0) == Step() and engine.handle(Configured(SETTINGS), 104.0) == Step()


def test_another_network_is_one_whose_exits_or_addresses_differ(engine: Engine) -> None:
    engine.handle(WHOLE, 101.0)
    first = engine.state.signature
    assert first == ("4 eth1 10.0.0.1", "eth1 10.0.0.2/24")
    engine.handle(Observed(wireguard=DEVICES), 102.0)
    assert engine.state.signature == first
    engine.handle(Observed(net=replace(SEEN, routes=())), 103.0)
    assert engine.state.signature == () and engine.state.exits == ()
    changed = engine.state.names.changed
    engine.handle(Observed(net=SEEN), 110.0)
    assert engine.state.signature == first and engine.state.names.changed == 110.0 > changed


def test_a_state_can_be_gone_on_from(engine: Engine) -> None:
    engine.handle(WHOLE, 101.0)
    other = Engine(engine.state)
    assert other.state is engine.state
    assert other.handle(Woke(), 102.0) == engine.handle(Woke(), 102.0)


def test_a_step_that_changes_nothing_looks_at_nothing(engine: Engine) -> None:
    engine.handle(WHOLE, 101.0)
    assert looks(engine.handle(Unsent(9999, "no such probe"), 101.001)) == []


def test_other_dns_servers_are_asked_from_the_reload_on(engine: Engine) -> None:
    engine.handle(WHOLE, 101.0)
    step = engine.handle(Configured(replace(SETTINGS, dns=Dns(servers=("192.0.2.99",)))), 102.0)
    assert {effect.server.address for effect in step.effects if isinstance(effect, Ask)} == {"192.0.2.99"}


def answered(engine: Engine, now: float, *addresses: str) -> Step:
    """The first question that is under way for A of a.example, answered with these; the step of it."""
    flights = engine.state.names.flights
    tasks = engine.state.names.entries["a.example"].tasks
    [id_] = [id_ for task in tasks if task.type == "A" for id_ in task.out if id_ in flights]
    records = tuple(Record("a.example", "A", 300, address) for address in addresses)
    return engine.handle(Answered(id_, "NOERROR", records=records), now)


def test_what_the_names_say_is_said_and_remembered(engine: Engine) -> None:
    engine.handle(WHOLE, 101.0)
    answered(engine, 101.01, "198.51.100.7")
    said = engine.handle(Woke(), 101.07)  # a moment later than found, for the other type's
    assert [str(finding) for finding in said.findings if finding.subject == "a.example"] == [
        "a.example: a.example is 198.51.100.7 (TTL 300 s, by 192.0.2.53 on eth1)"
    ]
    assert Why.NAME_RESOLVED in [told.finding.why for told in engine.state.recent]
    view = module.outlook_of(engine.state, 101.07)
    assert view.resolved(HostPort("a.example", 7)) == (Endpoint("198.51.100.7", 7),)
    assert view.resolved(HostPort("b.example", 7)) == view.resolved(HostPort("unknown.example", 7)) == ()
    assert not view.settled("a.example", 100.0), "AAAA is still asked for"
    assert view.settled("unknown.example", 100.0), "what is not looked up is waited for in vain"
    assert (view.trouble("a.example"), view.trouble("unknown.example")) == ("", "")


def test_what_is_wrong_with_a_name(engine: Engine) -> None:
    engine.handle(WHOLE, 101.0)
    for _ in range(40):
        engine.handle(Woke(), engine.state.net_look_at)
    view = module.outlook_of(engine.state, engine.state.net_look_at)
    assert view.trouble("a.example").startswith("no DNS server answers: 192.0.2.53 on eth1")
    assert view.settled("a.example", 101.0)


def test_only_reresolve_asks_for_names_that_are_fresh() -> None:
    engine = Engine()
    peer = replace(NAMED, family="ipv4")
    engine.handle(Configured(Settings(tunnels=(Tunnel("wg0", peers=(peer,)),)), "seed"), 100.0)
    engine.handle(WHOLE, 101.0)
    answered(engine, 101.01, "198.51.100.7")

    def last_asked() -> float:
        return engine.state.names.entries["a.example"].name.asked

    for verb, at, asked_at in (("refresh", 160.0, 101.0), ("reresolve", 170.0, 170.0)):
        engine.handle(Commanded(verb), at)
        assert last_asked() == asked_at


@pytest.mark.parametrize("family", [4, 6])
def test_a_tunnel_whose_outer_packets_go_another_way_gets_its_endpoint_again_once(
    engine: Engine, family: int
) -> None:
    """That clears the source address that WireGuard has kept (sticky), of the WAN that is left."""
    engine.handle(WHOLE, 101.0)
    engine.handle(Observed(wireguard=DEVICES), 101.5)
    courses = {("wg0", family): Course("wan", ("eth2", "10.2.0.1"), generation=1)}
    engine.state = replace(engine.state, uplink=replace(engine.state.uplink, courses=courses))
    given = [
        [effect for effect in engine.handle(Observed(wireguard=DEVICES), now).effects if effect == AGAIN]
        for now in (102.0, 103.0, 104.0)
    ]
    assert given == [[AGAIN], [], []]


def test_others_who_steer_traffic_are_told_of_once(engine: Engine) -> None:
    pbr = Rule(4, 29999, 256, mark=0x10000, mask=0xFF0000)
    there, gone = Observed(net=replace(SEEN, rules=(pbr,))), Observed(net=SEEN)
    told = [
        [finding.subject for finding in engine.handle(event, 101.0 + n).findings if finding.why in OTHERS]
        for n, event in enumerate((there, there, gone, there))
    ]
    assert told == [["pbr"], [], [], ["pbr"]]
