"""What waits to be sent: events in their order and within bounds, of every state topic only the latest value.

Pure bookkeeping. An event leaves when the broker has acknowledged it; what was under way when a connection
broke goes out again, first and in order, so that none is lost and a receiver tells a second copy by its
number. When there is no room the oldest events make place, and one message in their place says how many.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from wgrouter.core.records import dataclass
from wgrouter.mqtt.topics import Publication

WINDOW = 20  # events and answers under way: paho's own default, and what mosquitto takes
BYTES_MAX = 1 << 20
ANSWERS_MAX = 32


@dataclass(frozen=True, slots=True)
class Gap:
    """Events of one life of the agent that had to make place."""

    boot: str
    first: int
    last: int


Entry = Publication | Gap


class Outbox:
    """`notice(gap)` makes the message that stands for dropped events."""

    def __init__(self, events_max: int, notice: Callable[[Gap], Publication]) -> None:
        self._max = max(1, events_max)
        self._notice = notice
        self._events: deque[Entry] = deque()  # in the order of their numbers, gaps where they are
        self._count = 0  # events among them
        self._bytes = 0
        self._answers: deque[Publication] = deque()
        self._latest: dict[str, Publication] = {}
        self._under_way: dict[int, Entry] = {}
        self._last_token = 0
        self.dropped = 0

    def __len__(self) -> int:
        """Events that wait or are under way."""
        return self._count + sum(1 for entry in self._under_way.values() if _is_event(entry))

    @property
    def bytes(self) -> int:
        """Of the events that wait."""
        return self._bytes

    def put(self, publication: Publication) -> None:
        if publication.key is not None:
            self._events.append(publication)
            self._weigh(publication, 1)
            while self._count > self._max or self._bytes > BYTES_MAX:
                self._drop()
        elif publication.retain:
            self._latest.pop(publication.topic, None)  # the newest goes last
            self._latest[publication.topic] = publication
        else:
            self._answers.append(publication)
            if len(self._answers) > ANSWERS_MAX:
                self._answers.popleft()

    def _weigh(self, entry: Entry, sign: int) -> None:
        if isinstance(entry, Publication):
            self._count += sign
            self._bytes += sign * len(entry.payload)

    def _drop(self) -> None:
        """The oldest event becomes (part of) a gap."""
        before = []
        while isinstance(self._events[0], Gap):
            before.append(self._events.popleft())
        oldest = self._events.popleft()
        self._weigh(oldest, -1)
        self.dropped += 1
        boot, seq = (oldest.key if isinstance(oldest, Publication) else None) or ("", 0)
        last = before[-1] if before else None
        if isinstance(last, Gap) and last.boot == boot:
            before[-1] = Gap(boot, last.first, seq)
        else:
            before.append(Gap(boot, seq, seq))
        self._events.extendleft(reversed(before))

    def next(self) -> tuple[int, Publication] | None:
        """What to send now, with a token for `acknowledged` (0: no acknowledgement is needed), or None."""
        if self._latest:
            topic = next(iter(self._latest))
            publication = self._latest.pop(topic)
            # Without one at QoS 0: a value that is lost with its connection is sent again with the next.
            return (0 if publication.qos == 0 else self._token(publication)), publication
        if len(self._under_way) >= WINDOW:
            return None
        queue: deque[Publication] | deque[Entry] = self._answers or self._events
        if not queue:
            return None
        entry = queue.popleft()
        if queue is self._events:
            self._weigh(entry, -1)
        publication = self._notice(entry) if isinstance(entry, Gap) else entry
        return self._token(entry), publication

    def _token(self, entry: Entry) -> int:
        self._last_token += 1
        self._under_way[self._last_token] = entry
        return self._last_token

    def acknowledged(self, token: int) -> None:
        self._under_way.pop(token, None)

    def broken(self) -> None:
        """The connection is gone: what was not acknowledged waits again, and goes first."""
        for token in sorted(self._under_way, reverse=True):
            entry = self._under_way.pop(token)
            if isinstance(entry, Gap) or entry.key is not None:
                self._events.appendleft(entry)
                self._weigh(entry, 1)
            elif not entry.retain:
                self._answers.appendleft(entry)

    def waiting(self) -> tuple[Publication, ...]:
        """All events not acknowledged, in order: what a file would keep."""
        under_way = [self._under_way[token] for token in sorted(self._under_way)]
        kept = [entry for entry in under_way if isinstance(entry, Gap) or entry.key is not None]
        return tuple(self._notice(e) if isinstance(e, Gap) else e for e in (*kept, *self._events))

    def forget_values(self) -> None:
        """State topics and answers are of no use any more: they are made anew, or nobody waits for them."""
        self._latest.clear()


def _is_event(entry: Entry) -> bool:
    return isinstance(entry, Publication) and entry.key is not None
