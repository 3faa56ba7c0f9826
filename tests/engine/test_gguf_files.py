"""Files that the user brings with --gguf: chat, tools, embeddings, damage."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from engine import engine_support as support

if TYPE_CHECKING:
    from pathlib import Path

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "capital",
        "description": "The capital of a country",
        "parameters": {"type": "object", "properties": {"country": {"type": "string"}}, "required": ["country"]},
    },
}
TEMPLATE = (
    "{% if tools %}<|im_start|>system\\nTools: {% for tool in tools %}{{ tool | tojson }}{% endfor %}<|im_end|>\\n"
    "{% endif %}{% for message in messages %}<|im_start|>{{ message.role }}\\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>\\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\\n{% endif %}"
)


@pytest.fixture
def chat_file(model_file: Path, tmp_path: Path) -> Path:
    """A chat model whose template knows tools."""
    return support.with_metadata(model_file, tmp_path / "My-Own.gguf", tokenizer__chat_template=TEMPLATE)


@pytest.fixture
def embedding_file(model_file: Path, tmp_path: Path) -> Path:
    """A model that pools its vectors."""
    return support.with_metadata(model_file, tmp_path / "embedder.gguf", llama__pooling_type=1)


@pytest.fixture
def half_file(model_file: Path, tmp_path: Path) -> Path:
    """A file with a whole header whose weights end too soon."""
    path = tmp_path / "half.gguf"
    path.write_bytes(model_file.read_bytes()[:50_000_000])
    return path


async def test_a_users_file_chats_and_is_never_deleted(chat_file: Path, tmp_path: Path) -> None:
    """It is listed under its stem without a system prompt; a delete only takes it off the list."""
    with support.engine("--gguf", str(chat_file), "--models-dir", str(tmp_path / "m")) as engine:
        async with httpx.AsyncClient(base_url=engine.url, timeout=100) as http:
            tags = (await http.get("/api/tags")).json()["models"]
            assert {model["name"] for model in tags} == {"My-Own:latest", "wordllama:latest"}
            shown = (await http.post("/api/show", json={"model": "my-own"})).json()
            assert shown["capabilities"] == ["completion", "tools"]
            assert "system" not in shown
            await _chat_with_a_tool(http)
            assert (await http.request("DELETE", "/api/delete", json={"model": "my-own"})).status_code == 200
            assert (await http.post("/api/show", json={"model": "my-own"})).status_code == 404
            assert (await http.get("/api/ps")).json()["models"] == []
    assert await asyncio.to_thread(chat_file.exists)


async def _chat_with_a_tool(http: httpx.AsyncClient) -> None:
    """A model whose template knows tools takes them, and a history with a call and its result."""
    call = {"function": {"name": "capital", "arguments": {"country": "France"}}}
    history: list[dict[str, Any]] = [
        *FRANCE,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "Paris", "tool_name": "capital"},
    ]
    body = {"model": "my-own", "messages": history, "stream": False, "tools": [TOOL]}
    answer = await http.post("/api/chat", json={**body, "options": {"temperature": 0, "num_predict": 20}})
    assert (answer.status_code, answer.json()["done"]) == (200, True)


async def test_an_embedding_model_embeds_and_does_not_chat(embedding_file: Path) -> None:
    """A file with a pooling type gives unit vectors; long texts are cut or refused."""
    with support.engine("--gguf", str(embedding_file)) as engine:
        async with httpx.AsyncClient(base_url=engine.url, timeout=100) as http:
            body = {"model": "embedder", "input": ["a cat sits", "a cat sat", "the tax law of 1913", ""]}
            answer = (await http.post("/api/embed", json=body)).json()
            vectors = answer["embeddings"]
            assert [len(vector) for vector in vectors] == [576] * 4
            for vector in vectors:
                assert sum(x * x for x in vector) == pytest.approx(1, abs=1e-4)
            near, far = (sum(a * b for a, b in zip(vectors[0], other, strict=True)) for other in vectors[1:3])
            assert near > far
            assert answer["prompt_eval_count"] > 8
            chat = await http.post("/api/chat", json={"model": "embedder", "messages": FRANCE})
            assert (chat.status_code, chat.json()["error"]) == (400, '"embedder" does not support chat')
            await _embed_a_long_text(http)


async def _embed_a_long_text(http: httpx.AsyncClient) -> None:
    """Too long a text is cut to num_ctx, or refused when that is not wanted."""
    long = {"model": "embedder", "input": "word " * 300, "options": {"num_ctx": 64}}
    assert (await http.post("/api/embed", json=long)).json()["prompt_eval_count"] == 64
    refused = await http.post("/api/embed", json={**long, "truncate": False})
    assert refused.status_code == 400
    assert refused.json()["error"] == "the input length exceeds the context length"


async def test_a_truncated_file_is_an_error_and_the_engine_lives(half_file: Path) -> None:
    """llama.cpp's refusal is told; the engine goes on."""
    with support.engine("--gguf", str(half_file)) as engine:
        async with httpx.AsyncClient(base_url=engine.url, timeout=100) as http:
            answer = await http.post("/api/chat", json={"model": "half", "messages": FRANCE})
            assert answer.status_code == 500
            assert answer.json()["error"].startswith("llama-server process has terminated")
            assert (await http.get("/")).status_code == 200
