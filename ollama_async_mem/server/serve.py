"""All ways in, in one process: binds, puts the parts behind the guard, and serves them with uvicorn until the end.

It owns what runs and in which order it starts and stops. What a request means is the parts' business.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

import anyio
import anyio.to_thread
import msgspec

from ollama_async_mem.errors import ConfigError, MissingExtra
from ollama_async_mem.server.errors import Refused
from ollama_async_mem.server.guard import Guard, Limits
from ollama_async_mem.server.keys import KeyFile, KeyRing
from ollama_async_mem.server.later import Later
from ollama_async_mem.server.lifespan import lifespan
from ollama_async_mem.server.listening import bound_socket, room_for, tls_context, url_of
from ollama_async_mem.server.problems import plain_problem
from ollama_async_mem.server.request import rules_of
from ollama_async_mem.server.settings import ServerSettings, is_loopback
from ollama_async_mem.server.trimming import trimming

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    import uvicorn

    from ollama_async_mem.app import Memory
    from ollama_async_mem.server.request import AsgiApp, AsgiScope, Receive, Send

__all__ = ["Parts", "Running", "parts_of", "require_extras", "serving"]

MCP_PATH = "/mcp"
_UNWIND_S = 2.0


class Parts(NamedTuple):
    """The apps of a server; None is one that is switched off."""

    rest: AsgiApp | None = None
    mcp: AsgiApp | None = None
    proxy: AsgiApp | None = None


class Running:
    """A server that answers. `urls` has where, by the names "rest", "page", "mcp" and "proxy"."""

    def __init__(self, urls: Mapping[str, str], server: uvicorn.Server, stopping: anyio.Event) -> None:
        self.urls = urls
        self._server = server
        self._stopping = stopping

    def stop(self) -> None:
        """Begin to end: take nothing new, and let what is under way finish within the deadline."""
        self._stopping.set()
        self._server.should_exit = True


@asynccontextmanager
async def serving(
    make_parts: Callable[[anyio.Event], Parts], settings: ServerSettings, keys: KeyFile
) -> AsyncIterator[Running]:
    """Serve while the block runs; leaving it waits for the answers that are under way, at most `deadline_s`.

    `make_parts` gets an event that is set when the server begins to end: streams without an end end then.

    Raises:
        ConfigError: an address cannot be bound or the certificate not be used, or keys are needed and there are none.
        MissingExtra: packages of the server are missing.
    """
    require_extras(settings)
    ring = await anyio.to_thread.run_sync(_keys_for, settings, keys)
    tls = (
        await anyio.to_thread.run_sync(tls_context, settings.tls_cert, settings.tls_key) if settings.tls_cert else None
    )
    stopping = anyio.Event()
    async with AsyncExitStack() as stack:
        api = await _listener(settings.host, settings.port, stack) if settings.has_api else None
        proxy = await _listener(settings.host, settings.proxy_port, stack) if settings.proxy else None
        parts = make_parts(stopping)
        for part in filter(None, parts):
            await stack.enter_async_context(lifespan(part))
        server = _uvicorn(_guarded(parts, settings, ring, api, proxy), settings, tls)
        running = Running(_urls(settings, api, proxy, is_tls=tls is not None), server, stopping)
        async with trimming(), _run(server, [listener for listener in (api, proxy) if listener]):
            try:
                yield running
            finally:
                running.stop()


def parts_of(memory: Memory, settings: ServerSettings, stopping: anyio.Event) -> Parts:
    """Make the apps that are switched on; what is off is not even imported."""
    return Parts(
        rest=_rest(memory, settings, stopping) if settings.rest else None,
        mcp=_mcp(memory) if settings.mcp else None,
        proxy=_proxy(memory) if settings.proxy else None,
    )


def require_extras(settings: ServerSettings) -> None:
    """Do nothing where the packages of all parts that are switched on are installed.

    Raises:
        MissingExtra: some are not.
    """
    if not all(find_spec(name) for name in ("uvicorn", "httptools", "litestar")):
        raise MissingExtra("server", "the server")
    if settings.mcp and not find_spec("mcp"):
        raise MissingExtra("mcp", "MCP (leave it out with --no-mcp)")


def _rest(memory: Memory, settings: ServerSettings, stopping: anyio.Event) -> AsgiApp:
    from ollama_async_mem.server.rest import rest_app  # noqa: PLC0415 - needs the extra, and takes a while

    return rest_app(
        memory,
        base_path=settings.base_path,
        page=settings.page,
        allow_config=settings.allow_config,
        stopping=stopping,
    )


def _mcp(memory: Memory) -> AsgiApp:
    """The SDK takes longer to import than all the rest, so that is left to the first who asks."""

    def make() -> AsgiApp:
        from ollama_async_mem.server.mcp import mcp_app  # noqa: PLC0415 - as above

        app: AsgiApp = mcp_app(memory)
        return app

    return Later("ollama_async_mem.server.mcp", make)


def _proxy(memory: Memory) -> AsgiApp:
    from ollama_async_mem.server.proxy import proxy_app  # noqa: PLC0415 - if on

    app: AsgiApp = proxy_app(memory, memory.client.url)
    return app


def _keys_for(settings: ServerSettings, file: KeyFile) -> KeyRing:
    """The keys, read; refuses to open a memory to others without any."""
    ring = KeyRing(file, is_needed=not is_loopback(settings.host) or bool(settings.trusted_proxy))
    ring.load()
    if ring.is_needed and not ring.has_active:
        raise ConfigError(
            f"to listen on {settings.host} a key is needed, and {ring.path} has none in use: make one with "
            "'ollama-async-mem keys create NAME'. Without keys it listens on 127.0.0.1 alone, and not behind a proxy"
        )
    return ring


async def _listener(host: str, port: int, stack: AsyncExitStack) -> socket.socket:
    return stack.enter_context(await anyio.to_thread.run_sync(bound_socket, host, port))


def _guarded(
    parts: Parts,
    settings: ServerSettings,
    ring: KeyRing,
    api: socket.socket | None,
    proxy: socket.socket | None,
) -> AsgiApp:
    """One app for all sockets: each port has its guard, with limits that count for all of them."""
    limits = Limits(settings)
    by_port: dict[int, AsgiApp] = {}
    if api:
        by_port[api.getsockname()[1]] = Guard(_mounted(parts), rules_of(settings), ring, limits)
    if proxy and parts.proxy:
        rules = rules_of(settings, for_programs=True)
        by_port[proxy.getsockname()[1]] = Guard(parts.proxy, rules, ring, limits)

    async def app(scope: AsgiScope, receive: Receive, send: Send) -> None:
        await by_port[scope["server"][1]](scope, receive, send)

    return app


def _mounted(parts: Parts) -> AsgiApp:
    """MCP under its path, REST and the page on all others."""
    rest, mcp = parts.rest or _nothing_here, parts.mcp
    if mcp is None:
        return rest

    async def app(scope: AsgiScope, receive: Receive, send: Send) -> None:
        is_mcp = f"{scope['path']}/".startswith(f"{MCP_PATH}/")
        await (mcp if is_mcp else rest)(scope, receive, send)

    return app


async def _nothing_here(scope: AsgiScope, _receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        return
    told = plain_problem(404, "this server runs without REST and page")
    await send({"type": "http.response.start", "status": told.status, "headers": told.headers()})
    await send({"type": "http.response.body", "body": msgspec.json.encode(told)})


def _uvicorn(app: AsgiApp, settings: ServerSettings, tls: ssl.SSLContext | None) -> uvicorn.Server:
    import uvicorn  # noqa: PLC0415 - needs the extra

    from ollama_async_mem.server.protocol import limited_protocol  # noqa: PLC0415 - needs the extra

    class Server(uvicorn.Server):
        """uvicorn that leaves signals to whoever runs the loop, and waits for what it had to cancel."""

        def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
            return contextlib.nullcontext()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await super().shutdown(sockets)
            if self.server_state.tasks:
                await asyncio.wait(self.server_state.tasks, timeout=_UNWIND_S)

    limited = msgspec.structs.replace(settings, connections=room_for(settings.connections))
    logging.getLogger("uvicorn.error").addFilter(_is_worth_telling)
    config = uvicorn.Config(
        app,
        http=limited_protocol(limited),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxy),
        forwarded_allow_ips=list(settings.trusted_proxy),
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=math.ceil(settings.deadline_s),
        ssl_context_factory=(lambda _config, _default: tls) if tls else None,
    )
    return Server(config)


def _is_worth_telling(record: logging.LogRecord) -> bool:
    """Not the stack of each answer that was cancelled at the deadline, or broken off by the guard."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError | Refused))


