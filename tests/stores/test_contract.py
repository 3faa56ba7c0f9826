"""What every store does: the contract of `ports.MemoryStore`."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ollama_async_mem.errors import ConfigError, EmbeddingMismatch, RecordNotFound, StoreClosed, StoreError
from ollama_async_mem.records import Counts, EmbeddingSpace, Fact, Job, JobStatus, Scope, Turn
from stores.samples import (
    ALICE,
    BOB,
    BOTH,
    DIMENSION,
    LEASE,
    MODEL,
    START,
    about,
    add,
    axis,
    claim,
    everything,
    fact,
    learn,
    near,
    texts,
    turn,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ollama_async_mem.ports import MemoryStore

    MakeStore = Callable[[], MemoryStore]

NO_JOB = Job(id="nope", scope=ALICE, turn_ids=(), attempts=1)

# Reading back what was written


async def test_a_turn_comes_back_as_it_was(make_store: MakeStore) -> None:
    """`get` returns a turn equal to the one that was added, with its own clock and metadata."""
    said = turn(
        "Zoë said: it's 25°C — 花生 🥜",
        Scope("alice", "helper", "run-1"),
        role="assistant",
        speaker="Zoë",
        at=datetime(2026, 3, 1, 23, 30, 15, 123456, tzinfo=timezone(timedelta(hours=-5))),
        metadata={"source": {"page": 3}, "tags": ["a", None, 1.5]},
    )
    async with make_store() as store:
        await add(store, said)
        found = await store.get(said.id)
    assert found == said
    assert found.at.utcoffset() == timedelta(hours=-5)


async def test_a_fact_comes_back_as_it_was(make_store: MakeStore) -> None:
    """`get` returns a fact equal to the one that was stored, its turns in the order given."""
    said = [turn(f"part {i}") for i in range(3)]
    ids = (said[2].id, said[0].id, said[1].id)
    known = fact("It is so", turn_ids=ids, valid_to=START + timedelta(days=1), metadata={"n": 1})
    async with make_store() as store:
        await add(store, *said)
        await learn(store, known)
        assert await store.get(known.id) == known


@pytest.mark.parametrize(
    "text", ["", "\0", "a\0peanut\0b", "\ufeffbom", "x" * 1_000_000, "'; DROP TABLE memories; --", "\r\n\t"]
)
async def test_any_text_is_stored_word_for_word(make_store: MakeStore, text: str) -> None:
    """NUL, control characters, SQL and a megabyte come back unchanged, and can be deleted."""
    said = turn(text, speaker=text)
    async with make_store() as store:
        await add(store, said)
        assert await store.get(said.id) == said
        await store.delete(said.id)
        assert await store.counts(Scope()) == Counts(0, 0)


async def test_lone_surrogates_become_replacement_characters(make_store: MakeStore) -> None:
    """Halves of a pair that meet are one character again; lone ones become U+FFFD."""
    said = turn("a\ud83eb \ud83e\udd5c peanut\udc00", speaker="\ud800")
    async with make_store() as store:
        await add(store, said)
        assert await everything(store, ALICE) == ["a\ufffdb \U0001f95c peanut\ufffd"]
        assert await about(store, ALICE, "peanut \ud800") == ["a\ufffdb \U0001f95c peanut\ufffd"]


async def test_an_unknown_id_is_not_found(make_store: MakeStore) -> None:
    """`get` and `delete` of an id that is not there raise RecordNotFound."""
    async with make_store() as store:
        for unknown in ("nope", "", "' OR 1=1 --", "\ud800"):
            with pytest.raises(RecordNotFound):
                await store.get(unknown)
            with pytest.raises(RecordNotFound):
                await store.delete(unknown)


# What cannot be stored


@pytest.mark.parametrize(
    "vector",
    [[math.nan] * DIMENSION, [math.inf] + [0.0] * (DIMENSION - 1), [0.0] * DIMENSION, [], [[1.0, 2.0]]],
    ids=["nan", "inf", "zero", "empty", "matrix"],
)
async def test_a_vector_without_direction_is_refused(make_store: MakeStore, vector: list[Any]) -> None:
    """NaN, infinity, zero and wrong shapes are errors, on adding and on searching, and store nothing."""
    async with make_store() as store:
        await add(store, turn("kept"))
        with pytest.raises(StoreError):
            await add(store, turn("fine"), turn("lost"), vector=np.array(vector, np.float32))
        with pytest.raises(StoreError):
            await near(store, ALICE, np.array(vector, np.float32))
        assert await everything(store, ALICE) == ["kept"]


async def test_vectors_of_another_model_or_dimension_are_refused(make_store: MakeStore) -> None:
    """The first vectors bind the store; others raise EmbeddingMismatch naming both and store nothing."""
    async with make_store() as store:
        assert await store.embedding_space() is None
        await add(store, turn("kept"))
        assert await store.embedding_space() == EmbeddingSpace(MODEL, DIMENSION)
        with pytest.raises(EmbeddingMismatch, match=r"embedder:1 with 8 dimensions.*other with 8 dimensions"):
            await store.add_turns([turn("lost")], [axis(1)], model="other")
        with pytest.raises(EmbeddingMismatch, match="with 2 dimensions"):
            await store.add_turns([turn("lost")], [np.ones(2, np.float32)], model=MODEL)
        assert await everything(store, Scope()) == ["kept"]


@pytest.mark.parametrize(("model", "dimension"), [(MODEL, 2), ("other", 2), ("other", DIMENSION)])
async def test_a_query_of_another_model_or_dimension_is_refused(
    make_store: MakeStore, model: str, dimension: int
) -> None:
    """A search with such a vector raises EmbeddingMismatch that names the store and both models with dimensions."""
    async with make_store() as store:
        query = np.ones(dimension, np.float32)
        assert await store.dense_candidates(ALICE, query, model=model, kinds=BOTH, limit=1) == []
        await add(store, turn())
        with pytest.raises(EmbeddingMismatch) as caught:
            await store.dense_candidates(ALICE, query, model=model, kinds=BOTH, limit=1)
        assert caught.value.expected == f"{MODEL} with {DIMENSION} dimensions"
        assert caught.value.got == f"{model} with {dimension} dimensions"
        assert store.location in str(caught.value)


async def test_the_embedding_space_stays_when_all_is_deleted(make_store: MakeStore) -> None:
    """A store whose memories were all deleted still takes vectors of its model only."""
    async with make_store() as store:
        said = turn()
        await add(store, said)
        await store.delete(said.id)
        assert await store.embedding_space() == EmbeddingSpace(MODEL, DIMENSION)
        with pytest.raises(EmbeddingMismatch):
            await store.add_turns([turn()], [axis(1)], model="other")


async def test_vectors_of_two_dimensions_in_one_call_are_refused(make_store: MakeStore) -> None:
    """A call whose vectors differ among themselves binds nothing and stores nothing."""
    async with make_store() as store:
        with pytest.raises(EmbeddingMismatch):
            await store.add_turns([turn(), turn()], [axis(1), np.ones(2, np.float32)], model=MODEL)
        assert await store.embedding_space() is None


async def test_an_id_is_stored_once(make_store: MakeStore) -> None:
    """A second memory with an id is an error, within a call and between calls, and stores nothing of the call."""
    first = turn("first")
    async with make_store() as store:
        await add(store, first)
        with pytest.raises(StoreError, match=first.id):
            await add(store, turn("other"), turn("again", id=first.id))
        with pytest.raises(StoreError):
            await add(store, turn("twin", id="x"), turn("twin", id="x"))
        assert await everything(store, Scope()) == ["first"]


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": {"x": object()}},
        {"metadata": {"x": "\ud800"}},
        {"id": "\ud800"},
        {"at": START.replace(tzinfo=None)},
        {"at": datetime.min.replace(tzinfo=timezone(timedelta(hours=5)))},
    ],
    ids=["object", "surrogate", "id", "naive", "year0"],
)
async def test_what_cannot_be_kept_is_refused(make_store: MakeStore, fields: dict[str, Any]) -> None:
    """Metadata that is not JSON, times without a timezone and the like are a StoreError, not a changed record."""
    async with make_store() as store:
        with pytest.raises(StoreError):
            await add(store, turn("lost", **fields))
        assert await everything(store, Scope()) == []


async def test_turns_and_vectors_must_be_as_many(make_store: MakeStore) -> None:
    """A call with more turns than vectors stores nothing."""
    async with make_store() as store:
        with pytest.raises(StoreError, match="2 memories came with 1 vectors"):
            await store.add_turns([turn(), turn()], [axis(1)], model=MODEL)
        assert await store.add_turns([], [], model=MODEL, extract=True) is None
        assert await store.counts(Scope()) == Counts(0, 0)


@pytest.mark.parametrize("call", ["dense", "keyword", "list"])
async def test_limits_and_kinds_are_checked(make_store: MakeStore, call: str) -> None:
    """A limit below one and an unknown kind are a ConfigError."""
    async with make_store() as store:
        asked: dict[str, Callable[..., Any]] = {
            "dense": lambda **options: store.dense_candidates(ALICE, axis(1), model=MODEL, **options),
            "keyword": lambda **options: store.keyword_candidates(ALICE, "peanut", **options),
            "list": lambda **options: store.list(ALICE, **options),
        }
        with pytest.raises(ConfigError, match="limit"):
            await asked[call](kinds=BOTH, limit=0)
        with pytest.raises(ConfigError, match="allowed: turn, fact"):
            await asked[call](kinds=("turn", "dream"), limit=1)


# Dense search


async def test_dense_returns_the_nearest_first(make_store: MakeStore) -> None:
    """Candidates come best first with their cosine, at most `limit`, whatever the query's length."""
    async with make_store() as store:
        for text, vector in {"east": axis(1), "north": axis(0, 1), "between": axis(1, 1)}.items():
            await add(store, turn(text), vector=vector)
        found = await store.dense_candidates(ALICE, axis(1) * 7, model=MODEL, kinds=BOTH, limit=2)
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


