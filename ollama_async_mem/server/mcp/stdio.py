"""MCP over standard input and output, which carry nothing else meanwhile: what is printed goes to standard error."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, cast

import anyio
from mcp.server.stdio import stdio_server

from ollama_async_mem.server.access import LOCAL
from ollama_async_mem.server.mcp.server import mcp_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from ollama_async_mem.app import Memory
    from ollama_async_mem.server.access import Principal

__all__ = ["serve_stdio"]

_BLOCK_BYTES = 1 << 16
_log = logging.getLogger(__name__)

# What a thread sees when nobody reads any more, or the loop is over.
_ENDED = (anyio.BrokenResourceError, concurrent.futures.CancelledError, RuntimeError)


async def serve_stdio(memory: Memory, who: Principal = LOCAL) -> None:
    """Serve the tools on a memory to the program at the other end, as a principal, until it closes a pipe."""
    server = mcp_server(memory, who)
    try:
        async with stdio_server(stdin=cast("Any", _lines())) as (received, sent):
            await server.run(received, sent, server.create_initialization_options())
    except* BrokenPipeError:
        _log.info("whoever was served reads no more")


async def _lines() -> AsyncIterator[str]:
    """Lines of standard input, each read when the one before is taken.

    They are read by a thread of their own that nobody waits for: a read cannot be cancelled, and Ctrl-C must end this.
    """
    loop = asyncio.get_running_loop()
    send, receive = anyio.create_memory_object_stream[str]()

    def read() -> None:
        with contextlib.suppress(*_ENDED):
            for line in _read(sys.stdin.fileno()):
                asyncio.run_coroutine_threadsafe(send.send(line), loop).result()
            loop.call_soon_threadsafe(send.close)

    threading.Thread(target=read, name="standard input", daemon=True).start()
    async with receive:
        async for line in receive:
            yield line


def _read(fileno: int) -> Iterator[str]:
    """Read lines without Python's buffers, whose lock a daemon thread would hold at the end of the program."""
    rest = bytearray()
    while data := os.read(fileno, _BLOCK_BYTES):
        *lines, last = data.split(b"\n")
        for line in lines:
            yield (rest + line).decode(errors="replace")
            rest.clear()
        rest += last
    if rest:
        yield rest.decode(errors="replace")
