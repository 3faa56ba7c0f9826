"""Text for storage and for the keyword index: pure functions that know nothing of a database's connection.

The index splits text with FTS5's `unicode61`, which takes a run of Chinese or Japanese characters for one word.
So each character of a script without spaces between words gets spaces around it on its way into the index, and a query
asks for neighbouring pairs. An emoji, which is no word to any index, is written as one.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["UNSPACED_RUN", "clean", "clean_or_none", "keywords", "spaced", "spelled", "units"]

MAX_TERMS = 64
MAX_QUERY_CHARS = 100_000

# Han with its extensions and compatibility forms, hiragana, katakana. Korean writes spaces between words.
_CJK = "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
# Thai and Lao, Myanmar, and Khmer, whose vowels and tones are marks on the letter before them
_BLOCKS = (range(0x0E00, 0x0F00), range(0x1000, 0x10A0), range(0x1780, 0x1800))
_LETTERS, _MARKS = (
    "".join(chr(code) for block in _BLOCKS for code in block if unicodedata.category(chr(code))[0] == kind)
    for kind in "LM"
)
_UNIT = re.compile(f"[{_CJK}{_LETTERS}][{_MARKS}]*")
UNSPACED_RUN = re.compile(f"(?:{_UNIT.pattern})+")
"""A stretch of a script that has no spaces between words; `units` are its parts."""
# Pictures, without the modifiers that follow them; two letters of a flag are one
_EMOJI = re.compile(
    "[\U0001f1e6-\U0001f1ff]{2}|[\u231a-\u23ff\u25a0-\u27bf\u2b00-\u2bff\U0001f000-\U0001f3fa\U0001f400-\U0001faff]"
)
_ASCII_WORD = re.compile("[a-z0-9]+")
_SURROGATE = re.compile("[\ud800-\udfff]")

_STOP_WORDS = (
    "a about am an and any are as at be been but by can could d did do does for from get had has have he her hers him "
    "his how i if in into is it its just ll m me my no not of on or our out s shall she should so some t than that the "
    "their them then there these they this those to too up us ve very was we were what when where which who whom whose "
    "why will with would you your yours"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())


def clean(text: str) -> str:
    """Return text that UTF-8 can hold: halves of a surrogate pair that meet are joined, lone ones become U+FFFD."""
    if text.isascii() or not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def clean_or_none(text: str | None) -> str | None:
    """The same, where there need not be one."""
    return None if text is None else clean(text)


def spelled(text: str) -> str:
    """Write each emoji as a word of letters and digits, the numbers of its characters."""
    return text if text.isascii() else _EMOJI.sub(lambda found: f" u{'u'.join(str(ord(c)) for c in found[0])} ", text)


def units(run: str) -> list[str]:
    """The characters of a run of a script without spaces, each with its marks."""
    return _UNIT.findall(run)


def spaced(text: str) -> str:
    """Put spaces around each unit of scripts without them, and spell emoji: to the index each is a word of its own."""
    return text if text.isascii() else _UNIT.sub(r" \g<0> ", spelled(text))


def keywords(query: str, *, pairs: bool = True) -> list[str]:
    """The distinct words of a query in order, without English stop words unless it has no others.

    A word holds letters, digits and marks only. Without `pairs` a run of a script without spaces is one word.
    """
    words = list(dict.fromkeys(_words(spelled(query[:MAX_QUERY_CHARS]), pairs=pairs)))
    telling = [w for w in words if w not in STOP_WORDS]
    return (telling or words)[:MAX_TERMS]


def _words(text: str, *, pairs: bool) -> Iterator[str]:
    """Each word in lower case; a run of a script without spaces gives its pairs, or the one unit it has."""
    if text.isascii():
        yield from _ASCII_WORD.findall(text.lower())
        return
    for word in "".join(c if _in_word(c) else " " for c in text).lower().split():
        for part in UNSPACED_RUN.sub(lambda run: f" {run[0]} ", word).split():
            if pairs and (alone := units(part)):
                yield from (f"{a} {b}" for a, b in pairwise(alone)) if len(alone) > 1 else alone
            elif any(c.isalnum() for c in part):
                yield part


def _in_word(char: str) -> bool:
    """Whether a character belongs to words: letters, digits, and the marks that some scripts write as characters."""
    return char.isalnum() or unicodedata.category(char)[0] == "M"
