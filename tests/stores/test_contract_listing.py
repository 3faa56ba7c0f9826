"""What every store tells about what it holds: pages, neighbours, counts, scopes and statistics."""

from __future__ import annotations

import random
from datetime import timedelta
from itertools import product
from operator import attrgetter
from typing import TYPE_CHECKING

import pytest

from ollama_async_mem.counts import Counts, ScopeCounts
from ollama_async_mem.errors import ConfigError
from ollama_async_mem.records import EmbeddingSpace, Scope, Selection
from stores.samples import (
    ALICE,
    BOB,
    DIMENSION,
    FAR_OFF,
    LONG_AGO,
    MODEL,
    START,
    add,
    claim,
    fact,
    learn,
    turn,
)

if TYPE_CHECKING:
    from ollama_async_mem.ports import MemoryStore
    from ollama_async_mem.records import MemoryRecord, Sort, Turn
    from stores.samples import MakeStore

ALL = Selection(scope=ALICE, everything=True)
SORTS: tuple[Sort, ...] = ("-at", "at", "-created_at", "created_at")


async def pages(store: MemoryStore, selection: Selection, limit: int, sort: Sort = "-at") -> list[MemoryRecord]:
    """A whole listing, page by page; each page but the last is full, and none is empty but an only one."""
    page = await store.list(selection, limit=limit, sort=sort)
    listed = list(page.items)
    while page.cursor is not None:
        assert len(page.items) == limit
        page = await store.list(selection, limit=limit, sort=sort, cursor=page.cursor)
        assert page.items
        listed += page.items
    return listed


