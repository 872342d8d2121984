"""The real agent and names that move, lie and fall silent."""

from collections.abc import Iterator

import pytest

from tests.lab import Lab, NotInTime, Site, build, now, single, stays, until, usual
from tests.lab.scenarios import (
    QUICK,
    TTL,
    Undisturbed,
    at,
    endpoint,
    live,
    names,
    peers,
    quick,
    settle,
)

pytestmark = pytest.mark.lab

FAR = (
    Site("site1", 1),
    Site("site2", 2, (6,)),
    Site("site3", 3, (4, 6)),
    Site("site4", 4),
    Site("site5", 5, (6,)),
)


@pytest.fixture(scope="module")
def shared() -> Iterator[Lab]:
    with build(single(FAR, ttl=TTL)) as lab:
        live(lab)
        yield lab


@pytest.fixture
def lab(shared: Lab) -> Iterator[Lab]:
    yield shared
    shared.heal()
    agent = shared.router.agent
    assert agent is not None
    home = {site.name: set(site.home_a) for site in FAR}
    until(
        lambda: {name: set(known["addresses"]) for name, known in names(agent).items()} == home,
        within=15,
        what="names as at first",
    )
    settle(agent, tuple(home), within=30)
    assert all(endpoint(shared, name) in [*map(at, home[name])] for name in home)


@pytest.mark.parametrize(("site", "records"), [("site1", "A"), ("site2", "AAAA"), ("site3", "both")])
def test_traffic_resumes_when_the_name_moves(lab: Lab, site: str, records: str) -> None:
    plan = lab.site(site).plan
    others = Undisturbed(lab, *(far.name for far in FAR if far.name != site))
    with lab.flow("router", site) as flow:
        until(flow.flowing, within=5, what="traffic")
        begin = now()
        lab.move_site(site, *plan.home_b)
        lab.move(site, *plan.home_b)
        # The break itself may be too short to be seen.
        until(lambda: endpoint(lab, site) in [*map(at, plan.home_b)], within=20, what="the new endpoint")
        until(flow.flowing, within=20, what="traffic again")
        assert flow.outage(since=begin) < TTL + usual(3)
    others.check()


@pytest.mark.parametrize("case", ["of one family", "of the other family"])
def test_the_second_address_is_found_where_the_first_is_dead(lab: Lab, case: str) -> None:
    site = "site1" if case == "of one family" else "site3"
    plan = lab.site(site).plan
    named = (*plan.home_b, *plan.home_c)
    # Knot sorts a name's addresses; of two families IPv6 is tried first (RFC 6724).
    dead, alive = named if site == "site1" else (plan.home_b[1], plan.home_b[0])
    others = Undisturbed(lab, "site2", "site4")
    with lab.flow("router", site) as flow:
        until(flow.flowing, within=5, what="traffic")
        begin = now()
        lab.move_site(site, alive)
        lab.move(site, dead, alive)
        until(lambda: not flow.flowing(), within=5, what="the break")
        until(flow.flowing, within=60, what="traffic again")
        # The peer's session goes on, so each address has to answer a probe or two and no handshake.
        assert flow.outage(since=begin) < TTL + usual(3 + 5)
    assert endpoint(lab, site) == at(alive)
    assert f"→ {at(dead)}" in lab.router.agent.output()  # type: ignore[union-attr]
    others.check()


def test_answers_that_turn_change_nothing(lab: Lab) -> None:
    """RFC 1794: a name with several addresses is answered in another order each time."""
    first, second = lab.site("site3").plan.home_a[0], lab.site("site3").plan.home_b[0]
    before = endpoint(lab, "site3")
    agent = lab.router.agent
    assert agent is not None
    for order in ((second, first), (first, second)):
        lab.move("site3", *lab.site("site3").plan.home_a, *order)
        until(lambda: len(names(agent)["site3"]["addresses"]) == 3, within=10, what="the new answer")
        stays(lambda: endpoint(lab, "site3") == before, during=TTL)


def _lies(lab: Lab) -> dict[str, str]:
    """Every wrong answer there is, each for a name of its own: site → the status it should get."""
    lab.nxdomain("site1")
    lab.lie("site2", "::1")
    lab.servfail("site3")
    lab.lie("site4", "127.0.0.1")
    return {"site1": "missing", "site2": "lie", "site3": "refused", "site4": "lie"}


def _silence(lab: Lab) -> dict[str, str]:
    lab.stop_dns()
    return dict.fromkeys((site.name for site in FAR), "silent")


