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

from msgspec.structs import replace

from ollama_async_mem.errors import StoreError
from ollama_async_mem.records import Job, JobStatus, StoredJob, Turn, new_id

from ._postgres_rows import as_scope, as_time, in_utc, prepare, read_or_none, write_or_none
from ._postgres_text import NO_NAME, read, write, write_name
from ._postgres_writes import bind_space, forget_facts_of, insert, present, queue, reinforce, supersede, update

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ollama_async_mem.ports import Vector
    from ollama_async_mem.records import Change, Fact, MemoryRecord, Reinforcement, Supersession

    from ._postgres_events import Why
    from ._postgres_pool import Connection
    from ._postgres_rows import Row

__all__ = [
    "claim",
    "end_jobs_of",
    "finish",
    "give_back",
    "job_for",
    "pending",
    "release",
    "renew",
    "revive",
    "status",
    "unfinished",
    "update_and_job",
    "with_turns",
]


def job_for(turns: Sequence[Turn], prompt: str | None) -> StoredJob:
    """Return a new job for turns of one scope.

    Raises:
        StoreError: they belong to different scopes.
    """
    if any(turn.scope != turns[0].scope for turn in turns):
        raise StoreError("one extraction job takes turns of one scope; add those of others by themselves")
    return StoredJob(id=new_id(), scope=turns[0].scope, turn_ids=tuple(turn.id for turn in turns), prompt=prompt)


