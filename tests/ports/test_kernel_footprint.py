"""What the netlink ports cost to import, and how they get at pyroute2's codecs."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.ports.netns import Namespace, namespace
from wgrouter.core.model import Hop, Route
from wgrouter.ports import _netlink
from wgrouter.ports.kernel import Kernel

ROOT = Path(__file__).resolve().parents[2]
PORTS = ("kernel", "wireguard", "doorbell", "conntrack", "nft")


def python(code: str, *path: str) -> Any:
    """What a fresh interpreter prints, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"PYTHONPATH": ":".join((str(ROOT), *path))},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_ports_are_small() -> None:
    """+1.3 MiB measured with 0.7.9 and with 0.9.7, where IPRoute alone is +20, 8 of them asyncio."""
    seen = python(
        "import sys, json\n"
        "from pathlib import Path\n"
        "def mib(): return int(Path('/proc/self/statm').read_text().split()[1]) * 4096 / 2**20\n"
        "import socket, selectors, logging, dataclasses, ipaddress\n"
        "from wgrouter.core import messages, balance\n"
        "before = mib()\n"
        f"from wgrouter.ports import {', '.join(PORTS)}\n"
        "print(json.dumps([mib() - before, sorted(sys.modules)]))"
    )
    grown, modules = seen
    assert grown < 4
    assert "asyncio" not in modules
    assert "pyroute2" not in modules, "the empty stand-in must not stay"
    heavy = {
        "pyroute2.iproute",
        "pyroute2.netlink.nlsocket",
        "subprocess",
        "shutil",
        "multiprocessing",
        "ctypes",
    }
    assert not heavy & set(modules)


