"""1-bit codes of a large store in its file: derived from its vectors, and droppable.

They lie in blocks of rows by `seq`, made behind the writes in steps of some milliseconds. Rows that came since are
coded when a search loads the codes. Of rows that changed since the log says so, and when it grows long its entries are
merged into the blocks. So what is loaded is never out of date, it only takes longer.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from . import _sqlite_blocks as blocks
from ._recall import Trial
from ._sqlite_blocks import Block
from ._sqlite_rows import read_space
from ._sqlite_schema import transaction
from ._vectors import sign_bits

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from ollama_async_mem.ports import Vector

    from ._vectors import Ids

__all__ = ["Coding", "Upkeep", "read_coding", "wrong_codes"]

EXACT_ROWS = 20_000  # up to here vectors are compared one by one, and a store has no codes
BLOCK_ROWS = 4096
LOG_ROWS = 8192
MEAN_ROWS = 2048
TRIAL_QUERIES = 32
RECALL = 0.99
MARGIN = 1.25  # on what a trial finds
SAFE_LISTED, SAFE_SCORED = 5000, 500  # until the first trial
MIN_LISTED, MIN_SCORED = 1000, 160
LISTED_EACH, SCORED_EACH = 80, 8  # for each row that is asked for


class Coding(NamedTuple):
    """How the rows of a store are coded, and how many of them to choose by their codes. A `blocks.Source`."""

    mean: Vector
    listed: int
    scored: int

    def room(self, limit: int) -> tuple[int, int]:
        """How many rows to choose by the bits that differ, and of these by their signs, to find so many."""
        return max(MIN_LISTED, self.listed, LISTED_EACH * limit), max(MIN_SCORED, self.scored, SCORED_EACH * limit)

    def size_bytes(self, conn: sqlite3.Connection) -> int:
        """Memory that the codes of all rows take."""
        return _coded_rows(conn) * (sign_bits(self.mean[None], self.mean).nbytes + blocks.ROW_BYTES)

    def read_all(self, conn: sqlite3.Connection) -> Iterator[Block]:
        """Read the codes of all rows: those in blocks, then the newer ones."""
        changed = blocks.sorted_seqs(conn.execute("SELECT seq FROM changes"))
        rows = conn.execute(f"SELECT {_COLUMNS} FROM code_blocks WHERE size > 0 ORDER BY first")  # noqa: S608 - column names only
        yield from blocks.patched(map(_unpacked, rows), changed, self, conn)
        yield from self.read_after(conn, _coded_up_to(conn))

    def read_after(self, conn: sqlite3.Connection, seq: int) -> Iterator[Block]:
        """Code the rows above one."""
        return self._coded(blocks.read_rows(conn, "memories.seq > ?", [seq], self.mean.size))

    def read_these(self, conn: sqlite3.Connection, seqs: Ids) -> Iterator[Block]:
        """Code some rows."""
        return self._coded(blocks.read_these(conn, seqs, self.mean.size))

    def read_range(self, conn: sqlite3.Connection, first: int, last: int) -> Iterator[Block]:
        """Code the rows of a range."""
        return self._coded(blocks.read_rows(conn, "memories.seq BETWEEN ? AND ?", [first, last], self.mean.size))

    def _coded(self, rows: Iterable[Block]) -> Iterator[Block]:
        return (block._replace(data=sign_bits(block.data, self.mean)) for block in rows)


class Upkeep:
    """Keeps the codes and the log of changes in shape, in steps that each take some milliseconds.

    It belongs to the thread that writes.
    """

    def __init__(self) -> None:
        self._trial: Trial | None = None
        self._is_trial_due = False
        self._rests_until = (0, 0)  # the highest row and the last change at which it looks again

    def after_commit(self, conn: sqlite3.Connection, *, is_idle: bool) -> bool:
        """Do a step in a transaction of its own, where one is due; returns whether one was.

        Unless the thread `is_idle`, trials wait: writers would feel them, and searches are only slower without.
        """
        work = self._due(conn)
        if work is not None and (is_idle or work != self._try):
            with transaction(conn):
                work(conn)
        return work is not None

    def step(self, conn: sqlite3.Connection) -> bool:
        """Do a step inside a transaction, where one is due; returns whether it was."""
        work = self._due(conn)
        if work is not None:
            work(conn)
        return work is not None

    def restart(self, conn: sqlite3.Connection) -> None:
        """Drop the codes inside a transaction; the steps that follow make them again."""
        self._trial, self._is_trial_due, self._rests_until = None, False, (0, 0)
        conn.execute("DELETE FROM code_blocks")
        conn.execute("DELETE FROM codings")
        _begin(conn)

    def _due(self, conn: sqlite3.Connection) -> Callable[[sqlite3.Connection], None] | None:
        """The next step. Another process may do it first, so each looks again."""
        newest, last = blocks.newest_seq(conn), blocks.last_change(conn)
        if newest >= self._rests_until[0] or last >= self._rests_until[1]:
            urgent = _urgent(conn)
            if urgent is not None:
                return urgent
            row = max(_coded_up_to(conn) + BLOCK_ROWS, newest + max(1, BLOCK_ROWS // 8))
            self._rests_until = row, last + max(1, LOG_ROWS // 8)
            self._is_trial_due = _is_trial_due(conn)
        return self._try if self._is_trial_due else None

    def _try(self, conn: sqlite3.Connection) -> None:
        """Compare codes with exact scores on some more rows, and keep what came out when all were seen."""
        coding = read_coding(conn)
        if coding is None:
            self._trial, self._is_trial_due = None, False
        elif self._trial is None:
            some = list(blocks.sample(conn, TRIAL_QUERIES, coding.mean.size))
            self._is_trial_due = bool(some)
            if some:
                seqs, rows = np.concatenate([seqs for seqs, *_ in some]), np.concatenate([rows for _, rows, _ in some])
                self._trial = Trial(seqs, rows, coding.mean)
        elif more := next(blocks.read_rows(conn, "memories.seq > ?", [self._trial.after], coding.mean.size), None):
            self._trial.feed(more.seqs, more.data)
        else:
            listed, scored = (math.ceil(rank * MARGIN) for rank in self._trial.ranks(RECALL))
            found = (listed, scored, _coded_rows(conn))
            conn.execute("UPDATE codings SET listed = ?, scored = ?, tried_rows = ?", found)
            self._trial, self._is_trial_due = None, False


def read_coding(conn: sqlite3.Connection) -> Coding | None:
    """How the rows of the store are coded; None where it is not large."""
    row = conn.execute("SELECT mean, listed, scored FROM codings").fetchone()
    return Coding(np.frombuffer(row[0], "<f4"), *row[1:]) if row else None


def wrong_codes(conn: sqlite3.Connection) -> Iterator[str]:
    """Compare the codes with the rows that they are of; yields what is wrong in words."""
    coding, rows = read_coding(conn), 0
    if coding is None:
        return
    for block in coding.read_all(conn):
        rows += block.seqs.size
        now = blocks.joined([block.without(block.seqs), *coding.read_these(conn, block.seqs)])
        if not block.equals(now):
            span = f"{block.seqs[0]} to {block.seqs[-1]}"
            yield f"the codes of rows {span} do not fit them; `optimize` makes them anew"
    if rows != conn.execute("SELECT count(*) FROM memories JOIN vectors USING (seq)").fetchone()[0]:
        yield "some memories have no code, or several; `optimize` makes them anew"


def _urgent(conn: sqlite3.Connection) -> Callable[[sqlite3.Connection], None] | None:
    """The step that keeps searches fast, where one is due."""
    if _log_is_long(conn):
        return _merge
    if read_coding(conn) is None:
        return _begin if _is_large(conn) else None
    return _build if _next_end(conn, _coded_up_to(conn)) else None


def _begin(conn: sqlite3.Connection) -> None:
    """Choose the mean, around which the bits of a code are as telling as they can be."""
    space = read_space(conn)
    if space is not None and _is_large(conn) and read_coding(conn) is None:
        total, count = np.zeros(space.dimension), 0
        for seqs, rows, _ in blocks.sample(conn, MEAN_ROWS, space.dimension):
            total, count = total + rows.sum(axis=0, dtype=np.float64), count + seqs.size
        first = ((total / max(count, 1)).astype("<f4").tobytes(), SAFE_LISTED, SAFE_SCORED)
        conn.execute("INSERT INTO codings (id, mean, listed, scored) VALUES (1, ?, ?, ?)", first)


def _build(conn: sqlite3.Connection) -> None:
    """Code the next rows that fill a block."""
    coding, coded = read_coding(conn), _coded_up_to(conn)
    last = _next_end(conn, coded)
    if coding is not None and last is not None:
        _write(conn, coded + 1, last, list(coding.read_range(conn, coded + 1, last)))


def _merge(conn: sqlite3.Connection) -> None:
    """Shorten the log by the changes of one block, that of the oldest change.

    What was logged lately stays, so that whoever searches now and then can catch up by the log.
    """
    if not _log_is_long(conn):
        return
    (seq,) = conn.execute("SELECT seq FROM changes ORDER BY n LIMIT 1").fetchone()
    row = conn.execute(f"SELECT first, last, {_COLUMNS} FROM code_blocks WHERE ? BETWEEN first AND last", (seq,))  # noqa: S608 - column names only
    first, last, *columns = row.fetchone() or (_coded_up_to(conn) + 1, blocks.ALWAYS)
    coding = read_coding(conn)
    if coding is not None and any(columns):
        changed = conn.execute("SELECT seq FROM changes WHERE seq BETWEEN ? AND ?", (first, last))
        _write(conn, first, last, list(blocks.patched([_unpacked(columns)], blocks.sorted_seqs(changed), coding, conn)))
    old = blocks.last_change(conn) - LOG_ROWS // 2
    conn.execute("DELETE FROM changes WHERE n <= ? AND (seq BETWEEN ? AND ? OR seq = ?)", (old, first, last, seq))


_COLUMNS = "size, seqs, scopes, facts, at, until, codes"
_TYPES = ("<i8", "<i4", "?", "<i8", "<i8", "<u8")


def _write(conn: sqlite3.Connection, first: int, last: int, rows: list[Block]) -> None:
    """Store the rows of a range as its block, which is empty where they are all gone."""
    columns: Any = blocks.joined(rows) if rows else [np.empty(0)] * len(_TYPES)
    data = [column.astype(kind).tobytes("F") for column, kind in zip(columns, _TYPES, strict=True)]
    conn.execute(_WRITE, (first, last, len(columns[0]), *data))


_WRITE = f"INSERT OR REPLACE INTO code_blocks (first, last, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - column names only


def _unpacked(row: Sequence[Any]) -> Block:
    """A block from its stored columns, without copying them."""
    size, *columns = row
    seqs, scopes, facts, at, until, codes = (np.frombuffer(c, t) for c, t in zip(columns, _TYPES, strict=True))
    return Block(seqs, scopes, facts, at, until, codes.reshape(size, -1, order="F"))


def _is_large(conn: sqlite3.Connection) -> bool:
    """Whether the store is to have codes."""
    sql = "SELECT count(*) FROM (SELECT 1 FROM memories LIMIT ?)"
    return int(conn.execute(sql, (EXACT_ROWS + 1,)).fetchone()[0]) > EXACT_ROWS


def _coded_up_to(conn: sqlite3.Connection) -> int:
    """The last row that blocks are about, 0 where there are none."""
    row = conn.execute("SELECT last FROM code_blocks ORDER BY first DESC LIMIT 1").fetchone()
    return int(row[0]) if row else 0


def _coded_rows(conn: sqlite3.Connection) -> int:
    return int(conn.execute("SELECT coalesce(sum(size), 0) FROM code_blocks").fetchone()[0])


def _next_end(conn: sqlite3.Connection, coded: int) -> int | None:
    """The last row of the next block; None where too few have come."""
    sql = "SELECT seq FROM memories WHERE seq > ? ORDER BY seq LIMIT 1 OFFSET ?"
    row = conn.execute(sql, (coded, BLOCK_ROWS - 1)).fetchone()
    return row[0] if row else None


def _log_is_long(conn: sqlite3.Connection) -> bool:
    return int(conn.execute("SELECT count(*) FROM changes").fetchone()[0]) > LOG_ROWS


def _is_trial_due(conn: sqlite3.Connection) -> bool:
    """Whether the store has doubled since the last one."""
    row = conn.execute("SELECT tried_rows FROM codings").fetchone()
    return row is not None and _coded_rows(conn) > 2 * int(row[0])
