"""Commands as the router judges them: what is sent is what its desk takes, signed or not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fleet import world
from tests.mqtt_schemas import check
from wgrouter.fleet import command, messages
from wgrouter.fleet.command import Command, Wrong
from wgrouter.mqtt.commands import LIFE_MAX, VERBS, Desk, Refusal, Request, reply_topic
from wgrouter.mqtt.payloads import Moment
from wgrouter.mqtt.topics import Topics

TOPICS = Topics("wgrouter", "r0003")
T = 1_763_708_400.0
SECRET = b"sixteen letters!"
WORDS = {
    "switch": [["lte"], ["lte", "10m"], ["wan=auto"], ["seconds=90", "lte"]],
    "explain": [[], ["wg0/site1"]],
    "diagnose": [[], ["wan"]],
    "set": [["mqtt.heartbeat", "60"], ["probing.target", "1.1.1.1", "9.9.9.9"], ["wan.lte.weight", "3"]],
}
SOME = [(verb, words) for verb in VERBS for words in WORDS.get(verb, [[]])]


def order(verb: str, words: list[str], life: float = 30.0) -> Command:
    return Command(TOPICS, verb, command.arguments(verb, words), "0123456789abcdef", T, life)


@pytest.mark.parametrize("secret", [b"", SECRET])
@pytest.mark.parametrize(("verb", "words"), SOME)
def test_a_router_takes_what_is_sent(verb: str, words: list[str], secret: bytes) -> None:
    one = order(verb, words)
    desk = Desk(TOPICS, tuple(VERBS), secret, 0.0)
    payload = one.payload(secret)
    check(one.topic, payload)
    judged = desk.judge(one.topic, payload, Moment(100.0, T + 1))
    assert isinstance(judged, Request)
    assert (judged.verb, judged.id, judged.arguments) == (verb, one.id, one.arguments)


def test_another_key_is_refused() -> None:
    one = order("refresh", [])
    desk = Desk(TOPICS, tuple(VERBS), b"another key, as long", 0.0)
    with pytest.raises(Refusal, match="signature"):
        desk.judge(one.topic, one.payload(SECRET), Moment(100.0, T))


@pytest.mark.parametrize("life", [1.0, 60.0, 1e9])
def test_no_command_lives_longer_than_a_router_accepts(life: float) -> None:
    expires = json.loads(order("refresh", [], life).payload())["expires"]
    assert 0 < expires - T < LIFE_MAX


def test_the_router_may_write_where_it_is_asked_to_answer() -> None:
    one = order("explain", [])
    assert reply_topic(one.reply_topic, TOPICS, "explain") == one.reply_topic
    assert one.reply_topic.startswith("wgrouter/r0003/")


def answer(**changed: object) -> bytes:
    data = {"v": 1, "time": T, "clock_trusted": True, "boot": "0a1b2c3d.1f40", "verb": "refresh"}
    data |= {"id": "0123456789abcdef", "ok": True, "result": {}}
    return json.dumps({**data, **changed}).encode()


def test_its_answer_is_known_by_its_id() -> None:
    one = order("refresh", [])
    for topic in one.answer_topics:
        found = one.answer(topic, answer())
        assert found is not None
        assert found.ok
        assert one.answer(topic, answer(id="of somebody else")) is None
        assert one.answer(topic, b"garbage") is None
    assert one.answer("wgrouter/r0004/cmd/refresh/response", answer()) is None
    refused = answer(id=None, ok=False, error={"code": "not-json", "text": "a command is one JSON object"})
    assert one.answer(one.answer_topics[1], refused) is None  # it may be anybody's
    found = one.answer(one.reply_topic, refused)
    assert found is not None
    assert found.code == "not-json"


@pytest.mark.parametrize(
    ("verb", "words", "says"),
    [
        ("reboot", [], "'reboot' is no verb; there are: refresh, reresolve,"),
        ("switch", [], "WAN is missing; accepted: switch WAN [SECONDS]"),
        ("switch", ["lte", "soon"], "seconds is 'soon'; accepted: 90, 90s, 10m, 2h"),
        ("refresh", ["now"], "'now' is too much; accepted: refresh"),
        ("set", ["mqtt.heartbeat"], "VALUE is missing; accepted: set SETTING VALUE"),
    ],
)
def test_what_is_no_command_is_said_before_anything_is_sent(verb: str, words: list[str], says: str) -> None:
    with pytest.raises(Wrong, match="^" + says.replace("[", r"\[")):
        command.arguments(verb, words)


@given(
    st.sampled_from(sorted(VERBS)),
    st.lists(st.text(max_size=8) | st.sampled_from(["lte", "10m", "wan="]), max_size=4),
)
def test_any_words_are_a_command_or_wrong(verb: str, words: list[str]) -> None:
    try:
        one = order(verb, words)
    except Wrong:
        return
    desk = Desk(TOPICS, tuple(VERBS), b"", 0.0)
    assert isinstance(desk.judge(one.topic, one.payload(), Moment(100.0, T)), Request)


def test_what_a_router_says_of_itself_speaks_against_it() -> None:
    birth = messages.birth(
        next(p.payload for p in world.Simulated(3, 9).everything() if p.topic.endswith("birth"))
    )
    assert command.obstacle(birth, "switch", False) == ""
    assert command.obstacle(None, "reload", False) == ""
    assert command.obstacle(birth, "reload", False) == (
        "'reload' is not enabled there (it takes refresh, switch, explain): `list command 'reload'` in its "
        "configuration does that"
    )
