"""The read path: words find candidates, then their vectors do, and both are ranked with what was said around them."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from ollama_async_mem.errors import OllamaError
from ollama_async_mem.filters import AllOf, AnyOf, Compare, Field
from ollama_async_mem.memory.query import read_query
from ollama_async_mem.memory.rank import rank, shortlist, speakers
from ollama_async_mem.memory.rerank import reranked, room
from ollama_async_mem.memory.turnstile import Turnstile
from ollama_async_mem.records import Also, SearchResult
from ollama_async_mem.steps import SearchStore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ollama_async_mem.filters import Condition
    from ollama_async_mem.memory.asked import Asked
    from ollama_async_mem.memory.query import Query
    from ollama_async_mem.memory.weights import RankingWeights
    from ollama_async_mem.ports import Embedder, MemoryStore, Reranker
    from ollama_async_mem.records import Candidate, DateRange, Scope, Selection, Turn

__all__ = ["Finder"]

_log = logging.getLogger(__name__)
PATIENCE_S = 10.0  # with the embedding of a query, which may have to wait for its model to be loaded
_POOL = 50
_DATED_POOL = 20
_BEGIN_AT_ONCE = 32  # searches in one round of the loop: their queries are embedded together
_MOST_SCOPES = 10_000
_MOST_SPEAKERS = 200
_AT = Field("at")


class Finder:
    """Finds memories in a store, and remembers who speaks in which scope.

    The names of speakers that a query names stay out of the text that is embedded. Where they are known, both indexes
    are asked at once; else the words first, whose memories tell who speaks.
    """

    def __init__(
        self, store: MemoryStore, embedder: Embedder, weights: RankingWeights, reranker: Reranker | None
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._weights = weights
        self._reranker = reranker
        self._speakers: OrderedDict[Scope, frozenset[str]] = OrderedDict()
        self._steps = store if isinstance(store, SearchStore) else None
        self._beginning, self._ranking = Turnstile(_BEGIN_AT_ONCE), Turnstile(1)

    async def find(self, asked: Asked) -> SearchResult:
        """Find the memories that fit, best first.

        Raises:
            StoreError: an index could not be asked.
            EmbeddingMismatch: the embedder makes other vectors than the store holds.
        """
        await self._beginning.wait()
        return await self._found(asked)

    async def _found(self, asked: Asked) -> SearchResult:
        if self._reranker is None:
            return await self._ranked(asked)
        first = await self._ranked(replace(asked, limit=room(asked.limit), min_score=0.0))
        again = await reranked(self._reranker, asked.text, first.hits, explain=asked.explain)
        fit = tuple(hit for hit in (first.hits if again is None else again) if hit.score >= asked.min_score)
        return SearchResult(fit[: asked.limit], first.degraded if again is not None else (*first.degraded, "reranker"))

    async def _ranked(self, asked: Asked) -> SearchResult:
        now = asked.selection.as_of or datetime.now(UTC)
        query = read_query(asked.text, now=now)
        places = _places(asked, query)
        query, found = await self._candidates(query, places)
        around = found.around
        if around is None:
            around = await self._store.neighbours(shortlist(found.dense or (), found.keyword or ()))
        await self._ranking.wait()
        hits = rank(
            query,
            found.dense or (),
            found.keyword or (),
            around,
            now=now,
            weights=self._weights,
            limit=asked.limit,
            min_score=asked.min_score,
            widen=asked.selection.where is None and asked.selection.as_of is None,
            explain=asked.explain,
        )
        return SearchResult(hits, ("dense",) if found.dense is None else ())

    async def _candidates(self, query: Query, places: _Places) -> tuple[Query, _Found]:
        """Ask both indexes; returns the query without names too."""
        scope, found = places.everywhere.scope, _Found()
        known = self._speakers.get(scope)
        if known is None:
            await self._by_words(query, places, found)
            query = query.about(self._learned(scope, found.keyword or ()))
            await self._by_vector(query, places, found)
            return query, found
        about = query.about(known)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._by_vector(about, places, found))
                await self._by_words(query, places, found)
        except ExceptionGroup as group:
            raise group.exceptions[0] from group.exceptions[0].__cause__
        again = query.about(self._learned(scope, found.keyword or ()))
        if again.embedded != about.embedded:  # somebody speaks who was not known, and the query names them
            await self._by_vector(again, places, found)
        return again, found

    def _learned(self, scope: Scope, found: Sequence[Candidate]) -> frozenset[str]:
        """All who are known to speak in a scope, by now."""
        names = self._speakers.pop(scope, frozenset()) | speakers(found)
        self._speakers[scope] = names if len(names) <= _MOST_SPEAKERS else frozenset(speakers(found))
        if len(self._speakers) > _MOST_SCOPES:
            self._speakers.popitem(last=False)
        return names

    async def _by_words(self, query: Query, places: _Places, found: _Found) -> None:
        if self._steps is not None:
            at, limit, also = places
            search = self._steps.search_by_words
            found.keyword = await search(at, query.text, limit=limit, also=also, tell=found.tell)
            return
        find = self._store.keyword_candidates
        found.keyword = _once([await find(at, query.text, limit=n) for at, n in places.each()])

    async def _by_vector(self, query: Query, places: _Places, found: _Found) -> None:
        """Find what is nearest, but where the query cannot be embedded: finding goes on with the words."""
        found.dense = found.around = None
        try:
            async with asyncio.timeout(PATIENCE_S):
                vector = await self._embedder.embed_query(query.embedded)
        except (OllamaError, TimeoutError) as exc:
            reason = str(exc) or f"nothing came within {PATIENCE_S:g} s"
            _log.warning("searching by words only, the query could not be embedded: %s", reason)
            return
        find, model = self._store.dense_candidates, self._embedder.model
        if self._steps is None:
            found.dense = _once([await find(at, vector, model=model, limit=n) for at, n in places.each()])
            return
        at, limit, also = places
        found.dense, around = await self._steps.search_by_vector(
            at, vector, model=model, limit=limit, also=also, choose=found.choose
        )
        found.around = around or None  # nothing is chosen as long as the words have found nothing


class _Found:
    """What both indexes bring, None as long as they have not."""

    keyword: list[Candidate] | None = None
    dense: list[Candidate] | None = None
    around: Mapping[str, Sequence[Turn]] | None = None

    def tell(self, keyword: list[Candidate]) -> None:
        """Take what the words find as soon as it is there: the thread that found it is the next to choose."""
        self.keyword = keyword

    def choose(self, dense: Sequence[Candidate]) -> list[str]:
        """The turns around which to look; none where the words have not been found yet."""
        keyword = self.keyword
        return [] if keyword is None else shortlist(dense, keyword)


class _Places(NamedTuple):
    """Where to look, and for how many: everywhere, and among what was said on the days that the query names."""

    everywhere: Selection
    limit: int
    also: Also | None

    def each(self) -> list[tuple[Selection, int]]:
        """One place after the other."""
        first = (self.everywhere, self.limit)
        return [first] if self.also is None else [first, (self.also.within(self.everywhere), self.also.limit)]


def _places(asked: Asked, query: Query) -> _Places:
    also = Also(AnyOf(tuple(_during(days) for days in query.dates)), _DATED_POOL) if query.dates else None
    return _Places(asked.selection, max(_POOL, 2 * asked.limit), also)


def _during(days: DateRange) -> Condition:
    """That something was said on some days, wherever on earth."""
    begin = datetime.combine(days.start, time(), UTC) - _HALF_DAY if days.start > _FIRST else _BEGIN
    end = datetime.combine(days.end, time(), UTC) + 3 * _HALF_DAY if days.end < _LAST else _END
    return AllOf((Compare(_AT, "gte", begin), Compare(_AT, "lt", end)))


_HALF_DAY = timedelta(hours=12)
_BEGIN, _END = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_FIRST, _LAST = (_BEGIN + 2 * _HALF_DAY).date(), (_END - 4 * _HALF_DAY).date()


def _once(found: Sequence[list[Candidate]]) -> list[Candidate]:
    """Several lists as one, without what was found before."""
    if len(found) == 1:
        return found[0]
    first = {candidate.memory.id: candidate for candidates in reversed(found) for candidate in reversed(candidates)}
    return sorted(first.values(), key=lambda candidate: candidate.score, reverse=True)
