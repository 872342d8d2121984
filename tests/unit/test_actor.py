"""The hands: order, failures, and what must not be done after a failure."""

import errno
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wgrouter.core.messages import (
    AddRoute,
    AddRule,
    ApplyNft,
    DeleteRoute,
    DeleteRule,
    Effect,
    Event,
    Failed,
    ForgetFlows,
    Look,
    Provoke,
    Renew,
    SetEndpoint,
)
from wgrouter.core.model import EVERYTHING, NET, WIREGUARD, Endpoint, Hop, Route, Rule
from wgrouter.shell.actor import SKIPPED, Actor, errno_of, reason_of


class Loop:
    def __init__(self) -> None:
        self.time = 0.0
        self.posted: list[Event] = []
        self.calls: list[tuple[float, Callable[[], None]]] = []

    def call_at(self, when: float, callback: Callable[[], None]) -> None:
        self.calls.append((when, callback))

    def now(self) -> float:
        return self.time

    def post(self, event: Event) -> None:
        self.posted.append(event)


KINDS = (AddRoute, AddRule, ApplyNft, DeleteRoute, DeleteRule, ForgetFlows, Look, Provoke, Renew, SetEndpoint)


class World:
    """Carries out everything but what is told to fail."""

    def __init__(self, *failing: Effect, error: Exception | None = None, takes: float = 0.0) -> None:
        self.loop = Loop()
        self.done: list[Effect] = []
        self.failing = failing
        self.error = error or OSError(errno.ENODEV, "No such device")
        self.takes = takes
        self.slow: list[tuple[Effect, float]] = []
        self.actor = Actor(
            self.loop, dict.fromkeys(KINDS, self.do), on_slow=lambda *call: self.slow.append(call)
        )

    def do(self, effect: Effect) -> None:
        self.loop.time += self.takes
        if effect in self.failing:
            raise self.error
        self.done.append(effect)

    @property
    def failed(self) -> list[Effect]:
        return [event.effect for event in self.loop.posted if isinstance(event, Failed)]

    @property
    def skipped(self) -> list[Effect]:
        return [
            event.effect for event in self.loop.posted if isinstance(event, Failed) and event.errno == SKIPPED
        ]


def route(table: int, gateway: str = "192.0.2.1", family: int = 4) -> Route:
    return Route(family, table, "0.0.0.0/0" if family == 4 else "::/0", (Hop(gateway, "eth0"),))


A, B = route(7401), route(7402, "198.51.100.1")
RULE_A, RULE_B = Rule(4, 6100, 7401, mark=1, mask=0xFF), Rule(4, 6100, 7402, mark=1, mask=0xFF)
FROM_A = Rule(4, 6200, 7401, src="192.0.2.9/32")
ENDPOINT = SetEndpoint("wg0", "key", Endpoint("203.0.113.5", 51820))


def test_effects_are_carried_out_in_their_order() -> None:
    effects = (AddRoute(A), AddRule(RULE_A), DeleteRule(RULE_B), DeleteRoute(B), ForgetFlows(), ENDPOINT)
    world = World()
    world.actor.perform(effects)
    assert tuple(world.done) == effects
    assert world.loop.posted == []
    assert world.actor.performed == 6


def test_looks_of_all_steps_of_a_turn_are_one_in_the_next() -> None:
    """One for each step would show less than was done by the time it is handled."""
    world = World()
    world.actor.perform((Look((WIREGUARD,)), ENDPOINT, Look((NET, WIREGUARD)), Renew("wan")))
    world.actor.perform((Look((NET,)), AddRoute(A)))
    assert world.done == [ENDPOINT, Renew("wan"), AddRoute(A)]
    ((when, look),) = world.loop.calls
    assert when == world.loop.now()
    look()
    assert world.done[3:] == [Look((NET, WIREGUARD))]
    world.actor.perform((Look((WIREGUARD,)),))
    assert len(world.loop.calls) == 2
    world.loop.calls[1][1]()
    assert world.done[4:] == [Look((WIREGUARD,))]


def test_parts_of_looks_come_in_one_order() -> None:
    world = World()
    world.actor.perform(Look((part,)) for part in reversed(EVERYTHING))
    world.loop.calls[0][1]()
    assert world.done == [Look(EVERYTHING)]


def test_a_look_that_fails_is_told() -> None:
    world = World(Look((NET,)))
    world.actor.perform((Look((NET,)),))
    world.loop.calls[0][1]()
    assert world.failed == [Look((NET,))]


def test_a_failure_is_told_with_the_kernels_words() -> None:
    world = World(ENDPOINT)
    world.actor.perform((ENDPOINT, Renew("wan")))
    assert world.loop.posted == [Failed(ENDPOINT, "No such device", errno.ENODEV)]
    assert world.done == [Renew("wan")]


@pytest.mark.parametrize(
    ("error", "reason", "number"),
    [
        (TimeoutError(), "no answer in time", 0),
        (TimeoutError("ubus: no reply"), "ubus: no reply", 0),
        (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), "Connection timed out", errno.ETIMEDOUT),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "nft"),
            "No such file or directory (nft)",
            2,
        ),
        (OSError("as it is"), "as it is", 0),
        (OSError(), "OSError", 0),
    ],
)
def test_every_error_has_a_reason(error: OSError, reason: str, number: int) -> None:
    assert (reason_of(error), errno_of(error)) == (reason, number)


