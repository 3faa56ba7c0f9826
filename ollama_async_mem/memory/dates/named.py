"""Rules for dates of the calendar: "23 January", "1/23/2023", "in March", "on Friday", "summer 2022". Pure."""

from __future__ import annotations

import re
from datetime import date

from ollama_async_mem.memory.dates import spans
from ollama_async_mem.memory.dates.said import (
    Match,
    Said,
    full_year,
    in_year,
    is_capital,
    is_future,
    is_past,
    rule,
    word_before,
)
from ollama_async_mem.memory.dates.spans import Span, nth
from ollama_async_mem.memory.dates.words import AMBIGUOUS, KINDS, MONTHS, ORDINALS, SEASONS, listed, plain

__all__ = ["RULES"]

_DECEMBER = 12
_ONLY_MONTHS = set(listed("january february july september october november december"))
_WITH_MONTH = set(listed("in by until till til during throughout around before after through"))
_USUAL = {*ORDINALS, *listed("a an the every each most some any no one other another that happy merry black good")}
_STEPS = {"last": -1, "this": 0, "the": 0, "next": 1}


def _iso(_said: Said, match: Match) -> Span:
    return spans.day(date(int(match["y"]), int(match["m"]), int(match["d"])), 0)


def _numeric(said: Said, match: Match) -> Span | None:
    """Read 1/23/2023 with the month first, as in the US, unless it cannot be one; 23.1.2023 has the day first."""
    the_month, the_day, the_year = int(match["a"]), int(match["b"]), int(match["y"])
    if len(match["y"]) == len("23"):
        if match["mark"] != "/":
            return None
        the_year = full_year(said, the_year)
    if match["mark"] == "." or the_month > _DECEMBER:
        the_month, the_day = the_day, the_month
    return spans.day(date(the_year, the_month, the_day), 0)


def _day_and_month(said: Said, match: Match) -> Span | None:
    """Read "23 January", "June 5-7, 2023"; "may 5 come" is no date."""
    name, words = match["month"], match["dd"]
    is_bare = (words.isdigit() or words.isalpha()) and not match["year"]
    if is_bare and name in AMBIGUOUS and not is_capital(said, match.start("month")):
        return None
    first = ORDINALS[words] if words.isalpha() else int(words.rstrip("stndrh"))
    span = in_year(said, match, spans.day_of_year(MONTHS[name], first))
    last = int(match["to"] or first)
    return Span(span.start, span.start.replace(day=last), "span") if last > first else span


def _named(said: Said, match: Match) -> Span | None:
    """Read a month, summer or holiday by its name, where words beside it show that it means a certain one."""
    name = plain(match["name"])
    if name in MONTHS:
        is_one = _is_month(said, match, name)
    elif match["prep"] and not match["year"]:
        needs_the = name == "weekend" or (name in SEASONS and match["prep"] in {"at", "by"})
        is_one = (is_past(said, match) or is_future(said, match)) and (bool(match["the"]) or not needs_the)
    else:
        is_one = bool(match["year"])
    return in_year(said, match, KINDS[name]) if is_one else None


def _is_month(said: Said, match: Match, name: str) -> bool:
    """Tell months from verbs and people: "I may", "with April"."""
    if match["year"] or name in _ONLY_MONTHS or match["prep"] == "in":
        return True
    return match["prep"] in _WITH_MONTH and (name not in AMBIGUOUS or is_capital(said, match.start("name")))


def _weekday(said: Said, match: Match) -> Span | None:
    """Read "on Friday", "Friday last week"; not "every Friday", "Friday Night Lights", or "sat"."""
    name = match["name"]
    if match["prep"]:
        is_one = name not in AMBIGUOUS or is_capital(said, match.start("name"))
    else:
        is_title = re.match(r" [A-Z][a-z]", said.text[match.end() : match.end() + 3])
        is_one = name.endswith("day") and not is_title and word_before(said, match.start()) not in _USUAL
    if not is_one:
        return None
    if match["week"]:
        return KINDS[name](spans.week(said.day, _STEPS[match["week"]]).start, 0)
    return nth(KINDS[name], said.day, 1 if match["prep"] == "for" or is_future(said, match) else -1)


def _year(_said: Said, match: Match) -> Span:
    return spans.year(date(int(match["y"]), 1, 1), 0)


