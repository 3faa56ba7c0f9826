"""How memories change and go in every store: update, supersede, delete, purge, and the history of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from msgspec.structs import replace

from ollama_async_mem.counts import Counts
from ollama_async_mem.errors import EmbeddingMismatch, RecordNotFound, StoreError
from ollama_async_mem.filters import parse_filters
from ollama_async_mem.records import Change, Event, Fact, Scope, Selection, Supersession
from stores.samples import (
    ALICE,
    BOB,
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
    found,
    learn,
    near,
    turn,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ollama_async_mem.ports import MemoryStore
    from ollama_async_mem.records import MemoryRecord, Turn
    from stores.samples import MakeStore


async def told(store: MemoryStore, memory_id: str) -> list[Event]:
    """A history; what the store's own clock says is checked, and then is `START`."""
    events = await store.history(memory_id)
    own = [event.at for event in events if event.kind != "added"]
    assert own == sorted(own)
    assert all(abs(at - datetime.now(UTC)) < timedelta(minutes=5) for at in own)
    return [event if event.kind == "added" else replace(event, at=START) for event in events]


def event(memory: MemoryRecord, kind: Any, **fields: Any) -> Event:
    """An event of a memory, as `told` gives it."""
    at = memory.created_at if kind == "added" else START
    return Event(memory_id=memory.id, kind=kind, at=at, **fields)


# Updating


async def test_dates_are_those_of_the_text(make_store: MakeStore) -> None:
    """A new text brings its own dates, or names none; without a new text they stay. Filters do not see them."""
    said, halves = turn(dates=DATES), replace(DATES[0], text="\ud800 Friday")
    async with make_store() as store:
        await add(store, said)
        kept = await store.update(said.id, Change(metadata={"a": 1}, dates=DATES[1:]))
        assert kept.dates == DATES
        new = await store.update(said.id, Change(text="other", dates=(halves,)), vector=axis(1), model=MODEL)
        assert (
            new
            == await store.get(said.id)
            == replace(kept, text="other", dates=(replace(halves, text="\ufffd Friday"),))
        )
        without = await store.update(said.id, Change(text="peanut"), vector=axis(1), model=MODEL)
        assert without == await store.get(said.id) == replace(kept, text="peanut", dates=())
        assert await found(store, where=parse_filters({"dates": {"exists": False}})) == ["peanut"]


async def test_a_new_text_is_found_by_its_words_and_vector(make_store: MakeStore) -> None:
    """An update of the text replaces words and vector; all else stays as it was."""
    said = turn("peanut", speaker="Zoë", metadata={"a": 1}, expires_at=FAR_OFF)
    async with make_store() as store:
        await add(store, said, turn("other"))
        assert (await near(store, ALICE, axis(1)))[0] == "peanut"
        changed = await store.update(said.id, Change(text="walnut"), vector=axis(0, 2), model=MODEL)
        assert changed == replace(said, text="walnut")
        assert await store.get(said.id) == changed
        assert await near(store, ALICE, axis(0, 1)) == ["walnut", "other"]
        assert await about(store, ALICE, "peanut") == []
        assert await about(store, ALICE, "walnut") == ["walnut"]
        assert await about(store, ALICE, "Zoë") == ["walnut"]
        (best, _) = await store.dense_candidates(Selection(scope=ALICE), axis(0, 1), model=MODEL, limit=2)
        assert best.score == pytest.approx(1, abs=1e-6)


async def test_an_updated_fact_keeps_its_turns_and_end(make_store: MakeStore) -> None:
    """Sources, quote and end of a fact stay when its text changes; a fact that ended is still not found."""
    said = turn("source")
    known = fact("peanut", turn_ids=(said.id,), valid_to=LONG_AGO, quote="nuts")
    async with make_store() as store:
        await add(store, said)
        await learn(store, known)
        changed = await store.update(known.id, Change(text="walnut"), vector=axis(1), model=MODEL)
        assert changed == replace(known, text="walnut")
        assert await about(store, ALICE, "walnut") == []
        assert await about(store, ALICE, "walnut", everything=True) == ["walnut"]


async def test_metadata_is_merged(make_store: MakeStore) -> None:
    """Keys are replaced whole, None removes one, and those that are not named stay, null ones too."""
    said = turn(metadata={"a": 1, "b": {"x": 1, "y": 2}, "c": None})
    async with make_store() as store:
        await add(store, said)
        changed = await store.update(said.id, Change(metadata={"a": None, "b": {"x": 3}, "d": False, "nope": None}))
        assert changed.metadata == {"b": {"x": 3}, "c": None, "d": False}
        assert await store.get(said.id) == changed
        assert await found(store, query="hello", where=parse_filters({"b.x": 3, "b.y": None, "d": False})) == ["hello"]
        emptied = await store.update(said.id, Change(metadata=dict.fromkeys(changed.metadata)))
        assert emptied.metadata == {}
        assert await found(store, query="hello", where=parse_filters({"d": "*"})) == []
        assert (await store.update(said.id, Change(metadata={}))).metadata == {}


