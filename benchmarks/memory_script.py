"""The scripted Ollama of the memory benchmark; runs in the server's process only.

How long it takes is in the names of the models: `llm-1000` answers after a second, `embed-100` after a tenth of one.
`llm-split-0` and `embed-split-0` write the head and the body of an answer one after the other, without TCP_NODELAY, as
Python's http.server does.
Each message of the benchmark has a word such as `hive17`; the answer has one fact for each, in the shapes of both
memories that are compared.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from fakes import Coalesce, Pause, Raw, Reply, head
from fakes.vectors import text_vector

if TYPE_CHECKING:
    from fakes import Request, ScriptedOllama

HIVE = re.compile(r"I keep (\d+) bees in (hive\d+)")
MODELS = ("llm-0", "llm-1000", "llm-split-0", "embed-0", "embed-100", "embed-split-0")


def memory(server: ScriptedOllama, case: dict[str, Any]) -> None:
    """Chats, embeddings, and `GET /counts` for how many there were of each."""
    dimension = case["dimension"]
    counts: Counter[str] = Counter()
    server.settings.models[:] = [f"{name}:latest" for name in MODELS]
    server.settings.dimension = dimension

    def chat(request: Request) -> Reply | Raw:
        counts["llm"] += 1
        return _chat(request.json)

    def embed(request: Request) -> Reply | Raw:
        counts["embed"] += 1
        return embed_answer(request.json, dimension)

    def packed(request: Request) -> Reply | Raw:
        counts["embed"] += 1
        return packed_answer(request.json, dimension)

    server.enqueue("POST /api/chat", chat, repeat=True)
    server.enqueue("POST /api/embed", embed, repeat=True)
    server.enqueue("POST /v1/embeddings", packed, repeat=True)
    server.enqueue("GET /counts", lambda _: Reply(json=dict(counts)), repeat=True)


def _delay_s(body: dict[str, Any]) -> float:
    return int(body["model"].partition(":")[0].rpartition("-")[2]) / 1e3


def _chat(body: dict[str, Any]) -> Reply | Raw:
    found = HIVE.findall(body["messages"][-1]["content"])
    texts = [f"The user keeps {bees} bees in {hive}." for bees, hive in found]
    quotes = [f"I keep {bees} bees in {hive}" for bees, hive in found]
    facts = [{"line": n, "quote": quotes[n - 1], "text": text} for n, text in enumerate(texts, 1)]
    theirs = [{"id": str(n), "text": text, "attributed_to": "user"} for n, text in enumerate(texts)]
    answer = msgspec.json.encode({"facts": facts, "memory": theirs}).decode()
    message = {"role": "assistant", "content": answer}
    line = {"model": body["model"], "created_at": "2026-01-02T03:04:05Z", "message": message, "done": True}
    return _answer(body, msgspec.json.encode({**line, "done_reason": "stop", "eval_count": 40}))


def embed_answer(body: dict[str, Any], dimension: int) -> Reply | Raw:
    """Vectors in decimals."""
    rows = [_decimals(text, dimension) for text in _inputs(body)]
    listed = b",".join(rows)
    answer = b'{"model":"%s","embeddings":[%s]}' % (body["model"].encode(), listed)
    return _answer(body, answer)


def packed_answer(body: dict[str, Any], dimension: int) -> Reply | Raw:
    """Vectors as OpenAI packs them."""
    vectors = [b64encode(_vector(text, dimension)).decode() for text in _inputs(body)]
    data = [{"embedding": vector, "index": n} for n, vector in enumerate(vectors)]
    return _answer(body, msgspec.json.encode({"object": "list", "data": data, "model": body["model"], "usage": {}}))


def _inputs(body: dict[str, Any]) -> list[str]:
    given = body["input"]
    return [given] if isinstance(given, str) else given


def _vector(text: str, dimension: int) -> bytes:
    return text_vector(text, dimension).astype("<f4").tobytes()


@lru_cache(maxsize=4_096)
def _decimals(text: str, dimension: int) -> bytes:
    values = np.frombuffer(_vector(text, dimension), dtype="<f4").tolist()
    return msgspec.json.encode([round(value, 8) for value in values])


_TYPE = {"Content-Type": "application/json; charset=utf-8"}


def _answer(body: dict[str, Any], content: bytes) -> Reply | Raw:
    """An answer as the name of the model says."""
    if "-split-" not in body["model"]:
        return Reply(body=content, headers=_TYPE, delay_s=_delay_s(body))
    return Raw([Pause(_delay_s(body)), Coalesce(), head(200, {**_TYPE, "Content-Length": str(len(content))}), content])
