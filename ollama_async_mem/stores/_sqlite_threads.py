"""The threads in which SQLite runs, so that the event loop never waits for a disk.

One thread writes: whatever is queued goes into one transaction, and a caller resumes after its COMMIT (group commit:
callers share the sync). One thread reads: what is queued when a snapshot begins shares it. While it takes long over
something others help: many at once would only wait for the interpreter's lock. What is known to take long gets a thread
and a connection for itself. It knows nothing of memories.
"""

from __future__ import annotations

import asyncio
import logging
import math
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

import anyio
import msgspec

from ollama_async_mem.errors import StoreClosed, StoreError

from ._sqlite_errors import FAILURES, store_error
from ._sqlite_work import Item, Work, end, read, rollback, serve

if TYPE_CHECKING:
    from ._sqlite_work import Mode

__all__ = ["Connect", "Interlude", "LongWork", "SQLiteThreads"]

_log = logging.getLogger(__name__)

T = TypeVar("T")
LongWork: TypeAlias = Callable[[sqlite3.Connection, threading.Event], T]
Connect: TypeAlias = Callable[[], sqlite3.Connection]

MAX_GROUP = 256
MAX_QUEUED = 1024
STUCK_S = 0.005  # how long the reader takes over something until others read what else is queued
IDLE_S = 0.01  # how long nothing must be written before what is not urgent is done
PROGRESS_OPS = 100_000  # after how many steps of its machine SQLite asks whether to go on


class _Aside(msgspec.Struct, eq=False):
    """A long work with its thread, and its connection while that is open."""

    item: Item
    stopped: threading.Event
    thread: threading.Thread
    conn: sqlite3.Connection | None = None

    def stop(self) -> None:
        """Ask it to end soon."""
        self.stopped.set()
        if self.conn is not None:
            with suppress(sqlite3.ProgrammingError):  # it is closed already
                self.conn.interrupt()


def _no_upkeep(_: sqlite3.Connection, *, is_idle: bool) -> None:
    pass


class Interlude(Protocol):
    """What the thread that writes does after each transaction, once callers have their answers, and when it is idle.

    Unless it is idle, only what cannot wait. It returns for how many seconds nothing must be written until it is called
    again as idle, None where nothing is left to be done.
    """

    def __call__(self, conn: sqlite3.Connection, /, *, is_idle: bool) -> float | None: ...


_Inbox: TypeAlias = "queue.SimpleQueue[Item | None]"  # None: stop


