"""The command `serve` in a process of its own: where it answers, what it says, and how to end it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import psutil

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from anyio.abc import Process

__all__ = ["API", "Served", "served", "until"]

API = "/api/v1"
START_S = 30  # of a process, on a machine that is busy
_PLACE = re.compile(r"(REST|MCP|Ollama with memory) at (\S+?)[,;]")


class Served:
    """A server that runs, and a client for it."""

    def __init__(self, process: Process, http: httpx.AsyncClient) -> None:
        self.process, self.http = process, http
        self.said = ""
        self.urls: dict[str, str] = {}

    @property
    def proxy(self) -> str:
        """Where it stands for Ollama."""
        return self.urls["Ollama with memory"]

    async def listen(self, ready: anyio.Event) -> None:
        """Take what it says, until it ends."""
        assert self.process.stderr
        async for piece in self.process.stderr:
            self.said += piece.decode()
            if "ready: " in self.said and not ready.is_set():
                self.urls = dict(_PLACE.findall(self.said))
                self.http.base_url = httpx.URL(self.urls.get("REST", ""))
                ready.set()
        ready.set()

    async def add(self, text: str, **fields: Any) -> httpx.Response:
        """Store a text of alice's."""
        asked = {"messages": text, "user_id": "alice", "infer": False, **fields}
        return await self.http.post(f"{API}/memories", json=asked)

    async def find(self, query: str, **fields: Any) -> Any:
        """What a search for alice answers."""
        answer = await self.http.get(f"{API}/search", params={"query": query, "user_id": "alice", **fields})
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def texts(self, **scope: str) -> list[str]:
        """All turns of a scope, else of alice's."""
        texts: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            asked: dict[str, str | int] = {"kinds": "turn", "limit": 1000, **(scope or {"user_id": "alice"}), **cursor}
            page = (await self.http.get(f"{API}/memories", params=asked)).json()
            texts += [memory["text"] for memory in page["items"]]
            if page["cursor"] is None:
                return texts
            cursor = {"cursor": page["cursor"]}

    async def parts(self) -> tuple[int, dict[str, bool]]:
        """What /readyz says."""
        answer = await self.http.get("/readyz")
        return answer.status_code, answer.json()

    async def figure(self, name: str) -> float:
        """One of /metrics."""
        lines = (await self.http.get("/metrics")).text.splitlines()
        return float(next(line.rpartition(" ")[2] for line in lines if line.startswith(f"ollama_async_mem_{name}")))

    def connections(self) -> int:
        """How many of the process's sockets are in use."""
        found = psutil.Process(self.process.pid).net_connections("tcp")
        return sum(connection.status == psutil.CONN_ESTABLISHED for connection in found)

    async def end(self, number: signal.Signals = signal.SIGTERM, limit_s: float = 10) -> int:
        """Tell it to end; gives its status."""
        self.process.send_signal(number)
        with anyio.fail_after(limit_s):
            return await self.process.wait()


@asynccontextmanager
async def served(ollama: str, store: Path | str, *options: str, **environment: str) -> AsyncIterator[Served]:
    """Run it on free ports while the block runs, without MCP unless `options` have --mcp."""
    parts = [] if "--mcp" in options else ["--no-mcp"]
    ports = ["--port", "0", "--proxy-port", "0"]
    line = [sys.executable, "-m", "ollama_async_mem", "serve", *ports, *parts]
    async with (
        httpx.AsyncClient(timeout=20, trust_env=False, limits=httpx.Limits(max_connections=None)) as http,
        await anyio.open_process(
            [*line, "--ollama", ollama, "--store", str(store), *options],
            env={**os.environ, "COLUMNS": "200", **environment},
            stdout=subprocess.DEVNULL,
        ) as process,
        anyio.create_task_group() as tasks,
    ):
        server, ready = Served(process, http), anyio.Event()
        tasks.start_soon(server.listen, ready)
        try:
            with anyio.fail_after(START_S):
                await ready.wait()
            assert server.urls, server.said
            yield server
        finally:
            if process.returncode is None:
                process.kill()


async def until(condition: Callable[[], Awaitable[bool]], limit_s: float = 10) -> None:
    """Wait for something that only asking again tells."""
    with anyio.fail_after(limit_s):
        while not await condition():  # noqa: ASYNC110 - it is in another process
            await anyio.sleep(0.02)
