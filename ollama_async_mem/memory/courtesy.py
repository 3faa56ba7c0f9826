"""Chats first: while somebody waits for an answer, extraction does not ask the same model for facts.

Knows neither chats nor extraction: who answers says so, and who can wait does.
"""

from __future__ import annotations

import time

import anyio

__all__ = ["Courtesy"]

STALLED_S = 30.0
"""How long an answer of which nothing comes is waited for: its reader may have gone."""
LONGEST_S = 300.0
"""How long is waited in all, where one answer follows upon another."""


class Courtesy:
    """Counts the answers that are under way. `begin`, any number of times `go_on`, and `end` are of one answer."""

    def __init__(self) -> None:
        self._answers = 0
        self._moved_s = 0.0
        self._done = anyio.Event()

    def begin(self) -> None:
        """Say that somebody begins to wait for an answer."""
        self._answers += 1
        self.go_on()

    def go_on(self) -> None:
        """Say that more of an answer came."""
        self._moved_s = time.monotonic()

    def end(self) -> None:
        """Say that somebody waits no more."""
        self._answers -= 1
        if not self._answers:
            before, self._done = self._done, anyio.Event()
            before.set()

    async def wait(self) -> None:
        """Wait until there is no answer under way, or none that goes on."""
        with anyio.move_on_after(LONGEST_S):
            while self._answers and (left := self._moved_s + STALLED_S - time.monotonic()) > 0:
                with anyio.move_on_after(left):
                    await self._done.wait()
