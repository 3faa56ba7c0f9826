"""What the scripted Ollama says in each benchmark; runs in the server's process only.

Answers are made once and sent as they are, so that the server leaves its processor to nobody's disadvantage.
"""

from __future__ import annotations

import math
import resource
import time
from base64 import b64encode
from collections import defaultdict
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from fakes import LAST_CHUNK, Pause, Raw, Reply, chunk, go_json, line_chunk, stream_head

from .records import SEED
from .tokens import MODEL, token

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fakes import Request, ScriptedOllama

WRITE_BYTES = 64 << 10
PROXY_CHUNK_BYTES = 32 << 10
DIMENSION = 768
_METRICS = {"total_duration": 9_000_000_000, "load_duration": 1_000_000, "prompt_eval_count": 12, "eval_count": 20_000}


def line(content: str, number: int = 0, **more: Any) -> bytes:
    """One line of a streamed chat as the server writes it."""
    written = {
        "model": MODEL,
        "created_at": f"2026-01-02T03:04:05.{number:09}Z",
        "message": {"role": "assistant", "content": content},
        "done": False,
    }
    return go_json({**written, **more}) + b"\n"


FINAL = line("", done=True, done_reason="stop", **_METRICS)


def stream(server: ScriptedOllama, _case: dict[str, Any]) -> None:
    """Chats: the model that is asked for is `VARIANT:COUNT`."""
    server.enqueue("POST /api/chat", lambda request: _chat(*request.json["model"].split(":")), repeat=True)


@cache
def _chat(variant: str, count: str) -> Raw:
    lines = [*(line(token(number), number) for number in range(int(count))), FINAL]
    if variant == "big":  # what a proxy that buffers makes of it
        return Raw([stream_head(), *map(chunk, _blocks(b"".join(lines), PROXY_CHUNK_BYTES)), LAST_CHUNK])
    chunks = [line_chunk(each) for each in lines]
    if variant == "single":
        return Raw([stream_head(), *chunks, LAST_CHUNK])
    return Raw(_blocks(b"".join([stream_head(), *chunks, LAST_CHUNK]), WRITE_BYTES))


def _blocks(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def embed(server: ScriptedOllama, _case: dict[str, Any]) -> None:
    """Embeddings of 768 dimensions, as many as there are inputs; base64 on the /v1 path where it is asked for."""
    server.enqueue("POST /api/embed", lambda request: _embeddings(_inputs(request)), repeat=True)
    server.enqueue("POST /v1/embeddings", _openai, repeat=True)


def _inputs(request: Request) -> int:
    given = request.json["input"]
    return 1 if isinstance(given, str) else len(given)


def _openai(request: Request) -> Reply:
    return _openai_embeddings(_inputs(request), packed=request.json.get("encoding_format") == "base64")


def _vectors(count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    vectors = np.random.default_rng(SEED).standard_normal((count, DIMENSION)).astype("<f4")
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype="<f4")


def _decimals(count: int) -> list[list[float]]:
    """The shortest decimals that read back as the same float32, as Go writes them."""
    return [[float(str(value)) for value in vector] for vector in _vectors(count)]


@cache
def _embeddings(count: int) -> Reply:
    return _json({"model": "nomic-embed-text", "embeddings": _decimals(count), **_METRICS})


@cache
def _openai_embeddings(count: int, *, packed: bool) -> Reply:
    vectors = [b64encode(vector.tobytes()).decode() for vector in _vectors(count)] if packed else _decimals(count)
    data = [{"object": "embedding", "embedding": vector, "index": at} for at, vector in enumerate(vectors)]
    usage = {"prompt_tokens": 8 * count, "total_tokens": 8 * count}
    return _json({"object": "list", "data": data, "model": "nomic-embed-text", "usage": usage})


def _json(value: Any) -> Reply:
    return Reply(body=go_json(value), headers={"Content-Type": "application/json; charset=utf-8"})


@dataclass(slots=True)
class _Wave:
    """The streams of one contender; they end together, some time after the last one was asked for."""

    opened: int = 0
    end_s: float = math.inf


def streams(server: ScriptedOllama, case: dict[str, Any]) -> None:
    """Chats at a steady rate whose tokens are the time at which they were sent; the model asked for is the wave."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    waves: defaultdict[str, _Wave] = defaultdict(_Wave)

    def answer(request: Request) -> Raw:
        wave = waves[request.json["model"]]
        wave.opened += 1
        if wave.opened == case["streams"]:
            wave.end_s = time.monotonic() + case["seconds"]
        return Raw(partial(_stamped, wave, wave.opened, case))

    server.enqueue("POST /api/chat", answer, repeat=True)


def _stamped(wave: _Wave, number: int, case: dict[str, Any]) -> Iterator[bytes | Pause]:
    yield stream_head()
    period_s = 1 / case["chunks_per_s"]
    due_s = time.monotonic() + period_s * number / case["streams"]  # spread, as independent streams are
    while due_s < wave.end_s:
        yield Pause(due_s - time.monotonic())
        yield line_chunk(line(str(time.monotonic_ns())))
        due_s += period_s
    yield line_chunk(FINAL) + LAST_CHUNK
