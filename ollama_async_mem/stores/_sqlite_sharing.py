"""Reads for the same that come while another of them is under way, done as one. It knows nothing of what is read."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

__all__ = ["Sharing"]

A = TypeVar("A")
R = TypeVar("R")


class _Group(Generic[A, R]):
    """What is asked for together, and what came of it once it is `done`: nothing where the first caller failed."""

    def __init__(self, before: _Group[A, R] | None) -> None:
        self.before = before
        self.asked: list[A] = []
        self.is_full = False
        self.found: list[R] | None = None
        self.done = asyncio.Event()


class Sharing(Generic[A, R]):
    """Lets the first of those who ask for the same ask for the others too. It belongs to one event loop.

    Who comes alone asks at once. What comes meanwhile is gathered, up to `most`, until that is answered.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._last: dict[Hashable, _Group[A, R]] = {}

    async def ask(self, key: Hashable, asked: A, run: Callable[[list[A]], Awaitable[list[R]]]) -> R:
        """Return what `run` finds for `asked`, of which it gets several with the same key.

        An error of `run` concerns the caller who asked first; the others ask for themselves then.
        """
        group, place = self._joined(key, asked)
        if place:
            await group.done.wait()
            return group.found[place] if group.found is not None else (await run([asked]))[0]
        try:
            if group.before is not None:
                await group.before.done.wait()
            group.is_full, group.before = True, None
            group.found = await run(group.asked)
        finally:
            group.is_full = True
            group.done.set()
            if self._last.get(key) is group:
                del self._last[key]
        return group.found[0]

    def _joined(self, key: Hashable, asked: A) -> tuple[_Group[A, R], int]:
        group = self._last.get(key)
        if group is None or group.is_full:
            group = self._last[key] = _Group(group)
        group.asked.append(asked)
        group.is_full = len(group.asked) == self._most
        return group, len(group.asked) - 1
