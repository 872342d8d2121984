"""The schema against what it must agree with: the settings classes, the generated files, itself."""

from pathlib import Path
from typing import Any

import pytest

from wgrouter.config import generate
from wgrouter.config.datatypes import DATATYPES
from wgrouter.config.load import FAMILIES, ONCE, load
from wgrouter.config.schema import BY_TYPE, DEFAULT, SECTIONS, SKIP, Option, Section
from wgrouter.core.records import fields, replace
from wgrouter.core.settings import (
    Dns,
    Hold,
    Ladder,
    Peer,
    Probing,
    Routing,
    Settings,
    TrafficRule,
    Tunnel,
    Wan,
)

REPOSITORY = Path(__file__).resolve().parents[2]
OPTIONS = [
    pytest.param(section, option, id=f"{section.type}.{option.name}")
    for section in SECTIONS
    for option in section.options
]

# The classes that a section of each type fills.
CLASSES: dict[str, tuple[type, ...]] = {
    **{kind: (cls,) for kind, (cls, _) in ONCE.items()},
    "tunnel": (Tunnel, Ladder),
    "peer": (Peer,),
    "wan": (Wan,),
    "rule": (TrafficRule,),
}
# Options that choose or drop a section instead of filling a field.
ABOUT = {
    "tunnel": {"enabled", "interface"},
    "peer": {"enabled", "interface", "public_key", "description"},
    "rule": {"enabled"},
}
# One option for the addresses of both families.
SPLIT = {"target": {"targets4", "targets6"}}
# Fields that come from the network file, or hold whole sections.
NOT_OPTIONS = {
    Settings: {"tunnels", "wans", "dns", "probing", "hold", "routing", "rules", "mqtt", "interfaces"},
    Tunnel: {"device", "addresses", "listen_port", "fwmark", "ladder", "peers"},
    Peer: {"device", "public_key", "label", "keepalive", "allowed_ips"},
    Wan: {"name"},
    TrafficRule: {"name"},
}


@pytest.mark.parametrize(("section", "option"), OPTIONS)
def test_an_option_is_well_formed(section: Section, option: Option) -> None:
    assert option.datatype in DATATYPES
    assert option.help.strip() == option.help and option.help.endswith((".", "…", "`"))
    assert option.accepted
    assert bool(option.choices) == (option.datatype == "choice")
    values = option.default.split() if option.many else [option.default][: bool(option.default)]
    if option.bad not in (DEFAULT, SKIP):
        values.append(option.bad)
    if option.example:
        values.append(option.example)
    for value in values:
        DATATYPES[option.datatype].parse(value, option.limits)
    assert not (option.default and option.example), "the default is example enough"


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.type)
def test_every_field_has_an_option_and_every_option_a_field(section: Section) -> None:
    names = {option.name for option in section.options}
    assert len(names) == len(section.options)
    targets = {option.target for option in section.options if option.name not in SPLIT}
    for name in names & set(SPLIT):
        targets |= SPLIT[name]
    classes = CLASSES[section.type]
    wanted = {
        field.name
        for cls in classes
        for field in fields(cls)
        if field.name not in NOT_OPTIONS.get(cls, set())
    }
    assert targets - ABOUT.get(section.type, set()) == wanted


DEFAULTS: list[tuple[str, Any]] = [
    ("wgrouter", Settings()),
    ("dns", Dns()),
    ("probing", Probing()),
    ("hold", Hold()),
    ("routing", Routing()),
    ("tunnel", Ladder()),
    ("wan", Wan("wan")),
    ("rule", TrafficRule("rule")),
    ("peer", Peer("wg0", "key", "label")),
]


@pytest.mark.parametrize(("kind", "values"), DEFAULTS, ids=lambda each: each if isinstance(each, str) else "")
def test_defaults_are_those_of_the_settings(kind: str, values: Any) -> None:
    for option in BY_TYPE[kind].options:
        if option.name in SPLIT:
            items = option.default.split()
            if items:
                assert values.targets4 == tuple(item for item in items if ":" not in item)
                assert values.targets6 == tuple(item for item in items if ":" in item)
            continue
        if not hasattr(values, option.target) or option.name in ABOUT.get(kind, ()):
            assert option.name in {*ABOUT.get(kind, ()), "wan"}
            continue
        default = getattr(values, option.target)
        parse = DATATYPES[option.datatype].parse
        if option.many:
            assert tuple(parse(item, option.limits) for item in option.default.split()) == default
        elif option.target == "families":
            assert FAMILIES[option.default] == default
        elif option.target == "protocol" and kind == "rule":
            assert (option.default, default) == ("all", "")
        elif option.target == "probe":
            assert (option.default, default) == ("auto", "")  # auto needs the allowed IPs
        elif option.default:
            assert parse(option.default, option.limits) == default
        else:
            assert not default


def test_names_in_the_default_file_are_there_once() -> None:
    names = [section.name if section.once else section.example for section in SECTIONS]
    assert all(names) and len(set(names)) == len(names)


# ---- what is generated


def test_generated_files_are_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["--check"]) == 0, capsys.readouterr().err


def test_check_tells_what_is_out_of_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = tmp_path / "wgrouter" / "config" / "generate.py"
    monkeypatch.setattr(generate, "__file__", str(module))
    assert generate.main(["--check"]) == 1
    assert "files/etc/config/wgrouter, docs/configuration.md" in capsys.readouterr().err
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    (tmp_path / generate.DOCUMENT).write_text("old", encoding="utf-8")
    assert generate.main(["--check"]) == 1
    assert "files" not in capsys.readouterr().err


NETWORK = b"""
config interface 'wan'
	option proto 'dhcp'
	option device 'eth1'

config interface 'wg0'
	option proto 'wireguard'

config wireguard_wg0
	option description 'office'
	option public_key 'xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg='
	option endpoint_host 'office.example.net'
"""


def test_the_default_file_changes_nothing() -> None:
    text = generate.default_file().encode()
    loaded = load({"wgrouter": text, "network": NETWORK})
    assert loaded.problems == ()
    assert loaded.settings == load({"wgrouter": b"", "network": NETWORK}).settings


def test_every_example_of_the_default_file_is_right() -> None:
    lines = generate.default_file().splitlines()
    bare = "\n".join(line[1:] if line.startswith(("#config", "#\t")) else line for line in lines)
    loaded = load({"wgrouter": bare.encode(), "network": NETWORK})
    assert loaded.problems == ()
    settings = loaded.settings
    assert (settings.dns.servers, settings.dns.allow) == (("9.9.9.9",), ("203.0.113.0/24",))
    assert settings.tunnels[0].peers[0].endpoints[1].host == "backup.example.net"
    assert settings.wans[0].interface == "wan"
    assert replace(settings.dns, servers=(), allow=()) == Dns()
    assert (settings.probing, settings.hold, settings.routing) == (Probing(), Hold(), Routing())


def test_the_document_has_every_option() -> None:
    text = generate.document()
    for section in SECTIONS:
        part = text.partition(f"## config {section.type} '")[2].partition("\n## ")[0]
        for option in section.options:
            assert f"\n| `{option.name}`" in part


def test_files_in_the_repository_are_where_the_package_expects_them() -> None:
    assert (REPOSITORY / generate.DEFAULT_FILE).is_file()
