"""Mutation testing of wgrouter/core: changes one thing at a time and asks whether any test notices.

A mutant is one module with one change (a boundary moved, a constant doubled, a guard dropped, `and` for
`or`, a value not returned, a statement or a keyword of `replace` left out). It never touches a file: a change
inside a function is made in a fork of a process that has imported all (mutants_quick.py), another in a child
that imports the changed source by a hook. Which tests run a line is learnt once, with coverage; a mutant is
given only those, the quickest first, until one fails. A mutant that takes much longer than they do is killed
too: an endless loop is noticed.

Usage: python -m tests.tools.mutants [--all | --sample N] [--seed S] [--jobs N] [--tests FILE]... [MODULE ...]
       python -m tests.tools.mutants --one MODULE OLD NEW TEST ...     exit 0 if killed, 1 if it survives
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import hashlib
import importlib.abc
import importlib.util
import json
import os
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.tools import mutants_quick

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "wgrouter" / "core"
LEARNT = ROOT / "build" / "mutants"
SUITES = ("tests/unit", "tests/model")
SLOW = 6.0  # seconds: a test that takes longer while learning is not asked
TESTS_TIME = 25.0  # of tests given to one mutant, as measured while learning
GRACE = 20.0  # a mutant may take this much longer than its tests

SURVIVED, KILLED, LATE, UNTESTED = "survived", "killed", "killed (time)", "survived (no test runs it)"


@dataclass(frozen=True)
class Mutant:
    """One change: where, what, and the whole module with it."""

    path: Path
    line: int
    what: str
    source: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.what}"


# ---------------------------------------------------------------- changes

Change = tuple[str, Callable[[], None], Callable[[], None]]  # in words, do, undo

_COMPARE: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}


def mutants(path: Path) -> Iterator[Mutant]:
    """Every mutant of a module, in the order of its lines."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    for node, changes in list(_changes(tree)):
        for what, do, undo in changes:
            do()
            source = ast.unparse(ast.fix_missing_locations(tree))
            undo()
            yield Mutant(path, node.lineno, what, source)


def _changes(tree: ast.Module) -> Iterator[tuple[Any, list[Change]]]:
    skipped = set(_unlived(tree))
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            nodes = value if isinstance(value, list) else [value]
            for index, node in enumerate(nodes):
                if isinstance(node, ast.AST) and node not in skipped and hasattr(node, "lineno"):
                    place = (value, index) if isinstance(value, list) else (parent, name)
                    changes = [_swap(place, node, new, what) for new, what in _others(node)]
                    if changes:
                        yield node, changes


def _unlived(tree: ast.Module) -> Iterator[ast.AST]:
    """Annotations, docstrings, imports, and the text of decorators and error messages."""
    for node in ast.walk(tree):
        for name in ("annotation", "returns"):
            inner = getattr(node, name, None)
            if inner is not None:
                yield from ast.walk(inner)
        for decorator in getattr(node, "decorator_list", ()):
            yield from ast.walk(decorator)
        if isinstance(node, (ast.Expr, ast.JoinedStr)) and not isinstance(
            getattr(node, "value", None), ast.Call
        ):
            yield from ast.walk(node)
        if isinstance(node, ast.Assert):
            yield from ast.walk(node)


def _swap(place: tuple[Any, Any], old: Any, new: Any, what: str) -> Change:
    where, key = place

    def put(node: Any) -> Callable[[], None]:
        def act() -> None:
            if isinstance(where, list):
                where[key] = node
            else:
                setattr(where, key, node)

        return act

    return what, put(new), put(old)


