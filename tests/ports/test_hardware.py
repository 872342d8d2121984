"""What tells one router from another: from the addresses of its hardware, whatever it is called."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from wgrouter.ports import hardware


def network_card(place: Path, name: str, address: str, device: bool = True) -> None:
    (place / name).mkdir()
    (place / name / "address").write_text(address + "\n")
    if device:
        (place / name / "device").mkdir()


def test_the_lowest_address_of_the_hardware_whatever_it_is_called(tmp_path: Path) -> None:
    network_card(tmp_path, "lan1", "00:11:22:33:44:66")
    network_card(tmp_path, "eth0", "00:11:22:33:44:55")
    assert hardware.mac(str(tmp_path)) == hardware.seed(str(tmp_path)) == "001122334455"
    os.rename(tmp_path / "eth0", tmp_path / "wan")
    assert hardware.mac(str(tmp_path)) == "001122334455"


@pytest.mark.parametrize(
    ("address", "device"),
    [
        ("02:11:22:33:44:55", True),  # made up: locally administered
        ("01:00:5e:00:00:01", True),  # of a group
        ("00:00:00:00:00:00", True),
        ("", True),
        ("80:00:02:08:fe:80:00:00:00:00:00:00:00:02:c9:03:00:31:78:f2", True),  # InfiniBand
        ("00:11:22:33:44:55", False),  # a bridge's or a tunnel's: it goes with its configuration
    ],
)
def test_what_a_flash_could_change_is_not_taken(tmp_path: Path, address: str, device: bool) -> None:
    network_card(tmp_path, "eth0", address, device)
    assert hardware.mac(str(tmp_path)) == ""
    network_card(tmp_path, "eth1", "fc:11:22:33:44:55")
    assert hardware.mac(str(tmp_path)) == "fc1122334455"


def laid_out(
    place: Path, name: str, address: str, *, origin: int = 0, bus: str = "", radio: bool = False
) -> None:
    """As in sysfs: `device` leads to where the card sits."""
    network_card(place, name, address, device=False)
    where = place / f"devices/soc/{bus or 'gmac'}/{name}"
    where.mkdir(parents=True)
    (place / name / "device").symlink_to(where)
    (place / name / "addr_assign_type").write_text(f"{origin}\n")
    if radio:
        (place / name / "phy80211").mkdir()


LOW, HIGH = "00:11:22:33:44:55", "fc:11:22:33:44:55"


@pytest.mark.parametrize(
    "other",
    [
        {"origin": 1},  # drawn by the kernel
        {"origin": 2},  # copied from another card
        {"origin": 3},  # set: the provider wants that of the computer which was there before
        {"bus": "usb1/1-1"},  # plugged in some day, and pulled some day
        {"radio": True},  # not there yet when the agent starts
    ],
    ids=["drawn", "copied", "set", "usb", "radio"],
)
def test_what_is_built_in_and_has_its_own_address_comes_first(tmp_path: Path, other: dict[str, Any]) -> None:
    laid_out(tmp_path, "lan1", HIGH)
    assert hardware.mac(str(tmp_path)) == HIGH.replace(":", "")
    laid_out(tmp_path, "eth9", LOW, **other)
    assert hardware.mac(str(tmp_path)) == HIGH.replace(":", "")


@pytest.mark.parametrize(
    ("one", "found"),
    [({"origin": 3}, True), ({"bus": "usb1/1-1"}, True), ({"radio": True}, True),
     ({"origin": 1}, False), ({"origin": 2}, False)],
)  # fmt: skip
def test_what_there_is_must_do_where_it_lasts(tmp_path: Path, one: dict[str, Any], found: bool) -> None:
    """A Raspberry Pi's only Ethernet sits on USB; a travel router may have nothing but a radio."""
    laid_out(tmp_path, "eth0", LOW, **one)
    assert hardware.mac(str(tmp_path)) == (LOW.replace(":", "") if found else "")


def test_without_hardware_the_seed_is_that_of_this_boot(tmp_path: Path) -> None:
    """Kept over a restart of the agent, and another on another router of the same name."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert hardware.seed(str(tmp_path)) == hardware.seed(str(tmp_path / "none"))
    assert boot in hardware.seed(str(tmp_path)) and socket.gethostname() in hardware.seed(str(tmp_path))
