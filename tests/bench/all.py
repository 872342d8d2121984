"""Which modules take figures, in the order in which they are taken."""

from __future__ import annotations

import importlib

MODULES = ("core", "kernel", "openwrt", "start", "rest", "ddns", "names", "failover", "reporting", "peers")


def everything() -> None:
    """Fill the register."""
    for module in MODULES:
        importlib.import_module(f"tests.bench.{module}")
