"""The package on OpenWrt's own programs: opkg, procd, rc.common, uci, ubus, validate_data. Skipped without.

The programs are looked for on PATH. WGROUTER_OPENWRT names a directory with the scripts that belong to them:
etc/rc.common, lib/functions.sh, lib/functions/, lib/config/uci.sh, usr/share/libubox/jshn.sh.

They find their places in a root that lies over this machine's, in namespaces of its own: mounts, processes,
network. The shell there is busybox's, as on a router.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.package.test_ipk import RECIPES, WHEN, ipk

PROGRAMS = ("opkg-cl", "procd", "ubusd", "ubus", "uci", "validate_data", "jshn", "jsonfilter", "busybox")
BASE = os.environ.get("WGROUTER_OPENWRT", "")
LACKING = [name for name in PROGRAMS if not shutil.which(name)] + ([] if BASE else ["WGROUTER_OPENWRT"])

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        bool(LACKING), reason=f"{', '.join(LACKING)} not found: OpenWrt's programs are not here"
    ),
]

UNSHARE = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child")

# $1: a directory for the new root. Ends when its standard input does.
SETUP = """\
set -e
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
for place in tmp dev sys; do mount --rbind "/$place" "$place"; done
mount -t proc proc proc
mount -t tmpfs tmpfs run
mkdir -p run/ubus run/lock etc/config etc/rc.d etc/init.d
[ -e var/run ] || ln -s ../run var/run
tar -c -C "$BASE" . | tar -x --keep-directory-symlink
for name in $NAMES; do ln -sf "$(command -v "$name")" "sbin/$name"; done
rm -f bin/sh
cp "$(command -v busybox)" bin/sh
printf '#!/bin/bash\\nPYTHONPATH=%s exec %s "$@"\\n' "$BINDING" "$PYTHON" >usr/bin/python3
chmod 755 usr/bin/python3
ip link set lo up
exec chroot . /bin/sh -c 'echo ready; exec cat'
"""

# In place of the agent, where only the service is looked at: says what signals it gets.
STUB = """\
#!/bin/bash
echo "started $* $(grep CapEff /proc/self/status)" >>/run/log
trap 'echo HUP >>/run/log' HUP
trap 'echo TERM >>/run/log; exit 0' TERM
while :; do read -r -t 1 <> <(:); done
"""


class Router:
    """The root, and commands in it."""

    def __init__(self, directory: Path) -> None:
        environment = os.environ | {"BASE": BASE, "NAMES": " ".join(PROGRAMS), "PYTHON": sys.executable}
        binding = importlib.util.find_spec("ubus")
        environment["BINDING"] = str(Path(binding.origin).parent) if binding and binding.origin else ""
        if shutil.which("ujail"):
            environment["NAMES"] += " ujail"
        self._process = subprocess.Popen(
            [*UNSHARE, "sh", "-c", SETUP, "sh", str(directory)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        assert self._process.stdout and self._process.stdout.readline() == "ready\n"
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        self._inside = ["nsenter", f"--target={children[0]}", "--mount", "--net", "--pid", "--root", "--wd"]
        self.background: list[subprocess.Popen[str]] = []
        self.ubusd: subprocess.Popen[str] | None = None
        self.before: dict[str, str] = {}  # in the kernel, before the package came

    def run(self, command: str, status: int | None = 0) -> str:
        """A command of the router's shell; what it prints."""
        done = subprocess.run(
            [*self._inside, "/bin/sh", "-c", command], env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert status is None or done.returncode == status, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def start(self, command: str) -> subprocess.Popen[str]:
        """A command that goes on."""
        path = {"PATH": "/sbin:/bin:/usr/bin"}
        inside = [*self._inside, *shlex.split(command)]
        self.background.append(subprocess.Popen(inside, env=path, text=True))
        return self.background[-1]

    def kill_ubusd(self) -> None:
        """And start another one."""
        if self.ubusd is not None:
            self.run("kill -9 $(pidof ubusd)")
            self.ubusd.wait()
        self.ubusd = self.start("ubusd")

    def until(self, command: str, condition: Callable[[str], object], within: float = 10.0) -> str:
        """Ask until the answer is as it should be."""
        end = time.monotonic() + within
        while True:
            said = self.run(command, None)
            if condition(said):
                return said
            assert time.monotonic() < end, f"{command}: still {said!r} after {within} s"

    def close(self) -> None:
        for process in self.background:
            process.kill()
            process.wait()
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                stream.close()


@pytest.fixture
def router(tmp_path: Path) -> Iterator[Router]:
    """ubusd and procd run; an empty network configuration."""
    (tmp_path / "mount").mkdir()
    router = Router(tmp_path / "mount")
    try:
        router.kill_ubusd()
        router.until("ubus list", lambda said: "Failed" not in said)
        router.start("procd")
        router.until("ubus list", lambda said: "service" in said)
        router.run("mkdir -p /usr/lib/opkg/info /var/lock /etc/config; touch /etc/config/network")
        (tmp_path / "opkg.conf").write_text(f"dest root /\nlists_dir ext {tmp_path}/lists\narch all 1\n")
        (tmp_path / "status").write_text(
            "".join(
                f"Package: {name}\nVersion: 1\nStatus: install user installed\nArchitecture: all\n\n"
                for name in sorted(
                    {*RECIPES["wgrouter"].depends, *RECIPES["wgrouter-mqtt"].depends} - {"wgrouter"}
                )
            )
        )
        router.run(f"cp {tmp_path}/status /usr/lib/opkg/status")
        yield router
    finally:
        router.close()


def package(directory: Path, release: str = "1", name: str = "wgrouter") -> Path:
    """A package, as a later release if wanted."""
    the = RECIPES[name]
    later = ipk.Recipe(the.name, {**the.variables, "PKG_RELEASE": release}, the.sections)
    path = directory / later.file
    path.write_bytes(built(later.name, release))
    return path


@functools.cache
def built(name: str, release: str) -> bytes:
    """The bytes of a package: built once for all tests."""
    the = RECIPES[name]
    data, _ = ipk.build(ipk.Recipe(name, {**the.variables, "PKG_RELEASE": release}, the.sections), WHEN)
    return bytes(data)


def opkg(router: Router, directory: Path, *words: str | Path) -> str:
    arguments = " ".join(map(str, words))
    return router.run(f"opkg-cl -f {directory}/opkg.conf {arguments}")


def ours(router: Router) -> set[str]:
    """Files that belong to us, or that we might have left; not rc.common's lock, which any service has."""
    ours = "\\( -name '*wgrouter*' -o -path '*/wgrouter/*' \\) ! -type d ! -name 'procd_*.lock'"
    found = router.run(f"find /etc /usr /lib/ /run /var/run/ -xdev {ours} 2>/dev/null", None).split()
    return {line for line in found if "/opkg/" not in line and "/src/" not in line}


def test_the_service_under_procd(router: Router, tmp_path: Path) -> None:
    """Start, status, reload by both configurations, death and return, a clean stop that is waited for."""
    ipk.lay_out(ipk.contents("wgrouter"), tmp_path / "tree")
    (tmp_path / "tree/usr/bin/wgrouter").write_text(STUB)
    router.run(f"tar -c -C {tmp_path}/tree . | tar -x --keep-directory-symlink -C /")
    service = "/etc/init.d/wgrouter"
    assert router.run(f"{service} status", 3) == "inactive\n"
    router.run(f"{service} start")
    router.until(f"{service} status", lambda said: said == "running\n")
    router.until("cat /run/log", lambda said: "started run" in said)
    if shutil.which("ujail"):
        assert "CapEff:\t0000000000003000" in router.run("cat /run/log")  # CAP_NET_ADMIN, CAP_NET_RAW
    router.run(f"{service} reload")
    router.until("cat /run/log", lambda said: said.count("HUP") == 1)
    for package in ("wgrouter", "network"):
        before = router.run("cat /run/log").count("HUP")
        event = f'{{"type":"config.change","data":{{"package":"{package}"}}}}'
        router.run(f"ubus call service event '{event}'")
        router.until("cat /run/log", lambda said, before=before: said.count("HUP") == before + 1)  # type: ignore[misc]
    router.run("kill -9 $(pidof -s wgrouter || pgrep -f '^/bin/bash /usr/bin/wgrouter')", None)
    router.until("cat /run/log", lambda said: said.count("started") == 2)
    router.until(f"{service} status", lambda said: said == "running\n")
    router.run(f"{service} stop")
    assert router.run("cat /run/log").endswith("TERM\n")  # it has ended when `stop` returns
    assert router.run(f"{service} status", 3) == "inactive\n"
    said = router.run('ubus call service validate \'{"package":"wgrouter"}\'')
    router.run(f"{service} restart")
    assert router.until(f"{service} status", lambda said: said == "running\n")
    assert "log_level" in said or "log_level" in router.run(
        'ubus call service validate \'{"package":"wgrouter"}\''
    )


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("", True),
        ("option enabled '0'", True),
        ("option enabled 'perhaps'", False),
        ("option log_level 'loud'", False),
    ],
)
def test_procds_validation(router: Router, text: str, good: bool) -> None:
    router.run(f"printf 'config wgrouter main\\n\\t%s\\n' \"{text}\" >/etc/config/wgrouter")
    rules = '\'enabled:bool:1\' \'log_level:or("debug","info","warning","error"):info\''
    said = router.run(f"validate_data wgrouter wgrouter main {rules}; echo status $?", None)
    assert ("status 0" in said) is good, said


