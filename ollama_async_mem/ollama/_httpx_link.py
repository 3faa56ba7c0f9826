"""A link over httpx: for transports of the user, httpx's authentication, and the environment's proxies."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import httpx

from ollama_async_mem.errors import ConnectFailed, ProtocolError, StreamTruncated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from ._links import LinkOptions
    from .hosts import Host

__all__ = ["HttpxLink"]


class HttpxLink:
    """An `httpx.AsyncClient` for one server."""

    def __init__(self, host: Host, options: LinkOptions, auth: httpx.Auth | tuple[str, str] | None) -> None:
        self._url = host.url
        self._client = httpx.AsyncClient(
            headers=dict(options.headers),
            auth=auth,
            verify=options.verify,
            timeout=httpx.Timeout(None, connect=options.connect_s),
            limits=httpx.Limits(max_connections=options.max_connections, keepalive_expiry=300),
            transport=options.transport,
            trust_env=not host.is_loopback,  # a proxy of the environment cannot reach our loopback
        )

    async def open(self, method: str, path: str, content: bytes | None) -> HttpxAnswer:
        """Send a request and wait for the head of the answer."""
        headers = {} if content is None else {"content-type": "application/json"}
        request = self._client.build_request(method, self._url + path, content=content, headers=headers)
        with _mapped_errors(self._url, begun=False):
            return HttpxAnswer(await self._client.send(request, stream=True), self._url)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()


class HttpxAnswer:
    """A response of httpx."""

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
            return await anext(self._body, b"")

    async def aclose(self) -> None:
        """End the exchange."""
        await self._response.aclose()


@contextlib.contextmanager
def _mapped_errors(url: str, *, begun: bool = True) -> Iterator[None]:
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as exc:
        raise ConnectFailed(url, str(exc) or "no connection in time") from exc
    except (httpx.NetworkError, httpx.RemoteProtocolError) as exc:
        if not begun:
            raise ConnectFailed(url, f"it closed the connection unanswered ({exc})") from exc
        raise StreamTruncated(f"{url} broke off its answer: {exc}") from exc
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as exc:
        raise ProtocolError(f"{url}: {exc}") from exc
