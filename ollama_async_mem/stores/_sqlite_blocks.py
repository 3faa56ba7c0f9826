"""Rows of `memories` as arrays, with what decides whether they are meant, and the log of what changed in them.

Rows that are added have a higher `seq` than all before. Any other change of what an array holds is noted in the table
`changes` by triggers, so that whoever mirrors rows catches up from there, whichever process wrote.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec
import numpy as np

from ._sqlite_times import said_when
from ._sqlite_work import number
from ._vectors import from_blobs

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from ollama_async_mem.filters import Condition

    from ._vectors import Ids, Mask, Matrix

__all__ = [
    "Block",
    "Meant",
    "Source",
    "among",
    "as_json",
    "changes_since",
    "joined",
    "last_change",
    "newest_seq",
    "patched",
    "read_rows",
    "read_these",
    "read_vectors",
    "sample",
    "sorted_seqs",
    "within",
]

CHUNK_ROWS = 256  # whose vectors are held twice while they are read
ALWAYS = (1 << 63) - 1
ROW_BYTES = 29  # what a row takes beside its data


class _Columns(NamedTuple):
    seqs: Ids
    scopes: NDArray[np.int32]
    facts: Mask
    at: NDArray[np.int64]
    until: NDArray[np.int64]  # from when on it does not hold any more, superseded or expired
    data: NDArray[Any]


class Block(_Columns):
    """Some rows, by `seq`. `data` has their vectors `(n, dimension)` or codes `(n, words)`."""

    @cached_property
    def ends_at(self) -> int:
        """When the first of them ceases to hold."""
        return int(self.until.min(initial=ALWAYS))

    @property
    def size_bytes(self) -> int:
        """Memory that it takes."""
        return sum(column.nbytes for column in self)

    def equals(self, other: Block) -> bool:
        """Whether they are the same rows with the same data."""
        pairs: Iterable[tuple[Any, Any]] = zip(self, other, strict=True)
        return all(np.array_equal(mine, theirs) for mine, theirs in pairs)

    def without(self, seqs: Ids) -> Block:
        """The other rows."""
        kept = np.flatnonzero(~among(self.seqs, seqs))
        return Block(*(_picked(column, kept) for column in self))


class Meant(NamedTuple):
    """Which rows a search is about. None: that does not matter."""

    scopes: Mask | None = None  # by `scopes.id`
    facts: bool | None = None
    holding_at: int | None = None
    said_by: int | None = None
    when: Condition | None = None  # see `_sqlite_times`
    seqs: Ids | None = None  # those that a filter lets through, sorted

    def mask(self, block: Block) -> Mask | None:
        """Which rows of a block are meant; None is all."""
        masks: list[Mask] = []
        if self.scopes is not None:
            masks.append(self.scopes[block.scopes])
        if self.facts is not None:
            masks.append(block.facts == self.facts)
        if self.holding_at is not None and block.ends_at <= self.holding_at:
            masks.append(block.until > self.holding_at)
        if self.said_by is not None:
            masks.append(block.at <= self.said_by)
        if self.when is not None:
            masks.append(said_when(self.when, block.at))
        if self.seqs is not None:
            masks.append(among(block.seqs, within(self.seqs, block.seqs)))
        return np.logical_and.reduce(masks) if masks else None


class Source(Protocol):
    """Where blocks come from: which rows, and what `data` is of them. All are by `seq`."""

    def size_bytes(self, conn: sqlite3.Connection) -> int:
        """Memory that all rows take."""
        ...

    def read_all(self, conn: sqlite3.Connection) -> Iterator[Block]:
        """Read all rows."""
        ...

    def read_after(self, conn: sqlite3.Connection, seq: int) -> Iterator[Block]:
        """Read the rows above one."""
        ...

    def read_these(self, conn: sqlite3.Connection, seqs: Ids) -> Iterator[Block]:
        """Read some rows, as far as they still exist."""
        ...


def joined(blocks: Sequence[Block]) -> Block:
    """Several blocks as one. There must be one."""
    columns = [np.concatenate(columns) for columns in zip(*blocks, strict=True)]
    if np.all(columns[0][:-1] < columns[0][1:]):
        return Block(*columns)
    order = np.argsort(columns[0], kind="stable")
    return Block(*(_picked(column, order) for column in columns))


def patched(blocks: Iterable[Block], changed: Ids, source: Source, conn: sqlite3.Connection) -> Iterator[Block]:
    """Bring the rows that changed up to date, where `changed` is sorted. A block without any row left is left out."""
    for block in blocks:
        mine = block.seqs[among(block.seqs, within(changed, block.seqs))]
        now = joined([block.without(mine), *source.read_these(conn, mine)]) if mine.size else block
        if now.seqs.size:
            yield now


def read_rows(conn: sqlite3.Connection, condition: str, params: Sequence[Any], dimension: int) -> Iterator[Block]:
    """Read the vectors of the rows that fulfil a condition on `memories`, some at a time."""
    cursor = conn.execute(f"{_ROWS} WHERE {condition} ORDER BY memories.seq", params)
    while rows := cursor.fetchmany(CHUNK_ROWS):
        seqs, scopes, facts, at, until, blobs = zip(*rows, strict=True)
        yield Block(
            np.array(seqs, np.int64),
            np.array(scopes, np.int32),
            np.array(facts, np.bool_),
            np.array(at, np.int64),
            np.array(until, np.int64),
            from_blobs(blobs, dimension),
        )


_ROWS = f"""
SELECT memories.seq, scope_id, kind = 'fact', at, min(coalesce(valid_to, {ALWAYS}), coalesce(expires_at, {ALWAYS})),
  embedding
