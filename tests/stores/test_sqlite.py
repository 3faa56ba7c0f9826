"""What is special to the embedded store: its file, its threads, its caches, and what can go wrong with a disk."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sqlite3
import subprocess
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import anyio
import numpy as np
import pytest

from ollama_async_mem.errors import EmbeddingMismatch, SchemaTooNew, StoreBusy, StoreError
from ollama_async_mem.records import Counts, Scope
from ollama_async_mem.stores import _sqlite_reads, _sqlite_schema, _sqlite_threads, sqlite
from ollama_async_mem.stores._sqlite_matrices import Mirror
from ollama_async_mem.stores.sqlite import SQLiteStore
from stores import files
from stores.samples import ALICE, MODEL, START, about, add, axis, claim, everything, fact, near, turn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the store lies."""
    return tmp_path / "memory.db"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:  # noqa: S603
        pytest.skip("only root can mount a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)  # noqa: S603, S607


def store_threads() -> list[threading.Thread]:
    """The threads of stores that are running."""
    return [thread for thread in threading.enumerate() if thread.name == "store"]


# Durability


def test_kill_9_loses_nothing_that_was_acknowledged(path: Path) -> None:
    """Killed in the middle of writes, ten times over, each acknowledged pair is there, none is half there."""
    acknowledged: list[str] = []
    for round_number in range(10):
        with files.run_python(files.write_forever, path) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(20 + 7 * round_number)]
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.readlines()
        acknowledged += [f"{round_number} {line.strip()}" for line in lines if line.endswith("\n")]
        texts = files.inspect(path)
        for half in "ab":
            names = [text.split()[1] for text in texts if text.endswith(half)]
            assert len(names) == len(texts) // 2
            assert {line.split()[1] for line in acknowledged} <= set(names)
            assert len(names) >= len(acknowledged)
    with closing(sqlite3.connect(path)) as conn:
        assert conn.execute("SELECT count(*) FROM jobs").fetchone()[0] * 2 == len(texts)


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


async def test_every_connection_syncs_fully(path: Path) -> None:
    """The settings that durability rests on are those of the connections in use."""
    async with SQLiteStore(path) as store:
        threads = store._threads
        for ask in (threads.read, threads.write):
            for name, value in {
                "synchronous": 2,
                "foreign_keys": 1,
                "journal_mode": "wal",
                "busy_timeout": 5000,
            }.items():
                row = await ask(lambda conn, name=name: conn.execute(f"PRAGMA {name}").fetchone())  # type: ignore[misc]
                assert row == (value,)


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
        facts = [fact("peanut new", turn_ids=job.turn_ids), fact("peanut old", valid_to=START)]
        await two.finish_job(job, facts, [axis(0, 1)] * 2, model=MODEL)
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
        queued = await asyncio.gather(*(add(store, turn(str(i)), extract=True) for i in range(200)))
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


# What is wrong with a file


async def test_a_full_disk_is_an_error_and_loses_nothing(disk: Path) -> None:
    """When the disk is full writes raise a StoreError that says so; what was there is found, and room heals it."""
    path = disk / "memory.db"
    filler = disk / "filler"
    await asyncio.to_thread(filler.write_bytes, b"x" * 700_000)
    stored = []
    async with SQLiteStore(path) as store:
        error: StoreError | None = None
        while error is None:
            try:
                said = turn("peanut " + "x" * 20_000)
                await add(store, said)
                stored.append(said.id)
            except StoreError as exc:
                error = exc
        assert "disk is full" in str(error)
        assert isinstance(error.__cause__, sqlite3.Error)
        outcomes = await asyncio.gather(*(add(store, turn("y" * 50_000)) for _ in range(8)), return_exceptions=True)
        assert {type(o) for o in outcomes} == {StoreError}
        assert stored
        assert {(await store.get(i)).id for i in stored} == set(stored)
        assert len(await about(store, ALICE, "peanut", 1000)) == len(stored)
        assert len(await near(store, ALICE, axis(1), 1000)) == len(stored)
        await asyncio.to_thread(filler.unlink)
        await add(store, turn("roomy"))
    assert len(await asyncio.to_thread(files.inspect, path)) == len(stored) + 1


async def test_a_disk_without_any_room_cannot_be_opened(disk: Path) -> None:
    """Opening on a full disk is a StoreError that says how it can be opened again, and no thread is left."""
    async with SQLiteStore(disk / "memory.db") as store:
        await add(store, turn("kept"))
    with pytest.raises(OSError, match="No space"):
        await asyncio.to_thread((disk / "filler").write_bytes, b"x" * 3_000_000)
    for name in ("memory.db", "new.db", "folder/new.db"):
        with pytest.raises(StoreError, match="disk is full; what is stored is intact: free some space"):
            await SQLiteStore(disk / name).__aenter__()
    assert store_threads() == []
    await asyncio.to_thread((disk / "filler").unlink)
    async with SQLiteStore(disk / "memory.db") as store:
        assert await everything(store, ALICE) == ["kept"]


