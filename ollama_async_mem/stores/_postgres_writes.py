"""Writing memories with their vectors, keyword index and events. Each function runs inside one transaction."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, to_builtins

from ollama_async_mem.errors import RecordNotFound, StoreError
from ollama_async_mem.records import EmbeddingSpace, Turn

from ._checks import MESSAGE_CHANGED, MESSAGES_DELETED, require_space
from ._json import write_dates, write_json
from ._postgres_events import insert_events
from ._postgres_filters import Values
from ._postgres_reads import keys_of, read_space, users_of
from ._postgres_rows import (
    BY_KEY,
    COLUMNS,
    ID,
    INSERT,
    USER,
    as_memory,
    in_utc,
    metadata_or_none,
    pack,
    terms_of,
    write_or_none,
    written_scope,
)
from ._postgres_selection import selection_sql
from ._postgres_text import read, write
from ._text import clean
from ._vectors import unit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from ollama_async_mem.ports import Vector
    from ollama_async_mem.records import Change, MemoryRecord, Reinforcement, Selection, StoredJob, Supersession

    from ._postgres_events import Why
    from ._postgres_groups import Addition
    from ._postgres_pool import Connection

__all__ = [
    "add",
    "bind_space",
    "delete",
    "delete_all",
    "forget_facts_of",
    "insert",
    "insert_taken",
    "present",
    "purge_expired",
    "queue",
    "reinforce",
    "supersede",
    "take_ids",
    "update",
]

BATCH_ROWS = 10_000


async def bind_space(conn: Connection, space: EmbeddingSpace, where: str) -> None:
    """Check that vectors fit those that are there; the first ones decide, for good.

    Raises:
        EmbeddingMismatch: the store holds vectors of another space.
    """
    sql = "INSERT INTO meta (key, value) VALUES ('embedding_space', $1) ON CONFLICT DO NOTHING"
    bound = await read_space(conn)
    if bound is None:
        await conn.execute(sql, write_json(to_builtins(space)))  # waits for another that does the same
        bound = await read_space(conn) or space
    require_space(bound, space, where)


async def insert(conn: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Store memories as `insertions` made them.

    Raises:
        StoreError: an id is taken.
    """
    ids = [row[ID] for row in rows]
    free = await take_ids(conn, {row[ID]: row[USER] for row in rows})
    if taken := [memory_id for memory_id, n in Counter(ids).items() if n > 1 or memory_id not in free]:
        raise StoreError(f"a memory with the id {read(taken[0])!r} is already stored")
    await insert_taken(conn, rows)


