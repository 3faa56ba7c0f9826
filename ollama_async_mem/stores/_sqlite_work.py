"""Work on a connection, in transactions: what the threads of a store do with the calls that are queued.

It knows neither threads nor memories.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import msgspec

from ._sqlite_errors import FAILURES, is_of_the_disk

if TYPE_CHECKING:
    import asyncio

    from ._sqlite_records import RecordCache

__all__ = [
    "Item",
    "MemoConnection",
    "Mode",
    "Stamp",
    "Work",
    "begin",
    "commit_all",
    "end",
    "memo_of",
    "number",
    "read",
    "renewed",
    "rollback",
    "serve",
    "stamp_of",
]

T = TypeVar("T")
Work: TypeAlias = Callable[[sqlite3.Connection], T]
Mode: TypeAlias = Literal["read", "write", "alone"]
Stamp: TypeAlias = tuple[int, int]


class MemoConnection(sqlite3.Connection):
    """A connection with a memo of what was read or written in it, which is emptied whenever that may not be stored.

    One that reads may have records of what is stored, which it shares with others.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.memo: dict[Any, Any] = {}
        self.records: RecordCache | None = None  # for one that only reads what is committed
        self.stamp: Stamp | None = None  # of the snapshot; None before it begins
        self.numbers: tuple[Stamp | None, dict[str, int]] = (None, {})  # that were read under a stamp


def memo_of(conn: sqlite3.Connection) -> dict[Any, Any]:
    """The memo of a connection, one that is forgotten at once where it has none."""
    return conn.memo if isinstance(conn, MemoConnection) else {}


def begin(conn: sqlite3.Connection) -> None:
    """Let a snapshot begin with the first read."""
    conn.execute("BEGIN")
    if isinstance(conn, MemoConnection):
        conn.stamp = None


def stamp_of(conn: sqlite3.Connection) -> Stamp:
    """Changes with each commit of another connection, and with each change of this one. It begins the snapshot."""
    stamp = conn.stamp if isinstance(conn, MemoConnection) else None
    if stamp is None:
        stamp = conn.execute("PRAGMA data_version").fetchone()[0], conn.total_changes
        if isinstance(conn, MemoConnection):
            conn.stamp = stamp
    return stamp


def renewed(conn: sqlite3.Connection) -> Stamp:
    """Leave the snapshot for a new one, which no mirror is newer than whose lock the caller holds."""
    conn.execute("ROLLBACK")
    begin(conn)
    return stamp_of(conn)


def number(conn: sqlite3.Connection, sql: str) -> int:
    """The one number that a query gives, 0 for none. A connection that only reads asks again when the file changed."""
    if not isinstance(conn, MemoConnection) or conn.records is None:
        return _number(conn, sql)
    stamp = stamp_of(conn)
    if conn.numbers[0] != stamp:
        conn.numbers = stamp, {}
    numbers = conn.numbers[1]
    if sql not in numbers:
        numbers[sql] = _number(conn, sql)
    return numbers[sql]


def _number(conn: sqlite3.Connection, sql: str) -> int:
    row = conn.execute(sql).fetchone()
    return row[0] or 0 if row else 0


class Item(msgspec.Struct):
    """One call on its way through a thread. `future` only says that the outcome is in `result` or `error`."""

    work: Work[Any]
    future: asyncio.Future[None]
    mode: Mode
    number: int = 0  # of the call, from 1 on
    result: Any = None
    error: Exception | None = None

    def run(self, conn: sqlite3.Connection, *, is_read: bool = False) -> None:
        """Do the work and keep its outcome. After a rollback it may run again."""
        self.error = None
        try:
            if is_read:
                begin(conn)
            self.result = self.work(conn)
        except Exception as exc:  # noqa: BLE001 - it goes to the caller's task, which raises it
            self.error = exc


def serve(conn: sqlite3.Connection, items: list[Item]) -> None:
    """Run items in order; a read stands between transactions, so that it never sees what may be rolled back."""
    for mode, run in groupby(items, key=lambda item: item.mode):
        if mode == "write":
            commit_all(conn, list(run))
            continue
        for item in run:
            item.run(conn, is_read=mode == "read")
            rollback(conn)


def commit_all(conn: sqlite3.Connection, items: list[Item]) -> None:
    """Commit all items that succeed, in as few transactions as that takes.

    When one fails, those before it are rolled back and done again without it. A savepoint for each item would spare
    that, but at each one FTS5 writes out what it holds, which costs every row a quarter more time (measured).
    """
    todo = [items]
    while todo:
        group = todo.pop()
        failed = _commit(conn, group) if group else None
        if failed is not None and len(group) > 1:
            todo += [group[failed + 1 :], [group[failed]], group[:failed]]


def _commit(conn: sqlite3.Connection, group: list[Item]) -> int | None:
    """Run a group in one transaction. Returns the position of the item that failed; nothing is stored then.

    What no item is to blame for is the error of all, and is not tried again: a lock that is not to be had would only
    be waited for longer, and on a full disk a group would be run as often as it has items.
    """
    position = 0
    try:
        conn.execute("BEGIN IMMEDIATE")
    except FAILURES as exc:
        _fail(group, exc)
        return None
    for position, item in enumerate(group):
        item.run(conn)
        if item.error is not None:
            rollback(conn)
            return position
    try:
        conn.execute("COMMIT")
    except FAILURES as exc:
        rollback(conn)
        if is_of_the_disk(exc):
            _fail(group, exc)
            return None
        group[-1].error = exc
        return len(group) - 1
    return None


def _fail(group: list[Item], exc: Exception) -> None:
    for item in group:
        item.error = exc


def rollback(conn: sqlite3.Connection) -> None:
    """End a transaction that is not to be stored, where there is one."""
    memo_of(conn).clear()
    end(conn)


def read(conn: sqlite3.Connection, item: Item) -> None:
    """Run an item in one snapshot, on a connection that only reads: what is in its memo is committed, and stays.

    The snapshot stays too, for items that came before it began.
    """
    item.run(conn, is_read=not conn.in_transaction)


def end(conn: sqlite3.Connection) -> None:
    """Leave the snapshot, if there is one."""
    if conn.in_transaction:  # SQLite itself rolls back on some errors, a full disk for one
        with suppress(*FAILURES):
            conn.execute("ROLLBACK")
