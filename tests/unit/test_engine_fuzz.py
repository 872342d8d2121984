"""Whatever the ports can say, in any order: the engine does not stop, keeps its rules, and can be written."""

from __future__ import annotations

import ipaddress
import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wgrouter.core.codec import Decoder, encode
from wgrouter.core.engine import Engine
from wgrouter.core.messages import (
    AddRoute,
    Answered,
    Commanded,
    Configured,
    Event,
    Failed,
    Hinted,
    Look,
    Observed,
    Record,
    Renew,
    Replied,
    SetEndpoint,
    Stopping,
    Unanswered,
    Unsent,
    Woke,
)
from wgrouter.core.model import (
    EVERYTHING,
    Address,
    DeviceSeen,
    Endpoint,
    Hop,
    Interface,
    Link,
    Nameserver,
    Net,
    PeerSeen,
    Route,
    Rule,
)
from wgrouter.core.report import explanations, planned, status
from wgrouter.core.settings import Dns, HostPort, Ladder, Peer, Routing, Settings, TrafficRule, Tunnel, Wan
from wgrouter.shell.replay import classes

ADDRESSES = st.sampled_from(
    [
        "192.0.2.1",
        "192.0.2.77",
        "10.0.0.2",
        "10.0.0.9",
        "127.0.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
        "169.254.1.1",
        "2001:db8::1",
        "2001:db8:1::2",
        "::1",
        "::",
        "ff02::1",
        "fe80::1",
        "::ffff:192.0.2.1",
        "64:ff9b::7f00:1",
        "fd00::1",
    ]
)
HOSTS = ("a.example", "b.example", "192.0.2.77", "2001:db8::1", "-bad-", "x" * 300, "caf\udce9.example")
DEVICES = st.sampled_from(("eth1", "eth2", "pppoe-wan", "wg0", "wg1", "br-lan", "lo", "gone"))
PREFIXES = st.sampled_from(
    [
        "0.0.0.0/0",
        "::/0",
        "0.0.0.0/1",
        "128.0.0.0/1",
        "::/1",
        "8000::/1",
        "10.0.0.0/24",
        "192.0.2.0/24",
        "2001:db8::/64",
    ]
)
TABLES = st.sampled_from((254, 255, 7400, 7401, 7402, 7430, 52, 1))
KEYS = st.sampled_from(("key0", "key1", "other"))
FEW = {"max_size": 4}

links = st.builds(
    Link,
    st.integers(1, 9),
    DEVICES,
    st.booleans(),
    st.booleans(),
    st.sampled_from(("", "wireguard", "tun", "veth")),
)
hops = st.builds(Hop, st.just("") | ADDRESSES, DEVICES, st.integers(1, 9), st.booleans())


@st.composite
def routes(draw: st.DrawFn) -> Route:
    dst = draw(PREFIXES)
    family = 6 if ":" in dst else 4
    source = draw(st.sampled_from(("", "", "2001:db8:7::/56" if family == 6 else "")))
    return Route(
        family,
        draw(TABLES),
        dst,
        tuple(draw(st.lists(hops, max_size=3))),
        draw(st.sampled_from((0, 10, 20, 9999))),
        draw(st.sampled_from((2, 3, 157))),
        draw(st.sampled_from(("unicast", "unicast", "unreachable", "blackhole"))),
        src=source,
        linkdown=draw(st.booleans()),
    )


@st.composite
def addresses(draw: st.DrawFn) -> Address:
    address = draw(ADDRESSES)
    return Address(draw(DEVICES), f"{address}/{64 if ':' in address else 24}", usable=draw(st.booleans()))


rules = st.builds(
    Rule,
    st.sampled_from((4, 6)),
    st.sampled_from((0, 1000, 2001, 5210, 6000, 6071, 6180, 29000, 32766)),
    TABLES,
    st.sampled_from((0, 0x100, 0x3F000000, 0x21000000)),
    st.sampled_from((0, 0x3F00, 0x3F000000, 0x00FF0000, 0xFFFFFFFF)),
    protocol=st.sampled_from((2, 157)),
    suppress=st.sampled_from((-1, 0)),
)


