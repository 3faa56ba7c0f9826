"""What happens in a memory, for those who watch it. Records only."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - msgspec resolves annotations at run time
from typing import TypeAlias

import msgspec

from .records import Fact, MemoryRecord, Scope, Turn  # noqa: TC001 - as above

__all__ = [
    "EventsLost",
    "FactAdded",
    "FactReinforced",
    "FactRejected",
    "FactSuperseded",
    "JobDone",
    "JobFailed",
    "MemoriesDeleted",
    "MemoryDeleted",
    "MemoryEvent",
    "MemoryUpdated",
    "TurnStored",
]


class TurnStored(msgspec.Struct, frozen=True, tag="turn_stored"):
    """A message was stored and can be found."""

    turn: Turn


class FactAdded(msgspec.Struct, frozen=True, tag="fact_added"):
    """A statement was drawn from turns."""

    fact: Fact


class FactReinforced(msgspec.Struct, frozen=True, tag="fact_reinforced"):
    """Turns of a scope said again what a fact of its owner says."""

    fact_id: str
    scope: Scope
    turn_ids: tuple[str, ...]


class FactSuperseded(msgspec.Struct, frozen=True, tag="fact_superseded"):
    """A fact no longer holds from `valid_to` on, because of the fact `by`. The scope is that of the turns behind it."""

    fact_id: str
    scope: Scope
    by: str | None
    valid_to: datetime


class FactRejected(msgspec.Struct, frozen=True, tag="fact_rejected"):
    """A statement of the model does not stand in the turns, for the reason given; it was not stored."""

    reason: str
    scope: Scope
    turn_ids: tuple[str, ...]


class JobDone(msgspec.Struct, frozen=True, tag="job_done"):
    """The facts of an add are extracted; there were so many new ones."""

    job_id: str
    scope: Scope
    facts: int


class JobFailed(msgspec.Struct, frozen=True, tag="job_failed"):
    """An extraction failed; it is tried again unless `is_final`. The turns stay in either case."""

    job_id: str
    scope: Scope
    error: str
    is_final: bool


class MemoryUpdated(msgspec.Struct, frozen=True, tag="memory_updated"):
    """A memory was changed, and is now this."""

    memory: MemoryRecord


class MemoryDeleted(msgspec.Struct, frozen=True, tag="memory_deleted"):
    """A memory was destroyed, and with a message the facts that no other message tells."""

    memory_id: str
    scope: Scope


class MemoriesDeleted(msgspec.Struct, frozen=True, tag="memories_deleted"):
    """So many memories of a scope were destroyed, or because they expired, of any scope; facts as above."""

    scope: Scope
    count: int
    cause: str | None = None


class EventsLost(msgspec.Struct, frozen=True, tag="events_lost"):
    """Whoever listened was too slow: so many events are missing here."""

    count: int


MemoryEvent: TypeAlias = (
    TurnStored
    | FactAdded
    | FactReinforced
    | FactSuperseded
    | FactRejected
    | JobDone
    | JobFailed
    | MemoryUpdated
    | MemoryDeleted
    | MemoriesDeleted
    | EventsLost
)
