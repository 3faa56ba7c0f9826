"""Our connections behind httpx's transport interface, for `httpx.AsyncClient(transport=OllamaTransport())`.

It maps requests and errors, nothing more; the HTTP/1.1 is that of the client itself.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import httpx

from ollama_async_mem.errors import (
    ConnectFailed,
    OllamaError,
    ProtocolError,
    RequestTimeout,
    StallTimeout,
    StreamTruncated,
)

from ._connection import Address, Limits, tls_context
from ._http11 import header_lines, request_line
from ._pool import NoFreeConnection, Pool

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Iterator

    from ._connection import Content
    from ._pool import Exchange

__all__ = ["EXCHANGE", "OllamaTransport"]

EXCHANGE = "ollama_async_mem.exchange"
"""The extension of a response that holds what comes, for those who read it without httpx."""

_PORTS = {"http": 80, "https": 443}
_LAST_CHUNK = b"0\r\n\r\n"


class OllamaTransport(httpx.AsyncBaseTransport):
    """HTTP/1.1 over anyio for any httpx client: one pool for each origin, made for streams of small chunks.

    Args:
        verify: as for `httpx.AsyncClient`: True, or an `ssl.SSLContext`.
        max_connections: most connections to one origin at once; further requests wait their turn.
        uds: path of a unix socket that all requests go to.
    """

    def __init__(
        self, *, verify: ssl.SSLContext | str | bool = True, max_connections: int = 100, uds: str | None = None
    ) -> None:
        self._verify = verify
        self._max_connections = max_connections
        self._uds = uds or ""
        self._tls: ssl.SSLContext | None = None
        self._pools: dict[tuple[str, str, int], Pool] = {}
        self._is_closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and wait for the head of its answer."""
        timeout = request.extensions.get("timeout", {})
        limits = Limits(
            wait_s=timeout.get("pool"),
            connect_s=timeout.get("connect"),
            write_s=timeout.get("write"),
            read_s=timeout.get("read"),
        )
        with _mapped_errors(request):
            head, content = await _on_the_wire(request)
            exchange = await self._pool(request.url).exchange(request.method, head, content, limits)
        return httpx.Response(
            exchange.head.status,
            headers=[(name.encode("latin-1"), value.encode("latin-1")) for name, value in exchange.head.headers],
            stream=_Stream(exchange, request),
            extensions={"http_version": b"HTTP/1.1", EXCHANGE: exchange},
        )

    def _pool(self, url: httpx.URL) -> Pool:
        if self._is_closed:
            raise OllamaError("the transport is closed")
        key = (url.scheme, url.host, url.port or _PORTS.get(url.scheme, 0))
        if key not in self._pools:
            self._pools[key] = Pool(self._address(*key), max_connections=self._max_connections)
        return self._pools[key]

    def _address(self, scheme: str, host: str, port: int) -> Address:
        if scheme not in _PORTS:
            raise httpx.UnsupportedProtocol(f"the scheme {scheme!r} is not supported, use http:// or https://")
        tls = self._context if scheme == "https" else None
        url = f"unix://{self._uds}" if self._uds else f"{scheme}://{host}:{port}"
        return Address(url, host, port, path=self._uds, tls=tls)

    def _context(self) -> ssl.SSLContext:
        """What TLS needs, the same for all origins."""
        self._tls = self._tls or tls_context(self._verify)
        return self._tls

    async def aclose(self) -> None:
        """Close every connection; what is in flight fails."""
        self._is_closed = True
        for pool in self._pools.values():
            await pool.aclose()


class _Stream(httpx.AsyncByteStream):
    """The body of an answer."""

    def __init__(self, exchange: Exchange, request: httpx.Request) -> None:
        self._exchange = exchange
        self._request = request

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        with _mapped_errors(self._request, begun=True):
            if piece := await self._exchange.receive():
                return piece
        raise StopAsyncIteration

    async def aclose(self) -> None:
        await self._exchange.aclose()


async def _on_the_wire(request: httpx.Request) -> tuple[bytes, Content]:
    """Write the head of a request, and choose how its body is sent."""
    lines = header_lines((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw)
    head = request_line(request.method, request.url.raw_path.decode("ascii")) + lines + b"\r\n"
    stream: Any = request.stream
    if isinstance(stream, httpx.ByteStream):
        return head, b"".join([piece async for piece in stream])
    if "transfer-encoding" in request.headers:
        return head, _chunked(stream)
    return head, stream


async def _chunked(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for piece in pieces:
        if piece:
            yield b"%x\r\n%b\r\n" % (len(piece), piece)
    yield _LAST_CHUNK


@contextlib.contextmanager
def _mapped_errors(request: httpx.Request, *, begun: bool = False) -> Iterator[None]:
    try:
        yield
    except OllamaError as exc:
        raise _httpx_error(exc, begun=begun)(str(exc), request=request) from exc


def _httpx_error(exc: OllamaError, *, begun: bool) -> type[httpx.TransportError]:
    if isinstance(exc, ConnectFailed):
        # what TLS and sockets say is an OSError; without one, the server closed a connection that stood
        causes = {TimeoutError: httpx.ConnectTimeout, OSError: httpx.ConnectError}
        return next((error for kind, error in causes.items() if isinstance(exc.__cause__, kind)), httpx.ReadError)
    if isinstance(exc, StreamTruncated | ProtocolError):
        return httpx.RemoteProtocolError
    timeouts = {
        NoFreeConnection: httpx.PoolTimeout,
        StallTimeout: httpx.ReadTimeout,
        RequestTimeout: httpx.WriteTimeout,
    }
    for kind, error in timeouts.items():
        if isinstance(exc, kind):
            return error
    return httpx.ReadError if begun else httpx.ConnectError
