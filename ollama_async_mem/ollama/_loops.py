"""One of something for each event loop that uses it, closed when that loop ends.

Sockets belong to the loop that opened them, but a client may serve several loops: one after the other, or in several
threads. This module knows loops, nothing of what is kept for them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import anyio
from anyio.lowlevel import current_token

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

__all__ = ["CLOSING_S", "PerLoop"]

CLOSING_S = 2.0
"""How long a cancelled task may go on in order to close something."""


class Closable(Protocol):
    """What is kept for a loop."""

    async def aclose(self) -> None:
        """Free what it holds."""
        ...


T = TypeVar("T", bound=Closable)


class PerLoop(Generic[T]):
    """Makes one `T` for each event loop, when it is first asked for there."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: dict[object, T] = {}
        self._keepers: dict[object, AsyncGenerator[None, None]] = {}

    def all(self) -> list[T]:
        """Those of all loops; another thread may be making one."""
        return list(self._made.values())

    def found(self) -> T | None:
        """Look for that of the running loop."""
        return self._made.get(_this_loop())

    async def made(self) -> T:
        """Give that of the running loop; the first time, make it."""
        if mine := self.found():  # whoever had to wait before may not be the first any more
            return mine
        self._forget_dead_loops()
        token = _this_loop()
        mine = self._made[token] = self._make()
        keeper = self._keepers[token] = self._closed_with_the_loop(mine)
        await anext(keeper)
        return mine

    async def _closed_with_the_loop(self, mine: T) -> AsyncGenerator[None, None]:
        """Have the event loop close what is left: before it ends, it closes the generators that are suspended."""
        try:
            yield
        finally:
            self._forget(_this_loop())
            with anyio.move_on_after(CLOSING_S, shield=True):
                await mine.aclose()

    def _forget(self, token: object) -> None:
        self._made.pop(token, None)
        self._keepers.pop(token, None)

    def _forget_dead_loops(self) -> None:
        """Let go of what belongs to loops that were closed without ending their generators: nothing can await there."""
        for token in list(self._made):
            if isinstance(token, asyncio.AbstractEventLoop) and token.is_closed():
                self._forget(token)

    async def aclose(self) -> None:
        """Close that of the running loop; those of others are closed when their loop ends."""
        if keeper := self._keepers.get(_this_loop()):
            await keeper.aclose()


def _this_loop() -> object:
    """What tells event loops apart; asyncio says it much faster than anyio."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return current_token()
