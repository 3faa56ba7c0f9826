"""The words of a text, for comparing statements: normal forms, stems, numbers and negations. Pure.

What grounding and reconciliation share. Scripts without spaces are read in pairs of characters. Knows nothing of facts
and turns.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from itertools import pairwise

from ollama_async_mem.memory.vocabulary import (
    DISLIKES,
    IRREGULAR,
    NEGATING,
    NEGATIONS,
    NEGATIVE_RUN,
    NOT_NEGATING,
    NUMBERS,
    STOP,
)

__all__ = ["LIKES", "content", "is_negated", "names", "normal", "numbers", "plain", "stem", "words"]

# Han, kana, Thai, Lao, Burmese and Khmer are written without spaces.
_RUN = (
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
_TOKEN = re.compile(rf"(?P<number>\d+(?:[.,:]\d+)*)|(?P<run>{_RUN}+)|(?:(?!{_RUN})[^\W\d_])+")
_APOSTROPHES = str.maketrans("\u2019\u2018\u02bc\u0060\u00b4", "'''''")
_NOT = re.compile(r"n't\b|(?<=can)not\b")
_UNWRITTEN_NOT = re.compile(r"\b(do|does|did|is|was|were|are|has|have|had|would|could|should|ca|wo)nt\b")
_ENDING = re.compile(r"'(?:s|m|re|ve|ll|d)\b")
_NAME = re.compile(r"(?<![.!?:\"] )(?<!^)\b[A-Z][\w'\u2019-]*")

_SUFFIX = re.compile(r"(?<=\w{3})(?:ingly|edly|ings?|ed|ly|ers?|ions?|es|s)$")


def normal(text: str) -> str:
    """Write a text in lower case, with plain apostrophes and digits, without accents, vowel points and joiners."""
    if text.isascii():
        return text.lower()
    split = unicodedata.normalize("NFKD", text.translate(_APOSTROPHES))
    kept = "".join(_digit(c) for c in split if unicodedata.category(c) not in {"Mn", "Mc", "Me", "Cf"})
    return unicodedata.normalize("NFKC", kept).casefold()


def _digit(char: str) -> str:
    return str(unicodedata.digit(char)) if char.isdigit() and not char.isascii() else char


def plain(text: str) -> str:
    """Write a text as its words with a space between each: for finding words in it, whatever stands between them."""
    tokens = _TOKEN.finditer(normal(text).replace("'", ""))
    return " ".join(" ".join(t[0]) if t["run"] else _number(t[0]) if t["number"] else t[0] for t in tokens)


def words(text: str) -> list[str]:
    """List the words of a text: contractions written out, numbers as digits, pairs where no spaces are written."""
    expanded = _ENDING.sub(" ", _UNWRITTEN_NOT.sub(r"\1 not", _NOT.sub(" not", normal(text))))
    found: list[str] = []
    for token in _TOKEN.finditer(expanded):
        if run := token["run"]:
            found += [a + b for a, b in pairwise(run)] if len(run) > 1 else [run]
        else:
            found.append(_number(token[0]) if token["number"] else NUMBERS.get(token[0], token[0]))
    return found


def _number(digits: str) -> str:
    whole = digits.replace(",", "")
    return whole.lstrip("0") or "0" if whole.isdigit() else whole


def numbers(text: str) -> set[str]:
    """The numbers in a text, as digits."""
    return {word for word in words(text) if word[0].isdigit()}


def content(text: str) -> list[str]:
    """The stems of the words that carry meaning, in order: no numbers, negations and words that are everywhere."""
    flat = words(NEGATIVE_RUN.sub("", NEGATING.sub(" ", normal(text))))
    said = ["like" if word in DISLIKES else word for word in flat]
    return [stem(w) for w in said if w not in STOP and w not in NEGATIONS and not w[0].isdigit()]


def names(text: str) -> set[str]:
    """The stems of words that are written as names: with a capital that is not that of a sentence."""
    return {stem(word) for match in _NAME.findall(text) for word in words(match) if word not in STOP}


@lru_cache(maxsize=50_000)
def stem(word: str) -> str:
    """Cut an English word to what its forms share; words of other scripts stay as they are."""
    if not word.isascii():
        return word
    word = IRREGULAR.get(word, word)
    if word.endswith("ies") and len(word) > len("ties"):
        return word[:-3] + "i"
    cut = _SUFFIX.sub("", word)
    if cut != word and len(cut) > len("all") and cut[-1] == cut[-2] and cut[-1] not in "lsz":
        cut = cut[:-1]
    cut = cut.removesuffix("e") if len(cut) > len("she") else cut
    return cut[:-1] + "i" if len(cut) > len("day") and cut.endswith("y") else cut


LIKES = frozenset(map(stem, ("like", "love", "enjoy", "adore")))
"""Stems that all say that somebody likes something."""


def is_negated(text: str) -> bool:
    """Whether a text says that something is not, or is no more."""
    flat = " ".join(words(text))
    flat = NOT_NEGATING.sub(" ", flat)
    return (
        any(word in NEGATIONS for word in flat.split())
        or bool(NEGATING.search(flat))
        or bool(NEGATIVE_RUN.search(text))
    )
