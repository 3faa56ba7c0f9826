"""Looking after the file: copies, upkeep and checks. The functions say whether they run inside a transaction."""

from __future__ import annotations

import os
import secrets
import sqlite3
from contextlib import closing, suppress
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ollama_async_mem.errors import StoreClosed, StoreError

from ._sqlite_codes import wrong_codes
from ._sqlite_errors import store_error
from ._sqlite_rows import read_space
from ._vectors import from_blobs

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["backup", "check_copied_index", "check_index", "check_rows", "is_large", "tidy"]

LARGE_BYTES = 64 << 20
PROGRESS_OPS = 100_000  # after how many steps of its machine SQLite asks whether to go on
STEP_PAGES = 1024  # some milliseconds, after which a copy may be stopped
FREE_SHARE = 0.25
MIN_FREE_PAGES = 1024
BLOCK_ROWS = 1024


def backup(conn: sqlite3.Connection, stopped: threading.Event, *, path: Path, where: str) -> None:
    """Copy the snapshot of this transaction to a new file, which is there once it is complete.

    Raises:
        StoreError: there is such a file, or it cannot be written.
    """
    if path.exists():
        raise StoreError(f"the backup {path} exists already; name a new file")
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL, 0o600))
        _copy(conn, draft, stopped)
        _sync(draft)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))  # so it never replaces a file of somebody else
        draft.replace(path)
        if os.name != "nt":  # which cannot open a folder
            _sync(path.parent)
    except OSError as exc:
        raise StoreError(f"the backup {path} cannot be written: {exc.strerror or exc}; name another file") from exc
    except sqlite3.Error as exc:
        raise store_error(exc, f"{where} or its backup {path}") from exc
    finally:
        with suppress(OSError):
            draft.unlink()


def _copy(conn: sqlite3.Connection, draft: Path, stopped: threading.Event) -> None:
    """Copy all pages to a file that is there, and empty."""
    with closing(sqlite3.connect(draft)) as target:
        target.execute("PRAGMA synchronous = OFF")  # synced once, at the end
        target.execute("PRAGMA journal_mode = OFF")
        _copy_pages(conn, target, stopped)


def _copy_pages(conn: sqlite3.Connection, target: sqlite3.Connection, stopped: threading.Event) -> None:
    """Copy all pages. As this connection has begun to read, what others write meanwhile does not make it begin anew."""
    conn.execute("SELECT * FROM sqlite_master LIMIT 1").fetchone()
    conn.backup(target, pages=STEP_PAGES, progress=lambda *_: _go_on(stopped))


def _go_on(stopped: threading.Event) -> None:
    """Look between two steps of a copy whether to make another."""
    if stopped.is_set():
        raise StoreClosed("the store was closed before its copy was complete")


