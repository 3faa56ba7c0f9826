"""Candidates of both indexes made into one ranking. Pure.

What counts is absolute, never relative to the other candidates of a query, so that one score orders the hits of a query
and can be compared between queries. The keyword index's own scores are not used: which words of a query a memory and
its neighbours share says more, and is the same over every store.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from datetime import timedelta
from itertools import islice, pairwise, takewhile
from typing import TYPE_CHECKING, NamedTuple

from ollama_async_mem.memory.query import has_word, is_during
from ollama_async_mem.memory.weights import DEFAULT, RankingWeights
from ollama_async_mem.records import Fact, Hit, Turn

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from ollama_async_mem.memory.query import Query
    from ollama_async_mem.records import Candidate, MemoryRecord

__all__ = ["rank", "shortlist", "speakers"]

_MOST_READ = 8_000  # characters of a memory
_FEW = 8  # with about so few candidates, the least similar of them may well be one that fits
_SMOOTH = 10
_STEEPEST = 700.0  # e to a higher power is no float
_MOST_SOURCES = 2  # what was said again and again was said with other words around it
_SENTENCE = re.compile(r"([^.!?\n\u2026\u3002\uff01\uff1f\u061f]+)([.!?\u2026\u3002\uff01\uff1f\u061f]*)")
_ASKED = frozenset("?\uff1f\u061f")
_PARTS = ("dense", "keyword", "neighbours", "speaker", "statement", "dates", "recency")


class _Around(NamedTuple):
    """Who stands beside whom, by ids: turns before and after turns, facts and the turns that they are drawn from."""

    before: Mapping[str, str]
    after: Mapping[str, str]
    linked: Mapping[str, Sequence[str]]


def speakers(candidates: Iterable[Candidate]) -> set[str]:
    """Return the names of those who said what was found."""
    return {c.memory.speaker for c in candidates if isinstance(c.memory, Turn) and c.memory.speaker}


def shortlist(dense: Iterable[Candidate], keyword: Iterable[Candidate], *, limit: int = 16) -> list[str]:
    """Choose the turns whose neighbours are worth a look: the best of both lists by their ranks."""
    ranks: dict[str, float] = defaultdict(float)
    for candidates in (dense, keyword):
        turns = [c for c in candidates if isinstance(c.memory, Turn)]
        turns.sort(key=lambda c: (-c.score, c.memory.id))
        for place, candidate in enumerate(turns):
            ranks[candidate.memory.id] += 1 / (_SMOOTH + place)
    return sorted(ranks, key=lambda i: (-ranks[i], i))[:limit]


def rank(
    query: Query,
    dense: Sequence[Candidate],
    keyword: Sequence[Candidate],
    neighbours: Mapping[str, Sequence[Turn]],
    *,
    now: datetime,
    limit: int,
    weights: RankingWeights = DEFAULT,
    min_score: float = 0.0,
    widen: bool = True,
    explain: bool = False,
) -> tuple[Hit, ...]:
    """Rank candidates, best first, and with `widen` also their neighbours; newer ones win ties.

    `dense` is scored by cosine, and empty where that index could not be asked. `neighbours` are those of some turns, as
    `MemoryStore.neighbours` gives them, which no filter has seen. A turn and a fact that is drawn from it tell the
    same: whichever comes later is left out. A score is a logistic function of the sum of the parts, which `explain`
    puts into the hits.
    """
    found = {c.memory.id: c.memory for candidates in (dense, keyword) for c in candidates}
    memories: dict[str, MemoryRecord] = {turn.id: turn for turns in neighbours.values() for turn in turns}
    memories.update(found)
    around = _around(memories, neighbours, weights)
    similar = _similarities(dense, memories, around, weights)
    own, shared = _words(query, memories, around, weights)
    dated = _dated(query, memories.values(), weights)
    parts: dict[str, tuple[float, ...]] = {}
    for i, memory in memories.items():
        before = similar.get(around.before.get(i, ""), 0.0)
        parts[i] = (
            similar[i],
            weights.words * own[i],
            weights.words * (shared[i] - own[i]) + weights.dense_before * before,
            weights.speaker * _is_about(memory, query) if query.names else 0.0,
            weights.statement * _stated(memory),
            dated.get(i, 0.0),
            _recent(memory, now, weights) if weights.recency else 0.0,
        )
    sums = {i: sum(of) for i, of in parts.items()}
    order = sorted((memories if widen else found).values(), key=lambda m: (sums[m.id], m.at, m.id), reverse=True)
    scored = ((m, _score(sums[m.id], weights)) for m in _told_once(order))
    best = islice(takewhile(lambda pair: pair[1] >= min_score, scored), limit)
    return tuple(Hit(m, score, dict(zip(_PARTS, parts[m.id], strict=True)) if explain else {}) for m, score in best)


def _around(
    memories: Mapping[str, MemoryRecord], neighbours: Mapping[str, Sequence[Turn]], weights: RankingWeights
) -> _Around:
    before: dict[str, str] = {}
    after: dict[str, str] = {}
    linked: dict[str, list[str]] = defaultdict(list)
    gap = timedelta(seconds=weights.neighbour_gap_s)
    for i, turns in neighbours.items():
        row = sorted([*turns, memories[i]] if i in memories else turns, key=lambda turn: (turn.at, turn.id))
        for earlier, later in pairwise(row):
            if later.at - earlier.at <= gap:
                before[later.id], after[earlier.id] = earlier.id, later.id
    for fact in memories.values():
        for turn_id in fact.turn_ids if isinstance(fact, Fact) else ():
            linked[turn_id].append(fact.id)
            linked[fact.id].append(turn_id)
    return _Around(before, after, linked)


def _similarities(
    dense: Sequence[Candidate], memories: Iterable[str], around: _Around, weights: RankingWeights
) -> dict[str, float]:
    """What the vectors say of each memory; a turn and the facts that are drawn from it are taken together."""
    if not dense:
        return dict.fromkeys(memories, weights.listed)
    cosines = {c.memory.id: min(1.0, max(0.0, c.score)) for c in dense}
    floor = min(cosines.values()) * len(dense) / (len(dense) + _FEW)
    span = 1 - floor
    found = {i: weights.listed + weights.dense * (cosine - floor) / span for i, cosine in cosines.items()}
    similar = {i: found.get(i, 0.0) for i in memories}
    for i in around.linked.keys() & similar.keys():
        similar[i] = max(found.get(j, 0.0) for j in (i, *around.linked[i]))
    return similar


def _words(
    query: Query, memories: Mapping[str, MemoryRecord], around: _Around, weights: RankingWeights
) -> tuple[dict[str, float], dict[str, float]]:
    """The share of the query's words that each memory has, and the same with those around it."""
    texts = {i: memory.text[:_MOST_READ].lower() for i, memory in memories.items()}
    has = [{i for i, text in texts.items() if root in text and has_word(text, root)} for root in query.roots]
    own, shared = dict.fromkeys(memories, 0.0), dict.fromkeys(memories, 0.0)
    rarity = [_rarity(len(having), len(memories)) for having in has]
    mass = math.fsum(rarity) or 1.0
    for having, rare in zip(has, rarity, strict=True):
        counts = _counts(having, around, weights)
        for i, count in counts.items():
            if i in memories:
                own[i] += rare / mass if i in having else 0.0
                shared[i] += rare / mass * count * (weights.saturation + 1) / (count + weights.saturation)
    return own, shared


