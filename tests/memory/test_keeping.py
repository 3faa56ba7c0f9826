"""Looking at, changing and destroying what is stored; statistics and events."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from ollama_async_mem import OllamaClient
from ollama_async_mem.embedding import OllamaEmbedder
from ollama_async_mem.errors import ConfigError, RecordNotFound, StoreClosed
from ollama_async_mem.events import EventsLost, MemoriesDeleted, MemoryDeleted, MemoryUpdated, TurnStored
from ollama_async_mem.memory.service import MemoryService
from ollama_async_mem.records import Scope
from ollama_async_mem.stores import open_store

from .bench import copied

if TYPE_CHECKING:
    from collections.abc import Callable

    from fakes import ScriptedOllama

    from ollama_async_mem import Memory


async def test_an_update_changes_what_is_found(memory: Callable[..., Memory]) -> None:
    """The new text is embedded, indexed and dated, and the history has both."""
    async with memory() as mem:
        added = await mem.add("I like coffee", user_id="alice", timestamp="2023-05-08", metadata={"a": 1}, infer=False)
        changed = await mem.update(
            added.turns[0].id, "I met Bob yesterday", metadata={"b": 2}, actor="alice", cause="typo"
        )
        assert (changed.text, changed.metadata) == ("I met Bob yesterday", {"a": 1, "b": 2})
        assert changed.dates[0].start == date(2023, 5, 7)
        found = await mem.search("Bob", user_id="alice")
        assert [hit.text for hit in found] == ["I met Bob yesterday"]
        history = await mem.history(changed.id)
        assert [(e.kind, e.old, e.new, e.actor, e.cause) for e in history] == [
            ("added", None, "I like coffee", None, None),
            ("updated", "I like coffee", "I met Bob yesterday", "alice", "typo"),
        ]


async def test_a_changed_message_is_read_again(memory: Callable[..., Memory], server: ScriptedOllama) -> None:
    """Its facts are those of its new text; a deleted one has none."""
    server.settings.answer = copied
    async with memory() as mem:
        said = {"role": "user", "name": "Mia", "content": "I own a red boat"}
        [turn] = (await mem.add(said, user_id="mia", infer="now")).turns
        await mem.update(turn.id, "I own a blue car")
        await mem.flush()
        assert [hit.text for hit in await mem.search("own", user_id="mia", kinds=["fact"])] == ["Mia own a blue car"]
        await mem.delete(turn.id)
        assert (await mem.count(user_id="mia")).facts == 0


async def test_an_unread_message_stays_unread(memory: Callable[..., Memory], server: ScriptedOllama) -> None:
    """What was added with `infer=False` is not shown to the model when it changes, unless that is asked for."""
    server.settings.answer = copied
    async with memory() as mem:
        said = {"role": "user", "name": "Mia", "content": "I own a red boat"}
        [turn] = (await mem.add(said, user_id="mia", infer=False)).turns
        await mem.update(turn.id, "I own a blue car")
        assert (await mem.store.pending_jobs(), server.requests_to("POST /api/chat")) == (0, [])
        await mem.update(turn.id, "I own a green bike", extract=True)
        assert await mem.flush() == 0
        assert [hit.text for hit in await mem.search("own", user_id="mia", kinds=["fact"])] == ["Mia own a green bike"]


async def test_without_a_chat_model_a_change_queues_nothing(server: ScriptedOllama) -> None:
    """A job would wait for ever."""
    async with OllamaClient(server.url) as client:
        embedder = OllamaEmbedder("nomic-embed-text", client=client)
        async with MemoryService(store=open_store("sqlite://"), embedder=embedder) as mem:
            [turn] = (await mem.add("I own a red boat", user_id="mia")).turns
            await mem.update(turn.id, "I own a blue car")
            assert await mem.store.pending_jobs() == 0
            with pytest.raises(ConfigError, match="has a chat model"):
                await mem.update(turn.id, "I own a bike", extract=True)


async def test_a_change_need_not_be_read(memory: Callable[..., Memory], server: ScriptedOllama) -> None:
    """The facts of the old text go, and with `extract` off none come."""
    server.settings.answer = copied
    async with memory() as mem:
        said = {"role": "user", "name": "Mia", "content": "I own a red boat"}
        [turn] = (await mem.add(said, user_id="mia", infer="now")).turns
        assert (await mem.count()).facts == 1
        await mem.update(turn.id, "I own a blue car", extract=False)
        assert (await mem.store.pending_jobs(), (await mem.count()).facts) == (0, 0)
        with pytest.raises(ConfigError, match="extract goes with a new text"):
            await mem.update(turn.id, metadata={"a": 1}, extract=True)


async def test_what_was_given_up_is_tried_again(memory: Callable[..., Memory], server: ScriptedOllama) -> None:
    """At once, when it is asked for."""
    server.settings.answer = lambda _: "no json"
    async with memory() as mem:
        said = {"role": "user", "name": "Mia", "content": "I own a red boat"}
        assert (await mem.add(said, user_id="mia", infer="now")).extraction == "failed"
        server.settings.answer = copied
        assert await mem.retry_extraction() == 1
        assert await mem.flush() == 0
        assert (await mem.count(user_id="mia")).facts == 1
        assert await mem.retry_extraction() == 0


async def test_an_update_of_metadata_does_not_embed(memory: Callable[..., Memory], server: ScriptedOllama) -> None:
    """Only a new text needs a model."""
    async with memory() as mem:
        added = await mem.add("tea", user_id="alice", infer=False)
        before = len(server.requests_to("POST /api/embed"))
        changed = await mem.update(added.turns[0].id, metadata={"x": 1}, expires_at="2999-01-01")
        assert changed.expires_at == datetime(2999, 1, 1, tzinfo=UTC)
        assert (await mem.update(changed.id, expires_at=None)).expires_at is None
        assert len(server.requests_to("POST /api/embed")) == before


@pytest.mark.parametrize("wrong", [{}, {"text": " "}, {"text": 3}, {"metadata": 3}, {"expires_at": "soon"}])
async def test_wrong_updates_are_refused(memory: Callable[..., Memory], wrong: dict[str, Any]) -> None:
    """And change nothing."""
    async with memory() as mem:
        added = await mem.add("tea", user_id="alice", infer=False)
        with pytest.raises(ConfigError):
            await mem.update(added.turns[0].id, **wrong)
        with pytest.raises(RecordNotFound):
            await mem.update("nobody", "x")
        assert await mem.get(added.turns[0].id) == added.turns[0]


async def test_filters_say_which_memories(memory: Callable[..., Memory]) -> None:
    """In a search, a listing and a deletion alike."""
    async with memory() as mem:
        for n in range(4):
            await mem.add(f"tea {n}", user_id="alice", metadata={"n": n}, timestamp=f"2026-0{n + 1}-01", infer=False)
        few = {"n": {"gte": 2}}
        assert {hit.text for hit in await mem.search("tea", user_id="alice", filters=few)} == {"tea 2", "tea 3"}
        page = await mem.list(user_id="alice", filters=few, sort="at")
        assert [memory.text for memory in page.items] == ["tea 2", "tea 3"]
        page = await mem.list(user_id="alice", as_of="2026-02-15")
        assert [memory.text for memory in page.items] == ["tea 1", "tea 0"]
        found = await mem.search("tea", user_id="alice", as_of="2026-02-15")
        assert {hit.text for hit in found} == {"tea 0", "tea 1"}
        assert await mem.delete_all(user_id="alice", filters=few) == 2
        assert (await mem.count(user_id="alice")).turns == 2


async def test_deleting_all_needs_a_scope(memory: Callable[..., Memory]) -> None:
    """`reset` is the one that takes everything."""
    async with memory() as mem:
        await mem.add("tea", user_id="alice", infer=False)
        await mem.add("tea", user_id="bob", infer=False)
        with pytest.raises(ConfigError, match="user_id="):
            await mem.delete_all()
        assert await mem.delete_all(user_id="bob") == 1
        assert await mem.reset() == 1
        assert (await mem.count()).turns == 0


async def test_scopes_and_statistics_tell_what_there_is(memory: Callable[..., Memory]) -> None:
    """Whose memories, how many, and what became of the extraction."""
    async with memory() as mem:
        await mem.add("tea", user_id="alice", run_id="1", infer=False)
        await mem.add("tea", user_id="bob", infer=False)
        assert [s.scope for s in await mem.scopes()] == [Scope("alice", None, "1"), Scope("bob")]
        assert [s.scope for s in await mem.scopes(limit=1, after=Scope("alice", None, "1"))] == [Scope("bob")]
        assert [s.turns for s in await mem.scopes(user_id="bob")] == [1]
        statistics = await mem.statistics()
        assert (statistics.store.turns, statistics.store.scopes) == (2, 2)
        assert statistics.extraction is not None
        assert statistics.extraction.jobs_done == 0


async def test_events_tell_what_happens(memory: Callable[..., Memory]) -> None:
    """In order, to everyone who listens; the stream ends with the memory."""
    seen: list[Any] = []

    async def watch(mem: Memory, ready: anyio.Event) -> None:
        async with mem.events() as events:
            ready.set()
            seen.extend([event async for event in events])

    async with anyio.create_task_group() as tasks, memory() as mem:
        ready = anyio.Event()
        tasks.start_soon(watch, mem, ready)
        await ready.wait()
        [turn] = (await mem.add("tea", user_id="alice", infer=False)).turns
        changed = await mem.update(turn.id, "green tea")
        await mem.delete(turn.id)
        await mem.delete_all(user_id="alice", cause="asked")
    assert seen == [
        TurnStored(turn),
        MemoryUpdated(changed),
        MemoryDeleted(turn.id, Scope("alice")),
        MemoriesDeleted(Scope("alice"), 0, "asked"),
    ]


async def test_slow_listeners_are_told_what_they_missed(memory: Callable[..., Memory]) -> None:
    """The memory never waits for them."""
    async with memory() as mem, mem.events(buffer=2) as events:
        for n in range(5):
            await mem.add(f"tea {n}", user_id="alice", infer=False)
        assert await anext(events) == EventsLost(3)
        texts = [event.turn.text for _ in range(2) if isinstance(event := await anext(events), TurnStored)]
        assert texts == ["tea 3", "tea 4"]
        with pytest.raises(ConfigError, match="buffer"):
            mem.events(buffer=0)


async def test_a_closed_memory_refuses_changes(memory: Callable[..., Memory]) -> None:
    """Every call says that the memory is closed."""
    mem = memory()
    for call in (
        lambda: mem.update("x", "y"),
        lambda: mem.delete("x"),
        lambda: mem.delete_all(user_id="a"),
        mem.reset,
        mem.count,
        mem.scopes,
        mem.statistics,
        mem.retry_extraction,
    ):
        with pytest.raises(StoreClosed):
            await call()
    with pytest.raises(StoreClosed):
        mem.events()


async def test_expiry_can_be_taken_back(memory: Callable[..., Memory]) -> None:
    """An update moves the end of a memory."""
    async with memory() as mem:
        soon = datetime.now(UTC) + timedelta(hours=1)
        added = await mem.add("tea", user_id="alice", expires_at=soon, infer=False)
        await mem.update(added.turns[0].id, expires_at=datetime.now(UTC) - timedelta(seconds=1))
        assert not len(await mem.search("tea", user_id="alice"))
        await mem.update(added.turns[0].id, expires_at=None)
        assert len(await mem.search("tea", user_id="alice")) == 1
