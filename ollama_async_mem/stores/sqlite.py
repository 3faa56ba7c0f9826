"""`SQLiteStore`: the embedded store, one file, the standard library's `sqlite3` and numpy.

It turns the calls of the port into work for the store's threads. What a call does is in the `_sqlite_*` modules.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self, get_args

from ollama_async_mem.errors import ConfigError, StoreClosed, StoreError
from ollama_async_mem.records import Kind

from . import _sqlite_jobs as jobs
from . import _sqlite_reads as reads
from . import _sqlite_writes as writes
from ._sqlite_matrices import MatrixCache, dense_candidates
from ._sqlite_schema import connect_reader, connect_writer
from ._sqlite_threads import SQLiteThreads

if TYPE_CHECKING:
    import builtins
    from collections.abc import Sequence
    from datetime import datetime, timedelta

    from ollama_async_mem.ports import Vector
    from ollama_async_mem.records import (
        Candidate,
        Counts,
        EmbeddingSpace,
        Fact,
        Job,
        JobStatus,
        MemoryRecord,
        Page,
        Scope,
        Turn,
    )

__all__ = ["SQLiteStore"]


class SQLiteStore:
    """Memories in one SQLite file, or in memory where `path` is None. Implements `ports.MemoryStore`.

    Several stores, also of several processes, may have one file open. Files and folders that it makes are for this
    account only. Text is stored as it comes, but for lone halves of surrogate pairs, which no encoding holds: they
    become U+FFFD. Vectors are stored with length one.

    Without `create` the file must exist; `readers` threads search at the same time; `busy_timeout_s` is how long
    another process is waited for before `StoreBusy`; `cache_bytes` bounds the memory for vectors of scopes that are
    searched often, a scope that does not fit is read from the file each time.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        *,
        create: bool = True,
        readers: int = 3,
        busy_timeout_s: float = 5.0,
        cache_bytes: int = 512 << 20,
    ) -> None:
        self._path = None if path is None else expand(path)
        self._create = create
        self._readers = readers
        self._busy_timeout_s = busy_timeout_s
        self._cache_bytes = cache_bytes
        self._open: SQLiteThreads | None = None

    @property
    def location(self) -> str:
        """The path of the file."""
        return "sqlite:// (in memory)" if self._path is None else str(self._path)

    async def __aenter__(self) -> Self:
        """Open the file; with `create`, it and its folder are made where they are missing.

        Raises:
            SchemaTooNew: a newer version of this library wrote it.
            StoreBusy: another process holds its lock.
            StoreError: it cannot be opened, or is not a store.
        """
        if self._open is not None:
            raise StoreError(f"the store {self.location} is open already")
        self._cache = MatrixCache(self._cache_bytes)
        self._open = SQLiteThreads(
            partial(connect_writer, self._path, busy_timeout_s=self._busy_timeout_s, create=self._create),
            partial(connect_reader, self._path, busy_timeout_s=self._busy_timeout_s),
            readers=0 if self._path is None else self._readers,
            where=self.location,
        )
        try:
            await self._open.start()
        except BaseException:
            self._open = None
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Finish what was begun and close the file."""
        threads, self._open = self._threads, None
        await threads.stop()

    async def embedding_space(self) -> EmbeddingSpace | None:
        """Which vectors the store holds; None before the first. Deleting all memories does not change it."""
        return await self._threads.read(reads.read_space)

    async def add_turns(
        self, turns: Sequence[Turn], vectors: Sequence[Vector], *, model: str, extract: bool = False
    ) -> str | None:
        """Store turns, and queue one extraction job for them where `extract` is set. Returns the job's id.

        Raises:
            EmbeddingMismatch: the store holds vectors of another model or dimension.
            StoreError: an id is taken, a vector has no direction, or turns to extract are of several scopes.
        """
        add = jobs.add_turns_and_job if extract else writes.insert_memories
        made = await self._threads.write(
            partial(add, memories=tuple(turns), vectors=tuple(vectors), model=model, where=self.location)
        )
        return made if isinstance(made, str) else None

    async def dense_candidates(
        self, scope: Scope, vector: Vector, *, model: str, kinds: Sequence[Kind], limit: int
    ) -> list[Candidate]:
        """Return the current memories whose vectors are nearest, scored by cosine; exact. `model` made the vector.

        Raises:
            ConfigError: a kind is unknown or the limit is below 1.
            EmbeddingMismatch: the store holds vectors of another model or dimension.
        """
        check(kinds, limit)
        return await self._threads.read(
            partial(
                dense_candidates,
                cache=self._cache,
                scope=scope,
                vector=vector,
                model=model,
                kinds=tuple(kinds),
                limit=limit,
                where=self.location,
            )
        )

    async def keyword_candidates(
        self, scope: Scope, query: str, *, kinds: Sequence[Kind], limit: int
    ) -> list[Candidate]:
        """Return the current memories that share words with the query, scored by BM25. Any text is a valid query.

        English words match by their stem. The statistics behind the score are those of the whole file.

        Raises:
            ConfigError: a kind is unknown or the limit is below 1.
        """
        check(kinds, limit)
        return await self._threads.read(
            partial(reads.keyword_candidates, scope=scope, query=query, kinds=tuple(kinds), limit=limit)
        )

    async def get(self, memory_id: str) -> MemoryRecord:
        """Return one memory.

        Raises:
            RecordNotFound: there is none with this id.
        """
        return await self._threads.read(partial(reads.get, memory_id=memory_id))

    async def list(self, scope: Scope, *, kinds: Sequence[Kind], limit: int, cursor: str | None = None) -> Page:
        """Return memories newest first (by `at`, then id), superseded facts among them.

        Raises:
            ConfigError: a kind is unknown, the limit is below 1, or the cursor is not that of a page before.
        """
        check(kinds, limit)
        return await self._threads.read(
            partial(reads.list_page, scope=scope, kinds=tuple(kinds), limit=limit, cursor=cursor)
        )

    async def delete(self, memory_id: str) -> None:
        """Destroy one memory, its vector, its index entries and its links, and take it out of jobs.

        Raises:
            RecordNotFound: there is none with this id.
        """
        await self._threads.write(partial(writes.delete, memory_id=memory_id))

    async def counts(self, scope: Scope) -> Counts:
        """Count the memories of a scope, superseded facts among them; the empty scope counts all."""
        return await self._threads.read(partial(reads.count, scope=scope))

    async def claim_job(self, *, now: datetime, lease: timedelta) -> Job | None:
        """Take the oldest job that is due and nobody holds. It comes back when the lease ends unfinished."""
        return await self._threads.write(partial(jobs.claim, now=now, lease=lease))

    async def finish_job(self, job: Job, facts: Sequence[Fact], vectors: Sequence[Vector], *, model: str) -> None:
        """Store the facts of a claimed job and end it, together. Without the claim it changes nothing.

        A fact whose turns have all been deleted since is skipped: what was deleted does not come back as a fact.

        Raises:
            EmbeddingMismatch: the store holds vectors of another model or dimension.
            StoreError: there is no such job, an id is taken, or a vector has no direction.
        """
        await self._threads.write(
            partial(
                jobs.finish,
                job=job,
                facts=tuple(facts),
                vectors=tuple(vectors),
                model=model,
                where=self.location,
            )
        )

    async def release_job(self, job: Job, *, error: str, retry_at: datetime | None) -> None:
        """Give a claimed job back after a failure: to be tried at `retry_at`, or never again where that is None.

        Without the claim it changes nothing.

        Raises:
            StoreError: there is no such job.
        """
        await self._threads.write(partial(jobs.release, job=job, error=error, retry_at=retry_at))

    async def return_job(self, job: Job) -> None:
        """Give a claimed job back untouched: due at once, and this attempt is not counted.

        Without the claim it changes nothing.

        Raises:
            StoreError: there is no such job.
        """
        await self._threads.write(partial(jobs.give_back, job=job))

    async def pending_jobs(self) -> int:
        """Count the jobs that are neither finished nor given up."""
        return await self._threads.read(jobs.pending)

    async def unfinished_jobs(self, *, limit: int = 100) -> builtins.list[JobStatus]:
        """Return the jobs that wait, are claimed or were given up, oldest first.

        Raises:
            ConfigError: the limit is below 1.
        """
        check((), limit)
        return await self._threads.read(partial(jobs.unfinished, limit=limit))

    async def job_status(self, job_id: str) -> JobStatus | None:
        """Return how one job stands, None when it is finished.

        Raises:
            StoreError: there is no such job.
        """
        return await self._threads.read(partial(jobs.status, job_id=job_id))

    @property
    def _threads(self) -> SQLiteThreads:
        if self._open is None:
            raise StoreClosed(f"the store {self.location} is not open: use `async with`")
        return self._open


def expand(path: str | os.PathLike[str]) -> Path:
    """The path with `~` as the home folder.

    Raises:
        ConfigError: it begins with the home folder of nobody.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as exc:
        raise ConfigError(f"the store {os.fspath(path)!r} lies in a home folder that is not known: {exc}") from exc


def check(kinds: Sequence[Kind], limit: int) -> None:
    """Check what a caller asks for.

    Raises:
        ConfigError: a kind is unknown or the limit is below 1.
    """
    if unknown := set(kinds) - set(get_args(Kind)):
        raise ConfigError(f"unknown kinds {sorted(unknown)}; allowed: {', '.join(get_args(Kind))}")
    if limit < 1:
        raise ConfigError(f"limit must be at least 1, got {limit}")
