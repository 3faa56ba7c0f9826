"""Texts as they may be stored. Pure."""

from __future__ import annotations

import re

__all__ = ["clean"]

_SURROGATES = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """Replace lone surrogates, which are no characters and which neither JSON nor files can hold, by U+FFFD."""
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)