@asynccontextmanager
async def _run(server: uvicorn.Server, listeners: list[socket.socket]) -> AsyncIterator[None]:
    """Run uvicorn around the block, from when it accepts until its last answer is done or cancelled."""
    task = asyncio.create_task(server.serve(listeners))
    try:
        while not (server.started or task.done()):  # noqa: ASYNC110 - uvicorn has no event for it
            await anyio.sleep(0.001)
        if task.done():
            task.result()  # it failed: nothing is served
        yield
    finally:
        server.should_exit = True
        with anyio.CancelScope(shield=True):
            await asyncio.wait([task])
    task.result()


def _urls(
    settings: ServerSettings, api: socket.socket | None, proxy: socket.socket | None, *, is_tls: bool
) -> dict[str, str]:
    return dict(_each_url(settings, api, proxy, is_tls=is_tls))


def _each_url(
    settings: ServerSettings, api: socket.socket | None, proxy: socket.socket | None, *, is_tls: bool
) -> Iterator[tuple[str, str]]:
    if api:
        base = url_of(api, tls=is_tls)
        if settings.rest:
            yield "rest", base
            if settings.page:
                yield "page", f"{base}/"
        if settings.mcp:
            yield "mcp", f"{base}{MCP_PATH}"
    if proxy:
        yield "proxy", url_of(proxy, tls=is_tls)
