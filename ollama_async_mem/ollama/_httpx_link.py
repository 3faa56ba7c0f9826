"""A link over httpx: for transports of the user, httpx's authentication, and the environment's proxies."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import anyio
import httpx

from ollama_async_mem.errors import (
    ConfigError,
    ConnectFailed,
    FirstByteTimeout,
    OllamaError,
    ProtocolError,
    StallTimeout,
    StreamTruncated,
)

from ._exchange import Upload
from ._transport import OllamaTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from ._exchange import Content, LinkOptions
    from .hosts import Host

__all__ = ["HttpxLink"]


class HttpxLink:
    """An `httpx.AsyncClient` for one server; its sockets are ours unless the user's transport or a proxy is used."""

    def __init__(
        self, host: Host, options: LinkOptions, auth: httpx.Auth | tuple[str, str] | None, *, through_proxy: bool
    ) -> None:
        self._url = host.url
        self._origin = httpx.URL(host.url).copy_with(path="/")
        self._client = _client(host, options, auth, through_proxy=through_proxy)

    async def open(self, method: str, target: str, content: Content) -> HttpxAnswer:
        """Send a request for an absolute path and wait for the head of the answer."""
        if self._client.is_closed:
            raise OllamaError("the client is closed")
        headers = {} if content is None else {"content-type": "application/json"}
        if isinstance(content, Upload):
            headers = {"content-type": content.kind, "content-length": str(content.size_bytes)}
        body = content.checked() if isinstance(content, Upload) else content
        with _mapped_errors(self._url, begun=False):
            url = self._origin.copy_with(raw_path=target.encode())
            request = self._client.build_request(method, url, content=body, headers=headers)
            return HttpxAnswer(await self._client.send(request, stream=True), self._url)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()


def _client(
    host: Host, options: LinkOptions, auth: httpx.Auth | tuple[str, str] | None, *, through_proxy: bool
) -> httpx.AsyncClient:
    transport = options.transport
    if transport is None and not through_proxy:
        transport = OllamaTransport(verify=options.verify, max_connections=options.max_connections)
    try:
        return httpx.AsyncClient(
            headers=dict(options.headers),
            auth=auth,
            verify=options.verify,
            timeout=httpx.Timeout(None, connect=options.connect_s),
            limits=httpx.Limits(max_connections=options.max_connections, keepalive_expiry=300),
            transport=transport,
            trust_env=not host.is_loopback,  # a proxy of the environment cannot reach our loopback
        )
    except (ImportError, ValueError, httpx.InvalidURL) as exc:
        raise ConfigError(f"the proxy that the environment names cannot be used: {exc}") from exc


class HttpxAnswer:
    """A response of httpx."""

    is_at_hand = False

    def __init__(self, response: httpx.Response, url: str) -> None:
        self.status = response.status_code
        self._response = response
        self._url = url
        self._body: AsyncIterator[bytes] = response.aiter_bytes()

    def header(self, name: str) -> str:
        """Value of a header, "" where it is absent."""
        return str(self._response.headers.get(name, ""))

    async def receive(self) -> bytes:
        """Wait for more of the body; b"" at its end."""
        with _mapped_errors(self._url):
            async for piece in self._body:
                if piece:
                    return piece
        return b""

    async def aclose(self) -> None:
        """End the exchange."""
        with anyio.CancelScope(shield=True), _mapped_errors(self._url):
            await self._response.aclose()


@contextlib.contextmanager
def _mapped_errors(url: str, *, begun: bool = True) -> Iterator[None]:
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as exc:
        raise ConnectFailed(url, str(exc) or "no connection in time") from exc
    except httpx.TimeoutException as exc:
        limit_s = exc.request.extensions.get("timeout", {}).get("read") or 0
        kind = StallTimeout if begun else FirstByteTimeout
        raise kind(f"{url} sent nothing", limit_s) from exc
    except (httpx.NetworkError, httpx.RemoteProtocolError) as exc:
        if not begun:
            raise ConnectFailed(url, f"it closed the connection unanswered ({exc})") from exc
        raise StreamTruncated(f"{url} broke off its answer: {exc}") from exc
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as exc:
        raise ProtocolError(f"{url}: {exc}") from exc
