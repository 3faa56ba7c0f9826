"""`SQLiteStore`: the embedded store, one file, the standard library's `sqlite3` and numpy.

It turns the calls of the port into work for the store's threads. What a call does is in the `_sqlite_*` modules.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Self, TypeVar

from ollama_async_mem.errors import ConfigError, StoreClosed, StoreError

from . import _sqlite_admin as admin
from . import _sqlite_events as events
from . import _sqlite_jobs as queue
from . import _sqlite_reads as reads
from . import _sqlite_rows as rows
from . import _sqlite_transfer as transfer
from . import _sqlite_writes as writes
from ._checks import check, check_around
from ._sqlite_codes import Upkeep
from ._sqlite_dense import Asked, Found, NearestSearch
from ._sqlite_events import Why
from ._sqlite_inserts import insert_memories
from ._sqlite_keywords import WordSearch
from ._sqlite_matrices import MatrixCache
from ._sqlite_merges import IndexMerge, merge_index
from ._sqlite_migrations import DEFAULT_TOKENIZER, MIGRATIONS
from ._sqlite_records import RecordCache
from ._sqlite_schema import connect_reader, connect_writer, expand
from ._sqlite_threads import SQLiteThreads

if TYPE_CHECKING:
    import builtins
    import os
    import sqlite3
    from collections.abc import Callable, Coroutine, Sequence
    from datetime import timedelta

    from ollama_async_mem.counts import Counts, ScopeCounts, Statistics
    from ollama_async_mem.ports import Vector
    from ollama_async_mem.records import (
        Also,
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
    from ollama_async_mem.steps import Choose, Tell

P = ParamSpec("P")
T = TypeVar("T")

RECORD_BYTES = 16 << 20

__all__ = ["SQLiteStore"]


class SQLiteStore:
    """Memories in one SQLite file, or in memory where `path` is None. Implements `ports.MemoryStore`.

    Several stores, also of several processes, may have one file open. Files and folders that it makes are for this
    account only. Text is stored as it comes, but for lone halves of surrogate pairs, which no encoding holds: they
    become U+FFFD. Vectors are stored with length one.

    Without `create` the file must exist; `readers` threads search, all but one only while that takes long;
    `busy_timeout_s` is how long another process is waited for before `StoreBusy`. `durability="full"` syncs before a
    write returns; "relaxed" may lose the last writes when the power fails, though not when a process is killed.
    `tokenize` is how FTS5 splits the text of a new file, such as "unicode61 remove_diacritics 2" without English stems,
    or "trigram" for parts of words. `cache_bytes` bounds the memory for vectors of scopes that are searched often, a
    scope that does not fit is read from the file each time; what was found lately takes up to 16 MiB more.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        *,
        create: bool = True,
        readers: int = 3,
        busy_timeout_s: float = 5.0,
        durability: Literal["full", "relaxed"] = "full",
        tokenize: str = DEFAULT_TOKENIZER,
        cache_bytes: int = 512 << 20,
    ) -> None:
        if durability not in {"full", "relaxed"}:
            raise ConfigError(f"durability is 'full' or 'relaxed', got {durability!r}")
        self._path = None if path is None else expand(path)
        self._connect_writer = partial(
            connect_writer,
            self._path,
            busy_timeout_s=busy_timeout_s,
            create=create,
            is_relaxed=durability == "relaxed",
            tokenize=tokenize,
        )
        self._busy_timeout_s = busy_timeout_s
        self._readers = 0 if path is None else readers
        self._cache_bytes = cache_bytes
        self._open: SQLiteThreads | None = None
        self._forget()

    def _forget(self) -> None:
        """Begin with what is kept in memory of a file."""
        self._nearest, self._words = NearestSearch(MatrixCache(self._cache_bytes), self.location), WordSearch()
        self._upkeep, self._merge = Upkeep(), IndexMerge()
        records = RecordCache(RECORD_BYTES)
        self._connect_reader = partial(connect_reader, self._path, busy_timeout_s=self._busy_timeout_s, records=records)

    def _keep_up(self, conn: sqlite3.Connection, *, is_idle: bool) -> float | None:
        """Do a step of what nobody waits for; returns how long nothing must be written until the next, if there is."""
        is_kept_up = not self._upkeep.after_commit(conn, is_idle=is_idle)
        return self._merge.after_commit(conn, is_idle=is_idle) if is_kept_up else 0.0

    @property
    def location(self) -> str:
        """The path of the file."""
        return "sqlite:// (in memory)" if self._path is None else str(self._path)

    async def __aenter__(self) -> Self:
        """Open the file; with `create`, it and its folder are made where they are missing.

        Raises:
            ConfigError: FTS5 does not know the tokenizer.
            SchemaTooNew: a newer version of this library wrote it.
            StoreBusy: another process holds its lock.
            StoreError: it cannot be opened, or is not a store, or this SQLite is older than 3.35.
        """
        if self._open is not None:
            raise StoreError(f"the store {self.location} is open already")
        self._forget()
        self._open = SQLiteThreads(
            self._connect_writer, self._connect_reader, readers=self._readers, where=self.location, upkeep=self._keep_up
        )
        try:
            await self._open.start()
        except BaseException:
            self._open = None
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Finish what was begun and close the file."""
        threads, nearest, self._open = self._threads, self._nearest, None
        try:
            await threads.stop()
        finally:
            nearest.stop()

    async def embedding_space(self) -> EmbeddingSpace | None:
        """Which vectors the store holds; None before the first. It stays bound when all memories are deleted."""
        return await self._read(rows.read_space)

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
        add = partial(queue.add_turns_and_job, prompt=prompt) if extract else insert_memories
        made = await self._threads.write(
            partial(add, memories=tuple(turns), vectors=tuple(vectors), model=model, where=self.location)
        )
        return made if isinstance(made, str) else None

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
        found = await self._nearest.find(self._read, selection, Asked(vector), model=model, limit=limit)
        return rows.own(found.candidates)

    async def search_by_vector(
        self, selection: Selection, vector: Vector, *, model: str, limit: int, also: Also | None, choose: Choose
    ) -> Found:
        """Do what `dense_candidates` does in two places and `neighbours` for those that `choose` names, in one step."""
        return await self._nearest.find(self._read, selection, Asked(vector, also, choose), model=model, limit=limit)

    async def keyword_candidates(self, selection: Selection, query: str, *, limit: int) -> builtins.list[Candidate]:
        """Return the memories that share words with the query, best first, by BM25. Any text is a valid query.

        English words match by their stem. The statistics behind the score are those of the whole file.
        """
        return rows.own(await self._words.find(self._read, selection, query, limit=limit))

    async def search_by_words(
        self, selection: Selection, query: str, *, limit: int, also: Also | None, tell: Tell
    ) -> builtins.list[Candidate]:
        """Do what `keyword_candidates` does in two places in one step, and `tell` it at once."""
        return await self._words.find(self._read, selection, query, limit=limit, also=also, tell=tell)

    async def get(self, memory_id: str) -> MemoryRecord:
        """Return one memory."""
        return await self._read(rows.get, memory_id)

    async def get_many(self, memory_ids: Sequence[str]) -> builtins.list[MemoryRecord]:
        """Return memories in the order of their ids, without those that are not there."""
        return await self._read(rows.get_many, tuple(memory_ids))

    async def list(self, selection: Selection, *, limit: int, cursor: str | None = None, sort: Sort = "-at") -> Page:
        """Return a page of memories, those of the same time by id; `cursor` is that of the page before."""
        check(selection.kinds, limit, sort)
        return await self._read(reads.list_page, selection=selection, limit=limit, cursor=cursor, sort=sort, now=_now())

    async def neighbours(
        self, turn_ids: Sequence[str], *, before: int = 1, after: int = 1
    ) -> dict[str, builtins.list[Turn]]:
        """Return the turns around each of some turns, in exactly its scope, without itself and expired ones."""
        check_around(before, after)
        return await self._read(reads.neighbours, tuple(turn_ids), before, after, _now())

    async def history(self, memory_id: str) -> builtins.list[Event]:
        """Return what happened to a memory, oldest first, also when it was deleted."""
        return await self._read(events.history, memory_id)

    async def counts(self, scope: Scope) -> Counts:
        """Count the memories of a scope, superseded and expired ones among them; the empty scope counts all."""
        return await self._read(reads.count, scope)

    async def scopes(self, scope: Scope, *, limit: int, after: Scope | None = None) -> builtins.list[ScopeCounts]:
        """Return the scopes that hold memories, by user, agent and run, where none comes first; `after` one of them."""
        check((), limit)
        return await self._read(reads.scopes, scope, limit, after)

    async def statistics(self) -> Statistics:
        """Count all there is."""
        return await self._read(reads.statistics, len(MIGRATIONS), _now())

    async def claim_jobs(self, *, now: datetime, lease: timedelta, limit: int) -> builtins.list[Job]:
        """Take the oldest job that is due and those of exactly its scope that are, up to `limit` in all."""
        check((), limit)
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
        return await self._write(
            partial(work, reinforced=tuple(reinforced)), jobs=tuple(jobs), model=model, now=_now(), where=self.location
        )

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
        """Return how one job stands, None when it is finished.

        A finished job leaves no row: an id that is made as ids of jobs are, and not newer than the newest that was
        finished, is taken for one.
        """
        return await self._read(queue.status, job_id)

    async def dump(
        self, scope: Scope, *, limit: int, cursor: str | None = None
    ) -> tuple[builtins.list[StoredMemory], str | None]:
        """Return a page of all that is held of a scope's memories, facts after their turns, and the next cursor."""
        check((), limit)
        return await self._read(transfer.dump, scope, limit, cursor)

    async def dump_jobs(self, scope: Scope) -> builtins.list[StoredJob]:
        """Return the unfinished jobs of a scope, oldest first."""
        return await self._read(transfer.dump_jobs, scope)

    async def load(
        self, memories: Sequence[StoredMemory], jobs: Sequence[StoredJob] = (), *, space: EmbeddingSpace
    ) -> int:
        """Store what another store dumped, but what is there already; returns how many memories were new."""
        return await self._write(transfer.load, tuple(memories), tuple(jobs), space=space, where=self.location)

    async def backup(self, path: str) -> None:
        """Write a copy of the store to a new file, while others read and write.

        It is complete and synced once it is there under its name, for this account only. Cancelling leaves none.

        Raises:
            StoreError: there is such a file already, or it cannot be written.
        """
        await self._threads.aside(partial(admin.backup, path=expand(path), where=self.location))

    async def optimize(self) -> None:
        """Bring indexes and statistics up to date and give free space back. Other writes wait for some of it."""
        first = True
        while await self._write(merge_index, first=first):
            first = False
        await self._write(self._upkeep.restart)
        while await self._write(self._upkeep.step):
            pass
        await self._threads.alone(admin.tidy)

    async def check(self) -> builtins.list[str]:
        """Compare rows, vectors, keyword index and links; returns what is wrong in words, nothing where all is well.

        Others read and write meanwhile. The keyword index of a large file is compared in a temporary copy of it.
        """
        wrong = await self._threads.aside(admin.check_rows)
        if self._readers and await self._read(admin.is_large):
            return wrong + await self._threads.aside(admin.check_copied_index)
        return wrong + await self._threads.alone(admin.check_index)

    def _read(
        self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **options: P.kwargs
    ) -> Coroutine[Any, Any, T]:
        return self._threads.read(lambda conn: work(conn, *args, **options))

    def _write(
        self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **options: P.kwargs
    ) -> Coroutine[Any, Any, T]:
        return self._threads.write(lambda conn: work(conn, *args, **options))

    @property
    def _threads(self) -> SQLiteThreads:
        if self._open is None:
            raise StoreClosed(f"the store {self.location} is not open: use `async with`")
        return self._open


def _now() -> datetime:
    return datetime.now(UTC)
