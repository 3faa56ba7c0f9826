"""Dense search in large stores: 1-bit codes find what an exact search finds, whatever happens to the rows."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from ollama_async_mem.filters import parse_filters
from ollama_async_mem.records import Change, Scope, Selection, Supersession
from ollama_async_mem.stores import _sqlite_blocks, _sqlite_codes, _sqlite_dense, _sqlite_matrices, _sqlite_threads
from ollama_async_mem.stores._recall import Trial
from ollama_async_mem.stores._sqlite_codes import Upkeep
from ollama_async_mem.stores._vectors import distances, nearest, nearest_codes, sign_bits, sign_scores
from ollama_async_mem.stores.sqlite import SQLiteStore
from stores.model import ModelStore
from stores.samples import ALICE, BOB, FAR_OFF, LONG_AGO, MODEL, START, fact, learn, near, turn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ollama_async_mem.ports import MemoryStore, Vector

SMALL = {"EXACT_ROWS": 8, "BLOCK_ROWS": 4, "LOG_ROWS": 6, "MEAN_ROWS": 3, "TRIAL_QUERIES": 2}
PROBE = np.array([1, -0.5, 0.25, 0, 0, 0, 0, 0.1], np.float32)


@contextmanager
def limits(**values: int) -> Iterator[None]:
    """Limits so small that a handful of rows is a large store."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (SMALL | values).items():
            patch.setattr(_sqlite_codes, name, value)
        patch.setattr(_sqlite_blocks, "CHUNK_ROWS", 3)
        patch.setattr(_sqlite_matrices, "BLOCK_ROWS", 5)
        patch.setattr(_sqlite_matrices, "NEAR_ROWS", 3)
        yield


@pytest.fixture
def small() -> Iterator[None]:
    """The same for a whole test."""
    with limits():
        yield


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the store lies."""
    return tmp_path / "memory.db"


def directions(count: int, seed: int = 0, dimension: int = 8) -> list[Vector]:
    """Vectors of length one in all directions."""
    rows = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return list(rows / np.linalg.norm(rows, axis=1, keepdims=True))


async def fill(store: MemoryStore, count: int, *, seed: int = 0, scope: Scope = ALICE) -> None:
    """Add turns in directions of their own, named by their number."""
    turns = [turn(str(n), scope, minute=n) for n in range(count)]
    await store.add_turns(turns, directions(count, seed), model=MODEL)


async def settle(store: SQLiteStore) -> None:
    """Do all upkeep that is due."""
    while await store._threads.write(store._upkeep.step):
        pass


async def table(store: SQLiteStore, sql: str) -> list[Any]:
    """Look into the file."""
    rows: list[Any] = await store._threads.read(lambda conn: conn.execute(sql).fetchall())
    return rows


def watch_loads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What gets an entry each time that the codes of all rows are read."""
    loads: list[int] = []
    read_all = _sqlite_codes.Coding.read_all

    def watched(self: _sqlite_codes.Coding, conn: sqlite3.Connection) -> Iterator[_sqlite_blocks.Block]:
        loads.append(1)
        return read_all(self, conn)

    monkeypatch.setattr(_sqlite_codes.Coding, "read_all", watched)
    return loads


# Arithmetic


