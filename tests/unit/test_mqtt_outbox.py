"""What waits: order, bounds, gaps, and that nothing is lost or invented when connections break."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from wgrouter.mqtt.outbox import BYTES_MAX, WINDOW, Gap, Outbox
from wgrouter.mqtt.topics import Publication


def event(seq: int, size: int = 10, boot: str = "a") -> Publication:
    return Publication("event", b"x" * size, 1, key=(boot, seq))


def notice(gap: Gap) -> Publication:
    return Publication("event", f"{gap.first}-{gap.last}".encode(), 1, key=(gap.boot, gap.last))


def drained(outbox: Outbox) -> list[Publication]:
    """All that comes out while everything is acknowledged at once."""
    found = []
    while (item := outbox.next()) is not None:
        token, publication = item
        found.append(publication)
        if token:
            outbox.acknowledged(token)
    return found


def numbers(found: list[Publication]) -> list[int]:
    return [one.key[1] for one in found if one.key]


def test_events_come_in_order() -> None:
    outbox = Outbox(100, notice)
    for seq in range(1, 51):
        outbox.put(event(seq))
    assert numbers(drained(outbox)) == list(range(1, 51))
    assert len(outbox) == 0


def test_no_more_than_a_window_is_under_way() -> None:
    outbox = Outbox(100, notice)
    for seq in range(1, 51):
        outbox.put(event(seq))
    tokens = []
    while (item := outbox.next()) is not None:
        tokens.append(item[0])
    assert len(tokens) == WINDOW
    outbox.acknowledged(tokens[0])
    assert outbox.next() is not None
    assert outbox.next() is None


def test_what_was_under_way_goes_again_first() -> None:
    outbox = Outbox(100, notice)
    for seq in range(1, 41):
        outbox.put(event(seq))
    first = [outbox.next() for _ in range(10)]
    assert first[2] is not None
    outbox.acknowledged(first[2][0])
    outbox.broken()
    assert numbers(drained(outbox)) == [1, 2, *range(4, 41)]


def test_fifty_thousand_events_leave_the_latest_and_say_what_is_missing() -> None:
    outbox = Outbox(1000, notice)
    tracemalloc.start()
    for seq in range(1, 50_001):
        outbox.put(event(seq, 400))
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 2 * 1000 * 700
    assert outbox.dropped == 49_000
    found = drained(outbox)
    assert found[0].payload == b"1-49000"
    assert numbers(found) == list(range(49_000, 50_001))


def test_bytes_are_bounded_too() -> None:
    outbox = Outbox(10_000, notice)
    for seq in range(1, 3001):
        outbox.put(event(seq, 1000))
    assert outbox.bytes <= BYTES_MAX
    assert outbox.dropped > 1900


def test_a_gap_behind_what_is_under_way_stays_there() -> None:
    outbox = Outbox(5, notice)
    for seq in range(1, 4):
        outbox.put(event(seq))
    under_way = [outbox.next() for _ in range(3)]
    for seq in range(4, 12):
        outbox.put(event(seq))
    assert all(under_way)
    outbox.broken()
    assert numbers(drained(outbox)) == [1, 2, 3, 6, 7, 8, 9, 10, 11]


def test_a_gap_that_was_not_acknowledged_is_told_again() -> None:
    outbox = Outbox(2, notice)
    for seq in range(1, 6):
        outbox.put(event(seq))
    item = outbox.next()
    assert item is not None
    assert item[1].payload == b"1-3"
    outbox.broken()
    outbox.put(event(6))
    found = drained(outbox)
    assert found[0].payload == b"1-4"
    assert numbers(found) == [4, 5, 6]


def test_lives_of_the_agent_have_gaps_of_their_own() -> None:
    outbox = Outbox(2, notice)
    for boot in "ab":
        for seq in range(1, 4):
            outbox.put(event(seq, boot=boot))
    found = drained(outbox)
    assert [(one.key, one.payload) for one in found if b"-" in one.payload] == [
        (("a", 3), b"1-3"),
        (("b", 1), b"1-1"),
    ]


def test_of_a_state_topic_the_latest_value_counts() -> None:
    outbox = Outbox(10, notice)
    for value in (b"1", b"2", b"3"):
        outbox.put(Publication("state", value, 0, True))
    outbox.put(Publication("wan", b"w", 0, True))
    assert [one.payload for one in drained(outbox)] == [b"3", b"w"]


def test_what_a_file_keeps_is_all_that_was_not_acknowledged() -> None:
    outbox = Outbox(4, notice)
    for seq in range(1, 4):
        outbox.put(event(seq))
    outbox.next()
    for seq in range(4, 8):
        outbox.put(event(seq))
    kept = numbers(list(outbox.waiting()))
    assert kept == [1, 3, 4, 5, 6, 7]


@given(
    st.lists(st.sampled_from(["put", "send", "ack", "ack-last", "break"]), max_size=300), st.integers(1, 8)
)
def test_whatever_happens_each_event_comes_or_lies_in_a_gap(story: list[str], limit: int) -> None:
    """Compared with what a receiver does: it takes each number once, and knows of gaps by their notices."""
    outbox = Outbox(limit, notice)
    seq, under_way, came = 0, [], []
    for word in story:
        if word == "put":
            seq += 1
            outbox.put(event(seq))
        elif word == "send":
            item = outbox.next()
            if item is not None:
                under_way.append(item)
        elif word in ("ack", "ack-last") and under_way:
            token, publication = under_way.pop(0 if word == "ack" else -1)
            came.append(publication)
            outbox.acknowledged(token)
        elif word == "break":
            under_way.clear()
            outbox.broken()
    came += [publication for _, publication in under_way]
    came += drained(outbox)
    covered: set[int] = set()
    for publication in came:
        first, dash, last = publication.payload.decode().partition("-")
        covered |= set(range(int(first), int(last) + 1)) if dash else {publication.key[1]}  # type: ignore[index]
    assert covered == set(range(1, seq + 1))
    assert len(outbox) <= limit + WINDOW
