"""Which memories a `Selection` means to the list and to both indexes: scopes, kinds, filters, times, before top-k."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import product
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from ollama_async_mem.counts import Counts
from ollama_async_mem.errors import StoreError
from ollama_async_mem.filters import parse_filters
from ollama_async_mem.records import Scope, Selection, Supersession
from stores.samples import (
    ALICE,
    BOB,
    FAR_OFF,
    LONG_AGO,
    MODEL,
    START,
    about,
    add,
    axis,
    everything,
    fact,
    found,
    learn,
    near,
    turn,
)

if TYPE_CHECKING:
    from ollama_async_mem.records import Kind
    from stores.samples import MakeStore

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
            assert set(await found(store, scope)) == expected
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
            assert await found(store, Scope(name)) == [f"peanut {i}"]
            page = await store.list(Selection(scope=Scope(name)), limit=9)
            assert [memory.scope for memory in page.items] == [Scope(name)]
            assert await found(store, Scope(None, name)) == []
            assert await store.counts(Scope(name)) == Counts(1, 0)
        assert {counts.scope.user_id for counts in await store.scopes(Scope(), limit=99)} == set(ids)
        assert await store.delete_all(Selection(scope=Scope("a"))) == 1
        assert len(await found(store, Scope())) == len(ids) - 1


async def test_kinds_are_told_apart(make_store: MakeStore) -> None:
    """Each kind can be asked for alone; no kind at all finds nothing."""
    async with make_store() as store:
        await add(store, turn("peanut turn"))
        await learn(store, fact("peanut fact"))
        chosen: dict[tuple[Kind, ...], list[str]] = {("turn",): ["peanut turn"], ("fact",): ["peanut fact"], (): []}
        for kinds, expected in chosen.items():
            assert await found(store, kinds=kinds) == expected
        assert await found(store, kinds=("fact", "turn", "fact")) == ["peanut fact", "peanut turn"]
        assert await store.counts(ALICE) == Counts(turns=1, facts=1)
        assert await store.delete_all(Selection(kinds=())) == 0
        assert await store.delete_all(Selection(kinds=("fact",))) == 1
        assert await found(store) == ["peanut turn"]


# Times


def at(minute: int) -> datetime:
    """Some minutes after the start."""
    return START + timedelta(minutes=minute)


async def test_what_holds_now(make_store: MakeStore) -> None:
    """What has ended or expired is not found but kept; what will end or expire is found until then."""
    async with make_store() as store:
        await add(
            store,
            turn("peanut turn"),
            turn("peanut turn expired", expires_at=LONG_AGO),
            turn("peanut turn will expire", expires_at=FAR_OFF),
        )
        await learn(
            store,
            fact("peanut fact"),
            fact("peanut fact ended", valid_to=LONG_AGO),
            fact("peanut fact will end", valid_to=FAR_OFF),
            fact("peanut fact expired", expires_at=LONG_AGO),
            fact("peanut fact will end but expired", expires_at=LONG_AGO, valid_to=FAR_OFF),
            fact("peanut fact will expire but ended", expires_at=FAR_OFF, valid_to=LONG_AGO),
        )
        holding = ["peanut fact", "peanut fact will end", "peanut turn", "peanut turn will expire"]
        assert await found(store) == holding
        assert await found(store, kinds=("fact",)) == holding[:2]
        assert await found(store, kinds=("turn",)) == holding[2:]
        assert len(await found(store, everything=True)) == 9
        assert len(await everything(store, ALICE)) == 9
        assert await store.counts(ALICE) == Counts(3, 6)


async def test_what_held_at_another_time(make_store: MakeStore) -> None:
    """`as_of` finds what had been said by then and had neither ended nor expired; borders count to the later side."""
    said = [turn("peanut turn", minute=1), turn("peanut brief", minute=1, expires_at=at(3))]
    known = [
        fact("peanut old", at=at(1), valid_to=at(4)),
        fact("peanut new", at=at(4)),
        fact("peanut brief fact", at=at(1), expires_at=at(2)),
    ]
    expected = {
        0: [],
        1: ["peanut brief", "peanut brief fact", "peanut old", "peanut turn"],
        2: ["peanut brief", "peanut old", "peanut turn"],
        3: ["peanut old", "peanut turn"],
        4: ["peanut new", "peanut turn"],
        9_000_000: ["peanut new", "peanut turn"],
    }
    async with make_store() as store:
        await add(store, *said)
        await learn(store, *known)
        for minute, texts in expected.items():
            assert await found(store, as_of=at(minute)) == texts
            assert len(await found(store, as_of=at(minute), everything=True)) == 5
        assert await found(store, as_of=at(4) - timedelta(microseconds=1)) == expected[3]
        assert await found(store, as_of=at(1) - timedelta(microseconds=1)) == []


async def test_what_is_superseded_later_held_before(make_store: MakeStore) -> None:
    """A search of now and one of the past tell apart what was superseded since."""
    old = fact("peanut old", at=at(1))
    async with make_store() as store:
        await learn(store, old, fact("peanut other", at=at(1)))
        await found(store)  # whatever the store keeps of a search must notice
        await store.supersede([Supersession(fact_id=old.id, valid_to=at(5))])
        assert await found(store) == ["peanut other"]
        assert await found(store, as_of=at(4)) == ["peanut old", "peanut other"]
        assert await found(store, as_of=at(5)) == ["peanut other"]
        assert await found(store, everything=True) == ["peanut old", "peanut other"]


async def test_a_time_without_a_zone_is_refused(make_store: MakeStore) -> None:
    """It could be any of a day."""
    selection = Selection(as_of=START.replace(tzinfo=None))
    async with make_store() as store:
        await add(store, turn())
        for call in (
            store.list(selection, limit=1),
            store.dense_candidates(selection, axis(1), model=MODEL, limit=1),
            store.keyword_candidates(selection, "hello", limit=1),
            store.delete_all(selection),
            store.purge_expired(now=START.replace(tzinfo=None)),
        ):
            with pytest.raises(StoreError, match="timezone"):
                await call


# Before top-k

FEW: list[Selection] = [
    Selection(scope=BOB),
    Selection(scope=Scope(None, "b")),
    Selection(kinds=("fact",)),
    Selection(where=parse_filters({"colour": "red"})),
    Selection(where=parse_filters({"NOT": [{"colour": {"exists": False}}, {"kind": "turn"}]})),
    Selection(where=parse_filters({"OR": [{"colour": {"contains": "e"}}, {"agent_id": "b"}]})),
    Selection(where=parse_filters({"at": {"lt": "2025-01-01"}})),
    Selection(as_of=LONG_AGO),
    Selection(scope=BOB, kinds=("fact",), where=parse_filters({"text": {"icontains": "FEW"}}), as_of=LONG_AGO),
]


async def test_what_is_chosen_comes_before_the_limit(make_store: MakeStore) -> None:
    """A few memories far from the query are found among many near ones that the selection leaves out."""
    few = [fact(f"peanut few {i}", Scope("bob", "b"), at=LONG_AGO, metadata={"colour": "red"}) for i in range(3)]
    async with make_store() as store:
        await add(store, *[turn("peanut peanut", Scope("alice", "a")) for _ in range(300)], vector=axis(1, 0.01))
        await learn(store, *few, vector=axis(0, 1))
        for selection, limit in product(FEW, (2, 3, 5)):
            dense = await store.dense_candidates(selection, axis(1), model=MODEL, limit=limit)
            keyword = await store.keyword_candidates(selection, "peanut", limit=limit)
            for candidates in (dense, keyword):
                assert len(candidates) == min(limit, 3)
                assert {candidate.memory.id for candidate in candidates} <= {memory.id for memory in few}
        for selection in FEW:
            page = await store.list(selection, limit=3)
            assert ({memory.id for memory in page.items}, page.cursor) == ({memory.id for memory in few}, None)
        assert await store.delete_all(FEW[-1]) == 3
        assert await store.counts(Scope()) == Counts(300, 0)


@pytest.mark.parametrize("ends", ["expires_at", "valid_to"])
async def test_what_does_not_hold_takes_no_place(make_store: MakeStore, ends: str) -> None:
    """A few memories that hold are found among many nearer ones that have ended or expired."""
    many = [replace(fact("peanut peanut"), **{ends: LONG_AGO}) for _ in range(300)]
    async with make_store() as store:
        await learn(store, *many, vector=axis(1, 0.01))
        await add(store, *[turn(f"peanut few {i}") for i in range(3)], vector=axis(0, 1))
        for limit in (2, 3, 5):
            assert len(await near(store, ALICE, axis(1), limit)) == min(limit, 3)
            assert len(await about(store, ALICE, "peanut", limit)) == min(limit, 3)
        assert await found(store) == [f"peanut few {i}" for i in range(3)]
