"""Whether the words around a place in a text speak of what was or of what will be. English, by cues. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, TypeAlias

from ollama_async_mem.memory.dates.words import listed

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Tense", "tense_at"]

Tense: TypeAlias = Literal["past", "future"]

_REACH = 120
"""How many characters to each side are read, which bounds the work."""

_PAST = listed(
    "was were wasn't weren't did didn't had got came took made met saw won lost left felt found ran said told "
    "gave began bought brought caught drove ate flew fell held heard kept knew led spent spoke thought wrote "
    "taught sang sat sent slept stood swam wore went been ago became broke built chose drew drank dealt "
    "fought forgot grew hid hurt paid rode rose sold shot stole threw woke understood gone done seen taken "
    "given last happened since"
)
_FUTURE = listed(
    "will won't gonna going i'll i'd we'll you'll he'll she'll it'll they'll shall should might could can "
    "can't would must am are is i'm we're you're they're it's that's there's here's he's she's what's isn't "
    "aren't plan plans planning hope hoping want wanna wants need needs let's looking upcoming scheduled "
    "supposed tomorrow soon ready excited planned invited starts opens begins leave leaves leaving heading "
    "flying free due next coming attend join fly flies arrive arrives depart departs remind"
)
_PHRASES = ["see you", "have to", "visit us", "visit me", "i've got", "we've got", "have got", "has got"]
_WEAK = set(
    listed(
        "have has appointment appointments meeting meetings exam exams interview interviews flight flights party "
        "concert wedding deadline reminder ticket tickets"
    )
)
"""What mostly lies ahead: a future where the sentence has no other cue."""
_DONE = r"did(?:n't| not)?(?: (?:i|you|we|they|he|she|it))? [a-z]+|had to [a-z]+"
"""A past that takes in its verb, which alone may tell a future."""
_CUES: dict[str, Tense] = {**dict.fromkeys(_PAST, "past"), **dict.fromkeys(_FUTURE + _PHRASES, "future")}
_NO_PAST = set(listed("interested tired scared worried thrilled wed bed red shed sacred hundred naked married"))
_SHORTEST_PAST = len("used")
_WORD = re.compile("|".join([_DONE, *_PHRASES, "[a-z']+"]))
_STOP = re.compile(r"[.!?;\n]")


def tense_at(text: str, start: int, end: int) -> Tense | None:
    """Tell the tense around `text[start:end]`, text in lower case: the cue that is nearest in its sentence decides."""
    before = _WORD.findall(_STOP.split(text[max(0, start - _REACH) : start])[-1])
    after = _WORD.findall(_STOP.split(text[end : end + _REACH], maxsplit=1)[0])
    steps_back, behind = _nearest(reversed(before))
    steps_on, ahead = _nearest(after)
    nearest = behind if steps_back <= steps_on else ahead
    return nearest or (None if _WEAK.isdisjoint((*before, *after)) else "future")


def _nearest(words: Iterable[str]) -> tuple[int, Tense | None]:
    """Return the first cue, and how many words come before it."""
    for steps, word in enumerate(words):
        if cue := _CUES.get(word) or _past(word):
            return steps, cue
    return _REACH, None


def _past(word: str) -> Tense | None:
    """The past of a verb by its ending, or one with its verb."""
    if word.startswith(("did ", "didn't ", "had to ")):
        return "past"
    is_past = word.endswith("ed") and len(word) >= _SHORTEST_PAST and word[-3] != "e" and word not in _NO_PAST
    return "past" if is_past else None
