"""What the tests of several WANs share: settings for a hurry, who carries what, what is the agent's.

Where traffic goes is said by the ISPs, the kernel and the traffic itself; the agent is asked what it thinks.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

from . import NotInTime, now, stays, until, usual
from .agent import Agent
from .lab import Lab
from .nodes import LabRouter
from .traffic import Flow

# The decisions are those of the defaults; only the time that a healed WAN must wait is shorter.
QUICK = "config hold 'hold'\n\toption up_after '1s'\n\toption up_max '4s'\n"
# A window full of samples in seconds, where loss is to be judged.
DENSE = QUICK + "config probing 'probing'\n\toption interval '100ms'\n\toption window '10s'\n"
BALANCE = QUICK + "config routing 'routing'\n\toption balance '1'\n"


def equals(weights: dict[str, int]) -> str:
    """WANs of one priority with these weights."""
    return "".join(
        f"config wan '{name}'\n\toption interface '{name}'\n\toption weight '{weight}'\n"
        for name, weight in weights.items()
    )


def wans(agent: Agent) -> dict[tuple[str, int], dict[str, Any]]:
    """What `wgrouter status` says of each WAN, by device and family."""
    return {(wan["device"], wan["family"]): wan for wan in agent.status()["wans"]}


def active(agent: Agent, family: int = 4) -> str:
    """The device that carries what has no WAN of its own, as the agent says."""
    return next((device for (device, v), wan in wans(agent).items() if wan["active"] and v == family), "")


def carrying(lab: Lab, family: int = 4) -> str:
    """The same, as the kernel's routing says: of a packet of the router itself."""
    found = lab.router.run("ip", f"-{family}", "route", "get", lab.address("web", family), check=False)
    match = re.search(r" dev (\S+)", found)
    return match.group(1) if match else ""


def seen_at(lab: Lab, site: str = "site1") -> str:
    """The device by whose ISP a site last heard from the router."""
    (peer,) = lab.site(site).wg().peers.values()
    for isp in lab.topology.isps:
        if (peer.endpoint or "").startswith((f"{isp.public4}:", f"{isp.router4}:", f"[{isp.router6}]:")):
            return isp.device
    return ""


def ready(lab: Lab, config: str = QUICK, *, expected: int = 0) -> Agent:
    """The agent, once every WAN is up over every family and nothing is left to do."""
    if lab.router.agent is not None and lab.router.agent.running:
        lab.router.agent.stop()
    lab.router.start_agent(config)
    return healthy(lab, expected)


def agent_of(lab: Lab) -> Agent:
    """The router's agent, which runs."""
    assert lab.router.agent is not None
    return lab.router.agent


def healthy(lab: Lab, expected: int = 0, within: float = 20) -> Agent:
    """Wait until so many paths (0: all) are up, the best carries, and nothing is left to do."""
    agent, count = agent_of(lab), expected or 2 * len(lab.topology.isps)
    best = lab.router.uplinks[0].device
    until(
        lambda: (
            [wan["state"] for wan in agent.status()["wans"]] == ["up"] * count
            and active(agent, 4) == active(agent, 6) == best
        ),
        within=within,
        what=f"{count} paths that are up",
    )
    calm(lab)
    return agent


def calm(lab: Lab, within: float = 8) -> None:
    """Wait until nothing is left to do, and no old way is closed any more."""
    until(
        lambda: (
            json.loads(agent_of(lab).cli("plan", "--json"))["effects"] == []
            and not any(line.startswith("6000:") for line in ours(lab.router))
        ),
        within=within,
        what="a converged system",
    )


def explained(agent: Agent, subject: str) -> list[dict[str, Any]]:
    """`wgrouter explain` of a WAN."""
    found = json.loads(agent.cli("explain", subject, "--json"))
    assert isinstance(found, list)
    return found


def ours(router: LabRouter) -> list[str]:
    """All of the agent's that is in the kernel, in an order that can be compared."""
    lines = [line for family in ("-4", "-6") for line in router.run("ip", family, "rule").splitlines()]
    rules = [line for line in lines if 6000 <= int(line.partition(":")[0]) < 6200]
    shown = [router.run("ip", family, "route", "show", "table", "all") for family in ("-4", "-6")]
    routes = [
        line
        for text in shown
        for line in text.splitlines()
        if "proto 157" in line or "proto wgrouter" in line
    ]
    tables = [line for line in router.run("nft", "list", "tables").splitlines() if "wgrouter" in line]
    marks = [f"{device} {router.run('wg', 'show', device, 'fwmark').strip()}" for device in router.tunnels]
    return sorted(" ".join(line.split()) for line in rules + routes + tables) + [
        m for m in marks if "off" not in m
    ]


@contextlib.contextmanager
def healed(lab: Lab) -> Iterator[Agent]:
    """A test in a lab that others use too: afterwards all is as it was before."""
    try:
        yield agent_of(lab)
    finally:
        lab.heal()
    healthy(lab, within=40)


def steady(agent: Agent, *flows: Flow) -> float:
    """A moment after which nothing is lost to the healing itself: all WANs answer again, and none of the
    flows has stopped for half a second of a usual machine. Replacing an ISP's rules can cost a packet.
    """
    until(
        lambda: all(wan["state"] in ("held", "up") for wan in agent.status()["wans"]),
        within=15,
        what="answers by all WANs",
    )
    stays(lambda: all(flow.flowing(0.5) for flow in flows), during=usual(0.5), what="steady flows")
    return now()


def lost_since(moment: float, *flows: Flow) -> list[int]:
    """How many of the packets sent since then are lost. What is not answered may only be late, on a busy
    machine: it is waited for, two seconds at most.
    """
    with contextlib.suppress(NotInTime):
        until(lambda: not any(flow.lost_since(moment) for flow in flows), within=2)
    return [flow.lost_since(moment) for flow in flows]


def switches(agent: Agent) -> int:
    """How often IPv4 went by another WAN, by its own account."""
    return len(re.findall(r"IPv4 moved", agent.output()))
