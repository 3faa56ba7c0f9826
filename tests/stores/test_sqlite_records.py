"""Records that readers hold in memory are always what the file has, whoever changed it."""

from __future__ import annotations

import asyncio
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ollama_async_mem.records import Change, MemoryRecord, Reinforcement, Scope, Selection, Supersession, Turn
from ollama_async_mem.stores import _sqlite_keywords, _sqlite_reads, _sqlite_rows, sqlite
from ollama_async_mem.stores._sqlite_records import RecordCache
from ollama_async_mem.stores._sqlite_schema import connect_reader
from ollama_async_mem.stores.sqlite import SQLiteStore
from stores import files
from stores.samples import ALICE, LONG_AGO, MODEL, START, about, add, axis, claim, fact, learn, turn

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Awaitable, Callable

    Changing = Callable[[SQLiteStore, Turn], Awaitable[object]]

SAID = turn("I love peanut butter", id="said", metadata={"topic": ["food"]})
LATER = turn("More peanut butter, please", id="later", minute=1)
KNOWN = fact("She loves peanut butter", id="known", turn_ids=("said",))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the store lies."""
    return tmp_path / "memory.db"


async def fill(store: SQLiteStore) -> None:
    """Add two turns and a fact that is drawn from one of them."""
    await add(store, SAID, LATER)
    await learn(store, KNOWN)


async def seen(store: SQLiteStore) -> dict[str, list[MemoryRecord]]:
    """What a store gives out, each way that it does."""
    everything = Selection(scope=ALICE, everything=True)
    dense = await store.dense_candidates(everything, axis(1), model=MODEL, limit=10)
    words = await store.keyword_candidates(everything, "peanut butter walnut", limit=10)
    around = await store.neighbours(["said", "later"])
    return {
        "dense": sorted((found.memory for found in dense), key=lambda memory: memory.id),
        "words": sorted((found.memory for found in words), key=lambda memory: memory.id),
        "around": [turn for turn_id in sorted(around) for turn in around[turn_id]],
        "ids": await store.get_many(["said", "later", "known"]),
        "list": list((await store.list(everything, limit=10)).items),
    }


async def reinforce(store: SQLiteStore) -> None:
    """Say again what is known."""
    await add(store, turn("seed", Scope("seed")), extract=True)
    again = Reinforcement(fact_id="known", turn_ids=("later",), at=START)
    await store.finish_jobs([await claim(store)], [], [], model=MODEL, reinforced=[again])


CHANGES: dict[str, Callable[[SQLiteStore], Awaitable[object]]] = {
    "text": lambda store: store.update("said", Change(text="I love walnut"), vector=axis(0, 1), model=MODEL),
    "metadata": lambda store: store.update("said", Change(metadata={"topic": "nuts"})),
    "expiry": lambda store: store.update("later", Change(expires_at=LONG_AGO)),
    "end": lambda store: store.supersede([Supersession(fact_id="known", valid_to=START + timedelta(days=1))]),
    "turns": reinforce,
    "source deleted": lambda store: store.delete("said"),
    "turn deleted": lambda store: store.delete("later"),
    "another turn": lambda store: add(store, turn("Walnut butter", minute=2)),
}


def change(path: str, name: str) -> None:
    """Open a store and change something."""

    async def main() -> None:
        async with SQLiteStore(path) as store:
            await (fill if name == "all" else CHANGES[name])(store)

    asyncio.run(main())


async def change_elsewhere(path: Path, name: str) -> None:
    """Do the same in another process."""
    code = f"from stores import test_sqlite_records as own; own.change({str(path)!r}, {name!r})"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, cwd=Path(__file__).parent.parent)
    assert await process.wait() == 0


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("is_elsewhere", [False, True], ids=["here", "elsewhere"])
async def test_what_changed_is_seen(path: Path, name: str, is_elsewhere: bool) -> None:  # noqa: FBT001 - a parameter of a test
    """After a change, also of another process, each reader gives out what one gives out that has just begun."""
    async with SQLiteStore(path) as store:
        await fill(store)
        before = [await seen(store) for _ in range(6)]  # so that each reader has had a turn
        await (change_elsewhere(path, name) if is_elsewhere else CHANGES[name](store))
        after = [await seen(store) for _ in range(6)]
        async with SQLiteStore(path) as other:
            fresh = await seen(other)
    assert all(each == before[0] for each in before)
    assert fresh != before[0]
    assert all(each == fresh for each in after)


async def test_a_record_is_its_callers_own(path: Path) -> None:
    """What a caller does to the metadata of a record is in no other."""
    async with SQLiteStore(path, readers=1) as store:
        await fill(store)
        for way, memories in (await seen(store)).items():
            assert memories, way
            for memory in memories:
                assert "mine" not in memory.metadata, way
                memory.metadata["mine"] = True
                memory.metadata.setdefault("topic", []).append("mine")
        again = await store.get_many(["said", "later", "known"])
    assert [memory.metadata for memory in again] == [{"topic": ["food"]}, {}, {}]


def test_each_snapshot_has_its_own_rows(path: Path) -> None:
    """A reader whose snapshot is older than what is held reads its own rows, and does not give them to others."""
    change(str(path), "all")
    cache = RecordCache(1 << 20)
    old, new = (connect_reader(path, busy_timeout_s=1, records=cache) for _ in range(2))

    def text(conn: sqlite3.Connection) -> str:
        return _sqlite_rows.load_rows(conn, [1])[1].text

    with closing(old), closing(new):
        old.execute("BEGIN")
        assert text(old) == SAID.text
        change(str(path), "text")
        new.execute("BEGIN")
        assert [text(conn) for conn in (new, old, new, old)] == ["I love walnut", SAID.text] * 2
        old.execute("ROLLBACK")
        old.execute("BEGIN")
        assert text(old) == "I love walnut"


async def test_a_log_that_was_cut_off_clears_what_is_held(path: Path) -> None:
    """Where the log of changes does not tell what changed, all is read again."""
    async with SQLiteStore(path) as store:
        await fill(store)
        await seen(store)
        await CHANGES["text"](store)
        files.execute(path, "DELETE FROM changes")
        assert (await store.get("said")).text == "I love walnut"


async def test_what_is_held_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows that were read first make room; those that are larger than all the room are found as well."""
    caches: list[RecordCache] = []

    def made(max_bytes: int) -> RecordCache:
        caches.append(RecordCache(max_bytes))
        return caches[-1]

    monkeypatch.setattr(sqlite, "RecordCache", made)
    monkeypatch.setattr(sqlite, "RECORD_BYTES", 20_000)
    async with SQLiteStore(path) as store:
        turns = [turn(f"peanut {n}", id=str(n)) for n in range(50)]
        large = turn("peanut " * 4000, id="large")
        await add(store, *turns, large)
        for _ in range(3):
            assert await store.get_many([each.id for each in turns]) == turns
            assert await store.get("large") == large
            assert caches[-1].size_bytes <= 20_000
        assert await store.get_many(["1", "2"]) == turns[1:3]
        assert caches[-1].size_bytes > 0


