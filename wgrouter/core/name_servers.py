"""Which DNS server to ask first: servers in the order given, those known dead last.

A server counts as dead from the moment it has not answered for a while (name_rounds.HEDGE) until it answers
again: it costs its silence once, not once per name. When its penalty is over one query tries it beside one to
a healthy server, so that no name waits for it. Knows nothing of names.
"""

from __future__ import annotations

from wgrouter.core.model import Instant, Nameserver, Seconds
from wgrouter.core.name_memory import Flight, Health
from wgrouter.core.records import replace

PENALTY: Seconds = 10.0  # of a server that does not answer, doubling …
PENALTY_MAX: Seconds = 300.0
_UNKNOWN = Health()


class Servers:
    """The servers there are and their health, for the length of one step."""

    def __init__(self, known: tuple[Nameserver, ...], health: dict[Nameserver, Health], now: Instant) -> None:
        self.known = known
        self.health = health
        self.now = now

    def meet(self, servers: tuple[Nameserver, ...]) -> bool:
        """From now on it is these. Whether one is among them that was not known."""
        new = set(servers).difference(self.known)
        self.known = servers
        self.health = {server: health for server, health in self.health.items() if server in self.known}
        return bool(new)

    def ranked(self) -> list[Nameserver]:
        """Healthy ones as given; then the others, the one heard last first."""

        def rank(server: Nameserver) -> tuple[bool, Instant]:
            health = self.of(server)
            return (health.failures > 0, -health.answered if health.failures else 0.0)

        return sorted(self.known, key=rank)

    def of(self, server: Nameserver) -> Health:
        return self.health.get(server, _UNKNOWN)

    def is_dead(self, server: Nameserver) -> bool:
        return self.of(server).failures > 0

    def silent_since(self, flight: Flight) -> bool:
        """Whether nothing at all came from the server since this query was sent."""
        return self.of(flight.server).answered < flight.sent

    def praise(self, flight: Flight, slow: bool) -> None:
        """It answered. A slow one, if it counts as dead, stays behind the faster ones."""
        health = self.of(flight.server)
        if slow and health.failures:
            health = replace(health, answered=self.now, until=self.now + PENALTY_MAX)
        else:
            health = Health(answered=self.now)
        if flight.server in self.known:
            self.health[flight.server] = health

    def blame(self, server: Nameserver) -> None:
        """It does not answer. Many queries that tell it at once are one failure."""
        health = self.of(server)
        if server in self.known and health.until <= self.now:
            penalty = min(PENALTY * 2.0 ** min(health.failures, 10), PENALTY_MAX)
            self.health[server] = replace(health, failures=health.failures + 1, until=self.now + penalty)

    def parole(self, asked: Nameserver, patience: Seconds) -> Nameserver | None:
        """A dead server whose penalty is over, for one query beside that to `asked`, if that is healthy."""
        if self.is_dead(asked):
            return None
        for server in self.known:
            health = self.of(server)
            if health.failures and health.until <= self.now:
                # Nobody else tries it meanwhile; its silence then counts as another failure.
                self.health[server] = replace(health, until=self.now + patience)
                return server
        return None
