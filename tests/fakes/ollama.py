"""What the scripted server answers when nothing is enqueued: a small Ollama without a model.

Statuses, texts and shapes are those of Ollama's server; the answers are deterministic.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .script import FixedAnswer, Reply, Request, Stream, ndjson
from .vectors import as_json, text_vector

if TYPE_CHECKING:
    from collections.abc import Callable

CREATED_AT = "2026-01-02T03:04:05.678901234Z"
BLOBS = "/api/blobs/"
Body = dict[str, Any]


def echo(body: Body) -> str:
    """The default chat answer: what the last message or the prompt said."""
    messages = body.get("messages") or [{"content": body.get("prompt", "")}]
    return f"You said: {messages[-1].get('content', '')}"


@dataclass(slots=True)
class Settings:
    """How the small Ollama behaves; may be changed while it runs."""

    models: list[str] = field(default_factory=lambda: ["llama3.2:latest", "nomic-embed-text:latest"])
    only_listed: bool = False
    """Answer 404 for a model that is not in `models`, with Ollama's text for the endpoint."""
    dimension: int = 256
    embed_latency_s: float = 0.0
    token_interval_s: float = 0.0
    version: str = "0.32.15"
    answer: Callable[[Body], str] = echo
    """Text that `/api/chat` and `/api/generate` answer a request body with."""
    blobs: dict[str, bytes] = field(default_factory=dict)
    """The files that were uploaded, by digest."""