async def test_expiry_is_set_and_cleared(make_store: MakeStore) -> None:
    """From `expires_at` on a memory is not found; when that is cleared or moved it is found again."""
    said = turn("peanut")
    async with make_store() as store:
        await add(store, said)
        for expires_at, texts in [(LONG_AGO, []), (FAR_OFF, ["peanut"]), (LONG_AGO, []), (None, ["peanut"])]:
            changed = await store.update(said.id, Change(expires_at=expires_at))
            assert changed == replace(said, expires_at=expires_at)
            assert await found(store) == texts
            assert await found(store, everything=True) == ["peanut"]
            assert await store.update(said.id, Change(metadata={})) == changed


async def test_a_vector_alone_is_replaced(make_store: MakeStore) -> None:
    """An update may bring a vector without a text; it is stored with length one."""
    said = turn("peanut")
    async with make_store() as store:
        await add(store, said, turn("other"), vector=axis(1))
        assert await store.update(said.id, Change(), vector=axis(0, 1) * 9, model=MODEL) == said
        (first, last) = await store.dense_candidates(Selection(scope=ALICE), axis(0, 1), model=MODEL, limit=2)
        assert first.memory == said
        assert [first.score, last.score] == pytest.approx([1, 0], abs=1e-6)


async def test_an_update_that_fails_changes_nothing(make_store: MakeStore) -> None:
    """A text without its vector, or with one that does not fit, leaves memory, indexes and history as they were."""
    said = turn("peanut")
    change = Change(text="walnut", metadata={"a": 1})
    wrong: list[tuple[type[Exception], dict[str, Any]]] = [
        (StoreError, {}),
        (StoreError, {"model": MODEL}),
        (EmbeddingMismatch, {"vector": axis(1), "model": "other"}),
        (EmbeddingMismatch, {"vector": np.ones(2, np.float32), "model": MODEL}),
        (StoreError, {"vector": axis(1) * 0, "model": MODEL}),
        (StoreError, {"vector": np.full(DIMENSION, np.nan, np.float32), "model": MODEL}),
    ]
    async with make_store() as store:
        await add(store, said)
        for error, how in wrong:
            with pytest.raises(error):
                await store.update(said.id, change, **how)
            assert await store.get(said.id) == said
            assert await about(store, ALICE, "peanut walnut") == ["peanut"]
            assert await near(store, ALICE, axis(1)) == ["peanut"]
        assert len(await store.history(said.id)) == 1


# Superseding


async def test_a_superseded_fact_is_kept_but_not_found(make_store: MakeStore) -> None:
    """It is in `get`, `list` and `counts` with the time of its end, and its history says why."""
    old, new = fact("peanut old"), fact("peanut new")
    async with make_store() as store:
        await learn(store, old, new)
        said = Supersession(fact_id=old.id, valid_to=LONG_AGO, by=new.id, cause="contradicted")
        await store.supersede([said], actor="Zoë")
        assert await found(store) == ["peanut new"]
        assert await store.get(old.id) == replace(old, valid_to=LONG_AGO)
        assert sorted(await everything(store, ALICE)) == ["peanut new", "peanut old"]
        assert await told(store, old.id) == [
            event(old, "added", new="peanut old"),
            event(old, "superseded", actor="Zoë", cause="contradicted", by=new.id),
        ]
        assert await told(store, new.id) == [event(new, "added", new="peanut new")]


async def test_the_earliest_end_counts(make_store: MakeStore) -> None:
    """A later end or the same one changes nothing and is no event; an earlier one replaces it; a future one holds."""
    known = fact("peanut")
    later, sooner = FAR_OFF, FAR_OFF - timedelta(microseconds=1)
    async with make_store() as store:
        await learn(store, known)
        for ends, expected, count in [
            (later, later, 2),
            (later, later, 2),
            (sooner, sooner, 3),
            (later, sooner, 3),
            (LONG_AGO, LONG_AGO, 4),
            (sooner, LONG_AGO, 4),
        ]:
            await store.supersede([Supersession(fact_id=known.id, valid_to=ends)])
            assert await store.get(known.id) == replace(known, valid_to=expected)
            assert len(await store.history(known.id)) == count
            assert await found(store) == (["peanut"] if expected > START else [])


