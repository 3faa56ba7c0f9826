"""How every store lives: opening and closing, its event loop, many calls at once, and calls that are cancelled."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

import pytest
from client.backends import Suspending

from ollama_async_mem.counts import Counts
from ollama_async_mem.errors import ConfigError, StoreClosed, StoreError
from ollama_async_mem.ports import MemoryStore
from ollama_async_mem.records import Scope, Selection
from ollama_async_mem.stores import open_store
from stores.calls import CALLS, NOWHERE, World, clear, make_world, state
from stores.samples import (
    ALICE,
    BOB,
    LEASE,
    LONG_AGO,
    MODEL,
    START,
    about,
    add,
    axis,
    everything,
    near,
    turn,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from pathlib import Path

    from stores.samples import MakeStore

# What is asked


def test_no_method_is_left_out() -> None:
    """There is a call of each method of the port."""
    methods = {name for name, _ in inspect.getmembers(MemoryStore, inspect.iscoroutinefunction)}
    assert set(CALLS) == methods - {"__aenter__", "__aexit__"}


DREAMS = Selection(scope=Scope("nobody"), kinds=("turn", "dream"))  # type: ignore[arg-type]
WRONG: list[Callable[[MemoryStore], Awaitable[Any]]] = [
    lambda store: store.dense_candidates(Selection(), axis(1), model=MODEL, limit=0),
    lambda store: store.keyword_candidates(Selection(), "peanut", limit=0),
    lambda store: store.keyword_candidates(Selection(), "", limit=-1),
    lambda store: store.list(Selection(), limit=0),
    lambda store: store.scopes(Scope(), limit=0),
    lambda store: store.unfinished_jobs(limit=0),
    lambda store: store.dump(Scope("nobody"), limit=0),
    lambda store: store.neighbours(["nope"], before=-1),
    lambda store: store.neighbours(["nope"], after=-1),
    lambda store: store.neighbours(["nope"], after=0.5),  # type: ignore[arg-type]
    lambda store: store.list(Selection(), limit=1.5),  # type: ignore[arg-type]
    lambda store: store.dump(Scope(), limit="5"),  # type: ignore[arg-type]
    lambda store: store.claim_jobs(now=START, lease=LEASE, limit=True),
    lambda store: store.unfinished_jobs(limit=None),  # type: ignore[arg-type]
    lambda store: store.list(Selection(), limit=1, sort="text"),  # type: ignore[arg-type]
    lambda store: store.list(DREAMS, limit=1),
    lambda store: store.dense_candidates(DREAMS, axis(1), model=MODEL, limit=1),
    lambda store: store.keyword_candidates(DREAMS, "peanut", limit=1),
    lambda store: store.delete_all(DREAMS),
]


async def test_wrong_arguments_are_refused(make_store: MakeStore) -> None:
    """What is out of range or unknown is a ConfigError that says what is allowed, also of a scope that is not there."""
    async with make_store() as store:
        await add(store, turn("kept"))
        for call in WRONG:
            with pytest.raises(ConfigError, match=r"at least|below|allowed|whole number"):
                await call(store)
        assert await everything(store, Scope()) == ["kept"]


# Opening and closing


async def test_a_store_works_only_while_it_is_open(make_store: MakeStore) -> None:
    """Before opening and after closing every call raises StoreClosed."""
    store = make_store()
    for name, call in CALLS.items():
        with pytest.raises(StoreClosed if name != "backup" else StoreError):
            await call(store, NOWHERE)
    async with store:
        await add(store, turn())
        with pytest.raises(StoreError, match="open already"):
            await store.__aenter__()
    for name, call in CALLS.items():
        with pytest.raises(StoreClosed if name != "backup" else StoreError):
            await call(store, NOWHERE)


async def test_what_was_stored_is_there_when_it_is_opened_again(make_store: MakeStore) -> None:
    """Memories, jobs and histories outlive the store object, but for a store in memory."""
    async with make_store() as store:
        world = await make_world(store)
        before = await state(store)
    for again in (store, make_store()):
        async with again:
            if "memory)" in again.location:
                assert await again.counts(Scope()) == Counts(0, 0)
            else:
                assert await state(again) == before
                assert len(await again.history(world.known.id)) == 1
                assert await again.job_status(world.held.id) is not None


async def test_another_event_loop_is_refused(make_store: MakeStore) -> None:
    """Calls from another event loop than the one that opened the store are a StoreError, and leave it usable."""
    async with make_store() as store:
        await add(store, turn("kept"))
        for call in CALLS.values():

            async def use(call: Callable[[MemoryStore, World], Awaitable[Any]] = call) -> None:
                await call(store, NOWHERE)

            with pytest.raises(StoreError, match=r"another event loop|pg_dump"):
                await asyncio.to_thread(asyncio.run, use())
        assert await everything(store, ALICE) == ["kept"]


async def test_closing_waits_for_what_was_begun(make_store: MakeStore) -> None:
    """Calls that are under way when the store is closed finish or raise StoreClosed; none hangs."""
    async with make_store() as store:
        tasks = [asyncio.create_task(add(store, turn(str(i)))) for i in range(50)]
        await asyncio.sleep(0)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} <= {type(None), StoreClosed}


# Many calls at once


async def test_one_bad_call_does_not_fail_its_neighbours(make_store: MakeStore) -> None:
    """Of many concurrent writes only those that are wrong fail, and all others are stored."""
    good = [turn(f"good {i}") for i in range(40)]
    async with make_store() as store:
        await add(store, turn("taken", id="taken"))
        calls = [add(store, good[i]) if i % 4 else add(store, turn("bad", id="taken")) for i in range(40)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(o) for o in outcomes] == [type(None) if i % 4 else StoreError for i in range(40)]
        stored = set(await everything(store, ALICE))
    assert stored == {"taken"} | {f"good {i}" for i in range(40) if i % 4}


async def test_readers_see_whole_calls_while_writers_write(make_store: MakeStore) -> None:
    """A search that runs beside writes sees all turns of a call or none."""
    async with make_store() as store:

        async def write(user: int) -> None:
            for n in range(10):
                await add(store, *[turn(f"peanut {n}", Scope(f"u{user}")) for _ in range(3)])

        async def read(user: int) -> None:
            for _ in range(15):
                scope = Scope(f"u{user}")
                found = await store.dense_candidates(Selection(scope=scope), axis(1), model=MODEL, limit=100)
                assert len(found) % 3 == 0
                assert {c.memory.scope for c in found} <= {scope}
                assert (await store.counts(Scope())).turns % 3 == 0

        await asyncio.gather(*(write(u) for u in range(4)), *(read(u) for u in range(4)))
        assert await store.counts(Scope()) == Counts(120, 0)


# Cancellation


async def cancelled_at(number: int, work: Coroutine[Any, Any, Any]) -> bool:
    """Whether a call was suspended so often; it was cancelled there, and told so."""
    is_cancelled = False

    async def run() -> None:
        task = asyncio.current_task()
        assert task

        def cancel() -> None:
            nonlocal is_cancelled
            is_cancelled = task.cancel()

        await Suspending(work, number, cancel)

    (outcome,) = await asyncio.gather(run(), return_exceptions=True)
    if is_cancelled:
        assert isinstance(outcome, asyncio.CancelledError)
    elif outcome is not None:
        raise outcome
    return is_cancelled


async def settled(store: MemoryStore) -> list[Any]:
    """What a store holds once all that was begun has ended, as far as can be seen."""
    await store.purge_expired(now=LONG_AGO - LONG_AGO.resolution)  # destroys nothing; waits for those before it
    held, later = None, await state(store)
    while held != later:
        held, later = later, await state(store)
    return later


async def called(name: str, store: MemoryStore, world: World) -> None:
    """Make a call; some kinds of store have no backup."""
    try:
        await CALLS[name](store, world)
    except StoreError:
        if name != "backup":
            raise


@pytest.mark.parametrize("name", CALLS)
async def test_cancelled_anywhere_it_happened_or_not(make_store: MakeStore, name: str, tmp_path: Path) -> None:
    """Wherever a call is cancelled, the store holds what it held before or after it, and goes on working."""
    folder = str(tmp_path)
    async with make_store() as store:
        world = await make_world(store, folder)
        before = await state(store)
        await called(name, store, world)
        allowed = [before, held := await state(store)]
        for number in range(1, 200):
            if held != before:
                await clear(store)
                world = await make_world(store, folder)
            if not await cancelled_at(number, called(name, store, world)):
                break
            held = await settled(store)
            assert held in allowed
        else:
            raise AssertionError("the call does not end")
        assert await store.check() == []
    for path in [path for path in tmp_path.glob("*") if "memory.db" not in path.name]:  # noqa: ASYNC240 - a small folder
        async with open_store(path, create=False) as copied:
            assert await copied.check() == []


async def test_a_cancelled_write_happened_as_a_whole_or_not_at_all(make_store: MakeStore) -> None:
    """Cancelling calls at any moment leaves whole calls only, and the store goes on working."""
    async with make_store() as store:
        for wait_s in [0, 0, 0.0005, 0.001, 0.002, 0.004] * 4:
            said = [turn(f"peanut {i}") for i in range(3)]
            task = asyncio.create_task(add(store, *said, extract=True))
            await asyncio.sleep(wait_s)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await add(store, turn("after all others", BOB))
        await settled(store)
        turns = (await store.counts(ALICE)).turns
        assert turns == 3 * await store.pending_jobs()
        assert len(await near(store, ALICE, axis(1), 1000)) == turns
        assert len(await about(store, ALICE, "peanut", 1000)) == turns
        assert await store.check() == []
