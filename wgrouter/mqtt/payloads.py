"""The payloads: state → plain data, one function for each topic. docs/mqtt/schemas/ describes them, field by
field.

Renders, decides nothing. No key is ever part of a payload, not even a public one: a peer is its label and a
fingerprint, by which the two ends of a tunnel can be matched. Times are seconds since 1970 by the router's
clock, which `clock_trusted` vouches for; ages are exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from wgrouter.core import engine, explain, links, tunnels, uplink
from wgrouter.core.care import Care
from wgrouter.core.findings import Finding, Severity, Why
from wgrouter.core.liveness import ALIVE, evidence
from wgrouter.core.model import LONG_AGO, Instant
from wgrouter.core.records import dataclass
from wgrouter.core.settings import Peer
from wgrouter.mqtt.topics import fingerprint

SCHEMA = 1  # grows when a field changes its meaning or goes; new fields may come at any time
TEXT_MAX = 300  # characters of a text for people
Data = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Moment:
    """Now, by both clocks."""

    now: Instant
    wall: float  # seconds since 1970, whatever the router believes


@dataclass(frozen=True, slots=True)
class Identity:
    """What does not change in an agent's life. `boot` differs from life to life."""

    boot: str
    started: Instant
    versions: Mapping[str, str]
    machine: Mapping[str, str]


def head(identity: Identity, state: engine.State, moment: Moment) -> Data:
    """The fields that begin every payload."""
    return {
        "v": SCHEMA,
        "time": round(moment.wall, 3),
        "clock_trusted": state.world.clock_trusted,
        "boot": identity.boot,
    }


def family_name(family: int) -> str:
    return f"ipv{family}"


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def age(at: Instant, now: Instant) -> float | None:
    return None if at == LONG_AGO else round(max(0.0, now - at), 1)


def active(state: engine.State) -> Data:
    """Family → the WAN that carries it, null where none does."""
    return {family_name(family): choice.wan or None for family, choice in state.uplink.choices.items()}


def path_state(link: links.Uplink) -> str:
    """A path whose late answer is being checked is up until that is decided: half a second."""
    return "up" if link.state == "suspect" else link.state


def causes(state: engine.State, now: Instant) -> Iterator[tuple[Peer, Care, Finding]]:
    """Every peer, what is remembered of it, and the one cause of its state."""
    outlook = None
    for peer in state.settings.peers():
        care = state.tunnels.peers.get(peer.id, Care())
        if care.pulse.state == ALIVE:
            yield peer, care, Finding(Why.CAUSE_NONE, peer.subject)
            continue
        outlook = outlook or engine.outlook_of(state, now)
        places = tunnels.places_of(peer, outlook)
        yield peer, care, explain.explain(peer, care, state.world, outlook, places, now).cause


def cause(finding: Finding) -> Data:
    return {"code": finding.why.code, "text": finding.text[:TEXT_MAX]}


# ---------------------------------------------------------------- state


