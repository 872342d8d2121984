"""Python as a router needs it: without comments, docstrings, types, and spaces that nobody needs.

These are more than half of what the package would take of its flash. What is left says the same to the
interpreter, and can still be read where something fails: names and statements stay as they are. Line numbers
do not; `python3 package/build_ipk.py --tree DIRECTORY` gives the files that a traceback is about.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Mapping

# An annotation of a field that dataclasses read. Any other only has to be there: "int" says nothing, shortly.
READ = re.compile(r"\b(ClassVar|InitVar|KW_ONLY)\b")

# What config/schema.py says for people, by the function and the place of the argument: the shipped
# configuration file and docs/configuration.md, made of the whole schema, say it on the router and here.
HELP = {"Option": 3, "Section": 2, "_enabled": 0}


def _written(tree: ast.Module) -> str:
    """The text of a module, by one space for each level."""
    text = ast.unparse(ast.fix_missing_locations(tree))
    narrow = re.sub(r"^( {4})+", lambda found: " " * (len(found[0]) // 4), text, flags=re.MULTILINE)
    slim = _tight(narrow) + "\n"
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
    return "\n".join(_joined([line for line in lines if line]))


# What cannot stand behind a colon: another compound statement, or what belongs to the next one.
COMPOUND = re.compile(
    r" *(@|(if|for|while|with|try|def|class|async|match|case|else|elif|except|finally)\b|.*:$)"
)


def _joined(lines: list[str]) -> list[str]:
    """A block of one simple statement goes behind its colon: a traceback shows both as one thought."""
    depths = [len(line) - len(line.lstrip(" ")) for line in lines] + [0]
    found: list[str] = []
    skip = False
    for number, line in enumerate(lines):
        if skip:
            skip = False
            continue
        inner = lines[number + 1] if number + 1 < len(lines) else ""
        alone = (
            depths[number + 1] == depths[number] + 1 and depths[min(number + 2, len(lines))] <= depths[number]
        )
        skip = line.endswith(":") and alone and not COMPOUND.match(inner)
        found.append(line + inner.lstrip() if skip else line)
    return found


def lean_package(sources: Mapping[str, str], keep: frozenset[str] = frozenset()) -> dict[str, str]:
    """Every module, by its dotted name, without what the package as a whole does not use either: imports for
    types, Protocols, functions that only developers call. What another module takes, what stands behind a dot
    anywhere, and `keep`, stays.
    """
    trees = {module: _Slimmer().visit(ast.parse(source)) for module, source in sources.items()}
    bodies = {
        module: [_Statement(part) for node in tree.body for part in _apart(node)]
        for module, tree in trees.items()
    }
    before = 0
    while before != (before := sum(map(len, bodies.values()))):  # more goes: what only the dropped ones used
        everything = [statement for body in bodies.values() for statement in body]
        anywhere = keep.union(*(statement.dotted for statement in everything))
        taken = {name for statement in everything for name in statement.taken}
        for module, body in bodies.items():
            used = anywhere.union(*(statement.loaded for statement in body))
            used |= {name for source, name in taken if source == module}
            body[:] = [one for one in body if not one.defines or used.intersection(one.defines)]
    for module, tree in trees.items():
        tree.body = _together([statement.node for statement in bodies[module]])
    return {module: _written(tree) for module, tree in trees.items()}


def _apart(node: ast.stmt) -> list[ast.stmt]:
    """An import of several names as so many imports."""
    if not isinstance(node, ast.ImportFrom):
        return [node]
    return [ast.ImportFrom(node.module, [alias], node.level) for alias in node.names]


def _together(body: list[ast.stmt]) -> list[ast.stmt]:
    """And back."""
    found: list[ast.stmt] = []
    for node in body:
        last = found[-1] if found else None
        if (
            isinstance(node, ast.ImportFrom)
            and isinstance(last, ast.ImportFrom)
            and last.module == node.module
        ):
            last.names += node.names
        else:
            found.append(node)
    return found


class _Statement:
    """One of a module's own statements: what it defines (if it does nothing else), and what it names."""

    def __init__(self, node: ast.stmt) -> None:
        self.node = node
        self.defines = _defines(node)
        self.loaded: set[str] = set()
        self.dotted: set[str] = set()  # what stands behind a dot
        self.taken: set[tuple[str, str]] = set()  # (module, name) of imports
        for part in ast.walk(node):
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load):
                self.loaded.add(part.id)
            elif isinstance(part, ast.Attribute):
                self.dotted.add(part.attr)
            elif isinstance(part, ast.ImportFrom):
                self.taken |= {(part.module or "", alias.name) for alias in part.names}


def _defines(node: ast.stmt) -> tuple[str, ...]:
    """The names that a statement does nothing but define; none if it may do more, or Python reads them."""
    names: tuple[str, ...] = ()
    if isinstance(node, ast.ImportFrom) and _harmless(node.module):
        names = tuple(alias.asname or alias.name for alias in node.names)
    elif isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.decorator_list:
        names = (node.name,)
    elif isinstance(node, ast.Assign) and _is_value(node.value):
        names = tuple(target.id if isinstance(target, ast.Name) else "__" for target in node.targets)
    return names if not any(name.startswith("__") and name != "__all__" for name in names) else ()


def _harmless(module: str | None) -> bool:
    """Whether importing it does nothing but give names. Libraries may do more."""
    top = (module or "").split(".")[0]
    return top == "wgrouter" or top in sys.stdlib_module_names


def _is_protocol(node: ast.ClassDef) -> bool:
    return any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases)


def _is_value(node: ast.expr) -> bool:
    """Whether it can be left uncomputed: types, constants, and what is made of them."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in ("TypeVar", "NewType")
    parts = (ast.Name, ast.Attribute, ast.Subscript, ast.BinOp, ast.BitOr, ast.Constant, ast.Tuple, ast.List)
    return all(isinstance(part, (*parts, ast.expr_context)) for part in ast.walk(node))


class _Slimmer(ast.NodeTransformer):
    """Takes docstrings and types out. The fields of a class keep an annotation: a dataclass counts them."""

    def __init__(self) -> None:
        self._fields = False  # the statements of a class are being visited

    def visit_Module(self, node: ast.Module) -> ast.Module:
        node.body = self._statements(node.body, fields=False)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        if _is_protocol(node):
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
            if not READ.search(ast.unparse(node.annotation)):
                node.annotation = ast.Name("int", ast.Load())
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
