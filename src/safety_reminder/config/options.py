"""Option classes: written once, with types, limits and explanations on the field; a mistake is one line."""

from __future__ import annotations

import functools
import inspect
import operator
import re
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from safety_reminder.errors import ConfigError, shortened, unknown_name

__all__ = ["Field", "Options", "checked", "require_kinds"]


class Options(BaseModel):
    """Base of the option classes: frozen, and strict about names, types and limits.

    A field is ``name: Annotated[TYPE, Field(description="...", ge=1)] = DEFAULT``. ``json_schema_extra`` says what
    else is to be known of it, as in ``{"later": True}``: may change when a run is resumed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str = "") -> Self:
        """Checked, as they come from a file or a command line.

        Args:
            where: what the options are called there, for messages: ``training`` makes ``training.epochs``.

        Raises:
            ConfigError: an unknown name, or a value of the wrong type or out of its limits; the first of them.
        """
        known = cls.model_fields
        for name in values:
            if name not in known:
                raise ConfigError(unknown_name(f"{where} option".strip(), str(name), known))
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ConfigError(explain(error, where)) from error

    def with_changes(self, **changes: Any) -> Self:
        """A copy with ``changes``, checked like :meth:`parse`."""
        return self.parse({**{name: getattr(self, name) for name in type(self).model_fields}, **changes})

    @classmethod
    def marked(cls, mark: str) -> frozenset[str]:
        """Names of the fields whose ``json_schema_extra`` has ``mark``."""
        extras = ((name, field.json_schema_extra) for name, field in cls.model_fields.items())
        return frozenset(name for name, extra in extras if isinstance(extra, dict) and extra.get(mark))


def checked(kind: Any, value: Any, where: str = "") -> Any:
    """``value`` as the type ``kind``, such as ``dict[str, int] | None``, strictly.

    Args:
        where: what it is called, for messages.

    Raises:
        ConfigError: it is of another type; names what is wrong first.
    """
    try:
        return _adapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        raise ConfigError(explain(error, where)) from error


def require_kinds(parameters: Mapping[str, inspect.Parameter], values: Mapping[str, Any], where: str) -> None:
    """Refuse values for parameters that are plain texts, numbers or truth values, and are of another type.

    Args:
        where: what a parameter is called, in front of its name: ``option of judge=mmvet``.

    Raises:
        ConfigError: the first of them.
    """
    for name, value in values.items():
        words = str(parameters[name].annotation).split(" | ")
        if set(words) <= _PLAIN.keys():
            checked(functools.reduce(operator.or_, [_PLAIN[word] for word in words]), value, f"{where}: {name}")


_PLAIN: dict[str, Any] = {"str": str, "int": int, "float": float, "bool": bool, "None": None}


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


_TYPES = ("float", "int", "str", "bool")
_MUST_BE = {
    "greater_than_equal": "at least {ge:g}",
    "greater_than": "above {gt:g}",
    "less_than_equal": "at most {le:g}",
    "less_than": "below {lt:g}",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "literal_error": "{expected}",
}


def explain(error: ValidationError, where: str = "") -> str:
    """The first thing that is wrong, in one line: ``training.epochs must be at least 1, got 0``."""
    first = error.errors(include_url=False)[0]
    # Where an option may be of several types, pydantic puts the one that was tried after its name.
    place = first["loc"][:-1] if len(first["loc"]) > 1 and first["loc"][-1] in _TYPES else first["loc"]
    name = ".".join(str(part) for part in ([where] if where else []) + list(place))
    limits, given, kind = first.get("ctx", {}), first.get("input"), first["type"]
    known = re.findall(r"'([^']*)'", limits["expected"]) if kind == "literal_error" else []
    shown = shortened(repr(given), 120)
    if isinstance(given, str) and known:
        return unknown_name(name, given, known)
    if kind in _MUST_BE:
        return f"{name} must be {_MUST_BE[kind].format(**limits)}, got {shown}"
    match kind:
        case "missing":
            return f"{name} is not given"
        case "extra_forbidden":
            return f"unknown option {name}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{name}={shortened(str(given), 120)} is not an option; set single ones with {name}.NAME=VALUE"
        case "list_type" | "tuple_type":
            return f"{name} must be a list, as in {name}=[a,b]; got {shown}"
        case "value_error":
            text = str(limits["error"])
            return f"{name}: {text}" if name and not text.startswith(name) else text
    message = first["msg"][:1].lower() + first["msg"][1:]
    return f"{name}: {message}, got {shown}"
