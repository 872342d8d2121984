"""The ring, its lines, and replay: what was recorded is what a fresh engine decides; damage has a line."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wgrouter.core import findings, messages, model
from wgrouter.core.findings import Finding, Rejected, Why
from wgrouter.core.messages import (
    Answered,
    Commanded,
    Configured,
    Event,
    Failed,
    Hinted,
    Look,
    Observed,
    Record,
    Replied,
    SetEndpoint,
    Step,
    Stopping,
    Woke,
)
from wgrouter.core.model import EVERYTHING, NEVER, DeviceSeen, Endpoint, Link, Nameserver, Net, PeerSeen
from wgrouter.core.records import fields
from wgrouter.core.settings import HostPort, Peer, Settings, Tunnel, Wan
from wgrouter.shell.journal import NOTABLE, SEGMENTS, Journal, brief, last_words, save, wall_time
from wgrouter.shell.replay import Difference, JournalError, Recording, classes, read, replay

# ---- an engine that is easy to predict -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Counted:
    """The state of the toy engine: tuples, mappings and never-ending times, as the real one has."""

    steps: int = 0
    names: tuple[str, ...] = ()
    last_at: float = float("-inf")


class Toy:
    """Says something at every third step, changes something at every fifth, and looks otherwise."""

    def __init__(self, state: Counted | None = None) -> None:
        self.state = state or Counted()

    def handle(self, event: Event, now: float) -> Step:
        name = type(event).__name__
        self.state = Counted(self.state.steps + 1, (*self.state.names, name)[-3:], now)
        count = self.state.steps
        said = (Finding(Why.TUNNEL_DEAD, "wg0/office", {"evidence": f"step {count}"}, (Rejected("x", "y"),)),)
        change = SetEndpoint("wg0", "key", Endpoint("203.0.113.5", count))
        return Step(
            (change,) if count % 5 == 0 else (Look(EVERYTHING),),
            said if count % 3 == 0 else (),
            NEVER if count % 2 else now + 1,
        )


KNOWN = [
    cls
    for module in (findings, messages, model)
    for cls in vars(module).values()
    if isinstance(cls, type) and cls.__module__ == module.__name__
] + [Counted]

EVENTS: tuple[Event, ...] = (
    Hinted("rtnetlink", "wan"),
    Observed(net=Net(links={"eth0": Link(2, "eth0")}), nameservers=()),
    Woke(),
    Replied(4, 0.0123456789),
    Answered(1, "NOERROR", records=(Record("vpn.example.net", "A", 60, "203.0.113.5"),)),
    Failed(Look(EVERYTHING), "Größe → ☃", 19),
    Commanded("switch", {"_": "tag", "wan": "lte"}),
)


def recorded(steps: int = 40, **bounds: Any) -> tuple[Journal, Toy]:
    engine = Toy()
    journal = Journal(engine.state, 10.0, wall=lambda: 1.8e9, **bounds)
    for number in range(steps):
        event, now = EVENTS[number % len(EVENTS)], 10.0 + number / 3
        journal.record(event, now, engine.handle(event, now), engine.state)
    return journal, engine


def read_back(journal: Journal) -> Recording:
    return read([line + "\n" for line in journal.lines()], KNOWN)


# ---- the ring -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [4, 10, 100, 512])
def test_the_ring_is_bounded_by_entries_and_holds_three_quarters_of_them(bound: int) -> None:
    journal, _ = recorded(2000, entries=bound)
    assert bound * (SEGMENTS - 1) // SEGMENTS - SEGMENTS <= len(journal) <= bound
    assert [entry.number for entry in journal.entries()][-1] == 2000


def test_the_ring_is_bounded_by_size() -> None:
    engine, big = Toy(), {f"eth{n}": Link(n, f"eth{n}") for n in range(100)}
    journal = Journal(engine.state, 0.0, size=200_000)
    for number in range(500):
        event = Observed(net=Net(links=dict(big)))  # another object each time
        journal.record(event, float(number), engine.handle(event, float(number)), engine.state)
        assert journal.size <= 200_000
    assert len(journal) >= 3


def test_one_entry_that_is_too_big_alone_is_forgotten() -> None:
    engine = Toy()
    journal = Journal(engine.state, 0.0, size=10_000)
    event = Observed(net=Net(links={f"eth{n}": Link(n, f"eth{n}") for n in range(1000)}))
    journal.record(event, 0.0, engine.handle(event, 0.0), engine.state)
    assert len(journal) == 0
    assert read_back(journal).steps == 0


def test_what_snapshots_share_is_weighed_once() -> None:
    engine, net = Toy(), Net(links={f"eth{n}": Link(n, f"eth{n}") for n in range(100)})
    device = DeviceSeen("wg0", peers={f"key{n}": PeerSeen(f"key{n}") for n in range(100)})
    journal = Journal(engine.state, 0.0)
    weights = []
    for number in range(10):
        event, before = Observed(net=net, wireguard={"wg0": device}), journal.size
        journal.record(event, float(number), engine.handle(event, float(number)), engine.state)
        weights.append(journal.size - before)
    assert weights[0] > 50_000
    assert max(weights[1:]) < 2_000


def test_recording_renders_nothing() -> None:
    class Untouchable:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(name)

    journal = Journal(Untouchable(), 0.0)
    for number in range(3000):
        journal.record(Woke(), float(number), Step(), Untouchable())


@pytest.mark.parametrize("steps", [0, 1, 3, 100, 1000])
def test_what_is_left_of_the_ring_replays(steps: int) -> None:
    journal, _ = recorded(steps, entries=40)
    recording = read_back(journal)
    assert recording.steps == len(journal)
    assert replay(recording, Toy) == []


def test_lines_are_read_back_as_they_were() -> None:
    journal, _ = recorded(20)
    entries = [item for item in read_back(journal).items if hasattr(item, "event")]
    assert entries == list(journal.entries())


def test_a_person_can_read_the_lines() -> None:
    journal, _ = recorded(6)
    lines = [json.loads(line) for line in journal.lines()]
    assert lines[0]["wgrouter"]
    assert lines[4]["says"] == ["wg0/office: step 3"]
    assert any("Größe → ☃" in line for line in journal.lines())


def test_without_a_clock_there_is_no_wall_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1000.0)
    assert wall_time() is None
    monkeypatch.setattr("time.time", lambda: 1.8e9)
    assert wall_time() == 1.8e9


# ---- for people -----------------------------------------------------------------------------------------


def test_the_tail_shows_what_was_said_or_changed_and_reaches_back_beyond_the_ring() -> None:
    journal, _ = recorded(60, entries=12)
    shown = journal.tail(1000)
    assert [row["number"] for row in shown if row["findings"]] == list(range(3, 61, 3))
    assert shown[0]["event"] == ""
    assert shown[-1]["effects"] == ["wg set wg0 peer key endpoint 203.0.113.5:60"]
    assert all("Look" not in effect for row in shown for effect in row["effects"])


def test_the_tail_can_show_everything_and_go_on_after_a_step() -> None:
    journal, _ = recorded(30)
    assert [row["number"] for row in journal.tail(5, every=True)] == [26, 27, 28, 29, 30]
    assert [row["number"] for row in journal.tail(100, after=28, every=True)] == [29, 30]
    assert journal.tail(100, after=30) == []
    assert json.dumps(journal.tail(100, every=True))


def test_notes_are_bounded() -> None:
    journal, _ = recorded(3 * NOTABLE + 300)
    assert len(list(journal.notes())) == NOTABLE


def test_last_words_have_the_fault_and_the_steps_before_it() -> None:
    journal, _ = recorded(30)
    try:
        raise ZeroDivisionError("our fault")
    except ZeroDivisionError as error:
        lines = last_words(error, journal, 3)
    assert any("ZeroDivisionError: our fault" in line for line in lines)
    assert [line.split(":")[0].split(" at")[0] for line in lines[-3:]] == ["step 28", "step 29", "step 30"]
    assert lines[-1].endswith("step 30")
    assert all("\n" not in line for line in lines)


@given(
    st.recursive(st.none() | st.integers() | st.text() | st.floats(), lambda x: st.tuples(x, x) | st.lists(x))
)
def test_brief_takes_anything(value: Any) -> None:
    assert isinstance(brief(Hinted(value, value)), str)
    assert isinstance(brief(Endpoint(value, value)), str)
    assert isinstance(brief({"key": value}), str)


# ---- the file -------------------------------------------------------------------------------------------


def test_a_tee_has_what_the_ring_lost() -> None:
    engine, file = Toy(), io.StringIO()
    journal = Journal(engine.state, 0.0, entries=8)
    failures: list[OSError] = []
    for number in range(100):
        if number == 5:
            journal.tee(file.write, failures.append)
        event = EVENTS[number % len(EVENTS)]
        journal.record(event, float(number), engine.handle(event, float(number)), engine.state)
    recording = read(io.StringIO(file.getvalue()), KNOWN)
    assert recording.steps >= 97
    assert replay(recording, Toy) == []
    assert failures == []


def test_a_ring_is_saved_whole_for_root_alone_and_replays(tmp_path: Path) -> None:
    journal, engine = recorded(30)
    event = Commanded("switch", {"wan": "\udc80"})  # half a surrogate pair
    journal.record(event, 99.0, engine.handle(event, 99.0), engine.state)
    path = tmp_path / "journal.jsonl"
    path.write_text("old")
    save(journal, str(path))
    with path.open("rb") as file:
        recording = read(file, KNOWN)
    assert recording.steps == 31
    assert replay(recording, Toy) == []
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["journal.jsonl"]


def test_a_full_disk_ends_the_tee_and_not_the_agent() -> None:
    journal, engine = recorded(3)
    failures: list[OSError] = []

    def full(line: str) -> None:
        raise OSError(28, "No space left on device")

    journal.tee(full, failures.append)
    journal.record(Woke(), 99.0, engine.handle(Woke(), 99.0), engine.state)
    assert [error.strerror for error in failures] == ["No space left on device"]


# ---- replay ---------------------------------------------------------------------------------------------


class Changed(Toy):
    """Decides otherwise at one step, and remembers otherwise."""

    def handle(self, event: Event, now: float) -> Step:
        step = super().handle(event, now)
        if self.state.steps == 7:
            self.state = replace(self.state, names=("other",))
            return replace(step, effects=(), findings=(), wake_at=now + 5)
        return step


def test_a_difference_is_found_and_does_not_drag_along_what_follows() -> None:
    journal, _ = recorded(40, entries=40)
    found = replay(read_back(journal), Changed)
    assert [(one.step, one.part) for one in found] == [(7, "effects"), (7, "wake_at")]
    assert found[0].recorded == "Look parts=net,wireguard,nameservers,interfaces"
    assert found[0].replayed == "nothing"


def test_a_state_that_drifts_is_found_at_the_next_checkpoint_and_said_where() -> None:
    class Drifting(Toy):
        def handle(self, event: Event, now: float) -> Step:
            step = super().handle(event, now)
            self.state = replace(self.state, last_at=now + 1)
            return step

    journal, _ = recorded(40, entries=40)
    found = replay(read_back(journal), Drifting)
    assert {one.part for one in found} == {"state"}
    assert [one.step for one in found] == [10, 20, 30, 40]
    assert found[0].recorded == "last_at 13"


def test_after_a_checkpoint_replay_goes_on_from_what_was_recorded() -> None:
    class Slipping(Toy):
        def handle(self, event: Event, now: float) -> Step:
            step = super().handle(event, now)
            if self.state.steps == 7:
                self.state = replace(self.state, steps=8)
            return step

    journal, _ = recorded(40, entries=40)
    found = replay(read_back(journal), Slipping)
    assert [one.step for one in found if one.part == "state"] == [10]
    assert {one.step for one in found} <= {8, 9, 10}


def test_an_engine_that_breaks_is_a_difference() -> None:
    class Broken(Toy):
        def handle(self, event: Event, now: float) -> Step:
            if self.state.steps == 12:
                raise KeyError("wan")
            return super().handle(event, now)

    journal, _ = recorded(40, entries=40)
    found = replay(read_back(journal), Broken)
    assert [(one.step, one.part, one.replayed) for one in found] == [(13, "exception", "KeyError: 'wan'")]


def test_no_more_differences_than_asked() -> None:
    class Silent(Toy):
        def handle(self, event: Event, now: float) -> Step:
            super().handle(event, now)
            return Step()

    journal, _ = recorded(100)
    found = replay(read_back(journal), Silent, most=5)
    assert len(found) == 5
    assert all(isinstance(one, Difference) for one in found)


# ---- damage ---------------------------------------------------------------------------------------------

WHOLE = "".join(line + "\n" for line in recorded(12)[0].lines())


def lines_with(number: int, change: Callable[[dict[str, Any]], Any]) -> list[str]:
    lines = WHOLE.splitlines(keepends=True)
    lines[number - 1] = json.dumps(change(json.loads(lines[number - 1]))) + "\n"
    return lines


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], "line 1: empty"),
        (["\n", "  \n"], "line 1: empty"),
        (["hello\n"], "line 1: not JSON"),
        (["[1]\n"], "line 1: an object is expected, not list"),
        (['{"a": 1}\n'], 'line 1: not a journal of wgrouter: the first line has no "journal"'),
        (['{"journal": 99, "wgrouter": "9"}\n'], "line 1: written in form 99, this version reads 1"),
        (['{"journal": 1}\n'], 'line 1: "wgrouter" must be a version, not None'),
        (["[" * 100_000 + "\n"], "line 1: nested too deeply"),
        ([b"\xff\xfe\n"], "line 1: not UTF-8 at byte 1"),
        (lines_with(3, lambda line: {"at": 1}), "line 3: neither a checkpoint nor a step"),
        (
            lines_with(3, lambda line: {**line, "at": "now"}),
            'line 3: "at" must be a number of seconds, not now',
        ),
        (
            lines_with(3, lambda line: {**line, "at": None}),
            'line 3: "at" must be a number of seconds, not None',
        ),
        (lines_with(3, lambda line: {**line, "step": "3"}), 'line 3: "step" must be a number'),
        (lines_with(3, lambda line: {**line, "wall": "noon"}), 'line 3: "wall" must be a number, not noon'),
        (lines_with(3, lambda line: {**line, "wake_at": []}), 'line 3: "wake_at" must be a number, not'),
        (lines_with(3, lambda line: {**line, "event": 7}), 'line 3: "event" holds 7, which is no event'),
        (lines_with(3, lambda line: {**line, "event": {"_": "Look", "parts": []}}), "which is no event"),
        (lines_with(3, lambda line: {**line, "event": {"_": "Hinted"}}), "line 3: 'Hinted' is not readable"),
        (lines_with(3, lambda line: {**line, "event": {"_": "Wok"}}), "line 3: 'Wok' is not readable"),
        (lines_with(3, lambda line: {**line, "effects": 1}), 'line 3: "effects" must be a list'),
        (lines_with(3, lambda line: {**line, "effects": [{"_": "Woke"}]}), 'line 3: "effects" holds Woke'),
        (lines_with(3, lambda line: {**line, "findings": ["x"]}), 'line 3: "findings" holds x'),
        (lines_with(3, lambda line: {"step": 1, "at": 1.0}), 'line 3: "event" is missing'),
        (lines_with(2, lambda line: {"checkpoint": 1.0}), 'line 2: "state" is missing'),
        ([WHOLE.splitlines()[0], WHOLE.splitlines()[2]], "line 2: a step before the first checkpoint"),
        ([*WHOLE.splitlines(keepends=True)[:3], '{"step"\n'], "line 4: not JSON"),
        ([*WHOLE.splitlines(keepends=True)[:3], '{"step"', "{}"], "line 4: not JSON, and more lines follow"),
    ],
)
def test_damage_is_said_by_line(lines: list[str | bytes], says: str) -> None:
    with pytest.raises(JournalError) as caught:
        read(lines, KNOWN)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_last_line_that_was_broken_off_is_left_out() -> None:
    lines = WHOLE.splitlines(keepends=True)
    lines[-1] = lines[-1][: len(lines[-1]) // 2]
    recording = read(lines, KNOWN)
    assert recording.cut
    assert recording.steps == 11
    assert replay(recording, Toy) == []


def tolerant(lines: list[bytes]) -> None:
    try:
        recording = read(lines, KNOWN)
    except JournalError as error:
        assert error.line >= 1
        return
    for difference in replay(recording, Toy):
        assert json.dumps([getattr(difference, field.name) for field in fields(difference)])


@given(st.data())
def test_bytes_changed_at_random_break_nothing(data: st.DataObject) -> None:
    damaged = bytearray(WHOLE.encode())
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    tolerant(bytes(damaged).splitlines(keepends=True))


TAGS = st.sampled_from(["float", "map", *(cls.__name__ for cls in KNOWN)])
KEYS = st.sampled_from(["_", "text", "items", "name", "parts", "id", "source", "event", "at"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.builds(lambda rest, tag: {**rest, "_": tag}, st.dictionaries(KEYS, inner, max_size=3), TAGS)
    ),
)
FIELDS = ["event", "effects", "findings", "wake_at", "at", "wall", "step", "checkpoint", "state"]


@given(st.sampled_from(FIELDS), JSON)
def test_values_of_any_shape_break_nothing(field: str, value: Any) -> None:
    number = 2 if field in ("checkpoint", "state") else 5
    tolerant([line.encode() for line in lines_with(number, lambda line: {**line, field: value})])


@given(st.lists(st.binary(max_size=50) | st.text(max_size=50).map(str.encode), max_size=5))
def test_any_lines_at_all_break_nothing(lines: list[bytes]) -> None:
    tolerant(lines)


# ---- the real engine ------------------------------------------------------------------------------------


def test_the_codec_knows_every_class_of_the_core_by_a_name_of_its_own() -> None:
    pytest.importorskip("wgrouter.core.engine")
    known = {cls.__name__: cls for cls in classes()}
    for kind in (messages.Event, messages.Effect):
        for cls in get_args(kind):
            assert known[cls.__name__] is cls
    assert known["Why"] is Why
    assert Stopping in known.values()


def test_the_real_engine_replays() -> None:
    engine = pytest.importorskip("wgrouter.core.engine").Engine()
    journal = Journal(engine.state, 0.0, entries=12)
    peer = Peer("wg0", "k" * 43 + "=", "office", endpoints=(HostPort("vpn.example.net"),))
    settings = Settings(tunnels=(Tunnel("wg0", peers=(peer,)),), wans=(Wan("wan", device="eth0"),))
    seen = DeviceSeen("wg0", listen_port=51820, peers={peer.public_key: PeerSeen(peer.public_key)})
    look = Observed(Net(links={"eth0": Link(2, "eth0")}), {"wg0": seen}, (Nameserver("192.0.2.53"),), None)
    now = 0.0
    for event in (Configured(settings, "seed"), look, *[Hinted("rtnetlink"), look, Woke()] * 10):
        now += 0.7
        journal.record(event, now, engine.handle(event, now), engine.state)
    recording = read(line + "\n" for line in journal.lines())
    assert recording.steps == len(journal)
    assert replay(recording, type(engine)) == []
