"""The files that lie on the router: scripts in a router's shells, names and numbers as the code has them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from wgrouter.config import schema
from wgrouter.core.settings import Routing
from wgrouter.ports.bus import LUCI_OBJECT, VERBS

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "files"
SHELLS = [["dash"], ["busybox", "ash"]]
HOTPLUG = FILES / "etc/hotplug.d/iface/90-wgrouter"
INIT = FILES / "etc/init.d/wgrouter"

pytestmark = pytest.mark.skipif(
    not (shutil.which("dash") and shutil.which("busybox")), reason="dash and busybox are not both here"
)
shells = pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])


def program(directory: Path, name: str, text: str) -> None:
    """A program of that name, found first."""
    path = directory / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def sourced(
    shell: list[str], script: Path, directory: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a script as hotplug-call does: sourced, in a subshell."""
    command = [*shell, "-c", f"( . {script} )\necho ended"]
    clean = {"PATH": f"{directory}:/usr/bin:/bin", "LOG": str(directory / "log")} | environment
    return subprocess.run(
        command, env=clean, cwd="/", capture_output=True, text=True, check=False, timeout=30
    )


# ---------------------------------------------------------------- hotplug


@shells
@pytest.mark.parametrize(
    ("action", "interface", "device"),
    [
        ("ifup", "wan", "eth1.7"),
        ("ifdown", "wan", ""),
        ("ifupdate", "lan6", "br-lan"),
        ("ifup-failed", "wwan_2", ""),
        ("reload", "wan", "pppoe-wan"),
        ("free", "wan", "eth0:1"),
    ],
)
def test_hotplug_pokes_the_agent(
    shell: list[str], tmp_path: Path, action: str, interface: str, device: str
) -> None:
    program(tmp_path, "ubus", 'printf "%s\\n" "$@" >"$LOG"')
    news = {"ACTION": action, "INTERFACE": interface} | ({"DEVICE": device} if device else {})
    done = sourced(shell, HOTPLUG, tmp_path, **news)
    assert (done.stdout, done.stderr) == ("ended\n", "")
    *call, message = (tmp_path / "log").read_text().splitlines()
    assert call == ["-t", "1", "call", "wgrouter", "hint"]
    assert json.loads(message) == {"action": action, "interface": interface, "device": device}
    assert json.loads(message).keys() == VERBS["hint"].keys()


@shells
@pytest.mark.parametrize(
    "news",
    [
        {"ACTION": "connected", "INTERFACE": "wan"},
        {"ACTION": "disconnected", "INTERFACE": "wan"},
        {"ACTION": "ifup", "INTERFACE": 'wan","action":"x'},
        {"ACTION": "ifup", "INTERFACE": "wan", "DEVICE": "eth0\\"},
        {"ACTION": "ifup", "INTERFACE": "$(touch /tmp/no)"},
        {"ACTION": "if\nup", "INTERFACE": "wan"},
    ],
)
def test_hotplug_passes_over_what_is_no_news_or_no_name(
    shell: list[str], tmp_path: Path, news: dict[str, str]
) -> None:
    program(tmp_path, "ubus", 'echo called >"$LOG"')
    done = sourced(shell, HOTPLUG, tmp_path, **news)
    assert (done.stdout, done.stderr) == ("ended\n", "")
    assert not (tmp_path / "log").exists()


@shells
def test_hotplug_does_not_mind_an_agent_that_is_not_there(shell: list[str], tmp_path: Path) -> None:
    program(tmp_path, "ubus", 'echo "Command failed: Not found" >&2; exit 4')
    done = sourced(shell, HOTPLUG, tmp_path, ACTION="ifup", INTERFACE="wan")
    assert (done.stdout, done.stderr) == ("ended\n", "")


def test_hotplug_starts_no_python() -> None:
    code = [line for line in HOTPLUG.read_text().splitlines() if not line.startswith("#")]
    assert "python" not in "\n".join(code).lower()
    assert len([line for line in code if line]) <= 12


@pytest.mark.skipif(not shutil.which("strace"), reason="strace not found: exec cannot be traced")
@shells
def test_hotplug_executes_the_ubus_program_and_nothing_else(shell: list[str], tmp_path: Path) -> None:
    (tmp_path / "ubus").symlink_to(shutil.which("true") or "")
    trace = tmp_path / "trace"
    tracer = ["strace", "-f", "-qq", "-e", "trace=execve,execveat", "-e", "signal=none", "-o", str(trace)]
    done = sourced([*tracer, *shell], HOTPLUG, tmp_path, ACTION="ifup", INTERFACE="wan", DEVICE="eth1")
    if "ptrace" in done.stderr.lower():
        pytest.skip(f"tracing is not allowed here: {done.stderr.strip()}")
    assert done.stdout == "ended\n"
    executed = re.findall(r'execve\("([^"]+)".* = 0$', trace.read_text(), re.M)
    assert [Path(name).name for name in executed] == [Path(shell[0]).name, "ubus"]


# ---------------------------------------------------------------- procd

RC = """\
uci_load_validate() { echo "validate $*" >>"$LOG"; }
for word in open_instance set_param close_instance add_jail send_signal add_reload_trigger add_validation; do
    eval "procd_$word() { echo \\"$word \\$*\\" >>\\"$LOG\\"; }"
done
procd_running() { [ -n "$RUNNING" ]; }
start() { echo start >>"$LOG"; }
"""


