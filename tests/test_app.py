"""The composition root: settings become a memory that works with them, on a scripted Ollama and the real engine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fakes import Reply, ScriptedOllama

from ollama_async_mem import EmbedderConfig, Memory, OllamaClient, OllamaEmbedder, OllamaLLM
from ollama_async_mem.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from ollama_async_mem.memory.behaviour import Behaviour

TEA = "I like green tea"


@pytest.fixture(autouse=True)
def no_store_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the settings name the store: the variable would win over them."""
    monkeypatch.delenv("OLLAMA_ASYNC_MEM_STORE")


def settings(server: ScriptedOllama, tmp_path: Path, **llm: Any) -> dict[str, Any]:
    """Settings in the shape of a file."""
    return {
        "llm": {"provider": "ollama", "config": {"model": "talker", "base_url": server.url, **llm}},
        "embedder": {"provider": "ollama", "config": {"model": "all-minilm", "base_url": server.url}},
        "store": f"sqlite:///{tmp_path}/notes.db",
    }


async def remembered(mem: Memory) -> str:
    """Add a line and chat; returns the answer."""
    await mem.add(TEA, user_id="ann", infer=False)
    async with mem.chat("What do I like?", user_id="ann", infer=False) as stream:
        return "".join([piece async for piece in stream.text()])


@pytest.mark.parametrize("name", ["settings.json", "settings.yaml"])
async def test_a_memory_of_a_file(server: ScriptedOllama, tmp_path: Path, name: str) -> None:
    """What the file says is used, and the file is read when the memory is opened, off the event loop."""
    path = tmp_path / name
    memory = Memory.from_config(path)
    path.write_text(json.dumps(settings(server, tmp_path, temperature=0.5, num_ctx=2048)))
    async with memory as mem:
        assert await remembered(mem)
        assert (mem.llm_model, mem.store.location) == ("talker", f"{tmp_path}/notes.db")
        assert mem.client.url == server.url
    (chat,) = server.requests_to("POST /api/chat")
    assert chat.json["options"] == {"temperature": 0.5, "num_predict": 2000, "num_ctx": 2048}
    assert {request.json["model"] for request in server.requests_to("POST /api/embed")} == {"all-minilm"}
    with pytest.raises(ConfigError, match="opened once"):
        await memory.__aenter__()
    await server.wait_closed_connections()


async def test_a_memory_of_a_mapping(server: ScriptedOllama, tmp_path: Path) -> None:
    """It is the same, and arguments win over it."""
    async with Memory.from_config(settings(server, tmp_path, model="no"), llm="yes", store=tmp_path / "b.db") as mem:
        assert await remembered(mem)
        assert mem.store.location == str(tmp_path / "b.db")
    assert server.requests_to("POST /api/chat")[0].json["model"] == "yes"


@pytest.mark.parametrize("prompt", [None, "Only pets."])
async def test_how_a_memory_works_is_in_the_settings(
    server: ScriptedOllama, tmp_path: Path, prompt: str | None
) -> None:
    """What the section `memory` says is done, and what an argument says in its place."""
    path = tmp_path / "settings.json"
    weights = {"listed": 0, "dense": 0, "dense_before": 0, "words": 0, "statement": 0}
    works = {"prompt": "Only food.", "idle_s": 0, "same_within": 0, "weights": weights}
    path.write_text(json.dumps(settings(server, tmp_path) | {"memory": works}))
    given: Behaviour = {"prompt": prompt} if prompt else {}
    async with Memory(config=path, **given) as mem:
        await mem.add(TEA, user_id="ann", infer="now")
        again = await mem.add(TEA, user_id="ann", infer=False)
        assert again.is_new
        (hit, _) = await mem.search(TEA, user_id="ann", explain=True)
        assert set(hit.parts.values()) <= {0.0}
    told = server.requests_to("POST /api/chat")[0].json["messages"][0]["content"]
    assert told.startswith(prompt or "Only food.")


