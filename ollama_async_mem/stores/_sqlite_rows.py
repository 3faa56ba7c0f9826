"""Rows of memories, scopes and the embedding space as records. Each function runs inside one snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import msgspec
from msgspec.structs import replace

from ollama_async_mem.errors import RecordNotFound
from ollama_async_mem.records import Candidate, EmbeddingSpace, Fact, MemoryRecord, Scope, Turn, owned

from ._json import read_dates, read_json
from ._sqlite_records import Row, read_through
from ._sqlite_values import from_micros, from_micros_or_none, name_text
from ._sqlite_work import memo_of
from ._text import clean

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Sequence

__all__ = [
    "candidates",
    "find",
    "find_seq",
    "get",
    "get_many",
    "load_rows",
    "merged",
    "own",
    "read_scope",
    "read_space",
    "scope_of",
    "shared_rows",
]

MAX_SLOTS = 500


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
    """Which vectors the store holds. That never changes once there are some."""
    memo = memo_of(conn)
    if "space" not in memo:
        row = conn.execute("SELECT value FROM meta WHERE key = 'embedding_space'").fetchone()
        if row is None:
            return None
        memo["space"] = msgspec.json.decode(row[0], type=EmbeddingSpace)
    space: EmbeddingSpace = memo["space"]
    return space


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


def by_ids(memory_ids: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Conditions on `memories` for some ids at a time, with a `?` for each, and those ids. Any text may be an id."""
    stored = [memory_id for memory_id in dict.fromkeys(memory_ids) if clean(memory_id) == memory_id]
    for start in range(0, len(stored), MAX_SLOTS):
        some = stored[start : start + MAX_SLOTS]
        yield f"memories.id IN ({', '.join('?' * len(some))})", some


def gathered(conn: sqlite3.Connection, columns: str, sql: str, values: Sequence[Any]) -> list[Any]:
    """Read some columns of all rows of a query, in no order. As one row: at each, threads may have to take turns."""
    (text,) = conn.execute(f"SELECT json_group_array({columns}) FROM ({sql})", values).fetchone()  # noqa: S608 - column names only
    found: list[Any] = msgspec.json.decode(text)
    return found


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
    for condition, ids in by_ids(memory_ids):
        seqs.update(conn.execute(f"SELECT id, seq FROM memories WHERE {condition}", ids))  # noqa: S608 - slots only
    memories = load_rows(conn, list(seqs.values()))
    return [memories[seqs[memory_id]] for memory_id in memory_ids if memory_id in seqs]


def load_rows(conn: sqlite3.Connection, seqs: Sequence[int]) -> dict[int, MemoryRecord]:
    """Read memories by row; each record is the caller's own."""
    memories = shared_rows(conn, seqs)
    return {seq: memory if memory.metadata else replace(memory, metadata={}) for seq, memory in memories.items()}


def shared_rows(conn: sqlite3.Connection, seqs: Sequence[int]) -> dict[int, MemoryRecord]:
    """Read memories by row. Those without metadata others may get too, so nobody gives them any."""
    rows = read_through(conn, seqs, _read_rows)
    sources = _sources(conn, [seq for seq, row in rows.items() if type(row.record) is Fact])
    memories: dict[int, MemoryRecord] = {}
    for seq, row in rows.items():
        record = row.record
        if type(record) is Fact:
            record = replace(record, turn_ids=tuple(sources.get(seq, ())))
        memories[seq] = replace(record, metadata=read_json(row.metadata)) if row.metadata else record
    return memories


def _sources(conn: sqlite3.Connection, facts: Sequence[int]) -> dict[int, list[str]]:
    """The turns that facts were drawn from, by row."""
    sources: dict[int, list[str]] = {}
    for fact_seq, turn_id in conn.execute(_LOAD_LINKS, (_json(facts),)) if facts else ():
        sources.setdefault(fact_seq, []).append(turn_id)
    return sources


_LOAD_LINKS = """
SELECT fact_seq, memories.id FROM links JOIN memories ON seq = turn_seq
WHERE fact_seq IN (SELECT value FROM json_each(?))
ORDER BY fact_seq, position
"""


def _read_rows(conn: sqlite3.Connection, seqs: Sequence[int]) -> dict[int, Row]:
    scopes: dict[int, Scope] = {}
    rows: dict[int, Row] = {}
    for seq, scope_id, metadata, *columns in conn.execute(_LOAD, (_json(seqs),)).fetchall():
        if scope_id not in scopes:
            scopes[scope_id] = read_scope(conn, scope_id)
        rows[seq] = Row(_record(scopes[scope_id], columns), metadata)
    return rows


_LOAD = """
SELECT seq, scope_id, metadata, memories.id, kind, role, speaker, text, quote, at, at_offset_s, created_at, valid_to,
  expires_at, dates
FROM json_each(?) CROSS JOIN memories ON seq = value
"""


def _json(seqs: Sequence[int]) -> str:
    return msgspec.json.encode(list(seqs)).decode()


def _record(scope: Scope, columns: Sequence[Any]) -> MemoryRecord:
    """A row of `_LOAD` from its id on as a record, without metadata and `turn_ids`."""
    memory_id, kind, role, speaker, text, quote, at, offset_s, created_at, valid_to, expires_at, dates = columns
    common: dict[str, Any] = {
        "id": memory_id,
        "scope": scope,
        "text": text,
        "at": from_micros(at, offset_s),
        "created_at": from_micros(created_at),
        "expires_at": from_micros_or_none(expires_at),
        "dates": read_dates(dates),
    }
    if kind == "turn":
        return Turn(role=role, speaker=speaker, **common)
    return Fact(quote=quote, turn_ids=(), valid_to=from_micros_or_none(valid_to), **common)


def candidates(conn: sqlite3.Connection, scored: Iterable[tuple[int, float]]) -> list[Candidate]:
    """Read the memories of scored rows, in the order given, with records that are shared."""
    return candidates_of_each(conn, [list(scored)])[0]


def candidates_of_each(conn: sqlite3.Connection, found: Sequence[Sequence[tuple[int, float]]]) -> list[list[Candidate]]:
    """Read the memories of the scored rows of several searches at once, with records that are shared."""
    memories = shared_rows(conn, list({seq for scored in found for seq, _ in scored}))
    return [[Candidate(memories[seq], score) for seq, score in scored] for scored in found]


def own(found: Sequence[Candidate]) -> list[Candidate]:
    """The same with records that are the caller's own."""
    return [Candidate(owned(candidate.memory), candidate.score) for candidate in found]


def merged(found: Sequence[list[tuple[int, float]]]) -> list[tuple[int, float]]:
    """Several lists of scored rows as one, best first. A row has the score of the first that it is in."""
    if len(found) == 1:
        return found[0]
    scores = {seq: score for scored in reversed(found) for seq, score in scored}
    return sorted(scores.items(), key=lambda row: (-row[1], row[0]))
