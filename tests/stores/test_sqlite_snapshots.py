"""Reads that are queued together share a snapshot; none is older than its call."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING

from ollama_async_mem.records import Selection
from ollama_async_mem.stores._sqlite_work import begin, stamp_of
from ollama_async_mem.stores.sqlite import SQLiteStore

from .samples import ALICE, MODEL, about, add, axis, everything, near, turn

if TYPE_CHECKING:
    from pathlib import Path

COUNT = "SELECT count(*) FROM memories"


def count(conn: sqlite3.Connection) -> int:
    """How many memories a snapshot has."""
    found: int = conn.execute(COUNT).fetchone()[0]
    return found


async def test_reads_that_wait_share_a_snapshot_and_later_ones_see_what_was_written(tmp_path: Path) -> None:
    """Whoever calls after a write sees it, also behind calls that came before."""
    path, begun, go = tmp_path / "memory.db", threading.Event(), threading.Event()

    def hold(conn: sqlite3.Connection) -> int:
        begun.set()
        go.wait(5)
        return count(conn)

    async with SQLiteStore(path, readers=1) as store, SQLiteStore(path) as other:
        first = asyncio.create_task(store._threads.read(hold))
        await asyncio.to_thread(begun.wait, 5)
        early = [asyncio.create_task(store._threads.read(count)) for _ in range(3)]
        await asyncio.sleep(0)
        await add(other, turn("one"))
        await add(store, turn("two"))
        late = [asyncio.create_task(store._threads.read(count)) for _ in range(3)]
        await asyncio.sleep(0)
        go.set()
        assert await first == 2  # its snapshot began with what it read
        assert await asyncio.gather(*early) == [2, 2, 2]
        assert await asyncio.gather(*late) == [2, 2, 2]


async def test_a_snapshot_is_not_kept(tmp_path: Path) -> None:
    """Once nothing is queued the log can be written back into the file, and failures leave none behind."""
    path = tmp_path / "memory.db"

    def fail(conn: sqlite3.Connection) -> None:
        conn.execute(COUNT)
        raise ZeroDivisionError

    async with SQLiteStore(path) as store:
        await add(store, turn("one"))
        reads = [store._threads.read(count) for _ in range(20)]
        failures = [store._threads.read(fail) for _ in range(20)]
        outcomes = await asyncio.gather(*reads, *failures, return_exceptions=True)
        assert outcomes[:20] == [1] * 20
        assert all(isinstance(outcome, ZeroDivisionError) for outcome in outcomes[20:])
        await asyncio.sleep(0.05)
        await add(store, turn("two"))
        conn = sqlite3.connect(path)
        assert conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
        conn.close()


async def test_searches_see_all_that_was_written_before_them(tmp_path: Path) -> None:
    """With many searches under way in both stores of a file, by words and by vectors."""
    path = tmp_path / "memory.db"
    async with SQLiteStore(path) as store, SQLiteStore(path) as other:
        everything = Selection(scope=ALICE)

        async def write_and_search(mine: SQLiteStore, number: int) -> None:
            for n in range(15):
                said = turn(f"word{number}x{n} common")
                await add(mine, said)
                for each in (store, other):
                    assert await about(each, ALICE, f"word{number}x{n}") == [said.text]
                    assert said.text in await near(each, ALICE, axis(1), limit=1000)
                if n % 3 == 0:
                    await mine.delete(said.id)
                    assert said.text not in await near(store, ALICE, axis(1), limit=1000)
                    assert await about(other, ALICE, f"word{number}x{n}") == []
                assert await other.dense_candidates(everything, axis(1), model=MODEL, limit=3)

        await asyncio.gather(*(write_and_search((store, other)[n % 2], n) for n in range(16)))


def refresh(store: SQLiteStore) -> None:
    """Bring what the store holds of a scope up to date, as another of its threads does."""
    mirror, conn = store._nearest.cache.vectors(ALICE), store._connect_reader()
    with mirror.lock, closing(conn):
        begin(conn)
        assert mirror.source is not None
        mirror.refresh(conn, stamp_of(conn), mirror.source)


async def test_a_search_in_an_old_snapshot_takes_a_new_one_where_the_mirror_is_ahead(tmp_path: Path) -> None:
    """Another connection of the store has read meanwhile what was written, or that something is gone."""
    path, begun, go = tmp_path / "memory.db", threading.Event(), threading.Event()

    def hold(conn: sqlite3.Connection) -> int:
        found = count(conn)
        begun.set()
        go.wait(5)
        return found

    async with SQLiteStore(path, readers=1) as store, SQLiteStore(path) as other:
        await add(store, turn("one"), turn("two"))
        assert sorted(await near(store, ALICE, axis(1))) == ["one", "two"]
        held = asyncio.create_task(store._threads.read(hold))
        searched = asyncio.create_task(near(store, ALICE, axis(1)))
        await asyncio.to_thread(begun.wait, 5)
        await other.delete((await other.list(Selection(scope=ALICE), limit=1)).items[0].id)
        await add(other, turn("three"))
        await asyncio.to_thread(refresh, store)
        go.set()
        assert await held == 2
        assert sorted(await searched) == sorted(await everything(other, ALICE))
