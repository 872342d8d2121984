"""What the kernel refuses is asked for again later each time, and at once where something changed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wgrouter.core import refusals
from wgrouter.core.engine import Engine
from wgrouter.core.messages import (
    AddRoute,
    Commanded,
    Configured,
    Effect,
    Event,
    Failed,
    Look,
    Observed,
    Provoke,
    SetEndpoint,
    SetFwmark,
    Woke,
)
from wgrouter.core.model import (
    NET,
    NEVER,
    NFT,
    WIREGUARD,
    Address,
    DeviceSeen,
    Endpoint,
    Hop,
    Link,
    Net,
    Route,
)
from wgrouter.core.refusals import FIRST, LONGEST
from wgrouter.core.settings import Settings, Tunnel

MARK, OTHER = SetFwmark("wg0", 1), SetFwmark("wg1", 1)
NET_NOW = Net(
    {"eth1": Link(2, "eth1"), "wg0": Link(3, "wg0", kind="wireguard")},
    (Address("eth1", "192.0.2.2/24"),),
    (Route(4, 254, "0.0.0.0/0", (Hop("192.0.2.1", "eth1"),), protocol=3),),
    (),
)


def test_each_refusal_doubles_the_wait_up_to_the_longest() -> None:
    known: refusals.Refusals = ()
    waits = []
    for _ in range(12):
        known = refusals.refused(known, MARK, 100.0)
        (one,) = known
        assert (one.effect, one.until) == (MARK, 100.0 + one.wait)
        waits.append(one.wait)
    assert waits[:4] == [FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST]
    assert waits[-2:] == [LONGEST, LONGEST]


def test_each_effect_has_its_own_wait() -> None:
    known = refusals.refused(refusals.refused(refusals.refused((), MARK, 0.0), MARK, 0.0), OTHER, 0.0)
    assert {one.effect: one.wait for one in known} == {MARK: 2 * FIRST, OTHER: FIRST}
    assert refusals.wake_at(known) == FIRST
    assert refusals.wake_at(()) == NEVER


def test_what_no_plan_contains_is_left_to_who_asks_for_it() -> None:
    known = refusals.refused((), MARK, 0.0)
    assert refusals.refused(known, Provoke("wg0", "key", 25), 1.0) == known


def test_what_nobody_wants_any_more_is_forgotten() -> None:
    known = refusals.refused(refusals.refused((), MARK, 0.0), OTHER, 0.0)
    assert [one.effect for one in refusals.still(known, [OTHER])] == [OTHER]
    assert refusals.still((), [OTHER]) == ()


def test_only_a_plan_of_nothing_but_refused_effects_waits() -> None:
    known = refusals.refused((), MARK, 0.0)
    assert refusals.hopeless(known, [MARK], FIRST - 0.01)
    assert not refusals.hopeless(known, [MARK, OTHER], 0.0), "one of them is new: all are tried, in order"
    assert not refusals.hopeless(known, [MARK], FIRST), "its time has come"
    again = SetEndpoint("wg0", "key", Endpoint("192.0.2.1", 51820))
    assert refusals.hopeless(known, [again, MARK, again], 0.0), "endpoints go with a rule, and are no reason"


@pytest.mark.parametrize(
    ("after", "kept"),
    [
        (NET_NOW, True),
        (replace(NET_NOW, routes=()), True),
        (replace(NET_NOW, links={**NET_NOW.links, "eth1": Link(2, "eth1", carrier=False)}), False),
        (replace(NET_NOW, addresses=()), False),
        (None, False),
    ],
)
def test_other_devices_or_addresses_may_be_reason_enough(after: Net | None, kept: bool) -> None:
    known = refusals.refused((), MARK, 0.0)
    assert refusals.judged(known, NET_NOW, after) == (known if kept else ())
    assert refusals.judged(known, None, NET_NOW) == ()
    assert refusals.judged(known, None, None) == known


# ---------------------------------------------------------------- in the engine


class Kernel:
    """An engine, and a kernel that refuses every mark and takes the rest."""

    def __init__(self) -> None:
        self.engine, self.now, self.tries = Engine(), 100.0, 0
        self.net = NET_NOW
        self.wake = NEVER
        self.handle(Configured(Settings(tunnels=(Tunnel("wg0"),)), "seed"))

    def look(self) -> Observed:
        return Observed(self.net, {"wg0": DeviceSeen("wg0", "", 51820, 0, False, {})}, nft="")

    def handle(self, event: Event) -> tuple[Effect, ...]:
        step = self.engine.handle(event, self.now)
        self.wake = step.wake_at
        for effect in step.effects:
            if isinstance(effect, SetFwmark):
                self.tries += 1
                self.engine.handle(Failed(effect, "Operation not supported", 95), self.now)
            elif isinstance(effect, AddRoute):
                self.net = replace(self.net, routes=(*self.net.routes, effect.route))
            elif type(effect).__name__ == "AddRule":
                self.net = replace(self.net, rules=(*self.net.rules, effect.rule))  # type: ignore[attr-defined]
        return step.effects

    def settle(self) -> None:
        """Look as often as the engine asks for it, which must end."""
        for _ in range(6):
            if not any(isinstance(effect, Look) for effect in self.handle(self.look())):
                return
        raise AssertionError("the engine goes on asking")


def test_a_refusal_is_not_argued_with() -> None:
    kernel = Kernel()
    kernel.settle()
    assert 1 <= kernel.tries <= 2
    tries, kernel.now = kernel.tries, kernel.wake
    while not (effects := kernel.handle(Woke())) or Look((NET, WIREGUARD, NFT)) not in effects:
        kernel.now = kernel.wake
        assert kernel.now < 101.0
    kernel.settle()
    assert kernel.tries == tries + 1


@pytest.mark.parametrize("event", [Commanded("refresh"), Configured(Settings(tunnels=(Tunnel("wg0"),)), "s")])
def test_who_asks_gets_a_try_at_once(event: Event) -> None:
    kernel = Kernel()
    kernel.settle()
    tries = kernel.tries
    kernel.handle(event)
    kernel.settle()
    assert kernel.tries > tries


def test_a_device_that_changes_is_reason_for_a_try() -> None:
    kernel = Kernel()
    kernel.settle()
    tries = kernel.tries
    kernel.net = replace(kernel.net, addresses=(*kernel.net.addresses, Address("eth1", "192.0.2.3/24")))
    kernel.settle()
    assert kernel.tries > tries
