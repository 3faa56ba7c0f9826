"""Running several things at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

__all__ = ["together"]


async def together(*functions: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run functions at once; the first error ends the others and is raised as it is, not in a group."""
    try:
        async with anyio.create_task_group() as tasks:
            for function in functions:
                tasks.start_soon(function)
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from group.exceptions[0].__cause__
