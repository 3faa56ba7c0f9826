"""Filters that are about the time of a memory alone, answered from rows in memory: a query that names days has one."""

from __future__ import annotations

import operator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ollama_async_mem.filters import AllOf, AnyOf, Compare, Field

from ._sqlite_values import micros

if TYPE_CHECKING:
    from collections.abc import Callable

    from ollama_async_mem.filters import Condition

    from ._vectors import Ids, Mask

__all__ = ["is_of_time", "said_when"]

_AT: Final = Field("at")
_ORDER: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}


def is_of_time(condition: Condition) -> bool:
    """Tell whether a filter only says before or after which instants something was said."""
    if isinstance(condition, AllOf | AnyOf):
        return bool(condition.parts) and all(map(is_of_time, condition.parts))
    if not isinstance(condition, Compare) or condition.field != _AT:
        return False
    return condition.op in _ORDER and isinstance(condition.value, datetime)


def said_when(condition: Condition, at: Ids) -> Mask:
    """Which of some times, in microseconds, such a filter lets through."""
    if isinstance(condition, Compare):
        assert isinstance(condition.value, datetime)  # noqa: S101 - for the type checker
        found: Mask = _ORDER[condition.op](at, micros(condition.value))
        return found
    assert isinstance(condition, AllOf | AnyOf)  # noqa: S101 - as above
    join = np.logical_and if isinstance(condition, AllOf) else np.logical_or
    joined: Mask = join.reduce([said_when(part, at) for part in condition.parts])
    return joined
