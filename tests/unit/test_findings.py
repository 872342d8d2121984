"""Every reason the agent can give: its code, its severity, and a sentence that no missing word can break."""

from __future__ import annotations

import re
from string import Formatter

import pytest

from wgrouter.core.findings import Finding, Severity, Why


def test_codes_are_unique_and_of_one_form() -> None:
    """Dashboards and alerts match on them (docs/mqtt.md)."""
    codes = [why.code for why in Why]
    assert len(set(codes)) == len(codes) == len(Why.__members__)
    assert all(re.fullmatch(r"[a-z]+\.[a-z]+(-[a-z]+)*", code) for code in codes)


@pytest.mark.parametrize("why", list(Why), ids=[why.code for why in Why])
def test_a_sentence_holds_its_arguments_and_does_without_any(why: Why) -> None:
    words = [name for _, name, _, _ in Formatter().parse(why.template) if name]
    told = Finding(why, "wg0/office", {name: f"<{name}>" for name in words}).text
    assert all(name in told for name in words) and "{" not in told
    assert Finding(why).text.count("?") == len(words)
    assert isinstance(why.severity, Severity)


def test_the_subject_stands_before_the_sentence() -> None:
    assert str(Finding(Why.CAUSE_NONE, "wg0/office")) == "wg0/office: nothing is wrong"
    assert str(Finding(Why.CAUSE_NONE)) == "nothing is wrong"