async def update_and_job(
    conn: Connection,
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

    Raises: as `_postgres_writes.update`.
    """
    before, now = await update(conn, memory_id, change, vector, model=model, why=why, where=where)
    if isinstance(now, Turn) and now.text != before.text:
        await _begin_anew(conn, now, extract=extract)  # first, as facts of jobs that end just now are to go too
        await forget_facts_of(conn, memory_id, why)
    return now


async def _begin_anew(conn: Connection, turn: Turn, *, extract: bool | None) -> None:
    """End the claims on jobs of a turn, for they are about its old text; where no job waits for it, queue one."""
    of_turn = [write(turn.id)]
    await conn.execute(_GIVE_BACK_ALL, of_turn)
    if extract is None:
        extract = await conn.fetchval(_WAS_TO_BE_READ, of_turn)
    if extract and not await conn.fetchval(_WAITING, of_turn):
        await queue(conn, [job_for([turn], None)])


_WAITING = "SELECT TRUE FROM jobs WHERE state = 'queued' AND turn_ids && $1 LIMIT 1"
_WAS_TO_BE_READ = (  # a fact was drawn from it, or a job for it is not finished
    "SELECT EXISTS (SELECT FROM memories WHERE turn_ids && $1) OR EXISTS (SELECT FROM jobs WHERE turn_ids && $1)"
)


async def claim(conn: Connection, now: datetime, lease: timedelta, limit: int) -> list[Job]:
    """Take the oldest job that is due and those of its scope that are, unless somebody holds one of that owner.

    Who claims holds a lock of the owner, so that each sees what others have claimed of it. An owner of whom others are
    just claiming is passed over, and so are jobs that others are just changing.
    """
    passed: list[tuple[str, ...]] = []
    while row := await conn.fetchrow(_NEXT_SCOPE, in_utc(now), *_transposed(passed, 3)):
        *scope, owner_run = (row[name] for name in ("user_id", "agent_id", "run_id", "owner_run"))
        at = (in_utc(now), end_of(lease, now), limit)
        rows = await conn.fetch(_CLAIM, *at, *scope, owner_run) if row["is_locked"] else []
        if rows:
            return [_job(row) for row in sorted(rows, key=lambda row: row["seq"])]
        passed.append((*scope[:2], owner_run))
    return []


def end_of(lease: timedelta, now: datetime) -> datetime:
    """When a lease ends, at the latest with the last of all times."""
    start = in_utc(now)
    return start + min(max(lease, timedelta()), datetime.max.replace(tzinfo=UTC) - start)


def _transposed(rows: Sequence[tuple[str, ...]], width: int) -> list[list[str]]:
    """Rows as the columns that `unnest` takes."""
    return [[row[i] for row in rows] for i in range(width)]


def _job(row: Row) -> Job:
    return Job(
        id=read(row["id"]),
        scope=as_scope(row),
        turn_ids=tuple(map(read, row["turn_ids"])),
        attempts=row["claims"] - row["returned"],
        claim=row["claims"],
        prompt=read_or_none(row["prompt"]),
    )


_DUE = "state = 'queued' AND coalesce(next_try_at <= $1, TRUE) AND coalesce(lease_until <= $1, TRUE)"
_OWNER_RUN = f"CASE WHEN user_id = '{NO_NAME}' AND agent_id = '{NO_NAME}' THEN run_id ELSE '{NO_NAME}' END"
_OWNER = f"user_id, agent_id, {_OWNER_RUN}"
_NEXT_SCOPE = f"""
SELECT *, pg_try_advisory_xact_lock(
  hashtextextended(ROW (user_id, agent_id, owner_run)::text, 'jobs'::regclass::oid::bigint)) AS is_locked
FROM (
  SELECT user_id, agent_id, run_id, {_OWNER_RUN} AS owner_run FROM jobs WHERE {_DUE}
    AND ({_OWNER}) NOT IN (SELECT {_OWNER} FROM jobs WHERE lease_until > $1)
    AND ({_OWNER}) NOT IN (SELECT * FROM unnest($2::text[], $3::text[], $4::text[]))
  ORDER BY seq LIMIT 1
) AS oldest
"""  # noqa: S608 - from above
_CLAIM = f"""
UPDATE jobs SET claims = claims + 1, lease_until = $2 WHERE user_id = $4 AND seq = ANY (ARRAY(
  SELECT seq FROM jobs WHERE user_id = $4 AND agent_id = $5 AND run_id = $6 AND {_DUE} AND NOT EXISTS (
    SELECT FROM jobs WHERE ({_OWNER}) = ($4, $5, $7) AND lease_until > $1
  ) ORDER BY seq LIMIT $3 FOR UPDATE SKIP LOCKED
)) RETURNING *
"""  # noqa: S608 - from above


async def renew(conn: Connection, jobs: Sequence[Job], now: datetime, lease: timedelta) -> None:
    """Let the lease of those whose claim stands end later.

    Raises:
        StoreError: there is no such job.
    """
    await conn.execute(_RENEW, *await _held(conn, jobs), end_of(lease, now))


async def finish(
    conn: Connection,
    jobs: Sequence[Job],
    facts: Sequence[Fact],
    vectors: Sequence[Vector],
    *,
    model: str,
    superseded: Sequence[Supersession],
    reinforced: Sequence[Reinforcement],
    why: Why,
    where: str,
) -> bool:
    """End claimed jobs, store their facts but those whose turns have all been deleted since, end and confirm others.

    Returns whether all the claims stand; else it changes nothing.

    Raises:
        EmbeddingMismatch: the store holds vectors of another model or dimension.
        StoreError: there is no such job, or a fact cannot be stored.
    """
    users, ids = await _held(conn, jobs)
    if len(ids) < len({job.id for job in jobs}):
        return False
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
    await reinforce(conn, reinforced, why)
    await conn.execute(_END, users, ids)
    await _remember_done(conn, ids)
    return True


async def end_jobs_of(conn: Connection, turn_ids: Sequence[str]) -> None:
    """End the jobs of turns, for they were finished elsewhere."""
    wanted = [write(turn_id) for turn_id in turn_ids]
    if wanted and (ended := await conn.fetch("DELETE FROM jobs WHERE turn_ids && $1 RETURNING id", wanted)):
        await _remember_done(conn, [row[0] for row in ended])


async def _remember_done(conn: Connection, ids: Sequence[str]) -> None:
    now = new_id()  # nothing follows from the end of a job that was loaded with an id of another kind
    if told := [job_id for job_id in ids if _ID.fullmatch(job_id) and job_id < now]:
        await conn.execute(_REMEMBER_DONE, max(told))


_REMEMBER_DONE = """
INSERT INTO meta (key, value) VALUES ('newest_job_done', $1)
ON CONFLICT (key) DO UPDATE SET value = excluded.value WHERE meta.value < excluded.value
"""


async def with_turns(conn: Connection, facts: Sequence[Fact]) -> list[Fact]:
    """The facts with those of their turns that still exist, which then stay until the transaction ends."""
    there = await present(conn, (turn_id for fact in facts for turn_id in fact.turn_ids))
    return [replace(fact, turn_ids=tuple(i for i in fact.turn_ids if i in there)) for fact in facts]


async def release(conn: Connection, jobs: Sequence[Job], error: str, retry_at: datetime | None) -> None:
    """Give claimed jobs back, for later or for good.

    Raises:
        StoreError: there is no such job.
    """
    due = retry_at and in_utc(retry_at)
    await conn.execute(_RELEASE, *await _held(conn, jobs), "queued" if due else "dead", due, write_or_none(error))


async def give_back(conn: Connection, jobs: Sequence[Job]) -> None:
    """Undo claims.

    Raises:
        StoreError: there is no such job.
    """
    await conn.execute(_GIVE_BACK, *await _held(conn, jobs))


_THESE = "FROM unnest($1::text[], $2::text[]) AS these (user_id, id)"
_WHERE = "WHERE jobs.user_id = these.user_id AND jobs.id = these.id"
_RENEW = f"UPDATE jobs SET lease_until = $3 {_THESE} {_WHERE}"  # noqa: S608 - from above
_RELEASE = f"""
UPDATE jobs SET state = $3, next_try_at = $4, lease_until = NULL, last_error = $5 {_THESE} {_WHERE}
"""  # noqa: S608 - from above
_RETURNED = "UPDATE jobs SET returned = returned + 1, next_try_at = NULL, lease_until = NULL"
_GIVE_BACK = f"{_RETURNED} {_THESE} {_WHERE}"
_GIVE_BACK_ALL = f"{_RETURNED} WHERE lease_until IS NOT NULL AND turn_ids && $1"
_END = f"DELETE FROM jobs USING {_THESE[5:]} {_WHERE}"  # noqa: S608 - from above


async def revive(conn: Connection, *, dead: bool) -> int:
    """Let the jobs be due that were put off, and with `dead` those that were given up; returns how many there were."""
    return len(await conn.fetch(_HASTEN)) + (len(await conn.fetch(_REVIVE)) if dead else 0)


_HASTEN = """
UPDATE jobs SET next_try_at = NULL WHERE next_try_at IS NOT NULL AND lease_until IS NULL AND state = 'queued'
RETURNING 1
"""
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


async def _held(conn: Connection, jobs: Sequence[Job]) -> tuple[list[str], list[str]]:
    """The users and ids of the jobs whose claim stands: neither ended nor given back nor claimed again.

    They are locked in the order of their ids, and it stays so until the transaction ends.

    Raises:
        StoreError: there is no such job.
    """
    claims = {(write_name(job.scope.user_id), write(job.id)): job.claim for job in jobs}
    rows = {(row["user_id"], row["id"]): row for row in await conn.fetch(_LOCK, *_transposed(list(claims), 2))}
    for _, job_id in claims.keys() - rows.keys():
        await _require_done(conn, read(job_id))
    held = [key for key, row in rows.items() if row["claims"] == claims[key] and row["lease_until"]]
    return [user for user, _ in held], [job_id for _, job_id in held]


_LOCK = f"SELECT jobs.* {_THESE} JOIN jobs USING (user_id, id) ORDER BY id FOR UPDATE OF jobs"


async def _require_done(conn: Connection, job_id: str) -> None:
    """Check that a job without a row is one that is done.

    Raises:
        StoreError: there never was such a job.
    """
    newest = await conn.fetchval("SELECT value FROM meta WHERE key = 'newest_job_done'")
    if not (_ID.fullmatch(job_id) and newest and job_id <= newest):
        raise StoreError(f"no job has the id {job_id!r}")


_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")  # of `records.new_id`
