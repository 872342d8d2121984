"""Commands: what is carried out, what is refused and with which words, what is answered twice."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.mqtt_schemas import check, validator
from tests.unit.mqtt_router import IDENTITY, Router
from wgrouter.config import edit
from wgrouter.core.findings import Finding
from wgrouter.core.settings import Mqtt
from wgrouter.mqtt import commands
from wgrouter.mqtt.commands import LIFE_MAX, RATE, REMEMBERED_MAX, VERBS, Refusal, Request
from wgrouter.mqtt.courier import Courier, boot_name, without_keys
from wgrouter.mqtt.payloads import Moment
from wgrouter.mqtt.topics import Topics

TOPICS = Topics("wgrouter", "router")
NOW = Moment(5000.0, 1_763_712_400.0)
KEY = b"correct horse battery staple"


@dataclass
class Agent:
    """Notes what it is told to do; answers when it is let to."""

    router: Router = field(default_factory=Router)
    clock: Moment = NOW
    done: list[Request] = field(default_factory=list)
    said: list[Finding] = field(default_factory=list)
    held: list[Any] = field(default_factory=list)
    hold: bool = False

    def state(self) -> Any:
        return self.router.state

    def moment(self) -> Moment:
        return self.clock

    def tell(self, finding: Finding) -> None:
        self.said.append(finding)

    def obey(self, request: Request, answer: Any) -> None:
        self.done.append(request)
        if self.hold:
            self.held.append(answer)
        elif request.arguments.get("wan") == "nowhere":
            raise Refusal("refused", "no WAN is called 'nowhere'")
        else:
            answer({"text": "done"})


@dataclass
class Link:
    """A broker that is there, and what it was given."""

    sent: list[tuple[str, bytes, bytes]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    connected: bool = True
    local: str = "203.0.113.3"

    def send(
        self, token: int, topic: str, payload: bytes, qos: int, retain: bool, correlation: bytes, expiry: int
    ) -> None:
        self.sent.append((topic, payload, correlation))
        self.tokens.append(token)

    def moved(self) -> None: ...

    def hasten(self) -> None: ...


class Desk:
    """A courier with everything enabled, seen from outside."""

    def __init__(self, secret: bytes | None = b"", verbs: tuple[str, ...] = tuple(VERBS)) -> None:
        self.agent, self.link = Agent(), Link()
        self.courier = Courier(Mqtt(commands=verbs), TOPICS, IDENTITY, secret, self.agent)
        self.courier.link = self.link

    def give(
        self,
        payload: bytes | dict[str, Any],
        verb: str = "refresh",
        *,
        retained: bool = False,
        reply_to: str = "",
        correlation: bytes = b"",
    ) -> dict[str, Any] | None:
        """The answer to a command, None if there is none."""
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        before = len(self.link.sent)
        self.courier.received(TOPICS.command(verb), body, retained, reply_to, correlation)
        while self.link.tokens:
            self.courier.acknowledged(self.link.tokens.pop())
        if len(self.link.sent) == before:
            return None
        assert len(self.link.sent) == before + 1
        topic, answer, _ = self.link.sent[-1]
        found = check(TOPICS.response("refresh") if reply_to else topic, answer)
        assert isinstance(found, dict)
        return found

    def refused(self, payload: bytes | dict[str, Any], verb: str = "refresh", **more: Any) -> str:
        """The code of the refusal. Nothing was carried out."""
        before = len(self.agent.done)
        answer = self.give(payload, verb, **more)
        assert answer is not None
        assert not answer["ok"]
        assert len(self.agent.done) == before
        assert self.agent.said[-1].why.code == "command.refused"
        return str(answer["error"]["code"])


def command(**more: Any) -> dict[str, Any]:
    return {"id": "one", "expires": NOW.wall + 60, **more}


def signed(data: dict[str, Any], verb: str = "refresh", key: bytes = KEY) -> dict[str, str]:
    text = json.dumps({"issued": NOW.wall - 1, **data})
    return {"command": text, "hmac": commands.signature(key, TOPICS.command(verb), text.encode())}


# ---------------------------------------------------------------- good ones


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("refresh", {}),
        ("reresolve", {}),
        ("switch", {"wan": "lte", "seconds": 600}),
        ("switch", {"wan": "auto"}),
        ("explain", {"subject": "wg0/warehouse"}),
        ("explain", {}),
        ("diagnose", {}),
        ("report", {}),
        ("reload", {}),
        ("set", {"setting": "hold.up_after", "value": "10s"}),
    ],
)
def test_every_verb_is_carried_out_and_answered(verb: str, arguments: dict[str, Any]) -> None:
    desk = Desk()
    sent = command(arguments=arguments)
    validator("command").validate(sent)
    validator("command", verb).validate(arguments)
    answer = desk.give(sent, verb)
    assert answer is not None
    assert (answer["ok"], answer["id"], answer["verb"]) == (True, "one", verb)
    assert [(r.verb, dict(r.arguments)) for r in desk.agent.done] == [(verb, arguments)]
    assert desk.link.sent[-1][0] == f"wgrouter/router/cmd/{verb}/response"


def test_the_answer_goes_where_it_is_asked_for() -> None:
    desk = Desk()
    desk.give(command(), reply_to="wgrouter/router/reply/me", correlation=b"\x01\x02")
    assert desk.link.sent[-1][::2] == ("wgrouter/router/reply/me", b"\x01\x02")


@pytest.mark.parametrize(
    "wanted",
    ["homeassistant/x", "wgrouter/router/state", "wgrouter/#", "wgrouter/+/x", "", "wgrouter/" + "x" * 300],
)
def test_but_not_anywhere(wanted: str) -> None:
    assert commands.reply_topic(wanted, TOPICS, "refresh") == TOPICS.response("refresh")


def test_a_signed_command_is_carried_out() -> None:
    desk = Desk(KEY)
    sent = signed(command())
    validator("command").validate(sent)
    answer = desk.give(sent)
    assert answer is not None
    assert answer["ok"]


def test_a_second_copy_gets_the_same_answer_and_does_nothing() -> None:
    desk = Desk()
    first = desk.give(command())
    second = desk.give(command())
    assert first == second
    assert len(desk.agent.done) == 1


def test_a_copy_of_one_that_is_under_way_waits_with_it() -> None:
    desk = Desk()
    desk.agent.hold = True
    sent = command(arguments={"setting": "hold.up_after", "value": "10s"})
    assert desk.give(sent, "set") is None
    assert desk.give(sent, "set") is None
    desk.agent.held[0]({"kept": True})
    assert len(desk.link.sent) == 1
    answer = desk.give(sent, "set")
    assert answer is not None
    assert answer["result"] == {"kept": True}


# ---------------------------------------------------------------- bad ones

DEEP = b'{"id":' + b"[" * 7000 + b"]" * 7000 + b"}"

BAD = [
    (b"", "not-json"),
    (b"refresh", "not-json"),
    (b"\xff\xfe\x00", "not-json"),
    (b'{"id":"a","expires":NaN}', "not-json"),
    (b'{"id":"a","expires":' + b"9" * 5000 + b"}", "not-json"),
    (DEEP, "not-json"),
    (b"[]", "wrong-type"),
    (b'"refresh"', "wrong-type"),
    (b"x" * (10 << 20), "too-large"),
    (b"{}", "wrong-type"),
    (command(id=7), "wrong-type"),
    (command(id=""), "wrong-type"),
    (command(id="x" * 65), "wrong-type"),
    (command(id="line\nbreak"), "wrong-type"),
    (command(expires="soon"), "wrong-type"),
    (command(expires=True), "wrong-type"),
    (command(expires=None), "wrong-type"),
    (command(issued="now"), "wrong-type"),
    (command(arguments=[1]), "wrong-type"),
    (command(arguments={"wan": "lte"}), "wrong-type"),
    (command(reboot=True), "wrong-type"),
    (command(expires=NOW.wall - 1), "expired"),
    (command(expires=NOW.wall), "expired"),
    (command(expires=NOW.wall + LIFE_MAX + 1), "expires-late"),
    (command(expires=1e300), "expires-late"),
]


@pytest.mark.parametrize(("payload", "code"), BAD)
def test_bad_commands_are_refused_and_the_reason_said(payload: bytes | dict[str, Any], code: str) -> None:
    desk = Desk()
    assert desk.refused(payload) == code
    answer = desk.give(command(id="after"))
    assert answer is not None
    assert answer["ok"]


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("switch", {}),
        ("switch", {"wan": 7}),
        ("switch", {"wan": "lte", "seconds": "long"}),
        ("switch", {"wan": "lte", "seconds": True}),
        ("switch", {"wan": "lte", "way": 1}),
        ("set", {"setting": "hold.up_after"}),
        ("set", {"setting": "hold.up_after", "value": {}}),
        ("explain", {"subject": ["wg0"]}),
    ],
)
def test_wrong_arguments_are_refused(verb: str, arguments: dict[str, Any]) -> None:
    assert Desk().refused(command(arguments=arguments), verb) == "wrong-type"


def test_other_verbs_and_those_not_enabled_are_refused() -> None:
    desk = Desk(verbs=("refresh",))
    assert desk.refused(command(), "reboot") == "unknown-verb"
    assert desk.refused(command(arguments={"wan": "lte"}), "switch") == "disabled"


def test_without_a_verb_enabled_nothing_is_subscribed() -> None:
    assert Desk(verbs=()).courier.subscriptions == ()
    assert Desk(None).courier.subscriptions == ()
    assert Desk().courier.subscriptions == ("wgrouter/router/cmd/+",)


def test_a_retained_command_is_refused() -> None:
    assert Desk().refused(command(), retained=True) == "retained"


def test_what_the_agent_refuses_is_refused_with_its_words() -> None:
    desk = Desk()
    answer = desk.give(command(arguments={"wan": "nowhere"}), "switch")
    assert answer is not None
    assert answer["error"] == {"code": "refused", "text": "no WAN is called 'nowhere'"}


def test_an_id_is_for_one_command() -> None:
    desk = Desk()
    desk.give(command(arguments={"wan": "lte"}), "switch")
    assert desk.refused(command(arguments={"wan": "wan"}), "switch") == "replayed"
    assert desk.refused(command(), "refresh") == "replayed"


def test_after_its_expiry_a_replay_is_expired() -> None:
    desk = Desk()
    desk.give(command())
    desk.agent.clock = Moment(NOW.now + 61, NOW.wall + 61)
    assert desk.refused(command()) == "expired"


def test_a_flood_is_answered_no_more_than_so_often() -> None:
    desk = Desk()
    answers = [desk.give(b"junk") for _ in range(RATE + 50)]
    assert sum(answer is not None for answer in answers) == RATE
    desk.agent.clock = Moment(NOW.now + 11, NOW.wall + 11)
    assert desk.give(command()) is not None


def test_the_answers_that_are_kept_are_bounded() -> None:
    """A status has 200 KiB with 250 peers: 256 of those would be all the memory of a small router."""
    desk = Desk()
    answers = {}
    for number, size in enumerate((100_000, 100_000, 50_000, 100_000)):
        sent = command(id=f"id{number}")
        judged = desk.courier.desk.judge(TOPICS.command("report"), json.dumps(sent).encode(), NOW)
        assert isinstance(judged, Request)
        answers[number] = bytes([number]) * size
        desk.courier.desk.answered(judged, answers[number])
    for number in (1, 2, 3):
        again = json.dumps(command(id=f"id{number}")).encode()
        known = desk.courier.desk.judge(TOPICS.command("report"), again, NOW)
        assert isinstance(known, commands.Answered) and known.response == answers[number]
    again = json.dumps(command(id="id0")).encode()
    with pytest.raises(Refusal, match="the answer is no longer kept") as caught:
        desk.courier.desk.judge(TOPICS.command("report"), again, NOW)
    assert caught.value.code == "replayed"


def test_what_is_remembered_is_bounded() -> None:
    desk = Desk()
    for number in range(REMEMBERED_MAX):
        desk.agent.clock = Moment(NOW.now + number, NOW.wall + 0.01 * number)
        answer = desk.give(command(id=f"id{number}"))
        assert answer is not None
        assert answer["ok"]
    assert desk.refused(command(id="one too many")) == "busy"
    desk.agent.clock = Moment(NOW.now + 900, NOW.wall + 61)
    later = desk.give(command(id="later", expires=NOW.wall + 100))
    assert later is not None
    assert later["ok"]


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (command(), "unsigned"),
        ({"command": json.dumps(command())}, "unsigned"),
        ({"command": 7, "hmac": "0" * 64}, "unsigned"),
        ({"command": json.dumps(command()), "hmac": "0" * 64}, "bad-signature"),
        ({"command": json.dumps(command()), "hmac": "ä"}, "bad-signature"),
        (signed(command(), key=b"another key of mine"), "bad-signature"),
        (signed(command(), verb="reload"), "bad-signature"),  # made for another topic
        (signed({**command(), "issued": None}), "wrong-type"),
        (signed({**command(), "issued": NOW.wall - 4001}), "replayed"),  # before the agent's start
        (b"junk", "not-json"),
    ],
)
def test_where_signatures_are_asked_for_nothing_else_counts(payload: Any, code: str) -> None:
    assert Desk(KEY).refused(payload) == code


def test_a_clock_that_was_never_set_leaves_only_what_reads() -> None:
    desk = Desk()
    state = desk.agent.router.engine.state
    desk.agent.router.engine.state = replace(state, world=replace(state.world, clock_trusted=False))
    assert desk.refused(command(arguments={"wan": "lte"}), "switch") == "clock"
    answer = desk.give(command(id="two", expires=5.0), "diagnose")
    assert answer is not None
    assert answer["ok"]


@given(st.binary(max_size=200))
def test_no_bytes_end_the_desk(payload: bytes) -> None:
    desk = Desk()
    for secret in (b"", KEY):
        desk.courier.desk.secret = secret
        desk.courier.received(TOPICS.command("switch"), payload, False, "", b"")
    assert not desk.agent.done


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["id", "expires", "arguments", "x"]), inner)
        ),
    ),
    st.sampled_from([*VERBS, "", "x"]),
)
def test_no_json_ends_the_desk(data: Any, verb: str) -> None:
    desk = Desk()
    desk.courier.received(f"wgrouter/router/cmd/{verb}", json.dumps(data).encode(), False, "", b"")
    for topic, payload, _ in desk.link.sent:
        if verb:
            check(topic, payload)


# ---------------------------------------------------------------- set


@pytest.mark.parametrize(
    ("setting", "value", "wanted"),
    [
        ("hold.up_after", "10s", ("hold", "", "up_after", "10s")),
        ("wan.lte.priority", 3, ("wan", "lte", "priority", "3")),
        ("wan.lte.enabled", False, ("wan", "lte", "enabled", "0")),
        ("probing.target", ["192.0.2.1", "192.0.2.2"], ("probing", "", "target", ("192.0.2.1", "192.0.2.2"))),
    ],
)
def test_settings_are_named_by_section_and_option(setting: str, value: Any, wanted: Any) -> None:
    assert commands.setting_of({"setting": setting, "value": value}) == wanted


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("mqtt.broker", "mqtt://evil.example.net"),
        ("mqtt.command", "set"),
        ("mqtt.command_key_file", "/tmp/key"),
        ("peer.office.public_key", "x"),
        ("wan.priority", "1"),
        ("hold.x.up_after", "1"),
        ("hold", "1"),
        ("", "1"),
        ("hold.up_after", ""),
        ("hold.up_after", "1\noption x 2"),
        ("probing.target", []),
        ("probing.target", [1]),
    ],
)
def test_other_settings_are_refused(setting: str, value: Any) -> None:
    with pytest.raises(Refusal):
        commands.setting_of({"setting": setting, "value": value})


FILE = b"""# mine
config wgrouter 'main'
\toption enabled '1'   # on

