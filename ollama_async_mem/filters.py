"""Filters on memories: what a mapping asks for, read into a typed tree. Pure; each store compiles the tree itself.

The grammar is `{"field": value}`, `{"field": {"gt": 1, "lt": 5}}`, and `AND`, `OR`, `NOT` with lists of such mappings,
nested. Several fields in one mapping, and several operators on one field, must all hold.

A field is one of the memory's own (`TEXT_FIELDS`, `TIME_FIELDS`), else a key of its metadata, with dots into nested
ones; `metadata.at` is the metadata where the memory has such a field itself. A name that is nearly one of the memory's
own, such as `userId` or `creatd_at`, is refused as a slip, but behind `metadata.` any is taken. Values of different
types are never equal and never in order: text is compared by code point, numbers as numbers, and times as instants.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from difflib import get_close_matches
from reprlib import Repr
from typing import Any, Final, Literal, TypeAlias

import msgspec

from ollama_async_mem.errors import ConfigError

__all__ = [
    "TEXT_FIELDS",
    "TIME_FIELDS",
    "AllOf",
    "AnyOf",
    "Compare",
    "Condition",
    "Field",
    "Negation",
    "Op",
    "Scalar",
    "instant",
    "parse_filters",
]

Op: TypeAlias = Literal["eq", "gt", "gte", "lt", "lte", "in", "contains", "icontains", "exists"]
Scalar: TypeAlias = str | int | float | bool | datetime | None

TEXT_FIELDS: Final = ("id", "kind", "role", "speaker", "text", "quote", "user_id", "agent_id", "run_id")
TIME_FIELDS: Final = ("at", "created_at", "expires_at", "valid_to")
_ORDER: Final = ("gt", "gte", "lt", "lte")
_OPERATORS: Final = ("eq", "ne", *_ORDER, "in", "nin", "contains", "icontains", "exists")
_MAX_DEPTH: Final = 16
_MAX_CONDITIONS: Final = 500
_MAX_VALUES: Final = 10_000
_MAX_NUMBER: Final = 2**53
_DAY: Final = timedelta(days=1)
_SLIP: Final = 0.85
"""How alike a name and a field are, from 0 to 1, where one letter is missing, too much or wrong."""
_MAX_SLIP: Final = 20
_CLOCK: Final = r"([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d{1,6})?)?"
_OFFSET: Final = r"Z|[+-](0\d|1[0-5]):[0-5]\d"
_TIME: Final = re.compile(rf"\d{{4}}-\d\d-\d\d([T ]{_CLOCK}({_OFFSET})?)?", re.ASCII)


class Field(msgspec.Struct, frozen=True):
    """What is compared: a field of the memory by its `name`, or where that is "" the `path` of a metadata value."""

    name: str
    path: tuple[str, ...] = ()


class Compare(msgspec.Struct, frozen=True):
    """A field and what it is compared with. A datetime is an instant, as are metadata texts that `instant` can read.

    - eq: equal; None is a field that is absent or null.
    - gt gte lt lte: in order.
    - in: equal to one of a tuple.
    - contains: a text that has the value inside it, or a list that has it as an element.
    - icontains: a text that has the value inside it, where upper and lower case are the same.
    - exists: present and not null, or with False absent or null.
    """

    field: Field
    op: Op
    value: Scalar | tuple[Scalar, ...]


class AllOf(msgspec.Struct, frozen=True):
    """Every part holds; without parts, always."""

    parts: tuple[Condition, ...]


class AnyOf(msgspec.Struct, frozen=True):
    """Some part holds; without parts, never."""

    parts: tuple[Condition, ...]


class Negation(msgspec.Struct, frozen=True):
    """The part does not hold, also because a field is absent."""

    part: Condition


Condition: TypeAlias = Compare | AllOf | AnyOf | Negation


def parse_filters(filters: Mapping[str, Any] | None) -> Condition | None:
    """Read filters; None where there are none.

    `{"field": [a, b]}` is `in`, `{"field": "*"}` is `exists`, `{"field": None}` is absent or null. A date without a
    time means the whole day, in UTC: `{"at": {"lte": "2026-03-01"}}` has that day in it.

    Raises:
        ConfigError: an operator is unknown, a value does not fit it, or there are too many conditions or values.
    """
    if filters is None or filters == {}:
        return None
    condition = _mapping(filters, _MAX_DEPTH)
    sizes = [len(test.value) if isinstance(test.value, tuple) else 1 for test in _compares(condition)]
    if len(sizes) > _MAX_CONDITIONS or sum(sizes) > _MAX_VALUES:
        raise ConfigError(f"filters have at most {_MAX_CONDITIONS} conditions and {_MAX_VALUES:,} values")
    return condition


def instant(text: str) -> datetime | None:
    """Read an ISO 8601 date or time, as metadata texts hold it, in UTC where it says no offset; None: it is neither."""
    if not _TIME.fullmatch(text):
        return None
    try:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _compares(condition: Condition) -> Iterator[Compare]:
    if isinstance(condition, Compare):
        yield condition
        return
    for part in (condition.part,) if isinstance(condition, Negation) else condition.parts:
        yield from _compares(part)


def _mapping(filters: object, depth: int) -> Condition:
    if not isinstance(filters, Mapping):
        raise ConfigError(f'filters are a mapping such as {{"topic": "food"}}, got {_kind(filters)}')
    if not depth:
        raise ConfigError(f"filters are nested at most {_MAX_DEPTH} deep")
    parts = tuple(_entry(name, value, depth) for name, value in filters.items())
    return parts[0] if len(parts) == 1 else AllOf(parts)


def _entry(name: object, value: Any, depth: int) -> Condition:
    if not isinstance(name, str) or not name:
        raise ConfigError(f"filter fields are texts that are not empty, got {_kind(name)}")
    if name in {"AND", "OR", "NOT"}:
        parts = tuple(_mapping(part, depth - 1) for part in (value if isinstance(value, list | tuple) else [value]))
        if name == "AND":
            return AllOf(parts)
        return AnyOf(parts) if name == "OR" else Negation(AnyOf(parts))
    field = _field(name)
    if not isinstance(value, Mapping):
        return _short(field, name, value)
    if not value:
        raise ConfigError(f"the filter on {_show(name)} has no operator; known are {', '.join(_OPERATORS)}")
    tests = tuple(_test(field, name, op, operand) for op, operand in value.items())
    return tests[0] if len(tests) == 1 else AllOf(tests)


def _field(name: str) -> Field:
    if name in TEXT_FIELDS or name in TIME_FIELDS:
        return Field(name)
    if meant := _meant(name):
        raise ConfigError(
            f"unknown filter field {_show(name)}: did you mean {meant!r}? "
            f"A key of the metadata with this name is {_show(f'metadata.{name}')}"
        )
    path = tuple(name.removeprefix("metadata.").split("."))
    if not all(path) or len(path) > _MAX_DEPTH:
        raise ConfigError(f"the filter field {_show(name)} has an empty part, or more than {_MAX_DEPTH}")
    return Field("", path)


def _meant(name: str) -> str:
    """The memory's own field that a name is a slip of, "" where it can only be a key of metadata."""
    folded = _folded(name)
    if folded in _KNOWN:
        return _KNOWN[folded]
    if len(folded) > _MAX_SLIP or "." in folded:
        return ""
    near = get_close_matches(folded, _LONG, 1, _SLIP) or [known for known in _LONG if sorted(known) == sorted(folded)]
    return _KNOWN[near[0]] if near and near[0][0] == folded[0] else ""


