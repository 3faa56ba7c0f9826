"""This package: `stream_chat`."""

import asyncio

from benchmarks.phases import URL, one_stream
from benchmarks.tokens import MESSAGES
from ollama_async_mem import OllamaClient


async def main() -> None:
    """One client for all streams."""
    async with OllamaClient(URL) as client:

        async def read(model: str) -> int:
            total = 0
            async with client.stream_chat(model, MESSAGES) as stream:
                async for chunk in stream:
                    total += len(chunk.message.content)
            return total

        await one_stream(read)


asyncio.run(main())
