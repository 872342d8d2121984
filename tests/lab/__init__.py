"""A router, its providers, the internet and far sites, in network namespaces of this machine.

    ┌────────┐   ┌────────┐ eth1 ┌───────┐ 203.0.113.17 ┌──────┐
    │ client ├───┤ router ├──────┤ isp-a ├──────────────┤ core ├─┬─ dns     192.0.2.53 …  knotd, for lab.test;
    └────────┘   │        │      └───────┘              │      │ │           it is 1.1.1.1, 8.8.8.8 … too
    192.168.1.100│        │ eth2 ┌───────┐ 203.0.113.33 │      │ ├─ web     192.0.2.80    echo, HTTP; .1 .2 .3
           br-lan│        ├──────┤ isp-b ├──────────────┤      │ ├─ site1   198.51.100.1  WireGuard, 10.77.1.1
      192.168.1.1│        │      └───────┘              │      │ │           moves to 198.18.1.1, 198.18.2.1
              wg0│        │ eth3 …                      │      │ ├─ site2 …
        10.77.0.1└────────┘                             └──────┘ └─ broker  192.0.2.88    mosquitto, if wanted

An ISP gives the router 100.64.<k>.2 behind its NAT (another source port, strangers dropped), and
2001:db8:a<k>::2 without one. The router has default routes with metrics in main, a fw4-like firewall, wg0
with names resolved once and netifd's frozen host routes, and below `lab.router.root` the files of an OpenWrt
router. topology.py has all addresses, wiring.py all routes and rules.

    from tests.lab import build, dual, sites, until

    with build(dual(sites(2))) as lab:                 # single() dual() triple() fleet(), or a Topology
        agent = lab.router.start_agent("config …")     # python -m wgrouter run --root …, so configured
        with lab.flow("router", "site1") as flow:      # 100 packets a second, numbered
            lab.site("site1").move_to("198.18.1.1")    # the far end lives elsewhere now,
            lab.move("site1", "198.18.1.1")            # and its name follows
            until(flow.flowing, within=5, what="site1 is found again")
        print(flow.outage(), flow.lost, agent.status())

Verbs are methods of Lab; each returns when what it says is so; heal() undoes them all:
    paths     cut_carrier restore_carrier blackhole unblackhole lose delay captive silence unsilence
    NAT       rebind_nat heal_nat nat_lifetime
    sites     move_site drop_port open_port stop_site start_site
    names     move publish nxdomain lie servfail stop_dns start_dns slow_dns
Questions:    lab.query(name) lab.pings(source, to) lab.router.peer(site) lab.router.wg() lab.site(name).wg()
              lab.count(box, match).packets, e.g. lab.count("isp-b", "ip daddr 192.0.2.80")
Traffic:      lab.flow() lab.connects() lab.download(), each with .outage(since) .flowing() .answers .stop()
Broker:       single(broker=True), then lab.broker.subscribe() .publish() .stop() .freeze() .use_certificate()
Waiting:      until(condition, within=s, what=…) and stays(condition, during=s, what=…), and no other way;
              usual(s) is a limit for what was measured. On a slow machine limits are wider, traffic thinner.
When it fails: lab.report() is added to the exception, and to pytest's report.
By hand:      `python -m tests.lab` opens a prompt; `… clean` removes what a killed process left behind.
"""

from .agent import Agent
from .lab import Lab, build, now, standing
from .nameserver import Answer
from .netns import Box, LabError
from .nodes import Counter, LabRouter, LabSite
from .poll import NotInTime, stays, until, usual
from .topology import Isp, Router, Site, Topology, dual, fleet, single, sites, triple
from .traffic import Connects, Download, Flow

__all__ = [
    "Agent",
    "Answer",
    "Box",
    "Connects",
    "Counter",
    "Download",
    "Flow",
    "Isp",
    "Lab",
    "LabError",
    "LabRouter",
    "LabSite",
    "NotInTime",
    "Router",
    "Site",
    "Topology",
    "build",
    "dual",
    "fleet",
    "now",
    "single",
    "sites",
    "standing",
    "stays",
    "triple",
    "until",
    "usual",
]
