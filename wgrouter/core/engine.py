"""Engine.handle and nothing else: one event through links → uplink → names → tunnels → intent → plan.

Every machine's memory is a frozen value in State, so the journal can keep one as a checkpoint and a
replay can start there.
"""

from __future__ import annotations

from collections.abc import Mapping
from errno import ECANCELED

from wgrouter.core import care, detours, links, names, news, outlook, plan, refusals, routing, tunnels, uplink
from wgrouter.core.answers import is_literal
from wgrouter.core.findings import Finding, Why
from wgrouter.core.link_watch import LinkMemory
from wgrouter.core.machine import Context
from wgrouter.core.messages import (
    CHANGES,
    ApplyNft,
    Commanded,
    Configured,
    Effect,
    Event,
    Failed,
    Hinted,
    Look,
    Observed,
    RemoveNft,
    Step,
    Stopping,
    Woke,
)
from wgrouter.core.model import (
    EVERYTHING,
    INTERFACES,
    NAMESERVERS,
    NET,
    NEVER,
    NFT,
    WIREGUARD,
    DeviceSeen,
    Endpoint,
    Instant,
    Nameserver,
    World,
)
from wgrouter.core.name_memory import NameMemory, WantedName
from wgrouter.core.news import NewsMemory
from wgrouter.core.records import dataclass, field, replace
from wgrouter.core.settings import HostPort, Peer, Settings
from wgrouter.core.uplink import UplinkMemory

NET_LOOK = 30.0  # seconds between looks at the network that no hint asked for
HINTED = {"rtnetlink": (NET, NAMESERVERS), "nftables": (NFT,)}  # what to look at; else at everything
RECENT = 64  # findings kept for `status`


@dataclass(frozen=True, slots=True)
class Told:
    """A finding and when it was said."""

    at: Instant
    finding: Finding


@dataclass(frozen=True, slots=True)
class State:
    """Settings, World and every machine's memory."""

    settings: Settings = Settings()
    seed: str = ""
    configured: bool = False
    stopped: bool = False
    world: World = World()
    exits: tuple[outlook.Exit, ...] = ()  # of this World and these settings, as are the servers: reading them
    servers: tuple[Nameserver, ...] = ()  # anew at each step was half of the agent's CPU time
    wanted: tuple[WantedName, ...] = ()  # by the settings
    links: LinkMemory = LinkMemory()
    uplink: UplinkMemory = UplinkMemory()
    names: NameMemory = NameMemory()
    tunnels: care.TunnelMemory = care.TunnelMemory()
    signature: tuple[str, ...] = ()  # of the network around the tunnels
    generations: Mapping[str, int] = field(
        default_factory=dict
    )  # of the tunnels' outer paths, as last acted upon
    neighbours: tuple[str, ...] = ()  # told of
    failing: Mapping[str, str] = field(default_factory=dict)  # effect → reason, told of
    asked: tuple[Effect, ...] = ()  # of the routing since the World was last seen: it cannot show them yet
    refused: refusals.Refusals = ()  # of the routing, by the kernel
    net_look_at: Instant = 0.0
    recent: tuple[Told, ...] = ()
    news: NewsMemory = NewsMemory()


class Engine:
    """The one mutable thing of the core: it holds the State of now."""

    def __init__(self, state: State | None = None) -> None:
        self.state = state or State()

    def handle(self, event: Event, now: Instant) -> Step:
        """What follows from this event. `wake_at` lies ahead of `now`, or is NEVER."""
        if not self.state.configured and not isinstance(event, Configured):
            return Step()
        if self.state.stopped:
            return Step()
        self.state, step = _handle(self.state, event, now)
        return step


def context_of(state: State, now: Instant) -> Context:
    """What the machines may see."""
    return Context(now, state.settings, state.world, state.seed)


def wanted_names(peers: tuple[Peer, ...]) -> tuple[WantedName, ...]:
    """Every host name of every endpoint, with the types its peers want."""
    found = []
    for peer in peers:
        types = {"ipv4": ("A",), "ipv6": ("AAAA",)}.get(peer.family, ("AAAA", "A"))
        found += [
            WantedName(place.host, types, peer.srv) for place in peer.endpoints if not is_literal(place.host)
        ]
    return tuple(found)


def outlook_of(
    state: State,
    now: Instant,
    changed: bool = False,
    rerouted: frozenset[str] = frozenset(),
    news: frozenset[str] = frozenset(),
) -> care.Outlook:
    """What the tunnels may know of names and routes."""
    memory = state.names
    services = {name.host for name in state.wanted if name.srv}

    def resolved(place: HostPort) -> tuple[Endpoint, ...]:
        name = names.look_up(memory, place.host, srv=place.host in services)
        return name.at(place.port) if name else ()

    def settled(host: str, since: Instant) -> bool:
        name = names.look_up(memory, host, srv=host in services)
        return name is None or name.settled(since)

    def trouble(host: str) -> str:
        name = names.look_up(memory, host, srv=host in services)
        return name.error if name else ""

    def ways(device: str, family: int) -> tuple[str, ...]:
        uplinks, choices = links.view(state.links), uplink.chosen(state.uplink)
        return routing.ways(state.world, uplinks, choices, state.settings, device, family)

    reachable, enabled = outlook.reachable(state.exits), state.settings.enabled
    return care.Outlook(resolved, settled, trouble, reachable, changed, rerouted, enabled, news, ways)


