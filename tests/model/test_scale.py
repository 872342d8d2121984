"""Many peers: a step costs what it is about, not what there is."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.model.world import Wan, World
from tests.model.world_wireguard import Door, Site
from wgrouter.core import tunnels
from wgrouter.core.care import Care
from wgrouter.core.liveness import ALIVE, DEAD
from wgrouter.core.messages import SetEndpoint
from wgrouter.core.settings import HostPort, Peer, Settings, Tunnel

COUNT = 60


@pytest.fixture
def worked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each peer was worked on."""
    counts: Counter[str] = Counter()
    real = tunnels._Round._peer

    def counted(self: tunnels._Round, tunnel: Tunnel, peer: Peer, care: Care) -> Care:
        counts[peer.label] += 1
        return real(self, tunnel, peer, care)

    monkeypatch.setattr(tunnels._Round, "_peer", counted)
    return counts


def world(count: int = COUNT) -> World:
    sites, peers = [], []
    for n in range(count):
        host, inside = f"site{n}.example", f"172.16.0.{n}"
        sites.append(Site(f"key{n}", [Door(host, {4: f"203.0.113.{n}"}, 51820)], keepalive=25))
        place = (HostPort(host, 51820),)
        allowed = (f"{inside}/32",)
        peers.append(
            Peer("wg0", f"key{n}", f"site{n}", place, keepalive=25, allowed_ips=allowed, probe=inside)
        )
    return World(Settings(tunnels=(Tunnel("wg0", peers=tuple(peers)),)), [Wan("wan", 1)], sites)


def states(world: World) -> set[str]:
    return {care.pulse.state for care in world.engine.state.tunnels.peers.values()}


def test_at_rest_a_step_is_about_few(worked: Counter[str]) -> None:
    """Quadratic cost took a whole core at 250 peers: each step worked on all of them."""
    there = world()
    there.until(lambda: states(there) == {ALIVE}, within=60)
    worked.clear()
    began = there.steps
    there.run(60.0)
    looks = 60 / there.settings.look_interval
    # All of them at each look; between looks the one that a probe, a name or a moment is about.
    assert worked.total() <= (looks + 1) * COUNT + 2 * (there.steps - began)
    assert min(worked[f"site{n}"] for n in range(COUNT)) >= looks - 1
    assert states(there) == {ALIVE}


def test_a_name_that_moves_concerns_the_peers_that_have_it(worked: Counter[str]) -> None:
    there = world()
    there.until(lambda: states(there) == {ALIVE}, within=60)
    door = there.sites[7].doors[0]
    door.addresses[4] = "203.0.113.200"
    there.publish(door)
    there.answered.add("203.0.113.200")
    peer = there.tunnels.peers["wg0", "key7"]
    took = there.until(
        lambda: peer.endpoint is not None and peer.endpoint.address == "203.0.113.200", within=90
    )
    assert took <= there.ttl + 5
    there.run(15.0)
    assert states(there) == {ALIVE}


def test_remedies_of_a_crowd_take_turns() -> None:
    """Each takes the kernel a while: 250 in one step kept probes waiting, and WANs looked dead."""
    there = world()
    there.until(lambda: states(there) == {ALIVE}, within=60)
    for site in there.sites:
        site.up = False
    most: Counter[float] = Counter()
    there.before.append(
        lambda world, effect: most.update([world.now] if isinstance(effect, SetEndpoint) else [])
    )
    there.run(200.0)
    assert states(there) == {DEAD}
    assert max(most.values()) == 1
    assert all(care.attempts for care in there.engine.state.tunnels.peers.values()), "each had its turn"
