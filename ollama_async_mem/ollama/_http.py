"""One server, spoken to over HTTP: sends requests, reads bodies under limits, maps what goes wrong.

It knows statuses and bytes, nothing of what they mean; a link does the HTTP.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, TypeVar
from urllib.parse import urljoin, urlsplit

import anyio
import msgspec

from ollama_async_mem.errors import (
    ConfigError,
    ConnectFailed,
    FirstByteTimeout,
    OllamaError,
    ProtocolError,
    StallTimeout,
    StatusError,
    StreamTruncated,
    TotalTimeout,
)

from ._exchange import Upload, as_json
from ._refusals import address_shown, status_error
from ._retry import RetryPolicy, with_retry
from ._search import HostSearch
from .hosts import Host

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from ._exchange import Answer, Content, Link, LinkOptions

    Receive: TypeAlias = Callable[[], Awaitable[bytes]]

__all__ = ["MAX_BODY_BYTES", "Server", "Timeouts", "redirect_target"]

T = TypeVar("T")

MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_EMBED_BYTES = 512 * 1024 * 1024
MAX_REDIRECTS = 5
_ERROR_BODY_BYTES = 64 * 1024
_SUCCESS = range(200, 300)
_REDIRECTS = {307, 308}
_PORTS = {"http": 80, "https": 443}
_ONCE = RetryPolicy(attempts=1)


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Limits in seconds: to connect, to the first byte of an answer, between two pieces of it, and for the whole.

    The first byte comes late where a model has to be loaded; the server itself gives up after 5 minutes. `total_s` is
    for one call with its retries, or one stream up to its last piece, downloads of models included; None is no limit.
    Of the others, `float("inf")` is none.
    """

    connect_s: float = 5.0
    first_byte_s: float = 600.0
    stall_s: float = 120.0
    total_s: float | None = None

    def __post_init__(self) -> None:
        total_s = 1 if self.total_s is None else self.total_s
        limits: list[object] = [self.connect_s, self.first_byte_s, self.stall_s, total_s]
        if not all(isinstance(limit, int | float) and limit > 0 for limit in limits):  # which NaN is not
            raise ConfigError(f"timeouts are positive numbers of seconds, total_s may be None, got {self}")


