"""The WireGuard port against both sorts of device, by the same tests: wireguard-go, and in the VM the kernel.

`wg` is the witness. Two namespaces are joined by a cable; each has one device, and they are each other's
peer:

    a  10.9.0.1, 2001:db8::1  wan ------ wan-far  10.9.0.2, 2001:db8::2  b
       inside 192.168.9.1                         inside 192.168.9.2
"""

from __future__ import annotations

import base64
import errno
import functools
import gc
import itertools
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.ports.netns import Namespace, namespace, run, until
from wgrouter.core.model import DeviceSeen, Endpoint, PeerSeen
from wgrouter.ports import wireguard as port
from wgrouter.ports._wireguard import WGPEER_F_UPDATE_ONLY, PeerChange, _peer
from wgrouter.ports.wireguard import WireGuard

DIRECTORY = Path(port.DIRECTORY)
BOTH = [pytest.param("go", marks=pytest.mark.lab), pytest.param("kernel", marks=pytest.mark.vm)]
_numbers = itertools.count()


def random_key() -> str:
    """A preshared key, or the public key of somebody who is not there."""
    return base64.b64encode(os.urandom(32)).decode()


def private_key() -> str:
    """As `wg genkey` makes them: clamped (RFC 7748)."""
    key = bytearray(os.urandom(32))
    key[0] &= 248
    key[31] = key[31] & 127 | 64
    return base64.b64encode(key).decode()


class Device:
    """A WireGuard device of either sort. No two have one name: all wireguard-go share a directory."""

    def __init__(self, ns: Namespace, kind: str) -> None:
        self.ns = ns
        self.kind = kind
        self.name = f"wt{os.getpid()}x{next(_numbers)}"
        self.private = private_key()
        if kind == "kernel":
            ns.ip("link", "add", self.name, "type", "wireguard")
        else:
            ns.start("wireguard-go", self.name, WG_PROCESS_FOREGROUND="1", LOG_LEVEL="error")
            until((DIRECTORY / f"{self.name}.sock").exists)
        self.conf(f"[Interface]\nPrivateKey = {self.private}\n")

    @functools.cached_property
    def public(self) -> str:
        return run("wg", "pubkey", given=self.private).strip()

    def conf(self, text: str) -> None:
        self.ns.run("wg", "addconf", self.name, "/dev/stdin", given=text)

    def peer(self, public: str, *lines: str) -> None:
        self.conf("\n".join(("[Peer]", f"PublicKey = {public}", *lines, "")))

    def wg(self, *words: str) -> None:
        self.ns.run("wg", "set", self.name, *words)

    def up(self, *addresses: str) -> None:
        self.ns.ip("link", "set", self.name, "up")
        for one in addresses:
            self.ns.ip("address", "add", one, "dev", self.name)

    def dump(self) -> tuple[list[str], dict[str, list[str]]]:
        """What `wg show dump` says: the device's line, and each peer's by its key."""
        first, *rest = (
            line.split("\t") for line in self.ns.run("wg", "show", self.name, "dump").splitlines()
        )
        return first, {line[0]: line[1:] for line in rest}


@pytest.fixture(params=BOTH)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def ns() -> Iterator[Namespace]:
    with namespace() as made:
        yield made


@pytest.fixture
def device(ns: Namespace, kind: str) -> Device:
    return Device(ns, kind)


@pytest.fixture
def wireguard(ns: Namespace) -> Iterator[WireGuard]:
    with ns.inside():
        made = WireGuard()
    yield made
    made.close()


