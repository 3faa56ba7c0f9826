"""The least that reads Ollama's answers and is still right: asyncio's streams and msgspec.

No pool, no errors, no retries, no limits. What a client costs beyond this is what its comfort costs.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

READ_BYTES = 64 << 10


class Message(msgspec.Struct, gc=False):
    """The text of a chunk."""

    role: str
    content: str


class Chunk(msgspec.Struct, gc=False):
    """One line of a streamed chat."""

    model: str
    created_at: str
    message: Message
    done: bool
    done_reason: str = ""
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0


class Embeddings(msgspec.Struct):
    """The answer of `/api/embed`."""

    model: str
    embeddings: list[list[float]]
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0


CHUNKS = msgspec.json.Decoder(Chunk)
EMBEDDINGS = msgspec.json.Decoder(Embeddings)


class Connection(NamedTuple):
    """A socket to the server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    host: str

    async def post(self, path: str, body: dict[str, Any]) -> bytes:
        """Send a request and read the head of its answer, in lower case."""
        content = msgspec.json.encode(body)
        head = f"POST {path} HTTP/1.1\r\nHost: {self.host}\r\nContent-Type: application/json\r\n"
        self.writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        return (await self.reader.readuntil(b"\r\n\r\n")).lower()

    async def embed(self, body: dict[str, Any]) -> list[list[float]]:
        """Send a request for embeddings, whose answer has a length."""
        head = await self.post("/api/embed", body)
        length = int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
        return EMBEDDINGS.decode(await self.reader.readexactly(length)).embeddings

    async def chat(self, body: dict[str, Any]) -> AsyncIterator[list[Chunk]]:
        """Send a request for a streamed chat and give the chunks that come together."""
        await self.post("/api/chat", body)
        tail = b""
        async for piece in payloads(self.reader):
            block, newline, tail = (tail + piece).rpartition(b"\n")
            yield CHUNKS.decode_lines(block + newline)


async def connect(url: str) -> Connection:
    """Open a connection."""
    parts = urlsplit(url)
    return Connection(*await asyncio.open_connection(parts.hostname, parts.port), parts.netloc)


async def payloads(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The payload of a chunked body: of all the chunks that one read completes, together."""
    data = b""
    while more := await reader.read(READ_BYTES):
        data += more
        parts: list[bytes] = []
        position = 0
        while (eol := data.find(b"\r\n", position)) >= 0:
            size = int(data[position:eol], 16)
            stop = eol + 2 + size
            if stop + 2 > len(data):
                break
            if not size:
                yield b"".join(parts)
                return
            parts.append(data[eol + 2 : stop])
            position = stop + 2
        data = data[position:]
        yield b"".join(parts)
