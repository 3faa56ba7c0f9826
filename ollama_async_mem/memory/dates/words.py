"""The English words for dates, and the patterns made of them. Knows no calendar beyond the names in it. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ollama_async_mem.memory.dates import spans

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ollama_async_mem.memory.dates.spans import Kind

__all__ = [
    "AMBIGUOUS",
    "FEW",
    "KINDS",
    "LEADING",
    "MONTHS",
    "NAMING",
    "ORDINALS",
    "SEASONS",
    "UNITS",
    "WEEKDAYS",
    "amount",
    "compiled",
    "listed",
    "number",
    "plain",
]


def plain(words: str) -> str:
    """Write words as the tables have them: no apostrophes and dots, single spaces."""
    return " ".join(words.replace("'", "").replace(".", "").split())


def listed(words: str) -> list[str]:
    """List words that are written with spaces between them."""
    return words.split()


FEW = (2, 5)
"""How many "a few" is, at least and at most."""
_SEVERAL = (3, 7)

MONTHS = {
    name: number
    for number, names in enumerate(
        (
            ("january", "jan"),
            ("february", "feb"),
            ("march", "mar"),
            ("april", "apr"),
            ("may",),
            ("june", "jun"),
            ("july", "jul"),
            ("august", "aug"),
            ("september", "sept", "sep"),
            ("october", "oct"),
            ("november", "nov"),
            ("december", "dec"),
        ),
        1,
    )
    for name in names
}
WEEKDAYS = {
    name: number
    for number, names in enumerate(
        (
            ("monday", "mon"),
            ("tuesday", "tues", "tue"),
            ("wednesday", "weds", "wed"),
            ("thursday", "thurs", "thur", "thu"),
            ("friday", "fri"),
            ("saturday", "sat"),
            ("sunday", "sun"),
        )
    )
    for name in names
}
AMBIGUOUS = {"may", "march", "mar", "sat", "sun", "wed", "mon"}
"""Names that need a capital letter, or more words around them, to be no verb or other word."""
SEASONS = {"spring": 3, "summer": 6, "autumn": 9, "fall": 9, "winter": 12}
_HOLIDAYS: dict[str, Kind] = {
    "christmas eve": spans.day_of_year(12, 24),
    "christmas": spans.day_of_year(12, 25),
    "boxing day": spans.day_of_year(12, 26),
    "new years eve": spans.day_of_year(12, 31),
    "new years": spans.day_of_year(1, 1),
    "martin luther king day": spans.weekday_of_month(1, 0, 3),
    "valentines": spans.day_of_year(2, 14),
    "presidents day": spans.weekday_of_month(2, 0, 3),
    "st patricks day": spans.day_of_year(3, 17),
    "april fools": spans.day_of_year(4, 1),
    "good friday": spans.easter(-2),
    "easter monday": spans.easter(1),
    "easter": spans.easter(),
    "earth day": spans.day_of_year(4, 22),
    "cinco de mayo": spans.day_of_year(5, 5),
    "mothers day": spans.weekday_of_month(5, 6, 2),
    "memorial day": spans.weekday_of_month(5, 0, -1),
    "juneteenth": spans.day_of_year(6, 19),
    "fathers day": spans.weekday_of_month(6, 6, 3),
    "independence day": spans.day_of_year(7, 4),
    "labor day": spans.weekday_of_month(9, 0, 1),
    "halloween": spans.day_of_year(10, 31),
    "veterans day": spans.day_of_year(11, 11),
    "thanksgiving": spans.weekday_of_month(11, 3, 4),
    "black friday": spans.weekday_of_month(11, 3, 4, later=1),
}
_HOLIDAYS |= {f"{name} day": _HOLIDAYS[name] for name in ("christmas", "new years", "valentines", "thanksgiving")}
_HOLIDAYS |= {"xmas": _HOLIDAYS["christmas"], "easter sunday": _HOLIDAYS["easter"]}
_HOLIDAYS |= {"april fools day": _HOLIDAYS["april fools"], "saint patricks day": _HOLIDAYS["st patricks day"]}

# Units, each with how many of its kind it is. "Two decades ago" counts years, "last decade" is the calendar's.
UNITS: dict[str, tuple[Kind, int]] = {
    "day": (spans.day, 1),
    "night": (spans.day, 1),
    "morning": (spans.day, 1),
    "afternoon": (spans.day, 1),
    "evening": (spans.day, 1),
    "week": (spans.week, 1),
    "wk": (spans.week, 1),
    "weekend": (spans.weekend, 1),
    "fortnight": (spans.week, 2),
    "month": (spans.month, 1),
    "year": (spans.year, 1),
    "yr": (spans.year, 1),
    "decade": (spans.year, 10),
}
_HALVES: dict[str, tuple[Kind, int]] = {
    "week": (spans.day, 7),
    "month": (spans.week, 4),
    "year": (spans.month, 12),
    "decade": (spans.year, 10),
}
KINDS: dict[str, Kind] = {
    **{name: spans.weekday(n) for name, n in WEEKDAYS.items()},
    **{name: spans.month_named(n) for name, n in MONTHS.items()},
    **{name: spans.season(n) for name, n in SEASONS.items()},
    **_HOLIDAYS,
    **{name: kind for name, (kind, _) in UNITS.items()},
    "decade": spans.decade,
}
"""Each word for a sort of stretch; look it up as `plain` writes it."""

_DIGITS = listed("one two three four five six seven eight nine")
_TEENS = listed("ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen")
_TENS = listed("twenty thirty forty fifty sixty seventy eighty ninety")
_NUMBERS = {"a": 1, "an": 1, **{word: n for n, word in enumerate(_DIGITS + _TEENS, 1)}}
_NUMBERS |= {word: 10 * n for n, word in enumerate(_TENS, 2)}
_ORDINAL_WORDS = listed("first second third fourth fifth sixth seventh eighth ninth tenth")
ORDINALS = {"last": -1, **{word: n for n, word in enumerate(_ORDINAL_WORDS, 1)}}
ORDINALS |= {"1st": 1, "2nd": 2, "3rd": 3, "4th": 4, "5th": 5}


def number(words: str) -> tuple[int, int]:
    """Read a number as the least and the most that it may mean: "two" is (2, 2), "a few" (2, 5)."""
    last = words.replace("-", " ").split()
    if "few" in last or "several" in last:
        return FEW if "few" in last else _SEVERAL
    if "couple" in last:
        return 2, 2
    if last[0] == "half":
        return 0, 0
    value = sum(_NUMBERS[word] if word in _NUMBERS else int(word) for word in last)
    return value, value


def amount(groups: dict[str, str | None]) -> tuple[Kind, int, int]:
    """Read what `<amount>` matched: the kind, and the least and the most of them.

    A half makes the next smaller kind of it: "a year and a half" is 18 months.
    """
    unit = plain(groups["unit"] or "")
    least, most = number(groups["n"] or "a")
    if upper := groups["to"] or groups["or"]:
        most = max(least, number(upper)[1])
    halved = groups["half"] or (groups["n"] or "").startswith("half")
    if halved and unit in _HALVES:
        kind, per = _HALVES[unit]
        return kind, least * per + per // 2, most * per + per // 2
    kind, per = UNITS.get(unit) or (KINDS[unit], 1)
    return kind, least * per, most * per


def _any(words: Iterable[str]) -> str:
    """Match one of some words, the longest first; an apostrophe may stand before a last s."""
    longest_first = sorted(words, key=len, reverse=True)
    return "(?:" + "|".join(re.sub(r"s\b", "'?s", word) for word in longest_first) + ")"


_NUMBER = rf"(?:\d{{1,4}}|(?:an? )?couple(?: of)?|(?:a )?few|several|half an?|{_any(_NUMBERS)}(?:[ -]{_any(_DIGITS)})?)"
_FRAGMENTS = {
    "unit": _any(UNITS),
    "weekday": _any(WEEKDAYS),
    "month": _any(MONTHS),
    "yearly": _any({**MONTHS, **SEASONS, **_HOLIDAYS}),
    "name": _any({**WEEKDAYS, **MONTHS, **SEASONS, **_HOLIDAYS}),
    "kind": _any(KINDS),
    "number": _NUMBER,
    "ordinal": _any(ORDINALS),
    "daypart": r"(?:(?: in the)? (?:morning|afternoon|evening|night)\b)?",
    "year": r"(?:(?:, ?| |-(?=\d{4}))(?:of )?(?P<year>(?:1[5-9]|20)\d\d\b|'\d\d\b|(?:last|this|next) year\b))",
    "dd": rf"(?P<dd>\d{{1,2}}(?:st|nd|rd|th)?|{_any(_ORDINAL_WORDS)})",
    "amount": rf"(?P<n>{_NUMBER})(?:(?: or | to |-)(?P<to>{_NUMBER}))?[ -](?P<unit>{_any(KINDS)})(?:e?s)?"
    r"(?P<half> and a half)?(?: or (?:so|more|(?P<or>two)))?",
}


def compiled(pattern: str) -> re.Pattern[str]:
    """Compile a pattern in which a space is up to three of any white space and `<name>` a fragment of above.

    Every repetition in it is bounded, which keeps reading linear in the length of the text.
    """
    whole = re.sub(r"(?<!P)<(\w+)>", lambda name: _FRAGMENTS[name[1]], pattern)
    return re.compile(whole.replace("[ -]", r"(?:\s{1,3}|-)").replace(" ", r"(?:\s{1,3})"))


_DAYS = listed("today tonight yesterday tomorrow")
_FIRST = [words.split()[0] for words in (*KINDS, *_DAYS)]
NAMING = {form for word in _FIRST for form in (word, word + "s", word + "es", word.removesuffix("s"))}
"""The words of which at least one is in every date that has no digits."""
LEADING = {*ORDINALS, *_NUMBERS} | set(
    listed(
        "the in on by since until till til during over before after around through throughout for at from come "
        "year half couple few several early mid late earlier later beginning start middle end past next coming "
        "upcoming this that these of to or about just only another other"
    )
)
"""All the words that may stand before the first of `NAMING` in a date."""
