"""The control socket, over real sockets: who may ask, what is answered, and what nobody can do to it."""

import json
import os
import resource
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wgrouter import client
from wgrouter.core.model import NEVER
from wgrouter.ports import control
from wgrouter.ports.control import Control, Occupied, Refused, parse
from wgrouter.shell.reactor import Reactor


def echo(verb: str, arguments: Mapping[str, Any]) -> Any:
    if verb == "refuse":
        raise Refused("because")
    if verb == "break":
        raise KeyError("our fault")
    if verb == "unspeakable":
        return {"set": {1, 2}}
    if verb == "large":
        return "x" * int(arguments["size"])
    return {"verb": verb, "arguments": dict(arguments)}


class Agent:
    """A Control in a loop of its own thread."""

    def __init__(self, path: str, **options: Any) -> None:
        self.reactor = Reactor()
        self.faults: list[Exception] = []
        self.control = Control(self.reactor, path, echo, on_fault=self.faults.append, **options)
        self.control.open()
        self.thread = threading.Thread(target=self.reactor.run, args=(lambda event, now: NEVER,))
        self.thread.start()

    def call(self, function: Callable[[], Any]) -> Any:
        """What a function gives, called in the loop."""
        done, result = threading.Event(), []

        def call() -> None:
            result.append(function())
            done.set()

        self.reactor.call_threadsafe(call)
        assert done.wait(10)
        return result[0]

    def stop(self) -> None:
        self.reactor.call_threadsafe(self.reactor.stop)
        self.thread.join(10)
        self.control.close()
        self.reactor.close()


@contextmanager
def agent_at(path: str, **options: Any) -> Iterator[Agent]:
    agent = Agent(path, **options)
    try:
        yield agent
    finally:
        agent.stop()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "var/run/wgrouter/control.sock")


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Agent, str]]:
    path = str(tmp_path_factory.mktemp("agent") / "run/control.sock")
    with agent_at(path) as agent:
        yield agent, path


