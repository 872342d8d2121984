"""The one shape that every state machine of the core has, so that the engine only strings them together.

A machine is a module with a frozen `Memory`, `step(memory, event, context) -> Turn` and
`wake_at(memory, context) -> Instant`. It gets every event and minds those that concern it. It never
keeps what the World can tell. Probe ids: links.py uses even numbers, tunnels.py odd ones; query ids
belong to names.py alone.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from wgrouter.core.findings import Finding
from wgrouter.core.messages import Effect
from wgrouter.core.model import Instant, World
from wgrouter.core.records import dataclass
from wgrouter.core.settings import Settings

M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class Context:
    """What every machine may see at this step."""

    now: Instant
    settings: Settings
    world: World
    seed: str = ""


@dataclass(frozen=True, slots=True)
class Turn(Generic[M]):
    """What a machine remembers from now on, wants done and has to say."""

    memory: M
    effects: tuple[Effect, ...] = ()
    findings: tuple[Finding, ...] = ()
