"""What asyncpg and the network raise, as the library's errors: one sentence of what is wrong and what to do.

Only the first line of what the server says is repeated: the others may hold what users wrote.
"""

from __future__ import annotations

import asyncpg

from ollama_async_mem.errors import EmbeddingMismatch, StoreBusy, StoreClosed, StoreError

__all__ = ["FAILURES", "is_conflict", "is_lost", "is_of_the_data", "store_error"]

FAILURES = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)  # and TimeoutError

# By SQLSTATE, some by their class: https://www.postgresql.org/docs/current/errcodes-appendix.html
_ADVICE: dict[str, tuple[type[StoreError], str]] = {
    "08": (StoreBusy, "the connection was lost; try again"),
    "25006": (StoreError, "the server is read-only, as a standby is; name the one that can be written"),
    "28": (StoreError, "the server refuses this account; check the name and the password in its URL"),
    "3D000": (StoreError, "the server has no such database; create it, or name another in the URL"),
    "40": (StoreBusy, "others changed the same memories again and again; try again"),
    "42501": (StoreError, "this account may not do that; grant it the rights, or use another one"),
    "42703": (StoreError, "its tables are not those of this library; name another schema"),
    "42P01": (StoreError, "its tables are not those of this library; name another schema"),
    "42P07": (StoreError, "its tables are not those of this library; name another schema"),
    "53": (StoreBusy, "the server has no room left; free its disk or memory and try again"),
    "53300": (StoreBusy, "the server has no connection left; allow it more, or open fewer"),
    "54": (StoreError, "a value is too large for the server, such as an id of some thousand characters"),
    "55P03": (StoreBusy, "others hold a lock for too long; try again"),
    "57014": (StoreBusy, "the server took longer than the store allows; try again, or allow it more time"),
    "57P": (StoreBusy, "the server is starting or stopping; try again"),
    "XX": (StoreError, "the server found its data damaged; restore a backup"),
}


def store_error(exc: Exception, where: str) -> StoreError:
    """Translate one of `FAILURES`; the caller raises it `from exc`. `where` names the store for people."""
    if isinstance(exc, asyncpg.PostgresError):
        code = getattr(exc, "sqlstate", None) or "XX"
        advice = (_ADVICE.get(code[:length]) for length in (5, 3, 2))
        kind, text = next(filter(None, advice), (StoreError, "PostgreSQL refused the operation"))
        return kind(f"the store {where}: {text} ({_first_line(exc)})")
    if isinstance(exc, TimeoutError):
        return StoreBusy(f"the store {where}: the server does not answer in time; check it, and try again")
    if isinstance(exc, OSError):
        return StoreError(
            f"the store {where} cannot be reached: {exc.strerror or exc}; check its URL, and that the server runs"
        )
    if "pool is clos" in str(exc):
        return StoreClosed(f"the store {where} is closed")
    return StoreError(f"the store {where}: the connection cannot be used ({_first_line(exc)}); try again")


def is_lost(exc: Exception) -> bool:
    """Whether the connection died, so that a new one may serve."""
    if isinstance(exc, asyncpg.InterfaceError):
        return "connection is closed" in str(exc) or "connection has been released" in str(exc)
    lost = (
        asyncpg.PostgresConnectionError,
        asyncpg.AdminShutdownError,
        asyncpg.CrashShutdownError,
        asyncpg.IdleInTransactionSessionTimeoutError,
        ConnectionError,
    )
    return isinstance(exc, lost)


def is_conflict(exc: Exception) -> bool:
    """Whether the server rolled a transaction back for the sake of another one, and it may be done again."""
    return isinstance(exc, asyncpg.DeadlockDetectedError | asyncpg.SerializationError)


def is_of_the_data(exc: Exception) -> bool:
    """Whether what was to be stored is to blame for an error of ours, and not the server or the way to it.

    What we refuse ourselves has no cause; the failures of the server are those of errors that it sent.
    """
    kinds = asyncpg.IntegrityConstraintViolationError | asyncpg.DataError | asyncpg.ProgramLimitExceededError
    is_ours = isinstance(exc, StoreError | EmbeddingMismatch)
    return is_ours and (exc.__cause__ is None or isinstance(exc.__cause__, kinds))


def _first_line(exc: Exception) -> str:
    return str(exc).partition("\n")[0]