def _counts(having: Iterable[str], around: _Around, weights: RankingWeights) -> dict[str, float]:
    """How often a word counts for each memory that has it, or stands beside one that does."""
    counts: dict[str, float] = defaultdict(float)
    linked: set[str] = set()
    for i in having:
        counts[i] += 1.0
        if i in around.after:
            counts[around.after[i]] += weights.words_before
        if i in around.before:
            counts[around.before[i]] += weights.words_after
        linked.update(around.linked.get(i, ()))
    for i in linked:
        counts[i] += weights.words_linked
    return counts


def _rarity(having: int, total: int) -> float:
    """The idf of BM25 (Robertson and Spärck Jones), above zero for any word, over the candidates."""
    return math.log(1 + (total - having + 0.5) / (having + 0.5))


def _is_about(memory: MemoryRecord, query: Query) -> bool:
    if isinstance(memory, Fact):
        return any(has_word(memory.text, name) for name in query.names)
    return memory.speaker is not None and not query.names.isdisjoint((memory.speaker, memory.speaker.partition(" ")[0]))


def _stated(memory: MemoryRecord) -> float:
    """The share of a text that is not in questions; a fact asks nothing."""
    text = memory.text
    if "?" not in text and (text.isascii() or _ASKED.isdisjoint(text)):
        return 1.0
    if isinstance(memory, Fact):
        return 1.0
    sentences = _SENTENCE.findall(text[:_MOST_READ])
    asked = sum(len(words) for words, marks in sentences if not _ASKED.isdisjoint(marks))
    return 1 - asked / max(sum(len(words) for words, _ in sentences), 1)


def _dated(query: Query, memories: Collection[MemoryRecord], weights: RankingWeights) -> dict[str, float]:
    """What it counts to name days where the query asks when, and to be of the days that it names."""
    found: dict[str, float] = defaultdict(float)
    if query.asks_when:
        found.update((memory.id, weights.when) for memory in memories if memory.dates)
    if query.dates:
        during = [memory.id for memory in memories if _is_of_its_days(memory, query)]
        for i in during:  # days on which all was said tell nothing
            found[i] += weights.dates * (1 - len(during) / len(memories))
    return found


def _is_of_its_days(memory: MemoryRecord, query: Query) -> bool:
    said_on = memory.at.date()
    spans = [(said_on, said_on), *((named.start, named.end) for named in memory.dates)]
    return any(is_during(named, *span) for named in query.dates for span in spans)


def _recent(memory: MemoryRecord, now: datetime, weights: RankingWeights) -> float:
    days = max(now - memory.at, timedelta()) / timedelta(days=1)
    return float(weights.recency * 0.5 ** (days / weights.half_life_days))


def _score(total: float, weights: RankingWeights) -> float:
    return 1 / (1 + math.exp(min(weights.slope * (weights.middle - total), _STEEPEST)))


def _told_once(order: Iterable[MemoryRecord]) -> Iterator[MemoryRecord]:
    """Leave out turns that an earlier fact is drawn from, and facts whose turns have all come."""
    turns: set[str] = set()
    sources: set[str] = set()
    for memory in order:
        if isinstance(memory, Turn):
            turns.add(memory.id)
            if memory.id not in sources:
                yield memory
        elif not memory.turn_ids or not turns.issuperset(memory.turn_ids):
            if len(memory.turn_ids) <= _MOST_SOURCES:
                sources.update(memory.turn_ids)
            yield memory
