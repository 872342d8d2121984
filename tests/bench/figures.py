"""Every figure that `make bench` knows, and what becomes of samples: median, table, JSON.

Decides names, units and arithmetic; measures nothing.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Key:
    """A figure: its unit is the end of its name. `target` is what the issues ask for, where they do."""

    key: str
    group: str
    what: str
    target: float | None = None

    @property
    def unit(self) -> str:
        return unit_of(self.key)


UNITS = {
    "_ms": "ms",
    "_us": "µs",
    "_s": "s",
    "_mib": "MiB",
    "_kib": "KiB",
    "_percent": "%",
    "_packets": "packets",
    "_bytes": "bytes",
    "probes_per_second_steady": "1/s",
    "conntrack_delete_10k_ms": "ms",
}


def unit_of(key: str) -> str:
    """By the end of the key; ValueError for one that does not say."""
    for end in sorted(UNITS, key=len, reverse=True):
        if key.endswith(end):
            return UNITS[end]
    raise ValueError(f"{key!r} does not end with a unit; known: {', '.join(UNITS)}")


KEYS: Mapping[str, Key] = {
    key.key: key
    for key in (
        # ---- names
        Key("ddns_move_to_traffic_s", "ddns", "a peer and its name move (TTL 5 s): until traffic flows", 8),
        Key("ddns_move_to_traffic_135s_rule_s", "ddns", "the same by the rule of reresolve-dns.sh"),
        Key("resolve_50_names_s", "names", "50 names resolved, from the agent's first look"),
        Key("resolve_50_names_one_dead_server_s", "names", "the same, the first of two servers silent"),
        Key("stall_with_250_names_ms", "names", "how late a probe was at most, 250 names due together", 50),
        # ---- failover
        Key("outage_carrier_tunnel_ms", "failover", "cable cut: silence of a 100 Hz flow in the tunnel", 200),
        Key("outage_carrier_lan_ms", "failover", "cable cut: no new connection from the LAN", 200),
        Key("outage_blackhole_tunnel_ms", "failover", "silent black hole: the flow in the tunnel", 1200),
        Key("outage_blackhole_lan_ms", "failover", "silent black hole: new connections from the LAN", 1200),
        Key("failback_lost_packets", "failover", "lost inside the tunnel when the first uplink is back", 0),
        Key("conntrack_delete_10k_ms", "kernel", "100 flows of 10,000 forgotten"),
        # ---- reporting over MQTT: two WANs, four peers
        Key("failover_event_at_subscriber_ms", "reporting", "cable cut: the event is at a subscriber", 2000),
        Key("heartbeat_bytes", "reporting", "the payload of a heartbeat", 1536),
        Key("rss_with_mqtt_mib", "reporting", "resident memory with a broker, the router's library set", 32),
        Key("rss_with_mqtt_newest_mib", "reporting", "the same, the newest libraries", 32),
        Key("pss_with_mqtt_mib", "reporting", "the same, pages shared with others divided among them"),
        Key("pss_with_mqtt_newest_mib", "reporting", "the same, the newest libraries"),
        Key("probe_late_broker_ms", "reporting", "how late a probe was at most, the broker in trouble", 50),
        # ---- at rest: two WANs, four peers
        Key("rss_mib", "rest", "resident memory, the router's library set", 28),
        Key("rss_newest_mib", "rest", "resident memory, the newest libraries", 28),
        Key("pss_mib", "rest", "the same, pages shared with others divided among them"),
        Key("pss_newest_mib", "rest", "the same, the newest libraries"),
        Key("rss_growth_mib", "rest", "growth of the private memory over the measure", 0.5),
        Key("cpu_at_rest_percent", "rest", "of one core, at one probe per second and WAN", 0.5),
        Key("cpu_at_rest_both_families_percent", "rest", "of one core, by default: IPv4 and IPv6 probed"),
        Key("probes_per_second_steady", "rest", "probes sent, per WAN and address family", 2),
        Key("start_to_first_decision_s", "start", "from exec to the choice of an uplink", 0.7),
        Key("start_cpu_s", "start", "of that the time on a CPU, whatever else the machine does"),
        # ---- parts
        Key("engine_step_us", "core", "one step of the core, of a recorded quiet half minute"),
        Key("snapshot_ms", "kernel", "a look at links, addresses, routes and rules"),
        Key("route_replace_ms", "kernel", "the default route replaced"),
        Key("hint_to_look_ms", "openwrt", "from `ubus send` to the look at the kernel", 10),
        Key("ipk_kib", "openwrt", "the package", 120),
        # ---- how cost grows
        *(
            Key(f"peers_{count}_{what}", "peers", f"{count} live peers with names: {meaning}")
            for what, meaning in (
                ("rss_mib", "resident memory"),
                ("cpu_percent", "of one core, at rest"),
                ("step_us", "a step of the core"),
                ("snapshot_ms", "a look at the peers"),
            )
            for count in (1, 10, 50, 250)
        ),
    )
}


@dataclass(slots=True)
class Series:
    """Samples of one thing. `at_least`: some were cut off at a bound, and are more than they say."""

    unit: str
    samples: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    at_least: bool = False

    def add(self, values: Iterable[float], note: str = "", at_least: bool = False) -> None:
        self.samples += values
        if note and note not in self.notes:
            self.notes.append(note)
        self.at_least = self.at_least or at_least

    def as_data(self) -> dict[str, Any]:
        data: dict[str, Any] = {
            "median": rounded(statistics.median(self.samples)),
            "min": rounded(min(self.samples)),
            "max": rounded(max(self.samples)),
            "n": len(self.samples),
            "unit": self.unit,
        }
        if self.at_least:
            data["at_least"] = True
        if self.notes:
            data["note"] = "; ".join(self.notes)
        data["samples"] = [rounded(sample) for sample in self.samples]
        return data


def rounded(value: float) -> float:
    """Four digits, but whole numbers whole: more would be a lie."""
    return float(f"{value:.4g}") if abs(value) < 1000 else round(value)


@dataclass(slots=True)
class Figure:
    """A key's own samples, and those of its alternatives by name."""

    key: Key
    own: Series
    against: dict[str, Series] = field(default_factory=dict)

    def as_data(self) -> dict[str, Any]:
        data = {"what": self.key.what, "group": self.key.group, **self.own.as_data()}
        if self.key.target is not None:
            data["target"] = self.key.target
        if self.against:
            data["against"] = {name: series.as_data() for name, series in self.against.items()}
        return data


