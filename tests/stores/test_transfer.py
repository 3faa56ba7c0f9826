"""Copying memories from store to store: all at once, stopped in the middle, and while others write."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from msgspec.structs import replace

from ollama_async_mem.counts import Counts
from ollama_async_mem.errors import ConfigError, EmbeddingMismatch, StoreError
from ollama_async_mem.filters import parse_filters
from ollama_async_mem.records import Change, EmbeddingSpace, MemoryRecord, Scope, Selection, Supersession, Turn
from ollama_async_mem.stores import _sqlite_transfer, open_store, transfer
from ollama_async_mem.stores.transfer import CopyReport, copy_store, export_lines, import_lines
from stores.samples import (
    ALICE,
    BOB,
    DIMENSION,
    LEASE,
    LONG_AGO,
    MODEL,
    START,
    add,
    axis,
    claim,
    dump_all,
    everything,
    fact,
    learn,
    turn,
)
from stores.test_contract_lifetime import cancelled_at
from stores.test_contract_transfer import assert_same, by_id, fill

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence
    from pathlib import Path

    from pytest import MonkeyPatch  # noqa: PT013

    from ollama_async_mem.ports import MemoryStore
    from ollama_async_mem.records import StoredMemory
    from stores.samples import MakeStore, Vector

SPACE = EmbeddingSpace(MODEL, DIMENSION)
OTHER_SPACE = EmbeddingSpace("other", 2)


async def stream(lines: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Lines as a file gives them."""
    for line in lines:
        yield line


async def exported(store: MemoryStore, scope: Scope = Scope(), batch: int = 4) -> list[bytes]:  # noqa: B008 - frozen
    """All lines of a scope."""
    return [line async for line in export_lines(store, scope, batch=batch)]


async def imported(store: MemoryStore, lines: Iterable[bytes], **options: Any) -> CopyReport:
    """Store lines, two in a batch."""
    return await import_lines(store, stream(lines), batch=2, **options)


async def a_few(store: MemoryStore, count: int = 5) -> list[Turn]:
    """Add some turns, and a job for the last two."""
    said = [turn(f"peanut {i}", minute=i) for i in range(count)]
    await add(store, *said[:-2])
    await add(store, *said[-2:], extract=True)
    return said


# From store to store


@pytest.mark.parametrize(("scope", "batch"), [(Scope(), 1), (Scope(), 500), (ALICE, 4)])
async def test_there_and_back_everything_is_the_same(make_store: MakeStore, scope: Scope, batch: int) -> None:
    """A copy of a copy by way of another kind of store has all of a scope, with hostile texts, and nothing else."""
    async with open_store("sqlite://") as first, make_store() as second, open_store("sqlite://") as third:
        await fill(first)
        there = await copy_store(first, second, scope=scope, batch=batch)
        back = await copy_store(second, third, scope=scope, batch=batch)
        await assert_same(first, second, scope)
        await assert_same(first, third, scope)
        assert by_id(await dump_all(third)) == by_id(await dump_all(first, scope))
        counts = await first.counts(scope)
        assert (there.turns, there.facts, there.new) == (counts.turns, counts.facts, counts.turns + counts.facts)
        assert there.jobs == len(await first.dump_jobs(scope)) > 0
        assert back == there
        assert await second.check() == await third.check() == []


async def test_again_it_copies_what_is_missing_only(make_store: MakeStore) -> None:
    """What is in the target, also when it was changed there, is left as it is; what came since is added."""
    async with open_store("sqlite://") as source, make_store() as target:
        said = await a_few(source)
        mine = turn("my own", BOB)
        await add(target, mine)
        assert (await copy_store(source, target)).new == 5
        changed = await target.update(said[0].id, Change(text="walnut"), vector=axis(0, 1), model=MODEL)
        await add(source, turn("later", minute=9))
        assert await copy_store(source, target, batch=2) == CopyReport(
            turns=6, jobs=1, new=1, differing=1, examples=(changed.id,)
        )
        assert await target.get(said[0].id) == changed
        assert await everything(target, BOB) == ["my own"]
        assert await everything(target, ALICE) == ["later", *(f"peanut {i}" for i in range(4, 0, -1)), "walnut"]


@settings(max_examples=30, deadline=None, suppress_health_check=[*HealthCheck])
@given(batch=st.integers(1, 12), cuts=st.lists(st.integers(1, 120), max_size=4))
def test_stopped_anywhere_it_goes_on(batch: int, cuts: list[int]) -> None:
    """However often a copy is cancelled, wherever it waits, the next one brings the rest."""

    async def check() -> None:
        async with open_store("sqlite://") as source, open_store("sqlite://") as target:
            await fill(source)
            for cut in cuts:
                await cancelled_at(cut, copy_store(source, target, batch=batch))
                assert await target.check() == []
            await copy_store(source, target, batch=batch)
            await assert_same(source, target, Scope())

    asyncio.run(check())


