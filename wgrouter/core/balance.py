"""`table inet wgrouter` as text: which WAN a forwarded connection takes, and that it stays there.

Decides from paths, choices and traffic rules; applies nothing. The routing rules do the work (ranges.py),
this only sets marks under our mask, on packets from the LAN that nobody else has marked:
- a connection keeps the WAN it left by: its conntrack mark is saved on the way out and becomes the packet's
mark again.
  So a failback moves new connections only, and a download over the backup survives it;
- a connection that came in by a WAN is answered through it;
- a new connection is given a WAN by the first traffic rule that fits, else by weight if `routing.balance` is
set. A mark whose WAN does not work has no routing rule: its packets follow the active WAN, and are saved
anew.

One `nft -f` replaces all chains at once. Sets are kept: dnsmasq may fill them
(`nftset=/name/4#inet#wgrouter#<set>_4`); a set of another table cannot be matched from here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from zlib import crc32

from wgrouter.core import ranges
from wgrouter.core.links import Uplink
from wgrouter.core.model import IPV4
from wgrouter.core.records import dataclass
from wgrouter.core.settings import Routing, Settings, TrafficRule

TABLE = "inet wgrouter"
BALANCED = "balanced"
FOREIGN = 0x00FF3F00  # marks of mwan3, pbr and Tailscale: what they marked is theirs
SEED = 0x77677274  # of the hash for sticky sources: the same after every restart
SLOTS = 12  # per unit of weight in that hash, so that a lost WAN's share can be spread

_DIGEST = re.compile(r'comment "wgrouter ([0-9a-f]{8})"')
_PORT = re.compile(r"[0-9]{1,5}(-[0-9]{1,5})?")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,24}")
_DEVICE = re.compile(r'[^\s"\\/*\ud800-\udfff]{1,15}')  # surrogates: bytes that are no text
_PROTOCOLS = {"": "", "tcp": "tcp", "udp": "udp", "icmp": "{ icmp, ipv6-icmp }"}


def digest(ruleset: str) -> str:
    """What tells one ruleset from another: it stands in a comment of `chain about`, so that a look can
    compare. "" without one.
    """
    found = _DIGEST.search(ruleset)
    return found.group(1) if found else ""


@dataclass(frozen=True, slots=True)
class _Scene:
    """What one family looks like to the ruleset."""

    family: int
    here: tuple[Uplink, ...]
    chosen: Uplink

    @property
    def proto(self) -> str:
        return "ipv4" if self.family == IPV4 else "ipv6"

    @property
    def group(self) -> tuple[Uplink, ...]:
        """Those that share new connections: usable, and of the priority now in use."""
        mine = tuple(u for u in self.here if u.usable and u.path.priority == self.chosen.path.priority)
        return mine or (self.chosen,)


def ruleset(
    uplinks: tuple[Uplink, ...], choices: Mapping[int, str], closed: frozenset[int], settings: Settings
) -> str | None:
    """The whole table, None if none is needed: no family with a choice of WANs. `closed`: families left to a
    full tunnel.
    """
    scenes = []
    for family in (4, 6):
        here = tuple(u for u in uplinks if u.path.family == family and u.path.index and _nameable(u))
        chosen = next((u for u in here if u.path.wan == choices.get(family) and u.path.works), None)
        if chosen is not None and len(here) > 1 and family not in closed:
            scenes.append(_Scene(family, here, chosen))
    if not scenes:
        return None
    routing = settings.routing
    rules = tuple(rule for rule in settings.rules if _sound(rule))
    indices = sorted({u.path.index for scene in scenes for u in scene.here})
    body = [
        *_sets(rules),
        *_chain("prerouting", _prerouting(scenes, indices, routing), "prerouting"),
        *_chain("forward", [line for scene in scenes for line in _refused(scene, rules)], "forward"),
        *_chain("postrouting", _postrouting(scenes, routing), "postrouting"),
        *_chain("choose", [line for scene in scenes for line in _choose(scene, rules, settings)]),
    ]
    for index in indices:
        body += _chain(f"to_{index}", [_set("meta", routing, index), "accept"])
    mark = f"{crc32(chr(10).join(body).encode()):08x}"
    about = _chain("about", [f'return comment "wgrouter {mark}"'])
    # `flush table` empties every chain of an older ruleset and leaves the sets' elements.
    lines = [f"table {TABLE}", f"flush table {TABLE}", f"table {TABLE} {{", *about, *body, "}", ""]
    return "\n".join(lines)


# ---------------------------------------------------------------- chains


def _prerouting(scenes: Iterable[_Scene], indices: list[int], routing: Routing) -> list[str]:
    mask = _hex(routing.mark_mask)
    lines = []
    for scene in scenes:
        for uplink in scene.here:
            came_in = f'meta nfproto {scene.proto} iifname "{uplink.path.device}"'
            lines.append(f"{came_in} ct state new {_set('ct', routing, uplink.path.index)}")
    devices = sorted({f'"{u.path.device}"' for scene in scenes for u in scene.here})
    lines.append(f"iifname {{ {', '.join(devices)} }} return")
    lines.append(f"meta mark and {_hex(routing.mark_mask | FOREIGN)} != 0 return")
    known = ", ".join(f"{_hex(ranges.flow_mark(routing, index))} : goto to_{index}" for index in indices)
    lines.append(f"ct mark and {mask} vmap {{ {known} }}")
    lines.append("ct state new goto choose")
    return lines


def _refused(scene: _Scene, rules: tuple[TrafficRule, ...]) -> list[str]:
    """What must not leave by another WAN than its own: every packet, not only a connection's first."""
    devices = sorted({f'"{uplink.path.device}"' for uplink in scene.here})
    lines = []
    for rule in rules:
        if rule.last_resort != "default" and _target(rule, scene) is None:
            verdict = "drop" if rule.last_resort == "blackhole" else "reject with icmpx no-route"
            lines += [
                f"oifname {{ {', '.join(devices)} }} {match} {verdict}" for match in _matches(rule, scene)
            ]
    return lines


