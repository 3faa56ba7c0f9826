"""POST /api/embed: the built-in embedder, or a GGUF embedding model through llama.cpp."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from anyio.to_thread import run_sync

from .faults import ApiError, bad_request
from .llama import Llama
from .options import parse_options
from .prepare import find_model
from .static import shortened, unit_rows
from .wire import EmbedRequest, keep_alive_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .catalogue import Catalogue
    from .models import Models
    from .static import StaticEmbedder, Vectors

__all__ = ["embed"]

_BATCH = 16  # texts in one request to llama.cpp: a caller who leaves is noticed after at most so many


async def embed(catalogue: Catalogue, models: Models, request: EmbedRequest) -> dict[str, Any]:
    """The answer to /api/embed. Raises ApiError for whatever Ollama refuses."""
    started = time.perf_counter_ns()
    called = request.model or ""
    missing = f'model "{called}" not found, try pulling it first' if called else "model '' not found"
    model = await run_sync(find_model, catalogue, called, missing)
    texts = _texts(request.input)
    if model.kind == "chat":
        raise ApiError(501, "this model does not support embeddings")
    num_ctx = parse_options(request.options).num_ctx
    async with models.use(model, num_ctx=num_ctx, keep_alive_s=keep_alive_of(request)) as loaded:
        vectors, tokens = await _vectors(loaded.engine, texts, truncate=request.truncate is not False)
    answer = {
        "model": called,
        "embeddings": shortened(vectors, request.dimensions).tolist() if texts else [],
        "total_duration": time.perf_counter_ns() - started,
        "load_duration": loaded.load_ns,
    }
    return {**answer, "prompt_eval_count": tokens} if tokens else answer


def _texts(value: object) -> list[str]:
    """The inputs. Ollama takes a text, a list of texts, or nothing; an empty text alone is nothing."""
    if value is None or value == "":
        return []
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise bad_request("invalid input type")
    return texts


async def _vectors(engine: Llama | StaticEmbedder, texts: Sequence[str], *, truncate: bool) -> tuple[Vectors, int]:
    """Unit vectors and the number of tokens."""
    if not isinstance(engine, Llama):
        return await engine.embed(texts, truncate=truncate)
    rows: list[list[float]] = []
    count = 0
    for start in range(0, len(texts), _BATCH):
        batch = [await _tokens(engine, text, truncate=truncate) for text in texts[start : start + _BATCH]]
        count += sum(map(len, batch))
        answer = await engine.post("/v1/embeddings", {"input": batch})
        rows += [item["embedding"] for item in sorted(answer["data"], key=lambda item: item["index"])]
    return _unit(rows), count


async def _tokens(engine: Llama, text: str, *, truncate: bool) -> list[int]:
    """A text's tokens, the middle of too long a text cut down to the context; the closing token stays."""
    ids: list[int] = (await engine.post("/tokenize", {"content": text or " ", "add_special": True}))["tokens"]
    if len(ids) <= engine.n_ctx:
        return ids
    if not truncate:
        raise bad_request("the input length exceeds the context length")
    return [*ids[: engine.n_ctx - 1], ids[-1]]


def _unit(rows: list[list[float]]) -> Vectors:
    """Vectors of length 1. Raises ApiError (400, as Ollama) when the model computed no number."""
    vectors = np.asarray(rows, dtype=np.float32)
    if not np.isfinite(vectors).all():
        raise bad_request("embedding contains NaN or Inf values")
    return unit_rows(vectors) if rows else vectors
