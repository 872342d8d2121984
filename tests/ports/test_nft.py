"""One table is replaced as a whole, and no other is touched."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from tests.ports.netns import Namespace, namespace
from wgrouter.core.balance import TABLE
from wgrouter.ports import nft as port
from wgrouter.ports.nft import Nft

lab = pytest.mark.lab


def ruleset(mark: int, digest: str = "0123abcd", more: str = "") -> str:
    return f"""table {TABLE}
flush table {TABLE}
table {TABLE} {{
    set names_4 {{ type ipv4_addr; flags interval; auto-merge; }}
    chain about {{ return comment "wgrouter {digest}"; }}
    chain prerouting {{
        type filter hook prerouting priority mangle; policy accept;
        iifname "br-lan" meta mark set {mark}
        {more}
    }}
}}
"""


FOREIGN = """table inet fw4 {
    chain forward {
        type filter hook forward priority 0; policy drop;
    }
}
"""


@pytest.fixture
def ns() -> Iterator[Namespace]:
    with namespace() as made:
        made.run("nft", "-f", "-", given=FOREIGN)
        yield made


def foreign(ns: Namespace) -> str:
    return ns.run("nft", "list", "table", "inet", "fw4")


@lab
def test_apply_read_replace_remove(ns: Namespace) -> None:
    before = foreign(ns)
    nft = Nft()
    with ns.inside():
        assert nft.read() == ""
        assert nft.digest() == ""
        nft.remove()
        nft.apply(ruleset(1))
        assert "meta mark set 0x00000001" in nft.read()
        assert nft.digest() == "0123abcd"
        ns.run("nft", "add", "element", *TABLE.split(), "names_4", "{ 192.0.2.1 }")
        nft.apply(ruleset(1))
        nft.apply(ruleset(2, "00000002"))
        assert "meta mark set 0x00000002" in nft.read()
        assert "0x00000001" not in nft.read()
        assert nft.digest() == "00000002"
        assert "192.0.2.1" not in nft.read(), "a name's addresses may be thousands: they are not read"
        assert "192.0.2.1" in ns.run("nft", "list", "table", *TABLE.split()), "but they are kept"
        nft.remove()
        nft.remove()
        assert nft.read() == ""
    assert foreign(ns) == before


@lab
def test_what_the_kernel_refuses_changes_nothing(ns: Namespace) -> None:
    nft = Nft()
    with ns.inside():
        nft.apply(ruleset(1))
        before = nft.read()
        for bad in ("no such statement", "jump nowhere", "ip saddr 1.2.3.4.5 drop"):
            with pytest.raises(OSError, match=r"nft: .*[Ee]rror") as failed:
                nft.apply(ruleset(2, more=bad))
            assert failed.value.errno == errno.EINVAL
            with pytest.raises(OSError, match=r"nft: "):
                nft.check(ruleset(2, more=bad))
        nft.check(ruleset(2))
        assert nft.read() == before


@lab
def test_a_table_that_is_not_of_our_making(ns: Namespace) -> None:
    nft = Nft()
    with ns.inside():
        ns.run("nft", "add", "table", *TABLE.split())
        assert nft.digest() == "?"
        nft.remove()
        assert nft.digest() == ""


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("flush ruleset", "all tables"),
        ("  flush   ruleset inet", "all tables"),
        ('include "/etc/nftables.d/*.nft"', "all tables"),
        ("delete table inet fw4", "table inet fw4"),
        ("table ip wgrouter { }", "table ip wgrouter"),
        ("table inet wgrouter2 { }", "table inet wgrouter2"),
        ("add rule inet fw4 forward accept", "table inet fw4"),
        ("flush chain inet fw4 forward", "table inet fw4"),
        ("add element inet fw4 lan { 192.0.2.1 }", "table inet fw4"),
    ],
)
def test_other_tables_are_out_of_reach(text: str, named: str) -> None:
    with pytest.raises(OSError, match=f"the ruleset names {named}; accepted: table inet wgrouter alone"):
        port._guarded(ruleset(1) + text)


def test_our_own_statements_pass_the_guard() -> None:
    for text in (ruleset(1), port.REMOVE, f"add element {TABLE} names_4 {{ 192.0.2.1 }}"):
        assert port._guarded(text) == text


def test_without_nft(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    for call in (Nft().read, Nft().remove, Nft().digest, lambda: Nft().apply(ruleset(1))):
        with pytest.raises(OSError, match="the program nft is not installed") as failed:
            call()
        assert failed.value.errno == errno.ENOENT


def test_an_nft_that_hangs(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.mktemp("bin")
    program = place / "nft"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:/bin:/usr/bin")
    monkeypatch.setattr(port, "TIMEOUT_S", 0.2)
    with pytest.raises(TimeoutError, match=r"nft took longer than 0\.2 s"):
        Nft().apply(ruleset(1))
