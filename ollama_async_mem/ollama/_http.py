"""One server, spoken to over HTTP: sends requests, reads bodies under limits, maps what goes wrong.

It knows URLs, statuses and bytes, nothing of what they mean. httpx does the HTTP.
"""

from __future__ import annotations

import contextlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import msgspec

from ollama_async_mem import __version__
from ollama_async_mem.errors import (
    AuthenticationFailed,
    ConfigError,
    ConnectFailed,
    FirstByteTimeout,
    ModelNotFound,
    ProtocolError,
    ServerBusy,
    StallTimeout,
    StatusError,
    StreamTruncated,
)

from ._retry import RetryPolicy, with_retry
from .schema import ErrorBody

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping

    from .hosts import Host

__all__ = ["MAX_BODY_BYTES", "Server", "Timeouts"]

MAX_BODY_BYTES = 512 * 1024 * 1024
_ERROR_BODY_BYTES = 64 * 1024
_ERROR_EXCERPT = 512
_HEADERS = {"user-agent": f"ollama-async-mem/{__version__}", "accept-encoding": "identity"}
_BUSY = {429, 502, 503, 504}
_DENIED = {401, 403}


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Limits in seconds: to connect, to the first byte of an answer, between two pieces of it.

    The first byte comes late where a model has to be loaded; the server itself gives up after 5 minutes.
    """

    connect_s: float = 5.0
    first_byte_s: float = 600.0
    stall_s: float = 120.0

    def __post_init__(self) -> None:
        if min(self.connect_s, self.first_byte_s, self.stall_s) <= 0:
            raise ConfigError(f"timeouts are positive numbers of seconds, got {self}")


class Server:
    """A connection pool to one server. `request` reads whole bodies, `stream` gives them piece by piece."""

    def __init__(
        self,
        host: Host,
        *,
        headers: Mapping[str, str],
        auth: httpx.Auth | tuple[str, str] | None,
        verify: Any,
        timeouts: Timeouts,
        retry: RetryPolicy,
        max_connections: int,
        transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        self.host = host
        self._timeouts = timeouts
        self._retry = retry
        self._client = httpx.AsyncClient(
            headers={
                "user-agent": f"ollama-async-mem/{__version__}",
                "accept-encoding": "identity",
                **headers,
            },
            auth=auth or ((host.username, host.password) if host.username else None),
            verify=verify,
            timeout=httpx.Timeout(None, connect=timeouts.connect_s),
            limits=httpx.Limits(max_connections=max_connections, keepalive_expiry=300),
            transport=transport,
            trust_env=not host.is_loopback,  # a proxy of the environment cannot reach our loopback
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    async def request(self, method: str, path: str, body: object = None, *, retry: bool = True) -> bytes:
        """Send a request and read its whole body."""

        async def once() -> bytes:
            async with self._opened(method, path, body) as response:
                return await self._read(response, MAX_BODY_BYTES)

        return await with_retry(self._retry, once) if retry else await once()

    @asynccontextmanager
    async def stream(self, method: str, path: str, body: object) -> AsyncIterator[AsyncIterator[bytes]]:
        """Send a request and give its body as it comes. Tried again only until the answer begins."""
        async with contextlib.AsyncExitStack() as stack:

            async def once() -> httpx.Response:
                return await stack.enter_async_context(self._opened(method, path, body))

            pieces = self._pieces(await with_retry(self._retry, once))
            yield await stack.enter_async_context(contextlib.aclosing(pieces))

    @asynccontextmanager
    async def _opened(self, method: str, path: str, body: object) -> AsyncIterator[httpx.Response]:
        response = await self._send(method, path, body)
        try:
            if not response.is_success:
                raise await self._refusal(response)
            yield response
        finally:
            with anyio.CancelScope(shield=True):  # closing a socket does not wait for the peer
                await response.aclose()

    async def _send(self, method: str, path: str, body: object) -> httpx.Response:
        content = None if body is None else msgspec.json.encode(body)
        headers = {} if body is None else {"content-type": "application/json"}
        request = self._client.build_request(method, self.host.url + path, content=content, headers=headers)
        limit_s = self._timeouts.connect_s + self._timeouts.first_byte_s
        try:
            with self._mapped_errors(begun=False), anyio.fail_after(limit_s):
                return await self._client.send(request, stream=True)
        except TimeoutError as exc:
            raise FirstByteTimeout(f"{self.host.url}{path} did not begin to answer", limit_s) from exc

    async def _pieces(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        body = response.aiter_bytes()
        while (piece := await self._next(body)) is not None:
            yield piece

    async def _next(self, body: AsyncIterator[bytes]) -> bytes | None:
        limit_s = self._timeouts.stall_s
        try:
            with self._mapped_errors(), anyio.fail_after(limit_s):
                return await anext(body, None)
        except TimeoutError as exc:
            raise StallTimeout(f"{self.host.url} sent nothing more", limit_s) from exc

    async def _read(self, response: httpx.Response, limit_bytes: int) -> bytes:
        parts, size = [], 0
        async for piece in self._pieces(response):
            parts.append(piece)
            size += len(piece)
            if size > limit_bytes:
                raise ProtocolError(f"{response.url} sent more than {limit_bytes:,} bytes")
        return b"".join(parts)

    async def _refusal(self, response: httpx.Response) -> StatusError:
        try:
            body = await self._read(response, _ERROR_BODY_BYTES)
        except (ProtocolError, StallTimeout, StreamTruncated, ConnectFailed):
            body = b""  # the status alone says enough
        return status_error(response.status_code, body, response.headers, str(response.url))

    @contextlib.contextmanager
    def _mapped_errors(self, *, begun: bool = True) -> Iterator[None]:
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as exc:
            raise ConnectFailed(self.host.url, str(exc) or "no connection in time") from exc
        except (httpx.NetworkError, httpx.RemoteProtocolError) as exc:
            if not begun:
                raise ConnectFailed(self.host.url, f"it closed the connection unanswered ({exc})") from exc
            raise StreamTruncated(f"{self.host.url} broke off its answer: {exc}") from exc
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as exc:
            raise ProtocolError(f"{self.host.url}: {exc}") from exc


def status_error(status: int, body: bytes, headers: Mapping[str, str], url: str) -> StatusError:
    """Make the error that a refusal means. Pure."""
    message = _message(body) or f"the server answered with status {status}"
    kind = _kind(status, message)
    retry_after = headers.get("retry-after", "")
    return kind(status, message, url=url, retry_after_s=float(retry_after) if retry_after.isdigit() else None)


def _kind(status: int, message: str) -> type[StatusError]:
    if status in _BUSY:
        return ServerBusy
    if status in _DENIED:
        return AuthenticationFailed
    # Texts of the server's 404 answers about models; any other 404 is a path that it does not know.
    if status == httpx.codes.NOT_FOUND and message.startswith("model "):
        return ModelNotFound
    return StatusError


def _message(body: bytes) -> str:
    """Read the words of a refusal: the JSON error, the nested one of the /v1 paths, or plain text."""
    try:
        error = msgspec.json.decode(body, type=ErrorBody).error
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return body[:_ERROR_EXCERPT].decode(errors="replace").strip()
    if isinstance(error, dict):
        error = error.get("message", error)
    return str(error)