class Server:
    """One server with its connections. `request` reads whole bodies, `stream` gives them piece by piece."""

    def __init__(
        self, host: Host, options: LinkOptions, *, timeouts: Timeouts, retry: RetryPolicy, find_host: bool = False
    ) -> None:
        self._options = options
        self._timeouts = timeouts
        self._answer_s = timeouts.connect_s + timeouts.first_byte_s
        if timeouts.total_s is not None:  # then no wait may be longer either
            retry = msgspec.structs.replace(retry, deadline_s=min(retry.deadline_s, timeouts.total_s))
        self._retry = retry
        self._links: dict[str, Link] = {}
        self._search = HostSearch(host, is_wanted=find_host)
        self._is_closed = False
        self._be_at(host)

    def _be_at(self, host: Host) -> None:
        self.host = host
        self._base_path = "" if host.url.startswith("unix:") else urlsplit(host.url).path

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
        size = limit_bytes or (MAX_EMBED_BYTES if "embed" in path else MAX_BODY_BYTES)
        policy = self._retry if retry and not isinstance(content, Upload) else _ONCE
        send = partial(self._whole, method, path, content, size)
        return await self._until(self._deadline(), path, partial(with_retry, policy, send))

    @asynccontextmanager
    async def stream(
        self, method: str, path: str, body: object, *, retry: bool = True, is_slow: bool = False
    ) -> AsyncIterator[Receive]:
        """Send a request and give what receives its body piece by piece, b"" at the end.

        Tried again only until the answer begins. Where it `is_slow`, each piece may take as long as the first byte.
        """
        policy = self._retry if retry else _ONCE
        send = partial(self._begun, method, path, _content(body))
        deadline = self._deadline()
        answer = await self._until(deadline, path, partial(with_retry, policy, send))
        receive = partial(self._receive, answer, self._timeouts.first_byte_s if is_slow else self._timeouts.stall_s)
        try:
            yield receive if deadline is None else partial(self._until, deadline, path, receive)
        finally:
            await answer.aclose()

    def _deadline(self) -> float | None:
        total_s = self._timeouts.total_s
        return None if total_s is None else anyio.current_time() + total_s

    async def _until(self, deadline: float | None, path: str, work: Callable[[], Awaitable[T]]) -> T:
        """Do work that has to be done by a deadline in anyio's clock, which also holds for work that never waits."""
        if deadline is None:
            return await work()
        if anyio.current_time() < deadline:
            with anyio.CancelScope(deadline=deadline):
                return await work()
        raise TotalTimeout(f"{self.host.url}{path} was not done", self._timeouts.total_s or 0) from TimeoutError()

    async def _whole(self, method: str, path: str, content: Content, limit_bytes: int) -> bytes:
        """Send a request and read its answer under one deadline, which moves on as the answer comes."""
        answer = None
        with anyio.move_on_after(self._answer_s) as scope:
            if isinstance(content, Upload):
                content = msgspec.structs.replace(content, on_piece=partial(self._postpone, scope))
            answer = await self._open(method, path, content)
            try:
                return await self._read(answer, limit_bytes, scope)
            finally:
                await answer.aclose()
        if answer is None:
            raise self._no_answer(path) from TimeoutError()
        raise self._stalled(self._timeouts.stall_s) from TimeoutError()

    def _postpone(self, scope: anyio.CancelScope) -> None:
        scope.deadline = anyio.current_time() + self._answer_s

    async def _begun(self, method: str, path: str, content: Content) -> Answer:
        """Send a request; returns the answer, which is a success, once it begins."""
        with anyio.move_on_after(self._answer_s):
            return await self._open(method, path, content)
        raise self._no_answer(path) from TimeoutError()

    async def _receive(self, answer: Answer, stall_s: float) -> bytes:
        if answer.is_at_hand:
            return await answer.receive()
        with anyio.move_on_after(stall_s):
            return await answer.receive()
        raise self._stalled(stall_s) from TimeoutError()

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
        """Send a request; where nobody listens, also to the machine around our container, once that is found."""
        try:
            return await self._answered(method, path, content)
        except ConnectFailed as exc:
            self._be_at(await self._search.elsewhere(exc))
        return await self._answered(method, path, content)

    async def _answered(self, method: str, path: str, content: Content) -> Answer:
        """Send a request, also to where the server redirects it; returns the answer, which is a success."""
        origin, target = self.host.url, self._base_path + path
        for _ in range(MAX_REDIRECTS + 1):
            answer = await self._link(origin).open(method, target, content)
            self._search.is_open = False
            if answer.status in _SUCCESS and not answer.header("content-type").startswith("text/html"):
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
            return self._links.setdefault(origin, make_link(self.host if is_ours else Host(origin), options))
        return self._links[origin]

    def _redirected(self, origin: str, target: str, answer: Answer) -> tuple[str, str]:
        """Where a redirect leads: the origin, ours by the name that we know it under, and the absolute path."""
        to = redirect_target(origin, target, answer.header("location"), answer.status)
        ours = redirect_target(self.host.url, "/", "/", answer.status)[0]
        if to[0] == ours:
            return self.host.url, to[1]
        if to[0].startswith("https:") and self._options.has_own_tls:
            words = f"the server redirects to {to[0]}, which is not followed: verify= is an ssl.SSLContext, not for it"
            raise StatusError(answer.status, words, url=self.host.url)
        return to

    async def _refusal(self, answer: Answer, url: str) -> OllamaError:
        """The error that an answer means; as much of its words as comes, for the status alone says enough."""
        body = b""
        with suppress(ProtocolError, StreamTruncated), anyio.move_on_after(self._timeouts.stall_s):
            while len(body) < _ERROR_BODY_BYTES and (piece := await answer.receive()):
                body += piece
        if answer.status in _SUCCESS:  # a page, such as a hotel's that asks to log in
            return ProtocolError(
                f"{url} answered with {answer.header('content-type')}, which is not Ollama: {body[:80]!r}"
            )
        return status_error(answer.status, body, answer.header("retry-after"), url, answer.header("location"))

    def _no_answer(self, path: str) -> FirstByteTimeout:
        return FirstByteTimeout(f"{self.host.url}{path} did not begin to answer", self._answer_s)

    def _stalled(self, limit_s: float) -> StallTimeout:
        return StallTimeout(f"{self.host.url} sent nothing more", limit_s)


def _content(body: object) -> Content:
    return body if body is None or isinstance(body, Upload) else as_json(body)


def redirect_target(origin: str, target: str, location: str, status: int) -> tuple[str, str]:
    """Read where a redirect leads: scheme, host and port, and the absolute path with its query. Pure.

    Raises:
        StatusError: it cannot be followed, or gives up TLS.
    """
    shown = address_shown(location)
    try:
        base = urlsplit(origin)
        parts = urlsplit(urljoin(f"{base.scheme}://{base.netloc}{target}", location))
        port = parts.port or _PORTS[parts.scheme]
        name = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    except (ValueError, KeyError) as exc:
        raise StatusError(status, f"the server redirects to {shown}, which is no address") from exc
    if not location or not name or (base.scheme == "https" and parts.scheme == "http"):
        raise StatusError(status, f"the server redirects to {shown}, which is not followed", url=origin)
    return f"{parts.scheme}://{name}:{port}", (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
