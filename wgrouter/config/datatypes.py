"""Text of an option → value, one function per datatype; each says what was wrong and what is accepted.

Knows no option by name. A function takes the text and the range that its option allows, and raises Invalid,
never anything else. Numbers are plain ASCII digits: int() and float() would take "1_000", "١" and "nan" too.
"""

from __future__ import annotations

import binascii
import ipaddress
from collections.abc import Callable
from typing import NamedTuple

from wgrouter.config.problems import quoted

Value = bool | int | float | str | tuple[str, int]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

TRUE = ("1", "yes", "on", "true", "enabled")
FALSE = ("0", "no", "off", "false", "disabled")
UNITS = (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86400.0))
_DIGITS = frozenset("0123456789")
_WORD = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")
_LABEL = _WORD | {"-"}


class Invalid(ValueError):
    """A value that is not taken: what was wrong, quoted. What is accepted is the datatype's to say."""


class Limits(NamedTuple):
    """What an option narrows its datatype to. Numbers in the datatype's unit (of a duration: seconds)."""

    low: float = 0
    high: float = float("inf")
    choices: tuple[str, ...] = ()


class Datatype(NamedTuple):
    parse: Callable[[str, Limits], Value]
    accepted: Callable[[Limits], str]


def number_text(value: float) -> str:
    """A number without needless zeros."""
    return str(int(value)) if value == int(value) else f"{value:.10g}"


def duration_text(seconds: float) -> str:
    """As an option would spell it: 90 s is "90s", an hour "1h", 40 ms "40ms", none "0"."""
    if not seconds:
        return "0"
    if seconds < 1:
        return f"{number_text(seconds * 1000)}ms"
    for unit, factor in reversed(UNITS):
        if seconds % factor == 0 and unit != "ms":
            return f"{number_text(seconds / factor)}{unit}"
    return f"{number_text(seconds)}s"


# ---- numbers


def _decimal(text: str, fraction: bool) -> float | None:
    whole, point, rest = text.partition(".")
    if (
        len(text) > 15
        or not whole
        or not _DIGITS.issuperset(whole + rest)
        or (point and not (fraction and rest))
    ):
        return None
    return float(text)


def _ranged(value: float, limits: Limits, text: str, show: Callable[[float], str]) -> float:
    if value < limits.low:
        raise Invalid(f"{quoted(text)} is less than {show(limits.low)}")
    if value > limits.high:
        raise Invalid(f"{quoted(text)} is more than {show(limits.high)}")
    return value


def boolean(text: str, limits: Limits) -> bool:
    if text in TRUE:
        return True
    if text in FALSE:
        return False
    raise Invalid(f"{quoted(text)} is neither yes nor no")


def integer(text: str, limits: Limits) -> int:
    value = _decimal(text, fraction=False)
    if value is None:
        raise Invalid(f"{quoted(text)} is not a whole number")
    return int(_ranged(value, limits, text, number_text))


def number(text: str, limits: Limits) -> float:
    value = _decimal(text, fraction=True)
    if value is None:
        raise Invalid(f"{quoted(text)} is not a number")
    return _ranged(value, limits, text, number_text)


def percent(text: str, limits: Limits) -> float:
    value = _decimal(text.removesuffix("%").rstrip(), fraction=True)
    if value is None:
        raise Invalid(f"{quoted(text)} is not a percentage")
    return _ranged(value, limits, text, number_text)


def share(text: str, limits: Limits) -> float:
    """A percentage kept as a ratio: "33" is 0.33."""
    return percent(text, limits) / 100


def number32(text: str, limits: Limits) -> int:
    """A number of 32 bits, decimal or in hexadecimal after 0x."""
    digits = text[2:].lower() if text[:2] in ("0x", "0X") else ""
    if digits and len(digits) <= 16 and set(digits) <= set("0123456789abcdef"):
        value = int(digits, 16)
    else:
        found = _decimal(text, fraction=False)
        if found is None:
            raise Invalid(f"{quoted(text)} is not a number like 0x3f000000")
        value = int(found)
    return int(_ranged(value, limits, text, lambda bound: f"{int(bound):#x}"))


