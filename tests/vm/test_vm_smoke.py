"""Whether the machine is what other tests take it for: its kernel has WireGuard, netem and the rest."""

import contextlib
import re
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.vm


def run(*command: str, given: str | None = None) -> str:
    """Output of a command that must succeed."""
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}"
    return done.stdout


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether a condition comes true within some time: asked again and again, never slept for."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture
def pair() -> Iterator[tuple[str, str]]:
    """Two namespaces joined by a cable:  a (10.9.0.1) eth0 ------ eth0 (10.9.0.2) b"""
    tag = uuid.uuid4().hex[:6]
    names = (f"a-{tag}", f"b-{tag}")
    with contextlib.ExitStack() as after:
        for name in names:
            run("ip", "netns", "add", name)
            after.callback(subprocess.run, ["ip", "netns", "del", name], check=False)
        a, b = names
        run("ip", "link", "add", "eth0", "netns", a, "type", "veth", "peer", "name", "eth0", "netns", b)
        for number, name in enumerate(names, start=1):
            run("ip", "-n", name, "address", "add", f"10.9.0.{number}/24", "dev", "eth0")
            run("ip", "-n", name, "link", "set", "eth0", "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
        yield names


def round_trip_ms(namespace: str, address: str) -> float:
    """The best of three pings, in milliseconds."""
    output = run("ip", "netns", "exec", namespace, "ping", "-n", "-c3", "-i0.2", "-W5", address)
    found = re.search(r"= ([\d.]+)/", output)
    assert found, output
    return float(found[1])


@pytest.mark.parametrize("module", ["wireguard", "sch_netem", "dummy", "veth", "nf_tables", "nf_conntrack"])
def test_module_is_there(module: str) -> None:
    run("modprobe", module)
    assert Path("/sys/module", module).is_dir()


def test_kernel_loads_what_nft_needs_by_itself(pair: tuple[str, str]) -> None:
    ruleset = """
        table inet t {
            chain c {
                type filter hook prerouting priority mangle;
                ct state new meta mark set numgen random mod 100 map { 0-49 : 1, 50-99 : 2 }
                ct mark set meta mark
            }
            chain n {
                type nat hook postrouting priority srcnat;
                oifname "eth0" masquerade
            }
        }
    """
    run("ip", "netns", "exec", pair[0], "nft", "-f", "-", given=ruleset)
    assert "masquerade" in run("ip", "netns", "exec", pair[0], "nft", "list", "ruleset")


def test_netem_delays(pair: tuple[str, str]) -> None:
    a, _ = pair
    before = round_trip_ms(a, "10.9.0.2")
    run("tc", "-n", a, "qdisc", "add", "dev", "eth0", "root", "netem", "delay", "300ms")
    after = round_trip_ms(a, "10.9.0.2")
    assert after >= 300 > before


def test_two_peers_shake_hands(pair: tuple[str, str], tmp_path: Path) -> None:
    secret = {name: run("wg", "genkey").strip() for name in pair}
    public = {name: run("wg", "pubkey", given=secret[name]).strip() for name in pair}
    for number, name in enumerate(pair, start=1):
        other = pair[2 - number]
        key = tmp_path / name
        key.write_text(secret[name])
        run("ip", "-n", name, "link", "add", "wg0", "type", "wireguard")
        inside = ["ip", "netns", "exec", name, "wg"]
        run(*inside, "set", "wg0", "private-key", str(key), "listen-port", "51820")
        peer = [public[other], "allowed-ips", "192.168.9.0/24", "endpoint", f"10.9.0.{3 - number}:51820"]
        run(*inside, "set", "wg0", "peer", *peer)
        run("ip", "-n", name, "address", "add", f"192.168.9.{number}/24", "dev", "wg0")
        run("ip", "-n", name, "link", "set", "wg0", "up")
    a, b = pair
    assert round_trip_ms(a, "192.168.9.2") < 5000
    for name in (a, b):
        assert until(lambda name=name: not _latest(name).endswith("\t0"), 10), _latest(name)  # type: ignore[misc]


def _latest(namespace: str) -> str:
    return run("ip", "netns", "exec", namespace, "wg", "show", "wg0", "latest-handshakes").strip()
