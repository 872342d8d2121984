"""What status, explain and the hook scripts tell of two WANs, by the whole engine: one dies and returns."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

import pytest

from wgrouter.core import mwan3, report
from wgrouter.core.engine import Engine
from wgrouter.core.messages import Configured, Effect, Event, Look, Observed, Probe, Replied, RunHook, Woke
from wgrouter.core.model import RT_TABLE_MAIN, Address, Hop, Interface, Link, Net, Route
from wgrouter.core.settings import HostPort, Peer, Routing, Settings, Tunnel, Wan
from wgrouter.shell import replay
from wgrouter.shell.journal import Journal

NET = Net(
    {"eth1": Link(2, "eth1"), "wwan0": Link(3, "wwan0")},
    (Address("eth1", "192.0.2.2/24"), Address("wwan0", "198.51.100.2/24")),
    (
        Route(4, RT_TABLE_MAIN, "0.0.0.0/0", (Hop("192.0.2.1", "eth1"),), 10),
        Route(4, RT_TABLE_MAIN, "0.0.0.0/0", (Hop("198.51.100.1", "wwan0"),), 20),
    ),
)
INTERFACES = {
    "wan": Interface("wan", "eth1", True, gateways=("192.0.2.1",)),
    "wwan": Interface("wwan", "wwan0", True, gateways=("198.51.100.1",)),
}
PEER = Peer("wg0", "k", "office", (HostPort("office.example.net"),))
TUNNEL = Tunnel("wg0", peers=(PEER,))
WANS = (
    Wan("fibre", "wan", families=(4,), priority=1, targets4=("1.1.1.1", "8.8.8.8")),
    Wan("lte", "wwan", families=(4,), priority=2, weight=3),
    Wan("old", "dsl", enabled=False),
)


class Router:
    """An engine in simulated time that watches and leaves routing alone; what it does is recorded."""

    def __init__(self, wans: tuple[Wan, ...] = WANS, balance: bool = False) -> None:
        self.engine = Engine()
        self.now = 100.0
        self.journal = Journal(self.engine.state, self.now, entries=100_000, size=1 << 28, wall=lambda: None)
        self.dead: set[str] = set()  # devices whose probes are lost
        self.coming: list[tuple[float, int, Event]] = []
        self.hooks: list[RunHook] = []
        routing = Routing(enabled=False, balance=balance)
        settings = Settings(wans=wans, tunnels=(TUNNEL,), routing=routing, mwan3_hotplug=True)
        self._handle(Configured(settings, "seed"))

    def _handle(self, event: Event) -> None:
        step = self.engine.handle(event, self.now)
        self.journal.record(event, self.now, step, self.engine.state)
        self.wake_at = step.wake_at
        for effect in step.effects:
            for delay, answer in self._done(effect):
                heapq.heappush(self.coming, (self.now + delay, len(self.coming), answer))

    def _done(self, effect: Effect) -> Iterator[tuple[float, Event]]:
        if isinstance(effect, Look):
            yield 0.005, Observed(NET, {}, (), INTERFACES, nft="")
        elif isinstance(effect, Probe) and effect.device not in self.dead:
            yield 0.020, Replied(effect.id, 0.020)
        elif isinstance(effect, RunHook):
            self.hooks.append(effect)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            due = min(self.wake_at, self.coming[0][0] if self.coming else end)
            if due >= end:
                self.now = end
                return
            self.now = due
            self._handle(
                heapq.heappop(self.coming)[2] if self.coming and self.coming[0][0] <= due else Woke()
            )

    def status(self) -> dict[str, Any]:
        return report.status(self.engine.state, self.now, "1", 0.0, "/")

    def wans(self) -> dict[str, dict[str, Any]]:
        return {wan["name"]: wan for wan in self.status()["wans"]}

    def explain(self, subject: str) -> list[dict[str, Any]]:
        return report.explanations(self.engine.state, subject, self.now)

    def actions(self, directory: str = "wgrouter") -> list[tuple[str, str]]:
        hooks = [hook.environment for hook in self.hooks if hook.directory == directory]
        return [(hook["ACTION"], hook.get("WAN", hook["INTERFACE"])) for hook in hooks]


@pytest.fixture
def router() -> Router:
    router = Router()
    router.run(20)
    return router


def test_the_story_of_a_wan_that_dies_and_returns(router: Router) -> None:
    assert router.actions() == []
    assert router.actions("iface") == [("connected", "wan"), ("connected", "wwan")]
    router.dead = {"eth1"}
    router.run(5)
    assert router.actions() == [("failover", "lte")]
    hook = router.hooks[-2:]  # in this order: traffic first, then mwan3's word
    assert {h.environment["ACTION"] for h in hook} == {"failover", "disconnected"}
    [moved] = [h.environment for h in hook if h.environment["ACTION"] == "failover"]
    assert (moved["INTERFACE"], moved["DEVICE"], moved["FAMILY"]) == ("wwan", "wwan0", "ipv4")
    assert moved["REASON"].startswith("fibre")
    router.dead = set()
    router.run(60)
    assert router.actions() == [("failover", "lte"), ("failback", "fibre")]
    assert router.actions("iface")[2:] == [("disconnected", "wan"), ("connected", "wan")]


def test_a_replay_tells_the_same_news(router: Router) -> None:
    router.dead = {"eth1"}
    router.run(5)
    router.dead = set()
    router.run(60)
    recording = replay.read(router.journal.lines())
    assert any(
        isinstance(effect, RunHook) for entry in router.journal.entries() for effect in entry.step.effects
    )
    assert replay.replay(recording, Engine) == []


def test_what_is_told_of_a_wan(router: Router) -> None:
    fibre, lte, old = router.wans().values()
    assert (fibre["state"], fibre["active"], fibre["share_percent"], fibre["carrier"]) == (
        "up",
        True,
        100,
        True,
    )
    assert (lte["state"], lte["active"], lte["share_percent"]) == ("up", False, 0)
    assert old["state"] == "disabled"
    assert [(t["address"], t["state"], t["latency_ms"], t["loss_percent"]) for t in fibre["targets"]] == [
        ("1.1.1.1", "up", 20.0, 0.0),
        ("8.8.8.8", "up", 20.0, 0.0),
    ]
    router.dead = {"eth1"}
    router.run(5)
    fibre = router.wans()["fibre"]
    assert (fibre["state"], fibre["active"], fibre["share_percent"]) == ("down", False, 0)
    assert {target["state"] for target in fibre["targets"]} == {"down"}
    assert all(target["loss_percent"] > 20 for target in fibre["targets"])


def test_shares_follow_the_weights() -> None:
    wans = (Wan("a", "wan", families=(4,)), Wan("b", "wwan", families=(4,), weight=3))
    router = Router(wans, balance=True)
    router.run(20)
    assert {name: wan["share_percent"] for name, wan in router.wans().items()} == {"a": 25, "b": 75}
    router.dead = {"wwan0"}
    router.run(5)
    assert {name: wan["share_percent"] for name, wan in router.wans().items()} == {"a": 100, "b": 0}


# Of `ubus call mwan3 status` in mwan3 2.12 (net/mwan3/files/usr/share/rpcd/ucode/mwan3).
INTERFACE = {
    **dict.fromkeys(("age", "online", "offline", "uptime", "score", "lost", "turn"), int),
    **dict.fromkeys(("enabled", "running", "up"), bool),
    **dict.fromkeys(("status", "tracking"), str),
    "track_ip": list,
}
TRACK = {"ip": str, "status": str, "latency": int, "packetloss": int}


def test_what_reads_mwan3_reads_us(router: Router) -> None:
    router.dead = {"wwan0"}
    router.run(5)
    told = mwan3.renamed(router.status()["wans"])
    assert list(told["interfaces"]) == ["fibre", "lte", "old"]
    for interface in told["interfaces"].values():
        assert interface.items() >= {"enabled": interface["status"] != "disabled"}.items()
        assert all(type(value) is INTERFACE[name] for name, value in interface.items())
        assert all(
            {name: type(value) for name, value in one.items()} == TRACK for one in interface["track_ip"]
        )
    fibre, lte, old = told["interfaces"].values()
    assert (fibre["status"], fibre["tracking"], fibre["up"]) == ("online", "active", True)
    assert (lte["status"], lte["online"], lte["up"]) == (
        "offline",
        0,
        True,
    )  # netifd's word: it has an address
    assert (old["status"], old["tracking"], old["running"]) == ("disabled", "disabled", False)
    assert [one["status"] for one in fibre["track_ip"]] == ["up", "up"]
    assert told["policies"] == {"ipv4": {"active": [{"interface": "fibre", "percent": 100}]}, "ipv6": {}}


def test_why_a_wan_is_used_and_another_is_not(router: Router) -> None:
    [fibre] = router.explain("fibre")
    assert (fibre["state"], fibre["cause"]["code"]) == ("up", "wan.up")
    assert any("carries IPv4 traffic" in line for line in fibre["evidence"])
    assert [one["what"] for one in fibre["rejected"]] == ["lte"]
    [lte] = router.explain("lte")
    assert [one["what"] for one in lte["rejected"]] == ["lte"]
    router.dead = {"eth1"}
    router.run(5)
    [fibre] = router.explain("fibre")
    assert (fibre["state"], fibre["cause"]["code"]) == ("down", "wan.down")
    router.dead = set()
    router.run(3)
    [fibre] = router.explain("fibre")
    assert (fibre["state"], fibre["cause"]["code"]) == ("held", "wan.held")
    assert 0 < fibre["next"]["in_s"] < 20


def test_why_a_name_is_as_it_is(router: Router) -> None:
    [name] = router.explain("office.example.net")
    assert name["cause"]["code"] == "name.silent"
    assert name["evidence"] == []


def test_everything_is_explained_without_a_subject(router: Router) -> None:
    assert [one["subject"] for one in router.explain("")] == ["fibre", "lte", "wg0/office"]
    assert router.explain("nonsense") == []
