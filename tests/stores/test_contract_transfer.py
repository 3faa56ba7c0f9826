"""What every store gives to others and takes from them: dump, load and backup; and that it can tell it is sound."""

from __future__ import annotations

from datetime import timedelta, timezone
from typing import TYPE_CHECKING

import numpy as np
import pytest
from msgspec.structs import replace

from ollama_async_mem.counts import Counts
from ollama_async_mem.errors import ConfigError, EmbeddingMismatch, StoreError
from ollama_async_mem.filters import parse_filters
from ollama_async_mem.records import (
    Change,
    EmbeddingSpace,
    Fact,
    Reinforcement,
    Scope,
    Selection,
    StoredJob,
    StoredMemory,
    Supersession,
    new_id,
)
from ollama_async_mem.stores import open_store
from stores.samples import (
    ALICE,
    BOB,
    DATES,
    DIMENSION,
    FAR_OFF,
    LEASE,
    LONG_AGO,
    MODEL,
    START,
    about,
    add,
    axis,
    claim,
    dump_all,
    everything,
    fact,
    learn,
    turn,
)

if TYPE_CHECKING:
    from pathlib import Path

    from ollama_async_mem.ports import MemoryStore
    from stores.samples import MakeStore

SPACE = EmbeddingSpace(MODEL, DIMENSION)


async def fill(store: MemoryStore) -> None:
    """Memories of every kind, in many states, with histories and jobs."""
    rng = np.random.default_rng(3)
    scopes = [ALICE, BOB, Scope(), Scope("alice", "a\ud800"), Scope("'", None, "\0")]
    said = [
        turn(f"peanut {i} \0 花", scope, minute=i, speaker="Zoë", dates=DATES[:i]) for i, scope in enumerate(scopes * 3)
    ]
    said.append(turn("expired", expires_at=LONG_AGO, metadata={"a\0": [1.5, None, {"b": "\0"}]}))
    said.append(turn("elsewhere", at=START.astimezone(timezone(timedelta(hours=-5)))))
    vectors = [rng.standard_normal(DIMENSION).astype(np.float32) for _ in said]
    await store.add_turns(said, vectors, model=MODEL)
    old, new = fact("old", turn_ids=(said[5].id, said[0].id)), fact("new", turn_ids=(said[0].id,), quote="\0")
    await learn(store, old, new, fact("bob's", BOB), vector=rng.standard_normal(DIMENSION).astype(np.float32))
    await store.update(said[10].id, Change(text="walnut"), vector=axis(1, 2, 3), model=MODEL, actor="Zoë")
    await store.update(said[10].id, Change(metadata={"a": 1}), cause="\0")
    await store.supersede([Supersession(fact_id=old.id, valid_to=LONG_AGO, by=new.id, cause="so")], actor="me")
    await store.delete(said[2].id, cause="asked")
    await add(store, turn("again"), extract=True)
    again = [Reinforcement(fact_id=new.id, turn_ids=(said[5].id,), at=START, cause="said again")]
    await store.finish_jobs([await claim(store)], [], [], model=MODEL, reinforced=again)
    for i in range(4):
        await add(store, turn(f"job {i}", (ALICE, BOB)[i % 2]), turn("more", (ALICE, BOB)[i % 2]), extract=True)
    await store.release_jobs([await claim(store)], error="hopeless \0", retry_at=None)
    await store.release_jobs([await claim(store)], error="model away", retry_at=START + 99 * LEASE)
    await claim(store)


async def copy(source: MemoryStore, target: MemoryStore, scope: Scope = ALICE, limit: int = 100) -> int:
    """Load a dump in pages; returns how many memories were new."""
    cursor, new = None, 0
    while True:
        page, cursor = await source.dump(scope, limit=limit, cursor=cursor)
        new += await target.load(page, space=SPACE)
        if cursor is None:
            break
    assert await target.load([], await source.dump_jobs(scope), space=SPACE) == 0
    return new


def by_id(stored: list[StoredMemory]) -> dict[str, StoredMemory]:
    """Dumped memories, whatever their order; each is there once."""
    found = {one.memory.id: one for one in stored}
    assert len(found) == len(stored)
    return found


