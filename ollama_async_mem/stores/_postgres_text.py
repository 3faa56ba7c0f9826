"""Text as PostgreSQL can hold it, and the words of its keyword index: pure functions.

PostgreSQL's text has no U+0000: texts are coded as those in metadata are.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

from ._json import coded, decoded
from ._text import UNSPACED_RUN, clean, keywords, spelled, units

__all__ = [
    "EMPTY_NAME",
    "NO_NAME",
    "index_text",
    "query_text",
    "read",
    "read_name",
    "write",
    "write_name",
]

MAX_CHARS = 50_000  # with so many, no text is too long for a tsvector, whatever its words are
MAX_BYTES = 500_000  # the same where each word is there once

_LONE = re.compile("[\ud800-\udfff]")  # no stored text has them; one that is looked for keeps its place in the order
_NOWHERE = "\ud7ff" + "\U0010ffff" * 4

NO_NAME, EMPTY_NAME = "", "\1"  # in a column of ids: none comes first, then the id ""
_MARK = "\ufdd0"  # a noncharacter, which begins the codes of itself and of surrogates
_STRANGE = re.compile(f"[{_MARK}\ud800-\udfff]")
_STRANGE_CODE = re.compile(f"{_MARK}([0-9a-f]{{4}})")

_ACCENTS = re.compile("(?<=[a-z])[\u0300-\u036f]+")
_BETWEEN = re.compile(r"[\W_]+")


def write(text: str) -> str:
    """Return a text as PostgreSQL can hold it."""
    return _LONE.sub(_NOWHERE, coded(text))


def read(text: str) -> str:
    """The other way."""
    return decoded(text)


def write_name(name: str | None) -> str:
    """Return an id of a user, agent or run, any text at all, or none, as a column holds it."""
    if name is None:
        return NO_NAME
    return write(_STRANGE.sub(lambda strange: f"{_MARK}{ord(strange[0]):04x}", name)) or EMPTY_NAME


def read_name(name: str) -> str | None:
    """The other way."""
    if name in {NO_NAME, EMPTY_NAME}:
        return None if name == NO_NAME else ""
    return _STRANGE_CODE.sub(lambda code: chr(int(code[1], 16)), read(name))


def index_text(text: str) -> str:
    """Return the words of a text for the keyword index, with spaces between them.

    Each unit of a script without spaces is a word, and so is each pair of neighbours. In a text that is too long for
    the index each word counts once, and of the longest ones the last words are left out.
    """
    words = _words(spelled(clean(text)))
    if len(words) <= MAX_CHARS:
        return words
    once = " ".join(dict.fromkeys(words.split()))
    return once.encode()[:MAX_BYTES].decode(errors="ignore")


def query_text(query: str) -> str:
    """Return the words that a query asks for, with spaces between them; empty when it has none."""
    return " ".join(_folded(word.replace(" ", "")) for word in keywords(query))


def _words(text: str) -> str:
    """The words of a text, with nothing but spaces between them."""
    plain = _folded(text)
    return _BETWEEN.sub(_only_marks, plain if plain.isascii() else UNSPACED_RUN.sub(_spread, plain))


def _folded(text: str) -> str:
    """Lower case, and Latin letters without accents."""
    lower = text.lower()
    if lower.isascii():
        return lower
    return unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFD", lower)))


def _spread(run: re.Match[str]) -> str:
    alone = units(run[0])
    return f" {' '.join(alone)} {' '.join(a + b for a, b in pairwise(alone))} "


def _only_marks(run: re.Match[str]) -> str:
    """Marks that some scripts write as characters belong to words, as in `_text.keywords`."""
    return " " if run[0].isascii() else "".join(c if unicodedata.category(c)[0] == "M" else " " for c in run[0])
