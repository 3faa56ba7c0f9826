"""This package: the embedded store, whose callers need not wait for each other."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from benchmarks.phases import CASE
from benchmarks.store_case import LIMIT, MODEL, numbers_of, selection_of
from benchmarks.store_peers import PATH, Peer, compare
from benchmarks.vectors import Matrix, Numbers
from ollama_async_mem.records import Turn
from ollama_async_mem.stores import open_store


@asynccontextmanager
async def opened() -> AsyncIterator[Peer]:
    """The store."""
    async with open_store(PATH) as store:

        async def insert(turns: Sequence[Turn], vectors: Sequence[Matrix]) -> None:
            await store.add_turns(turns, vectors, model=MODEL)

        async def search(user: int, vector: Matrix) -> Numbers:
            return numbers_of(await store.dense_candidates(selection_of(user), vector, model=MODEL, limit=LIMIT))

        yield Peer(insert, search, CASE["callers"])


asyncio.run(compare(opened))
