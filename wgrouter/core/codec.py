"""Values of the core ⇄ JSON-ready data: what the journal writes and `replay` reads.

Frozen dataclasses become objects tagged with their class (`"_"`), fields at their default left out;
tuples become lists; mappings whose keys are not text become tagged lists of pairs. The core has no
lists or sets, so nothing is ambiguous.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from wgrouter.core.records import fields, is_dataclass

TAG = "_"


class Unreadable(ValueError):
    """Data that this version cannot turn into a value: says which part, and why."""


def encode(value: Any) -> Any:
    """JSON-ready data for a value of the core. TypeError for what the core does not hold."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            return {TAG: "float", "text": repr(value)}
        return value
    if isinstance(value, Enum):
        return {TAG: type(value).__name__, "name": value.name}
    if isinstance(value, tuple):
        return [encode(item) for item in value]
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value) and TAG not in value:
            return {key: encode(item) for key, item in value.items()}
        return {TAG: "map", "items": [[encode(key), encode(item)] for key, item in value.items()]}
    if is_dataclass(value) and not isinstance(value, type):
        data: dict[str, Any] = {TAG: type(value).__name__}
        for field in fields(value):
            item = getattr(value, field.name)
            if type(item) is type(field.default) and item == field.default:
                continue
            data[field.name] = encode(item)
        return data
    raise TypeError(f"{type(value).__name__} is not a value of the core")


class Decoder:
    """Turns data back into values of the classes it was given."""

    def __init__(self, classes: Iterable[type]) -> None:
        self._classes = {cls.__name__: cls for cls in classes}

    def decode(self, data: Any) -> Any:
        """The value. Unreadable for unknown tags, missing or unknown fields."""
        if isinstance(data, list):
            return tuple(self.decode(item) for item in data)
        if not isinstance(data, dict):
            return data
        tag = data.get(TAG)
        if tag is None:
            return {key: self.decode(item) for key, item in data.items()}
        try:
            if tag == "float":
                return float(data["text"])
            if tag == "map":
                return {self.decode(key): self.decode(item) for key, item in data["items"]}
            cls = self._classes[tag]
            if issubclass(cls, Enum):
                return cls[data["name"]]
            return cls(**{key: self.decode(item) for key, item in data.items() if key != TAG})
        except Unreadable:  # the innermost one says it
            raise
        except (KeyError, TypeError, ValueError) as error:
            what = f"{str(tag)[:60]!r} is not readable by this version: {str(error)[:200]}"
            raise Unreadable(what) from None
