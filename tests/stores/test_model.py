"""Random operations on a store, and the same on a plain model of one, have equal results."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import cycle
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from msgspec import UNSET
from msgspec.structs import replace

from ollama_async_mem.errors import StoreError
from ollama_async_mem.filters import parse_filters
from ollama_async_mem.records import Change, Event, Job, Reinforcement, Scope, Selection, Supersession
from ollama_async_mem.stores.sqlite import SQLiteStore
from stores.calls import clear, running
from stores.model import ModelStore
from stores.samples import DATES, FAR_OFF, LEASE, LONG_AGO, MODEL, START, axis, dump_all, fact, turn
from stores.test_codes import limits

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from ollama_async_mem.ports import MemoryStore, Vector
    from ollama_async_mem.records import Fact, Sort
    from stores.samples import MakeStore

Script = list[tuple[Any, ...]]
SORTS: tuple[Sort, ...] = ("-at", "at", "-created_at", "created_at")
FILTERS: list[dict[str, Any]] = [
    {"n": 1},
    {"n": {"gte": 1}},
    {"n": {"ne": 1}},
    {"NOT": [{"n": "*"}]},
    {"text": {"contains": "peanut"}},
    {"kind": "turn"},
    {"OR": [{"user_id": "a"}, {"expires_at": None}]},
    {"valid_to": {"lt": "2050-01-01"}},
]

names = st.sampled_from([None, "a", "b", "a' OR 1=1"])
scopes = st.builds(Scope, names, names, st.sampled_from([None, "a"]))
phrases = st.lists(st.sampled_from(["peanut", "walnut", "cashew", "花", "lyon"]), max_size=3).map(" ".join)
directions = st.tuples(st.integers(-3, 3), st.integers(-3, 3), st.integers(1, 3)).map(lambda weights: axis(*weights))
picks = st.integers(0, 40)
ends = st.sampled_from([None, LONG_AGO, START, FAR_OFF])
metadata = st.sampled_from([{}, {"n": 1}, {"n": 2}, {"n": 1.0, "m": None}])
changes = st.builds(
    Change,
    text=st.just(UNSET) | phrases,
    metadata=st.just(UNSET) | st.sampled_from([{"n": 1}, {"n": None}, {"m": "x"}, {}]),
    expires_at=st.just(UNSET) | ends,
    dates=st.sampled_from([(), DATES]),
)
supersessions = st.lists(
    st.tuples(picks, st.sampled_from([LONG_AGO, START, FAR_OFF]), st.none() | picks), min_size=1, max_size=3
)
selections = st.builds(
    Selection,
    scope=scopes | st.just(Scope()),
    kinds=st.sampled_from([("turn", "fact"), ("turn", "fact"), ("turn",), ("fact",), ()]),
    where=st.none() | st.sampled_from(FILTERS).map(parse_filters),
    as_of=st.none() | st.sampled_from([LONG_AGO, START, START + timedelta(minutes=2), FAR_OFF]),
    everything=st.booleans(),
)
said = st.lists(st.tuples(phrases, directions, metadata, ends), max_size=3)
operations = st.one_of(
    st.tuples(st.just("add"), scopes, said, st.integers(0, 4), st.booleans()),
    st.tuples(st.just("learn"), said, supersessions | st.just([])),
    st.tuples(st.just("update"), picks, changes, st.none() | directions, st.none() | st.booleans()),
    st.tuples(st.just("supersede"), supersessions),
    st.tuples(st.just("delete"), picks),
    st.tuples(st.just("delete_all"), selections),
    st.tuples(st.just("purge"), st.sampled_from([LONG_AGO, START])),
    st.tuples(st.just("claim"), st.integers(0, 3), st.integers(1, 3)),
    st.tuples(st.just("renew"), picks, st.integers(0, 3)),
    st.tuples(st.just("finish"), picks, said, supersessions | st.just([]), st.lists(picks, max_size=3)),
    st.tuples(st.just("release"), picks, st.none() | st.integers(0, 3)),
    st.tuples(st.just("give_back"), picks),
    st.tuples(st.just("revive"), st.booleans()),
    st.tuples(st.just("find"), selections, phrases, directions, st.integers(1, 5)),
    st.tuples(st.just("browse"), selections, st.integers(1, 4), st.sampled_from(SORTS)),
    st.tuples(st.just("look"), picks, st.integers(0, 3), st.integers(0, 3)),
    st.tuples(st.just("count"), scopes | st.just(Scope()), st.integers(1, 4)),
)
scripts = st.lists(operations, min_size=5, max_size=25)
A, B = Scope("a"), Scope("b", "a")
AT_FIRST: Script = [
    ("add", A, [("peanut lyon", axis(1), {"n": 1}, None), ("walnut", axis(0, 1), {}, FAR_OFF)], 1, True),
    ("add", B, [("peanut", axis(-1, 1), {"n": 2}, LONG_AGO)], 2, True),
    ("add", A, [("花", axis(1, 1), {}, None), ("cashew", axis(1, 2, 3), {"n": 1}, None)], 2, True),
    ("learn", [("cashew lyon", axis(1, -1), {"n": 2}, None), ("peanut", axis(3), {}, None)], []),
]
AT_LAST: Script = [
    *[("find", Selection(), "peanut lyon", axis(1), 5), ("browse", Selection(everything=True), 3, "created_at")],
    *[("look", pick, 2, 2) for pick in range(10)],
    ("count", Scope(), 2),
]


class Play:
    """Does everything on the next one of some stores, and on the model."""

    def __init__(self, stores: Sequence[MemoryStore]) -> None:
        self.model = ModelStore()
        self.stores = cycle(stores)
        self.ids: list[str] = []
        self.claims: list[tuple[list[Job], list[Job]]] = []

    async def same(self, call: Callable[[MemoryStore], Awaitable[Any]]) -> Any:
        """Make a call; what comes back, or is raised, must be equal."""
        result, expected = await outcome(call(next(self.stores))), await outcome(call(self.model))
        assert plain(result) == plain(expected)
        return result

    def pick(self, number: int) -> str:
        """The id of a memory, perhaps of one that was deleted."""
        return self.ids[number % len(self.ids)] if self.ids else "nope"

    def ended(self, picked: Sequence[tuple[int, datetime, int | None]], by: str | None = None) -> list[Supersession]:
        """Supersessions of picked memories by picked ones, else by another."""
        return [
            Supersession(fact_id=self.pick(n), valid_to=to, by=by if other is None else self.pick(other), cause=str(n))
            for n, to, other in picked
        ]

    async def add(self, scope: Scope, them: Sequence[Any], minute: int, extract: bool) -> None:  # noqa: FBT001 - drawn
        turns = [turn(text, scope, minute=minute, metadata=m, expires_at=end) for text, _, m, end in them]
        vectors = [vector for _, vector, _, _ in them]
        self.ids += [one.id for one in turns]
        self.model.job_id = await next(self.stores).add_turns(turns, vectors, model=MODEL, extract=extract)
        assert self.model.job_id == await self.model.add_turns(turns, vectors, model=MODEL, extract=extract)

    async def update(self, number: int, change: Change, vector: Vector | None, extract: bool | None) -> None:  # noqa: FBT001 - drawn
        how: dict[str, Any] = {"vector": vector, "model": MODEL, "actor": "me", "cause": str(number)}
        store = next(self.stores)
        result = await outcome(store.update(self.pick(number), change, extract=extract, **how))
        self.model.job_id = next((job.id for job in reversed(await store.unfinished_jobs())), None)
        assert result == await outcome(self.model.update(self.pick(number), change, extract=extract, **how))

    async def supersede(self, picked: Sequence[Any]) -> None:
        await self.same(lambda store: store.supersede(self.ended(picked), actor="me"))

    async def delete(self, number: int) -> None:
        await self.same(lambda store: store.delete(self.pick(number), cause="asked"))

    async def delete_all(self, selection: Selection) -> None:
        await self.same(lambda store: store.delete_all(selection, actor="me"))

    async def purge(self, now: datetime) -> None:
        await self.same(lambda store: store.purge_expired(now=now))

    async def claim(self, minute: int, limit: int) -> None:
        how: dict[str, Any] = {"now": START + timedelta(minutes=minute), "lease": 2 * LEASE, "limit": limit}
        claims = [await store.claim_jobs(**how) for store in (next(self.stores), self.model)]
        assert plain(claims[0]) == plain(claims[1])
        if claims[0]:
            self.claims.append((claims[0], claims[1]))

    async def claimed(self, number: int, act: Callable[[MemoryStore, list[Job]], Awaitable[Any]]) -> None:
        """Do something with jobs that were handed out once, perhaps long ago."""
        if self.claims:
            jobs, expected = self.claims[number % len(self.claims)]
            assert await act(next(self.stores), jobs) == await act(self.model, expected)

    async def renew(self, number: int, minute: int) -> None:
        now = START + timedelta(minutes=minute)
        await self.claimed(number, lambda store, jobs: store.renew_jobs(jobs, now=now, lease=LEASE))

    async def finish(self, number: int, them: Sequence[Any], picked: Sequence[Any], again: Sequence[int]) -> None:
        if not self.claims:
            return
        job = self.claims[number % len(self.claims)][0][-1]
        sources = [(), job.turn_ids, (*job.turn_ids[-1:], self.pick(number)), (*job.turn_ids[:1],)]
        facts: list[Fact] = [
            fact(text, job.scope, turn_ids=sources[(number + i) % 4], metadata=m, expires_at=end, dates=DATES[i:])
            for i, (text, _, m, end) in enumerate(them)
        ]
        vectors, ended = [vector for _, vector, _, _ in them], self.ended(picked, facts[0].id if facts else None)
        self.ids += [one.id for one in facts]
        said = [
            Reinforcement(fact_id=self.pick(n), turn_ids=(*job.turn_ids, self.pick(n + 1)), at=START) for n in again
        ]
        how: dict[str, Any] = {"model": MODEL, "superseded": ended, "reinforced": said}
        await self.claimed(number, lambda store, jobs: store.finish_jobs(jobs, facts, vectors, **how))

    async def learn(self, them: Sequence[Any], picked: Sequence[Any]) -> None:
        await self.claim(3, 2)
        await self.finish(-1, them, picked, ())

    async def release(self, number: int, minute: int | None) -> None:
        at = None if minute is None else START + timedelta(minutes=minute)
        await self.claimed(number, lambda store, jobs: store.release_jobs(jobs, error=str(number), retry_at=at))

    async def give_back(self, number: int) -> None:
        await self.claimed(number, lambda store, jobs: store.return_jobs(jobs))

    async def revive(self, dead: bool) -> None:  # noqa: FBT001 - drawn
        await self.same(lambda store: store.revive_jobs(dead=dead))

    async def find(self, selection: Selection, query: str, vector: Vector, limit: int) -> None:
        ask: dict[str, Any] = {"vector": vector, "model": MODEL}
        store = next(self.stores)
        cosines = {c.memory.id: c.score for c in await self.model.dense_candidates(selection, **ask, limit=1000)}
        found = await store.dense_candidates(selection, **ask, limit=limit)
        assert [c.score for c in found] == pytest.approx(sorted(cosines.values(), reverse=True)[:limit], abs=1e-5)
        assert [c.score for c in found] == pytest.approx([cosines[c.memory.id] for c in found], abs=1e-5)
        shared = {c.memory.id: c.memory for c in await self.model.keyword_candidates(selection, query, limit=1000)}
        for most in (limit, 1000):
            named = {c.memory.id: c.memory for c in await store.keyword_candidates(selection, query, limit=most)}
            assert len(named) == min(most, len(shared))
            assert named.items() <= shared.items()

    async def browse(self, selection: Selection, limit: int, sort: Sort) -> None:
        store = next(self.stores)
        page, other = [await one.list(selection, limit=limit, sort=sort) for one in (store, self.model)]
        while True:
            assert page.items == other.items
            assert (page.cursor is None) == (other.cursor is None)
            if page.cursor is None:
                break
            page = await store.list(selection, limit=limit, sort=sort, cursor=page.cursor)
            other = await self.model.list(selection, limit=limit, sort=sort, cursor=other.cursor)

    async def look(self, number: int, before: int, after: int) -> None:
        memory_id = self.pick(number)
        await self.same(lambda store: store.get(memory_id))
        await self.same(lambda store: store.get_many([memory_id, self.pick(before), self.pick(after)]))
        await self.same(lambda store: store.history(memory_id))
        await self.same(lambda store: store.neighbours([memory_id, self.pick(after)], before=before, after=after))

    async def count(self, scope: Scope, limit: int) -> None:
        await self.same(lambda store: store.counts(scope))
        first = await self.same(lambda store: store.scopes(scope, limit=limit))
        if first:
            await self.same(lambda store: store.scopes(scope, limit=limit, after=first[-1].scope))
        await self.same(lambda store: store.pending_jobs())
        for status in await self.same(lambda store: store.unfinished_jobs()):
            assert await next(self.stores).job_status(status.id) == status
        await self.same(lambda store: store.dump_jobs(scope))
        await self.same(lambda store: store.statistics())
        stored, expected = [await dump_all(store, scope, limit) for store in (next(self.stores), self.model)]
        assert {s.memory.id: plain(s.events) for s in stored} == {s.memory.id: plain(s.events) for s in expected}


async def outcome(call: Awaitable[Any]) -> Any:
    """What comes back, or the kind of error."""
    try:
        return await call
    except StoreError as exc:
        return type(exc)


def plain(value: Any) -> Any:
    """A result without what stores may do each in its own way."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Event):
        return value if value.kind == "added" else replace(value, at=START)
    if isinstance(value, Job):
        return replace(value, claim=0)
    return replace(value, size_bytes=0, schema_version=0, space=None) if hasattr(value, "size_bytes") else value