# Keyword search


async def test_keywords_rank_rare_words_and_stems(make_store: MakeStore) -> None:
    """A word matches by its stem and without regard to case and accents; more matching words come first."""
    async with make_store() as store:
        said = ["I am allergic to peanuts", "the café was closed", "peanuts and cashews", "nothing at all"]
        await add(store, *[turn(text) for text in said])
        assert await about(store, ALICE, "PEANUT allergic?") == [said[0], said[2]]
        assert await about(store, ALICE, "cafe") == ["the café was closed"]
        found = await store.keyword_candidates(ALICE, "peanut allergic", kinds=BOTH, limit=9)
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


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("我对花生过敏", "花生"),
        ("我对花生过敏", "你对花生过敏吗?"),
        ("我住在巴黎Paris", "巴黎"),
        ("我住在巴黎Paris", "paris"),
        ("ピーナッツアレルギーがあります", "アレルギー"),
        ("犬", "犬"),
        ("हिन्दी में", "हिन्दी"),
        ("re\u0301sume\u0301", "résumé"),
        ("땅콩 알레르기", "땅콩"),
    ],
)
async def test_keywords_work_without_spaces_and_in_other_scripts(make_store: MakeStore, text: str, query: str) -> None:
    """Chinese and Japanese text is found by the characters it holds, other scripts by their words."""
    async with make_store() as store:
        said = turn(text)
        await add(store, turn("peanut"), said)
        assert await about(store, ALICE, query) == [text]
        assert await about(store, ALICE, "猫 cat") == []
        await store.delete(said.id)
        assert await about(store, ALICE, query) == []


