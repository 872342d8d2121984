"""When a name is looked up again, within what the settings allow. Jitter is a number in [0, 1)."""

from __future__ import annotations

from wgrouter.core.model import Instant, Seconds
from wgrouter.core.name_memory import Verdict
from wgrouter.core.settings import Dns

AGAIN: Seconds = (
    0.5  # at least this between two look-ups of one name, whatever the settings and the network do
)


def clamped(dns: Dns, ttl: Seconds) -> Seconds:
    """A TTL with floor and ceiling."""
    return max(min(ttl, dns.ttl_max), dns.ttl_min)


def ends_first(dns: Dns, verdicts: list[Verdict]) -> Verdict:
    """The good answer whose TTL is over first."""
    return min(verdicts, key=lambda verdict: verdict.at + clamped(dns, verdict.ttl))


def after_ttl(dns: Dns, verdict: Verdict, jitter: float, now: Instant) -> Instant:
    """When the TTL ends, or a little later: at most 1 s and a tenth of it, so that a move is soon seen."""
    ttl = clamped(dns, verdict.ttl)
    # A round that took longer than the TTL (one type's servers are silent) must not follow on itself.
    return max(verdict.at + ttl + min(1.0, 0.1 * ttl) * jitter, now + AGAIN)


def after_negative(dns: Dns, ttl: Seconds) -> Seconds:
    """How long a negative answer is taken for true: what its SOA says (RFC 2308), within reason."""
    return max(min(ttl, dns.retry_max), dns.retry, AGAIN)


def after_failures(dns: Dns, failures: int, jitter: float) -> Seconds:
    """Doubling with each failure in a row, up to a fifth shorter by jitter."""
    wait = min(dns.retry * 2.0 ** min(failures - 1, 20), dns.retry_max)
    return max(wait * (1.0 - 0.2 * jitter), dns.retry, AGAIN)
