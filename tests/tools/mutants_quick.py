"""Tries mutants without importing anything again: pytest collects once, a mutant is a fork of that process.

A change inside a function needs no new module: the child gives the living function the changed code, and all
modules that imported it have the change. What is run at import (a constant, a table, a default) is not for
here: mutants.py imports the changed module in a fresh process for that.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import gc
import importlib
import inspect
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

WAIT = 0.002  # seconds between looks at the children
NOT_HERE = 3  # exit code of a child that cannot make the change


Job = tuple[Any, str, list[str], float]  # a mutant, its function, its tests, the seconds they take


def function_at(path: Path, line: int) -> tuple[str, int]:
    """The outermost function whose body holds this line, and where that begins; "" if it is run at import."""

    def inner(body: Sequence[ast.stmt], prefix: str) -> tuple[str, int]:
        for node in body:
            if node.lineno <= line <= (node.end_lineno or 0):
                if isinstance(node, ast.ClassDef):
                    return inner(node.body, f"{prefix}{node.name}.")
                if isinstance(node, ast.FunctionDef) and line >= node.body[0].lineno:
                    return prefix + node.name, node.body[0].lineno
        return "", 0

    return inner(_parsed(path).body, "")


@functools.cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def swap(path: Path, source: str, name: str) -> None:
    """Give the function `name` of a core module the code that it has in `source`, or raise LookupError."""
    module = importlib.import_module(f"wgrouter.core.{path.stem}")
    found: Any = module
    for part in name.split("."):
        found = inspect.getattr_static(found, part)
    if isinstance(found, property):
        found = found.fget
    if hasattr(found, "cache_clear"):
        found.cache_clear()
    found = inspect.unwrap(getattr(found, "__func__", found))
    code = _code(compile(source, str(path), "exec", dont_inherit=True), name)
    if not isinstance(found, FunctionType) or code is None or code.co_freevars != found.__code__.co_freevars:
        raise LookupError(f"{name} in {path}")
    found.__code__ = code


def _code(code: CodeType, name: str) -> CodeType | None:
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            if inner.co_qualname == name:
                return inner
            if name.startswith(f"{inner.co_qualname}.") and (found := _code(inner, name)):
                return found
    return None


class Loop:
    """A pytest plugin: instead of running the tests, each mutant in turn with those meant for it."""

    def __init__(self, jobs: Sequence[Job], workers: int, grace: float, tell: Callable[[Any], None]) -> None:
        self.jobs = list(reversed(list(enumerate(jobs))))
        self.workers = workers
        self.grace = grace
        self.tell = tell
        self.failed = False

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.failed = self.failed or report.failed

    def pytest_runtestloop(self, session: Any) -> bool:
        items: dict[str, list[Any]] = {}
        for item in session.items:
            items.setdefault(item.nodeid, []).append(item)
            items.setdefault(item.nodeid.partition("::")[0], []).append(item)
        gc.collect()
        gc.freeze()
        running: dict[int, tuple[int, float]] = {}
        while self.jobs or running:
            while self.jobs and len(running) < self.workers:
                number, (mutant, name, tests, seconds) = self.jobs.pop()
                child = os.fork()
                if not child:
                    self._try(mutant, name, [item for test in tests for item in items.get(test, ())])
                running[child] = number, time.monotonic() + 4 * seconds + self.grace
            for child, (number, deadline) in list(running.items()):
                done, status = os.waitpid(child, os.WNOHANG)
                late = not done and time.monotonic() > deadline
                if late:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(child, signal.SIGKILL)
                    _, status = os.waitpid(child, 0)
                if done or late:
                    del running[child]
                    self.tell([number, "late" if late else os.waitstatus_to_exitcode(status)])
            time.sleep(WAIT)
        return True

    def _try(self, mutant: Any, name: str, items: list[Any]) -> None:
        """In the child: exits 0 if all pass, 1 if one fails, NOT_HERE if the change cannot be made."""
        status = 1
        try:
            os.setpgid(0, 0)
            try:
                swap(mutant.path, mutant.source, name)
            except LookupError:
                os._exit(NOT_HERE)
            for item, following in zip(items, [*items[1:], None], strict=True):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                if self.failed:
                    break
            status = int(self.failed)
        finally:
            os._exit(status)


def run(
    jobs: Sequence[Job],
    workers: int,
    grace: float,
    pytest_main: Callable[[Sequence[str], Sequence[object]], int],
) -> Iterator[tuple[int, int | str]]:
    """The number of each job and its child's exit code, or "late"."""
    if not jobs:
        return
    reading, writing = os.pipe()
    files = sorted({test.partition("::")[0] for _, _, tests, _ in jobs for test in tests})
    server = os.fork()
    if not server:
        try:
            os.close(reading)
            quiet = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(quiet, stream)

            def tell(what: Any) -> None:
                os.write(writing, (json.dumps(what) + "\n").encode())

            pytest_main(["--capture=no", *files], [Loop(jobs, workers, grace, tell)])
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        for line in told:
            number, outcome = json.loads(line)
            yield number, outcome
    os.waitpid(server, 0)
