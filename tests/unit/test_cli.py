"""The command line: exit status, words for every mistake, JSON, and what it must not import."""

import json
import os
import pty
import subprocess
import sys
import threading
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wgrouter
from wgrouter import __version__, cli
from wgrouter.core.model import NEVER
from wgrouter.ports.control import Control, Refused
from wgrouter.shell.reactor import Reactor

HERE = Path(wgrouter.__file__).parent.parent
STATUS = {
    "version": __version__,
    "uptime_s": 5,
    "root": "/",
    "wans": [{"name": "wan", "state": "up", "family": 4}],
    "findings": [{"code": "tunnel.moved", "severity": "info", "subject": "wg0/ö", "text": "→", "age_s": 1}],
}
FINDING = {"code": "wan.down", "severity": "warning", "subject": "wan", "text": "3 probes lost"}


class Agent:
    """Answers at the socket of a root of its own, and remembers what was asked."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[tuple[str, Mapping[str, Any]]] = []
        self.answers: dict[str, Any] = {"status": STATUS}
        self.reactor = Reactor()
        self.control = Control(self.reactor, str(root / "var/run/wgrouter/control.sock"), self.answer)
        self.control.open()
        self.thread = threading.Thread(target=self.reactor.run, args=(lambda event, now: NEVER,))
        self.thread.start()

    def answer(self, verb: str, arguments: Mapping[str, Any]) -> Any:
        self.asked.append((verb, arguments))
        if verb not in self.answers:
            raise Refused(f"'{verb}' is unknown")
        answer = self.answers[verb]
        return answer(arguments) if callable(answer) else answer

    def run(self, *argv: str) -> int:
        return cli.main([*argv, "--root", str(self.root)])

    def stop(self) -> None:
        self.reactor.call_threadsafe(self.reactor.stop)
        self.thread.join(10)
        self.control.close()
        self.reactor.close()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path)
    yield agent
    agent.stop()


Captured = pytest.CaptureFixture[str]


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """Stands in for daemon.py."""
    stand_in = types.SimpleNamespace(calls=[])

    def run(*places: Any, **options: Any) -> int:
        stand_in.calls.append((places, options))
        return 0

    stand_in.run = run
    stand_in.plan_once = lambda *places: stand_in.calls.append(places) or {"effects": ["AddRoute x"]}
    monkeypatch.setitem(sys.modules, "wgrouter.daemon", stand_in)
    monkeypatch.setattr(wgrouter, "daemon", stand_in, raising=False)
    return stand_in


def python(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(HERE), **options.pop("env", {})}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment, **options
    )


# ---- exit status -----------------------------------------------------------------------------------------


def test_without_an_agent_it_is_three_and_one_line(tmp_path: Path, capsys: Captured) -> None:
    for command in (["status"], ["explain"], ["journal"], ["switch", "auto"], ["refresh"], ["reload"]):
        assert cli.main([*command, "--root", str(tmp_path)]) == 3
        said = capsys.readouterr()
        assert said.out == ""
        assert (
            said.err
            == f"wgrouter: no agent is running ({tmp_path}/var/run/wgrouter/control.sock is not there)\n"
        )


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["stats"], "'stats' is no command; did you mean 'status'?"),
        (["xyzzy"], "'xyzzy' is no command; there are run, check, plan,"),
        (["switch"], "the following arguments are required: WAN|auto"),
        (["switch", "wan", "--for", "soon"], "'soon' is no time; accepted: 90s, 10m, 1h30m, 2d"),
        (["journal", "-n", "0"], "'0' is no whole number from 1 to 1000000"),
        (["run", "--log-level", "loud"], "invalid choice: 'loud'"),
        (["status", "--nonsense"], "unrecognized arguments: --nonsense"),
        (["replay"], "the following arguments are required: FILE"),
    ],
)
def test_a_wrong_command_line_is_two_and_says_what_is_accepted(
    argv: list[str], says: str, capsys: Captured
) -> None:
    assert cli.main(argv) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert says in " ".join(said.err.split())
    assert "Traceback" not in said.err


@given(
    st.lists(
        st.sampled_from([*cli.COMMANDS, "--json", "-n", "--for", "10m", "-x", "", "auto", "é"]), max_size=5
    )
)
@settings(max_examples=50)
def test_any_command_line_ends_with_a_known_status(argv: list[str]) -> None:
    if "run" in argv:
        return
    if "replay" in argv:
        pytest.importorskip("wgrouter.core.engine")
    assert cli.main(["--root", "/nonexistent", *argv]) in (0, 1, 2, 3)


def test_a_refusal_is_one_in_the_agents_words(agent: Agent, capsys: Captured) -> None:
    assert agent.run("switch", "dsl") == 1
    assert capsys.readouterr().err == "wgrouter: 'switch' is unknown\n"


@pytest.mark.parametrize("verb", ["status", "explain", "plan", "reload", "journal"])
def test_an_answer_of_another_shape_is_said_to_be_one(agent: Agent, verb: str, capsys: Captured) -> None:
    agent.answers[verb] = "hello"
    assert agent.run(verb) == 1
    assert "is it of another version?" in capsys.readouterr().err


def test_version(capsys: Captured) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"wgrouter {__version__}\n"


@pytest.mark.parametrize("command", ["", *cli.COMMANDS])
def test_help_is_readable_at_80_columns(command: str, capsys: Captured) -> None:
    assert cli.main([*command.split(), "--help"]) == 0
    assert all(len(line) <= 80 for line in capsys.readouterr().out.splitlines())


def test_the_exit_status_is_documented(capsys: Captured) -> None:
    cli.main(["--help"])
    assert "exit status: 0 all is well" in capsys.readouterr().out


# ---- the places ------------------------------------------------------------------------------------------


def test_options_stand_before_or_after_the_command(agent: Agent, capsys: Captured) -> None:
    root = str(agent.root)
    for argv in (["--root", root, "--json", "status"], ["status", "--json", "--root", root]):
        assert cli.main(argv) == 0
        assert json.loads(capsys.readouterr().out) == STATUS


def test_the_socket_can_be_named(agent: Agent) -> None:
    assert cli.main(["status", "--socket", str(agent.root / "var/run/wgrouter/control.sock")]) == 0


def test_run_hands_everything_to_the_daemon(daemon: types.SimpleNamespace, tmp_path: Path) -> None:
    assert cli.main(["run", "--root", str(tmp_path), "--journal", "j.jsonl", "--log-level", "debug"]) == 0
    assert daemon.calls == [
        (
            (str(tmp_path), None),
            {
                "socket": str(tmp_path / "var/run/wgrouter/control.sock"),
                "journal": "j.jsonl",
                "log_level": "debug",
            },
        )
    ]


# ---- asking ----------------------------------------------------------------------------------------------


def test_status_is_text_or_json(agent: Agent, capsys: Captured) -> None:
    assert agent.run("status") == 0
    out = capsys.readouterr().out
    assert "wg0/ö: → [tunnel.moved]" in out
    assert "\033" not in out
    assert agent.run("status", "--json") == 0
    assert json.loads(capsys.readouterr().out) == STATUS


def test_diagnose_marks_each_step_and_fails_with_the_first(agent: Agent, capsys: Captured) -> None:
    steps = [
        ("clock", True, "set"),
        ("names", False, "office.example.net: NXDOMAIN"),
        ("mtu", None, "not seen"),
    ]
    walked = {
        "subject": "wg0/office",
        "broken": "names",
        "steps": [{"step": step, "ok": ok, "text": text} for step, ok, text in steps],
    }
    agent.answers["diagnose"] = lambda arguments: [walked] if arguments["subject"] == "wg0/office" else []
    assert agent.run("diagnose", "wg0/office") == 1
    assert capsys.readouterr().out.splitlines() == [
        "wg0/office",
        "  ok clock: set",
        "  FAILS names: office.example.net: NXDOMAIN",
        "  - mtu: not seen",
    ]
    assert agent.run("diagnose", "wg0/office", "--json") == 1
    assert json.loads(capsys.readouterr().out) == [walked]
    walked["broken"] = None
    assert agent.run("diagnose", "wg0/office") == 0
    agent.answers["diagnose"] = {"not": "a list"}
    assert agent.run("diagnose") == 1 and "not understood" in capsys.readouterr().err


def test_explain_asks_about_the_subject(agent: Agent, capsys: Captured) -> None:
    agent.answers["explain"] = lambda arguments: [
        {"subject": arguments["subject"], "state": "dead", "cause": {"code": "x.y", "text": "it is"}}
    ]
    assert agent.run("explain", "wg0/office") == 0
    assert capsys.readouterr().out == "wg0/office: dead\n  Cause     it is [x.y]\n"
    agent.answers["explain"] = []
    assert agent.run("explain", "wg9") == 1
    assert capsys.readouterr().err == "wgrouter: nothing is known of 'wg9'\n"


def test_switch_sends_wan_and_seconds(agent: Agent, capsys: Captured) -> None:
    agent.answers["switch"] = {"text": "lte until 12:00"}
    assert agent.run("switch", "lte", "--for", "1h30m") == 0
    assert agent.asked == [("switch", {"wan": "lte", "seconds": 5400.0})]
    assert "lte until 12:00" in capsys.readouterr().out


def test_refresh_and_reload(agent: Agent, capsys: Captured) -> None:
    agent.answers |= {"refresh": {"text": "looking"}, "reload": {"taken": True, "problems": []}}
    assert agent.run("refresh") == 0
    assert agent.run("reload") == 0
    assert "The new settings are in force." in capsys.readouterr().out
    agent.answers["reload"] = {
        "taken": False,
        "problems": [{"file": "wgrouter", "line": 2, "message": "bad"}],
    }
    assert agent.run("reload") == 1
    out = capsys.readouterr().out
    assert "The old settings stay." in out
    assert "wgrouter:2" in out


def test_plan_asks_the_agent_and_without_one_computes_it(
    agent: Agent, daemon: types.SimpleNamespace, tmp_path: Path, capsys: Captured
) -> None:
    agent.answers["plan"] = {"effects": []}
    assert agent.run("plan") == 0
    assert "Nothing to do" in capsys.readouterr().out
    other = tmp_path / "other"
    (other / "etc/config").mkdir(parents=True)
    assert cli.main(["plan", "--root", str(other)]) == 0
    assert daemon.calls == [(str(other), None)]  # the loader knows where to look
    assert "1. AddRoute x" in capsys.readouterr().out


def test_plan_with_neither_agent_nor_configuration(tmp_path: Path, capsys: Captured) -> None:
    assert cli.main(["plan", "--root", str(tmp_path)]) == 1
    assert "no agent is running, and there is nothing to plan from" in capsys.readouterr().err


@given(st.lists(st.tuples(st.integers(1, 999), st.sampled_from("smhd")), min_size=1, max_size=4))
def test_times_add_up(parts: list[tuple[int, str]]) -> None:
    assert cli._seconds("".join(f"{n}{unit}" for n, unit in parts)) == sum(
        n * cli.UNITS[unit] for n, unit in parts
    )


@given(st.text())
def test_no_time_is_misread(text: str) -> None:
    try:
        assert cli._seconds(text) > 0
    except cli.argparse.ArgumentTypeError as error:
        assert "accepted" in str(error)


# ---- check -----------------------------------------------------------------------------------------------


def test_check_shows_problems_and_is_one_for_errors(tmp_path: Path, capsys: Captured) -> None:
    config = tmp_path / "etc/config"
    config.mkdir(parents=True)
    (config / "network").write_text("")
    (config / "wgrouter").write_text("config wan 'lte'\n\toption priority 'abc'\n")
    assert cli.main(["check", "--root", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    for part in ("wgrouter:2", "lte", "priority", "abc", "accepted"):
        assert part in out
    assert cli.main(["check", "--json", "--confdir", str(config)]) == 1
    (problem,) = [p for p in json.loads(capsys.readouterr().out)["problems"] if p["option"] == "priority"]
    assert problem["severity"] == "error"


def test_check_without_problems(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "wgrouter").write_text("")
    (tmp_path / "network").write_text("")
    assert cli.main(["check", "--confdir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == [f"{tmp_path}:", "no", "problems"]


def test_check_is_one_for_any_problem(tmp_path: Path, capsys: Captured) -> None:
    """A warning is a problem too: `wgrouter check && …` goes on with a file that says what it means."""
    (tmp_path / "wgrouter").write_text("config routing 'routing'\n\toption mark_mask '0x3f00'\n")
    (tmp_path / "network").write_text("")
    assert cli.main(["check", "--json", "--confdir", str(tmp_path)]) == 1
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem["severity"] == "warning"


def test_check_tells_of_a_missing_network_file_and_is_content(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "wgrouter").write_text("config wgrouter 'main'\n")
    assert cli.main(["check", "--confdir", str(tmp_path)]) == 0
    assert "no tunnel is known" in capsys.readouterr().out


def test_check_looks_where_libuci_does(tmp_path: Path, capsys: Captured) -> None:
    """A file in /var/run/uci comes before that in /etc/config, unless --confdir names a place."""
    for place, priority in (("var/run/uci", "abc"), ("etc/config", "10")):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "wgrouter").write_text(f"config wan 'lte'\n\toption priority '{priority}'\n")
        (tmp_path / place / "network").write_text("config interface 'lte'\n\toption proto 'dhcp'\n")
    assert cli.main(["check", "--json", "--root", str(tmp_path)]) == 1
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem["file"] == str(tmp_path / "var/run/uci/wgrouter")
    assert cli.main(["check", "--root", str(tmp_path), "--confdir", str(tmp_path / "etc/config")]) == 0


def test_check_of_nothing(tmp_path: Path, capsys: Captured) -> None:
    assert cli.main(["check", "--confdir", str(tmp_path / "x")]) == 1
    assert "is no directory" in capsys.readouterr().err


# ---- journal and replay ----------------------------------------------------------------------------------


def entry(number: int) -> dict[str, Any]:
    return {
        "number": number,
        "at": number,
        "wall": None,
        "event": "Woke",
        "effects": [],
        "findings": [FINDING],
    }


def test_the_journal_for_people_and_for_replay(agent: Agent, capsys: Captured) -> None:
    agent.answers |= {
        "journal": {"entries": [entry(1)], "last": 1},
        "dump": {"lines": ['{"journal": 1}', "{}"]},
    }
    assert agent.run("journal", "-n", "7") == 0
    assert agent.asked == [("journal", {"count": 7, "after": 0, "every": False})]
    assert "wan: 3 probes lost [wan.down]" in capsys.readouterr().out
    assert agent.run("journal", "--json") == 0
    assert capsys.readouterr().out == '{"journal": 1}\n{}\n'


def test_following_goes_on_where_it_was_and_survives_a_restart_of_the_agent(
    agent: Agent, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(
        [
            {"entries": [entry(1)], "last": 1},
            {"entries": [entry(2)], "last": 2},
            {"entries": [], "last": 1},  # started anew
            {"entries": [entry(1)], "last": 1},
        ]
    )
    agent.answers["journal"] = lambda arguments: next(answers)
    naps = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", nap)
    assert agent.run("journal", "--follow") == 0
    assert [arguments["after"] for _, arguments in agent.asked] == [0, 1, 2, 0]
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_replay_of_what_is_no_journal(tmp_path: Path, capsys: Captured) -> None:
    pytest.importorskip("wgrouter.core.engine")
    (tmp_path / "j").write_text("hello\n")
    assert cli.main(["replay", str(tmp_path / "j")]) == 1
    assert "line 1: not JSON" in capsys.readouterr().err
    assert cli.main(["replay", str(tmp_path / "nothing")]) == 1
    assert "nothing: No such file" in capsys.readouterr().err


def test_replay_of_a_journal(tmp_path: Path, capsys: Captured) -> None:
    engine = pytest.importorskip("wgrouter.core.engine").Engine()
    from wgrouter.core.messages import Configured, Woke
    from wgrouter.core.settings import Settings
    from wgrouter.shell.journal import Journal

    journal = Journal(engine.state, 0.0)
    for now, event in enumerate((Configured(Settings(), "seed"), Woke(), Woke())):
        journal.record(event, float(now), engine.handle(event, float(now)), engine.state)
    (tmp_path / "j").write_text("".join(f"{line}\n" for line in journal.lines()))
    assert cli.main(["replay", str(tmp_path / "j")]) == 0
    assert capsys.readouterr().out == "3 steps replayed: every decision the same.\n"
    assert cli.main(["replay", "--json", str(tmp_path / "j")]) == 0
    assert json.loads(capsys.readouterr().out)["differences"] == []


# ---- as a process ----------------------------------------------------------------------------------------

LOADED = "import sys; from wgrouter import cli; cli.main(sys.argv[1:]); print('LOADED', *sys.modules)"


@pytest.mark.parametrize(
    ("command", "core"),
    [
        ("status", False),
        ("explain", False),
        ("journal", False),
        ("switch auto", False),
        ("check", True),
        ("replay /x", True),
    ],
)
def test_the_command_line_is_light(command: str, core: bool, agent: Agent) -> None:
    if command.startswith("replay"):
        pytest.importorskip("wgrouter.core.engine")
    done = python("-S", "-c", LOADED, *command.split(), "--root", str(agent.root))
    loaded = done.stdout.partition("LOADED ")[2].split()
    assert "wgrouter.cli" in loaded
    heavy = [
        name for name in loaded if name.split(".")[0] in ("pyroute2", "paho", "dns", "ubus", "asyncio", "ssl")
    ]
    assert heavy == []
    assert not [name for name in loaded if name.startswith(("wgrouter.ports", "wgrouter.daemon"))]
    if not core:
        dear = {
            "dataclasses",
            "inspect",
            "ipaddress",
            "shutil",
            "logging",
            "subprocess",
            "wgrouter.core",
            "typing",
        }
        assert dear.isdisjoint(loaded)


def test_a_reader_that_goes_away_is_no_error(agent: Agent) -> None:
    agent.answers["journal"] = {"entries": [entry(n) for n in range(5000)], "last": 5000}
    command = f"{sys.executable} -m wgrouter journal --root {agent.root} | head -n1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, cwd=HERE)
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == ""


def test_a_full_disk_is_said(agent: Agent) -> None:
    command = f"{sys.executable} -m wgrouter status --root {agent.root} > /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, cwd=HERE)
    assert done.stderr == "wgrouter: standard output: No space left on device\n"
    assert done.returncode == 1


def test_a_console_that_knows_ascii_only(agent: Agent) -> None:
    done = python("-m", "wgrouter", "status", "--root", str(agent.root), env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    assert r"wg0/\xf6: \u2192 [tunnel.moved]" in done.stdout


def on_a_terminal(agent: Agent, env: dict[str, str]) -> str:
    ours, theirs = pty.openpty()
    try:
        subprocess.run(
            [sys.executable, "-m", "wgrouter", "status", "--root", str(agent.root)],
            stdout=theirs,
            check=True,
            cwd=HERE,
            env={**{k: v for k, v in os.environ.items() if k != "NO_COLOR"}, **env},
        )
        return os.read(ours, 100_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize(
    ("env", "colours"),
    [({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
)
def test_colours_on_a_terminal_only(agent: Agent, env: dict[str, str], colours: bool) -> None:
    assert ("\033[" in on_a_terminal(agent, env)) is colours
