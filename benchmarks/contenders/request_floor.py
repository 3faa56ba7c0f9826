"""Raw sockets: one for each request that runs at the same time."""

import asyncio
from collections.abc import Sequence

from benchmarks.floor import Connection, connect
from benchmarks.phases import TEXT, URL, small_requests
from benchmarks.tokens import MODEL

connections: dict[int, Connection] = {}


async def embed(number: int) -> Sequence[float]:
    """Ask for one vector."""
    if number not in connections:
        connections[number] = await connect(URL)
    return (await connections[number].embed({"model": MODEL, "input": TEXT}))[0]


asyncio.run(small_requests(embed))
