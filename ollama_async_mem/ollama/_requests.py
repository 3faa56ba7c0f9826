"""Request bodies: the fields that `chat` and `generate` take, checked and written as the server wants them."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeAlias, TypedDict

import anyio
import anyio.to_thread

from ollama_async_mem.errors import ConfigError

from ._options import checked_options, nearest
from .formats import json_schema
from .schema import ChatMessage

__all__ = [
    "ChatFields",
    "GenerateFields",
    "Image",
    "chat_body",
    "check_fields",
    "checked_texts",
    "described",
    "filled",
    "generate_body",
    "named",
    "seconds",
]

Image: TypeAlias = str | bytes | Path
"""A path, the bytes of a file, or their base64."""

_MOST_LOGPROBS = 20
_FLAGS = ("insecure", "logprobs", "raw", "shift", "truncate", "verbose")
_TEXTS = ("content", "role", "suffix", "system", "template", "thinking", "tool_call_id", "tool_name")
_KINDS: Final[dict[str, tuple[Any, str]]] = {
    **dict.fromkeys(_FLAGS, (bool, "True or False")),
    **dict.fromkeys(_TEXTS, (str, "a text")),
    "context": (list | tuple, "the list of numbers that another answer gave"),
    "think": (bool | str, 'True, False or a text such as "high"'),
    "tool_calls": (list | tuple, "a list"),
}
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
    """What `generate` takes besides.

    raw: send the prompt without the model's template.
    context: `.context` of the answer that this one goes on from; the server will drop it, `chat` takes its place.
    """

    context: Sequence[int] | None
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
    if not isinstance(messages, list | tuple):
        raise ConfigError('messages is a list like [{"role": "user", "content": "hi"}]')
    written = {**fields, "tools": described(fields.get("tools")) or None}
    return _body(model, written, messages=[await _message(m) for m in messages], stream=stream)


def described(tools: object) -> list[Any]:
    """Describe the functions among tools.

    Raises:
        ConfigError: that is no list of functions and descriptions.
    """
    if not isinstance(tools, Iterable | None) or isinstance(tools, str | Mapping):
        raise ConfigError(f"tools is a list of functions and of JSON descriptions, got {type(tools).__name__}")
    return [tool if isinstance(tool, Mapping) else _described(tool) for tool in tools or ()]


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
            hint = nearest(name, [*known.__annotations__, *_SharedFields.__annotations__])
            raise ConfigError(f"unknown argument {name!r}{hint}; model parameters such as temperature go into options=")
    check_fields(fields)


def check_fields(fields: Mapping[str, Any]) -> None:
    """Refuse fields of a wrong type, to which the server would answer in Go's words; None stands for absent.

    Raises:
        ConfigError: says which, and what it should be.
    """
    for name, value in fields.items():
        kind, words = _KINDS.get(name, (object, ""))
        if value is not None and not isinstance(value, kind):
            raise ConfigError(f"{name} is {words}, got {value!r:.80}")
    if not _is_whole(top := fields.get("top_logprobs"), 0, _MOST_LOGPROBS):
        raise ConfigError(f"top_logprobs is from 0 to {_MOST_LOGPROBS}, got {top!r:.80}")
    if not _is_whole(dimensions := fields.get("dimensions"), 1, math.inf):
        raise ConfigError(f"dimensions is an integer of at least 1, got {dimensions!r:.80}")


def _is_whole(value: object, least: int, most: float) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and least <= value <= most)


def checked_texts(texts: object) -> list[str]:
    """Write what is to be embedded as a list; one text is a list of one.

    Raises:
        ConfigError: it is neither a text nor a sequence of texts.
    """
    given = [texts] if isinstance(texts, str) else texts
    if not isinstance(given, Sequence):
        raise ConfigError(f"texts is a text or a list of texts, got {type(texts).__name__}")
    for place, text in enumerate(given):
        if not isinstance(text, str):
            raise ConfigError(f"texts is a text or a list of texts, but item {place} is a {type(text).__name__}")
    return list(given)


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
    is_number = isinstance(keep_alive, int | float) and not isinstance(keep_alive, bool) and abs(keep_alive) < math.inf
    if is_number or keep_alive is None or (isinstance(keep_alive, str) and _DURATION.fullmatch(keep_alive)):
        return keep_alive
    raise ConfigError(f'keep_alive is a number of seconds, a timedelta or a text such as "5m", got {keep_alive!r:.80}')


async def _message(message: object) -> Any:
    """Check a message and encode its images."""
    if isinstance(message, ChatMessage):
        return message
    if not isinstance(message, Mapping) or not message.get("role"):
        raise ConfigError('a message is a mapping like {"role": "user", "content": "hi"}, with a role')
    check_fields(message)
    return {**message, "images": await _encoded(message["images"])} if message.get("images") else dict(message)


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
