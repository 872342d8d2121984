"""Values of the World: families, the words for a route and a rule, and the kernel's own numbers."""

from __future__ import annotations

import pytest

from wgrouter.core import model
from wgrouter.core.model import Address, Endpoint, Hop, Route, Rule


@pytest.mark.parametrize(("text", "family"), [("192.0.2.1", 4), ("2001:db8::1", 6)])
def test_the_family_of_what_has_an_address(text: str, family: int) -> None:
    assert model.family_of(text) == model.family_of(f"{text}/24") == family
    assert Endpoint(text, 1).family == Address("eth1", f"{text}/24").family == family
    assert Address("eth1", f"{text}/24").address == text
    with pytest.raises(ValueError, match="nonsense"):
        model.family_of("nonsense")


def test_an_endpoint_as_wg_writes_it() -> None:
    assert [str(Endpoint(text, 51820)) for text in ("192.0.2.1", "2001:db8::1")] == [
        *("192.0.2.1:51820", "[2001:db8::1]:51820")
    ]


def test_the_kernels_numbers() -> None:
    """linux/rtnetlink.h: enum rt_class_t."""
    assert (model.RT_TABLE_DEFAULT, model.RT_TABLE_MAIN, model.RT_TABLE_LOCAL) == (253, 254, 255)
    assert (model.IPV4, model.IPV6) == (4, 6)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Rule(4, 100, 254), "pref 100 lookup 254"),
        (Rule(4, 100, 0, action="blackhole"), "pref 100 blackhole"),
        (Rule(4, 1, 254, dst="192.0.2.0/24", oif="wg0"), "pref 1 to 192.0.2.0/24 oif wg0 lookup 254"),
        (Rule(4, 1, 254, mark=0, mask=0xFF), "pref 1 fwmark 0x0/0xff lookup 254"),
        (Rule(4, 1, 254, mark=1), "pref 1 lookup 254"),  # without a mask it is not looked at
    ],
)
def test_a_rule_as_ip_takes_it(rule: Rule, words: str) -> None:
    assert str(rule) == words


def test_a_route_as_ip_takes_it() -> None:
    assert str(Route(4, 254, "0.0.0.0/0", (Hop("192.0.2.1", "eth1", onlink=True),))) == (
        "default via 192.0.2.1 dev eth1 onlink table 254"
    )
    assert str(Route(4, 254, "192.0.2.0/24", kind="throw")) == "throw 192.0.2.0/24 table 254"
    assert not Route(4, 254, "192.0.2.0/24").is_default and Route(6, 254, "::/0").is_default
