"""What tells this router from all others."""

from __future__ import annotations

import os
import re

PLACE = "/sys/class/net"
MAC = re.compile("[0-9a-f]{12}")


def line(path: str) -> str:
    """The first line of a small file, "" where there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return ""


def mac(place: str = PLACE) -> str:
    """The lowest MAC address that the hardware came with, in twelve digits; "" where there is none.

    A flash does not change it. Of the first byte, bit 1 marks addresses that somebody made up, bit 0 those of
    groups (IEEE 802-2014, 8.4).
    """
    found = []
    try:
        names = os.listdir(place)
    except OSError:
        names = []
    for name in names:
        address = line(os.path.join(place, name, "address")).replace(":", "")
        made = not MAC.fullmatch(address) or not int(address, 16) or int(address[:2], 16) & 3
        if os.path.exists(os.path.join(place, name, "device")) and not made:
            found.append(address)
    return min(found, default="")


def seed(place: str = PLACE) -> str:
    """Of jitter: differs between routers, and not between starts of the agent.

    Host names do not: a whole fleet may be called OpenWrt.
    """
    return mac(place) or f"{os.uname().nodename} {line('/proc/sys/kernel/random/boot_id')}"
