"""How an answer becomes a record of `schema`: the strict way, and the lenient second one; and what an `error` says.

It knows bytes and types, nothing of HTTP. Pure.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from ollama_async_mem.errors import ProtocolError

from .schema import ErrorBody

__all__ = ["UNREADABLE", "decode", "decode_line", "failure"]

T = TypeVar("T")
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not JSON of a type, or nested too deeply."""

_COMPLAINT = re.compile(rb'\s*\{\s*"error"')
_COMPLAINT_CHARS = 1000
_HALF_CHARACTER = re.compile(  # a surrogate without its other half; whole pairs and escaped backslashes are passed over
    r"\\\\|\\u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2}|(\\u[dD][89a-fA-F][\da-fA-F]{2})"
)
_WHOLE = ("_count", "_duration", "_length", "size", "size_vram", "total", "completed", "index")
_FREE = {"arguments", "model_info", "projector_info"}  # a model's or a file's own words; OpenAI's way is a text of JSON
_ERROR = msgspec.json.Decoder(ErrorBody)


def failure(error: object) -> str | None:
    """Read an `error`: the text of a failure, or None where there is none (absent, null and empty).

    A very long one loses its middle: what happened stands at its beginning, and why often at its end.
    """
    if isinstance(error, dict):
        error = error.get("message", error)
    if not error:
        return None
    text = str(error)
    return text if len(text) <= _COMPLAINT_CHARS else f"{text[:700]} ... {text[-300:]}"


def decode(data: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode a whole answer.

    Raises:
        ProtocolError: it is not JSON, or not of this shape; or it is an error, though its status is a success.
    """
    if _COMPLAINT.match(data) and (complaint := failure(decode_line(data, _ERROR).error)):
        raise ProtocolError(f"the server sent an error in place of an answer: {complaint}")
    return decode_line(data, decoder)


def decode_line(data: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode one JSON document, leniently where the strict way fails.

    Raises:
        ProtocolError: it is not JSON, or not of this shape.
    """
    try:
        return decoder.decode(data)
    except UNREADABLE:
        return _decode_leniently(data, decoder.type)


def _decode_leniently(data: bytes, type_: type[T]) -> T:
    """Decode what other servers and proxies send: nulls for absent, floats for integers, broken UTF-8."""
    text = data.decode(errors="replace").removeprefix("\ufeff")
    try:
        raw = msgspec.json.decode(_HALF_CHARACTER.sub(lambda found: "\\ufffd" if found[1] else found[0], text))
        return msgspec.convert(_tidy(raw), type_, strict=False)
    except (*UNREADABLE, ValueError, OverflowError) as exc:
        raise ProtocolError(f"the server sent what Ollama does not send ({exc}): {_excerpt(data)}") from exc


def _tidy(value: Any) -> Any:
    """Drop nulls and cut fractions off counts, durations and sizes, at any depth of what has a shape."""
    if isinstance(value, dict):
        return {name: _tidied(name, field) for name, field in value.items() if field is not None}
    return [_tidy(v) for v in value] if isinstance(value, list) else value


def _tidied(name: str, value: Any) -> Any:
    if name in _FREE:
        return _object(value) if isinstance(value, str) else value
    return int(value) if isinstance(value, float) and name.endswith(_WHOLE) else _tidy(value)


def _object(text: str) -> dict[str, Any]:
    """Read a text of JSON; one that is no object is kept, under a name that no parameter of a tool can have."""
    try:
        return msgspec.json.decode(text or "{}", type=dict[str, Any])
    except UNREADABLE:
        return {"not a JSON object": text}


def _excerpt(data: bytes, limit: int = 200) -> str:
    text = data[: limit + 1].decode(errors="replace").strip()
    return repr(text[:limit]) + ("..." if len(data) > limit else "")
