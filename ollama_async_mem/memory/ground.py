"""Whether a statement stands in the turns it claims to come from. Pure.

A model's statement is kept only if its quote is really there, and its words and numbers are covered by what
was said.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ollama_async_mem.memory.extract import Statement
    from ollama_async_mem.records import Turn

__all__ = ["source_of"]

_MIN_COVERED = 0.6
_MIN_QUOTE_CHARS = 3
_STEM_CHARS = 4
_WORD = re.compile(r"[^\W\d_]+|\d+(?:[.,:]\d+)*")


def source_of(statement: Statement, turns: Sequence[Turn]) -> Turn | None:
    """Return the turn that holds the statement's quote, or None where the statement is not covered by it."""
    if not (statement.text.strip() and 1 <= statement.line <= len(turns)):
        return None
    quote = _plain(statement.quote)
    # Models miscount lines; the quote decides, the line number only says where to look first.
    candidates = [turns[statement.line - 1], *turns]
    turn = next((t for t in candidates if len(quote) >= _MIN_QUOTE_CHARS and quote in _plain(t.text)), None)
    return turn if turn and _is_covered(statement.text, turn, turns) else None


def _is_covered(text: str, turn: Turn, turns: Sequence[Turn]) -> bool:
    speakers = " ".join(t.who for t in turns)
    said = {_stem(word) for word in _words(f"{turn.text} {speakers} {turn.at:%Y %B %d %m}")}
    words = _words(text)
    if any(word[0].isdigit() and word not in said for word in words):
        return False
    content = [word for word in words if len(word) >= _STEM_CHARS]
    covered = sum(_stem(word) in said for word in content)
    return covered >= _MIN_COVERED * len(content)


def _plain(text: str) -> str:
    return " ".join(_words(text))


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]


def _stem(word: str) -> str:
    return word if word[0].isdigit() else word[:_STEM_CHARS]