def connected(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    try:
        client._connect(connection, path, 10)
    except OSError:
        connection.close()
        raise
    return connection


def replies(path: str, sent: bytes, *, end: bool = True) -> list[Any]:
    """All that comes back until the agent hangs up."""
    with connected(path) as connection:
        try:
            connection.sendall(sent)
            if end:
                connection.shutdown(socket.SHUT_WR)
        except BrokenPipeError:
            pass
        got = []
        with connection.makefile("rb") as file:
            try:
                got.extend(json.loads(line) for line in file)
            except ConnectionResetError:  # hung up with some of what we sent unread
                pass
        return got


# ---- asking ---------------------------------------------------------------------------------------------


def test_a_question_is_answered(agent: tuple[Agent, str]) -> None:
    assert client.ask(agent[1], "status", {"a": [1, None, "ü"]}) == {
        "verb": "status",
        "arguments": {"a": [1, None, "ü"]},
    }


def test_a_refusal_carries_its_words(agent: tuple[Agent, str]) -> None:
    with pytest.raises(client.Refused, match="because"):
        client.ask(agent[1], "refuse")


def test_the_agents_own_fault_is_told_and_ends_nothing(agent: tuple[Agent, str]) -> None:
    with pytest.raises(client.Refused, match="own fault: KeyError: 'our fault'"):
        client.ask(agent[1], "break")
    with pytest.raises(client.Refused, match="own fault: TypeError"):
        client.ask(agent[1], "unspeakable")
    assert client.ask(agent[1], "status")
    assert [type(fault) for fault in agent[0].faults[-2:]] == [KeyError, TypeError]


def test_a_large_answer_arrives_whole(agent: tuple[Agent, str]) -> None:
    assert len(client.ask(agent[1], "large", {"size": 5_000_000})) == 5_000_000


def test_several_questions_in_one_connection(agent: tuple[Agent, str]) -> None:
    got = replies(agent[1], b'{"verb":"a"}\n{"verb":"b"}\n\n{"verb":"c"}')
    assert [reply["ok"] for reply in got] == [True, True, False, True]
    assert got[3]["result"]["verb"] == "c"


def test_thousands_of_questions_at_once_are_answered_and_others_meanwhile(agent: tuple[Agent, str]) -> None:
    thread = threading.Thread(target=lambda: got.extend(replies(agent[1], b'{"verb":"a"}\n' * 4000)))
    got: list[Any] = []
    thread.start()
    assert client.ask(agent[1], "status")
    thread.join(20)
    assert len(got) == 4000


def test_a_question_in_pieces(agent: tuple[Agent, str]) -> None:
    with connected(agent[1]) as connection:
        for byte in b'{"verb":"status"}\n':
            connection.send(bytes([byte]))
        assert json.loads(connection.recv(1000))["ok"]


# ---- who may ----------------------------------------------------------------------------------------------


def test_directory_and_socket_are_for_root_only(path: str) -> None:
    os.makedirs(os.path.dirname(path), 0o755)
    with agent_at(path):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700


def test_another_user_is_refused(path: str) -> None:
    with (
        agent_at(path, allowed=lambda uid: False),
        pytest.raises(client.Refused, match="may not ask; root may"),
    ):
        client.ask(path, "status")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_a_real_other_user_is_refused_though_the_file_modes_let_it(tmp_path: Path) -> None:
    path = f"/tmp/wgrouter-test-{os.getpid()}/control.sock"
    script = "import os, socket as s, sys\nos.setuid(65534)\nc = s.socket(1)\nc.connect(sys.argv[1])\n"
    script += "print(c.recv(999).decode())"
    with agent_at(path):
        os.chmod(os.path.dirname(path), 0o755)
        os.chmod(path, 0o777)
        done = subprocess.run(
            [sys.executable, "-c", script, path], capture_output=True, text=True, check=True
        )
    os.unlink(os.path.join(os.path.dirname(path), "lock"))
    os.rmdir(os.path.dirname(path))
    assert json.loads(done.stdout) == {"ok": False, "error": "user id 65534 may not ask; root may"}


# ---- the place --------------------------------------------------------------------------------------------


def test_it_goes_when_closed(path: str) -> None:
    with agent_at(path):
        assert os.path.exists(path)
    assert not os.path.exists(path)
    with pytest.raises(client.NoAgent, match="no agent is running"):
        client.ask(path, "status")


def test_a_second_agent_is_refused_and_the_first_goes_on(path: str) -> None:
    with agent_at(path):
        with pytest.raises(Occupied, match=f"process {os.getpid()}"):
            Control(Reactor(), path, echo).open()
        assert client.ask(path, "status")


def test_without_its_lock_a_living_agent_is_still_seen(path: str) -> None:
    with agent_at(path):
        os.unlink(os.path.join(os.path.dirname(path), "lock"))
        with pytest.raises(Occupied, match="another agent answers"):
            Control(Reactor(), path, echo).open()


def test_what_a_killed_agent_left_is_replaced(path: str) -> None:
    os.makedirs(os.path.dirname(path))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    with pytest.raises(client.NoAgent, match="nobody listens"):
        client.ask(path, "status")
    with agent_at(path):
        assert client.ask(path, "status")


def test_what_is_no_socket_is_not_touched(path: str) -> None:
    os.makedirs(os.path.dirname(path))
    Path(path).write_text("precious")
    with pytest.raises(Occupied, match="no socket"):
        Control(Reactor(), path, echo).open()
    assert Path(path).read_text() == "precious"


def test_a_socket_that_took_our_place_is_not_taken_away(path: str) -> None:
    with agent_at(path), socket.socket(socket.AF_UNIX) as other:
        os.unlink(path)
        other.bind(path)
    assert os.path.exists(path)


def test_a_path_longer_than_a_socket_address(tmp_path: Path) -> None:
    path = str(tmp_path / ("d" * 100) / ("e" * 100) / "control.sock")
    os.makedirs(os.path.dirname(os.path.dirname(path)))
    with agent_at(path):
        assert client.ask(path, "status")
    assert not os.path.exists(path)


# ---- garbage and greed ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (b"hello", "one JSON object on a line"),
        (b"[" * 60_000, "one JSON object on a line"),
        (b"\xff\xfe", "one JSON object on a line"),
        (b"[]", "a JSON object, not list"),
        (b"{}", "verb must be a word"),
        (b'{"verb": 1}', "verb must be a word"),
        (b'{"verb": "a", "arguments": []}', "arguments must be an object, not list"),
        (b'{"verb": "a", "argument": {}}', "'argument' is unknown; a request has verb and arguments"),
    ],
)
def test_garbage_is_answered(agent: tuple[Agent, str], request_: bytes, says: str) -> None:
    (reply,) = replies(agent[1], request_ + b"\n")
    assert reply["ok"] is False
    assert says in reply["error"]


def test_a_request_without_end_is_refused_and_hung_up_on(agent: tuple[Agent, str]) -> None:
    (reply,) = replies(agent[1], b"x" * 1_000_000, end=False)
    assert reply["error"] == "a request of more than 65536 bytes"


