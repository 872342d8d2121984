"""Where `wgrouter fleet` is, and where it is not."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.machine import ROOT, environment
from wgrouter import cli


def build_ipk(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "package"))
    spec = importlib.util.spec_from_file_location("build_ipk_for_fleet", ROOT / "package/build_ipk.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_no_router_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ipk = build_ipk(monkeypatch)
    shipped = [name for package in ("wgrouter", "wgrouter-mqtt") for name in ipk.contents(package)]
    assert any(name.endswith("/mqtt/topics.py") for name in shipped)
    assert not [name for name in shipped if "/fleet/" in name]


def test_where_it_is_missing_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wgrouter.fleet.main", None)
    assert cli.main(["fleet", "watch", "--once"]) == 1
    said = capsys.readouterr().err
    assert said == "wgrouter: fleet is for an operator's machine: it is in no package for routers\n"
    assert cli.main(["fleet", "--help"]) == 0
    assert "no package for routers" in capsys.readouterr().out


def test_its_help_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fleet", "--help"]) == 0
    assert "paho-mqtt are (apt install python3-paho-mqtt)" in capsys.readouterr().out
    assert cli.main(["fleet", "watch", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--password-file" in out
    assert all(len(line) <= 80 for line in out.splitlines())


def test_other_commands_do_not_import_it() -> None:
    script = (
        "import sys; from wgrouter import cli; cli.main(['status', '--root', '/nonexistent']); "
        "sys.exit('wgrouter.fleet' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=Path("/"), env=environment(), check=False)
    assert done.returncode == 0


def test_options_may_stand_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "office"
    file.write_text("--broker\nhttp://not-a-broker\n")
    assert cli.main(["fleet", "watch", "--once", f"@{file}"]) == 2
    assert "'http://not-a-broker' is no broker" in capsys.readouterr().err