async def scores(store: MemoryStore, scope: Scope) -> dict[str, float]:
    """How near each memory of a scope is to something."""
    selection = Selection(scope=scope, everything=True)
    return {c.memory.id: c.score for c in await store.dense_candidates(selection, axis(1, 2), model=MODEL, limit=100)}


async def assert_same(one: MemoryStore, other: MemoryStore, scope: Scope) -> None:
    """Two stores hold the same of a scope, and find the same."""
    assert by_id(await dump_all(one, scope)) == by_id(await dump_all(other, scope))
    assert await one.dump_jobs(scope) == await other.dump_jobs(scope)
    assert await one.counts(scope) == await other.counts(scope)
    assert await one.scopes(scope, limit=99) == await other.scopes(scope, limit=99)
    assert await everything(one, scope) == await everything(other, scope)
    for stored in await dump_all(one, scope):
        assert await one.history(stored.memory.id) == await other.history(stored.memory.id)
    assert await scores(one, scope) == pytest.approx(await scores(other, scope), abs=1e-6)
    for word in ("peanut", "walnut", "花", "Zoë"):
        assert set(await about(one, scope, word, 100)) == set(await about(other, scope, word, 100))


@pytest.mark.parametrize(("scope", "limit"), [(Scope(), 1), (Scope(), 1000), (ALICE, 3)])
async def test_a_dump_goes_to_any_other_store(make_store: MakeStore, scope: Scope, limit: int) -> None:
    """Whatever is read from a store can be written to one in memory, vectors bit by bit, histories and jobs."""
    async with make_store() as store, open_store("sqlite://") as other:
        await fill(store)
        assert await copy(store, other, scope, limit) == len(await dump_all(store, scope))
        await assert_same(store, other, scope)
        assert await other.embedding_space() == SPACE
        assert await other.check() == []
        if scope == ALICE:
            assert await other.counts(BOB) == Counts(0, 0)


async def test_a_dump_comes_from_any_other_store(make_store: MakeStore) -> None:
    """Whatever a store in memory holds can be written to this one, where it goes on living."""
    async with make_store() as store, open_store("sqlite://") as other:
        await fill(other)
        await copy(other, store, Scope(), 4)
        await assert_same(other, store, Scope())
        assert await store.check() == []
        for job in await store.dump_jobs(Scope()):
            status = await store.job_status(job.id)
            assert status
            assert (status.state, status.attempts, status.error) == (job.state, job.attempts, job.error)
        with pytest.raises(EmbeddingMismatch):
            await store.add_turns([turn()], [axis(1)], model="other")
        assert await store.delete_all(Selection(scope=BOB, everything=True)) == len(await everything(other, BOB))
        (known,) = [f for f in (await store.list(Selection(kinds=("fact",)), limit=9)).items if f.text == "new"]
        assert isinstance(known, Fact)
        first, second = known.turn_ids
        await store.delete(first)
        assert await store.get(known.id) == replace(known, turn_ids=(second,))


async def test_facts_come_after_their_turns(make_store: MakeStore) -> None:
    """A dump that is cut anywhere has the turns of each fact that it has, and its links are kept when it is loaded."""
    said = [turn(str(i), minute=-i) for i in range(6)]
    known = [fact(f"fact {i}", at=LONG_AGO, created_at=LONG_AGO, turn_ids=(said[i].id, said[0].id)) for i in range(6)]
    async with make_store() as store, open_store("sqlite://") as other:
        for i in (3, 1, 4, 0, 2, 5):
            await add(store, said[i])
        await learn(store, *known)
        await add(store, turn("later"))
        seen: set[str] = set()
        for stored in await dump_all(store, ALICE, limit=2):
            sources = stored.memory.turn_ids if isinstance(stored.memory, Fact) else ()
            assert seen >= set(sources)
            seen.add(stored.memory.id)
        await copy(store, other, ALICE, limit=1)
        assert await other.get_many([f.id for f in known]) == known


