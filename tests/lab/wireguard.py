"""WireGuard in a box: the kernel's where it has it, else wireguard-go; keys; and what `wg` says about a
device.

The lab talks to WireGuard with `wg` alone, a witness that shares no code with the agent.
"""

import functools
import socket
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .netns import Box, run
from .openwrt import Key, Keys
from .poll import PATIENCE_SECONDS, until
from .topology import Router, Site, Topology, WireGuard


@functools.cache
def kernel_has_wireguard() -> bool:
    """Ask by trying, in a namespace that ends with the question."""
    command = ["unshare", "--net", "ip", "link", "add", "wg0", "type", "wireguard"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def choose(wanted: WireGuard) -> WireGuard:
    """Resolve "auto"."""
    if wanted != "auto":
        return wanted
    return "kernel" if kernel_has_wireguard() else "go"


def make_keys(topology: Topology) -> Keys:
    """All keys of a lab, from `wg`, in two processes' time rather than hundreds'."""
    names = [*topology.routers, *topology.sites]
    lines = run(
        [
            "sh",
            "-ec",
            f'for i in $(seq {len(names)}); do k=$(wg genkey); echo "$k $(echo "$k" | wg pubkey)"; done',
        ]
    ).splitlines()
    keys = [Key(*line.split()) for line in lines]
    pairs = [(router.name, site.name) for router in topology.routers for site in topology.sites]
    shared = run(["sh", "-ec", f"for i in $(seq {len(pairs)}); do wg genpsk; done"]).split()
    count = len(topology.routers)
    return Keys(
        routers={router.name: key for router, key in zip(topology.routers, keys[:count], strict=True)},
        sites={site.name: key for site, key in zip(topology.sites, keys[count:], strict=True)},
        preshared=dict(zip(pairs, shared, strict=True)),
    )


class Devices:
    """Makes WireGuard devices in boxes, of one kind."""

    def __init__(self, kind: WireGuard, logs: Path) -> None:
        self.kind = choose(kind)
        self._logs = logs

    def begin(self, box: Box, device: str) -> subprocess.Popen[bytes] | None:
        """Start making a device; `await_device` returns when it is there. wireguard-go's process, if it is
        that.
        """
        if self.kind == "kernel":
            box.run("ip", "link", "add", device, "type", "wireguard")
            return None
        # One that had to be killed leaves its socket, which would look like the new one's.
        _socket(box, device).unlink(missing_ok=True)
        environment = {"WG_PROCESS_FOREGROUND": "1", "LOG_LEVEL": "error"}
        log = self._logs / f"{box.name}-{device}.log"
        return box.start("wireguard-go", device, log=log, env=environment)

    def await_device(self, box: Box, device: str, process: subprocess.Popen[bytes] | None) -> None:
        """Return when `wg` can talk to the device."""
        if process is not None:
            place = _socket(box, device)
            until(
                lambda: _listens(place), within=PATIENCE_SECONDS, what=f"{box.name}: {place.name} to answer"
            )


def _socket(box: Box, device: str) -> Path:
    """wireguard-go's, as it is reached from outside of the box."""
    # /var/run is an absolute link, which would lead out of the box's root.
    return Path(f"/proc/{box.pid}/root{Path('/var/run/wireguard').resolve()}/{device}.sock")


def _listens(place: Path) -> bool:
    """It is there a moment before it listens; `wg` would take it for a dead one's then, and remove it."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(place)) == 0


def router_conf(router: Router, sites: Iterable[Site], keys: Keys, listen_port: int) -> str:
    """For `wg setconf`: what netifd would give it, names already resolved, if they could be."""
    lines = ["[Interface]", f"PrivateKey = {keys.routers[router.name].private}"]
    if listen_port:
        lines.append(f"ListenPort = {listen_port}")
    for site in sites:
        lines += ["[Peer]", f"PublicKey = {keys.sites[site.name].public}"]
        if site.psk:
            lines.append(f"PresharedKey = {keys.preshared[router.name, site.name]}")
        lines.append(f"AllowedIPs = {', '.join(site.allowed_ips)}")
        if site.keepalive:
            lines.append(f"PersistentKeepalive = {site.keepalive}")
        if router.resolved:
            lines.append(f"Endpoint = {bracketed(site.home_a[0])}:{site.port}")
    return "\n".join(lines) + "\n"


def site_conf(site: Site, routers: Iterable[Router], keys: Keys) -> str:
    """For `wg setconf`: every router is a peer that has to call first."""
    lines = ["[Interface]", f"PrivateKey = {keys.sites[site.name].private}", f"ListenPort = {site.port}"]
    for router in routers:
        lines += ["[Peer]", f"PublicKey = {keys.routers[router.name].public}"]
        if site.psk:
            lines.append(f"PresharedKey = {keys.preshared[router.name, site.name]}")
        inside = (
            f"{router.tunnel4}/32",
            f"{router.tunnel6}/128",
            f"{router.lan4}.0/24",
            f"{router.lan6}:/64",
        )
        lines.append(f"AllowedIPs = {', '.join(inside)}")
    return "\n".join(lines) + "\n"


def bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


@dataclass(frozen=True)
class Peer:
    """One peer as `wg show DEVICE dump` has it. `handshake` is a token to compare, 0 if there was none."""

    public_key: str
    preshared_key: str
    endpoint: str | None
    allowed_ips: tuple[str, ...]
    handshake: int
    received: int
    sent: int
    keepalive: int


@dataclass(frozen=True)
class Seen:
    """A device as `wg` sees it."""

    private_key: str
    public_key: str
    listen_port: int
    fwmark: int
    peers: dict[str, Peer]


def _or_zero(text: str) -> int:
    return 0 if text in ("off", "(none)") else int(text, 0)


def show(box: Box, device: str) -> Seen:
    """Ask `wg` about a device."""
    first, *rest = (line.split("\t") for line in box.run("wg", "show", device, "dump").splitlines())
    return Seen(first[0], first[1], int(first[2]), _or_zero(first[3]), {row[0]: _peer(row) for row in rest})


def _peer(row: Sequence[str]) -> Peer:
    key, preshared, endpoint, allowed, handshake, received, sent, keepalive = row
    return Peer(
        key,
        "" if preshared == "(none)" else preshared,
        None if endpoint == "(none)" else endpoint,
        () if allowed == "(none)" else tuple(allowed.split(",")),
        int(handshake),
        int(received),
        int(sent),
        _or_zero(keepalive),
    )
