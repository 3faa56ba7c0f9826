"""One socket to a server: opened, asked, read, closed. anyio does the sockets, TLS included.

It knows HTTP's heads and who waits how long; who may use it when is the pool's business.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import select
import ssl
import threading
import time
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
import msgspec
from anyio import to_thread
from anyio.abc import SocketAttribute
from anyio.lowlevel import current_token
from anyio.streams.tls import TLSStream

from ollama_async_mem.errors import ConfigError, ConnectFailed, RequestTimeout, StallTimeout

from ._asyncio_stream import AsyncioStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable

    from anyio.abc import ByteStream

    from ._http11 import HeadReader, ResponseHead

    Content: TypeAlias = bytes | AsyncIterable[bytes]
    TLS: TypeAlias = ssl.SSLContext | Callable[[], ssl.SSLContext]

__all__ = ["LOST", "Address", "Connection", "Limits", "made_once", "open_connection", "tls_context", "tls_failure"]

READ_BYTES = 64 * 1024  # larger pieces fall out of the processor's caches while they are taken apart
SENT_AT_ONCE_BYTES = 64 * 1024
LOST = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)


class Address:
    """Where a server listens: a host and port or the path of a unix socket, with TLS where there is `tls`.

    That is a context, or a function that makes one and takes its time: it is called once, in a thread.
    """

    __slots__ = ("host", "path", "port", "tls", "url")
    tls: TLS | None

    def __init__(self, url: str, host: str, port: int, *, path: str = "", tls: TLS | None = None) -> None:
        self.url, self.host, self.port, self.path = url, host, port, path
        self.tls = made_once(tls) if callable(tls) else tls


def made_once(make: Callable[[], ssl.SSLContext]) -> Callable[[], ssl.SSLContext]:
    """Share what takes long to make: threads that ask for it at the same time wait for the first."""
    lock = threading.Lock()
    made: list[ssl.SSLContext] = []

    def give() -> ssl.SSLContext:
        with lock:
            if not made:
                made.append(make())
            return made[0]

    return give


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds that each step may take: to get a connection, to open one, to send or read one piece. None: no limit."""

    wait_s: float | None = None
    connect_s: float | None = None
    write_s: float | None = None
    read_s: float | None = None


class Connection:
    """One socket, lent to one exchange at a time."""

    __slots__ = ("_is_readable", "_socket", "_stream", "_url", "is_spent", "limits", "used_at")

    def __init__(self, stream: ByteStream, url: str) -> None:
        self._stream = stream
        self._socket = stream.transport_stream if isinstance(stream, TLSStream) else stream
        self._url = url
        self._is_readable = _readable(stream.extra(SocketAttribute.raw_socket).fileno())  # noqa: S610 - of anyio
        self.limits = Limits()
        self.is_spent = False
        """Whether a request was not sent to its end, so that no other may follow it."""
        self.used_at = time.monotonic()

    async def ask(self, head: bytes, content: Content, reader: HeadReader) -> ResponseHead:
        """Send a request and read up to the end of the final head of the answer.

        Raises:
            ProtocolError: that was not HTTP.
            RequestTimeout: a step took longer than `limits`.
        """
        if not isinstance(content, bytes) or len(content) > SENT_AT_ONCE_BYTES:
            return await self._ask_while_sending(head, content, reader)
        try:
            await self._send(head + content)
        except LOST:
            self.is_spent = True  # a server that refuses what it did not read says so before it closes
        return await self._head(reader)

    async def _ask_while_sending(self, head: bytes, content: Content, reader: HeadReader) -> ResponseHead:
        """Listen while a request is sent that may be answered, and refused, before its end."""
        self.is_spent = True
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._send_all, head, content)
                answer = await self._head(reader)
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from group.exceptions[0].__cause__
        return answer

    async def _send_all(self, head: bytes, content: Content) -> None:
        try:
            await self._send(head)
            if isinstance(content, bytes):
                await self._send(content)
            else:
                await self._send_pieces(content)
        except LOST:
            return  # what can still be read tells more
        self.is_spent = False

    async def _send_pieces(self, pieces: AsyncIterable[bytes]) -> None:
        try:
            async for piece in pieces:
                await self._send(piece)
        finally:
            if isinstance(pieces, AsyncGenerator):
                await pieces.aclose()

    async def _head(self, reader: HeadReader) -> ResponseHead:
        while (head := reader.feed(await self.receive())) is None:
            pass
        return head

    async def _send(self, data: bytes) -> None:
        limit_s = self.limits.write_s
        try:
            if limit_s is None:
                return await self._stream.send(data)
            with anyio.move_on_after(limit_s):
                return await self._stream.send(data)
        except OSError as exc:  # ssl.SSLError is one
            raise anyio.BrokenResourceError from exc
        raise RequestTimeout(f"{self._url} did not take the request", limit_s)

    async def receive(self) -> bytes:
        """Read what has come.

        Raises:
            StallTimeout: nothing came within `limits`.
        """
        limit_s = self.limits.read_s
        try:
            if limit_s is None:
                return await self._stream.receive(READ_BYTES)
            with anyio.move_on_after(limit_s):
                return await self._stream.receive(READ_BYTES)
        except OSError as exc:
            raise anyio.BrokenResourceError from exc
        raise StallTimeout(f"{self._url} sent nothing more", limit_s)

    def offer_to(self, take: Callable[[bytes], bool] | None) -> None:
        """Show `take` what comes while `receive` waits, which goes on waiting for what `take` does not want.

        It saves the time in which the task that waits is woken. Where the socket cannot do that, nobody is shown
        anything.
        """
        if isinstance(self._stream, AsyncioStream):
            self._stream.offer = take

    def is_stale(self) -> bool:
        """Whether the server has closed it, or spoke out of turn."""
        if isinstance(self._socket, AsyncioStream) and self._socket.has_news:
            return True
        return self._is_readable()

    async def aclose(self) -> None:
        """Close it at once, without TLS's farewell, which could wait."""
        with anyio.CancelScope(shield=True):
            await anyio.aclose_forcefully(self._socket)


