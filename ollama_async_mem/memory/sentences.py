"""Sentences and clauses: which part of what was said a quote stands in. Pure."""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec

from ollama_async_mem.memory.wording import is_negated, normal, plain

__all__ = ["Clause", "clauses_of", "touched"]

_SENTENCE = re.compile(r"(?<=[.!?\u061f\u2026])[\"'\u201d)]*\s+|(?<=[\u3002\uff01\uff1f])|\n+")
_SUBJECT = r"(?:i|i'm|i've|i'd|we|he|she|they|you|it|it's|my|our|his|her|their)\b"
_CLAUSE = re.compile(
    rf"[;:()\u2014\u2013\uff1b]+|\s-+\s|,?\s*\b(?:but|because|since|though|although|while|whereas|when|until)\b|"
    rf",?\s*\b(?=(?:instead of|rather than|except)\b)|,?\s*\b(?:and|so)\s+(?={_SUBJECT})|"
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


class Clause(msgspec.Struct, frozen=True):
    """A part of a sentence, and how it is said: as a question, a supposition or advice, or a denial."""

    text: str
    is_asked: bool
    is_supposed: bool
    is_denied: bool


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


def clauses_of(sentences: str) -> list[Clause]:
    """Cut sentences into the parts that state something of their own, so far as small words tell."""
    whole = [sentence for sentence in _SENTENCE.split(normal(sentences)) if plain(sentence)]
    return [clause for sentence in whole for clause in _clauses(sentence)]


def _clauses(sentence: str) -> list[Clause]:
    asks = sentence.rstrip("\"')\u201d ").endswith(("?", "\uff1f", "\u061f", "\u037e"))
    parts = [part for part in _CLAUSE.split(sentence) if plain(part)]
    all_ask = asks and bool(_ASKING.match(sentence))
    last = len(parts) - 1
    return [_clause(part, is_asked=all_ask or (asks and number == last)) for number, part in enumerate(parts)]


def _clause(text: str, *, is_asked: bool) -> Clause:
    flat = plain(text)
    return Clause(text, is_asked=is_asked, is_supposed=bool(_SUPPOSED.search(flat)), is_denied=is_negated(text))
