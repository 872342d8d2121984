"""`wgrouter fleet watch` as a person has it: a real broker, a real terminal, whatever comes over the wire."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.fleet import world
from tests.fleet.machine import Mosquitto, Publisher, Terminal, free_port, run, until
from tests.fleet.world import CUT, SILENT, Simulated
from wgrouter.fleet.link import Link, Unusable, where
from wgrouter.mqtt.topics import Publication


@pytest.fixture
def broker() -> Iterator[Mosquitto]:
    with Mosquitto() as broker:
        yield broker


@pytest.fixture
def publisher(broker: Mosquitto) -> Iterator[Publisher]:
    publisher = Publisher(broker.port)
    yield publisher
    publisher.close()


@pytest.fixture
def routers(publisher: Publisher) -> list[Simulated]:
    """Five in a ring, all online, retained."""
    found = world.fleet(5, wall=time.time())
    publisher.tell(one for router in found for one in router.everything())
    return found


# ---- once ------------------------------------------------------------------------------------------------


def test_once_prints_the_table(broker: Mosquitto, routers: list[Simulated]) -> None:
    done = run("watch", "--once", "--broker", broker.url)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"wgrouter on {broker.url}   5 routers   5 online"
    assert lines[1].split() == ["ROUTER", "STATUS▾", "WAN", "TUNNELS", "CHANGED", "CAUSE"]
    assert lines[2].split()[:4] == ["r0000", "online", "wan", "4/4"]
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_once_for_programs(
    broker: Mosquitto, publisher: Publisher, routers: list[Simulated], version: str
) -> None:
    publisher.tell([world.offline(routers[2]), *routers[3].everything(CUT)])
    done = run("watch", "--once", "--json", "--broker", broker.url, "--mqtt", version)
    data = json.loads(done.stdout)
    by = {row["id"]: row for row in data["routers"]}
    assert [row["id"] for row in data["routers"]][:2] == ["r0002", "r0003"]
    assert by["r0002"]["status"] == "broker path lost"
    assert by["r0003"]["status"] == "failed over"
    assert by["r0003"]["failed_over"]["ipv4"] == {"from": "wan", "to": "lte"}
    assert by["r0000"]["status"] == "online"
    assert data["prefix"] == "wgrouter"


def test_once_says_what_an_empty_table_may_mean(broker: Mosquitto, routers: list[Simulated]) -> None:
    done = run("watch", "--once", "--broker", broker.url, "--prefix", "elsewhere")
    assert done.returncode == 0
    assert "nothing below elsewhere/: another --prefix, or no right to read it?" in done.stdout
    done = run("watch", "--once", "--broker", broker.url, "--filter", "nowhere")
    assert done.stdout.splitlines()[-1] == "no router fits the filter"


def test_once_one_router_or_a_filter(
    broker: Mosquitto, publisher: Publisher, routers: list[Simulated]
) -> None:
    publisher.tell(routers[3].everything(CUT))
    done = run("watch", "r0003", "--once", "--broker", broker.url)
    assert done.stdout.startswith("r0003  failed over  lte ← wan\n")
    assert "no carrier on eth1" in done.stdout
    done = run("watch", "--once", "--filter", "failed", "--broker", broker.url)
    assert "1 of 5 routers" in done.stdout
    done = run("watch", "r003", "--once", "--broker", broker.url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "wgrouter fleet: no router is called 'r003'; did you mean 'r0003'?\n"


def test_a_thousand_retained_routers_are_all_there(broker: Mosquitto, publisher: Publisher) -> None:
    publisher.tell(one for router in world.fleet(1000, wall=time.time()) for one in router.everything())
    done = run("watch", "--once", "--json", "--broker", broker.url, "--wait", "50")
    rows = json.loads(done.stdout)["routers"]
    assert len(rows) == 1000
    assert {row["status"] for row in rows} == {"online"}
    assert {row["peers"] for row in rows} == {4}


# ---- no broker -------------------------------------------------------------------------------------------


def test_nobody_listens() -> None:
    port = free_port()
    done = run("watch", "--once", "--wait", "1", "--broker", f"mqtt://127.0.0.1:{port}")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == f"wgrouter fleet: mqtt://127.0.0.1:{port} nobody listens on port {port}\n"


def test_a_broker_that_never_answers_and_one_that_talks_nonsense() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"mqtt://127.0.0.1:{server.getsockname()[1]}"
        done = run("watch", "--once", "--wait", "12", "--broker", url)
        assert done.returncode == 3
        assert "accepts connections and never answers" in done.stderr

    with socket.create_server(("127.0.0.1", 0)) as server:

        def speak() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 50)
                    connection.close()
                except OSError:
                    return

        threading.Thread(target=speak, daemon=True).start()
        url = f"mqtt://127.0.0.1:{server.getsockname()[1]}"
        done = run("watch", "--once", "--wait", "3", "--broker", url)
        assert done.returncode == 3
        assert "Traceback" not in done.stderr


def test_a_wrong_password_ends_it_at_once() -> None:
    with Mosquitto("allow_anonymous false\npassword_file /dev/null") as broker:
        done = run("watch", "--once", "--broker", broker.url)
        assert done.returncode == 3
        assert "refuses us: not authori" in done.stderr.lower()


class Old(threading.Thread):
    """In front of a broker: knows MQTT 3.1.1 only, and says so or just hangs up."""

    def __init__(self, port: int, answer: bytes) -> None:
        super().__init__(daemon=True)
        self._behind, self._answer = port, answer
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"mqtt://127.0.0.1:{self._server.getsockname()[1]}"
        self.versions: list[int] = []
        self.start()

    def run(self) -> None:
        while True:
            try:
                here, _ = self._server.accept()
            except OSError:
                return
            begin = here.recv(4096)
            self.versions.append(begin[begin.index(b"MQTT") + 4])
            if self.versions[-1] == 5:
                here.sendall(self._answer)
                here.close()
                continue
            there = socket.create_connection(("127.0.0.1", self._behind))
            there.sendall(begin)
            for one, other in ((here, there), (there, here)):
                threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with one, other:
            while data := one.recv(65536):
                other.sendall(data)

    def close(self) -> None:
        self._server.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("answer", [b"", b"\x20\x02\x00\x01", b"\x20\x03\x00\x84\x00"])
def test_a_broker_without_mqtt_5(broker: Mosquitto, routers: list[Simulated], answer: bytes) -> None:
    old = Old(broker.port, answer)
    done = run("watch", "--once", "--broker", old.url, "--wait", "20")
    old.close()
    assert (done.returncode, done.stderr) == (0, "")
    assert "5 routers   5 online" in done.stdout
    assert old.versions == [5, 4]


# ---- live ------------------------------------------------------------------------------------------------


def test_the_table_lives(broker: Mosquitto, publisher: Publisher, routers: list[Simulated]) -> None:
    with Terminal("watch", "--broker", broker.url) as terminal:
        terminal.shows("5 routers   5 online")
        publisher.tell([*routers[3].events(CUT), *routers[3].everything(CUT)])
        terminal.shows("1 failed over   4 online", "lte ← wan")
        publisher.tell([world.offline(routers[1])])
        terminal.shows("1 broker path lost", "r0000 (and 1 more) has a live tunnel to it so far; for")
        for other in (0, 2):
            publisher.tell(
                Publication(one.topic, one.payload.replace(b'"state":"alive"', b'"state":"dead"'), 1, True)
                for one in routers[other].everything()
                if one.topic.endswith("/r0001")
            )
        terminal.shows("1 site lost", "r0000 (and 1 more) gets no answer from it either")
        publisher.tell(routers[1].everything())
        terminal.shows("1 failed over   4 online", "was offline for")
        terminal.press("q")
        assert terminal.wait() == 0
        assert terminal.raw.endswith(b"\x1b[?1l\x1b>") or b"\x1b[?1049l" in terminal.raw


def test_one_router_and_back(broker: Mosquitto, publisher: Publisher, routers: list[Simulated]) -> None:
    with Terminal("watch", "--broker", broker.url) as terminal:
        terminal.shows("5 routers")
        publisher.tell([*routers[3].events(CUT), *routers[3].everything(CUT)])
        terminal.shows("1 failed over")
        terminal.press("\r")
        terminal.shows("r0003  failed over  lte ← wan", "EVENTS", "uplink.failover", "no carrier on eth1")
        terminal.press("\x1b")
        terminal.shows("5 routers")
        terminal.press("/r0002\r")
        terminal.shows("1 of 5 routers", "filter: r0002")
        terminal.press("\x03")
        assert terminal.wait() in (0, 130)


def test_the_window_may_change_its_size(broker: Mosquitto, routers: list[Simulated]) -> None:
    with Terminal("watch", "--broker", broker.url) as terminal:
        terminal.shows("5 routers")
        for columns, lines in ((40, 8), (200, 50), (5, 2), (100, 20)):
            terminal.resize(columns, lines)
            os.kill(terminal.pid, signal.SIGWINCH)
        terminal.shows("5 routers", "q quit")
        terminal.press("q")
        assert terminal.wait() == 0


def test_a_broker_that_goes_and_comes_back(
    broker: Mosquitto, publisher: Publisher, routers: list[Simulated]
) -> None:
    with Terminal("watch", "--broker", broker.url) as terminal:
        terminal.shows("5 routers   5 online")
        broker.stop()
        terminal.shows("NO CONNECTION TO THE BROKER", "5 online")
        broker.start()
        until(lambda: "NO CONNECTION" not in terminal.text, "it is connected again")
        again = Publisher(broker.port)
        again.tell(one for router in routers for one in router.everything(SILENT))
        terminal.shows("5 tunnel down")
        again.close()
        terminal.press("q")
        assert terminal.wait() == 0


def test_it_begins_without_a_broker(broker: Mosquitto) -> None:
    broker.stop()
    with Terminal("watch", "--broker", broker.url) as terminal:
        terminal.shows("NO CONNECTION TO THE BROKER", "nobody listens on port", "no router heard yet")
        broker.start()
        until(lambda: "NO CONNECTION" not in terminal.text, "it is connected")
        terminal.press("q")
        assert terminal.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_the_terminal_as_it_was(
    broker: Mosquitto, routers: list[Simulated], number: signal.Signals
) -> None:
    with Terminal("watch", "--broker", broker.url) as terminal:
        terminal.shows("5 routers")
        os.kill(terminal.pid, number)
        assert terminal.wait() == 128 + number
        until(lambda: b"\x1b[?1049l" in terminal.raw, "the screen before is back")


# ---- garbage ---------------------------------------------------------------------------------------------

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"


def test_garbage_neither_ends_it_nor_reaches_the_terminal(
    broker: Mosquitto, publisher: Publisher, routers: list[Simulated]
) -> None:
    beat = json.loads(routers[2].beat().payload)
    peer = next(iter(beat["tunnels"]["wg0"]["peers"].values()))
    evil = {
        **beat,
        "active": {"ipv4": EVIL},
        "wans": {EVIL: beat["wans"]["wan"]},
        "tunnels": {"wg0": {"wan": None, "peers": {EVIL: {**peer, "state": "dead"}}}},
        "worst": {"subject": EVIL, "code": "cause.silent", "text": EVIL},
    }
    with Terminal("watch", "--broker", broker.url) as terminal:
        terminal.shows("5 routers   5 online")
        for name in ("state", "birth", "event", "availability", "wan/wan", "tunnel/wg0/x"):
            for payload in (
                b"",
                b"{",
                b"[]",
                b"\xff\xfe",
                b"null",
                b'{"v":99}',
                b"[" * 50_000,
                b"x" * 100_000,
            ):
                publisher.raw(f"wgrouter/r0004/{name}", payload)
        publisher.raw("wgrouter/r0004/state", b"x" * (10 << 20))
        publisher.raw("wgrouter/" + "y" * 80 + "/state", b"{}")
        publisher.raw("wgrouter/\u200b\u202e/availability", b"online")
        publisher.raw("wgrouter/r0002/state", json.dumps(evil).encode())
        terminal.shows("tunnel down", "?]0;owned??[2J?31m?", "messages on topics of no router")
        terminal.press("/r0002\r\r")
        terminal.shows("r0002  tunnel down", "EVENTS")
        publisher.tell(routers[1].everything(CUT))
        terminal.press("\x1b\x1b")
        terminal.shows("1 failed over")
        assert b"owned\x07" not in terminal.raw
        assert b"\x1b]" not in terminal.raw
        assert "\x9b".encode() not in terminal.raw
        assert "\u202e".encode() not in terminal.raw
        terminal.press("q")
        assert terminal.wait() == 0


def test_ten_megabytes_under_mqtt_3_1_1_are_refused_by_us(
    broker: Mosquitto, publisher: Publisher, routers: list[Simulated]
) -> None:
    publisher.raw("wgrouter/r0004/state", b"x" * (10 << 20), retain=True)
    done = run("watch", "--once", "--json", "--mqtt", "3.1.1", "--broker", broker.url, "--wait", "20")
    row = next(row for row in json.loads(done.stdout)["routers"] if row["id"] == "r0004")
    assert row["unreadable"] == 1
    assert "10485760 bytes; a message has at most 65536" in row["because"]


# ---- what it needs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["watch"], "which broker? --broker mqtts://HOST, or WGROUTER_BROKER"),
        (["watch", "--broker", "http://x"], "'http://x' is no broker; accepted: mqtt://HOST[:PORT]"),
        (["watch", "--broker", "mqtt://b", "--json"], "--json goes with --once"),
        (
            ["watch", "--broker", "mqtt://b"],
            "standard input and output are no terminal: `fleet watch --once`",
        ),
        (["send", "r1", "reboot", "--broker", "mqtt://b"], "'reboot' is no verb; there are: refresh,"),
        (["send", "a+b", "refresh", "--broker", "mqtt://b"], "'a+b' is no router's id"),
        (["watch", "--once", "--broker", "mqtt://b", "--password-file", "/nonexistent"], "No such file"),
        (["watch", "--once", "--broker", "mqtts://b", "--ca-file", "/nonexistent"], "No such file"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: list[str], says: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_terminal_that_is_not_known(broker: Mosquitto) -> None:
    with Terminal("watch", "--broker", broker.url, term="no-such-terminal") as terminal:
        terminal.shows("the terminal 'no-such-terminal' is not known here: try TERM=xterm-256color")
        assert terminal.wait() == 2


def test_a_password_that_others_can_read_is_not_used(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("fleet") / "password"
    path.write_text("secret\n")
    path.chmod(0o644)
    done = run("watch", "--once", "--broker", "mqtt://b", "--user", "x", "--password-file", str(path))
    assert done.returncode == 2
    assert "can be read by others (mode 644): chmod 600" in done.stderr


@pytest.mark.parametrize(
    ("url", "host", "port", "tls"),
    [
        ("mqtt://b.example", "b.example", 1883, False),
        ("mqtts://b.example", "b.example", 8883, True),
        ("mqtts://[2001:db8::1]:8884", "2001:db8::1", 8884, True),
        ("mqtt://[::1]", "::1", 1883, False),
        ("b.example:1884", "b.example", 1884, False),
    ],
)
def test_brokers_are_named_like_this(url: str, host: str, port: int, tls: bool) -> None:
    found = where(url)
    assert (found.host, found.port, found.tls) == (host, port, tls)
    assert where(found.url) == found


@pytest.mark.parametrize(
    "url", ["", "mqtt://", "mqtt://b:0", "mqtt://b:x", "mqtt://::1", "ws://b", "mqtt://u@b", "mqtt://b/"]
)
def test_and_not_like_that(url: str) -> None:
    with pytest.raises(Unusable, match="is no broker; accepted"):
        where(url)


def test_without_paho_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "paho.mqtt.client", None)
    with pytest.raises(Unusable, match=r"needs paho-mqtt 1\.6\.1 or newer here.*pip install"):
        Link(where("mqtt://b"), [], None, keep=False)  # type: ignore[arg-type]
