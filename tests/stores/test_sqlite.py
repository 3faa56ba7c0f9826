"""What is special to the embedded store: that it is durable, its threads, and several stores on one file."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import anyio
import numpy as np
import pytest
from msgspec.structs import replace

from ollama_async_mem.counts import Counts
from ollama_async_mem.errors import ConfigError, EmbeddingMismatch, StoreBusy, StoreError
from ollama_async_mem.records import Scope, Selection, owned
from ollama_async_mem.stores import _sqlite_codes, _sqlite_schema, _sqlite_threads, _sqlite_work, sqlite
from ollama_async_mem.stores._json import MAX_DEPTH
from ollama_async_mem.stores._sqlite_matrices import Mirror
from ollama_async_mem.stores.sqlite import SQLiteStore
from stores import files
from stores.samples import ALICE, MODEL, START, about, add, axis, claim, everything, fact, near, turn

if TYPE_CHECKING:
    from pathlib import Path


ROUNDS = int(os.environ.get("STORE_KILL_ROUNDS", "20"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the store lies."""
    return tmp_path / "memory.db"


# Durability


@pytest.mark.timeout(60 + 5 * ROUNDS)
def test_kill_9_loses_nothing_that_was_acknowledged(path: Path) -> None:
    """Killed in the middle of writes over and over, what was acknowledged is there, and nothing is half done."""
    promised: dict[str, str] = {}
    for round_number in range(ROUNDS):
        with files.run_python(files.write_forever, path, round_number) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(20 + 7 * (round_number % 10))]
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.readlines()
        promised |= {line.split()[1]: line.split()[0] for line in lines if line.endswith("\n")}
        assert asyncio.run(files.checked(path)) == []
        kept = files.pairs(path)
        assert {frozenset(halves) for halves in kept.values()} <= {frozenset("ab")}
        wrong = [name for name, done in promised.items() if kept.get(name) not in files.after(name, done)]
        assert wrong == []
    assert {"added", "updated", "deleted"} <= set(promised.values())


