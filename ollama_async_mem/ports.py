"""What the memory needs from the outside, as protocols. Concrete classes are named only by `app.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    import builtins
    from collections.abc import AsyncIterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime, timedelta

    import numpy as np
    from numpy.typing import NDArray

    from .records import (
        Candidate,
        Counts,
        EmbeddingSpace,
        Fact,
        Job,
        JobStatus,
        Kind,
        MemoryRecord,
        Page,
        Scope,
        Turn,
    )

    Vector = NDArray[np.float32]

__all__ = ["ChatModel", "Embedder", "MemoryStore"]


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


class MemoryStore(Protocol):
    """Durable memories with their vectors, keyword index and jobs. What returned is on disk.

    `scope` filters as `records.Scope` says. Each method is one transaction. A fact with `valid_to` is superseded:
    it is in `get`, `list` and `counts`, and never among the candidates.
    Every method may raise `StoreError`, `StoreClosed` when not open.
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
        self, turns: Sequence[Turn], vectors: Sequence[Vector], *, model: str, extract: bool = False
    ) -> str | None:
        """Store turns, vectors and keyword index, and queue one extraction job where `extract` is set.

        `vectors[i]` has length one and belongs to `turns[i]`; `model` made them. Returns the job's id.

        Raises:
            EmbeddingMismatch: the store holds vectors of another model or dimension.
            StoreError: with `extract`, the turns are of several scopes. Nothing was stored.
        """
        ...

    async def dense_candidates(
        self, scope: Scope, vector: Vector, *, model: str, kinds: Sequence[Kind], limit: int
    ) -> list[Candidate]:
        """Return the memories whose vectors are nearest, scored by cosine. `model` made the vector.

        Raises:
            ConfigError: a kind is unknown or the limit is below 1.
            EmbeddingMismatch: the store holds vectors of another model or dimension.
        """
        ...

    async def keyword_candidates(
        self, scope: Scope, query: str, *, kinds: Sequence[Kind], limit: int
    ) -> list[Candidate]:
        """Return the memories that share words with the query, scored by BM25. Any text is a valid query.

        Raises:
            ConfigError: a kind is unknown or the limit is below 1.
        """
        ...

    async def get(self, memory_id: str) -> MemoryRecord:
        """Return one memory.

        Raises:
            RecordNotFound: there is none with this id.
        """
        ...

    async def list(self, scope: Scope, *, kinds: Sequence[Kind], limit: int, cursor: str | None = None) -> Page:
        """Return memories newest first (by `at`, then id); `cursor` is that of the page before.

        Raises:
            ConfigError: a kind is unknown, the limit is below 1, or no page of this listing had the cursor.
        """
        ...

    async def delete(self, memory_id: str) -> None:
        """Destroy one memory, its vector and its index entries. A turn also leaves its jobs and `Fact.turn_ids`.

        Raises:
            RecordNotFound: there is none with this id.
        """
        ...

    async def counts(self, scope: Scope) -> Counts:
        """Count the memories of a scope; the empty scope counts all."""
        ...

    async def claim_job(self, *, now: datetime, lease: timedelta) -> Job | None:
        """Take the oldest job that is due and nobody holds. It comes back when the lease ends unfinished.

        `attempts` counts the claims of a job, but those that `return_job` took back. The claim ends when the job is
        finished, released, returned or claimed again, and from then on `finish_job`, `release_job` and `return_job`
        do nothing with what was returned here. The end of the lease alone does not end the claim.
        """
        ...

    async def finish_job(self, job: Job, facts: Sequence[Fact], vectors: Sequence[Vector], *, model: str) -> None:
        """Store the facts of a claimed job and end it, together. Without the claim it changes nothing.

        A fact whose turns have all been deleted meanwhile is skipped: what was deleted does not come back as a fact.

        Raises:
            EmbeddingMismatch: the store holds vectors of another model or dimension.
            StoreError: there is no such job, or a fact cannot be stored; then none is, and the claim stands.
        """
        ...

    async def release_job(self, job: Job, *, error: str, retry_at: datetime | None) -> None:
        """Give a claimed job back after a failure: to be tried at `retry_at`, or never again where that is None.

        Without the claim it changes nothing.

        Raises:
            StoreError: there is no such job.
        """
        ...

    async def return_job(self, job: Job) -> None:
        """Give a claimed job back untouched: due at once, and this attempt is not counted.

        Without the claim it changes nothing.

        Raises:
            StoreError: there is no such job.
        """
        ...

    async def pending_jobs(self) -> int:
        """Count the jobs that are neither finished nor given up."""
        ...

    async def unfinished_jobs(self, *, limit: int = 100) -> builtins.list[JobStatus]:
        """Return the jobs that wait, are claimed or were given up, oldest first.

        Raises:
            ConfigError: the limit is below 1.
        """
        ...

    async def job_status(self, job_id: str) -> JobStatus | None:
        """Return how one job stands, None when it is finished.

        Raises:
            StoreError: there is no such job.
        """
        ...
