"""Metadata and dates as JSON that any database can hold, and that comes back as it was: pure functions.

Neither PostgreSQL nor older versions of SQLite hold U+0000 in a text that they take out of JSON. That and the two
characters after it are written as four of these two. The codes are in the order of what they stand for, and no code
lies across two others: what is compared with or looked for in coded texts gives the same as in the original ones.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from ollama_async_mem.errors import StoreError
from ollama_async_mem.records import DateRange

from ._text import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["coded", "decoded", "read_dates", "read_json", "write_dates", "write_json"]

MAX_DEPTH = 500  # databases read JSON that is nested a thousand levels deep

_CODES = {"\0": "\1\1\1\2", "\1": "\1\1\2\2", "\2": "\1\2\2\2"}
_CODED = re.compile("[\0-\2]")
_CODE = re.compile("|".join(_CODES.values()))
_MEANING = {code: char for char, code in _CODES.items()}


def coded(text: str) -> str:
    """Return a text without U+0000."""
    return _CODED.sub(lambda char: _CODES[char[0]], text)


def decoded(text: str) -> str:
    """The other way."""
    return _CODE.sub(lambda code: _MEANING[code[0]], text) if "\1" in text else text


def write_json(value: Any) -> str:
    """Return a value as JSON with coded texts.

    Raises:
        StoreError: it would not come back as it is, or is nested too deep.
    """
    try:
        text = msgspec.json.encode(value).decode()
        plain = msgspec.json.decode(text)
        is_kept = plain == value
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise StoreError(f"metadata cannot be written as JSON: {exc}") from exc
    if not is_kept:
        raise StoreError("metadata has something that is not JSON, such as a set, a time or NaN")
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(plain) > MAX_DEPTH:
        raise StoreError(f"metadata is nested deeper than {MAX_DEPTH} levels")
    return msgspec.json.encode(_mapped(plain, coded)).decode() if "\\u000" in text else text


def read_json(text: str) -> Any:
    """The other way."""
    value = msgspec.json.decode(text)
    return _mapped(value, decoded) if "\\u0001" in text else value


def write_dates(dates: Sequence[DateRange]) -> str | None:
    """Return dates as JSON, None for none."""
    if not dates:
        return None
    return msgspec.json.encode([replace(one, text=clean(one.text)) for one in dates]).decode()


def read_dates(text: str | None) -> tuple[DateRange, ...]:
    """The other way."""
    return _dates.decode(text) if text else ()


_dates = msgspec.json.Decoder(tuple[DateRange, ...])


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """JSON with all its texts changed, keys too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_mapped(item, change) for item in value]
    if isinstance(value, dict):
        return {change(key): _mapped(item, change) for key, item in value.items()}
    return value


def _depth(value: Any) -> int:
    """How many levels of lists and mappings there are, without recursion."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
        depth += 1
    return depth