@given(st.binary(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_any_bytes_are_answered_and_the_agent_goes_on(agent: tuple[Agent, str], data: bytes) -> None:
    for reply in replies(agent[1], data):
        assert reply["ok"] is False
        assert isinstance(reply["error"], str)
    assert client.ask(agent[1], "status")


@given(
    st.binary() | st.text().map(str.encode) | st.from_regex(rb'\{"verb": ?"[a-z]*"(, ?"arguments": ?.*)?\}')
)
def test_parsing_gives_a_verb_or_refuses(line: bytes) -> None:
    try:
        verb, arguments = parse(line)
    except Refused as error:
        assert str(error)
    else:
        assert verb
        assert isinstance(arguments, dict)


def test_no_more_clients_than_bounded_and_room_again_when_they_go(path: str) -> None:
    with agent_at(path) as agent:
        crowd = [connected(path) for _ in range(control.CLIENTS)]
        for connection in crowd:
            connection.send(b'{"verb":"a"}\n')
            assert connection.recv(1000)
        with pytest.raises(client.NoAgent, match="did not answer"):
            client.ask(path, "status", timeout=0.1)
        with connected(path) as waiting:
            waiting.send(b'{"verb":"waited"}\n')
            crowd.pop().close()
            assert b"waited" in waiting.recv(1000)
        for connection in crowd:
            connection.close()
        assert client.ask(path, "status")
        assert agent.call(lambda: len(agent.control._clients)) <= 1


def test_who_says_nothing_is_hung_up_on(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "IDLE", 0.05)
    with agent_at(path), connected(path) as silent, connected(path) as slow:
        slow.send(b'{"verb"')
        assert silent.recv(10) == b""
        assert slow.recv(10) == b""


def test_who_does_not_take_the_answer_is_hung_up_on_and_costs_one_answer(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "IDLE", 0.05)
    with agent_at(path) as agent, connected(path) as greedy:
        greedy.sendall(b'{"verb":"large","arguments":{"size":9000000}}\n' * 5)
        gone = threading.Event()

        def look() -> None:
            if agent.control._clients:
                agent.reactor.call_at(agent.reactor.now() + 0.01, look)
            else:
                gone.set()

        agent.call(look)
        assert gone.wait(10)


def test_clients_that_vanish_in_the_middle_are_no_trouble(path: str) -> None:
    with agent_at(path) as agent:
        for _ in range(50):
            with connected(path) as connection:
                connection.send(b'{"verb":"large","arguments":{"size":300000}}\n')
        assert client.ask(path, "status")
        assert agent.faults == []


def test_no_descriptor_leaks(path: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with agent_at(path):
        for _ in range(100):
            client.ask(path, "status")
    assert len(os.listdir("/proc/self/fd")) == before


def test_without_a_descriptor_left_it_waits_and_goes_on(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "ACCEPT_PAUSE", 0.05)
    with agent_at(path), connected(path) as connection:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        connection.send(b'{"verb":"a"}\n')
        assert connection.recv(1000)
        waiting = socket.socket(socket.AF_UNIX)
        waiting.settimeout(10)
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest, limit[1]))
        try:
            waiting.connect(path)
            connection.send(b'{"verb":"b"}\n')
            assert connection.recv(1000)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        with waiting:
            waiting.send(b'{"verb":"c"}\n')
            assert json.loads(waiting.recv(1000))["result"]["verb"] == "c"


# ---- what answers may be no agent -------------------------------------------------------------------------


@contextmanager
def impostor(path: str, says: bytes | None) -> Iterator[None]:
    """Answers every connection with these bytes; None: with silence."""
    os.makedirs(os.path.dirname(path))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        kept = []

        def serve() -> None:
            connection, _ = listener.accept()
            kept.append(connection)
            if says is not None:
                connection.recv(1000)
                connection.sendall(says)
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join(10)
        for connection in kept:
            connection.close()


@pytest.mark.parametrize(
    "says", [b"", b"hello\n", b"[]\n", b'{"ok": 1}\n', b'{"ok": false}\n', b'{"ok": true}\n']
)
def test_what_is_no_agent_is_said_to_be_none(path: str, says: bytes) -> None:
    with impostor(path, says), pytest.raises(client.NoAgent, match="no agent of this version"):
        client.ask(path, "status")


def test_silence_has_an_end(path: str) -> None:
    with impostor(path, None), pytest.raises(client.NoAgent, match=r"did not answer within 0\.05 s"):
        client.ask(path, "status", timeout=0.05)


def test_a_path_that_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in ("nothing/control.sock", "file/control.sock", "d" * 120 + "/control.sock"):
        with pytest.raises(client.NoAgent, match="is not there"):
            client.ask(str(tmp_path / path), "status")


def test_both_halves_agree_on_the_place() -> None:
    assert client.path_below("/") == "/var/run/wgrouter/control.sock"
    assert client.path_below("/tmp/root") == "/tmp/root/var/run/wgrouter/control.sock"
