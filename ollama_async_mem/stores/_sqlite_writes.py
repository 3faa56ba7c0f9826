"""Changing, ending and destroying memories, with a note of it. Each function runs inside one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from ollama_async_mem.errors import RecordNotFound, StoreError
from ollama_async_mem.records import Turn

from ._checks import MESSAGE_CHANGED, MESSAGES_DELETED
from ._json import write_dates, write_json
from ._sqlite_events import Why, note, note_deleted
from ._sqlite_inserts import link, terms_of, turn_seqs, unit_vector
from ._sqlite_merges import words_were_deleted
from ._sqlite_rows import find, find_seq, load_rows
from ._sqlite_selection import selection_sql
from ._sqlite_values import micros, micros_or_none
from ._text import clean, clean_or_none

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
    from datetime import datetime

    from ollama_async_mem.ports import Vector
    from ollama_async_mem.records import Change, MemoryRecord, Reinforcement, Selection, Supersession

__all__ = ["delete", "delete_all", "forget_facts_of", "purge_expired", "reinforce", "supersede", "update"]

_INDEX = "INSERT INTO memory_index (rowid, body, scope) SELECT seq, body, scope FROM memory_texts WHERE seq = ?"

# An index that does not keep its text is told what to forget: https://www.sqlite.org/fts5.html#the_delete_command
_UNINDEX = """
INSERT INTO memory_index (memory_index, rowid, body, scope)
SELECT 'delete', seq, body, scope FROM memory_texts WHERE seq
"""


def update(
    conn: sqlite3.Connection,
    memory_id: str,
    change: Change,
    vector: Vector | None,
    *,
    model: str,
    why: Why,
    where: str,
) -> tuple[MemoryRecord, MemoryRecord]:
    """Change a memory and note it; returns it as it was and as it is now.

    Raises:
        RecordNotFound: there is none with this id.
        EmbeddingMismatch: the store holds vectors of another model or dimension.
        StoreError: a new text came without a vector, or a value cannot be stored.
    """
    seq = find_seq(conn, memory_id)
    before = load_rows(conn, [seq])[seq]
    columns = _changed_columns(conn, before, change)
    if "text" in columns and vector is None:
        raise StoreError("a new text needs its vector, or it would be found by the meaning of the old one")
    if columns:
        _rewrite(conn, seq, columns)
    if vector is not None:
        row = unit_vector(conn, vector, model=model, where=where)
        conn.execute("UPDATE vectors SET embedding = ? WHERE seq = ?", (row, seq))
    is_new = "text" in columns
    note(conn, memory_id, "updated", why, old=before.text if is_new else None, new=columns.get("text"))
    return before, load_rows(conn, [seq])[seq]


def supersede(
    conn: sqlite3.Connection, supersessions: Sequence[Supersession], why: Why, *, skip_missing: bool = False
) -> None:
    """End facts and note it; one that ended earlier is left as it is.

    Raises:
        RecordNotFound: there is no fact with one of these ids, and those are not to be skipped.
    """
    for said in supersessions:
        row = find(conn, "SELECT seq, valid_to FROM memories WHERE id = ? AND kind = 'fact'", said.fact_id)
        if row is None and not skip_missing:
            raise RecordNotFound(said.fact_id)
        ends = micros(said.valid_to)
        if row is not None and (row[1] is None or row[1] > ends):
            _rewrite(conn, row[0], {"valid_to": ends})
            note(conn, said.fact_id, "superseded", why._replace(cause=said.cause), by=said.by)


def reinforce(conn: sqlite3.Connection, reinforcements: Sequence[Reinforcement]) -> None:
    """Add turns to those that facts were drawn from, and note it; where none is new nothing is noted."""
    for said in reinforcements:
        row = find(conn, "SELECT seq FROM memories WHERE id = ? AND kind = 'fact'", said.fact_id)
        linked = conn.execute(_LINKED, row).fetchall() if row else []
        known = {turn for _, turn in linked}
        new = [seq for seq in dict.fromkeys(turn_seqs(conn, said.turn_ids)) if seq not in known]
        if row and new:
            link(conn, row[0], new, first=linked[-1][0] + 1 if linked else 0)
            note(conn, said.fact_id, "reinforced", Why(said.at, cause=said.cause))


_LINKED = "SELECT position, turn_seq FROM links WHERE fact_seq = ? ORDER BY position"


def delete(conn: sqlite3.Connection, memory_id: str, why: Why) -> None:
    """Destroy a memory.

    Raises:
        RecordNotFound: there is none with this id.
    """
    _destroy(conn, "memories.seq = ?", [find_seq(conn, memory_id)], why)


def delete_all(conn: sqlite3.Connection, selection: Selection, why: Why) -> int:
    """Destroy the memories of a selection; returns how many there were."""
    chosen = selection_sql(conn, selection, why.now)
    return _destroy(conn, *chosen, why) if chosen else 0


def purge_expired(conn: sqlite3.Connection, now: datetime, why: Why) -> int:
    """Destroy the memories that expired by a time; returns how many there were."""
    return _destroy(conn, "memories.expires_at <= ?", [micros(now)], why)


def forget_facts_of(conn: sqlite3.Connection, turn_id: str, why: Why) -> None:
    """Take a turn whose text changed out of the facts that were drawn from it, and destroy those without another."""
    seq = find_seq(conn, turn_id)
    _doom(conn, "memories.seq = ?", [seq], None)
    _doom_facts(conn, MESSAGE_CHANGED)
    conn.execute("DELETE FROM links WHERE turn_seq = ?", (seq,))
    conn.execute("DELETE FROM doomed WHERE seq = ?", (seq,))
    _destroy_doomed(conn, why)


def _destroy(conn: sqlite3.Connection, condition: str, values: Sequence[Any], why: Why) -> int:
    """Destroy memories, and the facts that were drawn from them alone; returns how many there were of the former."""
    count = _doom(conn, condition, values, why.cause)
    _doom_facts(conn, MESSAGES_DELETED)
    _destroy_doomed(conn, why)
    return count


def _doom(conn: sqlite3.Connection, condition: str, values: Sequence[Any], cause: str | None) -> int:
    """Make `doomed` the rows of a condition; returns how many there are."""
    conn.execute("CREATE TEMP TABLE IF NOT EXISTS doomed (seq INTEGER PRIMARY KEY, cause TEXT)")
    conn.execute("DELETE FROM doomed")
    chosen = f"INSERT INTO doomed SELECT seq, ? FROM memories WHERE {condition}"  # noqa: S608 - no text of others
    return conn.execute(chosen, (clean_or_none(cause), *values)).rowcount


def _doom_facts(conn: sqlite3.Connection, cause: str) -> None:
    """Add the facts all of whose turns are doomed; those that have others lose a quote that stands in none of them."""
    conn.execute(_DOOM_FACTS, (cause,))
    conn.execute(_FORGET_QUOTES)


_DOOM_FACTS = """
INSERT INTO doomed SELECT DISTINCT fact_seq, ? FROM links
WHERE turn_seq IN (SELECT seq FROM doomed) AND fact_seq NOT IN (SELECT seq FROM doomed) AND NOT EXISTS (
  SELECT 1 FROM links AS others
  WHERE others.fact_seq = links.fact_seq AND others.turn_seq NOT IN (SELECT seq FROM doomed)
)
"""
_FORGET_QUOTES = """
UPDATE memories SET quote = '' WHERE quote <> '' AND seq NOT IN (SELECT seq FROM doomed)
  AND seq IN (SELECT fact_seq FROM links WHERE turn_seq IN (SELECT seq FROM doomed))
  AND NOT EXISTS (
    SELECT 1 FROM links JOIN memories AS turn ON turn.seq = turn_seq
    WHERE fact_seq = memories.seq AND turn_seq NOT IN (SELECT seq FROM doomed) AND instr(turn.text, memories.quote)
  )
