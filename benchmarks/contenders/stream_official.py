"""The official client: `chat(stream=True)`."""

import asyncio

from ollama import AsyncClient  # type: ignore[import-not-found, unused-ignore]  # only the extra `bench` has it

from benchmarks.phases import URL, one_stream
from benchmarks.tokens import MESSAGES

client = AsyncClient(URL)


async def read(model: str) -> int:
    """Stream a chat."""
    total = 0
    async for chunk in await client.chat(model, MESSAGES, stream=True):
        total += len(chunk.message.content or "")
    return total


asyncio.run(one_stream(read))
