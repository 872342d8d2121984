"""WireGuard's sticky source does not hold a tunnel on a dead WAN: with wireguard-go here, with the kernel's
in tests/vm/test_vm_lab.py.
"""

from collections.abc import Iterator

import pytest

from . import sticky
from .lab import Lab, build
from .poll import until, usual
from .topology import dual, sites

pytestmark = pytest.mark.lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    with build(dual(sites(1))) as built, sticky.foreign_rules(built):
        yield built


def test_without_an_agent_the_tunnel_hangs(lab: Lab) -> None:
    with lab.flow("router", "site1") as flow:
        until(flow.flowing, within=10, what="traffic")
        sticky.stuck_without_agent(lab, flow)


def test_the_agent_moves_the_tunnel_there_and_back(lab: Lab) -> None:
    agent = lab.router.start_agent("")
    agent.await_live(within=20)
    with lab.flow("router", "site1") as flow:
        until(flow.flowing, within=10, what="traffic")
        away, back = sticky.moved_by_agent(lab, flow)
    # Here only that it is done, on a machine that may be busy; `make bench` says how fast.
    assert away < usual(5)
    assert back < usual(2)