"""


def _destroy_doomed(conn: sqlite3.Connection, why: Why) -> None:
    """Destroy the rows of `doomed`; their vectors, links and places in jobs go with them."""
    note_deleted(conn, why)
    if conn.execute("SELECT 1 FROM memories WHERE seq NOT IN (SELECT seq FROM doomed) LIMIT 1").fetchone():
        conn.execute(f"{_UNINDEX} IN (SELECT seq FROM doomed)")  # noqa: S608 - as above
    else:
        conn.execute("INSERT INTO memory_index (memory_index) VALUES ('delete-all')")
    if conn.execute("DELETE FROM memories WHERE seq IN (SELECT seq FROM doomed)").rowcount:
        words_were_deleted(conn)


def _rewrite(conn: sqlite3.Connection, seq: int, columns: dict[str, Any]) -> None:
    """Change a row, and its index entries where they depend on it."""
    is_indexed = not columns.keys().isdisjoint({"text", "valid_to"})
    if is_indexed:
        conn.execute(f"{_UNINDEX} = ?", (seq,))
    slots = ", ".join(f"{column} = ?" for column in columns)
    conn.execute(f"UPDATE memories SET {slots} WHERE seq = ?", (*columns.values(), seq))  # noqa: S608 - column names only
    if is_indexed:
        conn.execute(_INDEX, (seq,))


def _changed_columns(conn: sqlite3.Connection, before: MemoryRecord, change: Change) -> dict[str, Any]:
    """The columns that a change sets."""
    columns: dict[str, Any] = {}
    if change.text is not UNSET:
        columns["text"] = text = clean(change.text)
        columns["terms"] = terms_of(conn, text, before.speaker if isinstance(before, Turn) else None)
        columns["dates"] = write_dates(change.dates)
    if change.metadata is not UNSET:
        gone = {key for key, value in change.metadata.items() if value is None}
        merged = {key: value for key, value in (before.metadata | change.metadata).items() if key not in gone}
        columns["metadata"] = write_json(merged) if merged else None
    if change.expires_at is not UNSET:
        columns["expires_at"] = micros_or_none(change.expires_at)
    return columns
