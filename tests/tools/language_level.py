"""Checks that every module runs on each Python a supported router has.

Those are 3.11 (OpenWrt 23.05 and 24.10) to 3.14 (master). Two things no linter says in one place: a standard
module that is gone in a newer Python (asyncore, imp, telnetlib, ...), and source the compiler warns about.
Syntax and library calls that are *too new* for 3.11 are vermin's task (tests/tools/check.py).

Usage: python -m tests.tools.language_level DIRECTORY...
"""

import ast
import sys
import warnings
from pathlib import Path

from stdlib_list import stdlib_list

OLDEST, NEWEST = "3.11", "3.14"


def imported(tree: ast.AST) -> list[tuple[int, str]]:
    """Line and dotted name of everything imported absolutely, at the top or inside a function."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.append((node.lineno, node.module))
    return found


def problems(path: Path, gone: set[str]) -> list[str]:
    """What is wrong with one source file."""
    source = path.read_text(encoding="utf-8")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            compile(source, str(path), "exec", dont_inherit=True)
            tree = ast.parse(source, str(path))
    except (SyntaxError, SyntaxWarning, DeprecationWarning) as error:
        return [f"{path}: does not compile cleanly: {error}"]
    return [
        f"{path}:{line}: module {name!r} is in Python {OLDEST} but no longer in {NEWEST}"
        for line, name in imported(tree)
        if name.split(".")[0] in gone
    ]


def main(directories: list[str]) -> int:
    """Check every .py file under the directories; print what is wrong; 0 if nothing is."""
    # Top-level names only: the lists of submodules differ in how complete they are.
    gone = {name for name in set(stdlib_list(OLDEST)) - set(stdlib_list(NEWEST)) if "." not in name}
    files = [path for directory in directories for path in sorted(Path(directory).rglob("*.py"))]
    found = [line for path in files for line in problems(path, gone)]
    print(*found, sep="\n", file=sys.stderr, end="\n" if found else "")
    print(f"language level: {len(files)} files, {len(found)} problems (Python {OLDEST} to {NEWEST})")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
