"""Whether statements stand in the turns that they claim to come from. Pure.

A model's statement is kept only if its quote is really there, its words, numbers and dates are covered by what was
said, and what was said is a statement: no question, no supposition, no order, and not the opposite. What is not kept
is counted by the reason. Knows nothing of the store and of how statements were asked for.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from ollama_async_mem.memory.dates import find_dates
from ollama_async_mem.memory.dates.words import listed
from ollama_async_mem.memory.sentences import clauses_of, parts_of, touched
from ollama_async_mem.memory.swaps import are_swapped, is_anothers
from ollama_async_mem.memory.wording import LIKES, content, is_negated, names, normal, numbers, plain, stem, words
from ollama_async_mem.records import DateRange, Turn  # noqa: TC001 - msgspec resolves annotations

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ollama_async_mem.memory.extract import Statement
    from ollama_async_mem.memory.sentences import Clause

__all__ = ["Grounded", "Reason", "Rejected", "ground"]

Reason: TypeAlias = Literal[
    "blank", "long", "quote", "role", "order", "question", "supposition", "subject", "negation", "number", "date",
    "name", "words", "double", "too many", "too long",
]  # fmt: skip

_LONGEST_TEXT = 400
_LONGEST_QUOTE = 400
_MIN_QUOTE_CHARS = 3
_MIN_COVERED = 0.6
_MIN_INSIDE = 4
_MISREAD = 0.5

_HEAD = re.compile(r"^\s*(?:\[\d+\]\s*)?(?:\([^)]*\)\s*)?")
_FIRST_PERSON = re.compile(
    r"\b(?:i|im|ive|my|me|mine|myself|we|weve|our|us)\b|[我俺]|私|僕|אני|أنا|\bich\b|\byo\b|\bje\b"
)
_SELF = re.compile(r"^(?:id|ill|my|we|weve|our|ich|yo|je|אני|أنا)\b|^[我俺私僕]|\b(?:i|im|ive)\b")
_USER = re.compile(r"(?:the )?user\b", re.IGNORECASE)
_PRONOUNS = frozenset(listed("he she they it this that these those his her their its you your hes shes theyre there"))
_ANOTHER = re.compile(r"\b(?:you|your|youre|youve|yours|yourself|u|ur|he|she|his|her|him|hes|shes)\b|[你您他她]")
_POSSESSIVE = re.compile(r"['\u2019]s?\b")
_ORDER = re.compile(
    r"\b(?:ignore|disregard|forget|override)\b.{0,40}\b(?:instructions?|rules?|prompts?|everything|memor\w+|facts?|above|"
    r"previous)\b|\b(?:delete|erase|wipe|remove|clear|drop|overwrite)\b.{0,40}\b(?:memor\w+|facts?|everything|records?|"
    r"database|all)\b|\byou are now\b|\bsystem prompt\b|\bnew instructions?\b|\b(?:answer|respond|reply|output) only\b"
)
_COMMAND = re.compile(
    r"(?:(?:please|now|always|never|do not|system|important)\W+)*(?:ignore|disregard|forget|delete|erase|remove|"
    r"overwrite|reveal|obey|pretend|act as|you are now|you must|store|save|remember|note that|answer|respond|reply|"
    r"output|print)\b"
)
_REMEMBER = re.compile(
    r"\b(?:remember|note|store|save|record|memori[sz]e|keep in mind)\b(?: \w+){0,4}? (?:that|:|as)|\bremember:"
)
_HEDGED = re.compile(
    r"\b(?:if|wish\w*|imagin\w*|suppos\w*|might|may|maybe|perhaps|probably|possibly|could|would|should|want\w*|hop\w+|"
    r"plan\w*|consider\w*|think\w*|interest\w*|dream\w*|suggest\w*|recommend\w*|advis\w*|advice|propos\w*|believ\w*|"
    r"feel\w*|appreciat\w*|encourag\w*|look\w* forward|like\w*|ask\w*|invit\w*|offer\w*|open to|eager|excite\w*)\b|"
    r"如果|要是|也许|可能|假如"
)
_UNDOING = re.compile(
    r"\b(?:almost|nearly|fail\w*|unsuccess\w*|tri(?:ed|es)|attempt\w*|declin\w*|refus\w*|reject\w*|turn\w* down|"
    r"cancel\w*|afraid|scared|fear\w*|anxi\w*|terrified|apart|ex|former\w*|divorced|sold|lost|los(?:es?|ing|s))\b"
)
_HAVING = re.compile(r"\b(?:has|have|owns?|drives?|keeps?|works?)\b")
_LIGHT = LIKES | frozenset(
    stem(word)
    for word in listed(
        """want plan feel think know believe mention say tell share express describe person user assistant hope go get
        make use take find keep help start time day thing way lot various different currently recently past future
        still interest interested consider value appreciate own work friend name call"""
    )
)
_ROLES = frozenset({"user", "assistant"})
_TOOLS = frozenset({"tool", "function"})
_ROLE_STEMS = frozenset(map(stem, _ROLES))
_GENERIC = _LIGHT | frozenset({"live", "com", "eat", "drink"})


class Grounded(msgspec.Struct, frozen=True):
    """A statement that stands in a turn, as it is to be stored, with the days that it names."""

    text: str
    quote: str
    turn: Turn
    dates: tuple[DateRange, ...] = ()


class Rejected(msgspec.Struct, frozen=True):
    """Why a statement is not kept, and the turn that it was found in, if it was."""

    reason: Reason
    turn: Turn | None = None


class _Source(msgspec.Struct, frozen=True):
    """Where a quote stands: the sentences of the turn that it touches, and what was said around the turn."""

    turn: Turn
    quote: str
    said: str
    around: tuple[Turn, ...]


def ground(
    statements: Iterable[Statement], turns: Sequence[Turn], *, earlier: Sequence[Turn] = ()
) -> tuple[list[Grounded], list[Rejected]]:
    """Sort statements about some turns into those that stand in them and those that do not.

    `earlier` are the turns before them, which tell what "yes" and "she" mean, but from which nothing is taken.
    """
    kept: dict[tuple[str, str], Grounded] = {}
    rejected: list[Rejected] = []
    for statement in statements:
        found = _grounded(statement, turns, earlier)
        if isinstance(found, Rejected):
            rejected.append(found)
        elif kept.setdefault((plain(found.text), found.turn.id), found) is not found:
            rejected.append(Rejected("double", found.turn))
    return list(kept.values()), rejected


def _grounded(statement: Statement, turns: Sequence[Turn], earlier: Sequence[Turn]) -> Grounded | Rejected:
    text = " ".join(statement.text.split())
    if not plain(text):
        return Rejected("blank")
    if len(text) > _LONGEST_TEXT:
        return Rejected("long")
    if (source := _source(statement, turns, earlier)) is None:
        return Rejected("quote")
    people = {t.who for t in (*turns, *earlier)}
    text = _attributed(_without_head(text, people), source)
    if reason := _objection(text, source, people):
        return Rejected(reason, source.turn)
    return Grounded(text, source.quote[:_LONGEST_QUOTE], source.turn, _dates(text, source))


def _source(statement: Statement, turns: Sequence[Turn], earlier: Sequence[Turn]) -> _Source | None:
    """Find the turn of a quote. Models miscount lines: the quote decides, the line only says where to look first."""
    people = {t.who for t in turns}
    quote = _without_head(statement.quote, people) if statement.quote.strip() else statement.text
    order = sorted(range(len(turns)), key=lambda n: n != statement.line - 1)
    for number in order:
        if len(plain(quote)) >= _MIN_QUOTE_CHARS and (said := touched(quote, turns[number].text)):
            around = (*earlier, *turns[:number])[-2:]
            return _Source(turns[number], " ".join(quote.split()), said, around)
    return None


def _without_head(text: str, people: set[str]) -> str:
    """Leave out what a model copied along with a line: its number, its date and who said it."""
    text = _HEAD.sub("", text, count=1).strip().strip("\"'\u201c\u201d")
    who = next((who for who in people if text.casefold().startswith(f"{who.casefold()}:")), "")
    return text[len(who) + 1 :].strip() if who else text


def _attributed(text: str, source: _Source) -> str:
    """Say whose words they are: of a user with a name, in the first person, or given only to be remembered."""
    turn, is_own = source.turn, bool(_FIRST_PERSON.search(plain(source.said)))
    if turn.speaker and turn.role == "user" and is_own and (user := _USER.match(text)):
        text = f"{turn.speaker}{text[user.end() :]}"
    if _SELF.search(plain(text)):
        return f"{turn.who}: {text}"
    if _REMEMBER.search(normal(source.said)) and not is_own:
        return f"{turn.who} said: {text}"
    return text


def _objection(text: str, source: _Source, people: set[str]) -> Reason | None:
    """What speaks against a statement, None where nothing does."""
    if source.turn.role == "system":
        return "role"
    if _is_order(text, source):
        return "order"
    if _has_wrong_subject(text, source, people):
        return "subject"
    if _is_mixed_up(text, source):
        return "subject"
    return _misreading(text, source) or _invention(text, source)


def _is_mixed_up(text: str, source: _Source) -> bool:
    """Whether what was said, of others or around the turn too, has changed places."""
    turn, around = source.turn, " ".join(turn.text for turn in source.around)
    bare = _undated(text, find_dates(text, turn.at))
    is_swapped = are_swapped(bare, source.said, turn.who, names(f"in {bare}") | names(source.said))
    return is_swapped or is_anothers(bare, source.said, turn.text, turn.who, around)


def _is_order(text: str, source: _Source) -> bool:
    said = normal(source.said)
    return bool(_ORDER.search(said) or _COMMAND.match(normal(text)) or _ORDER.search(normal(text)))


def _has_wrong_subject(text: str, source: _Source, people: set[str]) -> bool:
    """Whether a statement is about somebody else than what was said, or about nobody."""
    if plain(text).split()[0] in _PRONOUNS:
        return True
    turn = source.turn
    subject = _leading(text, people) or _named(text, source)
    if turn.role in _TOOLS or (turn.role != "user" and not turn.speaker):  # no person: of itself it tells at most
        return subject is None or plain(subject) != plain(turn.role)
    if subject is None:
        return False
    clauses = clauses_of(source.said)
    if plain(subject) == plain(turn.who):
        about = [c for c in clauses if c.another is not None and stem(c.another) not in content(text)]
        return not _is_owner(subject, text) and _is_drawn_from(text, about, clauses, source)
    if subject in _ROLES and subject not in people:  # where people have names
        return True
    return _is_elsewhere(subject, text, clauses, source)


def _is_elsewhere(subject: str, text: str, clauses: Sequence[Clause], source: _Source) -> bool:
    """Whether a statement is drawn from what speaks neither of its subject nor of some you, he or she."""
    elsewhere = [c for c in clauses if plain(subject) not in plain(c.text) and not _ANOTHER.search(plain(c.text))]
    return _is_drawn_from(text, elsewhere, clauses, source)


def _leading(text: str, people: set[str]) -> str | None:
    """Whose name a statement begins with."""
    known = sorted({*people, "user", "assistant"}, key=len, reverse=True)
    flat = f"{plain(_POSSESSIVE.sub('', normal(text))).removeprefix('the ')} "
    return next((who for who in known if plain(who) and flat.startswith(f"{plain(who)} ")), None)


def _named(text: str, source: _Source) -> str | None:
    """The first word of a statement where it is a name of which was spoken."""
    first = next(iter(content(text)), "")
    return first if text[:1].isupper() and first in names(source.said) and first == stem(words(text)[0]) else None


def _is_owner(subject: str, text: str) -> bool:
    """Whether a statement is about something or somebody of its subject: "Mia's brother"."""
    return bool(re.match(rf"(?:the )?{re.escape(normal(subject))}{_POSSESSIVE.pattern}", normal(text)))


def _misreading(text: str, source: _Source) -> Reason | None:
    """Whether something is stated that was only asked or supposed, or was denied, or is denied and was not."""
    clauses = clauses_of(source.said)
    if _is_drawn_from(text, [c for c in clauses if c.is_asked], clauses, source):
        return "question"
    if not _HEDGED.search(plain(text)) and _is_drawn_from(text, [c for c in clauses if c.is_supposed], clauses, source):
        return "supposition"
    if _is_undone(text, parts_of(clauses), source):
        return "negation"
    return "negation" if _is_opposite(text, clauses, source) else None


def _is_opposite(text: str, clauses: Sequence[Clause], source: _Source) -> bool:
    """Whether a statement says yes to what was denied, or no to what was not."""
    is_over = is_negated(text) and not _UNDOING.search(plain(text))  # what was sold is had no more
    denied = [c for c in clauses if c.is_denied or (is_over and (c.is_undone or c.is_gone))]
    if not content(source.said):  # without words of its own it is an answer: yes or no
        return is_negated(text) != bool(denied)
    own = clauses_of(text)
    yes, no = (" ".join(c.text for c in own if c.is_denied is is_no) for is_no in (False, True))
    stated = [c for c in clauses if c not in denied]
    is_new = bool(no) and (not denied or _is_drawn_from(no, stated, clauses, source))
    return is_new or _is_drawn_from(yes, denied, clauses, source)


def _is_undone(text: str, parts: Sequence[Clause], source: _Source) -> bool:
    """Whether something is stated that was nearly done, declined or lost, and the statement does not say so."""
    flat = plain(text)
    if is_negated(text) or _UNDOING.search(flat):
        return False
    is_had = bool(_HAVING.search(flat))
    return _is_drawn_from(text, [c for c in parts if c.is_undone or (is_had and c.is_gone)], parts, source)


def _is_drawn_from(text: str, some: Sequence[Clause], clauses: Sequence[Clause], source: _Source) -> bool:
    """Whether half of the statement's telling words, or more, are in some of the clauses and not in the others."""
    ones = {word for clause in some for word in _telling(clause.text)}
    others = {word for clause in clauses if clause not in some for word in _telling(clause.text)}
    own = set(_telling(text)) - set(content(source.turn.who))
    telling = ((own - _GENERIC) & (ones | others)) or (own & (ones | others))
    return bool(ones) and len(telling & (ones - others)) >= _MISREAD * max(1, len(telling))


