"""What every store keeps of a memory, and what it refuses to: reading back, ids, vectors and their space."""

from __future__ import annotations

import math
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ollama_async_mem.counts import Counts
from ollama_async_mem.errors import EmbeddingMismatch, RecordNotFound, StoreError
from ollama_async_mem.filters import parse_filters
from ollama_async_mem.records import Change, EmbeddingSpace, Scope, Selection, Supersession, Turn
from stores.samples import (
    ALICE,
    DATES,
    DIMENSION,
    FAR_OFF,
    LONG_AGO,
    MODEL,
    START,
    about,
    add,
    axis,
    everything,
    fact,
    learn,
    near,
    turn,
)

if TYPE_CHECKING:
    from stores.samples import MakeStore

# Reading back what was written


async def test_a_turn_comes_back_as_it_was(make_store: MakeStore) -> None:
    """`get` returns a turn equal to the one that was added, with its own clock and metadata."""
    said = turn(
        "Zoë said: it's 25°C — 花生 🥜",
        Scope("alice", "cook", "run-1"),
        role="assistant",
        speaker="Zoë",
        at=datetime(2026, 3, 1, 23, 30, 15, 123456, tzinfo=timezone(timedelta(hours=-5))),
        metadata={"source": {"page": 3}, "tags": ["a", None, 1.5]},
        expires_at=LONG_AGO,
        dates=DATES,
    )
    async with make_store() as store:
        await add(store, said)
        for found in (await store.get(said.id), *await store.get_many([said.id])):
            assert found == said
            assert found.at.utcoffset() == timedelta(hours=-5)


async def test_a_fact_comes_back_as_it_was(make_store: MakeStore) -> None:
    """`get` returns a fact equal to the one that was stored, its turns in the order given."""
    said = [turn(f"part {i}") for i in range(3)]
    ids = (said[2].id, said[0].id, said[1].id)
    ends: dict[str, Any] = {"valid_to": LONG_AGO, "expires_at": FAR_OFF}
    known = fact("It is so", turn_ids=ids, metadata={"n": 1}, quote="\0so", dates=DATES[1:], **ends)
    async with make_store() as store:
        await add(store, *said)
        await learn(store, known)
        assert await store.get(known.id) == known


async def test_many_come_in_the_order_that_was_asked(make_store: MakeStore) -> None:
    """`get_many` returns a memory for each id, and nothing for those that are not there."""
    said = [turn(str(i)) for i in range(3)]
    async with make_store() as store:
        await add(store, *said)
        asked = [said[2].id, "nope", said[0].id, "\ud800", "' OR 1=1 --", said[2].id]
        assert await store.get_many(asked) == [said[2], said[0], said[2]]
        assert await store.get_many([]) == []
        many = [f"x{i}" for i in range(40_000)]
        assert await store.get_many([*many, said[1].id]) == [said[1]]


ODD_METADATA: list[dict[str, Any]] = [
    {},
    {"none": None, "empty": {}, "list": [], "text": ""},
    {"tiny": 5e-324, "large": 1.7e308, "tenth": 0.1, "even": 1.0, "power": 1e23, "zero": -0.0},
    {"int": 2**53 + 1, "long": -(2**63), "unsigned": 2**64 - 1},
    {"": 1, "a.b": 2, '"': 3, "$": 4, "[0]": 5, "\\": 6, "\0": 7, "' OR 1=1 --": 8, "花": 9, "\ufdd0": 10},
    {"x": "\0\"\\'\u2028\ufdd0\uffff🥜", "y": "\\u0000", "z": "%_;--"},
    {"deep": {"a": [{"b": [[{"c": None}]]}]}},
    {"large": "x" * 1_000_000, "many": list(range(10_000))},
]


async def test_metadata_comes_back_as_it_was(make_store: MakeStore) -> None:
    """Any JSON is kept exactly, with any keys, numbers by their value; also after an update of another key."""
    async with make_store() as store:
        for metadata in ODD_METADATA:
            said = turn(metadata=metadata)
            await add(store, said)
            assert (await store.get(said.id)).metadata == metadata
            changed = await store.update(said.id, Change(metadata={"new key": 1}))
            assert changed.metadata == metadata | {"new key": 1}
            assert await store.get(said.id) == changed


async def test_no_metadata_spoils_filters(make_store: MakeStore) -> None:
    """However deep metadata is, either it is refused as it comes or it can be filtered and read with all others."""
    async with make_store() as store:
        expected = set()
        for depth in (1, 100, 900, 1_500, 100_000):
            with suppress(StoreError):
                await add(store, turn(str(depth), metadata={"x": nested(depth)}))
                expected.add(str(depth))
        assert expected >= {"1", "100"}
        has_x = Selection(where=parse_filters({"x": "*"}))
        assert {memory.text for memory in (await store.list(has_x, limit=9)).items} == expected


