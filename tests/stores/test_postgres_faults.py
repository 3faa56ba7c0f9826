"""What the store in PostgreSQL does when its server, its connections or others fail it."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from ollama_async_mem.errors import StoreBusy, StoreClosed, StoreError
from ollama_async_mem.filters import parse_filters
from ollama_async_mem.records import Change, Fact, Scope, Selection, Supersession
from ollama_async_mem.stores import open_store
from ollama_async_mem.stores.postgres import PostgresStore
from stores.cuts import Line
from stores.databases import database_name, execute, locked, somebody_waits
from stores.files import after
from stores.samples import ALICE, LONG_AGO, MODEL, about, add, axis, everything, fact, learn, near, turn

ROUNDS = int(os.environ.get("STORE_KILL_ROUNDS", "3"))  # each takes a second or two
WRITERS = 8

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

    from ollama_async_mem.ports import MemoryStore
    from stores.servers import Server


@pytest.fixture
async def line(postgres_server: Server, tmp_path: Path) -> AsyncIterator[Line]:
    """A line to the server that can be cut."""
    async with Line(tmp_path / postgres_server.socket.name, postgres_server.socket) as line:
        yield line


def through(line: Line, url: str) -> str:
    """The URL of a database, through a line."""
    return url.replace(str(line.server.parent), str(line.socket.parent))


# Connections that die


async def test_a_restart_of_the_server_is_not_noticed(postgres_server: Server, database: str) -> None:
    """After the server was restarted, reads and writes go on; while it is away they say so."""
    async with open_store(database) as store:
        await asyncio.gather(*(add(store, turn(str(i))) for i in range(8)))
        for _ in range(2):
            await asyncio.to_thread(postgres_server.stop)
            await asyncio.to_thread(postgres_server.start)
            assert len(await everything(store, ALICE)) == 8
            await asyncio.gather(*(near(store, ALICE, axis(1)) for _ in range(8)))
        await asyncio.to_thread(postgres_server.stop)
        with pytest.raises(StoreError, match="cannot be reached"):
            await everything(store, ALICE)
        with pytest.raises(StoreError, match="cannot be reached"):
            await add(store, turn("lost"))
        await asyncio.to_thread(postgres_server.start)
        await add(store, turn("after"))
        assert len(await everything(store, ALICE)) == 9


@pytest.mark.timeout(60 + 10 * ROUNDS)
async def test_what_was_acknowledged_survives_crashes(postgres_server: Server, database: str) -> None:
    """When the server is killed while many write, again and again, what was acknowledged is there; pairs are whole."""
    promised: dict[str, str] = {}
    async with open_store(database) as store:
        for number in range(ROUNDS):
            enough = asyncio.Event()
            writing = (change_pairs(store, f"u{n}", str(number), promised, enough) for n in range(WRITERS))
            tasks = [asyncio.create_task(write) for write in writing]
            await enough.wait()
            await asyncio.to_thread(postgres_server.kill)
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.to_thread(postgres_server.start)
            assert {type(end) for end in ends} <= {StoreError, StoreBusy}
            kept: dict[str, dict[str, str]] = {}
            page = await store.list(Selection(), limit=1_000_000)
            for word, name, half in (memory.text.split() for memory in page.items):
                kept.setdefault(name, {})[half] = word
            assert {frozenset(halves) for halves in kept.values()} <= {frozenset("ab")}
            assert [name for name, done in promised.items() if kept.get(name) not in after(name, done)] == []
            assert len(promised) <= await store.pending_jobs() <= len(promised) + (number + 1) * WRITERS
            assert await store.check() == []
    assert {"added", "updated", "deleted"} <= set(promised.values())


async def change_pairs(
    store: MemoryStore, user: str, prefix: str, promised: dict[str, str], enough: asyncio.Event
) -> None:
    """Add pairs of turns, change some and delete others, and keep what was acknowledged, until the server is gone."""
    for n in range(1_000_000):
        name = f"{prefix}.{user}.{n}"
        one, other = [turn(f"peanut {name} {half}", Scope(user)) for half in "ab"]
        await add(store, one, other, extract=True)
        promised[name] = "added"
        if n % 3 == 1:
            await store.update(one.id, Change(text=f"walnut {name} a"), vector=axis(0, 1), model=MODEL)
            promised[name] = "updated"
        if n % 3 == 2:
            await store.delete_all(Selection(scope=Scope(user), where=parse_filters({"id": [one.id, other.id]})))
            promised[name] = "deleted"
        if n == 6 + int(prefix) % 5:
            enough.set()


@pytest.mark.parametrize("at", [b"BEGIN", b"peanut"])
async def test_a_write_that_was_cut_off_is_done_once(line: Line, database: str, at: bytes) -> None:
    """When the line is cut before the commit, the write is done again on a new one, and counts once."""
    async with open_store(through(line, database)) as store:
        await add(store, turn("before"), extract=True)
        line.cut_at = at
        await add(store, turn("peanut"), extract=True)
        assert line.cuts == 1
        assert await everything(store, ALICE) == ["peanut", "before"]
        assert await store.pending_jobs() == 2


@pytest.mark.parametrize("is_swallowed", [False, True])
async def test_nobody_claims_to_know_what_a_commit_did(line: Line, database: str, *, is_swallowed: bool) -> None:
    """When the line is cut during the commit, the error says that it may have happened; and it is not done again."""
    async with open_store(through(line, database)) as store:
        await add(store, turn("before"))
        line.cut_at, line.is_swallowing = b"COMMIT", is_swallowed
        with pytest.raises(StoreError, match=r"whether .*happened; look for it before you try again"):
            await add(store, turn("peanut"))
        assert line.cuts == 1
        found = await about(store, ALICE, "peanut")
        assert found == ([] if is_swallowed else ["peanut"])


async def test_a_read_that_was_cut_off_is_done_again(line: Line, database: str) -> None:
    """A search whose line is cut is done again at once, a second time it is not."""
    async with open_store(through(line, database)) as store:
        await add(store, turn("peanut"))
        line.cut_at = b"peanut"
        assert await about(store, ALICE, "peanut") == ["peanut"]
        assert line.cuts == 1
        line.cut_at, line.is_cutting_all = b"peanut", True
        with pytest.raises(StoreError):
            await about(store, ALICE, "peanut")


# Waiting


async def test_a_lock_is_waited_for_a_while(database: str) -> None:
    """A lock that others hold for too long is StoreBusy; afterwards the store works."""
    async with PostgresStore(database, busy_timeout_s=0.1) as store:
        await add(store, turn("kept"))
        async with locked(database):
            for call in (add(store, turn("lost")), everything(store, ALICE), near(store, ALICE, axis(1))):
                with pytest.raises(StoreBusy, match="others hold a lock for too long"):
                    await call
        assert await everything(store, ALICE) == ["kept"]


async def test_a_statement_takes_only_so_long(database: str) -> None:
    """A statement that takes longer than the store allows is StoreBusy; afterwards the store works."""
    async with PostgresStore(database, busy_timeout_s=60, statement_timeout_s=0.2) as store:
        await add(store, turn("kept"))
        async with locked(database):
            with pytest.raises(StoreBusy, match="longer than the store allows"):
                await everything(store, ALICE)
        assert await everything(store, ALICE) == ["kept"]


async def test_a_connection_is_waited_for_a_while(database: str) -> None:
    """When all connections are in use for too long it is StoreBusy; afterwards the store works."""
    async with PostgresStore(database, connections=1, connect_timeout_s=0.5) as store:
        await add(store, turn("kept"))
        async with locked(database):
            waiting = asyncio.create_task(everything(store, ALICE))
            await somebody_waits(database)
            with pytest.raises(StoreBusy, match=r"no connection was to be had within 0\.5 s"):
                await everything(store, ALICE)
        assert await waiting == ["kept"]


async def test_the_server_has_no_connection_left(postgres_server: Server, database: str) -> None:
    """A server that takes no more connections is StoreBusy."""
    async with open_store(database) as store:
        await add(store, turn("kept"))
    limit = f"ALTER DATABASE {database_name(database)} CONNECTION LIMIT 0"
    await execute(postgres_server.url(), limit, "DROP ROLE IF EXISTS one", "CREATE ROLE one LOGIN PASSWORD 'x'")
    with pytest.raises(StoreBusy, match="no connection left"):
        await open_store(postgres_server.tcp_url("one:x", database_name(database))).__aenter__()


async def test_a_call_that_was_cancelled_gives_its_connection_back(database: str) -> None:
    """After calls were cancelled while they waited for the server, the only connection serves others."""
    said = turn("kept")
    async with PostgresStore(database, connections=1) as store:
        await add(store, said)
        calls: list[Callable[[], Coroutine[Any, Any, object]]] = [
            lambda: store.delete(said.id),
            lambda: everything(store, ALICE),
        ]
        for call in calls:
            async with locked(database):
                task = asyncio.create_task(call())
                await somebody_waits(database)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
        assert await everything(store, ALICE) == ["kept"]


async def test_closing_lets_calls_finish(database: str) -> None:
    """What was begun before the store closes finishes; what comes after is StoreClosed."""
    store = await PostgresStore(database, connections=2).__aenter__()
    calls = [asyncio.create_task(add(store, turn(str(i)))) for i in range(2)]
    await asyncio.sleep(0)
    await store.__aexit__()
    await asyncio.gather(*calls)
    with pytest.raises(StoreClosed):
        await add(store, turn("late"))
    async with store:
        assert sorted(await everything(store, ALICE)) == ["0", "1"]


async def test_writers_in_any_order_do_not_lock_each_other_out(database: str) -> None:
    """Calls that change the same facts in opposite orders all succeed."""
    facts = [fact(f"peanut {i}") for i in range(8)]
    ids = [known.id for known in facts]
    async with open_store(database) as store:
        await learn(store, *facts)

        async def end(order: list[str], n: int) -> None:
            at = LONG_AGO - timedelta(days=n)
            await store.supersede([Supersession(fact_id=fact_id, valid_to=at) for fact_id in order])

        await asyncio.gather(*(end(ids if n % 2 else ids[::-1], n) for n in range(12)))
        ends = [memory.valid_to for memory in await store.get_many(ids) if isinstance(memory, Fact)]
        assert ends == [LONG_AGO - timedelta(days=11)] * 8


async def test_a_deadlock_is_tried_again(database: str) -> None:
    """A call that the server ends so that another one can go on is done again, and happens once."""
    first, second = sorted((fact("peanut"), fact("walnut")), key=lambda known: known.id)
    ends = [Supersession(fact_id=known.id, valid_to=LONG_AGO) for known in (first, second)]
    async with open_store(database) as store:
        await learn(store, first, second)
        other = await asyncpg.connect(database)
        await other.execute("SET deadlock_timeout = '60s'; SET search_path = ollama_async_mem; BEGIN")
        lock = "SELECT FROM memories WHERE id = $1 FOR UPDATE"
        await other.execute(lock, second.id)
        call = asyncio.create_task(store.supersede(ends))
        await somebody_waits(database)
        await other.execute(lock, first.id)  # now each waits for the other, until the server ends the call
        await other.close()
        await call
        assert [len(await store.history(known.id)) for known in (first, second)] == [2, 2]
