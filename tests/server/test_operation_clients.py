"""The server as a process, and its clients: they vanish in the middle, and it ends while they are being answered."""

from __future__ import annotations

import json
import signal
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio
import httpx
import pytest
from fakes import STALL, Hold, Raw, line_chunk, stream_head

from .mcp_clients import client_at, told
from .processes import API, served, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from fakes import ScriptedOllama

    from .processes import Served

MANY = 8
TOKEN = {"model": "m", "message": {"role": "assistant", "content": "Tea"}, "done": False}
LAST = {"model": "m", "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"}
CHAT = {"messages": "Which tea?", "user_id": "alice", "infer": False}
PROXY_CHAT = {"model": "llama3.2", "messages": [{"role": "user", "content": "Which tea?"}]}
PULL = {"model": "phi"}
ENDLESS = {
    "chat": ("POST", f"{API}/chat", CHAT, "POST /api/chat", TOKEN),
    "pull": ("POST", f"{API}/models/pull", PULL, "POST /api/pull", {"status": "pulling manifest"}),
    "proxy": ("POST", "/api/chat", PROXY_CHAT, "POST /api/chat", TOKEN),
    "events": ("GET", f"{API}/events", None, "", None),
    "export": ("GET", f"{API}/export", None, "", None),
}


@pytest.mark.parametrize("kind", ENDLESS)
async def test_clients_that_vanish(server: ScriptedOllama, tmp_path: Path, kind: str) -> None:
    """The model's work ends at once, nothing of it is remembered, and no connection and no request is left."""
    method, path, body, route, line = ENDLESS[kind]
    async with served(server.url, tmp_path / "memory.db") as process:
        await process.add("x" * 500_000 if kind == "export" else "green tea")
        await process.http.post(f"{process.proxy}/api/chat", json={**PROXY_CHAT, "stream": False})
        await until(lambda: is_at_rest(process))
        before, kept = process.connections(), await process.texts()
        asked = len(server.requests_to(route))
        if route:
            server.enqueue(route, Raw([stream_head(), line_chunk(line), STALL]), repeat=True)
        url = process.proxy if kind == "proxy" else process.urls["REST"]
        pieces: list[AsyncIterator[bytes]] = []
        async with AsyncExitStack() as stack:
            for _ in range(MANY):
                http = await stack.enter_async_context(httpx.AsyncClient(timeout=20, trust_env=False))
                answer = await stack.enter_async_context(http.stream(method, url + path, json=body))
                pieces.append(answer.aiter_raw())
                await anext(pieces[-1])
            await server.wait_until(lambda: len(server.requests_to(route)) == asked + MANY * bool(route))
            busy = server.open_connections
            left_at = time.monotonic()
        if route:
            await server.wait_until(lambda: server.open_connections <= busy - MANY)
            assert time.monotonic() - left_at < 0.5
        await until(lambda: is_at_rest(process))
        assert process.connections() <= before
        assert await process.texts() == kept
        assert (await process.add("black tea")).status_code == httpx.codes.CREATED


async def is_at_rest(process: Served) -> bool:
    """Whether the only request under way is the one that asks for it."""
    return await process.figure("open_requests") == 1


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_mcp_clients_that_vanish(server: ScriptedOllama, tmp_path: Path, mode: str) -> None:
    """In the middle of a call: others are answered, and what it waits for ends.

    But with a session, as of the protocol before 2026: there a client that is gone has not given up its call.
    """
    async with served(server.url, tmp_path / "memory.db", "--mcp") as process:
        async with client_at(process.urls["MCP"], mode=mode) as other:
            await told(other, "add_memories", messages="green tea", user_id="alice", infer=False)
            server.enqueue("POST /api/embed", Raw([STALL]))
            with anyio.CancelScope() as gone:
                async with client_at(process.urls["MCP"], mode=mode) as client, anyio.create_task_group() as tasks:
                    tasks.start_soon(client.call_tool, "search_memory", {"query": "tea", "user_id": "alice"})
                    await server.wait_until(lambda: len(server.requests_to("POST /api/embed")) > 1)
                    busy = server.open_connections
                    gone.cancel()
                    await anyio.sleep_forever()
            if mode == "auto":
                await server.wait_until(lambda: server.open_connections < busy)
            found = await told(other, "search_memory", query="green", user_id="alice")
            assert [memory["text"] for memory in found["memories"]] == ["green tea"]
        assert await process.end(limit_s=20) == 0