@given(
    n=st.integers(1, 40),
    dimension=st.integers(1, 150),
    limit=st.integers(1, 50),
    size=st.integers(1, 20),
    seed=st.integers(0, 9),
    third=st.integers(0, 3),
)
def test_the_nearest_codes_are_those_with_the_fewest_different_bits(  # noqa: PLR0917 - drawn by name
    n: int, dimension: int, limit: int, size: int, seed: int, third: int
) -> None:
    """In blocks of any size, with and without a mask, they are those that sorting all by bits and age gives."""
    rows, mean = np.stack(directions(n, seed, dimension)), np.zeros(dimension, np.float32)
    codes, query = sign_bits(rows, mean), np.stack(directions(1, seed + 99, dimension))
    mask = np.arange(n) % 3 != third  # with 3, which no number leaves, all
    differing = [int(np.count_nonzero((row > 0) != (query[0] > 0))) for row in rows]
    assert distances(codes, sign_bits(query, mean)[0]).tolist() == differing
    spans = [slice(begin, begin + size) for begin in range(0, n, size)]
    ids = np.arange(n, dtype=np.int64)
    blocks = ((ids[span], codes[span], mask[span] if third < 3 else None) for span in spans)
    found, kept = nearest_codes(blocks, sign_bits(query, mean)[0], limit)
    assert found.tolist() == sorted(ids[mask].tolist(), key=lambda i: (differing[i], i))[:limit]
    assert np.array_equal(kept, codes[found])


def test_the_words_of_a_code_lie_side_by_side() -> None:
    """Codes are scanned along the rows, and stay so when blocks are joined and thinned out."""
    codes = sign_bits(np.stack(directions(9, dimension=130)), np.zeros(130, np.float32))
    assert codes.shape == (9, 3)
    blank = np.zeros(9, np.int64)
    block = _sqlite_blocks.Block(np.arange(9), blank.astype(np.int32), blank.astype(np.bool_), blank, blank, codes)
    for some in (block, _sqlite_blocks.joined([block, block]), block.without(np.array([3, 5]))):
        assert some.data.flags.fnc


def test_signs_tell_components_apart() -> None:
    """A score by signs adds up the components of the query where a vector lies above the mean."""
    rows, mean = np.stack(directions(20, dimension=70)), np.full(70, 0.01, np.float32)
    expected = ((rows > mean) * (rows[0] - mean)).sum(axis=1)
    assert sign_scores(sign_bits(rows, mean), rows[0], mean) == pytest.approx(expected, abs=1e-5)


def test_equal_vectors_come_oldest_first_in_blocks_of_any_size() -> None:
    """Among equal scores the oldest are found, also where the limit cuts through them."""
    rows, ids = np.ones((10, 1), np.float32), np.array([9, 3, 7, 1, 5, 0, 8, 2, 6, 4])
    for size in (1, 3, 10):
        blocks = ((ids[i : i + size], rows[i : i + size], None) for i in range(0, 10, size))
        assert [found for found, _ in nearest(blocks, rows[0], 4)] == [0, 1, 2, 3]


def test_a_trial_learns_how_many_rows_are_needed() -> None:
    """Taking as many rows by bits and signs as a trial says finds that share of the neighbours of other rows."""
    rng = np.random.default_rng(5)
    centres = rng.standard_normal((40, 64))
    rows = (centres[rng.integers(0, 40, 4000)] + rng.standard_normal((4000, 64))).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    stored, queries, mean = rows[:3900], rows[3900:], rows.mean(axis=0)
    ids, codes = np.arange(3900), sign_bits(stored, mean)
    trial = Trial(ids[::100], stored[::100], mean)
    for begin in range(0, 3900, 700):
        trial.feed(ids[begin : begin + 700], stored[begin : begin + 700])
    listed, scored = trial.ranks(0.98)
    assert 10 < scored < listed < 3900
    shares = []
    for query in queries:
        truth = {i for i, _ in nearest([(ids, stored, None)], query, 10)}
        seqs, kept = nearest_codes([(ids, codes, None)], sign_bits(query[None], mean)[0], listed)
        best = np.argsort(-sign_scores(kept, query, mean), kind="stable")[:scored]
        shares.append(len(truth & set(seqs[best].tolist())) / 10)
    assert np.mean(shares) > 0.95


def test_a_trial_of_equal_rows_wants_all_that_are_as_near() -> None:
    """Rows that are all the same, and no rows at all, are no trouble."""
    rows = np.full((30, 4), 0.5, np.float32)
    trial = Trial(np.arange(2), rows[:2], rows[0])
    assert trial.ranks(0.98) == (0, 0)
    trial.feed(np.arange(30), rows)
    assert trial.ranks(0.98) == (28, 28)


