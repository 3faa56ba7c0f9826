"""The short way of an answer that has begun: from where its pieces come to the client's socket, past every task."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

__all__ = ["SHORTCUT", "Shortcut"]

SHORTCUT = "ollama_async_mem.shortcut"
"""The ASGI extension that is the `Shortcut` of a connection."""


def _never() -> bool:
    return False


class Shortcut:
    """Of one connection. The protocol says whether the client reads, the guard by what the key still holds.

    With hundreds of streams each object that a piece passes is a miss of the processor's caches, so there are few.
    """

    __slots__ = ("_transport", "holds", "is_open")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.is_open = True
        self.holds: Callable[[], bool] = _never

    def write(self, piece: bytes) -> bool:
        """Write a piece of an answer that is sent in chunks; False where it has to go the long way."""
        if not (self.is_open and self.holds()):
            return False
        self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        return True