async def insert_taken(conn: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Store memories whose ids were taken for them."""
    await conn.executemany(INSERT, rows)


async def take_ids(conn: Connection, users: Mapping[str, str]) -> set[str]:
    """Take ids for memories of users; returns those that were free. Who wants the same ones waits to see the end.

    All who take ids take them in their order: so nobody waits for each other.
    """
    return {row[0] for row in await conn.fetch(_TAKE, list(users), list(users.values()))} if users else set()


_TAKE = """
INSERT INTO ids (id, user_id) SELECT id, user_id FROM unnest($1::text[], $2::text[]) AS new (id, user_id)
WHERE NOT EXISTS (SELECT FROM ids WHERE ids.id = new.id AND is_there) ORDER BY id
ON CONFLICT (id) DO UPDATE SET is_there = TRUE, user_id = excluded.user_id, others = CASE ids.user_id
  WHEN excluded.user_id THEN ids.others ELSE array_append(ids.others, ids.user_id) END
WHERE NOT ids.is_there RETURNING id
"""


async def add(conn: Connection, additions: Sequence[Addition], *, bound: EmbeddingSpace | None, where: str) -> None:
    """Store additions, all of them; `bound` is the space of the store's vectors, if it is known.

    Raises:
        EmbeddingMismatch: the store holds vectors of another space.
        StoreError: an id is taken.
    """
    for space in {addition.space for addition in additions} - {bound}:
        await bind_space(conn, space, where)
    await insert(conn, [row for addition in additions for row in addition.rows])
    await queue(conn, [addition.job for addition in additions if addition.job is not None])


async def update(
    conn: Connection,
    memory_id: str,
    change: Change,
    vector: Vector | None,
    *,
    model: str,
    why: Why,
    where: str,
) -> tuple[MemoryRecord, MemoryRecord]:
    """Change a memory and note it; returns it as it was and as it is now.

    Raises:
        RecordNotFound: there is none with this id.
        EmbeddingMismatch: the store holds vectors of another model or dimension.
        StoreError: a new text came without a vector, or a value cannot be stored.
    """
    row = await conn.fetchrow(_FOR_UPDATE, *await keys_of(conn, [write(memory_id)]))
    if row is None:
        raise RecordNotFound(memory_id)
    before = as_memory(row)
    if change.text is not UNSET and vector is None:
        raise StoreError("a new text needs its vector, or it would be found by the meaning of the old one")
    if vector is not None:
        vector = unit(vector)
        await bind_space(conn, EmbeddingSpace(model, vector.size), where)
    embedding = None if vector is None else pack(vector)
    changed = await conn.fetchrow(_UPDATE, row["user_id"], row["id"], *_columns(before, change), embedding)
    new = None if change.text is UNSET else clean(change.text)
    old = None if new is None else before.text
    await insert_events(conn, [(row["user_id"], why.event(memory_id, "updated", old=old, new=new))])
    return before, as_memory(changed)


_FOR_UPDATE = f"SELECT {COLUMNS} FROM memories WHERE {BY_KEY} FOR NO KEY UPDATE"  # noqa: S608 - column names only
_UPDATE = f"""
UPDATE memories SET text = $3, metadata = $4, expires_at = $5, dates = $6, words = $7,
  terms = to_tsvector('words', $8), embedding = coalesce($9, embedding)
WHERE user_id = $1 AND id = $2 RETURNING {COLUMNS}
"""  # noqa: S608 - column names only


def _columns(before: MemoryRecord, change: Change) -> tuple[Any, ...]:
    """The text, metadata, expiry, dates and indexed words of a memory that changes."""
    text, dates = (before.text, before.dates) if change.text is UNSET else (clean(change.text), change.dates)
    expires_at = before.expires_at if change.expires_at is UNSET else change.expires_at
    new = {} if change.metadata is UNSET else change.metadata
    metadata = {k: v for k, v in (before.metadata | new).items() if k not in new or v is not None}
    terms = terms_of(text, before.speaker if isinstance(before, Turn) else None)
    return write(text), metadata_or_none(metadata), expires_at and in_utc(expires_at), write_dates(dates), *terms


async def queue(conn: Connection, jobs: Sequence[StoredJob]) -> None:
    """Store jobs that are not there yet."""
    if jobs:
        await conn.executemany(_QUEUE, [_job_columns(job) for job in jobs])


_QUEUE = """
INSERT INTO jobs (user_id, agent_id, run_id, id, turn_ids, state, claims, last_error, prompt)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING
"""


def _job_columns(job: StoredJob) -> tuple[Any, ...]:
    turn_ids = [write(turn_id) for turn_id in job.turn_ids]
    told = (write_or_none(job.error), write_or_none(job.prompt))
    return (*written_scope(job.scope), write(job.id), turn_ids, job.state, job.attempts, *told)


async def supersede(
    conn: Connection, supersessions: Sequence[Supersession], why: Why, *, skip_missing: bool = False
) -> None:
    """End facts and note it; one that ended earlier is left as it is.

    They are locked in the order of their ids, as by all who lock several: so nobody waits for each other.

    Raises:
        RecordNotFound: there is no fact with one of these ids, and those are not to be skipped.
    """
    users = await users_of(conn, [write(said.fact_id) for said in supersessions])
    for said in sorted(supersessions, key=lambda said: said.fact_id):
        fact_id = write(said.fact_id)
        user = users.get(fact_id, "")
        if await conn.fetchval(_SUPERSEDE, user, fact_id, in_utc(said.valid_to)):
            event = why._replace(cause=said.cause).event(said.fact_id, "superseded", by=said.by)
            await insert_events(conn, [(user, event)])
        elif not skip_missing and not await conn.fetchval(_IS_FACT, user, fact_id):
            raise RecordNotFound(said.fact_id)


_IS_FACT = "SELECT TRUE FROM memories WHERE user_id = $1 AND id = $2 AND kind = 'fact'"
_SUPERSEDE = """
UPDATE memories SET valid_to = $3
WHERE user_id = $1 AND id = $2 AND kind = 'fact' AND (valid_to IS NULL OR valid_to > $3) RETURNING TRUE
"""


async def reinforce(conn: Connection, reinforcements: Sequence[Reinforcement], why: Why) -> None:
    """Add turns that are there to facts that are, and note it; locked in the order of `supersede`."""
    there = await present(conn, (turn_id for said in reinforcements for turn_id in said.turn_ids))
    users = await users_of(conn, [write(said.fact_id) for said in reinforcements])
    for said in sorted(reinforcements, key=lambda said: said.fact_id):
        fact_id = write(said.fact_id)
        user = users.get(fact_id, "")
        turn_ids = list(dict.fromkeys(write(turn_id) for turn_id in said.turn_ids if turn_id in there))
        await conn.execute(_LOCK_FACT, user, fact_id)  # for the sake of the server, as in `_forget_in_facts`
        if await conn.fetchval(_REINFORCE, user, fact_id, turn_ids):
            event = why._replace(now=said.at, cause=said.cause).event(said.fact_id, "reinforced")
            await insert_events(conn, [(user, event)])


_LOCK_FACT = "SELECT FROM memories WHERE user_id = $1 AND id = $2 FOR UPDATE"
_REINFORCE = """
UPDATE memories SET turn_ids = turn_ids || ARRAY(
  SELECT t.id FROM unnest($3::text[]) AS t (id) WHERE t.id <> ALL (turn_ids)
) WHERE user_id = $1 AND id = $2 AND kind = 'fact' AND NOT turn_ids @> $3 RETURNING TRUE
"""


async def present(conn: Connection, turn_ids: Iterable[str]) -> set[str]:
    """Those of some turns that are there, and will be until the transaction ends."""
    users, ids = await keys_of(conn, list({write(turn_id) for turn_id in turn_ids}))
    return {read(row["id"]) for row in await conn.fetch(_TURNS, users, ids)} if ids else set()


_TURNS = f"SELECT id FROM memories WHERE {BY_KEY} AND kind = 'turn' ORDER BY id FOR KEY SHARE"  # noqa: S608 - from here


async def delete(conn: Connection, memory_id: str, why: Why) -> None:
    """Destroy a memory.

    Raises:
        RecordNotFound: there is none with this id.
    """
    if not await _destroy(conn, BY_KEY, await keys_of(conn, [write(memory_id)]), why):
        raise RecordNotFound(memory_id)


async def delete_all(conn: Connection, selection: Selection, why: Why) -> int:
    """Destroy the memories of a selection; returns how many there were."""
    values = Values()
    return await _destroy(conn, selection_sql(selection, values, why.now), values, why)


async def purge_expired(conn: Connection, now: datetime, why: Why) -> int:
    """Destroy the memories that expired by a time; returns how many there were."""
    return await _destroy(conn, "memories.expires_at <= $1", [in_utc(now)], why)


async def _destroy(conn: Connection, condition: str, values: Sequence[Any], why: Why) -> int:
    """Destroy memories in batches: facts first, so that none is changed for the sake of a turn and then destroyed."""
    count, last = 0, f"${len(values) + 1}::text"
    for kind in ("fact", "turn"):
        sql = f"""
            SELECT id, user_id FROM memories WHERE {condition} AND kind = '{kind}' AND ({last} IS NULL OR id > {last})
            ORDER BY id LIMIT {BATCH_ROWS} FOR UPDATE
        """  # noqa: S608 - column names and slots only
        ids: list[str | None] = [None]
        while ids:
            rows = await conn.fetch(sql, *values, ids[-1])
            ids, users = [row[0] for row in rows], [row[1] for row in rows]
            count += len(ids)
            if ids:
                await _forget_in_jobs(conn, ids)
                await conn.execute(_DESTROY, users, ids, *why.columns)
                await _forget_in_facts(conn, ids, why._replace(cause=MESSAGES_DELETED))
    return count


async def forget_facts_of(conn: Connection, turn_id: str, why: Why) -> None:
    """Take a turn whose text changed out of the facts that were drawn from it, and destroy those without another."""
    await _forget_in_facts(conn, [write(turn_id)], why._replace(cause=MESSAGE_CHANGED))


async def _forget_in_facts(conn: Connection, ids: Sequence[str | None], why: Why) -> None:
    """Take turns out of facts, by itself: it sees those that came meanwhile. Facts without another are destroyed.

    The facts are locked before. An UPDATE that has to look at a row again, because somebody else has just changed it,
    crashes the server where it sets what a subquery gives (a null pointer in PostgreSQL 18.6, seen in one of six runs).
    """
    facts = await conn.fetch(_LOCK_FACTS, ids)
    rows = await conn.fetch(_FORGET_IN_FACTS, ids, *zip(*facts, strict=True)) if facts else []
    if gone := [row for row in rows if row["is_bare"]]:
        users, facts = [row["user_id"] for row in gone], [row["id"] for row in gone]
        await conn.execute(_DESTROY, users, facts, *why.columns)


async def _forget_in_jobs(conn: Connection, ids: Sequence[str | None]) -> None:
    """Take turns out of jobs, which are locked before as facts are."""
    if jobs := await conn.fetch(_LOCK_JOBS, ids):
        await conn.execute(_FORGET_IN_JOBS, ids, [job[0] for job in jobs])


# Whoever names a turn may be of another user: these look everywhere
_LOCK_FACTS = "SELECT user_id, id FROM memories WHERE turn_ids && $1 ORDER BY id FOR UPDATE"
_LOCK_JOBS = "SELECT id FROM jobs WHERE turn_ids && $1 ORDER BY id FOR UPDATE"
_OTHERS = "ARRAY(SELECT id FROM unnest(turn_ids) WITH ORDINALITY AS t (id, n) WHERE id <> ALL ($1) ORDER BY n)"
_FORGET_IN_JOBS = f"UPDATE jobs SET turn_ids = {_OTHERS} WHERE id = ANY ($2)"  # noqa: S608 - from above
_FORGET_IN_FACTS = f"""
UPDATE memories SET turn_ids = {_OTHERS}, quote = CASE WHEN EXISTS (
  SELECT FROM unnest(turn_ids) AS t (id) JOIN ids ON ids.id = t.id
  JOIN memories AS turn ON turn.user_id = ids.user_id AND turn.id = ids.id
  WHERE t.id <> ALL ($1) AND strpos(turn.text, memories.quote) > 0
) THEN quote ELSE '' END
WHERE user_id = ANY ($2) AND id = ANY ($3) RETURNING user_id, id, turn_ids = '{{}}' AS is_bare
"""  # noqa: S608 - from above; a quote that stands in no other turn goes
_DESTROY = """
WITH gone AS (
  DELETE FROM memories USING unnest($1::text[], $2::text[]) AS doomed (user_id, id)
  WHERE memories.user_id = doomed.user_id AND memories.id = doomed.id AND memories.user_id = ANY ($1)
  RETURNING memories.user_id, memories.id, seq, created_at
), past AS (
  UPDATE ids SET is_there = FALSE FROM gone WHERE ids.id = gone.id
), blank AS (
  UPDATE events SET old = NULL, new = NULL FROM gone
  WHERE events.user_id = gone.user_id AND memory_id = gone.id AND events.user_id = ANY ($1)
)
INSERT INTO events (user_id, memory_id, kind, at, added_at, actor, cause)
SELECT user_id, id, 'deleted', $3, created_at, $4, $5 FROM gone ORDER BY seq
"""
