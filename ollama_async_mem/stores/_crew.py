"""Work that several threads share for a moment. It knows nothing of what the work is."""

from __future__ import annotations

import os
import threading
from collections import deque
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Crew"]

T = TypeVar("T")
R = TypeVar("R")

MOST_HELPERS = 3


class _Share(Generic[T, R]):
    """What is to be done for one call. Any thread may do of it what nobody has begun."""

    def __init__(self, work: Callable[[T], R], items: Sequence[T]) -> None:
        self._work = work
        self._items = items
        self._left = deque(range(len(items)))
        self._made: dict[int, R | None] = {}
        self._error: BaseException | None = None
        self._done = threading.Event()

    def help(self) -> None:
        """Work until nothing is left to begin, or something failed."""
        while True:
            try:
                place = self._left.popleft()
            except IndexError:
                return
            made: R | None = None
            try:
                made = self._work(self._items[place]) if self._error is None else None
            except BaseException as exc:  # noqa: BLE001 - `result` raises it
                self._error = exc
            self._made[place] = made
            if len(self._made) == len(self._items):
                self._done.set()

    def result(self) -> list[Any]:
        """Return what was made of each item, once nobody works any more."""
        self.help()
        if self._items:
            self._done.wait()
        if self._error is not None:
            raise self._error
        return [self._made[place] for place in range(len(self._items))]


class Crew:
    """Threads that help whoever calls `map`, as many as there are further cores; they start with the first call.

    They are only help: where none can be started, the caller does it all.
    """

    def __init__(self, helpers: int | None = None) -> None:
        self._missing = min(MOST_HELPERS, _cores() - 1) if helpers is None else helpers
        self._started = 0
        self._starting = threading.Lock()  # any thread may be the first to call `map`
        self._shares: SimpleQueue[_Share[Any, Any] | None] = SimpleQueue()

    def map(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Return what `work` makes of each item, in order. It helps if `work` lets the interpreter's lock go.

        The caller works too, and never waits for a helper that has not begun.
        """
        with self._starting:
            while self._missing:
                self._start_one()
        share = _Share(work, items)
        for _ in range(min(self._started, len(items) - 1)):
            self._shares.put(share)
        return share.result()

    def stop(self) -> None:
        """Let the threads end once they are done."""
        for _ in range(self._started):
            self._shares.put(None)
        self._missing = self._started = 0

    def _start_one(self) -> None:
        self._missing -= 1
        with suppress(RuntimeError):  # there are too many, or the interpreter ends
            threading.Thread(target=self._help, name="store-helper", daemon=True).start()
            self._started += 1

    def _help(self) -> None:
        while (share := self._shares.get()) is not None:
            share.help()
            del share  # it holds what was made


def _cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
