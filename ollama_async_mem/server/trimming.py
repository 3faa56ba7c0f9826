"""Memory that was freed goes back to the system.

The C library keeps what is freed between things that are still in use, so a server whose caches change for hours would
seem to grow. glibc's `malloc_trim` gives such pages back; other C libraries have no need of it, or no call for it.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

__all__ = ["trimming"]


@asynccontextmanager
async def trimming(every_s: float = 15.0) -> AsyncIterator[None]:
    """Give freed memory back now and then, in a thread, while the block runs."""
    task = asyncio.create_task(_trim(every_s))
    try:
        yield
    finally:
        task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([task])


async def _trim(every_s: float) -> None:
    await anyio.sleep(every_s)
    if trim := await anyio.to_thread.run_sync(_malloc_trim):
        while True:
            await anyio.to_thread.run_sync(trim, 0)
            await anyio.sleep(every_s)


def _malloc_trim() -> Callable[[int], int] | None:
    """The function of the C library, None where it has none."""
    if sys.platform != "linux":
        return None
    import ctypes  # noqa: PLC0415 - not needed to start

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim.argtypes = [ctypes.c_size_t]
    return trim
