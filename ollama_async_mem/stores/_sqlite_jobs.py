"""The durable queue of turns whose facts are still to be extracted. Each function runs inside one transaction.

A turn that is deleted leaves the jobs that wait for it, so a job may come out with fewer turns than went in.
Each claim has a number, the fencing token: who was overtaken by another claim can no longer end the job. While one
of an owner is held no other of that owner is handed out.

A job that is done leaves no row. Ids are made in the order of time, so one that is missing and not newer than the
newest that was done is taken for one that is done.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ollama_async_mem.errors import StoreError
from ollama_async_mem.records import Job, JobStatus, Scope, StoredJob, Turn, new_id

from ._sqlite_events import Why
from ._sqlite_inserts import insert_memories, link, scope_id, turn_seqs
from ._sqlite_rows import find, read_scope
from ._sqlite_values import from_micros, micros
from ._sqlite_writes import forget_facts_of, reinforce, supersede, update
from ._text import clean, clean_or_none

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
    from typing import Any

    from ollama_async_mem.ports import Vector
    from ollama_async_mem.records import Change, Fact, MemoryRecord, Reinforcement, Supersession

__all__ = [
    "JOB_TURNS",
    "add_turns_and_job",
    "claim",
    "end",
    "finish",
    "give_back",
    "pending",
    "queue",
    "release",
    "renew",
    "revive",
    "status",
    "unfinished",
    "update_and_job",
]


def add_turns_and_job(
    conn: sqlite3.Connection,
    memories: Sequence[Turn],
    vectors: Sequence[Vector],
    *,
    model: str,
    where: str,
    prompt: str | None,
) -> str | None:
    """Store turns of one scope and queue one job for them, with its prompt; returns its id.

    Raises:
        StoreError: the turns belong to different scopes.
    """
    if not memories:
        return None
    if any(turn.scope != memories[0].scope for turn in memories):
        raise StoreError("one extraction job takes turns of one scope; add those of others by themselves")
    seqs = insert_memories(conn, memories, vectors, model=model, where=where)
    job_id = new_id()
    queue(conn, StoredJob(id=job_id, scope=memories[0].scope, turn_ids=(), prompt=prompt), seqs)
    return job_id


def queue(conn: sqlite3.Connection, job: StoredJob, seqs: Sequence[int]) -> None:
    """Store a job for the turns of these rows."""
    sql = "INSERT INTO jobs (id, scope_id, state, claims, last_error, prompt) VALUES (?, ?, ?, ?, ?, ?)"
    error, prompt = clean_or_none(job.error), clean_or_none(job.prompt)
    values = (clean(job.id), scope_id(conn, job.scope), job.state, job.attempts, error, prompt)
    job_seq = conn.execute(sql, values).lastrowid
    conn.executemany(
        "INSERT INTO job_turns (job_seq, position, turn_seq) VALUES (?, ?, ?)",
        [(job_seq, position, seq) for position, seq in enumerate(seqs)],
    )


def update_and_job(
    conn: sqlite3.Connection,
    memory_id: str,
    change: Change,
    vector: Vector | None,
    *,
    model: str,
    extract: bool | None,
    why: Why,
    where: str,
) -> MemoryRecord:
    """Change a memory. A turn with a new text loses its facts, and begins its jobs anew; returns it as it is now.

    Raises: as `_sqlite_writes.update`.
    """
    before, now = update(conn, memory_id, change, vector, model=model, why=why, where=where)
    if isinstance(now, Turn) and now.text != before.text:
        extract = _was_to_be_read(conn, now) if extract is None else extract
        forget_facts_of(conn, memory_id, why)
        _begin_anew(conn, now, extract=extract)
    return now


def _was_to_be_read(conn: sqlite3.Connection, turn: Turn) -> bool:
    """Whether a fact was drawn from a turn, or a job for it is not finished."""
    seqs = turn_seqs(conn, [turn.id])
    sql = "SELECT 1 FROM links WHERE turn_seq = ? UNION ALL SELECT 1 FROM job_turns WHERE turn_seq = ? LIMIT 1"
    return conn.execute(sql, seqs * 2).fetchone() is not None


def _begin_anew(conn: sqlite3.Connection, turn: Turn, *, extract: bool) -> None:
    """End the claims on jobs of a turn, for they are about its old text; where no job waits for it, queue one."""
    seqs = turn_seqs(conn, [turn.id])
    conn.execute(f"{_GIVE_BACK_ALL} AND {_OF_TURN}", seqs)
    if extract and not conn.execute(f"SELECT 1 FROM jobs WHERE state = 'queued' AND {_OF_TURN}", seqs).fetchone():  # noqa: S608 - from here
        queue(conn, StoredJob(id=new_id(), scope=turn.scope, turn_ids=()), seqs)


_OF_TURN = "seq IN (SELECT job_seq FROM job_turns WHERE turn_seq = ?)"


def claim(conn: sqlite3.Connection, now: datetime, lease: timedelta, limit: int) -> list[Job]:
    """Take the oldest job that is due, of an owner of whom nobody holds one, and others of its scope."""
    at = {"now": micros(now), "until": _until(now, lease), "limit": limit}
    rows = conn.execute(_CLAIM, at).fetchall()
    scope = read_scope(conn, rows[0][2]) if rows else Scope()
    return [
        Job(
            id=job_id,
            scope=scope,
            turn_ids=_turn_ids(conn, seq),
            attempts=number - returned,
            claim=number,
            prompt=prompt,
        )
        for seq, job_id, _, number, returned, prompt in sorted(rows)
    ]


# Whoever holds a job has its `lease_until` set; `jobs_leased` has few rows whatever there is to do
_OWNER = "user_key, agent_key, CASE WHEN user_key = 0 AND agent_key = 0 THEN run_key ELSE 0 END"
_CLAIM = f"""
UPDATE jobs SET claims = claims + 1, lease_until = :until
WHERE seq IN (
  SELECT seq FROM jobs
  WHERE state = 'queued' AND next_try_at <= :now AND scope_id = (
    SELECT scope_id FROM jobs JOIN scopes ON scopes.id = scope_id
    WHERE state = 'queued' AND next_try_at <= :now AND ({_OWNER}) NOT IN (
      SELECT {_OWNER} FROM jobs JOIN scopes ON scopes.id = scope_id WHERE lease_until > 0 AND lease_until > :now
    )
    ORDER BY seq LIMIT 1
  )
  ORDER BY seq LIMIT :limit
)
RETURNING seq, id, scope_id, claims, returned, prompt
"""  # noqa: S608 - column names only


def _until(now: datetime, lease: timedelta) -> int:
    """When a lease ends."""
    return min(micros(now) + lease // timedelta(microseconds=1), _LATEST)


_LATEST = micros(datetime.max.replace(tzinfo=UTC))


def _turn_ids(conn: sqlite3.Connection, seq: int) -> tuple[str, ...]:
    """The turns of a job that are still there."""
    return tuple(row[0] for row in conn.execute(JOB_TURNS, (seq,)))


JOB_TURNS = """
SELECT memories.id FROM job_turns JOIN memories ON seq = turn_seq WHERE job_seq = ? ORDER BY position
"""


def renew(conn: sqlite3.Connection, jobs: Sequence[Job], now: datetime, lease: timedelta) -> None:
    """Let the lease of claims that stand end later.

    Raises:
        StoreError: there is no such job.
    """
    for job in jobs:
        if _holds(conn, job):
            conn.execute("UPDATE jobs SET lease_until = ? WHERE id = ?", (_until(now, lease), job.id))


def finish(
    conn: sqlite3.Connection,
    jobs: Sequence[Job],
    facts: Sequence[Fact],
    vectors: Sequence[Vector],
    *,
    model: str,
    superseded: Sequence[Supersession],
    reinforced: Sequence[Reinforcement],
    now: datetime,
    where: str,
) -> bool:
    """End claimed jobs with what they bring; returns whether all the claims stood, and else changes nothing.

    Raises:
        EmbeddingMismatch: the store holds vectors of another model or dimension.
        StoreError: there is no such job, or a fact cannot be stored.
    """
    holds = [_holds(conn, job) for job in jobs]
    if not all(holds):
        return False
    if len(facts) != len(vectors):
        raise StoreError(f"{len(facts)} facts came with {len(vectors)} vectors")
    skipped = _store_facts(conn, facts, vectors, model=model, where=where)
    supersede(conn, [said for said in superseded if said.by not in skipped], Why(now), skip_missing=True)
    reinforce(conn, reinforced)
    for job in jobs:
        end(conn, job.id)
    return True


def _store_facts(
    conn: sqlite3.Connection, facts: Sequence[Fact], vectors: Sequence[Vector], *, model: str, where: str
) -> set[str]:
    """Store facts but those whose turns have all been deleted; returns the ids of these."""
    sources = [turn_seqs(conn, fact.turn_ids) for fact in facts]
    kept = [i for i, fact in enumerate(facts) if sources[i] or not fact.turn_ids]
    seqs = insert_memories(conn, [facts[i] for i in kept], [vectors[i] for i in kept], model=model, where=where)
    for seq, i in zip(seqs, kept, strict=True):
        link(conn, seq, sources[i])
    return {fact.id for i, fact in enumerate(facts) if i not in kept}


def end(conn: sqlite3.Connection, job_id: str) -> None:
    """Take a job that is done out of the queue."""
    conn.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
    if _ID.fullmatch(job_id) and job_id < new_id():  # of one that was loaded with an id of another kind nothing follows
        conn.execute(_REMEMBER_DONE, (job_id,))


_REMEMBER_DONE = """
INSERT INTO meta (key, value) VALUES ('newest_job_done', ?)
ON CONFLICT (key) DO UPDATE SET value = max(value, excluded.value)
"""


def release(conn: sqlite3.Connection, jobs: Sequence[Job], error: str, retry_at: datetime | None) -> None:
    """Give claimed jobs back, for later or for good.

    Raises:
        StoreError: there is no such job.
    """
    state, due = ("dead", 0) if retry_at is None else ("queued", micros(retry_at))
    for job in jobs:
        if _holds(conn, job):
            conn.execute(_RELEASE, (state, due, clean(error), job.id))


_RELEASE = "UPDATE jobs SET state = ?, next_try_at = ?, lease_until = 0, last_error = ? WHERE id = ?"


def give_back(conn: sqlite3.Connection, jobs: Sequence[Job]) -> None:
    """Undo claims.

    Raises:
        StoreError: there is no such job.
    """
    for job in jobs:
        if _holds(conn, job):
            conn.execute(_GIVE_BACK, (job.id,))


_RETURNED = "UPDATE jobs SET returned = returned + 1, next_try_at = 0, lease_until = 0"
_GIVE_BACK = f"{_RETURNED} WHERE id = ?"
_GIVE_BACK_ALL = f"{_RETURNED} WHERE lease_until > 0"


def revive(conn: sqlite3.Connection, *, dead: bool) -> int:
    """Let the jobs be due that were put off, and with `dead` those that were given up; returns how many there were."""
    count = conn.execute("UPDATE jobs SET next_try_at = 0 WHERE next_try_at > 0 AND lease_until = 0").rowcount
    if dead:
        sql = "UPDATE jobs SET state = 'queued', returned = claims, next_try_at = 0 WHERE state = 'dead'"
        count += conn.execute(sql).rowcount
    return count


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