@st.composite
def nets(draw: st.DrawFn) -> Net:
    found = draw(st.lists(links, max_size=5))
    return Net(
        {link.name: link for link in found},
        tuple(draw(st.lists(addresses(), **FEW))),
        tuple(draw(st.lists(routes(), max_size=8))),
        tuple(draw(st.lists(rules, **FEW))),
    )


@st.composite
def devices(draw: st.DrawFn) -> dict[str, DeviceSeen]:
    found = {}
    for name in draw(st.sets(st.sampled_from(("wg0", "wg1", "wg7")))):
        seen = st.builds(
            PeerSeen,
            KEYS,
            st.none() | st.builds(Endpoint, ADDRESSES, st.sampled_from((0, 51820, 65535))),
            st.tuples(st.integers(0, 3), st.integers(0, 1)),
            st.integers(0, 2000),
            st.integers(0, 2000),
            st.sampled_from((0, 25)),
        )
        peers = {peer.public_key: peer for peer in draw(st.lists(seen, max_size=3))}
        mark = draw(st.sampled_from((0, 0x3F000000, 0x77)))
        found[name] = DeviceSeen(name, "", draw(st.sampled_from((0, 51820))), mark, False, peers)
    return found


servers = st.builds(
    Nameserver, ADDRESSES, st.sampled_from((53, 5353)), st.just("") | DEVICES, st.sampled_from(("", "wan"))
)
interfaces = st.builds(
    Interface,
    st.sampled_from(("wan", "wanb", "wg0")),
    st.just("") | DEVICES,
    st.booleans(),
    dns=st.lists(ADDRESSES, max_size=2).map(tuple),
    gateways=st.lists(ADDRESSES, max_size=2).map(tuple),
)
observed = st.builds(
    Observed,
    st.none() | nets(),
    st.none() | devices(),
    st.none() | st.lists(servers, max_size=3).map(tuple),
    st.none() | st.lists(interfaces, max_size=3).map(lambda found: {one.name: one for one in found}),
    st.booleans(),
    st.none() | st.sampled_from(("", "digest")),
)
NAMES = st.sampled_from((*HOSTS, "_wireguard._udp.a.example", "c.example", "", "."))
records = st.builds(
    Record,
    NAMES,
    st.sampled_from(("A", "AAAA", "CNAME", "SRV", "TXT")),
    st.integers(-1, 2**32),
    ADDRESSES | NAMES | st.just("1 2 51820 c.example") | st.text(max_size=12),
)
RCODES = st.sampled_from(("NOERROR", "NOERROR", "NXDOMAIN", "SERVFAIL", "REFUSED", "BADVERS"))
IDS = st.integers(1, 60)
EFFECTS = st.sampled_from(
    (
        Look(EVERYTHING),
        SetEndpoint("wg0", "key0", Endpoint("192.0.2.1", 1)),
        AddRoute(Route(4, 7400, "0.0.0.0/0")),
        Renew("wg0"),
    )
)
SWITCHES = st.dictionaries(
    st.sampled_from(("wan", "seconds", "x")),
    st.sampled_from(("wan", "auto", "eth1", "600", "-1", "nan", "")),
    max_size=2,
)
events = st.one_of(
    observed,
    observed,
    st.builds(Answered, IDS, RCODES, st.booleans(), st.lists(records, **FEW).map(tuple), st.integers(0, 99)),
    st.builds(Unanswered, IDS, st.sampled_from(("timeout", "refused", "unreachable", "garbage"))),
    st.builds(Replied, IDS, st.floats(0.0, 3.0)),
    st.builds(Unsent, IDS, st.sampled_from(("", "refused", "sent, nothing received"))),
    st.builds(Failed, EFFECTS, st.text(max_size=9), st.sampled_from((0, 16, 125))),
    st.builds(Commanded, st.sampled_from(("refresh", "reresolve", "switch", "dance")), SWITCHES),
    st.builds(Hinted, st.sampled_from(("rtnetlink", "ubus", "hotplug"))),
    st.just(Woke()),
)


