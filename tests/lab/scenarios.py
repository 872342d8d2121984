"""What the tests of the agent share: settings for a hurry, what its answers say, what others see.

Whether a tunnel works is said by traffic and by `wg`, never by the agent.
"""

import json
from typing import Any

from . import now, until, usual
from .agent import Agent
from .lab import Lab
from .nodes import LabRouter

TTL = 2
# As short as the schema lets it be, so that a round of the ladder is over before a reader is bored.
QUICK = """
config dns 'dns'
	option ttl_min '1s'
	option retry '1s'
	option retry_max '4s'
config tunnel 'wg0'
	option backoff '1s'
	option backoff_max '2s'
	option return_after '10s'
"""
# An alternative endpoint of site1; the tunnel's options go on where QUICK ends.
ALTERNATIVE = """
config peer
	option description 'site1'
	option probe_interval '1s'
	list endpoint 'site1.lab.test:51821'
"""
NO_NEW_PORT = "\toption new_port 'no'\n"


def peers(agent: Agent) -> dict[str, dict[str, Any]]:
    """What `wgrouter status` says of each peer, by label."""
    return {peer["peer"]: peer for tunnel in agent.status()["tunnels"] for peer in tunnel["peers"]}


def names(agent: Agent) -> dict[str, dict[str, Any]]:
    """What it says of each name, without the zone."""
    return {name["name"].removesuffix(".lab.test"): name for name in agent.status()["names"]}


def explained(agent: Agent, subject: str) -> dict[str, Any]:
    """`wgrouter explain` of one peer."""
    (found,) = json.loads(agent.cli("explain", subject, "--json"))
    assert isinstance(found, dict)
    return found


def outstanding(agent: Agent) -> list[str]:
    """What `wgrouter plan` would do now."""
    effects = json.loads(agent.cli("plan", "--json"))["effects"]
    assert isinstance(effects, list)
    return effects


def quick(*sites: str, tunnel: str = "", more: str = "") -> str:
    """QUICK, and these peers probed so often that their silence is understood in four seconds."""
    peers = "".join(
        f"config peer\n\toption description '{site}'\n\toption probe_interval '1s'\n" for site in sites
    )
    return QUICK + tunnel + peers + more


def live(lab: Lab, config: str = "", *, arguments: tuple[str, ...] = ()) -> Agent:
    """The agent, once it has seen all sites alive and every name resolved."""
    agent = lab.router.start_agent(config or quick(*lab.sites), arguments=arguments)
    settle(agent, tuple(lab.sites))
    return agent


def settle(agent: Agent, wanted: tuple[str, ...], within: float = 20) -> None:
    """Wait until these peers are alive, their names resolved, and nothing is left to do."""

    def calm() -> bool:
        seen = peers(agent)
        return all(seen[label]["state"] == "alive" and seen[label]["addresses"] for label in wanted)

    until(calm, within=within, what=f"live tunnels to {', '.join(wanted)}")
    until(lambda: outstanding(agent) == [], within=5, what="a converged system")


def endpoint(lab: Lab, site: str) -> str | None:
    """Where the router's WireGuard sends to."""
    return lab.router.peer(site).endpoint


def at(address: str, port: int = 51820) -> str:
    """An endpoint as `wg` writes it."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


class Undisturbed:
    """What must not change while others are cared for: the interface, and the sessions of these peers."""

    def __init__(self, lab: Lab, *sites: str) -> None:
        self._lab, self._sites = lab, sites
        self._before = {site: lab.router.peer(site) for site in sites}
        self._interface = _interface(lab.router)
        self._flows = {site: lab.flow("router", site, hertz=20) for site in sites}
        until(lambda: all(flow.flowing() for flow in self._flows.values()), within=5, what="traffic")
        self._begin = now()

    def check(self) -> None:
        """AssertionError where something was disturbed."""
        assert _interface(self._lab.router) == self._interface
        for site, before in self._before.items():
            peer = self._lab.router.peer(site)
            assert peer.endpoint == before.endpoint
            assert peer.handshake >= before.handshake
            assert peer.received > before.received
            assert peer.allowed_ips == before.allowed_ips
            assert peer.preshared_key == before.preshared_key
            assert peer.keepalive == before.keepalive
            flow = self._flows[site].stop()
            # A machine of two cores may stand still for a while; a session made anew costs more.
            assert flow.outage(since=self._begin) < usual(1.0) + flow.stall


def _interface(router: LabRouter) -> tuple[str, int, int]:
    """Changes when the interface is made anew, or its socket: index, private key's fingerprint, port."""
    seen = router.wg()
    index = router.run("cat", "/sys/class/net/wg0/ifindex").strip()
    return index, hash(seen.private_key), seen.listen_port
