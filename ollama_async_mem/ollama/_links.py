"""The two ways to a server: our own HTTP/1.1 over anyio sockets, and httpx for what that does not speak.

A link opens exchanges; it knows hosts and headers, nothing of Ollama. `make_link` decides which one is used.
"""

from __future__ import annotations

import base64
import logging
import os
import zlib
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from ollama_async_mem.errors import ProtocolError, StreamTruncated

from ._connection import Address, Limits, tls_context
from ._http11 import header_lines, request_line
from ._pool import Pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterable

    from ._exchange import Answer, Content, Link, LinkOptions
    from ._pool import Exchange
    from .hosts import Host

__all__ = ["NativeLink", "address_of", "answer_of", "make_link"]

_LOGGER = logging.getLogger(__name__)
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy")
_UNZIPPED_BYTES = 1024 * 1024
_CREDENTIALS = {"authorization", "cookie", "proxy-authorization"}


def make_link(host: Host, options: LinkOptions) -> Link:
    """Choose the way: httpx where its transports, authentication or the environment's proxies are wanted."""
    names = {name.lower() for name in options.headers}
    auth = options.auth
    if auth is None and (host.username or host.password) and "authorization" not in names:
        auth = (host.username, host.password)
    has_credentials = auth is not None or names & _CREDENTIALS
    if has_credentials and host.url.startswith("http:") and not host.is_loopback:
        _LOGGER.warning("credentials for %s go over plain http, where others can read them: use https", host.url)
    has_proxy = not host.is_loopback and _has_proxy()
    if options.transport or has_proxy or not (auth is None or isinstance(auth, tuple)):
        from ._httpx_link import HttpxLink  # noqa: PLC0415 - importing httpx takes longer than all the rest

        return HttpxLink(host, options, auth, through_proxy=has_proxy)
    return NativeLink(host, options, auth)


def _has_proxy() -> bool:
    return any(os.environ.get(name) or os.environ.get(name.upper()) for name in _PROXY_VARIABLES)


class NativeLink:
    """Our own HTTP/1.1."""

    def __init__(self, host: Host, options: LinkOptions, auth: tuple[str, str] | None) -> None:
        address, authority = address_of(host, options.verify)
        self._pool = Pool(address, max_connections=options.max_connections)
        self._limits = Limits(wait_s=options.wait_s, connect_s=options.connect_s)
        headers = {"host": authority, **_authorization(auth), **{k.lower(): v for k, v in options.headers.items()}}
        self._headers = header_lines(headers.items())

    async def open(self, method: str, target: str, content: Content) -> Answer:
        """Send a request for an absolute path and wait for the head of the answer."""
        about, body = _about(content)
        head = b"%b%b%b\r\n" % (request_line(method, target), self._headers, about)
        return await answer_of(await self._pool.exchange(method, head, body, self._limits))

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()


def _about(content: Content) -> tuple[bytes, bytes | AsyncIterable[bytes]]:
    """Headers that announce a body, and the body."""
    if content is None:
        return b"", b""
    if isinstance(content, bytes):
        return b"content-type: application/json\r\ncontent-length: %d\r\n" % len(content), content
    lines = header_lines([("content-type", content.kind), ("content-length", str(content.size_bytes))])
    return lines, content.checked()


def address_of(host: Host, verify: Any) -> tuple[Address, str]:
    """Where to connect to, and the Host header; a zone id (RFC 6874) concerns this machine only."""
    if host.socket_path:
        return Address(host.url, "", 0, path=host.socket_path), "localhost"
    parts = urlsplit(host.url)
    name, _, _ = (parts.hostname or "").partition("%")
    authority = f"[{name}]:{parts.port}" if ":" in name else f"{name}:{parts.port}"
    tls = partial(tls_context, verify) if parts.scheme == "https" else None
    return Address(host.url, unquote(parts.hostname or ""), parts.port or 0, tls=tls), authority


async def answer_of(exchange: Exchange) -> Answer:
    """Make an answer of what comes over our connections.

    Raises:
        ProtocolError: it is encoded in a way that is not read; it is closed then.
    """
    try:
        return NativeAnswer(exchange)
    except ProtocolError:
        await exchange.aclose()
        raise


class NativeAnswer:
    """A response of our own HTTP/1.1, without its content encoding."""

    __slots__ = ("_exchange", "_unzip", "status")

    def __init__(self, exchange: Exchange) -> None:
        self.status = exchange.head.status
        self._exchange = exchange
        encoding = (exchange.head.get("content-encoding") or "identity").lower()
        if encoding not in {"identity", "gzip", "x-gzip", "deflate"}:
            raise ProtocolError(f"the answer is encoded with {encoding[:80]!r}, which was not asked for")
        self._unzip = None if encoding == "identity" else _Unzip()

    @property
    def is_at_hand(self) -> bool:
        """Whether `receive` has something to give, or the end, without waiting."""
        return self._unzip is None and self._exchange.is_at_hand

    def header(self, name: str) -> str:
        """Value of a header, "" where it is absent."""
        return self._exchange.head.get(name) or ""

    async def receive(self) -> bytes:
        """Wait for more of the body; b"" at its end."""
        if self._unzip is None:
            return await self._exchange.receive()
        while not (plain := self._unzip.next()):
            packed = await self._exchange.receive()
            if not packed:
                self._unzip.end()
                return b""
            self._unzip.feed(packed)
        return plain

    async def aclose(self) -> None:
        """End the exchange."""
        await self._exchange.aclose()


class _Unzip:
    """A body with content encoding, unpacked in pieces of bounded size: little can unpack to very much."""

    __slots__ = ("_packed", "_zlib")

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(47)  # the largest window, with gzip's or zlib's header
        self._packed = b""

    def feed(self, packed: bytes) -> None:
        self._packed += packed

    def next(self) -> bytes:
        if not self._packed:
            return b""
        try:
            plain = self._zlib.decompress(self._packed, _UNZIPPED_BYTES)
        except zlib.error as exc:
            raise ProtocolError(f"the answer is not what its encoding says: {exc}") from exc
        if self._zlib.unused_data:
            raise ProtocolError("the answer goes on behind the end of its encoding")
        self._packed = self._zlib.unconsumed_tail
        return plain

    def end(self) -> None:
        if not self._zlib.eof:
            raise StreamTruncated("the answer ended before its encoding did")


def _authorization(auth: tuple[str, str] | None) -> dict[str, str]:
    if auth is None:
        return {}
    return {"authorization": "Basic " + base64.b64encode(":".join(auth).encode()).decode()}
