"""Builds and runs the virtual machine: qemu's emulation, kernel.sh's kernel, this machine's files read only.

No KVM, ever: it is absent on many CI machines, and on some it is there and hangs. No disk image either: the
guest sees the host's root directory over 9p, so it runs the same virtual environments without a copy.
"""

import contextlib
import fcntl
import lzma
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KERNEL = ROOT / "build" / "kernel"
OUT = ROOT / "build" / "vm"

# What must be there before the root directory is: its bus, its file system, and the layer above it.
EARLY = ("virtio_pci", "virtio_mmio", "9pnet_virtio", "9p", "overlay", "virtio_rng")
# The programs of init.sh, all busybox's.
APPLETS = ("sh", "mount", "mkdir", "cat", "cut", "uname", "insmod", "cp", "sleep", "switch_root")

COMMAND_LINE = (
    "console=ttyS0 quiet loglevel=3 panic=-1 reboot=t "
    # An emulated clock is right by definition, and nobody attacks this guest.
    "tsc=reliable no_timer_check mitigations=off nokaslr random.trust_cpu=on audit=0 apparmor=0 "
    # Namespaces come and go in the tests: without this each one waits for several grace periods.
    "rcupdate.rcu_expedited=1 cryptomgr.notests rdinit=/init "
    # Translated code is found again by its address: one layout for all processes saves a sixth of the time.
    "norandmaps"
)


# The plainest CPU that has what programs built for x86-64-v2 expect, and a source of entropy. A newer one
# takes longer to emulate: wide vectors in checksums and ciphers, a fifth level in each page walk (LA57).
CPU = "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+rdrand"


class VmError(Exception):
    """The machine could not be started, or ended without a verdict."""


@dataclass(frozen=True)
class Verdict:
    """How a job ended: exit status of its script, seconds from qemu's start to its end, and of the host's
    processor in them.
    """

    status: int
    seconds: float
    cpu_seconds: float


def module_files(release: str) -> list[Path]:
    """The files of EARLY and of what they need, in the order of loading."""
    command = ["modprobe", "-d", str(KERNEL / "root"), "-S", release, "--show-depends", "-a", *EARLY]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise VmError(f"modprobe does not find what the VM needs to start: {done.stderr.strip()}")
    files = [Path(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("insmod ")]
    return list(dict.fromkeys(files))


def needed_libraries(program: Path) -> Iterator[Path]:
    """The shared libraries of a program, by their path; none if it is static."""
    done = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False)
    for found in re.finditer(r"(?:=> )?(/\S+) \(0x", done.stdout):
        yield Path(found[1])


def newc(name: str, mode: int, data: bytes = b"") -> bytes:
    """One entry of an initial RAM disk (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    encoded = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + b"".join(b"%08X" % value for value in fields) + encoded
    return head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)


def module_bytes(path: Path) -> bytes:
    """A module as busybox's insmod takes it: from Debian 13 on they are compressed."""
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix != ".ko":
        raise VmError(f"{path.name}: only .ko and .ko.xz are understood")
    return path.read_bytes()


def initial_ram_disk(release: str, job: str) -> bytes:
    """An archive with busybox, the early modules, init.sh and the job."""
    found = shutil.which("busybox")
    if not found:
        raise VmError("busybox is not installed: run make setup-vm")
    busybox = Path(found).resolve()
    files: dict[str, tuple[int, bytes]] = {"bin/busybox": (0o755, busybox.read_bytes())}
    for library in needed_libraries(busybox):
        files[str(library).lstrip("/")] = (0o755, library.read_bytes())
    modules = module_files(release)
    for path in modules:
        files[f"modules.d/{path.name}"] = (0o644, module_bytes(path))
    files["modules"] = (0o644, "".join(f"/modules.d/{path.name}\n" for path in modules).encode())
    files["init"] = (0o755, (ROOT / "tests" / "vm" / "init.sh").read_bytes())
    files["repository"] = (0o644, f"{ROOT}\n".encode())
    files["job"] = (0o644, job.encode())

    directories = {"proc", "sys", "dev"} | {
        str(parent) for name in files for parent in Path(name).parents if str(parent) != "."
    }
    parts = [newc(name, stat.S_IFDIR | 0o755) for name in sorted(directories)]
    parts += [newc(name, stat.S_IFREG | mode, data) for name, (mode, data) in files.items()]
    parts += [newc(f"bin/{applet}", stat.S_IFLNK | 0o777, b"busybox") for applet in APPLETS]
    return b"".join([*parts, newc("TRAILER!!!", 0)])