def summary(identity: Identity, state: engine.State, moment: Moment, events: Data, last: Data | None) -> Data:
    """…/state. `events` counts them, `last` is the latest one worth telling."""
    now = moment.now
    wans: dict[str, Data] = {}
    for link in links.view(state.links):
        wans.setdefault(link.path.wan, {})[family_name(link.path.family)] = {
            "state": path_state(link),
            "latency_ms": rounded(link.quality.latency),
            "loss_percent": rounded(link.quality.loss),
            "jitter_ms": rounded(link.quality.jitter),
        }
    devices: dict[str, Data] = {
        tunnel.device: {"wan": wan_of(state, tunnel.device), "peers": {}} for tunnel in state.settings.tunnels
    }
    alive = total = 0
    worst: tuple[int, Data] | None = None
    for peer, care, why in causes(state, now):
        total += 1
        alive += care.pulse.state == ALIVE
        seen = seen_of(state, peer)
        devices[peer.device]["peers"][peer.label] = {
            "state": care.pulse.state,
            "cause": why.why.code,
            "handshake_age_s": age(care.pulse.handshake_at, now),
            "rx_bytes": seen.rx_bytes if seen else 0,
            "tx_bytes": seen.tx_bytes if seen else 0,
        }
        weight = tuple(Severity).index(why.why.severity)
        if weight >= tuple(Severity).index(Severity.WARNING) and (worst is None or weight > worst[0]):
            worst = (weight, {"subject": peer.subject, **cause(why)})
    carried = state.uplink.choices.values()
    if worst is None and carried and not all(choice.wan for choice in carried):
        worst = (0, {"subject": "uplink", "code": "uplink.none", "text": "no WAN has carrier"})
    return {
        **head(identity, state, moment),
        "uptime_s": round(now - identity.started),
        "active": active(state),
        "manual": state.uplink.manual.wan if state.uplink.manual else None,
        "switches": state.uplink.switches,
        "peers_alive": alive,
        "peers": total,
        "worst": worst[1] if worst else None,
        "last": last,
        "events": events,
        "wans": wans,
        "tunnels": devices,
    }


def wan_of(state: engine.State, device: str) -> str | None:
    """The WAN of a tunnel's outer packets."""
    return uplink.course_of(state.uplink, device, 4) or uplink.course_of(state.uplink, device, 6) or None


def seen_of(state: engine.State, peer: Peer) -> Any:
    device = (state.world.wireguard or {}).get(peer.device)
    return device.peers.get(peer.public_key) if device else None


def wan(identity: Identity, state: engine.State, moment: Moment, name: str) -> Data:
    """…/wan/<name>."""
    chosen = uplink.chosen(state.uplink)
    paths: dict[str, Data] = {}
    device = ""
    for link in links.view(state.links):
        path = link.path
        if path.wan != name:
            continue
        device = device or path.device
        used = chosen.get(path.family) == name
        choice = state.uplink.choices.get(path.family)
        paths[family_name(path.family)] = {
            "state": path_state(link),
            "since_s": age(link.watch.since, moment.now),
            "gateway": path.gateway or None,
            "active": used,
            "why": choice.reason[:TEXT_MAX] if used and choice else link.evidence[:TEXT_MAX],
            "latency_ms": rounded(link.quality.latency),
            "loss_percent": rounded(link.quality.loss),
            "jitter_ms": rounded(link.quality.jitter),
        }
    return {**head(identity, state, moment), "wan": name, "device": device or None, "paths": paths}


def peer_payload(
    identity: Identity, state: engine.State, moment: Moment, peer: Peer, care: Care, why: Finding
) -> Data:
    """…/tunnel/<interface>/<peer>."""
    seen = seen_of(state, peer)
    now = moment.now
    return {
        **head(identity, state, moment),
        "interface": peer.device,
        "peer": peer.label,
        "fingerprint": fingerprint(peer.public_key),
        "state": care.pulse.state,
        "since_s": age(care.pulse.since, now),
        "endpoint": str(seen.endpoint) if seen and seen.endpoint else None,
        "names": sorted({place.host for place in peer.endpoints}),
        "wan": wan_of(state, peer.device),
        "handshake_age_s": age(care.pulse.handshake_at, now),
        "rx_bytes": seen.rx_bytes if seen else 0,
        "tx_bytes": seen.tx_bytes if seen else 0,
        "step": care.step.rung if care.step else None,
        "cause": cause(why),
        "evidence": "; ".join(evidence(care.pulse, seen, now))[:TEXT_MAX],
    }


