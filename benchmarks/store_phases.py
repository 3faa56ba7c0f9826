"""What is measured of stores: single calls by the clock, their median and 99th percentile, and what they find."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np

from ollama_async_mem.records import Candidate

from .store_case import LIMIT, MODEL, selection_of

if TYPE_CHECKING:
    from ollama_async_mem.ports import MemoryStore

    from .store_case import Asked

T = TypeVar("T")
Timed: TypeAlias = tuple[float, Sequence[Candidate]]


async def timed(work: Awaitable[T]) -> tuple[float, T]:
    """The time that something takes, in milliseconds, and what comes of it."""
    begin = time.perf_counter()
    result = await work
    return (time.perf_counter() - begin) * 1e3, result


def centiles(times_ms: Sequence[float], name: str = "") -> dict[str, float]:
    """The figures of some times."""
    return {f"{name}p50_ms": float(np.quantile(times_ms, 0.5)), f"{name}p99_ms": float(np.quantile(times_ms, 0.99))}


async def dense(store: MemoryStore, queries: Asked, place: int) -> Sequence[Candidate]:
    """Ask the index of vectors."""
    selection = selection_of(queries.users[place])
    return await store.dense_candidates(selection, queries.vectors[place], model=MODEL, limit=LIMIT)


async def keyword(store: MemoryStore, queries: Asked, place: int) -> Sequence[Candidate]:
    """Ask the index of words."""
    return await store.keyword_candidates(selection_of(queries.users[place]), queries.texts[place], limit=LIMIT)
