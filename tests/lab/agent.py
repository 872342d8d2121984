"""The program under test, as a process in a router's box."""

import contextlib
import io
import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wgrouter import cli

from .netns import Box, LabError
from .poll import SLOWNESS, until, usual


class Agent:
    """`python -m wgrouter run --root DIR`, or any other command.

    Its output is in `log`, of all its lives one after another.
    """

    def __init__(
        self,
        box: Box,
        root: Path,
        *,
        arguments: Sequence[str] = (),
        command: Sequence[str] | None = None,
        python: str = sys.executable,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._box = box
        self.root = root
        self.log = root / "agent.log"
        self._wgrouter = [python, "-m", "wgrouter"]
        self._command = list(command or [*self._wgrouter, "run", "--root", str(root), *arguments])
        self._env = dict(env or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._life_starts_at = 0

    def start(self) -> "Agent":
        """Start it; it must not be running."""
        if self.running:
            raise LabError("the agent runs already")
        self._life_starts_at = self.log.stat().st_size if self.log.exists() else 0
        self._process = self._box.start(
            *self._command, log=self.log, env={"PYTHONUNBUFFERED": "1", **self._env}
        )
        return self

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id; LabError if it was never started."""
        if self._process is None:
            raise LabError("the agent was not started")
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """As subprocess has it: None while it runs, negative for a signal."""
        return None if self._process is None else self._process.poll()

    def signal(self, number: signal.Signals) -> None:
        """SIGHUP reloads, SIGSTOP freezes, SIGCONT goes on."""
        if self._process is not None:
            self._process.send_signal(number)

    def stop(self, within: float = 5) -> int:
        """SIGTERM, and wait; its exit status. LabError if it does not end in time (it is killed then)."""
        self.signal(signal.SIGTERM)
        return self._wait(within)

    def kill9(self) -> int:
        """SIGKILL: it gets no chance to tidy up."""
        self.signal(signal.SIGKILL)
        return self._wait(5)

    def restart(self) -> "Agent":
        """Stop it if it runs, and start it again."""
        if self.running:
            self.stop()
        return self.start()

    def _wait(self, within: float) -> int:
        if self._process is None:
            return 0
        try:
            return self._process.wait(usual(within))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise LabError(f"the agent did not end within {within:g} s\n{self.tail()}") from None

    def cli(self, *arguments: str, check: bool = True) -> str:
        """`wgrouter …` in the same box, about the same root; its output.

        Starting an interpreter takes seconds on an emulated machine, and takes them from the agent: there a
        command that only asks the running agent is run in this process.
        """
        words = [*arguments, "--root", str(self.root)]
        if SLOWNESS == 1 or not self.running:
            return self._box.run(*self._wgrouter, *words, check=check)
        told, complaint = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(complaint):
            status = cli.main(words)
        if check and status:
            raise LabError(f"wgrouter {' '.join(words)}: exit {status}: {complaint.getvalue().strip()}")
        return told.getvalue()

    def status(self) -> Any:
        """`wgrouter status --json`, decoded."""
        return json.loads(self.cli("status", "--json"))

    def await_live(self, within: float) -> None:
        """Return when every WAN is up, every peer alive and every name resolved."""

        def live() -> bool:
            status = self.status()
            peers = [peer for tunnel in status["tunnels"] for peer in tunnel["peers"]]
            return all(wan["state"] == "up" for wan in status["wans"]) and all(
                peer["state"] == "alive" and peer["addresses"] for peer in peers
            )

        until(live, within=within, what="live tunnels over live WANs")

    def output(self) -> str:
        """All that it has written since it was last started."""
        if not self.log.exists():
            return ""
        return self.log.read_bytes()[self._life_starts_at :].decode(errors="replace")

    def tail(self, lines: int = 30) -> str:
        """The end of its output."""
        return "\n".join(self.output().splitlines()[-lines:])

    def says(self, text: str, *, within: float) -> None:
        """Wait until it has said this since it was last started."""
        until(lambda: text in self.output(), within=within, what=f"the agent says {text!r}")
