"""`MemoryKeeper`: what is stored, to find, look at, change, and destroy. Nothing here asks a language model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

import msgspec

from ollama_async_mem.errors import ConfigError, StoreClosed
from ollama_async_mem.events import MemoriesDeleted, MemoryDeleted, MemoryUpdated
from ollama_async_mem.memory.asked import Asked
from ollama_async_mem.memory.checks import (
    as_time,
    require_count,
    require_limit,
    require_metadata,
    require_query,
    require_scope,
    require_score,
    require_sort,
    require_tokens,
    selected,
)
from ollama_async_mem.memory.context import LEAST_SCORE, fitting, written
from ollama_async_mem.memory.feed import EventStream, Feed
from ollama_async_mem.memory.intake import Intake, embedded_text
from ollama_async_mem.memory.messages import dates_in
from ollama_async_mem.memory.texts import clean
from ollama_async_mem.records import Change, MemoryRecord, Page, Recalled, Scope, Selection, Turn

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import datetime, timedelta

    from ollama_async_mem.counts import Counts, ScopeCounts
    from ollama_async_mem.memory.asked import Asking
    from ollama_async_mem.memory.weights import RankingWeights
    from ollama_async_mem.ports import Embedder, MemoryStore, Reranker
    from ollama_async_mem.records import Event, Kind, SearchResult, Sort

__all__ = ["MemoryKeeper"]

_ALL: tuple[Kind, ...] = ("turn", "fact")
_EVERYTHING = Selection(everything=True)
_MOST_HELD = 1_000_000
_MOST_RECALLED = 40


class MemoryKeeper:
    """Memories in a store. Every method may raise `StoreError`; where it needs a scope, `ConfigError` without an id."""

    def __init__(
        self,
        store: MemoryStore,
        embedder: Embedder,
        *,
        window: timedelta,
        weights: RankingWeights,
        reranker: Reranker | None,
        extracts: bool,
    ) -> None:
        from ollama_async_mem.memory.searching import Finder  # noqa: PLC0415 - its patterns take a while to compile

        self.store = store
        self._extracts = extracts
        self._wake: Callable[[], None] = lambda: None  # says that a job is due, to whoever works them off here
        self._embedder = embedder
        self._intake = Intake(store, embedder, window=window)
        self._finder = Finder(store, embedder, weights, reranker)
        self._feed = Feed()
        self._is_open = False

    async def get(self, memory_id: str) -> MemoryRecord:
        """Return one memory.

        Raises:
            RecordNotFound: there is none with this id.
        """
        return await self.store.get(memory_id)

    async def search(
        self,
        query: str,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        limit: int = 10,
        filters: Mapping[str, Any] | None = None,
        kinds: Sequence[Kind] = _ALL,
        as_of: datetime | str | None = None,
        min_score: float | None = None,
        explain: bool = False,
    ) -> SearchResult:
        """Find the memories that fit a query, best first, each with a score from 0 to 1.

        Ids that are given must match. When the query cannot be embedded, the hits are those of the keyword
        index and `degraded` says `("dense",)`.

        Args:
            query: a question, or words.
            user_id: whose memory is searched; this, `agent_id` or `run_id` is needed.
            agent_id: which agent's.
            run_id: which conversation's.
            limit: most hits.
            filters: conditions on metadata and fields, such as `{"topic": "food", "at": {"gte": "2026-01-01"}}`.
            kinds: "turn" for messages, "fact" for what was drawn from them.
            as_of: search what was known and held at that time.
            min_score: leave out what scores less; scores of different queries can be compared.
            explain: say in `Hit.parts` what each component contributed.

        Raises:
            ConfigError: no id is given, the query is blank, or an argument is out of range.
        """
        scope = self._scope(user_id, agent_id, run_id)
        asked = Asked(
            text=require_query(query),
            selection=selected(scope, kinds=kinds, filters=filters, as_of=as_of),
            limit=require_limit(limit),
            min_score=require_score(min_score),
            explain=bool(explain),
        )
        return await self._finder.find(asked)

    async def context(
        self,
        query: str,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        max_tokens: int = 800,
        filters: Mapping[str, Any] | None = None,
        as_of: datetime | str | None = None,
        known: Collection[str] = (),
        min_score: float = LEAST_SCORE,
    ) -> str:
        """Write down what fits a query as dated lines for a prompt, oldest first, within `max_tokens`.

        What words such as "yesterday" mean is noted. Texts that are `known`, for the prompt has them already, are left
        out, and so is what scores less than `min_score`: by default what has plainly nothing to do with the query. 0
        fills the budget with whatever there is. Other arguments are as of `search`.
        """
        found = await self.recall(
            query,
            user_id=user_id,
            agent_id=agent_id,
            run_id=run_id,
            max_tokens=max_tokens,
            filters=filters,
            as_of=as_of,
            known=known,
            min_score=min_score,
        )
        return found.text

    async def recall(
        self,
        query: str,
        *,
        max_tokens: int = 800,
        known: Collection[str] = (),
        min_score: float = LEAST_SCORE,
        **asked: Unpack[Asking],
    ) -> Recalled:
        """Return the lines of `context` together with the hits that they are made of. Arguments are as of `context`."""
        budget = require_tokens(max_tokens)
        found = await self.search(query, limit=_MOST_RECALLED, min_score=min_score, explain=True, **asked)
        chosen = fitting((hit.memory for hit in found), max_tokens=budget, known=known)
        ids = {memory.id for memory in chosen}
        return Recalled(written(chosen), tuple(hit for hit in found.hits if hit.id in ids), found.degraded)

    async def list(
        self,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        kinds: Sequence[Kind] = _ALL,
        filters: Mapping[str, Any] | None = None,
        as_of: datetime | str | None = None,
        sort: Sort = "-at",
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        """List memories, newest first, also those that no longer hold; `cursor` of one page fetches the next.

        With `as_of` only those that held at that time. `filters` are as of `search`, and `sort` is "-at", "at",
        "-created_at" or "created_at".
        """
        scope = self._scope(user_id, agent_id, run_id)
        if not isinstance(cursor, str | None):
            raise ConfigError(f"cursor is what the page before gave, got {cursor!r}")
        selection = selected(scope, kinds=kinds, filters=filters, as_of=as_of, everything=as_of is None)
        return await self.store.list(selection, limit=require_limit(limit), cursor=cursor, sort=require_sort(sort))

    async def update(
        self,
        memory_id: str,
        text: str | msgspec.UnsetType = msgspec.UNSET,
        *,
        metadata: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET,
        expires_at: datetime | str | msgspec.UnsetType | None = msgspec.UNSET,
        extract: bool | None = None,
        actor: str | None = None,
        cause: str | None = None,
    ) -> MemoryRecord:
        """Change a memory, and note the change in its history; returns it as it is now.

        What is not given stays. Metadata is merged key by key, where None removes a key. With a new text of a message
        the facts go that no other message tells, and where this memory has a chat model they are drawn anew behind.
        A message that has no facts, such as one added with `infer=False`, stays unread unless `extract` is on; one
        whose facts are to go and not to come again is changed with `extract` off. What waits to be read is.

        Raises:
            RecordNotFound: there is none with this id.
            ConfigError: nothing is to be changed, the text is blank, or without a chat model or a text `extract` is on.
            OllamaError: the new text could not be embedded; nothing was changed.
        """
        self._require_open()
        change, extract = _change(text, metadata, expires_at), self._may_extract(extract, text)
        if change.text is msgspec.UNSET:
            changed = await self.store.update(memory_id, change, actor=actor, cause=cause)
        else:
            changed = await self._rewrite(memory_id, change, extract=extract, actor=actor, cause=cause)
        self._feed.publish(MemoryUpdated(changed))
        return changed

    async def delete(self, memory_id: str, *, actor: str | None = None, cause: str | None = None) -> None:
        """Destroy a memory, its vector, its index entries and the texts of its history.

        With a message go the facts that no other message tells.

        Raises:
            RecordNotFound: there is none with this id.
        """
        self._require_open()
        scope = (await self.store.get(memory_id)).scope
        await self.store.delete(memory_id, actor=actor, cause=cause)
        self._intake.recent.forget([memory_id])
        self._feed.publish(MemoryDeleted(memory_id, scope))

    async def delete_all(
        self,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        kinds: Sequence[Kind] = _ALL,
        filters: Mapping[str, Any] | None = None,
        actor: str | None = None,
        cause: str | None = None,
    ) -> int:
        """Destroy all memories of a scope that fit the filters, also those that no longer hold; returns how many."""
        scope = self._scope(user_id, agent_id, run_id)
        return await self._destroy(
            selected(scope, kinds=kinds, filters=filters, everything=True), actor=actor, cause=cause
        )

    async def reset(self) -> int:
        """Destroy all memories of everyone; returns how many there were. The store stays bound to its embedder."""
        self._require_open()
        return await self._destroy(_EVERYTHING, actor=None, cause="reset")

    async def retry_extraction(self) -> int:
        """Let extraction try at once what it gave up, or put off as the model was away; returns how many jobs."""
        self._require_open()
        count = await self.store.revive_jobs()
        self._wake()
        return count

    async def history(self, memory_id: str) -> builtins.list[Event]:
        """Return what happened to a memory, oldest first: added, updated, reinforced, superseded, deleted.

        Raises:
            RecordNotFound: there never was one with this id.
        """
        return await self.store.history(memory_id)

    async def count(
        self, *, user_id: str | None = None, agent_id: str | None = None, run_id: str | None = None
    ) -> Counts:
        """Count memories; without any id, all of the store."""
        self._require_open()
        everything = user_id is agent_id is run_id is None
        return await self.store.counts(Scope() if everything else require_scope(user_id, agent_id, run_id))

    async def scopes(
        self,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        limit: int = 100,
        after: Scope | None = None,
    ) -> builtins.list[ScopeCounts]:
        """Return whose memories there are, by user, agent and run; the scope of the last one fetches those after it."""
        self._require_open()
        everything = user_id is agent_id is run_id is None
        scope = Scope() if everything else require_scope(user_id, agent_id, run_id)
        return await self.store.scopes(scope, limit=require_limit(limit), after=after)

    def events(self, *, buffer: int = 1_000) -> EventStream:
        """Watch what happens in this memory: `async with mem.events() as events`, then `async for event in events`.

        Each event is one of `ollama_async_mem.events`. What other processes do on the store is not seen. Up to `buffer`
        events wait for whoever is slow.
        """
        self._require_open()
        return self._feed.listen(require_count("buffer", buffer, _MOST_HELD))

    async def _rewrite(
        self, memory_id: str, change: Change, *, extract: bool | None, actor: str | None, cause: str | None
    ) -> MemoryRecord:
        """Change the text of a memory together with what follows from it: its vector and its dates."""
        memory = await self.store.get(memory_id)
        new = msgspec.structs.replace(memory, text=change.text)
        [vector] = await self._embedder.embed_documents([embedded_text(new) if isinstance(new, Turn) else new.text])
        change = msgspec.structs.replace(change, dates=dates_in(new.text, memory.at))
        changed = await self.store.update(
            memory_id,
            change,
            vector=vector,
            model=self._embedder.model,
            extract=extract,
            actor=actor,
            cause=cause,
        )
        self._wake()
        return changed

    def _may_extract(self, extract: bool | None, text: object) -> bool | None:  # noqa: FBT001 - as the caller gave it
        """Whether the chat model is to read a text that changes; None: if it read the old one."""
        if extract and (text is msgspec.UNSET or not self._extracts):
            raise ConfigError("extract goes with a new text, in a memory that has a chat model")
        return extract if self._extracts else False

    async def _destroy(self, selection: Selection, *, actor: str | None, cause: str | None) -> int:
        count = await self.store.delete_all(selection, actor=actor, cause=cause)
        self._intake.recent.forget()
        self._feed.publish(MemoriesDeleted(selection.scope, count, cause))
        return count

    def _scope(self, user_id: str | None, agent_id: str | None, run_id: str | None) -> Scope:
        self._require_open()
        return require_scope(user_id, agent_id, run_id)

    def _require_open(self) -> None:
        if not self._is_open:
            raise StoreClosed("a memory is used inside 'async with'")


def _change(text: Any, metadata: Any, expires_at: Any) -> Change:
    if all(given is msgspec.UNSET for given in (text, metadata, expires_at)):
        raise ConfigError("nothing is to be changed: give text, metadata or expires_at")
    if text is not msgspec.UNSET and not (isinstance(text, str) and text.strip()):
        raise ConfigError(f"text is a text that is not blank, got {text!r:.80}; `delete` destroys a memory")
    return Change(
        text=text if text is msgspec.UNSET else clean(text),
        metadata=metadata if metadata is msgspec.UNSET else require_metadata(metadata),
        expires_at=expires_at if expires_at is msgspec.UNSET else as_time(expires_at),
    )
