"""The configuration: text of the two files that a person or the fleet has written."""

from __future__ import annotations

import re

from tests.fuzz import scene
from wgrouter.config import edit, load, schema, uci_text
from wgrouter.config import uci as reader
from wgrouter.core.findings import Finding, Why
from wgrouter.core.messages import Configured

CUT = b"\n===== network\n"  # what stands between the text of `wgrouter` and that of `network`
KEY = re.compile(r"[A-Za-z0-9+/]{42}")

WORDS = {
    "uci": [
        CUT,
        *(kind.encode() for kind in schema.BY_TYPE),
        *{option.name.encode() for kind in schema.BY_TYPE.values() for option in kind.options},
        *{choice.encode() for kind in schema.BY_TYPE.values() for option in kind.options
          for choice in option.limits.choices},
        *(b"config interface", b"config wireguard_wg0", b"option proto 'wireguard'", b"option ", b"list "),
        *(b"endpoint_host", b"endpoint_port", b"persistent_keepalive", b"allowed_ips", b"listen_port"),
        *(b"addresses", b"2001:db8::/32", b"0.0.0.0/0", b"::ffff:192.0.2.1", b"100ms", b"1e9", b"nan"),
    ]
}  # fmt: skip


def uci(data: bytes) -> None:
    main, _, network = data.partition(CUT)
    for text in (main, network):
        read(text)
    loaded = load.load({"wgrouter": main, "network": network})
    for problem in loaded.problems:
        said = str(problem)
        assert said.isprintable() and len(said) < 4000, said
        assert not KEY.search(problem.value + problem.message), said
        str(Finding(Why.CONFIG_PROBLEM, "", {"reason": said}))
    assert not loaded.unread or loaded.problems
    scene.taken(scene.calm(), Configured(loaded.settings, "seed"))
    change(main)


def read(text: bytes) -> None:
    """As the slow path reads it; and written, and read again."""
    try:
        slow = reader._Parser(text, shortcuts=False).document()
    except reader.UciError as error:
        slow = str(error)
    try:
        document = reader.parse(text)
    except reader.UciError as error:
        assert str(error) == slow, (str(error), slow)
        assert 1 <= error.line <= text.count(b"\n") + 1 and error.column >= 1, error
        return
    assert document == slow
    try:
        written = uci_text.write(document.sections)
    except reader.UciError:
        return  # a value that UCI reads and has no spelling for
    assert reader.parse(reader.bytes_of(written)).sections == document.sections, written


def change(text: bytes) -> None:
    """`set` over MQTT: it says what was meant, or changes nothing."""
    try:
        new = edit.changed(text, "hold", "", "up_after", "17s")
    except edit.Unchangeable:
        return
    found = [section for section in reader.parse(new).sections if section.type == "hold"]
    assert found[0].text("up_after") == "17s"