def _decade(said: Said, match: Match) -> Span | None:
    """Read "the 1990s", "the 1800s", "the 90s": two digits mean the last decade of that name that has begun."""
    words = match["y"].removeprefix("'")
    if len(words) == len("1990"):
        first = date(int(words), 1, 1)
        return Span(first, date(first.year + 99, 12, 31), "span") if words[2:] == "00" else spans.decade(first, 0)
    if not match["the"]:
        return None
    the_year = said.day.year - said.day.year % 100 + int(words)
    return spans.decade(date(the_year if the_year <= said.day.year else the_year - 100, 1, 1), 0)


def _day_of_month(said: Said, match: Match) -> Span | None:
    """Read "on the 5th": of the month that is named, else of the nearest one in the past or to come."""
    the_day = int(match["dd"])
    if match["way"]:
        whole = spans.month(said.day, _STEPS[match["way"]])
        return spans.day(whole.start.replace(day=the_day), 0)
    is_in_a_clause = re.match(r"\s?\w", said.lower[match.end() : match.end() + 2])
    if is_in_a_clause and not match["prep"] and not match["weekday"]:
        return None
    return _nearest(the_day, said.day, future=is_future(said, match))


def _nearest(the_day: int, of: date, *, future: bool) -> Span | None:
    for step in (0, 1, 2) if future else (0, -1, -2):
        whole = spans.month(of, step)
        if the_day <= whole.end.day:
            found = whole.start.replace(day=the_day)
            if found >= of if future else found <= of:
                return spans.day(found, 0)
    return None


_ON = r"(?:on )?(?:<weekday>,? )?(?:the )?"
_TO = r"(?: ?(?:-|\u2013|to) ?(?P<to>\d{1,2})(?:st|nd|rd|th)?)?"
_YEAR = r"(?P<y>(?:1[5-9]|20)\d\d)"
_PREP = (
    r"(?:(?P<prep>in|on|by|until|till?|during|over|before|after|around|through|throughout|for|at|from|come) "
    r"(?P<the>the )?)?"
)
_NOT_USUAL = r"(?![\w-]| (?:morning|afternoon|evening|night)s\b)"
_NOT_COUNTED = r"(?!\d|[,.]\d|%| (?:people|words|steps|miles|meters|dollars|calories|points|times|years|followers)\b)"
_CLAUSE_ENDS = (
    r"(?=\W{0,2}$|[.,!?;:)]|\s?[-\u2013]\s"
    r"| (?:and|after|at|for|with|to|in|i|we|he|she|they|you|it|my|was|is|because|but|so|when)\b)"
)

RULES = (
    rule(r"(?P<y>\d{4})(?P<mark>[-/])(?P<m>\d{1,2})(?P=mark)(?P<d>\d{1,2})(?![\d-])", _iso),
    rule(r"(?P<a>\d{1,2})(?P<mark>[/.-])(?P<b>\d{1,2})(?P=mark)(?P<y>\d{4}|\d\d)(?![\d/-])", _numeric),
    rule(_ON + r"(?P<month><month>)\.? (?:the )?<dd>\b" + _TO + r"(?![:%]|\d| ?[ap]m\b)<year>?", _day_and_month),
    rule(_ON + r"<dd>" + _TO + r"(?: of)?[ -](?P<month><month>)\b(?:\.?<year>)?", _day_and_month),
    rule(_PREP + r"(?P<name><yearly>|weekend)\b<daypart><year>?" + _NOT_USUAL, _named),
    rule(
        rf"(?:in|by|until|till?|during|before|after|around|from|throughout|year) (?:the year )?{_YEAR}\b{_NOT_COUNTED}",
        _year,
    ),
    rule(r"(?P<the>the )?(?P<y>(?:1[5-9]|20)\d0|'?\d0)'?s\b", _decade),
    rule(
        r"(?:(?P<prep>on|by|until|till?|before|after|around|from) )?(?:(?P<weekday><weekday>),? )?"
        r"the (?P<dd>\d{1,2})(?:st|nd|rd|th)"
        r"(?: of (?P<way>this|the|last|next) month)?" + _CLAUSE_ENDS,
        _day_of_month,
    ),
    rule(_PREP + r"(?P<name><weekday>)\b<daypart>(?:,? (?P<week>last|this|next) week)?" + _NOT_USUAL, _weekday),
)
