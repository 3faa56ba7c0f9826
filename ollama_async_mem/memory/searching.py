"""The read path: words find candidates, then their vectors do, and both are ranked with what was said around them."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING

import msgspec

from ollama_async_mem.errors import OllamaError
from ollama_async_mem.filters import AllOf, AnyOf, Compare, Field
from ollama_async_mem.memory.query import read_query
from ollama_async_mem.memory.rank import RankingWeights, rank, shortlist, speakers
from ollama_async_mem.records import SearchResult, Selection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ollama_async_mem.filters import Condition
    from ollama_async_mem.memory.query import Query
    from ollama_async_mem.ports import Embedder, MemoryStore, Vector
    from ollama_async_mem.records import Candidate, DateRange

__all__ = ["Asked", "find"]

_log = logging.getLogger(__name__)
_POOL = 50
_DATED_POOL = 20
_AT = Field("at")


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What is looked for, and where."""

    text: str
    selection: Selection
    limit: int
    min_score: float = 0.0
    explain: bool = False


async def find(asked: Asked, store: MemoryStore, embedder: Embedder, weights: RankingWeights) -> SearchResult:
    """Find the memories that fit, best first.

    The words are looked up first, which is quick: the speakers of what they find tell which words of the query are
    names, and those stay out of the text that is embedded.

    Raises:
        StoreError: an index could not be asked.
        EmbeddingMismatch: the embedder makes other vectors than the store holds.
    """
    now = asked.selection.as_of or datetime.now(UTC)
    query = read_query(asked.text, now=now)
    places = _places(asked, query)
    keyword = [found for at, pool in places for found in await store.keyword_candidates(at, query.text, limit=pool)]
    query = query.about(speakers(keyword))
    vector = await _embedded(query.embedded, embedder)
    dense = [] if vector is None else await _nearest(vector, places, store, embedder)
    keyword = _once(keyword)
    around = await store.neighbours(shortlist(dense, keyword))
    hits = rank(
        query,
        dense,
        keyword,
        around,
        now=now,
        weights=weights,
        limit=asked.limit,
        min_score=asked.min_score,
        widen=asked.selection.where is None and asked.selection.as_of is None,
        explain=asked.explain,
    )
    return SearchResult(hits, () if vector is not None else ("dense",))


def _places(asked: Asked, query: Query) -> list[tuple[Selection, int]]:
    """Where to look, and for how many: everywhere, and among what was said on the days that the query names."""
    places = [(asked.selection, max(_POOL, 2 * asked.limit))]
    if query.dates:
        said = AnyOf(tuple(_during(days) for days in query.dates))
        where = said if asked.selection.where is None else AllOf((asked.selection.where, said))
        places.append((msgspec.structs.replace(asked.selection, where=where), _DATED_POOL))
    return places


def _during(days: DateRange) -> Condition:
    """That something was said on some days, wherever on earth."""
    begin = datetime.combine(days.start, time(), UTC) - _HALF_DAY if days.start > _FIRST else _BEGIN
    end = datetime.combine(days.end, time(), UTC) + 3 * _HALF_DAY if days.end < _LAST else _END
    return AllOf((Compare(_AT, "gte", begin), Compare(_AT, "lt", end)))


_HALF_DAY = timedelta(hours=12)
_BEGIN, _END = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_FIRST, _LAST = (_BEGIN + 2 * _HALF_DAY).date(), (_END - 4 * _HALF_DAY).date()


async def _nearest(
    vector: Vector, places: Sequence[tuple[Selection, int]], store: MemoryStore, embedder: Embedder
) -> list[Candidate]:
    lists = [await store.dense_candidates(at, vector, model=embedder.model, limit=pool) for at, pool in places]
    return _once([found for each in lists for found in each])


def _once(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Leave out what was found before."""
    first = {candidate.memory.id: candidate for candidate in reversed(candidates)}
    return sorted(first.values(), key=lambda candidate: candidate.score, reverse=True)


async def _embedded(text: str, embedder: Embedder) -> Vector | None:
    """Embed a query, or return None where the server cannot: finding goes on with the other index."""
    try:
        return await embedder.embed_query(text)
    except OllamaError as exc:
        _log.warning("searching by words only, the query could not be embedded: %s", exc)
        return None
