"""Qdrant's client with a folder instead of a server, called as mem0 does by default, with a filter by user.

It is not made for several callers at once, and so has one.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import numpy as np
from qdrant_client import QdrantClient, models

from benchmarks.store_case import DATA, LIMIT
from benchmarks.store_peers import PATH, Peer, compare, payload_of
from benchmarks.vectors import Numbers
from ollama_async_mem.records import Turn

NAME = "memories"


@asynccontextmanager
async def opened() -> AsyncIterator[Peer]:
    """The client and its collection."""
    client = QdrantClient(path=str(PATH))
    if not client.collection_exists(NAME):
        config = models.VectorParams(size=DATA.dimension, distance=models.Distance.COSINE, on_disk=True)
        client.create_collection(NAME, vectors_config=config)

    async def insert(turns: Sequence[Turn], vectors: Sequence[list[float]]) -> None:
        rows = zip(turns, vectors, strict=True)
        points = [models.PointStruct(id=turn.id, vector=row, payload=payload_of(turn)) for turn, row in rows]
        client.upsert(NAME, points=points)

    async def search(user: int, vector: list[float]) -> Numbers:
        match = models.FieldCondition(key="user_id", match=models.MatchValue(value=f"user-{user}"))
        found = client.query_points(NAME, query=vector, query_filter=models.Filter(must=[match]), limit=LIMIT)
        return np.array([UUID(str(point.id)).int for point in found.points])

    try:
        yield Peer(insert, search)
    finally:
        client.close()


asyncio.run(compare(opened, np.ndarray.tolist))
