"""Dual-WAN behaviour in simulated time: what must happen, how fast, how often, and what must never happen."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.model.dualwan import TUNNEL, Isp, Router
from wgrouter.core import links, plan, ranges, routing, uplink
from wgrouter.core.findings import Why
from wgrouter.core.messages import AddRoute, AddRule, DeleteRoute, DeleteRule, Effect, Observed, Probe, Unsent
from wgrouter.core.model import RT_TABLE_MAIN, Hop, Route, Rule
from wgrouter.core.probes import SENT_ONLY
from wgrouter.core.settings import Hold, Probing, Settings, Tunnel, Wan
from wgrouter.core.settings import Routing as RoutingSettings

A, B = "eth1", "eth2"


def two(families: tuple[int, ...] = (4,), **more: object) -> tuple[Router, Isp, Isp]:
    a, b = Isp(A, families, 10), Isp(B, families, 20)
    return Router([a, b], **more), a, b  # type: ignore[arg-type]


def set_to(isp: Isp, **values: object) -> Callable[[], None]:
    def act() -> None:
        for name, value in values.items():
            setattr(isp, name, value)

    return act


# ---------------------------------------------------------------- the promises of the issue


def test_a_start_interrupts_nothing_and_proves_at_once() -> None:
    router, _, _ = two()
    router.run(0.1)
    assert (router.state(A), router.state(B), router.chosen()) == ("up", "up", A)
    assert router.exit() == A


def test_carrier_loss_is_left_with_the_look_that_shows_it() -> None:
    router, a, _ = two()
    router.run(10.0)
    router.at(0.0, set_to(a, carrier=False))
    router.run(0.011)
    assert router.exit() == B and router.chosen() == B


def cut_times(families: tuple[int, ...], runs: int = 60) -> list[float]:
    times = []
    for run in range(runs):
        router, a, _ = two(families, seed=f"run{run}")
        router.run(10.0 + run / runs)
        cut = router.now
        router.quietly(0.0, set_to(a, hole=True))
        router.run(5.0)
        assert all(router.chosen(family) == B for family in families)
        times.append(max(router.said(Why.UPLINK_FAILOVER, cut), key=lambda item: item[0])[0] - cut)
    return times


def test_a_silent_black_hole_is_left_in_about_a_second() -> None:
    """At one probe a second. 0.2 s late and 0.3 s burst come on top of the wait for the next probe."""
    times = cut_times((4,))
    assert statistics.median(times) < 1.1 and max(times) < 1.6, (statistics.median(times), max(times))


def test_with_both_families_a_black_hole_is_left_sooner() -> None:
    times = cut_times((4, 6))
    assert statistics.median(times) < 0.85 and max(times) < 1.1, (statistics.median(times), max(times))


def test_one_slow_answer_does_not_lengthen_the_next_outage() -> None:
    """The first one after a cable was plugged in waits for the neighbour to be found."""
    router, a, _ = two((4, 6))
    router.run(10.0)
    router.at(0.0, set_to(a, carrier=False, rtt=0.4))
    router.at(1.0, set_to(a, carrier=True))
    router.quietly(1.5, set_to(a, rtt=0.015))
    router.run(15.0)
    assert router.chosen() == A and max(s.rtt or 0 for s in router.links.watches[A, 4].samples) == 0.4
    cut = router.now
    router.quietly(0.0, set_to(a, hole=True))
    router.run(3.0)
    assert max(when for when, _ in router.said(Why.UPLINK_FAILOVER, cut)) - cut < 1.1


@pytest.mark.parametrize("families", [(4,), (4, 6)])
def test_the_steady_rate_is_one_probe_a_second_per_family(families: tuple[int, ...]) -> None:
    router, _, _ = two(families)
    router.run(10.0)
    start = router.now
    router.run(100.0)
    assert router.probes(start, A) == 100 * len(families)


def test_failback_waits_for_a_quiet_hold_and_forgets_no_flow() -> None:
    router, a, _ = two()
    router.run(10.0)
    router.at(0.0, set_to(a, carrier=False))
    router.run(5.0)
    router.at(0.0, set_to(a, carrier=True))
    back = router.now
    router.run(4.5)
    assert router.chosen() == B and router.state(A) == "held"
    router.run(2.0)
    assert router.chosen() == A
    assert router.said(Why.UPLINK_FAILBACK, back) and not router.forgotten(back)


def test_flows_of_the_failed_wan_are_forgotten_after_the_kernel_shows_the_new_route() -> None:
    router, a, _ = two()
    router.run(10.0)
    start = router.now
    router.at(0.0, set_to(a, carrier=False))
    router.run(1.0)
    route = next(w for w, e in router.effects if w >= start and isinstance(e, AddRoute))
    [(when, address)] = router.forgotten(start)
    assert when > route and address == a.address(4)


def test_failback_all_forgets_the_flows_of_the_backup() -> None:
    wanted = Settings(routing=RoutingSettings(failback="all"))
    router, a, b = two(settings=wanted)
    router.run(10.0)
    router.at(0.0, set_to(a, hole=True))
    router.run(10.0)
    router.at(0.0, set_to(a, hole=False))
    back = router.now
    router.run(10.0)
    assert router.chosen() == A and [address for _, address in router.forgotten(back)] == [b.address(4)]


def test_failback_never_stays_until_the_backup_fails() -> None:
    router, a, b = two(settings=Settings(routing=RoutingSettings(failback="never")))
    router.run(10.0)
    router.at(0.0, set_to(a, carrier=False))
    router.at(5.0, set_to(a, carrier=True))
    router.run(60.0)
    assert router.chosen() == B
    router.at(0.0, set_to(b, carrier=False))
    router.run(1.0)
    assert router.chosen() == A


def test_one_dead_target_of_three_is_no_event() -> None:
    router, a, _ = two()
    router.run(10.0)
    router.quietly(0.0, set_to(a, dead_targets=frozenset({"8.8.8.8"})))
    start = router.now
    router.run(300.0)
    assert router.chosen() == A and router.uplink.switches == 0
    assert not router.said(Why.WAN_DOWN) and not router.said(Why.WAN_DEGRADED)
    assert len(router.said(Why.WAN_TARGET_DEAD)) == 1
    assert router.probes(start, A) < 330, (
        "a dead target may cost a few bursts, not one for each of its probes"
    )


def test_all_targets_dead_everywhere_keeps_the_best_carrier() -> None:
    router, a, b = two()
    router.run(10.0)
    router.quietly(0.0, set_to(a, hole=True))
    router.quietly(0.0, set_to(b, hole=True))
    router.run(120.0)
    assert router.exit() != "" and router.uplink.switches <= 1
    assert len(router.said(Why.UPLINK_LAST_RESORT)) == 1
    router.quietly(0.0, set_to(b, hole=False))
    router.run(3.0)
    assert router.chosen() == B, "what answers is used at once when nothing better is there"


def test_never_answered_since_the_start_is_no_reason_to_blackhole() -> None:
    """A provider that filters ICMP."""
    router, a, b = two()
    a.hole = b.hole = True
    router.run(60.0)
    assert router.exit() == A and router.uplink.switches == 0
    assert not links.hopeless(links.view(router.links))


@pytest.mark.parametrize("seed", [f"s{n}" for n in range(8)])
def test_thirty_percent_loss_leaves_a_link(seed: str) -> None:
    router, a, _ = two(seed=seed)
    router.run(10.0)
    router.quietly(0.0, set_to(a, loss=0.3))
    router.run(120.0)
    assert any(finding.arguments["chosen"] == B for _, finding in router.said(Why.UPLINK_FAILOVER))


@pytest.mark.parametrize("seed", [f"s{n}" for n in range(4)])
def test_five_percent_loss_does_not(seed: str) -> None:
    router, a, _ = two(seed=seed)
    router.run(10.0)
    router.quietly(0.0, set_to(a, loss=0.05))
    router.run(1800.0)
    assert router.uplink.switches == 0 and router.chosen() == A


@pytest.mark.parametrize("seed", [f"s{n}" for n in range(4)])
def test_a_link_that_loses_much_for_an_hour_is_not_tried_all_the_time(seed: str) -> None:
    router, a, _ = two(seed=seed)
    router.run(10.0)
    router.quietly(0.0, set_to(a, loss=0.3))
    router.run(3600.0)
    assert router.uplink.switches <= 60, router.uplink.switches


FLAP_SWITCHES = 2  # away with the first cut, back once it is quiet


@pytest.mark.parametrize("fault", ["carrier", "hole"])
@pytest.mark.parametrize("up", [1.0, 2.0, 3.0, 4.0])
def test_a_link_that_flaps_every_3_s_for_a_minute_switches_twice(fault: str, up: float) -> None:
    router, a, _ = two()
    router.run(10.0)
    for n in range(10):
        bad, good = {"carrier": (False, True), "hole": (True, False)}[fault]
        router.at(n * 6.0, set_to(a, **{fault: bad}))
        router.at(n * 6.0 + 6.0 - up, set_to(a, **{fault: good}))
    router.run(60.0)
    assert router.uplink.switches <= 1 and router.chosen() == B
    router.run(300.0)
    assert router.uplink.switches <= FLAP_SWITCHES and router.chosen() == A


@pytest.mark.parametrize("period", [5.0, 7.0, 12.0, 20.0])
def test_slower_flapping_lengthens_the_hold(period: float) -> None:
    """For twenty minutes: without penalty each period would be a switch."""
    router, a, _ = two()
    router.run(10.0)
    for n in range(int(1200.0 / period)):
        router.at(n * period, set_to(a, carrier=bool(n % 2)))
    router.run(1200.0)
    assert router.uplink.switches <= 24, router.uplink.switches


def test_the_healthy_wans_flows_are_untouched_by_the_others_death() -> None:
    router, _, b = two()
    router.run(10.0)
    start = router.now
    router.at(0.0, set_to(b, carrier=False))
    router.run(2.0)
    assert router.chosen() == A
    assert [address for _, address in router.forgotten(start)] == [b.address(4)]
    for effect in router.changes(start):
        if isinstance(effect, (AddRoute, DeleteRoute)):
            assert effect.route.table == ranges.table_of(router.settings.routing, 2)


@pytest.mark.parametrize("healed", [False, True])
def test_killed_between_any_two_effects_and_started_again_it_ends_the_same(healed: bool) -> None:
    """Of a failover, and of the failback: every one of their effects, the last steps of the move included."""

    class Killed(Exception):
        pass

    def ended(kill_after: int | None) -> tuple[object, int]:
        router, a, _ = two((4, 6))
        router.run(10.0)
        if healed:
            router.at(0.0, set_to(a, carrier=False))
            router.run(5.0)
            router.at(0.0, set_to(a, carrier=True))
        else:
            router.at(0.0, set_to(a, hole=True))
        original, count = router.carry_out, 0

        def carry_out(effect: Effect) -> None:
            nonlocal count
            if kill_after is not None and count == kill_after:
                count += 1
                raise Killed
            count += 1
            original(effect)

        router.carry_out = carry_out  # type: ignore[method-assign]
        try:
            router.run(14.0)
        except Killed:
            router.start()
            router.run(1.0)
            assert router.exit() == B or healed, "within a second"
            router.run(14.0)
        assert router.exit() == (A if healed else B)
        net = router.world().net
        assert net is not None
        return (sorted(map(repr, net.routes)), sorted(map(repr, net.rules)), router.wireguard), count

    whole, effects = ended(None)
    assert effects > 12
    for kill_after in range(effects):
        assert ended(kill_after)[0] == whole, f"killed after {kill_after} of {effects}"


def test_what_somebody_deletes_is_put_back_with_the_next_look() -> None:
    router, _, _ = two()
    router.run(10.0)
    before = router.world().net
    assert before is not None
    for rule in plan.our_rules(before, router.settings.routing):
        router.ours = replace(router.ours, rules=tuple(r for r in router.ours.rules if r != rule))
        router.look()
        router.run(0.1)
        after = router.world().net
        assert after is not None and set(after.rules) == set(before.rules)
    for route in plan.our_routes(before, router.settings.routing):
        router.ours = replace(router.ours, routes=tuple(r for r in router.ours.routes if r != route))
        router.look()
        router.run(0.1)
        after = router.world().net
        assert after is not None and set(after.routes) == set(before.routes)


def test_a_clean_stop_leaves_netifds_routes_to_serve() -> None:
    router, a, _ = two((4, 6))
    router.run(10.0)
    router.at(0.0, set_to(a, hole=True))
    router.run(3.0)
    for effect in plan.clean(router.world(), router.settings):
        router.carry_out(effect)
        router.check_reachable(effect)
    net = router.world().net
    assert net is not None
    assert not plan.our_rules(net, router.settings.routing) and not plan.our_routes(
        net, router.settings.routing
    )
    assert all(device.fwmark == 0 for device in router.wireguard.values())
    assert router.exit() == A


# ---------------------------------------------------------------- where packets go


def test_a_full_tunnel_keeps_lan_traffic_while_outer_packets_follow_the_failover() -> None:
    router, a, _ = two()
    full = Route(4, RT_TABLE_MAIN, "0.0.0.0/0", (Hop("", "wg0"),), metric=5, protocol=3)
    router.net_extra = (*router.net_extra, full)
    tunnel = router.settings.tunnels[0].device
    original = router.world

    def world() -> object:
        seen = original()
        from wgrouter.core.model import Link

        assert seen.net is not None
        linked = replace(seen.net, links={**seen.net.links, "wg0": Link(99, "wg0", kind="wireguard")})
        return replace(seen, net=linked)

    router.world = world  # type: ignore[method-assign, assignment]
    router.run(10.0)
    mark = router.wireguard[tunnel].fwmark
    assert mark and router.exit() == "wg0" and router.exit(mark=mark) == A
    for hole, wait, outer in ((True, 3.0, B), (False, 8.0, A)):
        router.quietly(0.0, set_to(a, hole=hole))
        for _ in range(int(wait * 20)):
            router.run(0.05)
            assert router.exit() == "wg0"
        assert router.exit(mark=mark) == outer


def test_netifds_frozen_host_route_does_not_hold_the_tunnel() -> None:
    router, a, _ = two()
    frozen = Route(4, RT_TABLE_MAIN, "198.51.100.1/32", (Hop(a.gateway(4), A),), protocol=3)
    router.net_extra = (*router.net_extra, frozen)
    router.run(10.0)
    router.at(0.0, set_to(a, hole=True))
    router.run(3.0)
    mark = router.wireguard["wg0"].fwmark
    assert router.exit(mark=mark, target="198.51.100.1") == B
    assert router.exit(target="198.51.100.1") == A, "what is not the tunnel's is main's to route"


def test_an_answer_leaves_by_the_wan_that_was_asked_and_never_by_a_dead_one() -> None:
    router, a, b = two()
    router.run(10.0)
    mark = router.wireguard["wg0"].fwmark
    assert router.exit(mark=mark, source=b.address(4)) == B and router.exit(source=b.address(4)) == B
    assert router.exit(mark=mark, source=a.address(4)) == A
    router.at(0.0, set_to(a, hole=True))
    router.run(5.0)
    assert router.exit(mark=mark, source=a.address(4)) == B, (
        "WireGuard's cached source must not keep it there"
    )
    assert router.exit(source=a.address(4)) == B


def test_a_hairpin_answer_from_a_wan_address_reaches_the_lan() -> None:
    router, a, _ = two()
    router.run(10.0)
    assert router.exit(source=a.address(4), target="192.168.1.100") == "br-lan"


def test_a_strict_mark_never_leaks_over_another_wan() -> None:
    router, a, _ = two()
    router.run(10.0)
    mark = ranges.strict_mark(router.settings.routing, 1)
    assert router.exit(mark=mark) == A
    router.at(0.0, set_to(a, plugged=False))
    router.run(1.0)
    assert router.exit(mark=mark) == "unreachable"


def test_a_flow_mark_of_a_dead_wan_follows_the_active_one() -> None:
    router, a, _ = two()
    router.run(10.0)
    mark = ranges.flow_mark(router.settings.routing, 1)
    assert router.exit(mark=mark) == A
    router.at(0.0, set_to(a, hole=True))
    router.run(3.0)
    assert router.exit(mark=mark) == B


def test_a_tunnel_with_wans_of_its_own_prefers_them_and_comes_back() -> None:
    wanted = Settings(tunnels=(Tunnel("wg0", wans=(B, A)), Tunnel("wg1")))
    router, _, b = two(settings=wanted)
    router.run(10.0)
    mine, other = (router.wireguard[name].fwmark for name in ("wg0", "wg1"))
    assert (router.exit(mark=mine), router.exit(mark=other)) == (B, A)
    assert uplink.course_of(router.uplink, "wg0", 4) == B
    first = uplink.generation(router.uplink, "wg0", 4)
    router.at(0.0, set_to(b, hole=True))
    router.run(3.0)
    assert router.exit(mark=mine) == A and uplink.generation(router.uplink, "wg0", 4) == first + 1
    router.at(0.0, set_to(b, hole=False))
    router.run(10.0)
    assert router.exit(mark=mine) == B and uplink.generation(router.uplink, "wg0", 4) == first + 2
    assert uplink.generation(router.uplink, "wg1", 4) == 0, "a tunnel whose path did not change is left alone"


def test_a_configured_mark_is_adopted() -> None:
    router, a, _ = two(settings=Settings(tunnels=(Tunnel("wg0", fwmark=0x51),)))
    router.wireguard["wg0"] = replace(router.wireguard["wg0"], fwmark=0x51)
    router.run(10.0)
    assert router.wireguard["wg0"].fwmark == 0x51
    router.at(0.0, set_to(a, hole=True))
    router.run(3.0)
    assert router.exit(mark=0x51, source=a.address(4)) == B and router.exit(mark=0x51) == B


def test_with_one_wan_only_outer_packets_are_steered() -> None:
    router = Router([Isp(A)])
    router.run(10.0)
    net = router.world().net
    assert net is not None
    assert all(rule.mark for rule in plan.our_rules(net, router.settings.routing))
    assert router.exit() == A == router.exit(mark=router.wireguard["wg0"].fwmark)


def test_beside_mwan3_nothing_is_routed_and_nothing_touched() -> None:
    router, a, _ = two()
    foreign = Rule(4, 2001, 1, mark=0x100, mask=0x3F00)
    router.ours = replace(router.ours, rules=(*router.ours.rules, foreign))
    router.run(10.0)
    router.at(0.0, set_to(a, hole=True))
    router.run(3.0)
    assert router.changes() == []
    assert [f.why for f in routing.neighbours(router.world())] == [Why.ROUTING_YIELDED]
    router.ours = replace(router.ours, rules=tuple(r for r in router.ours.rules if r != foreign))
    router.look()
    router.run(0.1)
    assert router.exit() == B, "mwan3 went: routing is ours"


def test_pbr_keeps_what_it_marked() -> None:
    router, _, _ = two()
    foreign = Rule(4, 29999, 777, mark=0x20000, mask=0xFF0000)
    table = Route(4, 777, "0.0.0.0/0", (Hop("10.20.0.1", B),), protocol=4)
    router.ours = replace(router.ours, rules=(*router.ours.rules, foreign))
    router.net_extra = (*router.net_extra, table)
    router.run(10.0)
    assert router.exit(mark=0x20000) == B and router.exit() == A
    assert [f.why for f in routing.neighbours(router.world())] == [Why.NEIGHBOUR_SEEN]


def test_chosen_by_hand_for_a_while() -> None:
    router, _, b = two()
    router.run(10.0)
    router.command(wan=B, seconds="60")
    router.run(1.0)
    assert router.exit() == B
    router.run(60.0)
    assert router.exit() == A
    router.command(wan=B)
    router.run(600.0)
    assert router.exit() == B
    router.at(0.0, set_to(b, hole=True))
    router.run(3.0)
    assert router.exit() == A, "by hand too, nothing is blackholed"
    router.at(0.0, set_to(b, hole=False))
    router.run(10.0)
    assert router.exit() == B
    router.command(wan="auto")
    router.run(1.0)
    assert router.exit() == A
    router.command(wan="nosuch")
    assert router.said(Why.UPLINK_UNKNOWN)


def test_a_wan_that_appears_while_running_is_used_after_its_hold() -> None:
    a, b = Isp(A, metric=10, plugged=False), Isp(B, metric=20)
    router = Router([a, b])
    router.run(10.0)
    assert router.exit() == B
    router.at(0.0, set_to(a, plugged=True))
    router.run(3.0)
    assert router.exit() == B and router.state(A) == "held"
    router.run(5.0)
    assert router.exit() == A


def test_a_wan_that_is_unplugged_and_comes_back_keeps_its_number_and_its_history() -> None:
    router, a, _ = two()
    router.run(10.0)
    index = router.links.watches[(A, 4)].path.index
    for n in range(6):
        router.at(n * 4.0, set_to(a, plugged=bool(n % 2)))
    router.run(25.0)
    assert router.links.watches[(A, 4)].path.index == index
    assert router.uplink.switches == 1 and router.said(Why.WAN_FLAPPING)


def test_the_lowest_latency_wins_among_equals_by_the_margin_only() -> None:
    equal = Settings(wans=(Wan("a", device=A), Wan("b", device=B)))
    router, a, b = two(settings=equal)
    a.rtt, b.rtt = 0.030, 0.025
    router.run(120.0)
    assert router.chosen() == "a", "5 ms are within the margin"
    b.rtt = 0.012
    router.run(120.0)
    assert router.chosen() == "b" and router.uplink.switches == 1
    a.rtt = 0.010
    router.run(120.0)
    assert router.uplink.switches == 1


METERED = Settings(wans=(Wan("a", device=A, metered=True), Wan("b", device=B, priority=20)))


def test_metered_links_are_probed_seldom() -> None:
    router, _, _ = two(settings=METERED)
    router.run(10.0)
    start = router.now
    router.run(100.0)
    assert router.probes(start, A) == 10 and router.probes(start, B) == 100


def test_metered_links_that_receive_are_probed_hardly_ever() -> None:
    router, a, _ = two(settings=METERED)
    a.busy = True
    router.run(10.0)
    start = router.now
    router.run(600.0)
    assert 9 <= router.probes(start, A) <= 11


def test_a_metered_link_in_use_is_left_nearly_as_fast_as_any() -> None:
    """Its counters are read each second: it sends and receives nothing, so a burst is worth its price."""
    router, a, _ = two(settings=METERED)
    a.busy = True
    router.run(30.3)
    cut = router.now
    router.quietly(0.0, set_to(a, hole=True))
    router.run(10.0)
    [(when, _)] = router.said(Why.UPLINK_FAILOVER)
    assert when - cut < 1.6


def test_one_way_traffic_on_a_metered_link_costs_one_burst_per_interval_at_most() -> None:
    router, a, _ = two(settings=METERED)
    router.run(10.0)
    a.busy = True
    original = router.answer

    def answer(probe: Probe) -> None:
        if probe.method == "counters" and probe.device == A:
            router.push(0.0, Unsent(probe.id, SENT_ONLY))
        else:
            original(probe)

    router.answer = answer  # type: ignore[method-assign]
    start = router.now
    router.run(100.0)
    assert router.probes(start, A) <= 32 and router.chosen() == "a"


# ---------------------------------------------------------------- random topologies, random faults

FAULTS = st.sampled_from(
    ["carrier", "hole", "loss", "plugged", "rtt", "rule", "route", "kill", "crash", "look", "switch"]
)
SCRIPT = st.lists(st.tuples(st.floats(0.0, 20.0), FAULTS, st.integers(0, 3), st.booleans()), max_size=25)
TOPOLOGY = st.lists(st.sampled_from([(4,), (6,), (4, 6)]), min_size=1, max_size=4)


def play(
    families: list[tuple[int, ...]], script: list[tuple[float, str, int, bool]], wanted: Settings
) -> Router:
    isps = [Isp(f"eth{n}", which, 10 * (n + 1)) for n, which in enumerate(families)]
    router = Router(isps, settings=wanted)
    router.run(1.0)
    for wait, fault, number, flag in script:
        isp = isps[number % len(isps)]
        if fault in ("carrier", "plugged"):
            router.at(0.0, set_to(isp, **{fault: flag}))
        elif fault == "hole":
            router.quietly(0.0, set_to(isp, hole=flag))
        elif fault == "loss":
            router.quietly(0.0, set_to(isp, loss=0.4 if flag else 0.0))
        elif fault == "rtt":
            router.quietly(0.0, set_to(isp, rtt=0.4 if flag else 0.015))
        elif fault == "rule" and router.ours.rules[6:]:
            victim = router.ours.rules[4 + number % (len(router.ours.rules) - 4)]
            router.at(0.0, lambda victim=victim: _drop_rule(router, victim))  # type: ignore[misc]
        elif fault == "route" and router.ours.routes:
            keep = router.ours.routes[1:]
            router.at(0.0, lambda keep=keep: _keep_routes(router, keep))  # type: ignore[misc]
        elif fault == "kill":
            router.start()
        elif fault == "crash":
            router.fuse = number  # of the effects that come next
        elif fault == "look":
            router.look()
        elif fault == "switch":
            router.command(wan=isp.name if flag else "auto", seconds="15")
        router.run(wait)
    return router


def _drop_rule(router: Router, victim: Rule) -> None:
    router.ours = replace(router.ours, rules=tuple(rule for rule in router.ours.rules if rule != victim))


def _keep_routes(router: Router, keep: tuple[Route, ...]) -> None:
    router.ours = replace(router.ours, routes=keep)


@given(TOPOLOGY, SCRIPT, st.booleans())
def test_whatever_happens_there_is_a_way_while_any_wan_has_one(
    families: list[tuple[int, ...]], script: list[tuple[float, str, int, bool]], balance: bool
) -> None:
    """Reachability, ownership and wake_at are asserted by the simulation after every single effect and
    step.
    """
    wanted = Settings(tunnels=(TUNNEL,), routing=RoutingSettings(balance=balance))
    router = play(families, script, wanted)
    router.look()
    router.run(3.0)
    # Converged: another look at the same world plans nothing.
    router.seen = router.world()
    uplinks = links.view(router.links)
    intent = routing.intent(
        router.seen, uplinks, uplink.chosen(router.uplink), wanted, uplink.resting(router.uplink)
    )
    assert plan.plan(intent, router.seen, wanted) == ()
    # And nothing of ours is left after a clean stop.
    for effect in plan.clean(router.seen, wanted):
        router.carry_out(effect)
        router.check_reachable(effect)
    net = router.world().net
    assert (
        net is not None
        and not plan.our_rules(net, wanted.routing)
        and not plan.our_routes(net, wanted.routing)
    )


@given(TOPOLOGY, SCRIPT)
def test_adds_come_before_deletes_and_only_ours_are_touched(
    families: list[tuple[int, ...]], script: list[tuple[float, str, int, bool]]
) -> None:
    wanted = Settings(tunnels=(TUNNEL,))
    router = play(families, script, wanted)
    by_step: dict[float, list[Effect]] = {}
    for when, effect in router.effects:
        by_step.setdefault(when, []).append(effect)
        if isinstance(effect, (AddRoute, DeleteRoute)):
            assert ranges.is_our_route(wanted.routing, effect.route)
        elif isinstance(effect, (AddRule, DeleteRule)):
            assert ranges.is_our_rule(wanted.routing, effect.rule)
    for effects in by_step.values():
        kinds = [
            "close" if isinstance(e, AddRule) and e.rule.action == "blackhole" else type(e).__name__
            for e in effects
            if isinstance(e, (AddRoute, AddRule, DeleteRule, DeleteRoute))
        ]
        order = ["close", "AddRoute", "AddRule", "DeleteRule", "DeleteRoute"]
        assert kinds == sorted(kinds, key=order.index)


@given(TOPOLOGY, SCRIPT)
def test_the_same_events_give_the_same_decisions(
    families: list[tuple[int, ...]], script: list[tuple[float, str, int, bool]]
) -> None:
    wanted = Settings(tunnels=(TUNNEL,))
    first, second = play(families, script, wanted), play(families, script, wanted)
    assert first.effects == second.effects and first.findings == second.findings


@given(st.lists(st.floats(0.05, 30.0), min_size=5, max_size=60), st.sampled_from(["carrier", "hole"]))
def test_one_flapping_link_beside_a_steady_one_switches_as_often_as_its_hold_allows(
    times: list[float], fault: str
) -> None:
    """Each way back to it costs a hold of at least up_after, so n switches take n/2 holds."""
    router, a, _ = two()
    router.run(10.0)
    for n, wait in enumerate(times):
        router.at(0.0, set_to(a, **{fault: bool(n % 2) if fault == "carrier" else not n % 2}))
        router.run(wait)
    hold = router.settings.hold.up_after
    assert router.uplink.switches <= 1 + 2 * sum(times) / hold
    backs = [when for when, _ in router.said(Why.UPLINK_FAILBACK)]
    aways = [when for when, _ in router.said(Why.UPLINK_FAILOVER)]
    for away, back in zip(aways, backs, strict=False):
        assert back - away >= hold


def test_nothing_is_planned_before_the_first_look() -> None:
    router = Router([Isp(A)])
    router.run(0.001)
    assert router.effects == []


def test_probes_carry_even_ids_and_the_mark_and_device_of_their_wan() -> None:
    router, _, _ = two((4, 6))
    router.run(20.0)
    for _, effect in router.effects:
        if isinstance(effect, Probe):
            assert effect.id % 2 == 0
            index = 1 if effect.device == A else 2
            assert effect.mark == ranges.strict_mark(router.settings.routing, index)


def test_no_hold_and_no_half_life_do_not_break_the_arithmetic() -> None:
    wanted = Settings(
        hold=Hold(up_after=0.0, up_max=0.0, penalty_half_life=0.0), probing=Probing(burst_count=0)
    )
    router, a, _ = two(settings=wanted)
    for n in range(20):
        router.at(n * 2.0, set_to(a, hole=not n % 2))
    router.run(60.0)
    assert router.exit() == A


def test_an_observation_without_a_network_part_changes_nothing() -> None:
    router, _, _ = two()
    router.run(10.0)
    before = router.links.watches[(A, 4)].path
    router.step(Observed(wireguard={}))
    assert router.links.watches[(A, 4)].path == before
