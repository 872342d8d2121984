"""Python as a router needs it: without comments, docstrings, types, and spaces that nobody needs.

These are more than half of what the package would take of its flash. What is left says the same to the
interpreter, and can still be read where something fails: names and statements stay as they are. Line numbers
do not; `python3 package/build_ipk.py --tree DIRECTORY` gives the files that a traceback is about.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Mapping

# Modules that are imported for types and nothing else: what of them is not used any more may go.
FOR_TYPES = ("typing", "collections.abc", "types")

# What config/schema.py says for people, by the function and the place of the argument: the shipped
# configuration file and docs/configuration.md, made of the whole schema, say it on the router and here.
HELP = {"Option": 3, "Section": 2, "_enabled": 0}


def lean(source: str, keep: frozenset[str] = frozenset()) -> str:
    """The module without what only people and mypy read. `keep`: names that other modules take from it."""
    tree = _Slimmer().visit(ast.parse(source))
    _drop_imports(tree, keep)
    text = ast.unparse(ast.fix_missing_locations(tree))
    slim = (
        _tight(re.sub(r"^( {4})+", lambda found: " " * (len(found[0]) // 4), text, flags=re.MULTILINE)) + "\n"
    )
    if ast.dump(ast.parse(slim)) != ast.dump(ast.parse(text)):
        raise SystemExit(f"this would mean something else: {text[:200]!r}…")
    return slim


def _tight(text: str) -> str:
    """Without blank lines, and without spaces around operators; what lies inside an f-string stays."""
    lines = text.splitlines()
    cuts: dict[int, list[tuple[int, int]]] = {}
    last, strings = None, 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind = tokenize.tok_name[token.type]
        strings += (kind == "FSTRING_START") - (kind == "FSTRING_END")  # of Python 3.12 and later
        if last and not strings and token.start[0] == last.end[0] and tokenize.OP in (token.type, last.type):
            cuts.setdefault(token.start[0], []).append((last.end[1], token.start[1]))
        last = token
    for row, gaps in cuts.items():
        for start, end in reversed(gaps):
            lines[row - 1] = lines[row - 1][:start] + lines[row - 1][end:]
    return "\n".join(line for line in lines if line)


def taken(sources: Iterable[str], package: str) -> Mapping[str, frozenset[str]]:
    """By dotted module name: what others of the package import from it by name."""
    found: dict[str, set[str]] = {}
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == package:
                found.setdefault(node.module, set()).update(alias.name for alias in node.names)
    return {module: frozenset(names) for module, names in found.items()}


class _Slimmer(ast.NodeTransformer):
    """Takes docstrings and types out; not from the fields of a class, which a dataclass reads."""

    def __init__(self) -> None:
        self._fields = False  # the statements of a class are being visited

    def visit_Module(self, node: ast.Module) -> ast.Module:
        node.body = self._statements(node.body, fields=False)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        if any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases):
            node.body = []  # nobody calls it
        node.body = self._statements(node.body, fields=True) or [ast.Pass()]
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.returns = None
        node.args = self.visit(node.args)
        node.body = self._statements(node.body, fields=False) or [ast.Pass()]
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        place = HELP.get(node.func.id, -1) if isinstance(node.func, ast.Name) else -1
        if 0 <= place < len(node.args) and isinstance(node.args[place], ast.Constant):
            node.args[place] = ast.Constant("")
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign | ast.Assign | None:
        if self._fields:
            return node
        if node.value is None:
            return None
        return ast.Assign([node.target], self.visit(node.value))

    def visit_If(self, node: ast.If) -> ast.stmt | None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING" and not node.orelse:
            return None
        self.generic_visit(node)
        node.body = node.body or [ast.Pass()]
        return node

    def _statements(self, body: list[ast.stmt], *, fields: bool) -> list[ast.stmt]:
        before, self._fields = self._fields, fields
        result = []
        for number, statement in enumerate(body):
            text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            if text and (number == 0 or isinstance(statement.value.value, str)):  # type: ignore[attr-defined]
                continue  # a docstring, or the `...` of a body that has nothing else
            slim = self.visit(statement)
            if slim is not None:
                result.append(slim)
        self._fields = before
        return result


def _drop_imports(tree: ast.Module, keep: frozenset[str]) -> None:
    """Take out what FOR_TYPES gave and nothing names any more."""
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} | keep
    for node in list(tree.body):
        if isinstance(node, ast.ImportFrom) and node.module in FOR_TYPES:
            node.names = [alias for alias in node.names if (alias.asname or alias.name) in used]
            if not node.names:
                tree.body.remove(node)
