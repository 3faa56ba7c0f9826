"""How the store in PostgreSQL ranks words, and finds the nearest of many with an index."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ollama_async_mem.filters import parse_filters
from ollama_async_mem.records import Scope, Selection
from ollama_async_mem.stores import _postgres_admin as admin
from ollama_async_mem.stores import _postgres_search as search
from ollama_async_mem.stores import open_store
from stores.databases import Explaining, database_name, execute, explained
from stores.samples import ALICE, BOB, MODEL, START, about, add, axis, near, texts, turn

if TYPE_CHECKING:
    from ollama_async_mem.ports import MemoryStore

TEXTS = ["peanut", "peanut peanut walnut", "a walnut on the table", "peanut " * 300, "nothing of that " * 5, "walnut"]


def bm25(words: dict[str, list[str]], query: list[str]) -> dict[str, float]:
    """Scores by the textbook, of texts as their words."""
    mean = sum(map(len, words.values())) / len(words)
    scores = dict.fromkeys(words, 0.0)
    for term in query:
        has = [text for text in words if term in words[text]]
        idf = math.log(1 + (len(words) - len(has) + 0.5) / (len(has) + 0.5))
        for text in has:
            times = min(words[text].count(term), 255)  # what PostgreSQL counts up to
            scores[text] += idf * times * 2.2 / (times + 1.2 * (0.25 + 0.75 * len(words[text]) / mean))
    return {text: score for text, score in scores.items() if score}


async def test_words_are_ranked_by_bm25(database: str) -> None:
    """The scores are those of the formula, over the memories of the scope."""
    async with open_store(database) as store:
        await add(store, *(turn(text) for text in TEXTS))
        await add(store, *(turn("peanut walnut", BOB) for _ in range(20)))
        found = await store.keyword_candidates(Selection(scope=ALICE), "Peanuts or walnuts?", limit=10)
    wanted = bm25({text: text.split() for text in TEXTS}, ["peanut", "walnut"])
    assert texts(found) == sorted(wanted, key=lambda text: -wanted[text])
    assert {c.memory.text: c.score for c in found} == pytest.approx(wanted, rel=0.02)


async def test_the_most_frequent_words_of_large_scopes_do_not_rank(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the words of a query match too many memories, the rarest rank, and the others fill what these leave."""
    async with open_store(database) as store:
        await add(store, *(turn(f"common {'rare' if n % 10 == 0 else 'other'} {n}") for n in range(200)))
        await store.optimize()
        monkeypatch.setattr(search, "MATCHED_ROWS", 150)
        found = await store.keyword_candidates(Selection(scope=ALICE), "common rare", limit=22)
        assert [("rare" in c.memory.text, c.score > 1e-6) for c in found] == [(True, True)] * 20 + [(False, False)] * 2
        assert texts(found)[20:] == ["common other 199", "common other 198"]
        assert len(await about(store, ALICE, "common rare", limit=500)) == 200
        monkeypatch.setattr(search, "MATCHED_ROWS", 1)
        assert min(c.score for c in await store.keyword_candidates(Selection(), "common", limit=500)) > 1e-6
        monkeypatch.setattr(search, "MOST_FOR_ONE", 1)
        assert await about(store, ALICE, "common", limit=2) == ["common other 199", "common other 198"]
        assert await about(store, BOB, "common", limit=2) == []


async def test_a_word_that_is_too_long_for_the_index_is_left_out(database: str) -> None:
    """A word of some thousand characters is stored, and its neighbours are found."""
    text = f"peanut {'x' * 3_000} walnut"
    async with open_store(database) as store:
        await add(store, turn(text))
        assert await about(store, ALICE, "walnut") == [text]
        assert await about(store, ALICE, "x" * 3_000) == []


# The index of vectors


