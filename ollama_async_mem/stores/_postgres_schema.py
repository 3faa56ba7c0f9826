"""The tables: how a schema is opened, and the numbered steps that bring it up to date.

Each step runs in one transaction together with its own record, and under a lock that all who open the database share.
A step that was released is never edited.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import asyncpg

from ollama_async_mem.errors import SchemaTooNew, StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ._postgres_pool import Connection

__all__ = ["LEAVES", "MAX_PARTITIONS", "MIGRATIONS", "VECTOR_INDEX", "Choices", "open_schema", "quoted"]

VECTOR_INDEX = "memories_by_vector"
MAX_PARTITIONS = 128  # each has its indexes, and a transaction that makes or drops them all locks each
LEAVES = """
  relkind = 'r' AND (oid = 'memories'::regclass OR oid IN (
    SELECT inhrelid FROM pg_inherits WHERE inhparent = 'memories'::regclass))
"""  # what pg_class has of the tables that hold the memories
_LOCK = 0x6F616D31  # "oam1"
_POSTGRESQL = (14,)
_PGVECTOR = (0, 8)  # the first that goes on scanning its index until a filter has enough


class Choices(NamedTuple):
    """What is chosen when the tables are made, and stays: how words are stemmed, and into how many parts users fall."""

    language: str = "english"
    partitions: int | None = None


async def open_schema(connection: Connection, *, schema: str, choices: Choices, create: bool, where: str) -> str:
    """Bring the tables up to date, and return the schema in which `vector` is; `create` makes what is missing.

    Raises:
        StoreError: there is no store and none is to be created, or the server lacks something that it needs.
        SchemaTooNew: a newer version of this library made it.
    """
    if await connection.fetchval("SHOW server_encoding") != "UTF8":
        raise StoreError(f"the store {where} must be a database with the encoding UTF8; create such a one")
    if connection.get_server_version() < _POSTGRESQL:
        raise StoreError(f"the store {where} needs PostgreSQL {_POSTGRESQL[0]} or newer; upgrade the server")
    await connection.execute("SELECT set_config('search_path', $1, false)", quoted(schema))
    if await _version(connection, where) == 0:
        if not create:
            raise StoreError(f"there is no store at {where} in the schema {schema!r}")
        await _make_room(connection, schema, where)
    vectors_in = await _require_pgvector(connection, where)
    await connection.execute("SELECT set_config('search_path', $1, false)", f"{quoted(schema)}, {quoted(vectors_in)}")
    await _migrate(connection, choices, where)
    return vectors_in


def quoted(name: str) -> str:
    """A name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


async def _migrate(connection: Connection, choices: Choices, where: str) -> None:
    """Apply the steps that are missing, each in a transaction of its own."""
    if await _version(connection, where) == len(MIGRATIONS):
        return  # without asking for the lock
    for number, step in enumerate(MIGRATIONS, 1):
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
            if await _version(connection, where) < number:  # another process may have been faster
                await step(connection, choices)
                await connection.execute(
                    "INSERT INTO migrations (version, name) VALUES ($1, $2)", number, step.__name__
                )