async def test_five_thousand_with_progress(tmp_path: Path) -> None:
    """From file to file; the count rises to the total, and what the second try finds there is not new."""
    seen: list[tuple[int, int]] = []
    async with open_store(tmp_path / "a.db") as source, open_store(tmp_path / "b.db") as target:
        said = [turn(f"peanut {i}", Scope(f"u{i % 7}")) for i in range(5000)]
        vectors = list(np.random.default_rng(1).standard_normal((5000, DIMENSION)).astype(np.float32))
        await source.add_turns(said, vectors, model=MODEL)
        report = await copy_store(source, target, on_progress=lambda done, total: seen.append((done, total)))
        assert report == CopyReport(turns=5000, new=5000)
        assert seen == [(done, 5000) for done in range(500, 5001, 500)]
        assert (await copy_store(source, target)).new == 0
        assert by_id(await dump_all(source, limit=5000)) == by_id(await dump_all(target, limit=5000))


async def test_a_store_that_holds_nothing(make_store: MakeStore) -> None:
    """Nothing is copied from a store that is new, or was emptied, or has nothing of the scope."""
    async with make_store() as source, open_store("sqlite://") as target:
        assert await copy_store(source, target) == CopyReport()
        await add(source, turn())
        assert await copy_store(source, target, scope=BOB) == CopyReport()
        await source.delete_all(Selection(everything=True))
        assert await copy_store(source, target) == CopyReport()
        assert await target.counts(Scope()) == Counts(0, 0)


@pytest.mark.parametrize("other", [EmbeddingSpace("other", DIMENSION), EmbeddingSpace(MODEL, 3)])
async def test_vectors_of_another_space_are_refused(make_store: MakeStore, other: EmbeddingSpace) -> None:
    """A target that is bound to another model or dimension is told before anything is written."""
    async with open_store("sqlite://") as source, make_store() as target:
        await fill(source)
        theirs = turn()
        await target.add_turns([theirs], [np.ones(other.dimension, np.float32)], model=other.model)
        await target.delete(theirs.id)
        for move in (copy_store(source, target), imported(target, await exported(source))):
            with pytest.raises(EmbeddingMismatch, match=MODEL):
                await move
        assert await target.counts(Scope()) == Counts(0, 0)


async def test_what_has_other_vectors_there_is_not_passed_over(make_store: MakeStore) -> None:
    """Where the target has the same memories, but with vectors of another model, there is nothing to go on with."""

    async def embed(memories: Sequence[MemoryRecord]) -> list[Vector]:
        return [np.ones(OTHER_SPACE.dimension, np.float32) for _ in memories]

    async with open_store("sqlite://") as source, make_store() as target:
        await a_few(source)
        lines = await exported(source)
        await imported(target, lines, space=OTHER_SPACE, embed=embed)
        for move in (copy_store(source, target), imported(target, lines)):
            with pytest.raises(EmbeddingMismatch, match="other with 2"):
                await move


async def test_another_memory_with_the_same_id_is_told(make_store: MakeStore) -> None:
    """One of another scope, kind or text is left as it is and counted, however many others the target has."""
    async with open_store("sqlite://") as source, make_store() as target:
        said = await a_few(source)
        theirs = [replace(said[1], scope=BOB), replace(said[3], text="walnut")]
        await add(target, *theirs, *(turn(str(i)) for i in range(9)))
        await learn(target, fact("cashew", id=said[2].id))
        report = await copy_store(source, target, scope=ALICE, batch=2)
        assert (report.turns, report.new, report.differing) == (5, 2, 3)
        assert set(report.examples) == {said[1].id, said[2].id, said[3].id}
        assert await target.get_many([one.id for one in theirs]) == theirs
        again = await imported(target, await exported(source))
        assert (again.new, again.differing, again.examples) == (0, 3, report.examples)


async def test_what_was_deleted_meanwhile_is_told(make_store: MakeStore) -> None:
    """Where the target has fewer in the end than were read, and they are not others, the error has both counts."""
    async with open_store("sqlite://") as source, make_store() as target:
        said = await a_few(source)
        add_none = target.load

        async def load(*args: Any, **options: Any) -> int:
            new = await add_none(*args, **options)
            await target.delete_all(Selection(where=parse_filters({"id": said[0].id})))
            return new

        target.load = load  # type: ignore[method-assign]
        with pytest.raises(StoreError, match=r"5 turns and 0 facts .* has 4 and 0"):
            await copy_store(source, target, scope=ALICE)


async def test_what_changed_in_the_source_is_told(make_store: MakeStore) -> None:
    """Facts that were superseded and memories that were updated after the first copy are counted, and not changed."""
    async with make_store() as source, open_store("sqlite://") as target:
        said = await a_few(source)
        known = [fact(name) for name in ("old", "same")]
        await source.finish_jobs([await claim(source)], known, [axis(1)] * 2, model=MODEL)
        assert (await copy_store(source, target)).differing == 0
        assert (await copy_store(source, target)).differing == 0
        await source.supersede([Supersession(fact_id=known[0].id, valid_to=LONG_AGO)])
        await source.update(said[0].id, Change(metadata={"a": 1}))
        report = await copy_store(source, target)
        assert (report.new, report.differing, set(report.examples)) == (0, 2, {known[0].id, said[0].id})
        assert await target.get_many([known[0].id, said[0].id]) == [known[0], said[0]]


