"""What a model said, read from a copy of its answer once that is complete. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["MOST_BYTES", "answer_of"]

MOST_BYTES = 16 * 1024 * 1024
"""Of a longer answer no copy is kept."""

_EVENT = b"data:"
_LAST_EVENT = b"[DONE]"


class _Said(msgspec.Struct):
    content: str | None = None
    tool_calls: list[Any] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Said | None = None
    message: _Said | None = None
    finish_reason: str | None = None


class _Piece(msgspec.Struct):
    """A line of Ollama's, or an event of OpenAI's: each has some of the fields."""

    message: _Said | None = None
    response: str = ""
    tool_calls: list[Any] | None = None
    choices: list[_Choice] = []
    done: bool = False
    error: Any = None

    def said(self) -> list[_Said]:
        first = [choice.delta or choice.message for choice in self.choices if not choice.index]
        told = [self.message, *first, _Said(self.response, self.tool_calls)]
        return [said for said in told if said]

    def is_last(self) -> bool:
        return self.done or any(choice.finish_reason for choice in self.choices)


_decode = msgspec.json.Decoder(_Piece).decode
_decode_lines = msgspec.json.Decoder(_Piece).decode_lines


def answer_of(kind: str, body: bytes) -> str | None:
    """Return the text of an answer whose content type is `kind`; None where it is incomplete or none.

    An answer that calls tools is no last word: the model goes on when it has what they return.
    """
    try:
        pieces = _pieces(kind, body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    said = [part for piece in pieces for part in piece.said()]
    is_broken = any(piece.error is not None for piece in pieces)
    if is_broken or not any(piece.is_last() for piece in pieces) or any(part.tool_calls for part in said):
        return None
    return "".join(part.content for part in said if part.content).strip() or None


def _pieces(kind: str, body: bytes) -> list[_Piece]:
    if kind.startswith("text/event-stream"):
        return list(_events(body))
    if "ndjson" in kind:
        return _decode_lines(body)
    return [_decode(body)] if kind.startswith("application/json") else []


def _events(body: bytes) -> Iterable[_Piece]:
    """The events of a stream of OpenAI's; none where the last one is missing."""
    events = [line.removeprefix(_EVENT).strip() for line in body.splitlines() if line.startswith(_EVENT)]
    return map(_decode, events[:-1]) if events and events[-1] == _LAST_EVENT else ()
