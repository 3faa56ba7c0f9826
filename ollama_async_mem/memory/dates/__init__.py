"""The days that English words name, such as "last Friday", seen from the day they were said on.

Owns the reading of dates: `words` has the vocabulary, `spans` the calendar, `tense` tells past from future and `rules`
puts them together. Knows nothing of memories, and does no I/O.
"""

from __future__ import annotations

import re
from collections import deque
from datetime import datetime
from typing import TYPE_CHECKING

from ollama_async_mem.memory.dates.rules import read_at
from ollama_async_mem.memory.dates.said import Said
from ollama_async_mem.memory.dates.words import LEADING, NAMING
from ollama_async_mem.records import DateRange

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date

    from ollama_async_mem.memory.dates.tense import Tense

__all__ = ["find_dates"]

_WORD = re.compile(r"(?<!\w)(?<!\d[.,])(?:[a-z]+|\d+)")
_MOST_LEADING = 8
_ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def find_dates(text: str, said_at: datetime | date, *, prefer: Tense | None = None) -> list[DateRange]:
    """Find the dates that an English text names, in the order of the text; they do not overlap.

    `said_at` is when it was said: relative words are seen from its calendar day in its own offset. Weeks begin on
    Monday; "last Friday" is the latest one before the day and "next Friday" the first one after it; 3/4/2023 is in
    March. "On Friday" or "in June" is a past or a coming one by the words around it; where they tell neither, `prefer`
    decides, else it is the past. Durations and ages are no dates. The work is linear in the length of the text.
    """
    day = said_at.date() if isinstance(said_at, datetime) else said_at
    said = Said(text=text, lower=_lower(text), day=day, prefer=prefer)
    ranges: list[DateRange] = []
    end = 0
    for start in _starts(said.lower):
        if start >= end and (found := read_at(said, start)):
            end = found.end
            ranges.append(DateRange(*found.span, text=text[start:end], position=(start, end)))
    return ranges


def _starts(lower: str) -> Iterator[int]:
    """Go through the places where a date may begin: at a word that names one, or at some words that may lead to it."""
    leading: deque[int] = deque(maxlen=_MOST_LEADING)
    for word in _WORD.finditer(lower):
        if word[0] in NAMING or word[0][0].isdigit():
            yield from leading
            yield word.start()
            leading.clear()
        elif word[0] in LEADING:
            leading.append(word.start())
        else:
            leading.clear()


def _lower(text: str) -> str:
    """Write a text in lower case and with plain apostrophes, each character staying in its place."""
    lower = text.lower()
    if len(lower) != len(text):  # a few capitals of other languages become two letters
        lower = text.translate(_ASCII_LOWER)
    return lower.replace("\u2019", "'")