def as_wg_has_it(device: Device) -> dict[str, PeerSeen]:
    """The peers, from the witness; counters and the handshake's nanoseconds apart."""
    seen = {}
    for key, (_, endpoint, allowed, handshake, rx, tx, keepalive) in device.dump()[1].items():
        host, _, number = endpoint.rpartition(":")
        address = host.strip("[]").partition("%")[0]
        seen[key] = PeerSeen(
            public_key=key,
            endpoint=None if endpoint == "(none)" else Endpoint(address, int(number)),
            handshake=(int(handshake), 0),
            rx_bytes=int(rx),
            tx_bytes=int(tx),
            keepalive=0 if keepalive == "off" else int(keepalive),
            allowed_ips=() if allowed == "(none)" else tuple(sorted(allowed.split(","))),
        )
    return seen


def comparable(peers: dict[str, PeerSeen]) -> dict[str, PeerSeen]:
    return {
        key: PeerSeen(
            public_key=peer.public_key,
            endpoint=peer.endpoint,
            handshake=(peer.handshake[0], 0),
            rx_bytes=peer.rx_bytes,
            tx_bytes=peer.tx_bytes,
            keepalive=peer.keepalive,
            allowed_ips=tuple(sorted(peer.allowed_ips)),
        )
        for key, peer in peers.items()
    }


@pytest.fixture
def peers(device: Device) -> list[str]:
    """Keys of four peers with something of everything."""
    keys = [random_key() for _ in range(4)]
    psk = random_key()
    device.conf(f"""
        [Peer]
        PublicKey = {keys[0]}
        Endpoint = 192.0.2.1:51820
        AllowedIPs = 10.1.0.0/16, fd00:1::/64
        PresharedKey = {psk}
        PersistentKeepalive = 25
        [Peer]
        PublicKey = {keys[1]}
        Endpoint = [2001:db8::77]:4500
        AllowedIPs = 10.2.0.0/16
        [Peer]
        PublicKey = {keys[2]}
        AllowedIPs = 10.3.0.0/16, 10.4.0.1/32, ::/0, 0.0.0.0/0
        [Peer]
        PublicKey = {keys[3]}
        Endpoint = 192.0.2.4:4
    """)
    return keys


# ---------------------------------------------------------------- looking


def test_snapshot_says_what_wg_says(device: Device, wireguard: WireGuard, peers: list[str]) -> None:
    device.wg("listen-port", "51999", "fwmark", "0x1234")
    seen = wireguard.snapshot()
    assert list(seen) == [device.name]
    (me,) = seen.values()
    first, _ = device.dump()
    assert (me.name, me.listen_port, me.fwmark) == (device.name, 51999, 0x1234)
    assert me.userspace == (device.kind == "go")
    assert me.public_key == ("" if device.kind == "go" else first[1])
    assert comparable(dict(me.peers)) == as_wg_has_it(device)
    assert set(me.peers) == set(peers)
    assert wireguard.problems == {}


def test_unchanged_peers_are_the_same_objects(device: Device, wireguard: WireGuard, peers: list[str]) -> None:
    before = wireguard.snapshot()
    assert wireguard.snapshot() is before
    device.wg("peer", peers[3], "persistent-keepalive", "7")
    after = wireguard.snapshot()
    assert after is not before
    old, new = before[device.name], after[device.name]
    assert [key for key in peers if new.peers[key] is not old.peers[key]] == [peers[3]]
    device.wg("fwmark", "1")
    assert wireguard.snapshot()[device.name].peers is new.peers
    device.wg("peer", peers[3], "remove")
    assert set(wireguard.snapshot()[device.name].peers) == set(peers[:3])


def test_named_devices_alone(ns: Namespace, device: Device, kind: str, wireguard: WireGuard) -> None:
    other = Device(ns, kind)
    ns.cable("wan")
    assert set(wireguard.snapshot()) == {device.name, other.name}
    assert list(wireguard.snapshot([other.name, "not-there", "wan", "lo"])) == [other.name]
    assert set(wireguard.snapshot()) == {device.name, other.name}
    assert dict(wireguard.snapshot([])) == {}


