"""Which words at a place in a text name which days: the rules that lean on other dates, and those that do not. Pure."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, NamedTuple

from ollama_async_mem.memory.dates import counted, named, spans
from ollama_async_mem.memory.dates.said import Match, Said, by_tense
from ollama_async_mem.memory.dates.spans import Span, around, nth
from ollama_async_mem.memory.dates.words import KINDS, ORDINALS, amount, compiled, plain

if TYPE_CHECKING:
    import re
    from collections.abc import Callable

__all__ = ["Found", "read_at"]

_DEEPEST = 2
"""How many dates a date may lean on, as in "since the end of last week"."""
_THIRDS = {"mid": 1, "middle": 1, "late": 2, "end": 2}


class Found(NamedTuple):
    """What was read, and where in the text it ends."""

    span: Span
    end: int


def read_at(said: Said, start: int, depth: int = 0) -> Found | None:
    """Read the date that begins at a position, None where there is none. The first rule that fits wins."""
    if depth > _DEEPEST:
        return None
    return _leaning_at(said, start, depth) or _plain_at(said, start)


def _leaning_at(said: Said, start: int, depth: int) -> Found | None:
    for pattern, lean in _LEANING:
        if not (match := pattern.match(said.lower, start)):
            continue
        try:
            anchor = _anchor(said, match.end(), depth + 1)
            span = anchor and lean(said, match, anchor.span)
        except (ValueError, OverflowError):
            continue
        if anchor and span:
            return Found(span, anchor.end)
    return None


def _plain_at(said: Said, start: int) -> Found | None:
    for pattern, read in _PLAIN:
        if not (match := pattern.match(said.lower, start)):
            continue
        try:
            span = read(said, match)
        except (ValueError, OverflowError):  # 31 April, or a year outside of the calendar
            continue
        if span:
            return Found(span, match.end())
    return None


_BARE = compiled(r"(?:the )?(?:(?P<own>week|month|year)|(?P<name><name>)|(?P<y>(?:1[5-9]|20)\d\d)|now)\b")


def _anchor(said: Said, start: int, depth: int) -> Found | None:
    """Read a date that a rule leans on; here a lone "June", "2022" or "the month" is one too."""
    if found := read_at(said, start, depth):
        return found
    if not (match := _BARE.match(said.lower, start)):
        return None
    if match["y"]:
        span = spans.year(date(int(match["y"]), 1, 1), 0)
    elif match["name"]:
        span = by_tense(said, match, KINDS[plain(match["name"])])
    else:
        span = KINDS[match["own"] or "day"](said.day, 0)
    return Found(span, match.end())


def _since(said: Said, _match: Match, anchor: Span) -> Span | None:
    return Span(anchor.start, said.day, "span") if anchor.start <= said.day else None


def _part(_said: Said, match: Match, anchor: Span) -> Span:
    """Read "early June", "the end of the year"; "later this week" is not measured."""
    word = match["part"]
    if word in {"earlier", "later"} or anchor.precision in {"day", "weekend", "span"}:
        return anchor
    return spans.third(anchor, _THIRDS.get(word, 0))


def _ordinal(_said: Said, match: Match, anchor: Span) -> Span | None:
    if anchor.precision not in {"week", "month", "season", "year"}:
        return None
    return spans.within(KINDS[match["kind"]], anchor, ORDINALS[match["which"]])


def _beside(_said: Said, match: Match, anchor: Span) -> Span:
    """Read "the Friday before 15 July", "the weekend of the 3rd"."""
    kind = KINDS[plain(match["kind"])]
    if match["how"] == "of":
        return kind(anchor.middle, 0)
    return nth(kind, anchor.end, 1) if match["how"] in {"after", "following"} else nth(kind, anchor.start, -1)


def _away(_said: Said, match: Match, anchor: Span) -> Span:
    """Read "two weeks before Christmas"; "a week from Friday" is that very day."""
    kind, least, most = amount(match.groupdict())
    is_near = match.string.startswith("now", match.end())
    if match["how"] == "from" and anchor.precision == "day" and least == most and not is_near:
        return spans.day(spans.moved(anchor.end, kind, least), 0)
    if match["how"] in {"from", "after"}:
        return around(kind, anchor.end, least, most)
    return around(kind, anchor.start, -least, -most)


_PLAIN = (*counted.RULES, *named.RULES)
_LEANING: tuple[tuple[re.Pattern[str], Callable[[Said, Match, Span], Span | None]], ...] = (
    (compiled(r"since "), _since),
    (compiled(r"(?:the )?(?P<part>early|mid|late|earlier|later)(?:(?: in)? |-)"), _part),
    (compiled(r"(?:the )?(?P<part>beginning|start|middle|end) of "), _part),
    (compiled(r"(?:the )?(?P<which><ordinal>) (?P<kind>day|week|weekend|<weekday>|month) (?:of|in) "), _ordinal),
    (compiled(r"(?:the )?(?P<kind><kind>) (?P<how>of|before|after|following|preceding|prior to) "), _beside),
    (compiled(r"<amount> (?P<how>before|after|from|prior to) "), _away),
)
