"""The hands: carries out the effects of one step, in their order, by the port methods that daemon.py names.

Decides nothing but what follows from a failure: an effect that could not be carried out, or that must not be
because one before it failed, becomes a Failed event. Must not know what a port is made of.

What depends on what, in one step (the plan is "add, verify, then delete"):
- after an AddRoute that failed: AddRule to its table, DeleteRoute in its table. No rule to a table that lacks
  its route, and no route taken away whose replacement is not there;
- after an AddRule that failed or was skipped: DeleteRule of the one with the same preference and selectors,
  which it was to replace. Any other rule is withdrawn all the same: what it led to must not be used any more;
- after any of them: ForgetFlows. (OPNsense #10684: states killed before the new rules were in.)
Everything else goes on: one WAN whose device has just gone must not hold up the switch to another.
The Look that the core makes after Failed plans the rest anew, so nothing is retried here.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

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
)
from wgrouter.core.model import EVERYTHING, Instant, Rule, Seconds

SLOW: Seconds = 0.5  # every port call is bounded; one that takes this long delays probes by as much
SKIPPED = errno.ECANCELED  # of a Failed effect that was never begun

Table = Mapping[type[Any], Callable[[Any], None]]
Place = tuple[object, ...]


class Loop(Protocol):
    """The part of the reactor that the actor uses."""

    def now(self) -> Instant: ...

    def post(self, event: Event) -> None: ...

    def call_at(self, when: Instant, callback: Callable[[], None]) -> object: ...


class Actor:
    """Effect → port method. `errors` are the world's faults; any other exception is ours and passes."""

    def __init__(
        self,
        loop: Loop,
        table: Table,
        *,
        errors: tuple[type[Exception], ...] = (OSError,),
        on_slow: Callable[[Effect, Seconds], None] | None = None,
        slow: Seconds = SLOW,
    ) -> None:
        self._loop = loop
        self._table = table
        self._errors = errors
        self._on_slow = on_slow
        self._slow = slow
        self._parts: dict[str, None] = {}  # to look at in the next turn
        self.performed = 0
        self.failed = 0
        self.slowest: tuple[Seconds, str] = (0.0, "")

    def perform(self, effects: Iterable[Effect]) -> None:
        """Carry them out; failures are posted as Failed. TypeError for an effect that has no method."""
        missing: dict[Place, str] = {}  # what was to be given and is not → the effect that failed to
        for effect in effects:
            if isinstance(effect, Look):
                self._look_soon(effect)
                continue
            needed = _needs(effect)
            if needed is not None and needed in missing:
                self._fail(effect, f"not tried: {missing[needed]} failed before it", SKIPPED)
            elif missing and isinstance(effect, ForgetFlows):
                self._fail(effect, "not tried: flows are kept until their new way is there", SKIPPED)
            elif self._done(effect):
                continue
            given = _gives(effect)
            if given is not None:
                missing[given] = type(effect).__name__

    def _look_soon(self, look: Look) -> None:
        """All Looks of a turn are one, in the next: it shows what every step of this turn has done.

        One at once for each step would queue looks that show less than was done by the time they are
        handled; the core would do it again and look again, on a slow router for ever.
        """
        if not self._parts:
            self._loop.call_at(self._loop.now(), self._look)
        self._parts |= dict.fromkeys(look.parts)

    def _look(self) -> None:
        parts, self._parts = self._parts, {}
        known = tuple(part for part in EVERYTHING if part in parts)
        self._done(Look(known + tuple(part for part in parts if part not in EVERYTHING)))

    def _done(self, effect: Effect) -> bool:
        method = self._table.get(type(effect))
        if method is None:
            raise TypeError(f"nothing carries out {type(effect).__name__}")
        self.performed += 1
        begun = self._loop.now()
        try:
            method(effect)
        except self._errors as error:
            self._fail(effect, reason_of(error), errno_of(error))
            return False
        finally:
            self._measure(effect, self._loop.now() - begun)
        return True

    def _fail(self, effect: Effect, reason: str, number: int) -> None:
        self.failed += 1
        self._loop.post(Failed(effect, reason, number))

    def _measure(self, effect: Effect, seconds: Seconds) -> None:
        if seconds > self.slowest[0]:
            self.slowest = (seconds, type(effect).__name__)
        if seconds > self._slow and self._on_slow is not None:
            self._on_slow(effect, seconds)


def reason_of(error: Exception) -> str:
    """What went wrong, for people: the kernel's words where there are any, never empty."""
    if isinstance(error, TimeoutError) and not error.args:
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror} ({error.filename})" if error.filename else error.strerror
    number = errno_of(error)
    return str(error) or (os.strerror(number) if number else type(error).__name__)


def errno_of(error: Exception) -> int:
    """The number, 0 where there is none. (pyroute2's NetlinkError calls it `code`.)"""
    for name in ("errno", "code"):
        number = getattr(error, name, None)
        if isinstance(number, int):
            return number
    return 0


def _gives(effect: Effect) -> Place | None:
    """What later effects of the step may rely on, if this one is carried out."""
    if isinstance(effect, AddRoute):
        return ("table", effect.route.family, effect.route.table)
    if isinstance(effect, AddRule):
        return _selectors(effect.rule)
    if isinstance(effect, ApplyNft):
        return ("nft",)
    return None


def _needs(effect: Effect) -> Place | None:
    """What this one relies on, if anything before it in the step was to give it."""
    if isinstance(effect, DeleteRoute):
        return ("table", effect.route.family, effect.route.table)
    if isinstance(effect, AddRule):
        return ("table", effect.rule.family, effect.rule.table)
    if isinstance(effect, DeleteRule):
        return _selectors(effect.rule)
    return None


def _selectors(rule: Rule) -> Place:
    """All of a rule but where it leads."""
    return (
        "rule",
        rule.family,
        rule.preference,
        rule.mark,
        rule.mask,
        rule.src,
        rule.dst,
        rule.iif,
        rule.oif,
        rule.suppress,
    )