# In a steady machine each instruction takes 2^SHIFT nanoseconds of its time: a thousand million a second,
# about as many as a core of a good router executes.
SHIFT = 0


def qemu(ramdisk: Path, out: Path, *, steady: bool) -> list[str]:
    """The command that runs the machine. The time of a steady one goes by the instructions that it executes,
    and by the host's clock where it waits (-icount): a busy host makes it take longer and changes nothing
    else. That works with one processor only; else there are two, which the host's load slows down.
    """

    def share(tag: str, path: Path, more: str) -> list[str]:
        # multidevs=remap: the root directory may span several file systems, whose inode numbers collide.
        local = f"local,id={tag},path={path},security_model=none,multidevs=remap{more}"
        return ["-fsdev", local, "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]

    one = ("-accel", "tcg,thread=single", "-smp", "1", "-icount", f"shift={SHIFT},sleep=on")
    two = ("-accel", "tcg,thread=multi", "-smp", "2")
    return [
        "qemu-system-x86_64",
        *("-M", "q35,usb=off,vmport=off,hpet=off", "-cpu", CPU, *(one if steady else two)),
        *("-m", "1G", "-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none", "-serial", "stdio", "-monitor", "none", "-device", "virtio-rng-pci"),
        *("-kernel", str(KERNEL / "vmlinuz"), "-initrd", str(ramdisk), "-append", COMMAND_LINE),
        *share("root", Path("/"), ",readonly=on"),
        *share("out", out, ""),
    ]


@contextlib.contextmanager
def turn() -> Iterator[None]:
    """One user of build/vm at a time: who comes later waits."""
    OUT.mkdir(parents=True, exist_ok=True)
    with (OUT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


running: set[subprocess.Popen[bytes]] = set()


def stop_all() -> None:
    """End the machines that run."""
    for machine in list(running):
        machine.kill()


SILENT_S = 240.0  # a machine without a word by then hangs in the emulation: seen once in dozens of boots


def run(
    job: str, limit_s: float, out: Path, *, steady: bool, shown: bool = True, again: bool = True
) -> Verdict:
    """Run a shell script, from the repository, in a new machine; if `shown`, pass its output through as it
    comes. It is in console.log, too.

    The script finds the directory `out` writable, as /run/out. Raises VmError if there is no verdict: the
    machine did not start, crashed, or was stopped after `limit_s` seconds of the host's.
    """
    release = (KERNEL / "release").read_text().strip()
    out.mkdir(parents=True, exist_ok=True)
    verdict = out / "exit"
    verdict.unlink(missing_ok=True)
    began = time.monotonic()
    with (
        tempfile.NamedTemporaryFile(prefix="wgrouter-vm-") as ramdisk,
        (out / "console.log").open("wb", buffering=0) as log,
    ):
        ramdisk.write(initial_ram_disk(release, job))
        ramdisk.flush()
        machine = subprocess.Popen(
            qemu(Path(ramdisk.name), out, steady=steady),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        running.add(machine)
        expired = threading.Event()

        def stop() -> None:
            expired.set()
            machine.kill()

        watchdog = threading.Timer(limit_s, stop)
        watchdog.start()
        hung = threading.Event()

        def give_up() -> None:
            hung.set()
            machine.kill()

        silence = threading.Timer(SILENT_S, give_up)
        silence.start()
        try:
            assert machine.stdout
            for line in machine.stdout:
                silence.cancel()
                log.write(line)
                if shown:
                    sys.stdout.write(line.decode(errors="replace").replace("\r", ""))
                    sys.stdout.flush()
            # It ends, and is there until it is waited for: proc(5).
            fields = Path(f"/proc/{machine.pid}/stat").read_text().rpartition(")")[2].split()
            machine.wait()
        finally:
            running.discard(machine)
            watchdog.cancel()
            silence.cancel()
            if machine.poll() is None:
                machine.kill()
                machine.wait()
    seconds = time.monotonic() - began
    if hung.is_set() and again:
        return run(job, limit_s - seconds, out, steady=steady, shown=shown, again=False)
    if expired.is_set():
        raise VmError(f"stopped after {limit_s:.0f} s")
    try:
        cpu_seconds = sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
        return Verdict(int(verdict.read_text()), seconds, cpu_seconds)
    except (OSError, ValueError):
        raise VmError(
            f"ended after {seconds:.0f} s without a verdict (qemu's status: {machine.returncode})"
        ) from None
