"""HTTP as Ollama speaks it: bodies, NDJSON, disconnects, refused hosts. Knows nothing of models."""

from __future__ import annotations

import ipaddress
import logging
import socket
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import anyio
import msgspec
from starlette.responses import Response

from .faults import ApiError, error_line

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["JsonResponse", "LocalOnly", "NdjsonResponse", "read_body", "unless_disconnected"]

MAX_BODY_BYTES = 64 << 20
_APP_SCHEMES = ("app", "file", "tauri", "vscode-webview", "vscode-file")
_NDJSON = (b"content-type", b"application/x-ndjson")
_log = logging.getLogger(__name__)
T = TypeVar("T")


class JsonResponse(Response):
    """A JSON answer, encoded by msgspec."""

    media_type = "application/json; charset=utf-8"

    def render(self, content: Any) -> bytes:
        """Encode the content."""
        return msgspec.json.encode(content)


class NdjsonResponse(Response):
    """A stream of JSON lines.

    An error before the first line is an answer with its status, a later one is the last line. When the
    client leaves, the lines are closed at once, whether or not one is being sent.
    """

    def __init__(self, lines: AsyncGenerator[dict[str, Any]]) -> None:
        super().__init__()
        self._lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the lines until they end or the client leaves."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_when_gone, receive, tasks.cancel_scope)
            async with aclosing(self._lines):
                await self._answer(scope, receive, send)
            tasks.cancel_scope.cancel()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False
        try:
            async for line in self._lines:
                if not has_begun:
                    await send({"type": "http.response.start", "status": 200, "headers": [_NDJSON]})
                    has_begun = True
                await send(_chunk(msgspec.json.encode(line) + b"\n", more=True))
        except Exception as exc:  # noqa: BLE001  the edge of the server: it becomes an answer
            error = _as_api_error(exc)
            if not has_begun:
                await JsonResponse({"error": error.message}, error.status)(scope, receive, send)
                return
            await send(_chunk(error_line(error.message) + b"\n", more=True))
        await send(_chunk(b"", more=False))


class LocalOnly:
    """Refuses with 403 and no body what comes under a foreign host name or from a foreign web page.

    That is what keeps a page in a browser from reaching a loopback server through its own DNS name.
    """

    def __init__(self, app: ASGIApp, *, check_host: bool) -> None:
        self._app = app
        self._check_host = check_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "http" and not self._may_pass(dict(scope["headers"])):
            await Response(status_code=403)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _may_pass(self, headers: dict[bytes, bytes]) -> bool:
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and not _is_allowed_origin(origin):
            return False
        host = headers.get(b"host", b"").decode("latin-1")
        return not self._check_host or _is_local_name(_hostname(f"//{host}"))


async def read_body(request: Request) -> bytes:
    """The request's body. Raises ApiError (413) when it is larger than 64 MiB."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise ApiError(413, f"request body too large: the limit is {MAX_BODY_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)


async def unless_disconnected(request: Request, work: Callable[[], Awaitable[T]]) -> T:
    """The result of `work`, which is cancelled when the client leaves."""
    outcome: list[T | Exception] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_cancel_when_gone, request.receive, tasks.cancel_scope)
        try:
            outcome.append(await work())
        except Exception as exc:  # noqa: BLE001  handed on below: a task group would wrap it
            outcome.append(exc)
        tasks.cancel_scope.cancel()
    if not outcome:
        raise ApiError(499, "request canceled")
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def _as_api_error(exc: Exception) -> ApiError:
    """A fault of our own is told like a fault of the runner, and logged."""
    if isinstance(exc, ApiError):
        return exc
    _log.error("an unexpected error", exc_info=exc)
    return ApiError(500, f"internal error: {exc!r}")


async def _cancel_when_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    """Wait for the client to disconnect."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _chunk(body: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


def _hostname(url: str) -> str:
    """The host of a URL, without port and brackets, in lower case; empty when there is none."""
    try:
        return (urlsplit(url).hostname or "").removesuffix(".")
    except ValueError:
        return "?"  # no name of this machine


def _is_local_name(host: str) -> bool:
    """An address of the loopback, localhost, or this machine's own name.

    Ollama also takes private addresses and names under .local and .internal. Anybody in the same network can
    give such a name to the loopback address, which is how a foreign page would get past this check.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host in {"", "localhost", socket.gethostname().lower()} or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified  # clients that share OLLAMA_HOST=0.0.0.0 send the latter


def _is_allowed_origin(origin: str) -> bool:
    """Ollama's default origins: local pages, and those of desktop applications."""
    scheme = origin.partition(":")[0]
    return scheme in _APP_SCHEMES or _hostname(origin) in {"localhost", "127.0.0.1", "0.0.0.0", "::1"}  # noqa: S104
