"""What a search asks for, as one record."""

from __future__ import annotations

import msgspec

from ollama_async_mem.records import Selection  # noqa: TC001 - msgspec resolves annotations at run time

__all__ = ["Asked"]


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What is looked for, and where."""

    text: str
    selection: Selection
    limit: int
    min_score: float = 0.0
    explain: bool = False
