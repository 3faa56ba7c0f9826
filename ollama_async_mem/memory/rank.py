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
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from ollama_async_mem.memory.query import has_word, is_during
from ollama_async_mem.memory.weights import DEFAULT, RankingWeights
from ollama_async_mem.records import Fact, Hit, Turn, owned

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
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
_by_time = attrgetter("at", "id")
_ASKED = frozenset("?\uff1f\u061f")
_PARTS = ("dense", "keyword", "neighbours", "speaker", "statement", "dates", "recency")


class _Around(NamedTuple):
    """Who stands beside whom, by place: turns before and after turns, facts and the turns that they are drawn from."""

    before: Mapping[int, int]
    after: Mapping[int, int]
    linked: Mapping[int, Sequence[int]]


def speakers(candidates: Iterable[Candidate]) -> set[str]:
    """Return the names of those who said what was found."""
    return {c.memory.speaker for c in candidates if isinstance(c.memory, Turn) and c.memory.speaker}


def shortlist(dense: Iterable[Candidate], keyword: Iterable[Candidate], *, limit: int = 16) -> list[str]:
    """Choose the turns whose neighbours are worth a look: the best of both lists by their ranks."""
    ranks: dict[str, float] = defaultdict(float)
    for candidates in (dense, keyword):
        turns = [c.memory.id for c in candidates if isinstance(c.memory, Turn)]
        for place, turn_id in enumerate(turns, _SMOOTH):
            ranks[turn_id] += 1 / place
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
    beside = {turn.id: turn for turns in neighbours.values() for turn in turns if turn.id not in found}
    memories: list[MemoryRecord] = [*found.values(), *beside.values()]
    places = {memory.id: place for place, memory in enumerate(memories)}
    around = _around(memories, places, neighbours, weights)
    similar = _similarities(dense, places, around, weights)
    own, shared = _words(query, memories, around, weights)
    dated = _dated(query, memories, weights)
    nothing = [0.0] * len(memories)
    beside_it = [weights.words * (with_those - alone) for with_those, alone in zip(shared, own, strict=True)]
    for place, before in around.before.items():
        beside_it[place] += weights.dense_before * similar[before]
    parts: tuple[Sequence[float], ...] = (
        similar,
        [weights.words * share for share in own],
        beside_it,
        [weights.speaker * _is_about(memory, query) for memory in memories] if query.names else nothing,
        [weights.statement * _stated(memory) for memory in memories],
        [dated.get(place, 0.0) for place in range(len(memories))] if dated else nothing,
        [_recent(memory, now, weights) for memory in memories] if weights.recency else nothing,
    )
    sums = [sum(of_one) for of_one in zip(*parts, strict=True)]
    shown = memories if widen else memories[: len(found)]
    order = sorted(((sums[place], m.at, m.id, place) for place, m in enumerate(shown)), reverse=True)
    scored = ((place, _score(sums[place], weights)) for place in _told_once(memories, (last for *_, last in order)))
    best = islice(takewhile(lambda pair: pair[1] >= min_score, scored), limit)

    def explained(place: int) -> dict[str, float]:
        return {name: part[place] for name, part in zip(_PARTS, parts, strict=True)}

    return tuple(Hit(owned(memories[place]), score, explained(place) if explain else {}) for place, score in best)


def _around(
    memories: Sequence[MemoryRecord],
    places: Mapping[str, int],
    neighbours: Mapping[str, Sequence[Turn]],
    weights: RankingWeights,
) -> _Around:
    before: dict[int, int] = {}
    after: dict[int, int] = {}
    linked: dict[int, list[int]] = defaultdict(list)
    gap = timedelta(seconds=weights.neighbour_gap_s)
    for i, turns in neighbours.items():
        row = sorted([*turns, memories[places[i]]] if i in places else turns, key=_by_time)
        for earlier, later in pairwise(row):
            if later.at - earlier.at <= gap:
                first, second = places[earlier.id], places[later.id]
                before[second], after[first] = first, second
    for place, fact in enumerate(memories):
        if isinstance(fact, Fact):
            for turn in (places[turn_id] for turn_id in fact.turn_ids if turn_id in places):
                linked[turn].append(place)
                linked[place].append(turn)
    return _Around(before, after, linked)


