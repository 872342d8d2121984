"""The log: one line a finding, no flood, and nothing that could forge a line."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wgrouter.core.findings import Finding, Why
from wgrouter.shell import log
from wgrouter.shell.log import BURST, REPEAT_AFTER, WIDTH, Log, line


def dead(subject: str = "wg0/office", evidence: str = "no handshake") -> Finding:
    return Finding(Why.TUNNEL_DEAD, subject, {"evidence": evidence})


@pytest.fixture
def lines() -> list[str]:
    return []


def test_a_line_has_severity_subject_text_and_code() -> None:
    assert line(dead()) == "wgrouter: warning: wg0/office: no handshake [tunnel.dead]"
    assert line(Finding(Why.CLOCK_RIGHT)) == "wgrouter: info: the clock is set [clock.right]"


def test_only_what_the_level_lets_through(lines: list[str]) -> None:
    out = Log("warning", lines.append)
    out.say(Finding(Why.CLOCK_RIGHT), 0)
    out.say(dead(), 0)
    assert len(lines) == 1
    out.level = "debug"
    out.say(Finding(Why.AGENT_HINT, arguments={"source": "hotplug"}), 0)
    assert lines[-1] == "wgrouter: debug: hotplug says look again [agent.hint]"
    assert out.level == "debug"


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="loud"):
        Log("loud")


def test_twins_are_counted_and_said_once(lines: list[str]) -> None:
    out = Log(write=lines.append)
    for second in range(50):
        out.say(dead(), second)
        out.say(dead("wg0/home"), second)
    assert len(lines) == 2
    out.flush(REPEAT_AFTER + 1)
    assert lines[2:] == [
        f"{line(dead())} (49 times more within 60 s)",
        f"{line(dead('wg0/home'))} (49 times more within 60 s)",
    ]
    out.flush(500)
    assert len(lines) == 4


def test_a_sentence_that_comes_again_later_is_news(lines: list[str]) -> None:
    out = Log(write=lines.append)
    out.say(dead(), 0)
    out.say(dead(), 10)
    out.say(dead(), REPEAT_AFTER + 1)
    assert lines == [line(dead()), f"{line(dead())} (once more within 60 s)", line(dead())]


def test_a_flood_is_a_trickle_and_says_so(lines: list[str]) -> None:
    out = Log(write=lines.append)
    for number in range(3000):
        out.say(dead(evidence=f"evidence {number}"), number / 100)
    assert len(lines) <= BURST + 2 * 30 + 1
    held = [text for text in lines if "log.held-back" in text]
    assert held
    assert held[0].startswith("wgrouter: warning: ")
    out.say(dead(evidence="later"), 1000)
    assert lines[-1] == line(dead(evidence="later"))


def test_what_is_remembered_is_bounded() -> None:
    out = Log(write=lambda text: None)
    for number in range(10_000):
        out.say(dead(evidence=str(number)), number / 1000)
    assert len(out._said) <= log.REMEMBERED


@given(st.text(), st.text())
def test_a_name_cannot_forge_a_line(subject: str, evidence: str) -> None:
    text = line(dead(subject, evidence))
    assert text.isprintable()
    assert len(text) <= WIDTH + 20
    assert text.endswith("[tunnel.dead]")


def test_a_log_that_nobody_reads_any_more_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr("sys.stdout", Broken())
    Log().say(dead(), 0)


def test_it_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    Log().say(dead(evidence="\ud800 →"), 0)
    assert capsys.readouterr().out == "wgrouter: warning: wg0/office: \\ud800 → [tunnel.dead]\n"
