"""Records: `@dataclass(slots=True)`, frozen or not, as the standard library has it, at half its cost.

dataclasses writes up to six methods for each class and compiles each when the class is imported, and it
imports inspect. With our hundred and more classes that was 0.1 s of 0.22 s of CPU at every start here (a
small router: 20 times that) and 2 MiB. Here `__init__` alone is written for each class, and the other methods
are the same for all. `replace`, which every step of the engine calls ten times, takes a third of the time.

For a type checker these are the library's own, and so they are for a reader, but for what nobody here uses:
every class has slots, and there are no InitVar, ClassVar, `__post_init__`, keyword-only fields or base
classes with fields; what is frozen is never copied or pickled.
"""

from __future__ import annotations

import operator

TYPE_CHECKING = False  # not typing's, whose import takes long
if TYPE_CHECKING:
    from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
else:
    MISSING = type("MISSING", (), {"__slots__": ()})()  # no default

    class Field:
        """What a class says of one of its fields."""

        __slots__ = ("compare", "default", "default_factory", "name")
        init, _field_type = True, None  # so that the library's replace takes our records, too

        def __init__(self, name, default, default_factory=MISSING, compare=True):
            self.name, self.default = name, default
            self.default_factory, self.compare = default_factory, compare

    class FrozenError(AttributeError):
        """Somebody assigned to a field of a frozen record."""

    def field(*, default=MISSING, default_factory=MISSING, compare=True):
        return Field("", default, default_factory, compare)

    def fields(record):
        """The Fields of a record or its class, in order. Works for the library's dataclasses as well."""
        return tuple(record.__dataclass_fields__.values())

    def is_dataclass(record):
        return hasattr(record, "__dataclass_fields__")

    def replace(record, /, **changes):
        """The same record but for the changes."""
        cls, *values = record._all(record)
        try:
            for name, value in changes.items():
                values[cls.__match_args__.index(name)] = value
        except ValueError:
            raise TypeError(f"{cls.__name__} got an unexpected keyword argument {name!r}") from None
        return cls(*values)

    def dataclass(cls=None, *, frozen=False, slots=True, order=False):
        """The class, made anew with slots for its annotated fields and the methods of a dataclass."""
        if cls is None:
            return lambda cls: dataclass(cls, frozen=frozen, order=order)
        body = {name: item for name, item in vars(cls).items() if name not in ("__dict__", "__weakref__")}
        found = {}
        for name in cls.__annotations__:
            said = body.pop(name, MISSING)
            found[name] = one = said if isinstance(said, Field) else Field(name, said)
            one.name = name
        compared = [name for name, one in found.items() if one.compare]
        shared = _FROZEN if frozen else _MUTABLE
        body = {**shared, **(_ORDERED if order else {}), **body}
        body |= {"__slots__": tuple(found), "__match_args__": tuple(found), "__dataclass_fields__": found}
        # With the class: a tuple, however few there are.
        body["_all"] = body["_key"] = operator.attrgetter("__class__", *found)
        if len(compared) < len(found):
            body["_key"] = operator.attrgetter("__class__", *compared)
        made = type(cls)(cls.__name__, cls.__bases__, body)
        made.__init__ = _init(made, found)
        return made

    def _init(cls, found):
        """Written out, as dataclasses does: a loop over the fields would take three times as long."""
        known, arguments, lines = {"MISSING": MISSING}, ["self"], []
        for name, one in found.items():
            known[f"_set_{name}"] = vars(cls)[name].__set__
            value = name
            if one.default_factory is not MISSING:
                known[f"_new_{name}"] = one.default_factory
                arguments.append(f"{name}=MISSING")
                value = f"_new_{name}() if {name} is MISSING else {name}"
            elif one.default is not MISSING:
                known[f"_default_{name}"] = one.default
                arguments.append(f"{name}=_default_{name}")
            else:
                arguments.append(name)
            lines.append(f" _set_{name}(self, {value})")
        exec(f"def __init__({', '.join(arguments)}):\n" + "\n".join(lines or [" pass"]), known)
        init = known.pop("__init__")
        init.__qualname__ = f"{cls.__qualname__}.__init__"
        return init

    # ------------------------------------------------------------ methods that all have

    def _eq(self, other):
        if self is other:
            return True
        if self.__class__ is not other.__class__:
            return NotImplemented
        key = self._key
        return key(self) == key(other)

    def _hash(self):
        return hash(self._key(self))

    def _repr(self):
        said = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__match_args__)
        return f"{self.__class__.__qualname__}({said})"

    def _assign(self, name, *_):
        raise FrozenError(f"{self.__class__.__name__} is frozen: {name!r} stays as it is")

    def _compared(compare):
        def method(self, other):
            if self.__class__ is not other.__class__:
                return NotImplemented
            return compare(self._key(self), self._key(other))

        return method

    _MUTABLE = {"__eq__": _eq, "__repr__": _repr, "__hash__": None}
    _FROZEN = {**_MUTABLE, "__hash__": _hash, "__setattr__": _assign, "__delattr__": _assign}
    _ORDERED = {f"__{name}__": _compared(getattr(operator, name)) for name in ("lt", "le", "gt", "ge")}


__all__ = ["MISSING", "dataclass", "field", "fields", "is_dataclass", "replace"]
