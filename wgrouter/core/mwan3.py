"""The WANs of a status answer in the words of `ubus call mwan3 status`: what reads mwan3 reads us.

Decides only names. Fields whose meaning differs are left out rather than filled with something else: age,
score, lost and turn count the pings of mwan3track; uptime is netifd's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wgrouter.core.link_states import DEGRADED, DOWN, HELD, OFF, RETURNING, SUSPECT, UNPROVEN, UP

ONLINE = (UP, SUSPECT, DEGRADED, UNPROVEN)
OFFLINE = (DOWN, OFF)
TRACKED = (*ONLINE, *OFFLINE, HELD, RETURNING)


def renamed(wans: object) -> dict[str, Any]:
    """`interfaces` and `policies` from status entries, one for each WAN and family.

    A WAN is online if it is so over any family. Seconds and percent, as mwan3 has them.
    """
    interfaces: dict[str, dict[str, Any]] = {}
    policies: dict[str, dict[str, list[dict[str, Any]]]] = {"ipv4": {}, "ipv6": {}}
    for entry in _mappings(wans):
        name = str(entry.get("name") or "-")
        seen = _interface(entry)
        other = interfaces.get(name, seen)
        better = seen if seen["status"] == "online" != other["status"] else other
        if other is not seen:
            both = {"up": seen["up"] or other["up"], "track_ip": [*other["track_ip"], *seen["track_ip"]]}
            better = better | both
        interfaces[name] = better
        share = _whole(entry.get("share_percent"))
        family = policies.get(f"ipv{entry.get('family')}")
        if share and family is not None:
            family.setdefault("active", []).append({"interface": name, "percent": share})
    return {"interfaces": interfaces, "policies": policies}


def _interface(entry: Mapping[str, Any]) -> dict[str, Any]:
    state = str(entry.get("state", "unknown"))
    since = _whole(entry.get("since_s"))
    tracked = state in TRACKED
    return {
        "online": since if state in ONLINE else 0,
        "offline": since if state in OFFLINE else 0,
        "status": "online" if state in ONLINE else "offline" if tracked else state,
        "enabled": state != "disabled",
        "running": tracked,
        "tracking": "active" if tracked else "disabled" if state == "disabled" else "down",
        "up": entry.get("carrier") is True,
        "track_ip": [_target(target) for target in _mappings(entry.get("targets"))],
    }


def _target(target: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "ip": str(target.get("address", "")),
        "status": str(target.get("state", "unknown")),
        "latency": _whole(target.get("latency_ms")),
        "packetloss": _whole(target.get("loss_percent")),
    }


def _mappings(value: object) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, (list, tuple)) else []


def _whole(value: object) -> int:
    """mwan3 has whole numbers. 0 for what is none, or not finite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 2**31:
        return 0
    return round(value)
