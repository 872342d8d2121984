"""`wgrouter replay`: a journal through a fresh engine, and where that decides otherwise, for all to read.

In no package for routers: flash is scarce, and whoever reads a journal has the source at hand.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from wgrouter import __version__, render
from wgrouter.core.engine import Engine
from wgrouter.shell import replay


def replayed(path: str, as_data: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """What `--json` shows of this file ("-": standard input). OSError; ValueError for what is no journal."""
    if path == "-":
        recording = replay.read(sys.stdin.buffer)
    else:
        with open(path, "rb") as file:
            recording = replay.read(file)
    return {
        "steps": recording.steps,
        "recorded_by": recording.version,
        "replayed_by": __version__,
        "cut": recording.cut,
        "differences": [as_data(one) for one in replay.replay(recording, Engine)],
    }


def draw(data: dict[str, Any], paper: render.Paper) -> None:
    _differences(data["differences"], data["steps"], paper)
    if data["cut"]:
        paper.put("The last line is broken off and was left out.", "yellow")
    if data["recorded_by"] != __version__:
        paper.put(f"Recorded by {data['recorded_by']}, replayed by {__version__}.", "yellow")


def _differences(items: list[Any], steps: int, paper: render.Paper) -> None:
    if not items:
        paper.put(f"{steps} steps replayed: every decision the same.", "green")
        return
    paper.put(f"{steps} steps in the journal; decided otherwise:", "bold")
    for item in items:
        paper.heading(
            f"step {item.get('step')} at {render.number(item.get('at'), 's', 3)}: {item.get('part')}"
        )
        paper.wrapped(str(item.get("event")), 12, "dim", "  Event")
        paper.wrapped(str(item.get("recorded")), 12, "", "  Recorded")
        paper.wrapped(str(item.get("replayed")), 12, "yellow", "  Replayed")
