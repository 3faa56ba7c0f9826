"""The records of the domain: what is stored, what is found, what is returned.

They know nothing of how they are stored or sent. All times are timezone-aware.
"""

from __future__ import annotations

import os
import time
import uuid
from datetime import date, datetime  # noqa: TC003 - msgspec resolves annotations at run time
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec
from msgspec.structs import replace

from .filters import AllOf, Condition

__all__ = [
    "AddResult",
    "Also",
    "Candidate",
    "Change",
    "DateRange",
    "EmbeddingSpace",
    "Event",
    "EventKind",
    "Fact",
    "Hit",
    "Job",
    "JobStatus",
    "Kind",
    "MemoryRecord",
    "Message",
    "Page",
    "Precision",
    "Recalled",
    "Reinforcement",
    "Scope",
    "SearchResult",
    "Selection",
    "Sort",
    "StoredJob",
    "StoredMemory",
    "Supersession",
    "Turn",
    "new_id",
]

Kind: TypeAlias = Literal["turn", "fact"]
EventKind: TypeAlias = Literal["added", "updated", "reinforced", "superseded", "deleted"]
Precision: TypeAlias = Literal["day", "weekend", "week", "month", "season", "year", "decade", "span"]
Sort: TypeAlias = Literal["-at", "at", "-created_at", "created_at"]


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

    `name` is the speaker where the role alone does not say it; `timestamp` is when it was said; `images` are bytes,
    base64 or data URLs, for a model with vision to describe.
    """

    role: str = "user"
    content: str = ""
    name: str | None = None
    timestamp: datetime | None = None
    images: tuple[bytes | str, ...] = ()


class Scope(msgspec.Struct, frozen=True, gc=False):
    """Whose memory it is. As a filter, the ids that are set must match and the others may be anything."""

    user_id: str | None = None
    agent_id: str | None = None
    run_id: str | None = None

    def __bool__(self) -> bool:
        return any(v is not None for v in (self.user_id, self.agent_id, self.run_id))

    @property
    def owner(self) -> Scope:
        """Whose facts are compared with each other: a user's with an agent, whatever the run; else the run's."""
        return self if self.user_id is None and self.agent_id is None else Scope(self.user_id, self.agent_id)


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which memories are meant: of a scope and of kinds, with a filter, and those that hold.

    A memory holds while it is neither superseded nor expired: now, or with `as_of` at that time, when it also must
    have been said. With `everything`, whether it holds does not matter.
    """

    scope: Scope = Scope()
    kinds: tuple[Kind, ...] = ("turn", "fact")
    where: Condition | None = None
    as_of: datetime | None = None
    everything: bool = False


class Also(msgspec.Struct, frozen=True):
    """A second place to look: beside what is found anywhere, at most `limit` that fulfil a further condition."""

    where: Condition
    limit: int

    def within(self, selection: Selection) -> Selection:
        """Narrow a selection to this place."""
        both = self.where if selection.where is None else AllOf((selection.where, self.where))
        return replace(selection, where=both)


class DateRange(msgspec.Struct, frozen=True, gc=False):
    """The days that some words of a text name.

    `start` and `end` are the first and the last day, both of them in the range. `precision` is the sort of stretch that
    was named; "span" is any other, such as "a few days ago" or "early June". `position` is where the words `text`
    begin and end in the text they come from.
    """

    start: date
    end: date
    precision: Precision
    text: str
    position: tuple[int, int]


class Turn(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="kind", tag="turn"):
    """A stored message, word for word; from `expires_at` on it is not found any more.

    `dates` are the days that its words name, seen from `at`.
    """

    id: str
    scope: Scope
    role: str
    text: str
    at: datetime
    created_at: datetime
    speaker: str | None = None
    metadata: dict[str, Any] = {}
    expires_at: datetime | None = None
    dates: tuple[DateRange, ...] = ()

    @property
    def kind(self) -> Kind:
        """Which kind of memory this is."""
        return "turn"

    @property
    def who(self) -> str:
        """The speaker's name, or the role where no name was given."""
        return self.speaker or self.role