def nested(depth: int) -> Any:
    """A list inside lists."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


async def test_any_text_is_stored_word_for_word(make_store: MakeStore) -> None:
    """NUL, control characters, SQL and a megabyte come back unchanged, and can be deleted."""
    async with make_store() as store:
        for text in ("", "\0", "a\0peanut\0b", "\ufeffbom", "x" * 1_000_000, "'; DROP TABLE memories; --", "\r\n\t"):
            said = turn(text, speaker=text)
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
        changed = await store.update(said.id, Change(text="\udc00"), vector=axis(1), model=MODEL)
        assert changed.text == "\ufffd"
        assert [(event.old, event.new) for event in await store.history(said.id)][1:] == [
            ("a\ufffdb \U0001f95c peanut\ufffd", "\ufffd")
        ]


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


async def test_an_unknown_id_is_not_found(make_store: MakeStore) -> None:
    """Whatever is asked of an id that is not there raises RecordNotFound."""
    async with make_store() as store:
        for unknown in ("nope", "", "' OR 1=1 --", "\ud800", "\0"):
            for call in (
                store.get(unknown),
                store.delete(unknown),
                store.update(unknown, Change()),
                store.supersede([Supersession(fact_id=unknown, valid_to=START)]),
                store.history(unknown),
            ):
                with pytest.raises(RecordNotFound):
                    await call


async def test_a_vector_without_direction_is_refused(make_store: MakeStore) -> None:
    """NaN, infinity, zero and wrong shapes are errors, on adding and on searching, and store nothing."""
    wrong: list[Any] = [[math.nan] * 8, [math.inf] + [0.0] * 7, [0.0] * 8, [], [[1.0, 2.0]], [3e38] * 7 + [math.nan]]
    async with make_store() as store:
        await add(store, turn("kept"))
        for vector in wrong:
            with pytest.raises(StoreError):
                await add(store, turn("fine"), turn("lost"), vector=np.array(vector, np.float32))
            with pytest.raises(StoreError):
                await near(store, ALICE, np.array(vector, np.float32))
        assert await everything(store, ALICE) == ["kept"]


async def test_a_vector_of_any_length_has_a_direction(make_store: MakeStore) -> None:
    """The largest and the smallest numbers are stored with length one."""
    async with make_store() as store:
        for size in (3e38, 1e-38):
            await add(store, turn(str(size)), vector=np.array([size, size] + [0] * 6, np.float32))
        for asked in (1e-38, 1, 3e38):
            query = np.array([asked] + [0] * 7, np.float32)
            found = await store.dense_candidates(Selection(scope=ALICE), query, model=MODEL, limit=2)
            assert [c.score for c in found] == pytest.approx([math.sqrt(0.5)] * 2, abs=1e-6)


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


async def test_a_query_of_another_model_or_dimension_is_refused(make_store: MakeStore) -> None:
    """A search with such a vector raises EmbeddingMismatch that names the store and both models with dimensions."""
    queries = [(model, np.ones(dimension, np.float32)) for model, dimension in [(MODEL, 2), ("other", 2), ("other", 8)]]
    async with make_store() as store:
        for model, query in queries:
            assert await store.dense_candidates(Selection(scope=ALICE), query, model=model, limit=1) == []
        await add(store, turn())
        for model, query in queries:
            for scope in (ALICE, Scope("nobody")):
                with pytest.raises(EmbeddingMismatch) as caught:
                    await store.dense_candidates(Selection(scope=scope), query, model=model, limit=1)
                assert caught.value.expected == f"{MODEL} with {DIMENSION} dimensions"
                assert caught.value.got == f"{model} with {query.size} dimensions"
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


REFUSED: list[dict[str, Any]] = [
    *[{"metadata": {"x": value}} for value in (object(), {1, 2}, math.nan, START, b"x", "\ud800")],
    {"metadata": {"\ud800": 1}},
    {"id": "\ud800"},
    *[{name: START.replace(tzinfo=None)} for name in ("at", "created_at", "expires_at")],
    {"at": datetime.min.replace(tzinfo=timezone(timedelta(hours=5)))},
]


async def test_what_cannot_be_kept_is_refused(make_store: MakeStore) -> None:
    """Metadata that is not JSON, times without a timezone and the like are a StoreError, not a changed record."""
    said = turn("kept")
    async with make_store() as store:
        await add(store, said)
        for fields in REFUSED:
            with pytest.raises(StoreError):
                await add(store, turn("lost", **fields))
            if "metadata" in fields or "expires_at" in fields:
                with pytest.raises(StoreError):
                    await store.update(said.id, Change(**fields))
        assert await everything(store, Scope()) == ["kept"]
        assert await store.get(said.id) == said
        assert len(await store.history(said.id)) == 1


async def test_turns_and_vectors_must_be_as_many(make_store: MakeStore) -> None:
    """A call with more turns than vectors stores nothing."""
    async with make_store() as store:
        with pytest.raises(StoreError, match="2 memories came with 1 vectors"):
            await store.add_turns([turn(), turn()], [axis(1)], model=MODEL)
        assert await store.add_turns([], [], model=MODEL, extract=True) is None
        assert await store.counts(Scope()) == Counts(0, 0)