def mask(text: str, limits: Limits) -> int:
    """Adjacent bits of 32, three or more: room for a mark of ours and for one WAN's number."""
    value = number32(text, limits)
    ones = value // (value & -value) if value else 0
    if ones & (ones + 1) or ones < 7:
        raise Invalid(f"{quoted(text)} is not three or more adjacent bits")
    return value


def _timed(text: str, limits: Limits, plain: float, show: Callable[[float], str], what: str) -> float:
    """A number with a unit, in seconds. `plain` is the factor of a bare number."""
    digits, factor = text, plain
    for unit, seconds in UNITS:
        if text.endswith(unit):
            digits, factor = text[: -len(unit)].rstrip(), seconds
            break
    value = _decimal(digits, fraction=True)
    if value is None:
        raise Invalid(f"{quoted(text)} is not {what}")
    return _ranged(round(value * factor, 6), limits, text, show)


def duration(text: str, limits: Limits) -> float:
    """Seconds."""
    return _timed(text, limits, 1.0, duration_text, "a duration")


def milliseconds(text: str, limits: Limits) -> float:
    """Milliseconds; a bare number is in milliseconds."""
    bounds = Limits(limits.low / 1000, limits.high / 1000)
    return round(_timed(text, bounds, 0.001, duration_text, "a time in milliseconds") * 1000, 3)


# ---- addresses and names


def ip(text: str) -> Address | None:
    """The address, or None. Also for one with a scope (fe80::1%eth0): an Endpoint has no word for it."""
    if not text or "%" in text or len(text) > 45:
        return None
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def unicast(found: Address, text: str) -> str:
    """The canonical text of an address that something can be sent to."""
    if found.is_unspecified or found.is_multicast or str(found) == "255.255.255.255":
        raise Invalid(f"{quoted(text)} is not the address of a single host")
    return str(found)


def address(text: str, limits: Limits) -> str:
    found = ip(text)
    if found is None:
        raise Invalid(f"{quoted(text)} is not an IP address")
    return unicast(found, text)


def network(text: str, limits: Limits) -> str:
    """An address or prefix, as a canonical prefix."""
    base, slash, length = text.partition("/")
    # ip_network() would take a netmask behind the slash, and a scope.
    if len(base) <= 45 and "%" not in base and (not slash or (length and _DIGITS.issuperset(length))):
        try:
            return str(ipaddress.ip_network(text, strict=False))
        except ValueError:
            if ip(base) is not None:
                raise Invalid(f"{quoted(text)} has no prefix length that its address allows") from None
    raise Invalid(f"{quoted(text)} is not an IP address or prefix")


def host(text: str, limits: Limits) -> str:
    """A host name in small letters without a final dot, or a canonical address."""
    found = ip(text)
    if found is not None:
        return unicast(found, text)
    name = text.removesuffix(".").lower()
    labels = name.split(".")
    if not name.isascii():
        raise Invalid(f"{quoted(text)} has characters that are not ASCII (write the xn-- form)")
    if ":" in name or _DIGITS.issuperset(labels[-1]):
        raise Invalid(f"{quoted(text)} is neither an IP address nor a host name")
    if len(name) > 253 or not all(0 < len(label) < 64 and _LABEL.issuperset(label) for label in labels):
        raise Invalid(f"{quoted(text)} is not a host name")
    if any(label[0] == "-" or label[-1] == "-" for label in labels):
        raise Invalid(f"{quoted(text)} is not a host name")
    return name


def dnsname(text: str, limits: Limits) -> str:
    """A name to ask DNS for; "." is the root."""
    if text == ".":
        return text
    name = host(text, limits)
    if ip(name) is not None:
        raise Invalid(f"{quoted(text)} is an address, not a name")
    return name


def _port(text: str, whole: str) -> int:
    value = _decimal(text, fraction=False)
    if value is None or not 1 <= value <= 65535:
        raise Invalid(f"{quoted(whole)} has no port from 1 to 65535 behind its last ':'")
    return int(value)


