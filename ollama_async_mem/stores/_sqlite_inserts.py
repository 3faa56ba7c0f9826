"""Inserting memories with their vectors and keyword index. Each function runs inside one transaction.

What it looks up for every row, the embedding space and the rows of scopes, it keeps in the connection's memo: none of
these ever changes once it is stored.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ollama_async_mem.errors import StoreError
from ollama_async_mem.records import EmbeddingSpace, Fact, Turn

from ._checks import require_space
from ._json import write_dates, write_json
from ._sqlite_rows import find, read_space
from ._sqlite_values import intern_name, micros, micros_or_none
from ._sqlite_work import memo_of
from ._text import clean, clean_or_none, spaced
from ._vectors import unit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from ollama_async_mem.ports import Vector
    from ollama_async_mem.records import MemoryRecord, Scope

__all__ = ["indexes_parts", "insert_memories", "link", "scope_id", "terms_of", "turn_seqs", "unit_vector"]

MAX_MEMO = 10_000


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
    return [
        _insert_memory(conn, memory, unit_vector(conn, vector, model=model, where=where))
        for memory, vector in zip(memories, vectors, strict=True)
    ]


def _insert_memory(conn: sqlite3.Connection, memory: MemoryRecord, embedding: bytes) -> int:
    owner = _owner(conn, memory.scope)
    columns = _columns(conn, memory)
    try:
        seq = _insert(conn, _INSERT, (owner.scope_id, *columns))
    except UnicodeEncodeError as exc:
        raise StoreError(f"the id {memory.id!r} has a lone surrogate, and cannot be stored") from exc
    except sqlite3.IntegrityError as exc:
        raise StoreError(f"a memory with the id {memory.id!r} is already stored") from exc
    conn.execute("INSERT INTO vectors (seq, embedding) VALUES (?, ?)", (seq, embedding))
    conn.execute(_INDEX, (seq, columns.body, owner.tokens(columns.kind_token)))
    return seq


# What the view `memory_texts` says of a row, without the time that it takes to ask
_INDEX = "INSERT INTO memory_index (rowid, body, scope) VALUES (?, ?, ?)"


def unit_vector(conn: sqlite3.Connection, vector: Vector, *, model: str, where: str) -> bytes:
    """A vector as it is stored. It must fit those that are there; the first one decides.

    Raises:
        EmbeddingMismatch: the store holds vectors of another model or dimension.
        StoreError: it has no direction.
    """
    row, memo = unit(vector), memo_of(conn)
    bound: EmbeddingSpace | None = memo.get("space")
    if bound is not None and bound.dimension == row.size and bound.model == model:
        return row.tobytes()
    space = EmbeddingSpace(model, row.size)
    if bound is None:
        bound = memo["space"] = read_space(conn) or space
        sql = "INSERT INTO meta (key, value) VALUES ('embedding_space', ?) ON CONFLICT (key) DO NOTHING"
        conn.execute(sql, (msgspec.json.encode(bound).decode(),))
    require_space(bound, space, where)
    return row.tobytes()


class _Owner(NamedTuple):
    """The row of a scope, and its ids as numbers."""

    scope_id: int
    keys: tuple[int, int, int]

    def tokens(self, kind: str) -> str:
        """What the index holds of it for a class of memories: see `_sqlite_migrations`."""
        user, agent, run = self.keys
        return f" {kind}0 {kind}u{user} {kind}a{agent} {kind}r{run} "


def scope_id(conn: sqlite3.Connection, scope: Scope) -> int:
    """The row of exactly this scope, made when it is new."""
    return _owner(conn, scope).scope_id


def _owner(conn: sqlite3.Connection, scope: Scope) -> _Owner:
    memo = memo_of(conn)
    known: _Owner | None = memo.get(scope)
    if known is None:
        if len(memo) > MAX_MEMO:
            memo.clear()
        known = memo[scope] = _find_owner(conn, scope)
    return known


def _find_owner(conn: sqlite3.Connection, scope: Scope) -> _Owner:
    user, agent, run = (_name_key(conn, name) for name in (scope.user_id, scope.agent_id, scope.run_id))
    keys = (user, agent, run)
    found = conn.execute("SELECT id FROM scopes WHERE user_key = ? AND agent_key = ? AND run_key = ?", keys).fetchone()
    made = "INSERT INTO scopes (user_key, agent_key, run_key) VALUES (?, ?, ?)"
    return _Owner(int(found[0]) if found else _insert(conn, made, keys), keys)


def _name_key(conn: sqlite3.Connection, name: str | None) -> int:
    """The number of an id, 0 for none."""
    if name is None:
        return 0
    raw = (intern_name(name),)
    found = conn.execute("SELECT key FROM names WHERE name = ?", raw).fetchone()
    return int(found[0]) if found else _insert(conn, "INSERT INTO names (name) VALUES (?)", raw)


def _insert(conn: sqlite3.Connection, sql: str, values: tuple[Any, ...]) -> int:
    """Insert a row and return its number."""
    return conn.execute(sql, values).lastrowid or 0


class _Columns(NamedTuple):
    """The columns of a memory, but for its scope."""

    id: str
    kind: str
    role: str | None
    speaker: str | None
    text: str
    quote: str | None
    terms: str | None
    at: int
    at_offset_s: int
    created_at: int
    valid_to: int | None
    expires_at: int | None
    metadata: str | None
    dates: str | None

    @property
    def body(self) -> str:
        """What is indexed of it."""
        return body(self.text, self.speaker) if self.terms is None else self.terms

    @property
    def kind_token(self) -> str:
        """Its class in the index."""
        return "t" if self.kind == "turn" else "f" if self.valid_to is None else "d"


_INSERT = f"""
INSERT INTO memories (scope_id, {", ".join(_Columns._fields)}) VALUES (?{", ?" * len(_Columns._fields)})
"""  # noqa: S608 - column names only


def _columns(conn: sqlite3.Connection, memory: MemoryRecord) -> _Columns:
    text = clean(memory.text)
    role, speaker = (clean(memory.role), clean_or_none(memory.speaker)) if isinstance(memory, Turn) else (None, None)
    quote, valid_to = (clean(memory.quote), memory.valid_to) if isinstance(memory, Fact) else (None, None)
    return _Columns(
        id=memory.id,
        kind=memory.kind,
        role=role,
        speaker=speaker,
        text=text,
        quote=quote,
        terms=terms_of(conn, text, speaker),
        at=micros(memory.at),
        at_offset_s=_offset_s(memory.at),
        created_at=micros(memory.created_at),
        valid_to=micros_or_none(valid_to),
        expires_at=micros_or_none(memory.expires_at),
        metadata=write_json(memory.metadata) if memory.metadata else None,
        dates=write_dates(memory.dates),
    )


def terms_of(conn: sqlite3.Connection, text: str, speaker: str | None) -> str | None:
    """What is indexed, None where it is just the speaker and the text."""
    plain = body(text, speaker)
    terms = plain if indexes_parts(conn) else spaced(plain)
    return None if terms == plain else terms


def indexes_parts(conn: sqlite3.Connection) -> bool:
    """Whether the index holds parts of words, and so needs no help with scripts without spaces."""
    memo = memo_of(conn)
    if "tokenize" not in memo:
        memo["tokenize"] = conn.execute("SELECT value FROM meta WHERE key = 'tokenize'").fetchone()[0]
    return bool(memo["tokenize"].startswith("trigram"))


def body(text: str, speaker: str | None) -> str:
    """The speaker and the text."""
    return text if speaker is None else f"{speaker} {text}"


def _offset_s(at: datetime) -> int:
    offset = at.utcoffset()
    return int(offset.total_seconds()) if offset else 0


def turn_seqs(conn: sqlite3.Connection, turn_ids: Sequence[str]) -> list[int]:
    """The rows of turns, as far as they still exist."""
    sql = "SELECT seq FROM memories WHERE id = ? AND kind = 'turn'"
    rows = [find(conn, sql, turn_id) for turn_id in turn_ids]
    return [row[0] for row in rows if row]


def link(conn: sqlite3.Connection, fact_seq: int, turn_seqs: Sequence[int], *, first: int = 0) -> None:
    """Say which turns a fact was drawn from; `first` is the position of the first of them."""
    conn.executemany(
        "INSERT INTO links (fact_seq, position, turn_seq) VALUES (?, ?, ?)",
        [(fact_seq, position, turn_seq) for position, turn_seq in enumerate(turn_seqs, first)],
    )