def test_install_upgrade_and_remove(router: Router, tmp_path: Path) -> None:
    """An edited configuration survives the upgrade and the removal, and nothing else does."""
    before = ours(router)
    opkg(router, tmp_path, "install", package(tmp_path))
    assert "wgrouter - 0.1.0-r1" in opkg(router, tmp_path, "list-installed")
    assert router.run("ls /etc/rc.d").split() == ["K85wgrouter", "S25wgrouter"]
    assert router.run("stat -c %a /etc/config/wgrouter /usr/bin/wgrouter").split() == ["600", "755"]
    assert "/etc/uci-defaults/90-wgrouter" not in ours(router)  # it has run
    assert "wgrouter" in router.run("ubus call service list")
    router.run("uci set wgrouter.main=wgrouter; uci set wgrouter.main.log_level=warning; uci commit wgrouter")
    assert router.run("uci get wgrouter.main.log_level") == "warning\n"
    opkg(router, tmp_path, "install", package(tmp_path, "2"))
    assert "wgrouter - 0.1.0-r2" in opkg(router, tmp_path, "list-installed")
    assert router.run("uci get wgrouter.main.log_level") == "warning\n"
    router.run("rm -f /etc/config/wgrouter-opkg")  # the new default, beside the edited one
    opkg(router, tmp_path, "remove", "wgrouter")
    assert ours(router) - before == {"/etc/config/wgrouter"}
    assert router.run("ls /etc/rc.d") == ""
    assert "wgrouter" not in router.run("ubus call service list")
    assert router.run("uci get wgrouter.main.log_level") == "warning\n"


