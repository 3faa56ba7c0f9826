"""What happened to memories. Each function runs inside one transaction.

That a memory was added follows from its row; only what came after is stored, and stays when the row is gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ollama_async_mem.errors import RecordNotFound
from ollama_async_mem.records import Event

from ._sqlite_rows import find
from ._sqlite_values import from_micros, micros
from ._text import clean_or_none

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from ollama_async_mem.records import EventKind

__all__ = ["Why", "history", "life", "note", "note_deleted", "restore"]


class Why(NamedTuple):
    """When something is done, by whom and why."""

    now: datetime
    actor: str | None = None
    cause: str | None = None

    @property
    def columns(self) -> tuple[int, str | None, str | None]:
        """As it is stored."""
        return micros(self.now), clean_or_none(self.actor), clean_or_none(self.cause)


def note(
    conn: sqlite3.Connection,
    memory_id: str,
    kind: EventKind,
    why: Why,
    *,
    old: str | None = None,
    new: str | None = None,
    by: str | None = None,
) -> None:
    """Write down that something happened to a memory."""
    at, actor, cause = why.columns
    conn.execute(_NOTE, (memory_id, kind, at, old, new, actor, cause, clean_or_none(by)))


_NOTE = "INSERT INTO events (memory_id, kind, at, old, new, actor, cause, by_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


def note_deleted(conn: sqlite3.Connection, why: Why) -> None:
    """Write down that the memories of `doomed` are deleted, each for its cause; destroy the texts of their events."""
    conn.execute(_BLANK)
    conn.execute(_NOTE_DELETED, why.columns[:2])


_BLANK = """
UPDATE events SET old = NULL, new = NULL
WHERE memory_id IN (SELECT id FROM memories WHERE seq IN (SELECT seq FROM doomed))
"""

_NOTE_DELETED = """
INSERT INTO events (memory_id, kind, at, added_at, actor, cause)
SELECT id, 'deleted', ?1, created_at, ?2, doomed.cause FROM doomed JOIN memories USING (seq) ORDER BY seq
"""


def history(conn: sqlite3.Connection, memory_id: str) -> list[Event]:
    """Read what happened to a memory, oldest first. An id that was used again has a beginning for each of its lives.

    Raises:
        RecordNotFound: there never was one with this id.
    """
    events: list[Event] = []
    alive = find(conn, "SELECT text, created_at FROM memories WHERE id = ?", memory_id)
    now: list[Event] = []
    for event, added_at in _events(conn, memory_id):
        now.append(event)
        if added_at is not None:
            events += [Event(memory_id=memory_id, kind="added", at=from_micros(added_at)), *now]
            now = []
    if alive:
        text = next((event.old for event in now if event.old is not None), alive[0])
        events += [Event(memory_id=memory_id, kind="added", at=from_micros(alive[1]), new=text), *now]
    if not events:
        raise RecordNotFound(memory_id)
    return events


def life(conn: sqlite3.Connection, memory_id: str) -> tuple[Event, ...]:
    """Read what happened to a memory that is there, since it was added."""
    events = _events(conn, memory_id)
    ends = [i for i, (_, added_at) in enumerate(events, 1) if added_at is not None]
    return tuple(event for event, _ in events[ends[-1] if ends else 0 :])


def _events(conn: sqlite3.Connection, memory_id: str) -> list[tuple[Event, int | None]]:
    """The stored events of a memory, with when it was added where one says that it was deleted."""
    rows: list[tuple[Any, ...]] = (
        [] if find(conn, _ANY, memory_id) is None else conn.execute(_READ, (memory_id,)).fetchall()
    )
    return [
        (
            Event(
                memory_id=memory_id, kind=kind, at=from_micros(at), old=old, new=new, actor=actor, cause=cause, by=by
            ),
            added,
        )
        for kind, at, added, old, new, actor, cause, by in rows
    ]


_ANY = "SELECT 1 FROM events WHERE memory_id = ? LIMIT 1"
_READ = "SELECT kind, at, added_at, old, new, actor, cause, by_id FROM events WHERE memory_id = ? ORDER BY seq"


def restore(conn: sqlite3.Connection, events: Iterable[Event]) -> None:
    """Store events that another store dumped with a memory."""
    rows: Sequence[tuple[Any, ...]] = [
        (
            e.memory_id,
            e.kind,
            micros(e.at),
            clean_or_none(e.old),
            clean_or_none(e.new),
            clean_or_none(e.actor),
            clean_or_none(e.cause),
            clean_or_none(e.by),
        )
        for e in events
        if e.kind in {"updated", "reinforced", "superseded"}
    ]
    conn.executemany(_NOTE, rows)
