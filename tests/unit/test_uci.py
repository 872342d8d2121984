"""UCI text ⇄ sections: what libuci accepts, drops, refuses; compared to the real `uci` where there is one."""

import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wgrouter.config import uci
from wgrouter.config.uci import Option, Section, UciError, parse
from wgrouter.config.uci_text import write

Plain = list[tuple[str, str, dict[str, str | list[str]]]]


def plain(data: bytes) -> Plain:
    """What a file says, as bare values."""
    return [
        (
            s.type,
            s.name,
            {o.name: o.value if isinstance(o.value, str) else list(o.value) for o in s.options.values()},
        )
        for s in parse(data).sections
    ]


def options(text: str) -> dict[str, str | list[str]]:
    """The options of one section that `text` follows."""
    ((_, _, found),) = plain(b"config t 'n'\n" + text.encode())
    return found


# ---- what is read

SECTIONS = [
    ("", []),
    ("\n  \n\t\n# nothing\n", []),
    ("config a b", [("a", "b", {})]),
    ("config a b\r\n\toption x '1'\r\n", [("a", "b", {"x": "1"})]),
    ("c a b\no x 1\nl y 2\n", [("a", "b", {"x": "1", "y": ["2"]})]),
    ("config 'a' \"b\"\n", [("a", "b", {})]),
    ("package other\nconfig a b\n", [("a", "b", {})]),
    ("config a b # why\n", [("a", "b", {})]),
    ("config a b#why\n", [("a", "b", {})]),
    ("config a\nconfig a\n", [("a", "cfg01b606", {}), ("a", "cfg02b606", {})]),
    (
        "config a b\n option x 1\nconfig c d\nconfig a b\n option y 2\n",
        [("a", "b", {"x": "1", "y": "2"}), ("c", "d", {})],
    ),
    ("config a\nconfig a cfg01b606\n option x 1\n", [("a", "cfg01b606", {"x": "1"})]),
    ("config interface\n", [("interface", "cfg016d96", {})]),
    ("config a 'b' ; option x 'y' ; list z 1\n", [("a", "b", {"x": "y", "z": ["1"]})]),
    ("config a b; option x 1\n", [("a", "b", {})]),  # libuci never sees that semicolon
    ("config t-y.p/e b\n", [("t-y.p/e", "b", {})]),
]


@pytest.mark.parametrize(("text", "expected"), SECTIONS)
def test_sections(text: str, expected: Plain) -> None:
    assert plain(text.encode()) == expected


OPTIONS = [
    ("option x y", {"x": "y"}),
    ("\t option\tx\t \ty  ", {"x": "y"}),
    ("option x 'a b'", {"x": "a b"}),
    ('option x "a b"', {"x": "a b"}),
    ("option x 'it'\\''s'", {"x": "it's"}),
    ('option x "say \\"it\\""', {"x": 'say "it"'}),
    ("option x 'back\\slash'", {"x": "back\\slash"}),
    ("option x a\\ b\\#c\\;d", {"x": "a b#c;d"}),
    ("option x a\"b c\"'d e'f", {"x": "ab cd ef"}),
    ("option x 'a # b ; c'", {"x": "a # b ; c"}),
    ("option x 'two\nlines'", {"x": "two\nlines"}),
    ('option x "two\nlines"', {"x": "two\nlines"}),
    ("option x on\\\ne", {"x": "one"}),
    ('option x "on\\\ne"', {"x": "one"}),
    ("option x on\\\r\ne", {"x": "one"}),
    ("option x 1\noption y 2\noption x 3", {"x": "3", "y": "2"}),
    ("option x ''", {}),
    ("option x", {}),
    ("option x 1\noption x ''", {"x": "1"}),
    ("list x 1\nlist x 2", {"x": ["1", "2"]}),
    ("list x ''", {"x": [""]}),
    ("option x 1\nlist x 2", {"x": ["1", "2"]}),
    ("list x 1\noption x 2", {"x": "2"}),
    ("list x 1\noption x 2\nlist x 3", {"x": ["2", "3"]}),
    ("option x 'ü€😀'", {"x": "ü€😀"}),
    ("option x \\", {}),
]


@pytest.mark.parametrize(("text", "expected"), OPTIONS)
def test_options(text: str, expected: dict[str, str | list[str]]) -> None:
    assert options(text) == expected


