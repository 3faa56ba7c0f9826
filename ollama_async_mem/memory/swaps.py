"""Whether a statement puts what was said in each other's places: who did it to whom, what was of which. Pure.

Three things tell, as far as small words do: two stand around the same word the other way round ("I taught Ann" as "Ann
taught me"); what somebody went to is what they came from; one of two like parts has what the other had ("Tom lives in
Bonn and Lea lives in Kiel" as "Tom lives in Kiel"). English only.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

from ollama_async_mem.memory.dates.words import listed
from ollama_async_mem.memory.sentences import RELATION, clauses_of, parts_of
from ollama_async_mem.memory.wording import content, normal, plain, stem, words

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

__all__ = ["are_swapped", "is_anothers"]

_SPEAKER = "i"
_IS = "is"
_FIRST_PERSON = frozenset({"i", "me", "we", "us", "myself"})
_KEPT = {
    **dict.fromkeys(listed("am is are was were"), _IS),
    **dict.fromkeys(listed("has have had"), "have"),
    **dict.fromkeys(listed("say says said"), "say"),
}
_WAYS = frozenset({"to", "from", "into"})
_TURNING = _WAYS | {"for", "over", "with"}
_SMALL = _TURNING | {"in", "at", "on", "by", _IS, "have"}
_MUTUAL = frozenset(
    stem(word)
    for word in listed(
        """meet marry married date engaged kiss hug argue fight talk chat speak know friend bestie sibling cousin
        colleague neighbour neighbor twin roommate partner together"""
    )
)
"""What two do or are with each other, whoever is named first."""
_POINTING = re.compile(
    r"\b(?:it|its|that|this|there|them|they|theyre|those|these|one|ones|he|she|him|her|same|too|both)\b"
)
_OWNED = re.compile(rf"\b(\w+)'s (?:\w+ )?({RELATION})\b")
_RELATED = re.compile(rf"\b{RELATION}\b")


def are_swapped(text: str, said: str, who: str, names: Collection[str]) -> bool:
    """Whether a statement about what `who` said has something in another's place; `names` are stems in either."""
    if _has_other_owner(text, said):
        return True
    named = frozenset({_SPEAKER, *names})
    people = named | {stem(word) for word in _RELATED.findall(normal(f"{text} {said}"))}
    clauses = clauses_of(said)
    told = [_tokens(clause.text, who) for clause in clauses]
    deeds = [_active(clause) for clause in told]
    parts = [_tokens(part.text, who) for part in parts_of(clauses)]
    return any(
        _is_mixed(own, parts)
        or any(_is_turned(deed, clause) for deed in _deeds(_active(own), named, people) for clause in deeds)
        or any(_is_led_astray(own, clause) for clause in told)
        for own in (_tokens(part.text, who) for part in parts_of(clauses_of(text)))
    )


def is_anothers(text: str, said: str, turn: str, who: str, around: str) -> bool:
    """Whether a statement is what a turn says, but for one word, which is what was said around it.

    "I have a cat", after "I have a dog", as "has a dog". Where the turn only points at what was said, that is meant.
    """
    own, heard = _tokens(text, who), {*_tokens(around, who)} - {*_tokens(turn, who)} - _SMALL
    taken = [(link, value) for link, value in pairwise(own) if value in heard]
    clauses = [clause.text for clause in clauses_of(said) if not _POINTING.search(plain(clause.text))]
    told = [_tokens(clause, who) for clause in clauses] if taken else []
    return any(
        {*own} - {value, _SPEAKER} <= {*clause} and _is_left_out(clause, link, own) and link in _values(clause)
        for clause in told
        for link, value in taken
    )


def _has_other_owner(text: str, said: str) -> bool:
    """Whether somebody's relative is given to another who was spoken of: "Lea's father" as "Tom's father"."""
    told: dict[str, set[str]] = {}
    for owner, relative in _OWNED.findall(normal(said)):
        told.setdefault(relative, set()).add(owner)
    return any(
        relative in told and owner not in told[relative] and owner in words(said)
        for owner, relative in _OWNED.findall(normal(text))
    )


@lru_cache(maxsize=512)
def _tokens(text: str, who: str) -> tuple[str, ...]:
    """The stems, numbers and small words of a text; the speaker is one word in it, what is the speaker's is its own."""
    flat = normal(text).replace("'m ", " am ").replace("'re ", " are ")
    if plain(who):
        name = rf"\b{re.escape(normal(who))}\b"
        flat = re.sub(name, _SPEAKER, re.sub(rf"{name}'s?", "", flat))
    return tuple(token for word in words(flat) for token in _token(word))


