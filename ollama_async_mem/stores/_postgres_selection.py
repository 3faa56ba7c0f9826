"""Which rows of `memories` a `Selection` means, as conditions in SQL. Values are parameters, never text in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._postgres_filters import condition_sql
from ._postgres_rows import in_utc
from ._postgres_text import write_name

if TYPE_CHECKING:
    from datetime import datetime

    from ollama_async_mem.records import Scope, Selection

    from ._postgres_filters import Values

__all__ = ["scope_sql", "selection_sql"]

_KINDS = frozenset(("turn", "fact"))


def selection_sql(selection: Selection, values: Values, now: datetime) -> str:
    """Return the condition on `memories` that a selection stands for, which is never NULL, and add its parameters."""
    parts = [scope_sql(selection.scope, values)]
    if set(selection.kinds) != _KINDS:
        parts.append(f"memories.kind = ANY({values.add(list(selection.kinds), 'text[]')})")
    if not selection.everything:
        at = values.add(now if selection.as_of is None else in_utc(selection.as_of), "timestamptz")
        parts += [f"({column} IS NULL OR {column} > {at})" for column in ("memories.valid_to", "memories.expires_at")]
        if selection.as_of is not None:
            parts.append(f"memories.at <= {at}")
    if selection.where is not None:
        parts.append(condition_sql(selection.where, values))
    return " AND ".join(parts)


def scope_sql(scope: Scope, values: Values, table: str = "memories") -> str:
    """Return the condition that the rows of a table are of a scope, and add its parameters."""
    names = {"user_id": scope.user_id, "agent_id": scope.agent_id, "run_id": scope.run_id}
    given = {column: name for column, name in names.items() if name is not None}
    return " AND ".join(f"{table}.{c} = {values.add(write_name(n), 'text')}" for c, n in given.items()) or "TRUE"
