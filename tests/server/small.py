"""Small apps in the place of the server's parts, and a server of them on real sockets."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import httpx
import msgspec

from ollama_async_mem.server.access import principal_of
from ollama_async_mem.server.audit import audit_of
from ollama_async_mem.server.keys import KeyFile
from ollama_async_mem.server.serve import Parts, serving
from ollama_async_mem.server.settings import ServerSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ollama_async_mem.server.keys import Key
    from ollama_async_mem.server.request import AsgiApp, AsgiScope, Receive, Send
    from ollama_async_mem.server.serve import Running


class Small:
    """An app that tells what it was asked, and holds answers to /hold until `go` is set."""

    def __init__(self, name: str = "rest") -> None:
        self.name = name
        self.seen: list[dict[str, Any]] = []
        self.held, self.go, self.gone = anyio.Event(), anyio.Event(), anyio.Event()
        self.lifespan: list[str] = []
        self.is_gone_at_the_end = False
        self.stopping = anyio.Event()

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Answer."""
        if scope["type"] == "lifespan":
            for step in ("startup", "shutdown"):
                await receive()
                self.lifespan.append(step)
                self.is_gone_at_the_end = self.gone.is_set()
                await send({"type": f"lifespan.{step}.complete"})
            return
        body = await whole(receive)
        told = {
            "app": self.name,
            "path": scope["path"],
            "raw_path": scope["raw_path"].decode(),
            "principal": msgspec.to_builtins(principal_of(scope)),
            "headers": [name.decode() for name, _ in scope["headers"]],
            "client": scope["client"][0],
            "scheme": scope["scheme"],
            "size": len(body),
        }
        self.seen.append(told)
        if scope["path"] == "/changed":
            audit_of(scope).ids.append("m1")
        if scope["path"] == "/read":
            audit_of(scope).changes = False
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        if scope["path"] == "/hold":
            await self._hold(send)
        if scope["path"] == "/flood":
            await self._flood(send)
        await send({"type": "http.response.body", "body": msgspec.json.encode(told)})

    async def _hold(self, send: Send) -> None:
        await send({"type": "http.response.body", "body": b" ", "more_body": True})
        self.held.set()
        try:
            await self.go.wait()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.2)  # as an app that stores what there is of an answer
            self.gone.set()

    async def _flood(self, send: Send) -> None:
        try:
            for _ in range(1000):
                await send({"type": "http.response.body", "body": b" " * 100_000, "more_body": True})
        finally:
            self.gone.set()


async def whole(receive: Receive) -> bytes:
    """The body."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(body)


class Served:
    """A running server, its apps and how to ask it."""

    def __init__(self, running: Running, rest: Small, proxy: Small, keys: KeyFile, http: httpx.AsyncClient) -> None:
        self.running, self.rest, self.proxy, self.keys, self.http = running, rest, proxy, keys, http

    @property
    def url(self) -> str:
        """Where REST answers."""
        return self.running.urls["rest"]

    @property
    def proxy_url(self) -> str:
        """Where the other listener answers."""
        return self.running.urls["proxy"]

    @property
    def port(self) -> int:
        """Of REST."""
        return int(self.url.rpartition(":")[2])

    async def get(self, path: str = "/x", **headers: str) -> httpx.Response:
        """GET from REST; _ in the name of a header stands for -."""
        return await self.http.get(self.url + path, headers=dashed(headers))

    async def post(self, path: str = "/changed", *, json: Any = None, **headers: str) -> httpx.Response:
        """POST JSON to REST."""
        return await self.http.post(self.url + path, json=json or {}, headers=dashed(headers))

    async def key(self, name: str = "phone", **bounds: Any) -> str:
        """A new key."""
        made: tuple[Key, str] = await off_loop(self.keys.create, name, **bounds)
        return made[1]


def dashed(headers: dict[str, str]) -> dict[str, str]:
    """Names of headers as they are sent."""
    return {name.replace("_", "-"): value for name, value in headers.items()}


async def off_loop(function: Any, *arguments: Any, **named: Any) -> Any:
    """Call what blocks."""
    return await anyio.to_thread.run_sync(partial(function, *arguments, **named))


@asynccontextmanager
async def small_server(
    folder: Path, *, keys: int = 0, mcp: AsgiApp | None = None, tls: Any = True, **settings: Any
) -> AsyncIterator[Served]:
    """A server of small apps on free ports, with so many keys made before."""
    file = KeyFile(folder / "keys.json")
    for number in range(keys):
        await off_loop(file.create, f"made before {number}")
    rest, proxy = Small(), Small("proxy")
    chosen = ServerSettings(**{"port": 0, "proxy_port": 0, "mcp": mcp is not None, **settings})

    def make(stopping: anyio.Event) -> Parts:
        rest.stopping = stopping
        return Parts(rest=rest if chosen.rest else None, mcp=mcp, proxy=proxy if chosen.proxy else None)

    async with httpx.AsyncClient(timeout=10, verify=tls) as http, serving(make, chosen, file) as running:
        yield Served(running, rest, proxy, file, http)
