"""This package: `embed` of many texts."""

import asyncio

from benchmarks.phases import URL, Vectors, many_vectors
from benchmarks.tokens import MODEL
from ollama_async_mem import OllamaClient


async def main() -> None:
    """One client for all requests."""
    async with OllamaClient(URL) as client:

        async def embed(texts: list[str]) -> Vectors:
            return (await client.embed(MODEL, texts)).embeddings

        await many_vectors(embed)


asyncio.run(main())