async def test_a_large_scope_without_the_index_is_told(
    database: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first slow search of a scope that is too large warns, once; of small ones and with the index none does."""
    monkeypatch.setattr(search, "EXACT_ROWS", 50)
    monkeypatch.setattr(admin, "EXACT_ROWS", 50)
    monkeypatch.setattr(search, "SLOW_S", 0)
    async with open_store(database) as store:
        await add(store, *(turn(str(n)) for n in range(51)))
        await add(store, *(turn(str(n), BOB) for n in range(50)))
        await near(store, BOB, axis(1))
        assert caplog.messages == []
        for _ in range(3):
            await near(store, ALICE, axis(1))
        (warning,) = caplog.messages
        assert "more than 50 memories" in warning
        assert f"ollama-async-mem store optimize {store.location}" in warning
        await store.optimize()
    async with open_store(database) as store:
        await near(store, ALICE, axis(1))
    assert len(caplog.messages) == 1


ROWS, DIMENSION = 4_000, 16


@pytest.fixture
async def many(database: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A store with an index of vectors, which is used from a hundred memories on, and the vectors by text."""
    monkeypatch.setattr(search, "EXACT_ROWS", 100)
    monkeypatch.setattr(admin, "EXACT_ROWS", 100)
    name = database_name(database)  # for so few rows the planner would rather sort them all
    await execute(database, *(f"ALTER DATABASE {name} SET enable_{way} = off" for way in ("sort", "seqscan")))
    rows = np.random.default_rng(1).standard_normal((ROWS, DIMENSION)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    async with open_store(database) as store:
        turns = [turn(str(n), Scope("alice" if n % 4 else "bob"), metadata={"n": n}) for n in range(ROWS)]
        await store.add_turns(turns, list(rows), model=MODEL)
        yield store, rows


async def is_used(store: Any, selection: Selection) -> bool:
    """Whether a search makes use of the index of vectors."""
    space, query = await store.embedding_space(), np.eye(1, DIMENSION, dtype=np.float32)[0]

    async def look(connection: Explaining) -> None:
        await search.dense_candidates(
            connection, selection, query, model=MODEL, bound=space, limit=10, now=START, where=""
        )

    return "using memories_by_vector" in (await explained(store, look)).plans


def nearest(rows: Any, query: Any, numbers: Any, limit: int) -> list[str]:
    """The texts of the nearest of some rows, by a full sort."""
    return [str(n) for n in sorted(numbers, key=lambda n: -float(rows[n] @ query))[:limit]]


async def recall(store: MemoryStore, rows: Any, selection: Selection, numbers: Any, limit: int = 10) -> float:
    """The share of the nearest that are found, over some queries; all that is found must be of the selection."""
    found = 0
    for query in np.random.default_rng(2).standard_normal((20, DIMENSION)).astype(np.float32):
        got = texts(await store.dense_candidates(selection, query, model=MODEL, limit=limit))
        assert len(got) == len(set(got)) == min(limit, len(numbers))
        assert set(got) <= {str(n) for n in numbers}
        found += len(set(got) & set(nearest(rows, query, numbers, limit)))
    return found / (20 * limit)


async def test_the_index_finds_what_exact_search_does(many: Any) -> None:
    """With the index and without it the same are found, nearly all of them, also where a filter leaves few."""
    store, rows = many
    everybody, alice = range(ROWS), [n for n in range(ROWS) if n % 4]
    some = Selection(scope=ALICE, where=parse_filters({"n": {"lt": 400}}))
    few = Selection(scope=ALICE, where=parse_filters({"n": {"lt": 40}}))
    assert await recall(store, rows, Selection(), everybody) == 1
    assert not await is_used(store, Selection())
    await store.optimize()
    assert await recall(store, rows, Selection(), everybody) >= 0.95
    assert await recall(store, rows, Selection(scope=ALICE), alice, limit=50) >= 0.95
    assert await is_used(store, Selection(scope=ALICE))
    assert not await is_used(store, few)
    assert await recall(store, rows, some, [n for n in alice if n < 400]) >= 0.95
    assert await recall(store, rows, few, [n for n in alice if n < 40]) == 1
    assert await near(store, ALICE, rows[0], kinds=("fact",)) == []


async def test_scores_of_the_index_are_exact(many: Any) -> None:
    """What the index proposes, in half of the precision, gets the score that it has."""
    store, rows = many
    await store.optimize()
    query = rows[7]
    found = await store.dense_candidates(Selection(), query, model=MODEL, limit=5)
    assert texts(found)[0] == "7"
    assert [c.score for c in found] == pytest.approx([float(rows[int(c.memory.text)] @ query) for c in found], abs=1e-6)


async def test_the_index_goes_when_nothing_needs_it(many: Any, database: str) -> None:
    """`optimize` drops the index when all scopes are small, or when it was left incomplete, and says so in `check`."""
    store, rows = many
    await store.optimize()
    await execute(
        database,
        "UPDATE pg_index SET indisvalid = FALSE FROM pg_class WHERE pg_class.oid = indexrelid "
        "AND relname = 'memories_by_vector'",
    )
    assert await store.check() == ["the index memories_by_vector is not complete"]
    await store.optimize()
    assert await store.check() == []
    await store.delete_all(Selection(where=parse_filters({"n": {"gte": 50}})))
    await store.optimize()
    sql = "SELECT to_regclass('ollama_async_mem.memories_by_vector')"
    assert (await execute(database, sql))[0][0] is None
    assert await recall(store, rows, Selection(), range(50)) == 1
