"""What is special to the store in PostgreSQL: its URL, how it is opened, its schema and its upkeep."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from ollama_async_mem import stores
from ollama_async_mem.errors import ConfigError, MissingExtra, SchemaTooNew, StoreError
from ollama_async_mem.records import (
    Change,
)
from ollama_async_mem.stores import open_store
from ollama_async_mem.stores.postgres import PostgresStore
from stores.databases import database_name, execute
from stores.samples import (
    ALICE,
    about,
    add,
    everything,
    fact,
    learn,
    turn,
)

if TYPE_CHECKING:
    from stores.servers import Server

# The URL


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://bob:s3cret@db.example:5432/memories", "postgresql://bob@db.example:5432/memories"),
        ("postgres://db.example/m?password=s3cret&sslmode=require", "postgres://db.example/m"),
        ("postgresql://bob:s3%40cret@/m?host=/run/pg&port=5433", "postgresql://bob@/m?host=/run/pg&port=5433"),
        ("postgresql://bob:s3cret@[::1]:5432,other:5433/m", "postgresql://bob@[::1]:5432,other:5433/m"),
        ("postgresql://", "postgresql://"),
    ],
)
def test_the_location_has_no_secrets(url: str, shown: str) -> None:
    """A store says where it is without the password; nothing is connected before it is opened."""
    assert open_store(url).location == shown


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://bob:s3cr#et@host/db",
        "postgresql://bob:s3cr/et@host/db",
        "postgresql://bob:s3cr?et@host/db",
        "postgresql://bob:12/s3cret@host/db",
        "postgresql://host:s3cret/db",
        "postgresql://[s3cret/db",
        "postgresql://bob:s3cret@host:123456/db",
    ],
)
def test_a_url_that_cannot_be_read_is_not_repeated(url: str) -> None:
    """A password with signs that belong to URLs makes a ConfigError that says how to write them, without any of it."""
    with pytest.raises(ConfigError, match="%40") as caught:
        open_store(url)
    assert "s3cr" not in str(caught.value)
    assert "12" not in str(caught.value)


async def test_an_option_that_cannot_be_read_is_not_repeated(postgres_server: Server) -> None:
    """What asyncpg cannot read of a URL is a ConfigError without what it says, which may quote a secret."""
    with pytest.raises(ConfigError, match="option") as caught:
        await open_store(f"{postgres_server.url()}&sslmode=s3cret").__aenter__()
    assert "s3cret" not in f"{caught.value!r} {caught.value.__cause__!r}"


WRONG: list[dict[str, Any]] = [
    {"connections": 0},
    {"busy_timeout_s": 0},
    {"language": "x'; --"},
    {"schema": ""},
    {"partitions": 0},
    {"partitions": 129},
    {"partitions": True},
    {"partitions": 2.0},
]


@pytest.mark.parametrize("option", WRONG)
def test_wrong_options_are_refused(option: dict[str, Any]) -> None:
    """Numbers out of range, and names that are none, are a ConfigError."""
    with pytest.raises(ConfigError):
        PostgresStore("postgresql://host/db", **option)


@pytest.mark.parametrize("option", ["schema=", "language=x%27", "partitions=0", "partitions=many", "partitions="])
def test_wrong_options_in_a_url_are_refused(option: str) -> None:
    """As those of the constructor."""
    with pytest.raises(ConfigError, match=option.partition("=")[0]):
        open_store(f"postgresql://host/db?{option}")


async def test_options_of_the_store_are_read_from_its_url(database: str) -> None:
    """They name the schema and what is new in it; those of the server go on to it, and arguments come first."""
    url = f"{database}&schema=my%20own&application_name=mine&language=german"
    async with open_store(url) as store:
        assert store.location.endswith("&schema=my+own")
        await add(store, turn("Häuser"))
        assert await about(store, ALICE, "Haus") == ["Häuser"]
        sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mine'"
        assert (await execute(database, sql))[0][0] >= 1
    async with PostgresStore(database, schema="my own") as store:
        assert await everything(store, ALICE) == ["Häuser"]
    async with PostgresStore(url, schema="other") as store:
        assert await everything(store, ALICE) == []
    with pytest.raises(StoreError, match="nonsense"):
        await open_store(f"{database}&nonsense=1").__aenter__()


def test_without_asyncpg_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where asyncpg is not installed, MissingExtra says what to install."""
    monkeypatch.setattr(stores, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"ollama-async-mem\[postgres\]"):
        open_store("postgresql://host/db")


