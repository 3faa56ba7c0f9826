"""Work that several threads share for a moment. It knows nothing of what the work is."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Crew"]

T = TypeVar("T")
R = TypeVar("R")

MOST_HELPERS = 3


class Crew:
    """Threads that help whoever calls `map`, as many as there are further cores; they start with the first call."""

    def __init__(self, helpers: int | None = None) -> None:
        self._helpers = min(MOST_HELPERS, (os.cpu_count() or 1) - 1) if helpers is None else helpers
        self._pool = ThreadPoolExecutor(max(self._helpers, 1), "store-helper")

    def map(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Return what `work` makes of each item, in order. It helps if `work` lets the interpreter's lock go.

        The caller works too, and never waits for a helper that has not begun.
        """
        left, made = deque(range(len(items))), dict[int, R]()

        def run() -> None:
            while True:
                try:
                    place = left.popleft()
                except IndexError:
                    return
                made[place] = work(items[place])

        helping = [self._pool.submit(run) for _ in range(min(self._helpers, len(items) - 1))]
        try:
            run()
        finally:
            begun = [helper for helper in helping if not helper.cancel()]
            wait(begun)
        for helper in begun:
            helper.result()
        return [made[place] for place in range(len(items))]

    def stop(self) -> None:
        """End the threads; no call may be under way."""
        self._pool.shutdown()
