"""The user's hook scripts: what they are told, and that nothing they do holds the agent up."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports.turning import Turning
from wgrouter.core.findings import Finding, Why
from wgrouter.core.messages import RunHook
from wgrouter.ports import hooks as port
from wgrouter.ports.hooks import Hooks

SHELLS = [shell for shell in ("/bin/dash", "/bin/sh") if os.path.exists(shell)]


class Stage:
    """A root with hook scripts, Hooks on it, and what the scripts wrote."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.loop = Turning()
        self.said: list[Finding] = []
        self.log = root / "log"
        self.hooks = Hooks(self.loop, self.said.append, root=str(root))

    def script(self, text: str, name: str = "50-test", directory: str = "wgrouter") -> None:
        path = self.root / "etc/hotplug.d" / directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("LOG", str(self.log)))

    def tell(self, action: str, directory: str = "wgrouter", **more: str) -> None:
        self.hooks.run(RunHook({"ACTION": action} | more, directory))

    def written(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def idle(self) -> bool:
        return self.hooks._child is None and not self.hooks.waiting

    def done(self, within: float = 20.0) -> None:
        self.loop.until(self.idle, within)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.hooks.close()
    assert stage.loop.watched == {}
    stage.loop.close()


def test_a_script_gets_the_news_and_nothing_of_the_agent(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_AGENT", "x")
    stage.script("env >>LOG")
    stage.tell(
        "failover", INTERFACE="lte", DEVICE="wwan0", WAN="lte", REASON="wan: 6 answers missing; 'quoted' $(x)"
    )
    stage.done()
    environment = dict(line.split("=", 1) for line in stage.written())
    environment = {
        name: value for name, value in environment.items() if name not in ("PWD", "_", "SHLVL", "OLDPWD")
    }
    assert environment == {
        "ACTION": "failover",
        "INTERFACE": "lte",
        "DEVICE": "wwan0",
        "WAN": "lte",
        "REASON": "wan: 6 answers missing; 'quoted' $(x)",
        "HOTPLUG_TYPE": "wgrouter",
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "USER": "root",
        "LOGNAME": "root",
    }


def test_scripts_run_in_the_order_of_their_names_each_for_itself(stage: Stage) -> None:
    stage.script("echo b $LEFT >>LOG; exit 0", "20-b")
    stage.script("LEFT=over; echo a >>LOG; cd /", "10-a")
    stage.script("echo c >>LOG", "30-c")
    stage.tell("failover")
    stage.done()
    assert stage.written() == ["a", "b", "c"]
    assert stage.said == []


def test_iface_scripts_know_mwan3s_words(stage: Stage) -> None:
    stage.script("echo $HOTPLUG_TYPE $ACTION $INTERFACE $DEVICE >>LOG", directory="iface")
    stage.tell("connected", "iface", INTERFACE="wan", DEVICE="eth1")
    stage.done()
    assert stage.written() == ["iface connected wan eth1"]


def test_without_scripts_nothing_is_started(stage: Stage) -> None:
    stage.tell("failover")
    (stage.root / "etc/hotplug.d/wgrouter/directory").mkdir(parents=True)
    stage.tell("failover")
    assert stage.idle()


def test_a_directory_elsewhere_is_not_reached(stage: Stage) -> None:
    stage.script("echo reached >>LOG", directory="../elsewhere")
    stage.tell("failover", "../elsewhere")
    assert stage.idle()


@pytest.mark.parametrize("text", ["false", "[ x = y ] && echo no", "exit 1", "true"])
def test_status_1_is_no_failure(stage: Stage, text: str) -> None:
    stage.script(text)
    stage.tell("failover")
    stage.done()
    assert stage.said == []


@pytest.mark.parametrize("text", ["exit 3", "if", "no-such-program-x", "kill -9 $$"])
def test_a_failing_script_is_said_and_the_next_one_runs(stage: Stage, text: str) -> None:
    stage.script(text, "10-bad")
    stage.tell("tunnel-down", TUNNEL="wg0", PEER="office")
    stage.done()
    [finding] = stage.said
    assert finding.why is Why.HOOK_FAILED and finding.subject == "wg0/office"
    stage.script("true", "10-bad")
    stage.script("echo $ACTION >>LOG", "20-good")
    stage.tell("tunnel-up", TUNNEL="wg0", PEER="office")
    stage.done()
    assert stage.written() == ["tunnel-up"]


def test_a_hanging_script_is_ended_with_all_it_started(stage: Stage) -> None:
    stage.script("trap '' TERM; sleep 1000 & echo $! $$ >>LOG; wait")
    stage.tell("failover")
    stage.loop.until(lambda: len(stage.written()) == 1)
    stage.tell("tunnel-up", TUNNEL="wg0")
    assert stage.hooks.waiting == 1
    stage.loop.skip(port.LIMIT)
    stage.loop.turn()
    stage.script("echo next >>LOG")
    stage.loop.skip(port.GRACE)
    stage.done()
    assert stage.written()[1:] == ["next"]
    assert [finding.text for finding in stage.said] == [
        "scripts in hotplug.d/wgrouter for failover: ended after 30 s"
    ]
    for pid in stage.written()[0].split():
        stage.loop.until(lambda pid=pid: not _runs(int(pid)))  # type: ignore[misc]


def test_a_script_may_leave_a_process_behind(stage: Stage) -> None:
    stage.script("sleep 1000 </dev/null >/dev/null 2>&1 & echo $! >>LOG")
    stage.tell("failover")
    stage.done()
    pid = int(stage.written()[0])
    assert _runs(pid)
    os.kill(pid, 9)


def test_the_last_word_on_a_matter_is_the_one_told(stage: Stage) -> None:
    """As netifd does it for an interface: while a slow script runs, news of one kind replaces older news."""
    fifo = stage.root / "fifo"
    os.mkfifo(fifo)
    stage.script(f"echo $ACTION $TUNNEL $PEER >>LOG; [ $ACTION = endpoint ] && read x <{fifo}")
    stage.tell("endpoint", TUNNEL="wg0", PEER="a")
    for _ in range(500):
        stage.tell("tunnel-down", TUNNEL="wg0", PEER="b")
        stage.tell("failover", WAN="lte", INTERFACE="wwan", FAMILY="ipv4")
        stage.tell("tunnel-up", TUNNEL="wg0", PEER="b")
        stage.tell("failback", WAN="wan", INTERFACE="wan", FAMILY="ipv4")
        stage.tell("tunnel-down", TUNNEL="wg0", PEER="c")
    assert stage.hooks.waiting == 3
    with fifo.open("w") as gate:
        gate.write("go\n")
    stage.done()
    assert stage.written() == ["endpoint wg0 a", "tunnel-up wg0 b", "failback", "tunnel-down wg0 c"]
    assert stage.said == []


def test_the_queue_has_an_end(stage: Stage) -> None:
    fifo = stage.root / "fifo"
    os.mkfifo(fifo)
    stage.script(f"[ $PEER = first ] && read x <{fifo}; echo $PEER >>LOG")
    stage.tell("tunnel-up", TUNNEL="wg0", PEER="first")
    for number in range(port.QUEUE + 10):
        stage.tell("tunnel-up", TUNNEL="wg0", PEER=f"p{number}")
    assert stage.hooks.waiting == port.QUEUE
    assert [finding.why for finding in stage.said] == [Why.HOOK_DROPPED] * 10
    assert stage.said[0].subject == "wg0/p0" and "tunnel-up wg0/first" in stage.said[0].text
    with fifo.open("w") as gate:
        gate.write("go\n")
    stage.done(20)
    assert stage.written() == ["first", *[f"p{number}" for number in range(10, port.QUEUE + 10)]]


def test_values_from_outside_do_no_harm(stage: Stage) -> None:
    stage.script('printf "%s|" "$PEER" "$REASON" >>LOG')
    stage.tell("endpoint", PEER="a\0b\ud800'\"; touch /tmp/no; $(id)", REASON="x" * 10_000)
    stage.done()
    [line] = stage.written()
    assert line == "ab?'\"; touch /tmp/no; $(id)|" + "x" * port.VALUE_MAX + "|"


def test_a_shell_that_is_not_there_is_said(stage: Stage) -> None:
    stage.script("true")
    hooks = Hooks(stage.loop, stage.said.append, root=str(stage.root), shell="/no/sh")
    hooks.run(RunHook({"ACTION": "failover"}))
    assert [finding.why for finding in stage.said] == [Why.HOOK_FAILED]


def test_without_pidfd_it_looks_by_itself(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(pid: int) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", missing)
    stage.script("echo $ACTION >>LOG; exit 4")
    stage.tell("failover")
    stage.tell("tunnel-up", TUNNEL="wg0")
    stage.done()
    assert stage.written() == ["failover", "tunnel-up"]
    assert len(stage.said) == 2


def test_somebody_else_reaping_our_child_is_no_harm(stage: Stage) -> None:
    """libubox's loop did that to subprocess; ours never runs it, but a library might."""
    stage.script("exit 7")
    stage.tell("failover")
    child = stage.hooks._child
    assert child is not None
    os.waitpid(child._pid, 0)
    stage.done()
    assert stage.said == []


def test_closing_ends_what_runs(stage: Stage) -> None:
    stage.script("echo $$ >>LOG; sleep 1000")
    stage.tell("failover")
    stage.tell("tunnel-up")
    stage.loop.until(lambda: len(stage.written()) == 1)
    stage.hooks.close()
    assert stage.idle() and stage.loop.watched == {}
    assert not _runs(int(stage.written()[0]))


def test_no_descriptor_is_left_behind(stage: Stage) -> None:
    stage.script("true")
    stage.tell("failover")
    stage.done()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        stage.tell("failover")
        stage.done()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("shell", [*SHELLS, "busybox"])
def test_the_walk_in_a_routers_shells(stage: Stage, shell: str, tmp_path: Path) -> None:
    if shell == "busybox":
        if not shutil.which("busybox"):
            pytest.skip("busybox not found")
        shell = str(tmp_path / "ash")
        os.symlink(shutil.which("busybox") or "", shell)
    stage.hooks = Hooks(stage.loop, stage.said.append, root=str(stage.root), shell=shell)
    stage.script("echo one >>LOG; exit 5", "10-one")
    stage.script("echo two >>LOG", "20-two")
    stage.tell("failover")
    stage.done()
    assert stage.written() == ["one", "two"]
    assert [finding.text for finding in stage.said] == [
        "scripts in hotplug.d/wgrouter for failover: 1 failed"
    ]


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