class Fact(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="kind", tag="fact"):
    """A stored statement, with the words it was drawn from and the turns that hold them.

    `at` is when it was said, and `dates` are the days that its words name, seen from then; `valid_to` is set once a
    later fact supersedes it; from `expires_at` on it is not found any more.
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
    expires_at: datetime | None = None
    dates: tuple[DateRange, ...] = ()

    @property
    def kind(self) -> Kind:
        """Which kind of memory this is."""
        return "fact"


MemoryRecord: TypeAlias = Turn | Fact


M = TypeVar("M", Turn, Fact, MemoryRecord)


def owned(memory: M) -> M:
    """A copy that shares nothing that can be changed."""
    return replace(memory, metadata=_copied(memory.metadata))


def _copied(value: Any) -> Any:
    """Copy JSON, with one frame for each level of it: there may be hundreds."""
    if isinstance(value, dict):
        return dict(zip(value, map(_copied, value.values()), strict=True))
    return list(map(_copied, value)) if isinstance(value, list) else value


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """A memory that one index proposes, with that index's own score (higher is better)."""

    memory: MemoryRecord
    score: float


class Hit(msgspec.Struct, frozen=True, gc=False):
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
    """The hits, best first. `degraded` names what could not be asked: "dense" is the vectors, or the "reranker"."""

    hits: tuple[Hit, ...]
    degraded: tuple[str, ...] = ()

    def __iter__(self) -> Any:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)


class Recalled(msgspec.Struct, frozen=True):
    """Dated lines for a prompt, "" where nothing fits, and the hits that they tell, best first."""

    text: str
    hits: tuple[Hit, ...] = ()
    degraded: tuple[str, ...] = ()


class AddResult(msgspec.Struct, frozen=True):
    """What `add` stored. The turns are durable and searchable.

    `extraction` is "none" where none was asked for, "queued" under `job_id`, and after `infer="now"` also "done",
    "waiting" for a model that is away, or "failed", with the reason in `error`. Where `is_new` is off, all of it had
    been added before, and `turns` are those of then.
    """

    turns: tuple[Turn, ...]
    job_id: str | None = None
    extraction: Literal["none", "queued", "done", "waiting", "failed"] = "none"
    error: str | None = None
    is_new: bool = True


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What an update changes; what is UNSET stays. `metadata` is merged key by key, where None removes a key.

    `dates` are those of the new text: a text that comes without them names none.
    """

    text: str | msgspec.UnsetType = msgspec.UNSET
    metadata: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    expires_at: datetime | msgspec.UnsetType | None = msgspec.UNSET
    dates: tuple[DateRange, ...] = ()


class Supersession(msgspec.Struct, frozen=True, kw_only=True):
    """That a fact no longer holds from `valid_to` on, because of another one where `by` names it."""

    fact_id: str
    valid_to: datetime
    by: str | None = None
    cause: str | None = None


class Reinforcement(msgspec.Struct, frozen=True, kw_only=True):
    """That turns said again what a fact says: they join those that it was drawn from."""

    fact_id: str
    turn_ids: tuple[str, ...]
    at: datetime
    cause: str | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to a memory: when, by whom and why.

    `old` and `new` are the text before and after where it changed: "added" has `new`, "updated" both if the text was
    updated, the others neither. `by` is the fact to which a superseded one gave way. Deleting a memory destroys the
    texts of all its events too; that it was there and was deleted remains.
    """

    memory_id: str
    kind: EventKind
    at: datetime
    old: str | None = None
    new: str | None = None
    actor: str | None = None
    cause: str | None = None
    by: str | None = None


class Page(msgspec.Struct, frozen=True):
    """Part of a listing; `cursor` fetches the next part and is None on the last."""

    items: tuple[MemoryRecord, ...]
    cursor: str | None = None


class EmbeddingSpace(msgspec.Struct, frozen=True):
    """Which model made the vectors of a store, and how long they are."""

    model: str
    dimension: int


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Turns whose facts are still to be extracted, as a store hands them out; `attempts` counts this one.

    `prompt` takes the place of the usual instructions to the model.

    `claim` is the fencing token: whoever was overtaken by a later claim can no longer end the job.
    """

    id: str
    scope: Scope
    turn_ids: tuple[str, ...]
    attempts: int
    claim: int = 0
    prompt: str | None = None


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


class StoredMemory(msgspec.Struct, frozen=True, kw_only=True):
    """All that a store holds of one memory, to be written elsewhere.

    `vector` is float32, little endian; `events` is its history without the "added", which follows from the memory.
    """

    memory: MemoryRecord
    vector: bytes
    events: tuple[Event, ...] = ()


class StoredJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job that is not finished, to be written elsewhere."""

    id: str
    scope: Scope
    turn_ids: tuple[str, ...]
    state: Literal["queued", "dead"] = "queued"
    attempts: int = 0
    error: str | None = None
    prompt: str | None = None
