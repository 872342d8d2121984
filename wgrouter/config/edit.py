"""Changes one option in the text of a UCI file and leaves every other byte as it is, comments too.

For `set` over MQTT. The result is parsed again and must say what was meant: a file that this cannot change
line by line (several options on one line) is refused instead.
"""

from __future__ import annotations

import re

from wgrouter.config.uci import Option, Section, UciError, parse
from wgrouter.config.uci_text import write


class Unchangeable(ValueError):
    """The file cannot be changed; the text says why."""


def changed(data: bytes, kind: str, name: str, option: str, value: str | tuple[str, ...]) -> bytes:
    """The file with `option` of the section `kind` (called `name`, if there can be several) set to `value`.

    A missing section is added at the end. Unchangeable says what stands in the way.
    """
    try:
        before = parse(data).sections
    except UciError as error:
        raise Unchangeable(f"the file cannot be read: {error}") from None
    called = name or ("main" if kind == "wgrouter" else kind)
    index = next((n for n, s in enumerate(before) if s.type == kind and name in ("", s.name)), None)
    try:
        made = write([Section(kind, called, options={option: Option(option, value)})])
    except UciError as error:
        raise Unchangeable(str(error)) from None
    _, _, body = made.partition("\n")
    lines = data.splitlines(keepends=True)
    if index is None:
        glue = b"" if not data or data.endswith(b"\n") else b"\n"
        result = data + glue + b"\n" + made.encode()
    else:
        section = before[index]
        begin = section.line
        end = before[index + 1].line - 1 if index + 1 < len(before) else len(lines)
        ours = re.compile(rb"""\s*(option|list|o|l)\s+(['"]?)%s\2(\s|$)""" % re.escape(option.encode()))
        kept = [line for line in lines[begin:end] if not ours.match(line)]
        if begin and not lines[begin - 1].endswith(b"\n"):
            lines[begin - 1] += b"\n"
        result = b"".join([*lines[:begin], body.encode(), *kept, *lines[end:]])
    _verify(data, result, before, index, Section(kind, called, options={}), Option(option, value))
    return result


def _verify(
    data: bytes,
    result: bytes,
    before: tuple[Section, ...],
    index: int | None,
    new: Section,
    option: Option,
) -> None:
    """That the result says what was there, and the new value, and nothing else."""
    wanted = [(s.type, s.name, {k: o.words for k, o in s.options.items()}) for s in before]
    if index is None:
        wanted.append((new.type, new.name, {}))
    wanted[-1 if index is None else index][2][option.name] = option.words
    try:
        found = [(s.type, s.name, {k: o.words for k, o in s.options.items()}) for s in parse(result).sections]
    except UciError as error:
        raise Unchangeable(f"it would not be readable any more: {error}") from None
    if found != wanted:
        raise Unchangeable("the file is not written one option a line: change it on the router")
