"""The probe window of one WAN over one family, and what it says: loss, latency, jitter, lateness, dead
targets.

Everything is computed when asked (the precedent is dpinger): a sample holds only what happened, so a late
answer takes its loss back by itself. Decides no state; links.py does.
"""

from __future__ import annotations

from collections.abc import Sequence

from wgrouter.core.model import IPV4, Instant, Seconds
from wgrouter.core.records import dataclass, replace
from wgrouter.core.settings import Probing, Wan

LATE_RTTS = 3.0  # an answer is late after this many usual round trips …
LATE_WORST = (
    1.5  # … or this much more than the slow ones of the window: a loaded link (bufferbloat) is not a dead one
)
LATE_UNKNOWN: Seconds = 0.6  # before any answer (a satellite's comes while the burst is still being sent)
WAIT_MIN: Seconds = 0.1  # after the last probe of a burst
SILENT_AFTER = 3  # answers missing in a row, while others answer: a target is not counted …
DEAD_AFTER = 4  # … and then said to be dead
JUDGED_FROM = 10  # samples: fewer say nothing about loss


@dataclass(frozen=True, slots=True)
class Target:
    """Where a probe goes, and how."""

    method: str
    address: str  # "gateway" is replaced by the path's gateway when sent

    def __str__(self) -> str:
        return self.address if self.method == "icmp" else f"{self.method}:{self.address}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One probe: sent when, to which target, answered after `rtt` (None: not yet or never)."""

    id: int
    sent: Instant
    target: str
    rtt: Seconds | None = None
    refused: str = ""  # it could not even be sent, or was refused: why


@dataclass(frozen=True, slots=True)
class Quality:
    """What a window says. Loss in percent, latency and jitter (standard deviation) in milliseconds; None: not
    known.
    """

    loss: float | None = None
    latency: float | None = None
    jitter: float | None = None
    samples: int = 0


def targets(wan: Wan, probing: Probing, family: int) -> tuple[Target, ...]:
    """Each target by each method, targets first, so that consecutive probes go to different targets."""
    own = wan.targets4 if family == IPV4 else wan.targets6
    addresses = own or (probing.targets4 if family == IPV4 else probing.targets6)
    methods = wan.methods or probing.methods
    # ARP and neighbour discovery reach no further than the gateway, whatever the targets are.
    return tuple(
        dict.fromkeys(
            Target(method, "gateway" if method == "arp" else address)
            for method in methods
            for address in addresses
        )
    )


# Octets on the wire of one probe and its answer together, headers included, as ports/ping.py sends them.
_COST = {
    "icmp": 2 * 44,
    "dns-udp": 2 * 60,
    "dns-tcp": 600,
    "tcp": 240,
    "http": 1200,
    "https": 6000,
    "arp": 2 * 46,
}


def cost(method: str, family: int) -> int:
    """About how many octets a probe and its answer take."""
    return _COST.get(method, 200) + (0 if family == IPV4 or method == "arp" else 40)


def late_after(samples: Sequence[Sample], probing: Probing) -> Seconds:
    """The age at which an answer is missed."""
    rtts = [sample.rtt for sample in samples if sample.rtt is not None]
    if not rtts:
        return min(LATE_UNKNOWN, probing.timeout)
    usual = LATE_RTTS * sum(rtts) / len(rtts)
    return min(max(probing.late_min, usual, LATE_WORST * _slow(rtts)), probing.timeout)


def _slow(rtts: Sequence[Seconds]) -> Seconds:
    """The longest but for one in ten.

    A single answer that waited for the neighbour to be found (0.4 s after a cable was plugged in) or for a
    busy router would double the time that a dead link is kept, for as long as it is in the window.
    """
    return sorted(rtts)[-1 - (len(rtts) + 4) // 10]


def burst_wait(samples: Sequence[Sample], probing: Probing) -> Seconds:
    """How long to wait for answers after the last probe of a burst."""
    rtts = [sample.rtt for sample in samples if sample.rtt is not None]
    if not rtts:
        return min(LATE_UNKNOWN, probing.timeout)
    return min(max(WAIT_MIN, LATE_RTTS * sum(rtts) / len(rtts), LATE_WORST * _slow(rtts)), probing.timeout)


def missing(sample: Sample, now: Instant, late: Seconds) -> bool:
    """Whether its answer is late, lost or refused."""
    return sample.rtt is None and (bool(sample.refused) or now - sample.sent >= late)


def _streaks(samples: Sequence[Sample], now: Instant, late: Seconds) -> dict[str, int]:
    """Per target, how many of its latest samples in a row are missing."""
    streaks: dict[str, int] = {}
    ended: set[str] = set()
    for sample in reversed(samples):
        if sample.target in ended:
            continue
        if sample.rtt is not None:
            ended.add(sample.target)
        elif missing(sample, now, late):
            streaks[sample.target] = streaks.get(sample.target, 0) + 1
    return streaks


def silent(
    samples: Sequence[Sample], now: Instant, late: Seconds, limit: int = SILENT_AFTER
) -> frozenset[str]:
    """Targets that miss `limit` answers in a row although another one answered since the first of these."""
    streaks = _streaks(samples, now, late)
    if not streaks:
        return frozenset()
    newest = max((sample.sent for sample in samples if sample.rtt is not None), default=None)
    if newest is None:
        return frozenset()
    found = set()
    for target, streak in streaks.items():
        if streak >= limit:
            misses = [s.sent for s in samples if s.target == target and missing(s, now, late)][-streak:]
            if misses[0] < newest:
                found.add(target)
    return frozenset(found)  # never all of them: the newest answer came from one that is not silent


def quality(samples: Sequence[Sample], now: Instant, late: Seconds) -> Quality:
    """Loss, latency and jitter. Silent targets are left out: one dead target of three is not a loss of a
    third.
    """
    left_out = silent(samples, now, late)
    counted = [
        s for s in samples if s.target not in left_out and (s.rtt is not None or missing(s, now, late))
    ]
    if not counted:
        return Quality()
    rtts = [sample.rtt for sample in counted if sample.rtt is not None]
    loss = 100.0 * (len(counted) - len(rtts)) / len(counted)
    if not rtts:
        return Quality(loss, samples=len(counted))
    mean = sum(rtts) / len(rtts)
    deviation = (sum((rtt - mean) ** 2 for rtt in rtts) / len(rtts)) ** 0.5
    return Quality(loss, 1000.0 * mean, 1000.0 * deviation, len(counted))


def verdict(seen: Quality, wan: Wan, ratio: float = 1.0) -> str:
    """Which limit (times `ratio`, for hysteresis) the window is over, in words; "" if none."""
    if seen.samples < JUDGED_FROM or seen.loss is None:
        return ""
    if seen.loss > wan.loss_max * ratio:
        return f"{seen.loss:.0f} % loss, the limit is {wan.loss_max * ratio:.0f} %"
    for name, value, limit in (
        ("latency", seen.latency, wan.latency_max),
        ("jitter", seen.jitter, wan.jitter_max),
    ):
        if limit > 0 and value is not None and value > limit * ratio:
            return f"{name} {value:.0f} ms, the limit is {limit * ratio:.0f} ms"
    return ""


def answered(samples: tuple[Sample, ...], id: int, rtt: Seconds) -> tuple[Sample, ...]:
    """The window with this probe answered."""
    return tuple(replace(s, rtt=rtt, refused="") if s.id == id else s for s in samples)


def refused(samples: tuple[Sample, ...], id: int, reason: str) -> tuple[Sample, ...]:
    """The window with this probe refused."""
    return tuple(replace(s, refused=reason or "refused") if s.id == id else s for s in samples)
