"""The model manager against a scripted Ollama."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from fakes import STALL, Raw, Reply, line_chunk, ndjson, stream_head

from ollama_async_mem import OllamaClient
from ollama_async_mem.errors import ModelNotFound, PullFailed
from ollama_async_mem.ollama.models import PullState, summed
from ollama_async_mem.ollama.schema import PullProgress

if TYPE_CHECKING:
    from fakes import ScriptedOllama


async def test_all_who_ask_share_one_pull(server: ScriptedOllama) -> None:
    """Ten callers make one pull, each sees its progress, and all are told that it was pulled."""
    seen: list[list[PullState]] = [[] for _ in range(10)]
    async with OllamaClient(server.url) as client:
        pulled = await asyncio.gather(*(client.models.ensure("new", states.append) for states in seen))
        assert not await client.models.ensure("new")
    assert pulled == [True] * 10
    assert len(server.requests_to("POST /api/pull")) == 1
    assert all(states[-1].status == "success" for states in seen)


async def test_a_failed_pull_fails_all_who_wait_for_it_once(server: ScriptedOllama) -> None:
    """The failure of a shared pull is everyone's, and the next call tries anew."""
    server.enqueue("POST /api/pull", ndjson({"status": "pulling manifest"}, {"error": "no such model"}))
    async with OllamaClient(server.url) as client:
        calls = (client.models.ensure("new") for _ in range(5))
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, PullFailed) for result in results)
        assert len(server.requests_to("POST /api/pull")) == 1
        assert await client.models.ensure("new")


async def test_a_pull_outlives_the_caller_that_began_it(server: ScriptedOllama) -> None:
    """When the caller that pulls is cancelled, the next takes over; when the last leaves, the socket is closed."""
    stalled = Raw([stream_head(), line_chunk({"status": "pulling manifest"}), STALL])
    server.enqueue("POST /api/pull", stalled, ndjson({"status": "success"}), stalled)
    async with OllamaClient(server.url) as client:
        first = asyncio.create_task(client.models.ensure("new"))
        await server.wait_until(lambda: len(server.requests_to("POST /api/pull")) == 1)
        second = asyncio.create_task(client.models.ensure("new"))
        await asyncio.sleep(0.05)
        first.cancel()
        assert await second
        last = asyncio.create_task(client.models.ensure("other"))
        await server.wait_until(lambda: len(server.requests_to("POST /api/pull")) == 3)
        last.cancel()
        await asyncio.gather(first, last, return_exceptions=True)
        assert client.models._pulls == {}
    await server.wait_closed_connections(timeout_s=0.5)


async def test_a_missing_model_can_be_an_error(server: ScriptedOllama) -> None:
    """Without pulling, the error lists the tags of the model that are there."""
    server.settings.models = ["llama3.2:1b", "other:latest"]
    async with OllamaClient(server.url) as client:
        with pytest.raises(ModelNotFound, match=r"installed of it: llama3.2:1b\. Get it with: ollama pull llama3.2:8b"):
            await client.models.ensure("llama3.2:8b", on_missing="error")
    assert server.requests_to("POST /api/pull") == []


async def test_loading_and_unloading(server: ScriptedOllama) -> None:
    """Models that chat are loaded by an empty prompt, those that only embed by an empty list."""
    embedder = {"capabilities": ["embedding"], "model_info": {"general.architecture": "b", "b.embedding_length": 7}}
    async with OllamaClient(server.url) as client:
        await client.models.load("llama3.2", keep_alive=60)
        await client.models.unload("llama3.2")
        server.enqueue("POST /api/show", Reply(json=embedder), repeat=True)
        await client.models.unload("nomic-embed-text")
        assert await client.models.embedding_length("nomic-embed-text") == 7
        assert await client.models.running() == []
    sent = [(r.json["keep_alive"], r.json["prompt"]) for r in server.requests_to("POST /api/generate")]
    assert sent == [(60, ""), (0, "")]
    assert server.requests_to("POST /api/embed")[0].json == {"model": "nomic-embed-text", "input": [], "keep_alive": 0}


def test_progress_is_summed_over_layers() -> None:
    """Bytes of all layers count, a layer counts once, and the time that is left follows from the speed."""
    layers: dict[str, PullProgress] = {}
    lines = [
        PullProgress(status="pulling manifest"),
        PullProgress(status="pulling a", digest="a", total=100, completed=50),
        PullProgress(status="pulling b", digest="b", total=300),
        PullProgress(status="pulling a", digest="a", total=100, completed=100),
        PullProgress(status="success"),
    ]
    states = [summed("m", line, layers, 10.0) for line in lines]
    assert [(s.completed, s.total) for s in states] == [(0, 0), (50, 100), (50, 400), (100, 400), (100, 400)]
    assert states[0].remaining_s is None
    assert states[-1].remaining_s == 30
