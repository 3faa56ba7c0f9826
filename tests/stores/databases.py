"""Looks at a PostgreSQL database from the outside."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["database_name", "execute", "locked", "somebody_waits"]

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


async def somebody_waits(url: str) -> None:
    """Wait until somebody waits for a lock."""
    await execute(url, _SOMEBODY_WAITS)


_SOMEBODY_WAITS = """
DO $$ BEGIN
  WHILE NOT EXISTS (SELECT FROM pg_locks WHERE NOT granted) LOOP PERFORM pg_sleep(0.01); END LOOP;
END $$
"""
