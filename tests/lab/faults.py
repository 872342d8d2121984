"""The faults of the paths, as values and as the nft rules that they amount to.

Each box that can break has one such value; a verb replaces it, and the whole table `inet lab` of that box is
replaced with it, in one transaction. What is drawn here comes on top of the healthy boxes of wiring.py, and
never touches their tables.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

Direction = Literal["down", "up", "both"]


@dataclass(frozen=True)
class IspFaults:
    """What is wrong with an ISP."""

    # Of these IP versions nothing passes; "gateway" says whether at least the ISP's end of the line answers.
    dead_versions: frozenset[int] = frozenset()
    gateway: bool = True
    # A captive portal: port 80 leads to the ISP's own page, and only DNS passes.
    captive: bool = False
    loss_percent: float = 0.0
    loss_direction: Direction = "down"
    # UDP source ports of the subscriber whose mapping the NAT has lost, and does not make again.
    stale_ports: frozenset[int] = frozenset()


def isp_rules(faults: IspFaults) -> str:
    """The ruleset of an ISP with these faults."""
    drops = [f"meta nfproto ipv{version} drop" for version in sorted(faults.dead_versions)]
    if faults.captive:
        drops += [
            "meta l4proto { tcp, udp } th dport 53 accept",
            "meta l4proto { tcp, udp } th sport 53 accept",
            "drop",
        ]
    if faults.stale_ports:
        ports = ", ".join(str(port) for port in sorted(faults.stale_ports))
        drops.append(f'iifname "sub" udp sport {{ {ports} }} drop')
    if faults.loss_percent:
        loss = f"numgen random mod 10000 < {round(faults.loss_percent * 100)} drop"
        if faults.loss_direction != "up":
            drops.append(f'iifname "net" {loss}')
        if faults.loss_direction != "down":
            drops.append(f'iifname "sub" {loss}')
    portal = 'iifname "sub" tcp dport 80 redirect' if faults.captive else ""
    deaf = "" if faults.gateway else 'iifname "sub" drop'
    # ARP and neighbour discovery too: a gateway that is gone does not resolve.
    mute = "" if faults.gateway else "type filter hook ingress device sub priority 0; policy drop;"
    return f"""
        table inet lab
        delete table inet lab
        table netdev lab
        delete table netdev lab
        table inet lab {{
            chain forward {{ type filter hook forward priority filter; {_lines(drops)}
            }}
            chain input {{ type filter hook input priority filter; {deaf}
            }}
            chain portal {{ type nat hook prerouting priority dstnat; {portal}
            }}
        }}
        table netdev lab {{
            chain mute {{ {mute}
            }}
        }}"""


def site_rules(dead_ports: Collection[int]) -> str:
    """The ruleset of a site where nobody answers on these UDP ports."""
    ports = ", ".join(str(port) for port in sorted(dead_ports))
    # Before the ports that a site redirects are redirected.
    drop = f'iifname "net" udp dport {{ {ports} }} drop' if ports else ""
    return f"""
        table inet lab
        delete table inet lab
        table inet lab {{
            chain dead {{ type filter hook prerouting priority raw; {drop}
            }}
        }}"""


def core_rules(dead_addresses: Collection[str]) -> str:
    """The ruleset of the internet's core when these addresses do not answer."""
    drops = [f"ip{'6' if ':' in address else ''} daddr {address} drop" for address in sorted(dead_addresses)]
    return f"""
        table inet lab
        delete table inet lab
        table inet lab {{
            chain dead {{ type filter hook forward priority filter; {_lines(drops)}
            }}
        }}"""


def _lines(rules: Collection[str]) -> str:
    return "".join(f"\n                {rule}" for rule in rules)
