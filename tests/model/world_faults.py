"""What can befall a World, as verbs, and how one is made at random from a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from tests.model.world import Wan as Uplink
from tests.model.world import World
from tests.model.world_wireguard import Door, Site
from wgrouter.core.messages import Commanded, Configured, Hinted
from wgrouter.core.model import Endpoint
from wgrouter.core.settings import Dns, Hold, HostPort, Ladder, Peer, Probing, Settings, Tunnel

Verb = Callable[[World, int, int], None]


def _wan(world: World, index: int) -> Uplink:
    return world.wans[index % len(world.wans)]


def _site(world: World, index: int) -> Site:
    return world.sites[index % len(world.sites)]


def cut(world: World, a: int, b: int) -> None:
    """The cable of a WAN is pulled, or put back."""
    _wan(world, a).carrier = not _wan(world, a).carrier
    world.changed()


def unplug(world: World, a: int, b: int) -> None:
    """A WAN's device goes with its routes, or comes again."""
    _wan(world, a).plugged = not _wan(world, a).plugged
    world.changed()


def hole(world: World, a: int, b: int) -> None:
    """A silent black hole, or its end."""
    _wan(world, a).hole = not _wan(world, a).hole


def lose(world: World, a: int, b: int) -> None:
    """A WAN loses packets: 0 to 45 %."""
    _wan(world, a).loss = (b % 4) * 0.15


def renumber(world: World, a: int, b: int) -> None:
    """A WAN gets another address: its NAT's mappings are gone with it."""
    wan = _wan(world, a)
    wan.renumbered += 1
    wan.nat += 1
    world.changed()


def rebind(world: World, a: int, b: int) -> None:
    """The provider's NAT forgets its mappings; new packets make new ones."""
    _wan(world, a).nat += 1


def stale(world: World, a: int, b: int) -> None:
    """The provider's NAT swallows what comes from the source ports now in use."""
    wan = _wan(world, a)
    wan.nat += 1
    wan.stale = set(world.tunnels.ports.values())


def move(world: World, a: int, b: int) -> None:
    """A site gets other addresses; its name follows after up to a minute."""
    site = _site(world, a)
    door = site.doors[b % len(site.doors)]
    readdress(world, door)
    world.push(b % 60 + 0.5, lambda: world.publish(door))


def roam(world: World, a: int, b: int) -> None:
    """A site gets other addresses and its name stays behind."""
    site = _site(world, a)
    readdress(world, site.doors[b % len(site.doors)])


def readdress(world: World, door: Door) -> None:
    world.number += 1
    number = world.number
    for family in door.addresses:
        # 198.18.0.0/15 has room for what a day brings.
        low = f"{18 + number // 40000 % 2}.{number // 200 % 200 + 1}.{number % 200 + 1}"
        door.addresses[family] = f"198.{low}" if family == 4 else f"2001:db8:a::{number:x}"


def die(world: World, a: int, b: int) -> None:
    """A site goes down, or comes up without its sessions."""
    site = _site(world, a)
    site.up = not site.up
    site.session, site.previous, site.known = 0, 0, None


def reboot(world: World, a: int, b: int) -> None:
    """A site forgets its sessions."""
    site = _site(world, a)
    site.session, site.previous, site.known = 0, 0, None


def block(world: World, a: int, b: int) -> None:
    """A site's port is blocked, or opened."""
    site = _site(world, a)
    door = site.doors[b % len(site.doors)]
    door.open = not door.open


def dns(world: World, a: int, b: int) -> None:
    """A WAN's DNS server changes its mind."""
    modes = ("good", "silent", "nxdomain", "servfail", "lie", "slow", "refused", "garbage")
    world.dns[_wan(world, a).name].mode = modes[b % len(modes)]


def dns_all(world: World, a: int, b: int) -> None:
    """All DNS servers fail in one way."""
    for index in range(len(world.wans)):
        dns(world, index, b)