def test_a_device_that_goes(ns: Namespace, device: Device, wireguard: WireGuard) -> None:
    assert list(wireguard.snapshot()) == [device.name]
    ns.ip("link", "del", device.name)
    until(lambda: not wireguard.snapshot())
    with pytest.raises(OSError, match=f"{device.name}: there is no such WireGuard device") as failed:
        wireguard.set_fwmark(device.name, 1)
    assert failed.value.errno == errno.ENODEV


def test_the_devices_of_other_namespaces_are_not_ours(device: Device) -> None:
    """All wireguard-go put their sockets into one directory."""
    with namespace() as other, other.inside():
        stranger = WireGuard()
    assert dict(stranger.snapshot()) == {}
    with pytest.raises(OSError, match="no such WireGuard device"):
        stranger.set_fwmark(device.name, 1)
    stranger.close()


def test_250_peers_and_1500_allowed_ips(device: Device, wireguard: WireGuard) -> None:
    """The kernel's dump has the big peer in several rows, and the others in several messages."""
    keys = [random_key() for _ in range(250)]
    lines = []
    for number, key in enumerate(keys):
        ips = (
            [f"10.{number}.0.0/16"]
            if number
            else [f"172.{16 + n // 250}.{n % 250}.0/24" for n in range(1500)]
        )
        lines += ["[Peer]", f"PublicKey = {key}", f"Endpoint = 192.0.2.{number % 250 + 1}:{1000 + number}"]
        lines += [f"AllowedIPs = {', '.join(ips[i : i + 100])}" for i in range(0, len(ips), 100)]
    device.conf("\n".join(lines) + "\n")
    me = wireguard.snapshot()[device.name]
    assert len(me.peers) == 250
    assert len(me.peers[keys[0]].allowed_ips) == 1500
    assert comparable(dict(me.peers)) == as_wg_has_it(device)
    assert wireguard.snapshot()[device.name] is me
    wireguard.set_endpoint(device.name, keys[0], Endpoint("192.0.2.9", 9))
    after = wireguard.snapshot()[device.name].peers
    assert after[keys[0]] == replace(me.peers[keys[0]], endpoint=Endpoint("192.0.2.9", 9))
    assert comparable(dict(after)) == as_wg_has_it(device)


def reachable(root: object) -> Iterator[object]:
    seen: set[int] = set()
    todo = [root]
    while todo:
        one = todo.pop()
        if id(one) not in seen and not isinstance(one, type):
            seen.add(id(one))
            yield one
            todo += gc.get_referents(one)


def test_no_secret_is_kept(device: Device, wireguard: WireGuard, peers: list[str]) -> None:
    psk = device.dump()[1][peers[0]][0]
    secrets = []
    for text in (device.private, psk):
        raw = base64.b64decode(text)
        secrets += [raw, text.encode(), raw.hex().encode()]
    wireguard.snapshot()
    wireguard.set_endpoint(device.name, peers[0], Endpoint("192.0.2.9", 9))
    wireguard.snapshot()
    held = 0
    for one in reachable(vars(wireguard)):
        if isinstance(one, str | bytes | bytearray):
            data = one.encode("utf-8", "replace") if isinstance(one, str) else bytes(one)
            held += 1
            assert not any(secret in data for secret in secrets)
    assert held > 10


# ---------------------------------------------------------------- setting


def all_but_endpoint(device: Device, key: str) -> list[str]:
    """Preshared key, allowed IPs, keepalive as `wg` shows them."""
    psk, _, allowed, _, _, _, keepalive = device.dump()[1][key]
    return [psk, ",".join(sorted(allowed.split(","))), keepalive]


