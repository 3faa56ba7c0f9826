"""The proxy in front of a scripted Ollama, as the server runs it: behind the guard, on its own listener."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
from fakes import LAST_CHUNK, Raw, chunk, go_json, head

from ollama_async_mem import Memory
from ollama_async_mem.server.keys import KeyFile
from ollama_async_mem.server.proxy import proxy_app
from ollama_async_mem.server.serve import Parts, serving
from ollama_async_mem.server.settings import ServerSettings

from .small import off_loop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from fakes import ScriptedOllama

__all__ = ["CHUNKED", "EVENTS", "NDJSON", "Proxied", "chat_lines", "event_stream", "proxied", "raw_answer"]

NDJSON = {"Content-Type": "application/x-ndjson", "Transfer-Encoding": "chunked"}
EVENTS = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}
CHUNKED = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}


class Proxied:
    """A proxy that runs, what is behind it, and how to ask it."""

    def __init__(
        self, url: str, memory: Memory, ollama: ScriptedOllama, keys: KeyFile, http: httpx.AsyncClient
    ) -> None:
        self.url, self.memory, self.ollama, self.keys, self.http = url, memory, ollama, keys, http
        self.secrets: dict[str, str] = {}

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])

    async def chat(
        self, text: str = "Which tea do I drink?", path: str = "/api/chat", **headers: str
    ) -> httpx.Response:
        """Ask over the chat route, not streamed; _ in the name of a header stands for -."""
        body = {"model": "llama3.2", "messages": [{"role": "user", "content": text}], "stream": False}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post(self.url + path, json=body, headers=named)

    async def turns(self, count: int, user: str = "default") -> list[str]:
        """Wait until a user has so many turns; returns what they say, the oldest first."""
        texts: list[str] = []

        async def look() -> bool:
            page = await self.memory.list(user_id=user, kinds=("turn",), sort="at")
            texts[:] = [memory.text for memory in page.items]
            return len(texts) >= count

        while not await look():
            pass
        return texts

    def sent(self, route: str = "POST /api/chat") -> Any:
        """The body of the last request that reached Ollama."""
        return self.ollama.requests_to(route)[-1].json

    def show(self, name: str) -> dict[str, str]:
        """The header with one of the keys, as clients of OpenAI and Ollama send it."""
        return {"Authorization": f"Bearer {self.secrets[name]}"}


@asynccontextmanager
async def proxied(
    ollama: ScriptedOllama, folder: Path, keys: dict[str, dict[str, Any]] | None = None, **settings: Any
) -> AsyncIterator[Proxied]:
    """A proxy with a memory of its own; `keys` are made before, by name, `settings` are those of the server."""
    chosen = ServerSettings(**{"rest": False, "mcp": False, "proxy_port": 0, **settings})
    file = KeyFile(folder / "keys.json")
    secrets = {name: (await off_loop(file.create, name, **bounds))[1] for name, bounds in (keys or {}).items()}
    async with (
        httpx.AsyncClient(timeout=10, trust_env=False) as http,
        Memory(folder / "memory.db", host=ollama.url, extract_here=False) as memory,
        serving(lambda _: Parts(proxy=proxy_app(memory, ollama.url)), chosen, file) as running,
    ):
        opened = Proxied(running.urls["proxy"], memory, ollama, file, http)
        opened.secrets = secrets
        yield opened


def raw_answer(body: bytes, headers: dict[str, str] | None = None, status: int = 200, *, piece: int = 0) -> Raw:
    """An answer as bytes, in HTTP chunks of a size where that is given, else with its length."""
    if not piece:
        return Raw([head(status, {"Content-Length": str(len(body)), **(headers or {})}) + body])
    chunks = [chunk(body[start : start + piece]) for start in range(0, len(body), piece)]
    return Raw([head(status, headers or NDJSON), *chunks, LAST_CHUNK])


def chat_lines(*texts: str, **last: Any) -> bytes:
    """A streamed chat of Ollama's."""
    lines = [{"model": "m", "message": {"role": "assistant", "content": text}, "done": False} for text in texts]
    end = {"model": "m", "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop", **last}
    return b"".join(go_json(line) + b"\n" for line in [*lines, end])


def event_stream(*deltas: dict[str, Any], finish: str = "stop") -> bytes:
    """A streamed chat of OpenAI's."""
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    choices = [
        *({"index": 0, "delta": delta, "finish_reason": None} for delta in deltas),
        {"index": 0, "delta": {}, "finish_reason": finish},
    ]
    events = [b"data: " + go_json({**base, "choices": [choice]}) + b"\n\n" for choice in choices]
    return b"".join(events) + b"data: [DONE]\n\n"