def unclock(world: World, a: int, b: int) -> None:
    """The clock is set back to 1970, or set right."""
    world.clock_right = not world.clock_right


def refuse(world: World, a: int, b: int) -> None:
    """The kernel refuses one kind of effect for a while."""
    kinds = ("SetEndpoint", "AddRoute", "AddRule", "DeleteRule", "Look", "Provoke", "SetFwmark", "ApplyNft")
    kind = kinds[a % len(kinds)]
    world.failing[kind] = "Device or resource busy"
    world.push(5.0 + b % 120, lambda: world.failing.pop(kind, None) and None)


def deafen(world: World, a: int, b: int) -> None:
    """Hints are lost for a while."""
    world.deaf = True

    def hear() -> None:
        world.deaf = False

    world.push(10.0 + b % 300, hear)


def kill(world: World, a: int, b: int) -> None:
    """kill -9, and procd starts the agent again after 5 s or so."""
    world.life += 1  # what was asked for comes to nobody
    world.wake = float("inf")
    world.push(1.0 + b % 10, world.start)


def reload(world: World, a: int, b: int) -> None:
    """SIGHUP."""
    world.push(0.0, Configured(world.settings, world.seed))


def tamper(world: World, a: int, b: int) -> None:
    """Somebody with root's rights takes away what is ours, or what the agent set."""
    routing = world.settings.routing
    if b % 4 == 0 and world.ours:
        world.ours = world.ours[: a % len(world.ours)]
    elif b % 4 == 1:
        foreign = [rule for rule in world.rules if rule.protocol != routing.protocol]
        ours = [rule for rule in world.rules if rule.protocol == routing.protocol]
        world.rules = (*foreign, *ours[: a % (len(ours) + 1)])
    elif b % 4 == 2:
        for device in world.tunnels.marks:
            world.tunnels.marks[device] = 0
    else:
        world.nft = ""
    world.changed()


def hint(world: World, a: int, b: int) -> None:
    """Hotplug has something to say, as often as it likes."""
    for _ in range(b % 20):
        world.push(0.001, Hinted("hotplug", "wan", "ifup"))


def command(world: World, a: int, b: int) -> None:
    """Somebody types."""
    verbs = (("reresolve", {}), ("refresh", {}), ("switch", {"wan": _wan(world, a).name, "seconds": "120"}))
    verb, arguments = verbs[b % len(verbs)]
    world.push(0.0, Commanded(verb, arguments))


VERBS: Mapping[str, Verb] = {
    verb.__name__: verb
    for verb in (
        *(cut, unplug, hole, lose, renumber, rebind, stale, move, roam, die, reboot, block, dns, dns_all),
        *(unclock, refuse, deafen, kill, reload, tamper, hint, command),
    )
}


def heal(world: World) -> None:
    """Everything works from now on, and names say where sites are."""
    for wan in world.wans:
        wan.carrier = wan.plugged = True
        wan.hole, wan.loss, wan.stale = False, 0.0, set()
        world.dns[wan.name].mode = "good"
    for site in world.sites:
        site.up = True
        for door in site.doors:
            door.open = True
            world.publish(door)
    world.clock_right, world.deaf, world.failing = True, False, {}
    world.changed()


# ---------------------------------------------------------------- at random