def _refusal(lab: Lab) -> dict[str, str]:
    lab.stop_dns(refuse=True)
    return dict.fromkeys((site.name for site in FAR), "silent")


def _slowness(lab: Lab) -> dict[str, str]:
    lab.slow_dns(4)
    return dict.fromkeys((site.name for site in FAR), "silent")


@pytest.mark.parametrize("fault", [_lies, _silence, _refusal, _slowness])
def test_a_failed_look_up_never_touches_a_working_endpoint(lab: Lab, fault) -> None:  # type: ignore[no-untyped-def]
    agent = lab.router.agent
    assert agent is not None
    everybody = Undisturbed(lab, *(site.name for site in FAR))
    before = {site.name: names(agent)[site.name]["addresses"] for site in FAR}
    expected = fault(lab)
    until(
        lambda: expected.items() <= {name: known["status"] for name, known in names(agent).items()}.items(),
        within=30,
        what="the agent to see what is wrong",
    )
    with pytest.raises(NotInTime):  # it stays as it is
        until(lambda: any(peer["state"] != "alive" for peer in peers(agent).values()), within=2)
    assert {name: known["addresses"] for name, known in names(agent).items()} == before
    everybody.check()


def test_a_name_that_moves_while_dns_is_slow_is_followed(lab: Lab) -> None:
    """Slower than a query is hedged after, quicker than its time-out."""
    plan = lab.site("site1").plan
    lab.slow_dns(0.8)
    with lab.flow("router", "site1") as flow:
        until(flow.flowing, within=5, what="traffic")
        begin = now()
        lab.move_site("site1", *plan.home_b)
        lab.move("site1", *plan.home_b)
        until(lambda: not flow.flowing(), within=5, what="the break")
        until(flow.flowing, within=20, what="traffic again")
        assert flow.outage(since=begin) < TTL + usual(3 + 0.8)


def test_a_move_during_an_outage_of_dns_is_followed_when_it_ends(lab: Lab) -> None:
    plan = lab.site("site1").plan
    agent = lab.router.agent
    assert agent is not None
    with lab.flow("router", "site1") as flow:
        until(flow.flowing, within=5, what="traffic")
        lab.stop_dns()
        lab.move_site("site1", *plan.home_b)
        lab.move("site1", *plan.home_b)
        until(lambda: peers(agent)["site1"]["state"] == "dead", within=20, what="death to be seen")
        assert endpoint(lab, "site1") == at(plan.home_a[0])
        begin = now()
        lab.start_dns()
        until(flow.flowing, within=20, what="traffic again")
        assert now() - begin < usual(10)


def test_a_service_record_gives_host_and_port() -> None:
    far = Site("site1", 1, more_ports=(51821,))
    settings = quick("site1") + "\toption srv '1'\n"
    records = (("_wireguard._udp.site1", "SRV", "0 0 51820 site1"),)
    with build(single((far,), ttl=TTL, records=records)) as lab:
        live(lab, settings)
        with lab.flow("router", "site1") as flow:
            until(flow.flowing, within=5, what="traffic")
            begin = now()
            lab.drop_port("site1", 51820)
            lab.publish("_wireguard._udp.site1", "SRV", "0 0 51821 site1")
            until(lambda: endpoint(lab, "site1") == at(far.home_a[0], 51821), within=20, what="the new port")
            until(flow.flowing, within=20, what="traffic again")
            assert flow.outage(since=begin) < TTL + usual(3)


def test_fifty_names_cost_seconds_though_a_server_is_dead() -> None:
    """Resolved side by side: the dead server costs its silence once, not once for each name."""
    far = tuple(Site(f"site{n}", n, alive=n <= 3) for n in range(1, 51))
    servers = "\tlist server '192.0.2.53'\n\tlist server '1.1.1.1'\n"
    settings = QUICK.replace("config dns 'dns'\n", "config dns 'dns'\n" + servers)
    with build(single(far, ttl=60)) as lab:
        lab.stop_dns("a")
        agent = lab.router.start_agent(settings)
        begin = now()
        until(
            lambda: sum(bool(known["addresses"]) for known in names(agent).values()) == 50,
            within=20,
            what="fifty names resolved",
        )
        assert now() - begin < usual(8)  # with the start of the agent
        settle(agent, ("site1", "site2", "site3"))
        assert {name: known["addresses"] for name, known in names(agent).items()} == {
            site.name: list(site.home_a) for site in far
        }