async def _make_room(connection: Connection, schema: str, where: str) -> None:
    """Make the extension and the schema with its record of steps, where they are missing."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        if await _pgvector(connection) is None:
            await _create_pgvector(connection, where)
        if not await connection.fetchval("SELECT to_regnamespace($1) IS NOT NULL", quoted(schema)):
            await connection.execute(f"CREATE SCHEMA {quoted(schema)}")
        await connection.execute("""
            CREATE TABLE IF NOT EXISTS migrations (
              version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now()
            )
        """)


async def _create_pgvector(connection: Connection, where: str) -> None:
    try:
        await connection.execute("CREATE EXTENSION vector SCHEMA public")
    except asyncpg.InsufficientPrivilegeError as exc:
        raise StoreError(
            f"the store {where} needs the extension pgvector, and this account may not make it: "
            "let an administrator run CREATE EXTENSION vector in this database"
        ) from exc
    except (asyncpg.FeatureNotSupportedError, asyncpg.UndefinedFileError) as exc:
        raise StoreError(
            f"the store {where} needs the extension pgvector, which its server does not have: "
            "install it there, for example as the package postgresql-18-pgvector"
        ) from exc


async def _pgvector(connection: Connection) -> tuple[str, str] | None:
    """The version of the extension and its schema."""
    row = await connection.fetchrow("""
        SELECT extversion, nspname FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace
        WHERE extname = 'vector'
    """)
    return row and tuple(row)


async def _require_pgvector(connection: Connection, where: str) -> str:
    version, schema = await _pgvector(connection) or ("none", "")
    if version == "none" or tuple(map(int, version.split(".")[:2])) < _PGVECTOR:
        raise StoreError(
            f"the store {where} needs pgvector 0.8 or newer, it has {version}: install it on the server, "
            "and let an administrator run ALTER EXTENSION vector UPDATE in this database"
        )
    return schema


async def _version(connection: Connection, where: str) -> int:
    """How many steps the schema has, 0 when it is new."""
    if not await connection.fetchval("SELECT to_regclass('migrations') IS NOT NULL"):
        return 0
    version: int = await connection.fetchval("SELECT coalesce(max(version), 0) FROM migrations")
    if version > len(MIGRATIONS):
        raise SchemaTooNew(
            f"the store {where} has schema {version}, this version knows {len(MIGRATIONS)}: upgrade ollama-async-mem"
        )
    return version


async def m001_initial(connection: Connection, choices: Choices) -> None:
    """Create everything of the first release."""
    parts = range(choices.partitions or 0)
    await connection.execute(_INITIAL.replace("/* whole */", "PARTITION BY HASH (user_id)" if parts else ""))
    for table in ("memories", "events"):
        for part in parts:
            await connection.execute(_PART.format(table=table, part=part, parts=len(parts)))
    for leaf in await connection.fetch(f"SELECT relname FROM pg_class WHERE {LEAVES}"):  # noqa: S608 - from above
        await connection.execute(f"ALTER TABLE {leaf[0]} SET (toast_tuple_target = 8160)")
    if choices.language != "simple":
        await connection.execute(_STEMS.format(language=choices.language))
    collations = await connection.fetch("SELECT collname FROM pg_collation WHERE collencoding IN (-1, 6)")
    found = {row[0] for row in collations}
    best = next(name for name in (*_UNICODE, "default") if name in found)
    await connection.execute(_LOWERED.format(collation=quoted(best)))


# Those that know the lower case of all scripts, the best first; not every server has all of them.
_UNICODE = ("pg_unicode_fast", "pg_c_utf8", "und-x-icu", "C.utf8")

# Every unique key has the user, so that the tables can be partitioned or distributed by it. That an id is unique for
# all users nevertheless, and whose it is, is in the table ids; ids of memories that were deleted stay there, as their
# events do, with those who had them before (`others`). Empty ids of users, agents and runs stand for none.
# Texts are compared by code point. What is indexed of a text is made by the client: nothing depends on the locale of
# the server. Vectors stay in the row, which the setting of the toaster brings about: a scan of a scope is five times
# faster than where they are stored apart. `metadata` is json, which keeps numbers as they were written.
_INITIAL = """
CREATE TABLE meta (key text PRIMARY KEY, value text COLLATE "C" NOT NULL);

CREATE TEXT SEARCH CONFIGURATION words (COPY = pg_catalog.simple);

CREATE TABLE ids (
  id text COLLATE "C" PRIMARY KEY, user_id text COLLATE "C" NOT NULL,
  is_there boolean NOT NULL DEFAULT TRUE,
  others text[] COLLATE "C"
);

CREATE TABLE memories (
  user_id text COLLATE "C" NOT NULL, agent_id text COLLATE "C" NOT NULL, run_id text COLLATE "C" NOT NULL,
  id text COLLATE "C" NOT NULL,
  seq bigserial,
  kind text COLLATE "C" NOT NULL CHECK (kind IN ('turn', 'fact')),
  role text COLLATE "C", speaker text COLLATE "C", text text COLLATE "C" NOT NULL, quote text COLLATE "C",
  turn_ids text[] COLLATE "C",  -- those that a fact was drawn from
  at timestamptz NOT NULL, at_offset_s integer NOT NULL, created_at timestamptz NOT NULL,
  valid_to timestamptz, expires_at timestamptz,
  metadata json, dates json,
  words integer NOT NULL, terms tsvector NOT NULL,
  embedding vector NOT NULL,
  PRIMARY KEY (user_id, id)
) /* whole */;

ALTER TABLE memories ALTER embedding SET STORAGE MAIN;

