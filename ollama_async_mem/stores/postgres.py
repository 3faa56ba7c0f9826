"""`PostgresStore`: the store for more than one machine, PostgreSQL with the extension pgvector, through asyncpg.

It turns the calls of the port into work for the connections. What a call does is in the `_postgres_*` modules.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Self, TypeVar

from ollama_async_mem.errors import StoreClosed, StoreError

from . import _postgres_admin as admin
from . import _postgres_events as events
from . import _postgres_jobs as queue
from . import _postgres_reads as reads
from . import _postgres_search as search
from . import _postgres_transfer as transfer
from . import _postgres_writes as writes
from ._checks import check, check_around
from ._postgres_events import Why
from ._postgres_groups import Addition, Additions
from ._postgres_pool import Limits, PostgresPool, session
from ._postgres_rows import prepare
from ._postgres_schema import MIGRATIONS, open_schema, quoted
from ._postgres_url import choose, split_options, without_secrets
from ._vectors import unit

if TYPE_CHECKING:
    import builtins
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from datetime import timedelta

    from ollama_async_mem.counts import Counts, ScopeCounts, Statistics
    from ollama_async_mem.ports import Vector
    from ollama_async_mem.records import (
        Candidate,
        Change,
        EmbeddingSpace,
        Event,
        Fact,
        Job,
        JobStatus,
        MemoryRecord,
        Page,
        Reinforcement,
        Scope,
        Selection,
        Sort,
        StoredJob,
        StoredMemory,
        Supersession,
        Turn,
    )

    from ._postgres_pool import Connection

P = ParamSpec("P")
T = TypeVar("T")

__all__ = ["PostgresStore"]


class PostgresStore:
    """Memories in a PostgreSQL database, in tables of their own schema. Implements `ports.MemoryStore`.

    Any number of stores, of any number of processes and machines, may have one schema open. Text is stored as it
    comes, but for lone halves of surrogate pairs, which become U+FFFD. Vectors are stored with length one. What
    returned is as durable as the server's `synchronous_commit` says, which is "on" unless somebody changed it.

    Scopes of up to 20,000 memories are searched exactly. Above that `optimize` makes an index of vectors, which finds
    nearly all of the nearest; without it the exact search goes on, in some time, and the first such logs a warning.

    Without `create` the schema must exist. `language` is that of the stems by which words match, one that the server
    knows or "simple" for none. With `partitions`, memories and events are split by a hash of their user, into so many
    tables. A schema that exists keeps what it was made with. Both, and `schema`, may also be options of the URL, as in
    "postgresql://host/db?schema=mine&partitions=16"; what is given here counts.

    `connections` bounds how many are open at once, `busy_timeout_s` is how long a lock is waited for,
    `connect_timeout_s` how long a connection, and `statement_timeout_s` how long a single statement may take.

    Raises:
        ConfigError: an option is out of range, or the URL cannot be read.
    """

    def __init__(
        self,
        url: str,
        *,
        create: bool = True,
        schema: str | None = None,
        language: str | None = None,
        partitions: int | None = None,
        connections: int = 10,
        busy_timeout_s: float = 5.0,
        connect_timeout_s: float = 10.0,
        statement_timeout_s: float = 60.0,
    ) -> None:
        self._limits = Limits(connections, busy_timeout_s, connect_timeout_s, statement_timeout_s)
        self._limits.check()
        self._location = without_secrets(url)
        self._url, options = split_options(url)
        self._schema, self._choices = choose(options, schema=schema, language=language, partitions=partitions)
        self._create = create
        self._open: PostgresPool | None = None
        self._space: EmbeddingSpace | None = None  # once it is bound, it stays

    @property
    def location(self) -> str:
        """The URL without passwords."""
        return self._location

    async def __aenter__(self) -> Self:
        """Connect, and bring the tables up to date; with `create`, they are made where they are missing.

        Raises:
            SchemaTooNew: a newer version of this library made them.
            StoreBusy: another process is changing them.
            StoreError: the server cannot be reached, refuses, or lacks pgvector; or there is no such store.
        """
        if self._open is not None:
            raise StoreError(f"the store {self.location} is open already")
        where, limits, schema, choices = self.location, self._limits, self._schema, self._choices
        async with session(self._url, timeout_s=limits.connect_timeout_s, where=where) as conn:
            await conn.execute(f"SET lock_timeout = {limits.busy_timeout_s * 1000:.0f}")
            vectors_in = await open_schema(conn, schema=schema, choices=choices, create=self._create, where=where)
        self._space = None
        self._claims = asyncio.Lock()
        self._is_warned = False
        path = self._search_path = f"{quoted(schema)}, {quoted(vectors_in)}"
        pool = PostgresPool(self._url, where=where, search_path=path, vectors_in=vectors_in, limits=limits)
        await pool.start()
        self._additions = Additions(partial(self._add, pool), where=where)
        self._open = pool
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Finish what was begun and close the connections."""
        pool, self._open = self._pool, None
        try:
            await self._additions.stop()
        finally:
            await pool.stop()

    async def embedding_space(self) -> EmbeddingSpace | None:
        """Which vectors the store holds; None before the first. It stays bound when all memories are deleted."""
        return await self._read(reads.read_space)

    async def add_turns(
        self,
        turns: Sequence[Turn],
        vectors: Sequence[Vector],
        *,
        model: str,
        extract: bool = False,
        prompt: str | None = None,
    ) -> str | None:
        """Store turns, and queue one extraction job for them where `extract` is set. Returns the job's id."""
        self._pool.check_loop()
        job = queue.job_for(turns, prompt) if extract and turns else None
        rows, space = await prepare(turns, vectors, model=model, where=self.location)
        if space is not None:
            await self._additions.add(Addition(rows, space, job))
        return job.id if job is not None else None

    async def update(
        self,
        memory_id: str,
        change: Change,
        *,
        vector: Vector | None = None,
        model: str = "",
        extract: bool | None = False,
        actor: str | None = None,
        cause: str | None = None,
    ) -> MemoryRecord:
        """Change one memory and note it in its history; returns it as it is now. A new text comes with its vector."""
        work = partial(queue.update_and_job, memory_id=memory_id, change=change, vector=vector, model=model)
        return await self._write(work, extract=extract, why=Why(_now(), actor, cause), where=self.location)

    async def supersede(self, supersessions: Sequence[Supersession], *, actor: str | None = None) -> None:
        """Say that facts no longer hold, and note it in their history. One that ended earlier is left as it is."""
        await self._write(writes.supersede, tuple(supersessions), Why(_now(), actor))

    async def delete(self, memory_id: str, *, actor: str | None = None, cause: str | None = None) -> None:
        """Destroy one memory, its vector, index entries and links, and the texts in its history."""
        await self._write(writes.delete, memory_id, Why(_now(), actor, cause))

    async def delete_all(self, selection: Selection, *, actor: str | None = None, cause: str | None = None) -> int:
        """Destroy all memories of a selection as `delete` does; returns how many there were."""
        check(selection.kinds)
        return await self._write(writes.delete_all, selection, Why(_now(), actor, cause))

    async def purge_expired(self, *, now: datetime) -> int:
        """Destroy the memories that expired by `now`, for the cause "expired"; returns how many there were."""
        return await self._write(writes.purge_expired, now, Why(_now(), cause="expired"))

    async def dense_candidates(
        self, selection: Selection, vector: Vector, *, model: str, limit: int
    ) -> builtins.list[Candidate]:
        """Return the memories whose vectors are nearest, best first, scored by cosine. `model` made the vector."""
        check(selection.kinds, limit)
        if self._space is None:
            self._space = await self.embedding_space()
        start = time.monotonic()
        found = await self._read(
            search.dense_candidates,
            selection,
            unit(vector),
            model=model,
            bound=self._space,
            limit=limit,
            now=_now(),
            where=self.location,
        )
        if not self._is_warned and time.monotonic() - start > search.SLOW_S and vector.size <= admin.MAX_INDEXED:
            self._is_warned = True  # others need not look meanwhile
            with suppress(StoreError):  # the search itself did not fail
                self._is_warned = await self._read(search.warn_without_index, selection.scope, self.location)
        return found

    async def keyword_candidates(self, selection: Selection, query: str, *, limit: int) -> builtins.list[Candidate]:
        """Return the memories that share words with the query, best first, by BM25. Any text is a valid query.

        Words match by their stem. The statistics behind the score are those of the scope. Where a query's words would
        match some ten thousands of memories, the most frequent of them only fill what the others leave.
        """
        check(selection.kinds, limit)
        return await self._read(search.keyword_candidates, selection, query, limit, _now())

    async def get(self, memory_id: str) -> MemoryRecord:
        """Return one memory."""
        return await self._read(reads.get, memory_id)

    async def get_many(self, memory_ids: Sequence[str]) -> builtins.list[MemoryRecord]:
        """Return memories in the order of their ids, without those that are not there."""
        return await self._read(reads.get_many, tuple(memory_ids))

    async def list(self, selection: Selection, *, limit: int, cursor: str | None = None, sort: Sort = "-at") -> Page:
        """Return a page of memories, those of the same time by id; `cursor` is that of the page before."""
        check(selection.kinds, limit, sort)
        return await self._read(reads.list_page, selection, limit=limit, cursor=cursor, sort=sort, now=_now())

    async def neighbours(
        self, turn_ids: Sequence[str], *, before: int = 1, after: int = 1
    ) -> dict[str, builtins.list[Turn]]:
        """Return the turns around each of some turns, in exactly its scope, without itself and expired ones."""
        check_around(before, after)
        return await self._read(reads.neighbours, tuple(turn_ids), before, after, _now())

    async def history(self, memory_id: str) -> builtins.list[Event]:
        """Return what happened to a memory, oldest first, also when it was deleted."""
        return await self._snapshot(events.history, memory_id)

    async def counts(self, scope: Scope) -> Counts:
        """Count the memories of a scope, superseded and expired ones among them; the empty scope counts all."""
        return await self._read(reads.count, scope)

    async def scopes(self, scope: Scope, *, limit: int, after: Scope | None = None) -> builtins.list[ScopeCounts]:
        """Return the scopes that hold memories, by user, agent and run, where none comes first; `after` one of them."""
        check((), limit)
        return await self._read(reads.scopes, scope, limit, after)

    async def statistics(self) -> Statistics:
        """Count all there is."""
        return await self._read(reads.statistics, _now(), len(MIGRATIONS))

    async def claim_jobs(self, *, now: datetime, lease: timedelta, limit: int) -> builtins.list[Job]:
        """Take the oldest job that is due and those of exactly its scope that are, up to `limit` in all."""
        check((), limit)
        self._pool.check_loop()
        async with self._claims:  # who asks first gets the older one
            return await self._write(queue.claim, now, lease, limit)

    async def renew_jobs(self, jobs: Sequence[Job], *, now: datetime, lease: timedelta) -> None:
        """Let the lease of claimed jobs end later. Those whose claim ended are left as they are."""
        await self._write(queue.renew, tuple(jobs), now, lease)

    async def finish_jobs(
        self,
        jobs: Sequence[Job],
        facts: Sequence[Fact],
        vectors: Sequence[Vector],
        *,
        model: str,
        superseded: Sequence[Supersession] = (),
        reinforced: Sequence[Reinforcement] = (),
    ) -> bool:
        """Store the facts of claimed jobs, end those that they supersede, add to those that were said again.

        Unless all the claims stand it changes nothing, and returns False.
        """
        work = partial(queue.finish, facts=tuple(facts), vectors=tuple(vectors), superseded=tuple(superseded))
        more = partial(work, reinforced=tuple(reinforced), why=Why(_now()), where=self.location)
        return await self._write(more, jobs=tuple(jobs), model=model)

    async def release_jobs(self, jobs: Sequence[Job], *, error: str, retry_at: datetime | None) -> None:
        """Give claimed jobs back after a failure: to be tried at `retry_at`, or never again where that is None."""
        await self._write(queue.release, tuple(jobs), error, retry_at)

    async def return_jobs(self, jobs: Sequence[Job]) -> None:
        """Give claimed jobs back untouched: due at once, and this attempt is not counted."""
        await self._write(queue.give_back, tuple(jobs))

    async def revive_jobs(self, *, dead: bool = True) -> int:
        """Let the jobs be due at once that were put off, and with `dead` queue those again that were given up."""
        return await self._write(queue.revive, dead=dead)

    async def pending_jobs(self) -> int:
        """Count the jobs that are neither finished nor given up."""
        return await self._read(queue.pending)

    async def unfinished_jobs(self, *, limit: int = 100) -> builtins.list[JobStatus]:
        """Return the jobs that wait, are claimed or were given up, oldest first."""
        check((), limit)
        return await self._read(queue.unfinished, limit)

    async def job_status(self, job_id: str) -> JobStatus | None:
        """Return how one job stands, None when it is finished."""
        return await self._snapshot(queue.status, job_id)

    async def dump(
        self, scope: Scope, *, limit: int, cursor: str | None = None
    ) -> tuple[builtins.list[StoredMemory], str | None]:
        """Return a page of all that is held of a scope's memories, facts after their turns, and the next cursor."""
        check((), limit)
        return await self._snapshot(transfer.dump, scope, limit, cursor)

    async def dump_jobs(self, scope: Scope) -> builtins.list[StoredJob]:
        """Return the unfinished jobs of a scope, oldest first."""
        return await self._read(transfer.dump_jobs, scope)

    async def load(
        self, memories: Sequence[StoredMemory], jobs: Sequence[StoredJob] = (), *, space: EmbeddingSpace
    ) -> int:
        """Store what another store dumped, but what is there already; returns how many memories were new."""
        return await self._write(transfer.load, tuple(memories), tuple(jobs), space=space, where=self.location)

    async def backup(self, path: str) -> None:
        """Refuse: the server's own tools copy what it holds.

        Raises:
            StoreError: always.
        """
        raise StoreError(f"the store {self.location} is backed up by pg_dump --schema={self._schema}, not to {path!r}")

    async def optimize(self) -> None:
        """Bring indexes and statistics up to date and give free space back. Others read and write meanwhile.

        It makes the index of vectors where a user, agent or run has more than 20,000 memories, in about a minute for
        100,000, and drops it where none is large any more. With it, adding is several times slower.
        """
        async with self._session() as conn:
            await admin.optimize(conn)

    async def check(self) -> builtins.list[str]:
        """Compare rows, vectors, indexed words and links; returns what is wrong in words, nothing where all is well."""
        async with self._session() as conn:
            return await admin.check(conn)

    async def _add(self, pool: PostgresPool, additions: Sequence[Addition]) -> None:
        await pool.write(partial(writes.add, additions=additions, bound=self._space, where=self.location))
        self._space = additions[-1].space

    async def _read(
        self, work: Callable[Concatenate[Connection, P], Awaitable[T]], *args: P.args, **options: P.kwargs
    ) -> T:
        return await self._pool.read(lambda conn: work(conn, *args, **options))

    async def _snapshot(
        self, work: Callable[Concatenate[Connection, P], Awaitable[T]], *args: P.args, **options: P.kwargs
    ) -> T:
        return await self._pool.snapshot(lambda conn: work(conn, *args, **options))

    async def _write(
        self, work: Callable[Concatenate[Connection, P], Awaitable[T]], *args: P.args, **options: P.kwargs
    ) -> T:
        return await self._pool.write(lambda conn: work(conn, *args, **options))

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[Connection]:
        """A connection of its own, for what takes long."""
        self._pool.check_loop()
        async with session(self._url, timeout_s=self._limits.connect_timeout_s, where=self.location) as conn:
            await conn.execute("SELECT set_config('search_path', $1, false)", self._search_path)
            yield conn

    @property
    def _pool(self) -> PostgresPool:
        if self._open is None:
            raise StoreClosed(f"the store {self.location} is not open: use `async with`")
        return self._open


def _now() -> datetime:
    return datetime.now(UTC)
