"""The architecture, as rules that a test can check: who may import what, and why.

Imports are read from the source, wherever they stand (also inside a function, or under TYPE_CHECKING: a type
is a dependency too). Every rule carries its reason, and a violation prints it. The last part breaks each rule
in a tree of its own, to show that it bites.
"""

import ast
import functools
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "wgrouter"
MAX_LINES = 500

# What pure code may use: values and functions of values. Nothing here reads a clock, a file, a socket or
# chance.
HARMLESS = """
    __future__ abc base64 binascii bisect collections contextlib copy dataclasses enum errno fractions
    functools hashlib heapq ipaddress itertools json math operator re statistics string struct textwrap types
    typing zlib
"""

# Libraries a router brings along, and the only module that may know each.
OWNERS = {
    "pyroute2": r"wgrouter\.ports\.(_\w+|kernel|wireguard|conntrack)",
    "dns": r"wgrouter\.ports\.nameserver",
    "paho": r"wgrouter\.(ports\._broker_session|fleet\.link)",
    "ubus": r"wgrouter\.ports\.bus",
}


# Calls that import by a name given as a string.
IMPORTING = {"importlib.import_module", "import_module", "__import__"}


@dataclass(frozen=True)
class Import:
    """One import statement's target: `module` imports `target`, an absolute dotted name, in this line."""

    module: str
    target: str
    line: int
    lazy: bool  # inside a function


@dataclass(frozen=True)
class Rule:
    """What an import must not be, and why."""

    name: str
    reason: str
    breaks: Callable[[Import], bool]


def inside(name: str, *parents: str) -> bool:
    """Whether a dotted name is one of the parents or lies in one."""
    return any(name == parent or name.startswith(parent + ".") for parent in parents)


def ours(name: str) -> bool:
    return inside(name, "wgrouter")


def top(name: str) -> str:
    return name.split(".")[0]


CORE, CONFIG, PORTS, SHELL = "wgrouter.core", "wgrouter.config", "wgrouter.ports", "wgrouter.shell"
DAEMON, CLI = "wgrouter.daemon", "wgrouter.cli"
MQTT, REPORTING = "wgrouter.mqtt", "wgrouter.reporting"
FLEET = "wgrouter.fleet"
FLEET_PURE = [
    f"{FLEET}.{name}" for name in ("messages", "ledger", "model", "verdict", "table", "view", "command")
]


def _ours_but(target: str, *parents: str) -> bool:
    """Whether something of ours lies elsewhere. The package itself, a version number, is nobody's."""
    return ours(target) and target != "wgrouter" and not inside(target, *parents)


def _package_itself(i: Import) -> bool:
    return i.module == "wgrouter"


def _core_upward(i: Import) -> bool:
    return inside(i.module, CORE) and ours(i.target) and not inside(i.target, CORE)


def _core_impure(i: Import) -> bool:
    return inside(i.module, CORE) and not ours(i.target) and top(i.target) not in HARMLESS.split()


def _config_upward(i: Import) -> bool:
    return inside(i.module, CONFIG) and _ours_but(i.target, CORE, CONFIG)


def _port_to_port(i: Import) -> bool:
    """Allowed are the package itself and its helpers, ports._name; a helper may use other helpers."""
    if not (inside(i.module, PORTS) and inside(i.target, PORTS)) or i.target == PORTS:
        return False
    return i.module != PORTS and not i.target.removeprefix(PORTS + ".").startswith("_")


def _port_upward(i: Import) -> bool:
    return inside(i.module, PORTS) and _ours_but(i.target, CORE, PORTS)


def _shell_upward(i: Import) -> bool:
    return inside(i.module, SHELL) and _ours_but(i.target, CORE, SHELL)


def _root_imported(i: Import) -> bool:
    return inside(i.target, DAEMON) and not (i.module == CLI and i.lazy) and i.module != DAEMON


def _ports_known(i: Import) -> bool:
    return inside(i.target, PORTS) and not inside(i.module, PORTS, DAEMON, REPORTING)


def _reporting_of_others(i: Import) -> bool:
    """Only the broker and what the router is called: reporting is the composition root of one optional
    package.
    """
    mine = (PORTS, PORTS + ".broker", PORTS + ".hardware")
    other = inside(i.target, PORTS) and i.target not in mine
    return inside(i.module, REPORTING) and (other or inside(i.target, SHELL))


def _mqtt_upward(i: Import) -> bool:
    return inside(i.module, MQTT) and _ours_but(i.target, CORE, MQTT)


def _mqtt_impure(i: Import) -> bool:
    harmless = (*HARMLESS.split(), "hmac")
    return inside(i.module, MQTT) and not ours(i.target) and top(i.target) not in harmless


