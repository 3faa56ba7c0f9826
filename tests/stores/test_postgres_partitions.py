"""A schema of PostgreSQL whose memories and events are split by a hash of their user."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ollama_async_mem.errors import RecordNotFound, StoreError
from ollama_async_mem.records import Change, Fact, Reinforcement, Scope, Selection, Supersession
from ollama_async_mem.stores import _postgres_admin as admin
from ollama_async_mem.stores import _postgres_events as events
from ollama_async_mem.stores import _postgres_reads as reads
from ollama_async_mem.stores import _postgres_search as search
from ollama_async_mem.stores import _postgres_writes as writes
from ollama_async_mem.stores import open_store
from ollama_async_mem.stores._postgres_events import Why
from ollama_async_mem.stores.postgres import PostgresStore
from stores.databases import database_name, execute, explained
from stores.samples import ALICE, BOB, DIMENSION, MODEL, START, about, add, axis, fact, learn, near, turn
from stores.test_isolation import test_users_do_not_see_each_other  # noqa: F401 - with the stores of this module
from stores.test_model import test_stores_do_what_the_model_does  # noqa: F401 - as above

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from ollama_async_mem.ports import MemoryStore

PARTS = 4
USERS = [Scope(f"u{n}") for n in range(12)]


@pytest.fixture
def make_store(postgres_url: str) -> Iterator[Callable[[], MemoryStore]]:
    """A factory of stores whose tables are split."""
    schema = f"test_parts_{os.getpid()}"
    yield lambda: PostgresStore(postgres_url, schema=schema, partitions=PARTS)
    asyncio.run(execute(postgres_url, f"DROP SCHEMA {schema} CASCADE"))


# What is looked into

said, known = turn("peanut", at=START), fact("peanut known")
now, why = START, Why(START)
ends = [Supersession(fact_id=known.id, valid_to=START)]
again = [Reinforcement(fact_id=known.id, turn_ids=(said.id,), at=START)]
everybody, hers = Selection(), Selection(scope=ALICE)
CALLS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "dense": lambda c: search._exactly(c, hers, axis(1), 5, now),
    "keywords": lambda c: search._ranked(c, hers, ["peanut"], 5, now),
    "frequent keywords": lambda c: search._filled(c, hers, ["peanut"], [], limit=5, now=now),
    "list": lambda c: reads.list_page(c, hers, limit=5, cursor=None, sort="-at", now=now),
    "counts": lambda c: reads.count(c, ALICE),
    "get": lambda c: reads.get(c, said.id),
    "neighbours": lambda c: reads.neighbours(c, [said.id], 1, 1, now),
    "history": lambda c: events.history(c, said.id),
    "update": lambda c: writes.update(c, said.id, Change(metadata={"a": 1}), None, model=MODEL, why=why, where=""),
    "supersede": lambda c: writes.supersede(c, ends, why),
    "reinforce": lambda c: writes.reinforce(c, again, why),
}


async def test_calls_of_one_user_look_into_one_partition(database: str) -> None:
    """Whether the user is named or only an id of theirs; what names neither looks into all."""
    async with open_store(f"{database}&partitions={PARTS}") as store:
        for scope in (ALICE, *USERS):
            await add(store, *(turn(f"peanut {n}", scope) for n in range(20)))
        await add(store, said)
        await learn(store, known)
        await store.update(said.id, Change(metadata={"b": 1}))
        sql = "SELECT tableoid::regclass::text FROM ollama_async_mem.memories WHERE user_id = 'alice' LIMIT 1"
        own = int((await execute(database, sql))[0][0].rpartition("_")[2])
        assert {name: (await explained(store, call)).parts for name, call in CALLS.items()} == {n: {own} for n in CALLS}
        whole = await explained(store, lambda c: search._exactly(c, everybody, axis(1), 5, now))
        assert whole.parts == set(range(PARTS))
        changed = await store.get(known.id)
        assert isinstance(changed, Fact)
        assert (changed.valid_to, changed.turn_ids) == (START, (said.id,))


async def test_every_part_holds_its_vectors_in_its_rows(database: str) -> None:
    """What makes scans fast is set for each partition, and each user is in one of them."""
    async with open_store(f"{database}&partitions={PARTS}") as store:
        await add(store, *(turn("peanut", scope) for scope in USERS * 2))
    sql = """
        SELECT relname, reloptions, attstorage FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
        WHERE attname = 'embedding' AND relkind = 'r' ORDER BY relname
    """
    found = [(row[0], row[1], row[2]) for row in await execute(database, sql)]
    assert found == [(f"memories_{n}", ["toast_tuple_target=8160"], b"m") for n in range(PARTS)]
    counted = "SELECT count(DISTINCT tableoid), count(*) FROM ollama_async_mem.memories GROUP BY user_id"
    assert {tuple(row) for row in await execute(database, counted)} == {(1, 2)}
    sql = "SELECT count(DISTINCT tableoid) FROM ollama_async_mem.memories"
    assert (await execute(database, sql))[0][0] > 1


async def test_a_schema_keeps_its_partitions(database: str) -> None:
    """What is asked for later changes nothing of a schema that is there."""
    async with open_store(f"{database}&partitions=3") as store:
        await add(store, turn("peanut"))
    async with PostgresStore(database, partitions=8) as store:
        assert await about(store, ALICE, "peanut") == ["peanut"]
        assert await store.check() == []
    sql = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'ollama_async_mem.memories'::regclass"
    assert (await execute(database, sql))[0][0] == 3


async def test_the_index_of_vectors_is_one_of_each_part(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`optimize` builds it, goes on with one that was left incomplete, and drops it; searches make use of it."""
    monkeypatch.setattr(search, "EXACT_ROWS", 100)
    monkeypatch.setattr(admin, "EXACT_ROWS", 100)
    name = database_name(database)  # for so few rows the planner would rather sort them all
    await execute(database, *(f"ALTER DATABASE {name} SET enable_{way} = off" for way in ("sort", "seqscan")))
    rows = np.random.default_rng(1).standard_normal((2_000, DIMENSION)).astype(np.float32)
    async with open_store(f"{database}&partitions={PARTS}") as store:
        turns = [turn(str(n), ALICE if n % 2 else BOB) for n in range(len(rows))]
        await store.add_turns(turns, list(rows), model=MODEL)
        exact = [await near(store, scope, row) for scope in (ALICE, BOB, Scope()) for row in rows[:10]]
        vectors = "ollama_async_mem.memories_by_vector"
        await execute(
            database,
            "SET search_path = ollama_async_mem, public",
            f"CREATE INDEX memories_by_vector ON ONLY memories USING hnsw ((embedding::halfvec({DIMENSION})) "
            "halfvec_ip_ops)",
            f"CREATE INDEX memories_by_vector_2 ON memories_2 USING hnsw ((embedding::halfvec({DIMENSION})) "
            "halfvec_ip_ops)",
        )
        assert await store.check() == ["the index memories_by_vector is not complete"]
        await store.optimize()
        assert await store.check() == []
        found = [await near(store, scope, row) for scope in (ALICE, BOB, Scope()) for row in rows[:10]]
        shared = sum(len(set(a) & set(b)) for a, b in zip(exact, found, strict=True))
        assert shared >= 0.95 * sum(map(len, exact))
        done = await explained(store, lambda c: search._by_index(c, hers, axis(1), 5, now))
        assert "using memories_by_vector_" in done.plans
        assert len(done.parts) == 1
        await store.delete_all(Selection(scope=BOB))
        await store.delete_all(Selection(scope=ALICE))
        await store.optimize()
        assert (await execute(database, f"SELECT to_regclass('{vectors}')"))[0][0] is None
        assert (await execute(database, f"SELECT to_regclass('{vectors}_2')"))[0][0] is None


async def test_an_id_that_goes_to_another_user_keeps_its_past(database: str) -> None:
    """It is free once its memory was deleted, and its history has all its lives, in whatever partitions they were."""
    scopes = [USERS[0], USERS[1], USERS[0], USERS[2], USERS[3]]
    async with open_store(f"{database}&partitions={PARTS}") as store:
        for scope in scopes:
            await add(store, turn("peanut", scope, id="same"))
            with pytest.raises(StoreError, match="'same' is already stored"):
                await add(store, turn("walnut", USERS[5], id="same"))
            await store.update("same", Change(metadata={"a": 1}))
            assert (await store.get("same")).scope == scope
            await store.delete("same")
            with pytest.raises(RecordNotFound):
                await store.delete("same")
        assert [event.kind for event in await store.history("same")] == ["added", "updated", "deleted"] * len(scopes)
        assert await store.check() == []
