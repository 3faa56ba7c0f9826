"""Which rows of `memories` a `Selection` means, as conditions in SQL. Values are parameters, never text in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ._sqlite_filters import condition_sql
from ._sqlite_values import intern_name, micros
from ._sqlite_work import memo_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from ollama_async_mem.records import Scope, Selection

    from ._sqlite_filters import Sql

__all__ = ["ScopeKeys", "all_of", "resolve", "selection_sql"]

MAX_MEMO = 10_000

_KINDS = frozenset(("turn", "fact"))


class ScopeKeys(NamedTuple):
    """A scope as the numbers of its ids; None is anything."""

    user_key: int | None
    agent_key: int | None
    run_key: int | None

    def sql(self, column: str = "memories.scope_id") -> str:
        """A condition on a column that holds the rows of scopes, with a `?` for each of `keys`."""
        columns = [f"{name} = ?" for name, key in zip(self._fields, self, strict=True) if key is not None]
        return f"{column} IN (SELECT id FROM scopes WHERE {' AND '.join(columns)})" if columns else "TRUE"  # noqa: S608 - column names only

    @property
    def keys(self) -> list[int]:
        """The numbers that are set."""
        return [key for key in self if key is not None]

    def phrases(self, classes: Sequence[str]) -> list[str]:
        """An FTS5 expression for each id, of the rows of some classes that have it; the spaces are for trigrams."""
        tokens = [f"{letter}{key}" for letter, key in zip("uar", self, strict=True) if key is not None]
        return [" OR ".join(f'scope : " {c}{token} "' for c in classes) for token in tokens or ["0"]]


def selection_sql(conn: sqlite3.Connection, selection: Selection, now: datetime) -> Sql | None:
    """Return the condition on `memories` that a selection stands for, with its parameters; None: there can be none.

    The query that it becomes a part of must have the table under its own name. The condition is never NULL.

    Raises:
        StoreError: `as_of` has no timezone or is out of range.
    """
    keys = resolve(conn, selection.scope)
    if keys is None or not selection.kinds:
        return None
    parts: list[Sql] = [(keys.sql(), [*keys.keys])] if keys.keys else []
    if set(selection.kinds) != _KINDS:
        parts.append(("memories.kind = ?", [selection.kinds[0]]))
    if not selection.everything:
        parts.append(_holding(selection.as_of, now))
    if selection.where is not None:
        parts.append(condition_sql(selection.where))
    return all_of(parts)


def _holding(as_of: datetime | None, now: datetime) -> Sql:
    """What is neither superseded nor expired now, or was at another time, when it also had been said."""
    at = micros(now if as_of is None else as_of)
    columns = ("memories.valid_to", "memories.expires_at")
    ends = " AND ".join(f"({column} IS NULL OR {column} > ?)" for column in columns)
    return (ends, [at, at]) if as_of is None else (f"{ends} AND memories.at <= ?", [at, at, at])


def all_of(parts: Iterable[Sql]) -> Sql:
    """Join conditions; without any, everything is meant."""
    parts = list(parts)
    return " AND ".join(sql for sql, _ in parts) or "TRUE", [value for _, values in parts for value in values]


def resolve(conn: sqlite3.Connection, scope: Scope) -> ScopeKeys | None:
    """Look the ids of a scope up; None when the store has never seen one of them."""
    keys: list[int | None] = []
    for name in (scope.user_id, scope.agent_id, scope.run_id):
        key = None if name is None else _key_of(conn, name)
        if key is None and name is not None:
            return None
        keys.append(key)
    return ScopeKeys(*keys)


def _key_of(conn: sqlite3.Connection, name: str) -> int | None:
    """The number of an id, which it keeps."""
    memo = memo_of(conn)
    if ("name", name) not in memo:
        row = conn.execute("SELECT key FROM names WHERE name = ?", (intern_name(name),)).fetchone()
        if row is None:
            return None
        if len(memo) > MAX_MEMO:
            memo.clear()
        memo["name", name] = row[0]
    key: int = memo["name", name]
    return key