@pytest.mark.parametrize(
    "endpoint",
    [Endpoint("198.51.100.9", 1), Endpoint("2001:db8::99", 65535), Endpoint("192.0.2.1", 51820)],
    ids=str,
)
def test_an_endpoint_is_set_and_nothing_else(
    device: Device, wireguard: WireGuard, peers: list[str], endpoint: Endpoint
) -> None:
    """In pyroute2 0.7.9 the same request empties the peer's allowed IPs."""
    kept = {key: all_but_endpoint(device, key) for key in peers}
    others = {key: line for key, line in device.dump()[1].items() if key != peers[0]}
    assert kept[peers[0]][0] != "(none)"
    for _ in range(2):
        wireguard.set_endpoint(device.name, peers[0], endpoint)
        assert device.dump()[1][peers[0]][1] == str(endpoint)
        assert {key: all_but_endpoint(device, key) for key in peers} == kept
    assert wireguard.snapshot()[device.name].peers[peers[0]].endpoint == endpoint
    assert {key: line for key, line in device.dump()[1].items() if key != peers[0]} == others


def test_keepalive_port_and_mark(device: Device, wireguard: WireGuard, peers: list[str]) -> None:
    kept = {key: line[:6] for key, line in device.dump()[1].items()}
    wireguard.set_keepalive(device.name, peers[1], 21)
    wireguard.set_keepalive(device.name, peers[0], 0)
    wireguard.set_listen_port(device.name, 51998)
    wireguard.set_fwmark(device.name, 0xFFFFFFFF)
    first, lines = device.dump()
    assert first[2:] == ["51998", "0xffffffff"]
    assert {key: line[6] for key, line in lines.items()} == dict(
        zip(peers, ("off", "21", "off", "off"), strict=True)
    )
    assert {key: line[:6] for key, line in lines.items()} == kept
    assert first[0] == device.private
    wireguard.set_fwmark(device.name, 0)
    assert device.dump()[0][3] == "off"


def test_a_taken_port(ns: Namespace, device: Device, wireguard: WireGuard, peers: list[str]) -> None:
    device.up()
    with ns.inside():
        taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with taken:
        taken.bind(("", 51997))
        with pytest.raises(OSError, match=f"{device.name}: .*[Aa]ddress.*in use") as failed:
            wireguard.set_listen_port(device.name, 51997)
        assert failed.value.errno == errno.EADDRINUSE


def test_an_unknown_peer_is_not_made(device: Device, wireguard: WireGuard, peers: list[str]) -> None:
    before = device.dump()
    gone = random_key()
    wireguard.set_endpoint(device.name, gone, Endpoint("192.0.2.9", 9))
    wireguard.set_keepalive(device.name, gone, 25)
    wireguard.provoke(device.name, gone, 25)
    wireguard.provoke(device.name, gone, 0)
    assert device.dump() == before
    device.wg("peer", peers[0], "remove")
    wireguard.set_endpoint(device.name, peers[0], Endpoint("192.0.2.9", 9))
    assert peers[0] not in device.dump()[1]


def test_a_key_that_is_none(device: Device, wireguard: WireGuard) -> None:
    for bad in ("", "short", "AAAA", "x" * 44, random_key() + "\nprivate_key=00"):
        with pytest.raises(OSError, match="not a WireGuard key") as failed:
            wireguard.set_endpoint(device.name, bad, Endpoint("192.0.2.9", 9))
        assert failed.value.errno == errno.EINVAL


# ---------------------------------------------------------------- a live tunnel


@dataclass
class Tunnel:
    a: Device
    b: Device
    wireguard: WireGuard

    def seen(self) -> PeerSeen:
        return self.wireguard.snapshot()[self.a.name].peers[self.b.public]

    def ping(self) -> bool:
        return ", 0% packet loss" in self.a.ns.run("ping", "-n", "-c1", "-W2", "192.168.9.2", check=False)


