"""Jitter without randomness: a hash of a seed and of what the moment is about, so that a replay decides
the same.
"""

from __future__ import annotations

from zlib import crc32


def unit(seed: str, *parts: object) -> float:
    """A number in [0, 1) that looks random across seeds and parts and is the same for the same ones."""
    # A file of the user may hold bytes that are no UTF-8: read as lone surrogates (PEP 383).
    text = "\x1f".join((seed, *map(str, parts))).encode("utf-8", "surrogatepass")
    # crc32 alone is linear: near inputs give near-related outputs; one multiplication (Knuth's constant)
    # spreads them.
    return ((crc32(text) * 2654435761) & 0xFFFFFFFF) / 4294967296.0


def spread(base: float, ratio: float, seed: str, *parts: object) -> float:
    """`base` made up to `ratio` shorter or longer."""
    return base * (1.0 + ratio * (2.0 * unit(seed, *parts) - 1.0))