def test_an_error_of_netlink_has_its_number_in_code() -> None:
    class NetlinkError(Exception):
        code = errno.EEXIST

    assert (reason_of(NetlinkError()), errno_of(NetlinkError())) == ("File exists", errno.EEXIST)


def test_an_error_that_is_ours_passes_through() -> None:
    world = World(ENDPOINT, error=ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        world.actor.perform((ENDPOINT,))
    assert world.loop.posted == []


def test_an_effect_that_nobody_carries_out_is_our_error() -> None:
    with pytest.raises(TypeError, match="nothing carries out Renew"):
        Actor(Loop(), {}).perform((Renew("wan"),))


def test_further_errors_of_the_world_can_be_named() -> None:
    loop = Loop()

    def fail(effect: Effect) -> None:
        raise LookupError("as a library says it")

    Actor(loop, {Renew: fail}, errors=(OSError, LookupError)).perform((Renew("wan"),))
    assert loop.posted == [Failed(Renew("wan"), "as a library says it")]


# ---- what depends on what ------------------------------------------------------------------------------


def test_no_route_is_taken_away_whose_replacement_failed() -> None:
    world = World(AddRoute(A))
    world.actor.perform((AddRoute(A), DeleteRoute(route(7401, "10.0.0.1"))))
    assert world.done == []
    assert world.skipped == [DeleteRoute(route(7401, "10.0.0.1"))]


def test_no_rule_leads_to_a_table_whose_route_failed_and_the_old_rule_stays() -> None:
    world = World(AddRoute(B))
    world.actor.perform((AddRoute(B), AddRule(RULE_B), DeleteRule(RULE_A)))
    assert world.skipped == [AddRule(RULE_B), DeleteRule(RULE_A)]


def test_a_rule_that_leads_where_nothing_is_any_more_is_withdrawn_all_the_same() -> None:
    world = World(AddRoute(A))
    world.actor.perform((AddRoute(A), DeleteRule(FROM_A)))
    assert world.done == [DeleteRule(FROM_A)]


def test_one_absent_device_does_not_hold_up_the_switch_to_another() -> None:
    world = World(AddRoute(A))
    world.actor.perform((AddRoute(A), AddRoute(B), AddRule(RULE_B), ENDPOINT))
    assert world.done == [AddRoute(B), AddRule(RULE_B), ENDPOINT]


def test_the_other_family_goes_on() -> None:
    six = route(7401, "2001:db8::1", family=6)
    world = World(AddRoute(A))
    world.actor.perform((AddRoute(A), AddRoute(six), DeleteRoute(six)))
    assert world.done == [AddRoute(six), DeleteRoute(six)]


@pytest.mark.parametrize("failing", [AddRoute(A), AddRule(RULE_A), ApplyNft("table inet wgrouter {}")])
def test_no_flow_is_forgotten_before_its_new_way_is_there(failing: Effect) -> None:
    world = World(failing)
    world.actor.perform((failing, ForgetFlows(local_address="192.0.2.9"), ENDPOINT))
    assert world.skipped == [ForgetFlows(local_address="192.0.2.9")]
    assert world.done == [ENDPOINT]


def test_a_failed_deletion_holds_nothing_up() -> None:
    world = World(DeleteRoute(A))
    world.actor.perform((DeleteRoute(A), AddRoute(A), ForgetFlows()))
    assert world.done == [AddRoute(A), ForgetFlows()]


def test_the_next_step_begins_afresh() -> None:
    world = World(AddRoute(A))
    world.actor.perform((AddRoute(A),))
    world.actor.perform((DeleteRoute(A), ForgetFlows()))
    assert world.done == [DeleteRoute(A), ForgetFlows()]


ROUTING = [AddRoute(A), AddRoute(B), DeleteRoute(A), DeleteRoute(B), AddRule(RULE_A), DeleteRule(RULE_B)]
SOME = st.sampled_from([*ROUTING, DeleteRule(FROM_A), ForgetFlows(), ENDPOINT, Renew("wan")])


@given(st.lists(SOME, max_size=12), st.sets(SOME))
def test_each_effect_is_done_in_order_or_told(effects: list[Effect], failing: set[Effect]) -> None:
    world = World(*failing)
    world.actor.perform(effects)
    assert sorted(map(repr, world.done + world.failed)) == sorted(map(repr, effects))
    remaining = iter(effects)
    assert all(effect in remaining for effect in world.done)
    remaining = iter(effects)
    assert all(effect in remaining for effect in world.failed)
    lost = {effect.route for effect in world.failed if isinstance(effect, AddRoute)}
    if effects and isinstance(effects[-1], DeleteRoute) and effects[-1].route in lost:
        assert world.failed[-1] == effects[-1]
    if lost and isinstance(effects[-1], ForgetFlows):
        assert world.failed[-1] == effects[-1]


# ---- time ----------------------------------------------------------------------------------------------


def test_a_slow_call_is_reported_and_not_called_a_failure() -> None:
    world = World(takes=0.7)
    world.actor.perform((ENDPOINT,))
    assert world.slow == [(ENDPOINT, pytest.approx(0.7))]
    assert world.loop.posted == []
    assert world.actor.slowest == (pytest.approx(0.7), "SetEndpoint")


def test_a_failure_is_measured_too() -> None:
    world = World(ENDPOINT, takes=0.7)
    world.actor.perform((ENDPOINT,))
    assert len(world.slow) == 1