async def test_facts_are_superseded_together_or_not_at_all(make_store: MakeStore) -> None:
    """One id that is no fact leaves all others as they were."""
    known, said = fact("peanut"), turn("a turn")
    async with make_store() as store:
        await add(store, said)
        await learn(store, known)
        for unknown in ("nope", said.id, ""):
            with pytest.raises(RecordNotFound):
                await store.supersede([Supersession(fact_id=i, valid_to=LONG_AGO) for i in (known.id, unknown)])
        assert await store.get(known.id) == known
        assert len(await store.history(known.id)) == 1
        await store.supersede([])


# Deleting


async def test_what_is_deleted_is_gone_everywhere(make_store: MakeStore) -> None:
    """After `delete` a memory is in no search, listing, count or fact's sources; its neighbours are."""
    said = [turn("peanut a"), turn("peanut b")]
    known = fact("peanut fact", turn_ids=(said[0].id, said[1].id), quote="peanut b")
    async with make_store() as store:
        await add(store, *said)
        await learn(store, known)
        assert len(await found(store)) == 3
        await store.delete(said[0].id)
        for call in (store.get(said[0].id), store.delete(said[0].id), store.update(said[0].id, Change())):
            with pytest.raises(RecordNotFound):
                await call
        assert await store.get_many([said[0].id, known.id]) == [replace(known, turn_ids=(said[1].id,))]
        assert await found(store) == ["peanut b", "peanut fact"]
        left = await store.get(known.id)
        assert isinstance(left, Fact)
        assert left.turn_ids == (said[1].id,)
        await store.delete(known.id)
        assert await store.counts(ALICE) == Counts(1, 0)


GOING: dict[str, Callable[[MemoryStore, Turn], Awaitable[Any]]] = {
    "delete": lambda store, said: store.delete(said.id, actor="Zoë", cause="asked"),
    "delete_all": lambda store, said: store.delete_all(Selection(scope=said.scope, kinds=("turn",)), actor="Zoë"),
    "purge_expired": lambda store, _: store.purge_expired(now=LONG_AGO),
    "update": lambda store, said: store.update(said.id, Change(text="x"), vector=axis(1), model=MODEL, actor="Zoë"),
}


@pytest.mark.parametrize("how", GOING)
async def test_what_a_turn_said_goes_with_it(make_store: MakeStore, how: str) -> None:
    """Its facts go, with their texts, in whatever state, but those that other turns tell too or that never had one.

    Of the words it was told in, none stays that no other turn has.
    """
    said = turn("my secret is the peanut", Scope("alice", None, "1"), expires_at=LONG_AGO if "purge" in how else None)
    kept = turn("the peanut, again", Scope("alice", None, "2"))
    gone = fact("alone", turn_ids=(said.id,)), fact("ended", turn_ids=(said.id,), valid_to=LONG_AGO)
    both = (kept.id, said.id)
    stays = fact("a", quote="my secret", turn_ids=both), fact("b", quote="peanut", turn_ids=both), fact("c")
    async with make_store() as store:
        await add(store, said, kept)
        await learn(store, *gone, *stays)
        await store.update(gone[0].id, Change(text="secret"), vector=axis(1), model=MODEL)
        await GOING[how](store, said)
        left = [replace(one, turn_ids=(kept.id,)) if one.turn_ids else one for one in stays]
        left[0] = replace(left[0], quote="")
        assert await store.get_many([one.id for one in (*gone, *stays)]) == left
        cause = "its message was changed" if how == "update" else "its messages were deleted"
        actor = None if "purge" in how else "Zoë"
        assert await told(store, gone[1].id) == [
            event(gone[1], "added"),
            event(gone[1], "deleted", actor=actor, cause=cause),
        ]
        assert {what.new for what in await store.history(gone[0].id)} == {None}
        assert await about(store, Scope("alice"), "secret alone ended", everything=True) == []
        assert await store.check() == []


async def test_a_fact_goes_with_the_last_of_its_turns(make_store: MakeStore) -> None:
    """Whether they are deleted together or one after the other; one that is meant itself goes for that cause."""
    said = [turn(f"peanut {i}") for i in range(3)]
    pair, last = fact("pair", turn_ids=(said[0].id, said[1].id)), fact("last", turn_ids=(said[2].id,))
    async with make_store() as store:
        await add(store, *said)
        await learn(store, pair, last)
        await store.delete(said[1].id)
        assert await store.get(pair.id) == replace(pair, turn_ids=(said[0].id,), quote="")
        await store.delete(said[0].id)
        with pytest.raises(RecordNotFound):
            await store.get(pair.id)
        assert await store.delete_all(Selection(), cause="asked") == 2
        assert await told(store, last.id) == [event(last, "added"), event(last, "deleted", cause="asked")]