@pytest.mark.parametrize(
    "query",
    [
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
    ],
)
async def test_any_text_is_a_query(make_store: MakeStore, query: str) -> None:
    """No query is a syntax error, and none sees what it does not share a word with."""
    async with make_store() as store:
        await add(store, turn("peanut"))
        assert await about(store, ALICE, query) == []
        assert "peanut" in await about(store, ALICE, f"peanut {query}")


# Scopes and kinds


async def test_ids_that_are_set_must_match(make_store: MakeStore) -> None:
    """As a filter, each id that is set must match and the others may be anything; no id matches all."""
    scopes = {
        "u": Scope("u"),
        "ua": Scope("u", "a"),
        "ur": Scope("u", None, "r"),
        "uar": Scope("u", "a", "r"),
        "a": Scope(None, "a"),
        "other": Scope("o", "a", "r"),
        "none": Scope(),
    }
    asked = {
        Scope("u"): {"u", "ua", "ur", "uar"},
        Scope("u", "a"): {"ua", "uar"},
        Scope(None, "a"): {"ua", "uar", "a", "other"},
        Scope(None, None, "r"): {"ur", "uar", "other"},
        Scope("u", "a", "r"): {"uar"},
        Scope("a"): set(),
        Scope(): set(scopes),
    }
    async with make_store() as store:
        await add(store, *[turn(f"peanut {name}", scope) for name, scope in scopes.items()])
        for scope, names in asked.items():
            expected = {f"peanut {name}" for name in names}
            assert set(await near(store, scope, axis(1))) == expected
            assert set(await about(store, scope, "peanut")) == expected
            assert set(await everything(store, scope)) == expected
            assert await store.counts(scope) == Counts(len(names), 0)


