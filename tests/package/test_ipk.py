"""The packages as built on any machine: form, fields, dependencies, and that they work by themselves."""

from __future__ import annotations

import ast
import functools
import gzip
import importlib.metadata
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

from wgrouter import __version__

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "package/wgrouter/Makefile").read_text()
KIB_MAX = 120


def load(name: str) -> ModuleType:
    """A module of package/, which is no Python package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"package/{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


lean = load("lean")
ipk = load("build_ipk")
contents = functools.cache(ipk.contents)
RECIPES = ipk.recipes(MAKEFILE)
WHEN = 1_600_000_000


@pytest.fixture(scope="module")
def package() -> bytes:
    data, _ = ipk.build(RECIPES["wgrouter"], WHEN)
    assert isinstance(data, bytes)
    return data


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, package: bytes) -> Path:
    """The package unpacked into an empty root."""
    root = tmp_path_factory.mktemp("root")
    parts(package)["data.tar.gz"].extractall(root, filter="fully_trusted")
    return root


def untar(data: bytes) -> tarfile.TarFile:
    """A gzipped tar in memory."""
    return tarfile.open(fileobj=io.BytesIO(gzip.decompress(data)))


def parts(package: bytes) -> dict[str, tarfile.TarFile]:
    """The inner archives of a package."""
    outer = untar(package)
    found = {}
    for name in ("data.tar.gz", "control.tar.gz"):
        member = outer.extractfile(f"./{name}")
        assert member
        found[name] = untar(member.read())
    return found


def control(package: bytes, name: str) -> str:
    member = parts(package)["control.tar.gz"].extractfile(f"./{name}")
    assert member
    return member.read().decode()


# ---------------------------------------------------------------- form


@pytest.mark.timeout(240)
def test_two_builds_give_the_same_bytes(tmp_path: Path) -> None:
    """From two copies, made by different users in a different order, at different times."""
    built = []
    for name, mask in (("one", 0o022), ("two", 0o077)):
        copy = tmp_path / name
        before = os.umask(mask)
        for part in ("files", "wgrouter", "package"):
            shutil.copytree(ROOT / part, copy / part, copy_function=shutil.copyfile)
        os.umask(before)
        (copy / "wgrouter/__pycache__").mkdir(exist_ok=True)
        (copy / f"wgrouter/__pycache__/{name}.pyc").touch()
        command = [sys.executable, str(copy / "package/build_ipk.py"), "--out", str(copy), "--quiet"]
        environment = os.environ | {"SOURCE_DATE_EPOCH": str(WHEN), "PYTHONHASHSEED": str(len(built))}
        done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=True)
        built.append([Path(line).read_bytes() for line in done.stdout.splitlines()])
    assert built[0] == built[1] and built[0]


def test_it_is_a_gzipped_tar_of_three_parts(package: bytes) -> None:
    assert package[:4] == b"\x1f\x8b\x08\x00" and package[4:8] == b"\0\0\0\0"  # gzip, no name, no time
    raw = gzip.decompress(package)
    assert raw[257:265] == b"ustar  \0"  # GNU tar; POSIX says "ustar\0" "00"
    outer = untar(package)
    assert outer.getnames() == ["./debian-binary", "./data.tar.gz", "./control.tar.gz"]
    version = outer.extractfile("./debian-binary")
    assert version and version.read() == b"2.0\n"


def test_every_member_is_roots_and_of_one_time(package: bytes) -> None:
    archives = [untar(package), *parts(package).values()]
    for archive in archives:
        for member in archive:
            assert (member.uid, member.gid, member.mtime) == (0, 0, WHEN), member.name
            assert member.isfile() or member.isdir()
    for archive in archives[1:]:
        names = archive.getnames()
        for place, name in enumerate(names):  # a directory before what lies in it
            assert name == "." or str(Path(name).parent) in {str(Path(one)) for one in names[:place]}, name


def test_modes(package: bytes) -> None:
    modes = {member.name: member.mode for member in parts(package)["data.tar.gz"] if member.isfile()}
    assert {name for name, mode in modes.items() if mode == 0o755} == {
        "./etc/init.d/wgrouter",
        "./usr/bin/wgrouter",
    }
    assert {name for name, mode in modes.items() if mode == 0o600} == {"./etc/config/wgrouter"}
    assert set(modes.values()) == {0o755, 0o644, 0o600}
    assert all(member.mode == 0o755 for member in parts(package)["data.tar.gz"] if member.isdir())
    scripts = {member.name: member.mode for member in parts(package)["control.tar.gz"] if member.isfile()}
    assert scripts == {
        "./conffiles": 0o644,
        "./control": 0o644,
        "./postinst": 0o755,
        "./postrm": 0o755,
        "./prerm": 0o755,
    }


def test_control_fields(package: bytes) -> None:
    text = control(package, "control")
    fields = dict(line.split(": ", 1) for line in text.splitlines() if not line.startswith(" "))
    assert fields["Package"] == "wgrouter"
    assert re.fullmatch(r"\d+\.\d+\.\d+-r\d+", fields["Version"])
    assert fields["Version"].partition("-")[0] == __version__, "package/wgrouter/Makefile has another version"
    assert fields["Architecture"] == "all"
    assert fields["License"] == "Apache-2.0"
    assert int(fields["Installed-Size"]) == sum(
        member.size for member in parts(package)["data.tar.gz"] if member.isfile()
    )
    assert all(line.startswith(" ") for line in text[text.index("Description") :].splitlines()[1:])
    assert "\n\n" not in text and text.endswith("\n")


def test_conffiles_are_there(package: bytes) -> None:
    assert control(package, "conffiles").split() == ["/etc/config/wgrouter"]
    assert "./etc/config/wgrouter" in parts(package)["data.tar.gz"].getnames()


def test_only_what_belongs_on_a_router_is_in_it(package: bytes) -> None:
    for member in parts(package)["data.tar.gz"]:
        assert re.match(r"\.$|\./(etc|usr|lib)\b", member.name), member.name
        assert not member.name.endswith((".pyc", ".md", "~")), member.name
    assert "./usr/lib/wgrouter/wgrouter/config/generate.py" not in parts(package)["data.tar.gz"].getnames()


def test_nothing_that_is_packed_needs_what_is_not(package: bytes) -> None:
    """Whoever asks a router to replay a journal is told where that is done."""
    packed = {name for part in RECIPES for name in contents(part)}
    for name in sorted(packed):
        if name.endswith(".py"):
            for node in ast.parse(
                contents("wgrouter").get(name, contents("wgrouter-mqtt").get(name))[0]
            ).body:
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wgrouter"):
                    place = f"usr/lib/wgrouter/{(node.module or '').replace('.', '/')}"
                    assert {f"{place}.py", f"{place}/__init__.py"} & packed, f"{name} imports {node.module}"


def test_size(package: bytes) -> None:
    assert len(package) <= KIB_MAX * 1024, f"{len(package) / 1024:.1f} KiB; the most is {KIB_MAX}"


def test_scripts_say_what_the_build_system_says(package: bytes, tmp_path: Path) -> None:
    """Run with a functions.sh that tells who calls: as base-files' own does it."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/functions.sh").write_text(
        'default_postinst() { echo "postinst $@"; }\ndefault_prerm() { echo "prerm $@"; }\n'
    )
    for name in ("postinst", "prerm"):
        script = tmp_path / f"wgrouter.{name}"
        script.write_text(control(package, name))
        for shell in (["dash"], ["busybox", "ash"]):
            environment = {"IPKG_INSTROOT": str(tmp_path), "PATH": os.environ["PATH"]}
            command = [*shell, str(script), "configure"]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            assert done.stdout == f"{name} {script} configure\n"
            environment["IPKG_INSTROOT"] = "/nowhere"  # an image without base-files
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            assert done.stdout == ""


