"""What a watch reads: every payload of the agent, and of everybody else nothing that could hurt."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fleet import world
from tests.mqtt_schemas import check, registry
from wgrouter.fleet import messages
from wgrouter.fleet.messages import Unreadable
from wgrouter.mqtt import payloads
from wgrouter.mqtt.topics import Publication

READERS: dict[str, Callable[[bytes], object]] = {
    "birth": messages.birth,
    "state": messages.state,
    "wan": messages.wan,
    "tunnel": messages.peer,
    "event": messages.event,
    "response": messages.response,
}


def told(what: str) -> list[Publication]:
    one = world.Simulated(3, 10)
    return one.events(what) + one.everything(what)


def kind(publication: Publication) -> str:
    return publication.topic.split("/")[2]


@pytest.mark.parametrize("what", [world.CALM, world.CUT, world.SILENT])
def test_everything_that_the_agent_says_is_read(what: str) -> None:
    seen = set()
    for one in told(what):
        check(one.topic, one.payload)
        seen.add(kind(one))
        if kind(one) == "availability":
            assert messages.online(one.payload)
        else:
            READERS[kind(one)](one.payload)
    assert seen >= {"availability", "birth", "state", "wan", "tunnel", "event"}


def test_it_reads_the_version_that_the_agent_writes() -> None:
    assert messages.SCHEMA == payloads.SCHEMA


def test_what_a_summary_says_arrives() -> None:
    state = messages.state(next(one.payload for one in told(world.CUT) if kind(one) == "state"))
    assert state.active == {"ipv4": "lte", "ipv6": "lte"}
    assert (state.alive, state.peers, state.switches) == (4, 4, 2)
    assert state.wans["wan"]["ipv4"].state == "off"
    assert set(state.tunnels) == {"wg0/r0002", "wg0/r0004", "wg0/hub-east", "wg0/hub-west"}


SAMPLES = {kind(one): json.loads(one.payload) for one in told(world.CUT) if kind(one) != "availability"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def texts(value: object) -> list[str]:
    """Every text in what was read."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in texts(part)]
    if isinstance(value, (list, tuple)):
        return [text for item in value for text in texts(item)]
    if hasattr(value, "__dataclass_fields__"):
        return [
            t for name in value.__dataclass_fields__ if name != "result" for t in texts(getattr(value, name))
        ]
    return []


def read(name: str, payload: bytes) -> object:
    """What was read, None for what was not understood; every text in it is safe to show."""
    try:
        value = READERS[name](payload)
    except Unreadable as error:
        assert str(error).isprintable()
        return None
    for text in texts(value):
        assert text.isprintable()
    return value


@given(st.sampled_from(sorted(READERS)), st.binary(max_size=200) | JSON.map(lambda j: json.dumps(j).encode()))
def test_what_is_no_message_is_refused_in_printable_words(name: str, payload: bytes) -> None:
    assert read(name, payload) is None


@given(st.data())
def test_one_field_of_another_kind_harms_nobody(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(SAMPLES)))
    sample: Any = json.loads(json.dumps(SAMPLES[name]))
    where = sample
    while isinstance(where, dict) and where:
        key = data.draw(st.sampled_from(sorted(where)))
        if not isinstance(where[key], dict) or data.draw(st.booleans()):
            where[key] = data.draw(JSON)
            break
        where = where[key]
    read(name, json.dumps(sample).encode())


@given(st.text(max_size=50))
def test_names_from_outside_are_safe_to_show(label: str) -> None:
    state = json.loads(json.dumps(SAMPLES["state"]))
    state["tunnels"]["wg0"]["peers"] = {label: next(iter(state["tunnels"]["wg0"]["peers"].values()))}
    state["wans"][label] = state["wans"]["lte"]
    state["active"]["ipv4"] = label
    state["worst"] = {"subject": label, "code": "cause.silent", "text": label}
    assert read("state", json.dumps(state).encode()) is not None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jgone", "?[2Jgone"),
        ("\x9b31m", "?31m"),  # the C1 form of an escape sequence
        ("a\nb\tc", "a?b?c"),
        ("\u202eevil", "?evil"),  # right to left from here
        ("e" + "\u0301" * 9, "é" + "\u0301" * 2),
        ("\ud800", "?"),
        ("総社", "総社"),
    ],
)
def test_control_characters_become_question_marks(text: str, shown: str) -> None:
    assert messages.clean(text) == shown


@pytest.mark.parametrize(
    ("name", "payload", "says"),
    [
        ("state", b"{", "not JSON"),
        ("state", b"[]", "it is a list, not an object"),
        ("state", b'{"v":1,"v":true}', "v is true or false, not a whole number"),
        ("state", b'{"v":2,"time":0}', "schema 2; this program reads 1"),
        ("birth", b'{"v":1,"time":NaN}', "not JSON: NaN is no JSON"),
        ("birth", b'{"v":1,"time":1e999}', "time is a number, not a number"),
        ("wan", b'{"v":1,"time":1,"clock_trusted":true}', "boot is missing"),
        ("event", b"[" * 60_000, "not JSON"),
        ("event", b'{"v":' + b"9" * 5000 + b"}", "not JSON"),
        ("tunnel", b"x" * (10 << 20), "10485760 bytes; a message has at most 65536"),
    ],
)
def test_a_refusal_says_what_is_wrong(name: str, payload: bytes, says: str) -> None:
    with pytest.raises(Unreadable, match="^" + says.replace("(", r"\(")):
        READERS[name](payload)


def test_a_router_with_too_much_is_cut_and_not_refused() -> None:
    state = json.loads(json.dumps(SAMPLES["state"]))
    peer = next(iter(state["tunnels"]["wg0"]["peers"].values()))
    state["tunnels"] = {
        f"wg{n}": {"wan": None, "peers": {f"p{m}": peer for m in range(30)}} for n in range(20)
    }
    read_state = messages.state(json.dumps(state, separators=(",", ":")).encode()[:])
    assert len(read_state.tunnels) == messages.PEERS_MAX


def test_availability_is_one_of_two_words() -> None:
    assert messages.online(b"offline") is False
    with pytest.raises(Unreadable, match=r"availability is '\?\[0m', not online or offline"):
        messages.online(b"\x1b[0m")
    assert registry()["availability.json"].contents["enum"] == ["online", "offline"]
