"""One target under atheris, until the time is over: started by __main__.py, in a process of its own.

A failure is written down once for each place where it happens, and the run goes on. What ends the process (no
memory, an input without end) leaves libFuzzer's own file.

Usage: python -m tests.fuzz.one TARGET DIRECTORY SEED SECONDS
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import atheris

from tests.fuzz import MEMORY_MAX, TARGETS, Run, guarded, name_of, place
from tests.fuzz.mutate import CHANGES

HANG = 30  # seconds after which libFuzzer ends an input that never returns
TELL = 1.0  # seconds between two reports
WORD_MAX = 64  # bytes, for libFuzzer


class Counted:
    """The target, with what became of its inputs."""

    def __init__(self, run: Run, directory: Path) -> None:
        self._run, self._directory = run, directory
        self._told = 0.0
        self.runs = 0
        self.found: dict[str, str] = {}

    def __call__(self, data: bytes) -> None:
        self.runs += 1
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # what an agent would put into the log
                guarded(self._run, data)
        except Exception as error:  # noqa: BLE001 — this is what we are after
            self._keep(data, error)
        if time.monotonic() - self._told > TELL:
            self.tell()

    def _keep(self, data: bytes, error: Exception) -> None:
        where = place(error)
        if where in self.found:
            return
        self.found[where] = name_of(data)
        path = self._directory / "found" / name_of(data)
        path.write_bytes(data)
        path.with_suffix(".txt").write_text(
            f"{where}\n" + "".join(traceback.format_exception(error)), encoding="utf-8", errors="replace"
        )
        self.tell()

    def tell(self) -> None:
        self._told = time.monotonic()
        used = resource.getrusage(resource.RUSAGE_SELF)
        report = {
            "executions": self.runs,
            "cpu_s": round(used.ru_utime + used.ru_stime, 2),
            "rss_mib": used.ru_maxrss >> 10,
            "found": self.found,
        }
        (self._directory / "report.json").write_text(json.dumps(report))


def quoted(word: bytes) -> str:
    return '"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n'


def mutator(name: str) -> Callable[[bytes, int, int], bytes]:
    """Half of the inputs keep their shape (mutate.py), the others are libFuzzer's."""
    changes = CHANGES.get(name, ())

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        chance = random.Random(seed)
        if changes and chance.random() < 0.5:
            for _ in range(chance.choice((1, 1, 2, 4))):
                data = chance.choice(changes)(data, chance) or data
            if 0 < len(data) <= most:
                return data
        mutated: bytes = atheris.Mutate(data[:most], most)
        return mutated

    return mutate


def main(name: str, where: str, seed: str, seconds: str) -> None:
    directory = Path(where)
    # libFuzzer ends the process without a word to Python: what targets keep in files goes with the next run.
    shutil.rmtree(directory / "files", ignore_errors=True)
    (directory / "files").mkdir()
    tempfile.tempdir = str(directory / "files")
    logging.disable()  # pyroute2 writes two tracebacks for a number that it cannot encode
    target = TARGETS[name]
    # dnspython is instrumented too: its branches are those that a packet takes.
    with atheris.instrument_imports(include=["wgrouter", "dns"]):
        run = target.load()
        for path in target.corpus():  # what a first call imports
            run(path.read_bytes())
    words = directory / "words"
    words.write_text("".join(quoted(word) for word in target.words() if 0 < len(word) <= WORD_MAX))
    options = [
        f"-seed={seed}",
        f"-max_total_time={seconds}",
        f"-max_len={target.size}",
        f"-timeout={HANG}",
        f"-rss_limit_mb={MEMORY_MAX}",
        *([f"-dict={words}"] if words.stat().st_size else []),
        f"-artifact_prefix={directory}/found/",
        "-len_control=0",
        "-verbosity=0",
    ]
    counted = Counted(run, directory)
    folders = [str(directory / "corpus"), str(target.corpus()[0].parent)]
    atheris.Setup([sys.argv[0], *options, *folders], counted, custom_mutator=mutator(name))
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
