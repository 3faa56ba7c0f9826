"""The model manager against a scripted Ollama."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from fakes import LAST_CHUNK, STALL, Close, Hold, Raw, Reply, line_chunk, ndjson, stream_head
from hypothesis import given
from hypothesis import strategies as st

from ollama_async_mem import OllamaClient
from ollama_async_mem.errors import ConfigError, ModelNotFound, PullFailed
from ollama_async_mem.ollama._context import context_for
from ollama_async_mem.ollama.models import Layer, PullState, summed
from ollama_async_mem.ollama.schema import PullProgress

from .backends import on_both, together, until

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

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


async def test_a_listener_that_fails_fails_its_own_caller_alone(server: ScriptedOllama) -> None:
    """Both one that only waits and the one that pulls leave with what their function raised; others get the model."""
    hold = Hold()
    server.enqueue("POST /api/pull", Raw([stream_head(), hold, line_chunk({"status": "pulling"}), STALL]))

    def fails(_: PullState) -> None:
        raise KeyError("mine")

    async with OllamaClient(server.url) as client:
        puller = asyncio.create_task(client.models.ensure("new", fails))
        await server.wait_until(lambda: len(server.requests_to("POST /api/pull")) == 1)
        states: list[PullState] = []
        patient, failing = (asyncio.create_task(client.models.ensure("new", f)) for f in (states.append, fails))
        (pull,) = client.models._pulls.values()
        await until(lambda: len(pull.callers) == 3, limit_s=2)
        hold.release()
        results = await asyncio.gather(puller, patient, failing, return_exceptions=True)
    assert [type(result) for result in results] == [KeyError, bool, KeyError]
    assert states[-1].status == "success"


@pytest.mark.parametrize("name", ["", " ", None, 5])
async def test_what_is_no_name_is_refused(server: ScriptedOllama, name: Any) -> None:
    """Before anything is sent; so is another word for `on_missing`, which must not pull."""
    async with OllamaClient(server.url) as client:
        for asked in (client.models.ensure(name), client.models.has(name), client.models.context_size(name, 9000)):
            with pytest.raises(ConfigError, match="a model name is needed"):
                await asked
        with pytest.raises(ConfigError, match="on_missing is 'pull' or 'error', got 'raise'"):
            await client.models.ensure("new", on_missing="raise")  # type: ignore[arg-type]
    assert server.requests == []


@pytest.mark.parametrize("name", ["gpt-oss:cloud", "gpt-oss:120b-Cloud"])
async def test_a_model_of_the_cloud_is_not_pulled(server: ScriptedOllama, name: str) -> None:
    """It runs elsewhere, so there is nothing to get."""
    async with OllamaClient(server.url) as client:
        assert not await client.models.ensure(name)
        assert not await client.models.ensure(name, on_missing="error")
    assert server.requests == []


@pytest.mark.parametrize("backends", [("asyncio", "asyncio"), ("asyncio", "trio"), ("trio", "asyncio")])
def test_event_loops_do_not_wait_for_each_other(fake: ScriptedOllama, backends: tuple[str, str]) -> None:
    """While one thread's loop pulls and sizes a context, another does the same with the same client."""
    client = OllamaClient(fake.url)
    results: list[object] = []

    async def pull() -> None:
        results.append(await client.models.ensure("new"))

    async def size() -> None:
        results.append(await client.models.context_size("m", 5000))

    def in_thread(backend: str, work: Callable[[], Coroutine[Any, Any, None]]) -> threading.Thread:
        thread = threading.Thread(target=partial(anyio.run, work, backend=backend), daemon=True)
        thread.start()
        return thread

    def one_during_the_other(work: Callable[[], Coroutine[Any, Any, None]], route: str, hold: Hold) -> None:
        slow = in_thread(backends[0], work)
        anyio.run(fake.wait_until, lambda: len(fake.requests_to(route)) == 1)
        in_thread(backends[1], work).join(5)
        assert len(results) % 2 == 1, "the second had to wait for the first"
        hold.release()
        slow.join(5)

    pulling, sizing = Hold(), Hold()
    fake.enqueue("POST /api/pull", Raw([stream_head(), pulling, line_chunk({"status": "success"}), LAST_CHUNK]))
    fake.enqueue("GET /api/ps", Raw([sizing, Close()]), running(4096))
    one_during_the_other(pull, "POST /api/pull", pulling)
    one_during_the_other(size, "GET /api/ps", sizing)
    assert results == [True, True, 8192, 8192]


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
    """Bytes of all layers count, a layer counts once, and the time that is left follows from the speed of this run."""
    layers: dict[str, Layer] = {}
    lines = [
        PullProgress(status="pulling manifest"),
        PullProgress(status="pulling a", digest="a", total=100, completed=50),
        PullProgress(status="pulling b", digest="b", total=300),
        PullProgress(status="pulling a", digest="a", total=100, completed=100),
        PullProgress(status="success"),
    ]
    states = [summed("m", line, layers, 10.0) for line in lines]
    assert [(s.completed, s.total) for s in states] == [(0, 0), (50, 100), (50, 400), (100, 400), (100, 400)]
    assert [s.bytes_per_s for s in states] == [0, 0, 0, 5, 5]  # the first 50 bytes were there before
    assert states[1].remaining_s is None
    assert states[-1].remaining_s == 60