def _optional(i: Import) -> bool:
    """Something of the package wgrouter-mqtt, asked for where that may be missing."""
    inner = inside(i.module, MQTT, REPORTING, "wgrouter.fleet") or re.fullmatch(
        r"wgrouter\.ports\._?broker\w*", i.module
    )
    wanted = inside(i.target, MQTT, REPORTING) or re.fullmatch(r"wgrouter\.ports\._?broker\w*", i.target)
    return bool(wanted and not inner and not (i.lazy and inside(i.module, DAEMON, CLI)))


def _fleet_entangled(i: Import) -> bool:
    outward = inside(i.module, FLEET) and _ours_but(i.target, FLEET, MQTT, "wgrouter.render")
    return outward or (
        inside(i.target, FLEET) and not inside(i.module, FLEET) and not (i.module == CLI and i.lazy)
    )


def _fleet_impure(i: Import) -> bool:
    return (
        i.module in FLEET_PURE
        and not ours(i.target)
        and top(i.target) not in (*HARMLESS.split(), "unicodedata")
    )


def _cli_heavy(i: Import) -> bool:
    return i.module == CLI and (inside(i.target, PORTS) or top(i.target) in OWNERS)


def _library_owner(i: Import) -> bool:
    owner = OWNERS.get(top(i.target))
    return owner is not None and not re.fullmatch(owner, i.module)


def _foreign(i: Import) -> bool:
    return not ours(i.target) and top(i.target) not in OWNERS and top(i.target) not in sys.stdlib_module_names


RULES = (
    Rule(
        "the package itself imports nothing",
        "wgrouter/__init__.py runs before every module of ours, so whatever it imports, core imports",
        _package_itself,
    ),
    Rule(
        "core stands on nothing of ours",
        "core is the ground floor: it can be tested, replayed and read alone, because it knows no port, no "
        "file and no loop",
        _core_upward,
    ),
    Rule(
        "core is pure",
        "a clock, a socket or a random number in core would make a decision that `wgrouter replay` cannot "
        "repeat; if a module you need is as harmless as those in HARMLESS, add it there and say why in the "
        "commit",
        _core_impure,
    ),
    Rule(
        "config knows core alone",
        "text becomes Settings without looking at the router: `wgrouter check` must work on a laptop",
        _config_upward,
    ),
    Rule(
        "no port knows another",
        "each port is one outside system; what two need together is a decision, and decisions are core's "
        "(what is mere plumbing goes into a module ports/_name.py)",
        _port_to_port,
    ),
    Rule(
        "ports know core alone",
        "a port turns the world into events and effects into deeds; who calls it, and from which settings, "
        "is not its business",
        _port_upward,
    ),
    Rule(
        "shell knows core alone",
        "the loop carries events and effects between ports, which it sees as objects with fileno(), ready()"
        " and do()",
        _shell_upward,
    ),
    Rule(
        "nobody imports the daemon but cli, inside a function",
        "daemon.py is the composition root and imports every library: 300 ms and 20 MiB that `wgrouter "
        "explain` must not cost",
        _root_imported,
    ),
    Rule(
        "the daemon alone knows the ports",
        "if two modules choose ports, nobody can say what a router runs by reading one file; what belongs to"
        " the optional package wgrouter-mqtt is wired in reporting.py, which goes with it",
        _ports_known,
    ),
    Rule(
        "reporting wires no other port than the broker",
        "it is the part of the composition root that an optional package brings along: every other port that "
        "does something is the daemon's",
        _reporting_of_others,
    ),
    Rule(
        "mqtt knows core alone",
        "topics, payloads and the judgement of commands are values made of values: the same tests hold for "
        "every library and broker",
        _mqtt_upward,
    ),
    Rule(
        "mqtt is pure",
        "time is given to it as in core, so that what a fleet is told can be tested to the byte (hmac reads "
        "nothing)",
        _mqtt_impure,
    ),
    Rule(
        "the optional package is asked for inside a function",
        "wgrouter runs without wgrouter-mqtt: an import at the top of a module would end it there",
        _optional,
    ),
    Rule(
        "fleet stands aside",
        "it runs on an operator's machine and is in no package for routers: it shares the format of messages"
        " with the agent and nothing else, and the agent must run without it",
        _fleet_entangled,
    ),
    Rule(
        "the fleet's model is pure",
        "what an operator is told about a router is decided from messages and the time they came, so that "
        "every verdict can be tested (unicodedata is a table)",
        _fleet_impure,
    ),
    Rule(
        "cli is light",
        "the command line answers on a router with 64 MiB, and where a library is broken: it talks to the "
        "running daemon, or reads files",
        _cli_heavy,
    ),
    Rule(
        "one owner for each library",
        "two versions of each library are in the field; their differences are dealt with in one module "
        "(OWNERS), not everywhere",
        _library_owner,
    ),
    Rule(
        "no library but those a router has",
        "every import must come from Python itself or from a package the .ipk depends on",
        _foreign,
    ),
)


