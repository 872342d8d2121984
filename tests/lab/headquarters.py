"""A fleet in the lab that can testify for its members: an agent on every router, and one at the far site.

The site is where all tunnels end, as a company's headquarters are. Its agent has the routers as peers, so
that the fleet knows of a router that is gone whether its site lives. `wgrouter fleet` matches the two ends by
the fingerprints of their keys, or, where WireGuard runs in userspace and does not tell its own, by name.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import openwrt
from .agent import Agent
from .lab import Lab
from .netns import LabError
from .poll import until
from .reporting import WANS, configuration

ID = "headquarters"
KEEPALIVE, WILL_DELAY = 5, 5  # seconds: a demonstration has no patience
_COMMANDS = "".join(
    f"\tlist command '{verb}'\n" for verb in ("refresh", "switch", "explain", "report", "set")
)


def start(lab: Lab) -> dict[str, Agent]:
    """Start an agent on every router and on site1, all reporting to the lab's broker; by their ids."""
    agents = {name: branch(lab, name) for name in lab.routers}
    return {**agents, ID: _headquarters(lab)}


def branch(lab: Lab, name: str = "router") -> Agent:
    """Start the agent of one router."""
    options = {"will_delay": WILL_DELAY, "keepalive": KEEPALIVE}
    return lab.routers[name].start_agent(configuration(lab, more=_COMMANDS + WANS, router=name, **options))


def _headquarters(lab: Lab) -> Agent:
    site = lab.site("site1")
    root = lab.directory / ID
    routers = [router.plan for router in lab.routers.values()]
    network = [
        _section("interface", "net", proto="static", device="net"),
        _section(
            "interface",
            "wg0",
            proto="wireguard",
            private_key=lab.keys.sites["site1"].private,
            listen_port=site.plan.port,
            addresses=[f"{site.plan.tunnel4}/32"],
        ),
    ]
    peers = []
    for router in routers:
        network.append(
            _section(
                "wireguard_wg0",
                "",
                description=router.name,
                public_key=lab.keys.routers[router.name].public,
                preshared_key=lab.keys.preshared[router.name, "site1"],
                allowed_ips=[f"{router.tunnel4}/32", f"{router.tunnel6}/128"],
            )
        )
        peers.append(_section("peer", "", description=router.name, probe=router.tunnel4, probe_interval="1s"))
    mqtt = _section(
        "mqtt",
        "mqtt",
        broker=[f"mqtts://{lab.broker.host}:8883"],
        id=ID,
        username="operator",
        password_file=str(_write(root / "etc/password", lab.broker.password("operator") + "\n")),
        ca_file=str(lab.broker.ca),
    )
    _write(root / "etc/config/network", "\n".join(network))
    _write(root / "etc/config/wgrouter", "\n".join([mqtt, *peers]))
    _write(root / "tmp/resolv.conf.d/resolv.conf.auto", openwrt.resolv_conf_auto(lab.router.uplinks))
    (root / "var/run").mkdir(parents=True)
    return Agent(site.box, root).start()


def _section(kind: str, name: str, **options: str | int | Sequence[str]) -> str:
    return openwrt._section(kind, name, options)


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)
    return path


def part_from_broker(lab: Lab, router: str) -> None:
    """Let a router's providers drop what goes to the broker, and nothing else."""
    for isp in lab.topology.uplinks(router):
        lab.isp_box(isp.name).nft(
            "table inet nobroker {\nchain forward { type filter hook forward priority -5;\n"
            "tcp dport { 1883, 8883, 8884 } drop\n}\n}"
        )


def let_to_broker(lab: Lab, router: str) -> None:
    """Take that back."""
    for isp in lab.topology.uplinks(router):
        lab.isp_box(isp.name).run("nft", "delete", "table", "inet", "nobroker")


def cut_off(lab: Lab, router: str) -> None:
    """Let nothing through any of a router's providers: the site is gone."""
    for isp in lab.topology.uplinks(router):
        lab.blackhole(isp.name)


def rejoin(lab: Lab, router: str) -> None:
    """Take that back."""
    for isp in lab.topology.uplinks(router):
        lab.unblackhole(isp.name)


class Operator:
    """An operator's machine, beside the broker."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.password = self.secret("operator", lab.broker.password("operator"))
        self.ca = ["--ca-file", str(lab.broker.ca)]
        self.user = ["--user", "operator", "--password-file", str(self.password)]
        self.options = ["--broker", f"mqtts://{lab.broker.host}:8883", *self.user, *self.ca]
        self.enter = lab.broker.box.entering()

    def secret(self, name: str, text: str) -> Path:
        """A file that only its owner may read."""
        return _write(self.lab.directory / f"secret-of-{name}", text + "\n")

    def run(self, *arguments: str, options: Sequence[str] | None = None) -> tuple[int, str, str]:
        """`wgrouter fleet …` to its end: exit status, output, complaints."""
        words = [*arguments, *(self.options if options is None else options)]
        argv = [*self.enter, sys.executable, "-m", "wgrouter", "fleet", *words]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
        return done.returncode, done.stdout, done.stderr

    def rows(self) -> dict[str, Any]:
        """The table, by id."""
        status, out, err = self.run("watch", "--once", "--json")
        if status:
            raise LabError(err)
        return {row["id"]: row for row in json.loads(out)["routers"]}

    def until(self, condition: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """The first table of which it is true."""
        rows: dict[str, Any] = {}

        def so() -> bool:
            nonlocal rows
            rows = self.rows()
            return condition(rows)

        until(so, within=90, what=what)
        return rows

    def until_well(self, *names: str) -> None:
        """Return when these, and no others, are online with all their tunnels."""

        def well(rows: dict[str, Any]) -> bool:
            fine = [name for name, row in rows.items() if row["status"] == "online"]
            return sorted(fine) == sorted(names) and all(
                row["peers_alive"] == row["peers"] for row in rows.values()
            )

        self.until(well, "a fleet that is well")
