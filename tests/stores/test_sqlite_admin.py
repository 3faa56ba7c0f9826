"""Looking after an embedded store: copies of its file, upkeep, and checks that find damage."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from ollama_async_mem.counts import Counts
from ollama_async_mem.errors import ConfigError, StoreClosed, StoreError
from ollama_async_mem.records import Change, Scope, Selection, Supersession
from ollama_async_mem.stores import _sqlite_admin, _sqlite_merges
from ollama_async_mem.stores._sqlite_migrations import MIGRATIONS
from ollama_async_mem.stores.sqlite import SQLiteStore
from stores import files
from stores.samples import ALICE, LONG_AGO, MODEL, about, add, axis, everything, fact, learn, turn

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


async def fill(store: SQLiteStore, count: int) -> None:
    """Store turns of a kilobyte each."""
    turns = [turn(f"peanut {i} {'x' * 1000}") for i in range(count)]
    await store.add_turns(turns, [axis(1)] * count, model=MODEL)


def names(folder: Path) -> set[str]:
    """The files in a folder."""
    return {file.name for file in folder.iterdir()}


# Copies


async def test_a_copy_is_of_one_moment(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While others write, a copy has whole calls only, and it ends however much they write."""
    monkeypatch.setattr(_sqlite_admin, "STEP_PAGES", 1)
    copies = [tmp_path / f"copy{i}.db" for i in range(3)]
    done = asyncio.Event()

    async def write() -> None:
        while not done.is_set():
            await add(store, turn("pair a"), turn("pair b"))

    async with SQLiteStore(path) as store, asyncio.TaskGroup() as tasks:
        await fill(store, 50)
        for _ in range(4):
            tasks.create_task(write())
        for copy in copies:
            await store.backup(str(copy))
        done.set()
    for copy in copies:
        texts = await asyncio.to_thread(files.inspect, copy)
        assert len(texts) % 2 == 0
        assert len(texts) >= 50
        assert await files.checked(copy) == []
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600


