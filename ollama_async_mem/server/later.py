"""An ASGI app that is imported and made when it is first asked: until then it costs neither time nor memory."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from ollama_async_mem.server.lifespan import lifespan

if TYPE_CHECKING:
    from collections.abc import Callable

    from ollama_async_mem.server.request import AsgiApp, AsgiScope, Receive, Send

__all__ = ["Later"]


class Later:
    """Stands for the app that `make` returns once `module` is imported, which a thread does."""

    def __init__(self, module: str, make: Callable[[], AsgiApp]) -> None:
        self._module = module
        self._make = make
        self._app: AsgiApp | None = None
        self._wanted, self._tried, self._ending = anyio.Event(), anyio.Event(), anyio.Event()

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Start and end with the server; hand all else to the app."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        self._wanted.set()
        await self._tried.wait()
        if self._app is None:
            raise RuntimeError(f"{self._module} could not be started: the log says why")
        await self._app(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._hold)
            await receive()
            self._ending.set()
            if not self._tried.is_set():
                tasks.cancel_scope.cancel()
        await send({"type": "lifespan.shutdown.complete"})

    async def _hold(self) -> None:
        """Make the app once it is wanted, and hold it until the end."""
        await self._wanted.wait()
        try:
            await anyio.to_thread.run_sync(import_module, self._module)
            app = self._make()
            async with lifespan(app):
                self._app = app
                self._tried.set()
                await self._ending.wait()
        finally:
            self._tried.set()
