"""The keyword index of an embedded store: how it splits text, and searches of large stores."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ollama_async_mem.errors import ConfigError
from ollama_async_mem.filters import parse_filters
from ollama_async_mem.records import Scope, Selection
from ollama_async_mem.stores import _sqlite_keywords
from ollama_async_mem.stores._sqlite_filters import condition_sql
from ollama_async_mem.stores.sqlite import SQLiteStore
from stores import files
from stores.samples import ALICE, BOB, FAR_OFF, LONG_AGO, MODEL, about, add, axis, everything, fact, learn, turn

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the store lies."""
    return tmp_path / "memory.db"


# Tokenizers


async def test_stems_are_of_the_default_only(path: Path) -> None:
    """With unicode61 a word is found as it is written, without regard to case and accents."""
    async with SQLiteStore(path, tokenize="unicode61 remove_diacritics 2") as store:
        await add(store, turn("los cafés olían a Rosas"), turn("我对花生过敏"))
        assert await about(store, ALICE, "CAFES") == ["los cafés olían a Rosas"]
        assert await about(store, ALICE, "rosa") == []
        assert await about(store, ALICE, "花生") == ["我对花生过敏"]
        assert await store.check() == []


async def test_trigrams_find_parts_of_words(path: Path) -> None:
    """With trigrams any three characters of a word find it; scopes whose numbers begin alike stay apart."""
    scopes = [Scope(f"user {i}", f"agent {i % 7}") for i in range(40)]
    async with SQLiteStore(path, tokenize="trigram") as store:
        await add(store, *[turn(f"Donaudampfschifffahrt {i}", scope) for i, scope in enumerate(scopes)])
        await add(store, turn("我对花生过敏"), turn("I love peanuts"))
        assert await about(store, ALICE, "nuts") == ["I love peanuts"]
        assert await about(store, ALICE, "花生过") == ["我对花生过敏"]
        for i, scope in enumerate(scopes):
            assert await about(store, scope, "DAMPFSCHIFF") == [f"Donaudampfschifffahrt {i}"]
        assert len(await about(store, Scope(None, "agent 1"), "fahrt", 100)) == 6
        said = (await store.list(Selection(scope=scopes[1]), limit=1)).items[0]
        await store.delete(said.id)
        assert await about(store, scopes[1], "fahrt") == []
        assert await store.check() == []
        assert await about(store, ALICE, "") == []


async def test_a_file_keeps_its_tokenizer(path: Path) -> None:
    """What a file was made with counts, whatever is asked for later."""
    async with SQLiteStore(path, tokenize="trigram") as store:
        await add(store, turn("I love peanuts"))
    for tokenize in ("unicode61", "no such thing"):
        async with SQLiteStore(path, tokenize=tokenize) as store:
            await add(store, turn("我对花生过敏"))
            assert await about(store, ALICE, "nuts") == ["I love peanuts"]
            assert await store.check() == []


@pytest.mark.parametrize("tokenize", ["no such thing", "unicode61 nonsense 1", "'; DROP TABLE memories; --"])
async def test_a_tokenizer_that_is_not_there_is_refused(path: Path, tokenize: str) -> None:
    """It is a ConfigError that names it, and the file can be opened with another one."""
    with pytest.raises(ConfigError, match="FTS5 has no tokenizer"):
        await SQLiteStore(path, tokenize=tokenize).__aenter__()
    assert files.store_threads() == []
    async with SQLiteStore(path) as store:
        await add(store, turn("I love peanuts"))
        assert await about(store, ALICE, "peanut") == ["I love peanuts"]


