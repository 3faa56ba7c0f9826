"""Merging the keyword index, so that the words of what was deleted leave the file.

FTS5 writes a deletion beside the words, which stay until all parts of the index are merged that hold the one or the
other: https://www.sqlite.org/fts5.html#the_merge_command. Then they are overwritten, for `secure_delete` is on; and at
last the log is emptied, which has them too.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ._sqlite_schema import transaction

if TYPE_CHECKING:
    import sqlite3

__all__ = ["IndexMerge", "merge_index", "words_were_deleted"]

STEP_PAGES = 100  # some ten milliseconds
RESTS = 50  # how many times as long as a merge took it must be until the next: a large index takes seconds
RETRY_S = 0.5


def words_were_deleted(conn: sqlite3.Connection) -> None:
    """Write down, inside a transaction, that the index holds words which are to go."""
    conn.execute(_DUE)


_DUE = """
INSERT INTO meta (key, value) VALUES ('index_merge', 'due')
ON CONFLICT (key) DO UPDATE SET value = excluded.value WHERE value <> excluded.value
"""


def merge_index(conn: sqlite3.Connection, *, first: bool, pages: int = 1000) -> bool:
    """Merge a part of the keyword index, inside a transaction; returns whether there may be more to do.

    How this is told from what changed: https://www.sqlite.org/fts5.html#the_merge_command.
    """
    before = conn.total_changes
    conn.execute("INSERT INTO memory_index (memory_index, rank) VALUES ('merge', ?)", (-pages if first else pages,))
    return conn.total_changes - before >= 2  # noqa: PLR2004 - the command itself counts as one


class IndexMerge:
    """Merges the index in steps while nothing else is to be done. It belongs to the thread that writes."""

    def __init__(self) -> None:
        self._is_begun = False
        self._has_log = False
        self._spent_s = 0.0
        self._rests_until_s = 0.0

    def after_commit(self, conn: sqlite3.Connection, *, is_idle: bool) -> float | None:
        """Do a step if the thread `is_idle`; returns how many seconds of idleness later it is to be asked again."""
        is_due = conn.execute(_STATE).fetchone() is not None
        rest_s = self._rests_until_s - time.monotonic()
        if is_idle and is_due and rest_s <= 0:
            self._step(conn)
        elif is_idle and self._has_log:
            self._has_log = not _emptied_log(conn)
        if is_due:
            return max(rest_s, 0.0)
        return RETRY_S if self._has_log else None

    def _step(self, conn: sqlite3.Connection) -> None:
        start_s = time.monotonic()
        with transaction(conn):
            if not self._is_begun:
                conn.execute("UPDATE meta SET value = 'begun' WHERE key = 'index_merge'")
            more = merge_index(conn, first=not self._is_begun, pages=STEP_PAGES)
            if not more:  # but for what was deleted since it began
                conn.execute("DELETE FROM meta WHERE key = 'index_merge' AND value = 'begun'")
        self._is_begun = more
        self._spent_s += time.monotonic() - start_s
        if not more:
            self._rests_until_s, self._spent_s = time.monotonic() + RESTS * self._spent_s, 0.0
            self._has_log = not _emptied_log(conn)


_STATE = "SELECT value FROM meta WHERE key = 'index_merge'"


def _emptied_log(conn: sqlite3.Connection) -> bool:
    """Write the log into the file and empty it, unless somebody still reads what it holds."""
    (timeout_ms,) = conn.execute("PRAGMA busy_timeout").fetchone()
    conn.execute("PRAGMA busy_timeout = 0")
    try:
        return not conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    finally:
        conn.execute(f"PRAGMA busy_timeout = {timeout_ms}")
