"""Long texts in pieces, and their vectors made one. Pure."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ollama_async_mem.ports import Vector

__all__ = ["MOST_PIECES", "cut", "pooled", "size_of", "split", "unit"]

MOST_PIECES = 32
"""A longer text is embedded by so many of its pieces, evenly spread: a vector of yet more would mean nothing."""

# Where a text is best cut: between paragraphs, sentences, words.
_BORDERS = tuple(map(re.compile, (r"\n\s*\n", r"[.!?…](?=\s)|[。！？\n]", r"\s")))  # noqa: RUF001 - Chinese marks
_LOOK_BACK_CHARS = 500  # before the end of a piece, and at most in its last quarter


def size_of(text: str) -> int:
    """Count the bytes of a text in UTF-8; a model's tokens are never more."""
    return len(text) if text.isascii() else len(text.encode())


def split(text: str, most_bytes: int) -> list[str]:
    """Cut a text into pieces of about that many bytes, at most `MOST_PIECES`, evenly spread where there are more."""
    size = size_of(text)
    if size <= most_bytes:
        return [text]
    most_chars = max(len(text) * most_bytes // size, 1)
    is_short = len(text) <= MOST_PIECES * most_chars * 3 // 4  # `cut` makes pieces of three quarters at least
    return cut(text, most_chars) if is_short else _spread(text, most_chars)


def _spread(text: str, most_chars: int) -> list[str]:
    """Take `MOST_PIECES` out of a text from its beginning to its end, without a look at the rest."""
    pieces = []
    for place in range(MOST_PIECES):
        at = place * (len(text) - most_chars) // (MOST_PIECES - 1)
        start = _border(text, max(at - most_chars, 0), at) if at else 0
        pieces.append(text[start : _border(text, start, start + most_chars)])
    return _without_blank(pieces)


def cut(text: str, most_chars: int) -> list[str]:
    """Cut a text into pieces of at most that many characters that are not blank, where it is best cut."""
    pieces, start = [], 0
    while start < len(text):
        end = _border(text, start, start + most_chars)
        pieces.append(text[start:end])
        start = end
    return _without_blank(pieces)


def _without_blank(pieces: list[str]) -> list[str]:
    return [piece for piece in pieces if not piece.isspace()] or pieces[:1]


def _border(text: str, start: int, end: int) -> int:
    if end >= len(text):
        return len(text)
    begin = end - min((end - start) // 4, _LOOK_BACK_CHARS)
    for pattern in _BORDERS:
        found = None
        for found in pattern.finditer(text, begin, end):  # noqa: B007 - the last one counts
            pass
        if found:
            return found.end()
    return end


def unit(vector: Vector) -> Vector | None:
    """Return a vector of length one that nobody can write to; None for one that is zero or not finite."""
    squared = float(vector.dot(vector))
    if not 0 < squared < math.inf:
        return None
    scaled = vector * np.float32(1 / math.sqrt(squared))
    scaled.flags.writeable = False
    return scaled


def pooled(vectors: Sequence[Vector], weights: Sequence[int]) -> Vector | None:
    """Return the weighted mean of vectors at length one; None where they cancel each other out."""
    return unit(np.asarray(np.average(vectors, axis=0, weights=weights), dtype=np.float32))
