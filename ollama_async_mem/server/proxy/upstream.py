"""The Ollama server behind: requests go to it as they came, and its answers are read as they come.

It owns the translation of heads, in which what concerns one connection alone is left out (RFC 9110, section 7.6.1).
It knows nothing of memory.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

import anyio

from ollama_async_mem.errors import StreamTruncated
from ollama_async_mem.ollama._connection import Limits
from ollama_async_mem.ollama._http11 import header_lines, request_line
from ollama_async_mem.ollama._links import address_of
from ollama_async_mem.ollama._pool import Pool
from ollama_async_mem.ollama.hosts import parse_host

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable

    from ollama_async_mem.ollama._http11 import ResponseHead
    from ollama_async_mem.ollama._pool import Exchange
    from ollama_async_mem.server.request import AsgiScope, Receive

__all__ = ["Upload", "Upstream", "response_headers"]

_CONNECTIONS = 4096
_LIMITS = Limits(wait_s=10.0, connect_s=10.0)
_OF_THE_CONNECTION = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_NOT_SENT = _OF_THE_CONNECTION | {"host", "content-length", "expect"}
_OURS = "x-memory"
_WITHOUT_BODY = frozenset({204, 304})
_LAST_CHUNK = b"0\r\n\r\n"


class Upstream:
    """The connections to a server, whose address may have a path."""

    def __init__(self, url: str) -> None:
        host = parse_host(url)
        address, self._authority = address_of(host, verify=True)
        self._pool = Pool(address, max_connections=_CONNECTIONS)
        self._path = b"" if host.socket_path else host.url.partition("://")[2].partition("/")[2].encode()

    async def ask(
        self, scope: AsgiScope, path: bytes, content: Upload | bytes, *, without: frozenset[str] = frozenset()
    ) -> Exchange:
        """Send a request on, and wait for the head of its answer.

        Raises:
            OllamaError: the server cannot be reached, or what it says is not HTTP.
        """
        headers = _request_headers(scope, _NOT_SENT | without)
        framing, body = _framed(scope, content)
        target = (b"/" + self._path if self._path else b"") + path
        line = request_line(scope["method"], target.decode("latin-1"))
        head = line + header_lines([("host", self._authority), *headers, *framing]) + b"\r\n"
        return await self._pool.exchange(scope["method"], head, body, _LIMITS)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()


class Upload:
    """The body of a request on its way in: as a whole where it is small, else piece by piece."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._held = b""
        self.is_whole = self.has_gone = False
        self.over = anyio.Event()
        """Set once nobody reads it any more."""

    async def hold(self, most_bytes: int) -> bytes | None:
        """Read it to its end, or as far as `most_bytes`; returns it where that was all.

        Raises:
            StreamTruncated: the client has gone.
        """
        pieces, size = [self._held], len(self._held)
        while not self.is_whole and size <= most_bytes:
            pieces.append(await self._next())
            size += len(pieces[-1])
        self._held = b"".join(pieces)
        return self._held if self.is_whole else None

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Give what is there and what is still to come."""
        try:
            if self._held:
                yield self._held
            while not self.is_whole:
                yield await self._next()
        finally:
            self.over.set()

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.has_gone = True
            raise StreamTruncated("the client left before the end of its request")
        self.is_whole = not message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        return piece


def response_headers(head: ResponseHead) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer for the client; the date is that of our own server."""
    left_out = _OF_THE_CONNECTION | _named(head.get("connection") or "") | {"date"}
    if head.status in _WITHOUT_BODY:
        left_out |= {"content-length"}
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in head.headers if name not in left_out]


def _request_headers(scope: AsgiScope, left_out: frozenset[str]) -> list[tuple[str, str]]:
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
    for name, value in headers:
        if name == "connection":
            left_out |= _named(value)
    return [(name, value) for name, value in headers if name not in left_out and not name.startswith(_OURS)]


def _named(connection: str) -> frozenset[str]:
    return frozenset(name.strip().lower() for name in connection.split(","))


def _framed(
    scope: AsgiScope, content: Upload | bytes
) -> tuple[Iterable[tuple[str, str]], bytes | AsyncIterator[bytes]]:
    """The headers that announce a body, and the body as it is sent."""
    said = {name: value for name, value in scope["headers"] if name in (b"content-length", b"transfer-encoding")}
    if isinstance(content, bytes):
        return ([("content-length", str(len(content)))] if said or content else []), content
    if b"transfer-encoding" in said:
        return [("transfer-encoding", "chunked")], _chunked(content.pieces())
    return [("content-length", said.get(b"content-length", b"0").decode("latin-1"))], content.pieces()


async def _chunked(pieces: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    async with aclosing(pieces):
        async for piece in pieces:
            if piece:
                yield b"%x\r\n%b\r\n" % (len(piece), piece)
    yield _LAST_CHUNK
