"""Memories, vectors and times as rows hold them, and the other way. It knows no connection."""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from anyio import to_thread

from ollama_async_mem.errors import StoreError
from ollama_async_mem.records import Candidate, EmbeddingSpace, Fact, MemoryRecord, Scope, Turn

from ._checks import require_space
from ._json import read_dates, read_json, write_dates, write_json
from ._postgres_text import index_text, read, read_name, write, write_name
from ._text import clean
from ._vectors import unit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ollama_async_mem.ports import Vector

__all__ = [
    "BY_KEY",
    "COLUMNS",
    "ID",
    "INSERT",
    "USER",
    "Row",
    "as_candidates",
    "as_memory",
    "as_scope",
    "as_time",
    "in_utc",
    "insertions",
    "metadata_or_none",
    "pack",
    "prepare",
    "read_or_none",
    "terms_of",
    "unpack",
    "write_or_none",
    "written_scope",
]

Row: TypeAlias = "Mapping[str, Any]"

COLUMNS = """
  memories.user_id, memories.agent_id, memories.run_id, memories.id, memories.kind, memories.role, memories.speaker,
  memories.text, memories.quote, memories.turn_ids, memories.at, memories.at_offset_s, memories.created_at,
  memories.valid_to, memories.expires_at, memories.metadata, memories.dates
"""

BY_KEY = "memories.user_id = ANY ($1) AND memories.id = ANY ($2)"  # what `_postgres_reads.keys_of` found

USER, ID = 0, 3
INSERT = """
INSERT INTO memories (user_id, agent_id, run_id, id, kind, role, speaker, text, quote, turn_ids, at, at_offset_s,
  created_at, valid_to, expires_at, metadata, dates, words, terms, embedding)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, to_tsvector('words', $19), $20)
"""

QUICK_CHARS = 100_000  # some milliseconds
MEMORY_CHARS = 1_000  # what a memory costs besides its text
_HEADER = struct.Struct(">HH")  # the dimension, and what is not used; float32 follow, all big endian


async def prepare(
    memories: Sequence[MemoryRecord], vectors: Sequence[Vector], *, model: str, where: str
) -> tuple[list[tuple[Any, ...]], EmbeddingSpace | None]:
    """Return what `insertions` does, without keeping the event loop busy where there is much to do."""
    work = partial(insertions, tuple(memories), tuple(vectors), model=model, where=where)
    if sum(MEMORY_CHARS + len(memory.text) for memory in memories) <= QUICK_CHARS:
        return work()
    return await to_thread.run_sync(work, abandon_on_cancel=True)


def insertions(
    memories: Sequence[MemoryRecord], vectors: Sequence[Vector], *, model: str, where: str
) -> tuple[list[tuple[Any, ...]], EmbeddingSpace | None]:
    """Return the parameters of `INSERT` for each memory, and the space of the vectors, None where there are none.

    Raises:
        EmbeddingMismatch: the vectors differ in their dimension.
        StoreError: a value cannot be stored, or there are more or fewer vectors than memories.
    """
    if len(memories) != len(vectors):
        raise StoreError(f"{len(memories)} memories came with {len(vectors)} vectors")
    units = [unit(vector) for vector in vectors]
    spaces = [EmbeddingSpace(model, row.size) for row in units]
    for space in spaces:
        require_space(spaces[0], space, where)
    rows = [(*_columns(memory), pack(row)) for memory, row in zip(memories, units, strict=True)]
    return rows, spaces[0] if spaces else None


