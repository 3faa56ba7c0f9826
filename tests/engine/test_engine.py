"""The engine with the real model over a real socket."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import pytest

from engine import engine_support as support
from ollama_async_mem.engine import ENGINE_VERSION_SUFFIX

MODEL = support.MODEL
EMBEDDER = "wordllama"
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
# goes on until the context is full
ENDLESS: dict[str, Any] = {
    "model": MODEL,
    "prompt": "one two three one two three one two three",
    "raw": True,
    "options": {"temperature": 0, "repeat_penalty": 1.0},
}
COLD: dict[str, Any] = {"temperature": 0, "seed": 1}


def cosine(left: list[float], right: list[float]) -> float:
    """The similarity of two unit vectors."""
    return sum(a * b for a, b in zip(left, right, strict=True))


async def lines_of(http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """All lines of a streamed answer."""
    async with http.stream("POST", path, json=body) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/x-ndjson"
        return [json.loads(line) async for line in answer.aiter_lines()]


async def test_a_chat_streams_tokens_that_join_to_the_answer(http: httpx.AsyncClient) -> None:
    """At temperature 0 the capital of France is Paris, one line a token, figures on the last."""
    lines = await lines_of(http, "/api/chat", {"model": "SmolLM2:135M", "messages": FRANCE, "options": COLD})
    assert "Paris" in "".join(line["message"]["content"] for line in lines)
    assert len(lines) > 4
    assert {line["model"] for line in lines} == {"SmolLM2:135M"}
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    last = lines[-1]
    assert last["done_reason"] == "stop"
    assert last["prompt_eval_count"] == 27
    assert last["eval_count"] == len(lines)
    assert last["total_duration"] >= last["eval_duration"] > 1_000_000


async def test_generate_answers_in_one_piece(http: httpx.AsyncClient) -> None:
    """`stream: false` joins the lines; a prompt gets the model's template and system prompt."""
    body = {"model": MODEL, "prompt": FRANCE[0]["content"], "stream": False, "options": COLD}
    answer = (await http.post("/api/generate", json=body)).json()
    assert "Paris" in answer["response"]
    assert answer["done"] is True
    raw = {"model": MODEL, "prompt": "The capital of France is", "raw": True, "stream": False}
    answer = (await http.post("/api/generate", json={**raw, "options": {**COLD, "num_predict": 3}})).json()
    assert "Paris" in answer["response"]
    assert answer["done_reason"] == "length"
    assert answer["eval_count"] == 3


async def test_stop_and_num_predict_end_an_answer(http: httpx.AsyncClient) -> None:
    """A stop text is cut off; num_predict gives the reason `length`."""
    body = {"model": MODEL, "messages": FRANCE, "stream": False}
    stopped = (await http.post("/api/chat", json={**body, "options": {**COLD, "stop": [" is"]}})).json()
    assert stopped["message"]["content"] == "The capital of France"
    cut = (await http.post("/api/chat", json={**body, "options": {**COLD, "num_predict": 2}})).json()
    assert (cut["done_reason"], cut["eval_count"]) == ("length", 2)


async def test_a_schema_constrains_the_answer(http: httpx.AsyncClient) -> None:
    """`format` a JSON schema gives JSON of that schema, "json" gives some JSON."""
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "sure": {"type": "boolean"}},
        "required": ["city", "sure"],
        "additionalProperties": False,
    }
    body = {"model": MODEL, "messages": FRANCE, "stream": False, "options": {**COLD, "num_predict": 100}}
    answer = (await http.post("/api/chat", json={**body, "format": schema})).json()
    parsed = json.loads(answer["message"]["content"])
    assert isinstance(parsed["city"], str)
    assert isinstance(parsed["sure"], bool)
    answer = (await http.post("/api/chat", json={**body, "format": "json"})).json()
    assert isinstance(json.loads(answer["message"]["content"]), dict)
    raw = {"model": MODEL, "prompt": "The city is", "raw": True, "stream": False, "options": body["options"]}
    answer = (await http.post("/api/generate", json={**raw, "format": schema})).json()
    assert set(json.loads(answer["response"])) == {"city", "sure"}


