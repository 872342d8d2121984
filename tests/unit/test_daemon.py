"""The composition root's own small decisions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from wgrouter import daemon
from wgrouter.core.findings import Finding
from wgrouter.core.messages import ForgetFlows, Look


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
