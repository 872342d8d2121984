"""What befalls a router in a run of chaos, drawn from a seed before anything stands: the same each time.

Pure. A story is storms of faults with a calm after each; a fault is a verb of chaos_faults.py and two numbers
whose meaning is the verb's. Most verbs toggle, so that faults pile up and end in any order; now and then all
is mended, and everything must be as at first.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

# How often each comes, relative to the others. What ends the agent's life is rare enough that lives get old.
WEIGHTS = {
    "cut": 8,
    "flap": 3,
    "hole": 8,
    "lose": 5,
    "captive": 2,
    "rebind": 3,
    "unroute": 3,
    "renumber": 3,
    "unplug": 4,
    "silence": 3,
    "dns_dead": 4,
    "dns_all": 2,
    "dns_slow": 2,
    "name": 4,
    "move": 6,
    "roam": 3,
    "site": 3,
    "reboot": 3,
    "broker": 4,
    "broker_hangs": 3,
    "ubusd": 4,
    "ubusd_hangs": 2,
    "ubus_storm": 2,
    "rules": 5,
    "routes": 5,
    "table": 3,
    "mark": 3,
    "flows": 2,
    "links": 2,
    "clock": 5,
    "kill": 3,
    "restart": 2,
    "suspend": 3,
    "bad_file": 4,
    "good_file": 3,
    "full": 4,
    "dump": 2,
    "junk": 2,
    "by_hand": 2,
}
STORM = (3, 9)  # faults in one
PAUSE = 0.6  # seconds before a fault, at most; every fifth waits up to four times as long
MENDED_EVERY = 5  # storms


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong, or right again, `pause` seconds after the one before."""

    pause: float
    verb: str
    a: int
    b: int

    def __str__(self) -> str:
        return f"+{self.pause:.2f} s {self.verb}({self.a}, {self.b})"


@dataclass(frozen=True)
class Storm:
    """Faults one after another; after a mended one nothing is wrong any more."""

    faults: tuple[Fault, ...]
    mended: bool


@dataclass(frozen=True)
class Story:
    """A whole run. `full_tunnel`: the LAN's traffic goes through a tunnel, and must not leave otherwise."""

    seed: int
    full_tunnel: bool
    storms: tuple[Storm, ...]

    @property
    def faults(self) -> int:
        return sum(len(storm.faults) for storm in self.storms)


def draw(seed: int, count: int, only: tuple[str, ...] = ()) -> Story:
    """A story of `count` faults, of all kinds or only of these."""
    chance = Random(f"chaos {seed}")
    weights = {verb: WEIGHTS[verb] for verb in only or WEIGHTS}
    storms: list[Storm] = []
    left = count
    while left:
        size = min(chance.randint(*STORM), left)
        left -= size
        faults = []
        for verb in chance.choices(list(weights), list(weights.values()), k=size):
            pause = chance.uniform(0.0, PAUSE) * (4 if chance.random() < 0.2 else 1)
            faults.append(Fault(round(pause, 2), verb, chance.randrange(100), chance.randrange(100)))
        storms.append(Storm(tuple(faults), not left or len(storms) % MENDED_EVERY == MENDED_EVERY - 1))
    return Story(seed, seed % 2 == 1, tuple(storms))
