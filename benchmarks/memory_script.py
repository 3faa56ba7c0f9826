"""The scripted Ollama of the memory benchmark; runs in the server's process only.

How long it takes is in the names of the models: `llm-1000` answers after a second, `embed-100` after a tenth of one.
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
from fakes import Reply
from fakes.vectors import text_vector

if TYPE_CHECKING:
    from fakes import Request, ScriptedOllama

HIVE = re.compile(r"I keep (\d+) bees in (hive\d+)")
MODELS = ("llm-0", "llm-1000", "embed-0", "embed-100")


def memory(server: ScriptedOllama, case: dict[str, Any]) -> None:
    """Chats, embeddings, and `GET /counts` for how many there were of each."""
    dimension = case["dimension"]
    counts: Counter[str] = Counter()
    server.settings.models[:] = [f"{name}:latest" for name in MODELS]
    server.settings.dimension = dimension

    def chat(request: Request) -> Reply:
        counts["llm"] += 1
        return _chat(request.json)

    def embed(request: Request) -> Reply:
        counts["embed"] += 1
        return _embed(request.json, dimension)

    def packed(request: Request) -> Reply:
        counts["embed"] += 1
        return _packed(request.json, dimension)

    server.enqueue("POST /api/chat", chat, repeat=True)
    server.enqueue("POST /api/embed", embed, repeat=True)
    server.enqueue("POST /v1/embeddings", packed, repeat=True)
    server.enqueue("GET /counts", lambda _: Reply(json=dict(counts)), repeat=True)


def _delay_s(body: dict[str, Any]) -> float:
    return int(body["model"].partition(":")[0].rpartition("-")[2]) / 1e3


def _chat(body: dict[str, Any]) -> Reply:
    found = HIVE.findall(body["messages"][-1]["content"])
    texts = [f"The user keeps {bees} bees in {hive}." for bees, hive in found]
    quotes = [f"I keep {bees} bees in {hive}" for bees, hive in found]
    facts = [{"line": n, "quote": quotes[n - 1], "text": text} for n, text in enumerate(texts, 1)]
    theirs = [{"id": str(n), "text": text, "attributed_to": "user"} for n, text in enumerate(texts)]
    answer = msgspec.json.encode({"facts": facts, "memory": theirs}).decode()
    message = {"role": "assistant", "content": answer}
    line = {"model": body["model"], "created_at": "2026-01-02T03:04:05Z", "message": message, "done": True}
    return _json({**line, "done_reason": "stop", "eval_count": 40}, delay_s=_delay_s(body))


def _embed(body: dict[str, Any], dimension: int) -> Reply:
    rows = [_decimals(text, dimension) for text in _inputs(body)]
    listed = b",".join(rows)
    answer = b'{"model":"%s","embeddings":[%s]}' % (body["model"].encode(), listed)
    return Reply(body=answer, headers=_TYPE, delay_s=_delay_s(body))


def _packed(body: dict[str, Any], dimension: int) -> Reply:
    vectors = [b64encode(_vector(text, dimension)).decode() for text in _inputs(body)]
    data = [{"embedding": vector, "index": n} for n, vector in enumerate(vectors)]
    return _json({"object": "list", "data": data, "model": body["model"], "usage": {}}, delay_s=_delay_s(body))


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


def _json(value: Any, *, delay_s: float) -> Reply:
    return Reply(body=msgspec.json.encode(value), headers=_TYPE, delay_s=delay_s)