def _folded(name: str) -> str:
    """What `user_id`, `userId` and `User-ID` have in common."""
    return name.lower().replace("_", "").replace("-", "")


_KNOWN: Final = {_folded(name): name for name in (*TEXT_FIELDS, *TIME_FIELDS)}
_LONG: Final = [folded for folded, name in _KNOWN.items() if len(name) > len("quote")]  # "text" is too near to "test"


def _short(field: Field, name: str, value: Any) -> Condition:
    if value == "*":
        return Compare(field, "exists", True)
    return _test(field, name, "in" if isinstance(value, list | tuple) else "eq", value)


def _test(field: Field, name: str, op: object, operand: Any) -> Condition:
    if op not in _OPERATORS:
        raise ConfigError(f"unknown filter operator {_show(op)} on {_show(name)}; known are {', '.join(_OPERATORS)}")
    if op in {"ne", "nin"}:
        return Negation(_test(field, name, "eq" if op == "ne" else "in", operand))
    if op == "exists":
        return Compare(field, "exists", _checked(name, op, operand, bool))
    if op == "in":
        options = _checked(name, op, operand, list | tuple | set | frozenset)
        return (
            AnyOf(tuple(_test(field, name, "eq", option) for option in options))
            if _has_times(field, options)
            else (Compare(field, "in", tuple(_scalar(name, option) for option in options)))
        )
    value = _scalar(name, operand)
    if op in {"contains", "icontains"}:
        return _containing(field, name, op, value)
    return _ordered(field, name, op, operand, value)


