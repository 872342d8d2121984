"""The tests bite: each of these changes to a threshold or a guard of the core is noticed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools import mutants

ROOT = Path(__file__).resolve().parents[2]
LADDER = "tests/unit/test_ladder.py"

FIXED = [
    (
        "core/liveness.py",
        "SILENCE: Seconds = KEEPALIVE_TIMEOUT + REKEY_TIMEOUT",
        "SILENCE: Seconds = KEEPALIVE_TIMEOUT + 2 * REKEY_TIMEOUT",
        "tests/unit/test_liveness.py",
    ),
    (
        "core/answers.py",
        "    if address.is_loopback:\n",
        "    if False:\n",
        "tests/unit/test_names_answers.py",
    ),
    (
        "core/tunnels.py",
        "if len(care.spent) >= tunnel.ladder.steps_per_hour and",
        "if False and",
        "tests/model/test_engine.py::test_a_spent_budget_does_not_keep_a_tunnel_from_its_moved_name",
    ),
    (
        "core/ladder.py",
        "    if not situation.restarts_left:\n",
        "    if False:\n",
        LADDER,
    ),
    (
        "core/ranges.py",
        "return route.protocol == routing.protocol and 0 <=",
        "return 0 <=",
        "tests/unit/test_plan.py",
    ),
    (
        "core/window.py",
        "SILENT_AFTER = 3",
        "SILENT_AFTER = 4",
        "tests/unit/test_links_window.py",
    ),
]


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("module", "old", "new", "tests"), FIXED, ids=[row[0] for row in FIXED])
def test_a_mutant_is_killed(module: str, old: str, new: str, tests: str) -> None:
    command = [sys.executable, "-m", "tests.tools.mutants", "--one", module, old, new, tests]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith("killed"), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "old", "new", "tests"),
    [
        ("core/window.py", "SILENT_AFTER = 3", "SILENT_AFTER = 2 + 1", "tests/unit/test_links_window.py"),
        ("core/ladder.py", "if not situation.restarts_left:", "if situation.restarts_left < 1:", LADDER),
    ],
    ids=["run at import", "in a function"],
)
def test_a_mutant_that_changes_nothing_survives(module: str, old: str, new: str, tests: str) -> None:
    """Else "killed" would mean nothing."""
    command = [sys.executable, "-m", "tests.tools.mutants", "--one", module, old, new, tests]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout.startswith("survived"), done.stdout + done.stderr


def test_what_is_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    path = tmp_path / "sample.py"
    path.write_text(
        '"""Text."""\nLIMIT: int = 3\n\n\ndef f(a: int, b: bool) -> int:\n    """Text."""\n'
        "    if a < LIMIT and not b:\n        return replace(a, b=1)\n    return min(a, 0)\n"
    )
    told = [str(mutant) for mutant in mutants.mutants(path)]
    assert sorted(told) == sorted(
        [
            "sample.py:2: 3  →  4",
            "sample.py:2: 3  →  6",
            "sample.py:7: if a < LIMIT and (not b)  →  if True",
            "sample.py:7: if a < LIMIT and (not b)  →  if False",
            "sample.py:7: a < LIMIT and (not b)  →  or",
            "sample.py:7: a < LIMIT and (not b)  →  without a < LIMIT",
            "sample.py:7: a < LIMIT and (not b)  →  without not b",
            "sample.py:7: a < LIMIT  →  a <= LIMIT",
            "sample.py:7: a < LIMIT  →  a >= LIMIT",
            "sample.py:7: not b  →  b",
            "sample.py:8: return replace(a, b=1)  →  return None",
            "sample.py:8: replace(…)  →  without b",
            "sample.py:8: 1  →  2",
            "sample.py:9: return min(a, 0)  →  return None",
            "sample.py:9: min(a, 0)  →  max",
            "sample.py:9: 0  →  1",
        ]
    )
    for mutant in mutants.mutants(path):
        compile(mutant.source, "sample.py", "exec")
