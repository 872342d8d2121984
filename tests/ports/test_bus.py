"""The ubus port against a stand-in and, where ubusd and the binding are found, the real ones: the same tests.

Each takes `world`: a running ubusd, the binding to use, and other parties on the bus, processes of their own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ports import ubus_standin
from tests.ports.turning import Turning
from wgrouter.core import mwan3
from wgrouter.core.findings import Finding, Why
from wgrouter.core.messages import Event, Hinted
from wgrouter.core.model import Interface
from wgrouter.ports import bus as port
from wgrouter.ports._netifd import interfaces_of
from wgrouter.ports.bus import Bus, Unavailable, plain
from wgrouter.shell.reactor import Reactor

STANDIN = Path(ubus_standin.__file__)
MISSING = [
    what
    for what, found in (
        ("ubusd", shutil.which("ubusd")),
        ("the Python binding", importlib.util.find_spec("ubus")),
    )
    if not found
]


class Peer:
    """Somebody else on the bus."""

    def __init__(self, module: str, path: str) -> None:
        command = [sys.executable, str(STANDIN), "peer", module, path]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        os.set_blocking(self._out.fileno(), False)
        self._rest = b""
        self.said: list[dict[str, Any]] = []

    def tell(self, **command: Any) -> None:
        self._in.write(json.dumps(command).encode() + b"\n")
        self._in.flush()

    def read(self) -> None:
        self._rest += self._out.read() or b""
        *lines, self._rest = self._rest.split(b"\n")
        self.said += [json.loads(line) for line in lines]

    def called(self) -> list[list[Any]]:
        return [said["called"] for said in self.said if "called" in said]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._in.close()
        self._out.close()

    def fileno(self) -> int:
        return self._out.fileno()


class World:
    """A bus with its ubusd, our Bus on it, a loop to turn, and who else is there."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.kind = kind
        self.path = str(directory / "ubus.sock")
        self.binding: Any = ubus_standin
        self.module = "standin"
        if kind == "real":
            import ubus

            self.binding, self.module = ubus, "ubus"
        self.loop = Turning()
        self.said: list[Finding] = []
        self.faults: list[Exception] = []
        self.asked: list[tuple[str, Mapping[str, str]]] = []
        self.answer: Callable[[str, Mapping[str, str]], Any] = lambda verb, arguments: {"verb": verb}
        self.peers: list[Peer] = []
        self.daemon: subprocess.Popen[bytes] | None = None
        self.bus = self.agent()

    def agent(self, loop: Any = None) -> Bus:
        def answer(verb: str, arguments: Mapping[str, str]) -> Any:
            self.asked.append((verb, arguments))
            return self.answer(verb, arguments)

        return Bus(
            loop or self.loop,
            answer,
            self.said.append,
            on_fault=self.faults.append,
            paths=[self.path],
            binding=self.binding,
        )

    def boot(self) -> None:
        """Start ubusd, and go on when it greets."""
        command = [sys.executable, str(STANDIN), "daemon", self.path]
        if self.kind == "real":
            command = ["ubusd", "-s", self.path]
        self.daemon = subprocess.Popen(command)
        self.wait(lambda: not port.knock(self.path, 0.2))

    def kill(self) -> None:
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait()

    def peer(self) -> Peer:
        peer = Peer(self.module, self.path)
        self.peers.append(peer)
        self.loop.watch(peer.fileno(), peer.read)
        self.loop.until(lambda: peer.said)
        return peer

    def dismiss(self, peer: Peer) -> None:
        self.peers.remove(peer)
        self.loop.unwatch(peer.fileno())
        peer.close()

    def wait(self, condition: Callable[[], object], within: float = 20.0) -> float:
        """Turn the loop, and look at things that do not wake it (a process, a file) every 10 ms."""

        def again() -> None:
            timer.append(self.loop.call_at(self.loop.now() + 0.01, again))

        timer: list[Any] = []
        again()
        try:
            return self.loop.until(condition, within)
        finally:
            timer[-1].cancel()

    def ask(self, peer: Peer, method: str, /, path: str = "wgrouter", **arguments: Any) -> dict[str, Any]:
        """What the peer gets for a call of our object: {"replies": …} or {"error": …}."""
        count = len(peer.said)
        peer.tell(call=[path, method, arguments])
        self.loop.until(lambda: len(peer.said) > count, 20)
        return peer.said[count]

    def hints(self) -> list[tuple[str, str]]:
        return [(e.action, e.interface) for e in self.loop.events if isinstance(e, Hinted)]

    def whys(self) -> list[Why]:
        return [finding.why for finding in self.said]

    def close(self) -> None:
        self.bus.close()
        for peer in list(self.peers):
            self.dismiss(peer)
        if self.daemon is not None:
            self.daemon.kill()
            self.daemon.wait()
        self.loop.close()


