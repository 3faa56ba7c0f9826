"""The records of the domain: what is stored, what is found, what is returned.

They know nothing of how they are stored or sent. All times are timezone-aware.
"""

from __future__ import annotations

import os
import time
import uuid
from datetime import datetime  # noqa: TC003 - msgspec resolves annotations at run time
from typing import Any, Literal, TypeAlias

import msgspec

__all__ = [
    "AddResult",
    "Candidate",
    "Counts",
    "EmbeddingSpace",
    "Fact",
    "Hit",
    "Job",
    "JobStatus",
    "Kind",
    "MemoryRecord",
    "Message",
    "Page",
    "Scope",
    "SearchResult",
    "Turn",
    "new_id",
]

Kind: TypeAlias = Literal["turn", "fact"]


_last_stamp = 0


def new_id() -> str:
    """Return a UUID of version 7 (RFC 9562, section 5.7): ids made later in a process sort later.

    The 12 bits behind the milliseconds are a fraction of one (method 3 of section 6.2), counted up where two
    ids fall into the same.
    """
    global _last_stamp  # noqa: PLW0603 - the order of ids is one for the process
    millis, nanos = divmod(time.time_ns(), 1_000_000)
    stamp = _last_stamp = max(millis << 12 | nanos * 4096 // 1_000_000, _last_stamp + 1)
    rand = int.from_bytes(os.urandom(8), "big") >> 2
    return str(uuid.UUID(int=stamp >> 12 << 80 | 7 << 76 | (stamp & 0xFFF) << 64 | 2 << 62 | rand))


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a conversation as the caller gives it.

    `name` is the speaker where the role alone does not say it; `timestamp` is when it was said.
    """

    role: str = "user"
    content: str = ""
    name: str | None = None
    timestamp: datetime | None = None


class Scope(msgspec.Struct, frozen=True):
    """Whose memory it is. As a filter, the ids that are set must match and the others may be anything."""

    user_id: str | None = None
    agent_id: str | None = None
    run_id: str | None = None

    def __bool__(self) -> bool:
        return any(v is not None for v in (self.user_id, self.agent_id, self.run_id))


class Turn(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="turn"):
    """A stored message, word for word."""

    id: str
    scope: Scope
    role: str
    text: str
    at: datetime
    created_at: datetime
    speaker: str | None = None
    metadata: dict[str, Any] = {}

    @property
    def kind(self) -> Kind:
        """Which kind of memory this is."""
        return "turn"

    @property
    def who(self) -> str:
        """The speaker's name, or the role where no name was given."""
        return self.speaker or self.role


class Fact(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="fact"):
    """A stored statement, with the words it was drawn from and the turns that hold them.

    `at` is when it was said; `valid_to` is set once a later fact supersedes it.
    """

    id: str
    scope: Scope
    text: str
    at: datetime
    created_at: datetime
    quote: str
    turn_ids: tuple[str, ...]
    valid_to: datetime | None = None
    metadata: dict[str, Any] = {}

    @property
    def kind(self) -> Kind:
        """Which kind of memory this is."""
        return "fact"


MemoryRecord: TypeAlias = Turn | Fact


class Candidate(msgspec.Struct, frozen=True):
    """A memory that one index proposes, with that index's own score (higher is better)."""

    memory: MemoryRecord
    score: float


class Hit(msgspec.Struct, frozen=True):
    """A memory that was found: `score` is 0..1, `parts` says what each index contributed to it."""

    memory: MemoryRecord
    score: float
    parts: dict[str, float] = {}

    @property
    def id(self) -> str:
        """The id of the memory."""
        return self.memory.id

    @property
    def text(self) -> str:
        """The text of the memory."""
        return self.memory.text

    @property
    def at(self) -> datetime:
        """When it was said."""
        return self.memory.at


class SearchResult(msgspec.Struct, frozen=True):
    """The hits, best first. `degraded` names the indexes that could not be asked."""

    hits: tuple[Hit, ...]
    degraded: tuple[str, ...] = ()

    def __iter__(self) -> Any:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)


class AddResult(msgspec.Struct, frozen=True):
    """What `add` stored. The turns are durable and searchable.

    `extraction` is "none" where none was asked for, "queued" under `job_id`, and after `infer="now"` also "done",
    "waiting" for a model that is away, or "failed", with the reason in `error`.
    """

    turns: tuple[Turn, ...]
    job_id: str | None = None
    extraction: Literal["none", "queued", "done", "waiting", "failed"] = "none"
    error: str | None = None


class Page(msgspec.Struct, frozen=True):
    """Part of a listing; `cursor` fetches the next part and is None on the last."""

    items: tuple[MemoryRecord, ...]
    cursor: str | None = None


class Counts(msgspec.Struct, frozen=True):
    """How many memories there are of each kind."""

    turns: int
    facts: int


class EmbeddingSpace(msgspec.Struct, frozen=True):
    """Which model made the vectors of a store, and how long they are."""

    model: str
    dimension: int


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Turns whose facts are still to be extracted, as a store hands them out; `attempts` counts this one.

    `claim` is the fencing token: whoever was overtaken by a later claim can no longer end the job.
    """

    id: str
    scope: Scope
    turn_ids: tuple[str, ...]
    attempts: int
    claim: int = 0


class JobStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How an extraction that is not finished stands: `queued`, or `dead` once it was given up.

    `due_at` is when it may be claimed: after a failure the time to try again, of a claimed one the end of the lease.
    It is None where the job need not wait, or is dead. `error` is the last failure.
    """

    id: str
    scope: Scope
    state: Literal["queued", "dead"]
    attempts: int
    due_at: datetime | None = None
    error: str | None = None
