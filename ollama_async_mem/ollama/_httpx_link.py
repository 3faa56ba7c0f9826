"""A link over httpx: for transports of the user, httpx's authentication, and the environment's proxies."""

from __future__ import annotations

import contextlib
import re
from functools import partial
from typing import TYPE_CHECKING
from urllib.request import getproxies_environment, proxy_bypass

import anyio
import httpx
from anyio import to_thread

from ollama_async_mem.errors import (
    ConfigError,
    ConnectFailed,
    FirstByteTimeout,
    OllamaError,
    ProtocolError,
    StallTimeout,
    StreamTruncated,
)

from ._connection import LOST, made_once, tls_context
from ._exchange import Upload
from ._links import answer_of
from ._loops import CLOSING_S, PerLoop
from ._pool import NoFreeConnection
from ._transport import EXCHANGE, OllamaTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from ._exchange import Answer, Content, LinkOptions
    from .hosts import Host

__all__ = ["HttpxLink"]


_LEFT = re.compile("disconnected|closed connection")  # how httpcore's and h11's words for it differ from other faults


class HttpxLink:
    """An `httpx.AsyncClient` for one server; its sockets are ours unless the user's transport or a proxy is used."""

    def __init__(
        self,
        host: Host,
        options: LinkOptions,
        auth: httpx.Auth | tuple[str, str] | None,
        *,
        through_proxy: bool,
    ) -> None:
        self._host = host
        self._options = options
        self._auth = auth
        self._verify = options.verify
        self._tls = made_once(partial(tls_context, options.verify))
        self._through_proxy = through_proxy and options.transport is None
        self._is_ours = not through_proxy and options.transport is None
        self._origin = httpx.URL("http://localhost" if host.socket_path else host.url).copy_with(path="/")
        self._way = _way(self._origin) if self._through_proxy else ""
        self._clients = PerLoop(self._new_client)
        self._is_closed = False

    async def open(self, method: str, target: str, content: Content) -> Answer:
        """Send a request for an absolute path and wait for the head of the answer."""
        self._check_open()
        headers = {} if content is None else {"content-type": "application/json"}
        if isinstance(content, Upload):
            headers = {"content-type": content.kind, "content-length": str(content.size_bytes)}
        body = content.checked() if isinstance(content, Upload) else content
        client = self._clients.found() or await self._made()
        with _mapped_errors(self._host.url, begun=False, way=self._way):
            url = self._origin.copy_with(raw_path=target.encode())
            request = client.build_request(method, url, content=body, headers=headers)
            response = await client.send(request, stream=True)
        if self._is_ours:  # then read it ourselves: httpx would take as long as for a connection of its own
            return await answer_of(response.extensions[EXCHANGE])
        return HttpxAnswer(response, self._host.url)

    def _check_open(self) -> None:
        if self._is_closed:
            raise OllamaError("the client is closed")

    async def _made(self) -> httpx.AsyncClient:
        if self._through_proxy:  # then httpx needs it at once, and would make it here
            self._verify = await to_thread.run_sync(self._tls)
            self._check_open()
        return await self._clients.made()

    def _new_client(self) -> httpx.AsyncClient:
        options = self._options
        try:
            return httpx.AsyncClient(
                headers=dict(options.headers),
                auth=self._auth,
                verify=self._verify if self._through_proxy else True,
                timeout=httpx.Timeout(None, connect=options.connect_s, pool=options.wait_s),
                limits=httpx.Limits(max_connections=options.max_connections, keepalive_expiry=300),
                transport=self._new_transport(),
                trust_env=not self._host.is_loopback,  # a proxy of the environment cannot reach our loopback
            )
        except (ImportError, ValueError, httpx.InvalidURL) as exc:
            raise ConfigError(f"the proxy that the environment names cannot be used: {exc}") from exc

    def _new_transport(self) -> httpx.AsyncBaseTransport | None:
        """The user's own, else ours; None leaves it to httpx, which knows proxies."""
        options = self._options
        if options.transport is not None:
            return _Lent(options.transport)
        if self._through_proxy:
            return None
        path = self._host.socket_path
        return OllamaTransport(verify=self._verify, max_connections=options.max_connections, uds=path)

    async def aclose(self) -> None:
        """Close all connections, those of the user's transport too."""
        self._is_closed = True
        await self._clients.aclose()
        if self._options.transport is not None:
            await self._options.transport.aclose()


class _Lent(httpx.AsyncBaseTransport):
    """The user's transport, which outlives the event loops that use it."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._transport.handle_async_request(request)


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
        with anyio.move_on_after(CLOSING_S, shield=True), _mapped_errors(self._url):
            await self._response.aclose()


def _way(origin: httpx.URL) -> str:
    """Name the environment's proxy, where that is what is not reached."""
    proxies = getproxies_environment()
    is_used = (origin.scheme in proxies or "all" in proxies) and not proxy_bypass(origin.host)
    return " (through the environment's proxy)" if is_used else ""


@contextlib.contextmanager
def _mapped_errors(url: str, *, begun: bool = True, way: str = "") -> Iterator[None]:
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as exc:
        if isinstance(ours := exc.__cause__, OllamaError):  # what our own transport met, as it was
            raise ours from ours.__cause__
        raise _error(exc, url, begun=begun, way=way) from exc
    except (OSError, *LOST) as exc:  # of the user's transport, which need not speak httpx's errors
        says = str(exc) or type(exc).__name__
        raise (StreamTruncated(f"{url} broke off its answer: {says}") if begun else ConnectFailed(url, says)) from exc


def _error(
    exc: httpx.HTTPError | httpx.InvalidURL | httpx.StreamError, url: str, *, begun: bool, way: str
) -> OllamaError:
    if isinstance(exc, httpx.PoolTimeout):
        wait_s = exc.request.extensions.get("timeout", {}).get("pool") or 0
        return NoFreeConnection(f"all connections to {url} are busy (max_connections=), none became free", wait_s)
    if isinstance(exc, httpx.ConnectError | httpx.ConnectTimeout):
        return ConnectFailed(url, f"{str(exc) or 'no connection in time'}{way}")
    if isinstance(exc, httpx.TimeoutException):
        limit_s = exc.request.extensions.get("timeout", {}).get("read") or 0
        return (StallTimeout if begun else FirstByteTimeout)(f"{url} sent nothing", limit_s)
    if isinstance(exc, httpx.NetworkError) or (isinstance(exc, httpx.RemoteProtocolError) and _LEFT.search(str(exc))):
        if begun:
            return StreamTruncated(f"{url} broke off its answer: {exc}")
        return ConnectFailed(url, f"it closed the connection unanswered ({exc})")
    return ProtocolError(f"{url}: {exc}")