def _has_times(field: Field, options: Any) -> bool:
    return field.name in TIME_FIELDS or any(isinstance(option, date) for option in options)


def _containing(field: Field, name: str, op: Any, value: Scalar) -> Compare:
    if field.name in TIME_FIELDS or value is None or isinstance(value, datetime):
        raise ConfigError(f"the filter {op!r} on {_show(name)} is about texts and lists")
    if op == "icontains" and not isinstance(value, str):
        raise ConfigError(f"the filter 'icontains' on {_show(name)} takes a text, got {_kind(value)}")
    return Compare(field, op, value)


def _ordered(field: Field, name: str, op: Any, operand: Any, value: Scalar) -> Condition:
    """A comparison; where the operand is a day, its ends decide."""
    if op in _ORDER and (value is None or isinstance(value, bool)):
        raise ConfigError(f"the filter {op!r} on {_show(name)} takes a number, a text or a time, got {value!r}")
    begin = _as_time(field, name, op, value)
    if begin is None:
        return Compare(field, op, value)
    if not _is_day(operand):
        return Compare(field, op, begin)
    try:
        end = begin + _DAY
    except OverflowError as exc:
        raise ConfigError(f"the filter on {_show(name)} is out of the range of dates: {_show(operand)}") from exc
    if op == "eq":
        return AllOf((Compare(field, "gte", begin), Compare(field, "lt", end)))
    days: dict[str, Compare] = {
        "gt": Compare(field, "gte", end),
        "gte": Compare(field, "gte", begin),
        "lt": Compare(field, "lt", begin),
        "lte": Compare(field, "lt", end),
    }
    return days[op]


def _as_time(field: Field, name: str, op: str, value: Scalar) -> datetime | None:
    """The instant that an operand means, None where it is compared as what it is."""
    if isinstance(value, datetime):
        if field.name in TEXT_FIELDS:
            raise ConfigError(f"the filter on {_show(name)} takes a text, got a time")
        return value
    found = instant(value) if isinstance(value, str) else None
    if field.name in TIME_FIELDS and value is not None:
        if found is None:
            raise ConfigError(
                f"the filter on {_show(name)} takes a date or a time such as 2026-03-01, got {_show(value)}"
            )
        return found
    return found if op in _ORDER and not field.name else None


def _is_day(operand: Any) -> bool:
    if isinstance(operand, str):
        return len(operand) == len("2026-03-01")
    return not isinstance(operand, datetime)


def _scalar(name: str, value: Any) -> Scalar:
    if isinstance(value, datetime):
        return _in_utc(name, value)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    if isinstance(value, int | float) and not abs(value) <= _MAX_NUMBER:  # NaN is not either
        raise ConfigError(
            f"the filter on {_show(name)} has a number that is not compared exactly: beyond 2**53, or NaN"
        )
    if not isinstance(value, str | int | float | bool | None):
        raise ConfigError(
            f"the filter on {_show(name)} takes a text, number, boolean, time or null, got {_kind(value)}"
        )
    return value


def _in_utc(name: str, at: datetime) -> datetime:
    try:
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError as exc:
        raise ConfigError(f"the filter on {_show(name)} is out of the range of dates: {at}") from exc


def _checked(name: str, op: str, operand: Any, kind: Any) -> Any:
    if not isinstance(operand, kind):
        wanted = "boolean" if kind is bool else "list"
        raise ConfigError(f"the filter {op!r} on {_show(name)} takes a {wanted}, got {_kind(operand)}")
    return operand


def _show(name: object) -> str:
    """What a message shows of a name, which may be a text of any length."""
    short = Repr()
    short.maxstring = 80
    return short.repr(name)


def _kind(value: object) -> str:
    return type(value).__name__