def test_an_untouched_configuration_goes_with_the_package(router: Router, tmp_path: Path) -> None:
    before = ours(router)
    opkg(router, tmp_path, "install", package(tmp_path))
    opkg(router, tmp_path, "remove", "wgrouter")
    assert ours(router) == before


def test_the_package_for_mqtt_comes_and_goes(router: Router, tmp_path: Path) -> None:
    """Not without the first one, which does not go before it; its example has no problem."""
    before = ours(router)
    alone = package(tmp_path, name="wgrouter-mqtt")
    assert "wgrouter" in router.run(f"opkg-cl -f {tmp_path}/opkg.conf install {alone}", None)
    assert ours(router) == before
    opkg(router, tmp_path, "install", package(tmp_path))
    opkg(router, tmp_path, "install", alone)
    router.run("cat /usr/share/wgrouter/mqtt >>/etc/config/wgrouter")
    router.run("sed -i -e 's/^#config mqtt/config mqtt/' -e '/mqtts:/s/^#//' /etc/config/wgrouter")
    assert "mqtts://" in router.run("uci show wgrouter.mqtt.broker")
    router.run("wgrouter check")
    assert "wgrouter-mqtt" in router.run(f"opkg-cl -f {tmp_path}/opkg.conf remove wgrouter", None)
    assert "/usr/bin/wgrouter" in ours(router)
    opkg(router, tmp_path, "remove", "wgrouter-mqtt")
    opkg(router, tmp_path, "remove", "wgrouter")
    assert ours(router) - before == {"/etc/config/wgrouter"}