def _sync(path: Path) -> None:
    """Make sure that a file, or the names in a folder, survive the loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def tidy(conn: sqlite3.Connection) -> None:
    """Gather statistics for the planner, give free space back, and empty the log; outside of any transaction."""
    conn.execute("PRAGMA analysis_limit = 1000")
    conn.execute("ANALYZE")
    pages, free = (conn.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count"))
    if free > max(MIN_FREE_PAGES, FREE_SHARE * pages):
        conn.execute("VACUUM")
    conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def check_index(conn: sqlite3.Connection) -> list[str]:
    """Compare the keyword index with the texts, outside of any transaction; returns what is wrong."""
    try:
        conn.execute("INSERT INTO memory_index (memory_index, rank) VALUES ('integrity-check', 1)")
    except sqlite3.DatabaseError as exc:
        if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_CORRUPT:
            raise
        return [f"the keyword index does not fit the texts, or is damaged ({exc})"]
    return []


def is_large(conn: sqlite3.Connection) -> bool:
    """Whether it would take long to compare the index in the file itself, with its lock."""
    pages, page_bytes = (conn.execute(f"PRAGMA page_{name}").fetchone()[0] for name in ("count", "size"))
    return bool(pages * page_bytes > LARGE_BYTES)


def check_copied_index(conn: sqlite3.Connection, stopped: threading.Event) -> list[str]:
    """Do the same in a temporary copy of a snapshot, which is nobody's but this connection's."""
    with closing(sqlite3.connect("")) as copied:
        copied.set_progress_handler(stopped.is_set, PROGRESS_OPS)
        _copy_pages(conn, copied, stopped)
        return check_index(copied)


def check_rows(conn: sqlite3.Connection, _: threading.Event) -> list[str]:
    """Compare rows, vectors, index entries, links and events, inside a snapshot; returns what is wrong."""
    wrong: list[str] = []
    looks: list[Callable[[sqlite3.Connection], Iterator[str]]] = [_pages, _references, _vectors, wrong_codes]
    looks += [partial(_count, sql=sql, what=what) for what, sql in _COUNTS.items()]
    for look in looks:
        try:
            wrong += look(conn)
        except sqlite3.DatabaseError as exc:
            if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_CORRUPT:
                raise
            wrong.append(f"the file is damaged ({exc})")
    return list(dict.fromkeys(wrong))


def _pages(conn: sqlite3.Connection) -> Iterator[str]:
    for (found,) in conn.execute("PRAGMA integrity_check"):
        if found != "ok":
            yield f"the file is damaged: {found}"


def _references(conn: sqlite3.Connection) -> Iterator[str]:
    for table, row, parent, _ in conn.execute("PRAGMA foreign_key_check"):
        yield f"row {row} of {table} belongs to a row of {parent} that is not there"


def _vectors(conn: sqlite3.Connection) -> Iterator[str]:
    """Every vector must be of the store's dimension and have length one."""
    space = read_space(conn)
    cursor = conn.execute("SELECT seq, embedding FROM vectors")
    while rows := cursor.fetchmany(BLOCK_ROWS):
        fitting = [row for row in rows if space and len(row[1]) == 4 * space.dimension]
        if len(fitting) < len(rows):
            yield f"{len(rows) - len(fitting)} vectors are not of the dimension of the store, {space}"
        if fitting and space:
            lengths = np.linalg.norm(from_blobs([blob for _, blob in fitting], space.dimension), axis=1)
            for i in np.flatnonzero(~(np.abs(lengths - 1) < 1e-3)):  # noqa: PLR2004 - what float32 keeps, amply
                yield f"the vector of row {fitting[i][0]} has the length {lengths[i]:g}, not one"


def _count(conn: sqlite3.Connection, *, sql: str, what: str) -> Iterator[str]:
    count = conn.execute(f"SELECT count(*) FROM {sql}").fetchone()[0]  # noqa: S608 - written below
    if count:
        yield f"{count} {what}"


_COUNTS = {
    "memories have no vector": "memories WHERE seq NOT IN (SELECT seq FROM vectors)",
    "memories are not in the keyword index": "memories WHERE seq NOT IN (SELECT id FROM memory_index_docsize)",
    "entries of the keyword index have no memory": "memory_index_docsize WHERE id NOT IN (SELECT seq FROM memories)",
    "links are not from a fact to a turn": """
        links JOIN memories AS f ON f.seq = fact_seq JOIN memories AS t ON t.seq = turn_seq
        WHERE f.kind <> 'fact' OR t.kind <> 'turn'
    """,
    "jobs hold what is not a turn": "job_turns JOIN memories ON seq = turn_seq WHERE kind <> 'turn'",
    "events are of no memory that is there or was deleted": """
        events AS e WHERE NOT EXISTS (SELECT 1 FROM memories WHERE id = e.memory_id) AND NOT EXISTS (
          SELECT 1 FROM events AS d WHERE d.memory_id = e.memory_id AND d.kind = 'deleted' AND d.seq >= e.seq)
    """,
    "events still have the text of a memory that was deleted": """
        events AS e WHERE coalesce(old, new) IS NOT NULL AND EXISTS (
          SELECT 1 FROM events AS d WHERE d.memory_id = e.memory_id AND d.kind = 'deleted' AND d.seq > e.seq)
    """,
}
