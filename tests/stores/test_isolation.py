"""Nobody ever sees the memories of another, however many read and write at the same time."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from ollama_async_mem.counts import Counts
from ollama_async_mem.filters import parse_filters
from ollama_async_mem.records import Change, Fact, Reinforcement, Scope, Selection, Supersession, Turn
from ollama_async_mem.stores.sqlite import SQLiteStore
from stores.calls import opened
from stores.samples import LEASE, LONG_AGO, MODEL, START, axis, dump_all, fact, turn
from stores.test_codes import limits

if TYPE_CHECKING:
    from pathlib import Path

    from ollama_async_mem.ports import MemoryStore
    from ollama_async_mem.records import Job, MemoryRecord
    from stores.samples import MakeStore

USERS = ["u1", "u11", "U1", "u1 ", "u1' OR 1=1 --"]  # no two are the same
ROUNDS = 25


class User:
    """Somebody who does anything at random with the memories of one scope, and knows what must be there."""

    def __init__(self, name: str, stores: list[MemoryStore]) -> None:
        self.scope = Scope(name)
        self.stores = stores
        self.dice = random.Random(name)  # noqa: S311 - repeatable
        self.said: dict[str, Turn] = {}
        self.known: set[str] = set()

    @property
    def store(self) -> MemoryStore:
        """Any of the stores, for they are one."""
        return self.dice.choice(self.stores)

    async def live(self) -> None:
        """Do something, and look around, many times."""
        for number in range(ROUNDS):
            act = self.dice.choice([self.add, self.add, self.add, self.update, self.delete, self.expire, self.forget])
            await act(number)
            await self.look()

    async def add(self, number: int) -> None:
        turns = [
            turn(f"peanut {number} {self.scope.user_id}", self.scope, minute=number, metadata={"n": n})
            for n in range(3)
        ]
        vectors = [axis(self.dice.random() - 0.5, 1, self.dice.random()) for _ in turns]
        await self.store.add_turns(turns, vectors, model=MODEL, extract=self.dice.random() < 0.5)
        self.said |= {one.id: one for one in turns}

    async def update(self, number: int) -> None:
        if self.said:
            changed = await self.store.update(
                self.dice.choice([*self.said]),
                Change(text=f"peanut changed {number} {self.scope.user_id}"),
                vector=axis(1, self.dice.random()),
                model=MODEL,
            )
            assert isinstance(changed, Turn)
            self.said[changed.id] = changed

    async def delete(self, _: int) -> None:
        if self.said:
            gone = self.dice.choice([*self.said])
            await self.store.delete(gone)
            del self.said[gone]

    async def expire(self, _: int) -> None:
        """Let one expire and delete what did."""
        if self.said:
            gone = self.dice.choice([*self.said])
            await self.store.update(gone, Change(expires_at=LONG_AGO))
            del self.said[gone]
            expired = parse_filters({"expires_at": {"lte": "2000-01-01"}})
            await self.store.delete_all(Selection(scope=self.scope, where=expired, everything=True))

    async def forget(self, _: int) -> None:
        """Delete a part of all."""
        which = Selection(scope=self.scope, kinds=("turn",), where=parse_filters({"n": 1}))
        gone = [one.id for one in self.said.values() if one.metadata == {"n": 1}]
        assert await self.store.delete_all(which) == len(gone)
        for one in gone:
            del self.said[one]

    async def look(self) -> None:
        """All that was said is there as it was said, and nothing that somebody else said is."""
        mine = Selection(scope=self.scope)
        listed = (await self.store.list(mine, limit=1000)).items
        dense = await self.store.dense_candidates(mine, axis(1, 1), model=MODEL, limit=1000)
        keyword = await self.store.keyword_candidates(mine, "peanut", limit=1000)
        nearest = await self.store.dense_candidates(mine, axis(1, -1), model=MODEL, limit=3)
        for found in (listed, [c.memory for c in dense], [c.memory for c in keyword]):
            assert {m.id: m for m in found if isinstance(m, Turn)} == self.said
            self.require_mine(found)
        self.require_mine([c.memory for c in nearest])
        assert len(nearest) >= min(3, len(self.said))
        self.require_mine([stored.memory for stored in await dump_all(self.store, self.scope)])
        assert {counts.scope for counts in await self.store.scopes(self.scope, limit=9)} <= {self.scope}
        if self.said:
            some = self.dice.choice([*self.said])
            around = await self.store.neighbours([some, *self.said], before=3, after=3)
            assert around.keys() == self.said.keys()
            self.require_mine([one for turns in around.values() for one in turns])

    def require_mine(self, found: list[MemoryRecord] | list[Turn] | tuple[MemoryRecord, ...]) -> None:
        """Check that memories are of this scope and were said in it."""
        assert {memory.scope for memory in found} <= {self.scope}
        assert all(memory.text.endswith(f" {self.scope.user_id}") for memory in found)


async def work(stores: list[MemoryStore], over: asyncio.Event, held: dict[Scope, list[Job]]) -> None:
    """Turn jobs into facts that supersede an older one of the same scope, until there are none any more."""
    older: dict[Scope, str] = {}
    while True:
        is_over = over.is_set()
        jobs = await stores[0].claim_jobs(now=START, lease=LEASE, limit=3)
        if not jobs and is_over:
            return
        if not jobs:
            await asyncio.sleep(0)
            continue
        (scope,) = {job.scope for job in jobs}
        held[scope] = jobs
        turn_ids = [turn_id for job in jobs for turn_id in job.turn_ids]
        assert all(isinstance(memory, Turn) for memory in await stores[-1].get_many(turn_ids))
        new = fact(f"peanut fact {scope.user_id}", scope, turn_ids=tuple(turn_ids[:1]))
        ends = [Supersession(fact_id=older[scope], valid_to=LONG_AGO, by=new.id)] if scope in older else []
        again = [Reinforcement(fact_id=older[scope], turn_ids=tuple(turn_ids), at=START)] if scope in older else []
        is_overtaken = held.get(scope) is not jobs
        if not is_overtaken:
            del held[scope]
        vectors = [axis(1, 1)]
        if await stores[-1].finish_jobs(jobs, [new], vectors, model=MODEL, superseded=ends, reinforced=again):
            assert not is_overtaken  # the jobs of a scope are worked off one after the other
            older[scope] = new.id
        else:  # one of the turns has a new text
            await stores[-1].return_jobs(jobs)


async def live_together(stores: list[MemoryStore]) -> None:
    """Let all users live at once, with workers behind them; at the end each has what is theirs, and no one else's."""
    users, over = [User(name, stores) for name in USERS], asyncio.Event()
    held: dict[Scope, list[Job]] = {}
    async with asyncio.TaskGroup() as workers:
        for _ in range(2):
            workers.create_task(work(stores, over, held))
        async with asyncio.TaskGroup() as tasks:
            for user in users:
                tasks.create_task(user.live())
        over.set()
    for user in users:
        await user.look()
        facts = [one.memory for one in await dump_all(stores[0], user.scope) if isinstance(one.memory, Fact)]
        assert {turn_id for one in facts for turn_id in one.turn_ids} <= user.said.keys()
    assert (await stores[0].counts(Scope())).turns == sum(len(user.said) for user in users)
    await stores[0].delete_all(Selection(scope=users[0].scope, everything=True))
    users[0].said.clear()
    for user in users:
        await user.look()
    assert await stores[-1].counts(users[0].scope) == Counts(0, 0)
    assert await stores[-1].check() == []


async def test_users_do_not_see_each_other(make_store: MakeStore) -> None:
    """Many tasks with random operations, on two stores with the same data where there can be two."""
    async with opened(make_store(), make_store()) as stores:
        await live_together(stores)


@pytest.mark.parametrize("cache_bytes", [0, 3_000])
async def test_users_of_a_large_store_do_not_see_each_other(tmp_path: Path, cache_bytes: int) -> None:
    """The same where searches go by codes and nearly nothing stays in memory."""
    path = tmp_path / "memory.db"
    with limits():
        async with opened(*[SQLiteStore(path, cache_bytes=cache_bytes) for _ in range(2)]) as stores:
            await live_together(stores)