def _others(node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """What could stand in a node's place."""
    text = _brief(node)
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        for op in _COMPARE.get(type(node.ops[0]), ()):
            new = ast.Compare(node.left, [op()], node.comparators)
            yield new, f"{text}  →  {_brief(new)}"
    elif isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield ast.BoolOp(other, node.values), f"{text}  →  {'or' if isinstance(node.op, ast.And) else 'and'}"
        for index in range(len(node.values)):
            rest = [value for place, value in enumerate(node.values) if place != index]
            yield (
                rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest),
                f"{text}  →  without {_brief(node.values[index])}",
            )
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand, f"{text}  →  {_brief(node.operand)}"
    elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        new_op = ast.BinOp(node.left, _ARITHMETIC[type(node.op)](), node.right)
        yield new_op, f"{text}  →  {_brief(new_op)}"
    elif isinstance(node, ast.Constant):
        yield from _constants(node)
    elif isinstance(node, (ast.If, ast.IfExp)):
        for truth in (True, False):
            new_if = type(node)(**{**dict(ast.iter_fields(node)), "test": ast.Constant(truth)})
            yield ast.copy_location(new_if, node), f"if {_brief(node.test)}  →  if {truth}"
    elif isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
        yield ast.copy_location(ast.Return(ast.Constant(None)), node), f"{text}  →  return None"
    elif isinstance(node, ast.Call):
        yield from _calls(node, text)
    elif (
        isinstance(node, (ast.AugAssign, ast.Delete))
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
        or isinstance(node, (ast.Continue, ast.Break))
    ):
        yield ast.copy_location(ast.Pass(), node), f"{text}  →  left out"


def _constants(node: ast.Constant) -> Iterator[tuple[ast.AST, str]]:
    value = node.value
    if isinstance(value, bool):
        yield ast.Constant(not value), f"{value}  →  {not value}"
    elif isinstance(value, (int, float)):
        for new in (value + 1, value * 2) if value not in (0, 1) else (value + 1,):
            yield ast.Constant(new), f"{value}  →  {new}"