async def test_a_disk_without_room_for_names_says_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where not even the file can be made for lack of room, the error is the same."""

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StoreError, match=r"disk is full.*free some space"):
        await SQLiteStore(path).__aenter__()


async def test_a_read_only_disk_is_refused(disk: Path) -> None:
    """A store on a disk that became read-only cannot be opened, nor can one be made there."""
    async with SQLiteStore(disk / "memory.db") as store:
        await add(store, turn("kept"))
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)  # noqa: ASYNC221, S603, S607
    for name in ("memory.db", "new.db", "folder/new.db"):
        with pytest.raises(StoreError, match=r"read-only|Read-only|cannot be opened"):
            await SQLiteStore(disk / name).__aenter__()


@pytest.fixture
def locked_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that may not be written, with a file that may not be either."""
    folder = tmp_path / "locked"
    folder.mkdir()
    (folder / "memory.db").touch(0o400)
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("this account may do anything")
    yield folder
    folder.chmod(0o700)


async def test_files_and_folders_without_rights_are_refused(locked_folder: Path) -> None:
    """A file or folder that may not be written is a StoreError that names it."""
    with pytest.raises(StoreError, match=f"{locked_folder}/memory.db is read-only"):
        await SQLiteStore(locked_folder / "memory.db").__aenter__()
    for name in ("other.db", "folder/other.db"):
        with pytest.raises(StoreError, match=f"{locked_folder}/{name}.*cannot be opened"):
            await SQLiteStore(locked_folder / name).__aenter__()


async def test_places_that_are_no_files_are_refused(path: Path, tmp_path: Path) -> None:
    """A folder, and a path through a file, are a StoreError that names them."""
    await asyncio.to_thread(path.touch)
    with pytest.raises(StoreError, match="is a folder"):
        await SQLiteStore(tmp_path).__aenter__()
    with pytest.raises(StoreError, match="cannot be opened") as caught:
        await SQLiteStore(path / "memory.db").__aenter__()
    assert isinstance(caught.value.__cause__, OSError)
    assert store_threads() == []


@pytest.mark.parametrize(
    "content", [b"hello world, this is not a database" * 40, b"SQLite format 3\0" + b"\xff" * 5000]
)
async def test_a_file_that_is_no_database_is_left_alone(path: Path, content: bytes) -> None:
    """A file of another kind, or with a broken header, is a StoreError, and is not changed."""
    await asyncio.to_thread(path.write_bytes, content)
    with pytest.raises(StoreError, match=rf"{path}.*move it away"):
        await SQLiteStore(path).__aenter__()
    assert await asyncio.to_thread(path.read_bytes) == content


async def test_a_database_of_another_program_is_left_alone(path: Path) -> None:
    """An SQLite file with somebody else's tables is refused and not changed."""
    await asyncio.to_thread(execute, path, "CREATE TABLE theirs (x)")
    before = await asyncio.to_thread(path.read_bytes)
    with pytest.raises(StoreError, match="another program"):
        await SQLiteStore(path).__aenter__()
    assert await asyncio.to_thread(path.read_bytes) == before


async def test_damage_inside_is_an_error(path: Path) -> None:
    """Pages that were overwritten make reads fail with advice, never answer with nothing."""
    async with SQLiteStore(path) as store:
        await store.add_turns([turn("x" * 3000) for _ in range(100)], [axis(1)] * 100, model=MODEL)
    size = (await asyncio.to_thread(path.stat)).st_size
    await asyncio.to_thread(overwrite, path, 4096 * 30, b"\xa5" * (size - 4096 * 30))
    async with SQLiteStore(path) as store:
        with pytest.raises(StoreError, match="damaged"):
            await near(store, ALICE, axis(1))


async def test_a_newer_schema_is_left_alone(path: Path) -> None:
    """A file of a newer version is SchemaTooNew, which says to upgrade; a current one opens again."""
    async with SQLiteStore(path) as store:
        await add(store, turn("kept"))
    async with SQLiteStore(path) as store:
        assert await everything(store, ALICE) == ["kept"]
    await asyncio.to_thread(execute, path, "INSERT INTO migrations VALUES (99, 'm099_future', 0)")
    with pytest.raises(SchemaTooNew, match="upgrade"):
        await SQLiteStore(path).__aenter__()
    assert store_threads() == []


