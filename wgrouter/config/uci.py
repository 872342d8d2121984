"""Text of UCI files → sections, exactly as libuci reads it in its strict mode (uci_text.py writes it).

Knows the syntax alone: no option has a meaning here, no file is opened. The oddities of libuci are kept on
purpose, because what the router reads is what counts: an option with an empty value is as if it were not
written, a `;` that touches an unquoted word hides the rest of its line, a `list` after an `option` of that
name takes the option's value as its first item. Where that loses what somebody wrote, there is a Note.

The one difference: libuci drops the rest of a line after a NUL byte, here a NUL byte is an error.
Bytes that are not UTF-8 survive as surrogate escapes, so that what is read can be written back.
"""

from __future__ import annotations

from typing import NamedTuple

from wgrouter.core.records import dataclass, field

_SPACE = b" \t\n\v\f\r"  # isspace() in the C locale, which is also what bytes.split() takes
NAME = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_"
TYPE = bytes(range(33, 127))
_COMMANDS = {
    b"p": b"package", b"package": b"package", b"c": b"config", b"config": b"config",
    b"o": b"option", b"option": b"option", b"l": b"list", b"list": b"list",
}  # fmt: skip
_QUOTE, _DOUBLE, _HASH, _SEMICOLON, _BACKSLASH = b"'\"#;\\"
_NEWLINE = 10
_MARK = b"\xef\xbb\xbf"  # libuci takes it for a part of the first word


class UciError(ValueError):
    """Text that libuci refuses. Lines and columns (in bytes) count from 1. Quotes no value (a key?)."""

    def __init__(self, line: int, column: int, problem: str, accepted: str) -> None:
        super().__init__(f"line {line}, column {column}: {problem}; accepted: {accepted}")
        self.line = line
        self.column = column
        self.problem = problem
        self.accepted = accepted


@dataclass(frozen=True, slots=True)
class Option:
    """`option` (value is text) or `list` (value is a tuple). `line` is where it was first written."""

    name: str
    value: str | tuple[str, ...]
    line: int = field(default=0, compare=False)

    @property
    def words(self) -> tuple[str, ...]:
        """As OpenWrt's scripts see a list: an option's value splits at white space."""
        return tuple(self.value.split()) if isinstance(self.value, str) else self.value

    @property
    def text(self) -> str:
        """As OpenWrt's scripts see an option: the items of a list joined by spaces."""
        return self.value if isinstance(self.value, str) else " ".join(self.value)


@dataclass(frozen=True, slots=True)
class Section:
    """`config <type> '<name>'`. An anonymous section has the name that libuci makes for it (cfg0149df)."""

    type: str
    name: str
    anonymous: bool = False
    options: dict[str, Option] = field(default_factory=dict)
    line: int = field(default=0, compare=False)

    def text(self, name: str, default: str = "") -> str:
        option = self.options.get(name)
        return default if option is None else option.text

    def words(self, name: str) -> tuple[str, ...]:
        option = self.options.get(name)
        return () if option is None else option.words


class Note(NamedTuple):
    """Something that libuci accepts and silently drops."""

    line: int
    section: Section | None
    option: str
    text: str


class Document(NamedTuple):
    """A file: its sections in order, and what was dropped."""

    sections: tuple[Section, ...] = ()
    notes: tuple[Note, ...] = ()


def parse(data: bytes) -> Document:
    """The sections of a file. UciError for what libuci refuses (and for NUL bytes). Linear in the size."""
    return _Parser(data).document()


