"""Builds build/<package>_<version>_all.ipk from files/ and wgrouter/, on any machine with Python, no SDK.

An .ipk is a gzipped tar of debian-binary, data.tar.gz and control.tar.gz; not `ar`, as a .deb is. Names,
version, dependencies, texts and scripts are read from package/wgrouter/Makefile, and that has the tree laid
out from here, so that both ways give the same packages. Two builds of a commit give the same bytes: an order
that the contents settle, owner 0:0, one time for all (SOURCE_DATE_EPOCH, else the commit's), no time in the
gzip header; on different machines if both have zopfli or neither has.

    python3 package/build_ipk.py [--out DIRECTORY] [--quiet]
    python3 package/build_ipk.py --package NAME --tree DIRECTORY   only the files, as they are installed
"""

from __future__ import annotations

import argparse
import collections
import fnmatch
import functools
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import lean  # beside this file

ROOT = Path(__file__).resolve().parents[1]
MAKEFILE = ROOT / "package/wgrouter/Makefile"
LIBRARY = "usr/lib/wgrouter"  # in no Python's site-packages: one package for all of them
BASE, REPORTS = "wgrouter", "wgrouter-mqtt"
# The part of the default file that only serves with the other package lies there, to be appended.
DEFAULT, EXAMPLE = "etc/config/wgrouter", "usr/share/wgrouter/mqtt"
# What goes elsewhere than into BASE, by the path below wgrouter/. What fits "" goes on no router: it is for
# developers, and for the machine from which a fleet is looked after.
PARTS = {
    REPORTS: (
        "ports/broker.py",
        "ports/_broker*.py",
        "reporting.py",
        "config/edit.py",
        "config/uci_text.py",
        "mqtt/*",
    ),
    "": ("config/generate.py", "replaying.py", "shell/replay.py", "fleet/*"),
}
EXECUTABLE = ("etc/init.d/wgrouter", "usr/bin/wgrouter")
PRIVATE = (DEFAULT,)  # names of password files: for root's eyes
ZOPFLI = shutil.which("zopfli")  # the same bytes from every build of its version 1.0.3, Debian's since 2019
EPOCH = 1700000000  # where neither SOURCE_DATE_EPOCH nor git tells a time

# What the OpenWrt build system gives every package (include/package-pack.mk): enable, start, stop, defaults.
POSTINST = """\
#!/bin/sh
[ "${IPKG_NO_SCRIPT}" = "1" ] && exit 0
[ -s ${IPKG_INSTROOT}/lib/functions.sh ] || exit 0
. ${IPKG_INSTROOT}/lib/functions.sh
default_postinst $0 $@
"""
PRERM = """\
#!/bin/sh
[ -s ${IPKG_INSTROOT}/lib/functions.sh ] || exit 0
. ${IPKG_INSTROOT}/lib/functions.sh
default_prerm $0 $@
"""

Files = Mapping[str, tuple[bytes, int]]  # by the path on the router: bytes and mode


@dataclass(frozen=True)
class Recipe:
    """What the feed's Makefile says of one package."""

    name: str
    variables: Mapping[str, str]
    sections: Mapping[str, str]  # "" is the package itself, then "description", "conffiles", "postrm", …

    @property
    def version(self) -> str:
        return f"{self.variables['PKG_VERSION']}-r{self.variables['PKG_RELEASE']}"

    @property
    def file(self) -> str:
        return f"{self.name}_{self.version}_{self.field('PKGARCH')}.ipk"

    def field(self, name: str) -> str:
        """A line of `define Package/…`, continued ones joined."""
        text = self.sections[""].replace("\\\n", " ")
        found = re.search(rf"^\s*{name}:=(.*)$", text, re.MULTILINE)
        if not found:
            raise SystemExit(f"{MAKEFILE}: package {self.name} has no {name}")
        return " ".join(found[1].split())

    @property
    def depends(self) -> list[str]:
        """Package names; `+` selects them in the build system, which is of no account here."""
        return sorted(word.lstrip("+") for word in self.field("DEPENDS").split())