REFUSED = [
    ("\ufeffconfig a b\n", 1, "a byte order mark"),
    ("option x 1\n", 1, "before the first 'config'"),
    ("config a b\nopton x 1\n", 2, "unknown command 'opton'"),
    ("config a b\n\noption\n", 3, "nothing follows 'option'"),
    ("config", 1, "nothing follows 'config'"),
    ("config a b c\n", 1, "more words"),
    ("config a b-c\n", 1, "section name 'b-c'"),
    ("config a b\noption x-y 1\n", 2, "option name 'x-y'"),
    ("config a b\noption x 1 2\n", 2, "more words"),
    ("config a b\noption '' 2\n", 2, "no option name"),
    ("config 'a b' c\n", 1, "section type"),
    ("config ä b\n", 1, "section type"),
    ("config a b\nconfig c b\n", 2, "since line 1"),
    ("config a b\noption x 'no end\n\n\n", 2, "single quote"),
    ('config a b\noption x "no end\n\n\n', 2, "double quote"),
    ('config a b\noption x "\\"', 2, "double quote"),
    ("config a 'b';\n", 1, "unknown command"),
    ("package\n", 1, "nothing follows 'package'"),
    ("package a.b\n", 1, "package name"),
    ("config a b\n\n\0", 3, "NUL"),
]


@pytest.mark.parametrize(("text", "line", "problem"), REFUSED)
def test_refused_with_its_line(text: str, line: int, problem: str) -> None:
    with pytest.raises(UciError, match=re.escape(problem)) as caught:
        parse(text.encode())
    assert caught.value.line == line
    assert caught.value.accepted


def test_places_are_kept() -> None:
    first, second = parse(
        b"# x\nconfig a b\n\toption x '1\n2'\n\tlist y 1\n\tlist y 2\n\nconfig a\n"
    ).sections
    assert (first.line, first.options["x"].line, first.options["y"].line, second.line) == (2, 3, 5, 8)
    assert (first.anonymous, second.anonymous) == (False, True)


def test_what_libuci_drops_is_noted() -> None:
    document = parse(b"config a b; option x 1\n\toption y ''\n\toption z 1; # fine\n")
    assert [(note.line, note.option) for note in document.notes] == [(1, ""), (2, "y"), (3, "")]


def test_an_error_never_shows_what_may_be_a_key() -> None:
    key = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
    for text in (
        f"{key.replace('+', 'A')[:43]}\n",
        f"{key}\n",
        f"config wireguard {key}\n",
        f"config a b\noption {key} x\n",
        f"option private_key\n'{key}'",
    ):
        with pytest.raises(UciError) as caught:
            parse(text.encode())
        assert key[:12] not in str(caught.value)


def test_lists_and_options_as_scripts_see_them() -> None:
    (section,) = parse(b"config a b\noption x ' 1  2\t3 '\nlist y 1\nlist y '2 3'\n").sections
    assert section.words("x") == ("1", "2", "3")
    assert section.text("y") == "1 2 3"
    assert section.words("y") == ("1", "2 3")
    assert (section.text("none", "d"), section.words("none")) == ("d", ())


# ---- whatever the bytes

MARKS = ["#c", ";", ";;", "'", '"', "''", '""', "\\", "\\\\", "\\'", "'q w'", '"q w"', "é", "\x01", "\x7f"]
PLAIN = [
    "config",
    "option",
    "list",
    "package",
    "c",
    "o",
    "l",
    "p",
    "a",
    "b",
    "x_1",
    "cfg01b606",
    "t-y",
    "'a'",
]
SPACES = [
    " ",
    "  ",
    "\t",
    "\n",
    "\n\n",
    "\r\n",
    "\\\n",
    "\\\r\n",
    "\v",
    "\f",
    "\r",
    " ; ",
    "; ",
    " # ",
    "''\n",
]
STARTS = [
    "config a b\n",
    "option x y\n",
    "list x 'z'\n",
    "config a 'b' ",
    "option x 'y' ",
    "list x ",
    "config a ",
]
PIECES = st.sampled_from([*MARKS, *PLAIN, *SPACES, *STARTS])
TEXTS = st.lists(PIECES, max_size=14).map(lambda pieces: "".join(pieces).encode("utf-8", "surrogateescape"))
SPACED = st.lists(PIECES, max_size=10).map(lambda pieces: b"config a b\n" + " ".join(pieces).encode())


