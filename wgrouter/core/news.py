"""What is news to the router's own scripts and to listeners on ubus: traffic goes by another WAN, a peer is
gone, back or elsewhere.

Decides by what was known before a step and is known after it, so that a script hears of what happened, not of
what was meant: an endpoint counts when the device shows it. A start is no news: what is found then was so
before. Who is told, and how, is the ports' affair (hooks.py, bus.py); docs/openwrt.md is the contract.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from wgrouter.core.care import Care
from wgrouter.core.findings import Finding, Why
from wgrouter.core.link_states import DEGRADED, SUSPECT, UNPROVEN, UP
from wgrouter.core.link_watch import Uplink
from wgrouter.core.liveness import DEAD, NEW, UNSEEN
from wgrouter.core.machine import Context, Turn
from wgrouter.core.messages import RunHook
from wgrouter.core.model import DeviceSeen, PeerSeen
from wgrouter.core.records import dataclass, field
from wgrouter.core.settings import Peer, PeerId
from wgrouter.core.uplink import Choice

FAILOVER, FAILBACK = "failover", "failback"
TUNNEL_UP, TUNNEL_DOWN, ENDPOINT = "tunnel-up", "tunnel-down", "endpoint"
CONNECTED, DISCONNECTED = "connected", "disconnected"  # mwan3's words, …
MWAN3 = "iface"  # … told where it tells them

ONLINE = (UP, SUSPECT, DEGRADED)  # it answers, and is not held down
TUNNEL: Mapping[Why, str] = {
    Why.TUNNEL_ALIVE: TUNNEL_UP,
    Why.TUNNEL_RECOVERED: TUNNEL_UP,
    Why.TUNNEL_DEAD: TUNNEL_DOWN,
    Why.TUNNEL_UNSEEN: TUNNEL_DOWN,  # if it was up before
}


@dataclass(frozen=True, slots=True)
class NewsMemory:
    """What who listens knows; at the start nothing."""

    carrying: Mapping[int, str] = field(default_factory=dict)  # the WAN, by family
    tracked: Mapping[str, str] = field(default_factory=dict)  # CONNECTED or DISCONNECTED, by WAN


def step(
    memory: NewsMemory,
    context: Context,
    uplinks: tuple[Uplink, ...],
    choices: Mapping[int, Choice],
    findings: Iterable[Finding],
    devices: Mapping[str, DeviceSeen] | None,
    cares: Mapping[PeerId, Care],
    recent: Callable[[], Iterable[Finding]],
) -> Turn[NewsMemory]:
    """The news of one step, as RunHook effects.

    `findings` are the step's own; `devices` and `cares` are as they were before it; `recent` gives the last
    findings, newest first.
    """
    told: list[RunHook] = []
    carrying = dict(memory.carrying)
    for family, choice in choices.items():
        known = carrying.get(family)
        if choice.wan and choice.wan != known:
            carrying[family] = choice.wan
            if known is not None:
                told.append(_moved(family, choice, uplinks, findings))
    tracked = memory.tracked
    if context.settings.mwan3_hotplug:
        tracked = {wan: memory.tracked.get(wan, "") for wan in (uplink.path.wan for uplink in uplinks)}
        for wan, word in tracked.items():
            now = _word([uplink for uplink in uplinks if uplink.path.wan == wan])
            if now not in ("", word):
                tracked[wan] = now
                told.append(RunHook({"ACTION": now} | _place(wan, 0, uplinks), MWAN3))
    told += _peers(context, findings, cares)
    if context.world.wireguard is not devices:
        told += _endpoints(context, devices, recent)
    return Turn(NewsMemory(carrying, tracked), tuple(told))


# ---------------------------------------------------------------- WANs


def _moved(family: int, choice: Choice, uplinks: tuple[Uplink, ...], findings: Iterable[Finding]) -> RunHook:
    back = any(f.why is Why.UPLINK_FAILBACK and f.arguments.get("family") == family for f in findings)
    words = {"ACTION": FAILBACK if back else FAILOVER, "WAN": choice.wan, "FAMILY": f"ipv{family}"}
    return RunHook(words | _place(choice.wan, family, uplinks) | {"REASON": choice.reason})


def _place(wan: str, family: int, uplinks: tuple[Uplink, ...]) -> dict[str, str]:
    """netifd's interface, the WAN's name where it knows none, and the device: of that family if there is
    one.
    """
    mine = [uplink for uplink in uplinks if uplink.path.wan == wan]
    mine.sort(key=lambda uplink: uplink.path.family != family)
    if not mine:
        return {"INTERFACE": wan}
    place = {"INTERFACE": mine[0].wan.interface or wan}
    device = next((uplink.path.device for uplink in mine if uplink.path.device), "")
    return place | ({"DEVICE": device} if device else {})


def _word(paths: list[Uplink]) -> str:
    """mwan3's word for a WAN, "" while nothing is known: it is connected if it is so over any family."""
    states = [uplink.state for uplink in paths]
    if any(state in ONLINE for state in states):
        return CONNECTED
    return "" if UNPROVEN in states else DISCONNECTED


# ---------------------------------------------------------------- peers


def _peers(context: Context, findings: Iterable[Finding], cares: Mapping[PeerId, Care]) -> Iterator[RunHook]:
    for finding in findings:
        action = TUNNEL.get(finding.why)
        never = finding.why is Why.TUNNEL_UNSEEN and not _was_up(context, finding.subject, cares)
        if action is not None and not never:
            device, _, label = finding.subject.partition("/")
            yield _of_tunnel(action, device, label, finding.text)


def _was_up(context: Context, subject: str, cares: Mapping[PeerId, Care]) -> bool:
    peers = [peer for peer in context.settings.peers() if peer.subject == subject and peer.id in cares]
    return any(cares[peer.id].pulse.state not in (UNSEEN, NEW, DEAD) for peer in peers)


def _endpoints(
    context: Context, devices: Mapping[str, DeviceSeen] | None, recent: Callable[[], Iterable[Finding]]
) -> Iterator[RunHook]:
    """Peers that were there before and have another outer address now: given by us, or their own move."""
    for peer in context.settings.peers():
        old, new = _seen(devices, peer), _seen(context.world.wireguard, peer)
        if old is None or new is None or new.endpoint in (None, old.endpoint):
            continue
        where = str(new.endpoint)
        words = (told.text for told in recent() if told.subject == peer.subject and where in told.text)
        reason = next(words, f"the peer came from {where} itself")
        yield _of_tunnel(ENDPOINT, peer.device, peer.label, reason, ENDPOINT=where)


def _seen(devices: Mapping[str, DeviceSeen] | None, peer: Peer) -> PeerSeen | None:
    device = (devices or {}).get(peer.device)
    return device.peers.get(peer.public_key) if device else None


def _of_tunnel(action: str, device: str, label: str, reason: str, **more: str) -> RunHook:
    """In netifd a WireGuard interface and its device have one name."""
    words = {"ACTION": action, "TUNNEL": device, "PEER": label, "INTERFACE": device, "DEVICE": device}
    return RunHook({**words, "REASON": reason, **more})