def _calls(node: ast.Call, text: str) -> Iterator[tuple[ast.AST, str]]:
    called = node.func.id if isinstance(node.func, ast.Name) else ""
    twin = {"min": "max", "max": "min", "any": "all", "all": "any"}.get(called)
    if twin:
        yield ast.Call(ast.Name(twin, ast.Load()), node.args, node.keywords), f"{text}  →  {twin}"
    if called == "replace":
        for keyword in node.keywords:
            if keyword.arg:
                rest = [other for other in node.keywords if other is not keyword]
                yield ast.Call(node.func, node.args, rest), f"replace(…)  →  without {keyword.arg}"


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _brief(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 60 else text[:57] + "..."


# ---------------------------------------------------------------- running tests


class _Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module of the core from this source instead of its file."""

    def __init__(self, mutant: Mutant) -> None:
        self.name = f"wgrouter.core.{mutant.path.stem}"
        self.code = compile(mutant.source, str(mutant.path), "exec", dont_inherit=True)

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return importlib.util.spec_from_loader(name, self) if name == self.name else None

    def exec_module(self, module: ModuleType) -> None:
        exec(self.code, module.__dict__)


def _pytest(arguments: Sequence[str], plugins: Sequence[object] = ()) -> int:
    """pytest in this process, the same each time and with few examples."""
    import hypothesis
    import pytest

    hypothesis.settings.register_profile(
        "mutants", max_examples=15, deadline=None, derandomize=True, database=None
    )
    usual = [
        "-o",
        "cache_dir=build/mutants/cache",
        "-p",
        "no:xdist",
        "-q",
        "--tb=no",
        "--no-header",
        "-r",
        "N",
    ]
    # hypothesis is there already: imported once, not in each child.
    usual += ["-W", "ignore::pytest.PytestAssertRewriteWarning", "--hypothesis-profile=mutants"]
    return int(pytest.main([*usual, *arguments], list(plugins)))


def attempt(mutant: Mutant, tests: Sequence[str]) -> int:
    """Fork a child that runs these tests with the mutant; its process id. It exits 0 if they all pass."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setpgid(0, 0)
        quiet = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(quiet, stream)
        sys.meta_path.insert(0, _Changed(mutant))
        status = _pytest(["-x", *tests])
    finally:
        os._exit(status)


@dataclass
class Child:
    """One mutant under test."""

    mutant: Mutant
    deadline: float


Job = tuple[Mutant, list[str], float]  # with its tests and the seconds they take


def run(jobs: list[Job], workers: int) -> Iterator[tuple[Mutant, str]]:
    """What became of each mutant, as they end: those first that need no import."""
    quick: list[mutants_quick.Job] = []
    slow: list[Job] = []
    for mutant, tests, seconds in jobs:
        name, _ = mutants_quick.function_at(mutant.path, mutant.line)
        if name and tests:
            quick.append((mutant, name, tests, seconds))
        else:
            slow.append((mutant, tests, seconds))
    left = dict(enumerate(quick))
    for number, status in mutants_quick.run(quick, workers, GRACE, _pytest):
        if status != mutants_quick.NOT_HERE:
            mutant = left.pop(number)[0]
            yield mutant, LATE if status == "late" else SURVIVED if status == 0 else KILLED
    slow += [(mutant, tests, seconds) for mutant, _, tests, seconds in left.values()]
    yield from _run_afresh(slow, workers)


def _run_afresh(jobs: list[Job], workers: int) -> Iterator[tuple[Mutant, str]]:
    """Each in a process that imports all anew."""
    running: dict[int, Child] = {}
    waiting = list(reversed(jobs))
    while waiting or running:
        while waiting and len(running) < workers:
            mutant, tests, seconds = waiting.pop()
            if not tests:
                yield mutant, UNTESTED
                continue
            child = attempt(mutant, tests)
            running[child] = Child(mutant, time.monotonic() + 4 * seconds + GRACE)
        for child, job in list(running.items()):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                del running[child]
                yield job.mutant, SURVIVED if os.waitstatus_to_exitcode(status) == 0 else KILLED
            elif time.monotonic() > job.deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                del running[child]
                yield job.mutant, LATE
        time.sleep(0.01)


# ---------------------------------------------------------------- learning which test runs which line


class _Learner:
    """A pytest plugin that tells coverage which test runs, and remembers how long it took."""

    def __init__(self, coverage: Any) -> None:
        self.coverage = coverage
        self.seconds: dict[str, float] = {}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.coverage.switch_context(nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.coverage.switch_context("")

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self.seconds[report.nodeid] = float("inf")  # what fails without a mutant says nothing


def _of_the_core(source: str) -> bool:
    """Whether a test file is about the core, and not about what stands on it."""
    return "wgrouter.core" in source and not any(
        name in source for name in ("wgrouter.ports", "wgrouter.daemon", "wgrouter.cli", "tests.tools")
    )


def _fingerprint(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    helpers = (path for suite in SUITES for path in (ROOT / suite).glob("*.py") if "test_" not in path.name)
    for path in sorted({*CORE.glob("*.py"), *helpers, *files}):
        digest.update(f"{path}".encode() + path.read_bytes())
    return digest.hexdigest()


def learn(only: Sequence[str] = ()) -> dict[str, Any]:
    """Which tests run which line, and how long each takes; with `only`, of those files. Kept under build/
    until a source changes.
    """
    files = [ROOT / name for name in only] or [
        path
        for suite in SUITES
        for path in sorted((ROOT / suite).glob("test_*.py"))
        if _of_the_core(path.read_text(encoding="utf-8"))
    ]
    fingerprint = _fingerprint(files)
    kept = LEARNT / ("some.json" if only else "lines.json")
    if kept.exists():
        data: dict[str, Any] = json.loads(kept.read_text())
        if data["fingerprint"] == fingerprint:
            return data
    LEARNT.mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if not child:
        _learn(kept, fingerprint, [str(path.relative_to(ROOT)) for path in files])
        os._exit(0)
    os.waitpid(child, 0)
    return dict(json.loads(kept.read_text()))


def _learn(kept: Path, fingerprint: str, files: Sequence[str]) -> None:
    import coverage

    cover = coverage.Coverage(data_file=None, include=[f"{CORE}/*"], branch=False, config_file=False)
    learner = _Learner(cover)
    cover.start()
    # The days of the whole engine are too long to be asked once for each mutant.
    _pytest(["-m", "not lab and not vm", "-k", "not a_day_of and not in_any_order", *files], [learner])
    cover.stop()
    data = cover.get_data()
    lines: dict[str, dict[int, list[str]]] = {}
    for name in data.measured_files():
        lines[Path(name).stem] = {
            line: [test for test in tests if learner.seconds.get(test, SLOW) < SLOW]
            for line, tests in data.contexts_by_lineno(name).items()
        }
    kept.write_text(json.dumps({"fingerprint": fingerprint, "lines": lines, "seconds": learner.seconds}))


def tests_for(mutant: Mutant, learnt: dict[str, Any]) -> tuple[list[str], float]:
    """The tests that run the line, quickest first, and the seconds they take; for a line that is run when the
    module is imported (a constant, a table), all that run any of the module.
    """
    lines, seconds = learnt["lines"].get(mutant.path.stem, {}), learnt["seconds"]
    name, first = mutants_quick.function_at(mutant.path, mutant.line)
    # Coverage may count a statement of many lines at any of them.
    found: set[str] = set()
    for line in range(mutant.line, first - 1, -1) if name else (mutant.line,):
        found = found or set(lines.get(str(line), ()))
    if not found and not name:
        found = {test for tests in lines.values() for test in tests}
        found |= {
            test
            for test in seconds
            if seconds[test] < SLOW and test.partition("::")[0] in _importers(mutant.path.stem)
        }
    # Tests named after the module know it best.
    ordered = sorted(found, key=lambda test: (f"test_{mutant.path.stem}" not in test, seconds[test]))
    chosen: list[str] = []
    total = 0.0
    for test in ordered:
        if total > TESTS_TIME or len(chosen) >= 400:
            break
        chosen.append(test)
        total += seconds[test]
    return chosen, total


@functools.cache
def _importers(name: str) -> frozenset[str]:
    """The test files that import a module of the core, or something from it."""
    used = re.compile(rf"wgrouter\.core(\.{name}\b| import [^\n]*\b{name}\b)")
    return frozenset(
        str(path.relative_to(ROOT))
        for suite in SUITES
        for path in (ROOT / suite).glob("test_*.py")
        if used.search(path.read_text(encoding="utf-8"))
    )


# ---------------------------------------------------------------- the command


def one(module: str, old: str, new: str, tests: list[str]) -> int:
    """One change of text, given by hand. 0: a test notices; 1: none does; 2: the text is not there once."""
    path = ROOT / "wgrouter" / module
    source = path.read_text(encoding="utf-8")
    if source.count(old) != 1:
        print(f"{old!r} stands {source.count(old)} times in {module}; once is needed", file=sys.stderr)
        return 2
    line = source[: source.index(old)].count("\n") + 1
    mutant = Mutant(path, line, f"{old}  →  {new}", source.replace(old, new))
    for _, outcome in run([(mutant, tests, 20.0)], 1):
        print(f"{outcome:14} {mutant}")
        return int(outcome == SURVIVED)
    return 2


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="mutants", description="mutation testing of wgrouter/core")
    parser.add_argument("--all", action="store_true", help="every mutant (hours)")
    parser.add_argument("--sample", type=int, default=12, help="mutants of each module (12)")
    parser.add_argument("--seed", type=int, default=1, help="which ones")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--tests", action="append", default=[], metavar="FILE", help="ask only these")
    parser.add_argument("--one", nargs=4, action="extend", metavar=("MODULE", "OLD", "NEW", "TEST"))
    parser.add_argument("modules", nargs="*", help="names within core, e.g. ladder; all if none")
    chosen = parser.parse_args(arguments)
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    if chosen.one:
        module, old, new, *tests = chosen.one
        return one(module, old, new, [*tests, *chosen.modules])
    import hypothesis  # noqa: F401 — once, not in each child
    import pytest  # noqa: F401

    learnt = learn(chosen.tests)
    paths = [CORE / f"{name}.py" for name in chosen.modules] or sorted(CORE.glob("*.py"))
    jobs = []
    for path in paths:
        found = list(mutants(path))
        if not chosen.all:
            chance = random.Random(f"{chosen.seed} {path.stem}")
            found = sorted(chance.sample(found, min(chosen.sample, len(found))), key=lambda m: m.line)
        jobs += [(mutant, *tests_for(mutant, learnt)) for mutant in found]
    tally: dict[str, Counter[str]] = {path.stem: Counter() for path in paths}
    for mutant, outcome in run(jobs, chosen.jobs):
        tally[mutant.path.stem][outcome] += 1
        if outcome in (SURVIVED, UNTESTED):
            print(f"{outcome:14} {mutant}", flush=True)
    return report(tally)


def report(tally: dict[str, Counter[str]]) -> int:
    """A table by module, the worst last; 0 if 85 % were killed."""
    rows = []
    for name, counts in tally.items():
        killed, total = counts[KILLED] + counts[LATE], sum(counts.values())
        if total:
            rows.append((killed / total, name, killed, total))
    print(f"\n{'module':16} killed")
    for share, name, killed, total in sorted(rows, reverse=True):
        print(f"{name:16} {killed:4} of {total:4}  {100 * share:3.0f} %")
    killed, total = sum(row[2] for row in rows), sum(row[3] for row in rows)
    print(f"{'all':16} {killed:4} of {total:4}  {100 * killed / max(total, 1):3.0f} %")
    return int(killed < 0.85 * total)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
