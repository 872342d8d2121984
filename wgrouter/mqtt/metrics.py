"""`wgrouter status` as Prometheus reads it (text format 0.0.4), for the command line and the textfile.

Pure. WireGuard's figures have the names and labels that exporters already use; public keys stay out of them,
as of every payload.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Data = Mapping[str, Any]
Row = tuple[str, Mapping[str, object], float | int | None]

# name → type and help, in the order of the page.
METRICS: Mapping[str, tuple[str, str]] = {
    "wgrouter_info": ("gauge", "The agent's version."),
    "wgrouter_uptime_seconds": ("gauge", "Since the agent started."),
    "wgrouter_clock_trusted": ("gauge", "0: the clock was never set."),
    "wgrouter_uplink_switches_total": ("counter", "Moves of traffic from one WAN to another."),
    "wgrouter_wan_up": ("gauge", "1: used without reservation over this address family."),
    "wgrouter_wan_active": ("gauge", "1: carries this address family."),
    "wgrouter_wan_latency_seconds": ("gauge", "Mean round trip of its probes."),
    "wgrouter_wan_jitter_seconds": ("gauge", "How far it varies."),
    "wgrouter_wan_loss_ratio": ("gauge", "Share of its probes that got no answer."),
    "wgrouter_peer_alive": ("gauge", "1: something shows that the tunnel to this peer works."),
    "wireguard_latest_handshake_seconds": ("gauge", "Unix time of the last handshake."),
    "wireguard_received_bytes_total": ("counter", "Bytes received from the peer."),
    "wireguard_sent_bytes_total": ("counter", "Bytes sent to the peer."),
    "wgrouter_mqtt_connected": ("gauge", "1: a broker takes what is told."),
    "wgrouter_mqtt_events_waiting": ("gauge", "Events that no broker has acknowledged yet."),
    "wgrouter_mqtt_events_dropped_total": ("counter", "Events that did not fit into the queue."),
}


def render(status: Data, wall: float) -> str:
    """The whole page. A figure that is not known is left out, as Prometheus wants it."""
    rows: dict[str, list[str]] = {name: [] for name in METRICS}
    for name, labels, value in _rows(status, wall):
        if value is not None:
            rows[name].append(f"{name}{_labels(labels)} {_number(value)}\n")
    page = []
    for name, lines in rows.items():
        if lines:
            kind, text = METRICS[name]
            page.append(f"# HELP {name} {text}\n# TYPE {name} {kind}\n{''.join(lines)}")
    return "".join(page)


def _rows(status: Data, wall: float) -> Iterator[Row]:
    yield "wgrouter_info", {"version": status.get("version", "")}, 1
    yield "wgrouter_uptime_seconds", {}, status.get("uptime_s")
    yield "wgrouter_clock_trusted", {}, int(bool(status.get("now_trusted")))
    yield "wgrouter_uplink_switches_total", {}, status.get("switches")
    for wan in status.get("wans", ()):
        labels = {"wan": wan["name"], "device": wan["device"], "family": f"ipv{wan['family']}"}
        yield "wgrouter_wan_up", labels, int(wan["state"] in ("up", "suspect"))
        yield "wgrouter_wan_active", labels, int(bool(wan["active"]))
        yield "wgrouter_wan_latency_seconds", labels, _scaled(wan["latency_ms"], 1000)
        yield "wgrouter_wan_jitter_seconds", labels, _scaled(wan["jitter_ms"], 1000)
        yield "wgrouter_wan_loss_ratio", labels, _scaled(wan["loss_percent"], 100)
    for tunnel in status.get("tunnels", ()):
        for peer in tunnel["peers"]:
            ours = {"interface": tunnel["interface"], "peer": peer["peer"]}
            theirs = {"interface": tunnel["interface"], "friendly_name": peer["peer"]}
            age = peer["last_handshake_age_s"]
            yield "wgrouter_peer_alive", ours, int(peer["state"] == "alive")
            yield "wireguard_latest_handshake_seconds", theirs, None if age is None else round(wall - age)
            yield "wireguard_received_bytes_total", theirs, peer["rx_bytes"]
            yield "wireguard_sent_bytes_total", theirs, peer["tx_bytes"]
    mqtt = status.get("mqtt")
    if mqtt:
        yield "wgrouter_mqtt_connected", {}, int(mqtt["state"] == "up")
        yield "wgrouter_mqtt_events_waiting", {}, mqtt["queued"]
        yield "wgrouter_mqtt_events_dropped_total", {}, mqtt["dropped"]


def _scaled(value: float | None, by: float) -> float | None:
    return None if value is None else value / by


def _labels(labels: Mapping[str, object]) -> str:
    def quoted(value: object) -> str:
        return str(value).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

    shown = ",".join(f'{name}="{quoted(value)}"' for name, value in labels.items())
    return f"{{{shown}}}" if shown else ""


def _number(value: float | int) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"