def rc(shell: list[str], directory: Path, function: str, **environment: str) -> list[str]:
    """What the init script says to procd in one of its functions."""
    (directory / "rc").write_text(RC)
    log = directory / "log"
    log.unlink(missing_ok=True)
    command = [*shell, "-c", f"set -u; RUNNING=${{RUNNING:-}}; . {directory}/rc; . {INIT}; {function}"]
    clean = {"PATH": "/usr/bin:/bin", "LOG": str(log)} | environment
    done = subprocess.run(command, env=clean, capture_output=True, text=True, check=False, timeout=30)
    assert done.stderr == "", done.stderr
    return log.read_text().splitlines() if log.exists() else []


@shells
def test_the_service_runs_for_ever_and_into_the_log(shell: list[str], tmp_path: Path) -> None:
    said = rc(shell, tmp_path, "start_service")
    assert said[0] == "open_instance " and said[-1] == "close_instance "
    assert "set_param command /usr/bin/wgrouter run" in said
    assert "set_param respawn 3600 2 0" in said  # threshold, pause, retries: 0 is for ever
    assert {"set_param stdout 1", "set_param stderr 1"} <= set(said)


@shells
def test_a_reload_is_a_signal_to_who_runs_and_a_start_else(shell: list[str], tmp_path: Path) -> None:
    assert rc(shell, tmp_path, "reload_service", RUNNING="1") == ["send_signal wgrouter * HUP"]
    assert rc(shell, tmp_path, "reload_service") == ["start"]


@shells
def test_both_configurations_trigger_it(shell: list[str], tmp_path: Path) -> None:
    said = rc(shell, tmp_path, "service_triggers")
    assert said == ["add_reload_trigger wgrouter network", "add_validation validate_main_section"]


@shells
def test_what_procd_validates_is_what_the_schema_says(shell: list[str], tmp_path: Path) -> None:
    [said] = rc(shell, tmp_path, "validate_main_section main callback")
    options = {option.name: option for option in schema.MAIN.options}
    enabled, level = options["enabled"], options["log_level"]
    choices = ",".join(f'"{choice}"' for choice in level.choices)
    assert said == (
        f"validate wgrouter {schema.MAIN.type} main callback "
        f"enabled:bool:{enabled.default} log_level:or({choices}):{level.default}"
    )


def test_it_starts_after_the_network_and_stops_before_it() -> None:
    start, stop = (int(re.search(rf"^{word}=(\d+)", INIT.read_text(), re.M)[1]) for word in ("START", "STOP"))  # type: ignore[index]
    assert start > 20 and stop < 90  # START and STOP of /etc/init.d/network


def test_capabilities_are_the_two_that_routing_needs() -> None:
    sets = json.loads((FILES / "etc/capabilities/wgrouter.json").read_text())
    assert set(sets) == {"bounding", "effective", "ambient", "permitted", "inheritable"}
    assert all(names == ["CAP_NET_ADMIN", "CAP_NET_RAW"] for names in sets.values())


@shells
def test_uci_defaults_ends_well(shell: list[str], tmp_path: Path) -> None:
    [script] = (FILES / "etc/uci-defaults").iterdir()
    assert subprocess.run([*shell, str(script)], check=False).returncode == 0


# ---------------------------------------------------------------- names and numbers


def test_luci_may_read_and_with_write_access_command() -> None:
    [(name, access)] = json.loads((FILES / "usr/share/rpcd/acl.d/wgrouter.json").read_text()).items()
    assert name == "wgrouter"
    read, write = (set(access[kind]["ubus"][LUCI_OBJECT]) for kind in ("read", "write"))
    assert read | write | {"hint"} == set(VERBS) and not read & write
    assert write == {"refresh", "reload", "switch"}
    assert access["read"]["uci"] == access["write"]["uci"] == ["wgrouter"]


def test_iproute2_knows_our_numbers_by_name() -> None:
    def named(place: str) -> dict[str, str]:
        lines = (FILES / "etc/iproute2" / place / "wgrouter.conf").read_text().splitlines()
        return {name: number for number, name in (line.split() for line in lines if not line.startswith("#"))}

    assert named("rt_protos.d") == {"wgrouter": str(Routing().protocol)}
    assert named("rt_tables.d") == {"wgrouter": str(Routing().table_base)}


def test_a_system_upgrade_keeps_scripts_and_state() -> None:
    kept = (FILES / "lib/upgrade/keep.d/wgrouter").read_text().split()
    assert kept == ["/etc/hotplug.d/wgrouter/", "/etc/wgrouter/"]


def test_executable_is_what_has_to_be() -> None:
    executable = {
        path.relative_to(FILES).as_posix()
        for path in FILES.rglob("*")
        if path.is_file() and os.access(path, os.X_OK) and path.stat().st_mode & 0o111
    }
    assert executable == {"etc/init.d/wgrouter", "usr/bin/wgrouter"}


# ---------------------------------------------------------------- where OpenWrt's own programs are found


@pytest.mark.skipif(not shutil.which("uci"), reason="uci not found: no real UCI to read our file with")
def test_the_real_uci_reads_the_shipped_configuration() -> None:
    command = ["uci", "-c", str(FILES / "etc/config"), "-q", "show", "wgrouter"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