def test_using_them_imports_nothing_more() -> None:
    """An import hidden in a codec would run the eager package in the middle of a failover."""
    code = (
        "import sys, json\n"
        "from wgrouter.ports import kernel\n"
        "from wgrouter.core.model import *\n"
        "before = set(sys.modules)\n"
        "k = kernel.Kernel()\n"
        "kernel.index_of = lambda sock, name: 1\n"
        "hops = (Hop('10.0.0.2', 'a'), Hop('fe80::1', 'b', 2, True))\n"
        "routes = [Route(4, 7401, '0.0.0.0/0', hops, 5, 157),\n"
        "          Route(6, 7401, '::/0', (Hop('fe80::1', 'b'),), 5, 157, src='2001:db8::/32')]\n"
        "for route in routes: kernel.encoded(k._route(route))\n"
        "rule = Rule(6, 6000, 7401, 1, 1, '2001:db8::/32', '::1/128', 'a', 'b', 0, 157)\n"
        "kernel.encoded(kernel._rule(rule))\n"
        "k.snapshot(); k.lookup(4, '127.0.0.1')\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    assert [name for name in python(code) if name.startswith(("pyroute2", "asyncio"))] == []


def test_whoever_wants_all_of_pyroute2_still_gets_it() -> None:
    code = (
        "import json\n"
        "from wgrouter.ports import kernel\n"
        "import pyroute2\n"
        "from pyroute2.netlink.rtnl.rtmsg import rtmsg\n"
        "print(json.dumps([hasattr(pyroute2, 'IPRoute'), rtmsg is kernel.rtmsg_module.rtmsg]))"
    )
    assert python(code) == [True, True]


def test_after_all_of_pyroute2_the_codecs_are_its_own() -> None:
    code = (
        "import json, sys\n"
        "import pyroute2\n"
        "from wgrouter.ports import kernel\n"
        "print(json.dumps(sys.modules['pyroute2'] is pyroute2 and hasattr(pyroute2, 'IPRoute')))"
    )
    assert python(code) is True


def package(place: Path, init: str, sub: str) -> str:
    (place / "pyroute2").mkdir()
    (place / "pyroute2" / "__init__.py").write_text(init)
    (place / "pyroute2" / "sub.py").write_text(sub)
    return str(place)


def load(where: str) -> Any:
    return python(
        "import json, sys\n"
        "from wgrouter.ports._netlink import codec\n"
        "(sub,) = codec('pyroute2.sub')\n"
        "print(json.dumps([sub.found, 'pyroute2' in sys.modules]))",
        where,
    )


def test_a_version_that_minds_the_stand_in_is_imported_whole(tmp_path: Path) -> None:
    assert load(package(tmp_path, "needed = 7", "from pyroute2 import needed\nfound = needed")) == [7, True]


def test_a_version_that_does_not_mind_is_not(tmp_path: Path) -> None:
    assert load(package(tmp_path, "raise SystemError", "found = 7")) == [7, False]


def test_without_pyroute2_the_package_is_named(tmp_path: Path) -> None:
    code = (
        "import importlib.util, json\n"
        "importlib.util.find_spec = lambda name: None\n"
        "from wgrouter.ports import _netlink\n"
        "try: _netlink.codec('pyroute2.netlink')\n"
        "except ImportError as error: print(json.dumps(str(error)))"
    )
    assert python(code) == "pyroute2 is not installed (package python3-pyroute2)"


# ---------------------------------------------------------------- the socket


@pytest.fixture
def ns() -> Any:
    with namespace() as made:
        yield made


@pytest.mark.lab
def test_what_an_earlier_request_left_behind_is_skipped(ns: Namespace) -> None:
    with ns.inside():
        kernel = Kernel()
    # more than one read's worth
    ns.batch(*(f"link add name v{n} type veth peer name w{n}" for n in range(100)))
    header = _netlink.HEADER.pack(_netlink.HEADER_SIZE + 16, _netlink.RTM_GETLINK, 0x301, 9999, 0)
    kernel._sock._sock.send(header + bytes(16))  # never read, as after a time-out
    kernel.delete_route(Route(4, 7000, "0.0.0.0/0", (Hop("", "lo"),), protocol=157))
    kernel._sock._sock.send(header + bytes(16))
    assert "lo" in kernel.snapshot().links
    kernel.add_route(Route(4, 7000, "0.0.0.0/0", (Hop("", "lo"),), protocol=157))
    assert len(kernel.snapshot().routes) == 1
    kernel.close()


@pytest.mark.lab
def test_an_interrupted_dump_is_read_again(ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    with ns.inside():
        kernel = Kernel()
    receive = kernel._sock._receive
    left = 3

    def interrupting() -> list[tuple[int, int, int, bytes]]:
        nonlocal left
        messages = receive()
        if left > 0 and messages[-1][0] == _netlink.NLMSG_DONE:
            left -= 1
            kind, flags, sequence, payload = messages[-1]
            messages[-1] = (kind, flags | _netlink.NLM_F_DUMP_INTR, sequence, payload)
        return messages

    monkeypatch.setattr(kernel._sock, "_receive", interrupting)
    assert list(kernel.snapshot().links) == ["lo"]
    assert left == 0
    left = 1000
    with pytest.raises(OSError, match="changed during each of 5 reads"):
        kernel.snapshot()
    kernel.close()


@pytest.mark.lab
def test_silence_is_bounded(ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    with ns.inside():
        kernel = Kernel()
    kernel._sock._sock.settimeout(0.01)
    monkeypatch.setattr(kernel._sock, "_exchange", lambda *_, **__: kernel._sock._receive())
    with pytest.raises(TimeoutError, match="no answer from the kernel"):
        kernel.snapshot()
    kernel.close()


@pytest.mark.lab
def test_only_the_kernel_is_believed(ns: Namespace) -> None:
    """Any process of root may send to the socket."""
    with ns.inside():
        kernel = Kernel()
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as liar:
            liar.bind((0, 0))
            forged = _netlink.HEADER.pack(_netlink.HEADER_SIZE + 4, _netlink.NLMSG_ERROR, 0, 1, 0)
            liar.sendto(forged + _netlink.ERROR.pack(-1), (kernel.port_id, 0))
    assert "lo" in kernel.snapshot().links
    kernel.close()