# Who may open it, and how


async def test_a_wrong_password_is_masked(postgres_server: Server, database: str) -> None:
    """A refused account is a StoreError that names it and not its password."""
    await execute(database, "DROP ROLE IF EXISTS bob", "CREATE ROLE bob LOGIN PASSWORD 'right'")
    with pytest.raises(StoreError, match=r"bob@127.0.0.1:.*the name and the password") as caught:
        await open_store(postgres_server.tcp_url("bob:s3cret", database_name(database))).__aenter__()
    assert "s3cret" not in f"{caught.value!r} {caught.value.__cause__!r}"


async def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    """A socket or host that nobody listens on is a StoreError that says what to check."""
    with pytest.raises(StoreError, match=r"cannot be reached.*the server runs"):
        await open_store(f"postgresql://postgres@/postgres?host={tmp_path}").__aenter__()


async def test_an_account_without_rights(postgres_server: Server, database: str) -> None:
    """Who may not make the extension or the schema is told what an administrator must do; then it works."""
    name = database_name(database)
    await execute(database, "DROP ROLE IF EXISTS eve", "CREATE ROLE eve LOGIN PASSWORD 'x'")
    url = postgres_server.tcp_url("eve:x", name)
    with pytest.raises(StoreError, match="CREATE EXTENSION vector"):
        await open_store(url).__aenter__()
    await execute(database, "CREATE EXTENSION vector")
    with pytest.raises(StoreError, match="grant it the rights"):
        await open_store(url).__aenter__()
    await execute(database, f"GRANT CREATE ON DATABASE {name} TO eve")
    async with open_store(url) as store:
        await add(store, turn("kept"))
        assert await everything(store, ALICE) == ["kept"]


async def test_a_server_without_pgvector(postgres_server: Server, database: str) -> None:
    """Where the extension is not installed, or is too old, the error says what to install."""
    if postgres_server.own_files is None:
        pytest.skip("the server's files belong to the package")
    control = postgres_server.own_files / "vector.control"
    text = await asyncio.to_thread(control.read_text)
    control.unlink()
    try:
        with pytest.raises(StoreError, match="needs the extension pgvector, which its server does not have"):
            await open_store(database).__aenter__()
    finally:
        await asyncio.to_thread(control.write_text, text)
    await execute(database, "CREATE EXTENSION vector", "UPDATE pg_extension SET extversion = '0.7.4'")
    with pytest.raises(StoreError, match=r"needs pgvector 0\.8 or newer, it has 0\.7\.4"):
        await open_store(database).__aenter__()


async def test_a_store_that_must_exist_is_not_made(database: str) -> None:
    """Without `create` a missing schema is a StoreError that names it, and nothing is made; one that is there opens."""
    with pytest.raises(StoreError, match=r"no store at .* in the schema 'ollama_async_mem'"):
        await open_store(database, create=False).__aenter__()
    assert await execute(database, "SELECT FROM pg_namespace WHERE nspname LIKE 'ollama%'") == []
    assert await execute(database, "SELECT FROM pg_extension WHERE extname = 'vector'") == []
    async with open_store(database) as store:
        await add(store, turn("kept"))
    async with open_store(database, create=False) as store:
        assert await everything(store, ALICE) == ["kept"]


async def test_stores_in_two_schemas_are_apart(database: str) -> None:
    """Each schema is a store of its own, whatever its name."""
    odd = """it's "a" ; DROP"""
    async with PostgresStore(database, schema="one") as one, PostgresStore(database, schema=odd) as two:
        await add(one, turn("first"))
        await add(two, turn("second"))
        assert await everything(one, ALICE) == ["first"]
        assert await everything(two, ALICE) == ["second"]


async def test_many_openers_make_the_tables_once(database: str) -> None:
    """Stores that open a new database at the same time wait for each other, and each step is applied once."""
    opened = [PostgresStore(database, connections=1) for _ in range(6)]
    await asyncio.gather(*(store.__aenter__() for store in opened))
    await asyncio.gather(*(add(store, turn(str(i))) for i, store in enumerate(opened)))
    assert len(await everything(opened[0], ALICE)) == 6
    await asyncio.gather(*(store.__aexit__() for store in opened))
    assert [row[0] for row in await execute(database, "SELECT version FROM ollama_async_mem.migrations")] == [1]


