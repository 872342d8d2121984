"""Random faults, one after another and several at once, on the lab with the real agent: `make chaos`.

A seed is a story (chaos_script.py), played on a lab (chaos_faults.py) under a watch (chaos_watch.py). Odd
seeds have a full tunnel for the LAN, even ones a LAN in the clear; of each kind every other one names its
WANs; the library sets take turns by threes. What fails tells its seed and the story so far; the same seed
plays the same story again, as fast as the machine is.

    python -m tests.lab.chaos                        the fixed seeds of continuous integration, side by side
    python -m tests.lab.chaos --seed 7 --faults 200  one story (several: --seed 7 8 9)
    python -m tests.lab.chaos --seed 7 --show        only tell it
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import reporting
from .agent import Agent
from .chaos_bus import Ubus
from .chaos_faults import Trouble, mount_tmp
from .chaos_script import Story, draw
from .chaos_watch import Watch, stop_traffic
from .lab import Lab, build
from .netns import REPOSITORY
from .scenarios import QUICK as SOON
from .scenarios import TTL
from .topology import Site, dual
from .uplinks import QUICK

SEEDS = (1, 2, 4)
FAULTS = 200
SETS = ("venv-newest", "venv-router")
PLACE = REPOSITORY / "build/chaos"
LAUNCHER = REPOSITORY / "tests/lab/chaos_agent.py"
EVERYWHERE = ("0.0.0.0/0", "::/0")
NAMED = "config wan 'wan'\n\toption priority '1'\nconfig wan 'wanb'\n\toption priority '2'\n"


class Failure(Exception):
    """A story that ended badly: the reason, and what had happened until then."""


def python_of(seed: int) -> str:
    """The library set's interpreter where it was set up, else this one."""
    path = REPOSITORY / "build" / SETS[seed // 3 % 2] / "bin/python"
    return str(path) if path.exists() else sys.executable


def configuration(lab: Lab, story: Story) -> str:
    """Settings in a hurry, as in the other tests; what an hour allows is not to be the limit here."""
    budget = "\toption steps_per_hour '3600'\n"
    peers = "".join(
        f"config peer\n\toption description '{site}'\n\toption probe_interval '1s'\n" for site in lab.sites
    )
    metrics = f"\toption metrics_file '{lab.router.root}/tmp/wgrouter.prom'\n\toption metrics_interval '5s'\n"
    mqtt = reporting.configuration(lab, more=metrics, keepalive=5)
    return QUICK + SOON + budget + peers + mqtt + (NAMED if story.seed % 4 >= 2 else "")


def play(story: Story, say: Callable[[str], None]) -> dict[str, Any]:
    """Play a story; its figures. Failure with all that happened if anything that must hold did not."""
    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        say(line)

    began = time.monotonic()
    more = EVERYWHERE if story.full_tunnel else ()
    far = (
        Site("site1", 1, (4, 6) if story.full_tunnel else (4,), more_allowed=more),
        Site("site2", 2, (4, 6)),
    )
    with build(dual(far, ttl=TTL, broker=True)) as lab:
        if story.full_tunnel:  # without a metric the kernel puts it behind the WANs' own, over IPv6
            lab.router.run("ip", "-6", "route", "add", "default", "dev", "wg0", "metric", "1")
        mount_tmp(lab)
        ubus = Ubus(lab)
        clock = lab.directory / "clock"
        clock.write_text("0")
        config = configuration(lab, story)
        python = python_of(story.seed)
        command = [python, str(LAUNCHER), "run", "--root", str(lab.router.root)]
        agent = lab.router.start_agent(
            config, command=command, python=python, env={"CHAOS_CLOCK": str(clock)}
        )
        witness = reporting.Witness(lab)
        trouble = Trouble(lab, agent, ubus, clock, config)
        watch = Watch(trouble, story.full_tunnel, tell)
        try:
            watch.mended()
            _storms(story, trouble, watch, tell, began)
            watch.trouble.awake()
            status = agent.stop(within=20)
            assert status == 0, f"exit status {status} after SIGTERM"
            watch.stopped()
            messages = len(witness.messages())
        except Exception as error:
            raise Failure(_account(story, told, error, lab, agent)) from error
        stop_traffic(watch)
        figures = {"seed": story.seed, "faults": story.faults, "lives": trouble.lives}
        return {
            **figures,
            "seconds": round(time.monotonic() - began),
            "messages": messages,
            **watch.figures(),
        }


def _storms(story: Story, trouble: Trouble, watch: Watch, tell: Callable[[str], None], began: float) -> None:
    done = 0
    for storm in story.storms:
        for fault in storm.faults:
            time.sleep(fault.pause)  # the story's own time
            at = time.monotonic() - began
            done += 1
            tell(f"{at:6.1f} {done:3} {fault.verb}({fault.a}, {fault.b}): …")
            came_to = trouble.do(fault.verb, fault.a, fault.b)
            tell(f"{'':10} {came_to}")
            if not came_to.startswith("suspended"):
                watch.glance()
        watch.calm()
        tell(f"{time.monotonic() - began:6.1f}     calm")
        if storm.mended:
            trouble.mend()
            watch.mended()
            tell(f"{time.monotonic() - began:6.1f}     mended after {watch.mended_took[-1]:.1f} s")


def _account(story: Story, told: Sequence[str], error: Exception, lab: Lab, agent: Agent) -> str:
    """All that one needs to see what happened."""
    PLACE.mkdir(parents=True, exist_ok=True)
    if agent.log.exists():
        (PLACE / f"seed-{story.seed}.agent.log").write_bytes(agent.log.read_bytes())
    journal = "no journal"
    if agent.running:
        root = f"/proc/{lab.router.box.pid}/root{lab.router.root}"
        journal = agent.cli("journal", "-a", "-n", "400", check=False)
        (PLACE / f"seed-{story.seed}.journal").write_text(journal)
        journal = "\n".join(journal.splitlines()[-60:]) + f"\n(root {root})"
    return "\n".join(
        (
            *told,
            "---- the end of the journal",
            journal,
            lab.report(),
            f"FAILED seed {story.seed}: {type(error).__name__}: {error}",
            f"again: make chaos ARGS='--seed {story.seed} --faults {story.faults}'",
        )
    )


# ---------------------------------------------------------------- the command


def _one(story: Story) -> int:
    """Play one story here, told on standard output; the last line is its figures."""
    try:
        figures = play(story, lambda line: print(line, flush=True))
    except Failure as failure:
        print(str(failure).split("---- the end of the journal", 1)[-1], flush=True)
        return 1
    print(json.dumps(figures, ensure_ascii=False))
    return 0


def _side_by_side(seeds: Sequence[int], faults: int, jobs: int) -> int:
    """Each story in a process of its own, so many at a time; what failed is shown."""
    PLACE.mkdir(parents=True, exist_ok=True)
    waiting, failed = list(seeds), list[int]()
    running: dict[int, tuple[subprocess.Popen[bytes], Path]] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            seed = waiting.pop(0)
            log = PLACE / f"seed-{seed}.log"
            command = [sys.executable, "-m", "tests.lab.chaos", "--alone", "--faults", str(faults)]
            with log.open("wb") as out:
                child = subprocess.Popen(
                    [*command, "--seed", str(seed)], cwd=REPOSITORY, stdout=out, stderr=subprocess.STDOUT
                )
            running[seed] = (child, log)
        for seed, (child, log) in list(running.items()):
            if child.poll() is not None:
                del running[seed]
                _sum_up(seed, child.returncode, log, failed)
        time.sleep(0.2)
    print(f"chaos: {len(seeds) - len(failed)} of {len(seeds)} seeds of {faults} faults passed")
    if failed:
        print(f"failed: {' '.join(map(str, failed))}; logs in {PLACE.relative_to(REPOSITORY)}")
    return bool(failed)


def _sum_up(seed: int, status: int, log: Path, failed: list[int]) -> None:
    lines = log.read_text(errors="replace").splitlines()
    if status:
        failed.append(seed)
        print("\n".join(lines), flush=True)
        return
    figures = json.loads(lines[-1])
    print(", ".join(f"{name} {value}" for name, value in figures.items()), flush=True)


def main(arguments: Sequence[str]) -> int:
    """0 if all stories ended well."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--faults", type=int, default=FAULTS)
    parser.add_argument("--jobs", type=int, default=3, help="stories at a time")
    parser.add_argument("--only", nargs="+", default=(), help="kinds of faults")
    parser.add_argument("--show", action="store_true", help="tell the story and play nothing")
    parser.add_argument("--alone", action="store_true", help="in this process, one seed")
    options = parser.parse_args(arguments)
    stories = [draw(seed, options.faults, tuple(options.only)) for seed in options.seed]
    if options.show:
        for story in stories:
            print(f"seed {story.seed}{', full tunnel' if story.full_tunnel else ''}")
            for storm in story.storms:
                print(*storm.faults, "calm" + (", mended" if storm.mended else ""), sep="\n  ")
        return 0
    if len(stories) == 1 or options.alone:
        return max(_one(story) for story in stories)
    return _side_by_side(options.seed, options.faults, options.jobs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
