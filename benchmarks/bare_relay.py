"""The least that passes a stream on: two sockets for each client and asyncio's protocols, without a word of HTTP.

No limits, no errors, no pool. What a proxy costs beyond this is what its comfort costs. It prints its port.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast
from urllib.parse import urlsplit


class _Side(asyncio.Protocol):
    """One of two sockets: what it receives the other sends."""

    def __init__(self, other: asyncio.Transport | None = None) -> None:
        self.own: asyncio.Transport
        self.other = other

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.own = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.other:
            self.other.write(data)

    def connection_lost(self, _exc: Exception | None) -> None:
        if self.other:
            self.other.close()


async def main(url: str) -> None:
    """Pass on what comes, until the process is ended."""
    loop, upstream = asyncio.get_running_loop(), urlsplit(url)
    address = upstream.hostname or "", upstream.port or 80

    async def join(client: _Side) -> None:
        _, server = await loop.create_connection(lambda: _Side(client.own), *address)
        client.other = server.own
        client.own.resume_reading()

    tasks: set[asyncio.Task[None]] = set()

    class Client(_Side):
        """The side that a client opened: it waits for the other."""

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.own.pause_reading()
            tasks.add(asyncio.create_task(join(self)))

    server = await loop.create_server(Client, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main(sys.argv[1]))
