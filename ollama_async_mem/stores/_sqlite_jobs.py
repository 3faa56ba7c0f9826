"""The durable queue of turns whose facts are still to be extracted. Each function runs inside one transaction.

A turn that is deleted leaves the jobs that wait for it, so a job may come out with fewer turns than went in.
The number of claims is the fencing token of each: who was overtaken by another claim can no longer end the job.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollama_async_mem.errors import StoreError
from ollama_async_mem.records import Job, new_id

from ._sqlite_reads import micros, read_scope
from ._sqlite_writes import insert_memories, scope_id
from ._text import clean

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
    from datetime import datetime, timedelta

    from ollama_async_mem.ports import Vector
    from ollama_async_mem.records import Fact, Turn

__all__ = ["add_turns_and_job", "claim", "finish", "pending", "release"]


def add_turns_and_job(
    conn: sqlite3.Connection, memories: Sequence[Turn], vectors: Sequence[Vector], *, model: str, where: str
) -> str | None:
    """Store turns of one scope and queue one job for them; returns its id.

    Raises:
        StoreError: the turns belong to different scopes.
    """
    if not memories:
        return None
    if any(turn.scope != memories[0].scope for turn in memories):
        raise StoreError("one extraction job takes turns of one scope; add those of others by themselves")
    seqs = insert_memories(conn, memories, vectors, model=model, where=where)
    job_id = new_id()
    sql = "INSERT INTO jobs (id, scope_id) VALUES (?, ?)"
    job_seq = conn.execute(sql, (job_id, scope_id(conn, memories[0].scope))).lastrowid
    conn.executemany(
        "INSERT INTO job_turns (job_seq, position, turn_seq) VALUES (?, ?, ?)",
        [(job_seq, position, seq) for position, seq in enumerate(seqs)],
    )
    return job_id


def claim(conn: sqlite3.Connection, now: datetime, lease: timedelta) -> Job | None:
    """Take the oldest job that is due and not leased."""
    rows = conn.execute(_CLAIM, {"now": micros(now), "until": micros(now + lease)}).fetchall()
    if not rows:
        return None
    seq, job_id, scope, attempts = rows[0]
    turns = conn.execute(_JOB_TURNS, (seq,)).fetchall()
    return Job(id=job_id, scope=read_scope(conn, scope), turn_ids=tuple(row[0] for row in turns), attempts=attempts)


_CLAIM = """
UPDATE jobs SET attempts = attempts + 1, lease_until = :until
WHERE seq = (
  SELECT seq FROM jobs WHERE state = 'queued' AND next_try_at <= :now AND lease_until <= :now ORDER BY seq LIMIT 1
)
RETURNING seq, id, scope_id, attempts
"""

_JOB_TURNS = """
SELECT memories.id FROM job_turns JOIN memories ON seq = turn_seq WHERE job_seq = ? ORDER BY position
"""


def finish(
    conn: sqlite3.Connection, job: Job, facts: Sequence[Fact], vectors: Sequence[Vector], *, model: str, where: str
) -> None:
    """End a claimed job and store its facts, but those whose turns have all been deleted since.

    Raises:
        EmbeddingMismatch: the store holds vectors of another model or dimension.
        StoreError: there is no such job, or a fact cannot be stored.
    """
    if not _holds(conn, job):
        return
    if len(facts) != len(vectors):
        raise StoreError(f"{len(facts)} facts came with {len(vectors)} vectors")
    sources = [_turn_seqs(conn, fact) for fact in facts]
    kept = [i for i, fact in enumerate(facts) if sources[i] or not fact.turn_ids]
    seqs = insert_memories(conn, [facts[i] for i in kept], [vectors[i] for i in kept], model=model, where=where)
    for seq, i in zip(seqs, kept, strict=True):
        conn.executemany(
            "INSERT INTO links (fact_seq, position, turn_seq) VALUES (?, ?, ?)",
            [(seq, position, turn_seq) for position, turn_seq in enumerate(sources[i])],
        )
    conn.execute("DELETE FROM job_turns WHERE job_seq = (SELECT seq FROM jobs WHERE id = ?)", (job.id,))
    conn.execute("UPDATE jobs SET state = 'done', lease_until = 0 WHERE id = ?", (job.id,))


def release(conn: sqlite3.Connection, job: Job, error: str, retry_at: datetime | None) -> None:
    """Give a claimed job back, for later or for good.

    Raises:
        StoreError: there is no such job.
    """
    if not _holds(conn, job):
        return
    state, due = ("dead", 0) if retry_at is None else ("queued", micros(retry_at))
    conn.execute(
        "UPDATE jobs SET state = ?, next_try_at = ?, lease_until = 0, last_error = ? WHERE id = ?",
        (state, due, clean(error), job.id),
    )


def pending(conn: sqlite3.Connection) -> int:
    """Count the jobs that are neither done nor dead."""
    return int(conn.execute("SELECT count(*) FROM jobs WHERE state = 'queued'").fetchone()[0])


def _holds(conn: sqlite3.Connection, job: Job) -> bool:
    """Whether a claim stands: the job is neither done nor dead, and was not claimed again.

    Raises:
        StoreError: there is no such job.
    """
    row = conn.execute("SELECT state, attempts FROM jobs WHERE id = ?", (clean(job.id),)).fetchone()
    if row is None:
        raise StoreError(f"no job has the id {job.id!r}")
    return bool(row == ("queued", job.attempts))


def _turn_seqs(conn: sqlite3.Connection, fact: Fact) -> list[int]:
    """The rows of the turns that a fact was drawn from, as far as they still exist."""
    sql = "SELECT seq FROM memories WHERE id = ? AND kind = 'turn'"
    rows = [conn.execute(sql, (clean(turn_id),)).fetchone() for turn_id in fact.turn_ids]
    return [row[0] for row in rows if row]
