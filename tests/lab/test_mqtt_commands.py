"""Commands in the lab: carried out, answered, refused; a setting that cuts the router off is taken back."""

from __future__ import annotations

import functools
import json
import time
from typing import Any

import pytest

from tests.lab import Lab, stays, until
from tests.lab.agent import Agent
from tests.lab.reporting import PROTOCOL, WANS, Witness, configuration, reporting
from wgrouter.mqtt.commands import VERBS, signature
from wgrouter.mqtt.diagnose import STEPS

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180), pytest.mark.usefixtures("as_it_was")]

ALL = "\n".join(f"\tlist command '{verb}'" for verb in VERBS)
KEY = "correct horse battery staple"
REPLY = "wgrouter/router/reply/test"


class Operator:
    """Gives commands, and knows the answers."""

    def __init__(self, lab: Lab, *, version: str = PROTOCOL, key: str = "", **options: Any) -> None:
        self.lab, self.key = lab, key
        self.witness = Witness(lab)
        if key:
            options["command_key_file"] = lab.router.write("etc/key", key + "\n", mode=0o600)
        config = configuration(lab, more=f"{ALL}\n{WANS}", protocol=version, **options)
        self.agent: Agent = lab.router.start_agent(config)
        self.witness.settled(self.agent)
        self.number = 0

    def give(self, verb: str, payload: str | bytes | None = None, *options: str, **arguments: Any) -> str:
        """Publish a command, or any bytes; its id."""
        self.number += 1
        id = f"t{time.time():.3f}-{self.number}"
        if payload is None:
            now = time.time()
            payload = json.dumps({"id": id, "issued": now, "expires": now + 30, "arguments": arguments})
        topic = f"wgrouter/router/cmd/{verb}"
        text = payload if isinstance(payload, str) else payload.decode("latin-1")
        if self.key:
            text = json.dumps({"command": text, "hmac": signature(self.key.encode(), topic, text.encode())})
        self.lab.broker.publish(topic, text, *options)
        return id

    def answers(self, end: str = "/response") -> list[Any]:
        return self.witness.payloads(end)

    def answer(self, id: str | None, end: str = "/response", within: float = 20) -> Any:
        def found() -> list[Any]:
            return [answer for answer in self.answers(end) if answer["id"] == id]

        until(lambda: bool(found()), within=within, what=f"an answer to {id}")
        return found()[-1]

    def ask(self, verb: str, **arguments: Any) -> Any:
        return self.answer(self.give(verb, **arguments))


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_every_verb_is_answered(lab: Lab, version: str) -> None:
    operator = Operator(lab, version=version)
    assert operator.ask("refresh")["ok"]
    assert operator.ask("reresolve")["ok"]
    assert operator.ask("reload")["result"]["taken"]
    report = operator.ask("report")["result"]
    assert {wan["name"] for wan in report["wans"]} == {"fibre", "lte"}
    explained = operator.ask("explain", subject="wg0/site1")["result"]
    assert explained[0]["subject"] == "wg0/site1"
    (walked,) = operator.ask("diagnose", subject="wg0/site1")["result"]
    assert tuple(step["step"] for step in walked["steps"]) == STEPS
    assert walked["subject"] == "wg0/site1" and walked["broken"] in (None, *STEPS)
    for verb in ("diagnose", "explain"):
        refused = operator.ask(verb, subject="nobody")["error"]
        assert refused["code"] == "refused" and "'nobody'" in refused["text"]
    assert operator.ask("switch", wan="lte", seconds=60)["ok"]
    until(lambda: operator.witness.payloads("/state")[-1]["manual"] == "lte", within=10, what="lte by hand")
    until(lambda: reporting(operator.agent)["state"] == "up", within=10, what="the broker by lte")
    assert operator.ask("switch", wan="auto")["ok"]
    refused = operator.ask("switch", wan="nowhere")
    assert (refused["ok"], refused["error"]["code"]) == (False, "refused")
    assert "lte" in refused["error"]["text"]


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_no_command_is_lost_when_the_way_out_changes(lab: Lab, version: str) -> None:
    operator = Operator(lab, version=version)
    given = []

    def switched(wan: str) -> bool:
        return (operator.witness.payloads("/state")[-1]["manual"] or "auto") == wan

    for wan in ("lte", "auto") * 3:
        given.append(operator.give("switch", wan=wan))
        given += [operator.give("refresh") for _ in range(4)]
        until(functools.partial(switched, wan), within=10)
    assert [operator.answer(id)["ok"] for id in given] == [True] * len(given)