CREATE INDEX memories_by_seq ON memories (seq);
CREATE INDEX memories_by_time ON memories (user_id, at, id) INCLUDE (words);
CREATE INDEX memories_by_scope ON memories (user_id, agent_id, run_id, at, id);
CREATE INDEX memories_of_agents ON memories (agent_id, at, id) WHERE agent_id <> '';
CREATE INDEX memories_of_runs ON memories (run_id, at, id) WHERE run_id <> '';
CREATE INDEX memories_of_all ON memories (at, id);
CREATE INDEX memories_expiring ON memories (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX memories_by_turn ON memories USING gin (turn_ids) WHERE turn_ids IS NOT NULL;
CREATE INDEX memories_by_terms ON memories USING gin (terms);

CREATE TABLE events (
  user_id text COLLATE "C" NOT NULL,
  memory_id text COLLATE "C" NOT NULL,  -- also of one that is gone
  seq bigserial,
  kind text NOT NULL CHECK (kind IN ('updated', 'reinforced', 'superseded', 'deleted')),
  at timestamptz NOT NULL,
  added_at timestamptz,  -- of one that is deleted
  old text, new text, actor text, cause text, by_id text,
  PRIMARY KEY (user_id, memory_id, seq)
) /* whole */;

CREATE TABLE jobs (
  user_id text COLLATE "C" NOT NULL, agent_id text COLLATE "C" NOT NULL, run_id text COLLATE "C" NOT NULL,
  id text COLLATE "C" NOT NULL,
  seq bigserial,
  turn_ids text[] COLLATE "C" NOT NULL,
  state text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'dead')),
  claims integer NOT NULL DEFAULT 0, returned integer NOT NULL DEFAULT 0,
  lease_until timestamptz, next_try_at timestamptz,
  last_error text,
  prompt text,  -- in the place of the usual instructions
  PRIMARY KEY (user_id, id)
);

CREATE INDEX jobs_by_id ON jobs (id);
CREATE INDEX jobs_by_seq ON jobs (seq);
CREATE INDEX jobs_queued ON jobs (seq) WHERE state = 'queued';
CREATE INDEX jobs_by_scope ON jobs (user_id, agent_id, run_id, seq);
CREATE INDEX jobs_held ON jobs (lease_until) WHERE lease_until IS NOT NULL;
CREATE INDEX jobs_by_turn ON jobs USING gin (turn_ids);

CREATE FUNCTION instant_of(value text) RETURNS timestamptz LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
  part text[] := regexp_match(value, '^([0-9]{4})-([0-9]{2})-([0-9]{2})([T ]([01][0-9]|2[0-3]):([0-5][0-9])'
    '(:([0-5][0-9](\\.[0-9]{1,6})?))?(Z|([+-])(0[0-9]|1[0-5]):([0-5][0-9]))?)?$');
  found timestamptz;
  first CONSTANT timestamptz := '0001-01-01 00:00+00';  -- asyncpg sends the ends of datetime as infinity
  last CONSTANT timestamptz := '9999-12-31 23:59:59.999999+00';
BEGIN
  found := make_timestamp(part[1]::integer, part[2]::integer, part[3]::integer, coalesce(part[5], '0')::integer,
      coalesce(part[6], '0')::integer, coalesce(part[8], '0')::double precision) AT TIME ZONE 'UTC'
    - (coalesce(part[11], '+') || coalesce(part[12] || ':' || part[13], '00:00'))::interval;
  RETURN CASE WHEN found = first THEN '-infinity' WHEN found = last THEN 'infinity'
    WHEN found > first AND found < last THEN found END;
EXCEPTION WHEN datetime_field_overflow THEN
  RETURN NULL;
END $$
"""

_PART = """
CREATE TABLE {table}_{part} PARTITION OF {table} FOR VALUES WITH (MODULUS {parts}, REMAINDER {part})
"""

_STEMS = """
CREATE TEXT SEARCH DICTIONARY stems (TEMPLATE = pg_catalog.snowball, LANGUAGE = '{language}');
ALTER TEXT SEARCH CONFIGURATION words ALTER MAPPING REPLACE simple WITH stems
"""

_LOWERED = """
CREATE FUNCTION lowered(value text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN lower(value COLLATE {collation})
"""

MIGRATIONS: tuple[Callable[[Connection, Choices], Awaitable[None]], ...] = (m001_initial,)
