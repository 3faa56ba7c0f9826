"""What the server refuses or has no vector for: a bad text fails alone, what concerns all is not repeated."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import anyio
import numpy as np
import pytest
from client.backends import on_both, together
from fakes import Reply, error

from ollama_async_mem import OllamaClient, OllamaEmbedder, RetryPolicy
from ollama_async_mem.errors import (
    ConfigError,
    ConnectFailed,
    EmbeddingFailed,
    EmbeddingMismatch,
    ModelNotFound,
    OllamaError,
    ServerBusy,
    StatusError,
)

from .helpers import EMBED, PACKED, Caller, embedding, hold, refuse, sent

if TYPE_CHECKING:
    from fakes import ScriptedOllama

NAN = "embedding contains NaN or Inf values"


@on_both
@pytest.mark.parametrize(("status", "words"), [(400, NAN), (500, "json: unsupported value: NaN")])
async def test_one_bad_text_is_found_by_halving(fake: ScriptedOllama, status: int, words: str) -> None:
    """63 neighbours get their vectors in few requests; the one whose text it is learns its place, not its words."""
    async with embedding(fake) as embedder, anyio.create_task_group() as tasks:
        await embedder.embed("the server works")
        refuse(fake, lambda text: "secret" in text, words, status)
        before = embedder.statistics.requests
        callers = [Caller(embedder, f"left {n}", f"a secret {n}" if n == 21 else f"right {n}") for n in range(32)]
        for caller in callers:
            tasks.start_soon(caller)
        await fake.wait_until(lambda: all(caller.vectors or caller.failure for caller in callers))
        requests = embedder.statistics.requests - before
    unlucky = callers.pop(21)
    assert all(caller.is_right for caller in callers)
    assert isinstance(unlucky.failure, EmbeddingFailed)
    assert unlucky.failure.positions == (1,)
    assert isinstance(unlucky.failure.__cause__, StatusError)
    assert str(unlucky.failure).startswith(f"texts[1] of 2 cannot be embedded: {words}")
    assert "secret" not in str(unlucky.failure)
    assert requests <= 3 + 2 * 6  # the first two callers go alone, then 2 for each halving of 64
    assert embedder.statistics.failed == 1


@on_both
async def test_all_bad_places_of_a_call_are_told_and_the_rest_is_cached(fake: ScriptedOllama) -> None:
    """So that the caller can leave them out and ask again for nothing."""
    refuse(fake, lambda text: "bad" in text, NAN)
    async with embedding(fake) as embedder:
        texts = [f"bad {n}" if n in (3, 7) else f"fine {n}" for n in range(10)]
        with pytest.raises(EmbeddingFailed, match=r"^texts\[3\] and 1 more of 10 cannot be embedded: ") as failed:
            await embedder.embed_documents(texts)
        requests = embedder.statistics.requests
        good = Caller(embedder, *(text for n, text in enumerate(texts) if n not in failed.value.positions))
        await good()
        assert good.is_right
        assert embedder.statistics.requests == requests


@on_both
async def test_nobody_waits_for_the_rest_of_what_was_halved(fake: ScriptedOllama) -> None:
    """A caller that leaves while a half is under way ends that request, though the other half was answered."""
    async with embedding(fake) as embedder:
        await embedder.embed("the server works")
        fake.enqueue(EMBED, error(400, NAN), Reply(json={"embeddings": [[1.0] * 256]}))
        hold(fake, 1)
        with anyio.CancelScope() as leaving:
            async with anyio.create_task_group() as inner:
                inner.start_soon(Caller(embedder, "a", "bb"))
                await fake.wait_until(lambda: len(sent(fake)) == 4)
                leaving.cancel()
        assert sent(fake)[1:] == [["a", "bb"], ["a"], ["bb"]]
        await fake.wait_closed_connections()


@on_both
async def test_what_the_server_refuses_to_everyone_is_not_halved(fake: ScriptedOllama) -> None:
    """A model that cannot embed: the request, a probe, and the server's own words for all."""
    refuse(fake, lambda _: True, "this model does not support embeddings")
    async with embedding(fake) as embedder:
        with pytest.raises(StatusError, match="this model does not support embeddings"):
            await embedder.embed_documents([f"text {n}" for n in range(12)])
        assert embedder.statistics.requests == 2


@on_both
@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (error(503, "server busy, please try again.  maximum pending requests exceeded"), ServerBusy),
        (error(500, "llama-server process has terminated: signal: killed"), StatusError),
        (error(404, 'model "m" not found, try pulling it first'), ModelNotFound),
        (Reply(json={"embeddings": []}), OllamaError),
    ],
)
async def test_a_server_in_trouble_is_asked_once(fake: ScriptedOllama, answer: Reply, kind: type[OllamaError]) -> None:
    """Those who share the request get the failure, each with a traceback of their own."""
    held = hold(fake, 1)
    async with embedding(fake, in_flight=1) as embedder, anyio.create_task_group() as tasks:
        callers = [Caller(embedder, f"text {n}") for n in range(10)]
        tasks.start_soon(Caller(embedder, "first"))
        await anyio.wait_all_tasks_blocked()
        for caller in callers:
            tasks.start_soon(caller)
        await anyio.wait_all_tasks_blocked()
        fake.enqueue(EMBED, answer)
        held.release()
    assert len(sent(fake)) == 2
    assert {type(caller.failure) for caller in callers} == {kind}
    assert len({id(caller.failure) for caller in callers}) == 10
    async with embedding(fake) as embedder:
        await embedder.embed("works again")