def _token(word: str) -> Iterable[str]:
    if word in _FIRST_PERSON:
        return (_SPEAKER,)
    if word in _KEPT:
        return (_KEPT[word],)
    return (word,) if word in _SMALL or word[0].isdigit() else content(word)


def _active(tokens: tuple[str, ...]) -> tuple[str, ...]:
    """Words with whoever did it first: "was hired by Ann" as "Ann hired"."""
    if not (_IS in tokens and "by" in tokens[tokens.index(_IS) : -1]):
        return tokens
    verb, by = tokens.index(_IS) + 1, tokens.index("by", tokens.index(_IS))
    return (tokens[by + 1], *tokens[verb:by], *tokens[: verb - 1], *tokens[by + 2 :])


def _deeds(tokens: Sequence[str], named: Collection[str], people: Collection[str]) -> Iterator[tuple[str, str, str]]:
    """Who, what they did, and to whom, as far as the order tells."""
    for one, other in combinations([at for at, word in enumerate(tokens) if word in people], 2):
        between = tokens[one + 1 : other]
        for deed in () if "with" in between else between:
            if not (deed in named or deed in _MUTUAL or deed in _SMALL):
                yield tokens[one], deed, tokens[other]


def _is_turned(deed: tuple[str, str, str], said: Sequence[str]) -> bool:
    return _stand(said, *reversed(deed)) and not _stand(said, *deed)


def _stand(tokens: Sequence[str], one: str, middle: str, other: str) -> bool:
    """Whether three words stand in this order."""
    if one not in tokens or other not in tokens:
        return False
    last = len(tokens) - 1 - tokens[::-1].index(other)
    return middle in tokens[tokens.index(one) + 1 : last]


def _is_led_astray(own: Sequence[str], said: Sequence[str]) -> bool:
    """Whether the two around a word such as "to" changed places, or what was behind "to" is behind "from"."""
    stated, straight = set(_turns(own)), set(_turns(said))
    if any(turn not in straight and turn[::-1] in straight for turn in stated):
        return True
    values, told = _values(own), _values(said)
    return any(
        link in told and values[link].isdisjoint(told[link]) and not values[link].isdisjoint(told.get(back, ()))
        for link in _WAYS & values.keys()
        for back in _WAYS - {link}
    )


def _turns(tokens: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """What stands right before and behind a small word that has a direction."""
    for one, middle, other in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if (
            middle in _TURNING
            and _SMALL.isdisjoint({one, other})
            and (middle != "with" or _SPEAKER not in (one, other))
        ):
            yield one, middle, other


def _values(tokens: Sequence[str]) -> dict[str, set[str]]:
    """What stands right behind each word, but for small ones."""
    found: dict[str, set[str]] = {}
    for link, value in pairwise(tokens):
        if value not in _SMALL:
            found.setdefault(link, set()).add(value)
    return found


def _is_mixed(own: Sequence[str], parts: Sequence[Sequence[str]]) -> bool:
    """Whether a statement has what is behind a word in one part, and before it what is there in another."""
    for at, link in enumerate(own[:-1]):
        value = own[at + 1]
        holders = [part for part in parts if value in _values(part).get(link, ())]
        others = [part for part in parts if link in part and value not in part and _is_left_out(part, link, own)]
        if any(_is_of_other(own[:at], link, one, other) for one in holders for other in others):
            return True
    return False


def _is_left_out(part: Sequence[str], link: str, own: Sequence[str]) -> bool:
    """Whether a statement does not have what a part has behind a word: something else may be in its place."""
    return _values(part).get(link, set()).isdisjoint(own)


def _is_of_other(before: Sequence[str], link: str, one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether what a statement has before a word is from the other part, and the one part has something else there.

    A number goes with what it was said with, also where both parts have their verb from the first.
    """
    mixed = {*before} & {*other[: other.index(link)]} - {*one} - _SMALL
    is_whole = {*before} <= {*other, _SPEAKER} and not {*one[: one.index(link)]} <= {*other}
    return bool(mixed) and (is_whole or ({*before} <= {*one, *other} and any(word[0].isdigit() for word in mixed)))
