"""Memories and vectors for the tests of stores."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ollama_async_mem.records import DateRange, Fact, Job, Scope, Selection, Turn, new_id

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from ollama_async_mem.ports import MemoryStore
    from ollama_async_mem.records import Candidate, StoredMemory

    MakeStore: TypeAlias = Callable[[], MemoryStore]
    Vector: TypeAlias = NDArray[np.float32]

START = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
MODEL = "embedder:1"
DIMENSION = 8
ALICE = Scope(user_id="alice")
BOB = Scope(user_id="bob")
LEASE = timedelta(minutes=1)
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)  # before every clock on which the tests run, and the other one after it
FAR_OFF = datetime(2100, 1, 1, tzinfo=UTC)
NO_JOB = Job(id="nope", scope=ALICE, turn_ids=(), attempts=1)
DATES = (
    DateRange(date(2026, 2, 27), date(2026, 2, 27), "day", "last Friday \0\ufffd", (0, 11)),
    DateRange(date(1, 1, 1), date(9999, 12, 31), "span", "", (3, 3)),
)


def turn(text: str = "hello", scope: Scope = ALICE, *, minute: float = 0, **fields: Any) -> Turn:
    """A turn that was said some minutes after the start."""
    at = START + timedelta(minutes=minute)
    common: dict[str, Any] = {"id": new_id(), "scope": scope, "text": text, "at": at, "created_at": at}
    return Turn(**common | {"role": "user"} | fields)


def fact(text: str, scope: Scope = ALICE, *, turn_ids: tuple[str, ...] = (), **fields: Any) -> Fact:
    """A fact that was said at the start."""
    common: dict[str, Any] = {"id": new_id(), "scope": scope, "text": text, "at": START, "created_at": START}
    return Fact(**common | {"quote": text, "turn_ids": turn_ids} | fields)


def axis(*weights: float) -> Vector:
    """A vector of length one that points along the first axes by weight."""
    vector = np.zeros(DIMENSION, np.float32)
    vector[: len(weights)] = weights
    return vector / np.float32(np.linalg.norm(vector))


async def add(store: MemoryStore, *turns: Turn, vector: Vector | None = None, extract: bool = False) -> str | None:
    """Add turns with one vector for all."""
    vectors = [axis(1) if vector is None else vector] * len(turns)
    return await store.add_turns(turns, vectors, model=MODEL, extract=extract)


async def near(store: MemoryStore, scope: Scope, vector: Vector, limit: int = 10, **chosen: Any) -> list[str]:
    """The texts that are nearest, of a selection."""
    selection = Selection(scope=scope, **chosen)
    return texts(await store.dense_candidates(selection, vector, model=MODEL, limit=limit))


async def about(store: MemoryStore, scope: Scope, query: str, limit: int = 10, **chosen: Any) -> list[str]:
    """The texts that share words with a query, of a selection."""
    return texts(await store.keyword_candidates(Selection(scope=scope, **chosen), query, limit=limit))


async def everything(store: MemoryStore, scope: Scope) -> list[str]:
    """The texts of a scope, newest first, whether they hold or not."""
    page = await store.list(Selection(scope=scope, everything=True), limit=1000)
    return [memory.text for memory in page.items]


async def found(store: MemoryStore, scope: Scope = ALICE, query: str = "peanut", **chosen: Any) -> list[str]:
    """The texts of a selection, in order of the alphabet: those that the list and both indexes agree on."""
    listed = (await store.list(Selection(scope=scope, **chosen), limit=1000)).items
    said = sorted(memory.text for memory in listed)
    assert sorted(await near(store, scope, axis(1), 1000, **chosen)) == said
    assert sorted(await about(store, scope, query, 1000, **chosen)) == said
    return said


async def dump_all(store: MemoryStore, scope: Scope = Scope(), limit: int = 100) -> list[StoredMemory]:  # noqa: B008 - frozen
    """All that a store holds of a scope."""
    stored, cursor = await store.dump(scope, limit=limit)
    while cursor is not None:
        more, cursor = await store.dump(scope, limit=limit, cursor=cursor)
        stored += more
    return stored


async def learn(store: MemoryStore, *facts: Fact, vector: Vector | None = None) -> None:
    """Store facts by way of a job, as extraction does; no other job may be due."""
    seed = turn("seed", Scope("seed"))
    await add(store, seed, extract=True)
    vectors = [axis(1) if vector is None else vector] * len(facts)
    await store.finish_jobs([await claim(store)], facts, vectors, model=MODEL)
    await store.delete(seed.id)


async def claim(store: MemoryStore, now: datetime = START) -> Job:
    """Claim the job that must be due."""
    (job,) = await store.claim_jobs(now=now, lease=LEASE, limit=1)
    return job


def texts(candidates: Sequence[Candidate]) -> list[str]:
    """The texts of candidates, in order."""
    return [candidate.memory.text for candidate in candidates]
