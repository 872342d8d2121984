"""The agent that answers questions, without hands: the daemon's own methods, no port opened."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tests.fuzz import scene
from wgrouter.core.engine import Engine
from wgrouter.core.findings import Finding
from wgrouter.core.messages import Commanded, Event, Hinted
from wgrouter.daemon import _Agent
from wgrouter.shell.journal import Journal
from wgrouter.shell.log import Log

CONFIG = """\
config wgrouter 'main'
\toption enabled '1'

config wan 'wan'
\toption device 'eth1'

config wan 'lte'
\toption device 'wwan0'

config hold 'hold'
\toption up_after '5s'
"""

LINE_MAX = 2000  # characters


class Quiet:
    """A reactor that keeps what it is given."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def now(self) -> float:
        return scene.NOW

    def post(self, event: Event) -> None:
        self.events.append(event)

    def call_at(self, when: float, callback: Any) -> Quiet:
        return self

    def cancel(self) -> None: ...

    def watch(self, fd: int, callback: Any, *, write: bool = False) -> None: ...

    def unwatch(self, fd: int) -> None: ...


class Agent(_Agent):
    """Two WANs and four peers. `fault` is what must not happen."""

    def __init__(self) -> None:
        self.reactor: Any = Quiet()
        self.engine, self.log = Engine(scene.calm()), Log("error")
        self.journal = Journal(self.engine.state, 1000.0)
        self.fixed_level, self.started, self.reporting = True, 1000.0, None
        self.problems = []
        self.root = str(directory())
        self.confdir = None

    def say(self, finding: Finding) -> None:
        """A line of the log: short, whoever asked for what."""
        said = str(finding)
        said.encode("utf-8", "backslashreplace")
        assert len(said) < LINE_MAX, said

    def fault(self, error: Exception) -> None:
        raise error

    def heard(self) -> None:
        """What was asked reaches the core."""
        for event in self.reactor.events:
            if isinstance(event, Commanded | Hinted):
                scene.taken(self.engine.state, event)
        self.reactor.events.clear()


_directory = None


def directory() -> Path:
    """A root with a configuration. It goes with the process."""
    global _directory
    if _directory is None:
        _directory = tempfile.TemporaryDirectory(prefix="wgrouter-fuzz-")
        path = Path(_directory.name, "etc", "config")
        path.mkdir(parents=True)
        (path / "wgrouter").write_text(CONFIG)
        (path / "network").write_text("config interface 'lan'\n\toption device 'br-lan'\n")
    return Path(_directory.name)