async def test_any_text_is_an_id(make_store: MakeStore) -> None:
    """Ids with quotes, spaces, SQL, index syntax or lone surrogates, and ids that differ in little, stay apart."""
    ids = [
        "",
        " ",
        "a",
        "A",
        "a ",
        "á",
        "a\u0301",
        "a b",
        '"a"',
        "a' OR 1=1 --",
        "u1",
        "tu1",
        "a\0",
        "\ud800",
        "\ufffd",
    ]
    async with make_store() as store:
        await add(store, *[turn(f"peanut {i}", Scope(name)) for i, name in enumerate(ids)])
        for i, name in enumerate(ids):
            assert await everything(store, Scope(name)) == [f"peanut {i}"]
            assert await near(store, Scope(name), axis(1)) == [f"peanut {i}"]
            assert await about(store, Scope(name), "peanut") == [f"peanut {i}"]
            assert (await store.list(Scope(name), kinds=BOTH, limit=1)).items[0].scope == Scope(name)
            assert await everything(store, Scope(None, name)) == []


async def test_kinds_are_told_apart(make_store: MakeStore) -> None:
    """Each kind can be asked for alone; no kind at all finds nothing."""
    async with make_store() as store:
        await add(store, turn("peanut turn"))
        await learn(store, fact("peanut fact"))
        for kinds, expected in {("turn",): ["peanut turn"], ("fact",): ["peanut fact"], (): []}.items():
            asked: Any = {"kinds": kinds, "limit": 5}
            assert texts(await store.dense_candidates(ALICE, axis(1), model=MODEL, **asked)) == expected
            assert texts(await store.keyword_candidates(ALICE, "peanut", **asked)) == expected
            assert [m.text for m in (await store.list(ALICE, **asked)).items] == expected
        assert await store.counts(ALICE) == Counts(turns=1, facts=1)


async def test_superseded_facts_are_kept_but_not_found(make_store: MakeStore) -> None:
    """A fact with `valid_to` is in `get`, `list` and `counts`, but no search proposes it."""
    old = fact("peanut old", valid_to=START + timedelta(days=1))
    async with make_store() as store:
        await learn(store, old, fact("peanut new"))
        assert await near(store, ALICE, axis(1)) == ["peanut new"]
        assert await about(store, ALICE, "peanut") == ["peanut new"]
        assert await store.get(old.id) == old
        assert sorted(await everything(store, ALICE)) == ["peanut new", "peanut old"]
        assert await store.counts(ALICE) == Counts(0, 2)


# Listing and deleting