# ---------------------------------------------------------------- dependencies

# lang/python/python3/files/python3-package-*.mk of the packages feed: what is not in python3-light.
SUBPACKAGES = {
    "python3-asyncio": ("asyncio",),
    "python3-codecs": ("unicodedata",),
    "python3-ctypes": ("ctypes", "_ctypes"),
    "python3-dbm": ("dbm",),
    "python3-decimal": ("decimal", "_decimal"),
    "python3-logging": ("logging",),
    "python3-lzma": ("lzma",),
    "python3-multiprocessing": ("multiprocessing",),
    "python3-openssl": ("ssl", "_ssl", "_hashlib"),
    "python3-pydoc": ("pydoc", "doctest"),
    "python3-readline": ("readline",),
    "python3-sqlite3": ("sqlite3",),
    "python3-unittest": ("unittest",),
    "python3-urllib": ("urllib", "email"),
    "python3-uuid": ("uuid",),
    "python3-xml": ("xml", "xmlrpc"),
}
BY_NAME = r"(pyroute2|dns|paho|ubus)(\.\w+)+"
LIBRARIES = {
    "dns": "python3-dns",
    "pyroute2": "python3-pyroute2",
    "ubus": "python3-ubus",
    "paho": "python3-paho-mqtt",
}
# What no import tells: package → (where it is used, how that shows).
OTHERS = {
    "nftables-json": ("wgrouter/ports/nft.py", r"\bnft\b"),  # as firewall4 and pbr
    "kmod-nf-conntrack-netlink": ("wgrouter/ports/conntrack.py", r"ctnetlink"),
}
OTHERS_OF = {
    "wgrouter": set(OTHERS),
    # paho resolves the broker's name through the codec "idna", which needs unicodedata.
    "wgrouter-mqtt": {"wgrouter", "python3-codecs"},
}


