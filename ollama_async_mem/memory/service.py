"""`MemoryService`: adds, finds and chats over a store, an embedder and a chat model.

It owns the extraction that runs behind the adds, and knows its parts only as ports.
"""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Self

import anyio

from ollama_async_mem.errors import ConfigError, EmbeddingMismatch, OllamaError, StoreClosed
from ollama_async_mem.memory.chat import MemoryChat
from ollama_async_mem.memory.context import pack
from ollama_async_mem.memory.ingest import Ingest
from ollama_async_mem.memory.messages import (
    as_messages,
    as_time,
    as_turn,
    require_kinds,
    require_limit,
    require_query,
    require_scope,
    require_tokens,
)
from ollama_async_mem.memory.rank import fuse
from ollama_async_mem.records import AddResult, Counts, MemoryRecord, Page, Scope, SearchResult, Selection

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from ollama_async_mem.memory.messages import MessageInput
    from ollama_async_mem.ports import ChatModel, Embedder, MemoryStore, Vector
    from ollama_async_mem.records import Candidate, Kind, Turn

__all__ = ["MemoryService"]

_log = logging.getLogger(__name__)
_ALL: tuple[Kind, ...] = ("turn", "fact")
_INFER = ("background", "now", False)


class MemoryService:
    """A memory for any number of users. `async with` opens its store and starts the extraction behind it.

    Without `llm` there is no extraction and no `chat`; adding and finding need none. With `extract_here` off, jobs are
    queued for other processes. `resources` are opened before everything else and closed after it.

    Every method may raise `StoreError`; those that embed or generate may raise `OllamaError`.
    """

    def __init__(
        self,
        *,
        store: MemoryStore,
        embedder: Embedder,
        llm: ChatModel | None = None,
        extract_here: bool = True,
        resources: Sequence[AbstractAsyncContextManager[Any]] = (),
    ) -> None:
        self.store = store
        self._resources = resources
        self._embedder = embedder
        self._llm = llm
        self._ingest = Ingest(store, embedder, llm) if llm and extract_here else None
        self._is_open = False
        self._was_opened = False
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        if self._was_opened:
            raise ConfigError("a memory is opened once: make a new one")
        self._was_opened = True
        async with AsyncExitStack() as stack:  # what is open already is closed when a later step fails
            for resource in (*self._resources, self.store, self._embedder):
                await stack.enter_async_context(resource)
            await self._check_embedding_space()
            if self._ingest:
                tasks = await stack.enter_async_context(anyio.create_task_group())
                stack.callback(tasks.cancel_scope.cancel)  # an unfinished job stays in the queue
                tasks.start_soon(self._ingest.run)
            self._stack = stack.pop_all()
        self._is_open = True
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop the extraction and close the store. May be called more than once."""
        self._is_open = False
        await self._stack.aclose()

    async def add(
        self,
        messages: MessageInput | Sequence[MessageInput],
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        timestamp: datetime | str | None = None,
        infer: Literal["background", "now", False] = "background",
    ) -> AddResult:
        """Store messages word for word; when this returns they are on disk and can be found.

        A message is a text, a mapping with `content` and optional `role`, `name` and `timestamp`, or a
        `Message`. `timestamp` is for those without one, by default now. Facts are extracted behind, before the
        return with `infer="now"`, or not at all with `infer=False`.

        Raises:
            ConfigError: no id is given, or a message is blank; nothing was stored.
        """
        scope = self._scope(user_id, agent_id, run_id)
        if infer not in _INFER or not isinstance(metadata, dict | None):
            raise ConfigError(f"infer is one of {_INFER} and metadata a dict, got {infer!r} and {metadata!r}")
        now = datetime.now(UTC)
        at = as_time(timestamp) or now
        turns = [as_turn(m, scope, now=now, at=at, metadata=metadata or {}) for m in as_messages(messages)]
        return await self._store_turns(turns, infer)

    async def search(
        self,
        query: str,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        limit: int = 10,
        kinds: Sequence[Kind] = _ALL,
    ) -> SearchResult:
        """Find the memories that fit a query, best first, each with a score from 0 to 1.

        Ids that are given must match. When the query cannot be embedded, the hits are those of the keyword
        index and `degraded` says `("dense",)`.

        Raises:
            ConfigError: no id is given, the query is blank, or `limit` is out of range.
        """
        scope = self._scope(user_id, agent_id, run_id)
        selection = Selection(scope=scope, kinds=tuple(require_kinds(kinds)))
        return await self._find(require_query(query), selection, limit=require_limit(limit))

    async def context(
        self,
        query: str,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        max_tokens: int = 800,
    ) -> str:
        """Write down what fits a query as dated lines for a prompt, oldest first, within `max_tokens`."""
        budget = require_tokens(max_tokens)
        found = await self.search(query, user_id=user_id, agent_id=agent_id, run_id=run_id, limit=50)
        return pack(found.hits, max_tokens=budget)

    def chat(
        self,
        messages: str | Sequence[MessageInput],
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        max_tokens: int = 800,
        remember: bool = True,
        infer: Literal["background", "now", False] = "background",
    ) -> MemoryChat:
        """Answer with what is remembered, and remember the exchange: `async with mem.chat(...) as stream`.

        The last message is what the memory is asked for; those before it are the conversation so far. When the
        answer is complete, the last message and the answer are added, unless `remember` is off.

        Raises:
            ConfigError: no id is given, a message is blank, or this memory has no chat model.
        """
        scope = self._scope(user_id, agent_id, run_id)
        if self._llm is None:
            raise ConfigError("this memory has no chat model: pass llm= when it is made")
        if infer not in _INFER:
            raise ConfigError(f"infer is one of {_INFER}, got {infer!r}")
        return MemoryChat(
            self,
            self._llm,
            as_messages(messages),
            scope,
            max_tokens=max_tokens,
            remember=remember,
            infer=infer,
        )

    async def get(self, memory_id: str) -> MemoryRecord:
        """Return one memory.

        Raises:
            RecordNotFound: there is none with this id.
        """
        return await self.store.get(memory_id)

    async def list(
        self,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        kinds: Sequence[Kind] = _ALL,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        """List memories, newest first; `cursor` of one page fetches the next."""
        scope = self._scope(user_id, agent_id, run_id)
        if not isinstance(cursor, str | None):
            raise ConfigError(f"cursor is what the page before gave, got {cursor!r}")
        selection = Selection(scope=scope, kinds=tuple(require_kinds(kinds)), everything=True)
        return await self.store.list(selection, limit=require_limit(limit), cursor=cursor)

    async def delete(self, memory_id: str) -> None:
        """Destroy one memory.

        Raises:
            RecordNotFound: there is none with this id.
        """
        await self.store.delete(memory_id)

    async def count(
        self, *, user_id: str | None = None, agent_id: str | None = None, run_id: str | None = None
    ) -> Counts:
        """Count memories; without any id, all of the store."""
        everything = user_id is agent_id is run_id is None
        return await self.store.counts(Scope() if everything else self._scope(user_id, agent_id, run_id))

    async def flush(self) -> int:
        """Wait for the extraction that is queued.

        Returns how many jobs are still waiting: those whose model could not be reached and which are tried again
        later, and those that other processes hold; `store.unfinished_jobs()` says why.

        Raises:
            StoreClosed: the memory was closed meanwhile.
        """
        if self._ingest and self._is_open:
            await self._ingest.settled()
        return await self.store.pending_jobs()

    @property
    def llm_model(self) -> str:
        """Name of the chat model, "" where there is none."""
        return self._llm.model if self._llm else ""

    def _scope(self, user_id: str | None, agent_id: str | None, run_id: str | None) -> Scope:
        if not self._is_open:
            raise StoreClosed("a memory is used inside 'async with'")
        return require_scope(user_id, agent_id, run_id)

    async def _check_embedding_space(self) -> None:
        space = await self.store.embedding_space()
        if space and space.model != self._embedder.model:
            raise EmbeddingMismatch(
                expected=space.model, got=self._embedder.model, where=f"the store {self.store.location}"
            )

    async def _store_turns(self, turns: Sequence[Turn], infer: Literal["background", "now", False]) -> AddResult:
        vectors = await self._embedder.embed_documents([f"{turn.who}: {turn.text}" for turn in turns])
        extract = infer is not False and self._llm is not None
        job_id = await self.store.add_turns(turns, vectors, model=self._embedder.model, extract=extract)
        if job_id is None:
            return AddResult(tuple(turns))
        added = AddResult(tuple(turns), job_id, "queued")
        if self._ingest:
            self._ingest.wake()
        return await self.settled(added) if infer == "now" else added

    async def settled(self, added: AddResult) -> AddResult:
        """Wait for the extraction behind an add; returns it with how that went."""
        if not (self._ingest and added.job_id):
            return added
        await self._ingest.settled()
        status = await self.store.job_status(added.job_id)
        if status is None:
            return AddResult(added.turns, added.job_id, "done")
        return AddResult(added.turns, added.job_id, "failed" if status.state == "dead" else "waiting", status.error)

    async def _find(self, query: str, selection: Selection, *, limit: int) -> SearchResult:
        pool = max(50, 4 * limit)
        lists: dict[str, list[Candidate]] = {}

        async def dense() -> None:
            if (vector := await self._embed_query(query)) is not None:
                lists["dense"] = await self.store.dense_candidates(
                    selection, vector, model=self._embedder.model, limit=pool
                )

        async def keyword() -> None:
            lists["keyword"] = await self.store.keyword_candidates(selection, query, limit=pool)

        await _together(dense, keyword)
        degraded = () if "dense" in lists else ("dense",)
        return SearchResult(fuse(lists, limit=limit), degraded)

    async def _embed_query(self, query: str) -> Vector | None:
        """Embed a query, or return None where the server cannot: finding goes on with the other index."""
        try:
            return await self._embedder.embed_query(query)
        except OllamaError as exc:
            _log.warning("searching by words only, the query could not be embedded: %s", exc)
            return None


async def _together(*functions: Any) -> None:
    """Run functions at once; the first error is raised as it is, not in a group."""
    try:
        async with anyio.create_task_group() as tasks:
            for function in functions:
                tasks.start_soon(function)
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from group.exceptions[0].__cause__
