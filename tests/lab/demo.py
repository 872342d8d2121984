"""`make demo`: the real agent in the lab, a peer's name that moves, and a timeline that a person can follow.

SCENARIO ddns (the default) moves the peer and its name; failover takes the first of two uplinks away; fleet
shows what the operator of three routers sees.
What the plain rule "no handshake for 135 s:
resolve again" (the cron job that OpenWrt ships) would have cost is computed beside it, not run: it
would take four minutes.
"""

from __future__ import annotations

import sys
from typing import Any

from tests.lab import NotInTime, build, dual, now, single, sites, until

TTL = 5  # seconds, of the peer's name
RULE = 135.0  # seconds of handshake age after which reresolve-dns.sh resolves again
CRON = 60.0  # seconds between its runs
WITHIN = 40.0  # seconds that the demo waits for the tunnel
HOLD = 15.0  # seconds that an uplink is watched after it was healed


def ddns() -> int:
    """The peer's address and name move; how long is the tunnel down? 0 if it came back, 1 if not."""
    print(
        "Building the lab: a router, an ISP with NAT, a DNS server, a far site with WireGuard …", flush=True
    )
    with build(single(sites(1), ttl=TTL), wait=True) as lab:
        agent = lab.router.start_agent("")
        until(
            lambda: agent.status()["tunnels"][0]["peers"][0]["state"] == "alive",
            within=20,
            what="a live tunnel",
        )
        site = lab.site("site1")
        with lab.flow("router", "site1") as flow:
            until(lambda: flow.flowing(), within=10, what="traffic in the tunnel")
            begin = now()
            old, new = site.plan.home_a[0], site.plan.home_b[0]
            _tell(begin, f"the far site moves from {old} to {new}; its name has a TTL of {TTL} s")
            lab.move_site("site1", *site.plan.home_b)
            lab.move("site1.lab.test", *site.plan.home_b)
            _tell(begin, "its DDNS name moved too: WireGuard itself will never ask again")
            until(lambda: not flow.flowing(), within=5, what="the tunnel to break")
            _tell(begin, "the tunnel is dead: nothing comes back")
            try:
                until(lambda: flow.flowing(), within=WITHIN, what="traffic in the tunnel again")
            except NotInTime:
                print(agent.output())
                print("The tunnel did not come back.")
                return 1
            outage = flow.outage(since=begin)
            _tell(begin, "traffic flows again")
        print("\nWhat the agent saw, did and proved:")
        for line in agent.output().splitlines():
            if "site1" in line:
                print("  " + line.removeprefix("wgrouter: "))
        agent.stop()
    worst = RULE + CRON
    print(f"\nOutage with wgrouter                        {outage * 1000:8.0f} ms")
    computed = f"{RULE * 1000:.0f} to {worst * 1000:.0f} ms (computed)"
    print(f"By the rule 'after 135 s, each minute'        {computed}")
    return 0


def failover() -> int:
    """The first of two uplinks loses its carrier, comes back, goes silently dead. 0 if traffic followed."""
    print("Building the lab: a router with two ISPs, a LAN client, a far site with WireGuard …", flush=True)
    with build(dual(sites(1), ttl=TTL), wait=True) as lab:
        agent = lab.router.start_agent("")
        until(lambda: all(wan["state"] == "up" for wan in agent.status()["wans"]), within=20, what="uplinks")
        outages = []
        for what, fault in (
            ("the carrier of the first uplink is cut", lab.cut_carrier),
            ("beyond the first uplink's gateway all is dropped, silently", lab.blackhole),
        ):
            with lab.flow("router", "site1") as flow, lab.connects("client", "web") as lan:
                until(flow.flowing, within=10, what="traffic in the tunnel")
                begin = now()
                fault("a")
                _tell(begin, what)
                until(
                    lambda: _carrier(agent.status()) == "eth2",
                    within=10,
                    what="the switch to the second uplink",
                )
                try:
                    until(flow.flowing, within=10, what="traffic in the tunnel again")
                except NotInTime:
                    print(agent.output())
                    return 1
                gaps = flow.outage(since=begin), lan.outage(since=begin)
                _tell(begin, "traffic flows over the second")
                outages.append((what, *gaps))
                healed = now()
                lab.heal()
                until(
                    lambda: _carrier(agent.status()) == "eth1",
                    within=HOLD,
                    what="failback to the first uplink",
                )
                _tell(begin, "healed, held, and back on the first")
                outages.append(("failback", flow.outage(since=healed), lan.outage(since=healed)))
        agent.stop()
    print("\nOutage                                                          tunnel    new LAN connections")
    for what, tunnel, connections in outages:
        print(f"{what:60} {tunnel * 1000:6.0f} ms {connections * 1000:15.0f} ms")
    return 0


def _carrier(status: dict[str, Any]) -> str:
    """The device that carries IPv4."""
    return str(next((wan["device"] for wan in status["wans"] if wan["active"] and wan["family"] == 4), ""))


def fleet() -> int:
    """Three routers in trouble, each in its own way, on their operator's screen."""
    from tests.lab import demo_fleet

    return demo_fleet.run()


SCENARIOS = {"ddns": ddns, "failover": failover, "fleet": fleet}


def _tell(begin: float, text: str) -> None:
    print(f"{now() - begin:7.3f} s  {text}", flush=True)


def main(arguments: list[str]) -> int:
    scenario = arguments[0] if arguments else "ddns"
    if scenario not in SCENARIOS:
        print(f"{scenario!r} is no scenario; there is: {', '.join(SCENARIOS)}", file=sys.stderr)
        return 2
    return SCENARIOS[scenario]()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
