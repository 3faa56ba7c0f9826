"""Chroma in a folder, called as mem0 does, with a filter by user."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import chromadb
import numpy as np

from benchmarks.store_case import LIMIT
from benchmarks.store_peers import PATH, Peer, compare, payload_of
from benchmarks.vectors import Numbers
from ollama_async_mem.records import Turn


@asynccontextmanager
async def opened() -> AsyncIterator[Peer]:
    """The client and its collection."""
    settings = chromadb.Settings(anonymized_telemetry=False)
    client = chromadb.PersistentClient(str(PATH), settings=settings)
    collection = client.get_or_create_collection("memories", embedding_function=None)

    async def insert(turns: Sequence[Turn], vectors: Sequence[list[float]]) -> None:
        payloads = [payload_of(turn) for turn in turns]
        collection.add(ids=[turn.id for turn in turns], embeddings=list(vectors), metadatas=payloads)

    async def search(user: int, vector: list[float]) -> Numbers:
        where = {"user_id": {"$eq": f"user-{user}"}}
        found = collection.query(query_embeddings=[vector], where=where, n_results=LIMIT)
        return np.array([UUID(row).int for row in found["ids"][0]])

    yield Peer(insert, search)


asyncio.run(compare(opened, np.ndarray.tolist))
