"""Reading memories: listings, neighbours and counts. Each function runs inside one snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from ollama_async_mem.counts import Counts, ScopeCounts, Statistics
from ollama_async_mem.records import Page, Scope, owned

from ._checks import decode_cursor, encode_cursor
from ._sqlite_rows import by_ids, gathered, load_rows, read_space, scope_of, shared_rows
from ._sqlite_selection import resolve, selection_sql
from ._sqlite_values import from_micros, intern_name, micros

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
    from datetime import datetime

    from ollama_async_mem.records import Selection, Sort, Turn

    from ._sqlite_filters import Sql
    from ._sqlite_selection import ScopeKeys

__all__ = ["count", "list_page", "list_sql", "neighbours", "scopes", "shared_neighbours", "statistics"]

_EARLIEST, _LATEST = -(1 << 63), (1 << 63) - 1


def list_page(
    conn: sqlite3.Connection, *, selection: Selection, limit: int, cursor: str | None, sort: Sort, now: datetime
) -> Page:
    """Read a page; the cursor is the place after its last memory, so inserts do not shift it."""
    place = (_LATEST if sort.startswith("-") else _EARLIEST, "")
    if cursor is not None:
        place = decode_cursor(cursor, sort, tuple[str, int, str])[1:]
    keys, chosen = resolve(conn, selection.scope), selection_sql(conn, selection, now)
    if keys is None or chosen is None:
        return Page(())
    sql, values = list_sql(keys, chosen, sort, place, limit + 1)
    rows = conn.execute(sql, values).fetchall()
    shown = rows[:limit]
    memories = load_rows(conn, [row[0] for row in shown])
    more = encode_cursor(sort, shown[-1][1:]) if len(rows) > limit else None
    return Page(tuple(memories[row[0]] for row in shown), more)


def list_sql(keys: ScopeKeys, chosen: Sql, sort: Sort, place: tuple[int, str], limit: int) -> Sql:
    """The query for the rows of a page. By `at` it goes along an index, of all memories or of each scope."""
    column, order, after = (sort[1:], "DESC", "<") if sort.startswith("-") else (sort, "ASC", ">")
    condition = f"{chosen[0]} AND (memories.{column}, memories.id) {after} (?, ?)"
    by = f"ORDER BY memories.{column} {order}, memories.id {order} LIMIT"
    if column != "at" or not keys.keys:
        return f"SELECT seq, {column}, id FROM memories WHERE {condition} {by} ?", [*chosen[1], *place, limit]  # noqa: S608 - column names only
    of_scope = f"SELECT seq FROM memories WHERE scope_id = s.id AND {condition} {by}"  # noqa: S608 - as above
    # What is on the page belongs to the scopes whose own first rows come first, of which there are as many at most
    sql = f"""
        SELECT seq, at, memories.id FROM (
          SELECT s.id FROM scopes AS s CROSS JOIN memories ON seq = ({of_scope} 1)
          WHERE {keys.sql("s.id")} {by} ?
        ) AS s CROSS JOIN memories ON seq IN ({of_scope} ?) {by} ?
    """  # noqa: S608 - as above
    return sql, [*chosen[1], *place, *keys.keys, limit, *chosen[1], *place, limit, limit]


def neighbours(
    conn: sqlite3.Connection, turn_ids: Sequence[str], before: int, after: int, now: datetime
) -> dict[str, list[Turn]]:
    """Read the turns before and after each of some in its scope, without expired ones."""
    found = shared_neighbours(conn, turn_ids, before, after, now)
    return {turn_id: [owned(turn) for turn in turns] for turn_id, turns in found.items()}


def shared_neighbours(
    conn: sqlite3.Connection, turn_ids: Sequence[str], before: int, after: int, now: datetime
) -> dict[str, list[Turn]]:
    """Read the same with records that are shared."""
    found: list[tuple[str, list[int], list[int]]] = []
    for condition, ids in by_ids(turn_ids):
        values = (micros(now), before, after, *ids)
        found += gathered(conn, "json_array(id, json(before), json(after))", f"{_NEIGHBOURS} AND {condition}", values)
    turns = shared_rows(conn, list({seq for _, *near in found for seqs in near for seq in seqs}))
    return {
        turn_id: sorted(
            (cast("Turn", turns[seq]) for seqs in near for seq in seqs), key=lambda turn: (turn.at, turn.id)
        )
        for turn_id, *near in found
    }


# The + lets SQLite look for both `at` and `id` in the index. With the bare column it looks for `at` alone, and walks
# through all turns that were said at once.
_NEAR = """
SELECT json_group_array(seq) FROM (
  SELECT seq FROM memories AS near
  WHERE scope_id = memories.scope_id AND (at, id) {than} (memories.at, +memories.id) AND kind = 'turn'
    AND (expires_at IS NULL OR expires_at > ?1)
  ORDER BY at {order}, id {order} LIMIT {limit}
)
"""
_NEIGHBOURS = f"""
SELECT id, ({_NEAR.format(than="<", order="DESC", limit="?2")}) AS before,
  ({_NEAR.format(than=">", order="ASC", limit="?3")}) AS after
