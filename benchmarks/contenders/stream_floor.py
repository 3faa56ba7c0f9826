"""Raw sockets."""

import asyncio

from benchmarks.floor import connect
from benchmarks.phases import URL, one_stream
from benchmarks.tokens import MESSAGES


async def main() -> None:
    """One connection for all streams."""
    connection = await connect(URL)

    async def read(model: str) -> int:
        total = 0
        async for chunks in connection.chat({"model": model, "messages": MESSAGES, "stream": True}):
            for chunk in chunks:
                total += len(chunk.message.content)
        return total

    await one_stream(read)


asyncio.run(main())
