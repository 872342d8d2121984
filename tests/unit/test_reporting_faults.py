"""MQTT when something is wrong on our side: the sender is told, the log is told, the agent goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.agent import CONFIG, Agent
from tests.fuzz.mqtt import KEY, MOMENT, SETTINGS, TOPICS, Link, Steady
from tests.mqtt_schemas import check
from tests.unit.mqtt_router import IDENTITY
from wgrouter.core.settings import Mqtt
from wgrouter.mqtt.commands import Refusal
from wgrouter.mqtt.courier import Courier
from wgrouter.ports.control import Refused


class Ours(Agent):
    """An agent that breaks at every question, and notes what it was told of it."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[Exception] = []

    def answer(self, verb: str, arguments: Any) -> Any:
        raise ZeroDivisionError(verb)

    def fault(self, error: Exception) -> None:
        self.faults.append(error)


@pytest.fixture
def agent() -> Ours:
    return Ours()


def joined(agent: Ours, secret: bytes = b"") -> tuple[Steady, Link]:
    one, link = Steady(agent, Refused), Link()
    one._settings = SETTINGS
    one._courier = Courier(SETTINGS, TOPICS, IDENTITY, secret, one)
    one._courier.link = link  # type: ignore[assignment]
    return one, link


@pytest.mark.parametrize("verb", ["explain", "switch", "report", "diagnose"])
def test_a_command_that_breaks_us_is_answered_and_ends_nothing(agent: Ours, verb: str) -> None:
    one, link = joined(agent)
    arguments = {"wan": "lte"} if verb == "switch" else {}
    text = json.dumps({"id": "one", "expires": MOMENT.wall + 60, "arguments": arguments})
    one.received(TOPICS.command(verb), text.encode(), False, "", b"")
    ((topic, answer, _),) = link.sent
    found = check(topic, answer)
    assert (found["ok"], found["error"]["code"]) == (False, "failed")
    assert "the agent has failed, its log says where" in found["error"]["text"]
    assert [type(error) for error in agent.faults] == [ZeroDivisionError]


def test_what_breaks_the_judge_is_told_and_ends_nothing(agent: Ours) -> None:
    one, link = joined(agent, KEY)
    assert one._courier is not None
    one._courier.desk = None  # type: ignore[assignment]
    one.received(TOPICS.command("refresh"), b"{}", False, "", b"")
    assert [type(error) for error in agent.faults] == [AttributeError]
    assert not link.sent


def test_a_bad_line_in_the_file_of_events_costs_that_line(agent: Ours, tmp_path: Path) -> None:
    one = Steady(agent, Refused)
    path = tmp_path / "events"
    one._settings = Mqtt(queue_file=str(path))
    path.write_text('["boot", 7, "first"]\n["boot", Infinity, "x"]\n[[[\n["boot", 8, "second"]\n')
    found = one._kept()
    assert [(one.key, one.payload) for one in found] == [(("boot", 7), b"first"), (("boot", 8), b"second")]
    assert not path.exists()
    (error,) = agent.faults
    assert str(error) == f"{path}: 2 of 4 lines are no events: left out"
    assert one._kept() == []
    assert len(agent.faults) == 1


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A router whose file has an old mistake."""
    path = tmp_path / "etc" / "config"
    path.mkdir(parents=True)
    mistake = "\nconfig wan 'usb'\n\toption device 'usb0'\n\toption priority 'x'\n"
    (path / "wgrouter").write_text(CONFIG + mistake)
    return tmp_path


def tried(root: Path, setting: str, value: object) -> str:
    """What `set` puts on trial, or the refusal."""
    agent = Agent()
    agent.root = str(root)
    one, _ = joined(agent)
    try:
        one._set({"setting": setting, "value": value}, lambda result: None)
    except Refusal as refusal:
        return str(refusal)
    assert one._trial is not None
    return one._trial.text.decode()


def test_an_old_mistake_elsewhere_refuses_no_setting(root: Path) -> None:
    """The line that is put in moves it: it was taken for a new one."""
    assert "config wan 'lte'\n\toption priority '3'\n" in tried(root, "wan.lte.priority", 3)
    assert tried(root, "wan.lte.priority", "y") == "'y' is not a whole number; accepted: 1 to 1000"
