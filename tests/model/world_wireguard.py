"""WireGuard in simulated time: the router's devices and the far sites, by the protocol's own timers.

A model for tests, from the whitepaper and drivers/net/wireguard/timers.c: a handshake every REKEY_TIMEOUT
while something waits for it (18 tries), a session of REJECT_AFTER_TIME, a keepalive after KEEPALIVE_TIMEOUT
where data came and nothing went back, a new handshake where data went and nothing came for 15 s, roaming to
wherever authenticated packets come from, and the cached source address that keeps a tunnel on a dead WAN
until its endpoint is set again. Sizes are those on the wire: 148, 92, and 32 plus the padded payload.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from wgrouter.core.model import DeviceSeen, Endpoint, PeerSeen

INITIATION, RESPONSE, EMPTY, DATA = 148, 92, 32, 128
REKEY_TIMEOUT, REKEY_AFTER, REJECT_AFTER, KEEPALIVE, SILENCE = 5.0, 120.0, 180.0, 10.0, 15.0
TRIES = 18

Known = tuple[str, int, int, int]  # our WAN, the number of its NAT, our port, the family


@dataclass
class Door:
    """A way into a site: the name that leads there, and where it is now."""

    host: str
    addresses: dict[int, str]
    port: int
    open: bool = True


@dataclass
class Site:
    """The far end of one peer. `session` and `known` are what its WireGuard remembers of us."""

    key: str
    doors: list[Door]
    keepalive: int = 0
    up: bool = True
    answers_ping: bool = True
    session: int = 0
    previous: int = 0
    known: Known | None = None  # where it sends to
    door: int = 0  # by which we came last
    wanted: bool = False  # somebody sends to it now and then

    def at(self, endpoint: Endpoint) -> int | None:
        for number, door in enumerate(self.doors):
            if door.open and door.addresses.get(endpoint.family) == endpoint.address:
                return number if door.port == endpoint.port else None
        return None


@dataclass
class Peer:
    """What the router's kernel knows of a peer."""

    device: str
    site: Site
    keepalive: int
    allowed: tuple[str, ...]
    endpoint: Endpoint | None = None
    handshake: tuple[int, int] = (0, 0)
    rx: int = 0
    tx: int = 0
    session: int = 0
    previous: int = 0  # packets of it may still be on their way
    session_at: float = -1e9
    heard_at: float = -1e9  # anything authenticated
    sent_at: float = -1e9
    source: str = ""  # the WAN whose address is cached as the source
    staged: list[Callable[[], None] | None] = field(default_factory=list)
    initiated_at: float = -1e9
    tries: int = 0
    asked: int = 0  # generation of the "nothing came back" timer
    alarm: bool = False
    shown: PeerSeen | None = None


class Network(Protocol):
    """What the model needs of the world around it."""

    now: float
    clock_right: bool

    def push(self, after: float, what: Callable[[], None]) -> None: ...

    def way_out(self, device: str, port: int, endpoint: Endpoint, source: str) -> tuple[str, float] | None:
        """(WAN, one-way delay) for an outer packet that arrives; None if it is lost."""

    def way_in(self, known: Known, port: int) -> float | None:
        """The delay of a packet back to where one came from; None if it is lost."""

    def nat(self, wan: str) -> int: ...


