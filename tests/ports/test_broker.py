"""The broker port with a real mosquitto on this machine, and with servers that are none."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wgrouter.core.findings import Finding
from wgrouter.core.settings import Mqtt
from wgrouter.ports import _broker_session, broker
from wgrouter.ports._broker_values import Plan, Will, full_jitter, secret
from wgrouter.shell.reactor import Reactor

WILL = ("wgrouter/r/availability", b"offline")
DISCONNECT = b"\xe0\x00"  # MQTT 5, 3.14


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Its port."""
    port = free_port()
    conf = tmp_path_factory.mktemp("broker") / "mosquitto.conf"
    conf.write_text(f"user root\nlistener {port} 127.0.0.1\nallow_anonymous true\n")
    process = subprocess.Popen(["mosquitto", "-c", str(conf)], stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(10)


class Listener:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.said: list[Finding] = []

    def up(self, version: str) -> None:
        self.told.append(("up", version))

    def down(self) -> None:
        self.told.append("down")

    def acknowledged(self, token: int) -> None:
        self.told.append(token)

    def received(self, topic: str, payload: bytes, retained: bool, reply_to: str, correlation: bytes) -> None:
        self.told.append((topic, payload, retained))

    def say(self, finding: Finding) -> None:
        self.said.append(finding)

    def reasons(self) -> list[str]:
        return [str(finding.arguments.get("reason", "")) for finding in self.said]


class Port:
    """A broker port on a reactor that turns until something is so."""

    def __init__(self, reactor: Reactor, *ports: int, client: str = "r", **more: Any) -> None:
        self.reactor, self.listener = reactor, Listener()
        brokers = tuple(f"mqtt://127.0.0.1:{port}" for port in ports)
        settings = Mqtt(brokers=brokers, **{"will_delay": 5.0, **more})
        self.broker = broker.Broker(
            reactor, settings, client, WILL, ("wgrouter/r/cmd/+",), ("wgrouter/r/old",), self.listener
        )
        self.broker.open()

    def until(self, condition: Callable[[], object], within: float = 15.0) -> None:
        until(self.reactor, condition, within)


def until(reactor: Reactor, condition: Callable[[], object], within: float = 15.0) -> None:
    deadline = reactor.now() + within

    def look() -> None:
        if condition() or reactor.now() > deadline:
            reactor._stopped = True
        else:
            reactor.call_at(reactor.now() + 0.01, look)

    reactor._stopped = False
    look()
    reactor.run(lambda event, now: float("inf"))
    assert condition(), "not in time"


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    with Reactor() as made:
        yield made


@pytest.fixture
def opened(reactor: Reactor, mosquitto: int) -> Iterator[Callable[..., Port]]:
    made: list[Port] = []

    def open(*ports: int, **more: Any) -> Port:
        made.append(Port(reactor, *(ports or (mosquitto,)), **more))
        return made[-1]

    yield open
    for port in made:
        port.broker.close()


@pytest.mark.parametrize(("protocol", "version"), [("auto", "5"), ("5", "5"), ("3.1.1", "3.1.1")])
def test_it_connects_publishes_and_hears(opened: Callable[..., Port], protocol: str, version: str) -> None:
    one = opened(protocol=protocol, client=f"one{version}")
    one.until(lambda: one.broker.connected)
    assert one.listener.told == [("up", version)]
    assert one.broker.local == "127.0.0.1"
    one.broker.send(7, "wgrouter/r/cmd/refresh", b'{"id":"x"}', 1, False, b"c" if version == "5" else b"", 9)
    one.until(lambda: len(one.listener.told) == 3)
    assert set(one.listener.told[1:]) == {7, ("wgrouter/r/cmd/refresh", b'{"id":"x"}', False)}


def test_moving_connects_anew_at_once_and_publishes_no_will(opened: Callable[..., Port]) -> None:
    watcher = opened(client="watcher")
    watcher.broker._subscriptions = (WILL[0],)
    watcher.broker.moved()
    one = opened(client="mover")
    one.until(lambda: one.broker.connected and watcher.broker.connected)
    begun = one.reactor.now()
    one.broker.moved()
    assert one.listener.told[-1] == "down"
    one.until(lambda: one.broker.connected)
    assert one.reactor.now() - begun < 1.0
    assert not [told for told in watcher.listener.told if told[0] == WILL[0]]


def test_what_was_handed_over_before_the_end_is_sent(opened: Callable[..., Port]) -> None:
    one, two = opened(client="ends"), opened(client="hears")
    one.until(lambda: one.broker.connected and two.broker.connected)
    for number in range(10):
        one.broker.send(number + 1, "wgrouter/r/cmd/x", b"%d" % number, 1, False)
    one.broker.close()
    two.until(lambda: len(two.listener.told) == 11)
    assert [told[1] for told in two.listener.told[1:]] == [b"%d" % number for number in range(10)]
    assert one.broker.state == "closed"
    one.broker.moved()
    assert one.broker.state == "closed"


def test_the_next_broker_is_tried(opened: Callable[..., Port], mosquitto: int) -> None:
    one = opened(free_port(), mosquitto, client="second")
    one.until(lambda: one.broker.connected)
    assert one.listener.reasons()[0].startswith("nobody listens on port")
    assert one.broker.url.endswith(str(mosquitto))


def test_a_server_that_never_answers_is_given_up(
    opened: Callable[..., Port], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "ATTEMPT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        one = opened(mute.getsockname()[1], client="patient")
        one.until(lambda: one.broker.attempts >= 2)
        assert one.listener.reasons() == ["accepts connections and never answers"]  # once for all attempts
        one.broker.close()
    until(one.reactor, lambda: not [t for t in threading.enumerate() if t.name == "mqtt"], within=10)


def test_a_connection_made_when_all_is_over_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[socket.socket] = []
    over = threading.Event()

    def race(_addresses: object, port: int, _wake: int) -> socket.socket:
        over.wait(10)
        made.append(socket.create_connection(("127.0.0.1", port)))
        return made[0]

    monkeypatch.setattr(_broker_session, "race", race)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        plan = Plan("127.0.0.1", port, False, 5, "r", 30, Will(*WILL, 5), addresses=("127.0.0.1",))
        session = _broker_session.Session(plan, lambda _tell: True, lambda *_: None)
        session.end()
        over.set()
        session.end(patience=10.0)
    assert not session.alive
    assert made[0].fileno() == -1


def test_the_good_bye_does_not_reset_the_connection() -> None:
    """A close with bytes unread does, and a broker that meets it before our DISCONNECT publishes the will."""
    heard: list[bytes | str] = []

    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.settimeout(10)
            connection.recv(4096)
            connection.sendall(b"\x20\x03\x00\x00\x00")  # CONNACK
            heard.append(connection.recv(4096))
            try:
                for _ in range(2):  # the first one meets the reset, the second one tells
                    connection.sendall(b"\xd0\x00")  # a PINGRESP that was on its way
                heard.append(connection.recv(4096))
            except OSError as error:
                heard.append(str(error))

    with socket.create_server(("127.0.0.1", 0)) as server:
        like_a_broker = threading.Thread(target=serve, args=(server,))
        like_a_broker.start()
        port = server.getsockname()[1]
        greeted = threading.Event()
        plan = Plan("127.0.0.1", port, False, 5, "r", 30, Will(*WILL, 5), addresses=("127.0.0.1",))
        session = _broker_session.Session(plan, lambda tell: not tell(), lambda *_: greeted.set())
        assert greeted.wait(10)
        session.end(patience=10.0)
        like_a_broker.join(10)
    assert heard == [DISCONNECT, b""]


def test_a_message_that_came_before_a_move_is_heard_after_it(
    opened: Callable[..., Port], mosquitto: int
) -> None:
    """The broker was told that we have it, and sends it to nobody again."""
    one = opened(client="hears")
    one.until(lambda: one.broker.connected)
    argv = ["mosquitto_pub", "-p", str(mosquitto), "-q", "1", "-t", "wgrouter/r/cmd/switch", "-m", "{}"]
    subprocess.run(argv, check=True, timeout=10)
    deadline = time.monotonic() + 10
    while not one.reactor._from_threads:  # it waits for the loop, which stands still
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)
    one.broker.moved()
    one.until(lambda: one.broker.connected)
    assert [told for told in one.listener.told if "cmd" in told[0]] == [
        ("wgrouter/r/cmd/switch", b"{}", False)
    ]


@pytest.mark.parametrize("protocol", [4, 5])
def test_a_message_that_comes_after_the_end_is_left_to_the_next_connection(protocol: int) -> None:
    """An acknowledgement would take it from the broker, and nobody here hears it any more."""
    heard: list[bytes] = []
    more = b"" if protocol == 4 else b"\0"

    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.settimeout(10)
            connection.recv(4096)
            connection.sendall(b"\x20" + bytes([2 + len(more)]) + b"\0\0" + more)  # CONNACK
            while b"told" not in (got := connection.recv(4096)):  # what it waits to have acknowledged
                assert got
            published.set()
            ended.wait(10)
            rest = b"\0\1t\0\7" + more + b"{}"
            connection.sendall(b"\x32" + bytes([len(rest)]) + rest)  # PUBLISH, at least once
            while got := connection.recv(4096):
                heard.append(got)

    published, ended, greeted = threading.Event(), threading.Event(), threading.Event()
    told: list[object] = []

    def hear(_session: object, what: object) -> None:
        told.append(what)
        greeted.set()

    with socket.create_server(("127.0.0.1", 0)) as server:
        like_a_broker = threading.Thread(target=serve, args=(server,))
        like_a_broker.start()
        port = server.getsockname()[1]
        plan = Plan("127.0.0.1", port, False, protocol, "r", 30, Will(*WILL, 5), addresses=("127.0.0.1",))
        session = _broker_session.Session(plan, lambda tell: not tell(), hear)
        assert greeted.wait(10)
        session.send(7, "wgrouter/r/event", b"told", 1, False, b"", 0)
        assert published.wait(10)
        session.end()
        ended.set()
        session.end(patience=10.0)
        like_a_broker.join(10)
    assert b"".join(heard) == DISCONNECT
    assert len(told) == 1


def test_threads_that_hang_are_bounded(opened: Callable[..., Port], monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that never answers cannot be woken: no more than so many wait for it."""
    hung = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: hung.wait(30) or [])
    monkeypatch.setattr(broker, "ATTEMPT", 0.05)
    monkeypatch.setattr(broker, "BACKOFF", 0.01)
    monkeypatch.setattr(broker, "BACKOFF_MAX", 0.01)
    one = opened(1, client="hung")
    one.until(lambda: len(one.broker._left) >= broker.THREADS_MAX)
    for _ in range(5):
        one.broker.moved()
    assert sum(t.name == "mqtt" for t in threading.enumerate()) <= broker.THREADS_MAX + 1
    one.broker.close()
    hung.set()
    until(one.reactor, lambda: not [t for t in threading.enumerate() if t.name == "mqtt"], within=10)


def test_the_states_are_a_whole_table() -> None:
    states = set(broker.TABLE)
    assert {after for row in broker.TABLE.values() for after in row.values()} <= states
    assert all("close" in row for state, row in broker.TABLE.items() if state != "closed")


def test_a_secret_is_the_first_line_of_a_file_that_is_ours_alone(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("word\nsecond line\n")
    file.chmod(0o600)
    assert secret(str(file)) == "word"
    file.chmod(0o640)
    with pytest.raises(PermissionError, match="chmod 600"):
        secret(str(file))


def test_full_jitter_is_anywhere_below_its_ceiling() -> None:
    drawn = [full_jitter(8.0) for _ in range(500)]
    assert 0.0 <= min(drawn) < 0.5
    assert 7.5 < max(drawn) <= 8.0
