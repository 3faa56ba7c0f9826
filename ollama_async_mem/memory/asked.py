"""What a search asks for, as one record."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import msgspec

from ollama_async_mem.records import Selection  # noqa: TC001 - msgspec resolves annotations at run time

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from typing import Any

__all__ = ["Asked", "Asking"]


class Asking(TypedDict, total=False):
    """Arguments of `Memory.search` that say which memories are meant."""

    user_id: str | None
    agent_id: str | None
    run_id: str | None
    filters: Mapping[str, Any] | None
    as_of: datetime | str | None


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What is looked for, and where."""

    text: str
    selection: Selection
    limit: int
    min_score: float = 0.0
    explain: bool = False