def bytes_of(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def safe(word: bytes) -> str:
    """A word of the file for an error text: shown only if it cannot be (a piece of) a key."""
    if word and len(word) <= 24 and not word.translate(None, NAME + b"-."):
        return f"'{word.decode()}'"
    return f"of {len(word)} bytes (not shown: it may be part of a key)" if word else "''"


class _Parser:
    """Reads a line, and more where quotes or a backslash continue it: from `position` to `end`."""

    def __init__(self, data: bytes, shortcuts: bool = True) -> None:
        self._data = data
        self._shortcuts = shortcuts
        self._position = 0
        self._end = 0
        self._line = 0
        self._line_start = 0
        self._backslash = -1  # the next one at or after the place last asked for
        self._sections: list[Section] = []
        self._by_name: dict[str, Section] = {}
        self._section: Section | None = None
        self._notes: list[Note] = []
        self._lists: dict[tuple[int, str], tuple[dict[str, Option], list[str]]] = {}  # still growing

    def document(self) -> Document:
        if self._data.startswith(_MARK):
            raise UciError(1, 1, "a byte order mark, as some editors write it", "UTF-8 without it")
        nul = self._data.find(0)
        if nul >= 0:
            start = self._data.rfind(b"\n", 0, nul) + 1
            line = self._data.count(b"\n", 0, nul) + 1
            raise UciError(line, nul - start + 1, "a NUL byte", "text; this looks like a binary file")
        while self._next_line():
            if not (self._shortcuts and self._plain_line()):
                self._commands()
        for (_, name), (options, items) in self._lists.items():
            options[name] = Option(name, tuple(items), options[name].line)
        return Document(tuple(self._sections), tuple(self._notes))

    # ---- lines and characters

    def _next_line(self) -> bool:
        """Go on with the next line, if there is one; what is left of this one is forgotten."""
        self._position = self._end
        if self._end >= len(self._data):
            return False
        self._end = self._data.find(b"\n", self._end) + 1 or len(self._data)
        self._line += 1
        self._line_start = self._position
        return True

    def _skip_space(self) -> None:
        data, position, end = self._data, self._position, self._end
        while position < end and data[position] in _SPACE:
            position += 1
        self._position = position

    def _error(self, problem: str, accepted: str) -> UciError:
        column = min(self._position, self._end) - self._line_start + 1
        return UciError(max(self._line, 1), max(column, 1), problem, accepted)

    # ---- words

    def _escaped(self) -> bool:
        """Step over a backslash: whether a character follows. At the end of a line, the next line does."""
        self._position += 1
        rest = self._data[self._position : min(self._end, self._position + 3)]
        if rest in (b"", b"\n", b"\r\n"):
            self._next_line()
            return False
        return True

    def _single_quoted(self, out: bytearray) -> None:
        start = self._position + 1
        stop = self._data.find(b"'", start)
        if stop < 0:
            raise self._error(
                "a single quote (') is opened and never closed", "a closing quote; to write a quote: '\\''"
            )
        out += self._data[start:stop]
        self._pass(start, stop)

    def _double_quoted(self, out: bytearray) -> None:
        data = self._data
        start = position = self._position + 1
        stop = data.find(b'"', position)
        while stop >= 0:
            if self._backslash < position:
                found = data.find(b"\\", position)
                self._backslash = found if found >= 0 else len(data)
            if self._backslash > stop:
                out += data[position:stop]
                self._pass(start, stop)
                return
            out += data[position : self._backslash]
            position = self._backslash + 1
            if data[position] == _NEWLINE:
                position += 1
            elif data[position : position + 2] == b"\r\n":
                position += 2
            else:
                out.append(data[position])
                position += 1
            if position > stop:
                stop = data.find(b'"', position)
        raise self._error(
            'a double quote (") is opened and never closed', 'a closing quote; to write a quote: \\"'
        )

    def _pass(self, start: int, stop: int) -> None:
        """Move behind a closing quote at `stop`, over the line ends since `start`."""
        newlines = self._data.count(b"\n", start, stop)
        if newlines:
            self._line += newlines
            self._line_start = self._data.rfind(b"\n", start, stop) + 1
            self._end = self._data.find(b"\n", stop) + 1 or len(self._data)
        self._position = stop + 1

    def _word(self) -> bytes:
        data = self._data
        out = bytearray()
        plain = True  # no quote and no backslash so far
        while self._position < self._end:
            character = data[self._position]
            if character == _QUOTE:
                plain = False
                self._single_quoted(out)
            elif character == _DOUBLE:
                plain = False
                self._double_quoted(out)
            elif character == _HASH:
                self._position = self._end
            elif character == _SEMICOLON:
                if plain:  # libuci ends the word by overwriting the semicolon, and so never sees it as one
                    if data[self._position + 1 : self._end].strip(_SPACE):
                        self._note(
                            "", "what follows ';' on this line is ignored by uci: write a space before ';'"
                        )
                    self._position = self._end
                return bytes(out)
            elif character == _BACKSLASH:
                plain = False
                if self._escaped():
                    out.append(data[self._position])
                    self._position += 1
            else:
                out.append(character)
                self._position += 1
            if self._position < self._end and data[self._position] in _SPACE:
                self._position += 1
                break
        return bytes(out)

    def _argument(self) -> bytes:
        self._skip_space()
        if self._position < self._end and self._data[self._position] == _SEMICOLON:
            self._position += 1
            return b""
        return self._word()

    def _end_of_command(self) -> None:
        if self._argument():
            raise self._error(
                "more words than the command takes", "a value with spaces in quotes; ' ; ' between commands"
            )

    def _name_argument(self, what: str, required: bool, also: bytes = b"") -> bytes:
        name = self._argument()
        if not name and required:
            raise self._error(f"no {what}", f"{what} of letters, digits and _")
        if name.translate(None, NAME + also):
            raise self._error(
                f"{what} {safe(name)} has a character that is not allowed", "letters, digits and _"
            )
        return name

    # ---- commands

    def _commands(self) -> None:
        """The commands of a line. The first word ends at a space or tab, whatever quotes it contains."""
        self._skip_space()
        while True:
            data, start, end = self._data, self._position, self._end
            while start < end and data[start] in b" \t":
                start += 1
            if start >= end or data[start] == _HASH:
                return
            stop = start
            while stop < end and data[stop] not in b" \t":
                stop += 1
            word = data[start:stop]
            command = _COMMANDS.get(word)
            line = self._line
            if command is None or stop >= end:
                self._position = start
                known = _COMMANDS.get(word.strip(_SPACE))
                if known:
                    raise self._error(f"nothing follows '{known.decode()}'", "a name after it")
                raise self._error(
                    f"unknown command {safe(word.strip(_SPACE))}",
                    "config, option, list, package; # for a comment",
                )
            self._position = stop + 1
            if command == b"config":
                self._config_command(line)
            elif command == b"package":
                self._name_argument("package name", required=True, also=b"-")
                self._end_of_command()  # a file in /etc/config is its own package, whatever it says
            else:
                self._option_command(line, command == b"list")

    def _config_command(self, line: int) -> None:
        kind = self._argument()
        if not kind:
            raise self._error("no section type", "config <type> or config <type> '<name>'")
        if kind.translate(None, TYPE):
            raise self._error(
                f"section type {safe(kind)} has a character that is not allowed", "visible ASCII characters"
            )
        name = self._name_argument("section name", required=False)
        self._end_of_command()
        self._open(_text(kind), _text(name), line)

    def _option_command(self, line: int, many: bool) -> None:
        word = "list" if many else "option"
        if self._section is None:
            raise self._error(f"'{word}' stands before the first 'config'", "config <type> first")
        name = self._name_argument("option name", required=True)
        value = self._argument()
        self._end_of_command()
        self._put(_text(name), _text(value), line, many)

    def _plain_line(self) -> bool:
        """Take a line with nothing special in it (nearly every line), at the speed of C. False: not one."""
        raw = self._data[self._position : self._end]
        if b"\\" in raw or b'"' in raw or b";" in raw:
            return False
        parts = raw.split(None, 2)
        if not parts:
            return True
        if b"#" in raw:
            return parts[0][0] == _HASH
        command = _COMMANDS.get(parts[0])
        if command is None or len(parts) < 2 or raw[raw.find(parts[0]) + len(parts[0])] not in b" \t":
            return False
        words = []
        for part in parts[1:]:
            word = part.rstrip()
            if word[0] == _QUOTE:
                if len(word) < 3 or word.find(b"'", 1) != len(word) - 1:
                    return False
                word = word[1:-1]
            elif b"'" in word or len(word.split(None, 1)) != 1:
                return False
            words.append(word)
        if command == b"config":
            name = words[1] if len(words) == 2 else b""
            if words[0].translate(None, TYPE) or name.translate(None, NAME):
                return False
            kind = words[0].decode()
            known = self._by_name.get(name.decode())
            if known is not None and known.type != kind:
                return False
            self._open(kind, name.decode(), self._line)
            return True
        if command == b"package" or len(words) != 2 or self._section is None:
            return False
        if words[0].translate(None, NAME):
            return False
        self._put(words[0].decode(), _text(words[1]), self._line, command == b"list")
        return True

    # ---- meaning

    def _note(self, option: str, text: str) -> None:
        self._notes.append(Note(self._line, self._section, option, text))

    def _open(self, kind: str, name: str, line: int) -> None:
        """Start a section, or go on with the one of that name."""
        if name and name in self._by_name:
            known = self._by_name[name]
            if known.type != kind:
                first = f"has the type {safe(bytes_of(known.type))} since line {known.line}"
                raise self._error(f"section {safe(bytes_of(name))} {first}", "one type for each name")
            self._section = known
            return
        made = name or _generated_name(kind, len(self._sections) + 1)
        self._section = Section(kind, made, not name, {}, line)
        self._sections.append(self._section)
        self._by_name.setdefault(made, self._section)

    def _put(self, name: str, value: str, line: int, many: bool) -> None:
        assert self._section is not None
        options = self._section.options
        old = options.get(name)
        if not many:
            if value:
                self._lists.pop((id(options), name), None)
                options[name] = Option(name, value, line)
            else:
                self._note(name, "uci ignores an option with an empty value")
        elif old is None:
            items = [value]
            self._lists[id(options), name] = (options, items)
            options[name] = Option(name, (), line)
        elif (id(options), name) in self._lists:
            self._lists[id(options), name][1].append(value)
        else:
            self._lists[id(options), name] = (options, [old.text, value])
            options[name] = Option(name, (), old.line)


def _generated_name(kind: str, count: int) -> str:
    """The name libuci gives the count-th section if it is anonymous: D. J. Bernstein's hash of its type."""
    number = 5381
    for character in kind.encode():
        number = (number * 33 + character) & 0xFFFFFFFF
    return f"cfg{count:02x}{number & 0xFFFF:04x}"
