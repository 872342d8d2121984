"""What netifd's `network.interface dump` says, as values. Pure: touches nothing, and decides nothing.

The dump is a hint beside the kernel's tables, so what is not as expected is left out without a word.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

from wgrouter.core.model import Interface

TEXT_MAX = 256  # characters of a name


def interfaces_of(dump: object) -> dict[str, Interface]:
    """The interfaces by name."""
    found: dict[str, Interface] = {}
    for entry in _list(dump, "interface"):
        name = _text(entry.get("interface")) if isinstance(entry, dict) else ""
        if not name:
            continue
        routes = [route for route in _list(entry, "route") if isinstance(route, dict)]
        metric = entry.get("metric")
        found[name] = Interface(
            name=name,
            device=_text(entry.get("l3_device")),
            up=entry.get("up") is True,
            proto=_text(entry.get("proto")),
            metric=metric if type(metric) is int else 0,
            dns=_each(map(_address, _list(entry, "dns-server"))),
            gateways=_each(map(_gateway, routes)),
        )
    return found


def _gateway(route: Mapping[str, object]) -> str:
    """The next hop of a default route; "" for any other route, and for one without."""
    default = route.get("target") in ("0.0.0.0", "::") and route.get("mask") == 0
    hop = _address(route.get("nexthop"))
    return hop if default and hop not in ("0.0.0.0", "::") else ""


def _address(value: object) -> str:
    """An address as the core spells it, without a zone; "" for what is none."""
    text = _text(value).partition("%")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""


def _each(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for text in texts if text))


def _list(value: object, key: str) -> list[Any]:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, list) else []


def _text(value: object) -> str:
    return value[:TEXT_MAX] if isinstance(value, str) else ""