async def test_a_copy_never_replaces_a_file(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is there stays as it is, also one that comes while the copy is made; no draft is left."""
    taken, late = tmp_path / "taken.db", tmp_path / "late.db"
    await asyncio.to_thread(taken.write_text, "precious")
    go_on = _sqlite_admin._go_on

    def overtake(stopped: threading.Event) -> None:
        late.write_text("precious")
        go_on(stopped)

    monkeypatch.setattr(_sqlite_admin, "_go_on", overtake)
    async with SQLiteStore(path) as store:
        await add(store, turn())
        with pytest.raises(StoreError, match=f"{taken} exists already"):
            await store.backup(str(taken))
        with pytest.raises(StoreError, match=f"{late} cannot be written: File exists"):
            await store.backup(str(late))
        for nowhere in (tmp_path / "missing" / "copy.db", taken / "copy.db"):
            with pytest.raises(StoreError, match="cannot be written"):
                await store.backup(str(nowhere))
        with pytest.raises(ConfigError):
            await store.backup("")
    assert [taken.read_text(), late.read_text()] == ["precious"] * 2
    assert names(tmp_path) == {"late.db", "memory.db", "taken.db"}


@pytest.mark.parametrize("url", ["file", "memory"])
@pytest.mark.parametrize("how", ["cancelled", "closed"])
async def test_a_copy_that_is_stopped_leaves_nothing(
    url: str, how: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelling a copy, or closing the store, ends it in the middle and takes its draft away."""
    begun, go_on = threading.Event(), _sqlite_admin._go_on

    def linger(stopped: threading.Event) -> None:
        begun.set()
        if url == "file" or how == "cancelled":
            stopped.wait(10)
        go_on(stopped)

    monkeypatch.setattr(_sqlite_admin, "_go_on", linger)
    async with SQLiteStore(path if url == "file" else None) as store:
        await add(store, turn())
        copying = asyncio.create_task(store.backup(str(tmp_path / "copy.db")))
        await asyncio.to_thread(begun.wait)
        if how == "cancelled":
            copying.cancel()
            with pytest.raises(asyncio.CancelledError):
                await copying
            assert await store.counts(ALICE) == Counts(1, 0)
    outcome = (await asyncio.gather(copying, return_exceptions=True))[0]
    if url == "file":
        assert isinstance(outcome, StoreClosed if how == "closed" else asyncio.CancelledError)
    left = {name for name in names(tmp_path) if not name.startswith("memory.db")}
    assert left == ({"copy.db"} if url == "memory" and how == "closed" else set())
    assert files.store_threads() == []


async def test_a_copy_on_a_full_disk_is_an_error(disk: Path, path: Path) -> None:
    """A copy that finds no room says so, leaves nothing, and the store goes on."""
    async with SQLiteStore(path) as store:
        await fill(store, 3000)
        with pytest.raises(StoreError, match="disk is full"):
            await store.backup(str(disk / "copy.db"))
        assert names(disk) == set()
        await add(store, turn("goes on"))


# Upkeep


async def test_optimizing_gives_space_back(path: Path) -> None:
    """After most was deleted the file shrinks and the log is empty; what is left is found, and others may write."""
    async with SQLiteStore(path) as store:
        await fill(store, 6000)
        await store.delete_all(Selection(scope=ALICE))
        await add(store, turn("walnut pie"))
        before = (await store.statistics()).size_bytes
        outcomes = await asyncio.gather(store.optimize(), *(add(store, turn(f"cashew {i}")) for i in range(100)))
        assert len(outcomes) == 101
        assert (await store.statistics()).size_bytes < before / 2
        await store.optimize()
        assert path.with_name("memory.db-wal").stat().st_size == 0
        assert await about(store, ALICE, "walnut") == ["walnut pie"]
        assert await store.check() == []


async def test_optimizing_merges_the_index(path: Path) -> None:
    """However many segments writes have left, there is one afterwards."""
    async with SQLiteStore(path) as store:
        for i in range(60):
            await add(store, turn(f"peanut {i}"))
        await store.optimize()
        segments = await store._read(
            lambda conn: conn.execute("SELECT count(DISTINCT segid) FROM memory_index_idx").fetchone()[0]
        )
        assert segments == 1
        assert len(await about(store, ALICE, "peanut", 100)) == 60


RARE = b"zyxwvarara"


def is_left(path: Path) -> bool:
    """Whether a rare word is in the file or its log."""
    return any(RARE in file.read_bytes() for file in path.parent.iterdir())


async def is_gone(path: Path) -> None:
    """Wait until it is not."""
    async with asyncio.timeout(20):
        while await asyncio.to_thread(is_left, path):  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("tokenize", ["porter unicode61", "trigram"])
async def test_words_that_were_deleted_leave_the_file(path: Path, tokenize: str) -> None:
    """Some idle time after a memory was deleted nothing of its texts is left: not in the index, nor in the log."""
    said, other = turn(f"{RARE.decode()} peanut"), turn("peanut")
    async with SQLiteStore(path, tokenize=tokenize) as store:
        for n in range(20):
            await add(store, *(turn(f"walnut {n} {i} {'cashew ' * 20}") for i in range(20)))
        await add(store, said, other)
        await add(store, turn("pistachio"))
        await store.update(other.id, Change(text=said.text), vector=axis(1), model=MODEL)
        await store.update(said.id, Change(text="almond"), vector=axis(1), model=MODEL)
        for one in (said, other):
            assert await asyncio.to_thread(is_left, path)
            await store.delete(one.id)
        await is_gone(path)
        assert len(await about(store, ALICE, "walnut", 1000)) == 400
        assert await about(store, ALICE, "almond peanut") == []
        assert await store.check() == []


async def test_words_leave_the_file_also_when_somebody_reads(path: Path) -> None:
    """What a reader still sees stays in the log until it is done; writers do not wait for it."""
    said = turn(RARE.decode())
    async with SQLiteStore(path) as store:
        await add(store, said, turn("peanut"))
        with closing(sqlite3.connect(path)) as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT count(*) FROM memories").fetchone() == (2,)
            await store.delete(said.id)
            async with asyncio.timeout(20):
                while await store._read(is_unmerged):  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.01)
            async with asyncio.timeout(2):
                await add(store, turn("walnut"))
            assert await asyncio.to_thread(is_left, path)
        await is_gone(path)