async def test_a_dump_is_not_disturbed(make_store: MakeStore) -> None:
    """What stays while a dump is read is in it once, whatever is added, changed and deleted meanwhile."""
    said = [turn(str(i)) for i in range(12)]
    async with make_store() as store:
        await add(store, *said)
        page, cursor = await store.dump(ALICE, limit=3)
        stored = list(page)
        while cursor is not None and len(stored) < 100:
            await store.delete(page[-1].memory.id)
            await store.update(said[10].id, Change(metadata={"n": len(stored)}))
            if len(stored) < 9:
                await add(store, turn("new"))
            page, cursor = await store.dump(ALICE, limit=3, cursor=cursor)
            stored += page
        shown = [one.memory.text for one in stored]
    assert [text for text in shown if text != "new"] == [str(i) for i in range(12)]


async def test_loading_again_changes_nothing(make_store: MakeStore) -> None:
    """What is there is left as it is, in part or as a whole, also when it has changed since; only the rest is new."""
    async with make_store() as store, open_store("sqlite://") as other:
        await fill(other)
        stored, jobs = await dump_all(other), await other.dump_jobs(Scope())
        assert await store.load([*stored[:7], stored[0]], [jobs[0], jobs[0]], space=SPACE) == 7
        changed = await store.update(stored[0].memory.id, Change(text="changed"), vector=axis(1), model=MODEL)
        assert await store.load(stored[5:], jobs, space=SPACE) == len(stored) - 7
        assert await store.load(stored, jobs, space=SPACE) == 0
        assert await store.get(changed.id) == changed
        assert by_id(await dump_all(store)) | {changed.id: stored[0]} == by_id(stored)
        assert [job.id for job in await store.dump_jobs(Scope())] == [job.id for job in jobs]
        assert await store.check() == []


async def test_a_dumped_job_is_worked_off_elsewhere(make_store: MakeStore) -> None:
    """Jobs come oldest first, those that nobody gave up are due, and they count on from where they were."""
    async with make_store() as store, open_store("sqlite://") as other:
        await fill(store)
        jobs: list[StoredJob] = await store.dump_jobs(Scope())
        assert [(job.state, job.attempts, job.error) for job in jobs] == [
            ("dead", 1, "hopeless \0"),
            ("queued", 1, "model away"),
            ("queued", 1, None),
            ("queued", 0, None),
        ]
        assert await store.dump_jobs(BOB) == [job for job in jobs if job.scope == BOB]
        await copy(store, other, Scope())
        for job in jobs[1:]:
            claimed = await claim(other)
            assert (claimed.id, claimed.scope, claimed.turn_ids) == (job.id, job.scope, job.turn_ids)
            assert claimed.attempts == job.attempts + 1
            await other.finish_jobs([claimed], [], [], model=MODEL)
        assert await other.revive_jobs() == 1
        assert (await claim(other)).id == jobs[0].id


async def test_links_to_what_is_not_there_are_left_out(make_store: MakeStore) -> None:
    """A fact or a job comes without those of its turns that were not loaded; a job without any turn does not come."""
    async with make_store() as store, open_store("sqlite://") as other:
        await fill(other)
        stored, jobs = by_id(await dump_all(other)), await other.dump_jobs(Scope())
        facts = [one.memory for one in stored.values() if isinstance(one.memory, Fact)]
        assert await store.load([stored[fact.id] for fact in facts], jobs, space=SPACE) == len(facts)
        assert await store.get_many([fact.id for fact in facts]) == [replace(fact, turn_ids=()) for fact in facts]
        assert await store.dump_jobs(Scope()) == []
        last = jobs[0].turn_ids[1:]
        assert await store.load([stored[turn_id] for turn_id in last], jobs[:2], space=SPACE) == 1
        assert await store.dump_jobs(Scope()) == [replace(jobs[0], turn_ids=last)]
        assert await store.check() == []


async def test_a_job_that_was_done_does_not_come_back(make_store: MakeStore) -> None:
    """When the same dump is loaded once more, a job that was finished meanwhile is not queued again."""
    async with make_store() as store, open_store("sqlite://") as other:
        await add(other, turn("cashew"), extract=True)
        stored, jobs = await dump_all(other), await other.dump_jobs(Scope())
        await store.load(stored, jobs, space=SPACE)
        known = fact("peanut", turn_ids=(stored[0].memory.id,))
        await store.finish_jobs([await claim(store)], [known], [axis(1)], model=MODEL)
        assert await store.load(stored, jobs, space=SPACE) == 0
        assert await store.pending_jobs() == 0
        assert await store.check() == []


