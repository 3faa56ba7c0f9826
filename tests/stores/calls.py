"""Stores that are open together, a call of each method of one, and a small world to make the calls in."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from ollama_async_mem.records import (
    Change,
    EmbeddingSpace,
    Fact,
    Job,
    Reinforcement,
    Scope,
    Selection,
    StoredJob,
    StoredMemory,
    Supersession,
    Turn,
    new_id,
)
from stores.samples import (
    ALICE,
    DATES,
    DIMENSION,
    FAR_OFF,
    LEASE,
    LONG_AGO,
    MODEL,
    NO_JOB,
    START,
    add,
    axis,
    claim,
    dump_all,
    fact,
    learn,
    turn,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from ollama_async_mem.ports import MemoryStore

__all__ = ["CALLS", "NOWHERE", "World", "clear", "make_world", "opened", "running", "state"]

SPACE = EmbeddingSpace(MODEL, DIMENSION)
EVERYTHING = Selection(everything=True)


@asynccontextmanager
async def opened(*stores: MemoryStore) -> AsyncIterator[list[MemoryStore]]:
    """Open stores; those come out that see what the first one stores."""
    async with AsyncExitStack() as stack:
        for store in stores:
            await stack.enter_async_context(store)
        said = turn()
        await add(stores[0], said)
        seeing = [store for store in stores if (await store.counts(Scope())).turns]
        await stores[0].delete(said.id)
        yield seeing


@contextmanager
def running(*stores: MemoryStore) -> Iterator[tuple[asyncio.Runner, list[MemoryStore]]]:
    """The same with an event loop of their own, for tests that run on it again and again."""
    with asyncio.Runner() as runner:
        context = opened(*stores)
        seeing = runner.run(context.__aenter__())
        try:
            yield runner, seeing
        finally:
            runner.run(context.__aexit__(None, None, None))


class World(msgspec.Struct):
    """What calls are about: a turn, one that expired, a fact of the first, and jobs that are dead, held and queued."""

    said: Turn
    expired: Turn
    known: Fact
    held: Job
    folder: str = "/nowhere"


NOWHERE = World(turn(), turn(), fact("a"), NO_JOB)  # for calls that do not get so far


async def make_world(store: MemoryStore, folder: str = "/nowhere") -> World:
    """Put all that in a store without jobs."""
    said, expired = turn("peanut", metadata={"a": 1}), turn("walnut", expires_at=LONG_AGO)
    known = fact("cashew", turn_ids=(said.id,))
    await add(store, said, expired)
    await learn(store, known)
    for name in ("dead", "held", "queued"):
        await add(store, turn(name, Scope(name)), turn(f"{name} too", Scope(name)), extract=True)
    await store.release_jobs([await claim(store)], error="hopeless", retry_at=None)
    return World(said, expired, known, await claim(store), folder)


async def clear(store: MemoryStore) -> None:
    """Take all memories and jobs out of a store."""
    await store.revive_jobs()
    while jobs := await store.claim_jobs(now=FAR_OFF, lease=LEASE, limit=100):
        await store.finish_jobs(jobs, [], [], model=MODEL)
    await store.delete_all(EVERYTHING)


async def state(store: MemoryStore) -> list[Any]:
    """All that a store holds, but for ids and the times of its own clock: two that did the same have the same state."""
    memories = [
        (one.memory.text, one.memory.metadata, one.memory.dates, links(one.memory), kinds(one.events), one.vector)
        for one in await dump_all(store)
    ]
    jobs = [(job.state, job.attempts, job.due_at, job.error) for job in await store.unfinished_jobs()]
    turns = [len(job.turn_ids) for job in await store.dump_jobs(Scope())]
    return [sorted(memories, key=repr), jobs, turns, await store.counts(Scope())]


def links(memory: Any) -> Any:
    return (len(memory.turn_ids), memory.valid_to) if isinstance(memory, Fact) else memory.expires_at


def kinds(events: Any) -> list[str]:
    return [event.kind for event in events]


async def _add(store: MemoryStore, _: World) -> None:
    await add(store, turn("new"), turn("newer"), vector=axis(0, 1), extract=True)


async def _update(store: MemoryStore, world: World) -> None:
    change = Change(text="pistachio", metadata={"b": 2}, expires_at=FAR_OFF, dates=DATES)
    await store.update(world.said.id, change, vector=axis(0, 1), model=MODEL, extract=True)


async def _supersede(store: MemoryStore, world: World) -> None:
    await store.supersede([Supersession(fact_id=world.known.id, valid_to=LONG_AGO)])


async def _dense(store: MemoryStore, _: World) -> None:
    await store.dense_candidates(Selection(scope=ALICE), axis(1), model=MODEL, limit=5)


async def _finish(store: MemoryStore, world: World) -> None:
    facts, ends = [fact("new"), fact("newer")], [Supersession(fact_id=world.known.id, valid_to=LONG_AGO)]
    again = [Reinforcement(fact_id=world.known.id, turn_ids=world.held.turn_ids, at=START)]
    vectors = [axis(1), axis(0, 1)]
    await store.finish_jobs([world.held], facts, vectors, model=MODEL, superseded=ends, reinforced=again)


async def _load(store: MemoryStore, world: World) -> None:
    said = [turn("loaded"), turn("loaded too")]
    stored = [StoredMemory(memory=one, vector=axis(1).tobytes()) for one in said]
    job = StoredJob(id=new_id(), scope=ALICE, turn_ids=(said[0].id,))
    await store.load(stored, [job], space=SPACE)


CALLS: dict[str, Callable[[MemoryStore, World], Awaitable[Any]]] = {
    "embedding_space": lambda store, _: store.embedding_space(),
    "add_turns": _add,
    "update": _update,
    "supersede": _supersede,
    "delete": lambda store, world: store.delete(world.said.id),
    "delete_all": lambda store, _: store.delete_all(EVERYTHING),
    "purge_expired": lambda store, _: store.purge_expired(now=START),
    "dense_candidates": _dense,
    "keyword_candidates": lambda store, _: store.keyword_candidates(Selection(), "peanut", limit=5),
    "get": lambda store, world: store.get(world.said.id),
    "get_many": lambda store, world: store.get_many([world.said.id, world.known.id]),
    "list": lambda store, _: store.list(Selection(), limit=2),
    "neighbours": lambda store, world: store.neighbours([world.said.id, *world.held.turn_ids]),
    "history": lambda store, world: store.history(world.said.id),
    "counts": lambda store, _: store.counts(ALICE),
    "scopes": lambda store, _: store.scopes(Scope(), limit=2),
    "statistics": lambda store, _: store.statistics(),
    "claim_jobs": lambda store, _: store.claim_jobs(now=START, lease=LEASE, limit=2),
    "renew_jobs": lambda store, world: store.renew_jobs([world.held], now=START, lease=2 * LEASE),
    "finish_jobs": _finish,
    "release_jobs": lambda store, world: store.release_jobs([world.held], error="away", retry_at=FAR_OFF),
    "return_jobs": lambda store, world: store.return_jobs([world.held]),
    "revive_jobs": lambda store, _: store.revive_jobs(),
    "pending_jobs": lambda store, _: store.pending_jobs(),
    "unfinished_jobs": lambda store, _: store.unfinished_jobs(),
    "job_status": lambda store, world: store.job_status(world.held.id),
    "dump": lambda store, _: store.dump(Scope(), limit=3),
    "dump_jobs": lambda store, _: store.dump_jobs(Scope()),
    "load": _load,
    "backup": lambda store, world: store.backup(f"{world.folder}/{new_id()}.db"),
    "optimize": lambda store, _: store.optimize(),
    "check": lambda store, _: store.check(),
}
