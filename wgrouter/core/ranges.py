"""Where our routing objects live: tables, rule preferences and marks, all derived from a WAN's index and
`routing.*` settings.

Decides only numbers. The map (base numbers are settings; `i` is a WAN's index, 1 to `capacity`):

    table  table_base          the active default route
           table_base + i      the default route of WAN i, and an unreachable one behind it
    mark   i                   a forwarded flow that stays on WAN i                        ("flow")
           OUTER | i           a packet that must use WAN i: probes, tunnels bound to it   ("strict")
           OUTER | all ones    the outer packets of a tunnel that follows the active WAN   ("tunnel")
           OUTER | top - k     the outer packets of the k-th tunnel with WANs of its own   ("pinned")
    rule   rule_base + 0   from an address of a WAN that a tunnel has just left, its mark → nowhere (for 2 s)
           + 10            from an address of WAN i, any OUTER mark  → table i (answers go back)
           + 70 + i        strict mark of WAN i                      → table i
           + 110           tunnel mark                               → active
           + 111           an address of WAN i, a mark that the configuration gives a tunnel → table i
           + 112           such a mark, or a pinned one              → active or table i
           + 130           main, without its default routes
           + 131           from an address of WAN i                  → table i
           + 140 + i       flow mark of WAN i                        → table i
           + 180           active

OUTER is the highest bit of `mark_mask`. Outer marks come before main, so that a host route in main cannot pin
a tunnel (netifd adds one per endpoint and never moves it); everything else comes after main's specific
routes, so that LANs, tunnels and static routes are reached as if we were not here.
"""

from __future__ import annotations

from wgrouter.core.model import Route, Rule
from wgrouter.core.settings import Routing

METRIC = 10  # of our default routes; never 0, which IPv6 would turn into 1024
METRIC_UNREACHABLE = 9999
SPAN = 200  # rule preferences we may use, from rule_base

PREF_LEAVING = 0
PREF_OUTER_SOURCE = 10
PREF_STRICT = 70
PREF_TUNNEL = 110
PREF_ADOPTED_SOURCE = 111
PREF_ADOPTED = 112
PREF_MAIN = 130
PREF_SOURCE = 131
PREF_FLOW = 140
PREF_ACTIVE = 180
INDEX_MAX = 30  # what fits between PREF_FLOW and PREF_ACTIVE, and in the default mask of six bits


def shift(routing: Routing) -> int:
    """The position of the lowest bit of the mask."""
    return (routing.mark_mask & -routing.mark_mask).bit_length() - 1


def capacity(routing: Routing) -> int:
    """How many WANs the mask has room for: one bit is OUTER, 0 is no mark and all ones is the tunnels'
    own.
    """
    ones = routing.mark_mask >> shift(routing) if routing.mark_mask else 0
    return max(0, min(INDEX_MAX, (ones >> 1) - 1))


def outer_bit(routing: Routing) -> int:
    """The highest bit of the mask."""
    return 1 << (routing.mark_mask.bit_length() - 1) if routing.mark_mask else 0


def flow_mark(routing: Routing, index: int) -> int:
    return index << shift(routing)


def strict_mark(routing: Routing, index: int) -> int:
    return outer_bit(routing) | index << shift(routing)


def tunnel_mark(routing: Routing) -> int:
    return routing.mark_mask


def pinned_mark(routing: Routing, place: int) -> int:
    """The mark of a tunnel with WANs of its own; its rule, not its mark, changes with the WAN. 0: no room."""
    index = capacity(routing) - place
    return strict_mark(routing, index) if index > 0 else 0


def is_our_mark(routing: Routing, mark: int) -> bool:
    """Whether a device's mark can only have been set by us."""
    return mark & ~routing.mark_mask == 0 and mark & outer_bit(routing) != 0


def active_table(routing: Routing) -> int:
    return routing.table_base


def table_of(routing: Routing, index: int) -> int:
    return routing.table_base + index


def index_of_table(routing: Routing, table: int) -> int:
    """The index of the WAN whose table this is, 0 for any other table."""
    index = table - routing.table_base
    return index if 1 <= index <= capacity(routing) else 0


def is_our_route(routing: Routing, route: Route) -> bool:
    """Whether a route carries our protocol and lies in one of our tables: only these are ever taken away."""
    return route.protocol == routing.protocol and 0 <= route.table - routing.table_base <= INDEX_MAX


def is_our_rule(routing: Routing, rule: Rule) -> bool:
    """Whether a rule carries our protocol and lies in our range of preferences."""
    return rule.protocol == routing.protocol and 0 <= rule.preference - routing.rule_base < SPAN
