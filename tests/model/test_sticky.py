"""WireGuard's sticky source against our rules, packet by packet: a busy tunnel comes back with the failback.

A model of what drivers/net/wireguard/socket.c does (send4, send6, wg_socket_set_peer_endpoint_from_skb): a
packet leaves from the address that the peer's last packet came to, as long as routing lets it. What is under
way takes time, so packets come to the old WAN after the switch.
"""

from __future__ import annotations

import heapq
from dataclasses import replace

import pytest

from tests.model import fib
from tests.model.dualwan import INTERNET, Isp, Router
from wgrouter.core import plan, ranges, uplink

A, B = "eth1", "eth2"
PACE = 0.01  # a packet each 10 ms


class Tunnel:
    """One peer that answers every packet, to the address that its last one came from."""

    def __init__(self, router: Router, family: int, rtt: float) -> None:
        self.router, self.family, self.rtt = router, family, rtt
        self.source = self.device = ""  # of WireGuard's cache
        self.generation = 0
        self.peer_knows = ""  # the device whose address the peer sends to
        self.air: list[tuple[float, int, str, str]] = []
        self.lost: list[float] = []
        self.sent = 0
        self.by: list[tuple[float, str]] = []

    def isp(self, device: str) -> Isp:
        return next(isp for isp in self.router.isps if isp.name == device)

    def route(self, source: str) -> str:
        net = self.router.world().net
        assert net is not None
        mark = self.router.wireguard["wg0"].fwmark
        found = fib.lookup(net, INTERNET[self.family], mark=mark, source=source)
        return found.hops[0].device if found is not None and found.hops else ""

    def send(self) -> None:
        generation = uplink.generation(self.router.uplink, "wg0", self.family)
        if generation != self.generation:  # the endpoint was set again
            self.generation, self.source, self.device = generation, "", ""
        out = self.route(self.source)
        if self.family == 4 and self.source and out != self.device:  # send4 tries again without it
            self.source = self.device = ""
            out = self.route("")
        self.sent += 1
        if not out:
            self.lost.append(self.router.now)
            return
        self.source = self.source or self.isp(out).address(self.family)
        self.device = self.device or out
        self.by.append((self.router.now, out))
        wrong = self.source != self.isp(out).address(self.family)
        if wrong or self.isp(out).hole or not self.isp(out).carrier:  # a provider drops what is not from it
            self.lost.append(self.router.now)
            return
        heapq.heappush(self.air, (self.router.now + self.rtt / 2, self.sent, "peer", out))

    def run(self, seconds: float) -> None:
        end = self.router.now + seconds
        while self.router.now < end:
            self.router.run(PACE)
            while self.air and self.air[0][0] <= self.router.now:
                when, number, where, device = heapq.heappop(self.air)
                if where == "peer":
                    self.peer_knows = device
                    heapq.heappush(self.air, (when + self.rtt / 2, number, "us", self.peer_knows))
                elif not self.isp(device).hole and self.isp(device).carrier:
                    self.source, self.device = self.isp(device).address(self.family), device
            self.send()


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("rtt", [0.005, 0.04, 0.3])
def test_a_busy_tunnel_comes_back_and_loses_nothing(family: int, rtt: float) -> None:
    router = Router([Isp(A, (family,), 10), Isp(B, (family,), 20)])
    tunnel = Tunnel(router, family, rtt)
    tunnel.run(10.0)
    router.quietly(0.0, lambda: setattr(router.isps[0], "hole", True))
    tunnel.run(5.0)
    assert tunnel.by[-1][1] == tunnel.device == B
    router.quietly(0.0, lambda: setattr(router.isps[0], "hole", False))
    healed = router.now
    tunnel.run(12.0)
    assert router.chosen(family) == A
    assert tunnel.by[-1][1] == tunnel.device == tunnel.peer_knows == A, (
        "the last packets on the way to B hold it"
    )
    lost = [when for when in tunnel.lost if when >= healed]
    if family == 4:
        assert lost == []
    else:  # the kernel's send6 keeps the old source until the first answer by the new way
        assert len(lost) <= rtt / PACE + 1


def test_what_closes_the_old_way_goes_again_and_survives_a_kill() -> None:
    router = Router([Isp(A, (4, 6), 10), Isp(B, (4, 6), 20)])
    routing = router.settings.routing

    def closed() -> list[str]:
        net = router.world().net
        assert net is not None
        first = routing.rule_base + ranges.PREF_LEAVING
        return [rule.src for rule in plan.our_rules(net, routing) if rule.preference == first]

    router.run(10.0)
    assert closed() == []
    router.at(0.0, lambda: setattr(router.isps[0], "carrier", False))
    router.run(0.1)
    left = [router.isps[0].address(family) for family in (4, 6)]
    assert sorted(closed()) == [f"{left[0]}/32", f"{left[1]}/128"]
    router.start()  # after kill -9: nothing is remembered, and what was begun is seen through
    router.run(0.5)
    assert len(closed()) == 2 and uplink.generation(router.uplink, "wg0", 4) >= 1
    router.run(uplink.RESETS * uplink.RESET + 0.5)
    assert closed() == []


def test_a_device_that_only_others_call_is_not_kept_from_answering() -> None:
    router = Router([Isp(A, (4,), 10), Isp(B, (4,), 20)])
    tunnel = router.settings.tunnels[0]
    peers = tuple(replace(peer, endpoints=()) for peer in tunnel.peers)
    router.settings = replace(router.settings, tunnels=(replace(tunnel, peers=peers),))
    router.start()
    router.run(10.0)
    router.command(wan=B)
    router.run(0.5)
    mark = router.wireguard["wg0"].fwmark
    assert router.exit(mark=mark) == B and router.exit(mark=mark, source=router.isps[0].address(4)) == A
