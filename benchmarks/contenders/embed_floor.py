"""Raw sockets: one request for many texts."""

import asyncio

from benchmarks.floor import connect
from benchmarks.phases import URL, Vectors, many_vectors
from benchmarks.tokens import MODEL


async def main() -> None:
    """One connection for all requests."""
    connection = await connect(URL)

    async def embed(texts: list[str]) -> Vectors:
        return await connection.embed({"model": MODEL, "input": texts})

    await many_vectors(embed)


asyncio.run(main())
