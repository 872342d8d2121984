"""Checks messages against docs/mqtt: the document finds the channel by the topic, its schema the mistakes.

Every test that sees a message of the agent gives it to `check`, wherever it got it from.
"""

import functools
import json
import re
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

DOCS = Path(__file__).resolve().parents[1] / "docs/mqtt"
ASYNCAPI = DOCS / "asyncapi.json"


@functools.cache
def document() -> Any:
    return json.loads(ASYNCAPI.read_text())


@functools.cache
def registry() -> Registry[Any]:
    files = sorted((DOCS / "schemas").glob("*.json"))
    return Registry().with_resources(
        (path.name, Resource.from_contents(json.loads(path.read_text()))) for path in files
    )


@functools.cache
def validator(name: str, part: str = "") -> Draft202012Validator:
    """Of a schema's file, or of one of its $defs."""
    reference = f"{name}.json" + (f"#/$defs/{part}" if part else "")
    return Draft202012Validator({"$ref": reference}, registry=registry())


def message_of(topic: str, prefix: str = "wgrouter") -> str:
    """The message's name by its topic. LookupError if the document has no such channel."""
    for channel in document()["channels"].values():
        pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(channel["address"]))
        pattern = pattern.replace("[^/]+", re.escape(prefix), 1)
        if re.fullmatch(pattern, topic):
            return str(next(iter(channel["messages"])))
    raise LookupError(f"{topic!r} is no channel of {ASYNCAPI.name}")


def check(topic: str, payload: bytes | str, prefix: str = "wgrouter") -> Any:
    """The payload, decoded and found to be what the document says. "" takes a retained value away."""
    name = message_of(topic, prefix)
    text = payload.decode() if isinstance(payload, bytes) else payload
    if not text:
        return None
    data = text if name == "availability" else json.loads(text)
    errors = [f"{error.json_path}: {error.message}" for error in validator(name).iter_errors(data)]
    assert not errors, f"{topic}: {'; '.join(errors)}\n{text}"
    return data
