"""Network namespaces for tests of ports: made, entered by the test itself, and always taken away again.

A port works in the namespace of the thread that makes its sockets, so a test enters one, makes its port
there, and comes back. `ip`, `wg`, `nft` and `conntrack` are the witnesses: they share no code with the ports.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
NETNS = Path("/run/netns")
_libc = ctypes.CDLL(None, use_errno=True)
_count = itertools.count()


def run(*command: str, given: str = "", check: bool = True) -> str:
    """Output of a program; AssertionError with its complaint if it fails."""
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=60)
    assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}"
    return done.stdout


def until(condition: Callable[[], T], within: float = 10.0) -> T:
    """The condition's value as soon as it is true; AssertionError if that takes too long."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {within:g} s; last value: {value!r}"
        time.sleep(0.01)
    return value


def _setns(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(fd, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {path}")
    finally:
        os.close(fd)


class Namespace:
    """One namespace, with lo up. Its name tells which process made it."""

    def __init__(self) -> None:
        self.name = f"wgp{os.getpid()}x{next(_count)}"
        self._children: list[subprocess.Popen[bytes]] = []
        run("ip", "netns", "add", self.name)
        self.sysctl("net.ipv4.conf.all.rp_filter", 0)
        self.sysctl("net.ipv6.conf.default.accept_dad", 0)
        self.ip("link", "set", "lo", "up")

    def close(self) -> None:
        for child in self._children:
            child.terminate()
        for child in self._children:
            child.wait(timeout=10)
        run("ip", "netns", "del", self.name, check=False)

    def run(self, *command: str, given: str = "", check: bool = True) -> str:
        """A child is in the namespace of the thread that makes it: half the processes of `ip netns exec`."""
        with self.inside():
            return run(*command, given=given, check=check)

    def start(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """A process that ends with the namespace at the latest."""
        with self.inside():
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=os.environ | environment,
            )
        self._children.append(child)
        return child

    def ip(self, *words: str, check: bool = True) -> str:
        return run("ip", "-n", self.name, *words, check=check)

    def batch(self, *lines: str) -> None:
        """Many `ip` commands in one process; in a second one those that begin with "-6"."""
        for six in (False, True):
            given = [line.removeprefix("-6 ") for line in lines if line.startswith("-6 ") == six]
            if given:
                run("ip", *(("-6",) if six else ()), "-n", self.name, "-batch", "-", given="\n".join(given))

    def json(self, *words: str) -> Any:
        return json.loads(run("ip", "-n", self.name, "-d", "-j", *words) or "[]")

    def sysctl(self, name: str, value: int) -> None:
        with self.inside():
            Path("/proc/sys", *name.split(".")).write_text(str(value))

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This thread is in the namespace until the block ends."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        _setns(NETNS / self.name)
        try:
            yield
        finally:
            try:
                if _libc.setns(home, CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns back")
            finally:
                os.close(home)

    def cable(self, name: str, *addresses: str, other: Namespace | None = None) -> None:
        """A veth `name` that is up and has carrier; its end `<name>-far` lies in `other`, or beside it."""
        far = f"{name}-far"
        elsewhere = f" netns {other.name}" if other else ""
        self.batch(
            f"link add name {name} type veth peer name {far}{elsewhere}",
            f"link set {name} up",
            *(() if other else (f"link set {far} up",)),
            *(
                f"address add {one} dev {name} nodad" if ":" in one else f"address add {one} dev {name}"
                for one in addresses
            ),
        )
        if other:
            other.ip("link", "set", far, "up")
        # Carrier and the link-local addresses come in the kernel's own time, and would change a later look.
        until(lambda: self._is_ready(name) and (other or self)._is_ready(far))

    def _is_ready(self, device: str) -> bool:
        shown = self.ip("-6", "-o", "address", "show", "dev", device, "scope", "link")
        return "fe80:" in shown and "tentative" not in shown


@contextlib.contextmanager
def namespace() -> Iterator[Namespace]:
    """For use as a fixture's body."""
    made = Namespace()
    try:
        yield made
    finally:
        made.close()