async def test_an_id_can_be_used_again_after_a_delete(make_store: MakeStore) -> None:
    """A memory under the id of a deleted one is found as what it is now; the history has both."""
    first, second = turn("peanut", id="x"), turn("cashew", id="x", minute=5)
    async with make_store() as store:
        await add(store, first, turn("walnut"))
        await near(store, ALICE, axis(1))
        await store.delete("x")
        await add(store, second, vector=axis(0, 1))
        assert await about(store, ALICE, "peanut") == []
        assert await near(store, ALICE, axis(0, 1)) == ["cashew", "walnut"]
        lives = [event(first, "added"), event(first, "deleted"), event(second, "added", new="cashew")]
        assert await told(store, "x") == lives
        await store.delete("x")
        assert await told(store, "x") == [*lives[:2], event(second, "added"), event(second, "deleted")]


async def test_a_selection_is_deleted(make_store: MakeStore) -> None:
    """`delete_all` destroys what the list of that selection shows, with turns leaving facts and jobs, and counts it."""
    said = [turn(f"peanut {i}", metadata={"n": i}) for i in range(4)]
    known = fact("peanut fact", turn_ids=tuple(t.id for t in said))
    async with make_store() as store:
        await add(store, *said, extract=True)
        await add(store, turn("peanut gone", expires_at=LONG_AGO), turn("peanut bob", BOB))
        (job,) = await store.claim_jobs(now=START, lease=timedelta(minutes=1), limit=1)
        await store.return_jobs([job])
        big = Selection(scope=ALICE, where=parse_filters({"n": {"gte": 2}}))
        assert await store.delete_all(Selection(scope=Scope("nobody"))) == 0
        assert await store.delete_all(big, actor="Zoë", cause="asked") == 2
        assert await store.delete_all(big) == 0
        assert await found(store) == ["peanut 0", "peanut 1"]
        assert await told(store, said[3].id) == [
            event(said[3], "added"),
            event(said[3], "deleted", actor="Zoë", cause="asked"),
        ]
        assert [job.turn_ids for job in await store.dump_jobs(Scope())] == [(said[0].id, said[1].id)]
        (job,) = await store.claim_jobs(now=START, lease=timedelta(minutes=1), limit=1)
        await store.finish_jobs([job], [known], [axis(1)], model=MODEL)
        assert await store.delete_all(Selection(scope=ALICE, kinds=("turn",), everything=True)) == 3
        assert await told(store, known.id) == [
            event(known, "added"),
            event(known, "deleted", cause="its messages were deleted"),
        ]
        assert await store.delete_all(Selection()) == 1
        assert await store.counts(Scope()) == Counts(0, 0)
        assert await store.check() == []


async def test_what_expired_is_purged(make_store: MakeStore) -> None:
    """`purge_expired` destroys what expired by then, turns and facts of all scopes, also superseded ones."""
    said = [turn(str(i), BOB, expires_at=START + timedelta(minutes=i)) for i in range(4)]
    async with make_store() as store:
        await add(store, *said, turn("for ever"))
        await learn(store, fact("ended", valid_to=LONG_AGO, expires_at=LONG_AGO), fact("stays", valid_to=LONG_AGO))
        assert await store.purge_expired(now=LONG_AGO - timedelta(seconds=1)) == 0
        assert await store.purge_expired(now=START + timedelta(minutes=2)) == 4
        assert await store.purge_expired(now=START + timedelta(minutes=2)) == 0
        assert sorted(await everything(store, Scope())) == ["3", "for ever", "stays"]
        assert await told(store, said[2].id) == [event(said[2], "added"), event(said[2], "deleted", cause="expired")]


# History


async def test_a_history_tells_all_that_happened(make_store: MakeStore) -> None:
    """It begins with the first text; texts are told where they changed; deleting destroys them, and nothing else."""
    known = fact("one", created_at=START + timedelta(seconds=3))
    async with make_store() as store:
        await learn(store, known)
        assert await told(store, known.id) == [event(known, "added", new="one")]
        await store.update(known.id, Change(metadata={"a": 1}), actor="Zoë \ud800", cause="\0")
        await store.update(known.id, Change(text="two"), vector=axis(1), model=MODEL, cause="typo")
        await store.supersede([Supersession(fact_id=known.id, valid_to=LONG_AGO)])
        await store.update(known.id, Change(text="three", expires_at=LONG_AGO), vector=axis(1), model=MODEL)
        happened = [
            event(known, "added", new="one"),
            event(known, "updated", actor="Zoë \ufffd", cause="\0"),
            event(known, "updated", old="one", new="two", cause="typo"),
            event(known, "superseded"),
            event(known, "updated", old="two", new="three"),
        ]
        assert await told(store, known.id) == happened
        await store.delete(known.id, actor="Bob", cause="asked")
        blanked = [replace(what, old=None, new=None) for what in happened]
        assert await told(store, known.id) == [*blanked, event(known, "deleted", actor="Bob", cause="asked")]