@pytest.fixture
def tunnel(ns: Namespace, kind: str, wireguard: WireGuard) -> Iterator[Tunnel]:
    with namespace() as far:
        ns.cable("wan", "10.9.0.1/24", "10.9.1.1/24", "2001:db8::1/64", other=far)
        for one in ("10.9.0.2/24", "10.9.1.2/24"):
            far.ip("address", "add", one, "dev", "wan-far")
        far.ip("address", "add", "2001:db8::2/64", "dev", "wan-far", "nodad")
        a, b = Device(ns, kind), Device(far, kind)
        psk = f"PresharedKey = {random_key()}"
        b.wg("listen-port", "51820")
        a.peer(b.public, psk, "AllowedIPs = 192.168.9.2/32", "Endpoint = 10.9.0.2:51820")
        b.peer(a.public, psk, "AllowedIPs = 192.168.9.1/32")
        a.up("192.168.9.1/24")
        b.up("192.168.9.2/24")
        yield Tunnel(a, b, wireguard)


def test_the_session_survives_a_change_of_endpoint(tunnel: Tunnel) -> None:
    until(tunnel.ping)
    before = tunnel.seen()
    assert before.handshake > (0, 0)
    assert before.rx_bytes > 0
    for endpoint in (
        Endpoint("10.9.1.2", 51820),
        Endpoint("2001:db8::2", 51820),
        Endpoint("10.9.0.2", 51820),
    ):
        tunnel.wireguard.set_endpoint(tunnel.a.name, tunnel.b.public, endpoint)
        assert tunnel.ping()
        after = tunnel.seen()
        assert after.endpoint == endpoint
        assert after.handshake == before.handshake, "no new handshake was needed"
        assert after.rx_bytes > before.rx_bytes
    line = tunnel.a.dump()[1][tunnel.b.public]
    assert int(line[3]) == before.handshake[0]


@pytest.mark.parametrize("keepalive", [25, 0])
def test_provoking_an_idle_tunnel_shakes_hands(tunnel: Tunnel, keepalive: int) -> None:
    assert tunnel.seen().handshake == (0, 0)
    tunnel.wireguard.set_keepalive(tunnel.a.name, tunnel.b.public, keepalive)
    until(lambda: tunnel.seen().keepalive == keepalive)
    tunnel.wireguard.provoke(tunnel.a.name, tunnel.b.public, keepalive)
    until(lambda: tunnel.seen().handshake > (0, 0))
    assert tunnel.seen().keepalive == keepalive
    before = tunnel.seen()
    tunnel.wireguard.provoke(tunnel.a.name, tunnel.b.public, keepalive)
    until(lambda: tunnel.seen().tx_bytes > before.tx_bytes)


def test_a_fwmark_chooses_the_route_of_the_outer_packets(tunnel: Tunnel) -> None:
    tunnel.a.ns.batch(
        "rule add pref 100 fwmark 0x77 lookup 7000",
        "route add blackhole default table 7000",
    )
    until(tunnel.ping)
    tunnel.wireguard.set_fwmark(tunnel.a.name, 0x77)
    assert not tunnel.ping()
    tunnel.wireguard.set_fwmark(tunnel.a.name, 0)
    until(tunnel.ping)


def test_a_new_source_port_is_told_to_the_peer(tunnel: Tunnel) -> None:
    until(tunnel.ping)
    tunnel.wireguard.set_listen_port(tunnel.a.name, 51777)
    assert tunnel.ping()
    assert tunnel.b.dump()[1][tunnel.a.public][1].endswith(":51777")


def test_link_local_endpoints(tunnel: Tunnel) -> None:
    def link_local(ns: Namespace, name: str) -> str:
        shown = ns.json("-6", "address", "show", "dev", name, "scope", "link")
        return next((str(i["local"]) for one in shown for i in one.get("addr_info", []) if "local" in i), "")

    far = until(lambda: link_local(tunnel.b.ns, "wan-far"))
    set_endpoint = tunnel.wireguard.set_endpoint
    with pytest.raises(OSError, match=f"the link-local endpoint {far} needs a device"):
        set_endpoint(tunnel.a.name, tunnel.b.public, Endpoint(far, 51820))
    with pytest.raises(OSError, match="there is no device 'nope'"):
        set_endpoint(tunnel.a.name, tunnel.b.public, Endpoint(f"{far}%nope", 51820))
    set_endpoint(tunnel.a.name, tunnel.b.public, Endpoint(f"{far}%wan", 51820))
    until(tunnel.ping)
    assert tunnel.seen().endpoint == Endpoint(far, 51820), "the model knows no scope"
    set_endpoint(tunnel.a.name, tunnel.b.public, Endpoint(far, 51820))
    assert tunnel.ping(), "the same again needs none"
    tunnel.seen()
    set_endpoint(tunnel.a.name, tunnel.b.public, Endpoint(far, 51820))
    assert tunnel.ping()
    set_endpoint(tunnel.a.name, tunnel.b.public, Endpoint("10.9.0.2", 51820))
    tunnel.seen()
    with pytest.raises(OSError, match="needs a device"):
        set_endpoint(tunnel.a.name, tunnel.b.public, Endpoint(far, 51820))


