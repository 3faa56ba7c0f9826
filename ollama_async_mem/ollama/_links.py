"""The two ways to a server: our own HTTP/1.1 over anyio sockets, and httpx for what that does not speak.

A link opens exchanges; it knows hosts and headers, nothing of Ollama. `make_link` decides which one is used.
"""

from __future__ import annotations

import base64
import os
import ssl
import zlib
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from ollama_async_mem.errors import ProtocolError

from ._http11 import header_lines
from ._pool import Address, Pool

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpx

    from ._pool import Exchange
    from .hosts import Host

__all__ = ["Answer", "Link", "LinkOptions", "make_link"]

_PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy")


class Answer(Protocol):
    """A response as it comes."""

    status: int

    def header(self, name: str) -> str:
        """Value of a header, "" where it is absent."""
        ...

    async def receive(self) -> bytes:
        """Wait for more of the body; b"" at its end."""
        ...

    async def aclose(self) -> None:
        """End the exchange; the connection is kept where that is possible."""
        ...


class Link(Protocol):
    """A way to a server."""

    async def open(self, method: str, path: str, content: bytes | None) -> Answer:
        """Send a request and wait for the head of the answer."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


class LinkOptions:
    """What a link is made of, as `OllamaClient` was given it."""

    __slots__ = ("auth", "connect_s", "headers", "max_connections", "transport", "verify")

    def __init__(
        self,
        *,
        headers: Mapping[str, str],
        auth: httpx.Auth | tuple[str, str] | None,
        verify: Any,
        connect_s: float,
        max_connections: int,
        transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        self.headers = headers
        self.auth = auth
        self.verify = verify
        self.connect_s = connect_s
        self.max_connections = max_connections
        self.transport = transport


def make_link(host: Host, options: LinkOptions) -> Link:
    """Choose the way: httpx where its transports, authentication or the environment's proxies are wanted."""
    auth = options.auth or ((host.username, host.password) if host.username else None)
    has_proxy = any(os.environ.get(name) or os.environ.get(name.upper()) for name in _PROXY_VARIABLES)
    if options.transport or not (auth is None or isinstance(auth, tuple)) or (has_proxy and not host.is_loopback):
        from ._httpx_link import HttpxLink  # noqa: PLC0415 - importing httpx takes longer than all the rest

        return HttpxLink(host, options, auth)
    return NativeLink(host, options, auth)


class NativeLink:
    """Our own HTTP/1.1."""

    def __init__(self, host: Host, options: LinkOptions, auth: tuple[str, str] | None) -> None:
        parts = urlsplit(host.url)
        tls = _tls(options.verify) if parts.scheme == "https" else None
        address = Address(host.url, parts.hostname or "", parts.port or 0, tls=tls)
        self._pool = Pool(address, max_connections=options.max_connections)
        self._connect_s = options.connect_s
        self._path = parts.path
        self._headers = header_lines({"host": parts.netloc, **_authorization(auth), **options.headers}.items())

    async def open(self, method: str, path: str, content: bytes | None) -> Answer:
        """Send a request and wait for the head of the answer."""
        about = b"" if content is None else b"content-type: application/json\r\ncontent-length: %d\r\n" % len(content)
        head = b"%b %b HTTP/1.1\r\n%b%b\r\n" % (method.encode(), (self._path + path).encode(), self._headers, about)
        return NativeAnswer(await self._pool.exchange(method, head, content or b"", connect_s=self._connect_s))

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()


class NativeAnswer:
    """A response of our own HTTP/1.1, without its content encoding."""

    __slots__ = ("_exchange", "_unzip", "status")

    def __init__(self, exchange: Exchange) -> None:
        self.status = exchange.head.status
        self._exchange = exchange
        encoding = exchange.head.get("content-encoding") or "identity"
        if encoding not in {"identity", "gzip", "deflate"}:
            raise ProtocolError(f"the answer is encoded with {encoding!r}, which was not asked for")
        # 47 is the largest window, with gzip's or zlib's header
        self._unzip = None if encoding == "identity" else zlib.decompressobj(47)

    def header(self, name: str) -> str:
        """Value of a header, "" where it is absent."""
        return self._exchange.head.get(name) or ""

    async def receive(self) -> bytes:
        """Wait for more of the body; b"" at its end."""
        data = await self._exchange.receive()
        if self._unzip is None:
            return data
        while data:
            try:
                if plain := self._unzip.decompress(data):
                    return plain
            except zlib.error as exc:
                raise ProtocolError(f"the answer is not what its encoding says: {exc}") from exc
            data = await self._exchange.receive()
        return self._unzip.flush()

    async def aclose(self) -> None:
        """End the exchange."""
        await self._exchange.aclose()


def _authorization(auth: tuple[str, str] | None) -> dict[str, str]:
    if auth is None:
        return {}
    return {"authorization": "Basic " + base64.b64encode(":".join(auth).encode()).decode()}


def _tls(verify: Any) -> ssl.SSLContext:
    if isinstance(verify, ssl.SSLContext):
        return verify
    import httpx  # noqa: PLC0415 - only for https, and only for the certificates it trusts

    return httpx.create_ssl_context(verify=verify)
