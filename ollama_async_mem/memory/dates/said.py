"""A text said on a day, what a rule for it is, and what rules ask about it. Knows no rule itself. Pure."""

from __future__ import annotations

import re
from datetime import date
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import msgspec

from ollama_async_mem.memory.dates.spans import Kind, Span, near
from ollama_async_mem.memory.dates.tense import Tense, tense_at
from ollama_async_mem.memory.dates.words import compiled

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Match",
    "Rule",
    "Said",
    "by_tense",
    "full_year",
    "in_year",
    "is_capital",
    "is_future",
    "is_past",
    "rule",
    "word_before",
]

Match: TypeAlias = re.Match[str]
_LONGEST_WORD = 15
_YEARS_AHEAD = 20
_UP_TO = ("by ", "until ", "till ", "come ")


class Said(msgspec.Struct, frozen=True):
    """A text to read, the same in lower case, the day it was said on, and the tense where its words tell none."""

    text: str
    lower: str
    day: date
    prefer: Tense | None


class Rule(NamedTuple):
    """Words, and which days they name; None where they name none after all."""

    pattern: re.Pattern[str]
    read: Callable[[Said, Match], Span | None]


def rule(pattern: str, read: Callable[[Said, Match], Span | None]) -> Rule:
    """Make a rule; `compiled` says how its pattern is written."""
    return Rule(compiled(pattern), read)


def is_future(said: Said, match: Match) -> bool:
    """Tell whether the words speak of what will be, as far as is known."""
    tense = tense_at(said.lower, match.start(), match.end()) or said.prefer
    return tense == "future" or (tense is None and match[0].startswith(_UP_TO))


def is_past(said: Said, match: Match) -> bool:
    """Tell whether the words speak of what was, as far as is known."""
    return (tense_at(said.lower, match.start(), match.end()) or said.prefer) == "past"


def by_tense(said: Said, match: Match, kind: Kind) -> Span:
    """Return the one of a kind now, else the next one if the words speak of what will be, else the last one."""
    return near(kind, said.day, future=is_future(said, match))


def in_year(said: Said, match: Match, kind: Kind) -> Span:
    """Return the one of a yearly kind in the year that `<year>` matched, else the one that the tense points at."""
    words = match["year"]
    if not words:
        return by_tense(said, match, kind)
    if words.startswith("'"):
        the_year = full_year(said, int(words[1:]))
    elif words.isdigit():
        the_year = int(words)
    else:
        the_year = said.day.year + ("last", "this", "next").index(words.split()[0]) - 1
    return kind(date(the_year, 12, 1), 0)


def full_year(said: Said, two_digits: int) -> int:
    """Take two digits for a year that is not far ahead."""
    the_year = said.day.year - said.day.year % 100 + two_digits
    return the_year if the_year <= said.day.year + _YEARS_AHEAD else the_year - 100


def word_before(said: Said, start: int) -> str:
    """Return the word that stands before a position, "" where there is none."""
    words = re.findall(r"[\w']+", said.lower[max(0, start - _LONGEST_WORD) : start])
    return words[-1] if words else ""


def is_capital(said: Said, position: int) -> bool:
    """Tell whether there is a capital letter at a position."""
    return said.text[position].isupper()
