"""What every store finds: the nearest vectors, and the texts that share words with a query."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ollama_async_mem.records import Scope, Selection
from stores.samples import ALICE, BOB, DIMENSION, MODEL, about, add, axis, near, texts, turn

if TYPE_CHECKING:
    from stores.samples import MakeStore

# Dense search


async def test_dense_returns_the_nearest_first(make_store: MakeStore) -> None:
    """Candidates come best first with their cosine, at most `limit`, whatever the query's length."""
    async with make_store() as store:
        for text, vector in {"east": axis(1), "north": axis(0, 1), "between": axis(1, 1)}.items():
            await add(store, turn(text), vector=vector)
        found = await store.dense_candidates(Selection(scope=ALICE), axis(1) * 7, model=MODEL, limit=2)
    assert texts(found) == ["east", "between"]
    assert [c.score for c in found] == pytest.approx([1, math.sqrt(0.5)], abs=1e-6)


async def test_dense_agrees_with_a_plain_matrix_product(make_store: MakeStore) -> None:
    """Over many vectors that come in several calls, the best are exactly those of a full sort."""
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((500, DIMENSION)).astype(np.float32)
    async with make_store() as store:
        for start in range(0, 500, 125):
            chosen = range(start, start + 125)
            await store.add_turns([turn(str(i)) for i in chosen], [rows[i] for i in chosen], model=MODEL)
            query = rng.standard_normal(DIMENSION).astype(np.float32)
            cosines = rows[: start + 125] @ query / np.linalg.norm(rows[: start + 125], axis=1)
            expected = [str(i) for i in np.argsort(-cosines)[:10]]
            assert await near(store, ALICE, query) == expected


async def test_dense_on_an_empty_store_finds_nothing(make_store: MakeStore) -> None:
    """Nothing stored, nothing found; a scope that was never seen has nothing either."""
    async with make_store() as store:
        assert await near(store, ALICE, axis(1)) == []
        await add(store, turn("here"))
        assert await near(store, BOB, axis(1)) == []
        assert await near(store, Scope("alice", "nobody"), axis(1)) == []


async def test_dense_finds_all_where_there_are_fewer(make_store: MakeStore) -> None:
    """A limit above what there is gives all of it once; equal vectors are all found, whichever come first."""
    async with make_store() as store:
        await add(store, *[turn(str(i)) for i in range(5)])
        await add(store, turn("far"), vector=axis(-1))
        found = await near(store, ALICE, axis(1), 10_000)
        assert (sorted(found[:5]), found[5:]) == (list("01234"), ["far"])
        assert len(set(await near(store, ALICE, axis(1), 3))) == 3


# Keyword search


async def test_keywords_rank_rare_words_and_stems(make_store: MakeStore) -> None:
    """A word matches by its stem and without regard to case and accents; more matching words come first."""
    async with make_store() as store:
        said = ["I am allergic to peanuts", "the café was closed", "peanuts and cashews", "nothing at all"]
        await add(store, *[turn(text) for text in said])
        assert await about(store, ALICE, "PEANUT allergic?") == [said[0], said[2]]
        assert await about(store, ALICE, "cafe") == ["the café was closed"]
        found = await store.keyword_candidates(Selection(scope=ALICE), "peanut allergic", limit=9)
        assert found[0].score > found[1].score > 0


async def test_keywords_find_the_speaker(make_store: MakeStore) -> None:
    """A turn is found by the name of its speaker."""
    async with make_store() as store:
        await add(store, turn("I moved to Lyon", speaker="Melanie"), turn("me too"))
        assert await about(store, ALICE, "where does Melanie live") == ["I moved to Lyon"]


async def test_stop_words_count_only_when_alone(make_store: MakeStore) -> None:
    """Words like `the` find nothing beside others, but are looked for when a query has no others."""
    async with make_store() as store:
        await add(store, turn("the who"), turn("peanut"))
        assert await about(store, ALICE, "who is the peanut") == ["peanut"]
        assert await about(store, ALICE, "The Who") == ["the who"]


