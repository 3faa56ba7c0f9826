"""Running several things at once, and which task runs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import anyio

from ollama_async_mem.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

__all__ = ["this_task", "to_the_end", "together"]

T = TypeVar("T")


async def together(*functions: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run functions at once; the first error ends the others and is raised as it is, not in a group."""
    try:
        async with anyio.create_task_group() as tasks:
            for function in functions:
                tasks.start_soon(function)
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from group.exceptions[0].__cause__


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Run what takes a moment to its end, also when the caller is cancelled, which is then raised behind it."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as exc:  # Task.cancel passes through a shield
                cancelled = exc
    if cancelled is not None:
        task.exception()  # somebody has looked at it
        raise cancelled
    return task.result()


def this_task() -> asyncio.Task[Any] | None:
    """Return the task that runs.

    Raises:
        ConfigError: it is none of asyncio's.
    """
    try:
        return asyncio.current_task()
    except RuntimeError as exc:
        raise ConfigError("the memory runs on asyncio; only the client runs on trio, too") from exc
