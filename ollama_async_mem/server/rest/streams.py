"""Answers in pieces, as NDJSON or server-sent events. They end the work behind them as soon as the client leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
import msgspec

from ollama_async_mem.server.problems import problem
from ollama_async_mem.server.rest.routing import NDJSON, SSE, problem_answer
from ollama_async_mem.server.rest.shapes import Broken

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ollama_async_mem.server.rest.routing import Receive, Send

    Piece: TypeAlias = msgspec.Struct | bytes | None
    Emit: TypeAlias = Callable[[Piece], Awaitable[None]]

__all__ = ["Streamed"]

_encode = msgspec.json.Encoder().encode
# Proxies such as nginx hold pieces back until they have many of them, unless they are told not to.
_HEADERS = [(b"cache-control", b"no-store"), (b"x-accel-buffering", b"no")]


class Streamed:
    """An answer in pieces, as an ASGI application: `work` is given a function that sends one.

    It returns once the piece is on its way: a client that reads slowly slows the work down. Bytes are sent as they are,
    and None is a sign of life that says nothing. A failure before the first piece is an answer with its status, a later
    one is the last piece. When the client leaves, the work is cancelled.
    """

    def __init__(
        self, work: Callable[[Emit], Awaitable[None]], *, as_events: bool, headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        self._work = work
        self._write = _event if as_events else _line
        self._headers = [(b"content-type", SSE if as_events else NDJSON), *_HEADERS, *headers]

    async def __call__(self, _scope: object, receive: Receive, send: Send) -> None:
        """Send the pieces until they end or the client leaves."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_when_gone, receive, tasks.cancel_scope)
            await self._answer(send)
            tasks.cancel_scope.cancel()

    async def _answer(self, send: Send) -> None:
        has_begun = False

        async def emit(piece: Piece) -> None:
            nonlocal has_begun
            if not has_begun:
                has_begun = True
                await send({"type": "http.response.start", "status": 200, "headers": self._headers})
            body = piece if isinstance(piece, bytes) else self._write(piece)
            await send({"type": "http.response.body", "body": body, "more_body": True})

        try:
            await self._work(emit)
        except Exception as exc:  # noqa: BLE001 - the edge of the server, where a failure becomes an answer
            told = problem(exc)
            if not has_begun:
                await problem_answer(told)(None, None, send)
                return
            await emit(Broken(told))
        await send({"type": "http.response.body", "body": b""})


def _line(piece: msgspec.Struct | None) -> bytes:
    return b"\n" if piece is None else _encode(piece) + b"\n"


def _event(piece: msgspec.Struct | None) -> bytes:
    if piece is None:
        return b":\n\n"
    name: Any = piece.__struct_config__.tag
    return b"event: %s\ndata: %s\n\n" % (name.encode(), _encode(piece))


async def _cancel_when_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
