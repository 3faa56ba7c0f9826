"""The official client: `embed` of one text."""

import asyncio
from collections.abc import Sequence

from ollama import AsyncClient  # type: ignore[import-not-found, unused-ignore]  # only the extra `bench` has it

from benchmarks.phases import TEXT, URL, small_requests
from benchmarks.tokens import MODEL

client = AsyncClient(URL)


async def embed(_number: int) -> Sequence[float]:
    """Ask for one vector."""
    vector: Sequence[float] = (await client.embed(MODEL, TEXT)).embeddings[0]
    return vector


asyncio.run(small_requests(embed))
