"""The official client: many streams of one client, its limit of 100 connections raised."""

import asyncio

from httpx import Limits
from ollama import AsyncClient  # type: ignore[import-not-found, unused-ignore]  # only the extra `bench` has it

from benchmarks.phases import CASE, URL, Delays, many_streams
from benchmarks.tokens import MESSAGES

client = AsyncClient(URL, limits=Limits(max_connections=CASE["streams"]))


async def follow(delays: Delays) -> None:
    """Follow one stream; it has no sign of its beginning but the first chunk."""
    is_open = False
    async for chunk in await client.chat(delays.model, MESSAGES, stream=True):
        if not is_open:
            is_open = True
            delays.opened()
        delays.add(chunk.message.content or "")


asyncio.run(many_streams(follow))
