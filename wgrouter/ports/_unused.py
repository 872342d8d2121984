"""Keeps away what a library imports and never needs for us: that can cost more than the library itself."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType


@contextlib.contextmanager
def unused(*names: str) -> Iterator[None]:
    """While a library is imported, an empty module stands in for each of these that is not there yet.

    Afterwards they can be imported as ever. If the library needs one after all, that is an AttributeError.
    """
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update({name: ModuleType(name) for name in absent})
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
