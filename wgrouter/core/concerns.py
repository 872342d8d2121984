"""Which peers a step of the tunnels machine is about.

Most steps are about one peer or none, and working on all of them each time makes the cost grow with the
square of the peers: 250 of them took more than a whole core.
"""

from __future__ import annotations

from wgrouter.core.care import Care, Memory, Outlook
from wgrouter.core.ladder import names_of
from wgrouter.core.messages import Answered, Event, Hinted, Observed, Replied, Unanswered, Unsent, Woke
from wgrouter.core.model import Instant
from wgrouter.core.settings import Peer

FEW = (Woke, Hinted, Replied, Unsent, Answered, Unanswered)  # events that say nothing of most peers


def anyone(memory: Memory, event: Event, now: Instant, outlook: Outlook) -> bool:
    """Whether there is anything to do at all."""
    if now >= memory.wake:
        return True
    if isinstance(event, (Replied, Unsent)):
        return event.id % 2 == 1
    if isinstance(event, Observed):
        return event.wireguard is not None or outlook.network_changed or bool(outlook.rerouted)
    return True


def everyone(memory: Memory, event: Event, outlook: Outlook) -> bool:
    """Whether it is about all peers: a look at WireGuard, other settings, another network, a command."""
    another = outlook.network_changed or bool(outlook.rerouted)
    return another or not isinstance(event, FEW) or tuple(sorted(outlook.reachable)) != memory.families


def one(peer: Peer, care: Care, event: Event, outlook: Outlook) -> bool:
    """Whether it brought an answer to this peer's probe, or news of its names."""
    if isinstance(event, (Replied, Unsent)) and event.id == care.probe_id:
        return True
    return bool(outlook.news) and not outlook.news.isdisjoint(names_of(peer))