async def test_a_step_that_fails_leaves_no_trace(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration and its record are one transaction: after a failure the next opening does it again."""

    def m003_broken(conn: sqlite3.Connection) -> None:
        conn.execute("CREATE TABLE extra (x)")
        conn.execute("nonsense")

    def m003_mended(conn: sqlite3.Connection) -> None:
        conn.execute("CREATE TABLE extra (x)")

    first = _sqlite_schema.MIGRATIONS
    async with SQLiteStore(path) as store:
        await add(store, turn("kept"))
    monkeypatch.setattr(_sqlite_schema, "MIGRATIONS", (*first, m003_broken))
    with pytest.raises(StoreError, match="nonsense"):
        await SQLiteStore(path).__aenter__()
    monkeypatch.setattr(_sqlite_schema, "MIGRATIONS", (*first, m003_mended))
    async with SQLiteStore(path) as store:
        assert await everything(store, ALICE) == ["kept"]
    steps = await asyncio.to_thread(execute, path, "SELECT version, name FROM migrations ORDER BY version")
    assert steps == [(1, "m001_initial"), (2, "m002_jobs_given_back"), (3, "m003_mended")]


async def test_a_file_of_the_first_schema_is_brought_up_to_date(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that an older version queued, tried and claimed are there with their attempts, and can be ended."""
    monkeypatch.setattr(_sqlite_schema, "MIGRATIONS", _sqlite_schema.MIGRATIONS[:1])
    async with SQLiteStore(path) as store:
        await add(store, turn("kept"), extract=True)
    monkeypatch.undo()
    await asyncio.to_thread(execute, path, "UPDATE jobs SET attempts = 3, last_error = 'model away'")
    async with SQLiteStore(path) as store:
        (waiting,) = await store.unfinished_jobs()
        assert (waiting.attempts, waiting.error) == (3, "model away")
        job = await claim(store)
        assert job.attempts == 4
        await store.finish_job(job, [], [], model=MODEL)
        assert await store.unfinished_jobs() == []
    assert await asyncio.to_thread(files.inspect, path) == ["kept"]


def overwrite(path: Path, start: int, content: bytes) -> None:
    """Change a part of a file."""
    with path.open("r+b") as file:
        file.seek(start)
        file.write(content)


def execute(path: Path, sql: str) -> list[Any]:
    """Run one statement on a file."""
    with closing(sqlite3.connect(path)) as conn, conn:
        return conn.execute(sql).fetchall()


# Threads


async def test_no_thread_and_no_log_file_is_left(path: Path) -> None:
    """Closing ends all threads and leaves one file; opening again works."""
    store = SQLiteStore(path)
    for expected in (1, 2):
        async with store:
            await add(store, turn())
            assert await store.counts(Scope()) == Counts(expected, 0)
            assert len(store_threads()) == 4
        assert store_threads() == []
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
        assert store_threads() == []
        with anyio.move_on_after(wait_s):
            await use()
        assert store_threads() == []
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
    assert store_threads() == []


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
        assert store._threads._slots.value == 4
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
        items = [_sqlite_threads._Item(work, loop.create_future(), reads=False) for work in works]
        _sqlite_threads.commit_all(conn, items)
    assert runs == list(range(20))
    assert all(isinstance(item.error, sqlite3.OperationalError) for item in items)


# Caches and plans


@pytest.mark.parametrize("cache_bytes", [0, 5_000, 1 << 20])
async def test_searches_are_the_same_with_any_cache(
    path: Path, cache_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scopes that do not fit the cache are read from the file, with the same answer; the bound holds."""
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((300, 8)).astype(np.float32)
    owners = rng.integers(0, 3, 300)
    built: list[int] = []
    reserve = Mirror._reserve

    def watched(self: Mirror, rows: int, dimension: int) -> None:
        built.append(rows * dimension * 4)
        reserve(self, rows, dimension)

    monkeypatch.setattr(Mirror, "_reserve", watched)
    async with SQLiteStore(path, cache_bytes=cache_bytes) as store:
        turns = [turn(str(i), Scope(f"u{owner}")) for i, owner in enumerate(owners)]
        await store.add_turns(turns, list(rows), model=MODEL)
        cosines = rows @ rows[7] / np.linalg.norm(rows, axis=1)
        ranked = [str(i) for i in np.argsort(-cosines)]
        for owner in (0, 1, 2, 0):
            mine = [text for text in ranked if owners[int(text)] == owner]
            assert await near(store, Scope(f"u{owner}"), rows[7]) == mine[:10]
        assert await near(store, Scope(), rows[7]) == ranked[:10]
        assert sum(m.size_bytes for m in store._cache._mirrors.values()) <= cache_bytes
    assert all(size_bytes <= cache_bytes for size_bytes in built)


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


async def test_unfinished_jobs_are_found_without_the_others(path: Path) -> None:
    """The plan of the listing of jobs goes through the index of those that are not done."""
    asked: list[str] = []
    async with SQLiteStore(path, readers=1) as store:
        await store._threads.read(lambda conn: conn.set_trace_callback(asked.append))
        await store.unfinished_jobs()
        explained = "EXPLAIN QUERY PLAN " + next(sql for sql in asked if "claims" in sql)
        plan = await store._threads.read(lambda conn: conn.execute(explained).fetchall())
    assert "USING INDEX jobs_unfinished" in str(plan)


async def test_listings_do_not_read_other_scopes(path: Path) -> None:
    """The plan of a listing goes through the index of the scope."""
    async with SQLiteStore(path) as store:
        explained = "EXPLAIN QUERY PLAN" + _sqlite_reads.list_sql(_sqlite_reads.Filter(1, None, None))
        values = (1, "turn", "fact", 9, "", 5)
        plan = await store._threads.read(lambda conn: conn.execute(explained, values).fetchall())
        assert "SEARCH memories USING INDEX memories_by_time (scope_id=?" in str(plan)
