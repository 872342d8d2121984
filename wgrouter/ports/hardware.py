"""What tells this router from all others."""

from __future__ import annotations

import os
import re

PLACE = "/sys/class/net"
MAC = re.compile("[0-9a-f]{12}")
DRAWN, COPIED, SET = "123"  # an address, by addr_assign_type


def line(path: str) -> str:
    """The first line of a small file, "" where there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return ""


def mac(place: str = PLACE) -> str:
    """A MAC address that the hardware came with, in twelve digits; "" where there is none.

    A flash does not change it. Of the first byte, bit 1 marks addresses that somebody made up, bit 0 those of
    groups (IEEE 802-2014, 8.4); the kernel says which ones it drew or copied, and which ones were set
    (NET_ADDR_* in linux/netdevice.h): a WAN may have a computer's. What is plugged in or comes up late, USB
    and radios, counts only where there is nothing else. Of those that are left, the lowest.
    """
    found = []
    try:
        names = os.listdir(place)
    except OSError:
        names = []
    for name in names:
        card = os.path.join(place, name)
        device, origin = os.path.join(card, "device"), line(os.path.join(card, "addr_assign_type"))
        address = line(os.path.join(card, "address")).replace(":", "")
        made = not MAC.fullmatch(address) or not int(address, 16) or int(address[:2], 16) & 3
        if os.path.exists(device) and not made and origin not in (DRAWN, COPIED):
            late = "/usb" in os.path.realpath(device) or os.path.exists(os.path.join(card, "phy80211"))
            found.append((late, origin == SET, address))
    return min(found, default=(False, False, ""))[2]


def seed(place: str = PLACE) -> str:
    """Of jitter: differs between routers, and not between starts of the agent.

    Host names do not: a whole fleet may be called OpenWrt.
    """
    return mac(place) or f"{os.uname().nodename} {line('/proc/sys/kernel/random/boot_id')}"
