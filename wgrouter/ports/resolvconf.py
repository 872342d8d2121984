"""Which DNS servers the uplinks gave: OpenWrt's resolv.conf.auto, else resolv.conf. Reads two files,
decides nothing.
"""

from __future__ import annotations

import ipaddress
import os

from wgrouter.core.model import Nameserver

PLACES = ("tmp/resolv.conf.d/resolv.conf.auto", "tmp/resolv.conf.auto", "etc/resolv.conf")
LARGEST = 64 << 10  # bytes; a larger file is not a resolv.conf


def nameservers(root: str) -> tuple[Nameserver, ...]:
    """The servers of the first file that names any; `# Interface wan` comments tell whose they are."""
    for place in PLACES:
        try:
            with open(os.path.join(root, place), encoding="utf-8", errors="replace") as file:
                found = parse(file.read(LARGEST))
        except OSError:
            continue
        if found:
            return found
    return ()


def parse(text: str) -> tuple[Nameserver, ...]:
    """The servers of a resolv.conf; a line that is none is passed over, as resolvers do."""
    interface, found = "", []
    for line in text.splitlines():
        words = line.split()
        if words[:2] == ["#", "Interface"] and len(words) == 3:
            interface = words[2]
        elif len(words) >= 2 and words[0] == "nameserver":
            address, _, device = words[1].partition("%")
            try:
                found.append(Nameserver(str(ipaddress.ip_address(address)), 53, device, interface))
            except ValueError:
                continue
    return tuple(found)