async def test_only_the_first_that_differ_are_named() -> None:
    """However many there are, the report stays small."""
    async with open_store("sqlite://") as source, open_store("sqlite://") as target:
        said = [turn(str(i)) for i in range(40)]
        await add(source, *said)
        await add(target, *(replace(one, text="other") for one in said))
        report = await copy_store(source, target, batch=7)
        assert (report.differing, len(report.examples)) == (40, 10)


async def test_a_store_is_not_copied_to_itself() -> None:
    """That is a mistake, and not a copy of nothing."""
    async with open_store("sqlite://") as store:
        with pytest.raises(ConfigError, match="itself"):
            await copy_store(store, store)


async def test_work_that_was_done_meanwhile_is_not_done_again(make_store: MakeStore) -> None:
    """A job that was copied while it waited ends in the target when the next copy brings its facts."""
    async with open_store("sqlite://") as source, make_store() as target:
        first, second = turn("first"), turn("second", BOB)
        await add(source, first, extract=True)
        await add(source, second, extract=True)
        await copy_store(source, target)
        held = await claim(target)
        known = fact("known", turn_ids=(first.id,))
        await source.finish_jobs([await claim(source)], [known], [axis(1)], model=MODEL)
        assert (await copy_store(source, target)).new == 1
        assert [job.turn_ids for job in await target.dump_jobs(Scope())] == [(second.id,)]
        assert await target.finish_jobs([held], [fact("twice")], [axis(1)], model=MODEL) is False
        assert await target.get(known.id) == known
        assert await target.counts(Scope()) == Counts(2, 1)
        assert await target.check() == []


async def test_long_texts_come_in_small_batches(monkeypatch: MonkeyPatch) -> None:
    """A page of a dump, and what is loaded of a file at once, end early where they get large; nothing is left out."""
    sizes: list[int] = []

    def spied(store: MemoryStore) -> MemoryStore:
        load = store.load

        async def spy(memories: Sequence[StoredMemory], *args: Any, **options: Any) -> int:
            sizes.append(sum(len(one.memory.text) for one in memories))
            return await load(memories, *args, **options)

        store.load = spy  # type: ignore[method-assign]
        return store

    monkeypatch.setattr(transfer, "BATCH_BYTES", 9_000)
    monkeypatch.setattr(_sqlite_transfer, "PAGE_BYTES", 9_000)
    async with open_store("sqlite://") as source, open_store("sqlite://") as one, open_store("sqlite://") as other:
        said = [turn("\0" * length, metadata={"a": "x" * length}) for length in (1, 1000, 3000, 20_000, 1, 2, 2000, 1)]
        await add(source, *said)
        await source.update(said[0].id, Change(text="y" * 8000), vector=axis(1), model=MODEL)
        await copy_store(source, spied(one))
        assert max(sizes) == 20_000
        assert len(sizes) >= 4
        sizes.clear()
        await import_lines(spied(other), stream(await exported(source, batch=500)))
        assert len(sizes) >= 4
        await assert_same(source, one, Scope())
        await assert_same(source, other, Scope())


async def test_others_write_meanwhile(make_store: MakeStore) -> None:
    """What stays while a copy runs arrives, whatever comes, changes and goes; and what arrives is sound."""
    async with make_store() as source, open_store("sqlite://") as target:
        said = [turn(f"peanut {i}", minute=i) for i in range(40)]
        await add(source, *said)
        done = asyncio.Event()

        async def write() -> None:
            for i in range(0, 40, 2):
                await source.delete(said[i].id)
                await add(source, turn(f"new {i}", minute=i), extract=True)
                await source.update(said[i + 1].id, Change(metadata={"seen": True}))
            done.set()

        writing = asyncio.create_task(write())
        report = await copy_store(source, target, batch=2)
        await writing
        assert {one.id for one in said[1::2]} <= {one.memory.id for one in await dump_all(target)}
        assert report.turns == report.new == (await target.counts(Scope())).turns
        assert await target.check() == []


async def test_no_turn_is_left_without_its_facts(make_store: MakeStore) -> None:
    """The job of a turn comes along where its facts came too late to be read, and where it came late with the turn."""
    async with make_store() as source, open_store("sqlite://") as target:
        await learn(source, fact("known", at=START + LEASE))
        early, late = turn("early"), turn("late", minute=1)
        await add(source, early, extract=True)
        lines: list[bytes] = []
        async with aclosing(export_lines(source, batch=1)) as moving:
            async for line in moving:
                lines.append(line)
                if b"early" in line:
                    await add(source, late, extract=True)
                if b"known" in line:
                    missed = fact("missed", turn_ids=(early.id,))  # it lies before the one that was just read
                    await source.finish_jobs([await claim(source)], [missed], [axis(1)], model=MODEL)
        assert len(await source.dump_jobs(Scope())) == 1
        await imported(target, lines)
        assert sorted(await everything(target, ALICE)) == ["early", "known", "late"]
        assert [job.turn_ids for job in await target.dump_jobs(Scope())] == [(early.id,), (late.id,)]
