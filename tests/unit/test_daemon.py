"""The composition root's own small decisions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.fuzz.agent import Agent
from wgrouter import daemon
from wgrouter.core.engine import Engine
from wgrouter.core.findings import Finding
from wgrouter.core.messages import ForgetFlows, Look
from wgrouter.ports import control


def test_slowness_is_told_when_it_gets_worse() -> None:
    """A slow router takes as long each time: that is no news."""
    said: list[Finding] = []
    agent: Any = SimpleNamespace(slowest={}, say=said.append)
    for seconds in (0.6, 0.7, 1.1, 1.3, 0.6):
        daemon._Agent.slow(agent, Look(()), seconds)
    daemon._Agent.slow(agent, ForgetFlows(), 0.6)
    assert [finding.text for finding in said] == [
        "Look took 0.6 s; everything waits meanwhile",
        "Look took 1.3 s; everything waits meanwhile",
        "ForgetFlows took 0.6 s; everything waits meanwhile",
    ]


def test_a_full_disk_is_a_line_and_our_own_fault_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """The figures are written every few seconds: a traceback each time would fill the log."""
    said: list[Finding] = []
    agent: Any = SimpleNamespace(say=said.append)
    daemon._Agent.fault(agent, OSError(28, "No space left on device", "/tmp/wgrouter.prom.new"))
    assert [str(finding) for finding in said] == ["No space left on device (/tmp/wgrouter.prom.new)"]
    assert capsys.readouterr().out == ""
    daemon._Agent.fault(agent, KeyError("wg1"))
    assert len(said) == 1 and "KeyError: 'wg1'" in capsys.readouterr().out


@pytest.mark.parametrize("seconds", ["-5", "nan", "inf", "ten minutes"])
def test_a_switch_for_no_time_is_refused(seconds: str) -> None:
    """It was taken as "until told otherwise": one WAN for ever, by a slip of the pen."""
    agent = Agent()
    with pytest.raises(
        control.Refused, match=f"seconds is '{seconds}'; accepted: 0 .until told otherwise. or more"
    ):
        agent.answer("switch", {"wan": "lte", "seconds": seconds})
    assert not agent.reactor.events
    for good in ("600", "0", "", 0.0, 1e6):
        assert agent.answer("switch", {"wan": "lte", "seconds": good})["text"] == "switching to lte"


def test_a_count_that_is_none_is_refused() -> None:
    agent = Agent()
    for name in ("count", "after"):
        with pytest.raises(control.Refused, match=f"{name} is 'many'; accepted: a whole number"):
            agent.answer("journal", {name: "many"})
    assert agent.answer("journal", {"count": 5, "after": 0})["entries"] == []


def test_what_is_not_there_cannot_be_diagnosed_or_explained() -> None:
    """A slip of the pen would look like a tunnel in which all is well."""
    reactor = SimpleNamespace(now=lambda: 1.0)
    agent: Any = SimpleNamespace(engine=Engine(), reactor=reactor)
    for verb in ("diagnose", "explain"):
        with pytest.raises(control.Refused, match="'wg0/nobody' is no tunnel"):
            daemon._Agent.answer(agent, verb, {"subject": "wg0/nobody"})
    assert daemon._Agent.answer(agent, "diagnose", {}) == []


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [("explain", "subject"), ("diagnose", "subject"), ("switch", "wan"), ("v" * 5000, "x")],
)
def test_a_refusal_is_short_whatever_was_asked(verb: str, arguments: str) -> None:
    """It goes into the log, and may come from afar."""
    with pytest.raises(control.Refused) as caught:
        Agent().answer(verb, {arguments: "x" * 5000})
    assert 30 < len(str(caught.value)) < 200