# Blocks


async def test_small_stores_have_no_codes(small: None, path: Path) -> None:
    """Up to the limit there is nothing to keep; above it blocks of equal size are made, and the rest stays open."""
    async with SQLiteStore(path) as store:
        await fill(store, 8)
        await settle(store)
        assert await table(store, "SELECT (SELECT count(*) FROM codings), (SELECT count(*) FROM code_blocks)") == [
            (0, 0)
        ]
        await fill(store, 7, seed=1)
        await settle(store)
        assert await table(store, "SELECT first, last, size FROM code_blocks") == [(1, 4, 4), (5, 8, 4), (9, 12, 4)]
        assert await store.check() == []


async def test_blocks_are_made_behind_the_writes_and_when_a_file_is_opened(small: None, path: Path) -> None:
    """Nobody asks for the upkeep; what was not done when a store was closed is done when it is opened again."""

    async def made(store: SQLiteStore) -> int:
        for _ in range(10):  # after each of which the writer does a step before it takes the next
            await store._threads.write(lambda _: None)
        return int((await table(store, "SELECT count(*) FROM code_blocks"))[0][0])

    async with SQLiteStore(path) as store:
        await fill(store, 13)
        assert await made(store) == 3
        await store._threads.write(lambda conn: conn.execute("DELETE FROM code_blocks"))
    async with SQLiteStore(path) as store:
        assert await made(store) == 3


