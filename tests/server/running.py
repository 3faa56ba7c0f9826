"""An ASGI application on a real socket, for the tests of this folder."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import httpx
import uvicorn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from ollama_async_mem.server.access import Principal

    App = Callable[[Any, Any, Any], Awaitable[None]]

T = TypeVar("T")
GRACE_S = 5


class _Server(uvicorn.Server):
    """uvicorn that leaves the signals to pytest."""

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        return contextlib.nullcontext()


@asynccontextmanager
async def held(context: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """Hold a context open in a task of its own: pytest leaves a fixture in another task than it entered it."""
    entered: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    leaving = asyncio.Event()

    async def hold() -> None:
        async with context as value:
            entered.set_result(value)
            await leaving.wait()

    task = asyncio.create_task(hold())
    task.add_done_callback(lambda _: entered.cancel())  # where it could not be entered
    try:
        value = await entered
    except asyncio.CancelledError:
        await task
        raise
    try:
        yield value
    finally:
        leaving.set()
        await task


@asynccontextmanager
async def running(app: App) -> AsyncIterator[str]:
    """Serve an application on a free port of the loopback; gives its URL."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=GRACE_S,
        )
        server = _Server(config)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [listener])
            while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                await anyio.sleep(0.001)
            try:
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                server.should_exit = True


@asynccontextmanager
async def client_of(app: App, who: Principal | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """Serve an application as a principal sees it, and give a client for it."""
    async with (
        running(seen_by(app, who) if who else app) as url,
        httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as client,
    ):
        yield client


def seen_by(app: App, who: Principal) -> App:
    """An application whose requests all come from one principal, as the guard would say."""

    async def seen(scope: Any, receive: Any, send: Any) -> None:
        scope["state"] = {**scope.get("state", {}), "principal": who}
        await app(scope, receive, send)

    return seen
