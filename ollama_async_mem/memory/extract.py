"""What a model answers when it is asked for facts or verdicts, read as far as it can be understood. Pure.

Local models answer with fences, thoughts, prose, other keys, and break off in the middle. What is complete is kept;
whether it is true is not decided here.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from ollama_async_mem.errors import ModelOutputError
from ollama_async_mem.memory.context import tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import TypeVar

    from ollama_async_mem.records import Turn

    T = TypeVar("T")

__all__ = [
    "PORTION_TOKENS",
    "Extraction",
    "Statement",
    "Verdict",
    "Verdicts",
    "left_out",
    "portions",
    "read_facts",
    "read_verdicts",
]

PORTION_TOKENS = 1_500
"""Most tokens of conversation in one request: with instructions and answer they fit a context of 4,096."""

Verdict: TypeAlias = Literal["same", "replaces", "both"]

_LONGEST_OUTPUT = 100_000
_MOST_PIECES = 12
_MOST_TRIES = 2_000
_HEAD_TOKENS = 20
_END_OF_THOUGHT = re.compile(r"</(?:think|thinking|reasoning|thought)>", re.IGNORECASE)
_OPENING = re.compile(r"[{\[]")
_TRAILING_COMMA = re.compile(r",\s*(?=[}\]])")
_LISTS = ("facts", "memory", "memories", "statements", "results")
_TEXTS = ("text", "fact", "memory", "content", "statement")
_QUOTES = ("quote", "evidence", "source")
_DECODER = json.JSONDecoder(strict=False)


class Statement(msgspec.Struct, frozen=True):
    """One fact as the model gives it."""

    line: int
    quote: str
    text: str


class Extraction(msgspec.Struct, frozen=True):
    """The model's whole answer."""

    facts: list[Statement]


class PairVerdict(msgspec.Struct, frozen=True):
    """What the model says about one pair of facts."""

    pair: int
    verdict: Verdict


class Verdicts(msgspec.Struct, frozen=True):
    """What the model says about all of them."""

    verdicts: list[PairVerdict]


def portions(turns: Sequence[Turn], limit: int = PORTION_TOKENS) -> list[list[Turn]]:
    """Cut turns into runs short enough for one request each.

    A turn that is longer than a request is cut into pieces between words, and what comes after the twelfth is left out;
    `left_out` tells of which turns.
    """
    parts: list[list[Turn]] = []
    size = limit + 1
    for piece in (piece for turn in turns for piece in _pieces(turn, limit)):
        cost = tokens(piece.text) + _HEAD_TOKENS
        size += cost
        if size > limit:
            parts.append([])
            size = cost
        parts[-1].append(piece)
    return parts


def left_out(turns: Sequence[Turn], limit: int = PORTION_TOKENS) -> list[Turn]:
    """List the turns that are too long for their end to be in any of the `portions`."""
    return [turn for turn in turns if sum(len(piece.text) for piece in _pieces(turn, limit)) < len(turn.text)]


def _pieces(turn: Turn, limit: int) -> list[Turn]:
    if tokens(turn.text) + _HEAD_TOKENS <= limit:
        return [turn]
    chars = (limit - _HEAD_TOKENS) * len(turn.text) // tokens(turn.text)
    pieces: list[Turn] = []
    start = 0
    while start < len(turn.text) and len(pieces) < _MOST_PIECES:
        end = start + chars
        space = turn.text.rfind(" ", start + 1, end + 1) if end < len(turn.text) else -1
        end = space if space > 0 else end
        pieces.append(msgspec.structs.replace(turn, text=turn.text[start:end], dates=()))
        start = end
    return pieces


def read_facts(output: str) -> list[Statement]:
    """Read the facts in an answer, however it is dressed.

    Raises:
        ModelOutputError: there is neither a fact in it, nor that there is none.
    """
    return _read(output, _LISTS, _statement)


def read_verdicts(output: str) -> list[PairVerdict]:
    """Read the verdicts in an answer.

    Raises:
        ModelOutputError: there are none.
    """
    return _read(output, ("verdicts",), _pair_verdict)


def _read(output: str, keys: Sequence[str], read: Callable[[Any], T | None]) -> list[T]:
    text = _TRAILING_COMMA.sub("", _without_thoughts(output[:_LONGEST_OUTPUT]))
    single: list[T] = []  # what is complete of an answer that broke off
    for value in _values(text):
        if (items := _items(value, keys)) is not None and (found := _all(items, read)) is not None:
            return found
        single += _all([value], read) or []
    if single:
        return single
    what = "is empty" if not output.strip() else "has no JSON that fits the schema"
    raise ModelOutputError(f"the model's answer does not fit the format: it {what}", output=output)


def _all(items: Sequence[Any], read: Callable[[Any], T | None]) -> list[T] | None:
    """What can be read of some items, None where there are some and none can."""
    found = [item for item in map(read, items) if item is not None]
    return found if found or not items else None


def _without_thoughts(text: str) -> str:
    """Leave out what a model thinks before it answers; where that is never closed, all there is may be the answer."""
    answer = _END_OF_THOUGHT.split(text)[-1]
    return answer if answer.strip() else text


def _values(text: str) -> Iterator[Any]:
    """The outermost JSON objects and lists in a text, in order."""
    position = 0
    for _ in range(_MOST_TRIES):
        if not (opening := _OPENING.search(text, position)):
            return
        value, position = _value_at(text, opening.start())
        if value is not None:
            yield value


def _value_at(text: str, start: int) -> tuple[Any, int]:
    """The JSON value at a place and where it ends, else None and where to look next."""
    try:
        return _DECODER.raw_decode(text, start)
    except ValueError:
        return None, start + 1
    except RecursionError:  # no answer is nested so deeply, and looking on would take long
        return None, len(text)


def _items(value: Any, keys: Sequence[str]) -> list[Any] | None:
    """The list that an answer holds, None where it holds none."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        return None
    key = next((key for key in keys if isinstance(value.get(key), list | dict)), None)
    if key is None:
        return [] if not value or any(key in value and value[key] is None for key in keys) else None
    inner = value[key]
    return inner if isinstance(inner, list) else [inner]


def _statement(item: Any) -> Statement | None:
    if isinstance(item, str):
        return Statement(0, "", item)
    if not isinstance(item, dict) or not (text := _text(item, _TEXTS)):
        return None
    return Statement(_number(item.get("line")), _text(item, _QUOTES), text)


def _pair_verdict(item: Any) -> PairVerdict | None:
    try:
        return msgspec.convert(item, PairVerdict, strict=False)
    except msgspec.ValidationError:
        return None


def _text(item: Mapping[str, Any], keys: Sequence[str]) -> str:
    return next((value for key in keys if isinstance(value := item.get(key), str)), "")


def _number(value: Any) -> int:
    value = value[0] if isinstance(value, list) and value else value
    digits = re.search(r"\d{1,6}", str(value))
    return int(digits[0]) if digits else 0
