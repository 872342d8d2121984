"""What a test of the fleet runs on this machine: a mosquitto of its own, a publisher, and a terminal.

`Terminal` is a pseudo-terminal with a terminal emulator behind it (pyte), in which the real command runs:
what it shows is what a person would see.
"""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyte

from wgrouter.mqtt.topics import Publication

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 20.0


def until(condition: Callable[[], bool], what: str, within: float = PATIENCE) -> None:
    """Return when it is so; AssertionError if it is not in time."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Mosquitto:
    """A real broker on a port of 127.0.0.1, for everybody, without TLS; `more` is added to its settings."""

    def __init__(self, more: str = "") -> None:
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="wgrouter-fleet-"))
        conf = self.directory / "mosquitto.conf"
        conf.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\nuser root\n{more}\n")
        self.log = self.directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        with self.log.open("ab") as log:
            argv = ["mosquitto", "-c", str(self.directory / "mosquitto.conf")]
            self._process = subprocess.Popen(argv, stdout=log, stderr=log)

        def listens() -> bool:
            with socket.socket() as sock:
                return sock.connect_ex(("127.0.0.1", self.port)) == 0

        until(listens, "mosquitto listens")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for path in self.directory.iterdir():
            path.unlink()
        self.directory.rmdir()


class Publisher:
    """Publishes for any number of simulated routers over one connection, by paho."""

    def __init__(self, port: int) -> None:
        import paho.mqtt.client as paho

        more: dict[str, Any] = {}
        if hasattr(paho, "CallbackAPIVersion"):
            more["callback_api_version"] = paho.CallbackAPIVersion.VERSION2
        self._client = paho.Client(protocol=paho.MQTTv5, **more)
        self._client.max_inflight_messages_set(1000)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def tell(self, found: Iterable[Publication]) -> None:
        """Publish, and return when the broker has everything."""
        sent = [self._client.publish(one.topic, one.payload, max(one.qos, 1), one.retain) for one in found]
        for info in sent:
            info.wait_for_publish(PATIENCE)

    def raw(self, topic: str, payload: bytes, retain: bool = False) -> None:
        self._client.publish(topic, payload, 1, retain).wait_for_publish(PATIENCE)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "wgrouter", "fleet", *arguments]


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "LINES", "COLUMNS")}
    return {**kept, "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", **(more or {})}


def run(*arguments: str, within: float = 60.0) -> subprocess.CompletedProcess[str]:
    """The command to its end, without a terminal."""
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
        stdin=subprocess.DEVNULL,
        timeout=within,
    )


class Terminal:
    """`wgrouter fleet …` in a terminal of its own."""

    def __init__(
        self,
        *arguments: str,
        columns: int = 120,
        lines: int = 30,
        term: str = "xterm-256color",
        prefix: Sequence[str] = (),
    ) -> None:
        """`prefix` is a command that runs it elsewhere, in a namespace say."""
        self.screen = pyte.Screen(columns, lines)
        self.raw = bytearray()
        self.updated = time.monotonic()  # when bytes came last
        self._stream = pyte.ByteStream(self.screen)
        self._lock = threading.Lock()
        self.pid, self._fd = pty.fork()
        if not self.pid:
            argv = [*prefix, *command(*arguments)]
            os.execvpe(argv[0], argv, environment({"TERM": term}))
        self.resize(columns, lines)
        self.status: int | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        with self._lock:
            self.screen.resize(lines, columns)

    def _read(self) -> None:
        while True:
            select.select([self._fd], [], [])
            try:
                data = os.read(self._fd, 65536)
            except OSError:
                return
            if not data:
                return
            came = time.monotonic()
            with self._lock:
                self.raw += data
                self._stream.feed(data)
                self.updated = came

    @property
    def text(self) -> str:
        """What is on the screen."""
        with self._lock:
            return "\n".join(line.rstrip() for line in self.screen.display)

    def line(self, start: str) -> str:
        """The line that begins like this, "" if there is none."""
        return next((line for line in self.text.splitlines() if line.startswith(start)), "")

    def shows(self, *texts: str, within: float = PATIENCE) -> None:
        deadline = time.monotonic() + within
        while not all(text in self.text for text in texts):
            assert time.monotonic() < deadline, f"not within {within:g} s: {texts}\n{self.text}"
            time.sleep(0.01)

    def press(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def wait(self, within: float = PATIENCE) -> int:
        """Its exit status."""
        deadline = time.monotonic() + within
        while self.status is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self.status = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                raise AssertionError(f"it does not end\n{self.text}")
            else:
                time.sleep(0.01)
        return self.status

    @property
    def rss_mib(self) -> float:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1024**2

    @property
    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self.status is None:
            try:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass
        self._reader.join(2)
        os.close(self._fd)
        if isinstance(error, AssertionError):
            error.add_note(self.text)