class Results:
    """Samples as they come in."""

    def __init__(self) -> None:
        self.figures: dict[str, Figure] = {}

    def add(
        self, key: str, *values: float, note: str = "", against: str = "", at_least: bool = False
    ) -> None:
        """KeyError for a key that KEYS does not have."""
        figure = self.figures.setdefault(key, Figure(KEYS[key], Series(KEYS[key].unit)))
        series = figure.own
        if against:
            series = figure.against.setdefault(against, Series(figure.key.unit))
        series.add(values, note, at_least)

    def taken(self, key: str) -> bool:
        """Whether there is at least one sample of the key itself."""
        return key in self.figures and bool(self.figures[key].own.samples)

    def as_data(self, **more: str) -> dict[str, dict[str, Any]]:
        """What build/bench.json holds, in the order of KEYS. `more` is noted with each figure."""
        return {key: {**self.figures[key].as_data(), **more} for key in KEYS if self.taken(key)}


def joined(old: Mapping[str, Any], new: Mapping[str, Any], *, append: bool) -> dict[str, Any]:
    """Two runs as one. A figure of both is the new one's, or with `append` has the samples of both."""
    found = {key: dict(data) for key, data in old.items() if key in KEYS}
    for key, data in new.items():
        found[key] = _both(found[key], data) if append and key in found else dict(data)
    return {key: found[key] for key in KEYS if key in found}


def _both(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    series = Series(new["unit"])
    for one in (old, new):
        notes = one.get("note", "").split("; ") if one.get("note") else []
        series.add(one["samples"], at_least=one.get("at_least", False))
        series.notes += [note for note in notes if note not in series.notes]
    both = {**new, **series.as_data()}
    against = {**old.get("against", {})}
    for name, data in new.get("against", {}).items():
        against[name] = _both(against[name], data) if name in against else data
    return {**both, "against": against} if against else both


def write(path: Path, data: Mapping[str, Any]) -> None:
    """At once or not at all: whoever reads it meanwhile has the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        beside.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def table(data: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Aligned lines: each figure, and below it its alternatives with how many times more they are."""
    rows: list[tuple[str, ...]] = [("figure", "median", "min", "max", "n", "unit", "target or ratio")]
    for key, figure in data.items():
        target = figure.get("target")
        rows.append((key, *_cells(figure), "" if target is None else f"≤ {target:g}"))
        for name, other in figure.get("against", {}).items():
            rows.append((f"  {name}", *_cells(other), ratio(figure, other)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.rjust(width) if 0 < column < 5 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _cells(data: Mapping[str, Any]) -> tuple[str, ...]:
    over = "≥ " if data.get("at_least") else ""
    return (
        f"{over}{shown(data['median'])}",
        *(shown(data[part]) for part in ("min", "max")),
        str(data["n"]),
        data["unit"],
    )


def shown(value: float) -> str:
    """A number for people: 1,234 or 12.3 or 0.0123."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def ratio(own: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """How many times as much the other is; "" where that says nothing."""
    if not own["median"] or not other["median"]:
        return ""
    times = other["median"] / own["median"]
    return (
        f"{'≥ ' if other.get('at_least') else ''}× {times:.{0 if times >= 10 else 1 if times >= 1 else 2}f}"
    )
