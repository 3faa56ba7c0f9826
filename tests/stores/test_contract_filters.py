"""Filters mean the same to every store: what `meaning.matches` says of each memory by itself."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import count, cycle
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, Phase, given, settings
from msgspec.structs import replace

from ollama_async_mem.errors import ConfigError
from ollama_async_mem.filters import TEXT_FIELDS, TIME_FIELDS, parse_filters
from ollama_async_mem.records import EmbeddingSpace, Fact, Scope, Selection, StoredMemory, Turn
from stores.calls import running
from stores.meaning import matches
from stores.samples import DIMENSION, FAR_OFF, LONG_AGO, MODEL, START, add, axis, fact, found, turn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ollama_async_mem.filters import Condition
    from ollama_async_mem.ports import MemoryStore
    from ollama_async_mem.records import MemoryRecord
    from stores.samples import MakeStore

SPACE = EmbeddingSpace(MODEL, DIMENSION)

# Random memories and filters. Both are made of the same few values, so that many filters let something through. Letters
# whose lower case is a matter of taste are left out.

WORDS = ["", "a", "A", "ab", "äÄ", "花", "🥜", "\0", "a\0b", '"', "'; --", "%", "_", "\\", "1", "true", "\uffff"]
TIMES = [
    *["2026-03-01", "2026-03-01T09:30:00Z", "2026-03-01 10:30+01:00", "2026-03-01T09:30:00.000001", "2026-03-02"],
    *["0001-01-01", "9999-12-31T23:59:59.999999Z", "0001-01-01T00:00+10:00", "9999-12-31T23:00-10:00", "0000-01-01"],
    *["2026-02-30", "2026-03-01T24:00", "2026-03-01T09:30:60", "2026-03-01T09:30+16:00", "2026-3-1", "now", "infinity"],
]
NUMBERS = [0, 1, -1, 2, 1.0, 0.1, -0.0, 1.5, 1e15, 2**53, -(2**53), 5e-324]
LARGE = [2**53 + 1, 2**63 - 1, -(2**63), 2**64, 10**30, 1e23, 1.7e308]
MOMENTS = [START, START + timedelta(microseconds=1), LONG_AGO, FAR_OFF, datetime(2026, 3, 2, tzinfo=UTC)]
KEYS = ["a", "b", '"', "[0]", "$", "a b", "花", "\0", "\\", "0", "at", "#-1"]

keys = st.sampled_from(["a", "b"]) | st.sampled_from(KEYS)
words = st.sampled_from(WORDS) | st.sampled_from(TIMES)
scalars = st.none() | st.booleans() | st.sampled_from(NUMBERS) | words
values = st.recursive(
    scalars | st.sampled_from(LARGE),
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(keys, inner, min_size=1, max_size=2),
    max_leaves=3,
)
names = st.none() | st.sampled_from(["", "a", "A", "ä", "\0", "\ud800"])
moments = st.sampled_from(MOMENTS)
ends = st.none() | moments
common: dict[str, Any] = {
    "id": st.just(""),
    "scope": st.builds(Scope, st.just("e"), names, names),
    "text": words.map(lambda word: f"peanut {word}"),
    "at": moments,
    "created_at": moments,
    "metadata": st.dictionaries(keys, values, min_size=1, max_size=3),
    "expires_at": ends,
}
memories = st.lists(
    st.builds(Turn, role=words, speaker=st.none() | words, **common)
    | st.builds(Fact, quote=words, turn_ids=st.just(()), valid_to=ends, **common),
    min_size=6,
    max_size=8,
)

fields = st.one_of(
    st.sampled_from([*TEXT_FIELDS, *TIME_FIELDS, "metadata.at"]),
    keys,
    st.tuples(keys, keys).map(".".join),
)
operands = scalars | moments | st.just(date(2026, 3, 1))
operators = st.sampled_from(["eq", "ne", "gt", "gte", "lt", "lte", "contains", "icontains"])
tests = st.one_of(
    operands,
    st.lists(operands, max_size=3),
    st.just("*"),
    st.fixed_dictionaries({"exists": st.booleans()}),
    st.dictionaries(operators, operands, min_size=1, max_size=2),
    st.fixed_dictionaries({"nin": st.lists(operands, max_size=3)}),
)


def read(filters: Any) -> Condition | None:
    """A filter as a condition, None where it is refused, as many random ones are."""
    try:
        return parse_filters(filters)
    except ConfigError:
        return None


leaves = st.dictionaries(fields, tests, min_size=1, max_size=1).filter(read)
filters = st.recursive(
    leaves,
    lambda inner: st.dictionaries(
        st.sampled_from(["AND", "OR", "NOT"]), st.lists(inner, min_size=1, max_size=3), min_size=1, max_size=2
    ),
    max_leaves=3,
)


async def tell(store: MemoryStore, said: Sequence[MemoryRecord], user: str) -> list[MemoryRecord]:
    """Store memories for a user; returns them as they are then."""
    scopes = [replace(memory.scope, user_id=user) for memory in said]
    mine = [replace(memory, id=f"{user} {i}", scope=scopes[i]) for i, memory in enumerate(said)]
    await store.load([StoredMemory(memory=memory, vector=axis(1).tobytes()) for memory in mine], space=SPACE)
    return mine


async def agree(store: MemoryStore, mine: Sequence[MemoryRecord], asked: Sequence[Any], user: str) -> None:
    """Compare what a user finds with the meaning of each filter: by the list always, by the indexes now and then."""
    for number, one in enumerate(asked):
        condition = parse_filters(one)
        meant = {memory.id for memory in mine if matches(condition, memory)}
        selection = Selection(scope=Scope(user), where=condition, everything=True)
        by_list = {memory.id for memory in (await store.list(selection, limit=1000)).items}
        assert (one, by_list) == (one, meant)
        if number % 5 == 0:
            by_vector = await store.dense_candidates(selection, axis(1), model=MODEL, limit=1000)
            by_words = await store.keyword_candidates(selection, "peanut", limit=1000)
            for candidates in (by_vector, by_words):
                assert (one, {candidate.memory.id for candidate in candidates}) == (one, meant)


def test_every_store_agrees_on_what_a_filter_means(make_store: MakeStore) -> None:
    """Random filters on random memories find the same by the list, by vectors and by words as by looking at each."""
    users = map(str, count())
    with running(make_store()) as (runner, (store,)):
        # Not made smaller when it fails, which takes minutes: the message names the one filter.
        @settings(max_examples=20, deadline=None, suppress_health_check=[*HealthCheck], phases=[Phase.generate])
        @given(said=memories, asked=st.lists(filters, min_size=15, max_size=20))
        def check(said: list[MemoryRecord], asked: list[Any]) -> None:
            mine = runner.run(tell(store, said, user := next(users)))
            runner.run(agree(store, mine, asked, user))

        check()


SCALARS: list[Any] = [None, True, False, *WORDS, *TIMES, *NUMBERS, *MOMENTS, date(2026, 3, 1)]
HELD: list[Any] = [*SCALARS[: -len(MOMENTS) - 1], *LARGE, [], {}, [[1]], [True], ["a", 1, None], [1.0, "a"], {"a": 1}]


def operators_on(field: str, operand: Any) -> list[Any]:
    """A filter for each operator that takes an operand, and its contrary."""
    operators = ("eq", "gt", "gte", "lt", "lte", "contains", "icontains")
    plain: list[Any] = [{field: {op: operand}} for op in operators]
    plain += [{field: [operand, "other"]}, {field: [operand, None]}]
    asked = [one for one in plain if read(one)]
    return asked + [{"NOT": [one]} for one in asked]


async def test_every_operator_with_every_value(make_store: MakeStore) -> None:
    """Each comparison of metadata with a value of each kind, and of each field of a memory with some."""
    said = [turn("peanut"), *[turn("peanut", metadata={"a": value}) for value in HELD]]
    own: list[MemoryRecord] = []
    for word, end in zip(WORDS, cycle([*MOMENTS, None]), strict=False):
        scope = Scope("", word, None if word == "a" else word)
        own.append(turn(f"peanut {word}", scope, role=word, speaker=word or None, expires_at=end, at=end or START))
        own.append(fact("peanut", quote=word, valid_to=end))
    async with make_store() as store:
        mine = await tell(store, said, "one")
        for value in SCALARS:
            await agree(store, mine, operators_on("a", value), "one")
        mine = await tell(store, own, "two")
        for field in TEXT_FIELDS:
            for value in ("", "a", "\0", "peanut a", "'; --", None, 1):
                await agree(store, mine, operators_on(field, value), "two")
        for field in TIME_FIELDS:
            for value in (START, LONG_AGO, date(2026, 3, 1), "2026-03-01T09:30Z", None):
                await agree(store, mine, operators_on(field, value), "two")


def nested(depth: int) -> dict[str, Any]:
    """A filter inside others, which holds when these are odd."""
    inner: dict[str, Any] = {"a": 2}
    for _ in range(depth):
        inner = {"NOT": [inner]}
    return inner


LARGEST: dict[str, Any] = {
    "conditions": {"OR": [{"a": i} for i in range(500)]},
    "paths": {"AND": [{f"x.{i}{'.y' * 14}": None} for i in range(500)]},
    "depth": nested(15),
    "values": {"a": [*range(9_999), None]},
    "ids": {"id": ["the first", *map(str, range(9_999))]},
    "users": {"OR": [{"user_id": [f"{i} {j}" for j in range(4_999)] + ["alice"]} for i in range(2)]},
    "times": {"OR": [{"at": {"gte": f"{year}-01-01", "lte": f"{year}-12-31"}} for year in range(1900, 2150)]},
    "long value": {"NOT": [{"a": {"contains": "x" * 1_000_000}}, {"text": {"icontains": "x" * 1_000_000}}]},
    "long key": {"x" * 1_000_000: None},
    "long path": {".".join(["a"] * 16): None},
}


async def test_the_largest_filters_are_answered(make_store: MakeStore) -> None:
    """Whatever is within the bounds of the grammar is within those of every store."""
    async with make_store() as store:
        await add(store, turn("peanut", id="the first", metadata={"a": 1}))
        for name, one in LARGEST.items():
            assert (name, await found(store, where=parse_filters(one))) == (name, ["peanut"])


HOSTILE = ["' OR 1=1 --", '"', "\\", "%", "_", "\0", "$", "[0]", "{}", "::jsonb", "?", "$1", ":x", "花", "🥜", "\ud800"]


async def test_any_text_is_a_key_and_a_value(make_store: MakeStore) -> None:
    """SQL, paths and patterns in keys, values and ids are just text, and match only themselves."""
    known = [text for text in HOSTILE if text != "\ud800"]
    async with make_store() as store:
        await add(store, *[turn(f"peanut {text}", Scope(text), metadata={"x": text, text: 1}) for text in known])
        for text in HOSTILE:
            expected = [f"peanut {text}"] if text in known else []
            for one in ({"x": text}, {"x": [text, "other"]}, {text: 1}, {"user_id": text}, {"text": f"peanut {text}"}):
                assert (one, await found(store, Scope(), where=parse_filters(one))) == (one, expected)


spans = st.recursive(
    st.dictionaries(st.just("at"), st.dictionaries(st.sampled_from(["gt", "gte", "lt", "lte"]), moments, min_size=1)),
    lambda inner: st.dictionaries(st.sampled_from(["AND", "OR"]), st.lists(inner, min_size=1, max_size=3), min_size=1),
    max_leaves=4,
).filter(read)
selections = st.builds(
    Selection,
    where=spans.map(parse_filters),
    kinds=st.sampled_from([("turn", "fact"), ("turn",), ("fact",)]),
    as_of=st.none() | st.sampled_from(MOMENTS),
    everything=st.booleans(),
)


def test_searches_by_vector_agree_on_when_something_was_said(make_store: MakeStore) -> None:
    """Filters of times alone let through what they do in a listing, whatever else is asked for."""
    users = map(str, count())
    with running(make_store()) as (runner, (store,)):

        async def compare(said: list[MemoryRecord], asked: list[Selection], user: str) -> None:
            await tell(store, said, user)
            for one in asked:
                selection = replace(one, scope=Scope(user))
                listed = {memory.id for memory in (await store.list(selection, limit=1000)).items}
                found = await store.dense_candidates(selection, axis(1), model=MODEL, limit=1000)
                assert (one, {candidate.memory.id for candidate in found}) == (one, listed)

        @settings(max_examples=15, deadline=None, suppress_health_check=[*HealthCheck], phases=[Phase.generate])
        @given(said=memories, asked=st.lists(selections, min_size=8, max_size=8))
        def check(said: list[MemoryRecord], asked: list[Selection]) -> None:
            runner.run(compare(said, asked, next(users)))

        check()