def wanted_of(state: State) -> routing.Wanted:
    """What should be true of the routing, with what was decided so far."""
    uplinks, choices = links.view(state.links), uplink.chosen(state.uplink)
    resting, ways = uplink.resting(state.uplink), detours.courses(state.tunnels)
    return routing.intent(state.world, uplinks, choices, state.settings, resting, ways)


def devices_of(settings: Settings) -> frozenset[str]:
    """The WireGuard devices under care."""
    return frozenset(tunnel.device for tunnel in settings.tunnels)


def _handle(state: State, event: Event, now: Instant) -> tuple[State, Step]:
    if isinstance(event, Stopping):
        leaving = plan.clean(state.world, state.settings)
        return replace(state, stopped=True), Step(leaving, (Finding(Why.AGENT_STOPPED),))
    effects: list[Effect] = []
    findings: list[Finding] = []
    seen, before, cares = state.world, state.world.wireguard, state.tunnels.peers
    state = _taken_in(state, event, now, effects, findings)
    if state.world is not seen or isinstance(event, Configured):
        found = outlook.exits(state.world.net, devices_of(state.settings))
        state = replace(state, exits=found, servers=outlook.nameservers(state.world, state.settings, found))
    state, changed = _surroundings(state, event, now)
    if changed:
        state = replace(state, names=names.network_changed(state.names, now))
    context = context_of(state, now)

    watched = links.step(state.links, event, context)
    uplinks = links.view(watched.memory)
    chosen = uplink.step(state.uplink, event, context, uplinks)
    state = replace(state, links=watched.memory, uplink=chosen.memory)
    effects += watched.effects + chosen.effects
    findings += watched.findings + chosen.findings

    state = _adopted(state, before, uplinks, now)
    state = _routed(state, event, now, uplinks, effects, findings)
    generations = {
        tunnel.device: sum(uplink.generation(state.uplink, tunnel.device, family) for family in (4, 6))
        for tunnel in state.settings.tunnels
    }
    rerouted = frozenset(d for d, number in generations.items() if number != state.generations.get(d, number))
    if generations != state.generations:
        state = replace(state, generations=generations)

    state = _tunnels(state, event, now, before, changed, rerouted, effects, findings)
    if any(isinstance(effect, CHANGES) for effect in effects):
        # The rest shows itself cheaply; for the nft table a program is started.
        table = any(isinstance(effect, (ApplyNft, RemoveNft)) for effect in effects)
        effects.append(Look((NET, WIREGUARD, NFT) if table else (NET, WIREGUARD)))
    recent = (
        (*state.recent, *(Told(now, finding) for finding in findings))[-RECENT:] if findings else state.recent
    )
    context = context_of(state, now)
    heard = news.step(
        state.news,
        context,
        uplinks,
        state.uplink.choices,
        findings,
        before,
        cares,
        lambda: (told.finding for told in reversed(recent)),
    )
    effects += heard.effects
    state = replace(state, recent=recent, news=heard.memory)
    moments = (
        links.wake_at(state.links, context),
        uplink.wake_at(state.uplink, context),
        names.wake_at(state.names, context),
        tunnels.wake_at(state.tunnels),
        refusals.wake_at(state.refused),
        state.net_look_at,
    )
    wake = min((moment for moment in moments if moment > now), default=NEVER)
    return state, Step(tuple(effects), tuple(findings), wake)


