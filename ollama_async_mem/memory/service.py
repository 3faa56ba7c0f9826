"""`MemoryService`: adds, finds and chats over a store, an embedder and a chat model.

It owns the extraction that runs behind the adds, and knows its parts only as ports.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import anyio
import anyio.to_thread

from ollama_async_mem.counts import MemoryStatistics
from ollama_async_mem.errors import ConfigError, EmbeddingMismatch, OllamaError
from ollama_async_mem.events import FactAdded, TurnStored
from ollama_async_mem.memory.bulk import add_all
from ollama_async_mem.memory.chat import MemoryChat
from ollama_async_mem.memory.checks import (
    Infer,
    as_time,
    require_end,
    require_infer,
    require_metadata,
    require_score,
    require_text,
    require_tokens,
)
from ollama_async_mem.memory.context import LEAST_SCORE
from ollama_async_mem.memory.conversation import as_prompt
from ollama_async_mem.memory.courtesy import Courtesy
from ollama_async_mem.memory.keeping import MemoryKeeper
from ollama_async_mem.memory.messages import are_long, as_messages, as_turns, timed
from ollama_async_mem.memory.procedures import as_fact, told, told_before, write_down
from ollama_async_mem.memory.tasks import Host
from ollama_async_mem.memory.upkeep import purge
from ollama_async_mem.memory.vision import described
from ollama_async_mem.memory.weights import DEFAULT, RankingWeights
from ollama_async_mem.ports import CountingEmbedder
from ollama_async_mem.records import AddResult

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from ollama_async_mem.memory.ingest import Ingest
    from ollama_async_mem.memory.messages import MessageInput
    from ollama_async_mem.ports import ChatModel, Embedder, MemoryStore, Reranker
    from ollama_async_mem.records import Fact, Turn

__all__ = ["MemoryService"]


class MemoryService(MemoryKeeper):
    """A memory for any number of users. `async with` opens its store and starts the extraction behind it.

    Args:
        store: where it is kept.
        embedder: makes the vectors.
        llm: extracts facts and answers in `chat`; without it there is neither, and adding and finding need none.
        vision: describes images in messages.
        extract_here: whether this process works off the extraction queue, or leaves it to others on the store.
        prompt: replaces the instructions to the model that extracts facts, all but the shape of the answer.
        idle_s: how long extraction waits for the end of a burst of adds, so that the model stays free for a chat.
        concurrency: for how many users the model is asked for facts at the same time.
        same_within: within which time the same words of the same speaker in the same scope are stored once.
        weights: of the ranking, see `RankingWeights`.
        reranker: looks at the best hits again, see `ports.Reranker`; their scores are its own then.
        resources: opened before everything else, and closed after it.

    Every method may raise `StoreError`; those that embed or generate may raise `OllamaError`.
    """

    def __init__(
        self,
        *,
        store: MemoryStore,
        embedder: Embedder,
        llm: ChatModel | None = None,
        vision: ChatModel | None = None,
        extract_here: bool = True,
        prompt: str | None = None,
        idle_s: float = 1.0,
        concurrency: int = 64,
        same_within: timedelta = timedelta(seconds=30),
        weights: RankingWeights = DEFAULT,
        reranker: Reranker | None = None,
        resources: Sequence[AbstractAsyncContextManager[Any]] = (),
    ) -> None:
        super().__init__(
            store, embedder, window=same_within, weights=weights, reranker=reranker, extracts=llm is not None
        )
        self._resources = resources
        self._llm = llm
        self._vision = vision
        self._courtesy = Courtesy()
        self._ingest: Ingest | None = None
        if llm and extract_here:
            from ollama_async_mem.memory.ingest import Ingest  # noqa: PLC0415 - its patterns take a while to compile

            self._ingest = Ingest(
                store,
                embedder,
                llm,
                on_event=self._feed.publish,
                prompt=prompt,
                idle_s=idle_s,
                concurrency=concurrency,
                courtesy=self._courtesy,
            )
            self._wake = self._ingest.wake
        self._host: Host | None = None

    async def __aenter__(self) -> Self:
        if self._host:
            raise ConfigError("a memory is opened once: make a new one")
        self._host = Host(self._running())
        await self._host.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop the extraction and close the store, once what is being stored is. Any task may call it, and again.

        Raises:
            ConfigError: the memory was opened in another event loop; it stays open.
        """
        if self._host:
            await self._host.close()

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        """Hold all parts open, in the task that owns them."""
        async with AsyncExitStack() as stack:
            for resource in (*self._resources, self.store, self._embedder):
                await stack.enter_async_context(resource)
            await self._check_embedding_space()
            stack.push_async_callback(self._intake.settled)
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)  # an unfinished job stays in the queue
            tasks.start_soon(purge, self.store, self._feed.publish)
            if self._ingest:
                tasks.start_soon(self._ingest.run)
            stack.callback(self._end)
            self._chats = await stack.enter_async_context(anyio.create_task_group())  # what they store is waited for
            self._is_open = True
            yield

    async def add(
        self,
        messages: MessageInput | Sequence[MessageInput],
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        timestamp: datetime | str | None = None,
        expires_at: datetime | str | None = None,
        key: str | None = None,
        infer: Infer = "background",
        prompt: str | None = None,
    ) -> AddResult:
        """Store messages word for word; when this returns they are on disk and can be found.

        A message is a text, a `Message`, or a mapping or object with `role` and `content` as OpenAI and Ollama have
        it, with `name` and `timestamp` where they are known. System messages are left out. Facts are extracted behind,
        before the return with `infer="now"`, or not at all with `infer=False`.

        Args:
            messages: one, or several in the order in which they were said.
            user_id: whose memory it is; this, `agent_id` or `run_id` is needed.
            agent_id: which agent's memory it is.
            run_id: which conversation it belongs to.
            metadata: stored beside each message, for `filters`.
            timestamp: when they were said, by default now. A message without a timestamp of its own was said when the
                one before it was. Words such as "last Friday" are seen from then.
            expires_at: from when on the messages are not found any more; they are destroyed within the hour. It must be
                yet to come, but for what is imported with times before it: that may have expired since it was said.
            key: of the caller's choice; what was added to this scope under a key is not added again while it is stored.
            infer: when to extract facts.
            prompt: replaces the instructions to the model that extracts them, all but the shape of the answer.

        Raises:
            ConfigError: no id is given, a message is blank, or `expires_at` has passed; nothing was stored.
        """
        scope, now = self._scope(user_id, agent_id, run_id), datetime.now(UTC)
        require_infer(infer)
        key, prompt = require_text("key", key), require_text("prompt", prompt)
        said, beside = timed(as_messages(messages), as_time(timestamp) or now), require_metadata(metadata)
        end = require_end(expires_at, said=max(message.timestamp or now for message in said), now=now)
        if key and (there := await self._intake.taken(scope, key, len(said))):
            return there
        said = await described(said, self._vision)
        make = partial(as_turns, said, scope, now=now, metadata=beside, expires_at=end)
        turns = await anyio.to_thread.run_sync(make) if are_long(said) else make()
        return await self._store_turns(turns, infer, key=key, prompt=prompt)

    async def add_many(
        self,
        additions: Iterable[Mapping[str, Any]],
        *,
        infer: Infer = "background",
        on_progress: Callable[[int, int], object] | None = None,
    ) -> list[AddResult]:
        """Add many conversations at once, for imports; returns a result for each, in order.

        An addition is a mapping of the arguments of `add`, `messages` among them. Embedding and storing are shared
        between them. `on_progress` gets how many are done, and of how many.

        Raises:
            ConfigError: an addition is wrong; the message says which. Others may have been stored.
        """
        return await add_all(partial(self.add, infer=infer), additions, on_progress)

    async def add_procedure(
        self,
        messages: MessageInput | Sequence[MessageInput],
        *,
        agent_id: str,
        user_id: str | None = None,
        run_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        timestamp: datetime | str | None = None,
        expires_at: datetime | str | None = None,
        key: str | None = None,
        prompt: str | None = None,
    ) -> Fact:
        """Store what an agent said and did, let the model tell it as steps, and return that as a fact.

        It waits for the model. The messages are stored also when that fails. `prompt` replaces the instructions. Other
        arguments are as of `add`: messages and fact expire together, and what was told under a key is not told again.

        Raises:
            ConfigError: an argument is wrong, or this memory has no chat model.
        """
        llm, told_to = self._require_llm(), require_text("prompt", prompt)
        scope, key = self._scope(user_id, agent_id, run_id), require_text("key", key)
        if key and (fact := await told_before(self.store, scope, key)):
            return fact
        said: dict[str, Any] = {"timestamp": timestamp, "expires_at": expires_at, "metadata": metadata, "key": key}
        added = await self.add(messages, user_id=user_id, agent_id=agent_id, run_id=run_id, infer=False, **said)
        fact = as_fact(await told(added.turns, llm, told_to), added.turns, require_metadata(metadata), key=key)
        if not await write_down(fact, store=self.store, embedder=self._embedder):
            return await told_before(self.store, scope, key or "") or fact  # another caller with the key was faster
        self._feed.publish(FactAdded(fact))
        return fact

    def chat(
        self,
        messages: str | Sequence[MessageInput],
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        max_tokens: int = 800,
        min_score: float = LEAST_SCORE,
        remember: bool = True,
        infer: Infer = "background",
    ) -> MemoryChat:
        """Answer with what is remembered, and remember the exchange: `async with mem.chat(...) as stream`.

        The last message is what the memory is asked for, with `max_tokens` and `min_score` as of `context`; those
        before it are the conversation so far. The model is given all as it is, with system messages and images, and
        the memories behind the system message. When the answer is complete, the last message and the answer are added,
        unless `remember` is off.

        Raises:
            ConfigError: no id is given, a message is blank, or this memory has no chat model.
        """
        scope = self._scope(user_id, agent_id, run_id)
        llm = self._require_llm()
        require_infer(infer)
        return MemoryChat(
            self,
            llm,
            as_messages(messages),
            scope,
            prompt=as_prompt(messages),
            start=self._start,
            courtesy=self._courtesy,
            max_tokens=require_tokens(max_tokens),
            min_score=require_score(min_score),
            remember=remember,
            infer=infer,
        )

    @contextmanager
    def answering(self) -> Iterator[Callable[[], None]]:
        """Hold extraction back while somebody waits for an answer that did not come by way of `chat`.

        Gives a function to call as the answer goes on. One that does not go on is not waited for.
        """
        self._courtesy.begin()
        try:
            yield self._courtesy.go_on
        finally:
            self._courtesy.end()

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

    async def statistics(self) -> MemoryStatistics:
        """Count what is stored, and what extraction and embedder did since this memory was opened."""
        self._require_open()
        return MemoryStatistics(
            store=await self.store.statistics(),
            extraction=self._ingest.counts if self._ingest else None,
            embedding=self._embedder.statistics if isinstance(self._embedder, CountingEmbedder) else None,
        )

    @property
    def llm(self) -> ChatModel | None:
        """The chat model, None where there is none."""
        return self._llm

    @property
    def llm_model(self) -> str:
        """Name of the chat model, "" where there is none."""
        return self._llm.model if self._llm else ""

    async def settled(self, added: AddResult) -> AddResult:
        """Wait for the extraction behind an add; returns it with how that went."""
        if not (self._ingest and added.job_id):
            return added
        await self._ingest.settled(added.job_id)
        status = await self.store.job_status(added.job_id)
        if status is None:
            return AddResult(added.turns, added.job_id, "done")
        return AddResult(added.turns, added.job_id, "failed" if status.state == "dead" else "waiting", status.error)

    def _start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Let something be done that the memory waits for when it is closed."""
        self._require_open()
        self._chats.start_soon(work)

    def _end(self) -> None:
        self._is_open = False
        self._feed.end()

    def _require_llm(self) -> ChatModel:
        if self._llm is None:
            raise ConfigError("this memory has no chat model: pass llm= when it is made")
        return self._llm

    async def _check_embedding_space(self) -> None:
        space = await self.store.embedding_space()
        if space and space.model != self._embedder.model:
            raise EmbeddingMismatch(
                expected=space.model, got=self._embedder.model, where=f"the store {self.store.location}"
            )

    async def _store_turns(
        self, turns: Sequence[Turn], infer: Infer, *, key: str | None, prompt: str | None
    ) -> AddResult:
        extract = infer is not False and self._llm is not None
        try:
            added = await self._intake.take(turns, extract=extract, key=key, prompt=prompt)
        except OllamaError:
            self._require_open()  # where the embedder ended with the memory, that is the reason
            raise
        if added.is_new:
            for turn in added.turns:
                self._feed.publish(TurnStored(turn))
        if added.job_id and self._ingest:
            self._ingest.wake()
        return await self.settled(added) if infer == "now" else added