def _postrouting(scenes: Iterable[_Scene], routing: Routing) -> list[str]:
    if routing.failback == "all" and not routing.balance:
        return []  # connections follow the active WAN; only those that came in by a WAN stay on it
    outer, mask = ranges.outer_bit(routing), _hex(routing.mark_mask)
    lines = [f"meta mark and {_hex(outer)} != 0 return"]
    for scene in scenes:
        for uplink in scene.here:
            mark = _hex(ranges.flow_mark(routing, uplink.path.index))
            lines.append(
                f'meta nfproto {scene.proto} oifname "{uplink.path.device}" ct direction original '
                f"ct mark and {mask} != {mark} {_set('ct', routing, uplink.path.index)}"
            )
    return lines


def _choose(scene: _Scene, rules: tuple[TrafficRule, ...], settings: Settings) -> list[str]:
    lines: list[str] = []
    for rule in rules:
        target = _target(rule, scene)
        if target is None:
            continue  # by the active WAN, or refused above
        for match in _matches(rule, scene):
            if target == BALANCED:
                lines += [
                    f"{match} {spread}" for spread in _spread(scene, rule.sticky or settings.routing.sticky)
                ]
            else:
                lines.append(f"{match} goto to_{target}")
    if settings.routing.balance:
        everything = f"meta nfproto {scene.proto}"
        lines += [f"{everything} {spread}" for spread in _spread(scene, settings.routing.sticky)]
    return lines


def _target(rule: TrafficRule, scene: _Scene) -> str | None:
    """The index (as text) of the first of its WANs that is usable, "balanced", or None: its last resort."""
    for name in rule.wans:
        if name == BALANCED:
            return BALANCED
        for good in (True, False):
            for uplink in scene.here:
                if (
                    uplink.path.wan == name
                    and uplink.path.works
                    and (uplink.usable if good else uplink.answers)
                ):
                    return str(uplink.path.index)
    return None if rule.wans else str(scene.chosen.path.index)


def _spread(scene: _Scene, sticky: bool) -> list[str]:
    """New connections by weight: at random, or by a hash of the source."""
    group = scene.group
    if len(group) == 1:
        return [f"goto to_{group[0].path.index}"]
    if not sticky:
        slots = [uplink for uplink in group for _ in range(max(1, uplink.wan.weight))]
        return [f"numgen random mod {len(slots)} vmap {{ {_ranges(slots)} }}"]
    # A lost WAN's slots go to the others in turn; everybody else's stay, so healthy WANs keep their clients.
    members = [u for u in scene.here if u.path.priority == scene.chosen.path.priority or u in group]
    slots, turn = [], 0
    for uplink in members:
        for _ in range(SLOTS * max(1, uplink.wan.weight)):
            if uplink in group:
                slots.append(uplink)
            else:
                slots.append(group[turn % len(group)])
                turn += 1
    source = "ip saddr" if scene.family == IPV4 else "ip6 saddr"
    return [f"jhash {source} mod {len(slots)} seed {_hex(SEED)} vmap {{ {_ranges(slots)} }}"]


