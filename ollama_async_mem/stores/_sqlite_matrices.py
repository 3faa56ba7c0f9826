"""Exact dense search over matrices that mirror the vectors of a scope.

A matrix is brought up to date inside the snapshot of each search, from the file alone: rows newer than its newest are
appended, and when the scopes' removal counters moved, rows that are gone are dropped. So this store's writes and
those of other processes are seen in the same way. `PRAGMA data_version` says when there is nothing to look for.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ollama_async_mem.records import EmbeddingSpace

from ._sqlite_reads import candidates, kind_params, read_space, resolve
from ._sqlite_writes import require_space
from ._vectors import from_blobs, nearest, unit

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Sequence

    from ollama_async_mem.ports import Vector
    from ollama_async_mem.records import Candidate, Kind, Scope

    from ._sqlite_reads import Filter
    from ._vectors import Ids, Matrix

    Block: TypeAlias = tuple[Ids, Matrix]

__all__ = ["MatrixCache", "dense_candidates"]

BLOCK_ROWS = 4096
ENTRY_BYTES = 1024  # what an empty mirror is taken to weigh


def dense_candidates(
    conn: sqlite3.Connection,
    cache: MatrixCache,
    scope: Scope,
    vector: Vector,
    *,
    model: str,
    kinds: Sequence[Kind],
    limit: int,
    where: str,
) -> list[Candidate]:
    """Return the memories nearest to a vector of any length, scored by cosine.

    It must be the first to read in its snapshot.

    Raises:
        EmbeddingMismatch: the store holds vectors of another model or dimension.
        StoreError: the vector has no direction.
    """
    query = unit(vector)
    mirror = cache.mirror(scope, tuple(sorted(set(kinds))))
    with mirror.lock:  # taken before the snapshot is, so that a mirror is never newer than the snapshot
        stamp = _stamp(conn)
        space = read_space(conn)
        if space is None:
            return []
        require_space(space, EmbeddingSpace(model, query.size), where)
        blocks = mirror.refresh(conn, stamp, space.dimension, cache.max_bytes)
        cache.trim()
    return candidates(conn, nearest(blocks, query, limit))


class MatrixCache:
    """The matrices that were searched last, up to `max_bytes` of them. The reader threads share it."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._mirrors: OrderedDict[tuple[Scope, tuple[Kind, ...]], Mirror] = OrderedDict()

    def mirror(self, scope: Scope, kinds: tuple[Kind, ...]) -> Mirror:
        """The mirror of a scope, a new and empty one where there is none."""
        with self._lock:
            key = (scope, kinds)
            found = self._mirrors.setdefault(key, Mirror(scope, kinds))
            self._mirrors.move_to_end(key)
            return found

    def trim(self) -> None:
        """Let go of those that were not searched for longest. A search that still holds one is not disturbed."""
        with self._lock:
            excess = sum(m.size_bytes for m in self._mirrors.values()) - self.max_bytes
            while excess > 0:
                excess -= self._mirrors.popitem(last=False)[1].size_bytes