# ---------------------------------------------------------------- a process that does not do as it should


class Impostor:
    """A socket where wireguard-go's would be, which answers as it is told."""

    def __init__(self, ns: Namespace, directory: Path, answer: bytes | None) -> None:
        self.name = f"wi{os.getpid()}x{next(_numbers)}"
        ns.ip("link", "add", "name", self.name, "type", "veth", "peer", "name", f"{self.name}f")
        self.asked: list[bytes] = []
        self._answer = answer
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.bind(str(directory / f"{self.name}.sock"))
        self._sock.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        held = []
        while True:
            try:
                client, _ = self._sock.accept()
            except OSError:
                break
            if self._answer is None:
                held.append(client)
                continue
            with client:
                self.asked.append(client.recv(1 << 16))
                client.sendall(self._answer)
        for client in held:
            client.close()

    def close(self) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        self._thread.join()


@pytest.fixture
def there(ns: Namespace, tmp_path: Path) -> Iterator[WireGuard]:
    with ns.inside():
        made = WireGuard(str(tmp_path))
    yield made
    made.close()


@pytest.mark.lab
def test_silence_is_bounded_and_keeps_what_was_seen(
    ns: Namespace, there: WireGuard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port, "PROCESS_TIMEOUT_S", 0.3)
    good = Impostor(ns, tmp_path, b"listen_port=7\nerrno=0\n\n")
    wedged = [Impostor(ns, tmp_path, b"listen_port=8\nerrno=0\n\n") for _ in range(3)]
    assert len(there.snapshot()) == 4
    for one in wedged:
        one._answer = None
    begun = time.monotonic()
    seen = there.snapshot()
    assert time.monotonic() - begun < 1.0, "not a time-out for each"
    assert {name: device.listen_port for name, device in seen.items()} == {
        good.name: 7,
        **{one.name: 8 for one in wedged},
    }
    assert set(there.problems) == {one.name for one in wedged}
    assert all("no answer from the process" in why for why in there.problems.values())
    with pytest.raises(TimeoutError, match=r"no answer from the process of .* in 0\.3 s"):
        there.set_fwmark(wedged[0].name, 1)
    for one in (good, *wedged):
        one.close()
    until(lambda: not there.snapshot([good.name]))


@pytest.mark.lab
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"errno=-16\n\n", "refuses: Device or resource busy"),
        (b"errno=5\n\n", "refuses: Input/output error"),
        (b"", "hung up"),
        (b"listen_port=7\n", "hung up"),
    ],
)
def test_a_refusal_is_told(
    ns: Namespace, there: WireGuard, tmp_path: Path, answer: bytes, words: str
) -> None:
    impostor = Impostor(ns, tmp_path, answer)
    with pytest.raises(OSError, match=words):
        there.set_listen_port(impostor.name, 5)
    with pytest.raises(OSError, match=words):
        there.snapshot()
    impostor.close()