def world_of(seed: int, fast: bool = False) -> World:
    """A router with 1 to 3 WANs and 1 to 6 peers; all that a configuration can say, said at random.

    `fast` probes WANs seldom, so that a day takes seconds.
    """
    chance = Random(seed)
    both = ((4,), (4, 6), (6, 4), (4, 6))
    wans = [Uplink(f"wan{n}", n, chance.choice(both)) for n in range(1, chance.randint(1, 3) + 1)]
    sites, tunnels = [], []
    count = chance.randint(1, 6)
    devices = ["wg0", "wg1"][: 1 if count == 1 else chance.randint(1, 2)]
    peers: dict[str, list[Peer]] = {device: [] for device in devices}
    for n in range(count):
        families = chance.choice(both)
        doors = [
            Door(f"site{n}{'ab'[d]}.example", dict.fromkeys(families, ""), 51820 + d)
            for d in range(chance.choice((1, 1, 2)))
        ]
        site = Site(f"key{n}", doors, chance.choice((0, 25)), answers_ping=chance.random() < 0.7)
        sites.append(site)
        device = chance.choice(devices)
        for d, door in enumerate(doors):
            for family in families:
                high = 100 + n * 2 + d
                door.addresses[family] = f"203.0.113.{high}" if family == 4 else f"2001:db8:c::{high:x}"
        peers[device].append(
            Peer(
                device,
                site.key,
                f"site{n}",
                tuple(HostPort(door.host, door.port) for door in doors),
                srv=chance.random() < 0.2,
                family=chance.choice(("auto", "auto", "prefer_ipv4", "prefer_ipv6", "ipv4")),
                keepalive=chance.choice((0, 25, 25)),
                allowed_ips=(f"172.16.{n}.1/32",),
                probe=f"172.16.{n}.1" if site.answers_ping and chance.random() < 0.5 else "",
            )
        )
    for device in devices:
        ladder = Ladder(
            new_port=chance.choice(("auto", "yes", "no")),
            renew=chance.random() < 0.5,
            restart=chance.random() < 0.5,
            backoff_max=chance.choice((60.0, 300.0, 900.0)),
            steps_per_hour=chance.choice((20, 60, 120)),
        )
        tunnels.append(
            Tunnel(
                device,
                listen_port=chance.choice((0, 51820)),
                fwmark=chance.choice((0, 0, 0, 0x77)),
                wans=chance.choice(((), (), ("wan1",))),
                ladder=ladder,
                peers=tuple(peers[device]),
            )
        )
    probing = Probing(interval=30.0, window=360.0) if fast else Probing(interval=2.0)
    settings = Settings(
        tunnels=tuple(tunnels),
        dns=Dns(ttl_min=chance.choice((5.0, 30.0)), retry_max=chance.choice((60.0, 300.0))),
        probing=probing,
        hold=Hold(up_after=chance.choice((5.0, 20.0))),
        look_interval=15.0 if fast else 5.0,
    )
    world = World(settings, wans, sites, str(seed), chance.random() < 0.7, chance.choice((20, 60, 300)))
    for index, peer in enumerate(world.tunnels.peers.values()):
        if index % 2 == 0 or not (peer.keepalive or chance.random() < 0.3):
            traffic(world, index, chance.choice((3.0, 20.0, 90.0) if not fast else (30.0, 90.0)))
        if chance.random() < 0.3:
            door = peer.site.doors[0]
            family, address = next(iter(door.addresses.items()))
            world.answered.add(address)
            peer.endpoint = Endpoint(address, door.port)  # as netifd set it at its start
    return world


def traffic(world: World, index: int, every: float) -> None:
    """The LAN sends something into a tunnel now and then, and gets an answer."""
    peer = list(world.tunnels.peers.values())[index]

    def send() -> None:
        world.tunnels.send(peer, lambda: None)
        world.push(every, send)

    peer.site.wanted = True
    world.push(every * 0.5, send)


def script(seed: int, hours: float, per_hour: float) -> list[tuple[float, str, int, int]]:
    """Faults at random: (seconds from now, verb, and two numbers for it)."""
    chance = Random(seed * 7919 + 1)
    count = int(hours * per_hour)
    times = sorted(chance.uniform(1.0, hours * 3600.0) for _ in range(count))
    return [
        (at, chance.choice(sorted(VERBS)), chance.randrange(1000), chance.randrange(1000)) for at in times
    ]


def schedule(world: World, faults: list[tuple[float, str, int, int]]) -> None:
    for at, verb, a, b in faults:
        world.push(at, lambda verb=verb, a=a, b=b: VERBS[verb](world, a, b))
