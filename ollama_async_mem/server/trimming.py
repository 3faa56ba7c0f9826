"""Memory that was freed goes back to the system.

The C library keeps what is freed between things that are still in use, so a server whose caches change for hours would
seem to grow. glibc's `malloc_trim` gives such pages back; other C libraries have no need of it, or no call for it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

__all__ = ["trimming"]

GROWTH = 1.02  # what is worth it
_REST = 1000  # times as long as it took: whoever allocates meanwhile has to wait
_log = logging.getLogger(__name__)


@asynccontextmanager
async def trimming(every_s: float = 15.0) -> AsyncIterator[None]:
    """Give freed memory back, in a thread, while the block runs: where it has grown, and not too often."""
    task = asyncio.create_task(_trim(every_s))
    try:
        yield
    finally:
        task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([task])


async def _trim(every_s: float) -> None:
    await anyio.sleep(every_s)
    try:
        heap = await anyio.to_thread.run_sync(_Heap)
        while heap.can_be_trimmed:
            took_s = await anyio.to_thread.run_sync(heap.trim)
            await anyio.sleep(max(every_s, took_s * _REST))
    except Exception as exc:  # noqa: BLE001 - a server goes on without
        _log.warning("memory that was freed is not given back: %s", exc)


class _Heap:
    """What the C library keeps for this process."""

    def __init__(self) -> None:
        self._malloc_trim = _malloc_trim()
        self._settled = 0  # pages after the last time

    @property
    def can_be_trimmed(self) -> bool:
        return self._malloc_trim is not None

    def trim(self) -> float:
        """Give back what is free, where that may be worth it; returns for how many seconds others may have waited."""
        if self._malloc_trim is None or _resident_pages() <= self._settled * GROWTH:
            return 0.0
        begin_s = time.perf_counter()
        self._malloc_trim(0)
        took_s = time.perf_counter() - begin_s
        self._settled = _resident_pages()
        return took_s


def _malloc_trim() -> Callable[[int], int] | None:
    """The function of the C library, None where it has none."""
    if sys.platform != "linux":
        return None
    import ctypes  # noqa: PLC0415 - not needed to start

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim.argtypes = [ctypes.c_size_t]
    return trim


def _resident_pages() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
