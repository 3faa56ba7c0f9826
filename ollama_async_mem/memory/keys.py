"""What a statement says about whom: its subject, attribute and value, read by rules. Pure.

English only, and only what often changes or must not be mixed up; a statement without a key is compared by its words.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
from msgspec import structs

from ollama_async_mem.memory.dates import find_dates
from ollama_async_mem.memory.wording import LIKES, content, is_negated, names, numbers, plain, words

if TYPE_CHECKING:
    from datetime import datetime

    from ollama_async_mem.records import DateRange

__all__ = ["Key", "bare", "key_of"]

_MOST_SUBJECT_WORDS = 6
_LONGEST = 400
_SPOKEN = re.compile(r"^(?P<who>[^:]{1,60}?)(?: said)?: (?:i|we)\b", re.IGNORECASE)
_LEAD = re.compile(r"^(?:(?:actually|now|currently|correction|as of|since|the)\b[\s,]*)+", re.IGNORECASE)
_ADVERBS = (
    r"(?:(?:now|currently|just|recently|still|also|already|actually|finally|has|have|is|are|am|does|do|did|not|"
    r"no longer|never|doesn't|don't|didn't|isn't|used to)\s+)*"
)
_END = re.compile(
    r"\s+(?:with|because|since|after|before|for|who|which|where|while|until|again|these days|any ?more)\b.*|,.*"
)
_LIKING = (
    (re.compile(r"(?:can't|cannot|can not) stand"), "does not like"),
    (re.compile(r"(?:is not|isn't) (?:a (?:\w+ )?fan of|fond of|keen on)"), "does not like"),
    (re.compile(r"is (?:a (?:\w+ )?fan of|fond of|keen on)"), "likes"),
)
_SPECIFIC = re.compile(r"\s+(?:as|at|in|on)\s.*")

# What a person or thing has one of at a time, by the words that say so.
_SINGLE = {
    "home": r"(?:lives?|living|resides?|residing|based) (?:in|at)|"
    r"(?:moved|relocated) (?:back )?(?:from .+? )?(?:back )?to",
    "work": r"(?:works?|working) (?:at|for)|employed (?:at|by)|got a (?:new )?job at|"
    r"started (?:(?:a|her|his|their) (?:new )?job |working |work )?at",
    "job": r"(?:works?|working) as",
    "age": r"(?:turned|aged)(?= [\w-]+(?: on| in)?$)",
    "name": r"(?:is|are) (?:called|named)|goes by",
    "school": r"(?:studies|study|studying) at",
}
_OWNED = (
    "name|age|birthday|e-?mail(?: address)?|phone(?: number)?|number|address|employer|profession|occupation|"
    "boss|manager|husband|wife|partner|boyfriend|girlfriend|fianc[eé]e?|height|weight|nationality|native language|"
    "salary|time ?zone|username|password|passcode|deadline|home|hometown|favou?rite [\\w ]+?"
)
_SAME_ATTRIBUTE = {"employer": "work", "profession": "job", "occupation": "job"}
_WITH_DIGITS = frozenset({"age", "phone", "number", "phone number", "address", "height", "weight", "salary"})
_PARTNERS = frozenset({"boyfriend", "girlfriend", "partner", "husband", "wife", "fiance", "fiancee"})
_PEOPLE = _PARTNERS | {"boss", "manager"}
_STATES = (
    r"(?:single|engaged|divorced|widowed|separated)(?: (?:and|to|from|with|for|since|again)\b.*)?|"
    r"(?:married|dating|in a relationship)\b.*"
)
_MANY = (
    r"likes?|loves?|enjoys?|adores?|hates?|dislikes?|owns?|has|have|plays?|speaks?|bought|visited|reads?|watched|"
    r"went to|attended|met|wants?|plans?|knows?|uses?|drives?|eats?|drinks?|cooks?|can|collects?|"
    r"learns?|learning|prefers?|(?:\w+ly )?allergic to"
)
# What is over, by attributes.
_ENDED = {
    frozenset({"work"}): r"quit|resigned from|(?:was |got |been )*(?:fired|laid off) (?:from|by)|"
    r"stopped working (?:at|for)|lost (?:her|his|their|my|the) job at",
    frozenset({"work", "home", "status", *_PARTNERS}): "left",
    frozenset({"own", "have", "driv"}): "sold|lost|gave away",
    frozenset({"status", *_PARTNERS}): "broke up with|divorced(?! from)|separated from",
}
_JOBLESS = (
    r"unemployed|retired|jobless|out of work|between jobs|(?:quit|left|lost) (?:her|his|their|my|the) job|"
    r"(?:was |got |been )*(?:fired|laid off)"
)
_JOB_AT = re.compile(r"^(?:(?:her|his|their|my|the|a|an|old) )*(?:job|position|post)? ?(?:at |from )?", re.IGNORECASE)


def _verb(words: str) -> re.Pattern[str]:
    return re.compile(rf"^(?P<subject>.+?)\s+{_ADVERBS}(?P<verb>{words})\s+(?P<value>.+)$", re.IGNORECASE)


_SINGLE_VERBS = {attribute: _verb(words) for attribute, words in _SINGLE.items()}
_OLD = re.compile(rf"^(?P<subject>.+?)\s+{_ADVERBS}(?P<value>\d+) years? old$", re.IGNORECASE)
_COUNTED = re.compile(r"^(?P<subject>.+?)\s+(?:is|am|are)(?: (?:now|already|only))? (?P<value>\d+)$", re.IGNORECASE)
_STATE = re.compile(rf"^(?P<subject>.+?)\s+{_ADVERBS}(?:got )?(?P<value>{_STATES})$", re.IGNORECASE)
_POSSESSION = re.compile(
    rf"^(?P<subject>.+?)(?:'s|s'|\u2019s)\s+(?:new |current )?(?P<attribute>{_OWNED})\s+{_ADVERBS}(?:changed to )?"
    r"(?!was\b|were\b|had\b|will\b|would\b)(?P<value>\S.*)$",
    re.IGNORECASE,
)
_DATED = re.compile(
    r"^(?P<subject>.+?)\s+(?:is|are|was|has been|takes place|got|(?P<verb>starts|begins|leaves|ends))"
    r"(?:\s+(?:now|actually|scheduled|rescheduled|moved|postponed|due|planned|set|not))*\s*(?:on|for|to|at|by)?$",
    re.IGNORECASE,
)
_MANY_VERBS = _verb(_MANY)
_ENDED_VERBS = {ends: _verb(words) for ends, words in _ENDED.items()}
_NO_JOB = re.compile(rf"^(?P<subject>.+?)\s+{_ADVERBS}(?P<verb>{_JOBLESS})$", re.IGNORECASE)


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """About whom a statement says what.

    `attribute` is "ended" where it says that what some attributes had as their value is over: those in `ends`; without
    a value, whatever they had. With `is_single` another value takes the place of this one; with `is_counted` it begins
    with how many there are. `value` and `names` are stems, the names those that are written with a capital.
    """

    subject: str
    attribute: str
    value: frozenset[str]
    names: frozenset[str] = frozenset()
    is_single: bool = False
    is_denied: bool = False
    is_counted: bool = False
    ends: frozenset[str] = frozenset()


def bare(text: str, at: datetime) -> tuple[str, list[DateRange]]:
    """A statement without the dates in it and the stop at its end, and these dates."""
    dates = find_dates(text, at)
    for found in reversed(dates):
        text = text[: found.position[0]].rstrip() + " " + text[found.position[1] :].lstrip(" ,")
    return " ".join(text.split()).strip(" .!,;"), dates


def key_of(text: str, dates: list[DateRange]) -> Key | None:
    """Read the key of a bare statement, None where no rule does."""
    if len(text) > _LONGEST:
        return None
    text = _LEAD.sub("", _SPOKEN.sub(r"\g<who>", text)).replace("\u2019", "'")
    for pattern, plainly in _LIKING:
        text = pattern.sub(plainly, text)
    for read in (_possession, _ended, _single, _many):
        if key := read(text):
            return key
    return _dated(text, dates)


def _possession(text: str) -> Key | None:
    if not (match := _POSSESSION.match(text)):
        return None
    attribute = plain(match["attribute"]).replace("favorite", "favourite")
    key = _key(match["subject"], _SAME_ATTRIBUTE.get(attribute, attribute), match["value"], text, is_single=True)
    return None if attribute in _PEOPLE and key and key.names != key.value else key  # what they are, not who


def _ended(text: str) -> Key | None:
    if (match := _NO_JOB.match(text)) and not is_negated(text[: match.start("verb")]):
        ends = frozenset({"work", "job"})
        return Key(subject=plain(match["subject"]), attribute="ended", value=frozenset(), ends=ends)
    for ends, pattern in _ENDED_VERBS.items():
        if (match := pattern.match(text)) and not is_negated(text[: match.start("verb")]):
            key = _key(match["subject"], "ended", _JOB_AT.sub("", match["value"]), text)
            return key and structs.replace(key, ends=ends, is_denied=False)
    return None


def _single(text: str) -> Key | None:
    is_single = "also" not in text.casefold().split()
    for attribute, pattern in (*_SINGLE_VERBS.items(), ("age", _OLD), ("age", _COUNTED), ("status", _STATE)):
        if match := pattern.match(text):
            return _key(match["subject"], attribute, match["value"], text, is_single=is_single)
    return None


def _many(text: str) -> Key | None:
    if not (match := _MANY_VERBS.match(text)):
        return None
    attribute = (content(match["verb"]) or ["have"])[-1]
    key = _key(match["subject"], "like" if attribute in LIKES else attribute, match["value"], text)
    return key and structs.replace(key, is_counted="".join(words(match["value"])[:1]).isdigit())


def _dated(text: str, dates: list[DateRange]) -> Key | None:
    match = _DATED.match(text) if len(dates) == 1 else None
    if not match:
        return None
    return Key(
        subject=plain(match["subject"]),
        attribute=f"when {match['verb'] or ''}",
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
    if attribute in _WITH_DIGITS and not numbers(value):
        return None
    capitals = frozenset(names(f"in {value}"))
    return Key(
        subject=about,
        attribute=attribute,
        value=stems,
        names=capitals,
        is_single=is_single,
        is_denied=is_negated(text),
    )
