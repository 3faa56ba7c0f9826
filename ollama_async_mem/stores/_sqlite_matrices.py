"""Mirrors of rows in memory, for searches: the vectors of small scopes, and the codes of a large store.

A mirror is brought up to date inside the snapshot of each search, from the file alone: newer rows are appended, and
those that the log of changes names are read again. So this store's writes and those of other processes are seen in
the same way. `PRAGMA data_version` says when there is nothing to look for.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from . import _sqlite_blocks as blocks
from ._sqlite_selection import ScopeKeys  # noqa: TC001 - a NamedTuple looks its annotations up

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator

    from ollama_async_mem.records import Scope

    from ._sqlite_blocks import Block
    from ._sqlite_codes import Coding
    from ._sqlite_work import Stamp
    from ._vectors import Ids

__all__ = ["MatrixCache", "Mirror", "Vectors"]

S = TypeVar("S", bound=blocks.Source)

BLOCK_ROWS = 4096
BLOCK_BYTES = 4 << 20
NEAR_ROWS = 4096  # a mirror that is behind by no more looks at the newest rows, not at those of its scope
ENTRY_BYTES = 1024  # what an empty mirror is taken to weigh
SMALL_PART = 512  # a mirror up to this part of what a cache may hold is small: it is soon read again,
SMALL_SHARE = 16  # so all of them get no more than this part, however many scopes are searched
_ALL = (1 << 63) - 1


class Vectors(NamedTuple):
    """The vectors of a scope. A `blocks.Source`."""

    keys: ScopeKeys
    dimension: int

    def size_bytes(self, conn: sqlite3.Connection) -> int:
        """Memory that they take."""
        return self.count_rows(conn, _ALL) * (4 * self.dimension + blocks.ROW_BYTES)

    def count_rows(self, conn: sqlite3.Connection, limit: int) -> int:
        """Count the rows, up to a limit."""
        sql = f"SELECT count(*) FROM (SELECT 1 FROM memories WHERE {self.keys.sql()} LIMIT ?)"  # noqa: S608 - column names only
        return int(conn.execute(sql, (*self.keys.keys, limit)).fetchone()[0])

    def read_all(self, conn: sqlite3.Connection) -> Iterator[Block]:
        """Read all rows, through the index of the scope."""
        return self._read_after(conn, 0)

    def read_after(self, conn: sqlite3.Connection, seq: int) -> Iterator[Block]:
        """Read the rows above one, among all that are new where those are few."""
        if blocks.newest_seq(conn) - seq > NEAR_ROWS:
            return self._read_after(conn, seq)
        condition = f"+{self.keys.sql()} AND memories.seq > ?"
        return blocks.read_rows(conn, condition, [*self.keys.keys, seq], self.dimension)

    def read_these(self, conn: sqlite3.Connection, seqs: Ids) -> Iterator[Block]:
        """Read some rows, as far as they still exist."""
        return blocks.read_these(conn, seqs, self.dimension)

    def _read_after(self, conn: sqlite3.Connection, seq: int) -> Iterator[Block]:
        condition = f"memories.seq IN (SELECT seq FROM memories WHERE {self.keys.sql()} AND seq > ?)"  # noqa: S608 - column names only
        return blocks.read_rows(conn, condition, [*self.keys.keys, seq], self.dimension)


class Mirror(Generic[S]):
    """The rows of a source as of the last search."""

    def __init__(self) -> None:
        self.lock = threading.Lock()  # whoever holds it takes a new snapshot where the mirror is newer than the old one
        self.is_large = False
        self.source: S | None = None  # None: nothing is held
        self.blocks: list[Block] = []
        self.size_bytes = ENTRY_BYTES  # memory that it takes
        self.counted_bytes = 0  # of these, as the cache has it; 0 once it let go
        self._newest = self._logged = 0
        self._seen: dict[int, Stamp] = {}  # by connection: the stamp under which it was up to date

    @property
    def rows(self) -> int:
        """How many are held."""
        return sum(block.seqs.size for block in self.blocks)

    def refresh(self, conn: sqlite3.Connection, stamp: Stamp, source: S) -> None:
        """Catch up with the snapshot; `source` is used where nothing is held, or what is held is too old.

        A block is never changed: appending and dropping make new ones, so a search may go on with those it has.
        """
        if self.source is not None and self._seen.get(id(conn)) == stamp:
            return
        newest, last = blocks.newest_seq(conn), blocks.last_change(conn)
        changed = None if self.source is None else blocks.changes_since(conn, self._logged, last)
        if self.source is None or changed is None:
            self.source, self.blocks = source, _appended([], source.read_all(conn))
        else:
            held = list(blocks.patched(self.blocks, changed, self.source, conn)) if changed.size else self.blocks
            self.blocks = _appended(held, self.source.read_after(conn, self._newest)) if newest > self._newest else held
        self.size_bytes = ENTRY_BYTES + sum(block.size_bytes for block in self.blocks)
        self._newest, self._logged = newest, last
        self._seen[id(conn)] = stamp

    def is_ahead(self, conn: sqlite3.Connection) -> bool:
        """Whether another connection may have brought it further than a snapshot is."""
        return self._newest > blocks.newest_seq(conn) or self._logged > blocks.last_change(conn)

    def clear(self) -> None:
        """Let go of what is held."""
        self.source, self.blocks, self._newest = None, [], 0
        self.size_bytes = ENTRY_BYTES


class MatrixCache:
    """The mirrors that were searched last, up to `max_bytes` of them. The reader threads share it."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._mirrors: OrderedDict[Scope | None, Mirror[Any]] = OrderedDict()
        self._size_bytes = self._small_bytes = 0  # the sum of what is counted, and that of small ones

    def vectors(self, scope: Scope) -> Mirror[Vectors]:
        """The mirror of a scope, a new and empty one where there is none."""
        return self._mirror(scope)

    def codes(self) -> Mirror[Coding]:
        """The mirror of the codes of the whole store."""
        return self._mirror(None)

    def held(self, mirror: Mirror[S], conn: sqlite3.Connection, stamp: Stamp, source: S) -> tuple[Iterable[Block], S]:
        """Bring a mirror up to date under its lock; returns its rows, and the source that they are from.

        Rows that exceed `max_bytes` are read from the file.
        """
        if mirror.source is None and source.size_bytes(conn) > self.max_bytes:
            return source.read_all(conn), source
        mirror.refresh(conn, stamp, source)
        held = mirror.blocks, mirror.source or source
        self._recount(mirror)
        return held

    def empty(self, mirror: Mirror[Any]) -> None:
        """Have a mirror let go of what it holds, under its lock."""
        mirror.clear()
        self._recount(mirror)

    def _recount(self, mirror: Mirror[Any]) -> None:
        with self._lock:
            if mirror.counted_bytes:  # it was not let go meanwhile
                self._count(mirror, mirror.size_bytes)
            self._trim()

    def _mirror(self, key: Scope | None) -> Mirror[Any]:
        with self._lock:
            found = self._mirrors.get(key)
            if found is None:
                found = self._mirrors[key] = Mirror()
                self._count(found, found.size_bytes)
            self._mirrors.move_to_end(key)
            self._trim()
            return found

    def _trim(self) -> None:
        """Let go of those that were not searched for longest. A search that still holds one is not disturbed."""
        while self._small_bytes > self.max_bytes // SMALL_SHARE:
            self._let_go(next(key for key, mirror in self._mirrors.items() if self._small(mirror.counted_bytes)))
        while self._size_bytes > self.max_bytes:
            self._let_go(next(iter(self._mirrors)))

    def _let_go(self, key: Scope | None) -> None:
        self._count(self._mirrors.pop(key), 0)

    def _count(self, mirror: Mirror[Any], size_bytes: int) -> None:
        self._size_bytes += size_bytes - mirror.counted_bytes
        self._small_bytes += self._small(size_bytes) - self._small(mirror.counted_bytes)
        mirror.counted_bytes = size_bytes

    def _small(self, size_bytes: int) -> int:
        """What counts as small of a mirror's bytes: all or nothing. An empty one may be filled with many rows yet."""
        return size_bytes if ENTRY_BYTES < size_bytes <= self.max_bytes // SMALL_PART else 0


def _appended(held: Iterable[Block], more: Iterable[Block]) -> list[Block]:
    """Blocks and further ones, of which small ones become one."""
    result = list(held)
    for block in more:
        result.append(block)
        while len(result) > 1 and _fit(*result[-2:]):
            result[-2:] = [blocks.joined(result[-2:])]
    return result


def _fit(one: Block, other: Block) -> bool:
    """Whether two blocks are to be one: not a large and a small one, so that single rows do not copy many each time."""
    rows, size_bytes = one.seqs.size + other.seqs.size, one.size_bytes + other.size_bytes
    return rows <= BLOCK_ROWS and size_bytes <= BLOCK_BYTES and one.seqs.size <= 4 * other.seqs.size
