"""Structured output: what `format=` sends to the server, and how the answer becomes an object. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from ollama_async_mem.errors import ConfigError, ModelOutputError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["json_schema", "parse_answer"]


def json_schema(format_: Any) -> Any:
    """Make the wire's `format` of "json", a JSON schema, a pydantic model, or any type msgspec describes.

    Raises:
        ConfigError: it is none of these.
    """
    if format_ is None or isinstance(format_, dict) or format_ == "json":
        return format_
    if hasattr(format_, "model_json_schema"):  # pydantic 2
        return format_.model_json_schema()
    try:
        schema = msgspec.json.schema(format_)
    except (TypeError, RuntimeError) as exc:
        raise ConfigError(
            f'format={format_!r}: give "json", a JSON schema as a dict, a msgspec Struct, a dataclass, '
            "a TypedDict or a pydantic model"
        ) from exc
    return _without_outer_ref(schema)


def _without_outer_ref(schema: dict[str, Any]) -> dict[str, Any]:
    """Replace the outermost reference by its definition: some servers expect an object there."""
    name = schema.get("$ref", "").rpartition("/")[2]
    definitions = schema.get("$defs", {})
    if name not in definitions:
        return schema
    others = {k: v for k, v in definitions.items() if k != name}
    recursive = f"#/$defs/{name}".encode() in msgspec.json.encode(definitions)
    if recursive:
        return schema
    return {**definitions[name], **({"$defs": others} if others else {})}


def parse_answer(format_: Any, text: str, tool_calls: Sequence[object] = ()) -> Any:
    """Make the object that `format_` describes from the model's text.

    None where no format was asked for, or the model calls tools before it answers.

    Raises:
        ModelOutputError: the text is not JSON, or not of that shape.
    """
    if format_ is None or (tool_calls and not text):
        return None
    try:
        if hasattr(format_, "model_validate_json"):
            return format_.model_validate_json(text)
        type_ = Any if isinstance(format_, dict | str) else format_
        return msgspec.json.decode(text, type=type_, strict=False)
    except (ValueError, RecursionError) as exc:  # msgspec's and pydantic's errors are the first
        raise ModelOutputError(f"the model's answer does not fit the format: {exc}", output=text) from exc