class Mirror:
    """The vectors of the current memories of one scope and kinds, as of the last search."""

    def __init__(self, scope: Scope, kinds: tuple[Kind, ...]) -> None:
        self.lock = threading.Lock()
        self._scope = scope
        self._kinds = kinds
        self._ids: Ids = np.empty(0, np.int64)
        self._rows: Matrix = np.empty((0, 0), np.float32)  # of these, the first `_used` are filled
        self._used = 0
        self._removals = 0
        self._seen: dict[int, tuple[int, int]] = {}  # by connection: the stamp under which it was up to date

    @property
    def size_bytes(self) -> int:
        """Memory that it takes; what is only reserved was never touched, and takes none."""
        return ENTRY_BYTES + self._used * int(8 + 4 * self._rows.shape[1])

    def refresh(
        self, conn: sqlite3.Connection, stamp: tuple[int, int], dimension: int, max_bytes: int
    ) -> Iterable[Block]:
        """Catch up with the snapshot and return its vectors; read from the file where they exceed `max_bytes`.

        The arrays returned are never changed afterwards: appending writes behind them, dropping makes new ones.
        """
        if self._seen.get(id(conn)) != stamp:
            keys = resolve(conn, self._scope)
            if keys is not None:
                if not self._used and _count(conn, keys, self._kinds) * dimension * 4 > max_bytes:
                    return _stored(conn, keys, self._kinds, 0, dimension)
                self._drop_removed(conn, keys)
                self._append_new(conn, keys, dimension)
            self._seen[id(conn)] = stamp
        return [(self._ids[: self._used], self._rows[: self._used])] if self._used else []

    def _drop_removed(self, conn: sqlite3.Connection, keys: Filter) -> None:
        removals = _removals(conn, keys)
        if removals != self._removals and self._used:
            ids = self._ids[: self._used]
            kept = np.isin(ids, _current_ids(conn, keys, self._kinds))
            self._ids, self._rows = ids[kept], self._rows[: self._used][kept]
            self._used = len(self._ids)
        self._removals = removals

    def _append_new(self, conn: sqlite3.Connection, keys: Filter, dimension: int) -> None:
        newest = int(self._ids[: self._used].max()) if self._used else 0
        if not self._used:
            self._reserve(_count(conn, keys, self._kinds), dimension)
        for ids, rows in _stored(conn, keys, self._kinds, newest, dimension):
            end = self._used + len(ids)
            self._reserve(end, dimension)
            self._ids[self._used : end], self._rows[self._used : end] = ids, rows
            self._used = end

    def _reserve(self, rows: int, dimension: int) -> None:
        """Make room for this many rows in all, and for some more, so that appending rarely copies."""
        if rows <= len(self._ids):
            return
        room = rows + rows // 4 + 16
        ids, matrix = np.empty(room, np.int64), np.empty((room, dimension), np.float32)
        if self._used:
            ids[: self._used], matrix[: self._used] = self._ids[: self._used], self._rows[: self._used]
        self._ids, self._rows = ids, matrix


def _stamp(conn: sqlite3.Connection) -> tuple[int, int]:
    """Changes with each commit of another connection, and with each change of this one."""
    return conn.execute("PRAGMA data_version").fetchone()[0], conn.total_changes


def _removals(conn: sqlite3.Connection, keys: Filter) -> int:
    """How often a memory of these scopes was removed."""
    sql = f"SELECT coalesce(sum(removals), 0) FROM scopes WHERE {keys.sql('id')}"  # noqa: S608 - column names only
    return int(conn.execute(sql, keys.keys).fetchone()[0])


def _count(conn: sqlite3.Connection, keys: Filter, kinds: Sequence[Kind]) -> int:
    sql = f"SELECT count(*) FROM memories WHERE {_current(keys)}"  # noqa: S608 - column names only
    return int(conn.execute(sql, (*keys.keys, *kind_params(kinds))).fetchone()[0])


def _current_ids(conn: sqlite3.Connection, keys: Filter, kinds: Sequence[Kind]) -> Ids:
    sql = f"SELECT seq FROM memories WHERE {_current(keys)}"  # noqa: S608 - column names only
    rows = conn.execute(sql, (*keys.keys, *kind_params(kinds)))
    return np.fromiter((row[0] for row in rows), np.int64)


def _stored(
    conn: sqlite3.Connection, keys: Filter, kinds: Sequence[Kind], after: int, dimension: int
) -> Iterator[Block]:
    """Read the vectors of current memories with a row above `after`, in blocks."""
    sql = f"""
        SELECT seq, embedding FROM memories JOIN vectors USING (seq) WHERE {_current(keys)} AND seq > ?
    """  # noqa: S608 - column names only
    cursor = conn.execute(sql, (*keys.keys, *kind_params(kinds), after))
    while rows := cursor.fetchmany(BLOCK_ROWS):
        ids, blobs = zip(*rows, strict=True)
        yield np.array(ids, np.int64), from_blobs(blobs, dimension)


def _current(keys: Filter) -> str:
    """A condition for memories that are not superseded."""
    return f"{keys.sql()} AND kind IN (?, ?) AND valid_to IS NULL"