async def test_a_server_that_ends_finishes_its_answers(server: ScriptedOllama, tmp_path: Path) -> None:
    """Those under way come to their end and are remembered; streams without an end end; nothing new is taken."""
    hold = Hold()
    server.enqueue(
        "POST /api/chat", Raw([stream_head(), line_chunk(TOKEN), hold, line_chunk(LAST), b"0\r\n\r\n"]), repeat=True
    )
    async with served(server.url, tmp_path / "memory.db") as process:
        async with (
            process.http.stream("POST", f"{API}/chat", json=CHAT) as chat,
            process.http.stream("POST", f"{process.proxy}/api/chat", json=PROXY_CHAT) as proxied,
            process.http.stream("GET", f"{API}/events", headers={"accept": "application/x-ndjson"}) as events,
        ):
            told, passed, happened = chat.aiter_lines(), proxied.aiter_lines(), events.aiter_lines()
            assert json.loads(await anext(told))["event"] == "recalled"
            assert json.loads(await anext(told))["event"] == "token"
            await anext(passed)
            await anext(happened)
            process.process.send_signal(signal.SIGTERM)
            assert [line async for line in happened if line] == []
            await until(lambda: is_closed(process))
            hold.release()
            ends = [json.loads(line) async for line in told]
            assert [json.loads(line)["done"] async for line in passed] == [True]
        with anyio.fail_after(5):
            assert await process.process.wait() == 0
    assert (ends[-1]["event"], len(ends[-1]["turn_ids"])) == ("done", 2)
    async with served(server.url, tmp_path / "memory.db") as process:
        assert sorted(await process.texts()) == ["Tea", "Which tea?"]
        assert len(await process.texts(user_id="default")) == 2


async def is_closed(process: Served) -> bool:
    """Whether it accepts no more."""
    try:
        await (await anyio.connect_tcp("127.0.0.1", httpx.URL(process.urls["REST"]).port or 0)).aclose()
    except OSError:
        return True
    return False


async def test_ctrl_c_under_load_ends_by_the_deadline(server: ScriptedOllama, tmp_path: Path) -> None:
    """With answers that would never end, and requests that do not stop coming."""
    server.enqueue("POST /api/chat", Raw([stream_head(), line_chunk(TOKEN), STALL]), repeat=True)
    stored: list[str] = []

    async def add(process: Served, worker: int) -> None:
        for number in range(10_000):
            try:
                answer = await process.add(f"note {worker}-{number}.")
            except httpx.TransportError:
                return
            if answer.status_code == httpx.codes.CREATED:
                stored.append(f"note {worker}-{number}.")

    async def chat(process: Served) -> None:
        with pytest.raises(httpx.TransportError):
            await process.http.post(f"{API}/chat", json=CHAT)

    async with served(server.url, tmp_path / "memory.db", "--deadline-s", "1") as process:
        async with anyio.create_task_group() as tasks:
            for worker in range(MANY):
                tasks.start_soon(add, process, worker)
                tasks.start_soon(chat, process)
            await server.wait_until(lambda: len(server.requests_to("POST /api/chat")) == MANY, 20)
            began = time.monotonic()
            assert await process.end(signal.SIGINT) == 0
        assert 1 <= time.monotonic() - began < 5
        assert "Traceback" not in process.said
    async with served(server.url, tmp_path / "memory.db") as process:
        there = await process.texts()
    assert [text for text in stored if text not in there] == []
