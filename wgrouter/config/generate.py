"""Writes what is made from the schema: docs/configuration.md and the commented files/etc/config/wgrouter.

`python -m wgrouter.config.generate` writes both; `--check` only compares, and exits 1 if one is out of date.
The lines of the default file that start with `#config` or `#<tab>` are valid configuration without the #.
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

from wgrouter.config.schema import DEFAULT, SECTIONS, SKIP, Option, Section

DEFAULT_FILE = "files/etc/config/wgrouter"
DOCUMENT = "docs/configuration.md"
_WIDTH = 96

_FILE_HEAD = """\
# What wgrouter shall do. Everything here is optional: without this file it cares for every enabled
# WireGuard interface of /etc/config/network, takes the interfaces with a default route as WANs, and
# fails over between them.
#
# Take away the # of a config line and of the options that shall differ. An option that has a
# default shows it. `wgrouter check` tells what is wrong, `service wgrouter reload` takes it over.
"""

_DOCUMENT_HEAD = """\
<!-- Made by `python -m wgrouter.config.generate` from wgrouter/config/schema.py: edit that. -->
# Configuration

wgrouter reads two files in `/etc/config`:

- **`network`**, which is netifd's. From it come the tunnels: every `config interface` with `option
  proto 'wireguard'` that is not `disabled` (and not `auto '0'`), with its `config
  wireguard_<interface>` peers. A peer whose `endpoint_host` is a name has that name followed. A
  peer with an address there is watched, and helped if it has an alternative endpoint. A peer
  without an endpoint is only watched. Of the keys, public ones alone are read.
- **`wgrouter`**, which is described here. It says what shall differ from the defaults, and may be
  empty or missing.

```
config wan 'fibre'                  # two WANs: fibre, and LTE if that fails
	option interface 'wan'
	option priority '1'

config wan 'lte'
	option interface 'wwan'
	option priority '2'
	option metered '1'

config peer                         # a second way to one peer
	option description 'office'     # as in /etc/config/network
	list endpoint 'office-backup.example.net:51820'
```

`wgrouter check` prints every mistake with its line, the value, what is accepted and what is done
about it; it exits with 1 if there is any. `service wgrouter reload` takes changes over.

## What a mistake does

No mistake stops the agent. Instead of a value that is not accepted the option's default holds,
except where a guess could do harm:

- An `enabled` that cannot be read counts as `0`: the agent keeps its hands off. A `metered` that
  cannot be read counts as `1`.
- Options marked **‡** say what a section is about. If one cannot be read, the section is skipped.
- An item of a list is left out and the others stay. If that leaves nothing in `allow`, no answer of
  DNS is taken; if it leaves a rule without a WAN, the rule is skipped.
- An unknown option or section is ignored and reported, with the name that was probably meant.

A file that cannot be read or parsed at all counts as empty when the agent starts. On a reload the
settings from before stay in force.

## How values are written

| | |
|---|---|
| yes or no | `1` `yes` `on` `true` `enabled`, or `0` `no` `off` `false` `disabled` |
| durations | seconds, or a number with `ms`, `s`, `m`, `h` or `d`: `90`, `90s`, `1.5s`, `5m`, `1h` |
| lists | `list` lines, or one `option` with spaces between the items |
| endpoints | `host:port`, `192.0.2.1:51820`, `[2001:db8::1]:51820` |

In a UCI file a section name is there once, whatever the types: a WAN and a peer cannot both be
called `office`. uci ignores an option with an empty value.
"""


def default_file() -> str:
    """The commented default file: `config wgrouter 'main'` and nothing else is in force."""
    parts = [_FILE_HEAD]
    for number, section in enumerate(SECTIONS):
        parts.append("\n" + _comment(section.help, ""))
        name = section.name if section.once else section.example
        active = number == 0
        parts.append(f"{'' if active else '#'}config {section.type} '{name}'\n")
        parts.extend(
            _option_lines(option, active) for option in section.options if option.default or option.example
        )
    return "".join(parts)


def _comment(text: str, indent: str) -> str:
    lines = textwrap.wrap(text.replace("`", ""), _WIDTH, break_on_hyphens=False)
    return "".join(f"{indent}# {line}\n" for line in lines)


def _option_lines(option: Option, active: bool) -> str:
    value = option.default or option.example
    values = value.split() if option.many else [value]
    word = "list" if option.many else "option"
    force = active and option.name == "enabled"
    lines = "".join(f"{'' if force else '#'}\t{word} {option.name} '{each}'\n" for each in values)
    return _comment(option.help, "\t") + lines


def document() -> str:
    """docs/configuration.md."""
    return _DOCUMENT_HEAD + "".join(_section(section) for section in SECTIONS)


def _section(section: Section) -> str:
    name = section.name or "<any name>"
    parts = [f"\n## config {section.type} '{name}'\n\n{_cell(section.help)}\n\n"]
    parts.append("| option | default | accepted | what it does |\n|---|---|---|---|\n")
    for option in section.options:
        mark = " ‡" if option.bad == SKIP else ""
        default = ", ".join(f"`{each}`" for each in option.default.split()) if option.default else ""
        accepted = _accepted(option)
        harm = "" if option.bad in (DEFAULT, SKIP) else f" Unreadable: `{option.bad}`."
        parts.append(
            f"| `{option.name}`{mark} | {default} | {_cell(accepted)} | {_cell(option.help)}{harm} |\n"
        )
    return "".join(parts)


def _accepted(option: Option) -> str:
    """As short as the head of the document allows."""
    text = "yes or no" if option.datatype == "boolean" else option.accepted
    if option.datatype == "duration":
        text = text.partition(",")[0]
    return text + ("; a list" if option.many else "")


def _cell(text: str) -> str:
    """Text for a table of Markdown; what stands between backticks is left as it is."""
    pieces = text.replace("|", "\\|").split("`")
    escaped = [piece.replace("<", "&lt;") if at % 2 == 0 else piece for at, piece in enumerate(pieces)]
    return "`".join(escaped)


def main(arguments: list[str]) -> int:
    root = Path(__file__).resolve().parents[2]
    stale = []
    for name, text in ((DEFAULT_FILE, default_file()), (DOCUMENT, document())):
        path = root / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if "--check" not in arguments:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if not stale:
        return 0
    if "--check" in arguments:
        print(f"out of date: {', '.join(stale)}; run `python -m wgrouter.config.generate`", file=sys.stderr)
        return 1
    print(f"written: {', '.join(stale)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
