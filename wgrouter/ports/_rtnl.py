"""rtnetlink's messages of links, addresses, routes and rules, as values of the model: bytes in, values out.

Touches nothing: pure functions, so that they can be tested against captured bytes. The other direction is in
kernel.py, which has pyroute2 encode. Layouts are those of linux/rtnetlink.h, fib_rules.h, if_link.h and
if_addr.h; every multi-byte number in them is in the machine's own order.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from typing import Final

from wgrouter.core.model import IPV6, RT_TABLE_LOCAL, Address, Hop, Link, Route, Rule
from wgrouter.core.records import replace
from wgrouter.ports._netlink import (
    IFLA_IFNAME,
    IFLA_LINKINFO,
    LINK,
    U32,
    attribute,
    attributes,
    link_kind,
    text,
)

# linux/rtnetlink.h, linux/fib_rules.h, linux/if_link.h, linux/if_addr.h, linux/neighbour.h
RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTM_GETROUTE: Final = 26
RTM_NEWRULE: Final = 32
RTM_DELRULE: Final = 33
RTM_GETRULE: Final = 34
RTM_GETADDR: Final = 22
RTM_DELNEIGH: Final = 29
RTM_GETNEIGH: Final = 30
RTM_F_CLONED: Final = 0x200
RTNH_F_DEAD: Final = 1
RTNH_F_ONLINK: Final = 4
RTNH_F_LINKDOWN: Final = 16
RT_SCOPE_UNIVERSE: Final = 0
RT_SCOPE_LINK: Final = 253
RT_SCOPE_NOWHERE: Final = 255
RTPROT_RA: Final = 9
IP6_RT_PRIO_USER: Final = 1024
IFF_UP: Final = 0x1
IFF_LOWER_UP: Final = 0x10000
IFA_F_OPTIMISTIC: Final = 0x04
IFA_F_DADFAILED: Final = 0x08
IFA_F_DEPRECATED: Final = 0x20
IFA_F_TENTATIVE: Final = 0x40
FIB_RULE_INVERT: Final = 0x2
NO_LIMIT: Final = 0xFFFFFFFF  # "none" of suppress_prefixlength and suppress_ifgroup

# rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
ROUTE: Final = struct.Struct("=BBBBBBBBI")
# fib_rule_hdr: family, dst_len, src_len, tos, table, -, -, action, flags
RULE: Final = struct.Struct("=BBBBBBBBI")
NEXT_HOP: Final = struct.Struct("=HBBi")  # rtnexthop: length, flags, hops, ifindex
ADDRESS: Final = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefixlen, flags, scope, index
NEIGHBOUR: Final = struct.Struct("=BxxxiHBB")  # ndmsg: family, ifindex, state, flags, type
STATS64_RX_BYTES: Final = struct.Struct("=16xQ")  # rtnl_link_stats64: the third counter

(RTA_DST, RTA_SRC, RTA_IIF, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC) = range(1, 8)
RTA_MULTIPATH: Final = 9
RTA_CACHEINFO: Final = 12
RTA_TABLE: Final = 15
RTA_VIA: Final = 18
RTA_EXPIRES: Final = 23
(IFLA_MTU, IFLA_MASTER, IFLA_STATS64) = (4, 10, 23)
(IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS) = (1, 2, 8)
NDA_DST: Final = 1
NUD_INCOMPLETE: Final = 1
(FRA_DST, FRA_SRC, FRA_IIFNAME) = (1, 2, 3)
(FRA_PRIORITY, FRA_FWMARK, FRA_SUPPRESS_IFGROUP, FRA_SUPPRESS_PREFIXLEN) = (6, 10, 13, 14)
(FRA_TABLE, FRA_FWMASK, FRA_OIFNAME, FRA_PAD, FRA_PROTOCOL) = (15, 16, 17, 18, 21)
FRA_MODELLED: Final = frozenset(
    (
        FRA_DST,
        FRA_SRC,
        FRA_IIFNAME,
        FRA_PRIORITY,
        FRA_FWMARK,
        FRA_SUPPRESS_IFGROUP,
        FRA_SUPPRESS_PREFIXLEN,
        FRA_TABLE,
        FRA_FWMASK,
        FRA_OIFNAME,
        FRA_PAD,
        FRA_PROTOCOL,
    )
)

KINDS: Final = {
    0: "unspec",
    1: "unicast",
    2: "local",
    3: "broadcast",
    4: "anycast",
    5: "multicast",
    6: "blackhole",
    7: "unreachable",
    8: "prohibit",
    9: "throw",
    10: "nat",
}
KIND_NUMBERS: Final = {name: number for number, name in KINDS.items()}
HOPLESS: Final = frozenset(("blackhole", "unreachable", "prohibit", "throw"))  # IPv6 shows them through lo
WRITABLE: Final = HOPLESS | {"unicast"}
ACTIONS: Final = {1: "to_table", 2: "goto", 3: "nop", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
ACTION_NUMBERS: Final = {"to_table": 1, "blackhole": 6, "unreachable": 7, "prohibit": 8}
SCOPES: Final = {253: "link", 254: "host"}
FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
VERSIONS: Final = {int(socket.AF_INET): 4, int(socket.AF_INET6): 6}
ANYWHERE: Final = {4: "0.0.0.0/0", 6: "::/0"}


Names = Mapping[int, str]  # device name by index


def parse_link(message: bytes) -> Link | None:
    """An RTM_NEWLINK without its netlink header."""
    family, _, _, index, flags, _ = LINK.unpack_from(message)
    if family != socket.AF_UNSPEC:  # a bridge's view of its port
        return None
    seen = attributes(message, LINK.size)
    return Link(
        index=index,
        name=text(seen.get(IFLA_IFNAME, b"")),
        up=bool(flags & IFF_UP),
        carrier=bool(flags & IFF_LOWER_UP),
        kind=link_kind(seen.get(IFLA_LINKINFO)),
        mtu=_u32(seen.get(IFLA_MTU)),
        flags=flags,
        master=_u32(seen.get(IFLA_MASTER)),
    )


def parse_address(message: bytes, names: Names) -> Address | None:
    """An RTM_NEWADDR without its netlink header. KeyError for a device that is not among `names`."""
    family, length, flags, scope, index = ADDRESS.unpack_from(message)
    if family not in VERSIONS:
        return None
    seen = attributes(message, ADDRESS.size)
    if IFA_FLAGS in seen:  # the header has room for eight only
        flags = _u32(seen[IFA_FLAGS])
    local = seen.get(IFA_LOCAL) or seen.get(IFA_ADDRESS)
    if local is None:
        return None
    peer = seen.get(IFA_ADDRESS, local)
    waiting = flags & IFA_F_TENTATIVE and not flags & IFA_F_OPTIMISTIC
    return Address(
        device=names[index],
        prefix=_prefix(family, local, length),
        scope=SCOPES.get(scope, "global"),
        usable=not (waiting or flags & (IFA_F_DADFAILED | IFA_F_DEPRECATED)),
        peer=socket.inet_ntop(family, peer) if peer != local else "",
    )


def parse_route(message: bytes, names: Names, *, lookup: bool = False) -> Route | None:
    """An RTM_NEWROUTE without its netlink header; None for what is not part of a Net. KeyError as above.

    `lookup`: the message answers a look-up, so cloned and local ones count too.
    """
    family, length, source_length, _, table, protocol, _, number, flags = ROUTE.unpack_from(message)
    if family not in VERSIONS or (not lookup and (table == RT_TABLE_LOCAL or flags & RTM_F_CLONED)):
        return None
    seen = attributes(message, ROUTE.size)
    if RTA_TABLE in seen:
        table = _u32(seen[RTA_TABLE])
    kind = KINDS.get(number, str(number))
    version = VERSIONS[family]
    hops: tuple[Hop, ...]
    if kind in HOPLESS:
        hops = ()
        flags = 0
    elif RTA_MULTIPATH in seen:
        hops, flags = _hops(seen[RTA_MULTIPATH], family, names)
    else:
        hops = (_hop(seen, family, names[_u32(seen.get(RTA_OIF))] if RTA_OIF in seen else "", flags),)
    return Route(
        family=version,
        table=table,
        dst=_prefix(family, seen[RTA_DST], length) if RTA_DST in seen else ANYWHERE[version],
        hops=hops,
        metric=_u32(seen.get(RTA_PRIORITY)),
        protocol=protocol,
        kind=kind,
        source=socket.inet_ntop(family, seen[RTA_PREFSRC]) if RTA_PREFSRC in seen else "",
        src=_prefix(family, seen[RTA_SRC], source_length) if RTA_SRC in seen else "",
        linkdown=bool(flags & (RTNH_F_DEAD | RTNH_F_LINKDOWN)),
        expires=protocol == RTPROT_RA or RTA_EXPIRES in seen or _expires(seen.get(RTA_CACHEINFO)),
    )


def _hop(seen: Mapping[int, bytes], family: int, device: str, flags: int, weight: int = 1) -> Hop:
    gateway = ""
    if RTA_GATEWAY in seen:
        gateway = socket.inet_ntop(family, seen[RTA_GATEWAY])
    elif RTA_VIA in seen:
        (via,) = struct.unpack_from("=H", seen[RTA_VIA])
        gateway = socket.inet_ntop(via, seen[RTA_VIA][2:]) if via in VERSIONS else seen[RTA_VIA][2:].hex()
    return Hop(gateway=gateway, device=device, weight=weight, onlink=bool(flags & RTNH_F_ONLINK))


def _hops(data: bytes, family: int, names: Names) -> tuple[tuple[Hop, ...], int]:
    """The next hops of RTA_MULTIPATH, and all their flags together."""
    hops = []
    start, together = 0, 0
    while start + NEXT_HOP.size <= len(data):
        length, flags, hop_count, index = NEXT_HOP.unpack_from(data, start)
        if length < NEXT_HOP.size:
            break
        seen = attributes(data, start + NEXT_HOP.size, start + length)
        hops.append(_hop(seen, family, names[index] if index else "", flags, hop_count + 1))
        together |= flags
        start += (length + 3) & ~3
    return tuple(hops), together


def _expires(cache: bytes | None) -> bool:
    """rta_cacheinfo: clntref, lastuse, expires, …"""
    return cache is not None and len(cache) >= 12 and _u32(cache[8:12]) != 0


def parse_rule(message: bytes) -> Rule | None:
    """An RTM_NEWRULE without its netlink header."""
    family, dst_length, src_length, tos, table, _, _, action, flags = RULE.unpack_from(message)
    if family not in VERSIONS:
        return None
    seen = attributes(message, RULE.size)
    suppress = _u32(seen.get(FRA_SUPPRESS_PREFIXLEN, U32.pack(NO_LIMIT)))
    return Rule(
        family=VERSIONS[family],
        preference=_u32(seen.get(FRA_PRIORITY)),
        table=_u32(seen[FRA_TABLE]) if FRA_TABLE in seen else table,
        mark=_u32(seen.get(FRA_FWMARK)),
        mask=_u32(seen.get(FRA_FWMASK)),
        src=_prefix(family, seen[FRA_SRC], src_length) if FRA_SRC in seen else "",
        dst=_prefix(family, seen[FRA_DST], dst_length) if FRA_DST in seen else "",
        iif=text(seen.get(FRA_IIFNAME, b"")),
        oif=text(seen.get(FRA_OIFNAME, b"")),
        suppress=-1 if suppress == NO_LIMIT else suppress,
        protocol=seen[FRA_PROTOCOL][0] if FRA_PROTOCOL in seen else 0,
        action=ACTIONS.get(action, str(action)),
        other=bool(
            tos
            or flags & FIB_RULE_INVERT
            or not FRA_MODELLED.issuperset(seen)
            or _u32(seen.get(FRA_SUPPRESS_IFGROUP, U32.pack(NO_LIMIT))) != NO_LIMIT
        ),
    )


def neighbour(address: str, index: int) -> bytes:
    """What an RTM_GETNEIGH or RTM_DELNEIGH of one neighbour asks for."""
    family = FAMILIES[6 if ":" in address else 4]
    return NEIGHBOUR.pack(family, index, 0, 0, 0) + attribute(NDA_DST, socket.inet_pton(family, address))


def unresolved(message: bytes) -> bool:
    """Whether an RTM_NEWNEIGH is of one whose link-layer address is still asked for."""
    return bool(NEIGHBOUR.unpack_from(message)[2] & NUD_INCOMPLETE)


def _prefix(family: int, address: bytes, length: int) -> str:
    """ValueError for more bits than the address has: the core counts on prefixes that are some."""
    if length > 8 * len(address):
        raise ValueError(f"a prefix of {length} bits")
    return f"{socket.inet_ntop(family, address)}/{length}"


def _u32(data: bytes | None) -> int:
    if data is None:
        return 0
    number: int = U32.unpack_from(data)[0]
    return number


def identity(route: Route) -> Route:
    """The route without what only the kernel decides, for "is it there?"."""
    metric = route.metric or (IP6_RT_PRIO_USER if route.family == IPV6 else 0)
    return replace(route, metric=metric, linkdown=False, expires=False)


def describe_route(route: Route) -> str:
    """As `ip route` has it."""
    words = [] if route.kind == "unicast" else [route.kind]
    words.append("default" if route.is_default else route.dst)
    words += [f"from {route.src}"] if route.src else []
    for hop in route.hops:
        words += [f"via {hop.gateway}"] if hop.gateway else []
        words += [f"dev {hop.device}"] if hop.device else []
        words += ["onlink"] if hop.onlink else []
        words += [f"weight {hop.weight}"] if hop.weight != 1 else []
    words += [f"metric {route.metric}"] if route.metric else []
    return " ".join((*words, f"table {route.table}"))


def describe_rule(rule: Rule) -> str:
    """As `ip rule` has it."""
    words = [f"{rule.preference}:", f"from {rule.src or 'all'}"]
    words += [f"to {rule.dst}"] if rule.dst else []
    words += [f"fwmark {rule.mark:#x}/{rule.mask:#x}"] if rule.mask else []
    words += [f"iif {rule.iif}"] if rule.iif else []
    words += [f"oif {rule.oif}"] if rule.oif else []
    words += [f"lookup {rule.table}"] if rule.action == "to_table" else [rule.action]
    words += [f"suppress_prefixlength {rule.suppress}"] if rule.suppress >= 0 else []
    return " ".join(words)