def is_unmerged(conn: sqlite3.Connection) -> bool:
    """Whether words are still to leave the index."""
    return bool(conn.execute("SELECT 1 FROM meta WHERE key = 'index_merge'").fetchone())


async def test_a_merge_that_was_left_undone_is_done_later(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By whoever opens the file next."""
    said = turn(RARE.decode())
    with monkeypatch.context() as patch:
        patch.setattr(_sqlite_merges.IndexMerge, "after_commit", lambda *_, **__: None)
        async with SQLiteStore(path) as store:
            await add(store, said)
            await add(store, turn("peanut"))
            await store.delete(said.id)
            assert await store._read(is_unmerged)
    assert await asyncio.to_thread(is_left, path)
    async with SQLiteStore(path) as store:
        await is_gone(path)
        assert await about(store, ALICE, "peanut") == ["peanut"]


async def test_what_is_deleted_while_the_index_is_merged(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves the file with the next merge."""
    monkeypatch.setattr(_sqlite_merges, "STEP_PAGES", 1)
    monkeypatch.setattr(_sqlite_merges, "RESTS", 1)
    said = [turn(f"{RARE.decode()} {i}") for i in range(30)]
    async with SQLiteStore(path) as store:
        for one in said:
            await add(store, one, *(turn(f"walnut {i} {one.id}") for i in range(20)))
        for one in said:
            await store.delete(one.id)
            await asyncio.sleep(0.011)  # some of them while it is idle
        await is_gone(path)
        assert await store.check() == []


# Checks

DAMAGES = {
    "UPDATE memories SET text = 'other' WHERE id = 'first'": "keyword index does not fit",
    "DELETE FROM memory_index_docsize WHERE id = 1": "1 memories are not in the keyword index",
    "DELETE FROM vectors WHERE seq = 2": "1 memories have no vector",
    "UPDATE vectors SET embedding = x'00' WHERE seq = 2": "1 vectors are not of the dimension",
    "UPDATE vectors SET embedding = zeroblob(32) WHERE seq = 2": "the vector of row 2 has the length 0",
    "INSERT INTO vectors VALUES (99, zeroblob(32))": "row 99 of vectors belongs to a row of memories that is not there",
    "UPDATE memories SET kind = 'fact' WHERE id = 'first'": "links are not from a fact to a turn",
    "INSERT INTO events (memory_id, kind, at) VALUES ('nobody', 'updated', 0)": "1 events are of no memory",
    "INSERT INTO events (memory_id, kind, at, old) VALUES ('x', 'updated', 0, 'y'), ('x', 'deleted', 0, NULL)": (
        "1 events still have the text"
    ),
    "DROP INDEX memories_by_time": "",
}


async def test_the_index_of_a_large_file_is_compared_in_a_copy(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong is found, while somebody else holds the lock of the file."""
    monkeypatch.setattr(_sqlite_admin, "LARGE_BYTES", 0)
    async with SQLiteStore(path) as store:
        await add(store, turn("I love peanuts", id="first"))
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert await store.check() == []
            other.execute("UPDATE memories SET text = 'other'")
            other.execute("COMMIT")
            other.execute("BEGIN IMMEDIATE")
            (wrong,) = await store.check()
        assert "keyword index does not fit" in wrong


async def damaged(path: Path, sql: str) -> None:
    """Make a store with some of everything and change its file behind its back."""
    async with SQLiteStore(path) as store:
        known = fact("Alice loves peanuts", turn_ids=("first",))
        await add(store, turn("I love peanuts", id="first"), turn("hello", id="second"), turn("bye", id="third"))
        await learn(store, known)
        await store.update("second", Change(text="hello you"), vector=axis(0, 1), model=MODEL)
        await store.supersede([Supersession(fact_id=known.id, valid_to=LONG_AGO)])
        await store.delete("third")
        assert await store.check() == []
    await asyncio.to_thread(files.execute, path, sql)


@pytest.mark.parametrize("sql", DAMAGES, ids=[message[:40] for message in DAMAGES.values()])
async def test_a_check_finds_damage(path: Path, sql: str) -> None:
    """Each thing that is wrong is told in a sentence; a missing index is none of them."""
    await damaged(path, sql)
    found = await files.checked(path)
    assert bool(found) == bool(DAMAGES[sql])
    assert any(DAMAGES[sql] in sentence for sentence in found) == bool(found)


async def test_a_check_of_overwritten_pages_tells_of_them(path: Path) -> None:
    """Damage of the file itself is told, not raised, as long as the store can be opened."""
    async with SQLiteStore(path) as store:
        await store.add_turns([turn("x" * 3000) for _ in range(100)], [axis(1)] * 100, model=MODEL)
    size = (await asyncio.to_thread(path.stat)).st_size
    await asyncio.to_thread(files.overwrite, path, 4096 * 40, b"\xa5" * (size - 4096 * 40))
    assert any("the file is damaged" in sentence for sentence in await files.checked(path))


async def test_a_check_can_be_cancelled(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that takes long ends soon after it is cancelled, and leaves no thread."""
    begun = threading.Event()

    def endless(conn: sqlite3.Connection) -> list[str]:
        begun.set()
        counting = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT sum(i) FROM n"
        conn.execute(counting).fetchone()
        return []

    monkeypatch.setattr(_sqlite_admin, "_pages", endless)
    async with SQLiteStore(path) as store:
        checking = asyncio.create_task(store.check())
        await asyncio.to_thread(begun.wait)
        checking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await checking
        assert len(files.store_threads()) == 4
        begun.clear()
        checking = asyncio.create_task(store.check())
        await asyncio.to_thread(begun.wait)
    with pytest.raises(StoreClosed, match="closed meanwhile"):
        await checking


# Deleting much


async def test_deleting_all_leaves_no_text_in_the_file(path: Path) -> None:
    """Deleted texts are nowhere in the file once it was optimized: rows, index, history, free pages."""
    secret = "xylophone"
    async with SQLiteStore(path) as store:
        for i in range(40):
            await add(store, turn(f"{secret} {i}", id=str(i)), turn(f"{secret} {i}", Scope("bob")))
        await store.update("7", Change(text=f"my {secret}"), vector=axis(1), model=MODEL)
        assert await store.delete_all(Selection(scope=ALICE, everything=True)) == 40
        assert await everything(store, Scope("bob")) != []
        assert await store.delete_all(Selection(everything=True)) == 40
        assert await about(store, Scope(), secret) == []
        await store.optimize()
        assert [(event.kind, event.old, event.new) for event in await store.history("7")] == [
            ("added", None, None),
            ("updated", None, None),
            ("deleted", None, None),
        ]
        await add(store, turn("goes on"))
        assert await about(store, ALICE, "goes on") == ["goes on"]
    assert secret.encode() not in await asyncio.to_thread(path.read_bytes)


async def test_statistics_are_of_this_file(path: Path) -> None:
    """The size is that of the file, and grows with it."""
    async with SQLiteStore(path) as store:
        await fill(store, 300)
        told = await store.statistics()
    assert told.size_bytes == (await asyncio.to_thread(path.stat)).st_size
    assert told.turns == 300
    assert told.schema_version == len(MIGRATIONS)
