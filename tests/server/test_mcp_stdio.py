"""The tools on standard input and output: a real process, the official client, and hosts that behave badly."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from fakes import Hold, Raw
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from ollama_async_mem import Memory
from ollama_async_mem.cli.main import USAGE, run
from ollama_async_mem.stores import open_store

from .mcp_clients import ERAS, client_at, refused, told
from .test_mcp import NAMES, READING, initialize

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from anyio.abc import Process
    from fakes import ScriptedOllama
    from pytest import CaptureFixture, MonkeyPatch  # noqa: PT013

INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}
LIMIT_S = 20


def line_of(server: ScriptedOllama, store: Path, *options: str) -> list[str]:
    """The command."""
    return [sys.executable, "-m", "ollama_async_mem", "mcp", "--host", server.url, "--store", str(store), *options]


@asynccontextmanager
async def tools_of(server: ScriptedOllama, store: Path, *options: str, mode: str = "auto") -> AsyncIterator[Client]:
    """A client that starts the command, as hosts do."""
    command, *arguments = line_of(server, store, *options)
    environment = {"OLLAMA_ASYNC_MEM_FIND_HOST": "0"}
    parameters = StdioServerParameters(command=command, args=arguments, env=environment)
    with open(os.devnull, "w") as nowhere:  # noqa: ASYNC230, PTH123 - it does not block
        async with Client(stdio_client(parameters, errlog=nowhere), mode=mode, cache=None) as client:
            yield client


class Host:
    """A program that speaks the protocol by hand."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._rest = b""

    async def send(self, *messages: Any) -> None:
        """Send messages, or bytes as they are."""
        assert self.process.stdin
        for message in messages:
            raw = message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n"
            await self.process.stdin.send(raw)

    async def receive(self) -> Any:
        """The next message; anything else on standard output fails the test."""
        assert self.process.stdout
        with anyio.fail_after(LIMIT_S):
            while b"\n" not in self._rest:
                self._rest += await self.process.stdout.receive()
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)

    async def begin(self) -> None:
        """Open a session."""
        await self.send(initialize())
        assert (await self.receive())["result"]["serverInfo"]["name"] == "ollama-async-mem"
        await self.send(INITIALIZED)

    async def call(self, number: int, tool: str, **arguments: Any) -> None:
        """Call a tool, without waiting for the answer."""
        params = {"name": tool, "arguments": arguments}
        await self.send({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params})

    async def end_input(self) -> None:
        """Close the process's standard input."""
        assert self.process.stdin
        await self.process.stdin.aclose()

    async def rest(self) -> bytes:
        """What is still on standard output, to its end."""
        assert self.process.stdout
        received = self._rest
        with anyio.fail_after(LIMIT_S):
            async for data in self.process.stdout:
                received += data
        return received

    async def status(self, limit_s: float = 5) -> int:
        """Wait for the end."""
        with anyio.fail_after(limit_s):
            return await self.process.wait()