def endpoint(text: str, limits: Limits) -> tuple[str, int]:
    """host, host:port, [IPv6] or [IPv6]:port. Port 0 stands for none given."""
    if text.startswith("["):
        inner, bracket, rest = text[1:].partition("]")
        if not bracket or ":" not in inner or (rest and not rest.startswith(":")):
            raise Invalid(f"{quoted(text)} is not an IPv6 address in brackets, with or without a port")
        return host(inner, limits), _port(rest[1:], text) if rest else 0
    if text.count(":") > 1:
        raise Invalid(f"{quoted(text)} has an IPv6 address without brackets")
    name, colon, port = text.partition(":")
    return host(name, limits), _port(port, text) if colon else 0


def server(text: str, limits: Limits) -> str:
    """A DNS server: address or address#port."""
    base, hash_, port = text.partition("#")
    value = _decimal(port, fraction=False) if hash_ else 53
    if value is None or not 1 <= value <= 65535:
        raise Invalid(f"{quoted(text)} has no port from 1 to 65535 behind '#'")
    return address(base, limits) + (f"#{int(value)}" if hash_ and value != 53 else "")


def probe(text: str, limits: Limits) -> str:
    """auto, off or an address."""
    return text if text in ("auto", "off") else address(text, limits)


def url(text: str, limits: Limits) -> str:
    scheme, colon, rest = text.partition("://")
    place = rest.partition("/")[0]
    if not colon or scheme not in ("http", "https") or "@" in place or "?" in place or "#" in text:
        raise Invalid(f"{quoted(text)} is not an http:// or https:// address")
    if len(text) > 255 or not text.isascii() or not text.isprintable() or " " in text:
        raise Invalid(
            f"{quoted(text)} is longer than 255 characters, or has a space or a character beyond ASCII"
        )
    try:
        endpoint(place, limits)
    except Invalid:
        raise Invalid(f"{quoted(text)} names no host that could be asked") from None
    return text


def key(text: str, limits: Limits) -> str:
    """A WireGuard public key. Never quoted: it may be a private one by mistake."""
    try:
        raw = binascii.a2b_base64(text, strict_mode=True) if text.isascii() else b""
    except ValueError:
        raw = b""
    if len(raw) != 32 or len(text) != 44 or binascii.b2a_base64(raw, newline=False).decode() != text:
        raise Invalid(f"a text of {len(text)} characters is not a WireGuard key")
    return text


def word(text: str, limits: Limits) -> str:
    """A name as UCI has them for sections: of a WAN, a logical interface."""
    if not 0 < len(text) <= 32 or not _WORD.issuperset(text):
        raise Invalid(f"{quoted(text)} is not a name")
    return text


def setname(text: str, limits: Limits) -> str:
    """A name that nftables takes, with room for a suffix."""
    if not 0 < len(text) <= 25 or not _WORD.issuperset(text) or not text[0].isalpha():
        raise Invalid(f"{quoted(text)} is not the name of a set")
    return text


def device(text: str, limits: Limits) -> str:
    """A network device, as the kernel allows it (dev_valid_name in net/core/dev.c) and in visible ASCII."""
    visible = all("!" <= character <= "~" and character not in "/:@" for character in text)
    if not 0 < len(text) <= 15 or not visible or text in (".", ".."):
        raise Invalid(f"{quoted(text)} is not a device name")
    return text


def line(text: str, limits: Limits) -> str:
    if not text.isprintable() or len(text) > 128:
        raise Invalid(f"{quoted(text)} is longer than 128 characters, or has control characters")
    return text


def choice(text: str, limits: Limits) -> str:
    if text not in limits.choices:
        raise Invalid(f"{quoted(text)} is none of the choices")
    return text


def ports(text: str, limits: Limits) -> str:
    """Ports and ranges with commas between: "443", "80,443", "1000-2000"."""
    parts = text.replace(" ", "").split(",")
    for part in parts:
        first, dash, last = part.partition("-")
        low, high = _decimal(first, fraction=False), _decimal(last if dash else first, fraction=False)
        if low is None or high is None or not 1 <= low <= high <= 65535 or len(parts) > 15:
            raise Invalid(f"{quoted(text)} is not a list of up to 15 ports or ranges")
    return ",".join(parts)


