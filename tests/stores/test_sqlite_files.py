"""What can go wrong with the file of an embedded store and its disk, and how older files are brought up to date."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import subprocess
from typing import TYPE_CHECKING

import pytest

from ollama_async_mem.errors import SchemaTooNew, StoreError
from ollama_async_mem.filters import parse_filters
from ollama_async_mem.records import Change, Fact
from ollama_async_mem.stores import _sqlite_schema
from ollama_async_mem.stores._sqlite_migrations import MIGRATIONS
from ollama_async_mem.stores.sqlite import SQLiteStore
from stores import files
from stores.files import execute, overwrite, store_threads
from stores.samples import ALICE, MODEL, about, add, axis, claim, everything, near, turn

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
    with files.small_disk(tmp_path / "disk") as place:
        yield place


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


# Migrations


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

    def m099_broken(conn: sqlite3.Connection) -> None:
        conn.execute("CREATE TABLE extra (x)")
        conn.execute("nonsense")

    def m099_mended(conn: sqlite3.Connection) -> None:
        conn.execute("CREATE TABLE extra (x)")

    async with SQLiteStore(path) as store:
        await add(store, turn("kept"))
    monkeypatch.setattr(_sqlite_schema, "MIGRATIONS", (*MIGRATIONS, m099_broken))
    with pytest.raises(StoreError, match="nonsense"):
        await SQLiteStore(path).__aenter__()
    monkeypatch.setattr(_sqlite_schema, "MIGRATIONS", (*MIGRATIONS, m099_mended))
    async with SQLiteStore(path) as store:
        assert await everything(store, ALICE) == ["kept"]
    steps = await asyncio.to_thread(execute, path, "SELECT version, name FROM migrations ORDER BY version")
    assert steps == [(i, step.__name__) for i, step in enumerate((*MIGRATIONS, m099_mended), 1)]


@pytest.mark.parametrize("version", [1, 2])
async def test_a_file_of_an_older_schema_is_brought_up_to_date(path: Path, version: int) -> None:
    """All that an older version stored is there, found and filtered; jobs go on with their attempts."""
    await asyncio.to_thread(files.make_old, path, version)
    async with SQLiteStore(path, tokenize="trigram") as store:
        assert await everything(store, ALICE) == ["I moved to Lyon", "I love peanuts", "She lives in Paris"]
        assert await about(store, ALICE, "peanut paris lyons") == ["I love peanuts", "I moved to Lyon"]
        assert await near(store, ALICE, axis(0, 1), 1) == ["I moved to Lyon"]
        assert await about(store, ALICE, "moved lives", where=parse_filters({"topic": "home"})) == ["I moved to Lyon"]
        known = await store.get("known")
        assert isinstance(known, Fact)
        assert known.turn_ids == ("first",)
        assert known.valid_to is not None
        assert [event.new for event in await store.history("first")] == ["I love peanuts"]
        (waiting,) = await store.unfinished_jobs()
        assert (waiting.attempts, waiting.error) == (3, "model away")
        assert await store.job_status(files.DONE) is None
        job = await claim(store)
        assert (job.attempts, job.turn_ids) == (4, ("second",))
        await store.finish_jobs([job], [], [], model=MODEL)
        assert await store.unfinished_jobs() == []
        await store.update("second", Change(metadata={"topic": None}))
        assert await store.check() == []
    assert len(await asyncio.to_thread(files.inspect, path)) == 3