@pytest.mark.parametrize("job_id", ["zzz", "ffffffff-ffff-7fff-bfff-ffffffffffff"])
async def test_odd_ids_of_jobs_say_nothing_of_others(make_store: MakeStore, job_id: str) -> None:
    """A job that was loaded with an id that none of ours has yet is worked off; others are not taken for finished."""
    said = turn()
    async with make_store() as store:
        job = StoredJob(id=job_id, scope=ALICE, turn_ids=(said.id,))
        await store.load([StoredMemory(memory=said, vector=axis(1).tobytes())], [job], space=SPACE)
        await store.finish_jobs([await claim(store)], [], [], model=MODEL)
        assert await store.pending_jobs() == 0
        with pytest.raises(StoreError, match="no job"):
            await store.job_status(new_id())


async def test_what_cannot_be_loaded_changes_nothing(make_store: MakeStore) -> None:
    """One memory that cannot be stored, or vectors of another space, and nothing of the call is stored."""
    async with make_store() as store, open_store("sqlite://") as other:
        await add(other, turn("a"), turn("b"))
        first, second = await dump_all(other)
        for vector in (b"", b"x", second.vector[:-4], bytes(len(second.vector)), np.full(8, np.nan, "<f4").tobytes()):
            with pytest.raises((StoreError, EmbeddingMismatch)):
                await store.load([first, replace(second, vector=vector)], space=SPACE)
        with pytest.raises(StoreError):
            await store.load([first, replace(second, memory=replace(second.memory, id="\ud800"))], space=SPACE)
        assert await store.counts(Scope()) == Counts(0, 0)
        await add(store, turn("c"))
        for space, longer in ((EmbeddingSpace("other", DIMENSION), b""), (EmbeddingSpace(MODEL, 9), bytes(4))):
            with pytest.raises(EmbeddingMismatch):
                await store.load([replace(first, vector=first.vector + longer)], space=space)
        assert await everything(store, Scope()) == ["c"]


async def test_an_empty_dump(make_store: MakeStore) -> None:
    """Nothing is dumped of a scope that was never seen, and loading nothing is no error."""
    async with make_store() as store:
        assert await store.dump(Scope("nobody"), limit=5) == ([], None)
        assert await store.dump_jobs(Scope("nobody")) == []
        assert await store.load([], space=SPACE) == 0
        with pytest.raises(ConfigError, match="limit"):
            await store.dump(Scope(), limit=0)


# Backup, optimize, check


async def test_a_backup_is_a_store(make_store: MakeStore, tmp_path: Path) -> None:
    """A copy holds all there was, and never takes the place of a file; or the error names the tool that makes one."""
    path = tmp_path / "copy.db"
    async with make_store() as store:
        await fill(store)
        try:
            await store.backup(str(path))
        except StoreError as exc:
            assert "pg_dump" in str(exc)
            return
        async with open_store(path, create=False) as copied:
            await assert_same(store, copied, Scope())
            assert await copied.check() == []
            await add(copied, turn("goes on"))
        size = path.stat().st_size
        for taken in (str(path), str(tmp_path), str(tmp_path / "nowhere" / "copy.db"), "\0"):
            with pytest.raises((StoreError, ConfigError)):
                await store.backup(taken)
        assert path.stat().st_size == size


async def test_optimize_changes_nothing_that_is_seen(make_store: MakeStore) -> None:
    """After it all is as before, in an empty store and in one that was emptied too; and a good store is good."""
    async with make_store() as store, open_store("sqlite://") as other:
        await store.optimize()
        assert await store.check() == []
        await fill(store)
        await copy(store, other, Scope())
        await store.optimize()
        await assert_same(store, other, Scope())
        assert await store.check() == []
        await store.delete_all(Selection(everything=True, where=parse_filters({"expires_at": {"lt": FAR_OFF}})))
        await store.delete_all(Selection(everything=True))
        await store.optimize()
        assert await store.counts(Scope()) == Counts(0, 0)
        assert await store.check() == []
