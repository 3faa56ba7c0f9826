"""How much there is: what stores, the extraction and the embedder count. Records only."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - msgspec resolves annotations at run time

import msgspec

from .records import EmbeddingSpace, Scope  # noqa: TC001 - as above

__all__ = ["Counts", "EmbeddingCounts", "ExtractionCounts", "MemoryStatistics", "ScopeCounts", "Statistics"]


class Counts(msgspec.Struct, frozen=True):
    """How many memories there are of each kind."""

    turns: int
    facts: int


class ScopeCounts(msgspec.Struct, frozen=True):
    """How many memories exactly this scope has, and when the newest was said."""

    scope: Scope
    turns: int
    facts: int
    newest: datetime


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """What a store holds: memories by kind, facts that no longer hold, memories that expired, jobs and bytes.

    `scopes` are those that hold memories.
    """

    turns: int
    facts: int
    superseded: int
    expired: int
    scopes: int
    jobs_queued: int
    jobs_dead: int
    size_bytes: int
    schema_version: int
    space: EmbeddingSpace | None = None


class ExtractionCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the extraction since a memory was opened.

    `rejected` counts by reason the statements of the model that were not stored, and `repaired` the answers that fitted
    when they were asked for again.
    """

    jobs_done: int = 0
    jobs_failed: int = 0
    facts_added: int = 0
    reinforced: int = 0
    superseded: int = 0
    repaired: int = 0
    rejected: dict[str, int] = {}


class EmbeddingCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What an embedder has done since it was made.

    `texts` were asked for, in pieces where they were too long: `cache_hits` of them were in the cache, `shared` were
    under way already, and `sent` went out in `requests`, which took `seconds` in sum and were tried again `retries`
    times. `failed` have no vector. `split` is the number of too long texts, `dimension` the length of the vectors, 0
    before the first.
    """

    requests: int = 0
    retries: int = 0
    seconds: float = 0.0
    texts: int = 0
    sent: int = 0
    shared: int = 0
    cache_hits: int = 0
    cached: int = 0
    cache_bytes: int = 0
    split: int = 0
    failed: int = 0
    dimension: int = 0


class MemoryStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What a store holds, and what extraction and embedder of this process did, None where that is not counted."""

    store: Statistics
    extraction: ExtractionCounts | None = None
    embedding: EmbeddingCounts | None = None