def birth(identity: Identity, state: engine.State, moment: Moment, capabilities: Data) -> Data:
    """…/birth. The fingerprints are those by which other routers know this one's interfaces."""
    seen = state.world.wireguard or {}
    interfaces: dict[str, Data] = {}
    for tunnel in state.settings.tunnels:
        key = seen[tunnel.device].public_key if tunnel.device in seen else ""
        interfaces[tunnel.device] = {
            "fingerprint": fingerprint(key) if key else None,
            "peers": [peer.label for peer in tunnel.peers],
        }
    return {
        **head(identity, state, moment),
        "schema": SCHEMA,
        "uptime_s": round(moment.now - identity.started),
        "versions": dict(identity.versions),
        "machine": dict(identity.machine),
        "capabilities": capabilities,
        "wans": list(dict.fromkeys(link.path.wan for link in links.view(state.links))),
        "tunnels": interfaces,
    }


# ---------------------------------------------------------------- events


def event(
    identity: Identity, before: engine.State, after: engine.State, moment: Moment, seq: int, said: Finding
) -> Data:
    """…/event: one finding, what its subject was before and is now, and why."""
    family = said.arguments.get("family")
    return {
        **head(identity, after, moment),
        "seq": seq,
        "uptime_s": round(moment.now - identity.started, 3),
        "type": said.why.code,
        "severity": said.why.severity.value,
        "subject": said.subject,
        "text": said.text[:TEXT_MAX],
        "cause": _cause_of(after, moment.now, said),
        "before": _facts(before, said.why.code, said.subject, family),
        "after": _facts(after, said.why.code, said.subject, family),
        **({"family": family_name(family)} if isinstance(family, int) else {}),
        **(
            {"rejected": [{"what": r.what, "reason": r.reason[:TEXT_MAX]} for r in said.rejected[:8]]}
            if said.rejected
            else {}
        ),
    }


def _facts(state: engine.State, code: str, subject: str, family: object) -> Data | None:
    """What an event's subject is, in few words; None where there is nothing to compare."""
    area = code.partition(".")[0]
    if area == "uplink":
        chosen = uplink.chosen(state.uplink)
        if isinstance(family, int):
            return {"wan": chosen.get(family)}
        return {"wan": next(iter(chosen.values()), None)}
    if area == "wan":
        paths = {
            family_name(link.path.family): path_state(link)
            for link in links.view(state.links)
            if link.path.wan == subject and family in (None, link.path.family)
        }
        return {"wan": subject, "paths": paths}
    if area == "tunnel":
        for peer in state.settings.peers():
            if peer.subject == subject:
                care = state.tunnels.peers.get(peer.id, Care())
                seen = seen_of(state, peer)
                return {
                    "state": care.pulse.state,
                    "endpoint": str(seen.endpoint) if seen and seen.endpoint else None,
                    "wan": wan_of(state, peer.device),
                }
    return None


def _cause_of(state: engine.State, now: Instant, said: Finding) -> Data:
    """Why it happened: of a move what became of the WAN that was left, of a tunnel what `explain` says."""
    area = said.why.code.partition(".")[0]
    if area == "uplink":
        old = said.arguments.get("old")
        family = said.arguments.get("family")
        for told in reversed(state.recent):
            found = told.finding
            same = found.subject == old and found.arguments.get("family", family) == family
            if same and found.why.code in ("wan.down", "wan.gone", "wan.degraded") and now - told.at < 60.0:
                return cause(found)
        return {"code": said.why.code, "text": str(said.arguments.get("reason", said.text))[:TEXT_MAX]}
    if area == "tunnel":
        for peer, _, why in causes(state, now):
            if peer.subject == said.subject and why.why.code != "cause.none":
                return cause(why)
    return cause(said)


def gap(identity: Identity, state: engine.State, moment: Moment, boot: str, first: int, last: int) -> Data:
    """An event in the place of those that did not fit into the queue; it has the last one's number."""
    count = last - first + 1
    text = f"{count} events from number {first} to {last} were dropped: the queue was full"
    return {
        **head(identity, state, moment),
        "boot": boot,
        "seq": last,
        "uptime_s": round(moment.now - identity.started, 3),
        "type": "events.dropped",
        "severity": "warning",
        "subject": "",
        "text": text,
        "cause": {"code": "events.dropped", "text": text},
        "before": {"first": first, "count": count},
        "after": None,
    }