def _taken_in(
    state: State, event: Event, now: Instant, effects: list[Effect], findings: list[Finding]
) -> State:
    """The event's own news: settings, World, failures, wishes."""
    if isinstance(event, Configured):
        settings = event.settings
        state = replace(state, settings=settings, seed=event.seed or state.seed, configured=True, refused=())
        state = replace(state, wanted=wanted_names(settings.peers()))
        wanted = names.configure(state.names, state.wanted, context_of(state, now))
        effects.append(Look((*EVERYTHING, NFT)))
        counts: dict[str, str | int | float] = {
            "tunnels": len(settings.tunnels),
            "peers": len(settings.peers()),
            "wans": len(settings.wans) or "discovered",
        }
        findings.append(Finding(Why.CONFIG_LOADED, "", counts))
        if not settings.enabled:
            findings.append(Finding(Why.AGENT_DISABLED))
        return replace(state, names=wanted, net_look_at=now + NET_LOOK)
    if isinstance(event, Observed):
        old = state.world
        world = World(
            old.net if event.net is None else event.net,
            old.wireguard if event.wireguard is None else event.wireguard,
            old.nameservers if event.nameservers is None else event.nameservers,
            old.interfaces if event.interfaces is None else event.interfaces,
            event.clock_trusted,
            old.nft if event.nft is None else event.nft,
        )
        if old.clock_trusted != event.clock_trusted:
            why = Why.CLOCK_RIGHT if event.clock_trusted else Why.CLOCK_WRONG
            findings.append(Finding(why, "", {"now": "a time before this program was made"}))
        known = refusals.judged(state.refused, old.net, world.net)
        return replace(state, world=world, refused=known)
    if isinstance(event, Hinted):
        effects.append(Look(HINTED.get(event.source, EVERYTHING)))
    elif isinstance(event, Failed):
        if event.errno == ECANCELED:  # never begun: what failed before it is told
            return state
        state = replace(state, refused=refusals.refused(state.refused, event.effect, now))
        key = type(event.effect).__name__
        if state.failing.get(key) != event.reason:
            findings.append(Finding(Why.EFFECT_FAILED, "", {"effect": key, "reason": event.reason}))
            return replace(state, failing={**state.failing, key: event.reason})
    elif isinstance(event, Commanded):
        findings.append(Finding(Why.COMMANDED, "", {"verb": event.verb, "origin": event.origin}))
        effects.append(Look(EVERYTHING))
        state = replace(state, refused=())
    elif isinstance(event, Woke) and refusals.wake_at(state.refused) <= now:
        effects.append(Look((NET, WIREGUARD, NFT)))
    if now >= state.net_look_at:
        effects.append(Look((NET, NAMESERVERS, INTERFACES, NFT)))
        state = replace(state, net_look_at=now + NET_LOOK)
    return state


def _surroundings(state: State, event: Event, now: Instant) -> tuple[State, bool]:
    """Has the network around the tunnels changed? The first look is a change too: only then is there a
    network.
    """
    if not isinstance(event, Observed) or event.net is None:
        return state, False
    signature = outlook.signature(state.world.net, state.exits)
    if signature == state.signature:
        return state, False
    return replace(state, signature=signature), bool(signature)


def _adopted(
    state: State, before: Mapping[str, DeviceSeen] | None, uplinks: tuple[links.Uplink, ...], now: Instant
) -> State:
    """At the first look at WireGuard: what is there is taken over, before routing would tidy it away."""
    if before is not None or state.world.wireguard is None:
        return state

    def mark_of(wan: str) -> int:
        return routing.mark_of(uplinks, state.settings, wan)

    ways, devices = outlook_of(state, now).ways, state.world.wireguard
    memory = detours.adopted(state.tunnels, devices, state.settings.tunnels, ways, mark_of, now)
    return replace(state, tunnels=memory)


def _routed(
    state: State,
    event: Event,
    now: Instant,
    uplinks: tuple[links.Uplink, ...],
    effects: list[Effect],
    findings: list[Finding],
) -> State:
    """Intent − World, and what follows once the kernel shows it.

    Of a fresh look, or where a decision changed; else each event would ask for the same again.
    """
    decided = isinstance(event, (Observed, Configured, Commanded)) or bool(findings)
    if not decided:
        return state
    wanted = wanted_of(state)
    outstanding = plan.plan(wanted, state.world, state.settings)
    fresh = isinstance(event, Observed) and event.net is not None
    asked = () if fresh else state.asked
    known = refusals.still(state.refused, outstanding)
    new = tuple(effect for effect in outstanding if effect not in asked)
    if refusals.hopeless(known, new, now):
        new = ()
    effects += new
    state = replace(state, asked=asked + new, refused=known)
    if fresh:
        settled = uplink.settle(state.uplink, outstanding, wanted, uplinks, now)
        effects += settled.effects
        findings += settled.findings
        state = replace(state, uplink=settled.memory)
        near = routing.neighbours(state.world)
        findings += [finding for finding in near if str(finding) not in state.neighbours]
        state = replace(state, neighbours=tuple(map(str, near)))
    return state


def _tunnels(
    state: State,
    event: Event,
    now: Instant,
    before: Mapping[str, DeviceSeen] | None,
    changed: bool,
    rerouted: frozenset[str],
    effects: list[Effect],
    findings: list[Finding],
) -> State:
    """Names first, since tunnels act on answers; then once more for the names that the tunnels want anew."""
    context, servers = context_of(state, now), state.servers
    known = state.names
    asked = names.step(known, event, context, servers)
    state = replace(state, names=asked.memory)
    effects += asked.effects
    findings += asked.findings
    news = names.news(known, asked.memory, state.wanted)
    seen = outlook_of(state, now, changed, rerouted, news)
    turn = tunnels.step(state.tunnels, event, context, seen, before)
    effects += turn.effects
    findings += turn.findings
    state = replace(state, tunnels=turn.memory)
    hurried = state.names
    hosts = turn.hurry
    if isinstance(event, Commanded) and event.verb == "reresolve":
        hosts = tuple(name.host for name in state.wanted)
    for host in hosts:
        hurried = names.hurry(hurried, host, now)
    if hosts:
        again = names.step(hurried, Woke(), context, servers)
        effects += again.effects
        findings += again.findings
        hurried = again.memory
    return replace(state, names=hurried)
