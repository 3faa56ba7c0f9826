"""The file: how a connection is opened, and the numbered steps that bring a schema up to date.

Each step runs in one transaction together with its own record. A step that was released is never edited.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ollama_async_mem.errors import SchemaTooNew, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["MIGRATIONS", "connect_reader", "connect_writer", "transaction"]

APPLICATION_ID = 0x6F616D31  # "oam1" in the file's header: https://www.sqlite.org/fileformat.html#application_id

_making = threading.Lock()  # whoever opened a file before its maker closed it would lose locks, see _require_writable


def connect_writer(path: Path | None, *, busy_timeout_s: float, create: bool = True) -> sqlite3.Connection:
    """Open the file and bring its schema up to date; `create` makes what is missing. None is a database in memory.

    Raises:
        StoreError: it is read-only, a database of another program, or not there and not to be created.
        SchemaTooNew: a newer version of this library wrote it.
        sqlite3.Error, OSError: what the caller translates.
    """
    if path is not None:
        _require_writable(path)
        with _making:
            _make_missing(path, create=create)
    with _connect(path, busy_timeout_s) as conn:
        _require_ours(conn, path)
        _use_wal(conn, busy_timeout_s)
        migrate(conn, path)
    return conn


def connect_reader(path: Path | None, *, busy_timeout_s: float) -> sqlite3.Connection:
    """Open a connection that cannot write; the writer has made the file what it should be."""
    with _connect(path, busy_timeout_s) as conn:
        conn.execute("PRAGMA query_only = ON")
    return conn


@contextmanager
def transaction(conn: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
    """Commit what the body did, or roll it back when it raised."""
    conn.execute(begin)
    try:
        yield
        conn.execute("COMMIT")
    except BaseException:
        if conn.in_transaction:  # SQLite itself rolls back on some errors, a full disk for one
            conn.execute("ROLLBACK")
        raise


def migrate(conn: sqlite3.Connection, path: Path | None) -> None:
    """Apply the steps that the file does not have yet, each in a transaction of its own."""
    if _version(conn, path) == len(MIGRATIONS):
        return  # without asking for the write lock
    for number, step in enumerate(MIGRATIONS, 1):
        with transaction(conn):
            if _version(conn, path) < number:  # another process may have been faster
                step(conn)
                conn.execute(
                    "INSERT INTO migrations (version, name, applied_at) VALUES (?, ?, ?)",
                    (number, step.__name__, time.time_ns() // 1000),
                )


@contextmanager
def _connect(path: Path | None, busy_timeout_s: float) -> Iterator[sqlite3.Connection]:
    """Open a connection with the settings that every connection has; it is closed where the body fails."""
    conn = sqlite3.connect(
        ":memory:" if path is None else path,
        timeout=busy_timeout_s,
        isolation_level=None,  # transactions are written out
        cached_statements=256,
    )
    try:
        conn.execute("PRAGMA synchronous = FULL")
        conn.execute("PRAGMA foreign_keys = ON")
        yield conn
    except BaseException:
        conn.close()
        raise


def _make_missing(path: Path, *, create: bool) -> None:
    """Create the file and its folders where they are missing, for this account only.

    SQLite gives the files that it puts beside this one the same mode: https://www.sqlite.org/tempfiles.html.

    Raises:
        StoreError: it is not to be created.
    """
    if path.exists():
        return
    if not create:
        raise StoreError(f"there is no store at {path}")
    for folder in reversed(path.parents):
        folder.mkdir(0o700, exist_ok=True)
    with suppress(FileExistsError):  # another process was faster
        os.close(os.open(os.path.realpath(path), os.O_CREAT | os.O_EXCL, 0o600))


def _require_writable(path: Path) -> None:
    """Refuse early what SQLite would open without a word and then not write."""
    if path.is_dir():
        raise StoreError(f"the store {path} is a folder; name a file in it")
    # Not by opening it: closing any descriptor of the file drops the locks that this process holds on it,
    # https://www.sqlite.org/howtocorrupt.html section 2.2
    if path.exists() and not os.access(path, os.W_OK):
        raise StoreError(f"the store {path} is read-only; make it writable, or name another file")


def _require_ours(conn: sqlite3.Connection, path: Path | None) -> None:
    """Refuse a database that another program made."""
    (application,) = conn.execute("PRAGMA application_id").fetchone()
    (tables,) = conn.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (application or tables):
        raise StoreError(f"the store {path} is a database of another program; name another file")


def _use_wal(conn: sqlite3.Connection, busy_timeout_s: float) -> None:
    """Switch to write-ahead logging. The switch does not wait for other processes by itself, so it is tried again."""
    deadline = time.monotonic() + busy_timeout_s
    while conn.execute("PRAGMA journal_mode").fetchone()[0] not in {"wal", "memory"}:
        try:
            conn.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _version(conn: sqlite3.Connection, path: Path | None) -> int:
    """How many steps the file has, 0 when it is new."""
    if not conn.execute("SELECT 1 FROM sqlite_master WHERE name = 'migrations'").fetchone():
        return 0
    version: int = conn.execute("SELECT coalesce(max(version), 0) FROM migrations").fetchone()[0]
    if version > len(MIGRATIONS):
        raise SchemaTooNew(
            f"the store {path} has schema {version}, this version knows {len(MIGRATIONS)}: upgrade ollama-async-mem"
        )
    return version


def m001_initial(conn: sqlite3.Connection) -> None:
    """Create everything of the first release."""
    conn.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    for statement in _INITIAL.split(";\n\n"):
        conn.execute(statement)


# Times are microseconds since 1970 in UTC; `at_offset_s` keeps the local clock of what was said.
# Ids of users, agents and runs are any text at all: `names` interns their bytes, and the index only sees numbers.
# `memory_texts` is what the keyword index holds, so that a row leaves the index by the words with which it came.
# A token in its column `scope` joins the class of a memory (t turn, f fact that holds, d fact that is superseded)
# with one of its ids (u user, a agent, r run): a filter is then an AND of tokens inside the index.
_INITIAL = """
CREATE TABLE migrations (version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at INTEGER NOT NULL);

CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE names (key INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE);

CREATE TABLE scopes (
  id INTEGER PRIMARY KEY,
  user_key INTEGER NOT NULL, agent_key INTEGER NOT NULL, run_key INTEGER NOT NULL,  -- 0 is none
  removals INTEGER NOT NULL DEFAULT 0,
  UNIQUE (user_key, agent_key, run_key)
);

CREATE INDEX scopes_by_agent ON scopes (agent_key);

CREATE INDEX scopes_by_run ON scopes (run_key);

CREATE TABLE memories (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice: what is newer has a higher one
  id TEXT NOT NULL UNIQUE,
  scope_id INTEGER NOT NULL REFERENCES scopes (id),
  kind TEXT NOT NULL CHECK (kind IN ('turn', 'fact')),
  role TEXT, speaker TEXT, text TEXT NOT NULL, quote TEXT,
  terms TEXT,  -- what is indexed, where it is not just the speaker and the text
  at INTEGER NOT NULL, at_offset_s INTEGER NOT NULL, created_at INTEGER NOT NULL, valid_to INTEGER,
  metadata BLOB
);

CREATE INDEX memories_by_time ON memories (scope_id, at, id);

CREATE INDEX memories_current ON memories (scope_id, kind, valid_to);

CREATE TABLE vectors (
  seq INTEGER PRIMARY KEY REFERENCES memories (seq) ON DELETE CASCADE,
  embedding BLOB NOT NULL  -- float32, little endian, length one
);

CREATE TABLE links (
  fact_seq INTEGER NOT NULL REFERENCES memories (seq) ON DELETE CASCADE,
  position INTEGER NOT NULL,
  turn_seq INTEGER NOT NULL REFERENCES memories (seq) ON DELETE CASCADE,
  PRIMARY KEY (fact_seq, position)
) WITHOUT ROWID;

CREATE INDEX links_by_turn ON links (turn_seq);

CREATE TABLE jobs (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  scope_id INTEGER NOT NULL REFERENCES scopes (id),
  state TEXT NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'done', 'dead')),
  attempts INTEGER NOT NULL DEFAULT 0,
  lease_until INTEGER NOT NULL DEFAULT 0, next_try_at INTEGER NOT NULL DEFAULT 0,
  last_error TEXT
);

CREATE INDEX jobs_queued ON jobs (seq) WHERE state = 'queued';

CREATE TABLE job_turns (
  job_seq INTEGER NOT NULL REFERENCES jobs (seq) ON DELETE CASCADE,
  position INTEGER NOT NULL,
  turn_seq INTEGER NOT NULL REFERENCES memories (seq) ON DELETE CASCADE,
  PRIMARY KEY (job_seq, position)
) WITHOUT ROWID;

CREATE INDEX job_turns_by_turn ON job_turns (turn_seq);

CREATE VIEW memory_texts AS
SELECT seq,
  coalesce(terms, CASE WHEN speaker IS NULL THEN text ELSE speaker || ' ' || text END) AS body,
  class || '0 ' || class || 'u' || user_key || ' ' || class || 'a' || agent_key || ' ' || class || 'r' || run_key
    AS scope
FROM (
  SELECT m.*, s.user_key, s.agent_key, s.run_key,
    CASE WHEN kind = 'turn' THEN 't' WHEN valid_to IS NULL THEN 'f' ELSE 'd' END AS class
  FROM memories m JOIN scopes s ON s.id = m.scope_id
);

CREATE VIRTUAL TABLE memory_index USING fts5 (
  body, scope,
  content = 'memory_texts', content_rowid = 'seq', tokenize = 'porter unicode61 remove_diacritics 2'
);

INSERT INTO memory_index (memory_index, rank) VALUES ('rank', 'bm25(1.0, 0.0)')
"""


def m002_jobs_given_back(conn: sqlite3.Connection) -> None:
    """Tell the number of claims from that of attempts, and find the jobs that are not done without the others."""
    conn.execute("ALTER TABLE jobs RENAME COLUMN attempts TO claims")
    conn.execute("ALTER TABLE jobs ADD COLUMN returned INTEGER NOT NULL DEFAULT 0")
    conn.execute("CREATE INDEX jobs_unfinished ON jobs (seq) WHERE state <> 'done'")


MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (m001_initial, m002_jobs_given_back)
