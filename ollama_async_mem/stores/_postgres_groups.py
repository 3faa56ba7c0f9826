"""Adds that share transactions: what comes while others are being stored goes into the next transaction together.

So many callers share round trips, and the sync of each commit. It knows no connection.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from ollama_async_mem.errors import StoreClosed

from ._postgres_errors import is_of_the_data

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ollama_async_mem.records import EmbeddingSpace, StoredJob

__all__ = ["Addition", "Additions"]

WRITERS = 4
MAX_ROWS = 32  # from so many on, others share the work of the server better in a transaction of their own


class Addition(msgspec.Struct, frozen=True):
    """Parameters of inserts, the space of their vectors, and a job for them."""

    rows: Sequence[tuple[Any, ...]]
    space: EmbeddingSpace
    job: StoredJob | None = None


_Item: TypeAlias = tuple[Addition, "asyncio.Future[None]"]


class Additions:
    """The additions that wait, and the tasks that store them, by a function that stores all it is given or nothing."""

    def __init__(self, store: Callable[[Sequence[Addition]], Awaitable[None]], *, where: str) -> None:
        self._store = store
        self._where = where
        self._is_open = True
        self._queue: asyncio.Queue[_Item | None] = asyncio.Queue()  # as long as there are callers that wait
        self._writers = [asyncio.create_task(self._write()) for _ in range(WRITERS)]

    async def add(self, addition: Addition) -> None:
        """Store an addition; returns when it is committed. A caller that is cancelled leaves it stored, or not at all.

        Raises:
            StoreClosed: the store was closed before it was stored.
            Exception: what the function raised for it.
        """
        if not self._is_open:
            raise self._closed()
        future = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((addition, future))
        await future

    async def stop(self) -> None:
        """Store what waits, and end."""
        self._is_open = False
        try:
            for _ in self._writers:
                self._queue.put_nowait(None)
            await asyncio.gather(*self._writers)
        except BaseException:
            for writer in self._writers:
                writer.cancel()
            raise
        finally:
            while not self._queue.empty():
                self._end([self._queue.get_nowait()], self._closed())

    async def _write(self) -> None:
        while (first := await self._queue.get()) is not None:
            await self._settle(self._with_others(first))

    def _with_others(self, first: _Item) -> list[_Item]:
        """An item and those that wait behind it, without callers that are gone."""
        items, rows = [first], len(first[0].rows)
        while rows < MAX_ROWS and not self._queue.empty():
            item = self._queue.get_nowait()
            if item is None:
                self._queue.put_nowait(None)  # for one of the others
                break
            items.append(item)
            rows += len(item[0].rows)
        return [item for item in items if not item[1].done()]

    async def _settle(self, items: list[_Item]) -> None:
        """Store items together; where one is to blame for a failure, each by itself."""
        try:
            if items:
                await self._store([addition for addition, _ in items])
        except Exception as exc:  # noqa: BLE001 - it goes to those who wait, and the writer goes on
            if len(items) > 1 and is_of_the_data(exc):
                for item in items:
                    await self._settle([item])
            else:
                self._end(items, exc)
        except BaseException:
            self._end(items, self._closed())
            raise
        else:
            self._end(items, None)

    def _closed(self) -> StoreClosed:
        return StoreClosed(f"the store {self._where} is closed")

    @staticmethod
    def _end(items: Sequence[_Item | None], error: Exception | None) -> None:
        """Say to the callers that still wait how it ended."""
        for item in items:
            if item is None or item[1].done():
                continue
            if error is None:
                item[1].set_result(None)
            else:
                item[1].set_exception(error)