@asynccontextmanager
async def host_of(server: ScriptedOllama, store: Path, *options: str) -> AsyncIterator[Host]:
    """The command, started by a program that speaks by hand."""
    line = line_of(server, store, *options)
    async with await anyio.open_process(line, stderr=subprocess.DEVNULL) as process:
        try:
            yield Host(process)
        finally:
            if process.returncode is None:
                process.kill()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where the memories lie."""
    return tmp_path / "memory.db"


@pytest.mark.parametrize("mode", ERAS)
async def test_the_official_client(server: ScriptedOllama, store: Path, mode: str) -> None:
    """It sees all tools, and what it adds is there the next time, for the command line too."""
    async with tools_of(server, store, mode=mode) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == NAMES
        await told(client, "add_memories", messages="I like green tea")
        assert "limit" in await refused(client, "search_memory", query="tea", limit=0)
    async with tools_of(server, store, mode=mode) as client:
        [found] = (await told(client, "search_memory", query="tea"))["memories"]
        assert (found["text"], found["user_id"]) == ("I like green tea", "me")


async def test_options_say_whose_memory_it_is(server: ScriptedOllama, store: Path) -> None:
    """And whether it may be changed."""
    async with tools_of(server, store, "--user-id", "anna", "--agent", "desk") as client:
        [item] = (await told(client, "add_memories", messages="I like green tea"))["memories"]
        assert (item["user_id"], item["agent_id"]) == ("anna", "desk")
        assert "bound to another user" in await refused(client, "list_memories", user_id="bob")
    async with tools_of(server, store, "--user", "bob", "--read-only") as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == READING
        assert (await told(client, "list_memories"))["memories"] == []
        assert "no memory has the id" in await refused(client, "get_memory", memory_id=item["id"])


@pytest.mark.parametrize("way", ["input closed", "SIGINT", "SIGTERM"])
async def test_it_ends_and_keeps_the_jobs(server: ScriptedOllama, store: Path, way: str) -> None:
    """While the model reads what was added: the next process reads it."""
    server.enqueue("POST /api/chat", Raw([Hold()]))
    async with host_of(server, store) as host:
        await host.begin()
        await host.call(1, "add_memories", messages="I am allergic to peanuts and live in Lyon")
        assert not (await host.receive())["result"]["isError"]
        await server.wait_until(lambda: len(server.requests_to("POST /api/chat")) == 1, timeout_s=10)
        if way == "input closed":
            await host.end_input()
        else:
            host.process.send_signal(signal.Signals[way])
        assert await host.rest() == b""
        assert await host.status() == 0
    async with open_store(str(store)) as opened:
        assert (await opened.statistics()).jobs_queued == 1


async def test_it_ends_while_a_call_is_under_way(server: ScriptedOllama, store: Path) -> None:
    """The call is cancelled, and so is what it waits for."""
    async with Memory(store, host=server.url, extract_here=False) as memory:
        await memory.add("tea", user_id="me", infer=False)
    server.enqueue("POST /api/embed", Raw([Hold()]))
    before = len(server.requests_to("POST /api/embed"))
    async with host_of(server, store) as host:
        await host.begin()
        await host.call(1, "search_memory", query="coffee")
        await server.wait_until(lambda: len(server.requests_to("POST /api/embed")) > before, timeout_s=10)
        host.process.send_signal(signal.SIGINT)
        assert await host.status() == 0
    await server.wait_closed_connections()


async def test_a_call_is_cancelled_by_its_number(server: ScriptedOllama, store: Path) -> None:
    """It is not answered, and the next one is."""
    server.enqueue("POST /api/embed", Raw([Hold()]))
    async with host_of(server, store) as host:
        await host.begin()
        await host.call(1, "search_memory", query="coffee")
        await server.wait_until(lambda: len(server.requests_to("POST /api/embed")) == 1, timeout_s=10)
        await host.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})
        await host.call(2, "list_memories")
        assert (await host.receive())["id"] == 2
        await server.wait_closed_connections()


async def test_it_starts_without_ollama_and_with_a_broken_one(server: ScriptedOllama, store: Path) -> None:
    """Hosts start it when a person logs in; Ollama may come later."""
    await server.stop()
    async with tools_of(server, store) as client:
        assert "ollama serve" in await refused(client, "add_memories", messages="tea")
        await server.start()
        await told(client, "add_memories", messages="tea")


async def test_noise_does_not_end_it(server: ScriptedOllama, store: Path) -> None:
    """Neither bytes of any kind nor messages of any shape, and nothing but the protocol comes out."""
    made = random.Random(6)  # noqa: S311 - noise that is the same each time
    noise = [made.randbytes(200).replace(b"\n", b"") + b"\n" for _ in range(50)]
    shapes = [
        b"\n",
        b"{}\n",
        b"[1]\n",
        b'{"jsonrpc": "2.0", "id": 5, "method": "tools/call"}\n',
        b'{"jsonrpc": "2.0", "id": 6, "method": "tools/call", "params": {"name": "get_memory", "arguments": 5}}\n',
        b'{"jsonrpc": "2.0", "id": 7, "method": "nothing"}\n',
        b'{"jsonrpc": "2.0", "id": 8, "result": {}}\n',
        b'{"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 99}}\n',
        b'{"jsonrpc": "2.0", "id": 9, "method": "\\ud800"}\n',
        b"[" * 100_000 + b"\n",
    ]
    async with host_of(server, store) as host:
        await host.begin()
        await host.send(*noise, *shapes)
        await host.call(100, "list_memories")
        while (answer := await host.receive())["id"] != 100:
            assert "error" in answer
            assert "Traceback" not in json.dumps(answer)
        assert answer["result"]["structuredContent"]["memories"] == []
        await host.end_input()
        assert await host.status() == 0


async def test_a_message_larger_than_a_pipe(server: ScriptedOllama, store: Path) -> None:
    """In pieces, in both directions."""
    text = "tea and biscuits " * 20_000
    async with host_of(server, store) as host:
        await host.begin()
        await host.call(1, "add_memories", messages=text, infer=False)
        answer = (await host.receive())["result"]
        assert answer["structuredContent"]["memories"][0]["text"] == text


async def test_the_whole_server_has_the_tools_too(server: ScriptedOllama) -> None:
    """`serve` imports them when somebody asks for them."""
    line = [sys.executable, "-m", "ollama_async_mem", "serve", "--port", "0", "--no-proxy", "--ollama", server.url]
    async with await anyio.open_process(line, env={**os.environ, "COLUMNS": "200"}) as process:
        assert process.stderr
        said = b""
        with anyio.fail_after(LIMIT_S):
            while b"\n" not in said:
                said += await process.stderr.receive()
        url = said.decode().partition("MCP at ")[2].split(";")[0].split(",")[0]
        async with client_at(url) as client:
            await told(client, "add_memories", messages="tea")
            assert len((await told(client, "search_memory", query="tea"))["memories"]) == 1
        process.terminate()
        assert await process.wait() == 0


def test_the_sdk_is_imported_where_it_is_used_alone() -> None:
    """It takes half a second, which no other command shall pay."""
    code = "import sys; from ollama_async_mem.cli.main import build; build(); sys.exit('mcp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603 - our own words


def test_without_the_extra(monkeypatch: MonkeyPatch, capsys: CaptureFixture[str]) -> None:
    """It says what to install."""
    monkeypatch.setattr("ollama_async_mem.cli.mcp.find_spec", lambda _name: None)
    assert run(["mcp"]) == USAGE
    assert "ollama-async-mem[mcp]" in capsys.readouterr().err.replace("\n", "")


def test_a_host_that_stops_reading(store: Path) -> None:
    """The process ends when it has something to say, and complains of nothing."""
    line = [sys.executable, "-m", "ollama_async_mem", "mcp", "--host", "127.0.0.1:9", "--store", str(store)]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(line, **pipes) as process:  # noqa: S603 - the command under test
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write(json.dumps(initialize()).encode() + b"\n")
        process.stdin.flush()
        assert b"serverInfo" in process.stdout.readline()
        process.stdout.close()
        process.stdin.write(b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n')
        process.stdin.flush()
        assert process.wait(LIMIT_S) == 0
        assert process.stderr.read() == b""