@lru_cache(maxsize=4096)
def _telling(text: str) -> frozenset[str]:
    return frozenset({*content(text), *numbers(text)})


def _invention(text: str, source: _Source) -> Reason | None:
    """What a statement has that nobody said: a date, a number, a name, or too many words."""
    dates = find_dates(text, source.turn.at)
    if not all(_is_dated(found, source) for found in dates):
        return "date"
    bare = _undated(text, dates)
    said = " ".join((source.turn.text, source.turn.who, *(f"{t.who} {t.text}" for t in source.around)))
    if numbers(bare) - numbers(said) or _is_miscounted(bare, source.turn.text):
        return "number"
    heard = _stems(said)
    if any(not _is_heard(name, heard, said) for name in names(bare)):
        return "name"
    telling = [word for word in content(bare) if word not in _LIGHT]
    covered = sum(_is_heard(word, heard, said) for word in telling)
    return None if covered >= _MIN_COVERED * len(telling) else "words"


def _undated(text: str, dates: Sequence[DateRange]) -> str:
    for found in reversed(dates):
        text = text[: found.position[0]] + " " + text[found.position[1] :]
    return text


def _is_miscounted(text: str, said: str) -> bool:
    """Whether another number was said of the same: "2 dogs and 3 cats" are no 3 dogs."""
    was = _counts(said)
    return any(noun in was and not found <= was[noun] for noun, found in _counts(text).items())


