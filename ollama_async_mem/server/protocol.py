"""Uvicorn's HTTP protocol with patience that ends: for heads that do not arrive, and answers that nobody reads.

Uvicorn limits neither how long a request's head may take nor how large it may be, nor the number of connections.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ollama_async_mem.server.shortcut import SHORTCUT, Shortcut

if TYPE_CHECKING:
    import asyncio

    from uvicorn._types import ASGI3Application
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from ollama_async_mem.server.settings import ServerSettings

__all__ = ["limited_protocol"]

_UPGRADE = re.compile(rb"\r\nupgrade:[^\r\n]*(?=\r\n)", re.IGNORECASE)
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class _LimitedProtocol(HttpToolsProtocol):
    """One connection; a timer runs from its beginning, or the first byte after an answer, until a head is whole."""

    settings: ServerSettings

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._pending_bytes = 0  # since the last head, piece of a body or message was whole
        self._is_in_head = True
        self._shortcut: Shortcut
        self._running: RequestResponseCycle | None = None  # whose answer is under way; `cycle` is the last that came

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request, unless there are too many who wait."""
        super().connection_made(transport)
        self._shortcut = Shortcut(transport)
        self.client, self.server = _plain(self.client), _plain(self.server)
        if len(self.connections) > self.settings.connections:
            transport.abort()
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._head_is_whole()
        self.resume_writing()
        self._shortcut.is_open = False
        super().connection_lost(exc)
        if self._running is not None:
            self._running.disconnected = True
            self._running.message_event.set()

    def data_received(self, data: bytes) -> None:
        """Take bytes of a head or a body."""
        if self._head_timer is None and not self._is_answering():
            self._await_head()
        self._pending_bytes += len(data)
        super().data_received(_without_upgrade(data) if self._is_in_head else data)
        if self._pending_bytes > self.settings.head_bytes:
            self._end(_TOO_LARGE)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, but none behind the body: nobody would have checked it."""
        if self._is_in_head:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body; how much of it is the guard's to limit."""
        self._pending_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Take headers from here on."""
        self._pending_bytes, self._is_in_head = 0, True
        super().on_message_complete()

    def on_headers_complete(self) -> None:
        """Stop the timer: what follows is the guard's to limit.

        Raises:
            ValueError: it wants another protocol; its body would be read as the next request.
        """
        if self.parser.should_upgrade():
            raise ValueError("no other protocol is spoken here")
        self._head_is_whole()
        self._pending_bytes, self._is_in_head = 0, False
        super().on_headers_complete()
        self.scope["extensions"] = {SHORTCUT: self._shortcut}  # type: ignore[dict-item]

    def pause_writing(self) -> None:
        """Give up a client that takes nothing of its answer for too long."""
        super().pause_writing()
        self._shortcut.is_open = False
        self._stall_timer = self.loop.call_later(self.settings.stalled_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: it reads again."""
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        self._shortcut.is_open = True
        super().resume_writing()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _is_answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.settings.head_s, self._give_up)

    def _head_is_whole(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        self._end(_TOO_SLOW if self._pending_bytes else b"")

    def _end(self, answer: bytes) -> None:
        """Close the connection, with an answer unless there is one under way."""
        self._head_is_whole()
        if not self.transport.is_closing():
            self.transport.write(b"" if self._is_answering() else answer)
            self.transport.close()


def _plain(address: tuple[str, Any] | None) -> tuple[str, Any] | None:
    """An address of IPv4 as such: a socket that takes both kinds calls it ::ffff:10.0.0.1."""
    mapped = IPv6Address(address[0].partition("%")[0]).ipv4_mapped if address and ":" in address[0] else None
    return (str(mapped), address[1]) if address and mapped else address


def _without_upgrade(data: bytes) -> bytes:
    """Leave the Upgrade header out of a head: clients that offer HTTP/2 send one with their first request."""
    found = _UPGRADE.search(data, 0, data.find(b"\r\n\r\n") + 2)
    return data[: found.start()] + data[found.end() :] if found else data


def limited_protocol(settings: ServerSettings) -> type[HttpToolsProtocol]:
    """Return uvicorn's protocol with the limits of these settings."""
    return type("LimitedProtocol", (_LimitedProtocol,), {"settings": settings})
