"""Connections to one server: opened, lent to one exchange at a time, kept for the next, closed. anyio does the sockets.

Ollama never closes an idle connection, so they are kept for long; one that was closed all the same is noticed before
it is used, or replaced once when it breaks before the first byte of an answer.
"""

from __future__ import annotations

import select
import time
from collections import deque
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
from anyio.abc import SocketAttribute

from ollama_async_mem.errors import ConnectFailed, ProtocolError, StreamTruncated

from ._http11 import MAX_HEAD_BYTES, body_of, parse_head

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterable

    from anyio.abc import ByteStream

    from ._http11 import Body, ResponseHead

__all__ = ["Address", "Exchange", "Pool"]

READ_BYTES = 64 * 1024
IDLE_S = 300.0
_INTERIM = range(100, 200)
_LOST = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, OSError)


class Address:
    """Where a server listens: a host and port or the path of a unix socket, with TLS where there is a context."""

    __slots__ = ("host", "path", "port", "tls", "url")

    def __init__(self, url: str, host: str, port: int, *, path: str = "", tls: ssl.SSLContext | None = None) -> None:
        self.url, self.host, self.port, self.path, self.tls = url, host, port, path, tls


class Connection:
    """One socket."""

    __slots__ = ("_fileno", "_stream", "_url", "used_at")

    def __init__(self, stream: ByteStream, url: str) -> None:
        self._stream = stream
        self._url = url
        self._fileno: int = stream.extra(SocketAttribute.raw_socket).fileno()  # noqa: S610 - of anyio
        self.used_at = time.monotonic()

    async def send(self, head: bytes, content: bytes | AsyncIterable[bytes]) -> None:
        """Send a request."""
        if isinstance(content, bytes):
            await self._stream.send(head + content)
            return
        await self._stream.send(head)
        async for piece in content:
            await self._stream.send(piece)

    async def receive_head(self) -> tuple[ResponseHead, bytes]:
        """Read up to the end of the final head; returns it with what was read beyond.

        Raises:
            ProtocolError: that was not HTTP.
        """
        data = b""
        while True:
            end = data.find(b"\r\n\r\n")
            if end >= 0:
                head, data = parse_head(data[:end]), data[end + 4 :]
                if head.status not in _INTERIM:
                    return head, data
                continue  # 1xx announces, the answer is still to come
            if len(data) > MAX_HEAD_BYTES:
                raise ProtocolError(f"{self._url} sent a head of more than {MAX_HEAD_BYTES:,} bytes")
            data += await self._stream.receive(READ_BYTES)

    async def receive(self) -> bytes:
        """Read what has come."""
        return await self._stream.receive(READ_BYTES)

    def is_stale(self, idle_s: float) -> bool:
        """Whether it was idle for too long, or the server closed it or spoke out of turn."""
        return time.monotonic() - self.used_at > idle_s or _is_readable(self._fileno)

    async def aclose(self) -> None:
        """Close it at once, without TLS's farewell."""
        await anyio.aclose_forcefully(self._stream)


def _is_readable(fileno: int) -> bool:
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(fileno, select.POLLIN)
        return bool(poll.poll(0))
    return bool(select.select([fileno], [], [], 0)[0])  # Windows