def module_name(path: Path, package: Path) -> str:
    """Dotted name of a source file: wgrouter/core/links.py is wgrouter.core.links."""
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, package: Path) -> Iterator[Import]:
    """Every import of a file. `from x import y` yields x.y where that is a module of ours, x otherwise."""
    name = module_name(path, package)
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    lazy = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, alias.name, node.lineno, id(node) in lazy)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                # A package is its own first level: `.x` in wgrouter/core/__init__.py is wgrouter.core.x.
                above = name.split(".")[: len(name.split(".")) - node.level + (path.name == "__init__.py")]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                where = package.parent.joinpath(*inner.split("."))
                is_module = ours(inner) and (where.with_suffix(".py").exists() or where.is_dir())
                yield Import(name, inner if is_module else base, node.lineno, id(node) in lazy)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in IMPORTING:
            match node.args:
                case [ast.Constant(value=str(target)), *_]:
                    yield Import(name, target, node.lineno, id(node) in lazy)


@functools.cache
def all_imports(package: Path) -> tuple[tuple[Path, Import], ...]:
    """Every import of a tree, read once for all rules."""
    return tuple((path, found) for path in sorted(package.rglob("*.py")) for found in imports(path, package))


def violations(package: Path, rule: Rule) -> list[str]:
    """Where a tree breaks a rule, in words."""
    return [
        f"{path.relative_to(package.parent)}:{found.line}: {found.module} imports {found.target}"
        for path, found in all_imports(package)
        if rule.breaks(found)
    ]


def shape_problems(package: Path) -> list[str]:
    """Modules that are too long to be read at one sitting, or that do not say what they are for."""
    problems = []
    for path in sorted(package.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        lines = source.count("\n")
        where = path.relative_to(package.parent)
        if lines > MAX_LINES:
            problems.append(f"{where}: {lines} lines; the most is {MAX_LINES}: find the seam and split it")
        if not ast.get_docstring(ast.parse(source)):
            problems.append(
                f"{where}: no docstring: say what it decides or touches, and what it must not know"
            )
    return problems


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name.replace(" ", "-"))
def test_imports(rule: Rule) -> None:
    found = violations(PACKAGE, rule)
    assert not found, f"rule broken: {rule.name}\nbecause: {rule.reason}\n" + "\n".join(found)


def test_modules_are_short_and_say_what_they_are() -> None:
    found = shape_problems(PACKAGE)
    assert not found, "\n".join(found)


# ---- the rules bite ---------------------------------------------------------------------------------------

BREAKING = [
    ("__init__.py", "from . import cli", "the package itself imports nothing"),
    ("core/links.py", "from wgrouter.ports import kernel", "core stands on nothing of ours"),
    ("core/links.py", "from ..config.load import load", "core stands on nothing of ours"),
    ("core/links.py", "from .. import config", "core stands on nothing of ours"),
    ("core/links.py", "import time", "core is pure"),
    ("core/links.py", "def f():\n    from random import random", "core is pure"),
    ("core/links.py", "import importlib\nimportlib.import_module('socket')", "core is pure"),
    ("core/links.py", "import os.path", "core is pure"),
    ("config/load.py", "from wgrouter.shell import journal", "config knows core alone"),
    ("ports/nft.py", "from .kernel import Kernel", "no port knows another"),
    ("ports/nft.py", "from wgrouter.ports import kernel", "no port knows another"),
    ("ports/_netlink.py", "from .kernel import Kernel", "no port knows another"),
    ("ports/nft.py", "from wgrouter.config import load", "ports know core alone"),
    ("ports/nft.py", "import wgrouter.shell.reactor", "ports know core alone"),
    ("shell/actor.py", "from ..config import load", "shell knows core alone"),
    ("shell/actor.py", "from ..ports.kernel import Kernel", "the daemon alone knows the ports"),
    ("cli.py", "from wgrouter import daemon", "nobody imports the daemon but cli, inside a function"),
    (
        "config/load.py",
        "def f():\n    import wgrouter.daemon",
        "nobody imports the daemon but cli, inside a function",
    ),
    ("cli.py", "def run():\n    from wgrouter.ports import bus", "cli is light"),
    ("cli.py", "def run():\n    import ubus", "cli is light"),
    ("ports/nft.py", "from pyroute2 import IPRoute", "one owner for each library"),
    ("ports/broker.py", "import dns.resolver", "one owner for each library"),
    ("ports/broker.py", "import paho.mqtt.client", "one owner for each library"),
    ("reporting.py", "from wgrouter.ports import nft", "reporting wires no other port than the broker"),
    ("reporting.py", "from wgrouter.shell import reactor", "reporting wires no other port than the broker"),
    ("mqtt/topics.py", "from wgrouter.ports import nft", "mqtt knows core alone"),
    ("mqtt/topics.py", "from wgrouter.config import load", "mqtt knows core alone"),
    ("mqtt/topics.py", "import time", "mqtt is pure"),
    ("daemon.py", "from wgrouter import reporting", "the optional package is asked for inside a function"),
    ("cli.py", "from wgrouter.mqtt import topics", "the optional package is asked for inside a function"),
    (
        "shell/actor.py",
        "def f():\n    import wgrouter.mqtt.topics",
        "the optional package is asked for inside a function",
    ),
    ("fleet/main.py", "from wgrouter.core import engine", "fleet stands aside"),
    ("fleet/main.py", "from wgrouter.ports import broker", "fleet stands aside"),
    ("cli.py", "from wgrouter.fleet import main", "fleet stands aside"),
    ("daemon.py", "def run():\n    import wgrouter.fleet.main", "fleet stands aside"),
    ("fleet/model.py", "import time", "the fleet's model is pure"),
    ("fleet/screen.py", "import paho.mqtt.client", "one owner for each library"),
    ("daemon.py", "import paho.mqtt.client", "one owner for each library"),
    ("ports/nft.py", "import requests", "no library but those a router has"),
]

