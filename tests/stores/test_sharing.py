"""Searches for the same that come together share the work: who asks gets the own answer, whatever becomes of others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ollama_async_mem.errors import StoreError
from ollama_async_mem.records import Scope, Selection
from ollama_async_mem.stores import open_store
from ollama_async_mem.stores._sqlite_sharing import Sharing
from ollama_async_mem.stores._vectors import Wanted, nearest, nearest_of_each, nearest_to_each
from ollama_async_mem.stores.sqlite import SQLiteStore

from .samples import MODEL, turn

if TYPE_CHECKING:
    from pathlib import Path

    from ollama_async_mem.ports import Vector
    from ollama_async_mem.records import Candidate, Turn


class Work:
    """Squares numbers, one call at a time where it is held."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.go = asyncio.Event()
        self.failing = False

    async def __call__(self, asked: list[int]) -> list[int]:
        """Wait to be let go."""
        self.calls.append(list(asked))
        await self.go.wait()
        if self.failing and len(asked) > 1:
            raise StoreError("the disk is gone")
        return [number**2 for number in asked]


async def rounds(count: int = 5) -> None:
    """Let everybody do what they can."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_comes_meanwhile_is_asked_together() -> None:
    """The first goes at once and alone, the others when it is back, as many as there may be."""
    sharing, work = Sharing[int, int](4), Work()
    tasks = [asyncio.create_task(sharing.ask("same", number, work)) for number in range(7)]
    other = asyncio.create_task(sharing.ask("other", 10, work))
    await rounds()
    assert work.calls == [[0], [10]]
    work.go.set()
    assert await asyncio.gather(*tasks) == [number**2 for number in range(7)]
    assert await other == 100
    assert sorted(number for call in work.calls for number in call) == [*range(7), 10]
    assert max(map(len, work.calls)) == 4
    assert await sharing.ask("same", 3, work) == 9


async def test_a_failure_is_of_the_first() -> None:
    """The others of its group ask again, each alone."""
    sharing, work = Sharing[int, int](4), Work()
    work.failing = True
    tasks = [asyncio.create_task(sharing.ask("same", number, work)) for number in range(4)]
    await rounds()
    work.go.set()
    alone, first, *others = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(first, StoreError)
    assert [alone, *others] == [0, 4, 9]


@pytest.mark.parametrize("gone", [0, 1, 3])
async def test_who_leaves_hurts_nobody(gone: int) -> None:
    """Whether the first of a group is cancelled, or another."""
    sharing, work = Sharing[int, int](4), Work()
    tasks = [asyncio.create_task(sharing.ask("same", number, work)) for number in range(6)]
    await rounds()
    tasks[gone].cancel()
    await rounds()
    work.go.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found.pop(gone), asyncio.CancelledError)
    assert found == [number**2 for number in range(6) if number != gone]


async def test_searches_at_once_find_what_they_find_alone(tmp_path: Path) -> None:
    """To the last digit, also where vectors are equal."""
    random = np.random.default_rng(3)
    rows = random.standard_normal((600, 48)).astype(np.float32)
    rows[300:310] = rows[0]
    async with open_store(str(tmp_path / "memory.db")) as store:
        said = [turn(f"number {number}", Scope("u")) for number in range(len(rows))]
        await store.add_turns(said, list(rows), model=MODEL)
        queries = [*random.standard_normal((40, 48)).astype(np.float32), rows[0]]

        async def find(query: Vector) -> list[tuple[str, float]]:
            found = await store.dense_candidates(Selection(scope=Scope("u")), query, model=MODEL, limit=20)
            return [(c.memory.id, c.score) for c in found]

        alone = [await find(query) for query in queries]
        assert await asyncio.gather(*map(find, queries)) == alone


async def test_what_is_nearest_comes_with_what_was_said_around_it(tmp_path: Path) -> None:
    """The same as in two steps, for each of several searches at once; what two steps give is each caller's own."""
    random = np.random.default_rng(5)
    vectors, queries = (list(random.standard_normal((n, 16)).astype(np.float32)) for n in (60, 20))
    everything = Selection(scope=Scope("u"))
    async with open_store(str(tmp_path / "memory.db")) as store:
        assert isinstance(store, SQLiteStore)
        turns = [turn(f"turn {n}", Scope("u"), minute=n, metadata={"n": n}) for n in range(60)]
        await store.add_turns(turns, vectors, model=MODEL)

        async def find(query: Vector, some: int) -> tuple[list[Candidate], dict[str, list[Turn]]]:
            return await store.search_by_vector(
                everything,
                query,
                model=MODEL,
                limit=9,
                also=None,
                choose=lambda found: [c.memory.id for c in found[:some]],
            )

        together = await asyncio.gather(*(find(query, some) for some, query in enumerate(queries)))
        for some, (query, (found, around)) in enumerate(zip(queries, together, strict=True)):
            assert found == await store.dense_candidates(everything, query, model=MODEL, limit=9)
            assert around == await store.neighbours([c.memory.id for c in found[:some]])
        listed = await asyncio.gather(
            *(store.dense_candidates(everything, query, model=MODEL, limit=9) for query in queries)
        )
        for some, found in enumerate(listed):
            for candidate in found:
                candidate.memory.metadata["by"] = some
        assert all(c.memory.metadata["by"] == some for some, found in enumerate(listed) for c in found)


def test_a_product_of_many_queries_is_that_of_each() -> None:
    """Whatever is left out, and however many blocks there are."""
    random = np.random.default_rng(4)
    rows, queries = (random.standard_normal((n, 32)).astype(np.float32) for n in (500, 9))
    sometimes = [random.random(500) < share for share in (0.7, 0.04)]
    blocks = [
        (np.arange(i, i + 100), rows[i : i + 100], [None, *(mask[i : i + 100] for mask in sometimes)])
        for i in range(0, 500, 100)
    ]
    wanted = [Wanted(query, masks, limit) for query in range(9) for masks, limit in ((0, 3), (1, 12), (2, 30))]
    together = nearest_to_each(blocks, queries, wanted)
    alone = [nearest_of_each(blocks, query, [3, 12, 30]) for query in queries]
    assert together == [found for of_query in alone for found in of_query]
    for place, (query, masks, limit) in enumerate(wanted):
        counted = np.ones(500, np.bool_) if masks == 0 else sometimes[masks - 1]
        truth = np.flatnonzero(counted)[np.argsort(-(rows @ queries[query])[counted])][:limit]
        assert [i for i, _ in together[place]] == truth.tolist()
        one = ((ids, block, of_block[masks]) for ids, block, of_block in blocks)
        assert nearest(one, queries[query], limit) == together[place]
