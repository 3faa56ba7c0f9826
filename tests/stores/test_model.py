"""Random operations on a store, and the same on a plain model of one, have equal results."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from ollama_async_mem.records import Counts, Scope
from ollama_async_mem.stores.sqlite import SQLiteStore
from stores.files import inspect
from stores.samples import BOTH, LEASE, MODEL, START, axis, fact, turn

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ollama_async_mem.ports import Vector
    from ollama_async_mem.records import MemoryRecord

WORDS = ["peanut", "walnut", "paris", "花", "lyon"]
NAMES = [None, "a", "b", "a' OR 1=1"]

scopes = st.builds(Scope, st.sampled_from(NAMES), st.sampled_from(NAMES[:3]), st.sampled_from(NAMES[:2]))
phrases = st.lists(st.sampled_from(WORDS), max_size=3).map(" ".join)
directions = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 3)).map(lambda w: axis(*w))
operations = st.lists(
    st.one_of(
        st.tuples(st.just("add"), scopes, st.lists(st.tuples(phrases, directions), max_size=3), st.integers(0, 5)),
        st.tuples(st.just("learn"), phrases, directions, st.booleans()),
        st.tuples(st.just("delete"), st.integers(0, 50)),
        st.tuples(st.just("ask"), scopes, phrases, directions, st.integers(1, 5)),
    ),
    max_size=25,
)


class Model:
    """A store without any index: a list, looked through from end to end."""

    def __init__(self) -> None:
        self.rows: list[tuple[MemoryRecord, Vector]] = []
        self.jobs: list[tuple[str, list[str]]] = []

    def within(self, scope: Scope) -> list[tuple[MemoryRecord, Vector]]:
        """The rows of a scope."""
        asked = [(name, getattr(scope, name)) for name in ("user_id", "agent_id", "run_id")]
        return [row for row in self.rows if all(v is None or getattr(row[0].scope, name) == v for name, v in asked)]

    def current(self, scope: Scope) -> list[tuple[MemoryRecord, Vector]]:
        """Those of them that searches find."""
        return [row for row in self.within(scope) if getattr(row[0], "valid_to", None) is None]


async def add(store: SQLiteStore, model: Model, scope: Scope, said: Sequence[tuple[str, Vector]], minute: int) -> None:
    """Add turns with a job."""
    turns = [turn(text, scope, minute=minute) for text, _ in said]
    job_id = await store.add_turns(turns, [vector for _, vector in said], model=MODEL, extract=True)
    model.rows += zip(turns, [vector for _, vector in said], strict=True)
    assert (job_id is None) == (not turns)
    if job_id:
        model.jobs.append((job_id, [t.id for t in turns]))


async def learn(store: SQLiteStore, model: Model, text: str, vector: Vector, *, superseded: bool) -> None:
    """Claim the oldest job and finish it with one fact, twice."""
    job = await store.claim_job(now=START + timedelta(days=1), lease=LEASE)
    assert (job is None) == (not model.jobs)
    if job is None:
        return
    job_id, turn_ids = model.jobs.pop(0)
    present = [t for t in turn_ids if any(memory.id == t for memory, _ in model.rows)]
    assert (job.id, list(job.turn_ids)) == (job_id, present)
    known = fact(text, job.scope, turn_ids=tuple(turn_ids), valid_to=START if superseded else None)
    for _ in range(2):
        await store.finish_job(job, [known], [vector], model=MODEL)
    if present:
        model.rows.append((known, vector))


async def delete(store: SQLiteStore, model: Model, position: int) -> None:
    """Delete one memory, if there are any."""
    if model.rows:
        memory, _ = model.rows.pop(position % len(model.rows))
        await store.delete(memory.id)


async def ask(store: SQLiteStore, model: Model, scope: Scope, query: str, vector: Vector, limit: int) -> None:  # noqa: PLR0917
    """Compare all that can be read of a scope."""
    within, current = model.within(scope), model.current(scope)
    kinds = [memory.kind for memory, _ in within]
    assert await store.counts(scope) == Counts(kinds.count("turn"), kinds.count("fact"))
    newest = sorted(within, key=lambda row: (row[0].at, row[0].id), reverse=True)
    page = await store.list(scope, kinds=BOTH, limit=limit)
    assert [m.id for m in page.items] == [m.id for m, _ in newest[:limit]]
    assert (page.cursor is None) == (len(newest) <= limit)
    found = await store.dense_candidates(scope, vector, model=MODEL, kinds=BOTH, limit=limit)
    cosines = {memory.id: float(np.vecdot(row, vector)) for memory, row in current}
    assert [c.score for c in found] == pytest.approx(sorted(cosines.values(), reverse=True)[:limit], abs=1e-5)
    assert [c.score for c in found] == pytest.approx([cosines[c.memory.id] for c in found], abs=1e-5)
    named = await store.keyword_candidates(scope, query, kinds=BOTH, limit=100)
    shared = {memory.id for memory, _ in current if set(query.split()) & set(memory.text.split())}
    assert {c.memory.id for c in named} == shared
    assert len(named) == len(shared)


async def play(stores: list[SQLiteStore], script: list[tuple[Any, ...]]) -> None:
    """Do the operations on one store after the other, and compare at the end whatever they did."""
    model = Model()
    handlers: dict[str, Any] = {"add": add, "delete": delete, "ask": ask}
    for i, (name, *args) in enumerate([*script, ("ask", Scope(), "peanut paris", axis(1), 5)]):
        store = stores[i % len(stores)]
        if name == "learn":
            await learn(store, model, args[0], args[1], superseded=args[2])
        else:
            await handlers[name](store, model, *args)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(script=operations)
def test_a_store_in_memory_does_what_the_model_does(script: list[tuple[Any, ...]]) -> None:
    """One store in memory, with scopes that hold apart."""

    async def main() -> None:
        async with SQLiteStore(None) as store:
            await play([store], script)

    asyncio.run(main())


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(script=operations, cache_bytes=st.sampled_from([0, 3_000, 1 << 20]))
def test_two_stores_on_a_file_do_what_the_model_does(
    tmp_path_factory: pytest.TempPathFactory, script: list[tuple[Any, ...]], cache_bytes: int
) -> None:
    """Two stores that take turns on one file, with caches of any size; the file is sound at the end."""
    path: Path = tmp_path_factory.mktemp("model") / "memory.db"

    async def main() -> None:
        async with (
            SQLiteStore(path, cache_bytes=cache_bytes) as one,
            SQLiteStore(path, readers=1, cache_bytes=cache_bytes) as two,
        ):
            await play([one, two], script)

    asyncio.run(main())
    inspect(path)
