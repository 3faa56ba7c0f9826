"""Callers at the same time share requests, texts and vectors, and nothing else: order, cache, cancellation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import numpy as np
import pytest
from client.backends import cancelled_everywhere, on_both

from ollama_async_mem import OllamaClient, OllamaEmbedder
from ollama_async_mem.errors import ConfigError, OllamaError

from .helpers import EMBED, Caller, embedding, hold, sent

if TYPE_CHECKING:
    from fakes import ScriptedOllama

    from ollama_async_mem.embedding.batcher import Outcome


@on_both
async def test_who_comes_while_requests_are_under_way_shares_the_next(fake: ScriptedOllama) -> None:
    """Two calls go out at once, eighteen wait and go out together; everybody gets their own."""
    held = hold(fake, 2)
    async with embedding(fake) as embedder, anyio.create_task_group() as tasks:
        callers = [Caller(embedder, f"text {number}", is_query=True) for number in range(20)]
        for caller in callers[:2]:
            tasks.start_soon(caller)
            await fake.wait_until(lambda: len(sent(fake)) == callers.index(caller) + 1)  # noqa: B023 - awaited here
        for caller in callers[2:]:
            tasks.start_soon(caller)
        await anyio.wait_all_tasks_blocked()
        assert len(sent(fake)) == 2
        held.release()
    assert [len(texts) for texts in sent(fake)] == [1, 1, 18]
    assert all(caller.is_right for caller in callers)
    assert (embedder.statistics.requests, embedder.statistics.texts, embedder.statistics.sent) == (3, 20, 20)


@on_both
async def test_a_long_list_goes_in_requests_of_a_batch(fake: ScriptedOllama) -> None:
    """200 texts are four requests of at most 64, and come back in order."""
    async with embedding(fake) as embedder:
        caller = Caller(embedder, *(f"text {number}" for number in range(200)))
        await caller()
        assert await embedder.embed_documents([]) == []
    assert sorted(len(texts) for texts in sent(fake)) == [8, 64, 64, 64]
    assert caller.is_right


@on_both
async def test_a_very_long_list_lets_others_have_their_turn(fake: ScriptedOllama) -> None:
    """Whoever comes later waits for what is under way and one more request, not for the whole list."""
    held = hold(fake, 1)
    async with embedding(fake, batch=4, in_flight=1) as embedder, anyio.create_task_group() as tasks:
        bulk, single = Caller(embedder, *(f"bulk {number}" for number in range(40))), Caller(embedder, "single")
        tasks.start_soon(bulk)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(single)
        await anyio.wait_all_tasks_blocked()
        held.release()
    assert ["single" in texts for texts in sent(fake)[:3]] == [False, False, True]
    assert bulk.is_right
    assert single.is_right
    assert len(sent(fake)) == 11


@on_both
async def test_a_query_goes_before_the_documents_that_wait(fake: ScriptedOllama) -> None:
    """It is in the very next request, with no document."""
    held = hold(fake, 1)
    async with embedding(fake, batch=8, in_flight=1) as embedder, anyio.create_task_group() as tasks:
        tasks.start_soon(Caller(embedder, *(f"document {number}" for number in range(40))))
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(Caller(embedder, "a query", is_query=True))
        await anyio.wait_all_tasks_blocked()
        held.release()
    assert sent(fake)[1] == ["a query"]
    assert len(sent(fake)) == 6


@on_both
async def test_documents_are_not_starved_by_queries(fake: ScriptedOllama) -> None:
    """After three requests with queries one goes with documents, however many queries wait."""
    held = hold(fake, 1)
    async with embedding(fake, batch=1, in_flight=1) as embedder, anyio.create_task_group() as tasks:
        tasks.start_soon(Caller(embedder, "first", is_query=True))
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(Caller(embedder, "d", "d2"))
        tasks.start_soon(Caller(embedder, *(f"q{number}" for number in range(9)), is_query=True))
        await anyio.wait_all_tasks_blocked()
        held.release()
    assert "".join(text[0] for (text,) in sent(fake)[1:]) == "qqqdqqqdqqq"


@on_both
async def test_a_text_that_is_asked_for_already_is_not_asked_for_again(fake: ScriptedOllama) -> None:
    """Ten callers, and twice in one call, in flight and in the queue."""
    held = hold(fake, 1)
    async with embedding(fake, in_flight=1) as embedder, anyio.create_task_group() as tasks:
        callers = [Caller(embedder, "tea", "cake", "tea") for _ in range(10)]
        tasks.start_soon(Caller(embedder, "tea"))
        await anyio.wait_all_tasks_blocked()
        for caller in callers:
            tasks.start_soon(caller)
        await anyio.wait_all_tasks_blocked()
        held.release()
    assert sent(fake) == [["tea"], ["cake"]]
    assert all(caller.is_right for caller in callers)
    assert embedder.statistics.shared == 20 + 9


@on_both
async def test_a_query_for_a_document_that_waits_takes_it_along(fake: ScriptedOllama) -> None:
    """The same text in both queues is sent once, as early as a query."""
    held = hold(fake, 1)
    async with embedding(fake, batch=1, in_flight=1) as embedder, anyio.create_task_group() as tasks:
        tasks.start_soon(Caller(embedder, "a", "b", "c"))
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(Caller(embedder, "c", is_query=True))
        await anyio.wait_all_tasks_blocked()
        held.release()
    assert sent(fake) == [["a"], ["c"], ["b"]]


@on_both
async def test_what_was_embedded_before_comes_from_the_cache(fake: ScriptedOllama) -> None:
    """And nobody can spoil it for others: the arrays are read-only."""
    async with embedding(fake) as embedder:
        first = await embedder.embed_documents(["tea", "cake"])
        again = await embedder.embed_documents(["cake", "pie", "tea"])
        with pytest.raises(ValueError, match="read-only"):
            first[0][0] = 5.0
    assert np.array_equal(first[0], again[2])
    assert sent(fake) == [["tea", "cake"], ["pie"]]
    statistics = embedder.statistics
    assert (statistics.cache_hits, statistics.cached, statistics.dimension) == (2, 3, 256)
    assert 3 * 256 * 4 < statistics.cache_bytes < 3 * 256 * 4 + 3 * 400


@on_both
async def test_the_cache_holds_what_was_used_last_within_its_bytes(fake: ScriptedOllama) -> None:
    """Room for two vectors keeps two; no room keeps none."""
    async with embedding(fake, cache_bytes=3000) as small, embedding(fake, cache_bytes=0) as none:
        for text in ("a", "b", "a", "c", "a", "b"):
            await small.embed(text)
        assert small.statistics.cached == 2
        assert small.statistics.cache_bytes <= 3000
        assert "".join(text for (text,) in sent(fake)) == "abcb"
        await none.embed("x")
        await none.embed("x")
        assert none.statistics.requests == 2


@on_both
async def test_prefixed_texts_are_different_texts(fake: ScriptedOllama) -> None:
    """A query is not answered with the vector of a document of the same words."""
    async with embedding(fake, query_prefix="q: ", document_prefix="d: ") as embedder:
        query, document = await embedder.embed_query("tea"), await embedder.embed("tea")
    assert sent(fake) == [["q: tea"], ["d: tea"]]
    assert not np.array_equal(query, document)


@on_both
async def test_a_caller_that_leaves_does_not_disturb_another(fake: ScriptedOllama) -> None:
    """Two wait for one text, one is cancelled, the other gets it from the one request."""
    held = hold(fake, 1)
    async with embedding(fake) as embedder, anyio.create_task_group() as tasks:
        staying = Caller(embedder, "tea")
        with anyio.CancelScope() as leaving:
            async with anyio.create_task_group() as inner:
                inner.start_soon(Caller(embedder, "tea", "tea"))
                await anyio.wait_all_tasks_blocked()
                tasks.start_soon(staying)
                await anyio.wait_all_tasks_blocked()
                leaving.cancel()
        held.release()
    assert staying.is_right
    assert sent(fake) == [["tea"]]


@on_both
async def test_what_nobody_waits_for_is_not_sent(fake: ScriptedOllama) -> None:
    """Texts that are queued are dropped, and a request under way is cancelled; both can be asked for again."""
    hold(fake, 1)
    async with embedding(fake, in_flight=1) as embedder:
        with anyio.CancelScope() as leaving:
            async with anyio.create_task_group() as inner:
                inner.start_soon(Caller(embedder, "under way"))
                await fake.wait_until(lambda: bool(sent(fake)))
                inner.start_soon(Caller(embedder, "queued"))
                await anyio.wait_all_tasks_blocked()
                leaving.cancel()
        await fake.wait_closed_connections()  # the server stops to compute
        assert not fake.requests_to(EMBED)[0].completed
        again = Caller(embedder, "under way", "other")
        await again()
    assert again.is_right
    assert sent(fake) == [["under way"], ["under way", "other"]]


@on_both
async def test_cancelled_at_any_moment_it_serves_the_next(fake: ScriptedOllama) -> None:
    """Long texts, short ones and cached ones: no caller that was cancelled leaves a trace."""
    async with embedding(fake) as embedder:
        number = 0

        async def scenario() -> None:
            nonlocal number
            number += 1
            await embedder.embed_documents([f"text {number}", "long " * 100, "tea"])

        rounds = [number async for number in cancelled_everywhere(scenario)]
        assert len(rounds) > 5
        after = Caller(embedder, "tea", "after")
        await after()
        assert after.is_right
        assert embedder._batcher._pending == {}


@on_both
async def test_closing_tells_those_who_wait(fake: ScriptedOllama) -> None:
    """Nobody waits for ever, in flight or queued, and nothing works outside `async with`."""
    hold(fake, 1)
    async with anyio.create_task_group() as tasks, embedding(fake, in_flight=1) as embedder:
        callers = [Caller(embedder, "one"), Caller(embedder, "two")]
        for caller in callers:
            tasks.start_soon(caller)
        await fake.wait_until(lambda: bool(sent(fake)))
    for caller in callers:
        assert isinstance(caller.failure, OllamaError)
        assert "closed" in str(caller.failure)
    for texts in (["three"], ["long " * 100], []):
        with pytest.raises(ConfigError, match="async with"):
            await embedder.embed_documents(texts)


@on_both
async def test_who_is_shielded_is_served_when_a_scope_around_all_is_cancelled(fake: ScriptedOllama) -> None:
    """The requests end with the embedder, not with the scope: one under way and one that is asked for only then."""
    held = hold(fake, 1)
    callers: list[Caller] = []
    with anyio.CancelScope() as around:
        async with embedding(fake, in_flight=1) as embedder:
            callers += [Caller(embedder, "one"), Caller(embedder, "two")]
            with anyio.fail_after(5, shield=True):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(callers[0])
                    await fake.wait_until(lambda: bool(sent(fake)))
                    around.cancel()
                    tasks.start_soon(callers[1])
                    await anyio.wait_all_tasks_blocked()
                    held.release()
    assert around.cancel_called
    assert [caller.is_right for caller in callers] == [True, True]


@on_both
async def test_others_are_told_when_a_scope_around_the_embedder_is_cancelled(fake: ScriptedOllama) -> None:
    """Whoever is outside of it does not wait for a request that nobody does any more."""
    hold(fake, 1)
    around, opened = anyio.CancelScope(), anyio.Event()
    embedders: list[OllamaEmbedder] = []

    async def owner() -> None:
        with around:
            async with embedding(fake, in_flight=1) as embedder:
                embedders.append(embedder)
                opened.set()
                await anyio.sleep_forever()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(owner)
            await opened.wait()
            callers = [Caller(embedders[0], "one"), Caller(embedders[0], "two")]
            for caller in callers:
                tasks.start_soon(caller)
            await fake.wait_until(lambda: bool(sent(fake)))
            around.cancel()
    assert ["closed" in str(caller.failure) for caller in callers] == [True, True]


@on_both
async def test_a_bug_in_a_request_ends_those_who_wait_too(fake: ScriptedOllama) -> None:
    """It is raised where the embedder is open; who is shielded there does not keep it open for ever."""
    callers: list[Caller] = []

    async def scenario() -> None:
        async with embedding(fake, in_flight=1) as embedder:
            embedder._batcher._send = _nothing
            callers.append(Caller(embedder, "one"))
            with anyio.fail_after(5, shield=True):
                await callers[0]()

    with pytest.raises(ExceptionGroup):
        await scenario()
    assert isinstance(callers[0].failure, OllamaError)


async def _nothing(_texts: object) -> list[Outcome]:
    return []


@on_both
async def test_it_can_be_entered_again(fake: ScriptedOllama) -> None:
    """And remembers what it embedded."""
    async with OllamaClient(fake.url) as client:
        embedder = OllamaEmbedder("m", client=client)
        for texts in (["tea"], ["tea", "cake"]):
            async with embedder:
                await embedder.embed_documents(texts)
    assert sent(fake) == [["tea"], ["cake"]]