def broker(text: str, limits: Limits) -> str:
    """An MQTT broker as a URL: mqtt:// (port 1883) or mqtts:// (TLS, port 8883)."""
    if "@" in text:  # not quoted: the log is read by more people than the file
        raise Invalid("an address with a user name, which has an option of its own, as the password has")
    scheme, colon, place = text.partition("://")
    if not colon or scheme not in ("mqtt", "mqtts"):
        raise Invalid(f"{quoted(text)} is not an mqtt:// or mqtts:// address")
    try:
        name, port = endpoint(place.removesuffix("/"), limits)
    except Invalid as error:
        raise Invalid(f"{quoted(text)} names no broker: {error}") from None
    name = f"[{name}]" if ":" in name else name
    return f"{scheme}://{name}:{port or (8883 if scheme == 'mqtts' else 1883)}"


def path(text: str, limits: Limits) -> str:
    if not text.startswith("/") or text.endswith("/") or not text.isprintable() or len(text) > 255:
        raise Invalid(f"{quoted(text)} is not the absolute path of a file")
    return text


def topic(text: str, limits: Limits) -> str:
    """Levels of an MQTT topic without wildcards."""
    clean = text.isascii() and text.isprintable() and not set(text) & set("+#$ ")
    if not clean or not all(text.split("/")) or len(text) > 64:
        raise Invalid(f"{quoted(text)} is not (the beginning of) an MQTT topic")
    return text


# ---- what is accepted, in words


def _span(show: Callable[[float], str]) -> Callable[[Limits], str]:
    return lambda limits: (
        f"{show(limits.low)} or more"
        if limits.high == float("inf")
        else f"{show(limits.low)} to {show(limits.high)}"
    )


def _said(text: str) -> Callable[[Limits], str]:
    return lambda limits: text


def _durations(limits: Limits) -> str:
    return f"{_span(duration_text)(limits)}, in seconds or with a unit: 90, 90s, 5m, 1h, 1d, 200ms"


def _milliseconds(limits: Limits) -> str:
    bounds = Limits(limits.low / 1000, limits.high / 1000)
    return f"{_span(duration_text)(bounds)}, in milliseconds or with a unit: 150, 150ms, 1s"


DATATYPES: dict[str, Datatype] = {
    "boolean": Datatype(boolean, _said("1, yes, on, true, enabled; 0, no, off, false, disabled")),
    "integer": Datatype(integer, _span(number_text)),
    "number": Datatype(number, _span(number_text)),
    "percent": Datatype(percent, lambda limits: f"{_span(number_text)(limits)} percent"),
    "share": Datatype(share, lambda limits: f"{_span(number_text)(limits)} percent"),
    "number32": Datatype(number32, lambda limits: f"{int(limits.low):#x} to {int(limits.high):#x}"),
    "mask": Datatype(mask, _said("three or more adjacent bits of 32: 0x3f000000")),
    "duration": Datatype(duration, _durations),
    "milliseconds": Datatype(milliseconds, _milliseconds),
    "address": Datatype(address, _said("an IPv4 or IPv6 address")),
    "network": Datatype(network, _said("an address or prefix: 192.0.2.7, 192.0.2.0/24, 2001:db8::/32")),
    "host": Datatype(host, _said("a host name or address")),
    "dnsname": Datatype(dnsname, _said("a DNS name, or . for the root")),
    "endpoint": Datatype(
        endpoint, _said("host:port, address:port, [IPv6 address]:port; the port may be left out")
    ),
    "server": Datatype(server, _said("address or address#port")),
    "probe": Datatype(probe, _said("auto, off, or an address inside the tunnel")),
    "url": Datatype(url, _said("http://host/path or https://host/path")),
    "key": Datatype(key, _said("44 characters of base64, as `wg show` prints them")),
    "name": Datatype(word, _said("up to 32 letters, digits and _")),
    "setname": Datatype(setname, _said("up to 25 letters, digits and _, the first a letter")),
    "device": Datatype(device, _said("the name of a network device, up to 15 characters")),
    "text": Datatype(line, _said("text of one line, up to 128 characters")),
    "choice": Datatype(choice, lambda limits: ", ".join(limits.choices)),
    "broker": Datatype(broker, _said("mqtt://host:port or mqtts://host:port; the port may be left out")),
    "path": Datatype(path, _said("the absolute path of a file")),
    "topic": Datatype(topic, _said("up to 64 characters of ASCII without white space, +, # and $")),
    "ports": Datatype(ports, _said("ports or ranges: 443 or 80,443 or 1000-2000")),
}
