"""State as plain data: what `status`, `explain` and `plan` show, over the socket, ubus or MQTT.

Renders, decides nothing. No value here is a secret: public keys are public.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wgrouter.core import engine, explain, links, names, plan, routing, tunnels, uplink
from wgrouter.core.care import Care
from wgrouter.core.findings import Finding
from wgrouter.core.ladder import names_of
from wgrouter.core.liveness import evidence
from wgrouter.core.model import LONG_AGO, NEVER, Instant


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
    chosen = uplink.chosen(state.uplink)
    for link in links.view(state.links):
        path, watch = link.path, link.watch
        active = chosen.get(path.family) == path.wan
        choice = state.uplink.choices.get(path.family)
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
                "share_percent": 100 if active else 0,
                "gateway": path.gateway,
                "active": active,
                "why": choice.reason if active and choice else "",
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
    """One for each peer that `subject` ("wg0", "wg0/label", a label, "" for all) names."""
    outlook = engine.outlook_of(state, now)
    found = []
    for peer in state.settings.peers():
        if subject not in ("", peer.device, peer.subject, peer.label):
            continue
        care = state.tunnels.peers.get(peer.id, Care())
        told = explain.explain(peer, care, state.world, outlook, tunnels.places_of(peer, outlook), now)
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
    return found


def planned(state: engine.State, words: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What would be done now to make the routing as it should be."""
    resting = uplink.resting(state.uplink)
    uplinks, chosen = links.view(state.links), uplink.chosen(state.uplink)
    wanted = routing.intent(state.world, uplinks, chosen, state.settings, resting)
    effects = plan.plan(wanted, state.world, state.settings)
    return {"effects": [str(effect) for effect in effects], "findings": [], "problems": [], **(words or {})}
