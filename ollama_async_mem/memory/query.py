"""What a query asks for: its telling words, the people and the days that it names. Pure; knows nothing of scores."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, cast

import msgspec

from ollama_async_mem.memory.dates import find_dates
from ollama_async_mem.records import DateRange  # noqa: TC001 - msgspec resolves annotations at run time

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date, datetime

__all__ = ["Query", "has_word", "is_during", "read_query", "root"]

_MOST_ROOTS = 32
_MOST_READ = 8_000  # characters: a longer text says what it is about before
_SHORTEST_ROOT = 3
_LONG_ROOT = 5  # from here on, a word that begins with it is hardly another word
_MOST_REST = 4
_ASKS_WHEN = re.compile(
    r"^\W*(?:(?:and|so|since|until) )*when\b|\b(?:tell me|know|remember|recall|say|said) when\b|"
    r"\b(?:what|which) (?:date|day|month|year|time)\b|\bhow long ago\b",
    re.IGNORECASE,
)
_IN_A_YEAR = re.compile(r"\b[12]\d{3}\b|\b(?:this|last|next|past|coming|previous|ago)\b", re.IGNORECASE)
_MONTH = re.compile(r"\b(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)", re.IGNORECASE)
# Han, kana, Thai, Lao, Burmese and Khmer are written without spaces.
_SCRIPTS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_UNSPACED = re.compile(f"[{_SCRIPTS}]")
_WORD = re.compile(rf"[{_SCRIPTS}]+|[^\W_{_SCRIPTS}]+")
_REST = re.compile(rf"[^\W_{_SCRIPTS}]*")
_STOP_WORDS = (
    "a about all also am an and any are as at be because been but by can could d did do does doing done for from "
    "get gets got had has have he her hers him his how i if in into is it its just kind ll m many me most much my "
    "no not of on or our out re s shall she should so some such t than that the their them then there these they "
    "this those to too type up us ve very was we were what when where which who whom whose why will with would you "
    "your yours"
)
_STOP = frozenset(_STOP_WORDS.split())
_ENDINGS = ("ingly", "edly", "ings", "ions", "ing", "ies", "ied", "ers", "ion", "ed", "es", "er", "ly", "s", "y", "e")
_RESTS = frozenset(("", *_ENDINGS, "al", "ment", "ments"))
_DOUBLING = ("ing", "ings", "ed", "er", "ers")


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """A question as the ranking sees it.

    `roots` are what the forms of its telling words begin with, `names` those of the speakers that it names, and
    `dates` the days that it names. `embedded` is what to embed: the text without the names. To a small model whom a
    question is about weighs more than what it asks, and half of a conversation has that name.
    """

    text: str
    embedded: str
    roots: tuple[str, ...]
    names: frozenset[str] = frozenset()
    dates: tuple[DateRange, ...] = ()
    asks_when: bool = False

    def about(self, speakers: Iterable[str]) -> Query:
        """Return the query with those of some speakers that it names apart from its words, unless it has no others."""
        lower = self.text.lower()
        called = {name for speaker in speakers for name in _called(speaker) if name.lower() in lower}
        rest, names = self.text, set()
        for name in sorted(called, key=lambda name: (-len(name), name)):
            pattern = _pattern(name, ignore_case=self.text == lower)
            if pattern.search(self.text):
                names.add(name)
                rest = pattern.sub(" ", rest)
        if not names or not (roots := _roots(rest)):
            return msgspec.structs.replace(self, names=frozenset(names))
        return msgspec.structs.replace(self, names=frozenset(names), embedded=" ".join(rest.split()), roots=roots)


def read_query(text: str, *, now: datetime | date) -> Query:
    """Read a query; relative dates in it are seen from `now`."""
    read = text[:_MOST_READ]
    return Query(
        text=read,
        embedded=text,
        roots=_roots(read) or _roots(read, stop=frozenset()),
        dates=tuple(find_dates(read, now)),
        asks_when=bool(_ASKS_WHEN.search(read)),
    )


def root(word: str) -> str:
    """Cut the ending off an English word in lower case, so that its other forms begin with what is left."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _SHORTEST_ROOT:
            cut = word.removesuffix(ending)
            is_doubled = ending in _DOUBLING and cut[-1] == cut[-2] and len(cut) > _SHORTEST_ROOT
            return cut[:-1] if is_doubled and cut[-1] in "bdgmnprt" else cut
    return word


def has_word(text: str, root: str) -> bool:
    """Tell whether a text in lower case has a word with this root."""
    at = text.find(root)
    while at >= 0:
        if not root.isascii() and _UNSPACED.match(root):
            return True
        end = at + len(root)
        if not (at and _is_in_word(text[at - 1])) and (not text[end : end + 1].isalnum() or _is_form(text, end, root)):
            return True
        at = text.find(root, at + 1)
    return False


def is_during(named: DateRange, start: date, end: date) -> bool:
    """Tell whether some days touch those that a query names; a month without a year is that of any year."""
    first, last = named.start.toordinal(), named.end.toordinal()
    if not _is_of_any_year(named.text):
        return first <= end.toordinal() and start.toordinal() <= last
    years = {max(start.year - 1, 1), start.year, end.year}
    moved = [(begin := _in_year(named.start, year), begin + last - first) for year in years]
    return any(begin <= end.toordinal() and start.toordinal() <= finish for begin, finish in moved)


@lru_cache(maxsize=1000)
def _is_of_any_year(text: str) -> bool:
    """Whether some words name days of a month, and no year."""
    return bool(_MONTH.search(text)) and not _IN_A_YEAR.search(text)


def _in_year(day: date, year: int) -> int:
    """The same day of another year as an ordinal; a 29 February is a day earlier where there is none."""
    is_leap_day = (day.month, day.day) == (2, 29)
    return day.replace(year=year, day=28 if is_leap_day else day.day).toordinal()


def _is_form(text: str, begin: int, root: str) -> bool:
    """Tell whether what stands behind a root makes it a form of the same word."""
    rest = text[begin : cast("re.Match[str]", _REST.match(text, begin)).end()]
    if rest in _RESTS or (len(root) >= _LONG_ROOT and len(rest) <= _MOST_REST):
        return True
    return (rest[:1] == root[-1] and rest[1:] in _DOUBLING) or (rest == "d" and root[-1] == "e")


def _is_in_word(char: str) -> bool:
    return char.isalnum() and (char.isascii() or not _UNSPACED.match(char))


def _roots(text: str, stop: frozenset[str] = _STOP) -> tuple[str, ...]:
    words = (part for word in _WORD.findall(text.lower()) if word not in stop for part in _parts(word))
    return tuple(dict.fromkeys(map(root, words)))[:_MOST_ROOTS]


def _parts(word: str) -> list[str]:
    """A word, or the pairs of characters of one that is several, for no spaces are written between them."""
    if word.isascii() or len(word) == 1 or not _UNSPACED.search(word):
        return [word]
    return [word[i : i + 2] for i in range(len(word) - 1)]


def _called(speaker: str) -> list[str]:
    """What a speaker may be called: the name as a whole, or its first word."""
    whole = " ".join(speaker.split())
    first = whole.partition(" ")[0]
    return [name for name in dict.fromkeys((whole, first)) if len(name) > 1]


def _pattern(name: str, *, ignore_case: bool) -> re.Pattern[str]:
    """Find a name; in a query with capitals it has one, for Will and Mark are also words."""
    return re.compile(rf"(?<!\w){re.escape(name)}(?:['\u2019]s)?(?!\w)", re.IGNORECASE if ignore_case else 0)