async def test_pages_go_through_all_newest_first(make_store: MakeStore) -> None:
    """Pages joined are the whole listing by `at` then id, also while memories are added at the front."""
    said = [turn(str(i), minute=i // 3) for i in range(10)]
    expected = [m.text for m in sorted(said, key=lambda m: (m.at, m.id), reverse=True)]
    async with make_store() as store:
        await add(store, *said)
        seen: list[str] = []
        page = await store.list(ALICE, kinds=BOTH, limit=4)
        while True:
            seen += [memory.text for memory in page.items]
            await add(store, turn("newer", minute=99))
            if page.cursor is None:
                break
            page = await store.list(ALICE, kinds=BOTH, limit=4, cursor=page.cursor)
    assert seen == expected


async def test_the_last_page_has_no_cursor(make_store: MakeStore) -> None:
    """A page that ends exactly at the last memory says that there is no more."""
    async with make_store() as store:
        await add(store, turn("1"), turn("2", BOB))
        assert (await store.list(ALICE, kinds=BOTH, limit=1)).cursor is None
        assert (await store.list(Scope("nobody"), kinds=BOTH, limit=1)).items == ()


@pytest.mark.parametrize("cursor", ["", "x", "é", "WzEsMl0=", "bnVsbA==", "' OR 1=1", "A" * 10_000])
async def test_a_bad_cursor_is_refused(make_store: MakeStore, cursor: str) -> None:
    """A cursor that no page had is a ConfigError."""
    async with make_store() as store:
        with pytest.raises(ConfigError, match="cursor"):
            await store.list(ALICE, kinds=BOTH, limit=1, cursor=cursor)


async def test_what_is_deleted_is_gone_everywhere(make_store: MakeStore) -> None:
    """After `delete` a memory is in no search, listing, count or fact's sources; its neighbours are."""
    said = [turn("peanut a"), turn("peanut b")]
    known = fact("peanut fact", turn_ids=(said[0].id, said[1].id))
    async with make_store() as store:
        await add(store, *said)
        await learn(store, known)
        assert len(await near(store, ALICE, axis(1))) == 3
        await store.delete(said[0].id)
        with pytest.raises(RecordNotFound):
            await store.get(said[0].id)
        for found in (near(store, ALICE, axis(1)), about(store, ALICE, "peanut"), everything(store, ALICE)):
            assert sorted(await found) == ["peanut b", "peanut fact"]
        left = await store.get(known.id)
        assert isinstance(left, Fact)
        assert left.turn_ids == (said[1].id,)
        await store.delete(known.id)
        assert await store.counts(ALICE) == Counts(1, 0)


async def test_an_id_can_be_used_again_after_a_delete(make_store: MakeStore) -> None:
    """A memory added under the id of a deleted one is found as what it is now."""
    async with make_store() as store:
        await add(store, turn("peanut", id="x"), turn("walnut"))
        await near(store, ALICE, axis(1))
        await store.delete("x")
        await add(store, turn("cashew", id="x"), vector=axis(0, 1))
        assert await about(store, ALICE, "peanut") == []
        assert await near(store, ALICE, axis(0, 1)) == ["cashew", "walnut"]


# Jobs


async def test_a_job_has_the_turns_it_was_queued_with(make_store: MakeStore) -> None:
    """`add_turns` with `extract` queues one job: the turns in order, their scope, the first attempt."""
    scope = Scope("alice", None, "run")
    said = [turn("one", scope), turn("two", scope)]
    async with make_store() as store:
        job_id = await add(store, *said, extract=True)
        assert await add(store, turn("three")) is None
        assert await store.pending_jobs() == 1
        job = await claim(store)
        assert (job.id, job.scope, job.attempts) == (job_id, scope, 1)
        assert job.turn_ids == (said[0].id, said[1].id)


async def test_a_job_takes_turns_of_one_scope(make_store: MakeStore) -> None:
    """Turns of two scopes cannot be extracted as one; nothing is stored."""
    async with make_store() as store:
        with pytest.raises(StoreError, match="scope"):
            await add(store, turn("a"), turn("b", BOB), extract=True)
        assert await store.counts(Scope()) == Counts(0, 0)
        assert await store.pending_jobs() == 0


async def test_jobs_come_oldest_first_and_to_one_claimant(make_store: MakeStore) -> None:
    """Concurrent claims get different jobs, each once, and None when all are held."""
    async with make_store() as store:
        queued = [await add(store, turn(str(i)), extract=True) for i in range(5)]
        claims = await asyncio.gather(*(store.claim_job(now=START, lease=LEASE) for _ in range(8)))
        assert [job.id for job in claims if job] == queued
        assert claims.count(None) == 3
        assert await store.pending_jobs() == 5


async def test_a_lease_that_ends_gives_the_job_back(make_store: MakeStore) -> None:
    """A job that was claimed and neither finished nor released comes again after its lease, counted."""
    async with make_store() as store:
        await add(store, turn(), extract=True)
        first = await claim(store)
        assert await store.claim_job(now=START + LEASE - timedelta(microseconds=1), lease=LEASE) is None
        again = await claim(store, START + LEASE)
        assert (again.id, again.attempts) == (first.id, 2)


async def test_finishing_stores_facts_and_ends_the_job(make_store: MakeStore) -> None:
    """Facts are found once their job is finished; finishing again changes nothing, whatever it brings."""
    async with make_store() as store:
        said = turn("I love peanuts")
        await add(store, said, extract=True)
        job = await claim(store)
        known = fact("Alice loves peanuts", turn_ids=(said.id,))
        for brought in (known, fact("Alice hates peanuts", turn_ids=(said.id,))):
            await store.finish_job(job, [brought], [axis(0, 1)], model=MODEL)
        assert await near(store, ALICE, axis(0, 1)) == [known.text, said.text]
        assert sorted(await about(store, ALICE, "peanuts")) == sorted([known.text, said.text])
        assert await store.get(known.id) == known
        assert await store.pending_jobs() == 0
        assert await store.claim_job(now=START + LEASE, lease=LEASE) is None
        await store.release_job(job, error="too late", retry_at=START)
        await store.return_job(job)
        assert await store.pending_jobs() == 0


async def test_a_job_whose_facts_cannot_be_stored_stays(make_store: MakeStore) -> None:
    """When one fact is refused none is stored and the job is not done."""
    async with make_store() as store:
        await add(store, turn(), extract=True)
        job = await claim(store)
        facts = [fact("fine"), fact("lost")]
        with pytest.raises(StoreError):
            await store.finish_job(job, facts, [axis(1), axis(1) * 0], model=MODEL)
        with pytest.raises(EmbeddingMismatch):
            await store.finish_job(job, facts, [axis(1), axis(1)], model="other")
        with pytest.raises(StoreError, match="2 facts came with 1 vectors"):
            await store.finish_job(job, facts, [axis(1)], model=MODEL)
        assert await store.counts(Scope()) == Counts(1, 0)
        assert await store.pending_jobs() == 1
        await store.finish_job(job, [], [], model=MODEL)
        assert await store.pending_jobs() == 0


async def test_a_released_job_waits_for_its_time_or_is_given_up(make_store: MakeStore) -> None:
    """A job comes again at `retry_at` and not before; with None it never does."""
    later = START + timedelta(seconds=30)
    async with make_store() as store:
        await add(store, turn(), extract=True)
        await store.release_job(await claim(store), error="model away \ud800", retry_at=later)
        assert await store.pending_jobs() == 1
        assert await store.claim_job(now=START, lease=LEASE) is None
        await store.release_job(await claim(store, later), error="hopeless", retry_at=None)
        assert await store.claim_job(now=later + LEASE, lease=LEASE) is None
        assert await store.pending_jobs() == 0


async def test_a_stale_claimant_changes_nothing(make_store: MakeStore) -> None:
    """Whoever's job was claimed again can neither finish nor release it; the new claimant can."""
    async with make_store() as store:
        said = turn("I love peanuts")
        await add(store, said, extract=True)
        stale = await claim(store)
        held = await claim(store, START + LEASE)
        late, known = (fact(text, turn_ids=(said.id,)) for text in ("late", "known"))
        await store.finish_job(stale, [late], [axis(1)], model=MODEL)
        await store.release_job(stale, error="too late", retry_at=START)
        await store.release_job(stale, error="too late", retry_at=None)
        assert await store.counts(Scope()) == Counts(1, 0)
        assert await store.pending_jobs() == 1
        assert await store.claim_job(now=START + LEASE, lease=LEASE) is None  # the new lease was not ended
        await store.finish_job(held, [known], [axis(1)], model=MODEL)
        await store.finish_job(stale, [late], [axis(1)], model=MODEL)
        assert sorted(await everything(store, ALICE)) == [said.text, known.text]
        assert await store.pending_jobs() == 0


async def test_a_stale_claimant_does_not_undo_a_release(make_store: MakeStore) -> None:
    """The time to try again that the new claimant has set is kept, and so is that it gave the job up."""
    later = START + 5 * LEASE
    async with make_store() as store:
        await add(store, turn(), extract=True)
        stale = await claim(store)
        await store.release_job(await claim(store, START + LEASE), error="model away", retry_at=later)
        await store.release_job(stale, error="too late", retry_at=START)
        await store.finish_job(stale, [fact("late")], [axis(1)], model=MODEL)
        assert await store.claim_job(now=later - LEASE, lease=LEASE) is None
        last = await claim(store, later)
        assert last.attempts == 3
        await store.release_job(last, error="hopeless", retry_at=None)
        for job in (stale, last):
            await store.release_job(job, error="too late", retry_at=START)
            await store.finish_job(job, [fact("late")], [axis(1)], model=MODEL)
        assert await store.claim_job(now=later + LEASE, lease=LEASE) is None
        assert await store.counts(Scope()) == Counts(1, 0)
        assert await store.pending_jobs() == 0


async def test_a_returned_job_is_due_at_once_and_not_counted(make_store: MakeStore) -> None:
    """A job that was given back untouched can be claimed in the same moment, as if it had not been claimed."""
    async with make_store() as store:
        await add(store, turn(), extract=True)
        await store.release_job(await claim(store), error="model away", retry_at=START)
        for _ in range(3):
            job = await claim(store)
            assert job.attempts == 2
            await store.return_job(job)
            (status,) = await store.unfinished_jobs()
            assert (status.attempts, status.due_at, status.error) == (1, None, "model away")
        await store.finish_job(await claim(store), [], [], model=MODEL)
        assert await store.pending_jobs() == 0


async def test_a_returned_job_cannot_be_ended_by_who_returned_it(make_store: MakeStore) -> None:
    """Giving back ends the claim for good, also when the next one counts as the same attempt."""
    later = START + 5 * LEASE
    async with make_store() as store:
        said = turn()
        await add(store, said, extract=True)
        given = await claim(store)
        await store.return_job(given)
        held: Job | None = None
        for _ in range(2):
            await store.return_job(given)
            await store.release_job(given, error="too late", retry_at=None)
            await store.finish_job(given, [fact("late", turn_ids=(said.id,))], [axis(1)], model=MODEL)
            assert await store.counts(Scope()) == Counts(1, 0)
            held = held or await claim(store)
            assert await store.claim_job(now=START, lease=LEASE) is None
        assert held is not None
        assert held.attempts == given.attempts
        await store.release_job(held, error="model away", retry_at=later)
        await store.return_job(held)  # the time to try again stays
        assert await store.claim_job(now=later - LEASE, lease=LEASE) is None
        assert (await claim(store, later)).attempts == 2


async def test_a_return_gives_nobody_an_older_claim_back(make_store: MakeStore) -> None:
    """Who was overtaken stays so when the one who overtook returns the job."""
    async with make_store() as store:
        await add(store, turn(), extract=True)
        stale = await claim(store)
        await store.return_job(await claim(store, START + LEASE))
        await store.release_job(stale, error="too late", retry_at=None)
        assert await store.pending_jobs() == 1
        assert (await claim(store)).attempts == 2


async def test_unfinished_jobs_say_why_they_wait(make_store: MakeStore) -> None:
    """Jobs that wait, are held, are put off and were given up are listed oldest first, those that are done are not."""
    later = START + timedelta(hours=1)
    async with make_store() as store:
        scopes = [Scope(name) for name in ("done", "dead", "put off", "held", "new")]
        ids = [str(await add(store, turn(scope=scope), extract=True)) for scope in scopes]
        done, dead, put_off, _ = [await claim(store) for _ in range(4)]
        await store.finish_job(done, [], [], model=MODEL)
        await store.release_job(dead, error="hopeless \ud800", retry_at=None)
        await store.release_job(put_off, error="model away", retry_at=later)
        expected = [
            JobStatus(id=ids[1], scope=scopes[1], state="dead", attempts=1, error="hopeless \ufffd"),
            JobStatus(id=ids[2], scope=scopes[2], state="queued", attempts=1, due_at=later, error="model away"),
            JobStatus(id=ids[3], scope=scopes[3], state="queued", attempts=1, due_at=START + LEASE),
            JobStatus(id=ids[4], scope=scopes[4], state="queued", attempts=0),
        ]
        assert await store.unfinished_jobs() == expected
        assert await store.unfinished_jobs(limit=2) == expected[:2]
        assert [await store.job_status(job_id) for job_id in ids] == [None, *expected]
        with pytest.raises(ConfigError, match="limit"):
            await store.unfinished_jobs(limit=0)


async def test_unknown_jobs_are_an_error(make_store: MakeStore) -> None:
    """Finishing, releasing, returning or asking for a job that never was is a StoreError."""
    async with make_store() as store:
        with pytest.raises(StoreError, match="no job"):
            await store.finish_job(NO_JOB, [], [], model=MODEL)
        with pytest.raises(StoreError, match="no job"):
            await store.release_job(NO_JOB, error="", retry_at=None)
        with pytest.raises(StoreError, match="no job"):
            await store.return_job(NO_JOB)
        for unknown in ("nope", "\ud800"):
            with pytest.raises(StoreError, match="no job"):
                await store.job_status(unknown)


async def test_deleted_turns_leave_their_job_and_bring_no_facts(make_store: MakeStore) -> None:
    """A job comes without turns that were deleted, and a fact whose turns are all gone is not stored."""
    said = [turn("secret"), turn("public")]
    async with make_store() as store:
        await add(store, *said, extract=True)
        await store.delete(said[0].id)
        job = await claim(store)
        assert job.turn_ids == (said[1].id,)
        facts = [
            fact("a secret", turn_ids=(said[0].id,)),
            fact("both", turn_ids=(said[0].id, said[1].id)),
        ]
        await store.finish_job(job, facts, [axis(1), axis(1)], model=MODEL)
        assert sorted(await everything(store, ALICE)) == ["both", "public"]


# Lifetime and concurrency


async def test_a_store_works_only_while_it_is_open(make_store: MakeStore) -> None:
    """Before opening and after closing every call raises StoreClosed."""
    store = make_store()
    with pytest.raises(StoreClosed):
        await store.counts(Scope())
    async with store:
        await add(store, turn())
        with pytest.raises(StoreError, match="open already"):
            await store.__aenter__()
    for call in (
        store.embedding_space(),
        add(store, turn()),
        near(store, ALICE, axis(1)),
        about(store, ALICE, "x"),
        store.get("x"),
        everything(store, ALICE),
        store.delete("x"),
        store.counts(ALICE),
        store.claim_job(now=START, lease=LEASE),
        store.finish_job(NO_JOB, [], [], model=MODEL),
        store.release_job(NO_JOB, error="", retry_at=None),
        store.return_job(NO_JOB),
        store.pending_jobs(),
        store.unfinished_jobs(),
        store.job_status("x"),
    ):
        with pytest.raises(StoreClosed):
            await call


async def test_another_event_loop_is_refused(make_store: MakeStore) -> None:
    """Calls from another event loop than the one that opened the store are a StoreError, and leave it usable."""
    async with make_store() as store:
        for call in (store.counts, store.embedding_space):
            asked: Any = (ALICE,) if call == store.counts else ()
            with pytest.raises(StoreError, match="another event loop"):
                await asyncio.to_thread(asyncio.run, call(*asked))
        await add(store, turn("kept"))
        assert await everything(store, ALICE) == ["kept"]


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
                found = await store.dense_candidates(scope, axis(1), model=MODEL, kinds=BOTH, limit=100)
                assert len(found) % 3 == 0
                assert {c.memory.scope for c in found} <= {scope}
                assert (await store.counts(Scope())).turns % 3 == 0

        await asyncio.gather(*(write(u) for u in range(4)), *(read(u) for u in range(4)))
        assert await store.counts(Scope()) == Counts(120, 0)


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
        found = await everything(store, ALICE)
        jobs = await store.pending_jobs()
        assert len(found) == 3 * jobs
        assert len(await near(store, ALICE, axis(1), 1000)) == len(found)
        assert len(await about(store, ALICE, "peanut", 1000)) == len(found)


async def test_closing_waits_for_what_was_begun(make_store: MakeStore) -> None:
    """Calls that are under way when the store is closed finish or raise StoreClosed; none hangs."""
    async with make_store() as store:
        tasks = [asyncio.create_task(add(store, turn(str(i)))) for i in range(50)]
        await asyncio.sleep(0)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} <= {type(None), StoreClosed}


async def test_times_are_kept_to_the_microsecond(make_store: MakeStore) -> None:
    """Long past and far future times come back exactly."""
    times = [
        datetime(1, 1, 1, tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 1, UTC),
    ]
    async with make_store() as store:
        said = [turn(str(i), at=at) for i, at in enumerate(times)]
        await add(store, *said)
        for expected in said:
            found = await store.get(expected.id)
            assert isinstance(found, Turn)
            assert found.at == expected.at
        assert await everything(store, ALICE) == ["1", "2", "0"]
