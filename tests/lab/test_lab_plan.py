"""The lab's pure parts: what is laid out, what is rendered, how outages are counted, how waiting fails."""

import inspect
import os

import pytest

from tests import lab
from tests.lab.__main__ import call, usage
from tests.lab.faults import IspFaults, isp_rules
from tests.lab.lab import Lab
from tests.lab.openwrt import resolv_conf_auto
from tests.lab.topology import Isp, Site, Topology, dual, fleet, single, sites, triple
from tests.lab.traffic import longest_gap
from tests.lab.wiring import wire

ALL = {
    "single": single(),
    "dual": dual(sites(50)),
    "triple": triple(sites(2, families=(4, 6)), broker=True),
    "fleet": fleet(5, 3, sites(3)),
    "odd": Topology(
        isps=(Isp("a", 1, proto="pppoe"), Isp("b", 2, port="eth2", nat=False)), sites=(Site("x", 9),)
    ),
}


@pytest.mark.parametrize("topology", ALL.values(), ids=ALL)
def test_every_topology_is_laid_out_without_a_contradiction(topology: Topology) -> None:
    plan = wire(topology)
    names = [box.name for box in plan.namespaces]
    assert len(names) == len(set(names))
    ends = [end for link in plan.links for end in ((link.a, link.device_a), (link.b, link.device_b))]
    assert len(ends) == len(set(ends)), "a device at the end of two cables"
    assert {box for box, _ in ends} == set(names), "a box without a cable, or a cable to nowhere"
    assert max(len(device) for _, device in ends) <= 15, "the kernel's limit for device names (IFNAMSIZ)"
    public = [
        line.split()[2]
        for box in plan.namespaces
        for line in box.ip
        if line.startswith("addr add")
        and line.split()[4] in ("net", "lo")
        and not line.startswith("addr add fe80")
    ]
    public = [address for address in public if not address.startswith("169.254.")]
    assert len(public) == len(set(public)), "an address that two boxes have"


def test_a_site_without_anybody_costs_no_box() -> None:
    topology = single((Site("here", 1), Site("ghost", 2, alive=False)))
    assert "ghost" not in {box.name for box in wire(topology).namespaces}


def test_the_best_uplink_comes_first() -> None:
    topology = dual()
    assert [isp.interface for isp in topology.uplinks("router")] == ["wan", "wanb"]
    assert resolv_conf_auto(topology.uplinks("router")).startswith("# Interface wan\nnameserver 192.0.2.53\n")


def test_a_healthy_isp_has_no_rules() -> None:
    assert "drop" not in isp_rules(IspFaults())
    assert "numgen random mod 10000 < 1250 drop" in isp_rules(IspFaults(loss_percent=12.5))


@pytest.mark.parametrize(
    ("times", "end", "since", "gap"),
    [
        ([], 5.0, 0.0, float("inf")),
        ([1.0, 2.0, 5.0], 5.0, 0.0, 3.0),
        ([1.0, 2.0], 9.0, 0.0, 7.0),  # still silent
        ([1.0, 4.0, 5.0], 5.0, 4.5, 1.0),  # the gap was over before
        ([1.0, 4.0, 5.0], 5.0, 3.0, 3.0),  # … and here it was not: all of it counts
        ([1.0], 0.5, 0.0, 0.0),
    ],
)
def test_an_outage_is_the_longest_silence(times: list[float], end: float, since: float, gap: float) -> None:
    assert longest_gap(times, end, since) == gap


def test_waiting_returns_the_value() -> None:
    values = iter([0, 0, 7])
    assert lab.until(lambda: next(values), within=1, what="a number") == 7


def test_waiting_in_vain_says_for_what_and_what_was_there() -> None:
    with pytest.raises(lab.NotInTime, match=r"a number: not within 0\.03 s; last value: 0"):
        lab.until(lambda: 0, within=0.03, what="a number")
    with pytest.raises(
        lab.NotInTime, match=r"test_lab_plan\.py:\d+: not within 0 s; last value: KeyError: 'ABSENT'"
    ):
        lab.until(lambda: os.environ["ABSENT"], within=0)
    with pytest.raises(NameError):
        lab.until(lambda: undefined, within=5)  # type: ignore[name-defined]  # noqa: F821


def test_staying_says_when_it_ended() -> None:
    values = iter([1, 1, 0])
    with pytest.raises(lab.NotInTime, match=r"peace: ended after 0\.0\d of 9 s; value: 0"):
        lab.stays(lambda: next(values), during=9, what="peace")
    assert lab.stays(lambda: 1, during=0.02) == 1


VERBS = {name: member for name, member in vars(Lab).items() if getattr(member, "is_verb", False)}


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_is_documented_where_one_looks(name: str) -> None:
    assert inspect.getdoc(VERBS[name])
    overview = (lab.__doc__ or "").split()
    assert name in overview or f"{name}()" in overview


def test_the_prompt_types_its_words() -> None:
    def verb(
        isp: str, percent: float, *addresses: str, on: bool = True, ttl: int | None = None
    ) -> tuple[object, ...]:
        return isp, percent, addresses, on, ttl

    assert call(verb, ["a", "1.5", "x=y", "10.0.0.1", "on=no", "ttl=3"]) == (
        "a",
        1.5,
        ("x=y", "10.0.0.1"),
        False,
        3,
    )
    assert usage("verb", verb) == "verb ISP PERCENT ADDRESSES… [on=True] [ttl=None]"
    with pytest.raises(TypeError, match="percent"):
        call(verb, ["a"])