SCRIPTS = [
    ("我对花生过敏", "花生"),
    ("我对花生过敏", "你对花生过敏吗?"),
    ("我住在巴黎Paris", "巴黎"),
    ("我住在巴黎Paris", "paris"),
    ("ピーナッツアレルギーがあります", "アレルギー"),
    ("犬", "犬"),
    ("ฉันแพ้ถั่วลิสง", "ถั่วลิสง"),
    ("ฉันแพ้ถั่วลิสง", "คุณแพ้อะไร"),
    ("ຂ້ອຍແພ້ຖົ່ວດິນ", "ຖົ່ວດິນ"),
    ("ខ្ញុំប្រតិកម្មសណ្តែកដី", "សណ្តែកដី"),
    ("ကျွန်တော်မြေပဲနဲ့ဓာတ်မတည့်ဘူး", "မြေပဲ"),
    ("a 🎂 for her", "🎂"),
    ("so good👍🏽", "👍"),
    ("off to 🇫🇮 with 👩‍💻", "🇫🇮"),
    ("off to 🇫🇮 with 👩‍💻", "👩"),
    ("a coffee ☕️, please", "☕"),
    ("हिन्दी में", "हिन्दी"),
    ("re\u0301sume\u0301", "résumé"),
    ("땅콩 알레르기", "땅콩"),
    ("אני אלרגי לבוטנים", "לבוטנים"),
    ("لدي حساسية من الفول", "الفول"),
    ("\u202ea nut\u202c 🥜🏳️‍🌈 allergy", "NUTS 🥜"),
    ("Straße", "straße"),
]


async def test_keywords_work_without_spaces_and_in_other_scripts(make_store: MakeStore) -> None:
    """Text without spaces is found by the characters it holds, in other scripts by its words, and by its emoji."""
    async with make_store() as store:
        await add(store, turn("peanut"))
        for text, query in SCRIPTS:
            said = turn(text)
            await add(store, said)
            assert await about(store, ALICE, query) == [text]
            assert await about(store, ALICE, "猫 cat แมว 🐈 🇫🇷") == []
            await store.delete(said.id)
            assert await about(store, ALICE, query) == []


QUERIES = [
    "",
    "   ",
    "?!",
    "🥜",
    "\0",
    '"',
    "body : x",
    "scope : tu1",
    "tu1 t0 fu1",
    "x* NEAR(a b) ^c {d}",
    "AND OR NOT",
    "'); DROP TABLE memories; --",
    "\ud800",
    "(" * 500,
    " ".join(f"w{i}" for i in range(10_000)),
    "x" * 1_000_000,
]


async def test_any_text_is_a_query(make_store: MakeStore) -> None:
    """No query is a syntax error, and none sees what it does not share a word with."""
    async with make_store() as store:
        await add(store, turn("peanut"))
        for query in QUERIES:
            assert await about(store, ALICE, query) == []
            assert await about(store, ALICE, f"peanut {query}") == ["peanut"]


async def test_keywords_find_the_best_where_there_are_many(make_store: MakeStore) -> None:
    """At most `limit` are found, those that share the most; a rare word counts for more than a common one."""
    async with make_store() as store:
        await add(store, *[turn(f"peanut {word} butter") for word in ("red", "green", "blue") for _ in range(10)])
        await add(store, turn("walnut bread"), turn("peanut walnut"))
        assert await about(store, ALICE, "peanut walnut", 2) == ["peanut walnut", "walnut bread"]
        assert len(await about(store, ALICE, "peanut walnut", 30)) == 30
        assert len(await about(store, ALICE, "peanut walnut", 10_000)) == 32


async def test_keywords_reach_the_end_of_a_long_text(make_store: MakeStore) -> None:
    """A megabyte is searched as a whole, and found by its first and its last word."""
    async with make_store() as store:
        await add(store, turn("peanut"))
        for filler in ("lorem ipsum ", "花", "\0", "peanut\0"):
            said = turn("zebra " + filler * (1_000_000 // len(filler.encode())) + " okapi")
            await add(store, said)
            assert await about(store, ALICE, "zebra") == [said.text]
            assert await about(store, ALICE, "okapi") == [said.text]
            await store.delete(said.id)