def _readable(fileno: int) -> Callable[[], bool]:
    """Make what tells, without waiting, whether something can be read from a socket."""
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(fileno, select.POLLIN)
        return lambda: bool(poll.poll(0))
    return lambda: bool(select.select([fileno], [], [], 0)[0])  # Windows


async def open_connection(address: Address) -> Connection:
    """Connect to a server.

    Raises:
        ConnectFailed: it does not listen, has no address, or TLS failed, which is not retried.
    """
    if callable(address.tls):
        address.tls = await to_thread.run_sync(address.tls)
    try:
        if address.path:
            return Connection(await anyio.connect_unix(address.path), address.url)
        stream = await _connect_tcp(address.host, address.port)
        if address.tls is None:
            return Connection(stream, address.url)
        return Connection(await _shake_hands(stream, address.host, address.tls), address.url)
    except ssl.SSLError as exc:
        raise tls_failure(address.url, exc) from exc
    except OSError as exc:
        raise ConnectFailed(address.url, _reason(exc)) from exc
    except LOST as exc:
        raise ConnectFailed(address.url, "it closed the connection while it was set up") from exc
    except ValueError as exc:  # UnicodeError: the resolver's encoding refuses the name
        raise ConnectFailed(address.url, f"the name {address.host!r} cannot be looked up, {exc}") from exc


async def _connect_tcp(host: str, port: int) -> ByteStream:
    if isinstance(current_token().native_token, asyncio.AbstractEventLoop) and _is_address(host):
        return await AsyncioStream.connect(host, port)
    return await anyio.connect_tcp(host, port)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def _shake_hands(stream: ByteStream, host: str, tls: ssl.SSLContext) -> TLSStream:
    try:
        return await TLSStream.wrap(stream, hostname=host, ssl_context=tls)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await anyio.aclose_forcefully(stream)
        raise


def tls_context(verify: Any) -> ssl.SSLContext:
    """Make what TLS needs of `verify=`; reads files.

    Raises:
        ConfigError: it is none of what may be given there.
    """
    if isinstance(verify, ssl.SSLContext):
        return verify
    if not isinstance(verify, bool | str):
        raise ConfigError(f"verify={verify!r}: give True, False or an ssl.SSLContext")
    import httpx  # noqa: PLC0415 - only for https, and only for the certificates it trusts

    try:
        return httpx.create_ssl_context(verify=verify)
    except (OSError, ValueError) as exc:
        raise ConfigError(f"verify={verify!r} cannot be used: {exc}") from exc


def tls_failure(url: str, exc: ssl.SSLError) -> ConnectFailed:
    """Say what TLS did not like; asking again changes nothing."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        reason = f"its certificate is not trusted, {exc.verify_message.rstrip('.')}"
    else:
        reason = f"it does not speak TLS as we do, or wants a certificate of ours, {exc.reason or exc}"
    failed = ConnectFailed(url, f"{reason} (verify= takes an ssl.SSLContext)")
    failed.retryable = False
    return failed


def _reason(exc: OSError) -> str:
    """Read the reason of a failure, which anyio keeps in its cause: one error, or one for each address tried."""
    causes = exc.__cause__.exceptions if isinstance(exc.__cause__, BaseExceptionGroup) else ()
    first = next((c for c in causes if isinstance(c, OSError)), exc.__cause__ or exc)
    if isinstance(first, OSError) and first.errno is not None and first.errno > 0:
        return os.strerror(first.errno)
    return getattr(first, "strerror", None) or str(first)
