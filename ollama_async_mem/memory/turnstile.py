"""A gate that lets tasks pass one by one, so that many that come at once do not stall the event loop."""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["Turnstile"]


class Turnstile:
    """Lets some tasks pass in each round of the loop, in the order in which they come. A new loop begins anew."""

    def __init__(self, in_a_round: int) -> None:
        self._most = in_a_round
        self._loop: asyncio.AbstractEventLoop | None = None
        self._passed = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        """Return when it is this task's turn: at once, unless others came in this round."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # what the last one was still to do, it never will
            self._loop, self._passed = loop, 0
            self._waiting.clear()
        if not self._passed:
            loop.call_soon(self._next_round)
        if self._passed < self._most:
            self._passed += 1
            return
        turn = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _next_round(self) -> None:
        self._passed = 0
        while self._waiting and self._passed < self._most:
            turn = self._waiting.popleft()
            if not turn.done():  # it was not cancelled
                turn.set_result(None)
                self._passed += 1
        if self._passed:
            asyncio.get_running_loop().call_soon(self._next_round)
