"""Rows of memories, scopes and the embedding space as records. Each function runs inside one snapshot."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import msgspec

from ollama_async_mem.errors import RecordNotFound
from ollama_async_mem.records import Candidate, EmbeddingSpace, Fact, MemoryRecord, Scope, Turn

from ._json import read_dates, read_json
from ._sqlite_values import from_micros, from_micros_or_none, name_text

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

__all__ = ["candidates", "find", "find_seq", "get", "get_many", "load_rows", "read_scope", "read_space", "scope_of"]


def read_scope(conn: sqlite3.Connection, scope_id: int) -> Scope:
    """The scope of a row of `scopes`."""
    return scope_of(conn.execute(f"SELECT {_NAMES} FROM scopes WHERE id = ?", (scope_id,)).fetchone())  # noqa: S608 - column names only


_NAMES = """
  (SELECT name FROM names WHERE key = user_key),
  (SELECT name FROM names WHERE key = agent_key),
  (SELECT name FROM names WHERE key = run_key)
"""


def scope_of(names: Sequence[bytes | None]) -> Scope:
    """A scope from the names of its ids."""
    return Scope(*(None if name is None else name_text(name) for name in names))


def read_space(conn: sqlite3.Connection) -> EmbeddingSpace | None:
    """Which vectors the store holds."""
    row = conn.execute("SELECT value FROM meta WHERE key = 'embedding_space'").fetchone()
    return msgspec.json.decode(row[0], type=EmbeddingSpace) if row else None


def find(conn: sqlite3.Connection, sql: str, wanted: str) -> tuple[Any, ...] | None:
    """The first row of a query for an id, which may be any text."""
    try:
        row: tuple[Any, ...] | None = conn.execute(sql, (wanted,)).fetchone()
    except UnicodeEncodeError:  # a lone surrogate, which no stored id has
        return None
    return row


def find_seq(conn: sqlite3.Connection, memory_id: str) -> int:
    """The row of a memory.

    Raises:
        RecordNotFound: there is none with this id.
    """
    row = find(conn, "SELECT seq FROM memories WHERE id = ?", memory_id)
    if row is None:
        raise RecordNotFound(memory_id)
    return cast("int", row[0])


def get(conn: sqlite3.Connection, memory_id: str) -> MemoryRecord:
    """Read one memory.

    Raises:
        RecordNotFound: there is none with this id.
    """
    seq = find_seq(conn, memory_id)
    return load_rows(conn, [seq])[seq]


def get_many(conn: sqlite3.Connection, memory_ids: Sequence[str]) -> list[MemoryRecord]:
    """Read memories in the order of their ids, without those that are not there."""
    seqs: dict[str, int] = {}
    for memory_id in memory_ids:
        with suppress(RecordNotFound):
            seqs[memory_id] = find_seq(conn, memory_id)
    memories = load_rows(conn, list(seqs.values()))
    return [memories[seqs[memory_id]] for memory_id in memory_ids if memory_id in seqs]


def load_rows(conn: sqlite3.Connection, seqs: Sequence[int]) -> dict[int, MemoryRecord]:
    """Read memories by row."""
    wanted = (msgspec.json.encode(list(seqs)).decode(),)
    sources: dict[int, list[str]] = {}
    for fact_seq, turn_id in conn.execute(_LOAD_LINKS, wanted):
        sources.setdefault(fact_seq, []).append(turn_id)
    return {row[0]: _record(row, tuple(sources.get(row[0], ()))) for row in conn.execute(_LOAD, wanted)}


_LOAD = f"""
SELECT seq, memories.id, kind, role, speaker, text, quote, at, at_offset_s, created_at, valid_to, expires_at, metadata,
  dates, {_NAMES}
FROM memories JOIN scopes ON scopes.id = scope_id
WHERE seq IN (SELECT value FROM json_each(?))
"""  # noqa: S608 - column names only

_LOAD_LINKS = """
SELECT fact_seq, memories.id FROM links JOIN memories ON seq = turn_seq
WHERE fact_seq IN (SELECT value FROM json_each(?))
ORDER BY fact_seq, position
"""


def _record(row: tuple[Any, ...], turn_ids: tuple[str, ...]) -> MemoryRecord:
    """A row of `_LOAD` as a record."""
    _, memory_id, kind, role, speaker, text, quote, at, offset_s, *rest = row
    created_at, valid_to, expires_at, metadata, dates, *names = rest
    common: dict[str, Any] = {
        "id": memory_id,
        "scope": scope_of(names),
        "text": text,
        "at": from_micros(at, offset_s),
        "created_at": from_micros(created_at),
        "metadata": read_json(metadata) if metadata else {},
        "expires_at": from_micros_or_none(expires_at),
        "dates": read_dates(dates),
    }
    if kind == "turn":
        return Turn(role=role, speaker=speaker, **common)
    return Fact(quote=quote, turn_ids=turn_ids, valid_to=from_micros_or_none(valid_to), **common)


def candidates(conn: sqlite3.Connection, scored: Iterable[tuple[int, float]]) -> list[Candidate]:
    """Read the memories of scored rows, in the order given."""
    scores = dict(scored)
    memories = load_rows(conn, list(scores))
    return [Candidate(memories[seq], score) for seq, score in scores.items()]