async def test_concurrent_adds_share_their_syncs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty-four concurrent adds need a few commits."""
    commits: list[str] = []

    def traced(*args: Any, **options: Any) -> sqlite3.Connection:
        conn = connect(*args, **options)
        conn.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
        return conn

    connect = _sqlite_schema.connect_writer
    monkeypatch.setattr(sqlite, "connect_writer", traced)
    async with SQLiteStore(path) as store:
        await asyncio.gather(*(add(store, turn(str(i))) for i in range(64)))
        assert await store.counts(ALICE) == Counts(64, 0)
    assert 1 <= len(commits) <= 16


@pytest.mark.parametrize(("durability", "synchronous"), [("full", 2), ("relaxed", 1)])
async def test_every_connection_syncs_as_it_should(path: Path, durability: Any, synchronous: int) -> None:
    """The settings that durability rests on are those of the connections in use."""
    async with SQLiteStore(path, durability=durability) as store:
        threads = store._threads
        for ask in (threads.read, threads.write):
            for name, value in {
                "synchronous": synchronous if ask == threads.write else 2,
                "foreign_keys": 1,
                "journal_mode": "wal",
                "busy_timeout": 5000,
            }.items():
                row = await ask(lambda conn, name=name: conn.execute(f"PRAGMA {name}").fetchone())  # type: ignore[misc]
                assert row == (value,)


def test_no_other_durability_is_known(path: Path) -> None:
    """Writing without any sync is not on offer."""
    with pytest.raises(ConfigError, match="'full' or 'relaxed', got 'off'"):
        SQLiteStore(path, durability="off")  # type: ignore[arg-type]


# Several stores and processes on one file


async def test_two_stores_see_each_others_writes(path: Path) -> None:
    """Adds, deletes and facts of one store are in the next search of another that has its caches warm."""
    async with SQLiteStore(path) as one, SQLiteStore(path) as two:
        said = [turn(f"peanut {i}") for i in range(6)]
        for i, store in enumerate([one, two] * 3):
            await add(store, said[i], extract=True)
            for reader in (one, two):
                assert len(await near(reader, ALICE, axis(1))) == i + 1
                assert len(await about(reader, ALICE, "peanut")) == i + 1
        job = await claim(two)
        facts = [fact("peanut new"), fact("peanut old", valid_to=START)]
        await two.finish_jobs([job], facts, [axis(0, 1)] * 2, model=MODEL)
        assert (await near(one, ALICE, axis(0, 1)))[0] == "peanut new"
        for memory, store in zip(said, [two, one] * 3, strict=True):
            await store.delete(memory.id)
            for reader in (one, two):
                assert memory.text not in await near(reader, ALICE, axis(1))
        assert await near(one, ALICE, axis(1)) == ["peanut new"]
        await add(one, turn("again"), vector=axis(0, 1))
        assert set(await near(two, ALICE, axis(0, 1))) == {"peanut new", "again"}


async def test_two_stores_cannot_bind_different_models(path: Path) -> None:
    """Whoever writes first decides about the embedding space, for all."""
    async with SQLiteStore(path) as one, SQLiteStore(path) as two:
        calls = [s.add_turns([turn()], [axis(1)], model=m) for s, m in ((one, "a"), (two, "b"))]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert sorted(type(o).__name__ for o in outcomes) == ["EmbeddingMismatch", "NoneType"]
        with pytest.raises(EmbeddingMismatch, match=str(path)):
            await two.add_turns([turn()], [axis(1)], model="c")


async def test_processes_can_open_a_new_file_at_once(path: Path) -> None:
    """Several processes that create one file together all succeed."""
    processes = [files.run_python(files.open_and_add, path, f"by {i}") for i in range(4)]
    for process in processes:
        with process:
            assert await asyncio.to_thread(process.wait, 30) == 0
    assert sorted(files.inspect(path)) == [f"by {i}" for i in range(4)]


async def test_processes_never_claim_the_same_job(path: Path) -> None:
    """Two processes that claim until nothing is left get each job once."""
    async with SQLiteStore(path) as store:
        queued = await asyncio.gather(*(add(store, turn(scope=Scope(str(i))), extract=True) for i in range(200)))
    processes = [files.run_python(files.claim_all, path) for _ in range(2)]
    claimed: list[str] = []
    for process in processes:
        output, _ = await asyncio.to_thread(process.communicate)
        claimed += output.split()
    assert sorted(claimed) == sorted(str(job_id) for job_id in queued)


async def test_a_short_lock_is_waited_for_and_a_long_one_is_busy(path: Path) -> None:
    """Another process's lock delays a write; beyond `busy_timeout_s` it is StoreBusy, and reads go on."""
    async with SQLiteStore(path) as patient, SQLiteStore(path, busy_timeout_s=0.1) as hasty:
        await add(patient, turn("before"))
        with files.run_python(files.hold_lock, path, 0.7) as process:
            assert process.stdout is not None
            await asyncio.to_thread(process.stdout.readline)
            began = time.monotonic()
            waiting = asyncio.create_task(add(patient, turn("waited")))
            calls = [add(hasty, turn("lost")) for _ in range(5)]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(o) for o in outcomes] == [StoreBusy] * 5
            assert all(isinstance(o, StoreBusy) and o.retryable and str(path) in str(o) for o in outcomes)
            assert time.monotonic() - began < 0.6
            assert await everything(hasty, ALICE) == ["before"]
            assert await near(hasty, ALICE, axis(1)) == ["before"]
            await waiting
            await asyncio.to_thread(process.wait)
        await add(hasty, turn("after"))
        assert sorted(await everything(hasty, ALICE)) == ["after", "before", "waited"]


# Threads


async def test_no_thread_and_no_log_file_is_left(path: Path) -> None:
    """Closing ends all threads and leaves one file; opening again works."""
    store = SQLiteStore(path)
    for expected in (1, 2):
        async with store:
            await add(store, turn())
            assert await store.counts(Scope()) == Counts(expected, 0)
            assert len(files.store_threads()) == 4
        assert files.store_threads() == []
        assert [p.name for p in path.parent.iterdir()] == ["memory.db"]


@pytest.mark.parametrize("wait_s", [0, 0.0005, 0.002, 0.02])
async def test_cancelled_opening_and_closing_leave_nothing(path: Path, wait_s: float) -> None:
    """Cancelled while it opens or closes, a store still ends its threads and lets go of its file."""

    async def use() -> None:
        async with SQLiteStore(path) as store:
            await asyncio.gather(*(add(store, turn()) for _ in range(20)))

    for _ in range(5):
        task = asyncio.create_task(use())
        await asyncio.sleep(wait_s)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert files.store_threads() == []
        with anyio.move_on_after(wait_s):
            await use()
        assert files.store_threads() == []
    assert len(await asyncio.to_thread(files.inspect, path)) <= 200


