"""`table inet wgrouter` as text."""

from __future__ import annotations

from zlib import crc32


def digest(ruleset: str) -> str:
    """What stands in the table's comment, for comparing what is applied with what is wanted."""
    return f"{crc32(ruleset.encode()):08x}"
