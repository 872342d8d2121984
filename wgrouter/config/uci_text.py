"""Sections → text of UCI files, for who changes a configuration (the fleet, over MQTT). uci.py reads it."""

from __future__ import annotations

from collections.abc import Iterable

from wgrouter.config.uci import NAME, TYPE, Section, UciError, bytes_of, safe


def write(sections: Iterable[Section]) -> str:
    """The text of sections, as `uci export` has it. UciError (line 0) for what UCI has no spelling for."""
    lines = []
    for section in sections:
        _check(section.type, TYPE, "section type")
        odd = any(character in section.type for character in "'\"#;\\")
        head = f"config {_quoted(section.type) if odd else section.type}"
        if not section.anonymous:
            _check(section.name, NAME, "section name")
            head += f" '{section.name}'"
        lines += ["", head]
        for option in section.options.values():
            _check(option.name, NAME, "option name")
            if not option.value:
                raise UciError(
                    0, 0, f"option {safe(bytes_of(option.name))} is empty", "text of one character or more"
                )
            word, values = (
                ("option", (option.value,)) if isinstance(option.value, str) else ("list", option.value)
            )
            for value in values:
                _check(value, b"", "value")
                lines.append(f"\t{word} {option.name} {_quoted(value)}")
    return "\n".join([*lines[1:], ""])


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _check(text: str, allowed: bytes, what: str) -> None:
    """UciError if the text has a character that is not among those allowed (none given: any but NUL)."""
    try:
        data = bytes_of(text)
    except UnicodeEncodeError:
        raise UciError(0, 0, f"{what} with half a character (a lone surrogate)", "text") from None
    if b"\0" in data or (allowed and (not data or data.translate(None, allowed))):
        raise UciError(
            0, 0, f"{what} {safe(data)} cannot be written", "letters, digits and _" if allowed else "no NUL"
        )
