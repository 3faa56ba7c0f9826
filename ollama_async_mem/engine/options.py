"""Ollama's `options`, `format` and `think` checked as Ollama checks them and put in llama.cpp's words.

The names, types, defaults and texts follow Ollama's `DefaultOptions` and `Options.FromMap`. Pure functions.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

from .faults import ApiError, bad_request

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Options", "parse_options", "response_format", "sampling", "wants_thinking"]

_THINK_LEVELS = ("low", "medium", "high", "max")
_LIMITED_BY_CONTEXT = -1


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The options that this engine acts on; all others are accepted and ignored, as Ollama does."""

    num_ctx: int | None = None
    num_predict: int = _LIMITED_BY_CONTEXT
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_last_n: int = 64
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = -1
    stop: tuple[str, ...] = ()


_INTEGERS = {"num_ctx", "num_predict", "top_k", "repeat_last_n", "seed"}
_KNOWN = set(Options.__struct_fields__)


def parse_options(raw: dict[str, Any] | None, defaults: Mapping[str, Any] = MappingProxyType({})) -> Options:
    """Options from a request over the model's own; nulls and unknown names are skipped.

    Raises ApiError (500, as Ollama) when a known option has the wrong type.
    """
    given = {name: value for name, value in (raw or {}).items() if name in _KNOWN and value is not None}
    given = {**defaults, **given}
    typed: dict[str, Any] = {name: _typed(name, value) for name, value in given.items()}
    return Options(**typed)


def sampling(options: Options) -> dict[str, Any]:
    """The fields of a llama.cpp request that say how to choose tokens."""
    return {
        "temperature": options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "min_p": options.min_p,
        "typical_p": options.typical_p,
        "repeat_last_n": options.repeat_last_n,
        "repeat_penalty": options.repeat_penalty,
        "presence_penalty": options.presence_penalty,
        "frequency_penalty": options.frequency_penalty,
        "seed": options.seed,
        "stop": list(options.stop),
        "n_predict": max(options.num_predict, _LIMITED_BY_CONTEXT),
    }


def response_format(value: object) -> dict[str, Any] | None:
    """llama.cpp's constraint for Ollama's `format`: absent, "json", or a JSON Schema object.

    Raises ApiError (500, as Ollama) for anything else.
    """
    if value is None or value == "":
        return None
    if value == "json":
        return {"type": "json_object"}
    if isinstance(value, dict):
        return {"type": "json_schema", "json_schema": {"schema": value}}
    shown = msgspec.json.encode(value).decode()
    raise ApiError(500, f'invalid format: {shown}; expected "json" or a valid JSON Schema object')


def wants_thinking(value: object) -> bool | None:
    """Whether `think` asks for thinking; None when the caller said nothing. Raises ApiError (400)."""
    if value is None or isinstance(value, bool):
        return value
    if value in _THINK_LEVELS:
        return True
    shown = msgspec.json.encode(value).decode()
    raise bad_request(f'invalid think value: {shown} (must be "high", "medium", "low", "max", true, or false)')


def _typed(name: str, value: object) -> object:
    """One option in its type, or Ollama's complaint."""
    if name == "stop":
        return _texts(name, value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        kind = "integer" if name in _INTEGERS else "float32"
        raise ApiError(500, f'option "{name}" must be of type {kind}')
    return int(value) if name in _INTEGERS else float(value)


def _texts(name: str, value: object) -> tuple[str, ...]:
    """A list of texts; Ollama refuses a bare text here."""
    if not isinstance(value, list):
        raise ApiError(500, f'option "{name}" must be of type array')
    if not all(isinstance(item, str) for item in value):
        raise ApiError(500, f'option "{name}" must be of an array of strings')
    return tuple(value)
