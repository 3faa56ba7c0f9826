"""Raw sockets: one for each stream."""

import asyncio

from benchmarks.floor import connect
from benchmarks.phases import URL, Delays, many_streams
from benchmarks.tokens import MESSAGES


async def follow(delays: Delays) -> None:
    """Follow one stream."""
    connection = await connect(URL)
    is_open = False
    async for chunks in connection.chat({"model": delays.model, "messages": MESSAGES, "stream": True}):
        if not is_open:
            is_open = True
            delays.opened()
        for chunk in chunks:
            delays.add(chunk.message.content)


asyncio.run(many_streams(follow))