def imports(source: str) -> set[str]:
    """Top-level names of every module imported, wherever, also by a name in a string."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module or "")
        elif isinstance(node, ast.Constant) and re.fullmatch(BY_NAME, str(node.value)):
            found.add(str(node.value))
    return {name.split(".")[0] for name in found} - {"wgrouter", "__future__"}


def derived(package: str) -> set[str]:
    """The packages that a package's modules need."""
    needed = {"python3-light"}
    for name, (data, _) in contents(package).items():
        if not name.endswith(".py"):
            continue
        for module in imports(data.decode()):
            packages = [sub for sub, modules in SUBPACKAGES.items() if module in modules]
            if module in LIBRARIES:
                packages = [LIBRARIES[module]]
            assert packages or module in sys.stdlib_module_names, (
                f"{name} imports {module}: in which package is that?"
            )
            needed |= set(packages)
    return needed


def test_depends_are_what_the_imports_need() -> None:
    assert set(RECIPES["wgrouter"].depends) == derived("wgrouter") | OTHERS_OF["wgrouter"]


def test_depends_of_the_part_for_mqtt() -> None:
    part = contents("wgrouter-mqtt")
    if not part:
        pytest.skip("no module belongs to it yet")
    base = derived("wgrouter") - {"python3-light"}
    assert (
        set(RECIPES["wgrouter-mqtt"].depends) == derived("wgrouter-mqtt") - base | OTHERS_OF["wgrouter-mqtt"]
    )


@pytest.mark.parametrize("package", sorted(OTHERS))
def test_what_no_import_tells_is_used(package: str) -> None:
    place, pattern = OTHERS[package]
    assert re.search(pattern, (ROOT / place).read_text())


def test_no_module_is_in_two_packages_or_lost() -> None:
    everywhere = [name for package in RECIPES for name in contents(package)]
    assert len(everywhere) == len(set(everywhere))
    modules = {path.relative_to(ROOT / "wgrouter").as_posix() for path in (ROOT / "wgrouter").rglob("*.py")}
    packed = {name.removeprefix("usr/lib/wgrouter/wgrouter/") for name in everywhere if name.endswith(".py")}
    left_out = {name for name in modules - packed if not name.startswith("fleet/")}
    assert left_out == {"config/generate.py", "replaying.py", "shell/replay.py"}


