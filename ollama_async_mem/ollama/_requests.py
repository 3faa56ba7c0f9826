"""Request bodies: the fields that `chat` and `generate` take, checked and written as the server wants them."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

import anyio
import anyio.to_thread

from ollama_async_mem.errors import ConfigError

from ._options import checked_options
from .formats import json_schema
from .schema import ChatMessage

__all__ = ["ChatFields", "GenerateFields", "Image", "chat_body", "filled", "generate_body", "named", "seconds"]

Image: TypeAlias = str | bytes | Path
"""A path, the bytes of a file, or their base64."""

_MOST_LOGPROBS = 20
_DURATION = re.compile(r"[-+]?(0|((\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h))+)", re.ASCII)  # Go's time.ParseDuration


class _SharedFields(TypedDict, total=False):
    """What `chat` and `generate` have in common; what is left out is the server's choice.

    format: "json", a JSON schema, or a type that describes the answer: msgspec Struct, dataclass, TypedDict, pydantic.
    options: the model's parameters, such as {"temperature": 0, "num_ctx": 8192}. A changed num_ctx reloads the model.
    think: False, True, or "low", "medium", "high", for models that think.
    keep_alive: seconds or a timedelta that the model stays loaded; 0 unloads it, a negative one keeps it.
    truncate, shift: what happens to a conversation that is too long, False for an error.
    logprobs, top_logprobs: report the tokens' probabilities, and those of up to 20 others.
    """

    format: Any
    options: Mapping[str, Any] | None
    think: bool | str | None
    keep_alive: float | str | timedelta | None
    truncate: bool | None
    shift: bool | None
    logprobs: bool | None
    top_logprobs: int | None


class ChatFields(_SharedFields, total=False):
    """What `chat` takes besides. tools: JSON descriptions, or Python functions to describe."""

    tools: Sequence[Mapping[str, Any] | Callable[..., Any]] | None


class GenerateFields(_SharedFields, total=False):
    """What `generate` takes besides; `raw` sends the prompt without the model's template."""

    suffix: str | None
    system: str | None
    template: str | None
    images: Sequence[Image] | None
    raw: bool | None


async def chat_body(model: str, messages: object, fields: ChatFields, *, stream: bool) -> dict[str, Any]:
    """Write the body of /api/chat.

    Raises:
        ConfigError: an argument is not what it should be; nothing was sent.
    """
    _check(fields, ChatFields)
    if not isinstance(messages, list | tuple) or not all(isinstance(m, dict | ChatMessage) for m in messages):
        raise ConfigError('messages is a list like [{"role": "user", "content": "hi"}]')
    tools = [t if isinstance(t, Mapping) else _described(t) for t in fields.get("tools") or ()]
    written = {**fields, "tools": tools or None}
    return _body(model, written, messages=[await _with_images(m) for m in messages], stream=stream)


def _described(function: Callable[..., Any]) -> dict[str, Any]:
    from .tools import tool_schema  # noqa: PLC0415 - inspecting functions takes long to import

    return tool_schema(function)


async def generate_body(model: str, prompt: object, fields: GenerateFields, *, stream: bool) -> dict[str, Any]:
    """Write the body of /api/generate.

    Raises:
        ConfigError: an argument is not what it should be; nothing was sent.
    """
    _check(fields, GenerateFields)
    if not isinstance(prompt, str):
        raise ConfigError(f"the prompt is a text, got {type(prompt).__name__}")
    images = await _encoded(fields.get("images"))
    return _body(model, {**fields, "images": images}, prompt=prompt, stream=stream)


def _body(model: str, fields: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    written = {
        "format": json_schema(fields.get("format")),
        "keep_alive": seconds(fields.get("keep_alive")),
        "options": checked_options(fields.get("options")),
    }
    return filled(model=named(model), **more, **{**fields, **written})


def _check(fields: Mapping[str, Any], known: type) -> None:
    for name in fields:
        if name not in known.__annotations__ and name not in _SharedFields.__annotations__:
            raise ConfigError(f"unknown argument {name!r}; model parameters such as temperature go into options=")
    top = fields.get("top_logprobs")
    if top is not None and not (isinstance(top, int) and 0 <= top <= _MOST_LOGPROBS):
        raise ConfigError(f"top_logprobs is from 0 to {_MOST_LOGPROBS}, got {top!r}")


def filled(**fields: Any) -> dict[str, Any]:
    """Leave out what is None."""
    return {name: value for name, value in fields.items() if value is not None}


def named(model: object) -> str:
    """Check a model's name."""
    if not isinstance(model, str) or not model.strip():
        raise ConfigError(f"a model name is needed, such as 'llama3.2', got {model!r}")
    return model


def seconds(keep_alive: float | str | timedelta | None) -> float | str | None:
    """Write `keep_alive` as the server takes it: a number of seconds, or its own duration text such as "5m".

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(keep_alive, timedelta):
        return keep_alive.total_seconds()
    is_number = isinstance(keep_alive, int | float) and not isinstance(keep_alive, bool) and math.isfinite(keep_alive)
    if is_number or keep_alive is None or (isinstance(keep_alive, str) and _DURATION.fullmatch(keep_alive)):
        return keep_alive
    raise ConfigError(f'keep_alive is a number of seconds, a timedelta or a text such as "5m", got {keep_alive!r:.80}')


async def _with_images(message: Any) -> Any:
    if not (isinstance(message, dict) and message.get("images")):
        return message
    return {**message, "images": await _encoded(message["images"])}


async def _encoded(images: object) -> list[str] | None:
    if images is None:
        return None
    if not isinstance(images, list | tuple):
        raise ConfigError(f"images is a list of paths, bytes or base64 texts, got {type(images).__name__}")
    return [await anyio.to_thread.run_sync(_base64, image) for image in images]


def _base64(image: Image) -> str:
    """Read and encode an image; a text is the path of a file that exists, else base64 already."""
    if isinstance(image, bytes | bytearray | memoryview):
        return base64.b64encode(image).decode()
    if not isinstance(image, str | Path):
        raise ConfigError(f"an image is a path, bytes or base64, got {type(image).__name__}")
    if isinstance(image, Path) or _is_file(image):
        try:
            return base64.b64encode(Path(image).read_bytes()).decode()
        except OSError as exc:
            raise ConfigError(f"cannot read the image {image}: {exc.strerror or exc}") from exc
    try:
        base64.b64decode(image, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise ConfigError(f"the image {image[:80]!r} is neither a file that exists nor base64") from exc
    return image


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # far too long for a path, or with a NUL
        return False