async def test_cancelled_closing_finishes_first_and_is_cancelled(path: Path) -> None:
    """A cancellation that comes while a store closes is raised once its threads are gone."""

    async def use() -> None:
        async with SQLiteStore(path) as store:
            slow = asyncio.create_task(store._threads.write(lambda _: time.sleep(0.2)))
            await asyncio.sleep(0.05)
        await slow

    task = asyncio.create_task(use())
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert files.store_threads() == []


async def test_cancelled_calls_give_their_slots_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue is bounded, and calls that were cancelled in it do not narrow it."""
    monkeypatch.setattr(_sqlite_threads, "MAX_QUEUED", 4)
    async with SQLiteStore(path) as store:
        for _ in range(5):
            tasks = [asyncio.create_task(add(store, turn())) for _ in range(12)]
            await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.05)
        slots = store._threads._slots
        for _ in range(4):
            await asyncio.wait_for(slots.acquire(), 1)
        assert slots.locked()
        for _ in range(4):
            slots.release()
        assert (await store.counts(ALICE)).turns >= 30


async def test_an_error_in_work_reaches_its_caller_only(path: Path) -> None:
    """A bug in one call is raised to that call, and the threads live on."""

    def broken(conn: sqlite3.Connection) -> None:
        conn.execute("DELETE FROM memories")
        raise ZeroDivisionError

    async with SQLiteStore(path) as store:
        await add(store, turn("kept"))
        for ask in (store._threads.write, store._threads.read):
            calls = [add(store, turn("more")), ask(broken), add(store, turn("more"))]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert [isinstance(o, Exception) for o in outcomes] == [False, True, False]
        assert len(await everything(store, ALICE)) == 5


async def test_a_commit_that_fails_costs_only_its_cause(path: Path) -> None:
    """When a group cannot be committed, the call that is to blame fails and the others are stored."""

    def orphan(conn: sqlite3.Connection) -> None:
        conn.execute("PRAGMA defer_foreign_keys = ON")  # looked at when the transaction ends
        conn.execute("INSERT INTO vectors (seq, embedding) VALUES (12345, x'00')")

    async with SQLiteStore(path) as store:
        calls = [store._threads.write(orphan) if i % 5 == 2 else add(store, turn(str(i))) for i in range(15)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(o, StoreError) for o in outcomes] == [i % 5 == 2 for i in range(15)]
        assert set(await everything(store, ALICE)) == {str(i) for i in range(15) if i % 5 != 2}
    assert len(await asyncio.to_thread(files.inspect, path)) == 12


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_CORRUPT])
def test_a_commit_that_the_disk_refuses_is_not_tried_again(code: int) -> None:
    """When the disk is to blame each call of the group fails with that error, and none is run twice."""

    class Refusing(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            if sql == "COMMIT":
                exc = sqlite3.OperationalError("refused")
                exc.sqlite_errorcode = code
                raise exc
            return super().execute(sql, *args)

    runs: list[int] = []
    with closing(asyncio.new_event_loop()) as loop, closing(sqlite3.connect(":memory:", factory=Refusing)) as conn:
        conn.isolation_level = None
        works = [lambda _, i=i: runs.append(i) for i in range(20)]
        items = [_sqlite_work.Item(work, loop.create_future(), "write") for work in works]
        _sqlite_work.commit_all(conn, items)
    assert runs == list(range(20))
    assert all(isinstance(item.error, sqlite3.OperationalError) for item in items)


# Caches and plans


@pytest.mark.parametrize("cache_bytes", [0, 8_000, 1 << 20])
async def test_searches_are_the_same_with_any_cache(
    path: Path, cache_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scopes that do not fit the cache are read from the file, with the same answer; the bound holds."""
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((300, 8)).astype(np.float32)
    owners = rng.integers(0, 3, 300)
    built: list[int] = []
    refresh = Mirror.refresh

    def watched(self: Mirror[Any], *args: Any) -> None:
        refresh(self, *args)
        built.append(self.size_bytes)

    monkeypatch.setattr(Mirror, "refresh", watched)
    async with SQLiteStore(path, cache_bytes=cache_bytes) as store:
        turns = [turn(str(i), Scope(f"u{owner}")) for i, owner in enumerate(owners)]
        await store.add_turns(turns, list(rows), model=MODEL)
        cosines = rows @ rows[7] / np.linalg.norm(rows, axis=1)
        ranked = [str(i) for i in np.argsort(-cosines)]
        for owner in (0, 1, 2, 0):
            mine = [text for text in ranked if owners[int(text)] == owner]
            assert await near(store, Scope(f"u{owner}"), rows[7]) == mine[:10]
        assert await near(store, Scope(), rows[7]) == ranked[:10]
        assert sum(m.size_bytes for m in store._nearest.cache._mirrors.values()) <= cache_bytes
    assert all(size_bytes <= cache_bytes for size_bytes in built)