class Exchange:
    """An answer as it comes. `receive` gives the next piece of its body, b"" at the end; `aclose` ends it."""

    __slots__ = ("_body", "_connection", "_early", "_pool", "head")

    def __init__(self, pool: Pool, connection: Connection, head: ResponseHead, body: Body, early: bytes) -> None:
        self.head = head
        self._pool = pool
        self._connection: Connection | None = connection
        self._body = body
        self._early = early  # what came together with the head

    async def receive(self) -> bytes:
        """Wait for more of the body.

        Raises:
            StreamTruncated: the connection broke before its end.
            ProtocolError: its framing is broken.
        """
        body = self._body
        data, self._early = self._early, b""
        while True:
            if data and (payload := body.feed(data)):
                return payload
            if body.done:
                return b""
            data = await self._more()
            if not data:
                body.end()
                return b""

    async def _more(self) -> bytes:
        if self._connection is None:
            raise StreamTruncated("the answer was closed before its end")
        try:
            return await self._connection.receive()
        except anyio.EndOfStream:
            return b""
        except _LOST as exc:
            raise StreamTruncated(f"the connection broke: {type(exc).__name__}") from exc

    async def aclose(self) -> None:
        """Give the connection back where the body was read to its end, else close it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            whole = self._body.done and not self._body.rest
            await self._pool.take_back(connection, reusable=whole and self.head.keep_alive)


class Pool:
    """The connections to one server. Whoever finds all of them busy waits, first come first served."""

    def __init__(self, address: Address, *, max_connections: int = 100, idle_s: float = IDLE_S) -> None:
        self._address = address
        self._idle_s = idle_s
        self._slots = anyio.Semaphore(max_connections, fast_acquire=True)
        self._idle: deque[Connection] = deque()
        self._busy: set[Connection] = set()
        self._closed = False

    @property
    def connections(self) -> tuple[int, int]:
        """How many connections are busy and how many are idle."""
        return len(self._busy), len(self._idle)

    async def exchange(
        self, method: str, head: bytes, content: bytes | AsyncIterable[bytes], *, connect_s: float
    ) -> Exchange:
        """Send a request and wait for the head of its answer. The caller closes what it is given.

        Raises:
            ConnectFailed: no connection, or it was closed before an answer began.
            ProtocolError: that was not HTTP.
        """
        await self._slots.acquire()
        try:
            connection = await self._idle_connection()
            if connection is not None:
                try:
                    return await self._answered(connection, method, head, content)
                except ConnectFailed:  # it was closed while it was idle; nothing of an answer has come
                    if not isinstance(content, bytes):
                        raise
            return await self._answered(await self._connect(connect_s), method, head, content)
        except BaseException:
            self._slots.release()
            raise

    async def take_back(self, connection: Connection, *, reusable: bool) -> None:
        """End the loan of a connection."""
        self._busy.discard(connection)
        self._slots.release()
        if reusable and not self._closed:
            connection.used_at = time.monotonic()
            self._idle.append(connection)
        else:
            await connection.aclose()

    async def aclose(self) -> None:
        """Close all connections; what is in flight fails."""
        self._closed = True
        connections = [*self._idle, *self._busy]
        self._idle.clear()
        for connection in connections:
            await connection.aclose()

    async def _idle_connection(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()  # the one used last is the least likely to be stale
            if not connection.is_stale(self._idle_s):
                return connection
            await connection.aclose()
        return None

    async def _connect(self, connect_s: float) -> Connection:
        address = self._address
        try:
            with anyio.fail_after(connect_s):
                if address.path:
                    return Connection(await anyio.connect_unix(address.path), address.url)
                if address.tls is None:
                    return Connection(await anyio.connect_tcp(address.host, address.port), address.url)
                return Connection(
                    await anyio.connect_tcp(address.host, address.port, ssl_context=address.tls), address.url
                )
        except TimeoutError as exc:
            raise ConnectFailed(address.url, f"no connection within {connect_s:g} s") from exc
        except OSError as exc:  # ssl.SSLError is one
            raise ConnectFailed(address.url, _reason(exc)) from exc

    async def _answered(
        self, connection: Connection, method: str, head: bytes, content: bytes | AsyncIterable[bytes]
    ) -> Exchange:
        self._busy.add(connection)
        try:
            await connection.send(head, content)
            answer, early = await connection.receive_head()
            return Exchange(self, connection, answer, body_of(method, answer), early)
        except BaseException as exc:
            self._busy.discard(connection)
            with anyio.CancelScope(shield=True):
                await connection.aclose()
            if isinstance(exc, _LOST):
                raise ConnectFailed(self._address.url, "it closed the connection without an answer") from exc
            raise


def _reason(exc: OSError) -> str:
    causes = exc.__cause__.exceptions if isinstance(exc.__cause__, BaseExceptionGroup) else ()
    first = next((c for c in causes if isinstance(c, OSError)), exc.__cause__ or exc)
    return getattr(first, "strerror", None) or str(first)