class SQLiteThreads:
    """The threads of one open store. All methods belong to the event loop that called `start`."""

    def __init__(
        self,
        connect_writer: Connect,
        connect_reader: Connect,
        *,
        readers: int,
        where: str,
        upkeep: Interlude = _no_upkeep,
    ) -> None:
        self._where = where
        self._connect_writer = connect_writer
        self._connect_reader = connect_reader
        self._upkeep = upkeep
        self._asides: set[_Aside] = set()
        self._writes: _Inbox = queue.SimpleQueue()
        # Without readers everything is done by the writer: a database in memory has one connection.
        self._reads: _Inbox = queue.SimpleQueue() if readers else self._writes
        self._help = threading.Semaphore(0)
        self._is_watched = False
        self._called = 0
        self._reading_since = math.inf
        self._readers = [_thread(self._read_loop), *(_thread(self._help_loop) for _ in range(1, readers))][:readers]
        self._slots = asyncio.Semaphore(MAX_QUEUED)
        self._closed = False

    async def start(self) -> None:
        """Open the writer's connection and start all threads.

        Raises:
            StoreError: the database could not be opened; no thread is left.
        """
        self._loop = asyncio.get_running_loop()
        opened = Item(_nothing, self._loop.create_future(), "read")
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
        if self._readers:
            self._reads.put(None)
        for _ in self._readers[1:]:
            self._help.release()
        self._writes.put(None)
        asides = list(self._asides)
        for aside in asides:
            aside.stop()
        await _ended([*self._readers, *(aside.thread for aside in asides), self._writer])

    def write(self, work: Work[T]) -> Coroutine[Any, Any, T]:
        """Run `work` inside a transaction of the writer, and return after its COMMIT.

        When the caller is cancelled meanwhile, the work happened as a whole or not at all.

        Raises:
            StoreError: it failed and nothing of it is stored; other calls of the same transaction are, unless they
                could not be committed because of the disk.
        """
        return self._call(self._writes, work, "write")

    def alone(self, work: Work[T]) -> Coroutine[Any, Any, T]:
        """Run `work` in the thread that writes, outside of any transaction.

        Raises:
            StoreError: it failed.
        """
        return self._call(self._writes, work, "alone")

    def read(self, work: Work[T]) -> Coroutine[Any, Any, T]:
        """Run `work` in a reader's snapshot.

        Raises:
            StoreError: it failed.
        """
        return self._call(self._reads, work, "read")

    async def aside(self, work: LongWork[T]) -> T:
        """Run `work` in a snapshot, in a thread and on a connection of its own. When cancelled it is stopped first.

        Raises:
            StoreClosed: the store was closed meanwhile.
            StoreError: it failed.
        """
        self._check()
        stopped = threading.Event()
        if not self._readers:
            try:
                return await self.read(lambda conn: work(conn, stopped))
            finally:
                stopped.set()
        item = Item(lambda conn: work(conn, stopped), self._loop.create_future(), "read")
        aside = _Aside(item, stopped, _thread(lambda: self._run_aside(aside)))
        self._asides.add(aside)
        aside.thread.start()
        try:
            await item.future
        finally:
            aside.stop()
            await _ended([aside.thread])
            self._asides.discard(aside)
        result: T = self._outcome(item)
        return result

    def _check(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise StoreError(f"the store {self._where} is used on another event loop than the one that opened it")
        if self._closed:
            raise StoreClosed(f"the store {self._where} is closed")

    async def _call(self, inbox: _Inbox, work: Work[T], mode: Mode) -> T:
        self._check()
        await self._slots.acquire()  # given back by _settle, for the item may outlive its caller
        if self._closed:
            self._slots.release()
            raise StoreClosed(f"the store {self._where} is closed")
        self._called += 1
        item = Item(work, self._loop.create_future(), mode, self._called)
        inbox.put(item)
        if mode == "read" and len(self._readers) > 1 and not self._is_watched:
            self._watch()
        await item.future
        result: T = self._outcome(item)
        return result

    def _watch(self) -> None:
        """Look again and again, as long as something is queued to be read, whether the reader is stuck."""
        self._is_watched = not self._reads.empty()
        if self._is_watched:
            if time.perf_counter() - self._reading_since > STUCK_S:
                self._help.release()
            self._loop.call_later(STUCK_S, self._watch)

    def _outcome(self, item: Item) -> Any:
        if isinstance(item.error, sqlite3.Error | OSError):
            raise store_error(item.error, self._where) from item.error
        if item.error is not None:
            raise item.error
        return item.result

    def _deliver(self, items: list[Item], *, slots: bool = True) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._settle, items, slots)

    def _settle(self, items: list[Item], slots: bool) -> None:  # noqa: FBT001 - call_soon takes no keywords
        for item in items:
            if slots:
                self._slots.release()
            if not item.future.done():
                item.future.set_result(None)

    def _write_loop(self, opened: Item) -> None:
        try:
            conn = self._connect_writer()
        except Exception as exc:  # noqa: BLE001 - `start` raises it
            opened.error = exc
            self._deliver([opened], slots=False)
            return
        self._deliver([opened], slots=False)
        with closing(conn):  # after the readers' connections: the last one to close tidies the log away
            more = True
            due_s: float | None = 0.0  # what was left undone when the file was last closed
            while more:
                group, more = _take(self._writes, patience_s=None if due_s is None else max(due_s, IDLE_S))
                if group:
                    serve(conn, [item for item in group if not item.future.cancelled()])
                    self._deliver(group)
                due_s = self._keep_up(conn, is_idle=not group) if more else None
            for reader in self._readers:
                if reader.ident is not None:  # it was started
                    reader.join()

    def _keep_up(self, conn: sqlite3.Connection, *, is_idle: bool) -> float | None:
        """Do what nobody waits for; when it fails it is tried again after the next commit."""
        try:
            return self._upkeep(conn, is_idle=is_idle)
        except Exception as exc:  # noqa: BLE001 - nobody waits for it, and without this thread nothing could be written
            _log.warning("upkeep of %s failed, and is tried again after the next write: %s", self._where, exc)
            rollback(conn)
            return None

    def _run_aside(self, aside: _Aside) -> None:
        conn = _attempt_connect(self._connect_reader, aside.item)
        if conn is not None:
            with closing(conn):
                aside.conn = conn
                conn.set_progress_handler(aside.stopped.is_set, PROGRESS_OPS)
                read(conn, aside.item)
        self._deliver([aside.item], slots=False)

    def _read_loop(self) -> None:
        conn: sqlite3.Connection | None = None
        seen = 0  # the last call that came before the snapshot began
        while (item := self._next_read(conn)) is not None:
            self._reading_since = time.perf_counter()
            if conn is not None and item.number > seen:
                end(conn)
            if conn is None or not conn.in_transaction:
                seen = self._called
            conn = self._served(item, conn)
            self._reading_since = math.inf
        if conn is not None:
            conn.close()

    def _next_read(self, conn: sqlite3.Connection | None) -> Item | None:
        """What is queued next. No snapshot stays while nothing is: others may have taken what was."""
        with suppress(queue.Empty):
            return self._reads.get_nowait()
        if conn is not None:
            end(conn)
        return self._reads.get()

    def _help_loop(self) -> None:
        conn: sqlite3.Connection | None = None
        while self._help.acquire() and not self._closed:
            with suppress(queue.Empty):
                if (item := self._reads.get_nowait()) is None:
                    self._reads.put(None)  # it was for the reader
                elif (conn := self._served(item, conn)) is not None:
                    end(conn)
        if conn is not None:
            conn.close()

    def _served(self, item: Item, conn: sqlite3.Connection | None) -> sqlite3.Connection | None:
        """Read for one call; returns the connection, which is opened when it is needed."""
        if not item.future.cancelled():
            conn = conn or _attempt_connect(self._connect_reader, item)
            if conn is not None:
                read(conn, item)
        self._deliver([item])
        return conn


def _attempt_connect(connect: Connect, item: Item) -> sqlite3.Connection | None:
    try:
        return connect()
    except FAILURES as exc:
        item.error = exc
        return None


def _take(inbox: _Inbox, *, patience_s: float | None) -> tuple[list[Item], bool]:
    """Take the items that are there, after waiting for one, for ever or for some time. False: there will be no more."""
    items: list[Item] = []
    with suppress(queue.Empty):
        item = inbox.get(timeout=patience_s)
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
