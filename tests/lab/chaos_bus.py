"""The router's ubusd and netifd for chaos: the stand-ins of tests/ports, which can be killed and can hang."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .lab import Lab
from .netns import REPOSITORY, end
from .poll import PATIENCE_SECONDS, until

STANDIN = REPOSITORY / "tests/ports/ubus_standin.py"
DIRECTORY = "/var/run/ubus"


class Ubus:
    """ubusd, and a netifd that tells what the lab says is so. Both end with the router's box."""

    def __init__(self, lab: Lab) -> None:
        self._lab, self._box = lab, lab.router.box
        # Of the machine, as /var/run/wireguard is; in each box another file system lies above it.
        os.makedirs(DIRECTORY, mode=0o755, exist_ok=True)
        self._box.run("mount", "-t", "tmpfs", "tmpfs", DIRECTORY)
        root = Path(f"/proc/{self._box.pid}/root")
        self._socket = root / Path(DIRECTORY).resolve().relative_to("/") / "ubus.sock"
        self._daemon: subprocess.Popen[bytes] | None = None
        self._netifd: subprocess.Popen[bytes] | None = None
        self._box.at_end.append(self._hang_up)
        self.start()

    def start(self) -> None:
        """ubusd serves when this returns, and netifd is about to."""
        with contextlib.suppress(FileNotFoundError):
            self._socket.unlink()
        place = f"{DIRECTORY}/ubus.sock"
        log = self._lab.directory / "log" / "ubus.log"
        self._daemon = self._box.start(sys.executable, str(STANDIN), "daemon", place, log=log)
        until(self._socket.exists, within=PATIENCE_SECONDS, what="ubusd")
        self._netifd = self._box.start(
            *(sys.executable, str(STANDIN), "peer", "standin", place), log=log, stdin=subprocess.PIPE
        )
        self._tell({"serve": self._objects()})

    def kill(self) -> None:
        """ubusd dies, and netifd with it: it ends when its bus does."""
        self._hang_up()
        for child in (self._netifd, self._daemon):
            if child is not None:
                child.kill()
                end(child)

    def _hang_up(self) -> None:
        if self._netifd is not None and self._netifd.stdin is not None:
            with contextlib.suppress(OSError):  # what is still to be written has nobody to read it
                self._netifd.stdin.close()

    def hang(self, hangs: bool) -> None:
        if self._daemon is not None:
            self._daemon.send_signal(signal.SIGSTOP if hangs else signal.SIGCONT)

    def say(self, action: str, interface: str) -> None:
        """What netifd tells everybody."""
        self._tell({"send": ["network.interface", {"action": action, "interface": interface}]})

    def _tell(self, command: Mapping[str, Any]) -> None:
        assert self._netifd is not None and self._netifd.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it is dead, or hung up: nobody hears
            self._netifd.stdin.write(json.dumps(command).encode() + b"\n")
            self._netifd.stdin.flush()

    def _objects(self) -> dict[str, Any]:
        rows = [
            {
                "interface": isp.interface,
                "up": True,
                "proto": isp.proto,
                "l3_device": isp.device,
                "metric": isp.metric,
                "dns-server": list(isp.resolvers),
                "route": [{"target": "0.0.0.0", "mask": 0, "nexthop": isp.gateway4}],
            }
            for isp in self._lab.router.uplinks
        ]
        plain: dict[str, Any] = {"reply": {}}
        found: dict[str, Any] = {"network.interface": {"dump": {"reply": {"interface": rows}}}}
        for name in (*self._lab.router.tunnels, *(isp.interface for isp in self._lab.router.uplinks)):
            found[f"network.interface.{name}"] = {"renew": plain, "down": plain, "up": plain}
        return found
