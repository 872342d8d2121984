"""What tells one router from another: from the addresses of its hardware, whatever it is called."""

from __future__ import annotations

import os
import socket
from pathlib import Path

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


def test_without_hardware_the_seed_is_that_of_this_boot(tmp_path: Path) -> None:
    """Kept over a restart of the agent, and another on another router of the same name."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert hardware.seed(str(tmp_path)) == hardware.seed(str(tmp_path / "none"))
    assert boot in hardware.seed(str(tmp_path)) and socket.gethostname() in hardware.seed(str(tmp_path))