@on_both
async def test_a_long_list_is_not_tried_to_its_end(fake: ScriptedOllama) -> None:
    """Its call ends with the first request that fails for all."""
    fake.enqueue(EMBED, error(500, "llama-server process has terminated: signal: killed"), repeat=True)
    async with embedding(fake, batch=4, in_flight=1) as embedder:
        with pytest.raises(StatusError, match="has terminated"):
            await embedder.embed_documents([f"text {n}" for n in range(400)])
        await anyio.wait_all_tasks_blocked()
        assert embedder.statistics.requests <= 2
        assert embedder._batcher._pending == {}


@on_both
async def test_a_server_that_is_away_is_named(fake: ScriptedOllama) -> None:
    """And it works once the server is back."""
    async with embedding(fake) as embedder:
        await fake.stop()
        caller = Caller(embedder, "tea", "cake")
        await caller()
        assert isinstance(caller.failure, ConnectFailed)
        assert isinstance(caller.failure.__cause__, OSError)
        await fake.start()
        await caller()
        assert caller.is_right


@on_both
async def test_a_vector_without_direction_fails_its_text_alone(fake: ScriptedOllama) -> None:
    """Zeros in JSON, NaN in base64: one request, and the neighbours have theirs."""
    fake.enqueue(EMBED, Reply(json={"embeddings": [[0.6, 0.8], [0, 0], [1, 0]]}))
    numbers = [[1.0, 0.0]] * 19 + [[float("nan"), 1.0]]
    rows = [base64.b64encode(np.array(row, "<f4").tobytes()).decode() for row in numbers]
    fake.enqueue(PACKED, Reply(json={"data": [{"embedding": row, "index": n} for n, row in enumerate(rows)]}))
    async with embedding(fake) as embedder:
        with pytest.raises(EmbeddingFailed, match=r"texts\[1\] of 3 cannot be embedded: .*zero or not finite"):
            await embedder.embed_documents(["a", "b", "c"])
        assert [len(vector) for vector in await embedder.embed_documents(["a", "c"])] == [2, 2]
        with pytest.raises(EmbeddingFailed) as failed:
            await embedder.embed_documents([f"text {n}" for n in range(20)])
        assert failed.value.positions == (19,)
        assert embedder.statistics.requests == 2


@on_both
async def test_vectors_of_another_length_than_before_are_refused(fake: ScriptedOllama) -> None:
    """The model was replaced under its name: that is said, and nothing of it is kept."""
    async with embedding(fake) as embedder:
        await embedder.embed("before")
        assert embedder.statistics.dimension == 256
        fake.settings.dimension = 128
        for _ in range(2):
            with pytest.raises(EmbeddingMismatch, match=r"m:latest with 256 dimensions.*m:latest with 128 dimensions"):
                await embedder.embed("after")
        fake.settings.dimension = 256
        await embedder.embed("after")


@on_both
async def test_half_a_character_is_refused_before_anything_is_sent(fake: ScriptedOllama) -> None:
    """It has no UTF-8 form, and would fail the request that others share."""
    async with embedding(fake) as embedder:
        broken, whole = Caller(embedder, "fine", "\ud83d"), Caller(embedder, "\U0001f600")
        await together(broken, whole)
    assert isinstance(broken.failure, ConfigError)
    assert "texts[1]" in str(broken.failure)
    assert whole.is_right
    assert sent(fake) == [["\U0001f600"]]


@on_both
async def test_who_searches_need_not_wait_for_a_server_that_is_away(fake: ScriptedOllama) -> None:
    """The first waits for all tries; as long as nobody is there the next ones are told at once, and then answered."""
    retry = RetryPolicy(attempts=3, base_s=0.01)
    async with OllamaClient(fake.url, retry=retry) as client, OllamaEmbedder("m", client=client) as embedder:
        await embedder.embed_query("before")
        await fake.stop()
        for text in ("first", "second", "third"):
            with pytest.raises(ConnectFailed):
                await embedder.embed_query(text)
        assert embedder.statistics.retries == 2
        with pytest.raises(ConnectFailed):
            await embedder.embed_documents(["a document is worth waiting for"])
        assert embedder.statistics.retries == 4
        await fake.start()
        assert len(await embedder.embed_query("again")) == fake.settings.dimension
        assert len(await embedder.embed_query("and again")) == fake.settings.dimension