FROM memories WHERE kind = 'turn'
"""  # noqa: S608 - from here


def count(conn: sqlite3.Connection, scope: Scope) -> Counts:
    """Count the memories of a scope by kind, those that no longer hold among them."""
    keys = resolve(conn, scope)
    if keys is None:
        return Counts(0, 0)
    sql = f"SELECT kind, count(*) FROM memories WHERE {keys.sql()} GROUP BY kind"  # noqa: S608 - column names only
    kinds = dict(conn.execute(sql, keys.keys).fetchall())
    return Counts(kinds.get("turn", 0), kinds.get("fact", 0))


def scopes(conn: sqlite3.Connection, scope: Scope, limit: int, after: Scope | None) -> list[ScopeCounts]:
    """Read the scopes that hold memories, in the order of their ids."""
    keys = resolve(conn, scope)
    if keys is None:
        return []
    place: list[Any] = []
    for name in (after.user_id, after.agent_id, after.run_id) if after is not None else ():
        place += [name is not None, intern_name(name or "")]
    is_later = f"({_BY_NAME}) > (?, ?, ?, ?, ?, ?)" if place else "TRUE"
    sql = f"{_SCOPES} WHERE {keys.sql('s.id')} AND {is_later} AND {_HAS_MEMORIES} ORDER BY {_BY_NAME} LIMIT ?"
    return [
        ScopeCounts(scope_of(names), turns, facts, from_micros(newest))
        for *names, turns, facts, newest in conn.execute(sql, (*keys.keys, *place, limit))
    ]


_HAS_MEMORIES = "EXISTS (SELECT 1 FROM memories WHERE scope_id = s.id)"
_BY_NAME = """
  user_key <> 0, coalesce(u.name, x''), agent_key <> 0, coalesce(a.name, x''), run_key <> 0, coalesce(r.name, x'')
"""
_SCOPES = """
SELECT u.name, a.name, r.name,
  (SELECT count(*) FROM memories WHERE scope_id = s.id AND kind = 'turn'),
  (SELECT count(*) FROM memories WHERE scope_id = s.id AND kind = 'fact'),
  (SELECT max(at) FROM memories WHERE scope_id = s.id)
FROM scopes AS s
LEFT JOIN names AS u ON u.key = user_key LEFT JOIN names AS a ON a.key = agent_key
LEFT JOIN names AS r ON r.key = run_key
"""


def statistics(conn: sqlite3.Connection, schema_version: int, now: datetime) -> Statistics:
    """Count all there is."""
    counts = count(conn, Scope())

    def number(sql: str, *values: Any) -> int:
        return int(conn.execute(f"SELECT count(*) FROM {sql}", values).fetchone()[0])  # noqa: S608 - written below

    pages, page_bytes = (conn.execute(f"PRAGMA page_{what}").fetchone()[0] for what in ("count", "size"))
    return Statistics(
        turns=counts.turns,
        facts=counts.facts,
        superseded=number("memories WHERE valid_to <= ?", micros(now)),
        expired=number("memories WHERE expires_at <= ?", micros(now)),
        scopes=number(f"scopes AS s WHERE {_HAS_MEMORIES}"),
        jobs_queued=number("jobs WHERE state = 'queued'"),
        jobs_dead=number("jobs WHERE state = 'dead'"),
        size_bytes=pages * page_bytes,
        schema_version=schema_version,
        space=read_space(conn),
    )
