"""This package: `embed` of one text."""

import asyncio
from collections.abc import Sequence

from benchmarks.phases import TEXT, URL, small_requests
from benchmarks.tokens import MODEL
from ollama_async_mem import OllamaClient


async def main() -> None:
    """One client for all requests."""
    async with OllamaClient(URL) as client:

        async def embed(_number: int) -> Sequence[float]:
            return (await client.embed(MODEL, TEXT)).embeddings[0]

        await small_requests(embed)


asyncio.run(main())
