"""Sections of the main file → values by the schema, and Problems for what is not taken.

What happens with a value that is not taken: the option's default holds, except where a guess could do harm.
A bad `enabled` counts as 0 (hands off), a bad `metered` as 1; what a peer, WAN or rule is found by cannot be
guessed, so the section is skipped (schema.py says which). An item of a list is left out by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from wgrouter.config.datatypes import DATATYPES, Invalid, Limits, Value, duration, duration_text
from wgrouter.config.problems import Problem, Problems, nearest, quoted, shown
from wgrouter.config.schema import BY_TYPE, DEFAULT, SKIP, Option
from wgrouter.config.schema import Section as Spec
from wgrouter.config.uci import Document, Section
from wgrouter.core.findings import Severity

NOTHING = "255.255.255.255/32"  # no address that is ever acceptable lies here: an `allow` that cannot be read
# A smaller and a larger limit that belong together.
PAIRS = (
    ("dns", "ttl_min", "ttl_max"),
    ("dns", "retry", "retry_max"),
    ("tunnel", "backoff", "backoff_max"),
    ("hold", "up_after", "up_max"),
)

Values = dict[str, Any]


def _repeated(option: Option, text: str) -> str:
    """The value as a Problem may repeat it: nothing where it may be a secret."""
    secret = option.datatype == "key" or (option.datatype == "broker" and "@" in text)
    return "" if secret else shown(text)


class Sections:
    """The sections of a document, by type, and the Problems found in them."""

    def __init__(self, document: Document, file: str, problems: Problems) -> None:
        self._file = file
        self._problems = problems
        self._names: dict[int, str] = {}  # sections by id, as Problems name them
        self._groups: dict[str, list[Section]] = {kind: [] for kind in BY_TYPE}
        counts: dict[str, int] = {}
        for section in document.sections:
            index = counts.get(section.type, 0)
            counts[section.type] = index + 1
            anonymous = f"@{shown(section.type)}[{index}]"
            self._names[id(section)] = anonymous if section.anonymous else f"{section.type} '{section.name}'"
            if section.type in self._groups:
                self._groups[section.type].append(section)
            else:
                self._unknown_section(section)
        for note in document.notes:
            self.say(note.section, note.option, note.text, line=note.line, severity=Severity.WARNING)

    def of(self, kind: str) -> list[Section]:
        return self._groups[kind]

    def nearest(self, name: str, known: Iterable[str]) -> str:
        """problems.nearest, as long as anybody will read the answer."""
        return "" if self._problems.full else nearest(name, known)

    # ---- saying what is wrong

    def say(
        self,
        section: Section | None,
        option: str,
        message: str,
        accepted: str = "",
        consequence: str = "",
        severity: Severity = Severity.ERROR,
        line: int = 0,
        value: str = "",
    ) -> None:
        name = ""
        if section is not None:
            name = self._names.get(id(section), "")
            found = section.options.get(option)
            line = line or (found.line if found else section.line)
        self._problems.add(
            Problem(self._file, line, name, option, value, message, accepted, consequence, severity)
        )

    def _unknown_section(self, section: Section) -> None:
        close = self.nearest(section.type, BY_TYPE)
        accepted = f"did you mean '{close}'?" if close else ", ".join(BY_TYPE)
        message = f"there is no section type {quoted(section.type)}"
        self.say(section, "", message, accepted, "section skipped", Severity.WARNING)

    def _unknown_option(self, section: Section, spec: Spec, option: str) -> None:
        known = [each.name for each in spec.options]
        close = self.nearest(option, known)
        accepted = f"did you mean '{close}'?" if close else ", ".join(known)
        message = f"there is no option {quoted(option)} in a {spec.type} section"
        self.say(section, shown(option), message, accepted, "ignored", Severity.WARNING)

    # ---- values by the schema

    def values(self, section: Section, spec: Spec) -> Values | None:
        """What a section says, by option name: only what is written. None: the section is to be skipped."""
        known = {option.name: option for option in spec.options}
        values: Values = {}
        skip = False
        for name, found in section.options.items():
            option = known.get(name)
            if option is None:
                self._unknown_option(section, spec, name)
            elif option.many:
                items = self._items(section, option, found.words)
                if not items and option.bad == SKIP:
                    skip = True
                elif items or name == "allow":
                    values[name] = items or (NOTHING,)
            elif isinstance(found.value, tuple) and len(found.value) != 1:
                self._refused(
                    section, option, "", f"there are {len(found.value)} values, one is needed", values
                )
                skip = skip or option.bad == SKIP
            else:
                text = found.text.strip()
                try:
                    values[name] = self._parsed(option, text)
                except Invalid as error:
                    self._refused(section, option, text, str(error), values)
                    skip = skip or option.bad == SKIP
        return None if skip else values

    @staticmethod
    def _parsed(option: Option, text: str) -> Value:
        return DATATYPES[option.datatype].parse(text, option.limits)

    def _refused(self, section: Section, option: Option, text: str, message: str, values: Values) -> None:
        if option.bad == SKIP:
            consequence = "section skipped"
        elif option.bad == DEFAULT:
            consequence = f"the default '{option.default}' holds" if option.default else "ignored"
        else:
            consequence = f"taken as {option.bad}"
            values[option.name] = self._parsed(option, option.bad)
        self.say(section, option.name, message, option.accepted, consequence, value=_repeated(option, text))

    def _items(self, section: Section, option: Option, words: tuple[str, ...]) -> tuple[Value, ...]:
        items: dict[Value, None] = {}
        for text in words:
            try:
                items[self._parsed(option, text.strip())] = None
            except Invalid as error:
                consequence, value = "this item is left out", _repeated(option, text)
                self.say(section, option.name, str(error), option.accepted, consequence, value=value)
        return tuple(items)

    def single(self, spec: Spec, sections: list[Section]) -> Values:
        """The fields of a section that is there once. A second one is skipped."""
        for section in sections[1:]:
            message = f"a second section of type {spec.type}; the first is in line {sections[0].line}"
            self.say(section, "", message, "one such section", "section skipped")
        if not sections:
            return {}
        values = self.values(sections[0], spec) or {}
        out = self.fields(spec, values)
        if spec.type == "probing":
            targets = out.pop("target", ())
            out |= self.targets(targets)
        self.order(sections[0], spec, out)
        return out

    @staticmethod
    def fields(spec: Spec, values: Values) -> Values:
        targets = {option.name: option.target for option in spec.options}
        return {targets[name]: value for name, value in values.items()}

    @staticmethod
    def targets(targets: tuple[str, ...]) -> Values:
        split = {
            "targets4": tuple(target for target in targets if ":" not in target),
            "targets6": tuple(target for target in targets if ":" in target),
        }
        return {name: found for name, found in split.items() if found}

    def order(self, section: Section, spec: Spec, out: Values) -> None:
        """Where a smaller limit is above the larger one, the larger follows."""
        defaults = {option.target: option for option in spec.options}
        for kind, low, high in PAIRS:
            if kind != spec.type:
                continue
            lower, upper = (
                float(out.get(name, duration(defaults[name].default, Limits()))) for name in (low, high)
            )
            if lower > upper:
                out[high] = lower
                message = f"{low} ({duration_text(lower)}) is more than {high} ({duration_text(upper)})"
                consequence = f"{high} is taken as {duration_text(lower)} too"
                option = low if low in section.options else high
                self.say(section, option, message, "", consequence, Severity.WARNING)