def said_at_odds() -> list[Turn]:
    """Memories whose times, creation and ids are in different orders, some at the same time."""
    ids = ["b", "a", "c", "B", "é", "花", "0", "' OR 1"]
    return [
        turn(memory_id, id=memory_id, minute=i % 3, created_at=START - timedelta(seconds=i // 2))
        for i, memory_id in enumerate(ids)
    ]


# Pages


async def test_four_sorts(make_store: MakeStore) -> None:
    """By when it was said or created, forwards or backwards, those of the same time by id; pages of any size."""
    said = said_at_odds()
    async with make_store() as store:
        await add(store, *said)
        for sort in SORTS:
            of_time = attrgetter(sort.removeprefix("-"), "id")
            expected = sorted(said, key=of_time, reverse=sort.startswith("-"))
            for scope, limit in product((ALICE, Scope()), (1, 3, len(said), 1000)):
                assert await pages(store, Selection(scope=scope), limit, sort) == expected


async def test_pages_do_not_shift(make_store: MakeStore) -> None:
    """While memories are added and deleted anywhere, each that stays is listed once, and those after are in order."""
    async with make_store() as store:
        for sort in SORTS:
            scope = Scope(sort)
            selection = Selection(scope=scope)
            await add(store, *[turn(str(i), scope, minute=i) for i in range(12)])
            page = await store.list(selection, limit=3, sort=sort)
            listed = [memory.text for memory in page.items]
            while page.cursor is not None:
                await add(store, turn("before", scope, minute=-1), turn("after", scope, minute=99))
                await store.delete(page.items[-1].id)
                page = await store.list(selection, limit=3, sort=sort, cursor=page.cursor)
                listed += [memory.text for memory in page.items]
            shown = [int(text) for text in listed if text.isdigit()]
            assert shown == sorted(range(12), reverse=sort.startswith("-"))


async def test_the_last_page_has_no_cursor(make_store: MakeStore) -> None:
    """A page that ends exactly at the last memory says that there is no more."""
    async with make_store() as store:
        await add(store, turn("1"), turn("2", BOB))
        assert (await store.list(ALL, limit=1)).cursor is None
        assert (await store.list(Selection(scope=Scope("nobody")), limit=1)).items == ()
        assert (await store.list(Selection(), limit=10_000_000)).cursor is None


async def test_a_bad_cursor_is_refused(make_store: MakeStore) -> None:
    """A cursor that no page had is a ConfigError."""
    async with make_store() as store:
        await add(store, turn())
        for cursor in ("", "x", "é", "WzEsMl0=", "bnVsbA==", "' OR 1=1", "A" * 10_000, "\ud800", "\0"):
            with pytest.raises(ConfigError, match="cursor"):
                await store.list(ALL, limit=1, cursor=cursor)
            with pytest.raises(ConfigError, match="cursor"):
                await store.dump(ALICE, limit=1, cursor=cursor)


async def test_a_cursor_is_of_its_sort(make_store: MakeStore) -> None:
    """A cursor of one sort is refused by the others, and by a dump."""
    async with make_store() as store:
        await add(store, turn(), turn())
        for sort in SORTS:
            cursor = (await store.list(ALL, limit=1, sort=sort)).cursor
            for other in set(SORTS) - {sort}:
                with pytest.raises(ConfigError, match="cursor"):
                    await store.list(ALL, limit=1, sort=other, cursor=cursor)
            with pytest.raises(ConfigError, match="cursor"):
                await store.dump(ALICE, limit=1, cursor=cursor)


# Neighbours


async def test_neighbours_are_the_turns_around_one(make_store: MakeStore) -> None:
    """As many as are asked for on each side, by time and then id, however they were stored."""
    said = [turn(name, id=name, minute=minute) for name, minute in zip("dbacfe", (3, 1, 1, 2, 5, 4), strict=True)]
    asked = {
        ("c", 1, 1): "bd",
        ("c", 2, 0): "ab",
        ("c", 0, 9): "def",
        ("c", 9, 9): "abdef",
        ("a", 1, 1): "b",
        ("b", 1, 1): "ac",
        ("f", 1, 1): "e",
        ("c", 0, 0): "",
    }
    async with make_store() as store:
        await add(store, *said)
        for (turn_id, before, after), expected in asked.items():
            around = await store.neighbours([turn_id], before=before, after=after)
            assert {one: "".join(t.text for t in turns) for one, turns in around.items()} == {turn_id: expected}
        around = await store.neighbours(["f", "c", "nope", "\ud800", "d", "c"])
        assert {one: [t.text for t in turns] for one, turns in around.items()} == {
            "f": ["e"],
            "c": ["b", "d"],
            "d": ["c", "e"],
        }
        assert await store.neighbours([]) == {}


async def test_neighbours_are_of_exactly_the_scope(make_store: MakeStore) -> None:
    """Turns of wider and narrower scopes, facts and expired turns are no neighbours."""
    middle = turn("middle", minute=5)
    async with make_store() as store:
        await add(store, turn("before"), middle, turn("after", minute=9))
        others = [BOB, Scope(), Scope("alice", "a"), Scope("alice", None, "r"), Scope(None, "alice")]
        await add(store, *[turn(f"other {scope}", scope, minute=minute) for scope in others for minute in (4, 5, 6)])
        await add(store, turn("expired", minute=4, expires_at=LONG_AGO), turn("still", minute=6, expires_at=FAR_OFF))
        known = fact("fact", at=middle.at)
        await learn(store, known)
        around = await store.neighbours([middle.id, known.id], before=9, after=9)
        assert {one: [t.text for t in turns] for one, turns in around.items()} == {
            middle.id: ["before", "still", "after"]
        }


async def test_neighbours_of_what_expired(make_store: MakeStore) -> None:
    """A turn that expired still has its neighbours."""
    gone = turn("gone", minute=1, expires_at=LONG_AGO)
    async with make_store() as store:
        await add(store, turn("before"), gone, turn("after", minute=2))
        around = await store.neighbours([gone.id])
        assert [t.text for t in around[gone.id]] == ["before", "after"]


# Counts


async def test_scopes_are_listed_in_order(make_store: MakeStore) -> None:
    """The scopes that hold memories, by user, agent and run, none before any text, with counts and the newest."""
    names = [None, "A", "a", "a'", "b", "花"]
    scopes = [Scope(user, agent, run) for user in names for agent in (None, "x") for run in (None, "y")]
    async with make_store() as store:
        shuffled = random.Random(1).sample(scopes, len(scopes))  # noqa: S311 - no secret
        await add(store, *[turn(str(scope), scope, minute=i) for i, scope in enumerate(shuffled)])
        await add(store, turn("newer", ALICE, minute=99))
        told = await store.scopes(Scope(), limit=1000)
        assert [counts.scope for counts in told] == [*scopes[:16], ALICE, *scopes[16:]]
        assert {(counts.turns, counts.facts) for counts in told} == {(1, 0)}
        for counts in told:
            minute = 99 if counts.scope == ALICE else shuffled.index(counts.scope)
            assert counts.newest == START + timedelta(minutes=minute)


async def test_scopes_come_in_pages_of_a_scope(make_store: MakeStore) -> None:
    """Each page goes on after the last of the one before; ids that are set must match; a scope without any is gone."""
    scopes = [Scope(user, agent) for user in ("u1", "u2", "u3") for agent in (None, "a", "b")]
    said = [turn("x", scope) for scope in scopes]
    async with make_store() as store:
        await add(store, *said, turn("x", Scope()))
        for limit in (1, 2, 100):
            seen: list[ScopeCounts] = []
            while more := await store.scopes(Scope(), limit=limit, after=seen[-1].scope if seen else None):
                seen += more
                assert len(seen) <= 10
            assert [counts.scope for counts in seen] == [Scope(), *scopes]
        assert [counts.scope for counts in await store.scopes(Scope("u2"), limit=9)] == scopes[3:6]
        assert [counts.scope for counts in await store.scopes(Scope("u2"), limit=9, after=scopes[3])] == scopes[4:6]
        assert [counts.scope for counts in await store.scopes(Scope(None, "a"), limit=9)] == scopes[1::3]
        assert await store.scopes(Scope("nobody"), limit=9) == []
        await store.delete(said[4].id)
        assert [counts.scope for counts in await store.scopes(Scope("u2"), limit=9)] == [scopes[3], scopes[5]]
        assert [counts.scope for counts in await store.scopes(Scope("u2"), limit=1, after=scopes[4])] == scopes[5:6]


async def test_everything_is_counted(make_store: MakeStore) -> None:
    """Counts have superseded and expired memories in them, and statistics tell how many these are."""
    async with make_store() as store:
        empty = await store.statistics()
        assert (empty.turns, empty.facts, empty.scopes, empty.space) == (0, 0, 0, None)
        await add(store, turn("a"), turn("b", expires_at=LONG_AGO), turn("c", BOB, expires_at=FAR_OFF))
        await learn(store, fact("d"), fact("e", valid_to=LONG_AGO), fact("f", valid_to=FAR_OFF))
        await learn(store, fact("g", valid_to=LONG_AGO, expires_at=LONG_AGO))
        for _ in range(3):
            await add(store, turn("h", BOB), extract=True)
        await store.release_jobs([await claim(store)], error="hopeless", retry_at=None)
        await claim(store)
        assert await store.counts(ALICE) == Counts(2, 4)
        assert await store.counts(Scope()) == Counts(6, 4)
        assert await store.counts(Scope("nobody")) == Counts(0, 0)
        told = await store.statistics()
        assert (told.turns, told.facts, told.superseded, told.expired) == (6, 4, 2, 2)
        assert (told.scopes, told.jobs_queued, told.jobs_dead) == (2, 2, 1)
        assert told.space == EmbeddingSpace(MODEL, DIMENSION)
        assert told.size_bytes > 0
        assert told.schema_version >= 1
        await store.delete_all(Selection(everything=True))
        left = await store.statistics()
        assert (left.turns, left.facts, left.superseded, left.expired, left.scopes) == (0, 0, 0, 0, 0)
        assert left.space == told.space
