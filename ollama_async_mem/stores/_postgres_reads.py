"""Reading memories: rows, listings, neighbours and counts. Each function is one statement, and so one snapshot.

Before that, those who have nothing but ids ask whose memories they are.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, cast

import msgspec

from ollama_async_mem.counts import Counts, ScopeCounts, Statistics
from ollama_async_mem.errors import ConfigError, RecordNotFound
from ollama_async_mem.records import EmbeddingSpace, Page

from ._checks import decode_cursor, encode_cursor
from ._json import read_json
from ._postgres_filters import Values
from ._postgres_rows import BY_KEY, COLUMNS, as_memory, as_scope, as_time, written_scope
from ._postgres_selection import scope_sql, selection_sql
from ._postgres_text import read, write

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ollama_async_mem.records import MemoryRecord, Scope, Selection, Sort, Turn

    from ._postgres_pool import Connection

__all__ = [
    "count",
    "from_micros",
    "get",
    "get_many",
    "keys_of",
    "list_page",
    "micros",
    "neighbours",
    "read_space",
    "scopes",
    "statistics",
    "users_of",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


async def read_space(conn: Connection) -> EmbeddingSpace | None:
    """Which vectors the store holds."""
    value = await conn.fetchval("SELECT value FROM meta WHERE key = 'embedding_space'")
    return _as_space(value)


def _as_space(value: str | None) -> EmbeddingSpace | None:
    return msgspec.convert(read_json(value), EmbeddingSpace) if value else None


async def get(conn: Connection, memory_id: str) -> MemoryRecord:
    """Read one memory.

    Raises:
        RecordNotFound: there is none with this id.
    """
    for memory in await get_many(conn, [memory_id]):
        return memory
    raise RecordNotFound(memory_id)


async def get_many(conn: Connection, memory_ids: Sequence[str]) -> list[MemoryRecord]:
    """Read memories in the order of their ids, without those that are not there."""
    wanted = [write(memory_id) for memory_id in memory_ids]
    rows = await conn.fetch(f"SELECT {COLUMNS} FROM memories WHERE {BY_KEY}", *await keys_of(conn, wanted))  # noqa: S608 - column names only
    found = {row["id"]: as_memory(row) for row in rows}
    return [found[memory_id] for memory_id in wanted if memory_id in found]


async def keys_of(conn: Connection, ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """Read whose memories some ids are: the users and the ids of those that are there, for `BY_KEY`."""
    users = await users_of(conn, ids)
    return list(set(users.values())), list(users)


async def users_of(conn: Connection, ids: Sequence[str]) -> dict[str, str]:
    """Read whose memories some ids are: the user of each that is there."""
    sql = "SELECT id, user_id FROM ids WHERE id = ANY ($1) AND is_there"
    return dict(await conn.fetch(sql, ids)) if ids else {}


async def list_page(
    conn: Connection, selection: Selection, *, limit: int, cursor: str | None, sort: Sort, now: datetime
) -> Page:
    """Read a page; the cursor is the place after its last memory, so inserts do not shift it."""
    column, order, after = (sort[1:], "DESC", "<") if sort.startswith("-") else (sort, "ASC", ">")
    values = Values()
    condition = selection_sql(selection, values, now)
    if cursor is not None:
        at, memory_id = decode_cursor(cursor, sort, tuple[str, int, str])[1:]
        place = f"{values.add(from_micros(at), 'timestamptz')}, {values.add(write(memory_id), 'text')}"
        condition += f" AND (memories.{column}, memories.id) {after} ({place})"
    sql = f"""
        SELECT {COLUMNS} FROM memories WHERE {condition}
        ORDER BY memories.{column} {order}, memories.id {order} LIMIT {limit + 1:d}
    """  # noqa: S608 - column names and slots only
    rows = await conn.fetch(sql, *values)
    last = rows[limit - 1] if len(rows) > limit else None
    more = last and encode_cursor(sort, (micros(last[column]), read(last["id"])))
    return Page(tuple(map(as_memory, rows[:limit])), more)


def micros(at: datetime) -> int:
    """Microseconds since 1970 of a time of a column."""
    return (as_time(at) - _EPOCH) // timedelta(microseconds=1)


def from_micros(at: int) -> datetime:
    """The other way.

    Raises:
        ConfigError: there is no such time, and so no such cursor.
    """
    try:
        return _EPOCH + timedelta(microseconds=at)
    except OverflowError as exc:
        raise ConfigError("the cursor is not one that a page of this listing had") from exc


async def neighbours(
    conn: Connection, turn_ids: Sequence[str], before: int, after: int, now: datetime
) -> dict[str, list[Turn]]:
    """Read the turns before and after each of some turns in its scope, without expired ones."""
    keys = await keys_of(conn, [write(turn_id) for turn_id in turn_ids])
    places = await conn.fetch(_NEIGHBOURS, *keys, now, before, after)
    found = {row["id"]: cast("Turn", as_memory(row)) for row in places if row["id"] is not None}
    around: dict[str, list[Turn]] = {}
    for row in places:
        near = around.setdefault(read(row["centre"]), [])
        if row["id"] is not None:
            near.append(found[row["id"]])
    return around


_AROUND = """
(SELECT {columns} FROM memories WHERE memories.user_id = centre.user_id AND memories.agent_id = centre.agent_id
  AND memories.run_id = centre.run_id AND (memories.at, memories.id) {than} (centre.at, centre.id)
  AND memories.kind = 'turn' AND (memories.expires_at IS NULL OR memories.expires_at > $3)
  AND memories.user_id = ANY ($1)
ORDER BY memories.at {order}, memories.id {order} LIMIT {limit})
"""
_NEIGHBOURS = f"""
SELECT centre.id AS centre, memories.* FROM (
  SELECT memories.user_id, agent_id, run_id, at, memories.id FROM memories WHERE {BY_KEY} AND kind = 'turn'
) AS centre LEFT JOIN LATERAL (
  {_AROUND.format(columns=COLUMNS, than="<", order="DESC", limit="$4")} UNION ALL
  {_AROUND.format(columns=COLUMNS, than=">", order="ASC", limit="$5")}
) AS memories ON TRUE ORDER BY centre.id, memories.at, memories.id
"""  # noqa: S608 - column names only


async def count(conn: Connection, scope: Scope) -> Counts:
    """Count the memories of a scope by kind, those that no longer hold among them."""
    values = Values()
    sql = f"SELECT kind, count(*) FROM memories WHERE {scope_sql(scope, values)} GROUP BY kind"  # noqa: S608 - column names and slots only
    kinds = dict(await conn.fetch(sql, *values))
    return Counts(kinds.get("turn", 0), kinds.get("fact", 0))


async def scopes(conn: Connection, scope: Scope, limit: int, after: Scope | None) -> list[ScopeCounts]:
    """Read the scopes that hold memories, in the order of their ids."""
    values = Values()
    condition = scope_sql(scope, values)
    if after is not None:
        place = ", ".join(values.add(name, "text") for name in written_scope(after))
        condition += f" AND (user_id, agent_id, run_id) > ({place})"
    sql = f"""
        SELECT user_id, agent_id, run_id, max(at) AS newest,
          count(*) FILTER (WHERE kind = 'turn') AS turns, count(*) FILTER (WHERE kind = 'fact') AS facts
        FROM memories WHERE {condition} GROUP BY user_id, agent_id, run_id
        ORDER BY user_id, agent_id, run_id LIMIT {limit:d}
    """  # noqa: S608 - column names and slots only
    rows = await conn.fetch(sql, *values)
    return [ScopeCounts(as_scope(row), row["turns"], row["facts"], as_time(row["newest"])) for row in rows]


async def statistics(conn: Connection, now: datetime, schema_version: int) -> Statistics:
    """Count all there is."""
    row = await conn.fetchrow(_STATISTICS, now)
    return Statistics(**{**row, "schema_version": schema_version, "space": _as_space(row["space"])})


_STATISTICS = """
SELECT
  count(*) FILTER (WHERE kind = 'turn') AS turns, count(*) FILTER (WHERE kind = 'fact') AS facts,
  count(*) FILTER (WHERE valid_to <= $1) AS superseded, count(*) FILTER (WHERE expires_at <= $1) AS expired,
  (SELECT count(*) FROM (SELECT DISTINCT user_id, agent_id, run_id FROM memories) AS s) AS scopes,
  (SELECT count(*) FROM jobs WHERE state = 'queued') AS jobs_queued,
  (SELECT count(*) FROM jobs WHERE state = 'dead') AS jobs_dead,
  (SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class
    WHERE relkind = 'r' AND relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'memories'::regclass)
  ) AS size_bytes,
  (SELECT value FROM meta WHERE key = 'embedding_space') AS space
FROM memories
"""
