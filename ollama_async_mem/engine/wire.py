"""The JSON of Ollama's API: requests decoded and checked, small answers put together. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from .durations import keep_alive_seconds, rfc3339_at
from .faults import bad_request

if TYPE_CHECKING:
    from .catalogue import Model

__all__ = [
    "ChatRequest",
    "EmbedRequest",
    "GenerateRequest",
    "Message",
    "NameRequest",
    "decode",
    "keep_alive_of",
    "listed",
    "running",
    "shown",
]

_MOST_NESTING = "the request body is nested too deeply"


class Message(msgspec.Struct, kw_only=True):
    """One message of a chat."""

    role: str = ""
    content: str | None = ""
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class _Request(msgspec.Struct, kw_only=True):
    """What all requests have in common; null is the same as absent, unknown fields are ignored."""

    model: str | None = None
    keep_alive: Any = None
    options: dict[str, Any] | None = None


class ChatRequest(_Request, kw_only=True):
    """POST /api/chat."""

    messages: list[Message] | None = None
    stream: bool | None = None
    format: Any = None
    tools: list[dict[str, Any]] | None = None
    think: Any = None
    truncate: bool | None = None


class GenerateRequest(_Request, kw_only=True):
    """POST /api/generate."""

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    raw: bool | None = None
    stream: bool | None = None
    format: Any = None
    images: list[str] | None = None
    think: Any = None


class EmbedRequest(_Request, kw_only=True):
    """POST /api/embed; `input` is checked by hand, as Ollama does."""

    input: Any = None
    truncate: bool | None = None
    dimensions: int | None = None


class NameRequest(msgspec.Struct, kw_only=True):
    """Requests that name a model, also by the old field."""

    model: str | None = None
    name: str | None = None
    stream: bool | None = None

    @property
    def wanted(self) -> str:
        """The name, from whichever field has it."""
        return self.model or self.name or ""


T = TypeVar("T")


def decode(body: bytes, kind: type[T]) -> T:
    """A request body. Raises ApiError (400) when it is missing, not JSON, or of the wrong shape."""
    if not body.strip():
        raise bad_request("missing request body")
    try:
        return msgspec.json.decode(body, type=kind)
    except RecursionError:
        raise bad_request(_MOST_NESTING) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise bad_request(str(exc)) from exc


def keep_alive_of(request: _Request) -> float | None:
    """The request's `keep_alive` in seconds. Raises ApiError (400) with Go's words."""
    try:
        return keep_alive_seconds(request.keep_alive)
    except ValueError as exc:
        raise bad_request(str(exc)) from exc


def listed(model: Model) -> dict[str, Any]:
    """A model as /api/tags lists it."""
    return {
        "name": model.name,
        "model": model.name,
        "modified_at": rfc3339_at(model.modified_s),
        "size": model.size_bytes,
        "digest": model.digest,
        "details": _details(model),
        "capabilities": model.capabilities,
    }


def running(model: Model, n_ctx: int, expires_s: float) -> dict[str, Any]:
    """A model as /api/ps lists it."""
    return {
        "name": model.name,
        "model": model.name,
        "size": model.size_bytes,
        "digest": model.digest,
        "details": _details(model),
        "expires_at": rfc3339_at(expires_s),
        "size_vram": 0,
        "context_length": n_ctx,
    }


def shown(model: Model) -> dict[str, Any]:
    """A model as /api/show describes it."""
    arch, info = model.info.architecture, model.info
    answer = {
        "license": model.license,
        "modelfile": _modelfile(model),
        "parameters": "\n".join(f"{name:<31}{value:g}" for name, value in model.parameters.items()),
        "template": info.template,
        "system": model.system,
        "details": _details(model),
        "model_info": {
            "general.architecture": arch,
            "general.parameter_count": info.parameter_count,
            f"{arch}.context_length": info.context_length,
            f"{arch}.embedding_length": info.embedding_length,
        },
        "capabilities": model.capabilities,
        "modified_at": rfc3339_at(model.modified_s),
    }
    return {key: value for key, value in answer.items() if value != ""}


def _details(model: Model) -> dict[str, Any]:
    info = model.info
    return {
        "parent_model": "",
        "format": "gguf" if model.path else "safetensors",
        "family": info.architecture,
        "families": [info.architecture],
        "parameter_size": _human(info.parameter_count),
        "quantization_level": info.quantization,
        "context_length": info.context_length,
        "embedding_length": info.embedding_length,
    }


def _modelfile(model: Model) -> str:
    lines = [f"FROM {model.path or model.name}"]
    if model.system:
        lines.append(f'SYSTEM """{model.system}"""')
    lines += [f"PARAMETER {name} {value:g}" for name, value in model.parameters.items()]
    return "\n".join(lines) + "\n"


def _human(count: int) -> str:
    """A number of parameters in Ollama's notation: 134.52M, 1.2B, 7B."""
    for unit, size, digits in (("B", 1e9, 1), ("M", 1e6, 2), ("K", 1e3, 0)):
        if count >= size:
            return f"{count / size:.{0 if count % size == 0 else digits}f}{unit}"
    return str(count)
