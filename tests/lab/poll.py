"""Waiting for something to become true, and nothing else: the one place in the lab's tests where time passes.

`until` polls; there is no `sleep(long enough)` anywhere, so a test takes as long as the thing it tests.
"""

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# On an emulated machine (tests/vm) everything may take so many times as long: the limits are for a usual one.
SLOWNESS = float(os.environ.get("WGROUTER_SLOWNESS", "1"))
POLL_SECONDS = 0.015 * SLOWNESS
# How long the lab itself waits for a program to start. A quarter of a second is usual; the emulated machine
# of `make vm` on a busy host has needed half a minute.
PATIENCE_SECONDS = 60.0


def usual(seconds: float) -> float:
    """So many seconds of a usual machine, on this one: for limits of what was measured."""
    return seconds * SLOWNESS


class NotInTime(AssertionError):
    """What was waited for did not come, or did not last."""


def _attempt(condition: Callable[[], T]) -> tuple[T | None, str]:
    """The condition's value and how to show it.

    An error is a "not yet": half of what is polled is still starting.
    """
    try:
        value = condition()
    except (NameError, AttributeError, TypeError):
        raise  # a mistake in the test, which waiting does not mend
    except Exception as error:  # noqa: BLE001 - it is shown if nothing better comes in time
        return None, f"{type(error).__name__}: {error}"
    return value, repr(value)


def until(condition: Callable[[], T], *, within: float, what: str = "") -> T:
    """Poll until the condition holds and return its value; after `within` seconds NotInTime with the last."""
    within = usual(within)
    start = time.monotonic()
    while True:
        value, shown = _attempt(condition)
        if value:
            return value
        if time.monotonic() - start > within:
            raise NotInTime(f"{what or _name(condition)}: not within {within:g} s; last value: {shown}")
        time.sleep(POLL_SECONDS)


def stays(condition: Callable[[], T], *, during: float, what: str = "") -> T:
    """Poll that the condition holds for `during` seconds; NotInTime, with the value that broke it."""
    start = time.monotonic()
    while True:
        value, shown = _attempt(condition)
        elapsed = time.monotonic() - start
        if not value:
            raise NotInTime(
                f"{what or _name(condition)}: ended after {elapsed:.2f} of {during:g} s; value: {shown}"
            )
        if elapsed >= during:
            return value
        time.sleep(POLL_SECONDS)


def _name(condition: Callable[[], object]) -> str:
    code = getattr(condition, "__code__", None)
    return f"the condition at {code.co_filename}:{code.co_firstlineno}" if code else repr(condition)
