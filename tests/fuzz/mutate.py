"""Changes that keep an input's shape: a value within JSON, an attribute within netlink, a record within DNS.

Random bytes break a bracket or a length, and the first check is all that such an input meets. Every function
takes an input and a random.Random, and returns another input, or None where it finds nothing to change.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any

Change = Callable[[bytes, random.Random], "bytes | None"]

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 255, 65536, 2**31, 2**63, -(2**63) - 1, 10**400, 0.5, -0.0, 1e300,
    float("inf"), float("nan"), "", " ", "0", "-1", "nan", "1e999", "auto", "wan", "lte", "wg0", "\0",
    "\ud800", "\u202e", "\n", "é", "x" * 300, "192.0.2.1", "::1", "fe80::1%wan", "0.0.0.0",
    "255.255.255.255", [], {}, [[]], [None], ["x", 1], {"": 0}, {"a": {"b": {}}},
    {"_": "map", "items": [[1, 2]]}, {"_": "float", "text": "nan"}, {"_": "Endpoint"},
)  # fmt: skip
SIZES = (0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 28, 32, 33)


def json_value(data: bytes, chance: random.Random) -> bytes | None:
    """One value, key or element in one of the JSON objects of a text. Latin-1 keeps every other byte."""
    text = data.decode("latin-1")
    starts = [at for at, character in enumerate(text) if character in "{["]
    chance.shuffle(starts)
    for start in sorted(starts[:4]):
        try:
            value, end = json.JSONDecoder().raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        holder = [value]
        try:
            _change(holder, chance)
            new = json.dumps(holder[0], ensure_ascii=False)
        except (ValueError, OverflowError, RecursionError):
            return None
        return (text[:start] + new + text[end:]).encode("latin-1", "backslashreplace")
    return None


def _change(root: list[Any], chance: random.Random) -> None:
    places: list[tuple[Any, Any]] = []
    stack: list[Any] = [root]
    while stack and len(places) < 500:
        node = stack.pop()
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                stack.append(node[key])
    node, key = chance.choice(places)
    kind = chance.randrange(6)
    if kind == 0:
        del node[key]
    elif kind == 1:  # a value of elsewhere
        other, place = chance.choice(places)
        node[key] = json.loads(json.dumps(other[place]))
    elif kind == 2 and isinstance(node, dict):
        node[str(chance.choice(ODD))[:40]] = node.pop(key)
    elif kind == 3 and isinstance(node, list):
        node.insert(key, chance.choice(ODD))
    elif kind == 4 and isinstance(node[key], (int, float)) and not isinstance(node[key], bool):
        node[key] = node[key] + chance.choice((-1, 1, 0.5, 1000, -1000))
    else:
        node[key] = chance.choice(ODD)
    if not root:
        root.append(None)


def netlink(data: bytes, chance: random.Random) -> bytes | None:
    """One message, or one attribute in one, with the lengths around it made right."""
    messages: list[tuple[int, int, bytes]] = []
    at = 0
    while at + 16 <= len(data):
        length, kind, flags = struct.unpack_from("=IHH", data, at)
        if length < 16:
            break
        messages.append((kind, flags, data[at + 16 : at + length]))
        at += (length + 3) & ~3
    if not messages:
        return None
    index = chance.randrange(len(messages))
    kind, flags, body = messages[index]
    choice = chance.randrange(8)
    if choice == 0:
        messages.insert(chance.randrange(len(messages) + 1), messages[index])
    elif choice == 1:
        del messages[index]
    elif choice == 2:
        kind = chance.choice((2, 3, 16, 20, 24, 32, 0x100, kind))
        messages[index] = (kind, flags ^ chance.choice((0, 0x10, 0x200)), body)
    else:
        head = {16: 16, 20: 8, 24: 12, 32: 12}.get(kind, 4)
        messages[index] = (kind, flags, body[:head] + _attributes(body[head:], chance, 4))
        if choice == 3 and head:
            place = chance.randrange(head)
            fixed = bytearray(messages[index][2].ljust(head, b"\0"))
            fixed[place] = chance.choice((0, 1, 2, 10, 33, 129, 254, 255, chance.randrange(256)))
            messages[index] = (kind, flags, bytes(fixed))
    out = bytearray()
    for kind, flags, body in messages:
        out += struct.pack("=IHHII", 16 + len(body), kind, flags, 0, 0) + body + bytes(-len(body) & 3)
    return bytes(out)


def _attributes(data: bytes, chance: random.Random, depth: int) -> bytes:
    found: list[tuple[int, bytes]] = []
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4 or at + length > len(data):
            break
        found.append((kind, data[at + 4 : at + length]))
        at += (length + 3) & ~3
    choice = chance.randrange(6)
    if not found or choice == 0:
        found.append((chance.randrange(30), bytes(chance.choice(SIZES))))
    else:
        index = chance.randrange(len(found))
        kind, value = found[index]
        if choice == 1:
            del found[index]
        elif choice == 2:
            found.insert(chance.randrange(len(found) + 1), found[index])
        elif choice == 3:
            found[index] = (kind, value[: chance.choice(SIZES)].ljust(chance.choice(SIZES), b"\xff"))
        elif choice == 4 and len(value) >= 8 and depth:  # nested, perhaps
            found[index] = (kind, _attributes(value, chance, depth - 1))
        elif value:
            place = chance.randrange(len(value))
            new = bytes((chance.choice((0, 1, 2, 10, 127, 128, 255, chance.randrange(256))),))
            found[index] = (kind, value[:place] + new + value[place + 1 :])
    out = bytearray()
    for kind, value in found:
        out += struct.pack("=HH", (4 + len(value)) & 0xFFFF, kind & 0xFFFF) + value + bytes(-len(value) & 3)
    return bytes(out)


def lines(data: bytes, chance: random.Random) -> bytes | None:
    """One line of a text: twice, gone, elsewhere, or one of its words by another one's."""
    found = data.split(b"\n")
    index = chance.randrange(len(found))
    choice = chance.randrange(4)
    if choice == 0:
        found.insert(chance.randrange(len(found) + 1), found[index])
    elif choice == 1:
        del found[index]
    elif choice == 2:
        found.insert(chance.randrange(len(found)), found.pop(index))
    else:
        words, others = found[index].split(b" "), data.split()
        if not others:
            return None
        words[chance.randrange(len(words))] = chance.choice(others)
        found[index] = b" ".join(words)
    return b"\n".join(found)


def datagram(data: bytes, chance: random.Random) -> bytes | None:
    """A record of a DNS message whose length is made right: its data gets another size."""
    places = range(12, len(data) - 11)
    types = [at for at in places if data[at] == 0 and data[at + 2 : at + 4] == b"\0\1"]
    if not types:
        return None
    at = chance.choice(types)
    (size,) = struct.unpack_from("!H", data, at + 8)
    value = data[at + 10 : at + 10 + size]
    new = chance.choice(
        (value[: chance.choice(SIZES)], value + value, b"\xc0\x0c", bytes(chance.choice(SIZES)))
    )
    return data[: at + 8] + struct.pack("!H", len(new)) + new + data[at + 10 + size :]


CHANGES: dict[str, tuple[Change, ...]] = {
    "uci": (lines,),
    "dns": (datagram,),
    "ubus": (json_value,),
    "mqtt": (json_value, json_value, lines),
    "queue": (json_value, lines),
    "rtnetlink": (netlink,),
    "wireguard": (netlink, lines),
    "conntrack": (netlink,),
    "journal": (json_value, json_value, lines),
    "control": (json_value, json_value, lines),
    "fleet": (json_value, json_value, lines),
    "text": (lines,),
}
