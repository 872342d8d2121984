"""From a target of the configuration to the Probe that asks it by a given path. Knows nothing of answers."""

from __future__ import annotations

from wgrouter.core import ranges
from wgrouter.core.messages import Probe
from wgrouter.core.settings import Settings
from wgrouter.core.wans import Path
from wgrouter.core.window import Target

SENT_ONLY = "sent, nothing received"  # what ports/ping.py says of counters that show this
PORTS = {"dns-udp": 53, "dns-tcp": 53, "tcp": 443, "http": 80, "https": 443}


def probe(id: int, target: Target, path: Path, settings: Settings) -> Probe:
    """The probe of `target` ("address" or "address#port") by `path`, which its device and mark hold it to."""
    address, _, port = target.address.partition("#")
    detail = ""
    number = int(port) if port.isdigit() else PORTS.get(target.method, 0)
    if target.method in ("dns-udp", "dns-tcp"):
        detail = settings.probing.dns_name
    elif target.method in ("http", "https"):
        detail = settings.probing.http_url.partition("://")[2] or settings.probing.http_url
    return Probe(
        id=id,
        method=target.method,
        target=path.gateway if address == "gateway" else address,
        device=path.device,
        timeout=settings.probing.timeout,
        port=number,
        detail=detail,
        mark=ranges.strict_mark(settings.routing, path.index) if path.index else 0,
    )


def listen(id: int, path: Path) -> Probe:
    """A reading of the device's counters: Replied if it has received anything since the last one, else
    Unsent.
    """
    return Probe(id, "counters", f"IPv{path.family}", path.device, timeout=0.0)
