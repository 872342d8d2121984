"""State as plain data: what `status`, `explain` and `plan` show, over the socket, ubus or MQTT.

Renders, decides nothing. No value here is a secret: public keys are public.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wgrouter.core import engine, explain, links, names, plan, tunnels, uplink, window
from wgrouter.core.care import Care
from wgrouter.core.findings import Finding, Why
from wgrouter.core.ladder import names_of
from wgrouter.core.link_states import DEGRADED, HELD, SUSPECT, UNPROVEN, UP
from wgrouter.core.liveness import evidence
from wgrouter.core.model import LONG_AGO, NEVER, Instant

DISABLED = "disabled"  # of a WAN: configured, and left alone

WANS: Mapping[str, Why] = {
    UP: Why.WAN_UP,
    UNPROVEN: Why.WAN_UP,
    SUSPECT: Why.WAN_SUSPECT,
    DEGRADED: Why.WAN_DEGRADED,
    HELD: Why.WAN_HELD,
}  # any other state: WAN_DOWN


def finding(value: Finding) -> dict[str, Any]:
    """One finding as data."""
    return {
        "code": value.why.code,
        "severity": value.why.severity.value,
        "subject": value.subject,
        "text": value.text,
    }


def status(state: engine.State, now: Instant, version: str, started: Instant, root: str) -> dict[str, Any]:
    """The whole router on one page."""
    return {
        "version": version,
        "uptime_s": round(now - started),
        "now_trusted": state.world.clock_trusted,
        "root": root,
        "wans": _wans(state, now),
        "tunnels": [_tunnel(state, tunnel.device, now) for tunnel in state.settings.tunnels],
        "names": _names(state, now),
        "findings": [{**finding(told.finding), "age_s": round(now - told.at, 1)} for told in state.recent],
    }


def _wans(state: engine.State, now: Instant) -> list[dict[str, Any]]:
    rows = []
    shares = _shares(state)
    for link in links.view(state.links):
        path, watch = link.path, link.watch
        choice = state.uplink.choices.get(path.family)
        active = choice is not None and choice.wan == path.wan
        rows.append(
            {
                "name": path.wan,
                "device": path.device,
                "family": path.family,
                "state": link.state,
                "since_s": _age(watch.since, now),
                "loss_percent": _rounded(link.quality.loss),
                "latency_ms": _rounded(link.quality.latency),
                "jitter_ms": _rounded(link.quality.jitter),
                "share_percent": shares.get(path.key, 0),
                "gateway": path.gateway,
                "carrier": path.carrier,
                "active": active,
                "why": _why(link, choice, active),
                "targets": _targets(state, link, now),
            }
        )
    for wan in state.settings.wans:
        if not wan.enabled:
            rows.append({"name": wan.name, "family": wan.families[0], "state": DISABLED})
    return rows


def _why(link: links.Uplink, choice: uplink.Choice | None, active: bool) -> str:
    """Why this WAN carries what follows no rule, or why another one does."""
    if choice is None or active:
        return choice.reason if choice else ""
    return next((r.reason for r in choice.rejected if r.what == link.path.wan), link.evidence)


def _shares(state: engine.State) -> dict[tuple[str, int], int]:
    """Percent of new connections by (WAN, family): by weight among equals if the load is balanced."""
    shares: dict[tuple[str, int], int] = {}
    uplinks = links.view(state.links)
    for family, wan in uplink.chosen(state.uplink).items():
        here = [u for u in uplinks if u.path.family == family]
        group = [u for u in here if u.path.wan == wan]
        if state.settings.routing.balance and group:
            equal = [u for u in here if u.usable and u.path.priority == group[0].path.priority]
            group = equal or group
        total = sum(u.wan.weight for u in group)
        shares |= {u.path.key: round(100 * u.wan.weight / total) for u in group}
    return shares


def _targets(state: engine.State, link: links.Uplink, now: Instant) -> list[dict[str, Any]]:
    """Each address that is probed: whether it answers, and over the window how fast and how often not."""
    watch = link.watch
    late = window.late_after(watch.samples, state.settings.probing)
    rows = []
    for target in watch.targets:
        mine = [s for s in watch.samples if s.target == str(target)]
        counted = [s for s in mine if s.rtt is not None or window.missing(s, now, late)]
        rtts = [s.rtt for s in counted if s.rtt is not None]
        lost = 100 * (len(counted) - len(rtts)) / len(counted) if counted else None
        up = "unknown" if not counted else "down" if counted[-1].rtt is None else "up"
        latency = 1000 * sum(rtts) / len(rtts) if rtts else None
        rows.append(
            {
                "address": target.address,
                "method": target.method,
                "state": up,
                "latency_ms": _rounded(latency),
                "loss_percent": _rounded(lost),
            }
        )
    return rows


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _age(at: Instant, now: Instant) -> float | None:
    return None if at == LONG_AGO else round(now - at, 1)


def _tunnel(state: engine.State, device: str, now: Instant) -> dict[str, Any]:
    tunnel = next(tunnel for tunnel in state.settings.tunnels if tunnel.device == device)
    seen = (state.world.wireguard or {}).get(device)
    peers = []
    for peer in tunnel.peers:
        care = state.tunnels.peers.get(peer.id, Care())
        there = seen.peers.get(peer.public_key) if seen else None
        looked_up = [names.look_up(state.names, host, srv=peer.srv) for host in names_of(peer)]
        peers.append(
            {
                "peer": peer.label,
                "public_key": peer.public_key,
                "state": care.pulse.state,
                "endpoint": str(there.endpoint) if there and there.endpoint else None,
                "name": ", ".join(names_of(peer)),
                "addresses": [address for name in looked_up if name for address in name.addresses],
                "since_s": _age(care.pulse.since, now),
                "last_handshake_age_s": _age(care.pulse.handshake_at, now),
                "rx_bytes": there.rx_bytes if there else 0,
                "tx_bytes": there.tx_bytes if there else 0,
                "rung": care.step.rung if care.step else "",
                "why": "; ".join(evidence(care.pulse, there, now)),
            }
        )
    return {
        "interface": device,
        "listen_port": seen.listen_port if seen else None,
        "fwmark": seen.fwmark if seen else None,
        "wan": uplink.course_of(state.uplink, device, 4) or uplink.course_of(state.uplink, device, 6),
        "peers": peers,
    }


def _names(state: engine.State, now: Instant) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for wanted in engine.wanted_names(state.settings.peers()):
        name = names.look_up(state.names, wanted.host, srv=wanted.srv, now=now)
        if name is None or any(row["name"] == name.host for row in rows):
            continue
        ahead = name.next_at not in (NEVER, LONG_AGO)
        rows.append(
            {
                "name": name.host,
                "status": name.status.value,
                "addresses": list(name.addresses),
                "ttl_s": name.ttl,
                "next_in_s": round(max(0.0, name.next_at - now), 1) if ahead else None,
                "server": name.server,
                "error": name.error,
            }
        )
    return rows


def explanations(state: engine.State, subject: str, now: Instant) -> list[dict[str, Any]]:
    """One for each WAN and family, peer and name that `subject` names: "wan", "wg0", "wg0/label", a label, a
    host name. "" for all, without names: their peers tell of them.
    """
    outlook = engine.outlook_of(state, now)
    found = [_wan_explained(state, u, now) for u in links.view(state.links) if subject in ("", u.path.wan)]
    for peer in state.settings.peers():
        if subject not in ("", peer.device, peer.subject, peer.label):
            continue
        care = state.tunnels.peers.get(peer.id, Care())
        places, detour = tunnels.places_of(peer, outlook), state.tunnels.detours.get(peer.device)
        told = explain.explain(peer, care, state.world, outlook, places, now, detour)
        ahead = told.next
        found.append(
            {
                "subject": told.subject,
                "state": told.state,
                "cause": {"code": told.cause.why.code, "text": told.cause.text},
                "evidence": list(told.evidence),
                "tried": [
                    {"age_s": round(now - at, 1), "what": what, "result": result}
                    for at, what, result in told.tried
                ],
                "next": None
                if ahead is None
                else {
                    "what": ahead.what,
                    "in_s": None if ahead.at == NEVER else round(max(0.0, ahead.at - now), 1),
                },
                "rejected": [{"what": r.what, "reason": r.reason} for r in told.rejected],
            }
        )
    return found + [_name_explained(row) for row in _names(state, now) if row["name"] == subject]


def _wan_explained(state: engine.State, link: links.Uplink, now: Instant) -> dict[str, Any]:
    """A WAN over one family: why it is in its state, and why it is used or not."""
    path, watch, quality = link.path, link.watch, link.quality
    left = max(0.0, watch.held_until - now) if link.state == HELD else 0.0
    why, reason = WANS.get(link.state, Why.WAN_DOWN), link.evidence
    said: dict[str, str | int | float] = {"evidence": reason, "reason": reason, "seconds": round(left)}
    cause = Finding(why, "", {"family": path.family, **said})
    seen = [] if quality.loss is None else [f"{quality.loss:.0f} % of {quality.samples} probes lost"]
    seen += [] if quality.latency is None else [f"{quality.latency:.1f} ms round trip"]
    choice = state.uplink.choices.get(path.family)
    rejected = choice.rejected if choice else ()
    if choice and choice.wan == path.wan:
        seen.append(f"carries IPv{path.family} traffic: {choice.reason}")
    else:
        rejected = tuple(one for one in rejected if one.what == path.wan)
    return {
        "subject": path.wan,
        "state": link.state,
        "cause": {"code": cause.why.code, "text": cause.text},
        "evidence": seen,
        "tried": [],
        "next": {"what": "usable again if nothing is lost", "in_s": round(left, 1)} if left else None,
        "rejected": [{"what": one.what, "reason": one.reason} for one in rejected],
    }


def _name_explained(row: Mapping[str, Any]) -> dict[str, Any]:
    known = ", ".join(row["addresses"])
    fresh = row["status"] == "fresh"
    text = f"{known} (TTL {row['ttl_s']:g} s, by {row['server']})" if fresh else row["error"] or row["status"]
    return {
        "subject": row["name"],
        "state": row["status"],
        "cause": {"code": "name.resolved" if fresh else f"name.{row['status']}", "text": text},
        "evidence": [f"last good answer: {known}"] if known and not fresh else [],
        "tried": [],
        "next": None if row["next_in_s"] is None else {"what": "look up again", "in_s": row["next_in_s"]},
        "rejected": [],
    }


def planned(state: engine.State, words: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What would be done now to make the routing as it should be."""
    effects = plan.plan(engine.wanted_of(state), state.world, state.settings)
    return {"effects": [str(effect) for effect in effects], "findings": [], "problems": [], **(words or {})}
