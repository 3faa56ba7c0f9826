"""Looks at a PostgreSQL database from the outside."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

__all__ = ["Explaining", "database_name", "execute", "explained", "locked", "somebody_waits"]

TABLE = "ollama_async_mem.memories"


def database_name(url: str) -> str:
    """The name of the database that a URL names."""
    return url.partition("?")[0].rpartition("/")[2]


async def execute(url: str, *statements: str) -> list[Any]:
    """Run statements, each in a transaction of its own; returns the rows of the last."""
    connection = await asyncpg.connect(url)
    try:
        rows: list[Any] = []
        for statement in statements:
            rows = await connection.fetch(statement)
        return rows
    finally:
        await connection.close()


@asynccontextmanager
async def locked(url: str) -> AsyncIterator[None]:
    """Hold the memories, so that nobody else can even read them."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f"BEGIN; LOCK TABLE {TABLE}")
        yield
    finally:
        await connection.close()


class Explaining:
    """A connection in a transaction that first does each statement for its plan alone."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.plans = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def fetch(self, sql: str, *values: Any) -> Any:
        await self._explain(sql, values)
        return await self._connection.fetch(sql, *values)

    async def fetchrow(self, sql: str, *values: Any) -> Any:
        await self._explain(sql, values)
        return await self._connection.fetchrow(sql, *values)

    async def fetchval(self, sql: str, *values: Any) -> Any:
        await self._explain(sql, values)
        return await self._connection.fetchval(sql, *values)

    async def execute(self, sql: str, *values: Any) -> Any:
        await self._explain(sql, values)
        return await self._connection.execute(sql, *values)

    async def _explain(self, sql: str, values: Sequence[Any]) -> None:
        await self._connection.execute("SAVEPOINT before")
        self.plans += "".join(f"{row[0]}\n" for row in await self._connection.fetch(f"EXPLAIN ANALYZE {sql}", *values))
        await self._connection.execute("ROLLBACK TO before")

    @property
    def parts(self) -> set[int]:
        """The partitions that were looked into."""
        return {int(found[1]) for found in _LOOKED_INTO.finditer(self.plans)}


async def explained(store: Any, call: Callable[[Explaining], Awaitable[object]]) -> Explaining:
    """Do something with a connection of a store; what comes back knows how."""

    async def look(connection: Any) -> Explaining:
        explaining = Explaining(connection)
        await call(explaining)
        return explaining

    done: Explaining = await store._pool.write(look)
    return done


_LOOKED_INTO = re.compile(r"Scan.* on (?:memories|events)_(\d+) .*\(actual")


async def somebody_waits(url: str) -> None:
    """Wait until somebody waits for a lock."""
    await execute(url, _SOMEBODY_WAITS)


_SOMEBODY_WAITS = """
DO $$ BEGIN
  WHILE NOT EXISTS (SELECT FROM pg_locks WHERE NOT granted) LOOP PERFORM pg_sleep(0.01); END LOOP;
END $$
"""
