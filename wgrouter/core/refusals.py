"""What the kernel refused of the routing, and when it is asked again: later each time, at once if something
changed.

Decides about pace only; what is wanted is planned as ever (plan.py). Without this a refusal that lasts (a
kernel without IPv6 rules, a device with IPv6 off, no nftables) would be asked for with every look, and each
attempt asks for a look: the whole CPU, for ever.
"""

from __future__ import annotations

from collections.abc import Iterable

from wgrouter.core.messages import (
    AddRoute,
    AddRule,
    ApplyNft,
    DeleteRoute,
    DeleteRule,
    Effect,
    RemoveNft,
    SetFwmark,
)
from wgrouter.core.model import NEVER, Instant, Net, Seconds
from wgrouter.core.records import dataclass

PLANNED = (AddRoute, AddRule, ApplyNft, DeleteRoute, DeleteRule, RemoveNft, SetFwmark)
FIRST: Seconds = 0.25  # most refusals are a race with netifd, over by the next look …
LONGEST: Seconds = 60.0  # … others last until somebody installs a package


@dataclass(frozen=True, slots=True)
class RefusedEffect:
    """An effect that failed; it may be tried again at `until`."""

    effect: Effect
    until: Instant
    wait: Seconds


Refusals = tuple[RefusedEffect, ...]


def refused(known: Refusals, effect: Effect, now: Instant) -> Refusals:
    """It failed (once more). Endpoints, and what no plan contains, are paced by who asks for them."""
    if not isinstance(effect, PLANNED):
        return known
    wait = next((min(2 * one.wait, LONGEST) for one in known if one.effect == effect), FIRST)
    return (*(one for one in known if one.effect != effect), RefusedEffect(effect, now + wait, wait))


def judged(known: Refusals, before: Net | None, after: Net | None) -> Refusals:
    """None of them, where devices or addresses changed: what was refused then may not be now."""
    same = before is after or (
        before is not None
        and after is not None
        and (before.links, before.addresses) == (after.links, after.addresses)
    )
    return known if same else ()


def still(known: Refusals, outstanding: Iterable[Effect]) -> Refusals:
    """Without those that nobody wants any more, or that are there."""
    wanted = tuple(outstanding) if known else ()
    return tuple(one for one in known if one.effect in wanted)


def hopeless(known: Refusals, effects: Iterable[Effect], now: Instant) -> bool:
    """Nothing but what was refused a moment ago, and endpoints, which go with rules. One other effect is
    reason to try them all, in their order: some rely on others.
    """
    waiting = [one.effect for one in known if one.until > now]
    return all(effect in waiting or not isinstance(effect, PLANNED) for effect in effects)


def wake_at(known: Refusals) -> Instant:
    """When the next one may be tried."""
    return min((one.until for one in known), default=NEVER)