def _ranges(slots: list[Uplink]) -> str:
    """`0-2 : goto to_1, 3 : goto to_2`."""
    parts, start = [], 0
    for end in range(1, len(slots) + 1):
        if end == len(slots) or slots[end] is not slots[start]:
            span = f"{start}-{end - 1}" if end - start > 1 else f"{start}"
            parts.append(f"{span} : goto to_{slots[start].path.index}")
            start = end
    return ", ".join(parts)


# ---------------------------------------------------------------- words of nft


def _chain(name: str, lines: list[str], hook: str = "") -> list[str]:
    first = [f"\t\ttype filter hook {hook} priority mangle; policy accept;"] if hook else []
    return [f"\tchain {name} {{", *first, *(f"\t\t{line}" for line in lines), "\t}"]


def _set(what: str, routing: Routing, index: int) -> str:
    """`meta mark set …` or `ct mark set …`: our bits only."""
    keep = _hex(0xFFFFFFFF & ~routing.mark_mask)
    return f"{what} mark set {what} mark and {keep} or {_hex(ranges.flow_mark(routing, index))}"


def _hex(number: int) -> str:
    return f"0x{number:08x}"


def _sets(rules: Iterable[TrafficRule]) -> list[str]:
    lines = []
    for name in sorted({rule.ipset for rule in rules if rule.ipset}):
        for family, kind in ((4, "ipv4_addr"), (6, "ipv6_addr")):
            lines.append(f"\tset {name}_{family} {{ type {kind}; flags interval; auto-merge; }}")
    return lines


def _matches(rule: TrafficRule, scene: _Scene) -> list[str]:
    """The rule's selectors for this family, as one match; none if it names addresses of the other family
    only.
    """
    word = "ip" if scene.family == IPV4 else "ip6"
    parts = [f"meta nfproto {scene.proto}"]
    for selector, text in (("saddr", rule.src), ("daddr", rule.dst)):
        if text:
            mine = _prefixes(text, scene.family)
            if not mine:
                return []
            parts.append(f"{word} {selector} {{ {', '.join(mine)} }}")
    if rule.ipset:
        parts.append(f"{word} daddr @{rule.ipset}_{scene.family}")
    protocol = _PROTOCOLS[rule.protocol]
    if not protocol and (rule.src_port or rule.dst_port):
        protocol = "{ tcp, udp }"
    if protocol:
        parts.append(f"meta l4proto {protocol}")
    for selector, text in (("sport", rule.src_port), ("dport", rule.dst_port)):
        if text:
            parts.append(f"th {selector} {{ {', '.join(_ports(text))} }}")
    return [" ".join(parts)]


def _sound(rule: TrafficRule) -> bool:
    """Whether every word of it is one that nft takes: one bad word would cost the whole ruleset."""
    try:
        for text in filter(None, (rule.src, rule.dst)):
            _prefixes(text, IPV4)
        for text in filter(None, (rule.src_port, rule.dst_port)):
            _ports(text)
    except ValueError:
        return False
    named = not rule.ipset or _NAME.fullmatch(rule.ipset)
    with_ports = not (rule.src_port or rule.dst_port) or rule.protocol in ("", "tcp", "udp")
    return bool(named and with_ports and rule.protocol in _PROTOCOLS)


def _prefixes(text: str, family: int) -> list[str]:
    """Those of one family, in words that nft takes: it refuses what overlaps. ValueError for what is no
    prefix.
    """
    networks = [ipaddress.ip_network(word.strip(), strict=False) for word in text.split(",")]
    if family == IPV4:
        return [str(n) for n in ipaddress.collapse_addresses(n for n in networks if n.version == 4)]
    return [str(n) for n in ipaddress.collapse_addresses(n for n in networks if n.version == 6)]


def _ports(text: str) -> list[str]:
    """Ports and ranges, merged where they overlap. ValueError for what is none."""
    spans = []
    for word in text.replace(" ", "").split(","):
        if not _PORT.fullmatch(word):
            raise ValueError(word)
        first, _, last = word.partition("-")
        spans.append((int(first), int(last or first)))
        if not 0 <= spans[-1][0] <= spans[-1][1] <= 65535:
            raise ValueError(word)
    merged: list[tuple[int, int]] = []
    for low, high in sorted(spans):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return [f"{low}-{high}" if high > low else f"{low}" for low, high in merged]


def _nameable(uplink: Uplink) -> bool:
    return bool(_DEVICE.fullmatch(uplink.path.device))
