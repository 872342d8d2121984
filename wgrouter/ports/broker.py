"""The MQTT broker: keeps one connection to one of the brokers configured, and tells what becomes of it.

Lives on the loop's thread and never waits: each attempt is a _broker_session.Session with a thread of its
own, and one that takes too long is left behind. Decides when to try again (with full jitter, at once after a
change of WAN), which broker, and which version of MQTT; not what is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from wgrouter.core.findings import Finding, Why
from wgrouter.core.model import Instant, Seconds
from wgrouter.core.settings import Mqtt
from wgrouter.ports import _broker_session as session
from wgrouter.ports import _broker_values as values
from wgrouter.ports._broker_session import Session
from wgrouter.ports._broker_values import Ended, Greeted, Plan, Received, Will

ATTEMPT: Seconds = 10.0  # from dialling to the broker's greeting
BACKOFF, BACKOFF_MAX = 2.0, 120.0
STEADY: Seconds = 30.0  # a connection that held this long was a good one: the next back-off starts anew
THREADS_MAX = 6  # sessions that were left behind and have not ended yet: the resolver may keep them for long

# state → what happened → next state. What is not listed changes nothing.
IDLE, CONNECTING, UP, WAITING, CLOSED = "idle", "connecting", "up", "waiting", "closed"
TABLE = {
    IDLE: {"open": CONNECTING, "close": CLOSED},
    CONNECTING: {"greeted": UP, "ended": WAITING, "moved": CONNECTING, "close": CLOSED},
    UP: {"ended": WAITING, "moved": CONNECTING, "close": CLOSED},
    WAITING: {"due": CONNECTING, "moved": CONNECTING, "close": CLOSED},
    CLOSED: {},
}


class Cancel(Protocol):
    def cancel(self) -> None: ...


class Loop(Protocol):
    """The part of the reactor that this port uses."""

    def now(self) -> Instant: ...

    def call_at(self, when: Instant, callback: Callable[[], None]) -> Cancel: ...

    def call_threadsafe(self, callback: Callable[[], None]) -> bool: ...


class Listener(Protocol):
    """Who is told. `say` gets findings, the others what their names tell."""

    def up(self, version: str) -> None: ...

    def down(self) -> None: ...

    def acknowledged(self, token: int) -> None: ...

    def received(
        self, topic: str, payload: bytes, retained: bool, reply_to: str, correlation: bytes
    ) -> None: ...

    def say(self, finding: Finding) -> None: ...


class Broker:
    """`open`, then `send` between the listener's `up` and `down`; `moved` after a change of WAN."""

    def __init__(
        self,
        loop: Loop,
        settings: Mqtt,
        client_id: str,
        will: tuple[str, bytes],
        subscriptions: tuple[str, ...],
        unwanted: tuple[str, ...],
        listener: Listener,
    ) -> None:
        self._loop, self._settings, self._listener = loop, settings, listener
        self._client_id, self._will = client_id, will
        self._subscriptions, self._unwanted = subscriptions, unwanted
        self.state = IDLE
        self.reason = ""  # why there is no connection
        self.local = ""  # our address on the connection
        self.since: Instant = loop.now()
        self.attempts = 0
        self._session: Session | None = None
        self._left: list[Session] = []  # behind
        self._timer: Cancel | None = None
        self._turn = 0  # which of the brokers
        self._failed = 0  # attempts since the last good connection
        self._versions: dict[str, int] = {}  # of a broker: the MQTT version it took last, or is to be offered
        self._addresses: dict[str, tuple[str, ...]] = {}
        self._told = ""  # the reason that was told last

    @property
    def url(self) -> str:
        return self._settings.brokers[self._turn % len(self._settings.brokers)]

    @property
    def connected(self) -> bool:
        return self.state == UP

    def open(self) -> None:
        """Begin. The first attempt is as much a crowd as any: routers of one street start together."""
        if self._enter("open"):
            self._connect()

    def send(
        self,
        token: int,
        topic: str,
        payload: bytes,
        qos: int,
        retain: bool,
        correlation: bytes = b"",
        expiry: int = 0,
    ) -> None:
        """Hand over a message; without a connection it is dropped (`down` was told)."""
        if self._session is not None and self.state == UP:
            self._session.send(token, topic, payload, qos, retain, correlation, expiry)

    def moved(self) -> None:
        """The way out has changed: connect anew, at once. A good-bye is sent, in case it still arrives."""
        was_up = self.state == UP
        if self._enter("moved"):
            self._drop()
            self._failed = 0
            if was_up:
                self._listener.down()
            self._connect()

    def hasten(self) -> None:
        """Something got better: do not wait for the end of a pause."""
        if self.state == WAITING:
            self.moved()

    def close(self, patience: Seconds = 0.0) -> None:
        """Have what was handed over sent, and good-bye said; wait for that no longer than `patience`."""
        if self._enter("close"):
            ending, self._session = self._session, None
            if self._timer is not None:
                self._timer.cancel()
            if ending is not None:
                ending.end(patience)

    # ------------------------------------------------------------ one attempt

    def _enter(self, what: str) -> bool:
        after = TABLE[self.state].get(what)
        if after is None:
            return False
        if after != self.state:
            self.since = self._loop.now()
        self.state = after
        return True

    def _drop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._session is not None:
            self._session.end()
            self._left.append(self._session)
            self._session = None

    def _plan(self) -> Plan:
        settings = self._settings
        scheme, _, place = self.url.partition("://")
        host, _, port = place.rpartition(":")
        offered = {"5": 5, "3.1.1": 4}.get(settings.protocol) or self._versions.get(self.url, 5)
        topic, payload = self._will
        return Plan(
            host.strip("[]"),
            int(port),
            scheme == "mqtts",
            offered,
            self._client_id,
            int(settings.keepalive),
            Will(topic, payload, int(settings.will_delay)),
            self._subscriptions,
            self._unwanted,
            self._addresses.get(self.url, ()),
            settings.username,
            settings.password_file,
            settings.ca_file,
            settings.cert_file,
            settings.key_file,
            settings.server_name,
        )

    def _connect(self) -> None:
        self._left = [one for one in self._left if one.alive]
        if len(self._left) >= THREADS_MAX:
            self._enter("ended")
            self._timer = self._loop.call_at(self._loop.now() + ATTEMPT, self._due)
            return
        self.attempts += 1
        self._session = Session(self._plan(), self._loop.call_threadsafe, self._hear)
        self._timer = self._loop.call_at(self._loop.now() + ATTEMPT, self._too_late)

    def _too_late(self) -> None:
        late = self._session
        if late is not None and self.state == CONNECTING:
            late.end()
            self._ended(Ended(values.silence_of(late.stage, late.plan)))

    def _due(self) -> None:
        if self._enter("due"):
            self._connect()

    # ------------------------------------------------------------ what the session tells

    def _hear(self, who: Session, what: Greeted | Ended | Received | int | str) -> None:
        if isinstance(what, Received):  # from one that was left behind too
            self._listener.received(what.topic, what.payload, what.retained, what.reply_to, what.correlation)
        elif who is not self._session:
            return
        elif isinstance(what, int):
            self._listener.acknowledged(what)
        elif isinstance(what, Greeted):
            self._greeted(what)
        elif isinstance(what, Ended):
            self._ended(what)
        else:
            self._listener.say(Finding(Why.BROKER_DENIED, "", {"broker": self.url, "reason": what}))

    def _greeted(self, what: Greeted) -> None:
        if not self._enter("greeted"):
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._versions[self.url] = what.version
        self._addresses[self.url] = what.addresses
        self.local, self.reason, self._told = what.local, "", ""
        shown = "5" if what.version == 5 else "3.1.1"
        said = {"broker": self.url, "version": shown, "address": what.remote}
        self._listener.say(Finding(Why.BROKER_CONNECTED, "", dict(said)))
        self._listener.up(shown)

    def _ended(self, what: Ended) -> None:
        was_up, held = self.state == UP, self._loop.now() - self.since
        if not self._enter("ended"):
            return
        ended = self._session
        self._drop()
        self.reason, url = what.reason, self.url
        if not was_up:
            self._addresses.pop(url, None)  # its name may have moved: look it up again
        if self._told != what.reason:  # one line for each change, not for each attempt
            self._told = what.reason
            why = Why.BROKER_LOST if was_up else Why.BROKER_UNREACHABLE
            self._listener.say(Finding(why, "", {"broker": url, "reason": what.reason}))
        if was_up:
            self._listener.down()
        self._failed = 0 if was_up and held >= STEADY else self._failed + 1
        delay = self._next(ended, what, was_up)
        self._timer = self._loop.call_at(self._loop.now() + delay, self._due)

    def _next(self, ended: Session | None, what: Ended, was_up: bool) -> Seconds:
        """Who is tried next, and after how many seconds."""
        url, brokers = self.url, len(self._settings.brokers)
        closed = ended is not None and ended.stage == values.GREETING
        if self._settings.protocol == "auto" and not was_up and (what.other_version or closed):
            # A broker that does not know MQTT 5 says so, or just hangs up: offer the other version.
            known = self._versions.get(url, 5)
            self._versions[url] = 4 if known == 5 else 5
            if what.other_version and known == 5:
                return 0.0
        if not was_up:
            self._turn = (self._turn + 1) % brokers
        rounds = self._failed // brokers if brokers > 1 else self._failed
        if brokers > 1 and self._turn and not was_up:
            return values.full_jitter(1.0)  # the next in the list, soon
        return values.full_jitter(min(BACKOFF_MAX, BACKOFF * 2.0 ** min(rounds, 10)))


def library_version() -> str:
    """paho's. ImportError if it is not there."""
    return session.version()


secret = values.secret

__all__ = ["Broker", "library_version", "secret"]
