"""Network namespaces and what runs in them.

Each box of a lab is a named network namespace plus a mount namespace with a /var/run/wireguard and a
resolv.conf of its own, so that every box can have a wg0. Both are held by one small process (`cat`, reading a
pipe from us): it ends when we do. Names are wgr<pid>x<n>-<box>: several labs stand side by side, and what a
killed process left behind is recognised by its pid.
"""

import contextlib
import ctypes
import fcntl
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from .poll import PATIENCE_SECONDS
from .wiring import Link, Namespace

NETNS = Path("/run/netns")
_OURS = re.compile(r"wgr(\d+)x\d+(?:-.*)?")
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

# Where `python -m wgrouter` and `python -m tests.lab.…` are found.
REPOSITORY = Path(__file__).resolve().parents[2]


class LabError(Exception):
    """The machine refused something that the lab needs."""


def run(
    argv: Sequence[str], *, stdin: str = "", check: bool = True, timeout: float = PATIENCE_SECONDS
) -> str:
    """Run a program to its end and return its output; LabError with its complaint if it fails."""
    done = subprocess.run(
        argv, input=stdin, capture_output=True, errors="backslashreplace", timeout=timeout, check=False
    )
    if check and done.returncode:
        complaint = (done.stderr or done.stdout).strip()
        raise LabError(f"{' '.join(argv)}: exit {done.returncode}: {complaint}")
    return done.stdout


