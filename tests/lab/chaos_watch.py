"""What must hold whatever befalls the router; a breach is an AssertionError that says what and when.

always   the agent lives, says no more than its log allows, and no traceback and no key; its descriptors,
         threads and memory stay within bounds; no endpoint is an address that no answer named; nothing meant
         for a tunnel is seen at a provider in the clear.
calm     after each storm what has a way flows again: the LAN within LAN_BOUND, a tunnel within TUNNEL_BOUND.
         Faults that last go on meanwhile.
mended   every WAN up, every peer alive, nothing left to do, and of ours in the kernel exactly what was there
         at first; as many descriptors and threads as at first; broker and ubus are spoken to again.
stopped  nothing of ours is left in the kernel.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wgrouter import client
from wgrouter.ports.broker import THREADS_MAX

from .chaos_faults import Trouble
from .lab import Lab
from .poll import SLOWNESS, NotInTime, until
from .traffic import Connects, Flow
from .uplinks import ours
from .wireguard import Seen

# Seconds on a busy machine; what was needed is told at the end of a run.
LAN_BOUND = 10.0  # a WAN that dies silently takes 1.5 s, one that comes back is held back up to 4 s
TUNNEL_BOUND = 45.0  # a peer that forgot its session: 15 s (WireGuard's own) + 5 s; a whole ladder twice that
MENDED_BOUND = 75.0  # holds, back-off and damping run out, detours end
# Where the LAN is in the clear, rules decide what goes into the tunnel: who deletes one by hand opens it
# until the agent has seen that. So many packets for each time (half a second of both flows); never in a full
# tunnel.
HAND_LEAK = 20
FLOWS = 0.6  # an answer this lately
STEADY = 1.2  # and so for this long: an answer from before the storm is no proof

LOG_BURST, LOG_RATE = 130, 1.0  # lines, and lines a second (wgrouter/shell/log.py)
# Descriptors above those at first: at any time (each question to a name server is one, 64 at most are under
# way, and an attempt at a broker has four); and when all is mended.
FDS_MORE, FDS_MENDED = 64 + 4 * THREADS_MAX, 3
THREADS_MORE = THREADS_MAX  # attempts at a broker that a resolver or TLS still holds
RSS_MORE_MIB = 8.0  # above the life's first look: the journal's ring fills, parts are imported when needed

Stream = tuple[Flow | Connects, Callable[[Seen], bool], float]


class Watch:
    """Watches one lab. `say` gets a line for each thing worth one."""

    def __init__(self, trouble: Trouble, full_tunnel: bool, say: Callable[[str], None]) -> None:
        self.trouble, self.lab, self.say = trouble, trouble.lab, say
        self.streams = self._streams(full_tunnel)
        self.leaks = self._leaks(full_tunnel)
        self.took: dict[str, list[float]] = {name: [] for name in self.streams}
        self.mended_took: list[float] = []
        self.most = {"fds": 0, "threads": 0, "rss": 0.0, "lines": 0}
        self.first_ours: list[str] = []
        self.first_fds = self.first_threads = 0
        self.last = ""
        self._full_tunnel = full_tunnel
        self._born = time.monotonic()
        self._first_rss = 0.0
        self._secrets = self.lab.keys.secrets()
        trouble.on_start = self.begun
        trouble.on_stop = self.stopped

    def _streams(self, full_tunnel: bool) -> dict[str, Stream]:
        lab, some, found = self.lab, self.trouble.some, self.trouble.found
        streams: dict[str, Stream] = {
            site: (
                lab.flow("router", site, hertz=20),
                lambda seen, site=site: found(site, seen),  # type: ignore[misc]
                TUNNEL_BOUND,
            )
            for site in lab.sites
        }
        for version in (4, 6):
            if full_tunnel:
                flow = lab.flow("client", "web", version=version, hertz=20)
                streams[f"lan{version}"] = (flow, lambda seen: found("site1", seen), TUNNEL_BOUND)
            else:
                connects = lab.connects("client", "web", version=version, hertz=10)
                streams[f"lan{version}"] = (
                    connects,
                    lambda seen, version=version: some(version),  # type: ignore[misc]
                    LAN_BOUND,
                )
        return streams

    def _leaks(self, full_tunnel: bool) -> list[tuple[str, Any]]:
        """Counters of what must never be seen at a provider."""
        inside = ["ip daddr 10.77.0.0/16", "ip6 daddr fd77::/16"]
        web = [f"{'ip' if v == 4 else 'ip6'} daddr {self.lab.address('web', v)}" for v in (4, 6)]
        return [
            (f"{isp.name}: {match}", self.lab.count(isp.namespace, f'iifname "sub" {match}'))
            for isp in self.lab.topology.isps
            for match in (*inside, *(web if full_tunnel else ()))
        ]

    # ------------------------------------------------------------ the agent's process

    def begun(self) -> None:
        """A life begins."""
        self._born = time.monotonic()
        self._first_rss = 0.0

    def glance(self) -> None:
        """What is cheap to see."""
        agent = self.trouble.agent
        assert agent.running, f"the agent ended with {agent.exit_status}:\n{agent.tail(40)}"
        place = Path(f"/proc/{agent.pid}")
        fds = len(os.listdir(place / "fd"))
        status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
        threads, rss = int(status["Threads"]), int(status["VmRSS"].split()[0]) / 1024
        self.most["fds"] = max(self.most["fds"], fds)
        self.most["threads"] = max(self.most["threads"], threads)
        self.most["rss"] = max(self.most["rss"], rss)
        age = time.monotonic() - self._born
        if self.first_fds:
            assert fds <= self.first_fds + FDS_MORE, f"{fds} descriptors, at first {self.first_fds}"
            assert threads <= self.first_threads + THREADS_MORE, (
                f"{threads} threads, at first {self.first_threads}"
            )
        if age > 10 and not self._first_rss:
            self._first_rss = rss
        if self._first_rss:
            assert rss <= self._first_rss + RSS_MORE_MIB, (
                f"{rss:.1f} MiB; {self._first_rss:.1f} when it was young"
            )
        said = agent.output()
        lines = said.count("\n")
        self.most["lines"] = max(self.most["lines"], lines)
        assert lines <= LOG_BURST + LOG_RATE * age, f"{lines} lines in {age:.0f} s:\n{agent.tail(40)}"
        assert "Traceback" not in said, f"a traceback:\n{said[said.index('Traceback') - 300 :][:4000]}"
        assert not any(secret in said for secret in self._secrets), "a key is in the log"

    def ask(self, verb: str) -> Any:
        return client.ask(str(self.trouble.control), verb, timeout=5.0)

    # ------------------------------------------------------------ calm, mended, stopped

    def calm(self) -> None:
        """Wait until what has a way flows; check the rest."""
        self.trouble.awake()
        began = time.monotonic()
        good_since: dict[str, float] = {}
        silent_since: dict[str, float] = {}
        while True:
            now = time.monotonic()
            seen = self.lab.router.wg()
            waiting = []
            for name, (traffic, expected, bound) in self.streams.items():
                if not expected(seen):
                    good_since.pop(name, None)
                    silent_since.pop(name, None)
                elif not traffic.flowing(FLOWS):
                    good_since.pop(name, None)
                    waiting.append(name)
                    silent = now - silent_since.setdefault(name, now)
                    assert silent <= bound * SLOWNESS, self._silence(name, silent, seen)
                elif now - good_since.setdefault(name, now) < STEADY * SLOWNESS:
                    waiting.append(name)
            if not waiting:
                break
            time.sleep(0.1)
        for name, since in good_since.items():
            self.took[name].append(max(since - began, 0.0))
        self.glance()
        self._endpoints(seen)
        self._leaked()

    def _silence(self, name: str, seconds: float, seen: Seen) -> str:
        where = {site: seen.peers[self.lab.router.public_key(site)].endpoint for site in self.lab.sites}
        live = {site: self.lab.site(site).addresses for site in self.lab.sites}
        return (
            f"{name} has been silent for {seconds:.0f} s although there is a way: "
            f"{self.trouble.lines}; sites at {live}, endpoints {where}, names {self.trouble.names}"
        )

    def _endpoints(self, seen: Seen) -> None:
        for site, name in self.trouble.names.items():
            plan = self.lab.site(site).plan
            endpoint = seen.peers[self.lab.router.public_key(site)].endpoint or ""
            address = endpoint.rpartition(":")[0].strip("[]")
            # WireGuard itself follows a site that calls from a new home.
            assert address in {*name.said, *plan.all_homes}, f"{site} at {endpoint}: no answer named that"

    def _leaked(self) -> None:
        leaked = {what: counter.packets for what, counter in self.leaks}
        allowed = 0 if self._full_tunnel else HAND_LEAK * self.trouble.rules_deleted
        assert sum(leaked.values()) <= allowed, f"in the clear: {leaked}; {allowed} allowed"

    def mended(self) -> None:
        """Wait until all is as it was at first."""
        began = time.monotonic()
        try:
            until(lambda: not self._differs(), within=MENDED_BOUND, what="all as at first")
        except NotInTime:
            raise AssertionError(f"not as at first after {MENDED_BOUND:g} s: {self.last}") from None
        self.mended_took.append(time.monotonic() - began)
        if not self.first_fds:
            self.first_ours = ours(self.lab.router)
            self.first_fds = len(os.listdir(f"/proc/{self.trouble.agent.pid}/fd"))
            self.first_threads = len(os.listdir(f"/proc/{self.trouble.agent.pid}/task"))
        self.calm()

    def _differs(self) -> str:
        """What is not as at first, "" if all is."""
        try:
            self.last = self._difference()
        except client.NoAgent as error:
            self.last = str(error)
        return self.last

    def _difference(self) -> str:
        status = self.ask("status")
        wans = [(wan["name"], wan["family"], wan["state"]) for wan in status["wans"]]
        if len(wans) != 4 or any(state != "up" for _, _, state in wans):
            return f"WANs {wans}"
        peers = {peer["peer"]: peer["state"] for tunnel in status["tunnels"] for peer in tunnel["peers"]}
        if set(peers.values()) != {"alive"}:
            return f"peers {peers}"
        if status["mqtt"]["state"] != "up":
            return f"broker {status['mqtt']}"
        if effects := self.ask("plan")["effects"]:
            return f"to be done {effects}"
        there = ours(self.lab.router)
        if any(line.startswith("6000:") for line in there):
            return "an old way is still closed"
        if not self.first_fds:
            return ""
        if _unnumbered(there) != _unnumbered(self.first_ours):
            more, less = set(there) - set(self.first_ours), set(self.first_ours) - set(there)
            return f"in the kernel, more than at first: {sorted(more)}; missing: {sorted(less)}"
        place = Path(f"/proc/{self.trouble.agent.pid}")
        fds, threads = len(os.listdir(place / "fd")), len(os.listdir(place / "task"))
        if fds > self.first_fds + FDS_MENDED or threads > self.first_threads:
            return f"{fds} descriptors, {threads} threads; at first {self.first_fds}, {self.first_threads}"
        return ""

    def stopped(self) -> None:
        """Clean stop: all of ours is gone."""
        assert ours(self.lab.router) == [], f"left after a clean stop: {ours(self.lab.router)}"

    # ------------------------------------------------------------ figures

    def figures(self) -> dict[str, Any]:
        """What a run came to."""
        return {
            **{f"{name}_s": _spread(took) for name, took in self.took.items()},
            "mended_s": _spread(self.mended_took),
            **self.most,
            "first_fds": self.first_fds,
        }


def _unnumbered(lines: list[str]) -> list[str]:
    """Without the numbers of tables and marks: WANs that are found are numbered as they come."""
    return sorted(re.sub(r"\b(60|61)\d\d:|\b74\d\d\b|0x[0-9a-f/x]+", "#", line) for line in lines)


def _spread(values: list[float]) -> str:
    """Median and most."""
    ordered = sorted(values)
    return f"{ordered[len(ordered) // 2]:.1f}/{ordered[-1]:.1f}" if ordered else "–"


def stop_traffic(watch: Watch) -> None:
    for traffic, _, _ in watch.streams.values():
        traffic.stop()


__all__ = ["LAN_BOUND", "TUNNEL_BOUND", "Lab", "Watch", "stop_traffic"]