async def play(stores: Sequence[MemoryStore], script: Script) -> None:
    """Do the operations on one store after the other, and look at everything at the end whatever they did."""
    await clear(stores[0])
    game = Play(stores)
    for name, *args in [*AT_FIRST, *script, *AT_LAST]:
        await getattr(game, name)(*args)
    assert await stores[0].check() == []


def compare(runner: asyncio.Runner, stores: Sequence[MemoryStore], examples: int) -> None:
    """Play many scripts on stores that stay open."""

    @settings(max_examples=examples, deadline=None, suppress_health_check=[*HealthCheck])
    @given(script=scripts)
    def check(script: Script) -> None:
        runner.run(play(stores, script))

    check()


def test_stores_do_what_the_model_does(make_store: MakeStore) -> None:
    """One store, or two that take turns on the same data."""
    with running(make_store(), make_store()) as (runner, stores):
        compare(runner, stores, 30)


@pytest.mark.parametrize("cache_bytes", [0, 3_000])
def test_large_stores_with_small_caches_do_what_the_model_does(tmp_path: Path, cache_bytes: int) -> None:
    """Two stores on a file that search by codes, and keep next to nothing in memory."""
    path = tmp_path / "memory.db"
    one, two = SQLiteStore(path, cache_bytes=cache_bytes), SQLiteStore(path, readers=1, cache_bytes=cache_bytes)
    with limits(), running(one, two) as (runner, stores):
        compare(runner, stores, 30)
