"""The threads in which SQLite runs, so that the event loop never waits for a disk.

One thread writes: whatever is queued goes into one transaction, and a caller resumes after its COMMIT (group commit:
callers share the sync). A few threads read, each in a snapshot of its own. It knows nothing of memories.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from itertools import groupby
from typing import Any, TypeAlias, TypeVar

import anyio
import msgspec

from ollama_async_mem.errors import StoreClosed, StoreError

from ._sqlite_errors import is_of_the_disk, store_error

__all__ = ["Connect", "SQLiteThreads", "Work", "commit_all"]

T = TypeVar("T")
Work: TypeAlias = Callable[[sqlite3.Connection], T]
Connect: TypeAlias = Callable[[], sqlite3.Connection]

_FAILURES = (sqlite3.Error, MemoryError)  # SQLITE_NOMEM is raised as MemoryError

MAX_GROUP = 256
MAX_QUEUED = 1024


class _Item(msgspec.Struct):
    """One call on its way through a thread. `future` only says that the outcome is in `result` or `error`."""

    work: Work[Any]
    future: asyncio.Future[None]
    reads: bool
    result: Any = None
    error: Exception | None = None

    def run(self, conn: sqlite3.Connection, *, begin: bool = False) -> None:
        """Do the work and keep its outcome. After a rollback it may run again."""
        self.error = None
        try:
            if begin:
                conn.execute("BEGIN")
            self.result = self.work(conn)
        except Exception as exc:  # noqa: BLE001 - it goes to the caller's task, which raises it
            self.error = exc


_Inbox: TypeAlias = "queue.SimpleQueue[_Item | None]"  # None: stop


class SQLiteThreads:
    """The threads of one open store. All methods belong to the event loop that called `start`."""

    def __init__(self, connect_writer: Connect, connect_reader: Connect, *, readers: int, where: str) -> None:
        self._where = where
        self._connect_writer = connect_writer
        self._connect_reader = connect_reader
        self._writes: _Inbox = queue.SimpleQueue()
        # Without readers everything is done by the writer: a database in memory has one connection.
        self._reads: _Inbox = queue.SimpleQueue() if readers else self._writes
        self._readers = [_thread(self._read_loop) for _ in range(readers)]
        self._slots = anyio.Semaphore(MAX_QUEUED, fast_acquire=True)
        self._closed = False

    async def start(self) -> None:
        """Open the writer's connection and start all threads.

        Raises:
            StoreError: the database could not be opened; no thread is left.
        """
        self._loop = asyncio.get_running_loop()
        opened = _Item(_nothing, self._loop.create_future(), reads=True)
        self._writer = _thread(self._write_loop, opened)
        self._writer.start()
        try:
            await opened.future
            self._outcome(opened)
        except BaseException:
            await self.stop()
            raise
        for thread in self._readers:
            thread.start()

    async def stop(self) -> None:
        """Finish what is queued, close the connections and end the threads; cancellation does not hurry it."""
        self._closed = True
        for _ in self._readers:
            self._reads.put(None)
        self._writes.put(None)
        await _ended([*self._readers, self._writer])

    async def write(self, work: Work[T]) -> T:
        """Run `work` inside a transaction of the writer, and return after its COMMIT.

        When the caller is cancelled meanwhile, the work happened as a whole or not at all.

        Raises:
            StoreError: it failed and nothing of it is stored; other calls of the same transaction are, unless they
                could not be committed because of the disk.
        """
        return await self._call(self._writes, work, reads=False)

    async def read(self, work: Work[T]) -> T:
        """Run `work` in a reader's snapshot.

        Raises:
            StoreError: it failed.
        """
        return await self._call(self._reads, work, reads=True)

    async def _call(self, inbox: _Inbox, work: Work[T], *, reads: bool) -> T:
        if asyncio.get_running_loop() is not self._loop:
            raise StoreError(f"the store {self._where} is used on another event loop than the one that opened it")
        await self._slots.acquire()  # given back by _settle, for the item may outlive its caller
        if self._closed:
            self._slots.release()
            raise StoreClosed(f"the store {self._where} is closed")
        item = _Item(work, self._loop.create_future(), reads)
        inbox.put(item)
        await item.future
        result: T = self._outcome(item)
        return result

    def _outcome(self, item: _Item) -> Any:
        if isinstance(item.error, sqlite3.Error | OSError):
            raise store_error(item.error, self._where) from item.error
        if item.error is not None:
            raise item.error
        return item.result

    def _deliver(self, items: list[_Item], *, slots: bool = True) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._settle, items, slots)

    def _settle(self, items: list[_Item], slots: bool) -> None:  # noqa: FBT001 - call_soon takes no keywords
        for item in items:
            if slots:
                self._slots.release()
            if not item.future.done():
                item.future.set_result(None)

    def _write_loop(self, opened: _Item) -> None:
        try:
            conn = self._connect_writer()
        except Exception as exc:  # noqa: BLE001 - `start` raises it
            opened.error = exc
            self._deliver([opened], slots=False)
            return
        self._deliver([opened], slots=False)
        with closing(conn):  # after the readers' connections: the last one to close tidies the log away
            more = True
            while more:
                group, more = _take(self._writes)
                _serve(conn, [item for item in group if not item.future.cancelled()])
                self._deliver(group)
            for reader in self._readers:
                if reader.ident is not None:  # it was started
                    reader.join()

    def _read_loop(self) -> None:
        conn: sqlite3.Connection | None = None
        while (item := self._reads.get()) is not None:
            if not item.future.cancelled():
                conn = conn or _attempt_connect(self._connect_reader, item)
                if conn is not None:
                    _read(conn, item)
            self._deliver([item])
        if conn is not None:
            conn.close()


def _serve(conn: sqlite3.Connection, items: list[_Item]) -> None:
    """Run items in order; a read stands between transactions, so that it never sees what may be rolled back."""
    for reads, run in groupby(items, key=lambda item: item.reads):
        if reads:
            for item in run:
                _read(conn, item)
        else:
            commit_all(conn, list(run))


def commit_all(conn: sqlite3.Connection, items: list[_Item]) -> None:
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


def _commit(conn: sqlite3.Connection, group: list[_Item]) -> int | None:
    """Run a group in one transaction. Returns the position of the item that failed; nothing is stored then.

    What no item is to blame for is the error of all, and is not tried again: a lock that is not to be had would only
    be waited for longer, and on a full disk a group would be run as often as it has items.
    """
    position = 0
    try:
        conn.execute("BEGIN IMMEDIATE")
    except _FAILURES as exc:
        _fail(group, exc)
        return None
    for position, item in enumerate(group):
        item.run(conn)
        if item.error is not None:
            _rollback(conn)
            return position
    try:
        conn.execute("COMMIT")
    except _FAILURES as exc:
        _rollback(conn)
        if is_of_the_disk(exc):
            _fail(group, exc)
            return None
        group[-1].error = exc
        return len(group) - 1
    return None


def _fail(group: list[_Item], exc: Exception) -> None:
    for item in group:
        item.error = exc


def _rollback(conn: sqlite3.Connection) -> None:
    if conn.in_transaction:  # SQLite itself rolls back on some errors, a full disk for one
        with suppress(*_FAILURES):
            conn.execute("ROLLBACK")


def _read(conn: sqlite3.Connection, item: _Item) -> None:
    """Run an item in one snapshot of the database."""
    item.run(conn, begin=True)
    _rollback(conn)


def _attempt_connect(connect: Connect, item: _Item) -> sqlite3.Connection | None:
    try:
        return connect()
    except _FAILURES as exc:
        item.error = exc
        return None


def _take(inbox: _Inbox) -> tuple[list[_Item], bool]:
    """Wait for an item, and take those that are there already. False: there will be no more."""
    items: list[_Item] = []
    item = inbox.get()
    with suppress(queue.Empty):
        while item is not None:
            items.append(item)
            if len(items) == MAX_GROUP:
                return items, True
            item = inbox.get_nowait()
        return items, False
    return items, True


def _thread(target: Callable[..., None], *args: Any) -> threading.Thread:
    """A thread that `stop` waits for. Daemonic, so that a store that nobody closed does not hang the interpreter."""
    return threading.Thread(target=target, args=args, name="store", daemon=True)


async def _ended(threads: list[threading.Thread]) -> None:
    """Wait for threads without blocking the loop. Cancellation is raised when they are gone, not before."""
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while any(thread.is_alive() for thread in threads):
            try:
                await anyio.sleep(0.001)
            except asyncio.CancelledError as exc:  # Task.cancel passes through a shield
                cancelled = exc
    if cancelled is not None:
        raise cancelled


def _nothing(_: sqlite3.Connection) -> None:
    """Stand for the work of opening."""