async def test_a_newer_schema_is_refused(database: str) -> None:
    """What a newer version made is not touched."""
    async with open_store(database):
        await execute(database, "INSERT INTO ollama_async_mem.migrations VALUES (99, 'later')")
    with pytest.raises(SchemaTooNew, match="has schema 99, this version knows 1: upgrade"):
        await open_store(database).__aenter__()


async def test_tables_of_others_are_not_touched(database: str) -> None:
    """A schema that another program uses is a StoreError, and stays as it was."""
    await execute(database, "CREATE SCHEMA mine", "CREATE TABLE mine.memories (x integer)")
    with pytest.raises(StoreError, match="not those of this library; name another schema"):
        await PostgresStore(database, schema="mine").__aenter__()
    assert await execute(database, "SELECT x FROM mine.memories") == []


async def test_a_database_of_another_encoding_is_refused(postgres_server: Server) -> None:
    """Text of all scripts needs UTF-8."""
    sql = "CREATE DATABASE latin ENCODING LATIN1 LOCALE 'C' TEMPLATE template0"
    await execute(postgres_server.url(), sql)
    with pytest.raises(StoreError, match="encoding UTF8"):
        await open_store(postgres_server.url("latin")).__aenter__()


@pytest.mark.parametrize(
    ("language", "text", "query", "is_found"),
    [
        ("english", "running", "run", True),
        ("simple", "running", "run", False),
        ("german", "Häuser", "Haus", True),
        ("simple", "the Running", "RUNNING", True),
    ],
)
async def test_words_match_by_the_stems_of_a_language(
    database: str, language: str, text: str, query: str, *, is_found: bool
) -> None:
    """The language is chosen when the tables are made, and stays."""
    async with PostgresStore(database, language=language) as store:
        await add(store, turn(text))
    async with PostgresStore(database) as store:
        assert await about(store, ALICE, query) == ([text] if is_found else [])


async def test_a_language_that_the_server_lacks_is_refused(database: str) -> None:
    """The server says that it has no such stems, and no half of a schema is left."""
    with pytest.raises(StoreError, match="klingon"):
        await PostgresStore(database, language="klingon").__aenter__()
    async with PostgresStore(database) as store:
        await add(store, turn("kept"))


# Upkeep


async def test_what_is_wrong_is_told(database: str) -> None:
    """`check` names damage that somebody did by hand, each kind in a sentence; a sound store has none."""
    said, known = turn("peanut"), fact("walnut")
    async with open_store(database) as store:
        await add(store, said, turn("other"), extract=True)
        await learn(store, known)
        await store.update(said.id, Change(metadata={"a": 1}))
        assert await store.check() == []
        damage = {
            "UPDATE memories SET embedding = embedding || '[1]' WHERE kind = 'fact'": "1 vectors are not of the dim",
            "UPDATE memories SET embedding = '[2,0,0,0,0,0,0,0]' WHERE kind = 'fact'": "1 vectors have not the length",
            "UPDATE memories SET words = 0, terms = '' WHERE kind = 'fact'": "1 memories are not in the keyword index",
            "UPDATE memories SET turn_ids = '{nope}' WHERE kind = 'fact'": "1 links are not from a fact to a turn",
            "UPDATE jobs SET turn_ids = '{nope}'": "1 jobs hold what is not a turn",
            "UPDATE events SET memory_id = 'nope'": "1 events are of no memory that is there or was deleted",
        }
        for sql, told in damage.items():
            await execute(database, "SET search_path = ollama_async_mem, public", sql)
            assert any(found.startswith(told) for found in await store.check()), sql
        assert len(await store.check()) == 5


async def test_a_backup_is_left_to_the_server(database: str, tmp_path: Path) -> None:
    """The message names the tool and the schema, and no password."""
    async with open_store(database) as store:
        with pytest.raises(StoreError, match="pg_dump --schema=ollama_async_mem"):
            await store.backup(str(tmp_path / "copy"))


# The server of these tests


def test_a_server_goes_when_the_tests_are_killed() -> None:
    """However the process that started a server ends, the server ends too, and its folder is removed."""
    code = "from stores.servers import Server; import time\n"
    code += "with Server() as s: print(s.pid, s.folder, flush=True); time.sleep(600)"
    with subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code], cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE, text=True
    ) as tests:
        assert tests.stdout
        pid, folder = tests.stdout.readline().split()
        server = psutil.Process(int(pid))
        assert Path(folder, "data").is_dir()
        tests.kill()
    server.wait(20)
    deadline = time.monotonic() + 20
    while Path(folder).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(folder).exists()