async def test_a_tag_that_does_not_exist_lists_those_that_are_here(server: ScriptedOllama) -> None:
    """The failure of such a pull names the other tags of the model, once; other failures are left as they are."""
    server.settings.models = ["llama3.2:1b-q4", "llama3.2:latest", "other:latest"]
    gone = ndjson({"status": "pulling manifest"}, {"error": "pull model manifest: file does not exist"})
    server.enqueue("POST /api/pull", gone, gone, ndjson({"error": "dial tcp: no route to host"}))
    tags = r"failed: pull model manifest: file does not exist; installed of it: llama3.2:1b-q4, llama3.2:latest$"
    async with OllamaClient(server.url) as client:
        with pytest.raises(PullFailed, match=tags) as caught:
            await client.models.ensure("llama3.2:q9")
        assert caught.value.model == "llama3.2:q9"
        with pytest.raises(PullFailed, match=r"does not exist$"):
            await client.models.ensure("nothing:q9")
        with pytest.raises(PullFailed, match=r"no route to host$"):
            await client.models.ensure("llama3.2:q9")


@given(st.integers(1, 2**20), st.integers(0, 2**20), st.integers(0, 2**20), st.integers(0, 2**20))
def test_a_context_is_enough_and_no_larger_than_it_has_to_be(needed: int, loaded: int, own: int, longest: int) -> None:
    """What is loaded is kept where it is enough; a new one is a power of two, at most twice what is needed."""
    size = context_for(needed, loaded=loaded, own=own, longest=longest)
    if loaded >= needed:
        assert size == loaded
    elif own >= needed:
        assert size == own
    elif longest and size == longest:
        assert longest < 2 * needed
    else:
        assert size.bit_count() == 1
        assert needed <= size < 2 * needed


def running(context: int, name: str = "m:latest") -> Reply:
    """An answer of /api/ps with one model."""
    return Reply(json={"models": [{"name": name, "context_length": context}]})


@pytest.mark.parametrize(
    ("loaded", "shown", "needed", "num_ctx"),
    [
        (running(32_768), {}, 5000, 32_768),
        (running(32_768, "registry.ollama.ai/library/M:latest"), {}, 5000, 32_768),
        (running(32_768, "other:latest"), {}, 5000, 8192),
        (running(4096), {}, 5000, 8192),
        (running(4096), {"parameters": 'stop  "x"\nnum_ctx                        12000'}, 5000, 12_000),
        (running(4096), {"model_info": {"general.architecture": "a", "a.context_length": 6000}}, 5000, 6000),
        (running(4096), {"model_info": {"general.architecture": "a", "a.context_length": 6000}}, 9000, 6000),
        (Reply(404, body="404 page not found"), {}, 5000, 8192),
        (Reply(body="<html>"), {}, 5000, 8192),
        (running(4096), None, 5000, 8192),
    ],
)
async def test_which_context_is_asked_for(
    server: ScriptedOllama, loaded: Reply, shown: dict[str, Any] | None, needed: int, num_ctx: int
) -> None:
    """The loaded one, else the Modelfile's, else a power of two, at most the longest; unknown where nobody says."""
    server.enqueue("GET /api/ps", loaded)
    server.enqueue(
        "POST /api/show", Reply(404, json={"error": "model 'm' not found"}) if shown is None else Reply(json=shown)
    )
    async with OllamaClient(server.url) as client:
        assert await client.models.context_size("m", needed) == num_ctx


async def test_a_context_only_grows_and_is_asked_for_when_it_has_to(
    server: ScriptedOllama, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing up to 4,096; then the pin of the model under all its names, until more is needed or there is no more."""
    model = {"model_info": {"general.architecture": "a", "a.context_length": 10_000}}
    server.enqueue("POST /api/show", Reply(json=model), repeat=True)
    async with OllamaClient(server.url) as client:
        sizes = [await client.models.context_size("m", n) for n in (10, 4096, 4097, 10, 8192)]
        assert sizes == [None, None, 8192, 8192, 8192]
        assert await client.models.context_size("other", 10) is None
        assert await client.models.context_size("M:latest", 8193) == 10_000
        assert caplog.messages == []
        assert [await client.models.context_size("m", n) for n in (20_000, 20_001)] == [10_000, 10_000]
        assert "20000 tokens, its context has 10000" in caplog.messages[0]
        assert len(server.requests_to("GET /api/ps")) == len(server.requests_to("POST /api/show")) == 2


@on_both
async def test_callers_at_once_ask_once(fake: ScriptedOllama) -> None:
    """Many first prompts settle one context between them, and a cancelled one leaves the others alone."""
    sizes: list[int | None] = []
    async with OllamaClient(fake.url) as client:

        async def ask() -> None:
            sizes.append(await client.models.context_size("m", 5000))

        hold = Hold()
        fake.enqueue("GET /api/ps", Raw([hold, Close()]), running(4096))
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as first:
                first.start_soon(ask)
                await fake.wait_until(lambda: len(fake.requests_to("GET /api/ps")) == 1)
                scope.cancel()
        hold.release()
        await together(*[ask] * 20)
    assert sizes == [8192] * 20
    assert len(fake.requests_to("GET /api/ps")) == 2
    assert len(fake.requests_to("POST /api/show")) == 1