async def test_embeddings_rank_a_matching_sentence_first(http: httpx.AsyncClient) -> None:
    """Vectors are of unit length and nearer to what is related."""
    texts = ["Which food is she allergic to?", "Alice has a peanut allergy.", "The train leaves at noon."]
    answer = (await http.post("/api/embed", json={"model": EMBEDDER, "input": texts})).json()
    question, match, other = answer["embeddings"]
    assert len(question) == 256
    assert cosine(question, question) == pytest.approx(1, abs=1e-5)
    assert cosine(question, match) > cosine(question, other)
    assert answer["prompt_eval_count"] > 10


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\x00", "\u202e", "𓀀𓀁", "\ud83d", "é" * 5, "word " * 20_000])
async def test_every_text_has_a_finite_unit_vector(http: httpx.AsyncClient, text: str) -> None:
    """Empty, blank, unknown, broken and very long texts too."""
    content = json.dumps({"model": EMBEDDER, "input": [text, "plain"]})
    answer = await http.post("/api/embed", content=content)
    if answer.status_code == 400:
        assert "surrogate" in answer.text or "invalid" in answer.text.lower()
        return
    for vector in answer.json()["embeddings"]:
        assert cosine(vector, vector) == pytest.approx(1, abs=1e-5)


async def test_embed_takes_a_text_a_list_or_nothing(http: httpx.AsyncClient) -> None:
    """Nothing and the empty text give no vectors; dimensions cut and normalise; other types are refused."""
    nothings: list[Any] = [[], "", None]
    for nothing in nothings:
        assert (await http.post("/api/embed", json={"model": EMBEDDER, "input": nothing})).json()["embeddings"] == []
    body = {"model": EMBEDDER, "input": "hello", "dimensions": 64}
    (vector,) = (await http.post("/api/embed", json=body)).json()["embeddings"]
    assert len(vector) == 64
    assert cosine(vector, vector) == pytest.approx(1, abs=1e-5)
    (vector,) = (await http.post("/api/embed", json={**body, "dimensions": 9999})).json()["embeddings"]
    assert len(vector) == 256
    for wrong in (1, {"a": 1}, ["a", 1]):
        answer = await http.post("/api/embed", json={"model": EMBEDDER, "input": wrong})
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid input type")


async def test_a_text_longer_than_the_context_is_cut_or_refused(http: httpx.AsyncClient) -> None:
    """`truncate: false` makes it a 400."""
    body = {"model": EMBEDDER, "input": ["word " * 20_000]}
    assert (await http.post("/api/embed", json=body)).json()["prompt_eval_count"] == 8192
    answer = await http.post("/api/embed", json={**body, "truncate": False})
    assert (answer.status_code, answer.json()["error"]) == (400, "the input length exceeds the context length")


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("/api/chat", {"model": "x"}, 404, "model 'x' not found"),
        ("/api/generate", {"model": "x"}, 404, "model 'x' not found"),
        ("/api/show", {"model": "x"}, 404, "model 'x:latest' not found"),
        ("/api/embed", {"model": "x"}, 404, 'model "x" not found, try pulling it first'),
        ("/api/chat", {}, 400, "model is required"),
        ("/api/generate", {}, 404, "model '' not found"),
        ("/api/chat", {"model": "a b"}, 400, "invalid model name"),
        ("/api/chat", {"model": EMBEDDER}, 400, '"wordllama" does not support chat'),
        ("/api/generate", {"model": EMBEDDER}, 400, '"wordllama" does not support generate'),
        ("/api/embed", {"model": MODEL, "input": "a"}, 501, "this model does not support embeddings"),
        ("/api/chat", {"model": MODEL, "think": True}, 400, f'"{MODEL}" does not support thinking'),
        ("/api/chat", {"model": MODEL, "keep_alive": "300"}, 400, 'time: missing unit in duration "300"'),
        ("/api/chat", {"model": MODEL, "options": {"top_k": "x"}}, 500, 'option "top_k" must be of type integer'),
        (
            "/api/chat",
            {"model": MODEL, "format": 1},
            500,
            'invalid format: 1; expected "json" or a valid JSON Schema object',
        ),
        (
            "/api/chat",
            {"model": MODEL, "tools": [{"type": "function"}]},
            400,
            f"registry.ollama.ai/library/{MODEL} does not support tools",
        ),
        (
            "/api/chat",
            {"model": MODEL, "messages": [{"role": "user", "images": ["aGk="]}]},
            400,
            f"registry.ollama.ai/library/{MODEL} does not support vision",
        ),
    ],
)
async def test_what_ollama_refuses_is_refused_in_its_words(
    http: httpx.AsyncClient, path: str, body: dict[str, Any], status: int, text: str
) -> None:
    """Status and text are those of the wire contract, streaming or not."""
    answer = await http.post(path, json=body)
    assert (answer.status_code, answer.json()) == (status, {"error": text})


