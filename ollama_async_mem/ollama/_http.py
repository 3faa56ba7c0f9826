"""One server, spoken to over HTTP: sends requests, reads bodies under limits, maps what goes wrong.

It knows statuses and bytes, nothing of what they mean; a link does the HTTP.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urljoin, urlsplit

import anyio
import msgspec

from ollama_async_mem.errors import (
    AuthenticationFailed,
    ConfigError,
    FirstByteTimeout,
    ModelNotFound,
    OllamaError,
    ProtocolError,
    ServerBusy,
    StallTimeout,
    StatusError,
    StreamTruncated,
)

from ._exchange import Upload
from ._retry import RetryPolicy, with_retry
from .hosts import Host
from .schema import ErrorBody

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from ._exchange import Answer, Content, Link, LinkOptions

    Receive: TypeAlias = Callable[[], Awaitable[bytes]]

__all__ = ["MAX_BODY_BYTES", "Server", "Timeouts", "redirect_target", "status_error"]

MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_EMBED_BYTES = 512 * 1024 * 1024
MAX_REDIRECTS = 5
_ERROR_BODY_BYTES = 64 * 1024
_ERROR_EXCERPT = 512
_SUCCESS = range(200, 300)
_BUSY = {429, 502, 503, 504}
_DENIED = {401, 403}
_REDIRECTS = {307, 308}
_METHOD_CHANGING_REDIRECTS = {301, 302, 303}
_PORTS = {"http": 80, "https": 443}
_ONCE = RetryPolicy(attempts=1)
_MAX_RETRY_AFTER_DIGITS = 9


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
        self._answer_s = timeouts.connect_s + timeouts.first_byte_s
        self._retry = retry
        self._base_path = "" if host.url.startswith("unix:") else urlsplit(host.url).path
        self._links: dict[str, Link] = {}
        self._is_closed = False

    async def aclose(self) -> None:
        """Close every connection; what is in flight fails."""
        self._is_closed = True
        for link in self._links.values():
            await link.aclose()

    async def request(
        self, method: str, path: str, body: object = None, *, retry: bool = True, limit_bytes: int | None = None
    ) -> bytes:
        """Send a request and read its whole body.

        A `body` is sent as JSON, but for an `Upload`, which is sent as it is and once. An answer may have
        `limit_bytes`, by default enough for the embeddings of very many texts.
        """
        content = _content(body)
        limit_bytes = limit_bytes or (MAX_EMBED_BYTES if "embed" in path else MAX_BODY_BYTES)
        if not retry or isinstance(content, Upload):
            return await self._whole(method, path, content, limit_bytes)
        return await with_retry(self._retry, lambda: self._whole(method, path, content, limit_bytes))

    @asynccontextmanager
    async def stream(self, method: str, path: str, body: object, *, retry: bool = True) -> AsyncIterator[Receive]:
        """Send a request and give what receives its body piece by piece, b"" at the end.

        Tried again only until the answer begins.
        """
        content = _content(body)
        policy = self._retry if retry else _ONCE
        answer = await with_retry(policy, lambda: self._begun(method, path, content))
        try:
            yield lambda: self._receive(answer)
        finally:
            await answer.aclose()

    async def _whole(self, method: str, path: str, content: Content, limit_bytes: int) -> bytes:
        """Send a request and read its answer under one deadline, which moves on as the answer comes."""
        answer = None
        with anyio.move_on_after(self._answer_s) as scope:
            answer = await self._open(method, path, content)
            try:
                return await self._read(answer, limit_bytes, scope)
            finally:
                await answer.aclose()
        if answer is None:
            raise self._no_answer(path) from TimeoutError()
        raise self._stalled() from TimeoutError()

    async def _begun(self, method: str, path: str, content: Content) -> Answer:
        """Send a request; returns the answer, which is a success, once it begins."""
        with anyio.move_on_after(self._answer_s):
            return await self._open(method, path, content)
        raise self._no_answer(path) from TimeoutError()

    async def _receive(self, answer: Answer) -> bytes:
        if answer.is_at_hand:
            return await answer.receive()
        with anyio.move_on_after(self._timeouts.stall_s):
            return await answer.receive()
        raise self._stalled() from TimeoutError()

    async def _read(self, answer: Answer, limit_bytes: int, scope: anyio.CancelScope) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            if not answer.is_at_hand:
                scope.deadline = anyio.current_time() + self._timeouts.stall_s
            piece = await answer.receive()
            if not piece:
                return parts[0] if len(parts) == 1 else b"".join(parts)
            parts.append(piece)
            size += len(piece)
            if size > limit_bytes:
                raise ProtocolError(f"{self.host.url} sent more than {limit_bytes:,} bytes")

    async def _open(self, method: str, path: str, content: Content) -> Answer:
        """Send a request, also to where the server redirects it; returns the answer, which is a success."""
        origin, target = self.host.url, self._base_path + path
        for _ in range(MAX_REDIRECTS + 1):
            answer = await self._link(origin).open(method, target, content)
            if answer.status in _SUCCESS:
                return answer
            try:
                if answer.status not in _REDIRECTS or isinstance(content, Upload):
                    raise await self._refusal(answer, self.host.url + path)
                origin, target = self._redirected(origin, target, answer)
            finally:
                await answer.aclose()
        raise StatusError(answer.status, f"the server redirects more than {MAX_REDIRECTS} times", url=self.host.url)

    def _link(self, origin: str) -> Link:
        """The way to an origin. Only the configured one is sent credentials."""
        if self._is_closed:
            raise OllamaError("the client is closed")
        if origin not in self._links:
            from ._links import make_link  # noqa: PLC0415 - sockets, TLS and asyncio are loaded with the first request

            is_ours = origin == self.host.url
            if not is_ours and len(self._links) > MAX_REDIRECTS:
                raise ProtocolError(f"{self.host.url} redirects to ever new servers, at last to {origin}")
            options = self._options if is_ours else self._options.without_credentials()
            self._links[origin] = make_link(self.host if is_ours else Host(origin), options)
        return self._links[origin]

    def _redirected(self, origin: str, target: str, answer: Answer) -> tuple[str, str]:
        """Where a redirect leads: the origin, ours by the name that we know it under, and the absolute path."""
        to = redirect_target(origin, target, answer.header("location"), answer.status)
        ours = redirect_target(self.host.url, "/", "/", answer.status)[0]
        return (self.host.url if to[0] == ours else to[0]), to[1]

    async def _refusal(self, answer: Answer, url: str) -> StatusError:
        try:
            with anyio.move_on_after(self._timeouts.stall_s) as scope:
                body = await self._read(answer, _ERROR_BODY_BYTES, scope)
        except (ProtocolError, StreamTruncated):
            body = b""
        if scope.cancelled_caught:
            body = b""  # the status alone says enough
        return status_error(answer.status, body, answer.header("retry-after"), url)

    def _no_answer(self, path: str) -> FirstByteTimeout:
        return FirstByteTimeout(f"{self.host.url}{path} did not begin to answer", self._answer_s)

    def _stalled(self) -> StallTimeout:
        return StallTimeout(f"{self.host.url} sent nothing more", self._timeouts.stall_s)


def _content(body: object) -> Content:
    if body is None or isinstance(body, Upload):
        return body
    try:
        return msgspec.json.encode(body)
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise ConfigError(f"the request cannot be written as JSON: {exc}") from exc


def redirect_target(origin: str, target: str, location: str, status: int) -> tuple[str, str]:
    """Read where a redirect leads: scheme, host and port, and the absolute path with its query. Pure.

    Raises:
        StatusError: it cannot be followed, or gives up TLS.
    """
    try:
        base = urlsplit(origin)
        parts = urlsplit(urljoin(f"{base.scheme}://{base.netloc}{target}", location))
        port = parts.port or _PORTS[parts.scheme]
        name = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    except (ValueError, KeyError) as exc:
        raise StatusError(status, f"the server redirects to {location[:200]!r}, which is no address") from exc
    if not location or not name or (base.scheme == "https" and parts.scheme == "http"):
        raise StatusError(status, f"the server redirects to {location[:200]!r}, which is not followed", url=origin)
    return f"{parts.scheme}://{name}:{port}", (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def status_error(status: int, body: bytes, retry_after: str, url: str) -> StatusError:
    """Make the error that a refusal means. Pure."""
    message = _message(body) or f"the server answered with status {status}"
    if status in _METHOD_CHANGING_REDIRECTS:
        message = (
            f"the server redirects with status {status}, which would turn a POST into a GET, so it is not followed"
        )
    kind = _kind(status, message)
    return kind(status, message, url=url, retry_after_s=_retry_after_s(retry_after))


def _retry_after_s(value: str) -> float | None:
    """Read Retry-After in seconds; its other form, a date, needs clocks that agree."""
    is_number = value.isascii() and value.isdigit() and len(value) <= _MAX_RETRY_AFTER_DIGITS
    return float(value) if is_number else None


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