def test_the_answer_goes_to_the_response_topic_with_its_correlation_data(lab: Lab) -> None:
    operator = Operator(lab, version="5")
    more = ("-D", "PUBLISH", "response-topic", REPLY, "-D", "PUBLISH", "correlation-data", "abc")
    id = operator.give("refresh", None, *more)
    until(lambda: bool(operator.witness.messages("/reply/test")), within=10, what="an answer")
    message = operator.witness.messages("/reply/test")[-1]
    assert message.json()["id"] == id
    assert message.properties["correlation-data"] == "abc"
    assert not [answer for answer in operator.answers() if answer["id"] == id]


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_bad_input_changes_nothing(lab: Lab, version: str) -> None:
    operator = Operator(lab, version=version)
    agent = operator.agent
    rules, file = lab.router.run("ip", "rule"), (lab.router.root / "etc/config/wgrouter").read_text()
    pid, now = agent.pid, time.time()
    junk = [
        ("refresh", "junk", "not-json"),
        ("refresh", "[" * 9000, "not-json"),
        ("refresh", json.dumps({"id": [], "expires": now + 30}), "wrong-type"),
        ("refresh", json.dumps({"id": "old", "expires": now - 30}), "expired"),
        ("reboot", json.dumps({"id": "verb", "expires": now + 30}), "unknown-verb"),
        ("set", json.dumps({"id": "set", "expires": now + 30, "arguments": {"setting": "mqtt.broker",
         "value": "mqtt://x"}}), "not-settable"),
    ]  # fmt: skip
    for verb, payload, _ in junk:
        operator.give(verb, payload)
    operator.give("refresh", "x" * (10 << 20))
    good = operator.give("refresh")
    assert operator.answer(good)["ok"]
    codes = [answer["error"]["code"] for answer in operator.answers() if not answer["ok"]]
    assert codes[: len(junk)] == [code for *_, code in junk]
    # MQTT 5 tells the broker how much may come, so that it keeps the rest; 3.1.1 has no word for that.
    assert codes[len(junk) :] == ([] if version == "5" else ["too-large"])
    again = operator.give("refresh")
    assert operator.answer(again)["ok"]
    assert agent.pid == pid and agent.running
    assert lab.router.run("ip", "rule") == rules
    assert (lab.router.root / "etc/config/wgrouter").read_text() == file


def test_a_replay_is_carried_out_once(lab: Lab) -> None:
    operator = Operator(lab)
    now = time.time()
    payload = json.dumps({"id": "same", "expires": now + 30, "arguments": {}})
    for _ in range(3):
        operator.give("refresh", payload)
    until(lambda: len([a for a in operator.answers() if a["id"] == "same"]) == 3, within=10, what="answers")
    assert len(operator.witness.events("agent.commanded")) == 1


def test_signed_commands_count_and_unsigned_ones_do_not(lab: Lab) -> None:
    operator = Operator(lab, key=KEY)
    assert operator.witness.payloads("/birth")[-1]["capabilities"]["signed"]
    assert operator.ask("refresh")["ok"]
    operator.key = "not the router's key at all"
    operator.give("switch", wan="lte")
    refused = operator.answer(None)
    assert refused["error"]["code"] == "bad-signature"
    operator.key = ""
    operator.give("switch", wan="lte")
    until(
        lambda: [a for a in operator.answers() if not a["ok"] and a["error"]["code"] == "unsigned"],
        within=10,
        what="a refusal",
    )
    assert operator.witness.payloads("/state")[-1]["manual"] is None


def test_a_key_that_others_may_read_lets_no_command_in(lab: Lab) -> None:
    lab.router.write("etc/loose", KEY + "\n", mode=0o644)
    operator = Operator(lab, command_key_file=lab.router.root / "etc/loose")
    operator.agent.says("can be read by others", within=5)
    assert operator.witness.payloads("/birth")[-1]["capabilities"]["commands"] == []
    operator.give("refresh")
    stays(lambda: not operator.answers(), during=2)


def test_a_setting_that_works_is_kept_and_written(lab: Lab) -> None:
    operator = Operator(lab)
    file = lab.router.root / "etc/config/wgrouter"
    operator.lab.router.write("etc/config/wgrouter", "# mine\n" + file.read_text())
    answer = operator.ask("set", setting="wan.lte.priority", value=7)
    assert answer["result"] == {"setting": "wan.lte.priority", "value": "7", "kept": True}
    assert "option priority '7'" in file.read_text()
    assert file.read_text().startswith("# mine\n")
    assert operator.witness.story("setting.") == ["setting.tried", "setting.kept"]
    assert not operator.ask("set", setting="wan.lte.priority", value="many")["ok"]
    assert not operator.ask("set", setting="wan.cable.priority", value=1)["ok"]
    assert "priority '7'" in file.read_text()


def test_a_setting_that_cuts_the_router_off_is_taken_back(lab: Lab) -> None:
    """Over lte the broker is not reached, which no probe sees: its ISP lets nothing to that port."""
    operator = Operator(lab, confirm=8, will_delay=60)
    file = lab.router.root / "etc/config/wgrouter"
    before = file.read_text()
    lab.isp_box("b").nft("table inet test { chain f { type filter hook forward priority -5;"
                         " tcp dport 8883 drop; }; }")  # fmt: skip
    begun = time.time()
    answer = operator.answer(operator.give("set", setting="wan.fibre.priority", value=9), within=90)
    lab.isp_box("b").nft("delete table inet test")
    print(f"taken back, and told so, {time.time() - begun:.1f} s after the command")
    assert (answer["ok"], answer["error"]["code"]) == (False, "rolled-back")
    assert file.read_text() == before
    assert reporting(operator.agent)["state"] == "up"
    assert operator.witness.payloads("/state")[-1]["active"] == {"ipv4": "fibre", "ipv6": "fibre"}
    assert operator.witness.story("setting.") == ["setting.tried", "setting.back"]
    assert "offline" not in [word for at, word in operator.witness.availability() if at >= begun]