async def test_the_settings_may_leave_extraction_to_others(server: ScriptedOllama, tmp_path: Path) -> None:
    """The job is queued, and this process asks no model."""
    works = {"memory": {"extract": False, "idle_s": 0}}
    async with Memory(config=settings(server, tmp_path) | works) as mem:
        await mem.add(TEA, user_id="ann", infer="now")
        assert await mem.flush() == 1
    assert not server.requests_to("POST /api/chat")


async def test_a_variable_names_the_settings(
    server: ScriptedOllama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Memory()` alone works with the file that OLLAMA_ASYNC_MEM_CONFIG names."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps(settings(server, tmp_path)))
    monkeypatch.setenv("OLLAMA_ASYNC_MEM_CONFIG", str(path))
    async with Memory() as mem:
        assert await remembered(mem)
    assert server.requests_to("POST /api/chat")[0].json["model"] == "talker"


async def test_wrong_settings_are_refused(tmp_path: Path) -> None:
    """Those of a mapping at once, those of a file when it is read, with its name."""
    with pytest.raises(ConfigError, match=r"unknown key 'llm.config.temprature', did you mean 'temperature'\?"):
        Memory.from_config({"llm": {"config": {"temprature": 1}}})
    path = tmp_path / "bad.yaml"
    path.write_text("llm: {config: {temperature: -9}}")
    with pytest.raises(ConfigError, match=r"bad.yaml: llm.config.temperature cannot be -9"):
        async with Memory.from_config(path):
            pass
    with pytest.raises(ConfigError, match="No such file"):
        async with Memory.from_config(tmp_path / "none.yaml"):
            pass


async def test_a_model_s_own_parameters_are_the_default(server: ScriptedOllama, tmp_path: Path) -> None:
    """Without settings only the length of an answer is limited; sampling is the model's business."""
    async with Memory(tmp_path / "a.db", host=server.url) as mem:
        assert await remembered(mem)
    chat = server.requests_to("POST /api/chat")[0].json
    assert (chat["model"], chat["options"]) == ("llama3.2", {"num_predict": 2000})


async def test_two_servers(server: ScriptedOllama, tmp_path: Path) -> None:
    """The models may be on different servers with different credentials; a host, or a client, is for both."""
    async with ScriptedOllama() as other:
        config = settings(server, tmp_path, api_key="k", timeout=60)
        config["embedder"]["config"]["base_url"] = other.url
        async with Memory.from_config(config) as mem:
            assert await remembered(mem)
            assert await mem.client.version()
        asked = {request.route for request in server.requests}
        assert asked == {"POST /api/chat", "POST /api/show", "GET /api/version"}
        assert {request.headers["authorization"] for request in server.requests} == {"Bearer k"}
        assert {request.route for request in other.requests} == {"POST /api/embed"}
        assert "authorization" not in other.requests[0].headers
        await other.wait_closed_connections()

        async with Memory.from_config(config, host=server.url) as mem:
            assert await remembered(mem)
        async with OllamaClient(server.url) as client:
            async with Memory.from_config(config, client=client) as mem:
                assert await remembered(mem)
                assert mem.client is client
            assert await client.version()  # it is still open
        assert len(other.requests) == len(server.requests_to("POST /api/embed")) // 2


async def test_given_parts_are_used_as_they_are(server: ScriptedOllama, tmp_path: Path) -> None:
    """A model or an embedder of one's own takes the place of what the settings say, and is not closed by an LLM."""
    async with OllamaClient(server.url) as client, OllamaLLM("mine", client=client) as llm:
        embedder = OllamaEmbedder(EmbedderConfig(model="own"), client=client)
        async with Memory.from_config(
            {"llm": "no", "embedder": "no"}, store=tmp_path / "a.db", llm=llm, embedder=embedder
        ) as mem:
            assert await remembered(mem)
    assert server.requests_to("POST /api/chat")[0].json["model"] == "mine"
    assert server.requests_to("POST /api/embed")[0].json["model"] == "own"


async def test_an_embedder_by_the_names_of_mem0(server: ScriptedOllama) -> None:
    """`memory_action` chooses the prefix; what the config says of dimensions and loading goes out."""
    config = {"model": "nomic-embed-text", "base_url": server.url, "embedding_dims": 8, "keep_alive": 60}
    async with OllamaEmbedder(config) as embedder:
        found = await embedder.embed("tea", "search")
        stored = await embedder.embed_batch(["tea", "cake"], memory_action="add")
        assert np.array_equal(await embedder.embed_query("tea"), found)  # of the cache, as the next
        assert np.array_equal(await embedder.embed("tea"), stored[0])
        with pytest.raises(ConfigError, match="memory_action is 'add'"):
            await embedder.embed("tea", "find")  # type: ignore[arg-type]
    assert (found.shape, found.dtype, len(stored)) == ((8,), np.dtype("float32"), 2)
    bodies = [request.json for request in server.requests_to("POST /api/embed")]
    assert [body["input"] for body in bodies] == [
        ["search_query: tea"],
        ["search_document: tea", "search_document: cake"],
    ]
    assert {(body["dimensions"], body["keep_alive"]) for body in bodies} == {(8, 60)}
    await server.wait_closed_connections()


async def test_prefixes_can_be_set(server: ScriptedOllama) -> None:
    """What the config says takes the place of what the model was trained with, also where it is empty."""
    config = EmbedderConfig(query_prefix="q: ", document_prefix="", ollama_base_url=server.url)
    async with OllamaEmbedder(config) as embedder:
        await embedder.embed_query("tea")
        await embedder.embed_documents(["tea"])
    assert [r.json["input"] for r in server.requests_to("POST /api/embed")] == [["q: tea"], ["tea"]]


@pytest.mark.parametrize("texts", ["tea", b"tea", None, 5, [["tea"]], ["tea", None]])
async def test_what_is_no_list_of_texts_is_refused(server: ScriptedOllama, texts: Any) -> None:
    """Above all one text, which is a list of its letters to Python; nothing is sent."""
    async with OllamaEmbedder(EmbedderConfig(ollama_base_url=server.url)) as embedder:
        with pytest.raises(ConfigError, match="texts is a"):
            await embedder.embed_documents(texts)
    assert server.requests == []


async def test_vectors_of_another_length_are_refused(server: ScriptedOllama) -> None:
    """A server that does not shorten vectors, as old ones do not, is no silent surprise for the store."""
    server.enqueue("POST /api/embed", lambda _: Reply(json={"embeddings": [[0.6, 0.8, 0.0]]}))
    async with OllamaEmbedder(EmbedderConfig(embedding_dims=2), client=OllamaClient(server.url)) as embedder:
        with pytest.raises(ConfigError, match="makes vectors of 3, not of embedding_dims=2"):
            await embedder.embed("tea")
        await embedder.client.aclose()
    with pytest.raises(ConfigError, match="async with"):
        await OllamaEmbedder("m").embed("tea")


async def test_a_memory_of_settings_on_a_real_model(engine: str, tmp_path: Path) -> None:
    """On the engine: settings in YAML, a line that is found by its meaning, and an answer that is streamed."""
    path = tmp_path / "settings.yaml"
    path.write_text(
        f"""
        llm:
          provider: ollama
          config: {{model: 'smollm2:135m', temperature: 0, max_tokens: 40, base_url: '{engine}'}}
        embedder: {{provider: ollama, config: {{model: wordllama, base_url: '{engine}'}}}}
        store: {tmp_path}/real.db
        """
    )
    async with Memory.from_config(path) as mem:
        answer = await remembered(mem)
        found = await mem.search("hot drinks", user_id="ann")
        assert answer.strip()
        assert TEA in [hit.text for hit in found]
        assert mem.store.location == f"{tmp_path}/real.db"
