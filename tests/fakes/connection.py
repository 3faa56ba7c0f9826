"""One accepted connection: reads requests, performs the steps of answers, notices a client that leaves."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING

from .script import Close, Coalesce, Hold, Pause, Reset, Step
from .wire import head, read_request, steps_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from .script import FixedAnswer, Request

POLL_S = 0.001
HEAD_LIMIT_BYTES = 1 << 20


class Connection(asyncio.Protocol):
    """A protocol of our own, because asyncio's streams do not tell a busy handler that the client hung up.

    A client that closes its writing half counts as gone: HTTP clients do not half-close.
    """

    transport: asyncio.Transport

    def __init__(self, number: int, answer: Callable[[Request], FixedAnswer], live: set[Connection]) -> None:
        self.number = number
        self._answer = answer
        self._live = live
        self._reader = asyncio.StreamReader(HEAD_LIMIT_BYTES)
        self._writable = asyncio.Event()
        self._writable.set()
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to serve."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._live.add(self)
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        """Hand bytes to the request reader."""
        self._reader.feed_data(data)

    def eof_received(self) -> bool:
        """Stop whatever is being sent and let the transport close."""
        self._stop()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the connection out."""
        self._stop()
        self._live.discard(self)

    def pause_writing(self) -> None:
        """Wait with further steps: the client reads slower than we write."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Go on."""
        self._writable.set()

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _serve(self) -> None:
        try:
            while not self.transport.is_closing():
                await self._exchange()
        except asyncio.IncompleteReadError:
            pass  # the client left between two requests, or within one
        except (ValueError, asyncio.LimitOverrunError):
            self.transport.write(head(400, {"Content-Length": "0", "Connection": "close"}))
        finally:
            self.transport.close()

    async def _exchange(self) -> None:
        request = await read_request(self._reader)
        request.connection = self.number
        for step in steps_of(self._answer(request), head_only=request.method == "HEAD"):
            await self._perform(step)
        request.completed = True
        if request.headers.get("connection", "").lower() == "close":
            self.transport.close()

    async def _perform(self, step: Step) -> None:
        match step:
            case Pause():
                await asyncio.sleep(step.seconds)
            case Hold():
                while not step.released:  # noqa: ASYNC110  # released from another thread
                    await asyncio.sleep(POLL_S)
            case Close():
                self.transport.close()
            case Reset():
                self._reset()
            case Coalesce():
                raw: socket.socket = self.transport.get_extra_info("socket")
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
            case data:
                self.transport.write(data)
                await asyncio.sleep(0)  # others get their turn, also while a flood is sent
                await self._writable.wait()

    def _reset(self) -> None:
        """Closing with a linger time of zero sends RST in place of FIN."""
        raw: socket.socket = self.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()
