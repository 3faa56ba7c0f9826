"""Rules that count from the day: "yesterday", "two weeks ago", "last Friday", "the past month". Pure."""

from __future__ import annotations

from ollama_async_mem.memory.dates import spans
from ollama_async_mem.memory.dates.said import Match, Said, is_capital, is_past, rule, word_before
from ollama_async_mem.memory.dates.spans import Span, around, near, nth
from ollama_async_mem.memory.dates.words import AMBIGUOUS, FEW, KINDS, UNITS, amount, listed, number, plain

__all__ = ["RULES"]

_LONG = {"week", "month", "year", "decade"}
_OFTEN = {"once", "twice", "times"}
_VERBS = {"march", "may"}
_RUNNING = {"in", "over", "during", "within", "for", "through", "throughout"}
_PHRASES = {
    **dict.fromkeys(listed("today tonight this"), (0, 0)),
    **dict.fromkeys(listed("yesterday last"), (-1, -1)),
    "tomorrow": (1, 1),
    "the": (-7, -1),  # the other day
}


def _phrase(said: Said, match: Match) -> Span:
    return around(spans.day, said.day, *_PHRASES[match[0].split()[0]])


def _further(said: Said, match: Match) -> Span:
    """Read "the weekend before last"."""
    return nth(KINDS[plain(match["kind"])], said.day, -2 if match["how"] == "before last" else 2)


def _ago(said: Said, match: Match) -> Span:
    """Read "two weeks ago"; "three years now" is told as when it began."""
    kind, least, most = amount(match.groupdict())
    if match["exact"]:
        return spans.day(spans.moved(said.day, kind, -least), 0)
    return around(kind, said.day, -least, -most)


def _ahead(said: Said, match: Match) -> Span | None:
    """Read "in two weeks"; after a past tense that is how long it took."""
    if match["unit"] not in UNITS or match[0].endswith((" a day", " one day")):
        return None
    if is_past(said, match) or word_before(said, match.start()) in _OFTEN:
        return None
    kind, least, most = amount(match.groupdict())
    return around(kind, said.day, least, most)


def _running(said: Said, match: Match) -> Span | None:
    """Read "the past two weeks", which run up to the day, unlike the calendar's "last week"."""
    ahead = match["way"] in {"next", "coming"}
    if not match["n"]:
        if match["the"] not in {"the", "these"} or not (match["many"] or match["unit"] in _LONG):
            return None
        if ahead and word_before(said, match.start()) not in _RUNNING:
            return None
    most = number(match["n"])[1] if match["n"] else FEW[1] if match["many"] else 1
    kind, per = UNITS[match["unit"]]
    count = most * per if ahead else -most * per
    if kind is spans.weekend:
        return around(kind, said.day, count, 1 if ahead else -1)
    other = spans.moved(said.day, kind, count)
    return Span(min(said.day, other), max(said.day, other), "span")


def _directed(said: Said, match: Match) -> Span | None:
    """Read "last Friday", the latest before the day; "next Friday", the first after it; "this Friday"."""
    way, what = match["way"], plain(match["what"])
    if what in _LONG and word_before(said, match.start()) == "the":
        return None  # in a tale, "the next week" is the one after what was told
    if what in AMBIGUOUS and not is_capital(said, match.start("what")) and (way == "this" or what not in _VERBS):
        return None
    if way == "this":
        span = near(KINDS[what], said.day, future=not is_past(said, match))
    else:
        span = nth(KINDS[what], said.day, -1 if way in {"last", "past"} else 1)
    return KINDS[match["weekday"]](span.start, 0) if match["weekday"] else span


RULES = (
    rule(
        r"(?:(?:today|tonight|yesterday|tomorrow)<daypart>|this (?:morning|afternoon|evening)"
        r"|last (?:night|evening)|the other (?:day|night|evening|morning))\b",
        _phrase,
    ),
    rule(r"(?:the )?(?P<kind><kind>) (?P<how>before last|after next)\b", _further),
    rule(r"<amount> (?:ago(?P<exact> today)?|now|already|back(?! (?:to|in|home|at|from)\b))\b", _ago),
    rule(r"in (?:about |around |just |only |another )?<amount>\b(?! (?:of|ago|before|after)\b)", _ahead),
    rule(
        r"(?:(?P<the>the|these|this) )?(?P<way>last|past|next|coming) "
        r"(?:(?P<n><number>) )?(?P<unit><unit>)(?P<many>s)?\b(?! of\b)",
        _running,
    ),
    rule(
        r"(?:(?:this|that) )?(?P<way>last|past|next|coming|upcoming|this) "
        r"(?P<what>weekend|week|month|year|decade|<name>)\b(?! of\b)"
        r"(?:(?<=week),? (?:on )?(?P<weekday><weekday>)\b)?<daypart>",
        _directed,
    ),
)