def _counts(text: str) -> dict[str, set[str]]:
    """The numbers right before each word."""
    found: dict[str, set[str]] = {}
    for number, noun in pairwise(words(text)):
        if number[0].isdigit() and content(noun):
            found.setdefault(stem(noun), set()).add(number)
    return found


@lru_cache(maxsize=256)
def _stems(said: str) -> frozenset[str]:
    return frozenset(content(said)) | _ROLE_STEMS


def _is_heard(word: str, heard: frozenset[str], said: str) -> bool:
    """Whether a stem was said; in other scripts also as a part of a word, for articles are written to words there."""
    if word in heard:
        return True
    if not word.isascii():
        return word in normal(said) or (len(word) >= _MIN_INSIDE and word[1:] in normal(said))
    return len(word) > _MIN_INSIDE and any(
        other.startswith(word) or (len(other) > _MIN_INSIDE and word.startswith(other)) for other in heard
    )


def _is_dated(found: DateRange, source: _Source) -> bool:
    """Whether days that a statement names are those that were named, or hold them, or else the day it was said on."""
    turns = (source.turn, *source.around)
    named = [day for turn in turns for day in (turn.dates or find_dates(turn.text, turn.at))]
    if any(found.start <= day.start and day.end <= found.end for day in named):
        return True
    return found.start <= source.turn.at.date() <= found.end and not find_dates(source.said, source.turn.at)


def _dates(text: str, source: _Source) -> tuple[DateRange, ...]:
    """The days of a statement: those it names, else those of its quote."""
    return tuple(find_dates(text, source.turn.at) or find_dates(source.quote, source.turn.at))
