"""Dumping what a store holds, and loading what another one dumped. Each function runs inside one transaction."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, cast

import numpy as np
from msgspec.structs import replace

from ollama_async_mem.errors import StoreError
from ollama_async_mem.records import Fact, StoredJob, StoredMemory, Turn

from ._checks import decode_cursor, encode_cursor
from ._postgres_events import insert_events, read_lives
from ._postgres_filters import Values
from ._postgres_jobs import end_jobs_of, with_turns
from ._postgres_reads import from_micros, micros
from ._postgres_rows import COLUMNS, as_memory, as_scope, prepare, read_or_none, unpack
from ._postgres_selection import scope_sql
from ._postgres_text import read, write, write_name
from ._postgres_writes import bind_space, insert_taken, present, queue, take_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ollama_async_mem.ports import Vector
    from ollama_async_mem.records import EmbeddingSpace, Event, MemoryRecord, Scope

    from ._postgres_pool import Connection
    from ._postgres_rows import Row

__all__ = ["dump", "dump_jobs", "load"]

PAGE_BYTES = 8 << 20
KINDS = frozenset(("updated", "reinforced", "superseded"))


async def dump(conn: Connection, scope: Scope, limit: int, cursor: str | None) -> tuple[list[StoredMemory], str | None]:
    """Read a page of memories with all that belongs to them: turns before facts, each by time."""
    place = None if cursor is None else decode_cursor(cursor, "dump", tuple[str, str, int, str])[1:]
    rows: list[Row] = []
    for kind in ("turn", "fact") if place is None or place[0] == "turn" else ("fact",):
        after = place[1:] if place and place[0] == kind else None
        rows += await _rows(conn, scope, kind, after, limit + 1 - len(rows))
    fitting = sum(size <= PAGE_BYTES for size in accumulate(row["size"] for row in rows))
    shown = rows[: min(limit, max(fitting, 1))]
    lives = await read_lives(conn, shown)
    stored = [_stored(row, lives) for row in shown]
    if len(rows) == len(shown):
        return stored, None
    last = shown[-1]
    return stored, encode_cursor("dump", (last["kind"], micros(last["at"]), read(last["id"])))


async def _rows(conn: Connection, scope: Scope, kind: str, after: tuple[int, str] | None, limit: int) -> Sequence[Row]:
    """Read memories of a kind, with their sizes, up to the first one with which a page is too large."""
    values = Values()
    condition = f"{scope_sql(scope, values)} AND kind = '{kind}'"
    if after is not None:
        at, memory_id = from_micros(after[0]), write(after[1])
        condition += f" AND (at, id) > ({values.add(at, 'timestamptz')}, {values.add(memory_id, 'text')})"
    sql = f"""
        SELECT * FROM (
          SELECT {COLUMNS}, embedding, {_SIZE} AS size,
            row_number() OVER place AS number, sum({_SIZE}) OVER place AS total
          FROM memories WHERE {condition} WINDOW place AS (ORDER BY at, id ROWS UNBOUNDED PRECEDING)
          ORDER BY at, id LIMIT {limit:d}
        ) AS page WHERE number <= 2 OR total - size <= {PAGE_BYTES} ORDER BY at, id
    """  # noqa: S608 - column names and slots only
    return cast("Sequence[Row]", await conn.fetch(sql, *values))


_SIZE = "octet_length(text) + coalesce(octet_length(metadata::text), 0)"


def _stored(row: Row, lives: dict[str, tuple[Event, ...]]) -> StoredMemory:
    memory = as_memory(row)
    return StoredMemory(memory=memory, vector=unpack(row["embedding"]).tobytes(), events=lives.get(memory.id, ()))


async def dump_jobs(conn: Connection, scope: Scope) -> list[StoredJob]:
    """Read the jobs of a scope, oldest first."""
    values = Values()
    sql = f"SELECT * FROM jobs WHERE {scope_sql(scope, values, 'jobs')} ORDER BY seq"  # noqa: S608 - column names and slots only
    return [
        StoredJob(
            id=read(row["id"]),
            scope=as_scope(row),
            turn_ids=tuple(map(read, row["turn_ids"])),
            state=row["state"],
            attempts=row["claims"] - row["returned"],
            error=read_or_none(row["last_error"]),
            prompt=read_or_none(row["prompt"]),
        )
        for row in await conn.fetch(sql, *values)
    ]


async def load(
    conn: Connection, memories: Sequence[StoredMemory], jobs: Sequence[StoredJob], space: EmbeddingSpace, where: str
) -> int:
    """Store what is not there yet; returns how many memories that was.

    Raises:
        EmbeddingMismatch: the store holds vectors of another space.
        StoreError: a memory cannot be stored.
    """
    given = {write(s.memory.id): s for s in reversed(memories)}
    free = await take_ids(conn, {key: write_name(s.memory.scope.user_id) for key, s in given.items()})
    new = [s for key, s in given.items() if key in free]
    if new:
        await bind_space(conn, space, where)
    turns = [s for s in new if isinstance(s.memory, Turn)]
    await _insert(conn, turns, [s.memory for s in turns], space, where)
    facts = [(s, s.memory) for s in new if isinstance(s.memory, Fact)]
    linked = await with_turns(conn, [fact for _, fact in facts])
    await _insert(conn, [s for s, _ in facts], linked, space, where)
    await end_jobs_of(conn, [turn_id for fact in linked for turn_id in fact.turn_ids])
    for job in jobs:
        await _load_job(conn, job)
    return len(new)


async def _insert(
    conn: Connection,
    stored: Sequence[StoredMemory],
    memories: Sequence[MemoryRecord],
    space: EmbeddingSpace,
    where: str,
) -> None:
    """Store memories, as they are to be linked, with what happened to them."""
    rows, _ = await prepare(memories, [_vector(s, space) for s in stored], model=space.model, where=where)
    await insert_taken(conn, rows)
    told = ((write_name(s.memory.scope.user_id), event) for s in stored for event in s.events)
    await insert_events(conn, [(user, event) for user, event in told if event.kind in KINDS])


async def _load_job(conn: Connection, job: StoredJob) -> None:
    """Queue a job, unless it is there, or its turns are gone or have facts: then it was loaded and done before."""
    there = await present(conn, job.turn_ids)
    if there and not await conn.fetchval(_IS_DONE, list(map(write, there)), write(job.id)):
        await queue(conn, [replace(job, turn_ids=tuple(i for i in job.turn_ids if i in there))])


_IS_DONE = """
SELECT EXISTS (SELECT FROM memories WHERE turn_ids && $1) OR EXISTS (SELECT FROM jobs WHERE id = $2)
"""


def _vector(stored: StoredMemory, space: EmbeddingSpace) -> Vector:
    """The vector of a memory, of the length that its space says."""
    if len(stored.vector) != 4 * space.dimension:
        raise StoreError(
            f"the vector of {stored.memory.id!r} has {len(stored.vector)} bytes, not 4 for each of {space.dimension}"
        )
    return np.frombuffer(stored.vector, "<f4")