@pytest.fixture(params=["standin", "real"])
def cold(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Nothing runs yet."""
    if request.param == "real" and MISSING:
        pytest.skip(f"{' and '.join(MISSING)} not found: the stand-in alone is tested")
    world = World(request.param, tmp_path)
    yield world
    world.close()


@pytest.fixture
def world(cold: World) -> World:
    """ubusd runs, and we are on it."""
    cold.boot()
    cold.bus.start()
    assert cold.bus.connected
    return cold


# ---------------------------------------------------------------- our object


def test_the_verbs_are_answered(world: World) -> None:
    world.answer = lambda verb, arguments: {"verb": verb, "wans": [{"up": True, "loss": 0.5}], "none": None}
    peer = world.peer()
    verbs = [verb for verb, arguments in port.VERBS.items() if not arguments]
    for verb in verbs:
        [reply] = world.ask(peer, verb)["replies"]
        told = {"verb": verb, "wans": [{"up": True, "loss": 0.5}], "none": None}
        assert reply.items() >= told.items()
    assert world.asked == [(verb, {}) for verb in verbs]


def test_switch_hands_its_arguments_over_as_text(world: World) -> None:
    assert "replies" in world.ask(world.peer(), "switch", wan="lte", seconds=600)
    assert world.asked == [("switch", {"wan": "lte", "seconds": "600"})]


def test_a_hint_is_a_hint_and_answered_at_once(world: World) -> None:
    assert world.ask(world.peer(), "hint", action="ifup", interface="wan", device="eth1") == {"replies": [{}]}
    assert Hinted("hotplug", "wan", "ifup") in world.loop.events
    assert world.asked == []


def test_other_arguments_are_refused_and_life_goes_on(world: World) -> None:
    peer = world.peer()
    others: list[dict[str, Any]] = [
        {},
        {"wan": "lte"},
        {"seconds": 600},
        {"wan": "lte", "seconds": 600, "more": 1},
        {"wan": "lte", "seconds": "600"},
        {"wan": ["lte"], "seconds": 600},
        {"wan": None, "seconds": 600},
        {"wan": "lte", "seconds": 2**40},
        {"wan": "lte", "seconds": 1.5},
        {"wan": {"a": {"b": [[[[{}]]]]}}, "seconds": 1},
    ]
    for arguments in others:
        assert "Invalid argument" in world.ask(peer, "switch", **arguments)["error"]
    assert "replies" in world.ask(peer, "status")
    assert world.asked == [("status", {})]


def test_luci_reaches_the_same_methods_with_its_session(world: World) -> None:
    peer = world.peer()
    luci = {"path": "luci.wgrouter", "ubus_rpc_session": "0123456789abcdef"}
    assert "replies" in world.ask(peer, "status", **luci)
    assert "replies" in world.ask(peer, "switch", wan="lte", seconds=0, **luci)
    assert "Invalid argument" in world.ask(peer, "status", ubus_rpc_session="0123456789abcdef")["error"]
    assert world.asked == [("status", {}), ("switch", {"wan": "lte", "seconds": "0"})]


def test_an_unknown_method_is_refused(world: World) -> None:
    peer = world.peer()
    assert "error" in world.ask(peer, "format_flash")
    assert "replies" in world.ask(peer, "status")


@pytest.mark.parametrize("size", [port.TEXT_MAX + 1, 1_000_000])
def test_a_long_text_is_refused(world: World, size: int) -> None:
    peer = world.peer()
    [reply] = world.ask(peer, "switch", wan="x" * size, seconds=1)["replies"]
    assert f"wan has {size} characters" in reply["error"]
    assert "replies" in world.ask(peer, "status")
    assert world.asked == [("status", {})]


def test_what_json_cannot_carry_is_changed(world: World) -> None:
    world.answer = lambda verb, arguments: {
        "a": float("inf"),
        "b": float("nan"),
        "c": 2**70,
        "d": (1, 2),
        5: "x",
        "": {"": "y"},
    }
    [reply] = world.ask(world.peer(), "findings")["replies"]
    assert reply == {"a": None, "b": None, "c": 2**63 - 1, "d": [1, 2], "5": "x", "-": {"-": "y"}}


def test_an_answer_too_long_for_ubus_is_an_error_and_not_the_end_of_the_connection(world: World) -> None:
    world.answer = lambda verb, arguments: {"long": "x" * (2 * 1024 * 1024)}
    peer = world.peer()
    [reply] = world.ask(peer, "findings")["replies"]
    assert "ask `wgrouter findings --json`" in reply["error"]
    world.answer = lambda verb, arguments: {}
    assert world.ask(peer, "plan") == {"replies": [{}]}


def test_a_refusal_reaches_who_asked(world: World) -> None:
    def refuse(verb: str, arguments: Mapping[str, str]) -> Any:
        raise ValueError("no WAN is called 'x'; there are: wan, lte")

    world.answer = refuse
    [reply] = world.ask(world.peer(), "switch", wan="x", seconds=1)["replies"]
    assert reply == {"error": "no WAN is called 'x'; there are: wan, lte"}


def test_our_own_mistake_is_answered_and_not_hidden(world: World) -> None:
    """The binding would print it and forget it."""

    def stumble(verb: str, arguments: Mapping[str, str]) -> Any:
        raise ZeroDivisionError("a mistake")

    world.answer = stumble
    [reply] = world.ask(world.peer(), "status")["replies"]
    assert "has failed" in reply["error"]
    assert [str(fault) for fault in world.faults] == ["a mistake"]


def test_what_reads_mwan3_reads_us(world: World) -> None:
    world.answer = lambda verb, arguments: [
        {"name": "wan", "family": 4, "state": "down", "since_s": 12.4, "share_percent": 0, "carrier": True},
        {"name": "wan", "family": 6, "state": "up", "since_s": 80, "share_percent": 100.0, "carrier": False,
         "targets": [{"address": "2001:db8::1", "state": "up", "latency_ms": 11.6, "loss_percent": 0.0}]},
        {"name": "lte", "family": 4, "state": "held", "since_s": 3, "share_percent": 100.0},
        {"name": "old", "family": 4, "state": "disabled", "since_s": None},
    ]  # fmt: skip
    [reply] = world.ask(world.peer(), "wans")["replies"]
    assert [wan["name"] for wan in reply["wans"]] == ["wan", "wan", "lte", "old"]
    track = [{"ip": "2001:db8::1", "status": "up", "latency": 12, "packetloss": 0}]
    assert reply["interfaces"]["wan"] == {
        "online": 80, "offline": 0, "status": "online", "enabled": True, "running": True,
        "tracking": "active", "up": True, "track_ip": track,
    }  # fmt: skip
    assert [(name, one["status"], one["up"]) for name, one in reply["interfaces"].items()] == [
        ("wan", "online", True),
        ("lte", "offline", False),
        ("old", "disabled", False),
    ]
    assert reply["policies"] == {
        "ipv6": {"active": [{"interface": "wan", "percent": 100}]},
        "ipv4": {"active": [{"interface": "lte", "percent": 100}]},
    }


@given(
    st.sampled_from(sorted(port.VERBS)),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    ),
)
def test_no_message_raises(verb: str, message: Any) -> None:
    loop = Turning()
    bus = Bus(
        loop, lambda verb, arguments: {}, lambda finding: None, paths=["/nowhere"], binding=ubus_standin
    )
    assert isinstance(bus._reply(verb, message), dict)
    bus._heard("network.interface", message)
    bus._appeared("ubus.object.add", message)
    json.dumps(plain(message), allow_nan=False)
    mwan3.renamed(message)
    mwan3.renamed(
        [{"name": message, "since_s": message, "share_percent": message, "targets": message}, message]
    )
    interfaces_of(message)
    interfaces_of({"interface": [message, {"interface": "wan", "route": message, "dns-server": message}]})
    interfaces_of(
        {"interface": [{"interface": "wan", "route": [message], "dns-server": [message], "metric": message}]}
    )
    loop.close()


# ---------------------------------------------------------------- what comes in


def test_news_of_netifd_is_a_hint(world: World) -> None:
    peer = world.peer()
    peer.tell(send=["network.interface", {"action": "ifup", "interface": "wan"}])
    world.loop.until(lambda: ("ifup", "wan") in world.hints())


@pytest.mark.parametrize(
    "data", [{}, {"action": 5, "interface": ["wan"]}, {"interface": "w" * 100_000}, {"action": None}]
)
def test_news_that_is_none_is_a_hint_without_a_name(world: World, data: dict[str, Any]) -> None:
    peer = world.peer()
    before = len(world.loop.events)
    peer.tell(send=["network.interface", data])
    world.loop.until(lambda: len(world.loop.events) > before)
    [hint] = world.loop.events[before:]
    assert isinstance(hint, Hinted) and len(hint.interface) <= port.TEXT_MAX and hint.action == ""


def test_an_object_of_netifd_that_appears_is_a_hint(world: World) -> None:
    world.peer().tell(serve={"network.interface": {}, "network.interface.wan": {}, "system": {}})
    world.loop.until(lambda: ("appeared", "wan") in world.hints())
    assert [hint for hint in world.hints() if hint[0] == "appeared"] == [
        ("appeared", ""),
        ("appeared", "wan"),
    ]


def test_news_that_comes_during_a_call_is_not_lost(world: World) -> None:
    """The descriptor does not tell of it: nothing else happens on the bus after the reply."""
    netifd = world.peer()
    news = ["network.interface", {"action": "ifdown", "interface": "wan"}]
    netifd.tell(serve={"network.interface": {"dump": {"reply": {"interface": []}, "send": news}}})
    world.loop.until(lambda: ("appeared", "") in world.hints())
    world.bus.interfaces()
    assert ("ifdown", "wan") not in world.hints()
    world.loop.until(lambda: ("ifdown", "wan") in world.hints(), 1)


def test_a_burst_during_a_call_is_not_lost(world: World) -> None:
    """After a call, one loop(0) reads one message: the rest must still be noticed."""
    netifd, peer = world.peer(), world.peer()
    netifd.tell(serve={"network.interface": {"dump": {"reply": {}}}})
    world.loop.until(lambda: ("appeared", "") in world.hints())
    world.bus.interfaces()
    for number in range(50):
        peer.tell(send=["network.interface", {"action": "ifup", "interface": f"w{number}"}])
    world.loop.until(lambda: ("ifup", "w49") in world.hints())
    assert [name for action, name in world.hints() if action == "ifup"] == [f"w{n}" for n in range(50)]


def test_a_thousand_hints_are_a_handful_of_looks(world: World) -> None:
    """With the reactor that the daemon has, which merges what comes within its window."""
    handled: list[Event] = []
    world.bus.close()
    with Reactor() as reactor:
        bus = world.agent(reactor)
        bus.start()
        peer = Peer(world.module, world.path)
        reactor.watch(peer.fileno(), peer.read)
        for _ in range(1000):
            peer.tell(call=["wgrouter", "hint", {"action": "ifup", "interface": "wan", "device": "eth1"}])

        def handle(event: Event, now: float) -> float:
            handled.append(event)
            return now + 0.02

        def done() -> None:
            if len(peer.said) > 1000:
                reactor.stop()
            reactor.call_at(reactor.now() + 0.01, done)

        done()
        reactor.call_at(reactor.now() + 20, reactor.stop)
        began = reactor.now()
        reactor.run(handle)
        took = reactor.now() - began
        bus.close()
        reactor.unwatch(peer.fileno())
        peer.close()
    assert [said for said in peer.said[1:] if said != {"replies": [{}]}] == []
    assert len(peer.said) == 1001
    looks = [event for event in handled if isinstance(event, Hinted) and event.source == "hotplug"]
    assert 1 <= len(looks) <= 5 + 15 * took  # a window of 10 ms that doubles up to 100 ms


# ---------------------------------------------------------------- what is asked of others

DUMP = {
    "interface": [
        {
            "interface": "wan",
            "up": True,
            "l3_device": "eth1",
            "device": "eth1",
            "proto": "dhcp",
            "metric": 10,
            "dns-server": ["192.0.2.53", "192.0.2.53"],
            "route": [
                {"target": "0.0.0.0", "mask": 0, "nexthop": "192.0.2.1", "source": "192.0.2.2/32"},
                {"target": "192.0.2.9", "mask": 32, "nexthop": "192.0.2.1", "source": ""},
            ],
        },
        {"interface": "wan6", "up": True, "l3_device": "eth1", "proto": "dhcpv6", "metric": 0,
         "dns-server": [], "route": [{"target": "::", "mask": 0, "nexthop": "fe80::1", "metric": 512}]},
        {"interface": "ppp", "up": True, "l3_device": "pppoe-ppp", "proto": "pppoe",
         "route": [{"target": "0.0.0.0", "mask": 0, "nexthop": "0.0.0.0"}]},
        {"interface": "lte", "up": False, "available": True, "proto": "qmi"},
    ]
}  # fmt: skip


def netifd(world: World, **methods: Any) -> Peer:
    """A peer with netifd's objects."""
    peer = world.peer()
    wan = {verb: {"reply": {}} for verb in ("renew", "down", "up")}
    peer.tell(serve={"network.interface": {"dump": {"reply": DUMP}}, "network.interface.wan": wan | methods})
    world.loop.until(lambda: ("appeared", "wan") in world.hints())
    return peer


def test_interfaces(world: World) -> None:
    netifd(world)
    seen = world.bus.interfaces()
    assert seen == {
        "wan": Interface("wan", "eth1", True, "dhcp", 10, ("192.0.2.53",), ("192.0.2.1",)),
        "wan6": Interface("wan6", "eth1", True, "dhcpv6", 0, (), ("fe80::1",)),
        "ppp": Interface("ppp", "pppoe-ppp", True, "pppoe"),
        "lte": Interface("lte", "", False, "qmi"),
    }
    assert world.bus.interfaces() is seen


def test_renew_and_restart(world: World) -> None:
    peer = netifd(world)
    world.bus.renew("wan")
    world.bus.restart("wan")
    world.loop.until(lambda: len(peer.called()) == 3)
    assert [call[:2] for call in peer.called()] == [
        ["network.interface.wan", verb] for verb in ("renew", "down", "up")
    ]


def test_an_interface_that_is_not_there_is_an_error(world: World) -> None:
    netifd(world)
    with pytest.raises(Unavailable, match=r"network\.interface\.lte renew: no such object") as caught:
        world.bus.renew("lte")
    assert caught.value.errno == 2
    assert world.bus.connected


def test_up_is_asked_for_even_when_down_was_refused(world: World) -> None:
    peer = netifd(world, down={"signature": {"why": 3}, "reply": {}})
    with pytest.raises(Unavailable, match="Invalid argument"):
        world.bus.restart("wan")
    world.loop.until(lambda: ["network.interface.wan", "up", {}] in peer.called())


def test_who_never_answers_costs_the_time_limit(world: World) -> None:
    netifd(world, renew={"block": True, "reply": {}})
    start = world.loop.now()
    with pytest.raises(Unavailable, match="no answer in time") as caught:
        world.bus.renew("wan")
    assert caught.value.errno == 110
    assert world.loop.now() - start < port.CALL_TIMEOUT + port.KNOCK + 0.5
    assert world.bus.connected


def test_events_of_ours_reach_who_listens(world: World) -> None:
    peer = world.peer()
    peer.tell(listen=["wgrouter.wan", "wgrouter.tunnel"])
    world.loop.until(lambda: len(peer.said) == 2)
    assert world.bus.send("wgrouter.wan", {"wan": "lte", "up": True, "latency": float("inf")})
    world.loop.until(lambda: len(peer.said) == 3)
    assert peer.said[2] == {"event": ["wgrouter.wan", {"wan": "lte", "up": True, "latency": None}]}


def test_a_handler_may_ask_others(world: World) -> None:
    netifd(world)
    world.answer = lambda verb, arguments: {"seen": sorted(world.bus.interfaces())}
    asker = world.peer()
    for _ in range(3):
        assert world.ask(asker, "tunnels") == {"replies": [{"seen": ["lte", "ppp", "wan", "wan6"]}]}


def test_another_thread_is_told_off_instead_of_hanging(world: World) -> None:
    errors: list[Exception] = []

    def work() -> None:
        try:
            world.bus.interfaces()
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(5)
    assert "thread" in str(errors[0])


# ---------------------------------------------------------------- coming and going


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_ubusd_restarted_ten_times(world: World) -> None:
    """Back each time within 3 s, and nothing is left behind."""
    world.peer()
    counts = []
    for _ in range(10):
        world.kill()
        world.loop.until(lambda: not world.bus.connected, 3)
        world.boot()
        assert world.wait(lambda: world.bus.connected, 3) < 3
        peer = world.peer()
        assert "replies" in world.ask(peer, "status")
        world.dismiss(peer)
        counts.append(descriptors())
    assert counts[0] == counts[-1], counts
    assert world.whys() == [Why.BUS_PRESENT, *[Why.BUS_LOST, Why.BUS_PRESENT] * 10]
    assert world.hints().count(("connected", "")) == 11  # what was missed is looked at


def test_ubusd_gone_for_long_is_back_within_3_s_of_its_return(world: World) -> None:
    world.kill()
    world.loop.until(lambda: not world.bus.connected, 3)
    for _ in range(30):
        world.loop.skip(10)
        world.loop.turn()
    assert not world.bus.connected
    world.boot()
    assert world.wait(lambda: world.bus.connected, 3) < 3


def test_without_its_descriptor_it_looks_by_itself(cold: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port, "_lines", set)
    cold.boot()
    cold.bus.start()
    peer = cold.peer()
    for number in range(40):
        peer.tell(send=["network.interface", {"action": "ifup", "interface": f"w{number}"}])
    cold.loop.until(lambda: ("ifup", "w39") in cold.hints(), 2)
    assert "replies" in cold.ask(peer, "status")
    cold.kill()
    assert cold.loop.until(lambda: not cold.bus.connected, 3) < 3
    cold.boot()
    assert cold.wait(lambda: cold.bus.connected, 3) < 3


def test_a_hanging_ubusd_costs_little_and_heals(world: World) -> None:
    """Its look-up has no time limit: whoever just calls waits for ever."""
    netifd(world)
    assert world.daemon is not None
    world.daemon.send_signal(signal.SIGSTOP)
    start = world.loop.now()
    for _ in range(20):
        with pytest.raises(Unavailable, match="answer"):
            world.bus.interfaces()
        assert not world.bus.send("wgrouter.wan", {})
    assert world.loop.now() - start < 2 * port.KNOCK
    assert world.bus.connected  # it may only be busy
    world.daemon.send_signal(signal.SIGCONT)
    world.loop.skip(port.HUNG_PAUSE)
    assert "wan" in world.bus.interfaces()


def test_a_ubusd_that_dies_during_a_call_of_ours(world: World) -> None:
    assert world.daemon is not None
    netifd(world, renew={"kill": world.daemon.pid})
    with pytest.raises(Unavailable, match="ubusd went away") as caught:
        world.bus.renew("wan")
    assert caught.value.errno == 107
    assert not world.bus.connected
    with pytest.raises(Unavailable, match="not connected"):
        world.bus.renew("wan")
    assert not world.bus.send("wgrouter.wan", {})


def test_a_ubusd_that_dies_while_a_handler_of_ours_asks_others(world: World) -> None:
    """Freeing the connection under the binding's feet would be the end of the process."""

    def answer(verb: str, arguments: Mapping[str, str]) -> Any:
        world.kill()
        with pytest.raises(Unavailable):
            world.bus.interfaces()
        return {"seen": []}

    netifd(world)
    world.answer = answer
    peer = world.peer()
    peer.tell(call=["wgrouter", "wans", {}])
    world.loop.until(lambda: not world.bus.connected)
    world.boot()
    world.answer = lambda verb, arguments: {}
    world.wait(lambda: world.bus.connected, 3)
    assert world.ask(world.peer(), "plan") == {"replies": [{}]}


def test_where_there_is_no_ubusd_one_finding_says_so(cold: World) -> None:
    cold.bus.start()
    for _ in range(20):
        cold.loop.skip(60)
        cold.loop.turn()
    assert cold.whys() == [Why.BUS_ABSENT]
    with pytest.raises(Unavailable):
        cold.bus.interfaces()
    cold.boot()
    cold.loop.skip(port.RETRY_STRANGER)
    cold.wait(lambda: cold.bus.connected)


def test_where_something_else_listens_one_finding_says_so(cold: World) -> None:
    server = ubus_standin.socket.socket(ubus_standin.socket.AF_UNIX)
    server.bind(cold.path)
    server.listen()
    cold.bus.start()
    assert not cold.bus.connected
    assert cold.said[0].text == "no ubus here: ubusd does not answer"
    server.close()


def test_a_second_agent_waits_until_the_first_has_left(world: World) -> None:
    """The name is given once. The binding has C globals, so the other agent is a peer that has our name."""
    world.bus.close()
    other = world.peer()
    other.tell(serve={"wgrouter": {}})
    world.loop.until(lambda: len(other.said) == 2)
    world.bus.start()
    assert not world.bus.connected
    assert world.whys()[-1] is Why.BUS_ABSENT and "Invalid argument" in world.said[-1].text
    world.dismiss(other)
    world.loop.skip(port.RETRY_STRANGER)
    world.wait(lambda: world.bus.connected)


def test_without_the_binding_one_finding_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ubus", None)
    said: list[Finding] = []
    loop = Turning()
    bus = Bus(loop, lambda verb, arguments: {}, said.append)
    bus.start()
    assert [finding.why for finding in said] == [Why.BUS_ABSENT]
    assert "python3-ubus" in said[0].text
    assert loop.timers == []
    assert not bus.send("wgrouter.wan", {})
    with pytest.raises(Unavailable):
        bus.renew("wan")
    bus.close()
    loop.close()


def test_closing_leaves_nothing(world: World) -> None:
    before = descriptors()
    world.bus.close()
    assert descriptors() < before
    assert world.loop.watched == {}
    world.bus.close()
    peer = world.peer()
    assert "not found" in world.ask(peer, "status")["error"]


def test_the_order_in_which_sockets_are_tried(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    loop = Turning()
    bus = Bus(loop, lambda verb, arguments: {}, lambda finding: None, paths=[str(new), str(old)])
    assert bus._path() == str(new)
    old.touch()
    assert bus._path() == str(old)
    new.touch()
    assert bus._path() == str(new)
    loop.close()
