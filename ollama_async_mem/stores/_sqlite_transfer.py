"""Dumping what a store holds, and loading what another one dumped. Each function runs inside one transaction."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from ollama_async_mem.errors import StoreError
from ollama_async_mem.records import Fact, StoredJob, StoredMemory

from ._checks import decode_cursor, encode_cursor, require_space
from ._sqlite_events import life, restore
from ._sqlite_inserts import insert_memories, link, turn_seqs
from ._sqlite_jobs import JOB_TURNS, end, queue
from ._sqlite_rows import find, load_rows, read_scope, read_space
from ._sqlite_selection import resolve

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from ollama_async_mem.ports import Vector
    from ollama_async_mem.records import EmbeddingSpace, Scope

__all__ = ["dump", "dump_jobs", "load"]

PAGE_BYTES = 8 << 20
_BEGIN = ("turn", -1, 0, "")


def dump(
    conn: sqlite3.Connection, scope: Scope, limit: int, cursor: str | None
) -> tuple[list[StoredMemory], str | None]:
    """Read a page of memories with all that belongs to them: turns before facts, and of those scope by scope."""
    place = _BEGIN if cursor is None else decode_cursor(cursor, "dump", tuple[str, str, int, int, str])[1:]
    keys = resolve(conn, scope)
    if keys is None:
        return [], None
    rows: list[tuple[int, str, int, int, str, int]] = []
    for kind in ("turn", "fact") if place[0] == "turn" else ("fact",):
        after = place[1:] if place[0] == kind else _BEGIN[1:]
        rows += conn.execute(
            f"""
            SELECT seq, kind, scope_id, at, id, {_SIZE} FROM memories
            WHERE {keys.sql()} AND kind = ? AND (scope_id, at, id) > (?, ?, ?) ORDER BY scope_id, at, id LIMIT ?
            """,  # noqa: S608 - column names only
            (*keys.keys, kind, *after, limit + 1 - len(rows)),
        ).fetchall()
    fitting = sum(size <= PAGE_BYTES for size in accumulate(row[5] for row in rows))
    shown = rows[: min(limit, max(fitting, 1))]
    more = encode_cursor("dump", shown[-1][1:5]) if len(rows) > len(shown) else None
    return _stored(conn, [row[0] for row in shown]), more


_SIZE = """
  length(CAST(text AS BLOB)) + coalesce(length(CAST(metadata AS BLOB)), 0) + (
    SELECT total(coalesce(length(CAST(old AS BLOB)), 0) + coalesce(length(CAST(new AS BLOB)), 0))
    FROM events WHERE memory_id = memories.id)
"""


def _stored(conn: sqlite3.Connection, seqs: Sequence[int]) -> list[StoredMemory]:
    memories = load_rows(conn, seqs)
    sql = "SELECT embedding FROM vectors WHERE seq = ?"
    vectors = [conn.execute(sql, (seq,)).fetchone()[0] for seq in seqs]
    return [
        StoredMemory(memory=memories[seq], vector=vector, events=life(conn, memories[seq].id))
        for seq, vector in zip(seqs, vectors, strict=True)
    ]


def dump_jobs(conn: sqlite3.Connection, scope: Scope) -> list[StoredJob]:
    """Read the jobs of a scope, oldest first."""
    keys = resolve(conn, scope)
    if keys is None:
        return []
    columns = "seq, id, scope_id, state, claims - returned, last_error, prompt"
    sql = f"SELECT {columns} FROM jobs WHERE {keys.sql('scope_id')} ORDER BY seq"  # noqa: S608 - column names only
    return [
        StoredJob(
            id=job_id,
            scope=read_scope(conn, scope_id),
            turn_ids=tuple(row[0] for row in conn.execute(JOB_TURNS, (seq,))),
            state=state,
            attempts=attempts,
            error=error,
            prompt=prompt,
        )
        for seq, job_id, scope_id, state, attempts, error, prompt in conn.execute(sql, keys.keys).fetchall()
    ]


def load(
    conn: sqlite3.Connection,
    memories: Sequence[StoredMemory],
    jobs: Sequence[StoredJob],
    *,
    space: EmbeddingSpace,
    where: str,
) -> int:
    """Store what is not there yet; returns how many memories that was.

    Raises:
        EmbeddingMismatch: the store holds vectors of another space.
        StoreError: a memory cannot be stored.
    """
    if (bound := read_space(conn)) is not None:
        require_space(bound, space, where)
    count = 0
    # Facts after turns, whatever the order: a fact is linked to turns that are there
    for stored in sorted(memories, key=lambda stored: isinstance(stored.memory, Fact)):
        memory = stored.memory
        if find(conn, "SELECT 1 FROM memories WHERE id = ?", memory.id) is None:
            (seq,) = insert_memories(conn, [memory], [_vector(stored, space)], model=space.model, where=where)
            link(conn, seq, turn_seqs(conn, memory.turn_ids) if isinstance(memory, Fact) else [])
            for (job_id,) in conn.execute(_JOBS_OF_FACT, (seq,)).fetchall():
                end(conn, job_id)
            restore(conn, stored.events)
            count += 1
    for job in jobs:
        _load_job(conn, job)
    return count


_JOBS_OF_FACT = (
    "SELECT DISTINCT id FROM links JOIN job_turns USING (turn_seq) JOIN jobs ON seq = job_seq WHERE fact_seq = ?"
)


def _load_job(conn: sqlite3.Connection, job: StoredJob) -> None:
    """Queue a job, unless it is there, its turns are gone, or they have facts: then it was loaded and done before."""
    seqs = turn_seqs(conn, job.turn_ids)
    known = find(conn, "SELECT 1 FROM jobs WHERE id = ?", job.id)
    has_facts = any(conn.execute("SELECT 1 FROM links WHERE turn_seq = ?", (seq,)).fetchone() for seq in seqs)
    if seqs and not known and not has_facts:
        queue(conn, job, seqs)


def _vector(stored: StoredMemory, space: EmbeddingSpace) -> Vector:
    """The vector of a memory, of the length that its space says."""
    if len(stored.vector) != 4 * space.dimension:
        raise StoreError(
            f"the vector of {stored.memory.id!r} has {len(stored.vector)} bytes, not 4 for each of {space.dimension}"
        )
    return np.frombuffer(stored.vector, "<f4")
