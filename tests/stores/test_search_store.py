"""Looking in two places in one step finds what looking twice does, whichever way a store takes to it."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ollama_async_mem.filters import AllOf, AnyOf, Compare, Field
from ollama_async_mem.records import Also, Scope, Selection
from ollama_async_mem.steps import SearchStore
from ollama_async_mem.stores import _sqlite_dense, _sqlite_keywords
from ollama_async_mem.stores.sqlite import SQLiteStore

from .samples import ALICE, BOB, DIMENSION, LONG_AGO, MODEL, START, axis, fact, learn, turn
from .test_codes import limits, settle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ollama_async_mem.filters import Condition
    from ollama_async_mem.records import Candidate

COUNT = 400
AT = Field("at")


def minutes(first: int, last: int) -> Condition:
    """That something was said in some minutes, as a query that names days has it."""
    begin, end = (turn(minute=minute).at for minute in (first, last))
    return AnyOf((AllOf((Compare(AT, "gte", begin), Compare(AT, "lt", end))), Compare(AT, "lt", LONG_AGO)))


ALSO = [
    None,
    Also(minutes(40, 60), 5),
    Also(minutes(0, 1), 500),
    Also(minutes(9_000, 9_001), 5),
    Also(Compare(Field("text"), "gt", "often"), 3),
]
SELECTIONS = [
    Selection(scope=ALICE),
    Selection(scope=ALICE, where=minutes(0, 200)),
    Selection(scope=ALICE, as_of=turn(minute=55).at),
    Selection(scope=BOB, kinds=("fact",)),
    Selection(),
    Selection(kinds=()),
    Selection(scope=Scope("nobody")),
]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    """Turns of two people with words of all sorts, and facts, many of which do not hold any more."""
    rng = np.random.default_rng(2)
    words = ("common", "often", "rare", "single")
    has = rng.random((COUNT, len(words))) < (0.6, 0.3, 0.05, 0.01)
    texts = [" ".join([*np.array(words)[row], f"w{n}"]) for n, row in enumerate(has)]
    vectors = list(rng.standard_normal((COUNT, DIMENSION)).astype(np.float32))
    async with SQLiteStore(tmp_path / "memory.db") as store:
        turns = [turn(text, ALICE if n % 4 else BOB, minute=n) for n, text in enumerate(texts)]
        await store.add_turns(turns, vectors, model=MODEL)
        ended = [fact(f"rare single often {n}", valid_to=LONG_AGO) for n in range(150)]
        await learn(store, *ended, *(fact(f"often held {n}", BOB) for n in range(5)))
        yield store


def listed(found: list[Candidate]) -> list[tuple[str, object]]:
    """What was found, and how well it fits."""
    return [(c.memory.id, pytest.approx(c.score)) for c in found]


def same(found: list[Candidate], twice: list[list[Candidate]]) -> bool:
    """Whether the same was found, each with its score, best first."""
    scores = {c.memory.id: c.score for of_one in reversed(twice) for c in of_one}
    mine = [c.score for c in found]
    assert mine == sorted(mine, reverse=True)
    return {c.memory.id: pytest.approx(c.score) for c in found} == scores and len(found) == len(scores)


@pytest.mark.parametrize("way", ["small", "large", "narrow", "large and few are tried"])
async def test_by_words(store: SQLiteStore, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the best of a large store do not hold any more, and others must be looked up."""
    if way != "small":
        monkeypatch.setattr(_sqlite_keywords, "SMALL_STORE", 50)
        monkeypatch.setattr(_sqlite_keywords, "MAX_WALKED", 600)
    monkeypatch.setattr(_sqlite_keywords, "NARROW", 10_000 if way == "narrow" else 0)
    monkeypatch.setattr(_sqlite_keywords, "TRIED", 1 if way == "large and few are tried" else 4)
    assert isinstance(store, SearchStore)
    for selection in SELECTIONS:
        for also in ALSO:
            for query in ("common rare", "rare single", "often", "w7 w55", "nothing"):
                for limit in (3, 40):
                    twice = [await store.keyword_candidates(selection, query, limit=limit)]
                    if also is not None and selection.kinds:
                        narrowed = also.within(selection)
                        twice.append(await store.keyword_candidates(narrowed, query, limit=also.limit))
                    told: list[list[Candidate]] = []
                    found = await store.search_by_words(selection, query, limit=limit, also=also, tell=told.append)
                    assert told == [found]
                    assert same(found, twice)


@pytest.mark.parametrize("way", ["exact", "shared by threads", "by codes", "codes to come"])
async def test_by_vector(store: SQLiteStore, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other and all at once, however large the scope is."""
    if way == "shared by threads":
        monkeypatch.setattr(_sqlite_dense, "SHARED_BYTES", 1)
    queries = [axis(*weights) for weights in np.random.default_rng(3).standard_normal((6, DIMENSION))]
    asked = [(query, also) for query in queries for also in ALSO]

    async def find(selection: Selection, query: np.ndarray, also: Also | None) -> list[Candidate]:
        found, near = await store.search_by_vector(
            selection, query, model=MODEL, limit=7, also=also, choose=lambda found: [c.memory.id for c in found[:2]]
        )
        assert near == await store.neighbours([c.memory.id for c in found[:2]])
        return found

    with limits(EXACT_ROWS=10) if "codes" in way else nullcontext():
        if way == "by codes":
            await settle(store)
        for selection in SELECTIONS:
            alone = [await find(selection, query, also) for query, also in asked]
            together = await asyncio.gather(*(find(selection, query, also) for query, also in asked))
            assert [listed(found) for found in together] == [listed(found) for found in alone]
            for (query, also), found in zip(asked, alone, strict=True):
                places = [(selection, 7)] if also is None else [(selection, 7), (also.within(selection), also.limit)]
                twice = [await store.dense_candidates(at, query, model=MODEL, limit=n) for at, n in places]
                assert same(found, twice)


def test_a_second_place_is_a_part_of_the_first() -> None:
    """A filter that is there already counts too."""
    also = Also(minutes(40, 60), 5)
    assert also.within(Selection(scope=ALICE)) == Selection(scope=ALICE, where=also.where)
    filtered = Selection(scope=ALICE, where=minutes(0, 200), as_of=START)
    assert also.within(filtered) == Selection(scope=ALICE, where=AllOf((minutes(0, 200), also.where)), as_of=START)