# Large stores


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a store of some hundred memories be a large one."""
    monkeypatch.setattr(_sqlite_keywords, "SMALL_STORE", 100)
    monkeypatch.setattr(_sqlite_keywords, "MAX_WALKED", 120)


async def fill(store: SQLiteStore, count: int = 600) -> None:
    """Turns of two people, every third with a frequent word, every fiftieth with a rarer one."""
    words = ["common " * (i % 3 == 0) + "scarce " * (i % 50 == 0) + f"w{i}" for i in range(count)]
    turns = [turn(text, (ALICE, BOB)[i % 2], minute=i) for i, text in enumerate(words)]
    await store.add_turns(turns, [axis(1)] * count, model=MODEL)


async def test_rare_words_rank_and_frequent_ones_fill_up(large: None, path: Path) -> None:
    """A frequent word costs no search, and still finds what has it: behind what rarer words find, newest first."""
    async with SQLiteStore(path) as store:
        await fill(store)
        found = await store.keyword_candidates(Selection(), "common scarce", limit=40)
        texts = [candidate.memory.text for candidate in found]
        assert ["scarce" in text for text in texts] == [True] * 12 + [False] * 28
        assert all("common" in text for text in texts[12:])
        assert texts[12:14] == ["common w597", "common w594"]
        scores = [candidate.score for candidate in found]
        assert scores == sorted(scores, reverse=True)
        assert scores[-1] > 0
        assert await about(store, Scope(), "common", 3) == ["common w597", "common w594", "common w591"]
        assert len(await about(store, Scope(), "common w7 w8", 1000)) == 202


async def test_all_words_of_a_query_are_found_in_each_scope(large: None, path: Path) -> None:
    """Whatever is left out of the ranking, the memories that are found are those with a word, if there is room."""
    queries = ["common", "common scarce", "scarce w1 w2 w3", "common w0", "w1 nothing", "nothing"]
    async with SQLiteStore(path) as store:
        await fill(store)
        for scope in (ALICE, BOB, Scope()):
            said = await everything(store, scope)
            for query in [*queries, *queries]:
                expected = {text for text in said if set(text.split()) & set(query.split())}
                assert set(await about(store, scope, query, 1000)) == expected


async def test_what_does_not_hold_takes_no_place_in_a_large_store(large: None, path: Path) -> None:
    """Filters, ends and kinds are looked at before the limit, for words that rank and for those that fill up."""
    async with SQLiteStore(path) as store:
        await fill(store)
        gone = [turn("common scarce gone", expires_at=LONG_AGO) for _ in range(40)]
        await add(store, *gone, turn("common scarce kept", metadata={"a": 1}))
        await learn(store, fact("common scarce ended", valid_to=LONG_AGO), fact("common ending", valid_to=FAR_OFF))
        chosen = {"where": parse_filters({"a": 1})}
        for query in ("scarce", "common"):
            assert await about(store, ALICE, query, 1, **chosen) == ["common scarce kept"]
            assert "common scarce gone" not in await about(store, ALICE, query, 1000)
        assert await about(store, ALICE, "common", 5, kinds=("fact",)) == ["common ending"]
        assert len(await about(store, ALICE, "scarce", 1000, everything=True)) == 12 + 40 + 2


async def test_counts_follow_a_store_that_grows(large: None, path: Path) -> None:
    """A word that was rare and became frequent is counted again, also when others wrote it."""
    async with SQLiteStore(path) as store, SQLiteStore(path) as other:
        await fill(store, 120)
        assert await about(store, Scope(), "rising", 5) == []
        assert store._words._counts._counts['body : "rising"'] == 0
        await other.add_turns([turn(f"rising {i}") for i in range(300)], [axis(1)] * 300, model=MODEL)
        assert await about(store, Scope(), "rising w7", 2) == ["w7", "rising 299"]
        assert store._words._counts._counts['body : "rising"'] == 120


async def test_counting_is_bounded(large: None, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many words are asked for, what is remembered of them stays small."""
    monkeypatch.setattr(_sqlite_keywords, "MAX_KNOWN", 50)
    async with SQLiteStore(path) as store:
        await fill(store, 150)
        rng = np.random.default_rng(5)
        for _ in range(30):
            query = " ".join(f"w{i}" for i in rng.integers(0, 150, 5))
            assert await about(store, Scope(), query, 10) != []
            assert len(store._words._counts._counts) <= 60


# Filters and plans


def test_filters_put_no_text_into_sql() -> None:
    """Names and values, whatever they are, are parameters."""
    evil = "zqx') OR 1=1 --"
    tree = {
        evil: evil,
        f"metadata.{evil}.zqx": {"gt": evil, "in": [evil, 1], "contains": evil, "icontains": evil, "exists": True},
        "text": {"contains": evil, "nin": [evil, None]},
        "user_id": {"icontains": evil},
        "OR": [{"at": {"gt": "2026-01-01"}}, {"NOT": {"quote": evil}}],
    }
    condition = parse_filters(tree)
    assert condition is not None
    sql, values = condition_sql(condition)
    assert "zqx" not in sql
    assert sql.count("?") == len(values)


@pytest.mark.parametrize("scope", [Scope(), ALICE], ids=["all", "alice"])
async def test_listings_go_along_an_index(scope: Scope, path: Path) -> None:
    """The plan of a listing reads the rows of its page in order, before and after statistics were gathered."""
    async with SQLiteStore(path, readers=1) as store:
        await fill(store, 200)
        asked: list[str] = []
        await store._read(lambda conn: conn.set_trace_callback(asked.append))
        for _ in range(2):
            asked.clear()
            await store.list(Selection(scope=scope), limit=5)
            sql = next(sql for sql in asked if "ORDER BY" in sql)
            plan = str(await store._read(lambda conn, sql=sql: conn.execute(f"EXPLAIN QUERY PLAN {sql}").fetchall()))  # type: ignore[misc]
            index = "memories_by_time (scope_id=? AND (at,id)<(?,?))" if scope else "memories_of_all_by_time ((at,id)<"
            assert index in plan
            assert "SCAN memories" not in plan
            assert scope or "TEMP B-TREE" not in plan
            await store.optimize()
    assert await asyncio.to_thread(files.inspect, path)
