"""WireGuard's sticky source as a scenario, for wireguard-go in the lab and for the kernel's in the VM.

WireGuard remembers from which address it last spoke to a peer and keeps to it as long as a route has it
(drivers/net/wireguard/socket.c, send4). Where a rule sends what comes from a WAN's address by that WAN, as
most hand-made set-ups with two WANs do, that address holds the tunnel on a dead WAN, and on the spare one
after the better one is back. Setting the endpoint, even to what it is, forgets it.
"""

import contextlib
from collections.abc import Iterator

from .lab import Lab, now
from .nodes import Counter
from .poll import stays, until
from .traffic import Flow

# Before anything of the agent, and before main.
FOREIGN_PREFERENCE = 1000
FOREIGN_TABLE = 200
# Data sent and nothing received for so long: a new handshake, from whatever address suits, by itself.
HEALS_ITSELF_SECONDS = 15.0


@contextlib.contextmanager
def foreign_rules(lab: Lab) -> Iterator[None]:
    """What comes from a WAN's address leaves by that WAN, whoever says otherwise."""
    lines = []
    for isp in lab.router.uplinks:
        table = FOREIGN_TABLE + isp.number
        lines += [
            f"route replace default {isp.via(4)} table {table}",
            f"rule add pref {FOREIGN_PREFERENCE + isp.number} from {isp.router4} lookup {table}",
        ]
    lab.router.box.ip(*lines)
    try:
        yield
    finally:
        lab.router.box.ip(*(line.replace(" add ", " del ").replace(" replace ", " del ") for line in lines))


def outer(lab: Lab, isp: str) -> Counter:
    """Counts the tunnels' own packets that the router sends by an ISP."""
    return lab.count(f"isp-{isp}", 'iifname "sub" udp dport 51820')


def flows_again(flow: Flow) -> None:
    """Return when an answer has come that was not there yet."""
    moved = now()
    until(lambda: flow.last > moved, within=20, what="traffic again")


def set_endpoint_again(lab: Lab, site: str = "site1") -> None:
    """To what it is."""
    endpoint = lab.router.peer(site).endpoint
    assert endpoint
    lab.router.run("wg", "set", "wg0", "peer", lab.router.public_key(site), "endpoint", endpoint)


def stuck_without_agent(lab: Lab, flow: Flow) -> None:
    """A better route alone does not move the tunnel; the endpoint set again does. That is what the agent
    is up against: with wireguard-go and with the kernel's WireGuard alike.
    """
    # More specific than any default route, and better than netifd's frozen host route to the endpoint.
    better = f"{lab.site().addresses[0]}/32 {lab.isp('b').via(4)} metric 1"
    by_b = outer(lab, "b")
    lab.blackhole("a")
    lab.router.box.ip(f"route add {better}")
    until(lambda: not flow.flowing(0.5), within=10, what="the break")
    stays(lambda: not flow.flowing(0.5), during=3, what="the tunnel hangs on the dead WAN")
    assert by_b.packets == 0
    set_endpoint_again(lab)
    until(flow.flowing, within=10, what="traffic by the other WAN")
    assert by_b.packets
    lab.unblackhole("a")
    lab.router.box.ip(f"route del {better}")
    before = outer(lab, "a")
    stays(lambda: not before.packets, during=1, what="the tunnel hangs on the spare WAN")

    def again() -> int:
        # More than once: an answer that is under way by the spare WAN makes WireGuard remember that again.
        set_endpoint_again(lab)
        return before.packets

    until(again, within=30, what="traffic by the better WAN")


def moved_by_agent(lab: Lab, flow: Flow) -> tuple[float, float]:
    """The agent, which runs, takes the tunnel off a silently dead WAN and back again: the longest silence of
    each, in seconds.
    """
    by_b = outer(lab, "b")
    begin = now()
    lab.blackhole("a")
    until(lambda: by_b.packets, within=20, what="the tunnel by the other WAN")
    flows_again(flow)
    away = flow.outage(since=begin)
    assert away < HEALS_ITSELF_SECONDS
    by_a = outer(lab, "a")
    lab.unblackhole("a")
    healed = now()
    until(lambda: by_a.packets > 2, within=90, what="the tunnel is back on the better WAN")
    flows_again(flow)
    return away, flow.outage(since=healed)
