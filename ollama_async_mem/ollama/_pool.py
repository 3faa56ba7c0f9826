"""Connections to one server: lent to one exchange at a time, kept for the next, closed.

Ollama never closes an idle connection, so they are kept for long; one that was closed all the same is noticed before
it is used, or replaced once when it breaks before the first byte of an answer. A pool may be used from several event
loops, one after the other or in several threads: each has connections of its own.
"""

from __future__ import annotations

import ssl
import time
from collections import deque
from typing import TYPE_CHECKING

import anyio

from ollama_async_mem.errors import ConnectFailed, OllamaError, RequestTimeout, StreamTruncated

from ._connection import LOST, open_connection, tls_failure
from ._http11 import ChunkedBody, HeadReader, body_of
from ._loops import PerLoop

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._connection import Address, Connection, Content, Limits
    from ._http11 import Body, ResponseHead

__all__ = ["Exchange", "NoFreeConnection", "Pool"]

IDLE_S = 300.0


class NoFreeConnection(RequestTimeout):
    """All connections stayed busy for longer than the caller wanted to wait."""


class Exchange:
    """An answer as it comes. `receive` gives the next piece of its body, b"" at the end; `aclose` ends it.

    The connection goes back to the pool as soon as the body was read to its end.
    """

    __slots__ = ("_body", "_connection", "_lane", "_ready", "head")

    def __init__(self, lane: _Lane, connection: Connection, head: ResponseHead, body: Body, early: bytes) -> None:
        self.head = head
        self._lane = lane
        self._connection: Connection | None = connection
        self._body = body
        self._ready = body.feed(early) if early else b""  # what came together with the head
        self._give_back()

    @property
    def is_at_hand(self) -> bool:
        """Whether `receive` has something to give, or the end, without waiting."""
        return bool(self._ready) or self._body.done

    def offer_to(self, take: Callable[[bytes], bool]) -> None:
        """Give pieces that come while `receive` waits to `take`, without waking whoever waits; False refuses a piece.

        Pieces of which it cannot be told at a glance that they are whole are for `receive` alone, as is the last one.
        """
        body = self._body
        if self._connection is not None and isinstance(body, ChunkedBody):
            self._connection.offer_to(_Passing(body, take).offer)

    async def receive(self) -> bytes:
        """Wait for more of the body.

        Raises:
            StreamTruncated: the connection broke before its end.
            ProtocolError: its framing is broken.
        """
        body = self._body
        payload, self._ready = self._ready, b""
        while not payload and not body.done:
            if body.broken:
                raise body.broken
            if data := await self._more():
                payload = body.feed(data)
            else:
                body.end()
        self._give_back()
        return payload

    async def _more(self) -> bytes:
        if self._connection is None:
            raise StreamTruncated("the answer was closed before its end")
        try:
            return await self._connection.receive()
        except anyio.EndOfStream:
            return b""
        except anyio.BusyResourceError as exc:
            raise OllamaError("two tasks read the same answer") from exc
        except LOST as exc:
            reason = "the client was closed" if self._lane.is_closed else "the connection broke"
            raise StreamTruncated(f"{reason} before the end of the answer") from exc

    def _give_back(self) -> None:
        connection, body = self._connection, self._body
        if connection is None or not body.done:
            return
        if self.head.keep_alive and not body.rest and not connection.is_spent:
            self._connection = None
            connection.offer_to(None)
            self._lane.give_back(connection)

    async def aclose(self) -> None:
        """Close the connection, unless it went back already."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._lane.discard(connection)


class _Passing:
    """What passes by those who wait. Its few fields lie side by side: each piece reads them, of many streams."""

    __slots__ = ("_body", "_take")

    def __init__(self, body: ChunkedBody, take: Callable[[bytes], bool]) -> None:
        self._body = body
        self._take = take

    def offer(self, data: bytes) -> bool:
        payload = self._body.glance(data)
        return bool(payload) and self._take(payload)


class Pool:
    """The connections to one server, at most `max_connections` for each event loop.

    Whoever finds all of them busy waits, first come first served.
    """

    def __init__(self, address: Address, *, max_connections: int = 100, idle_s: float = IDLE_S) -> None:
        self._lanes = PerLoop(lambda: _Lane(address, max_connections, idle_s))
        self._is_closed = False

    @property
    def connections(self) -> tuple[int, int]:
        """How many connections are busy and how many are idle."""
        lanes = self._lanes.all()
        return sum(len(lane.busy) for lane in lanes), sum(len(lane.idle) for lane in lanes)

    async def exchange(self, method: str, head: bytes, content: Content, limits: Limits) -> Exchange:
        """Send a request and wait for the head of its answer. The caller closes what it is given.

        Raises:
            ConnectFailed: no connection, or it was closed before an answer began.
            StreamTruncated: the connection broke within the head of the answer.
            ProtocolError: that was not HTTP.
            RequestTimeout: a step took longer than `limits`; `NoFreeConnection` is one kind.
        """
        lane = self._lanes.found() or await self._new_lane()
        await lane.take_slot(limits.wait_s)
        try:
            return await lane.exchange(method, head, content, limits)
        except BaseException:
            lane.free_slot()
            raise

    async def _new_lane(self) -> _Lane:
        if self._is_closed:
            raise _closed()
        return await self._lanes.made()

    async def aclose(self) -> None:
        """Close all connections; who waits for one or for an answer gets an error.

        Connections of another event loop are closed when that loop ends.
        """
        self._is_closed = True
        for lane in self._lanes.all():
            lane.is_closed = True
        await self._lanes.aclose()


class _Lane:
    """The connections of one event loop, and the queue of those who wait for one."""

    def __init__(self, address: Address, slots: int, idle_s: float) -> None:
        self.busy: set[Connection] = set()
        self.idle: deque[Connection] = deque()
        self.is_closed = False
        self._address = address
        self._idle_s = idle_s
        self._slots = self._free = slots
        self._waiting: deque[anyio.Event] = deque()
        self._connecting: set[anyio.CancelScope] = set()

    async def take_slot(self, wait_s: float | None) -> None:
        """Wait for the right to a connection; whoever gets it calls `free_slot` once, or gives a connection back."""
        self._check_open()
        if self._free:  # then nobody waits: a slot that becomes free goes straight to the first who does
            self._free -= 1
            return
        turn = anyio.Event()
        self._waiting.append(turn)
        try:
            with anyio.move_on_after(wait_s):
                await turn.wait()
        except BaseException:
            self._give_up(turn)
            raise
        if self.is_closed or not turn.is_set():
            self._give_up(turn)
            raise _closed() if self.is_closed else NoFreeConnection(self._all_busy, wait_s or 0)

    @property
    def _all_busy(self) -> str:
        return f"all {self._slots} connections to {self._address.url} are busy (max_connections=), none became free"

    def _give_up(self, turn: anyio.Event) -> None:
        if turn.is_set():
            self.free_slot()
        elif turn in self._waiting:
            self._waiting.remove(turn)

    def free_slot(self) -> None:
        """Let the next one go ahead."""
        if self._waiting:
            self._waiting.popleft().set()
        else:
            self._free += 1

    async def exchange(self, method: str, head: bytes, content: Content, limits: Limits) -> Exchange:
        """Send a request over a connection that is at hand, else over a new one."""
        connection = await self._idle_connection()
        if connection is not None:
            try:
                return await self._ask(connection, method, head, content, limits)
            except ConnectFailed:  # it was closed while it was idle; nothing of an answer has come
                if not isinstance(content, bytes):
                    raise  # what was taken from an iterator cannot be sent again
        return await self._ask(await self._connect(limits.connect_s), method, head, content, limits)

    async def _ask(
        self, connection: Connection, method: str, head: bytes, content: Content, limits: Limits
    ) -> Exchange:
        self.busy.add(connection)
        reader = HeadReader()
        try:
            self._check_open()
            connection.limits = limits
            answer = await connection.ask(head, content, reader)
            return Exchange(self, connection, answer, body_of(method, answer), reader.rest)
        except BaseException as exc:
            self.busy.discard(connection)
            await connection.aclose()
            if isinstance(exc, LOST):
                raise self._lost(reader, exc.__cause__) from exc
            raise

    def _lost(self, reader: HeadReader, cause: BaseException | None) -> OllamaError:
        if self.is_closed:
            return _closed()
        if reader.begun:
            return StreamTruncated(f"{self._address.url} closed the connection within the head of its answer")
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
            return tls_failure(self._address.url, cause)  # TLS 1.3 refuses our certificate behind the handshake
        return ConnectFailed(self._address.url, "it closed the connection without an answer")

    async def _idle_connection(self) -> Connection | None:
        expired = time.monotonic() - self._idle_s
        while self.idle and self.idle[0].used_at < expired:
            await self.idle.popleft().aclose()
        while self.idle:
            connection = self.idle.pop()  # the one used last is the least likely to be stale
            if not connection.is_stale():
                return connection
            await connection.aclose()
        return None

    async def _connect(self, connect_s: float | None) -> Connection:
        scope = anyio.move_on_after(connect_s)
        self._connecting.add(scope)
        try:
            with scope:
                return await open_connection(self._address)
        finally:
            self._connecting.discard(scope)
        self._check_open()
        raise ConnectFailed(self._address.url, f"no connection within {connect_s:g} s") from TimeoutError()

    def give_back(self, connection: Connection) -> None:
        """End the loan of a connection that is kept for the next exchange."""
        self.busy.discard(connection)
        connection.used_at = time.monotonic()
        self.idle.append(connection)
        self.free_slot()

    async def discard(self, connection: Connection) -> None:
        """End the loan of a connection that is of no more use."""
        self.busy.discard(connection)
        self.free_slot()
        await connection.aclose()

    def _check_open(self) -> None:
        if self.is_closed:
            raise _closed()

    async def aclose(self) -> None:
        """Close all connections and turn away who waits."""
        self.is_closed = True
        connections = [*self.idle, *self.busy]
        self.idle.clear()
        self.busy.clear()
        for scope in self._connecting:
            scope.cancel()
        while self._waiting:
            self._waiting.popleft().set()
        for connection in connections:
            await connection.aclose()


def _closed() -> OllamaError:
    return OllamaError("the client is closed")
