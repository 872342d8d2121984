"""The ubus port against the real netifd, where it is found: two static WANs in a network namespace."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports.test_bus import MISSING, World
from wgrouter.core.model import Interface

LACKING = [*MISSING, *(name for name in ("netifd",) if not shutil.which(name))]
pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(
        bool(LACKING), reason=f"{' and '.join(LACKING)} not found: no real netifd to test with"
    ),
]

NETWORK = """\
config interface 'loopback'
	option device 'lo'
	option proto 'static'
	option ipaddr '127.0.0.1/8'

config interface 'wan'
	option device 'eth1'
	option proto 'static'
	option ipaddr '192.0.2.2/24'
	option gateway '192.0.2.1'
	option metric '10'
	list dns '192.0.2.53'
	list dns '198.51.100.53'

config interface 'wan2'
	option device 'eth2'
	option proto 'static'
	option ipaddr '198.51.100.2/24'
	option gateway '198.51.100.1'
	option metric '20'
	option ip6addr '2001:db8:2::2/64'
	option ip6gw '2001:db8:2::1'
"""


class Netifd:
    """A namespace with two devices, each with its other end, and a netifd that configures them."""

    def __init__(self, world: World, directory: Path) -> None:
        self.world = world
        self._holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE)
        world.wait(
            lambda: os.readlink(f"/proc/{self._holder.pid}/ns/net") != os.readlink("/proc/self/ns/net")
        )
        for number in (1, 2):
            self.ip("link", "add", f"eth{number}", "type", "veth", "peer", "name", f"isp{number}")
            self.ip("link", "set", f"isp{number}", "up")
        config = directory / "config"
        config.mkdir()
        (config / "network").write_text(NETWORK)
        (config / "wireless").touch()
        netifd = ["netifd", "-s", world.path, "-c", str(config), "-p", str(directory), "-h", "/bin/true"]
        netifd += ["-r", str(directory / "resolv.conf"), "-l", "2", "-S"]
        self._process = subprocess.Popen([*self._inside, *netifd], stderr=subprocess.DEVNULL)

    @property
    def _inside(self) -> list[str]:
        return ["nsenter", "--net", f"--target={self._holder.pid}"]

    def ip(self, *arguments: str) -> str:
        command = [*self._inside, "ip", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def close(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._holder.kill()
        self._holder.wait()
        assert self._holder.stdin
        self._holder.stdin.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World("real", tmp_path)
    world.boot()
    world.bus.start()
    yield world
    world.close()


@pytest.fixture
def netifd(world: World, tmp_path: Path) -> Iterator[Netifd]:
    """Both WANs are up."""
    netifd = Netifd(world, tmp_path)
    world.loop.until(lambda: {("ifup", "wan"), ("ifup", "wan2")} <= set(world.hints()), 20)
    yield netifd
    netifd.close()


def test_its_appearance_and_its_news_are_hints(world: World, netifd: Netifd) -> None:
    hints = world.hints()
    assert ("appeared", "") in hints and ("appeared", "wan") in hints
    assert hints.index(("appeared", "wan")) < hints.index(("ifup", "wan"))


def test_what_it_says_of_its_interfaces(world: World, netifd: Netifd) -> None:
    seen = world.bus.interfaces()
    dns = ("192.0.2.53", "198.51.100.53")
    assert seen["wan"] == Interface("wan", "eth1", True, "static", 10, dns, ("192.0.2.1",))
    assert (seen["wan2"].device, seen["wan2"].metric, seen["wan2"].dns) == ("eth2", 20, ())
    assert set(seen["wan2"].gateways) == {"198.51.100.1", "2001:db8:2::1"}
    assert seen["loopback"].device == "lo" and seen["loopback"].gateways == ()
    assert world.bus.interfaces() is seen


def test_an_explicit_down_and_up_is_told(world: World, netifd: Netifd) -> None:
    before = len(world.hints())
    world.bus.restart("wan")
    world.loop.until(lambda: ("ifup", "wan") in world.hints()[before:], 10)
    told = world.hints()[before:]
    assert told.count(("ifdown", "wan")) >= 1
    assert "default via 192.0.2.1" in netifd.ip("route")
    assert world.bus.interfaces()["wan"].up


def test_renew_keeps_the_interface_up(world: World, netifd: Netifd) -> None:
    before = len(world.hints())
    world.bus.renew("wan")
    assert world.bus.interfaces()["wan"].up
    assert "192.0.2.2/24" in netifd.ip("addr", "show", "eth1")
    assert ("ifdown", "wan") not in world.hints()[before:]


def test_carrier_loss_of_a_static_interface_is_not_told(world: World, netifd: Netifd) -> None:
    """force_link defaults to 1 there: only rtnetlink tells, and the dump must not be believed above it."""
    before = len(world.hints())
    netifd.ip("link", "set", "isp1", "down")
    world.wait(lambda: "NO-CARRIER" in netifd.ip("link", "show", "eth1"))
    peer = world.peer()
    world.ask(peer, "status")  # netifd has had its turn
    assert world.bus.interfaces()["wan"].up
    assert ("ifdown", "wan") not in world.hints()[before:]


def test_netifd_restarted(world: World, netifd: Netifd, tmp_path: Path) -> None:
    """Its objects go and come: a call meanwhile is an error, and its return is a hint."""
    netifd.close()
    world.loop.turn()
    with pytest.raises(OSError):
        world.bus.interfaces()
    before = len(world.hints())
    (tmp_path / "again").mkdir()
    again = Netifd(world, tmp_path / "again")
    try:
        world.loop.until(lambda: ("ifup", "wan") in world.hints()[before:], 20)
        assert ("appeared", "wan") in world.hints()[before:]
        assert world.bus.interfaces()["wan"].gateways == ("192.0.2.1",)
    finally:
        again.close()
