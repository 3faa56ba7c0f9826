"""The durable queue of turns whose facts are still to be extracted. Each function runs inside one transaction.

A turn that is deleted leaves the jobs that wait for it, so a job may come out with fewer turns than went in.
Each claim has a number, the fencing token: who was overtaken by another claim can no longer end the job.

A job that is done leaves no row. Ids are made in the order of time, so one that is missing and not newer than the
newest that was done is taken for one that is done.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ollama_async_mem.errors import StoreError
from ollama_async_mem.records import Job, JobStatus, StoredJob, new_id

from ._postgres_rows import as_scope, as_time, in_utc, prepare, read_or_none, write_or_none
from ._postgres_text import read, write
from ._postgres_writes import bind_space, insert, supersede

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta

    from ollama_async_mem.ports import Vector
    from ollama_async_mem.records import Fact, Supersession, Turn

    from ._postgres_events import Why
    from ._postgres_pool import Connection
    from ._postgres_rows import Row

__all__ = [
    "claim",
    "finish",
    "give_back",
    "job_for",
    "pending",
    "release",
    "revive",
    "status",
    "unfinished",
    "with_turns",
]


def job_for(turns: Sequence[Turn]) -> StoredJob:
    """Return a new job for turns of one scope.

    Raises:
        StoreError: they belong to different scopes.
    """
    if any(turn.scope != turns[0].scope for turn in turns):
        raise StoreError("one extraction job takes turns of one scope; add those of others by themselves")
    return StoredJob(id=new_id(), scope=turns[0].scope, turn_ids=tuple(turn.id for turn in turns))


async def claim(conn: Connection, now: datetime, lease: timedelta) -> Job | None:
    """Take the oldest job that is due and not leased; those that others are just taking are passed over."""
    row = await conn.fetchrow(_CLAIM, in_utc(now), in_utc(now + lease))
    return row and Job(
        id=read(row["id"]),
        scope=as_scope(row),
        turn_ids=tuple(map(read, row["turn_ids"])),
        attempts=row["claims"] - row["returned"],
        claim=row["claims"],
    )


_CLAIM = """
UPDATE jobs SET claims = claims + 1, lease_until = $2 WHERE seq = (
  SELECT seq FROM jobs
  WHERE state = 'queued' AND (next_try_at IS NULL OR next_try_at <= $1) AND (lease_until IS NULL OR lease_until <= $1)
  ORDER BY seq LIMIT 1 FOR UPDATE SKIP LOCKED
) RETURNING *
"""


async def finish(
    conn: Connection,
    job: Job,
    facts: Sequence[Fact],
    vectors: Sequence[Vector],
    *,
    model: str,
    superseded: Sequence[Supersession],
    why: Why,
    where: str,
) -> None:
    """End a claimed job, store its facts but those whose turns have all been deleted since, and end others.

    Raises:
        EmbeddingMismatch: the store holds vectors of another model or dimension.
        StoreError: there is no such job, or a fact cannot be stored.
    """
    if not await _holds(conn, job):
        return
    if len(facts) != len(vectors):
        raise StoreError(f"{len(facts)} facts came with {len(vectors)} vectors")
    linked = await with_turns(conn, facts)
    kept = [i for i, fact in enumerate(facts) if linked[i].turn_ids or not fact.turn_ids]
    rows, space = await prepare([linked[i] for i in kept], [vectors[i] for i in kept], model=model, where=where)
    if space is not None:
        await bind_space(conn, space, where)
    await insert(conn, rows)
    skipped = {fact.id for fact in facts} - {facts[i].id for i in kept}
    await supersede(conn, [said for said in superseded if said.by not in skipped], why, skip_missing=True)
    await conn.execute("DELETE FROM jobs WHERE id = $1", write(job.id))
    await conn.execute(_REMEMBER_DONE, write(job.id))


_REMEMBER_DONE = """
INSERT INTO meta (key, value) VALUES ('newest_job_done', $1)
ON CONFLICT (key) DO UPDATE SET value = excluded.value WHERE meta.value < excluded.value
"""


async def with_turns(conn: Connection, facts: Sequence[Fact]) -> list[Fact]:
    """The facts with those of their turns that still exist, which then stay until the transaction ends."""
    wanted = sorted({write(turn_id) for fact in facts for turn_id in fact.turn_ids})
    rows = await conn.fetch(_TURNS, wanted) if wanted else []
    there = {read(row["id"]) for row in rows}
    return [replace(fact, turn_ids=tuple(i for i in fact.turn_ids if i in there)) for fact in facts]


_TURNS = "SELECT id FROM memories WHERE id = ANY ($1) AND kind = 'turn' ORDER BY id FOR KEY SHARE"


async def release(conn: Connection, job: Job, error: str, retry_at: datetime | None) -> None:
    """Give a claimed job back, for later or for good.

    Raises:
        StoreError: there is no such job.
    """
    if await _holds(conn, job):
        due = retry_at and in_utc(retry_at)
        await conn.execute(_RELEASE, write(job.id), "queued" if due else "dead", due, write_or_none(error))


_RELEASE = "UPDATE jobs SET state = $2, next_try_at = $3, lease_until = NULL, last_error = $4 WHERE id = $1"


async def give_back(conn: Connection, job: Job) -> None:
    """Undo a claim.

    Raises:
        StoreError: there is no such job.
    """
    if await _holds(conn, job):
        await conn.execute(_GIVE_BACK, write(job.id))


_GIVE_BACK = "UPDATE jobs SET returned = returned + 1, next_try_at = NULL, lease_until = NULL WHERE id = $1"


async def revive(conn: Connection) -> int:
    """Queue the jobs again that were given up; returns how many there were."""
    return len(await conn.fetch(_REVIVE))


_REVIVE = "UPDATE jobs SET state = 'queued', returned = claims, next_try_at = NULL WHERE state = 'dead' RETURNING 1"


async def pending(conn: Connection) -> int:
    """Count the jobs that are neither done nor dead."""
    return int(await conn.fetchval("SELECT count(*) FROM jobs WHERE state = 'queued'"))


async def unfinished(conn: Connection, limit: int) -> list[JobStatus]:
    """Read how the jobs stand that are not done, oldest first."""
    return [_status(row) for row in await conn.fetch(f"{_STATUS} ORDER BY seq LIMIT $1", limit)]


async def status(conn: Connection, job_id: str) -> JobStatus | None:
    """Read how one job stands, None when it is done.

    Raises:
        StoreError: there is no such job.
    """
    row = await conn.fetchrow(f"{_STATUS} WHERE id = $1", write(job_id))
    if row is None:
        await _require_done(conn, job_id)
    return row and _status(row)


_STATUS = "SELECT *, greatest(next_try_at, lease_until) AS due_at FROM jobs"


def _status(row: Row) -> JobStatus:
    return JobStatus(
        id=read(row["id"]),
        scope=as_scope(row),
        state=row["state"],
        attempts=row["claims"] - row["returned"],
        due_at=as_time(row["due_at"]) if row["due_at"] and row["state"] == "queued" else None,
        error=read_or_none(row["last_error"]),
    )


async def _holds(conn: Connection, job: Job) -> bool:
    """Whether a claim stands: the job was neither ended nor given back nor claimed again; until the transaction ends.

    Raises:
        StoreError: there is no such job.
    """
    row = await conn.fetchrow("SELECT claims, lease_until FROM jobs WHERE id = $1 FOR UPDATE", write(job.id))
    if row is None:
        await _require_done(conn, job.id)
        return False
    return bool(row["claims"] == job.claim and row["lease_until"])


async def _require_done(conn: Connection, job_id: str) -> None:
    """Check that a job without a row is one that is done.

    Raises:
        StoreError: there never was such a job.
    """
    newest = await conn.fetchval("SELECT value FROM meta WHERE key = 'newest_job_done'")
    if not (_ID.fullmatch(job_id) and newest and job_id <= newest):
        raise StoreError(f"no job has the id {job_id!r}")


_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")  # of `records.new_id`