config wan 'fibre'
\toption priority '1'   # first
\tlist target '192.0.2.1'
\tlist target '192.0.2.2'
config wan lte
\toption metered 1
"""


@pytest.mark.parametrize(
    ("where", "value", "line"),
    [
        (("wan", "fibre", "priority"), "5", b"\toption priority '5'\n"),
        (("wan", "lte", "enabled"), "0", b"\toption enabled '0'\n"),
        (("hold", "", "up_after"), "9s", b"config hold 'hold'\n\toption up_after '9s'\n"),
        (("wan", "fibre", "target"), ("192.0.2.9",), b"\tlist target '192.0.2.9'\n"),
    ],
)
def test_a_file_is_changed_in_one_place(where: Any, value: Any, line: bytes) -> None:
    made = edit.changed(FILE, *where, value)
    assert line in made
    assert b"# mine" in made
    gone = [old for old in FILE.splitlines() if old not in made.splitlines()]
    assert all(where[2].encode() in old for old in gone)


@pytest.mark.parametrize(
    "text", [b"config wan 'fibre'\n\toption interface 'x\noption priority 9'\n", b"config 'wan\n"]
)
def test_a_file_that_cannot_be_changed_is_left_alone(text: bytes) -> None:
    with pytest.raises(edit.Unchangeable):
        edit.changed(text, "wan", "fibre", "priority", "5")


def test_an_empty_file_gets_its_first_section() -> None:
    assert (
        edit.changed(b"", "hold", "", "up_after", "9s") == b"\nconfig hold 'hold'\n\toption up_after '9s'\n"
    )


# ---------------------------------------------------------------- small things


def test_keys_are_left_out_at_any_depth() -> None:
    data = {"tunnels": [{"peers": [{"peer": "a", "public_key": "k"}]}]}
    assert without_keys(data) == {"tunnels": [{"peers": [{"peer": "a"}]}]}


def test_a_boot_has_a_name_that_grows() -> None:
    first = boot_name("1a2b3c4d-aaaa-bbbb", 12.3)
    assert first == "1a2b3c4d.000000300c"
    assert boot_name("1a2b3c4d-aaaa-bbbb", 12.4) > first
    assert boot_name("", 0.0) == "00000000.0000000000"