async def test_http_itself_is_as_ollamas(http: httpx.AsyncClient) -> None:
    """The probe, unknown paths, wrong methods, missing and broken bodies, foreign hosts and origins."""
    assert (await http.get("/")).text == "Ollama is running"
    assert (await http.head("/")).status_code == 200
    assert (await http.get("/api/version")).json()["version"].endswith(ENGINE_VERSION_SUFFIX)
    unknown = await http.get("/api/nope")
    assert (unknown.status_code, unknown.text) == (404, "404 page not found")
    wrong = await http.get("/api/chat")
    assert (wrong.status_code, wrong.text) == (405, "405 method not allowed")
    for path in ("/api/chat", "/api/generate", "/api/embed", "/api/show", "/api/pull"):
        empty = await http.post(path)
        assert (empty.status_code, empty.json()) == (400, {"error": "missing request body"})
        broken = await http.post(path, content=b"{not json")
        assert broken.status_code == 400
    for headers in ({"Host": "evil.example"}, {"Host": "evil.local"}, {"Origin": "https://evil.example"}):
        refused = await http.get("/api/tags", headers=headers)
        assert (refused.status_code, refused.content) == (403, b"")
    assert (await http.get("/api/tags", headers={"Origin": "http://localhost:3000"})).status_code == 200


async def test_tags_ps_and_show_describe_the_models(http: httpx.AsyncClient) -> None:
    """Names, sizes, digests, details and capabilities, as a client reads them."""
    models = {model["name"]: model for model in (await http.get("/api/tags")).json()["models"]}
    smol = models[MODEL]
    assert smol["size"] == 98_362_432
    assert smol["digest"] == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert smol["details"]["parameter_size"] == "134.52M"
    assert smol["details"]["quantization_level"] == "Q4_1"
    assert models["wordllama:latest"]["details"]["embedding_length"] == 256
    await http.post("/api/embed", json={"model": EMBEDDER, "input": []})
    loaded = {model["name"]: model for model in (await http.get("/api/ps")).json()["models"]}
    assert loaded["wordllama:latest"]["size_vram"] == 0
    shown = (await http.post("/api/show", json={"name": MODEL})).json()
    assert shown["capabilities"] == ["completion"]
    assert shown["model_info"]["llama.context_length"] == 8192
    assert shown["system"] == "You are a helpful assistant."
    shown = (await http.post("/api/show", json={"model": EMBEDDER})).json()
    assert shown["capabilities"] == ["embedding"]
    assert shown["model_info"]["wordllama.embedding_length"] == 256


async def loaded_context(http: httpx.AsyncClient) -> int | None:
    """The context length the chat model is loaded with, None when it is not."""
    models = (await http.get("/api/ps")).json()["models"]
    return next((model["context_length"] for model in models if model["name"] == MODEL), None)


async def test_a_model_is_loaded_reloaded_and_unloaded_on_request(http: httpx.AsyncClient) -> None:
    """No messages load, another num_ctx reloads, keep_alive 0 unloads at once."""
    answer = await http.post("/api/chat", json={"model": MODEL})
    assert answer.headers["content-type"].startswith("application/json")
    assert (answer.json()["done"], answer.json()["done_reason"]) == (True, "load")
    assert await loaded_context(http) == 4096
    body = {"model": MODEL, "messages": FRANCE, "stream": False, "options": {**COLD, "num_ctx": 512}}
    assert "Paris" in (await http.post("/api/chat", json=body)).json()["message"]["content"]
    assert await loaded_context(http) == 512
    answer = await http.post("/api/generate", json={"model": MODEL, "keep_alive": 0})
    assert answer.json()["done_reason"] == "unload"
    assert await loaded_context(http) is None
    body = {"model": MODEL, "prompt": "Hi", "stream": False, "keep_alive": 0, "options": {"num_predict": 1}}
    assert (await http.post("/api/generate", json=body)).json()["eval_count"] == 1
    for _ in range(100):
        if await loaded_context(http) is None:
            break
        await asyncio.sleep(0.02)
    assert await loaded_context(http) is None


