"""What several stores and processes do in one schema of PostgreSQL at the same time: jobs, loads, and dumps of much."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg

from ollama_async_mem.counts import Counts
from ollama_async_mem.records import EmbeddingSpace, Job, Scope, Selection, StoredJob, StoredMemory, new_id
from ollama_async_mem.stores import _postgres_jobs, _postgres_transfer, _postgres_writes, open_store
from ollama_async_mem.stores.postgres import PostgresStore
from stores.databases import somebody_waits
from stores.files import claim_all, run_python
from stores.samples import ALICE, BOB, DIMENSION, LEASE, MODEL, START, add, axis, claim, fact, learn, turn

if TYPE_CHECKING:
    import pytest

    from ollama_async_mem.records import MemoryRecord

# Jobs


async def test_two_processes_share_the_jobs(database: str) -> None:
    """Each job is claimed by one of the processes that ask at the same time."""
    async with open_store(database) as store:
        queued = [await add(store, turn(str(i), Scope(str(i))), extract=True) for i in range(40)]
        processes = [run_python(claim_all, database) for _ in range(3)]
        answers = await asyncio.gather(*(asyncio.to_thread(process.communicate) for process in processes))
        claimed = [job for out, _ in answers for job in out.split()]
        assert sorted(claimed) == sorted(str(job) for job in queued)
        assert [process.returncode for process in processes] == [0, 0, 0]


async def test_a_scope_is_worked_off_by_one_at_a_time(database: str) -> None:
    """However many ask at the same time, they get jobs of different scopes, none of one that somebody holds."""
    scopes = [Scope("alice", None, str(n)) for n in range(4)]
    askers = [PostgresStore(database, connections=2) for _ in range(6)]
    await asyncio.gather(*(asker.__aenter__() for asker in askers))
    for n in range(60):
        await add(askers[0], turn(str(n), scopes[n % 4]), extract=True)
    held: dict[Scope, list[Job]] = {}
    done: list[str] = []
    while len(done) < 60:
        claims = await asyncio.gather(*(asker.claim_jobs(now=START, lease=LEASE, limit=2) for asker in askers))
        for jobs in filter(None, claims):
            assert {job.scope for job in jobs} == {jobs[0].scope}
            assert jobs[0].scope not in held
            held[jobs[0].scope] = jobs
        for jobs in [held.pop(scope) for scope in list(held)[:2]]:
            assert await askers[0].finish_jobs(jobs, [], [], model=MODEL)
            done += [job.id for job in jobs]
    await asyncio.gather(*(asker.__aexit__() for asker in askers))
    assert len(set(done)) == 60


async def test_jobs_of_a_claim_that_is_not_committed_are_nobodys(database: str) -> None:
    """While somebody is just claiming jobs of a scope, others get those of the next one and no others of the first."""
    async with open_store(database) as store:
        for scope in (ALICE, ALICE, BOB):
            await add(store, turn(scope=scope), extract=True)
        other = await asyncpg.connect(database)
        await other.execute("SET search_path = ollama_async_mem; BEGIN")
        (first,) = await _postgres_jobs.claim(other, START, LEASE, 1)
        assert first.scope == ALICE
        assert (await claim(store)).scope == BOB
        assert await store.claim_jobs(now=START, lease=LEASE, limit=9) == []
        await other.execute("ROLLBACK")
        await other.close()
        assert len(await store.claim_jobs(now=START, lease=LEASE, limit=9)) == 2


# Loading


async def test_two_who_load_the_same_do_not_fail_each_other(database: str) -> None:
    """What one is just storing the other waits for and leaves out; both counts together are that of the memories."""
    said = [turn(f"peanut {n}", scope) for n in range(30) for scope in (ALICE, BOB)]
    known = [fact(f"cashew {n}", said[n].scope, turn_ids=(said[n].id,)) for n in range(30)]
    memories: list[MemoryRecord] = [*said, *known]
    stored = [StoredMemory(memory=one, vector=axis(1).tobytes()) for one in memories]
    jobs = [StoredJob(id=new_id(), scope=one.scope, turn_ids=(one.id,)) for one in said[-5:]]
    space = EmbeddingSpace(MODEL, DIMENSION)
    async with open_store(database) as one, open_store(database) as other:
        loads = (store.load(part, jobs, space=space) for store in (one, other) for part in (stored, stored[::-1]))
        assert sum(await asyncio.gather(*loads)) == 90
        assert await one.counts(Scope()) == Counts(60, 30)
        assert await one.pending_jobs() == 5
        assert await one.check() == []


async def test_a_load_waits_for_one_that_may_fail(database: str) -> None:
    """Ids that somebody is just taking are taken by the other where that fails, and left out where it does not."""
    stored = [StoredMemory(memory=turn("peanut"), vector=axis(1).tobytes())]
    space = EmbeddingSpace(MODEL, DIMENSION)
    async with open_store(database) as store:
        for end, count in (("ROLLBACK", 1), ("COMMIT", 0)):
            await store.delete_all(Selection())
            async with asyncpg.create_pool(database, min_size=1, max_size=1) as pool, pool.acquire() as other:
                await other.execute("SET search_path = ollama_async_mem; BEGIN")
                assert await _postgres_writes.take_ids(other, {stored[0].memory.id: "alice"}) == {stored[0].memory.id}
                load = asyncio.create_task(store.load(stored, space=space))
                await somebody_waits(database)
                await other.execute(end)
                assert await load == count


async def test_a_page_of_a_dump_ends_where_it_gets_large(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No page has much more text than it may, one memory is always in it, and nothing is left out."""
    monkeypatch.setattr(_postgres_transfer, "PAGE_BYTES", 1000)
    lengths = [1, 500, 300, 200, 5000, 1, 2000, 3000, 999, 1]
    async with open_store(database) as store:
        await add(store, *(turn("x" * length, minute=n) for n, length in enumerate(lengths)))
        await learn(store, fact("y" * 400), fact("y" * 700))
        pages: list[list[int]] = []
        cursor = None
        while cursor is not None or not pages:
            stored, cursor = await store.dump(Scope(), limit=3, cursor=cursor)
            pages.append([len(one.memory.text) for one in stored])
    assert [sorted(page) for page in pages[:-1]] == [[1, 300, 500], [200], [5000], [1], [2000], [3000], [1, 999], [400]]
    assert pages[-1] == [700]