def recipes(text: str) -> dict[str, Recipe]:
    """All packages of the Makefile. Reads as much of make's language as that uses."""
    variables = dict(re.findall(r"^(PKG_[A-Z_]+):=(.*)$", text, re.MULTILINE))
    bodies = dict(re.findall(r"^define (Package/\S+)\n(.*?)^endef$", text, re.MULTILINE | re.DOTALL))
    bodies = {
        place: re.sub(r"^\s*\$\(call (\S+)\)\n", lambda call: bodies[call[1]], body).replace("$$", "$")
        for place, body in bodies.items()
    }
    names = re.findall(r"^\$\(eval \$\(call BuildPackage,(\S+)\)\)$", text, re.MULTILINE)
    found = {}
    for name in names:
        place = f"Package/{name}"
        sections = {
            key.removeprefix(place).removeprefix("/"): body
            for key, body in bodies.items()
            if key == place or key.startswith(f"{place}/")
        }
        found[name] = Recipe(name, variables, sections)
    return found


def contents(package: str, root: Path = ROOT, keep: frozenset[str] = frozenset()) -> Files:
    """Every file of a package. `keep`: names that stay in the code though it does not use them."""
    found = {
        f"{LIBRARY}/{name}": (text.encode(), 0o644)
        for name, text in _code(root, not package, keep).items()
        if _package_of(name) == package
    }
    default = (root / "files" / DEFAULT).read_text().split("\n\n")
    reports = [part for part in default if "\n#config mqtt " in part]
    if package == BASE:
        for path in (root / "files").rglob("*"):
            name = path.relative_to(root / "files").as_posix()
            if path.is_file():
                mode = 0o755 if name in EXECUTABLE else 0o600 if name in PRIVATE else 0o644
                found[name] = (path.read_bytes(), mode)
        base = "\n\n".join(part for part in default if part not in reports).rstrip("\n") + "\n"
        found[DEFAULT] = (base.encode(), found[DEFAULT][1])
    elif found and package == REPORTS:
        found[EXAMPLE] = (("\n\n".join(reports).rstrip("\n") + "\n").encode(), 0o644)
    return found


