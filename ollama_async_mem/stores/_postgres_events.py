"""What happened to memories. Each function runs inside one transaction.

That a memory was added follows from its row; only what came after is stored, and stays when the row is gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ollama_async_mem.errors import RecordNotFound
from ollama_async_mem.records import Event

from ._postgres_rows import as_time, in_utc, read_or_none, write_or_none
from ._postgres_text import read, write

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from ollama_async_mem.records import EventKind

    from ._postgres_pool import Connection
    from ._postgres_rows import Row

__all__ = ["Why", "history", "insert_events", "read_lives"]

_INSERT = """
INSERT INTO events (user_id, memory_id, kind, at, old, new, actor, cause, by_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
"""
_READ = """
SELECT memory_id, kind, at, added_at, old, new, actor, cause, by_id
FROM unnest($1::text[], $2::text[]) AS wanted (user_id, memory_id) JOIN events USING (user_id, memory_id)
WHERE events.user_id = ANY ($1)
ORDER BY memory_id, seq
"""


class Why(NamedTuple):
    """When something is done, by whom and why."""

    now: datetime
    actor: str | None = None
    cause: str | None = None

    def event(self, memory_id: str, kind: EventKind, **texts: str | None) -> Event:
        """What is done, as an event."""
        return Event(memory_id=memory_id, kind=kind, at=self.now, actor=self.actor, cause=self.cause, **texts)

    @property
    def columns(self) -> tuple[datetime, str | None, str | None]:
        """As it is stored."""
        return in_utc(self.now), write_or_none(self.actor), write_or_none(self.cause)


async def insert_events(conn: Connection, events: Iterable[tuple[str, Event]]) -> None:
    """Write down what happened to memories, each with the id of its user as columns hold it."""
    await conn.executemany(_INSERT, [(user_id, *_columns(event)) for user_id, event in events])


def _columns(event: Event) -> tuple[Any, ...]:
    texts = (event.old, event.new, event.actor, event.cause, event.by)
    return (write(event.memory_id), event.kind, in_utc(event.at), *map(write_or_none, texts))


async def history(conn: Connection, memory_id: str) -> list[Event]:
    """Read what happened to a memory, oldest first. An id that was used again has a beginning for each of its lives.

    Raises:
        RecordNotFound: there never was one with this id.
    """
    whose = await conn.fetchrow("SELECT user_id, others FROM ids WHERE id = $1", write(memory_id))
    if whose is None:
        raise RecordNotFound(memory_id)
    alive = await conn.fetchrow(_ALIVE, whose["user_id"], write(memory_id))
    events: list[Event] = []
    life: list[Event] = []
    users = {whose["user_id"], *(whose["others"] or ())}
    for row in await read_events(conn, [(user, write(memory_id)) for user in users]):
        life.append(as_event(row))
        if row["added_at"] is not None:
            events += [Event(memory_id=memory_id, kind="added", at=as_time(row["added_at"])), *life]
            life = []
    if alive:
        text = next((event.old for event in life if event.old is not None), read(alive["text"]))
        events += [Event(memory_id=memory_id, kind="added", at=as_time(alive["created_at"]), new=text), *life]
    return events


_ALIVE = "SELECT text, created_at FROM memories WHERE user_id = $1 AND id = $2"


async def read_events(conn: Connection, keys: Sequence[tuple[str, str]]) -> Sequence[Row]:
    """Read the stored events of memories by user and id, those of each in the order in which they happened."""
    return cast("Sequence[Row]", await conn.fetch(_READ, [user for user, _ in keys], [memory for _, memory in keys]))


async def read_lives(conn: Connection, rows: Sequence[Row]) -> dict[str, tuple[Event, ...]]:
    """Read what happened to the memories of rows, since they were added."""
    lives: dict[str, tuple[Event, ...]] = {}
    for row in await read_events(conn, [(row["user_id"], row["id"]) for row in rows]):
        event = as_event(row)
        lives[event.memory_id] = () if row["added_at"] is not None else (*lives.get(event.memory_id, ()), event)
    return lives


def as_event(row: Row) -> Event:
    """The record of a row."""
    return Event(
        memory_id=read(row["memory_id"]),
        kind=row["kind"],
        at=as_time(row["at"]),
        old=read_or_none(row["old"]),
        new=read_or_none(row["new"]),
        actor=read_or_none(row["actor"]),
        cause=read_or_none(row["cause"]),
        by=read_or_none(row["by_id"]),
    )
