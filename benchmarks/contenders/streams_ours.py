"""This package: many `stream_chat` of one client."""

import asyncio

from benchmarks.phases import CASE, URL, Delays, many_streams
from benchmarks.tokens import MESSAGES
from ollama_async_mem import OllamaClient


async def main() -> None:
    """One client for all streams."""
    async with OllamaClient(URL, max_connections=CASE["streams"]) as client:

        async def follow(delays: Delays) -> None:
            async with client.stream_chat(delays.model, MESSAGES) as stream:
                delays.opened()
                async for chunk in stream:
                    delays.add(chunk.message.content)

        await many_streams(follow)


asyncio.run(main())