NETWORK = """\
config interface 'wan'
	option device 'eth1'
	option proto 'static'
	option ipaddr '192.0.1.2/24'
	option gateway '192.0.1.1'
	option metric '10'

config interface 'lte'
	option device 'eth2'
	option proto 'static'
	option ipaddr '192.0.2.2/24'
	option gateway '192.0.2.1'
	option metric '20'
"""
WGROUTER = """\
config wgrouter 'main'
	option enabled '1'
	option mwan3_hotplug '1'

config wan 'wan'
	option device 'eth1'

config wan 'lte'
	option device 'eth2'
	option priority '20'
"""
# What a user writes for our news, and what he has from his days with mwan3.
SCRIPT = 'echo "$ACTION wan=$WAN interface=$INTERFACE device=$DEVICE family=$FAMILY: $REASON" >>/run/news\n'
MWAN3 = 'case "$ACTION" in connected | disconnected) echo "$ACTION $INTERFACE $DEVICE" >>/run/mwan3 ;; esac\n'


@pytest.fixture
def agent(router: Router, tmp_path: Path) -> Router:
    """Two WANs, hook scripts, and the package installed by opkg; procd has started it and it is on ubus."""
    for number in (1, 2):
        router.run(
            f"ip link add eth{number} type veth peer name isp{number} && ip link set isp{number} up && "
            f"ip link set eth{number} up && ip addr add 192.0.{number}.2/24 dev eth{number} && "
            f"ip route add default via 192.0.{number}.1 dev eth{number} metric {number}0"
        )
    for place, text in (
        ("/etc/config/network", NETWORK),
        ("/etc/config/wgrouter", WGROUTER),
        ("/etc/hotplug.d/wgrouter/50-tell", SCRIPT),
        ("/etc/hotplug.d/iface/50-tell", MWAN3),
    ):
        (tmp_path / "file").write_text(text)
        router.run(f"mkdir -p {Path(place).parent}; cp {tmp_path}/file {place}")
    router.before = state(router)
    opkg(router, tmp_path, "install", package(tmp_path))
    router.run("rm -f /etc/config/wgrouter-opkg")  # the shipped one, beside the user's
    router.until("ubus list", lambda said: {"wgrouter", "luci.wgrouter"} <= set(said.split()), 30)
    router.until("ubus call wgrouter wans", lambda said: len(json.loads(said)["wans"]) == 2, 15)
    router.until("ip rule", lambda said: "fwmark 0x" in said, 15)
    return router


def pids(router: Router, pattern: str) -> list[str]:
    """Who runs with such a command line."""
    return router.run(f"pgrep -f '{pattern}'", None).split()


RUNS = "python.*/usr/bin/wgrouter run$"


def the_one(router: Router) -> str:
    """The agent. A child of it has its name for the moment before it is another program."""
    return router.until(f"pgrep -f '{RUNS}'", lambda said: len(said.split()) == 1, 5).strip()


def test_the_agent_on_the_router(agent: Router, tmp_path: Path) -> None:
    """Reached over ubus and hotplug, reloaded; gone without a trace when it is removed."""
    told = json.loads(agent.run("ubus call wgrouter wans"))
    assert set(told) == {"wans", "interfaces", "policies"}
    assert {name: one["enabled"] for name, one in told["interfaces"].items()} == {"wan": True, "lte": True}
    for method in ("status", "tunnels", "findings", "plan", "explain"):
        assert "error" not in json.loads(agent.run(f"ubus call wgrouter {method}"))
    assert "eth1" in agent.run("wgrouter status")
    agent.run("wgrouter explain wan")
    agent.run("wgrouter check")
    for action in ("ifup", "ifupdate", "ifdown"):
        agent.run(f"ACTION={action} INTERFACE=wan DEVICE=eth1 /sbin/hotplug-call iface")
    agent.run("/etc/init.d/wgrouter reload")
    agent.until("wgrouter journal -n 200", lambda said: said.count("settings in force") == 2)
    assert agent.run("/etc/init.d/wgrouter status") == "running\n"
    opkg(agent, tmp_path, "remove", "wgrouter")
    assert pids(agent, RUNS) == []
    assert state(agent) == agent.before
    assert ours(agent) == {"/etc/config/wgrouter", "/etc/hotplug.d/wgrouter/50-tell"}  # the user's own