class Tunnels:
    """All WireGuard devices of the router. `ports` and `marks` are by device name."""

    def __init__(self, net: Network) -> None:
        self.net = net
        self.peers: dict[tuple[str, str], Peer] = {}
        self.ports: dict[str, int] = {}
        self.marks: dict[str, int] = {}
        self.shown: dict[str, DeviceSeen] = {}
        self.sessions = 0

    def add(self, peer: Peer, port: int) -> None:
        self.peers[peer.device, peer.site.key] = peer
        self.ports.setdefault(peer.device, port)
        self.marks.setdefault(peer.device, 0)
        self._keep(peer)
        self._site_keeps(peer)

    def look(self) -> dict[str, DeviceSeen]:
        """As a dump of the devices shows them; what did not change is the same object again."""
        for name, port in self.ports.items():
            peers: dict[str, PeerSeen] = {}
            for (device, key), peer in self.peers.items():
                if device == name:
                    seen = PeerSeen(
                        key, peer.endpoint, peer.handshake, peer.rx, peer.tx, peer.keepalive, peer.allowed
                    )
                    if peer.shown != seen:
                        peer.shown = seen
                    assert peer.shown is not None
                    peers[key] = peer.shown
            seen_device = DeviceSeen(name, "", port, self.marks[name], False, peers)
            if self.shown.get(name) != seen_device:
                self.shown[name] = seen_device
        return dict(self.shown)

    # ------------------------------------------------------------ what can be done to it

    def set_endpoint(self, peer: Peer, endpoint: Endpoint) -> None:
        peer.endpoint, peer.source = endpoint, ""

    def provoke(self, peer: Peer) -> None:
        self.send(peer, None, EMPTY)

    def restart(self, device: str, port: int) -> None:
        """Down and up: sessions and port are new, endpoints are what netifd resolves (here: as before)."""
        self.ports[device] = port
        for peer in self.peers.values():
            if peer.device == device:
                peer.session, peer.previous, peer.staged, peer.tries, peer.source = 0, 0, [], 0, ""
                peer.handshake, peer.rx, peer.tx = (0, 0), 0, 0

    def fresh(self, peer: Peer) -> bool:
        """Whether both ends share a session now."""
        return peer.session != 0 and peer.session == peer.site.session and self._valid(peer)

    def _valid(self, peer: Peer) -> bool:
        return peer.session != 0 and self.net.now - peer.session_at < REJECT_AFTER

    # ------------------------------------------------------------ the router's side

    def send(self, peer: Peer, answered: Callable[[], None] | None, size: int = DATA) -> None:
        """A packet into the tunnel; `answered` is called when its answer (an echo) is back."""
        if peer.endpoint is None:
            return
        if not self._valid(peer):
            peer.staged = [*peer.staged, answered][-4:]
            if self.net.now - peer.initiated_at >= REKEY_TIMEOUT:
                peer.tries = 0
                self._initiate(peer)
            return
        if self.net.now - peer.session_at >= REKEY_AFTER and self._may_initiate(peer):
            self._initiate(peer)
        self._transmit(peer, answered, size)

    def _transmit(self, peer: Peer, answered: Callable[[], None] | None, size: int) -> None:
        peer.tx += size
        peer.sent_at = self.net.now
        session = peer.session
        if size > EMPTY and not peer.alarm:
            peer.alarm = True
            peer.asked += 1
            number = peer.asked
            self.net.push(SILENCE, lambda: self._silence(peer, number))
        self._outward(peer, lambda known, door: self._arrived(peer, session, answered, size, known, door))

    def _silence(self, peer: Peer, number: int) -> None:
        if peer.alarm and peer.asked == number:
            peer.alarm = False
            peer.staged = peer.staged or [None]
            peer.tries = 0
            self._initiate(peer)

    def _may_initiate(self, peer: Peer) -> bool:
        return self.net.now - peer.initiated_at >= REKEY_TIMEOUT

    def _initiate(self, peer: Peer) -> None:
        if not self._may_initiate(peer) or peer.endpoint is None:
            return
        peer.initiated_at = peer.sent_at = self.net.now
        peer.tx += INITIATION
        peer.tries += 1
        tries = peer.tries
        began = self.net.now
        self._outward(peer, lambda known, door: self._asked(peer, known, door))
        self.net.push(REKEY_TIMEOUT + 0.1, lambda: self._again(peer, tries, began))

    def _again(self, peer: Peer, tries: int, began: float) -> None:
        if peer.session_at >= began or peer.tries != tries or peer.initiated_at != began:
            return
        if tries >= TRIES:
            peer.staged, peer.tries = [], 0
        elif peer.staged:
            self._initiate(peer)

    def _outward(self, peer: Peer, arrive: Callable[[Known, int], None]) -> None:
        """One packet to the endpoint, by the route that the kernel has now."""
        assert peer.endpoint is not None
        port = self.ports[peer.device]
        way = self.net.way_out(peer.device, port, peer.endpoint, peer.source)
        if way is None:
            return
        wan, delay = way
        to = peer.endpoint
        known = (wan, self.net.nat(wan), port, to.family)

        def there() -> None:
            door = peer.site.at(to)
            if peer.site.up and door is not None:
                arrive(known, door)

        self.net.push(delay, there)

    # ------------------------------------------------------------ the far side

    def _asked(self, peer: Peer, known: Known, door: int) -> None:
        """An initiation has come; one that is older than the last (a wrong clock) is dropped in silence."""
        if not self.net.clock_right:
            return
        site = peer.site
        self.sessions += 1
        number = self.sessions
        site.known, site.door = known, door
        self._inward(peer, RESPONSE, lambda: self._answered(peer, number))

    def _answered(self, peer: Peer, number: int) -> None:
        peer.previous, peer.session, peer.session_at = peer.session, number, self.net.now
        peer.site.previous, peer.site.session = peer.site.session, number
        peer.handshake = (number, 0)
        peer.tries = 0
        staged, peer.staged = peer.staged, []
        for answered in staged or [None]:
            self._transmit(peer, answered, DATA if answered else EMPTY)

    def _arrived(
        self,
        peer: Peer,
        session: int,
        answered: Callable[[], None] | None,
        size: int,
        known: Known,
        door: int,
    ) -> None:
        site = peer.site
        if session not in (site.session, site.previous):
            return  # of a session it does not have: dropped without a word
        site.known, site.door = known, door
        if size == EMPTY:
            return
        if answered is not None and site.answers_ping:
            self._inward(peer, DATA, answered)
        else:
            self.net.push(KEEPALIVE, lambda: self._inward(peer, EMPTY, None))

    def _inward(self, peer: Peer, size: int, arrive: Callable[[], None] | None) -> None:
        """A packet from the site to where it last heard from us."""
        site = peer.site
        if not site.up or site.known is None or (size != RESPONSE and not self._valid(peer)):
            return
        door = site.doors[site.door]
        family = site.known[3]
        delay = self.net.way_in(site.known, self.ports[peer.device])
        if family not in door.addresses or delay is None:
            return
        comes_from = Endpoint(door.addresses[family], door.port)
        wan = site.known[0]
        session = site.session

        def here() -> None:
            if size != RESPONSE and session not in (peer.session, peer.previous):
                return
            peer.rx += size
            peer.heard_at = self.net.now
            peer.alarm = False
            peer.endpoint, peer.source = comes_from, wan
            if size == DATA:
                self.net.push(KEEPALIVE, lambda heard=self.net.now: self._polite(peer, heard))
            if arrive is not None:
                arrive()

        self.net.push(delay, here)

    # ------------------------------------------------------------ keepalives

    def _polite(self, peer: Peer, heard: float) -> None:
        """Data came and nothing went back since."""
        if peer.sent_at < heard and self._valid(peer):
            self._transmit(peer, None, EMPTY)

    def _keep(self, peer: Peer) -> None:
        """persistent_keepalive: each interval without a packet either way."""
        wait = float(peer.keepalive or 25)
        idle = self.net.now - max(peer.sent_at, peer.heard_at)
        if peer.keepalive and idle >= peer.keepalive:
            self.send(peer, None, EMPTY)
            idle = 0.0
        self.net.push(max(wait - idle, 1.0), lambda: self._keep(peer))

    def _site_keeps(self, peer: Peer) -> None:
        site = peer.site
        if site.keepalive and site.session:
            self._inward(peer, EMPTY, None)
        self.net.push(float(site.keepalive or 60), lambda: self._site_keeps(peer))
