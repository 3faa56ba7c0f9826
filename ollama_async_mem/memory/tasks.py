"""Running several things at once, and holding a context open in a task of its own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio

from ollama_async_mem.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextlib import AbstractAsyncContextManager
    from typing import Any

__all__ = ["Host", "together"]


async def together(*functions: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run functions at once; the first error ends the others and is raised as it is, not in a group."""
    try:
        async with anyio.create_task_group() as tasks:
            for function in functions:
                tasks.start_soon(function)
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from group.exceptions[0].__cause__


class Host:
    """Holds a context open in a task of its own, so that any task may close it.

    Cancel scopes and task groups must be left by the task that entered them: this one does both.
    """

    def __init__(self, context: AbstractAsyncContextManager[object]) -> None:
        self._context = context
        self._closing = asyncio.Event()

    async def open(self) -> None:
        """Enter the context; who is cancelled meanwhile waits until it is left again.

        Raises:
            ConfigError: the event loop is not asyncio's.
        """
        loop = _running_loop()
        self._opened = loop.create_future()
        self._task = loop.create_task(self._hold())
        try:
            await asyncio.wait([self._task, self._opened], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._task.cancel()
            await _ended(self._task)
            raise
        if not self._opened.done():
            self._task.result()

    async def close(self) -> None:
        """Leave the context, and return once it is left; who is cancelled meanwhile waits for that too.

        Raises:
            ConfigError: it was opened in another event loop.
        """
        if not self._task.done() and self._task.get_loop() is not _running_loop():
            raise ConfigError("a memory is closed in the event loop that opened it, before that ends")
        self._closing.set()
        await _ended(self._task)
        if self._opened.done() and not self._task.cancelled():
            self._task.result()

    async def _hold(self) -> None:
        async with self._context:
            self._opened.set_result(None)
            await self._closing.wait()


async def _ended(task: asyncio.Task[None]) -> None:
    """Wait for a task, also when cancelled, which is then raised behind it."""
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as exc:  # Task.cancel passes through a shield
                cancelled = exc
    if cancelled is not None:
        raise cancelled


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError as exc:
        raise ConfigError("the memory runs on asyncio; only the client runs on trio, too") from exc