async def test_a_chat_longer_than_the_context_loses_its_oldest_turns(http: httpx.AsyncClient) -> None:
    """Ollama drops old turns; one message that is too long alone is a 400."""
    old = [{"role": "user", "content": "The weather was fine that day. " * 20}] * 5
    options = {**COLD, "num_ctx": 256, "num_predict": 20}
    body = {"model": MODEL, "messages": old + FRANCE, "stream": False, "options": options}
    answer = await http.post("/api/chat", json=body)
    assert answer.json()["prompt_eval_count"] < 256
    refused = await http.post("/api/chat", json={**body, "truncate": False})
    assert refused.status_code == 400
    assert "longer than the context length" in refused.json()["error"]


@pytest.mark.parametrize("is_stream", [True, False])
async def test_leaving_frees_the_slot(http: httpx.AsyncClient, engine_url: str, is_stream: bool) -> None:  # noqa: FBT001
    """With both slots taken a third request starts soon after one of the callers is gone."""
    one = {"model": MODEL, "prompt": "Hi", "stream": False, "options": {"num_predict": 1}}
    await http.post("/api/generate", json=one)
    first = asyncio.create_task(_read(engine_url, ENDLESS))
    second = asyncio.create_task(_read(engine_url, {**ENDLESS, "stream": is_stream}))
    await asyncio.sleep(1.0)
    third = asyncio.create_task(http.post("/api/generate", json=one))
    await asyncio.sleep(0.5)
    assert not third.done()
    second.cancel()
    left = time.perf_counter()
    answer = await third
    took = time.perf_counter() - left
    assert not first.done()
    first.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    own = (answer.json()["prompt_eval_duration"] + answer.json()["eval_duration"]) / 1e9
    assert took - own < 2.0


async def _read(url: str, body: dict[str, Any]) -> None:
    http = httpx.AsyncClient(base_url=url, timeout=100)
    async with http, http.stream("POST", "/api/generate", json=body) as answer:
        async for _ in answer.aiter_lines():
            pass


async def test_too_many_waiting_requests_are_turned_away() -> None:
    """Beyond OLLAMA_MAX_QUEUE the answer is 503, at once."""
    with support.engine(env={"OLLAMA_MAX_QUEUE": "1"}) as engine:
        async with httpx.AsyncClient(base_url=engine.url, timeout=100) as http:
            await http.post("/api/chat", json={"model": MODEL})
            tasks = []
            for _ in range(3):  # two that run and one that waits
                tasks.append(asyncio.create_task(_read(engine.url, ENDLESS)))
                await asyncio.sleep(0.5)
            answer = await http.post("/api/generate", json=ENDLESS)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    assert answer.status_code == 503
    assert answer.json()["error"] == "server busy, please try again.  maximum pending requests exceeded"


async def test_a_runner_that_dies_is_an_error_and_is_replaced(http: httpx.AsyncClient) -> None:
    """A killed runner ends its stream with an error line; the next request loads the model again."""
    with support.engine() as engine:
        async with httpx.AsyncClient(base_url=engine.url, timeout=100) as own:
            lines = []
            async with own.stream("POST", "/api/generate", json=ENDLESS) as answer:
                async for line in answer.aiter_lines():
                    lines.append(json.loads(line))
                    if len(lines) == 3:
                        _kill_runner_of(engine.process.pid)
            assert "model runner has unexpectedly stopped" in lines[-1]["error"]
            body = {"model": MODEL, "messages": FRANCE, "stream": False, "options": COLD}
            assert "Paris" in (await own.post("/api/chat", json=body)).json()["message"]["content"]


def _kill_runner_of(engine_pid: int) -> None:
    import os  # noqa: PLC0415
    import signal  # noqa: PLC0415

    for pid in support.processes("ollama_async_mem.engine.runner"):
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            if int(file.read().rpartition(")")[2].split()[1]) == engine_pid:
                os.kill(pid, signal.SIGKILL)
