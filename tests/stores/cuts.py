"""A line to a PostgreSQL server that is cut when certain bytes come along."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Line"]


class Line:
    """A socket which passes on what comes to that of a server, and its answers.

    Once `cut_at` is set, the next client that sends these bytes is cut off, and with `is_cutting_all` each further
    one: the bytes reach the server, its answer does not come back. With `is_swallowing` they do not reach it either.
    """

    def __init__(self, socket: Path, server: Path) -> None:
        self.socket = socket
        self.server = server
        self.cut_at = b""
        self.is_cutting_all = False
        self.is_swallowing = False
        self.cuts = 0

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_unix_server(self._serve, self.socket)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._listener.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_unix_connection(self.server)
        answers = asyncio.create_task(self._pass_on(from_server, writer))
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                if self.cut_at and self.cut_at in data:
                    await self._cut(answers, data, to_server)
                    break
                to_server.write(data)
        to_server.close()
        writer.close()
        await answers

    async def _cut(self, answers: asyncio.Task[None], data: bytes, to_server: asyncio.StreamWriter) -> None:
        self.cut_at, self.cuts = self.cut_at if self.is_cutting_all else b"", self.cuts + 1
        answers.cancel()
        await asyncio.wait([answers])
        if not self.is_swallowing:
            to_server.write(data)
            await to_server.drain()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.CancelledError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()
