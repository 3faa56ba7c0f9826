"""What a filter, a selection and an order mean, in plain Python, tried on one memory or scope."""

from __future__ import annotations

import operator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ollama_async_mem.filters import AllOf, AnyOf, Negation, instant
from ollama_async_mem.records import Scope, Turn

if TYPE_CHECKING:
    from collections.abc import Callable

    from ollama_async_mem.filters import Condition, Field
    from ollama_async_mem.records import MemoryRecord, Selection

__all__ = ["matches", "place_of", "selected", "spoken", "within"]

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
    "contains": lambda value, wanted: isinstance(value, str) and wanted in value,
    "icontains": lambda value, wanted: wanted.lower() in value.lower(),
}


def matches(condition: Condition | None, memory: MemoryRecord) -> bool:
    """Whether a filter lets a memory through."""
    if isinstance(condition, AllOf):
        return all(matches(part, memory) for part in condition.parts)
    if isinstance(condition, AnyOf):
        return any(matches(part, memory) for part in condition.parts)
    if isinstance(condition, Negation):
        return not matches(condition.part, memory)
    return condition is None or compares(condition.op, value_of(condition.field, memory), condition.value)


def value_of(field: Field, memory: MemoryRecord) -> Any:
    """What a memory has in a field, None where it has nothing."""
    if field.name in Scope.__struct_fields__:
        return getattr(memory.scope, field.name)
    if field.name:
        return getattr(memory, field.name, None)
    value: Any = memory.metadata
    for key in field.path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def compares(op: str, value: Any, wanted: Any) -> bool:
    """Whether a comparison holds."""
    if op == "exists":
        return (value is not None) is wanted
    if op == "in":
        return any(compares("eq", value, option) for option in wanted)
    if wanted is None:
        return value is None
    if op == "contains" and isinstance(value, list):
        return any(compares("eq", element, wanted) for element in value)
    if isinstance(wanted, datetime) and isinstance(value, str):
        value = instant(value)
    return type_of(value) is type_of(wanted) and bool(OPERATORS[op](value, wanted))


def type_of(value: Any) -> type:
    """The type of a value, where all numbers are of one."""
    return float if type(value) is int else type(value)


def within(scope: Scope, asked: Scope) -> bool:
    """Whether a scope has the ids that another one sets."""
    pairs = ((getattr(scope, name), getattr(asked, name)) for name in Scope.__struct_fields__)
    return all(wanted is None or wanted == name for name, wanted in pairs)


def selected(memory: MemoryRecord, selection: Selection, now: datetime) -> bool:
    """Whether a selection means a memory."""
    at = selection.as_of or now
    ends = [end for end in (memory.expires_at, getattr(memory, "valid_to", None)) if end is not None]
    holds = all(end > at for end in ends) and (selection.as_of is None or memory.at <= at)
    return (
        within(memory.scope, selection.scope)
        and memory.kind in selection.kinds
        and (selection.everything or holds)
        and matches(selection.where, memory)
    )


def spoken(memory: MemoryRecord) -> str:
    """What a memory is found by."""
    speaker = memory.speaker if isinstance(memory, Turn) else None
    return f"{speaker or ''} {memory.text}"


def place_of(scope: Scope) -> list[tuple[bool, str]]:
    """What scopes are ordered by."""
    return [(name is not None, name or "") for name in (scope.user_id, scope.agent_id, scope.run_id)]