def _columns(memory: MemoryRecord) -> tuple[Any, ...]:
    if clean(memory.id) != memory.id:
        raise StoreError(f"the id {memory.id!r} has a lone surrogate, and cannot be stored")
    text = write(clean(memory.text))
    turn = (memory.role, memory.speaker) if isinstance(memory, Turn) else (None, None)
    fact = (memory.quote, memory.valid_to) if isinstance(memory, Fact) else (None, None)
    offset = memory.at.utcoffset() or timedelta()
    return (
        *written_scope(memory.scope),
        write(memory.id),
        memory.kind,
        write_or_none(turn[0]),
        write_or_none(turn[1]),
        text,
        write_or_none(fact[0]),
        [write(turn_id) for turn_id in memory.turn_ids] if isinstance(memory, Fact) else None,
        in_utc(memory.at),
        int(offset.total_seconds()),
        in_utc(memory.created_at),
        fact[1] and in_utc(fact[1]),
        memory.expires_at and in_utc(memory.expires_at),
        metadata_or_none(memory.metadata),
        write_dates(memory.dates),
        *terms_of(memory.text, turn[1]),
    )


def terms_of(text: str, speaker: str | None) -> tuple[int, str]:
    """Return how many words of a memory are indexed, and these words."""
    words = index_text(text if speaker is None else f"{speaker} {text}")
    return len(words.split()), words


def as_memory(row: Row) -> MemoryRecord:
    """The record of a row of `COLUMNS`."""
    zone = timezone(timedelta(seconds=row["at_offset_s"])) if row["at_offset_s"] else UTC
    common: dict[str, Any] = {
        "id": read(row["id"]),
        "scope": as_scope(row),
        "text": read(row["text"]),
        "at": as_time(row["at"]).astimezone(zone),
        "created_at": as_time(row["created_at"]),
        "metadata": read_json(row["metadata"]) if row["metadata"] else {},
        "expires_at": row["expires_at"] and as_time(row["expires_at"]),
        "dates": read_dates(row["dates"]),
    }
    if row["kind"] == "turn":
        return Turn(role=read(row["role"]), speaker=read_or_none(row["speaker"]), **common)
    return Fact(
        quote=read(row["quote"]),
        turn_ids=tuple(map(read, row["turn_ids"])),
        valid_to=row["valid_to"] and as_time(row["valid_to"]),
        **common,
    )


def as_candidates(rows: Iterable[Row]) -> list[Candidate]:
    """The candidates of rows of `COLUMNS` with a score."""
    return [Candidate(as_memory(row), float(row["score"])) for row in rows]


def as_scope(row: Row) -> Scope:
    """The scope of a row."""
    return Scope(read_name(row["user_id"]), read_name(row["agent_id"]), read_name(row["run_id"]))


def written_scope(scope: Scope) -> tuple[str, str, str]:
    """The ids of a scope as columns hold them."""
    return write_name(scope.user_id), write_name(scope.agent_id), write_name(scope.run_id)


def in_utc(at: datetime) -> datetime:
    """Return a time in UTC.

    Raises:
        StoreError: it has no timezone, or lies outside the years 1 to 9999 in UTC.
    """
    if at.utcoffset() is None:
        raise StoreError(f"the time {at} has no timezone")
    try:
        return at.astimezone(UTC)
    except OverflowError as exc:
        raise StoreError(f"the time {at} is out of range") from exc


def as_time(at: datetime) -> datetime:
    """The time of a column; the first and the last there are come without their timezone."""
    return at.replace(tzinfo=UTC)


def write_or_none(text: str | None) -> str | None:
    """A text as a column holds it, where there need not be one."""
    return None if text is None else write(clean(text))


def read_or_none(text: str | None) -> str | None:
    """The other way."""
    return None if text is None else read(text)


def metadata_or_none(metadata: dict[str, Any]) -> str | None:
    """Metadata as a column holds it, NULL where it is empty."""
    return write_json(metadata) if metadata else None


def pack(row: Vector) -> bytes:
    """A vector as it is sent: https://github.com/pgvector/pgvector/blob/v0.8.0/src/vector.c, `vector_recv`."""
    return _HEADER.pack(row.size, 0) + row.astype(">f4").tobytes()


def unpack(packed: bytes) -> Vector:
    """The other way."""
    return np.frombuffer(packed, ">f4", offset=_HEADER.size).astype("<f4")