def test_news_reach_scripts_and_listeners(agent: Router) -> None:
    """A cable is pulled and put back, in the words that docs/openwrt.md has for it."""
    agent.start("sh -c 'exec ubus listen wgrouter.wan wgrouter.tunnel >/run/heard'")
    agent.until("ubus send wgrouter.wan '{}'; cat /run/heard", lambda said: "wgrouter.wan" in said)
    agent.run("ip link set isp1 down")
    agent.until(
        "cat /run/news", lambda said: "failover wan=lte interface=lte device=eth2 family=ipv4: wan" in said
    )
    agent.until("cat /run/mwan3", lambda said: "disconnected wan eth1" in said)
    agent.run("""ubus call wgrouter switch '{"wan":"lte","seconds":600}'""")
    assert "error" in agent.run("""ubus call wgrouter switch '{"wan":"dsl","seconds":600}'""")
    agent.run("""ubus call wgrouter switch '{"wan":"auto","seconds":0}'""")
    heard = agent.until("cat /run/heard", lambda said: "failover" in said).splitlines()
    event = next(line for line in heard if "failover" in line)
    told = json.loads(event)["wgrouter.wan"]
    assert (told["action"], told["wan"], told["device"], told["family"]) == (
        "failover",
        "lte",
        "eth2",
        "ipv4",
    )


def test_its_jail_dies_and_takes_it_along(agent: Router) -> None:
    """procd sees ujail only. Were the agent left alone, its follower would find the place taken, for ever."""
    jails = pids(agent, "ujail.*wgrouter")
    if not jails:
        pytest.skip("ujail not found: the agent is procd's own child")
    first = the_one(agent)
    agent.run(f"kill -9 {' '.join(jails)}")
    agent.until(
        f"pgrep -f '{RUNS}'", lambda said: said.split() not in ([], [first]) and first not in said, 20
    )
    agent.until("ubus call wgrouter status", lambda said: "version" in said, 20)
    assert the_one(agent) != first
    agent.run("wgrouter status")


def test_an_upgrade_restarts_it(agent: Router, tmp_path: Path) -> None:
    """The configuration that was there is kept, and what is in the kernel is taken over by the new agent."""
    first = the_one(agent)
    opkg(agent, tmp_path, "install", package(tmp_path, "2"))
    agent.until(f"pgrep -f '{RUNS}'", lambda said: said.split() not in ([], [first]), 20)
    agent.until("ubus call wgrouter status", lambda said: "version" in said, 20)
    assert agent.run("cat /etc/config/wgrouter") == WGROUTER
    agent.until("ip rule", lambda said: "fwmark 0x" in said, 15)
    opkg(agent, tmp_path, "remove", "wgrouter")
    assert (pids(agent, RUNS), state(agent)) == ([], agent.before)


def test_ubusd_restarts_under_it(agent: Router) -> None:
    """procd starts ubusd anew on a router; here the test does. The object is back within 3 s."""
    pid = the_one(agent)
    open_files = agent.run(f"ls /proc/{pid}/fd | wc -l")
    for _ in range(3):
        agent.kill_ubusd()
        agent.until("ubus list", lambda said: "luci.wgrouter" in said, 3)
    assert the_one(agent) == pid
    agent.until(f"ls /proc/{pid}/fd | wc -l", lambda said: said == open_files)


def state(router: Router) -> dict[str, str]:
    """What the agent could leave in the kernel."""
    commands = ("ip rule", "ip -6 rule", "ip route show table all type unicast", "nft list tables")
    return {command: re.sub(r"expires \d+sec", "", router.run(command, None)) for command in commands}
