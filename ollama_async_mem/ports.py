"""What the memory needs from the outside, as protocols. Concrete classes are named only by `app.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    import builtins
    from collections.abc import AsyncIterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime, timedelta

    import numpy as np
    from numpy.typing import NDArray

    from .counts import Counts, EmbeddingCounts, ScopeCounts, Statistics
    from .records import (
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

    Vector = NDArray[np.float32]

__all__ = ["ChatModel", "CountingEmbedder", "Embedder", "InstructedModel", "MemoryStore", "Reranker"]


class Embedder(Protocol):
    """Texts in, vectors of length one out. Works inside `async with`; concurrent calls may share a request."""

    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *exc: object) -> None: ...

    @property
    def model(self) -> str:
        """Canonical name of the model: what a store is bound to."""
        ...

    async def embed_documents(self, texts: Sequence[str]) -> list[Vector]:
        """Embed texts that are to be found, in order."""
        ...

    async def embed_query(self, text: str) -> Vector:
        """Embed a text that looks for others."""
        ...


@runtime_checkable
class CountingEmbedder(Embedder, Protocol):
    """An embedder that counts what it does; none has to."""

    @property
    def statistics(self) -> EmbeddingCounts:
        """What it has done so far."""
        ...


class ChatModel(Protocol):
    """A chat model, whole answers and streamed ones."""

    @property
    def model(self) -> str:
        """Name of the model, for people."""
        ...

    async def generate(self, messages: Sequence[Mapping[str, Any]], *, schema: type[Any] | None = None) -> Any:
        """Answer with text, or with an instance of `schema` (a msgspec Struct).

        Raises:
            ModelOutputError: the answer does not fit `schema`.
        """
        ...

    def stream(self, messages: Sequence[Mapping[str, Any]]) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """Answer as pieces of text; leaving the context stops the model."""
        ...


@runtime_checkable
class InstructedModel(ChatModel, Protocol):
    """A chat model that has instructions of its own where a conversation has none; none has to."""

    async def instructions(self) -> str:
        """Return them, "" for none."""
        ...


class Reranker(Protocol):
    """Reads a query and a text together, as a cross-encoder does, and says how well they fit."""

    async def rerank(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        """Score each text, in order, from 0 to 1.

        Raises:
            OllamaAsyncMemError: it cannot; the search goes on without it.
        """
        ...


class MemoryStore(Protocol):
    """Durable memories with their vectors, keyword index, history and jobs. What returned is on disk.

    Each method is one transaction, but `load`, which is one for each call, and `dump`, whose pages are one each. When
    its caller is cancelled it happened as a whole or not at all. A `records.Selection` says which memories are meant.
    Every method may raise `StoreError`, `StoreClosed` when not open, and `ConfigError` for a kind or sort that is
    unknown, a limit below 1, `before` or `after` below 0, or a cursor that no page of this listing had.
    """

    @property
    def location(self) -> str:
        """Where the data lies, for people: a path or a URL without secrets."""
        ...

    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *exc: object) -> None: ...

    async def embedding_space(self) -> EmbeddingSpace | None:
        """Which vectors the store holds; None before the first. It stays bound when all memories are deleted."""
        ...

    async def add_turns(
        self,
        turns: Sequence[Turn],
        vectors: Sequence[Vector],
        *,
        model: str,
        extract: bool = False,
        prompt: str | None = None,
    ) -> str | None:
        """Store turns, vectors and keyword index; where `extract` is set, queue a job for their facts, with a `prompt`.

        `vectors[i]` belongs to `turns[i]`; `model` made them; they are stored with length one. Returns the job's id.

        Raises:
            EmbeddingMismatch: the store holds vectors of another model or dimension.
            StoreError: an id is taken, a vector has no direction, or with `extract` the turns are of several scopes.
                Nothing was stored.
        """
        ...

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
        """Change one memory and note it in its history; returns it as it is now. A new text comes with its vector.

        A turn whose text changes leaves `Fact.turn_ids` as one that is deleted does. Claims on its jobs end, and those
        jobs are due at once; where none waits for it and `extract` is set, one is queued. None sets it for a turn that
        was to be read before: where a fact was drawn from it, or a job for it was given up.

        Raises:
            RecordNotFound: there is none with this id.
            EmbeddingMismatch: the store holds vectors of another model or dimension.
            StoreError: a new text came without a vector.
        """
        ...

    async def supersede(self, supersessions: Sequence[Supersession], *, actor: str | None = None) -> None:
        """Say that facts no longer hold, and note it in their history. One that ended by then is left as it is.

        Raises:
            RecordNotFound: there is no fact with one of these ids; nothing was changed.
        """
        ...

    async def delete(self, memory_id: str, *, actor: str | None = None, cause: str | None = None) -> None:
        """Destroy one memory, its vector and its index entries, and the texts in its history.

        A turn also leaves its jobs and `Fact.turn_ids`. A fact that has no turn left then is destroyed too, and its
        history says so; one that has others loses its quote, unless that stands in one of them word for word. Facts
        that never had a turn stay.

        Raises:
            RecordNotFound: there is none with this id.
        """
        ...

    async def delete_all(self, selection: Selection, *, actor: str | None = None, cause: str | None = None) -> int:
        """Destroy a selection as `delete` does; returns how many it had, not counting facts that lose their turns."""
        ...

    async def purge_expired(self, *, now: datetime) -> int:
        """Destroy the memories that expired by `now`, for the cause "expired"; otherwise as `delete_all`."""
        ...

    async def dense_candidates(
        self, selection: Selection, vector: Vector, *, model: str, limit: int
    ) -> list[Candidate]:
        """Return the memories whose vectors are nearest, best first, scored by cosine. `model` made the vector.

        Raises:
            EmbeddingMismatch: the store holds vectors of another model or dimension.
        """
        ...

    async def keyword_candidates(self, selection: Selection, query: str, *, limit: int) -> list[Candidate]:
        """Return the memories that share words with the query, best first, by BM25. Any text is a valid query."""
        ...

    async def get(self, memory_id: str) -> MemoryRecord:
        """Return one memory.

        Raises:
            RecordNotFound: there is none with this id.
        """
        ...

    async def get_many(self, memory_ids: Sequence[str]) -> builtins.list[MemoryRecord]:
        """Return a memory for each id, in order, but for those that are not there."""
        ...

    async def list(self, selection: Selection, *, limit: int, cursor: str | None = None, sort: Sort = "-at") -> Page:
        """Return a page of memories, those of the same time by id; `cursor` is that of the page before."""
        ...

    async def neighbours(
        self, turn_ids: Sequence[str], *, before: int = 1, after: int = 1
    ) -> dict[str, builtins.list[Turn]]:
        """Return the turns around each of some turns, in exactly its scope, by `at` and id, without expired ones."""
        ...

    async def history(self, memory_id: str) -> builtins.list[Event]:
        """Return what happened to a memory, oldest first, also when it was deleted, and to all that had this id.

        Raises:
            RecordNotFound: there never was one with this id.
        """
        ...

    async def counts(self, scope: Scope) -> Counts:
        """Count the memories of a scope, superseded and expired ones among them; the empty scope counts all."""
        ...

    async def scopes(self, scope: Scope, *, limit: int, after: Scope | None = None) -> builtins.list[ScopeCounts]:
        """Return the scopes that hold memories, by user, agent and run, where none comes first; `after` one of them."""
        ...

    async def statistics(self) -> Statistics:
        """Count all there is."""
        ...

    async def claim_jobs(self, *, now: datetime, lease: timedelta, limit: int) -> builtins.list[Job]:
        """Take the oldest job that is due and those of exactly its scope that are, up to `limit` in all, oldest first.

        Jobs of an owner of whom somebody holds one under a lease are not handed out: those of one owner are worked off
        one after the other. The owner is the user and the agent of a scope, or its run where it has neither. A job
        comes back when its lease ends unfinished. `attempts` counts the claims of a job, but those that `return_jobs`
        took back. The claim ends when the job is finished, released, returned or claimed again, and from then on
        `renew_jobs`, `finish_jobs`, `release_jobs` and `return_jobs` do nothing with what was returned here. The end of
        the lease alone does not end the claim.
        """
        ...

    async def renew_jobs(self, jobs: Sequence[Job], *, now: datetime, lease: timedelta) -> None:
        """Let the lease of claimed jobs end later. Those whose claim ended are left as they are.

        Raises:
            StoreError: there is no such job; nothing was changed.
        """
        ...

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

        The jobs end in the same transaction. Unless all the claims stand it changes nothing, and returns False. A fact
        whose turns have all been deleted meanwhile is skipped, and so is what it supersedes: what was deleted does not
        come back as a fact. A superseded or reinforced fact that is gone is skipped, and so are turns that are.

        Raises:
            EmbeddingMismatch: the store holds vectors of another model or dimension.
            StoreError: there is no such job, or a fact cannot be stored; then none is, and the claims stand.
        """
        ...

    async def release_jobs(self, jobs: Sequence[Job], *, error: str, retry_at: datetime | None) -> None:
        """Give claimed jobs back after a failure: to be tried at `retry_at`, or never again where that is None.

        Those whose claim ended are left as they are.

        Raises:
            StoreError: there is no such job; nothing was changed.
        """
        ...

    async def return_jobs(self, jobs: Sequence[Job]) -> None:
        """Give claimed jobs back untouched: due at once, and this attempt is not counted.

        Those whose claim ended are left as they are.

        Raises:
            StoreError: there is no such job; nothing was changed.
        """
        ...

    async def revive_jobs(self, *, dead: bool = True) -> int:
        """Let jobs that were put off be due at once, and with `dead` queue those given up as new; returns how many."""
        ...

    async def pending_jobs(self) -> int:
        """Count the jobs that are neither finished nor given up."""
        ...

    async def unfinished_jobs(self, *, limit: int = 100) -> builtins.list[JobStatus]:
        """Return the jobs that wait, are claimed or were given up, oldest first."""
        ...

    async def job_status(self, job_id: str) -> JobStatus | None:
        """Return how one job stands, None when it is finished.

        Raises:
            StoreError: there is no such job.
        """
        ...

    async def dump(
        self, scope: Scope, *, limit: int, cursor: str | None = None
    ) -> tuple[builtins.list[StoredMemory], str | None]:
        """Return a page of all that is held of a scope's memories, facts after their turns, and the next cursor.

        A page ends early where its texts are long.
        """
        ...

    async def dump_jobs(self, scope: Scope) -> builtins.list[StoredJob]:
        """Return the unfinished jobs of a scope, oldest first."""
        ...

    async def load(
        self, memories: Sequence[StoredMemory], jobs: Sequence[StoredJob] = (), *, space: EmbeddingSpace
    ) -> int:
        """Store what another store dumped, but what is there already; returns how many memories were new.

        A turn that is not there leaves `Fact.turn_ids` and jobs. A job is left out where none of its turns is there, or
        one of them has facts already: then it was loaded and finished before. One that is there ends when a fact of its
        turns is loaded: then it was finished elsewhere.

        Raises:
            EmbeddingMismatch: the store holds vectors of another space.
            StoreError: a memory cannot be stored; then none is.
        """
        ...

    async def backup(self, path: str) -> None:
        """Write a copy of the store to a new file, while others read and write.

        Raises:
            StoreError: this kind of store is backed up by other means, which the message names.
        """
        ...

    async def optimize(self) -> None:
        """Bring indexes and statistics up to date and give free space back. May take long; nothing needs it."""
        ...

    async def check(self) -> builtins.list[str]:
        """Compare rows, vectors, keyword index and links; returns what is wrong in words, nothing where all is well."""
        ...
