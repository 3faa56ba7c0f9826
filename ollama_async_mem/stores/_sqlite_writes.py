"""Writing memories with their vectors, keyword index and links. Each function runs inside one transaction."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import msgspec

from ollama_async_mem.errors import EmbeddingMismatch, StoreError
from ollama_async_mem.records import EmbeddingSpace, Fact, Turn

from ._sqlite_reads import find_seq, intern_name, micros, read_space
from ._text import clean, spaced
from ._vectors import unit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from ollama_async_mem.ports import Vector
    from ollama_async_mem.records import MemoryRecord, Scope

__all__ = ["delete", "insert_memories", "require_space", "scope_id"]


def insert_memories(
    conn: sqlite3.Connection, memories: Sequence[MemoryRecord], vectors: Sequence[Vector], *, model: str, where: str
) -> list[int]:
    """Store memories with their vectors and index entries; returns their rows.

    Raises:
        EmbeddingMismatch: the store holds vectors of another model or dimension.
        StoreError: an id is taken, or a value cannot be stored.
    """
    if len(memories) != len(vectors):
        raise StoreError(f"{len(memories)} memories came with {len(vectors)} vectors")
    seqs = []
    for memory, vector in zip(memories, vectors, strict=True):
        row = unit(vector)
        bind_space(conn, EmbeddingSpace(model, row.size), where)
        seq = _insert_row(conn, memory)
        conn.execute("INSERT INTO vectors (seq, embedding) VALUES (?, ?)", (seq, row.tobytes()))
        conn.execute(_INDEX, (seq,))
        seqs.append(seq)
    return seqs


_INDEX = "INSERT INTO memory_index (rowid, body, scope) SELECT seq, body, scope FROM memory_texts WHERE seq = ?"

# An index that does not keep its text is told what to forget: https://www.sqlite.org/fts5.html#the_delete_command
_UNINDEX = """
INSERT INTO memory_index (memory_index, rowid, body, scope)
SELECT 'delete', seq, body, scope FROM memory_texts WHERE seq = ?
"""


def delete(conn: sqlite3.Connection, memory_id: str) -> None:
    """Destroy a memory; its vector, links and place in jobs go with the row."""
    seq = find_seq(conn, memory_id)
    conn.execute(_UNINDEX, (seq,))
    conn.execute(
        "UPDATE scopes SET removals = removals + 1 WHERE id = (SELECT scope_id FROM memories WHERE seq = ?)", (seq,)
    )
    conn.execute("DELETE FROM memories WHERE seq = ?", (seq,))


def bind_space(conn: sqlite3.Connection, space: EmbeddingSpace, where: str) -> None:
    """Check that vectors fit those that are there; the first ones decide."""
    bound = read_space(conn)
    if bound is None:
        conn.execute("INSERT INTO meta (key, value) VALUES ('embedding_space', ?)", (_json(space).decode(),))
    else:
        require_space(bound, space, where)


def require_space(bound: EmbeddingSpace, space: EmbeddingSpace, where: str) -> None:
    """Check that vectors of a space can be compared with those of the store.

    Raises:
        EmbeddingMismatch: they are of another model or dimension.
    """
    if bound != space:
        expected, got = (f"{s.model} with {s.dimension} dimensions" for s in (bound, space))
        raise EmbeddingMismatch(expected=expected, got=got, where=f"the store {where}")


def scope_id(conn: sqlite3.Connection, scope: Scope) -> int:
    """The row of exactly this scope, made when it is new."""
    keys = tuple(_name_key(conn, name) for name in (scope.user_id, scope.agent_id, scope.run_id))
    found = conn.execute("SELECT id FROM scopes WHERE user_key = ? AND agent_key = ? AND run_key = ?", keys).fetchone()
    if found is None:
        return _insert(conn, "INSERT INTO scopes (user_key, agent_key, run_key) VALUES (?, ?, ?)", keys)
    return int(found[0])


def _name_key(conn: sqlite3.Connection, name: str | None) -> int:
    """The number of an id, 0 for none."""
    if name is None:
        return 0
    raw = (intern_name(name),)
    found = conn.execute("SELECT key FROM names WHERE name = ?", raw).fetchone()
    return int(found[0]) if found else _insert(conn, "INSERT INTO names (name) VALUES (?)", raw)


def _insert_row(conn: sqlite3.Connection, memory: MemoryRecord) -> int:
    """Insert the row of a memory and return its number."""
    values = {**_columns(memory), "scope_id": scope_id(conn, memory.scope)}
    try:
        return _insert(conn, _INSERT, values)
    except UnicodeEncodeError as exc:
        raise StoreError(f"the id {memory.id!r} has a lone surrogate, and cannot be stored") from exc
    except sqlite3.IntegrityError as exc:
        raise StoreError(f"a memory with the id {memory.id!r} is already stored") from exc


def _insert(conn: sqlite3.Connection, sql: str, values: tuple[Any, ...] | dict[str, Any]) -> int:
    """Insert a row and return its number."""
    return conn.execute(sql, values).lastrowid or 0


_INSERT = """
INSERT INTO memories (id, scope_id, kind, role, speaker, text, quote, terms, at, at_offset_s, created_at, valid_to,
  metadata)
VALUES (:id, :scope_id, :kind, :role, :speaker, :text, :quote, :terms, :at, :at_offset_s, :created_at, :valid_to,
  :metadata)
"""


def _columns(memory: MemoryRecord) -> dict[str, Any]:
    """The columns of a memory."""
    text = clean(memory.text)
    role, speaker = (clean(memory.role), _clean(memory.speaker)) if isinstance(memory, Turn) else (None, None)
    quote, valid_to = (clean(memory.quote), memory.valid_to) if isinstance(memory, Fact) else (None, None)
    body = text if speaker is None else f"{speaker} {text}"
    terms = spaced(body)
    return {
        "id": memory.id,
        "kind": memory.kind,
        "role": role,
        "speaker": speaker,
        "text": text,
        "quote": quote,
        "terms": None if terms == body else terms,
        "at": _instant(memory.at),
        "at_offset_s": _offset_s(memory.at),
        "created_at": _instant(memory.created_at),
        "valid_to": None if valid_to is None else _instant(valid_to),
        "metadata": _json(memory.metadata) if memory.metadata else None,
    }


def _clean(text: str | None) -> str | None:
    return None if text is None else clean(text)


def _instant(at: datetime) -> int:
    if at.utcoffset() is None:
        raise StoreError(f"the time {at} has no timezone")
    try:
        return micros(at)
    except OverflowError as exc:
        raise StoreError(f"the time {at} is out of range") from exc


def _offset_s(at: datetime) -> int:
    offset = at.utcoffset()
    return int(offset.total_seconds()) if offset else 0


def _json(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError) as exc:
        raise StoreError(f"metadata cannot be written as JSON: {exc}") from exc