def test_the_base_imports_nothing_of_the_rest_when_it_starts() -> None:
    """What lies in another package may be missing: only an import inside a function can say so kindly."""
    base = contents("wgrouter")
    others = {
        name.removeprefix("usr/lib/wgrouter/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for package in RECIPES
        if package != "wgrouter"
        for name in contents(package)
    }
    for name, (data, _) in base.items():
        if not name.endswith(".py"):
            continue
        for node in ast.parse(data).body:
            if isinstance(node, ast.ImportFrom):
                targets = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
                assert not targets & others, f"{name} imports {targets & others}"


def test_each_package_has_its_part_of_the_default_file() -> None:
    """Together they are the whole one; what is for MQTT is to be appended by who wants it."""
    base, example = (
        contents(part)[name][0].decode()
        for part, name in (("wgrouter", "etc/config/wgrouter"), ("wgrouter-mqtt", "usr/share/wgrouter/mqtt"))
    )
    assert "mqtt" not in base and example.splitlines()[2] == "#config mqtt 'mqtt'"
    assert base + "\n" + example == (ROOT / "files/etc/config/wgrouter").read_text()


def test_the_feed_installs_the_same_files() -> None:
    for name in RECIPES:
        assert f"build_ipk.py --package {name} --tree $(1)" in MAKEFILE
        assert f"$(eval $(call BuildPackage,{name}))" in MAKEFILE


# ---------------------------------------------------------------- without comments and types


SOURCE = '''"""Doc."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

if TYPE_CHECKING:
    from os import PathLike

LIMIT: Final = 3  # three
NAME: str
Answer = Mapping[str, Any]
SETTING = os.environ.get("X")


class Loop(Protocol):
    """Nobody calls it."""

    def now(self) -> float: ...


@dataclass(frozen=True)
class Value:
    """A value."""

    a: int
    b: tuple[str, ...] = ()
    count: ClassVar[int] = 0

    @property
    def c(self) -> Callable[[], int]:
        """Doc
        of two lines."""
        text: str = "a\\n    b" + f"{self.a}\\n        {self.b}"
        rest: list[str]
        rest = [text]
        return lambda: len(rest)


def taken(loop: Loop) -> Answer:
    """Doc."""
    for number in range(LIMIT):
        if number:
            return {}
        else:
            for _ in ():
                pass


def idle() -> None:
    helps_idle()


def helps_idle() -> None:
    helps_itself()


def helps_itself() -> None:
    pass
'''
SLIM = """\
import os
from dataclasses import dataclass
from typing import ClassVar
LIMIT=3
SETTING=os.environ.get('X')
@dataclass(frozen=True)
class Value:
 a:int
 b:int=()
 count:ClassVar[int]=0
 @property
 def c(self):
  text='a\\n    b'+f'{self.a}\\n        {self.b}'
  rest=[text]
  return lambda:len(rest)
def taken(loop):
 for number in range(LIMIT):
  if number:return{}
  else:
   for _ in():pass
"""


def test_slimming_leaves_the_meaning() -> None:
    other = (
        "from wgrouter.one import taken, Loop\n\ndef use(loop: Loop) -> None:\n    taken(loop)\n\nuse(1)\n"
    )
    slim = lean.lean_package({"wgrouter.one": SOURCE, "wgrouter.two": other}, frozenset())
    assert slim["wgrouter.one"].splitlines() == SLIM.splitlines()
    assert slim["wgrouter.two"] == "from wgrouter.one import taken\ndef use(loop):taken(loop)\nuse(1)\n"
    kept = lean.lean_package({"wgrouter.one": SOURCE}, frozenset({"Answer", "Loop"}))["wgrouter.one"]
    assert "Answer=Mapping[str,Any]" in kept and "class Loop(Protocol):pass" in kept


def test_a_name_that_somebody_uses_stays() -> None:
    """Behind a dot, under another name, inside a function, or by an assignment to more than a name."""
    one = "A = 1\nB = 2\nC = D = 3\nE, F = 4, 5\n__version__ = '1'\nclass G:\n    pass\n"
    two = "from wgrouter import one\nfrom wgrouter.one import B as X\nprint(one.A, X, one.D, one.G)\n"
    slim = lean.lean_package({"wgrouter.one": one, "wgrouter.two": two})
    assert slim["wgrouter.one"].splitlines() == [
        "A=1",
        "B=2",
        "C=D=3",
        "E,F=(4,5)",
        "__version__='1'",
        "class G:pass",
    ]


# ---------------------------------------------------------------- what is in it works


def on_its_own(tree: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The unpacked package's command, with the libraries of this Python, and nothing of the repository."""
    command = [sys.executable, "-P", str(tree / "usr/bin/wgrouter"), *arguments]
    clean = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"} | environment
    return subprocess.run(
        command, env=clean, cwd="/", capture_output=True, text=True, check=False, timeout=60
    )


def test_the_command_tells_its_version(tree: Path) -> None:
    done = on_its_own(tree, "--version")
    assert done.returncode == 0, done.stderr
    assert __version__ in done.stdout


def test_compiled_files_are_put_where_a_reboot_takes_them(tree: Path) -> None:
    assert on_its_own(tree, "--version").returncode == 0
    assert not list((tree / "usr").rglob("__pycache__"))
    assert list((tree / "var/run/wgrouter.pycache").rglob("cli*.pyc"))


def test_the_shipped_configuration_has_no_problem(tree: Path) -> None:
    done = on_its_own(tree, "--root", str(tree), "check", "--json")
    if done.returncode == 2:
        done = on_its_own(tree, "check", "--root", str(tree), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    json.loads(done.stdout)


def test_every_module_can_be_imported(tree: Path) -> None:
    names = [
        path.relative_to(tree / "usr/lib/wgrouter").with_suffix("").as_posix().replace("/", ".")
        for path in (tree / "usr/lib/wgrouter").rglob("*.py")
        if path.name != "__main__.py"
    ]
    place = str(tree / "usr/lib/wgrouter")
    code = f"import sys; sys.path.insert(0, {place!r})\nfor name in {names}: __import__(name)"
    done = subprocess.run(
        [sys.executable, "-B", "-c", code], cwd="/", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(600)
@pytest.mark.skipif(
    importlib.metadata.version("pyroute2") == "0.7.9",
    reason="once is enough: it is the same on both library sets",
)
def test_the_suite_of_the_core_passes_on_the_packaged_code(tree: Path, tmp_path: Path) -> None:
    """Without comments and types it is other code: it has to do the same. Only that what tests name stays."""
    nodes = [
        node for path in (ROOT / "tests").rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))
    ]
    named = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    named |= {node.name for node in nodes if isinstance(node, ast.alias)}
    for part in ("", *RECIPES):
        ipk.lay_out(ipk.contents(part, keep=frozenset(named)), tmp_path)
    command = [
        sys.executable, "-B", "-m", "pytest", "-q", "-x",
        "--override-ini", f"pythonpath={tmp_path / 'usr/lib/wgrouter'} {ROOT}",
        "--override-ini", f"cache_dir={tmp_path / 'cache'}",
        # Not: what compares generated files with the repository's, changes its code, or searches for long.
        "--ignore", str(ROOT / "tests/unit/test_config_schema.py"),
        "--ignore", str(ROOT / "tests/unit/test_mutants.py"),
        "--ignore-glob", "*propert*",
        str(ROOT / "tests/unit"),
    ]  # fmt: skip
    environment = os.environ | {"HYPOTHESIS_PROFILE": "ci"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
