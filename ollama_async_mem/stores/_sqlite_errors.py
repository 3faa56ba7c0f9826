"""What SQLite and the file system raise, as the library's errors: one sentence of what is wrong and what to do."""

from __future__ import annotations

import errno
import sqlite3

from ollama_async_mem.errors import StoreBusy, StoreClosed, StoreError

__all__ = ["FAILURES", "is_of_the_disk", "store_error"]

FAILURES = (sqlite3.Error, MemoryError)  # SQLITE_NOMEM is raised as MemoryError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_FULL = (StoreError, "the disk is full; what is stored is intact: free some space and try again")

# By primary result code, some by extended code: https://www.sqlite.org/rescode.html
_ADVICE: dict[int, tuple[type[StoreError], str]] = {
    sqlite3.SQLITE_BUSY: (StoreBusy, "another process holds its lock for too long; try again, or close that process"),
    sqlite3.SQLITE_LOCKED: (StoreBusy, "another connection holds its lock for too long; try again"),
    sqlite3.SQLITE_INTERRUPT: (StoreClosed, "it was closed meanwhile"),
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_IOERR_SHMSIZE: _FULL,  # also reading needs some room, for an index of the log beside the file
    sqlite3.SQLITE_READONLY: (StoreError, "it cannot be written; check the rights of the file and of its folder"),
    sqlite3.SQLITE_PERM: (StoreError, "it may not be opened; check the rights of the file and of its folder"),
    sqlite3.SQLITE_CANTOPEN: (
        StoreError,
        "it cannot be opened; check that it is a file, and that it and its folder can be written",
    ),
    sqlite3.SQLITE_NOTADB: (StoreError, "it is not a database of this library; name another file, or move it away"),
    sqlite3.SQLITE_CORRUPT: (StoreError, "it is damaged; restore a backup, or move it away to begin anew"),
    sqlite3.SQLITE_IOERR: (StoreError, "the disk failed or has no space left; check it and try again"),
}


def store_error(exc: sqlite3.Error | OSError, where: str) -> StoreError:
    """Translate; the caller raises it `from exc`. `where` names the store for people."""
    if isinstance(exc, OSError) and exc.errno not in _NO_ROOM:
        return StoreError(f"the store {where} cannot be opened: {exc.strerror or exc}; name another place for it")
    code = sqlite3.SQLITE_FULL if isinstance(exc, OSError) else _code(exc)
    kind, advice = _ADVICE.get(code) or _ADVICE.get(code & 0xFF) or (StoreError, "SQLite refused the operation")
    return kind(f"the store {where}: {advice} ({exc})")


def is_of_the_disk(exc: sqlite3.Error | MemoryError) -> bool:
    """Whether the disk is full, fails, or holds a damaged file: not the doing of what was written."""
    return _code(exc) & 0xFF in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT}


def _code(exc: Exception) -> int:
    return getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
