"""A TCP stream on asyncio that costs little for each request: anyio's interface, straight on asyncio's protocol.

anyio's own stream stops and starts reading around each receive and goes once around the loop for each send, which is
a fifth of what a request costs. This one reads ahead, up to a limit. It also knows at any time what came unasked.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import anyio
from anyio.abc import ByteStream, SocketAttribute

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["AsyncioStream"]

READ_AHEAD_BYTES = 256 * 1024
_QUICK_ACK = getattr(socket, "TCP_QUICKACK", None)  # Linux
_MOST_HURRIED = 4


class AsyncioStream(asyncio.Protocol, ByteStream):
    """A connected TCP socket; `connect` makes one."""

    __slots__ = (
        "_error",
        "_has_ended",
        "_hurried",
        "_is_closed",
        "_is_reading",
        "_news",
        "_received",
        "_received_bytes",
        "_room",
        "_transport",
        "offer",
    )

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._received: list[bytes] = []
        self._received_bytes = 0
        self._is_reading = True
        self._is_closed = False
        self._has_ended = False
        self._error: Exception | None = None
        self._news: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._hurried = _MOST_HURRIED
        self.offer: Callable[[bytes], bool] | None = None
        """Is shown what comes while `receive` waits, which goes on waiting where this takes it."""

    @classmethod
    async def connect(cls, address: str, port: int) -> AsyncioStream:
        """Connect to an IP address. A name may have several, between which anyio runs the race."""
        _, stream = await asyncio.get_running_loop().create_connection(cls, address, port)
        return stream

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The socket, for whoever asks anyio's way."""
        return {SocketAttribute.raw_socket: lambda: self._transport.get_extra_info("socket")}

    @property
    def has_news(self) -> bool:
        """Whether anything came that was not received: bytes, the end, an error."""
        return bool(self._received) or self._has_ended

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Wait for bytes."""
        while not self._received:
            if self._has_ended:
                raise self._end()
            if self._news is not None:
                raise anyio.BusyResourceError("reading from")
            if self._hurried < _MOST_HURRIED:
                self._hurry()
            self._news = asyncio.get_running_loop().create_future()
            try:
                await self._news
            finally:
                self._news = None
        return self._taken(max_bytes)

    def _hurry(self) -> None:
        """Acknowledge at once what has come, for more is to follow.

        A server that writes the head and the body of an answer one after the other, without TCP_NODELAY, holds the body
        back until the head is acknowledged, which Linux puts off for 40 ms: RFC 896 and RFC 1122, section 4.2.3.2.
        """
        self._hurried += 1
        if self._hurried > 1 and _QUICK_ACK is not None:
            with suppress(OSError):  # it was closed meanwhile
                self._transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)

    def _taken(self, max_bytes: int) -> bytes:
        data = self._received[0] if len(self._received) == 1 else b"".join(self._received)
        self._received.clear()
        if len(data) > max_bytes:
            self._received.append(data[max_bytes:])
            data = data[:max_bytes]
        self._received_bytes -= len(data)
        if not self._is_reading and self._received_bytes < READ_AHEAD_BYTES and not self._transport.is_closing():
            self._is_reading = True
            self._transport.resume_reading()
        return data

    def _end(self) -> Exception:
        if self._is_closed:
            return anyio.ClosedResourceError()
        if self._error is None:
            return anyio.EndOfStream()
        broken = anyio.BrokenResourceError()
        broken.__cause__ = self._error
        return broken

    async def send(self, item: bytes) -> None:
        """Send bytes; waits while the socket takes no more."""
        if self._transport.is_closing():
            raise anyio.ClosedResourceError if self._is_closed else anyio.BrokenResourceError from self._error
        self._transport.write(item)
        self._hurried = 0
        while self._room is not None:
            await asyncio.shield(self._room)
        if self._is_closed or self._error is not None:
            raise anyio.ClosedResourceError if self._is_closed else anyio.BrokenResourceError from self._error

    async def send_eof(self) -> None:
        """Say that nothing more is sent."""
        self._transport.write_eof()

    async def aclose(self) -> None:
        """Close at once; what is not sent yet is dropped."""
        self._is_closed = True
        self._transport.abort()
        await asyncio.sleep(0)  # the socket itself is closed by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport, which tells at once when it has to buffer."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(0)

    def data_received(self, data: bytes) -> None:
        """Keep bytes for `receive`, unless somebody takes them before."""
        if self.offer is not None and self._news is not None and not self._received and self.offer(data):
            return
        self._received.append(data)
        self._received_bytes += len(data)
        if self._received_bytes >= READ_AHEAD_BYTES and self._is_reading:
            self._is_reading = False
            self._transport.pause_reading()
        self._tell()

    def eof_received(self) -> None:
        """Let the transport close: what has come stays."""
        self._has_ended = True
        self._tell()

    def connection_lost(self, exc: Exception | None) -> None:
        """Keep the reason."""
        self._has_ended = True
        self._error = exc
        self._tell()
        self.resume_writing()

    def pause_writing(self) -> None:
        """Have senders wait."""
        self._room = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """Let senders go on."""
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
