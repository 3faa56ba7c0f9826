"""Filters as conditions in SQL on a row of `memories`. Every value, and every key of metadata, is a parameter.

Metadata is compared as jsonb, which tells types apart and compares numbers as numbers. What PostgreSQL cannot compare
itself, instants in texts and lower case of all scripts, are functions that the schema brings along.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ollama_async_mem.filters import TIME_FIELDS, AllOf, AnyOf, Negation

from ._postgres_text import EMPTY_NAME, NO_NAME, write, write_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ollama_async_mem.filters import Compare, Condition, Scalar

__all__ = ["Values", "condition_sql"]

_ORDER: Final = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_NAMES: Final = ("user_id", "agent_id", "run_id")


class Values(list[Any]):
    """The parameters of a statement, in the order of their numbers."""

    def add(self, value: Any, kind: str) -> str:
        """Add one of a type of PostgreSQL; returns what stands for it."""
        self.append(value)
        return f"${len(self)}::{kind}"


def condition_sql(condition: Condition, values: Values) -> str:
    """Return the condition that a filter stands for, which is never NULL, and add its parameters."""
    if isinstance(condition, Negation):
        return f"NOT {condition_sql(condition.part, values)}"
    if isinstance(condition, AllOf | AnyOf):
        word, empty = (" AND ", "TRUE") if isinstance(condition, AllOf) else (" OR ", "FALSE")
        return f"({word.join(condition_sql(part, values) for part in condition.parts) or empty})"
    return f"(({_compare(condition, values)}) IS TRUE)"  # NULL, of a field that is absent, must not reach a NOT


def _compare(compare: Compare, values: Values) -> str:
    name, op = compare.field.name, compare.op
    options = compare.value if isinstance(compare.value, tuple) else (compare.value,)
    if options == ():
        return "FALSE"
    if not name:
        path = "".join(f" -> {values.add(write(key), 'text')}" for key in compare.field.path)
        return _metadata(f"(memories.metadata::jsonb{path})", op, options, values)
    if op == "exists":
        return f"{_column(name)} IS {'NOT ' if options[0] else ''}NULL"
    holds = datetime if name in TIME_FIELDS else str
    kind = "timestamptz" if name in TIME_FIELDS else "text"
    fitting = [_parameter(name, option) for option in options if isinstance(option, holds)]
    test = _test(_column(name), op, fitting, kind, values)
    return f"{test} OR {_column(name)} IS NULL" if None in options else test


def _column(name: str) -> str:
    """A field of the memory itself, NULL where it is absent."""
    if name not in _NAMES:
        return f"memories.{name}"
    return f"CASE memories.{name} WHEN '{NO_NAME}' THEN NULL WHEN '{EMPTY_NAME}' THEN '' ELSE memories.{name} END"


def _parameter(name: str, option: Any) -> Any:
    """A value as a column of this name holds it; `_column` gives the id "" back as it was."""
    if not isinstance(option, str) or not option:
        return option
    return write_name(option) if name in _NAMES else write(option)


def _test(expression: str, op: str, options: Sequence[Any], kind: str, values: Values) -> str:
    """A test of an expression of some type against values of that type; against none it does not hold."""
    if not options:
        return "FALSE"
    if op in _ORDER:
        return f"{expression} {_ORDER[op]} {values.add(options[0], kind)}"
    if op == "contains":
        return f"strpos({expression}, {values.add(options[0], kind)}) > 0"
    if op == "icontains":
        return f"strpos(lowered({expression}), lowered({values.add(options[0], kind)})) > 0"
    return f"{expression} = ANY({values.add(list(options), f'{kind}[]')})"


def _metadata(v: str, op: str, options: Sequence[Scalar], values: Values) -> str:
    """A test of a value in metadata, which is NULL where it is absent."""
    absent = f"coalesce(jsonb_typeof({v}), 'null') = 'null'"
    if op == "exists":
        return f"NOT {absent}" if options[0] else absent
    if op == "contains":
        return _contains(v, options[0], values)
    tests = [absent] if None in options else []
    if times := [o for o in options if isinstance(o, datetime)]:
        tests.append(_of_type(v, "string", lambda text: _test(f"instant_of({text})", op, times, "timestamptz", values)))
    if texts := [write(o) for o in options if isinstance(o, str)]:
        tests.append(_of_type(v, "string", lambda text: _test(text, op, texts, "text", values)))
    if others := [_json(o) for o in options if isinstance(o, bool | int | float)]:
        guard = f"jsonb_typeof({v}) = 'number' AND " if op in _ORDER else ""  # jsonb has an order of types, too
        tests.append(guard + _test(v, op, others, "jsonb", values))
    return " OR ".join(tests) or "FALSE"


def _contains(v: str, option: Scalar, values: Values) -> str:
    """A text that has the value inside it, or a list that has it as an element."""
    element = f"WHEN 'array' THEN {v} @> {values.add(_json(option), 'jsonb')}"
    inside = ""
    if isinstance(option, str):
        inside = f"WHEN 'string' THEN {_test(_text(v), 'contains', [write(option)], 'text', values)}"
    return f"CASE jsonb_typeof({v}) {element} {inside} END"


def _of_type(v: str, kind: str, test: Callable[[str], str]) -> str:
    """A test of the text of a value, where it is of a type; CASE keeps the order of the two."""
    return f"CASE jsonb_typeof({v}) WHEN '{kind}' THEN {test(_text(v))} END"


def _text(v: str) -> str:
    return f"""(({v} #>> '{{}}') COLLATE "C")"""


def _json(value: Any) -> str:
    return msgspec.json.encode(write(value) if isinstance(value, str) else value).decode()