@st.composite
def configurations(draw: st.DrawFn) -> Configured:
    tunnels = []
    for name in ("wg0", "wg1"):
        peers = [
            Peer(
                name,
                key,
                f"{key}\udce9",
                tuple(HostPort(host) for host in draw(st.lists(st.sampled_from(HOSTS), max_size=3))),
                draw(st.booleans()),
                draw(st.sampled_from(("auto", "ipv4", "ipv6", "prefer_ipv4"))),
                draw(st.sampled_from((0, 25))),
                draw(st.sampled_from(((), ("10.0.0.1/32",), ("0.0.0.0/0", "::/0")))),
                draw(st.sampled_from(("", "10.0.0.1"))),
            )
            for key in draw(st.sets(KEYS, max_size=2))
        ]
        ladder = Ladder(
            draw(st.sampled_from(("auto", "yes", "no"))), draw(st.booleans()), draw(st.booleans())
        )
        wans = draw(st.sampled_from(((), ("wan",), ("nowhere",))))
        mark = draw(st.sampled_from((0, 0x77)))
        tunnels.append(Tunnel(name, (), draw(st.sampled_from((0, 51820))), mark, wans, ladder, tuple(peers)))
    uplinks = (Wan("wan", "wan", "eth1"), Wan("wanb", "", "eth2", metered=draw(st.booleans())))
    rule = TrafficRule("r", dst_port="443", protocol="tcp", wans=("wanb",), sticky=draw(st.booleans()))
    return Configured(
        Settings(
            draw(st.sampled_from((True, True, True, False))),
            tuple(tunnels),
            draw(st.sampled_from(((), uplinks))),
            Dns(servers=draw(st.sampled_from(((), ("192.0.2.53#5353", "::1"))))),
            routing=Routing(
                draw(st.booleans()), draw(st.booleans()), draw(st.sampled_from(("new", "all", "never")))
            ),
            rules=draw(st.sampled_from(((), (rule,)))),
        ),
        "seed\udce9",
    )


CORE = Decoder(classes())


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(configurations(), st.lists(st.tuples(st.floats(0.0, 40.0), events | configurations()), max_size=25))
def test_any_events_in_any_order(first: Configured, story: list[tuple[float, Event]]) -> None:
    engine, now = Engine(), 1000.0
    wake = engine.handle(first, now).wake_at
    for wait, event in story:
        if now < wake < now + wait:
            now = wake
            assert engine.handle(Woke(), now).wake_at > now
        now += wait
        step = engine.handle(event, now)
        wake = step.wake_at
        assert wake > now
        assert all("\ufffd" not in str(finding) for finding in step.findings)
        for effect in step.effects:
            encode(effect)
            if isinstance(effect, SetEndpoint):
                allowed(engine, effect)
        json.dumps(status(engine.state, now, "1", 0.0, "/"), allow_nan=False)
    json.dumps([explanations(engine.state, "", now), planned(engine.state)], allow_nan=False)
    state = json.loads(json.dumps(encode(engine.state), allow_nan=False))
    assert CORE.decode(state) == engine.state
    engine.handle(Stopping(), now + 1.0)


def allowed(engine: Engine, effect: SetEndpoint) -> None:
    """No answer can make this an endpoint; what the device had, or the configuration says, is its own."""
    seen = (engine.state.world.wireguard or {})[effect.device].peers[effect.public_key]
    said = {place.host for peer in engine.state.settings.peers() for place in peer.endpoints}
    if effect.endpoint != seen.endpoint and effect.endpoint.address not in said:
        address = ipaddress.ip_address(effect.endpoint.address)
        assert not (address.is_loopback or address.is_unspecified or address.is_multicast), effect
        assert not address.is_link_local, effect