async def test_nothing_is_read_twice(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another search has found is not read from the file again, whichever reader it was."""
    read: list[int] = []
    read_rows = _sqlite_rows._read_rows

    def watched(conn: sqlite3.Connection, seqs: Any) -> Any:
        read.extend(seqs)
        return read_rows(conn, seqs)

    async with SQLiteStore(path) as store:
        await fill(store)
        monkeypatch.setattr(_sqlite_rows, "_read_rows", watched)
        for _ in range(6):
            await seen(store)
        await add(store, turn("something else"))
        await seen(store)
    assert sorted(read) == sorted(set(read))


def test_neighbours_are_looked_for_in_an_index(path: Path) -> None:
    """Among many turns that were said at once, none is passed by on the way to the next."""
    change(str(path), "all")
    plan = files.execute(path, "EXPLAIN QUERY PLAN " + _sqlite_reads._NEIGHBOURS.replace("?", "+"))
    assert sum("(at,id)" in detail for *_, detail in plan) == 2


async def test_common_words_fill_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A word that is in most rows ranks nothing; the newest rows with it come after those with rarer words."""
    monkeypatch.setattr(_sqlite_keywords, "SMALL_STORE", 8)
    async with SQLiteStore(path) as store:
        await add(
            store, *(turn(f"bees {'and wasps' if n == 3 else n}", ALICE if n % 2 else Scope("bob")) for n in range(20))
        )
        assert await about(store, ALICE, "bees wasps", 4) == ["bees and wasps", "bees 19", "bees 17", "bees 15"]
        assert await about(store, Scope(), "bees", 3) == ["bees 19", "bees 18", "bees 17"]
        assert len(await about(store, ALICE, "bees wasps", 100)) == 10
