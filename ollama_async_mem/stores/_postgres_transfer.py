"""Dumping what a store holds, and loading what another one dumped. Each function runs inside one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
from msgspec.structs import replace

from ollama_async_mem.errors import StoreError
from ollama_async_mem.records import Fact, StoredJob, StoredMemory, Turn

from ._checks import decode_cursor, encode_cursor
from ._postgres_events import insert_events, read_lives
from ._postgres_filters import Values
from ._postgres_jobs import with_turns
from ._postgres_reads import from_micros, micros
from ._postgres_rows import COLUMNS, as_memory, as_scope, prepare, read_or_none, unpack
from ._postgres_selection import scope_sql
from ._postgres_text import read, write, write_name
from ._postgres_writes import bind_space, insert, queue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ollama_async_mem.ports import Vector
    from ollama_async_mem.records import EmbeddingSpace, Event, MemoryRecord, Scope

    from ._postgres_pool import Connection
    from ._postgres_rows import Row

__all__ = ["dump", "dump_jobs", "load"]


async def dump(conn: Connection, scope: Scope, limit: int, cursor: str | None) -> tuple[list[StoredMemory], str | None]:
    """Read a page of memories with all that belongs to them: turns before facts, each by time."""
    place = None if cursor is None else decode_cursor(cursor, "dump", tuple[str, str, int, str])[1:]
    rows: list[Row] = []
    for kind in ("turn", "fact") if place is None or place[0] == "turn" else ("fact",):
        after = place[1:] if place and place[0] == kind else None
        rows += await _rows(conn, scope, kind, after, limit + 1 - len(rows))
    shown = rows[:limit]
    lives = await read_lives(conn, [read(row["id"]) for row in shown])
    stored = [_stored(row, lives) for row in shown]
    if len(rows) <= limit:
        return stored, None
    last = shown[-1]
    return stored, encode_cursor("dump", (last["kind"], micros(last["at"]), read(last["id"])))


async def _rows(conn: Connection, scope: Scope, kind: str, after: tuple[int, str] | None, limit: int) -> Sequence[Row]:
    values = Values()
    condition = f"{scope_sql(scope, values)} AND kind = '{kind}'"
    if after is not None:
        at, memory_id = from_micros(after[0]), write(after[1])
        condition += f" AND (at, id) > ({values.add(at, 'timestamptz')}, {values.add(memory_id, 'text')})"
    sql = f"SELECT {COLUMNS}, embedding FROM memories WHERE {condition} ORDER BY at, id LIMIT {limit:d}"  # noqa: S608 - column names and slots only
    return cast("Sequence[Row]", await conn.fetch(sql, *values))


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
    there = await conn.fetch("SELECT id FROM memories WHERE id = ANY ($1)", [write(s.memory.id) for s in memories])
    known = {read(row["id"]) for row in there}
    new = list({s.memory.id: s for s in reversed(memories) if s.memory.id not in known}.values())
    if new:
        await bind_space(conn, space, where)
    turns = [s for s in new if isinstance(s.memory, Turn)]
    await _insert(conn, turns, [s.memory for s in turns], space, where)
    facts = [(s, s.memory) for s in new if isinstance(s.memory, Fact)]
    await _insert(conn, [s for s, _ in facts], await with_turns(conn, [fact for _, fact in facts]), space, where)
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
    await insert(conn, rows)
    told = ((write_name(s.memory.scope.user_id), event) for s in stored for event in s.events)
    await insert_events(conn, [(user, event) for user, event in told if event.kind in {"updated", "superseded"}])


async def _load_job(conn: Connection, job: StoredJob) -> None:
    """Queue a job, unless it is there, or its turns are gone or have facts: then it was loaded and done before."""
    ids = await conn.fetch(
        "SELECT id FROM memories WHERE id = ANY ($1) AND kind = 'turn'", list(map(write, job.turn_ids))
    )
    there = {row["id"] for row in ids}
    if there and not await conn.fetchval("SELECT TRUE FROM memories WHERE turn_ids && $1 LIMIT 1", list(there)):
        await queue(conn, [replace(job, turn_ids=tuple(i for i in job.turn_ids if write(i) in there))])


def _vector(stored: StoredMemory, space: EmbeddingSpace) -> Vector:
    """The vector of a memory, of the length that its space says."""
    if len(stored.vector) != 4 * space.dimension:
        raise StoreError(
            f"the vector of {stored.memory.id!r} has {len(stored.vector)} bytes, not 4 for each of {space.dimension}"
        )
    return np.frombuffer(stored.vector, "<f4")