@pytest.mark.lab
def test_a_socket_left_behind_is_no_device(ns: Namespace, there: WireGuard, tmp_path: Path) -> None:
    impostor = Impostor(ns, tmp_path, b"errno=0\n\n")
    impostor.close()
    assert (tmp_path / f"{impostor.name}.sock").exists()
    assert dict(there.snapshot()) == {}
    with pytest.raises(OSError, match=f"no process serves {impostor.name}") as failed:
        there.set_fwmark(impostor.name, 1)
    assert failed.value.errno == errno.ENODEV


@pytest.mark.lab
def test_what_is_asked_of_a_process(ns: Namespace, there: WireGuard, tmp_path: Path) -> None:
    impostor = Impostor(ns, tmp_path, b"errno=0\n\n")
    key = random_key()
    peer = f"public_key={base64.b64decode(key).hex()}\nupdate_only=true\n"
    there.set_endpoint(impostor.name, key, Endpoint("2001:db8::1", 5))
    there.provoke(impostor.name, key, 25)
    there.provoke(impostor.name, key, 0)
    there.set_fwmark(impostor.name, 7)
    there.set_listen_port(impostor.name, 8)
    every = "persistent_keepalive_interval="
    assert [asked.decode() for asked in impostor.asked] == [
        f"set=1\n{peer}endpoint=[2001:db8::1]:5\n\n",
        f"set=1\n{peer}{every}0\n{peer}{every}25\n\n",
        f"set=1\n{peer}{every}0\n{peer}{every}1\n{peer}{every}0\n\n",
        "set=1\nfwmark=7\n\n",
        "set=1\nlisten_port=8\n\n",
    ]
    impostor.close()


@pytest.mark.lab
def test_a_newer_wireguard_go_tells_the_scope(ns: Namespace, there: WireGuard, tmp_path: Path) -> None:
    key = random_key()
    ns.cable("wan")
    answer = f"public_key={base64.b64decode(key).hex()}\nendpoint=[fe80::1%wan]:5\nerrno=0\n\n"
    impostor = Impostor(ns, tmp_path, answer.encode())
    assert there.snapshot()[impostor.name].peers[key].endpoint == Endpoint("fe80::1", 5)
    impostor._answer = b"errno=0\n\n"
    there.set_endpoint(impostor.name, key, Endpoint("fe80::1", 5))
    assert b"endpoint=[fe80::1%wan]:5" in impostor.asked[-1]
    impostor.close()


# ---------------------------------------------------------------- beside pyroute2


def test_our_request_is_the_one_pyroute2_makes_where_it_is_right() -> None:
    """0.9.x encodes it as wanted; 0.7.9 sends "replace allowed IPs" instead of "update only"."""
    import pyroute2
    from pyroute2.netlink.generic import wireguard as theirs

    from wgrouter.ports._netlink import attributes, each_attribute

    key, endpoint = random_key(), Endpoint("2001:db8::1", 51820)
    ours = attributes(b"".join(_peer(PeerChange(key, endpoint=endpoint, keepalive=25))))
    cls = getattr(theirs, "AsyncWireGuard", theirs.WireGuard)
    message = theirs.wgmsg()
    cls._wg_set_peer(
        cls.__new__(cls),
        message,
        {
            "public_key": key,
            "endpoint_addr": endpoint.address,
            "endpoint_port": endpoint.port,
            "persistent_keepalive": 25,
            "update_only": True,
        },
    )
    message.encode()
    (peers,) = (value for kind, value in each_attribute(bytes(message.data[20:])) if kind == 8)
    ((_, peer),) = each_attribute(peers)
    them = attributes(peer)
    flags = them.pop(3)
    assert ours.pop(3) == WGPEER_F_UPDATE_ONLY.to_bytes(4, "little")
    assert ours == them
    version = tuple(int(part) for part in pyroute2.__version__.split(".")[:2])
    assert (flags == WGPEER_F_UPDATE_ONLY.to_bytes(4, "little")) == (version >= (0, 9))


def test_the_kinds_agree_on_what_a_device_is() -> None:
    assert DeviceSeen("wg0").userspace is False
