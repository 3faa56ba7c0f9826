"""How much a caller may ask for: token buckets by name, and places for requests at once. Pure: knows no HTTP."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ollama_async_mem.server.errors import Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Buckets", "Places"]

_MOST_BUCKETS = 10_000
_MINUTE_S = 60.0
_BUSY_RETRY_S = 1.0


class Buckets:
    """Token buckets, one a name: each holds up to `per_minute` tokens and gets that many a minute.

    Names come from outside: of more than `most` of them, the ones that were longest unused are forgotten.
    """

    def __init__(
        self, per_minute: int, *, most: int = _MOST_BUCKETS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_minute = per_minute
        self._most = most
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # tokens, and when that was so; the least used come first

    def take(self, name: str) -> float:
        """Take a token; returns 0, or the seconds until there is one."""
        now = self._clock()
        tokens, then = self._buckets.pop(name, (float(self._per_minute), now))
        tokens = min(self._per_minute, tokens + (now - then) * self._per_minute / _MINUTE_S)
        missing = max(0.0, 1 - tokens)
        self._buckets[name] = (tokens if missing else tokens - 1, now)
        if len(self._buckets) > self._most:
            del self._buckets[next(iter(self._buckets))]
        return missing * _MINUTE_S / self._per_minute


class Places:
    """How many requests are under way, in all and of each name."""

    def __init__(self, most: int, most_per_name: int) -> None:
        self._most = most
        self._most_per_name = most_per_name
        self._taken: Counter[str] = Counter()
        self.in_all = 0

    @contextmanager
    def one(self, name: str | None) -> Iterator[None]:
        """Hold a place for the time of the block; without a name, only the number in all is limited.

        Raises:
            Overloaded: there is none.
        """
        if self.in_all >= self._most:
            raise Overloaded("the server is at its limit of requests at once: try again", retry_after_s=_BUSY_RETRY_S)
        if name is not None and self._taken[name] >= self._most_per_name:
            raise Overloaded(
                f"this key has {self._most_per_name} requests under way, which is its limit: wait for one of them",
                retry_after_s=_BUSY_RETRY_S,
            )
        self.in_all += 1
        self._count(name, 1)
        try:
            yield
        finally:
            self.in_all -= 1
            self._count(name, -1)

    def _count(self, name: str | None, change: int) -> None:
        if name is not None:
            self._taken[name] += change
            if not self._taken[name]:
                del self._taken[name]
