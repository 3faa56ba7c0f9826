"""What a statement says about whom: its subject, attribute and value, read by rules. Pure.

English only, and only what often changes or must not be mixed up; a statement without a key is compared by its words.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from ollama_async_mem.memory.dates import find_dates
from ollama_async_mem.memory.wording import LIKES, content, is_negated, names, numbers, plain

if TYPE_CHECKING:
    from datetime import datetime

    from ollama_async_mem.records import DateRange

__all__ = ["Key", "bare", "key_of"]

_MOST_SUBJECT_WORDS = 6
_SPOKEN = re.compile(r"^(?P<who>[^:]{1,60}?)(?: said)?: (?:i|we)\b", re.IGNORECASE)
_LEAD = re.compile(r"^(?:(?:actually|now|currently|correction|as of|since|the)\b[\s,]*)+", re.IGNORECASE)
_ADVERBS = (
    r"(?:(?:now|currently|just|recently|still|also|already|actually|finally|has|have|had|is|are|was|am|does|do|did|not|"
    r"no longer|never|doesn't|don't|didn't|isn't|wasn't|used to)\s+)*"
)
_END = re.compile(
    r"\s+(?:with|because|since|after|before|for|who|which|where|while|until|again|these days|any ?more)\b.*|,.*"
)
_SPECIFIC = re.compile(r"\s+(?:as|at|in|on)\s.*")

# What a person or thing has one of at a time, by the words that say so.
_SINGLE = {
    "home": r"(?:lives?|living|resides?|residing|based) (?:in|at)|moved (?:from .+? )?to|relocated (?:from .+? )?to",
    "work": r"(?:works?|working) (?:at|for)|employed (?:at|by)|got a (?:new )?job at|"
    r"started (?:(?:a|her|his|their) (?:new )?job |working |work )?at",
    "job": r"(?:works?|working) as",
    "age": r"turned|aged",
    "name": r"called|named|goes by",
    "school": r"(?:studies|study|studying) at",
}
_OWNED = (
    "name|age|birthday|e-?mail(?: address)?|phone(?: number)?|number|address|employer|job|profession|occupation|role|"
    "boss|manager|husband|wife|partner|boyfriend|girlfriend|fianc[eé]e?|height|weight|nationality|native language|"
    "salary|time ?zone|username|password|passcode|deadline|home|hometown|favou?rite [\\w ]+?"
)
_SAME_ATTRIBUTE = {"employer": "work", "home": "home", "profession": "job", "occupation": "job"}
_STATES = r"single|married|divorced|engaged|widowed|separated|dating|in a relationship"
_MANY = (
    r"likes?|loves?|enjoys?|adores?|hates?|dislikes?|owns?|has|have|plays?|speaks?|bought|visited|reads?|watched|"
    r"went to|attended|met|wants?|plans?|knows?|uses?|drives?|eats?|drinks?|cooks?|can|collects?|"
    r"learns?|learning|prefers?"
)
_ENDED = (
    r"left|quit|resigned from|(?:fired|laid off) from|stopped working (?:at|for)|sold|lost|gave away|broke up with|"
    r"divorced|separated from"
)
_JOB_AT = re.compile(r"^(?:(?:her|his|their|my|the|a|an|old) )*(?:job|position|post)? ?(?:at |from )?", re.IGNORECASE)


def _verb(words: str) -> re.Pattern[str]:
    return re.compile(rf"^(?P<subject>.+?)\s+{_ADVERBS}(?:{words})\s+(?P<value>.+)$", re.IGNORECASE)


_SINGLE_VERBS = {attribute: _verb(words) for attribute, words in _SINGLE.items()}
_OLD = re.compile(rf"^(?P<subject>.+?)\s+{_ADVERBS}(?P<value>\d+) years? old$", re.IGNORECASE)
_STATE = re.compile(rf"^(?P<subject>.+?)\s+{_ADVERBS}(?:got )?(?P<value>(?:{_STATES})\b.*)$", re.IGNORECASE)
_POSSESSION = re.compile(
    rf"^(?P<subject>.+?)(?:'s|s'|\u2019s)\s+(?:new |current )?(?P<attribute>{_OWNED})\s+{_ADVERBS}(?:changed to )?"
    r"(?P<value>\S.*)$",
    re.IGNORECASE,
)
_DATED = re.compile(
    r"^(?P<subject>.+?)\s+(?:is|are|was|has been|takes place|starts|begins|leaves|ends|got)"
    r"(?:\s+(?:now|actually|scheduled|rescheduled|moved|postponed|due|planned|set|not))*\s*(?:on|for|to|at|by)?$",
    re.IGNORECASE,
)
_MANY_VERBS = re.compile(rf"^(?P<subject>.+?)\s+{_ADVERBS}(?P<verb>{_MANY})\s+(?P<value>.+)$", re.IGNORECASE)
_ENDED_VERBS = _verb(_ENDED)


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """About whom a statement says what.

    `attribute` is "ended" where it says that something of any attribute is over. With `is_single` another value takes
    the place of this one. `value` and `names` are stems, the names those that are written with a capital.
    """

    subject: str
    attribute: str
    value: frozenset[str]
    names: frozenset[str] = frozenset()
    is_single: bool = False
    is_denied: bool = False


def bare(text: str, at: datetime) -> tuple[str, list[DateRange]]:
    """A statement without the dates in it and the stop at its end, and these dates."""
    dates = find_dates(text, at)
    for found in reversed(dates):
        text = text[: found.position[0]].rstrip() + " " + text[found.position[1] :].lstrip(" ,")
    return " ".join(text.split()).strip(" .!,;"), dates


def key_of(text: str, dates: list[DateRange]) -> Key | None:
    """Read the key of a bare statement, None where no rule does."""
    text = _LEAD.sub("", _SPOKEN.sub(r"\g<who>", text)).replace("\u2019", "'")
    for read in (_possession, _ended, _single, _many):
        if key := read(text):
            return key
    return _dated(text, dates)


def _possession(text: str) -> Key | None:
    if not (match := _POSSESSION.match(text)):
        return None
    attribute = plain(match["attribute"]).replace("favorite", "favourite")
    return _key(match["subject"], _SAME_ATTRIBUTE.get(attribute, attribute), match["value"], text, is_single=True)


def _ended(text: str) -> Key | None:
    if not (match := _ENDED_VERBS.match(text)):
        return None
    return _key(match["subject"], "ended", _JOB_AT.sub("", match["value"]), text)


def _single(text: str) -> Key | None:
    for attribute, pattern in (*_SINGLE_VERBS.items(), ("age", _OLD), ("status", _STATE)):
        if match := pattern.match(text):
            return _key(match["subject"], attribute, match["value"], text, is_single=True)
    return None


def _many(text: str) -> Key | None:
    if not (match := _MANY_VERBS.match(text)):
        return None
    attribute = next(iter(content(match["verb"])), "have")
    return _key(match["subject"], "like" if attribute in LIKES else attribute, match["value"], text)


def _dated(text: str, dates: list[DateRange]) -> Key | None:
    match = _DATED.match(text) if len(dates) == 1 else None
    if not match:
        return None
    return Key(
        subject=plain(match["subject"]),
        attribute="when",
        value=frozenset({f"{dates[0].start}/{dates[0].end}"}),
        is_single=True,
        is_denied=is_negated(text),
    )


def _key(subject: str, attribute: str, value: str, text: str, *, is_single: bool = False) -> Key | None:
    value = _END.sub("", value)
    value = _SPECIFIC.sub("", value) if attribute in {"work", "job"} else value
    stems = frozenset(content(value)) | numbers(value) | {word.casefold() for word in value.split() if "@" in word}
    about = plain(subject)
    if not stems or not about or len(about.split()) > _MOST_SUBJECT_WORDS:
        return None
    capitals = frozenset(names(f"in {value}"))
    denied = is_negated(text) and attribute != "ended"
    return Key(subject=about, attribute=attribute, value=stems, names=capitals, is_single=is_single, is_denied=denied)
