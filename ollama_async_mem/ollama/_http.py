"""One server, spoken to over HTTP: sends requests, reads bodies under limits, maps what goes wrong.

It knows statuses and bytes, nothing of what they mean; a link does the HTTP.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeAlias

import anyio
import msgspec

from ollama_async_mem.errors import (
    AuthenticationFailed,
    ConfigError,
    FirstByteTimeout,
    ModelNotFound,
    ProtocolError,
    ServerBusy,
    StallTimeout,
    StatusError,
    StreamTruncated,
)

from ._links import make_link
from ._retry import RetryPolicy, with_retry
from .schema import ErrorBody

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from ._links import Answer, Link, LinkOptions
    from .hosts import Host

    Receive: TypeAlias = Callable[[], Awaitable[bytes]]

__all__ = ["MAX_BODY_BYTES", "Server", "Timeouts", "status_error"]

MAX_BODY_BYTES = 512 * 1024 * 1024
_ERROR_BODY_BYTES = 64 * 1024
_ERROR_EXCERPT = 512
_SUCCESS = range(200, 300)
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
    """One server with its connections. `request` reads whole bodies, `stream` gives them piece by piece."""

    def __init__(self, host: Host, options: LinkOptions, *, timeouts: Timeouts, retry: RetryPolicy) -> None:
        self.host = host
        self._options = options
        self._timeouts = timeouts
        self._retry = retry
        self._link: Link | None = None

    async def aclose(self) -> None:
        """Close every connection."""
        if self._link is not None:
            await self._link.aclose()

    async def request(self, method: str, path: str, body: object = None, *, retry: bool = True) -> bytes:
        """Send a request and read its whole body."""

        async def once() -> bytes:
            answer = await self._opened(method, path, body)
            try:
                return await self._read(answer, MAX_BODY_BYTES)
            finally:
                await _close(answer)

        return await with_retry(self._retry, once) if retry else await once()

    @asynccontextmanager
    async def stream(self, method: str, path: str, body: object) -> AsyncIterator[Receive]:
        """Send a request and give what receives its body piece by piece, b"" at the end.

        Tried again only until the answer begins.
        """
        answer = await with_retry(self._retry, lambda: self._opened(method, path, body))
        try:
            yield lambda: self._receive(answer)
        finally:
            await _close(answer)

    async def _opened(self, method: str, path: str, body: object) -> Answer:
        """Send a request; returns the answer, which is a success, once it begins."""
        if self._link is None:
            self._link = make_link(self.host, self._options)
        content = None if body is None else msgspec.json.encode(body)
        limit_s = self._timeouts.connect_s + self._timeouts.first_byte_s
        try:
            with anyio.fail_after(limit_s):
                answer = await self._link.open(method, path, content)
        except TimeoutError as exc:
            raise FirstByteTimeout(f"{self.host.url}{path} did not begin to answer", limit_s) from exc
        if answer.status in _SUCCESS:
            return answer
        try:
            raise await self._refusal(answer, path)
        finally:
            await _close(answer)

    async def _receive(self, answer: Answer) -> bytes:
        limit_s = self._timeouts.stall_s
        try:
            with anyio.fail_after(limit_s):
                return await answer.receive()
        except TimeoutError as exc:
            raise StallTimeout(f"{self.host.url} sent nothing more", limit_s) from exc

    async def _read(self, answer: Answer, limit_bytes: int) -> bytes:
        parts, size = [], 0
        while piece := await self._receive(answer):
            parts.append(piece)
            size += len(piece)
            if size > limit_bytes:
                raise ProtocolError(f"{self.host.url} sent more than {limit_bytes:,} bytes")
        return b"".join(parts)

    async def _refusal(self, answer: Answer, path: str) -> StatusError:
        try:
            body = await self._read(answer, _ERROR_BODY_BYTES)
        except (ProtocolError, StallTimeout, StreamTruncated):
            body = b""  # the status alone says enough
        return status_error(answer.status, body, answer.header("retry-after"), self.host.url + path)


async def _close(answer: Answer) -> None:
    with anyio.CancelScope(shield=True):  # closing a socket does not wait for the peer
        await answer.aclose()


def status_error(status: int, body: bytes, retry_after: str, url: str) -> StatusError:
    """Make the error that a refusal means. Pure."""
    message = _message(body) or f"the server answered with status {status}"
    kind = _kind(status, message)
    return kind(status, message, url=url, retry_after_s=float(retry_after) if retry_after.isdigit() else None)


def _kind(status: int, message: str) -> type[StatusError]:
    if status in _BUSY:
        return ServerBusy
    if status in _DENIED:
        return AuthenticationFailed
    # Texts of the server's 404 answers about models; any other 404 is a path that it does not know.
    if status == HTTPStatus.NOT_FOUND and message.startswith("model "):
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
