"""The official client: `embed` of many texts."""

import asyncio

from ollama import AsyncClient  # type: ignore[import-not-found, unused-ignore]  # only the extra `bench` has it

from benchmarks.phases import URL, Vectors, many_vectors
from benchmarks.tokens import MODEL

client = AsyncClient(URL)


async def embed(texts: list[str]) -> Vectors:
    """Ask for a vector for each text."""
    vectors: Vectors = (await client.embed(MODEL, texts)).embeddings
    return vectors


asyncio.run(many_vectors(embed))
