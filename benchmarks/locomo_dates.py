"""How often the dates read in a message are those of the right answer, on LoCoMo's temporal questions. Pure.

LoCoMo's data is not part of this project: give its conversations, as its JSON file holds them, to `score`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from ollama_async_mem.memory.dates import find_dates
from ollama_async_mem.memory.dates.words import MONTHS
from ollama_async_mem.records import DateRange

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_TEMPORAL = 2
_CALENDAR = {"day", "weekend", "week", "month", "year"}
_LEADING = re.compile(r"(?:(?:the|in|on|around|about|approximately|since|during)\s+)*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Case:
    """A question whose answer is a date, and the words that hold it."""

    conversation: str
    question: str
    answer: DateRange
    said_on: date
    evidence: tuple[str, ...]
    read: DateRange | None
    """The first date in the evidence."""

    @property
    def taken(self) -> DateRange:
        """What is taken for the answer: the date that was read, else the day of the session."""
        return self.read or self.session

    @property
    def session(self) -> DateRange:
        """The day of the session."""
        return DateRange(self.said_on, self.said_on, "day", "", (0, 0))


def score(conversations: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Compute the share of questions that are answered by the first date read in the evidence.

    `temporal_strict`: same days and same precision. `temporal_exact`: the days lie in those of the answer, which may
    be told in less detail ("June 2023" for "last Friday"), but never the other way round. `session_...`: the same
    figures for the session's day alone.
    """
    found = [case for conversation in conversations for case in cases(conversation)]
    total = max(len(found), 1)
    return {
        "questions": len(found),
        "temporal_exact": sum(holds(case.answer, case.taken) for case in found) / total,
        "temporal_strict": sum(same(case.answer, case.taken) for case in found) / total,
        "session_exact": sum(holds(case.answer, case.session) for case in found) / total,
        "session_strict": sum(same(case.answer, case.session) for case in found) / total,
    }


def cases(conversation: Mapping[str, Any]) -> Iterator[Case]:
    """Go through the temporal questions of a conversation whose answers are a day, weekend, week, month or year."""
    turns = dict(_turns(conversation["conversation"]))
    for asked in conversation["qa"]:
        evidence = [turns[i] for i in _turn_ids(asked.get("evidence", ())) if i in turns]
        if asked.get("category") != _TEMPORAL or not evidence:
            continue
        said_on = evidence[0][0]
        answer = read_answer(str(asked.get("answer", "")), said_on)
        if answer is None:
            continue
        read = (found for day, text in evidence for found in find_dates(text, day))
        texts = tuple(text for _, text in evidence)
        name = str(conversation.get("sample_id", ""))
        yield Case(name, asked["question"], answer, said_on, texts, next(read, None))


def read_answer(answer: str, said_on: date) -> DateRange | None:
    """Read an answer that is one date and nothing else, such as "The week before 9June, 2023"; else None."""
    words = _LEADING.sub("", _spelled(answer), count=1)
    text = f"in {words}" if words.isdigit() else words  # a lone "2022" is a date in an answer, not in a sentence
    found = find_dates(text, said_on)
    is_whole = len(found) == 1 and found[0].text == text and found[0].precision in _CALENDAR
    return found[0] if is_whole else None


def same(answer: DateRange, found: DateRange) -> bool:
    """Tell whether two dates are the same days, told with the same precision."""
    return (answer.start, answer.end, answer.precision) == (found.start, found.end, found.precision)


def holds(answer: DateRange, found: DateRange) -> bool:
    """Tell whether an answer holds all days that were found."""
    return answer.start <= found.start and found.end <= answer.end


def _spelled(answer: str) -> str:
    """Put right what the annotators' spelling hides: "21Janury, 2022.", "April.2023"."""
    spaced = re.sub(r"(\d)(?!(?:st|nd|rd|th)\b)(?=[A-Za-z])|\.(?=\d)", r"\1 ", answer)
    return re.sub(r"[A-Za-z]{4,}", _month_like, spaced).strip(" .,!")


def _month_like(word: re.Match[str]) -> str:
    close = get_close_matches(word[0].lower(), MONTHS, n=1, cutoff=0.85)
    return close[0].capitalize() if close else word[0]


def _turns(sessions: Mapping[str, Any]) -> Iterator[tuple[str, tuple[date, str]]]:
    for name, turns in sessions.items():
        when = sessions.get(f"{name}_date_time")
        if when is None or not isinstance(turns, list):
            continue
        day = find_dates(when, date.min)[0].start
        yield from ((turn["dia_id"], (day, turn["text"])) for turn in turns)


def _turn_ids(evidence: Iterable[str]) -> Iterator[str]:
    """Go through the turns that are named, some of them several to a string and with zeros in front."""
    for name in evidence:
        yield from (f"D{int(s)}:{int(t)}" for s, t in re.findall(r"D(\d+):(\d+)", name))
