"""An engine in the middle of its work, for targets whose values the core then takes in. Made once."""

from __future__ import annotations

import functools
import ipaddress
import itertools
import json

from tests.unit.mqtt_router import Router, key
from wgrouter.core.codec import Decoder, encode
from wgrouter.core.engine import Engine, State
from wgrouter.core.messages import Ask, Configured, Event, Observed, SetEndpoint
from wgrouter.core.model import DeviceSeen, Endpoint, Nameserver, PeerSeen
from wgrouter.core.report import explanations, planned, status
from wgrouter.core.settings import Dns, HostPort, Peer, Settings, Tunnel
from wgrouter.shell.replay import classes

NOW = 2000.0
HOST, SERVICE = "vpn.example.net", "_wireguard._udp.vpn.example.net"


@functools.cache
def calm() -> State:
    """Two WANs and four peers that answer."""
    router = Router()
    list(router.run(8))
    return router.state


@functools.cache
def asking() -> tuple[State, dict[str, Ask]]:
    """A peer with a name that is being looked up, and one by its services; the queries by their type."""
    peers = (
        Peer("wg0", key("a"), "a", (HostPort(HOST, 51820),)),
        Peer("wg0", key("b"), "b", (HostPort(HOST, 51820),), srv=True),
    )
    engine = Engine()
    settings = Settings(tunnels=(Tunnel("wg0", peers=peers),), dns=Dns(servers=("192.0.2.53",)))
    engine.handle(Configured(settings, "seed"), NOW - 1)
    seen = {one.public_key: PeerSeen(one.public_key, Endpoint("198.51.100.1", 51820)) for one in peers}
    wireguard = {"wg0": DeviceSeen("wg0", peers=seen)}
    step = engine.handle(Observed(Router()._net(), wireguard, (Nameserver("192.0.2.53"),), {}), NOW)
    asks = {effect.type: effect for effect in step.effects if isinstance(effect, Ask)}
    assert asks.keys() == {"A", "AAAA", "SRV"}, asks
    return engine.state, asks


@functools.cache
def decoder() -> Decoder:
    return Decoder(classes())


ALL, SOME = 300, 5  # the first so many values go into an engine, and of those that follow one in so many
_seen: set[int] = set()
_given = itertools.count()


def there_and_back(value: object) -> bool:
    """Through the journal's text. Whether it is new to this process: most inputs lead to the same values."""
    text = json.dumps(encode(value), ensure_ascii=False, allow_nan=False)
    known = hash(text)
    if known in _seen:
        return False
    if len(_seen) > 200_000:
        _seen.clear()
    _seen.add(known)
    assert decoder().decode(json.loads(text)) == value, text
    return True


def taken(state: State, event: Event) -> None:
    """The engine takes it in and can tell of it: for the log, the status, the journal.

    That takes ten times as long as the port takes for the value, so most are left out when many have come.
    """
    number = next(_given)
    if (number >= ALL and number % SOME) or not there_and_back(event):
        return
    engine = Engine(state)
    step = engine.handle(event, NOW + 1.0)
    assert step.wake_at > NOW + 1.0
    for finding in step.findings:
        str(finding).encode("utf-8", "backslashreplace")
    for effect in step.effects:
        str(effect)
        encode(effect)
        if isinstance(effect, SetEndpoint):
            address = ipaddress.ip_address(effect.endpoint.address)
            assert not (address.is_loopback or address.is_unspecified or address.is_multicast), effect
    json.dumps(status(engine.state, NOW + 1.0, "1", 0.0, "/"), allow_nan=False)
    json.dumps([explanations(engine.state, "", NOW + 1.0), planned(engine.state)], allow_nan=False)