def setns_net(path: str | Path) -> None:
    """Move the calling thread, and it alone, into a network namespace (os.setns is not in Python 3.11)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(fd, _CLONE_NEWNET):
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), str(path))
    finally:
        os.close(fd)


def end(*children: subprocess.Popen[bytes]) -> None:
    """End these processes, politely, then not."""
    living = [child for child in children if child.poll() is None]
    for child in living:
        child.terminate()
        child.send_signal(signal.SIGCONT)
    for child in living:
        try:
            child.wait(timeout=2)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


# ---- one box ----

_HOLDER = """
set -e
for f in /proc/sys/net/ipv4/conf/*/rp_filter /proc/sys/net/ipv6/conf/*/accept_ra; do echo 0 >$f; done
for f in /proc/sys/net/ipv6/conf/*/keep_addr_on_down; do echo 1 >$f; done
echo {forwards} >/proc/sys/net/ipv4/ip_forward
echo {forwards} >/proc/sys/net/ipv6/conf/all/forwarding
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /var/run/wireguard
mount --bind {resolv} /etc/resolv.conf
ip -batch - <<'IP'
{ip}
IP
nft -f - <<'NFT'
{nft}
NFT
echo ready
exec cat >/dev/null
"""


class Box:
    """A namespace that exists. Everything started here ends with it."""

    def __init__(self, plan: Namespace, lab: str, resolv: Path) -> None:
        self.name = plan.name
        self.netns = f"{lab}-{plan.name}"
        self.path = NETNS / self.netns
        # Called when the box ends, before its processes are: sockets that stay open would keep the namespace.
        self.at_end: list[Callable[[], object]] = []
        self._children: list[subprocess.Popen[bytes]] = []
        self._ended = False
        script = _HOLDER.format(
            forwards=int(plan.forwards), resolv=resolv, ip="\n".join(plan.ip), nft=plan.nft.strip()
        )
        self._holder = subprocess.Popen(
            ["nsenter", f"--net={self.path}", "unshare", "--mount", "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The holder: /proc/<pid>/root is the file system as seen in here."""
        return self._holder.pid

    def wait_ready(self) -> None:
        """Return when the box is set up; LabError with the reason if it could not be."""
        assert self._holder.stdout is not None and self._holder.stderr is not None
        if self._holder.stdout.readline() != b"ready\n":
            raise LabError(f"{self.name}: {self._holder.stderr.read().decode(errors='replace').strip()}")

    def _enter(self, argv: Sequence[str], cwd: Path | None = None) -> list[str]:
        return [
            "nsenter",
            f"--target={self._holder.pid}",
            "--net",
            "--mount",
            f"--wd={cwd or REPOSITORY}",
            "--",
            *argv,
        ]

    def entering(self) -> list[str]:
        """What to put before a command that shall run in here."""
        return self._enter([])

    def run(self, *argv: str, stdin: str = "", check: bool = True, timeout: float = PATIENCE_SECONDS) -> str:
        """Run a program in here to its end and return its output."""
        return run(self._enter(argv), stdin=stdin, check=check, timeout=timeout)

    def sh(self, script: str, *, check: bool = True, timeout: float = PATIENCE_SECONDS) -> str:
        """Run a shell script in here and return its output."""
        return self.run("sh", "-ec", script, check=check, timeout=timeout)

    def ip(self, *lines: str) -> None:
        """Give lines to `ip -batch`; the first that fails is an error."""
        self.run("ip", "-batch", "-", stdin="\n".join(lines) + "\n")

    def nft(self, ruleset: str) -> None:
        """Apply a ruleset at once or not at all."""
        self.run("nft", "-f", "-", stdin=ruleset)

    def start(
        self,
        *argv: str,
        log: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[bytes] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program in here; its output goes to the end of `log`. Its pid is the program's own."""
        with open(log or os.devnull, "ab") as out:
            child = subprocess.Popen(
                self._enter(argv),
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        self._children.append(child)
        return child

    def shell(self, *argv: str) -> int:
        """Run a program in here on this terminal; its exit status."""
        return subprocess.run(self._enter(argv), check=False).returncode

    def in_thread(self, work: Callable[[], None], name: str) -> threading.Thread:
        """Start a thread that lives in this namespace: sockets that it makes belong here, for ever."""

        def enter() -> None:
            setns_net(self.path)
            work()

        thread = threading.Thread(target=enter, name=f"{self.netns}:{name}", daemon=True)
        thread.start()
        return thread

    def socket(
        self, family: int = socket.AF_INET, kind: int = socket.SOCK_DGRAM, proto: int = 0
    ) -> socket.socket:
        """A socket of this namespace, for use in any thread. Close it before the lab ends."""
        made: list[socket.socket | OSError] = []

        def make() -> None:
            try:
                made.append(socket.socket(family, kind, proto))
            except OSError as error:
                made.append(error)

        self.in_thread(make, "socket").join()
        if isinstance(made[0], OSError):
            raise made[0]
        return made[0]

    def ask_to_end(self) -> None:
        """Send SIGTERM to what was started here, and don't wait: many boxes end sooner side by side."""
        for child in self._children:
            child.terminate()

    def end(self) -> None:
        """End the processes started here; the holder last."""
        if self._ended:
            return
        self._ended = True
        for close in self.at_end:
            close()
        end(*self._children)
        self._holder.kill()
        self._holder.communicate()


# ---- many of them ----

_numbers = itertools.count(1)
_mine: set[str] = set()


@contextlib.contextmanager
def _turn() -> Iterator[None]:
    """One process at a time adds or deletes names: the first `ip netns add` ever mounts /run/netns."""
    with open("/run/wgr-lab.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def new_name() -> str:
    """The name of a lab: this process, and the how-manieth."""
    name = f"wgr{os.getpid()}x{next(_numbers)}"
    _mine.add(name)
    return name


def directory(lab: str) -> Path:
    """Where the files of a lab are."""
    return Path(tempfile.gettempdir()) / lab


def add(lab: str, namespaces: Iterable[Namespace], links: Iterable[Link], resolv: Path) -> dict[str, Box]:
    """Make namespaces and cables, then set all of them up side by side.

    The caller removes what is there if this fails.
    """
    plans = list(namespaces)
    os.makedirs("/var/run/wireguard", mode=0o700, exist_ok=True)
    lines = []
    for n, link in enumerate(links):
        # Indexes are given, so that the ends differ, or do not: see Isp.slow_carrier.
        a = 100 + 2 * n
        b = a if link.slow_carrier else a + 1
        lines.append(
            f"link add {link.device_a} netns {lab}-{link.a} index {a} mtu {link.mtu} type veth"
            f" peer name {link.device_b} netns {lab}-{link.b} index {b} mtu {link.mtu}"
        )
    with _turn():
        run(["ip", "-batch", "-"], stdin="".join(f"netns add {lab}-{plan.name}\n" for plan in plans))
    run(["ip", "-batch", "-"], stdin="\n".join(lines) + "\n")
    boxes: dict[str, Box] = {}
    try:
        for plan in plans:
            boxes[plan.name] = Box(plan, lab, resolv)
        for box in boxes.values():
            box.wait_ready()
    except BaseException:
        for box in boxes.values():
            box.end()
        raise
    return boxes


def remove(lab: str) -> None:
    """Remove a lab by name: whatever still runs in its namespaces, the namespaces, its files.

    Another process may be doing the same: what is gone is no error.
    """
    inodes = {}
    for path in NETNS.glob(f"{lab}-*"):
        with contextlib.suppress(OSError):
            inodes[path.name] = path.stat().st_ino
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if int(pid) != os.getpid() and os.stat(f"/proc/{pid}/ns/net").st_ino in inodes.values():
                os.kill(int(pid), signal.SIGKILL)
    if inodes:
        with _turn():
            run(
                ["ip", "-force", "-batch", "-"],
                stdin="".join(f"netns del {n}\n" for n in inodes),
                check=False,
            )
    shutil.rmtree(directory(lab), ignore_errors=True)


def labs_present() -> set[str]:
    """Names of all labs on this machine, of any process: those with a namespace or a directory left."""
    places = (NETNS, Path(tempfile.gettempdir()))
    found = (_OURS.fullmatch(name) for place in places if place.is_dir() for name in os.listdir(place))
    return {match[0].partition("-")[0] for match in found if match}


def sweep() -> list[str]:
    """Remove the labs whose process is dead; their names."""
    removed = []
    for lab in sorted(labs_present() - _mine):
        match = _OURS.fullmatch(lab)
        # One with our process id that we did not make is of somebody dead, whose id we were given.
        if match and (match[1] == str(os.getpid()) or not os.path.exists(f"/proc/{match[1]}")):
            remove(lab)
            removed.append(lab)
    return removed