KEEPING = [
    (
        "core/links.py",
        "from __future__ import annotations\nimport math\nfrom .model import World\nfrom . import model",
    ),
    (
        "config/load.py",
        "from pathlib import Path\nfrom wgrouter.core.settings import Settings\nfrom . import uci",
    ),
    (
        "ports/wireguard.py",
        "import socket\nfrom pyroute2 import WireGuard\nfrom ._netlink import load\nfrom ..core import model",
    ),
    ("ports/_netlink.py", "import pyroute2.netlink\nfrom .. import __version__"),
    ("shell/actor.py", "import selectors\nfrom wgrouter.core import messages\nfrom .journal import Journal"),
    (
        "daemon.py",
        "from wgrouter.ports import kernel, nft\nfrom wgrouter.config import load",
    ),
    ("cli.py", "import argparse\ndef run():\n    from wgrouter.daemon import main"),
    ("daemon.py", "def start():\n    from wgrouter import reporting"),
    ("reporting.py", "from wgrouter.ports import broker\nfrom wgrouter.mqtt import topics"),
    ("ports/_broker_session.py", "import paho.mqtt.client\nfrom wgrouter.core import model"),
    ("fleet/link.py", "import paho.mqtt.client\nimport threading"),
    ("fleet/main.py", "from wgrouter.mqtt import topics\nfrom wgrouter import render\nfrom . import model"),
    ("cli.py", "def run():\n    from wgrouter.fleet.main import main"),
]


def tree(root: Path, name: str, source: str) -> Path:
    """A package with empty modules where ours has some, and one with the given source."""
    package = root / "wgrouter"
    modules = """
        core/model core/messages core/settings config/load config/uci daemon cli
        ports/kernel ports/nft ports/bus ports/_netlink shell/actor shell/reactor shell/journal
        ports/broker mqtt/topics reporting fleet/main fleet/model render
    """
    for module in modules.split():
        path = package / f"{module}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('"""Empty."""\n')
    (package / name).write_text(f'"""Under test."""\n{source}\n')
    return package


@pytest.mark.parametrize(("name", "source", "broken"), BREAKING)
def test_a_broken_rule_is_seen(tmp_path: Path, name: str, source: str, broken: str) -> None:
    package = tree(tmp_path, name, source)
    assert broken in {rule.name for rule in RULES if violations(package, rule)}


@pytest.mark.parametrize(("name", "source"), KEEPING)
def test_what_is_allowed_stays_allowed(tmp_path: Path, name: str, source: str) -> None:
    package = tree(tmp_path, name, source)
    assert [line for rule in RULES for line in violations(package, rule)] == []


def test_every_rule_is_broken_above() -> None:
    assert {rule.name for rule in RULES} == {broken for _, _, broken in BREAKING}


def test_long_and_silent_modules_are_seen(tmp_path: Path) -> None:
    package = tree(tmp_path, "core/links.py", "x = 1\n" * MAX_LINES)
    (package / "core" / "silent.py").write_text("x = 1\n")
    found = "\n".join(shape_problems(package))
    assert "wgrouter/core/links.py: 502 lines" in found
    assert "wgrouter/core/silent.py: no docstring" in found