FROM memories JOIN vectors ON vectors.seq = memories.seq
"""  # noqa: S608 - a number


def read_these(conn: sqlite3.Connection, seqs: Ids, dimension: int) -> Iterator[Block]:
    """Read the vectors of some rows, as far as they still exist."""
    return read_rows(conn, "memories.seq IN (SELECT value FROM json_each(?))", [as_json(seqs)], dimension)


def read_vectors(conn: sqlite3.Connection, seqs: Ids, dimension: int) -> Iterator[tuple[Ids, Matrix, None]]:
    """Read the vectors of rows that exist, and nothing else of them."""
    sql = "SELECT vectors.seq, embedding FROM json_each(?) CROSS JOIN vectors ON vectors.seq = value"
    cursor = conn.execute(sql, [as_json(np.sort(seqs))])  # in order, for those that are near share their pages
    while rows := cursor.fetchmany(CHUNK_ROWS):
        found, blobs = zip(*rows, strict=True)
        yield np.array(found, np.int64), from_blobs(blobs, dimension), None


def sample(conn: sqlite3.Connection, count: int, dimension: int) -> Iterator[tuple[Ids, Matrix, None]]:
    """Read the vectors of at most so many rows from all over the store, the same ones each time."""
    places = np.linspace(1, newest_seq(conn), count).astype(np.int64)
    sql = "SELECT (SELECT seq FROM memories WHERE seq >= value ORDER BY seq LIMIT 1) FROM json_each(?)"
    seqs = sorted_seqs(row for row in conn.execute(sql, [as_json(places)]) if row[0] is not None)
    return read_vectors(conn, seqs, dimension)


def newest_seq(conn: sqlite3.Connection) -> int:
    """The highest row there is, 0 where there is none."""
    return number(conn, "SELECT max(seq) FROM memories")


def last_change(conn: sqlite3.Connection) -> int:
    """The number of the last entry in the log of changes."""
    return number(conn, "SELECT seq FROM sqlite_sequence WHERE name = 'changes'")


def changes_since(conn: sqlite3.Connection, known: int, last: int) -> Ids | None:
    """Return the rows that changed after the entry `known` of the log, sorted; `last` is its last entry.

    None: the log does not reach back that far any more.
    """
    rows = conn.execute("SELECT seq FROM changes WHERE n > ?", (known,)).fetchall() if last > known else []
    return sorted_seqs(rows) if len(rows) == last - known else None


def sorted_seqs(rows: Iterable[tuple[int]]) -> Ids:
    """Rows of one number as a sorted array."""
    return np.array(sorted({number for (number,) in rows}), np.int64)


def as_json(seqs: Ids) -> str:
    """Rows for `json_each`."""
    return msgspec.json.encode(seqs.tolist()).decode()


def among(seqs: Ids, chosen: Ids) -> Mask:
    """Which rows are among chosen ones, which are sorted. `numpy.isin` would load the module for masked arrays."""
    if not chosen.size:
        return np.zeros(seqs.size, np.bool_)
    places = np.minimum(np.searchsorted(chosen, seqs), chosen.size - 1)
    found: Mask = chosen[places] == seqs
    return found


def within(seqs: Ids, block: Ids) -> Ids:
    """Of sorted rows those in the range of a block's: however many they are, each block is then compared with few."""
    if not block.size:
        return seqs[:0]
    begin, end = np.searchsorted(seqs, (block[0], block[-1] + 1))
    return seqs[begin:end]


def _picked(column: NDArray[Any], rows: Ids) -> NDArray[Any]:
    """Some rows of a column, laid out in memory as it was."""
    return np.asarray(column[rows], order="F" if column.flags.fnc else "C")
