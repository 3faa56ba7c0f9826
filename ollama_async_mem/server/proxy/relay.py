"""One request and its answer: both ways at once, piece by piece, until either side ends it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio
import msgspec

from ollama_async_mem.errors import OllamaError
from ollama_async_mem.server.problems import problem
from ollama_async_mem.server.proxy.answers import MOST_BYTES, answer_of
from ollama_async_mem.server.proxy.upstream import response_headers
from ollama_async_mem.server.shortcut import SHORTCUT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ollama_async_mem.ollama._pool import Exchange
    from ollama_async_mem.server.proxy.upstream import Upload, Upstream
    from ollama_async_mem.server.request import AsgiScope, Receive, Send

__all__ = ["Copy", "relay", "tell"]

_BAD_GATEWAY = 502
_log = logging.getLogger(__name__)


class Copy:
    """What passed of an answer, for whoever wants to know what it said. `go_on` is called for each piece."""

    def __init__(self) -> None:
        self.go_on: Callable[[], None] = lambda: None
        self._pieces: list[bytes] = []
        self._left = MOST_BYTES
        self._kind = ""

    def begin(self, exchange: Exchange) -> None:
        """Take the type of a good answer; of any other nothing is kept."""
        is_read = exchange.head.status == 200 and not exchange.head.get("content-encoding")  # noqa: PLR2004 - HTTP
        self._kind = exchange.head.get("content-type") or "" if is_read else ""

    def add(self, piece: bytes) -> None:
        """Keep a piece."""
        self.go_on()
        if self._kind:
            self._left -= len(piece)
            if self._left < 0:
                self._kind = ""
                self._pieces.clear()
            else:
                self._pieces.append(piece)

    def behind(self, write: Callable[[bytes], bool]) -> Callable[[bytes], bool]:
        """Keep the pieces that `write` takes."""

        def take(piece: bytes) -> bool:
            is_written = write(piece)
            if is_written:
                self.add(piece)
            return is_written

        return take

    def text(self) -> str | None:
        """What was said, None where that is not complete. It takes a while for a long answer."""
        return answer_of(self._kind, b"".join(self._pieces)) if self._kind else None


async def tell(send: Send, status: int, error: str) -> None:
    """Answer with an error as Ollama's clients read it."""
    body = msgspec.json.encode({"error": error})
    headers = [(b"content-type", b"application/json; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def relay(
    upstream: Upstream,
    scope: AsgiScope,
    receive: Receive,
    send: Send,
    *,
    path: bytes,
    content: Upload | bytes,
    without: frozenset[str] = frozenset(),
    headers: Sequence[tuple[bytes, bytes]] = (),
    copy: Copy | None = None,
) -> None:
    """Send a request on and its answer back, which gets more `headers`; whoever leaves first ends it for both.

    An answer that breaks off is left without its end, so that the client sees it break off too.
    """
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_watch, receive, content, tasks.cancel_scope)
        try:
            exchange = await upstream.ask(scope, path, content, without=without)
        except OllamaError as exc:
            if not isinstance(content, bytes) and content.has_gone:
                return
            await tell(send, _BAD_GATEWAY, problem(exc).detail)
        else:
            try:
                await _pass_on(exchange, scope, send, headers, copy)
            except OllamaError as exc:
                _log.warning("an answer broke off: %s", exc)
            finally:
                await exchange.aclose()
        tasks.cancel_scope.cancel()


async def _pass_on(
    exchange: Exchange,
    scope: AsgiScope,
    send: Send,
    headers: Sequence[tuple[bytes, bytes]],
    copy: Copy | None,
) -> None:
    """Pass an answer on. Pieces that come one by one take the short way, past this task, while the client reads."""
    head = exchange.head
    await send({"type": "http.response.start", "status": head.status, "headers": [*response_headers(head), *headers]})
    if copy:
        copy.begin(exchange)
    if shortcut := (scope.get("extensions") or {}).get(SHORTCUT):
        exchange.offer_to(copy.behind(shortcut.write) if copy else shortcut.write)
    while piece := await exchange.receive():
        if copy:
            copy.add(piece)
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _watch(receive: Receive, content: Upload | bytes, work: anyio.CancelScope) -> None:
    """End the work when the client leaves, so that the model stops."""
    if not isinstance(content, bytes):
        await content.over.wait()
    while (await receive())["type"] != "http.disconnect":
        pass
    work.cancel()
