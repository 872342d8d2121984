"""The package by itself: unpacked into an empty root, the four libraries beside it, nothing else to import.

The repository (and with it this test's own environment) is hidden under an empty file system, and Python is
started without its site: what the tree lacks, the agent lacks. In a network namespace of its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.package.test_ipk import RECIPES, ROOT, WHEN, ipk, parts
from tests.ports import ubus_standin
from tests.ports.netns import Namespace, namespace, until
from wgrouter import __version__

pytestmark = pytest.mark.lab

LIBRARIES = ("pyroute2", "dns", "paho", "ubus")
SITE = "usr/lib/python3/site-packages"
HIDE = 'mount -t tmpfs none "$0" && exec "$@"'
NETWORK = """\
config interface 'wan'
	option device 'eth1'
	option proto 'static'
	option ipaddr '192.0.2.2/24'
	option gateway '192.0.2.1'

config interface 'lte'
	option device 'eth2'
	option proto 'static'
	option ipaddr '198.51.100.2/24'
	option gateway '198.51.100.1'
	option metric '20'
"""


class Box:
    """The tree, and a namespace with two uplinks that lead nowhere."""

    def __init__(self, tree: Path, net: Namespace) -> None:
        self.tree, self.net = tree, net
        for number, (address, gateway) in enumerate(
            (("192.0.2.2/24", "192.0.2.1"), ("198.51.100.2/24", "198.51.100.1")), 1
        ):
            net.cable(f"eth{number}", address)
            net.ip("route", "add", "default", "via", gateway, "dev", f"eth{number}", "metric", f"{number}0")

    def command(self, *arguments: str) -> list[str]:
        python = os.path.realpath(sys.executable)
        program = [python, "-S", str(self.tree / "usr/bin/wgrouter"), "--root", str(self.tree), *arguments]
        return ["unshare", "--mount", "sh", "-c", HIDE, str(ROOT), *program]

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(self.tree / SITE)}

    def run(self, *arguments: str) -> str:
        """The command's output; it must succeed."""
        command = self.command(*arguments)
        with self.net.inside():
            done = subprocess.run(
                command,
                env=self.environment,
                cwd="/",
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, command: list[str], **environment: str) -> subprocess.Popen[str]:
        with self.net.inside():
            return subprocess.Popen(
                command, env=self.environment | environment, cwd="/", text=True, stdout=subprocess.PIPE
            )

    def status(self) -> Any:
        return json.loads(self.run("status", "--json"))

    def ours(self) -> list[str]:
        """What of ours is in the kernel: rules and routes by protocol number, nftables by the table."""
        rules = self.net.json("rule") + self.net.json("-6", "rule")
        routes = self.net.json("route", "show", "table", "all")
        marked = [str(one) for one in rules + routes if one.get("protocol") in ("157", "wgrouter")]
        return marked + [line for line in self.net.run("nft", "list", "tables").splitlines() if "wgr" in line]


def gather(site: Path) -> None:
    """The libraries of this environment; for want of the ubus binding the stand-in that speaks its API."""
    site.mkdir(parents=True)
    for name in LIBRARIES:
        spec = importlib.util.find_spec(name)
        if spec is None:
            assert name == "ubus", f"{name} is not installed"
            shutil.copy(ubus_standin.__file__, site / "ubus.py")
        elif spec.submodule_search_locations:
            skip = shutil.ignore_patterns("__pycache__")
            shutil.copytree(spec.submodule_search_locations[0], site / name, ignore=skip)
        else:
            shutil.copy(spec.origin or "", site)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    data, _ = ipk.build(RECIPES["wgrouter"], WHEN)
    parts(data)["data.tar.gz"].extractall(tmp_path, filter="fully_trusted")
    gather(tmp_path / SITE)
    (tmp_path / "etc/config/network").write_text(NETWORK)
    with namespace() as net:
        yield Box(tmp_path, net)


def test_it_is_alone(box: Box) -> None:
    """What the other tests rely on: no module of the repository or of this environment can be found."""
    program = box.tree / "usr/bin/wgrouter"
    program.write_text("import sys\nprint(*sys.path, sep='\\n')\n")
    places = box.run("--version").split()
    assert not [
        place for place in places if place.startswith(str(ROOT)) or "-packages" in place.replace(SITE, "")
    ]


def test_version_and_check(box: Box) -> None:
    assert box.run("--version") == f"wgrouter {__version__}\n"
    box.run("check")


def test_it_runs_and_leaves_nothing(box: Box) -> None:
    agent = box.start(box.command("run"))
    try:
        until((box.tree / "var/run/wgrouter/control.sock").exists, 30)
        until(lambda: len(box.status()["wans"]) == 2, 30)
        wans = {wan["name"]: wan["device"] for wan in box.status()["wans"]}
        assert wans == {"wan": "eth1", "lte": "eth2"} or wans == {"eth1": "eth1", "eth2": "eth2"}
        until(box.ours, 10)
        assert json.loads(box.run("plan", "--json"))["effects"] == []
        box.run("explain")
        box.run("journal")
        with pytest.raises(AssertionError, match="no WAN is called 'dsl'; there are: auto, "):
            box.run("switch", "dsl")
        box.run("switch", "auto")
        agent.send_signal(signal.SIGTERM)
        said, _ = agent.communicate(timeout=10)
        assert agent.returncode == 0, said
        assert box.ours() == []
        assert "Traceback" not in said
        assert said.count("no ubus here") == 1
    finally:
        agent.kill()
        agent.communicate()


def test_a_stop_in_the_middle_of_the_first_plan_leaves_nothing(box: Box) -> None:
    """What was added after the last look is not in the World of which the engine tidies up."""
    agent = box.start(box.command("run"))
    try:
        until(box.ours, 30)
        agent.terminate()
        assert agent.wait(timeout=20) == 0
        assert box.ours() == []
    finally:
        agent.kill()
        agent.communicate()


def test_it_ends_with_its_jail(box: Box) -> None:
    """procd knows ujail, our parent. Killed, it takes nobody along: the agent has to see it go."""
    jail = box.start(["sh", "-c", '"$@"; exit 1', "jail", *box.command("run")], WGROUTER_JAILED="1")
    try:
        until(box.ours, 30)
        jail.kill()
        jail.wait()
        until(lambda: box.ours() == [], 10)
        said, _ = jail.communicate(timeout=10)  # its output ends when the agent does
        assert "stopped" in said
    finally:
        jail.kill()
