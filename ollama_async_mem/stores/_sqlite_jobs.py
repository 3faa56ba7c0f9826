"""The durable queue of turns whose facts are still to be extracted. Each function runs inside one transaction.

A turn that is deleted leaves the jobs that wait for it, so a job may come out with fewer turns than went in.
Each claim has a number, the fencing token: who was overtaken by another claim can no longer end the job.

A job that is done leaves no row. Ids are made in the order of time, so one that is missing and not newer than the
newest that was done is taken for one that is done.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ollama_async_mem.errors import StoreError
from ollama_async_mem.records import Job, JobStatus, StoredJob, new_id

from ._sqlite_events import Why
from ._sqlite_inserts import insert_memories, scope_id
from ._sqlite_rows import find, read_scope
from ._sqlite_values import from_micros, micros
from ._sqlite_writes import supersede
from ._text import clean

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
    from typing import Any

    from ollama_async_mem.ports import Vector
    from ollama_async_mem.records import Fact, Supersession, Turn

__all__ = [
    "JOB_TURNS",
    "add_turns_and_job",
    "claim",
    "finish",
    "give_back",
    "link",
    "pending",
    "queue",
    "release",
    "revive",
    "status",
    "turn_seqs",
    "unfinished",
]


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
    queue(conn, StoredJob(id=job_id, scope=memories[0].scope, turn_ids=()), seqs)
    return job_id


def queue(conn: sqlite3.Connection, job: StoredJob, seqs: Sequence[int]) -> None:
    """Store a job for the turns of these rows."""
    sql = "INSERT INTO jobs (id, scope_id, state, claims, last_error) VALUES (?, ?, ?, ?, ?)"
    error = None if job.error is None else clean(job.error)
    values = (clean(job.id), scope_id(conn, job.scope), job.state, job.attempts, error)
    job_seq = conn.execute(sql, values).lastrowid
    conn.executemany(
        "INSERT INTO job_turns (job_seq, position, turn_seq) VALUES (?, ?, ?)",
        [(job_seq, position, seq) for position, seq in enumerate(seqs)],
    )


def claim(conn: sqlite3.Connection, now: datetime, lease: timedelta) -> Job | None:
    """Take the oldest job that is due and not leased."""
    until = min(micros(now) + lease // timedelta(microseconds=1), _LATEST)
    rows = conn.execute(_CLAIM, {"now": micros(now), "until": until}).fetchall()
    if not rows:
        return None
    seq, job_id, scope, number, returned = rows[0]
    turn_ids = tuple(row[0] for row in conn.execute(JOB_TURNS, (seq,)).fetchall())
    return Job(id=job_id, scope=read_scope(conn, scope), turn_ids=turn_ids, attempts=number - returned, claim=number)


_LATEST = micros(datetime.max.replace(tzinfo=UTC))
_CLAIM = """
UPDATE jobs SET claims = claims + 1, lease_until = :until
WHERE seq = (
  SELECT seq FROM jobs WHERE state = 'queued' AND next_try_at <= :now AND lease_until <= :now ORDER BY seq LIMIT 1
)
RETURNING seq, id, scope_id, claims, returned
"""

JOB_TURNS = """
SELECT memories.id FROM job_turns JOIN memories ON seq = turn_seq WHERE job_seq = ? ORDER BY position
"""


def finish(
    conn: sqlite3.Connection,
    job: Job,
    facts: Sequence[Fact],
    vectors: Sequence[Vector],
    *,
    model: str,
    superseded: Sequence[Supersession],
    now: datetime,
    where: str,
) -> None:
    """End a claimed job, store its facts but those whose turns have all been deleted since, and end others.

    Raises:
        EmbeddingMismatch: the store holds vectors of another model or dimension.
        StoreError: there is no such job, or a fact cannot be stored.
    """
    if not _holds(conn, job):
        return
    if len(facts) != len(vectors):
        raise StoreError(f"{len(facts)} facts came with {len(vectors)} vectors")
    sources = [turn_seqs(conn, fact.turn_ids) for fact in facts]
    kept = [i for i, fact in enumerate(facts) if sources[i] or not fact.turn_ids]
    seqs = insert_memories(conn, [facts[i] for i in kept], [vectors[i] for i in kept], model=model, where=where)
    for seq, i in zip(seqs, kept, strict=True):
        link(conn, seq, sources[i])
    skipped = {fact.id for i, fact in enumerate(facts) if i not in kept}
    supersede(conn, [said for said in superseded if said.by not in skipped], Why(now), skip_missing=True)
    conn.execute("DELETE FROM jobs WHERE id = ?", (job.id,))
    conn.execute(_REMEMBER_DONE, (job.id,))


_REMEMBER_DONE = """
INSERT INTO meta (key, value) VALUES ('newest_job_done', ?)
ON CONFLICT (key) DO UPDATE SET value = max(value, excluded.value)
"""


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


def give_back(conn: sqlite3.Connection, job: Job) -> None:
    """Undo a claim.

    Raises:
        StoreError: there is no such job.
    """
    if _holds(conn, job):
        conn.execute(
            "UPDATE jobs SET returned = returned + 1, next_try_at = 0, lease_until = 0 WHERE id = ?", (job.id,)
        )


def revive(conn: sqlite3.Connection) -> int:
    """Queue the jobs again that were given up; returns how many there were."""
    sql = "UPDATE jobs SET state = 'queued', returned = claims, next_try_at = 0 WHERE state = 'dead'"
    return conn.execute(sql).rowcount


def pending(conn: sqlite3.Connection) -> int:
    """Count the jobs that are neither done nor dead."""
    return int(conn.execute("SELECT count(*) FROM jobs WHERE state = 'queued'").fetchone()[0])


def unfinished(conn: sqlite3.Connection, limit: int) -> list[JobStatus]:
    """Read how the jobs stand that are not done, oldest first."""
    rows = conn.execute(f"{_STATUS} ORDER BY seq LIMIT ?", (limit,)).fetchall()
    return [_status(conn, row) for row in rows]


def status(conn: sqlite3.Connection, job_id: str) -> JobStatus | None:
    """Read how one job stands, None when it is done.

    Raises:
        StoreError: there is no such job.
    """
    row = find(conn, f"{_STATUS} WHERE id = ?", job_id)
    if row is None:
        _require_done(conn, job_id)
        return None
    return _status(conn, row)


_STATUS = "SELECT id, scope_id, state, claims - returned, max(next_try_at, lease_until), last_error FROM jobs"


def _status(conn: sqlite3.Connection, row: tuple[Any, ...]) -> JobStatus:
    """A row of `_STATUS` as a record."""
    job_id, scope, state, attempts, due, error = row
    due_at = from_micros(due) if due and state == "queued" else None
    return JobStatus(
        id=job_id, scope=read_scope(conn, scope), state=state, attempts=attempts, due_at=due_at, error=error
    )


def _holds(conn: sqlite3.Connection, job: Job) -> bool:
    """Whether a claim stands: the job was neither ended nor given back nor claimed again.

    Raises:
        StoreError: there is no such job.
    """
    row = find(conn, "SELECT claims, lease_until FROM jobs WHERE id = ?", job.id)
    if row is None:
        _require_done(conn, job.id)
        return False
    return bool(row[0] == job.claim and row[1] > 0)


def _require_done(conn: sqlite3.Connection, job_id: str) -> None:
    """Check that a job without a row is one that is done.

    Raises:
        StoreError: there never was such a job.
    """
    newest = conn.execute("SELECT value FROM meta WHERE key = 'newest_job_done'").fetchone()
    if not (_ID.fullmatch(job_id) and newest and job_id <= newest[0]):
        raise StoreError(f"no job has the id {job_id!r}")


_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")  # of `records.new_id`


def turn_seqs(conn: sqlite3.Connection, turn_ids: Sequence[str]) -> list[int]:
    """The rows of turns, as far as they still exist."""
    sql = "SELECT seq FROM memories WHERE id = ? AND kind = 'turn'"
    rows = [find(conn, sql, turn_id) for turn_id in turn_ids]
    return [row[0] for row in rows if row]


def link(conn: sqlite3.Connection, fact_seq: int, turn_seqs: Sequence[int]) -> None:
    """Say which turns a fact was drawn from."""
    conn.executemany(
        "INSERT INTO links (fact_seq, position, turn_seq) VALUES (?, ?, ?)",
        [(fact_seq, position, turn_seq) for position, turn_seq in enumerate(turn_seqs)],
    )