def _similarities(
    dense: Sequence[Candidate], places: Mapping[str, int], around: _Around, weights: RankingWeights
) -> list[float]:
    """What the vectors say of each memory; a turn and the facts that are drawn from it are taken together."""
    if not dense:
        return [weights.listed] * len(places)
    cosines = {c.memory.id: min(1.0, max(0.0, c.score)) for c in dense}
    floor = min(cosines.values()) * len(dense) / (len(dense) + _FEW)
    span = 1 - floor
    similar = [0.0] * len(places)
    for i, cosine in cosines.items():
        similar[places[i]] = weights.listed + weights.dense * (cosine - floor) / span
    together = {place: max(similar[other] for other in (place, *others)) for place, others in around.linked.items()}
    for place, value in together.items():
        similar[place] = value
    return similar


def _words(
    query: Query, memories: Sequence[MemoryRecord], around: _Around, weights: RankingWeights
) -> tuple[list[float], list[float]]:
    """The share of the query's words that each memory has, and the same with those around it."""
    texts = [memory.text[:_MOST_READ].lower() for memory in memories]
    has = [[n for n, text in enumerate(texts) if root in text and has_word(text, root)] for root in query.roots]
    own, shared = [0.0] * len(texts), [0.0] * len(texts)
    rarity = [_rarity(len(having), len(texts)) for having in has]
    mass = math.fsum(rarity) or 1.0
    for having, rare in zip(has, rarity, strict=True):
        share = rare / mass
        for place in having:
            own[place] += share
        for place, count in _counts(having, around, weights).items():
            shared[place] += share * count * (weights.saturation + 1) / (count + weights.saturation)
    return own, shared


def _counts(having: Sequence[int], around: _Around, weights: RankingWeights) -> dict[int, float]:
    """How often a word counts for each memory that has it, or stands beside one that does."""
    counts: dict[int, float] = defaultdict(float)
    for places, weight in (
        (having, 1.0),
        ([around.after[place] for place in having if place in around.after], weights.words_before),
        ([around.before[place] for place in having if place in around.before], weights.words_after),
        ({other for place in having for other in around.linked.get(place, ())}, weights.words_linked),
    ):
        for place in places:  # one weight after the other: a sum must not depend on the order of the candidates
            counts[place] += weight
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
    if len(sentences) == 1:
        return 0.0 if not _ASKED.isdisjoint(sentences[0][1]) else 1.0
    asked = sum(len(words) for words, marks in sentences if not _ASKED.isdisjoint(marks))
    return 1 - asked / max(sum(len(words) for words, _ in sentences), 1)


def _dated(query: Query, memories: Sequence[MemoryRecord], weights: RankingWeights) -> dict[int, float]:
    """What it counts to name days where the query asks when, and to be of the days that it names."""
    found: dict[int, float] = defaultdict(float)
    if query.asks_when:
        found.update((place, weights.when) for place, memory in enumerate(memories) if memory.dates)
    if query.dates:
        during = [place for place, memory in enumerate(memories) if _is_of_its_days(memory, query)]
        for place in during:  # days on which all was said tell nothing
            found[place] += weights.dates * (1 - len(during) / len(memories))
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


def _told_once(memories: Sequence[MemoryRecord], order: Iterable[int]) -> Iterator[int]:
    """Leave out turns that an earlier fact is drawn from, and facts whose turns have all come."""
    turns: set[str] = set()
    sources: set[str] = set()
    for place in order:
        memory = memories[place]
        if isinstance(memory, Turn):
            turns.add(memory.id)
            if memory.id not in sources:
                yield place
        elif not memory.turn_ids or not turns.issuperset(memory.turn_ids):
            if len(memory.turn_ids) <= _MOST_SOURCES:
                sources.update(memory.turn_ids)
            yield place
