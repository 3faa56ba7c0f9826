"""Filters as conditions in SQL on a row of `memories`. Every value, and every key of metadata, is a parameter.

Metadata is taken apart with `json_each`, whose keys come unescaped. Its paths cannot name a key that holds a quote in
all versions, so such a key is a step of its own. What SQLite cannot compare itself, lower case and instants, are
functions that `register` brings in.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import msgspec

from ollama_async_mem.filters import TIME_FIELDS, AllOf, AnyOf, Negation, instant

from ._json import coded
from ._sqlite_values import intern_name, micros, name_text

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    from ollama_async_mem.filters import Compare, Condition, Scalar

__all__ = ["Sql", "condition_sql", "register"]

Sql: TypeAlias = tuple[str, list[Any]]

_ORDER: Final = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_SCOPE_KEYS: Final = {"user_id": "user_key", "agent_id": "agent_key", "run_id": "run_key"}
_ODD: Final = re.compile('["\ud800-\udfff]')
MAX_CHAIN: Final = 50


def condition_sql(condition: Condition) -> Sql:
    """Return the condition that a filter stands for, with its parameters. It is never NULL."""
    if isinstance(condition, Negation):
        sql, values = condition_sql(condition.part)
        return f"NOT {sql}", values
    if isinstance(condition, AllOf | AnyOf):
        word, empty = (" AND ", "TRUE") if isinstance(condition, AllOf) else (" OR ", "FALSE")
        parts = [condition_sql(part) for part in condition.parts]
        return f"({_joined([sql for sql, _ in parts], word) or empty})", _values(parts)
    sql, values = _compare(condition)
    return f"(({sql}) IS TRUE)", values  # NULL, of a field that is absent, must not reach a NOT


def register(conn: sqlite3.Connection) -> None:
    """Bring the functions that conditions use into a connection."""
    conn.create_function("lowered", 1, _lowered, deterministic=True)
    conn.create_function("instant_of", 1, _instant_of, deterministic=True)


def _lowered(text: str | bytes | None) -> str | bytes | None:
    return intern_name(name_text(text).lower()) if isinstance(text, bytes) else text and text.lower()


def _instant_of(text: str) -> int | None:
    at = instant(text)
    return None if at is None else micros(at)


def _joined(parts: Sequence[str], word: str) -> str:
    """Many parts in halves: SQLite bounds how deep an expression is, and takes a long chain for a deep one."""
    if len(parts) <= MAX_CHAIN:
        return word.join(parts)
    half = len(parts) // 2
    return f"({_joined(parts[:half], word)}){word}({_joined(parts[half:], word)})"


def _compare(compare: Compare) -> Sql:
    name, op = compare.field.name, compare.op
    options = compare.value if isinstance(compare.value, tuple) else (compare.value,)
    if not name:
        return _metadata(compare.field.path, op, options)
    if name in TIME_FIELDS:
        return _column(f"memories.{name}", _TIME, op, options)
    if name in _SCOPE_KEYS:
        sql, values = _column(f"(SELECT name FROM names WHERE key = {_SCOPE_KEYS[name]})", _NAME, op, options)  # noqa: S608 - column names only
        return f"memories.scope_id IN (SELECT id FROM scopes WHERE {sql})", values  # noqa: S608 - as above
    return _column(f"memories.{name}", _TEXT, op, options)


class _Type(NamedTuple):
    """Values of one type: how they are told from others, and how they become parameters."""

    python: type | tuple[type, ...]
    slot: str = "?"
    encode: Callable[[Any], Any] = lambda value: value

    def among(self, options: Sequence[Scalar]) -> list[Any]:
        """Those of this type; a boolean is no number."""
        return [o for o in options if isinstance(o, self.python) and (self is _BOOLEAN or not isinstance(o, bool))]


_TIME: Final = _Type(datetime, encode=micros)
_NAME: Final = _Type(str, encode=intern_name)
_TEXT: Final = _Type(str, "CAST(? AS TEXT)", intern_name)  # Python itself gives SQLite no text with a lone surrogate
_CODED: Final = _Type(str, "CAST(? AS TEXT)", lambda text: intern_name(coded(text)))  # inside metadata
_NUMBER: Final = _Type((int, float))
_BOOLEAN: Final = _Type(bool, encode=lambda value: "true" if value else "false")  # what json_each calls their types


def _column(column: str, holds: _Type, op: str, options: Sequence[Scalar]) -> Sql:
    """A test of a column, which is NULL where the field is absent."""
    if op == "exists":
        return f"{column} IS {'NOT ' if options[0] else ''}NULL", []
    sql, values = _typed(column, holds, op, holds.among(options))
    return (f"{sql} OR {column} IS NULL" if None in options else sql), values


def _typed(expression: str, holds: _Type, op: str, options: Sequence[Any]) -> Sql:
    """A test of an expression against values of its type; against none it does not hold."""
    if not options:
        return "FALSE", []
    slots, values = ", ".join([holds.slot] * len(options)), [holds.encode(option) for option in options]
    if op in _ORDER:
        return f"{expression} {_ORDER[op]} {slots}", values
    if op == "contains":
        return f"instr({expression}, {slots}) > 0", values
    if op == "icontains":
        return f"instr(lowered({expression}), {slots}) > 0", [holds.encode(options[0].lower())]
    return f"{expression} IN ({slots})", values


def _metadata(path: Sequence[str], op: str, options: Sequence[Scalar]) -> Sql:
    present = _at_path(path, ("v.type <> 'null'", []))
    if op == "exists":
        return present if options[0] else (f"NOT {present[0]}", present[1])
    found = _at_path(path, _contains(options) if op == "contains" else _json("v", op, options))
    return (f"{found[0]} OR NOT {present[0]}", _values([found, present])) if None in options else found


def _at_path(path: Sequence[str], test: Sql) -> Sql:
    """Whether metadata has a value at the path, called `v`, that a test holds for."""
    *parents, last = path
    tables: list[tuple[str, str, str, str]] = []
    source, place = "memories.metadata", "$"
    for key in parents:
        if _ODD.search(key):
            name = f"v{len(tables)}"
            tables.append((f"json_each({source}, ?) AS {name}", place, f"{name}.key = {_CODED.slot}", key))
            source, place = f"CASE {name}.type WHEN 'object' THEN {name}.value END", "$"
        else:
            place += f".{msgspec.json.encode(coded(key)).decode()}"
    tables.append((f"json_each({source}, ?) AS v", place, f"v.key = {_CODED.slot}", last))
    joined, places, keys, names = zip(*tables, strict=True)
    sql = f"EXISTS (SELECT 1 FROM {', '.join(joined)} WHERE {' AND '.join(keys)} AND ({test[0]}))"  # noqa: S608 - names and slots only
    return sql, [*places, *map(_CODED.encode, names), *test[1]]


def _json(v: str, op: str, options: Sequence[Scalar]) -> Sql:
    """A test of a JSON value: it is of the same type as one of the options, and fits that."""
    value, text, number = f"{v}.value", f"{v}.type = 'text' AND ", f"{v}.type IN ('integer', 'real') AND "
    tests = (
        (text, value, _CODED),
        (text, f"instant_of({value})", _TIME),
        (number, value, _NUMBER),
        ("", f"{v}.type", _BOOLEAN),
    )
    parts = []
    for guard, expression, holds in tests:
        if fitting := holds.among(options):
            sql, values = _typed(expression, holds, op, fitting)
            parts.append((guard + sql, values))
    return " OR ".join(sql for sql, _ in parts) or "FALSE", _values(parts)


def _contains(options: Sequence[Scalar]) -> Sql:
    """A text that has the value inside it, or a list that has it as an element."""
    inside, element = _json("v", "contains", _CODED.among(options)), _json("e", "eq", options)
    elements = f"EXISTS (SELECT 1 FROM json_each(v.value) AS e WHERE {element[0]})"  # noqa: S608 - names and slots only
    return f"CASE v.type WHEN 'array' THEN {elements} ELSE {inside[0]} END", _values([element, inside])


def _values(parts: Sequence[Sql]) -> list[Any]:
    return [value for _, values in parts for value in values]