def canonical(name: str) -> str:
    """A model's name with its tag."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def error(status: int, text: str) -> Reply:
    """An error as Ollama words it."""
    return Reply(status, json={"error": text})


def default_answer(request: Request, settings: Settings) -> FixedAnswer:
    """The answer to a request for which the test enqueued none."""
    route = request.route.replace("HEAD ", "GET ", 1)
    if handler := PLAIN.get(route):
        return handler(settings)
    if request.path.startswith(BLOBS) and request.method in {"HEAD", "POST"}:
        return _blob(request, settings)
    if not (posted := POSTED.get(route)):
        return Reply(404, body="404 page not found")
    if not request.body:
        return error(400, "missing request body")
    return posted(request.json, settings)


def _missing(body: Body, settings: Settings, text: str) -> Reply | None:
    name = body.get("model") or ""
    listed = {canonical(m).lower() for m in settings.models}
    if not settings.only_listed or canonical(name).lower() in listed:
        return None
    return error(404, text.format(name=name, canonical=canonical(name)))


def _root(_settings: Settings) -> Reply:
    return Reply(body="Ollama is running")


def _version(settings: Settings) -> Reply:
    return Reply(json={"version": settings.version})


def _tags(settings: Settings) -> Reply:
    return Reply(json={"models": [_listed(name) for name in settings.models]})


def _ps(_settings: Settings) -> Reply:
    return Reply(json={"models": []})


def _listed(name: str) -> Body:
    return {
        "name": name,
        "model": name,
        "modified_at": "2026-01-02T03:04:05.678901234+01:00",
        "size": 2_019_393_189,
        "digest": hashlib.sha256(name.encode()).hexdigest(),
        "details": _details(),
    }


def _details() -> Body:
    return {
        "parent_model": "",
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "3.2B",
        "quantization_level": "Q4_K_M",
    }


def _show(body: Body, settings: Settings) -> FixedAnswer:
    if missing := _missing(body, settings, "model '{canonical}' not found"):
        return missing
    sizes = {"llama.context_length": 131_072, "llama.embedding_length": settings.dimension}
    return Reply(
        json={
            "modelfile": "",
            "template": "{{ .Prompt }}",
            "details": _details(),
            "model_info": {"general.architecture": "llama", **sizes},
            "capabilities": ["completion", "tools", "embedding"],
            "modified_at": CREATED_AT,
        }
    )


def _chat(body: Body, settings: Settings) -> FixedAnswer:
    def piece(text: str) -> Body:
        return {"message": {"role": "assistant", "content": text}}

    if not body.get("model"):
        return error(400, "model is required")
    return _generation(body, settings, piece, asked=bool(body.get("messages")))


def _generate(body: Body, settings: Settings) -> FixedAnswer:
    return _generation(body, settings, lambda text: {"response": text}, asked=bool(body.get("prompt")))


def _generation(body: Body, settings: Settings, piece: Callable[[str], Body], *, asked: bool) -> FixedAnswer:
    if missing := _missing(body, settings, "model '{name}' not found"):
        return missing
    opening = {"model": body["model"], "created_at": CREATED_AT}
    if not asked:
        reason = "unload" if body.get("keep_alive") == 0 else "load"
        return Reply(json={**opening, **piece(""), "done": True, "done_reason": reason})
    tokens = re.findall(r"\s*\S+", settings.answer(body)) or [""]
    final = {"done": True, "done_reason": "stop", **_metrics(len(tokens))}
    if body.get("stream") is False:
        return Reply(json={**opening, **piece("".join(tokens)), **final})
    lines = [{**opening, **piece(token), "done": False} for token in tokens]
    return Stream([*lines, {**opening, **piece(""), **final}], interval_s=settings.token_interval_s)


def _metrics(tokens: int) -> Body:
    return {
        "total_duration": 500_000_000 + tokens * 20_000_000,
        "load_duration": 100_000_000,
        "prompt_eval_count": 12,
        "prompt_eval_duration": 400_000_000,
        "eval_count": tokens,
        "eval_duration": tokens * 20_000_000,
    }


def _embed(body: Body, settings: Settings) -> FixedAnswer:
    if missing := _missing(body, settings, 'model "{name}" not found, try pulling it first'):
        return missing
    given = body.get("input")
    texts = ([given] if given else []) if isinstance(given, str) else given or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return error(400, "invalid input type")
    dimension = body.get("dimensions") or settings.dimension
    vectors = [as_json(text_vector(text, dimension)) for text in texts]
    counts = {"total_duration": 14_143_917, "load_duration": 1_019_500, "prompt_eval_count": 8 * len(texts)}
    answer = {"model": body.get("model", ""), "embeddings": vectors, **counts}
    return Reply(json=answer, delay_s=settings.embed_latency_s)


def _openai_embeddings(body: Body, settings: Settings) -> FixedAnswer:
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    if not texts:
        return Reply(400, json={"error": {"message": "invalid input", "type": "invalid_request_error"}})
    dimension = body.get("dimensions") or settings.dimension
    packed = body.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "embedding": _openai_vector(text, dimension, packed=packed), "index": index}
        for index, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": 8 * len(texts), "total_tokens": 8 * len(texts)}
    answer = {"object": "list", "data": data, "model": body.get("model", ""), "usage": usage}
    return Reply(json=answer, delay_s=settings.embed_latency_s)


def _openai_vector(text: str, dimension: int, *, packed: bool) -> str | list[float]:
    vector = text_vector(text, dimension)
    return base64.b64encode(vector.astype("<f4").tobytes()).decode() if packed else as_json(vector)


def _pull(body: Body, settings: Settings) -> FixedAnswer:
    name = canonical(body.get("model") or body.get("name") or "")
    if name not in settings.models:
        settings.models.append(name)
    if body.get("stream") is False:
        return Reply(json={"status": "success"})
    digest = hashlib.sha256(name.encode()).hexdigest()
    layer = {"status": f"pulling {digest[:12]}", "digest": f"sha256:{digest}", "total": 1000}
    steps = [layer, {**layer, "completed": 500}, {**layer, "completed": 1000}]
    closing = ["verifying sha256 digest", "writing manifest", "success"]
    return ndjson({"status": "pulling manifest"}, *steps, *({"status": status} for status in closing))


def _push(body: Body, settings: Settings) -> FixedAnswer:
    name = canonical(body.get("model") or "")
    opening = {"status": "retrieving manifest"}
    if name not in settings.models:
        return ndjson(opening, {"status": "couldn't retrieve manifest"}, {"error": "file does not exist"})
    digest = hashlib.sha256(name.encode()).hexdigest()
    layer = {"status": f"pushing {digest[:12]}", "digest": f"sha256:{digest}", "total": 1000}
    return ndjson(opening, layer, {**layer, "completed": 1000}, {"status": "pushing manifest"}, {"status": "success"})


def _create(body: Body, settings: Settings) -> FixedAnswer:
    if not (body.get("from") or body.get("files")):
        return error(400, "neither 'from' or 'files' was specified")
    files = [digest for group in ("files", "adapters", "draft_files") for digest in body.get(group, {}).values()]
    if missing := [digest for digest in files if digest not in settings.blobs]:
        return error(500, f"open blobs/{missing[0].replace(':', '-')}: no such file or directory")
    settings.models.append(canonical(body["model"]))
    return ndjson({"status": "parsing GGUF"}, {"status": "writing manifest"}, {"status": "success"})


def _blob(request: Request, settings: Settings) -> FixedAnswer:
    expected, got = request.path.removeprefix(BLOBS), f"sha256:{hashlib.sha256(request.body).hexdigest()}"
    if expected in settings.blobs:
        return Reply(body="")
    if request.method == "HEAD":
        return error(404, f'blob "{expected}" not found')
    if got != expected:
        return error(400, f'digest mismatch, expected "{expected}", got "{got}"')
    settings.blobs[expected] = request.body
    return Reply(201, body="")


def _copy(body: Body, settings: Settings) -> FixedAnswer:
    source = {"model": body.get("source", "")}
    if missing := _missing(source, settings, 'model "{name}" not found'):
        return missing
    settings.models.append(canonical(body["destination"]))
    return Reply(body="")


def _delete(body: Body, settings: Settings) -> FixedAnswer:
    name = canonical(body.get("model") or body.get("name") or "")
    if name not in settings.models:
        return error(404, f"model '{body.get('model')}' not found")
    settings.models.remove(name)
    return Reply(body="")


PLAIN: dict[str, Callable[[Settings], FixedAnswer]] = {
    "GET /": _root,
    "GET /api/version": _version,
    "GET /api/tags": _tags,
    "GET /api/ps": _ps,
}
POSTED: dict[str, Callable[[Body, Settings], FixedAnswer]] = {
    "POST /api/show": _show,
    "POST /api/chat": _chat,
    "POST /api/generate": _generate,
    "POST /api/embed": _embed,
    "POST /v1/embeddings": _openai_embeddings,
    "POST /api/pull": _pull,
    "POST /api/push": _push,
    "POST /api/create": _create,
    "POST /api/copy": _copy,
    "DELETE /api/delete": _delete,
}