async def test_small_scopes_do_not_fill_the_cache(path: Path) -> None:
    """What is quickly read again gets a sixteenth of it, and does not take the place of a large scope."""
    large, users, cache_bytes = Scope("large"), [Scope(f"u{number}") for number in range(100)], 2 << 20
    async with SQLiteStore(path, cache_bytes=cache_bytes) as store:
        for scope, count in ((large, 1000), *((user, 20) for user in users)):
            await store.add_turns([turn(str(i), scope) for i in range(count)], [axis(1)] * count, model=MODEL)
        for scope in (large, *users, users[-1]):
            assert await near(store, scope, axis(1), 1) == ["0"]
        held = store._nearest.cache._mirrors
        assert large in held
        assert users[-1] in held
        assert users[0] not in held
        assert cache_bytes // 32 < sum(held[user].size_bytes for user in users if user in held) <= cache_bytes // 16


async def test_a_scope_that_grew_large_is_no_longer_counted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its vectors are not held any more; and small scopes do not push out what is being filled."""
    monkeypatch.setattr(_sqlite_codes, "EXACT_ROWS", 50)
    async with SQLiteStore(path) as store:
        await store.add_turns([turn(str(i)) for i in range(40)], [axis(1)] * 40, model=MODEL)
        await near(store, ALICE, axis(1), 1)
        await store.add_turns([turn(f"and {i}") for i in range(40)], [axis(1)] * 40, model=MODEL)
        for _ in range(2):
            await near(store, ALICE, axis(1), 1)
        cache = store._nearest.cache
        mirror = cache._mirrors[ALICE]
        assert mirror.is_large
        assert mirror.counted_bytes == mirror.size_bytes
        assert cache._size_bytes == sum(one.size_bytes for one in cache._mirrors.values())
        assert cache._small(mirror.counted_bytes) == 0


async def test_deep_metadata_can_be_read_by_every_way(path: Path) -> None:
    """As deep as a store takes it, from within many frames."""
    metadata: dict[str, Any] = {}
    for _ in range(MAX_DEPTH - 1):
        metadata = {"in": metadata}
    async with SQLiteStore(path) as store:
        await store.add_turns([replace(turn("deep"), metadata=metadata)], [axis(1)], model=MODEL)
        (found,) = await store.dense_candidates(Selection(scope=ALICE), axis(1), model=MODEL, limit=1)
        (same,) = await store.keyword_candidates(Selection(scope=ALICE), "deep", limit=1)
        (listed,) = (await store.list(Selection(scope=ALICE), limit=9)).items
        got = await store.get(found.memory.id)
        for memory in (found.memory, same.memory, listed, got, owned(found.memory)):
            level: Any = memory.metadata
            for _ in range(MAX_DEPTH - 1):
                level = level["in"]
            assert level == {}


async def test_concurrent_first_searches_agree(path: Path) -> None:
    """Readers that need the same matrix at once, while it grows, all see what they may."""
    async with SQLiteStore(path) as store:
        await store.add_turns([turn(str(i)) for i in range(500)], [axis(1)] * 500, model=MODEL)
        for n in range(20):
            searches = [near(store, ALICE, axis(1), 10_000) for _ in range(4)]
            adding = asyncio.create_task(add(store, turn("more")))
            found = await asyncio.gather(*searches)
            await adding
            assert {len(texts) for texts in found} <= {500 + n, 501 + n}