# Mostly right: so much of what is random is refused at once that the finer points would hardly be met.
WORD_PIECES = [
    "a",
    "b_1",
    "'q w'",
    "'#;'",
    '"d w"',
    '"\\""',
    "\\ ",
    "\\#",
    "\\\n",
    '"x\\\ny"',
    "'x\ny'",
    "\\'",
    "é",
]
WORDS = st.lists(st.sampled_from(WORD_PIECES), min_size=1, max_size=3).map("".join)
KEYS = st.sampled_from(["x", "y", "'x'", '"y"', "z_9"])
GAPS = st.sampled_from([" ", "  ", "\t", " \t"])
ENDS = st.sampled_from(
    ["\n", "\n", "\n", " \n", "\r\n", " ; ", ";", " # c\n", "#c\n", "\n\n", "\v\n", "; ", " ''  "]
)
COMMAND = st.one_of(
    st.tuples(st.sampled_from(["option", "list", "o", "l"]), GAPS, KEYS, GAPS, WORDS | st.just("''"), ENDS),
    st.tuples(
        st.just("config"),
        GAPS,
        st.sampled_from(["a", "'a'", "t-y"]),
        GAPS,
        st.sampled_from(["", "b", "'c'"]),
        ENDS,
    ),
).map("".join)
ORDERLY = st.lists(COMMAND, max_size=8).map(lambda commands: ("config a b\n" + "".join(commands)).encode())
ANY = TEXTS | SPACED | ORDERLY


@given(st.binary(max_size=200) | ANY)
def test_nothing_but_its_own_error(data: bytes) -> None:
    try:
        document = parse(data)
    except UciError as error:
        assert 1 <= error.line <= data.count(b"\n") + 1
        assert error.column >= 1
    else:
        assert all(1 <= section.line <= data.count(b"\n") + 1 for section in document.sections)


@given(ANY)
def test_the_shortcut_for_plain_lines_changes_nothing(data: bytes) -> None:
    def outcome(shortcuts: bool) -> object:
        try:
            return uci._Parser(data, shortcuts).document()
        except UciError as error:
            return str(error)

    assert outcome(True) == outcome(False)


NAMES = st.text("abcXYZ019_", min_size=1, max_size=8)
TYPES = st.text([chr(code) for code in range(33, 127)], min_size=1, max_size=8)
VALUES = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=20)
CONTENT = st.dictionaries(
    NAMES, VALUES | st.lists(VALUES | st.just(""), min_size=1, max_size=4).map(tuple), max_size=5
)
SHAPES = st.lists(
    st.tuples(TYPES, NAMES | st.none(), CONTENT), max_size=6, unique_by=lambda shape: shape[1] or object()
)


def sections_of(shapes: list[tuple[str, str | None, dict[str, str | tuple[str, ...]]]]) -> list[Section]:
    return [
        Section(kind, name or "", name is None, {key: Option(key, value) for key, value in content.items()})
        for kind, name, content in shapes
    ]


@given(SHAPES)
def test_what_is_written_is_read_back(
    shapes: list[tuple[str, str | None, dict[str, str | tuple[str, ...]]]],
) -> None:
    sections = sections_of(shapes)
    read = parse(write(sections).encode("utf-8", "surrogateescape")).sections
    assert [(s.type, s.anonymous, s.options) for s in read] == [
        (s.type, s.anonymous, s.options) for s in sections
    ]
    assert [s.name for s in read if not s.anonymous] == [s.name for s in sections if not s.anonymous]
    assert parse(write(read).encode()).sections == read


def test_bytes_that_are_not_text_survive() -> None:
    (section,) = parse(b"config a b\noption x '\xff\xfe caf\xe9'\n").sections
    assert b"'\xff\xfe caf\xe9'" in write([section]).encode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    "section",
    [
        Section("a b", "c"),
        Section("", "c"),
        Section("a", "c-d"),
        Section("a", "b", False, {"x y": Option("x y", "1")}),
        Section("a", "b", False, {"x": Option("x", "")}),
        Section("a", "b", False, {"x": Option("x", ())}),
        Section("a", "b", False, {"x": Option("x", "nul\0")}),
        Section("a", "b", False, {"x": Option("x", "half \ud800")}),
        Section("a\ud800", "b"),
    ],
)
def test_what_has_no_spelling_is_not_written(section: Section) -> None:
    with pytest.raises(UciError):
        write([section])