async def test_a_trial_is_held_when_nothing_is_written(
    small: None, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody asks for it, and as long as there are writes it waits."""
    ended = threading.Event()
    ranks = Trial.ranks

    def watched(self: Trial, recall: float) -> tuple[int, int]:
        ended.set()
        return ranks(self, recall)

    async with SQLiteStore(path) as store:
        monkeypatch.setattr(_sqlite_threads, "IDLE_S", 1000)
        monkeypatch.setattr(Trial, "ranks", watched)
        await fill(store, 13)
        for _ in range(30):
            await store._threads.write(lambda _: None)
        assert not ended.is_set()
        monkeypatch.setattr(_sqlite_threads, "IDLE_S", 0.001)
        await store._threads.write(lambda _: None)
        assert await asyncio.to_thread(ended.wait, 30)


async def test_optimize_makes_codes_anew(small: None, path: Path) -> None:
    """It drops the blocks and makes them again without the rows that are gone; a small store loses them."""
    async with SQLiteStore(path) as store:
        await fill(store, 20)
        await settle(store)
        for memory in (await store.list(Selection(), limit=100)).items:
            if int(memory.text) % 2:
                await store.delete(memory.id)
        await store.optimize()
        assert await table(store, "SELECT size FROM code_blocks") == [(4,), (4,)]
        assert len(await near(store, ALICE, PROBE, 100)) == 10
        assert await store.check() == []
        assert (await table(store, "SELECT tried_rows FROM codings")) == [(8,)]
        await store.delete_all(Selection(kinds=("turn",)))
        await store.optimize()
        assert await table(store, "SELECT (SELECT count(*) FROM codings), (SELECT count(*) FROM code_blocks)") == [
            (0, 0)
        ]


async def test_a_log_that_grows_long_is_merged(small: None, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log keeps the last changes only; who fell behind reads anew, who did not need not, and all find the same."""
    async with SQLiteStore(path) as store, SQLiteStore(path) as idle:
        await fill(store, 40)
        await settle(store)
        for reader in (store, idle):
            assert len(await near(reader, ALICE, PROBE, 100)) == 40
        loads = watch_loads(monkeypatch)
        memories = (await store.list(Selection(), limit=100)).items
        changed = [*memories[:24:4], *memories[1:24:4], *memories[2:24:4]]  # from six blocks, one after the other
        for gone, memory in enumerate(changed, 1):
            if gone % 2:
                await store.delete(memory.id)
            else:
                await store.update(memory.id, Change(expires_at=LONG_AGO))
                await settle(store)
                assert len(await near(store, ALICE, PROBE, 100)) == 40 - gone
        assert loads == []
        await settle(store)
        assert (await table(store, "SELECT count(*) FROM changes"))[0][0] <= 6
        left = {memory.text for memory in memories if memory not in changed}
        async with SQLiteStore(path) as fresh:
            for reader in (store, idle, fresh):
                assert set(await near(reader, ALICE, PROBE, 100)) == left
        assert await store.check() == []


async def test_a_check_tells_codes_that_do_not_fit(small: None, path: Path) -> None:
    """Codes that somebody spoiled are told, and `optimize` heals them."""
    async with SQLiteStore(path) as store:
        await fill(store, 12)
        await settle(store)
        spoil = "UPDATE code_blocks SET codes = zeroblob(length(codes)) WHERE first = 5"
        await store._threads.write(lambda conn: conn.execute(spoil))
        assert await store.check() == ["the codes of rows 5 to 8 do not fit them; `optimize` makes them anew"]
        await store._threads.write(lambda conn: conn.execute("DELETE FROM code_blocks WHERE first = 5"))
        assert await store.check() == ["some memories have no code, or several; `optimize` makes them anew"]
        await store.optimize()
        assert await store.check() == []


async def test_blocks_that_are_missing_do_not_keep_upkeep_busy(small: None, path: Path) -> None:
    """Also changes of rows that no block is about leave the log in the end."""
    async with SQLiteStore(path) as store:
        await fill(store, 30)
        await settle(store)
        await store._threads.write(lambda conn: conn.execute("DELETE FROM code_blocks WHERE first < 20"))
        await store.delete_all(Selection())
        await settle(store)
        assert (await table(store, "SELECT count(*) FROM changes"))[0][0] <= 6


async def test_upkeep_that_fails_is_done_later(
    small: None, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A step that fails disturbs no caller, leaves nothing half done, and the log says why."""
    step = Upkeep.after_commit
    failures = iter([sqlite3.OperationalError("disk I/O error"), MemoryError(), ValueError("a bug")])

    def failing(self: Upkeep, conn: sqlite3.Connection, *, is_idle: bool) -> bool:
        done = step(self, conn, is_idle=is_idle)
        for failure in failures:
            raise failure
        return done

    monkeypatch.setattr(Upkeep, "after_commit", failing)
    async with SQLiteStore(path) as store:
        for n in range(6):
            await fill(store, 4, seed=n)
        await settle(store)
        assert await table(store, "SELECT size FROM code_blocks") == [(4,)] * 6
        assert await store.check() == []
    assert [reason in caplog.text for reason in ("disk I/O error", "a bug")] == [True, True]


def write_coded(path: str) -> None:
    """Add turns for ever, with codes for every four of them; say how many there are."""

    async def main() -> None:
        async with SQLiteStore(path) as store:
            for n in range(100_000):
                await fill(store, 3, seed=n)
                print(n, flush=True)  # noqa: T201 - the parent waits for it

    with limits():
        asyncio.run(main())


async def test_a_kill_between_writes_and_blocks_loses_nothing(small: None, path: Path) -> None:
    """Killed at any time, over and over, a store has codes that fit, and finds all that was acknowledged."""
    code = f"from stores import test_codes; test_codes.write_coded({str(path)!r})"
    acknowledged = 0
    for lines in (3, 9, 14, 30):
        command = [sys.executable, "-c", code]
        with subprocess.Popen(command, cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE) as process:  # noqa: ASYNC220, S603 - our own interpreter
            assert process.stdout is not None
            for _ in range(lines):
                await asyncio.to_thread(process.stdout.readline)
            process.send_signal(signal.SIGKILL)
        acknowledged += 3 * lines
        async with SQLiteStore(path) as store:
            assert await store.check() == []
            assert len(await near(store, ALICE, PROBE, 10_000)) >= acknowledged


# Searches


async def test_a_large_scope_is_searched_through_codes(
    small: None, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the vectors of rows that codes chose are read; a scope that shrank is searched exactly again."""
    asked: list[str] = []
    async with SQLiteStore(path, readers=1) as store:
        await fill(store, 40)
        await fill(store, 5, scope=BOB)
        await settle(store)
        await near(store, ALICE, PROBE)
        await store._threads.read(lambda conn: conn.set_trace_callback(asked.append))
        expected = await near(store, ALICE, PROBE)
        assert [sql for sql in asked if "embedding FROM json_each" in sql]
        assert not [sql for sql in asked if "FROM memories JOIN vectors" in sql]
        assert len(await near(store, BOB, PROBE)) == 5
        assert await near(store, ALICE, PROBE) == expected
        assert len(await near(store, Scope(), PROBE, 100)) == 45
        for memory in (await store.list(Selection(scope=ALICE), limit=35)).items:
            await store.delete(memory.id)
        for _ in range(3):
            asked.clear()
            assert len(await near(store, ALICE, PROBE)) == 5
        assert not [sql for sql in asked if "embedding FROM json_each" in sql]


async def test_few_rows_among_many_are_found(path: Path) -> None:
    """A scope that has few rows in some blocks, most of others and none of the rest is found as a whole, in order."""
    with limits(BLOCK_ROWS=64):
        async with SQLiteStore(path) as store:
            await fill(store, 150)
            await fill(store, 50, seed=1, scope=BOB)
            await settle(store)
            cosines = np.stack(directions(50, 1)) @ PROBE
            expected = [str(i) for i in np.argsort(-cosines)]
            assert await near(store, BOB, PROBE, 100) == expected
            assert await near(store, BOB, PROBE, 7) == expected[:7]
            few = parse_filters({"text": {"in": ["1", "149", "77"]}})
            assert set(await near(store, ALICE, PROBE, 100, where=few)) == {"1", "149", "77"}


async def test_codes_that_are_missing_are_done_without(
    small: None, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a large store has codes it is searched in its file, with the same answers."""
    monkeypatch.setattr(Upkeep, "after_commit", lambda *_, **__: False)
    async with SQLiteStore(path) as store:
        await fill(store, 30)
        chosen: list[dict[str, Any]] = [
            {},
            {"kinds": ("fact",)},
            {"where": parse_filters({"text": ["3", "17", "29"]})},
            {"as_of": START + timedelta(minutes=9)},
        ]
        before = [await near(store, ALICE, PROBE, 100, **some) for some in chosen]
        assert [len(texts) for texts in before] == [30, 0, 3, 10]
        await settle(store)
        assert [await near(store, ALICE, PROBE, 100, **some) for some in chosen] == before


async def test_concurrent_first_searches_load_the_codes_once(
    small: None, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Searches of a large store that begin together share what one of them loads."""
    async with SQLiteStore(path) as store:
        await fill(store, 40)
        await settle(store)
    loads = watch_loads(monkeypatch)
    async with SQLiteStore(path, readers=4) as store:
        found = await asyncio.gather(*(near(store, scope, PROBE, 100) for scope in [ALICE, Scope()] * 4))
        assert [len(texts) for texts in found] == [40] * 8
    assert loads == [1]


async def test_searches_see_what_was_written_while_others_write(small: None, path: Path) -> None:
    """Searches of two stores find each row from when it was acknowledged until it is deleted, and none twice."""
    async with SQLiteStore(path) as one, SQLiteStore(path) as two:
        await fill(one, 20)
        memories, count = (await one.list(Selection(), limit=100)).items, 20
        for n, memory in enumerate(memories):
            scopes = [ALICE, Scope()] * 3
            changing = asyncio.create_task(one.delete(memory.id) if n % 2 else fill(two, 2, seed=n))
            found = await asyncio.gather(*(near(store, scope, PROBE, 1000) for store in (one, two) for scope in scopes))
            await changing
            before, count = count, count + (-1 if n % 2 else 2)
            assert {len(texts) for texts in found} <= {before, count}


async def test_a_search_is_never_older_than_the_codes(small: None, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was overtaken, after it saw that its scope is large, finds what the codes hold by now."""
    by_codes = _sqlite_dense._by_codes
    waits, goes_on = threading.Event(), threading.Event()

    def slow(search: _sqlite_dense.Search, *args: Any) -> Any:
        if search.limit == 999:
            waits.set()
            goes_on.wait(30)
        return by_codes(search, *args)

    monkeypatch.setattr(_sqlite_dense, "_by_codes", slow)
    async with SQLiteStore(path) as store:
        await fill(store, 20)
        await settle(store)
        overtaken = asyncio.create_task(near(store, ALICE, PROBE, 999))
        await asyncio.to_thread(waits.wait, 30)
        await fill(store, 1, seed=1)
        assert len(await near(store, Scope(), PROBE, 100)) == 21
        goes_on.set()
        assert len(await overtaken) == 21


async def test_neighbours_are_found_by_codes_alone(path: Path) -> None:
    """In a store of some thousands of rows the ten nearest are found, though a fraction is scored exactly."""
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((30, 96))
    rows = (centres[rng.integers(0, 30, 3000)] + rng.standard_normal((3000, 96)) + 0.5).astype(np.float32)
    stored, queries = rows[:2960], rows[2960:] / np.linalg.norm(rows[2960:], axis=1, keepdims=True)
    with limits(EXACT_ROWS=1000, BLOCK_ROWS=512, MEAN_ROWS=500, TRIAL_QUERIES=16, MIN_LISTED=100, MIN_SCORED=20):
        async with SQLiteStore(path) as store:
            turns = [turn(str(n)) for n in range(2960)]
            await store.add_turns(turns, list(stored), model=MODEL)
            await settle(store)
            ((listed, scored),) = await table(store, "SELECT listed, scored FROM codings")
            assert 100 < listed < 1500
            assert 20 < scored < 600
            shares = []
            for query in queries:
                cosines = stored @ query / np.linalg.norm(stored, axis=1)
                truth = {str(i) for i in np.argsort(-cosines)[:10]}
                shares.append(len(truth & set(await near(store, ALICE, query))) / 10)
    assert np.mean(shares) >= 0.98


# The same as a dict


people = st.sampled_from([ALICE, BOB, Scope("alice", "a"), Scope("alice", "a", "1"), Scope(None, "a")])
numbers = st.integers(0, 200)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("add"), people, st.integers(1, 9)),
        st.tuples(st.just("learn"), people, st.sampled_from([None, LONG_AGO, FAR_OFF])),
        st.tuples(st.just("move"), numbers),
        st.tuples(st.just("expire"), numbers, st.sampled_from([None, LONG_AGO, FAR_OFF])),
        st.tuples(st.just("end"), numbers, st.sampled_from([LONG_AGO, FAR_OFF])),
        st.tuples(st.just("delete"), numbers),
        st.tuples(st.just("empty"), people),
        st.tuples(st.just("optimize")),
        st.tuples(st.just("settle")),
    ),
    max_size=40,
)


class Play:
    """Operations on stores of one file in turn, and on a dict."""

    def __init__(self, stores: list[SQLiteStore]) -> None:
        self.stores = stores
        self.model = ModelStore()
        self.count = 0

    async def run(self, script: list[tuple[Any, ...]]) -> None:
        for name, *args in [("add", ALICE, 9), *script, ("add", BOB, 1), *[("settle",)] * 6]:
            self.count += 1
            await getattr(self, name)(self.stores[self.count % len(self.stores)], *args)
            for store in self.stores:
                await self.ask(store, [ALICE, Scope(), BOB, Scope(None, "a")][self.count % 4], 1 + self.count % 30)

    def vector(self) -> Vector:
        return directions(1, seed=self.count)[0]

    def pick(self, number: int, kind: str = "") -> Any:
        memories = [row.memory for row in self.model._rows.values() if row.memory.kind.startswith(kind)]
        return memories[number % len(memories)] if memories else None

    async def add(self, store: SQLiteStore, scope: Scope, count: int) -> None:
        turns = [turn(str(self.count), scope, minute=self.count) for _ in range(count)]
        vectors = directions(count, self.count)
        for each in (store, self.model):
            await each.add_turns(turns, vectors, model=MODEL)

    async def learn(self, store: SQLiteStore, scope: Scope, valid_to: datetime | None) -> None:
        known, vector = fact(str(self.count), scope, valid_to=valid_to), self.vector()
        for each in (store, self.model):
            await learn(each, known, vector=vector)

    async def move(self, store: SQLiteStore, number: int) -> None:
        await self.change(store, number, Change(text="moved"), vector=self.vector())

    async def expire(self, store: SQLiteStore, number: int, at: datetime | None) -> None:
        await self.change(store, number, Change(expires_at=at))

    async def change(self, store: SQLiteStore, number: int, change: Change, vector: Vector | None = None) -> None:
        if memory := self.pick(number):
            for each in (store, self.model):
                await each.update(memory.id, change, vector=vector, model=MODEL)

    async def end(self, store: SQLiteStore, number: int, at: datetime) -> None:
        if memory := self.pick(number, "fact"):
            for each in (store, self.model):
                await each.supersede([Supersession(fact_id=memory.id, valid_to=at)])

    async def delete(self, store: SQLiteStore, number: int) -> None:
        if memory := self.pick(number):
            for each in (store, self.model):
                await each.delete(memory.id)

    async def empty(self, store: SQLiteStore, scope: Scope) -> None:
        for each in (store, self.model):
            await each.delete_all(Selection(scope=scope))

    async def optimize(self, store: SQLiteStore) -> None:
        await store.optimize()

    async def settle(self, store: SQLiteStore) -> None:
        await settle(store)

    async def ask(self, store: SQLiteStore, scope: Scope, limit: int) -> None:
        chosen: list[dict[str, Any]] = [
            {},
            {},
            {},
            {"kinds": ("fact",)},
            {"everything": True},
            {"as_of": START + timedelta(minutes=self.count // 2)},
            {"as_of": FAR_OFF},
            {"where": parse_filters({"text": {"gt": "2"}})},
        ]
        selection, vector = Selection(scope=scope, **chosen[self.count % 8]), self.vector()
        found = await store.dense_candidates(selection, vector, model=MODEL, limit=limit)
        expected = await self.model.dense_candidates(selection, vector, model=MODEL, limit=limit)
        assert [c.memory.id for c in found] == [c.memory.id for c in expected]
        assert [c.score for c in found] == pytest.approx([c.score for c in expected], abs=1e-5)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(script=operations, cache_bytes=st.sampled_from([0, 3_000, 1 << 20]))
def test_a_large_store_does_what_a_dict_does(
    tmp_path_factory: pytest.TempPathFactory, script: list[tuple[Any, ...]], cache_bytes: int
) -> None:
    """Two stores that take turns on one large file find what looking through all finds, with caches of any size."""
    path = tmp_path_factory.mktemp("codes") / "memory.db"

    async def main() -> None:
        async with (
            SQLiteStore(path, cache_bytes=cache_bytes) as one,
            SQLiteStore(path, readers=1, cache_bytes=cache_bytes) as two,
        ):
            await Play([one, two]).run(script)
            assert await one.check() == []

    with limits():
        asyncio.run(main())


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(script=operations)
def test_a_large_store_in_memory_does_what_a_dict_does(script: list[tuple[Any, ...]]) -> None:
    """The same without a file, where one connection does all."""

    async def main() -> None:
        async with SQLiteStore(None) as store:
            await Play([store]).run(script)
            assert await store.check() == []

    with limits():
        asyncio.run(main())
