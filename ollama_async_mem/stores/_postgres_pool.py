"""The connections to the server: a bounded pool, transactions, and what happens when a connection dies.

A read is done again where its connection died. So is a write, as long as its COMMIT was not sent: after that only the
server knows whether it happened, and the error says so. It knows nothing of memories.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

import anyio
import asyncpg

from ollama_async_mem.errors import ConfigError, StoreBusy, StoreError

from ._postgres_errors import FAILURES, is_conflict, is_lost, store_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    T = TypeVar("T")
    Work: TypeAlias = Callable[["Connection"], Awaitable[T]]

__all__ = ["Connection", "Limits", "PostgresPool", "session"]

Connection: TypeAlias = Any  # asyncpg comes without types

_SETTINGS = {
    "plan_cache_mode": "force_custom_plan",  # users differ in size, and so do the best plans for them
    "jit": "off",  # compiling takes longer than these statements do
    "max_parallel_workers_per_gather": "0",  # calls share the cores already
    "hnsw.iterative_scan": "relaxed_order",  # a scan of the index goes on until enough rows pass the filter
    "hnsw.ef_search": "200",
}
MAX_TRIES = 6
GRACE_S = 5.0  # the server's own limit comes first, for it leaves the connection as it was


@asynccontextmanager
async def session(url: str, *, timeout_s: float, where: str) -> AsyncIterator[Connection]:
    """Open a connection by itself, whose statements may take as long as they need.

    Raises:
        ConfigError: the URL cannot be read.
        StoreError: the server cannot be reached, refuses, or fails.
    """
    try:
        connection = await _connected(url, timeout_s, where)
        try:
            yield connection
        finally:
            with anyio.CancelScope(shield=True):  # a statement that was cancelled must end on the server, too
                await connection.close(timeout=GRACE_S)
    except FAILURES as exc:
        raise store_error(exc, where) from exc


async def _connected(url: str, timeout_s: float, where: str) -> Connection:
    try:
        return await asyncpg.connect(url, timeout=timeout_s)
    except ValueError as exc:  # the URL is read here; the error may quote a part of the password
        if isinstance(exc, OSError):
            raise
        raise ConfigError(f"the URL of the store {where} has an option that cannot be read") from None


class Limits(NamedTuple):
    """How many connections there are, and how long a lock, a connection or the end of a statement is waited for."""

    connections: int
    busy_timeout_s: float
    connect_timeout_s: float
    statement_timeout_s: float

    def check(self) -> None:
        """Check that all can be kept.

        Raises:
            ConfigError: one is out of range.
        """
        if min(self) <= 0 or int(self.connections) != self.connections:
            raise ConfigError("connections must be at least 1, and the timeouts more than 0 s")


class PostgresPool:
    """Connections to one server, opened when they are needed, for one event loop.

    Tables are found through `search_path`, and `vector` is in the schema `vectors_in`.
    """

    def __init__(self, url: str, *, where: str, search_path: str, vectors_in: str, limits: Limits) -> None:
        self._where = where
        self._wait_s = limits.connect_timeout_s
        self._vectors_in = vectors_in
        self._settings = _SETTINGS | {
            "search_path": search_path,
            "lock_timeout": f"{limits.busy_timeout_s * 1000:.0f}",
            "statement_timeout": f"{limits.statement_timeout_s * 1000:.0f}",
            "idle_in_transaction_session_timeout": f"{limits.statement_timeout_s * 1000:.0f}",
        }
        self._loop = asyncio.get_running_loop()
        self._calls = 0
        self._idle = asyncio.Event()
        self._pool = asyncpg.create_pool(
            url,
            min_size=0,
            max_size=limits.connections,
            init=self._prepare,
            reset=_nothing,  # a call leaves nothing behind in its session
            command_timeout=limits.statement_timeout_s + GRACE_S,
        )

    async def start(self) -> None:
        """Begin to serve; no connection is made yet."""
        await self._pool

    async def stop(self) -> None:
        """Close the connections; calls that were begun finish first."""
        try:
            while self._calls:
                self._idle.clear()
                await self._idle.wait()
            await self._pool.close()
        except BaseException:
            self._pool.terminate()
            raise

    async def read(self, work: Work[T]) -> T:
        """Do work that only reads; it may be done twice.

        Raises:
            StoreError: the server is away or failed.
        """
        return await self._repeat(work)

    async def snapshot(self, work: Work[T]) -> T:
        """Do the same, with one state of the tables for all that it reads."""
        begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
        return await self._repeat(lambda connection: self._in_transaction(connection, work, begin))

    async def write(self, work: Work[T]) -> T:
        """Do work in a transaction and commit it; it may be done several times, of which one counts.

        Raises:
            StoreError: the server is away or failed, and nothing was stored; or the message says that it may have been.
        """
        return await self._repeat(lambda connection: self._in_transaction(connection, work, "BEGIN"))

    async def _repeat(self, work: Work[T]) -> T:
        """Do work, and again where it is certain that it did not happen and likely that it can now."""
        self.check_loop()
        self._calls += 1
        try:
            for tries in count(1):
                try:
                    return await self._with_connection(work)
                except FAILURES as exc:
                    await self._before_another_try(exc, tries)
            raise AssertionError  # unreachable: each round returns, raises, or waits for the next
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()

    async def _before_another_try(self, exc: Exception, tries: int) -> None:
        """Return when the work should be done again, else raise what its failure means."""
        if is_lost(exc) and tries == 1:
            await self._pool.expire_connections()  # what ended one has mostly ended all
        elif is_conflict(exc) and tries < MAX_TRIES:
            await asyncio.sleep(random.random() * 0.005 * 2**tries)  # noqa: S311 - not a secret
        else:
            raise store_error(exc, self._where) from exc

    def check_loop(self) -> None:
        """Check that this is the event loop that the connections belong to.

        Raises:
            StoreError: it is another.
        """
        if asyncio.get_running_loop() is not self._loop:
            raise StoreError(f"the store {self._where} is used on another event loop than the one that opened it")

    async def _with_connection(self, work: Work[T]) -> T:
        try:
            connection = await self._pool.acquire(timeout=self._wait_s)
        except TimeoutError as exc:
            text = f"no connection was to be had within {self._wait_s:g} s; allow the store more, or check the server"
            raise StoreBusy(f"the store {self._where}: {text}") from exc
        try:
            return await work(connection)
        finally:
            await self._pool.release(connection)

    async def _in_transaction(self, connection: Connection, work: Work[T], begin: str) -> T:
        try:
            await connection.execute(begin)
            result = await work(connection)
        except BaseException:
            with anyio.CancelScope(shield=True), suppress(*FAILURES):
                await connection.execute("ROLLBACK")
            raise
        try:
            await connection.execute("COMMIT")
        except FAILURES as exc:
            if isinstance(exc, OSError) or is_lost(exc):
                raise StoreError(
                    f"the store {self._where}: the connection was lost during a commit, so nobody here knows whether "
                    "the change happened; look for it before you try again"
                ) from exc
            raise
        return result

    async def _prepare(self, connection: Connection) -> None:
        """Make a new session ready."""
        names, values = list(self._settings), list(self._settings.values())
        await connection.execute(
            "SELECT set_config(name, value, false) FROM unnest($1::text[], $2::text[]) AS s (name, value)",
            names,
            values,
        )
        await connection.set_type_codec(
            "vector", schema=self._vectors_in, encoder=bytes, decoder=bytes, format="binary"
        )


async def _nothing(_: Connection) -> None:
    """Stand for what a session needs between two calls."""
