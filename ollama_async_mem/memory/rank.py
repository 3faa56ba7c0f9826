"""Candidates of several indexes made into one ranking. Pure.

Each index's scores are scaled to 0..1 over its own candidates, then summed with weights. A sum of scaled scores
keeps what ranks alone lose: on conversations, reciprocal rank fusion of BM25 with a small embedding model is worse
than BM25.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollama_async_mem.records import Hit, MemoryRecord

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ollama_async_mem.records import Candidate

__all__ = ["WEIGHTS", "fuse"]

WEIGHTS: Mapping[str, float] = {"dense": 0.5, "keyword": 0.5}


def fuse(
    lists: Mapping[str, Sequence[Candidate]], *, limit: int, weights: Mapping[str, float] = WEIGHTS
) -> tuple[Hit, ...]:
    """Rank candidates by the weighted mean of their scaled scores, best first; newer ones win ties.

    `lists` holds the candidates of each index by its name in `weights`; an index that could not be asked is
    left out and its weight goes to the others.
    """
    total = sum(weights[name] for name in lists) or 1.0
    memories: dict[str, MemoryRecord] = {}
    parts: dict[str, dict[str, float]] = {}
    for name, candidates in lists.items():
        for candidate, scaled in zip(candidates, min_max([c.score for c in candidates]), strict=True):
            memories[candidate.memory.id] = candidate.memory
            parts.setdefault(candidate.memory.id, {})[name] = scaled * weights[name] / total
    hits = [Hit(memories[i], sum(of.values()), of) for i, of in parts.items()]
    hits.sort(key=lambda hit: (hit.score, hit.at, hit.id), reverse=True)
    return tuple(hits[:limit])


def min_max(scores: Sequence[float]) -> list[float]:
    """Scale scores so that the lowest is 0 and the highest 1; equal ones are all 1."""
    if not scores:
        return []
    low, high = min(scores), max(scores)
    if high <= low:
        return [1.0] * len(scores)
    return [(score - low) / (high - low) for score in scores]
