"""How a memory works, as arguments that are passed on."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from datetime import timedelta

    from ollama_async_mem.memory.weights import RankingWeights
    from ollama_async_mem.ports import Reranker

__all__ = ["Behaviour"]


class Behaviour(TypedDict, total=False):
    """Arguments of `MemoryService` that have nothing to do with what it is made of."""

    extract_here: bool
    prompt: str | None
    idle_s: float
    concurrency: int
    same_within: timedelta
    weights: RankingWeights
    reranker: Reranker | None
