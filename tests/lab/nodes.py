"""The boxes of a lab that a test talks to by name: a router, a far site; and a counter to put into any box.

Decides how each is set up and changed. Which of them there are is known to lab.py alone.
"""

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import netns, openwrt, wireguard
from .agent import Agent
from .netns import Box, LabError
from .topology import Router, Site, Topology
from .wireguard import Devices, Peer, Seen
from .wiring import add_host, family, host


class LabRouter:
    """A router: its box, its tunnels as `wg` sees them, and the agent on it."""

    def __init__(self, plan: Router, box: Box, topology: Topology, keys: openwrt.Keys, root: Path) -> None:
        self.plan = plan
        self.box = box
        self.uplinks = topology.uplinks(plan.name)
        # The root of the agent's file system: `--root`.
        self.root = root
        self.agent: Agent | None = None
        self._sites = topology.sites
        self._keys = keys
        self.tunnels = openwrt.tunnels(topology.sites)
        self.write(
            "etc/config/network", openwrt.network(plan, self.uplinks, topology.sites, keys), mode=0o600
        )
        self.write("etc/config/wgrouter", "")
        self.write("tmp/resolv.conf.d/resolv.conf.auto", openwrt.resolv_conf_auto(self.uplinks))
        (root / "var" / "run").mkdir(parents=True)

    def write(self, path: str, text: str, mode: int = 0o644) -> Path:
        """Write a file below the router's root."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
        return file

    def configure(self, device: str, index: int) -> None:
        """Set a tunnel up as netifd does: device, addresses, routes, and a host route to each endpoint."""
        sites = [site for site in self._sites if site.tunnel == device]
        port = self.plan.listen_port + index if self.plan.listen_port else 0
        conf = wireguard.router_conf(self.plan, sites, self._keys, port)
        self.box.run("wg", "setconf", device, "/dev/stdin", stdin=conf)
        lines = [add_host(a.partition("/")[0], device) for a in openwrt.tunnel_addresses(self.plan)]
        lines.append(f"link set {device} mtu 1420 up")
        lines += [
            f"route add {allowed} dev {device} proto static" for site in sites for allowed in site.allowed_ips
        ]
        if self.plan.host_routes and self.plan.resolved and self.uplinks:
            best = self.uplinks[0]
            for site in sites:
                address = site.home_a[0]
                metric = f" metric {best.metric}" if best.metric else ""
                lines.append(f"route add {host(address)} {best.via(family(address))} proto static{metric}")
        self.box.ip(*lines)

    def run(self, *argv: str, check: bool = True, stdin: str = "") -> str:
        """Run a program on the router to its end; its output."""
        return self.box.run(*argv, check=check, stdin=stdin)

    def wg(self, device: str = "wg0") -> Seen:
        """The device as `wg show … dump` has it."""
        return wireguard.show(self.box, device)

    def peer(self, site: str) -> Peer:
        """The peer of a site as `wg` has it: endpoint, handshake, received, sent …"""
        plan = next(plan for plan in self._sites if plan.name == site)
        return self.wg(plan.tunnel).peers[self._keys.sites[site].public]

    def public_key(self, site: str) -> str:
        """By which key the router knows a site."""
        return self._keys.sites[site].public

    def start_agent(
        self,
        config: str | None = None,
        *,
        arguments: Sequence[str] = (),
        command: Sequence[str] | None = None,
        python: str = sys.executable,
        env: Mapping[str, str] | None = None,
    ) -> Agent:
        """Start wgrouter here with this text as /etc/config/wgrouter (or any other `command`)."""
        if config is not None:
            self.write("etc/config/wgrouter", config)
        self.agent = Agent(self.box, self.root, arguments=arguments, command=command, python=python, env=env)
        return self.agent.start()


class LabSite:
    """A far site that is alive: it can move, die and come back."""

    def __init__(self, plan: Site, box: Box, devices: Devices, conf: str, routers: Sequence[Router]) -> None:
        self.plan = plan
        self.box = box
        self.addresses: tuple[str, ...] = plan.home_a
        self.dead_ports: frozenset[int] = frozenset()
        self._devices = devices
        self._conf = conf
        self._routers = routers
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        self._process = self._devices.begin(self.box, "wg0")

    def finish(self) -> None:
        self._devices.await_device(self.box, "wg0", self._process)
        routes = [
            f"route add {prefix} dev wg0"
            for router in self._routers
            for prefix in (
                f"{router.tunnel4}/32",
                f"{router.tunnel6}/128",
                f"{router.lan4}.0/24",
                f"{router.lan6}:/64",
            )
        ]
        lines = [
            add_host(self.plan.tunnel4, "wg0"),
            add_host(self.plan.tunnel6, "wg0"),
            "link set wg0 mtu 1420 up",
        ]
        self.box.run("wg", "setconf", "wg0", "/dev/stdin", stdin=self._conf)
        self.box.ip(*lines, *routes)

    def stop(self) -> None:
        """Its WireGuard is gone; the host is still there."""
        if self._process is not None:
            netns.end(self._process)
            self._process = None
        else:
            self.box.run("ip", "link", "del", "wg0")

    def start(self) -> None:
        """Its WireGuard is back, without a memory of sessions."""
        self.begin()
        self.finish()

    def move_to(self, *addresses: str) -> None:
        """Leave all public addresses, and have these. What is sent to the old ones vanishes."""
        unknown = set(addresses) - set(self.plan.all_homes)
        if unknown:
            raise LabError(
                f"{self.plan.name} can live at {', '.join(self.plan.all_homes)}; not at {', '.join(unknown)}"
            )
        # The new ones first: without any the kernel takes the tunnel's own address as a source.
        lines = [add_host(a, "net") for a in addresses if a not in self.addresses]
        lines += [f"addr del {host(a)} dev net" for a in self.addresses if a not in addresses]
        if lines:
            self.box.ip(*lines)
        self.addresses = addresses

    def wg(self) -> Seen:
        """Its device as `wg show … dump` has it: the router's endpoint as the far side sees it."""
        return wireguard.show(self.box, "wg0")


class Counter:
    """How many packets came to a box and matched an nft expression, since this was made."""

    def __init__(self, box: Box, table: str, match: str) -> None:
        self._box = box
        self._table = table
        # Before anything of the box itself sees them, and may drop or translate them.
        hook = "type filter hook prerouting priority -350;"
        box.nft(f"table inet {table} {{\n chain seen {{ {hook}\n {match} counter\n }}\n}}")

    @property
    def packets(self) -> int:
        listed = self._box.run("nft", "list", "table", "inet", self._table)
        (found,) = re.findall(r"counter packets (\d+)", listed)
        return int(found)
