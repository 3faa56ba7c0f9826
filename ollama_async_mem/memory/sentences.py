"""Sentences and clauses: which part of what was said a quote stands in. Pure."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from ollama_async_mem.memory.wording import is_negated, normal, plain

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["RELATION", "Clause", "clauses_of", "parts_of", "touched"]

_SENTENCE = re.compile(r"(?<=[.!?\u061f\u2026])[\"'\u201d)]*\s+|(?<=[\u3002\uff01\uff1f])|\n+")
_SUBJECT = r"(?:i|i'm|i've|i'd|we|he|she|they|you|it|it's|my|our|his|her|their)\b"
_CLAUSE = re.compile(
    rf"[;:()\u2014\u2013\uff1b]+|\s-+\s|,?\s*\b(?:but|because|since|though|although|while|whereas|when|until)\b|"
    rf",?\s*\b(?=(?:instead of|rather than|except|apart from|without)\b)|"
    rf",?\s*\b(?:and|so)\s+(?:(?:just|also)\s+)?"
    rf"(?={_SUBJECT}|(?:no|not|never|do not|don't|can't|cannot|please)\b)|"
    rf",\s*(?={_SUBJECT}|(?:not|no|never|do|did|have|are|is|can|could|will|would|right|huh)\b)|[\uff0c、؛،]|但是|但|不过|因为|所以"
)
_ASKING = re.compile(
    r"(?:(?:so|and|but|well|hey|oh|wow|by the way|\w+,)\W+)*(?:do|does|did|are|is|am|was|were|will|would|can|could|"
    r"should|shall|have|has|had|what|who|whom|whose|which|when|where|why|how|any|don't|didn't|isn't|aren't|won't|wouldn't)\b"
)
_SUPPOSED = re.compile(
    r"\b(?:if|wish|imagine|suppose|supposing|pretend|hypothetically|might|maybe|perhaps|probably|possibly|lets say|"
    r"should|could(?! (?:not|nt))|how about|what about|consider|would(?! (?:like|love|prefer|rather|say)))\b|"
    r"如果|要是|也许|可能|假如"
)
RELATION = (
    r"(?:wife|husband|spouse|partner|boyfriend|girlfriend|fiancee?|ex|brother|sister|sibling|twin|son|daughter|child|"
    r"children|kid|baby|mother|father|mom|mum|dad|parent|uncle|aunt|cousin|nephew|niece|grand\w+|in-law|friend|"
    r"bestie|colleague|coworker|co-worker|boss|manager|neighbou?r|roommate|flatmate|doctor|teacher|dog|cat|pet|"
    r"character|hero)s?"
)
"""What people and animals are to each other, as a pattern without groups."""
_ANOTHER = re.compile(
    rf"(?:(?:and|so|well|oh|also|yes|yeah|but)\W+)*"
    rf"(?:(?:my|our) (?:[\w'-]+ ){{0,2}}?(?:\w+-)?(?P<who>{RELATION})|he|she)\b|"
    r".{0,80}\b(?:told|tells|said|says)(?: me| us)?(?: that)? (?:he|she)\b"
)
_OURSELVES = re.compile(r"\b(?:i|im|ive|me|we|us)\b")
_UNDONE = re.compile(
    r"\b(?:(?:almost|nearly) (?:(?!finished|completed)\w+ed|bought|got|had|went|won|took|made|became|quit|met|ran)|"
    r"fail(?:ed|s|ing)? (?:to|in|at)|"
    r"declin(?:e|ed|ing)|refus(?:e|ed|es|ing)|turn(?:ed|ing)? down|cancell?ed|(?:afraid|scared) of|apart from|ex)\b"
)
_GONE = re.compile(r"\b(?:sold|lost|gave away)\b")
_AND = re.compile(r"\s*(?:,|\band\b)\s*")


class Clause(msgspec.Struct, frozen=True):
    """A part of a sentence, and how it is said: as a question, a supposition or advice, or a denial.

    `is_undone` says that it did not come to it, `is_gone` that something is had no more. `another` is who it is about
    where that is not the speaker: "wife", or "" for somebody without a name.
    """

    text: str
    is_asked: bool
    is_supposed: bool
    is_denied: bool
    is_undone: bool
    is_gone: bool
    another: str | None


def touched(quote: str, text: str) -> str:
    """Return the sentences of a text that a quote stands in, "" where it is not there, word by word."""
    wanted = plain(quote)
    sentences = _sentences(text)
    joined = " ".join(flat for flat, _ in sentences)
    at = f" {joined} ".find(f" {wanted} ") if wanted else -1
    if at < 0:
        return ""
    found, start = [], 0
    for flat, part in sentences:
        if start < at + len(wanted) and at < start + len(flat):
            found.append(part)
        start += len(flat) + 1
    return " ".join(found)


@lru_cache(maxsize=256)
def _sentences(text: str) -> list[tuple[str, str]]:
    """The sentences of a text, each as its plain words and as it is."""
    return [(flat, part) for part in _SENTENCE.split(text) if (flat := plain(part))]


@lru_cache(maxsize=256)
def clauses_of(sentences: str) -> tuple[Clause, ...]:
    """Cut sentences into the parts that state something of their own, so far as small words tell."""
    whole = [sentence for sentence in _SENTENCE.split(normal(sentences)) if plain(sentence)]
    return tuple(clause for sentence in whole for clause in _clauses(sentence))


def parts_of(clauses: Iterable[Clause]) -> list[Clause]:
    """Cut clauses at every "and" and comma: what is sold stands before it, and what is bought after it."""
    return [
        _clause(part, is_asked=clause.is_asked) for clause in clauses for part in _AND.split(clause.text) if plain(part)
    ]


def _clauses(sentence: str) -> list[Clause]:
    asks = sentence.rstrip("\"')\u201d ").endswith(("?", "\uff1f", "\u061f", "\u037e"))
    parts = [part for part in _CLAUSE.split(sentence) if plain(part)]
    all_ask = asks and bool(_ASKING.match(sentence))
    last = len(parts) - 1
    return [_clause(part, is_asked=all_ask or (asks and number == last)) for number, part in enumerate(parts)]


def _clause(text: str, *, is_asked: bool) -> Clause:
    flat = plain(text)
    return Clause(
        text,
        is_asked=is_asked,
        is_supposed=bool(_SUPPOSED.search(flat)),
        is_denied=is_negated(text),
        is_undone=bool(_UNDONE.search(flat)),
        is_gone=bool(_GONE.search(flat)),
        another=_another(text),
    )


def _another(text: str) -> str | None:
    """Who a clause is about where that is not the speaker; what was done to the speaker is about both."""
    text = text.strip()
    match = _ANOTHER.match(text)
    if not match or _OURSELVES.search(plain(text[match.end() :])):
        return None
    return match["who"] or ""