@pytest.mark.parametrize(
    "data",
    [
        b"'" * 1_000_000,
        b'config a b\noption x "' + b"\\a" * 500_000,
        b"config a b\noption x " + b'"\\""' * 250_000,
        b"config a b\n" + b"list x y\n" * 100_000,
        b"config a b\n" + b"list x 'y' ; " * 70_000,
        b"\\\n" * 300_000,
        b"config a\n" * 100_000,
        b"config a b\noption x '" + b"\n" * 1_000_000,
        b"config a b\noption x " + b"'\n'" * 300_000,
    ],
)
def test_huge_input_takes_time_in_proportion(data: bytes) -> None:
    before = time.monotonic()
    try:
        parse(data)
    except UciError:
        pass
    assert time.monotonic() - before < 10


# ---- the same as the real program

REAL = shutil.which("uci")
real = pytest.mark.skipif(
    REAL is None, reason="the program `uci` is not on PATH: compared with libuci's rules only"
)


def real_uci(data: bytes) -> tuple[Plain, list[bool]] | None:
    """What `uci export` makes of a file, and which sections are anonymous; None if it refuses."""
    assert REAL is not None
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "t").write_bytes(data)
        outputs = []
        for flag in ("-n", "-N"):
            done = subprocess.run(
                [REAL, "-c", directory, "-P", f"{directory}/saved", flag, "export", "t"],
                capture_output=True,
                check=False,
            )
            if done.returncode != 0:
                assert done.returncode == 1, done
                return None
            outputs.append(exported(done.stdout))
        named, bare = outputs
        return [(kind, name or "", content) for kind, name, content in named], [
            name is None for _, name, _ in bare
        ]


def exported(data: bytes) -> list[tuple[str, str | None, dict[str, str | list[str]]]]:
    """The one layout that `uci export` writes, read by itself."""
    text = data.decode("utf-8", "surrogateescape")
    head = re.compile(r"\nconfig ((?:[^\n ']|'\\'')+)(?: '(\w+)')?\n")
    line = re.compile(r"\t(option|list) (\w+) '((?:[^']|'\\'')*)'\n")
    assert text.startswith("package t\n"), text
    at = len("package t\n")
    found: list[tuple[str, str | None, dict[str, str | list[str]]]] = []
    while match := head.match(text, at):
        content: dict[str, str | list[str]] = {}
        found.append((match[1].replace("'\\''", "'"), match[2], content))
        at = match.end()
        while match := line.match(text, at):
            value = match[3].replace("'\\''", "'")
            if match[1] == "option":
                content[match[2]] = value
            else:
                items = content.setdefault(match[2], [])
                assert isinstance(items, list)
                items.append(value)
            at = match.end()
    assert text[at:] == "\n", text
    return found


def assert_same(data: bytes) -> None:
    theirs = real_uci(data)
    try:
        ours = plain(data), [section.anonymous for section in parse(data).sections]
    except UciError as error:
        assert theirs is None, f"{error}, but uci reads it"
    else:
        assert theirs == ours


@real
@pytest.mark.parametrize(
    "text", [*(text for text, _ in SECTIONS), *(text for text, _, _ in REFUSED if "\0" not in text)]
)
def test_real_sections(text: str) -> None:
    assert_same(text.encode())


@real
@pytest.mark.parametrize("text", [text for text, _ in OPTIONS])
def test_real_options(text: str) -> None:
    assert_same(b"config t 'n'\n" + text.encode())


@real
@settings(max_examples=400, deadline=None)
@given(ANY)
def test_real_on_random_text(data: bytes) -> None:
    assert_same(data)


@real
@settings(max_examples=200, deadline=None)
@given(SHAPES)
def test_real_on_what_we_write(
    shapes: list[tuple[str, str | None, dict[str, str | tuple[str, ...]]]],
) -> None:
    sections = sections_of(shapes)
    data = write(sections).encode()
    assert real_uci(data) is not None
    assert_same(data)
