"""Memories as records in memory, for the readers that find the same ones again and again.

Every change of a row is in the log of changes, whichever process made it. So a reader takes from here only what the
log, as its own snapshot has it, says is still so. It knows nothing of columns.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

import msgspec

from ollama_async_mem.records import MemoryRecord  # noqa: TC001 - msgspec resolves annotations at run time

from ._sqlite_blocks import changes_since, last_change
from ._sqlite_work import MemoConnection

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping, Sequence


__all__ = ["RecordCache", "Row", "read_through"]

ENTRY_BYTES = 1024  # what a memory takes beside its text and metadata


class Row(msgspec.Struct, frozen=True, gc=False):
    """A memory without what a caller could change in it, and without what the log of changes does not tell of."""

    record: MemoryRecord  # with neither metadata nor `turn_ids`
    metadata: str | None

    @property
    def size_bytes(self) -> int:
        """Memory that it takes."""
        return (
            ENTRY_BYTES
            + sys.getsizeof(self.record.text)
            + (0 if self.metadata is None else sys.getsizeof(self.metadata))
        )


class RecordCache:
    """The rows that were read last, up to `max_bytes` of them. The reader threads share it."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.size_bytes = 0
        self._lock = threading.Lock()
        self._rows: OrderedDict[int, Row] = OrderedDict()
        self._logged = 0  # the last change that is known here

    def held(self, conn: sqlite3.Connection, last: int, seqs: Sequence[int]) -> dict[int, Row]:
        """The rows that are held and are so in a snapshot whose last change is `last`."""
        with self._lock:
            if last > self._logged:
                self._catch_up(conn, last)
            if last < self._logged:  # another reader is ahead
                return {}
            rows = self._rows
            return {seq: rows[seq] for seq in seqs if seq in rows}

    def keep(self, last: int, rows: Mapping[int, Row]) -> None:
        """Hold rows of such a snapshot, unless another reader knows of later changes meanwhile."""
        with self._lock:
            if last != self._logged:
                return
            for seq, row in rows.items():
                if seq in self._rows:
                    self._drop(seq)
                self._rows[seq] = row
                self.size_bytes += row.size_bytes
            while self.size_bytes > self.max_bytes:
                self._drop(next(iter(self._rows)))

    def _catch_up(self, conn: sqlite3.Connection, last: int) -> None:
        """Let go of what changed; of all where the log does not reach back that far."""
        changed = changes_since(conn, self._logged, last) if self._rows else None
        if changed is None:
            self._rows.clear()
            self.size_bytes = 0
        else:
            for seq in changed.tolist():
                self._drop(seq)
        self._logged = last

    def _drop(self, seq: int) -> None:
        row = self._rows.pop(seq, None)
        self.size_bytes -= row.size_bytes if row is not None else 0


def read_through(
    conn: sqlite3.Connection, seqs: Sequence[int], read: Callable[[sqlite3.Connection, Sequence[int]], dict[int, Row]]
) -> dict[int, Row]:
    """The rows of some memories, from the cache of the connection as far as it has one and they are there."""
    cache = conn.records if isinstance(conn, MemoConnection) else None
    if cache is None:
        return read(conn, seqs)
    last = last_change(conn)
    rows = cache.held(conn, last, seqs)
    if len(rows) < len(seqs):
        missing = read(conn, [seq for seq in seqs if seq not in rows])
        cache.keep(last, missing)
        rows |= missing
    return rows
