"""Uvicorn's HTTP protocol with patience that ends: for heads that do not arrive, and answers that nobody reads.

Uvicorn limits neither how long a request's head may take nor how large it may be, nor the number of connections.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio

    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from ollama_async_mem.server.settings import ServerSettings

__all__ = ["limited_protocol"]

_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class _LimitedProtocol(HttpToolsProtocol):
    """One connection; a timer runs from its beginning, or the first byte after an answer, until a head is whole."""

    settings: ServerSettings

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request, unless there are too many who wait."""
        super().connection_made(transport)
        if len(self.connections) > self.settings.connections:
            transport.abort()
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._head_is_whole()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes of a head or a body."""
        if self._head_timer is None and not self._is_answering():
            self._await_head()
        super().data_received(data)
        if self._head_timer is not None:
            self._head_bytes += len(data)
            if self._head_bytes > self.settings.head_bytes:
                self._end(_TOO_LARGE)

    def on_headers_complete(self) -> None:
        """Stop the timer: what follows is the guard's to limit."""
        self._head_is_whole()
        super().on_headers_complete()

    def pause_writing(self) -> None:
        """Give up a client that takes nothing of its answer for too long."""
        super().pause_writing()
        self._stall_timer = self.loop.call_later(self.settings.stalled_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: it reads again."""
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        super().resume_writing()

    def _is_answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(self.settings.head_s, self._give_up)

    def _head_is_whole(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        self._end(_TOO_SLOW if self._head_bytes else b"")

    def _end(self, answer: bytes) -> None:
        self._head_is_whole()
        if not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()


def limited_protocol(settings: ServerSettings) -> type[HttpToolsProtocol]:
    """Return uvicorn's protocol with the limits of these settings."""
    return type("LimitedProtocol", (_LimitedProtocol,), {"settings": settings})
