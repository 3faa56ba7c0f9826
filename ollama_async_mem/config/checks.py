"""Checking keys and values of settings, and saying what is wrong with them. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, get_args

import msgspec

from ollama_async_mem.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "Place",
    "allowed",
    "check_values",
    "checked",
    "renamed",
    "require_mapping",
    "types_of",
    "unknown_key",
    "wrong_value",
]

_SECRET = {"api_key", "headers"}
_SHOWN_CHARS = 80


class Section(Protocol):
    """A record of settings, which checks its values when it is made."""

    ALIASES: ClassVar[dict[str, str]]
    INSTEAD: ClassVar[dict[str, str]]

    def __init__(self, **values: Any) -> None: ...


class Place(NamedTuple):
    """Where settings stand, for errors: `file` is "" or ends in ": ", `path` is "" or ends in a dot."""

    file: str = ""
    path: str = ""

    def inside(self, key: str) -> Place:
        """The place of what stands under a key."""
        return Place(self.file, f"{self.path}{key}.")


def check_values(record: msgspec.Struct) -> None:
    """Check a record's values by the annotations of its fields, as decoding would do.

    What is allowed is said in the words of the annotation's `Meta(description=...)`.

    Raises:
        ConfigError: a value is of the wrong type or out of range.
    """
    for name, type_ in types_of(type(record)).items():
        value = getattr(record, name)
        try:
            msgspec.convert(value, type_)
        except msgspec.ValidationError as exc:
            raise wrong_value(name, value, allowed(type_)) from exc


def checked(type_: type[Section], mapping: object, place: Place) -> dict[str, Any]:
    """Check what stands at a place and give it the names of a record's fields.

    Raises:
        ConfigError: a key is unknown or a value cannot be; the text begins with the place.
    """
    given = require_mapping(mapping, f"{place.file}{place.path.removesuffix('.') or type_.__name__}")
    known = types_of(type_)
    values = renamed(given, known, aliases=type_.ALIASES, instead=type_.INSTEAD, place=place)
    try:
        type_(**values)
    except ConfigError as exc:
        raise ConfigError(f"{place.file}{place.path}{exc}") from exc
    return values


def wrong_value(name: str, value: object, allowed: str) -> ConfigError:
    """Say that a value cannot be, and what can; the text begins with the name."""
    return ConfigError(
        f"{name} cannot be {'this secret' if name in _SECRET else _excerpt(value)}; allowed is {allowed}"
    )


def renamed(
    values: Mapping[Any, Any],
    known: Iterable[str],
    *,
    aliases: Mapping[str, str],
    instead: Mapping[str, str],
    place: Place,
) -> dict[str, Any]:
    """Give values their own names where they stand under an alias.

    Raises:
        ConfigError: a key is unknown, or a value is given under two names.
    """
    found: dict[str, Any] = {}
    written: dict[str, str] = {}
    for key, value in values.items():
        name = aliases.get(key, key)
        if name not in known:
            raise unknown_key(key, known, instead=instead, place=place)
        if name in found:
            raise ConfigError(
                f"{place.file}{place.path}{written[name]} is given twice, also as {key!r}: keep one of them"
            )
        found[name], written[name] = value, key
    return found


def unknown_key(key: object, known: Iterable[str], *, instead: Mapping[str, str], place: Place) -> ConfigError:
    """Say that a key is unknown: what to use `instead` of it, else the nearest known one, else all of them."""
    text = f"{place.file}unknown key '{place.path}{key}'"
    if isinstance(key, str) and key in instead:
        return ConfigError(f"{text}: {instead[key]}")
    if near := difflib.get_close_matches(str(key), known, 1):
        return ConfigError(f"{text}, did you mean {near[0]!r}?")
    return ConfigError(f"{text}; known are {', '.join(known)}")


def require_mapping(value: object, what: str) -> Mapping[Any, Any]:
    """Check that a value holds keys.

    Raises:
        ConfigError: it does not.
    """
    if not isinstance(value, Mapping):
        raise ConfigError(f"{what} is a mapping of keys to values, got {_excerpt(value)}")
    return value


@lru_cache
def types_of(struct: type) -> dict[str, Any]:
    """The annotations of a record's fields by their names, in order."""
    return {field.name: field.type for field in msgspec.structs.fields(struct)}


def allowed(type_: Any) -> str:
    """What an annotation allows: the descriptions in an annotation, wherever in it they stand."""
    texts = [part.description if isinstance(part, msgspec.Meta) else allowed(part) for part in get_args(type_)]
    return ", or ".join(text for text in texts if text)


def _excerpt(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."
