"""A second look at the best hits, by a model that reads query and text together. Asks nothing of the store."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ollama_async_mem.errors import OllamaAsyncMemError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ollama_async_mem.ports import Reranker
    from ollama_async_mem.records import Hit

__all__ = ["reranked", "room"]

_log = logging.getLogger(__name__)
_MOST = 50


def room(limit: int) -> int:
    """How many hits are worth a second look, where so many are asked for."""
    return max(limit, min(4 * limit, _MOST))


async def reranked(reranker: Reranker, query: str, hits: Sequence[Hit], *, explain: bool) -> list[Hit] | None:
    """Order hits by the reranker's scores, which become theirs; None where it failed, with the reason in the log."""
    try:
        scores = _checked(await reranker.rerank(query, [hit.text for hit in hits]), len(hits)) if hits else []
    except OllamaAsyncMemError as exc:
        _log.warning("hits keep their order, the reranker failed: %s", exc)
        return None
    again = [_scored(hit, score, explain=explain) for hit, score in zip(hits, scores, strict=True)]
    return sorted(again, key=lambda hit: hit.score, reverse=True)


def _checked(scores: Sequence[float], count: int) -> list[float]:
    """Scores as numbers from 0 to 1.

    Raises:
        ProtocolError: there is not one for each text, or one is no number.
    """
    found = [float(score) for score in scores]
    if len(found) != count or any(map(math.isnan, found)):
        raise ProtocolError(f"a reranker answers with one number for each of {count} texts, got {found[:8]}")
    return [min(1.0, max(0.0, score)) for score in found]


def _scored(hit: Hit, score: float, *, explain: bool) -> Hit:
    parts = {**hit.parts, "ranked": hit.score, "reranked": score} if explain else hit.parts
    return replace(hit, score=score, parts=parts)