@functools.cache
def _code(root: Path, everything: bool, keep: frozenset[str]) -> dict[str, str]:
    """The modules as they are shipped, by path; with `everything` those too that are not."""
    modules: dict[str, tuple[str, str]] = {}
    for path in sorted((root / "wgrouter").rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if _package_of(name) or everything:
            module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            modules[module] = (name, path.read_text())
    slim = lean.lean_package({module: source for module, (_, source) in modules.items()}, keep)
    return {name: slim[module] for module, (name, _) in modules.items()}


def _package_of(name: str) -> str:
    name = name.removeprefix("wgrouter/")
    for package, patterns in PARTS.items():
        if any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
            return package
    return BASE


def control(the: Recipe, installed: int, when: int) -> Files:
    """The files beside the data: control, conffiles and scripts."""
    description = the.sections["description"].strip().splitlines()
    fields = {
        "Package": the.name,
        "Version": the.version,
        "Depends": ", ".join(the.depends),
        "License": the.variables["PKG_LICENSE"],
        "Section": the.field("SECTION"),
        "SourceDateEpoch": str(when),
        "Maintainer": the.variables["PKG_MAINTAINER"],
        "Architecture": the.field("PKGARCH"),
        "Installed-Size": str(installed),
        "Description": "\n ".join(line.strip() for line in description),
    }
    files = {
        "control": ("".join(f"{name}: {value}\n" for name, value in fields.items()), 0o644),
        "postinst": (POSTINST, 0o755),
        "prerm": (PRERM, 0o755),
    }
    for name, mode in (("conffiles", 0o644), ("postrm", 0o755)):
        if name in the.sections:
            files[name] = (the.sections[name], mode)
    return {name: (text.encode(), mode) for name, (text, mode) in files.items()}


def archive(files: Files, when: int, *, directories: bool = True) -> bytes:
    """A gzipped GNU tar, the same for the same files; without `directories` in the order given."""
    names: list[str] = list(files)
    if directories:
        places = {parent.as_posix() for name in files for parent in Path(name).parents}
        names = [*sorted(places), *by_kinship({name: data for name, (data, _) in files.items()})]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in names:
            data, mode = files.get(name, (b"", 0o755))
            member = tarfile.TarInfo("./" if name == "." else f"./{name}" if name in files else f"./{name}/")
            member.mode, member.mtime, member.size = mode, when, len(data)
            member.uname = member.gname = "root"
            if name not in files:
                member.type = tarfile.DIRTYPE
            tar.addfile(member, io.BytesIO(data))
    return pressed(out.getvalue())


def by_kinship(files: Mapping[str, bytes]) -> list[str]:
    """The names in an order in which each file has many rare words in common with the three before it.

    gzip finds again what is no more than 32 KiB back: 1.3 % less than by name.
    """
    words = {name: set(re.findall(rb"\w{3,}", data)) for name, data in files.items()}
    weights = collections.Counter(word for found in words.values() for word in found)
    order = sorted(files, key=lambda name: (-len(files[name]), name))
    for place in range(1, len(order)):
        near = set().union(*(words[name] for name in order[max(0, place - 3) : place]))
        kinship = {
            name: sum(len(word) / weights[word] for word in sorted(near & words[name]))
            for name in order[place:]
        }
        order[place:] = sorted(kinship, key=lambda name: (-kinship[name], name))
    return order


def pressed(data: bytes) -> bytes:
    """As gzip, without name and time in its header. By zopfli, where that is installed: 4 % less."""
    if ZOPFLI:
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            return subprocess.run([ZOPFLI, "--gzip", "-c", file.name], capture_output=True, check=True).stdout
    # memLevel 9 (gzip.compress takes 8) fills larger blocks. wbits 31 is a gzip header.
    press = zlib.compressobj(9, zlib.DEFLATED, 31, 9)
    return press.compress(data) + press.flush()


def build(the: Recipe, when: int, root: Path = ROOT) -> tuple[bytes, Files]:
    """The package, and what is in it."""
    files = contents(the.name, root)
    installed = sum(len(data) for data, _ in files.values())
    # opkg reads the members as they come: the order is that of ipkg-build.
    parts = {
        "debian-binary": (b"2.0\n", 0o644),
        "data.tar.gz": (archive(files, when), 0o644),
        "control.tar.gz": (archive(control(the, installed, when), when), 0o644),
    }
    return archive(parts, when, directories=False), files


def lay_out(files: Files, place: Path) -> None:
    """Write the files below a directory."""
    for name, (data, mode) in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(mode)


def epoch(root: Path = ROOT) -> int:
    """The one time of everything in the package."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if given.isdigit():
        return int(given)
    command = ["git", "-C", str(root), "log", "-1", "--format=%ct"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return EPOCH
    return int(told) if told.isdigit() else EPOCH


def main(arguments: list[str]) -> int:
    """Build them, and show what is in them."""
    parser = argparse.ArgumentParser(description="Build the packages of wgrouter for opkg.")
    parser.add_argument("--out", type=Path, default=ROOT / "build", help="where to (build/)")
    parser.add_argument("--quiet", action="store_true", help="only the names of the files written")
    parser.add_argument("--package", default=BASE, help=f"with --tree: which ({BASE})")
    parser.add_argument("--tree", type=Path, help="only lay out the files of a package in this directory")
    options = parser.parse_args(arguments)
    if options.tree:
        lay_out(contents(options.package), options.tree)
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    for the in recipes(MAKEFILE.read_text()).values():
        data, files = build(the, epoch())
        if not files:
            continue
        path = options.out / the.file
        path.write_bytes(data)
        if options.quiet:
            print(path)
            continue
        for place, (content, mode) in sorted(files.items()):
            print(f"  {mode:04o} {len(content):>7}  /{place}")
        installed = sum(len(content) for content, _ in files.values())
        print(f"{path}: {len(data) / 1024:.1f} KiB, {installed / 1024:.0f} KiB installed, {len(files)} files")
        print(f"needs {', '.join(the.depends)}")
    if not ZOPFLI:
        print(
            "zopfli is not installed: with it (Debian: apt install zopfli) they are 4 % smaller",
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
