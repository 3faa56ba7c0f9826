"""Runs the start and the end of an ASGI app around a block, as its server would. Knows nothing of HTTP."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ollama_async_mem.server.request import AsgiApp

__all__ = ["lifespan"]


@asynccontextmanager
async def lifespan(app: AsgiApp) -> AsyncIterator[None]:
    """Start an app, and end it when the block is left; an app that knows no lifespan is left alone.

    Raises:
        RuntimeError: the app says that it cannot start or end.
        Exception: what it raised in place of saying so.
    """
    told = _Lifespan(app)
    task = asyncio.create_task(told.run())
    try:
        await told.started.wait()
        told.require_success()
        if task.done():
            task.result()
        yield
    finally:
        if not told.started.is_set():
            task.cancel()
        told.ending.set()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([task])
    told.require_success()
    task.result()


class _Lifespan:
    """The conversation with one app."""

    def __init__(self, app: AsgiApp) -> None:
        self._app = app
        self.started, self.ending = anyio.Event(), anyio.Event()
        self._failure: str | None = None
        self._is_known = False  # whether the app has asked for a message: then what it raises is its failure

    async def run(self) -> None:
        try:
            await self._app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, self._receive, self._send)
        except Exception:
            if self._is_known:
                raise
        finally:
            self.started.set()

    def require_success(self) -> None:
        if self._failure is not None:
            raise RuntimeError(f"a part of the server failed: {self._failure}")

    async def _receive(self) -> dict[str, Any]:
        self._is_known = True
        if not self.started.is_set():
            return {"type": "lifespan.startup"}
        await self.ending.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Any) -> None:
        if message["type"].endswith(".failed"):
            self._failure = message.get("message", "it does not say why")
        self.started.set()
