"""The file: how a connection is opened, and how its schema is brought up to date."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ollama_async_mem.errors import ConfigError, SchemaTooNew, StoreError

from ._sqlite_filters import register
from ._sqlite_migrations import APPLICATION_ID, DEFAULT_TOKENIZER, MIGRATIONS, create_index
from ._sqlite_work import MemoConnection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._sqlite_records import RecordCache

__all__ = ["connect_reader", "connect_writer", "expand", "transaction"]

OLDEST_SQLITE = (3, 35, 0)  # RETURNING and DROP COLUMN: https://www.sqlite.org/releaselog/3_35_0.html
CHECKPOINT_PAGES = 4000  # what is written often meanwhile goes into the file once

_making = threading.Lock()  # whoever opened a file before its maker closed it would lose locks, see _require_writable


def expand(path: str | os.PathLike[str]) -> Path:
    """The path with `~` as the home folder.

    Raises:
        ConfigError: it begins with the home folder of nobody, or names no file.
    """
    if "\0" in os.fspath(path) or not os.fspath(path):
        raise ConfigError(f"{os.fspath(path)!r} names no file")
    try:
        return Path(path).expanduser()
    except RuntimeError as exc:
        raise ConfigError(f"the store {os.fspath(path)!r} lies in a home folder that is not known: {exc}") from exc


def connect_writer(
    path: Path | None,
    *,
    busy_timeout_s: float,
    create: bool = True,
    is_relaxed: bool = False,
    tokenize: str = DEFAULT_TOKENIZER,
) -> sqlite3.Connection:
    """Open the file and bring its schema up to date; `create` makes what is missing. None is a database in memory.

    `is_relaxed` commits without waiting for the disk; `tokenize` is for a file that is new.

    Raises:
        ConfigError: FTS5 does not know the tokenizer.
        StoreError: this SQLite is too old; or the file is read-only, a database of another program, or not there and
            not to be created.
        SchemaTooNew: a newer version of this library wrote it.
        sqlite3.Error, OSError: what the caller translates.
    """
    _require_sqlite()
    if path is not None:
        _require_writable(path)
        with _making:
            _make_missing(path, create=create)
    with _connect(path, busy_timeout_s) as conn:
        _require_ours(conn, path)
        _use_wal(conn, busy_timeout_s)
        if is_relaxed:
            conn.execute("PRAGMA synchronous = NORMAL")
        conn.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten, whatever the build's default
        conn.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        migrate(conn, path)
        settle_tokenizer(conn, tokenize)
    return conn


def connect_reader(
    path: Path | None, *, busy_timeout_s: float, records: RecordCache | None = None
) -> sqlite3.Connection:
    """Open a connection that cannot write; the writer has made the file what it should be."""
    with _connect(path, busy_timeout_s) as conn:
        conn.execute("PRAGMA query_only = ON")
        conn.records = records
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


def settle_tokenizer(conn: sqlite3.Connection, tokenize: str) -> None:
    """Give a new file the tokenizer that is asked for; one that has it decided keeps its own.

    Raises:
        ConfigError: FTS5 does not know it.
    """
    decided = "SELECT 1 FROM meta WHERE key = 'tokenize'"
    if conn.execute(decided).fetchone():
        return
    with transaction(conn):
        if not conn.execute(decided).fetchone():  # another process may have been faster
            conn.execute("INSERT INTO meta (key, value) VALUES ('tokenize', ?)", (tokenize,))
            if tokenize != DEFAULT_TOKENIZER:
                _create_index(conn, tokenize)


def _create_index(conn: sqlite3.Connection, tokenize: str) -> None:
    try:
        create_index(conn, tokenize)
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode != sqlite3.SQLITE_ERROR:  # a disk that is full, for one
            raise
        raise ConfigError(f"FTS5 has no tokenizer {tokenize!r}: {exc}") from exc


@contextmanager
def _connect(path: Path | None, busy_timeout_s: float) -> Iterator[MemoConnection]:
    """Open a connection with the settings that every connection has; it is closed where the body fails."""
    conn = sqlite3.connect(
        ":memory:" if path is None else path,
        factory=MemoConnection,
        timeout=busy_timeout_s,
        isolation_level=None,  # transactions are written out
        cached_statements=256,
    )
    try:
        register(conn)
        conn.execute("PRAGMA synchronous = FULL")
        conn.execute("PRAGMA foreign_keys = ON")
        yield conn
    except BaseException:
        conn.close()
        raise


def _require_sqlite() -> None:
    """Refuse an SQLite that does not know what the statements here say."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise StoreError(
            f"this Python has SQLite {sqlite3.sqlite_version}, and a store needs {oldest}: use a newer Python, "
            "or a store in PostgreSQL"
        )


def _make_missing(path: Path, *, create: bool) -> None:
    """Create the file and its folders where they are missing, for this account only.

    SQLite gives the files that it puts beside this one the same mode: https://www.sqlite.org/tempfiles.html.

    Raises:
        StoreError: it is not to be created.
    """
    if path.exists() and (create or path.stat().st_size):  # an empty file may be one that was cut off
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
